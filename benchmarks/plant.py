"""Logs of one gateway, as large as wanted, for measuring: real signatures, made up bits, written tile by tile."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocols.evidence import column, keys, note, tiles
from protocols.evidence.bundle import write_bundle
from protocols.terms.vocabulary import DISCARD_REASONS
from verifier.conformance.world import Gateway, World, device_row, point_row, public


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One plant and what its bundle holds.

    head_every: a co-signed head is in the bundle for every so many windows. seen_every: the co-signed checkpoint that
    windows name is a new one for every so many. away: share of the devices that are off in a window, drawn anew.
    platform: without one there is no register, nothing is seen, and the log stands alone.
    """

    name: str
    devices: int
    points: int
    windows: int
    len_s: int = 60
    head_every: int = 10
    seen_every: int = 10
    witnesses: tuple[str, ...] = ("bureau",)
    away: float = 0.0
    platform: bool = True


class Plant:
    """Draws windows: all points sampled, seven of eight producing, half of these changing."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.world = World(witnesses=case.witnesses)
        self.gateway: Gateway = self.world.gateway() if case.platform else self.world.gateway(
            enrol=False, signer="recovery gateway")
        self._draw = random.Random(1)
        self._seen: dict[str, Any] | None = None
        self._heads: list[tuple[int, bytes, int]] = []  # register index, checkpoint, its size
        self.gateway.now_s += -self.gateway.now_s % case.len_s
        if case.platform:
            self.world.round(time_s=self.gateway.now_s - 10)
        self.gateway.begin(len_s=case.len_s)
        self.gateway.roster([device_row(slot) for slot in range(case.devices)],
                            [point_row(slot, slot % case.devices, self.gateway.id) for slot in range(case.points)])
        self._seen = self.world.seen()

    def window(self, number: int, *, last: bool = False) -> None:
        """Seal a window; then the register may get a head and a co-signature."""
        case, draw, gateway = self.case, self._draw, self.gateway
        off = sum(1 << draw.randrange(case.devices) for _ in range(round(case.away * case.devices)))
        connected = ((1 << case.devices) - 1) & ~off
        sampled = (1 << case.points) - 1
        unconnected = sum(off << at for at in range(0, case.points, case.devices)) if off else 0
        few = draw.getrandbits(case.points) & draw.getrandbits(case.points) & draw.getrandbits(case.points)
        producing = sampled & ~few & ~unconnected
        changing = producing & draw.getrandbits(case.points)
        gateway.add(
            "window", start_s=gateway.now_s, len_s=case.len_s, roster=gateway.roster_seq, seen=self._seen,
            clock={"source": "ntp", "offset_ms": draw.randrange(-20, 20), "step_ms": 0},
            samples={"received": 60 * case.points, "counted": 59 * case.points,
                     "discarded": dict.fromkeys(DISCARD_REASONS, 0) | {"bad_quality": case.points}},
            columns={"connected": column.pack(connected, case.devices), "sampled": column.pack(sampled, case.points),
                     "producing": column.pack(producing, case.points),
                     "changing": column.pack(changing, case.points)})
        gateway.now_s += case.len_s
        if not case.platform:
            return
        is_head = number % case.head_every == 0 or last
        if is_head or number % case.seen_every == 0:
            self.world.round(time_s=gateway.now_s + 5)
            self._seen = self.world.seen()
        if is_head:
            size, checkpoint = self.world.rounds[-1]
            self._heads.append((size - 1, checkpoint, size))

    def bundle(self, folder: Path) -> None:
        """Write policy.json, 1.tally of the first window and <windows>.tally of all; entries are let go on the way."""
        key = note.VerifierKey(keys.gateway_origin(self.gateway.id), note.ED25519, public("gateway"))
        alone = json.dumps({"gateways": [str(key)]}).encode()
        (folder / "policy.json").write_bytes(self.world.policy_json() if self.case.platform else alone)
        self.window(0)
        write_bundle(folder / "1.tally", self.gateway.members())
        write_bundle(folder / f"{self.case.windows}.tally", self._members())

    def _members(self) -> Iterator[tuple[str, bytes]]:
        entries, tile = self.gateway.entries, 0
        for number in range(1, self.case.windows):
            self.window(number, last=number == self.case.windows - 1)
            if len(entries) == (tile + 1) * tiles.WIDTH:
                yield self._entry_tile(tile)
                tile += 1
        if len(entries) > tile * tiles.WIDTH:
            yield self._entry_tile(tile)
        for one in tiles.tiles_of(0, len(entries)):
            yield one.path, tiles.hash_tile(self.gateway.tree, one)
        yield "checkpoint", self.gateway.checkpoint()
        for seq, rows in self.gateway.rows.items():
            yield f"roster/{seq}.jsonl", rows
        if not self.case.platform:
            return
        yield "register/0.proof", self.world.proof(0, checkpoint=self.world.rounds[0][1], size=self.world.rounds[0][0])
        for index, checkpoint, size in self._heads:
            yield f"register/{index}.proof", self.world.proof(index, checkpoint=checkpoint, size=size)

    def _entry_tile(self, number: int) -> tuple[str, bytes]:
        entries = self.gateway.entries
        whole = entries[number * tiles.WIDTH : (number + 1) * tiles.WIDTH]
        entries[number * tiles.WIDTH : (number + 1) * tiles.WIDTH] = [b""] * len(whole)
        return tiles.Tile(None, number, len(whole)).path, tiles.join_entries(whole)


WINDOW_BYTES = 700
"""A window entry without its columns, `seen` and all: at most this, with counters below 10^10 and a short name."""


def column_bytes(slots: int) -> int:
    """Return the letters of a column of so many slots, in base64."""
    return 4 * (((slots + 7) // 8 + 2) // 3)


def window_bytes(devices: int, points: int) -> int:
    """Return the largest usual size of a window entry."""
    return WINDOW_BYTES + column_bytes(devices) + 3 * column_bytes(points)


def hash_tiles_bytes(size: int) -> int:
    """Return the bytes of all hash tiles, of every level, of a log of so many entries."""
    return 32 * sum(size >> 8 * level for level in range(8))


def day_bytes(devices: int, points: int, len_s: int) -> int:
    """Return the size of the log of a day without incidents, as it is stored and mirrored, before compression."""
    windows = 86_400 // len_s
    return windows * (2 + window_bytes(devices, points)) + hash_tiles_bytes(windows)
