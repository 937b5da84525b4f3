"""What the driver tests stand on: a clock that a busy machine does not move, and a port that nobody else is given."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.unit.protocols.modbus.recording import TURN_S, closed_port, steady


async def test_a_process_that_stands_still_loses_a_moment_of_the_steady_clock() -> None:
    steady()
    now_s = asyncio.get_running_loop().time
    began_s = now_s()
    time.sleep(20 * TURN_S)
    assert now_s() - began_s <= 1.01 * TURN_S


async def test_what_is_waited_for_by_the_steady_clock_takes_its_time_by_any_other() -> None:
    steady()
    machine_s, now_s = time.monotonic(), asyncio.get_running_loop().time()
    await asyncio.sleep(5 * TURN_S)
    waited_s = asyncio.get_running_loop().time() - now_s
    assert time.monotonic() - machine_s >= waited_s >= 4.99 * TURN_S


async def test_a_closed_port_refuses_and_may_be_listened_on_and_refuses_again() -> None:
    with closed_port() as port:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
