"""Signed objects: certificates, revocations, attestations, demands, key changes, and what an assessor found on site.

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
from protocols.evidence.shape import Base64, Hex, Integer, ListOf, Nullable, Object, OneOf, Shape, Text, require

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

SEEN = Object({"size": Integer(1), "root": Hex(32), "witness": Text(), "time_s": Integer(), "signature": Base64(64)})
"""An independently co-signed register checkpoint. A window names the newest one known when it was sealed."""

SAMPLE_MAX = 5_000
"""Devices that one draw may hold: 2 000 prove 99.9 % of any number with 95 % confidence."""
GATEWAYS_MAX = STRATA_MAX = 1_000
PHOTOS_MAX = 16
MATCH, MISMATCH, UNVERIFIED = RESULTS = ("match", "mismatch", "unverified")

DRAW_FIELDS: Mapping[str, Shape] = {
    "announced_s": Integer(), "at_s": Integer(), "basis_sha256": Hex(32), "cosignature": SEEN, "seed": Hex(32),
    "confidence_permille": Integer(1, 999), "at_least_permille": Nullable(Integer(1, 1000)),
    "gateways": ListOf(Object({"gateway": GATEWAY, "roster": Integer(), "devices_root": Hex(32)}), GATEWAYS_MAX),
    "strata_by": OneOf(("none", "class", "protocol", "gateway")),
    "strata": ListOf(Object({"name": Text(), "population": Integer(1), "drawn": Integer(1, SAMPLE_MAX)}), STRATA_MAX),
    "devices": ListOf(Object({"gateway": GATEWAY, "slot": Integer(0, SLOTS_MAX), "stratum": Integer(0, STRATA_MAX)}),
                      SAMPLE_MAX),
}
"""What anybody draws who has the same bundles; see protocols.evidence.sample."""

DRAW = Object({**DRAW_FIELDS, **_SIGNER})
"""Signed by an assessor of the policy: this draw is the one that was visited."""

ANSWER = Object({
    "draw_sha256": Hex(32), "gateway": GATEWAY, "slot": Integer(0, SLOTS_MAX), "result": OneOf(RESULTS),
    "at_s": Integer(), "note": Text(), "photos": ListOf(Hex(32), PHOTOS_MAX)} | _SIGNER)
"""Signed by the same assessor, one for each drawn device: what stands at the place of the row."""

FINDING = Object({"draw_sha256": Hex(32), "answers_sha256": Hex(32), "answers": Integer(0, SAMPLE_MAX),
                  "closed_s": Integer()} | _SIGNER)
"""Signed last: the visit is over, and these are all its answers."""

SHAPES: Mapping[str, Object] = {
    "certificate": CERTIFICATE, "rotation": ROTATION, "revocation": REVOCATION, "attestation": ATTESTATION,
    "demand": DEMAND, "draw": DRAW, "answer": ANSWER, "finding": FINDING,
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
