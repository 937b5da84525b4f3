"""One life for every driver: the same steps over every protocol, real drivers against the simulated plant's servers.

After each step the plant's true numbers are compared: sent = handed over + discarded, to the last sample.
TALLYSTICK_FALLBACK=1 runs the same without the fast ways of the drivers: what they fall back to must do as well.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from protocols.modbus import driver as modbus
from protocols.mqtt.documents import Topic
from protocols.mqtt.link import driver as mqtt
from protocols.mqtt.router import Router
from protocols.opcua import bulk
from protocols.opcua.guarded.driver import GuardedSession
from tests.compliance.driver_bench import CASES, Bench, be_impatient, collecting
from tests.support.programs import need

HOUR_NS = 3_600_000_000_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_impatient(monkeypatch)
    if os.environ.get("TALLYSTICK_FALLBACK") == "1":
        monkeypatch.setattr(modbus, "SWIFT", frozenset())
        for slow in (mqtt.Link, Router, Topic, bulk.Decoder, GuardedSession):
            monkeypatch.setattr(slow, "is_fast", False)


@pytest.mark.parametrize("case", CASES)
async def test_a_whole_life(case: str, tmp_path: Path) -> None:
    if case == "modbus_rtu":
        need("socat")
    async with Bench(case, tmp_path).running() as bench:
        async with collecting(bench.driver()):
            await bench.fresh("connect")
            await bench.settled("connect")

            await bench.play("lose")
            await bench.fresh("lost and returned")
            await bench.play("refuse", for_s=0.3)
            await bench.fresh("refused and returned")
            await bench.settled("lose, refuse")

            await bench.play("restart", for_s=0.1)
            await bench.fresh("restart")
            await bench.settled("restart")

            await bench.play("slow", delay_s=0.02, until=bench.newer())
            await bench.fresh("slow")
            await bench.settled("slow")

            await bench.play("truncate")
            await bench.fresh("truncated")
            if bench.is_modbus:
                played = bench.plant.modbus[bench.connection].line.played
                await bench.play("garbage", every=3, until=lambda: played.get("garbage"))
            else:
                await bench.play("garbage")
            await bench.fresh("garbage")
            await bench.settled("truncate, garbage")

            before = bench.sent.samples
            await bench.play("flood", times=20, until=lambda: bench.sent.samples > before + 10 * len(bench.points)
                             or (bench.is_modbus and played.get("twice", 0) > 1))
            await bench.fresh("flood")
            await bench.settled("flood")

            await step_clocks(bench)
            await bench.settled("clocks")

            bench.plant.going.clear()
            bench.wire.stall(True)  # it is cancelled while its server says nothing
            # What the wire let through must have been read: bytes that wait in a socket are nobody's yet.
            await bench.until(lambda: bench.tally.total == bench.sent.samples, bench.difference)
        assert bench.tally.total == bench.sent.samples, bench.difference()
        # What it said into the stalled wire is lost with it: what it could not delete ends by its own time-out.
        await bench.until(lambda: case == "modbus_rtu" or not bench.wire.passages, "its connection has ended")
        bench.wire.stall(False)
        bench.plant.going.set()

        left = bench.subscriptions()
        async with collecting(bench.driver()):
            await bench.fresh("another one")
        await bench.until(lambda: bench.subscriptions() <= left, "no subscription is left on the server", wait_s=20.0)
        await bench.until(lambda: case == "modbus_rtu" or not bench.wire.passages, "no connection is left")


async def test_several_modbus_requests_in_flight(tmp_path: Path) -> None:
    """Answers come in the order of the requests, and every one of them is taken while nothing spoils the line.

    What came with bytes that nobody asked for is not taken: then fewer samples arrive than were sent, never others.
    """
    async with Bench("modbus_tcp", tmp_path, in_flight=8).running() as bench, collecting(bench.driver()):
        plant = bench.plant.modbus[bench.connection]
        await bench.fresh("connect")
        await bench.settled("connect")
        if modbus.SWIFT:
            assert plant.waited_most > 1
        await bench.play("lose")
        await bench.play("restart", for_s=0.1)
        await bench.fresh("lost, restarted")
        await bench.play("slow", delay_s=0.02, until=bench.newer())
        await bench.play("busy", every=2, until=lambda: plant.line.played.get("busy", 0) > 3)
        await bench.fresh("slow, busy")
        await bench.settled("slow, busy")
        await bench.play("garbage", every=5, until=lambda: plant.line.played.get("garbage"))
        await bench.fresh("garbage")
        assert bench.tally.total <= bench.sent.samples
        assert not bench.plant.writes


async def step_clocks(bench: Bench) -> None:
    """The clock of the devices steps by an hour and back, and is told as they tell it; so does that of the gateway."""
    if bench.connection in ("machines", "edge"):
        await bench.play("clock", jump_s=3600.0, until=lambda: any(
            source_ns > bench.clock_ns() + HOUR_NS / 2 for _, source_ns in bench.tally.newest.values()))
    elif bench.connection == "sensors":  # times in a payload are read where the configuration says where they are
        await bench.play("clock", jump_s=3600.0, until=bench.newer())
    bench.gateway_ahead_ns = HOUR_NS
    await bench.fresh("an hour ahead")
    bench.gateway_ahead_ns = 0
    bench.tally.newest.clear()
    await bench.fresh("and back")
