"""Command `export`: the tables that a programme asks for, filled from evidence as far as evidence goes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from protocols.terms.say import Say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from config.programme import Programme
    from verifier.audit.claim import Claim
    from verifier.audit.counting import Judged
    from verifier.forms.cover import Request
    from verifier.forms.devices import DeviceLine
    from verifier.report.progress import Progress

FORM = ".xlsx"


def export_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick export`."""
    from verifier.commands import trust_arguments

    parser.epilog = say("forms.help.example")
    parser.add_argument("bundles", metavar="X.tally", type=Path, nargs="+", help=say("forms.help.bundles"))
    parser.add_argument("--list", metavar="NAME", required=True, help=say("forms.help.list"))
    parser.add_argument("--programme", metavar="P", required=True, help=say("forms.help.programme"))
    parser.add_argument("--type", metavar="T", help=say("forms.help.type"))
    parser.add_argument("--at", metavar="T", default="last", help=say("forms.help.at"))
    parser.add_argument("--claim", metavar="CLAIM", type=Path, help=say("forms.help.claim"))
    trust_arguments(parser, say)
    parser.add_argument("-o", "--out", metavar="OUT.xlsx", type=Path, required=True, help=say("forms.help.out"))


def export_command(args: argparse.Namespace, say: Say) -> int:
    """Write one table. 0 written, 2 a bundle is invalid, T is not covered, no such table, or bad usage."""
    from config.programme import load_programme
    from protocols.errors import ConfigError, Problem
    from verifier.audit.commands import judge_all, parse_at, programme_order
    from verifier.audit.counting import count
    from verifier.forms.catalogue import find
    from verifier.forms.cover import Request

    if args.out.suffix.lower() != FORM:
        raise ConfigError(Problem.of(str(args.out), "forms.form", form=args.out.suffix or "-"))
    programme = load_programme(args.programme)
    wanted = find(programme, args.list)
    platform_type = None if args.type is None else programme.type_named(args.type)
    if wanted.kind == "fill_in" and platform_type is None:
        raise ConfigError(Problem.of("--type", "forms.no_type",
                                     known=", ".join(item.key for item in programme.data.types)))
    claim = _claim(args, wanted.kind, programme)
    order = programme_order(args, parse_at(args.at), programme, claim=None if claim is None else claim.sha256)
    judged = judge_all(args, say)
    invalid = [one for one in judged if not one.verdict.valid]
    if invalid:
        raise ConfigError(Problem.of(f"bundle {one.sha256[:12]}", "forms.invalid", sha256=one.sha256[:12])
                          for one in invalid)
    request = Request.of(programme, platform_type, wanted, count(judged, order, say))
    _write(args.out, request, judged, claim, say)
    print(say("forms.written", path=args.out, name=wanted.name_zh), file=sys.stderr)
    return 0


def _claim(args: argparse.Namespace, kind: str, programme: Programme) -> Claim | None:
    from protocols.errors import ConfigError, Problem
    from verifier.audit.commands import read_claim

    if args.claim is None:
        return None
    if kind != "monitoring":
        raise ConfigError(Problem.of("--claim", "forms.no_claim"))
    return read_claim(args.claim, programme)


def _write(path: Path, request: Request, judged: Sequence[Judged], claim: Claim | None, say: Say) -> None:
    from verifier.forms.cover import footer, time_of
    from verifier.forms.fill_in import write_fill_in
    from verifier.forms.lists import write_list
    from verifier.forms.tables import write_monitoring, write_summary
    from verifier.report.progress import Progress
    from verifier.report.xlsx_book import Book

    head, progress = request.programme.data.programme, Progress(say)
    with Book(path, title=request.wanted.name_zh, subject=head.title_zh, created=time_of(request.at_s),
              footer=footer(request, say), progress=progress) as book:
        if request.wanted.kind == "monitoring":
            write_monitoring(book, request, claim, say)
        elif request.wanted.kind == "summary":
            write_summary(book, request, say)
        elif request.wanted.kind == "fill_in":
            write_fill_in(book, request, say)
        else:
            write_list(book, request, _lines(request, judged, progress), say)


def _lines(request: Request, judged: Sequence[Judged], progress: Progress) -> Iterator[DeviceLine]:
    from verifier.forms.devices import device_lines

    evidence = [one.verdict.evidence for one in judged if one.verdict.evidence is not None]
    return device_lines(evidence, request.counted.devices, at_s=request.asked_s, basis=request.programme.basis,
                        progress=progress.windows if progress.watched else None)

