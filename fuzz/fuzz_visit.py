"""Visits: a draw (`d` before it), findings that their assessor signed whatever stands in them (`f`), answers (`c`).

What was changed in findings is signed anew, so that the checks behind the signatures are reached too.
"""

import json
import random
from typing import Any

from fuzz.fuzz_also import mutate as mutate_json
from fuzz.harness import only, scratch, start, watched

with watched("protocols.evidence.sample", "protocols.evidence.signed", "verifier.proof.visits", "verifier.sampling"):
    from protocols.errors import ConfigError, VerificationError
    from protocols.evidence import sample, signed
    from verifier.conformance import visits, world
    from verifier.proof.also import Also
    from verifier.proof.verify import verify
    from verifier.sampling import spotcheck

from fuzz.held import Held, remember

WORLD, PLANT = world.small()
ANNOUNCED_S = visits.seal_behind(PLANT)
ASSESSOR = world.key_of(visits.ASSESSOR)
TRUST = {"assessors": [world.public(visits.ASSESSOR).hex()]}
BUNDLE, POLICY = Held(PLANT.members()), WORLD.policy(**TRUST)
DRAWN = visits.honest_draw([PLANT.members()], WORLD.policy_json(**TRUST), ANNOUNCED_S)
ANSWERS = scratch() / "answers.csv"


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change one value behind the letter."""
    return data[:1] + mutate_json(data[1:], chance)


def check(data: bytes) -> None:
    """One file; the first letter says which."""
    kind, data = data[:1], data[1:]
    if kind == b"d":
        with only(VerificationError):
            drawn = sample.parse_draw(data, where="draw")
            assert [sample.rank(bytes.fromhex(drawn["seed"]), d["gateway"], d["slot"]) for d in drawn["devices"]]
    elif kind == b"c":
        ANSWERS.write_bytes(data)
        visit = spotcheck.begin(DRAWN, ASSESSOR)
        with only(ConfigError):
            spotcheck.take_csv(visit, ANSWERS)
            spotcheck.close(visit, missing_allowed=True)
            assert sum(visit.failures) + visit.told["match"] == len(visit.devices)
    elif kind == b"f":
        try:
            value = _signed(json.loads(data))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, VerificationError):
            return  # what cannot be signed at all
        verdict = verify(BUNDLE, POLICY, also=Also(findings=(("findings", value),)))
        for found in verdict.summary.visits:
            assert found.lower_bound is None or found.lower_bound <= sum(
                s["population"] for s in found.draw["strata"])
            assert len(found.results) <= len(found.drawn)


def _signed(value: Any) -> Any:
    """Sign draw, answers and finding, whatever they say; they name one another."""
    draw, answers, finding = value["draw"], value["answers"], value["finding"]
    digest = sample.draw_sha256(draw)
    _sign("draw", draw)
    for answer in answers:
        _sign("answer", answer | {"draw_sha256": digest}, answer)
    if finding is not None:
        _sign("finding", finding | {"draw_sha256": digest, "answers": len(answers),
                                    "answers_sha256": sample.answers_sha256(answers)}, finding)
    return value


def _sign(kind: str, fields: dict[str, Any], into: dict[str, Any] | None = None) -> None:
    """Put the signed object in the place of `into`."""
    made = signed.sign(kind, {n: v for n, v in fields.items() if n not in ("key", "sig")}, ASSESSOR)
    (fields if into is None else into).update(made)


if __name__ == "__main__":
    remember()
    start(check, mutate)
