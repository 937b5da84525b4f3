"""A claim against what is proven and against the rules of a programme.

What evidence can prove is judged by what is proven, never by what is claimed. What it cannot prove yet is judged by
the declaration and said to be so: docs/decisions/audit-declared.md.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal

from config.programme import Metric, PlatformType, Programme, metrics
from config.programme_rules import Comparison, Rule
from protocols.errors import ConfigError, Problem
from protocols.terms.say import Say
from verifier.audit.claim import Claim
from verifier.audit.results import (
    AuditResult,
    BranchResult,
    ClaimResult,
    ComparisonResult,
    CountResult,
    FiguresResult,
    Finding,
    MetricResult,
    ProgrammeResult,
    RuleResult,
    Sentence,
    Status,
    noted,
)
from verifier.commands import SHOWN_ZONE

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, ">": operator.gt, "==": operator.eq, "<=": operator.le}
BEST: tuple[Status, ...] = ("met", "declared", "not_met")

PROVEN: dict[str, Callable[[FiguresResult], int | None]] = {
    "device_connected_count": lambda f: f.devices["counted"],
    "device_kind_count": lambda f: f.kinds.value,
    "point_count": lambda f: f.points["value"],
    "protocol_count": lambda f: f.protocols.value,
    "enterprise_connected_count": lambda f: f.enterprises,
    "covered_industry_count": lambda f: sum(part.key is not None for part in f.splits["industry"]),
    "served_area_count": lambda f: sum(part.key is not None for part in f.splits["city"]),
    "device_daily_running_count": lambda f: f.daily_running[-1].devices if f.daily_running else None,
}
"""How each metric that evidence proves is read from the figures."""


def audit(claim: Claim, programme: Programme, platform_type: PlatformType, counted: CountResult,
          say: Say) -> AuditResult:
    """Judge a claim. `counted` is the count at the claim's T under the basis of the programme.

    Raises: ConfigError `audit.no_rules` if the data of the programme hold no rules of this type.
    """
    rules = [rule for rule in programme.data.rules_of(platform_type.key) if rule.any and rule.groups is None]
    if not rules:
        raise ConfigError(Problem.of("--type", "audit.no_rules", programme=programme.basis.key,
                                     type=platform_type.key))
    needed = {c.metric for rule in rules for branch in rule.any for c in branch.all}
    table = [_metric(item, claim, counted) for key, item in metrics().items()
             if key in needed or key in claim.metrics]
    by_key = {item.key: item for item in table}
    judged = tuple(_rule(rule, by_key) for rule in rules)
    findings = (*_claim_findings(claim, programme, platform_type, counted, say),
                *_metric_findings(table, counted, say), *_rule_findings(judged, claim, say))
    holds = counted.verdict == "valid" and not any(f.severity == "fault" for f in findings)
    head = programme.data.programme
    return AuditResult(
        verdict="holds" if holds else "does_not_hold",
        programme=ProgrammeResult(
            key=head.key, version=head.version, title_zh=head.title_zh, authority_zh=head.authority_zh,
            doc_no=head.doc_no, type=platform_type.key, type_zh=platform_type.name_zh, type_en=platform_type.name_en,
            status=Sentence(zh=head.status.zh, en=head.status.en, cite=""),
            cutoffs=tuple(Sentence(zh=c.zh, en=c.en, cite=c.cite) for c in programme.data.cutoffs)),
        claim=ClaimResult(enterprise=claim.table.enterprise.name, uscc=claim.table.enterprise.uscc, at_s=claim.at_s,
                          branch=claim.table.branch),
        metrics=tuple(table), rules=judged, findings=findings, count=counted)


def _metric(item: Metric, claim: Claim, counted: CountResult) -> MetricResult:
    proven: int | None = None
    if counted.figures is not None and item.evidence == "proven":
        proven = PROVEN[item.key](counted.figures)
    elif counted.figures is not None and item.evidence == "operations":
        proven = 0  # the evidence holds no operation, so no device is proven to be manageable
    return MetricResult(key=item.key, zh=item.zh, en=item.en, unit=item.unit, evidence=item.evidence,
                        claimed=claim.metrics.get(item.key), proven=proven)


def _rule(rule: Rule, table: dict[str, MetricResult]) -> RuleResult:
    branches = []
    for branch in rule.any:
        comparisons = tuple(_compare(c, table[c.metric]) for c in branch.all)
        worst = max((c.status for c in comparisons), key=BEST.index)
        branches.append(BranchResult(mode=branch.mode, status=worst, comparisons=comparisons))
    return RuleResult(id=rule.id, cite=rule.cite, zh=rule.zh, en=rule.en,
                      status=min((b.status for b in branches), key=BEST.index), branches=tuple(branches),
                      ambiguities=tuple(Sentence(zh=a.zh, en=a.en, cite="") for a in rule.ambiguity))


def _compare(test: Comparison, metric: MetricResult) -> ComparisonResult:
    value, reached = metric.claimed, "declared"
    if metric.evidence == "proven":
        value, reached = metric.proven, "met"
    holds = value is not None and OPERATORS[test.op](value, test.value)
    status: Status = "not_met"
    if holds:
        status = "met" if reached == "met" else "declared"
    return ComparisonResult(metric=test.metric, op=test.op, threshold=test.value, unit=test.unit, wording=test.wording,
                            claimed=metric.claimed, proven=metric.proven, status=status)


def _claim_findings(claim: Claim, programme: Programme, platform_type: PlatformType, counted: CountResult,
                    say: Say) -> list[Finding]:
    """Look at who claims, for when, and on which bundles."""
    found = []
    for bundle in counted.bundles:
        owner = bundle.summary["uscc"]
        if bundle.verdict == "invalid":
            found.append(noted("fault", "audit.bundle_invalid", f"bundle {bundle.sha256[:12]}", say))
        elif owner != claim.table.enterprise.uscc:
            # Whose devices may count is the programme's: an enterprise-level platform has those of its own enterprise.
            own: Literal["fault", "remark"] = "fault" if platform_type.devices_of == "applicant" else "remark"
            found.append(noted(own, "audit.other_owner", f"bundle {bundle.sha256[:12]}", say, uscc=owner,
                               claimed=claim.table.enterprise.uscc))
    day = claim.table.at.astimezone(SHOWN_ZONE).date()
    found += [noted("remark", "audit.after_cutoff", "claim", say, day=cutoff.day, cite=cutoff.cite)
              for cutoff in programme.data.cutoffs
              if cutoff.of == "figures" and cutoff.day is not None and day >= cutoff.day]
    return found


def _metric_findings(table: list[MetricResult], counted: CountResult, say: Say) -> list[Finding]:
    """Look for what is claimed and not proven."""
    if counted.figures is None:
        return []
    found = []
    for item in table:
        where = f"metrics.{item.key}"
        if item.claimed is None or item.evidence == "declared":
            continue
        if item.evidence == "operations":
            found.append(noted("remark", "audit.declared_only", where, say, metric=item.key, claimed=item.claimed))
        elif item.proven is None:
            found.append(noted("fault", "audit.not_computed", where, say, metric=item.key, claimed=item.claimed))
        elif item.claimed > item.proven:
            found.append(noted("fault", "audit.overclaim", where, say, metric=item.key, claimed=item.claimed,
                               proven=item.proven, more=item.claimed - item.proven))
        elif item.claimed < item.proven:
            found.append(noted("remark", "audit.underclaim", where, say, metric=item.key, claimed=item.claimed,
                               proven=item.proven))
    return found


def _rule_findings(rules: tuple[RuleResult, ...], claim: Claim, say: Say) -> list[Finding]:
    """Say which rules fail, which rest on a declaration, and where another branch holds than the one claimed."""
    found = []
    for rule in rules:
        if rule.status == "not_met":
            found.append(noted("fault", "audit.rule_not_met", rule.id, say, rule=rule.id))
        elif rule.status == "declared":
            found.append(noted("remark", "audit.rule_declared", rule.id, say, rule=rule.id))
        modes = {branch.mode: branch.status for branch in rule.branches if branch.mode is not None}
        if rule.status != "not_met" and modes.get(claim.table.branch or "") == "not_met":
            found.append(noted("remark", "audit.other_branch", rule.id, say, rule=rule.id,
                               claimed=claim.table.branch))
    return found
