"""Figures of one claim that must agree: sums of parts, parts and wholes, caps.

A check is asked only where every term is claimed. The same check on what is proven stands beside it and does not
decide: there a difference means devices that state no class, not a wrong claim.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from config.programme_rules import Check, Rule, Term
from verifier.audit.divisions import division
from verifier.audit.results_audit import CheckResult, Status
from verifier.audit.values import ADDITIVE, Facts, exact, number

HOLDS: dict[str, Callable[[Any, Any], bool]] = {"==": operator.eq, ">=": operator.ge, "<=": operator.le}


def judge_checks(rule: Rule, facts: Facts) -> tuple[CheckResult, ...]:
    """Judge every check of a rule on the claim."""
    return tuple(_check(check, rule, facts) for check in rule.checks)


def _check(check: Check, rule: Rule, facts: Facts) -> CheckResult:
    left, right = (_sum(terms, facts, _claimed) for terms in (check.left, check.right))
    proven_left, proven_right = (_sum(terms, facts, _proven) for terms in (check.left, check.right))
    explanation = _explanation(check, rule, facts) if check.explained else None
    status: Status = "not_judged"
    if left is not None and right is not None:
        holds = HOLDS[check.op](exact(left), exact(right))
        status = "consistent" if holds or explanation is not None else "not_met"
    return CheckResult(
        left=_told(check.left), op=check.op, right=_told(check.right),
        claimed=None if left is None or right is None else (left, right),
        proven=None if proven_left is None or proven_right is None else (int(proven_left), int(proven_right)),
        explanation=explanation, status=status)


def _sum(terms: Sequence[Term], facts: Facts,
         value: Callable[[Term, Facts], int | float | None]) -> int | float | None:
    total: int | float = 0
    for term in terms:
        one = term.value if term.metric is None else value(term, facts)
        if one is None:
            return None
        total += one
    return total


def _claimed(term: Term, facts: Facts) -> int | float | None:
    metric = str(term.metric)
    if term.by is None:
        return number(facts.claim.metrics.get(metric))
    split = facts.claim.split(metric, term.by)
    if split is None:
        return None
    of = division(term.by, facts.programme.data.divisions)
    wanted = {of.meant(part) or part for part in term.parts}
    return sum(value for key, value in split.parts.items() if not wanted or key in wanted)


def _proven(term: Term, facts: Facts) -> int | None:
    """Return the proven value of a term. Devices without a class are in no class; those elsewhere are in 其他."""
    metric = str(term.metric)
    if facts.figures is None or facts.metric(metric).evidence != "proven":
        return None
    if term.by is None:
        return facts.proven(metric)
    if metric not in ADDITIVE or term.by not in facts.figures.groups:
        return None
    of = division(term.by, facts.programme.data.divisions)
    wanted = {of.meant(part) or part for part in term.parts}
    total = 0
    for group in facts.figures.groups[term.by]:
        if group.key in wanted or (not wanted and (group.key is not None or not term.by.startswith("class"))):
            total += group.devices if metric == "device_connected_count" else group.points
    return total


def _explanation(check: Check, rule: Rule, facts: Facts) -> str | None:
    """Return what the claim says of a difference, at the rule or at a split that the check adds up."""
    told = facts.claim.explained(rule.id)
    for term in (*check.left, *check.right):
        split = facts.claim.split(str(term.metric), term.by) if term.by else None
        told = told or (split.explanation if split else None)
    return told


def _told(terms: Sequence[Term]) -> str:
    """Return a side as a sentence of keys: `sum of device_connected_count by class`."""
    words = []
    for term in terms:
        if term.metric is None:
            words.append(str(term.value))
        elif term.by is None:
            words.append(term.metric)
        else:
            words.append(f"{term.metric} by {term.by}" + (f" ({', '.join(term.parts)})" if term.parts else ""))
    return " + ".join(words)
