"""Base64 and hex that have one form only: what re-encodes to itself. Anything else is refused, not repaired."""

from __future__ import annotations

import binascii

from protocols.errors import Problem, VerificationError


def to_base64(data: bytes) -> str:
    """Return standard base64 with padding."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def from_base64(text: str, *, where: str) -> bytes:
    """Decode base64 that re-encodes to itself. Raises VerificationError `base64.malformed`."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error is one; so is text beyond ASCII
        data = None
    if data is None or binascii.b2a_base64(data, newline=False).decode("ascii") != text:
        raise VerificationError(Problem.of(where, "base64.malformed"))
    return data


def from_hex(text: str, *, where: str) -> bytes:
    """Decode lowercase hex. Raises VerificationError `hex.malformed`."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = None
    if data is None or data.hex() != text:
        raise VerificationError(Problem.of(where, "hex.malformed"))
    return data
