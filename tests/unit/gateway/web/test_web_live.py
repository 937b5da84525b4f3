"""Last values: the newest of each point, whatever comes in whatever order; bounded, and harmless to what counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gateway.web import live as room
from gateway.web.live import Cell, Live
from protocols.samples import BAD, GOOD, NOT_LIVE, Block, PollBatch, SampleBatch

OWNER = np.array([0, 0, 1, 1], dtype=np.int64)


def batch(rows: list[tuple[int, int, float, int]], texts: tuple[tuple[int, str], ...] = ()) -> SampleBatch:
    """Rows of (point, received_ns, value, quality)."""
    points, received, values, qualities = zip(*rows, strict=True)
    return SampleBatch(
        point_index=np.array(points, dtype=np.int64), received_ns=np.array(received, dtype=np.int64),
        source_ns=np.array(received, dtype=np.int64) - 1, value=np.array(values, dtype=np.float64),
        quality=np.array(qualities, dtype=np.uint8), texts=texts)


def test_the_last_row_of_a_point_stays() -> None:
    live = Live(2, OWNER)
    live.samples(batch([(1, 10, 1.5, GOOD), (2, 11, 2.5, BAD), (1, 12, 3.5, GOOD)]))
    assert live.cells([0, 1, 2]) == [
        None, Cell(received_ns=12, source_ns=11, quality=GOOD, value=3.5, text=None),
        Cell(received_ns=11, source_ns=10, quality=BAD, value=2.5, text=None)]
    assert live.heard_ns.tolist() == [12, 11]


def test_a_poll_leaves_out_what_was_missing() -> None:
    live = Live(2, OWNER)
    block = Block(np.array([0, 1], dtype=np.int64), 0)
    for missing, values in (([], [1.0, 2.0]), ([1], [3.0, np.nan]), ([0, 1], [np.nan, np.nan])):
        live.samples(PollBatch(block=block, received_ns=len(missing) + 5, value=np.array(values),
                               missing=np.array(missing, dtype=np.int64)))
    assert [(cell.received_ns, cell.value) for cell in live.cells([0, 1]) if cell] == [(6, 3.0), (5, 2.0)]


def test_a_text_is_shown_for_its_own_sample_only_and_cut() -> None:
    live = Live(2, OWNER)
    live.samples(batch([(0, 10, 77.0, GOOD)], ((0, "停机" * 500),)))
    cell = live.cells([0])[0]
    assert cell is not None and cell.value is None and cell.text is not None
    assert len(cell.text) == room.TEXT_CHARS_MAX + 1
    live.samples(batch([(0, 11, 4.0, GOOD)]))
    cell = live.cells([0])[0]
    assert cell is not None and (cell.value, cell.text) == (4.0, None)


def test_texts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "TEXTS_MAX", 2)
    live = Live(2, OWNER)
    for slot in range(4):
        live.samples(batch([(slot, 10 + slot, 0.0, GOOD)], ((0, f"t{slot}"),)))
    assert [cell.text if cell else None for cell in live.cells(range(4))] == [None, None, "t2", "t3"]


def test_what_a_broker_retained_is_shown_and_says_nothing_of_the_device() -> None:
    live = Live(2, OWNER)
    live.samples(batch([(0, 10, 1.0, GOOD | NOT_LIVE)]))
    cell = live.cells([0])[0]
    assert cell is not None and cell.quality == NOT_LIVE
    assert live.heard_ns.tolist() == [0, 0]


def test_slots_of_another_roster_are_passed_over_until_there_is_room() -> None:
    live = Live(2, OWNER)
    live.samples(batch([(4, 10, 1.0, GOOD), (-1, 10, 1.0, GOOD), (3, 10, 2.0, GOOD)], ((0, "x"),)))
    live.samples(PollBatch(block=Block(np.array([4], dtype=np.int64), 2), received_ns=9, value=np.array([1.0]),
                           missing=np.array([], dtype=np.int64)))
    live.answered([0, 2, -1], 8)
    live.online([5], 8)
    assert live.cells([3, 4]) == [Cell(received_ns=10, source_ns=9, quality=GOOD, value=2.0, text=None), None]
    assert live.heard_ns.tolist() == [8, 10]
    live.grow(3, np.array([0, 0, 1, 1, 2], dtype=np.int64))
    live.samples(batch([(4, 12, 1.0, GOOD)]))
    assert live.heard_ns.tolist() == [8, 10, 12] and live.points == 5


def test_without_values_times_and_qualities_are_kept() -> None:
    live = Live(2, OWNER, values=False)
    live.samples(batch([(0, 10, 1.0, GOOD)], ((0, "secret"),)))
    live.samples(PollBatch(block=Block(np.array([1], dtype=np.int64), 0), received_ns=9, value=np.array([2.0]),
                           missing=np.array([], dtype=np.int64)))
    live.grow(3, np.array([0, 0, 1, 1, 2], dtype=np.int64))
    assert [(cell.received_ns, cell.value, cell.text) for cell in live.cells([0, 1]) if cell] == [
        (10, None, None), (9, None, None)]


def test_a_birth_lasts_until_the_death() -> None:
    live = Live(2, OWNER)
    live.online([1], 5)
    live.answered([1], 3)  # late
    assert (live.is_online.tolist(), live.heard_ns.tolist()) == ([False, True], [0, 5])
    live.offline([1], 6)
    assert live.is_online.tolist() == [False, False]


def test_the_time_of_a_server_stays_as_long_as_servers_tell_theirs() -> None:
    live = Live(2, OWNER)
    told = batch([(1, 10, 1.5, GOOD), (2, 11, 2.5, GOOD)])
    live.samples(replace(told, server_ns=np.array([8, 0], dtype=np.int64)))
    assert [cell and cell.server_ns for cell in live.cells([0, 1, 2])] == [None, 8, 0]
    live.samples(batch([(1, 12, 1.5, GOOD)]))
    assert [cell and cell.server_ns for cell in live.cells([1, 2])] == [0, 0]
