"""Batches that are written together: the same rows as one by one, and one that cannot be written harms no other."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from protocols.errors import EvidenceError
from protocols.evidence import keys
from tests.support.scripted_gateway import ScriptedGateway, bits
from tests.unit.verifier.platform.test_platform_service import NOW_S, World
from verifier.platform import store, together
from verifier.platform.refusal import ConflictError, RefusalError

PATIENCE_S = 30
TABLES = ("gateways", "tail", "checkpoints", "rosters", "keys")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "one")
    yield made
    made.service.close()


def rows_of(world: World) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(world.folder / "data" / "index.sqlite")) as connection:
        return {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in TABLES}


async def begun(world: World, count: int) -> list[ScriptedGateway]:
    gateways = [await world.enrolled(f"g{number}") for number in range(count)]
    for gateway in gateways:
        await world.submit(gateway)
    return gateways


@asynccontextmanager
async def held_back(world: World, count: int) -> AsyncIterator[None]:
    """Keep the writer busy until `count` batches wait for it: then it takes all of them together."""
    begun, goes_on = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        begun.set()
        assert goes_on.wait(PATIENCE_S)

    async def release() -> None:
        while len(world.service.store._waiting) < count:
            await asyncio.sleep(0)
        goes_on.set()
    holding = asyncio.create_task(world.service.store.write(hold))
    try:
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            releasing = asyncio.create_task(release())
            yield
            await releasing
    finally:
        goes_on.set()
        await holding


async def submitted(world: World, gateways: list[ScriptedGateway]) -> list[Any]:
    return list(await asyncio.gather(*(world.submit(gateway) for gateway in gateways), return_exceptions=True))


async def test_the_same_rows_as_one_by_one(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[int] = []
    write = together.write_together

    def watched(connection: sqlite3.Connection, batches: list[together.Plain]) -> bool:
        done = write(connection, batches)
        joined.append(len(batches) if done else 0)
        return done
    monkeypatch.setattr(store, "write_together", watched)
    gateways = await begun(world, 11)
    world.service.close()
    shutil.copytree(world.folder, tmp_path / "single")
    world.open()
    single = World(tmp_path / "single")
    try:
        for number in range(4):
            for index, gateway in enumerate(gateways):
                for _ in range(1 + (index + number) % 3):
                    gateway.window(producing=bits(index % 4))
            batches = {gateway.id: gateway.batch() for gateway in gateways}
            for each, way in ((single, lambda *_: False), (world, watched)):
                monkeypatch.setattr(store, "write_together", way)
                async with held_back(each, len(gateways)):
                    answers = await asyncio.gather(*(each.service.submit(*batch) for batch in batches.items()))
            for gateway, answer in zip(gateways, answers, strict=True):
                gateway.sent = answer["size"]
        assert rows_of(world) == rows_of(single)
    finally:
        single.service.close()
    assert joined[-4:] == [11] * 4 and 0 not in joined


async def test_one_that_was_revoked_does_not_hold_up_the_others(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gateways = await begun(world, 7)
    ended = gateways[3]
    await world.service.revoke(world.service.sign_revocation(
        ended.id, keys.public_bytes(ended.key).hex(), len(ended.entries)))
    for gateway in gateways:
        gateway.window()
    answers = await submitted(world, gateways)
    refused = answers.pop(3)
    assert isinstance(refused, RefusalError) and refused.problem.code == "platform.revoked"
    assert [answer["size"] for answer in answers] == [4] * 6
    assert (await world.service.size(ended.id))["size"] == 3
    joined, write = list[bool](), together.write_together

    def watched(connection: sqlite3.Connection, batches: list[together.Plain]) -> bool:
        joined.append(write(connection, batches))
        return joined[-1]
    monkeypatch.setattr(store, "write_together", watched)
    for gateway in gateways:
        gateway.window()
    answers = await submitted(world, gateways)  # it goes on: from now on it is known
    assert str(answers.pop(3)) == str(refused) and [answer["size"] for answer in answers] == [5] * 6
    assert joined and all(joined)
    await world.service.revoke(world.service.sign_revocation(ended.id, keys.public_bytes(ended.key).hex(), 2))
    with pytest.raises(RefusalError, match=r"'from_size': '?2"):
        await world.submit(ended)
    world.restart()
    for gateway in gateways:
        if gateway is not ended:
            assert (await world.service.size(gateway.id))["root"] == gateway.tree.root().hex()


async def test_what_stands_before_its_end_is_taken_from_one_that_was_refused(world: World) -> None:
    gateway, = await begun(world, 1)
    whole = len(gateway.entries) + 2
    await world.service.revoke(world.service.sign_revocation(
        gateway.id, keys.public_bytes(gateway.key).hex(), whole))
    gateway.window()
    short = gateway.batch()
    gateway.window()
    last = gateway.batch(first=whole - 1)
    gateway.window()
    for _ in range(2):  # told by the writer, then known
        with pytest.raises(RefusalError, match=r"platform\.revoked"):
            await world.submit(gateway)
    for batch, size in ((short, whole - 1), (last, whole)):
        assert (await world.service.submit(gateway.id, batch))["size"] == size


@pytest.mark.parametrize("change", ["INSERT INTO tail (log, seq, data) VALUES ('g/' || ?, 3, x'00')",
                                    "UPDATE gateways SET size = 2 WHERE id = ?"], ids=["tail", "size"])
async def test_a_store_that_was_changed_by_another_hand_is_noticed(world: World, change: str) -> None:
    gateways = await begun(world, 2)
    for gateway in gateways:
        gateway.window()
    await world.service.store.write(lambda connection: connection.execute(change, (gateways[0].id,)))
    answers = await submitted(world, gateways)
    assert isinstance(answers[0], EvidenceError)
    assert answers[1]["size"] == 4


async def test_what_the_database_cannot_take_at_all_does_not_end_the_writer(world: World) -> None:
    gateways = await begun(world, 2)
    for gateway in gateways:
        gateway.window()
    world.clock.now_s = 2**63
    async with asyncio.timeout(30):
        assert [type(answer) for answer in await submitted(world, gateways)] == [OverflowError] * 2
        world.clock.now_s = NOW_S
        assert [answer["size"] for answer in await submitted(world, gateways)] == [4, 4]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_every_row_is_written_once(count: int) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE tail (log TEXT, seq INTEGER, data BLOB, note BLOB)")
        rows = [("g", number, b"x", None) for number in range(count)]
        assert together._run(connection, together.TAIL, rows) == count
        assert connection.execute("SELECT * FROM tail ORDER BY seq").fetchall() == rows


async def test_a_checkpoint_is_known_before_and_behind_a_full_tile(world: World) -> None:
    """Repeats are answered and a second history is found wherever the checkpoint of that size lies by now."""
    gateway = await world.enrolled()
    requests = []
    for count in (100, 53, 103, 40):  # 103, 156, 259 and 299 entries
        for _ in range(count):
            gateway.window(producing=bits(0))
        requests.append(gateway.batch())
        await world.submit(gateway)
    with closing(sqlite3.connect(world.folder / "data" / "index.sqlite")) as connection:
        assert connection.execute("SELECT size FROM checkpoints ORDER BY size").fetchall() == [(103,), (156,)]
        assert connection.execute("SELECT seq + 1 FROM tail WHERE note IS NOT NULL ORDER BY seq").fetchall() == [
            (259,), (299,)]
    register = world.service.register
    for number, request in enumerate(requests):
        assert (await world.service.submit(gateway.id, request))["size"] == 299
        size = request["first"] + len(request["entries"])
        other = {**request, "checkpoint": gateway.checkpoint(size, root=bytes([number]) * 32)}
        before = register.size
        with pytest.raises(ConflictError):
            await world.service.submit(gateway.id, other)
        assert register.size == before + 1, "a fork"
