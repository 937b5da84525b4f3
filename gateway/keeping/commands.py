"""The command `open`: shows an auditor what was asked for, and says plainly what leaves the factory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from protocols.terms.say import Say

if TYPE_CHECKING:
    from gateway.keeping.opening import Found

EXIT_MISSING = 1
LISTED = 20


def open_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick open`."""
    parser.epilog = say("open.example")
    parser.add_argument("config", metavar="CONFIG", type=Path, help=say("commissioning.help.config"))
    parser.add_argument("--device", metavar="ID", action="append", default=[], help=say("open.help.device"))
    parser.add_argument("--slot", metavar="N", type=int, action="append", default=[], help=say("open.help.slot"))
    parser.add_argument("--all", dest="everything", action="store_true", help=say("open.help.all"))
    parser.add_argument("--hour", metavar="TIME", action="append", default=[], help=say("open.help.hour"))
    parser.add_argument("--reads", metavar="SEQ", type=int, action="append", default=[], help=say("open.help.reads"))
    parser.add_argument("--demand", action="store_true", help=say("open.help.demand"))
    parser.add_argument("--yes", action="store_true", help=say("open.help.yes"))
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, required=True, help=say("open.help.out"))


def open_command(args: argparse.Namespace, say: Say) -> int:
    """Write what was asked for. 0 everything, 1 some of it is not here, 2 nothing was asked for or agreed to."""
    from config.gateway import load_gateway
    from gateway.commissioning.export import instant
    from gateway.commissioning.state import State
    from gateway.keeping import opening
    from protocols.errors import ConfigError, Problem
    from protocols.evidence.raw import HOUR_S

    config = load_gateway(args.config)
    wanted = opening.demanded(State(config.state_dir)) if args.demand else opening.Wanted()
    wanted.slots |= opening.device_slots(config, args.device, args.slot, everything=args.everything)
    wanted.hours |= {at - at % HOUR_S for at in (instant(text, "--hour") for text in args.hour)}
    wanted.reads |= set(args.reads)
    if not (wanted.slots or wanted.hours or wanted.reads):
        if args.demand:
            print(say("open.nothing_demanded"), file=sys.stderr)
            return 0
        raise ConfigError(Problem.of("open", "open.nothing_asked"))
    found = opening.find(config, wanted)
    for problem in found.missing:
        print(f"{problem.where}: {say(problem.code, where=problem.where, **dict(problem.args))}", file=sys.stderr)
    if found.items:
        _tell(found, say)
        if not args.yes:
            _ask(say)
        for path in opening.write(found, args.out):
            print(path)
    return EXIT_MISSING if found.missing else 0


def _tell(found: Found, say: Say) -> None:
    print(say("open.leaves", files=len(found.items)), file=sys.stderr)
    for item in found.items[:LISTED]:
        print(f"  {item.name}: {say(item.code, **dict(item.args))}", file=sys.stderr)
    if len(found.items) > LISTED:
        print("  " + say("open.more", files=len(found.items) - LISTED), file=sys.stderr)
    print(say("open.never"), file=sys.stderr)


def _ask(say: Say) -> None:
    from protocols.errors import ConfigError, Problem

    if not sys.stdin.isatty():
        raise ConfigError(Problem.of("open", "open.needs_yes"))
    print(say("open.ask"), end=" ", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("yes", "y", "是"):
        raise ConfigError(Problem.of("open", "open.refused"))
