"""A Sparkplug edge node that was not written here, over Mosquitto: born, asked, dead, cut off, and back each time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from protocols.mqtt import driver as driver_module
from protocols.mqtt.driver import Driver
from protocols.mqtt.target import Point
from tests.live.test_modbus_libmodbus import line_of, process
from tests.live.test_simulators_mosquitto import Mosquitto
from tests.support.npm import installed
from tests.support.programs import need
from tests.unit.protocols.mqtt.mqtt_recording import Recording, eventually, metric_point, running, sparkplug_endpoint

pytestmark = pytest.mark.live

EDGE = Path(__file__).with_name("sparkplug_edge")
PLACE = ("plant", "edge-7", "kiln")
POINTS: list[Point] = [
    metric_point(0, "plant/edge-7/#load", device=0), metric_point(1, "plant/edge-7/kiln#temperature", device=1),
    metric_point(2, "plant/edge-7/kiln#door/open", device=1), metric_point(3, "plant/edge-7/kiln#maker", device=1)]


class Floor(Recording):
    """A sink that knows who is online."""

    @property
    def alive(self) -> set[int]:
        alive: set[int] = set()
        for what, devices in self.calls:
            alive = alive | set(devices) if what == "online" else alive - set(devices)
        return alive


def tell(child: asyncio.subprocess.Process, word: str) -> None:
    assert child.stdin is not None
    child.stdin.write(word.encode() + b"\n")


async def test_a_life_of_a_foreign_edge_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("mosquitto", "mosquitto_sub")
    monkeypatch.setattr(driver_module, "BACKOFF_FIRST_S", 0.1)
    program = await asyncio.to_thread(installed, EDGE)
    broker = Mosquitto(tmp_path)
    await broker.start()
    command = ("node", str(program / "edge.mjs"), str(broker.port), *PLACE)
    sink = Floor()

    async def delivers() -> None:
        seen = len(sink.values(1))
        await eventually(lambda: sink.alive == {0, 1} and len(sink.values(1)) > seen + 2)

    try:
        async with AsyncExitStack() as lives:
            first = await lives.enter_async_context(process(*command, counts_writes=False))
            assert await line_of(first) == "born"
            # It says so before the broker has it: behind data of its device it is past, and who comes now is late.
            await broker.hear(f"spBv1.0/{PLACE[0]}/DDATA/#", 1)
            async with running(Driver(sparkplug_endpoint(broker.port, mqtt_version="5"), POINTS, sink)):
                await delivers()
                assert await line_of(first) == "rebirth" and await line_of(first) == "born", "who joins late asks"
                tell(first, "lose")
                await eventually(lambda: sink.alive == {0})
                tell(first, "find")
                await delivers()
                first.kill()  # without a word: the broker publishes its will
                await eventually(lambda: sink.alive == set())
                second = await lives.enter_async_context(process(*command, counts_writes=False))
                await delivers()
                await broker.stop()
                await eventually(lambda: sink.alive == set())
                await broker.start()
                await delivers()  # both come back to it, whoever is first
                assert second.stdin is not None
                second.stdin.close()  # it says goodbye
                await eventually(lambda: sink.alive == set())
    finally:
        await broker.stop()
    assert set(sink.texts) == {"Live"}
    assert set(sink.discards) <= {"unknown_point", "undecodable"}, sink.discards
    assert not {"mqtt.node_gap", "mqtt.metrics_undecodable", "mqtt.node_no_sequence"} & set(sink.codes()), sink.codes()
