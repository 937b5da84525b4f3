"""What evidence says of each device beside its verdict: the cells of a device list, gathered in one walk.

A list is made of the count's own result, so that no device counts here that does not count there; the rest comes from
the rows of the roster in force and from the columns of the windows up to T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from config.programme import DAY_OFFSETS_S
from protocols.terms.basis import Basis
from verifier.audit.results import DeviceResult
from verifier.proof.figures import Evidence
from verifier.proof.history import COUNTED, OVERLAPPED
from verifier.proof.recount import slots
from verifier.proof.rows import DeviceRow, Roster

DAY_S = 86_400
Progress = Callable[[int, int], None]
"""Called with what is done and of how much."""


@dataclass(slots=True)
class Points:
    """The live points of one device, by role, and the protocols that they speak."""

    total: int = 0
    switches: int = 0
    parameters: int = 0
    protocols: set[str] = field(default_factory=set)


NO_POINTS = Points()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLine:
    """One device of a list. The times are ends of windows in POSIX seconds, None if it never produced before T.

    first_s: the first window of this evidence in which it produced, last_s: the last one before T. private: name,
    maker, model, serial and identifiers where the evidence opens the device, else empty. entry: the entry of the log
    that holds the roster in force.
    """

    told: DeviceResult
    row: DeviceRow
    points: Points
    private: Mapping[str, Any]
    entry: int
    first_s: int | None
    last_s: int | None
    ran_on_day: bool

    @property
    def id(self) -> str:
        """`GATEWAY:SLOT`, which names a device in every answer of this software."""
        return f"{self.told.gateway}:{self.told.slot}"

    @property
    def counted(self) -> bool:
        """Whether the device counts."""
        return self.told.reason is None


def device_lines(evidence: Sequence[Evidence], devices: Iterable[DeviceResult], *, at_s: int, basis: Basis,
                 progress: Progress | None = None) -> Iterator[DeviceLine]:
    """Yield a line for each device of a count at `at_s`, in its order; of one gateway's columns at a time."""
    by_gateway = {e.gateway: e for e in evidence}
    gathered: dict[str, _Gathered] = {}
    for told in devices:
        if told.gateway not in gathered:
            gathered[told.gateway] = _gather(by_gateway[told.gateway], at_s, basis, progress)
        of = gathered[told.gateway]
        last_s = of.last_s.get(told.slot)
        yield DeviceLine(
            told=told, row=of.roster.devices[told.slot], points=of.points.get(told.slot, NO_POINTS),
            private=by_gateway[told.gateway].opened.get(told.slot) or {}, entry=of.roster.seq,
            first_s=of.first_s.get(told.slot), last_s=last_s, ran_on_day=last_s is not None and last_s > of.day_s)


@dataclass(frozen=True, slots=True)
class _Gathered:
    roster: Roster
    points: Mapping[int, Points]
    first_s: Mapping[int, int]
    last_s: Mapping[int, int]
    day_s: int


def _gather(evidence: Evidence, at_s: int, basis: Basis, progress: Progress | None) -> _Gathered:
    windows = evidence.windows
    inside = [i for i in range(len(windows)) if windows.state[i] != OVERLAPPED and windows.end_s[i] <= at_s]
    roster = evidence.rosters.at(windows.roster[inside[-1]])
    points: dict[int, Points] = {}
    owner = {}
    for point in roster.points:
        if not point.alive:
            continue
        did = points.setdefault(point.device, Points())
        did.total += 1
        did.switches += point.role == "switch"
        did.parameters += point.role == "parameter"
        did.protocols.add(point.protocol)
        if point.role in basis.roles:
            owner[point.slot] = point.device
    trusted = [i for i in inside if windows.state[i] == COUNTED]
    first_s = _first(evidence, trusted, owner, progress)
    last_s = _first(evidence, trusted[::-1], owner, progress, enough=len(first_s))
    offset_s = DAY_OFFSETS_S[basis.day_boundary]
    return _Gathered(roster, points, first_s, last_s, (at_s - 1 + offset_s) // DAY_S * DAY_S - offset_s)


def _first(evidence: Evidence, windows: Sequence[int], owner: Mapping[int, int], progress: Progress | None,
           *, enough: int | None = None) -> dict[int, int]:
    """Return device -> end of the first of `windows` in which a point of the basis produced.

    enough: so many devices ever produce, so nothing is left to find once they are found.
    """
    found: dict[int, int] = {}
    seen = 0
    for done, i in enumerate(windows):
        if len(found) == enough:
            break
        producing = evidence.columns(i).producing
        for slot in slots(producing & ~seen):
            if slot in owner:
                found.setdefault(owner[slot], evidence.windows.end_s[i])
        seen |= producing
        if progress is not None and done % 1000 == 0:
            progress(done, len(windows))
    return found
