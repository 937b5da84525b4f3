"""OPC UA: rows U1 to U3. Beside our driver runs stock asyncua, plain and with SignAndEncrypt.

U1: 10 000 doubles, read 1000 a request, one request after the other.
U2: 10 000 items of one subscription, every one of them changed every 100 ms; stock asyncua has a handler.
U3: the same with doubles, floats, integers, booleans and strings in a random order.
An item is a value. Ours is the whole driver up to its sink, with the profile of a SCADA server, of which up to four
Reads may be outstanding.

The C column of U1 and U2 needs open62541, which no registry has. Where the library is installed and OPEN62541_SERVER
names `opcua_native_server.c` as a program, its client is measured beside ours, both at that server.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence

from benchmarks.harness import (
    HERE,
    PYTHON,
    CannotMeasureError,
    Command,
    Measure,
    Reading,
    Row,
    compiled,
    free_port,
    measure,
    ratio,
    serving,
    side_by_side,
)
from benchmarks.harness import told as took
from benchmarks.harness import versions as versions_of

WHAT = {"U1": ("read", False), "U2": ("subscribe", False), "U3": ("subscribe", True)}
RATIO = {"U1": 50, "U2": 100, "U3": 20}
CORES_MAX = 0.05
PEER = "stock asyncua"
KINDS = {"plain": (), "SignAndEncrypt": ("--secured",)}
NATIVE = "OPEN62541_SERVER"
NATIVE_RATIO = {"U1": 0.5, "U2": 1}
NATIVE_PEER = "open62541"
SECONDS, ITEMS, MS = "3", "10000", {"U1": "4", "U2": "100"}
FIRST_NODE = "100000"


def rows(wanted: frozenset[str]) -> Iterator[Row]:
    """Measure U1, U2 and U3."""
    for name in sorted(wanted):
        what, is_mixed = WHAT[name]
        found = {}
        for kind, flags in KINDS.items():
            with tempfile.TemporaryDirectory() as folder:
                server: Command = [PYTHON, HERE / "opcua_server.py", folder, *flags, *["--mixed"][:is_mixed]]
                with serving(server) as port:
                    found[kind] = side_by_side({who: [
                        PYTHON, HERE / "opcua_client.py", who, what, str(port), folder, *flags]
                        for who in ("ours", "stock")})
        versions, lacking = versions_of("asyncua", "numpy"), {}
        if name in NATIVE_RATIO and NATIVE in os.environ:
            try:
                found["C"] = beside_c(name, what)
                versions[NATIVE_PEER] = package_told("--modversion")[0]
            except CannotMeasureError as error:  # the row is judged against stock then
                lacking = {f"{NATIVE_PEER}, not measured": str(error)}
        yield Row(id=name, measures=tuple(measures(name, found)), versions=versions,
                  notes=notes(found, what) | lacking)


def beside_c(name: str, what: str) -> dict[str, list[Reading]]:
    """Run the client in C and ours at the server in C. Raises CannotMeasureError."""
    if shutil.which(os.environ[NATIVE]) is None:
        raise CannotMeasureError(f"{NATIVE}: there is no program {os.environ[NATIVE]}")
    client = compiled("opcua_native_client.c", "-flto", *package_told("--cflags", "--libs"), "-lm")
    with serving([os.environ[NATIVE], str(port := free_port()), ITEMS, MS[name]], port=port):
        with tempfile.TemporaryDirectory() as folder:
            return side_by_side({
                NATIVE_PEER: [client, what, str(port), SECONDS, ITEMS, MS[name]],
                "ours": [PYTHON, HERE / "opcua_client.py", "ours", what, str(port), folder, "--first", FIRST_NODE,
                         "--namespace", "1", "--items", ITEMS, "--seconds", SECONDS]})


def package_told(*questions: str) -> list[str]:
    """Return what pkg-config says of open62541. Raises CannotMeasureError."""
    if shutil.which("pkg-config") is None:
        raise CannotMeasureError("no pkg-config")
    done = subprocess.run(["pkg-config", *questions, "open62541"], capture_output=True, text=True)
    if done.returncode:
        raise CannotMeasureError(f"pkg-config does not know open62541: {done.stderr.strip()[:200]}")
    return done.stdout.split()


def measures(name: str, found: dict[str, dict[str, list[Reading]]]) -> Iterator[Measure]:
    """U2 is a share of a core first, calibrated."""
    plain = found["plain"]
    if name == "U2":
        yield measure([reading.cpu_s / reading.wall_s * reading.other["scale"] for reading in plain["ours"]],
                      unit="cores", target=CORES_MAX, at_least=False)
        yield measure([reading.other["missed"] for reading in plain["ours"]], unit="rounds missed", target=0,
                      at_least=False)
    yield ratio(plain["stock"], plain["ours"], target=RATIO[name], peer=PEER)
    if "C" in found:
        yield ratio(found["C"][NATIVE_PEER], found["C"]["ours"], target=NATIVE_RATIO[name], peer=NATIVE_PEER)


def notes(found: dict[str, dict[str, list[Reading]]], what: str) -> dict[str, str]:
    """Return what each client took, what it missed, and the ratio with encryption."""
    told = {}
    for kind, runs in found.items():
        for who, readings in runs.items():
            place = "server in C" if kind == "C" else kind
            told[f"{who}, {place}"] = took(readings, unit="us a value") + (
                delivered(readings) if what != "read" else "")
    secured = ratio(found["SignAndEncrypt"]["stock"], found["SignAndEncrypt"]["ours"], target=0, peer=PEER)
    told["ratio, SignAndEncrypt"] = f"{secured.value:.4g} ({secured.min:.4g} to {secured.max:.4g}) x"
    return told


def delivered(readings: Sequence[Reading]) -> str:
    """Return the smallest share of the 100 000 values a second that arrived."""
    return f", {min(reading.items / reading.wall_s for reading in readings) / 1e5:.0%} arrived"
