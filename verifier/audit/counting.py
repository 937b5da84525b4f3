"""Figures at an instant, told in full: which devices count, which do not and why, under which basis.

Nothing is counted here: `verifier.proof.figures` counts, and is asked again with another basis where a programme wants
a figure for each day or over the observation period.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from config.classification import REPORTING_LEVEL, Classification, load_classification
from config.programme import DAY_OFFSETS_S, DailyRunning, SplitBy
from protocols.errors import ConfigError, Problem, VerificationError
from protocols.evidence import entry
from protocols.terms.basis import Basis, family
from protocols.terms.say import Say
from verifier.audit.divisions import place
from verifier.audit.duplicates import Explanations, group_findings, groups
from verifier.audit.enterprises import enterprise_findings, enterprises
from verifier.audit.groups import parts
from verifier.audit.results import (
    DECLARED,
    BundleResult,
    CountResult,
    Day,
    DeviceResult,
    Digests,
    FiguresResult,
    Finding,
    Instant,
    Kinds,
    LevelsResult,
    Part,
    PresenceResult,
    Protocols,
    SealedLedger,
    SealedResult,
    Sentence,
    Windows,
    basis_json,
    noted,
)
from verifier.audit.results_machines import GroupResult
from verifier.commands import local_time
from verifier.proof.figures import DeviceFigure, Evidence, Figures, Sealed, Standing, standing
from verifier.proof.history import UNKNOWN
from verifier.proof.machines import Device
from verifier.proof.presence import presence
from verifier.proof.verify import Verdict

DAY_S = 86_400
DAYS_MAX = 31
"""Days told one by one: the observation period, but never more than a month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A bundle with its verdict. `told` is what verify's --json says."""

    sha256: str
    verdict: Verdict
    told: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to count: T in POSIX seconds, None for the end of the evidence; the basis, and where it comes from."""

    at_s: int | None
    basis: Basis
    digests: Digests
    daily: DailyRunning | None = None
    divisions: tuple[SplitBy, ...] = ()
    ambiguities: tuple[Sentence, ...] = ()
    explained: Explanations | None = None

    @property
    def different(self) -> tuple[tuple[Device, ...], ...]:
        """Sets of devices that an explanation calls different machines."""
        return self.explained.devices if self.explained else ()


def count(judged: Sequence[Judged], order: Order, say: Say) -> CountResult:
    """Count what the bundles prove together.

    An invalid bundle gives a result without figures: what it holds proves nothing, also not together with others.
    Raises: ConfigError `figures.*` if T or the freshness window before it is not covered.
    """
    evidence = [j.verdict.evidence for j in judged if j.verdict.evidence is not None]
    valid = all(j.verdict.valid for j in judged)
    # A valid bundle has evidence unless its log names no enterprise; then nobody's devices could be counted.
    if valid and len(evidence) < len(judged):
        raise ConfigError(Problem.of("bundle", "count.no_owner"))
    at = told = levels = None
    devices: tuple[DeviceResult, ...] = ()
    machines: tuple[GroupResult, ...] = ()
    families = enterprises([j.told["summary"] for j in judged])
    findings = enterprise_findings(families, say)
    if valid:
        stood = _standing(evidence, order)
        found = stood.figures(order.basis)
        at = Instant(asked_s=found.at_s, counted_s=found.counted_at_s, from_s=found.from_s)
        told = _told(found, stood, evidence, order)
        levels = LevelsResult(**found.levels.as_json())
        devices = tuple(_device(d, evidence) for d in found.devices)
        machines = groups(found, evidence, order.explained)
        findings = [*_findings(found, told, say), *group_findings(machines, order.explained, say), *findings]
    return CountResult(
        verdict="valid" if valid else "invalid", at=at, basis=basis_json(order.basis),
        bundles=tuple(BundleResult(sha256=j.sha256, verdict=j.told["verdict"], findings=tuple(j.told["findings"]),
                                   summary=j.told["summary"]) for j in judged),
        enterprises=families, figures=told, devices=devices, duplicates=machines,
        ledgers=_ledgers(evidence, at), findings=tuple(findings),
        ambiguities=order.ambiguities, levels=levels,
        limits=tuple(sorted({code for j in judged for code in j.verdict.summary.limits})), digests=order.digests)


def _standing(evidence: Sequence[Evidence], order: Order) -> Standing:
    at_s = order.at_s
    if at_s is None:
        ends = [e.covered[1] for e in evidence if e.covered is not None]
        if len(ends) < len(evidence):
            raise ConfigError(Problem.of("--at", "figures.no_window", at_s="last"))
        at_s = min(ends)
    try:
        return standing(evidence, at_s, order.basis, order.different)
    except VerificationError as error:
        raise ConfigError(error.problems) from error


def _told(found: Figures, stood: Standing, evidence: Sequence[Evidence], order: Order) -> FiguresResult:
    equipment, industry = load_classification("equipment_jx_b"), load_classification("industry_jx_a")
    classes = _by_class(found, equipment)
    industries: Counter[str | None] = Counter()
    for code, devices in found.by_industry.items():
        known = industry.by_code(code)
        industries[known.key if known else None] += devices
    cities: Counter[str | None] = Counter()
    for code, devices in found.by_region.items():
        cities[place(code, "city")] += devices
    kinds_by_class = len(classes.keys() - {None})
    part = parts(found, order.divisions, _models(found, evidence))
    return FiguresResult(
        anchored=found.anchored,
        devices={"configured": found.configured, "counted": found.counted,
                 **{stage: found.stage(stage) for stage in ("connected", "producing", "changing")}},
        not_counted=found.reasons,
        points={"value": found.points.folded if order.basis.fold_points else found.points.counted,
                **{name: getattr(found.points, name) for name in
                   ("configured", "sampled", "producing", "changing", "counted", "folded")}},
        windows=Windows(read=found.windows, untrusted=found.untrusted_windows, late=found.late_windows,
                        missing=found.missing_windows),
        late_devices=found.late_devices, sealed=_sealed(found.sealed),
        kinds=Kinds(by_model=found.kinds_by_model, by_class=kinds_by_class,
                    value=found.kinds_by_model if order.basis.kinds == "by_model" else kinds_by_class),
        protocols=_protocols(stood, found, order.basis),
        enterprises=len({d.row.uscc for d in found.devices if d.reason is None} - {None}),
        splits={
            "thing": _split(found.by_thing), "deployment": _split(found.by_deployment),
            "class": _split(classes, equipment), "class_level_1": _split(_first_level(classes, equipment), equipment),
            "industry": _split(industries, industry), "city": _split(cities), "region": _split(found.by_region)},
        stages=part.stages, levels=part.levels, groups=part.groups,
        daily_running=None if order.daily is None else _daily(stood, order.basis, order.daily),
        producing_permille=found.producing_permille, presence=_presence(found, evidence), declared=DECLARED)


def _presence(found: Figures, evidence: Sequence[Evidence]) -> PresenceResult:
    counted = {(d.gateway, d.row.slot) for d in found.devices if d.reason is None}
    told = presence(evidence, counted, found.counted_at_s)
    return PresenceResult(
        new=None if told.new is None else len(told.new), gone=None if told.gone is None else len(told.gone),
        short_before=told.short_before, short_after=told.short_after)


def _ledgers(evidence: Sequence[Evidence], at: Instant | None) -> tuple[SealedLedger, ...]:
    """Return the asset ledger that each gateway sealed with its roster at T, where that entry is shown."""
    found = []
    for one in evidence if at is not None else ():
        before = [i for i, end_s in enumerate(one.windows.end_s) if at is not None and end_s <= at.counted_s]
        seq = one.windows.roster[before[-1]] if before else None
        data = None if seq is None else one.log.entry(seq)
        if data is not None and seq is not None:
            told = entry.decode(data, seq=seq)["ledger"]
            found.append(SealedLedger(gateway=one.gateway, sha256=told["sha256"], date=told["date"],
                                      rows=told["rows"]))
    return tuple(found)


def _sealed(found: Sealed | None) -> SealedResult | None:
    if found is None:
        return None
    known = {name: None if at_s == UNKNOWN else at_s for name, at_s in (
        ("newest_after_s", found.newest_after_s), ("newest_before_s", found.newest_before_s),
        ("first_after_s", found.first_after_s), ("last_before_s", found.last_before_s))}
    return SealedResult(newest_end_s=found.newest_end_s, **known)


def _by_class(found: Figures, equipment: Classification) -> Counter[str | None]:
    """Fold the classes of the rows to the level at which programmes report."""
    classes: Counter[str | None] = Counter()
    for key, devices in found.by_class.items():
        known = equipment.reporting_class(key)
        classes[known.key if known else None] += devices
    return classes


def _first_level(classes: Mapping[str | None, int], equipment: Classification) -> Counter[str | None]:
    """Fold reporting classes to their parents: 运行, 加工, 行走, 其他."""
    first: Counter[str | None] = Counter()
    for key, devices in classes.items():
        first[equipment.classes[key].parent if key else None] += devices
    return first


def _split(counts: Mapping[str | None, int], names: Classification | None = None) -> tuple[Part, ...]:
    keys = sorted(counts, key=lambda key: (key is None, key or ""))
    return tuple(Part(key=key, name_zh=names.classes[key].name_zh if names and key else None, name_en=None,
                      devices=counts[key]) for key in keys)


def _protocols(stood: Standing, found: Figures, basis: Basis) -> Protocols:
    """Return the protocols in use at T and over the observation period, None where the bundles do not reach so far."""
    used: frozenset[str] | None = None
    over = replace(basis, freshness_s=basis.observation_s)
    with suppress(VerificationError):
        used = stood.again(stood.at_s, over).protocols(over)
    variants = stood.protocols(basis) if used is None else used
    families = {family(name) for name in variants}
    observed = None if used is None else tuple(sorted({basis.protocol_name(name) for name in used}))
    return Protocols(at=found.protocols, observed=observed, by_family=len(families), by_variant=len(variants),
                     value=len(families if basis.protocols == "family" else variants))


def _daily(stood: Standing, basis: Basis, daily: DailyRunning) -> tuple[Day, ...]:
    """Return the devices that ran on each whole day of the observation period, oldest first."""
    offset_s = DAY_OFFSETS_S[basis.day_boundary]
    last_end_s = (stood.counted_at_s + offset_s) // DAY_S * DAY_S - offset_s
    of_day = replace(basis, freshness_s=DAY_S, deployments=frozenset(daily.deployments))
    days = []
    for back in range(min(DAYS_MAX, -(-basis.observation_s // DAY_S)) - 1, -1, -1):
        end_s = last_end_s - back * DAY_S
        date = (datetime.fromtimestamp(end_s + offset_s, UTC) - timedelta(days=1)).date().isoformat()
        devices, whole = _running(stood, end_s, of_day)
        days.append(Day(date=date, devices=devices, whole=whole))
    return tuple(days)


def _running(stood: Standing, end_s: int, basis: Basis) -> tuple[int | None, bool]:
    """Return how many devices ran on the day that ends at `end_s`, and whether all of that day was read.

    None where nothing is proven of that day: a figure of 0 would say that the machines stood still.
    """
    evidence = [g.evidence for g in stood.gathered]
    starts = [e.covered[0] for e in evidence if e.covered is not None]
    if len(starts) < len(evidence) or max(starts) >= end_s:
        return None, False
    try:
        day = stood.again(end_s, basis)
    except VerificationError:
        return None, False
    read, used, missing = day.windows()
    whole = max(starts) <= end_s - DAY_S and not missing and used == read
    return (day.reasons(basis).count(None), whole) if used else (None, False)


def _models(found: Figures, evidence: Sequence[Evidence]) -> dict[str, str]:
    """Return kind -> maker and model, of the kinds of which some device is opened."""
    opened = {(e.gateway, slot): private for e in evidence for slot, private in e.opened.items()}
    return {d.row.kind: f"{opened[d.gateway, d.row.slot]['maker']} {opened[d.gateway, d.row.slot]['model']}"
            for d in found.devices if d.row.kind is not None and (d.gateway, d.row.slot) in opened}


def _device(figure: DeviceFigure, evidence: Sequence[Evidence]) -> DeviceResult:
    opened = next(e.opened for e in evidence if e.gateway == figure.gateway).get(figure.row.slot)
    private: Mapping[str, Any] = opened or {}
    row = figure.row if figure.level.level else None
    return DeviceResult(
        gateway=figure.gateway, slot=figure.row.slot, name=private.get("name"), maker=private.get("maker"),
        model=private.get("model"), thing=figure.row.thing, equipment_class=figure.row.equipment_class,
        connected=figure.connected, producing=figure.producing, changing=figure.changing, reason=figure.reason,
        remarks=figure.remarks, level=figure.level.level, server_since_s=figure.level.since_s,
        server_spki_sha256=row.server_spki_sha256 if row else None, server_via=row.server_via if row else None)


def _findings(found: Figures, told: FiguresResult, say: Say) -> tuple[Finding, ...]:
    """Say what a reader of the figures must know; none of it makes a bundle invalid."""
    result: list[Finding] = []
    if found.counted_at_s != found.at_s:
        result.append(noted("remark", "count.rounded", "figures", say, asked=local_time(found.at_s),
                            counted=local_time(found.counted_at_s)))
    if found.late_windows:
        result.append(noted("remark", "count.late", "figures", say, windows=found.late_windows,
                            devices=found.late_devices))
    if found.untrusted_windows:
        result.append(noted("remark", "count.untrusted", "figures", say, windows=found.untrusted_windows))
    if found.missing_windows:
        result.append(noted("remark", "count.missing", "figures", say, windows=found.missing_windows,
                            read=found.windows))
    if not found.anchored:
        result.append(noted("remark", "count.unanchored", "figures", say))
    if told.protocols.observed is None:
        result.append(noted("remark", "count.not_observed", "figures", say))
    counted = [d for d in found.devices if d.reason is None]
    for name, code in (("class_missing", "count.class_missing"), ("model_missing", "count.model_missing")):
        devices = sum(name in d.remarks for d in counted)
        if devices:
            result.append(noted("remark", code, "figures", say, devices=devices))
    unknown = next((part.devices for part in told.splits["class"] if part.key is None), 0) - sum(
        "class_missing" in d.remarks for d in counted)
    if unknown:
        result.append(noted("remark", "count.class_unknown", "figures", say, devices=unknown, level=REPORTING_LEVEL))
    return tuple(result)
