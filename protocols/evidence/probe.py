"""The challenge of a probe: what a server must sign so that an old answer cannot be shown again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from protocols.evidence import jcs


def nonce(seen: Mapping[str, Any]) -> bytes:
    """Return SHA-256 of the JCS of `seen`: nobody knew it before that register checkpoint was co-signed."""
    return hashlib.sha256(jcs.encode(dict(seen))).digest()


def challenge(seen: Mapping[str, Any], *, gateway_spki: bytes, start_s: int, server_spki: bytes) -> bytes:
    """Return the 32 bytes that are the ClientNonce of CreateSession. Both SPKI are DER."""
    return hashlib.sha256(
        b"tallystick/probe/v1\0" + nonce(seen) + hashlib.sha256(gateway_spki).digest() + start_s.to_bytes(8, "big")
        + hashlib.sha256(server_spki).digest()).digest()
