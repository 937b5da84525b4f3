"""One running plant: the machines, the clock that moves them, and every server that shows them.

`Plant` joins the parts; `run_plant` is the whole life of one, for the command line, the demo and tests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from protocols.errors import DeviceError, Problem
from simulators import ledger
from simulators.certificates import make_server_files
from simulators.layout import CONNECTION_OF, EDGE_NODES, Layout, draw_layout
from simulators.ledger import Endpoints
from simulators.modbus_faults import of_connection
from simulators.modbus_server import ModbusPlant
from simulators.mqtt_faults import Delivered
from simulators.mqtt_plant import CONNECT_TIMEOUT_S, EdgeNode, EmbeddedBroker, JsonDevices, broker_address
from simulators.opcua_server import OpcUaPlant
from simulators.pcap import Capture
from simulators.player import Player
from simulators.sent import PointKey, Sent, sent_json
from simulators.settings import EMBEDDED, PlantFile
from simulators.signals import Machine, Value
from simulators.wire import Wire

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 2.5
"""A client that does not hang up must not keep a plant from ending."""

SENT_FILE = "sent.json"
SENT_S = 5.0
"""How often the true numbers are written while the plant runs; they are exact when it has ended."""

FILES = ("devices.csv", "points.csv", "connections.toml", "plant.json", "endpoints.json")
"""In the order in which they are written; endpoints.json comes last, so that its presence means all are there."""


class _Part(Protocol):
    """A server or a publisher of the plant."""

    async def stop(self) -> None:
        """End it; ending what never started is no error."""


class Plant:
    """A plant that listens. `machines` holds the present values of every physical machine, by its name."""

    def __init__(self, settings: PlantFile, out: Path, *, capture: Path | None = None) -> None:
        """capture: where to record what passes between the plant and its clients. Raises OSError."""
        self.settings = settings
        self.out = out.resolve()
        self.layout: Layout = draw_layout(settings.plant.seed, settings.numbers())
        self._running = {device.machine: Machine(device.signals, device.rhythm, f"signals/{device.machine}")
                         for device in reversed(self.layout.devices)}  # of two rows of one machine the first decides
        self.machines: dict[str, list[Value]] = {name: machine.values for name, machine in self._running.items()}
        faults = [table.fault() for table in settings.modbus.faults]
        self.capture = Capture(capture) if capture is not None else None
        self.sent = {name: Sent() for names in CONNECTION_OF.values() for name in names}
        self.wires = {name: Wire(sent, capture=self.capture) for name, sent in self.sent.items()}
        self.ready_s = 0.0
        """When the plant was ready, by the loop's clock: the scenario begins then."""
        self.floods: dict[str, int] = {}
        """Connection -> how often everything there changes in each tick."""
        self.modbus = {name: ModbusPlant(self.layout.of(name), of_connection(faults, name), wire=self.wires[name],
                                         is_rtu=framing == "rtu")
                       for name, framing in zip(CONNECTION_OF["modbus_tcp"], settings.modbus.framing, strict=True)}
        self.opc_ua: OpcUaPlant | None = None
        self._has_broker = bool(self.layout.of("edge") or self.layout.of("sensors"))
        self.broker = EmbeddedBroker() if settings.mqtt.broker == EMBEDDED and self._has_broker else None
        self.nodes: list[EdgeNode] = []
        self.sensors: JsonDevices | None = None
        self._delivered: Delivered | None = None
        self.player = Player(self, settings.faults)
        self.going = asyncio.Event()
        """Cleared, the machines stand still."""
        self.going.set()
        self._ticks: asyncio.Task[None] | None = None

    async def start(self) -> Endpoints:
        """Start every server, then write the files. Raises DeviceError when a port or the broker is not to be had."""
        host = self.settings.plant.host
        if self.broker is None and self._has_broker:
            await self._reach(self.settings.mqtt.broker)
        self.out.mkdir(parents=True, exist_ok=True)
        files = await asyncio.to_thread(make_server_files, self.out / "pki", name=f"{self.layout.site} machines",
                                        application_uri=self.layout.application_uri)
        try:
            if self.layout.of("machines"):  # a plant without them need not wait for the slowest of its servers
                self.opc_ua = OpcUaPlant(self.layout, self.layout.of("machines"), files, self.wires["machines"])
                await self.opc_ua.start(host, self.settings.opc_ua.port, self.machines)
            for server, port in zip(self.modbus.values(), self.settings.modbus.ports, strict=True):
                await server.start(host, port, self.machines)
            if self.broker is not None:
                await self.broker.start(host, self.settings.mqtt.port)
        except OSError as error:
            await self.stop()
            raise DeviceError(Problem.of(host, "simulators.no_port", reason=error)) from error
        broker = "" if not self._has_broker else \
            self.settings.mqtt.broker if self.broker is None else self.broker.endpoint
        try:
            if self._has_broker:
                await self._start_publishers(broker)
                for name in ("edge", "sensors"):
                    await self.wires[name].open(host, 0, broker_address(broker))
        except OSError as error:
            await self.stop()
            raise DeviceError(Problem.of(broker, "simulators.no_broker", reason=error)) from error
        endpoints = Endpoints(
            opc_ua=self.opc_ua.endpoint if self.opc_ua is not None else "",
            opc_ua_certificate=str(files.certificate), trust_dir=str(files.trust_dir),
            modbus={name: server.endpoint for name, server in self.modbus.items()},
            rtu=tuple(name for name, server in self.modbus.items() if server.is_rtu), mqtt=broker,
            brokers={name: f"mqtt://{host}:{self.wires[name].port}" for name in ("edge", "sensors")},
            broker=EMBEDDED if self.broker is not None else "external")
        self.ready_s = asyncio.get_running_loop().time()
        self._ticks = asyncio.create_task(self._live())
        self._write(endpoints)
        return endpoints

    async def _reach(self, broker: str) -> None:
        """See whether anything listens where the broker should be, before anything is started."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, writer = await asyncio.open_connection(*broker_address(broker))
        except OSError as error:
            raise DeviceError(Problem.of(broker, "simulators.no_broker", reason=error)) from error
        writer.close()

    async def _start_publishers(self, broker: str) -> None:
        by_node = {node: [device for device in self.layout.of("edge") if device.place.startswith(f"{node}/")]
                   for node in EDGE_NODES}
        for node, devices in by_node.items():
            edge = EdgeNode(self.layout, node, devices, broker, self.machines)
            self.nodes.append(edge)
            await edge.start()
        self.sensors = JsonDevices(self.layout, self.layout.of("sensors"), broker, self.machines)
        await self.sensors.start()
        aliases: dict[tuple[str, int], PointKey] = {}
        for edge in self.nodes:
            aliases |= edge.aliases
        delivered = self._delivered = Delivered(
            self.layout.group, self.layout.of("edge"), self.layout.of("sensors"), aliases, self.sent)
        for name in ("edge", "sensors"):
            self.wires[name].make_tap = delivered.reader
            self.wires[name].make_client_tap = delivered.client_reader

    async def restart(self, connection: str, away_s: float) -> None:
        """End the server of a connection and have it back after a while."""
        if connection in self.modbus:
            await self.modbus[connection].restart(away_s, self.machines)
        elif connection == "machines":
            assert self.opc_ua is not None
            await self.opc_ua.restart(away_s)
        else:
            assert self.broker is not None
            for name in ("edge", "sensors"):
                self.wires[name].shut()
            await self.broker.restart(away_s)
            for name in ("edge", "sensors"):
                await self.wires[name].welcome()

    async def _live(self) -> None:
        """Let time pass, play what goes wrong, and write down what was sent."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run())
            group.create_task(self.player.run())
            group.create_task(self._tell_sent())

    async def _tell_sent(self) -> None:
        while True:
            self.write_sent()
            await asyncio.sleep(SENT_S)

    def write_sent(self) -> None:
        """Write sent.json as it is now."""
        write_whole(self.out / SENT_FILE, sent_json(
            self.sent, {"modbus": sum(server.writes for server in self.modbus.values()),
                        "opc_ua": self.opc_ua.writes if self.opc_ua else 0,
                        "mqtt": self._delivered.writes if self._delivered else 0},
            {**{f"{name} connections": len(wire.passages) for name, wire in self.wires.items()},
             "opc_ua sessions": self.opc_ua.sessions if self.opc_ua else 0,
             "opc_ua subscriptions": len(self.opc_ua.subscriptions) if self.opc_ua else 0},
            at_s=asyncio.get_running_loop().time() - self.ready_s))

    async def _run(self) -> None:
        """Move the machines once a tick and show their values everywhere."""
        tick_s = self.settings.plant.tick_s
        due = time.monotonic()
        while True:
            due += tick_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not self.going.is_set():
                await self.going.wait()
                due = time.monotonic()
            for name, machine in self._running.items():
                self.machines[name] = machine.step(tick_s)
            for connection in self.sent:
                await self._show(connection)
            for connection, times in list(self.floods.items()):
                for _ in range(times - 1):
                    for device in self.layout.of(connection):
                        self.machines[device.machine] = self._running[device.machine].step(tick_s / times)
                    await self._show(connection)

    async def _show(self, connection: str) -> None:
        """Have one connection tell the present values."""
        if connection in self.modbus:
            await self.modbus[connection].update(self.machines)
        elif connection == "machines":
            if self.opc_ua is not None:
                await self.opc_ua.update(self.machines)
        elif connection == "edge":
            for node in self.nodes:
                node.publish()
        elif self.sensors is not None:
            self.sensors.publish()

    @property
    def writes(self) -> int:
        """Requests to write over Modbus or OPC UA, which were refused, and messages published to the plant's broker by
        its address for gateways, but for rebirth requests and STATE: a gateway must never send one."""
        return (sum(server.writes for server in self.modbus.values()) + (self.opc_ua.writes if self.opc_ua else 0)
                + (self._delivered.writes if self._delivered else 0))

    async def failed(self) -> None:
        """Return only if the clock of the plant stops by an error, and raise that error."""
        assert self._ticks is not None
        await asyncio.shield(self._ticks)

    async def stop(self) -> None:
        """End everything: the clock, then those who publish, then those who listen."""
        if self._ticks is not None:
            self._ticks.cancel()
            await asyncio.gather(self._ticks, return_exceptions=True)
        publishers: list[_Part] = [*self.nodes, *([self.sensors] if self.sensors is not None else [])]
        servers: list[_Part] = [*self.modbus.values(), *([self.opc_ua] if self.opc_ua is not None else []),
                   *([self.broker] if self.broker is not None else [])]
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for group in filter(None, (publishers, servers)):
            left_s = max(0.2, deadline - time.monotonic())
            done, late = await asyncio.wait([asyncio.create_task(part.stop()) for part in group], timeout=left_s)
            for task in done:
                if task.exception() is not None:
                    log.warning("while stopping: %r", task.exception())
            for task in late:
                task.cancel()
        for wire in self.wires.values():
            wire.close()
        if self.capture is not None:
            self.capture.close()
        if self.ready_s:
            self._note_played()
            self.write_sent()

    def _note_played(self) -> None:
        """Add how often the faults of answers and messages were met."""
        for name, server in self.modbus.items():
            self.sent[name].faults.update({f"{kind} answers": count for kind, count in server.line.played.items()})
        for name, publishers in (("edge", [node.mischief for node in self.nodes]),
                                 ("sensors", [self.sensors.mischief] if self.sensors is not None else [])):
            for mischief in publishers:
                self.sent[name].faults.update({f"{kind} messages": count for kind, count in mischief.played.items()})

    def _write(self, endpoints: Endpoints) -> None:
        texts = (ledger.devices_csv(self.layout), ledger.points_csv(self.layout),
                 ledger.connections_toml(self.layout, endpoints), ledger.plant_json(self.layout),
                 ledger.endpoints_json(self.layout, endpoints))
        for name, text in zip(FILES, texts, strict=True):
            write_whole(self.out / name, text)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


async def run_plant(settings: PlantFile, out: Path, stop: asyncio.Event,
                    ready: Callable[[Plant, Endpoints], None], *, capture: Path | None = None) -> Plant:
    """Run a plant until `stop` is set; `ready` is called when every server listens and every file is written.

    Returns the plant, ended. Raises DeviceError when it cannot start, and whatever stopped its clock.
    """
    try:
        plant = Plant(settings, out, capture=capture)
    except OSError as error:
        raise DeviceError(Problem.of(str(capture), "simulators.no_capture", reason=error)) from error
    endpoints = await plant.start()
    try:
        ready(plant, endpoints)
        stopping = asyncio.create_task(stop.wait())
        failing = asyncio.create_task(plant.failed())
        done, _ = await asyncio.wait((stopping, failing), return_when=asyncio.FIRST_COMPLETED)
        for task in (stopping, failing):
            if task not in done:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        if failing in done:
            failing.result()
    finally:
        await plant.stop()
    return plant
