"""Step 10: transcripts that open `reads` entries: which points were read, when they were due, and that they answered.

A transcript comes by --also, never in a bundle: it holds values. The entry committed to it when nobody knew that it
would be asked for, and which point is read at which millisecond follows from `seen`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocols.evidence import reads
from protocols.evidence.shape import require
from verifier.proof.also import where as also_where
from verifier.proof.findings import NO_ENTRY, PROBES, Findings
from verifier.proof.probes import Reads
from verifier.proof.rows import PointRow, Rosters


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTotals:
    """Reads of a bundle. entries: `reads` entries that hold; rows, answered: as they say.

    opened: entries whose transcript was brought and holds; opened_rows, opened_answered: in these; late: of these
    asked more than reads.TOLERANCE_MS after they were due.
    """

    entries: int = 0
    rows: int = 0
    answered: int = 0
    opened: int = 0
    opened_rows: int = 0
    opened_answered: int = 0
    late: int = 0

    def as_json(self) -> dict[str, int]:
        """Return the totals as docs/schemas/verify.schema.json describes them."""
        return {name: getattr(self, name) for name in self.__slots__}


NO_READS = ReadTotals()


def check(transcripts: Sequence[tuple[str, Mapping[str, Any]]], committed: Sequence[Reads], gateway: str,
          rosters: Rosters, found: Findings) -> ReadTotals:
    """Hold every transcript against the entry that it opens. One of another log, or of no entry here, is a remark."""
    by_seq = {one.seq: one for one in committed}
    points: dict[int, list[int] | None] = {}
    opened: dict[int, Mapping[str, Any]] = {}
    for name, value in transcripts:
        where = also_where(name)
        if not found.holds(PROBES, NO_ENTRY, require, reads.TRANSCRIPT, value, where=where):
            continue
        if value["gateway"] != gateway or value["seq"] not in by_seq:
            found.remark(PROBES, "reads.unrelated", where, gateway=value["gateway"], entry=value["seq"])
            continue
        one = by_seq[value["seq"]]
        roster = one.value["roster"]
        if roster not in points:
            points[roster] = _readable(rosters, roster)
        held = _holds(value["rows"], one, gateway, points[roster], where, found)
        if points[roster] is None:
            found.remark(PROBES, "reads.no_roster", where, seq=one.seq, roster=roster)
        elif held:
            opened[value["seq"]] = value
    rows = [row for value in opened.values() for row in value["rows"]]
    return ReadTotals(
        entries=len(committed), rows=sum(one.value["rows"] for one in committed),
        answered=sum(one.value["answered"] for one in committed), opened=len(opened), opened_rows=len(rows),
        opened_answered=sum(row["answered_ms"] is not None for row in rows), late=sum(map(reads.is_late, rows)))


def _readable(rosters: Rosters, seq: int) -> list[int] | None:
    """Return the slots that may be drawn under the roster of entry `seq`, None if the bundle does not hold it."""
    try:
        return [row.slot for row in rosters.at(seq).points if may_be_read(row)]
    except KeyError:
        return None


def may_be_read(row: PointRow) -> bool:
    """Return whether a point is drawn from: alive, of a protocol whose devices hold no key."""
    return row.alive and row.protocol in reads.PROTOCOLS


def _holds(rows: Sequence[Mapping[str, Any]], one: Reads, gateway: str, points: Sequence[int] | None, where: str,
           found: Findings) -> bool:
    """Compare a transcript with its entry; a fault for each way in which they differ."""
    seq, sealed = one.seq, one.value
    if reads.root(rows) != sealed["root"] and found.fault(PROBES, "reads.root", where, seq=seq, entry=seq):
        return False  # another transcript: nothing else of it says anything about the entry
    refused = False
    if len(rows) != sealed["rows"]:
        refused |= found.fault(PROBES, "reads.rows", where, seq=seq, rows=len(rows), expected=sealed["rows"])
    answered = sum(row["answered_ms"] is not None for row in rows)
    if answered != sealed["answered"]:
        refused |= found.fault(PROBES, "reads.answered", where, seq=seq, answered=answered,
                               expected=sealed["answered"])
    if points is not None and [(row["i"], row["point"], row["at_ms"]) for row in rows] != [
            (i, *due) for i, due in enumerate(reads.schedule(
                sealed["seen"], gateway=gateway, start_s=sealed["start_s"], len_s=one.len_s, points=points,
                count=len(rows)))]:
        refused |= found.fault(PROBES, "reads.schedule", where, seq=seq, entry=seq)
    broken = [row["i"] for row in rows if not reads.times_hold(row)]
    if broken:
        refused |= found.fault(PROBES, "reads.time", where, seq=seq, rows=len(broken), first=broken[0])
    return not refused
