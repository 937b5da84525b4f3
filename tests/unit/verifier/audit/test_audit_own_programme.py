"""A sixth programme from a file: count and audit take it as they take the five that ship."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tallystick.__main__ import main
from tests.support.plant_fixture import Plant
from tests.support.source import ROOT
from verifier.conformance.world import USCC

EXAMPLE = ROOT / "config" / "examples" / "programme.toml"


class Case:
    """Fifty-one devices, and a claim under the example."""

    def __init__(self, folder: Path) -> None:
        self.plant = Plant(folder)
        for _ in range(51):
            self.plant.device()
        self.bundle, self.policy, self.folder = self.plant.seal(), self.plant.policy(), folder
        self.programme = folder / "mine.toml"
        shutil.copy(EXAMPLE, self.programme)

    def audit(self, capsys: pytest.CaptureFixture[str], key: str = "example_2026", **metrics: int
              ) -> tuple[int, dict[str, Any], str]:
        claim = self.folder / "claim.toml"
        claim.write_text("\n".join([
            "[claim]", f'programme = "{key}"', 'type = "platform"',
            f"at = {_iso(self.plant.gateway.now_s)}", "[claim.enterprise]", 'name = "press works"', f'uscc = "{USCC}"',
            "[metrics]", *(f"{name} = {value}" for name, value in metrics.items())]), encoding="utf-8")
        code = main(["audit", str(claim), str(self.bundle), "--programme", str(self.programme), "--type", "platform",
                     "--policy", str(self.policy), "--json", "--lang", "en"])
        out = capsys.readouterr()
        return code, json.loads(out.out) if out.out else {}, out.err


def _iso(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("own"))


def test_its_rules_judge_the_claim_and_its_file_is_named(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, _ = case.audit(capsys, device_connected_count=51, open_api_count=3)
    assert (code, result["verdict"]) == (0, "holds")
    assert {rule["id"]: rule["status"] for rule in result["rules"]} | {"ex26.running": None} == {
        "ex26.devices": "met", "ex26.interfaces": "declared", "ex26.running": None}
    assert result["programme"]["key"] == "example_2026"
    assert "mine.toml" in result["programme"]["digests"]


def test_more_than_fifty_is_not_fifty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = Case(tmp_path)
    text = case.programme.read_text(encoding="utf-8")
    case.programme.write_text(text.replace("value = 50,", "value = 51,"), encoding="utf-8")
    code, result, _ = case.audit(capsys, device_connected_count=51, open_api_count=3)
    assert code == 1
    assert {rule["id"]: rule["status"] for rule in result["rules"]}["ex26.devices"] == "not_met"


def test_a_field_that_its_form_requires_is_missed_by_its_number(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, _ = case.audit(capsys, device_connected_count=51)
    faults = [item for item in result["findings"] if item["severity"] == "fault"]
    assert code == 1 and any("(2) 开放接口数量" in item["where"] + item["message"] for item in faults)


def test_a_claim_of_another_programme_is_refused(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, told = case.audit(capsys, key="jiangsu_2019", device_connected_count=51, open_api_count=3)
    assert code == 2 and "example_2026" in told


def test_count_takes_it_too(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", str(case.bundle), "--at", "last", "--programme", str(case.programme), "--policy",
                 str(case.policy), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["basis"]["key"] == "example_2026" and result["figures"]["devices"]["counted"] == 51
