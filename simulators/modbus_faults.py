"""What a simulated Modbus line does wrong, on purpose and in order: every Nth request to a unit meets its fault.

Bytes only: the faults are played on frames that the library's server has made, so that no codec of ours is involved.
None of them is an answer but `late`: a gateway takes nothing from the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from pymodbus.framer.rtu import FramerRTU

Kind = Literal["late", "twice", "cut", "other_unit", "other_transaction", "garbage", "silent", "close", "busy"]

GARBAGE = bytes.fromhex("deadbeef") * 4
SHOWN: dict[str, str] = {
    "late": "the answer comes delay_s later", "twice": "the answer comes twice, or `times` times, in one piece",
    "cut": "the answer ends in its middle",
    "other_unit": "the answer names the next unit", "other_transaction": "the answer belongs to another request",
    "garbage": "bytes that are no answer", "silent": "no answer", "close": "the connection ends",
    "busy": "exception 6, server device busy"}
"""Every fault, in words for people; docs/modbus.md lists them."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault of one line. unit: None for every unit. It is played while after_s <= time < after_s + for_s."""

    kind: Kind
    connection: str | None = None
    unit: int | None = None
    every: int = 1
    delay_s: float = 1.0
    after_s: float = 0.0
    for_s: float | None = None
    times: int = 2
    met: dict[int, int] = field(default_factory=dict)

    def meets(self, unit: int, at_s: float) -> bool:
        """Count one request to this unit; return whether this one meets the fault."""
        if self.unit not in (None, unit) or at_s < self.after_s:
            return False
        if self.for_s is not None and at_s >= self.after_s + self.for_s:
            return False
        self.met[unit] = self.met.get(unit, 0) + 1
        return self.met[unit] % self.every == 0


@dataclass(slots=True)
class Line:
    """The faults of one line. played: kind -> how often, for whoever wants to compare."""

    faults: list[Fault]
    played: dict[str, int] = field(default_factory=dict)

    def fault(self, unit: int, at_s: float) -> Fault | None:
        """Return what happens to this request; the first fault of the list that it meets."""
        for fault in self.faults:
            if fault.meets(unit, at_s):
                self.played[fault.kind] = self.played.get(fault.kind, 0) + 1
                return fault
        return None


def of_connection(faults: Iterable[Fault], name: str) -> Line:
    """Return the faults of one connection, with counters of its own."""
    return Line([Fault(kind=f.kind, connection=name, unit=f.unit, every=f.every, delay_s=f.delay_s, after_s=f.after_s,
                       for_s=f.for_s, times=f.times) for f in faults if f.connection in (None, name)])


def spoilt(fault: Fault, frame: bytes, *, is_rtu: bool = False) -> bytes:
    """Return a reply with this fault; kinds that are not about its bytes leave it as it is.

    An RTU frame that names another unit has the right checksum for it; it has no transaction to change.
    """
    match fault.kind:
        case "twice":
            return frame * fault.times
        case "cut":
            return frame[:len(frame) // 2]
        case "other_unit" if is_rtu:
            other = bytes([frame[0] % 247 + 1]) + frame[1:-2]
            return other + FramerRTU.compute_CRC(other).to_bytes(2, "big")
        case "other_unit":
            return frame[:6] + bytes([frame[6] % 247 + 1]) + frame[7:]
        case "other_transaction" if not is_rtu:
            return bytes([frame[0] ^ 0x55]) + frame[1:]
        case "other_transaction" | "garbage":
            return GARBAGE
        case _:
            return frame
