"""Commands `sample` and `spotcheck`: draw devices that nobody could choose, and record what stands at their places."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocols.terms.say import Say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from verifier.audit.counting import Judged
    from verifier.proof.figures import DeviceFigure, Evidence
    from verifier.sampling.draw import Label, Order
    from verifier.sampling.spotcheck import Visit

EXIT_FAILED = 1
STRATA = ("class", "protocol", "gateway")
SECRET_BYTES_MAX = 4096
NOT_KNOWN_YET = -1
"""An instant that the register announces: it is known when the bundles have been read."""
INSTANTS_SHOWN = 10
Names = dict[tuple[str, int], str]


def sample_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick sample`."""
    from verifier.commands import trust_arguments

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = say("sampling.sample_example")
    parser.add_argument("bundles", metavar="X.tally", type=Path, nargs="+", help=say("sampling.help.bundles"))
    trust_arguments(parser, say)
    parser.add_argument("--announced", metavar="T", help=say("sampling.help.announced"))
    parser.add_argument("--at", metavar="T", help=say("sampling.help.at"))
    basis = parser.add_mutually_exclusive_group()
    basis.add_argument("--basis", metavar="FILE", type=Path, help=say("count.help.basis"))
    basis.add_argument("--programme", metavar="P", help=say("sampling.help.programme"))
    parser.add_argument("--confidence", metavar="%", default="95", help=say("sampling.help.confidence"))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--at-least", metavar="%", default="95", help=say("sampling.help.at_least"))
    size.add_argument("--n", metavar="N", type=int, help=say("sampling.help.n"))
    parser.add_argument("--strata", choices=STRATA, help=say("sampling.help.strata"))
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument("-o", "--output", metavar="DRAW.json", type=Path, help=say("sampling.help.output"))
    output.add_argument("--check", metavar="DRAW.json", type=Path, help=say("sampling.help.check"))


def sample_command(args: argparse.Namespace, say: Say) -> int:
    """Draw, write and print. 0 drawn, or the same as --check; 1 a bundle is invalid, or not the same; 2."""
    from verifier.audit.commands import judge_all
    from verifier.commands import load_policy
    from verifier.sampling.draw import draw, file_bytes

    wanted = _order(args)
    if args.output is not None:
        _new(args.output)
    load_policy(args.policy)
    judged = judge_all(args, say)
    evidence = _evidence(judged, say)
    if evidence is None:
        return EXIT_FAILED
    if args.announced is None:
        wanted = _as_announced(wanted, evidence)
    drawn = draw(evidence, wanted)
    data = file_bytes(drawn)
    print("\n".join(_drawn_lines(drawn, evidence, say)))
    if args.check is not None:
        same = args.check.read_bytes() == data
        print(say("sampling.same" if same else "sampling.differs", path=args.check), file=sys.stderr)
        return 0 if same else EXIT_FAILED
    with args.output.open("xb") as file:
        file.write(data)
    print(say("sampling.written", path=args.output), file=sys.stderr)
    return 0


def _new(path: Path) -> None:
    from protocols.errors import ConfigError, Problem

    if path.exists():
        raise ConfigError(Problem.of(str(path), "statements.exists"))


def _order(args: argparse.Namespace) -> Order:
    """Return what to draw. Raises ConfigError with every option that is wrong."""
    from config.programme import PARAMETERS, load_basis, load_programme
    from protocols.errors import ConfigError
    from protocols.terms.basis import Basis
    from verifier.audit.results import basis_json
    from verifier.sampling.draw import Order, basis_sha256

    problems: list[Any] = []

    def get(option: str, read: Any, *values: Any) -> Any:
        try:
            return read(option, *values)
        except ConfigError as error:
            problems.extend(error.problems)
            return None

    announced_s = NOT_KNOWN_YET if args.announced is None else get("--announced", _instant, args.announced)
    at_s = announced_s if args.at is None else get("--at", _instant, args.at)
    confidence = get("--confidence", _permille, args.confidence, 1, 999)
    at_least = get("--at-least", _permille, args.at_least, 1, 1000)
    if problems:
        raise ConfigError(problems)
    if args.basis is not None:
        basis, _ = load_basis(args.basis)
    elif args.programme is not None:
        basis = load_programme(args.programme).basis
    else:
        basis = Basis(key="default", version="1", unspecified=PARAMETERS)
    return Order(announced_s=announced_s, at_s=at_s, basis=basis, basis_sha256=basis_sha256(basis_json(basis)),
                 confidence_permille=confidence, at_least_permille=at_least, size=args.n,
                 strata_by=args.strata or "none", label=_label(args.strata, basis))


def _as_announced(wanted: Order, evidence: Sequence[Evidence]) -> Order:
    """Return the order with the one instant that the register announces for all gateways. Raises ConfigError."""
    from dataclasses import replace

    from protocols.errors import ConfigError, Problem
    from verifier.commands import local_time

    instants = set.intersection(*(e.announcements.instants_of(e.gateway) for e in evidence))
    if not instants:
        raise ConfigError(Problem.of("--announced", "sampling.no_announcement"))
    if len(instants) > 1:
        raise ConfigError(Problem.of("--announced", "sampling.several_announcements",
                                     instants=", ".join(map(local_time, sorted(instants)[:INSTANTS_SHOWN]))))
    announced_s = instants.pop()
    return replace(wanted, announced_s=announced_s, at_s=announced_s if wanted.at_s == NOT_KNOWN_YET else wanted.at_s)


def _instant(option: str, text: str) -> int:
    from protocols.errors import ConfigError, Problem
    from verifier.audit.commands import parse_at

    try:
        at_s = parse_at(text)
    except ConfigError:
        at_s = None
    if at_s is None:
        raise ConfigError(Problem.of(option, "sampling.bad_instant", value=text[:80]))
    return at_s


def _permille(option: str, text: str, low: int, high: int) -> int:
    """Return 950 for 95 and 999 for 99.9. Raises ConfigError."""
    import re

    from protocols.errors import ConfigError, Problem

    match = re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]))?", text)
    permille = int(match[1]) * 10 + int(match[2] or 0) if match else -1
    if not low <= permille <= high:
        raise ConfigError(Problem.of(option, "sampling.bad_percent", value=text[:40], low=low / 10, high=high / 10))
    return permille


def _label(strata: str | None, basis: Any) -> Label:
    """Return what names the stratum of a device."""
    from config.classification import load_classification
    from verifier.sampling.draw import ALL, NOT_STATED

    if strata == "gateway":
        return lambda device: device.gateway
    if strata == "protocol":
        return lambda device: "+".join(sorted({basis.protocol_name(p) for p in device.protocols})) or NOT_STATED
    if strata == "class":
        equipment = load_classification("equipment_jx_b")

        def reporting(device: DeviceFigure) -> str:
            known = equipment.reporting_class(device.row.equipment_class)
            return known.key if known else NOT_STATED

        return reporting
    return lambda device: ALL


def _evidence(judged: Sequence[Judged], say: Say) -> list[Evidence] | None:
    """Return what the bundles prove; None, after saying why, if one of them is invalid."""
    from protocols.errors import ConfigError, Problem

    for one in judged:
        if not one.verdict.valid:
            first = next(f for f in one.verdict.findings if f.severity == "fault")
            print(say("sampling.invalid_bundle", gateway=one.verdict.summary.gateway or "-", where=first.where,
                      told=say(first.code, **dict(first.args))), file=sys.stderr)
    if not all(one.verdict.valid for one in judged):
        return None
    evidence = [one.verdict.evidence for one in judged if one.verdict.evidence is not None]
    if len(evidence) < len(judged):
        raise ConfigError(Problem.of("bundle", "count.no_owner"))
    return evidence


def _names(evidence: Sequence[Evidence]) -> Names:
    """Return what opened devices are called: name, maker, model and serial number."""
    fields = ("name", "maker", "model", "serial")
    return {(e.gateway, slot): " · ".join(str(private[f]) for f in fields if private[f])
            for e in evidence for slot, private in e.opened.items()}


def _drawn_lines(drawn: Mapping[str, Any], evidence: Sequence[Evidence], say: Say) -> list[str]:
    from protocols.evidence import sample
    from verifier.commands import announced_line, local_time, percent
    from verifier.sampling.draw import promise

    names, announced_s = _names(evidence), drawn["announced_s"]
    gateways = {g["gateway"] for g in drawn["gateways"]}
    announced = [announced_line(e.announcements.of(gateways, announced_s).as_json(), announced_s, say)
                 for e in evidence]  # one of each enterprise
    seen = drawn["cosignature"]
    strata, devices = drawn["strata"], drawn["devices"]
    population = sum(s["population"] for s in strata)
    lines = [
        say("sampling.cosigned", announced=local_time(announced_s), witness=seen["witness"],
            cosigned=local_time(seen["time_s"]), delay_s=seen["time_s"] - announced_s, size=seen["size"]),
        *dict.fromkeys(announced),
        *(say("sampling.roster", gateway=g["gateway"], seq=g["roster"], root=g["devices_root"])
          for g in drawn["gateways"]),
        say("sampling.seed", seed=drawn["seed"]),
        say("sampling.population", at=local_time(drawn["at_s"]), population=population, drawn=len(devices)),
    ]
    if drawn["strata_by"] != "none":
        lines += [say("sampling.stratum", name=s["name"], population=s["population"], drawn=s["drawn"])
                  for s in strata]
    lines += [say("sampling.promise", bound=promise(drawn), population=population,
                  confidence=percent(drawn["confidence_permille"])), say("sampling.limit"), ""]
    for number, device in enumerate(devices, start=1):
        key = (device["gateway"], device["slot"])
        lines.append(f"{number:>5}  " + _device(key, names, say))
    return [*lines, "", say("sampling.digest", digest=sample.draw_sha256(drawn))]


def _device(key: tuple[str, int], names: Names, say: Say) -> str:
    told = say("sampling.device", gateway=key[0][:8], slot=key[1])
    return f"{told}  {names[key]}" if names.get(key) else told


# --- spotcheck


def spotcheck_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick spotcheck`."""
    from verifier.commands import trust_arguments

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = say("sampling.spotcheck_example")
    parser.add_argument("draw", metavar="DRAW.json", type=Path, help=say("sampling.help.draw"))
    parser.add_argument("--key", metavar="KEY.pem", type=Path, required=True, help=say("sampling.help.key"))
    parser.add_argument("--passphrase-file", metavar="FILE", type=Path, help=say("statements.help.passphrase_file"))
    parser.add_argument("--state", metavar="FILE", type=Path, help=say("sampling.help.state"))
    parser.add_argument("--bundle", metavar="X.tally", type=Path, action="append", default=[], dest="bundles",
                        help=say("sampling.help.bundle"))
    trust_arguments(parser, say)
    parser.add_argument("--answers", metavar="FILE.csv", type=Path, help=say("sampling.help.answers"))
    parser.add_argument("--close", action="store_true", help=say("sampling.help.close"))
    parser.add_argument("-o", "--output", metavar="FINDINGS.json", type=Path, required=True,
                        help=say("sampling.help.findings"))


def spotcheck_command(args: argparse.Namespace, say: Say) -> int:
    """Ask, or read answers, and sign. 0 closed and no failure, 1 failures or not closed yet, 2 bad usage."""
    from verifier.sampling import form, spotcheck

    _new(args.output)
    key = _key(args)
    drawn = _draw(args.draw)
    state = args.state or args.draw.with_name(f"{args.draw.stem}.visit.json")
    if args.answers is not None:
        visit = spotcheck.begin(drawn, key)
        spotcheck.take_csv(visit, args.answers)
    else:
        visit = spotcheck.resume(state, drawn, key) if state.exists() else spotcheck.begin(drawn, key)
        names = _names_of(args, drawn, say) if args.bundles else {}
        if not args.close and not form.ask(visit, state, say, name=lambda device: _device(device, names, say)):
            print(say("sampling.saved", state=state, left=len(visit.open)), file=sys.stderr)
            return EXIT_FAILED
    spotcheck.close(visit, missing_allowed=args.close)
    with args.output.open("xb") as file:
        file.write(visit.encode())
    print("\n".join(_found_lines(visit, say)))
    print(say("sampling.findings_written", path=args.output), file=sys.stderr)
    return 0 if not sum(visit.failures) else EXIT_FAILED


def _draw(path: Path) -> dict[str, Any]:
    from protocols.errors import ConfigError, VerificationError
    from protocols.evidence import sample

    with path.open("rb") as file:
        data = file.read(sample.FILE_BYTES_MAX + 1)
    try:
        return sample.parse_draw(data, where=path.name)
    except VerificationError as error:
        raise ConfigError(error.problems) from error


def _key(args: argparse.Namespace) -> Ed25519PrivateKey:
    from protocols.errors import ConfigError, EvidenceError, Problem
    from protocols.evidence import keys

    password = None
    if args.passphrase_file is not None:
        with args.passphrase_file.open("rb") as source:
            lines = source.read(SECRET_BYTES_MAX).splitlines()
        if not lines or not lines[0]:
            raise ConfigError(Problem.of(str(args.passphrase_file), "statements.empty_passphrase"))
        password = lines[0]
    try:
        return keys.load(args.key, password=password)
    except EvidenceError as error:
        raise ConfigError(error.problems) from error


def _names_of(args: argparse.Namespace, drawn: Mapping[str, Any], say: Say) -> Names:
    """Return the names that the bundles open, after they were verified, and only of the rosters that were drawn from.

    Raises: ConfigError if a bundle is invalid or about other devices.
    """
    from protocols.errors import ConfigError, Problem
    from verifier.audit.commands import judge_all

    evidence = _evidence(judge_all(args, say), say)
    if evidence is None:
        raise ConfigError(Problem.of("--bundle", "sampling.bundle_refused"))
    gateways = {g["gateway"] for g in drawn["gateways"]}
    strange = [e.gateway for e in evidence if e.gateway not in gateways]
    if strange:
        raise ConfigError(Problem.of("--bundle", "sampling.other_gateway", gateway=gateway) for gateway in strange)
    return _names(evidence)


def _found_lines(visit: Visit, say: Say) -> list[str]:
    from protocols.evidence.signed import MATCH
    from verifier.commands import percent
    from verifier.sampling.draw import bounds

    drawn, told = visit.draw, visit.told
    lines = [say("sampling.found", drawn=len(drawn["devices"]), missing=len(visit.open), **told)]
    for device in drawn["devices"]:
        answer = visit.answers.get((device["gateway"], device["slot"]))
        if answer is None or answer["result"] != MATCH:
            result = say("sampling.result.missing" if answer is None else f"sampling.result.{answer['result']}")
            note = answer["note"] if answer else ""
            lines.append("  " + say("sampling.failed", gateway=device["gateway"][:8], slot=device["slot"],
                                    result=result, note=note or "-"))
    each, bound = bounds(drawn, visit.failures)
    if drawn["strata_by"] != "none":
        lines += [say("sampling.stratum_found", name=s["name"], population=s["population"], drawn=s["drawn"],
                      failures=x, bound=b) for s, x, b in zip(drawn["strata"], visit.failures, each, strict=True)]
    return [*lines, say("sampling.bound", population=sum(s["population"] for s in drawn["strata"]),
                        drawn=len(drawn["devices"]), failures=sum(visit.failures), bound=bound,
                        strata=len(drawn["strata"]), confidence=percent(drawn["confidence_permille"])),
            say("sampling.means")]
