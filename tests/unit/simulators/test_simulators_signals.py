"""Signals: repeatable, quantised, machine-like; and what `moves` promises is kept by every signal of the catalogue."""

from __future__ import annotations

import itertools

import pytest

from simulators.catalogue import KINDS, Kind, counter, drift, gated
from simulators.signals import CHANGE_HORIZON_S, Machine, Moves, Phase, Rhythm, quantise

QUICK = Rhythm(off_s=5, idle_s=5, setup_s=4, run_s=10, burst_s=3, cycle_s=2)


def history(kind: Kind, seed: str, seconds: int) -> list[list[object]]:
    machine = Machine(kind.signals, kind.rhythm, seed)
    return [list(machine.values)] + [list(machine.step(1.0)) for _ in range(seconds)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.prefix)
def test_signals_keep_what_they_promise_about_change(kind: Kind) -> None:
    for seed in range(6):
        rows = history(kind, f"promise/{seed}", CHANGE_HORIZON_S * 4)
        for column, signal in enumerate(kind.signals):
            series = [row[column] for row in rows]
            windows = [series[i:i + CHANGE_HORIZON_S] for i in range(0, len(series) - CHANGE_HORIZON_S, 7)]
            if signal.moves is Moves.ALWAYS:
                assert all(len(set(window)) > 1 for window in windows), signal.key
            elif signal.moves is Moves.NEVER:
                assert len(set(series)) == 1, signal.key


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.prefix)
def test_every_machine_has_a_parameter_that_always_moves(kind: Kind) -> None:
    assert any(s.role == "parameter" and s.moves is Moves.ALWAYS for s in kind.signals)


def test_the_same_seed_gives_the_same_machine_and_another_seed_another() -> None:
    kind = KINDS[0]
    assert history(kind, "a", 200) == history(kind, "a", 200)
    assert history(kind, "a", 200) != history(kind, "b", 200)


def test_a_machine_idles_works_and_bursts() -> None:
    machine = Machine(KINDS[0].signals, KINDS[0].rhythm, "phases")
    phases = []
    for _ in range(3600):
        machine.step(1.0)
        phases.append(machine.phase)
    assert {Phase.IDLE, Phase.SETUP, Phase.RUN, Phase.BURST} <= set(phases)
    spells = [(phase, len(list(group))) for phase, group in itertools.groupby(phases)]
    assert max(length for _, length in spells) > 20  # quiet for long
    assert min(length for phase, length in spells if phase is Phase.BURST) < 10


def test_a_gated_signal_is_exactly_zero_outside_work() -> None:
    machine = Machine((gated("spindle_speed", "rpm", 400, 6000, 1),), QUICK, "gate")
    seen = set()
    for _ in range(600):
        value = machine.step(1.0)[0]
        working = machine.phase in (Phase.RUN, Phase.BURST)
        seen.add(working)
        assert (value != 0) == working
    assert seen == {True, False}


def test_a_counter_only_grows_until_it_starts_again_from_zero() -> None:
    machine = Machine((counter("parts", 50),), QUICK, "count")
    values = [int(machine.step(1.0)[0]) for _ in range(2000)]
    drops = [(a, b) for a, b in itertools.pairwise(values) if b < a]
    assert drops, "never reset"
    assert all(a >= 45 and b <= 5 for a, b in drops)
    assert max(b - a for a, b in itertools.pairwise(values)) <= 2
    assert max(values) < 50


def test_a_drifting_temperature_stands_still_most_of_the_time_and_yet_drifts() -> None:
    machine = Machine((drift("oil_temp", "°C", 32, 58, 0.5),), Rhythm(run_s=300), "drift")
    values = [float(machine.step(1.0)[0]) for _ in range(1800)]
    still = sum(a == b for a, b in itertools.pairwise(values))
    assert still > 0.8 * len(values)
    assert max(values) - min(values) > 2
    assert max(abs(a - b) for a, b in itertools.pairwise(values)) <= 1.0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.prefix)
def test_numbers_are_multiples_of_the_step_and_of_their_own_type(kind: Kind) -> None:
    for row in history(kind, "steps", 120):
        for signal, value in zip(kind.signals, row, strict=True):
            if signal.shape == "switch":
                assert isinstance(value, bool)
            elif signal.shape == "program":
                assert value in signal.texts
            elif signal.whole:
                assert isinstance(value, int)
                assert 0 <= value <= signal.high
            else:
                assert isinstance(value, float)
                assert value == quantise(value, signal)
                assert abs(value / signal.step - round(value / signal.step)) < 1e-6
                assert signal.low < 0 or value >= 0
