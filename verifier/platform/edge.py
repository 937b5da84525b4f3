"""The right edge of a tiled log: all that is needed to grow it, to give its root, and to cut its tiles.

A log of n entries is held by at most 255 hashes for every level of tiles; what lies left of the edge is in full tiles
that never change again. RFC 6962 trees, C2SP tlog-tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protocols.evidence.merkle import EMPTY_ROOT, node_hash
from protocols.evidence.tiles import WIDTH, Tile

LEVEL_BITS = 8
"""Levels of the tree in one level of tiles."""


@dataclass(frozen=True, slots=True)
class Edge:
    """`levels[k]`: the hashes of complete subtrees of 256^k leaves that are in no full tile of level k yet.

    `peaks`: the roots of the largest complete subtrees, from left to right, one for every bit of `size`. A leaf more
    costs two hashes on average, and the root as many as there are peaks, however long the log is.
    """

    size: int = 0
    levels: tuple[tuple[bytes, ...], ...] = ((),)
    peaks: tuple[bytes, ...] = ()

    @staticmethod
    def of(size: int, levels: Sequence[Sequence[bytes]]) -> Edge:
        """Return the edge with these hashes."""
        peaks = [peak for level in reversed(levels) for peak in _peaks(level)]
        return Edge(size, tuple(map(tuple, levels)), tuple(peaks))

    def root(self) -> bytes:
        """Return the root of the whole log."""
        if not self.peaks:
            return EMPTY_ROOT
        result = self.peaks[-1]
        for peak in self.peaks[-2::-1]:
            result = node_hash(peak, result)
        return result

    def grow(self, leaves: Iterable[bytes]) -> tuple[Edge, list[tuple[Tile, bytes]]]:
        """Return the edge with leaf hashes added, and every hash tile that became full, lowest level first."""
        levels = [list(level) for level in self.levels]
        peaks = list(self.peaks)
        full: list[tuple[Tile, bytes]] = []
        size = self.size
        for leaf in leaves:
            peaks.append(leaf)
            for _ in range((size & ~(size + 1)).bit_length()):  # as often as bits are set below the first clear one
                right = peaks.pop()
                peaks[-1] = node_hash(peaks[-1], right)
            size += 1
            node, level = leaf, 0
            while True:
                if level == len(levels):
                    levels.append([])
                levels[level].append(node)
                if len(levels[level]) < WIDTH:
                    break
                number = (size >> (LEVEL_BITS * (level + 1))) - 1
                full.append((Tile(level, number, WIDTH), b"".join(levels[level])))
                node = subtree_root(levels[level])
                levels[level] = []
                level += 1
        return Edge(size, tuple(map(tuple, levels)), tuple(peaks)), full

    def partial(self, level: int, width: int) -> bytes | None:
        """Return the partial hash tile of the edge at `level` with `width` hashes, None if it is not there."""
        if not (0 <= level < len(self.levels) and 0 < width <= len(self.levels[level])):
            return None
        return b"".join(self.levels[level][:width])


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over a power of two of equal subtrees."""
    row = list(hashes)
    while len(row) > 1:
        row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]


def _peaks(hashes: Sequence[bytes]) -> list[bytes]:
    """Return the roots of the largest complete subtrees of a run of equal subtrees, from left to right."""
    peaks, at = [], 0
    for bit in reversed(range(LEVEL_BITS)):
        if len(hashes) >> bit & 1:
            peaks.append(subtree_root(hashes[at : at + (1 << bit)]))
            at += 1 << bit
    return peaks
