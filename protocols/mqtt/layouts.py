"""Sparkplug data that looks like the data before: read from its bytes, without an object for every metric. Pure.

Between two births an edge node writes a metric always the same way; only its time and its value differ:

    0x12  length                of one metric, one byte
      0x10  alias               one or two bytes; or 0x0A length name
      0x18  time                six bytes, milliseconds from 2004 to 2109
      0x20  data type           one byte; may be missing
      0x69  value               eight bytes, double; or 0x65, four bytes, float; or 0x70, one byte, a switch

`learn` notes how the metrics of a message are written that protobuf has read. The next message is then read in one of
three ways. Where all metrics are doubles that take as many bytes, they are the rows of a table of bytes, whichever they
are and in whatever order. Where a message is laid out like a whole one before, byte for byte but for times and values,
these are taken from where they stand. Else metrics are found by their tags and told apart by their aliases. What is not
known, and what is not written in the shortest way, integers and texts too, is left to protobuf, so both find the same.

Source: Eclipse Sparkplug Specification 3.0.0, section 6.4; Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocols.mqtt.births import AliasTable, Binding
from protocols.mqtt.values import BOOLEAN, DOUBLE, FLOAT

METRICS_MAX = 20_000
"""Metrics of one message; with more of them it is refused."""

TIME_BYTES = 6
TEMPLATES_MAX = 8
"""Whole messages that are kept of one device, by their length."""

_DOUBLE, _FLOAT, _SWITCH = 0x69, 0x65, 0x70
_WIDTH = {_DOUBLE: 8, _FLOAT: 4, _SWITCH: 1}
_NS_PER_MS = 1_000_000
_WEIGHTS = np.int64(1) << (7 * np.arange(TIME_BYTES, dtype=np.int64))
_MORE = np.array([128] * (TIME_BYTES - 1) + [0], dtype=np.uint8)
_SIX, _EIGHT = np.arange(TIME_BYTES), np.arange(8)
_SHORT_HEAD = np.uint32(0x00FF_FFFF)
"""An alias of one byte leaves the fourth of the first four bytes to the time."""


class _Known(NamedTuple):
    """How one metric is written.

    head: how many bytes lead to its time. rest: those between time and value. kind: the tag of the value.
    point: -1 if the ledger has none.
    """

    head: int
    rest: bytes
    kind: int
    point: int


class Block(NamedTuple):
    """The metrics of one message that the ledger has. All shapes (n,). unknown: how many it has not.

    table: the birth by which they were read; by another one they mean something else.
    """

    table: AliasTable
    sent_ms: int
    seq: int
    points: NDArray[np.int64]
    source_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    unknown: int


@dataclass(frozen=True, slots=True, eq=False)
class _Template:
    """A whole message whose values are doubles.

    mask, same: words of eight bytes, of which these bits always are the same. tail: place and byte of what always is so
    behind the last whole word. times: of n metrics, shape (n, 6); values: shape (n, 8). wanted: metrics of the ledger,
    None if all of them are.
    """

    mask: NDArray[np.uint64]
    same: NDArray[np.uint64]
    tail: tuple[tuple[int, int], ...]
    times: NDArray[np.int64]
    values: NDArray[np.int64]
    seq_at: int
    wanted: NDArray[np.int64] | None
    points: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Aliases:
    """Metrics by alias. Row i of every column is one of them, in the order of `heads`; shapes (n,).

    heads: their first bytes, low byte first. rest_word: the bytes between time and value, of which rest_mask are.
    alike: the one way in which all of them are written, None if there are several.
    """

    heads: NDArray[np.uint32]
    head: NDArray[np.int64]
    rest: NDArray[np.int64]
    rest_word: NDArray[np.uint32]
    rest_mask: NDArray[np.uint32]
    kind: NDArray[np.uint8]
    width: NDArray[np.int64]
    point: NDArray[np.int64]
    alike: _Known | None

    @classmethod
    def of(cls, known: dict[bytes, _Known]) -> _Aliases | None:
        """Return those that have an alias and not more than four bytes of rest; None if there are none."""
        rows = sorted((int.from_bytes(head, "little"), one) for head, one in known.items()
                      if head[0] == 0x10 and len(one.rest) <= 4)
        if not rows:
            return None
        ones = [one for _, one in rows]
        return cls(
            np.array([head for head, _ in rows], dtype=np.uint32), np.array([one.head for one in ones]),
            np.array([len(one.rest) for one in ones]),
            np.array([int.from_bytes(one.rest, "little") for one in ones], dtype=np.uint32),
            np.array([(1 << 8 * len(one.rest)) - 1 for one in ones], dtype=np.uint32),
            np.array([one.kind for one in ones], dtype=np.uint8), np.array([_WIDTH[one.kind] for one in ones]),
            np.array([one.point for one in ones], dtype=np.int64),
            ones[0] if len({one[:3] for one in ones}) == 1 and ones[0].kind == _DOUBLE else None)


@dataclass(slots=True)
class Layouts:
    """How the data of one node or device is written, as long as its birth is in force."""

    table: AliasTable
    _known: dict[bytes, _Known] = field(default_factory=dict)
    _aliases: _Aliases | None = None
    _templates: dict[int, _Template] = field(default_factory=dict)
    _misses: int = 0
    _walks: int = 0

    def read(self, payload: bytes) -> Block | None:
        """Return what a message holds, None if protobuf has to read it."""
        if self._aliases is None:
            return None
        template = self._templates.get(len(payload))
        if template is not None:
            block = self._by_template(template, payload)
            if block is not None:
                return block
            del self._templates[len(payload)]  # of another message that happens to be as long
        if self._aliases.alike is not None:
            block = self._by_rows(self._aliases, self._aliases.alike, payload)
            if block is not None:
                return block
        return self._by_alias(self._aliases, payload)

    def _by_rows(self, aliases: _Aliases, alike: _Known, payload: bytes) -> Block | None:
        end = len(payload) - (2 if payload[-2:-1] == b"\x18" else 3)
        first = 1 + TIME_BYTES
        size = alike.head + TIME_BYTES + len(alike.rest) + 8
        if size > 127 or end <= first or (end - first) % (2 + size) or payload[0] != 0x08:
            return None
        seq = _seq(payload, end)
        raw = np.frombuffer(payload, dtype=np.uint8)
        rows = raw[first:end].reshape(-1, 2 + size)
        time_at = 2 + alike.head
        rest_at = time_at + TIME_BYTES
        if seq is None or len(rows) > METRICS_MAX or (rows[:, :2] != np.array((0x12, size), np.uint8)).any() \
                or (rows[:, rest_at:-8] != np.frombuffer(alike.rest, np.uint8)).any():
            return None
        heads = np.ascontiguousarray(rows[:, 2:6]).view("<u4")[:, 0]
        if alike.head == 3:
            heads = heads & _SHORT_HEAD
        row = aliases.heads.searchsorted(heads)
        if (aliases.heads.take(row, mode="clip") != heads).any():
            return None
        source_ns, sent_ns = _times(rows[:, time_at:rest_at]), _time(payload[1:first])
        if source_ns is None or not sent_ns:
            return None
        points = aliases.point[row]
        values = np.ascontiguousarray(rows[:, -8:]).view("<f8")[:, 0]
        wanted = None if points.min() >= 0 else np.flatnonzero(points >= 0)
        if wanted is not None:
            points = points[wanted]
        starts = np.arange(first, end, 2 + size)[:, None]
        self._keep(raw, lambda: (starts + time_at + _SIX, starts + (size - 6) + _EIGHT), end, wanted, points)
        return self._block(seq, sent_ns // _NS_PER_MS, source_ns, values, wanted, points)

    def _by_template(self, template: _Template, payload: bytes) -> Block | None:
        seq = _seq(payload, template.seq_at)
        words = np.frombuffer(payload, dtype="<u8", count=len(payload) // 8)
        if seq is None or ((words & template.mask) != template.same).any() \
                or any(payload[at] != byte for at, byte in template.tail):
            return None
        raw = np.frombuffer(payload, dtype=np.uint8)
        source_ns, sent_ns = _times(raw[template.times]), _time(payload[1:1 + TIME_BYTES])
        if source_ns is None or not sent_ns:
            return None
        return self._block(seq, sent_ns // _NS_PER_MS, source_ns, raw[template.values].view("<f8")[:, 0],
                           template.wanted, template.points)

    def _block(self, seq: int, sent_ms: int, source_ns: NDArray[np.int64], values: NDArray[np.float64],
               wanted: NDArray[np.int64] | None, points: NDArray[np.int64]) -> Block:
        """Return what is wanted of these metrics. points: of those wanted."""
        if wanted is None:
            return Block(self.table, sent_ms, seq, points, source_ns, values, 0)
        return Block(self.table, sent_ms, seq, points, source_ns[wanted], values[wanted], values.size - wanted.size)

    def _by_alias(self, aliases: _Aliases, payload: bytes) -> Block | None:
        end = len(payload) - (2 if payload[-2:-1] == b"\x18" else 3)
        if end < 1 + TIME_BYTES + 16 or payload[0] != 0x08:
            return None
        seq = _seq(payload, end)
        if seq is None:
            return None
        raw = np.frombuffer(payload, dtype=np.uint8)
        starts = np.flatnonzero((raw[:end - 2] == 0x12) & (raw[2:end] == 0x10))
        length = raw[starts + 1].astype(np.int64)
        # These are the metrics, and nothing else, if the first comes behind the time and each where the last one ends.
        stops = starts + 2 + length
        if (not starts.size or starts.size > METRICS_MAX or starts[0] != 1 + TIME_BYTES or stops[-1] != end
                or (length > 127).any() or (starts[1:] != stops[:-1]).any()):
            return None
        starts += 2
        words = _words(raw, starts)
        words = np.where(words & 0x8000, words, words & _SHORT_HEAD)
        row = np.searchsorted(aliases.heads, words)
        row[row == aliases.heads.size] = 0
        if (aliases.heads[row] != words).any():
            return None
        time_at = starts + aliases.head[row]
        rest_at = time_at + TIME_BYTES
        value_at = rest_at + aliases.rest[row]
        if (value_at + aliases.width[row] != stops).any() \
                or ((_words(raw, rest_at) & aliases.rest_mask[row]) != aliases.rest_word[row]).any():
            return None
        times_at = time_at[:, None] + _SIX
        source_ns, sent_ns = _times(raw[times_at]), _time(payload[1:1 + TIME_BYTES])
        if source_ns is None or not sent_ns:
            return None
        kind = aliases.kind[row]
        all_doubles = bool((kind == _DOUBLE).all())
        values_at = value_at[:, None] + _EIGHT
        if all_doubles:
            values = raw[values_at].view("<f8")[:, 0]
        else:
            mixed = _mixed(raw, kind, value_at)
            if mixed is None:
                return None
            values = mixed
        points = aliases.point[row]
        wanted = None if points.min() >= 0 else np.flatnonzero(points >= 0)
        if wanted is not None:
            points = points[wanted]
        if all_doubles:
            self._keep(raw, lambda: (times_at, values_at), end, wanted, points)
        return self._block(seq, sent_ns // _NS_PER_MS, source_ns, values, wanted, points)

    def _keep(self, raw: NDArray[np.uint8], places: Callable[[], tuple[NDArray[np.int64], NDArray[np.int64]]],
              seq_at: int, wanted: NDArray[np.int64] | None, points: NDArray[np.int64]) -> None:
        """Make a template of a message: of the first, second, fourth that had none, and so on.

        places: returns where its times and its values stand.
        """
        self._walks += 1
        if not _is_turn(self._walks):
            return
        times_at, values_at = places()
        if len(self._templates) >= TEMPLATES_MAX:
            self._templates.clear()
        mask = np.full(raw.size, 0xFF, dtype=np.uint8)
        mask[1:1 + TIME_BYTES] = mask[times_at] = mask[values_at] = mask[seq_at + 1:] = 0
        whole = raw.size // 8 * 8
        words = mask[:whole].view("<u8")
        tail = tuple((at, int(raw[at])) for at in range(whole, raw.size) if mask[at])
        self._templates[raw.size] = _Template(words, raw[:whole].view("<u8") & words, tail, times_at, values_at, seq_at,
                                              wanted, points)

    def learn(self, payload: bytes) -> None:
        """Note how the metrics of a message are written that protobuf has read: the first, second, fourth, and so on.

        Learning costs more than reading, so a node that writes every message another way gets few chances.
        """
        self._misses += 1
        if not _is_turn(self._misses):
            return
        for number, body in _fields(payload):
            if number == 2 and isinstance(body, bytes):
                learnt = _learnt(body, self.table)
                if learnt is not None:
                    self._known[body[:learnt.head]] = learnt
        self._aliases = _Aliases.of(self._known)


def _words(raw: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return four bytes from each of these places, low byte first; shape (n,). Behind the end stands the last byte."""
    found: NDArray[np.uint32] = raw.take(at[:, None] + _EIGHT[:4], mode="clip").view("<u4")[:, 0]
    return found


def _mixed(raw: NDArray[np.uint8], kind: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return values of several types, None if a switch is neither on nor off."""
    values = np.empty(kind.size)
    for tag, dtype in ((_DOUBLE, "<f8"), (_FLOAT, "<f4"), (_SWITCH, "u1")):
        rows = np.flatnonzero(kind == tag)
        if rows.size:
            found = raw[at[rows][:, None] + _EIGHT[:_WIDTH[tag]]].view(dtype)[:, 0]
            if tag == _SWITCH and found.max() > 1:
                return None
            values[rows] = found
    return values


def _is_turn(number: int) -> bool:
    """Whether this is 1, 2, 4, 8 and so on."""
    return number & (number - 1) == 0


def _times(times: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """Return times of shape (n, 6) in ns; None if one of them is not written in six bytes."""
    n = len(times)
    written = times.tobytes()
    if written == written[:TIME_BYTES] * n:  # nearly always: an edge node looks at its clock once a message
        time_ns = _time(written[:TIME_BYTES])
        return np.full(n, time_ns, dtype=np.int64) if time_ns else None
    if ((times & 128) != _MORE).any() or not times[:, -1].all():
        return None
    found: NDArray[np.int64] = (times & 127) @ _WEIGHTS
    return found * _NS_PER_MS


def _time(six: bytes) -> int:
    """Return one time in ns, 0 if it is not six bytes of which five go on and the last is not zero."""
    a, b, c, d, e, last = six
    if a & b & c & d & e & 128 == 0 or not 0 < last < 128:
        return 0
    return (a & 127 | (b & 127) << 7 | (c & 127) << 14 | (d & 127) << 21 | (e & 127) << 28 | last << 35) * _NS_PER_MS


def _seq(payload: bytes, at: int) -> int | None:
    """Return the sequence number at the end of a message, None if something else is there."""
    last = len(payload) - 1
    if payload[at] != 0x18 or payload[last] > 127:
        return None
    if at + 1 == last:
        return payload[last]
    if at + 2 == last and payload[at + 1] > 127 and payload[last] == 1:
        return payload[at + 1]
    return None


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield number and content of each field of a message that protobuf has read: an integer, or its bytes."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            number, at = _varint(message, at)
            yield tag >> 3, number
            continue
        size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, end), at)
        yield tag >> 3, message[at:at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(message):
        byte = message[at]
        number |= (byte & 127) << shift
        at += 1
        if byte < 128:
            break
        shift += 7
    return number, at


def _learnt(metric: bytes, table: AliasTable) -> _Known | None:
    """Return how a metric is written, None if it is not written as in the drawing above."""
    binding: Binding | None = None
    if metric[:1] == b"\x10":
        alias, at = _varint(metric, 1)
        if at > 3:
            return None
        binding = table.by_alias.get(alias)
    elif metric[:1] == b"\x0a" and len(metric) > 1 and 0 < metric[1] < 128:
        at = 2 + metric[1]
        binding = table.by_name.get(metric[2:at].decode("utf-8", "replace"))
    if binding is None or binding.is_own or metric[at:at + 1] != b"\x18":
        return None
    head = at + 1
    rest = head + TIME_BYTES
    datatype, at = binding.datatype, rest
    if metric[rest:rest + 1] == b"\x20":
        sent, at = _varint(metric, rest + 1)
        datatype = sent or datatype
    kind = metric[at] if at < len(metric) else 0
    if not {_DOUBLE: datatype in (FLOAT, DOUBLE), _FLOAT: datatype in (FLOAT, DOUBLE),
            _SWITCH: datatype == BOOLEAN}.get(kind, False):
        return None
    return _Known(head, metric[rest:at + 1], kind, -1 if binding.point_index is None else binding.point_index)
