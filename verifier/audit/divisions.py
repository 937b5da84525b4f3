"""Ways to split a figure under one programme: which part a device belongs to, and which part a claim means.

A claim may name a part as the classification does, by its Chinese name, or by a code of the standard.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from config.classification import Class, Classification, load_classification
from config.programme import SplitBy
from config.programme_rules import Division as Name
from protocols.terms.vocabulary import DEPLOYMENTS

OTHER = "other"
"""The part of what belongs to no class, in claims; in figures its key is null."""

OTHER_NAMES = (OTHER, "其他", "其它")
PLACES = {"province": 2, "city": 4, "county": 6}
"""Parts of a region code of GB/T 2260: name -> leading digits. A code that ends in zeros names no smaller place."""

CODE = re.compile("[A-T]?[0-9]{1,10}", re.ASCII)
"""A code of one of the standards: GB/T 4754 has a letter before its digits."""

DEFAULTS: dict[str, tuple[str, int]] = {
    "class": ("equipment_jx_b", 2), "class_level_1": ("equipment_jx_b", 1), "industry": ("industry_jx_a", 2)}
"""Classification and level of a division that the programme does not set."""


@dataclass(frozen=True, slots=True)
class Division:
    """One division. classification None: parts are codes or free names."""

    by: str
    classification: Classification | None = None
    level: int = 1

    def of_device(self, value: str | None) -> str | None:
        """Return the part of a device from its class key, industry code, region code or deployment; None: in none."""
        if self.classification is None:
            return place(value, self.by) if self.by in PLACES else value
        if self.by.startswith("class"):
            return _class_of(self.classification, value, self.level)
        found = self.classification.by_code(value)
        found = self.classification.at_level(found.key, self.level) if found else None
        return found.key if found else None

    def meant(self, text: str) -> str | None:
        """Return the part that a claim means; None if it is no part of this division."""
        known = self.classification
        if known is not None:
            for item in self.parts():
                if text in (item.key, item.name_zh, *item.aliases_zh):
                    return item.key
            if text in OTHER_NAMES:
                return OTHER
            found = known.by_code(text) if CODE.fullmatch(text) else None
            found = known.at_level(found.key, self.level) if found else None
            return found.key if found else text if known.open else None
        if text in OTHER_NAMES:
            return OTHER
        if self.by in PLACES:
            return place(text, self.by) if text.isdecimal() and text.isascii() else None
        if self.by == "deployment":
            return text if text in DEPLOYMENTS else None
        return text

    def parts(self) -> list[Class]:
        """Return the classes that the division lists."""
        return [] if self.classification is None else self.classification.of_level(self.level)

    def near(self, text: str) -> str:
        """Return names that a misspelt part may have meant."""
        names = [name for item in self.parts() for name in (item.key, item.name_zh)] or list(DEPLOYMENTS)
        return ", ".join(difflib.get_close_matches(text, names, 3, 0.3) or names[:6])

    def name_zh(self, key: str | None) -> str | None:
        """Return the official name of a part, None where the standard's code is all there is."""
        item = self.classification.classes.get(key or "") if self.classification else None
        return item.name_zh if item else None


def division(by: Name | str, set_by_programme: Sequence[SplitBy] = ()) -> Division:
    """Return a division as the programme sets it, else by its default."""
    for item in set_by_programme:
        if item.key == by:
            return Division(by, load_classification(item.classification), item.level)
    if by in DEFAULTS:
        key, level = DEFAULTS[by]
        return Division(by, load_classification(key), level)
    return Division(by)


def place(region: str | None, name: str) -> str | None:
    """Return the leading digits of a region code that name a province, city or county; None if it names none."""
    digits = PLACES[name]
    if region is None or len(region) < digits or set(region[digits - 2:digits]) == {"0"}:
        return None
    return region[:digits]


def _class_of(classification: Classification, leaf: str | None, level: int) -> str | None:
    """Return the class of a device's class key, also in a classification that maps to the one that has the key."""
    if leaf is None:
        return None
    if leaf in classification.classes:
        found = classification.at_level(leaf, level)
        return found.key if found else None
    base = _equipment()
    for item in classification.of_level(level):
        if leaf in base.classes and any(base.holds(name, leaf) for name in item.maps_to):
            return item.key
    return None


@functools.cache
def _equipment() -> Classification:
    return load_classification("equipment_jx_b")
