"""Columns: one bit a slot, LSB first, ceil(slots/8) bytes, tombstones and spare bits zero, base64 in the entry.

As a big integer (little-endian bytes) bit i is slot i, so unions, intersections and counts need no loop.
"""

from __future__ import annotations

from binascii import a2b_base64

from protocols.errors import Problem, VerificationError
from protocols.evidence.encoding import from_base64, to_base64

NAMES = ("connected", "sampled", "producing", "changing")
BITS_MAX = 360_000
"""devices + 3 x points of one gateway; a larger plant uses several gateways."""

TEXT_MAX = BITS_MAX // 8 // 3 * 4
"""Letters of the longest column, in base64."""


def pack(bits: int, slots: int) -> str:
    """Return the column of the set bits of `bits`, all below `slots`."""
    return to_base64(bits.to_bytes((slots + 7) // 8, "little"))


def bits_of(text: str, slots: int) -> int | None:
    """Return the column as an integer, None if it is not of so many slots. Its base64 was looked at before."""
    data = a2b_base64(text)
    bits = int.from_bytes(data, "little")
    return bits if len(data) == (slots + 7) // 8 and bits.bit_length() <= slots else None


def unpack(text: str, slots: int, *, where: str, name: str) -> int:
    """Return the column as an integer. Raises VerificationError `column.length` or `column.spare_bits`."""
    data = from_base64(text, where=where)
    if len(data) != (slots + 7) // 8:
        raise VerificationError(Problem.of(where, "column.length", name=name, length=len(data), slots=slots))
    bits = int.from_bytes(data, "little")
    if bits >> slots:
        raise VerificationError(Problem.of(where, "column.spare_bits", name=name))
    return bits
