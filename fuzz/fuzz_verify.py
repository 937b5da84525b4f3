"""The whole verifier behind a claimant with the right keys: any entries, under honest tiles and a valid signature.

The input is a run of entries as a tile holds them. Tree, hash tile and checkpoint are made to fit.
"""

from fuzz.harness import only, start, watched

with watched("protocols.evidence", "verifier.proof"):
    from protocols.errors import VerificationError
    from protocols.evidence import bundle, merkle, tiles
    from verifier.conformance import world
    from verifier.proof.verify import verify

PLANT = world.small()[1]
OTHERS = {name: data for name, data in PLANT.members().items()
          if tiles.parse_path(name) is None and not name.startswith(("entry/", "checkpoint"))}
POLICY = PLANT.world.policy()


def entries_of(data: bytes) -> list[bytes]:
    """Cut entries at their lengths; what is left over is the last one."""
    found: list[bytes] = []
    while data and len(found) < tiles.WIDTH:
        end = 2 + int.from_bytes(data[:2], "big")
        found.append(data[2:end])
        data = data[end:]
    return found


def check(data: bytes) -> None:
    """One log."""
    entries = entries_of(data)
    if not entries:
        return
    PLANT.entries, PLANT.tree = entries, merkle.Tree([merkle.leaf_hash(one) for one in entries])
    members = dict(OTHERS) | {"checkpoint": PLANT.checkpoint()}
    for level in (None, 0):
        for tile in tiles.tiles_of(level, len(entries)):
            members[tile.path] = tiles.join_entries(entries) if level is None else tiles.hash_tile(PLANT.tree, tile)
    with only(VerificationError):
        found = verify(bundle.open_bundle(world.zipped(members)), POLICY)
        assert found.valid == (not any(one.severity == "fault" for one in found.findings))


if __name__ == "__main__":
    start(check)
