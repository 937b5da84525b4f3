"""Plays the faults of a scenario in a running plant, each at its time."""

from __future__ import annotations

import asyncio
import contextlib
import typing
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

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

T = TypeVar("T")
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


class Standing:
    """What faults have set and not ended yet: of several about one thing the youngest holds, then the one before."""

    def __init__(self) -> None:
        self._values: dict[Hashable, list[tuple[object]]] = {}

    def begin(self, about: Hashable, value: T, apply: Callable[[T | None], object]) -> Undo:
        """Apply a value; return what takes it away again. apply: is given None when nothing is set any more."""
        values = typing.cast("list[tuple[T]]", self._values.setdefault(about, []))
        mine = (value,)
        values.append(mine)
        apply(value)

        def end() -> object:
            was_last = values[-1] is mine
            values[:] = [one for one in values if one is not mine]
            return apply(values[-1][0] if values else None) if was_last else None

        return end


class Player:
    """The faults of one plant."""

    def __init__(self, plant: Stage, faults: Iterable[FaultTable]) -> None:
        self._plant = plant
        self._faults = tuple(faults)
        self._standing = Standing()
        self._gone: Counter[tuple[str, str]] = Counter()  # points -> how many faults have taken them away

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
                return self._standing.begin((connection, "refuse"), True,
                                            lambda on: wire.welcome() if on is None else wire.refuse())
            case "lose":
                wire.lose()
                return None
            case "stall":
                return self._standing.begin((connection, "stall"), True, lambda on: wire.stall(on is not None))
            case "slow":
                return self._standing.begin((connection, "slow"), fault.delay_s,
                                            lambda delay_s: setattr(wire, "delay_s", delay_s or 0.0))
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
            return self._standing.begin((connection, "flood"), fault.times,
                                        partial(_set, self._plant.floods, connection))
        if protocol == "opc_ua":
            return await self._opc_ua(fault)
        return self._publisher_fault(fault, connection)

    def _kill(self, fault: FaultTable, connection: str, protocol: Protocol) -> Undo:
        device = next(one for one in self._plant.layout.of(connection) if one.id == fault.device)
        if protocol == "modbus_tcp":
            return self._dead(connection, self._plant.modbus[connection].silent, device.unit)
        if protocol == "opc_ua":
            assert self._plant.opc_ua is not None
            failed = self._plant.opc_ua.failed
        else:
            failed = next(m.dead for m, ids in self._publishers(connection) if device.id in ids)
        return self._dead(connection, failed, device.id)

    def _dead(self, connection: str, dead: set[T], one: T) -> Undo:
        return self._standing.begin((connection, "dead", one), True,
                                    lambda on: dead.discard(one) if on is None else dead.add(one))

    def _reply_fault(self, fault: FaultTable, connection: str) -> Undo:
        line = self._plant.modbus[connection].line
        unit = next((one.unit for one in self._plant.layout.of(connection) if one.id == fault.device), None)
        kind = "twice" if fault.kind == "flood" else fault.kind
        assert kind == "garbage" or kind in REPLIES
        played = Fault(kind=kind, unit=unit, every=fault.every, delay_s=fault.delay_s,  # type: ignore[arg-type]  # see above
                       times=fault.times if fault.kind == "flood" else 2)
        line.faults.append(played)
        return lambda: line.faults.pop(next(i for i, one in enumerate(line.faults) if one is played))

    async def _opc_ua(self, fault: FaultTable) -> Undo:
        server, machines = self._plant.opc_ua, self._plant.machines
        assert server is not None
        if fault.kind == "clock":
            return self._standing.begin(("machines", "clock"), fault.jump_s, partial(_put_clock, server))
        points = [(device.id, point.id) for device in server.devices for point in device.points
                  if fault.device in (None, device.id)]
        chosen = points[fault.every - 1::fault.every]
        fresh = [point for point in chosen if not self._gone[point]]
        self._gone.update(chosen)
        await server.remove(fresh)

        async def end() -> None:
            self._gone.subtract(chosen)
            await server.bring_back([point for point in chosen if not self._gone[point]], machines)

        return end

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
            return _all([self._standing.begin((id(one), "clock"), fault.jump_s, partial(_put_clock, one))
                         for one in chosen])
        undo = None
        if fault.kind == "missing_birth":
            undo = self._meet(chosen, fault.kind, 1)
        if fault.kind in ("death", "missing_birth"):
            for node in self._plant.nodes:
                if node.mischief in chosen:
                    node.vanish()
            return undo
        assert fault.kind in PUBLISHED
        return self._meet(chosen, fault.kind, fault.every)

    def _meet(self, publishers: Iterable[Mischief], kind: str, every: int) -> Undo:
        """Have each N-th message of these publishers meet a fault."""
        return _all([self._standing.begin((id(one), kind), every, partial(_set, one.on, kind)) for one in publishers])


def _put_clock(device: Mischief | OpcUaPlant, jump_s: float | None) -> None:
    device.clock_s = jump_s or 0.0


def _set(values: dict[str, T], name: str, value: T | None) -> None:
    if value is None:
        values.pop(name, None)
    else:
        values[name] = value


def _all(steps: list[Undo]) -> Undo:
    """Return what takes all these steps, none of which is awaited."""
    return lambda: [step() for step in steps] and None
