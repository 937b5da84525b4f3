"""A gateway that keeps raw data, what it opens of it, and what a verifier makes of that: by the commands."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.gateway import load_gateway
from gateway import agent as agent_module
from gateway.agent import Agent
from protocols.evidence import jcs, merkle, opening
from tallystick.__main__ import main
from tallystick.words.lookup import Words
from tests.support.platform_process import tallystick
from tests.support.processes import GatewayFiles, device, modbus_connection, point, write_gateway
from tests.unit.gateway.patient import be_patient
from tests.unit.gateway.test_agent import Script, Scripted, log_of, run_until, scripted, sealed, status_of, steady
from verifier.conformance.world import device_row

__all__ = ["scripted"]
HOUR_S = 3600
MORE = "[keep]\nraw = true\nretain_days = 30\n[limits]\ndisk_budget_mb = 10000\n"
"""A window every second takes 3 GB in 30 days, and that much is left to it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> GatewayFiles:
    folder = tmp_path_factory.mktemp("keeping")
    files = write_gateway(folder, devices=[device("a", "line"), device("b", "line")], grace_ms=100,
                          points=[point("a", f"p{i}", f"1/holding/{i}", "uint16") for i in range(2)] +
                                 [point("b", "p", "2/holding/0", "uint16")],
                          connections=modbus_connection("line", 1), more=MORE)
    tallystick("enrol", files.config, "--self")
    return files


@pytest.fixture
def files(made: GatewayFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GatewayFiles:
    be_patient(monkeypatch)
    monkeypatch.setattr(agent_module, "STOP_S", 60)  # what a stop has no time to finish, the next start does
    shutil.copytree(made.config.parent, tmp_path / "gateway")
    (tmp_path / "policy.json").write_bytes(jcs.encode({"gateways": [made.vkey]}))
    return GatewayFiles(tmp_path / "gateway" / "gateway.toml")


async def run(files: GatewayFiles, windows: int, scripted: Callable[[Script], Scripted]) -> None:
    scripted(steady)
    agent = Agent(load_gateway(files.config), Words("en"))
    await run_until(agent, lambda: sealed(agent) >= windows)


def verified(files: GatewayFiles, capsys: pytest.CaptureFixture[str], *also: Path) -> tuple[int, dict[str, Any]]:
    bundle = files.config.parent.parent / "x.tally"
    if not bundle.exists():
        assert main(["bundle", str(files.config), "-o", str(bundle)]) == 0
    capsys.readouterr()
    status = main(["verify", str(bundle), "--policy", str(files.config.parent.parent / "policy.json"), "--json",
                   *(part for path in also for part in ("--also", str(path)))])
    return status, json.loads(capsys.readouterr().out)


def codes(verdict: dict[str, Any], prefix: str) -> list[str]:
    return sorted(f["code"] for f in verdict["findings"] if f["code"].startswith(prefix))


def test_what_is_kept_comes_out_of_the_file_once_more(
        files: GatewayFiles, scripted: Callable[[Script], Scripted], capsys: pytest.CaptureFixture[str]) -> None:
    config = load_gateway(files.config)
    asyncio.run(run(files, 3, scripted))
    asyncio.run(run(files, 5, scripted))  # a restart in the same hour: a second file
    kept = [entry for entry in log_of(config) if entry["type"] == "keep"]
    windows = [entry for entry in log_of(config) if entry["type"] == "window"]
    assert 2 <= len(kept) <= 4 and status_of(config)["keep"]["full"] is False
    assert all(entry["retain_until_s"] >= windows[-1]["start_s"] + 29 * 86_400 for entry in kept)
    assert status_of(config)["disk"]["use"]["raw"] >= 0
    raw = config.state_dir / "raw"
    assert sorted(p.name for p in raw.glob("*.parquet")) == sorted(e["name"] for e in kept)
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in raw.glob("*.*"))

    out = files.config.parent.parent / "for the auditor"
    hours = sorted({entry["start_s"] // HOUR_S * HOUR_S for entry in windows})
    asked = ["open", str(files.config), "--all", "-o", str(out), *(
        part for hour in hours for part in ("--hour", _iso(hour)))]
    assert main(asked) == 2 and not out.exists()
    told = capsys.readouterr().err
    assert "every process value" in told and "--yes" in told and "device a (slot 0)" in told
    assert main([*asked, "--yes"]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert len(written) == 2 + len(kept) and all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in written)
    secret = (config.state_dir / "keys" / "enterprise.key").read_text().strip()
    assert all(secret.encode() not in p.read_bytes() and bytes.fromhex(secret) not in p.read_bytes() for p in written)

    status, verdict = verified(files, capsys, *written)
    assert status == 0 and verdict["verdict"] == "valid"
    assert verdict["summary"]["kept"] == {"entries": len(kept), "bytes": sum(e["bytes"] for e in kept),
                                          "opened": len(kept), "recounted": len(windows)}
    assert codes(verdict, "kept.") == ["kept.matches"] * len(kept)
    assert codes(verdict, "opening.") == ["opening.holds"] * 2
    assert main([*asked, "--yes"]) == 2, "a file was overwritten"


def test_without_the_files_it_is_only_promised(
        files: GatewayFiles, scripted: Callable[[Script], Scripted], capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(run(files, 3, scripted))
    status, verdict = verified(files, capsys)
    assert status == 0 and verdict["summary"]["kept"]["entries"] >= 1
    assert verdict["summary"]["kept"]["opened"] == verdict["summary"]["kept"]["recounted"] == 0
    strange = files.config.parent / "devices.csv"
    status, verdict = verified(files, capsys, strange)
    assert status == 0 and codes(verdict, "kept.") == ["kept.unknown"]


def test_what_is_not_here_is_told_by_name(
        files: GatewayFiles, scripted: Callable[[Script], Scripted], capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(run(files, 2, scripted))
    capsys.readouterr()
    out = str(files.config.parent / "out")
    assert main(["open", str(files.config), "--hour", "2026-01-01T10:30", "--reads", "7", "--slot", "9", "--device",
                 "a", "-o", out, "--yes"]) == 1
    answer = capsys.readouterr()
    assert "2026-01-01T10:00:00+08:00" in answer.err and "reads 7" in answer.err and "slot 9" in answer.err
    assert len(answer.out.splitlines()) == 1
    assert main(["open", str(files.config), "-o", out]) == 2
    assert main(["open", str(files.config), "--device", "c", "-o", out]) == 2
    assert "no device c" in capsys.readouterr().err
    assert main(["open", str(files.config), "--demand", "-o", out]) == 0
    assert "Nothing is demanded" in capsys.readouterr().err


def test_one_of_65536_devices_opens_with_sixteen_hashes() -> None:
    row = device_row(40_001)
    leaves = [merkle.leaf_hash(b"%d" % i) for i in range(65_536)]
    leaves[40_001] = merkle.leaf_hash(jcs.encode(row))
    tree = merkle.Tree(leaves)
    bare = {"gateway": "0" * 32, "slot": 40_001, "private": {}, "tags": []}
    file = opening.build(bare, row, roster_seq=2, tree=tree)
    assert len(file["hashes"]) == 16 and file["size"] == 65_536
    assert len(jcs.encode(file)) < 4096
    assert opening.HASHES_MAX == 19


def _iso(at_s: int) -> str:
    from gateway.commissioning.export import shown_time

    return shown_time(at_s)
