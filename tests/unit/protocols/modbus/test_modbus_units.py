"""Units that share a line: limits, pauses and intervals of their own, and a dead one that costs only itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise

import pytest
from pymodbus.server import ModbusTcpServer

from protocols.modbus import delivery, schedule
from protocols.modbus.driver import Driver, Link
from protocols.modbus.plan import Request, make_requests
from protocols.modbus.schedule import Pace
from protocols.modbus.target import UnitSettings
from tests.unit.protocols.modbus.recording import Recording, endpoint, point, running, steady, until
from tests.unit.protocols.modbus.test_modbus_driver import device, serving, silence


class Wire:
    """When each request of each unit reached the server, by the loop's clock."""

    def __init__(self) -> None:
        self.asked: dict[int, list[float]] = {}
        self.requests: list[tuple[float, int, int, int]] = []
        self.replied: list[float] = []

    def packet(self, sending: bool, data: bytes) -> bytes:
        now_s = asyncio.get_running_loop().time()
        if sending:
            self.replied.append(now_s)
        elif len(data) >= 12:
            self.asked.setdefault(data[6], []).append(now_s)
            address, count = (int.from_bytes(data[at:at + 2], "big") for at in (8, 10))
            self.requests.append((now_s, data[6], address, count))
        return data


def test_pace() -> None:
    pace = Pace()
    pace.started(3, now_s=10.0, interval_ms=500)
    pace.ended(now_s=10.1, pause_ms=50)
    assert pace.unit_ready_s(3) == 10.5
    assert pace.unit_ready_s(4) == float("-inf")
    assert pace.line_ready_s() == pytest.approx(10.15)
    pace.started(4, now_s=10.2, interval_ms=0)
    assert pace.unit_ready_s(4) == float("-inf")


async def test_each_unit_is_read_within_its_own_limits() -> None:
    steady()
    wire, sink = Wire(), Recording()
    points = [point(unit * 100 + a, f"{unit}/holding/{a}", "uint16", device=unit) for unit in (1, 2) for a in range(40)]
    at_two = UnitSettings(ids=(2,), max_registers=8, poll_s=0.1)
    async with serving(device(1, [7] * 40), device(2, [9] * 40), trace_packet=wire.packet) as port:
        driver = Driver(endpoint(port, poll_s=0.02, units=(at_two,)), points, sink)
        assert [(row["unit"], row["count"], row["poll_s"]) for row in driver.plan()] == [
            ("1", "40", "0.02"), *[("2", "8", "0.1")] * 5]
        async with running(driver):
            await until(lambda: len(sink.values.get(239, [])) >= 3)
    assert {count for _, unit, _, count in wire.requests if unit == 2} == {8}
    assert len(sink.values[100]) > 2 * len(sink.values[200]), "unit 1 is polled five times as often"


async def test_a_unit_that_wants_an_interval_keeps_nobody_waiting() -> None:
    """Unit 2 needs five reads of 60 ms apart; unit 1 goes on every 20 ms in between."""
    steady()
    wire, sink = Wire(), Recording()
    points = [point(unit * 100 + a, f"{unit}/holding/{a}", "uint16", device=unit) for unit in (1, 2) for a in range(40)]
    at_two = UnitSettings(ids=(2,), max_registers=8, interval_ms=60)
    async with serving(device(1, [7] * 40), device(2, [9] * 40), trace_packet=wire.packet) as port:
        driver = Driver(endpoint(port, units=(at_two,)), points, sink)
        async with running(driver):
            await until(lambda: len(sink.values.get(239, [])) >= 2)
            for slot in (200, 208, 200):  # whoever else asks waits as well
                await driver.read_once(slot)
    gaps = [b - a for a, b in pairwise(wire.asked[2])]
    assert len(gaps) >= 10
    assert min(gaps) >= 0.04
    assert len(wire.asked[1]) >= 1.5 * len(wire.asked[2])
    order = [address for _, unit, address, _ in wire.requests if unit == 2][:5]
    assert order == [0, 8, 16, 24, 32], "one poll, in its order"


async def test_the_pause_of_one_unit_is_kept_by_all() -> None:
    steady()
    wire, sink = Wire(), Recording()
    points = [point(unit, f"{unit}/holding/0", "uint16", device=unit) for unit in (1, 2)]
    async with serving(device(1, [7]), device(2, [9]), trace_packet=wire.packet) as port:
        driver = Driver(endpoint(port, units=(UnitSettings(ids=(1,), pause_ms=40),)), points, sink)
        async with running(driver):
            await until(lambda: len(sink.values.get(2, [])) >= 8)
    after: dict[int, list[float]] = {1: [], 2: []}
    for (reply_s, (_, unit, _, _)), (asked_s, *_) in zip(
            zip(wire.replied, wire.requests, strict=False), wire.requests[1:], strict=False):
        after[unit].append(asked_s - reply_s)
    assert min(after[1]) >= 0.025
    assert min(after[2]) < 0.025


async def test_a_unit_that_cannot_keep_its_rate_is_told_once() -> None:
    steady()
    sink = Recording()
    points = [point(a, f"1/holding/{a}", "uint16") for a in range(40)]
    at = UnitSettings(ids=(1,), max_registers=8, interval_ms=40, timeout_s=0.1)
    async with serving(device(1, [7] * 40)) as port:
        async with running(Driver(endpoint(port, units=(at,)), points, sink)):
            await until(lambda: len(sink.values.get(39, [])) >= 4)
    assert sink.codes() == ["modbus.overrun"]


async def test_the_timeout_of_a_unit_is_its_own() -> None:
    steady()
    now_s = asyncio.get_running_loop().time
    points = [point(1, "1/holding/0", "uint16"), point(2, "2/holding/0", "uint16", device=1)]
    async with serving(device(1, [7]), device(2, [9]), trace_packet=silence(1, 2)) as port:
        at = endpoint(port, timeout_s=0.05, units=(UnitSettings(ids=(2,), timeout_s=0.3),))
        began_s = now_s()
        results = await Driver(at, points, Recording()).check()
    assert [dict(r.args)["timeout_s"] for r in results] == ["0.05", "0.3"]
    assert now_s() - began_s >= 0.35


async def test_one_dead_unit_of_thirty_leaves_the_others_nine_tenths_of_their_rate(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of real time: polls of 0.1 s, a timeout as long, and a dead unit asked every 3 s at the most.

    test_modbus_schedule.py has it in virtual time.
    """
    steady()
    monkeypatch.setattr(schedule, "SILENT_FIRST_S", schedule.SILENT_FIRST_S / 10)
    monkeypatch.setattr(schedule, "SILENT_MAX_S", schedule.SILENT_MAX_S / 10)
    alive, others = await rates(()), await rates((13,))
    assert others[13] == 0 < alive[13]
    shares = [others[unit] / alive[unit] for unit in others if unit != 13]
    assert min(shares) >= 0.9, shares


async def rates(dead: tuple[int, ...]) -> dict[int, float]:
    """Return replies per second of each of 30 units, over 3 s, when these are dead."""
    units, sink = range(1, 31), Recording()
    points = [point(unit, f"{unit}/holding/0", "float32", device=unit) for unit in units]
    async with serving(*(device(u, [0x41AC, 0]) for u in units), trace_packet=silence(*dead)) as port:
        async with running(Driver(endpoint(port, poll_s=0.1, timeout_s=0.1), points, sink)):
            await until(lambda: len(sink.replies) >= 30 - len(dead))
            before, began_s = dict(sink.replies), asyncio.get_running_loop().time()
            await asyncio.sleep(3.0)
            took_s = asyncio.get_running_loop().time() - began_s
    return {u: (sink.replies.get(u, 0) - before.get(u, 0)) / took_s for u in units}


async def test_one_connection_carries_all_units_and_one_request_at_a_time() -> None:
    connections, flights, most = [0], [0], [0]

    def connected(is_up: bool) -> None:
        connections[0] += is_up

    def packet(sending: bool, data: bytes) -> bytes:
        flights[0] += -1 if sending else 1
        most[0] = max(most[0], flights[0])
        return data

    sink = Recording()
    points = [point(unit, f"{unit}/holding/0", "uint16", device=unit) for unit in range(1, 11)]
    async with serving(*(device(u, [u]) for u in range(1, 11)), trace_connect=connected, trace_packet=packet) as port:
        async with running(Driver(endpoint(port), points, sink)):
            await until(lambda: len(sink.replies) == 10 and min(sink.replies.values()) > 5)
    assert (connections, most) == ([1], [1])


def mute_at(forbidden: int, servers: list[ModbusTcpServer], *, hangs_up: bool) -> Callable[[bool, bytes], bytes]:
    """Make a server say nothing, or hang up, when it is asked for this address."""
    def packet(sending: bool, data: bytes) -> bytes:
        if not sending and len(data) >= 12:
            address, count = (int.from_bytes(data[at:at + 2], "big") for at in (8, 10))
            if address <= forbidden < address + count:
                if hangs_up:
                    for handler in list(servers[0].active_connections.values()):
                        asyncio.get_running_loop().call_soon(handler.close)
                return b""
        return data
    return packet


@pytest.mark.parametrize("manner", ["says nothing", "hangs up"])
@pytest.mark.parametrize("largest", [8, 125], ids=["several reads", "one read"])
async def test_an_address_that_makes_a_device_mute_costs_only_its_point(
    monkeypatch: pytest.MonkeyPatch, manner: str, largest: int
) -> None:
    """Many devices do not answer exception 2. The points behind such an address must not starve."""
    steady()
    monkeypatch.setattr(schedule, "SILENT_FIRST_S", 0.02)
    monkeypatch.setattr(schedule, "SILENT_MAX_S", 0.05)
    monkeypatch.setattr(schedule, "RECONNECT_FIRST_S", 0.01)
    sink = Recording()
    servers: list[ModbusTcpServer] = []
    packet = mute_at(13, servers, hangs_up=manner == "hangs up")
    points = [point(a, f"1/holding/{a}", "uint16") for a in range(32)]
    async with serving(device(1, list(range(32))), trace_packet=packet, found=servers) as port:
        async with running(Driver(endpoint(port, timeout_s=0.05, max_registers=largest), points, sink)):
            await until(lambda: "modbus.points_mute" in sink.codes())
            had = {slot: len(values) for slot, values in sink.values.items()}
            await until(lambda: all(len(sink.values.get(a, [])) > had.get(a, 0) + 2 for a in range(32) if a != 13))
    assert 13 not in sink.values
    assert {slot: set(values) for slot, values in sink.values.items()} == {a: {float(a)} for a in range(32) if a != 13}
    told = [args for code, _, args in sink.events if code == "modbus.points_mute"]
    assert [(t["points"], t["first"]) for t in told] == [("1", "1/holding/13/uint16")]
    assert ("modbus.unit_silent" in sink.codes()) == (largest == 125), "with one read nothing else tells that it lives"


@pytest.mark.parametrize("manner", ["says nothing", "hangs up"])
@pytest.mark.parametrize("largest", [8, 125], ids=["several reads", "one read"])
@pytest.mark.parametrize("forbidden", [0, 13, 31])
async def test_check_names_the_address_that_makes_a_device_mute(manner: str, largest: int, forbidden: int) -> None:
    steady()
    servers: list[ModbusTcpServer] = []
    packet = mute_at(forbidden, servers, hangs_up=manner == "hangs up")
    points = [point(a, f"1/holding/{a}", "uint16") for a in range(32)]
    if forbidden == 31:
        points.append(point(32, "1/coil/0"))  # else the last point is the one by which a single read is told from death
    async with serving(device(1, list(range(32))), trace_packet=packet, found=servers) as port:
        driver = Driver(endpoint(port, timeout_s=0.1, max_registers=largest), points, Recording())
        [result] = await driver.check()
    assert (result.ok, result.code, dict(result.args)) == (
        False, "modbus.check_mute", {"points": "1", "named": f"1/holding/{forbidden}/uint16"})


async def test_a_line_that_loses_frames_demotes_nobody() -> None:
    """One frame of ten: every unit goes on, every point is read, and a lost frame costs one timeout only."""
    steady()
    rng, sink = random.Random(7), Recording()
    points = [point(unit * 100 + a, f"{unit}/holding/{a}", "uint16", device=unit)
              for unit in (1, 2, 3) for a in range(24)]

    def packet(sending: bool, data: bytes) -> bytes:
        return data if sending or rng.random() > 0.1 else b""

    async with serving(*(device(u, list(range(24))) for u in (1, 2, 3)), trace_packet=packet) as port:
        async with running(Driver(endpoint(port, timeout_s=0.05, max_registers=8), points, sink)):
            await until(lambda: len(sink.values) == 72 and min(map(len, sink.values.values())) >= 8)
    assert sink.codes().count("modbus.unit_silent") <= 2, "three in a row: once in a thousand"
    assert "modbus.points_mute" not in sink.codes()


async def test_whoever_gives_up_his_turn_leaves_the_line_free() -> None:
    """Cancelled while he waits for a unit, for the line, for a pause, or while he speaks."""
    steady()
    now_s = asyncio.get_running_loop().time
    link = Link(endpoint(1, pause_ms=200, units=(UnitSettings(ids=(2,), interval_ms=60_000),)), lambda: 0)

    async def ask(unit: int) -> None:
        async with link.turn(unit):
            await asyncio.sleep(60)

    async with link.turn(2):
        queued = asyncio.create_task(ask(1))
        await asyncio.sleep(0.01)
        assert not queued.done()
    for unit, held in ((2, False), (1, True)):
        waiting = asyncio.create_task(ask(unit))
        await asyncio.sleep(0.01)
        assert link.lock.locked(), "the one who queued before holds it through the pause"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if held:
            queued.cancel()
            await asyncio.gather(queued, return_exceptions=True)
    assert not link.lock.locked()
    speaking = asyncio.create_task(ask(1))
    await asyncio.sleep(0.3)
    assert link.lock.locked()
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)
    assert not link.lock.locked()
    began_s = now_s()
    async with link.turn(1):
        pass
    assert now_s() - began_s < 1.0, "unit 1 has no interval, only the pause is kept"


@pytest.mark.parametrize("in_flight", [1, 3])
async def test_a_read_that_a_gateway_gets_no_answer_to_keeps_no_other_from_being_read(in_flight: int) -> None:
    """Devices on a serial line that say nothing to a strange address look like this behind a gateway."""
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                raw = await reader.readexactly(12)
                address, count = int.from_bytes(raw[8:10], "big"), int.from_bytes(raw[10:], "big")
                data = bytes([3, 2 * count]) + bytes(2 * count) if address != 1000 else b"\x83\x0b"
                writer.write(raw[:4] + (1 + len(data)).to_bytes(2, "big") + raw[6:7] + data)
        writer.close()

    sink = Recording()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        points = [point(n, f"1/holding/{1000 * n}", "uint16") for n in range(3)]
        async with running(Driver(endpoint(server.sockets[0].getsockname()[1], in_flight=in_flight), points, sink)):
            await until(lambda: "modbus.points_mute" in sink.codes() and len(sink.values.get(2, ())) > 3)
    assert set(sink.values) == {0, 2}
    assert sink.codes() == ["modbus.points_mute"]


def test_units_that_take_turns_keep_how_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Sequence[Request]] = []
    original = delivery._plan

    def noted(requests: Sequence[Request]) -> object:
        made.append(requests)
        return original(requests)

    monkeypatch.setattr(delivery, "_plan", noted)
    points = [point(n, f"{1 + n % 2}/holding/{1000 * n}", "uint16", device=n % 2) for n in range(4)]
    requests = make_requests(points, endpoint(1))
    polls = [tuple(r for r in requests if r.unit == unit) for unit in (1, 2)]
    sink = Recording()
    deliver = delivery.Delivery(dict(enumerate(points)), sink, "line")
    for _ in range(3):
        for poll in polls:
            deliver.all(poll, [b"\0\7"] * 2, [1, 2])
    assert made == polls and sink.values == {n: [7.0] * 3 for n in range(4)}
