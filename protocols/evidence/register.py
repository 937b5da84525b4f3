"""Entries of the platform's register: what witnesses co-sign, so that thousands of gateways need one log.

Every entry carries `last`: the index of the newest earlier entry about the same enterprise that is no `head`, or -1.
Unknown types are a remark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import jcs
from protocols.evidence.reader import TypedReader
from protocols.evidence.shape import Hex, Integer, ListOf, Object, OneOf, Shape, Text, require
from protocols.evidence.signed import ATTESTATION, CERTIFICATE, DEMAND, GATEWAY, REVOCATION
from protocols.evidence.tiles import ENTRY_BYTES_MAX

_HEADER: dict[str, Shape] = {"type": Text(64), "last": Integer(-1)}


def _entry(kind: str, fields: Mapping[str, Shape]) -> Object:
    return Object({**_HEADER, "type": OneOf((kind,)), **fields})


SHAPES: Mapping[str, Object] = {
    "enrol": _entry("enrol", {"certificate": CERTIFICATE}),
    "head": _entry("head", {"gateway": GATEWAY, "size": Integer(1), "root": Hex(32)}),
    "revoke": _entry("revoke", {"revocation": REVOCATION}),
    "fork": _entry("fork", {"gateway": GATEWAY, "checkpoints": ListOf(Text(8192), 2)}),
    "attest": _entry("attest", {"attestation": ATTESTATION}),
    "demand": _entry("demand", {"demand": DEMAND}),
}

_READER = TypedReader(SHAPES, _HEADER, bytes_max=ENTRY_BYTES_MAX)


def encode(value: Mapping[str, Any]) -> bytes:
    """Return the bytes of a register entry. Raises VerificationError if it is not as its type says, or too long."""
    require(SHAPES[value["type"]], value, where="register")
    data = jcs.encode(dict(value))
    if len(data) > ENTRY_BYTES_MAX:  # nobody could decode it, and it would stand in the register for ever
        raise VerificationError(Problem.of("register", "json.too_large", size=len(data), limit=ENTRY_BYTES_MAX))
    return data


def decode(data: bytes, *, where: str) -> dict[str, Any]:
    """Parse a register entry; of an unknown type only `type` and `last` are checked. Raises VerificationError."""
    return _READER.decode(data, where=where)


def gateway_of(value: Mapping[str, Any]) -> str | None:
    """Return the gateway that an entry of a known type is about; None for `enrol` (its key names it) and unknown."""
    for place in (value, value.get("revocation"), value.get("attestation"), value.get("demand")):
        if isinstance(place, dict) and isinstance(place.get("gateway"), str):
            return str(place["gateway"])
    return None


