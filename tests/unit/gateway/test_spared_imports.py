"""Contract: what a gateway has its libraries leave out until later, or for ever, they can do without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import influxdb_client

CODE = """
import sys
from gateway.commands import LATER, NEVER
from protocols import on_demand
on_demand.load_on_demand(LATER)
on_demand.leave_out(NEVER)
import gateway.exporters.influx, gateway.keeping.keeping, gateway.probing.driver, protocols.opcua.driver
import pyarrow.fs
assert len([name for name in sys.modules if name.startswith("influxdb_client")]) < 100
assert "reactivex" not in sys.modules and "asyncua.server.server" not in sys.modules
assert not hasattr(pyarrow.fs, "_s3fs") and "S3FileSystem" in pyarrow.fs._not_imported
import asyncua, influxdb_client
assert asyncua.Server.__module__ == "asyncua.server.server"
for name in sys.argv[1:]:
    package, _, offered = name.rpartition(".")
    getattr(sys.modules[package], offered)
print(influxdb_client.__version__, influxdb_client.InfluxDBClient.__module__)
"""


def test_libraries_load_what_is_asked_for() -> None:
    offered = [f"{package.__name__}.{name}" for package in (influxdb_client, influxdb_client.domain)
               for name, value in vars(package).items() if isinstance(value, type)]
    assert len(offered) > 300
    done = subprocess.run([sys.executable, "-c", CODE, *offered], capture_output=True, text=True, timeout=60,
                          cwd=Path(__file__).resolve().parents[3])
    assert done.stdout.split() == [influxdb_client.__version__, "influxdb_client.client.influxdb_client"], done.stderr
