"""Who is who on the roster: made once for each roster, so that a page of 10 000 devices costs one walk over a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from config.gateway import GatewayConfig
from config.ledger import Device
from gateway.commissioning.roster import Roster


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One device: its row of the ledger, its slot, the slots of its points, and what a search looks through."""

    slot: int
    device: Device
    points: tuple[int, ...]
    needle: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """lines: in the order of devices.csv. slots: connection -> slots of its devices, ascending."""

    config: GatewayConfig
    roster: Roster
    lines: tuple[Line, ...]
    by_id: Mapping[str, Line]
    by_slot: Mapping[int, Line]
    slots: Mapping[str, NDArray[np.int64]]


def make_index(config: GatewayConfig, roster: Roster) -> Index:
    """Return the index of a roster that was made from this configuration; 0.1 s for 100 000 points."""
    points: dict[int, list[int]] = {}
    rows = roster.points.rows
    for slot, (device, is_alive) in enumerate(zip(rows.devices().tolist(), rows.alive().tolist(), strict=True)):
        if is_alive:
            points.setdefault(device, []).append(slot)
    alive = roster.device_slots()
    lines = tuple(
        Line(slot=alive[device.id], device=device, points=tuple(points.get(alive[device.id], ())),
             needle="\n".join((device.id, device.name, device.maker, device.model, device.serial)).casefold())
        for device in config.devices if device.id in alive)
    slots: dict[str, list[int]] = {name: [] for name in config.endpoints}
    for line in lines:
        slots[line.device.connection].append(line.slot)
    return Index(config=config, roster=roster, lines=lines, by_id={line.device.id: line for line in lines},
                 by_slot={line.slot: line for line in lines},
                 slots={name: np.array(sorted(found), dtype=np.int64) for name, found in slots.items()})
