"""The generated module is what the schema generates, and the schema has the field numbers of the public one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from simulators.mqtt_plant import DATATYPE
from simulators.sparkplug_pb2 import Payload

PROJECT = Path(__file__).parents[3]


def test_generated_module_is_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}",
                    "simulators/sparkplug.proto"], cwd=PROJECT, check=True, capture_output=True, timeout=60)

    def described(path: Path) -> str:  # the rest of the file names versions of the generator
        return next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("DESCRIPTOR = "))

    assert described(tmp_path / "simulators" / "sparkplug_pb2.py") == described(
        PROJECT / "simulators" / "sparkplug_pb2.py")


def test_a_payload_has_the_bytes_that_the_specification_asks_for() -> None:
    """By hand from the public schema: timestamp=1, metrics=2, seq=3; name=1, alias=2, timestamp=3, datatype=4."""
    payload = Payload()
    payload.timestamp = 5
    payload.seq = 7
    metric = payload.metrics.add()
    metric.name = "a"
    metric.alias = 3
    metric.timestamp = 4
    metric.datatype = DATATYPE["bool"]
    metric.boolean_value = True
    inner = b"\x0a\x01a" + b"\x10\x03" + b"\x18\x04" + b"\x20\x0b" + b"\x70\x01"
    assert payload.SerializeToString() == b"\x08\x05" + b"\x12" + bytes([len(inner)]) + inner + b"\x18\x07"


def test_value_fields_have_the_public_numbers() -> None:
    fields = {field.name: field.number for field in Payload.Metric.DESCRIPTOR.fields}
    assert fields == {"name": 1, "alias": 2, "timestamp": 3, "datatype": 4, "is_historical": 5, "is_transient": 6,
                      "is_null": 7, "int_value": 10, "long_value": 11, "float_value": 12, "double_value": 13,
                      "boolean_value": 14, "string_value": 15, "bytes_value": 16}
