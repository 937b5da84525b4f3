"""`tallystick count --compare`: the same evidence under two orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from config.loader import parse_toml
from config.programme import Programme, load_basis, load_programme
from protocols.errors import ConfigError, Problem
from protocols.terms.say import Say
from verifier.audit.counting import Judged, Order, count
from verifier.audit.difference import CompareResult, compare

OPTION = "--compare"


def second_order(named: str, first: Order, under: Callable[[Programme], Order]) -> Order:
    """Return the order of --compare: a programme by its key, a basis or a programme by the path of its file.

    under: makes the order to count under a programme.
    Raises: ConfigError with every problem of the file, or with the programmes that are known.
    """
    path = Path(named)
    if path.suffix == ".toml":
        raw, problems = parse_toml(path)
        if raw is None:
            raise ConfigError(problems)
        if str(raw.get("schema", "")).startswith("basis/"):
            basis, sha256 = load_basis(path)
            return Order(at_s=first.at_s, basis=basis, digests=replace(first.digests, basis=sha256))
    try:
        return under(load_programme(named))
    except ConfigError as error:
        raise ConfigError(Problem(OPTION if p.where == "--programme" else p.where, p.code, p.args)
                          for p in error.problems) from error


def compared(judged: Sequence[Judged], first: Order, second: Order, say: Say) -> CompareResult:
    """Count under both orders, with the same explanations, and tell the difference."""
    second = replace(second, explained=first.explained,
                     digests=replace(second.digests, explanations=first.digests.explanations))
    results = [count(judged, order, say) for order in (first, second)]
    evidence = [j.verdict.evidence for j in judged if j.verdict.evidence is not None]
    valid = all(result.figures is not None for result in results)
    return CompareResult(first=results[0], second=results[1],
                         difference=compare(evidence, first, second) if valid else None)
