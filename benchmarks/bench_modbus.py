"""Rows M1, M2 and M3: Modbus TCP beside libmodbus, stock pymodbus, and a Python gateway.

16 devices of 4000 registers, each over a connection of its own, read in blocks of 125: M1 one request at a time, M2
eight in flight. Ours is the real driver, from the wire to columns in a sink. libmodbus reads the same one after the
other, pymodbus with its own conversion to float, on the same event loop as ours. Beside M1 stand the same over TLS and
in RTU frames over TCP, ours and pymodbus; socat ends TLS before the server.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.harness import (
    HERE,
    PYTHON,
    CannotMeasureError,
    Command,
    Reading,
    Row,
    compiled,
    free_port,
    library_version,
    ratio,
    serving,
    side_by_side,
    told,
    versions,
)
from benchmarks.modbus_client import AUTHORITY, CERTIFICATE
from tests.unit.protocols.modbus.authority import Authority

CLIENT = HERE / "modbus_client.py"
SECONDS = "1"
CONNECTIONS, BLOCKS = "16", "32"
OTHER_REPEATS = 3
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
            try:
                beside = {name: told(readings, unit="us a register") for name, readings in other_ways().items()}
            except (CannotMeasureError, RuntimeError) as error:  # no target depends on these
                beside = {"TLS, RTU frames": str(error)}
            plain = {name: note for name, note in notes.items() if "in flight" not in name}
            yield Row(id="M1", versions=used, notes=plain | beside, measures=(
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


def other_ways() -> dict[str, list[Reading]]:
    """Run ours and pymodbus over TLS, if there is socat, and in RTU frames."""
    both = {f"ours, {LOOP}": "ours", f"pymodbus, {LOOP}": "stock"}
    with serving([compiled("modbus_server.c"), "0", "0", "rtu"]) as port:
        found = side_by_side({f"{name}, RTU frames": [PYTHON, CLIENT, path, str(port), SECONDS, "--loop", LOOP, "--rtu"]
                              for name, path in both.items()}, repeats=OTHER_REPEATS)
    socat = shutil.which("socat")
    if socat is None:
        return found
    with tempfile.TemporaryDirectory() as name, serving([compiled("modbus_server.c")]) as behind:
        port = free_port()
        authority = Authority(Path(name))
        assert authority.file.name == AUTHORITY
        authority.pair(Path(CERTIFICATE).stem)
        server = authority.pair("server", host="127.0.0.1")
        listen = (f"OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,nodelay,verify=1,cert={server.certificate},"
                  f"key={server.key},cafile={authority.file}")
        with serving([socat, listen, f"TCP:127.0.0.1:{behind},nodelay"], port=port):
            over_tls = ("--loop", LOOP, "--tls", name)
            found |= side_by_side({f"{way}, TLS": [PYTHON, CLIENT, path, str(port), SECONDS, *over_tls]
                                   for way, path in both.items()}, repeats=OTHER_REPEATS)
    return found


if __name__ == "__main__":
    for row in rows(("M1", "M2")):
        print(row)
