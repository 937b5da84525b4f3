"""The worked example of docs/evidence-format.md is what the programs write, and every command of the page is run.

Set TALLYSTICK_WRITE=1 to write the files, and what the commands print, anew after a change of the format.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from config.ledger import read_ledger
from protocols.evidence import bundle, entry, policy
from protocols.modbus import target as modbus
from protocols.opcua import target as opcua
from tests.support import example_evidence as example
from tests.support.page import WRITE, blocks, check
from verifier.proof.verify import verify

ROOT = Path(__file__).resolve().parents[4]
PAGE = ROOT / "docs" / "evidence-format.md"

BY_HAND = ("base64", "cat", "cut", "head", "od", "openssl", "sed", "sha256sum", "tail", "tr")
"""All that the commands of the page may call, besides what bash has built in."""

BEGIN, END = "<!-- worked example -->\n", "<!-- end of the worked example -->\n"

def test_the_commands_of_the_page_print_what_it_says(tmp_path: Path) -> None:
    told = blocks(PAGE, BEGIN, END)
    assert len(told) > 10
    assert {c for c, _ in told if "tallystick verify" in c}
    copy = tmp_path / "evidence"
    shutil.copytree(example.FOLDER, copy)
    check(PAGE, BEGIN, END, folder=copy, programs=tmp_path / "programs", allowed=BY_HAND)


def test_the_files_of_the_example_are_what_the_programs_write(tmp_path: Path) -> None:
    if WRITE:
        example.write(example.FOLDER)
    example.write(tmp_path)

    def below(folder: Path) -> dict[str, bytes]:
        return {path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(folder.rglob("*")) if path.is_file() and path.name != example.BUNDLE}

    assert below(tmp_path) == below(example.FOLDER)
    assert example.contents(tmp_path / example.BUNDLE) == example.contents(example.FOLDER / example.BUNDLE)


def test_the_example_is_small_and_holds() -> None:
    path = example.FOLDER / example.BUNDLE
    assert path.stat().st_size < 10_000
    trust = policy.parse((example.FOLDER / "policy.json").read_bytes(), where="policy.json")
    verdict = verify(bundle.open_bundle(path), trust, anchor=(example.FOLDER / "anchor").read_bytes())
    assert verdict.valid
    assert (verdict.summary.devices, verdict.summary.points, verdict.summary.windows) == (2, 3, 2)


def test_the_unpacked_files_are_the_members_of_the_bundle() -> None:
    for name, told in example.contents(example.FOLDER / example.BUNDLE).items():
        assert (example.FOLDER / name).read_bytes() == told[-1]
    for seq in range(5):
        entry.decode((example.FOLDER / entry.name(seq)).read_bytes(), seq=seq)


def test_the_ledger_of_the_example_gives_its_addresses() -> None:
    """What an engineer writes, and the canonical text of it that tags hide."""
    ledger, problems = read_ledger(example.FOLDER / "devices.csv", example.FOLDER / "points.csv",
                                   frozenset({"line1", "utilities"}))
    assert not problems
    sealed = entry.decode((example.FOLDER / "entry" / "2").read_bytes(), seq=2)
    assert sealed["ledger"]["sha256"] == ledger.sha256
    parsed = [modbus.parse_address(p.address, p.type) if "nsu=" not in p.address else opcua.parse_address(p.address)
              for p in ledger.points]
    assert [(a.canonical, a.base) for a in parsed] == [(a[4], a[5]) for a in example.ADDRESSES]


@pytest.mark.parametrize("folder", ["verifier/proof", "protocols/evidence"])
def test_the_page_lists_every_finding(folder: str) -> None:
    """A second verifier should find the same faults under the same names."""
    text = PAGE.read_text(encoding="utf-8")
    listed = set(re.findall(r"`([a-z0-9]+\.[a-z0-9_]+)`", text))
    used = {code for path in sorted((ROOT / folder).glob("*.py"))
            for code in re.findall(r'"([a-z0-9]+\.[a-z0-9_]+)"', path.read_text(encoding="utf-8"))}
    assert used
    assert not used - listed
