"""Indicators, forms, lists, the monitoring table and documents of every programme, as the documents have them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from config.classification import load_classification
from config.programme import PROGRAMMES, load_programme, metrics
from tests.support.domain import domain
from tests.unit.config.test_programme_rules import CITED

DIVISIONS = {
    "appendix_b.level2": "class", "appendix_d": "city", "appendix_c": "model_class", "domain_nine": "domain",
    "appendix_a.level2": "industry", "equipment_split_four": "class_level_1", "cloud_kind": "deployment",
    "industry": "industry"}
WITH_LISTS = [key for key in PROGRAMMES if key != "jiangxi_guideline_2022"]


def asked(item: dict[str, Any]) -> list[tuple[str, str | None]]:
    """(metric, division) of an indicator of the domain."""
    parts = re.split(r", | \+ ", item["metric"]) if item["metric"] else []
    return [(name.split(" by ")[0], DIVISIONS[name.split(" by ")[1]] if " by " in name else None) for name in parts]


def test_there_are_148_indicators() -> None:
    assert sum(len(load_programme(key).data.indicators) for key in PROGRAMMES) == 148


@pytest.mark.parametrize("key", PROGRAMMES)
def test_every_indicator_is_there_with_its_class_unit_and_metrics(key: str) -> None:
    told = {item["id"]: item for item in domain("indicators.yaml")[key]["items"]}
    ours = {item.id: item for item in load_programme(key).data.indicators}
    assert list(ours) == list(told)
    for name, item in told.items():
        mine = ours[name]
        assert (mine.evidence, mine.unit, mine.starred) == (item["class"], item["unit"], item.get("star", False)), name
        assert [(m, None if m in mine.whole else mine.by) for m in mine.metrics] == asked(item), name
        assert mine.together == (" + " in (item["metric"] or "")), name
        assert mine.name_zh == item["zh"], name
        assert CITED.match(mine.cite), (name, mine.cite)


@pytest.mark.parametrize("key", PROGRAMMES)
def test_a_declared_indicator_is_never_one_that_only_evidence_gives(key: str) -> None:
    """Class c and c+: the metric is declared, or evidence proves a part of it, which the class b of another says."""
    proven = {f.metric for programme in PROGRAMMES for f in load_programme(programme).data.fields
              if f.evidence in ("a", "b")}
    proven |= {m for programme in PROGRAMMES for item in load_programme(programme).data.indicators
              for m in item.metrics if item.evidence in ("a", "b")}
    for item in load_programme(key).data.indicators:
        if item.evidence in ("c", "c+"):
            assert all(metrics()[m].evidence == "declared" or m in proven for m in item.metrics), item.id


def test_the_form_of_jiangxi_asks_each_type_for_its_numbers() -> None:
    told, data = domain("jiangxi_2024.yaml")["required_fields"], load_programme("jiangxi_2024").data
    assert [(f.number, f.metric, f.name_zh, f.unit, f.evidence) for f in data.fields] == [
        (f"({n})", f["metric"], f["name_zh"], f["unit"], f["evidence"]) for n, f in told["fields"].items()]
    for key, numbers in told["by_type"].items():
        assert [f.number for f in data.required_fields(key)] == [f"({n})" for n in numbers]
        assert [f.number for f in data.fields if key in f.optional] == [f"({n})" for n in told["optional_all"]]


def test_sichuan_requires_the_first_figure_of_every_starred_item() -> None:
    data = load_programme("sichuan_2022").data
    starred = {item.item for item in data.indicators if item.starred}
    required = [field.number.split("-") for field in data.required_fields("comprehensive")]
    assert {box for _, box in required} == {"1"}
    assert {item for item, _ in required} <= starred | {"5.2"}
    firsts = {f.number.split("-")[0] for f in data.fields if f.by is None}
    assert firsts & starred == {item for item, _ in required} - {"5.2"}


@pytest.mark.parametrize("key", PROGRAMMES)
def test_fields_agree_with_the_indicators(key: str) -> None:
    """A field's class is that of an indicator with the same metric, and it has its place in the form."""
    data = load_programme(key).data
    classes = {(m, item.by if m not in item.whole else None): item.evidence for item in data.indicators
               for m in item.metrics}
    for field in data.fields:
        assert CITED.match(field.cite), (field.number, field.cite)
        known = classes.get((field.metric, field.by), field.evidence)
        assert key == "jiangxi_2024" or field.evidence == known, field.number


def test_the_monitoring_table_has_its_26_rows() -> None:
    data = load_programme("jiangxi_2024").data
    table = data.monitoring
    assert table is not None
    told = next(r for r in domain("deliverables.yaml")["jiangxi_2024"]["reports"] if r["key"] == "monitoring_table")
    assert table.columns_zh == told["columns_zh"] and table.name_zh == told["name_zh"]
    monthly = [item for item in data.indicators if ".m" in item.id]
    assert [(row.number, row.name_zh, row.unit, row.indicator) for row in table.rows] == [
        (n, item.name_zh, item.unit, item.id) for n, item in enumerate(monthly, 1)]
    assert len(table.rows) == told["rows"] == 26
    assert [row.category_zh for row in table.rows] == (
        ["资源汇聚情况"] * 7 + ["开发情况"] * 4 + ["应用情况"] * 15)
    assert not table.rows[0].part_of and sum(row.part_of for row in table.rows) == 15


@pytest.mark.parametrize("key", WITH_LISTS)
def test_lists_and_reports_have_the_printed_columns(key: str) -> None:
    told, data = domain("deliverables.yaml")[key], load_programme(key).data
    assert [(i.key, i.name_zh, i.columns_zh, i.open, i.producible, i.min_rows, i.personal_data)
            for i in data.lists] == [
        (i["key"], i["name_zh"], i.get("columns_zh") or [], i.get("open", False), i["producible"],
         i.get("min_rows", 0), i.get("personal_data", False)) for i in told["lists"]]
    assert [(r.key, r.name_zh, r.columns_zh, r.parts_zh, r.header_zh, r.note_zh, r.attachments_zh)
            for r in data.reports] == [
        (r["key"], r["name_zh"], r.get("columns_zh", []), r.get("parts", []), r.get("header_zh", []),
         r.get("note_zh", ""), r.get("attachments_zh", [])) for r in told["reports"]]


def test_attachments_of_the_jiangxi_form() -> None:
    told = domain("deliverables.yaml")["jiangxi_2024"]["application_attachments"]
    ours = load_programme("jiangxi_2024").data.form.attachments
    assert [(a.number, a.name_zh, a.required, a.producible) for a in ours] == [
        (a["n"], a["name_zh"], a["required"], "producible" in a) for a in told]


def test_limits_of_the_upload_and_layout_rules() -> None:
    upload = domain("deliverables.yaml")["jiangxi_2024"]["upload"]
    limits = load_programme("jiangxi_2024").data.submission
    assert limits is not None
    assert (limits.format, limits.files, limits.megabytes_max, limits.signed_scan) == (
        upload["format"], upload["files"], upload["max_megabytes"], upload["signed_and_stamped_scan"])
    for key in ("sichuan_2022", "anhui_2023"):
        report = load_programme(key).data.reports[0]
        told = domain("deliverables.yaml")[key]["reports"][0]["style_zh"]
        body, first, second = report.styles
        assert body.size_zh + body.font_zh in told and body.line_spacing_zh in told
        assert f"一级标题{first.size_zh}{first.font_zh}" in told and f"二级标题{second.size_zh}{second.font_zh}" in told
        assert {"3号": 16.0, "4号": 14.0}[body.size_zh] == body.size_pt
        assert report.duplex == ("双面" in told) and report.glued == ("胶装" in told)


def test_who_may_apply_and_until_when() -> None:
    for key, told in (("jiangsu_2019", "江苏省内注册"), ("sichuan_2022", "在川注册"), ("anhui_2023", "省内注册")):
        document, data = domain(f"{key}.yaml"), load_programme(key).data
        assert told in document["programme"]["applicant"]["text_zh"]
        assert data.programme.applicant is not None and CITED.match(data.programme.applicant.cite)
        steps = document["workflow"]["steps"] if isinstance(document["workflow"], dict) else document["workflow"]
        days = {str(step["deadline"]) for step in steps if "deadline" in step}
        days |= {"2023-08-18" for step in steps if step.get("at", "").startswith("2023-08-19T00:00")}
        assert data.submission is not None and {str(data.submission.deadline)} == days
        assert data.submission.demonstration == ("verification_clause" in document)


def test_kinds_of_proof_that_the_documents_name() -> None:
    for key in ("jiangsu_2019", "sichuan_2022", "anhui_2023"):
        names = {item.key: item.names_zh for item in load_programme(key).data.form.names}
        assert names["other_proof"] == domain("deliverables.yaml")[key]["other_proof_zh"]["items"]


@pytest.mark.parametrize("key", PROGRAMMES)
def test_every_cutoff_and_anomaly_of_the_domain_is_told(key: str) -> None:
    told, data = domain(f"{key}.yaml"), load_programme(key).data
    days = {day for c in data.cutoffs for day in (c.day, c.since) if day is not None}
    wanted = {c[name] for c in told["cutoff"] for name in ("date", "from", "to") if c.get(name)} - {"application"}
    assert {str(day) for day in wanted} <= {str(day) for day in days}
    assert len(data.anomalies) >= len(told.get("anomalies", []))


def test_notes_tell_what_is_borrowed_and_what_is_wrong() -> None:
    told = [note.en for note in load_programme("jiangsu_2019").data.notes()]
    assert "registered in Jiangsu" in told[0]
    assert any("数据采集地点" in note for note in told), "a fault of the form"
    assert any("is borrowed" in note for note in told) and any("445" in note for note in told), "and of the lists"
    assert not any("borrowed" in note.en for note in load_programme("jiangxi_2024").data.notes())


@pytest.mark.parametrize("key", PROGRAMMES)
def test_platform_types_have_their_names(key: str) -> None:
    known = {item["key"]: {item["name_zh"], *item.get("aliases_zh", [])}
             for item in domain("platform_types.yaml")["types"]}
    told = domain("platform_types.yaml")["programmes"][key]["types"]
    assert [item.key for item in load_programme(key).data.types] == told
    for item in load_programme(key).data.types:
        assert item.name_zh in known[item.key], item.key


@pytest.mark.parametrize("key", PROGRAMMES)
def test_parts_of_checks_and_members_of_groups_are_classes_of_their_division(key: str) -> None:
    data = load_programme(key).data
    divisions = {item.key: item for item in data.divisions}
    for rule in data.rules:
        members = rule.groups.members if rule.groups else []
        if members and rule.groups:
            item = divisions[rule.groups.by[0]]
            assert members == [c.name_zh for c in load_classification(item.classification).of_level(item.level)]
        for term in (term for check in rule.checks for term in (*check.left, *check.right)):
            assert term.by is None or term.by == "deployment" or term.by in divisions, rule.id
