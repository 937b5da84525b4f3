"""Counting: batches in, planes of one window out. Pure numpy; no clock, no window boundaries, no I/O.

Every plane is a union or an extreme, so the order of batches and repeats of a sample change nothing but the raw
counts. A sample has at most one discard reason, the first of: unknown_point, not_live, late, bad_quality, stale.

`changing` without an order: the values of a window, with the last usable value before it, contain two different ones
if and only if some value differs from its predecessor. So the smallest and the largest value are kept, as bit
patterns; NaN equals NaN and 0.0 equals -0.0. The last usable value is that of the newest sample by (received time,
source time, bit pattern): only then does it not depend on the order in which equal times were delivered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.counting.registry import Registry
from gateway.counting.rule import Rule
from protocols.samples import GOOD, NO_SOURCE_TIME, NOT_LIVE, UNCERTAIN, PollBatch, SampleBatch
from protocols.terms.vocabulary import DISCARD_REASONS

_LOWEST = np.iinfo(np.int64).min
_HIGHEST = np.iinfo(np.int64).max
NS_PER_S = 1_000_000_000

Times = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Planes:
    """What one open window knows. Shapes: (points,) but for connected, (devices,).

    low, high: smallest and largest usable value as bit patterns; low > high where there was none.
    last_received, last_source, last_bits: the newest usable sample.
    """

    __slots__ = ("connected", "counted", "discarded", "high", "last_bits", "last_received", "last_source", "low",
                 "received", "registry", "sampled")

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.connected = np.zeros(registry.devices, dtype=np.bool_)
        self.sampled = np.zeros(registry.points, dtype=np.bool_)
        self.low = np.full(registry.points, _HIGHEST, dtype=np.int64)
        self.high = np.full(registry.points, _LOWEST, dtype=np.int64)
        self.last_received = np.full(registry.points, _LOWEST, dtype=np.int64)
        self.last_source = np.full(registry.points, _LOWEST, dtype=np.int64)
        self.last_bits = np.full(registry.points, _LOWEST, dtype=np.int64)
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
    plain[np.isnan(plain)] = np.nan
    return plain.view(np.int64)


def rows_of(batch: SampleBatch, rows: Mask) -> SampleBatch:
    """Return the samples that `rows`, shape (n,), picks; counting needs no texts."""
    return SampleBatch(point_index=batch.point_index[rows], received_ns=batch.received_ns[rows],
                       source_ns=batch.source_ns[rows], value=batch.value[rows], quality=batch.quality[rows])


def fold_samples(planes: Planes, batch: SampleBatch, rule: Rule) -> None:
    """Count the samples of a batch, all received in the window of `planes`."""
    point, received, source = batch.point_index, batch.received_ns, batch.source_ns
    value, quality = batch.value, batch.quality
    known = knows(planes.registry, point)
    fresh = known & ((quality & NOT_LIVE) == 0)
    planes.sampled[point[fresh]] = True
    good = _usable(rule)[quality] & fresh
    oldest = received - rule.max_source_age_s * NS_PER_S  # not received - source: a device may send any source time
    use = good & ((source == NO_SOURCE_TIME) | (source >= oldest))

    n_known, n_fresh, n_good, n_use = (int(np.count_nonzero(m)) for m in (known, fresh, good, use))
    planes.discard("unknown_point", point.size - n_known)
    planes.discard("not_live", n_known - n_fresh)
    planes.discard("bad_quality", n_fresh - n_good)
    planes.discard("stale", n_good - n_use)
    planes.received += n_use
    planes.counted += n_use
    if n_use == point.size:
        _fold(planes, point, bits_of(value), received, source)
    elif n_use:
        _fold(planes, point[use], bits_of(value[use]), received[use], source[use])


def fold_poll(planes: Planes, poll: PollBatch, rule: Rule) -> None:
    """Count a poll: every value is good and has no source time. `planes` is the window of its received_ns."""
    point, value = poll.block.point_index, poll.value
    if poll.missing.size:
        keep = np.ones(value.size, dtype=np.bool_)
        keep[poll.missing] = False
        point, value = point[keep], value[keep]
    known = knows(planes.registry, point)
    if not known.all():
        planes.discard("unknown_point", int(point.size - np.count_nonzero(known)))
        point, value = point[known], value[known]
    planes.sampled[point] = True
    if "good" not in rule.usable:
        planes.discard("bad_quality", point.size)
        return
    planes.received += point.size
    planes.counted += point.size
    received = np.full(point.size, poll.received_ns, dtype=np.int64)
    _fold(planes, point, bits_of(value), received, np.full(point.size, NO_SOURCE_TIME, dtype=np.int64))


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


def close(planes: Planes, carry: Carry) -> tuple[Columns, Carry]:
    """Return the columns of a window that ends, and what the next one carries over.

    Nested by construction: changing is made of producing, producing sets sampled and its device's connected, and a
    slot that is not alive has no bit.
    """
    registry = planes.registry
    carry = carry.for_points(registry.points)
    before, known = carry.bits[:registry.points], carry.known[:registry.points]
    producing = (planes.low <= planes.high) & registry.point_alive
    changing = producing & ((planes.low != planes.high) | (known & (planes.low != before)))
    sampled = (planes.sampled & registry.point_alive) | producing
    connected = planes.connected.copy()
    connected[registry.owner[producing]] = True
    connected &= registry.device_alive
    bits, has = carry.bits.copy(), carry.known.copy()
    at = np.flatnonzero(producing)
    bits[at], has[at] = planes.last_bits[at], True
    columns = Columns(_integer(connected), _integer(sampled), _integer(producing), _integer(changing))
    return columns, Carry(bits, has)


def _fold(planes: Planes, point: Times, bits: Times, received: Times, source: Times) -> None:
    np.minimum.at(planes.low, point, bits)
    np.maximum.at(planes.high, point, bits)
    # The newest sample of each point by three keys, without sorting: what rises in one key starts anew in the next.
    before = planes.last_received[point]
    np.maximum.at(planes.last_received, point, received)
    risen = point[planes.last_received[point] > before]
    planes.last_source[risen] = _LOWEST
    planes.last_bits[risen] = _LOWEST
    newest = received == planes.last_received[point]
    point, bits, source = point[newest], bits[newest], source[newest]
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
