"""Every row of the table of targets, measured: `make bench`, or `make bench ONLY=M1,U2` for some of them.

Prints a table and writes `benchmarks/results/latest.json`. A row that was not asked for keeps what it last was there,
with the time of its own run. `--list` names the rows; the names of the other benchmarks (audit, raw, size, start) may
be asked for too, they print for themselves.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks import harness
from benchmarks.calibration import check_s
from benchmarks.harness import CannotMeasureError, Row

ROWS = {
    "M1": ("bench_modbus", ">= 1.5", "Modbus TCP, 16 connections, 1 request in flight, 125 registers to float columns"),
    "M2": ("bench_modbus", ">= 5", "the same with devices that accept 8 in flight"),
    "M3": ("bench_modbus", ">= 50", "Modbus end to end against a Python gateway, same tags"),
    "U1": ("bench_opcua", ">= 50", "OPC UA read, 1000 nodes a request, to columns"),
    "U2": ("bench_opcua", "<= 0.05", "OPC UA subscription, 10 000 items at 100 ms, no loss"),
    "U3": ("bench_opcua", ">= 20", "the same with five types mixed, strings among them"),
    "Q1": ("bench_mqtt", ">= 2", "MQTT QoS 0, 200-byte JSON, decoded to columns"),
    "Q2": ("bench_mqtt", ">= 4", "MQTT QoS 1, acknowledged after hand-over"),
    "Q3": ("bench_mqtt", ">= 3", "Sparkplug B, 100 metrics, to columns"),
    "K1": ("bench_counting", ">= 8", "counting 100 000 points, 10 % late, 2 % repeated"),
    "K2": ("bench_counting", ">= 8", "exact mode: ns de-duplication, gaps"),
    "K3": ("bench_counting", "<= 50", "window close at 1 000 000 points, 100 000 devices"),
    "I1": ("bench_influx", ">= 40", "Influx: columns to line protocol bytes to a server"),
    "E1": ("bench_seal", "<= 50", "seal a window of 10 000 devices and 100 000 points"),
    "E2": ("bench_verify", ">= 20000", "verify one gateway, one core"),
    "H1": ("bench_intake", ">= 0.5", "durable intake, committed before the answer"),
    "A1": ("bench_agent", "<= 0.15", "the whole agent, 10 000 changes/s over three protocols"),
    "A2": ("bench_agent", "<= 0.6", "the whole agent, 100 000 changes/s"),
}
"""Row -> the benchmark that measures it, the target of its first figure, and what it is."""

OTHERS = ("audit", "raw", "size", "start")
"""Benchmarks of no row: they print for themselves."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="M1,U2", help="rows, or names of other benchmarks")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    args = parser.parse_args()
    if args.list:
        for name, (bench, _, what) in ROWS.items():
            print(f"{name:4}{bench:16}{what}")
        return 0
    wanted = [name.strip() for name in args.only.replace(" ", ",").split(",") if name.strip()] or [*ROWS, *OTHERS]
    strange = [name for name in wanted if name not in ROWS and name not in OTHERS]
    if strange:
        parser.error(f"no such row: {', '.join(strange)}; known are {', '.join((*ROWS, *OTHERS))}")
    found = {row.id: row for row in measured([name for name in ROWS if name in wanted])}
    entries = write(found) if found else []
    for name in OTHERS:
        if name in wanted:
            print(f"\n== bench_{name}.py", flush=True)
            subprocess.run([sys.executable, harness.HERE / f"bench_{name}.py"], check=True)
    if entries:
        print("\n" + table(entries))
    return 0


def measured(wanted: Iterable[str]) -> Iterable[Row]:
    """Measure rows, a benchmark at a time, and print each as it comes."""
    groups: dict[str, set[str]] = {}
    for name in wanted:
        groups.setdefault(ROWS[name][0], set()).add(name)
    for bench, ids in groups.items():
        missing = set(ids)
        try:
            if not (harness.HERE / f"{bench}.py").exists():
                raise CannotMeasureError("there is no benchmark for it yet")
            for row in importlib.import_module(f"benchmarks.{bench}").rows(frozenset(ids)):
                missing.discard(row.id)
                print(line(row.entry()), flush=True)
                yield row
        except CannotMeasureError as error:
            for name in sorted(missing):
                row = Row(id=name, why=str(error))
                print(line(row.entry()), flush=True)
                yield row


def write(found: dict[str, Row]) -> list[dict[str, Any]]:
    """Put the rows into `latest.json`, beside those of earlier runs; return all of them in the order of the table."""
    known = {}
    if harness.RESULTS.exists():
        known = {row["id"]: row for row in json.loads(harness.RESULTS.read_text(encoding="utf-8"))["rows"]}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
    for name, row in found.items():
        known[name] = row.entry() | {"at": now}
    rows = []
    for name, (_, target, what) in ROWS.items():
        entry = known.get(name) or Row(id=name, why="not measured yet").entry() | {"at": ""}
        rows.append(entry | {"what": what, "target": entry["target"] or target})
    machine = {"processor": processor(), "cores": len(set(harness.cores())), "system": platform.platform(),
               "python": platform.python_version(), "ed25519_check_us": round(check_s() * 1e6, 1)}
    harness.RESULTS.parent.mkdir(exist_ok=True)
    harness.RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1, ensure_ascii=False) + "\n",
                               encoding="utf-8")
    return rows


def processor() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for text in cpuinfo.read_text(encoding="utf-8").splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def line(entry: dict[str, Any]) -> str:
    """Return one row as text, with the figures it has beyond its first."""
    if entry["value"] is None:
        return f"{entry['id']:4}not measured: {entry['why']}"
    texts = [f"{figure(one)}{' against ' + one['peer'] if one['peer'] else ''}: "
             f"{'met' if one['met'] else 'MISSED'} ({one['target']})" for one in figures(entry)]
    texts += [f"{name} {text}" for name, text in entry["notes"].items()]
    return f"{entry['id']:4}" + "\n    ".join(texts)


def figures(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of a row, each with its own `met`; that of the row speaks for all of them."""
    sign, _, target = entry["target"].partition(" ")
    alone = entry["value"] >= float(target) if sign == ">=" else entry["value"] <= float(target)
    return [{**entry, "met": alone}, *entry["also"]]


def figure(one: dict[str, Any]) -> str:
    """Return median, smallest and largest as text."""
    return f"{one['value']:g} ({one['min']:g} to {one['max']:g}) {one['unit']}"


def table(entries: list[dict[str, Any]]) -> str:
    """Return all rows as the table of benchmarks/README.md."""
    lines = ["| # | what | figure | target | peer | |", "| --- | --- | --- | --- | --- | --- |"]
    for entry in entries:
        if entry["value"] is None:
            lines.append(f"| {entry['id']} | {entry['what']} | | {entry['target']} | | {entry['why']} |")
            continue
        for number, one in enumerate(figures(entry)):
            head = f"{entry['id']} | {entry['what']}" if number == 0 else " | "
            lines.append(f"| {head} | {figure(one)} | {one['target']} | {one['peer']} | "
                         f"{'met' if one['met'] else 'missed'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
