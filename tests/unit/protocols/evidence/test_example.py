"""The worked example of docs/evidence-format.md is what the programs write, and every command of the page is run.

Set TALLYSTICK_WRITE=1 to write the files, and what the commands print, anew after a change of the format.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from config.ledger import read_ledger
from protocols.evidence import bundle, entry, policy
from protocols.modbus import target as modbus
from protocols.opcua import target as opcua
from tests.support import example_evidence as example
from tests.support.programs import need
from verifier.proof.verify import verify

ROOT = Path(__file__).resolve().parents[4]
PAGE = ROOT / "docs" / "evidence-format.md"
WRITE = os.environ.get("TALLYSTICK_WRITE") == "1"

BY_HAND = ("base64", "cat", "cut", "head", "od", "openssl", "sed", "sha256sum", "tail", "tr")
"""All that the commands of the page may call, besides what bash has built in."""

BEGIN, END = "<!-- worked example -->\n", "<!-- end of the worked example -->\n"
BLOCK = re.compile(r"^```sh\n(?P<commands>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
MARK = "-- next block --"


def blocks(page: str) -> list[tuple[str, str]]:
    """Return (commands, what the page says they print) in order."""
    worked = page[page.index(BEGIN) : page.index(END)]
    return [(match["commands"], match["printed"] or "") for match in BLOCK.finditer(worked)]


def run(commands: list[str], folder: Path) -> list[str]:
    """Run the blocks in one bash below `folder`, with nothing to call but BY_HAND and tallystick."""
    programs = folder / "programs"
    programs.mkdir()
    for name in BY_HAND:
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    (programs / "tallystick").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tallystick "$@"\n')
    (programs / "tallystick").chmod(0o755)
    copy = folder / "evidence"
    shutil.copytree(example.FOLDER, copy)
    script = "set -euo pipefail\n" + "".join(f"{one}printf '%s\\n' '{MARK}'\n" for one in commands)
    bash = str(shutil.which("bash"))
    done = subprocess.run([bash, "--noprofile", "--norc", "-s"], input=script, cwd=copy, check=False,
                          capture_output=True, text=True, timeout=60,
                          env={"PATH": str(programs), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"})
    assert done.returncode == 0 and not done.stderr, f"{done.stdout}\n{done.stderr}"
    return done.stdout.split(f"{MARK}\n")[:-1]


def test_the_commands_of_the_page_print_what_it_says(tmp_path: Path) -> None:
    need("bash", *BY_HAND)
    page = PAGE.read_text(encoding="utf-8")
    told = blocks(page)
    assert len(told) > 10
    assert {c for c, _ in told if "tallystick verify" in c}
    printed = run([commands for commands, _ in told], tmp_path)
    if WRITE:
        rest = iter(printed)

        def filled(match: re.Match[str]) -> str:
            text = next(rest)
            return f"```sh\n{match['commands']}```\n" + (f"\n```text\n{text}```\n" if text else "")

        first, last = page.index(BEGIN), page.index(END)
        PAGE.write_text(page[:first] + BLOCK.sub(filled, page[first:last]) + page[last:], encoding="utf-8")
        return
    for (commands, said), text in zip(told, printed, strict=True):
        assert text == said, f"{commands}prints\n{text}"


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
