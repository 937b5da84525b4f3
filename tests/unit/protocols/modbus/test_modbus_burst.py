"""One timer watches over all bursts of a connection; none may wait longer than its own unit's timeout."""

from __future__ import annotations

import asyncio

import pytest

from protocols.errors import DeviceError, Problem
from protocols.modbus.burst import Burst, Tap
from protocols.modbus.cycle import Cycle
from tests.unit.protocols.modbus.recording import until
from tests.unit.protocols.modbus.test_modbus_cycle import read, reply


def burst(timeout_s: float) -> tuple[Burst, Cycle]:
    cycle = Cycle([read(1, "holding", 0, 4)])
    cycle.begin()
    cycle.number(1)
    return Burst(cycle, [], lambda data: None, in_flight=1, timeout_s=timeout_s, clock_ns=lambda: 0,
                 problem=lambda code, **args: Problem.of("line", code, **args)), cycle


async def test_a_short_timeout_behind_a_long_one_is_kept() -> None:
    tap = Tap(None)
    answered, cycle = burst(60.0)
    tap.begin(answered)
    tap.data_received(reply(cycle, 1, 0))
    await asyncio.wait_for(answered.ended, 10)
    silent, _ = burst(0.02)
    tap.begin(silent)
    with pytest.raises(DeviceError) as caught:
        await asyncio.wait_for(silent.ended, 10)
    assert caught.value.problems[0].code == "modbus.timeout"


async def test_a_timer_of_a_burst_that_ended_does_not_end_the_next() -> None:
    tap = Tap(None)
    first, cycle = burst(0.02)
    tap.begin(first)
    begun_at_s = tap._looks_s
    tap.data_received(reply(cycle, 1, 0))
    await first.ended
    second, cycle = burst(60.0)
    tap.begin(second)
    assert tap._looks_s == begun_at_s, "the timer of the first serves the second"
    await until(lambda: tap._looks_s > begun_at_s + 30, what="a look that found nothing late")
    tap.data_received(reply(cycle, 1, 0))
    await asyncio.wait_for(second.ended, 10)


async def test_a_timer_that_finds_nobody_is_not_set_again() -> None:
    tap = Tap(None)
    only, cycle = burst(0.02)
    tap.begin(only)
    tap.data_received(reply(cycle, 1, 0))
    await only.ended
    tap.burst = None
    await until(lambda: tap._timer is None)
