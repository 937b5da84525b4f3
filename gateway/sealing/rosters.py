"""Rows of the roster as they are kept and sent: JSON lines, devices then points by slot, only what changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import chain

from gateway.counting.rows import PointRows, Row
from gateway.sealing.journal import Journal
from protocols.errors import EvidenceError, Problem, VerificationError
from protocols.evidence import jcs
from protocols.evidence.roster import ROW_BYTES_MAX, rows_root


def to_lines(device_rows: Iterable[Row], point_rows: PointRows, slots: Iterable[int] | None = None) -> bytes:
    """Return the rows as LF-ended JSON lines; of the points those of some slots, None for all."""
    text = BytesIO()  # and no object for each of 100 000 lines: the memory that they leave is in pieces
    for line in chain((jcs.encode(dict(row)) for row in device_rows),
                      map(point_rows.encoded, range(len(point_rows)) if slots is None else slots)):
        text.write(line)
        text.write(b"\n")
    return text.getvalue()


def changed(old: Sequence[Row], new: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows of `new` that `old` lacks or has otherwise."""
    return (row for index, row in enumerate(new) if index >= len(old) or row != old[index])


def apply_lines(devices: list[Row], points: PointRows, lines: bytes, *, where: str) -> None:
    """Put changed rows into the two lists, in place. Raises EvidenceError `journal.broken` for rows that are not ours.

    What the rows say is judged by the roots of the roster entry, not here.
    """
    def broken(reason: str) -> EvidenceError:
        return EvidenceError(Problem.of(where, "journal.broken", reason=reason))

    if not lines.endswith(b"\n"):
        raise broken("the last row is cut")
    for line in lines[:-1].split(b"\n"):
        try:
            row = jcs.decode(line, where=where, bytes_max=ROW_BYTES_MAX)
        except VerificationError as error:
            raise broken("a row cannot be read") from error
        is_point = isinstance(row, dict) and "point" in row
        slot = row.get("point" if is_point else "slot") if isinstance(row, dict) else None
        held = len(points if is_point else devices)
        if type(slot) is not int or not 0 <= slot <= held:
            raise broken(f"slot {slot} follows {held - 1}")
        if is_point:
            try:
                points.put(slot, row)
            except ValueError as error:
                raise broken("a row is none of a point") from error
        else:
            devices[slot : slot + 1] = [row]


def at(journal: Journal, seq: int) -> tuple[list[Row], PointRows]:
    """Return device and point rows in slot order as of the roster entry `seq`.

    Raises: EvidenceError `journal.broken` when rows are missing or do not give the roots of the entry.
    """
    chain = []
    walk = seq
    while walk >= 0:  # the chain of life names every roster
        value = journal.entry(walk)
        if value["type"] == "roster":
            chain.append(walk)
        walk = value["life"]
    devices: list[Row] = []
    points = PointRows()
    for number in reversed(chain):
        apply_lines(devices, points, journal.roster_rows(number), where=f"roster {number}")
    entry = journal.entry(seq)
    if (rows_root(devices), points.root()) != (entry["devices_root"], entry["points_root"]):
        raise EvidenceError(Problem.of(journal.where, "journal.broken", reason=f"the rows of roster {seq} differ"))
    return devices, points


def require_extends(old_devices: Sequence[Row], old_points: PointRows, devices: Sequence[Row],
                    points: PointRows) -> None:
    """Check that a roster continues the one before: slots are append-only and an identity never changes in its slot.

    Raises: EvidenceError `sealing.roster_rewritten` for every row that does not.
    """
    found = []
    if len(devices) < len(old_devices) or len(points) < len(old_points):
        found.append(Problem.of("roster", "sealing.roster_shrinks", devices=len(devices), points=len(points)))
    for old, new in zip(old_devices, devices, strict=False):
        revived = old["state"] == "gone" and new["state"] == "alive"
        lost = [t for t in old["tags"] if t not in new["tags"]]
        if revived or lost or new["kind"] != old["kind"] or new["replaces"] != old["replaces"]:
            found.append(Problem.of(f"roster device {old['slot']}", "sealing.roster_rewritten"))
    found += [Problem.of(f"roster point {slot}", "sealing.roster_rewritten") for slot in points.rewriting(old_points)]
    if found:
        raise EvidenceError(found)
