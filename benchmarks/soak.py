"""The gateway for half an hour at 10 000 changes a second over three protocols, a server restarting every 20 seconds.

    make soak [MINUTES=30]
    python benchmarks/soak.py --minutes 2 [--folder DIR]

The gateway is the real agent in a process of its own, with a sealed log; beside it runs only what counts its tasks.
The servers are three `tallystick simulate` processes (OPC UA encrypted, Modbus TCP, Sparkplug B and JSON behind a
broker), with lower priority. At the end the true numbers of the plants must be what the sealed windows say was
received: all that was sent is counted, or discarded for a reason. Ends with status 1 if it is not so, if a task, a
thread or a file is left over, if a server sees more than one session, or if the memory grew by more than 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PLANTS = {
    "opc_ua": ("opc_ua = 11\nmodbus_tcp = 0\nsparkplug_b = 0\nmqtt = 0\n", ("machines",)),
    "modbus": ("opc_ua = 0\nmodbus_tcp = 54\nsparkplug_b = 0\nmqtt = 0\n", ("utilities-a", "utilities-b")),
    "mqtt": ("opc_ua = 0\nmodbus_tcp = 0\nsparkplug_b = 9\nmqtt = 9\n", ("edge",))}
"""Name -> devices of the plant, connections whose server restarts."""

POINTS = 125
"""Points of each device; all of them change every second: 83 devices x 125 points = 10 375 changes a second.

The shares are what the simulated servers can carry beside each other on two cores; asyncua's is the slowest of them.
"""

WINDOW_S = 10
RESTART_S = 20
AWAY_S = 1.0
TIMEOUT_S = 10.0
SAMPLE_S = 5.0
WARM_S = 120.0
GROWTH_MAX = 0.05
START_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--folder", type=Path, help="keep what is written here")
    parser.add_argument("--agent", nargs=2, type=Path, metavar=("CONFIG", "STATS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.agent:
        return asyncio.run(run_agent(*args.agent))
    folder = args.folder or Path(tempfile.mkdtemp(prefix="tallystick-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return soak(folder, args.minutes * 60)
    finally:
        if args.folder is None:
            shutil.rmtree(folder)


# The gateway's process

async def run_agent(config: Path, stats: Path) -> int:
    """Run the gateway as `tallystick run` does, and note its tasks, threads, files and memory every few seconds."""
    from config.gateway import load_gateway
    from gateway.agent import run_gateway
    from tallystick.words.lookup import Words

    work = asyncio.create_task(run_gateway(load_gateway(config), Words("en")))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    watching = asyncio.create_task(_watch(stats))
    try:
        await work
    except asyncio.CancelledError:
        pass
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await asyncio.sleep(0.5)  # what was told to end may take a turn of the loop
        left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        _note(stats, {"left": left, "threads_left": [
            thread.name for thread in threading.enumerate()
            if thread is not threading.main_thread() and not thread.name.startswith("asyncio_")]})  # loop's own pool
    return 0


async def _watch(stats: Path) -> None:
    began_s = time.monotonic()
    while True:
        _note(stats, {"at_s": round(time.monotonic() - began_s, 1), "tasks": len(asyncio.all_tasks()), **_process()})
        await asyncio.sleep(SAMPLE_S)


def _process() -> dict[str, float]:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "threads": threading.active_count(),
            "files": sum(1 for _ in Path("/proc/self/fd").iterdir()), "cpu_s": round(time.process_time(), 2)}


def _note(stats: Path, row: dict[str, Any]) -> None:
    with stats.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


# The one who looks on

def soak(folder: Path, length_s: float) -> int:
    """Start everything, wait, end everything in order, and compare."""
    plants: list[subprocess.Popen[bytes]] = []
    gateway = None
    try:
        for number, name in enumerate(PLANTS):
            plants.append(start_plant(folder / name, name, seed=number + 1, at_s=RESTART_S * (number + 1)))
        config = write_gateway(folder)
        stats = folder / "stats.jsonl"
        stats.unlink(missing_ok=True)
        with (folder / "gateway.log").open("wb") as log:
            gateway = subprocess.Popen([sys.executable, __file__, "--agent", config, stats], cwd=ROOT,
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        print(f"running for {length_s / 60:g} minutes in {folder}", flush=True)
        seen = look_on(folder, gateway, plants, length_s)
        for plant in plants:  # they end first: what they sent last is counted before the gateway ends
            plant.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        for plant in plants:
            plant.wait(30)
        time.sleep(2 * WINDOW_S + 3)
        gateway.terminate()
        status = gateway.wait(30)
        return report(folder, stats, seen, length_s, status)
    finally:
        for process in [*plants, *([gateway] if gateway is not None else [])]:
            if process.poll() is None:
                process.kill()
                process.wait()


def start_plant(out: Path, name: str, *, seed: int, at_s: float | None) -> subprocess.Popen[bytes]:
    """Start one plant and wait until it is ready. at_s: when its first restart comes, None for no restarts."""
    out.mkdir(parents=True, exist_ok=True)
    devices, connections = PLANTS[name]
    faults = "".join(
        f'[[faults]]\nkind = "restart"\nconnection = "{connection}"\nat_s = {at_s}\nfor_s = {AWAY_S}\n'
        f"repeat_s = {RESTART_S * len(PLANTS)}\n" for connection in (connections if at_s is not None else ()))
    # the first restart comes when all are there
    (out / "plant.toml").write_text(
        f"[plant]\nseed = {seed}\n[devices]\n{devices}dead = 0\nheartbeat_only = 0\nreached_twice = 0\n"
        f"points = {POINTS}\n{faults}", encoding="utf-8")
    with (out / "log").open("wb") as log:
        plant = subprocess.Popen(
            [sys.executable, "-m", "tallystick", "simulate", str(out / "plant.toml"), "--out",
             str(out)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    assert plant.stdout is not None
    line = plant.stdout.readline()
    assert line, (out / "log").read_text(encoding="utf-8")
    return plant


def write_gateway(folder: Path, *, more: str = "", devices: Sequence[str] = (), points: Sequence[str] = (),
                  enrol: Sequence[str] = ("--self",)) -> Path:
    """Join the ledgers of the plants into one gateway, and enrol it, without a platform by default.

    more: further tables of its file; devices, points: further rows of its ledger.
    """
    uscc = json.loads((folder / "opc_ua" / "plant.json").read_text(encoding="utf-8"))["uscc"]
    home = folder / "gateway"
    shutil.rmtree(home, ignore_errors=True)
    tallystick("init", home, "--uscc", uscc)
    for file, others in (("devices.csv", devices), ("points.csv", points)):
        texts = [(folder / name / file).read_text(encoding="utf-8").splitlines() for name in PLANTS]
        rows = [texts[0][0], *(row for text in texts for row in text[1:]), *others]
        (home / file).write_text("\n".join(rows) + "\n", encoding="utf-8")
    connections = "\n".join((folder / name / "connections.toml").read_text(encoding="utf-8") for name in PLANTS)
    # simulated servers share the machine with the gateway: a slow answer is not a lost one here
    connections = re.sub(r"(?m)^timeout_s = .*$", f"timeout_s = {TIMEOUT_S}", connections)
    config = home / "gateway.toml"
    config.write_text(f'[gateway]\nsite = "soak"\nuscc = "{uscc}"\nledger_date = 2026-11-01\n'
                      f"[window]\nlen_s = {WINDOW_S}\ngrace_ms = 1000\n\n{more}\n{connections}", encoding="utf-8")
    tallystick("enrol", config, *enrol)
    return config


def tallystick(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "tallystick", *map(str, arguments)], cwd=ROOT, check=True,
                   stdout=subprocess.DEVNULL)


def look_on(folder: Path, gateway: subprocess.Popen[bytes], plants: list[subprocess.Popen[bytes]], length_s: float
            ) -> Counter[str]:
    """Wait; return the most of each kind of guest that a plant saw at once."""
    most: Counter[str] = Counter()
    end_s = time.monotonic() + length_s
    while time.monotonic() < end_s:
        for process, name in ((gateway, "gateway.log"), *zip(plants, (f"{name}/log" for name in PLANTS), strict=True)):
            if process.poll() is not None:
                raise SystemExit(f"{name} ended: {(folder / name).read_text(encoding='utf-8')[-3000:]}")
        for name in PLANTS:
            for guest, count in json.loads((folder / name / "sent.json").read_text(encoding="utf-8"))["now"].items():
                most[f"{name}: {guest}"] = max(most[f"{name}: {guest}"], count)
        time.sleep(1.0)
    return most


def entries(home: Path) -> Iterator[Mapping[str, Any]]:
    """Read the log of a gateway that has ended."""
    from gateway.commissioning.state import State
    from gateway.sealing.disk import RealDisk
    from gateway.sealing.journal import Journal

    journal = Journal(RealDisk(State(home / "state").journal_dir), writable=False)
    yield from map(journal.entry, range(journal.size))


def received(home: Path) -> tuple[Counter[str], int]:
    """Return what the sealed windows say, summed, and the number of windows."""
    from gateway.commissioning.state import State
    from gateway.sealing.journal import STOPPED

    state = State(home / "state")
    found: Counter[str] = Counter()
    windows = 0
    for entry in entries(home):
        if entry["type"] == "window":
            windows += 1
            samples = entry["samples"]
            found["received"] += samples["received"]
            found["counted"] += samples["counted"]
            found.update({f"discarded, {reason}": count for reason, count in samples["discarded"].items() if count})
        elif entry["type"] == "outage":
            found["in outages"] += entry.get("samples") or 0
    mark = json.loads((state.journal_dir / STOPPED).read_text(encoding="utf-8"))
    found["in the window that the stop cut"] += mark["samples"] or 0
    return found, windows


def report(folder: Path, stats: Path, seen: Counter[str], length_s: float, status: int) -> int:
    """Print what was found; return the exit status."""
    rows = [json.loads(line) for line in stats.read_text(encoding="utf-8").splitlines()]
    left = rows.pop() if "left" in rows[-1] else {"left": ["the gateway left no word"], "threads_left": []}
    faults: list[str] = []
    if status != 0:
        faults.append(f"the gateway ended with status {status}")

    print("\nconservation")
    sent: Counter[str] = Counter()
    for name in PLANTS:
        body = json.loads((folder / name / "sent.json").read_text(encoding="utf-8"))
        for connection, one in body["connections"].items():
            if one["samples"]:
                restarts = one["faults"].get("restart", 0)
                print(f"  {connection:12} sent {one['samples']:>12,}  connections taken {one['sessions']:>4}  "
                      f"restarts {restarts}")
                sent["samples"] += one["samples"]
                sent["doubtful"] += one["doubtful"]
        for protocol, count in body["writes_refused"].items():
            sent["writes"] += count
            if count:
                faults.append(f"{count} requests to write over {protocol}")
    found, windows = received(folder / "gateway")
    for name, count in found.items():
        print(f"  {name:40} {count:>12,}")
    total = found["received"] + found["in outages"] + found["in the window that the stop cut"]
    print(f"  sent {sent['samples']:,}, arrived {total:,}, difference {sent['samples'] - total:,}; {windows} windows; "
          f"{sent['samples'] / length_s:,.0f} samples a second; requests to write: {sent['writes']}")
    if sent["samples"] != total:
        faults.append(f"{sent['samples'] - total} samples are missing, {sent['doubtful']} of them doubtful")
    if found["received"] != found["counted"] + sum(n for name, n in found.items() if name.startswith("discarded")):
        faults.append("a window does not add up")

    print("memory, tasks, threads, files")
    warm_s = min(WARM_S, length_s / 3)
    warm = [row for row in rows if warm_s <= row["at_s"] < warm_s + max(60.0, length_s / 10)]
    late = [row for row in rows if rows[-1]["at_s"] - max(60.0, length_s / 10) < row["at_s"] <= rows[-1]["at_s"]
            and row["at_s"] < length_s]
    for name, unit in (("rss", 2**20), ("tasks", 1), ("threads", 1), ("files", 1)):
        first, last = (statistics.median(row[name] for row in part) / unit for part in (warm, late))
        most = max(row[name] for row in rows) / unit
        print(f"  {name:8} after warm-up {first:8.1f}  at the end {last:8.1f}  most {most:8.1f}  "
              f"growth {100 * (last / first - 1):+.1f} %")
        if name == "rss" and last / first - 1 > GROWTH_MAX:
            faults.append(f"the memory grew from {first:.1f} to {last:.1f} MB")
        # what is counted goes up and down with each lost connection: a leak never comes back down
        elif name != "rss" and min(row[name] for row in late) > max(row[name] for row in warm):
            faults.append(f"{name}: never below {min(row[name] for row in late)} at the end")
    cpu = (rows[-1]["cpu_s"] - rows[0]["cpu_s"]) / (rows[-1]["at_s"] - rows[0]["at_s"])
    print(f"  CPU of the gateway: {100 * cpu:.1f} % of one core; machine load {os.getloadavg()[1]:.1f} "
          f"on {os.cpu_count()} cores")
    print(f"  left over: tasks {left['left'] or 'none'}, threads {left['threads_left'] or 'none'}")
    faults += [f"left over: {name}" for name in (*left["left"], *left["threads_left"])]

    print("guests of the servers, at most at once")
    for name, count in sorted(seen.items()):
        if count:
            print(f"  {name:32} {count}")
    if seen["opc_ua: opc_ua sessions"] > 1 or seen["opc_ua: opc_ua subscriptions"] > 1:
        faults.append("the OPC UA server saw more than one session")
    text = (folder / "gateway.log").read_text(encoding="utf-8", errors="replace")
    if "Traceback" in text:
        faults.append(f"a traceback: {text[text.index('Traceback'):][:1500]}")
    print("\n" + ("\n".join(f"FAULT: {fault}" for fault in faults) or "all is well"))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
