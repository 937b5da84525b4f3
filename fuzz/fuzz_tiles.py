"""Tile paths, and the contents of tiles: the first line is a path, the rest is what lies there."""

from fuzz.harness import only, start, watched

with watched("protocols.evidence"):
    from protocols.errors import VerificationError
    from protocols.evidence import tiles


def check(data: bytes) -> None:
    """One path and one content."""
    name, _, content = data.partition(b"\n")
    tile = tiles.parse_path(name.decode("utf-8", "replace"))
    if tile is None:
        return
    assert tile.path.encode() == name and 1 <= tile.width <= tiles.WIDTH
    with only(VerificationError):
        if tile.level is None:
            assert tiles.join_entries(tiles.split_entries(content, tile, where="tile")) == content
        else:
            assert b"".join(tiles.split_hashes(content, tile, where="tile")) == content


if __name__ == "__main__":
    start(check)
