"""What supervisors, auditors and holders of a recovery key sign: made here, offline, and looked at before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.errors import ConfigError, Problem
from protocols.evidence import signed
from protocols.evidence.statement import Statement
from verifier.proof.figures import Evidence

CHINA = timezone(timedelta(hours=8))
"""A time without a zone is Chinese time: it is what the forms of the programmes mean."""

HOUR_S = 3600
ITEMS_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One device of a verified bundle, as a supervisor sees it before signing. private: None unless it was opened."""

    gateway: str
    site: str
    slot: int
    kind: str | None
    tags: tuple[tuple[str, str], ...]
    server_spki_sha256: str
    server_via: int | None
    private: Mapping[str, Any] | None


def look(evidence: Evidence, slot: int, *, where: str) -> Shown:
    """Return the device at `slot` in the newest roster. Raises ConfigError when it cannot be attested."""
    rows = evidence.rosters.last()
    row = rows.devices[slot] if rows is not None and 0 <= slot < len(rows.devices) else None
    if row is None or not row.alive:
        raise ConfigError(Problem.of(where, "statements.sign_no_slot", slot=slot))
    if row.server_spki_sha256 is None:
        raise ConfigError(Problem.of(where, "statements.no_server_key", slot=slot))
    if not row.tags:
        raise ConfigError(Problem.of(where, "statements.no_tags", slot=slot))
    return Shown(gateway=evidence.gateway, site=evidence.site, slot=slot, kind=row.kind, tags=tuple(sorted(row.tags)),
                 server_spki_sha256=row.server_spki_sha256, server_via=row.server_via,
                 private=evidence.opened.get(slot))


def attest(shown: Shown, key: Ed25519PrivateKey) -> Statement:
    """Sign that this server key, this slot and these tags belong together."""
    return Statement("attestation", signed.sign("attestation", {
        "gateway": shown.gateway, "slot": shown.slot, "kind": shown.kind,
        "tags": [{"scheme": scheme, "tag": tag} for scheme, tag in shown.tags],
        "server_spki_sha256": shown.server_spki_sha256}, key))


def demand(gateway: str, slots: list[int], hours: list[int], deadline_s: int, key: Ed25519PrivateKey) -> Statement:
    """Sign that these devices and the raw data of these hours are to be opened until the deadline."""
    return Statement("demand", signed.sign("demand", {
        "gateway": gateway, "slots": slots, "hours": hours, "deadline_s": deadline_s}, key))


def announce(gateway: str, instant_s: int, key: Ed25519PrivateKey) -> Statement:
    """Sign that the first independent co-signature after `instant_s` draws a sample: a demand of nothing else."""
    return demand(gateway, [], [], instant_s, key)


def revoke(gateway: str, gateway_key: str, from_size: int, key: Ed25519PrivateKey) -> Statement:
    """Sign that the log of a gateway ends at `from_size`."""
    return Statement("revocation", signed.sign("revocation", {
        "gateway": gateway, "gateway_key": gateway_key, "from_size": from_size}, key))


def instant(text: str, where: str) -> int:
    """Return an ISO 8601 time (a date is its first second) as POSIX seconds. Raises ConfigError."""
    try:
        if not re.match(r"\d{4}-\d\d-\d\d", text):
            raise ValueError
        at = datetime.fromisoformat(text)
        return int((at if at.tzinfo is not None else at.replace(tzinfo=CHINA)).timestamp())
    except (ValueError, OverflowError) as error:
        raise ConfigError(Problem.of(where, "statements.bad_time", value=text[:80])) from error


def hours_of(text: str, where: str) -> list[int]:
    """Return the hours of `A,B,...` by their first second, ascending. Raises ConfigError."""
    hours = sorted({instant(part.strip(), where) for part in text.split(",")})
    if any(hour % HOUR_S for hour in hours) or len(hours) > ITEMS_MAX:
        raise ConfigError(Problem.of(where, "statements.bad_hours", value=text[:80], limit=ITEMS_MAX))
    return hours


def slots_of(text: str, where: str) -> list[int]:
    """Return the slots of `1,2,5-9`, ascending. Raises ConfigError."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r" *([0-9]{1,6})(?:-([0-9]{1,6}))? *", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= signed.SLOTS_MAX or len(found) + last - first >= ITEMS_MAX:
            raise ConfigError(Problem.of(where, "statements.bad_slots", value=text[:80], limit=ITEMS_MAX))
        found |= set(range(first, last + 1))
    return sorted(found)
