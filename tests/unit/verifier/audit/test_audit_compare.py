"""`tallystick count --compare`: a second basis, and who enters or leaves by which parameter."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.programme import PARAMETERS, PROGRAMMES, load_programme
from protocols.evidence.bundle import open_bundle
from protocols.terms.basis import Basis
from tallystick.__main__ import main
from tests.support.plant_fixture import Plant
from tests.support.schemas import validate
from verifier.audit.counting import Order
from verifier.audit.difference import compare
from verifier.audit.results import Digests
from verifier.proof.figures import Evidence, Standing, figures
from verifier.proof.recount import Columns, Unpacker
from verifier.proof.verify import verify

FIRST = Basis(key="first", version="1")
NOBODY = Digests(policy="", basis=None, claim=None)


def press_shop(folder: Path) -> Plant:
    """Devices that single parameters, or several together, let in or keep out."""
    plant = Plant(folder)
    plant.device(points=2)                                          # 0 an ordinary machine
    plant.device(energy=False)                                      # 1 leaves by energy_required
    plant.device(thing="line")                                      # 2 enters by things; parent of 3
    plant.device(parent=2, deployment="public")                     # 3 leaves by deployments
    plant.device(thing="infrastructure", uscc=None)                 # 4 enters by things and owner_required
    plant.device(role="heartbeat", points=3)                        # 5 enters by roles
    plant.device(serial="press shop 0")                             # 6 the same machine as 0
    plant.device(thing="terminal", energy=False)                    # 7 leaves by things, would leave by energy too
    plant.device(industry="1311")                                   # 8 leaves by industries
    return plant


def proven(plant: Plant) -> Evidence:
    evidence = verify(open_bundle(plant.seal()), plant.world.policy()).evidence
    assert evidence is not None
    return evidence


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return proven(press_shop(tmp_path_factory.mktemp("plant")))


def told(evidence: Evidence, second: Basis, first: Basis = FIRST) -> Any:
    orders = [Order(at_s=None, basis=basis, digests=NOBODY) for basis in (first, second)]
    return compare([evidence], *orders)


def changed(evidence: Evidence, **parameters: Any) -> list[tuple[int, bool, str, tuple[str, ...]]]:
    result = told(evidence, replace(FIRST, key="second", **parameters))
    return [(c.slot, c.enters, c.parameter, c.together) for c in result.changes]


def test_a_single_parameter_lets_in_or_keeps_out(evidence: Evidence) -> None:
    assert changed(evidence) == []
    assert changed(evidence, energy_required=True) == [(1, False, "energy_required", ()),
                                                       (7, False, "energy_required", ())]
    assert changed(evidence, roles=frozenset({"heartbeat"}), point_roles=frozenset({"heartbeat"})) == [
        (0, False, "roles", ()), (1, False, "roles", ()), (3, False, "roles", ()), (5, True, "roles", ()),
        (7, False, "roles", ()), (8, False, "roles", ())]
    assert changed(evidence, industries=frozenset({"34"})) == [(8, False, "industries", ())]


def test_a_device_belongs_to_the_first_parameter_that_changes_it(evidence: Evidence) -> None:
    both = changed(evidence, things=frozenset({"equipment"}), energy_required=True)
    assert both == [(1, False, "energy_required", ()), (7, False, "things", ())]


def test_what_several_parameters_do_together_is_said(evidence: Evidence) -> None:
    things = frozenset({"equipment", "terminal", "infrastructure", "line"})
    assert changed(evidence, things=things) == [], "of the line and its machine the machine counts"
    assert changed(evidence, things=things, owner_required=False) == [(4, True, "owner_required", ("things",))]
    # The line enters when its machine has gone; energy has nothing to do with that.
    found = changed(evidence, things=things, energy_required=True, deployments=frozenset({"private"}))
    assert found == [(1, False, "energy_required", ()), (2, True, "deployments", ("things",)),
                     (3, False, "deployments", ()), (7, False, "energy_required", ())]
    assert changed(evidence, things=things, parents="parent") == [
        (2, True, "parents", ("things",)), (3, False, "parents", ("things",))]


def test_a_parameter_that_decides_other_figures_moves_nothing(evidence: Evidence) -> None:
    second = replace(FIRST, kinds="by_class", protocols="variant", fold_points=False, observation_s=3600,
                     day_boundary="UTC")
    result = told(evidence, second)
    assert [s.parameter for s in result.steps] == ["observation_s", "day_boundary", "kinds", "protocols", "fold_points"]
    assert all((s.counted, s.points, s.devices_entered, s.points_left) == (5, 6, 0, 0) for s in result.steps)
    assert (result.steps[0].first, result.steps[0].second) == (2_592_000, 3600)


def test_points_are_told_in_sums(evidence: Evidence) -> None:
    result = told(evidence, replace(FIRST, roles=FIRST.roles | {"heartbeat"},
                                    point_roles=frozenset({"heartbeat"})))
    assert [(s.parameter, s.points_entered, s.points_left, s.points) for s in result.steps] == [
        ("roles", 0, 0, 6), ("point_roles", 3, 6, 3)]
    assert (result.points.first, result.points.second, result.points.entered, result.points.left) == (6, 3, 3, 6)


def test_a_shorter_freshness_reads_other_windows(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.device()
    plant.device()
    plant.begin()
    plant.windows(1)
    plant.windows(1, producing=[0])
    plant.cosign()
    evidence = verify(open_bundle(plant.write()), plant.world.policy()).evidence
    assert evidence is not None
    assert changed(evidence, freshness_s=60) == [(1, False, "freshness_s", ())]


@pytest.mark.parametrize("first,second", list(itertools.permutations(PROGRAMMES, 2)))
def test_sums_hold_between_any_two_programmes(evidence: Evidence, first: str, second: str) -> None:
    bases = [load_programme(key).basis for key in (first, second)]
    result = told(evidence, bases[1], bases[0])
    counts = [{d.row.slot for d in figures([evidence], evidence.windows.end_s[-1], basis).devices
               if d.reason is None} for basis in bases]
    assert (result.devices.first, result.devices.second) == (len(counts[0]), len(counts[1]))
    assert {c.slot for c in result.changes if c.enters} == counts[1] - counts[0]
    assert {c.slot for c in result.changes if not c.enters} == counts[0] - counts[1]
    assert [s.parameter for s in result.steps] == [
        name for name in PARAMETERS if getattr(bases[0], name) != getattr(bases[1], name)]
    for between, what in ((result.devices, "devices"), (result.points, "points")):
        assert between.second == between.first + between.entered - between.left
        assert between.entered == sum(getattr(s, f"{what}_entered") for s in result.steps)
        assert between.left == sum(getattr(s, f"{what}_left") for s in result.steps)
    if result.steps:
        assert (result.steps[-1].counted, result.steps[-1].points) == (result.devices.second, result.points.second)


BASIS = """schema = "basis/1"
key = "strict"
[basis]
things = ["equipment", "line"]
deployments = ["private"]
"""


def test_the_command_prints_both_readings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = press_shop(tmp_path)
    bundle, policy = str(plant.seal()), str(plant.policy())
    basis = tmp_path / "strict.toml"
    basis.write_text(BASIS)
    words = ["count", bundle, "--at", "last", "--policy", policy, "--compare", str(basis)]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    validate(result, "compare.schema.json")
    assert [result[n]["figures"]["devices"]["counted"] for n in ("first", "second")] == [5, 4]
    assert result["second"]["digests"]["basis"] and not result["first"]["digests"]["basis"]
    assert [(c["slot"], c["enters"], c["together"], c["reason_first"], c["reason_second"])
            for c in result["difference"]["changes"]] == [
        (2, True, ["things"], "not_industrial_device", None), (3, False, [], None, "cloud_kind_mismatch"),
        (7, False, [], None, "not_industrial_device")]
    assert main([*words, "--lang", "en"]) == 0
    text = capsys.readouterr().out
    gateway = plant.gateway.id[:8]
    assert "The same evidence under two counting bases: default and strict" in text
    assert "devices that count: 5 and 4; 1 enter, 2 leave" in text
    assert "  things counted: equipment, product, terminal -> equipment, line\n" in text
    assert (f"  gateway {gateway}, slot 2: by `deployments`, together with `things counted`; under default: no "
            "industrial device under this basis\n") in text
    assert main([*words, "--lang", "zh"]) == 0
    assert "新增（1）：仅在 strict 下计入" in capsys.readouterr().out
    assert main([*words[:-1], "jiangsu_2018"]) == 2
    assert "--compare: " in capsys.readouterr().err


def test_an_invalid_bundle_gives_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = press_shop(tmp_path)
    plant.seal()
    bad = plant.write("bad.tally", {"unknown": b""})
    words = ["count", str(bad), "--at", "last", "--policy", str(plant.policy()), "--compare", "anhui_2023"]
    assert main([*words, "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    validate(result, "compare.schema.json")
    assert result["difference"] is None and result["second"]["figures"] is None
    assert main([*words, "--lang", "en"]) == 1
    assert "nothing is counted, under no basis" in capsys.readouterr().out


def test_windows_are_read_once_for_each_freshness_and_lateness(
        evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: however many parameters differ, and whatever is tried to say which go together."""
    read = judged = 0
    columns, reasons = Unpacker.columns, Standing.reasons

    def counting_columns(self: Unpacker, *args: Any, **kwargs: Any) -> Columns:
        nonlocal read
        read += 1
        return columns(self, *args, **kwargs)

    def counting_reasons(self: Standing, *args: Any, **kwargs: Any) -> list[str | None]:
        nonlocal judged
        judged += 1
        return reasons(self, *args, **kwargs)

    monkeypatch.setattr(Unpacker, "columns", counting_columns)
    monkeypatch.setattr(Standing, "reasons", counting_reasons)
    second = Basis(
        key="second", version="1", freshness_s=7200, lateness_s=60, observation_s=3600, day_boundary="UTC",
        roles=frozenset({"heartbeat", "parameter"}), point_roles=frozenset({"heartbeat"}),
        things=frozenset({"equipment", "line", "infrastructure"}), energy_required=True, owner_required=False,
        industries=frozenset({"34"}), regions=frozenset({"32"}), deployments=frozenset({"private"}), parents="parent",
        kinds="by_class", protocols="variant", fold_points=False)
    result = told(evidence, second)
    assert len(result.steps) == len(PARAMETERS) - 1  # all but `duplicates`, which has one value
    assert any(change.together for change in result.changes)
    assert read == 4 * len(evidence.windows) and judged <= 60
