"""The plant's MQTT side: a broker (amqtt, embedded, MQTT 3.1.1), two Sparkplug B edge nodes, and plain JSON devices.

The publishers are paho clients and speak to any broker. Sparkplug payloads are built with the schema beside this file.
An edge node reports by exception: a metric is sent when it changed, and again after REFRESH_S without a change.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from amqtt.broker import Broker
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from simulators.layout import Device, Layout, Point
from simulators.mqtt_faults import Mischief
from simulators.sent import PointKey, Sent
from simulators.signals import Value
from simulators.sparkplug_pb2 import Payload
from simulators.wire import Wire

log = logging.getLogger(__name__)

SPARKPLUG_NAMESPACE = "spBv1.0"
DATATYPE = {"int32": 3, "uint64": 8, "float64": 10, "bool": 11, "string": 12}
"""Sparkplug B data types: Int32, UInt64, Double, Boolean, String."""

REFRESH_S = 2.0
CONNECT_TIMEOUT_S = 8.0
KEEPALIVE_S = 15
LAST_WORDS_S = 0.3
"""The embedded broker drops what it has accepted and not passed on; this long it has for the death certificates."""

BROKER_END_S = 2.0
"""amqtt waits for acknowledgements that no longer come; then it is left to itself."""

SEQ_END = 256
PORT = 1883


def broker_address(url: str) -> tuple[str, int]:
    """Return host and port of mqtt://HOST[:PORT]."""
    where = urlsplit(url)
    return where.hostname or "127.0.0.1", where.port or PORT


class EmbeddedBroker:
    """amqtt, anonymous, without its periodic $SYS messages, behind a wire of its own.

    The wire keeps the address while brokers come and go: amqtt may take many seconds to end, or never do.
    """

    def __init__(self) -> None:
        self._broker: Any = None
        self._wire = Wire(Sent())
        self._leaving: set[asyncio.Task[None]] = set()
        self.endpoint = ""

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. Raises OSError."""
        await self._wire.open(host, port, await self._make(host))
        self.endpoint = f"mqtt://{host}:{self._wire.port}"

    async def _make(self, host: str) -> tuple[str, int]:
        """Start a broker on a port of its own."""
        self._broker = Broker({
            "listeners": {"default": {"type": "tcp", "bind": f"{host}:0"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}})
        try:
            await self._broker.start()
        except Exception as error:  # the library wraps whatever happened
            self._broker = None
            raise OSError(f"{host}: {error}") from error
        # the library does not tell the port it was given; its listener does
        listener = self._broker._servers["default"].instance.sockets[0]
        return host, listener.getsockname()[1]

    async def restart(self, away_s: float) -> None:
        """End every connection and come back after a while at the same address: no session, nothing retained."""
        broker, host = self._broker, self._wire.target[0]
        self._wire.refuse()
        leaving = asyncio.create_task(_end_broker(broker))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.sleep(away_s)
        self._wire.target = await self._make(host)
        await self._wire.welcome()

    async def stop(self) -> None:
        """Close every session and stop listening."""
        self._wire.shut()
        if self._broker is not None:
            await asyncio.sleep(LAST_WORDS_S)
            broker, self._broker = self._broker, None
            try:
                await _end_broker(broker)
            finally:
                for task in self._leaving:
                    task.cancel()
                self._wire.close()


async def _end_broker(broker: Any) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(broker.shutdown(), BROKER_END_S)


class _Publisher:
    """A paho client with a network thread of its own; everything else of the plant stays on the event loop.

    `on_connect` and `on_message` run on the event loop. A lost connection is taken up again by paho.
    """

    def __init__(self, client_id: str, endpoint: str, mischief: Mischief) -> None:
        self.mischief = mischief
        self._address = broker_address(endpoint)
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv311)
        self.client.reconnect_delay_set(min_delay=1, max_delay=5)
        self.connected = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def connect(self, on_connect: Callable[[], None]) -> None:
        """Connect and wait until `on_connect` has run. Raises OSError when the broker does not take us."""
        def connected(client: mqtt.Client, userdata: object, flags: mqtt.ConnectFlags, reason: Any,
                      properties: object) -> None:
            if not reason.is_failure:
                self._loop.call_soon_threadsafe(take)

        def take() -> None:
            on_connect()
            self.connected.set()

        self.client.on_connect = connected
        self.client.connect_async(*self._address, keepalive=KEEPALIVE_S)
        self.client.loop_start()
        try:
            await asyncio.wait_for(self.connected.wait(), CONNECT_TIMEOUT_S)
        except TimeoutError as error:
            self.client.loop_stop()
            raise OSError(f"no broker answered at {self._address[0]}:{self._address[1]}") from error

    def on_message(self, handle: Callable[[bytes], None]) -> None:
        """Have `handle` called with the payload of every message that arrives."""
        def arrived(client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
            self._loop.call_soon_threadsafe(handle, bytes(message.payload))

        self.client.on_message = arrived

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Send a message, or lose it while the broker is away, as field devices do."""
        if self.client.is_connected():
            for what, body, is_retained in self.mischief.messages(topic, payload, retain=retain):
                self.client.publish(what, body, qos=qos, retain=is_retained)

    def publish_plainly(self, topic: str, payload: bytes) -> None:
        """Send a message as it is, whatever faults are on."""
        if self.client.is_connected():
            self.client.publish(topic, payload)

    def vanish(self) -> None:
        """Break the connection without a word, as a power cut does; it is taken up again."""
        connection = self.client.socket()
        if isinstance(connection, socket.socket):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    async def publish_last(self, topic: str, payload: bytes) -> None:
        """Send a message with QoS 1 and wait a little for the broker to have it."""
        if self.client.is_connected():
            sent = self.client.publish(topic, payload, qos=1)
            await asyncio.to_thread(sent.wait_for_publish, LAST_WORDS_S)

    async def close(self) -> None:
        """Disconnect and end the network thread."""
        if self.client.disconnect() is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            log.debug("the broker was gone before %s left", self._address)
        await asyncio.to_thread(self.client.loop_stop)


class EdgeNode:
    """One Sparkplug B edge node with its devices: births with aliases, data, and a death certificate as its will."""

    def __init__(self, layout: Layout, node: str, devices: Iterable[Device], endpoint: str,
                 machines: Mapping[str, list[Value]]) -> None:
        self.node = node
        self.devices = tuple(device for device in devices if device.fate != "dead")
        self.rebirths = 0
        self.mischief = Mischief()
        self._group = layout.group
        self._endpoint = endpoint
        self._machines = machines
        self._seq = 0
        # Restarts must not repeat the number of the session before; the clock serves where nothing is kept on disk.
        self._bd_seq = int(time.time()) % SEQ_END
        self._publisher: _Publisher | None = None
        self._alias: dict[PointKey, int] = {key: alias for alias, key in enumerate(
            ((device.id, point.id) for device in self.devices for point in device.points), start=1)}
        self._sent: dict[tuple[str, str], tuple[Value, float]] = {}
        self._born = False

    @property
    def aliases(self) -> dict[tuple[str, int], PointKey]:
        """(node, alias) -> the point that the alias stands for."""
        return {(self.node, alias): key for key, alias in self._alias.items()}

    def vanish(self) -> None:
        """Lose the connection: the broker publishes the death certificate."""
        if self._publisher is not None:
            self._publisher.vanish()

    async def start(self) -> None:
        """Connect with the will in place and publish the births. Raises OSError."""
        publisher = self._publisher = _Publisher(f"{self._group}-{self.node}", self._endpoint, self.mischief)
        publisher.client.will_set(self._topic("NDEATH"), self._death(), qos=1)
        publisher.on_message(self._command)
        publisher.client.on_disconnect = self._lost
        await publisher.connect(self._connected)

    def _lost(self, client: mqtt.Client, userdata: object, flags: object, reason: object, properties: object) -> None:
        """Prepare the will of the next session; runs on paho's thread, before it connects again."""
        self._born = False
        self._bd_seq = (self._bd_seq + 1) % SEQ_END
        client.will_set(self._topic("NDEATH"), self._death(), qos=1)

    def _connected(self) -> None:
        assert self._publisher is not None
        self._publisher.client.subscribe(self._topic("NCMD"), qos=1)
        self._birth()

    def _command(self, body: bytes) -> None:
        payload = Payload()
        try:
            payload.ParseFromString(body)
        except Exception:  # anybody may publish anything on our command topic
            log.warning("%s: a command that is no Sparkplug payload", self.node)
            return
        if any(metric.name == "Node Control/Rebirth" and metric.boolean_value for metric in payload.metrics):
            self.rebirths += 1
            self._birth()

    def _birth(self) -> None:
        """Publish NBIRTH and every DBIRTH: names, aliases, types and present values. Starts the sequence again."""
        now_ms = self._now_ms()
        self._seq = 0
        birth = self._payload(now_ms)
        _metric(birth, now_ms, name="bdSeq", kind="uint64", value=self._bd_seq)
        _metric(birth, now_ms, name="Node Control/Rebirth", kind="bool", value=False)
        _metric(birth, now_ms, name="Node Info/Software", kind="string", value="tallystick simulators")
        self._send("NBIRTH", None, birth)
        now_s = time.monotonic()
        for device in self.devices:
            birth = self._payload(now_ms)
            for point in device.points:
                value = self._machines[device.machine][point.signal]
                _metric(birth, now_ms, name=str(point.place), alias=self._alias[device.id, point.id], kind=point.type,
                        value=value)
                self._sent[device.id, point.id] = (value, now_s)
            self._send("DBIRTH", device, birth)
        self._born = True

    def publish(self) -> None:
        """Publish one DDATA for each device that has something to say."""
        if not self._born or self._publisher is None or not self._publisher.client.is_connected():
            return
        now_ms = self._now_ms()
        now_s = time.monotonic()
        historical = self.mischief.meets("historical")
        for device in self.devices:
            if device.id in self.mischief.dead:
                continue
            data: Payload | None = None
            for point in device.points:
                value = self._machines[device.machine][point.signal]
                last, sent_s = self._sent[device.id, point.id]
                if value == last and now_s - sent_s < REFRESH_S - 0.5:
                    continue
                data = data or self._payload(now_ms)
                _metric(data, now_ms, alias=self._alias[device.id, point.id], kind=point.type, value=value)
                if historical:
                    data.metrics[-1].is_historical = True
                self._sent[device.id, point.id] = (value, now_s)
            if data is not None:
                self._send("DDATA", device, data)

    async def stop(self) -> None:
        """Say goodbye as the specification asks: the death certificate first, then the disconnect."""
        if self._publisher is None:
            return
        self._born = False
        await self._publisher.publish_last(self._topic("NDEATH"), self._death())
        self._publisher.client.on_disconnect = None
        await self._publisher.close()
        self._publisher = None

    def _now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + round(self.mischief.clock_s * 1000)

    def _payload(self, now_ms: int) -> Payload:
        payload = Payload()
        payload.timestamp = now_ms
        payload.seq = self._seq
        self._seq = (self._seq + 1) % SEQ_END
        return payload

    def _death(self) -> bytes:
        payload = Payload()
        payload.timestamp = now_ms = time.time_ns() // 1_000_000
        _metric(payload, now_ms, name="bdSeq", kind="uint64", value=self._bd_seq)
        return payload.SerializeToString()

    def _topic(self, kind: str, device: Device | None = None) -> str:
        end = "" if device is None else f"/{device.id}"
        return f"{SPARKPLUG_NAMESPACE}/{self._group}/{kind}/{self.node}{end}"

    def _send(self, kind: str, device: Device | None, payload: Payload) -> None:
        assert self._publisher is not None
        if kind in ("NBIRTH", "DBIRTH"):
            if "missing_birth" in self.mischief.on:
                self.mischief.played["missing_birth"] += 1
            else:
                self._publisher.publish_plainly(self._topic(kind, device), payload.SerializeToString())
        else:
            self._publisher.publish(self._topic(kind, device), payload.SerializeToString())


def _metric(payload: Payload, now_ms: int, *, kind: str, value: Value, name: str = "", alias: int = 0) -> None:
    """Add a metric. A birth has name and alias, data has the alias alone; signed integers travel as 32-bit words."""
    metric = payload.metrics.add()
    if name:
        metric.name = name
    if alias:
        metric.alias = alias
    metric.timestamp = now_ms
    metric.datatype = DATATYPE[kind]
    match kind:
        case "int32":
            metric.int_value = int(value) & 0xFFFF_FFFF
        case "uint64":
            metric.long_value = int(value)
        case "float64":
            metric.double_value = float(value)
        case "bool":
            metric.boolean_value = bool(value)
        case _:
            metric.string_value = str(value)


class JsonDevices:
    """The plain devices: one topic each, one JSON object a second, and a retained nameplate beside it."""

    def __init__(self, layout: Layout, devices: Iterable[Device], endpoint: str,
                 machines: Mapping[str, list[Value]]) -> None:
        self.devices = tuple(device for device in devices if device.fate != "dead")
        self.mischief = Mischief()
        self._client_id = f"{layout.site}-sensors"
        self._endpoint = endpoint
        self._machines = machines
        self._publisher: _Publisher | None = None

    async def start(self) -> None:
        """Connect, publish the nameplates and the first values. Raises OSError."""
        self._publisher = _Publisher(self._client_id, self._endpoint, self.mischief)
        await self._publisher.connect(self._connected)

    def _connected(self) -> None:
        assert self._publisher is not None
        for device in self.devices:
            plate = {"maker": device.maker.name, "model": device.model, "serial": device.serial}
            self._publisher.publish(f"{device.place}/nameplate", _json(plate), qos=1, retain=True)
        self.publish()

    def publish(self) -> None:
        """Publish the present values of every device."""
        if self._publisher is None:
            return
        now_ms = time.time_ns() // 1_000_000 + round(self.mischief.clock_s * 1000)
        for device in self.devices:
            if device.id in self.mischief.dead:
                continue
            body = json_body(device.points, self._machines[device.machine])
            self._publisher.publish(device.place, _json({"ts": now_ms, **body}), qos=1)

    async def stop(self) -> None:
        """Disconnect."""
        if self._publisher is not None:
            await self._publisher.close()
            self._publisher = None


def json_body(points: Iterable[Point], values: list[Value]) -> dict[str, Any]:
    """Return the JSON object in which every point's value is found under its pointer."""
    body: dict[str, Any] = {}
    for point in points:
        *groups, last = str(point.place).lstrip("/").split("/")
        here: Any = body
        for group, following in zip(groups, [*groups[1:], last], strict=True):
            here = here.setdefault(group, [] if following.isdigit() else {})
        if isinstance(here, list):
            here.append(values[point.signal])  # neighbours come in order
        else:
            here[last] = values[point.signal]
    return body


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
