"""The byte stream of an MQTT connection, cut into messages and everything else. Pure.

A PUBLISH on the wire:

    byte 0      0011 dqqr          d: sent again, qq: quality of service, r: retained
    1 to 4      length             of all that follows, seven bits a byte, the lowest first
    2           n
    n           topic
    2           packet id          only if qq is 1 or 2
    1 to 4, m   properties         only in MQTT 5: their length, then as many bytes
    the rest    payload

All messages of a chunk are cut in one loop, and their acknowledgements are one packet, to be sent after the messages
were handed over. Every other packet is given back whole: paho knows what to do with it. Messages are columns, not an
object each: a hundred thousand objects that wait for somebody are what Python's cyclic collector looks through.

Sources: MQTT 3.1.1, sections 2.2, 3.3 and 4.3.3 (QoS 2 by method B: handed over at once, the packet id remembered);
MQTT 5, sections 2.2.2 and 3.3.2.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from struct import Struct

PAYLOAD_MAX = 1024 * 1024
"""A larger payload is not kept: its message has None instead."""

TOPIC_MAX = 65_535
BODY_MAX = PAYLOAD_MAX + 2 * TOPIC_MAX
"""A longer PUBLISH is dropped while it arrives, once its topic is known; any other packet of that size is an error."""

RETAINED = 1
"""The broker kept this message for whoever subscribes: it tells of another time."""
KEPT = 2
"""The broker kept this message for us while we were away."""

PUBLISH, PUBREL = 0x30, 0x62
QOS_1 = 0x32
"""First byte of a message with QoS 1, neither sent again nor retained."""
_PUBACK = b"\x40\x02"
_ACK = {2: _PUBACK, 4: b"\x50\x02"}

PLACES_MAX = 4_096
"""Beginnings of messages that are remembered; a stranger may send all there are."""

Unpack = Callable[[bytes, int], tuple[bytes, ...]]
Place = tuple[Unpack, int]
"""What takes a message apart, given where it begins, into topic, packet id (empty with QoS 0), properties if there are
any, and payload; and the bytes of the whole message."""

Arrived = tuple[bytes, bytes | None, int]
"""Topic, payload (None: too large), and RETAINED or KEPT or both or 0."""


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages in the order they came. payloads: None for one that was too large.

    marks: RETAINED or KEPT or both or 0 of each, a byte each; empty where all are 0.
    """

    topics: list[bytes]
    payloads: list[bytes | None]
    marks: bytes = b""

    @classmethod
    def of(cls, arrived: Iterable[Arrived]) -> Messages:
        """Return these."""
        all_of_them = list(arrived)
        marks = bytes(marks for _, _, marks in all_of_them)
        return cls([topic for topic, _, _ in all_of_them], [payload for _, payload, _ in all_of_them],
                   marks if any(marks) else b"")

    def __len__(self) -> int:
        return len(self.topics)

    def __iter__(self) -> Iterator[Arrived]:
        return zip(self.topics, self.payloads, self.marks or bytes(len(self.topics)), strict=True)

    def part(self, start: int, stop: int) -> Messages:
        """Return some of them that stand together."""
        if start == 0 and stop >= len(self.topics):
            return self
        return Messages(self.topics[start:stop], self.payloads[start:stop], self.marks[start:stop])


class FrameError(ValueError):
    """The stream is no MQTT from here on."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages in the order they came. acks: to be sent when they were taken over. size: their bytes on the wire."""

    messages: Messages
    acks: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Packet:
    """Any other packet: first byte, and what follows the length."""

    head: int
    body: bytes


class _New:
    """What was cut and not yet given away."""

    def __init__(self) -> None:
        self.topics: list[bytes] = []
        self.payloads: list[bytes | None] = []
        self.acks: list[bytes] = []
        self._marks: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self.topics or self.acks)

    def add(self, topic: bytes, payload: bytes | None, marks: int) -> None:
        if marks:
            self._marks[len(self.topics)] = marks
        self.topics.append(topic)
        self.payloads.append(payload)

    def batch(self, size: int) -> Batch:
        marks = bytearray(len(self.topics) if self._marks else 0)
        for place, mark in self._marks.items():
            marks[place] = mark
        return Batch(Messages(self.topics, self.payloads, bytes(marks)), b"".join(self.acks), size)


class Frames:
    """Cuts the stream of one connection.

    is_v5: messages have properties. subscription_id: messages without it were KEPT, as they were queued for a
    subscription of an earlier connection; None marks nothing. open_ids: of messages with QoS 2 that are not released.
    """

    def __init__(self, *, is_v5: bool = False, subscription_id: int | None = None, open_ids: set[bytes] | None = None
                 ) -> None:
        self._is_v5 = is_v5
        self._subscription_id = subscription_id
        self._open_ids: set[bytes] = set() if open_ids is None else open_ids
        self._usual = b""
        """How the properties of most messages look, with their length."""
        if is_v5:
            self._usual = b"\0" if subscription_id is None else _identified(subscription_id)
        self._places: dict[bytes, Place] = {}
        self._rest = b""
        self._skip = 0

    def cut(self, data: bytes) -> Iterator[Batch | Packet]:
        """Return what is complete with these bytes, in order. The rest waits for more.

        Raises: FrameError, after everything that stood before the error.
        """
        if self._skip:
            dropped = min(self._skip, len(data))
            self._skip -= dropped
            data = data[dropped:]
        if self._rest:
            data = self._rest + data
        new = _New()
        start = at = 0
        end = len(data)
        is_v5, open_ids = self._is_v5, self._open_ids
        wrong = ""
        while end - at >= 2:
            head = data[at]
            if head in (PUBLISH, QOS_1):
                at = self._usual_ones(data, at, end, new)
                if end - at < 2:
                    break
                head = data[at]
            length = data[at + 1]
            body = at + 2
            if length > 127:
                if body == end:
                    break
                more = data[body]
                if more < 128:
                    length += (more << 7) - 128
                    body += 1
                else:
                    length, body = _length(data, at + 1, end)
                    if body <= 0:
                        wrong = "length" if body else ""
                        break
            stop = body + length
            if stop > end:
                if length > BODY_MAX:
                    if head & 0xF0 != PUBLISH:
                        wrong = "too long"
                        break
                    known = self._beginning(data, head, body, end, new.acks)
                    if known is not None:
                        new.add(known, None, head & 1)
                        self._skip, at = stop - end, end
                break
            if head & 0xF0 == PUBLISH:
                if length < 3:
                    wrong = "topic"
                    break
                name = body + 2
                value = end_of_name = name + (data[body] << 8 | data[body + 1])
                marks = head & 1
                if head & 6:
                    value += 2
                    packet_id = data[end_of_name:value]
                    if value > stop or head & 6 == 6:
                        wrong = "packet id"
                        break
                    if head & 4:
                        new.acks.append(_ACK[4] + packet_id)
                        if packet_id in open_ids:
                            at = stop
                            continue  # it was handed over when it came first
                        open_ids.add(packet_id)
                    else:
                        new.acks.append(_ACK[2] + packet_id)
                if is_v5:
                    value, kept = self._properties(data, value, stop)
                    if value < 0:
                        wrong = "properties"
                        break
                    marks |= kept
                if value > stop or name == end_of_name:  # an empty name stands for an alias, and we allow none
                    wrong = "topic"
                    break
                payload = data[value:stop] if length <= PAYLOAD_MAX or stop - value <= PAYLOAD_MAX else None
                new.add(data[name:end_of_name], payload, marks)
                at = stop
                continue
            if new:
                yield new.batch(at - start)
                new = _New()
            packet = data[body:stop]
            at = start = stop
            if head == PUBREL:
                open_ids.discard(packet[:2])
            yield Packet(head, packet)
        self._rest = data[at:] if at < end and not wrong else b""
        if new:
            yield new.batch(at - start)
        if wrong:
            raise FrameError(wrong)

    def _usual_ones(self, data: bytes, at: int, end: int, new: _New) -> int:
        """Take messages that are not retained, sent again or of QoS 2, nor long; return where they end.

        It takes nothing that the loop of `cut` would not take just so: this is what a million messages a second need.
        Where topic and payload stand follows from the first five bytes, and many messages begin with the same. Each is
        taken apart in one call, and all parts are one list: three slices, with their bounds, take twice as long.
        """
        places = self._places
        usual, size = self._usual, len(self._usual)
        parts: list[bytes] = []
        while True:
            beginning = data[at:at + 5]
            try:
                unpack, length = places[beginning]
            except KeyError:
                place = _place_of(beginning, size)
                if place is None:
                    break
                if len(places) >= PLACES_MAX:
                    places.clear()
                unpack, length = places[beginning] = place
            stop = at + length
            if stop > end:
                break
            message = unpack(data, at)
            if size and message[2] != usual:
                break
            parts += message
            at = stop
        if parts:
            each = 4 if size else 3
            new.topics += parts[::each]
            new.payloads += parts[each - 1::each]
            ids = list(filter(None, parts[1::each]))
            if ids:
                new.acks.append(_PUBACK + _PUBACK.join(ids))
        return at

    def _beginning(self, data: bytes, head: int, body: int, end: int, acks: list[bytes]) -> bytes | None:
        """Return the topic of a message that is too long to be kept, or None while too little of it is here."""
        if end - body < 2:
            return None
        name = body + 2
        value = name + (data[body] << 8 | data[body + 1])
        if value + 2 > end:
            return None
        if head & 6 in _ACK:
            acks.append(_ACK[head & 6] + data[value:value + 2])
            if head & 6 == 4:
                self._open_ids.add(data[value:value + 2])
        return data[name:value]

    def _properties(self, data: bytes, at: int, stop: int) -> tuple[int, int]:
        """Return where the properties of a message end, -1 if they are none, and KEPT or 0."""
        if at >= stop:
            return -1, 0
        size, value = _length(data, at, stop)
        end = value + size
        if value <= 0 or end > stop:
            return -1, 0
        if self._subscription_id is None:
            return end, 0
        try:
            return end, 0 if self._subscription_id in subscription_ids(data[value:end]) else KEPT
        except FrameError:
            return -1, 0


def _place_of(beginning: bytes, properties: int) -> Place | None:
    """Return what takes a message apart that begins so, None for one that is not of the usual kind.

    beginning: five bytes; properties: bytes of them, with their length.
    """
    if len(beginning) < 5 or beginning[0] not in (PUBLISH, QOS_1):
        return None
    length, body = _length(beginning, 1, 3)
    if body <= 0:
        return None
    name = body + 2
    topic = int.from_bytes(beginning[body:name], "big")
    packet_id = 2 if beginning[0] == QOS_1 else 0
    payload = body + length - name - topic - packet_id - properties
    if not topic or payload < 0:
        return None
    between = f"{properties}s" if properties else ""
    message = Struct(f"={name}x{topic}s{packet_id}s{between}{payload}s")
    return message.unpack_from, message.size


def _length(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read a length of up to four bytes. Returns it and where it ends: 0 if it is cut, -1 if it has no end."""
    length = shift = 0
    for here in range(at, min(at + 4, end)):
        byte = data[here]
        length |= (byte & 127) << shift
        if byte < 128:
            return length, here + 1
        shift += 7
    return 0, 0 if end < at + 4 else -1


def _identified(subscription_id: int) -> bytes:
    """Return the properties, with their length, of a message that has this subscription identifier and nothing else."""
    digits = bytearray()
    left = subscription_id
    while left > 127:
        digits.append(left & 127 | 128)
        left >>= 7
    digits.append(left)
    return bytes([1 + len(digits), _SUBSCRIPTION_ID]) + digits


_FIXED = {0x01: 1, 0x02: 4, 0x23: 2}
"""Properties of a PUBLISH with a fixed size: payload format, message expiry, topic alias."""
_TEXTS = {0x03: 1, 0x08: 1, 0x09: 1, 0x26: 2}
"""Properties of one or two texts: content type, response topic, correlation data, user property."""
_SUBSCRIPTION_ID = 0x0B


def subscription_ids(properties: bytes) -> list[int]:
    """Return the subscription identifiers among the properties of a PUBLISH. Raises FrameError."""
    found = []
    at, end = 0, len(properties)
    while at < end:
        kind = properties[at]
        at += 1
        if kind == _SUBSCRIPTION_ID:
            value, at = _length(properties, at, end)
            if at <= 0:
                raise FrameError("subscription identifier")
            found.append(value)
        elif kind in _FIXED:
            at += _FIXED[kind]
        elif kind in _TEXTS:
            for _ in range(_TEXTS[kind]):
                at += 2 + int.from_bytes(properties[at:at + 2], "big")
        else:
            raise FrameError("property")
    if at > end:
        raise FrameError("properties")
    return found
