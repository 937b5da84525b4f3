"""The driver against pymodbus's own server, in this process."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import numpy as np
import pytest
from pymodbus import FramerType
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.constants import ExcCodes
from pymodbus.pdu import ExceptionResponse, ModbusPDU
from pymodbus.pdu.mei_message import ReadDeviceInformationResponse
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from protocols.errors import ConfigError, DeviceError
from protocols.modbus import schedule
from protocols.modbus.driver import Driver
from protocols.samples import PollBatch
from tests.unit.protocols.modbus.recording import (
    Recording,
    closed_port,
    endpoint,
    point,
    running,
    silent,
    steady,
    until,
)

READ_ONLY = {1, 2, 3, 4, 17, 43}


def words(raw: bytes) -> list[int]:
    return [int.from_bytes(raw[i:i + 2], "big") for i in range(0, len(raw), 2)]


def device(unit: int, registers: list[int], *, at: int = 0, action: object = None) -> SimDevice:
    bits = [SimData(0, values=[True, False, True, True] + [False] * 12, datatype=DataType.BITS)]
    table = [SimData(at, values=registers, datatype=DataType.REGISTERS)]
    return SimDevice(unit, simdata=(bits, bits, table, table), action=action)  # type: ignore[arg-type] # a coroutine


@asynccontextmanager
async def serving(*devices: SimDevice, **more: object) -> AsyncIterator[int]:
    """Run pymodbus's server on a free port of loopback. It is asked for nothing but reads. found: takes the server."""
    found = more.pop("found", [])
    asked: set[int] = set()
    trace = more.pop("trace_pdu", None)

    def note(sending: bool, pdu: ModbusPDU) -> ModbusPDU:
        if not sending:
            asked.add(pdu.function_code)
        return trace(sending, pdu) if callable(trace) else pdu

    server = ModbusTcpServer(list(devices), address=("127.0.0.1", int(str(more.pop("port", 0)))), trace_pdu=note,
                             **more)  # type: ignore[arg-type] # by name
    assert isinstance(found, list)
    found.append(server)
    await server.serve_forever(background=True)
    try:
        yield server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined] # an asyncio.Server
    finally:
        await server.shutdown()
    assert asked <= READ_ONLY, asked


def silence(*units: int) -> Callable[[bool, bytes], bytes]:
    """Make a server deaf to these units, as with dead devices behind a gateway; pymodbus itself would answer 4."""
    return lambda sending, data: b"" if not sending and len(data) > 6 and data[6] in units else data


NUMBERS = words(struct.pack(">fiHhd", 21.5, -7, 65535, -1, 2.25) + b"PUMP 7\0\0")


@pytest.mark.parametrize(("protocol", "framer"), [
    ("modbus_tcp", FramerType.SOCKET), ("modbus_rtu_over_tcp", FramerType.RTU)])
async def test_values_of_all_tables_arrive(protocol: str, framer: FramerType) -> None:
    sink = Recording()
    points = [point(0, "1/holding/0", "float32"), point(1, "1/holding/2", "int32"), point(2, "1/holding/4", "uint16"),
              point(3, "1/input/5", "int16"), point(4, "1/holding/6", "float64"), point(5, "1/holding/10:4", "string"),
              point(6, "1/coil/0"), point(7, "1/coil/1"), point(8, "1/discrete/3"), point(9, "1/holding/4.15"),
              point(10, "2/holding/0", "float32", device=1, scale=10.0, offset=1.0)]
    async with serving(device(1, NUMBERS), device(2, NUMBERS), framer=framer) as port:
        ticks = iter(range(10**18, 10**19))
        driver = Driver(endpoint(port, protocol=protocol), points, sink, clock_ns=lambda: next(ticks))
        assert len(driver.plan()) == 5
        async with running(driver):
            await until(lambda: len(sink.values) == 11 and all(len(v) > 3 for v in sink.values.values()))
    assert {i: set(v) for i, v in sink.values.items() if i != 5} == {
        0: {21.5}, 1: {-7.0}, 2: {65535.0}, 3: {-1.0}, 4: {2.25}, 6: {1.0}, 7: {0.0}, 8: {1.0}, 9: {1.0}, 10: {216.0}}
    assert set(sink.texts[5]) == {"PUMP 7"}
    assert sink.events == []
    assert set(sink.replies) == {0, 1}
    assert all(not batch.value.flags.writeable for batch in sink.batches)
    assert min(sink.times) >= 10**18
    times: dict[tuple[int, ...], set[int]] = {}  # slots that were received together -> when
    for batch in sink.batches:
        rows = batch.samples() if isinstance(batch, PollBatch) else batch
        for at in np.unique(rows.received_ns).tolist():
            times.setdefault(tuple(sorted(rows.point_index[rows.received_ns == at].tolist())), set()).add(at)
    assert set(times) == {(0, 1, 2, 4, 9), (3,), (6, 7), (8,), (10,), (5,)}, "one time for each reply"
    assert times[(5,)] <= times[(0, 1, 2, 4, 9)], "a text has the time of the reply it came in"


async def test_blocks_are_made_once_and_shared() -> None:
    sink = Recording()
    async with serving(device(1, NUMBERS)) as port:
        async with running(Driver(endpoint(port), [point(0, "1/holding/0", "float32")], sink)):
            await until(lambda: len(sink.batches) > 5)
    assert len({id(b.block) for b in sink.batches if isinstance(b, PollBatch)}) == 1


async def test_illegal_addresses_cost_only_their_points() -> None:
    """The device has 0..9 and 20..29; the plan bridges the gap, and asks for 29..31 as well."""
    sink = Recording()
    table = [SimData(0, values=[7] * 10, datatype=DataType.REGISTERS),
             SimData(20, values=[9] * 10, datatype=DataType.REGISTERS)]
    bits = [SimData(0, values=[True] * 16, datatype=DataType.BITS)]
    points = [point(i, f"1/holding/{a}", "uint16") for i, a in enumerate([*range(10), *range(20, 32)])]
    async with serving(SimDevice(1, simdata=(bits, bits, table, table))) as port:
        driver = Driver(endpoint(port, max_gap=16), points, sink)
        assert len(driver.plan()) == 1
        async with running(driver):
            await until(lambda: len(sink.values) == 20, what="all legal points")
            await until(lambda: sum(int(args["points"]) for args in refused(sink)) >= 2, what="both illegal points")
    assert set(sink.values) == set(range(20))
    assert sum(int(args["points"]) for args in refused(sink)) == 2
    assert refused(sink)[0]["exception"] == "2"


def refused(sink: Recording) -> list[dict[str, str]]:
    return [args for code, _, args in sink.events if code == "modbus.points_refused"]


async def test_busy_is_told_once_and_counts_as_connected() -> None:
    async def busy(*_: object) -> ExcCodes:
        return ExcCodes.DEVICE_BUSY

    sink = Recording()
    async with serving(device(1, NUMBERS, action=busy)) as port:
        async with running(Driver(endpoint(port), [point(0, "1/holding/0", "float32")], sink)):
            await until(lambda: sink.replies.get(0, 0) > 10)
    assert sink.codes() == ["modbus.exception"]
    assert sink.batches == []


async def test_a_gateway_exception_connects_nobody() -> None:
    """0x0B: the gateway speaks, the device behind it does not."""
    def no_answer(sending: bool, pdu: ModbusPDU) -> ModbusPDU:
        if sending and pdu.dev_id == 9:
            return ExceptionResponse(pdu.function_code, ExcCodes.GATEWAY_NO_RESPONSE, device_id=9,
                                     transaction=pdu.transaction_id)
        return pdu

    sink = Recording()
    points = [point(0, "1/holding/0", "float32"), point(1, "9/holding/0", "float32", device=1)]
    async with serving(device(1, NUMBERS), device(9, NUMBERS), trace_pdu=no_answer) as port:
        async with running(Driver(endpoint(port), points, sink)):
            await until(lambda: "modbus.unit_silent" in sink.codes() and sink.replies.get(0, 0) > 10)
    assert set(sink.replies) == {0}
    assert sink.codes() == ["modbus.gateway_exception", "modbus.unit_silent"]


async def test_it_starts_before_the_server_and_survives_its_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "RECONNECT_FIRST_S", 0.02)
    monkeypatch.setattr(schedule, "RECONNECT_MAX_S", 0.1)
    sink = Recording()
    with closed_port() as port:
        async with running(Driver(endpoint(port), [point(0, "1/holding/0", "float32")], sink)):
            await until(lambda: "modbus.lost" in sink.codes())
            for turn in (1, 2, 3):
                had = len(sink.batches)
                async with serving(device(1, NUMBERS), port=port):
                    await until(lambda had=had: len(sink.batches) > had + 3)  # type: ignore[misc] # the default binds it
                # It may be lost before the server is wholly gone.
                await until(lambda turn=turn: sink.codes().count("modbus.lost") > turn)  # type: ignore[misc] # as above
    codes = [c for c in sink.codes() if c in ("modbus.lost", "modbus.back")]
    assert codes == ["modbus.lost", "modbus.back"] * 3 + ["modbus.lost"], "each told once, in turn"
    assert sink.codes()[0] == "modbus.refused"


async def test_a_silent_unit_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    steady()
    monkeypatch.setattr(schedule, "SILENT_FIRST_S", 1.0)
    sink = Recording()
    points = [point(u, f"{u}/holding/0", "float32", device=u) for u in range(1, 7)]
    async with serving(*(device(u, NUMBERS) for u in range(1, 7)), trace_packet=silence(4)) as port:
        async with running(Driver(endpoint(port, poll_s=0.05, timeout_s=0.1), points, sink)):
            await until(lambda: "modbus.unit_silent" in sink.codes())
            before = dict(sink.replies)
            await asyncio.sleep(1.0)
            gained = [sink.replies[u] - before.get(u, 0) for u in (1, 2, 3, 5, 6)]
    assert 4 not in sink.replies
    assert min(gained) >= 10, f"of 20 polls in a second: {gained}"
    assert sink.codes()[:2] == ["modbus.timeout", "modbus.unit_silent"]


async def test_a_silent_unit_that_comes_back_is_told_and_polled_fully(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "SILENT_FIRST_S", 0.05)
    monkeypatch.setattr(schedule, "RECONNECT_FIRST_S", 0.02)
    sink, mute = Recording(), [True]

    def trace(sending: bool, pdu: ModbusPDU) -> ModbusPDU:
        if sending and mute[0]:
            pdu.dev_id = 77  # nobody asked 77: as good as silence, and it must not count for unit 1
        return pdu

    points = [point(0, "1/holding/0", "float32"), point(1, "1/coil/0")]
    async with serving(device(1, NUMBERS), trace_pdu=trace) as port:
        async with running(Driver(endpoint(port), points, sink)):
            await until(lambda: "modbus.unit_silent" in sink.codes())
            assert sink.batches == []
            assert sink.replies == {}
            mute[0] = False
            await until(lambda: len(sink.values) == 2 and "modbus.unit_back" in sink.codes())
    assert "modbus.mismatch" in sink.codes()
    assert [a["field"] for c, _, a in sink.events if c == "modbus.mismatch"] == ["unit"]


async def test_digits_that_are_none_are_discarded_by_reason() -> None:
    sink = Recording()
    points = [point(0, "1/holding/0", "bcd16"), point(1, "1/holding/1", "bcd16")]
    async with serving(device(1, [0x00FF, 0x0042])) as port:
        async with running(Driver(endpoint(port), points, sink)):
            await until(lambda: len(sink.values.get(1, [])) >= 3)
    assert set(sink.values) == {1}
    assert sink.discards == {"undecodable": len(sink.batches)}


async def test_cancelling_while_connecting_or_waiting_ends_at_once() -> None:
    asked = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            asked.set()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        sink = Recording()
        async with running(Driver(endpoint(port, timeout_s=60), [point(0, "1/coil/0")], sink)) as task:
            await asyncio.wait_for(asked.wait(), 30)
            assert not task.done()
        assert task.cancelled()


async def test_a_driver_without_points_waits() -> None:
    async with running(Driver(endpoint(1), [], Recording())) as task:
        await asyncio.sleep(0)
        assert not task.done()


def nameplates(plates: dict[int, dict[int, bytes]]) -> Callable[[bool, ModbusPDU], ModbusPDU]:
    def trace(sending: bool, pdu: ModbusPDU) -> ModbusPDU:
        if sending and isinstance(pdu, ReadDeviceInformationResponse):
            if pdu.dev_id in plates:
                pdu.information = dict(plates[pdu.dev_id])
            else:
                tid, unit = pdu.transaction_id, pdu.dev_id
                pdu = ExceptionResponse(0x2B, ExcCodes.ILLEGAL_FUNCTION, device_id=unit, transaction=tid)
        return pdu
    return trace


async def test_identify_reads_each_unit_its_own_nameplate() -> None:
    plates = {1: {0: b"Huichuan", 1: b"MD500", 2: b"V1.2", 5: "水泵变频器".encode()}, 2: {0: b"Inovance"}}
    big = {i: bytes([65 + i % 26]) * 60 for i in (0, 1, 2, 3, 4, 5, 6, 128)}  # needs several pages
    async with serving(device(1, NUMBERS), device(2, NUMBERS), device(3, NUMBERS), device(4, NUMBERS),
                       trace_pdu=nameplates(plates | {3: big})) as port:
        sink = Recording()
        driver = Driver(endpoint(port), [point(0, "1/holding/0", "float32")], sink)
        assert await driver.identify(1) == {"vendor_name": "Huichuan", "product_code": "MD500",
                                            "major_minor_revision": "V1.2", "model_name": "水泵变频器"}
        assert await driver.identify(2) == {"vendor_name": "Inovance"}
        assert (await driver.identify(3))["vendor_name"] == "A" * 60
        # What pymodbus says there is one identity a process, which other servers of this run may have changed.
        fallback = await driver.identify(4)
        assert fallback.keys() == {"server_id"} and fallback["server_id"], "no 43/14: function 17 says who it is"
        async with running(driver):
            await until(lambda: len(sink.batches) > 2)
            assert (await driver.identify(2))["vendor_name"] == "Inovance"


async def test_check_names_pass_and_cause_for_each_device() -> None:
    async def broken(*_: object) -> ExcCodes:
        return ExcCodes.DEVICE_FAILURE

    points = [point(0, "1/holding/0", "float32", device=0), point(1, "1/coil/0", device=0),
              point(2, "2/holding/0", "uint16", device=1), point(3, "2/holding/500", "uint16", device=1),
              point(4, "2/holding/1", "uint16", device=1),
              point(5, "3/holding/0", "uint16", device=2), point(6, "8/holding/0", "uint16", device=3),
              point(7, "8/holding/1", "uint16", device=4)]
    sink = Recording()
    async with serving(device(1, NUMBERS), device(2, NUMBERS), device(3, NUMBERS, action=broken),
                       trace_pdu=nameplates({1: {0: b"Huichuan", 1: b"MD500"}}), trace_packet=silence(8)) as port:
        results = await Driver(endpoint(port, units=silent(8), max_gap=2000), points, sink).check()
    assert [(r.device_index, r.ok, r.code) for r in results] == [
        (0, True, "modbus.check_ok"), (1, False, "modbus.check_refused"), (2, False, "modbus.exception"),
        (3, False, "modbus.timeout"), (4, False, "modbus.timeout")]
    assert dict(results[0].args) == {"identity": "Huichuan MD500", "points": "2", "reads": "2"}
    assert dict(results[1].args) == {"points": "1", "exception": "2", "named": "2/holding/500/uint16"}
    assert dict(results[2].args)["exception"] == "4"
    assert sink.batches == []
    assert sink.events == []


async def test_check_tells_wrong_unit_refused_and_unknown_host() -> None:
    def wrong(sending: bool, pdu: ModbusPDU) -> ModbusPDU:
        if sending:
            pdu.dev_id = 5
        return pdu

    points = [point(0, "1/holding/0", "uint16")]
    async with serving(device(1, NUMBERS), trace_pdu=wrong) as port:
        [result] = await Driver(endpoint(port), points, Recording()).check()
        assert (result.ok, result.code, dict(result.args)["field"]) == (False, "modbus.mismatch", "unit")
    with closed_port() as port:
        [result] = await Driver(endpoint(port), points, Recording()).check()
    assert (result.ok, result.code) == (False, "modbus.refused")
    [result] = await Driver(endpoint(1, endpoint="tcp://no-such-host.invalid:502"), points, Recording()).check()
    assert (result.ok, result.code) == (False, "modbus.unknown_host")


async def test_a_name_that_nobody_can_look_up_ends_nothing() -> None:
    points, sink = [point(0, "1/holding/0", "uint16")], Recording()
    driver = Driver(endpoint(1, endpoint=f"tcp://{'a' * 70}:502"), points, sink)
    [result] = await driver.check()
    assert (result.ok, result.code) == (False, "modbus.unreachable")
    async with running(driver) as task:
        await until(lambda: "modbus.lost" in sink.codes())
        assert not task.done()


async def test_a_connection_that_is_gone_is_an_error_not_a_hang() -> None:
    with closed_port() as port, pytest.raises(DeviceError) as caught:
        await Driver(endpoint(port), [], Recording()).identify(1)
    assert caught.value.problems[0].code == "modbus.refused"


def test_a_serial_line_without_pyserial_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        Driver(endpoint(0, protocol="modbus_rtu", endpoint="serial:///dev/ttyS0"), [], Recording())
    assert caught.value.problems[0].code == "modbus.needs_pyserial"


async def test_a_cancellation_that_meets_the_connection_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """wait_for of Python 3.11 returns the connection instead; the driver then polled on, and `run` never ended."""
    connecting = asyncio.Event()

    async def swallow(self: AsyncModbusTcpClient) -> bool:
        connecting.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return True

    monkeypatch.setattr(AsyncModbusTcpClient, "connect", swallow)
    sink = Recording()
    task = asyncio.create_task(Driver(endpoint(1), [point(0, "1/coil/0")], sink).run())
    await asyncio.wait_for(connecting.wait(), 30)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=20)
    if not done:
        task.cancel()
    assert done and task.cancelled()
