"""Step 9: what a window says is possible: columns fit the roster, stages are nested, samples add up.

Plain Python and big integers: bit i of a column is slot i, so a mistake in the gateway's fast kernel has no twin here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from protocols.evidence import column, entry
from verifier.proof.findings import RECOUNT, Findings
from verifier.proof.rows import Roster


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The four columns of a window as integers: `connected` by device slot, the others by point slot."""

    connected: int
    sampled: int
    producing: int
    changing: int


NOTHING = Columns(connected=0, sampled=0, producing=0, changing=0)


def columns(window: Mapping[str, Any], devices: int, points: int) -> Columns:
    """Return the columns of a window under a roster of so many slots. Raises VerificationError `column.*`."""
    where, texts = entry.name(window["seq"]), window["columns"]
    return Columns(**{
        name: column.unpack(texts[name], devices if name == "connected" else points, where=where, name=name)
        for name in column.NAMES})


class Recount:
    """Checks the windows under one roster."""

    def __init__(self, roster: Roster, found: Findings) -> None:
        self.roster = roster
        self._found = found
        self._alive_devices = mask(row.slot for row in roster.devices if row.alive)
        self._alive_points = mask(row.slot for row in roster.points if row.alive)
        self._points_of: dict[int, list[int]] = {}
        for point in roster.points:
            self._points_of.setdefault(point.device, []).append(point.slot)
        self._allowed: tuple[int, int] = (-1, 0)  # of the last `connected`: neighbouring windows are nearly equal

    def holds(self, window: Mapping[str, Any]) -> bool:
        """Check one window; return whether its columns may be used."""
        seq, where, found = window["seq"], entry.name(window["seq"]), self._found
        bits = found.get(RECOUNT, seq, columns, window, len(self.roster.devices), len(self.roster.points))
        if bits is None:
            return False
        refused = False
        if bits.connected & ~self._alive_devices or bits.sampled & ~self._alive_points:
            refused |= found.fault(RECOUNT, "column.tombstone", where, seq=seq)
        for inner, outer, name in ((bits.changing, bits.producing, "changing"),
                                   (bits.producing, bits.sampled, "producing")):
            if inner & ~outer:
                refused |= found.fault(RECOUNT, "column.nesting", where, seq=seq, name=name)
        if bits.producing & ~self._points_below(bits.connected):
            refused |= found.fault(RECOUNT, "column.unconnected", where, seq=seq)
        samples = window["samples"]
        if samples["received"] != samples["counted"] + sum(samples["discarded"].values()):
            refused |= found.fault(RECOUNT, "samples.conservation", where, seq=seq, received=samples["received"],
                                   counted=samples["counted"], discarded=sum(samples["discarded"].values()))
        elif bits.sampled.bit_count() > samples["received"] or bits.producing.bit_count() > samples["counted"]:
            refused |= found.fault(RECOUNT, "samples.columns", where, seq=seq, received=samples["received"],
                                   counted=samples["counted"])
        return not refused

    def _points_below(self, connected: int) -> int:
        """Return the points whose device is connected."""
        if self._allowed[0] != connected:
            self._allowed = (connected, mask(
                point for device, points in self._points_of.items() if connected >> device & 1 for point in points))
        return self._allowed[1]


def mask(slots: Iterable[int]) -> int:
    """Return the integer whose set bits are `slots`."""
    data = bytearray()
    for slot in slots:
        if slot >> 3 >= len(data):
            data.extend(bytes((slot >> 3) + 1 - len(data)))
        data[slot >> 3] |= 1 << (slot & 7)
    return int.from_bytes(data, "little")
