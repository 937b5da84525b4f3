"""Notifications and read results, from the bytes of a message to values, one by one. Pure; no device library.

asyncua makes several Python objects per value and reads picoseconds in another order than the standard has them. This
decoder makes none, keeps the exact 100 ns source time, and loses one item, not the whole response, where a server sends
what it cannot read. Bytes come from outside: every length is checked before it is believed.

Source: OPC 10000-6 (1.05) 5.2.2 (binary encoding), OPC 10000-4 5.13.5 (Publish), 5.10.2 (Read).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import nan

from protocols.samples import fingerprint

READ_RESPONSE, PUBLISH_RESPONSE, REPUBLISH_RESPONSE = 634, 829, 835
DATA_CHANGE_NOTIFICATION, STATUS_CHANGE_NOTIFICATION = 811, 820
"""Numeric ids of the DefaultBinary encodings in namespace 0."""

EXACT_INTEGER_MAX = 2**53
NESTING_MAX = 100
"""OPC 10000-6 5.1.8: a decoder supports 100 levels; deeper is refused."""
AVAILABLE_MAX = 10_000
"""A server that keeps more messages than this keeps them for nobody."""
TEXT_CHARS_MAX = 500
"""Texts are for people; the fingerprint is of the whole value."""

TYPE_NAMES = (
    "Null", "Boolean", "SByte", "Byte", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float", "Double",
    "String", "DateTime", "Guid", "ByteString", "XmlElement", "NodeId", "ExpandedNodeId", "StatusCode",
    "QualifiedName", "LocalizedText", "ExtensionObject", "DataValue", "Variant", "DiagnosticInfo",
)
_BYTE_STRING = 15
_LAST_TYPE = 31  # 26 to 31 are reserved and read like a ByteString

_FIXED = {number: struct.Struct("<" + code) for number, code in
          {1: "?", 2: "b", 3: "B", 4: "h", 5: "H", 6: "i", 7: "I", 8: "q", 9: "Q", 10: "f", 11: "d", 13: "q", 14: "16s",
           19: "I"}.items()}
_EXACT = frozenset((1, 2, 3, 4, 5, 6, 7, 10, 11, 19))
_PLAIN, _PLAIN_END = frozenset((bytes(8), b"\0\xff\xff\xff\xff\0\0\0")), 28
"""What ends most ResponseHeaders, and where: no diagnostics, no texts of theirs, nothing additional."""
_U16, _I32, _U32, _I64 = (struct.Struct("<" + code) for code in "HiIq")


class UndecodableError(Exception):
    """The bytes are not what the standard says."""


@dataclass(slots=True)
class Items:
    """Values in the order of the message. Row i of every list is one value.

    handle: the client handle of a notification, the row itself for a read. ticks: source time, server_ticks: server
    time, 0 where absent. type_id: built-in type of the value, array or not. texts: (row, text) of what is
    fingerprinted. undecodable: how many further values were announced and could not be read.
    """

    handle: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    ticks: list[int] = field(default_factory=list)
    server_ticks: list[int] = field(default_factory=list)
    type_id: list[int] = field(default_factory=list)
    texts: list[tuple[int, str]] = field(default_factory=list)
    undecodable: int = 0

    def add(self, handle: int, value: float, status: int, ticks: int, type_id: int, text: str | None,
            server_ticks: int = 0) -> None:
        """Append one row."""
        if text is not None:
            self.texts.append((len(self.value), text))
        self.handle.append(handle)
        self.value.append(value)
        self.status.append(status)
        self.ticks.append(ticks)
        self.server_ticks.append(server_ticks)
        self.type_id.append(type_id)

    def extend(self, other: Items) -> None:
        """Append the results of a further Read of the same list."""
        base = len(self.value)
        self.texts += [(base + row, text) for row, text in other.texts]
        self.handle += [base + row for row in other.handle]
        self.value += other.value
        self.status += other.status
        self.ticks += other.ticks
        self.server_ticks += other.server_ticks
        self.type_id += other.type_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """One NotificationMessage. `items` is empty for a keep-alive; `closed_status` is set when the server ended the
    subscription. available: numbers of the messages that the server keeps until they are acknowledged.
    """

    subscription_id: int
    sequence_number: int
    is_keep_alive: bool
    items: Items
    closed_status: int | None
    available: tuple[int, ...] = ()


def decode_publish(body: bytes, take: Callable[[bytes, int, int, Items], None] | None = None) -> Publish:
    """Decode a PublishResponse. Raises UndecodableError when not even its frame can be read.

    take: reads each DataChangeNotification (message, start, end) in place of `data_change`; `items` stays empty then.
    """
    try:
        at = _header(body, PUBLISH_RESPONSE)
        subscription_id, = _U32.unpack_from(body, at)
        count, at = _count(body, at + 4, 4)
        available = struct.unpack_from(f"<{count}I", body, at) if count <= AVAILABLE_MAX else ()
        return _notification_message(body, at + 4 * count + 1, subscription_id, available, take or data_change)
    except (struct.error, IndexError) as error:
        raise UndecodableError(str(error)) from error


def decode_republish(body: bytes, subscription_id: int) -> Publish:
    """Decode a RepublishResponse, which does not repeat the subscription it belongs to."""
    try:
        return _notification_message(body, _header(body, REPUBLISH_RESPONSE), subscription_id, (), data_change)
    except (struct.error, IndexError) as error:
        raise UndecodableError(str(error)) from error


def read_results(body: bytes) -> tuple[int, int]:
    """Return how many results a ReadResponse announces, and where the first begins. Raises UndecodableError."""
    try:
        return _count(body, _header(body, READ_RESPONSE), 1)
    except (struct.error, IndexError) as error:
        raise UndecodableError(str(error)) from error


def decode_read(body: bytes) -> Items:
    """Decode the results of a ReadResponse; `handle` is the position in the request."""
    items = Items()
    count, at = read_results(body)
    for row in range(count):
        try:
            at = data_value(body, at, row, items)
        except (UndecodableError, struct.error, IndexError):
            items.undecodable = count - row
            break
    return items


def _notification_message(body: bytes, at: int, subscription_id: int, available: tuple[int, ...],
                          take: Callable[[bytes, int, int, Items], None]) -> Publish:
    sequence_number, = _U32.unpack_from(body, at)
    count, at = _count(body, at + 12, 3)
    items, closed_status = Items(), None
    for _ in range(count):
        type_id, start, at = _extension_object(body, at)
        if type_id == DATA_CHANGE_NOTIFICATION:
            take(body, start, at, items)
        elif type_id == STATUS_CHANGE_NOTIFICATION:
            closed_status, = _U32.unpack_from(body, start)
    return Publish(subscription_id=subscription_id, sequence_number=sequence_number, is_keep_alive=count == 0,
                   items=items, closed_status=closed_status, available=available)


def data_change(body: bytes, at: int, end: int, items: Items) -> None:
    """Append the items of the DataChangeNotification between `at` and `end`."""
    body = body[:end]
    count, at = data_change_items(body, at, end)
    for done in range(count):
        try:
            handle, = _U32.unpack_from(body, at)
            at = data_value(body, at + 4, handle, items)
        except (UndecodableError, struct.error, IndexError):
            # Items have no length of their own: after one that cannot be read, the rest cannot be found.
            items.undecodable += count - done
            return


def data_change_items(body: bytes, at: int, end: int) -> tuple[int, int]:
    """Return how many items a DataChangeNotification announces, and where the first begins; refuse what cannot fit."""
    count, = _I32.unpack_from(body, at)
    if at + 4 > end or count * 5 > end - at - 4:
        raise UndecodableError(f"{count} items do not fit")
    return max(count, 0), at + 4


def data_value(data: bytes, at: int, handle: int, items: Items) -> int:
    """Append one DataValue and return where it ends. Appends nothing when it raises."""
    mask = data[at]
    at += 1
    value, type_id, text = nan, 0, None
    if mask & 0x01:
        encoding = data[at]
        layout = _FIXED.get(encoding)
        if layout is not None and encoding in _EXACT:
            value, = layout.unpack_from(data, at + 1)
            type_id = encoding
            at += 1 + layout.size
        else:
            value, type_id, text, at = _variant(data, at)
    status = ticks = 0
    if mask & 0x02:
        status, = _U32.unpack_from(data, at)
        at += 4
    if mask & 0x04:
        ticks, = _I64.unpack_from(data, at)
        at += 8
    at += 2 if mask & 0x10 else 0  # source picoseconds come before the server time (5.2.2.17); none are used
    server_ticks = 0
    if mask & 0x08:
        server_ticks, = _I64.unpack_from(data, at)
        at += 8
    at += 2 if mask & 0x20 else 0
    if at > len(data):
        raise UndecodableError("DataValue is cut")
    items.add(handle, float(value), status, ticks, type_id, text, server_ticks)
    return at


def _variant(data: bytes, at: int) -> tuple[float, int, str | None, int]:
    """Return (value, type, text, end) of the Variant at `at`."""
    encoding = data[at]
    type_id = encoding & 0x3F
    if type_id > _LAST_TYPE:
        raise UndecodableError(f"type {type_id}")
    at += 1
    if not encoding & 0x80:
        end = _skip(data, at, type_id, 0)
        value, text = _scalar(data, at, end, type_id)
        return value, type_id, text, end
    count, first = _count(data, at, 0)
    end = _skip_elements(data, first, type_id, count, 0)
    after = _skip_fixed_array(data, end, 4) if encoding & 0x40 else end
    if count == 1:
        # What an index range of one element answers: the element itself.
        value, text = _scalar(data, first, end, type_id)
        return value, type_id, text, after
    return fingerprint(data[first:end]), type_id, f"{_type_name(type_id)}[{count}]", after


def _scalar(data: bytes, at: int, end: int, type_id: int) -> tuple[float, str | None]:
    """Return the value and, for what a float64 cannot hold, its text."""
    if type_id == 0:
        return nan, None
    if type_id in _EXACT:
        return float(_FIXED[type_id].unpack_from(data, at)[0]), None
    if type_id in (8, 9):
        whole: int = _FIXED[type_id].unpack_from(data, at)[0]
        if -EXACT_INTEGER_MAX <= whole <= EXACT_INTEGER_MAX:
            return float(whole), None
        return fingerprint(str(whole).encode()), str(whole)
    if type_id == 13:
        ticks: int = _I64.unpack_from(data, at)[0]
        return fingerprint(str(ticks).encode()), text_of_ticks(ticks)
    if type_id == 14:
        return fingerprint(data[at:end]), str(uuid.UUID(bytes_le=data[at:end]))
    if type_id in (12, 15, 16) or type_id > 25:
        if _I32.unpack_from(data, at)[0] < 0:
            return nan, None  # null, which is not the empty string
        raw = data[at + 4:end]
        shown = raw[:TEXT_CHARS_MAX * 4]
        text = shown.hex() if type_id == _BYTE_STRING or type_id > 25 else shown.decode(errors="replace")
        return fingerprint(raw), text[:TEXT_CHARS_MAX]
    if type_id in (20, 21):
        return fingerprint(data[at:end]), _name_text(data, at, type_id)[:TEXT_CHARS_MAX]
    return fingerprint(data[at:end]), _type_name(type_id)


def _name_text(data: bytes, at: int, type_id: int) -> str:
    """Return the words of a QualifiedName or LocalizedText whose bounds were checked already."""
    if type_id == 20:
        return _string(data, at + 2)
    mask = data[at]
    at += 1
    if mask & 0x01:
        at = _skip_string(data, at)
    return _string(data, at) if mask & 0x02 else ""


def _string(data: bytes, at: int) -> str:
    return data[at + 4:_skip_string(data, at)].decode(errors="replace")


def _type_name(type_id: int) -> str:
    return TYPE_NAMES[type_id] if type_id < len(TYPE_NAMES) else f"type {type_id}"


def text_of_ticks(ticks: int) -> str:
    """Return 100 ns ticks since 1601 as ISO 8601; the bare number where no calendar reaches."""
    try:
        return (datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks // 10)).isoformat()
    except OverflowError:
        return str(ticks)


# Finding the end of things. Every function checks that it stays inside the message.

def _skip(data: bytes, at: int, type_id: int, depth: int) -> int:
    """Return the end of one value of a built-in type."""
    if depth > NESTING_MAX:
        raise UndecodableError("nested too deeply")
    if (layout := _FIXED.get(type_id)) is not None:
        end = at + layout.size
    elif type_id == 0:
        end = at
    elif type_id in (12, 15, 16) or type_id > 25:
        end = _skip_string(data, at)
    elif type_id in (17, 18):
        end = _skip_node_id(data, at)
    elif type_id == 20:
        end = _skip_string(data, at + 2)
    elif type_id == 21:
        mask, end = data[at], at + 1
        for bit in (0x01, 0x02):
            end = _skip_string(data, end) if mask & bit else end
    elif type_id == 22:
        end = _extension_object(data, at)[2]
    elif type_id == 23:
        end = _skip_data_value(data, at, depth)
    elif type_id == 24:
        end = _skip_variant(data, at, depth)
    else:
        end = _skip_diagnostic_info(data, at, depth)
    if end > len(data):
        raise UndecodableError("value is cut")
    return end


def _skip_elements(data: bytes, at: int, type_id: int, count: int, depth: int) -> int:
    layout = _FIXED.get(type_id)
    if layout is not None or type_id == 0:
        end = at + count * (layout.size if layout else 0)
        if end > len(data):
            raise UndecodableError("array is cut")
        return end
    if count > len(data) - at:
        raise UndecodableError("array is cut")
    for _ in range(count):
        at = _skip(data, at, type_id, depth + 1)
    return at


def _skip_variant(data: bytes, at: int, depth: int) -> int:
    encoding = data[at]
    type_id = encoding & 0x3F
    if type_id > _LAST_TYPE:
        raise UndecodableError(f"type {type_id}")
    if not encoding & 0x80:
        return _skip(data, at + 1, type_id, depth + 1)
    count, at = _count(data, at + 1, 0)
    at = _skip_elements(data, at, type_id, count, depth)
    return _skip_fixed_array(data, at, 4) if encoding & 0x40 else at


def _skip_data_value(data: bytes, at: int, depth: int) -> int:
    mask = data[at]
    at += 1
    if mask & 0x01:
        at = _skip(data, at, 24, depth + 1)
    return at + sum(size for bit, size in ((2, 4), (4, 8), (8, 8), (16, 2), (32, 2)) if mask & bit)


def _skip_diagnostic_info(data: bytes, at: int, depth: int) -> int:
    mask = data[at]
    at += 1 + 4 * (mask & 0x0F).bit_count()
    if mask & 0x10:
        at = _skip_string(data, at)
    if mask & 0x20:
        at += 4
    return _skip(data, at, 25, depth + 1) if mask & 0x40 else at


def _skip_string(data: bytes, at: int) -> int:
    length, = _I32.unpack_from(data, at)
    end = at + 4 + max(length, 0)
    if end > len(data):
        raise UndecodableError("string is cut")
    return int(end)


def _skip_node_id(data: bytes, at: int) -> int:
    encoding = data[at]
    form = encoding & 0x3F
    if form in (3, 5):
        end = _skip_string(data, at + 3)
    elif form in (0, 1, 2, 4):
        end = at + {0: 2, 1: 4, 2: 7, 4: 19}[form]
    else:
        raise UndecodableError(f"node id form {form}")
    if encoding & 0x80:
        end = _skip_string(data, end)
    return end + 4 if encoding & 0x40 else end


def _extension_object(data: bytes, at: int) -> tuple[int, int, int]:
    """Return (numeric type id in namespace 0, or -1; start of the body; end) of an ExtensionObject."""
    form = data[at]
    type_id = -1
    if form == 0:
        type_id = data[at + 1]
    elif form == 1 and data[at + 1] == 0:
        type_id, = _U16.unpack_from(data, at + 2)
    elif form == 2 and _U16.unpack_from(data, at + 1)[0] == 0:
        type_id, = _U32.unpack_from(data, at + 3)
    at = _skip_node_id(data, at)
    has_body = data[at]
    if has_body == 0:
        return type_id, at + 1, at + 1
    if has_body not in (1, 2):
        raise UndecodableError(f"extension object encoding {has_body}")
    return type_id, at + 5, _skip_string(data, at + 1)


def _count(data: bytes, at: int, element_bytes_min: int) -> tuple[int, int]:
    """Return (count, start of the first element); a count that cannot fit in the rest of the message is refused."""
    count, = _I32.unpack_from(data, at)
    at += 4
    if count * element_bytes_min > len(data) - at:
        raise UndecodableError(f"array of {count} does not fit")
    return max(count, 0), at


def _skip_fixed_array(data: bytes, at: int, size: int) -> int:
    count, at = _count(data, at, size)
    return at + count * size


def _header(body: bytes, wanted: int) -> int:
    """Check the type of a response and step over its ResponseHeader. A ServiceFault is the caller's to see first."""
    if body[20:_PLAIN_END] in _PLAIN and body[:4] == b"\x01\0" + _U16.pack(wanted):
        return _PLAIN_END
    start = _skip_node_id(body, 0)
    type_id = _U16.unpack_from(body, 2)[0] if body[0] == 1 else _U32.unpack_from(body, 3)[0] if body[0] == 2 else -1
    if type_id != wanted:
        raise UndecodableError(f"message type {type_id}, expected {wanted}")
    at = _skip(body, start + 16, 25, 0)
    count, at = _count(body, at, 4)
    for _ in range(count):
        at = _skip_string(body, at)
    return _extension_object(body, at)[2]
