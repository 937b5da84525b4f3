"""Points of the ledger with their addresses parsed, and what is wrong with them: alone, and beside each other."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from config.ledger import PointRow
from protocols.errors import ConfigError, Problem
from protocols.modbus.target import ModbusAddress, ModbusPoint, parse_labels
from protocols.modbus.target import parse_address as parse_modbus
from protocols.mqtt.target import (
    JsonAddress,
    MqttPoint,
    SparkplugAddress,
    SparkplugPoint,
    parse_json_address,
    parse_sparkplug_address,
)
from protocols.opcua.target import OpcUaAddress
from protocols.opcua.target import parse_address as parse_opcua
from protocols.packed import Packed

Address = ModbusAddress | OpcUaAddress | SparkplugAddress | JsonAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of the ledger with its parsed address; `device` and `id` are the ledger's."""

    device: str
    id: str
    protocol: str
    role: str
    type: str | None
    address: Address
    order: str
    scale: float
    offset: float
    where: str
    labels: tuple[tuple[int, str], ...] = ()
    template: str = ""
    """The row of a template that it was made of, empty for a row of its own."""


def device_of_each(points: Sequence[Point]) -> Iterable[str]:
    """Return the device of each point. Of packed points none is made."""
    return points.column("device") if isinstance(points, Packed) else [point.device for point in points]


def of_devices(points: Sequence[Point], devices: Container[str]) -> Iterator[Point]:
    """Yield the points of some devices. Of packed points only these are made."""
    return (points[place] for place, device in enumerate(device_of_each(points)) if device in devices)


def parsed(row: PointRow, protocol: str) -> tuple[Point | None, list[Problem]]:
    """Return the point of a row of a connection with this protocol, or None and what is wrong with it."""
    where = f"{row.where}, address"
    if protocol in ("opc_ua", "sparkplug_b", "mqtt") and row.columns_of_modbus:
        return None, [Problem.of(f"{row.where}, {column}", "ledger.modbus_only", protocol=protocol)
                      for column in row.columns_of_modbus]
    # A point is built once, slots follow with the roster: its own checks say what is wrong with type, order, scale.
    labels: tuple[tuple[int, str], ...] = ()
    try:
        address: Address
        if protocol == "opc_ua":
            address = parse_opcua(row.address, where)
        elif protocol == "sparkplug_b":
            address = parse_sparkplug_address(row.address, where=where)
            SparkplugPoint(point_index=0, device_index=0, address=address, type=row.type, where=f"{row.where}, type")
        elif protocol == "mqtt":
            address = parse_json_address(row.address, where=where)
            MqttPoint(point_index=0, device_index=0, address=address, type=row.type, where=f"{row.where}, type")
        else:
            labels = parse_labels(row.labels, where=f"{row.where}, labels")
            address = parse_modbus(row.address, row.type, where=where)
            ModbusPoint(point_index=0, device_index=0, address=address, order=row.order, scale=row.scale,
                        offset=row.offset, labels=labels, where=row.where)
    except ConfigError as error:
        return None, list(error.problems)
    type_ = address.type if isinstance(address, ModbusAddress) else row.type
    return Point(device=row.device, id=row.id, protocol=protocol, role=row.role, type=type_ or None, address=address,
                 order=row.order, scale=row.scale, offset=row.offset, labels=labels, where=row.where,
                 template=row.template), []


def duplicates(points: Iterable[Point], connection_of: dict[str, str]) -> Iterator[tuple[str, Problem]]:
    """Yield (template row, problem): the same address twice behind one connection, where one variable is one point."""
    first: dict[tuple[str, str], Point] = {}
    for point in points:
        other = first.setdefault((connection_of[point.device], point.address.canonical), point)
        if other is not point:
            yield point.template, Problem.of(f"{point.where}, address", "ledger.double_address",
                                             address=point.address.canonical, first=other.where)


def overlaps(points: Iterable[Point]) -> Iterator[tuple[str, Problem]]:
    """Yield (template row, problem): numbers that share a register. Bits of one register, and it itself, may."""
    ranges: dict[tuple[str, int, str], list[tuple[int, int, Point]]] = {}
    for point in points:
        if isinstance(point.address, ModbusAddress):
            at = point.address
            ranges.setdefault((point.device, at.unit, at.table), []).append((at.address, at.end, point))
    for group in ranges.values():
        group.sort(key=lambda item: item[:2])
        widest = group[0]
        for here in group[1:]:
            start, end, point = here
            if start < widest[1] and (start, end) != widest[:2]:
                yield point.template, Problem.of(
                    f"{point.where}, address", "ledger.overlap", address=point.address.canonical,
                    first=widest[2].where, other=widest[2].address.canonical)
            if end > widest[1]:
                widest = here
