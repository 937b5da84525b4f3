"""The demo as a user runs it: two factories at once, on two brokers; and one that is interrupted in mid-run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tallystick.demo import WINDOW_S
from tests.support.platform_process import tallystick
from tests.support.processes import processes_that_name, until
from tests.support.programs import need
from tests.support.source import ROOT

PRODUCTS = {"demo.tally", "policy.json", "anchor", "report.html", "plant.json"}
CHEATS = {"bit": "entry.altered", "deleted": "tile.missing", "resigned": "note.unsigned"}
DEMO_S = 240
"""Two of them share two cores with whatever else runs; one alone takes about 70 s."""


class Demo:
    """One demo in a process of its own, in an empty folder as home and working directory.

    program: who runs it; the quick one starts the same commands with their libraries read already.
    """

    def __init__(self, folder: Path, *options: str, program: str = "tallystick demo") -> None:
        self.home, self.out = folder / "home", folder / "out"
        self.home.mkdir(parents=True)
        self.printed = folder / "printed"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        with self.printed.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *program.split(), "--out", str(self.out), *options], cwd=self.home,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env=environment | {"HOME": str(self.home), "TMPDIR": str(self.home), "LC_ALL": "C.UTF-8"}
                | ({"PYTHONPATH": str(ROOT)} if program.startswith("tests.") else {}))

    def text(self) -> str:
        return self.printed.read_text(encoding="utf-8")

    def end(self, number: signal.Signals | None = None, *, within_s: float = DEMO_S) -> int:
        """Wait for its end, after a signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(within_s)

    def kill(self) -> None:
        """Whatever happened, leave nothing behind: its children live in sessions of their own."""
        if self.process.poll() is None:
            self.end(signal.SIGTERM, within_s=60)
        for line in processes_that_name(str(self.out)):
            os.kill(int(line.partition(":")[0]), signal.SIGKILL)


@pytest.fixture(scope="module")
def factories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Demo]]:
    """Two demos that run while the other tests of this file do: most of a demo is waiting for windows."""
    need("mosquitto")
    folder = tmp_path_factory.mktemp("factories")
    demos = [Demo(folder / "one", "--seed", "1"),
             Demo(folder / "two", "--seed", "20261101", "--broker", "mosquitto", "--lang", "zh",
                  program="tests.support.quick_stage")]
    try:
        yield demos
    finally:
        for demo in demos:
            demo.kill()


def test_an_interrupted_demo_leaves_nothing_running(factories: list[Demo], tmp_path: Path) -> None:
    """A terminal that is closed as the run begins; Ctrl-C in mid-run, twice as impatient people do."""
    demos = [(Demo(tmp_path / first.name), first, second, running)
             for first, second, running in ((signal.SIGHUP, None, 2), (signal.SIGINT, signal.SIGINT, 5))]
    try:
        for demo, first, second, running in demos:
            gateway = demo.out / "logs" / "gateway.log"
            if running == 5:
                until(lambda log=gateway: log.exists() and log.stat().st_size, "the gateway runs", deadline_s=240)
            # The demo and its plant; with witness, platform and gateway. The platform is cut off for a while in a run.
            until(lambda out=str(demo.out), least=running: len(processes_that_name(out)) >= least,
                  f"{running} processes", deadline_s=120)
            demo.process.send_signal(first)
            time.sleep(0.2)  # a hand's pause
            assert demo.end(second, within_s=120) == 130, demo.text()
            assert processes_that_name(str(demo.out)) == []
            assert "Traceback" not in demo.text()
            assert list(demo.home.iterdir()) == []
    finally:
        for demo, *_ in demos:
            demo.kill()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = tallystick("demo", "--out", tmp_path, check=False)
    assert done.returncode == 2 and "not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_factories_are_counted_proven_and_defended(factories: list[Demo]) -> None:
    statuses = [demo.end() for demo in factories]
    assert statuses == [0, 0], "\n".join(demo.text() for demo in factories)
    assert [line for demo in factories for line in processes_that_name(str(demo.out))] == []
    for demo in factories:
        judge(demo)
    truths = [json.loads((demo.out / "plant.json").read_text(encoding="utf-8")) for demo in factories]
    assert truths[0]["devices"] != truths[1]["devices"], "another seed is another factory with other numbers"
    assert truths[0]["devices"]["configured"] == 40 and truths[0]["devices"]["counted"] == 37
    assert "37/40" in factories[0].text()


def judge(demo: Demo) -> None:
    """Hold what the demo left against the plant's true counts, with commands of our own."""
    assert {path.name for path in demo.out.iterdir()} == PRODUCTS | {"work", "logs"}
    assert list(demo.home.iterdir()) == [], "nothing is written outside --out"
    assert "Traceback" not in "".join(path.read_text(errors="replace") for path in (demo.out / "logs").glob("*"))
    trust = ("--policy", demo.out / "policy.json", "--anchor", demo.out / "anchor")
    found = json.loads(tallystick("verify", demo.out / "demo.tally", *trust, "--json").stdout)
    assert (found["verdict"], found["summary"]["trust"], found["summary"]["time"]) == (
        "valid", "independent", "anchored"), found
    assert found["summary"]["windows"]["shown"] >= 6
    assert found["summary"]["outages"]["shown"] == 0, "the platform was cut off, and no window is missing"
    require_levels(demo, trust)
    counted = json.loads(tallystick("count", demo.out / "demo.tally", "--at", "last", *trust, "--json").stdout)
    compare(counted, json.loads((demo.out / "plant.json").read_text(encoding="utf-8")))
    for name, code in CHEATS.items():
        forged = demo.out / "work" / f"{name}.tally"
        done = tallystick("verify", forged, "--policy", demo.out / "policy.json", "--json", check=False)
        faults = {f["code"] for f in json.loads(done.stdout)["findings"] if f["severity"] == "fault"}
        assert done.returncode == 1 and code in faults, (name, faults)
        assert code in demo.text()
    report = (demo.out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=[\"']https?:", report), "a report needs nothing from a network"


def require_levels(demo: Demo, trust: tuple[str | Path, ...]) -> None:
    """The machines behind the OPC UA server are at level 1, and every transcript of reads opens its entry."""
    transcripts = sorted((demo.out / "work" / "gateway" / "state" / "reads").iterdir())
    also = [word for path in transcripts for word in ("--also", path)]
    verdict = json.loads(tallystick("verify", demo.out / "demo.tally", *trust, *also, "--json").stdout)
    levels = verdict["summary"]["levels"]
    assert levels["probes"]["valid"] >= 2 and levels["probes"]["invalid"] == levels["probes"]["unanchored"] == 0
    devices = (demo.out / "work" / "plant" / "devices.csv").read_text(encoding="utf-8-sig").splitlines()
    behind = sum(",machines," in line for line in devices)
    others = len(devices) - 1 - behind
    assert levels["at_the_end"] == {"behind_servers": behind, "servers": 1,
                                    "devices": {"0": others, "1": behind, "2": 0, "3": 0, "4": 0}}
    found = levels["reads"]
    assert found["entries"] == found["opened"] == len(transcripts) >= 4
    assert found["answered"] == found["opened_answered"] >= found["rows"] // 2


def compare(counted: dict[str, Any], truth: dict[str, Any]) -> None:
    figures = counted["figures"]
    true = truth["devices"]
    assert figures["devices"]["configured"] == true["configured"]
    assert figures["devices"]["counted"] == true["counted"]
    assert {reason: n for reason, n in figures["not_counted"].items() if n} == {
        reason: n for reason, n in true["not_counted"].items() if n}
    assert len(true["not_counted"]) == 3 and all(true["not_counted"].values()), "three reasons, each with a device"
    assert figures["points"]["producing"] == truth["points"]["producing"]
    assert 0 < figures["points"]["changing"] <= truth["points"]["changing_at_most"]
    if figures["windows"]["read"] * WINDOW_S >= truth["change_horizon_s"]:
        assert figures["points"]["changing"] >= truth["points"]["changing_at_least"]
