"""Counting: batches in, planes of one window out. Pure numpy; no clock, no window boundaries, no I/O.

Every plane is a union or an extreme, so the order of batches and repeats of a sample change nothing but the raw
counts. A sample has at most one discard reason, the first of: unknown_point, not_live, late, bad_quality, stale.

`changing` without an order: the values of a window, with the last usable value before it, contain two different ones
if and only if some value differs from its predecessor. So of each point one value is kept, the newest so far, and
whether any other differs from it, as bit patterns; NaN equals NaN and 0.0 equals -0.0. Newest is by (received time,
source time, bit pattern): only then does it not depend on the order in which equal times were delivered.

The planes of a window, a row each, a column for each point and one more, where everything goes that does not count:

    point            0      1      2    ..   n-1  |  n
    newest         20.5    0.0    nan         7.0 |  -      float64 and, the same bytes, int64
    last_received    t1     0      t2          t3 |  -      int64, 0: no usable sample yet, `newest` is a guess
    changed           0     0      1           0  |  -      bool
    sampled           0     1      0           0  |  -      bool: had a fresh sample that did not count
    last_source     (s1    ..                     |  -)     int64, from the first source time on

The first two lie side by side in `pairs`, as nearly every sample asks for both: v0 t0 v1 t1 .. vn tn. So the value of
a point is at twice its index, and its time one further: where `pairs` without its first has twice its index.

Most samples say what the sample before them said. They cost a gather, a comparison and a maximum; only the points that
had anything else to say in a block are looked at in full. A window that begins guesses that values are what they were
in an earlier one: a wrong guess costs time and changes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.counting.registry import Registry
from gateway.counting.rule import Rule
from protocols.samples import GOOD, NO_SOURCE_TIME, NOT_LIVE, UNCERTAIN, PollBatch, SampleBatch
from protocols.terms.vocabulary import DISCARD_REASONS

_LOWEST = np.iinfo(np.int64).min
"""The bits of -0.0, which `bits_of` never gives, and the lowest of all."""

BLOCK = 65_536
"""Samples that are taken in at once: their columns stay in the cache, and below the 128 KiB from which each new array
is made of fresh pages."""

PART = 65_536
"""Points that a closing window works off at once: well below a millisecond. A multiple of 8."""

NS_PER_S = 1_000_000_000

Times = NDArray[np.int64]
Mask = NDArray[np.bool_]
Column = TypeVar("Column", bound=np.generic)


class Planes:
    """What one open window knows; see the module. connected: shape (devices,), the other planes (points + 1,).

    bits, last_received: every other one of `pairs`, for whoever goes through all points; numpy would copy them to
    gather from them. all_alive: whether the roster has no tombstones among its points.
    pairs, values, times: by twice the index of a point its value as int64 or float64, and its last received time.
    """

    __slots__ = ("all_alive", "bits", "changed", "connected", "counted", "discarded", "last_received", "last_source",
                 "pairs", "received", "registry", "sampled", "times", "values")

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.all_alive = bool(registry.point_alive.all())
        slots = registry.points + 1
        self.connected = np.zeros(registry.devices, dtype=np.bool_)
        self.sampled = np.zeros(slots, dtype=np.bool_)
        self.changed = np.zeros(slots, dtype=np.bool_)
        self.pairs = np.zeros(2 * slots, dtype=np.int64)
        self.values = self.pairs.view(np.float64)
        self.times = self.pairs[1:]
        self.bits = self.pairs[::2]
        self.last_received = self.times[::2]
        self.last_source: Times | None = None
        self.received = 0
        self.counted = 0
        self.discarded = dict.fromkeys(DISCARD_REASONS, 0)

    def discard(self, reason: str, count: int) -> None:
        """Count samples that were received and are not counted. Raises KeyError for a reason that is none."""
        self.discarded[reason] += count
        self.received += count

    def clear(self, part: slice) -> None:
        """Forget a part of the points; values stay, as a guess for the next window."""
        self.sampled[part] = False
        self.changed[part] = False
        self.last_received[part] = 0
        if self.last_source is not None:
            self.last_source[part] = NO_SOURCE_TIME

    def clear_totals(self) -> None:
        """Forget all that is not of a point."""
        self.connected[:] = False
        self.received = self.counted = 0
        self.discarded = dict.fromkeys(DISCARD_REASONS, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Carry:
    """The last usable value of every point before a window: bit patterns, and whether there is one. (points,)."""

    bits: Times
    known: Mask

    @classmethod
    def nothing(cls, points: int) -> Carry:
        """Nothing is known, as after a start."""
        return cls(np.zeros(points, dtype=np.int64), np.zeros(points, dtype=np.bool_))

    def unknown(self) -> Carry:
        """Return room for as many points, to be filled."""
        return Carry(np.empty_like(self.bits), np.empty_like(self.known))

    def for_points(self, points: int) -> Carry:
        """Return the same with room for the slots that a newer roster added."""
        more = points - self.bits.size
        if more <= 0:
            return self
        return Carry(np.concatenate([self.bits, np.zeros(more, dtype=np.int64)]),
                     np.concatenate([self.known, np.zeros(more, dtype=np.bool_)]))


@dataclass(frozen=True, slots=True)
class Columns:
    """The four columns of a window as integers: bit i is slot i."""

    connected: int
    sampled: int
    producing: int
    changing: int


def bits_of(value: NDArray[np.float64]) -> Times:
    """Return int64 patterns that are equal where values are: NaN equals NaN, 0.0 equals -0.0. Shape (n,)."""
    plain = value + 0.0  # turns -0.0 into 0.0, and copies
    nan = np.isnan(plain)
    if nan.any():
        plain[nan] = np.nan
    return plain.view(np.int64)


def rows_of(batch: SampleBatch, rows: Mask) -> SampleBatch:
    """Return the samples that `rows`, shape (n,), picks; counting needs no texts."""
    at = np.flatnonzero(rows)

    def picked(column: NDArray[Column]) -> NDArray[Column]:
        return column.take(at, mode="clip")

    return SampleBatch(point_index=picked(batch.point_index), received_ns=picked(batch.received_ns),
                       source_ns=picked(batch.source_ns), value=picked(batch.value), quality=picked(batch.quality))


def fold_samples(planes: Planes, batch: SampleBatch, rule: Rule, of: Mask | None = None) -> None:
    """Count the samples of a batch that `of`, shape (n,), picks: all received in the window of `planes`."""
    size = batch.point_index.size
    source = batch.source_ns if np.bitwise_or.reduce(batch.source_ns) else None
    for begin in range(0, size, BLOCK):
        rows = slice(begin, begin + BLOCK)
        _fold_block(planes, batch.point_index[rows], batch.received_ns[rows], None if source is None else source[rows],
                    batch.value[rows], batch.quality[rows], rule, None if of is None else ~of[rows])


def _fold_block(planes: Planes, point: Times, received: Times, source: Times | None, value: NDArray[np.float64],
                quality: NDArray[np.uint8], rule: Rule, aside: Mask | None) -> None:
    """Count rows but for those that are `aside`, which is filled with all that do not count."""
    size = point.size if aside is None else int(point.size - np.count_nonzero(aside))
    if not _knows_all(planes, point):
        point, aside, size = _without_strangers(planes, point, aside, size)
    odd = quality != GOOD
    if odd.any() or "good" not in rule.usable:
        at = np.flatnonzero(odd) if "good" in rule.usable else np.arange(point.size)
        if aside is None:
            aside = np.zeros(point.size, dtype=np.bool_)
        else:
            at = at[~aside[at]]
        kind = quality[at]
        fresh, good = kind < NOT_LIVE, _usable(rule.usable)[kind]
        planes.discard("not_live", int(kind.size - np.count_nonzero(fresh)))
        bad = point[at[fresh & ~good]]
        planes.sampled[bad] = True
        planes.discard("bad_quality", bad.size)
        aside[at[~good]] = True
        size -= int(good.size - np.count_nonzero(good))
    if source is not None:
        oldest = received - rule.max_source_age_s * NS_PER_S  # not received - source: a device may send any source time
        old = (source < oldest) & (source != NO_SOURCE_TIME)
        if old.any():
            if aside is not None:
                old &= ~aside
            planes.sampled[point[old]] = True
            aside, size = _discarded(planes, "stale", old, aside, size)
    planes.received += size
    planes.counted += size
    if size:
        _fold(planes, point, value, received, source, aside)


def _without_strangers(planes: Planes, point: Times, aside: Mask | None, size: int) -> tuple[Times, Mask, int]:
    """Discard samples of points that the roster does not know; their indexes become that of the column for nobody."""
    strange = ~knows(planes.registry, point)
    return np.where(strange, planes.registry.points, point), *_discarded(planes, "unknown_point", strange, aside, size)


def _discarded(planes: Planes, reason: str, rows: Mask, aside: Mask | None, size: int) -> tuple[Mask, int]:
    """Discard rows that are not aside yet; return who is aside now, and how many are not."""
    if aside is not None:
        rows = rows & ~aside
    count = int(np.count_nonzero(rows))
    planes.discard(reason, count)
    return (rows if aside is None else aside | rows), size - count


def fold_poll(planes: Planes, poll: PollBatch, rule: Rule) -> None:
    """Count a poll: every value is good and has no source time. `planes` is the window of its received_ns."""
    point, value = poll.block.point_index, poll.value
    size, aside = point.size, None
    if poll.missing.size:
        aside = np.zeros(size, dtype=np.bool_)
        aside[poll.missing] = True
        size -= int(np.count_nonzero(aside))
    if not _knows_all(planes, point):
        point, aside, size = _without_strangers(planes, point, aside, size)
    if "good" not in rule.usable:
        planes.sampled[point if aside is None else point[~aside]] = True
        planes.discard("bad_quality", size)
        return
    planes.received += size
    planes.counted += size
    if size:
        _fold(planes, point, value, np.full(point.size, poll.received_ns, dtype=np.int64), None, aside)


def fold_late(planes: Planes, batch: SampleBatch) -> None:
    """Count samples whose own window is sealed in the window that is open now, as discarded."""
    known = knows(planes.registry, batch.point_index)
    live = known & ((batch.quality & NOT_LIVE) == 0)
    n_known, n_live = int(np.count_nonzero(known)), int(np.count_nonzero(live))
    planes.discard("unknown_point", known.size - n_known)
    planes.discard("not_live", n_known - n_live)
    planes.discard("late", n_live)


def knows(registry: Registry, point: Times) -> Mask:
    """Return for each index, shape (n,), whether it is a point that is alive in this roster."""
    inside = (point >= 0) & (point < registry.points)
    if inside.all():
        return registry.point_alive[point]
    result = np.zeros(point.size, dtype=np.bool_)
    result[inside] = registry.point_alive[point[inside]]
    return result


def _knows_all(planes: Planes, point: Times) -> bool:
    """Return whether `knows` would be true of all of them; quick where no point of the roster is gone."""
    if not point.size:
        return True
    if np.maximum.reduce(point.view(np.uint64)) >= planes.registry.points:  # a negative one is very large
        return False
    return planes.all_alive or bool(planes.registry.point_alive.take(point, mode="clip").all())


def close(planes: Planes, carry: Carry, into: Carry) -> Generator[None, None, Columns]:
    """Return the columns of a window that ends, fill `into` with what the next one carries over, and clear the planes.

    It yields whenever it has worked for a while: PART points. carry, into: as many points, at least the roster's.

    Nested by construction: changing is made of producing, producing sets sampled and its device's connected, and a
    slot that is not alive has no bit.
    """
    registry = planes.registry
    sampled, producing, changing = (bytearray() for _ in range(3))
    for first in range(0, registry.points, PART):
        part = slice(first, min(first + PART, registry.points))
        alive, bits = registry.point_alive[part], planes.bits[part]
        before, known = carry.bits[part], carry.known[part]
        has = (planes.last_received[part] != 0) & alive
        producing += np.packbits(has, bitorder="little").tobytes()
        differs = planes.changed[part] | (known & (bits != before))
        changing += np.packbits(has & differs, bitorder="little").tobytes()
        sampled += np.packbits((planes.sampled[part] & alive) | has, bitorder="little").tobytes()
        planes.connected[registry.owner[part][has]] = True
        np.copyto(into.bits[part], before)
        np.copyto(into.bits[part], bits, where=has)
        np.logical_or(known, has, out=into.known[part])
        planes.clear(part)
        yield
    into.bits[registry.points:] = carry.bits[registry.points:]
    into.known[registry.points:] = carry.known[registry.points:]
    connected = np.packbits(planes.connected & registry.device_alive, bitorder="little").tobytes()
    planes.clear(slice(registry.points, None))
    planes.clear_totals()
    return Columns(*(int.from_bytes(bits, "little") for bits in (connected, sampled, producing, changing)))


def _fold(planes: Planes, point: Times, value: NDArray[np.float64], received: Times, source: Times | None,
          aside: Mask | None) -> None:
    """Take in usable samples: all but those that are `aside`. First those that say nothing new, then the others."""
    if source is not None and planes.last_source is None:
        planes.last_source = np.full(planes.bits.size, NO_SOURCE_TIME, dtype=np.int64)
    twice = point + point
    differs = planes.values.take(twice, mode="clip") != value
    if aside is not None:
        differs &= ~aside
    many = np.count_nonzero(differs)
    if many == point.size:
        _fold_any(planes, point, value, received, source)
        return
    times = received
    if many or aside is not None:
        times = received * ~(differs if aside is None else differs | aside)  # 0 is older than every sample
    if planes.last_source is None:
        np.maximum.at(planes.times, twice, times)
    else:
        _fold_source(planes, planes.last_source, point, times, source)
    if many:
        at = np.flatnonzero(differs)
        _fold_any(planes, point.take(at, mode="clip"), value.take(at, mode="clip"), received.take(at, mode="clip"),
                  None if source is None else source.take(at, mode="clip"))


def _fold_any(planes: Planes, point: Times, value: NDArray[np.float64], received: Times, source: Times | None) -> None:
    """Take in samples of any values."""
    bits = bits_of(value)
    twice = point + point
    before = planes.times.take(twice, mode="clip")
    known = before != 0
    guess = planes.pairs.take(twice, mode="clip")
    np.maximum.at(planes.times, twice, received)
    newest = received == planes.times.take(twice, mode="clip")
    tied = newest & (before == received)  # with a sample that was taken in earlier: not to be overwritten
    at = np.flatnonzero(newest & ~tied)
    rising, rising_bits = twice.take(at, mode="clip"), bits.take(at, mode="clip")
    # A point that comes twice in an assignment keeps one of its samples; those that lost are compared below.
    planes.pairs[rising] = rising_bits
    lost = planes.pairs.take(rising, mode="clip") != rising_bits
    if planes.last_source is not None:
        times = np.zeros(at.size, dtype=np.int64) if source is None else source.take(at, mode="clip")
        points = point.take(at, mode="clip")
        planes.last_source[points] = times
        lost |= planes.last_source.take(points, mode="clip") != times
    if lost.any():
        tied[at[lost]] = True
    if tied.any():
        at = np.flatnonzero(tied)
        _settle(planes, point[at], bits[at], None if source is None else source[at])
    now = planes.pairs.take(twice, mode="clip")
    planes.changed[point[(bits != now) | (known & (guess != now))]] = True


def _fold_source(planes: Planes, last_source: Times, point: Times, received: Times, source: Times | None) -> None:
    """Take in the times of samples whose values are known already: those of equal ones decide between others."""
    if source is None:
        source = np.zeros(point.size, dtype=np.int64)
    twice = point + point
    before = planes.times.take(twice, mode="clip")
    np.maximum.at(planes.times, twice, received)
    newest = received == planes.times.take(twice, mode="clip")
    tied = newest & (before == received)
    at = np.flatnonzero(newest & ~tied)
    rising, times = point.take(at, mode="clip"), source.take(at, mode="clip")
    last_source[rising] = times
    lost = last_source.take(rising, mode="clip") != times
    if lost.any():
        tied[at[lost]] = True
    if tied.any():
        at = np.flatnonzero(tied)
        np.maximum.at(last_source, point[at], source[at])


def _settle(planes: Planes, point: Times, bits: Times, source: Times | None) -> None:
    """Take in samples as new as the newest of their points: what rises in source time starts anew in bits."""
    if planes.last_source is not None:
        if source is None:
            source = np.zeros(point.size, dtype=np.int64)
        before = planes.last_source[point]
        np.maximum.at(planes.last_source, point, source)
        now = planes.last_source[point]
        planes.bits[point[now > before]] = _LOWEST
        newest = source == now
        point, bits = point[newest], bits[newest]
    np.maximum.at(planes.bits, point, bits)


@functools.cache
def _usable(qualities: tuple[str, ...]) -> Mask:
    table = np.zeros(256, dtype=np.bool_)
    table[GOOD] = "good" in qualities
    table[UNCERTAIN] = "uncertain" in qualities
    return table
