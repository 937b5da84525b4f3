"""Which reads are sent for which points: coalesced, printable before anything is sent, and healed while running.

Pure; time is an argument. One read serves points of one device only, so that a reply speaks for one device.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

from protocols.errors import ConfigError, Problem
from protocols.modbus.target import (
    BIT_TABLES,
    READ_FUNCTION,
    RTU_UNIT_MAX,
    ModbusEndpoint,
    ModbusPoint,
    Table,
    UnitLimits,
)
from protocols.packed import Packed

ILLEGAL_FUNCTION = 1
ILLEGAL_ADDRESS = 2
ILLEGAL_VALUE = 3
GATEWAY_EXCEPTIONS = frozenset({0x0A, 0x0B})
"""Gateway path unavailable, gateway target failed to respond: the gateway spoke, the device did not."""

NO_REPLY = ("modbus.timeout", "modbus.closed", "modbus.gateway_exception")
"""What a device does that has nothing to say to a read, or the gateway before it; a mismatch is about the line."""

RETRY_FIRST_S = 600.0
RETRY_MAX_S = 86_400.0
"""A refused read is tried again as a whole after RETRY_FIRST_S, then ever more rarely: a controller may be reloaded."""

MUTE_AFTER = 5
"""Times that a read goes without an answer, while its unit answers others in between, before it is taken as refused:
some devices say nothing, or hang up, where others answer exception 2. A line that loses one frame in twenty does this
to a read once in some million polls."""

MUTE_RETRY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # eq=False: a read is itself, never compared by its points
class Request:
    """One read. points: sorted by address, all of one unit, table and device, all wholly inside the read.

    `make_requests` keeps the points of all reads as columns, of which each read has a view.
    """

    unit: int
    table: Table
    address: int
    count: int
    device_index: int
    points: Sequence[ModbusPoint]

    @property
    def function(self) -> int:
        """Function code: 1 coils, 2 discrete inputs, 3 holding registers, 4 input registers."""
        return READ_FUNCTION[self.table]

    @property
    def data_size(self) -> int:
        """Bytes of data in a good reply: 16 bits a register, 8 coils a byte."""
        return (self.count + 7) // 8 if self.table in BIT_TABLES else 2 * self.count

    def row(self) -> dict[str, str]:
        """Return this read as text by column, for `plan`."""
        return {"unit": str(self.unit), "function": str(self.function), "table": self.table,
                "address": str(self.address), "count": str(self.count), "points": str(len(self.points)),
                "device_index": str(self.device_index)}


def make_requests(points: Iterable[ModbusPoint], endpoint: ModbusEndpoint) -> list[Request]:
    """Coalesce points into as few reads as the limits of their units allow.

    Neighbours share a read if at most `max_gap` addresses lie between them and the read stays within `max_registers`
    or `max_bits`, each as `endpoint.of(unit)` says. A value of several registers is never split: its two halves would
    be of different moments. Going through sorted addresses and filling each read as far as it goes needs the fewest.

    Returns: reads sorted by unit, device, table, address.
    Raises: ConfigError for every point that no read can hold, or whose unit cannot exist on this line.
    """
    groups: dict[tuple[int, int, Table], list[ModbusPoint]] = {}
    limits: dict[int, UnitLimits] = {}
    problems = []
    for point in points:
        address = point.address
        if address.unit not in limits:
            limits[address.unit] = endpoint.of(address.unit)
        limit = _limit(address.table, limits[address.unit])
        if address.size > limit:
            problems.append(Problem.of(point.where, "modbus.value_too_long", address=address.canonical,
                                       size=address.size, limit=limit, connection=endpoint.name))
        if endpoint.is_rtu and not 1 <= address.unit <= RTU_UNIT_MAX:
            problems.append(Problem.of(point.where, "modbus.bad_rtu_unit", address=address.canonical,
                                       unit=address.unit, highest=RTU_UNIT_MAX))
        groups.setdefault((address.unit, point.device_index, address.table), []).append(point)
    if problems:
        raise ConfigError(problems)
    requests = [request for key in sorted(groups)
                for request in _coalesce(groups[key], _limit(key[2], limits[key[0]]), limits[key[0]].max_gap)]
    held = Packed(point for request in requests for point in request.points)
    ends = accumulate((len(request.points) for request in requests), initial=0)
    return [replace(request, points=held[begin:end]) for request, (begin, end) in
            zip(requests, pairwise(ends), strict=True)]


class PointsBySlot(Mapping[int, ModbusPoint]):
    """Slot -> point of all reads; of points that are kept as columns one is made when it is asked for."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        slots = [slot for request in requests for slot in _slots(request.points)]
        self._order = array("I", sorted(range(len(slots)), key=slots.__getitem__))
        self._slots = array("q", (slots[place] for place in self._order))
        self._ends = array("I", accumulate(len(request.points) for request in requests))

    def __getitem__(self, slot: int) -> ModbusPoint:
        at = bisect_left(self._slots, slot)
        if at == len(self._slots) or self._slots[at] != slot:
            raise KeyError(slot)
        number = bisect_right(self._ends, self._order[at])
        return self._requests[number].points[self._order[at] - self._ends[number]]  # from the end of its read

    def __iter__(self) -> Iterator[int]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)


def _slots(points: Sequence[ModbusPoint]) -> Iterable[int]:
    return points.column("point_index") if isinstance(points, Packed) else (point.point_index for point in points)


def _limit(table: str, limits: UnitLimits) -> int:
    return limits.max_bits if table in BIT_TABLES else limits.max_registers


def _coalesce(points: Iterable[ModbusPoint], limit: int, max_gap: int) -> Iterator[Request]:
    held: list[ModbusPoint] = []
    start = end = 0
    for point in sorted(points, key=lambda p: (p.address.address, p.address.end, p.point_index)):
        grown = max(end, point.address.end)
        if held and (point.address.address - end > max_gap or grown - start > limit):
            yield _request(held)
            held = []
        if not held:
            start, grown = point.address.address, point.address.end
        held.append(point)
        end = grown
    if held:
        yield _request(held)


def _request(points: Sequence[ModbusPoint]) -> Request:
    first = points[0]
    start = min(p.address.address for p in points)
    return Request(unit=first.address.unit, table=first.address.table, address=start,
                   count=max(p.address.end for p in points) - start, device_index=first.device_index,
                   points=tuple(points))


def split(request: Request) -> tuple[Request, Request] | None:
    """Cut a read in two: at its widest gap if it has one, else in the middle. None if it holds one point.

    Both halves shrink to their own points: what a device refuses is most often an address nobody asked for.
    """
    if len(request.points) < 2:
        return None
    reach, gaps = 0, []
    for i, (left, right) in enumerate(pairwise(request.points), start=1):
        reach = max(reach, left.address.end)
        gaps.append((right.address.address - reach, i))
    widest, at = max(gaps)
    if widest <= 0:
        at = len(request.points) // 2
    return _request(request.points[:at]), _request(request.points[at:])


def single(point: ModbusPoint) -> Request:
    """Return the read of one point alone."""
    return _request([point])


@dataclass(slots=True)
class _Refusal:
    """A read that was refused as a whole, and when it is tried again."""

    request: Request
    retry_at_s: float
    wait_s: float


@dataclass(slots=True)
class ReadPlan:
    """The reads of one unit as they stand now: what the device refuses is cut in two until the refused points remain.

    A refused whole is tried again beside its parts, ever more rarely; if it is answered, it replaces them. So nothing
    is lost while trying, and a controller that was reloaded is read in few requests again.
    """

    active: list[Request]
    _refused: list[_Refusal] = field(default_factory=list)
    _mute: dict[Request, tuple[int, int]] = field(default_factory=dict)  # read -> times unanswered, replies by then
    _probes: dict[int, Request] = field(default_factory=dict)  # point slot -> the read of it alone
    _probed: int = -1

    def due(self, now_s: float) -> list[Request]:
        """Return the reads of this cycle. With every point refused, one is still asked: to see that the unit lives."""
        retries = [r.request for r in self._refused if r.retry_at_s <= now_s]
        if retries:  # one a cycle, the largest first: if it is answered, the smaller ones are settled with it
            return [*self.active, max(retries, key=lambda r: len(r.points))]
        if not self.active and self._refused:
            return [self._refused[-1].request]
        return list(self.active)

    @property
    def is_calm(self) -> bool:
        """Whether every read is answered: then `answered` has nothing to take note of."""
        return not self._refused and not self._mute

    def probe(self, now_s: float) -> Request:
        """Return what a silent unit is asked: one point of the read whose turn it is, another one each time.

        If it is answered, the unit lives, and it is the read as a whole that gets no answer (`unanswered`).
        """
        whole = self.due(now_s)[0]
        if len(whole.points) == 1:
            return whole
        self._probed += 1
        point = whole.points[self._probed % len(whole.points)]
        return self._probes.setdefault(point.point_index, _request([point]))

    def answered(self, request: Request) -> bool:
        """Take note of a good reply. Return whether a refused read works again."""
        self._mute.pop(request, None)
        if not any(r.request is request for r in self._refused):
            return False
        covered = {p.point_index for p in request.points}
        self.active = [a for a in self.active if not _within(a, covered)]
        self._refused = [r for r in self._refused if not _within(r.request, covered)]
        self.active.append(request)
        return True

    def refused(self, request: Request, exception: int, now_s: float) -> tuple[ModbusPoint, ...]:
        """Take note of an exception reply that says the read itself is wrong.

        Returns: the points that are given up now (none if the read is cut in two instead, or was known as refused).
        """
        if exception not in (ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE):
            return ()
        self._mute.pop(request, None)
        if self._is_known(request, now_s) or not any(a is request for a in self.active):
            return ()
        return self._cut(request, None if exception == ILLEGAL_FUNCTION else split(request), now_s, RETRY_FIRST_S)

    def unanswered(self, request: Request, replies: int, now_s: float) -> tuple[ModbusPoint, ...]:
        """Take note that a read got no reply, and begin the next poll with the read behind it.

        So one read that a device does not answer keeps no other from being read. replies: how many replies this unit
        has given so far. Returns: as `refused`, once the read was MUTE_AFTER times without an answer and the unit
        answered others in between; a unit that answers nothing at all loses no read by this.
        """
        if self._is_known(request, now_s):
            return ()
        at = next((i for i, a in enumerate(self.active) if a is request), None)
        if at is None:
            return ()
        self.active = [*self.active[at + 1:], *self.active[:at + 1]]
        times, before = self._mute.get(request, (0, -1))
        times += replies > before
        self._mute[request] = (times, replies)
        if times < MUTE_AFTER:
            return ()
        del self._mute[request]
        return self._cut(request, split(request), now_s, MUTE_RETRY_S)

    def _is_known(self, request: Request, now_s: float) -> bool:
        """Return whether this read was refused as a whole before; if its time had come, it waits twice as long now."""
        for known in self._refused:
            if known.request is request:
                if known.retry_at_s <= now_s:
                    known.wait_s = min(2 * known.wait_s, RETRY_MAX_S)
                    known.retry_at_s = now_s + known.wait_s
                return True
        return False

    def _cut(self, request: Request, halves: tuple[Request, Request] | None, now_s: float,
             wait_s: float) -> tuple[ModbusPoint, ...]:
        self.active = [a for a in self.active if a is not request]
        self._refused.append(_Refusal(request, now_s + wait_s, wait_s))
        if halves is None:
            return tuple(request.points)
        self.active += halves
        return ()

    @property
    def given_up(self) -> tuple[ModbusPoint, ...]:
        """Points that no active read holds."""
        read = {p.point_index for a in self.active for p in a.points}
        lost = {p.point_index: p for r in self._refused for p in r.request.points if p.point_index not in read}
        return tuple(lost[index] for index in sorted(lost))


def _within(request: Request, point_indices: set[int]) -> bool:
    return all(p.point_index in point_indices for p in request.points)


def describe(requests: Sequence[Request], endpoint: ModbusEndpoint) -> list[dict[str, str]]:
    """Return one row of text for each read, as `tallystick plan` prints it. Nothing is sent."""
    return [{"connection": endpoint.name, "endpoint": endpoint.endpoint, **r.row(),
             "poll_s": f"{endpoint.of(r.unit).poll_s:g}"} for r in requests]
