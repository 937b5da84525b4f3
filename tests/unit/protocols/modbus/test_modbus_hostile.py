"""A server that answers late, twice, cut, for others: no value may ever land at the wrong point or the wrong moment."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from contextlib import suppress

import pytest
from pymodbus.exceptions import ModbusIOException
from pymodbus.pdu import ModbusPDU

from protocols.errors import DeviceError
from protocols.modbus import driver, schedule
from protocols.modbus.driver import Driver, Link
from protocols.modbus.frames import Reply
from protocols.modbus.plan import make_requests
from tests.unit.protocols.modbus.hostile import Hostile, attack
from tests.unit.protocols.modbus.recording import Recording, endpoint, point, running, silent, steady, until


# One unit alone over RTU: there a late answer to an equal request can be told from nothing but its time.
@pytest.mark.parametrize(("protocol", "seed", "requests", "units", "path"), [
    ("modbus_tcp", 1, 900, (1, 2, 3, 4), "burst"), ("modbus_tcp", 2, 300, (1,), "single"),
    ("modbus_tcp", 5, 300, (1, 2), "three in flight"),
    ("modbus_rtu_over_tcp", 3, 400, (1, 2, 3, 4), "single"), ("modbus_rtu_over_tcp", 4, 250, (1,), "single")])
async def test_no_value_is_ever_misattributed(
    protocol: str, seed: int, requests: int, units: tuple[int, ...], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`benchmarks/modbus_hostile.py` does the same 100 000 times."""
    steady()
    if path == "single":
        monkeypatch.setattr(driver, "SWIFT", frozenset())
    for name, value in (("SILENT_FIRST_S", 0.005), ("SILENT_MAX_S", 0.01), ("RECONNECT_FIRST_S", 0.001),
                        ("RECONNECT_MAX_S", 0.005)):
        monkeypatch.setattr(schedule, name, value)
    hostile = Hostile(seed, is_rtu=protocol != "modbus_tcp", timeout_s=0.06)
    found = await attack(protocol, hostile, requests=requests, units=units,
                         in_flight=3 if path == "three in flight" else 1)
    assert found.wrong == []
    assert found.loop_errors == []
    assert hostile.functions == {3}
    assert min(hostile.played[trick] for trick in hostile.tricks) >= 2, hostile.played
    arrived = sum(len(numbers) for slot, numbers in found.sink.values.items() if slot % 11 == 0)  # one a reply
    assert arrived >= (0.5 if path != "three in flight" else 0.2) * hostile.played["good"], "the good replies do arrive"
    assert arrived <= requests + 100
    assert found.checked >= (5 if path != "three in flight" else 2) * requests / 2
    assert set(found.sink.replies) == set(units)


@pytest.mark.parametrize("protocol", ["modbus_tcp", "modbus_rtu_over_tcp"])
async def test_bytes_nobody_asked_for_end_the_connection(protocol: str) -> None:
    hostile, later = Hostile(0, is_rtu=protocol != "modbus_tcp"), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = await reader.readexactly(8 if hostile.is_rtu else 12)
        good = hostile.frame(int.from_bytes(raw[:2], "big"), 1, b"\x01\x01\x01")
        writer.write(good)
        await later.wait()
        writer.write(good)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        link = Link(endpoint(server.sockets[0].getsockname()[1], protocol=protocol), lambda: 7)
        await link.open()
        [request] = make_requests([point(0, "1/coil/0")], endpoint(1))
        assert await link.read(request) == (Reply(b"\x01"), 7)
        assert link.is_open
        later.set()
        await until(lambda: not link.is_open)
        link.close()


async def test_a_late_answer_that_a_serial_gateway_hands_to_the_next_connection_is_not_taken() -> None:
    """RTU frames say nothing about which request they answer: the line is listened to until it is silent again."""
    steady()
    hostile, timeout_s, asked = Hostile(0, is_rtu=True), 0.2, list[float]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hostile.newest = writer
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readexactly(8)
                asked.append(asyncio.get_running_loop().time())
                number = len(asked)
                if number == 2:
                    asyncio.get_running_loop().call_later(1.5 * timeout_s, late)
                    continue
                if number == 3 and asked[2] - asked[1] < 1.6 * timeout_s:  # the late answer is due: it comes first
                    await asyncio.sleep(timeout_s)
                writer.write(hostile.frame(0, 1, b"\x03\x02" + number.to_bytes(2, "big")))

    def late() -> None:
        assert hostile.newest is not None
        hostile.newest.write(hostile.frame(0, 1, b"\x03\x02" + (2).to_bytes(2, "big")))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        at = endpoint(server.sockets[0].getsockname()[1], protocol="modbus_rtu_over_tcp", timeout_s=timeout_s)
        sink = Recording()
        async with running(Driver(at, [point(0, "1/holding/0", "uint16")], sink)):
            await until(lambda: len(sink.values.get(0, [])) >= 3)
    assert 2.0 not in sink.values[0], "the answer to a request that nobody waits for any more"
    assert sink.values[0][:2] == [1.0, 3.0]
    assert asked[2] - asked[1] >= 2 * timeout_s


async def test_a_line_that_never_falls_silent_is_told() -> None:
    steady()
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"\x07")
                await writer.drain()
                await asyncio.sleep(0.005)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        at = endpoint(server.sockets[0].getsockname()[1], protocol="modbus_rtu_over_tcp", timeout_s=0.05)
        link = Link(at, lambda: 7)
        [request] = make_requests([point(0, "1/coil/0")], at)
        await link.open()
        with pytest.raises(DeviceError):
            await link.read(request)
        with pytest.raises(DeviceError) as caught:
            await link.open()
        assert caught.value.problems[0].code == "modbus.babble"
        assert not link.is_open


async def test_a_peer_that_accepts_and_closes_is_not_hammered() -> None:
    """pymodbus#1794: no busy loop. Waits 0, then 0.4 to 0.5 s, then twice that."""
    steady()
    accepted = [0]

    async def slam(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted[0] += 1
        writer.close()

    server = await asyncio.start_server(slam, "127.0.0.1", 0)
    async with server:
        sink = Recording()
        port = server.sockets[0].getsockname()[1]
        async with running(Driver(endpoint(port), [point(0, "1/coil/0")], sink)):
            await until(lambda: accepted[0] >= 2)
            await asyncio.sleep(0.3)
    assert 2 <= accepted[0] <= 3
    assert sink.batches == []


async def test_a_connection_that_is_closed_while_it_is_made_is_lost_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """pymodbus forgot a loss that came before its connect returned: a request was sent to nobody, and waited for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = Link(endpoint(server.getsockname()[1], timeout_s=60.0), lambda: 7)
        told = link._connected

        def slam(is_up: bool) -> None:
            told(is_up)
            if is_up:
                server.accept()[0].close()

        monkeypatch.setattr(link, "_connected", slam)
        with pytest.raises(DeviceError) as caught:
            await link.open()
    assert caught.value.problems[0].code == "modbus.closed"
    assert not link.is_open


@pytest.mark.parametrize("protocol", ["modbus_tcp", "modbus_rtu_over_tcp"])
async def test_an_answer_that_came_while_the_process_stood_still_is_taken(protocol: str) -> None:
    """When it wakes up, the answer is there and the timeout is over: the answer was thrown away, and the connection."""
    hostile = Hostile(0, is_rtu=protocol != "modbus_tcp")
    with socket.create_server(("127.0.0.1", 0)) as server:
        at = endpoint(server.getsockname()[1], protocol=protocol, units=silent(1, timeout_s=0.05))
        link = Link(at, lambda: 7)
        [request] = make_requests([point(0, "1/coil/0")], at)
        await link.open()
        peer, _ = server.accept()
        peer.settimeout(20)

        def stand_still() -> None:
            raw = peer.recv(8 if hostile.is_rtu else 12, socket.MSG_WAITALL)
            peer.sendall(hostile.frame(int.from_bytes(raw[:2], "big"), 1, b"\x01\x01\x01"))
            time.sleep(0.1)

        reading = asyncio.create_task(link.read(request))
        asyncio.get_running_loop().call_soon(stand_still)
        assert await reading == (Reply(b"\x01"), 7)
        assert link.is_open
        link.close()
        peer.close()


async def test_identification_that_runs_in_circles_ends() -> None:
    """Each page says that more follows at the same object; and objects may be many and long."""
    asked = [0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                raw = await reader.readexactly(11)
                asked[0] += 1
                pdu = bytes([0x2B, 14, raw[9], 0x82, 0xFF, raw[10], 1, 0, 3]) + b"ABC"
                writer.write(raw[:4] + (len(pdu) + 1).to_bytes(2, "big") + raw[6:7] + pdu)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await Driver(endpoint(port), [], Recording()).identify(1) == {"vendor_name": "ABC"}
    assert asked[0] == 1


async def test_a_connection_that_is_lost_while_a_request_is_sent_is_told_once() -> None:
    """The same loss must not turn up again later, as an exception that nobody retrieved."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    link = Link(endpoint(1), lambda: 7)

    async def send() -> ModbusPDU:
        link._connected(False)
        raise ModbusIOException("gone")

    code = ""
    try:
        await link._exchange(1, send())
    except DeviceError as error:
        code = error.problems[0].code
    assert code == "modbus.closed"
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
