"""What simulated publishers do wrong on purpose, and what a broker really handed to a subscriber.

The counting half reads the bytes of a connection behind the broker: packets by MQTT 3.1.1 section 3.3, payloads with
the schema beside this file and Python's own JSON. Nothing here comes from the codecs of the gateway.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from simulators.layout import Device
from simulators.sent import PointKey, Sent
from simulators.sparkplug_pb2 import Payload

UNREADABLE = b"\xff\xfe\xfd what is this?"
PUBLISH = 3
CARRY_VALUES = ("NBIRTH", "DBIRTH", "NDATA", "DDATA")
OWN = ("bdSeq", "Node Control/", "Device Control/")
"""Metrics of the protocol itself; nobody counts them as values."""

Message = tuple[str, bytes, bool]
"""Topic, payload, retained."""


class Mischief:
    """The faults that are on for one publisher. every: each Nth message meets it. on: kind -> every."""

    def __init__(self) -> None:
        self.on: dict[str, int] = {}
        self.played: Counter[str] = Counter()
        self.clock_s = 0.0
        self.dead: set[str] = set()
        """Devices that say nothing."""
        self._seen: Counter[str] = Counter()
        self._kept: Message | None = None

    def meets(self, kind: str) -> bool:
        """Return whether this message meets a fault; each asking is one message."""
        every = self.on.get(kind)
        if every is None:
            return False
        self._seen[kind] += 1
        if self._seen[kind] % every:
            return False
        self.played[kind] += 1
        return True

    def messages(self, topic: str, payload: bytes, *, retain: bool) -> Iterator[Message]:
        """Yield what is published in place of one message."""
        if self.meets("gap"):
            return
        if self.meets("unreadable"):
            payload = UNREADABLE
        message = (topic, payload, retain or self.meets("retained"))
        if self._kept is None and self.meets("reorder"):
            self._kept = message
            return
        yield message
        if self.meets("twice"):
            yield message
        if self._kept is not None:
            kept, self._kept = self._kept, None
            yield kept


class PublishReader:
    """Cuts the bytes of one connection, broker to subscriber, into packets, and hands on what was published."""

    def __init__(self, take: Callable[[str, bytes], None]) -> None:
        self._take = take
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._buffer += data
        while (head := self._head()) is not None:
            start, size = head
            if len(self._buffer) < start + size:
                return
            first, body = self._buffer[0], bytes(self._buffer[start:start + size])
            del self._buffer[:start + size]
            if first >> 4 == PUBLISH:
                end = 2 + int.from_bytes(body[:2], "big")
                self._take(body[2:end].decode("utf-8", "replace"), body[end + (2 if first & 0x06 else 0):])

    def _head(self) -> tuple[int, int] | None:
        """Return where the body of the first packet begins and its size, None while that is not there."""
        size = 0
        for place, byte in enumerate(self._buffer[1:5]):
            size |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return place + 2, size
        return None


class Delivered:
    """Counts what subscribers were handed: values of plain JSON devices and Sparkplug metrics.

    writes: what they published themselves, but for rebirth requests and STATE. writes_of_process: the same for every
    plant of this process; the tests compare it.
    """

    writes_of_process: ClassVar[int] = 0

    def __init__(self, group: str, edge: Iterable[Device], sensors: Iterable[Device],
                 aliases: Mapping[tuple[str, int], PointKey], sent: Mapping[str, Sent]) -> None:
        """aliases: (node, alias) -> point. sent: where `edge` and `sensors` are counted."""
        self.writes = 0
        self._group = group
        self._aliases = aliases
        self._sent = sent
        self._metrics = {(*device.place.split("/"), str(point.place)): (device.id, point.id)
                         for device in edge for point in device.points}
        self._topics: dict[str, list[tuple[PointKey, list[str]]]] = {
            device.place: [((device.id, point.id), str(point.place).lstrip("/").split("/")) for point in device.points]
            for device in sensors}

    def reader(self) -> Callable[[bytes], None]:
        """Return what looks at the bytes of one connection."""
        return PublishReader(self.take).feed

    def client_reader(self) -> Callable[[bytes], None]:
        """Return what looks at the bytes that one client sends."""
        return PublishReader(self.heard).feed

    def heard(self, topic: str, payload: bytes) -> None:
        """Note what a client published."""
        if is_rebirth_request(topic, payload):
            self._sent["edge"].messages["rebirth requests"] += 1
        elif topic.startswith("spBv1.0/STATE/"):
            self._sent["edge"].messages["STATE"] += 1
        else:
            self.writes += 1
            Delivered.writes_of_process += 1

    def take(self, topic: str, payload: bytes) -> None:
        """Count one message."""
        if topic in self._topics:
            self._document(topic, payload)
        elif topic.startswith(f"spBv1.0/{self._group}/"):
            self._sparkplug(topic, payload)

    def _document(self, topic: str, payload: bytes) -> None:
        sent, points = self._sent["sensors"], self._topics[topic]
        try:
            body = json.loads(payload)
        except (ValueError, RecursionError):
            sent.spoilt(len(points), "unreadable documents")
            return
        sent.add((key for key, steps in points if _has(body, steps)), "documents")

    def _sparkplug(self, topic: str, payload: bytes) -> None:
        sent = self._sent["edge"]
        kind, _, place = topic.split("/", 2)[2].partition("/")  # anybody may publish a topic that is too short
        node, _, device = place.partition("/")
        if kind not in CARRY_VALUES:
            sent.add((), kind)
            return
        message = Payload()
        try:
            message.ParseFromString(payload)
        except Exception:  # whatever protobuf raises
            sent.spoilt(1, f"unreadable {kind}")
            return
        found: list[PointKey] = []
        others = 0
        for metric in message.metrics:
            if metric.name.startswith(OWN):
                continue
            key = self._metrics.get((node, device, metric.name)) if metric.name else \
                self._aliases.get((node, metric.alias))
            if key is None:
                others += 1
            else:
                found.append(key)
        sent.add(found, kind, others=others)


def is_rebirth_request(topic: str, payload: bytes) -> bool:
    """Return whether a message asks an edge node for its births, and for nothing else."""
    message = Payload()
    try:
        message.ParseFromString(payload)
    except Exception:  # whatever protobuf raises
        return False
    return ("/NCMD/" in topic and len(message.metrics) == 1 and message.metrics[0].boolean_value
            and message.metrics[0].name == "Node Control/Rebirth")


def _has(body: Any, steps: list[str]) -> bool:
    for step in steps:
        if isinstance(body, list) and step.isdigit() and int(step) < len(body):
            body = body[int(step)]
        elif isinstance(body, dict) and step in body:
            body = body[step]
        else:
            return False
    return True
