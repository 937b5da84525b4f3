"""Paths and contents of tiles. C2SP tlog-tiles v0.1.

A full tile holds 256 hashes (8192 bytes) or 256 entries; a partial one ends in `.p/<width>`. An entry bundle is
a run of big-endian uint16 lengths, each followed by its entry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocols.errors import Problem, VerificationError
from protocols.evidence.merkle import HASH_BYTES, Tree

WIDTH = 256
ENTRY_BYTES_MAX = 65_535
_PATH = re.compile(r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One tile. `level` is None for entries; `width` is 256 when full."""

    level: int | None
    number: int
    width: int

    @property
    def path(self) -> str:
        """Path below the log: tile/<L>/<N>[.p/<W>], N in groups of three digits."""
        groups = [f"{self.number % 1000:03d}"]
        rest = self.number // 1000
        while rest:
            groups.append(f"x{rest % 1000:03d}")
            rest //= 1000
        suffix = "" if self.width == WIDTH else f".p/{self.width}"
        level = "entries" if self.level is None else str(self.level)
        return f"tile/{level}/{'/'.join(reversed(groups))}{suffix}"


def parse_path(path: str) -> Tile | None:
    """Return the tile of a path, None unless the path is exactly how `Tile.path` writes it."""
    match = _PATH.fullmatch(path)
    if not match:
        return None
    level = None if match[1] == "entries" else int(match[1])
    number = int("".join(group.lstrip("x") for group in match[2].split("/")))
    tile = Tile(level, number, int(match[3]) if match[3] else WIDTH)
    return tile if tile.width <= WIDTH and tile.path == path else None


def tiles_of(level: int | None, size: int) -> list[Tile]:
    """Return every tile of one level (None: entries) of a log of `size` entries, the partial one last."""
    count = size >> (8 * (level or 0))
    tiles = [Tile(level, number, WIDTH) for number in range(count // WIDTH)]
    if count % WIDTH:
        tiles.append(Tile(level, count // WIDTH, count % WIDTH))
    return tiles


def hash_tile(tree: Tree, tile: Tile) -> bytes:
    """Return the bytes of a hash tile of `tree`: hash i is the root over 256^level leaves."""
    assert tile.level is not None
    first = tile.number * WIDTH
    return b"".join(tree.subtree(8 * tile.level, first + i) for i in range(tile.width))


def require_hashes(data: bytes, tile: Tile, *, where: str) -> bytes:
    """Return the hashes of a hash tile, packed. Raises VerificationError `tile.length`."""
    if len(data) != tile.width * HASH_BYTES:
        raise VerificationError(Problem.of(where, "tile.length", length=len(data), expected=tile.width * HASH_BYTES))
    return data


def split_hashes(data: bytes, tile: Tile, *, where: str) -> list[bytes]:
    """Return the hashes of a hash tile. Raises VerificationError `tile.length`."""
    require_hashes(data, tile, where=where)
    return [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]


def join_entries(entries: list[bytes]) -> bytes:
    """Return the bytes of an entry bundle. Raises ValueError for an entry above 65 535 bytes."""
    for entry in entries:
        if len(entry) > ENTRY_BYTES_MAX:
            raise ValueError(f"an entry of {len(entry)} bytes does not fit a tile")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def split_entries(data: bytes, tile: Tile, *, where: str) -> list[bytes]:
    """Return the entries of a bundle. Raises VerificationError `tile.entries`."""
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 2], "big")
        entry = data[at + 2 : at + 2 + length]
        if at + 2 > len(data) or len(entry) != length or len(entries) == tile.width:
            break
        entries.append(entry)
        at += 2 + length
    if at != len(data) or len(entries) != tile.width:
        raise VerificationError(Problem.of(where, "tile.entries", found=len(entries), expected=tile.width))
    return entries
