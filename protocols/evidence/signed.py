"""Signed objects: certificates, revocations, attestations, demands, key changes.

JCS with `key` (64 hex, raw Ed25519) and `sig` (base64) over the ASCII `tallystick/<type>/v1`, a byte 0, and the JCS
of the object without `sig`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.errors import Problem, VerificationError
from protocols.evidence import jcs, keys
from protocols.evidence.encoding import from_base64, to_base64
from protocols.evidence.shape import Base64, Hex, Integer, ListOf, Nullable, Object, Shape, Text, require

GATEWAY = Hex(16)
USCC = Text(18, "[0-9A-HJ-NPQRTUWXY]{18}")
SLOTS_MAX = 120_000

_SIGNER: dict[str, Shape] = {"key": Hex(32), "sig": Base64(64)}

CERTIFICATE = Object({
    "gateway_key": Hex(32), "uscc": USCC, "site": Text(), "token_sha256": Hex(32), "k_sha256": Hex(32),
    "recovery_key": Hex(32), "supersedes": Nullable(GATEWAY)} | _SIGNER)
"""What an `enrolment` carries: signed by the platform key, or without a platform by the recovery key."""

ROTATION = Object({"gateway": GATEWAY, "seq": Integer(), "root": Hex(32), "new_key": Hex(32)} | _SIGNER)
"""What a `key` entry at `seq` carries: signed by the old key over the root of size `seq`."""

REVOCATION = Object({"gateway": GATEWAY, "gateway_key": Hex(32), "from_size": Integer()} | _SIGNER)
"""Signed by the recovery or the platform key: entries from `from_size` on are void."""

ATTESTATION = Object({
    "gateway": GATEWAY, "slot": Integer(0, SLOTS_MAX), "kind": Nullable(Hex(32)),
    "tags": ListOf(Object({"scheme": Text(32), "tag": Hex(32)}), 16), "server_spki_sha256": Hex(32)} | _SIGNER)
"""Signed by a supervisor of the policy: this server key belongs to this slot."""

DEMAND = Object({
    "gateway": GATEWAY, "slots": ListOf(Integer(0, SLOTS_MAX), 10_000), "hours": ListOf(Integer(), 10_000),
    "deadline_s": Integer()} | _SIGNER)
"""Signed by an auditor of the policy: open these slots, or hand over the raw data of the hours that start then."""

SHAPES: Mapping[str, Object] = {
    "certificate": CERTIFICATE, "rotation": ROTATION, "revocation": REVOCATION, "attestation": ATTESTATION,
    "demand": DEMAND,
}


def sign(kind: str, fields: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Return `fields` with `key` and `sig`. `kind` is one of SHAPES."""
    body = {**fields, "key": keys.public_bytes(key).hex()}
    require(Object({n: s for n, s in SHAPES[kind].fields.items() if n != "sig"}), body, where=kind)
    return {**body, "sig": to_base64(key.sign(_message(kind, body)))}


def verify(kind: str, value: Any, *, signers: Collection[str], where: str) -> None:
    """Check shape, signer and signature. `signers`: the keys (64 hex) that may sign, from outside the object.

    Raises: VerificationError of the shape, `signed.wrong_signer` or `signed.bad_signature`.
    """
    require(SHAPES[kind], value, where=where)
    if value["key"] not in signers:
        raise VerificationError(Problem.of(where, "signed.wrong_signer", kind=kind, key=value["key"]))
    public = keys.check_public(bytes.fromhex(value["key"]), where=where)
    body = {name: item for name, item in value.items() if name != "sig"}
    if not keys.signature_holds(public, from_base64(value["sig"], where=where), _message(kind, body)):
        raise VerificationError(Problem.of(where, "signed.bad_signature", kind=kind))


def _message(kind: str, body: Mapping[str, Any]) -> bytes:
    return f"tallystick/{kind}/v1".encode("ascii") + b"\0" + jcs.encode(dict(body))
