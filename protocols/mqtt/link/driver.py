"""One connection to an MQTT broker: paho-mqtt under guard, on a thread of its own.

paho connects, encrypts, logs in, subscribes, pings and answers; messages are cut from whole chunks by `frames`, which
is what makes it fast, and are acknowledged when the event loop has them (`inbox`). Two messages may ever be published,
both through `Link._publish`: a rebirth request (`rebirth = "auto"`) and our own STATE (`primary_host_id`).

Contract: tests/unit/protocols/mqtt/test_mqtt_paho.py holds this to what paho does without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from protocols.errors import DeviceError, Problem
from protocols.mqtt import codec
from protocols.mqtt.frames import BODY_MAX, KEPT, RETAINED, Arrived, Batch, FrameError, Frames, Messages
from protocols.mqtt.inbox import Chunk, Down, HostState, Inbox, Subscribed
from protocols.mqtt.router import Router
from protocols.mqtt.target import SPARKPLUG_NAMESPACE, MqttEndpoint

# paho logs topics and errors of its own; what a person must know is told through `Sink.event`.
logging.getLogger("paho").setLevel(logging.CRITICAL)

CHUNK_BYTES = 256 * 1024
CHUNK_MAX = 1250
"""Messages that the event loop takes at once."""

LOOP_S = 0.5
CLOSE_S = 1.5
SUBSCRIBE_MAX = 100
"""Topics in one SUBSCRIBE."""

PACKET_MAX = 16 * BODY_MAX
"""What a broker that speaks MQTT 5 may send at most. A larger message it must drop, and we would not know of it: so
this is far beyond what is read, and still far below the 256 MiB of the protocol."""

SUBSCRIPTION_ID_MAX = 268_435_455
BAD_CREDENTIALS = (134, 135)
NS_PER_MS = 1_000_000


class Client(paho.Client):
    """paho's client, with PUBLISH taken from whole chunks. Every other packet goes through paho's own handler."""

    frames: Frames
    on_batch: Callable[[Batch], None]
    read_error: OSError | None = None
    _is_read_out = False
    """Whether the connection has an end behind what was read."""

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Take what has arrived, in place of paho's packet by packet and byte by byte."""
        if self._sock is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        data = self._arrived()
        if not data:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST) if self._is_read_out \
                else MQTTErrorCode.MQTT_ERR_SUCCESS
        with self._msgtime_mutex:
            self._last_bytes_received = time.monotonic()
        try:
            for cut in self.frames.cut(data):
                if isinstance(cut, Batch):
                    self.on_batch(cut)
                    result = self._acknowledge(cut.acks)
                else:
                    result = self._other(cut.head, cut.body)
                if result != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    return self._loop_rc_handle(MQTTErrorCode(result))
                if not self._is_open():
                    return MQTTErrorCode.MQTT_ERR_NO_CONN
        except (FrameError, MalformedPacket):
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_PROTOCOL)
        return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST) if self._is_read_out \
            else MQTTErrorCode.MQTT_ERR_SUCCESS

    def _arrived(self) -> bytes:
        """Return what is there, up to CHUNK_BYTES; nothing and `_is_read_out` at the end of the connection.

        TLS gives one record of 16 KiB a call, so there it is asked again.
        """
        parts: list[bytes] = []
        wanted = CHUNK_BYTES
        while wanted > 0 and not self._is_read_out:
            try:
                part = self._sock_recv(wanted)
            except BlockingIOError:
                break
            except OSError as error:
                self.read_error = error.with_traceback(None)  # which refers to us, and we to it
                part = b""
            self._is_read_out = not part
            parts.append(part)
            wanted = wanted - len(part) if isinstance(self._sock, ssl.SSLSocket) else 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _acknowledge(self, acks: bytes) -> int:
        """Send acknowledgements at once: queued, they would wake this very thread through paho's pair of sockets.

        What is left of them comes before all that other threads have queued meanwhile, or it would be cut by that.
        """
        if self.want_write():
            return self._packet_queue(paho.PUBACK, acks, 0, 0) if acks else 0
        sent = 0
        if acks:
            with contextlib.suppress(OSError):  # also BlockingIOError; whatever it is, paho meets it again
                sent = self._sock_send(acks)
        if sent < len(acks):
            self._out_packet.appendleft({"command": paho.PUBACK, "mid": 0, "qos": 0, "pos": sent,
                                         "to_process": len(acks) - sent, "packet": acks, "info": None})
        return 0

    def _is_open(self) -> bool:
        """Whether paho has not closed the connection, as it does when the broker says goodbye."""
        return self._sock is not None

    def _other(self, head: int, body: bytes) -> MQTTErrorCode:
        self._in_packet = {
            "command": head, "have_remaining": 1, "remaining_count": [], "remaining_mult": 1,
            "remaining_length": len(body), "packet": bytearray(body), "to_process": 0, "pos": 0}
        return self._packet_handle()


class Link:
    """One connection to the broker, from connecting to its end, on a thread of its own."""

    is_fast = True
    """False leaves reading to paho: slower, and the same otherwise."""

    def __init__(self, endpoint: MqttEndpoint, router: Router, clock_ns: Callable[[], int], inbox: Inbox, *,
                 is_live: bool, open_ids: set[bytes]) -> None:
        """is_live: not a check: announce our STATE, and take up the session, where the endpoint has one.

        clock_ns: called on the thread. open_ids: what is open of a kept session, with QoS 2.
        """
        self._endpoint = endpoint
        self._router = router
        self._clock_ns = clock_ns
        self._inbox = inbox
        self._host_id = endpoint.primary_host_id if is_live else None
        self._keeps_session = is_live and endpoint.session_expiry_s > 0
        self._is_v5 = endpoint.mqtt_version == "5"
        self._subscription_id = 1 + secrets.randbelow(SUBSCRIPTION_ID_MAX) if self._keeps_session else None
        self._open_ids = open_ids
        self._state_topic = f"{SPARKPLUG_NAMESPACE}/STATE/{self._host_id}"
        self._state_bytes = self._state_topic.encode() if self._host_id is not None else None
        self._born_ms = clock_ns() // NS_PER_MS
        self._client: Client | paho.Client | None = None
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
        properties = None
        if self._subscription_id is not None:
            properties = Properties(PacketTypes.SUBSCRIBE)  # type: ignore[no-untyped-call]  # paho
            properties.SubscriptionIdentifier = self._subscription_id
        qos = self._endpoint.qos
        with self._lock:  # the answer may be here before the packet id is noted
            self._refused = []
            self._asked_s = time.monotonic()
            for start in range(0, len(filters), SUBSCRIBE_MAX):
                part = list(filters[start:start + SUBSCRIBE_MAX])
                if self._is_v5:
                    _, packet_id = self._client.subscribe([(name, SubscribeOptions(qos=qos)) for name in part],
                                                          properties=properties)
                else:
                    _, packet_id = self._client.subscribe([(name, qos) for name in part])
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
            # A birth has the time of its will, so that edge nodes know which belong together; a death has its own.
            at_ms = self._born_ms if online else self._clock_ns() // NS_PER_MS
            self._publish(self._state_topic, _state(at_ms, online=online), qos=1, is_retained=True)

    def _publish(self, topic: str, payload: bytes, *, qos: int, is_retained: bool) -> None:
        """Send a message: the one place of this project where MQTT is published."""
        if self._client is not None:
            self._client.publish(topic, payload, qos=qos, retain=is_retained)

    # On the thread

    def _run(self) -> None:
        try:
            client = self._client = self._make_client()
            self._connect(client)
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
            if self._client is not None:
                _let_go(self._client)
            with contextlib.suppress(RuntimeError):  # the event loop may be gone by now
                self._loop.call_soon_threadsafe(self._ended.set)

    def _connect(self, client: paho.Client) -> None:
        at = self._endpoint
        if not self._is_v5:
            client.connect(at.host, at.port, keepalive=at.keepalive_s)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho
        properties.MaximumPacketSize = PACKET_MAX
        if self._keeps_session:
            properties.SessionExpiryInterval = at.session_expiry_s
        client.connect(at.host, at.port, keepalive=at.keepalive_s, clean_start=not self._keeps_session,
                       properties=properties)

    def _make_client(self) -> paho.Client:
        at = self._endpoint
        made: type[paho.Client] = Client if self.is_fast else paho.Client
        client_id = at.client_id or f"tallystick-{secrets.token_hex(6)}"
        if at.session_expiry_s and not self._keeps_session:
            client_id += "-check"  # the session of the running gateway stays its own
        # MQTT 3.1.1 does not tell what was kept for us from what is live: there a session is always clean.
        client = made(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=None if self._is_v5 else True,
                      protocol=paho.MQTTv5 if self._is_v5 else paho.MQTTv311, reconnect_on_failure=False)
        client.connect_timeout = at.timeout_s
        client.suppress_exceptions = False
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        # With this set, paho leaves all sending to its loop. It would else send from the thread that publishes.
        client.on_socket_register_write = lambda *_: None
        if isinstance(client, Client):
            client.frames = Frames(is_v5=self._is_v5, subscription_id=self._subscription_id, open_ids=self._open_ids)
            client.on_batch = self._on_batch
        if at.password_file is not None:
            try:
                lines = at.password_file.read_text(encoding="utf-8").splitlines()
            except (OSError, ValueError) as error:
                raise DeviceError(self._problem("mqtt.no_password_file", file=at.password_file.name)) from error
            client.username_pw_set(at.username, lines[0] if lines else "")
        if at.tls:
            client.tls_set_context(self._tls())
        if self._host_id is not None:
            client.will_set(self._state_topic, _state(self._born_ms, online=False), qos=1, retain=True)
        return client

    def _tls(self) -> ssl.SSLContext:
        at = self._endpoint
        try:
            context = ssl.create_default_context(cafile=at.ca_file)
        except OSError as error:  # also ssl.SSLError
            raise DeviceError(self._problem("mqtt.bad_ca_file", file=at.ca_file.name if at.ca_file else "-")) from error
        if at.certificate_file is not None and at.key_file is not None:
            def no_password() -> bytes:
                raise ValueError("the key has a password")  # OpenSSL would ask for it on the terminal

            try:
                context.load_cert_chain(at.certificate_file, at.key_file, password=no_password)
            except (OSError, ValueError) as error:
                raise DeviceError(self._problem("mqtt.bad_certificate_file", certificate=at.certificate_file.name,
                                                key=at.key_file.name)) from error
        return context

    def _on_connect(self, client: paho.Client, userdata: object, flags: paho.ConnectFlags, reason: ReasonCode,
                    properties: Properties | None) -> None:
        if reason.is_failure:
            if reason.value in BAD_CREDENTIALS:
                self._blame("mqtt.bad_credentials", user=self._endpoint.username or "-")
            else:
                self._blame("mqtt.refused", reason=reason)
            return
        if self._keeps_session and getattr(properties, "SubscriptionIdentifierAvailable", 1) == 0:
            self._blame("mqtt.no_session_marks")
            client.disconnect()
            return
        if not flags.session_present:
            self._open_ids.clear()
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

    def _on_batch(self, batch: Batch) -> None:
        """Hand messages over: whatever of them is not counted here is counted as lost."""
        messages = batch.messages
        if self._state_bytes is not None and self._state_bytes in messages.topics:
            messages = Messages.of(message for message in messages if not self._is_our_state(message))
        received_ns = self._clock_ns()
        for start in range(0, len(messages), CHUNK_MAX):
            part = messages.part(start, start + CHUNK_MAX)
            self._inbox.put(Chunk(received_ns, part, batch.size * len(part) // len(messages)), self._router.count)
            self._inbox.give_way()

    def _on_message(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        """Take one message from paho, where its own reading is left in place."""
        payload = bytes(message.payload) if len(message.payload) <= codec.MAX_PAYLOAD_BYTES else None
        try:
            topic = message.topic.encode()
        except UnicodeDecodeError:
            topic = b"\xff"
        marks = RETAINED if message.retain else 0
        if self._subscription_id is not None and self._subscription_id not in getattr(
                message.properties, "SubscriptionIdentifier", ()):
            marks |= KEPT
        self._on_batch(Batch(Messages.of([(topic, payload, marks)]), b"", len(payload or b"")))

    def _is_our_state(self, message: Arrived) -> bool:
        topic, payload, _ = message
        if topic != self._state_bytes:
            return False
        # One note at a time, as anybody may flood this topic. A will of ours may come late, after we are back.
        if b"false" in (payload or b"") and not self.is_state_wrong and not self._is_closing:
            self.is_state_wrong = True
            self._inbox.put_note(HostState())
        return True

    def _on_disconnect(self, client: paho.Client, userdata: object, flags: paho.DisconnectFlags, reason: ReasonCode,
                       properties: Properties | None) -> None:
        if self._why is not None:
            return
        error = client.read_error if isinstance(client, Client) else None
        if isinstance(error, ssl.SSLError):
            self._blame_error(error)
        else:
            self._blame("mqtt.connection_lost", reason=reason)

    def _blame_error(self, error: Exception) -> None:
        at = self._endpoint
        match error:
            case ssl.SSLCertVerificationError():
                self._blame("mqtt.bad_certificate", host=at.host, error=error.verify_message)
            case ssl.SSLError() if "CERTIFICATE" in (error.reason or "") or "UNKNOWN_CA" in (error.reason or ""):
                self._blame("mqtt.certificate_refused", host=at.host, error=error.reason)
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


def _let_go(client: paho.Client) -> None:
    """Take back what ties a client to us: it closes its pair of sockets when nothing refers to it any more.

    Else they wait for Python's cyclic collector, which a quiet gateway before a dead broker may not see for days.
    """
    client.on_connect = client.on_subscribe = client.on_message = client.on_disconnect = None
    client.on_socket_register_write = None
    if isinstance(client, Client):
        del client.on_batch


def _state(at_ms: int, *, online: bool) -> bytes:
    return json.dumps({"online": online, "timestamp": at_ms}).encode()
