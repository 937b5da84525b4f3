"""docs/modbus.md: its examples load, its codes exist, and what it lists is all there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from config.gateway import load_gateway
from protocols.modbus import frames
from protocols.modbus.target import PROTOCOL_SCHEMES, REGISTERS_OF, TEXT_TYPES, ModbusAddress, ModbusEndpoint
from simulators.modbus_faults import Kind
from simulators.settings import load_plant
from tests.unit.config.test_config_gateway import DEVICES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "modbus.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(toml|csv)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def blocks(kind: str, part: str) -> list[str]:
    return [text for language, text in BLOCKS if language == kind and part in text]


def test_the_examples_are_one_configuration_that_loads(tmp_path: Path) -> None:
    examples = blocks("toml", "[[connections]]")
    assert len(examples) == 4
    head = '[gateway]\nsite = "S"\nuscc = "91320594MAEXAMPLEB"\nledger_date = 2026-11-01\n'
    (tmp_path / "gateway.toml").write_text(head + "\n".join(examples), encoding="utf-8")
    (tmp_path / "devices.csv").write_text(
        f"{DEVICES}\ndrive-1,,,,,,,,,,equipment,,,,drives\nmeter,,,,,,,,,,equipment,,,,meters\n", encoding="utf-8")
    [points] = blocks("csv", "device,id")
    (tmp_path / "points.csv").write_text(points, encoding="utf-8")
    for name in ("modbus-ca.pem", "gateway.pem", "gateway-key.pem"):
        (tmp_path / name).touch()
    config = load_gateway(tmp_path / "gateway.toml")
    assert set(config.protocols.values()) == set(PROTOCOL_SCHEMES)
    drives = config.endpoints["drives"]
    assert isinstance(drives, ModbusEndpoint)
    assert (drives.of(3).max_registers, drives.of(3).interval_ms, drives.of(4).max_registers) == (16, 200, 125)
    assert [p.address.canonical for p in config.points if isinstance(p.address, ModbusAddress)] == [
        "1/holding/100/float32", "1/holding/110/uint16", "1/holding/111/bool/3", "1/input/7/int16",
        "1/holding/200/string", "2/input/0/uint32", "2/discrete/12/bool"]
    plc = config.endpoints["press-plc"]
    assert isinstance(plc, ModbusEndpoint) and plc.of(1).in_flight == 8
    assert config.points[1].labels == ((0, "stopped"), (1, "running"), (2, "fault"))


def test_the_fault_of_the_example_loads_and_all_kinds_are_named(tmp_path: Path) -> None:
    [example] = blocks("toml", "[[faults]]")
    (tmp_path / "plant.toml").write_text(example, encoding="utf-8")
    assert [fault.kind for fault in load_plant(tmp_path / "plant.toml").faults] == ["late"]
    assert set(get_args(Kind)) == set(re.findall(r"\w+", re.sub(r".*kind = |delay.*", "", example, flags=re.DOTALL)
                                                 .split("\n")[0].replace("#", "")))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_code_that_it_names_has_a_sentence(language: str) -> None:
    words = tomllib.loads((ROOT / "tallystick" / "words" / language / "modbus.toml").read_text(encoding="utf-8"))
    named = set(re.findall(r"`(modbus\.[a-z_]+)`", PAGE))
    assert len(named) >= 12
    assert named <= set(words)


def test_it_lists_every_type_and_every_function() -> None:
    table = PAGE.split("## Configuration")[0]
    spelt = {"int16", "int32", "uint8", "uint16", "uint32", "int64"}  # between int8 and uint64
    assert {name for name in (*REGISTERS_OF, *TEXT_TYPES) if f"`{name}`" not in table} == spelt
    assert {1, 2, 3, 4, 17, 43} == frames.READ_FUNCTIONS
    assert all(f"`{protocol}`" in table for protocol in PROTOCOL_SCHEMES)
