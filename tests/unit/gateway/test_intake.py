"""Small batches are joined before they are counted: nothing may come out of it but less work."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import intake as intake_module
from gateway.counting.rule import Rule
from gateway.counting.window import ClosedWindow
from gateway.intake import ALONE_SAMPLES, HELD_SAMPLES_MAX, Batch, Intake, joined
from gateway.web.live import Live
from protocols.samples import Block, PollBatch, SampleBatch
from tests.unit.gateway.counting.test_counting_kernel import (
    COUNT,
    LEN_S,
    NS,
    OWNER,
    ROSTER,
    START_S,
    batch_of,
    closed,
    open_windows,
    samples,
)

BLOCKS = (Block(np.array([1, 4, 7], dtype=np.int64), 0), Block(np.array([0], dtype=np.int64), 0))


@st.composite
def polls(draw: st.DrawFn) -> PollBatch:
    block = draw(st.sampled_from(BLOCKS))
    size = block.point_index.size
    return PollBatch(
        block=block, received_ns=START_S * NS + draw(st.integers(0, COUNT * LEN_S * NS - 1)),
        value=np.array(draw(st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=size, max_size=size))),
        missing=np.array(sorted(draw(st.sets(st.integers(0, size - 1)))), dtype=np.int64))


@st.composite
def told(draw: st.DrawFn) -> SampleBatch:
    """A batch, some of them with texts and with times of a server."""
    plain = batch_of(draw(st.lists(samples, max_size=6)))
    n = plain.value.size
    rows = sorted(draw(st.sets(st.integers(0, n - 1)))) if n else []
    server_ns = np.arange(1, n + 1, dtype=np.int64) if draw(st.booleans()) else None
    return SampleBatch(point_index=plain.point_index, received_ns=plain.received_ns, source_ns=plain.source_ns,
                       value=plain.value, quality=plain.quality, texts=tuple((row, f"text {row}") for row in rows),
                       server_ns=server_ns)


batches = st.lists(st.one_of(polls(), told()), min_size=1, max_size=8)


def rows(batch: Batch) -> list[tuple[Any, ...]]:
    plain = batch.samples() if isinstance(batch, PollBatch) else batch
    texts, n = dict(plain.texts), plain.value.size
    server = [0] * n if plain.server_ns is None else plain.server_ns.tolist()
    columns = (plain.point_index, plain.received_ns, plain.source_ns, plain.value.view(np.int64), plain.quality)
    return [(*row, texts.get(i), at) for i, (*row, at) in
            enumerate(zip(*(column.tolist() for column in columns), server, strict=True))]


@settings(max_examples=50, deadline=None)
@given(batches)
def test_joined_batches_hold_every_sample_in_its_order(parts: list[Batch]) -> None:
    assert rows(joined(parts)) == [row for part in parts for row in rows(part)]


def delivered(parts: list[Batch], *, is_held: bool) -> tuple[list[ClosedWindow], list[Any]]:
    windows, time = open_windows(Rule(len_s=LEN_S, grace_ms=60_000))
    intake = Intake(windows, pytest.fail)
    intake.live = Live(ROSTER.devices, np.array(OWNER, dtype=np.int64))
    exported: list[Any] = []
    intake.export = lambda batch: exported.extend(rows(batch))
    for part in parts:
        intake.samples(part)
        if not is_held:
            intake.flush()
    intake.flush()
    return closed(windows, time), [exported, intake.live.cells(range(8))]


@settings(max_examples=50, deadline=None)
@given(batches)
def test_what_waited_is_counted_exported_and_shown_like_what_did_not(parts: list[Batch]) -> None:
    assert repr(delivered(parts, is_held=True)) == repr(delivered(parts, is_held=False)), "repr: NaN equals NaN"


def block(size: int) -> SampleBatch:
    return batch_of([(0, START_S * NS, 0, 1.0, 0)] * size)


def made() -> tuple[Intake, list[int]]:
    windows, _ = open_windows(Rule(len_s=LEN_S, grace_ms=60_000))
    intake, sizes = Intake(windows, pytest.fail), []
    intake.export = lambda batch: sizes.append(batch.value.size)
    return intake, sizes


def test_what_waits_is_bounded_in_samples_and_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    intake, sizes = made()
    for _ in range(HELD_SAMPLES_MAX // (ALONE_SAMPLES // 2)):
        assert sizes == []
        intake.samples(block(ALONE_SAMPLES // 2))
    assert sizes == [HELD_SAMPLES_MAX]
    monkeypatch.setattr(intake_module, "HELD_BATCHES_MAX", 3)
    for _ in range(4):
        intake.samples(block(1))
    assert sizes == [HELD_SAMPLES_MAX, 3]


def test_a_large_batch_does_not_wait_and_is_not_copied() -> None:
    intake, _ = made()
    seen: list[Batch] = []
    intake.export = seen.append
    small, large = block(2), block(ALONE_SAMPLES)
    intake.samples(small)
    intake.samples(large)
    assert [id(batch) for batch in seen] == [id(small), id(large)], "in the order of their arrival"


def test_who_looks_for_a_message_sees_it_when_it_comes() -> None:
    intake, sizes = made()
    seen: list[Batch] = []
    intake.tap = seen.append
    intake.samples(block(1))
    assert len(seen) == 1
    assert sizes == []
