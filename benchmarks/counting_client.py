"""Processes under test of rows K1 to K3: `counting_client.py ours|polars|duckdb|numba [--slots]`, `primitives`,
`needed`, `exact`, `polars-exact`, `duckdb-exact`, `close` and `registry`.

K1: all count the same stream (`counting_stream.py`) to the same figures, in one thread: of each window samples
received, counted and discarded by reason, points sampled, producing and changing, devices producing; of each device
its uptime, the number of windows in which it was producing. All of them look at every column, though this stream has
no point that the roster does not know, no stale and no historical sample. With --slots a window is a second long
instead of ten: then there is one sample of a point in a window, and a window to close for every 100 000.

What they do not do alike: ours takes samples as they come, closes a window when it is due, and holds nothing but the
planes of open windows; numba does the same in a compiled loop, but holds all windows at once; Polars and DuckDB are
handed everything at once, which saves them the state that ours carries from batch to batch.

K2: the usable samples of the stream, to the nanosecond: how many of each point, how many of them distinct, its longest
gap and where that begins, the gaps over three seconds and their sum, as `tallystick gaps` tells of kept files. Ours
takes a window at a time; the peers are handed everything at once.

The stream is made before.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

os.environ["POLARS_MAX_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np

from benchmarks.counting_stream import BATCH, EACH, GRACE_S, NS, POINTS, SECONDS, START_S, Columns, batches
from benchmarks.harness import Began, tell

LEN_S = 1 if "--slots" in sys.argv else 10
WINDOWS = SECONDS // LEN_S
AGE_S = 3600
CLOSE_POINTS, CLOSE_BATCH, INTAKE_BATCH = 1_000_000, 50_000, 5_000

Window = tuple[int, int, int, int, int, int, int, int, int, int]
"""Received, counted, unknown_point, not_live, bad_quality, stale; points sampled, producing, changing; devices."""

Figures = tuple[list[Window], list[int]]
"""Of each window, and of each device: in how many windows it was producing."""

Exactly = tuple[int, int, int, int, int]
"""Samples, distinct ones, the longest gap of each point summed up, gaps over OVER_NS, and their sum."""

OVER_NS = 3 * NS


def ours(stream: Sequence[Columns]) -> tuple[Began, Figures]:
    from gateway.counting.rule import Rule
    from gateway.counting.window import ClosedWindow, WindowClock, Windows
    from protocols.samples import SampleBatch

    now = [START_S * NS]
    windows = Windows(roster(POINTS), Rule(len_s=LEN_S, grace_ms=GRACE_S * 1000, max_source_age_s=AGE_S),
                      WindowClock(lambda: now[0], lambda: now[0]))
    parts = [SampleBatch(point_index=c.point, received_ns=c.at_ns, source_ns=c.source_ns, value=c.value,
                         quality=c.quality) for c in stream]
    newest = [int(c.at_ns.max()) for c in stream]
    closed: list[Any] = []
    began = Began.now()
    for part, at_ns in zip(parts, newest, strict=True):
        now[0] = at_ns
        windows.samples(part)
        closed += windows.tick()
    while len(closed) < WINDOWS:
        now[0] += NS // 2
        closed += windows.tick()
    found = []
    uptime = np.zeros(POINTS // EACH, dtype=np.int64)
    for w in closed[:WINDOWS]:
        assert isinstance(w, ClosedWindow)
        found.append((w.received, w.counted, *(w.discarded[reason] for reason in REASONS),
                      w.columns.sampled.bit_count(), w.columns.producing.bit_count(), w.columns.changing.bit_count(),
                      w.columns.connected.bit_count()))
        bits = np.frombuffer(w.columns.connected.to_bytes(uptime.size // 8 + 1, "little"), dtype=np.uint8)
        uptime += np.unpackbits(bits, bitorder="little")[:uptime.size]
    return began, (found, uptime.tolist())


REASONS = ("unknown_point", "not_live", "bad_quality", "stale")


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
    """Row K3: fill and close windows of a million points; tell CPU of each close and the longest stall, and memory.

    A stall is the CPU time from the end of one delivery to the end of the next, while deliveries go on in the loop
    that closes a window, as the gateway does: whatever else the machine does is no part of it.
    """
    from benchmarks.calibration import cpu_s, repeat_scattered
    from benchmarks.harness import memory_mb
    from gateway.counting.rule import Rule
    from gateway.counting.window import ClosedWindow, WindowClock, Windows
    from protocols.samples import SampleBatch

    now = [START_S * NS]
    registry = roster(CLOSE_POINTS)
    before_mb = memory_mb()[0]
    windows = Windows(registry, Rule(len_s=LEN_S, grace_ms=0), WindowClock(lambda: now[0], lambda: now[0]))
    rng = np.random.default_rng(1)

    def deliver(first: int, size: int) -> None:
        windows.samples(SampleBatch(
            point_index=np.arange(first, first + size, dtype=np.int64), source_ns=np.zeros(size, dtype=np.int64),
            quality=np.zeros(size, dtype=np.uint8), received_ns=np.full(size, now[0], dtype=np.int64),
            value=rng.integers(0, 2, size).astype(np.float64)))

    def fill() -> None:
        for first in range(0, CLOSE_POINTS, CLOSE_BATCH):
            deliver(first, CLOSE_BATCH)
        now[0] += LEN_S * NS

    def at_once() -> float:
        fill()
        closed: list[Any] = []
        used_s = cpu_s(lambda: closed.extend(windows.tick()))
        [window] = closed
        assert isinstance(window, ClosedWindow) and window.columns.connected.bit_count() == CLOSE_POINTS // EACH
        return used_s

    async def beside_intake() -> float:
        gaps, closed = [], 0

        async def intake() -> None:
            ended, at = time.thread_time(), 0
            while not closed:
                deliver(at, INTAKE_BATCH)
                at = (at + INTAKE_BATCH) % CLOSE_POINTS
                gaps.append(time.thread_time() - ended)
                ended += gaps[-1]
                await asyncio.sleep(0)

        task = asyncio.create_task(intake())
        await asyncio.sleep(0)
        for window in windows.due():
            closed += window is not None
            await asyncio.sleep(0)
        await task
        return max(gaps)

    def longest() -> float:
        fill()
        return asyncio.run(beside_intake())

    times = repeat_scattered(at_once)
    both_mb = memory_mb()[0]
    stalls = repeat_scattered(longest)
    print(json.dumps({"calibrated_ms": [s * 1000 for s in times.calibrated_s],
                      "raw_ms": [s * 1000 for s in times.raw_s],
                      "stall_ms": [s * 1000 for s in stalls.calibrated_s],
                      "raw_stall_ms": [s * 1000 for s in stalls.raw_s],
                      "windows_mb": both_mb - before_mb, "peak_mb": memory_mb()[1]}))


def registry() -> None:
    """Row K3: make the real registry of a million points and 100 000 devices; tell what it takes."""
    from benchmarks.calibration import cpu_s
    from benchmarks.harness import memory_mb
    from gateway.counting.registry import Registry
    from gateway.counting.rows import PointRows
    from tests.sim.rows import LEDGER, device_row, point_row

    made: list[Any] = []
    begin_mb = memory_mb()[0]
    devices = [device_row(slot) for slot in range(CLOSE_POINTS // EACH)]
    devices_mb = memory_mb()[0]
    like = point_row(0, 0)
    points = PointRows(
        like | {"point": point, "device": point // EACH} | dict.fromkeys(("addr", "base"), f"{point:064x}")
        for point in range(CLOSE_POINTS))
    # More than one entry can seal: evidence of so many comes from several gateways.
    used_s = cpu_s(lambda: made.append(Registry.of(devices, points, LEDGER, bits_max=4 * CLOSE_POINTS)))
    end_mb = memory_mb()[0]
    [found] = made
    assert (found.points, found.devices) == (CLOSE_POINTS, CLOSE_POINTS // EACH)
    print(json.dumps({"cpu_s": used_s, "bytes_a_device": (devices_mb - begin_mb) * 2**20 / found.devices,
                      "bytes_a_point": (end_mb - devices_mb) * 2**20 / found.points}))


def polars(stream: Sequence[Columns]) -> tuple[Began, Figures]:
    import polars as pl

    began = Began.now()
    frame = pl.concat([pl.DataFrame({"point": c.point, "at": c.at_ns, "source": c.source_ns, "value": c.value,
                                     "quality": c.quality}) for c in stream])
    known = (pl.col("point") >= 0) & (pl.col("point") < POINTS)
    live = known & (pl.col("quality") < 128)
    usable = live & (pl.col("quality") < 2)
    stale = usable & (pl.col("source") != 0) & (pl.col("source") < pl.col("at") - AGE_S * NS)
    good = usable & ~stale
    points = (frame.lazy().with_columns(window=(pl.col("at") - START_S * NS) // (LEN_S * NS))
              .group_by("window", "point").agg(
                  n=pl.len(), good=good.sum(), unknown=(~known).sum(), not_live=(known & ~live).sum(),
                  bad=(live & ~usable).sum(), stale=stale.sum(), sampled=live.any(),
                  low=pl.col("value").filter(good).min(), high=pl.col("value").filter(good).max(),
                  last=pl.col("value").filter(good).get(pl.col("at").filter(good).arg_max(), null_on_oob=True))
              .sort("point", "window").with_columns(
                  before=pl.col("last").forward_fill().over("point").shift(1).over("point"),
                  producing=pl.col("good") > 0, device=pl.col("point") // EACH)
              .with_columns(changing=pl.col("producing") & ((pl.col("low") != pl.col("high")) | (
                  pl.col("before").is_not_null() & (pl.col("low") != pl.col("before"))).fill_null(False)))
              .collect())
    rows = (points.group_by("window").agg(
        pl.col("n").sum(), pl.col("good").sum(), pl.col("unknown").sum(), pl.col("not_live").sum(), pl.col("bad").sum(),
        pl.col("stale").sum(), pl.col("sampled").sum(), pl.col("producing").sum(), pl.col("changing").sum(),
        connected=pl.col("device").filter("producing").n_unique()).sort("window"))
    uptime = (points.filter("producing").group_by("device").agg(n=pl.col("window").n_unique()).sort("device"))
    return began, ([tuple(int(x) for x in row[1:]) for row in rows.rows()],  # type: ignore[misc] # ten of them
                   uptime["n"].to_list())


def duckdb(stream: Sequence[Columns]) -> tuple[Began, Figures]:
    import duckdb as db
    import pyarrow as pa

    connection = db.connect(config={"threads": 1})
    began = Began.now()
    table = pa.table({name: np.concatenate([getattr(c, column) for c in stream]) for name, column in (
        ("point", "point"), ("at", "at_ns"), ("source", "source_ns"), ("value", "value"), ("quality", "quality"))})
    connection.register("stream", table)
    connection.execute(f"""
        create temp table points as
        with judged as (
            select ("at" - {START_S * NS}) // {LEN_S * NS} as w, point, value, "at",
                   case when point not between 0 and {POINTS - 1} then 1 when quality >= 128 then 2
                        when quality >= 2 then 3 when source <> 0 and source < "at" - {AGE_S * NS} then 4
                        else 0 end as reason
            from stream),
        each_point as (
            select w, point, count(*) as n, count(*) filter (reason = 0) as good,
                   count(*) filter (reason = 1) as unknown, count(*) filter (reason = 2) as not_live,
                   count(*) filter (reason = 3) as bad,
                   count(*) filter (reason = 4) as stale, min(value) filter (reason = 0) as low,
                   max(value) filter (reason = 0) as high, arg_max(value, "at") filter (reason = 0) as newest
            from judged group by w, point),
        carried as (
            select *, last_value(newest ignore nulls) over (
                partition by point order by w rows between unbounded preceding and 1 preceding) as before
            from each_point)
        select *, good > 0 as producing, point // {EACH} as device,
               good > 0 and (low <> high or (before is not null and low <> before)) as changing
        from carried""")
    rows = connection.execute("""
        select w, sum(n), sum(good), sum(unknown), sum(not_live), sum(bad), sum(stale),
               count(*) filter (good + bad + stale > 0), count(*) filter (producing), count(*) filter (changing),
               count(distinct device) filter (producing)
        from points group by w order by w""").fetchall()
    uptime = connection.execute("""
        select device, count(distinct w) from points where producing group by device order by device""").fetchall()
    return began, ([tuple(int(x) for x in row[1:]) for row in rows],  # type: ignore[misc] # ten of them
                   [n for _, n in uptime])


def numba(stream: Sequence[Columns]) -> tuple[Began, Figures]:
    """The same planes, filled by a compiled loop."""
    import numba as nb

    @nb.njit(cache=False)
    def fold(first: int, point: Any, at: Any, source: Any, bits: Any, quality: Any, sampled: Any, producing: Any,
             some: Any, changed: Any, newest: Any, last: Any, totals: Any) -> None:
        for i in range(point.size):
            p = point[i]
            w = (at[i] - first) // (LEN_S * NS)
            totals[w, 0] += 1
            if p < 0 or p >= POINTS:
                totals[w, 2] += 1
                continue
            if quality[i] >= 128:
                totals[w, 3] += 1
                continue
            sampled[w, p] = 1
            if quality[i] >= 2:
                totals[w, 4] += 1
                continue
            if source[i] != 0 and source[i] < at[i] - AGE_S * NS:
                totals[w, 5] += 1
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
    totals = np.zeros((WINDOWS, 6), dtype=np.int64)
    empty = np.zeros(0, dtype=np.int64)
    fold(0, empty, empty, empty, empty, np.zeros(0, dtype=np.uint8), *planes, totals)  # compiles
    began = Began.now()
    for c in stream:
        fold(START_S * NS, c.point, c.at_ns, c.source_ns, c.value.view(np.int64), c.quality, *planes, totals)
    sampled, producing, some, changed, _, last = planes
    found = []
    known, carry = np.zeros(POINTS, dtype=bool), np.zeros(POINTS, dtype=np.int64)
    uptime = np.zeros(POINTS // EACH, dtype=np.int64)
    for w in range(WINDOWS):
        on = producing[w].astype(bool)
        changing = on & (changed[w].astype(bool) | (known & (some[w] != carry)))
        known |= on
        carry[on] = last[w][on]
        devices = on.reshape(-1, EACH).any(axis=1)
        uptime += devices
        found.append((*totals[w].tolist(), int(sampled[w].sum()), int(on.sum()), int(changing.sum()),
                      int(devices.sum())))
    return began, (found, uptime.tolist())


def primitives(stream: Sequence[Columns]) -> tuple[Began, Figures]:
    """The six that any counting with planes needs for every sample, in batches, into arrays that are there already.

    Time since the start, slot of it, place in the plane of slots, a mark there, a fact of the point, a count by it.
    """
    plane, facts = np.zeros(SECONDS * POINTS, dtype=np.uint8), np.arange(POINTS, dtype=np.int64) % 200
    since, slot, place = (np.empty(BATCH, dtype=np.int64) for _ in range(3))
    totals = np.zeros(200, dtype=np.int64)
    began = Began.now()
    for c in stream:
        n = c.point.size
        np.subtract(c.at_ns, START_S * NS, out=since[:n])
        np.floor_divide(since[:n], NS, out=slot[:n])
        np.multiply(slot[:n], POINTS, out=place[:n])
        np.add(place[:n], c.point, out=place[:n])
        plane[place[:n]] = 1
        facts.take(c.point, mode="clip", out=slot[:n])
        totals += np.bincount(slot[:n], minlength=200)
    return began, ([], [])


def needed(stream: Sequence[Columns]) -> tuple[Began, Figures]:
    """What our kernel does for every sample, and not one thing more: extremes of times, the largest point, whether any
    is not good or has a source time, a gather of a value, a comparison, a maximum of times."""
    values, times = np.full(POINTS, np.nan), np.zeros(POINTS, dtype=np.int64)
    began = Began.now()
    for c in stream:
        c.at_ns.min()
        c.at_ns.max()
        np.maximum.reduce(c.point.view(np.uint64))
        (c.quality != 0).any()
        np.bitwise_or.reduce(c.source_ns)
        (values.take(c.point, mode="clip") != c.value).any()
        np.maximum.at(times, c.point, c.at_ns)
    return began, ([], [])


def usable(stream: Sequence[Columns]) -> tuple[Any, Any, Any]:
    """Row K2: point, time and window of what counts in a file: all but what is bad, windows of ten seconds in order."""
    point, at, quality = (np.concatenate([getattr(c, name) for c in stream]) for name in ("point", "at_ns", "quality"))
    window = (at - START_S * NS) // (LEN_S * NS)
    order = np.flatnonzero(quality == 0)[np.argsort(window[quality == 0], kind="stable")]
    return point[order], at[order], window[order]


def exact(stream: Sequence[Columns]) -> tuple[Began, Exactly]:
    from verifier.raw.gaps import Tally

    point, at, window = usable(stream)
    cuts = np.searchsorted(window, np.arange(WINDOWS + 1)).tolist()
    began = Began.now()
    tally = Tally(begin_ns=START_S * NS, over_ns=OVER_NS)
    for begin, end in itertools.pairwise(cuts):
        tally.add(point[begin:end], at[begin:end])
    found = tally.planes()
    return began, (int(found["samples"].sum()), int(found["distinct"].sum()), int(found["longest_ns"].sum()),
                   int(found["gaps"].sum()), int(found["silent_ns"].sum()))


def polars_exact(stream: Sequence[Columns]) -> tuple[Began, Exactly]:
    import polars as pl

    point, at, _ = usable(stream)
    began = Began.now()
    gap = pl.col("at").diff().over("point").fill_null(pl.col("at") - START_S * NS)
    found = (pl.DataFrame({"point": point, "at": at}).lazy().group_by("point", "at").agg(n=pl.len())
             .sort("point", "at").with_columns(gap=gap)
             .group_by("point").agg(
                 pl.col("n").sum(), distinct=pl.len(), longest=pl.col("gap").max(),
                 where=pl.col("at").get(pl.col("gap").arg_max()) - pl.col("gap").max(),
                 gaps=(pl.col("gap") > OVER_NS).sum(), silent=pl.col("gap").filter(pl.col("gap") > OVER_NS).sum())
             .collect())
    return began, (found["n"].sum(), found["distinct"].sum(), found["longest"].sum(), found["gaps"].sum(),
                   found["silent"].sum())


def duckdb_exact(stream: Sequence[Columns]) -> tuple[Began, Exactly]:
    import duckdb as db
    import pyarrow as pa

    point, at, _ = usable(stream)
    connection = db.connect(config={"threads": 1})
    began = Began.now()
    connection.register("stream", pa.table({"point": point, "at": at}))
    connection.execute(f"""
        create temp table points as
        with told as (select point, "at", count(*) as n from stream group by point, "at"),
        gaps as (select *, "at" - lag("at", 1, {START_S * NS}) over (partition by point order by "at") as gap from told)
        select point, sum(n) as n, count(*) as told, max(gap) as longest, arg_max("at" - gap, gap) as since,
               count(*) filter (gap > {OVER_NS}) as gaps, coalesce(sum(gap) filter (gap > {OVER_NS}), 0) as silent
        from gaps group by point""")
    row = connection.execute("select sum(n), sum(told), sum(longest), sum(gaps), sum(silent) from points").fetchone()
    assert row is not None
    return began, tuple(int(x) for x in row)  # type: ignore[return-value] # five of them


def main() -> None:
    if sys.argv[1] in ("close", "registry"):
        {"close": close, "registry": registry}[sys.argv[1]]()
        return
    stream = list(batches())
    engines: dict[str, Callable[[Sequence[Columns]], tuple[Began, Figures | Exactly]]] = {
        "ours": ours, "polars": polars, "duckdb": duckdb, "numba": numba, "primitives": primitives, "needed": needed,
        "exact": exact, "polars-exact": polars_exact, "duckdb-exact": duckdb_exact}
    began, found = engines[sys.argv[1]](stream)
    if "--show" in sys.argv:
        print(found)
    tell(sum(c.point.size for c in stream), began, digest=zlib.crc32(repr(found).encode()))


if __name__ == "__main__":
    main()
