"""Faults of one kind that overlap: each ends by itself, and what the others have set stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest

from simulators.layout import CONNECTION_OF, draw_layout
from simulators.modbus_faults import Line
from simulators.mqtt_faults import Mischief
from simulators.player import Player, Standing
from simulators.scenario import FaultTable
from simulators.sent import Sent

LAYOUT = draw_layout(1)
NAMES = [name for names in CONNECTION_OF.values() for name in names]


class Recorded:
    """A wire that only notes what it is told."""

    def __init__(self) -> None:
        self.delay_s, self.is_stalled, self.is_open = 0.0, False, True

    def stall(self, stalled: bool) -> None:
        self.is_stalled = stalled

    def refuse(self) -> None:
        self.is_open = False

    async def welcome(self) -> None:
        assert not self.is_open
        self.is_open = True


class Machines:
    """A server whose nodes can be taken away once, and brought back once."""

    def __init__(self) -> None:
        self.clock_s = 0.0
        self.failed: set[str] = set()
        self.devices = LAYOUT.of("machines")
        self.gone: set[tuple[str, str]] = set()

    async def remove(self, keys: Iterable[tuple[str, str]]) -> None:
        assert not self.gone & set(keys)
        self.gone |= set(keys)

    async def bring_back(self, keys: Iterable[tuple[str, str]], _: object) -> None:
        assert self.gone >= set(keys)
        self.gone -= set(keys)


class Plant:
    """As much of a plant as faults need."""

    def __init__(self) -> None:
        self.layout, self.machines, self.ready_s = LAYOUT, {}, 0.0
        self.modbus = {name: SimpleNamespace(silent=set(), line=Line([])) for name in CONNECTION_OF["modbus_tcp"]}
        self.opc_ua, self.broker, self.nodes = Machines(), None, []
        self.sensors = SimpleNamespace(mischief=Mischief(), devices=LAYOUT.of("sensors"))
        self.sent = {name: Sent() for name in NAMES}
        self.wires = {name: Recorded() for name in NAMES}
        self.floods: dict[str, int] = {}


@asynccontextmanager
async def two(plant: Plant, kind: str, first: dict[str, Any], second: dict[str, Any]) -> Any:
    """Play two faults of one kind, the second after the first; yield the events that end them, and their tasks."""
    player = Player(plant, [])  # type: ignore[arg-type]  # as much of one as is needed
    overs = [asyncio.Event(), asyncio.Event()]
    tasks = []
    for over, keys in zip(overs, (first, second), strict=True):
        fault = FaultTable.model_validate({"kind": kind, "for_s": 1000.0} | keys)
        tasks.append(asyncio.create_task(player.play(fault, over)))
        await asyncio.sleep(0)  # it begins, and waits for its end

    async def end(number: int) -> None:
        overs[number].set()
        async with asyncio.timeout(10):
            await tasks[number]

    try:
        yield end
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


PUMP, AIR = LAYOUT.of("utilities-a")[0].id, LAYOUT.of("sensors")[0].id
# What is seen while both last, when the second has ended, and at the end. Does the first end first, the second holds.
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any], Callable[[Plant], object], list[object]]] = {
    "refuse": ("refuse", {}, {}, lambda plant: not plant.wires["machines"].is_open, [True, True, False]),
    "stall": ("stall", {}, {}, lambda plant: plant.wires["machines"].is_stalled, [True, True, False]),
    "slow": ("slow", {"delay_s": 1.0}, {"delay_s": 2.0}, lambda plant: plant.wires["machines"].delay_s,
             [2.0, 1.0, 0.0]),
    "flood": ("flood", {"connection": "machines", "times": 10}, {"connection": "machines", "times": 20},
              lambda plant: plant.floods.get("machines"), [20, 10, None]),
    "dead unit": ("dead", {"device": PUMP}, {"device": PUMP},
                  lambda plant: len(plant.modbus["utilities-a"].silent), [1, 1, 0]),
    "dead topic": ("dead", {"device": AIR}, {"device": AIR},
                   lambda plant: plant.sensors.mischief.dead == {AIR}, [True, True, False]),
    "clock": ("clock", {"connection": "machines", "jump_s": 60.0}, {"jump_s": 90.0},
              lambda plant: plant.opc_ua.clock_s, [90.0, 60.0, 0.0]),
    "clock of sensors": ("clock", {"jump_s": 60.0}, {"connection": "sensors", "jump_s": 90.0},
                         lambda plant: plant.sensors.mischief.clock_s, [90.0, 60.0, 0.0]),
    "unreadable": ("unreadable", {"connection": "sensors", "every": 2}, {"connection": "sensors", "every": 3},
                   lambda plant: plant.sensors.mischief.on.get("unreadable"), [3, 2, None]),
    "late": ("late", {"connection": "utilities-a", "every": 2}, {"connection": "utilities-a", "every": 2},
             lambda plant: len(plant.modbus["utilities-a"].line.faults), [2, 1, 0]),
    "bad node": ("bad_node", {"every": 1}, {"every": 2}, lambda plant: len(plant.opc_ua.gone) > 0,
                  [True, True, False]),
}


@pytest.mark.parametrize("last_ends_first", [True, False], ids=["inner", "outer"])
@pytest.mark.parametrize("name", KINDS)
async def test_each_ends_by_itself(name: str, last_ends_first: bool) -> None:
    kind, first, second, look, expected = KINDS[name]
    plant = Plant()
    async with two(plant, kind, first, second) as end:
        seen = [look(plant)]
        await end(int(last_ends_first))
        seen.append(look(plant))
        await end(int(not last_ends_first))
        seen.append(look(plant))
    adds_up = kind == "late"
    assert seen == (expected if last_ends_first or adds_up else [expected[0], expected[0], expected[2]])


def test_of_three_the_youngest_that_has_not_ended_holds() -> None:
    standing, seen = Standing(), []
    ends = [standing.begin("x", value, seen.append) for value in (1, 2, 3)]
    for number in (1, 2, 0):
        ends[number]()
    assert seen == [1, 2, 3, 1, None]
