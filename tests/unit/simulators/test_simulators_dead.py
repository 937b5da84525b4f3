"""A dead device is dead in the manner of its protocol: bad status, no birth, no message."""

from __future__ import annotations

from pathlib import Path

import pytest
from asyncua import Client, ua

from simulators.kinds import Protocol
from simulators.layout import Device, draw_layout
from simulators.plant import Plant
from simulators.settings import DevicesTable, PlantFile, PlantTable

FEW = DevicesTable(opc_ua=2, modbus_tcp=2, sparkplug_b=2, mqtt=2, dead=1, heartbeat_only=0, reached_twice=0)


def plant_with_dead(protocol: Protocol, out: Path) -> tuple[Plant, Device]:
    """Return a small plant whose dead device speaks `protocol`: the first seed that draws one."""
    for seed in range(2, 200):
        settings = PlantFile(plant=PlantTable(seed=seed), devices=FEW)
        (dead,) = [d for d in draw_layout(seed, settings.numbers()).devices if d.fate == "dead"]
        if dead.protocol == protocol:
            return Plant(settings, out), dead
    raise AssertionError(f"no seed below 200 has a dead device on {protocol}")


async def test_variables_of_a_dead_machine_have_a_bad_status_and_no_value(tmp_path: Path) -> None:
    plant, dead = plant_with_dead("opc_ua", tmp_path)
    endpoints = await plant.start()
    try:
        async with Client(endpoints.opc_ua, timeout=60) as client:
            index = await client.get_namespace_index(plant.layout.namespace_uri)
            for device in plant.layout.of("machines"):
                for point in device.points:
                    node = client.get_node(ua.NodeId(str(point.place), index))
                    value = await node.read_data_value(raise_on_bad_status=False)
                    if device.id == dead.id:
                        assert value.StatusCode.name == "BadNoCommunication"
                        assert value.Value is None or value.Value.Value is None
                    else:
                        assert value.StatusCode.is_good()
    finally:
        await plant.stop()


@pytest.mark.parametrize("protocol", ["sparkplug_b", "mqtt"])
async def test_a_dead_device_publishes_nothing(protocol: Protocol, tmp_path: Path) -> None:
    plant, dead = plant_with_dead(protocol, tmp_path)
    try:
        await plant.start()
        assert plant.sensors is not None
        publishing = [d.id for part in (*plant.nodes, plant.sensors) for d in part.devices]
        wanted = [d.id for d in plant.layout.devices if d.protocol in ("sparkplug_b", "mqtt") and d.id != dead.id]
        assert sorted(publishing) == sorted(wanted)
        assert len(wanted) == 3
    finally:
        await plant.stop()
