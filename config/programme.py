"""Programmes as data: rules, counting basis and metrics of `config/programmes/*.toml`, and a checker's own basis file.

A basis table says of every parameter either its value with its source, or that the programme does not fix it; then
the default of `protocols.terms.basis` holds and is printed as such.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import tomllib
from dataclasses import dataclass, fields
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from config.loader import Section, load_toml
from protocols.errors import ConfigError, Problem
from protocols.terms.basis import Basis

PROGRAMMES = ("anhui_2023", "jiangsu_2019", "jiangxi_2024", "jiangxi_guideline_2022", "sichuan_2022")

PARAMETERS = tuple(f.name for f in fields(Basis) if f.name not in ("key", "version", "unspecified", "sources"))
"""Every parameter of a counting basis."""

DAY_OFFSETS_S = {"Asia/Shanghai": 8 * 3600, "UTC": 0}
"""Zones a day may be counted in, with their offset. Neither has changed since 1991, so no zone database is needed."""

YEAR_S = 366 * 86_400
Unrestricted = Literal["any"]
Role = Literal["switch", "parameter", "heartbeat", "derived", "constant"]
Thing = Literal["equipment", "product", "terminal", "line", "infrastructure"]
Deployment = Literal["public", "private", "dedicated"]


class Sentence(Section):
    """One sentence in both languages, in our own words."""

    zh: str
    en: str


class Cited(Sentence):
    """A sentence with its place in the document."""

    cite: str = ""


class BasisTable(Section):
    """[basis]: parameters that are set. `any` stands for no restriction, which TOML cannot say otherwise."""

    version: str = "1"
    freshness_s: int | None = Field(default=None, ge=1, le=YEAR_S)
    lateness_s: int | None = Field(default=None, ge=0, le=YEAR_S)
    observation_s: int | None = Field(default=None, ge=1, le=YEAR_S)
    day_boundary: Literal["Asia/Shanghai", "UTC"] | None = None
    roles: list[Role] | None = Field(default=None, min_length=1)
    point_roles: list[Role] | None = Field(default=None, min_length=1)
    things: list[Thing] | None = Field(default=None, min_length=1)
    energy_required: bool | None = None
    owner_required: bool | None = None
    industries: list[str] | Unrestricted | None = None
    regions: list[str] | Unrestricted | None = None
    deployments: list[Deployment] | Unrestricted | None = None
    parents: Literal["child", "parent"] | None = None
    duplicates: Literal["once"] | None = None
    kinds: Literal["by_model", "by_class"] | None = None
    protocols: Literal["family", "variant"] | None = None
    fold_points: bool | None = None
    sources: dict[str, str] = Field(default_factory=dict)

    def fixed(self) -> dict[str, Any]:
        """Return the parameters that are set, as `Basis` takes them."""
        values = {name: getattr(self, name) for name in PARAMETERS if getattr(self, name) is not None}
        return {name: None if value == "any" else frozenset(value) if isinstance(value, list) else value
                for name, value in values.items()}

    def basis(self, key: str) -> Basis:
        """Return the basis; what is not set is listed as unspecified."""
        fixed = self.fixed()
        return Basis(key=key, version=self.version, **fixed, sources=dict(sorted(self.sources.items())),
                     unspecified=tuple(name for name in PARAMETERS if name not in fixed))


class ProgrammeBasis(BasisTable):
    """[basis] of a programme: every value has a source, and what is not fixed is said to be so."""

    unspecified: list[str]

    @model_validator(mode="after")
    def _complete(self) -> ProgrammeBasis:
        fixed = set(self.fixed())
        if fixed != self.sources.keys():
            raise ValueError(f"value and source must come together: {sorted(fixed ^ self.sources.keys())}")
        if fixed & set(self.unspecified) or fixed | set(self.unspecified) != set(PARAMETERS):
            wrong = sorted(fixed & set(self.unspecified) | fixed.union(self.unspecified) ^ set(PARAMETERS))
            raise ValueError(f"each parameter is either fixed or unspecified: {wrong}")
        return self


class BasisFile(Section):
    """A checker's own basis (`--basis FILE`)."""

    schema_: Literal["basis/1"] = Field(alias="schema")
    key: str = Field(min_length=1, max_length=80)
    basis: BasisTable


class Comparison(Section):
    """One comparison. `op` follows the wording: 不少于, 达到, 以上 are `>=`; 超过 is `>`."""

    metric: str
    op: Literal[">=", ">", "==", "<="]
    value: int | float | bool
    unit: str = ""
    wording: str = ""


class Branch(Section):
    """Tests that must all hold. `mode`: the discrete (离散行业) or process (流程行业) alternative."""

    mode: Literal["discrete", "process"] | None = None
    all: list[Comparison] = Field(min_length=1)


class Rule(Section):
    """One rule of one platform type: at least one branch must hold."""

    id: str
    type: str
    cite: str
    zh: str
    en: str
    any: list[Branch] = Field(min_length=1)
    ambiguity: list[Sentence] = Field(default_factory=list)


class PlatformType(Section):
    """A platform type. `devices_of`: whose devices a claim of this type may count."""

    key: str
    name_zh: str
    name_en: str
    devices_of: Literal["applicant", "anybody"]


class Head(Section):
    """[programme]: which document this is. `status` says what the document fixes in numbers."""

    key: str
    version: str
    title_zh: str
    authority_zh: str
    doc_no: str = ""
    issued: date | None = None
    status: Sentence


class Cutoff(Cited):
    """Until when figures may be counted, where the programme names a date."""

    day: date | None = None


class DailyRunning(Cited):
    """The programme asks for devices that sent running data on each day, of these deployments."""

    deployments: list[Deployment] = Field(min_length=1)


class ProgrammeFile(Section):
    """One file of `config/programmes`."""

    schema_: Literal["programme/2"] = Field(alias="schema")
    programme: Head
    basis: ProgrammeBasis
    types: list[PlatformType] = Field(alias="type", min_length=1)
    cutoffs: list[Cutoff] = Field(alias="cutoff", default_factory=list)
    ambiguities: list[Cited] = Field(alias="ambiguity", default_factory=list)
    daily_running: DailyRunning | None = None
    rules: list[Rule] = Field(alias="rule", default_factory=list)

    @model_validator(mode="after")
    def _refers(self) -> ProgrammeFile:
        ids = [rule.id for rule in self.rules]
        unknown = {rule.type for rule in self.rules} - {item.key for item in self.types}
        strange = {test.metric for rule in self.rules for branch in rule.any for test in branch.all} - metrics().keys()
        if unknown or strange or len(set(ids)) != len(ids):
            raise ValueError(f"unknown types {sorted(unknown)}, unknown metrics {sorted(strange)}, or a doubled rule")
        return self


class Metric(Section):
    """A key that claims and rules use.

    evidence: `proven` from rows and columns; `operations` by operations that the evidence format does not hold yet,
    so nothing of it is proven; `declared` by the applicant with documents of its own.
    """

    key: str
    kind: Literal["count", "number", "yes_no"] = "count"
    evidence: Literal["proven", "operations", "declared"]
    unit: str = ""
    zh: str
    en: str


class MetricFile(Section):
    """`config/programmes/metrics.toml`."""

    schema_: Literal["metrics/1"] = Field(alias="schema")
    metrics: list[Metric] = Field(alias="metric", min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Programme:
    """A programme as it is used: its data, its basis, and the SHA-256 of the file that says both."""

    data: ProgrammeFile
    basis: Basis
    sha256: str

    def type_named(self, key: str) -> PlatformType:
        """Return a platform type. Raises ConfigError with the types that exist."""
        known = [item.key for item in self.data.types]
        for item in self.data.types:
            if item.key == key:
                return item
        raise ConfigError(Problem.of("--type", "programme.no_type", type=key, known=", ".join(known)))


def load_programme(key: str) -> Programme:
    """Return a programme that ships with the program. Raises ConfigError with the known keys and the nearest one."""
    if key not in PROGRAMMES:
        near = difflib.get_close_matches(key, PROGRAMMES, 1)
        raise ConfigError(Problem.of("--programme", "programme.unknown", programme=key,
                                     near=near[0] if near else PROGRAMMES[1], known=", ".join(PROGRAMMES)))
    text = _shipped(key)
    data = ProgrammeFile.model_validate(tomllib.loads(text.decode()))
    return Programme(data=data, basis=data.basis.basis(key), sha256=hashlib.sha256(text).hexdigest())


def load_basis(path: Path) -> tuple[Basis, str]:
    """Return a checker's own basis and the SHA-256 of its file. Raises ConfigError with every problem."""
    file = load_toml(path, BasisFile)
    return file.basis.basis(file.key), hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def metrics() -> dict[str, Metric]:
    """Return key -> metric, in the order of the file."""
    file = MetricFile.model_validate(tomllib.loads(_shipped("metrics").decode()))
    return {item.key: item for item in file.metrics}


def _shipped(key: str) -> bytes:
    return resources.files("config").joinpath("programmes", f"{key}.toml").read_bytes()
