"""Proof of equivocation: two signed statements of one log that no single history can contain, in one file.

    {"type": "tallystick/equivocation/v1", "a": text, "b": text}

Each text is a signed checkpoint, or a tlog-proof with its checkpoint. A checkpoint fixes the root at its size. A
tlog-proof fixes more: the leaf, its siblings and the nodes above it. A node over a complete subtree (2^k entries from
a multiple of 2^k on) never changes while a log grows, so two texts contradict each other when they give one size two
roots, or one such node two hashes. Two entries at one index are the smallest case of the second.

Nothing here looks at a signature: whose word the texts are is for the checker's policy to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocols.evidence import jcs, merkle, note, proof
from protocols.evidence.checkpoint import Checkpoint, parse_text
from protocols.evidence.shape import Object, OneOf, Text, require

TYPE = "tallystick/equivocation/v1"
EQUIVOCATION = Object({"type": OneOf((TYPE,)), "a": Text(proof.PROOF_BYTES_MAX), "b": Text(proof.PROOF_BYTES_MAX)})

Node = tuple[int, int]
"""(level, index): the subtree over entries [index * 2^level, (index + 1) * 2^level)."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One text, with what it fixes. A tlog-proof was checked against its own checkpoint; no signature was.

    nodes: hash of every complete subtree that the text fixes.
    """

    text: str
    note: note.Note
    head: Checkpoint
    nodes: Mapping[Node, bytes]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """What cannot be: two roots at `size`, or, if `size` is None, two hashes over entries [first, end)."""

    size: int | None
    first: int
    end: int


def encode(a: str, b: str) -> bytes:
    """Return the bytes of the file."""
    return jcs.encode({"type": TYPE, "a": a, "b": b})


def texts(value: Any, *, where: str) -> tuple[str, str]:
    """Return the two texts of a parsed file. Raises VerificationError `shape.*`."""
    require(EQUIVOCATION, value, where=where)
    return value["a"], value["b"]


def read(data: bytes, *, where: str) -> Statement:
    """Read a signed checkpoint or a tlog-proof. Raises VerificationError: malformed, or the proof does not hold."""
    leaf: tuple[int, bytes] | None = None
    hashes: tuple[bytes, ...] = ()
    signed = data
    if data.startswith(proof.HEADER.encode()):
        parsed = proof.parse(data, where=where)
        leaf, hashes, signed = (parsed.index, merkle.leaf_hash(parsed.extra)), parsed.hashes, parsed.checkpoint
    signed_note = note.parse(signed, where=where)
    head = parse_text(signed_note.text, where=where)
    nodes: dict[Node, bytes] = {}
    if leaf is not None:
        merkle.verify_inclusion(leaf=leaf[1], index=leaf[0], size=head.size, proof=hashes, root=head.root, where=where)
        nodes = _nodes(*leaf, head.size, hashes)
    if head.size and head.size & (head.size - 1) == 0:
        nodes[head.size.bit_length() - 1, 0] = head.root
    return Statement(data.decode("utf-8"), signed_note, head, nodes)


def _nodes(index: int, leaf: bytes, size: int, hashes: tuple[bytes, ...]) -> dict[Node, bytes]:
    """Return every complete subtree that an inclusion proof, which holds, gives a hash to."""
    nodes = {(0, index): leaf}
    level, own, last = 0, leaf, size - 1
    for sibling in hashes:
        if index & 1 or index == last:
            while not index & 1:  # an incomplete subtree at the right edge has no sibling on these levels
                level, index, last = level + 1, index >> 1, last >> 1
            nodes[level, index - 1] = sibling
            own = merkle.node_hash(sibling, own)
        else:
            if (index + 2) << level <= size:
                nodes[level, index + 1] = sibling
            own = merkle.node_hash(own, sibling)
        level, index, last = level + 1, index >> 1, last >> 1
        if (index + 1) << level <= size:
            nodes[level, index] = own
    return nodes


def contradiction(a: Statement, b: Statement) -> Contradiction | None:
    """Return why no log holds both, None if one may. The smallest contradiction, so that all checkers name the same."""
    if a.head.origin != b.head.origin:
        return None
    differing = [node for node in a.nodes.keys() & b.nodes.keys() if a.nodes[node] != b.nodes[node]]
    if differing:
        level, index = min(differing)
        return Contradiction(None, index << level, (index + 1) << level)
    if a.head.size == b.head.size and a.head.root != b.head.root:
        return Contradiction(a.head.size, 0, a.head.size)
    return None
