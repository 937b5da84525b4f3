"""Row I1: columns of samples to line protocol to a server, beside the Point objects of influxdb-client.

The server takes everything and answers 204, in C. Both write 5000 samples a request through the same client.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.harness import HERE, PYTHON, Row, compiled, ratio, serving, side_by_side, told, versions

CLIENT = HERE / "influx_client.py"


def rows(wanted: Collection[str]) -> Iterator[Row]:
    """Measure."""
    with serving([compiled("http_sink.c")]) as port:
        runs = side_by_side({"ours": [PYTHON, CLIENT, "ours", str(port), "1000000"],
                             "points": [PYTHON, CLIENT, "points", str(port), "20000"]})
    yield Row(id="I1", versions=versions("influxdb-client", "pyarrow", "numpy"),
              measures=(ratio(runs["points"], runs["ours"], target=40, peer="influxdb-client, Point objects"),),
              notes={name: told(readings, unit="us a sample") for name, readings in runs.items()})


if __name__ == "__main__":
    for row in rows(("I1",)):
        print(row)
