"""Rows A1 and A2: what the whole agent costs: `tallystick run` with everything on, from the wire to the platform.

A1: the plants of `soak.py`, without their restarts: 10 375 changes a second over OPC UA (SignAndEncrypt), Modbus TCP,
Sparkplug B and plain JSON. A2: 89 625 points more over 16 Modbus connections to C servers, each polled every second:
100 000 points, 100 000 changes a second. The same without polling these points is the memory of A1 with 100 000
configured points.

Raw data is kept, every sample goes to an Influx server (`http_sink.c`), windows of 10 s are sealed and submitted to a
real platform. Measured are windows: CPU of the process, user and system, all threads, by what the sealed window says
was received. Servers and platform share the other core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.bench_intake import listening
from benchmarks.calibration import CHECK_S, check_s
from benchmarks.harness import (
    PYTHON,
    READY_S,
    REPEATS,
    CannotMeasureError,
    Measure,
    Reading,
    Row,
    compiled,
    cores,
    cpu_of,
    measure,
    memory_mb,
    on_core,
    serving,
    told,
    versions,
)
from benchmarks.soak import PLANTS, WINDOW_S, entries, start_plant, write_gateway

CHANGES = {"A1": 10_000, "A2": 100_000}
"""Changes a second that a row speaks of: what was measured is scaled to it."""

CONNECTIONS = 16
BULK_DEVICES = 717
BULK_POINTS = 125
NEVER_S = 86_400
CHANGE_MS = 500
RATE_MIN = 0.8
"""Of the changes that a row speaks of: with less, it was the load source that was measured."""
START_WINDOWS_MAX = 30
SETTLE_S = 3.0
RSS_MB_MAX = 200
DISK_MB = 65_536
"""By default 2 GB are for the log of years; of 100 000 points with windows of 10 s nothing is left for raw data."""



@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the slices of a run say: one reading a window, its scale to a calibrated machine, memory in MB."""

    readings: Sequence[Reading]
    scales: Sequence[float]
    rss_mb: Sequence[float]
    notes: dict[str, str]

    def cores(self, changes: int) -> list[float]:
        """Return the calibrated share of a core at so many changes a second, window by window."""
        return [reading.per_item_s * changes * scale
                for reading, scale in zip(self.readings, self.scales, strict=True)]

    @property
    def rate(self) -> float:
        """Changes a second."""
        return sum(r.items for r in self.readings) / sum(r.wall_s for r in self.readings)


def bulk(devices: Path, ports: Sequence[int], poll_s: float) -> tuple[str, list[str], list[str]]:
    """Return connections, devices and points of the C servers: their machines are as the first one of a ledger."""
    header, example = devices.read_text(encoding="utf-8").splitlines()[:2]
    names, fields = header.split(","), example.split(",")
    machines, points = [], []
    for number in range(BULK_DEVICES):
        connection, unit = number % CONNECTIONS, number // CONNECTIONS + 1
        row = dict(zip(names, fields, strict=True)) | {
            "id": f"bulk-{number}", "name": f"bulk {number}", "serial": f"BULK{number:05}", "asset": f"BULK-{number}",
            "connection": f"bulk-{connection}", "product_instance_uri": ""}
        machines.append(",".join(row[name] for name in names))
        points += [f"bulk-{number},p{k},{unit}/holding/{(number * BULK_POINTS + k) % 65_000},uint16,parameter,,,"
                   for k in range(BULK_POINTS)]
    tables = "".join(
        f'[[connections]]\nname = "bulk-{n}"\nprotocol = "modbus_tcp"\nendpoint = "tcp://127.0.0.1:{port}"\n'
        f"poll_s = {poll_s}\ntimeout_s = 10.0\n\n" for n, port in enumerate(ports))
    return tables, machines, points


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Stay on a core, with what is started meanwhile."""
    if not hasattr(os, "sched_setaffinity"):
        raise CannotMeasureError("the agent's process is measured through /proc: Linux only")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def plants(folder: Path) -> Iterator[None]:
    """Run the plants of the soak, without faults."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for number, name in enumerate(PLANTS):
            running.append(start_plant(folder / name, name, seed=number + 1, at_s=None))
        yield
    finally:
        for plant in running:
            plant.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        for plant in running:
            try:
                plant.wait(READY_S)
            except subprocess.TimeoutExpired:
                plant.kill()
                plant.wait()
            plant.stdout.close()  # type: ignore[union-attr]  # it is a pipe


@contextmanager
def platform(folder: Path, uscc: str) -> Iterator[tuple[str, str]]:
    """Run a platform without witnesses; give its URL and a token."""
    def command(*words: object) -> str:
        return subprocess.run([PYTHON, "-m", "tallystick", "platform", *map(str, words)], cwd=ROOT, check=True,
                              text=True, stdout=subprocess.PIPE).stdout.strip()

    command("init", folder, "--listen", "127.0.0.1:0")
    token = command("token", folder / "platform.toml", "--uscc", uscc)
    with listening([PYTHON, "-m", "tallystick", "platform", folder / "platform.toml"], core=cores()[0]) as (_, port):
        yield f"http://127.0.0.1:{port}", token


def run(folder: Path, poll_s: float | None) -> Found:
    """Run the agent for some windows.

    poll_s: how often the points of the C servers are read, None for a plant without them.
    """
    servers, own = cores()
    with ExitStack() as stack:
        stack.enter_context(pinned(servers))
        stack.enter_context(plants(folder))
        sink = stack.enter_context(serving([compiled("http_sink.c")]))
        uscc = json.loads((folder / "opc_ua" / "plant.json").read_text(encoding="utf-8"))["uscc"]
        url, token = stack.enter_context(platform(folder / "platform", uscc))
        more = (f'[platform]\nurl = "{url}"\n[keep]\nraw = true\nbudget_mb = {DISK_MB // 2}\n'
                f'[limits]\ndisk_budget_mb = {DISK_MB}\n[influx]\nurl = "http://127.0.0.1:{sink}"\nbucket = "b"\n')
        machines, points = list[str](), list[str]()
        if poll_s is not None:
            ports = [stack.enter_context(serving([compiled("modbus_server.c"), "0", str(CHANGE_MS)]))
                     for _ in range(CONNECTIONS)]
            tables, machines, points = bulk(folder / "modbus" / "devices.csv", ports, poll_s)
            more += tables
        config = write_gateway(folder, more=more, devices=machines, points=points, enrol=("--token", token))
        with (folder / "gateway.log").open("wb") as log:
            agent = subprocess.Popen([PYTHON, "-m", "tallystick", "run", config], cwd=ROOT, stdin=subprocess.DEVNULL,
                                     stdout=log, stderr=log, preexec_fn=on_core(own))
        try:
            slices = watch(folder, agent, own)
            time.sleep(SETTLE_S)  # the last window is sealed and submitted
            size = submitted(url, folder)
        finally:
            agent.terminate()
            try:
                agent.wait(READY_S)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()
    return found(folder, slices, size)


def watch(folder: Path, agent: subprocess.Popen[bytes], core: int) -> list[tuple[int, float, float, float, float]]:
    """Look at the agent whenever a window begins: second, CPU, calibration, memory, most memory. The first is warm."""
    rows: list[tuple[int, float, float, float, float]] = []
    warm_from = None
    for _ in range(START_WINDOWS_MAX):
        at_s = (int(time.time()) // WINDOW_S + 1) * WINDOW_S
        time.sleep(max(0.0, at_s - time.time()))
        if agent.poll() is not None:
            raise RuntimeError(f"the agent ended: {(folder / 'gateway.log').read_text(encoding='utf-8')[-3000:]}")
        used_s = cpu_of(agent.pid)
        with pinned(core):
            one_s = check_s()
        rows.append((at_s, used_s, one_s, *memory_mb(agent.pid)))
        if warm_from is None and (folder / "gateway" / "state" / "status.json").exists():
            warm_from = len(rows) + 1  # a window more, to fill what is filled once
        if warm_from is not None and len(rows) > warm_from + REPEATS:
            return rows[warm_from:]
    raise RuntimeError(f"the agent sealed no window: {(folder / 'gateway.log').read_text(encoding='utf-8')[-3000:]}")


def submitted(url: str, folder: Path) -> int:
    """Return how many entries the platform has."""
    gateway = json.loads((folder / "gateway" / "state" / "status.json").read_text(encoding="utf-8"))["gateway"]
    with urllib.request.urlopen(f"{url}/v1/gateways/{gateway}/size") as answer:
        size: int = json.load(answer)["size"]
    return size


def found(folder: Path, slices: Sequence[tuple[int, float, float, float, float]], size: int) -> Found:
    """Join what was seen of the process with what its windows say."""
    log = [*entries(folder / "gateway")]
    samples: dict[int, Any] = {entry["start_s"]: entry["samples"] for entry in log if entry["type"] == "window"}
    readings, scales = [], []
    lost = 0
    for begin, end in pairwise(slices):
        window = samples[begin[0]]
        lost += sum(window["discarded"].values())
        readings.append(Reading(items=window["received"], cpu_s=end[1] - begin[1], wall_s=end[0] - begin[0]))
        scales.append(CHECK_S / ((begin[2] + end[2]) / 2))
    kept = sum(path.stat().st_size for path in (folder / "gateway" / "state").rglob("*")
               if path.is_file() and "raw" in path.relative_to(folder).as_posix())
    complaints = [line for line in (folder / "gateway.log").read_text(encoding="utf-8").splitlines()
                  if "influx" in line or "raw:" in line or "Traceback" in line]
    return Found(readings=readings, scales=scales, rss_mb=[row[3] for row in slices], notes={
        "changes/s": f"{sum(r.items for r in readings) / sum(r.wall_s for r in readings):.0f}",
        "discarded": str(lost), "raw data on disk": f"{kept / 1e6:.1f} MB",
        "entries sealed": str(len(log)), "of them at the platform": str(size),
        "most memory": f"{slices[-1][4]:.0f} MB", "complaints of the log": str(len(complaints)),
        "as measured": told(readings, unit="us CPU a change"),
        "calibrated by": " ".join(f"{scale:.2f}" for scale in scales)})


def judged(run_found: Found, row: str, target: float) -> Measure:
    """Return the cores of a run. Raises CannotMeasureError where the load was too little."""
    changes = CHANGES[row]
    if run_found.rate < RATE_MIN * changes:
        raise CannotMeasureError(f"the load sources brought only {run_found.rate:.0f} changes/s; "
                                 f"{run_found.notes['as measured']}")
    return measure(run_found.cores(changes), unit=f"cores at {changes} changes/s", target=target, at_least=False)


def memory(run_found: Found, unit: str) -> Measure:
    """Return the memory of a run."""
    return measure(run_found.rss_mb, unit=unit, target=RSS_MB_MAX, at_least=False)


def rows(wanted: Collection[str]) -> Iterator[Row]:
    """Measure A1 and A2; what one cannot measure does not keep the other from it."""
    used = versions("numpy", "asyncua", "pymodbus", "paho-mqtt", "influxdb-client")
    try:
        used |= versions("uvloop")
    except ModuleNotFoundError:
        used["uvloop"] = "not installed"
    for row in sorted(wanted):
        try:
            with tempfile.TemporaryDirectory() as name:
                few = run(Path(name), None if row == "A1" else 1.0)
            measures = [judged(few, row, 0.15 if row == "A1" else 0.6)]
            notes = dict(few.notes)
            if row == "A1":
                with tempfile.TemporaryDirectory() as name:
                    many = run(Path(name), NEVER_S)
                measures += [memory(few, "MB, 10 375 points"), memory(many, "MB, 100 000 points")]
                notes |= {f"100 000 points: {key}": text for key, text in many.notes.items()}
            else:
                notes["memory"] = f"{max(few.rss_mb):.0f} MB"
            yield Row(id=row, measures=tuple(measures), versions=used, notes=notes)
        except CannotMeasureError as error:
            yield Row(id=row, versions=used, why=str(error))


if __name__ == "__main__":
    for one in rows(sys.argv[1:] or ("A1", "A2")):
        print(one)
