"""A gateway process is killed with SIGKILL; the next one takes its session over, and no other's."""

from __future__ import annotations

import itertools
import json
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from protocols.opcua import session, takeover
from protocols.opcua.driver import OpcUaDriver
from protocols.opcua.link.driver import Link
from protocols.opcua.session import Sequence32
from protocols.opcua.takeover import Left
from tests.unit.protocols.opcua.bench import Plant, Recorder, endpoint, free_port, plant_on, running, serving, until
from tests.unit.protocols.opcua.victim import killed

in_one_loop = pytest.mark.asyncio(loop_scope="module")
_numbers = itertools.count()

LEFT = Left(token=b"\2\0\0\7\0\0\0", nonce=b"n", subscription=7, interval_ms=500.0, keep_alive_count=10, started="x",
            refused=(1,))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[Any]:
    async with serving(free_port()) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def plant(server: Any) -> Plant:
    return await plant_on(server, f"urn:test:takeover:{next(_numbers)}")


async def kill_a_gateway(plant: Plant, folder: Path) -> int:
    """Let a driver in a process of its own collect, kill it, return its subscription."""
    await killed(plant.uri, ["a", "b", "c", "later"], port=plant.port, folder=folder)
    left, = plant.subscriptions
    return left


def refused_of(file: Path) -> list[int] | None:
    """Return what the file says is refused; None while it is not there, as during every other try."""
    try:
        refused: list[int] = json.loads(file.read_text())["refused"]
    except FileNotFoundError:
        return None
    return refused


@in_one_loop
async def test_after_kill_9_the_session_is_taken_over_with_what_it_kept(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "RETRY_FIRST_S", 0.2)
    left = await kill_a_gateway(plant, tmp_path)
    before, = plant.sessions
    for value in (71.0, 72.0, 73.0):  # nobody listens now; the server keeps it
        await plant.write("b", value)
    sink = Recorder()
    settings = endpoint(plant.port, tmp_path, takeover_file=tmp_path / "left.json")
    async with running(OpcUaDriver(settings, plant.points(["a", "b", "c", "later"]), sink)):
        await until(lambda: "opcua.taken_over" in sink.codes())
        await plant.write("b", 74.0)  # the next response tells what the server still has
        await until(lambda: {71.0, 72.0, 73.0, 74.0} <= {*sink.values(101)})
        assert (plant.subscriptions, plant.sessions) == ([left], [before]), "the old one, and no other"
        assert sink.codes()[0] == "opcua.taken_over"
        await until(lambda: "opcua.bad_node" in sink.codes(), "what was refused is tried again")
        await until(lambda: refused_of(tmp_path / "left.json") == [3])
    got = sorted(value for value in sink.values(101) if value > 2)
    assert got == [71.0, 72.0, 73.0, 74.0], "everything once: one item for a point, not two"
    assert (plant.subscriptions, plant.sessions) == ([], []), "deleted on leaving"
    assert not (tmp_path / "left.json").exists()


@in_one_loop
async def test_where_the_session_is_gone_the_loss_is_told_and_a_new_one_made(plant: Plant, tmp_path: Path) -> None:
    await kill_a_gateway(plant, tmp_path)
    for left in plant.sessions:
        await left.close_session(True)
    sink = Recorder()
    settings = endpoint(plant.port, tmp_path, takeover_file=tmp_path / "left.json")
    async with running(OpcUaDriver(settings, plant.points(["a", "b", "c", "later"]), sink)):
        await until(lambda: sink.points == {100, 101, 102})
        assert sink.events[0] == ("opcua.not_taken_over", "press_shop", {
            "endpoint": settings.url, "why": "BadSessionIdInvalid"})
        assert (len(plant.sessions), len(plant.subscriptions)) == (1, 1)


@in_one_loop
async def test_where_only_the_subscription_is_given_it_is_transferred(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncua's server moves half of it: what is asked and followed is tested here, the rest against node-opcua."""
    left = await kill_a_gateway(plant, tmp_path)
    moved = []
    real = Link.transfer

    async def refuse(_self: OpcUaDriver, _beside: Link, _left: Left) -> tuple[None, str]:
        return None, "BadSessionIdInvalid"

    async def transfer(self: Link, left: Left) -> bool:
        moved.append(await real(self, left))
        return moved[-1]

    monkeypatch.setattr(OpcUaDriver, "_activated_again", refuse)
    monkeypatch.setattr(Link, "transfer", transfer)
    sink = Recorder()
    settings = endpoint(plant.port, tmp_path, takeover_file=tmp_path / "left.json")
    async with running(OpcUaDriver(settings, plant.points(["a", "b", "c", "later"]), sink)):
        await until(lambda: "opcua.taken_over" in sink.codes())
        assert moved == [True]
        assert plant.subscriptions == [left]


@in_one_loop
async def test_another_run_of_the_server_is_not_touched(plant: Plant, tmp_path: Path) -> None:
    file = tmp_path / "left.json"
    settings = endpoint(plant.port, tmp_path, takeover_file=file)
    points = plant.points(["a"])
    foreign = OpcUaDriver(endpoint(plant.port, tmp_path / "foreign"), points, Recorder())
    async with running(foreign):
        await until(lambda: plant.subscriptions)
        takeover.write(file, takeover.digest(settings, points), replace(
            LEFT, subscription=plant.subscriptions[0], started="2026-01-01T00:00:00+00:00", refused=()))
        sink = Recorder()
        async with running(OpcUaDriver(settings, points, sink)):
            await until(lambda: sink.values(100))
            assert len(plant.subscriptions) == 2, "the number and the token belong to somebody else now"
    assert [(code, args["why"]) for code, _, args in sink.events] == [("opcua.not_taken_over", "StartTime")]


def test_only_an_exact_file_is_believed_and_it_is_the_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "state" / "left.json"
    takeover.write(file, "d", LEFT)
    assert takeover.read(file, "d", 2) == LEFT
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert takeover.read(file, "e", 2) is None
    assert takeover.read(file, "d", 1) is None, "a position that there is not"
    whole = json.loads(file.read_bytes())
    damaged = [{**whole, "subscription": -7}, {**whole, "token": ""}, {**whole, "token": "zz"},
               {**whole, "interval_ms": 0}, {**whole, "refused": 3}, {**whole, "keep_alive_count": 2**40}]
    for damage in (b"", b"{", b"[]", b'{"digest": "d"}', *(json.dumps(made).encode() for made in damaged)):
        file.write_bytes(damage)
        assert takeover.read(file, "d", 2) is None, damage
    takeover.forget(file)
    takeover.forget(file)
    assert takeover.read(file, "d", 2) is None
    assert list(file.parent.iterdir()) == []


def test_a_disk_that_takes_nothing_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where a folder should be")
    takeover.write(tmp_path / "blocked" / "left.json", "d", LEFT)
    assert takeover.read(tmp_path / "blocked" / "left.json", "d", 2) is None


def test_the_digest_follows_server_identity_and_points(tmp_path: Path) -> None:
    plant = Plant(None, 4840, "urn:a", 2)
    settings = endpoint(4840, tmp_path)
    known = takeover.digest(settings, plant.points(["a", "b"]))
    assert takeover.digest(settings, plant.points(["b", "a"])) != known
    for change in ({"url": "opc.tcp://other:4840"}, {"username": "x"}, {"queue_size": 11}):
        assert takeover.digest(replace(settings, **change), plant.points(["a", "b"])) != known


def test_the_first_number_after_a_takeover_tells_what_was_under_way() -> None:
    numbers = Sequence32()
    numbers.taken_over()
    assert numbers.missing(8, is_keep_alive=False, available=[5, 7, 8]) == [5, 7]
    assert numbers.missing(10, is_keep_alive=False, available=[5, 7]) == [9], "from then on, the numbers alone tell"
    numbers.taken_over()
    assert numbers.missing(90, is_keep_alive=True, available=[89]) == [89]
    assert numbers.missing(90, is_keep_alive=False) == []
    numbers.taken_over()
    assert len(numbers.missing(9, is_keep_alive=True, available=range(5000))) == Sequence32.MISSING_MAX
