"""Listens to one MQTT broker, and says next to nothing.

Each connection is a `Link`, on a thread of its own that only hands over to the event loop (`inbox`). Connecting again
is decided here. Two messages may ever be published, a rebirth request and our own STATE; `plan` lists both.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence

from protocols.errors import ConfigError, Problem
from protocols.mqtt import codec
from protocols.mqtt.check import Observer
from protocols.mqtt.inbox import MESSAGES_MAX, Chunk, Down, HostState, Inbox, Subscribed
from protocols.mqtt.link.driver import Link
from protocols.mqtt.router import Router, named
from protocols.mqtt.target import SPARKPLUG_NAMESPACE, MqttEndpoint, MqttPoint, Point, SparkplugPoint
from protocols.samples import Sink
from protocols.terms.check import CheckResult

BACKOFF_FIRST_S = 0.5
BACKOFF_CAP_S = 30.0
STEADY_S = 30.0
"""A connection that lived so long starts the back-off anew. Brokers may accept us and throw us out at once."""

DRAIN_S = 0.005
"""Messages are taken so long in one turn of the event loop; others must have their turn too."""

RESUBSCRIBE_S = 60.0

STATE_PAUSE_S = 5.0
"""Our STATE is repaired at most this often: somebody else may use the same host id."""


class Driver:
    """All points behind one broker."""

    queue_messages_max = MESSAGES_MAX
    """Messages that may wait for the event loop."""

    def __init__(self, endpoint: MqttEndpoint, points: Sequence[Point], sink: Sink,
                 clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Sort the points; nothing is sent. clock_ns: stamps messages, on the network thread too.

        Raises: ConfigError if a point is not of this endpoint's protocol.
        """
        wanted = SparkplugPoint if endpoint.protocol == "sparkplug_b" else MqttPoint
        strangers = [p for p in points if not isinstance(p, wanted)]
        if strangers:
            raise ConfigError(Problem.of(p.where, "mqtt.wrong_protocol", address=p.address.canonical,
                                         protocol=endpoint.protocol) for p in strangers)
        self._endpoint = endpoint
        self._points = tuple(points)
        self._sink = sink
        self._clock_ns = clock_ns
        self._told_lost: set[str] = set()  # codes told since the broker was last there
        self._told_refused: set[str] = set()
        self._open_ids: set[bytes] = set()  # of messages with QoS 2, through all connections of a kept session

    def plan(self) -> list[dict[str, str]]:
        """Return every subscription, and every message that may ever be sent, one row of text each. No network."""
        at = self._endpoint
        router = Router(at, self._points, self._sink)

        def row(request: str, topic: str, qos: int, **more: object) -> dict[str, str]:
            return {"connection": at.name, "endpoint": at.endpoint, "request": request, "topic": topic,
                    "qos": str(qos), **{key: str(value) for key, value in more.items()}}

        rows = [row("subscribe", name, at.qos, points=router.points_of(name)) for name in router.filters]
        if at.rebirth == "auto":
            rows += [row("publish", f"{SPARKPLUG_NAMESPACE}/{group}/NCMD/{node}", 0, payload=codec.REBIRTH)
                     for group, node in router.nodes]
        if at.primary_host_id is not None:
            topic = f"{SPARKPLUG_NAMESPACE}/STATE/{at.primary_host_id}"
            rows += [row("subscribe", topic, at.qos), row("publish", topic, 1, payload="online"),
                     row("will", topic, 1, payload="offline")]
        return rows

    async def run(self) -> None:
        """Listen until cancelled. Whatever the broker does, it is told as an event, and tried again."""
        attempt = 0
        router = Router(self._endpoint, self._points, self._sink)
        while True:
            since_s = time.monotonic()
            problem = await self._connection(router, self._sink, is_live=True)
            if problem.code not in self._told_lost:  # a broker that starts may give one cause after the other
                self._told_lost.add(problem.code)
                self._sink.event(problem.code, problem.where, **dict(problem.args))
            if time.monotonic() - since_s >= STEADY_S:
                attempt = 0
            # Gateways that lost the same broker must not come back in the same instant.
            await asyncio.sleep(min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2**attempt) * random.uniform(0.5, 1.0))
            attempt = min(attempt + 1, 10)

    async def check(self) -> list[CheckResult]:
        """Connect, subscribe and wait `check_s` for every device to be heard. Not while `run` runs.

        Returns: one result for each device, in the order of device_index. Nothing is delivered to the sink. Rebirths
        are asked for as in `run`; STATE is not announced, as edge nodes act on it.
        """
        at = self._endpoint
        observer = Observer(self._points, at)
        connection = asyncio.create_task(self._connection(
            Router(at, self._points, observer), observer, is_live=False))
        waiting = [asyncio.create_task(event.wait()) for event in (observer.subscribed, observer.complete)]
        try:
            for task, wait_s in zip(waiting, (2 * at.timeout_s, at.check_s), strict=True):
                await asyncio.wait([connection, task], timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            return observer.results(connection.result() if connection.done() else None)
        finally:
            connection.cancel()
            for task in waiting:
                task.cancel()
            await asyncio.gather(connection, *waiting, return_exceptions=True)

    async def _connection(self, router: Router, sink: Sink, *, is_live: bool) -> Problem:
        """Live through one connection; return why it ended."""
        wake = asyncio.Event()
        inbox = Inbox(_waker(wake), messages_max=self.queue_messages_max)
        link = Link(self._endpoint, router, self._clock_ns, inbox, is_live=is_live,
                    open_ids=self._open_ids if is_live else set())

        def announce() -> None:
            if is_live and self._endpoint.primary_host_id is not None:
                link.publish_state(online=True)
                sink.event("mqtt.state_published", self._endpoint.name, host_id=self._endpoint.primary_host_id)

        refused: tuple[str, ...] = ()
        announced_s, announce_s, resubscribe_s = float("-inf"), float("inf"), float("inf")
        try:
            while True:
                await _wait(wake, min(announce_s, resubscribe_s, _seconds(router.wake_ns)))
                turn_s = time.monotonic() + DRAIN_S
                while (item := inbox.take()) is not None:
                    match item:
                        case Chunk():
                            router.receive_chunk(item, time.monotonic_ns())
                        case Subscribed():
                            self._subscribed(sink, item.refused)
                            refused = item.refused
                            resubscribe_s = time.monotonic() + RESUBSCRIBE_S if refused else float("inf")
                            router.connected(time.monotonic_ns())
                            announce_s = min(announce_s, max(time.monotonic(), announced_s + STATE_PAUSE_S))
                        case HostState():
                            announce_s = min(announce_s, max(time.monotonic(), announced_s + STATE_PAUSE_S))
                        case Down(problem):
                            return problem
                    if time.monotonic() > turn_s:
                        break
                router.dropped(inbox.take_dropped(), self._clock_ns(), time.monotonic_ns())
                router.tick(self._clock_ns(), time.monotonic_ns())
                router.flush()
                for group, node in router.take_asks():
                    link.ask_rebirth(group, node)
                    sink.event("mqtt.rebirth_asked", f"{group}/{node}")
                if time.monotonic() >= announce_s:
                    announced_s, announce_s = time.monotonic(), float("inf")
                    announce()
                if time.monotonic() >= resubscribe_s:
                    resubscribe_s = float("inf")
                    link.subscribe(refused)
                if not inbox.is_empty:
                    wake.set()
                    await asyncio.sleep(0)
        finally:
            try:
                await link.close()
            finally:
                self._finish(inbox, router)

    def _finish(self, inbox: Inbox, router: Router) -> None:
        """Take what had arrived when the connection ended; it was received, so it is counted."""
        while (item := inbox.take()) is not None:
            if isinstance(item, Chunk):
                router.receive_chunk(item, time.monotonic_ns())
        router.dropped(inbox.take_dropped(), self._clock_ns(), time.monotonic_ns())
        router.disconnected(self._clock_ns(), time.monotonic_ns())
        router.flush()
        router.take_asks()  # nobody is left to ask

    def _subscribed(self, sink: Sink, refused: Sequence[str]) -> None:
        """Tell what changed: each refused topic once, and once more when the broker thinks better of it."""
        at = self._endpoint.name
        if isinstance(sink, Observer):
            sink.refuse(refused)
            return
        if self._told_lost:
            self._told_lost.clear()
            sink.event("mqtt.back", at)
        fresh = [name for name in refused if name not in self._told_refused]
        if fresh:
            sink.event("mqtt.subscription_refused", at, count=len(fresh), named=named(fresh))
        granted = sorted(self._told_refused - set(refused))
        if granted:
            sink.event("mqtt.subscription_granted", at, count=len(granted), named=named(granted))
        self._told_refused = set(refused)


def _waker(wake: asyncio.Event) -> Callable[[], None]:
    loop = asyncio.get_running_loop()

    def call() -> None:
        with contextlib.suppress(RuntimeError):  # the event loop may be gone while the thread still ends
            loop.call_soon_threadsafe(wake.set)

    return call


async def _wait(wake: asyncio.Event, until_s: float) -> None:
    """Wait until something arrived, or until this time of `time.monotonic`."""
    if until_s == float("inf"):
        await wake.wait()
    elif not wake.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                await wake.wait()
    wake.clear()


def _seconds(wake_ns: int | None) -> float:
    return float("inf") if wake_ns is None else wake_ns / 1e9
