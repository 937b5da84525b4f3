"""Merkle proofs against transparency-dev/merkle (testdata at 417fb0c, Apache-2.0, files unchanged)."""

from __future__ import annotations

import base64
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import VerificationError
from protocols.evidence import merkle
from tests.support.vectors import vectors

INCLUSION = vectors("merkle/inclusion", "**/*.json", 98)
CONSISTENCY = vectors("merkle/consistency", "**/*.json", 98)


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def load(path: Path) -> tuple[dict[str, Any], Any]:
    case = json.loads(path.read_text())
    expectation = pytest.raises(VerificationError) if case["wantErr"] else nullcontext()
    return case, expectation


def raw(text: str | None) -> bytes:
    return base64.b64decode(text) if text else b""


@pytest.mark.parametrize("path", INCLUSION, ids=name)
def test_inclusion_agrees_with_published_vector(path: Path) -> None:
    case, expectation = load(path)
    with expectation:
        merkle.verify_inclusion(leaf=raw(case["leafHash"]), index=case["leafIdx"], size=case["treeSize"],
                                proof=[raw(h) for h in case["proof"] or []], root=raw(case["root"]), where="")


@pytest.mark.parametrize("path", CONSISTENCY, ids=name)
def test_consistency_agrees_with_published_vector(path: Path) -> None:
    """Size 0 is an error here, as in the vectors; the witness decides that case by itself."""
    case, expectation = load(path)
    with expectation:
        merkle.verify_consistency(old_size=case["size1"], new_size=case["size2"],
                                  proof=[raw(h) for h in case["proof"] or []], old_root=raw(case["root1"]),
                                  new_root=raw(case["root2"]), where="")


def slow_root(entries: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not entries:
        return merkle.EMPTY_ROOT
    if len(entries) == 1:
        return merkle.leaf_hash(entries[0])
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return merkle.node_hash(slow_root(entries[:split]), slow_root(entries[split:]))


@given(st.integers(1, 600).flatmap(lambda size: st.tuples(
    st.just(size), st.integers(0, size - 1), st.integers(1, size))))
def test_tree_gives_the_root_of_the_definition_and_proofs_that_verify(case: tuple[int, int, int]) -> None:
    size, index, old = case
    entries = [i.to_bytes(2, "big") for i in range(size)]
    tree = merkle.Tree(map(merkle.leaf_hash, entries))
    assert tree.root() == slow_root(entries)
    assert tree.root(old) == slow_root(entries[:old])
    merkle.verify_inclusion(leaf=tree.leaf(index), index=index, size=size, proof=tree.inclusion(index, size),
                            root=tree.root(), where="")
    merkle.verify_consistency(old_size=old, new_size=size, proof=tree.consistency(old, size), old_root=tree.root(old),
                              new_root=tree.root(), where="")


def test_a_proof_does_not_bind_the_index_unless_the_size_is_authentic() -> None:
    """Leaf 4 of 5 verifies as leaf 1 of 2 under the same root: why size and root come only from the checkpoint."""
    tree = merkle.Tree(merkle.leaf_hash(bytes([i])) for i in range(5))
    claim = {"leaf": tree.leaf(4), "proof": tree.inclusion(4, 5), "root": tree.root(), "where": ""}
    merkle.verify_inclusion(index=4, size=5, **claim)
    merkle.verify_inclusion(index=1, size=2, **claim)


@given(st.lists(st.integers(0, 600), max_size=6))
def test_a_tree_extended_in_runs_is_the_tree_appended_one_by_one(runs: list[int]) -> None:
    one_by_one, in_runs, count = merkle.Tree(), merkle.Tree(), 0
    for run in runs:
        leaves = [merkle.leaf_hash(b"%d" % i) for i in range(count, count + run)]
        for leaf in leaves:
            one_by_one.append(leaf)
        in_runs.extend(b"".join(leaves))
        count += run
        assert in_runs.size == count and in_runs.root() == one_by_one.root()
        for level in range(count.bit_length()):
            for index in range(count >> level):
                assert in_runs.subtree(level, index) == one_by_one.subtree(level, index)
    assert in_runs.leaves(0, count) == b"".join(in_runs.leaf(i) for i in range(count))
