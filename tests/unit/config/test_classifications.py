"""Every class of the domain's classifications, with names, codes and mappings, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from config.classification import CLASSIFICATIONS, load_classification
from tests.support.domain import domain
from tests.support.source import ROOT

LISTS = {
    "industry_sc_2022": ("lists_by_programme.yaml", "sichuan_2022", "industries", "items"),
    "industry_ah_2023": ("lists_by_programme.yaml", "anhui_2023", "industries_definition", "items"),
    "industry_ah_2023_form": ("lists_by_programme.yaml", "anhui_2023", "industries_form", "items"),
    "technical_ah_2023": ("lists_by_programme.yaml", "anhui_2023", "technical_capabilities_form", "items"),
    "industry_jx_2024_form": ("lists_by_programme.yaml", "jiangxi_2024", "industries_form", "items"),
    "application_jxg_2022": ("lists_by_programme.yaml", "jiangxi_guideline_2022", "integrated_application_systems",
                             "items"),
    "cloud_software_js_2019": ("lists_by_programme.yaml", "jiangsu_2019", "cloud_software_kinds", "items"),
    "domain_nine": ("domains_nine.yaml", "canonical"),
    "domain_ah_2023_form": ("domains_nine.yaml", "programmes", "anhui_2023", "form_service_domains", "list"),
    "domain_jxg_2022": ("domains_nine.yaml", "programmes", "jiangxi_guideline_2022", "cross_domain", "list"),
    "domain_js_2019": ("domains_nine.yaml", "programmes", "jiangsu_2019", "cross_domain", "list"),
    "model_jx_c": ("appendix_c_models.yaml", "classes"),
    "region_jx_d": ("appendix_d_regions.yaml", "classes"),
}
TREES = {"industry_jx_a": "appendix_a_industries.yaml", "equipment_jx_b": "appendix_b_equipment.yaml"}


def test_the_folder_holds_what_the_code_knows() -> None:
    files = (ROOT / "config" / "classifications").glob("*.toml")
    assert sorted(file.stem for file in files) == list(CLASSIFICATIONS)
    assert {*LISTS, *TREES, "manufacturing_js_2019"} == set(CLASSIFICATIONS)


@pytest.mark.parametrize("key", sorted(LISTS))
def test_a_list_is_the_printed_one(key: str) -> None:
    file, *steps = LISTS[key]
    told: Any = domain(file)
    for step in steps:
        told = told[step]
    assert [(c.key, c.name_zh) for c in load_classification(key).classes.values()] == [
        (item["key"], item["name_zh"]) for item in told]


@pytest.mark.parametrize("key", sorted(TREES))
def test_a_tree_is_the_printed_one(key: str) -> None:
    """Keys, names, levels, parents and codes."""
    rows: list[tuple[str, int, str | None, str, list[str]]] = []
    for first in domain(TREES[key])["classes"]:
        rows.append((first["key"], 1, None, first["name_zh"], []))
        for second in first["children"]:
            rows.append((second["key"], 2, first["key"], second["name_zh"], second["codes"]))
            rows += [(third["key"], 3, second["key"], third["name_zh"], []) for third in second.get("level3", [])]
    assert [(c.key, c.level, c.parent, c.name_zh, c.codes) for c in load_classification(key).classes.values()] == rows


@pytest.mark.parametrize("key", CLASSIFICATIONS)
def test_what_a_classification_maps_to_exists(key: str) -> None:
    known = load_classification(key)
    file = (ROOT / "config" / "classifications" / f"{key}.toml").read_text(encoding="utf-8")
    mapped = [name for c in known.classes.values() for name in c.maps_to]
    assert bool(mapped) == ('\nmaps_to = "' in file)
    base = load_classification("domain_nine" if key.startswith("domain") else "industry_jx_a")
    assert set(mapped) <= base.classes.keys()
    assert all(c.parent is None or c.parent in known.classes for c in known.classes.values())
    assert sum(c.rest for c in known.classes.values()) <= 1


def test_anomalies_of_the_domain_are_told() -> None:
    for key, file in {**TREES, "region_jx_d": "appendix_d_regions.yaml"}.items():
        codes = [str(item.get("code") or item.get("name_zh", "")) for item in domain(file)["anomalies"]]
        told = " ".join(remark.zh for remark in load_classification(key).remarks)
        for code in codes:
            if code.isdigit():
                assert code in told, (key, code)
    assert load_classification("region_jx_d").remarks and load_classification("model_jx_c").remarks


@pytest.mark.parametrize(("key", "code", "held"), [
    ("industry_jx_a", "3421", "machinery"), ("industry_jx_a", "C3587", "light_industry"),
    ("industry_jx_a", "4512", None), ("industry_sc_2022", "0610", "coal_ferrous_ore_oil_gas_extraction"),
    ("industry_sc_2022", "0911", None), ("industry_sc_2022", "3392", "ferrous_metals"),
    ("industry_ah_2023", "3421", "equipment_manufacturing"), ("industry_ah_2023", "0911", "mining"),
    ("industry_jx_2024_form", "3741", "aviation"), ("industry_jx_2024_form", "3421", "equipment_manufacturing"),
    ("region_jx_d", "361000", "fuzhou_jx"), ("region_jx_d", "350100", "outside_or_other"), ("region_jx_d", None, None),
])
def test_a_code_belongs_to_the_class_with_its_longest_prefix(key: str, code: str | None, held: str | None) -> None:
    found = load_classification(key).by_code(code)
    assert (found.key if found else None) == held


def test_the_four_kinds_of_equipment_are_level_1_of_appendix_b() -> None:
    told, tree = domain("equipment_split_four.yaml"), load_classification("equipment_jx_b")
    assert [c.key for c in tree.of_level(1)] == [c["key"] for c in told["classes"]]
    for first, members in told["programmes"]["jiangxi_2024"]["members"].items():
        assert [c.key for c in tree.of_level(2) if c.parent == first] == members


def test_every_code_of_appendix_d_is_of_the_province() -> None:
    told = {c["key"]: c["gb2260"] for c in domain("appendix_d_regions.yaml")["classes"]}
    for item in load_classification("region_jx_d").classes.values():
        assert item.own_codes == ([told[item.key][:4]] if told[item.key] else [])
        assert item.rest == (told[item.key] is None)
