"""Rows K1 and K3: counting 100 000 points beside Polars, DuckDB and numba; closing a window of a million points.

All engines get to the same figures, which is checked. `primitives` is the least that numpy must do for every sample:
the figure beside it says how much of our time is that.
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


def rows(wanted: Collection[str]) -> Iterator[Row]:
    """Measure."""
    if "K1" in wanted:
        yield _k1()
    if "K2" in wanted:
        yield Row(id="K2", why="the gateway has no such mode: evidence is made of windows, not of single times")
    if "K3" in wanted:
        found = last_line([PYTHON, CLIENT, "close"])
        yield Row(
            id="K3", versions=versions("numpy"), measures=(
                measure(found["calibrated_ms"], unit="ms CPU", target=50, at_least=False),),
            notes={"as measured": spread(tuple(found["raw_ms"]), digits=1) + " ms",
                   "peak of memory": f"{found['peak_mb']:.0f} MB",
                   "intake": "stands still for as long as the close takes: it runs in the same thread"})


def _k1() -> Row:
    python = environment("counting")
    commands: dict[str, Command] = {name: [PYTHON, CLIENT, name] for name in ("ours", "primitives")}
    commands |= {peer: [python, CLIENT, peer] for peer in PEERS}
    runs = side_by_side(commands)
    results = {peer: runs[peer][0].other["digest"] for peer in ("ours", *PEERS)}
    if len(set(results.values())) != 1:
        raise RuntimeError(f"the engines do not count alike: {results}")
    ours = runs["ours"]
    return Row(
        id="K1", versions=versions("numpy") | versions(*PEERS, python=python),
        measures=(ratio(runs["polars"], ours, target=8, peer="Polars"),
                  ratio(runs["duckdb"], ours, target=8, peer="DuckDB"),
                  ratio(runs["numba"], ours, target=0.5, peer="numba, the same planes in a compiled loop"),
                  ratio(runs["primitives"], ours, target=0.4, peer="the primitives of numpy")),
        notes={name: told(readings, unit="ns a sample", scale=1e9) for name, readings in runs.items()})


if __name__ == "__main__":
    for row in rows(("K1", "K2", "K3")):
        print(row)
