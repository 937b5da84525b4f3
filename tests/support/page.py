"""Pages whose commands are run: what stands under a block of commands is what they print.

    BEGIN
    ```sh
    commands
    ```

    ```text
    what they print
    ```
    END

Set TALLYSTICK_WRITE=1 to write what they print anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.programs import need
from tests.support.source import ROOT
from tests.support.warm import Warm, warm

WRITE = os.environ.get("TALLYSTICK_WRITE") == "1"
BLOCK = re.compile(r"^```sh\n(?P<commands>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
MARK = "-- next block --"


def blocks(page: Path, begin: str, end: str) -> list[tuple[str, str]]:
    """Return (commands, what the page says they print) of the blocks between two marks, in order."""
    return [(match["commands"], match["printed"] or "") for match in BLOCK.finditer(_part(page, begin, end)[1])]


def check(page: Path, begin: str, end: str, *, folder: Path, programs: Path, allowed: Sequence[str],
          server: Warm | None = None) -> None:
    """Run the blocks in one bash in `folder`; each prints what the page says.

    Nothing can be called but `allowed` and tallystick, which are linked below `programs`; server: who runs tallystick.
    """
    need("bash", *allowed)
    told = blocks(page, begin, end)
    assert told, f"no commands between {begin!r} and {end!r}"
    printed = _run([commands for commands, _ in told], folder, programs, allowed, server or warm())
    if WRITE:
        before, part, after = _part(page, begin, end)
        rest = iter(printed)

        def filled(match: re.Match[str]) -> str:
            text = next(rest)
            return f"```sh\n{match['commands']}```\n" + (f"\n```text\n{text}```\n" if text else "")

        page.write_text(before + BLOCK.sub(filled, part) + after, encoding="utf-8")
        return
    for (commands, said), text in zip(told, printed, strict=True):
        assert text == said, f"{commands}prints\n{text}"


def _part(page: Path, begin: str, end: str) -> tuple[str, str, str]:
    text = page.read_text(encoding="utf-8")
    first = text.index(begin)
    last = text.index(end, first)
    return text[:first], text[first:last], text[last:]


def _run(commands: list[str], folder: Path, programs: Path, allowed: Sequence[str], server: Warm) -> list[str]:
    programs.mkdir()
    for name in allowed:
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    server.program(programs)
    script = "set -euo pipefail\n" + "".join(f"{one}printf '%s\\n' '{MARK}'\n" for one in commands)
    bash = str(shutil.which("bash"))
    done = subprocess.run([bash, "--noprofile", "--norc", "-s"], input=script, cwd=folder, check=False,
                          capture_output=True, text=True, timeout=110,
                          env={"PATH": str(programs), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"})
    assert done.returncode == 0 and not done.stderr, f"{done.stdout}\n{done.stderr}"
    return done.stdout.split(f"{MARK}\n")[:-1]
