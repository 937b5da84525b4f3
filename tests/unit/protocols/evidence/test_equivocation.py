"""Two statements contradict each other exactly when no one log holds both."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import VerificationError
from protocols.evidence import equivocation, merkle, note, proof
from protocols.evidence.checkpoint import Checkpoint
from verifier.conformance.world import key_of


def tree_of(entries: list[bytes]) -> merkle.Tree:
    return merkle.Tree(merkle.leaf_hash(entry) for entry in entries)


def head(tree: merkle.Tree, size: int) -> bytes:
    text = Checkpoint("log.example", size, tree.root(size)).text
    return note.format_note(text, [note.sign(text, key_of("log"), name="log.example")])


def proven(entries: list[bytes], tree: merkle.Tree, index: int, size: int) -> bytes:
    return proof.LogProof(index, tuple(tree.inclusion(index, size)), head(tree, size), entries[index]).encode()


def entries_of(count: int, *, other_from: int | None = None) -> list[bytes]:
    return [b"entry %d%s" % (i, b" other" if other_from is not None and i >= other_from else b"") for i in range(count)]


def read(data: bytes) -> equivocation.Statement:
    return equivocation.read(data, where="t")


def true_node(entries: list[bytes], level: int, index: int) -> bytes:
    """RFC 6962 by its recursive definition, not by the code under test."""
    part = entries[index << level : (index + 1) << level]
    hashes = [hashlib.sha256(b"\0" + entry).digest() for entry in part]
    while len(hashes) > 1:
        hashes = [hashlib.sha256(b"\1" + a + b).digest() for a, b in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


@pytest.mark.parametrize("size", range(1, 34))
def test_every_node_that_a_proof_fixes_is_that_of_the_tree(size: int) -> None:
    entries = entries_of(size)
    tree = tree_of(entries)
    for index in range(size):
        nodes = read(proven(entries, tree, index, size)).nodes
        assert (0, index) in nodes
        for (level, at), known in nodes.items():
            assert (at + 1) << level <= size
            assert known == true_node(entries, level, at)
        covered = sorted(i for level, at in nodes for i in range(at << level, (at + 1) << level))
        # The siblings on the left and the leaf cover everything up to the index.
        assert set(range(index + 1)) <= set(covered)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_one_log_never_contradicts_itself(seed: int) -> None:
    rng = random.Random(seed)
    entries = entries_of(rng.randint(1, 300))
    tree = tree_of(entries)
    said = []
    for _ in range(8):
        size = rng.randint(1, len(entries))
        said.append(read(head(tree, size) if rng.random() < 0.3 else proven(entries, tree, rng.randrange(size), size)))
    assert all(equivocation.contradiction(a, b) is None for a in said for b in said)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_fork_shows_at_any_index_behind_it(seed: int) -> None:
    """Two histories that part at entry d: proofs of one index at or behind d, whatever the two sizes, contradict."""
    rng = random.Random(seed)
    parting = rng.randint(0, 200)
    sizes = [rng.randint(parting + 1, 260) for _ in "ab"]
    index = rng.randint(parting, min(sizes) - 1)
    one, two = entries_of(max(sizes)), entries_of(max(sizes), other_from=parting)
    if rng.random() < 0.5 and index > parting:  # also when the entry at the index itself is the same
        two[index] = one[index]
    a = read(proven(one, tree_of(one), index, sizes[0]))
    b = read(proven(two, tree_of(two), index, sizes[1]))
    why = equivocation.contradiction(a, b)
    assert why is not None
    assert equivocation.contradiction(b, a) == why
    assert one[why.first : why.end] != two[why.first : why.end]


def test_the_smallest_contradiction_is_named() -> None:
    one, two = entries_of(9), entries_of(12)
    two[4] = b"another"
    a, b = read(proven(one, tree_of(one), 4, 9)), read(proven(two, tree_of(two), 4, 12))
    assert equivocation.contradiction(a, b) == equivocation.Contradiction(None, 4, 5)
    a, b = read(head(tree_of(one), 9)), read(head(tree_of(two), 9))
    assert equivocation.contradiction(a, b) == equivocation.Contradiction(9, 0, 9)
    # A checkpoint of 2^k entries fixes a complete subtree, so it also meets proofs of larger trees.
    a, b = read(head(tree_of(one), 8)), read(proven(two, tree_of(two), 7, 12))
    assert equivocation.contradiction(a, b) == equivocation.Contradiction(None, 0, 8)


def test_another_origin_is_another_log() -> None:
    tree = tree_of(entries_of(3))
    text = Checkpoint("other.example", 3, bytes(32)).text
    other = note.format_note(text, [note.sign(text, key_of("log"), name="other.example")])
    assert equivocation.contradiction(read(head(tree, 3)), read(other)) is None


def test_a_proof_that_does_not_hold_is_no_statement() -> None:
    entries = entries_of(5)
    tree = tree_of(entries)
    good = proof.parse(proven(entries, tree, 4, 5), where="t")
    for bad in (proof.LogProof(1, good.hashes, good.checkpoint, good.extra),
                proof.LogProof(4, good.hashes, head(tree, 2), good.extra),
                proof.LogProof(4, good.hashes, good.checkpoint, good.extra + b" "),
                proof.LogProof(4, (*good.hashes, bytes(32)), good.checkpoint, good.extra)):
        with pytest.raises(VerificationError) as caught:
            read(bad.encode())
        assert caught.value.problems[0].code == "merkle.inclusion"


def test_the_five_leaf_case_is_refused() -> None:
    """Leaf 4 of 5 has the same one-hash proof and root as "index 1 of size 2": only the checkpoint says the size."""
    entries = entries_of(5)
    tree = tree_of(entries)
    hashes = tree.inclusion(4, 5)
    assert len(hashes) == 1 and merkle.node_hash(hashes[0], merkle.leaf_hash(entries[4])) == tree.root(5)
    merkle.verify_inclusion(leaf=merkle.leaf_hash(entries[4]), index=1, size=2, proof=hashes, root=tree.root(5),
                            where="the case itself: with a forged size the same hashes hold")
    forged = proof.LogProof(1, tuple(hashes), head(tree, 5), entries[4]).encode()
    with pytest.raises(VerificationError) as caught:
        read(forged)
    assert caught.value.problems[0].code == "merkle.inclusion"


def test_the_file_is_closed() -> None:
    assert equivocation.texts({"type": equivocation.TYPE, "a": "x", "b": "y"}, where="t") == ("x", "y")
    for bad in ({"type": equivocation.TYPE, "a": "x"}, {"type": equivocation.TYPE, "a": "x", "b": "y", "c": 1},
                {"type": "tallystick/equivocation/v2", "a": "x", "b": "y"},
                {"type": equivocation.TYPE, "a": 1, "b": "y"}, []):
        with pytest.raises(VerificationError):
            equivocation.texts(bad, where="t")
