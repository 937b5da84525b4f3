"""Our side of row M3, `modbus_chain.py MODBUS_PORT HTTP_PORT FOLDER`: drivers, windows, sealer, exporter, as an agent.

A window of five seconds, a twelfth of the usual, is sealed and synced to the disk in a thread of its own. Prints how
many samples the server has taken, each time it took some: once a second.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.bench_thingsboard import DEVICES, FLOATS, POLL_MS
from config.gateway import InfluxTable
from gateway.agent import TICK_S
from gateway.counting.rule import Rule
from gateway.counting.window import ClosedWindow, WindowClock, Windows
from gateway.exporters.influx import InfluxExporter
from gateway.intake import Intake
from gateway.sealing.disk import RealDisk
from gateway.sealing.journal import Journal
from gateway.sealing.sealer import Sealer
from protocols import system
from protocols.modbus.driver import Driver
from protocols.modbus.target import ModbusAddress, ModbusEndpoint, ModbusPoint
from tests.sim.rows import registry
from tests.sim.world import SOFTWARE, certificate, private_key

WINDOW_S = 5


async def chain(modbus_port: int, http_port: int, folder: Path) -> None:
    clock, rule, roster = WindowClock(), Rule(len_s=WINDOW_S), registry(DEVICES, FLOATS)
    windows = Windows(roster, rule, clock)

    def tell(code: str, where: str, **args: Any) -> None:
        raise SystemExit(f"{code} {where} {args}")

    key, disk = private_key(1), ThreadPoolExecutor(1)
    sealer = Sealer(Journal(RealDisk(folder)), [key], tell)
    sealer.enrol(certificate(key, private_key(2)))
    sealer.begin(software=SOFTWARE, rule=rule, registry=roster, opens_s=windows.opens_s, platform_size=None)
    await asyncio.sleep(max(0.0, windows.opens_s - clock.now_ns() / 1e9))
    intake = Intake(windows, tell)
    names = [(f"device {slot // FLOATS}", f"f{slot % FLOATS}") for slot in range(DEVICES * FLOATS)]
    exporter = InfluxExporter(InfluxTable(url=f"http://127.0.0.1:{http_port}", bucket="b"), "", lambda: names)
    exporter.start()
    intake.export = exporter.put
    tasks = []
    for device in range(DEVICES):
        points = [ModbusPoint(point_index=device * FLOATS + i, device_index=device, order="CDAB",
                              address=ModbusAddress(unit=device + 1, table="holding", address=2 * i, type="float32"))
                  for i in range(FLOATS)]
        at = ModbusEndpoint(name=f"device {device}", protocol="modbus_tcp", endpoint=f"tcp://127.0.0.1:{modbus_port}",
                            poll_s=POLL_MS / 1000)
        tasks.append(asyncio.create_task(Driver(at, points, intake, clock.now_ns).run()))
    written = 0
    while not any(task.done() for task in tasks):
        intake.flush()
        for item in windows.tick():
            assert isinstance(item, ClosedWindow) and item.received == item.counted, item
            await asyncio.get_running_loop().run_in_executor(disk, sealer.seal, item, None)
        if exporter.written > written:
            written = exporter.written
            print(written, flush=True)
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    system.run(chain(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
