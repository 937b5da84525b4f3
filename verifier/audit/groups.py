"""The same figures for parts of the devices: by stage, by level, by industry, place, class, deployment and enterprise.

Devices that are alike are put together first, in one pass; the parts are then added up from these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

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
    "industry": "code", "province": "region", "city": "region", "county": "region", "class": "leaf",
    "class_level_1": "leaf", "deployment": "deployment", "enterprise": "enterprise", "kind": "kind"}
"""Division -> what of a device says to which part it belongs."""


class _Alike(NamedTuple):
    """Devices of which the parts need to know the same. stages: as in STAGES, whether they reach each."""

    devices: int
    points: int
    stages: tuple[bool, ...]
    level: int
    kind: str | None
    enterprise: str | None
    equipment_class: str | None
    industry: str | None
    city: str | None
    leaf: str | None
    code: str | None
    region: str | None
    deployment: str | None
    protocols: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Every part. levels: of the devices that count, those of this level or a higher one; groups: these devices too."""

    stages: Mapping[str, Totals]
    levels: Mapping[str, Totals]
    groups: Mapping[str, tuple[PartFigures, ...]]


def parts(found: Figures, divisions: Sequence[SplitBy] = (), models: Mapping[str, str] | None = None) -> Parts:
    """Add up the figures of every part. divisions: as the programme sets them. models: names of kinds, where opened."""
    alike = _fold(found.devices)
    stages = {name: _total([one for one in alike if one.stages[at]]) for at, name in enumerate(STAGES)}
    counted = [one for one in alike if one.stages[-1]]
    points = found.points
    of_points = dict(zip(STAGES, (points.configured, points.sampled, points.producing, points.changing,
                                  stages[COUNTED].points), strict=True))
    levels = {str(level): _total([one for one in counted if one.level >= level]) for level in found.levels.devices}
    return Parts(stages={name: replace(stages[name], points=of_points[name]) for name in STAGES}, levels=levels,
                 groups={by: _group(counted, division(by, divisions), fact, (models or {}) if by == "kind" else {})
                         for by, fact in GROUPED.items()})


def _fold(devices: Sequence[DeviceFigure]) -> list[_Alike]:
    """Put together the devices that are alike."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    for d in devices:
        row = d.row
        key = ((True, d.connected, d.producing, d.changing, d.reason is None), d.level.level, row.kind, row.uscc,
               row.equipment_class, row.industry, row.region, row.deployment, d.protocols)
        one = sums.get(key)
        if one is None:
            sums[key] = one = [0, 0]
        one[0] += 1
        one[1] += d.points
    return [_Alike(number, points, stages, level, kind, uscc, _class_of(leaf), _industry_of(code),
                   place(region, "city"), leaf, code, region, deployment, protocols)
            for (stages, level, kind, uscc, leaf, code, region, deployment, protocols), (number, points)
            in sums.items()]


def _total(alike: Sequence[_Alike]) -> Totals:
    variants = frozenset[str]().union(*{one.protocols for one in alike})
    return Totals(
        devices=sum([one.devices for one in alike]), points=sum([one.points for one in alike]),
        kinds_by_model=len({one.kind for one in alike} - {None}),
        kinds_by_class=len({one.equipment_class for one in alike} - {None}),
        enterprises=len({one.enterprise for one in alike} - {None}),
        industries=len({one.industry for one in alike} - {None}), cities=len({one.city for one in alike} - {None}),
        protocols_by_family=len({family(name) for name in variants}), protocols_by_variant=len(variants))


def _group(counted: Sequence[_Alike], by: Division, fact: str, names: Mapping[str, str]) -> tuple[PartFigures, ...]:
    """Return the parts of one division, what belongs to none of them last. `names`: where the division has none."""
    of: dict[str | None, list[_Alike]] = {}
    for one in counted:
        of.setdefault(getattr(one, fact), []).append(one)
    members: dict[str | None, list[_Alike]] = {}
    for value, some in of.items():
        members.setdefault(by.of_device(value), []).extend(some)
    keys = sorted(members, key=lambda key: (key is None, key or ""))
    return tuple(PartFigures(key=key, name_zh=by.name_zh(key) or names.get(key or ""), **asdict(_total(members[key])))
                 for key in keys)


@lru_cache(CODES_MAX)
def _class_of(leaf: str | None) -> str | None:
    """Return the class of Appendix B at the reporting level, by which kinds are counted."""
    return division("class").of_device(leaf)


@lru_cache(CODES_MAX)
def _industry_of(code: str | None) -> str | None:
    return division("industry").of_device(code)
