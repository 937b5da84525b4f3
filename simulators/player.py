"""Plays the faults of a scenario in a running plant, each at its time."""

from __future__ import annotations

import asyncio
import contextlib
import typing
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from simulators.kinds import BROKER, Protocol
from simulators.modbus_faults import Fault
from simulators.scenario import FaultTable, connections_of

if TYPE_CHECKING:
    from simulators.layout import Layout
    from simulators.modbus_server import ModbusPlant
    from simulators.mqtt_faults import Mischief
    from simulators.mqtt_plant import EdgeNode, EmbeddedBroker, JsonDevices
    from simulators.opcua_server import OpcUaPlant
    from simulators.sent import Sent
    from simulators.signals import Value
    from simulators.wire import Wire

Undo = Callable[[], object]
"""Ends a fault; what it returns is awaited if it can be."""

REPLIES = ("late", "twice", "cut", "other_unit", "other_transaction", "silent", "close", "busy")
PUBLISHED = ("unreadable", "retained", "reorder", "gap", "historical", "twice")


class Stage(typing.Protocol):
    """The plant, as far as faults need it."""

    layout: Layout
    machines: dict[str, list[Value]]
    modbus: dict[str, ModbusPlant]
    opc_ua: OpcUaPlant | None
    broker: EmbeddedBroker | None
    nodes: list[EdgeNode]
    sensors: JsonDevices | None
    sent: dict[str, Sent]
    wires: dict[str, Wire]
    floods: dict[str, int]
    ready_s: float

    async def restart(self, connection: str, away_s: float) -> None:
        """End the server of a connection and have it back after a while."""


class Player:
    """The faults of one plant."""

    def __init__(self, plant: Stage, faults: Iterable[FaultTable]) -> None:
        self._plant = plant
        self._faults = tuple(faults)

    async def run(self) -> None:
        """Play all of them until cancelled, or until there is nothing more to play."""
        async with asyncio.TaskGroup() as group:
            for fault in self._faults:
                group.create_task(self._play(fault))

    async def _play(self, fault: FaultTable) -> None:
        loop = asyncio.get_running_loop()
        due_s = self._plant.ready_s + fault.at_s
        while True:
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            await self.play(fault)
            if fault.repeat_s is None:
                return
            due_s += fault.repeat_s

    async def play(self, fault: FaultTable, over: asyncio.Event | None = None) -> None:
        """Play one fault now; return when it has ended, or at once if it never does. over: ends it before its time."""
        restarted = False
        undo: list[Undo] = []
        for connection, protocol in connections_of(fault, self._plant.layout):
            if not self._plant.layout.of(connection):
                continue
            if fault.kind == "restart":
                if protocol in BROKER and (restarted or self._plant.broker is None):
                    continue  # two connections, one broker; and that of somebody else is not ours to end
                restarted = restarted or protocol in BROKER
            self._plant.sent[connection].faults[fault.kind] += 1
            done = await self._begin(fault, connection, protocol)
            if done is not None:
                undo.append(done)
        if not undo or fault.for_s is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for((over or asyncio.Event()).wait(), fault.for_s)
        for step in undo:
            waiting = step()
            if isinstance(waiting, Awaitable):
                await waiting

    async def _begin(self, fault: FaultTable, connection: str, protocol: Protocol) -> Undo | None:
        """Begin a fault on one connection; return how to end it, None if it is over already."""
        wire = self._plant.wires[connection]
        match fault.kind:
            case "refuse":
                wire.refuse()
                return wire.welcome
            case "lose":
                wire.lose()
                return None
            case "stall":
                wire.stall(True)
                return lambda: wire.stall(False)
            case "slow":
                wire.delay_s = fault.delay_s
                return lambda: setattr(wire, "delay_s", 0.0)
            case "truncate":
                wire.truncates += 1
                return None
            case "restart":
                await self._plant.restart(connection, fault.for_s or 0.0)
                return None
            case "dead":
                return self._kill(fault, connection, protocol)
        if protocol == "modbus_tcp":
            return self._reply_fault(fault, connection)
        if fault.kind == "garbage":
            wire.noise()
            return None
        if fault.kind == "flood":
            self._plant.floods[connection] = fault.times
            return lambda: self._plant.floods.pop(connection, None)
        if protocol == "opc_ua":
            return await self._opc_ua(fault)
        return self._publisher_fault(fault, connection)

    def _kill(self, fault: FaultTable, connection: str, protocol: Protocol) -> Undo:
        device = next(one for one in self._plant.layout.of(connection) if one.id == fault.device)
        if protocol == "modbus_tcp":
            silent = self._plant.modbus[connection].silent
            silent.add(device.unit)
            return lambda: silent.discard(device.unit)
        if protocol == "opc_ua":
            assert self._plant.opc_ua is not None
            failed = self._plant.opc_ua.failed
        else:
            failed = next(m.dead for m, ids in self._publishers(connection) if device.id in ids)
        failed.add(device.id)
        return lambda: failed.discard(device.id)

    def _reply_fault(self, fault: FaultTable, connection: str) -> Undo:
        line = self._plant.modbus[connection].line
        unit = next((one.unit for one in self._plant.layout.of(connection) if one.id == fault.device), None)
        kind = "twice" if fault.kind == "flood" else fault.kind
        assert kind == "garbage" or kind in REPLIES
        played = Fault(kind=kind, unit=unit, every=fault.every, delay_s=fault.delay_s,  # type: ignore[arg-type]  # see above
                       times=fault.times if fault.kind == "flood" else 2)
        line.faults.append(played)
        return lambda: line.faults.remove(played)

    async def _opc_ua(self, fault: FaultTable) -> Undo:
        server, machines = self._plant.opc_ua, self._plant.machines
        assert server is not None
        if fault.kind == "clock":
            server.clock_s = fault.jump_s
            return lambda: setattr(server, "clock_s", 0.0)
        points = [(device.id, point.id) for device in server.devices for point in device.points
                  if fault.device in (None, device.id)]
        chosen = points[fault.every - 1::fault.every]
        await server.remove(chosen)
        return lambda: server.bring_back(chosen, machines)

    def _publishers(self, connection: str) -> list[tuple[Mischief, set[str]]]:
        """Return the publishers of a connection with their devices."""
        found: list[tuple[Mischief, set[str]]] = []
        if connection == "edge":
            found = [(node.mischief, {device.id for device in node.devices}) for node in self._plant.nodes]
        elif self._plant.sensors is not None:
            found = [(self._plant.sensors.mischief, {device.id for device in self._plant.sensors.devices})]
        return found

    def _publisher_fault(self, fault: FaultTable, connection: str) -> Undo | None:
        chosen = [one for one, ids in self._publishers(connection) if fault.device is None or fault.device in ids]
        if fault.kind == "clock":
            for one in chosen:
                one.clock_s = fault.jump_s
            return lambda: _right(chosen)
        if fault.kind in ("death", "missing_birth"):
            if fault.kind == "missing_birth":
                for one in chosen:
                    one.on["missing_birth"] = 1
            for node in self._plant.nodes:
                if node.mischief in chosen:
                    node.vanish()
            return None if fault.kind == "death" else lambda: _end(chosen, "missing_birth")
        assert fault.kind in PUBLISHED
        for one in chosen:
            one.on[fault.kind] = fault.every
        return lambda: _end(chosen, fault.kind)


def _right(publishers: Iterable[Mischief]) -> None:
    for one in publishers:
        one.clock_s = 0.0


def _end(publishers: Iterable[Mischief], kind: str) -> None:
    for one in publishers:
        one.on.pop(kind, None)
