"""A driver before a simulated plant: what it is aimed at, what it delivered, and what the plant really sent."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.modbus import schedule
from protocols.modbus.driver import Driver as ModbusDriver
from protocols.modbus.target import ModbusEndpoint, ModbusPoint, UnitSettings
from protocols.modbus.target import parse_address as parse_modbus
from protocols.mqtt import driver as mqtt
from protocols.mqtt import session as sparkplug
from protocols.mqtt.driver import Driver as MqttDriver
from protocols.mqtt.target import MqttEndpoint, MqttPoint, SparkplugPoint, parse_json_address, parse_sparkplug_address
from protocols.opcua import session
from protocols.opcua.driver import OpcUaDriver
from protocols.opcua.target import OpcUaEndpoint, OpcUaPoint
from protocols.opcua.target import parse_address as parse_opcua
from protocols.samples import BAD, SampleBatch
from simulators.layout import Device, Point
from simulators.plant import Plant
from simulators.scenario import FaultTable
from simulators.sent import PointKey, Sent
from simulators.settings import PlantFile
from simulators.wire import Wire
from tests.unit.protocols.modbus.recording import steady

WAIT_S = 60.0
"""How long something may take on a busy machine before it is taken as not happening."""

CLOSE_S = 2.0
"""How long a driver may take to end, whatever its server does."""

CASES = {
    "opc_ua_subscription": "machines", "opc_ua_polling": "machines", "modbus_tcp": "utilities-a",
    "modbus_rtu_over_tcp": "utilities-a", "modbus_rtu": "utilities-a", "mqtt": "sensors", "sparkplug_b": "edge"}
"""Driver -> the connection of the plant that it reads."""


OF_DRIVERS = tuple(f"<coroutine object {name}." for name in (
    "Collector", "Link", "Poller", "OpcUaDriver", "Driver", "Client", "UASocketProtocol", "UaClient"))
"""How the tasks begin that a driver may have started; the others are the plant's."""


PAUSE_S = 0.1


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between attempts: they are for plants, and a test need not wait them out."""
    for module, names in (
            (schedule, ("RECONNECT_FIRST_S", "RECONNECT_MAX_S", "SILENT_FIRST_S", "SILENT_MAX_S")),
            (session, ("BACKOFF_FIRST_S", "BACKOFF_UNREACHABLE_CAP_S", "BACKOFF_REFUSED_CAP_S", "RETRY_FIRST_S")),
            (mqtt, ("BACKOFF_FIRST_S", "BACKOFF_CAP_S"))):
        for name in names:
            monkeypatch.setattr(module, name, PAUSE_S)
    for name in ("CONNECT_GRACE_NS", "ASK_PAUSE_MIN_NS", "ASK_PAUSE_MAX_NS"):
        monkeypatch.setattr(sparkplug, name, round(PAUSE_S * 1e9))
    defaults: Any = sparkplug.NodeSession.__init__
    monkeypatch.setitem(defaults.__kwdefaults__, "ask_pause_ns", round(PAUSE_S * 1e9))


class AnyDriver(Protocol):
    """What all drivers have."""

    async def run(self) -> None:
        """Collect until cancelled."""


class Tally:
    """A sink that counts every sample it is handed, by point, and keeps the newest of each."""

    def __init__(self, keys: Sequence[PointKey]) -> None:
        self.keys = keys
        self.received: Counter[PointKey] = Counter()
        self.discards: Counter[str] = Counter()
        self.newest: dict[PointKey, tuple[int, int]] = {}  # received_ns, source_ns; of those that are not Bad
        self.codes: list[str] = []

    @property
    def total(self) -> int:
        """Everything that arrived: handed over or discarded."""
        return self.received.total() + self.discards.total()

    def samples(self, batch: Any) -> None:
        """Count a batch of whatever kind."""
        rows: SampleBatch = batch if isinstance(batch, SampleBatch) else batch.samples()
        for index, at_ns, source_ns, quality in zip(
                rows.point_index.tolist(), rows.received_ns.tolist(), rows.source_ns.tolist(), rows.quality.tolist(),
                strict=True):
            self.received[self.keys[index]] += 1
            if quality != BAD:
                self.newest[self.keys[index]] = (at_ns, source_ns)

    def answered(self, device_index: Sequence[int] | NDArray[np.int64], received_ns: int) -> None:
        """Count nothing."""

    def online(self, device_index: Sequence[int], received_ns: int) -> None:
        """Count nothing."""

    def offline(self, device_index: Sequence[int], received_ns: int) -> None:
        """Count nothing."""

    def discarded(self, reason: str, count: int) -> None:
        """Count what could not be handed over."""
        self.discards[reason] += count

    def event(self, code: str, where: str, **args: object) -> None:
        """Keep the code."""
        self.codes.append(code)


class Bench:
    """One driver, one plant."""

    def __init__(self, case: str, folder: Path, capture: Path | None = None, *, in_flight: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.in_flight = in_flight
        self.case = case
        self.connection = CASES[case]
        self.is_modbus = case.startswith("modbus")
        counts = {"opc_ua": 0, "modbus_tcp": 0, "sparkplug_b": 0, "mqtt": 0}
        counts[next(name for name in counts if case.startswith(name) or (name == "modbus_tcp" and self.is_modbus))] = 3
        self.plant = Plant(PlantFile.model_validate({
            "plant": {"tick_s": 0.1}, "modbus": {"framing": ["tcp" if case == "modbus_tcp" else "rtu", "tcp"]},
            "devices": {**counts, "dead": 0, "heartbeat_only": 0, "reached_twice": 0, "points": 5}}), folder / "plant",
            capture=capture)
        self.folder = folder
        self.devices: tuple[Device, ...] = self.plant.layout.of(self.connection)
        self.points: list[tuple[int, Device, Point]] = [
            (slot, device, point) for slot, (device, point) in enumerate(
                (device, point) for device in self.devices for point in device.points)]
        self.tally = Tally([(device.id, point.id) for _, device, point in self.points])
        self.gateway_ahead_ns = 0
        self._tty: _SerialLine | None = None

    @property
    def wire(self) -> Wire:
        """The wire between the two."""
        return self.plant.wires[self.connection]

    @property
    def sent(self) -> Sent:
        """What was really sent."""
        return self.plant.sent[self.connection]

    def clock_ns(self) -> int:
        """The gateway's clock, which a test may step."""
        return time.time_ns() + self.gateway_ahead_ns

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Bench]:
        """Run the plant, and the serial line where there is one."""
        if self.is_modbus or self.connection == "machines":
            steady()  # driver, wire and plant are all here: a machine that stands still makes none of them late
        await self.plant.start()
        try:
            if self.case == "modbus_rtu":
                self._tty = _SerialLine(self.folder / "tty", self.wire.port)
                self._tty.start()
            yield self
        finally:
            if self._tty is not None:
                await self._tty.stop()
            await self.plant.stop()

    def driver(self) -> AnyDriver:
        """Return a new driver for the tally."""
        host = "127.0.0.1"
        if self.connection == "machines":
            url = f"opc.tcp://{host}:{self.wire.port}/machines"
            return OpcUaDriver(OpcUaEndpoint(
                name="bench", url=url, security_policy="None", security_mode="None", allow_insecure=True,
                pki_dir=self.folder / "pki", trust_dir=self.folder / "trust", publishing_interval_ms=50, timeout_s=20.0,
                poll_s=0.05, idle_read_s=30.0, reads=self.case.removeprefix("opc_ua_")),
                [OpcUaPoint(point_index=slot, device_index=self.devices.index(device),
                            address=parse_opcua(point.address)) for slot, device, point in self.points],
                self.tally, self.clock_ns)
        if self.is_modbus:
            at = f"serial://{self.folder / 'tty'}" if self._tty else f"tcp://{host}:{self.wire.port}"
            # socat does not stand still with us: what it carries may be late. A silence is counted here alone.
            patience = UnitSettings(ids=tuple(device.unit for device in self.devices), timeout_s=5.0)
            return ModbusDriver(
                ModbusEndpoint(name="bench", protocol=self.case, endpoint=at, poll_s=0.1, timeout_s=0.5, max_gap=0,
                               parity="N", in_flight=self.in_flight, units=(patience,) if self._tty else ()),
                [ModbusPoint(point_index=slot, device_index=self.devices.index(device), order=point.order or "ABCD",
                             address=parse_modbus(point.address, point.type), scale=point.scale)
                 for slot, device, point in self.points], self.tally, self.clock_ns)
        endpoint = MqttEndpoint(name="bench", protocol=self.case, endpoint=f"mqtt://{host}:{self.wire.port}",
                                timeout_s=30.0, reorder_s=0.1)
        if self.case == "mqtt":
            return MqttDriver(endpoint, [
                MqttPoint(point_index=slot, device_index=self.devices.index(device), type=point.type,
                          address=parse_json_address(point.address)) for slot, device, point in self.points],
                self.tally, self.clock_ns)
        return MqttDriver(endpoint, [
            SparkplugPoint(point_index=slot, device_index=self.devices.index(device),
                           address=parse_sparkplug_address(point.address)) for slot, device, point in self.points],
            self.tally, self.clock_ns)

    async def play(self, kind: str, *, until: Callable[[], object] | None = None, **more: Any) -> None:
        """Play one fault on the connection, to its end or until a condition holds."""
        fault = FaultTable.model_validate({"kind": kind, "connection": self.connection,
                                           **({"for_s": WAIT_S} if until else {}), **more})
        over = asyncio.Event()
        playing = asyncio.create_task(self.plant.player.play(fault, over))
        if until is not None:
            await self.until(until, f"{kind} shows")
            over.set()
        await playing

    def newer(self) -> Callable[[], bool]:
        """Return a condition: every point has a value that is newer than now."""
        since_ns = self.clock_ns()
        return lambda: len(self.tally.newest) == len(self.points) and min(
            at_ns for at_ns, _ in self.tally.newest.values()) > since_ns

    async def fresh(self, what: str) -> None:
        """Wait until every point has a value that is newer than now."""
        await self.until(self.newer(), lambda: f"{what}: every point has a new value; {self.tally.codes[-5:]}")

    async def settled(self, what: str) -> None:
        """Hold the plant and the wire still, and wait until all that was sent has been counted or discarded."""
        self.plant.going.clear()
        self.wire.stall(True)
        try:
            await self.until(lambda: self.tally.total == self.sent.samples, lambda: f"{what}: {self.difference()}")
            wrong = {key: (count, self.sent.points[key]) for key, count in self.tally.received.items()
                     if count > self.sent.points[key]}
            assert not wrong, f"{what}: more than was sent: {wrong}"
            assert not self.sent.doubtful, what
        finally:
            self.wire.stall(False)
            self.plant.going.set()

    def difference(self) -> str:
        """Return what was sent beside what arrived."""
        return (f"sent {self.sent.points.total()} + {self.sent.others} others + {self.sent.unreadable} unreadable "
                f"({dict(self.sent.messages)}), arrived {self.tally.received.total()} + {dict(self.tally.discards)}; "
                f"doubtful {self.sent.doubtful}; {self.tally.codes[-8:]}")

    def subscriptions(self) -> frozenset[int]:
        """Return the subscriptions that the plant's OPC UA server has now."""
        return self.plant.opc_ua.subscriptions if self.plant.opc_ua is not None else frozenset()

    async def until(self, condition: Callable[[], object], what: str | Callable[[], str], *, wait_s: float = WAIT_S
                    ) -> None:
        """Wait until a condition holds; fail after the deadline."""
        end_s = time.monotonic() + wait_s
        while not condition():
            assert time.monotonic() < end_s, what if isinstance(what, str) else what()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def collecting(driver: AnyDriver) -> AsyncIterator[None]:
    """Run a driver; then it must end within CLOSE_S and leave no task and no thread."""
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    task = asyncio.create_task(driver.run(), name="the driver")
    try:
        yield
        assert not task.done(), "a driver never returns"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, CLOSE_S + 10.0)  # the machine may be busy
    end_s = time.monotonic() + WAIT_S
    while left := [*(name for one in asyncio.all_tasks() - tasks - {task}
                     if (name := str(one.get_coro())).startswith(OF_DRIVERS)),
                   *(one.name for one in set(threading.enumerate()) - threads
                     if one.name.startswith("mqtt-"))]:
        assert time.monotonic() < end_s, f"left over: {left}"
        await asyncio.sleep(0.01)


class _SerialLine:
    """A pseudo terminal with the plant at its other end, by socat; plugged in again whenever it falls out."""

    def __init__(self, tty: Path, port: int) -> None:
        self._command = ["socat", f"PTY,link={tty},raw,echo=0", f"TCP:127.0.0.1:{port}"]
        self._process: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._process is not None:
            self._process.kill()
            self._process.wait()
