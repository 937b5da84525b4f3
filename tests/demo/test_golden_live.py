"""The golden case with real programs: four plants, three gateways, a platform and a witness; the audit names the 25."""

from __future__ import annotations

import copy
import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tallystick import stage
from tallystick.golden import CLAIMED, PROVEN, Golden, differences
from tallystick.words.lookup import Words
from tests.support.platform_process import tallystick
from tests.support.quick_stage import Quick

pytestmark = pytest.mark.timeout(500)

WHY = {("not_counted", "no_valid_data"): 8, ("not_counted", "heartbeat_only"): 3,
       ("not_counted", "duplicate_identity"): 5, ("not_counted", "parent_or_child"): 2,
       ("not_counted", "not_industrial_device"): 3, ("not_counted", "owner_unknown"): 2, ("gone", None): 1,
       ("later", None): 1}
"""How many of the 25 are told apart by what; which they are, say simulators/golden and tallystick/golden.py."""


class QuickGolden(Quick, Golden):
    """The same run with commands that have their libraries already."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run it; return its folder."""
    folder = tmp_path_factory.mktemp("golden") / "out"
    golden = QuickGolden(folder, Words("en"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "STEP_TIMEOUT_S", 150.0)  # beside two other workers on two cores
        try:
            assert golden.run() == 0
        finally:
            golden.stop_all()
    return folder


def test_1012_are_claimed_987_proven_and_the_25_are_named_with_their_reasons(out: Path) -> None:
    truth = json.loads((out / "truth.json").read_text(encoding="utf-8"))
    audit = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    assert (truth["claimed"], truth["counted"], len(truth["differ"])) == (CLAIMED, PROVEN, 25) == (1012, 987, 25)
    told = audit["claimed_list"]
    assert (told["rows"], told["matched"], told["only_in_evidence"]) == (1012, 987, [])
    assert Counter((one["state"], one["reason"]) for one in told["only_in_list"]) == WHY
    assert Counter((one["state"], one["reason"]) for one in truth["differ"]) == WHY
    assert {one["name"] for one in told["only_in_list"]} == {one["name"] for one in truth["differ"]}
    disputed = [group for group in audit["count"]["duplicates"] if group["dispute"]]
    assert len(disputed) == 1 and len(audit["count"]["duplicates"]) == 5
    assert "Traceback" not in "".join(path.read_text(errors="replace") for path in (out / "logs").glob("*"))


@pytest.mark.parametrize("name", ["casting", "machining", "electronics"])
def test_the_evidence_of_each_site_is_valid_and_timed_by_the_witness(out: Path, name: str) -> None:
    done = tallystick("verify", out / f"{name}.tally", "--policy", out / "policy.json", "--json")
    found = json.loads(done.stdout)
    assert (found["verdict"], found["summary"]["trust"], found["summary"]["time"]) == (
        "valid", "independent", "anchored")
    assert found["summary"]["outages"]["shown"] == 0


def test_whoever_is_told_otherwise_is_named(out: Path) -> None:
    """The comparison must be able to fail: a device too many, a device too few, another reason."""
    audit: dict[str, Any] = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    with (out / "devices.csv").open(encoding="utf-8", newline="") as file:
        ids = [row["设备ID"] for row in csv.DictReader(file)]
    true: dict[str, tuple[str, str | None]] = dict.fromkeys(ids, ("counted", None))
    true |= {one["id"]: (one["state"], one["reason"]) for one in audit["claimed_list"]["only_in_list"]}
    assert differences(true, audit) == []
    missed = next(id_ for id_, what in true.items() if what == ("counted", None))
    assert any(missed in line for line in differences(true | {missed: ("not_counted", "no_valid_data")}, audit))
    lying = copy.deepcopy(audit)
    one = lying["claimed_list"]["only_in_list"][0]
    one["reason"] = "claim_withdrawn"
    line, = differences(true, lying)
    assert one["id"] in line and "claim_withdrawn" in line
