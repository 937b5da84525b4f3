"""Openings: one device shown, with all that proves its row and nothing of any other device.

A file of type tallystick/opening/v1 holds the private part, the public row, and the hashes that lead from the row to
`devices_root` of a roster entry: 16 of them among 65 536 devices. The blindings of the tags are in it, K never is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import jcs, merkle, roster
from protocols.evidence.column import BITS_MAX
from protocols.evidence.encoding import from_hex
from protocols.evidence.shape import Hex, Integer, ListOf, Object, OneOf, require

TYPE = "tallystick/opening/v1"
HASHES_MAX = (BITS_MAX - 1).bit_length()

FILE = Object({
    "type": OneOf((TYPE,)), "opening": roster.OPENING, "row": roster.DEVICE_ROW, "roster": Integer(),
    "index": roster.SLOT, "size": Integer(1, BITS_MAX), "hashes": ListOf(Hex(32), HASHES_MAX),
})
"""roster: seq of the entry. index, size, hashes: place of the row below its devices_root, sibling of the leaf first."""


def build(opening: Mapping[str, Any], row: Mapping[str, Any], *, roster_seq: int, tree: merkle.Tree) -> dict[str, Any]:
    """Return the file that opens the device of `row`. tree: over the JCS of all device rows of that roster."""
    index = row["slot"]
    return {"type": TYPE, "opening": dict(opening), "row": dict(row), "roster": roster_seq, "index": index,
            "size": tree.size, "hashes": [node.hex() for node in tree.inclusion(index, tree.size)]}


def verify_row(value: Mapping[str, Any], *, root: bytes, size: int, where: str) -> None:
    """Check a file by itself and against the root of a roster with `size` devices, both from a roster entry.

    Raises: VerificationError of the shape, of `verify`, `opening.misplaced` or `merkle.inclusion`.
    """
    require(FILE, value, where=where)
    row, opening = value["row"], value["opening"]
    if not row["slot"] == value["index"] == opening["slot"] or value["size"] != size:
        raise VerificationError(Problem.of(where, "opening.misplaced", slot=opening["slot"]))
    merkle.verify_inclusion(
        leaf=merkle.leaf_hash(jcs.encode(dict(row))), index=value["index"], size=size,
        proof=[bytes.fromhex(node) for node in value["hashes"]], root=root, where=where)
    verify(opening, private_sha256=row["private_sha256"], kind=row["kind"],
           tags=[(tag["scheme"], tag["tag"]) for tag in row["tags"]], where=where)


def verify(opening: Mapping[str, Any], *, private_sha256: str, kind: str | None,
           tags: Sequence[tuple[str, str]] | frozenset[tuple[str, str]], where: str) -> None:
    """Check that the private part is that of a row: its digest, its kind, and every one of its tags.

    Raises: VerificationError `opening.private`, `opening.kind` or `opening.tags`.
    """
    slot, private = opening["slot"], opening["private"]
    if roster.private_sha256(private) != private_sha256:
        raise VerificationError(Problem.of(where, "opening.private", slot=slot))
    if roster.kind(private["maker"], private["model"]) != kind:
        raise VerificationError(Problem.of(where, "opening.kind", slot=slot))
    values = roster.tag_values(private)
    shown = {(t["scheme"], roster.tag(t["scheme"], from_hex(t["r"], where=where), t["value"]))
             for t in opening["tags"]}
    if shown != set(tags) or len(shown) != len(opening["tags"]) or any(
            values.get(t["scheme"]) != t["value"] for t in opening["tags"]):
        raise VerificationError(Problem.of(where, "opening.tags", slot=slot))
