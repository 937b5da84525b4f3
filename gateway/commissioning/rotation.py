"""`rotate`: another key for this gateway's log, said by the log itself and signed by the old key.

The order of durable steps: the new key, then the entry, then a checkpoint that the new key signs. A cut before the
entry leaves a key that signs nothing; the next `rotate` uses it. Old keys stay: older checkpoints are signed with them
again when the platform asks for what it lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

from config.gateway import GatewayConfig
from gateway.commissioning.state import State
from gateway.sealing.disk import RealDisk
from gateway.sealing.journal import Journal
from gateway.sealing.link import Address, Link
from gateway.sealing.sealer import Event, Sealer
from gateway.sealing.submitter import Submitter
from protocols.errors import ConfigError, EvidenceError, Problem
from protocols.evidence import keys

STARTED = 2
"""Entries of a log that has begun: `enrolment` and `start` come first, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """The entry `seq` changed `old_key` to `new_key` (64 hex). compared: with the platform, None where none is."""

    seq: int
    old_key: str
    new_key: str
    compared: bool | None


async def rotate(config: GatewayConfig, state: State, event: Event, *, link: Link | None = None) -> Rotated:
    """Change the key of a gateway that is stopped. `link`: instead of HTTP, for tests.

    Raises: ConfigError when it is not enrolled or never ran; EvidenceError `journal.locked` while it runs,
    `statements.rotate_behind` or `sealing.fork` when the platform has entries of it that it lacks; OSError.
    """
    enrolment = state.enrolment()
    if enrolment is None:
        raise ConfigError(Problem.of(str(config.file), "agent.not_enrolled", config=config.file.name))
    if not state.journal_dir.is_dir():
        raise ConfigError(Problem.of(str(state.journal_dir), "statements.rotate_too_early"))
    journal = Journal(RealDisk(state.journal_dir), where=str(state.journal_dir))
    try:
        if journal.size < STARTED:
            raise ConfigError(Problem.of(journal.where, "statements.rotate_too_early"))
        if journal.branch.before is not None and journal.size == journal.branch.taken:
            raise EvidenceError(Problem.of(journal.where, "statements.rotate_behind"))
        sealer = Sealer(journal, state.gateway_keys(), event)
        compared = None
        if config.platform is not None:
            address = Address(url=config.platform.url, ca_file=config.platform_ca, proxy=config.platform.proxy,
                              answer_s=config.platform.timeout_s)
            submitter = Submitter(address, sealer, enrolment, event, link=link)
            try:
                asked = await submitter.ask_size()
            finally:
                await submitter.close()
            if asked is not None and not asked[1]:  # sealed now, the entry would begin a second history
                raise EvidenceError(Problem.of(journal.where, "statements.rotate_behind"))
            compared = asked is not None
        seq, old = journal.size, journal.history.key
        new = state.next_gateway_key({key for _, key in journal.history.keys})
        sealer.rotate(new)
        return Rotated(seq=seq, old_key=old, new_key=keys.public_bytes(new).hex(), compared=compared)
    finally:
        journal.close()
