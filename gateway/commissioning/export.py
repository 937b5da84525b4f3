"""`bundle`: fetch the newest proofs if the platform answers, then write the evidence of an interval."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from config.gateway import GatewayConfig
from gateway.commissioning import roster
from gateway.commissioning.state import State
from gateway.sealing import rosters
from gateway.sealing.disk import RealDisk
from gateway.sealing.export import Exported, export_bundle
from gateway.sealing.journal import Journal
from gateway.sealing.link import Address, HttpLink
from gateway.sealing.receipts import Receipts, Trust
from gateway.sealing.sealer import Event
from protocols.errors import ConfigError, DeviceError, Problem
from protocols.evidence import jcs
from protocols.evidence import roster as format_

CHINA = timezone(timedelta(hours=8))
"""A time without a zone is Chinese time: it is what the forms of the programmes mean."""


def instant(text: str, where: str) -> int:
    """Return an ISO 8601 time (a date is its first second) as POSIX seconds. Raises ConfigError."""
    try:
        if not re.match(r"\d{4}-\d\d-\d\d", text):
            raise ValueError
        at = datetime.fromisoformat(text)
        return int((at if at.tzinfo is not None else at.replace(tzinfo=CHINA)).timestamp())
    except (ValueError, OverflowError) as error:
        raise ConfigError(Problem.of(where, "commissioning.bad_time", value=text[:80])) from error


def shown_time(at_s: int) -> str:
    """Return POSIX seconds as `instant` takes them back: Chinese time, with its zone."""
    return datetime.fromtimestamp(at_s, CHINA).isoformat()


async def fetch_proofs(config: GatewayConfig, state: State, event: Event) -> bool:
    """Fetch the newest proofs of the register and keep them. Return whether the platform answered.

    False also for a plant without a platform. What does not verify is told through `event` and not kept.
    """
    enrolment = state.enrolment()
    if config.platform is None or enrolment is None or "register" not in enrolment:
        return False
    link = HttpLink(Address(url=config.platform.url, ca_file=config.platform_ca, proxy=config.platform.proxy,
                            answer_s=config.platform.timeout_s))
    try:
        answer = await link.register(state.gateway_id())
    except DeviceError as error:
        for problem in error.problems:
            event(problem.code, problem.where, **dict(problem.args))
        return False
    finally:
        await link.close()
    # Opened after the answer: a gateway that runs beside us may have sealed what the newest head covers.
    journal = open_journal(state)
    receipts = Receipts(journal, state.gateway_id(), Trust.of(enrolment), event)
    checkpoint = answer["register_checkpoint"]
    receipts.take([proof.encode() for proof in answer["proofs"]],
                  None if checkpoint is None else checkpoint.encode(), now_s=int(time.time()))
    return True


def open_journal(state: State) -> Journal:
    """Open the log to read, beside a gateway that may run. Raises ConfigError `commissioning.no_log`."""
    if not state.journal_dir.is_dir():
        raise ConfigError(Problem.of(str(state.journal_dir), "commissioning.no_log"))
    return Journal(RealDisk(state.journal_dir), where=state.journal_dir.name, writable=False)


def write(config: GatewayConfig, out: Path, first_s: int | None, end_s: int | None, shown: str = "none") -> Exported:
    """Write the bundle; `shown` is `none`, `all`, or slots with commas: devices whose private part is opened.

    Raises: ConfigError for an interval or slots that are none, EvidenceError, OSError.
    """
    if first_s is not None and end_s is not None and first_s >= end_s:
        raise ConfigError(Problem.of("--from, --to", "commissioning.bad_interval"))
    state = State(config.state_dir)
    journal = open_journal(state)
    return export_bundle(journal, out=out, first_s=first_s, end_s=end_s, openings=_shown(state, journal, shown))


def _shown(state: State, journal: Journal, shown: str) -> dict[int, bytes]:
    """Return slot -> opening of the devices to show. Raises ConfigError `commissioning.cannot_open` for every other."""
    if shown == "none" or journal.history.roster is None:
        return {}
    if shown == "all":
        return openings(state, journal, None)
    numbers = [text for text in shown.split(",") if re.fullmatch("[0-9]{1,6}", text)]
    found = openings(state, journal, map(int, numbers))
    bad = [text for text in shown.split(",") if text not in numbers or int(text) not in found]
    if bad:
        raise ConfigError([Problem.of("--open", "commissioning.cannot_open", slot=text[:40]) for text in bad])
    return found


def openings(state: State, journal: Journal, wanted: Iterable[int] | None) -> dict[int, bytes]:
    """Return slot -> JCS bytes of the opening of every wanted device (None: all) that is sealed as it is known here.

    What is not sealed yet (the ledger was changed a moment ago) would not agree with its row: it is left out.
    """
    if journal.history.roster is None:
        return {}
    held = roster.load(state.roster_file)
    sealed, _ = rosters.at(journal, journal.history.roster)
    known = {slot: device for slot, device in enumerate(held.devices if held else ())
             if slot < len(sealed) and format_.private_sha256(device.private) == sealed[slot]["private_sha256"]}
    key, gateway = state.enterprise_key(), state.gateway_id()
    return {slot: _opening(known[slot].private, slot, gateway, key)
            for slot in (known if wanted is None else wanted) if slot in known}


def _opening(private: Mapping[str, Any], slot: int, gateway: str, key: bytes) -> bytes:
    """Return an opening (evidence format, section 3): it shows one device and the blindings of its tags, never K."""
    values = format_.tag_values(private)
    return jcs.encode({
        "gateway": gateway, "slot": slot, "private": dict(private),
        "tags": [{"scheme": scheme, "r": format_.blinding(key, scheme, value).hex(), "value": value}
                 for scheme, value in sorted(values.items())]})
