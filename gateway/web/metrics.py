"""Prometheus text (version 0.0.4) of what `status` says, for a monitoring system. No process value, no device name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.web.connections import connection_rows
from gateway.web.facts import Facts
from gateway.web.index import Index

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[Mapping[str, str], float]


def metrics(facts: Facts, index: Index, *, is_ready: bool) -> str:
    """Return the exposition."""
    lines: list[str] = []

    def family(name: str, help_text: str, samples: Iterable[Sample], kind: str = "gauge") -> None:
        lines.append(f"# HELP tallystick_{name} {help_text}")
        lines.append(f"# TYPE tallystick_{name} {kind}")
        for labels, value in samples:
            shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            lines.append(f"tallystick_{name}{f'{{{shown}}}' if shown else ''} {value:.17g}")

    family("info", "Version and digest of the software.",
           [({"gateway": facts.gateway, "version": facts.version, "sha256": facts.software_sha256}, 1)])
    family("ready", "1 while windows are sealed.", [({}, int(is_ready))])
    family("start_time_seconds", "When this process began.", [({}, facts.begun_s)])
    rows = connection_rows(facts, index)
    family("connection_devices", "Devices configured behind a connection.",
           [({"connection": row.name, "protocol": row.protocol}, row.devices) for row in rows])
    family("connection_answering", "Devices that answer now.",
           [({"connection": row.name, "protocol": row.protocol}, row.answering) for row in rows])
    family("server_clock_offset_seconds", "Clock of the server minus ours.",
           [({"connection": row.name}, row.offset_s) for row in rows if row.offset_s is not None])
    figures = facts.figures
    if figures is not None:
        family("devices", "Devices by stage, of the last 24 hours.",
               [({"stage": stage}, count) for stage, count in figures.devices.items()])
        family("points", "Points by stage, of the last 24 hours.",
               [({"stage": stage}, count) for stage, count in figures.points.items()])
        family("devices_counted", "Devices that count under the default basis.", [({}, figures.counted)])
        family("devices_not_counted", "Devices that do not, by reason.",
               [({"reason": reason}, count) for reason, count in figures.not_counted.items()])
        family("figures_time_seconds", "End of the window that the figures are of.", [({}, figures.at_s)])
    if facts.status is not None:
        window, log = facts.status["window"], facts.status["log"]
        family("window_samples", "Samples of the last window.", [
            ({"result": "counted"}, window["counted"]),
            *(({"result": reason}, count) for reason, count in window["discarded"].items())])
        family("clock_offset_seconds", "Wall clock minus window time.", [({}, window["offset_ms"] / 1000)])
        family("log_entries", "Entries of the log.", [({}, log["size"])])
        family("log_submitted_entries", "Entries that the platform has.",
               [] if log["submitted"] is None else [({}, log["submitted"])])
        family("log_proven_entries", "Entries that a co-signed head covers.",
               [] if log["proven"] is None else [({}, log["proven"])])
        disk = facts.status["disk"]
        family("disk_bytes", "What the state folder takes, by kind.",
               [({"kind": kind}, size) for kind, size in disk["use"].items()])
        family("disk_budget_bytes", "What it may take.", [({}, disk["budget"])])
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
