"""docs/sparkplug.md: every test that it names exists, no assertion stands twice, and its sums are right."""

from __future__ import annotations

import re
from collections import Counter

from tests.support.source import ROOT

PAGE = (ROOT / "docs" / "sparkplug.md").read_text(encoding="utf-8")
PRINTED, SECOND = 303, 4
"""Ids that the text of the specification prints, and those of them that are a second spelling."""


def rows(heading: str) -> list[list[str]]:
    part = PAGE.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_test_that_is_named_exists() -> None:
    files = {file.name: file for file in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE))
    assert len(named) > 30
    missing = [f"{file}::{name}" for file, name in sorted(named)
               if file not in files or not re.search(rf"^(async )?def {name}\(", files[file].read_text("utf-8"), re.M)]
    assert not missing
    for path in re.findall(r"`(tests/\w+/\w[\w/]*\.py)`", PAGE):
        assert (ROOT / path).is_file(), path


def test_the_sums() -> None:
    hosts = rows("Assertions that a host has to keep")
    others = rows("Assertions of others")
    kept = Counter(how for _, how, _ in hosts)
    assert set(kept) == {"test", "not sent", "stated"}
    assert all("`test_" in where for _, how, where in hosts if how != "stated")
    ids = [name.strip("`") for name, _, _ in hosts]
    for _, count, _, names in others:
        found = re.findall(r"`([\w-]+)`", names)
        assert int(count) == len(found)
        ids += found
    assert len(set(ids)) == len(ids) == PRINTED - SECOND
    said = re.search(r"\*\*(\d+) apply to a host\*\*: (\d+) are\s+held .* (\d+) are about commands .* and (\d+) have "
                     r".* other (\d+) bind", PAGE.replace("\n", " "))
    assert said is not None
    assert [int(number) for number in said.groups()] == [
        len(hosts), kept["test"], kept["not sent"], kept["stated"], len(ids) - len(hosts)]
