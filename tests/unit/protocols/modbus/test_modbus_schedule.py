from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from protocols.modbus.schedule import RECONNECT_MAX_S, SILENT_MAX_S, UnitState, reconnect_s


def test_one_dead_unit_of_thirty_costs_the_others_less_than_a_tenth() -> None:
    """The loop of the driver in virtual time: an answer takes 5 ms, the dead unit a timeout of 1 s each time."""
    rng, now_s, until_s, poll_s = random.Random(1), 0.0, 1800.0, 1.0
    units = {unit: UnitState(0.0) for unit in range(1, 31)}
    polls = dict.fromkeys(units, 0)
    while now_s < until_s:
        unit = min(units, key=lambda u: units[u].due_s)
        now_s = max(now_s, units[unit].due_s)
        polls[unit] += 1
        if unit == 13:
            now_s += 1.0
            units[unit] = units[unit].failed(now_s=now_s, poll_s=poll_s, chance=rng.random())
        else:
            now_s += 0.005
            units[unit] = units[unit].answered(now_s=now_s, poll_s=poll_s)
    alive = [count for unit, count in polls.items() if unit != 13]
    assert min(alive) >= 0.9 * until_s / poll_s
    assert max(alive) - min(alive) <= 2
    assert polls[13] >= until_s / SILENT_MAX_S - 1, "the dead unit is still asked at least every 30 s"


def test_an_answer_restores_the_full_rate() -> None:
    state = UnitState(0.0)
    for now_s in range(10):
        state = state.failed(now_s=float(now_s), poll_s=1.0, chance=0.0)
    assert state.is_silent
    assert state.due_s == 9.0 + SILENT_MAX_S
    state = state.answered(now_s=39.0, poll_s=1.0)
    assert not state.is_silent
    assert state.due_s == 40.0


def test_one_missed_reply_does_not_demote() -> None:
    state = UnitState(5.0).failed(now_s=5.5, poll_s=1.0, chance=0.5)
    assert not state.is_silent
    assert state.due_s == 6.0


def test_late_polls_are_not_made_up_for() -> None:
    assert UnitState(0.0).answered(now_s=0.2, poll_s=1.0).due_s == 1.0
    assert UnitState(0.0).answered(now_s=7.3, poll_s=1.0).due_s == 7.3


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_reconnecting_waits_at_most_thirty_seconds_and_never_spins(attempt: int, chance: float) -> None:
    wait_s = reconnect_s(attempt, chance=chance)
    assert wait_s <= RECONNECT_MAX_S == 30.0
    assert wait_s == 0.0 if attempt == 0 else wait_s >= 0.375
