"""What a rule compares: the figure of one metric, of all devices or of one part, under one reading.

What evidence can prove is taken from the evidence, never from the claim; the rest is what the claim declares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from config.programme import Metric, Programme
from config.programme_rules import Reading
from verifier.audit.claim import Claim, Value
from verifier.audit.divisions import PLACES, division
from verifier.audit.results import FiguresResult, PartFigures, Totals
from verifier.audit.results_audit import PartName, RestsOn

JIANGXI = "36"
"""Its first two digits of a region code (GB/T 2260)."""

PROVEN: dict[str, Callable[[Totals, str, str], int]] = {
    "device_connected_count": lambda t, kinds, protocols: t.devices,
    "device_kind_count": lambda t, kinds, protocols: t.kinds_by_model if kinds == "by_model" else t.kinds_by_class,
    "point_count": lambda t, kinds, protocols: t.points,
    "protocol_count": lambda t, kinds, protocols: (
        t.protocols_by_family if protocols == "family" else t.protocols_by_variant),
    "enterprise_connected_count": lambda t, kinds, protocols: t.enterprises,
    "covered_industry_count": lambda t, kinds, protocols: t.industries,
    "served_area_count": lambda t, kinds, protocols: t.cities,
}
"""How each metric is read from the figures of a part: totals, how kinds and how protocols are told apart."""

OF_ALL: dict[str, Callable[[FiguresResult], int | None]] = {
    "covered_industry_count": lambda f: sum(part.key is not None for part in f.groups["industry"]),
    "device_daily_running_count": lambda f: f.daily_running[-1].devices if f.daily_running else None,
    "enterprises_with_evidence_in_jiangxi": lambda f: sum(
        part.enterprises for part in f.groups["province"] if part.key == JIANGXI),
}
"""How each metric is read that is no total of all devices: of some of them, or by the programme's own industries."""

ADDITIVE = ("device_connected_count", "point_count")
"""Figures whose parts add up to the whole."""

KINDS = ("by_model", "by_class")
PROTOCOLS = ("family", "variant")
NOBODY = Totals(devices=0, points=0, kinds_by_model=0, kinds_by_class=0, enterprises=0, industries=0, cities=0,
                protocols_by_family=0, protocols_by_variant=0)
"""The figures of a part without a counted device."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a division by which a rule asks. scoped: the claim as a whole is of this part."""

    by: str
    key: str | None
    name: str | None = None
    scoped: bool = False

    def named(self) -> PartName:
        """Return it as results show it."""
        return PartName(by=self.by, key=self.key, name_zh=self.name)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure: what is claimed, what is proven, and what of it is compared."""

    claimed: Value | None
    proven: int | None
    value: Value | None
    rests_on: RestsOn | None


@dataclass(frozen=True, slots=True)
class Facts:
    """A claim beside the figures of the evidence; figures None: the bundles prove nothing."""

    claim: Claim
    programme: Programme
    figures: FiguresResult | None
    kinds: str
    protocols: str

    def metric(self, key: str) -> Metric:
        """Return a metric of the programme."""
        return self.programme.metrics[key]

    def figure(self, key: str, part: Part | None = None, reading: Reading | None = None,
               kinds: str | None = None) -> Figure:
        """Return the figure of a metric. `kinds`: how the rule itself tells kinds apart."""
        claimed = self.claimed(key, part)
        evidence = self.metric(key).evidence
        if evidence == "proven" and (part is None or self.has(part.by)):
            proven = self.proven(key, part, (reading.kinds if reading else None) or kinds,
                                 reading.protocols if reading else None)
            return Figure(claimed, proven, proven, None if proven is None else "evidence")
        # The evidence holds no operation, so no device is proven to be manageable.
        proven = 0 if evidence == "operations" and self.figures is not None else None
        return Figure(claimed, proven, claimed, None if claimed is None else "declaration")

    def has(self, by: str) -> bool:
        """Whether evidence divides its figures so."""
        return self.figures is None or by in self.figures.groups

    def proven(self, key: str, part: Part | None = None, kinds: str | None = None,
               protocols: str | None = None) -> int | None:
        """Return what is proven of a metric that evidence can prove; None if nothing is, or it is not computed."""
        if self.figures is None:
            return None
        if part is None and key in OF_ALL:
            return OF_ALL[key](self.figures)
        if key not in PROVEN:
            return None
        used = protocols or self.protocols
        if part is None and key == "protocol_count":  # of the observation period where it is covered
            told = self.figures.protocols
            return told.by_family if used == "family" else told.by_variant
        totals = self.figures.stages["counted"] if part is None else self.totals(part)
        return PROVEN[key](totals, kinds or self.kinds, used)

    def totals(self, part: Part) -> Totals:
        """Return the figures of a part; a part without a counted device has zeros."""
        groups: Iterable[PartFigures] = self.figures.groups.get(part.by, ()) if self.figures else ()
        return next((group for group in groups if group.key == part.key), NOBODY)

    def claimed(self, key: str, part: Part | None) -> Value | None:
        """Return what is claimed: of this part; or of all, where the whole claim is of this part and names no parts."""
        if part is None:
            return self.claim.metrics.get(key)
        named = [group for group in self.claim.groups if group.by == part.by and key in group.metrics]
        for group in named:
            if group.key == part.key:
                return group.metrics[key]
        return self.claim.metrics.get(key) if part.scoped and not named else None

    def parts(self, by: str) -> list[Part]:
        """Return the parts that have a counted device, or that the claim names, in the order of their keys."""
        of = division(by, self.programme.data.divisions)
        found = {group.key: Part(by, group.key, group.name) for group in self.claim.groups if group.by == by}
        for told in self.figures.groups.get(by, ()) if self.figures else ():
            if told.key is not None:
                found[told.key] = Part(by, told.key, told.name_zh)
        return [Part(by, key, of.name_zh(key) or found[key].name) for key in sorted(found)]

    def candidates(self, scope: str) -> list[Part]:
        """Return the industries or regions of which the best is meant, or the one that the claim names."""
        claim = self.claim
        if scope == "one_industry" and claim.industry is not None:
            name = division("industry", self.programme.data.divisions).name_zh(claim.industry)
            return [Part("industry", claim.industry, name or claim.table.industry, scoped=True)]
        if scope == "one_region" and claim.table.region is not None:
            return [self.region(claim.table.region)]
        places = ("industry",) if scope == "one_industry" else ("city", "county")
        return [replace(part, scoped=True) for by in places for part in self.parts(by)]

    def region(self, digits: str) -> Part:
        """Return the province, city or county that the digits of a region code name."""
        while digits.endswith("00"):
            digits = digits[:-2]
        by = next(name for name, length in PLACES.items() if length == max(2, len(digits)))
        of = division(by, self.programme.data.divisions)
        # A programme may name its cities by a classification of its own.
        key = digits if of.classification is None else of.of_device(digits.ljust(6, "0")) or digits
        return Part(by, key, of.name_zh(key), scoped=True)


def exact(value: int | float) -> Fraction:
    """Return a number as it is written: 0.05 is five hundredths, not the nearest binary fraction."""
    return Fraction(str(value))


def number(value: Value | None) -> int | float | None:
    """Return a value if it is a number: yes and no are none."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
