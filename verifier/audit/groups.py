"""The same figures for parts of the devices: by stage, by level, by industry, place, class, deployment and enterprise.

Devices are folded to signatures first, in one pass; the parts are then added up from some hundreds of signatures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from config.programme import SplitBy
from protocols.terms.basis import family
from verifier.audit.divisions import Division, division, place
from verifier.audit.results import PartFigures, Totals
from verifier.proof.figures import DeviceFigure, Figures

COUNTED = "counted"
STAGES = ("configured", "connected", "producing", "changing", COUNTED)
CODES_MAX = 4096
"""Codes remembered with their class; evidence may hold any text."""

GROUPED: dict[str, str] = {
    "industry": "industry", "province": "region", "city": "region", "county": "region", "class": "leaf",
    "class_level_1": "leaf", "deployment": "deployment", "enterprise": "enterprise"}
"""Division -> what of a device says to which part it belongs."""


@dataclass(frozen=True, slots=True)
class _Signature:
    """What the parts need to know of a device. Devices with one signature are added up together."""

    stages: tuple[bool, ...]
    level: int
    kind: str | None
    enterprise: str | None
    leaf: str | None
    industry: str | None
    region: str | None
    deployment: str | None
    protocols: frozenset[str]


Folded = Mapping[_Signature, tuple[int, int]]


@dataclass(slots=True)
class _Sum:
    """Figures of a part while they grow."""

    devices: int = 0
    points: int = 0
    seen: dict[str, set[Any]] = field(default_factory=lambda: {
        name: set() for name in ("kinds_by_model", "kinds_by_class", "enterprises", "industries", "cities",
                                 "protocols_by_family", "protocols_by_variant")})

    def add(self, one: _Signature, devices: int, points: int) -> None:
        self.devices += devices
        self.points += points
        for name, value in (("kinds_by_model", one.kind), ("kinds_by_class", _class_of(one.leaf)),
                            ("enterprises", one.enterprise), ("industries", _industry_of(one.industry)),
                            ("cities", place(one.region, "city"))):
            if value is not None:
                self.seen[name].add(value)
        self.seen["protocols_by_variant"] |= one.protocols
        self.seen["protocols_by_family"] |= {family(name) for name in one.protocols}

    def counts(self) -> dict[str, int]:
        return {"devices": self.devices, "points": self.points,
                **{name: len(values) for name, values in self.seen.items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Every part. levels: of the devices that count, those of this level or a higher one; groups: these devices too."""

    stages: Mapping[str, Totals]
    levels: Mapping[str, Totals]
    groups: Mapping[str, tuple[PartFigures, ...]]


def parts(found: Figures, divisions: Sequence[SplitBy] = ()) -> Parts:
    """Add up the figures of every part. `divisions`: as the programme sets them."""
    folded = _fold(found.devices)
    stages = {name: _total((one, sums) for one, sums in folded.items() if one.stages[at])
              for at, name in enumerate(STAGES)}
    counted = {one: sums for one, sums in folded.items() if one.stages[-1]}
    points = found.points
    of_points = dict(zip(STAGES, (points.configured, points.sampled, points.producing, points.changing,
                                  stages[COUNTED].points), strict=True))
    levels = {str(level): _total((one, sums) for one, sums in counted.items() if one.level >= level)
              for level in found.levels.devices}
    return Parts(stages={name: replace(stages[name], points=of_points[name]) for name in STAGES}, levels=levels,
                 groups={by: _group(counted, division(by, divisions), fact) for by, fact in GROUPED.items()})


def _fold(devices: Sequence[DeviceFigure]) -> Folded:
    """Return signature -> (devices, points that count)."""
    folded: dict[tuple[Any, ...], list[int]] = {}
    for d in devices:
        row = d.row
        sums = folded.setdefault(
            ((True, d.connected, d.producing, d.changing, d.reason is None), d.level.level, row.kind, row.uscc,
             row.equipment_class, row.industry, row.region, row.deployment, d.protocols), [0, 0])
        sums[0] += 1
        sums[1] += d.points
    return {_Signature(*key): (number, points) for key, (number, points) in folded.items()}


def _total(chosen: Iterable[tuple[_Signature, tuple[int, int]]]) -> Totals:
    part = _Sum()
    for one, (devices, points) in chosen:
        part.add(one, devices, points)
    return Totals(**part.counts())


def _group(counted: Folded, by: Division, fact: str) -> tuple[PartFigures, ...]:
    """Return the parts of one division, what belongs to none of them last."""
    of: dict[str | None, str | None] = {}
    sums: dict[str | None, _Sum] = {}
    for one, (devices, points) in counted.items():
        value = getattr(one, fact)
        if value not in of:
            of[value] = by.of_device(value)
        sums.setdefault(of[value], _Sum()).add(one, devices, points)
    keys = sorted(sums, key=lambda key: (key is None, key or ""))
    return tuple(PartFigures(key=key, name_zh=by.name_zh(key), **sums[key].counts()) for key in keys)


@lru_cache(CODES_MAX)
def _class_of(leaf: str | None) -> str | None:
    """Return the class of Appendix B at the reporting level, by which kinds are counted."""
    return division("class").of_device(leaf)


@lru_cache(CODES_MAX)
def _industry_of(code: str | None) -> str | None:
    return division("industry").of_device(code)
