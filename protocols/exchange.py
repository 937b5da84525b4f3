"""What gateway and platform say to each other over HTTP: the bodies, closed and limited. JSON, `application/json`.

    POST /v1/enrol                        ENROL_REQUEST -> 201 ENROL_ANSWER
    GET  /v1/gateways/<id>/size           -> SIZE_ANSWER; 404 unknown gateway
    POST /v1/gateways/<id>/entries        SUBMIT_REQUEST -> 200 SUBMIT_ANSWER, durable before the answer
                                          409 SIZE_ANSWER: `first` is not the platform's size, or the root differs
    GET  /v1/gateways/<id>/entries?first=N  -> TAIL_ANSWER, at most SUBMIT_ENTRIES_MAX entries
    GET  /v1/gateways/<id>/register       -> REGISTER_ANSWER: proofs of the `last` chain and of the newest head
    POST /v1/statements                   a statement (protocols/evidence/statement.py) -> 201 STATEMENT_ANSWER, durable
                                          before the answer; 200 when it was there already
    GET  /g/<id>/..., /register/...       static tiles and checkpoint (C2SP tlog-tiles)
    errors                                REFUSAL with 400, 403, 404, 409, 413, 422, 429 or 500
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.evidence import jcs, keys
from protocols.evidence.encoding import from_base64, to_base64
from protocols.evidence.shape import Base64, Hex, Integer, ListOf, Nullable, Object, Text
from protocols.evidence.signed import CERTIFICATE, GATEWAY, USCC

BODY_BYTES_MAX = 64 * 1024 * 1024
SUBMIT_ENTRIES_MAX = 2_000
ENTRY_CHARS_MAX = 65_535
CHECKPOINT_CHARS_MAX = 64 * 1024
SUBMIT_BYTES_TARGET = 8 * 1024 * 1024
"""A gateway closes a batch before its entries and rows pass this; one roster may."""

ENROL_REQUEST = Object({
    "token": Text(128), "gateway_key": Hex(32), "uscc": USCC, "site": Text(), "k_sha256": Hex(32),
    "recovery_key": Hex(32), "supersedes": Nullable(GATEWAY), "proof": Base64(64)})
"""`proof`: signature of the gateway key over `tallystick/enrol/v1`, a byte 0 and the JCS of the rest."""

ENROL_ANSWER = Object({
    "certificate": CERTIFICATE, "register": Text(400), "platform": Hex(32), "witnesses": Text(64 * 1024),
    "independent": ListOf(Text(), 1000)})

SIZE_ANSWER = Object({"size": Integer(), "root": Hex(32), "checkpoint": Nullable(Text(64 * 1024))})

SUBMIT_REQUEST = Object({
    "first": Integer(), "entries": ListOf(Text(ENTRY_CHARS_MAX), SUBMIT_ENTRIES_MAX),
    "checkpoint": Text(CHECKPOINT_CHARS_MAX),
    "rosters": ListOf(Object({"seq": Integer(), "rows": Text(BODY_BYTES_MAX)}), SUBMIT_ENTRIES_MAX)})
"""`rosters`: the changed rows (all rows of the first roster) of every `roster` entry among `entries`, as JSON lines."""

SUBMIT_ANSWER = Object({
    "size": Integer(), "proof": Nullable(Text(192 * 1024)), "register_checkpoint": Nullable(Text(64 * 1024))})
"""`proof`: tlog-proof of the newest co-signed head of this gateway; `register_checkpoint`: newest co-signed note."""

TAIL_ANSWER = Object({"first": Integer(), "entries": ListOf(Text(65_535), SUBMIT_ENTRIES_MAX),
                      "checkpoint": Text(64 * 1024), "rosters": SUBMIT_REQUEST.fields["rosters"]})

REGISTER_ANSWER = Object({"proofs": ListOf(Text(192 * 1024), 10_000),
                          "register_checkpoint": Nullable(Text(64 * 1024))})

STATEMENT_ANSWER = Object({"index": Integer()})
"""`index`: place of the statement in the register."""

REFUSAL = Object({"code": Text(64), "args": ListOf(Text(400), 16), "where": Text(400), "message": Text(2000)})
"""`args`: `name=value` texts; `message` is English."""


def prove_possession(request: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Return an enrolment request with its `proof`, signed by the gateway key that it names."""
    return {**request, "proof": to_base64(key.sign(_possession(request)))}


def possession_holds(request: Mapping[str, Any]) -> bool:
    """Return whether `proof` was made with the gateway key of this request. Its shape was checked before."""
    body = {name: value for name, value in request.items() if name != "proof"}
    public = bytes.fromhex(request["gateway_key"])
    return keys.signature_holds(public, from_base64(request["proof"], where="proof"), _possession(body))


def _possession(body: Mapping[str, Any]) -> bytes:
    return b"tallystick/enrol/v1\0" + jcs.encode(dict(body))
