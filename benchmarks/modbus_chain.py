"""Our side of row M3: `modbus_chain.py MODBUS_PORT HTTP_PORT`: drivers, windows, exporter, as the gateway joins them.

Prints how many samples the server has taken, ten times a second.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from benchmarks.bench_thingsboard import DEVICES, FLOATS, POLL_MS
from config.gateway import InfluxTable
from gateway.agent import TICK_S
from gateway.counting.rule import Rule
from gateway.counting.window import WindowClock, Windows
from gateway.exporters.influx import InfluxExporter
from gateway.intake import Intake
from protocols import system
from protocols.modbus.driver import Driver
from protocols.modbus.target import ModbusAddress, ModbusEndpoint, ModbusPoint
from tests.sim.rows import registry


async def chain(modbus_port: int, http_port: int) -> None:
    clock = WindowClock()
    windows = Windows(registry(DEVICES, FLOATS), Rule(len_s=1), clock)

    def tell(code: str, where: str, **args: Any) -> None:
        raise SystemExit(f"{code} {where} {args}")

    intake = Intake(windows, clock, tell)
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
    while not any(task.done() for task in tasks):
        intake.flush()
        windows.tick()
        print(exporter.written, flush=True)
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    system.run(chain(int(sys.argv[1]), int(sys.argv[2])))
