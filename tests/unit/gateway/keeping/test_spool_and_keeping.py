"""Bounds and refusals beside the counting: memory, a full budget, a disk that says no."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.counting.rule import Rule
from gateway.counting.window import ClosedWindow
from gateway.keeping import segment
from gateway.keeping.keeper import Kept
from gateway.keeping.keeping import Keeping, seal_promise
from gateway.keeping.retention import KINDS, Limits, Retention
from gateway.keeping.spool import BATCH_BYTES, PART_BYTES, ROW_BYTES, Chunk
from gateway.sealing.journal import Journal
from gateway.sealing.sealer import Sealer
from protocols.samples import SampleBatch
from tests.sim.disk import FaultyDisk
from tests.sim.rows import registry
from tests.sim.world import SOFTWARE, START_S, Time, certificate, private_key
from tests.unit.gateway.keeping.raw_windows import assert_equal, recounted, segments, spooled
from tests.unit.gateway.keeping.test_keeper import Below

LEN_S = 60
ROSTER = registry(2, 2)
RULE = Rule(len_s=LEN_S, grace_ms=1000)
NS = 10**9


def batch(now_ns: int, rows: int, texts: tuple[tuple[int, str], ...] = ()) -> SampleBatch:
    return SampleBatch(
        point_index=np.arange(rows, dtype=np.int64) % 4, received_ns=np.full(rows, now_ns, dtype=np.int64),
        source_ns=np.zeros(rows, dtype=np.int64), value=np.arange(rows, dtype=np.float64),
        quality=np.zeros(rows, dtype=np.uint8), texts=texts)


def pass_windows(windows: Any, time: Time, seconds: int) -> list[ClosedWindow]:
    items: list[ClosedWindow] = []
    for _ in range(seconds):
        time.pass_s(1)
        items += [item for item in windows.tick() if isinstance(item, ClosedWindow)]
    return items


def test_memory_is_bounded_and_a_window_that_needs_more_is_given_up(tmp_path: Path) -> None:
    time = Time(START_S)
    limit = 200 * (ROW_BYTES + BATCH_BYTES)
    windows, spool = spooled(ROSTER, RULE, time, bytes_max=limit)
    time.pass_s(1)
    most = 0
    for number in range(3 * LEN_S):
        for _ in range(10 if LEN_S <= number < 2 * LEN_S else 1):
            windows.samples(batch(windows._clock.now_ns(), 1))
            most = max(most, spool.held_bytes)
        if number % LEN_S == LEN_S - 1:
            closed = pass_windows(windows, time, 1)
            for window in closed:
                if isinstance(window.raw, Chunk):
                    spool.release(window.raw)
        else:
            time.pass_s(1)
    assert 0 < most <= limit


def test_a_window_given_up_breaks_the_chain_and_the_next_one_begins_anew(tmp_path: Path) -> None:
    time = Time(START_S)
    windows, spool = spooled(ROSTER, RULE, time, bytes_max=100_000)
    closed: list[ClosedWindow] = []
    for rows in (10, 10, 5000, 10, 10):
        time.pass_s(1)
        windows.samples(batch(windows._clock.now_ns(), rows))
        closed += pass_windows(windows, time, LEN_S - 1)
    closed += pass_windows(windows, time, 5)
    assert [window.raw is not None for window in closed] == [True, True, False, True, True]
    runs = segments(closed)
    assert [len(run) for run, _ in runs] == [2, 2]
    for run, data in runs:
        assert_equal(run, recounted(run, data, RULE, tmp_path))
        for window in run:
            assert isinstance(window.raw, Chunk)
            spool.release(window.raw)
    assert spool.held_bytes == 0


def test_a_large_window_is_packed_in_parts_while_it_is_open(tmp_path: Path) -> None:
    time = Time(START_S)
    windows, spool = spooled(ROSTER, RULE, time)
    rows = PART_BYTES // ROW_BYTES // 2
    for _ in range(5):
        time.pass_s(1)
        windows.samples(batch(windows._clock.now_ns(), rows, ((0, "text"), (rows - 1, "näher 近"))))
    assert spool.held_bytes < 5 * rows * ROW_BYTES // 2, "packed parts count as what they take"
    (window,) = pass_windows(windows, time, LEN_S)
    assert isinstance(window.raw, Chunk) and len(window.raw.parts) >= 2
    ((run, data),) = segments([window])
    assert_equal(run, recounted(run, data, RULE, tmp_path))
    assert segment.windows_of(data) == [START_S]


def test_texts_are_kept_beside_their_samples(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    time = Time(START_S)
    windows, _ = spooled(ROSTER, RULE, time)
    time.pass_s(1)
    now_ns = windows._clock.now_ns()
    late = batch(now_ns, 4, ((1, "one"), (3, "three")))
    late.received_ns.flags.writeable = True
    late.received_ns[:] = [now_ns, now_ns - 5 * NS, now_ns, now_ns]  # one of them late: the batch is taken apart
    windows.samples(late)
    ((_, data),) = segments(pass_windows(windows, time, LEN_S + 1))
    (tmp_path / "x").write_bytes(data)
    rows = [row for row in pq.read_table(tmp_path / "x").to_pylist() if row["kind"] == "sample"]
    assert {row["slot"]: row["text"] for row in rows} == {0: None, 1: "one", 2: None, 3: "three"}


class Beside:
    """`Keeping` as the agent has it, on a simulated disk, with a budget that a test can move."""

    def __init__(self) -> None:
        self.disk, self.time = FaultyDisk(random.Random(1)), Time(START_S)
        self.events: list[str] = []
        self.log = Journal(Below(self.disk, "journal"))
        tell: Callable[..., None] = lambda code, where, **args: self.events.append(code)  # noqa: E731  # one line
        self.sealer = Sealer(self.log, [private_key(5)], tell)
        self.sealer.enrol(certificate(private_key(5), private_key(77)))
        self.windows, _ = spooled(ROSTER, RULE, self.time)
        self.sealer.begin(software=SOFTWARE, rule=RULE, registry=ROSTER, opens_s=self.windows.opens_s,
                          platform_size=None)
        self.limits = Limits(budget_bytes=10**8, raw_bytes=10**8, receipts_bytes=1, retain_s=10**6, transcripts_s=1)
        self.retention = Retention(self.limits, measure=lambda: dict.fromkeys(KINDS, 0),
                                   journal=Below(self.disk, "journal"))
        self.refuse_records = 0
        self.keeping = Keeping(Below(self.disk, "raw"), self.windows, self.retention, memory_bytes=10**8,
                               record=self.record, event=tell, now_ns=self.windows._clock.now_ns)

    async def record(self, kept: Kept) -> int:
        if self.refuse_records:
            self.refuse_records -= 1
            raise OSError(28, "full")
        return seal_promise(self.sealer, kept)

    async def run(self, minutes: int) -> None:
        for _ in range(minutes):
            self.time.pass_s(1)
            self.windows.samples(batch(self.windows._clock.now_ns(), 8))
            for item in pass_windows(self.windows, self.time, LEN_S - 1):
                seq = self.log.size - 1 if self.sealer.seal(item, None) else None
                self.keeping.sealed(item, seq)
            while not self.keeping._queue.empty():
                await self.keeping._next(*self.keeping._queue.get_nowait())

    def promised(self) -> list[dict[str, Any]]:
        return [v for v in map(self.log.entry, range(self.log.size)) if v["type"] == "keep"]


async def test_without_room_new_windows_are_not_kept_and_with_room_they_are_again() -> None:
    beside = Beside()
    await beside.keeping.begin(beside.log)
    await beside.run(5)
    await beside.keeping.finish()
    object.__setattr__(beside.limits, "raw_bytes", beside.keeping.keeper.used_bytes + 100)
    await beside.run(4)
    assert beside.events == ["keep.full"] and beside.keeping.spool.paused
    report = beside.keeping.report()
    assert report["full"] and report["windows_not_kept"] == 4 and report["windows_kept"] <= 5
    held = len(beside.promised())
    object.__setattr__(beside.limits, "raw_bytes", 10**8)
    await beside.run(5)
    assert beside.events == ["keep.full", "keep.room"] and not beside.keeping.report()["full"]
    await beside.keeping.finish()
    assert len(beside.promised()) == held + 1
    last = beside.promised()[-1]
    inside = [beside.log.entry(seq)["start_s"] for seq in range(last["from_seq"], last["to_seq"] + 1)]
    assert len(inside) == 2 and inside[-1] == beside.windows.opens_s - LEN_S
    beside.keeping.close()


async def test_a_promise_that_the_disk_did_not_take_is_sealed_later_and_once() -> None:
    beside = Beside()
    await beside.run(3)
    beside.refuse_records = 2
    await beside.keeping.finish()
    assert beside.promised() == [] and beside.events == ["keep.disk"]
    await beside.run(2)
    assert beside.events == ["keep.disk", "keep.disk"]
    await beside.run(2)
    assert len(beside.promised()) == 1
    assert beside.keeping.keeper.disk.names("") != []
    beside.keeping.close()


async def test_a_stop_in_the_middle_of_writing_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Beside()
    work = asyncio.create_task(beside.keeping.run())
    beside.time.pass_s(1)
    for item in pass_windows(beside.windows, beside.time, 3 * LEN_S):
        beside.sealer.seal(item, None)
        beside.keeping.sealed(item, beside.log.size - 1)
    await asyncio.sleep(0)
    work.cancel()
    await asyncio.wait([work])
    await beside.keeping.finish()
    assert beside.keeping.report()["windows_kept"] == 3 and len(beside.promised()) == 1
    beside.keeping.close()
