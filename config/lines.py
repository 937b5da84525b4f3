"""On which line of a TOML file a key stands: the parser of the standard library does not say.

A line is for a person to find the place, so what is unusual (a key inside an inline table) gives the line of the table
around it, and what cannot be told gives none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from protocols.errors import Problem

_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_PATH = rf"{_NAME}(?:\s*\.\s*{_NAME})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_PATH})\s*\]")
_KEY = re.compile(rf"\s*({_PATH})\s*=")
_PARTS = re.compile(_NAME)
_TOKEN = re.compile(r"""\"\"\"|'''|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[\[\]{}]|\#.*""")

PARTS_MAX = 20
"""Names with dots between them; behind these no place is told."""


def lines_of(text: str) -> dict[str, int]:
    """Return place -> line, counted from 1, of tables and keys: `gateway.site`, `connections[0].units[1].ids`."""
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    closing, depth = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        begins = not closing and depth == 0
        header = _HEADER.match(line) if begins else None
        key = _KEY.match(line) if begins else None
        if header is not None:
            table = _table(_PARTS.findall(header[2])[:PARTS_MAX], counts, is_array=header[1] == "[[")
            found.setdefault(table, number)
            if table.endswith("]"):
                found.setdefault(table[:table.rindex("[")], number)
            continue
        if key is not None:
            place = table
            for part in _PARTS.findall(key[1])[:PARTS_MAX]:
                place = _joined(place, part)
                found.setdefault(place, number)
        closing, depth = _rest(line[key.end():] if key is not None else line, closing, depth)
    return found


def _table(names: list[str], counts: dict[str, int], *, is_array: bool) -> str:
    """Return the place of a table by its header; the last table of an array is meant where one is named."""
    place = ""
    for position, name in enumerate(names):
        place = _joined(place, name)
        if is_array and position == len(names) - 1:
            counts[place] = counts.get(place, -1) + 1
            for below in [known for known in counts if known.startswith(f"{place}[")]:
                del counts[below]
        if place in counts:
            place = f"{place}[{counts[place]}]"
    return place


def _joined(place: str, name: str) -> str:
    plain = name.strip("\"'")
    return f"{place}.{plain}" if place else plain


def _rest(line: str, closing: str, depth: int) -> tuple[str, int]:
    """Return what ends the text of several lines that is open after this one, and how many brackets are."""
    at = 0
    while True:
        if closing:
            end = line.find(closing, at)
            if end < 0:
                return closing, depth
            at, closing = end + 3, ""
        token = _TOKEN.search(line, at)
        if token is None:
            return closing, depth
        at = token.end()
        if token[0] in ('"""', "'''"):
            closing = token[0]
        elif token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth = max(0, depth - 1)


def located(problems: Iterable[Problem], path: Path) -> list[Problem]:
    """Return problems of a TOML file with the line in their place: `gateway.toml, line 7, window.len_s`."""
    try:
        lines = lines_of(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        lines = {}
    return [_located(problem, f"{path.name}, ", lines) for problem in problems]


def _located(problem: Problem, before: str, lines: dict[str, int]) -> Problem:
    if not problem.where.startswith(before):
        return problem
    rest = problem.where.removeprefix(before)
    place = rest.split(", ")[0]
    while place and place not in lines:
        place = re.sub(r"(\.?[^.\[\]]+|\[[0-9]+\])$", "", place) if re.search(r"[.\[]", place) else ""
    return Problem(f"{before}line {lines[place]}, {rest}", problem.code, problem.args) if place else problem
