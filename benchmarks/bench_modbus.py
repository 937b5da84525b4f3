"""Rows M1, M2 and M3: Modbus TCP beside libmodbus, stock pymodbus, and a Python gateway.

16 devices of 4000 registers, each over a connection of its own, read in blocks of 125: M1 one request at a time, M2
eight in flight. Ours is the real driver, from the wire to columns in a sink. libmodbus reads the same one after the
other, pymodbus with its own conversion to float, on the same event loop as ours.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.harness import (
    HERE,
    PYTHON,
    Command,
    Reading,
    Row,
    compiled,
    library_version,
    ratio,
    serving,
    side_by_side,
    told,
    versions,
)

CLIENT = HERE / "modbus_client.py"
SECONDS = "1"
CONNECTIONS, BLOCKS = "16", "32"
LOOP = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
"""What `tallystick run` takes."""


def rows(wanted: Collection[str]) -> Iterator[Row]:
    """Measure."""
    if "M1" in wanted or "M2" in wanted:
        runs = polling(wanted)
        used = versions("pymodbus", "numpy", *(["uvloop"] if LOOP == "uvloop" else [])) | {
            "libmodbus": library_version("libmodbus5")}
        notes = {name: told(readings, unit="us a register") for name, readings in runs.items()}
        if "M1" in wanted:
            yield Row(id="M1", versions=used, notes={k: v for k, v in notes.items() if "in flight" not in k}, measures=(
                ratio(runs["libmodbus"], runs[f"ours, {LOOP}"], target=1.5, peer="libmodbus"),
                ratio(runs[f"pymodbus, {LOOP}"], runs[f"ours, {LOOP}"], target=5, peer="stock pymodbus")))
        if "M2" in wanted:
            yield Row(id="M2", versions=used, notes={k: v for k, v in notes.items() if "pymodbus" not in k}, measures=(
                ratio(runs["libmodbus"], runs[f"ours, 8 in flight, {LOOP}"], target=5, peer="libmodbus"),))
    if "M3" in wanted:
        from benchmarks.bench_thingsboard import row

        yield row()


def polling(wanted: Collection[str]) -> dict[str, list[Reading]]:
    """Run all clients in turn."""
    commands: dict[str, Command] = {}
    with serving([compiled("modbus_server.c")]) as port:
        at = str(port)
        native = compiled("modbus_client.c", "-I/usr/include/modbus", "-lmodbus")
        commands["libmodbus"] = [native, at, CONNECTIONS, BLOCKS, SECONDS]
        if "M1" in wanted:
            commands[f"ours, {LOOP}"] = [PYTHON, CLIENT, "ours", at, SECONDS, "--loop", LOOP]
            commands[f"pymodbus, {LOOP}"] = [PYTHON, CLIENT, "stock", at, SECONDS, "--loop", LOOP]
        if "M2" in wanted:
            commands[f"ours, 8 in flight, {LOOP}"] = [PYTHON, CLIENT, "ours", at, SECONDS, "--in-flight", "8",
                                                      "--loop", LOOP]
        return side_by_side(commands)


if __name__ == "__main__":
    for row in rows(("M1", "M2")):
        print(row)
