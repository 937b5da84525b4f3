"""A claim against what is proven and against the rules of a programme: the whole of `tallystick audit`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from config.programme import Metric, PlatformType, Programme
from config.programme_forms import FormField
from protocols.terms.say import Say
from verifier.audit.claim import LEDGER, Claim, field_name, missing_fields
from verifier.audit.divisions import OTHER, division
from verifier.audit.results import CountResult, Finding, Sentence, Totals, noted
from verifier.audit.results_audit import (
    AuditResult,
    ClaimResult,
    DocumentResult,
    LedgerResult,
    MetricResult,
    PartName,
    ProgrammeResult,
    RuleResult,
    SplitPart,
    SplitResult,
)
from verifier.audit.rules import judge, open_passages
from verifier.audit.values import ADDITIVE, KINDS, OF_ALL, PROTOCOLS, PROVEN, Facts, Part, exact, number
from verifier.commands import SHOWN_ZONE

DECLARED_CLASSES = ("c", "c+")
READ_BY = {"device_kind_count": "kinds", "protocol_count": "protocols"}
"""Metric -> parameter of the basis by which it is counted in one way or another."""


def audit(claim: Claim, programme: Programme, platform_type: PlatformType, counted: CountResult,
          say: Say) -> AuditResult:
    """Judge a claim. `counted` is the count at the claim's T under the basis of the programme."""
    facts = Facts(claim, programme, counted.figures, counted.basis["kinds"], counted.basis["protocols"])
    rules = tuple(judge(rule, facts) for rule in programme.data.rules_of(platform_type.key))
    table = _metrics(facts, platform_type)
    splits = tuple(_split(facts, item.metric, item.by) for item in claim.splits)
    findings = (*_claim_findings(claim, programme, platform_type, counted, say), *_field_findings(facts, say),
                *_nothing_to_hold(claim, table, rules, say), *_metric_findings(table, counted, say),
                *_part_findings(facts, splits, say), *_share_findings(rules, say),
                *_document_findings(facts, table, counted, say),
                *_rule_findings(rules, claim, say))
    holds = counted.verdict == "valid" and not any(f.severity == "fault" for f in findings)
    return AuditResult(
        verdict="holds" if holds else "does_not_hold", programme=_programme(programme, platform_type),
        claim=_claim(facts), metrics=table, splits=splits, rules=rules,
        ambiguities=open_passages(programme.data.ambiguities, facts), findings=findings, count=counted)


def _programme(programme: Programme, platform_type: PlatformType) -> ProgrammeResult:
    head = programme.data.programme
    return ProgrammeResult(
        key=head.key, version=head.version, title_zh=head.title_zh, authority_zh=head.authority_zh, doc_no=head.doc_no,
        type=platform_type.key, type_zh=platform_type.name_zh, type_en=platform_type.name_en,
        status=Sentence(zh=head.status.zh, en=head.status.en, cite=""),
        cutoffs=tuple(Sentence(zh=c.zh, en=c.en, cite=c.cite) for c in programme.data.cutoffs),
        notes=tuple(Sentence(zh=n.zh, en=n.en, cite=n.cite) for n in programme.data.notes()),
        digests=programme.digests)


def _claim(facts: Facts) -> ClaimResult:
    claim = facts.claim
    table, ledger = claim.table, claim.ledger
    industry = None
    if claim.industry is not None:
        name = division("industry", facts.programme.data.divisions).name_zh(claim.industry)
        industry = PartName(by="industry", key=claim.industry, name_zh=name or table.industry)
    return ClaimResult(
        enterprise=table.enterprise.name, uscc=table.enterprise.uscc, at_s=claim.at_s, branch=table.branch,
        industry=industry, region=table.region, explanations=claim.explanations or {},
        ledger=None if ledger is None else LedgerResult(
            devices=ledger.devices, date=ledger.date.isoformat(), sha256=ledger.sha256, file=ledger.file))


def _metrics(facts: Facts, platform_type: PlatformType) -> tuple[MetricResult, ...]:
    """Return what the form asks for in its order, then what else is claimed or needed by a rule."""
    data = facts.programme.data
    fields = {field.metric: field for field in reversed(data.fields)
              if field.by is None and platform_type.key in (*field.required, *field.optional)}
    needed = {key for rule in data.rules_of(platform_type.key) for key in rule.metric_keys()}
    asked = [field.metric for field in data.fields if field.metric in fields]
    keys = dict.fromkeys([*asked, *(key for key in facts.programme.metrics
                                    if key in needed or key in facts.claim.metrics)])
    classes = {key: item.evidence for item in reversed(data.indicators) for key in item.metrics}
    classes |= {key: field.evidence for key, field in fields.items()}
    result = []
    for key in keys:
        item, field = facts.metric(key), fields.get(key)
        figure = facts.figure(key)
        result.append(MetricResult(
            key=key, zh=item.zh, en=item.en, unit=field.unit if field else item.unit,
            field=field_name(field) if field else None,
            required=bool(field and platform_type.key in field.required), evidence=item.evidence,
            evidence_class=classes.get(key), claimed=figure.claimed, proven=figure.proven,
            stages=_of_each(facts, item, facts.figures.stages if facts.figures else None),
            levels=_of_each(facts, item, facts.figures.levels if facts.figures else None),
            readings=_readings(facts, item),
            documents=tuple(DocumentResult(file=d.file, sha256=d.sha256, state=d.state)
                            for d in facts.claim.documents if d.metric == key)))
    return tuple(result)


def _of_each(facts: Facts, item: Metric, totals: Mapping[str, Totals] | None) -> dict[str, int] | None:
    if item.evidence != "proven" or item.key not in PROVEN or item.key in OF_ALL or totals is None:
        return None
    return {name: PROVEN[item.key](one, facts.kinds, facts.protocols) for name, one in totals.items()}


def _readings(facts: Facts, item: Metric) -> dict[str, int] | None:
    """Return the figure under each way to tell kinds, or protocols, apart."""
    if facts.figures is None or item.key not in ("device_kind_count", "protocol_count"):
        return None
    if item.key == "device_kind_count":
        found = {name: facts.proven(item.key, kinds=name) for name in KINDS}
    else:
        found = {name: facts.proven(item.key, protocols=name) for name in PROTOCOLS}
    return {name: value for name, value in found.items() if value is not None}


def _split(facts: Facts, metric: str, by: str) -> SplitResult:
    """Lay a claimed split beside the proven one. What belongs to no part stands under 其他 where that is a part."""
    of = division(by, facts.programme.data.divisions)
    split = facts.claim.split(metric, by)
    claimed = split.parts if split else {}
    proven: dict[str, int] | None = None
    if facts.figures is not None and by in facts.figures.groups and facts.metric(metric).evidence == "proven":
        proven = {group.key or OTHER: facts.proven(metric, Part(by, group.key)) or 0
                  for group in facts.figures.groups[by]}
    keys = dict.fromkeys([*claimed, *(proven or ())])
    parts = tuple(SplitPart(
        part=PartName(by=by, key=key, name_zh=of.name_zh(key) or (split.names.get(key) if split else None)),
        claimed=claimed.get(key), proven=None if proven is None else proven.get(key, 0)) for key in keys)
    return SplitResult(metric=metric, by=by, parts=parts, claimed=sum(claimed.values()),
                       proven=sum(proven.values()) if proven is not None and metric in ADDITIVE else None,
                       explanation=split.explanation if split else None)


def _claim_findings(claim: Claim, programme: Programme, platform_type: PlatformType, counted: CountResult,
                    say: Say) -> Iterable[Finding]:
    """Look at who claims, for when, and on which bundles."""
    for bundle in counted.bundles:
        owner = bundle.summary["uscc"]
        where = f"bundle {bundle.sha256[:12]}"
        if bundle.verdict == "invalid":
            yield noted("fault", "audit.bundle_invalid", where, say)
        elif owner != claim.table.enterprise.uscc:
            # Whose devices may count is the programme's: an enterprise-level platform has those of its own enterprise.
            own: Literal["fault", "remark"] = "fault" if platform_type.devices_of == "applicant" else "remark"
            yield noted(own, "audit.other_owner", where, say, uscc=owner, claimed=claim.table.enterprise.uscc)
    if platform_type.devices_of == "applicant" and counted.figures is not None:
        others = sum(part.devices for part in counted.figures.groups["enterprise"]
                     if part.key not in (None, claim.table.enterprise.uscc))
        if others:
            yield noted("remark", "audit.others_devices", "figures", say, devices=others)
    day = claim.table.at.astimezone(SHOWN_ZONE).date()
    for cutoff in programme.data.cutoffs:
        if cutoff.of == "figures" and cutoff.day is not None and day >= cutoff.day:
            yield noted("remark", "audit.after_cutoff", "claim", say, day=cutoff.day, cite=cutoff.cite)


def _field_findings(facts: Facts, say: Say) -> Iterable[Finding]:
    """Look for fields of the form that must be filled in and are not, and for others that this type leaves empty."""
    for field in missing_fields(facts.claim, facts.programme):
        where = _where(facts.claim, field)
        yield noted("fault", "audit.field_missing", where, say, field=where, metric=field.metric)
    kind = facts.claim.table.type
    asked = {field.metric for field in facts.programme.data.fields if kind in (*field.required, *field.optional)}
    for field in facts.programme.data.fields:
        if field.metric not in asked and field.metric in facts.claim.metrics:
            where = _where(facts.claim, field)
            yield noted("remark", "audit.field_unasked", where, say, field=where)


def _where(claim: Claim, field: FormField) -> str:
    """Return number and name of a field of the form, and its cell where the claim is a sheet."""
    cell = claim.cell(field)
    return field_name(field) if cell is None else f"{field_name(field)}, {cell}"


def _nothing_to_hold(claim: Claim, table: Iterable[MetricResult], rules: Iterable[RuleResult],
                     say: Say) -> Iterable[Finding]:
    """A claim holds only if something of it was held against evidence or a rule: an empty form is no claim."""
    is_held = any(item.claimed is not None and item.evidence == "proven" for item in table) or claim.groups \
        or claim.splits or any(rule.status != "not_judged" for rule in rules)
    if not is_held:
        yield noted("fault", "audit.nothing_claimed", "metrics", say)


def _metric_findings(table: Iterable[MetricResult], counted: CountResult, say: Say) -> Iterable[Finding]:
    """Look for what is claimed and not proven."""
    for item in table if counted.figures is not None else ():
        where, claimed = f"metrics.{item.key}", number(item.claimed)
        if claimed is None or item.evidence == "declared":
            continue
        if item.evidence == "operations":
            yield noted("remark", "audit.declared_only", where, say, metric=item.key, claimed=claimed)
        elif item.proven is None:
            yield noted("fault", "audit.not_computed", where, say, metric=item.key, claimed=claimed)
        elif claimed > item.proven and claimed <= _open_reading(item, counted):
            yield noted("remark", "audit.reading_reaches", where, say, metric=item.key, claimed=claimed,
                        proven=item.proven, most=_open_reading(item, counted))
        elif claimed > item.proven:
            yield noted("fault", "audit.overclaim", where, say, metric=item.key, claimed=claimed, proven=item.proven,
                        more=claimed - item.proven)
        elif claimed < item.proven:
            yield noted("remark", "audit.underclaim", where, say, metric=item.key, claimed=claimed, proven=item.proven)


def _open_reading(item: MetricResult, counted: CountResult) -> int:
    """Return the largest figure among the ways to count that the programme leaves open; 0 where it fixes one."""
    if item.readings is None or READ_BY[item.key] not in counted.basis["unspecified"]:
        return 0
    return max(item.readings.values())


def _part_findings(facts: Facts, splits: Iterable[SplitResult], say: Say) -> Iterable[Finding]:
    """Look for parts and groups of which more is claimed than is proven."""
    if facts.figures is None:
        return
    for split in splits:
        for part in split.parts:
            if part.claimed is not None and part.proven is not None and part.claimed > part.proven:
                yield noted("fault", "audit.part_overclaim", f"splits.{split.metric}.{split.by}", say,
                            metric=split.metric, part=part.part.name_zh or part.part.key, claimed=part.claimed,
                            proven=part.proven)
    for group in facts.claim.groups:
        for key in group.metrics:
            figure = facts.figure(key, Part(group.by, group.key, group.name))
            claimed = number(figure.claimed)
            if figure.rests_on == "evidence" and claimed is not None and figure.proven is not None \
                    and claimed > figure.proven:
                name = division(group.by, facts.programme.data.divisions).name_zh(group.key) or group.name
                yield noted("fault", "audit.part_overclaim", f"groups.{group.by}.{group.key}", say, metric=key,
                            part=name, claimed=claimed, proven=figure.proven)


def _document_findings(facts: Facts, table: Iterable[MetricResult], counted: CountResult,
                       say: Say) -> Iterable[Finding]:
    """Look at the documents of what is declared, and at the ledger of which a share is claimed."""
    for document in facts.claim.documents:
        if document.state != "matches":
            severity: Literal["fault", "remark"] = "fault" if document.state == "differs" else "remark"
            yield noted(severity, f"audit.document_{document.state}", f"documents.{document.metric}", say,
                        file=document.file, metric=document.metric)
    bare = [item.key for item in table if item.claimed is not None and item.evidence_class in DECLARED_CLASSES
            and not item.documents]
    if bare:
        yield noted("remark", "audit.no_document", "documents", say, count=len(bare), metrics=", ".join(bare))
    ledger, held = facts.claim.ledger, number(facts.claim.metrics.get(LEDGER))
    counts = facts.proven("device_connected_count")
    if held is not None and counts is not None and counts > held:
        yield noted("remark", "audit.ledger_short", "ledger", say, counted=counts, devices=held)
    if ledger is None:
        if LEDGER in facts.claim.metrics:
            yield noted("remark", "audit.ledger_bare", "ledger", say, devices=facts.claim.metrics[LEDGER])
        return
    told = {"devices": ledger.devices, "date": ledger.date, "sha256": ledger.sha256}
    sealed = any(one.sha256 == ledger.sha256 for one in counted.ledgers)
    yield noted("remark", "audit.ledger_sealed" if sealed else "audit.ledger_declared", "ledger", say, **told)


def _share_findings(rules: Iterable[RuleResult], say: Say) -> Iterable[Finding]:
    """Look for shares of which more is claimed than the proven devices are of the declared ledger."""
    for rule in rules:
        for test in (test for branch in rule.branches for test in branch.comparisons):
            claimed, value = number(test.claimed), number(test.value)
            if test.share is None or claimed is None or value is None or test.rests_on != "both":
                continue
            share = exact(test.share.numerator_value or 0) / exact(test.share.denominator_value or 1)
            if exact(claimed) > share:
                yield noted("fault", "audit.share_overclaim", f"metrics.{test.metric}", say, metric=test.metric,
                            claimed=claimed, value=value, above=test.share.numerator_value,
                            below=test.share.denominator_value)


def _rule_findings(rules: tuple[RuleResult, ...], claim: Claim, say: Say) -> Iterable[Finding]:
    """Say which rules fail, which rest on a declaration, which readings differ, and where another branch holds."""
    for rule in rules:
        if rule.status == "not_met":
            code = "audit.inconsistent" if rule.kind == "consistency" else "audit.rule_not_met"
            yield noted("fault", code, rule.id, say, rule=rule.id)
        elif rule.status == "declared":
            yield noted("remark", "audit.rule_declared", rule.id, say, rule=rule.id)
        elif rule.status == "not_judged" and rule.kind in ("form", "consistency"):
            yield noted("remark", "audit.rule_unclaimed", rule.id, say, rule=rule.id)
        modes = {branch.mode: branch.status for branch in rule.branches if branch.mode is not None}
        if rule.status != "not_met" and modes.get(claim.table.branch or "") == "not_met":
            yield noted("remark", "audit.other_branch", rule.id, say, rule=rule.id, claimed=claim.table.branch)
        for check in rule.checks:
            if check.proven is not None and check.op == "==" and check.proven[0] != check.proven[1]:
                yield noted("remark", "audit.check_proven", rule.id, say, rule=rule.id, left=check.proven[0],
                            right=check.proven[1])
        for reading in (r for item in rule.ambiguities for r in item.readings[1:]):
            if reading.status is not None and (reading.status == "not_met") != (rule.status == "not_met"):
                yield noted("remark", "audit.reading_decides", rule.id, say, rule=rule.id, reading=reading.key)
