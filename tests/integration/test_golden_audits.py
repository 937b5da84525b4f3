"""`tallystick audit` on the golden case: five programmes, every platform type, as filed and as it is proven.

What must come out is computed from the tables of the case, or stands here with its reason; no evidence is read for it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from config.programme import load_programme
from tallystick.__main__ import main
from tests.support.golden import folder, remember_verdicts
from verifier.audit import commands
from verifier.conformance import golden_claims, golden_plants
from verifier.conformance.golden import STILL_SUNDAY, SUNDAYS
from verifier.conformance.golden_claims import Filed

CLAIMS = {claim.name.removeprefix("claims/").removesuffix(".toml"): claim for claim in golden_claims.claims()}

DECIDED_BY_EVIDENCE = {
    # 987 < 5000 devices and 4665 < 30000 points; no industry has 1000 devices or 5000 points
    "js19.comprehensive.device_access": "not_met",
    "js19.comprehensive.cross_industry_devices": "not_met",
    # the best industry has 520 devices and 2655 points
    "js19.industry.device_access": "not_met",
    "js19.enterprise.device_access": "met",  # 520 >= 100
    "jxg22.comprehensive.device_access": "not_met",  # 987 < 1000, although 11 kinds are more than 10; 4665 < 5000
    # 520 devices in the automotive industry by the discrete branch, 2655 points in electronics by the other one
    "jxg22.comprehensive.cross_industry_devices": "met",
    "jxg22.industry.device_access": "not_met",
    "jxg22.regional.device_access": "not_met",  # 480 machines of owners registered in Ganzhou; 500 asked
    "jxg22.all.local_cases": "met",
}
BY_KIND = {"threshold": "declared", "form": "declared", "qualitative": "not_judged", "quota": "not_judged",
           "proof": "not_judged"}
"""Status of every other rule: each claim declares exactly what is asked for."""


@pytest.fixture(autouse=True)
def verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundles are the same for all claims: verify them once, by the command's own way."""
    monkeypatch.setattr(commands, "judge_all", commands.judge_all)  # it is put back after the test
    remember_verdicts()


def run(capsys: pytest.CaptureFixture[str], claim: Filed, *options: str | Path) -> tuple[int, str]:
    bundles = [str(folder() / name) for name, site in zip(golden_plants.FILES, golden_plants.OPERATORS, strict=True)
               if site in claim.sites]
    code = main(["--lang", "en", "audit", str(folder() / claim.name), "--programme", claim.programme, "--type",
                 claim.type, *bundles, "--policy", str(folder() / "policy.json"), *map(str, options)])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_programme_and_type(capsys: pytest.CaptureFixture[str], claim: Filed) -> None:
    programme = load_programme(claim.programme)
    proven = golden_claims.proven(programme, claim.sites)
    filed = proven if claim.honest else golden_claims.filed(programme, claim.sites)
    code, out = run(capsys, claim, "--json")
    result = json.loads(out)

    metrics = {item["key"]: item for item in result["metrics"]}
    told = {key: (metrics[key]["claimed"], metrics[key]["proven"]) for key in filed if key in metrics
            and metrics[key]["claimed"] is not None}
    assert told == {key: (filed[key], proven[key]) for key in told}
    assert "device_connected_count" in told
    over = {f"metrics.{key}" for key in told if filed[key] > proven[key]}
    assert {f["where"] for f in result["findings"] if f["code"] == "audit.overclaim"} == over

    statuses = {rule["id"]: rule["status"] for rule in result["rules"]}
    for rule in programme.data.rules_of(claim.type):
        if rule.kind == "consistency":
            assert statuses[rule.id] in ("consistent", "not_judged")
        else:
            assert statuses[rule.id] == DECIDED_BY_EVIDENCE.get(rule.id, BY_KIND[rule.kind]), rule.id
    holds = not over and "not_met" not in statuses.values()
    assert (code, result["verdict"]) == ((0, "holds") if holds else (1, "does_not_hold"))
    assert all(f["code"] in ("audit.overclaim", "audit.rule_not_met", "audit.part_overclaim")
               for f in result["findings"] if f["severity"] == "fault")


def counted(capsys: pytest.CaptureFixture[str], *options: str | Path) -> Any:
    bundles = [str(folder() / name) for name in golden_plants.FILES]
    assert main(["--lang", "en", "count", *bundles, "--policy", str(folder() / "policy.json"), "--at",
                 golden_claims.AT, "--json", *map(str, options)]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_day_of_the_month(capsys: pytest.CaptureFixture[str]) -> None:
    """Question 12: machines in the public cloud; every third runs on Sundays, none on 9 June; gaps are no zeros."""
    days = {day["date"]: (day["devices"], day["whole"])
            for day in counted(capsys, "--programme", "sichuan_2022")["figures"]["daily_running"]}
    public = [m for m in golden_claims.counted(load_programme("sichuan_2022"), tuple(golden_plants.OPERATORS))
              if m.deployment == "public"]
    disputed = 1  # its twin is in the private cloud
    cut = {f"2024-05-{day}" for day in (27, 28, 29)} | {"2024-06-04"}
    assert len(days) == 30
    for date, told in days.items():
        there = [m for m in public if m.change != "joined" or date >= "2024-05-20"]
        sunday = [m for m in there if m.number % 3 == 0]
        expected = 0 if date == STILL_SUNDAY else len(sunday) if date in SUNDAYS else len(there) + disputed
        assert told == (expected, date not in cut), date


def test_what_is_counted_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """Question 5: two protocols, two gateways, two enterprises; one side of each counts."""
    groups = counted(capsys, "--programme", "jiangxi_2024")["duplicates"]
    assert sorted((group["dispute"], len(group["members"]), group["counted"]) for group in groups) == [
        (False, 2, 1)] * 4 + [(True, 2, 1)]
    lost = {member["name"] for group in groups for member in group["members"] if member["reason"] is not None}
    assert lost == {m.name for site in golden_plants.OPERATORS for m in golden_plants.machines(site)
                    if m.reason == "duplicate_identity"}


def test_which_points_are_left(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Question 8: from 5003 configured points to 4665."""
    basis = tmp_path / "every.toml"
    basis.write_text('schema = "basis/1"\nkey = "every point"\n[basis]\nfold_points = false\n'
                     'point_roles = ["switch", "parameter", "heartbeat", "derived", "constant"]\n', encoding="utf-8")
    every, few = counted(capsys, "--basis", basis), counted(capsys, "--programme", "jiangxi_2024")
    machines = [m for site in golden_plants.OPERATORS for m in golden_plants.machines(site) if m.why is None]
    points = [point for m in machines for point in m.points]
    assert every["figures"]["points"]["configured"] == 5003
    assert every["figures"]["points"]["value"] == sum(doing != "dead" for _, doing, _ in points) == 4895
    assert few["figures"]["points"]["value"] == 4665


def test_all_types_are_here() -> None:
    assert {(c.programme, c.type) for c in CLAIMS.values()} == {
        (key, kind.key) for key in ("anhui_2023", "jiangsu_2019", "jiangxi_2024", "jiangxi_guideline_2022",
                                    "sichuan_2022") for kind in load_programme(key).data.types}


STATES = {"retired": "gone", "after": "later"}
CHANGES = {"retired": [("listed",), ("gone",)], "after": [("added",)], "owner": [("listed",), ("changed", "uscc")]}


def test_the_25_that_differ_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """`--devices`: the list of 1012 against the evidence, with what changed a machine and when."""
    code, out = run(capsys, CLAIMS["jiangxi_2024-comprehensive"], "--devices", folder() / "devices.csv", "--json")
    told = json.loads(out)["claimed_list"]
    machines = [machine for site in golden_plants.OPERATORS for machine in golden_plants.machines(site)]
    expected = {machine.name: (STATES.get(machine.change or "", "not_counted"), machine.reason)
                for machine in machines if machine.why is not None}
    assert (code, told["matched"], told["only_in_evidence"]) == (1, 987, [])
    assert len(told["only_in_list"]) == len(expected) == 25
    assert {one["name"]: (one["state"], one["reason"]) for one in told["only_in_list"]} == expected
    changed = {machine.name: CHANGES[machine.change] for machine in machines if machine.change in CHANGES}
    for one in told["only_in_list"]:
        history = [(entry["what"], *entry["fields"]) for entry in one["history"]]
        assert history == changed.get(one["name"], [("listed",)]), one["name"]
