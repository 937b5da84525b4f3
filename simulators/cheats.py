"""What a claimant with root might do to a bundle. Each cheat rebuilds the container, so that only proofs can tell.

Used by the demo and by tests; each returns the members of a forged bundle and leaves the original alone.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from protocols.evidence import entry, jcs, keys, merkle, note, tiles
from protocols.evidence.bundle import write_bundle
from protocols.evidence.checkpoint import Checkpoint, parse_text
from protocols.evidence.encoding import from_base64, to_base64

Members = dict[str, bytes]


def read_members(path: Path) -> Members:
    """Return every member of a bundle but its README, which is written anew."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != "README.txt"}


def flip_bit(members: Members) -> Members:
    """Flip one bit in the middle of the last entry tile."""
    name = _last_entry_tile(members).path
    data = bytearray(members[name])
    data[len(data) // 2] ^= 0x10
    return {**members, name: bytes(data)}


def delete_entry(members: Members) -> Members:
    """Leave out the last window but one, entry and hash, and close the gap as if it had never been."""
    entries = _entries(members)
    victim = [seq for seq, value in entries.items() if _is_window(value)][-2]
    kept = [data for seq, data in entries.items() if seq != victim]
    leaves = _leaves(members)
    del leaves[victim]
    return _with_log(members, kept, leaves)


def change_window(members: Members) -> Members:
    """Change what the last window says of the first device, rebuild the tree, and sign it with another key."""
    entries = _entries(members)
    seq = [seq for seq, value in entries.items() if _is_window(value)][-1]
    value = jcs.parse(entries[seq], where="cheat", bytes_max=tiles.ENTRY_BYTES_MAX)
    claimed = bytearray(from_base64(value["columns"]["connected"], where="cheat"))
    claimed[0] ^= 1
    value["columns"]["connected"] = to_base64(bytes(claimed))
    entries[seq] = entry.encode(value)
    leaves = _leaves(members)
    leaves[seq] = merkle.leaf_hash(entries[seq])
    forged = _with_log(members, list(entries.values()), leaves)
    origin = parse_text(note.parse(members["checkpoint"], where="cheat").text, where="cheat").origin
    text = Checkpoint(origin, len(leaves), merkle.Tree(leaves).root()).text
    return {**forged, "checkpoint": note.format_note(text, [note.sign(text, keys.generate(), name=origin)])}


CHEATS: Mapping[str, tuple[Callable[[Members], Members], str]] = {
    "bit": (flip_bit, "entry.altered"),
    "deleted": (delete_entry, "tile.missing"),
    "resigned": (change_window, "note.unsigned"),
}
"""name -> (cheat, the code of the fault that must name it)."""


def write_cheat(name: str, source: Path, target: Path) -> str:
    """Write the bundle that a cheat makes of `source`; return the code that the verifier must give."""
    cheat, code = CHEATS[name]
    write_bundle(target, cheat(read_members(source)))
    return code


def _last_entry_tile(members: Members) -> tiles.Tile:
    found = [tile for tile in map(tiles.parse_path, members) if tile is not None and tile.level is None]
    return max(found, key=lambda tile: (tile.number, tile.width))


def _entries(members: Members) -> dict[int, bytes]:
    """Return seq -> bytes of the last entry tile."""
    tile = _last_entry_tile(members)
    whole = tiles.split_entries(members[tile.path], tile, where="cheat")
    return {tile.number * tiles.WIDTH + i: data for i, data in enumerate(whole)}


def _is_window(data: bytes) -> bool:
    value: Any = jcs.parse(data, where="cheat", bytes_max=tiles.ENTRY_BYTES_MAX)
    return bool(value["type"] == "window")


def _leaves(members: Members) -> list[bytes]:
    found = [tile for tile in map(tiles.parse_path, members) if tile is not None and tile.level == 0]
    return [leaf for tile in sorted(found, key=lambda tile: tile.number)
            for leaf in tiles.split_hashes(members[tile.path], tile, where="cheat")]


def _with_log(members: Members, last_tile: list[bytes], leaves: list[bytes]) -> Members:
    """Replace the last entry tile and all hash tiles; the checkpoint stays as it was."""
    old = _last_entry_tile(members)
    kept = {name: data for name, data in members.items() if not name.startswith("tile/0/") and name != old.path}
    new = tiles.Tile(None, old.number, len(last_tile))
    tree = merkle.Tree(leaves)
    hashes = {tile.path: tiles.hash_tile(tree, tile) for tile in tiles.tiles_of(0, tree.size)}
    return {**kept, new.path: tiles.join_entries(last_tile), **hashes}
