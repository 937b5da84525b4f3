"""Claims: fields by their number in the form, groups, splits, documents, the ledger; every problem at once."""

from __future__ import annotations

import hashlib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.programme import load_programme
from protocols.errors import ConfigError
from tallystick.words.lookup import LANGUAGES, Words
from tests.support.made_figures import claim_fields, made_count
from verifier.audit.claim import Claim, claim_from_fields
from verifier.audit.results_audit import AuditResult
from verifier.audit.verdict import audit
from verifier.conformance.world import USCC

JIANGXI = load_programme("jiangxi_2024")
SHA = "ab" * 32
FIELDS = {"device_connected_count": 987, "point_count": 5003, "industrial_app_count": 12,
          "enterprise_connected_count": 3, "service_contract_amount_cumulative": 120.5, "protocol_count": 2,
          "mechanism_model_count": 10, "solution_count": 4}
"""Fields (1) to (8) of the form of Jiangxi 2024."""


def read(raw: dict[str, Any], folder: Path | None = None) -> Claim:
    return claim_from_fields(raw, where="claim.toml", sha256=SHA, folder=folder)


def problems(raw: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        read(raw)
    return {p.where.removeprefix("claim.toml, "): p.code for p in caught.value.problems}


def audited(claim: Claim, **values: Any) -> AuditResult:
    programme = load_programme(claim.table.programme)
    counted = made_count(programme, **{"devices": 987, "points": 5003, "enterprises": 3, "protocols_by_family": 2,
                                       "protocols_by_variant": 3, "industries": 2, "cities": 2} | values)
    return audit(claim, programme, programme.type_named(claim.table.type), counted, Words("en"))


def codes(result: AuditResult, severity: str = "fault") -> list[tuple[str, str]]:
    return [(f.code, f.where) for f in result.findings if f.severity == severity]


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in FIELDS.items() if key not in keys}


@pytest.mark.parametrize(("kind", "metrics", "missing"), [
    ("industry", FIELDS, []),
    ("industry", without("protocol_count"), ["(6) 兼容协议数量"]),
    ("regional", FIELDS, ["(11) 服务区域数"]),
    ("comprehensive", without("point_count", "solution_count"),
     ["(2) 数据采集点数", "(8) 解决方案数", "(9) 覆盖行业数", "(10) 覆盖领域数", "(11) 服务区域数"]),
    ("enterprise", FIELDS, ["(12) 集成应用系统数量", "(13) 工业软件云化改造迁移数量"])])
def test_missing_fields_are_faults_by_their_number_in_form_order(kind: str, metrics: dict[str, Any],
                                                                 missing: list[str]) -> None:
    result = audited(read(claim_fields("jiangxi_2024", kind, USCC, metrics)))
    assert codes(result) == [("audit.field_missing", name) for name in missing]
    assert result.verdict == ("does_not_hold" if missing else "holds")
    told = [item for item in result.metrics if item.required]
    assert [item.field for item in told if item.claimed is None] == missing


def test_what_this_type_leaves_empty_is_a_remark() -> None:
    result = audited(read(claim_fields("jiangxi_2024", "industry", USCC, FIELDS | {"covered_domain_count": 3})))
    assert ("audit.field_unasked", "(10) 覆盖领域数") in codes(result, "remark")
    assert result.verdict == "holds"


def test_optional_fields_may_be_filled_in() -> None:
    result = audited(read(claim_fields("jiangxi_2024", "industry", USCC, FIELDS | {"secondary_node_enterprises": 9})))
    assert not [place for code, place in codes(result, "remark") if code == "audit.field_unasked"]


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
                        st.sampled_from(["claim", "metrics", "groups", "splits", "documents", "ledger", "industry",
                                         "programme", "type", "at", "by", "parts", "metric", "enterprise"])
                        | st.text(max_size=8), inner, max_size=6), max_leaves=30)


@settings(max_examples=150, deadline=None)
@given(place=st.sampled_from(["claim", "metrics", "groups", "splits", "documents", "ledger", "explanations"]),
       value=JSON)
def test_no_claim_of_any_shape_is_more_than_refused(place: str, value: Any) -> None:
    """Tables of every shape in every place: read, or refused with problems that have a sentence."""
    raw = claim_fields("jiangxi_2024", "industry", USCC, FIELDS) | {place: value}
    known = set(Words("en").codes())
    try:
        claim_from_fields(raw, where="claim.toml", sha256=SHA, folder=None, programme=JIANGXI)
    except ConfigError as error:
        assert error.problems and all(problem.code in known for problem in error.problems)


def test_wrong_and_missing_fields_come_together_by_number() -> None:
    found = problems(claim_fields("jiangxi_2024", "industry", USCC, without("solution_count") | {
        "protocol_count": -1, "point_count": "many", "no_such": 3}))
    assert found == {
        "(6) 兼容协议数量, metrics.protocol_count": "config.out_of_range",
        "(2) 数据采集点数, metrics.point_count": "config.wrong_type",
        "metrics.no_such": "config.unknown_key", "(8) 解决方案数": "audit.field_missing"}


def test_problems_of_groups_splits_documents_and_ledger_come_together() -> None:
    raw = claim_fields(
        "jiangxi_guideline_2022", "comprehensive", USCC, {"industrial_device_ledger_count": 9},
        groups=[{"industry": "no such", "metrics": {}}, {"domain": "研发设计", "metrics": {}},
                {"domain": "rd_design", "metrics": {}}],
        splits=[{"metric": "device_connected_count", "by": "class", "parts": {"机床": 1, "machine_tools": 2}},
                {"metric": "no_such", "by": "park", "parts": {"A": 1}}],
        documents=[{"metric": "staff_count", "file": "../secret", "sha256": SHA}],
        ledger={"devices": 10, "date": date(2024, 6, 1), "sha256": SHA, "file": "/etc/passwd"},
        explanations={"no.rule": "because"})
    assert problems(raw) == {
        "groups[0].industry": "audit.claim_no_part", "groups[2].domain": "audit.claim_twice",
        "splits[0].parts.machine_tools": "audit.claim_twice", "splits[1].metric": "audit.claim_no_metric",
        "documents[0].file": "audit.claim_bad_file", "explanations.no.rule": "audit.claim_no_rule",
        "ledger": "audit.claim_bad_file"}


def test_shapes_are_checked_before_anything_else() -> None:
    raw = claim_fields(
        "jiangxi_guideline_2022", "comprehensive", USCC,
        groups=[{"metrics": {}}, {"industry": "31", "park": "A", "metrics": {}}],
        splits=[{"metric": "point_count", "by": "nothing", "parts": {}}],
        documents=[{"metric": "staff_count", "file": "a.pdf", "sha256": "AB"}])
    assert problems(raw) == {
        "groups[0]": "audit.claim_unnamed_group", "groups[1]": "audit.claim_unnamed_group",
        "splits[0].by": "config.not_one_of", "splits[0].parts": "config.out_of_range",
        "documents[0].sha256": "config.bad_value"}


def test_a_problem_is_told_in_both_languages_with_its_number() -> None:
    told = [Words(lang)("audit.field_missing", field="(6) 兼容协议数量", metric="protocol_count") for lang in LANGUAGES]
    assert told == ["(6) 兼容协议数量 must be filled in and is not", "必填项 (6) 兼容协议数量 没有填写"]


def test_a_ledger_that_differs_from_the_metric() -> None:
    raw = claim_fields("jiangxi_guideline_2022", "enterprise", USCC, {"industrial_device_ledger_count": 9},
                       ledger={"devices": 10, "date": date(2024, 6, 1), "sha256": SHA})
    assert problems(raw) == {"ledger": "audit.claim_ledger_differs"}


@pytest.mark.parametrize(("content", "code", "verdict"), [
    (b"proof", None, "holds"), (b"other", "audit.document_differs", "does_not_hold"),
    (None, "audit.document_absent", "holds")])
def test_documents_beside_the_claim_are_held_against_their_digest(
        tmp_path: Path, content: bytes | None, code: str | None, verdict: str) -> None:
    if content is not None:
        (tmp_path / "apps.pdf").write_bytes(content)
    digest = hashlib.sha256(b"proof").hexdigest()
    raw = claim_fields("jiangxi_2024", "industry", USCC, FIELDS, documents=[
        {"metric": "industrial_app_count", "file": "apps.pdf", "sha256": digest}])
    result = audited(read(raw, tmp_path))
    found = [f.code for f in result.findings if f.where == "documents.industrial_app_count"]
    assert (found, result.verdict) == ([code] if code else [], verdict)
    apps = next(item for item in result.metrics if item.key == "industrial_app_count")
    assert (apps.claimed, apps.proven, apps.evidence_class) == (12, None, "c")
    assert [d.state for d in apps.documents] == [{None: "matches", "audit.document_differs": "differs",
                                                  "audit.document_absent": "absent"}[code]]
    bare = next(f for f in result.findings if f.code == "audit.no_document")
    assert "industrial_app_count" not in bare.args["metrics"] and "solution_count" in bare.args["metrics"]


def test_a_link_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"proof")
    (tmp_path / "apps.pdf").symlink_to(tmp_path / "secret")
    raw = claim_fields("jiangxi_2024", "industry", USCC, FIELDS, documents=[
        {"metric": "industrial_app_count", "file": "apps.pdf", "sha256": hashlib.sha256(b"proof").hexdigest()}])
    assert read(raw, tmp_path).documents[0].state == "absent"


def test_a_part_that_is_claimed_higher_than_it_is_proven_is_a_fault() -> None:
    raw = claim_fields("jiangxi_2024", "industry", USCC, FIELDS, splits=[
        {"metric": "device_connected_count", "by": "class", "parts": {"机床": 500, "机器人": 487}}])
    groups = {"class": {"machine_tools": {"devices": 500}, "robots": {"devices": 486},
                        None: {"devices": 1}}}
    result = audited(read(raw), groups=groups)
    assert codes(result) == [("audit.part_overclaim", "splits.device_connected_count.class")]
    split = result.splits[0]
    assert (split.claimed, split.proven) == (987, 987)
    assert [(p.part.key, p.part.name_zh, p.claimed, p.proven) for p in split.parts] == [
        ("machine_tools", "机床", 500, 500), ("robots", "机器人", 487, 486), ("other", None, None, 1)]
    rule = next(r for r in result.rules if r.id == "jx24.consistency.device_class_sum")
    assert (rule.status, rule.checks[0].claimed, rule.checks[0].proven) == ("consistent", (987, 987), (986, 987))
    assert ("audit.check_proven", rule.id) in codes(result, "remark")


def test_a_sum_that_is_not_the_total_is_a_fault() -> None:
    raw = claim_fields("jiangxi_2024", "industry", USCC, FIELDS, splits=[
        {"metric": "device_connected_count", "by": "class", "parts": {"机床": 500, "机器人": 486}}])
    groups = {"class": {"machine_tools": {"devices": 501}, "robots": {"devices": 486}}}
    assert codes(audited(read(raw), groups=groups)) == [("audit.inconsistent", "jx24.consistency.device_class_sum")]


def test_a_share_is_one_of_the_declared_ledger_and_both_readings_are_computed() -> None:
    """50 % of what? 500 proven of 1000 in the ledger; 5 %: 40 declared of 1000 fail, of the 500 connected pass."""
    raw = claim_fields("jiangxi_guideline_2022", "enterprise", USCC, {
        "device_manageable_count": 40, "integrated_application_kind_count": 2, "migrated_software_kind_count": 5,
        "staff_count": 10}, ledger={"devices": 1000, "date": date(2024, 6, 1), "sha256": SHA})
    result = audited(read(raw), devices=500, groups={"province": {"36": {"enterprises": 1}}})
    rule = next(r for r in result.rules if r.id == "jxg22.enterprise.device_access")
    connected, manageable = rule.branches[0].comparisons
    assert (connected.value, connected.rests_on, connected.status, connected.proven) == (0.5, "both", "declared", None)
    assert connected.share is not None and manageable.share is not None
    assert (connected.share.numerator_value, connected.share.denominator_value) == (500, 1000)
    assert (manageable.value, manageable.rests_on, manageable.status) == (0.04, "declaration", "not_met")
    first, second = next(a.readings for a in rule.ambiguities if a.readings)
    assert (first.status, second.status) == ("not_met", "declared")
    again = second.branches[0].comparisons
    assert (again[0].value, again[1].value) == (0.5, 0.08)
    assert again[1].share is not None and again[1].share.denominator == "device_connected_count"
    assert ("audit.reading_decides", rule.id) in codes(result, "remark")
    assert next(f for f in result.findings if f.code == "audit.ledger_declared").args == {
        "devices": "1000", "date": "2024-06-01", "sha256": SHA}


@pytest.mark.parametrize(("claimed", "fault"), [(0.6, False), (0.601, True), (0.59, False)])
def test_a_share_that_is_claimed_higher_than_it_is_computed_is_a_fault(claimed: float, fault: bool) -> None:
    raw = claim_fields("jiangxi_guideline_2022", "enterprise", USCC, {"device_connected_ratio": claimed},
                       ledger={"devices": 1000, "date": date(2024, 6, 1), "sha256": SHA})
    found = [code for code, _ in codes(audited(read(raw), devices=600))]
    assert ("audit.share_overclaim" in found) == fault


@pytest.mark.parametrize(("devices", "told"), [(1000, False), (1001, True)])
def test_more_devices_than_the_ledger_has_is_a_remark(devices: int, told: bool) -> None:
    raw = claim_fields("jiangxi_guideline_2022", "enterprise", USCC,
                       ledger={"devices": 1000, "date": date(2024, 6, 1), "sha256": SHA})
    assert ("audit.ledger_short" in [code for code, _ in codes(audited(read(raw), devices=devices), "remark")]) == told


def test_other_enterprises_devices_are_told_where_only_the_applicants_count() -> None:
    groups = {"enterprise": {USCC: {"devices": 90}, "91320000MA1XYRAB4U": {"devices": 10}}}
    for kind, told in (("enterprise", True), ("comprehensive", False)):
        result = audited(read(claim_fields("jiangxi_guideline_2022", kind, USCC)), devices=100, groups=groups)
        assert [f.args["devices"] for f in result.findings if f.code == "audit.others_devices"] == ["10"] * told


def test_what_belongs_to_no_industry_is_not_one_more_industry() -> None:
    """Both groups have the numbers, and one of them is 其他."""
    for second, status in (("其他", "not_met"), ("采矿", "declared")):
        raw = claim_fields("jiangxi_guideline_2022", "comprehensive", USCC, groups=[
            {"industry": name, "metrics": {"industrial_model_count": 10, "industrial_app_count": 10}}
            for name in ("黑色金属", second)])
        rule = next(r for r in audited(read(raw)).rules if r.id == "jxg22.comprehensive.cross_industry_models_apps")
        assert rule.groups is not None
        assert (rule.status, rule.groups.passing) == (status, 1 if status == "not_met" else 2)


def test_without_a_ledger_there_is_no_share() -> None:
    raw = claim_fields("jiangxi_guideline_2022", "enterprise", USCC, {"device_connected_ratio": 0.9})
    rule = next(r for r in audited(read(raw)).rules if r.id == "jxg22.enterprise.device_access")
    assert (rule.status, rule.branches[0].comparisons[0].value) == ("not_met", None)


@pytest.mark.parametrize(("by_model", "by_class", "status", "readings"), [
    (11, 10, "met", ["met", "not_met"]), (10, 11, "not_met", ["not_met", "met"]), (11, 11, "met", ["met", "met"])])
def test_more_than_ten_kinds_by_model_and_by_class(by_model: int, by_class: int, status: str,
                                                   readings: list[str]) -> None:
    result = audited(read(claim_fields("jiangxi_guideline_2022", "comprehensive", USCC)), devices=1000, points=0,
                     kinds_by_model=by_model, kinds_by_class=by_class)
    rule = next(r for r in result.rules if r.id == "jxg22.comprehensive.device_access")
    told = next(a for a in rule.ambiguities if any(r.figures for r in a.readings))
    assert (rule.status, [r.status for r in told.readings]) == (status, readings)
    assert [r.figures["device_kind_count"] for r in told.readings] == [by_model, by_class]
    metric = next(m for m in result.metrics if m.key == "device_kind_count")
    assert metric.readings == {"by_model": by_model, "by_class": by_class}


def test_protocols_are_counted_as_families_and_as_variants() -> None:
    result = audited(read(claim_fields("jiangxi_2024", "industry", USCC, FIELDS)))
    metric = next(m for m in result.metrics if m.key == "protocol_count")
    assert (metric.proven, metric.readings) == (2, {"family": 2, "variant": 3})
    told = [[r.figures for r in a.readings] for a in result.ambiguities if a.readings]
    assert [{"protocol_count": 2}, {"protocol_count": 3}] in told


@pytest.mark.parametrize(("programme", "kind", "metric", "claimed", "code"), [
    ("jiangxi_2024", "industry", "protocol_count", 2, None),
    ("jiangxi_2024", "industry", "protocol_count", 3, "audit.reading_reaches"),
    ("jiangxi_2024", "industry", "protocol_count", 4, "audit.overclaim"),
    ("jiangxi_guideline_2022", "comprehensive", "device_kind_count", 11, "audit.reading_reaches"),
    ("jiangsu_2019", "comprehensive", "device_kind_count", 11, "audit.overclaim")])
def test_what_another_way_to_count_reaches_is_an_overclaim_only_where_the_document_fixes_the_way(
        programme: str, kind: str, metric: str, claimed: int, code: str | None) -> None:
    """Jiangsu counts kinds by model; the guideline does not say, and there 11 classes are a way to read it."""
    result = audited(read(claim_fields(programme, kind, USCC, {metric: claimed})), kinds_by_model=10, kinds_by_class=11)
    assert [f.code for f in result.findings if f.where == f"metrics.{metric}"] == ([code] if code else [])


def test_both_branches_are_computed_and_the_other_one_may_hold() -> None:
    raw = claim_fields("jiangsu_2019", "enterprise", USCC, {
        "device_manageable_count": 30, "industrial_model_count": 20, "industrial_app_count": 10,
        "model_monthly_call_avg": 200}, scope={"branch": "discrete"})
    result = audited(read(raw), devices=99, points=3000)
    rule = next(r for r in result.rules if r.id == "js19.enterprise.device_access")
    assert [(b.mode, b.status) for b in rule.branches] == [("discrete", "not_met"), ("process", "met")]
    assert ("audit.other_branch", rule.id) in codes(result, "remark") and result.verdict == "holds"


def test_a_claim_of_one_industry_counts_that_industry_only() -> None:
    groups = {"industry": {"ferrous_metals": {"devices": 1600, "points": 10}, "electronics": {"devices": 9}}}
    for industry, status, part in ((None, "met", "ferrous_metals"), ("黑色金属", "met", "ferrous_metals"),
                                   ("electronics", "not_met", "electronics")):
        raw = claim_fields("jiangsu_2019", "industry", USCC, scope={"industry": industry} if industry else {})
        result = audited(read(raw), devices=1609, groups=groups)
        rule = next(r for r in result.rules if r.id == "js19.industry.device_access")
        assert rule.branches[0].part is not None
        assert (rule.status, rule.branches[0].part.key) == (status, part)


def test_a_claim_of_one_region_counts_that_region_only() -> None:
    groups = {"city": {"ganzhou": {"devices": 520}}, "county": {"360702": {"devices": 499}}}
    for region, status in (("3607", "declared"), ("360700", "declared"), ("360702", "not_met"), (None, "declared")):
        raw = claim_fields("jiangxi_guideline_2022", "regional", USCC, {"device_manageable_count": 100},
                           scope={"region": region} if region else {})
        result = audited(read(raw), devices=600, groups=groups)
        rule = next(r for r in result.rules if r.id == "jxg22.regional.device_access")
        assert rule.status == status, region


def test_groups_of_the_claim_and_of_the_evidence_are_laid_side_by_side() -> None:
    """Two industries pass by what is proven; a third one is claimed and has nothing, which only reading B minds."""
    raw = claim_fields("jiangxi_guideline_2022", "comprehensive", USCC, groups=[
        {"industry": "3120", "metrics": {"device_connected_count": 500}},
        {"industry": "采矿", "metrics": {"device_connected_count": 1}}])
    result = audited(read(raw), devices=1100, groups={
        "industry": {"ferrous_metals": {"devices": 500, "points": 5}, "electronics": {"devices": 3, "points": 2500}}})
    rule = next(r for r in result.rules if r.id == "jxg22.comprehensive.cross_industry_devices")
    assert rule.groups is not None
    assert [(g.part.key, g.claimed, g.status) for g in rule.groups.groups] == [
        ("electronics", False, "met"), ("ferrous_metals", True, "met"), ("mining_extraction", True, "not_met")]
    assert (rule.status, rule.groups.passing, rule.groups.at_least) == ("met", 2, 2)
    assert [r.status for r in next(a.readings for a in rule.ambiguities if a.readings)] == ["met", "not_met"]
    assert ("audit.part_overclaim", "groups.industry.mining_extraction") in codes(result)


def test_declared_figures_are_never_shown_as_proven() -> None:
    raw = claim_fields("jiangxi_2024", "industry", USCC, FIELDS)
    for item in audited(read(raw)).metrics:
        if item.evidence == "declared":
            assert item.proven is None and item.stages is None and item.levels is None
        elif item.key in ("device_connected_count", "point_count"):
            assert item.stages is not None and item.levels is not None
            assert item.stages["counted"] == item.levels["0"] == item.proven


def test_a_programme_without_thresholds_holds_by_its_figures_alone() -> None:
    result = audited(read(claim_fields("anhui_2023", "industry", USCC, {"device_connected_count": 987})))
    assert {rule.status for rule in result.rules} == {"not_judged"} and result.verdict == "holds"
