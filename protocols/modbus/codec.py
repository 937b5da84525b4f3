"""Turns the bytes of one reply into float64 columns. Pure; numpy; no loop over points but for strings.

All byte and word orders become one table of byte positions when the plan is made, so that a reply costs one gather
and one conversion for each type it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocols.modbus.target import BIT_TABLES, ModbusPoint
from protocols.samples import fingerprint

EXACT_MAX = 2**53
"""Up to here a float64 holds every integer."""

_BIG_ENDIAN: dict[str, tuple[str, int]] = {
    "bool": (">u2", 2), "int8": ("i1", 1), "uint8": ("u1", 1), "int16": (">i2", 2), "uint16": (">u2", 2),
    "int32": (">i4", 4), "uint32": (">u4", 4), "int64": (">i8", 8), "uint64": (">u8", 8),
    "float32": (">f4", 4), "float64": (">f8", 8), "bcd16": ("bcd", 2), "bcd32": ("bcd", 4),
}


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
    """Points of one type. at: positions in the block. gather: byte positions in the reply, most significant first."""

    kind: str
    at: NDArray[np.int64]
    gather: NDArray[np.int64]


class BlockCodec:
    """How the reply to one request becomes values: made once for each request of the plan.

    numeric: int64, shape (n,), point slots in the order of `Decoded.value`. Strings and bytes are not among them.
    """

    def __init__(self, points: Sequence[ModbusPoint], start: int) -> None:
        """Prepare for replies that begin at protocol address `start` and hold all of `points`, of one table."""
        numeric = [p for p in points if not p.is_text]
        self.numeric: NDArray[np.int64] = np.array([p.point_index for p in numeric], dtype=np.int64)
        self._texts = [(p, _text_bytes(p, start)) for p in points if p.is_text]
        self._coils: NDArray[np.int64] | None = None
        self._groups: list[_Group] = []
        if points and points[0].address.table in BIT_TABLES:
            self._coils = np.array([p.address.address - start for p in numeric], dtype=np.int64)
            return
        for kind in _BIG_ENDIAN:
            for is_bit in (False, True):
                at = [i for i, p in enumerate(numeric)
                      if p.address.type == kind and (p.address.bit is not None) == is_bit]
                if at:
                    rows = np.array([_number_bytes(numeric[i], start) for i in at], dtype=np.int64)
                    self._groups.append(_Group("bit" if is_bit else kind, np.array(at, dtype=np.int64), rows))
        self._bit: NDArray[np.int64] = np.array([p.address.bit or 0 for p in numeric], dtype=np.int64)
        self._scaled = np.array([i for i, p in enumerate(numeric) if p.is_scaled], dtype=np.int64)
        self._is_scaled = np.array([p.is_scaled for p in numeric], dtype=bool)
        self._scale = np.array([p.scale for p in numeric if p.is_scaled], dtype=np.float64)
        self._offset = np.array([p.offset for p in numeric if p.is_scaled], dtype=np.float64)

    def decode(self, body: bytes) -> Decoded:
        """Decode one reply. body: the data bytes of the reply, already checked to have the length asked for."""
        raw = np.frombuffer(body, dtype=np.uint8)
        if self._coils is not None:
            bits = np.unpackbits(raw, bitorder="little")
            return Decoded(bits[self._coils].astype(np.float64), _NONE, (), 0)
        value = np.zeros(self.numeric.size, dtype=np.float64)
        missing: list[NDArray[np.int64]] = []
        texts = [Text(p.point_index, fingerprint(held), shown)
                 for p, at in self._texts for held, shown in (_text(p.address.type, raw[at].tobytes()),)]
        undecodable = 0
        for group in self._groups:
            gathered = np.ascontiguousarray(raw[group.gather])
            if group.kind in ("bcd16", "bcd32"):
                value[group.at], bad = _bcd(gathered)
                undecodable += int(bad.sum())
                missing.append(group.at[bad])
            elif group.kind in ("int64", "uint64"):
                integers = gathered.view(_BIG_ENDIAN[group.kind][0])[:, 0]
                value[group.at] = integers
                large = (integers > EXACT_MAX) if group.kind == "uint64" else (
                    (integers > EXACT_MAX) | (integers < -EXACT_MAX))
                large &= ~self._is_scaled[group.at]  # a scaled value is a float by the user's own wish
                if large.any():
                    texts += _large(self.numeric[group.at[large]], integers[large].tolist())
                    missing.append(group.at[large])
            else:
                value[group.at] = self._plain(group, gathered)
        if self._scaled.size:
            value[self._scaled] = value[self._scaled] * self._scale + self._offset
        gone = np.sort(np.concatenate(missing)) if missing else _NONE
        return Decoded(value, gone, tuple(texts), undecodable)

    def _plain(self, group: _Group, gathered: NDArray[np.uint8]) -> NDArray[np.generic]:
        dtype = "u2" if group.kind == "bit" else _BIG_ENDIAN[group.kind][0]
        numbers: NDArray[np.generic] = gathered.view(">u2" if group.kind == "bit" else dtype)[:, 0]
        if group.kind == "bit":
            return (numbers.astype(np.int64) >> self._bit[group.at]) & 1
        return numbers != 0 if group.kind == "bool" else numbers


_NONE = np.zeros(0, dtype=np.int64)


def _number_bytes(point: ModbusPoint, start: int) -> list[int]:
    """Return where the bytes of this value lie in the reply, most significant first."""
    address = point.address
    words = list(range(address.size))
    if point.order in ("CDAB", "DCBA"):
        words.reverse()
    first, second = (1, 0) if point.order in ("BADC", "DCBA") else (0, 1)
    byte = 2 * (address.address - start)
    places = [byte + 2 * word + half for word in words for half in (first, second)]
    return places[-_BIG_ENDIAN[address.type][1]:]  # an 8-bit value is the low byte of its register


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
