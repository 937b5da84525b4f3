"""The line that a problem names is the line of its key: against every file that we ship, and files that are unusual."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.lines import lines_of, located
from protocols.errors import Problem
from tests.support.source import ROOT

FILES = sorted(ROOT.glob("config/**/*.toml"))
assert len(FILES) > 10

UNUSUAL = '''# [comment]
title = "a = [1]"
[table]   # [no.table]
text = """
[not.a.table]
key = "no key"
"""
raw = \'\'\'
x = 1\'\'\'
list = [
  "a]", # ]
  'b',
  { inner = 1 },
]
"quoted key" = { a = 1, b = [2] }
dotted.key = 3
[[rows]]
a = 1
[[rows.below]]
b = 1
[[rows.below]]
b = 2
[rows.one]
c = 3
[[rows]]
a = 2
[[rows.below]]
b = 3
'''


def keys(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield (place, last name) of every key that is no inline table's."""
    for name, held in value.items():
        here = f"{place}.{name}" if place else name
        yield here, name
        if isinstance(held, dict):
            yield from keys(held, here)
        elif isinstance(held, list):
            for at, item in enumerate(held):
                if isinstance(item, dict):
                    yield from keys(item, f"{here}[{at}]")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_key_of_our_files_is_found_on_its_line(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    lines, rows = lines_of(text), text.splitlines()
    for place, name in keys(tomllib.loads(text)):
        if file.parent.name == "examples" and place not in lines and "[" not in place:
            assert name in rows[lines[place.rpartition(".")[0]] - 1], f"{place} is in no inline table, and not found"
        if place in lines:
            assert name in rows[lines[place] - 1], place
    tables = [row for row in rows if row.startswith("[")]
    assert len([place for place, line in lines.items() if rows[line - 1].startswith("[")]) >= len(set(tables))


def test_an_unusual_file() -> None:
    rows = UNUSUAL.splitlines()
    lines = lines_of(UNUSUAL)
    assert {place: rows[line - 1].strip() for place, line in lines.items()} == {
        "title": 'title = "a = [1]"', "table": "[table]   # [no.table]", "table.text": 'text = """',
        "table.raw": "raw = '''", "table.list": "list = [", "table.quoted key": '"quoted key" = { a = 1, b = [2] }',
        "table.dotted": "dotted.key = 3", "table.dotted.key": "dotted.key = 3",
        "rows": "[[rows]]", "rows[0]": "[[rows]]", "rows[0].a": "a = 1", "rows[0].below": "[[rows.below]]",
        "rows[0].below[0]": "[[rows.below]]", "rows[0].below[0].b": "b = 1", "rows[0].below[1]": "[[rows.below]]",
        "rows[0].below[1].b": "b = 2", "rows[0].one": "[rows.one]", "rows[0].one.c": "c = 3", "rows[1]": "[[rows]]",
        "rows[1].a": "a = 2", "rows[1].below": "[[rows.below]]", "rows[1].below[0]": "[[rows.below]]",
        "rows[1].below[0].b": "b = 3"}
    assert tomllib.loads(UNUSUAL)["rows"][1]["below"] == [{"b": 3}]


@pytest.mark.parametrize(("place", "told"), [
    ("rows[1].below[0].b", "line 28, rows[1].below[0].b"), ("rows[1].missing", "line 25, rows[1].missing"),
    ("table.list[2].inner", "line 10, table.list[2].inner"), ("nowhere.at.all", "nowhere.at.all"),
    ("rows[9].a", "line 17, rows[9].a"), ("table, more", "line 3, table, more"),
])
def test_a_problem_is_told_with_its_line(tmp_path: Path, place: str, told: str) -> None:
    (tmp_path / "a.toml").write_text(UNUSUAL, encoding="utf-8")
    found, other = located([Problem.of(f"a.toml, {place}", "config.missing_key"),
                            Problem.of("points.csv, line 1", "ledger.csv")], tmp_path / "a.toml")
    assert (found.where, other.where) == (f"a.toml, {told}", "points.csv, line 1")


@given(st.text(alphabet="[]{}=.\"'#ab \n\\", max_size=200))
def test_whatever_stands_there_ends(text: str) -> None:
    lines = lines_of(text)
    assert all(1 <= line <= len(text.splitlines()) for line in lines.values())
