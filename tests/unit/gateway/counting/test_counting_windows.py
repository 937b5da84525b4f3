"""Window time, events of devices, late samples, changes of the roster."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.counting import kernel
from gateway.counting.registry import Registry
from gateway.counting.rule import Rule
from gateway.counting.window import ClosedWindow, Gap, Windows
from protocols.samples import NOT_LIVE, Block, PollBatch, SampleBatch
from tests.sim.rows import LEDGER, device_row, point_row, registry
from tests.sim.world import NS, Time

START_S = 1_800_000_000
ROSTER = registry(4, 2, gone=frozenset({2}))


def sample(point: int, at_s: float, value: float = 1.0, quality: int = 0) -> SampleBatch:
    one = np.array([1])
    return SampleBatch(point_index=one.astype(np.int64) * point, received_ns=np.array([int(at_s * NS)]),
                       source_ns=np.zeros(1, dtype=np.int64), value=np.array([value]),
                       quality=np.array([quality], dtype=np.uint8))


class Driven:
    """Windows of 5 s that a test lets run second by second."""

    def __init__(self, start_s: float = START_S, grace_ms: int = 2_000) -> None:
        self.time = Time(start_s)
        self.clock = self.time.clock()
        self.windows = Windows(ROSTER, Rule(len_s=5, grace_ms=grace_ms), self.clock)
        self.items: list[ClosedWindow | Gap] = []

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.time.pass_s(1)
            self.items += self.windows.tick()

    @property
    def now(self) -> float:
        return self.clock.now_ns() / NS

    def closed(self) -> list[ClosedWindow]:
        return [item for item in self.items if isinstance(item, ClosedWindow)]


def test_first_window_starts_at_the_next_boundary() -> None:
    driven = Driven(START_S + 1.5)
    assert driven.windows.opens_s == START_S + 5
    driven.windows.samples(sample(0, driven.now))
    driven.run(12)
    first, = driven.closed()
    assert (first.start_s, first.received, first.discarded["late"]) == (START_S + 5, 1, 1)
    assert Driven(START_S).windows.opens_s == START_S


def test_grace_keeps_a_window_open_and_no_longer() -> None:
    driven = Driven()
    driven.run(6)
    driven.windows.samples(sample(0, START_S + 4.9))
    driven.run(1)
    assert driven.closed()[0].columns.producing == 1
    driven.windows.samples(sample(1, START_S + 4.9))
    driven.windows.samples(sample(1, START_S + 4.9, quality=NOT_LIVE))
    driven.windows.samples(PollBatch(block=Block(np.array([1, 99]), 0), received_ns=START_S * NS,
                                     value=np.array([1.0, 2.0]), missing=np.array([], dtype=np.int64)))
    driven.run(5)
    second = driven.closed()[1]
    assert second.columns.sampled == 0 and second.received == 4
    assert {k: v for k, v in second.discarded.items() if v} == {"late": 2, "not_live": 1, "unknown_point": 1}


@pytest.mark.parametrize("seconds", [6, 7])
def test_a_batch_over_a_boundary_is_divided_there_and_what_is_closed_is_late(seconds: int) -> None:
    """After 6 s both windows are open; after 7 s the first of them is closed."""
    driven = Driven()
    driven.run(seconds)
    boundary = (START_S + 5) * NS
    driven.windows.samples(SampleBatch(
        point_index=np.array([0, 1, 2]), received_ns=np.array([boundary - 1, boundary, boundary + 1]),
        source_ns=np.zeros(3, dtype=np.int64), value=np.ones(3), quality=np.zeros(3, dtype=np.uint8)))
    driven.run(12 - seconds)
    first, second = driven.closed()
    late = int(seconds == 7)
    assert (first.columns.producing, first.received) == (1 - late, 1 - late)
    assert (second.columns.producing, second.received, second.discarded["late"]) == (0b110, 2 + late, late)


def test_a_stamp_ahead_of_the_clock_belongs_to_now() -> None:
    driven = Driven()
    driven.run(1)
    driven.windows.samples(sample(0, START_S + 10**6))
    driven.windows.answered([1], (START_S + 10**6) * NS)
    driven.run(7)
    assert (driven.closed()[0].columns.producing, driven.closed()[0].columns.connected) == (1, 3)


def test_value_is_compared_with_that_of_an_earlier_window() -> None:
    driven = Driven()
    for value in (1.0, 1.0, 2.0, None, 2.0, 3.0):
        if value is not None:
            driven.windows.samples(sample(0, driven.now, value))
        driven.run(5)
    driven.run(2)
    assert [w.columns.changing for w in driven.closed()] == [0, 0, 1, 0, 0, 1]


def test_samples_of_the_next_window_do_not_wait_for_the_grace_of_the_last() -> None:
    """Both windows are open; the value of the older one is compared first all the same."""
    driven = Driven()
    driven.windows.samples(sample(0, START_S + 1, 1.0))
    driven.run(6)
    driven.windows.samples(sample(0, START_S + 5.5, 1.0))
    driven.windows.samples(sample(0, START_S + 4.5, 2.0))
    driven.run(7)
    assert [w.columns.changing for w in driven.closed()] == [1, 1]


def test_online_devices_stay_connected_until_offline() -> None:
    driven = Driven()
    driven.run(1)
    driven.windows.online([0, 2, 77, -1], driven.clock.now_ns())
    driven.windows.answered([3], driven.clock.now_ns())
    driven.run(10)
    driven.windows.offline([0], driven.clock.now_ns())
    driven.run(10)
    assert [w.columns.connected for w in driven.closed()] == [0b1001, 1, 1]  # slot 2 is gone, 77 was never there


def test_a_birth_connects_from_its_own_window_on() -> None:
    """It comes within the grace of the window before, which was over when the device came."""
    driven = Driven()
    driven.run(6)
    driven.windows.online([0], driven.clock.now_ns())
    driven.run(12)
    assert [window.columns.connected for window in driven.closed()][:3] == [0, 1, 1]


def test_a_death_older_than_the_birth_is_passed_over() -> None:
    driven = Driven()
    driven.run(3)
    driven.windows.online([0], driven.clock.now_ns())
    driven.windows.offline([0], driven.clock.now_ns() - NS)
    driven.run(10)
    assert [w.columns.connected for w in driven.closed()] == [1, 1]


def test_new_roster_is_in_force_from_the_next_boundary() -> None:
    driven = Driven()
    driven.run(2)
    larger = registry(5, 2)
    assert driven.windows.adopt(larger) == START_S + 5
    assert driven.windows.registry is larger
    driven.windows.samples(sample(9, driven.now))  # not yet there
    driven.run(4)
    driven.windows.samples(sample(9, driven.now))
    driven.windows.online([4], driven.clock.now_ns())
    driven.windows.samples(sample(9, START_S + 4.5))  # grace of the old roster
    driven.run(7)
    old, new = driven.closed()
    assert old.registry is ROSTER and old.discarded["unknown_point"] == 2
    assert new.registry is larger and new.columns.producing == 1 << 9 and new.columns.connected == 1 << 4


def test_planes_of_a_closed_window_do_not_serve_another_roster() -> None:
    """Two windows are open at a time, so that two have planes to be used again, before and after the roster grows."""
    driven = Driven()
    for _ in range(3):
        driven.windows.samples(sample(0, driven.now))
        driven.run(5)
    gone = Registry.of([*ROSTER.device_rows[:3], {**ROSTER.device_rows[3], "state": "gone"}, device_row(4)],
                       [*ROSTER.point_rows, point_row(8, 4)], LEDGER)
    driven.windows.adopt(gone)
    driven.run(5)
    for _ in range(3):
        for point in (1, 6, 8):
            driven.windows.samples(sample(point, driven.now))
        driven.run(5)
    driven.run(3)
    assert [(w.columns.producing, w.discarded["unknown_point"]) for w in driven.closed()] == [
        (1, 0), (1, 0), (1, 0), (0, 0), *[(1 << 1 | 1 << 8, 1)] * 3]


def test_step_of_the_wall_clock_is_measured_and_moves_nothing() -> None:
    driven = Driven()
    driven.run(2)
    driven.time.step_s(30)
    driven.run(6)
    driven.time.step_s(-30.25)
    driven.run(10)
    windows = driven.closed()
    assert [w.start_s for w in windows] == [START_S, START_S + 5, START_S + 10]
    assert [(w.step_ms, w.offset_ms) for w in windows] == [(30_000, 30_000), (-30_250, -250), (0, -250)]


def test_clock_that_stays_away_is_followed_after_a_gap() -> None:
    for step, reason in ((3_600, "clock_forward"), (-3_600, "clock_back")):
        driven = Driven()
        driven.run(7)
        driven.time.step_s(step)
        driven.run(5)
        driven.windows.samples(sample(0, driven.now))
        driven.run(20)
        gap = next(item for item in driven.items if isinstance(item, Gap))
        assert gap.reason == reason and gap.samples in (0, 1)
        at = driven.items.index(gap)
        after = driven.items[at + 1]
        assert isinstance(after, ClosedWindow) and after.start_s == gap.end_s
        assert abs(gap.end_s - driven.time.wall_ns / NS) < 30
        windows = driven.closed()
        assert sum(w.received for w in windows) + (gap.samples or 0) == 1


def test_windows_that_nobody_watched_are_a_gap() -> None:
    driven = Driven()
    driven.windows.online([0], driven.clock.now_ns())
    driven.run(7)
    driven.time.pass_s(60)
    driven.run(10)
    gap, = (item for item in driven.items if isinstance(item, Gap))
    assert gap == Gap(end_s=START_S + 65, reason="off", samples=0)
    assert [w.start_s for w in driven.closed()] == [START_S, START_S + 5, START_S + 65, START_S + 70]


def test_finish_closes_what_has_ended_and_counts_what_is_cut() -> None:
    driven = Driven()
    driven.run(6)
    driven.windows.samples(sample(0, driven.now))
    items, lost = driven.windows.finish()
    assert [i.start_s for i in items if isinstance(i, ClosedWindow)] == [START_S] and lost == 1


def test_samples_that_come_while_a_window_is_closed_are_counted_once_and_in_their_own(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """A closing window is worked off in parts: here one point each, with a late sample and a new one between them."""
    monkeypatch.setattr(kernel, "PART", 8)
    many = registry(8, 8)
    time = Time(START_S)
    windows = Windows(many, Rule(len_s=5, grace_ms=0), time.clock())
    for point in range(64):
        windows.samples(sample(point, START_S + 1, float(point)))
    time.pass_s(5)
    items: list[ClosedWindow | Gap] = []
    parts = 0
    for item in windows.due():
        if item is not None:
            items.append(item)
            continue
        windows.samples(sample(63 - parts, START_S + 2, 7.0))
        windows.samples(sample(63 - parts, START_S + 5, 63.0 - parts + parts % 2))
        windows.online([parts], (START_S + 5) * NS)
        parts += 1
    assert parts == 8
    time.pass_s(5)
    items += windows.tick()
    first, second = items
    assert isinstance(first, ClosedWindow) and isinstance(second, ClosedWindow)
    assert (first.received, first.counted, first.columns.producing) == (64, 64, 2**64 - 1)
    assert first.columns.connected == 255
    assert (second.received, second.counted, second.discarded["late"]) == (16, 8, 8)
    assert second.columns.producing == 0xFF << 56
    assert second.columns.changing == 0b01010101 << 56
    assert second.columns.connected == 255


def test_who_stops_while_a_window_is_closed_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "PART", 8)
    time = Time(START_S)
    windows = Windows(registry(8, 8), Rule(len_s=5, grace_ms=0), time.clock())
    windows.samples(sample(40, START_S + 1))
    time.pass_s(5)
    windows.samples(sample(40, START_S + 5, 2.0))
    assert next(iter(windows.due())) is None
    assert windows.opens_s == START_S + 5
    items, cut = windows.finish()
    assert [(i.start_s, i.columns.producing) for i in items if isinstance(i, ClosedWindow)] == [(START_S, 1 << 40)]
    assert cut == 1
    time.pass_s(5)
    again, = windows.tick()
    assert isinstance(again, ClosedWindow) and again.columns.changing == 1 << 40
