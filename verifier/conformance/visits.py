"""Visits of assessors to made plants: an honest draw, honest answers, and every way to spoil them afterwards.

    sealed(gateway, 3)                          # windows and rounds behind the announced instant
    drawn = honest_draw(gateway, policy, announced_s)
    findings(drawn)                             # {type, draw, answers, finding}: all of them match
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from protocols.evidence import policy as policies
from protocols.evidence import signed
from protocols.evidence.bundle import open_bundle
from protocols.terms.basis import Basis
from verifier.conformance.world import Gateway, key_of, zipped
from verifier.proof.verify import verify
from verifier.sampling import draw as draws
from verifier.sampling.spotcheck import Visit, begin, close

ASSESSOR = "assessor"
SHA256 = "ab" * 32
"""Stands for the digest of the basis, which nothing here looks at."""
PATIENT = Basis(key="drawn", version="1", lateness_s=10**9, owner_required=False)
"""However late a window was co-signed: what counts is that it was before the announced instant."""

WALK_S = 300
"""From one device to the next."""


def honest_draw(members: Sequence[Mapping[str, bytes]], policy: bytes, announced_s: int,
                **wanted: Any) -> dict[str, Any]:
    """Return the draw of these bundles under the policy. wanted: fields of verifier.sampling.draw.Order.

    Raises: ConfigError as `draw` does; AssertionError if a bundle is invalid.
    """
    trusted = policies.parse(policy, where="policy")
    evidence = []
    for one in members:
        found = verify(open_bundle(zipped(one)), trusted).evidence
        assert found is not None, "only valid bundles are drawn from"
        evidence.append(found)
    basis = wanted.pop("basis", Basis(key="default", version="1", owner_required=False))
    return draws.draw(evidence, draws.Order(**{
        "announced_s": announced_s, "at_s": announced_s, "basis": basis, "basis_sha256": SHA256} | wanted))


def visit(drawn: Mapping[str, Any], results: Mapping[int, str | None] | None = None, *,
          assessor: str = ASSESSOR) -> Visit:
    """Return a visit that is not closed. results: place in the draw -> result, None for no answer; else a match."""
    made = begin(drawn, key_of(assessor))
    told = results or {}
    for place, device in enumerate(made.devices):
        result = told.get(place, "match")
        if result is not None:
            made.answer(device, result, at_s=drawn["cosignature"]["time_s"] + (place + 1) * WALK_S)
    return made


def findings(drawn: Mapping[str, Any], results: Mapping[int, str | None] | None = None, *,
             assessor: str = ASSESSOR) -> dict[str, Any]:
    """Return the findings of a closed visit as an object, to be encoded or spoiled."""
    made = visit(drawn, results, assessor=assessor)
    close(made, missing_allowed=True)
    return as_object(made)


def as_object(made: Visit) -> dict[str, Any]:
    """Return what the file of a visit holds."""
    from protocols.evidence import jcs

    value: dict[str, Any] = jcs.parse(made.encode(), where="findings", bytes_max=1 << 24)
    return value


def announce(gateway: Gateway, instant_s: int, *, auditor: str = "auditor") -> int:
    """Put the announcement of a draw into the register; return its place."""
    said = signed.sign("demand", {"gateway": gateway.id, "slots": [], "hours": [], "deadline_s": instant_s},
                       key_of(auditor))
    return gateway.world.add({"type": "demand", "demand": said}, gateway.uscc)


def seal_behind(gateway: Gateway, *, rounds: int = 2, announced: bool = False) -> int:
    """Co-sign what is there, seal on, and return an instant between: announced after the first co-signature.

    announced: also in the register, below that co-signature.
    """
    fixed_s = max(gateway.world.time_s + 1, gateway.now_s + 5)
    announced_s = fixed_s + 1
    if announced:
        announce(gateway, announced_s)
    gateway.world.round(time_s=fixed_s)
    for _ in range(rounds):
        gateway.window()
        gateway.world.round(time_s=max(gateway.world.time_s + 5, gateway.now_s + 5))
    gateway.window()
    gateway.world.round(time_s=gateway.now_s + 5)
    return announced_s
