"""What a plant consists of: an owner, devices, points and their addresses, drawn from a seed. Pure.

The same seed gives the same plant. Three kinds of odd device are drawn among the others: one that is configured and
dead, one that has only a heartbeat, and one machine that is reached twice, over OPC UA and over Modbus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from protocols.terms.uscc import check_character
from simulators.catalogue import HEARTBEAT, KINDS, Kind, Maker
from simulators.kinds import Protocol
from simulators.signals import Moves, Rhythm, Signal

DEFAULT_SEED = 1
Fate = Literal["live", "dead", "heartbeat"]
CONNECTION_OF: dict[Protocol, tuple[str, ...]] = {
    "opc_ua": ("machines",), "modbus_tcp": ("utilities-a", "utilities-b"), "sparkplug_b": ("edge",),
    "mqtt": ("sensors",)}
"""Names of the connections of each protocol; Modbus devices are spread over two servers."""

EDGE_NODES = ("edge-1", "edge-2")
WORD_ORDERS = ("ABCD", "CDAB", "BADC", "DCBA")
MODBUS_BASES = (0, 100, 1000, 4096)
MODBUS_UNITS_MAX = 240
DEVICES_MAX = 400
POINTS_MAX = 10_000
ODD_PROTOCOL_OF_DEFAULT_SEED: Protocol = "modbus_tcp"
REGIONS = ("360100", "360200", "360300", "360400", "360500", "360600", "360700", "360800", "360900", "361000", "361100")
OWNERS = ("赣江精工制造有限公司", "昌北机械股份有限公司", "信江装备科技有限公司", "袁河智能制造有限公司")
WORKSHOPS = ("一车间", "二车间", "三车间")


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """How many devices of each kind a plant has; the odd ones are among them, not beside them."""

    opc_ua: int = 14
    modbus_tcp: int = 14
    sparkplug_b: int = 8
    mqtt: int = 4
    dead: int = 1
    heartbeat_only: int = 1
    reached_twice: int = 1
    points: int | None = None
    """So many for every device, all of which change in every tick; None for those of its kind."""

    @property
    def devices(self) -> int:
        """Rows of the asset ledger."""
        return self.opc_ua + self.modbus_tcp + self.sparkplug_b + self.mqtt

    @property
    def possible(self) -> bool:
        """Whether a plant of these numbers can be drawn."""
        odd = self.dead + self.heartbeat_only + 2 * self.reached_twice
        return (min(self.opc_ua, self.modbus_tcp) >= self.reached_twice and odd <= self.devices <= DEVICES_MAX
                and self.modbus_tcp <= 2 * MODBUS_UNITS_MAX)


@dataclass(frozen=True, slots=True)
class ModbusPlace:
    """Where a value sits in a unit: table, protocol address, and the bit when a register carries switches."""

    table: Literal["coil", "discrete", "input", "holding"]
    address: int
    bit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One row of points.csv, and where its value comes from.

    Attributes:
        address: the address in the form that an engineer writes into the ledger.
        place: where the server keeps it: a ModbusPlace, a string node id, a metric name or a JSON pointer.
        signal: position in the device's machine.
        scale: value = raw x scale, Modbus only; 1.0 elsewhere.
    """

    id: str
    address: str
    place: ModbusPlace | str
    type: str
    role: str
    signal: int
    moves: Moves
    order: str = ""
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One row of devices.csv. `machine` names the physical machine: two rows with one machine are one device."""

    id: str
    name: str
    maker: Maker
    model: str
    serial: str
    asset: str
    class_key: str
    industry: str
    energy: bool
    protocol: Protocol
    connection: str
    place: str
    machine: str
    product_instance_uri: str
    fate: Fate
    signals: tuple[Signal, ...]
    rhythm: Rhythm
    holes: bool = False
    points: tuple[Point, ...] = ()

    @property
    def unit(self) -> int:
        """Modbus unit id."""
        return int(self.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A whole plant."""

    seed: int
    owner: str
    uscc: str
    region: str
    site: str
    namespace_uri: str
    application_uri: str
    group: str
    devices: tuple[Device, ...]

    def of(self, connection: str) -> tuple[Device, ...]:
        """Return the devices of one connection, in ledger order."""
        return tuple(device for device in self.devices if device.connection == connection)


def draw_numbers(seed: int) -> Numbers:
    """Return the numbers of a plant: the smallest plant for the default seed, a larger one for any other."""
    if seed == DEFAULT_SEED:
        return Numbers()
    draw = Random(f"numbers/{seed}")
    return Numbers(opc_ua=draw.randint(14, 20), modbus_tcp=draw.randint(14, 20), sparkplug_b=draw.randint(8, 12),
                   mqtt=draw.randint(4, 7), dead=draw.randint(1, 2), heartbeat_only=draw.randint(1, 2),
                   reached_twice=draw.randint(1, 2))


def draw_layout(seed: int, numbers: Numbers | None = None) -> Layout:
    """Return the plant of a seed. Raises ValueError when `numbers` is not possible."""
    numbers = numbers or draw_numbers(seed)
    if not numbers.possible:
        raise ValueError(f"no plant has these numbers: {numbers}")
    draw = Random(f"layout/{seed}")
    region = draw.choice(REGIONS)
    owner = draw.choice(OWNERS)
    rows = _draw_rows(draw, numbers)
    twice = _draw_pairs(draw, rows, numbers.reached_twice)
    fates = _draw_fates(draw, rows, seed, numbers, {row for pair in twice.items() for row in pair})
    site = f"plant-{seed}"
    devices: list[Device] = []
    namespace_uri = f"urn:tallystick:simulators:{site}"
    named: dict[str, int] = {}
    places: dict[str, int] = {}
    for row, (protocol, kind) in enumerate(rows):
        if row in twice:  # the second row of a machine: the same nameplate under another name
            kind = rows[twice[row]][1]
        named[kind.prefix] = number = named.get(kind.prefix, 0) + 1
        connection = _spread(CONNECTION_OF[protocol], row)
        places[connection] = place = places.get(connection, 0) + 1
        device = _draw_device(draw, row, protocol, kind, number, connection, place, fates.get(row, "live"), site)
        if numbers.points is not None and device.fate != "heartbeat":
            device = replace(device, signals=tuple(
                Signal(key=f"v{i + 1}", shape="heartbeat", role="parameter", high=60_000.0)
                for i in range(numbers.points)))
        if row in twice:
            first = devices[twice[row]]
            device = replace(device, model=first.model, serial=first.serial, asset="", machine=first.machine,
                             name=f"{kind.name}{number}号（动力站登记）")
        devices.append(replace(device, points=_points(draw, device, namespace_uri, site)))
    return Layout(seed=seed, owner=owner, uscc=_draw_uscc(draw, region), region=region, site=site,
                  namespace_uri=namespace_uri, application_uri=f"{namespace_uri}:server", group=site,
                  devices=tuple(devices))


def _spread(choices: tuple[str, ...], row: int) -> str:
    return choices[row % len(choices)]


def _draw_rows(draw: Random, numbers: Numbers) -> list[tuple[Protocol, Kind]]:
    """Return protocol and kind of every row: the kinds at home on a protocol take turns, in a drawn order."""
    rows: list[tuple[Protocol, Kind]] = []
    counts: tuple[tuple[Protocol, int], ...] = (
        ("opc_ua", numbers.opc_ua), ("modbus_tcp", numbers.modbus_tcp), ("sparkplug_b", numbers.sparkplug_b),
        ("mqtt", numbers.mqtt))
    for protocol, count in counts:
        home = [kind for kind in KINDS if kind.home == protocol]
        draw.shuffle(home)
        rows.extend((protocol, home[i % len(home)]) for i in range(count))
    return rows


def _draw_pairs(draw: Random, rows: list[tuple[Protocol, Kind]], pairs: int) -> dict[int, int]:
    """Return {row of the second entry, over Modbus: row of the first, over OPC UA}."""
    by_opc_ua = [row for row, (protocol, _) in enumerate(rows) if protocol == "opc_ua"]
    by_modbus = [row for row, (protocol, _) in enumerate(rows) if protocol == "modbus_tcp"]
    return dict(zip(draw.sample(by_modbus, pairs), draw.sample(by_opc_ua, pairs), strict=True))


def _draw_fates(draw: Random, rows: list[tuple[Protocol, Kind]], seed: int, numbers: Numbers,
                taken: set[int]) -> dict[int, Fate]:
    """Return the rows that are dead or have only a heartbeat. The dead device of the default plant speaks Modbus."""
    free = [row for row in range(len(rows)) if row not in taken]
    draw.shuffle(free)
    if seed == DEFAULT_SEED:
        free.sort(key=lambda row: rows[row][0] != ODD_PROTOCOL_OF_DEFAULT_SEED)  # stable: still in drawn order
    dead, rest = free[:numbers.dead], free[numbers.dead:]
    draw.shuffle(rest)
    fates: dict[int, Fate] = dict.fromkeys(dead, "dead")
    fates.update(dict.fromkeys(rest[:numbers.heartbeat_only], "heartbeat"))
    return fates


def _draw_device(draw: Random, row: int, protocol: Protocol, kind: Kind, number: int, connection: str, place: int,
                 fate: Fate, site: str) -> Device:
    device_id = f"{kind.prefix}-{number:02d}"
    serial = f"{kind.maker.brand[:2]}{draw.randint(2015, 2024)}{draw.randrange(1_000):03d}{row:03d}"
    where = {"opc_ua": device_id, "modbus_tcp": str(place), "mqtt": f"{site}/sensors/{device_id}",
             "sparkplug_b": f"{_spread(EDGE_NODES, row)}/{device_id}"}[protocol]
    uri = f"urn:{kind.maker.brand.lower()}.example:{serial}" if protocol == "opc_ua" else ""
    return Device(
        id=device_id, name=f"{draw.choice(WORKSHOPS)}{kind.name}{number}号", maker=kind.maker,
        model=draw.choice(kind.models), serial=serial, asset=f"GD-{draw.randint(2015, 2024)}-{row + 1:04d}",
        class_key=kind.class_key, industry=kind.industry, energy=kind.energy, protocol=protocol,
        connection=connection, place=where, machine=serial, product_instance_uri=uri, fate=fate,
        signals=(HEARTBEAT,) if fate == "heartbeat" else kind.signals, rhythm=kind.rhythm,
        holes=protocol == "modbus_tcp" and place % 5 == 3)


def _draw_uscc(draw: Random, region: str) -> str:
    """Return a valid code: 91 (enterprise), region, organisation code by GB 11714, check character by GB 32100."""
    body = "MA" + "".join(draw.choice("0123456789") for _ in range(6))
    weighted = sum(int(c, 36) * w for c, w in zip(body, (3, 7, 9, 10, 5, 8, 4, 2), strict=True))
    rest = 11 - weighted % 11
    first17 = f"91{region}{body}{'X' if rest == 10 else rest % 11}"
    return first17 + check_character(first17)


def _points(draw: Random, device: Device, namespace_uri: str, site: str) -> tuple[Point, ...]:
    match device.protocol:
        case "opc_ua":
            return tuple(_named(device, i, f"nsu={namespace_uri};s={device.id}.{s.key}", f"{device.id}.{s.key}")
                         for i, s in enumerate(device.signals))
        case "sparkplug_b":
            return tuple(_named(device, i, f"{site}/{device.place}#{_metric(s)}", _metric(s))
                         for i, s in enumerate(device.signals))
        case "mqtt":
            return tuple(_named(device, i, f"{device.place}#{pointer(s)}", pointer(s))
                         for i, s in enumerate(device.signals))
        case "modbus_tcp":
            return _modbus_points(draw, device)


def _named(device: Device, i: int, address: str, place: str) -> Point:
    """Return a point of a protocol that names its values and knows their types."""
    signal = device.signals[i]
    kind = "string" if signal.shape == "program" else "bool" if signal.shape == "switch" else (
        "int32" if signal.whole else "float64")
    return Point(id=signal.key, address=address, place=place, type=kind, role=signal.role, signal=i,
                 moves=signal.moves)


def _metric(signal: Signal) -> str:
    return f"{'Status' if signal.role in ('switch', 'heartbeat') else 'Process'}/{signal.key}"


def pointer(signal: Signal) -> str:
    """Return where a JSON device puts a signal; `name_1`, `name_2` become the elements of one array."""
    group = {"switch": "status", "heartbeat": "info", "constant": "info"}.get(signal.role, "values")
    numbered = re.fullmatch(r"(.+)_(\d)", signal.key)
    return f"/{group}/{numbered[1]}/{int(numbered[2]) - 1}" if numbered else f"/{group}/{signal.key}"


class _Table:
    """Gives out the addresses of one table of one unit, upwards; now and then a few are left out."""

    __slots__ = ("_draw", "next")

    def __init__(self, draw: Random, base: int) -> None:
        self._draw = draw
        self.next = base

    def take(self, width: int) -> int:
        if self._draw.random() < 0.2:
            self.next += self._draw.randint(1, 2)
        address = self.next
        self.next += width
        return address


def _modbus_points(draw: Random, device: Device) -> tuple[Point, ...]:
    """Return the register map of one unit: each maker has another word order, number format and place for switches."""
    order = _spread(WORD_ORDERS, device.unit)
    floats = draw.random() < 0.5
    switches = draw.choice(("word", "discrete", "coil"))
    base = draw.choice(MODBUS_BASES)
    tables = {name: _Table(draw, base) for name in ("coil", "discrete", "input", "holding")}
    word = tables["holding"].take(1)
    bits = 0
    points: list[Point] = []
    for i, signal in enumerate(device.signals):
        kind, scale = _modbus_type(signal, floats=floats)
        if kind == "skip":
            continue
        if kind == "bool" and switches == "word":
            place = ModbusPlace("holding", word, bits)
            bits += 1
        elif kind == "bool":
            place = ModbusPlace("coil" if switches == "coil" else "discrete", tables[switches].take(1))
        else:
            slow = signal.shape in ("setpoint", "constant", "counter", "total", "heartbeat")
            table: Literal["holding", "input"] = "holding" if slow else "input"
            place = ModbusPlace(table, tables[table].take(WIDTH[kind]))
        bit = "" if place.bit is None else f".{place.bit}"
        points.append(Point(
            id=signal.key, address=f"{device.unit}/{place.table}/{place.address}{bit}", place=place, type=kind,
            role=signal.role, signal=i, moves=signal.moves, scale=scale, order=order if WIDTH[kind] == 2 else ""))
    return tuple(points)


WIDTH = {"bool": 1, "int16": 1, "uint16": 1, "uint32": 2, "int32": 2, "float32": 2}
"""Registers, or single bits, that a value takes."""


def _modbus_type(signal: Signal, *, floats: bool) -> tuple[str, float]:
    """Return the register type and scale of a signal; texts are left out, as on most simple devices."""
    match signal.shape:
        case "program":
            return "skip", 1.0
        case "switch":
            return "bool", 1.0
        case "state" | "heartbeat":
            return "uint16", 1.0
        case "counter":
            return "uint32", 1.0
        case "total":
            return "uint32", signal.step
    if floats:
        return "float32", 1.0
    if signal.low < 0:
        return ("int16" if signal.high / signal.step < 0x7FFF else "int32"), signal.step
    # a quarter in hand: noise may carry a reading beyond its full scale
    return ("uint16" if 1.25 * signal.high / signal.step < 0xFFFF else "uint32"), signal.step


def nameplates(devices: Iterable[Device]) -> set[tuple[str, str]]:
    """Return the distinct (maker, model) of some devices: the kinds that a programme counts."""
    return {(device.maker.name, device.model) for device in devices}
