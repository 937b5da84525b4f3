"""What a printed report is known by: the SHA-256 of the result it was made of, and a short code to compare by eye.

    tallystick audit CLAIM.toml ... --json | sha256sum

gives the digest on every page, and whoever audits the same files again gets the same code.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from itertools import islice
from typing import Any

CODE_CHARS = 20
"""100 bits: nobody makes a second result with the same code."""

GROUP_CHARS = 4
PARTS_AT_ONCE = 8192


def result_sha256(result: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of what `--json` prints of this result, its last newline with it."""
    parts = json.JSONEncoder(ensure_ascii=False, indent=2, sort_keys=True).iterencode(result)
    digest = hashlib.sha256()
    while some := list(islice(parts, PARTS_AT_ONCE)):  # all at once they are 75 MB for 50 000 devices
        digest.update("".join(some).encode())
    digest.update(b"\n")
    return digest.hexdigest()


def verification_code(sha256: str) -> str:
    """Return the first 20 base32 characters (RFC 4648) of a digest, in groups of four."""
    text = base64.b32encode(bytes.fromhex(sha256)).decode()[:CODE_CHARS]
    return "-".join(text[i : i + GROUP_CHARS] for i in range(0, CODE_CHARS, GROUP_CHARS))
