"""Commands `count` and `audit`: figures at an instant, and a claim against them and against a programme's rules."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocols.terms.say import Say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.programme import Programme
    from protocols.evidence.policy import Policy
    from verifier.audit.claim import Claim
    from verifier.audit.counting import Judged, Order
    from verifier.audit.results import Digests
    from verifier.proof.also import Also
    from verifier.proof.verify import Verdict

EXIT_FAILED = 1
LAST = "last"
REPORT_FORMS = (".html", ".pdf", ".xlsx")
COUNT_FORMS = (".html", ".pdf")
UNRELATED = "also.unrelated"
AT_S_MAX = 2**53


def count_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick count`."""
    _bundle_arguments(parser, say)
    parser.add_argument("--at", metavar="T", required=True, help=say("count.help.at"))
    basis = parser.add_mutually_exclusive_group()
    basis.add_argument("--basis", metavar="FILE", type=Path, help=say("count.help.basis"))
    basis.add_argument("--programme", metavar="P", help=say("count.help.programme", known=_programmes()))
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--devices", action="store_true", help=say("count.help.devices"))
    told.add_argument("--splits", action="store_true", help=say("told.help_splits"))
    told.add_argument("--compare", metavar="P", help=say("compare.help"))
    _report_arguments(parser, "OUT.pdf|.html", say("count.help.report"), say)


def audit_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick audit`."""
    parser.add_argument("claim", metavar="CLAIM.toml|.xlsx", type=Path, help=say("audit.help.claim"))
    _bundle_arguments(parser, say)
    parser.add_argument("--programme", metavar="P", required=True, help=say("audit.help.programme"))
    parser.add_argument("--type", metavar="T", required=True, help=say("audit.help.type"))
    parser.add_argument("--devices", metavar="LIST", type=Path, help=say("list.help"))
    _report_arguments(parser, "OUT.pdf|.html|.xlsx", say("audit.help.report"), say)


def _report_arguments(parser: argparse.ArgumentParser, forms: str, told: str, say: Say) -> None:
    parser.add_argument("--report", metavar=forms, type=Path, help=told)
    parser.add_argument("--bilingual", action="store_true", help=say("report.help.bilingual"))
    parser.add_argument("--fonts", metavar="DIR", type=Path, help=say("report.help.fonts"))


def _bundle_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    from verifier.commands import trust_arguments

    parser.add_argument("bundles", metavar="X.tally", type=Path, nargs="+", help=say("count.help.bundles"))
    trust_arguments(parser, say)
    parser.add_argument("--explain", metavar="FILE", type=Path, help=say("duplicates.help.explain"))
    parser.add_argument("--json", action="store_true", help=say("count.help.json"))


def _programmes() -> str:
    """Return the programmes for the help, from the names of their files: the help of a command loads no library."""
    from importlib import resources

    names = (file.name.removesuffix(".toml") for file in resources.files("config").joinpath("programmes").iterdir())
    return ", ".join(sorted(name for name in names if name not in ("metrics", "__pycache__")))


def count_command(args: argparse.Namespace, say: Say) -> int:
    """Print the figures at T. 0 all bundles valid, 1 one is invalid, 2 T is not covered or bad usage."""
    from config.programme import load_programme
    from verifier.audit.counting import count
    from verifier.audit.results import as_bytes, as_json
    from verifier.report.text import count_lines

    at_s = parse_at(args.at)
    order = _own_order(args, at_s) if args.programme is None else programme_order(
        args, at_s, load_programme(args.programme), claim=None)
    _check_report(args, COUNT_FORMS, "count.report_form")
    if args.compare is not None:
        return _compare(args, order, say)
    judged = judge_all(args, say)
    result = as_json(count(judged, _explained(order, args.explain, judged), say))
    del judged  # as in audit: nothing of the evidence is kept while a report is written
    if args.report is not None:
        _write_report(args, result, say)
        print(say("audit.report_written", path=args.report), file=sys.stderr)
    print(as_bytes(result) if args.json else "\n".join(count_lines(
        result, say, every_device=args.devices, splits=args.splits)))
    return 0 if result["verdict"] == "valid" else EXIT_FAILED


def _compare(args: argparse.Namespace, order: Order, say: Say) -> int:
    """Print the same evidence under a second basis, and the difference."""
    from verifier.audit.comparing import compared, second_order
    from verifier.audit.results import as_bytes, as_json
    from verifier.report.text import compare_lines

    second = second_order(args.compare, order,
                          lambda programme: programme_order(args, order.at_s, programme, claim=None))
    judged = judge_all(args, say)
    result = as_json(compared(judged, _explained(order, args.explain, judged), second, say))
    print(as_bytes(result) if args.json else "\n".join(compare_lines(result, say)))
    return 0 if result["first"]["verdict"] == "valid" else EXIT_FAILED


def audit_command(args: argparse.Namespace, say: Say) -> int:
    """Judge a claim. 0 it holds, 1 it does not, 2 bad usage or T is not covered."""
    from verifier.audit.results import as_bytes
    from verifier.report.audit_text import audit_lines

    _check_report(args, REPORT_FORMS, "audit.report_form")
    result = _audited(args, say)  # nothing of the evidence is kept while a report is written
    if args.report is not None:
        _write_report(args, result, say)
        print(say("audit.report_written", path=args.report), file=sys.stderr)
    print(as_bytes(result) if args.json else "\n".join(audit_lines(result, say)))
    return 0 if result["verdict"] == "holds" else EXIT_FAILED


def _audited(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Return the result of an audit as JSON."""
    from config.programme import load_programme
    from verifier.audit.counting import count
    from verifier.audit.listed import claimed_list, with_list
    from verifier.audit.results import as_json
    from verifier.audit.verdict import audit

    programme = load_programme(args.programme)
    claim = read_claim(args.claim, programme)
    _agree(args, programme.data.programme.key, claim.table.programme, claim.table.type)
    platform_type = programme.type_named(args.type)
    order = programme_order(args, claim.at_s, programme, claim=claim.sha256)
    listed = None if args.devices is None else claimed_list(args.devices)
    judged = judge_all(args, say)
    counted = count(judged, _explained(order, args.explain, judged), say)
    found = audit(claim, programme, platform_type, counted, say)
    if listed is not None:
        found = with_list(found, listed, judged, order.basis, say)
    return as_json(found)


def read_claim(path: Path, programme: Programme) -> Claim:
    """Return the claim of a claim file, or of a fill-in sheet that somebody filled in. Raises ConfigError."""
    if path.suffix.lower() == ".xlsx":
        from verifier.audit.claim_sheet import load_claim_sheet

        return load_claim_sheet(path, programme)
    from verifier.audit.claim import load_claim

    return load_claim(path, programme)


def parse_at(text: str) -> int | None:
    """Return POSIX seconds of an ISO 8601 time with zone or of a plain number; None for `last`. Raises ConfigError."""
    from protocols.errors import ConfigError, Problem

    if text == LAST:
        return None
    if text.isascii() and text.isdigit() and int(text) <= AT_S_MAX:
        return int(text)
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return int(at.timestamp())
    except (ValueError, OverflowError):
        pass
    raise ConfigError(Problem.of("--at", "count.bad_time", value=text))


def judge_all(args: argparse.Namespace, say: Say) -> list[Judged]:
    """Verify every bundle under the checker's policy, in the order of the command line."""
    from verifier.audit.counting import Judged
    from verifier.commands import as_json, load_also, load_anchor, load_policy

    also = load_also(args.also)
    policy, anchor = load_policy(args.policy), load_anchor(args.anchor)
    verdicts = _verdicts(args.bundles, policy, anchor, also, say)
    return [Judged(sha256=sha256_of(path), verdict=verdict, told=as_json(verdict, say))
            for path, verdict in zip(args.bundles, verdicts, strict=True)]


def _verdicts(paths: Sequence[Path], policy: Policy, anchor: bytes | None, also: Also, say: Say) -> list[Verdict]:
    """Return a verdict for each bundle. An anchor is of one gateway: with several bundles it is held against that one.

    Raises: ConfigError if the anchor is of none of them: a check that was asked for must not be left out in silence.
    """
    from protocols.errors import ConfigError, Problem
    from verifier.commands import judge

    if len(paths) == 1:
        return [judge(paths[0], policy, anchor, also)]
    if anchor is None:
        return _together(paths, _each(paths, policy, also, say), policy)
    gateway = _gateway_of(anchor)
    verdicts = _each(paths, policy, also, say)
    meant = [i for i, verdict in enumerate(verdicts) if verdict.summary.gateway == gateway]
    if not meant:
        raise ConfigError(Problem.of("--anchor", "count.anchor_unmatched"))
    for i in meant:
        verdicts[i] = judge(paths[i], policy, anchor, also)
    return _together(paths, verdicts, policy)


def _each(paths: Sequence[Path], policy: Policy, also: Also, say: Say) -> list[Verdict]:
    """Return a verdict for each bundle, and tell a terminal how far that is."""
    from verifier.commands import judge
    from verifier.report.progress import Progress

    progress, verdicts = Progress(say), []
    for done, path in enumerate(paths, start=1):
        progress.bundles(done, len(paths))
        verdicts.append(judge(path, policy, None, also))
    progress.clear()
    return verdicts


def _together(paths: Sequence[Path], verdicts: list[Verdict], policy: Policy) -> list[Verdict]:
    """Return the verdicts on bundles that are shown together: one register; a file of --also is about one of them."""
    from protocols.evidence.bundle import open_bundle
    from verifier.proof.equivocation import between
    from verifier.proof.verify import with_register_lie

    valid = [i for i, verdict in enumerate(verdicts) if verdict.valid]
    for number, why in between([open_bundle(paths[i]) for i in valid], policy):
        verdicts[valid[number]] = with_register_lie(verdicts[valid[number]], policy, why)
    told: list[set[str]] = [{f.where for f in verdict.findings if f.code == UNRELATED} for verdict in verdicts]
    elsewhere = set[str]().union(*told) - told[0].intersection(*told)
    return [replace(verdict, findings=tuple(
        f for f in verdict.findings if f.code != UNRELATED or f.where not in elsewhere)) for verdict in verdicts]


def _gateway_of(anchor: bytes) -> str:
    """Return the gateway that an anchor speaks of; nothing of it is verified here."""
    from protocols.errors import ConfigError, Problem, VerificationError
    from protocols.evidence import checkpoint, jcs, keys, note, proof, register

    try:
        if anchor.startswith(proof.HEADER.encode()):
            value = jcs.decode(proof.parse(anchor, where="anchor").extra, where="anchor",
                               bytes_max=proof.PROOF_BYTES_MAX)
            return str(register.gateway_of(value))
        origin = checkpoint.parse_text(note.parse(anchor, where="anchor").text, where="anchor").origin
        return origin.removeprefix(keys.gateway_origin(""))
    except VerificationError as error:
        raise ConfigError(Problem.of("--anchor", "count.anchor_unreadable")) from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file. Raises ConfigError if it cannot be read."""
    import hashlib

    from protocols.errors import ConfigError, Problem

    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(Problem.of(str(path), "verify.file", reason=reason)) from error


def _own_order(args: argparse.Namespace, at_s: int | None) -> Order:
    """Count under the checker's own basis, or under the defaults, all of which are printed as defaults."""
    from config.programme import PARAMETERS, load_basis
    from protocols.terms.basis import Basis
    from verifier.audit.counting import Order

    basis, sha256 = Basis(key="default", version="1", unspecified=PARAMETERS), None
    if args.basis is not None:
        basis, sha256 = load_basis(args.basis)
    return Order(at_s=at_s, basis=basis, digests=_digests(args, basis=sha256, claim=None))


def programme_order(args: argparse.Namespace, at_s: int | None, programme: Programme, *, claim: str | None) -> Order:
    """Return the order to count under a programme."""
    from verifier.audit.counting import Order
    from verifier.audit.results import Sentence

    return Order(
        at_s=at_s, basis=programme.basis, digests=_digests(args, basis=programme.sha256, claim=claim),
        daily=programme.data.daily_running, divisions=tuple(programme.data.divisions),
        ambiguities=tuple(Sentence(zh=a.zh, en=a.en, cite=a.cite) for a in programme.data.ambiguities))


def _explained(order: Order, path: Path | None, judged: Sequence[Judged]) -> Order:
    """Return the order with the explanations of --explain, whose devices are looked up in valid bundles."""
    from verifier.audit.duplicates import load_explanations

    if path is None or not all(one.verdict.valid for one in judged):
        return order
    explained = load_explanations(path, [one.verdict.evidence for one in judged if one.verdict.evidence is not None])
    return replace(order, explained=explained, digests=replace(order.digests, explanations=explained.sha256))


def _digests(args: argparse.Namespace, *, basis: str | None, claim: str | None) -> Digests:
    from verifier.audit.results import Digests

    return Digests(policy=sha256_of(_policy_path(args.policy)), basis=basis, claim=claim)


def _policy_path(path: Path | None) -> Path:
    """Return the policy file that `load_policy` reads, which has refused by now if there is none."""
    from verifier.commands import POLICY_PLACES, POLICY_VARIABLE, load_policy

    load_policy(path)
    if path is not None:
        return path
    named = os.environ.get(POLICY_VARIABLE)
    places = [Path(named)] if named else [Path(place).expanduser() for place in POLICY_PLACES]
    return next(place for place in places if place.is_file())


def _agree(args: argparse.Namespace, key: str, programme: str, platform_type: str) -> None:
    """Raise ConfigError where command line and claim name different rules: neither may decide in silence."""
    from protocols.errors import ConfigError, Problem

    pairs = (("--programme", key, programme), ("--type", args.type, platform_type))
    problems = [Problem.of(where, "audit.differs", given=given, claimed=claimed)
                for where, given, claimed in pairs if given != claimed]
    if problems:
        raise ConfigError(problems)


def _check_report(args: argparse.Namespace, forms: tuple[str, ...], code: str) -> None:
    """Refuse before the work what cannot be written after it: an unknown form, a PDF without its fonts."""
    from protocols.errors import ConfigError, Problem

    path: Path | None = args.report
    if path is None:
        return
    if getattr(args, "compare", None) is not None:
        raise ConfigError(Problem.of("--report", "count.report_of_two"))
    if path.suffix.lower() not in forms:
        raise ConfigError(Problem.of(str(path), code, form=path.suffix or "-"))
    if path.suffix.lower() == ".pdf":
        from verifier.report.fonts import check_library, find_fonts

        check_library()
        find_fonts(args.fonts)
    if path.suffix.lower() == ".xlsx":
        from config.spreadsheet import needs

        needs("xlsxwriter", where="--report")


def _write_report(args: argparse.Namespace, result: dict[str, Any], say: Say) -> None:
    from protocols.errors import ConfigError, Problem

    path: Path = args.report
    if path.suffix.lower() == ".xlsx":
        from verifier.report.xlsx import write_report

        write_report(path, result, say)
        return
    if path.suffix.lower() == ".pdf":
        from verifier.report.pdf import render_pdf

        page = render_pdf(result, say, bilingual=args.bilingual, fonts=args.fonts)
    else:
        from verifier.report.html import render

        page = render(result, say, bilingual=args.bilingual).encode()
    try:
        path.write_bytes(page)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(Problem.of(str(path), "audit.report_unwritten", reason=reason)) from error
