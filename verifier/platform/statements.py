"""Statements of others that enter the register: revocations, attestations of supervisors, demands of auditors.

Each is verified before it is stored, stands in the register once however often it is sent, and is durable before it
is answered. The platform says who may attest and demand here; whether they are to be believed, each checker's policy
says. A platform that refuses a demand cannot hide it for ever: the auditor has the file, and the answer it got.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from protocols.errors import TallystickError
from protocols.evidence import jcs, signed
from protocols.evidence.statement import TYPES, Statement
from verifier.platform.refusal import RefusalError
from verifier.platform.register import Appended, Entry, Register
from verifier.platform.roster import Roster

STATEMENTS_MAX = 8_000
"""Attestations and demands about one enterprise: every bundle of it holds them all, and a chain ends at 10 000."""
REVOCATIONS_MAX = 16
"""Of one gateway. Each ends its log earlier than those before it; the first is what matters."""
HOUR_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """A statement in the register. `fresh`: it was not there before."""

    index: int
    fresh: bool


def check_signature(statement: Statement, *, signers: Collection[str]) -> None:
    """Check the signature under `signers`. Raises RefusalError 403, or 422 for a key that is no key."""
    key = statement.value["key"]
    if statement.kind != "revocation" and key not in signers:
        raise RefusalError.of(403, "key", "statements.not_listed", kind=statement.kind, key=key)
    try:
        signed.verify(statement.kind, dict(statement.value), signers=signers, where=statement.kind)
    except TallystickError as error:
        status = 403 if error.problems[0].code in ("signed.wrong_signer", "signed.bad_signature") else 422
        raise RefusalError.because(status, error) from error


def check_attestation(value: Mapping[str, Any], roster: Roster) -> None:
    """Check that an attestation fits the row in force: another one would lift no device. Raises RefusalError 422."""
    slot = value["slot"]
    if slot >= len(roster.devices) or not roster.alive_devices >> slot & 1:
        raise RefusalError.of(422, "slot", "statements.no_slot", slot=slot, devices=len(roster.devices))
    row = roster.devices[slot]
    tags = {(tag["scheme"], tag["tag"]) for tag in value["tags"]}
    for name, fits in (("tags", bool(tags) and tags <= {(tag["scheme"], tag["tag"]) for tag in row["tags"]}),
                       ("kind", value["kind"] == row["kind"]),
                       ("server_spki_sha256", value["server_spki_sha256"] == row["server"]["spki_sha256"])):
        if not fits:
            raise RefusalError.of(422, name, "statements.row_differs", slot=slot, name=name)


def check_demand(value: Mapping[str, Any], roster: Roster, *, now_s: int) -> None:
    """Check that a demand can be answered: slots that were there, hours that are over, a deadline to come.

    Without slots and hours it announces a draw: then the deadline is all there is. Raises: RefusalError 422.
    """
    slots, hours = value["slots"], value["hours"]
    for name, items in (("slots", slots), ("hours", hours)):
        if sorted(set(items)) != items:
            raise RefusalError.of(422, name, "statements.not_ascending", name=name)
    if slots and slots[-1] >= len(roster.devices):
        raise RefusalError.of(422, "slots", "statements.no_slot", slot=slots[-1], devices=len(roster.devices))
    for hour in hours:
        if hour % HOUR_S or hour + HOUR_S > now_s:
            raise RefusalError.of(422, "hours", "statements.no_hour", hour=hour)
    if value["deadline_s"] <= now_s:
        raise RefusalError.of(422, "deadline_s", "statements.deadline_past", deadline_s=value["deadline_s"])


def found(connection: sqlite3.Connection, statement: Statement) -> int | None:
    """Return the place in the register of this very statement, None if it is not there."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (_name(statement),)).fetchone()
    return None if row is None else int(row["value"])


def enter(connection: sqlite3.Connection, register: Register, statement: Statement, uscc: str) -> tuple[
        Stated, Appended | None]:
    """Append a verified statement within the writer's transaction of a `register.change`.

    Returns where it stands, and what entered the register: None when it was there already.
    Raises: RefusalError 409 or 422.
    """
    known = found(connection, statement)
    if known is not None:
        return Stated(index=known, fresh=False), None
    gateway = statement.gateway
    if statement.kind == "revocation":
        _revoke(connection, statement.value)
    elif _count(connection, uscc, "type IN ('attest', 'demand')") >= STATEMENTS_MAX:
        raise RefusalError.of(409, statement.kind, "statements.too_many", limit=STATEMENTS_MAX)
    try:
        appended = register.append(connection, [Entry(uscc=uscc, gateway=gateway, value=statement.entry)])
    except TallystickError as error:
        raise RefusalError.because(422, error) from error
    connection.execute("INSERT INTO meta (name, value) VALUES (?, ?)", (_name(statement), str(appended.first)))
    return Stated(index=appended.first, fresh=True), appended


def _revoke(connection: sqlite3.Connection, value: Mapping[str, Any]) -> None:
    """End the log of a gateway at `from_size`. Raises RefusalError 409 or 422."""
    gateway, from_size = value["gateway"], value["from_size"]
    if not connection.execute("SELECT 1 FROM keys WHERE public = ? AND gateway = ?",
                              (bytes.fromhex(value["gateway_key"]), gateway)).fetchone():
        raise RefusalError.of(422, "gateway_key", "platform.not_its_key", gateway=gateway)
    row = connection.execute("SELECT uscc, revoked_from FROM gateways WHERE id = ?", (gateway,)).fetchone()
    ends = row["revoked_from"]
    if ends is not None and ends <= from_size:
        raise RefusalError.of(409, "from_size", "statements.revoked_already", gateway=gateway, from_size=ends)
    if _count(connection, row["uscc"], "type = 'revoke' AND gateway = ?", gateway) >= REVOCATIONS_MAX:
        raise RefusalError.of(409, "revocation", "statements.too_many", limit=REVOCATIONS_MAX)
    connection.execute("UPDATE gateways SET revoked_from = ? WHERE id = ?", (from_size, gateway))


def _count(connection: sqlite3.Connection, uscc: str, condition: str, *args: object) -> int:
    """Count entries of an enterprise that are no heads: an index holds these."""
    return int(connection.execute(
        f"SELECT count(*) AS n FROM register WHERE uscc = ? AND type <> 'head' AND {condition}",
        (uscc, *args)).fetchone()["n"])


def _name(statement: Statement) -> str:
    # Without the signature: Ed25519 lets its holder sign the same words in many ways, and they say nothing new.
    words = {name: item for name, item in statement.value.items() if name != "sig"}
    digest = hashlib.sha256(TYPES[statement.kind][0].encode() + b"\0" + jcs.encode(words)).hexdigest()
    return f"statement/{digest}"
