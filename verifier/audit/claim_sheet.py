"""The fill-in sheet as a claim: the same tables as a claim file, the same problems at once, by number in the form.

Every row that is read has a key in its first column, so sheets may be renamed and moved. What a row means:

    claim.at, ledger.date ...   value in VALUE
    metrics.KEY                 value in VALUE, a document's name in FILE and its digest in SHA256
    splits.METRIC.BY            part in PART or, where it is free, in NAME, value in VALUE
    explanation.METRIC.BY       why the parts do not add up, in VALUE
    groups                      head: metric keys from GROUP_FIRST on
    group                       division in PART, name in NAME, values from GROUP_FIRST on
    documents                   metric in PART, name in FILE, digest in SHA256
    explanations.RULE           in VALUE
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from config.programme import Programme
from config.spreadsheet import Cell, Row, Value, read_sheets
from protocols.errors import ConfigError, Problem
from verifier.audit.claim import DIVISIONS, Claim, claim_from_fields, field_name
from verifier.audit.claim_cells import Cells, cell_named, cell_of
from verifier.commands import SHOWN_ZONE

KEY, PART, NAME, UNIT, VALUE, REQUIRED, CLASS, PROVEN, FILE, SHA256 = range(10)
GROUP_FIRST = 3
"""Columns of a fill-in sheet, and the first column of a group's values."""

FORM = ".xlsx"
KINDS = ("claim", "ledger", "metrics", "splits", "explanation", "groups", "group", "documents", "explanations")
YES = ("是", "有", "yes", "true")
NO = ("否", "无", "no", "false")
KEY_PATTERN = re.compile(r"[a-z_]+(\.[A-Za-z0-9_.]+)?")


def load_claim_sheet(path: Path, programme: Programme) -> Claim:
    """Read a fill-in sheet. Raises ConfigError with every problem: of the file, of its cells, of the claim."""
    sheets, sha256 = read_sheets(path)
    reading = _Reading(path, programme)
    for rows in sheets.values():
        for row in rows:
            reading.take(row)
    if not reading.taken:
        raise ConfigError(Problem.of(str(path), "sheet_claim.not_ours"))
    problems = reading.problems
    raw = reading.raw()
    try:
        claim = claim_from_fields(raw, where=str(path), sha256=sha256, folder=path.parent, programme=programme)
    except ConfigError as error:
        told = [one for problem in error.problems for one in reading.cells.told(problem, str(path), programme)]
        named = {cell_named(problem) for problem in problems}  # that a formula is no value need not be said twice
        raise ConfigError([*problems, *(one for one in told if cell_named(one) not in named)]) from error
    if problems:
        raise ConfigError(problems)
    return replace(claim, cells=reading.cells.places)


@dataclass(slots=True)
class _Reading:
    """One fill-in sheet on its way to the tables of a claim file."""

    path: Path
    programme: Programme
    taken: int = 0
    problems: list[Problem] = field(default_factory=list)
    tables: dict[str, dict[str, Any]] = field(default_factory=lambda: {
        name: {} for name in ("claim", "enterprise", "ledger", "metrics", "explanations")})
    splits: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    cells: Cells = field(default_factory=Cells)

    def raw(self) -> dict[str, Any]:
        """Return the tables as a claim file has them; what nobody filled in is not there."""
        claim: dict[str, Any] = dict(self.tables["claim"])
        if self.tables["enterprise"]:
            claim["enterprise"] = self.tables["enterprise"]
        filled = [one for one in self.splits.values() if one["parts"]]
        for number, one in enumerate(filled):
            self.cells.number_split(number, one["metric"], one["by"], one["parts"])
        rest = {"ledger": self.tables["ledger"], "explanations": self.tables["explanations"], "splits": filled,
                "groups": self.groups, "documents": self.documents}
        return {"claim": claim, "metrics": self.tables["metrics"],
                **{name: value for name, value in rest.items() if value}}

    def take(self, row: Row) -> None:
        """Take over one row, if it has a key."""
        key = row.value(KEY)
        if not isinstance(key, str) or KEY_PATTERN.fullmatch(key) is None:
            return
        kind, _, rest = key.partition(".")
        if kind not in KINDS:
            return
        self.taken += 1
        self._refuse_formulas(row)
        if kind in ("claim", "ledger", "metrics", "explanations"):
            known = kind != "metrics" or rest in self.programme.metrics
            self.cells.note(f"{kind}.{rest}", row, VALUE if known else KEY)
        if kind == "claim":
            self._claim(rest, row)
        elif kind == "ledger":
            self._put("ledger", rest, _ledger(rest, row.value(VALUE)), row)
        elif kind == "metrics":
            self._put("metrics", rest, self._typed(rest, row.value(VALUE)), row)
            self._document(rest, row)
        elif kind == "explanations":
            self._put("explanations", rest, _text(row.value(VALUE)), row)
        elif kind == "documents":
            self._document(_text(row.value(PART)) or "", row)
        elif kind == "groups":
            self.heads = [_text(row.value(at)) or "" for at in range(GROUP_FIRST, len(row.cells))]
        elif kind == "group":
            self._group(row)
        else:
            self._split(kind, rest, row)

    def _refuse_formulas(self, row: Row) -> None:
        metric = str(row.value(KEY)).removeprefix("metrics.")
        fields = (f for f in self.programme.data.fields if f.metric == metric and f.by is None)
        named = next((f"{field_name(f)}, " for f in fields), "")
        self.problems += [Problem.of(f"{self.path}, {named}{cell.place}", "sheet_claim.formula")
                          for cell in row.cells if isinstance(cell, Cell) and cell.formula]

    def _put(self, table: str, key: str, value: Any, row: Row) -> None:
        if value is None:
            return
        if key in self.tables[table]:
            self.problems.append(Problem.of(f"{self.path}, {cell_of(row, VALUE)}", "sheet_claim.twice", key=key))
        self.tables[table][key] = value

    def _claim(self, key: str, row: Row) -> None:
        value = row.value(VALUE)
        if key.startswith("enterprise."):
            self._put("enterprise", key.removeprefix("enterprise."), _text(value), row)
        elif key == "at":
            self._put("claim", key, _instant(value), row)
        else:  # a choice shows a name behind its key: `discrete 离散行业`
            text = _text(value)
            self._put("claim", key, text.split()[0] if text and key in ("programme", "type", "branch") else text, row)

    def _typed(self, key: str, value: Value) -> Any:
        """Return a value as the metric's kind asks for it; one that does not fit is left as it is, to be refused."""
        metric = self.programme.metrics.get(key)
        kind = metric.kind if metric else "number"
        if value is None or isinstance(value, bool):
            return value
        if kind == "text":
            return _text(value)
        if kind == "yes_no":
            text = (_text(value) or "").lower()
            return True if text in YES else False if text in NO else value
        return _number(value)

    def _document(self, metric: str, row: Row) -> None:
        name, digest = _text(row.value(FILE)), _text(row.value(SHA256))
        if name is None and digest is None:
            return
        table: dict[str, Any] = {"metric": metric.split()[0] if metric else ""}
        if name is not None:
            table["file"] = name
        if digest is not None:
            table["sha256"] = re.sub(r"[\s:]", "", digest).lower()
        for name, column in (("metric", PART if row.value(KEY) == "documents" else KEY), ("file", FILE),
                             ("sha256", SHA256)):
            self.cells.note(f"documents[{len(self.documents)}].{name}", row, column)
        self.documents.append(table)

    def _group(self, row: Row) -> None:
        by, name = _text(row.value(PART)), _text(row.value(NAME))
        values = {key: self._typed(key, row.value(GROUP_FIRST + at)) for at, key in enumerate(self.heads) if key}
        values = {key: value for key, value in values.items() if value is not None}
        if name is None and not values:
            return
        group: dict[str, Any] = {"metrics": values}
        place = f"groups[{len(self.groups)}]"
        self.cells.note(place, row, PART)
        for at, key in enumerate(self.heads):
            self.cells.note(f"{place}.metrics.{key}", row, GROUP_FIRST + at)
        if by is not None:
            group[by.split()[0]] = name or ""
            self.cells.note(f"{place}.{by.split()[0]}", row, NAME if by.split()[0] in DIVISIONS else PART)
        self.groups.append(group)

    def _split(self, kind: str, rest: str, row: Row) -> None:
        metric, _, by = rest.rpartition(".")
        place = f"splits.{metric}.{by}"
        split = self.splits.setdefault((metric, by), {"metric": metric, "by": by, "parts": {}})
        value = row.value(VALUE)
        if kind == "explanation":
            self.cells.note(f"{place}.explanation", row, VALUE)
            if (text := _text(value)) is not None:
                split["explanation"] = text
            return
        self.cells.note(place, row, VALUE)
        part = _text(row.value(PART)) or _text(row.value(NAME))
        if value is None:
            return
        if part is None or part in split["parts"]:
            self.problems.append(Problem.of(f"{self.path}, {cell_of(row, VALUE)}",
                                            "sheet_claim.no_part" if part is None else "sheet_claim.twice",
                                            key=part or rest))
            return
        split["parts"][part] = _number(value)
        self.cells.note(f"{place}.parts.{part}", row, VALUE)


def _text(value: Value) -> str | None:
    """Return what a cell says as text without blanks around it, None for an empty one."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value.isoformat() if isinstance(value, date | datetime) else str(value)
    return unicodedata.normalize("NFC", text).strip() or None


def _number(value: Value) -> Any:
    """Return a number that somebody wrote as text, or with blanks and thousands apart, as a number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    text = re.sub(r"[\s,]", "", unicodedata.normalize("NFKC", value))
    if not text:
        return None
    if re.fullmatch(r"-?[0-9]{1,15}", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?[0-9]{1,15}\.[0-9]{1,15}", text) else value


def _instant(value: Value) -> Any:
    """Return T. A date cell of a spreadsheet has no zone: the sheet says that it is +08:00."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=SHOWN_ZONE)
    try:
        return None if value is None else datetime.fromisoformat(_text(value) or "")
    except ValueError:
        return _text(value)


def _ledger(key: str, value: Value) -> Any:
    if key == "devices":
        return _number(value)
    if key == "date":
        if isinstance(value, datetime):
            return value.date()
        try:
            return None if value is None else date.fromisoformat(_text(value) or "")
        except ValueError:
            return _text(value)
    text = _text(value)
    return re.sub(r"[\s:]", "", text).lower() if text is not None and key == "sha256" else text

