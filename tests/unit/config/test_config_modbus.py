"""What a gateway's configuration may say about Modbus beyond the plain connection."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config.gateway import GatewayConfig, load_gateway
from protocols.errors import ConfigError
from protocols.modbus.target import ModbusEndpoint
from tests.unit.config.test_config_gateway import DEVICES, POINTS

HEAD = '[gateway]\nsite = "S"\nuscc = "91320594MAEXAMPLEB"\nledger_date = 2026-11-01\n'
LINE = '[[connections]]\nname = "{name}"\nprotocol = "{protocol}"\nendpoint = "{endpoint}"\n'
DEVICE = "d,D,M,X,1,,,,,,equipment,,,,line"


def load(folder: Path, *tables: str, points: tuple[str, ...] = (), columns: str = POINTS) -> GatewayConfig:
    (folder / "gateway.toml").write_text(HEAD + "".join(tables), encoding="utf-8")
    (folder / "devices.csv").write_text(f"{DEVICES}\n{DEVICE}\n", encoding="utf-8")
    (folder / "points.csv").write_text("\n".join([columns, *points]) + "\n", encoding="utf-8")
    return load_gateway(folder / "gateway.toml")


def line(name: str = "line", protocol: str = "modbus_tcp", endpoint: str = "tcp://192.0.2.1:502") -> str:
    return LINE.format(name=name, protocol=protocol, endpoint=endpoint)


def codes(caught: pytest.ExceptionInfo[ConfigError]) -> list[tuple[str, str]]:
    return sorted((p.code, re.sub(r"toml, line [0-9]+,", "toml,", p.where)) for p in caught.value.problems)


def test_units_differ_where_the_file_says_so(tmp_path: Path) -> None:
    config = load(tmp_path, line(), "interval_ms = 20\n", "[[connections.units]]\nids = [3, 4]\nmax_registers = 32\n",
                  "poll_s = 5.0\n[[connections.units]]\nids = [7]\ninterval_ms = 500\ntimeout_s = 3\npause_ms = 50\n")
    at = config.endpoints["line"]
    assert isinstance(at, ModbusEndpoint)
    found = {unit: (at.of(unit).max_registers, at.of(unit).poll_s, at.of(unit).interval_ms, at.of(unit).timeout_s,
                    at.of(unit).pause_ms) for unit in (1, 3, 4, 7)}
    assert found == {1: (125, 1.0, 20, 1.0, 0), 3: (32, 5.0, 20, 1.0, 0), 4: (32, 5.0, 20, 1.0, 0),
                     7: (125, 1.0, 500, 3.0, 50)}


def test_all_that_is_wrong_with_units_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, line(), "[[connections.units]]\nids = [3, 256]\nmax_registers = 126\n",
             "[[connections.units]]\nids = [3]\npoll_s = 0\n")
    at = "gateway.toml, connections[0].units"
    assert codes(caught) == [("modbus.bad_unit", f"{at}[0].ids"), ("modbus.double_unit", f"{at}[1].ids"),
                             ("modbus.out_of_range", f"{at}[0]"), ("modbus.out_of_range", f"{at}[1]")]


@pytest.mark.parametrize("endpoints", [
    ("tcp://192.0.2.1:502", "tcp://192.0.2.1"), ("tcp://PLC:502", "tcp://plc:502")], ids=["port", "case"])
def test_one_connection_for_one_endpoint(tmp_path: Path, endpoints: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, line(endpoint=endpoints[0]), line("other", endpoint=endpoints[1]))
    assert codes(caught) == [("modbus.double_endpoint", "gateway.toml, connections[1].endpoint")]
    assert load(tmp_path, line(endpoint=endpoints[0]), line("other", endpoint="tcp://192.0.2.1:503"))


def test_tls_needs_its_files_and_nobody_else_may_name_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, line(protocol="modbus_tls", endpoint="tls://192.0.2.1"), 'ca_file = "ca.pem"\n',
             line("other"), 'key_file = "gateway.toml"\nserver_name = "x"\n')
    at = "gateway.toml, connections"
    assert codes(caught) == [
        ("config.named_file", f"{at}[0].ca_file"), ("modbus.tls_file_missing", f"{at}[0].certificate_file"),
        ("modbus.tls_file_missing", f"{at}[0].key_file"), ("modbus.tls_only", f"{at}[1].key_file"),
        ("modbus.tls_only", f"{at}[1].server_name")]


@pytest.mark.parametrize(("protocol", "endpoint"), [
    ("modbus_tls", "tcp://192.0.2.1:802"), ("modbus_tcp", "tls://192.0.2.1:802")])
def test_the_scheme_says_whether_it_is_tls(tmp_path: Path, protocol: str, endpoint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, line(protocol=protocol, endpoint=endpoint))
    assert "modbus.bad_endpoint" in {p.code for p in caught.value.problems}


def test_labels_reach_the_point(tmp_path: Path) -> None:
    columns = POINTS + ",labels"
    config = load(tmp_path, line(), columns=columns, points=(
        "d,state,1/holding/0,uint16,switch,,,,0=停止; 1=运行;-2=fault;", "d,on,1/coil/0,,switch,,,,0=off;1=on",
        "d,rpm,1/holding/1,uint16,parameter,,,,"))
    assert [point.labels for point in config.points] == [
        ((0, "停止"), (1, "运行"), (-2, "fault")), ((0, "off"), (1, "on")), ()]


@pytest.mark.parametrize(("cell", "code"), [
    ("0", "modbus.bad_labels"), ("x=on", "modbus.bad_labels"), ("1=", "modbus.bad_labels"),
    ("1=a;1=b", "modbus.bad_labels"), ("1.5=a", "modbus.bad_labels")])
def test_bad_labels(tmp_path: Path, cell: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, line(), columns=POINTS + ",labels", points=(f"d,a,1/holding/0,uint16,switch,,,,{cell}",))
    assert codes(caught) == [(code, "points.csv, line 2 (d/a), labels")]


@pytest.mark.parametrize("row", ["float32,parameter,,,", "uint16,parameter,,0.1,", "uint16,parameter,,,2"])
def test_labels_are_for_plain_integers(tmp_path: Path, row: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, line(), columns=POINTS + ",labels", points=(f"d,a,1/holding/0,{row},0=off",))
    assert codes(caught) == [("modbus.labels_unwanted", "points.csv, line 2 (d/a)")]
