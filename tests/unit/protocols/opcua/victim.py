"""A driver in a process of its own, to be killed: python -m ... URI NAMES SETTINGS(JSON, with port and folder).

Says `collects` when every point had a value and what the next one needs is on disk, and then every value of the first
point as it arrives: before it is acknowledged, so that what the server will not send again was told, whenever the kill
comes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from protocols.opcua.driver import OpcUaDriver
from protocols.opcua.target import OpcUaPoint, parse_address
from protocols.samples import PollBatch, SampleBatch
from tests.unit.protocols.opcua.bench import Recorder, endpoint

ROOT = Path(__file__).resolve().parents[4]


class Telling(Recorder):
    """Prints what it takes, within the delivery, once it collects."""

    collects = False
    told = 0

    def samples(self, batch: SampleBatch | PollBatch) -> None:
        super().samples(batch)
        if self.collects:
            self.tell()

    def tell(self) -> None:
        """Print the values of the first point that are new."""
        values = self.values(100)
        for value in values[self.told:]:
            print(value, flush=True)
        self.told = len(values)


async def collect(uri: str, names: list[str], given: dict[str, Any]) -> None:
    """Collect until killed."""
    points = [OpcUaPoint(point_index=100 + place, device_index=place, address=parse_address(f"nsu={uri};s={name}"))
              for place, name in enumerate(names)]
    folder = Path(given.pop("folder"))
    sink, left = Telling(), folder / "left.json"
    settings = endpoint(given.pop("port"), folder, takeover_file=left, **given)
    driver = asyncio.create_task(OpcUaDriver(settings, points, sink).run())
    while not driver.done() and not (len(sink.points) >= len(points) - len(sink.events) and left.exists()):
        await asyncio.sleep(0.01)
    if not driver.done():
        print("collects", flush=True)
        sink.collects = True
        sink.tell()
    await driver


async def killed(uri: str, names: list[str], *, port: int, folder: Path, values: int = 0, **given: Any) -> list[float]:
    """Run this in a process, kill it after `values` values, and return all that it told."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, uri, json.dumps(names),
        json.dumps({"port": port, "folder": str(folder), **given}), cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    told: list[float] = []
    try:
        async with asyncio.timeout(120):
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
