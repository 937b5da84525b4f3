"""mbpoll, a Modbus master over libmodbus that was not written here, reads the simulated units."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from simulators.layout import Device, ModbusPlace
from simulators.plant import Plant
from simulators.settings import PlantFile
from simulators.signals import Value
from tests.support.programs import need

pytestmark = pytest.mark.live

TABLE = {"coil": "0", "discrete": "1", "input": "3", "holding": "4"}
FORMAT = {("float32", "ABCD"): ("float", True), ("float32", "CDAB"): ("float", False),
          ("uint32", "ABCD"): ("int", True), ("uint32", "CDAB"): ("int", False), ("uint16", ""): ("", False)}
"""What mbpoll can decode by itself: (type option, big-endian word order)."""


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    running = Plant(PlantFile(), tmp_path)
    await running.start()
    yield running
    await running.stop()


async def mbpoll(endpoint: str, unit: int, *options: str, answer_s: int = 10) -> tuple[int, str]:
    """Read once. answer_s: how long it waits for an answer, ten seconds at most."""
    host, port = endpoint.removeprefix("tcp://").split(":")
    process = await asyncio.create_subprocess_exec(
        "mbpoll", "-m", "tcp", "-p", port, "-a", str(unit), "-0", "-1", "-q", "-o", str(answer_s), *options, host,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace")


async def test_mbpoll_reads_what_the_machines_show(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    need("mbpoll")
    shown: list[dict[str, list[Value]]] = []
    show = plant._show

    async def watched(connection: str) -> None:
        """Note all that the machines show while one read lasts: several ticks may fall between."""
        shown.append({name: [*values] for name, values in plant.machines.items()})
        await show(connection)

    monkeypatch.setattr(plant, "_show", watched)
    checked: dict[tuple[str, str], int] = {}
    for name, server in plant.modbus.items():
        for device in plant.layout.of(name):
            if device.fate == "dead":
                continue
            for point in device.points:
                assert isinstance(point.place, ModbusPlace)
                key = (point.type, point.order)
                boolean = point.place.table in ("coil", "discrete")
                if point.place.bit is not None or not (boolean or key in FORMAT) or checked.get(key, 0) >= 3:
                    continue
                kind, big = FORMAT.get(key, ("", False))
                options = ["-t", TABLE[point.place.table] + (f":{kind}" if kind else ""),
                           "-r", str(point.place.address)]
                shown[:] = [{name: [*values] for name, values in plant.machines.items()}]
                status, out = await mbpoll(server.endpoint, device.unit, *options, *(["-B"] if big else []))
                assert status == 0, out
                found = re.search(r"\[\d+\]:\s+(-?[\d.e+-]+)", out)
                assert found, out
                value = float(found[1]) * (1.0 if boolean else point.scale)
                assert any(value == pytest.approx(float(each[device.machine][point.signal]), rel=1e-4, abs=1e-3)
                           for each in shown), (point, out)
                checked[key] = checked.get(key, 0) + 1
    assert len(checked) >= 4, checked


async def test_mbpoll_waits_in_vain_for_the_dead_unit_and_is_refused_by_one_that_is_not_there(plant: Plant) -> None:
    need("mbpoll")
    dead: Device = next(d for d in plant.layout.devices if d.fate == "dead")
    endpoint = plant.modbus[dead.connection].endpoint
    status, out = await mbpoll(endpoint, dead.unit, "-t", "4", "-r", "0", answer_s=1)
    assert status != 0
    assert "timed out" in out.lower(), out
    status, out = await mbpoll(endpoint, 247, "-t", "4", "-r", "0")
    assert status != 0
    assert "target device failed to respond" in out.lower(), out
    assert plant.writes == 0
