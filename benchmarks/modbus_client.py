"""Processes under test of rows M1 and M2: `modbus_client.py ours|stock PORT SECONDS [--in-flight N] [--loop uvloop]`.

`--rtu` speaks RTU frames over TCP, `--tls FOLDER` TLS with the certificates in that folder. Both read 16 devices of 32
blocks of 125 registers over a connection each: 62 float32 (words swapped) and one uint16 a block, as columns of
float64 (ours: the real driver, with a sink that counts) or as pymodbus gives them (stock).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import logging
import ssl
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Began, tell

CONNECTIONS, BLOCKS, REGISTERS, FLOATS = 16, 32, 125, 62
WARM_UP_S = 0.5
AUTHORITY, CERTIFICATE, KEY = "authority.pem", "gateway.pem", "gateway-key.pem"
"""Files of `--tls`."""


class Columns:
    """A sink that keeps the newest values, as a window does, and counts."""

    def __init__(self, points: int) -> None:
        self.value = np.zeros(points)
        self.samples_taken = 0
        self.troubles: list[str] = []

    def samples(self, batch: Any) -> None:
        point = batch.point_index if hasattr(batch, "point_index") else batch.block.point_index
        self.value[point] = batch.value
        self.samples_taken += batch.value.size

    def answered(self, device_index: Any, received_ns: int) -> None:
        pass

    def discarded(self, reason: str, count: int) -> None:
        self.troubles.append(reason)

    def event(self, code: str, where: str, **args: object) -> None:
        self.troubles.append(f"{code} {args}")


async def ours(port: int, seconds: float, in_flight: int, *, is_rtu: bool, tls: Path | None) -> None:
    from protocols.modbus.driver import Driver
    from protocols.modbus.target import ModbusAddress, ModbusEndpoint, ModbusPoint

    def point(slot: int, device: int, address: int, kind: str) -> ModbusPoint:
        return ModbusPoint(point_index=slot, device_index=device, order="CDAB", address=ModbusAddress(
            unit=1, table="holding", address=address, type=kind))

    way: dict[str, Any] = {"protocol": "modbus_rtu_over_tcp" if is_rtu else "modbus_tcp",
                           "endpoint": f"tcp://127.0.0.1:{port}"}
    if tls is not None:
        way = {"protocol": "modbus_tls", "endpoint": f"tls://127.0.0.1:{port}", "ca_file": tls / AUTHORITY,
               "certificate_file": tls / CERTIFICATE, "key_file": tls / KEY}
    each = BLOCKS * (FLOATS + 1)
    sink = Columns(CONNECTIONS * each)
    tasks = []
    for device in range(CONNECTIONS):
        points = []
        for block in range(BLOCKS):
            first, slot = block * REGISTERS, device * each + block * (FLOATS + 1)
            points += [point(slot + i, device, first + 2 * i, "float32") for i in range(FLOATS)]
            points.append(point(slot + FLOATS, device, first + 2 * FLOATS, "uint16"))
        at = ModbusEndpoint(name=f"device {device}", poll_s=0.01, timeout_s=20, in_flight=in_flight, **way)
        driver = Driver(at, points, sink)  # type: ignore[arg-type] # a sink without births, which Modbus has none of
        assert len(driver.plan()) == BLOCKS
        tasks.append(asyncio.create_task(driver.run()))
    while sink.samples_taken < 3 * sink.value.size:
        await asyncio.sleep(WARM_UP_S)
        assert not sink.troubles, sink.troubles[:3]
    before, began = sink.samples_taken, Began.now()
    await asyncio.sleep(seconds)
    registers = (sink.samples_taken - before) / (FLOATS + 1) * REGISTERS
    tell(registers, began)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    raw = np.arange(BLOCKS * REGISTERS, dtype=np.uint16).reshape(BLOCKS, REGISTERS)
    wanted = np.hstack([np.ascontiguousarray(raw[:, :2 * FLOATS]).view(np.float32).astype(float),
                        raw[:, 2 * FLOATS:].astype(float)])
    assert np.array_equal(sink.value.reshape(CONNECTIONS, -1), np.tile(wanted.ravel(), (CONNECTIONS, 1)))
    assert not sink.troubles, sink.troubles[:3]


async def stock(port: int, seconds: float, *, is_rtu: bool, tls: Path | None) -> None:
    from pymodbus import FramerType
    from pymodbus.client import AsyncModbusTcpClient, AsyncModbusTlsClient

    logging.disable(logging.CRITICAL)
    read = [0]
    stop = [False]

    async def one() -> None:
        client = AsyncModbusTcpClient("127.0.0.1", port=port, retries=1, timeout=3,
                                      framer=FramerType.RTU if is_rtu else FramerType.SOCKET)
        if tls is not None:
            context = ssl.create_default_context(cafile=str(tls / AUTHORITY))
            context.load_cert_chain(tls / CERTIFICATE, tls / KEY)
            client = AsyncModbusTlsClient("127.0.0.1", port=port, retries=1, timeout=3, sslctx=context)
        assert await client.connect()
        while not stop[0]:
            for block in range(BLOCKS):
                reply = await client.read_holding_registers(block * REGISTERS, count=REGISTERS, device_id=1)
                values = client.convert_from_registers(reply.registers[:2 * FLOATS], client.DATATYPE.FLOAT32,
                                                       word_order="little")
                assert len(values) == FLOATS
                read[0] += REGISTERS
        client.close()

    tasks = [asyncio.create_task(one()) for _ in range(CONNECTIONS)]
    await asyncio.sleep(WARM_UP_S)
    before, began = read[0], Began.now()
    await asyncio.sleep(seconds)
    tell(read[0] - before, began)
    stop[0] = True
    await asyncio.gather(*tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", choices=("ours", "stock"))
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--rtu", action="store_true")
    parser.add_argument("--tls", type=Path)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    args = parser.parse_args()
    way: dict[str, Any] = {"is_rtu": args.rtu, "tls": args.tls}
    work = ours(args.port, args.seconds, args.in_flight, **way) if args.path == "ours" \
        else stock(args.port, args.seconds, **way)
    if args.loop == "uvloop" and importlib.util.find_spec("uvloop"):
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)


if __name__ == "__main__":
    main()
