"""Processes under test of rows K1 and K3: `counting_client.py ours|polars|duckdb|numba|primitives|close`.

K1: all count the same stream (`counting_stream.py`) to the same figures, window by window, in one thread: samples
received and counted, points sampled, producing and changing, devices connected. The stream is made before.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import zlib
from collections.abc import Sequence
from typing import Any

os.environ["POLARS_MAX_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np

from benchmarks.counting_stream import BATCH, EACH, GRACE_S, LEN_S, NS, POINTS, START_S, WINDOWS, Columns, batches
from benchmarks.harness import Began, tell

CLOSE_POINTS, CLOSE_BATCH = 1_000_000, 50_000

Figures = list[tuple[int, int, int, int, int, int]]
"""For each window: received, counted, and how many points sampled, producing, changing, devices connected."""


def ours(stream: Sequence[Columns]) -> tuple[Began, Figures]:
    from gateway.counting.rule import Rule
    from gateway.counting.window import ClosedWindow, WindowClock, Windows
    from protocols.samples import SampleBatch

    now = [START_S * NS]
    windows = Windows(roster(POINTS), Rule(len_s=LEN_S, grace_ms=GRACE_S * 1000),
                      WindowClock(lambda: now[0], lambda: now[0]))
    zeros = np.zeros(BATCH, dtype=np.int64)
    parts = [SampleBatch(point_index=c.point, received_ns=c.at_ns, source_ns=zeros[:c.point.size], value=c.value,
                         quality=c.quality) for c in stream]
    newest = [int(c.at_ns.max()) for c in stream]
    closed: list[Any] = []
    began = Began.now()
    for part, at_ns in zip(parts, newest, strict=True):
        now[0] = at_ns
        windows.samples(part)
        closed += windows.tick()
    now[0] += (LEN_S + GRACE_S) * NS
    closed += windows.tick()
    found = [(w.received, w.counted, w.columns.sampled.bit_count(), w.columns.producing.bit_count(),
              w.columns.changing.bit_count(), w.columns.connected.bit_count())
             for w in closed if isinstance(w, ClosedWindow)][:WINDOWS]
    return began, found


def roster(points: int) -> Any:
    """Return what counting needs of a roster, 10 points a device: rows and roots are no part of these figures."""
    from gateway.counting.registry import Ledger, Registry

    devices = points // EACH
    return Registry(
        device_rows=({},) * devices, point_rows=({},) * points, devices_root="", points_root="",
        ledger=Ledger(sha256="0" * 64, date="2026-11-01", rows=devices),
        owner=np.arange(points, dtype=np.int64) // EACH, role=np.zeros(points, dtype=np.int8),
        device_alive=np.ones(devices, dtype=np.bool_), point_alive=np.ones(points, dtype=np.bool_))


def close() -> None:
    """Row K3: fill and close windows of a million points; tell CPU of each close, scaled, and memory."""
    from benchmarks.calibration import cpu_s, repeat_scattered
    from gateway.counting.rule import Rule
    from gateway.counting.window import ClosedWindow, WindowClock, Windows
    from protocols.samples import SampleBatch

    now = [START_S * NS]
    windows = Windows(roster(CLOSE_POINTS), Rule(len_s=LEN_S, grace_ms=0), WindowClock(lambda: now[0], lambda: now[0]))
    rng = np.random.default_rng(1)
    zeros, good = np.zeros(CLOSE_BATCH, dtype=np.int64), np.zeros(CLOSE_BATCH, dtype=np.uint8)

    def once() -> float:
        for first in range(0, CLOSE_POINTS, CLOSE_BATCH):
            windows.samples(SampleBatch(
                point_index=np.arange(first, first + CLOSE_BATCH, dtype=np.int64), source_ns=zeros, quality=good,
                received_ns=np.full(CLOSE_BATCH, now[0], dtype=np.int64),
                value=rng.integers(0, 2, CLOSE_BATCH).astype(np.float64)))
        now[0] += LEN_S * NS
        closed: list[Any] = []
        used_s = cpu_s(lambda: closed.extend(windows.tick()))
        [window] = closed
        assert isinstance(window, ClosedWindow) and window.columns.connected.bit_count() == CLOSE_POINTS // EACH
        return used_s

    times = repeat_scattered(once)
    print(json.dumps({"calibrated_ms": [s * 1000 for s in times.calibrated_s],
                      "raw_ms": [s * 1000 for s in times.raw_s],
                      "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def polars(stream: Sequence[Columns]) -> tuple[Began, Figures]:
    import polars as pl

    began = Began.now()
    frame = pl.concat([pl.DataFrame({"point": c.point, "at": c.at_ns, "value": c.value, "bad": c.quality})
                       for c in stream])
    good = pl.col("bad") == 0
    rows = (frame.lazy().with_columns(window=(pl.col("at") - START_S * NS) // (LEN_S * NS))
            .group_by("window", "point").agg(
                n=pl.len(), good=good.sum(), low=pl.col("value").filter(good).min(),
                high=pl.col("value").filter(good).max(), last=pl.col("value").filter(good).get(
                    pl.col("at").filter(good).arg_max(), null_on_oob=True))
            .sort("point", "window").with_columns(
                before=pl.col("last").forward_fill().over("point").shift(1).over("point"),
                producing=pl.col("good") > 0, device=pl.col("point") // EACH)
            .with_columns(changing=pl.col("producing") & ((pl.col("low") != pl.col("high")) | (
                pl.col("before").is_not_null() & (pl.col("low") != pl.col("before"))).fill_null(False)))
            .group_by("window").agg(
                pl.col("n").sum(), pl.col("good").sum(), sampled=pl.len(), producing=pl.col("producing").sum(),
                changing=pl.col("changing").sum(),
                connected=pl.col("device").filter("producing").n_unique())
            .sort("window").collect())
    return began, [tuple(int(x) for x in row[1:]) for row in rows.rows()]  # type: ignore[misc] # six of them


def duckdb(stream: Sequence[Columns]) -> tuple[Began, Figures]:
    import duckdb as db
    import pyarrow as pa

    connection = db.connect(config={"threads": 1})
    began = Began.now()
    table = pa.table({"point": np.concatenate([c.point for c in stream]),
                      "at": np.concatenate([c.at_ns for c in stream]),
                      "value": np.concatenate([c.value for c in stream]),
                      "bad": np.concatenate([c.quality for c in stream])})
    connection.register("stream", table)
    rows = connection.execute(f"""
        with each_point as (
            select ("at" - {START_S * NS}) // {LEN_S * NS} as w, point, count(*) as n,
                   count(*) filter (bad = 0) as good, min(value) filter (bad = 0) as low,
                   max(value) filter (bad = 0) as high, arg_max(value, "at") filter (bad = 0) as newest
            from stream group by w, point),
        carried as (
            select *, last_value(newest ignore nulls) over (
                partition by point order by w rows between unbounded preceding and 1 preceding) as before
            from each_point)
        select w, sum(n), sum(good), count(*), count(*) filter (good > 0),
               count(*) filter (good > 0 and (low <> high or (before is not null and low <> before))),
               count(distinct point // {EACH}) filter (good > 0)
        from carried group by w order by w""").fetchall()
    return began, [tuple(int(x) for x in row[1:]) for row in rows]  # type: ignore[misc] # six of them


def numba(stream: Sequence[Columns]) -> tuple[Began, Figures]:
    """The same planes, filled by a compiled loop."""
    import numba as nb

    @nb.njit(cache=False)
    def fold(first: int, point: Any, at: Any, bits: Any, bad: Any, sampled: Any, producing: Any, some: Any,
             changed: Any, newest: Any, last: Any, totals: Any) -> None:
        for i in range(point.size):
            p = point[i]
            w = (at[i] - first) // (LEN_S * NS)
            totals[w, 0] += 1
            sampled[w, p] = 1
            if bad[i]:
                continue
            totals[w, 1] += 1
            if not producing[w, p]:
                producing[w, p] = 1
                some[w, p] = bits[i]
            elif some[w, p] != bits[i]:
                changed[w, p] = 1
            if at[i] > newest[w, p] or (at[i] == newest[w, p] and bits[i] > last[w, p]):
                newest[w, p] = at[i]
                last[w, p] = bits[i]

    planes = [np.zeros((WINDOWS, POINTS), dtype=kind)
              for kind in (np.uint8, np.uint8, np.int64, np.uint8, np.int64, np.int64)]
    totals = np.zeros((WINDOWS, 2), dtype=np.int64)
    empty = np.zeros(0, dtype=np.int64)
    fold(0, empty, empty, empty, np.zeros(0, dtype=np.uint8), *planes, totals)  # compiles
    began = Began.now()
    for c in stream:
        fold(START_S * NS, c.point, c.at_ns, c.value.view(np.int64), c.quality, *planes, totals)
    sampled, producing, some, changed, _, last = planes
    found = []
    known, carry = np.zeros(POINTS, dtype=bool), np.zeros(POINTS, dtype=np.int64)
    for w in range(WINDOWS):
        on = producing[w].astype(bool)
        changing = on & (changed[w].astype(bool) | (known & (some[w] != carry)))
        known |= on
        carry[on] = last[w][on]
        found.append((int(totals[w, 0]), int(totals[w, 1]), int(sampled[w].sum()), int(on.sum()), int(changing.sum()),
                      int(on.reshape(-1, EACH).any(axis=1).sum())))
    return began, found


def primitives(stream: Sequence[Columns]) -> tuple[Began, Figures]:
    """What counting cannot do without, each once over every sample, in blocks that stay in the cache.

    Which window (two extremes), is the point known (two extremes), is any bad, one scatter and two gathers each of
    a value, a flag and a time, three comparisons.
    """
    flags = np.zeros(POINTS, dtype=np.bool_)
    values, times = np.zeros(POINTS, dtype=np.int64), np.zeros(POINTS, dtype=np.int64)
    began = Began.now()
    for c in stream:
        bits = c.value.view(np.int64)
        for array in (c.at_ns, c.point):
            array.min()
            array.max()
        c.quality.any()
        flags.take(c.point).all()
        flags[c.point] = True
        (values.take(c.point) != bits).any()
        values[c.point] = bits
        np.maximum.at(times, c.point, c.at_ns)
        (times.take(c.point) == c.at_ns).all()
    return began, []


def main() -> None:
    if sys.argv[1] == "close":
        close()
        return
    stream = list(batches())
    began, found = {"ours": ours, "polars": polars, "duckdb": duckdb, "numba": numba,
                    "primitives": primitives}[sys.argv[1]](stream)
    if "--show" in sys.argv:
        print(found)
    tell(sum(c.point.size for c in stream), began, digest=zlib.crc32(repr(found).encode()))


if __name__ == "__main__":
    main()
