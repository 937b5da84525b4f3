"""The command `tallystick sign`: keys and statements of supervisors, auditors and holders of a recovery key."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from protocols.terms.say import Say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from protocols.errors import Problem
    from protocols.evidence.statement import Statement
    from verifier.statements.signing import Shown

ACTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "key": (("output",), ("passphrase_file",)),
    "attest": (("bundle", "slot", "key", "output"), ("policy", "anchor", "also", "yes", "passphrase_file")),
    "demand": (("gateway", "key", "output"), ("slots", "hours", "deadline", "announce", "passphrase_file")),
    "revoke": (("gateway", "gateway_key", "from_size", "key", "output"), ("passphrase_file",)),
    "submit": (("file", "platform"), ("ca_file",)),
}
"""action -> (options that it needs, options that it takes besides)."""

SECRET_BYTES_MAX = 4096


def sign_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments: the first word says what to do; each option tells to which of them it belongs."""
    from verifier.commands import trust_arguments

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = say("statements.examples")
    parser.add_argument("action", metavar="|".join(ACTIONS), choices=list(ACTIONS), help=say("statements.help.action"))
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help=say("statements.help.file"))
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help=say("statements.help.output"))
    parser.add_argument("--key", metavar="KEY.pem", type=Path, help=say("statements.help.key"))
    parser.add_argument("--passphrase-file", metavar="FILE", type=Path, help=say("statements.help.passphrase_file"))
    parser.add_argument("--bundle", metavar="X.tally", type=Path, help=say("statements.help.bundle"))
    parser.add_argument("--slot", metavar="N", type=int, help=say("statements.help.slot"))
    parser.add_argument("--yes", action="store_true", help=say("statements.help.yes"))
    trust_arguments(parser, say)
    parser.add_argument("--gateway", metavar="ID", help=say("statements.help.gateway"))
    parser.add_argument("--slots", metavar="1,2,5-9", help=say("statements.help.slots"))
    parser.add_argument("--hours", metavar="T,T,...", help=say("statements.help.hours"))
    parser.add_argument("--deadline", metavar="T", help=say("statements.help.deadline"))
    parser.add_argument("--announce", metavar="T", help=say("statements.help.announce"))
    parser.add_argument("--gateway-key", metavar="HEX", help=say("statements.help.gateway_key"))
    parser.add_argument("--from-size", metavar="N", type=int, help=say("statements.help.from_size"))
    parser.add_argument("--platform", metavar="URL", help=say("statements.help.platform"))
    parser.add_argument("--ca-file", metavar="FILE", type=Path, help=say("statements.help.ca_file"))


def sign_command(args: argparse.Namespace, say: Say) -> int:
    """Do what the first word says. A file or a key that is there already is never overwritten."""
    from protocols.errors import ConfigError

    problems = _usage(args)
    if problems:
        raise ConfigError(problems)
    if args.action == "key":
        return _make_key(args, say)
    if args.action == "submit":
        return _submit(args, say)
    key = _key(args)
    statement = {"attest": _attest, "demand": _demand, "revoke": _revoke}[args.action](args, say, key)
    _write(statement, args.output)
    _note(say("statements.signed", key=statement.value["key"]))
    print(args.output)
    return 0


def _usage(args: argparse.Namespace) -> list[Problem]:
    """Return every option that is missing, and every one that belongs to another action."""
    from protocols.errors import Problem

    needed, taken = ACTIONS[args.action]
    every = {name for lists in ACTIONS.values() for names in lists for name in names}
    given = {name for name in every for value in [getattr(args, name)]
             if not (value is None or value is False or value == [])}  # 0 is given
    found = [Problem.of(_option(name), "statements.option_missing", action=args.action)
             for name in needed if name not in given]
    found += [Problem.of(_option(name), "statements.option_foreign", action=args.action)
              for name in sorted(given - {*needed, *taken})]
    if args.action == "demand":
        found += _demand_usage(given)
    if args.output is not None and args.output.exists():
        found.append(Problem.of(str(args.output), "statements.exists"))
    return found


def _demand_usage(given: set[str]) -> list[Problem]:
    """Return what is wrong: either something is demanded until a deadline, or a draw is announced."""
    from protocols.errors import Problem

    if "announce" in given:
        return [Problem.of(_option(name), "statements.announce_alone")
                for name in ("slots", "hours", "deadline") if name in given]
    found = []
    if "deadline" not in given:
        found.append(Problem.of("--deadline", "statements.option_missing", action="demand"))
    if not given & {"slots", "hours"}:
        found.append(Problem.of("--slots, --hours", "statements.nothing_demanded"))
    return found


def _option(name: str) -> str:
    return "FILE" if name == "file" else f"--{name.replace('_', '-')}"


def _make_key(args: argparse.Namespace, say: Say) -> int:
    from protocols.evidence import keys

    key = keys.generate()
    keys.save(key, args.output, password=_passphrase(args.passphrase_file))
    _note(say("statements.key_made", file=args.output))
    print(keys.public_bytes(key).hex())
    return 0


def _attest(args: argparse.Namespace, say: Say, key: Ed25519PrivateKey) -> Statement:
    """Verify the bundle under the supervisor's own policy, show the device, ask, and sign what was shown."""
    from protocols.errors import ConfigError, Problem
    from verifier.commands import judge, load_also, load_anchor, load_policy
    from verifier.statements import signing

    verdict = judge(args.bundle, load_policy(args.policy), load_anchor(args.anchor), load_also(args.also))
    if verdict.evidence is None:
        first = next(f for f in verdict.findings if f.severity == "fault")
        raise ConfigError([Problem.of(str(args.bundle), "statements.invalid_bundle"),
                           Problem(first.where, first.code, first.args)])
    shown = signing.look(verdict.evidence, args.slot, where=str(args.bundle))
    _note("\n".join(_shown(shown, say)))
    if not args.yes:
        _ask(say)
    return signing.attest(shown, key)


def _shown(shown: Shown, say: Say) -> list[str]:
    lines = [say("statements.shown", gateway=shown.gateway, site=shown.site, slot=shown.slot),
             say("statements.shown_server", spki=shown.server_spki_sha256)]
    if shown.server_via is not None:
        lines.append(say("statements.shown_via", slot=shown.server_via))
    lines += [say("statements.shown_tag", scheme=scheme, tag=tag) for scheme, tag in shown.tags]
    if shown.private is None:
        lines.append(say("statements.shown_closed"))
    else:
        lines += [say("statements.shown_private", field=name, value=shown.private[name])
                  for name in ("name", "maker", "model", "serial", "asset") if shown.private[name]]
    return [*lines, say("statements.means")]


def _ask(say: Say) -> None:
    """Go on only after a plain yes. Raises ConfigError otherwise, and where there is nobody to ask."""
    from protocols.errors import ConfigError, Problem

    if not sys.stdin.isatty():
        raise ConfigError(Problem.of("--yes", "statements.nobody_to_ask"))
    print(say("statements.ask"), end=" ", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("yes", "是"):
        raise ConfigError(Problem.of("sign attest", "statements.not_signed"))


def _demand(args: argparse.Namespace, say: Say, key: Ed25519PrivateKey) -> Statement:
    from verifier.commands import local_time
    from verifier.statements import signing

    if args.announce is not None:
        instant_s = signing.instant(args.announce, "--announce")
        statement = signing.announce(_hex(args.gateway, 32, "--gateway"), instant_s, key)
        _note(say("statements.announces", instant=local_time(instant_s)))
        return statement
    slots = [] if args.slots is None else signing.slots_of(args.slots, "--slots")
    hours = [] if args.hours is None else signing.hours_of(args.hours, "--hours")
    return signing.demand(_hex(args.gateway, 32, "--gateway"), slots, hours,
                          signing.instant(args.deadline, "--deadline"), key)


def _revoke(args: argparse.Namespace, say: Say, key: Ed25519PrivateKey) -> Statement:
    from protocols.errors import ConfigError, Problem
    from verifier.statements import signing

    if args.from_size < 0:
        raise ConfigError(Problem.of("--from-size", "statements.bad_size"))
    return signing.revoke(_hex(args.gateway, 32, "--gateway"), _hex(args.gateway_key, 64, "--gateway-key"),
                          args.from_size, key)


def _submit(args: argparse.Namespace, say: Say) -> int:
    from protocols.errors import ConfigError, VerificationError
    from protocols.evidence import statement
    from verifier.statements.posting import post

    with args.file.open("rb") as file:
        data = file.read(statement.STATEMENT_BYTES_MAX + 1)
    try:
        said = statement.parse(data, where=str(args.file))
        index, fresh = post(args.platform, said.encode(), ca_file=args.ca_file)
    except VerificationError as error:
        if error.problems[0].code == "statements.refused":
            raise
        raise ConfigError(error.problems) from error
    _note(say("statements.submitted" if fresh else "statements.known", index=index))
    print(index)
    return 0


def _write(statement: Statement, path: Path) -> None:
    data = statement.encode()
    with path.open("xb") as file:
        file.write(data)


def _key(args: argparse.Namespace) -> Ed25519PrivateKey:
    from protocols.errors import ConfigError, EvidenceError
    from protocols.evidence import keys

    try:
        return keys.load(args.key, password=_passphrase(args.passphrase_file))
    except EvidenceError as error:
        raise ConfigError(error.problems) from error


def _passphrase(file: Path | None) -> bytes | None:
    """Return the first line of a file; None means that the key is not under a passphrase."""
    from protocols.errors import ConfigError, Problem

    if file is None:
        return None
    with file.open("rb") as source:
        lines: Sequence[bytes] = source.read(SECRET_BYTES_MAX).splitlines()
    if not lines or not lines[0]:
        raise ConfigError(Problem.of(str(file), "statements.empty_passphrase"))
    return lines[0]


def _hex(text: str, digits: int, where: str) -> str:
    import re

    from protocols.errors import ConfigError, Problem

    if not re.fullmatch(f"[0-9a-f]{{{digits}}}", text):
        raise ConfigError(Problem.of(where, "statements.bad_hex", value=text[:80], digits=digits))
    return text


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
