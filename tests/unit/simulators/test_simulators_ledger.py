"""The ledger parses, and the true counts agree with a count made another way."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from collections import Counter
from dataclasses import replace

import pytest

from simulators import ledger
from simulators.layout import DEFAULT_SEED, Layout, draw_layout, draw_numbers
from simulators.ledger import Endpoints

SEEDS = (1, 2, 3, 11, 29)
ENDPOINTS = Endpoints(
    opc_ua="opc.tcp://127.0.0.1:4840/machines", opc_ua_certificate="server.der", trust_dir="trust",
    modbus={"utilities-a": "tcp://127.0.0.1:5020", "utilities-b": "tcp://127.0.0.1:5021"},
    mqtt="mqtt://127.0.0.1:1883", broker="embedded",
    brokers={"edge": "mqtt://127.0.0.1:1884", "sensors": "mqtt://127.0.0.1:1885"})


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), strict=True))


def test_columns_are_the_agreed_ones() -> None:
    layout = draw_layout(DEFAULT_SEED)
    devices, points = ledger.devices_csv(layout), ledger.points_csv(layout)
    assert devices.splitlines()[0] == (
        "id,name,maker,model,serial,asset,class,industry,uscc,region,thing,deployment,energy,parent,connection,"
        "product_instance_uri,vaa,handle,mac")
    assert points.splitlines()[0] == "device,id,address,type,role,order,scale,offset"
    assert all(None not in row and None not in row.values() for row in rows(devices) + rows(points))


@pytest.mark.parametrize("seed", SEEDS)
def test_true_counts_agree_with_a_count_over_the_csv(seed: int) -> None:
    """Counts again from the text of the ledger, knowing only which devices are dead."""
    layout = draw_layout(seed)
    dead = {device.id for device in layout.devices if device.fate == "dead"}
    devices, points = rows(ledger.devices_csv(layout)), rows(ledger.points_csv(layout))
    roles = {device["id"]: {p["role"] for p in points if p["device"] == device["id"]} for device in devices}
    reasons: Counter[str] = Counter()
    counted: dict[tuple[str, str, str], dict[str, str]] = {}
    for device in devices:
        nameplate = device["maker"], device["model"], device["serial"]
        if device["id"] in dead:
            reasons["no_valid_data"] += 1
        elif not roles[device["id"]] & {"switch", "parameter"}:
            reasons["heartbeat_only"] += 1
        elif nameplate in counted:
            reasons["duplicate_identity"] += 1
        else:
            counted[nameplate] = device
    truth = json.loads(ledger.plant_json(layout))
    numbers = draw_numbers(seed)
    assert truth["devices"]["configured"] == len(devices) == numbers.devices
    assert truth["devices"]["counted"] == len(counted)
    assert truth["devices"]["not_counted"] == {**dict.fromkeys(ledger.NOT_COUNTED_REASONS, 0), **reasons}
    assert truth["devices"]["not_counted"] == {
        "no_valid_data": numbers.dead, "heartbeat_only": numbers.heartbeat_only,
        "duplicate_identity": numbers.reached_twice}
    assert truth["devices"]["kinds"] == len({(d["maker"], d["model"]) for d in counted.values()})
    assert {each["id"] for each in truth["each"] if each["expected"] == "counted"} == {
        d["id"] for d in counted.values()}
    assert truth["points"]["configured"] == len(points)
    assert truth["points"]["producing"] == sum(p["device"] not in dead for p in points)


@pytest.mark.parametrize("seed", SEEDS)
def test_true_counts_are_consistent_in_themselves(seed: int) -> None:
    truth = json.loads(ledger.plant_json(draw_layout(seed)))
    devices, points = truth["devices"], truth["points"]
    assert devices["configured"] == devices["counted"] + sum(devices["not_counted"].values())
    assert sum(p["configured"] for p in devices["by_protocol"].values()) == devices["configured"]
    assert sum(p["counted"] for p in devices["by_protocol"].values()) == devices["counted"]
    for key in ("configured", "folded", "producing", "changing_at_least", "changing_at_most"):
        assert sum(p[key] for p in points["by_protocol"].values()) == points[key]
    assert points["configured"] > points["folded"]  # bits of one register, elements of one array
    assert points["configured"] > points["producing"] > points["changing_at_most"] > points["changing_at_least"] > 0
    assert sum(each["points"] for each in truth["each"]) == points["configured"]


def test_the_first_row_of_a_machine_stays_and_a_dead_one_does_not_take_its_place() -> None:
    layout = draw_layout(DEFAULT_SEED)
    machines = [device.machine for device in layout.devices]
    first, second = (i for i, name in enumerate(machines) if machines.count(name) == 2)
    assert ledger.expected(layout)[layout.devices[first].id] == "counted"
    assert ledger.expected(layout)[layout.devices[second].id] == "duplicate_identity"
    changed = _replaced(layout, first, fate="dead")
    assert ledger.expected(changed)[layout.devices[first].id] == "no_valid_data"
    assert ledger.expected(changed)[layout.devices[second].id] == "counted"


def _replaced(layout: Layout, row: int, **changes: object) -> Layout:
    devices = list(layout.devices)
    devices[row] = replace(devices[row], **changes)
    return replace(layout, devices=tuple(devices))


def test_connections_without_devices_are_left_out() -> None:
    layout = draw_layout(DEFAULT_SEED)
    fewer = replace(layout, devices=layout.of("edge"))
    tables = tomllib.loads(ledger.connections_toml(fewer, ENDPOINTS))["connections"]
    assert [table["name"] for table in tables] == ["edge"]
