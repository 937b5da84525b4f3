"""What a reload touches: which connections notice a changed file, what needs a restart, drivers that are exchanged."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from config.gateway import GatewayConfig
from config.points import Point, device_of_each
from gateway import reload
from gateway.commissioning import connect, roster
from gateway.commissioning.connect import aims
from gateway.crew import Crew
from protocols.errors import Problem
from tests.unit.gateway.commissioning.plants import LINE, device, plant, point

KEY = bytes(32)
OTHER = LINE.replace('"line"', '"other"').replace(":1", ":2")
BROKER = '[[connections]]\nname = "broker"\nprotocol = "mqtt"\nendpoint = "mqtt://127.0.0.1:1"\n'
DEVICES = [device("a", serial="1"), device("b", serial="2", connection="other")]
POINTS = [point("a", 0), point("a", 2), point("b", 0)]


def load(folder: Path, devices: list[str], points: list[str], tail: str = LINE + OTHER,
         head: str = "") -> GatewayConfig:
    return plant(folder, devices, points, tail=tail, head=head)


def compared(tmp_path: Path, devices: list[str], points: list[str], tail: str = LINE + OTHER) -> reload.Changes:
    old = load(tmp_path, DEVICES, POINTS)
    held = roster.evolve(None, old, gateway="0" * 32, key=KEY, server_keys={})
    before = aims(old, held)
    new = load(tmp_path, devices, points, tail)
    later = roster.evolve(held, new, gateway="0" * 32, key=KEY, server_keys={})
    return reload.changes(old, before, new, aims(new, later))


CASES: dict[str, tuple[list[str], list[str], str, list[str]]] = {
    "nothing": (DEVICES, POINTS, LINE + OTHER, []),
    "rows stand elsewhere": (DEVICES[::-1], [POINTS[2], *POINTS[:2]], BROKER + OTHER + LINE, []),
    "a name, an owner and the id of a device": (
        [device("a1", serial="1", name="renamed", uscc=""), DEVICES[1]],
        [row.replace("a,", "a1,", 1) for row in POINTS[:2]] + POINTS[2:], LINE + OTHER, []),
    "the id of a point": (DEVICES, [POINTS[0].replace("p0", "speed"), *POINTS[1:]], LINE + OTHER, []),
    "another point": (DEVICES, [*POINTS, point("b", 9)], LINE + OTHER, ["other"]),
    "a point less": (DEVICES, POINTS[1:], LINE + OTHER, ["line"]),
    "a scale": (DEVICES, [POINTS[0].replace(",parameter,,,", ",parameter,,0.1,"), *POINTS[1:]], LINE + OTHER, ["line"]),
    "another machine": ([DEVICES[0], device("b", serial="3", connection="other")], POINTS, LINE + OTHER, ["other"]),
    "a setting": (DEVICES, POINTS, LINE + OTHER.replace("timeout_s = 0.3", "timeout_s = 0.4"), ["other"]),
    "a device that moves": ([DEVICES[0], device("b", serial="2")],
                            [*POINTS[:2], point("b", 7)], LINE + OTHER, ["line", "other"]),
    "a connection that goes": ([DEVICES[0]], POINTS[:2], LINE, ["other"]),
    "a connection that comes": (
        [*DEVICES, device("c", serial="3", connection="third")], [*POINTS, point("c", 0)],
        LINE + OTHER + LINE.replace('"line"', '"third"').replace(":1", ":3"), ["third"]),
}


@pytest.mark.parametrize("case", CASES)
def test_only_connections_that_changed_notice(tmp_path: Path, case: str) -> None:
    devices, points, tail, touched = CASES[case]
    found = compared(tmp_path, devices, points, tail)
    assert found.touched == touched
    assert found.kept == {"line", "other"} - set(touched)


def test_the_points_of_all_connections_are_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be a thousand connections: looking for the points of each among all of them took half a minute."""
    looks: list[int] = []

    def counted(points: Sequence[Point]) -> Iterable[str]:
        looks.append(len(points))
        return device_of_each(points)

    monkeypatch.setattr(connect, "device_of_each", counted)
    config = load(tmp_path, DEVICES, [POINTS[2], *POINTS[:2]], LINE + OTHER + BROKER)
    found = aims(config, roster.evolve(None, config, gateway="0" * 32, key=KEY, server_keys={}))
    assert {name: [(point.device, point.id) for _, _, point in aimed] for name, aimed in found.items()} == {
        "line": [("a", "p0"), ("a", "p2")], "other": [("b", "p0")], "broker": []}
    assert looks == [3]


@pytest.mark.parametrize(("head", "tail", "keys"), [
    ("", LINE + OTHER, []),
    ("[window]\nlen_s = 30\n", LINE + OTHER, ["window"]),
    ("[limits]\nqueued_samples = 5000\n[keep]\nraw = true\n", LINE + OTHER, ["limits", "keep"]),
    ('state_dir = "elsewhere"\n', LINE + OTHER, ["gateway.state_dir"]),
    ("[probing]\nopcua = false\n", LINE, ["probing"]),
    ('[platform]\nurl = "https://p.example"\n', LINE, ["platform"]),
], ids=["nothing", "window", "limits and keep", "state", "probing", "platform"])
def test_what_needs_a_restart_is_named(tmp_path: Path, head: str, tail: str, keys: list[str]) -> None:
    old = load(tmp_path, DEVICES, POINTS)
    devices, points = (DEVICES, POINTS) if tail != LINE else (DEVICES[:1], POINTS[:2])
    assert reload.needs_restart(old, load(tmp_path, devices, points, tail, head)) == keys


def test_more_points_than_a_short_window_bears_need_a_restart(tmp_path: Path) -> None:
    old = load(tmp_path, DEVICES, POINTS)
    new = dataclasses.replace(old, len_s=300)
    assert reload.needs_restart(old, new) == ["window.len_s"]


def test_every_field_of_a_configuration_is_either_movable_or_needs_a_restart() -> None:
    assert {field.name for field in dataclasses.fields(GatewayConfig)} > reload.MOVABLE


# Asking through the state folder


def test_a_request_is_taken_once_and_its_answer_is_found_by_its_id(tmp_path: Path) -> None:
    assert reload.asked(tmp_path) is None
    number = reload.ask(tmp_path)
    assert reload.asked(tmp_path) == number and reload.asked(tmp_path) is None
    assert reload.answered(tmp_path, number) is None
    problems = tuple(Problem.of(f"line {n}", "ledger.bad_id", id=n) for n in range(reload.PROBLEMS_MAX + 7))
    reload.answer(tmp_path, number, reload.Result(ok=False, code="reload.refused", args={"problems": 57},
                                                  problems=problems))
    found = reload.answered(tmp_path, number)
    assert found is not None and (found["ok"], len(found["problems"]), found["more"]) == (False, reload.PROBLEMS_MAX, 7)
    assert reload.answered(tmp_path, "another") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": 7}', b"\xff" * 9])
def test_a_request_that_is_none_is_still_a_wish(tmp_path: Path, content: bytes) -> None:
    """Whoever may write there may also send a signal."""
    (tmp_path / reload.REQUEST).write_bytes(content)
    assert reload.asked(tmp_path) in ("", "7")
    (tmp_path / reload.ANSWER).write_bytes(content)
    assert reload.answered(tmp_path, "x") is None


# Drivers that are exchanged


class Worker:
    """A driver that runs until it is cancelled, or until a test makes it fail."""

    def __init__(self) -> None:
        self.failing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.state = "new"

    async def run(self) -> None:
        self.state = "runs"
        try:
            await self.failing
        finally:
            self.state = "ended"


async def turns(condition: Callable[[], object]) -> None:
    for _ in range(50):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("not within 50 turns of the loop")


async def test_one_driver_is_exchanged_and_the_others_go_on() -> None:
    crew, a, b, c = Crew(), *(Worker() for _ in range(3))
    drivers: Any = {"a": a, "b": b}
    crew.start(drivers)
    watching = asyncio.create_task(crew.watch())
    await turns(lambda: a.state == b.state == "runs")
    held = crew.drivers
    await crew.stop(["b", "unknown"])
    assert (a.state, b.state, list(held)) == ("runs", "ended", ["a"])
    more: Any = {"b": c}
    crew.start(more)
    await turns(lambda: c.state == "runs")
    assert held is crew.drivers and more["b"] is held["b"] and not watching.done()
    c.failing.set_exception(RuntimeError("a driver that came later"))
    with pytest.raises(RuntimeError, match="later"):
        await asyncio.wait_for(watching, 5)
    await crew.stop(list(crew.drivers))
    assert a.state == "ended"


@pytest.mark.parametrize("end", [lambda failing: failing.set_result(None), lambda failing: failing.cancel()],
                         ids=["returns", "is cancelled by what it waits for"])
async def test_a_driver_that_ends_without_an_error_is_one(end: Callable[[asyncio.Future[None]], object]) -> None:
    crew, a = Crew(), Worker()
    drivers: Any = {"a": a}
    crew.start(drivers)
    end(a.failing)
    with pytest.raises(RuntimeError, match="the driver of a ended"):
        await asyncio.wait_for(crew.watch(), 5)
