"""Programmes as data: `config/programmes/*.toml`, a programme from a file of the user, and a checker's own basis file.

A basis table says of every parameter either its value with its source, or that the programme does not fix it; then
the default of `protocols.terms.basis` holds and is printed as such. Rules and indicators: `config.programme_rules`;
forms, lists and reports: `config.programme_forms`.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from config.classification import CLASSIFICATIONS, load_classification
from config.loader import Section, load_toml, parse_toml, validate
from config.programme_forms import Form, FormField, MonitoringTable, ProofList, Report, Submission, Track
from config.programme_rules import Ambiguity, Cited, Division, Indicator, Rule, Sentence
from protocols.errors import ConfigError, Problem
from protocols.terms.basis import Basis

PROGRAMMES = ("anhui_2023", "jiangsu_2019", "jiangxi_2024", "jiangxi_guideline_2022", "sichuan_2022")

PARAMETERS = tuple(f.name for f in fields(Basis) if f.name not in ("key", "version", "unspecified", "sources"))
"""Every parameter of a counting basis."""

DAY_OFFSETS_S = {"Asia/Shanghai": 8 * 3600, "UTC": 0}
"""Zones a day may be counted in, with their offset. Neither has changed since 1991, so no zone database is needed."""

ALWAYS_USED = {"equipment_jx_b", "industry_jx_a"}
"""Classifications by which `count` splits its figures under every programme."""

YEAR_S = 366 * 86_400
Unrestricted = Literal["any"]
Role = Literal["switch", "parameter", "heartbeat", "derived", "constant"]
Thing = Literal["equipment", "product", "terminal", "line", "infrastructure"]
Deployment = Literal["public", "private", "dedicated"]


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


class PlatformType(Section):
    """A platform type. `devices_of`: whose devices a claim of this type may count. aliases_zh: its other names."""

    key: str
    name_zh: str
    aliases_zh: list[str] = Field(default_factory=list)
    name_en: str
    devices_of: Literal["applicant", "anybody"]


class Head(Section):
    """[programme]: which document this is. `applicant`: who may apply; `status`: what the document fixes in numbers."""

    key: str
    version: str
    title_zh: str
    authority_zh: str
    doc_no: str = ""
    issued: date | None = None
    applicant: Cited | None = None
    status: Sentence


class Cutoff(Cited):
    """Until when something may be counted, where the programme names a date. of: the counted figures or other things,
    for instance revenue, which say nothing of evidence. since: what is older does not count."""

    of: Literal["figures", "other"] = "figures"
    day: date | None = None
    since: date | None = None


class DailyRunning(Cited):
    """The programme asks for devices that sent running data on each day, of these deployments."""

    deployments: list[Deployment] = Field(min_length=1)


class Metric(Section):
    """A key that claims and rules use.

    kind: a whole number, any number, yes or no, or a text. evidence: `proven` from rows and columns; `operations` by
    operations that the evidence format does not hold yet, so nothing of it is proven; `declared` by the applicant with
    documents of its own.
    """

    key: str = Field(pattern="^[a-z][a-z0-9_]*$")
    kind: Literal["count", "number", "yes_no", "text"] = "count"
    evidence: Literal["proven", "operations", "declared"]
    unit: str = ""
    zh: str
    en: str


class MetricFile(Section):
    """`config/programmes/metrics.toml`."""

    schema_: Literal["metrics/1"] = Field(alias="schema")
    metrics: list[Metric] = Field(alias="metric", min_length=1)


class SplitBy(Cited):
    """Which classification, at which level, a division of this programme uses. borrowed: from another programme, for
    this one names none."""

    key: Division
    classification: str
    level: int = Field(ge=1, le=3)
    borrowed: bool = False


class Catalogue(Section):
    """[catalogue]: every indicator of the programme."""

    indicators: list[Indicator] = Field(default_factory=list)


class ProgrammeFile(Section):
    """One file of `config/programmes`, or a user's own."""

    schema_: Literal["programme/3"] = Field(alias="schema")
    programme: Head
    basis: ProgrammeBasis
    types: list[PlatformType] = Field(alias="type", min_length=1)
    metrics: list[Metric] = Field(alias="metric", default_factory=list)
    divisions: list[SplitBy] = Field(alias="division", default_factory=list)
    cutoffs: list[Cutoff] = Field(alias="cutoff", default_factory=list)
    ambiguities: list[Ambiguity] = Field(alias="ambiguity", default_factory=list)
    anomalies: list[Cited] = Field(alias="anomaly", default_factory=list)
    daily_running: DailyRunning | None = None
    rules: list[Rule] = Field(alias="rule", default_factory=list)
    form: Form = Field(default_factory=Form)
    catalogue: Catalogue = Field(default_factory=Catalogue)
    monitoring: MonitoringTable | None = None
    reports: list[Report] = Field(alias="report", default_factory=list)
    tracks: list[Track] = Field(alias="track", default_factory=list)
    submission: Submission | None = None

    @property
    def indicators(self) -> list[Indicator]:
        """Every indicator of the programme."""
        return self.catalogue.indicators

    @property
    def fields(self) -> list[FormField]:
        """The fields of the form, in its order."""
        return self.form.fields

    @property
    def lists(self) -> list[ProofList]:
        """The lists that the programme asks for as proof."""
        return self.form.lists

    def notes(self) -> list[Cited]:
        """Return what a reader of a result must know: who may apply, where the document contradicts itself, what is
        borrowed from another programme, and what is wrong or doubtful in the classifications that are used."""
        used = dict.fromkeys(item.classification for item in self.divisions)
        return [*([self.programme.applicant] if self.programme.applicant else []), *self.anomalies,
                *(item for item in self.divisions if item.borrowed),
                *(Cited(zh=item.zh, en=item.en, cite=item.cite) for key in used
                  for item in load_classification(key).remarks)]

    def required_fields(self, key: str) -> list[FormField]:
        """Return the fields that this platform type must fill in, in the order of the form."""
        return [item for item in self.fields if key in item.required]

    def rules_of(self, key: str) -> list[Rule]:
        """Return the rules of this platform type."""
        return [item for item in self.rules if item.applies_to(key)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Programme:
    """A programme as it is used: its data, its basis, and the SHA-256 of the file that says both.

    metrics: those of `metrics()`, then the programme's own. digests: SHA-256 of every data file that a result under
    this programme depends on, by the file's place below `config`, or by its name for a user's own.
    """

    data: ProgrammeFile
    basis: Basis
    sha256: str
    metrics: dict[str, Metric]
    digests: dict[str, str]

    def type_named(self, key: str) -> PlatformType:
        """Return a platform type. Raises ConfigError with the types that exist."""
        known = [item.key for item in self.data.types]
        for item in self.data.types:
            if item.key == key:
                return item
        raise ConfigError(Problem.of("--type", "programme.no_type", type=key, known=", ".join(known)))


def load_programme(name: str | Path) -> Programme:
    """Return a programme that ships with the program, by its key, or one of a user, by the path of its TOML file.

    Raises: ConfigError with the known keys and the nearest one, or with every problem of the file.
    """
    path = Path(name)
    if path.suffix == ".toml":
        raw, problems = parse_toml(path)
        if raw is None:
            raise ConfigError(problems)
        return _programme(raw, str(path), path.read_bytes(), path.name)
    key = str(name)
    if key not in PROGRAMMES:
        near = difflib.get_close_matches(key, PROGRAMMES, 1)
        raise ConfigError(Problem.of("--programme", "programme.unknown", programme=key,
                                     near=near[0] if near else PROGRAMMES[1], known=", ".join(PROGRAMMES)))
    text = _shipped(key)
    place = f"programmes/{key}.toml"
    return _programme(tomllib.loads(text.decode()), place, text, place)


def _programme(raw: dict[str, Any], where: str, text: bytes, place: str) -> Programme:
    data, problems = validate(raw, ProgrammeFile, where)
    if data is None:
        raise ConfigError(problems)
    known = metrics() | {item.key: item for item in data.metrics}
    problems = [Problem.of(f"{where}, {at}", code, value=value, known=", ".join(allowed) or "-")
                for at, code, value, allowed in _loose_ends(data, known)]
    if problems:
        raise ConfigError(problems)
    sha256 = hashlib.sha256(text).hexdigest()
    digests = {place: sha256, "programmes/metrics.toml": hashlib.sha256(_shipped("metrics")).hexdigest()}
    for key in sorted({item.classification for item in data.divisions} | ALWAYS_USED):
        digests[f"classifications/{key}.toml"] = load_classification(key).sha256
    return Programme(data=data, basis=data.basis.basis(data.programme.key), sha256=sha256, metrics=known,
                     digests=digests)


def _loose_ends(data: ProgrammeFile, known: dict[str, Metric]) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Yield (place, code, value, what is known) for every name that refers to nothing and for every key used twice."""
    types = tuple(item.key for item in data.types)
    for place, keys in (("rule", [r.id for r in data.rules]), ("catalogue.indicators", [i.id for i in data.indicators]),
                        ("type", list(types)), ("form.lists", [i.key for i in data.lists]),
                        ("form.fields", [i.number for i in data.fields]), ("report", [i.key for i in data.reports]),
                        ("metric", [*metrics(), *(m.key for m in data.metrics)]),
                        ("division", [d.key for d in data.divisions])):
        yield from ((place, "programme.twice", key, ()) for key, times in Counter(keys).items() if times > 1)
    for at, own in enumerate(data.metrics):
        if own.evidence != "declared":
            yield f"metric[{at}].evidence", "programme.not_declared", own.key, ()
    for at, rule in enumerate(data.rules):
        yield from ((f"rule[{at}].types", "programme.no_such_type", key, types)
                    for key in rule.types if key not in types)
        yield from ((f"rule[{at}]", "programme.no_such_metric", key, _near(key, known))
                    for key in sorted(rule.metric_keys() - known.keys()))
    for at, indicator in enumerate(data.indicators):
        yield from ((f"catalogue.indicators[{at}].types", "programme.no_such_type", key, types)
                    for key in indicator.types if key not in types)
        yield from ((f"catalogue.indicators[{at}].metrics", "programme.no_such_metric", key, _near(key, known))
                    for key in indicator.metrics if key not in known)
    for at, field in enumerate(data.fields):
        yield from ((f"form.fields[{at}]", "programme.no_such_type", key, types)
                    for key in (*field.required, *field.optional) if key not in types)
        if field.metric not in known:
            yield f"form.fields[{at}].metric", "programme.no_such_metric", field.metric, _near(field.metric, known)
    ids = {item.id for item in data.indicators}
    for at, row in enumerate(data.monitoring.rows if data.monitoring else []):
        if row.indicator not in ids:
            yield f"monitoring.rows[{at}].indicator", "programme.no_such_indicator", row.indicator, ()
    for at, division in enumerate(data.divisions):
        if division.classification not in CLASSIFICATIONS:
            yield f"division[{at}]", "programme.no_such_classification", division.classification, CLASSIFICATIONS
        elif not load_classification(division.classification).of_level(division.level):
            yield f"division[{at}]", "programme.no_such_level", str(division.level), ()


def _near(key: str, known: dict[str, Metric]) -> tuple[str, ...]:
    return tuple(difflib.get_close_matches(key, known, 3))


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
