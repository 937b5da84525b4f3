"""Figures on the platform's page: made when somebody looks, never in the way of intake; states that leave memory."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from protocols.evidence import entry
from protocols.evidence.merkle import Tree, leaf_hash
from tests.support.scripted_gateway import ScriptedGateway, bits, device_row, point_row
from tests.unit.verifier.platform.test_platform_service import World
from verifier.platform import register, shown, states
from verifier.platform.edge import Edge
from verifier.platform.figures import figures
from verifier.platform.page import render
from verifier.platform.roster import Roster, apply_rows
from verifier.platform.store import SCHEMA_VERSION, root_of


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page shows that gave up waiting has a test of its own; in the others a slow machine is no reason to."""
    monkeypatch.setattr(shown, "WAIT_S", 60.0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.service.close()


def expected(gateway: ScriptedGateway, seq: int) -> dict[str, Any]:
    """What the window at `seq` says under the roster that it names, from the gateway's own log."""
    window = entry.decode(gateway.entries[seq], seq=seq)
    roster = Roster()
    for number, rows in gateway.rows.items():
        if number <= window["roster"]:
            roster, _ = apply_rows(roster, rows, where="test")
    value: dict[str, Any] = json.loads(json.dumps(asdict(figures(roster, window))))
    return value


async def page(world: World) -> dict[str, Any]:
    return {row["id"]: row["figures"] for row in await world.service.gateways()}


async def test_the_page_shows_the_newest_window_of_every_gateway(world: World) -> None:
    one, two, new = await world.enrolled(), await world.enrolled("two"), await world.enrolled("new")
    for number in range(3):
        for gateway in (one, two):
            gateway.window(producing=bits(number), connected=bits(0, 1))
            await world.submit(gateway)
        newest = {gateway.id: expected(gateway, len(gateway.entries) - 1) for gateway in (one, two)}
        assert await page(world) == {**newest, new.id: None}
    assert newest[one.id]["counted"] == 1 and newest[one.id]["reasons"] == {"no_valid_data": 1}
    last = len(one.entries) - 1
    one.outage(2)
    await world.submit(one)
    world.restart()  # now no state is in memory
    one.window(producing=0)
    assert (await page(world))[one.id] == expected(one, last)
    await world.submit(one)
    world.restart()
    last = len(one.entries) - 1
    one.outage(2)
    await world.submit(one)
    assert (await page(world))[one.id] == expected(one, last)
    assert [row["window_seq"] for row in await world.service.gateways()] == [last, 5, None]


async def test_a_window_is_shown_under_the_roster_that_was_in_force(world: World) -> None:
    """A batch may end with a larger roster; its last window knows nothing of the new rows."""
    gateway = await world.enrolled()
    seq = gateway.window(producing=bits(0, 3))
    gateway.roster([device_row(slot) for slot in range(2, 20)], [point_row(point, 2, gateway.id)
                                                                 for point in range(4, 40)])
    await world.submit(gateway)
    assert (await page(world))[gateway.id] == expected(gateway, seq)
    assert expected(gateway, seq)["configured"] == 2


async def test_intake_does_not_wait_for_figures_and_a_page_not_for_long(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = await world.enrolled()
    first = gateway.window(producing=bits(0))
    await world.submit(gateway)
    before = await page(world)
    goes_on = threading.Event()

    def slow(*args: Any) -> Any:
        assert goes_on.wait(30)
        return figures(*args)
    with monkeypatch.context() as patched:
        patched.setattr(shown, "figures", slow)
        patched.setattr(shown, "WAIT_S", 0.05)
        for _ in range(5):
            gateway.window(producing=0)
            await world.submit(gateway)
            assert await page(world) == before == {gateway.id: expected(gateway, first)}
    goes_on.set()
    assert await page(world) == {gateway.id: expected(gateway, len(gateway.entries) - 1)}


async def test_what_cannot_be_read_spoils_no_other_row(world: World, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = await world.enrolled(), await world.enrolled("bad")
    for gateway in (good, bad):
        for _ in range(253):
            gateway.window(producing=bits(1))
        await world.submit(gateway)
    tile = world.folder / "data" / "logs" / "g" / bad.id / "tile" / "entries" / "000"
    kept = tile.read_bytes()
    tile.unlink()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert await page(world) == {good.id: expected(good, 255), bad.id: None}
    new = await world.enrolled("new")
    text = render(await world.service.gateways(), name="", lang="en", register_size=3, now_s=0)
    assert (text.count("no window received yet"), text.count("not there yet")) == (1, 1)
    assert new.id in text
    assert [record.message.split(":")[0] for record in caplog.records] == [f"no figures for {bad.id}"], "told once"
    tile.write_bytes(kept)
    bad.window(producing=bits(2))
    await world.submit(bad)
    assert (await page(world))[bad.id] == expected(bad, 256)


async def test_a_roster_that_cannot_be_unpacked_spoils_no_other_row(
        world: World, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = await world.enrolled("bad"), await world.enrolled()
    for gateway in (bad, good):
        gateway.window(producing=bits(1))
        await world.submit(gateway)
    world.restart()  # now no state is in memory
    await world.service.store.write(lambda connection: connection.execute(
        "UPDATE rosters SET rows = x'00' WHERE gateway = ?", (bad.id,)))
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            assert await page(world) == {bad.id: None, good.id: expected(good, len(good.entries) - 1)}
    assert [record.message.split(":")[0] for record in caplog.records] == [f"no figures for {bad.id}"], "told once"


async def test_a_store_of_the_version_before_opens_and_shows_what_it_held(world: World) -> None:
    old, new = await world.enrolled(), await world.enrolled("new")
    old.window(producing=bits(0))
    await world.submit(old)
    held = await page(world)
    world.service.close()
    file = world.folder / "data" / "index.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        for name in ("window_seq", "figures_seq"):
            connection.execute(f"ALTER TABLE gateways DROP COLUMN {name}")
        for log, seq, note in connection.execute("SELECT log, seq, note FROM tail WHERE note IS NOT NULL").fetchall():
            connection.execute("INSERT INTO checkpoints (gateway, size, root, note) VALUES (?, ?, ?, ?)",
                               (log[2:], seq + 1, root_of(note), note))
        connection.execute("ALTER TABLE tail DROP COLUMN note")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    world.open()
    assert await page(world) == held == {old.id: expected(old, 3), new.id: None}
    request = old.batch(first=0)
    old.outage(1)
    await world.submit(old)
    assert await page(world) == held
    assert (await world.service.submit(old.id, request))["size"] == 5, "also what was stored before is known again"
    old.window(producing=bits(0, 1, 2))
    new.window(producing=bits(1))
    for gateway in (old, new):
        await world.submit(gateway)
    assert await page(world) == {old.id: expected(old, 5), new.id: expected(new, 3)}
    world.restart()
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


async def test_states_that_do_not_fit_are_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "SLOTS_IN_MEMORY_MAX", 13)  # two gateways of two devices and four points each
    gateways = [await world.enrolled(f"g{number}") for number in range(4)]
    for _ in range(3):
        for gateway in gateways:
            gateway.window(producing=bits(0, 1))
            await world.submit(gateway)
    held = world.service._states
    assert [gateway.id in held for gateway in gateways] == [False, False, True, True]
    assert held._slots == 12
    for gateway in gateways:
        assert (await world.service.size(gateway.id))["root"] == gateway.tree.root().hex()


async def test_answers_that_are_kept_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "ANSWERS_MAX", 2)
    for number in range(3):
        assert (await world.submit(await world.enrolled(f"g{number}")))["proof"] is None
        assert 0 < len(world.service.register._answers) <= 2


async def test_a_submitter_that_is_gone_leaves_no_state_behind(world: World) -> None:
    """Whoever is cancelled while the batch is being written does not know whether it was."""
    gateway = await world.enrolled()
    await world.submit(gateway)
    gateway.window()
    begun, goes_on = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        begun.set()
        assert goes_on.wait(30)
    holding = asyncio.create_task(world.service.store.write(hold))
    assert await asyncio.to_thread(begun.wait, 30)
    task = asyncio.create_task(world.service.submit(gateway.id, gateway.batch()))
    deadline = asyncio.get_running_loop().time() + 30
    while gateway.id in world.service._states:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    early = asyncio.create_task(world.service.newest_key(gateway.id))  # asks while the batch is not decided
    await asyncio.wait({early}, timeout=0.1)
    goes_on.set()
    await holding
    await early
    await world.service.store.write(lambda connection: None)  # the writer is past the batch
    assert (await world.service.size(gateway.id))["size"] == 4
    gateway.sent = 4
    gateway.window()
    assert (await world.submit(gateway))["size"] == 5


def test_an_edge_gives_the_root_of_the_tree_at_every_size() -> None:
    tree, edge, sizes = Tree(), Edge(), 600
    for number in range(sizes):
        assert edge.root() == tree.root()
        leaf = leaf_hash(str(number).encode())
        tree.append(leaf)
        edge, _ = edge.grow([leaf])
        assert Edge.of(edge.size, edge.levels) == edge
    whole, _ = Edge().grow(tree.leaf(number) for number in range(sizes))
    assert whole == edge
    wide = 256 * 256 + 300
    grown, full = Edge().grow(bytes([number % 251]) * 32 for number in range(wide))
    assert grown.root() == Tree(bytes([number % 251]) * 32 for number in range(wide)).root()
    assert Edge.of(wide, grown.levels) == grown and len(full) == 258
