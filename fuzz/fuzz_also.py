"""Files that a checker brings along: openings, transcripts, chains, proofs of equivocation, kept checkpoints.

A file that is none of these is known by its SHA-256 alone: it is sorted, and the bundle is not verified once more.
"""

import json
import random
from typing import Any

from fuzz.harness import only, scratch, start, watched

with watched("protocols.evidence", "verifier.proof"):
    from protocols.errors import ConfigError, VerificationError
    from verifier.conformance import world
    from verifier.proof.also import Also, sort
    from verifier.proof.verify import verify

from fuzz.held import Held, remember

WORLD, PLANT = world.small()
BUNDLE = Held(PLANT.members())
POLICY = WORLD.policy()
FILE = scratch() / "file"

VALUES: tuple[Any, ...] = (0, 1, -1, 2**53 - 1, "", "x", "0" * 64, "AA==", None, True, [], {}, [{}])


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change one value of a JSON document, however deep: changed bytes alone are rarely JSON again."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data[: chance.randrange(len(data) + 1)]
    at = value
    while isinstance(at, dict | list) and at:
        name = chance.choice(sorted(at) if isinstance(at, dict) else range(len(at)))
        if not isinstance(at[name], dict | list) or chance.random() < 0.2:
            old = at[name]
            near = [old + step for step in (-1, 1)] if isinstance(old, int) else \
                [old[1:], old + old, old.swapcase()] if isinstance(old, str) else []
            at[name] = chance.choice([*near, *VALUES])
            break
        at = at[name]
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def check(data: bytes) -> None:
    """One file beside an honest bundle."""
    FILE.write_bytes(data)
    with only(ConfigError, VerificationError):
        also = sort([FILE])
        if also != Also(files=also.files):
            verify(BUNDLE, POLICY, also=also)


if __name__ == "__main__":
    remember()
    start(check, mutate)
