"""The kernel against a slow recount: any batches, in any order, with repeats."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.counting import kernel
from gateway.counting.registry import Registry
from gateway.counting.rule import SOURCE_AGE_S_MAX, Rule
from gateway.counting.window import ClosedWindow, Gap, Windows
from protocols.errors import ConfigError
from protocols.samples import Block, PollBatch, SampleBatch
from protocols.terms.vocabulary import DISCARD_REASONS
from tests.sim.rows import registry
from tests.sim.world import Time
from tests.unit.gateway.counting import slow_recount as slow

NS = 10**9
LEN_S, START_S, COUNT = 5, 1_800_000_000, 3
ROSTER = registry(4, 2, gone=frozenset({2}))
ALIVE = [p // 2 != 2 for p in range(8)]
OWNER = [p // 2 for p in range(8)]

sources = st.sampled_from([0, 1, START_S * NS, (START_S - 90) * NS, (START_S + 99) * NS, -(2**63), 2**63 - 1])
# Few points and few times, so that samples of one point often share a window, a time of arrival and a source time.
times = st.one_of(st.sampled_from([(START_S + LEN_S * i) * NS + at for i in range(COUNT) for at in (0, 7, NS)]),
                  st.integers(START_S * NS, (START_S + COUNT * LEN_S) * NS - 1))
samples = st.tuples(
    st.one_of(st.sampled_from([0, 0, 7]), st.integers(-2, 10)), times, sources,
    st.sampled_from([0.0, -0.0, 1.0, 2.5, math.nan, -math.nan, math.inf, -math.inf, 5e-324]),
    st.sampled_from([0, 0, 0, 1, 2, 3, 0x80, 0x81, 0xFF]))


def batch_of(rows: list) -> SampleBatch:
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    dtypes = (np.int64, np.int64, np.int64, np.float64, np.uint8)
    point, received, source, value, quality = (np.array(c, dtype=d) for c, d in zip(columns, dtypes, strict=True))
    return SampleBatch(point_index=point, received_ns=received, source_ns=source, value=value, quality=quality)


def open_windows(rule: Rule, roster: Registry = ROSTER) -> tuple[Windows, Time]:
    time = Time(START_S)
    windows = Windows(roster, rule, time.clock())
    for _ in range(COUNT * LEN_S):
        time.pass_s(1)
        assert windows.tick() == []
    return windows, time


def closed(windows: Windows, time: Time) -> list[ClosedWindow]:
    items: list[ClosedWindow | Gap] = []
    for _ in range(62):
        time.pass_s(1)
        items += windows.tick()
    result = [item for item in items if isinstance(item, ClosedWindow)][:COUNT]
    assert [w.start_s for w in result] == [START_S + LEN_S * i for i in range(COUNT)]
    return result


def deliver(batches: list[SampleBatch], rule: Rule) -> list[ClosedWindow]:
    windows, time = open_windows(rule)
    for batch in batches:
        windows.samples(batch)
    return closed(windows, time)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(samples, max_size=60), cuts=st.integers(1, 8), seed=st.randoms(use_true_random=False),
       usable=st.sampled_from([("good",), ("good", "uncertain"), ("uncertain",)]), age_s=st.sampled_from([0, 60, 3600]))
def test_kernel_equals_slow_recount_in_any_order(rows: list, cuts: int, seed: random.Random, usable: tuple,
                                                 age_s: int) -> None:
    rule = Rule(len_s=LEN_S, grace_ms=60_000, max_source_age_s=age_s, usable=usable)
    starts = [(START_S + LEN_S * i) * NS for i in range(COUNT)]
    expected = slow.recount(rows, starts, LEN_S * NS, alive=ALIVE, owner=OWNER, usable=usable,
                            max_age_ns=age_s * NS)
    found = deliver([batch_of(rows[i::cuts]) for i in range(cuts)], rule)
    for window, slowly in zip(found, expected, strict=True):
        assert window.columns.sampled == slow.bits_of(slowly.sampled)
        assert window.columns.producing == slow.bits_of(slowly.producing)
        assert window.columns.changing == slow.bits_of(slowly.changing)
        assert window.columns.connected == slow.bits_of(slowly.connected)
        assert (window.received, window.counted) == (slowly.received, slowly.counted)
        assert dict(window.discarded) == slowly.discarded

    again = seed.sample(rows + rows, k=2 * len(rows))  # order and repeats change the raw counts only
    twice = deliver([batch_of(again[i::cuts]) for i in range(cuts)], rule)
    for window, first in zip(twice, found, strict=True):
        assert window.columns == first.columns
        assert (window.received, window.counted) == (2 * first.received, 2 * first.counted)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.tuples(st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=3, max_size=3),
                                 st.sets(st.integers(0, 2)), st.integers(0, COUNT * LEN_S * NS - 1)), max_size=12))
def test_a_poll_counts_like_its_samples(values: list) -> None:
    rule = Rule(len_s=LEN_S, grace_ms=60_000)
    block = Block(np.array([1, 4, 7], dtype=np.int64), 0)  # point 4 is of the device that is gone
    polls = [PollBatch(block=block, received_ns=START_S * NS + at, value=np.array(v),
                       missing=np.array(sorted(gone), dtype=np.int64)) for v, gone, at in values]
    as_polls = deliver(polls, rule)  # type: ignore[arg-type]
    as_samples = deliver([poll.samples() for poll in polls], rule)
    assert as_polls == as_samples


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(samples, max_size=40), lost=st.lists(st.sampled_from(DISCARD_REASONS)))
def test_conservation_and_nesting(rows: list, lost: list[str]) -> None:
    windows, time = open_windows(Rule(len_s=LEN_S, grace_ms=60_000))
    windows.samples(batch_of(rows))
    for reason in lost:
        windows.discarded(reason, 3)
    result = closed(windows, time)
    assert sum(w.received for w in result) == len(rows) or lost
    for window in result:
        assert window.received == window.counted + sum(window.discarded.values())
        assert set(window.discarded) == set(DISCARD_REASONS)
        columns = window.columns
        assert columns.changing & ~columns.producing == 0 == columns.producing & ~columns.sampled
        assert all(columns.connected >> OWNER[p] & 1 for p in range(8) if columns.producing >> p & 1)
        assert columns.connected >> 2 & 1 == 0  # a tombstone has no bit


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(samples, max_size=60), cuts=st.integers(1, 4), block=st.integers(1, 5))
def test_planes_of_a_closed_window_serve_again(rows: list, cuts: int, block: int) -> None:
    """Window by window, in small blocks: what is left of an earlier window is a guess that decides nothing."""
    rule = Rule(len_s=LEN_S, grace_ms=0)
    starts = [(START_S + LEN_S * i) * NS for i in range(COUNT)]
    expected = slow.recount(rows, starts, LEN_S * NS, alive=ALIVE, owner=OWNER, usable=rule.usable,
                            max_age_ns=rule.max_source_age_s * NS)
    time = Time(START_S)
    windows = Windows(ROSTER, rule, time.clock())
    found: list[ClosedWindow | Gap] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kernel, "BLOCK", block)
        for start in starts:
            of_window = [row for row in rows if start <= row[1] < start + LEN_S * NS]
            time.pass_s(LEN_S - 1)
            found += windows.tick()
            for batch in (batch_of(of_window[i::cuts]) for i in range(cuts)):
                windows.samples(batch)
            time.pass_s(1)
            found += windows.tick()
    for window, slowly in zip(found, expected, strict=True):
        assert isinstance(window, ClosedWindow)
        assert [getattr(window.columns, name) for name in ("sampled", "producing", "changing", "connected")] == [
            slow.bits_of(getattr(slowly, name)) for name in ("sampled", "producing", "changing", "connected")]
        assert (window.received, window.counted, dict(window.discarded)) == (
            slowly.received, slowly.counted, slowly.discarded)


def test_order_of_equal_times_decides_nothing() -> None:
    """One notification may carry several values of a point, all stamped alike: what is carried over is one of them."""
    rule = Rule(len_s=LEN_S, grace_ms=60_000)
    first = [(0, START_S * NS, 0, v, 0) for v in (1.0, 2.0)]
    then = [(0, (START_S + LEN_S) * NS, 0, 2.0, 0)]
    one, other = deliver([batch_of(first + then)], rule), deliver([batch_of(first[::-1] + then)], rule)
    assert one == other
    assert [w.columns.changing for w in one] == [1, 0, 0]


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["guessed", "new"])
@pytest.mark.parametrize("sources", [(9, 3), (3, 9)], ids=["falling", "rising"])
def test_of_equal_values_that_came_at_once_the_last_source_time_counts(value: float, sources: tuple[int, int]) -> None:
    """A third value that came with them has a source time between theirs: it is not the newest."""
    at = START_S * NS
    first = [(0, at, at + source, value, 0) for source in sources]
    then = [(0, at + LEN_S * NS, 0, value, 0)]
    found = deliver([batch_of(first), batch_of([(0, at, at + 5, 2.0, 0)]), batch_of(then)],
                    Rule(len_s=LEN_S, grace_ms=60_000))
    assert [window.columns.changing for window in found] == [1, 0, 0]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("swapped", [True, False])
def test_the_newest_value_is_carried_over_whatever_came_first(together: bool, swapped: bool) -> None:
    """Every pair of samples that differ in time of arrival, source time or value, a point each; then one value more."""
    kinds = list(itertools.product((0, 1), (1, 2), (-1.0, 1.0, 2.0)))
    cases = list(itertools.product(kinds, kinds, (-1.0, 1.0, 2.0)))
    roster = registry(1, len(cases))
    start = START_S * NS
    first = [(p, start + at, source, v, 0) for p, (one, _, _) in enumerate(cases) for at, source, v in [one]]
    second = [(p, start + at, source, v, 0) for p, (_, two, _) in enumerate(cases) for at, source, v in [two]]
    then = [(p, start + LEN_S * NS, 1, v, 0) for p, (_, _, v) in enumerate(cases)]
    rule = Rule(len_s=LEN_S, grace_ms=60_000, max_source_age_s=SOURCE_AGE_S_MAX)
    first, second, then = ([(p, r, start + s, v, q) for p, r, s, v, q in rows] for rows in (first, second, then))
    starts = [start + LEN_S * NS * i for i in range(COUNT)]
    expected = slow.recount(first + second + then, starts, LEN_S * NS, alive=[True] * len(cases),
                            owner=[0] * len(cases), usable=rule.usable, max_age_ns=SOURCE_AGE_S_MAX * NS)
    parts = [second, first] if swapped else [first, second]
    batches = [batch_of(parts[0] + parts[1]), batch_of(then)] if together else [batch_of(r) for r in (*parts, then)]
    windows, time = open_windows(rule, roster)
    for batch in batches:
        windows.samples(batch)
    found = closed(windows, time)
    assert [w.columns.changing for w in found] == [slow.bits_of(w.changing) for w in expected]
    assert 0 < found[1].columns.changing.bit_count() < len(cases)


@pytest.mark.parametrize(("rule", "problems"), [
    ({"len_s": 7}, 1), ({"len_s": 0, "grace_ms": -1}, 2), ({"max_source_age_s": 10**12, "usable": ()}, 2),
    ({"usable": ("good", "good"), "len_s": 7_200, "grace_ms": 10**6}, 3), ({"usable": ("bad",)}, 1)])
def test_rule_refuses_everything_that_is_wrong_at_once(rule: dict, problems: int) -> None:
    with pytest.raises(ConfigError) as caught:
        Rule(**rule)
    assert len(caught.value.problems) == problems
