"""The rules of a programme, judged on a claim and on what is proven.

What evidence can prove is judged by what is proven, never by what is claimed. What it cannot prove yet is judged by
the declaration and said to be so: docs/decisions/audit-declared.md. Every reading of an ambiguous passage that changes
a number is judged too; the first one decides, the others are printed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from config.programme_rules import Ambiguity, Branch, Comparison, Groups, Reading, Rule
from verifier.audit.consistency import judge_checks
from verifier.audit.divisions import OTHER, division
from verifier.audit.results_audit import (
    AmbiguityResult,
    BranchResult,
    ComparisonResult,
    GroupsResult,
    GroupVerdict,
    ReadingResult,
    RuleResult,
    ShareResult,
    Status,
)
from verifier.audit.values import Facts, Figure, Part, exact, number

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, ">": operator.gt, "==": operator.eq, "<=": operator.le}
BEST: tuple[Status, ...] = ("met", "declared", "consistent", "not_judged", "not_met")
"""From the best status to the worst: a rule has that of its best branch, a branch that of its worst comparison."""

PASSING = ("met", "declared")
NEVER_DECIDE = ("proof", "quota", "qualitative")
SHARE_DIGITS = 4


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a rule comes to under one reading."""

    status: Status
    branches: tuple[BranchResult, ...] = ()
    groups: GroupsResult | None = None


def judge(rule: Rule, facts: Facts) -> RuleResult:
    """Judge one rule."""
    checks = judge_checks(rule, facts)
    if rule.kind in NEVER_DECIDE:
        judged = _Judged("not_judged")
    elif rule.kind == "consistency":
        judged = _Judged(max((check.status for check in checks), key=BEST.index))
    else:
        judged = _under(rule, facts, None)
    return RuleResult(
        id=rule.id, kind=rule.kind, evidence=rule.evidence, interpretation=rule.interpretation, cite=rule.cite,
        zh=rule.zh, en=rule.en, status=judged.status, branches=judged.branches, groups=judged.groups, checks=checks,
        quota=dict(rule.quota),
        ambiguities=tuple(_ambiguity(item, rule, judged, facts) for item in rule.ambiguity))


def open_passages(ambiguities: Sequence[Ambiguity], facts: Facts) -> tuple[AmbiguityResult, ...]:
    """Return what a programme leaves open as a whole, with the figures that its readings change."""
    return tuple(AmbiguityResult(
        zh=item.zh, en=item.en, cite=item.cite,
        readings=tuple(ReadingResult(key=r.key, zh=r.zh, en=r.en, status=None, branches=(), passing=None,
                                     figures=_figures(item, r, facts)) for r in item.readings))
        for item in ambiguities)


def _ambiguity(item: Ambiguity, rule: Rule, judged: _Judged, facts: Facts) -> AmbiguityResult:
    readings = []
    for reading in item.readings:
        other = _under(rule, facts, reading) if reading.changes() and rule.any else judged
        readings.append(ReadingResult(
            key=reading.key, zh=reading.zh, en=reading.en, status=other.status, branches=other.branches,
            passing=other.groups.passing if other.groups else None,
            figures={key: value for key, value in _figures(item, reading, facts).items()
                     if key in rule.metric_keys()}))
    return AmbiguityResult(zh=item.zh, en=item.en, cite=item.cite, readings=tuple(readings))


def _figures(item: Ambiguity, reading: Reading, facts: Facts) -> dict[str, int | None]:
    """Return the figures that some reading of this passage changes, under this one."""
    changed = [key for key, yes in (("device_kind_count", any(r.kinds and _of(r, "device_kind_count")
                                                              for r in item.readings)),
                                    ("protocol_count", any(r.protocols for r in item.readings))) if yes]
    return {key: facts.proven(key, None, reading.kinds, reading.protocols) for key in changed}


def _under(rule: Rule, facts: Facts, reading: Reading | None) -> _Judged:
    """Judge a rule that compares, under one reading."""
    if rule.groups is not None:
        return _of_groups(rule, rule.groups, facts, reading)
    branches = _branches(rule, facts, reading, None)
    return _Judged(_best(branches), branches)


def _of_groups(rule: Rule, groups: Groups, facts: Facts, reading: Reading | None) -> _Judged:
    """Ask each group, those of the claim and those of the evidence.

    At least so many: the best of them decide. All: every group that the claim names, or that the document names.
    """
    every = groups.all_groups or bool(reading and reading.all_groups)
    claimed = {(group.by, group.key) for group in facts.claim.groups}
    verdicts = []
    for by in groups.by:
        for part in _members(by, groups, facts) or _parts(by, rule, facts, reading):
            branches = _branches(rule, facts, reading, part)
            verdicts.append(GroupVerdict(part=part.named(), claimed=(part.by, part.key) in claimed,
                                         status=_best(branches), branches=branches))
    # What belongs to no industry is not one more industry.
    asked = [v for v in verdicts if v.part.key != OTHER]
    if every:
        asked = [v for v in verdicts if v.claimed or groups.members] or verdicts
    ranked = sorted((v.status for v in asked), key=BEST.index)
    least = len(ranked) if every else groups.at_least or 1
    if groups.at_least is not None:
        least = max(least, groups.at_least)
    status: Status = "not_met" if least > len(ranked) or not ranked else ranked[least - 1]
    return _Judged(status, groups=GroupsResult(
        by=tuple(groups.by), at_least=None if every else groups.at_least, members=tuple(groups.members),
        passing=sum(v.status in PASSING for v in asked), groups=tuple(verdicts)))


def _parts(by: str, rule: Rule, facts: Facts, reading: Reading | None) -> list[Part]:
    """Return the groups that the claim names, and those of the evidence where it proves something that is asked."""
    asked = {_metric(test, reading) for branch in rule.any for test in branch.all}
    provable = any(facts.metric(key).evidence == "proven" for key in asked)
    claimed = {(group.by, group.key) for group in facts.claim.groups}
    return [part for part in facts.parts(by) if provable or (part.by, part.key) in claimed]


def _members(by: str, groups: Groups, facts: Facts) -> list[Part]:
    """Return the groups that the document names."""
    of = division(by, facts.programme.data.divisions)
    return [Part(by, of.meant(name) or name, name) for name in groups.members]


def _branches(rule: Rule, facts: Facts, reading: Reading | None, part: Part | None) -> tuple[BranchResult, ...]:
    return tuple(_branch(branch, rule, facts, reading, part) for branch in rule.any)


def _branch(branch: Branch, rule: Rule, facts: Facts, reading: Reading | None, part: Part | None) -> BranchResult:
    """Judge a branch; where it asks for one industry or region, of the best of them."""
    scope = next((test.scope for test in branch.all if test.scope), None)
    if reading is not None and any(_of(reading, test.metric) for test in branch.all):
        scope = scope or reading.scope
    parts: list[Part | None] = [part]
    if scope is not None and part is None:
        parts = [*facts.candidates(scope)]
    found = []
    for one in parts:
        tests = tuple(_compare(test, rule, facts, reading, one) for test in branch.all)
        found.append(BranchResult(mode=branch.mode, status=max((t.status for t in tests), key=BEST.index),
                                  part=one.named() if one and one.scoped else None, comparisons=tests))
    if not found:  # no industry or region has a counted device
        tests = tuple(_compare(test, rule, facts, reading, Part("industry", None, scoped=True)) for test in branch.all)
        return BranchResult(mode=branch.mode, status="not_met", part=None, comparisons=tests)
    return min(found, key=lambda one: (BEST.index(one.status), [-_size(test) for test in one.comparisons]))


def _size(test: ComparisonResult) -> int | float:
    return number(test.value) or 0


def _compare(test: Comparison, rule: Rule, facts: Facts, reading: Reading | None,
             part: Part | None) -> ComparisonResult:
    reading = reading if reading is not None and _of(reading, test.metric) else None
    metric = _metric(test, reading)
    kinds = test.kinds if test.kinds == "by_model" else None
    share: ShareResult | None = None
    compared: Any
    if test.numerator is not None and test.denominator is not None:
        figure, share, compared = _share(test, metric, facts, reading, part)
    else:
        figure = facts.figure(metric, part, reading, kinds)
        counted = number(figure.value)
        compared = figure.value if counted is None else exact(counted)
    threshold = test.value if isinstance(test.value, bool) else exact(test.value)
    comparable = compared is not None and isinstance(compared, bool) == isinstance(threshold, bool)
    status: Status = "not_met"
    if comparable and not isinstance(compared, str) and OPERATORS[test.op](compared, threshold):
        status = "met" if figure.rests_on == "evidence" else "declared"
    elif compared is None and rule.kind == "form":
        status = "not_judged"  # what the form should list is not in the claim: missing, not wrong
    return ComparisonResult(
        metric=metric, op=test.op, threshold=test.value, unit=test.unit, wording=test.wording, filter=test.filter,
        claimed=figure.claimed, proven=figure.proven, value=figure.value, rests_on=figure.rests_on, share=share,
        status=status)


def _of(reading: Reading, metric: str) -> bool:
    """Whether a reading changes comparisons of this metric."""
    return not reading.of or metric in reading.of


def _metric(test: Comparison, reading: Reading | None) -> str:
    return test.metric if reading is None else reading.metrics.get(test.metric, test.metric)


def _share(test: Comparison, metric: str, facts: Facts, reading: Reading | None,
           part: Part | None) -> tuple[Figure, ShareResult, Fraction | None]:
    """Divide: what is proven where it can be, by the denominator of the reading. A share of itself is no reading."""
    above, below = str(test.numerator), str(test.denominator)
    if reading is not None and reading.denominator not in (None, above):
        below = str(reading.denominator)
    numerator, denominator = facts.figure(above, part, reading), facts.figure(below, part, reading)
    top, bottom = number(numerator.value), number(denominator.value)
    share = ShareResult(numerator=above, numerator_value=top, denominator=below, denominator_value=bottom)
    claimed = facts.claimed(metric, part)
    if top is None or not bottom:
        return Figure(claimed, None, None, None), share, None
    value = exact(top) / exact(bottom)
    resting = {numerator.rests_on, denominator.rests_on}
    rests = "both" if len(resting) > 1 else numerator.rests_on
    return Figure(claimed, None, float(round(value, SHARE_DIGITS)), rests), share, value


def _best(branches: Sequence[BranchResult]) -> Status:
    return min((branch.status for branch in branches), key=BEST.index)
