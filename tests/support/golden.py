"""The golden case, sealed once for each process: `folder()` has its files, `case()` what they were made from."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tallystick.words.lookup import Words
from tests.support.endings import at_the_end
from tests.support.warm import Warm
from verifier.audit import commands
from verifier.conformance import golden, golden_plants

BUNDLES = golden_plants.FILES
T = "2024-06-14T10:00+08:00"


@cache
def case() -> golden.Golden:
    """Return the sealed case."""
    return golden.seal()


@cache
def folder() -> Path:
    """Return the folder with the bundles, the policy, the lists and the claims. Nobody may write into it."""
    path = Path(tempfile.mkdtemp(prefix="golden-"))
    at_the_end(lambda: shutil.rmtree(path))
    case().write(path)
    return path


@cache
def server() -> Warm:
    """Return a server of commands that has verified the bundles of the case, which many commands read."""
    return Warm("tests.support.golden:remember_verdicts", str(folder()))


_VERIFIED: dict[tuple[str, ...], Any] = {}


def remember_verdicts(*first: str) -> None:
    """Have `count` and `audit` verify bundles once in this process: whoever asks again, with the same bytes under the
    same policy, gets the verdict that the command's own way gave. first: a folder with a policy whose bundles are
    verified at once."""
    real = commands.judge_all

    def judge_all(args: argparse.Namespace, say: Any) -> Any:
        if args.anchor is not None or args.also:
            return real(args, say)
        key = tuple(map(commands.sha256_of, (args.policy, *args.bundles)))
        if key not in _VERIFIED:
            _VERIFIED[key] = real(args, say)
        return _VERIFIED[key]

    commands.judge_all = judge_all  # type: ignore[assignment]  # in a process or a test of its own
    for name in first:
        bundles = sorted(Path(name).glob("*.tally"))
        judge_all(argparse.Namespace(bundles=bundles, policy=Path(name) / "policy.json", anchor=None, also=[]),
                  Words("en"))
