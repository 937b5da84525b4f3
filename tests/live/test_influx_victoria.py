"""Rows written to a real server are counted by reading back: it answers success to lines that it drops."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from config.gateway import InfluxTable
from gateway.exporters.influx import InfluxExporter
from protocols.samples import SampleBatch
from tests.support.programs import need

pytestmark = pytest.mark.live

POINTS, ROUNDS = 50, 40


def export(port: int) -> list[dict[str, object]]:
    """Return every series the server holds, with all its values."""
    url = f"http://127.0.0.1:{port}/api/v1/export?match[]=%7B__name__=~%22tallystick.*%22%7D"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return [json.loads(line) for line in answer.read().splitlines()]


def test_every_row_written_is_there_when_read_back(tmp_path: Path) -> None:
    need("victoria-metrics")
    held = socket.socket()  # bound, but it does not listen: nobody else is given this port, and the server may take it
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port = held.getsockname()[1]
    server = subprocess.Popen(
        ["victoria-metrics", f"-storageDataPath={tmp_path}", f"-httpListenAddr=127.0.0.1:{port}",
         "-retentionPeriod=100y"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "victoria-metrics did not start"
                time.sleep(0.05)
        series = [(f"dev-{i // 10}", f"p{i}") for i in range(POINTS)]
        exporter = InfluxExporter(
            InfluxTable(url=f"http://127.0.0.1:{port}", bucket="b", batch_samples=300, timeout_s=60), "",
            lambda: series)
        exporter.start()
        now_ns = time.time_ns() - 60 * 10**9
        for index in range(ROUNDS):
            exporter.put(SampleBatch(
                point_index=np.arange(POINTS, dtype=np.int64),
                received_ns=np.full(POINTS, now_ns + index * 10**9, dtype=np.int64),
                source_ns=np.zeros(POINTS, dtype=np.int64), value=np.arange(POINTS) + float(index),
                quality=np.zeros(POINTS, dtype=np.uint8)))
        exporter.close(timeout_s=60)
        assert (exporter.written, exporter.dropped) == (POINTS * ROUNDS, 0)
        deadline = time.monotonic() + 60
        while True:  # written rows become readable a moment later
            values = [row for row in export(port) if row["metric"]["__name__"] == "tallystick_value"]  # type: ignore[index]
            if sum(len(row["values"]) for row in values) == POINTS * ROUNDS:  # type: ignore[arg-type]
                break
            assert time.monotonic() < deadline, "rows that were answered with success are not there"
            time.sleep(0.2)
        assert len(values) == POINTS
    finally:
        held.close()
        server.terminate()
        server.wait(timeout=60)
