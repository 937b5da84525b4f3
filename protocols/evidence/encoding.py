"""Base64 and hex that have one form only: what re-encodes to itself. Anything else is refused, not repaired."""

from __future__ import annotations

import binascii

from protocols.errors import Problem, VerificationError

_SIXTY_FOUR = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def to_base64(data: bytes) -> str:
    """Return standard base64 with padding."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def is_base64(text: bytes) -> bool:
    """Return whether this is base64 that re-encodes to itself, without decoding it."""
    padding = text.translate(None, _SIXTY_FOUR)
    if len(text) % 4 or not text.endswith(padding):
        return False
    # The letter before the padding has spare bits; they are zero.
    return not padding or (padding == b"=" and text[-2] in b"AEIMQUYcgkosw048") or (
        padding == b"==" and text[-3] in b"AQgw")


def from_base64(text: str, *, where: str) -> bytes:
    """Decode base64 that re-encodes to itself. Raises VerificationError `base64.malformed`."""
    try:
        data = binascii.a2b_base64(text) if is_base64(text.encode("ascii")) else None
    except ValueError:  # beyond ASCII
        data = None
    if data is None:
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
