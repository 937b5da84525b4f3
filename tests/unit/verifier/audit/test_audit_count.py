"""`tallystick count`: figures at T, one reason for each device that does not count, exit codes, the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config.programme import PROGRAMMES
from tallystick.__main__ import main
from tests.support.plant_fixture import Plant, claim_text
from tests.support.schemas import validate
from tests.support.source import ROOT
from verifier.audit.commands import parse_at
from verifier.conformance.world import START_S, USCC, World


def small(folder: Path, name: str = "press shop", world: World | None = None) -> Plant:
    """Three devices, of which one only beats and one is silent."""
    plant = Plant(folder, world=world or World(), name=name)
    plant.device(points=2, opened=True)
    plant.device(role="heartbeat", opened=True)
    plant.device(silent=True)
    return plant


def count(capsys: pytest.CaptureFixture[str], plant: Plant, *options: str | Path) -> tuple[int, dict[str, Any]]:
    """Run the command with --json; return exit code and result."""
    words = [str(o) for o in options] or [str(plant.folder / "X.tally"), "--at", "last"]
    code = main(["count", *words, "--policy", str(plant.policy()), "--json"])
    result = json.loads(capsys.readouterr().out)
    validate(result, "count.schema.json")
    return code, result


def refused(capsys: pytest.CaptureFixture[str], plant: Plant, *options: str | Path) -> str:
    """Run a command that must not start; return what it says."""
    assert main(["count", *map(str, options), "--policy", str(plant.policy())]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    return said.err


def test_figures_add_up_and_each_device_has_one_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = small(tmp_path)
    plant.seal()
    code, result = count(capsys, plant)
    assert (code, result["verdict"]) == (0, "valid")
    assert result["levels"] == {"devices": {"0": 1, "1": 0, "2": 0, "3": 0, "4": 0}, "behind_servers": 0, "servers": 0}
    assert result["figures"]["devices"] == {
        "configured": 3, "connected": 3, "producing": 1, "changing": 1, "counted": 1}
    assert result["figures"]["not_counted"] == {"heartbeat_only": 1, "no_valid_data": 1}
    assert [(d["slot"], d["reason"], d["name"]) for d in result["devices"]] == [
        (0, None, "press shop 0"), (1, "heartbeat_only", "press shop 1"), (2, "no_valid_data", None)]
    assert result["figures"]["points"] == {
        "configured": 4, "sampled": 3, "producing": 3, "changing": 3, "counted": 2, "folded": 2, "value": 2}
    assert result["at"] == {"asked_s": plant.gateway.now_s, "counted_s": plant.gateway.now_s,
                            "from_s": plant.gateway.now_s - 86_400}
    assert result["bundles"][0]["summary"]["trust"] == "independent"
    assert result["figures"]["daily_running"] is None


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    """No path, no time, no version: also from another folder and in another language."""
    plant = small(tmp_path)
    bundle, policy = plant.seal(), plant.policy()
    other = tmp_path / "elsewhere"
    other.mkdir()
    for file in (bundle, policy):
        (other / file.name).write_bytes(file.read_bytes())
    outputs = set()
    for folder, lang in ((tmp_path, "en"), (other, "zh")):
        done = subprocess.run(
            [sys.executable, "-m", "tallystick", "--lang", lang, "count", folder / "X.tally", "--at", "last",
             "--policy", folder / "policy.json", "--programme", "sichuan_2022", "--json"],
            cwd=ROOT, capture_output=True, timeout=60, check=False, env=os.environ | {"PYTHONHASHSEED": (
                "1" if lang == "en" else "2")})
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1
    text = outputs.pop().decode()
    assert str(tmp_path) not in text and "0.1.0" not in text
    assert text == json.dumps(json.loads(text), ensure_ascii=False, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize(("at", "counted_s", "counted"), [
    (START_S + 120, START_S + 120, 1), (START_S + 119, START_S + 60, 0), (START_S + 60, START_S + 60, 0)])
def test_an_instant_inside_a_window_is_rounded_down_and_said_so(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int, counted_s: int, counted: int) -> None:
    plant = small(tmp_path)
    plant.begin()
    plant.windows(producing=[])
    plant.windows()
    plant.cosign()
    _, result = count(capsys, plant, plant.write(), "--at", str(at))
    assert (result["at"]["counted_s"], result["figures"]["devices"]["counted"]) == (counted_s, counted)
    assert ("count.rounded" in [f["code"] for f in result["findings"]]) == (at != counted_s)


def test_late_evidence_is_a_figure_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = small(tmp_path)
    plant.begin()
    plant.windows(2)
    plant.cosign(delay_s=3601)
    _, result = count(capsys, plant, plant.write(), "--at", "last")
    assert result["figures"]["devices"]["counted"] == 0
    assert (result["figures"]["late_devices"], result["figures"]["windows"]["late"]) == (1, 2)
    assert result["figures"]["not_counted"]["clock_untrusted"] == 1
    late = next(f for f in result["findings"] if f["code"] == "count.late")
    assert late["args"] == {"windows": "2", "devices": "1"} and late["severity"] == "remark"


def test_the_time_proof_is_that_of_witnesses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sealed after what the windows name and before the first co-signed head behind them; no clock of the gateway."""
    plant = small(tmp_path)
    plant.begin()
    before_s = plant.world.time_s
    plant.windows(2)
    plant.cosign(delay_s=30)
    plant.write()
    sealed = count(capsys, plant)[1]["figures"]["sealed"]
    end_s = plant.gateway.now_s
    assert sealed == {"newest_end_s": end_s, "newest_after_s": before_s, "newest_before_s": end_s + 30,
                      "first_after_s": before_s, "last_before_s": end_s + 30}
    plant.windows(1)  # behind the last head: nothing proves how late it was sealed, so it does not count yet
    plant.write()
    assert count(capsys, plant)[1]["figures"]["sealed"]["newest_end_s"] == end_s


def test_every_counted_device_is_listed_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = small(tmp_path)
    words = ["count", str(plant.seal()), "--at", "last", "--policy", str(plant.policy())]
    assert main(words) == 0
    assert "press shop 0" not in capsys.readouterr().out
    assert main([*words, "--devices"]) == 0
    told = capsys.readouterr().out
    assert "Counted (1):\n  press shop 0" in told and "Not counted (2):\n  press shop 1" in told


def test_the_counted_devices_by_part_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = small(tmp_path)
    words = ["count", str(plant.seal()), "--at", "last", "--policy", str(plant.policy())]
    assert main([*words, "--splits"]) == 0
    told = capsys.readouterr().out
    model = "By model (1):\n  Maker M-1: 1 devices, 2 points, 1 models, 1 enterprises\n  sum 1; devices that count 1"
    for line in (model, f"By enterprise (1):\n  {USCC}: 1 devices", "By city (1):\n  3201: 1 devices"):
        assert line in told


def test_missing_windows_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = small(tmp_path)
    plant.begin()
    plant.windows()
    plant.gateway.outage(plant.gateway.now_s + 180)
    plant.windows()
    plant.cosign()
    _, result = count(capsys, plant, plant.write(), "--at", "last")
    assert result["figures"]["windows"] == {"read": 2, "untrusted": 0, "late": 0, "missing": 3}
    assert "count.missing" in [f["code"] for f in result["findings"]]


def test_a_gateway_that_is_not_shown_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = small(tmp_path)
    plant.world.gateway("hidden shed")
    plant.seal()
    _, result = count(capsys, plant)
    assert next(f["args"] for f in result["findings"] if f["code"] == "count.gateways_hidden") == {
        "uscc": USCC, "enrolled": "2", "shown": "1"}


def test_two_gateways_count_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same machine on both counts once, on the gateway that enrolled first, whatever the order of the files."""
    world = World()
    plants = [small(tmp_path, name, world) for name in ("north", "south")]
    for plant in plants:
        plant.device(serial="twin", model="T")
        plant.begin()
        plant.windows(2)
    plants[0].cosign()
    bundles = [plant.write(f"{plant.name}.tally") for plant in plants]
    results = []
    for order in (bundles, bundles[::-1]):
        code, result = count(capsys, plants[0], *order, "--at", "last")
        assert code == 0
        assert result["figures"]["devices"]["counted"] == 3
        assert [d["gateway"] for d in result["devices"] if d["reason"] == "duplicate_identity"] == [
            plants[1].gateway.id]
        assert "count.gateways_hidden" not in [f["code"] for f in result["findings"]]
        results.append({name: result[name] for name in ("figures", "devices")})
    assert results[0] == results[1]


def test_an_anchor_is_held_against_the_bundle_of_its_gateway(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    plants = [small(tmp_path, name, world) for name in ("north", "south")]
    for plant in plants:
        plant.begin()
        plant.windows(2)
    plants[0].cosign()
    bundles = [plant.write(f"{plant.name}.tally") for plant in plants]
    kept, false, strange = tmp_path / "kept", tmp_path / "false", tmp_path / "strange"
    kept.write_bytes(plants[1].gateway.checkpoint())
    false.write_bytes(plants[1].gateway.checkpoint(root=b"\1" * 32))
    strange.write_bytes(Plant(tmp_path, name="other").gateway.checkpoint(root=b"\1" * 32))
    assert count(capsys, plants[0], *bundles, "--at", "last", "--anchor", kept)[0] == 0
    code, result = count(capsys, plants[0], *bundles, "--at", "last", "--anchor", false)
    assert (code, [b["verdict"] for b in result["bundles"]]) == (1, ["valid", "invalid"])
    assert "none of the bundles" in refused(capsys, plants[0], *bundles, "--at", "last", "--anchor", strange)
    strange.write_bytes(b"not an anchor")
    assert "neither" in refused(capsys, plants[0], *bundles, "--at", "last", "--anchor", strange)
    proof = next(data for name, data in plants[1].gateway.members().items()
                 if name.startswith("register/") and json.loads(world.entries[int(name[9:-6])])["type"] == "head")
    kept.write_bytes(proof)
    assert count(capsys, plants[0], *bundles, "--at", "last", "--anchor", kept)[0] == 0


def test_an_invalid_bundle_gives_no_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = small(tmp_path)
    plant.begin()
    plant.windows(2)
    plant.cosign()
    bundle = plant.write(change={"checkpoint": plant.gateway.checkpoint(signer="thief")})
    code, result = count(capsys, plant, bundle, "--at", "last")
    assert (code, result["verdict"], result["figures"], result["devices"], result["at"]) == (1, "invalid", None, [],
                                                                                            None)
    assert any(f["severity"] == "fault" for f in result["bundles"][0]["findings"])


def test_a_container_that_breaks_a_rule_is_invalid_and_not_unreadable(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = small(tmp_path)
    plant.seal()
    bundle, claim = plant.write(change={"run.exe": b"MZ"}), tmp_path / "claim.toml"
    code, result = count(capsys, plant, bundle, "--at", "last")
    assert (code, result["bundles"][0]["findings"][0]["code"]) == (1, "container.unknown_member")
    claim.write_text(claim_text(plant.gateway.now_s, USCC), encoding="utf-8")
    for lang in ("en", "zh"):
        assert main(["--lang", lang, "audit", str(claim), "--programme", "jiangsu_2019", "--type", "enterprise",
                     str(bundle), "--policy", str(plant.policy()), "--report", str(tmp_path / "out.html")]) == 1
        assert "container.unknown_member" in capsys.readouterr().out
        assert "container.unknown_member" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_what_is_not_proven_is_bad_usage_and_never_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = small(tmp_path)
    bundle = plant.seal()
    assert "not covered" in refused(capsys, plant, bundle, "--at", str(plant.gateway.now_s + 1))
    assert "no window" in refused(capsys, plant, bundle, "--at", str(START_S - 1))
    assert "one gateway" in refused(capsys, plant, bundle, bundle, "--at", "last")
    assert "no instant" in refused(capsys, plant, bundle, "--at", "2026-10-01T10:00:00")
    assert "no programme" in refused(capsys, plant, bundle, "--at", "last", "--programme", "jiangsu")
    empty = tmp_path / "empty.tally"
    empty.write_bytes(b"")
    assert "empty.tally" in refused(capsys, plant, empty, "--at", "last")
    assert "no-such" in refused(capsys, plant, tmp_path / "no-such.tally", "--at", "last")


@pytest.mark.parametrize(("text", "at_s"), [
    ("0", 0), ("1790000040", 1_790_000_040), ("2026-10-01T10:00:00+08:00", 1_790_820_000),
    ("2026-10-01T02:00:00Z", 1_790_820_000), ("last", None)])
def test_instants(text: str, at_s: int | None) -> None:
    assert parse_at(text) == at_s


def test_the_help_names_the_programmes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "--help"]) == 0
    assert ", ".join(PROGRAMMES) in " ".join(capsys.readouterr().out.split())


def test_an_own_basis_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = small(tmp_path)
    bundle, basis = plant.seal(), tmp_path / "basis.toml"
    basis.write_text('schema = "basis/1"\nkey = "mine"\n[basis]\nroles = ["heartbeat"]\n')
    _, result = count(capsys, plant, bundle, "--at", "last", "--basis", basis)
    assert [d["slot"] for d in result["devices"] if d["reason"] is None] == [1]
    assert result["basis"]["key"] == "mine" and result["basis"]["roles"] == ["heartbeat"]
    assert "roles" not in result["basis"]["unspecified"] and "kinds" in result["basis"]["unspecified"]
    assert result["digests"]["basis"]


def test_a_long_period_is_counted_without_a_network(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("count must not open a socket")

    plant = small(tmp_path)
    plant.seal()
    monkeypatch.setattr("socket.socket", refuse)
    assert count(capsys, plant)[0] == 0


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_text_says_all_that_matters(tmp_path: Path, capsys: pytest.CaptureFixture[str], lang: str) -> None:
    plant = small(tmp_path)
    bundle = plant.seal()
    assert main(["--lang", lang, "count", str(bundle), "--at", "last", "--policy", str(plant.policy()), "--programme",
                 "sichuan_2022"]) == 0
    text = capsys.readouterr().out
    words = {"en": ["1 of 3 devices counted", "a heartbeat only", "no valid data", "not fixed", "not place",
                    "not proven", "+08:00", "cannot prove", "川经信办函〔2022〕71号"],
             "zh": ["计入 1 / 3 台", "仅心跳", "新鲜期内无有效数据", "未规定", "不证明所在位置", "未得到证明", "+08:00",
                    "无法证明", "川经信办函〔2022〕71号"]}
    assert [word for word in words[lang] if word not in text] == []
    assert "{" not in text and "press shop 1" in text


@pytest.mark.parametrize(("claimed", "code"), [(3, 0), (4, 1)])
def test_exit_codes_of_a_process(tmp_path: Path, claimed: int, code: int) -> None:
    """Holds, does not hold, bad usage: what a script sees."""
    plant = Plant(tmp_path)
    for _ in range(3):
        plant.device(points=1000)
    bundle, policy, claim = plant.seal(), plant.policy(), tmp_path / "claim.toml"
    claim.write_text(claim_text(plant.gateway.now_s, USCC, device_connected_count=claimed), encoding="utf-8")
    command = [sys.executable, "-m", "tallystick", "audit", claim, "--programme", "jiangsu_2019", "--type",
               "enterprise", bundle, "--policy", policy]

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(w) for w in words], cwd=ROOT, capture_output=True, text=True, timeout=60,
                              check=False)

    done = run(*command, "--report", tmp_path / "out.html")
    assert done.returncode == code, done.stderr
    assert ("The claim holds" in done.stdout) == (code == 0)
    assert (tmp_path / "out.html").stat().st_size > 5000 and "report written" in done.stderr
    if code == 0:
        for wrong in (("--report", tmp_path / "out.docx"), ("--report", tmp_path / "no" / "out.html"),
                      ("--type", "industry"), ("--programme", "anhui_2023"), ("--policy", tmp_path / "none.json")):
            done = run(*command, *wrong)
            assert (done.returncode, done.stdout) == (2, ""), wrong
            assert "Traceback" not in done.stderr and "error" in done.stderr
