"""The samples of raw segments to the nanosecond: how many of each point, how many of them twice, and its silences.

A window says that a point had a sample in it; it does not say how many, nor how long there was none. The file that was
promised for the window does. Only receipt counts here: it is the gateway's own time, by which windows are made, while
the time of a source may stand still or jump. What is left out is counted.

Samples are packed into one integer each, so that one sort brings those of a point together, in order of time:

    bit   62       44   43                    0
          [ point  ]    [ ns since the first  ]

The time takes 43 bits, 2.4 hours, and the bit above them stays 0: a difference of two neighbours from 2^43 on means
that another point begins, a smaller one is the time between two samples, and 0 is the same sample once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Problem, VerificationError
from protocols.evidence.column import BITS_MAX
from protocols.evidence.raw import GROUP_ROWS_MAX, HOUR_S, NS_PER_S, WINDOW_ROWS_MAX
from verifier.raw.recount import NOT_LIVE, WINDOWS_MAX, groups

TIME_BITS = 43
_POINT_SHIFT = TIME_BITS + 1
_ANOTHER_POINT = 1 << TIME_BITS
BAD = 2
LEFT_OUT = ("not_live", "bad_quality", "outside_window", "unknown_point")
GROW = 4_096
WINDOW_S_MAX = 2**33
"""Windows start before the year 2242: their nanoseconds fit into 64 bits."""


Ints = NDArray[np.int64]
_PLANES = ("samples", "distinct", "last_ns", "longest_ns", "longest_from_ns", "gaps", "silent_ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """What was counted of one point. gaps: how many were longer than the limit. silent_ns: what they sum up to.

    longest_ns, longest_from_ns: the longest of all, also before the first sample and behind the last; UTC.
    """

    point: int
    samples: int
    repeated: int
    longest_ns: int
    longest_from_ns: int
    gaps: int
    silent_ns: int


@dataclass(slots=True, eq=False)
class Tally:
    """Counts samples part by part. begin_ns: from where on a point can be silent. over_ns: which gaps are counted.

    Memory is bounded by the points, and by the rows of a part.
    """

    begin_ns: int
    over_ns: int
    _planes: dict[str, Ints] = field(default_factory=lambda: {name: np.zeros(0, dtype=np.int64) for name in _PLANES})

    def add(self, point: Ints, at_ns: Ints) -> None:
        """Take in samples, shape (n,), in any order; none is earlier than those of the part before.

        Points are below BITS_MAX, and no two times are further apart than 2^TIME_BITS ns. Raises: ValueError.
        """
        if not point.size:
            return
        base = int(at_ns.min())
        if int(at_ns.max()) - base >= _ANOTHER_POINT or int(point.min()) < 0 or int(point.max()) >= BITS_MAX:
            raise ValueError("samples too far apart")
        self._grow(int(point.max()) + 1)
        planes = self._planes
        keys = (point << _POINT_SHIFT) + (at_ns - base)
        between = np.diff(keys)
        if between.size and between.min() < 0:
            keys = np.sort(keys)
            between = np.diff(keys)
        first = np.concatenate([[0], np.flatnonzero(between >= _ANOTHER_POINT) + 1])
        of = keys[first] >> _POINT_SHIFT
        planes["samples"][of] += np.diff(first, append=keys.size)
        new = between != 0
        if not new.all():
            keys, between = keys[np.concatenate([[True], new])], between[new]
            first = np.concatenate([[0], np.flatnonzero(between >= _ANOTHER_POINT) + 1])
        sizes = np.diff(first, append=keys.size)
        times = (keys & (_ANOTHER_POINT - 1)) + base
        planes["distinct"][of] += sizes
        gap = np.concatenate([[0], between])
        gap[first] = times[first] - planes["last_ns"][of]
        if int(gap[first].min()) < 0:  # by now a silence may have been counted that was none
            raise ValueError("samples earlier than those before")
        planes["last_ns"][of] = times[first + sizes - 1]
        self._longer(of, gap, times, first, sizes)
        self._count(of, gap, first)

    @property
    def newest_ns(self) -> int:
        """The time of the newest sample; `begin_ns` if there is none."""
        return int(self._planes["last_ns"].max(initial=self.begin_ns))

    def planes(self) -> dict[str, Ints]:
        """Return what was counted so far, of each point up to the largest that was seen, and some beyond."""
        return dict(self._planes)

    def end(self, end_ns: int) -> Iterator[Silence]:
        """Yield every point that had a sample, in order; `end_ns`: until when it can be silent."""
        planes = self._planes
        of = np.flatnonzero(planes["samples"])
        if of.size:
            begin = np.arange(of.size)
            gap = np.maximum(end_ns - planes["last_ns"][of], 0)
            self._longer(of, gap, planes["last_ns"][of] + gap, begin, np.ones_like(of))
            self._count(of, gap, begin)
        for point in of.tolist():
            one = {name: int(planes[name][point]) for name in _PLANES}
            yield Silence(point=point, samples=one["samples"], repeated=one["samples"] - one["distinct"],
                          longest_ns=one["longest_ns"], longest_from_ns=one["longest_from_ns"], gaps=one["gaps"],
                          silent_ns=one["silent_ns"])

    def _longer(self, of: Ints, gap: Ints, times: Ints, first: Ints, sizes: Ints) -> None:
        """Keep the longest gap of each point, the earliest of equal ones; gap[i] ends at times[i]."""
        longest = np.maximum.reduceat(gap, first)
        better = longest > self._planes["longest_ns"][of]
        if better.any():
            those = np.flatnonzero(gap == np.repeat(longest, sizes))
            at = those[np.searchsorted(those, first[better])]
            self._planes["longest_ns"][of[better]] = gap[at]
            self._planes["longest_from_ns"][of[better]] = times[at] - gap[at]

    def _count(self, of: Ints, gap: Ints, first: Ints) -> None:
        over = gap > self.over_ns
        if over.any():
            self._planes["gaps"][of] += np.add.reduceat(over.astype(np.int64), first)
            self._planes["silent_ns"][of] += np.add.reduceat(np.where(over, gap, 0), first)

    def _grow(self, points: int) -> None:
        more = points - self._planes["samples"].size
        if more > 0:
            room = np.zeros(more + GROW, dtype=np.int64)
            self._planes = {name: np.concatenate([plane, room + self.begin_ns if name == "last_ns" else room])
                            for name, plane in self._planes.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """What stands in some files. begin_s, end_s: from the first window to the end of the last one.

    No file tells how long its windows are: they are taken to be as long as the two nearest of them are apart, and the
    last ends with its hour at the latest, as an hour is a whole number of windows. Where there is one alone, silence
    counts until the newest sample of any point, and end_s is that, rounded up.
    """

    begin_s: int
    end_s: int
    windows: int
    points: tuple[Silence, ...]
    left_out: dict[str, int]


def count_gaps(paths: Iterable[Path], over_ns: int) -> Gaps:
    """Count the samples of segments, which are taken in the order of their windows; time between files is silence.

    The samples of one window are held at once, with those of the row group in which it ends: 44 million at most.

    Raises: VerificationError `raw.*` for a file that is no segment, or that overlaps with another; ImportError
    without pyarrow; OSError.
    """
    starts: list[int] = []
    tally: Tally | None = None
    left_out = dict.fromkeys(LEFT_OUT, 0)
    for first, path in sorted((_first(path), path) for path in paths):
        if starts and first <= starts[-1]:
            raise VerificationError(Problem.of(path.name, "raw.overlap", start=first))
        tally = tally or Tally(begin_ns=first * NS_PER_S, over_ns=over_ns)
        for point, at_ns in _parts(path, starts, left_out):
            try:
                tally.add(point, at_ns)
            except ValueError as error:  # received behind their window, and behind samples of the next one
                raise VerificationError(Problem.of(path.name, "raw.order", start=int(at_ns.min()) // NS_PER_S)
                                        ) from error
    if tally is None:
        return Gaps(begin_s=0, end_s=0, windows=0, points=(), left_out=left_out)
    len_s = min((b - a for a, b in pairwise(starts)), default=None)
    in_hour_s = HOUR_S - starts[-1] % HOUR_S
    end_ns = tally.newest_ns if len_s is None else (starts[-1] + min(len_s, in_hour_s)) * NS_PER_S
    return Gaps(begin_s=starts[0], end_s=-(-end_ns // NS_PER_S), windows=len(starts), points=tuple(tally.end(end_ns)),
                left_out=left_out)


def _first(path: Path) -> int:
    """Return the first window of a file."""
    for group in groups(path, path.stat().st_size, path.name):
        starts = _starts(group)
        if starts:
            return starts[0]
    raise VerificationError(Problem.of(path.name, "raw.no_windows"))


def _starts(group: Any) -> list[int]:
    import pyarrow.compute as pc

    found = sorted(pc.unique(group.filter(pc.equal(group["kind"], "window"))["window_s"]).to_pylist())
    if found and not 0 <= found[0] <= found[-1] < WINDOW_S_MAX:
        raise VerificationError(Problem.of("raw", "raw.order", start=found[0]))
    return found


def _parts(path: Path, starts: list[int], left_out: dict[str, int]) -> Iterator[tuple[Ints, Ints]]:
    """Yield points and times of what counts, some whole windows at once: a window may go on in the next row group.

    Add the windows to `starts`.
    """
    held: list[tuple[Ints, ...]] = []  # of row groups, in their order; joined once, however many there are
    last, before, rows = -1, len(starts), 0
    for group in groups(path, path.stat().st_size, path.name):
        starts += [start for start in _starts(group) if not starts or start > starts[-1]]
        if len(starts) - before > WINDOWS_MAX:
            raise VerificationError(Problem.of(path.name, "raw.too_many_windows", limit=WINDOWS_MAX))
        window_s, point, at_ns = _of_group(group, left_out)
        if not window_s.size:
            continue
        begin = int(window_s.min())
        if begin < last or not starts or begin < starts[0]:
            raise VerificationError(Problem.of(path.name, "raw.order", start=begin))
        last = int(window_s.max())
        if held and int(held[0][0].min()) < begin:
            columns = [np.concatenate(column) for column in zip(*held, strict=True)]
            whole = columns[0] < begin
            yield from _hours(*(column[whole] for column in columns))
            rows -= int(np.count_nonzero(whole))
            held = [tuple(column[~whole] for column in columns)] if rows else []
        held.append((window_s, point, at_ns))
        rows += window_s.size
        if rows > WINDOW_ROWS_MAX + GROUP_ROWS_MAX:
            raise VerificationError(Problem.of(path.name, "raw.too_large", start=last, limit=WINDOW_ROWS_MAX))
    if held:
        yield from _hours(*(np.concatenate(column) for column in zip(*held, strict=True)))


def _hours(window_s: Ints, point: Ints, at_ns: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Cut into pieces that are packed well: a segment is no longer than an hour, a stranger's may be."""
    if not window_s.size or int(window_s.max()) - int(window_s.min()) < HOUR_S:
        yield point, at_ns
        return
    hours = window_s // HOUR_S
    for hour in sorted(set(hours.tolist())):
        yield point[hours == hour], at_ns[hours == hour]


def _of_group(group: Any, left_out: dict[str, int]) -> tuple[Ints, Ints, Ints]:
    """Return window, point and time of the samples of a row group that count."""
    import pyarrow.compute as pc

    rows = group.filter(pc.equal(group["kind"], "sample"))
    window_s, point, at_ns, quality = (rows[name].to_numpy() for name in
                                       ("window_s", "slot", "received_ns", "quality"))
    if window_s.size and not 0 <= int(window_s.min()) <= int(window_s.max()) < WINDOW_S_MAX:
        raise VerificationError(Problem.of("raw", "raw.order", start=int(window_s.min())))
    into_ns = at_ns - window_s * NS_PER_S
    keep = np.ones(point.size, dtype=np.bool_)
    for reason, odd in (("unknown_point", (point < 0) | (point >= BITS_MAX)), ("not_live", quality >= NOT_LIVE),
                        ("bad_quality", quality >= BAD),
                        ("outside_window", (at_ns < 0) | (into_ns < 0) | (into_ns >= HOUR_S * NS_PER_S))):
        left_out[reason] += int(np.count_nonzero(odd & keep))
        keep &= ~odd
    return window_s[keep], point[keep], at_ns[keep]
