"""`tallystick demo`: a small factory end to end on this machine. Starts processes, nothing else.

Everything it does is a command that a person could type; the files it writes are those that a person would write.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from protocols.terms.say import Say
from tallystick.stage import MARK, Stage, StageError, ended_cleanly, free_port, indented, listens, wait_for

WINDOW_S = 5
WINDOWS_MIN = 6
WINDOWS_CUT = 2


def demo_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick demo`."""
    parser.add_argument("--out", type=Path, default=Path("demo-out"), metavar="DIR", help=say("demo.help.out"))
    parser.add_argument("--seed", type=int, default=1, metavar="N", help=say("demo.help.seed"))
    parser.add_argument("--broker", choices=("embedded", "mosquitto"), default="embedded", help=say("demo.help.broker"))
    parser.add_argument("--golden", action="store_true", help=say("demo.help.golden"))


def demo_command(args: argparse.Namespace, say: Say) -> int:
    """Run it. 0 when every figure equals the plant's true counts and every tampering was refused, else 1."""
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    own = (out / ("truth.json" if args.golden else "plant.json"), out / "logs" / MARK)
    if any(out.iterdir()) and not any(path.exists() for path in own):
        print(say("demo.not_empty", out=out), file=sys.stderr)
        return 2
    if args.golden:
        from tallystick.golden import golden_command

        return golden_command(out, say)
    demo = Demo(out, say)
    with ended_cleanly(demo):
        try:
            return demo.run(seed=args.seed, broker=args.broker)
        except StageError as error:
            print(say("demo.failed", reason=error, logs=demo.logs), file=sys.stderr)
            return 1


class Demo(Stage):
    """One run below one folder."""

    def __init__(self, out: Path, say: Say) -> None:
        super().__init__(out, say)
        for old in ("demo.tally", "policy.json", "anchor", "report.html", "plant.json"):
            (out / old).unlink(missing_ok=True)

    def run(self, *, seed: int, broker: str) -> int:
        """All steps in order."""
        self.tell("demo.plant", seed=seed)
        self._plant(seed, broker)
        self.tell("demo.services")
        self.services()
        self.tell("demo.gateway")
        gateway = self._gateway()
        self._collect(gateway)
        self.tell("demo.bundle")
        bundle = self.out / "demo.tally"
        self.command("bundle", "bundle", self.work / "gateway.toml", "-o", bundle)
        verdict = self._verify(bundle)
        wrong = self._compare(bundle)
        self._report(bundle)
        caught = self._tamper(bundle)
        self.tell("demo.done", seconds=round(self.seconds), report=self.out / "report.html",
                  bundle=bundle)
        return 0 if verdict and caught and not wrong else 1

    # The steps

    def _plant(self, seed: int, broker: str) -> None:
        plant = self.work / "plant"
        options: list[str | Path] = ["--seed", str(seed)]
        if broker == "mosquitto":
            port = free_port()
            config = self.work / "mosquitto.conf"
            config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
            self.start("mosquitto", ["mosquitto", "-c", str(config)])
            wait_for(self.say, "mosquitto", lambda: listens(port))
            options += ["--broker", f"mqtt://127.0.0.1:{port}"]
        (self.work / "plant.toml").write_text("")
        self.tallystick("plant", "simulate", self.work / "plant.toml", "--out", plant, *options)
        self.ready("plant", lambda: (plant / "endpoints.json").exists())
        (self.out / "plant.json").write_bytes((plant / "plant.json").read_bytes())
        truth = self.truth()["devices"]
        self.tell("demo.plant_ready", devices=truth["configured"], protocols=len(truth["by_protocol"]))

    def _gateway(self) -> Path:
        """Commission the gateway as an engineer would; return its state folder."""
        plant = self.work / "plant"
        ends = json.loads((plant / "endpoints.json").read_text(encoding="utf-8"))
        folder = self.work / "gateway"
        self.command("init", "init", folder)
        config = self.work / "gateway.toml"
        config.write_text(
            f'[gateway]\nsite = "{ends["site"]}"\nuscc = "{ends["uscc"]}"\nstate_dir = "gateway/state"\n'
            f'devices = "plant/devices.csv"\npoints = "plant/points.csv"\nledger_date = 2026-11-01\n'
            f'[window]\nlen_s = {WINDOW_S}\ngrace_ms = 1000\n[platform]\nurl = "{self.platform_url}"\n'
            'register_poll_s = 1.0\n'
            # A real gateway challenges each server once an hour, and asks the register every ten seconds.
            f'[probing]\nevery_s = {WINDOW_S}\nmax_per_hour = 720\nreads_per_window = 8\nreads_every_s = {WINDOW_S}\n'
            + (plant / "connections.toml").read_text(encoding="utf-8"), encoding="utf-8")
        token = self.command("token", "platform", "token", self.platform, "--uscc", ends["uscc"],
                             "--site", ends["site"]).strip()
        self.command("enrol", "enrol", config, "--token", token)
        self.tell("demo.check")
        # One device is dead, so `check` finds a failure: its table is what the engineer reads.
        self.command("check", "check", config, may_fail=True)
        self.tallystick("gateway", "run", config)
        return folder / "state"

    def _collect(self, state: Path) -> None:
        """Let windows pass; cut the platform for some of them; wait until all is submitted and co-signed."""
        status: dict[str, Any] = {}
        first_s = 0

        def passed(windows: int) -> Callable[[], bool]:
            def look() -> bool:
                nonlocal status, first_s
                with suppress(OSError, ValueError):
                    status = json.loads((state / "status.json").read_text(encoding="utf-8"))
                if status and not first_s:
                    first_s = status["window"]["start_s"]
                return bool(status) and (status["window"]["start_s"] - first_s) // WINDOW_S + 1 >= windows
            return look

        def proven(size: int) -> Callable[[], bool]:
            return lambda: passed(0)() and (status["log"]["proven"] or 0) >= size

        for count in range(1, 3):
            self.ready("gateway", passed(count))
            self._show(count, status)
        self.ready("gateway", proven(4))
        self._keep_anchor(status["gateway"])
        self.tell("demo.cut", windows=WINDOWS_CUT)
        self.stop("platform")
        cut_from = (status["window"]["start_s"] - first_s) // WINDOW_S + 1
        for count in range(cut_from + 1, cut_from + WINDOWS_CUT + 1):
            self.ready("gateway", passed(count))
            self._show(count, status)
        self.start_platform()
        self.tell("demo.restored")
        last = max(WINDOWS_MIN, cut_from + WINDOWS_CUT + 1)
        for count in range(cut_from + WINDOWS_CUT + 1, last + 1):
            self.ready("gateway", passed(count))
            self._show(count, status)
        size = status["log"]["size"]
        self.ready("gateway", proven(size))
        self.tell("demo.submitted", entries=size)
        self.stop("gateway")

    def _show(self, count: int, status: Mapping[str, Any]) -> None:
        devices = status["devices"]
        self.tell("demo.window", number=count, counted=devices["counted"], configured=devices["configured"],
                  samples=status["window"]["received"])

    def _keep_anchor(self, gateway: str) -> None:
        """What an auditor keeps from a visit: the newest co-signed head of that day."""
        with urllib.request.urlopen(f"{self.platform_url}/v1/gateways/{gateway}/register", timeout=10) as answer:
            proofs = json.loads(answer.read())["proofs"]
        (self.out / "anchor").write_text(max(proofs, key=_proof_index), encoding="utf-8")

    def _verify(self, bundle: Path) -> bool:
        self.tell("demo.verify")
        trust: list[str | Path] = ["--policy", self.out / "policy.json", "--anchor", self.out / "anchor"]
        text = self.command("verify", "verify", bundle, *trust, may_fail=True)
        print(indented(text))
        verdict = json.loads(self.command("verify-json", "verify", bundle, *trust, "--json", may_fail=True))
        return bool(verdict["verdict"] == "valid" and verdict["summary"]["trust"] == "independent")

    def _compare(self, bundle: Path) -> list[str]:
        """Count the bundle and hold every figure against what the plant knows. Returns what differs."""
        self.tell("demo.count")
        trust: list[str | Path] = ["--policy", self.out / "policy.json", "--anchor", self.out / "anchor"]
        print(indented(self.command("count", "count", bundle, "--at", "last", *trust)))
        counted = json.loads(self.command("count-json", "count", bundle, "--at", "last", *trust, "--json"))
        wrong = differences(counted, self.truth(), self.work / "plant" / "devices.csv")
        for line in wrong:
            self.tell("demo.differs", what=line)
        if not wrong:
            truth = self.truth()["devices"]
            self.tell("demo.agrees", counted=truth["counted"], configured=truth["configured"])
        return wrong

    def _report(self, bundle: Path) -> None:
        ends = json.loads((self.work / "plant" / "endpoints.json").read_text(encoding="utf-8"))
        truth = self.truth()
        claim = self.work / "claim.toml"
        counted = json.loads((self.logs / "count-json.out").read_text(encoding="utf-8"))
        at = datetime.fromtimestamp(counted["at"]["counted_s"], timezone(timedelta(hours=8))).isoformat()
        claim.write_text(
            f'[claim]\nprogramme = "jiangsu_2019"\ntype = "enterprise"\nat = {at}\n'
            f'[claim.enterprise]\nname = "{ends["owner"]}"\nuscc = "{ends["uscc"]}"\n'
            f'[metrics]\ndevice_connected_count = {truth["devices"]["counted"]}\n', encoding="utf-8")
        # 37 devices are no 100: the rule does not hold, and the report says so. The exit code is 1 then.
        self.command("audit", "audit", claim, "--programme", "jiangsu_2019", "--type", "enterprise", bundle,
                     "--policy", self.out / "policy.json", "--anchor", self.out / "anchor",
                     "--report", self.out / "report.html", may_fail=True)
        if not (self.out / "report.html").exists():
            raise StageError(self.say("demo.step.no_report", logs=self.logs))

    def _tamper(self, bundle: Path) -> bool:
        from simulators.cheats import CHEATS, write_cheat

        self.tell("demo.tamper")
        all_caught = True
        for name in CHEATS:
            forged = self.work / f"{name}.tally"
            code = write_cheat(name, bundle, forged)
            verdict = json.loads(self.command(
                f"verify-{name}", "verify", forged, "--policy", self.out / "policy.json", "--json", may_fail=True))
            faults = {f["code"] for f in verdict["findings"] if f["severity"] == "fault"}
            caught = verdict["verdict"] == "invalid" and code in faults
            self.tell("demo.caught" if caught else "demo.not_caught", expected=code,
                      what=self.say(f"demo.cheat.{name}"), found=", ".join(sorted(faults)) or "-")
            all_caught &= caught
        return all_caught

    def truth(self) -> dict[str, Any]:
        """Return the plant's true counts."""
        result: dict[str, Any] = json.loads((self.out / "plant.json").read_text(encoding="utf-8"))
        return result

def differences(counted: Mapping[str, Any], truth: Mapping[str, Any], devices_csv: Path) -> list[str]:
    """Return every figure of `count --json` that is not what the plant knows, as text; empty when all agree."""
    import csv

    with devices_csv.open(encoding="utf-8-sig", newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]  # the first roster gives slots in the order of the file
    figures, true = counted["figures"], truth["devices"]
    found = {ids[item["slot"]]: item["reason"] for item in counted["devices"] if item["reason"] is not None}
    expected = {item["id"]: item["expected"] for item in truth["each"] if item["expected"] != "counted"}
    wrong = [f"{name}: {found.get(name, 'counted')} / {expected.get(name, 'counted')}"
             for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    pairs = {
        "devices.configured": (figures["devices"]["configured"], true["configured"]),
        "devices.counted": (figures["devices"]["counted"], true["counted"]),
        "devices.kinds": (figures["kinds"]["by_model"], true["kinds"]),
        "points.configured": (figures["points"]["configured"], truth["points"]["configured"]),
        "points.producing": (figures["points"]["producing"], truth["points"]["producing"]),
    }
    return wrong + [f"{name}: {ours} / {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]


def _proof_index(proof: str) -> int:
    return int(next(line for line in proof.splitlines() if line.startswith("index ")).removeprefix("index "))
