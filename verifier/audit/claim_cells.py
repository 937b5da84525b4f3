"""Where the values of a fill-in sheet stand, so that what is wrong with a claim is told by its cell.

A claim is read as tables, whatever file it came from, and its problems name places in tables. A sheet has none: each
problem gets the cell instead, and where its hint would speak of a claim file a hint that speaks of the sheet.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from config.programme import Programme
from config.spreadsheet import Row
from protocols.errors import Problem
from verifier.audit.claim import LEDGER, field_name

KINDS = {"integer": "sheet_claim.not_whole", "number": "sheet_claim.not_number",
         "true / false": "sheet_claim.not_yes_no", "YYYY-MM-DD": "sheet_claim.not_date"}
"""What a cell should have held, as config.loader says it, and the sentence for that."""

OWN = {"config.missing_key": "sheet_claim.empty", "config.unknown_key": "sheet_claim.key",
       "config.unknown_key_near": "sheet_claim.key", "audit.claim_no_rule": "sheet_claim.key",
       "audit.claim_no_metric": "sheet_claim.no_figure", "audit.claim_unnamed_group": "sheet_claim.unnamed_group",
       "audit.claim_ledger_differs": "sheet_claim.ledger_differs", "audit.field_missing": "sheet_claim.field_missing"}
"""Codes whose hints speak of a claim file, and those that speak of a sheet."""

ENTERPRISE = ("claim.enterprise.name", "claim.enterprise.uscc")
LEDGER_ROWS = tuple(f"ledger.{name}" for name in ("devices", "date", "sha256"))


@dataclass(slots=True)
class Cells:
    """Place in the tables of a claim -> cell of the sheet, as `填报!E12`. Where several rows share one, the first."""

    places: dict[str, str] = field(default_factory=dict)

    def note(self, place: str, row: Row, column: int) -> None:
        """Remember that a value stands, or should stand, in this column of a row that has a key."""
        self.places.setdefault(place, cell_of(row, column))

    def number_split(self, number: int, metric: str, by: str, parts: Collection[str]) -> None:
        """A split that somebody filled in is the `number`th of the claim: its places are also those of that table."""
        sheet, table = f"splits.{metric}.{by}", f"splits[{number}]"
        self.places[table] = first = self.places[sheet]
        for name in ("metric", "by", "parts", "explanation", *(f"parts.{part}" for part in parts)):
            self.places[f"{table}.{name}"] = self.places.get(f"{sheet}.{name}", first)

    def told(self, problem: Problem, path: str, programme: Programme) -> list[Problem]:
        """Return a problem of the tables as problems of the sheet."""
        rest = problem.where.removeprefix(path).removeprefix(", ")
        if problem.code == "audit.field_missing":
            return [self._missing(problem, path, programme)]
        if rest == "claim.enterprise":  # no cell of it is filled in: its table is not there
            return [self._of(problem, path, "", place) for place in ENTERPRISE]
        if rest == "ledger":
            return [self._of(problem, path, "", LEDGER_ROWS[0])]
        cuts = [0, *(match.end() for match in re.finditer(", ", rest))]
        for cut in cuts:  # the form's field may stand before the place
            if self._known(rest[cut:]):
                return [self._of(problem, path, rest[:cut], rest[cut:])]
        return [problem]

    def _known(self, place: str) -> bool:
        return place in self.places

    def _of(self, problem: Problem, path: str, before: str, place: str) -> Problem:
        args = dict(problem.args)
        if place not in self.places:
            return Problem.of(f"{path}, {place}", "sheet_claim.row_missing", key=place)
        where = f"{path}, {before}{self.places[place]}"
        return Problem.of(where, _code(problem.code, args, place), **args | {
            "key": place.rpartition("].")[2], "other": self.places.get(f"metrics.{LEDGER}", "-")})

    def _missing(self, problem: Problem, path: str, programme: Programme) -> Problem:
        args = dict(problem.args)
        by = next((f.by for f in programme.data.fields if field_name(f) == args["field"]), None)
        cell = self.cell_of_field(args["metric"], by)
        code = OWN[problem.code] if cell else "sheet_claim.row_missing"
        key = f"metrics.{args['metric']}" if by is None else f"splits.{args['metric']}.{by}"
        return Problem.of(f"{path}, {args['field']}{f', {cell}' if cell else ''}", code, field=args["field"], key=key)

    def cell_of_field(self, metric: str, by: str | None) -> str | None:
        """Return the cell of a field of the form; of one that asks for parts the first of these."""
        return self.places.get(f"metrics.{metric}" if by is None else f"splits.{metric}.{by}")


def _code(code: str, args: Mapping[str, str], place: str) -> str:
    """Return the code whose hint fits the sheet."""
    if code == "config.wrong_type":
        return KINDS.get(args.get("expected", ""), code)
    if code == "config.out_of_range" and args.get("value") == "''":  # a group without a name
        return "sheet_claim.empty"
    if place.endswith("sha256") and not place.startswith("ledger") and code == "config.missing_key":
        return "sheet_claim.no_sha256"
    if place.endswith("sha256") and code == "config.bad_value":
        return "sheet_claim.bad_sha256"
    if place in LEDGER_ROWS and code == "config.missing_key":
        return "sheet_claim.ledger_empty"
    if re.fullmatch(r"groups\[[0-9]+\]\.[^.]+", place) and code.startswith("config.unknown_key"):
        return "sheet_claim.no_division"
    return OWN.get(code, code)


def cell_named(problem: Problem) -> str:
    """Return the cell that a problem of a sheet names, the last word of its place."""
    return problem.where.rpartition(", ")[2]


def cell_of(row: Row, column: int) -> str:
    """Return how people name a cell of a row that has a key, also one that is empty."""
    cell = next(cell for cell in row.cells if cell is not None)
    sheet, _, _ = cell.place.rpartition("!")
    letters = ""
    at = column + 1
    while at:
        at, rest = divmod(at - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return f"{sheet}!{letters}{row.number}"
