"""From the asset ledger to roster rows: which slot each device and point has, for ever.

Slots are append-only. A device that goes leaves a tombstone; a rename changes only its private part; a changed
identity (maker, model, or an identifier that was there before) is a tombstone and a new slot with `replaces`. A device
whose local id changes is the same device if its identifiers are. The file `roster.json` in the state folder remembers
what the public rows do not tell: local ids and private parts.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.gateway import COLUMN_BITS_MAX, GatewayConfig
from config.ledger import Device
from config.points import Point
from gateway.commissioning.state import write_json
from protocols.errors import ConfigError, EvidenceError, Problem
from protocols.evidence import roster

STATE_FORMAT = 1


@dataclass(slots=True, kw_only=True)
class DeviceSlot:
    """One device slot: the public row, its private part, and the local id it had when it was alive."""

    id: str
    row: dict[str, Any]
    private: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class PointSlot:
    """One point slot: the public row, the local id, and the two address texts that its tags hide."""

    id: str
    row: dict[str, Any]
    address: str
    base: str


@dataclass(slots=True, kw_only=True)
class Roster:
    """All slots, alive and gone, in slot order."""

    devices: list[DeviceSlot]
    points: list[PointSlot]

    def device_slots(self) -> dict[str, int]:
        """Return local id -> slot of the devices that are alive."""
        return {d.id: slot for slot, d in enumerate(self.devices) if d.row["state"] == "alive"}

    def point_slots(self) -> dict[tuple[int, str], int]:
        """Return (device slot, canonical address) -> point slot of the points that are alive."""
        return {(p.row["device"], p.address): slot for slot, p in enumerate(self.points)
                if p.row["state"] == "alive"}

    def device_rows(self) -> list[dict[str, Any]]:
        """Return the public device rows in slot order."""
        return [d.row for d in self.devices]

    def point_rows(self) -> list[dict[str, Any]]:
        """Return the public point rows in slot order."""
        return [p.row for p in self.points]


def evolve(before: Roster | None, config: GatewayConfig, *, gateway: str, key: bytes,
           server_keys: Mapping[str, str]) -> Roster:
    """Return the roster that the ledger asks for, built on the slots that exist.

    Args:
        before: the roster in force, None before the first.
        key: K, the enterprise's 256-bit secret that blinds the tags.
        server_keys: connection name -> SPKI digest (hex) of the server that answered there under security.
    Raises: ConfigError `config.too_many_bits` when the slots, tombstones included, no longer fit one gateway.
    """
    devices = [DeviceSlot(id=d.id, row=dict(d.row), private=d.private) for d in before.devices] if before else []
    points = [PointSlot(id=p.id, row=dict(p.row), address=p.address, base=p.base)
              for p in before.points] if before else []
    current = Roster(devices=devices, points=points)
    alive = current.device_slots()
    wanted = {device.id: device for device in config.devices}
    alive |= _renamed(devices, alive, config.devices)
    for slot in {*current.device_slots().values()} - {alive[name] for name in wanted if name in alive}:
        devices[slot].row["state"] = "gone"
    slots: dict[str, int] = {}
    for device in config.devices:
        slots[device.id] = _place(devices, alive.get(device.id), device, key)
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
    _place_points(current, config.points, slots, gateway=gateway, key=key)
    if len(devices) + 3 * len(points) > COLUMN_BITS_MAX:
        raise ConfigError(Problem.of(config.file.name, "config.too_many_bits", devices=len(devices),
                                     points=len(points), limit=COLUMN_BITS_MAX))
    return current


def _renamed(devices: list[DeviceSlot], alive: Mapping[str, int], wanted: Iterable[Device]) -> dict[str, int]:
    """Return new local id -> slot of the devices that only changed their local id: same kind and same identifiers.

    Only where exactly one device went and one came with them: a guess would move counts to another machine.
    """
    went: dict[tuple[Any, ...], list[int]] = {}
    came: dict[tuple[Any, ...], list[str]] = {}
    ids = {device.id for device in wanted}
    for id_, slot in alive.items():
        values = roster.tag_values(devices[slot].private)
        if id_ not in ids and values:
            went.setdefault((devices[slot].row["kind"], *sorted(values.items())), []).append(slot)
    for device in wanted:
        if device.id not in alive:
            values = roster.tag_values(_private(device, None))
            came.setdefault((roster.kind(device.maker, device.model), *sorted(values.items())), []).append(device.id)
    return {names[0]: went[identity][0] for identity, names in came.items()
            if len(names) == 1 and len(went.get(identity, ())) == 1}


def _place(devices: list[DeviceSlot], slot: int | None, device: Device, key: bytes) -> int:
    """Keep the device in its slot if it is still the same machine, else give it a new one. Return the slot."""
    old = devices[slot] if slot is not None else None
    private = _private(device, old.private if old else None)
    kind, values = roster.kind(device.maker, device.model), roster.tag_values(private)
    if old is not None and slot is not None:
        was = roster.tag_values(old.private)
        if kind == old.row["kind"] and all(values.get(scheme) == value for scheme, value in was.items()):
            old.id, old.private = device.id, private
            old.row.update(_described(device, private, values, key))
            return slot
        old.row["state"] = "gone"
        private = _private(device, None)
    new = len(devices)
    row = {"slot": new, "state": "alive", "replaces": slot, "parent": None, "kind": kind, "dup_tags": [],
           "server": {"spki_sha256": None, "via": None}, **_described(device, private, values, key)}
    devices.append(DeviceSlot(id=device.id, row=row, private=private))
    return new


def _private(device: Device, before: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "blind": before["blind"] if before else secrets.token_hex(16), "name": device.name, "maker": device.maker,
        "model": device.model, "serial": device.serial, "asset": device.asset,
        "identifiers": {"product_instance_uri": device.product_instance_uri, "vaa": device.vaa,
                        "handle": device.handle, "mac": device.mac, "unit": device.unit}}


def _described(device: Device, private: Mapping[str, Any], values: Mapping[str, str], key: bytes) -> dict[str, Any]:
    """Return the fields of a row that follow the ledger and may change within a slot; tags only grow."""
    return {
        "thing": device.thing, "class": device.equipment_class, "industry": device.industry, "uscc": device.uscc,
        "region": device.region, "deployment": device.deployment, "energy": device.energy,
        "tags": [{"scheme": scheme, "tag": roster.keyed_tag(key, scheme, value)}
                 for scheme, value in sorted(values.items())],
        "id_basis": "declared" if values else "address", "private_sha256": roster.private_sha256(private)}


def _place_points(current: Roster, wanted: tuple[Point, ...], slots: Mapping[str, int], *, gateway: str,
                  key: bytes) -> None:
    """Give every point its slot; what changed its role or type, or lost its device, is a tombstone and a new slot."""
    alive = current.point_slots()
    kept: set[int] = set()
    for point in wanted:
        device = slots[point.device]
        facts = {"protocol": point.protocol, "role": point.role, "type": point.type}
        slot = alive.get((device, point.address.canonical))
        if slot is not None and all(current.points[slot].row[name] == value for name, value in facts.items()):
            kept.add(slot)
            current.points[slot].id = point.id
            continue
        addr, base = roster.point_tags(key, gateway, device, point.address.canonical, point.address.base)
        slot = len(current.points)
        kept.add(slot)
        row = {"point": slot, "device": device, "state": "alive", **facts, "addr": addr, "base": base}
        current.points.append(PointSlot(id=point.id, row=row, address=point.address.canonical,
                                        base=point.address.base))
    for slot, held in enumerate(current.points):
        if slot not in kept:
            held.row["state"] = "gone"


def moved(held: Roster, *, gateway: str, key: bytes) -> Roster:
    """Return the same slots for another gateway: the tags of addresses name the gateway, everything else stays."""
    points = []
    for slot in held.points:
        addr, base = roster.point_tags(key, gateway, slot.row["device"], slot.address, slot.base)
        points.append(PointSlot(id=slot.id, row={**slot.row, "addr": addr, "base": base}, address=slot.address,
                                base=slot.base))
    return Roster(devices=held.devices, points=points)


def save(held: Roster, path: Path) -> None:
    """Write roster.json, whole or not at all, durable, mode 0600: it names machines."""
    write_json(path, {
        "format": STATE_FORMAT,
        "devices": [{"id": d.id, "row": d.row, "private": d.private} for d in held.devices],
        "points": [{"id": p.id, "row": p.row, "address": p.address, "base": p.base} for p in held.points]}, indent=None)


def load(path: Path) -> Roster | None:
    """Read roster.json; None if there is none yet. Raises EvidenceError `roster.state_broken`."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["format"] != STATE_FORMAT:
            raise ValueError(f"format {body['format']}")
        return Roster(devices=[DeviceSlot(id=d["id"], row=d["row"], private=d["private"]) for d in body["devices"]],
                      points=[PointSlot(id=p["id"], row=p["row"], address=p["address"], base=p["base"])
                              for p in body["points"]])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvidenceError(Problem.of(str(path), "roster.state_broken", reason=error)) from error
