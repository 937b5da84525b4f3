"""Listens to one MQTT broker through paho-mqtt, and says next to nothing.

paho connects, encrypts, frames, acknowledges and pings, on a thread of our own that only hands over to the event loop
(`inbox`). Connecting again is decided here. Two messages may ever be published, both through `Link._publish`: a rebirth
request (`rebirth = "auto"`) and our own STATE (`primary_host_id`); `plan` lists both.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from protocols.errors import ConfigError, DeviceError, Problem
from protocols.mqtt import codec
from protocols.mqtt.check import Observer
from protocols.mqtt.inbox import MESSAGES_MAX, Down, HostState, Inbox, Incoming, Subscribed
from protocols.mqtt.router import Router, named
from protocols.mqtt.target import SPARKPLUG_NAMESPACE, MqttEndpoint, MqttPoint, Point, SparkplugPoint
from protocols.samples import Sink
from protocols.terms.check import CheckResult

# paho logs topics and errors of its own; what a person must know is told through `Sink.event`.
logging.getLogger("paho").setLevel(logging.CRITICAL)

BACKOFF_FIRST_S = 0.5
BACKOFF_CAP_S = 30.0
STEADY_S = 30.0
"""A connection that lived so long starts the back-off anew. Brokers may accept us and throw us out at once."""

DRAIN_MAX = 500
"""Messages taken in one turn of the event loop; others must have their turn too."""

LOOP_S = 0.5
CLOSE_S = 1.5
RESUBSCRIBE_S = 60.0
SUBSCRIBE_MAX = 100
"""Topics in one SUBSCRIBE."""

STATE_PAUSE_S = 5.0
"""Our STATE is repaired at most this often: somebody else may use the same host id."""

BAD_CREDENTIALS = (134, 135)
NS_PER_MS = 1_000_000


class Link:
    """One connection to the broker, from connecting to its end, on a thread of its own."""

    def __init__(self, endpoint: MqttEndpoint, router: Router, clock_ns: Callable[[], int], inbox: Inbox, *,
                 is_host: bool) -> None:
        """is_host: announce our STATE, where the endpoint has a host id. clock_ns: called on the thread."""
        self._endpoint = endpoint
        self._router = router
        self._clock_ns = clock_ns
        self._inbox = inbox
        self._host_id = endpoint.primary_host_id if is_host else None
        self._state_topic = f"{SPARKPLUG_NAMESPACE}/STATE/{self._host_id}"
        self._born_ms = clock_ns() // NS_PER_MS
        self._client: paho.Client | None = None
        self._lock = threading.Lock()
        self._pending: dict[int, list[str]] = {}  # packet id of a SUBSCRIBE -> its topics
        self._refused: list[str] = []
        self._is_connected = False
        self._is_closing = False
        self._asked_s = float("inf")  # when the oldest unanswered request went out
        self.is_state_wrong = False
        self._why: Problem | None = None
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{endpoint.name}", daemon=True)
        self._thread.start()

    # On the event loop

    async def close(self) -> None:
        """Say goodbye and end the thread. One that hangs in a connect ends by itself, later, unheard."""
        self._is_closing = True
        client = self._client
        if client is not None:
            if self._is_connected:
                self.publish_state(online=False)
            client.disconnect()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._ended.wait()

    def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for these topics; `Subscribed` follows when every answer is there. Also called on the thread."""
        assert self._client is not None
        with self._lock:  # the answer may be here before the packet id is noted
            self._refused = []
            self._asked_s = time.monotonic()
            for start in range(0, len(filters), SUBSCRIBE_MAX):
                part = list(filters[start:start + SUBSCRIBE_MAX])
                _, packet_id = self._client.subscribe([(name, self._endpoint.qos) for name in part])
                if packet_id is not None:
                    self._pending[packet_id] = part

    def ask_rebirth(self, group: str, node: str) -> None:
        """Send a rebirth request."""
        request = codec.rebirth_request(self._clock_ns() // NS_PER_MS)
        self._publish(f"{SPARKPLUG_NAMESPACE}/{group}/NCMD/{node}", request, qos=0, is_retained=False)

    def publish_state(self, *, online: bool) -> None:
        """Announce ourselves, if we are a host."""
        if self._host_id is not None:
            self.is_state_wrong = False
            self._publish(self._state_topic, self._state(online=online), qos=1, is_retained=True)

    def _publish(self, topic: str, payload: bytes, *, qos: int, is_retained: bool) -> None:
        """Send a message: the one place of this project where MQTT is published."""
        if self._client is not None:
            self._client.publish(topic, payload, qos=qos, retain=is_retained)

    def _state(self, *, online: bool) -> bytes:
        return json.dumps({"online": online, "timestamp": self._born_ms}).encode()

    # On the thread

    def _run(self) -> None:
        try:
            client = self._client = self._make_client()
            client.connect(self._endpoint.host, self._endpoint.port, keepalive=self._endpoint.keepalive_s)
            self._asked_s = time.monotonic()
            while client.loop(timeout=LOOP_S) is MQTTErrorCode.MQTT_ERR_SUCCESS:
                if self._is_closing and not self._is_connected:
                    client.disconnect()
                elif time.monotonic() > self._asked_s + self._endpoint.timeout_s:
                    self._asked_s = float("inf")
                    self._blame("mqtt.no_answer", timeout_s=f"{self._endpoint.timeout_s:g}")
                    client.disconnect()
        except DeviceError as error:
            self._why = error.problems[0]
        except Exception as error:  # whatever the library could not digest ends this connection and no other
            self._blame_error(error)
        finally:
            if self._why is None:
                self._blame("mqtt.connection_lost", reason="-")
            assert self._why is not None
            self._inbox.put_note(Down(self._why))
            with contextlib.suppress(RuntimeError):  # the event loop may be gone by now
                self._loop.call_soon_threadsafe(self._ended.set)

    def _make_client(self) -> paho.Client:
        at = self._endpoint
        # A session of the broker's keeping would hand us old values as if they were live: it is always clean.
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=at.client_id or f"tallystick-{secrets.token_hex(6)}",
            clean_session=True, protocol=paho.MQTTv311, reconnect_on_failure=False)
        client.connect_timeout = at.timeout_s
        client.suppress_exceptions = False
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        # With this set, paho leaves all sending to its loop. It would else send from the thread that publishes.
        client.on_socket_register_write = lambda *_: None
        if at.password_file is not None:
            try:
                lines = at.password_file.read_text(encoding="utf-8").splitlines()
            except (OSError, ValueError) as error:
                raise DeviceError(self._problem("mqtt.no_password_file", file=at.password_file.name)) from error
            client.username_pw_set(at.username, lines[0] if lines else "")
        if at.tls:
            try:
                client.tls_set_context(ssl.create_default_context(cafile=at.ca_file))
            except OSError as error:  # also ssl.SSLError
                raise DeviceError(self._problem("mqtt.bad_ca_file", file=at.ca_file.name if at.ca_file else "-")
                                  ) from error
        if self._host_id is not None:
            client.will_set(self._state_topic, self._state(online=False), qos=1, retain=True)
        return client

    def _on_connect(self, client: paho.Client, userdata: object, flags: paho.ConnectFlags, reason: ReasonCode,
                    properties: Properties | None) -> None:
        if reason.is_failure:
            if reason.value in BAD_CREDENTIALS:
                self._blame("mqtt.bad_credentials", user=self._endpoint.username or "-")
            else:
                self._blame("mqtt.refused", reason=reason)
            return
        self._is_connected = True
        self.subscribe([*self._router.filters, *([self._state_topic] if self._host_id is not None else [])])

    def _on_subscribe(self, client: paho.Client, userdata: object, packet_id: int, reasons: list[ReasonCode],
                      properties: Properties | None) -> None:
        with self._lock:
            topics = self._pending.pop(packet_id, [])
            self._refused += [name for name, reason in zip(topics, reasons, strict=False) if reason.is_failure]
            self._refused += topics[len(reasons):]
            if self._pending:
                return
            self._asked_s = float("inf")
            refused = tuple(self._refused)
        self._inbox.put_note(Subscribed(refused))

    def _on_message(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        received_ns = self._clock_ns()
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        if topic == self._state_topic and self._host_id is not None:
            # One note at a time, as anybody may flood this topic. A will of ours may come late, after we are back.
            if b"false" in message.payload and not self.is_state_wrong and not self._is_closing:
                self.is_state_wrong = True
                self._inbox.put_note(HostState())
            return
        payload = bytes(message.payload) if len(message.payload) <= codec.MAX_PAYLOAD_BYTES else None
        self._inbox.put(Incoming(topic, payload, message.retain, received_ns), self._router.source_of(topic),
                        lambda: self._router.samples_in(topic, payload))

    def _on_disconnect(self, client: paho.Client, userdata: object, flags: paho.DisconnectFlags, reason: ReasonCode,
                       properties: Properties | None) -> None:
        if self._why is None:
            self._blame("mqtt.connection_lost", reason=reason)

    def _blame_error(self, error: Exception) -> None:
        at = self._endpoint
        match error:
            case ssl.SSLCertVerificationError():
                self._blame("mqtt.bad_certificate", host=at.host, error=error.verify_message)
            case ssl.SSLError():
                self._blame("mqtt.tls_failed", host=at.host, error=error.reason or "-")
            case socket.gaierror():
                self._blame("mqtt.unknown_host", host=at.host)
            case ConnectionRefusedError():
                self._blame("mqtt.not_listening", endpoint=at.endpoint)
            case TimeoutError():
                self._blame("mqtt.connect_timeout", endpoint=at.endpoint, timeout_s=f"{at.timeout_s:g}")
            case OSError():
                self._blame("mqtt.unreachable", endpoint=at.endpoint, error=error.strerror or type(error).__name__)
            case _:
                self._blame("mqtt.broken_packet", endpoint=at.endpoint, error=type(error).__name__)

    def _blame(self, code: str, **args: object) -> None:
        self._why = self._problem(code, **args)

    def _problem(self, code: str, **args: object) -> Problem:
        return Problem.of(self._endpoint.name, code, **args)


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
            problem = await self._connection(router, self._sink, is_host=True)
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
            Router(at, self._points, observer), observer, is_host=False))
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

    async def _connection(self, router: Router, sink: Sink, *, is_host: bool) -> Problem:
        """Live through one connection; return why it ended."""
        wake = asyncio.Event()
        inbox = Inbox(_waker(wake), messages_max=self.queue_messages_max)
        link = Link(self._endpoint, router, self._clock_ns, inbox, is_host=is_host)

        def announce() -> None:
            if is_host and self._endpoint.primary_host_id is not None:
                link.publish_state(online=True)
                sink.event("mqtt.state_published", self._endpoint.name, host_id=self._endpoint.primary_host_id)

        refused: tuple[str, ...] = ()
        announced_s, announce_s, resubscribe_s = float("-inf"), float("inf"), float("inf")
        try:
            while True:
                await _wait(wake, min(announce_s, resubscribe_s, _seconds(router.wake_ns)))
                for item in inbox.take(DRAIN_MAX):
                    match item:
                        case Incoming():
                            router.receive(item, time.monotonic_ns())
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
        while items := inbox.take(DRAIN_MAX):
            for item in items:
                if isinstance(item, Incoming):
                    router.receive(item, time.monotonic_ns())
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
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if until_s == float("inf") else max(0.0, until_s - time.monotonic())):
            await wake.wait()
    wake.clear()


def _seconds(wake_ns: int | None) -> float:
    return float("inf") if wake_ns is None else wake_ns / 1e9
