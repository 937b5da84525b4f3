from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import ConfigError
from protocols.modbus.target import (
    REGISTERS_OF,
    ModbusAddress,
    ModbusEndpoint,
    ModbusPoint,
    UnitSettings,
    parse_address,
)


@pytest.mark.parametrize(("text", "type_", "canonical", "base"), [
    ("1/holding/100", "float32", "1/holding/100/float32", "1/holding/100"),
    ("17/input/0", "uint16", "17/input/0/uint16", "17/input/0"),
    ("255/holding/65535.15", "bool", "255/holding/65535/bool/15", "255/holding/65535"),
    ("0/holding/7.0", "", "0/holding/7/bool/0", "0/holding/7"),
    ("3/coil/65535", "", "3/coil/65535/bool", "3/coil/65535"),
    ("3/discrete/9", "bool", "3/discrete/9/bool", "3/discrete/9"),
    ("1/holding/0100", "int64", "1/holding/100/int64", "1/holding/100"),
    ("1/holding/100:8", "string", "1/holding/100/string", "1/holding/100"),
    ("1/holding/65532", "float64", "1/holding/65532/float64", "1/holding/65532"),
])
def test_an_address_has_one_canonical_text(text: str, type_: str, canonical: str, base: str) -> None:
    address = parse_address(text, type_)
    assert (address.canonical, address.base) == (canonical, base)


@pytest.mark.parametrize(("text", "type_", "codes"), [
    ("40001", "uint16", {"modbus.traditional_address"}),
    ("400001", "uint16", {"modbus.traditional_address"}),
    ("", "uint16", {"modbus.bad_address"}),
    ("1/holding/-1", "uint16", {"modbus.bad_address"}),
    ("1/holding/1 ", "uint16", {"modbus.bad_address"}),
    ("1/holding/\u0661", "uint16", {"modbus.bad_address"}),  # a digit, but not ours
    ("1/Holding/1", "uint16", {"modbus.bad_address"}),
    ("1/holding/1.2:3", "string", {"modbus.bad_address"}),
    ("1/register/1", "uint16", {"modbus.bad_table"}),
    ("256/holding/1", "uint16", {"modbus.bad_unit"}),
    ("1/holding/1", "", {"modbus.type_missing"}),
    ("1/holding/1", "datetime", {"modbus.bad_type"}),
    ("1/holding/65536", "uint16", {"modbus.address_too_high"}),
    ("1/holding/65535", "float32", {"modbus.address_too_high"}),
    ("1/holding/65533", "float64", {"modbus.address_too_high"}),
    ("1/coil/65536", "bool", {"modbus.address_too_high"}),
    ("1/coil/1", "uint16", {"modbus.bits_are_bool"}),
    ("1/coil/1.2", "bool", {"modbus.bit_of_bit"}),
    ("1/holding/1.16", "bool", {"modbus.bad_bit"}),
    ("1/holding/1.1", "uint16", {"modbus.bit_is_bool"}),
    ("1/holding/1", "string", {"modbus.length_missing"}),
    ("1/holding/1:0", "string", {"modbus.bad_length"}),
    ("1/holding/1:126", "bytes", {"modbus.bad_length"}),
    ("1/holding/1:2", "uint32", {"modbus.length_unwanted"}),
    ("1/holding/65530:8", "string", {"modbus.address_too_high"}),
    ("300/holding/65535.17", "float32",
     {"modbus.bad_unit", "modbus.bit_is_bool", "modbus.bad_bit", "modbus.address_too_high"}),
])
def test_a_bad_address_names_all_its_problems_and_its_place(text: str, type_: str, codes: set[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text, type_, where="points.csv:7")
    assert {p.code for p in caught.value.problems} == codes
    assert {p.where for p in caught.value.problems} == {"points.csv:7"}


@given(st.text(max_size=40), st.sampled_from(["", "uint16", "string", "bool", "nonsense"]))
def test_any_text_is_an_address_or_a_config_error(text: str, type_: str) -> None:
    try:
        address = parse_address(text, type_)
    except ConfigError:
        return
    assert address.end <= 65536


@given(st.integers(0, 255), st.sampled_from(["holding", "input"]), st.integers(0, 65535),
       st.sampled_from(sorted(REGISTERS_OF)))
def test_a_value_is_accepted_exactly_when_its_registers_exist(
    unit: int, table: str, address: int, type_: str
) -> None:
    if address + REGISTERS_OF[type_] <= 65536:
        assert parse_address(f"{unit}/{table}/{address}", type_).canonical == f"{unit}/{table}/{address}/{type_}"
    else:
        with pytest.raises(ConfigError):
            parse_address(f"{unit}/{table}/{address}", type_)


def test_sixteen_bits_of_one_register_have_one_base_and_sixteen_addresses() -> None:
    bits = [parse_address(f"1/holding/5.{bit}") for bit in range(16)]
    assert len({b.base for b in bits}) == 1
    assert len({b.canonical for b in bits}) == 16


@pytest.mark.parametrize(("protocol", "endpoint", "host", "port"), [
    ("modbus_tcp", "tcp://10.0.0.7:1502", "10.0.0.7", 1502),
    ("modbus_tcp", "tcp://press.plant.local", "press.plant.local", 502),
    ("modbus_rtu_over_tcp", "tcp://[::1]:9000/", "::1", 9000),
    ("modbus_rtu", "serial:///dev/ttyUSB0", "/dev/ttyUSB0", 0),
    ("modbus_rtu", "serial:///COM3", "COM3", 0),
])
def test_endpoints(protocol: str, endpoint: str, host: str, port: int) -> None:
    found = ModbusEndpoint(name="line", protocol=protocol, endpoint=endpoint)
    assert (found.host, found.port, found.is_rtu) == (host, port, protocol != "modbus_tcp")


@pytest.mark.parametrize(("protocol", "endpoint"), [
    ("modbus_tcp", "10.0.0.7:502"), ("modbus_tcp", "http://10.0.0.7"), ("modbus_tcp", "tcp://10.0.0.7:70000"),
    ("modbus_tcp", "tcp://10.0.0.7:0"), ("modbus_tcp", "tcp://"), ("modbus_tcp", "tcp://h:502/unit1"),
    ("modbus_tcp", "tcp://user@h:502"), ("modbus_tcp", "serial:///dev/ttyS0"), ("modbus_tcp", "tcp://[::1"),
    ("modbus_rtu", "tcp://h:502"), ("modbus_rtu", "serial:///"), ("modbus_rtu", "serial://dev/ttyS0"),
])
def test_bad_endpoints(protocol: str, endpoint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModbusEndpoint(name="line", protocol=protocol, endpoint=endpoint)
    assert [p.code for p in caught.value.problems] == ["modbus.bad_endpoint"]


def test_a_bad_connection_names_all_its_problems() -> None:
    with pytest.raises(ConfigError) as caught:
        ModbusEndpoint(name="line", protocol="modbus_ascii", endpoint="?", poll_s=0, timeout_s=float("nan"),
                       max_registers=126, max_bits=2001, max_gap=-1, pause_ms=-5, parity="X", where="gateway.toml")
    problems = caught.value.problems
    assert {dict(p.args).get("key") for p in problems if p.code == "modbus.out_of_range"} == {
        "poll_s", "timeout_s", "max_registers", "max_bits", "max_gap", "pause_ms"}
    assert {p.code for p in problems} == {"modbus.bad_protocol", "modbus.out_of_range", "modbus.bad_parity"}
    assert {p.where for p in problems} == {"gateway.toml"}


@pytest.mark.parametrize("more", [
    {"protocol": "modbus_rtu_over_tcp"}, {"pause_ms": 5}, {"interval_ms": 5},
    {"in_flight": 1, "units": (UnitSettings(ids=(3,), in_flight=2, pause_ms=1),)}], ids=str)
def test_several_requests_in_flight_go_with_neither_pauses_nor_rtu(more: dict[str, object]) -> None:
    settings: dict[str, object] = {"protocol": "modbus_tcp", "in_flight": 8}
    with pytest.raises(ConfigError) as caught:
        ModbusEndpoint(name="line", endpoint="tcp://h", **settings | more)  # type: ignore[arg-type] # by name
    assert [p.code for p in caught.value.problems] == ["modbus.in_flight_alone"]


@pytest.mark.parametrize(("type_", "more", "code"), [
    ("uint16", {"order": "abcd"}, "modbus.bad_order"),
    ("uint16", {"scale": 0.0}, "modbus.bad_scale"),
    ("uint16", {"scale": float("inf")}, "modbus.bad_scale"),
    ("uint16", {"offset": float("nan")}, "modbus.bad_scale"),
    ("bool", {"scale": 2.0}, "modbus.scale_unwanted"),
])
def test_bad_points(type_: str, more: dict[str, object], code: str) -> None:
    address = ModbusAddress(unit=1, table="holding", address=0, type=type_)
    with pytest.raises(ConfigError) as caught:
        ModbusPoint(point_index=0, device_index=0, address=address, **more)  # type: ignore[arg-type] # wrong on purpose
    assert [p.code for p in caught.value.problems] == [code]


def test_addresses_need_neither_numpy_nor_a_device_library() -> None:
    script = ("import sys\n"
              "for name in ('numpy', 'pymodbus'): sys.modules[name] = None\n"
              "from protocols.modbus.target import parse_address\n"
              "print(parse_address('1/coil/2').canonical)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.strip() == "1/coil/2/bool"
