"""One body of evidence under two counting bases: which devices and points enter or leave, and by which parameter.

The parameters that differ are changed one after another, from the first basis to the second, always in the order of
`config.programme.PARAMETERS`. A device that counts under one basis only belongs to the parameter at which its state
first changed; where that parameter alone, changed from the first basis, does not do it, the others that it needs are
named beside it. Points are told in sums by the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from config.programme import PARAMETERS
from protocols.errors import ConfigError, VerificationError
from protocols.terms.basis import Basis
from verifier.audit.counting import Order
from verifier.audit.results import CountResult, basis_json
from verifier.proof.figures import Evidence, Standing, standing
from verifier.proof.machines import Device

ELSEWHERE = frozenset({"observation_s", "day_boundary", "kinds", "protocols", "fold_points"})
"""Parameters that decide other figures, never whether a single device or point counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """A figure under both bases: second = first + entered - left."""

    first: int
    second: int
    entered: int
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One parameter that differs, with its value in both bases (null: no restriction).

    counted, points: devices and points that count once this parameter and those before it are changed. entered, left:
    what counts under one basis only and belongs to this parameter.
    """

    parameter: str
    first: Any
    second: Any
    counted: int
    points: int
    devices_entered: int
    devices_left: int
    points_entered: int
    points_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeResult:
    """One device that counts under one basis only. reason_*: why it does not count there, null where it does.

    together: parameters changed before this one without which it would not have changed here; empty if this one
    alone is enough.
    """

    gateway: str
    slot: int
    name: str | None
    enters: bool
    parameter: str
    together: tuple[str, ...]
    reason_first: str | None
    reason_second: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceResult:
    """What two bases make of the same evidence. points: before folding, as only single points enter or leave."""

    devices: Between
    points: Between
    steps: tuple[StepResult, ...]
    changes: tuple[ChangeResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareResult:
    """All of `tallystick count --compare`; difference is null where a bundle is invalid."""

    first: CountResult
    second: CountResult
    difference: DifferenceResult | None


@dataclass(frozen=True, slots=True)
class _State:
    """What counts under one basis: a reason for each device, None if it counts; a bitmap of points a gateway."""

    reasons: Sequence[str | None]
    points: Sequence[int]

    @property
    def counted(self) -> int:
        return self.reasons.count(None)

    @property
    def point_count(self) -> int:
        return sum(bits.bit_count() for bits in self.points)


class _Bases:
    """Evidence under the first basis with any of the differing parameters taken from the second."""

    def __init__(self, evidence: Sequence[Evidence], at_s: int, first: Basis, second: Basis,
                 different: Sequence[Sequence[Device]]) -> None:
        self._at_s, self.first, self.second = at_s, first, second
        self.names = tuple(n for n in PARAMETERS if getattr(first, n) != getattr(second, n))
        stood = standing(evidence, at_s, first, different)
        self.devices = stood.devices
        self._standings = {(first.freshness_s, first.lateness_s): stood}
        self._reasons: dict[frozenset[str], Sequence[str | None]] = {}
        self._states: dict[frozenset[str], _State] = {}

    def reasons(self, changed: Sequence[str]) -> Sequence[str | None]:
        """Return why each device does not count when these parameters are those of the second basis."""
        key = frozenset(changed) - ELSEWHERE - {"point_roles"}
        if key not in self._reasons:
            basis = self._basis(changed)
            self._reasons[key] = self._standing(basis).reasons(basis)
        return self._reasons[key]

    def state(self, changed: Sequence[str]) -> _State:
        """Return what counts then, points too."""
        key = frozenset(changed) - ELSEWHERE
        if key not in self._states:
            basis, reasons = self._basis(changed), self.reasons(changed)
            counted = {d for d, reason in zip(self.devices, reasons, strict=True) if reason is None}
            self._states[key] = _State(reasons, self._standing(basis).counted_points(basis, counted))
        return self._states[key]

    def _basis(self, changed: Sequence[str]) -> Basis:
        return replace(self.first, **{name: getattr(self.second, name) for name in changed})

    def _standing(self, basis: Basis) -> Standing:
        """Return the devices as the windows of this freshness and lateness show them; each is read once."""
        key = basis.freshness_s, basis.lateness_s
        if key not in self._standings:
            self._standings[key] = next(iter(self._standings.values())).again(self._at_s, basis)
        return self._standings[key]


def compare(evidence: Sequence[Evidence], first: Order, second: Order) -> DifferenceResult:
    """Return the difference between two orders for the same T. Raises: ConfigError `figures.*` as `count` does."""
    at_s = first.at_s if first.at_s is not None else min(e.covered[1] for e in evidence if e.covered is not None)
    try:
        return _compare(_Bases(evidence, at_s, first.basis, second.basis, first.different),
                        {e.gateway: e for e in evidence})
    except VerificationError as error:
        raise ConfigError(error.problems) from error


def _compare(bases: _Bases, of: Mapping[str, Evidence]) -> DifferenceResult:
    names = bases.names
    states = [bases.state(names[:k]) for k in range(len(names) + 1)]
    start, end = states[0], states[-1]
    shown = basis_json(bases.first), basis_json(bases.second)
    at = _first_flips(states)
    changes = _changes(bases, states, at, of)
    steps = []
    open_points = [a ^ b for a, b in zip(start.points, end.points, strict=True)]
    for k, name in enumerate(names):
        flips = [open_ & (a ^ b) for open_, a, b in
                 zip(open_points, states[k].points, states[k + 1].points, strict=True)]
        open_points = [open_ & ~flip for open_, flip in zip(open_points, flips, strict=True)]
        here = [i for i, step in at.items() if step == k]
        steps.append(StepResult(
            parameter=name, first=shown[0][name], second=shown[1][name], counted=states[k + 1].counted,
            points=states[k + 1].point_count,
            devices_entered=sum(end.reasons[i] is None for i in here),
            devices_left=sum(start.reasons[i] is None for i in here),
            points_entered=sum((f & b).bit_count() for f, b in zip(flips, end.points, strict=True)),
            points_left=sum((f & a).bit_count() for f, a in zip(flips, start.points, strict=True))))
    return DifferenceResult(
        devices=Between(first=start.counted, second=end.counted,
                        entered=sum(c.enters for c in changes), left=sum(not c.enters for c in changes)),
        points=Between(first=start.point_count, second=end.point_count,
                       entered=sum(s.points_entered for s in steps), left=sum(s.points_left for s in steps)),
        steps=tuple(steps), changes=changes)


def _first_flips(states: Sequence[_State]) -> dict[int, int]:
    """Return place of each device that differs in the end -> the step at which it first changed."""
    waiting = [i for i, (a, b) in enumerate(zip(states[0].reasons, states[-1].reasons, strict=True))
               if (a is None) != (b is None)]
    at: dict[int, int] = {}
    for k, (before, after) in enumerate(pairwise(states)):
        left = []
        for i in waiting:
            if (before.reasons[i] is None) != (after.reasons[i] is None):
                at[i] = k
            else:
                left.append(i)
        waiting = left
    return dict(sorted(at.items()))


def _changes(bases: _Bases, states: Sequence[_State], at: Mapping[int, int],
             of: Mapping[str, Evidence]) -> tuple[ChangeResult, ...]:
    start, end = states[0].reasons, states[-1].reasons
    result = []
    for i, k in at.items():
        gateway, slot = bases.devices[i]
        result.append(ChangeResult(
            gateway=gateway, slot=slot, name=(of[gateway].opened.get(slot) or {}).get("name"),
            enters=end[i] is None, parameter=bases.names[k], together=_together(bases, i, k),
            reason_first=start[i], reason_second=end[i]))
    return tuple(result)


def _together(bases: _Bases, i: int, k: int) -> tuple[str, ...]:
    """Return the parameters before step `k` that device `i` needs to change there. States are computed once for all."""
    names = bases.names
    was = bases.reasons(())[i] is None

    def flips(changed: Sequence[str]) -> bool:
        return (bases.reasons(changed)[i] is None) != was

    if flips(names[k:k + 1]):
        return ()
    needed = [name for name in names[:k] if name not in ELSEWHERE | {"point_roles"}]
    for name in tuple(needed):  # leave out what is not needed, one after another: what stays is needed
        fewer = [other for other in needed if other != name]
        if flips([*fewer, names[k]]):
            needed = fewer
    return tuple(needed)
