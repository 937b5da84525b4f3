"""Step 9: what a window says is possible: columns fit the roster, stages are nested, samples add up.

Plain Python and big integers: bit i of a column is slot i, so a mistake in the gateway's fast kernel has no twin here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from protocols.errors import VerificationError
from protocols.evidence import column, entry
from verifier.proof.findings import RECOUNT, Findings
from verifier.proof.rows import Roster


class Columns(NamedTuple):
    """The four columns of a window as integers: `connected` by device slot, the others by point slot."""

    connected: int
    sampled: int
    producing: int
    changing: int


NOTHING = Columns(connected=0, sampled=0, producing=0, changing=0)


class Unpacker:
    """Turns columns into integers. Neighbouring windows are nearly equal: what stands there again is not read again."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, int, int]] = dict.fromkeys(column.NAMES, ("", 0, 0))  # text, slots, bits

    def columns(self, window: Mapping[str, Any], devices: int, points: int) -> Columns:
        """Return the columns of a window under a roster of so many slots. Raises VerificationError `column.*`.

        `window` was decoded as an entry: so the base64 of its columns was looked at.
        """
        texts, result = window["columns"], []
        for name, (known, known_slots, bits) in self._known.items():
            text, slots = texts[name], devices if name == "connected" else points
            if text != known or slots != known_slots:
                found = column.bits_of(text, slots)
                if found is None:  # said in words
                    found = column.unpack(text, slots, where=entry.name(window["seq"]), name=name)
                bits = found
                self._known[name] = (text, slots, bits)
            result.append(bits)
        return Columns(*result)


class Recount:
    """Checks the windows under one roster."""

    def __init__(self, roster: Roster, found: Findings) -> None:
        self.roster = roster
        self._found = found
        self._unpacker = Unpacker()
        self._gone_devices = mask(row.slot for row in roster.devices if not row.alive)
        self._gone_points = mask(row.slot for row in roster.points if not row.alive)
        self._below = _Below(roster)

    def holds(self, window: Mapping[str, Any]) -> bool:
        """Check one window; return whether its columns may be used."""
        seq, found, roster = window["seq"], self._found, self.roster
        try:
            bits = self._unpacker.columns(window, len(roster.devices), len(roster.points))
        except VerificationError as error:
            found.refuse(RECOUNT, error, seq=seq)
            return False
        refused = False
        if bits.connected & self._gone_devices or bits.sampled & self._gone_points:
            refused |= found.fault(RECOUNT, "column.tombstone", entry.name(seq), seq=seq)
        # An inner column that adds no bit to the outer one lies within it.
        if bits.changing | bits.producing != bits.producing:
            refused |= found.fault(RECOUNT, "column.nesting", entry.name(seq), seq=seq, name="changing")
        if bits.producing | bits.sampled != bits.sampled:
            refused |= found.fault(RECOUNT, "column.nesting", entry.name(seq), seq=seq, name="producing")
        if bits.producing & self._below.unconnected(bits.connected):
            refused |= found.fault(RECOUNT, "column.unconnected", entry.name(seq), seq=seq)
        samples = window["samples"]
        received, counted, discarded = samples["received"], samples["counted"], sum(samples["discarded"].values())
        if received != counted + discarded:
            refused |= found.fault(RECOUNT, "samples.conservation", entry.name(seq), seq=seq, received=received,
                                   counted=counted, discarded=discarded)
        elif bits.sampled.bit_count() > received or bits.producing.bit_count() > counted:
            refused |= found.fault(RECOUNT, "samples.columns", entry.name(seq), seq=seq, received=received,
                                   counted=counted)
        return not refused


class _Below:
    """The points whose device is not connected. From window to window only devices that came or went are looked at."""

    def __init__(self, roster: Roster) -> None:
        self._connected = 0
        self._points_of: dict[int, list[tuple[int, int]]] = {}  # device -> (byte, bit) of each of its points
        for point in roster.points:
            self._points_of.setdefault(point.device, []).append((point.slot >> 3, 1 << (point.slot & 7)))
        self._data = bytearray((len(roster.points) + 7) // 8)
        for places in self._points_of.values():
            for byte, bit in places:
                self._data[byte] |= bit
        self._bits = int.from_bytes(self._data, "little")

    def unconnected(self, connected: int) -> int:
        """Return the points of all devices that are not in `connected`."""
        changed = connected ^ self._connected
        if changed:
            for device in slots(changed):
                for byte, bit in self._points_of.get(device, ()):
                    self._data[byte] ^= bit
            self._connected = connected
            self._bits = int.from_bytes(self._data, "little")
        return self._bits


_SLOTS_OF_BYTE = tuple(tuple(k for k in range(8) if byte >> k & 1) for byte in range(256))


def slots(bits: int) -> Iterator[int]:
    """Yield the slots whose bit is set, ascending."""
    for at, byte in enumerate(bits.to_bytes((bits.bit_length() + 7) // 8, "little")):
        for k in _SLOTS_OF_BYTE[byte]:
            yield 8 * at + k


def mask(slots: Iterable[int]) -> int:
    """Return the integer whose set bits are `slots`."""
    data = bytearray()
    for slot in slots:
        if slot >> 3 >= len(data):
            data.extend(bytes((slot >> 3) + 1 - len(data)))
        data[slot >> 3] |= 1 << (slot & 7)
    return int.from_bytes(data, "little")
