"""Counting: batches in, planes of one window out. Pure numpy; no clock, no window boundaries, no I/O.

Every plane is a union or an extreme, so the order of batches and repeats of a sample change nothing but the raw
counts. A sample has at most one discard reason, the first of: unknown_point, not_live, late, bad_quality, stale.

`changing` without an order: the values of a window, with the last usable value before it, contain two different ones
if and only if some value differs from its predecessor. So one value of the window is kept, whichever came first, and
whether any other differs from it, as bit patterns; NaN equals NaN and 0.0 equals -0.0. The last usable value is that
of the newest sample by (received time, source time, bit pattern): only then does it not depend on the order in which
equal times were delivered.

What is rare is looked for first and paid for only where it is: bad rows, sources with a clock, times that are equal.
What is left for every sample is a gather or scatter for each plane; ufunc.at and masks cost several times as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.counting.registry import Registry
from gateway.counting.rule import Rule
from protocols.samples import GOOD, NO_SOURCE_TIME, NOT_LIVE, UNCERTAIN, PollBatch, SampleBatch
from protocols.terms.vocabulary import DISCARD_REASONS

_LOWEST = np.iinfo(np.int64).min
_NOTHING = _LOWEST
"""The bits of -0.0, which `bits_of` never gives."""

BLOCK = 16_000
"""Samples that are taken in at once: their columns stay in the cache, and below the 128 KiB from which each new array
is made of fresh pages."""

NS_PER_S = 1_000_000_000

Times = NDArray[np.int64]
Mask = NDArray[np.bool_]
Column = TypeVar("Column", bound=np.generic)


class Planes:
    """What one open window knows. Shapes: (points,) but for connected, (devices,).

    sampled: had a fresh sample that did not count. some: a usable value as bit pattern, _NOTHING where there was none.
    changed: had a usable value that differs from `some`. last_received, last_source, last_bits: newest usable sample.
    has_source: whether any of them has a source time; without one, last_source is not looked at. all_alive: whether
    the roster has no tombstones among its points.
    """

    __slots__ = ("all_alive", "changed", "connected", "counted", "discarded", "has_source", "last_bits",
                 "last_received", "last_source", "received", "registry", "sampled", "some")

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.all_alive = bool(registry.point_alive.all())
        self.connected = np.zeros(registry.devices, dtype=np.bool_)
        self.sampled = np.zeros(registry.points, dtype=np.bool_)
        self.changed = np.zeros(registry.points, dtype=np.bool_)
        self.some = np.full(registry.points, _NOTHING, dtype=np.int64)
        self.last_received = np.full(registry.points, _LOWEST, dtype=np.int64)
        self.last_source = np.full(registry.points, NO_SOURCE_TIME, dtype=np.int64)
        self.last_bits = np.full(registry.points, _LOWEST, dtype=np.int64)
        self.has_source = False
        self.received = 0
        self.counted = 0
        self.discarded = dict.fromkeys(DISCARD_REASONS, 0)

    def discard(self, reason: str, count: int) -> None:
        """Count samples that were received and are not counted. Raises KeyError for a reason that is none."""
        self.discarded[reason] += count
        self.received += count


@dataclass(frozen=True, slots=True, eq=False)
class Carry:
    """The last usable value of every point before a window: bit patterns, and whether there is one. (points,)."""

    bits: Times
    known: Mask

    @classmethod
    def nothing(cls, points: int) -> Carry:
        """Nothing is known, as after a start."""
        return cls(np.zeros(points, dtype=np.int64), np.zeros(points, dtype=np.bool_))

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


def fold_samples(planes: Planes, batch: SampleBatch, rule: Rule) -> None:
    """Count the samples of a batch, all received in the window of `planes`."""
    for begin in range(0, batch.point_index.size, BLOCK):
        rows = slice(begin, begin + BLOCK)
        _fold_block(planes, batch.point_index[rows], batch.received_ns[rows], batch.source_ns[rows],
                    batch.value[rows], batch.quality[rows], rule)


def _fold_block(planes: Planes, point: Times, received: Times, source: Times, value: NDArray[np.float64],
                quality: NDArray[np.uint8], rule: Rule) -> None:
    bits = bits_of(value)
    has_source = bool(source.any())
    keep: Mask | None = None
    if not _knows_all(planes, point):
        keep = knows(planes.registry, point)
        planes.discard("unknown_point", int(point.size - np.count_nonzero(keep)))
    odd = np.flatnonzero(quality) if "good" in rule.usable else np.arange(point.size)
    if odd.size:
        if keep is None:
            keep = np.ones(point.size, dtype=np.bool_)
        else:
            odd = odd[keep[odd]]
        kind = quality[odd]
        fresh, good = kind < NOT_LIVE, _usable(rule)[kind]
        planes.discard("not_live", int(kind.size - np.count_nonzero(fresh)))
        _worthless(planes, "bad_quality", point[odd[fresh & ~good]])
        keep[odd[~good]] = False
    if has_source:
        oldest = received - rule.max_source_age_s * NS_PER_S  # not received - source: a device may send any source time
        young = (source == NO_SOURCE_TIME) | (source >= oldest)
        if keep is not None:
            _worthless(planes, "stale", point[keep & ~young])
            keep &= young
        elif not young.all():
            _worthless(planes, "stale", point[~young])
            keep = young
    if keep is not None:
        at = np.flatnonzero(keep)
        point, bits, received = point.take(at, mode="clip"), bits.take(at, mode="clip"), received.take(at, mode="clip")
        source = source.take(at, mode="clip") if has_source else source[:at.size]
    planes.received += point.size
    planes.counted += point.size
    _fold(planes, point, bits, received, source, has_source=has_source)


def _worthless(planes: Planes, reason: str, point: Times) -> None:
    """Discard fresh samples: their points are sampled all the same."""
    planes.sampled[point] = True
    planes.discard(reason, point.size)


def fold_poll(planes: Planes, poll: PollBatch, rule: Rule) -> None:
    """Count a poll: every value is good and has no source time. `planes` is the window of its received_ns."""
    point, value = poll.block.point_index, poll.value
    if poll.missing.size:
        keep = np.ones(value.size, dtype=np.bool_)
        keep[poll.missing] = False
        point, value = point[keep], value[keep]
    if not _knows_all(planes, point):
        known = knows(planes.registry, point)
        planes.discard("unknown_point", int(point.size - np.count_nonzero(known)))
        point, value = point[known], value[known]
    if "good" not in rule.usable:
        planes.sampled[point] = True
        planes.discard("bad_quality", point.size)
        return
    planes.received += point.size
    planes.counted += point.size
    received = np.full(point.size, poll.received_ns, dtype=np.int64)
    _fold(planes, point, bits_of(value), received, np.zeros(point.size, dtype=np.int64), has_source=False)


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
    if point.min() < 0 or point.max() >= planes.registry.points:
        return False
    return planes.all_alive or bool(planes.registry.point_alive.take(point, mode="clip").all())


def close(planes: Planes, carry: Carry) -> tuple[Columns, Carry]:
    """Return the columns of a window that ends, and what the next one carries over.

    Nested by construction: changing is made of producing, producing sets sampled and its device's connected, and a
    slot that is not alive has no bit.
    """
    registry = planes.registry
    carry = carry.for_points(registry.points)
    before, known = carry.bits[:registry.points], carry.known[:registry.points]
    producing = (planes.some != _NOTHING) & registry.point_alive
    changing = producing & (planes.changed | (known & (planes.some != before)))
    sampled = (planes.sampled & registry.point_alive) | producing
    connected = planes.connected.copy()
    connected[registry.owner[producing]] = True
    connected &= registry.device_alive
    bits, has = carry.bits.copy(), carry.known.copy()
    at = np.flatnonzero(producing)
    bits[at], has[at] = planes.last_bits[at], True
    columns = Columns(_integer(connected), _integer(sampled), _integer(producing), _integer(changing))
    return columns, Carry(bits, has)


def _fold(planes: Planes, point: Times, bits: Times, received: Times, source: Times, *, has_source: bool) -> None:
    """Take in usable samples. A point that comes twice in an assignment keeps its last one, which is as good as any."""
    differs = planes.some.take(point, mode="clip") != bits
    if differs.any():
        _differ(planes, point[differs], bits[differs])

    planes.has_source |= has_source
    before = planes.last_received.take(point, mode="clip")
    np.maximum.at(planes.last_received, point, received)
    tied = before == received  # with a sample that was taken in earlier: not to be overwritten
    newest = received == planes.last_received.take(point, mode="clip")
    if tied.any():
        tied &= newest
        _settle(planes, point[tied], bits[tied], source[tied])
        newest &= ~tied
    if not newest.all():
        at = np.flatnonzero(newest)
        point, bits = point.take(at, mode="clip"), bits.take(at, mode="clip")
        source = source.take(at, mode="clip") if planes.has_source else source
    planes.last_bits[point] = bits
    lost = planes.last_bits.take(point, mode="clip") != bits  # two newest samples of one point, of one time
    if planes.has_source:
        planes.last_source[point] = source
        lost |= planes.last_source.take(point, mode="clip") != source
    if lost.any():
        at = np.flatnonzero(lost)
        _settle(planes, point[at], bits[at], source[at])


def _differ(planes: Planes, point: Times, bits: Times) -> None:
    """Take in values that differ from `some`, or are the first of their points."""
    first = planes.some.take(point, mode="clip") == _NOTHING
    planes.some[point[first]] = bits[first]
    planes.changed[point[planes.some.take(point, mode="clip") != bits]] = True


def _settle(planes: Planes, point: Times, bits: Times, source: Times) -> None:
    """Take in samples as new as the newest of their points: what rises in source time starts anew in bits."""
    before = planes.last_source[point]
    np.maximum.at(planes.last_source, point, source)
    planes.last_bits[point[planes.last_source[point] > before]] = _LOWEST
    newest = source == planes.last_source[point]
    np.maximum.at(planes.last_bits, point[newest], bits[newest])


def _usable(rule: Rule) -> Mask:
    table = np.zeros(256, dtype=np.bool_)
    table[GOOD] = "good" in rule.usable
    table[UNCERTAIN] = "uncertain" in rule.usable
    return table


def _integer(mask: Mask) -> int:
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")
