"""Every rule of every programme, with a claim that holds and one that does not: n - 1, n and n + 1 of each threshold.

What must come out is computed here from the rule's own numbers, by operators of this file.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from config.programme import PROGRAMMES, Programme, load_programme
from config.programme_rules import Branch, Check, Comparison, Rule, Term
from tests.support.made_figures import claim_fields, made_count
from verifier.audit.claim import claim_from_fields
from verifier.audit.divisions import division
from verifier.audit.results_audit import RuleResult
from verifier.audit.rules import judge
from verifier.audit.values import Facts
from verifier.conformance.world import USCC

PROVEN = {"device_connected_count": ("devices",), "point_count": ("points",),
          "device_kind_count": ("kinds_by_model", "kinds_by_class"), "enterprise_connected_count": ("enterprises",)}
LEDGER = 1000
HOLDS = {">=": operator.ge, ">": operator.gt, "==": operator.eq, "<=": operator.le}
LEAST = {">=": 0, ">": 1, "==": 0, "<=": 0}
"""What to add to a threshold for the nearest whole number that passes."""

LOADED = {key: load_programme(key) for key in PROGRAMMES}
RULES = [(key, rule) for key in PROGRAMMES for rule in LOADED[key].data.rules]


def type_of(programme: Programme, rule: Rule) -> str:
    return rule.types[0] if rule.types else programme.data.types[0].key


@dataclass
class World:
    """Numbers of a claim and of the evidence, of all and of groups. Group: (division, key or name)."""

    programme: Programme
    rule: Rule
    claimed: dict[Any, dict[str, Any]] = field(default_factory=dict)
    proven: dict[Any, dict[str, int]] = field(default_factory=dict)
    ledger: int | None = None

    def put(self, test: Comparison, value: Any, group: tuple[str, str] | None) -> None:
        """Make the figure of a comparison this value."""
        if test.numerator is not None:
            assert test.denominator == "industrial_device_ledger_count"
            self.ledger = LEDGER
            self.set(test.numerator, round(value * LEDGER), group)
        else:
            if test.scope is not None:
                assert group is None
                by, name = ("industry", "3120") if test.scope == "one_industry" else ("city", "360700")
                group = (by, str(division(by, self.programme.data.divisions).meant(name)))
                # The whole is larger than the one industry or region, and must not decide.
                self.set(test.metric, 2 * value + 7, None)
            self.set(test.metric, value, group)

    def set(self, metric: str, value: Any, group: tuple[str, str] | None) -> None:
        if metric == "enterprises_with_evidence_in_jiangxi":
            self.proven.setdefault(("province", "36"), {})["enterprises"] = value
        elif metric in PROVEN:
            self.proven.setdefault(group, {}).update(dict.fromkeys(PROVEN[metric], value))
        else:
            self.claimed.setdefault(group, {})[metric] = value

    def judge(self, **tables: Any) -> RuleResult:
        groups: dict[str, dict[str, dict[str, int]]] = {}
        for key, values in self.proven.items():
            if key is not None:
                groups.setdefault(key[0], {})[key[1]] = values
        raw = claim_fields(self.programme.basis.key, type_of(self.programme, self.rule), USCC,
                           self.claimed.get(None), **tables)
        raw["groups"] = [{by: name, "metrics": values} for (by, name), values in
                         ((key, values) for key, values in self.claimed.items() if key is not None)]
        if self.ledger is not None:
            raw["metrics"]["industrial_device_ledger_count"] = self.ledger
        claim = claim_from_fields(raw, where="claim", sha256="0" * 64, folder=None, programme=self.programme)
        counted = made_count(self.programme, groups=groups, **self.proven.get(None, {}))
        return judge(self.rule, Facts(claim, self.programme, counted.figures, counted.basis["kinds"],
                                      counted.basis["protocols"]))


def groups_of(programme: Programme, rule: Rule) -> list[tuple[str, str] | None]:
    """The groups that must pass: as many as the rule says, or two of each division, or those that it names."""
    if rule.groups is None:
        return [None]
    result: list[tuple[str, str] | None] = []
    for by in rule.groups.by:
        listed = [item.key for item in division(by, programme.data.divisions).parts()]
        names = rule.groups.members or (listed or [f"{by} {n}" for n in range(9)])[:rule.groups.at_least or 2]
        assert len(names) >= (rule.groups.at_least or 1)
        result += [(by, name) for name in names]
    return result


def nearest(test: Comparison) -> Any:
    """The nearest value that passes."""
    return test.value if isinstance(test.value, bool) else test.value + LEAST[test.op]


def near(test: Comparison) -> list[Any]:
    """Values at, below and above a threshold."""
    if isinstance(test.value, bool):
        return [not test.value, test.value]
    step = 1 / LEDGER if test.numerator or isinstance(test.value, float) else 1
    return [round(test.value + step * n, 6) if step < 1 else test.value + n for n in (-1, 0, 1)]


@dataclass(frozen=True)
class Case:
    key: str
    rule: Rule
    branch: Branch
    test: Comparison
    value: Any

    def __str__(self) -> str:
        return f"{self.rule.id}-{self.rule.any.index(self.branch)}-{self.test.metric}-{self.value}"


def cases() -> Iterator[Case]:
    for key, rule in RULES:
        for branch in rule.any:
            for test in branch.all:
                for value in near(test):
                    yield Case(key, rule, branch, test, value)


CASES = list(cases())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_threshold_holds_from_its_number_on(case: Case) -> None:
    """The other comparisons of the branch just hold, the other branches do not; the last group decides."""
    programme = LOADED[case.key]
    world = World(programme, case.rule)
    groups = groups_of(programme, case.rule)
    for group in groups:
        for test in case.branch.all:
            world.put(test, nearest(test), group)
    world.put(case.test, case.value, groups[-1])
    same = [test for test in case.branch.all if test.metric == case.test.metric]
    holds = all(HOLDS[test.op](case.value, test.value) for test in same)
    result = world.judge()
    assert (result.status != "not_met") == holds
    proven = all(test.metric in (*PROVEN, "enterprises_with_evidence_in_jiangxi") for test in case.branch.all)
    assert not holds or result.status == ("met" if proven else "declared")


@pytest.mark.parametrize(("key", "rule"), [(key, rule) for key, rule in RULES if rule.groups],
                         ids=[rule.id for _, rule in RULES if rule.groups])
def test_one_group_less_is_not_enough(key: str, rule: Rule) -> None:
    programme = LOADED[key]
    groups = groups_of(programme, rule)
    for last in (False, True):
        world = World(programme, rule)
        for group in groups if last else groups[:-1]:
            for test in rule.any[0].all:
                world.put(test, nearest(test), group)
        assert rule.groups is not None
        enough = last or (rule.groups.all_groups and not rule.groups.members)
        assert (world.judge().status != "not_met") == enough


@pytest.mark.parametrize(("key", "rule"), [(key, rule) for key, rule in RULES if rule.any],
                         ids=[rule.id for _, rule in RULES if rule.any])
def test_nothing_claimed_and_nothing_proven_reaches_nothing(key: str, rule: Rule) -> None:
    result = World(LOADED[key], rule).judge()
    assert result.status == ("not_judged" if rule.kind == "form" else "not_met")


@pytest.mark.parametrize(("key", "rule"), [(key, rule) for key, rule in RULES if not rule.any and not rule.checks],
                         ids=[rule.id for _, rule in RULES if not rule.any and not rule.checks])
def test_what_is_no_number_never_decides(key: str, rule: Rule) -> None:
    assert rule.kind in ("proof", "quota", "qualitative")
    assert World(LOADED[key], rule).judge().status == "not_judged"


CHECKS = [(key, rule, at) for key, rule in RULES for at in range(len(rule.checks))]


def side(terms: list[Term], total: int, programme: Programme) -> dict[tuple[str, str | None], Any]:
    """Figures of one side that add up to `total`: (metric, division) -> value, or part -> value."""
    values: dict[tuple[str, str | None], Any] = {}
    free = [term for term in terms if term.metric is not None]
    rest = total - sum(term.value or 0 for term in terms)
    for n, term in enumerate(free):
        share = rest // len(free) + (rest % len(free) if n == 0 else 0)
        key = (str(term.metric), term.by)
        if term.by is None:
            values[key] = share
        else:
            listed = [item.key for item in division(term.by, programme.data.divisions).parts()]
            names = term.parts or listed[:2] or (["private", "public"] if term.by == "deployment" else ["a", "b"])
            parts = {name: share // len(names) for name in names}
            parts[names[0]] += share % len(names)
            values.setdefault(key, {}).update(parts)
    return values


@pytest.mark.parametrize("less", [-1, 0, 1])
@pytest.mark.parametrize(("key", "rule", "at"), CHECKS, ids=[f"{rule.id}-{at}" for _, rule, at in CHECKS])
def test_figures_that_must_agree(key: str, rule: Rule, at: int, less: int) -> None:
    programme, check = LOADED[key], rule.checks[at]
    fixed = [sum(term.value or 0 for term in terms) for terms in (check.left, check.right)]
    assert not fixed[0] or not fixed[1]
    right = fixed[1] or 40
    values = side(check.right, right, programme)
    values |= side(check.left, right - less, programme)
    result = judged(programme, rule, values)
    expected = "consistent" if HOLDS[check.op](right - less, right) else "not_met"
    assert (result.checks[at].status, result.checks[at].claimed) == (expected, (right - less, right))
    assert (result.status == "not_met") == (expected == "not_met")
    if expected == "not_met":
        told = judged(programme, rule, values, explanations={rule.id: "混合云设备另列"})
        assert (told.checks[at].status == "consistent") == check.explained


def judged(programme: Programme, rule: Rule, values: dict[tuple[str, str | None], Any], **tables: Any) -> RuleResult:
    world = World(programme, rule)
    splits = []
    for (metric, by), value in values.items():
        if by is None:
            world.claimed.setdefault(None, {})[metric] = value
        else:
            splits.append({"metric": metric, "by": by, "parts": value})
    return world.judge(splits=splits, **tables)


@pytest.mark.parametrize(("key", "rule", "at"), CHECKS, ids=[f"{rule.id}-{at}" for _, rule, at in CHECKS])
def test_a_check_is_asked_only_where_every_term_is_claimed(key: str, rule: Rule, at: int) -> None:
    result = judged(LOADED[key], rule, side(rule.checks[at].right, 9, LOADED[key]))
    assert result.checks[at].status == "not_judged" and result.checks[at].claimed is None
    assert result.status == "not_judged"


def test_every_rule_is_asked_by_some_test_above() -> None:
    asked = {case.rule.id for case in CASES} | {rule.id for _, rule, _ in CHECKS}
    asked |= {rule.id for _, rule in RULES if not rule.any and not rule.checks}
    assert asked == {rule.id for _, rule in RULES} and len(RULES) == len(asked)
    assert {check.op for _, rule, at in CHECKS for check in [rule.checks[at]]} <= HOLDS.keys()
    assert len(list(itertools.chain(CASES, CHECKS))) > 200
    assert all(isinstance(rule.checks[at], Check) for _, rule, at in CHECKS)
