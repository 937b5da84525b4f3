"""OPC UA: rows U1 to U3. Beside our driver runs stock asyncua, plain and with SignAndEncrypt.

U1: 10 000 doubles, read 1000 a request, one request after the other.
U2: 10 000 items of one subscription, every one of them changed every 100 ms; stock asyncua has a handler.
U3: the same with doubles, floats, integers, booleans and strings in a random order.
An item is a value. Ours is the whole driver up to its sink, with the profile of a SCADA server, of which up to four
Reads may be outstanding. The C column of the table needs open62541, which no registry has: it is not measured here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence

from benchmarks.harness import HERE, PYTHON, Command, Measure, Reading, Row, measure, ratio, serving, side_by_side
from benchmarks.harness import told as took
from benchmarks.harness import versions as versions_of

WHAT = {"U1": ("read", False), "U2": ("subscribe", False), "U3": ("subscribe", True)}
RATIO = {"U1": 50, "U2": 100, "U3": 20}
CORES_MAX = 0.05
PEER = "stock asyncua"
KINDS = {"plain": (), "SignAndEncrypt": ("--secured",)}


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
        yield Row(id=name, measures=tuple(measures(name, found)), versions=versions_of("asyncua", "numpy"),
                  notes=notes(found, what))


def measures(name: str, found: dict[str, dict[str, list[Reading]]]) -> Iterator[Measure]:
    """U2 is a share of a core first, calibrated."""
    plain = found["plain"]
    if name == "U2":
        yield measure([reading.cpu_s / reading.wall_s * reading.other["scale"] for reading in plain["ours"]],
                      unit="cores", target=CORES_MAX, at_least=False)
        yield measure([reading.other["missed"] for reading in plain["ours"]], unit="rounds missed", target=0,
                      at_least=False)
    yield ratio(plain["stock"], plain["ours"], target=RATIO[name], peer=PEER)


def notes(found: dict[str, dict[str, list[Reading]]], what: str) -> dict[str, str]:
    """Return what each client took, what it missed, and the ratio with encryption."""
    told = {}
    for kind, runs in found.items():
        for who, readings in runs.items():
            told[f"{who}, {kind}"] = took(readings, unit="us a value") + (delivered(readings) if what != "read" else "")
    secured = ratio(found["SignAndEncrypt"]["stock"], found["SignAndEncrypt"]["ours"], target=0, peer=PEER)
    told["ratio, SignAndEncrypt"] = f"{secured.value:.4g} ({secured.min:.4g} to {secured.max:.4g}) x"
    return told


def delivered(readings: Sequence[Reading]) -> str:
    """Return the smallest share of the 100 000 values a second that arrived."""
    return f", {min(reading.items / reading.wall_s for reading in readings) / 1e5:.0%} arrived"
