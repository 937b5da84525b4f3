"""The exporter copies samples out and can neither slow nor stop counting."""

from __future__ import annotations

import http.server
import math
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write.point import Point
from influxdb_client.client.write_api import SYNCHRONOUS

from config.gateway import InfluxTable
from gateway.exporters.influx import InfluxExporter
from gateway.exporters.lines import Lines
from protocols.samples import SampleBatch

SERIES = [("press-1", "temperature"), ("press-1", "state")]


def batch(values: list[float], points: list[int] | None = None, texts: tuple[tuple[int, str], ...] = ()) -> SampleBatch:
    n = len(values)
    return SampleBatch(
        point_index=np.array(points or [0] * n, dtype=np.int64), received_ns=np.arange(1, n + 1, dtype=np.int64),
        source_ns=np.zeros(n, dtype=np.int64), value=np.array(values), quality=np.zeros(n, dtype=np.uint8), texts=texts)


def settings(port: int, **more: object) -> InfluxTable:
    return InfluxTable.model_validate({"url": f"http://127.0.0.1:{port}", "bucket": "b", "timeout_s": 0.5, **more})


def test_a_sample_becomes_one_line_and_text_is_quoted() -> None:
    lines = Lines(SERIES).of(batch([1.5, 7.0, float("nan")], points=[0, 1, 0], texts=((1, 'say "on"'),)))
    assert lines.decode() == (
        "tallystick,device=press-1,point=temperature quality=0i,value=1.5 1\n"
        'tallystick,device=press-1,point=state quality=0i,text="say \\"on\\"" 2\n'
        "tallystick,device=press-1,point=temperature quality=0i 3\n")


@given(st.lists(st.integers(10**18 - 3, 10**18 + 10**6) | st.integers(10**18, 2**63 - 1), min_size=1, max_size=20))
def test_times_are_written_to_the_last_digit(times: list[int]) -> None:
    one = batch([1.0] * len(times))
    found = Lines(SERIES).of(replace(one, received_ns=np.array(times, dtype=np.int64)))
    assert found.decode() == "".join(
        f"tallystick,device=press-1,point=temperature quality=0i,value=1 {time_ns}\n" for time_ns in times)


@given(st.lists(st.tuples(st.integers(-1, 3), st.floats(), st.integers(0, 255), st.integers(0, 2**62),
                          st.one_of(st.none(), st.text(max_size=5))), max_size=40))
def test_a_batch_is_what_its_samples_are_one_by_one(rows: list[tuple[int, float, int, int, str | None]]) -> None:
    """Against the library's own way of writing a sample: a Point each."""
    series = [("press 1", "a,b"), ("压机=1", "état"), ("x", "y")]
    texts = tuple((row, text) for row, (*_, text) in enumerate(rows) if text is not None)
    columns = SampleBatch(
        point_index=np.array([row[0] for row in rows], dtype=np.int64),
        received_ns=np.array([row[3] for row in rows], dtype=np.int64), source_ns=np.zeros(len(rows), dtype=np.int64),
        value=np.array([row[1] for row in rows], dtype=np.float64),
        quality=np.array([row[2] for row in rows], dtype=np.uint8), texts=texts)
    found = Lines(series).of(columns).decode().split("\n")
    assert found.pop() == ""
    named = [(row, *sample) for row, sample in enumerate(rows) if 0 <= sample[0] < len(series)]
    assert len(found) == len(named)
    for line, (_, point, value, quality, time_ns, text) in zip(found, named, strict=True):
        stock = Point("tallystick").tag("device", series[point][0]).tag("point", series[point][1])
        stock = stock.field("quality", quality).time(time_ns)
        if text is not None:
            stock = stock.field("text", text.replace("\n", " "))
        if text is None and math.isfinite(value):
            before, _, rest = line.partition(",value=")
            number, _, after = rest.partition(" ")
            assert float(number) == value
            line = f"{before} {after}"
        assert line == stock.to_line_protocol()


@pytest.fixture
def hanging_port() -> Iterator[int]:
    """A server that takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_server_that_hangs_costs_the_queue_and_nothing_else(hanging_port: int) -> None:
    exporter = InfluxExporter(settings(hanging_port, queue_samples=1000), "", lambda: SERIES)
    exporter.start()
    started = time.monotonic()
    for _ in range(5_000):
        exporter.put(batch([1.0, 2.0]))
    assert time.monotonic() - started < 60, "put waited for the server"
    # All but the queue and the one batch that is under way was dropped, and was counted.
    assert exporter.dropped >= 10_000 - 1000 - 5_000
    exporter.close(timeout_s=0.1)
    assert exporter.written == 0


def test_a_request_is_the_one_that_the_library_makes() -> None:
    """Contract: the library's own WriteApi, of which nothing but its request is used here, sends the same."""
    seen: list[tuple[str, str, dict[str, str], bytes]] = []

    class Taking(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.command, self.path, dict(self.headers), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        for token, org in (("secret", "plant & co"), ("", "")):
            seen.clear()
            table = InfluxTable.model_validate({"url": url, "bucket": "b/c", "org": org})
            exporter = InfluxExporter(table, token, lambda: SERIES)
            exporter.put(batch([1.5, 2.5]))
            exporter.start()
            exporter.close(60.0)
            with InfluxDBClient(url=url, token=token, org=org) as client:
                writer = client.write_api(write_options=SYNCHRONOUS)
                writer.write(bucket="b/c", record=Lines(SERIES).of(batch([1.5, 2.5])))
            assert seen[0] == seen[1] and exporter.written == 2
            assert seen[0][2].get("Authorization") == ("Token secret" if token else None)
        server.shutdown()


def test_every_sample_is_written_or_counted_as_dropped() -> None:
    bodies: list[bytes] = []

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(body)
            self.send_response(204 if len(bodies) != 2 else 400)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        at = settings(server.server_address[1], batch_samples=10, timeout_s=60)  # none is asked for twice
        exporter = InfluxExporter(at, "t", lambda: SERIES)
        exporter.start()
        for _ in range(10):
            exporter.put(batch([1.0] * 10))
        deadline = time.monotonic() + 60
        while exporter.written + exporter.dropped < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        exporter.close()
    finally:
        server.shutdown()
        server.server_close()
    # The second request was refused once and its retry went through.
    assert exporter.written == 100
    assert exporter.dropped == 0
    assert len(bodies) == 11


def test_an_error_without_a_word_ends_no_export() -> None:
    exporter = InfluxExporter(settings(1), "", lambda: SERIES)
    exporter.close()

    def write(**_: object) -> None:
        raise TimeoutError

    exporter._write(write, [batch([1.0, 2.0])])
    assert exporter.dropped == 2


def test_what_finds_no_room_is_told(hanging_port: int, caplog: pytest.LogCaptureFixture) -> None:
    # What is under way when it is closed is dropped as soon as the server's time is up: not while the test looks.
    exporter = InfluxExporter(settings(hanging_port, queue_samples=1000, timeout_s=60), "", lambda: SERIES)
    for _ in range(501):
        exporter.put(batch([1.0, 2.0]))
    exporter.start()
    end_s = time.monotonic() + 60
    while not any("2 samples not written" in line for line in caplog.messages):
        assert time.monotonic() < end_s, caplog.messages
        time.sleep(0.01)
    exporter.close(timeout_s=0.1)
    assert exporter.dropped == 2
