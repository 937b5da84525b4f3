"""A log as static tiles in a directory that any web server can serve: what the platform mirrors and registers.

The order of durable steps: entry tiles, hash tiles, then the checkpoint. A crash between them leaves tiles that no
checkpoint covers yet; they are written again, with the same bytes or with others, before a checkpoint names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from protocols.errors import EvidenceError, Problem
from protocols.evidence import note, tiles
from protocols.evidence.checkpoint import Checkpoint, parse_text
from protocols.evidence.merkle import Tree, leaf_hash


class Files(Protocol):
    """Where tiles live. Paths are relative, with `/`."""

    def read(self, path: str) -> bytes | None:
        """Return the content, None if there is no such file."""

    def write(self, path: str, data: bytes) -> None:
        """Put `data` at `path`, whole or not at all, and durable (file and folder synced) when this returns."""


class TileLog:
    """A log of which everything below `size` is durable and covered by the stored checkpoint."""

    def __init__(self, files: Files, *, where: str) -> None:
        """Load the log. Raises EvidenceError `log.broken` when tiles and checkpoint do not agree."""
        self._files = files
        self._where = where
        self.checkpoint: bytes | None = files.read("checkpoint")
        self.tree = Tree()
        if self.checkpoint is None:
            return
        head = parse_text(note.parse(self.checkpoint, where=where).text, where=where)
        for tile in tiles.tiles_of(0, head.size):
            data = files.read(tile.path)
            if data is None or len(data) != 32 * tile.width:
                raise EvidenceError(Problem.of(where, "log.broken", reason=f"{tile.path} is missing or cut"))
            for leaf in tiles.split_hashes(data, tile, where=where):
                self.tree.append(leaf)
        if self.tree.root() != head.root:
            raise EvidenceError(Problem.of(where, "log.broken", reason="the tiles do not give the checkpoint's root"))

    @property
    def size(self) -> int:
        """Number of entries that the checkpoint covers."""
        return self.tree.size

    def entries(self, first: int, end: int) -> list[bytes]:
        """Return entries [first, end). Raises EvidenceError `log.broken`, ValueError beyond the log."""
        if not 0 <= first <= end <= self.size:
            raise ValueError(f"entries {first}..{end} of a log of {self.size}")
        result: list[bytes] = []
        for tile in tiles.tiles_of(None, self.size)[first // tiles.WIDTH : -(-end // tiles.WIDTH)]:
            data = self._files.read(tile.path)
            if data is None:
                raise EvidenceError(Problem.of(self._where, "log.broken", reason=f"{tile.path} is missing"))
            base = tile.number * tiles.WIDTH
            whole = tiles.split_entries(data, tile, where=self._where)
            result += whole[max(first - base, 0) : end - base]
        return result

    def grown(self, entries: Sequence[bytes]) -> Tree:
        """Return the tree with `entries` added; this log is unchanged."""
        tree = self.tree.copy()
        for entry in entries:
            tree.append(leaf_hash(entry))
        return tree

    def append(self, entries: Sequence[bytes], checkpoint: bytes) -> None:
        """Make `entries` and then the signed `checkpoint` that covers exactly them durable.

        Raises: ValueError if the checkpoint's size or root is not that of the grown log: nothing is written then.
        """
        head: Checkpoint = parse_text(note.parse(checkpoint, where=self._where).text, where=self._where)
        tree = self.grown(entries)
        if (head.size, head.root) != (tree.size, tree.root()):
            raise ValueError(f"a checkpoint of size {head.size} for a log of {tree.size}, or another root")
        first = self.size // tiles.WIDTH
        tail = self.entries(first * tiles.WIDTH, self.size) + list(entries)
        for tile in tiles.tiles_of(None, tree.size)[first:]:
            at = (tile.number - first) * tiles.WIDTH
            self._files.write(tile.path, tiles.join_entries(tail[at : at + tile.width]))
        level = 0
        while tree.size >> (8 * level):
            for tile in tiles.tiles_of(level, tree.size)[(self.size >> (8 * level)) // tiles.WIDTH :]:
                self._files.write(tile.path, tiles.hash_tile(tree, tile))
            level += 1
        self._files.write("checkpoint", checkpoint)
        self.tree, self.checkpoint = tree, checkpoint
