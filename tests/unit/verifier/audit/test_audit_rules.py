"""Claims against generated bundles: thresholds at n-1, n, n+1; what is proven decides, what is declared is said."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocols.errors import ConfigError
from tallystick.__main__ import main
from tests.support.plant_fixture import Plant, claim_text
from tests.support.schemas import validate
from tests.support.source import ROOT
from verifier.audit.claim import load_claim
from verifier.audit.schemas import all_schemas
from verifier.conformance.world import OTHER_USCC, USCC

SCHEMAS = all_schemas()
FOLDER = ROOT / "docs" / "schemas"


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_published_schema_is_current(name: str) -> None:
    """Set TALLYSTICK_WRITE=1 to write them anew after a change."""
    text = json.dumps(SCHEMAS[name], indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get("TALLYSTICK_WRITE") == "1":
        (FOLDER / name).write_text(text, encoding="utf-8")
    assert (FOLDER / name).read_text(encoding="utf-8") == text


class Case:
    """A sealed plant below `folder`, with what a command line needs to audit it."""

    def __init__(self, folder: Path, devices: int = 100, points: int = 1, build: Callable[[Plant], None] | None = None):
        self.folder = folder
        self.plant = Plant(folder)
        for _ in range(devices):
            self.plant.device(points=points)
        if build is not None:
            build(self.plant)
        self.bundle = self.plant.seal()
        self.policy = self.plant.policy()

    @property
    def at_s(self) -> int:
        return self.plant.gateway.now_s

    def claim(self, uscc: str = USCC, **metrics: Any) -> Path:
        path = self.folder / "claim.toml"
        path.write_text(claim_text(self.at_s, uscc, **metrics), encoding="utf-8")
        return path

    def audit(self, capsys: pytest.CaptureFixture[str], *options: str, **claim: Any) -> tuple[int, dict[str, Any]]:
        """Run the command with --json; return exit code and result."""
        path = self.claim(**claim)
        code = main(["audit", str(path), "--programme", "jiangsu_2019", "--type", "enterprise", str(self.bundle),
                     "--policy", str(self.policy), "--json", *options])
        result = json.loads(capsys.readouterr().out)
        validate(result, "audit.schema.json")
        return code, result


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """One hundred devices with one point each, built once: tests that vary only the claim share them."""
    return Case(tmp_path_factory.mktemp("hundred"))


def statuses(result: dict[str, Any]) -> dict[str, str]:
    return {rule["id"].removeprefix("js19.enterprise."): rule["status"] for rule in result["rules"]}


def codes(result: dict[str, Any], severity: str = "fault") -> list[str]:
    return [f["code"] for f in result["findings"] if f["severity"] == severity]


@pytest.mark.parametrize(("devices", "status"), [(99, "not_met"), (100, "met"), (101, "met")])
def test_devices_at_the_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str], devices: int,
                                  status: str) -> None:
    code, result = Case(tmp_path, devices).audit(capsys, device_connected_count=devices)
    assert (code, result["verdict"]) == ((0, "holds") if status == "met" else (1, "does_not_hold"))
    assert statuses(result) == {"device_access": status, "device_control": "declared", "software": "declared"}
    discrete, process = result["rules"][0]["branches"]
    assert (discrete["mode"], discrete["comparisons"][0]["proven"]) == ("discrete", devices)
    assert (process["mode"], process["status"]) == ("process", "not_met")
    assert codes(result) == ([] if status == "met" else ["audit.rule_not_met"])


@pytest.mark.parametrize(("points", "status"), [(2999, "not_met"), (3000, "met"), (3001, "met")])
def test_points_at_the_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str], points: int, status: str) -> None:
    """Few devices, many points: the process branch alone."""
    case = Case(tmp_path, devices=0, build=lambda plant: [
        plant.device(points=number) for number in (1000, 1000, points - 2000)] and None)
    code, result = case.audit(capsys, branch="process", point_count=points)
    assert code == (0 if status == "met" else 1)
    assert statuses(result)["device_access"] == status
    assert result["rules"][0]["branches"][0]["status"] == "not_met"
    assert result["rules"][0]["branches"][1]["comparisons"][0]["proven"] == points


@pytest.mark.parametrize(("manageable", "status"), [(29, "not_met"), (30, "declared"), (31, "declared")])
def test_manageable_at_the_threshold_is_declared_and_never_proven(
        hundred: Case, capsys: pytest.CaptureFixture[str], manageable: int, status: str) -> None:
    code, result = hundred.audit(capsys, device_connected_count=100, device_manageable_count=manageable)
    assert code == (0 if status == "declared" else 1)
    assert statuses(result)["device_control"] == status
    metric = next(m for m in result["metrics"] if m["key"] == "device_manageable_count")
    assert (metric["claimed"], metric["proven"], metric["evidence"]) == (manageable, 0, "operations")
    assert "audit.declared_only" in codes(result, "remark")


@pytest.mark.parametrize("metric", ["industrial_model_count", "industrial_app_count", "model_monthly_call_avg"])
@pytest.mark.parametrize(("less", "status"), [(1, "not_met"), (0, "declared"), (-1, "declared")])
def test_declared_metrics_at_their_thresholds(hundred: Case, capsys: pytest.CaptureFixture[str], metric: str,
                                              less: int, status: str) -> None:
    threshold = {"industrial_model_count": 20, "industrial_app_count": 10, "model_monthly_call_avg": 200}[metric]
    code, result = hundred.audit(capsys, **{metric: threshold - less})
    assert statuses(result)["software"] == status
    assert code == (0 if status == "declared" else 1)


def test_a_metric_that_is_not_claimed_is_not_declared(hundred: Case, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = hundred.audit(capsys, industrial_app_count=None)
    assert (code, statuses(result)["software"]) == (1, "not_met")


def test_one_more_than_proven_is_an_overclaim(hundred: Case, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = hundred.audit(capsys, device_connected_count=101)
    assert (code, result["verdict"], codes(result)) == (1, "does_not_hold", ["audit.overclaim"])
    assert result["findings"][[f["code"] for f in result["findings"]].index("audit.overclaim")]["args"] == {
        "metric": "device_connected_count", "claimed": "101", "proven": "100", "more": "1"}
    assert statuses(result)["device_access"] == "met", "the rule looks at what is proven"


@pytest.mark.parametrize(("metric", "proven"), [
    ("device_kind_count", 1), ("protocol_count", 1), ("enterprise_connected_count", 1), ("covered_industry_count", 1),
    ("served_area_count", 1), ("point_count", 100)])
def test_each_proven_metric_is_held_against_the_claim(hundred: Case, capsys: pytest.CaptureFixture[str], metric: str,
                                                      proven: int) -> None:
    assert hundred.audit(capsys, **{metric: proven})[0] == 0
    code, result = hundred.audit(capsys, **{metric: proven + 1})
    assert (code, codes(result)) == (1, ["audit.overclaim"])
    assert next(m["proven"] for m in result["metrics"] if m["key"] == metric) == proven


def test_a_figure_that_this_programme_does_not_ask_for_cannot_be_claimed(
        hundred: Case, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = hundred.audit(capsys, device_daily_running_count=5)
    assert (code, codes(result)) == (1, ["audit.not_computed"])


def test_less_than_proven_is_a_remark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = Case(tmp_path, 103).audit(capsys, device_connected_count=100)
    assert (code, codes(result)) == (0, [])
    assert "audit.underclaim" in codes(result, "remark")


def test_the_claimed_branch_may_fail_where_the_other_holds(hundred: Case, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = hundred.audit(capsys, branch="process")
    assert code == 0 and "audit.other_branch" in codes(result, "remark")


def test_devices_of_another_enterprise_do_not_count_for_the_applicant(
        hundred: Case, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = hundred.audit(capsys, uscc=OTHER_USCC)
    assert (code, codes(result)) == (1, ["audit.other_owner"])


def test_a_claim_after_the_cutoff_is_told(hundred: Case, capsys: pytest.CaptureFixture[str]) -> None:
    _, result = hundred.audit(capsys)
    assert "audit.after_cutoff" in codes(result, "remark")


def test_an_invalid_bundle_proves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = Case(tmp_path)
    case.plant.write(change={"checkpoint": case.plant.gateway.checkpoint(signer="thief")})
    code, result = case.audit(capsys, device_connected_count=100)
    assert (code, result["verdict"], result["count"]["verdict"]) == (1, "does_not_hold", "invalid")
    assert result["count"]["figures"] is None and result["count"]["devices"] == []
    assert all(m["proven"] is None for m in result["metrics"])
    assert statuses(result)["device_access"] == "not_met"
    assert "audit.bundle_invalid" in codes(result)


def test_not_counted_devices_come_with_their_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def build(plant: Plant) -> None:
        plant.device(role="heartbeat")
        plant.device(silent=True)
        plant.device(serial="twin")
        plant.device(serial="twin", protocol="opc_ua", opened=True)
        parent = plant.device()
        plant.device(parent=parent)
        plant.device(thing="infrastructure")
        plant.device(uscc=None)

    _, result = Case(tmp_path, 98, build=build).audit(capsys, device_connected_count=100)
    told = {d["slot"]: (d["reason"], d["name"]) for d in result["count"]["devices"] if d["reason"] is not None}
    assert told == {
        98: ("heartbeat_only", None), 99: ("no_valid_data", None), 101: ("duplicate_identity", "press shop 101"),
        102: ("parent_or_child", None), 104: ("not_industrial_device", None), 105: ("owner_unknown", None)}
    assert result["count"]["figures"]["devices"]["counted"] == 100
    assert result["count"]["figures"]["not_counted"] == dict.fromkeys(sorted(r for r, _ in told.values()), 1)
    assert result["verdict"] == "holds"


BAD_CLAIM = """
[claim]
programme = "jiangsu_2019"
type = "enterprise"
at = 2026-10-01T10:00:00
brunch = "discrete"
[claim.enterprise]
name = ""
uscc = "91320000MA1XYRAB30"
[metrics]
device_conected_count = 5
point_count = -1
industrial_app_count = "ten"
graphical_development = 1
"""


def test_a_wrong_claim_gets_all_its_problems_at_once(tmp_path: Path) -> None:
    path = tmp_path / "claim.toml"
    path.write_text(BAD_CLAIM)
    with pytest.raises(ConfigError) as caught:
        load_claim(path)
    found = {p.where.removeprefix(f"{path}, "): (p.code, dict(p.args).get("near")) for p in caught.value.problems}
    assert found == {
        "claim.at": ("audit.no_zone", None), "claim.brunch": ("config.unknown_key_near", "branch"),
        "claim.enterprise.name": ("config.out_of_range", None), "claim.enterprise.uscc": ("audit.bad_uscc", None),
        "metrics.device_conected_count": ("config.unknown_key_near", "device_connected_count"),
        "2.1-3 设备数据采集点总数, metrics.point_count": ("config.out_of_range", None),
        "2.2-4 工业APP数量, metrics.industrial_app_count": ("config.wrong_type", None),
        "2.4-5 图形化开发能力, metrics.graphical_development": ("config.wrong_type", None)}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300"])
def test_no_claim_is_beyond_counting(tmp_path: Path, value: str) -> None:
    path = tmp_path / "claim.toml"
    path.write_text(claim_text(1_790_000_000, USCC).replace("= 200", f"= {value}"))
    with pytest.raises(ConfigError):
        load_claim(path)
