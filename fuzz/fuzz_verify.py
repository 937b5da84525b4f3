"""The whole verifier behind a claimant with the right keys: any entries, under honest tiles and a valid signature.

The input is a run of entries as a tile holds them. Tree, hash tile and checkpoint are made to fit.
"""

import json
import random
from typing import Any

from fuzz.harness import only, start, watched

with watched("protocols.evidence", "verifier.proof"):
    from protocols.errors import VerificationError
    from protocols.evidence import entry, jcs, merkle, tiles
    from verifier.conformance import world
    from verifier.proof.verify import verify

from fuzz.held import Held, remember

PLANT = world.small()[1]
OTHERS = {name: data for name, data in PLANT.members().items()
          if tiles.parse_path(name) is None and not name.startswith(("entry/", "checkpoint"))}
POLICY = PLANT.world.policy()
VALUES: tuple[Any, ...] = (
    0, 1, -1, 2, 60, 300, 2**53 - 1, world.START_S, world.START_S + 120, "", "x", None, True, [], {}, "0" * 64)


def entries_of(data: bytes) -> list[bytes]:
    """Cut entries at their lengths; what is left over is the last one."""
    found: list[bytes] = []
    while data and len(found) < tiles.WIDTH:
        end = 2 + int.from_bytes(data[:2], "big")
        found.append(data[2:end])
        data = data[end:]
    return found


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a field of one entry, or the order of entries; often every entry gets its right place again."""
    entries = entries_of(data) or [b"{}"]
    at, other = chance.randrange(len(entries)), chance.randrange(len(entries))
    match chance.randrange(6):
        case 0:
            entries[at], entries[other] = entries[other], entries[at]
        case 1:
            entries.insert(at, entries[other])
        case 2:
            del entries[at]
        case _:
            with only(ValueError, RecursionError):
                value = json.loads(entries[at])
                _change(value, [json.loads(one) for one in entries], chance)
                entries[at] = jcs.encode(value)
    if chance.random() < 0.7:
        with only(ValueError, RecursionError):
            entries = _placed(entries)
    return b"".join(len(one).to_bytes(2, "big") + one for one in entries if len(one) <= tiles.ENTRY_BYTES_MAX)


def _change(value: Any, pool: list[Any], chance: random.Random) -> None:
    """Replace one field, however deep, by a value that another field of that name has, or by any other."""
    name = ""
    while isinstance(value, dict) and value:
        name = chance.choice(sorted(value))
        if not isinstance(value[name], dict) or chance.random() < 0.2:
            break
        value = value[name]
    if not isinstance(value, dict):
        return
    same = [one[name] for one in pool if isinstance(one, dict) and name in one]
    now = value.get(name)
    near = [now + step for step in (-60, -1, 1, 60)] if isinstance(now, int) and not isinstance(now, bool) else []
    value[name] = chance.choice([*same, *near, *chance.sample(VALUES, 3)])


def _placed(entries: list[bytes]) -> list[bytes]:
    """Write index and chain anew, so that what was changed is looked at instead of being out of place."""
    life, placed = -1, []
    for seq, data in enumerate(entries):
        value = json.loads(data)
        placed.append(jcs.encode(value | {"seq": seq, "life": life}) if isinstance(value, dict) else data)
        if isinstance(value, dict) and value.get("type") in entry.LIFE_TYPES:
            life = seq
    return placed


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
        found = verify(Held(members), POLICY)
        assert found.valid == (not any(one.severity == "fault" for one in found.findings))


if __name__ == "__main__":
    remember()
    start(check, mutate)
