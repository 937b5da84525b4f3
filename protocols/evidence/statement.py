"""A signed statement on its way to the register: a file that is carried, and the body of a request.

    {"statement": {...}, "type": "tallystick/demand/v1"}

`type` is the name under which the object inside is signed: its domain, so that nobody reads it as another kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import jcs
from protocols.evidence.shape import Object, OneOf, require
from protocols.evidence.signed import ATTESTATION, DEMAND, REVOCATION
from protocols.evidence.tiles import ENTRY_BYTES_MAX

STATEMENT_BYTES_MAX = ENTRY_BYTES_MAX
"""A statement becomes an entry of the register."""

TYPES: Mapping[str, tuple[str, Object]] = {
    "revocation": ("revoke", REVOCATION), "attestation": ("attest", ATTESTATION), "demand": ("demand", DEMAND),
}
"""kind -> (type of the register entry, shape)."""


@dataclass(frozen=True, slots=True)
class Statement:
    """`kind` is one of TYPES, `value` the signed object. Nothing in it is verified but its shape."""

    kind: str
    value: Mapping[str, Any]

    @property
    def gateway(self) -> str:
        """The gateway that it is about."""
        return str(self.value["gateway"])

    @property
    def entry(self) -> dict[str, Any]:
        """The register entry that carries it, without `last`."""
        return {"type": TYPES[self.kind][0], self.kind: dict(self.value)}

    def encode(self) -> bytes:
        """Return the canonical bytes. Raises VerificationError `json.too_large` for what no entry can hold."""
        data = jcs.encode({"type": domain(self.kind), "statement": dict(self.value)})
        if len(data) > STATEMENT_BYTES_MAX:
            raise VerificationError(Problem.of("statement", "json.too_large", size=len(data),
                                               limit=STATEMENT_BYTES_MAX))
        return data


def shape(kind: str) -> Object:
    """Return what a file of this kind holds."""
    return Object({"type": OneOf((domain(kind),)), "statement": TYPES[kind][1]})


def domain(kind: str) -> str:
    """Return the name under which objects of this kind are signed."""
    return f"tallystick/{kind}/v1"


def parse(data: bytes, *, where: str) -> Statement:
    """Parse a file or a body, which need not be canonical. Raises VerificationError of JSON or of the shape."""
    return of(jcs.parse(data, where=where, bytes_max=STATEMENT_BYTES_MAX), where=where)


def of(value: Any, *, where: str) -> Statement:
    """Return what a parsed object says. Raises VerificationError of the shape."""
    kinds = {domain(kind): kind for kind in TYPES}
    kind = kinds.get(value["type"]) if isinstance(value, dict) and isinstance(value.get("type"), str) else None
    if kind is None:
        require(Object({"type": OneOf(tuple(kinds))}),
                {"type": value.get("type")} if isinstance(value, dict) else value, where=where)
        raise AssertionError("no other type fits")
    require(shape(kind), value, where=where)
    try:
        jcs.encode(value)
    except ValueError as error:  # half a character: nobody can have signed it
        raise VerificationError(Problem.of(where, "json.unreadable", reason=str(error)[:200])) from None
    return Statement(kind, value["statement"])
