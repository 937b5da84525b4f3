"""docs/requirements.md names tests: each of them exists, and each of the twenty rows says what it rests on."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.source import ROOT

PAGE = (ROOT / "docs" / "requirements.md").read_text(encoding="utf-8")
ROWS = [line.split(" | ") for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)]
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)))


def test_there_are_twenty_rows_and_each_says_what_it_rests_on() -> None:
    assert [int(row[0].strip("| ")) for row in ROWS] == list(range(1, 21))
    for row in ROWS:
        state, shown = row[2], row[3]
        assert re.search("shown|measured|pending", state), row[0]
        if "shown" in state:
            assert "::" in shown, row[0]


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda part: part)
def test_every_test_that_is_named_exists(file: str, name: str) -> None:
    path = ROOT / "tests" / file
    assert path.is_file(), file
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
