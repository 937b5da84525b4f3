"""From the asset ledger to roster rows: which slot each device and point has, for ever.

Slots are append-only. A device that goes leaves a tombstone; a rename changes only its private part; a changed
identity (maker, model, or an identifier that was there before) is a tombstone and a new slot with `replaces`. A device
whose local id changes is the same device if its identifiers are. The file `roster.json` in the state folder remembers
what the public rows do not tell: local ids and private parts.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from config.gateway import COLUMN_BITS_MAX, GatewayConfig
from config.ledger import Device
from config.points import Point
from gateway.commissioning.point_slots import PointSlots
from gateway.counting.rows import PointRows
from protocols import system
from protocols.errors import ConfigError, EvidenceError, Problem
from protocols.evidence import roster

STATE_FORMAT = 1
NOTHING_READ: Mapping[str, Mapping[str, str]] = MappingProxyType({})
READ_SCHEMES = {"serial": ("serial",), "product_instance_uri": ("product_instance_uri",), "mac_unit": ("mac", "unit")}
"""Tag scheme -> the identifiers that a device must have shown for its identity to be `read`."""


@dataclass(slots=True, kw_only=True)
class DeviceSlot:
    """One device slot: the public row, its private part, and the local id it had when it was alive.

    read: identifiers of the private part that the device itself has shown. learnt: those of them that no ledger had.
    """

    id: str
    row: dict[str, Any]
    private: dict[str, Any]
    read: dict[str, str] = field(default_factory=dict)
    learnt: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Roster:
    """All slots, alive and gone, in slot order."""

    devices: list[DeviceSlot]
    points: PointSlots

    def device_slots(self) -> dict[str, int]:
        """Return local id -> slot of the devices that are alive."""
        return {d.id: slot for slot, d in enumerate(self.devices) if d.row["state"] == "alive"}

    def point_slots(self, devices: Collection[int] | None = None) -> dict[tuple[int, str], int]:
        """Return (device slot, canonical address) -> point slot of the points that are alive, of these devices or all.
        """
        points, owner = self.points, self.points.rows.devices()
        wanted = points.rows.alive()
        if devices is not None:
            wanted &= np.isin(owner, list(devices))
        return {(device, points.addresses[slot]): slot
                for slot, device in zip(np.flatnonzero(wanted).tolist(), owner[wanted].tolist(), strict=True)}

    def device_rows(self) -> list[dict[str, Any]]:
        """Return the public device rows in slot order."""
        return [d.row for d in self.devices]

    def point_rows(self) -> PointRows:
        """Return the public point rows in slot order."""
        return self.points.rows


def evolve(before: Roster | None, config: GatewayConfig, *, gateway: str, key: bytes,
           server_keys: Mapping[str, str], read: Mapping[str, Mapping[str, str]] = NOTHING_READ,
           points_stand: bool = False) -> Roster:
    """Return the roster that the ledger asks for, built on the slots that exist.

    Args:
        before: the roster in force, None before the first. It is not changed.
        key: K, the enterprise's 256-bit secret that blinds the tags.
        server_keys: connection name -> SPKI digest (hex) of the server that answered there under security.
        read: local id -> identifiers that the device has shown (identity.py, `confirmed`); what was read before stays.
        points_stand: `before` was made of this same ledger: where no device gets another slot, its points are taken as
            they are, which saves seconds at 100 000 of them.
    Raises: ConfigError `config.too_many_bits` when the slots, tombstones included, no longer fit one gateway.
    """
    devices = [DeviceSlot(id=d.id, row=dict(d.row), private=d.private, read=d.read, learnt=d.learnt)
               for d in before.devices] if before else []
    current = Roster(devices=devices, points=before.points if before else PointSlots.read(()))
    alive = current.device_slots()
    held = dict(alive)
    wanted = {device.id: device for device in config.devices}
    alive |= _renamed(devices, alive, config.devices)
    for slot in {*current.device_slots().values()} - {alive[name] for name in wanted if name in alive}:
        devices[slot].row["state"] = "gone"
    slots: dict[str, int] = {}
    for device in config.devices:
        slots[device.id] = _place(devices, alive.get(device.id), device, key, read.get(device.id, {}))
    behind: dict[str, int] = {}
    for device in config.devices:
        behind[device.connection] = behind.get(device.connection, 0) + 1
    for device in config.devices:
        row = devices[slots[device.id]].row
        row["parent"] = slots[device.parent] if device.parent else None
        spki = server_keys.get(device.connection)
        owner = config.server_devices.get(device.connection)
        via = None
        if spki is not None and owner != device.id:
            via = slots[owner] if owner else None if behind[device.connection] == 1 else roster.NOT_IN_ROSTER
        row["server"] = {"spki_sha256": spki, "via": via}
        row["dup_tags"] = [{"scheme": "spki-sha256", "tag": spki}] if spki is not None and via is None else []
    points = current.points if points_stand and slots == held else \
        _place_points(current, config.points, slots, gateway=gateway, key=key)
    if len(devices) + 3 * len(points) > COLUMN_BITS_MAX:
        raise ConfigError(Problem.of(config.file.name, "config.too_many_bits", devices=len(devices),
                                     points=len(points), limit=COLUMN_BITS_MAX))
    return Roster(devices=devices, points=points)


def _renamed(devices: list[DeviceSlot], alive: Mapping[str, int], wanted: Iterable[Device]) -> dict[str, int]:
    """Return new local id -> slot of the devices that only changed their local id: same kind and same identifiers.

    Only where exactly one device went and one came with them: a guess would move counts to another machine.
    """
    went: dict[tuple[Any, ...], list[int]] = {}
    came: dict[tuple[Any, ...], list[str]] = {}
    ids = {device.id for device in wanted}
    for id_, slot in alive.items():
        values = roster.tag_values(_unlearnt(devices[slot]))
        if id_ not in ids and values:
            went.setdefault((devices[slot].row["kind"], *sorted(values.items())), []).append(slot)
    for device in wanted:
        if device.id not in alive:
            values = roster.tag_values(_private(device, None, {}))
            came.setdefault((roster.kind(device.maker, device.model), *sorted(values.items())), []).append(device.id)
    return {names[0]: went[identity][0] for identity, names in came.items()
            if len(names) == 1 and len(went.get(identity, ())) == 1}


def _unlearnt(slot: DeviceSlot) -> dict[str, Any]:
    """Return the private part as the ledger alone would have it: what a renamed row can be known by."""
    part = {**slot.private, "identifiers": dict(slot.private["identifiers"])}
    for name in slot.learnt:
        (part if name == "serial" else part["identifiers"])[name] = ""
    return part


def _place(devices: list[DeviceSlot], slot: int | None, device: Device, key: bytes, read: Mapping[str, str]) -> int:
    """Keep the device in its slot if it is still the same machine, else give it a new one. Return the slot."""
    old = devices[slot] if slot is not None else None
    kind = roster.kind(device.maker, device.model)
    if old is not None and slot is not None:
        shown = {**read, **old.read}
        private = _private(device, old.private, shown)
        was, values = roster.tag_values(old.private), roster.tag_values(private)
        if kind == old.row["kind"] and all(values.get(scheme) == value for scheme, value in was.items()):
            old.id, old.private = device.id, private
            old.read, old.learnt = _kept(device, private, shown)
            old.row.update(_described(device, private, values, key, old.read))
            return slot
        old.row["state"] = "gone"
    private = _private(device, None, read)
    values = roster.tag_values(private)
    kept, learnt = _kept(device, private, read)
    new = len(devices)
    row = {"slot": new, "state": "alive", "replaces": slot, "parent": None, "kind": kind, "dup_tags": [],
           "server": {"spki_sha256": None, "via": None}, **_described(device, private, values, key, kept)}
    devices.append(DeviceSlot(id=device.id, row=row, private=private, read=kept, learnt=learnt))
    return new


def _private(device: Device, before: Mapping[str, Any] | None, shown: Mapping[str, str]) -> dict[str, Any]:
    """Return the private part: the ledger's words, and where it has none what the device has shown."""
    identifiers = {"product_instance_uri": device.product_instance_uri, "vaa": device.vaa, "handle": device.handle,
                   "mac": device.mac, "unit": device.unit}
    return {
        "blind": before["blind"] if before else secrets.token_hex(16), "name": device.name, "maker": device.maker,
        "model": device.model, "serial": device.serial or shown.get("serial", ""), "asset": device.asset,
        "identifiers": {name: text or shown.get(name, "") for name, text in identifiers.items()}}


def _kept(device: Device, private: Mapping[str, Any], shown: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return what of `shown` stands in the private part, and which of it the ledger lacks."""
    held = {"serial": private["serial"], **private["identifiers"]}
    kept = {name: text for name, text in shown.items() if roster.normalise(text) == roster.normalise(held[name])}
    return kept, sorted(name for name in kept if not getattr(device, name))


def _described(device: Device, private: Mapping[str, Any], values: Mapping[str, str], key: bytes,
               read: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a row that follow the ledger and may change within a slot; tags only grow."""
    is_read = any(scheme in values and all(name in read for name in names) for scheme, names in READ_SCHEMES.items())
    return {
        "thing": device.thing, "class": device.equipment_class, "industry": device.industry, "uscc": device.uscc,
        "region": device.region, "deployment": device.deployment, "energy": device.energy,
        "tags": [{"scheme": scheme, "tag": roster.keyed_tag(key, scheme, value)}
                 for scheme, value in sorted(values.items())],
        "id_basis": "read" if is_read else "declared" if values else "address",
        "private_sha256": roster.private_sha256(private)}


def _place_points(before: Roster, wanted: Sequence[Point], slots: Mapping[str, int], *, gateway: str,
                  key: bytes) -> PointSlots:
    """Give every point its slot; what changed its role or type, or lost its device, is a tombstone and a new slot."""
    alive, held = before.point_slots(), before.points
    rows, ids, addresses, bases = held.rows.copy(), list(held.ids), list(held.addresses), list(held.bases)
    kept: set[int] = set()
    for point in wanted:
        device, address = slots[point.device], point.address.canonical
        slot = alive.get((device, address))
        if slot is not None and rows.facts(slot) == (point.protocol, point.role, point.type):
            kept.add(slot)
            ids[slot] = point.id
            continue
        base_text = point.address.base
        addr, base = roster.point_tags(key, gateway, device, address, base_text)
        kept.add(len(rows))
        rows.append({"point": len(rows), "device": device, "state": "alive", "protocol": point.protocol,
                     "role": point.role, "type": point.type, "addr": addr, "base": base})
        ids.append(point.id)
        addresses.append(address)
        bases.append(base_text)
    for slot in range(len(rows)):
        if slot not in kept:
            rows.end(slot)
    return PointSlots.of(rows, ids, addresses, bases)


def moved(held: Roster, *, gateway: str, key: bytes) -> Roster:
    """Return the same slots for another gateway: the tags of addresses name the gateway, everything else stays."""
    rows = PointRows()
    for row, address, base in zip(held.points.rows, held.points.addresses, held.points.bases, strict=True):
        tags = roster.point_tags(key, gateway, row["device"], address, base)
        rows.append({**row, "addr": tags[0], "base": tags[1]})
    return Roster(devices=held.devices, points=replace(held.points, rows=rows))


# The file: one JSON object, and one device or point a line, so that it need not be in memory as a whole

BEGIN, BETWEEN, END = f'{{"format": {STATE_FORMAT}, "devices": [', '], "points": [', "]}"


def save(held: Roster, path: Path) -> None:
    """Write roster.json, whole or not at all, durable, mode 0600: it names machines."""
    system.replace(path, _lines(held))


def _lines(held: Roster) -> Iterator[bytes]:
    devices = ({"id": d.id, "row": d.row, "private": d.private, "read": d.read, "learnt": d.learnt}
               for d in held.devices)
    yield f"{BEGIN}\n".encode()
    for bodies, end in ((devices, BETWEEN), (map(held.points.body, range(len(held.points))), END)):
        separator = b""
        for body in bodies:
            yield separator + json.dumps(body, ensure_ascii=False, sort_keys=True).encode()
            separator = b",\n"
        yield f"\n{end}\n".encode()


def load(path: Path) -> Roster | None:
    """Read roster.json; None if there is none yet. Raises EvidenceError `roster.state_broken`."""
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline()
            if first == f"{BEGIN}\n":
                return Roster(devices=[_device_slot(body) for body in _bodies(file, BETWEEN)],
                              points=PointSlots.read(_bodies(file, END)))
            body = json.loads(first + file.read())  # as earlier versions wrote it
        if body["format"] != STATE_FORMAT:
            raise ValueError(f"format {body['format']}")
        return Roster(devices=[_device_slot(d) for d in body["devices"]], points=PointSlots.read(body["points"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceError(Problem.of(str(path), "roster.state_broken", reason=error)) from error


def _device_slot(body: Mapping[str, Any]) -> DeviceSlot:
    return DeviceSlot(id=body["id"], row=body["row"], private=body["private"], read=body.get("read", {}),
                      learnt=body.get("learnt", []))


def _bodies(lines: Iterable[str], end: str) -> Iterator[dict[str, Any]]:
    """Yield the object of each line up to the line `end`. Raises ValueError if it does not come."""
    for line in lines:
        text = line.rstrip("\n")
        if text == end:
            return
        if text:  # of an empty list
            yield json.loads(text.removesuffix(","))
    raise ValueError(f"the line {end} is missing")
