"""Command `gaps`: the samples of raw segments to the nanosecond, and the points that were silent longest."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocols.terms.say import Say
from protocols.terms.table import render

if TYPE_CHECKING:
    from verifier.raw.gaps import Gaps, Silence

OVER_S = 300.0
MOST = 20
NS_PER_S = 1_000_000_000
EXIT_GAPS = 1


def gaps_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick gaps`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = say("gaps.examples")
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help=say("gaps.help.files"))
    parser.add_argument("--over", metavar="SECONDS", type=float, default=OVER_S, help=say("gaps.help.over"))
    parser.add_argument("--most", metavar="N", type=int, default=MOST, help=say("gaps.help.most"))
    parser.add_argument("--json", action="store_true", help=say("gaps.help.json"))


def gaps_command(args: argparse.Namespace, say: Say) -> int:
    """Print what was counted. 0 no gap is longer than --over, 1 some are, 2 a file that cannot be read."""
    from protocols.errors import ConfigError, Problem, VerificationError
    from verifier.raw.gaps import count_gaps

    if not 0 < args.over <= 10**9:
        raise ConfigError(Problem.of("--over", "gaps.over", value=args.over))
    try:
        found = count_gaps(args.files, round(args.over * NS_PER_S))
    except VerificationError as error:  # nothing is judged here: what cannot be read is bad usage
        raise ConfigError(error.problems) from error
    except OSError as error:
        raise ConfigError(Problem.of(str(error.filename), "gaps.file", reason=error.strerror or error)) from error
    points = sorted(found.points, key=lambda point: (-point.longest_ns, point.point))
    if args.json:
        print(json.dumps(as_json(found, points, args.over), indent=2))
    else:
        _print(found, points, args, say)
    return EXIT_GAPS if any(point.gaps for point in points) else 0


def as_json(found: Gaps, points: list[Silence], over_s: float) -> dict[str, Any]:
    """Return everything as docs/schemas/gaps.schema.json describes it; times in ns since 1970, points in order."""
    return {"begin_s": found.begin_s, "end_s": found.end_s, "windows": found.windows, "over_s": over_s,
            "samples": sum(point.samples for point in points), "repeated": sum(point.repeated for point in points),
            "left_out": found.left_out, "points": [
                {name: getattr(point, name) for name in ("point", "samples", "repeated", "longest_ns",
                                                         "longest_from_ns", "gaps", "silent_ns")} for point in points]}


def _print(found: Gaps, points: list[Silence], args: argparse.Namespace, say: Say) -> None:
    silent = [point for point in points if point.gaps]
    print(say("gaps.files" if found.windows > 1 else "gaps.one", windows=found.windows,
              begin=_time(found.begin_s * NS_PER_S), end=_time(found.end_s * NS_PER_S)))
    print(say("gaps.samples", samples=sum(point.samples for point in points), points=len(points),
              repeated=sum(point.repeated for point in points)))
    print(say("gaps.left_out", **found.left_out))
    print(say("gaps.silent", points=len(silent), over=f"{args.over:g}"))
    header = [say(f"gaps.column.{name}") for name in
              ("point", "samples", "repeated", "longest", "from", "gaps", "silent")]
    rows = [(str(point.point), str(point.samples), str(point.repeated), f"{point.longest_ns / NS_PER_S:.3f}",
             _time(point.longest_from_ns), str(point.gaps), f"{point.silent_ns / NS_PER_S:.3f}")
            for point in silent[:max(0, args.most)]]
    if rows:
        print("\n".join(render(header, rows, indent="", numbers=True)))
    if len(silent) > max(0, args.most):
        print(say("gaps.more", points=len(silent) - max(0, args.most)), file=sys.stderr)


def _time(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
