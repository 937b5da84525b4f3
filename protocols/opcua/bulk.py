"""Whole messages to columns in a few numpy operations. The same answers as `codec.py`, which reads value by value.

A value on the wire is a DataValue (OPC 10000-6 5.2.2.17), in a notification behind its client handle:

    handle    mask  type  value     status    source time  ps    server time  ps
    UInt32    Byte  Byte  0..8 B    UInt32    Int64        UInt16  Int64      UInt16
              bit:  0     0         1         2            4       3          5        set where the field is there

    a String is          Int32 length (-1: null), then so many bytes of UTF-8

Mask and type say how long a value is, so two bytes of each value are its *key*. Three ways, tried in this order:

1. run: all keys are that of the first value, all values are equally long: the message is one structured array.
2. template: the keys stand where they stood in the last message, but for strings that are longer or shorter now: their
   lengths are read one after the other, the keys compared in one gather.
3. walk: step from key to key through a table of sizes, which makes the next template.

Then the values of one key are gathered as records, wherever they stand. What has no place in the table (arrays, times,
GUIDs, structures) is read by `codec.py` on the way, and makes no template. A message that ends before its last value,
or is anything else than it says, is read by `codec.py` from its start: what is said of a bad message is said there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.opcua import codec, columns
from protocols.opcua.codec import EXACT_INTEGER_MAX, TEXT_CHARS_MAX, Items, Publish, UndecodableError
from protocols.opcua.columns import Columns
from protocols.samples import fingerprint

NUMBERS = {1: "u1", 2: "i1", 3: "u1", 4: "<i2", 5: "<u2", 6: "<i4", 7: "<u4", 8: "<i8", 9: "<u8", 10: "<f4", 11: "<f8",
           19: "<u4"}
"""Built-in type -> numpy's name of its encoding."""
BOOLEAN, STRING, INTEGERS_64 = 1, 12, (8, 9)
BAD_DECODING_ERROR = 0x80070000
KNOWN_TEXTS_MAX = 4096
KNOWN_TEXT_BYTES_MAX = 200
FEW = 8
"""So few values are read one by one sooner than gathered."""

_MASKS = 0x40
_I32 = struct.Struct("<i")
_FAILURES = (UndecodableError, struct.error, IndexError)


@dataclass(frozen=True, slots=True)
class Layout:
    """Values of one key. record: from the handle on; of a string, what stands behind its bytes. fixed: bytes of a value
    without those of a string.
    """

    type_id: int
    has_status: bool
    has_ticks: bool
    has_server: bool
    record: np.dtype[Any]
    fixed: int


@cache
def _layout(key: int, prefix: int) -> Layout:
    """Return the layout of a key whose size the table has."""
    mask, type_id = key >> 8, key & 0xFF if key >> 8 & 0x01 else 0
    fields: list[tuple[str, str]] = []
    if type_id != STRING:
        fields = [("handle", "<u4")] * (prefix > 0) + [("mask", "u1")]
        if type_id:
            fields += [("type", "u1"), ("value", NUMBERS[type_id])]
    fields += [(name, kind) for bit, name, kind in (
        (0x02, "status", "<u4"), (0x04, "ticks", "<i8"), (0x10, "source_ps", "<u2"), (0x08, "server", "<i8"),
        (0x20, "server_ps", "<u2")) if mask & bit]
    record = np.dtype(fields)
    head = prefix + 6 if type_id == STRING else 0
    return Layout(type_id, bool(mask & 0x02), bool(mask & 0x04), bool(mask & 0x08), record, head + record.itemsize)


@cache
def _sizes(prefix: int) -> list[int]:
    """Return the size of a value by its key; negative for strings, whose bytes come on top; 0 for what codec reads."""
    sizes = [0] * 0x10000
    for mask in range(_MASKS):
        if mask & 0x01:
            for type_id in NUMBERS:
                sizes[mask << 8 | type_id] = _layout(mask << 8 | type_id, prefix).fixed
            sizes[mask << 8 | STRING] = -_layout(mask << 8 | STRING, prefix).fixed
        else:
            sizes[mask << 8:mask + 1 << 8] = [_layout(mask << 8, prefix).fixed] * 256
    return sizes


@dataclass(slots=True)
class Walked:
    """Where the values of a message stand, relative to the first. keys: -1 for what codec read, into `odd`.

    lengths: those of strings, 0 elsewhere; strings: their rows. size: of all values together. groups: (key, rows).
    """

    offsets: NDArray[np.int64]
    keys: NDArray[np.int32]
    strings: NDArray[np.int64]
    lengths: NDArray[np.int32]
    size: int
    odd: Items
    groups: list[tuple[int, NDArray[np.int64]]]


class Decoder:
    """Decodes the responses of one subscription, or of one Read that is sent again and again."""

    __slots__ = ("_known", "_template")
    is_fast = True
    """Whether messages are read whole; else value by value."""

    def __init__(self) -> None:
        self._template: Walked | None = None
        self._known: dict[bytes, tuple[float, str]] = {}

    def publish(self, body: bytes) -> tuple[Publish, Columns]:
        """Decode a PublishResponse; the items of the first are in the second. Raises UndecodableError."""
        parts: list[Columns] = []

        def take(data: bytes, at: int, end: int, _items: Items) -> None:
            parts.append(self._data_change(data, at, end))

        publish = codec.decode_publish(body, take)
        return publish, columns.joined(parts)

    def read(self, body: bytes) -> Columns:
        """Decode the results of a ReadResponse. Raises UndecodableError."""
        count, at = codec.read_results(body)
        found = self._values(body, at, len(body), count, 0) if count > FEW else None
        return columns.of(codec.decode_read(body)) if found is None else found

    def _data_change(self, body: bytes, at: int, end: int) -> Columns:
        count, first = codec.data_change_items(body, at, end)
        found = self._values(body, first, end, count, 4) if count > FEW else None
        if found is None:
            items = Items()
            codec.data_change(body, at, end, items)
            found = columns.of(items)
        return found

    def _values(self, body: bytes, at: int, end: int, count: int, prefix: int) -> Columns | None:
        """Return `count` values that begin at `at` and end before `end`; None where codec must read them."""
        if not self.is_fast:
            return None
        try:
            run = _run(body, at, end, count, prefix)
            if run is not None:
                return _of_run(*run)
            walked = _fitted(self._template, body, at, end, count, prefix)
            if walked is None:
                walked = _walk(body, at, end, count, prefix)
                self._template = None if walked.odd.value else walked
            return self._gathered(walked, body, at, prefix)
        except _FAILURES:
            return None

    def _gathered(self, walked: Walked, body: bytes, at: int, prefix: int) -> Columns:
        """Gather the values of each key as records, and put them where they belong."""
        n = walked.offsets.size
        offsets = walked.offsets + at
        value, status, ticks = np.full(n, np.nan), np.zeros(n, np.uint32), np.zeros(n, np.int64)
        server_ticks, type_id, texts = np.zeros(n, np.int64), np.zeros(n, np.uint8), []
        for key, rows in walked.groups:
            layout = _layout(key, prefix)
            starts = offsets[rows]
            if layout.type_id == STRING:
                lengths = walked.lengths[rows]
                starts = starts + (prefix + 6)
                found, told = self._texts(body, starts, lengths)
                starts = starts + np.maximum(lengths, 0)
                records = _records(body, layout.record, starts)
            else:
                records = _records(body, layout.record, starts)
                found, told = _numbers(layout, records)
            value[rows], type_id[rows] = found, layout.type_id
            if layout.has_status:
                status[rows] = records["status"]
            if layout.has_ticks:
                ticks[rows] = records["ticks"]
            if layout.has_server:
                server_ticks[rows] = records["server"]
            texts += [(int(rows[place]), text) for place, text in told]
        if walked.odd.value:
            rows = np.flatnonzero(walked.keys < 0)
            odd = columns.of(walked.odd)
            value[rows], status[rows], ticks[rows], type_id[rows] = odd.value, odd.status, odd.ticks, odd.type_id
            server_ticks[rows] = odd.server_ticks
            texts += [(int(rows[place]), text) for place, text in odd.texts]
        if len(walked.groups) > 1 or walked.odd.value:
            texts.sort()
        handle = _records(body, np.dtype("<u4"), offsets).astype(np.int64) if prefix else np.arange(n)
        return Columns(handle=handle, value=value, status=status, ticks=ticks, server_ticks=server_ticks,
                       type_id=type_id, texts=tuple(texts))

    def _texts(self, body: bytes, starts: NDArray[np.int64], lengths: NDArray[np.int32],
               ) -> tuple[NDArray[np.float64], list[tuple[int, str]]]:
        """Return the fingerprints and texts of strings; texts repeat, so those of short ones are remembered."""
        known, values, texts = self._known, [], []
        for place, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            if length < 0:
                values.append(np.nan)
                continue
            raw = body[start:start + length]
            made = known.get(raw)
            if made is None:
                made = (fingerprint(raw), raw[:TEXT_CHARS_MAX * 4].decode(errors="replace")[:TEXT_CHARS_MAX])
                if length <= KNOWN_TEXT_BYTES_MAX:
                    if len(known) >= KNOWN_TEXTS_MAX:
                        known.clear()
                    known[raw] = made
            values.append(made[0])
            texts.append((place, made[1]))
        return np.array(values, dtype=np.float64), texts


def read_all(answers: Sequence[tuple[int, Decoder, bytes]]) -> Columns:
    """Decode the ReadResponses of one list, in order: (how many values were asked, its decoder, its body).

    Where all are runs of one layout they are one. A row that cannot be read has a place, and no good value.
    Raises UndecodableError, also where a response has more or fewer values than were asked.
    """
    found = _one_run(answers) if Decoder.is_fast else None
    if found is not None:
        return found
    parts = []
    for count, decoder, body in answers:
        answer = decoder.read(body)
        if len(answer) + answer.undecodable != count:
            raise UndecodableError(f"{count} values asked, {len(answer) + answer.undecodable} answered")
        parts.append(_with_places(answer))
    return columns.joined(parts, handles_of_reads=True)


def _one_run(answers: Sequence[tuple[int, Decoder, bytes]]) -> Columns | None:
    """Return the values of all answers where every value has the key of the first; None where one has another."""
    parts: list[memoryview] = []
    total, first, size = 0, -1, 0
    for count, _, body in answers:
        announced, at = codec.read_results(body)
        if announced != count or len(body) < at + 2:
            return None
        key = body[at] << 8 | body[at + 1]
        if first < 0:
            first, size = key, _sizes(0)[key]
        if key != first or size <= 0 or at + count * size > len(body):
            return None
        parts.append(memoryview(body)[at:at + count * size])
        total += count
    if total <= FEW:
        return None
    run = _run(b"".join(parts), 0, total * size, total, 0)
    return None if run is None else _of_run(*run)


def _with_places(answer: Columns) -> Columns:
    if not answer.undecodable:
        return answer
    lacking = Items()
    for _ in range(answer.undecodable):
        lacking.add(0, float("nan"), BAD_DECODING_ERROR, 0, 0, None)
    return replace(columns.joined([answer, columns.of(lacking)]), undecodable=0)


def _run(body: bytes, at: int, end: int, count: int, prefix: int) -> tuple[Layout, NDArray[Any]] | None:
    """Return all values as records with their layout, where all have the first one's key."""
    key = body[at + prefix] << 8 | body[at + prefix + 1]
    size = _sizes(prefix)[key]
    if size <= 0 or at + count * size > end:
        return None
    layout = _layout(key, prefix)
    records = np.frombuffer(body, layout.record, count, at)
    if not (records["mask"] == key >> 8).all() or (layout.type_id and not (records["type"] == layout.type_id).all()):
        return None
    return layout, records


def _of_run(layout: Layout, records: NDArray[Any]) -> Columns:
    n = records.size
    value, texts = _numbers(layout, records)
    has_handle = "handle" in (layout.record.names or ())
    return Columns(
        handle=records["handle"].astype(np.int64) if has_handle else np.arange(n, dtype=np.int64),
        value=value, status=records["status"].astype(np.uint32) if layout.has_status else np.zeros(n, np.uint32),
        ticks=records["ticks"].astype(np.int64) if layout.has_ticks else np.zeros(n, np.int64),
        server_ticks=records["server"].astype(np.int64) if layout.has_server else np.zeros(n, np.int64),
        type_id=np.full(n, layout.type_id, np.uint8), texts=tuple(texts))


def _fitted(template: Walked | None, body: bytes, at: int, end: int, count: int, prefix: int) -> Walked | None:
    """Return the template, or one moved by strings of other lengths; None where a key stands elsewhere."""
    if template is None or count != template.offsets.size:
        return None
    walked, places = template, template.offsets[template.strings] + prefix + 2
    if places.size and at + template.size <= end:
        there = _records(body, np.dtype("<i4"), places + at)
        if not (there == template.lengths[template.strings]).all():
            walked = _moved(template, body, at, places)
    elif places.size:
        walked = _moved(template, body, at, places)
    if at + walked.size > end:
        return None
    keys = _records(body, np.dtype(">u2"), walked.offsets + (at + prefix))
    return walked if (keys == walked.keys).all() else None


def _moved(template: Walked, body: bytes, at: int, places: NDArray[np.int64]) -> Walked:
    """Return the template for strings as long as they are now. places: their lengths, relative to the first value."""
    read, shift = _I32.unpack_from, 0
    now: list[int] = []
    before = template.lengths[template.strings].tolist()
    for place, was in zip((places + at).tolist(), before, strict=True):
        length, = read(body, place + shift)
        now.append(length)
        shift += (length if length > 0 else 0) - (was if was > 0 else 0)
        if place + shift < 0:
            raise UndecodableError("before the message")
    lengths = np.zeros_like(template.lengths)
    lengths[template.strings] = now
    moves = np.zeros(template.offsets.size + 1, dtype=np.int64)
    moves[template.strings + 1] = (np.maximum(lengths, 0).astype(np.int64) - np.maximum(template.lengths, 0))[
        template.strings]
    return replace(template, offsets=template.offsets + np.cumsum(moves[:-1]), lengths=lengths,
                   size=template.size + shift)


def _walk(body: bytes, at: int, end: int, count: int, prefix: int) -> Walked:
    """Step from value to value. Raises what codec raises, and UndecodableError where the values do not fit."""
    sizes, start, data = _sizes(prefix), at, body[:end]
    offsets: list[int] = []
    keys: list[int] = []
    strings: list[int] = []
    string_bytes: list[int] = []
    odd = Items()
    for row in range(count):
        key = data[at + prefix] << 8 | data[at + prefix + 1]
        size = sizes[key]
        offsets.append(at - start)
        if size > 0:
            at += size
        elif size < 0:
            length, = _I32.unpack_from(data, at + prefix + 2)
            strings.append(row)
            string_bytes.append(length)
            at += (length if length > 0 else 0) - size
        else:
            at = codec.data_value(data, at + prefix, 0, odd)
            key = -1
        keys.append(key)
    if at > end:
        raise UndecodableError("values are cut")
    found, lengths = np.array(keys, dtype=np.int32), np.zeros(count, dtype=np.int32)
    lengths[strings] = string_bytes
    return Walked(
        offsets=np.array(offsets, dtype=np.int64), keys=found, strings=np.array(strings, dtype=np.int64),
        lengths=lengths, size=at - start, odd=odd,
        groups=[(key, np.flatnonzero(found == key)) for key in sorted({*keys} - {-1})])


def _records(body: bytes, record: np.dtype[Any], starts: NDArray[np.int64]) -> NDArray[Any]:
    """Return the record at each start. Every byte of the message is a possible start: a view with stride 1."""
    if record.itemsize == 0:
        return np.zeros(starts.size, record)
    raw = np.dtype((np.void, record.itemsize))
    everywhere: NDArray[Any] = np.ndarray((len(body) - record.itemsize + 1,), raw, body, 0, (1,))
    return everywhere[starts].view(record)


def _numbers(layout: Layout, records: NDArray[Any]) -> tuple[NDArray[np.float64], list[tuple[int, str]]]:
    """Return the values of records of one type, and the texts of integers that no float64 holds."""
    if not layout.type_id:
        return np.full(records.size, np.nan), []
    found = records["value"]
    if layout.type_id == BOOLEAN:
        return (found != 0).astype(np.float64), []
    with np.errstate(invalid="ignore"):  # a signalling NaN is one more NaN
        values = found.astype(np.float64)
    texts = []
    if layout.type_id in INTEGERS_64:
        for row in np.flatnonzero((found > EXACT_INTEGER_MAX) | (found < -EXACT_INTEGER_MAX)).tolist():
            whole = str(int(found[row]))
            values[row] = fingerprint(whole.encode())
            texts.append((row, whole))
    return values, texts
