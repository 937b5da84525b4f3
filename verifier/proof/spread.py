"""Bitmaps of slots spread out to a byte or a number for each slot, and small sets of names as bits."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Collection, Sequence

_BYTE_EACH = tuple(bytes(byte >> bit & 1 for bit in range(8)) for byte in range(256))
_LANE_EACH = tuple(b"".join((byte >> bit & 1).to_bytes(4, "little") for bit in range(8)) for byte in range(256))


def _spread(bits: int, slots: int, each: Sequence[bytes]) -> bytes:
    data = bits.to_bytes((max(slots, bits.bit_length()) + 7) // 8, "little")
    return b"".join([each[byte] for byte in data])


def set_bits(bits: int, slots: int) -> bytes:
    """Return one byte a slot, 1 where the bit is set: big shifts in a loop would be quadratic."""
    return _spread(bits, slots, _BYTE_EACH)


def times_set(planes: Sequence[int], slots: int) -> array[int]:
    """Return how often each bit was set: the planes are added up with 32 bits for each slot."""
    total = sum(int.from_bytes(_spread(plane, slots, _LANE_EACH), "little") << k for k, plane in enumerate(planes))
    times = array("I", total.to_bytes(4 * (slots + 8), "little"))
    if sys.byteorder == "big":
        times.byteswap()
    return times


def bits_of(names: Sequence[str], chosen: Collection[str]) -> int:
    """Return the names that are chosen as bits, by their place."""
    return sum(1 << i for i, name in enumerate(names) if name in chosen)


def subsets(names: Sequence[str]) -> tuple[frozenset[str], ...]:
    """Return the set of names that each number stands for, as `bits_of` makes numbers."""
    return tuple(frozenset(name for i, name in enumerate(names) if bits >> i & 1) for bits in range(1 << len(names)))
