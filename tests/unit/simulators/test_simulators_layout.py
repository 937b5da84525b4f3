"""Layouts: the numbers asked for, addresses that do not collide, identities that repeat only where they should."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from config.classification import load_classification
from protocols.terms import uscc
from protocols.terms.vocabulary import POINT_TYPES, ROLES
from simulators.catalogue import KINDS
from simulators.layout import (
    DEFAULT_SEED,
    EDGE_NODES,
    WIDTH,
    ModbusPlace,
    Numbers,
    draw_layout,
    draw_numbers,
)
from simulators.ledger import expected

SEEDS = range(16)


def test_the_default_plant_is_the_one_that_is_promised() -> None:
    layout = draw_layout(DEFAULT_SEED)
    assert Counter(d.protocol for d in layout.devices) == {
        "opc_ua": 14, "modbus_tcp": 14, "sparkplug_b": 8, "mqtt": 4}
    assert Counter(expected(layout).values()) == {
        "counted": 37, "no_valid_data": 1, "heartbeat_only": 1, "duplicate_identity": 1}
    (dead,) = [d for d in layout.devices if d.fate == "dead"]
    assert dead.protocol == "modbus_tcp"


def test_a_seed_is_a_plant() -> None:
    assert draw_layout(5) == draw_layout(5)
    assert len({draw_layout(seed).devices for seed in SEEDS}) == len(SEEDS)
    assert len({draw_numbers(seed) for seed in SEEDS}) > 12


@pytest.mark.parametrize("seed", SEEDS)
def test_every_plant_has_what_a_plant_must_have(seed: int) -> None:
    layout = draw_layout(seed)
    numbers = draw_numbers(seed)
    by_protocol = Counter(d.protocol for d in layout.devices)
    assert by_protocol["opc_ua"] == numbers.opc_ua >= 14
    assert by_protocol["modbus_tcp"] == numbers.modbus_tcp >= 14
    assert by_protocol["sparkplug_b"] == numbers.sparkplug_b >= 8
    assert by_protocol["mqtt"] == numbers.mqtt >= 4
    fates = Counter(d.fate for d in layout.devices)
    assert (fates["dead"], fates["heartbeat"]) == (numbers.dead, numbers.heartbeat_only)
    assert uscc.is_valid(layout.uscc)
    assert layout.uscc[2:8] == layout.region
    assert len({d.connection for d in layout.devices}) == 5
    assert {d.place.split("/")[0] for d in layout.of("edge")} == set(EDGE_NODES)


@pytest.mark.parametrize("seed", SEEDS)
def test_machines_reached_twice_are_the_only_repeated_identities(seed: int) -> None:
    layout = draw_layout(seed)
    assert len({d.id for d in layout.devices}) == len(layout.devices)
    by_serial: dict[str, list[str]] = {}
    for device in layout.devices:
        by_serial.setdefault(f"{device.maker.name}|{device.model}|{device.serial}".lower(), []).append(device.protocol)
    twice = [protocols for protocols in by_serial.values() if len(protocols) > 1]
    assert twice == [["opc_ua", "modbus_tcp"]] * draw_numbers(seed).reached_twice
    for column in ("asset", "product_instance_uri"):
        values = [value for value in (getattr(d, column) for d in layout.devices) if value]
        assert len(values) == len(set(values))


@pytest.mark.parametrize("seed", SEEDS)
def test_addresses_are_well_formed_and_do_not_collide(seed: int) -> None:
    layout = draw_layout(seed)
    forms = {"opc_ua": r"nsu=urn:[^;]+;s=[\w.-]+", "modbus_tcp": r"\d+/(coil|discrete|input|holding)/\d+(\.\d+)?",
             "sparkplug_b": r"[^/]+/[^/]+/[^/#]+#[\w/]+", "mqtt": r"[^#+]+#(/[^/]+)+"}
    for device in layout.devices:
        assert device.points
        assert len({p.id for p in device.points}) == len(device.points)
        for point in device.points:
            assert re.fullmatch(forms[device.protocol], point.address), point.address
            assert point.type in POINT_TYPES
            assert point.role in ROLES
    addresses = [(d.connection, p.address) for d in layout.devices for p in d.points]
    assert len(addresses) == len(set(addresses))


@pytest.mark.parametrize("seed", SEEDS)
def test_registers_of_a_unit_do_not_overlap(seed: int) -> None:
    for connection in ("utilities-a", "utilities-b"):
        units = [d.unit for d in draw_layout(seed).of(connection)]
        assert len(set(units)) == len(units) >= 7
    for device in draw_layout(seed).devices:
        taken: set[tuple[str, int, int | None]] = set()
        for place, width in ((p.place, WIDTH[p.type]) for p in device.points if isinstance(p.place, ModbusPlace)):
            cells = {(place.table, place.address + i, place.bit) for i in range(width)}
            if place.bit is None:
                cells |= {(place.table, place.address + i, bit) for i in range(width) for bit in range(16)}
            assert not cells & taken
            assert all(address <= 65535 for _, address, _ in cells)
            taken |= cells


def test_modbus_units_speak_all_word_orders_and_keep_switches_in_all_places() -> None:
    devices = [d for seed in range(4) for d in draw_layout(seed).devices if d.protocol == "modbus_tcp"]
    points = [p for d in devices for p in d.points]
    assert {p.order for p in points} == {"", "ABCD", "CDAB", "BADC", "DCBA"}
    places = [p.place for p in points if isinstance(p.place, ModbusPlace)]
    assert {place.table for place in places} == {"coil", "discrete", "input", "holding"}
    assert any(place.bit is not None for place in places)
    assert any(d.holes for d in devices)


def test_classes_of_the_catalogue_are_classes_of_the_programme() -> None:
    classes = load_classification("equipment_jx_b").classes
    assert all(classes[kind.class_key].level == 3 for kind in KINDS)


@pytest.mark.parametrize("numbers", [
    Numbers(opc_ua=0), Numbers(modbus_tcp=0), Numbers(opc_ua=1, modbus_tcp=1, sparkplug_b=0, mqtt=0),
    Numbers(opc_ua=399), Numbers(reached_twice=15)])
def test_numbers_that_no_plant_can_have_are_refused(numbers: Numbers) -> None:
    with pytest.raises(ValueError, match="no plant"):
        draw_layout(3, numbers)


def test_a_plant_of_one_protocol_can_be_asked_for() -> None:
    layout = draw_layout(3, Numbers(opc_ua=0, modbus_tcp=5, sparkplug_b=0, mqtt=0, dead=2, heartbeat_only=1,
                                    reached_twice=0))
    assert sorted(expected(layout).values()) == ["counted", "counted", "heartbeat_only", "no_valid_data",
                                                 "no_valid_data"]


def test_nothing_of_the_plant_is_read_from_outside_the_project() -> None:
    sources = Path(__file__).parents[3].joinpath("simulators").glob("*.py")
    assert not [path for path in sources if "shared" in path.read_text(encoding="utf-8")]
