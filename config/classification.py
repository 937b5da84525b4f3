"""Classifications as data: equipment and industries, with their codes, from `config/classifications/*.toml`."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from pydantic import Field

from config.loader import Section

Key = Literal["equipment_jx_b", "industry_jx_a"]
REPORTING_LEVEL = 2
"""The level at which the programmes ask for numbers."""


class Class(Section):
    """One class. `codes` are those of the standard that the classification names, as printed."""

    key: str
    level: int = Field(ge=1, le=3)
    parent: str | None = None
    name_zh: str
    codes: list[str] = Field(default_factory=list)


class ClassificationFile(Section):
    """One file of `config/classifications`."""

    schema_: str = Field(alias="schema")
    key: str
    name_zh: str
    source: str
    classes: list[Class] = Field(alias="class")


@dataclass(frozen=True, slots=True)
class Classification:
    """A tree of classes by key."""

    key: str
    name_zh: str
    source: str
    classes: dict[str, Class]

    def reporting_class(self, key: str | None) -> Class | None:
        """Return the level-2 class of a class key of level 2 or 3; None for unknown keys and for level 1."""
        found = self.classes.get(key or "")
        while found is not None and found.level > REPORTING_LEVEL:
            found = self.classes.get(found.parent or "")
        return found if found is not None and found.level == REPORTING_LEVEL else None

    def by_code(self, code: str | None) -> Class | None:
        """Return the class whose printed codes hold the longest prefix of `code`, None if no code fits."""
        digits = (code or "").lstrip("ABCDEFGHIJKLMNOPQRST")
        fitting = [(len(prefix), item) for item in self.classes.values() for prefix in item.codes
                   if digits.startswith(prefix)]
        return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


@functools.cache
def load_classification(key: Key) -> Classification:
    """Return a classification that ships with the program."""
    text = resources.files("config").joinpath("classifications", f"{key}.toml").read_text(encoding="utf-8")
    data = ClassificationFile.model_validate(tomllib.loads(text))
    return Classification(data.key, data.name_zh, data.source, {item.key: item for item in data.classes})
