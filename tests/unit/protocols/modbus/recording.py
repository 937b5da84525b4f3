"""What the driver tests share: a sink that keeps everything, and a driver that runs for the length of a `with`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from protocols.modbus.driver import Driver
from protocols.modbus.target import ModbusEndpoint, ModbusPoint, parse_address
from protocols.samples import PollBatch, SampleBatch


class Recording:
    """A Sink. values: point slot -> every value in the order of arrival."""

    def __init__(self) -> None:
        self.batches: list[SampleBatch | PollBatch] = []
        self.values: dict[int, list[float]] = {}
        self.texts: dict[int, list[str]] = {}
        self.times: list[int] = []
        self.replies: dict[int, int] = {}
        self.discards: dict[str, int] = {}
        self.events: list[tuple[str, str, dict[str, str]]] = []
        self.on_samples: Callable[[SampleBatch], None] | None = None

    def samples(self, batch: SampleBatch | PollBatch) -> None:
        self.batches.append(batch)
        rows = batch.samples() if isinstance(batch, PollBatch) else batch
        for point, value in zip(rows.point_index.tolist(), rows.value.tolist(), strict=True):
            self.values.setdefault(point, []).append(value)
        for row, text in rows.texts:
            self.texts.setdefault(int(rows.point_index[row]), []).append(text)
        if self.on_samples is not None:
            self.on_samples(rows)

    def answered(self, device_index: Sequence[int] | NDArray[np.int64], received_ns: int) -> None:
        self.times.append(received_ns)
        for device in device_index:
            self.replies[int(device)] = self.replies.get(int(device), 0) + 1

    def online(self, device_index: Sequence[int], received_ns: int) -> None:
        raise AssertionError("Modbus has no births")

    def offline(self, device_index: Sequence[int], received_ns: int) -> None:
        raise AssertionError("Modbus has no deaths")

    def discarded(self, reason: str, count: int) -> None:
        self.discards[reason] = self.discards.get(reason, 0) + count

    def event(self, code: str, where: str, **args: object) -> None:
        self.events.append((code, where, {key: str(value) for key, value in args.items()}))

    def codes(self) -> list[str]:
        """Return the codes of all events so far."""
        return [code for code, _, _ in self.events]


def point(index: int, text: str, type_: str = "", device: int = 0, **more: object) -> ModbusPoint:
    """Return a point; `more` may hold order, scale, offset."""
    return ModbusPoint(point_index=index, device_index=device, address=parse_address(text, type_),
                       **more)  # type: ignore[arg-type] # by name


def endpoint(port: int, **more: object) -> ModbusEndpoint:
    """Return an endpoint on loopback with short times."""
    settings: dict[str, object] = {"name": "line", "protocol": "modbus_tcp", "endpoint": f"tcp://127.0.0.1:{port}",
                                   "poll_s": 0.02, "timeout_s": 1.0}
    return ModbusEndpoint(**(settings | more))  # type: ignore[arg-type] # by name


@asynccontextmanager
async def running(driver: Driver) -> AsyncIterator[asyncio.Task[None]]:
    """Run a driver; at the end cancel it and require that it closes within 2 s."""
    task = asyncio.create_task(driver.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 2.0)


async def until(condition: Callable[[], object], deadline_s: float = 10.0, what: str = "condition") -> None:
    """Wait until a condition holds; fail after the deadline."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + deadline_s
    while not condition():
        assert loop.time() < end_s, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.005)


async def closed_port() -> int:
    """Return a port on loopback that nothing listens on."""
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port
