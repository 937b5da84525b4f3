"""What we rely on in pymodbus. It changes with every minor version; these tests say where."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
from pathlib import Path

import pymodbus
import pytest
from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient, AsyncModbusTlsClient
from pymodbus.client.mixin import ModbusClientMixin
from pymodbus.framer import FramerTLS
from pymodbus.pdu import DecodePDU

import protocols.modbus.driver as driver_module
from protocols.errors import DeviceError
from protocols.modbus.cycle import TRANSACTION_MAX
from protocols.modbus.driver import Link
from tests.unit.protocols.modbus.recording import closed_port, endpoint, until

READS = {"read_coils", "read_discrete_inputs", "read_holding_registers", "read_input_registers"}
IDENTITY = {"read_device_information", "report_device_id"}


def test_the_tested_version_is_the_installed_one() -> None:
    assert pymodbus.__version__.startswith("3.16."), "read the changes of pymodbus, then widen pyproject.toml and this"


def test_the_constructors_take_what_we_pass() -> None:
    common = {"framer", "timeout", "retries", "reconnect_delay", "trace_packet", "trace_connect"}
    assert common | {"host", "port"} <= set(inspect.signature(AsyncModbusTcpClient).parameters)
    assert common | {"port", "baudrate", "parity", "stopbits"} <= set(
        inspect.signature(AsyncModbusSerialClient).parameters)
    assert common - {"framer"} | {"host", "port", "sslctx"} <= set(inspect.signature(AsyncModbusTlsClient).parameters)
    assert {FramerType.SOCKET.value, FramerType.RTU.value} == {"socket", "rtu"}


def test_frames_over_tls_have_the_header_of_modbus_tcp() -> None:
    """They had none in earlier versions of pymodbus, which the specification does not allow."""
    framer = FramerTLS(DecodePDU(False))
    assert framer.encode(bytes.fromhex("03 0000 0001"), 17, 0x1234) == bytes.fromhex("1234 0000 0006 11 03 0000 0001")


@pytest.mark.parametrize("name", sorted(READS))
def test_reads_take_what_we_pass(name: str) -> None:
    parameters = inspect.signature(getattr(AsyncModbusTcpClient, name)).parameters
    assert list(parameters)[:2] == ["self", "address"]
    assert {"count", "device_id", "no_response_expected"} <= set(parameters)


@pytest.mark.parametrize("name", sorted(IDENTITY))
def test_identification_takes_what_we_pass(name: str) -> None:
    parameters = set(inspect.signature(getattr(AsyncModbusTcpClient, name)).parameters)
    wanted = {"device_id", "no_response_expected"}
    assert wanted <= parameters
    if name == "read_device_information":
        assert {"read_code", "object_id"} <= parameters


def test_the_driver_names_no_other_request_method_of_pymodbus() -> None:
    """Every request method of the client that the source mentions is one of the six that read."""
    methods = {name for name, member in inspect.getmembers(ModbusClientMixin, inspect.isfunction)
               if "no_response_expected" in inspect.signature(member).parameters} - {"execute"}
    assert methods > READS | IDENTITY
    tree = ast.parse(Path(driver_module.__file__).read_text(encoding="utf-8"))
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    named |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert named & methods == READS | IDENTITY
    assert "execute" not in named, "no request may be built by hand"


async def started(data: bytearray, answer: bytes = b"", port: int = 0) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1000):
            data.extend(chunk)
            if answer:
                writer.write(answer)
        writer.close()
    return await asyncio.start_server(serve, "127.0.0.1", port)


@pytest.mark.parametrize("protocol", ["modbus_tcp", "modbus_rtu_over_tcp"])
async def test_no_request_that_writes_reaches_the_wire(protocol: str) -> None:
    """Call every request method of the connected client with plausible arguments; the wire sees reads only."""
    on_wire = bytearray()
    server = await started(on_wire)
    async with server:
        link = Link(endpoint(server.sockets[0].getsockname()[1], protocol=protocol), lambda: 0)
        await link.open()
        client = link._client
        assert client is not None
        arguments: dict[str, tuple[object, ...]] = {
            "write_coil": (0, True), "write_register": (0, 1), "write_coils": (0, [True]), "write_registers": (0, [1]),
            "mask_write_register": (), "readwrite_registers": (), "write_file_record": ([],), "read_file_record": ([],),
            "read_fifo_queue": (), "diag_query_data": (b"ab",), "diag_restart_communication": (True,),
            "diag_getclear_modbus_response": ()}
        refused = set()
        for name, member in inspect.getmembers(type(client), inspect.isfunction):
            parameters = inspect.signature(member).parameters
            if "no_response_expected" not in parameters or name == "execute" or name in READS | IDENTITY:
                continue
            more = {"read_count": 1, "values": [1]} if name == "readwrite_registers" else {}
            with pytest.raises(DeviceError) as caught:
                await getattr(client, name)(*arguments.get(name, ()), device_id=1, no_response_expected=True, **more)
            assert caught.value.problems[0].code == "modbus.write_refused"
            refused.add(name)
        assert {"write_coil", "write_register", "write_coils", "write_registers", "mask_write_register",
                "readwrite_registers", "write_file_record"} <= refused
        await client.read_coils(0, count=1, device_id=1, no_response_expected=True)  # flushes whatever was written
        await until(lambda: on_wire)
        link.close()
    functions = {on_wire[1] if protocol != "modbus_tcp" else on_wire[7]}
    assert len(on_wire) == (12 if protocol == "modbus_tcp" else 8), on_wire.hex()
    assert functions == {1}


async def test_the_hook_keeps_all_bytes_from_pymodbus_parser(caplog: pytest.LogCaptureFixture) -> None:
    """trace_packet sees raw bytes both ways, before pymodbus; what it returns is all that pymodbus parses."""
    seen: list[tuple[bool, bytes]] = []

    def hook(sending: bool, data: bytes) -> bytes:
        seen.append((sending, data))
        return data if sending else b""

    on_wire = bytearray()
    server = await started(on_wire, answer=bytes.fromhex("0001 0000 0003 01 ff 00"))
    async with server:
        client = AsyncModbusTcpClient("127.0.0.1", port=server.sockets[0].getsockname()[1], timeout=30,
                                      retries=0, reconnect_delay=0, trace_packet=hook)
        assert await client.connect()
        answered = await client.read_coils(5, count=9, device_id=3, no_response_expected=True)
        assert answered is None, "no_response_expected returns at once"
        await until(lambda: len(seen) == 2)
        client.close()
    assert seen == [(True, bytes.fromhex("0001 0000 0006 03 01 0005 0009")),
                    (False, bytes.fromhex("0001 0000 0003 01 ff 00"))]
    assert on_wire == seen[0][1]
    assert caplog.records == []


async def test_a_tap_on_the_transport_gets_every_byte_and_pymodbus_still_hears_of_the_end() -> None:
    """What bursts rely on: `ctx` is the protocol of `ctx.transport`, and numbers requests by `next_tid`."""
    on_wire, states, seen = bytearray(), list[bool](), list[bytes]()

    class Ear(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            seen.append(data)

        def connection_lost(self, exc: Exception | None) -> None:
            client.ctx.connection_lost(exc)

    server = await started(on_wire, answer=b"answer")
    async with server:
        client = AsyncModbusTcpClient("127.0.0.1", port=server.sockets[0].getsockname()[1], timeout=30,
                                      retries=0, reconnect_delay=0, trace_connect=states.append)
        assert await client.connect()
        transport = client.ctx.transport
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_protocol() is client.ctx
        transport.set_protocol(Ear())
        client.ctx.next_tid = 41
        await client.read_coils(5, count=9, device_id=3, no_response_expected=True)
        await until(lambda: seen == [b"answer"])
        assert on_wire[:2] == (42).to_bytes(2, "big")
        assert client.ctx.getNextTID() == 43
        client.ctx.next_tid = TRANSACTION_MAX
        assert client.ctx.getNextTID() == 1
        transport.abort()
        await until(lambda: states == [True, False])
        assert not client.connected


async def test_pymodbus_neither_reconnects_nor_tells_but_through_the_hook() -> None:
    states: list[bool] = []
    with closed_port() as port:
        client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=30, retries=0, reconnect_delay=0,
                                      trace_connect=states.append)
        async with await started(bytearray(), port=port) as server:
            assert await client.connect()
            assert client.connected
            server.close_clients() if hasattr(server, "close_clients") else client.ctx.transport.abort()
            await until(lambda: not client.connected)
        assert states == [True, False]
        assert client.ctx.reconnect_task is None
        assert not await client.connect(), "a refused connect is False, not an exception"


def test_pymodbus_logs_no_frames() -> None:
    assert logging.getLogger("pymodbus.logging").getEffectiveLevel() == logging.CRITICAL
