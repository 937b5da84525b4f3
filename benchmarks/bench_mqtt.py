"""MQTT: rows Q1 to Q3. Beside our driver run libmosquitto (C) and paho-mqtt with json or protobuf.

Q1: JSON of 200 bytes over 100 topics with QoS 0, five values of each to columns; the C client only receives.
Q2: the same with QoS 1, 1000 messages in flight, acknowledged after they were handed over.
Q3: Sparkplug B, 100 metrics a message: always the same ones, and others in another order each time.
An item is a message in Q1 and Q2, a metric in Q3. What a full queue dropped is no item, and its share is told. Beside
the targets Q1 and Q2 tell what TLS adds, of each client, and what many topics and few cost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import (
    HERE,
    PYTHON,
    CannotMeasureError,
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
from benchmarks.mqtt_client import TOPICS, write
from tests.support.tls import signed, written

SECONDS = 2
WINDOW = 1000
REPEATS_BESIDE = 3
"""Of figures without a target."""

FEW, MANY = 16, 1000


def rows(wanted: frozenset[str]) -> Iterator[Row]:
    """Measure Q1, Q2 and Q3."""
    native = compiled("mqtt_client.c", "-lmosquitto")
    script = HERE / "mqtt_client.py"
    packages = versions("paho-mqtt", "protobuf", "msgspec", "numpy")
    packages["libmosquitto"] = library_version("libmosquitto1")

    def ours(who: str, kind: str, port: int, qos: int, *more: str | Path) -> list[str | Path]:
        return [PYTHON, script, who, kind, str(port), str(SECONDS), "--qos", str(qos), *more]

    def theirs(port: int, qos: int, *more: str | Path) -> list[str | Path]:
        return [native, str(port), str(qos), str(SECONDS), "#", *more]

    def beside(qos: int) -> Iterator[tuple[str, str]]:
        """Measure what has no target."""
        with tempfile.TemporaryDirectory() as folder:
            pem, key = written(Path(folder), "server", signed("broker"))
            pem.write_bytes(pem.read_bytes() + key.read_bytes())
            try:
                with sending("json", pem=pem) as port:
                    runs = side_by_side({
                        "ours": ours("ours", "json", port, qos, "--ca", pem), "libmosquitto": theirs(port, qos, pem),
                        "paho": ours("paho", "json", port, qos, "--ca", pem)}, repeats=REPEATS_BESIDE)
                yield from notes(runs, "us a message", where=" over TLS").items()
            except (CannotMeasureError, RuntimeError) as error:  # no target depends on this
                yield "over TLS", str(error)
        for topics in (FEW, MANY):
            with sending("json", topics=topics) as port:
                runs = side_by_side({"ours": ours("ours", "json", port, qos, "--topics", str(topics)),
                                     "libmosquitto": theirs(port, qos)}, repeats=REPEATS_BESIDE)
            yield from notes(runs, "us a message", where=f", {topics} topics").items()

    for name, qos in (("Q1", 0), ("Q2", 1)):
        if name not in wanted:
            continue
        with sending("json") as port:
            runs = side_by_side({
                "ours": ours("ours", "json", port, qos), "fallback": ours("fallback", "json", port, qos),
                "libmosquitto": theirs(port, qos), "paho": ours("paho", "json", port, qos)})
        targets = {"Q1": (2, 15), "Q2": (4, 12)}[name]
        yield Row(id=name, measures=(
            ratio(runs["libmosquitto"], runs["ours"], target=targets[0], peer="libmosquitto, receiving only"),
            ratio(runs["paho"], runs["ours"], target=targets[1], peer="paho-mqtt + json")),
            versions=packages, notes=notes(runs, "us a message") | dict(beside(qos)))
    if "Q3" in wanted:
        found = {}
        for kind in ("metrics", "mixed"):
            with sending(kind) as port:
                found[kind] = side_by_side({"ours": ours("ours", kind, port, 0), "paho": ours("paho", kind, port, 0)})
        yield Row(id="Q3", measures=(
            ratio(found["metrics"]["paho"], found["metrics"]["ours"], target=3, peer="paho-mqtt + protobuf (upb)"),
            ratio(found["mixed"]["paho"], found["mixed"]["ours"], target=1.5, peer="the same, varying layouts")),
            versions=packages, notes={f"{kind}, {name}": text for kind, runs in found.items()
                                      for name, text in notes(runs, "us a metric").items()})


def notes(runs: dict[str, list[Reading]], unit: str, where: str = "") -> dict[str, str]:
    """Return what each client took, and what a full queue dropped. where: added to the names."""
    found = {}
    for name, readings in runs.items():
        lost = max(reading.other.get("lost", 0.0) for reading in readings)
        found[name + where] = told(readings, unit=unit) + (f", {lost:.1%} dropped" if lost else "")
    return found


@contextmanager
def sending(kind: str, *, topics: int = TOPICS, pem: Path | None = None) -> Iterator[int]:
    """Run the server with messages of a kind. pem: over TLS, with this key and certificate."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kind
        births = write(kind, path, topics)
        server = [compiled("mqtt_server.c")] if pem is None else [compiled("mqtt_tls_server.c", "-lssl", "-lcrypto")]
        with serving([*server, path, str(births), str(WINDOW), *([pem] if pem else [])]) as port:
            yield port


if __name__ == "__main__":
    for row in rows(frozenset(("Q1", "Q2", "Q3"))):
        print(row.entry())
