"""What the driver tests share: a sink that keeps everything, and a driver that runs for the length of a `with`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.modbus.driver import Driver
from protocols.modbus.target import ModbusEndpoint, ModbusPoint, UnitSettings, parse_address
from protocols.samples import PollBatch, SampleBatch

TURN_S = 0.004
"""What `steady` lets pass at once at the most."""


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
    """Return an endpoint on loopback that is polled often.

    Its timeout is for a machine that may stand still for seconds. Who wants one to run out gives a short one to the
    unit that is silent (`silent`): connecting, and the other units, keep theirs.
    """
    settings: dict[str, object] = {"name": "line", "protocol": "modbus_tcp", "endpoint": f"tcp://127.0.0.1:{port}",
                                   "poll_s": 0.02, "timeout_s": 30.0}
    return ModbusEndpoint(**(settings | more))  # type: ignore[arg-type] # by name


def silent(*units: int, timeout_s: float = 0.1) -> tuple[UnitSettings, ...]:
    """Return `units` of an endpoint on which these never answer, and are not waited for long."""
    return (UnitSettings(ids=units, timeout_s=timeout_s),)


def steady() -> None:
    """Let the clock of the running loop stand still with the machine: when this process gets no turn, no time passes.

    For tests that are about times and rates, with both sides on this loop. Seconds without a turn are a moment for
    both; so nothing is late that is not late by itself. Against any other clock it is slow at the most.
    """
    loop: Any = asyncio.get_running_loop()
    machine_s, select = loop.time, loop._selector.select
    seen_s = now_s = machine_s()

    def time() -> float:
        nonlocal seen_s, now_s
        at_s = machine_s()
        now_s += min(at_s - seen_s, TURN_S)
        seen_s = at_s
        return float(now_s)

    loop.time = time
    loop._selector.select = lambda wait_s=None: select(None if wait_s is None else min(wait_s, TURN_S / 2))


@asynccontextmanager
async def running(driver: Driver) -> AsyncIterator[asyncio.Task[None]]:
    """Run a driver; at the end cancel it and require that it closes: a hang, not a slow machine, takes so long."""
    task = asyncio.create_task(driver.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 20.0)


async def until(condition: Callable[[], object], deadline_s: float = 60.0, what: str = "condition") -> None:
    """Wait until a condition holds; fail after the deadline."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + deadline_s
    while not condition():
        assert loop.time() < end_s, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.005)


@contextmanager
def closed_port() -> Iterator[int]:
    """Hold a port on loopback that nothing listens on: a connection is refused, and nobody else is given the port.

    A server may be told to listen on it meanwhile.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
