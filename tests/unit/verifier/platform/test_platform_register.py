"""The register's tree is what is committed, also when whoever wanted an entry is gone by then."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from protocols.evidence import checkpoint, note
from tests.support.scripted_gateway import ScriptedGateway
from tests.unit.verifier.platform.test_platform_service import World
from tests.unit.verifier.platform.test_platform_statements import revocation
from verifier.platform.refusal import RefusalError
from verifier.platform.statements import Stated

PATIENCE_S = 30


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.service.close()


async def enrol(world: World, _: ScriptedGateway) -> Callable[[], Awaitable[Any]]:
    request = ScriptedGateway(name="two").enrol_request(await world.token())
    return lambda: world.service.enrol(request)


async def state(world: World, gateway: ScriptedGateway) -> Callable[[], Awaitable[Any]]:
    return lambda: world.service.state(revocation(gateway, 9))


async def fork(world: World, gateway: ScriptedGateway) -> Callable[[], Awaitable[Any]]:
    request = gateway.batch(first=0, checkpoint=gateway.checkpoint(root=b"x" * 32))
    return lambda: world.service.submit(gateway.id, request)


async def heads(world: World, _: ScriptedGateway) -> Callable[[], Awaitable[Any]]:
    return world.round


@pytest.mark.parametrize("begin", [enrol, state, fork, heads])
async def test_the_tree_follows_what_is_committed_when_its_caller_is_gone(
        world: World, begin: Callable[[World, ScriptedGateway], Awaitable[Callable[[], Awaitable[Any]]]]) -> None:
    gateway = await world.enrolled()
    await world.submit(gateway)
    work = await begin(world, gateway)
    before = world.service.register.size
    begun, goes_on = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        begun.set()
        assert goes_on.wait(PATIENCE_S)
    holding = asyncio.create_task(world.service.store.write(hold))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    task = asyncio.ensure_future(work())
    async with asyncio.timeout(PATIENCE_S):
        while not world.service.store._waiting:
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    goes_on.set()
    await holding
    third = ScriptedGateway(name="three")  # whoever comes next stands behind it
    await world.service.enrol(third.enrol_request(await world.token()))
    assert world.service.register.size == before + 2
    held = world.service.register.checkpoint
    assert held is not None
    head = checkpoint.parse_text(note.parse(held, where="test").text, where="test")
    assert (head.size, head.root) == (before + 2, world.service.register.tree.root())
    world.restart()  # finds that the tiles give the checkpoint's root, or refuses
    assert (world.service.register.size, world.service.register.checkpoint) == (before + 2, held)
    if begin is state:
        assert await world.service.state(revocation(gateway, 9)) == Stated(index=before, fresh=False)


async def test_what_a_change_raised_for_nobody_is_a_line_in_the_log(
        world: World, caplog: pytest.LogCaptureFixture) -> None:
    gateway = await world.enrolled()
    await world.service.state(revocation(gateway, 9))
    told = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    begun, goes_on = threading.Event(), threading.Event()

    def refused(_: sqlite3.Connection) -> tuple[None, None]:
        begun.set()
        assert goes_on.wait(PATIENCE_S)
        raise RefusalError.of(409, "from_size", "statements.revoked_already")
    task = asyncio.create_task(world.service.register.change(refused))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    goes_on.set()
    await world.service.register.change(lambda _: (None, None))  # stands behind it
    await asyncio.sleep(0)
    gc.collect()
    with pytest.raises(RefusalError):  # who waits is told, and nothing is logged
        await world.service.state(revocation(gateway, 10))
    assert told == []
    assert [record.getMessage() for record in caplog.records if record.name == "verifier.platform.register"] == [
        "a change that nobody waits for any more was not made: "
        "RefusalError: 409: from_size: statements.revoked_already {}"]
