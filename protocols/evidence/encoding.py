"""Base64 and hex that have one form only: what re-encodes to itself. Anything else is refused, not repaired."""

from __future__ import annotations

import base64
import binascii

from protocols.errors import Problem, VerificationError


def to_base64(data: bytes) -> str:
    """Return standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str, *, where: str) -> bytes:
    """Decode base64 that re-encodes to itself. Raises VerificationError `base64.malformed`."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = None
    if data is None or base64.b64encode(data).decode("ascii") != text:
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
