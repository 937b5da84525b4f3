"""The platform is ahead: its copy of our own log, verified before the journal continues behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.counting.rows import PointRows, Row
from gateway.sealing import rosters
from gateway.sealing.history import History
from gateway.sealing.journal import Journal, grown_root
from protocols.errors import EvidenceError, Problem, VerificationError
from protocols.evidence import checkpoint as checkpoint_format
from protocols.evidence import entry, keys, note
from protocols.evidence.merkle import Tree, leaf_hash
from protocols.evidence.roster import rows_root


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What to take over: entries behind the `common` first ones, rows of their rosters, the signed checkpoint."""

    common: int
    encoded: Sequence[bytes]
    rosters: Mapping[int, bytes]
    checkpoint: bytes


def verify_tail(journal: Journal, gateway: str, *, first: int, encoded: Sequence[bytes], rows: Mapping[int, bytes],
                checkpoint: bytes) -> Tail | None:
    """Check entries [first, ...) that the platform holds of this gateway, signed by its own key.

    Returns None if the first `first` entries of the journal are not those of the platform: ask again from 0.
    Raises: EvidenceError `sealing.tail_refused` when what was sent is not a log of this gateway.
    """
    where = "platform tail"
    try:
        signed = note.parse(checkpoint, where=where)
        head = checkpoint_format.parse_text(signed.text, where=where)
        if head.origin != keys.gateway_origin(gateway) or head.size != first + len(encoded):
            raise VerificationError(Problem.of(where, "checkpoint.malformed"))
        prefix = journal.encoded(0, first)
        if grown_root(Tree(), [leaf_hash(e) for e in (*prefix, *encoded)]) != head.root:
            if first:
                return None
            raise VerificationError(Problem.of(where, "merkle.consistency", reason="the root differs"))
        everything = [*prefix, *encoded]
        values = [entry.decode(data, seq=seq) for seq, data in enumerate(everything)]
        _check(values, gateway, head.size, signed, where)
        kept = {seq: journal.roster_rows(seq) for seq, value in enumerate(values[:first]) if value["type"] == "roster"}
        all_rows = {**kept, **rows}
        _check_rows(values, all_rows, where)
    except VerificationError as error:
        raise EvidenceError(Problem.of(where, "sealing.tail_refused", reason=error.problems[0].code)) from error
    common = _common(journal, everything)
    return Tail(common=common, encoded=everything[common:], checkpoint=checkpoint,
                rosters={seq: data for seq, data in all_rows.items() if seq >= common})


def _check(values: Sequence[Mapping[str, Any]], gateway: str, size: int, signed: note.Note, where: str) -> None:
    history = History()
    for value in values:
        if value["gateway"] != gateway or value["life"] != history.life:
            raise VerificationError(Problem.of(where, "entry.misplaced", seq=value["seq"]))
        history = history.after(value)
    first_key = history.keys[0][1] if history.keys else ""
    if keys.gateway_id(bytes.fromhex(first_key)) != gateway:
        raise VerificationError(Problem.of(where, "enrolment.differs"))
    public = bytes.fromhex(history.key_at(size))
    note.require_signed(signed, note.VerifierKey(history.origin, note.ED25519, public), where=where)


def _check_rows(values: Sequence[Mapping[str, Any]], rows: Mapping[int, bytes], where: str) -> None:
    devices: list[Row] = []
    points = PointRows()
    for value in values:
        if value["type"] != "roster":
            continue
        seq = value["seq"]
        rosters.apply_lines(devices, points, rows.get(seq, b""), where=f"{where} roster {seq}")
        for table, held in (("devices", devices), ("points", points)):
            root = held.root() if isinstance(held, PointRows) else rows_root(held)
            if root != value[f"{table}_root"]:
                raise VerificationError(Problem.of(where, "roster.root", seq=seq, table=table))


def _common(journal: Journal, everything: Sequence[bytes]) -> int:
    """Return how many first entries the journal and the platform share."""
    low, high = 0, min(journal.size, len(everything))
    while low < high:  # roots of growing prefixes agree until the first difference
        middle = (low + high + 1) // 2
        if grown_root(Tree(), [leaf_hash(e) for e in everything[:middle]]) == journal.tree.root(middle):
            low = middle
        else:
            high = middle - 1
    return low
