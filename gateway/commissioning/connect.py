"""From configuration and roster to drivers: one for each connection, its points aimed at their slots."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from config.gateway import Endpoint, GatewayConfig
from config.points import Point, device_of_each
from gateway.commissioning.roster import Roster
from protocols.errors import ConfigError, Problem
from protocols.modbus.target import ModbusAddress, ModbusEndpoint, ModbusPoint
from protocols.mqtt.target import JsonAddress, MqttEndpoint, MqttPoint, SparkplugAddress, SparkplugPoint
from protocols.opcua.target import OpcUaAddress, OpcUaEndpoint, OpcUaPoint
from protocols.samples import Sink
from protocols.terms.check import CheckResult


class Driver(Protocol):
    """What every driver can do. None of the three shares a base class with another."""

    async def run(self) -> None:
        """Collect until cancelled."""

    async def check(self) -> list[CheckResult]:
        """Dry-connect, and say of each device whether it passes."""

    def plan(self) -> list[dict[str, str]]:
        """Return the requests that would be sent, as rows of text. No network."""


Aim = tuple[int, int, Point]
"""Point slot, device slot, point."""

Aims = dict[str, list[Aim]]
"""Connection name -> its points, in the order of the ledger."""

POINTS_AT_ONCE = 8192
"""Points of small connections that are made together; a larger one is alone."""


def aims(config: GatewayConfig, roster: Roster) -> Aims:
    """Return which slots each connection collects; an empty list for one that no device uses.

    The roster must hold every device and point of `config` (gateway/commissioning/roster.py, `evolve`).
    """
    return dict(_aims(config, roster, config.endpoints))


def _aims(config: GatewayConfig, roster: Roster, names: Iterable[str]) -> Iterator[tuple[str, list[Aim]]]:
    """Yield the aims of these connections one by one: who lets go of them holds those of one group, never of all."""
    alive = roster.device_slots()
    behind: dict[str, dict[str, int]] = {name: {} for name in names}
    places = {name: array("I") for name in behind}  # of one pass: there may be a thousand connections
    place_of: dict[str, array[int]] = {}
    for device in config.devices:
        if device.connection in behind:
            behind[device.connection][device.id] = alive[device.id]
            place_of[device.id] = places[device.connection]
    for place, owner in enumerate(device_of_each(config.points)):
        if owner in place_of:
            place_of[owner].append(place)
    for group in _groups(places):
        slots = roster.point_slots({slot for name in group for slot in behind[name].values()})
        made: Aims = {name: [] for name in group}
        for place, owner in sorted((place, name) for name in group for place in places[name]):
            point = config.points[place]
            slot = behind[owner][point.device]
            made[owner].append((slots[slot, point.address.canonical], slot, point))
        for name in group:
            yield name, made.pop(name)


def _groups(places: Mapping[str, Sequence[int]]) -> Iterator[list[str]]:
    """Yield connections that are looked up together, in the order of the file.

    Packed points are read fast from front to back only: where a ledger names one point of each machine, then the next
    one of each, going through it for every connection alone takes as long as the whole ledger each time.
    """
    group: list[str] = []
    held = 0
    for name, found in places.items():
        if group and held + len(found) > POINTS_AT_ONCE:
            yield group
            group, held = [], 0
        group.append(name)
        held += len(found)
    if group:
        yield group


def build_drivers(config: GatewayConfig, roster: Roster, sink: Sink, clock_ns: Callable[[], int] = time.time_ns, *,
                  only: Collection[str] | None = None) -> dict[str, Driver]:
    """Return connection name -> driver, in the order of the file. A connection without a point has no driver.

    Only the libraries of the protocols in use are loaded. roster: see `aims`. only: these connections, None for all.
    Raises: ConfigError with what every connection that cannot be collected says.
    """
    drivers: dict[str, Driver] = {}
    problems: list[Problem] = []
    for name, points in _aims(config, roster, [n for n in config.endpoints if only is None or n in only]):
        if not points:
            continue
        try:
            drivers[name] = _driver(config.endpoints[name], points, sink, clock_ns)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return drivers


def _driver(endpoint: Endpoint, aimed: list[Aim], sink: Sink,
            clock_ns: Callable[[], int]) -> Driver:
    # Each library costs a second of start-up on an industrial PC: only what is used is imported.
    if isinstance(endpoint, ModbusEndpoint):
        from protocols.modbus.driver import Driver as ModbusDriver

        return ModbusDriver(endpoint, [_modbus(*a) for a in aimed], sink, clock_ns)
    if isinstance(endpoint, OpcUaEndpoint):
        from protocols.opcua.driver import OpcUaDriver

        return OpcUaDriver(endpoint, [_opcua(*a) for a in aimed], sink, clock_ns)
    assert isinstance(endpoint, MqttEndpoint)
    from protocols.mqtt.driver import Driver as MqttDriver

    return MqttDriver(endpoint, [_mqtt(*a) for a in aimed], sink, clock_ns)


def _modbus(slot: int, device: int, point: Point) -> ModbusPoint:
    assert isinstance(point.address, ModbusAddress)
    return ModbusPoint(point_index=slot, device_index=device, address=point.address, order=point.order,
                       scale=point.scale, offset=point.offset, labels=point.labels, where=point.where)


def _opcua(slot: int, device: int, point: Point) -> OpcUaPoint:
    assert isinstance(point.address, OpcUaAddress)
    return OpcUaPoint(point_index=slot, device_index=device, address=point.address, type=point.type or "")


def _mqtt(slot: int, device: int, point: Point) -> MqttPoint | SparkplugPoint:
    if isinstance(point.address, SparkplugAddress):
        return SparkplugPoint(point_index=slot, device_index=device, address=point.address, type=point.type or "",
                              where=point.where)
    assert isinstance(point.address, JsonAddress)
    return MqttPoint(point_index=slot, device_index=device, address=point.address, type=point.type or "",
                     where=point.where)
