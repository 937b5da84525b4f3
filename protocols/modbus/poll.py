"""Polls all units of one line for ever, and delivers what they say. No device library; loop time only.

One request is outstanding. A unit that waits for its own interval, or that is silent, does not keep the others.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from protocols.errors import DeviceError, Problem
from protocols.modbus import frames
from protocols.modbus.codec import BlockCodec
from protocols.modbus.cycle import REQUESTS_MAX, Cycle
from protocols.modbus.delivery import Delivery
from protocols.modbus.line import Line
from protocols.modbus.plan import GATEWAY_EXCEPTIONS, NO_REPLY, PointsBySlot, ReadPlan, Request, make_requests
from protocols.modbus.schedule import SILENT_MAX_S, UnitState, reconnect_s
from protocols.modbus.target import ModbusEndpoint, UnitLimits
from protocols.samples import Reading, Sink

MISMATCH_EVENT_S = 60.0
"""At most one event about mismatched replies of one unit in this time."""

TAKE_S = 0.25
"""Replies of a poll that takes longer are delivered in pieces of this length: no window closes before them."""


@dataclass(slots=True)
class _Unit:
    """One unit while it is polled.

    ready_s: when it may be asked next, by the loop's clock. todo: reads that are left of the poll that is under way.
    troubled: reads whose last answer was an exception, told once each. cycle: the reads that were last asked as one.
    """

    unit: int
    limits: UnitLimits
    plan: ReadPlan
    state: UnitState
    ready_s: float = 0.0
    todo: list[Request] = field(default_factory=list)
    replies: int = 0
    troubled: set[Request] = field(default_factory=set)
    cycle: Cycle | None = None
    mismatch_told_s: float = float("-inf")
    has_overrun: bool = False


_READY = attrgetter("ready_s")


class _Takes:
    """Calls `take(begin)` with the number of the first reply that was not taken: every TAKE_S, and at the end.

    is_timed: False where there is one reply only, which is the end.
    """

    def __init__(self, take: Callable[[int], None], times: Sequence[int], *, is_timed: bool) -> None:
        self._take = take
        self._times = times
        self._taken = 0
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(TAKE_S, self._look) if is_timed else None

    def now(self) -> None:
        """Take what is there."""
        begin, self._taken = self._taken, len(self._times)
        if begin < self._taken:
            self._take(begin)

    def _look(self) -> None:
        self._timer = self._loop.call_later(TAKE_S, self._look)
        self.now()

    def __enter__(self) -> _Takes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.now()


class Poller:
    """All units behind one endpoint, over one line."""

    def __init__(self, endpoint: ModbusEndpoint, requests: Sequence[Request], line: Line, sink: Sink,
                 clock_ns: Callable[[], int]) -> None:
        self._endpoint = endpoint
        self._requests = requests
        self._points = PointsBySlot(requests)
        self._line = line
        self._sink = sink
        self._clock_ns = clock_ns
        self._units: list[_Unit] = []
        self._delivery = Delivery(self._points, sink, endpoint.name)
        self._attempt = 0  # connections opened since the last valid reply
        self._is_lost = False
        self.is_running = False

    @property
    def readable(self) -> frozenset[int]:
        """Slots of the points that `read_once` reads."""
        return frozenset(self._points)

    async def run(self) -> None:
        """Poll until cancelled. Device and network trouble never ends it: it is told as events and tried again."""
        now_s = self._now_s()
        units = [_Unit(unit, self._endpoint.of(unit), ReadPlan(list(requests)), UnitState(now_s))
                 for unit, requests in self._by_unit()]
        self._units = units
        self.is_running = True
        try:
            if not units:
                await asyncio.get_running_loop().create_future()
            while True:
                unit = min(units, key=_READY)
                unit.ready_s = self._ready_s(unit)  # somebody else may have asked it in between
                wait_s = unit.ready_s - self._now_s()
                if wait_s > 0 and any(other.ready_s < unit.ready_s for other in units):
                    continue
                await asyncio.sleep(max(0.0, wait_s))
                if not self._line.is_open:
                    await self._connect(units)
                await self._poll(unit)
                unit.ready_s = self._ready_s(unit)
        finally:
            self.is_running = False
            self._line.close()

    async def read_once(self, point_index: int) -> Reading | None:
        """See `driver.Driver.read_once`."""
        point = self._points[point_index]
        unit = point.address.unit
        if any(other.unit == unit and other.state.is_silent for other in self._units):
            return None
        request, = make_requests([point], self._endpoint)
        async with self._line.turn(unit):
            if not self.is_running or not self._line.is_open:
                return None
            asked_ns = self._clock_ns()
            try:
                reply, answered_ns = await self._line.read(request)
            except DeviceError:  # the poll meets the same trouble and tells it
                return Reading(asked_ns=asked_ns)
        if reply.exception:
            return Reading(asked_ns=asked_ns)
        decoded = BlockCodec([request]).decode(reply.body)
        value: float | str | None = None
        if decoded.texts:
            value = decoded.texts[0].text
        elif not decoded.missing.size:
            value = float(decoded.value[0])
        return Reading(asked_ns=asked_ns, answered_ns=answered_ns, value=value)

    def _by_unit(self) -> Iterator[tuple[int, list[Request]]]:
        for unit in sorted({r.unit for r in self._requests}):
            yield unit, [r for r in self._requests if r.unit == unit]

    def _ready_s(self, unit: _Unit) -> float:
        if not unit.limits.interval_ms:
            return unit.state.due_s
        return max(unit.state.due_s, self._line.ready_s(unit.unit))

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    async def _connect(self, units: Sequence[_Unit]) -> None:
        while True:
            wait_s = reconnect_s(self._attempt, chance=random.random())
            await asyncio.sleep(wait_s)
            self._attempt += 1
            try:
                await self._line.connect()
            except DeviceError as error:
                if not self._is_lost:
                    self._is_lost = True
                    self._tell(error.problems[0])
                    self._event("modbus.lost", endpoint=self._endpoint.endpoint)
                continue
            now_s = self._now_s()
            for unit in units:  # what was due while the line was down is not late
                if wait_s and unit.state.due_s < now_s:
                    unit.state = UnitState(now_s, unit.state.failures)
                    unit.ready_s = self._ready_s(unit)
            return

    async def _poll(self, unit: _Unit) -> None:
        """Send the reads of one unit that are due; the first one without a reply ends the poll of this unit.

        A unit with an interval of its own is left after each read, and comes back when it may be asked again.
        """
        if not unit.todo:
            now_s = self._now_s()
            unit.todo = [unit.plan.probe(now_s)] if unit.state.is_silent else unit.plan.due(now_s)
        if self._line.is_swift(unit.unit) and len(unit.todo) <= REQUESTS_MAX:
            return await self._sweep(unit)
        while unit.todo:
            request = unit.todo.pop(0)
            try:
                async with self._line.turn(unit.unit):
                    if not self._line.is_open:
                        await self._line.open()
                    reply, received_ns = await self._line.read(request)
            except DeviceError as error:
                return self._failed(unit, request, error.problems[0])
            if reply.exception in GATEWAY_EXCEPTIONS:
                return self._failed(unit, request, Problem.of(
                    self._endpoint.name, "modbus.gateway_exception", unit=unit.unit, exception=reply.exception))
            self._answered(unit, request, reply, received_ns)
            if unit.todo and unit.limits.interval_ms:
                return None
        return self._polled(unit)

    async def _sweep(self, unit: _Unit) -> None:
        """Do the same as `_poll` with all reads as one piece: no task, no lock and no object for each of them."""
        cycle = unit.cycle
        if cycle is None or cycle.requests != tuple(unit.todo):
            cycle = unit.cycle = Cycle(unit.todo)
        cycle.begin()
        unit.todo = []
        times: list[int] = []
        with _Takes(lambda begin: self._taken(unit, cycle, begin, times), times, is_timed=cycle.size > 1) as takes:
            try:
                while not cycle.is_done:
                    async with self._line.turn(unit.unit):
                        if not self._line.is_open:
                            await self._line.open()
                        await self._line.read_all(cycle, times)
                    if cycle.has_exception:  # with several in flight, good replies may have come behind it
                        for request, reply in zip(cycle.requests, cycle.replies, strict=False):
                            if reply in GATEWAY_EXCEPTIONS:
                                takes.now()
                                return self._failed(unit, request, Problem.of(
                                    self._endpoint.name, "modbus.gateway_exception", unit=unit.unit, exception=reply))
            except DeviceError as error:
                takes.now()
                return self._failed(unit, cycle.requests[len(times)], error.problems[0])
        return self._polled(unit)

    def _taken(self, unit: _Unit, cycle: Cycle, begin: int, times: Sequence[int]) -> None:
        """Deliver the replies of a cycle from `begin` on, as one piece if there is nothing else to say of them."""
        replies = cycle.replies[begin:]
        data = [reply for reply in replies if isinstance(reply, bytes)]
        if len(data) < len(replies) or cycle.size == 1 or not unit.plan.is_calm or unit.troubled:
            for request, reply, received_ns in zip(cycle.requests[begin:], replies, times[begin:], strict=False):
                if isinstance(reply, bytes):
                    self._answered(unit, request, frames.Reply(reply), received_ns)
                elif reply not in GATEWAY_EXCEPTIONS:
                    self._answered(unit, request, frames.Reply(b"", exception=reply), received_ns)
            return
        self._heard(unit)
        unit.replies += len(data) - 1
        spans: dict[int, tuple[int, int]] = {cycle.devices[0]: (times[begin], times[-1])}
        if len(cycle.devices) > 1:  # each device answered when its own replies came
            spans = {}
            for request, received_ns in zip(cycle.requests[begin:], times[begin:], strict=False):
                first, _ = spans.get(request.device_index, (received_ns, received_ns))
                spans[request.device_index] = first, received_ns
        for device, (first, last) in spans.items():
            self._sink.answered([device], first)
            if first != last:
                self._sink.answered([device], last)
        self._delivery.all(cycle.requests, data, times, begin)

    def _polled(self, unit: _Unit) -> None:
        self._watch_pace(unit)
        unit.state = unit.state.answered(now_s=self._now_s(), poll_s=unit.limits.poll_s)

    def _heard(self, unit: _Unit) -> None:
        self._attempt = 0
        if self._is_lost:
            self._is_lost = False
            self._event("modbus.back", endpoint=self._endpoint.endpoint)
        unit.replies += 1
        if unit.state.is_silent:
            self._event("modbus.unit_back", unit=unit.unit)
        if unit.state.failures:
            unit.state = UnitState(unit.state.due_s)

    def _answered(self, unit: _Unit, request: Request, reply: frames.Reply, received_ns: int) -> None:
        self._heard(unit)
        self._sink.answered([request.device_index], received_ns)
        if reply.exception:
            self._excepted(unit, request, reply.exception)
            return
        unit.troubled.discard(request)
        if unit.plan.answered(request):
            self._delivery.forget()
            self._event("modbus.points_back", unit=unit.unit, points=len(request.points))
        self._delivery.one(request, reply.body, received_ns)

    def _excepted(self, unit: _Unit, request: Request, exception: int) -> None:
        given_up = unit.plan.refused(request, exception, self._now_s())
        if given_up:
            self._event("modbus.points_refused", unit=unit.unit, exception=exception, points=len(given_up),
                        first=given_up[0].address.canonical)
        elif request in unit.plan.active and request not in unit.troubled:
            unit.troubled.add(request)
            self._event("modbus.exception", unit=unit.unit, exception=exception, table=request.table,
                        address=request.address, count=request.count)

    def _failed(self, unit: _Unit, request: Request, problem: Problem) -> None:
        unit.todo.clear()
        was_silent, now_s = unit.state.is_silent, self._now_s()
        if problem.code in NO_REPLY:
            mute = unit.plan.unanswered(request, unit.replies, now_s)
            if mute:
                self._event("modbus.points_mute", unit=unit.unit, points=len(mute), first=mute[0].address.canonical)
        unit.state = unit.state.failed(now_s=now_s, poll_s=unit.limits.poll_s, chance=random.random())
        if problem.code == "modbus.mismatch":
            if now_s - unit.mismatch_told_s >= MISMATCH_EVENT_S:
                unit.mismatch_told_s = now_s
                self._tell(problem)
        elif unit.state.is_silent and not was_silent:
            self._tell(problem)
        if unit.state.is_silent and not was_silent:
            self._event("modbus.unit_silent", unit=unit.unit, failures=unit.state.failures, rare_s=f"{SILENT_MAX_S:g}")

    def _watch_pace(self, unit: _Unit) -> None:
        """Tell once when a poll ends long after the next one should have begun; forget it when one ends in time."""
        late_s = self._now_s() - unit.state.due_s - unit.limits.poll_s
        if late_s > unit.limits.poll_s + unit.limits.timeout_s:
            if not unit.has_overrun:
                unit.has_overrun = True
                self._event("modbus.overrun", unit=unit.unit, late_s=f"{late_s:.1f}", poll_s=unit.limits.poll_s)
        elif late_s < 0:
            unit.has_overrun = False

    def _event(self, code: str, **args: object) -> None:
        self._sink.event(code, self._endpoint.name, **args)

    def _tell(self, problem: Problem) -> None:
        self._sink.event(problem.code, problem.where, **dict(problem.args))
