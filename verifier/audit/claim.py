"""A claim: what an enterprise says it has, by metric keys, in a TOML file or from a fill-in sheet.

Every problem at once, each with its place and, where the form of the programme numbers it, that number. A claim that
is read names parts, fields and rules of its programme as the programme names them; it has not been judged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import ConfigDict, Field, create_model, field_validator, model_validator

from config.loader import Section, parse_toml, validate
from config.programme import Metric, Programme, load_programme, metrics
from config.programme_forms import FormField
from config.programme_rules import Division as DivisionName
from protocols.errors import ConfigError, Problem
from protocols.terms import uscc as codes
from verifier.audit.divisions import division

COUNT_MAX = 10**12
TEXT_MAX = 2000
NAME_MAX = 200
GROUPS_MAX = 500
PARTS_MAX = 1000
DOCUMENTS_MAX = 1000
DIVISIONS: tuple[str, ...] = get_args(DivisionName)
LEDGER = "industrial_device_ledger_count"
"""The metric that the [ledger] table gives."""

Value = int | float | bool | str
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class EnterpriseTable(Section):
    """[claim.enterprise]: who claims. `uscc`: 统一社会信用代码."""

    name: str = Field(min_length=1, max_length=NAME_MAX)
    uscc: str

    @field_validator("uscc")
    @classmethod
    def _valid(cls, value: str) -> str:
        if not codes.is_valid(value):
            raise ValueError("GB 32100-2015")
        return value


class ClaimTable(Section):
    """[claim]: under which programme and type, for which instant, by whom. `branch`: 离散行业 or 流程行业.

    industry, region: of which industry or region a platform of one industry or region claims its figures; a code or a
    name of the programme's classification.
    """

    programme: str
    type: str
    at: datetime
    branch: Literal["discrete", "process"] | None = None
    industry: str | None = Field(default=None, min_length=1, max_length=NAME_MAX)
    region: str | None = Field(default=None, pattern="^[0-9]{2}([0-9]{2}([0-9]{2})?)?$")
    enterprise: EnterpriseTable

    @field_validator("at")
    @classmethod
    def _zoned(cls, value: datetime) -> datetime:
        if value.tzinfo is None:
            raise ValueError("no zone")
        return value


class LedgerTable(Section):
    """[ledger]: the enterprise's asset ledger, of which a share is claimed: industrial devices, its date, its file."""

    devices: int = Field(ge=1, le=COUNT_MAX)
    date: date
    sha256: Sha256
    file: str | None = Field(default=None, min_length=1, max_length=NAME_MAX)


class SplitTable(Section):
    """[[splits]]: a figure by division, part by part. explanation: why the parts do not add up to the figure."""

    metric: str
    by: DivisionName
    parts: dict[str, Annotated[int | float, Field(ge=0, le=COUNT_MAX)]] = Field(min_length=1, max_length=PARTS_MAX)
    explanation: str | None = Field(default=None, min_length=1, max_length=TEXT_MAX)


class DocumentTable(Section):
    """[[documents]]: proof of a declared figure, by its digest. `file`: its name beside the claim."""

    metric: str
    file: str = Field(min_length=1, max_length=NAME_MAX)
    sha256: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedGroup:
    """What is claimed of one group. key: of the programme's division; name: as the claim names it."""

    by: str
    key: str
    name: str
    metrics: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedSplit:
    """A claimed split: part -> value; `names` as the claim names the parts."""

    metric: str
    by: str
    parts: Mapping[str, int | float]
    names: Mapping[str, str]
    explanation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document. state: its file matches the digest, differs from it, or is not beside the claim."""

    metric: str
    file: str
    sha256: str
    state: Literal["matches", "differs", "absent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim as it is used. `metrics`: key -> value, only what is claimed. industry: key of the division.

    cells: of a fill-in sheet, where each figure that it asks for stands (verifier.audit.claim_cells).
    """

    table: ClaimTable
    metrics: Mapping[str, Value]
    sha256: str
    industry: str | None = None
    groups: tuple[ClaimedGroup, ...] = ()
    splits: tuple[ClaimedSplit, ...] = ()
    documents: tuple[Document, ...] = ()
    ledger: LedgerTable | None = None
    explanations: Mapping[str, str] | None = None
    cells: Mapping[str, str] | None = None

    @property
    def at_s(self) -> int:
        """T in POSIX seconds; a fraction of a second is dropped."""
        return int(self.table.at.timestamp())

    def split(self, metric: str, by: str) -> ClaimedSplit | None:
        """Return the claimed split of a metric in a division."""
        return next((item for item in self.splits if (item.metric, item.by) == (metric, by)), None)

    def cell(self, field: FormField) -> str | None:
        """Return the cell of a fill-in sheet that asks for a field; None where the claim is none, or lost that row."""
        return (self.cells or {}).get(
            f"metrics.{field.metric}" if field.by is None else f"splits.{field.metric}.{field.by}")

    def explained(self, rule: str) -> str | None:
        """Return why the claim says that the figures of a consistency rule differ."""
        return (self.explanations or {}).get(rule)


class _GroupTable(Section):
    """[[groups]]: what is claimed of one industry, domain, park ... Exactly one of these keys names the group."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False)

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        named = [by for by in DIVISIONS if getattr(self, _field(by)) is not None]
        if len(named) != 1:
            raise ValueError(f"one of {', '.join(DIVISIONS)}")
        return self


def _field(by: str) -> str:
    return f"{by}_"  # `class` is a word of Python


@lru_cache(maxsize=8)
def claim_model(known: tuple[Metric, ...] | None = None) -> type[Section]:
    """Return the model of a claim: `metrics` knows every key of these metrics and no other; by default the shipped."""
    limits: dict[str, Any] = {
        "count": (int | None, Field(default=None, ge=0, le=COUNT_MAX)),
        "number": (int | float | None, Field(default=None, ge=0, le=COUNT_MAX)),
        "yes_no": (bool | None, None),
        "text": (str | None, Field(default=None, min_length=1, max_length=TEXT_MAX))}
    of = {item.key: item for item in known} if known is not None else metrics()
    table: Any = create_model("MetricsTable", __base__=Section, __doc__="[metrics]: what is claimed.",
                              **{key: limits[item.kind] for key, item in of.items()})
    names: Any = {_field(by): (str | None, Field(default=None, alias=by, min_length=1, max_length=NAME_MAX))
                  for by in DIVISIONS}
    group: Any = create_model("GroupTable", __base__=_GroupTable, __doc__=_GroupTable.__doc__,
                              metrics=(table, ...), **names)
    return create_model(
        "ClaimFile", __base__=Section, __doc__="A claim under one programme.", claim=(ClaimTable, ...),
        metrics=(table, ...), ledger=(LedgerTable | None, None),
        groups=(list[group], Field(default_factory=list, max_length=GROUPS_MAX)),
        splits=(list[SplitTable], Field(default_factory=list, max_length=GROUPS_MAX)),
        documents=(list[DocumentTable], Field(default_factory=list, max_length=DOCUMENTS_MAX)),
        explanations=(dict[str, Annotated[str, Field(min_length=1, max_length=TEXT_MAX)]], Field(default_factory=dict)))


def load_claim(path: Path, programme: Programme | None = None) -> Claim:
    """Read a claim file. Raises ConfigError with every problem: unknown keys come with the nearest known one.

    Without a programme, the one that the claim names is taken.
    """
    raw, problems = parse_toml(path)
    if raw is None:
        raise ConfigError(problems)
    return claim_from_fields(raw, where=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                             folder=path.parent, programme=programme)


def claim_from_fields(raw: Mapping[str, Any], *, where: str, sha256: str, folder: Path | None,
                      programme: Programme | None = None) -> Claim:
    """Return the claim that the tables of a claim file, or of a fill-in sheet put into the same tables, hold.

    Args:
        raw: `claim`, `metrics`, and as needed `ledger`, `groups`, `splits`, `documents`, `explanations`.
        where: what the problems name, usually the file. sha256: of that file.
        folder: where documents are looked for, None: nowhere.
    Raises: ConfigError with every problem; its place ends with the key in these tables, and before it stands the
        number and name of the form's field, as in `claim.toml, (6) 兼容协议数量, metrics.protocol_count`.
    """
    programme = programme or _named_programme(raw)
    file: Any
    file, problems = validate(dict(raw), claim_model(tuple(programme.metrics.values()) if programme else None), where)
    if file is None:
        missing = _missing(raw, programme, where) if programme else []
        raise ConfigError([*(_told(problem, programme) for problem in problems), *missing])
    return _Reading(file, programme, where, sha256, folder).claim()


def _named_programme(raw: Mapping[str, Any]) -> Programme | None:
    table = raw.get("claim")
    name = table.get("programme") if isinstance(table, dict) else None
    if not isinstance(name, str) or name.endswith(".toml"):  # a claim must not name files for us to read
        return None
    try:
        return load_programme(name)
    except ConfigError:
        return None


class _Reading:
    """One claim on its way from tables to what is used, with the problems found so far."""

    def __init__(self, file: Any, programme: Programme | None, where: str, sha256: str, folder: Path | None) -> None:
        self.file, self.programme, self.where, self.sha256, self.folder = file, programme, where, sha256, folder
        self.known = programme.metrics if programme else metrics()
        self.set = tuple(programme.data.divisions) if programme else ()
        self.problems: list[Problem] = []

    def claim(self) -> Claim:
        file = self.file
        claimed = self._metrics(file.metrics)
        if file.ledger is not None and claimed.setdefault(LEDGER, file.ledger.devices) != file.ledger.devices:
            self._problem("ledger", "audit.claim_ledger_differs", claimed=claimed[LEDGER],
                          ledger=file.ledger.devices)
        industry = None if file.claim.industry is None else self._part(
            "industry", file.claim.industry, "claim.industry")
        result = Claim(
            table=file.claim, metrics=claimed, sha256=self.sha256, industry=industry,
            groups=tuple(self._groups()), splits=tuple(self._splits()), documents=tuple(self._documents()),
            ledger=file.ledger, explanations=self._explanations())
        if self.problems:
            if self.programme:
                self.problems += _missing_in(result, self.programme, self.where)
            raise ConfigError(self.problems)
        return result

    def _metrics(self, table: Any) -> dict[str, Value]:
        return {key: value for key in self.known if (value := getattr(table, key)) is not None}

    def _groups(self) -> list[ClaimedGroup]:
        found: dict[tuple[str, str], ClaimedGroup] = {}
        for at, table in enumerate(self.file.groups):
            by = next(name for name in DIVISIONS if getattr(table, _field(name)) is not None)
            text = getattr(table, _field(by))
            key = self._part(by, text, f"groups[{at}].{by}")
            if key is not None and (by, key) in found:
                self._problem(f"groups[{at}].{by}", "audit.claim_twice", name=text)
            elif key is not None:
                found[by, key] = ClaimedGroup(by=by, key=key, name=text, metrics=self._metrics(table.metrics))
        return list(found.values())

    def _splits(self) -> list[ClaimedSplit]:
        found: dict[tuple[str, str], ClaimedSplit] = {}
        for at, table in enumerate(self.file.splits):
            place = f"splits[{at}]"
            self._metric(table.metric, f"{place}.metric")
            parts: dict[str, int | float] = {}
            names: dict[str, str] = {}
            for text, value in table.parts.items():
                key = self._part(table.by, text, f"{place}.parts.{text}")
                if key is not None and key in parts:
                    self._problem(f"{place}.parts.{text}", "audit.claim_twice", name=text)
                elif key is not None:
                    parts[key], names[key] = value, text
            if (table.metric, table.by) in found:
                self._problem(place, "audit.claim_twice", name=f"{table.metric} {table.by}")
            found[table.metric, table.by] = ClaimedSplit(metric=table.metric, by=table.by, parts=parts, names=names,
                                                         explanation=table.explanation)
        return list(found.values())

    def _documents(self) -> list[Document]:
        found = []
        for at, table in enumerate(self.file.documents):
            self._metric(table.metric, f"documents[{at}].metric")
            if not _is_plain(table.file):
                self._problem(f"documents[{at}].file", "audit.claim_bad_file", value=table.file)
                continue
            found.append(Document(metric=table.metric, file=table.file, sha256=table.sha256,
                                  state=document_state(self.folder, table.file, table.sha256)))
        ledger = self.file.ledger
        if ledger is not None and ledger.file is not None:
            if _is_plain(ledger.file):
                found.append(Document(metric=LEDGER, file=ledger.file, sha256=ledger.sha256,
                                      state=document_state(self.folder, ledger.file, ledger.sha256)))
            else:
                self._problem("ledger", "audit.claim_bad_file", value=ledger.file)
        return found

    def _explanations(self) -> dict[str, str]:
        rules = {rule.id for rule in self.programme.data.rules} if self.programme else set()
        for rule in self.file.explanations:
            if self.programme and rule not in rules:
                self._problem(f"explanations.{rule}", "audit.claim_no_rule", rule=rule)
        return dict(self.file.explanations)

    def _part(self, by: str, text: str, place: str) -> str | None:
        of = division(by, self.set)
        key = of.meant(text)
        if key is None:
            self._problem(place, "audit.claim_no_part", value=text, near=of.near(text))
        return key

    def _metric(self, key: str, place: str) -> None:
        if key not in self.known:
            self._problem(place, "audit.claim_no_metric", value=key)

    def _problem(self, place: str, code: str, **args: object) -> None:
        self.problems.append(Problem.of(f"{self.where}, {place}", code, **args))


def document_state(folder: Path | None, name: str, sha256: str) -> Literal["matches", "differs", "absent"]:
    """Hold a document beside the claim against its digest. A file that cannot be read is not beside the claim."""
    if folder is None:
        return "absent"
    path = folder / name
    try:
        if path.is_symlink() or not path.is_file():
            return "absent"
        with path.open("rb") as file:
            return "matches" if hashlib.file_digest(file, "sha256").hexdigest() == sha256 else "differs"
    except OSError:
        return "absent"


def _is_plain(name: str) -> bool:
    """A document is named by its name alone: a claim must not have other files of the checker read."""
    return name not in (".", "..") and not re.search(r"[\\/\x00-\x1f:]", name)


def field_name(field: FormField) -> str:
    """Return number and official name of a field, as in `(6) 兼容协议数量`."""
    return f"{field.number} {field.name_zh}"


def missing_fields(claim: Claim, programme: Programme) -> list[FormField]:
    """Return the fields that the claim's platform type must fill in and the claim leaves empty, in form order."""
    return [field for field in programme.data.required_fields(claim.table.type)
            if (field.metric not in claim.metrics if field.by is None
                else claim.split(field.metric, field.by) is None)]


def _missing_in(claim: Claim, programme: Programme, where: str) -> list[Problem]:
    return [_missing_problem(field, where) for field in missing_fields(claim, programme)]


def _missing(raw: Mapping[str, Any], programme: Programme, where: str) -> list[Problem]:
    """Return what is missing in a claim that could not be read: a wrong value is not a missing one."""
    table, claimed, splits = raw.get("claim"), raw.get("metrics"), raw.get("splits")
    held = set(claimed) if isinstance(claimed, dict) else set()
    kind = table.get("type") if isinstance(table, dict) else None
    if isinstance(raw.get("ledger"), dict):
        held.add(LEDGER)
    divided = {(item.get("metric"), item.get("by")) for item in (splits if isinstance(splits, list) else [])
               if isinstance(item, dict) and isinstance(item.get("metric"), str) and isinstance(item.get("by"), str)}
    return [_missing_problem(field, where) for field in programme.data.required_fields(str(kind))
            if (field.metric not in held if field.by is None else (field.metric, field.by) not in divided)]


def _missing_problem(field: FormField, where: str) -> Problem:
    return Problem.of(f"{where}, {field_name(field)}", "audit.field_missing", field=field_name(field),
                      metric=field.metric)


_OWN_WORDS = {"claim.at": "audit.no_zone", "claim.enterprise.uscc": "audit.bad_uscc"}
"""Places whose own checks refused them, and the sentence that says so."""


def _told(problem: Problem, programme: Programme | None) -> Problem:
    """Name the form's field in the place, and say in our words what our own checks refused."""
    file, _, place = problem.where.rpartition(", ")
    if problem.code == "config.bad_value" and place in _OWN_WORDS:
        return Problem(problem.where, _OWN_WORDS[place], problem.args)
    if problem.code == "config.bad_value" and re.fullmatch(r"groups\[[0-9]+\]", place):
        return Problem.of(problem.where, "audit.claim_unnamed_group", known=", ".join(DIVISIONS))
    key = place.removeprefix("metrics.")
    for field in programme.data.fields if programme and key != place else ():
        if field.metric == key and field.by is None:
            return Problem(f"{file}, {field_name(field)}, {place}", problem.code, problem.args)
    return problem
