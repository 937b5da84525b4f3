"""Collecting from one subscription: what to ask for, what to hand over, what to tell. No device library.

`driver.py` gives it a link, an open session that does the asking. Everything a response holds is delivered or counted
as discarded; what is missing is fetched again or told.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

import numpy as np

from protocols.errors import DeviceError, Problem
from protocols.opcua import bulk, codec, columns, session
from protocols.opcua.columns import Columns
from protocols.opcua.session import NO_SUCH_NODE, STATUS_CODE
from protocols.opcua.target import OpcUaAddress, OpcUaEndpoint, OpcUaPoint
from protocols.samples import BAD, Sink

PUBLISH_OUTSTANDING = 3
"""PublishRequests waiting at the server: one alone costs a round trip between two notifications."""
EVENTS_PER_ROUND = 50
SLEEP_MIN_S, SLEEP_MAX_S = 0.05, 3600.0
TOO_MANY_ITEMS = "BadTooManyMonitoredItems"


@dataclass(slots=True, kw_only=True)
class Subscription:
    """A subscription on the server and how far we are with it. Times are monotonic seconds."""

    id: int
    stale_s: float
    heard_s: float
    monitored: list[bool]
    idle: session.IdleDevices
    publishers: int = PUBLISH_OUTSTANDING
    sequence: session.Sequence32 = field(default_factory=session.Sequence32)
    acks: list[int] = field(default_factory=list)
    decoder: bulk.Decoder = field(default_factory=bulk.Decoder)


@dataclass(slots=True, kw_only=True)
class Prepared:
    """Reads of some addresses, encoded once. parts: (how many addresses, the request's parameters, its decoder)."""

    addresses: Sequence[OpcUaAddress]
    parts: list[tuple[int, bytes, bulk.Decoder]]


class Link(Protocol):
    """An open session with one subscription. Its methods raise OSError or the device library's errors."""

    item_limit: int | None
    epoch: int
    """How often namespaces and limits were learnt."""

    @property
    def created(self) -> Subscription | None:
        """The subscription; None where points are polled."""

    @property
    def subscription(self) -> Subscription:
        """What was created on the server; only where points are not polled."""

    async def server_time(self) -> datetime | None:
        """Return the server's own time, UTC; None when it does not tell."""

    def knows(self, address: OpcUaAddress) -> bool:
        """Whether the server has the namespace of this address."""

    async def learn(self) -> None:
        """Read the server's namespaces and limits again."""

    async def publish(self, acks: Sequence[int]) -> bytes | None:
        """Wait for a PublishResponse; None when the server wants fewer requests outstanding."""

    async def republish(self, number: int) -> bytes | None:
        """Return a RepublishResponse; None when the server has the message no more."""

    async def monitor(self, items: Sequence[tuple[int, OpcUaAddress]]) -> list[str]:
        """Create monitored items (client handle, known address); return the name of each bad status, or ''."""

    async def read(self, addresses: Sequence[OpcUaAddress]) -> codec.Items:
        """Read known addresses; row i of the answer is addresses[i]."""

    def prepare(self, addresses: Sequence[OpcUaAddress]) -> Prepared:
        """Encode the requests that read known addresses, to be sent again and again until `epoch` is another."""

    async def poll(self, prepared: Prepared) -> Columns:
        """Send prepared requests; row i of the answer is the i-th address."""


async def _keep_nothing(_link: Link | None) -> None:
    """Nobody wants to know what changed."""


class Collector:
    """The points of one server, over all its connections."""

    def __init__(self, endpoint: OpcUaEndpoint, points: Sequence[OpcUaPoint], sink: Sink, clock_ns: Callable[[], int],
                 rng: random.Random) -> None:
        self._name = endpoint.name
        self._endpoint = endpoint
        self._sink = sink
        self._clock_ns = clock_ns
        self.points = tuple(points)
        self._point_index = np.array([p.point_index for p in self.points], dtype=np.int64)
        self.devices, self._device_of = np.unique(
            np.array([p.device_index for p in self.points], dtype=np.int64), return_inverse=True)
        self.points_of: list[list[int]] = [[] for _ in range(self.devices.size)]
        for position, device in enumerate(self._device_of.tolist()):
            self.points_of[device].append(position)
        self._retries = session.Retries(rng)
        self._overflowed: set[int] = set()
        self._polled: set[int] = set()
        self._told_limit: int | None = None
        self._clock_off = False
        self.changing: Callable[[Link | None], Awaitable[None]] = _keep_nothing
        """Called with None before monitored items change, and with the link after."""
        self.clock_offset_s: float | None = None
        """How far the server's clock is ahead of ours, as last measured."""

    def subscribed(self, subscription_id: int, *, interval_ms: float, keep_alive_count: int) -> Subscription:
        """Return the state of a new subscription; interval and keep-alive count are those the server granted."""
        now_s = asyncio.get_running_loop().time()
        return Subscription(
            id=subscription_id, heard_s=now_s, monitored=[False] * len(self.points),
            stale_s=session.stale_after_s(interval_ms, keep_alive_count, self._endpoint.timeout_s),
            idle=session.IdleDevices(self.points_of, self._endpoint.idle_read_s, now_s))

    async def collect(self, link: Link) -> None:
        """Collect until something ends it, and raise that."""
        self._choose_polled(link)
        try:
            async with asyncio.TaskGroup() as group:
                if link.created is not None:
                    link.created.publishers = PUBLISH_OUTSTANDING
                    for _ in range(PUBLISH_OUTSTANDING):
                        group.create_task(self._publish(link))
                    for work in (self._monitor, self._read_idle, self._watch):
                        group.create_task(work(link))
                group.create_task(self._poll(link))
                group.create_task(self._compare_clocks(link))
        except BaseExceptionGroup as several:
            first: BaseException = several
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from several

    async def catch_up(self, link: Link) -> None:
        """Fetch what the server sent into a line that was dead already.

        The next keep-alive that would tell of it may be seconds away, and the server's memory is short.
        """
        sequence = link.subscription.sequence
        for _ in range(session.Sequence32.MISSING_MAX):
            if not await self._republish(link, sequence.expected):
                return
            sequence.skip()

    async def _publish(self, link: Link) -> None:
        """Ask for notifications, one after the other; PUBLISH_OUTSTANDING of these run side by side."""
        subscription = link.subscription
        while True:
            acks, subscription.acks = subscription.acks, []
            body = await link.publish(acks)
            if body is None:
                subscription.publishers -= 1
                if subscription.publishers < 1:
                    raise DeviceError(Problem.of(self._name, "opcua.subscription_closed",
                                                 status="BadTooManyPublishRequests"))
                return
            received_ns = self._clock_ns()
            try:
                publish, found = subscription.decoder.publish(body)
            except codec.UndecodableError as error:
                subscription.sequence.skip()
                self._sink.discarded("undecodable", 1)
                self._event("opcua.undecodable", why=error)
                continue
            if publish.subscription_id == subscription.id:
                await self.take(link, publish, received_ns, found)

    async def take(self, link: Link, publish: codec.Publish, received_ns: int, found: Columns | None = None) -> None:
        """Deliver a response, and ask again for those that should have come before it. found: its items as columns."""
        subscription = link.subscription
        subscription.heard_s = asyncio.get_running_loop().time()
        missing = subscription.sequence.missing(publish.sequence_number, is_keep_alive=publish.is_keep_alive,
                                                available=publish.available)
        self.deliver(subscription, columns.of(publish.items) if found is None else found, received_ns)
        if not publish.is_keep_alive:
            subscription.acks.append(publish.sequence_number)
        if publish.closed_status is not None:
            raise DeviceError(Problem.of(self._name, "opcua.subscription_closed", status=f"{publish.closed_status:#x}"))
        lost = 0
        for number in missing:
            lost += not await self._republish(link, number)
        if lost:
            self._event("opcua.gap", count=lost, first=missing[0], last=missing[-1])

    async def _republish(self, link: Link, number: int) -> bool:
        """Fetch one missed notification from the server's memory; False when it is gone."""
        subscription = link.subscription
        body = await link.republish(number)
        if body is None:
            return False
        try:
            publish = codec.decode_republish(body, subscription.id)
        except codec.UndecodableError as error:
            self._sink.discarded("undecodable", 1)
            self._event("opcua.undecodable", why=error)
            return True
        if publish.sequence_number != number or publish.is_keep_alive:
            return False  # asyncua's server answers an empty message for one it has no more
        self.deliver(subscription, columns.of(publish.items), self._clock_ns())
        subscription.acks.append(number)
        return True

    def deliver(self, subscription: Subscription | None, items: Columns, received_ns: int) -> None:
        """Hand one response over as one batch; everything received is delivered or discarded with its reason."""
        if items.undecodable:
            self._sink.discarded("undecodable", items.undecodable)
            self._event("opcua.undecodable", why=f"{items.undecodable} values")
        batch, positions = columns.batch_of(items, self._point_index, received_ns)
        if len(items) > positions.size:
            self._sink.discarded("unknown_point", len(items) - positions.size)
        if not positions.size:
            return
        self._sink.samples(batch)
        is_bad = batch.quality == BAD
        is_answered = np.zeros(self.devices.size, dtype=bool)
        is_answered[self._device_of[positions[~is_bad] if is_bad.any() else positions]] = True
        answered = np.flatnonzero(is_answered)
        if answered.size:
            self._sink.answered(self.devices[answered], received_ns)
            if subscription is not None:
                subscription.idle.heard(answered, asyncio.get_running_loop().time())
        for handle in items.handle[columns.has_overflow(items.status)].tolist() if items.status.any() else ():
            if handle < len(self.points) and handle not in self._overflowed:
                self._overflowed.add(handle)
                self._event("opcua.overflow", address=self.points[handle].address.canonical,
                            queue=self._endpoint.queue_size)

    async def _monitor(self, link: Link) -> None:
        """Create the monitored items that are not there yet, and retry the refused ones for ever."""
        loop = asyncio.get_running_loop()
        monitored = link.subscription.monitored
        pending = [position for position, there in enumerate(monitored) if not there and position not in self._polled]
        while True:
            if pending:
                await self.monitor(link, pending)
            await asyncio.sleep(min(SLEEP_MAX_S, max(SLEEP_MIN_S, self._retries.next_due_s() - loop.time())))
            pending = [position for position in self._retries.due(loop.time())
                       if not monitored[position] and position not in self._polled]
            if pending:
                await link.learn()  # a namespace may have appeared

    async def monitor(self, link: Link, positions: Sequence[int]) -> None:
        """Create monitored items for these points; name those that are refused and those that are back."""
        known = [position for position in positions if link.knows(self.points[position].address)]
        await self.changing(None)
        statuses = await link.monitor([(position, self.points[position].address) for position in known])
        refused = [(position, "opcua.namespace_unknown", "") for position in sorted({*positions} - {*known})]
        mended = 0
        for position, status in zip(known, statuses, strict=True):
            if status == TOO_MANY_ITEMS:
                self._polled.add(position)
                mended += self._retries.mended(position)
            elif status:
                refused.append((position, "opcua.bad_node", status))
            else:
                link.subscription.monitored[position] = True
                mended += self._retries.mended(position)
        await self.changing(link)
        if TOO_MANY_ITEMS in statuses:
            self._tell_limit(len(self.points) - len(self._polled))
        self._tell_refused(refused)
        if mended:
            self._event("opcua.nodes_back", count=mended)

    def _tell_refused(self, refused: Sequence[tuple[int, str, str]]) -> None:
        """Note refused points (position, code, status) for a later try; name those that are news."""
        now_s = asyncio.get_running_loop().time()
        news = [(position, code, status) for position, code, status in refused
                if self._retries.failed(position, f"{code} {status}", now_s)]
        for position, code, status in news[:EVENTS_PER_ROUND]:
            point = self.points[position]
            self._event(code, address=point.address.canonical, device=point.device_index, status=status,
                        uri=point.address.namespace_uri)
        if len(news) > EVENTS_PER_ROUND:
            self._event("opcua.more_bad_nodes", count=len(news) - EVENTS_PER_ROUND)

    def _choose_polled(self, link: Link) -> None:
        """Poll what is not to be subscribed to: all, or what exceeds the items that the server takes."""
        count = len(self.points)
        if link.created is None:
            self._polled = set(range(count))
        elif link.item_limit is not None and link.item_limit < count:
            there = {position for position, is_there in enumerate(link.created.monitored) if is_there}
            room = max(0, link.item_limit - len(there))
            self._polled = set([position for position in range(count) if position not in there][room:])
            self._tell_limit(link.item_limit)
        else:
            self._polled = set()

    def _tell_limit(self, limit: int) -> None:
        if self._told_limit != limit:
            self._told_limit = limit
            self._event("opcua.items_over_limit", limit=limit, count=len(self._polled),
                        poll_s=f"{self._endpoint.poll_s:g}")

    async def _poll(self, link: Link) -> None:
        """Read the polled points every `poll_s`; a round that lasts longer is followed by the next at once."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        prepared, for_what, handles = Prepared(addresses=(), parts=[]), None, np.zeros(0, dtype=np.int64)
        while True:
            waiting = self._retries.waiting(loop.time())
            what = (link.epoch, len(self._polled), frozenset(waiting))  # points are only ever added while we poll
            if what != for_what:
                known = [p for p in sorted(self._polled - waiting) if link.knows(self.points[p].address)]
                if unknown := sorted(self._polled - waiting - {*known}):
                    await link.learn()
                    self._tell_refused([(p, "opcua.namespace_unknown", "") for p in unknown
                                        if not link.knows(self.points[p].address)])
                prepared, for_what = link.prepare([self.points[p].address for p in known]), what
                handles = np.array(known, dtype=np.int64)
            if handles.size:
                items = replace(await link.poll(prepared), handle=handles)
                self.deliver(link.created, items, self._clock_ns())
                self._note_polled(items)
            due_s = max(due_s + self._endpoint.poll_s, loop.time())
            await asyncio.sleep(max(SLEEP_MIN_S, due_s - loop.time()))

    def _note_polled(self, items: Columns) -> None:
        """Leave nodes that do not exist out for a while, and name them; see which are back."""
        if not len(self._retries) and not (
                items.status.any() and np.isin(items.status & np.uint32(STATUS_CODE), [*NO_SUCH_NODE]).any()):
            return
        refused, mended = [], 0
        for handle, status in zip(items.handle.tolist(), items.status.tolist(), strict=True):
            if status & STATUS_CODE in NO_SUCH_NODE:
                refused.append((handle, "opcua.bad_node", NO_SUCH_NODE[status & STATUS_CODE]))
            elif len(self._retries):
                mended += self._retries.mended(handle)
        self._tell_refused(refused)
        if mended:
            self._event("opcua.nodes_back", count=mended)

    async def _compare_clocks(self, link: Link) -> None:
        """Measure how far the server's clock is off, for ever; tell when it is too far, and when it is right again."""
        while True:
            before_ns = self._clock_ns()
            told = await link.server_time()
            after_ns = self._clock_ns()
            if told is not None:
                offset_s = told.timestamp() - (before_ns + after_ns) / 2e9
                self.clock_offset_s = offset_s
                is_off = abs(offset_s) - abs(after_ns - before_ns) / 2e9 > session.CLOCK_OFF_S
                if is_off != self._clock_off:
                    self._clock_off = is_off
                    self._event("opcua.clock_off" if is_off else "opcua.clock_right", offset_s=f"{offset_s:+.1f}",
                                limit_s=f"{session.CLOCK_OFF_S:g}")
            await asyncio.sleep(session.CLOCK_S)

    async def _read_idle(self, link: Link) -> None:
        """Read one point of every device that was silent: a device whose values rest is connected all the same."""
        loop = asyncio.get_running_loop()
        subscription = link.subscription
        while True:
            await asyncio.sleep(min(SLEEP_MAX_S, max(SLEEP_MIN_S, subscription.idle.next_due_s() - loop.time())))
            positions = [position for position in subscription.idle.due(loop.time(), subscription.monitored)
                         if link.knows(self.points[position].address)]
            if positions:
                items = await link.read([self.points[position].address for position in positions])
                items.handle = [positions[row] for row in items.handle]
                self.deliver(subscription, columns.of(items), self._clock_ns())

    async def _watch(self, link: Link) -> None:
        """End a subscription that has not even sent keep-alives: its server forgot it, or the network swallows it."""
        loop = asyncio.get_running_loop()
        subscription = link.subscription
        while True:
            await asyncio.sleep(max(SLEEP_MIN_S, subscription.heard_s + subscription.stale_s - loop.time()))
            if loop.time() - subscription.heard_s >= subscription.stale_s:
                raise TimeoutError(f"no answer for {subscription.stale_s:.0f} s")

    def _event(self, code: str, **args: object) -> None:
        self._sink.event(code, self._name, **args)
