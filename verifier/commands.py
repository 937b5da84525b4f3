"""Commands of the verifier. `verify`: bytes in, verdict out, offline."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocols.terms.say import Say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from protocols.evidence.policy import Policy
    from verifier.proof.also import Also
    from verifier.proof.findings import Finding
    from verifier.proof.verify import Summary, Verdict

EXIT_INVALID = 1

POLICY_VARIABLE = "TALLYSTICK_POLICY"
POLICY_PLACES = ("/etc/tallystick/policy.json", "~/.config/tallystick/policy.json")
ANCHOR_BYTES_MAX = 1024 * 1024
COLLECT_AFTER = 50_000
"""Objects until Python looks for garbage. Rows of a roster are none, and looking through them again and again, as it
would after 700, costs more than a quarter of the time of a large bundle."""

SAME_CAUSE_SHOWN = 5
DEMANDS = {"answered": "verify.demand_answered", "open": "verify.demand_open",
           "unanswered": "verify.demand_unanswered"}
SHOWN_ZONE = timezone(timedelta(hours=8))


def trust_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments that say whom the checker trusts: the same for verify, count, audit and export."""
    parser.add_argument("--policy", metavar="FILE", type=Path, help=say("verify.help.policy"))
    parser.add_argument("--anchor", metavar="FILE", type=Path, help=say("verify.help.anchor"))
    parser.add_argument("--also", metavar="FILE", type=Path, action="append", default=[], help=say("also.help"))


def verify_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick verify`."""
    parser.add_argument("bundle", metavar="X.tally", type=Path, help=say("verify.help.bundle"))
    trust_arguments(parser, say)
    parser.add_argument("--equivocation", metavar="OUT.json", type=Path, help=say("equivocation.help"))
    parser.add_argument("--json", action="store_true", help=say("verify.help.json"))


def verify_command(args: argparse.Namespace, say: Say) -> int:
    """Print the verdict. 0 valid, 1 invalid, 2 unreadable, no policy or bad usage."""
    policy = load_policy(args.policy)
    alone = _equivocation(args.bundle, policy)
    verdict = alone or judge(args.bundle, policy, load_anchor(args.anchor), load_also(args.also))
    if args.equivocation is not None:
        _write_equivocation(args.equivocation, verdict, say)
    if args.json:
        print(json.dumps(as_json(verdict, say), indent=2, sort_keys=True))
    else:
        print("\n".join(as_text(verdict, say) if alone is None else _told_alone(verdict, say)))
    return 0 if verdict.valid else EXIT_INVALID


def _equivocation(path: Path, policy: Policy) -> Verdict | None:
    """Return the verdict on a proof of equivocation that stands in the place of a bundle, None if it is none.

    Raises: ConfigError if it proves nothing about a log that the policy trusts.
    """
    from protocols.errors import ConfigError, Problem, VerificationError
    from verifier.proof.verify import judge_alone

    try:
        with path.open("rb") as file:
            if file.read(1) != b"{":
                return None
    except OSError:
        return None  # said by whoever reads it as a bundle
    also = load_also([path])
    if not also.equivocations:
        raise ConfigError(Problem.of(str(path), "equivocation.no_bundle"))
    try:
        return judge_alone(also, policy)
    except VerificationError as error:
        raise ConfigError(Problem(str(path), problem.code, problem.args) for problem in error.problems) from error


def _write_equivocation(path: Path, verdict: Verdict, say: Say) -> None:
    from protocols.errors import ConfigError, Problem

    if not verdict.equivocations:
        print(say("equivocation.none", path=path), file=sys.stderr)
        return
    try:
        path.write_bytes(verdict.equivocations[0])
    except OSError as error:
        raise ConfigError(Problem.of(str(path), "also.unwritten",
                                     reason=error.strerror or type(error).__name__)) from error
    print(say("equivocation.written", path=path), file=sys.stderr)


def _told_alone(verdict: Verdict, say: Say) -> list[str]:
    kind = "register" if any(f.code == "register.equivocation" for f in verdict.findings) else "log"
    return [say(f"equivocation.alone.{kind}"), say("equivocation.alone.means"), "",
            *(_line(finding, say) for finding in verdict.findings)]


def show_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick show`."""
    parser.add_argument("bundle", metavar="X.tally", type=Path, help=say("show.help.bundle"))
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--entry", metavar="SEQ", type=int, help=say("show.help.entry"))
    which.add_argument("--row", metavar="TABLE:SLOT", help=say("show.help.row"))
    parser.add_argument("--json", action="store_true", help=say("show.help.json"))


def show_command(args: argparse.Namespace, say: Say) -> int:
    """Print one record with every field of it. 0 shown, 2 not in the bundle or unreadable."""
    from protocols.errors import ConfigError, Problem, VerificationError
    from protocols.evidence.bundle import open_bundle
    from verifier import record

    try:
        bundle = open_bundle(args.bundle)
        data = record.entry_bytes(bundle, args.entry) if args.row is None else record.row_bytes(bundle, args.row)
        told = [data.decode()] if args.json else record.lines(
            data, args.row and args.row.partition(":")[0], say)
    except VerificationError as error:  # nothing is judged here: what cannot be read is bad usage
        raise ConfigError(Problem(str(args.bundle), p.code, p.args) for p in error.problems) from error
    print("\n".join(told))
    return 0


def load_policy(path: Path | None) -> Policy:
    """Return the policy of --policy, else the installed one. Raises ConfigError if there is none or it is wrong."""
    from protocols.errors import ConfigError, Problem, VerificationError
    from protocols.evidence import policy

    if path is None:
        named = os.environ.get(POLICY_VARIABLE)
        places = [Path(named)] if named else [Path(place).expanduser() for place in POLICY_PLACES]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise ConfigError(Problem.of("verify", "policy.none", places=", ".join(map(str, places))))
    data = _read(path, policy.POLICY_BYTES_MAX)
    try:
        return policy.parse(data, where=path.name)
    except VerificationError as error:
        raise ConfigError(error.problems) from error


def load_anchor(path: Path | None) -> bytes | None:
    """Return the bytes of --anchor. Raises ConfigError if the file cannot be read."""
    return None if path is None else _read(path, ANCHOR_BYTES_MAX)


def load_also(paths: Sequence[Path]) -> Also:
    """Return the files of --also, sorted by what they are. Raises ConfigError naming every one that is unusable."""
    from verifier.proof.also import sort

    return sort(paths)


def _read(path: Path, bytes_max: int) -> bytes:
    from protocols.errors import ConfigError, Problem

    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(Problem.of(str(path), "verify.file", reason=reason)) from error
    if len(data) > bytes_max:
        raise ConfigError(Problem.of(str(path), "json.too_large", size=f"> {bytes_max}", limit=bytes_max))
    return data


def judge(bundle: Path, policy: Policy, anchor: bytes | None, also: Also | None = None) -> Verdict:
    """Open a bundle and verify it. A zip that breaks a rule is a verdict too (`container.*`).

    Raises: ConfigError if the file cannot be read or is no zip at all: there is nothing to judge then.
    """
    from protocols.errors import ConfigError, Problem, VerificationError
    from protocols.evidence.bundle import open_bundle
    from verifier.proof.also import NOTHING
    from verifier.proof.verify import refused, verify
    from verifier.raw.recount import recount

    gc.set_threshold(COLLECT_AFTER)
    try:
        opened = open_bundle(bundle)
    except VerificationError as error:
        if any(problem.code == "container.unreadable" for problem in error.problems):
            raise ConfigError(Problem(str(bundle), p.code, p.args) for p in error.problems) from error
        return refused(error)
    return verify(opened, policy, anchor=anchor, also=also or NOTHING, recount=recount)


def as_json(verdict: Verdict, say: Say) -> dict[str, Any]:
    """Return what --json prints (docs/schemas/verify.schema.json): no path, no timing, no version of this tool."""
    return {
        "verdict": "valid" if verdict.valid else "invalid",
        "findings": [{"severity": f.severity, "step": f.step, "code": f.code, "args": dict(f.args), "where": f.where,
                      "message": say.english(f.code, **dict(f.args))} for f in verdict.findings],
        "summary": verdict.summary.as_json(),
    }


def as_text(verdict: Verdict, say: Say) -> list[str]:
    """Return the lines for a person: the verdict first, what it rests on, then what was found."""
    summary = verdict.summary
    lines = [say("verify.valid" if verdict.valid else "verify.invalid")]
    faults = [f for f in verdict.findings if f.severity == "fault"]
    remarks = [f for f in verdict.findings if f.severity == "remark"]
    if verdict.valid:
        lines += ["", say(f"verify.trust.{summary.trust}"), say(f"verify.time.{summary.time}"), ""]
        lines.append(say("verify.gateway", gateway=summary.gateway, site=summary.site or "-",
                         uscc=summary.uscc or "-", size=summary.size))
        lines += gateway_lines(summary.as_json()["gateways"], say)
        if summary.covered is None:
            lines.append(say("verify.covers_nothing"))
        else:
            start, end = summary.covered
            lines.append(say("verify.covered", start=local_time(start), end=local_time(end)))
            lines.append(say("verify.windows", windows=summary.windows, outages=summary.outages,
                             missing=summary.missing_windows, percent=_percent(summary.coverage_permille),
                             uncounted=summary.windows_uncounted))
        if summary.devices is not None:
            lines.append(say("verify.roster", devices=summary.devices, points=summary.points))
        lines += summary_lines(summary.as_json(), say)
        if summary.demanded:
            lines.append(say("verify.openings", demanded=summary.demanded, answered=summary.opened))
        lines += kept_lines(summary.as_json(), say)
        lines += _levels(summary, say)
    for heading, findings in (("verify.faults", faults), ("verify.remarks", remarks)):
        if findings:
            lines += ["", say(heading, count=len(findings)), *_told(findings, say)]
    if verdict.valid:
        lines += ["", say("verify.limits"), *(f"  - {say(code)}" for code in summary.limits)]
    return lines


def _levels(summary: Summary, say: Say) -> list[str]:
    told = summary.as_json()["levels"]
    lines = [say("levels.at_the_end"), *(f"  {line}" for line in level_lines(told["at_the_end"], say))]
    if any(told["probes"].values()):
        lines.append(say("levels.probes", **{n: told["probes"][n] for n in ("valid", "unanchored", "unsupported")}))
    if told["reads"]["entries"]:
        lines.append(say("levels.reads", **{n: told["reads"][n] for n in ("rows", "entries", "answered", "opened")}))
    if told["reads"]["opened"]:
        lines.append(say("levels.opened", rows=told["reads"]["opened_rows"], late=told["reads"]["late"],
                         answered=told["reads"]["opened_answered"]))
    return [*lines, *visit_lines(told["visits"], say)]


def gateway_lines(told: Mapping[str, Any], say: Say) -> list[str]:
    """Return how many gateways exist for this enterprise, and each that is not shown, as the published JSON says it."""
    lines = []
    if told["enrolled"] is not None:
        lines.append(say("verify.gateways", enrolled=told["enrolled"], shown=told["shown"]))
    lines += hidden_lines(told["others"], say)
    if told["supersedes"] is not None:
        lines.append(say("verify.supersedes", gateway=told["supersedes"]))
    return lines


def hidden_lines(others: Sequence[Mapping[str, Any]], say: Say) -> list[str]:
    """Return a line for each gateway that is not shown."""
    return [f"  {say('verify.gateway_hidden', gateway=g['gateway'], site=g['site'], state=_state(g, say))}"
            for g in others]


def _state(told: Mapping[str, Any], say: Say) -> str:
    """Return what the register says of a gateway that is not shown: in use, superseded by another, revoked."""
    states = [say("verify.state.superseded", gateway=name) for name in told["superseded_by"]]
    if told["revoked_from"] is not None:
        states.append(say("verify.state.revoked", from_size=told["revoked_from"]))
    return ("；" if say.lang == "zh" else "; ").join(states) or say("verify.state.enrolled")


def summary_lines(told: Mapping[str, Any], say: Say) -> list[str]:
    """Return what cannot be prevented and is therefore told, as the published JSON of a summary says it."""
    lines = []
    if told["delay_s"]["max"] is not None:
        lines.append(say("verify.delay", median_s=told["delay_s"]["median"], max_s=told["delay_s"]["max"]))
    clock, ends = told["clock"], told["revocation"]
    if clock["outside_max_s"]:
        lines.append(say("verify.clock_outside", outside_s=clock["outside_max_s"]))
    if clock["stepped_windows"]:
        lines.append(say("verify.clock_stepped", windows=clock["stepped_windows"], step_ms=clock["step_max_ms"]))
    if ends is not None:
        lines.append(say("verify.revoked", from_size=ends["from_size"], windows=ends["windows"]["standing"],
                         void=ends["void_entries"]))
        if ends["cosigned_s"] is None:
            lines.append(say("verify.revoked_open"))
        else:
            until_s = ends["proven_until_s"]
            lines.append(say("verify.revoked_before", at=local_time(ends["cosigned_s"]),
                             windows=ends["windows"]["cosigned_before"],
                             until="-" if until_s is None else local_time(until_s)))
    return lines


def level_lines(told: Mapping[str, Any] | None, say: Say) -> list[str]:
    """Return how many devices have which level, as the published JSON says it; None where nothing is proven."""
    if told is None:
        return [say("levels.none")]
    devices = told["devices"]
    lines = [say("levels.devices", word=devices["0"], continuity=devices["1"], attested=devices["2"],
                 made=devices["3"], visited=devices["4"]),
             say("levels.behind", devices=told["behind_servers"], servers=told["servers"])]
    return lines if devices["4"] else [*lines, say("levels.assessor")]


def visit_lines(visits: Sequence[Mapping[str, Any]], say: Say) -> list[str]:
    """Return what assessors found on site, as the published JSON says it."""
    lines = []
    for visit in visits:
        strata = visit["strata"]
        sums = {name: sum(s[name] for s in strata) for name in ("population", "drawn", "failures")}
        lines.append(say("sampling.visit", assessor=visit["assessor"][:8], closed=local_time(visit["closed_s"]),
                         draw=visit["draw_sha256"][:8], **visit["here"]))
        lines.append("  " + announced_line(visit["announcement"], visit["announced_s"], say))
        if visit["lower_bound"] is None:
            lines.append("  " + say("sampling.no_bound", **sums))
        else:
            lines.append("  " + say("sampling.bound", bound=visit["lower_bound"], strata=len(strata),
                                    confidence=percent(visit["confidence_permille"]), **sums))
    return lines


def announced_line(told: Mapping[str, Any], instant_s: int, say: Say) -> str:
    """Return how a draw was announced, as the published JSON of a visit says it."""
    cosigned_s = told["cosigned_s"]
    return say(f"sampling.announced.{told['state']}", instant=local_time(instant_s), index=told["index"],
               cosigned="-" if cosigned_s is None else local_time(cosigned_s))


def percent(permille: int) -> str:
    """Return 95 or 99.9."""
    return f"{permille // 10}.{permille % 10}" if permille % 10 else str(permille // 10)


def kept_lines(told: Mapping[str, Any], say: Say) -> list[str]:
    """Return what a summary, as JSON, says of raw data, demands and announced draws, where there is any."""
    lines = []
    kept = told["kept"]
    if kept["entries"]:
        lines.append(say("verify.kept", entries=kept["entries"], megabytes=f"{kept['bytes'] / 2**20:.1f}",
                         opened=kept["opened"], recounted=kept["recounted"]))
    for demand in told["demands"]:
        slots, hours = demand["slots"], demand["hours"]
        missing = say("verify.demand_missing", slots=len(slots["missing"]), hours=len(hours["missing"]))
        lines.append(say(DEMANDS[demand["state"]], index=demand["index"], slots=slots["demanded"],
                         hours=hours["demanded"], deadline=local_time(demand["deadline_s"]), missing=missing))
    return lines + [say("verify.announced" if said["in_time"] else "verify.announced_late", index=said["index"],
                        gateway=said["gateway"][:8], instant=local_time(said["instant_s"]),
                        cosigned="-" if said["cosigned_s"] is None else local_time(said["cosigned_s"]))
                    for said in told["announcements"]]


def local_time(time_s: int) -> str:
    """Return a POSIX time as it is shown to people: with its zone, +08:00; far beyond the calendar as a number."""
    try:
        return datetime.fromtimestamp(time_s, UTC).astimezone(SHOWN_ZONE).isoformat(sep=" ")
    except (ValueError, OverflowError, OSError):
        return str(time_s)


def _told(findings: list[Finding], say: Say) -> list[str]:
    """Return a line a finding; of many with one cause the first few, and how many more there are."""
    seen: Counter[str] = Counter()
    lines: list[str] = []
    for finding in findings:
        seen[finding.code] += 1
        if seen[finding.code] <= SAME_CAUSE_SHOWN:
            lines.append(f"  {_line(finding, say)}")
    return lines + ["  " + say("verify.more", count=count - SAME_CAUSE_SHOWN, code=code)
                    for code, count in seen.items() if count > SAME_CAUSE_SHOWN]


def _line(finding: Finding, say: Say) -> str:
    # As an argument a member's name, which comes from outside, is made harmless for a terminal.
    return say("verify.line", step=finding.step, where=finding.where, told=say(finding.code, **dict(finding.args)),
               code=finding.code)


def _percent(permille: int | None) -> str:
    return "-" if permille is None else f"{permille // 10}.{permille % 10}"
