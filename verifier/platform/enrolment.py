"""Enrolment: a one-time token, a key that was never seen, one K for each enterprise, and a certificate in the register.

Everything happens in one transaction: the token counts as used exactly when the certificate is in the register.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols import exchange
from protocols.errors import Problem, TallystickError, VerificationError
from protocols.evidence import jcs, keys, signed
from protocols.evidence.shape import require
from protocols.terms import uscc
from verifier.platform.refusal import RefusalError
from verifier.platform.register import Appended, Entry, Register

TOKEN_BYTES = 24
VALID_H_MAX = 24 * 365
CERTIFIED = ("gateway_key", "uscc", "site", "k_sha256", "recovery_key", "supersedes")
"""What a certificate takes over from the request."""


def token_sha256(token: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token(connection: sqlite3.Connection, *, enterprise: str, site: str | None, expires_s: int) -> str:
    """Make a token for one gateway of an enterprise, of one site if given. Only its digest is stored."""
    token = secrets.token_hex(TOKEN_BYTES)  # hex, so that none begins with a dash
    connection.execute("INSERT INTO tokens (sha256, uscc, site, expires_s) VALUES (?, ?, ?, ?)",
                       (token_sha256(token), enterprise, site, expires_s))
    return token


def check_request(request: Any) -> None:
    """Check all that needs no database: shape, keys, code, possession. Raises RefusalError 400, 403 or 422."""
    try:
        require(exchange.ENROL_REQUEST, request, where="enrol")
    except VerificationError as error:
        raise RefusalError.because(400, error) from error
    try:
        for name in ("gateway_key", "recovery_key"):
            keys.check_public(bytes.fromhex(request[name]), where=name)
        # JCS refuses what UTF-8 cannot hold; a certificate with it could not be signed.
        jcs.encode(dict(request))
    except TallystickError as error:
        raise RefusalError.because(422, error) from error
    except ValueError as error:
        raise RefusalError.of(400, "enrol", "json.unreadable", reason=error) from error
    if request["gateway_key"] == request["recovery_key"]:
        raise RefusalError.of(422, "recovery_key", "platform.same_keys")
    if not uscc.is_valid(request["uscc"]):
        raise RefusalError.of(422, "uscc", "platform.bad_uscc", uscc=request["uscc"])
    if not exchange.possession_holds(request):
        raise RefusalError.of(403, "proof", "platform.no_possession")


def enrol(connection: sqlite3.Connection, register: Register, request: Mapping[str, Any], *, key: Ed25519PrivateKey,
          now_s: int) -> tuple[dict[str, Any], Appended | None]:
    """Enrol a checked request within the writer's transaction of a `register.change`.

    Returns the certificate, and what entered the register: None when this very enrolment was done before.
    Raises: RefusalError 403 or 409.
    """
    digest = token_sha256(request["token"])
    public = bytes.fromhex(request["gateway_key"])
    gateway = keys.gateway_id(public)
    done = connection.execute("SELECT certificate FROM gateways WHERE token_sha256 = ?", (digest,)).fetchone()
    if done is not None:
        certificate: dict[str, Any] = jcs.decode(done["certificate"].encode(), where="store", bytes_max=65_535)
        if all(certificate[name] == request[name] for name in CERTIFIED):
            return certificate, None
        raise RefusalError.of(409, "token", "platform.token_used")
    _check_token(connection, digest, request, now_s)
    _check_against_others(connection, request, public)
    certificate = signed.sign("certificate", {
        **{name: request[name] for name in CERTIFIED}, "token_sha256": digest}, key)
    appended = register.append(connection, [Entry(uscc=request["uscc"], gateway=gateway, value={
        "type": "enrol", "certificate": certificate})])
    connection.execute(
        "INSERT INTO gateways"
        " (id, uscc, site, certificate, token_sha256, k_sha256, supersedes, enrol_index, enrolled_s)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (gateway, request["uscc"], request["site"], jcs.encode(certificate).decode(), digest, request["k_sha256"],
         request["supersedes"], appended.first, now_s))
    connection.execute("INSERT INTO keys (public, gateway) VALUES (?, ?)", (public, gateway))
    return certificate, appended


def _check_token(connection: sqlite3.Connection, digest: str, request: Mapping[str, Any], now_s: int) -> None:
    token = connection.execute("SELECT uscc, site, expires_s FROM tokens WHERE sha256 = ?", (digest,)).fetchone()
    if token is None:
        raise RefusalError.of(403, "token", "platform.token_unknown")
    if token["expires_s"] <= now_s:
        raise RefusalError.of(403, "token", "platform.token_expired")
    if token["uscc"] != request["uscc"]:
        raise RefusalError.of(403, "uscc", "platform.token_uscc", uscc=request["uscc"])
    if token["site"] is not None and token["site"] != request["site"]:
        raise RefusalError.of(403, "site", "platform.token_site", site=request["site"], expected=token["site"])


def _check_against_others(connection: sqlite3.Connection, request: Mapping[str, Any], public: bytes) -> None:
    if connection.execute("SELECT 1 FROM keys WHERE public = ?", (public,)).fetchone():
        raise RefusalError.of(409, "gateway_key", "platform.duplicate_key")
    other = connection.execute("SELECT 1 FROM gateways WHERE uscc = ? AND k_sha256 <> ? LIMIT 1",
                               (request["uscc"], request["k_sha256"])).fetchone()
    if other:
        raise RefusalError(409, Problem.of("k_sha256", "platform.second_k", uscc=request["uscc"]))
    old = request["supersedes"]
    if old is None:
        return
    row = connection.execute("SELECT uscc FROM gateways WHERE id = ?", (old,)).fetchone()
    if row is None or row["uscc"] != request["uscc"]:
        raise RefusalError.of(409, "supersedes", "platform.supersedes_unknown", gateway=old)
    if connection.execute("SELECT 1 FROM gateways WHERE supersedes = ?", (old,)).fetchone():
        raise RefusalError.of(409, "supersedes", "platform.supersedes_again", gateway=old)
