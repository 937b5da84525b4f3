"""Classifications as data: equipment, industries, regions, domains and so on, from `config/classifications/*.toml`."""

from __future__ import annotations

import functools
import hashlib
import tomllib
from dataclasses import dataclass
from importlib import resources

from pydantic import Field

from config.loader import Section

CLASSIFICATIONS = (
    "application_jxg_2022", "cloud_software_js_2019", "domain_ah_2023_form", "domain_js_2019", "domain_jxg_2022",
    "domain_nine", "equipment_jx_b", "industry_ah_2023", "industry_ah_2023_form", "industry_jx_2024_form",
    "industry_jx_a", "industry_sc_2022", "manufacturing_js_2019", "model_jx_c", "region_jx_d", "technical_ah_2023",
)
"""Every file of `config/classifications`."""

REPORTING_LEVEL = 2
"""The level at which the programmes ask for numbers."""


class Class(Section):
    """One class. `codes` are those of the standard that the classification names, as printed.

    own_codes: codes that we add where the document prints none. maps_to: classes of the classification that is mapped
    to, whose codes are then meant too; empty where nothing corresponds. rest: it holds every code that no other class
    holds. aliases_zh: other names in the documents.
    """

    key: str
    level: int = Field(default=1, ge=1, le=3)
    parent: str | None = None
    name_zh: str
    codes: list[str] = Field(default_factory=list)
    own_codes: list[str] = Field(default_factory=list)
    maps_to: list[str] = Field(default_factory=list)
    aliases_zh: list[str] = Field(default_factory=list)
    rest: bool = False


class Remark(Section):
    """Something wrong or doubtful in the printed list. It is kept as printed; this is shown beside it."""

    zh: str
    en: str
    cite: str = ""


class ClassificationFile(Section):
    """One file of `config/classifications`."""

    schema_: str = Field(alias="schema")
    key: str
    name_zh: str
    source: str
    maps_to: str | None = None
    open: bool = False
    remarks: list[Remark] = Field(alias="remark", default_factory=list)
    classes: list[Class] = Field(alias="class", min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """A tree of classes by key. `codes`: (prefix, key) of every class, those of classes that it maps to included.

    remarks: what is wrong or doubtful in the printed list. open: the printed list ends with 等.
    """

    key: str
    name_zh: str
    source: str
    open: bool
    remarks: tuple[Remark, ...]
    classes: dict[str, Class]
    codes: tuple[tuple[str, str], ...]
    sha256: str

    def of_level(self, level: int) -> list[Class]:
        """Return the classes of one level, in the order of the document."""
        return [item for item in self.classes.values() if item.level == level]

    def at_level(self, key: str | None, level: int) -> Class | None:
        """Return the class at `level` that is, or holds, the class of a key; None if the key is unknown or higher."""
        found = self.classes.get(key or "")
        while found is not None and found.level > level:
            found = self.classes.get(found.parent or "")
        return found if found is not None and found.level == level else None

    def holds(self, outer: str, inner: str | None) -> bool:
        """Whether the class `inner` is, or lies below, the class `outer`."""
        while inner is not None and inner != outer:
            inner = self.classes[inner].parent
        return inner is not None

    def reporting_class(self, key: str | None) -> Class | None:
        """Return the level-2 class of a class key of level 2 or 3; None for unknown keys and for level 1."""
        return self.at_level(key, REPORTING_LEVEL)

    def by_code(self, code: str | None) -> Class | None:
        """Return the class whose codes hold the longest prefix of `code`; the rest, or None, if no code fits."""
        digits = (code or "").lstrip("ABCDEFGHIJKLMNOPQRST")
        fitting = [(len(prefix), key) for prefix, key in self.codes if digits.startswith(prefix)]
        if fitting:
            return self.classes[max(fitting, key=lambda pair: pair[0])[1]]
        return next((item for item in self.classes.values() if item.rest), None) if digits else None


@functools.cache
def load_classification(key: str) -> Classification:
    """Return a classification that ships with the program, one of CLASSIFICATIONS."""
    text = resources.files("config").joinpath("classifications", f"{key}.toml").read_bytes()
    data = ClassificationFile.model_validate(tomllib.loads(text.decode()))
    base = load_classification(data.maps_to) if data.maps_to else None
    codes = [(prefix, item.key) for item in data.classes for prefix in (*item.codes, *item.own_codes)]
    for item in data.classes:
        if base is not None:
            codes += [(prefix, item.key) for name in item.maps_to
                      for prefix, inner in base.codes if base.holds(name, inner)]
    return Classification(
        key=data.key, name_zh=data.name_zh, source=data.source, open=data.open, remarks=tuple(data.remarks),
        classes={item.key: item for item in data.classes}, codes=tuple(codes),
        sha256=hashlib.sha256(text).hexdigest())
