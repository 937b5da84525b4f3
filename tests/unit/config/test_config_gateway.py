"""Configurations that load: the example, defaults, ten thousand points; every key documented, the schema current."""

from __future__ import annotations

import json
import os
import re
import time
import types
import typing
from pathlib import Path

import jsonschema
import pytest
from pydantic import BaseModel

from config.gateway import GatewayFile, load_gateway
from config.loader import parse_toml
from protocols.modbus.target import ModbusEndpoint
from protocols.mqtt.target import MqttEndpoint
from protocols.opcua.target import OpcUaEndpoint

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "config" / "examples" / "gateway.toml"
DOCUMENT = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "docs" / "schemas" / "gateway-config.schema.json"

TOML = """[gateway]
site = "S"
uscc = "91320594MAEXAMPLEB"
ledger_date = 2026-11-01

[[connections]]
name = "line"
protocol = "modbus_tcp"
endpoint = "tcp://192.0.2.1:502"
poll_s = 2
"""
DEVICES = "id,name,maker,model,serial,asset,class,industry,uscc,region,thing,deployment,energy,parent,connection"
POINTS = "device,id,address,type,role,order,scale,offset"


def write(folder: Path, toml: str = TOML, devices: list[str] | None = None, points: list[str] | None = None,
          encoding: str = "utf-8") -> Path:
    (folder / "gateway.toml").write_text(toml, encoding="utf-8")
    (folder / "devices.csv").write_text("\n".join([DEVICES, *(devices or [])]) + "\n", encoding=encoding)
    (folder / "points.csv").write_text("\n".join([POINTS, *(points or [])]) + "\n", encoding=encoding)
    return folder / "gateway.toml"


def tables() -> dict[str, type[BaseModel]]:
    """Every model of the file, by its name."""
    found: dict[str, type[BaseModel]] = {}
    pending: list[object] = [GatewayFile]
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if kind.__name__ not in found:
                found[kind.__name__] = kind
                pending += [field.annotation for field in kind.model_fields.values()]
        elif not isinstance(kind, type) or isinstance(kind, types.GenericAlias):
            pending += typing.get_args(kind)
    return found


KEYS = sorted({(name, key) for name, model in tables().items() for key in model.model_fields})
assert len(tables()) >= 9 and len(KEYS) > 50, "the model was not walked"


def test_the_example_loads_and_uses_every_protocol() -> None:
    config = load_gateway(EXAMPLE)
    assert set(config.protocols.values()) == {"opc_ua", "modbus_tcp", "sparkplug_b", "mqtt"}
    assert {device.connection for device in config.devices} == set(config.protocols)
    assert len(config.points) == 9
    assert [type(e) for e in config.endpoints.values()] == [OpcUaEndpoint, ModbusEndpoint, MqttEndpoint, MqttEndpoint]


def test_the_example_shows_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    missing = [f"{table}.{key}" for table, key in KEYS if not re.search(rf"^[\[# ]*{key}\b", text, re.MULTILINE)]
    assert not missing


def test_the_commented_keys_of_the_example_are_right(tmp_path: Path) -> None:
    """Whoever takes the # away gets what the comment promises."""
    text = EXAMPLE.read_text(encoding="utf-8")
    text = re.sub(r"^# (?=\[?[a-z_]+(\]| = ))", "", text, flags=re.MULTILINE)
    assert "\nlen_s = 60" in text and "\n[influx]" in text
    (tmp_path / "gateway.toml").write_text(text, encoding="utf-8")
    for name in ("devices.csv", "points.csv"):
        (tmp_path / name).write_bytes((EXAMPLE.parent / name).read_bytes())
    (tmp_path / "templates.csv").write_text("template,id,address,type,role\n", encoding="utf-8")
    for name in ("platform-ca.pem", "influx.token", "line1.password", "broker-ca.pem", "broker.password"):
        (tmp_path / name).touch()
    with pytest.raises(Exception) as caught:  # plc-1 is the name of a device that the reader is to replace
        load_gateway(tmp_path / "gateway.toml")
    assert "plc-1" in str(caught.value)
    (tmp_path / "gateway.toml").write_text(text.replace('"plc-1"', '"cnc-01"'), encoding="utf-8")
    config = load_gateway(tmp_path / "gateway.toml")
    assert config.influx is not None and config.server_devices == {"line1": "cnc-01"}


@pytest.mark.parametrize(("table", "key"), KEYS, ids=lambda value: value)
def test_every_key_is_documented(table: str, key: str) -> None:
    assert re.search(rf"^\| `{re.escape(key)}` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE), \
        f"docs/configuration.md has no row for {table}.{key}"


def test_no_key_is_documented_that_does_not_exist() -> None:
    part = DOCUMENT.read_text(encoding="utf-8").split("## devices.csv")[0]
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", part, re.MULTILINE))
    assert documented == {key for _, key in KEYS}


def test_every_column_is_documented() -> None:
    from config import ledger

    text = DOCUMENT.read_text(encoding="utf-8")
    for column in (*ledger.DEVICE_COLUMNS, *ledger.DEVICE_COLUMNS_OPTIONAL, *ledger.POINT_COLUMNS,
                   *ledger.POINT_COLUMNS_OPTIONAL):
        assert f"| `{column}` |" in text, column


def test_the_published_schema_is_current() -> None:
    """Set TALLYSTICK_WRITE=1 to write it anew after a change of the configuration."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **GatewayFile.model_json_schema()}
    text = json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get("TALLYSTICK_WRITE") == "1":
        SCHEMA.write_text(text, encoding="utf-8")
    assert SCHEMA.read_text(encoding="utf-8") == text
    jsonschema.Draft202012Validator.check_schema(schema)


def test_the_schema_accepts_the_example_and_refuses_a_misspelt_key() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    raw, _ = parse_toml(EXAMPLE)
    assert raw is not None
    plain = json.loads(json.dumps(raw, default=str))
    assert validator.is_valid(plain)
    plain["gateway"]["sit"] = "x"
    assert not validator.is_valid(plain)


def test_an_integer_is_a_number(tmp_path: Path) -> None:
    endpoint = load_gateway(write(tmp_path)).endpoints["line"]
    assert isinstance(endpoint, ModbusEndpoint) and endpoint.poll_s == 2.0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_what_excel_writes_can_be_read(tmp_path: Path, encoding: str) -> None:
    file = write(tmp_path, devices=["d1,冲压机,,,,,,,,,equipment,,是,,line"], encoding=encoding)
    device = load_gateway(file).devices[0]
    assert (device.name, device.energy) == ("冲压机", True)


def test_the_ledger_digest_follows_every_byte(tmp_path: Path) -> None:
    first = load_gateway(write(tmp_path, devices=["d1,a,,,,,,,,,equipment,,,,line"])).ledger_sha256
    assert load_gateway(write(tmp_path, devices=["d1,b,,,,,,,,,equipment,,,,line"])).ledger_sha256 != first
    assert load_gateway(write(tmp_path, devices=["d1,a,,,,,,,,,equipment,,,,line"])).ledger_sha256 == first


def test_ten_thousand_points_load_in_time(tmp_path: Path) -> None:
    devices = [f"d{n},Press {n},Maker,M,S{n},,machine_tools,3422,91320594MAEXAMPLEB,320594,equipment,public,yes,,line"
               for n in range(250)]
    points = [f"d{n},p{k},{n % 247 + 1}/holding/{1000 * (n // 247) + 2 * k},float32,parameter,CDAB,0.1,"
              for n in range(250) for k in range(40)]
    began = time.monotonic()
    config = load_gateway(write(tmp_path, devices=devices, points=points))
    took_s = time.monotonic() - began
    assert (len(config.devices), len(config.points), config.len_s) == (250, 10_000, 60)
    assert took_s < 20, f"{took_s:.1f} s"  # a bound for a loaded machine; measured alone it is well below 1 s


@pytest.mark.parametrize(("points", "len_s"), [(25_000, 60), (25_001, 300)])
def test_many_points_make_the_windows_longer(tmp_path: Path, points: int, len_s: int) -> None:
    rows = [f"d,p{n},{n // 60_000 + 1}/holding/{n % 60_000},uint16,parameter,,," for n in range(points)]
    assert load_gateway(write(tmp_path, devices=["d,,,,,,,,,,equipment,,,,line"], points=rows)).len_s == len_s


def test_paths_start_at_the_configuration(tmp_path: Path) -> None:
    config = load_gateway(write(tmp_path, TOML.replace('site = "S"', 'site = "S"\nstate_dir = "/var/lib/x"')))
    assert config.state_dir == Path("/var/lib/x")
    assert config.devices_file == tmp_path / "devices.csv"
