"""node-opcua, a client that shares no line with asyncua, reads the simulated machines, encrypted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from simulators.plant import Plant
from simulators.settings import PlantFile
from tests.support.npm import installed

pytestmark = pytest.mark.live

SOURCE = Path(__file__).with_name("node_opcua")
CLIENT_S = 100.0
"""Making its certificate takes node-opcua several seconds."""


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    running = Plant(PlantFile(), tmp_path / "plant")
    await running.start()
    yield running
    await running.stop()


async def test_node_opcua_reads_what_the_machines_show(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = installed(SOURCE) / "client.mjs"
    assert plant.opc_ua is not None
    devices = [device for device in plant.layout.of("machines") if device.fate != "dead"]
    numbers = [(device, point) for device in devices for point in device.points if point.type in ("float64", "int32")]
    changing = next((device, point) for device, point in numbers
                    if point.type == "float64" and point.role == "parameter")
    chosen = [changing, *numbers[:40]]
    process = await asyncio.create_subprocess_exec(
        "node", program.name, plant.opc_ua.endpoint, str(tmp_path / "pki"), plant.layout.namespace_uri,
        *(str(point.place) for _, point in chosen), cwd=program.parent,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    seen: list[list[object]] = [[] for _ in chosen]
    show = plant._show

    async def watched(connection: str) -> None:
        """Note all that each machine shows from now on: the client reads at a moment of its own."""
        for shown, (device, point) in zip(seen, chosen, strict=True):
            value = plant.machines[device.machine][point.signal]
            if not shown or shown[-1] != value:
                shown.append(value)
        await show(connection)

    monkeypatch.setattr(plant, "_show", watched)
    await watched("machines")
    try:
        out, errors = await asyncio.wait_for(process.communicate(), CLIENT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode(errors="replace")[-2000:]
    told = json.loads(out.decode().splitlines()[-1])
    assert told["good"] and told["stamped"]
    for (device, point), value, shown in zip(chosen, told["values"], seen, strict=True):
        assert value in shown, (device.id, point.id)
    assert len(told["changes"]) >= 3 and set(told["changes"]) <= set(seen[0])
    async with asyncio.timeout(60):
        while plant.opc_ua.sessions:
            await asyncio.sleep(0.02)
