"""A driver in a process of its own, to be killed: python -m ... URI NAMES SETTINGS(JSON, with port and folder).

Says `collects` when every point had a value, and then every value of the first point as it arrives.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from protocols.opcua.driver import OpcUaDriver
from protocols.opcua.target import OpcUaPoint, parse_address
from tests.unit.protocols.opcua.bench import Recorder, endpoint

ROOT = Path(__file__).resolve().parents[4]


async def collect(uri: str, names: list[str], given: dict[str, Any]) -> None:
    """Collect until killed."""
    points = [OpcUaPoint(point_index=100 + place, device_index=place, address=parse_address(f"nsu={uri};s={name}"))
              for place, name in enumerate(names)]
    folder = Path(given.pop("folder"))
    sink, told, is_there = Recorder(), 0, False
    settings = endpoint(given.pop("port"), folder, takeover_file=folder / "left.json", **given)
    driver = asyncio.create_task(OpcUaDriver(settings, points, sink).run())
    while not driver.done():
        await asyncio.sleep(0.01)
        if not is_there and len(sink.points) >= len(points) - len(sink.events):
            is_there = True
            print("collects", flush=True)
        values = sink.values(100) if is_there else []
        for value in values[told:]:
            print(value, flush=True)
        told = len(values)
    await driver


async def killed(uri: str, names: list[str], *, port: int, folder: Path, values: int = 0, **given: Any) -> list[float]:
    """Run this in a process, kill it after `values` values, and return all that it told."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, uri, json.dumps(names),
        json.dumps({"port": port, "folder": str(folder), **given}), cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    told: list[float] = []
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"collects\n"
            while len(told) < values:
                told.append(float(await process.stdout.readline()))
    finally:
        process.kill()
        rest = await process.stdout.read()
        await process.wait()
    return told + [float(line) for line in rest.split(b"\n")[:-1]]


if __name__ == "__main__":
    asyncio.run(collect(sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])))
