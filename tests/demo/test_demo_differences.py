"""The demo's comparison with the truth must be able to fail: each figure that is wrong is named, and the exit is 1."""

from __future__ import annotations

import copy
import csv
import json
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from simulators.layout import Layout, draw_layout
from simulators.ledger import devices_csv, expected, plant_json
from tallystick import demo, stage
from tallystick.demo import Demo, differences
from tallystick.stage import Stage, StageError
from tallystick.words.lookup import Words


@pytest.fixture(scope="module")
def layout() -> Layout:
    return draw_layout(3)


@pytest.fixture
def ledger(layout: Layout, tmp_path: Path) -> Path:
    path = tmp_path / "devices.csv"
    path.write_text(devices_csv(layout), encoding="utf-8")
    return path


@pytest.fixture
def truth(layout: Layout) -> dict[str, Any]:
    return dict(json.loads(plant_json(layout)))


@pytest.fixture
def counted(layout: Layout, truth: dict[str, Any]) -> dict[str, Any]:
    """What an honest count of this plant says, in the shape of `count --json`."""
    verdicts = expected(layout)
    return {
        "figures": {"devices": {"configured": len(verdicts), "counted": list(verdicts.values()).count("counted")},
                    "kinds": {"by_model": truth["devices"]["kinds"]},
                    "points": {name: truth["points"][name] for name in ("configured", "producing")}},
        "devices": [{"slot": slot, "reason": None if reason == "counted" else reason}
                    for slot, reason in enumerate(verdicts.values())]}


def test_an_honest_count_differs_in_nothing(counted: dict[str, Any], truth: dict[str, Any], ledger: Path) -> None:
    assert differences(counted, truth, ledger) == []


FIGURES = [("devices", "configured"), ("devices", "counted"), ("points", "configured"), ("points", "producing")]


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("path", FIGURES, ids=".".join)
def test_a_figure_that_is_one_off_is_named(path: tuple[str, str], by: int, counted: dict[str, Any],
                                           truth: dict[str, Any], ledger: Path) -> None:
    group, name = path
    lying = copy.deepcopy(truth)
    lying[group][name] += by
    assert differences(counted, lying, ledger) == [
        f"{group}.{name}: {truth[group][name]} / {truth[group][name] + by}"]
    counted["figures"][group][name] += by
    assert len(differences(counted, truth, ledger)) == 1


def test_a_kind_too_many_is_named(counted: dict[str, Any], truth: dict[str, Any], ledger: Path) -> None:
    counted["figures"]["kinds"]["by_model"] += 1
    line, = differences(counted, truth, ledger)
    assert line.startswith("devices.kinds: ")


@pytest.mark.parametrize("ours", [None, "heartbeat_only", "no_uscc"])
def test_a_device_with_another_reason_is_named_though_the_totals_agree(
        ours: str | None, counted: dict[str, Any], truth: dict[str, Any], ledger: Path) -> None:
    with ledger.open(encoding="utf-8") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    dead = next(item["id"] for item in truth["each"] if item["expected"] == "no_valid_data")
    row = counted["devices"][ids.index(dead)]
    row["reason"] = ours
    assert differences(counted, truth, ledger) == [f"{dead}: {ours or 'counted'} / no_valid_data"]


def test_two_devices_that_change_places_are_named(counted: dict[str, Any], truth: dict[str, Any],
                                                  ledger: Path) -> None:
    """One counted that must not, one not counted that must: every total is right, and the count is wrong."""
    reasons = [row["reason"] for row in counted["devices"]]
    a, b = reasons.index("no_valid_data"), reasons.index(None)
    counted["devices"][a]["reason"], counted["devices"][b]["reason"] = None, "no_valid_data"
    assert len(differences(counted, truth, ledger)) == 2


@pytest.mark.parametrize(("verdict", "wrong", "caught", "status"), [
    (True, [], True, 0), (False, [], True, 1), (True, ["devices.counted: 36 / 37"], True, 1), (True, [], False, 1)])
def test_the_exit_tells_of_each_failure(verdict: bool, wrong: list[str], caught: bool, status: int, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_plant", "services", "_gateway", "_collect", "_report", "command"):
        monkeypatch.setattr(Demo, name, lambda *args, **kwargs: None)
    monkeypatch.setattr(Demo, "_verify", lambda *args: verdict)
    monkeypatch.setattr(Demo, "_compare", lambda *args: wrong)
    monkeypatch.setattr(Demo, "_tamper", lambda *args: caught)
    assert Demo(tmp_path / "out", Words("en")).run(seed=1, broker="embedded") == status


def test_a_cheat_that_is_not_refused_by_its_code_fails_the_demo(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier that finds another fault, or none, has not caught the cheat."""
    monkeypatch.setattr("simulators.cheats.write_cheat", lambda name, source, target: "entry.altered")
    answers = iter(['{"verdict": "invalid", "findings": [{"severity": "fault", "code": "entry.altered"}]}',
                    '{"verdict": "invalid", "findings": [{"severity": "fault", "code": "container.damaged"}]}',
                    '{"verdict": "valid", "findings": []}'])
    monkeypatch.setattr(Demo, "command", lambda *args, **kwargs: next(answers))
    running = Demo(tmp_path / "out", Words("en"))
    told: list[str] = []
    monkeypatch.setattr(running, "tell", lambda code, **args: told.append(code))
    assert running._tamper(tmp_path / "x.tally") is False
    assert told == ["demo.tamper", "demo.caught", "demo.not_caught", "demo.not_caught"]
    assert demo.WINDOWS_CUT >= 2 and demo.WINDOWS_MIN >= 6


def test_a_command_that_takes_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "STEP_TIMEOUT_S", 0.0)
    with pytest.raises(StageError, match="tallystick slow took longer than 0 s"):
        Stage(tmp_path, Words("en")).command("slow", "--version")


def test_a_stage_speaks_the_language_of_the_run(tmp_path: Path) -> None:
    there = Stage(tmp_path, Words("zh"))
    with pytest.raises(StageError) as failed:
        there.start("broker", ["no-such-broker"])
    assert str(failed.value) == "未安装 no-such-broker"
    with pytest.raises(StageError) as failed:
        there.command("wrong", "verify", "x.tally", "--policy", tmp_path / "missing.json")
    assert str(failed.value).startswith("tallystick wrong：") and "missing.json" in str(failed.value)
    there.start("short", ["true"])
    with pytest.raises(StageError) as failed:
        there.ready("short", lambda: False)
    assert str(failed.value) == "short 自行退出"


def test_a_folder_whose_run_failed_at_once_can_be_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> int:
        raise StageError("no port")

    monkeypatch.setattr(Demo, "run", fails)
    monkeypatch.setattr(demo, "ended_cleanly", nullcontext)  # signals of this process are its own
    args = Namespace(out=tmp_path / "out", golden=False, seed=1, broker="embedded")
    assert [demo.demo_command(args, Words("en")) for _ in range(2)] == [1, 1]
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").touch()
    assert demo.demo_command(Namespace(**vars(args) | {"out": other}), Words("en")) == 2
