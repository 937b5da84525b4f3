"""What follows from visits that hold: the bound of each, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from protocols.terms.say import Say
from verifier.proof.visits import FIRST
from verifier.sampling.bound import Seen, together


def alpha_of(confidence_permille: int) -> Fraction:
    """Return how often a bound with this confidence may be wrong."""
    return Fraction(1000 - confidence_permille, 1000)


def with_bounds(visits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return visits as verify's --json says them, each with `lower_bound`: null where the sample may be chosen."""
    return [{**visit, "lower_bound": None if visit["seed"] != FIRST else together(
        [Seen(s["population"], s["drawn"], s["failures"]) for s in visit["strata"]],
        alpha_of(visit["confidence_permille"]))} for visit in visits]


def percent(permille: int) -> str:
    """Return 95 or 99.9."""
    return f"{permille // 10}.{permille % 10}" if permille % 10 else str(permille // 10)


def visit_lines(visits: Sequence[Mapping[str, Any]], say: Say) -> list[str]:
    """Return what visits found, as verify's --json says it."""
    from verifier.commands import local_time

    lines = []
    for visit in with_bounds(visits):
        strata = visit["strata"]
        sums = {name: sum(s[name] for s in strata) for name in ("population", "drawn", "failures")}
        lines.append(say("sampling.visit", assessor=visit["assessor"][:8], closed=local_time(visit["closed_s"]),
                         draw=visit["draw_sha256"][:8], **visit["here"]))
        if visit["lower_bound"] is None:
            lines.append("  " + say("sampling.no_bound", **sums))
        else:
            lines.append("  " + say("sampling.bound", bound=visit["lower_bound"], strata=len(strata),
                                    confidence=percent(visit["confidence_permille"]), **sums))
    return lines
