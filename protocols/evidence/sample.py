"""Samples: devices drawn from rosters that were fixed before, by a value that nobody knew then; and what was found.

    seed = SHA-256("sample/v1", 0, JCS {cosignature, rosters: [{gateway, devices_root}]})
    rank = HMAC-SHA-256(seed, gateway id as 16 bytes, slot as 4 bytes, big-endian)

`cosignature` is the `seen` of a window: the first independent co-signature after the announced instant. The rosters
are those in force, by gateway id. Of each stratum the lowest ranks are drawn. Neither the announced instant nor the
size of the sample is hashed: whoever asks for another size or another second gets the same order.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import jcs
from protocols.evidence.shape import ListOf, Nullable, Object, OneOf, require
from protocols.evidence.signed import ANSWER, DRAW, DRAW_FIELDS, FINDING, SAMPLE_MAX

DRAW_TYPE = "tallystick/draw/v1"
FINDINGS_TYPE = "tallystick/findings/v1"
SEED_DOMAIN = b"sample/v1\0"
FILE_BYTES_MAX = 8 * 1024 * 1024

DRAW_FILE = Object({"type": OneOf((DRAW_TYPE,)), "draw": Object(DRAW_FIELDS)})
"""What `sample` writes: both sides draw it for themselves and compare."""

FINDINGS_FILE = Object({"type": OneOf((FINDINGS_TYPE,)), "draw": DRAW, "answers": ListOf(ANSWER, SAMPLE_MAX),
                        "finding": Nullable(FINDING)})
"""What a visit leaves. `finding` is null as long as it is not closed: nothing is proven by it then."""


def seed(cosignature: Mapping[str, Any], rosters: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the seed. rosters: {gateway, devices_root} of each, with whatever else; any order."""
    fixed = [{"gateway": r["gateway"], "devices_root": r["devices_root"]}
             for r in sorted(rosters, key=lambda r: str(r["gateway"]))]
    return hashlib.sha256(SEED_DOMAIN + jcs.encode({"cosignature": dict(cosignature), "rosters": fixed})).digest()


def rank(seed: bytes, gateway: str, slot: int) -> bytes:
    """Return the rank of a device: of each stratum the lowest are drawn."""
    return hmac.digest(seed, bytes.fromhex(gateway) + slot.to_bytes(4, "big"), "sha256")


def draw_sha256(draw: Mapping[str, Any]) -> str:
    """Return the digest that names a draw: of its fields without the assessor's `key` and `sig`."""
    return hashlib.sha256(jcs.encode({name: draw[name] for name in DRAW_FIELDS})).hexdigest()


def answers_sha256(answers: Sequence[Mapping[str, Any]]) -> str:
    """Return the digest of all answers, in the order in which the devices were drawn."""
    return hashlib.sha256(jcs.encode([dict(answer) for answer in answers])).hexdigest()


def check_draw(draw: Mapping[str, Any], *, where: str) -> None:
    """Check that a draw agrees with itself: seed, strata, and devices in the order of their ranks, each once.

    Raises: VerificationError `draw.seed`, `draw.order`, `draw.strata` or `draw.gateways`.
    """
    names = [g["gateway"] for g in draw["gateways"]]
    if names != sorted(set(names)) or not names or any(d["gateway"] not in names for d in draw["devices"]):
        raise VerificationError(Problem.of(where, "draw.gateways"))
    root = seed(draw["cosignature"], draw["gateways"])
    if root.hex() != draw["seed"]:
        raise VerificationError(Problem.of(where, "draw.seed"))
    ranks = [(d["stratum"], rank(root, d["gateway"], d["slot"])) for d in draw["devices"]]
    if any(a >= b for a, b in pairwise(ranks)) or len({r for _, r in ranks}) < len(ranks):
        raise VerificationError(Problem.of(where, "draw.order"))
    drawn = Counter(stratum for stratum, _ in ranks)
    if max(drawn, default=-1) >= len(draw["strata"]) or any(
            drawn[i] != s["drawn"] or s["drawn"] > s["population"] for i, s in enumerate(draw["strata"])):
        raise VerificationError(Problem.of(where, "draw.strata"))


def check_shape(shape: Object, value: Any, *, where: str) -> None:
    """Check the shape of a file, and that it has canonical bytes. Raises VerificationError of the shape or of JSON."""
    require(shape, value, where=where)
    try:
        jcs.encode(value)
    except ValueError as error:  # half a character: nobody can have signed it
        raise VerificationError(Problem.of(where, "json.unreadable", reason=str(error)[:200])) from None


def parse_draw(data: bytes, *, where: str) -> dict[str, Any]:
    """Return the draw of a file of `sample`. Raises VerificationError of JSON, of the shape, or of `check_draw`."""
    value = jcs.parse(data, where=where, bytes_max=FILE_BYTES_MAX)
    check_shape(DRAW_FILE, value, where=where)
    draw: dict[str, Any] = value["draw"]
    check_draw(draw, where=where)
    return draw
