"""Templates: the points of many equal machines, written once with `{places}` that each machine's row fills.

    templates.csv   template,id,address,type,role
                    press,pressure,{unit}/holding/100,float32,parameter
                    press,running,{unit}/coil/{first+3},,switch
    devices.csv     id,...,unit,template,{first}
                    press-001,...,17,press,2000

`{column}` is the cell of that column in the device's row, `{column+3}` a whole number and what is added to it, and
`{{` and `}}` are braces. A column of the user's own stands in braces in the header too. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from protocols.errors import Problem

PART = re.compile(r"\{\{|\}\}|\{([a-z_][a-z0-9_]*)(?:([+-])([0-9]{1,9}))?\}|[{}]")
WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What one place is filled with: a column, and what is added to its number. plus: None for text as it is."""

    column: str
    plus: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRow:
    """One row of templates.csv: a point of each device that names the template.

    parts: the address, cut at its places. place: where the row stands.
    """

    template: str
    row: Mapping[str, str]
    parts: tuple[str | Place, ...]
    place: str

    def address(self, device: Mapping[str, str]) -> str:
        """Return the address for a device whose row `problems` finds nothing wrong with."""
        return "".join(part if isinstance(part, str) else _filled(part, device) for part in self.parts)

    def places(self) -> list[Place]:
        """Return the places of the address."""
        return [part for part in self.parts if isinstance(part, Place)]


def parse(template: str, row: Mapping[str, str], where: str, columns: Sequence[str], *,
          place: str) -> tuple[TemplateRow | None, list[Problem]]:
    """Return a row with its address cut at its places, or None and what is wrong.

    columns: of devices.csv. where: for problems of the row. place: where it stands.
    """
    text, parts, problems, at = row["address"], list[str | Place](), list[Problem](), 0
    for found in PART.finditer(text):
        parts.append(text[at:found.start()])
        at = found.end()
        name, sign, number = found.groups()
        if name is None and len(found[0]) == 1:
            problems.append(Problem.of(f"{where}, address", "ledger.template_brace", address=text[:200]))
        elif name is None:
            parts.append(found[0][0])
        elif name not in columns and f"{{{name}}}" not in columns:
            near = difflib.get_close_matches(name[:64], [column.strip("{}") for column in columns], 1)
            problems.append(Problem.of(f"{where}, address", "ledger.template_place", place=name[:64],
                                       near=near[0] if near else "-"))
        else:
            column = f"{{{name}}}" if f"{{{name}}}" in columns else name
            parts.append(Place(column=column, plus=None if sign is None else int(sign + number)))
    parts.append(text[at:])
    if problems:
        return None, problems
    return TemplateRow(template=row["template"], row=row, parts=tuple(part for part in parts if part != ""),
                       place=place), []


def problems(rows: Iterable[TemplateRow], device: Mapping[str, str], where: str) -> Iterator[Problem]:
    """Yield what is missing or no number in the row of a device, each cell once. `where`: of the device."""
    told = set()
    for place in (place for row in rows for place in row.places()):
        value = device[place.column]
        if place.column in told:
            continue
        if not value:
            told.add(place.column)
            yield Problem.of(f"{where}, {place.column}", "ledger.template_empty", template=device["template"])
        elif place.plus is not None and (not WHOLE.fullmatch(value) or int(value) + place.plus < 0):
            told.add(place.column)
            yield Problem.of(f"{where}, {place.column}", "ledger.template_number", value=value[:80],
                             plus=f"{place.plus:+d}")


def _filled(place: Place, device: Mapping[str, str]) -> str:
    value = device[place.column]
    return value if place.plus is None else str(int(value) + place.plus)


def told_once(found: Iterable[tuple[str, Problem]], uses: Mapping[str, int]) -> Iterator[Problem]:
    """Yield problems of points; what is wrong with every machine of a template is the template's fault, told once.

    Args:
        found: (row of the template, problem), the row empty for a point that has none.
        uses: row of a template -> how many points were made of it.
    """
    listed = list(found)
    counts = Counter((row, problem.code) for row, problem in listed if row)
    told = set()
    for row, problem in listed:
        # Of equal addresses the first one is nobody's fault.
        if row and counts[row, problem.code] + (problem.code == "ledger.double_address") >= uses[row] > 1:
            if (row, problem.code) in told:
                continue
            told.add((row, problem.code))
        yield problem
