"""docs/questions.md: every command of the page is run on the scene that it names, and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.questions.scenes import SCENES
from tests.support import golden
from tests.support.page import check
from tests.support.source import ROOT

PAGE = ROOT / "docs" / "questions.md"
ALLOWED = ("base64", "cat", "cut", "grep", "head", "openssl", "sed", "sort", "tail", "tr", "unzip", "xxd")
PART = re.compile(r"<!-- scene: (?P<scene>[a-z-]+), question (?P<question>\d+) -->")
PARTS = [(match["question"], match["scene"], match[0]) for match in PART.finditer(PAGE.read_text(encoding="utf-8"))]
ANSWERED = tuple(map(str, range(1, 22)))


def test_every_question_stands_on_the_page_once() -> None:
    assert tuple(question for question, _, _ in PARTS) == ANSWERED


@pytest.mark.parametrize(("question", "scene", "begin"), PARTS, ids=[question for question, _, _ in PARTS])
def test_the_answer_of_the_page_is_what_the_commands_print(
        question: str, scene: str, begin: str, tmp_path: Path) -> None:
    folder = tmp_path / scene
    folder.mkdir()
    SCENES[scene](folder)
    check(PAGE, begin, "<!-- end -->", folder=folder, programs=tmp_path / "programs", allowed=ALLOWED,
          server=golden.server() if scene.startswith("golden") else None)
