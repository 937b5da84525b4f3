"""A real tile log: transparency-dev/tessera testdata/log at 1811ae1 (Apache-2.0), 16 checkpoints, 15 entries."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import EvidenceError, VerificationError
from protocols.evidence import checkpoint, keys, merkle, note, tiles
from protocols.evidence.directory import TileLog
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


class MemoryFiles(dict[str, bytes]):
    """Files in memory."""

    def read(self, path: str) -> bytes | None:
        return self.get(path)

    def write(self, path: str, data: bytes) -> None:
        self[path] = data


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6))
def test_a_tile_log_grows_and_reloads(batches: list[int]) -> None:
    key, files, written = keys.generate(), MemoryFiles(), list[bytes]()
    log = TileLog(files, where="log")
    for count in batches:
        more = [f"entry {len(written) + i}".encode() for i in range(count)]
        tree = log.grown(more)
        text = checkpoint.Checkpoint("example.org/log", tree.size, tree.root()).text
        log.append(more, note.format_note(text, [note.sign(text, key, name="example.org/log")]))
        written += more
        again = TileLog(files, where="log")
        assert again.entries(0, again.size) == written
        assert again.entries(again.size // 2, again.size) == written[again.size // 2 :]
    for level in (0, 1):
        for tile in tiles.tiles_of(level, len(written)):
            assert len(files[tile.path]) == 32 * tile.width
    files["tile/0/000" + ("" if len(written) >= 256 else f".p/{len(written)}")] = b"\0" * 32 * min(len(written), 256)
    with pytest.raises(EvidenceError):
        TileLog(files, where="log")
