"""Every parameter of all five counting bases is computable from rows and columns: each, varied alone, changes figures.

One generated log of 40 hours holds a device for every parameter; nothing but its bundle is read.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.programme import PARAMETERS, PROGRAMMES, DailyRunning, load_programme
from protocols.evidence.bundle import open_bundle
from protocols.terms.basis import Basis
from tallystick.words.lookup import Words
from tests.support.domain import domain
from tests.support.plant_fixture import Plant
from verifier.audit.counting import Judged, Order, count
from verifier.audit.results import CountResult, Digests, as_json
from verifier.commands import as_json as verdict_json
from verifier.proof.verify import verify

HOUR_S = 3600
HOURS = 40
DAILY = DailyRunning(zh="", en="", deployments=["public", "private", "dedicated"])
DIGESTS = Digests(policy="0" * 64, basis=None, claim=None)


def varied_plant(folder: Path) -> Judged:
    """One device for each parameter; they produce every hour unless told otherwise."""
    plant = Plant(folder)
    plant.gateway.now_s -= plant.gateway.now_s % HOUR_S
    plant.world.time_s = plant.gateway.now_s - 60
    always = [plant.device(model="A", **{"class": "machine_tools"}), plant.device(model="A", **{"class": "robots"}),
              plant.device(model="B", **{"class": "robots"}), plant.device(energy=None),
              plant.device(deployment="public"), plant.device(region="360100"), plant.device(industry="2500"),
              plant.device(uscc=None), plant.device(thing="product"), plant.device(thing="terminal"),
              plant.device(thing="line"), plant.device(role="heartbeat"), plant.device(role="switch")]
    parent = plant.device()
    plant.device(parent=parent)
    plant.device(parent=parent)
    plant.device(serial="twin")
    plant.device(serial="twin", protocol="modbus_rtu")
    plant.point(0, base="array"), plant.point(0, base="array")
    plant.point(0, role="derived")
    ten_hours_ago, two_days_ago, just_now, nightly = (
        plant.device(), plant.device(protocol="opc_ua"), plant.device(), plant.device())
    assert always and len(plant.points) == len(plant.devices) + 3
    rare = {device: next(p["point"] for p in plant.points if p["device"] == device)
            for device in (ten_hours_ago, two_days_ago, just_now, nightly)}
    plant.begin(len_s=HOUR_S)
    every = set(range(len(plant.points))) - set(rare.values())
    for hour in range(HOURS):
        producing = set(every)
        producing |= {rare[ten_hours_ago]} if hour == HOURS - 10 else set()
        producing |= {rare[two_days_ago]} if hour == 0 else set()
        producing |= {rare[just_now]} if hour == HOURS - 1 else set()
        # An hour that belongs to one day in Shanghai and to another in UTC.
        producing |= {rare[nightly]} if plant.gateway.now_s % 86_400 == 18 * HOUR_S else set()
        plant.windows(1, producing=producing)
        plant.cosign(delay_s=10 if hour < HOURS - 1 else 1800)
    bundle = plant.write()
    verdict = verify(open_bundle(bundle), plant.world.policy())
    assert verdict.valid, verdict.findings
    return Judged(sha256="0" * 64, verdict=verdict, told=verdict_json(verdict, Words("en")))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return varied_plant(tmp_path_factory.mktemp("plant"))


def figures_of(judged: Judged, basis: Basis) -> dict[str, Any]:
    """Return what a reader sees of the figures, without the basis itself."""
    result = count([judged], Order(at_s=None, basis=basis, digests=DIGESTS, daily=DAILY), Words("en"))
    return {name: as_json(result)[name] for name in ("figures", "devices")}


UNVARIED: dict[str, dict[str, Any]] = {}


def unvaried(judged: Judged, programme: str) -> dict[str, Any]:
    """The figures of a programme's own basis, counted once."""
    if programme not in UNVARIED:
        UNVARIED[programme] = figures_of(judged, load_programme(programme).basis)
    return UNVARIED[programme]


VARIANTS: dict[str, tuple[Any, ...]] = {
    "freshness_s": (HOUR_S, 86_400), "lateness_s": (0,), "observation_s": (HOUR_S,),
    "day_boundary": ("UTC", "Asia/Shanghai"),
    "roles": (frozenset({"switch"}), frozenset({"switch", "parameter", "heartbeat"})),
    "point_roles": (frozenset({"switch"}), frozenset({"parameter", "switch", "derived"})),
    "things": (frozenset({"product"}), frozenset({"equipment", "product", "terminal", "line"})),
    "energy_required": (True, False), "owner_required": (True, False),
    "industries": (frozenset({"34"}), frozenset({"25"})), "regions": (frozenset({"32"}), frozenset({"3601"})),
    "deployments": (frozenset({"private"}), frozenset({"public"})), "parents": ("child", "parent"),
    "kinds": ("by_model", "by_class"), "protocols": ("family", "variant"), "fold_points": (True, False),
}


def test_no_parameter_is_forgotten() -> None:
    single = {"duplicates"}
    assert set(VARIANTS) | single == set(PARAMETERS)
    assert typing.get_args(typing.get_type_hints(Basis)["duplicates"]) == ("once",)


@pytest.mark.parametrize("parameter", sorted(VARIANTS))
@pytest.mark.parametrize("programme", PROGRAMMES)
def test_a_parameter_varied_alone_changes_the_figures(judged: Judged, programme: str, parameter: str) -> None:
    basis = load_programme(programme).basis
    ours = unvaried(judged, programme)
    others = [figures_of(judged, replace(basis, **{parameter: value})) for value in VARIANTS[parameter]
              if value != getattr(basis, parameter)]
    assert others and all(other != ours for other in others)


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_a_machine_reached_twice_counts_once(judged: Judged, programme: str) -> None:
    """`duplicates` has one value; that it acts is seen from the reason."""
    result = count([judged], Order(at_s=None, basis=load_programme(programme).basis, digests=DIGESTS), Words("en"))
    assert [d.slot for d in result.devices if d.reason == "duplicate_identity"] == [17]


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_devices_add_up_under_every_basis(judged: Judged, programme: str) -> None:
    result = count([judged], Order(at_s=None, basis=load_programme(programme).basis, digests=DIGESTS), Words("en"))
    assert result.figures is not None
    figures = result.figures
    assert figures.devices["configured"] == figures.devices["counted"] + sum(figures.not_counted.values())
    for name, split in figures.splits.items():
        assert sum(part.devices for part in split) == figures.devices["counted"], name
    assert figures.points["folded"] <= figures.points["counted"] <= figures.points["producing"]
    assert figures.points["producing"] <= figures.points["sampled"] <= figures.points["configured"]


# What each key of the `counting` sections in the domain asks for, and the figure or parameter that answers it.

def parameter(name: str) -> Callable[[CountResult], bool]:
    return lambda result: name in PARAMETERS and name in result.basis


def split(name: str) -> Callable[[CountResult], bool]:
    return lambda result: result.figures is not None and name in result.figures.splits


def shown(read: Callable[[Any], Any]) -> Callable[[CountResult], bool]:
    return lambda result: result.figures is not None and read(result.figures) is not None


ANSWERS: dict[str, Callable[[CountResult], bool] | None] = {
    "device_scope": parameter("things"), "device_definition": parameter("energy_required"),
    "device_kind_basis": parameter("kinds"), "device_connectivity": parameter("roles"),
    "protocol_basis": parameter("protocols"), "point_definition": parameter("point_roles"),
    "cloud_scope": parameter("deployments"), "region_basis": split("city"), "industries": split("industry"),
    "device_class": split("class"), "device_split": split("class_level_1"), "cloud_split": split("deployment"),
    "daily_running": shown(lambda f: f.daily_running), "protocol_unit": shown(lambda f: f.protocols.at),
    "discrete_or_process": shown(lambda f: (f.devices["counted"], f.points["value"])),
    # Labels, and definitions of what the applicant declares with documents of its own (class c).
    "device_unit": None, "silent_on": None, "manageable": None, "control_system_basis": None,
    "app_min_user": None, "app_industry_double_count": None, "developer": None, "developer_monthly_active": None,
    "sme": None, "park": None, "cumulative_indicators": None, "killer_app": None, "active_app_month": None,
    "active_developer": None, "solution_dedup": None, "domains": None, "model_definition": None,
    "app_definition": None,
}


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_every_definition_of_the_domain_is_answered(judged: Judged, programme: str) -> None:
    asked = domain(f"{programme}.yaml")["counting"]
    assert asked
    result = count([judged], Order(at_s=None, basis=load_programme(programme).basis, digests=DIGESTS, daily=DAILY),
                   Words("en"))
    unanswered = [key for key in asked if key not in ANSWERS or ((answer := ANSWERS[key]) and not answer(result))]
    assert not unanswered


def test_a_day_without_evidence_is_not_proven_and_never_zero(judged: Judged) -> None:
    found = figures_of(judged, load_programme("sichuan_2022").basis)["figures"]["daily_running"]
    assert len(found) == 30
    proven = [day["devices"] for day in found if day["devices"] is not None]
    assert 1 <= len(proven) <= 2 and all(proven)
    assert [day["whole"] for day in found[28:]] == [False, True], "40 hours hold one whole day and parts of others"
    assert all(day["devices"] is None for day in found[:28])


def test_running_days_count_the_deployments_that_the_programme_names(judged: Judged) -> None:
    programme = load_programme("sichuan_2022")
    result = count([judged], Order(at_s=None, basis=programme.basis, digests=DIGESTS,
                                   daily=programme.data.daily_running), Words("en"))
    assert result.figures is not None and result.figures.daily_running is not None
    assert result.figures.daily_running[-1].devices == 1  # of all devices one is on a public cloud
