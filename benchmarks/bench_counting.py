"""Rows K1 to K3: counting 100 000 points beside Polars, DuckDB and numba; kept samples to the nanosecond; closing a
window of a million points.

All engines get to the same figures from the same five columns, which is checked. `primitives` are the six operations
of numpy that the target was set by; `needed` is what our kernel does for every sample, which is more: it also tells
whether a value changed. What a second has to do with it: an uptime slot is a window, of ten seconds here; the notes
have the figures with windows of one second.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.calibration import spread
from benchmarks.harness import (
    HERE,
    PYTHON,
    Command,
    Row,
    environment,
    last_line,
    measure,
    ratio,
    side_by_side,
    told,
    versions,
)

CLIENT = HERE / "counting_client.py"
PEERS = ("polars", "duckdb", "numba")
SLOT_REPEATS = 3


def rows(wanted: Collection[str]) -> Iterator[Row]:
    """Measure."""
    if "K1" in wanted:
        yield _k1()
    if "K2" in wanted:
        yield _k2()
    if "K3" in wanted:
        yield _k3()


def _k2() -> Row:
    python = environment("counting")
    commands: dict[str, Command] = {"exact": [PYTHON, CLIENT, "exact"]}
    commands |= {peer: [python, CLIENT, peer] for peer in ("polars-exact", "duckdb-exact")}
    runs = side_by_side(commands)
    results = {name: readings[0].other["digest"] for name, readings in runs.items()}
    if len(set(results.values())) != 1:
        raise RuntimeError(f"the engines do not count alike: {results}")
    return Row(
        id="K2", versions=versions("numpy") | versions("polars", "duckdb", python=python),
        measures=(ratio(runs["polars-exact"], runs["exact"], target=8, peer="Polars"),),
        notes={name: told(readings, unit="ns a sample", scale=1e9) for name, readings in runs.items()})


def _k3() -> Row:
    found, made = (last_line([PYTHON, CLIENT, name]) for name in ("close", "registry"))
    return Row(
        id="K3", versions=versions("numpy"), measures=(
            measure(found["calibrated_ms"], unit="ms CPU", target=50, at_least=False),
            measure(found["stall_ms"], unit="ms CPU from delivery to delivery meanwhile, the longest", target=5,
                    at_least=False)),
        notes={"close as measured": spread(tuple(found["raw_ms"]), digits=1) + " ms",
               "stall as measured": spread(tuple(found["raw_stall_ms"]), digits=1) + " ms",
               "planes and what is carried over": f"{found['windows_mb'] * 2**20 / 1e6:.0f} bytes a point",
               "peak of memory": f"{found['peak_mb']:.0f} MB",
               "the registry of 1 000 000 points and 100 000 devices": f"{made['cpu_s']:.0f} s CPU to check, hash and "
               f"lay out its rows, {made['bytes_a_point']:.0f} bytes a point, {made['bytes_a_device']:.0f} a device"})


def _k1() -> Row:
    python = environment("counting")
    commands: dict[str, Command] = {name: [PYTHON, CLIENT, name] for name in ("ours", "primitives", "needed")}
    commands |= {peer: [python, CLIENT, peer] for peer in PEERS}
    runs = side_by_side(commands)
    slots = side_by_side({"ours": [PYTHON, CLIENT, "ours", "--slots"]} | {
        peer: [python, CLIENT, peer, "--slots"] for peer in PEERS}, repeats=SLOT_REPEATS)
    for found in (runs, slots):
        results = {peer: found[peer][0].other["digest"] for peer in ("ours", *PEERS)}
        if len(set(results.values())) != 1:
            raise RuntimeError(f"the engines do not count alike: {results}")
    ours = runs["ours"]
    return Row(
        id="K1", versions=versions("numpy") | versions(*PEERS, python=python),
        measures=(ratio(runs["polars"], ours, target=8, peer="Polars"),
                  ratio(runs["duckdb"], ours, target=8, peer="DuckDB"),
                  ratio(runs["numba"], ours, target=0.5, peer="numba, the same planes in a compiled loop"),
                  ratio(runs["primitives"], ours, target=0.4, peer="six primitives of numpy")),
        notes={name: told(readings, unit="ns a sample", scale=1e9) for name, readings in runs.items()} | {
            f"{name}, windows of one second": told(readings, unit="ns a sample", scale=1e9)
            for name, readings in slots.items()})


if __name__ == "__main__":
    for row in rows(("K1", "K2", "K3")):
        print(row)
