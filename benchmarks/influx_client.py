"""Processes under test of row I1: `influx_client.py ours|points|text PORT SAMPLES`: columns to lines to a server."""

from __future__ import annotations

import sys

import numpy as np
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write.point import Point
from influxdb_client.client.write_api import SYNCHRONOUS

from benchmarks.harness import Began, tell
from gateway.exporters.lines import Lines
from protocols.samples import SampleBatch

POINTS, BATCH = 10_000, 5_000
SERIES = [(f"device-{slot // 10}", f"point-{slot}") for slot in range(POINTS)]


def batch(number: int) -> SampleBatch:
    """Return 5000 samples of neighbouring points; values as sensors give them."""
    rng = np.random.default_rng(number)
    return SampleBatch(
        point_index=(np.arange(BATCH, dtype=np.int64) + number * BATCH) % POINTS,
        received_ns=1_800_000_000 * 10**9 + np.arange(BATCH, dtype=np.int64) * 1000 + number * 10**9,
        source_ns=np.zeros(BATCH, dtype=np.int64), value=rng.normal(20, 5, BATCH).round(2),
        quality=np.zeros(BATCH, dtype=np.uint8))


def as_points(one: SampleBatch) -> list[Point]:
    """Return the samples as the library has them made: an object each."""
    made = []
    for slot, time_ns, value, quality in zip(one.point_index.tolist(), one.received_ns.tolist(), one.value.tolist(),
                                             one.quality.tolist(), strict=True):
        device, name = SERIES[slot]
        made.append(Point("tallystick").tag("device", device).tag("point", name).field("value", value)
                    .field("quality", quality).time(time_ns))
    return made


def main() -> None:
    path, port, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    batches = [batch(number) for number in range(samples // BATCH)]
    lines = Lines(SERIES)
    with InfluxDBClient(url=f"http://127.0.0.1:{port}", token="", org="o") as client:
        write = client.write_api(write_options=SYNCHRONOUS).write
        write(bucket="b", record=lines.of(batches[0]))
        began = Began.now()
        for one in batches:
            write(bucket="b", record=lines.of(one) if path == "ours" else as_points(one))
        tell(len(batches) * BATCH, began)


if __name__ == "__main__":
    main()
