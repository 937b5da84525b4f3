"""Turns the bytes of replies into float64 columns. Pure; numpy; no loop over points but for strings.

All byte and word orders become one table of byte positions when the plan is made, so that the replies of a whole poll
cost one gather and one conversion for each type they hold: how many points or replies there are makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from protocols.modbus.plan import Request
from protocols.modbus.target import BIT_TABLES, ModbusPoint
from protocols.samples import fingerprint

EXACT_MAX = 2**53
"""Up to here a float64 holds every integer."""

_FORM: dict[str, tuple[str, int]] = {
    "coil": ("u1", 1), "bit": ("<u2", 2), "bool": ("<u2", 2), "int8": ("i1", 1), "uint8": ("u1", 1),
    "int16": ("<i2", 2), "uint16": ("<u2", 2), "int32": ("<i4", 4), "uint32": ("<u4", 4), "int64": ("<i8", 8),
    "uint64": ("<u8", 8), "float32": ("<f4", 4), "float64": ("<f8", 8), "bcd16": ("u1", 2), "bcd32": ("u1", 4),
}
"""How gathered bytes are read, and how many a value has. They are gathered least significant first, as processors
hold them; digits of BCD most significant first."""

@dataclass(frozen=True, slots=True)
class Text:
    """A value that no float64 holds: which point, its text for people, its stand-in for counting."""

    point_index: int
    value: float
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What one reply held.

    value: float64, shape (n,), n = numeric points of the block. missing: int64 positions in the block without a value.
    texts: strings, bytes, and integers beyond EXACT_MAX (which are missing in `value`).
    undecodable: how many of the missing had bytes that are no value of their type (BCD digits above 9).
    """

    value: NDArray[np.float64]
    missing: NDArray[np.int64]
    texts: tuple[Text, ...]
    undecodable: int


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """n points of one type. at: positions in the column, a slice where they follow each other.

    gather: n * bytes positions in the data. bit: for coils and bits of registers, shape (n,).
    """

    kind: str
    at: NDArray[np.int64] | slice
    gather: NDArray[np.int64]
    bit: NDArray[np.uint16]

    def positions(self, picked: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the positions in the column of some of these points."""
        if isinstance(self.at, slice):
            found: NDArray[np.int64] = np.flatnonzero(picked) + self.at.start
            return found
        return self.at[picked]


class BlockCodec:
    """How the data of one reply, or of several in a row, become values: made once for each plan.

    numeric: int64, shape (n,), point slots in the order of `Decoded.value`. Strings and bytes are not among them.
    size: bytes of data that `decode` takes.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        """Prepare for the data of the replies to these reads, joined in this order."""
        sizes = [request.data_size for request in requests]
        *starts, self.size = accumulate(sizes, initial=0)
        places = [(point, start, request.address)
                  for request, start in zip(requests, starts, strict=True) for point in request.points]
        numeric = [place for place in places if not place[0].is_text]
        self.numeric: NDArray[np.int64] = np.array([point.point_index for point, _, _ in numeric], dtype=np.int64)
        self._texts = [(point, start + _text_bytes(point, address))
                       for point, start, address in places if point.is_text]
        kinds: dict[str, list[int]] = {}
        for i, (point, _, _) in enumerate(numeric):
            kinds.setdefault(_kind(point), []).append(i)
        self._groups = [_group(kind, at, [numeric[i] for i in at]) for kind, at in kinds.items()]
        scaled = [(i, point) for i, (point, _, _) in enumerate(numeric) if point.is_scaled]
        self._scaled = np.array([i for i, _ in scaled], dtype=np.int64)
        self._is_scaled = np.array([point.is_scaled for point, _, _ in numeric], dtype=bool)
        self._scale = np.array([point.scale for _, point in scaled], dtype=np.float64)
        self._offset = np.array([point.offset for _, point in scaled], dtype=np.float64)

    def decode(self, data: bytes) -> Decoded:
        """Decode replies whose lengths were checked. data: their data bytes. ValueError if not `size` of them."""
        if len(data) != self.size:
            raise ValueError(f"{len(data)} bytes of data, {self.size} were asked for")
        with np.errstate(invalid="ignore", over="ignore"):  # a signalling NaN, or what its scale makes infinite
            return self._decoded(data)

    def _decoded(self, data: bytes) -> Decoded:
        raw = np.frombuffer(data, dtype=np.uint8)
        value = np.zeros(self.numeric.size, dtype=np.float64)
        missing: list[NDArray[np.int64]] = []
        texts = [Text(p.point_index, fingerprint(held), shown)
                 for p, at in self._texts for held, shown in (_text(p.address.type, raw[at].tobytes()),)]
        undecodable = 0
        for group in self._groups:
            form, size = _FORM[group.kind]
            numbers: NDArray[np.generic] = raw.take(group.gather, mode="clip").view(form)  # all inside: `size` holds
            if group.kind in ("bcd16", "bcd32"):
                value[group.at], bad = _bcd(numbers.view(np.uint8).reshape(-1, size))
                undecodable += int(bad.sum())
                missing.append(group.positions(bad))
            elif group.kind in ("coil", "bit"):
                value[group.at] = (numbers.view(form) >> group.bit) & 1
            elif group.kind == "bool":
                value[group.at] = numbers != 0
            else:
                value[group.at] = numbers
                if group.kind in ("int64", "uint64"):
                    large = self._large(group, numbers.view(form))
                    if large.any():
                        at = group.positions(large)
                        texts += _large(self.numeric[at], numbers[large].tolist())
                        missing.append(at)
        if self._scaled.size:
            value[self._scaled] = value[self._scaled] * self._scale + self._offset
        gone = np.sort(np.concatenate(missing)) if missing else _NONE
        return Decoded(value, gone, tuple(texts), undecodable)

    def _large(self, group: _Group, integers: NDArray[np.int64] | NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which integers no float64 holds. A scaled value is a float by the user's own wish."""
        large: NDArray[np.bool_] = integers > EXACT_MAX
        if group.kind == "int64":
            large |= integers < -EXACT_MAX
        large &= ~self._is_scaled[group.at]
        return large


_NONE = np.zeros(0, dtype=np.int64)


def _kind(point: ModbusPoint) -> str:
    if point.address.table in BIT_TABLES:
        return "coil"
    return point.address.type if point.address.bit is None else "bit"


def _group(kind: str, at: Sequence[int], places: Sequence[tuple[ModbusPoint, int, int]]) -> _Group:
    """Return the points of one kind; a place is a point, where its reply begins in the data, and at which address."""
    if kind == "coil":
        offsets = [point.address.address - address for point, _, address in places]
        rows = [[start + offset // 8] for (_, start, _), offset in zip(places, offsets, strict=True)]
        bits = [offset % 8 for offset in offsets]
    else:
        order = 1 if kind.startswith("bcd") else -1
        rows = [[start + byte for byte in _number_bytes(point, address)[::order]] for point, start, address in places]
        bits = [point.address.bit or 0 for point, _, _ in places]
    is_run = list(at) == list(range(at[0], at[0] + len(at)))
    return _Group(kind, slice(at[0], at[0] + len(at)) if is_run else np.array(at, dtype=np.int64),
                  np.array(rows, dtype=np.int64).ravel(), np.array(bits, dtype=np.uint16))


def _number_bytes(point: ModbusPoint, start: int) -> list[int]:
    """Return where the bytes of this value lie in the reply to a read from `start`, most significant first."""
    address = point.address
    words = list(range(address.size))
    if point.order in ("CDAB", "DCBA"):
        words.reverse()
    first, second = (1, 0) if point.order in ("BADC", "DCBA") else (0, 1)
    byte = 2 * (address.address - start)
    places = [byte + 2 * word + half for word in words for half in (first, second)]
    return places[-_FORM[address.type][1]:]  # an 8-bit value is the low byte of its register


def _text_bytes(point: ModbusPoint, start: int) -> NDArray[np.int64]:
    """Return where the bytes of a text lie, in reading order. Words of a text are never swapped, bytes may be."""
    swap = 1 if point.order in ("BADC", "DCBA") else 0
    byte = 2 * (point.address.address - start)
    return np.array([byte + (i ^ swap) for i in range(2 * point.address.size)], dtype=np.int64)


def _text(kind: str, held: bytes) -> tuple[bytes, str]:
    """Return (what counts, what people read). A string ends at its first NUL; padding behind it is no value."""
    if kind == "bytes":
        return held, held.hex()
    held = held.split(b"\0", 1)[0].rstrip(b" ")
    for encoding in ("utf-8", "gb18030"):  # many Chinese panels write GBK
        try:
            return held, held.decode(encoding)
        except UnicodeDecodeError:
            continue
    return held, held.decode("latin-1")


def _bcd(digits: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Decode packed decimal digits, two a byte. Return values and which rows hold a digit above 9."""
    high, low = digits >> 4, digits & 0x0F
    value = np.zeros(digits.shape[0], dtype=np.float64)
    for column in range(digits.shape[1]):
        value = value * 100 + high[:, column] * 10 + low[:, column]
    bad: NDArray[np.bool_] = np.logical_or.reduce((high > 9) | (low > 9), axis=1)
    value[bad] = 0.0
    return value, bad


def _large(points: NDArray[np.int64], integers: Iterable[int]) -> list[Text]:
    return [Text(point, fingerprint(str(integer).encode("ascii")), str(integer))
            for point, integer in zip(points.tolist(), integers, strict=True)]
