"""Rosters for tests: devices with points in every role, valid by the shapes of the evidence format."""

from __future__ import annotations

import hashlib
from typing import Any

from gateway.counting.registry import Ledger, Registry
from protocols.evidence import roster

K = b"k" * 32
USCC = "91320594MA1WXYA23X"
LEDGER = Ledger(sha256="0" * 64, date="2026-11-01", rows=3)


def device_row(slot: int, *, serial: str | None = None, **changes: Any) -> dict[str, Any]:
    """A device row; `changes` replaces fields."""
    serial = f"serial {slot}" if serial is None else serial
    tags = [{"scheme": "serial", "tag": roster.keyed_tag(K, "serial", f"maker|model|{roster.normalise(serial)}")}]
    return {
        "slot": slot, "state": "alive", "replaces": None, "parent": None, "thing": "equipment", "class": "cnc_lathe",
        "industry": "3421", "uscc": USCC, "region": "320594", "deployment": "private", "energy": True,
        "kind": roster.kind("maker", "model"), "tags": tags, "dup_tags": [], "id_basis": "declared",
        "server": {"spki_sha256": None, "via": None},
        "private_sha256": hashlib.sha256(str(slot).encode()).hexdigest()} | changes


def point_row(point: int, device: int, **changes: Any) -> dict[str, Any]:
    """A point row; `changes` replaces fields."""
    addr, base = roster.point_tags(K, "0" * 32, device, f"1/holding/{point}/uint16", f"1/holding/{point}")
    return {"point": point, "device": device, "state": "alive", "protocol": "modbus_tcp", "role": "parameter",
            "type": "uint16", "addr": addr, "base": base} | changes


def registry(devices: int, points_each: int, *, gone: frozenset[int] = frozenset()) -> Registry:
    """`points_each` points for each device; the devices in `gone` are tombstones."""
    device_rows = [device_row(d, state="gone" if d in gone else "alive") for d in range(devices)]
    point_rows = [point_row(p, p // points_each, role=("switch", "parameter", "heartbeat")[p % 3])
                  for p in range(devices * points_each)]
    return Registry.of(device_rows, point_rows, LEDGER)
