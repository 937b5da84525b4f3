"""What was kept gives the same windows once more, bit for bit: the kernel against a recount from the file."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.counting.rule import Rule
from gateway.counting.window import ClosedWindow, Gap, Windows
from gateway.keeping import segment
from protocols.samples import Block, PollBatch, SampleBatch
from tests.sim.rows import registry
from tests.sim.world import NS, START_S, Time
from tests.unit.gateway.counting import slow_recount as slow
from tests.unit.gateway.keeping.raw_windows import assert_equal, frames_of, recounted, segments, spooled

LEN_S = 5
ROSTER = registry(4, 2, gone=frozenset({2}))
GROWN = registry(5, 2, gone=frozenset({2, 3}))
BLOCK = Block(np.array([1, 4, 7], dtype=np.int64), 0)

# Times around now: windows that are sealed, open, and not begun; the grace keeps two of them open.
offsets_ns = st.sampled_from([-12 * NS, -6 * NS, -3 * NS, -NS, -1, 0, 0, 0, 1, 3 * NS, 9 * NS])
sample = st.tuples(
    st.integers(-1, 9), offsets_ns, st.sampled_from([0, 0, 1, START_S * NS, -(2**63), 2**63 - 1]),
    st.sampled_from([0.0, -0.0, 1.0, 2.5, math.nan, -math.nan, math.inf]),
    st.sampled_from([0, 0, 0, 1, 2, 3, 0x80, 0x81]))
devices = st.lists(st.sampled_from([0, 0, 0, 1, 2, -1, 6]), min_size=1, max_size=2)
step = st.one_of(
    st.tuples(st.just("samples"), st.lists(sample, max_size=6)),
    st.tuples(st.just("poll"), offsets_ns, st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=3, max_size=3),
              st.sets(st.integers(0, 2))),
    st.tuples(st.sampled_from(["answered", "online", "offline"]), devices, offsets_ns),
    st.tuples(st.just("discarded"), st.sampled_from(["queue_full", "undecodable", "unknown_point"]), st.integers(1, 9)),
    st.tuples(st.just("pass"), st.sampled_from([0.3, 1.0, 2.0, 4.9, 5.0])),
    st.tuples(st.just("grow")),
    st.tuples(st.just("sleep"), st.sampled_from([7.0, 11.0])),
    st.tuples(st.just("step_clock"), st.sampled_from([-90.0, 90.0, 61.0])))


def batch_of(rows: list[Any], now_ns: int) -> SampleBatch:
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    dtypes = (np.int64, np.int64, np.int64, np.float64, np.uint8)
    point, received, source, value, quality = (np.array(c, dtype=d) for c, d in zip(columns, dtypes, strict=True))
    texts = tuple((row, f"text {row}") for row in range(0, len(rows), 3))
    return SampleBatch(point_index=point, received_ns=received + now_ns, source_ns=source, value=value,
                       quality=quality, texts=texts)


def play(windows: Windows, time: Time, steps: list[Any]) -> list[ClosedWindow | Gap]:
    items: list[ClosedWindow | Gap] = []

    def pass_s(seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            time.pass_s(0.1)
            items.extend(windows.tick())

    for name, *args in steps:
        now_ns = windows._clock.now_ns()
        if name == "samples":
            windows.samples(batch_of(args[0], now_ns))
        elif name == "poll":
            windows.samples(PollBatch(block=BLOCK, received_ns=now_ns + args[0], value=np.array(args[1]),
                                      missing=np.array(sorted(args[2]), dtype=np.int64)))
        elif name in ("answered", "online", "offline"):
            getattr(windows, name)(args[0], now_ns + args[1])
        elif name == "discarded":
            windows.discarded(args[0], args[1])
        elif name == "pass":
            pass_s(args[0])
        elif name == "grow":
            windows.adopt(GROWN)
        elif name == "sleep":
            time.pass_s(args[0])
            items.extend(windows.tick())
        else:
            time.step_s(args[0])
            pass_s(12)
    pass_s(2 * LEN_S + 4)
    return items


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(step, min_size=4, max_size=30), grace_ms=st.sampled_from([0, 2000, 4000]),
       usable=st.sampled_from([("good",), ("good", "uncertain"), ("uncertain",)]), age_s=st.sampled_from([0, 60]))
def test_a_recount_from_the_file_equals_the_kernel(steps: list[Any], grace_ms: int, usable: tuple[str, ...],
                                                   age_s: int) -> None:
    rule = Rule(len_s=LEN_S, grace_ms=grace_ms, max_source_age_s=age_s, usable=usable)
    time = Time(START_S)
    windows, spool = spooled(ROSTER, rule, time)
    items = play(windows, time, steps)
    closed = [item for item in items if isinstance(item, ClosedWindow)]
    runs = segments(items)
    assert sum(len(run) for run, _ in runs) == len(closed) > 0
    with tempfile.TemporaryDirectory() as folder:
        for run, data in runs:
            assert_equal(run, recounted(run, data, rule, Path(folder)))
            for window in run[1:6]:  # each may be the first of a file: its state then stands for all before it
                alone = segment.write_segment(frames_of(window.raw, first=True))  # type: ignore[arg-type]
                assert_equal([window], recounted([window], alone, rule, Path(folder)))
            for window in run:
                spool.release(window.raw)  # type: ignore[arg-type]
    assert 0 <= spool.held_bytes < 100_000  # of the windows that are still open


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(
    st.integers(-1, 9), st.integers(0, 3 * LEN_S * NS - 1), st.sampled_from([0, 1, START_S * NS]),
    st.sampled_from([0.0, -0.0, 1.0, math.nan]), st.sampled_from([0, 0, 1, 2, 0x80])), max_size=50))
def test_three_counts_agree(rows: list[Any]) -> None:
    rule = Rule(len_s=LEN_S, grace_ms=60_000, max_source_age_s=60)
    time = Time(START_S)
    windows, _ = spooled(ROSTER, rule, time)
    time.pass_s(3 * LEN_S)
    windows._ticked = windows._clock.now_ns()
    absolute = [(p, START_S * NS + at, s, v, q) for p, at, s, v, q in rows]
    windows.samples(batch_of(absolute, 0))
    items = []
    for _ in range(61):
        time.pass_s(1)
        items += windows.tick()
    run, data = segments(items)[0]
    with tempfile.TemporaryDirectory() as folder:
        found = recounted(run, data, rule, Path(folder))
    expected = slow.recount(absolute, [(START_S + LEN_S * i) * NS for i in range(3)], LEN_S * NS,
                            alive=ROSTER.point_alive.tolist(), owner=ROSTER.owner.tolist(), usable=rule.usable,
                            max_age_ns=60 * NS)
    for again, slowly in zip(found, expected, strict=False):
        assert again.sampled == slow.bits_of(slowly.sampled)
        assert again.producing == slow.bits_of(slowly.producing)
        assert again.changing == slow.bits_of(slowly.changing)
        assert again.connected == slow.bits_of(slowly.connected)
        assert (again.received, again.counted, again.discarded) == (
            slowly.received, slowly.counted, slowly.discarded)


def test_what_was_known_before_a_file_is_in_it(tmp_path: Path) -> None:
    """After a gap a new file begins: the last value of a point, who was online, and who had answered ahead of time."""
    rule = Rule(len_s=LEN_S, grace_ms=2000)
    time = Time(START_S)
    windows, _ = spooled(ROSTER, rule, time)
    steps = [("samples", [(0, 0, 0, 1.0, 0)]), ("online", [1], 0), ("pass", 6.0), ("sleep", 11.0),
             ("samples", [(0, 0, 0, 2.0, 0)]), ("pass", 5.0)]
    runs = segments(play(windows, time, steps))
    assert len(runs) == 2
    for run, data in runs:
        assert_equal(run, recounted(run, data, rule, tmp_path))
    first = runs[1][0][0]
    assert any(window.columns.changing & 1 for window in runs[1][0]) and first.columns.connected >> 1 & 1

    windows, _ = spooled(ROSTER, rule, time)
    ahead = [("pass", 4.0), ("sleep", 11.0), ("answered", [0], 0), ("answered", [3], 4 * NS), ("pass", 5.0)]
    for run, data in segments(play(windows, time, ahead)):
        assert_equal(run, recounted(run, data, rule, tmp_path))


births = st.lists(st.one_of(
    st.tuples(st.sampled_from(["online", "offline"]), st.just([0]),
              st.sampled_from([-11 * NS, -6 * NS, -4 * NS, -2 * NS, -1, 0, 0, 3 * NS, 7 * NS])),
    st.tuples(st.just("pass"), st.sampled_from([0.3, 1.0, 3.0, 5.0]))), min_size=6, max_size=24)


@settings(max_examples=60, deadline=None)
@given(steps=births, grace_ms=st.sampled_from([0, 3000, 4900]))
def test_births_and_deaths_out_of_order_and_across_windows(steps: list[Any], grace_ms: int) -> None:
    """One device, nothing but births and deaths, late and ahead of time; each window also as the first of a file."""
    rule = Rule(len_s=LEN_S, grace_ms=grace_ms)
    windows, _ = spooled(ROSTER, rule, time := Time(START_S))
    items = play(windows, time, [("pass", 5.0), *steps])
    with tempfile.TemporaryDirectory() as folder:
        for run, data in segments(items):
            assert_equal(run, recounted(run, data, rule, Path(folder)))
            for window in run:
                alone = segment.write_segment(frames_of(window.raw, first=True))  # type: ignore[arg-type]
                assert_equal([window], recounted([window], alone, rule, Path(folder)))


def test_a_window_that_a_clock_step_cut_leaves_nothing_to_the_one_of_the_same_time(tmp_path: Path) -> None:
    rule = Rule(len_s=LEN_S, grace_ms=2000)
    windows, _ = spooled(ROSTER, rule, time := Time(START_S))
    items: list[ClosedWindow | Gap] = []
    for tenth in range(900):
        if tenth == 70:
            time.step_s(-61)  # followed ten seconds later, in the middle of a window; then its time comes again
        if tenth % 5 == 0:
            windows.samples(batch_of([(0, 0, 0, float(tenth % 3), 0)], windows._clock.now_ns()))
        time.pass_s(0.1)
        items += windows.tick()
    assert any(isinstance(item, Gap) for item in items)
    starts = [item.start_s for item in items if isinstance(item, ClosedWindow)]
    runs = segments(items)
    assert len(runs) == 2 and len(set(starts)) < len(starts)
    for run, data in runs:
        assert_equal(run, recounted(run, data, rule, tmp_path))


def test_of_equal_times_the_source_decides_what_is_carried_over(tmp_path: Path) -> None:
    rule = Rule(len_s=LEN_S, grace_ms=2000)
    windows, _ = spooled(ROSTER, rule, time := Time(START_S))
    newer, older = START_S * NS, START_S * NS - 5
    steps = [("samples", [(0, 0, newer, 1.0, 0), (0, 0, older, 2.0, 0)]), ("pass", 5.0),
             ("samples", [(0, 0, newer, 1.0, 0)])]
    ((run, data),) = segments(play(windows, time, steps))
    assert [window.columns.changing & 1 for window in run[:2]] == [1, 0]
    assert_equal(run, recounted(run, data, rule, tmp_path))
