"""Raw segments for the evidence maker: what a gateway of `world.py` must have received, so that its windows come out.

Written anew, without a line of the gateway. pyarrow is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from protocols.evidence import column, raw
from verifier.conformance.world import Gateway

SAMPLES = 10
"""Counted samples of a producing point in a window, as `Gateway.window` has it; the last of them is always CONSTANT."""

CONSTANT = 7.0
BAD = 2
Row = dict[str, Any]


def rows(gateway: Gateway, seqs: Iterable[int]) -> Iterator[Row]:
    """Yield the rows of some windows of a gateway."""
    for seq in seqs:
        window = json.loads(gateway.entries[seq])
        start_s, start_ns = window["start_s"], window["start_s"] * raw.NS_PER_S
        devices, points = len(gateway.devices), len(gateway.points)
        bits = {name: column.unpack(window["columns"][name], devices if name == "connected" else points, where="",
                                    name=name) for name in column.NAMES}
        samples: list[Row] = []
        for point in range(points):
            values = [CONSTANT + (bits["changing"] >> point & 1) * (i % 2 == 0) for i in range(SAMPLES)]
            samples += [{"slot": point, "value": value, "quality": 0, "received_ns": start_ns + i}
                        for i, value in enumerate(values) if bits["producing"] >> point & 1]
            samples += [{"slot": point, "value": 0.0, "quality": BAD, "received_ns": start_ns + SAMPLES}
                        for _ in range(bits["sampled"] >> point & 1)]
        yield {"window_s": start_s, "kind": "window", "count": len(samples)}
        yield from ({"window_s": start_s, "kind": "sample", "source_ns": 0, **sample} for sample in samples)
        yield from ({"window_s": start_s, "kind": "answered", "slot": device, "received_ns": start_ns,
                     "until_ns": start_ns, "count": 1} for device in range(devices) if bits["connected"] >> device & 1)


def write(path: Path, content: Sequence[Mapping[str, Any]], *, schema: Mapping[str, str] = raw.COLUMNS,
          groups: int = 1) -> bytes:
    """Write rows as a segment, in so many row groups; return its bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = pa.schema([(name, getattr(pa, {"double": "float64"}.get(kind, kind))()) for name, kind in schema.items()])
    table = pa.Table.from_pylist([dict(row) for row in content], schema=types)
    with pq.ParquetWriter(path, types, compression="zstd") as writer:
        step = max(1, -(-table.num_rows // groups))
        for at in range(0, max(1, table.num_rows), step):
            writer.write_table(table.slice(at, step))
    return path.read_bytes()
