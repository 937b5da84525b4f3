"""A real tile log: transparency-dev/tessera testdata/log at 1811ae1 (Apache-2.0), 16 checkpoints, 15 entries."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import VerificationError
from protocols.evidence import checkpoint, merkle, note, tiles
from tests.support.vectors import vectors

HEADS = vectors("tessera_log", "checkpoint.*", 16)
LOG = HEADS[0].parent
VKEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"


@pytest.mark.parametrize("path", HEADS, ids=lambda p: p.name)
def test_every_published_checkpoint_verifies_and_matches_its_tiles(path: Path) -> None:
    parsed = note.parse(path.read_bytes(), where="checkpoint")
    note.require_signed(parsed, note.parse_verifier_key(VKEY, where="vkey"), where="checkpoint")
    head = checkpoint.parse_text(parsed.text, where="checkpoint")
    assert path.name == f"checkpoint.{head.size}"
    entries: list[bytes] = []
    hashes: list[bytes] = []
    for tile in tiles.tiles_of(None, head.size):
        entries += tiles.split_entries((LOG / tile.path).read_bytes(), tile, where="")
    for tile in tiles.tiles_of(0, head.size):
        hashes += tiles.split_hashes((LOG / tile.path).read_bytes(), tile, where="")
    assert [merkle.leaf_hash(entry) for entry in entries] == hashes
    assert merkle.Tree(hashes).root() == head.root


def test_a_flipped_bit_in_a_published_checkpoint_is_refused() -> None:
    key = note.parse_verifier_key(VKEY, where="vkey")
    data = (LOG / "checkpoint.14").read_bytes()
    for at in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(VerificationError):
            parsed = note.parse(bytes(flipped), where="")
            note.require_signed(parsed, key, where="")
            checkpoint.parse_text(parsed.text, where="")


@given(st.integers(0, 10**9), st.one_of(st.none(), st.integers(0, 5)), st.integers(1, 256))
def test_tile_paths_read_back(number: int, level: int | None, width: int) -> None:
    tile = tiles.Tile(level, number, width)
    assert tiles.parse_path(tile.path) == tile


@pytest.mark.parametrize("path", [
    "tile/0/1234067", "tile/0/x001/x234/x067", "tile/0/x000/001", "tile/00/000", "tile/64/000", "tile/0/000.p/0",
    "tile/0/000.p/256", "tile/0/000.p/257", "tile/0/000/", "tile/0/../000", "Tile/0/000", "tile/0/000.p/01"])
def test_other_spellings_of_tile_paths_are_no_tiles(path: str) -> None:
    assert tiles.parse_path(path) is None


def test_the_path_of_the_specification() -> None:
    assert tiles.Tile(0, 1234067, 256).path == "tile/0/x001/x234/067"


@given(st.integers(1, 700))
def test_hash_tiles_of_every_level_are_the_roots_of_their_subtrees(size: int) -> None:
    leaves = [merkle.leaf_hash(i.to_bytes(2, "big")) for i in range(size)]
    tree = merkle.Tree(leaves)
    for tile in tiles.tiles_of(0, size):
        first = tile.number * 256
        assert tiles.hash_tile(tree, tile) == b"".join(leaves[first : first + tile.width])
    for tile in tiles.tiles_of(1, size):
        roots = [merkle.Tree(leaves[256 * i : 256 * (i + 1)]).root() for i in range(tile.width)]
        assert tiles.hash_tile(tree, tile) == b"".join(roots)
    assert tiles.tiles_of(1, 255) == []
