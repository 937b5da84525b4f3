"""Windows: half-open intervals of gateway receive time, aligned to UTC, open for a grace period after their end.

Window time is the wall clock at start plus what the monotonic clock has run since: a step of the wall clock is
measured and moves nothing. A wall clock that stays away for longer is believed: window time is anchored anew, the
windows between are on the record as an outage, and only then may a window start earlier than the last one ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.counting import kernel
from gateway.counting.kernel import NS_PER_S, Carry, Columns, Mask, Planes
from gateway.counting.registry import Registry
from gateway.counting.rule import Rule
from protocols import system
from protocols.samples import PollBatch, SampleBatch

OFFSET_NS_MAX = 60 * NS_PER_S
"""A wall clock further away than this is no drift: half of what the verifier allows around a co-signature."""

OFFSET_CONFIRMED_NS = 10 * NS_PER_S
"""For so long it must stay away before window time follows: a step forth and back moves nothing."""

_NS_PER_MS = 1_000_000
_NOTHING = Columns(0, 0, 0, 0)

_FEW = 3
"""Rows of a batch that are fewer than one in so many are copied before they are counted; others are passed over."""

Devices = Sequence[int] | NDArray[np.int64]


class WindowClock:
    """Window time. Both clocks are arguments, so that a test can step them."""

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns,
                 monotonic_ns: Callable[[], int] = system.boottime_ns) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._anchor_ns = 0
        self.anchor()

    def anchor(self) -> None:
        """Set window time to the wall clock."""
        self._anchor_ns = self._wall_ns() - self._monotonic_ns()

    def now_ns(self) -> int:
        """Return window time. Drivers stamp `received_ns` with it."""
        return self._anchor_ns + self._monotonic_ns()

    def offset_ns(self) -> int:
        """Return how far the wall clock is ahead of window time."""
        return self._wall_ns() - self.now_ns()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedWindow:
    """A window that nothing can land in any more: what the sealer makes an entry of.

    received = counted + the sum of `discarded`, which names every reason. offset_ms: wall clock minus window time at
    closing; step_ms: the largest step of the wall clock since the window before was closed.
    """

    start_s: int
    len_s: int
    registry: Registry
    columns: Columns
    received: int
    counted: int
    discarded: Mapping[str, int]
    offset_ms: int = 0
    step_ms: int = 0
    raw: object | None = field(default=None, compare=False, repr=False)
    """What `RawSink.closed` gave for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Time that no window covers: from the end of the last window to `end_s`, where the next one starts.

    samples: how many samples were received for windows that are not sealed; None if nobody knows.
    """

    end_s: int
    reason: str
    samples: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """What was known when a window became the oldest open one: without it nobody could count that window again.

    carry: last usable values. online, online_from (index of a window), online_at (ns): shape (devices,), births.
    connected: index of an open window -> shape (devices,), who had answered in it already.
    """

    carry: Carry
    online: NDArray[np.bool_]
    online_from: NDArray[np.int64]
    online_at: NDArray[np.int64]
    connected: Mapping[int, NDArray[np.bool_]]


class RawSink(Protocol):
    """Who keeps what was received, window by window. Nothing here may wait. `index`: start of a window / its length."""

    def batch(self, batch: SampleBatch | PollBatch, index: int | NDArray[np.int64]) -> None:
        """Take samples that were counted in this window, or each in one of its own, the late ones too."""

    def answered(self, index: int, devices: NDArray[np.int64], received_ns: int) -> None:
        """Take answers."""

    def event(self, kind: str, devices: NDArray[np.int64], received_ns: int, index: int) -> None:
        """Take births (`online`) and deaths (`offline`)."""

    def discarded(self, index: int, reason: str, count: int) -> None:
        """Take what a driver lost."""

    def opened(self, before: Before, *, follows: bool) -> None:
        """Begin the oldest open window. follows: it continues the one that `closed` was called for last."""

    def dropped(self) -> None:
        """Let go of every open window: none of them will be closed."""

    def closed(self, index: int) -> object | None:
        """Return what was received in a window that ends."""


class Windows:
    """Takes what drivers deliver (the counting half of `protocols.samples.Sink`) and hands out closed windows.

    The first window starts at the next boundary: `opens_s`. What arrives before is `late` in it, because the time
    before belongs to an outage that is sealed already; start drivers then. All methods are called from one thread.
    """

    def __init__(self, registry: Registry, rule: Rule, clock: WindowClock) -> None:
        self.rule = rule
        self._clock = clock
        self._len_ns = rule.len_s * NS_PER_S
        self._registries: list[tuple[int, Registry]] = [(0, registry)]  # in force from this window index on
        self._open: dict[int, Planes] = {}
        self._carry = Carry.nothing(registry.points)
        self._online = np.zeros(registry.devices, dtype=np.bool_)
        self._online_from = np.zeros(registry.devices, dtype=np.int64)  # window index
        self._online_at = np.zeros(registry.devices, dtype=np.int64)
        now = clock.now_ns()
        self._next = -(-now // self._len_ns)  # index of the oldest window that is not closed
        self._ticked = now
        self._idle: list[range] = []  # indexes in which this process did not run
        self._offset_ns = clock.offset_ns()
        self._step_ns = 0
        self._away_since: int | None = None
        self._raw: RawSink | None = None
        self._closing: Generator[None, None, ClosedWindow] | None = None
        self._spare: Planes | None = None  # of a window that is closed: making new ones takes long

    def keep(self, raw: RawSink) -> None:
        """From now on hand a copy of everything to `raw`. Call it before anything is delivered."""
        self._raw = raw
        self._open_raw(follows=False)

    @property
    def opens_s(self) -> int:
        """Start of the oldest window that is not closed yet."""
        return self._next * self.rule.len_s

    @property
    def registry(self) -> Registry:
        """The newest roster, possibly not in force before the next boundary."""
        return self._registries[-1][1]

    def adopt(self, registry: Registry) -> int:
        """Put a newer roster in force from the next boundary on; return that boundary in seconds.

        Slots are append-only: `registry` has at least the slots of the one before.
        """
        at = max(self._next, self._clock.now_ns() // self._len_ns + 1)
        self._registries = [(i, r) for i, r in self._registries if i < at] + [(at, registry)]
        more = registry.devices - self._online.size
        if more > 0:
            self._online = np.concatenate([self._online, np.zeros(more, dtype=np.bool_)])
            self._online_from = np.concatenate([self._online_from, np.zeros(more, dtype=np.int64)])
            self._online_at = np.concatenate([self._online_at, np.zeros(more, dtype=np.int64)])
        return at * self.rule.len_s

    def registry_at(self, start_s: int) -> Registry:
        """Return the roster of the open window that starts then."""
        return self._registry_at(start_s // self.rule.len_s)

    def samples(self, batch: SampleBatch | PollBatch) -> None:
        """Count a batch, each sample in the window of its received_ns or, if that is closed, as late."""
        if isinstance(batch, PollBatch):
            index = self._index(batch.received_ns)
            if index >= self._next:
                kernel.fold_poll(self._planes(index), batch, self.rule)
                if self._raw is not None:
                    self._raw.batch(batch, index)
                return
            batch = batch.samples()
        if not batch.received_ns.size:
            return
        newest = max(self._newest(), self._next)
        # A stamp ahead of the window clock cannot be: it belongs to now.
        low = min(int(batch.received_ns.min()) // self._len_ns, newest)
        high = min(int(batch.received_ns.max()) // self._len_ns, newest)
        if low == high and low >= self._next:
            kernel.fold_samples(self._planes(low), batch, self.rule)
            if self._raw is not None:
                self._raw.batch(batch, low)
            return
        if low + 1 == high and low >= self._next:
            after = batch.received_ns >= high * self._len_ns
            if self._raw is not None:
                self._raw.batch(batch, low + after)
            self._fold_rows(low, batch, ~after)
            self._fold_rows(high, batch, after)
            return
        index_of = np.minimum(batch.received_ns // self._len_ns, newest)
        late = index_of < self._next
        if self._raw is not None:
            self._raw.batch(batch, np.where(late, newest, index_of))
        if low < self._next:
            kernel.fold_late(self._planes(newest), kernel.rows_of(batch, late))
        for index in range(max(low, self._next), high + 1):
            self._fold_rows(index, batch, index_of == index)

    def _fold_rows(self, index: int, batch: SampleBatch, rows: Mask) -> None:
        """Count the samples of a batch that `rows`, shape (n,), picks in this window."""
        count = np.count_nonzero(rows)
        if count * _FEW > rows.size:
            kernel.fold_samples(self._planes(index), batch, self.rule, of=rows)
        elif count:
            kernel.fold_samples(self._planes(index), kernel.rows_of(batch, rows), self.rule)

    def answered(self, device_index: Devices, received_ns: int) -> None:
        """The protocol answered for these devices."""
        index, devices = self._index(received_ns), self._known(device_index)
        self._connect(index, devices)
        if self._raw is not None and index >= self._next:
            self._raw.answered(index, devices, received_ns)

    def online(self, device_index: Devices, received_ns: int) -> None:
        """These devices are connected in every window from now until `offline`."""
        devices, index = self._known(device_index), self._index(received_ns)
        if self._raw is not None:
            self._raw.event("online", devices, received_ns, index)
        born = devices[~self._online[devices]]
        self._online_from[born] = index
        self._online[born] = True
        self._online_at[devices] = np.maximum(self._online_at[devices], received_ns)
        self._connect(index, devices)

    def offline(self, device_index: Devices, received_ns: int) -> None:
        """These devices are silent from now; a death that is older than the last birth is passed over."""
        devices = self._known(device_index)
        if self._raw is not None:
            self._raw.event("offline", devices, received_ns, self._index(received_ns))
        dead = devices[self._online[devices] & (self._online_at[devices] <= received_ns)]
        for index in range(self._next, self._index(received_ns) + 1):
            self._connect(index, dead[self._online_from[dead] <= index])
        self._online[dead] = False

    def discarded(self, reason: str, count: int) -> None:
        """Count samples that a driver or a queue received and could not deliver. `reason`: one of DISCARD_REASONS."""
        if count > 0:
            index = max(self._newest(), self._next)
            self._planes(index).discard(reason, count)
            if self._raw is not None:
                self._raw.discarded(index, reason, count)

    def tick(self) -> list[ClosedWindow | Gap]:
        """Return what is due, in order. Call it, or `due`, at least once a second and twice in every window."""
        return [item for item in self.due() if item is not None]

    def due(self) -> Iterator[ClosedWindow | Gap | None]:
        """Yield what is due, in order, and None after each piece of work: then others may have the thread.

        Samples may be delivered meanwhile. Whoever stops in between loses nothing: the next call goes on from there.
        """
        now = self._clock.now_ns()
        self._watch_clock(now)
        unseen = range(max(self._ticked // self._len_ns + 1, self._next), now // self._len_ns)
        self._idle = [r for r in (*self._idle, unseen) if r.stop > self._next and len(r)]
        self._ticked = now
        yield from self._close_until(now - self.rule.grace_ms * _NS_PER_MS)
        if self._away_since is not None and now - self._away_since >= OFFSET_CONFIRMED_NS:
            yield from self._close_until(now)
            yield self._anchor_anew()

    def finish(self) -> tuple[list[ClosedWindow | Gap], int]:
        """Return the windows that have ended, without their grace, and the samples of the one that a stop cuts."""
        items = [item for item in self._close_until(self._clock.now_ns()) if item is not None]
        return items, sum(planes.received for planes in self._open.values())

    def _index(self, received_ns: int) -> int:
        return min(int(received_ns) // self._len_ns, max(self._newest(), self._next))

    def _newest(self) -> int:
        return self._clock.now_ns() // self._len_ns

    def _known(self, device_index: Devices) -> NDArray[np.int64]:
        devices = np.asarray(device_index, dtype=np.int64)
        return devices[(devices >= 0) & (devices < self._online.size)]

    def _registry_at(self, index: int) -> Registry:
        return next(r for since, r in reversed(self._registries) if since <= index)

    def _planes(self, index: int) -> Planes:
        planes = self._open.get(index)
        if planes is None:
            registry = self._registry_at(index)
            spare, self._spare = self._spare, None
            planes = self._open[index] = spare if spare is not None and spare.registry is registry else Planes(registry)
            before = self._open.get(index - 1)
            if before is not None and before.registry is registry:
                planes.bits[:] = before.bits  # the best guess there is
        return planes

    def _connect(self, index: int, devices: NDArray[np.int64]) -> None:
        if index >= self._next and devices.size:
            planes = self._planes(index)
            planes.connected[devices[devices < planes.connected.size]] = True

    def _watch_clock(self, now: int) -> None:
        offset = self._clock.offset_ns()
        step = offset - self._offset_ns
        if abs(step) > abs(self._step_ns):
            self._step_ns = step
        self._offset_ns = offset
        if abs(offset) <= OFFSET_NS_MAX:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = now

    def _close_until(self, end_ns: int) -> Iterator[ClosedWindow | Gap | None]:
        if self._closing is not None:
            yield from self._work_off(self._closing)
        while (self._next + 1) * self._len_ns <= end_ns:
            if not self._was_idle():
                yield from self._work_off(self._close())
                continue
            while (self._next + 1) * self._len_ns <= end_ns and self._was_idle():
                self._next += 1
                self._open_raw(follows=False)
            yield Gap(end_s=self._next * self.rule.len_s, reason="off", samples=0)
        self._registries = self._registries[sum(i <= self._next for i, _ in self._registries) - 1:]

    def _was_idle(self) -> bool:
        return self._next not in self._open and any(self._next in r for r in self._idle)

    def _work_off(self, closing: Generator[None, None, ClosedWindow]) -> Iterator[ClosedWindow | None]:
        """Go on with a window that is being closed, piece by piece; it is remembered until it is done."""
        self._closing = closing
        while True:
            try:
                next(closing)
            except StopIteration as done:
                self._closing = None
                yield done.value
                return
            yield None

    def _close(self) -> Generator[None, None, ClosedWindow]:
        """Take the oldest window away, so that nothing lands in it any more; then count its planes, part by part."""
        index = self._next
        planes = self._planes(index)
        lasting = self._online & (self._online_from <= index)
        planes.connected |= lasting[:planes.connected.size]
        before = self._carry.for_points(planes.registry.points)
        self._carry = before.unknown()  # filled below: nobody looks at it before the next window is closed
        del self._open[index]
        self._next += 1
        raw = None if self._raw is None else self._raw.closed(index)
        self._open_raw(follows=True)
        step_ns, self._step_ns = self._step_ns, 0
        window = ClosedWindow(
            start_s=index * self.rule.len_s, len_s=self.rule.len_s, registry=planes.registry, columns=_NOTHING,
            received=planes.received, counted=planes.counted, discarded=dict(planes.discarded),
            offset_ms=self._offset_ns // _NS_PER_MS, step_ms=int(step_ns / _NS_PER_MS), raw=raw)
        return self._count(window, planes, before, self._carry)

    def _count(self, window: ClosedWindow, planes: Planes, before: Carry,
               into: Carry) -> Generator[None, None, ClosedWindow]:
        columns = yield from kernel.close(planes, before, into)
        self._spare = planes
        return replace(window, columns=columns)

    def _open_raw(self, *, follows: bool) -> None:
        if self._raw is not None:
            self._raw.opened(Before(self._carry, self._online.copy(), self._online_from.copy(), self._online_at.copy(),
                                    {i: planes.connected.copy() for i, planes in self._open.items()}), follows=follows)

    def _anchor_anew(self) -> Gap:
        """Follow the wall clock. The window that is cut goes into the gap, with what it had received."""
        reason = "clock_forward" if self._offset_ns > 0 else "clock_back"
        lost = sum(planes.received for planes in self._open.values())
        newest = self.registry
        self._clock.anchor()
        now = self._clock.now_ns()
        self._open.clear()
        self._idle.clear()
        self._next = -(-now // self._len_ns)
        self._ticked = now
        self._registries = [(0, newest)]
        self._online_from[:] = self._next
        self._online_at[:] = np.minimum(self._online_at, now)
        self._offset_ns, self._step_ns, self._away_since = self._clock.offset_ns(), 0, None
        if self._raw is not None:
            self._raw.dropped()
            self._open_raw(follows=False)
        return Gap(end_s=self._next * self.rule.len_s, reason=reason, samples=lost)
