"""Figures of parts: each part is counted as the whole is, and the parts add up to the whole."""

from __future__ import annotations

from typing import Any

import pytest

from config.programme import load_programme
from protocols.evidence.bundle import open_bundle
from protocols.terms.basis import Basis
from tests.support.plant_fixture import Plant
from verifier.audit.divisions import OTHER, division, place
from verifier.audit.groups import STAGES, parts
from verifier.conformance.world import OTHER_USCC, USCC
from verifier.proof.figures import Figures, figures
from verifier.proof.verify import verify


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """Two enterprises, three cities, three industries, and devices that do not count."""
    plant = Plant(tmp_path_factory.mktemp("groups"))

    def device(equipment_class: str | None = "machine_tools", **fields: Any) -> None:
        plant.device(**({"class": equipment_class} | fields))

    device(points=3, model="A", region="360102", industry="3120")
    device("robots", points=2, model="A", region="360121", industry="3120", uscc=OTHER_USCC)
    device("robots", model="B", region="360700", industry="2511", protocol="modbus_rtu")
    device("no_such_class", model="C", region="440300", industry="4000", protocol="opc_ua", deployment="public")
    device(None, model="", region=None, industry=None, protocol="opc_ua")
    device(model="D", region="440300", industry="4000", silent=True)
    device(model="E", role="heartbeat", protocol="mqtt")
    plant.point(0, base="array"), plant.point(0, base="array")
    verdict = verify(open_bundle(plant.seal()), plant.world.policy())
    assert verdict.valid and verdict.evidence is not None
    return figures([verdict.evidence], plant.gateway.now_s, Basis(key="test", version="1"))


def test_stages_are_nested_and_the_last_is_what_counts(found: Figures) -> None:
    stages = parts(found).stages
    assert [(name, stages[name].devices, stages[name].points) for name in STAGES] == [
        ("configured", 7, 12), ("connected", 7, 11), ("producing", 5, 11), ("changing", 5, 11), ("counted", 5, 9)]
    counted = stages["counted"]
    assert (counted.kinds_by_model, counted.kinds_by_class, counted.enterprises) == (3, 2, 2)
    assert (counted.protocols_by_family, counted.protocols_by_variant) == (2, 3)
    assert (counted.industries, counted.cities) == (2, 3)
    assert stages["configured"].kinds_by_model == 5


def test_levels_are_lower_bounds(found: Figures) -> None:
    levels = parts(found).levels
    assert levels["0"].devices == 5 and levels["0"].points == 9
    assert all(levels[level].devices == 0 for level in levels if level != "0")


def test_the_parts_of_each_division_add_up_to_the_whole(found: Figures) -> None:
    told = parts(found)
    for by, groups in told.groups.items():
        assert sum(g.devices for g in groups) == told.stages["counted"].devices, by
        assert sum(g.points for g in groups) == told.stages["counted"].points, by
        assert len({g.key for g in groups}) == len(groups), by


def test_a_part_has_its_own_figures(found: Figures) -> None:
    groups = parts(found).groups
    steel, chemistry, none = groups["industry"]
    assert {g.key for g in (steel, chemistry)} == {"ferrous_metals", "petrochemical_chemical"} and none.key is None
    assert (steel.name_zh, steel.devices, steel.points, steel.kinds_by_model, steel.kinds_by_class,
            steel.enterprises, steel.cities) == ("黑色金属", 2, 6, 1, 2, 2, 1)
    assert [(g.key, g.devices) for g in groups["county"]] == [("360102", 1), ("360121", 1), (None, 3)]
    assert [(g.key, g.devices) for g in groups["city"]] == [("3601", 2), ("3607", 1), ("4403", 1), (None, 1)]
    assert [(g.key, g.devices) for g in groups["province"]] == [("36", 3), ("44", 1), (None, 1)]
    assert {g.key: g.devices for g in groups["enterprise"]} == {USCC: 4, OTHER_USCC: 1}
    assert {g.key: g.devices for g in groups["class"]} == {"machine_tools": 1, "robots": 2, None: 2}
    assert {g.key: g.devices for g in groups["deployment"]} == {"private": 4, "public": 1}


def test_kinds_are_listed_and_named_where_a_device_is_opened(found: Figures) -> None:
    kind = found.devices[0].row.kind
    assert kind is not None
    told = {g.key: (g.name_zh, g.devices) for g in parts(found, models={kind: "Maker A"}).groups["kind"]}
    assert told[kind] == ("Maker A", 2) and told[None] == (None, 1)
    assert len(told) - 1 == found.kinds_by_model == 3


def test_points_of_one_base_address_belong_to_one_device(found: Figures) -> None:
    """Three points and two of one array: four after folding."""
    assert [d.points for d in found.devices] == [4, 2, 1, 1, 1, 0, 0]
    assert sum(d.points for d in found.devices) == found.points.folded


@pytest.mark.parametrize(("by", "text", "meant"), [
    ("industry", "ferrous_metals", "ferrous_metals"), ("industry", "黑色金属", "ferrous_metals"),
    ("industry", "3120", "ferrous_metals"), ("industry", "31", "ferrous_metals"), ("industry", "其他", OTHER),
    ("industry", "no such", None), ("class", "机床", "machine_tools"), ("class", "robots", "robots"),
    ("deployment", "public", "public"), ("deployment", "cloud", None), ("park", "高新区", "高新区"),
    ("city", "360700", "3607"), ("city", "360000", None), ("city", "南昌", None)])
def test_a_claim_may_name_a_part_by_key_name_or_code(by: str, text: str, meant: str | None) -> None:
    assert division(by).meant(text) == meant


@pytest.mark.parametrize(("region", "name", "key"), [
    ("360121", "province", "36"), ("360121", "city", "3601"), ("360121", "county", "360121"),
    ("360100", "county", None), ("360000", "city", None), (None, "city", None), ("36", "city", None)])
def test_places_of_a_region_code(region: str | None, name: str, key: str | None) -> None:
    assert place(region, name) == key


def test_a_programme_sets_its_own_divisions(found: Figures) -> None:
    """Each division that a programme sets from a classification gives its classes, and the sum stays."""
    for key in ("jiangxi_2024", "sichuan_2022"):
        divisions = load_programme(key).data.divisions
        told = parts(found, divisions).groups
        for item in divisions:
            if item.key in told:
                known = {c.key for c in division(item.key, divisions).parts()} | {None}
                assert {g.key for g in told[item.key]} <= known
                assert sum(g.devices for g in told[item.key]) == 5
