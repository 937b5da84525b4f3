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
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from config.gateway import COLUMN_BITS_MAX, GatewayConfig
from config.ledger import Device
from config.points import Point
from gateway.commissioning.state import write_json
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
           server_keys: Mapping[str, str], read: Mapping[str, Mapping[str, str]] = NOTHING_READ) -> Roster:
    """Return the roster that the ledger asks for, built on the slots that exist.

    Args:
        before: the roster in force, None before the first.
        key: K, the enterprise's 256-bit secret that blinds the tags.
        server_keys: connection name -> SPKI digest (hex) of the server that answered there under security.
        read: local id -> identifiers that the device has shown (identity.py, `confirmed`); what was read before stays.
    Raises: ConfigError `config.too_many_bits` when the slots, tombstones included, no longer fit one gateway.
    """
    devices = [DeviceSlot(id=d.id, row=dict(d.row), private=d.private, read=d.read, learnt=d.learnt)
               for d in before.devices] if before else []
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
        "devices": [{"id": d.id, "row": d.row, "private": d.private, "read": d.read, "learnt": d.learnt}
                    for d in held.devices],
        "points": [{"id": p.id, "row": p.row, "address": p.address, "base": p.base} for p in held.points]}, indent=None)


def load(path: Path) -> Roster | None:
    """Read roster.json; None if there is none yet. Raises EvidenceError `roster.state_broken`."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["format"] != STATE_FORMAT:
            raise ValueError(f"format {body['format']}")
        return Roster(devices=[DeviceSlot(id=d["id"], row=d["row"], private=d["private"], read=d.get("read", {}),
                                          learnt=d.get("learnt", [])) for d in body["devices"]],
                      points=[PointSlot(id=p["id"], row=p["row"], address=p["address"], base=p["base"])
                              for p in body["points"]])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvidenceError(Problem.of(str(path), "roster.state_broken", reason=error)) from error
