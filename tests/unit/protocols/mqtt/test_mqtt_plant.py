"""The driver and the simulated plant over amqtt: two schemas, two hands, one broker that neither of them wrote."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from protocols.mqtt import driver as driver_module
from protocols.mqtt.driver import Driver
from protocols.mqtt.target import Point
from simulators import ledger
from simulators.plant import Plant
from simulators.settings import DevicesTable, PlantFile, PlantTable
from tests.unit.protocols.mqtt.mqtt_recording import (
    Recording,
    eventually,
    json_endpoint,
    json_point,
    metric_point,
    pace,
    running,
    sparkplug_endpoint,
)

NUMBERS = DevicesTable(opc_ua=2, modbus_tcp=2, sparkplug_b=4, mqtt=3, dead=0, heartbeat_only=0, reached_twice=0)


def points_of(plant: Plant, connection: str) -> tuple[list[Point], set[int]]:
    """Return the points of a connection as the ledger has them, numbered in order, and their devices."""
    devices = [d.id for d in plant.layout.of(connection)]
    rows = [r for r in csv.DictReader(io.StringIO(ledger.points_csv(plant.layout))) if r["device"] in devices]
    make = metric_point if connection == "edge" else json_point
    points = [make(slot, row["address"], device=devices.index(row["device"]), type_=row["type"])
              for slot, row in enumerate(rows)]
    return points, set(range(len(devices)))


async def test_a_plant_is_heard_whole(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "BACKOFF_FIRST_S", 0.1)
    pace(monkeypatch, grace_s=0.5)
    plant = Plant(PlantFile(plant=PlantTable(seed=5), devices=NUMBERS), tmp_path)
    endpoints = await plant.start()
    port = int(endpoints.mqtt.rpartition(":")[2])
    try:
        edge, edge_devices = points_of(plant, "edge")
        sensors, sensor_devices = points_of(plant, "sensors")
        nodes, documents = Recording(), Recording()
        async with running(Driver(sparkplug_endpoint(port), edge, nodes)), running(
                Driver(json_endpoint(port), sensors, documents)):
            # births are not retained: the plant was there before us and has to be asked
            await eventually(lambda: {d for what, ds in nodes.calls if what == "online" for d in ds} == edge_devices)
            await eventually(lambda: {row[0] for row in nodes.rows} == {p.point_index for p in edge})
            await eventually(lambda: {row[0] for row in documents.rows} == {p.point_index for p in sensors})
            assert set(documents.answers) == sensor_devices
            assert nodes.codes() == ["mqtt.rebirth_asked"] * len(plant.nodes) and documents.codes() == []
            assert [node.rebirths for node in plant.nodes] == [1] * len(plant.nodes)
            born = len(nodes.rows)
            await eventually(lambda: len(nodes.rows) > born + 5)  # data by alias
            # data before the births, and the node's own metric, which the ledger does not have
            assert set(nodes.discards) <= {"undecodable", "unknown_point"} and not documents.discards
            before = nodes.discards["undecodable"]
            await eventually(lambda: len(nodes.rows) > born + 25)
            assert nodes.discards["undecodable"] == before
        assert sorted(d for what, ds in nodes.calls if what == "offline" for d in ds) == sorted(edge_devices)

        results = await Driver(sparkplug_endpoint(port, check_s=60), edge, Recording()).check()
        assert [(r.device_index, r.ok) for r in results] == [(d, True) for d in sorted(edge_devices)]
        results = await Driver(json_endpoint(port, check_s=60), sensors, Recording()).check()
        assert [(r.device_index, r.ok) for r in results] == [(d, True) for d in sorted(sensor_devices)]

        # One edge node goes in good order: its will or its death says so, and its devices only are gone.
        nodes = Recording()
        async with running(Driver(sparkplug_endpoint(port), edge, nodes)):
            await eventually(lambda: {d for what, ds in nodes.calls if what == "online" for d in ds} == edge_devices)
            gone = {[d.id for d in plant.layout.of("edge")].index(d.id) for d in plant.nodes[0].devices}
            await plant.nodes[0].stop()
            await eventually(lambda: ("offline", tuple(sorted(gone))) in nodes.calls)
    finally:
        await plant.stop()
