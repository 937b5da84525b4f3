"""Logs of ours under the eyes of Go's notes and trees (`make interop`, docs/interop.md)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.evidence import note
from tests.interop import logs, reading
from tests.support.source import ROOT
from verifier.conformance import world

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lacking = reading.missing()
    if lacking is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"not installed: {lacking}")
        pytest.skip(f"not installed: {lacking}")
    return reading.built(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[logs.Log]:
    yield logs.large(tmp_path_factory.mktemp("large"))


def number(said: str, row: str) -> int:
    found = re.search(rf"^  {row} +(\d+) ", said, re.MULTILINE)
    assert found is not None, said
    return int(found[1])


def test_every_entry_of_a_log_of_70_000_is_in_the_tree(program: Path, large: logs.Log) -> None:
    status, said = reading.read(program, large)
    assert status == 0, said
    assert number(said, "inclusion") == number(said, "checkpoint") == logs.LARGE
    assert number(said, "earlier") == len(logs.EARLIER) and number(said, "consistency") > 100


def test_a_bundle_of_it_has_the_upper_tiles_computed(program: Path, large: logs.Log, tmp_path: Path) -> None:
    status, said = reading.read(program, logs.as_a_bundle(tmp_path, large, first=reading.FIRST_TILE))
    assert status == 0, said
    assert number(said, "inclusion") == logs.LARGE - 256 * reading.FIRST_TILE
    assert "275 tiles read" not in said and re.search(r"[1-9]\d* of them computed", said), said


@pytest.mark.parametrize("what", reading.SPOILT)
def test_one_flipped_bit_is_refused(program: Path, large: logs.Log, what: str) -> None:
    status, said = reading.read_spoilt(program, large, reading.SPOILT[what])
    assert status == 1 and "REFUSED" in said, said


def test_another_key_and_a_witness_that_did_not_sign_are_refused(program: Path, large: logs.Log) -> None:
    name = large.vkey.partition("+")[0]
    other = logs.Log("", large.folder, str(note.VerifierKey(name, note.ED25519, world.public("somebody"))))
    assert reading.read(program, other)[0] == 1
    absent = str(note.VerifierKey("w.example", note.COSIGNATURE_V1, world.public("w")))
    status, said = reading.read(program, logs.Log("", large.folder, large.vkey, (absent,)))
    assert status == 1 and "1 of 2 signatures" in said, said


def test_what_gateway_platform_and_witnesses_wrote_is_read(program: Path, tmp_path: Path) -> None:
    for log in logs.real(tmp_path):
        status, said = reading.read(program, log)
        assert status == 0, said
        assert number(said, "inclusion") == number(said, "checkpoint") >= logs.ENTRIES_MIN
        assert number(said, "signatures") == 1 + len(log.witnesses) and number(said, "earlier") == 1


def test_the_page_shows_what_is_printed() -> None:
    """Numbers of the large log are the same in every run, so that the page can be held to them."""
    page = (ROOT / "docs" / "interop.md").read_text(encoding="utf-8")
    assert f"{logs.LARGE} entries are there, each is in the tree" in page
    assert all(what in page for what in reading.SPOILT) and "as expected" in page
