"""`tallystick conformance`: write the corpus, or judge a verifier by it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from protocols.terms.say import Say

EXIT_FAILED = 1
TIMEOUT_S = 60


def conformance_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick conformance`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = say("conformance.help.examples")
    parser.add_argument("verifier", metavar="CMD", nargs="?", help=say("conformance.help.command"))
    parser.add_argument("--corpus", metavar="DIR", type=Path, help=say("conformance.help.corpus"))
    parser.add_argument("--write", metavar="DIR", type=Path, help=say("conformance.help.write"))
    parser.add_argument("--codes", choices=("report", "strict"), default="report", help=say("conformance.help.codes"))
    parser.add_argument("--timeout", metavar="S", type=float, default=TIMEOUT_S, help=say("conformance.help.timeout"))
    parser.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count() or 1, help=say("conformance.help.jobs"))
    parser.add_argument("--json", action="store_true", help=say("conformance.help.json"))


def conformance_command(args: argparse.Namespace, say: Say) -> int:
    """Write or judge. 0: every case as expected; 1: not; 2: no verifier or no corpus."""
    from protocols.errors import ConfigError, Problem
    from verifier.conformance import corpus

    if (args.write is None) == (args.verifier is None) or (args.write is not None and args.corpus is not None):
        raise ConfigError(Problem.of("conformance", "conformance.usage"))
    if args.write is not None:
        print(say("conformance.written", count=corpus.write(args.write), folder=args.write))
        return 0
    try:
        command = shlex.split(args.verifier)
    except ValueError:
        command = []
    if not command or shutil.which(command[0]) is None or not 0 < args.timeout < 86_400 or not 0 < args.jobs < 1000:
        raise ConfigError(Problem.of(args.verifier, "conformance.no_command"))
    command[0] = str(shutil.which(command[0]))
    if args.corpus is not None:
        return _judge(command, args.corpus, args, say)
    with TemporaryDirectory(prefix="conformance-") as folder:
        print(say("conformance.writing"), file=sys.stderr)
        corpus.write(Path(folder))
        return _judge(command, Path(folder), args, say)


def _judge(command: list[str], folder: Path, args: argparse.Namespace, say: Say) -> int:
    from verifier.conformance import judging

    folders = judging.load(folder)
    run = judging.by_process(command, timeout_s=args.timeout)
    outcomes = []
    for outcome in judging.judge(folders, run, strict=args.codes == "strict", jobs=args.jobs):
        outcomes.append(outcome)
        if not args.json:
            print(_line(outcome, say), flush=True)
    failed = sum(not outcome.ok for outcome in outcomes)
    if args.json:
        print(json.dumps(judging.as_json(outcomes), indent=2, sort_keys=True))
    else:
        counts = {verdict: sum(o.folder.verdict == verdict for o in outcomes) for verdict in ("valid", "invalid",
                                                                                             "unusable")}
        named = [o.code_found for o in outcomes if o.folder.verdict == "invalid"]
        print(say("conformance.corpus", sha256=judging.digest(folders), **counts))
        print(say("conformance.codes", found=sum(found is True for found in named), all=len(named)))
        print(say("conformance.total", passed=len(outcomes) - failed, all=len(outcomes), failed=failed))
    return EXIT_FAILED if failed else 0


def _line(outcome: object, say: Say) -> str:
    from verifier.conformance.judging import Outcome

    assert isinstance(outcome, Outcome)
    folder = outcome.folder
    if outcome.ok:
        word = "conformance.as_expected" if outcome.code_found is not False else "conformance.other_code"
        return say(word, name=folder.path.name)
    told = say(outcome.problem, expected_exit=folder.exit, exit=outcome.exit, expected=folder.verdict,
               verdict=outcome.verdict, code=folder.code, told=outcome.told or "-")
    return say("conformance.not_as_expected", name=folder.path.name, why=told)
