"""Every rule of every programme document is in the data: same tests, operators, groups and types; cited; own words."""

from __future__ import annotations

import re
from typing import Any

import pytest

from config.programme import PROGRAMMES, load_programme
from config.programme_rules import Comparison, Rule
from protocols.errors import ConfigError
from tests.support.domain import domain

WORDS = {
    "不少于": ">=", "不低于": ">=", "达到": ">=", "以上": ">=", "至少": ">=", "达…以上": ">=", "超过": ">",
    "具备": "=="}
"""Wordings of thresholds and their operators: usual legal reading."""

DOCUMENT = r"(《[^》]+》|[\u4e00-\u9fff]+〔\d{4}〕\d+号|[\u4e00-\u9fff]+ \d{4}-\d{2}-\d{2}[^，]*)"
NUMBERED = r"[（）一二三四五六七八九十0-9. ]*[\u4e00-\u9fff]*（?[\u4e00-\u9fff]*）?( \d)?"
ITEM = rf"(?=[^、；]*[一二三四五六附0-9])((通知正文|附件\d) ?)?(附录[A-D]( 表[A-D]\.1)?|{NUMBERED})"
CITED = re.compile(rf"^{DOCUMENT}，{ITEM}((、|；){ITEM})*$")
"""A document by its title, its number, or authority and date; then annex and item."""


def ours(key: str) -> dict[str, Rule]:
    return {rule.id: rule for rule in load_programme(key).data.rules}


def told(key: str) -> dict[str, Any]:
    return {rule["id"]: rule for rule in domain(f"{key}.yaml")["rules"]}


def comparison_of_domain(test: dict[str, Any]) -> dict[str, Any]:
    """The domain's comparison, in our names."""
    named = {"basis": "kinds", "window": "since"}
    value = {named.get(name, name): given for name, given in test.items() if name != "wording"}
    if "since" in value:
        value["since"] = value["since"].split("..")[0]
    return value | {"proof": len(value.get("proof", []))}


def comparison_of_ours(test: Comparison) -> dict[str, Any]:
    value = {name: given for name, given in test.model_dump(exclude_defaults=True).items() if name != "wording"}
    if "since" in value:
        value["since"] = value["since"].isoformat()
    return value | {"proof": len(value.get("proof", []))}


@pytest.mark.parametrize("key", PROGRAMMES)
def test_the_rules_are_those_of_the_domain_and_no_others(key: str) -> None:
    assert list(ours(key)) == list(told(key))


def test_there_are_74_rules() -> None:
    assert sum(len(ours(key)) for key in PROGRAMMES) == 74


@pytest.mark.parametrize("key", PROGRAMMES)
def test_types_kinds_and_evidence_agree(key: str) -> None:
    types = [item.key for item in load_programme(key).data.types]
    for rule_id, rule in told(key).items():
        given = rule.get("platform_type", "all")
        wanted = types if given == "all" else given if isinstance(given, list) else [given]
        mine = ours(key)[rule_id]
        assert [name for name in types if mine.applies_to(name)] == [name for name in types if name in wanted], rule_id
        assert mine.kind == rule.get("kind", "threshold"), rule_id
        assert mine.evidence == rule.get("evidence"), rule_id
        assert mine.interpretation == ("interpretation" in str(rule.get("basis", "")) + rule.get("check", "")), rule_id


@pytest.mark.parametrize("key", PROGRAMMES)
def test_branches_comparisons_and_groups_agree(key: str) -> None:
    """Metric, operator, value, unit, mode, filter, scope, ratio, in order."""
    compared = 0
    for rule_id, rule in told(key).items():
        asked, mine = rule.get("require", {}), ours(key)[rule_id]
        groups = asked.get("groups")
        if groups is None:
            assert mine.groups is None, rule_id
        else:
            by = groups["by"] if isinstance(groups["by"], list) else [groups["by"]]
            assert mine.groups is not None
            assert (mine.groups.by, mine.groups.at_least, mine.groups.all_groups, mine.groups.members) == (
                by, groups.get("at_least"), groups.get("all_groups", False), groups.get("members", [])), rule_id
            asked = groups["each"]
        branches = asked.get("any", [asked] if asked else [])
        assert [b.get("mode") for b in branches] == [b.mode for b in mine.any], rule_id
        for branch, own in zip(branches, mine.any, strict=True):
            assert list(map(comparison_of_domain, branch["all"])) == list(map(comparison_of_ours, own.all)), rule_id
            compared += len(own.all)
    assert compared == {"jiangxi_guideline_2022": 31, "jiangsu_2019": 56, "jiangxi_2024": 4, "sichuan_2022": 4,
                        "anhui_2023": 4}[key]


@pytest.mark.parametrize("key", PROGRAMMES)
def test_operators_follow_the_wording(key: str) -> None:
    """Each wording stands in the document, and its operator is the one of the usual legal reading."""
    for rule_id, rule in ours(key).items():
        quote = told(key)[rule_id].get("quote", "")
        asked = {(t["metric"], t["op"]): t.get("wording")
                 for t in _comparisons(told(key)[rule_id].get("require", {}))}
        for test in (test for branch in rule.any for test in branch.all):
            if test.wording:
                assert WORDS[test.wording] == test.op, rule_id
                assert all(part in quote for part in test.wording.split("…")), rule_id
            assert asked[test.metric, test.op] in (None, test.wording), rule_id
            assert test.wording or test.op == "==" or test.metric in NO_WORDING, (rule_id, test.metric)


NO_WORDING = {
    "served_city_or_county_count", "enterprises_with_evidence_in_jiangxi", "typical_case_count",
    "killer_app_listed_count", "solution_described_count", "park_case_count"}
"""What the documents ask for without a word of comparison."""


def _comparisons(require: Any) -> list[dict[str, Any]]:
    if isinstance(require, list):
        return [test for item in require for test in _comparisons(item)]
    if not isinstance(require, dict):
        return []
    return [require] if "metric" in require else [test for item in require.values() for test in _comparisons(item)]


@pytest.mark.parametrize("key", PROGRAMMES)
def test_every_ambiguity_of_the_domain_is_told(key: str) -> None:
    for rule_id, rule in told(key).items():
        assert len(ours(key)[rule_id].ambiguity) >= len(rule.get("ambiguity", [])), rule_id


def test_readings_that_give_another_number() -> None:
    """Kinds by model or class, 5 % of ledger or connected, at least or every industry, users, one industry's points."""
    found = {(rule_id, reading.key): reading.model_dump(exclude_defaults=True, exclude={"zh", "en", "key"})
             for key in PROGRAMMES for rule_id, rule in ours(key).items() for item in rule.ambiguity
             for reading in item.readings if reading.changes()}
    assert found["jxg22.enterprise.device_access", "B"] == {
        "of": ["device_manageable_ratio"], "denominator": "device_connected_count"}
    assert found["js19.comprehensive.cross_industry_devices", "B"] == {"all_groups": True}
    assert found["js19.comprehensive.device_access", "B"] == {"of": ["point_count"], "scope": "one_industry"}
    kinds = [item.readings for item in ours("jiangxi_guideline_2022")["jxg22.comprehensive.device_access"].ambiguity]
    assert next([reading.kinds for reading in readings] for readings in kinds if readings) == [None, "by_class"]


@pytest.mark.parametrize("key", PROGRAMMES)
def test_every_rule_is_cited_and_in_our_own_words(key: str) -> None:
    for rule_id, rule in ours(key).items():
        assert CITED.match(rule.cite), (rule_id, rule.cite)
        quote = told(key)[rule_id].get("quote", "")
        assert rule.zh not in quote and (not quote or quote not in rule.zh), rule_id
        assert rule.zh and rule.en and rule.zh != rule.en


@pytest.mark.parametrize("key", PROGRAMMES)
def test_the_document_of_each_citation_is_the_programme(key: str) -> None:
    head = load_programme(key).data.programme
    date = head.issued.isoformat() if head.issued else ""
    document = head.doc_no or (f"{head.authority_zh} {date}" if date else f"《{head.title_zh}》")
    assert all(rule.cite.startswith(document) for rule in ours(key).values())


def test_every_quota_of_the_domain_is_there() -> None:
    assert ours("anhui_2023")["ah23.quota"].quota == told("anhui_2023")["ah23.quota"]["by_city"]


@pytest.mark.parametrize("change", [
    {"kind": "qualitative"}, {"kind": "consistency"}, {"any": []}, {"groups": {"by": ["industry"]}},
    {"groups": {"by": ["industry"], "at_least": 2, "all_groups": True}}, {"groups": {"by": ["moon"], "at_least": 1}},
    {"check": [{"left": [{"metric": "point_count"}], "op": "==", "right": [{"value": 1}]}]},
    {"ambiguity": [{"zh": "a", "en": "a", "readings": [{"key": "A", "zh": "a", "en": "a"}]}]},
    {"ambiguity": [{"zh": "a", "en": "a", "readings": [
        {"key": "A", "zh": "a", "en": "a"}, {"key": "B", "zh": "a", "en": "a"}]}]},
])
def test_a_rule_that_cannot_be_judged_is_refused(change: dict[str, Any]) -> None:
    whole = ours("jiangsu_2019")["js19.enterprise.device_control"].model_dump(by_alias=True)
    Rule.model_validate(whole)
    with pytest.raises(ValueError):
        Rule.model_validate(whole | change)


def test_terms_of_a_check_are_a_metric_or_a_value() -> None:
    whole = ours("sichuan_2022")["sc22.consistency.domain_cap"].model_dump(by_alias=True)
    wrong: list[list[dict[str, Any]]]
    wrong = [[{}], [{"value": 1, "metric": "point_count"}], [{"metric": "point_count", "parts": ["public"]}]]
    for left in wrong:
        whole["check"][0]["left"] = left
        with pytest.raises(ValueError):
            Rule.model_validate(whole)


def test_an_unknown_programme_file_is_told(tmp_path: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_programme(tmp_path / "none.toml")
    assert caught.value.problems[0].code == "config.no_file"
