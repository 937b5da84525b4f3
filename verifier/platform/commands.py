"""The commands `tallystick platform` and `tallystick import`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocols.terms.say import Say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from config.platform import PlatformConfig
    from verifier.platform.service import Service

PLATFORM_VARIABLE = "TALLYSTICK_PLATFORM"
PLATFORM_PLACES = ("platform.toml", "/etc/tallystick/platform.toml")
ACTIONS = ("init", "add-witness", "key", "token", "policy", "revoke")


def platform_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments: `CONFIG` runs; the first word may say what else to do."""
    parser.add_argument("words", metavar="[init|add-witness|key|token|policy|revoke] PATH", nargs="+",
                        help=say("platform.help_words"))
    parser.add_argument("--uscc", help=say("platform.help_uscc"))
    parser.add_argument("--site", help=say("platform.help_site"))
    parser.add_argument("--valid-h", type=int, default=72, help=say("platform.help_valid_h"))
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help=say("platform.help_output"))
    parser.add_argument("--gateway", metavar="ID", help=say("platform.help_gateway"))
    parser.add_argument("--from-size", type=int, help=say("platform.help_from_size"))
    parser.add_argument("--origin", default="register.example/tallystick", help=say("platform.help_origin"))
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:8470", help=say("platform.help_listen"))
    parser.add_argument("--witness", metavar=("VKEY", "URL"), nargs=2, action="append", default=[],
                        help=say("platform.help_witness_option"))


def platform_command(args: argparse.Namespace, say: Say) -> int:
    """Run the platform until SIGTERM, or do what the first word says."""
    from config.platform import load_platform
    from protocols.errors import ConfigError, Problem

    action, rest = (args.words[0], args.words[1:]) if args.words[0] in ACTIONS else ("run", args.words)
    if len(rest) != 1:
        raise ConfigError(Problem.of("tallystick platform", "platform.one_path"))
    path = Path(rest[0])
    if action == "init":
        path = _init(path, args)
    elif action == "add-witness":
        _add_witnesses(path, args)
    config = load_platform(path)
    match action:
        case "run":
            _serve(config, say)
        case "init" | "key" | "add-witness":
            _print_key(config)
        case "token":
            _token(config, args)
        case "policy":
            _policy(config, args.output)
        case "revoke":
            _revoke(config, args)
    return 0


def import_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick import`."""
    parser.add_argument("bundle", metavar="X.tally", type=Path, help=say("platform.help_bundle"))
    parser.add_argument("--platform", metavar="CONFIG", type=Path, help=say("platform.help_platform"))


def import_command(args: argparse.Namespace, say: Say) -> int:
    """Take in what the platform lacks, through the running platform if there is one."""
    import json

    from config.platform import load_platform
    from verifier.platform.importer import import_bundle

    config = load_platform(args.platform or _installed())
    with args.bundle.open("rb") as file:
        answer = _ask_or_do(config, "/import", file, lambda service: import_bundle(service, args.bundle))
    print(json.dumps(answer, sort_keys=True))
    print(say("platform.imported", count=answer["size"] - answer["before"], size=answer["size"]), file=sys.stderr)
    return 0


def _installed() -> Path:
    """Return the configuration of the platform on this machine. Raises ConfigError if there is none."""
    from protocols.errors import ConfigError, Problem

    named = os.environ.get(PLATFORM_VARIABLE)
    places = [Path(named)] if named else [Path(place) for place in PLATFORM_PLACES]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ConfigError(Problem.of("tallystick import", "platform.none_here", places=", ".join(map(str, places))))
    return found


def _init(folder: Path, args: argparse.Namespace) -> Path:
    """Write a commented configuration and both keys; nothing is overwritten."""
    from config.listening import example, fill, split_address
    from config.platform import load_platform
    from protocols.evidence import keys

    host, port = split_address(args.listen)
    text = fill(example("platform.toml"), {"origin": args.origin, "host": host, "port": port})
    text += _witness_tables(args)
    target = folder / "platform.toml"
    folder.mkdir(parents=True, exist_ok=True)
    with target.open("x", encoding="utf-8") as file:
        file.write(text)
    config = load_platform(target)
    for path in (config.platform_key_file, config.register_key_file):
        if not path.exists():
            keys.save(keys.generate(), path)
    return target


def _add_witnesses(file: Path, args: argparse.Namespace) -> None:
    """Append witnesses to a configuration; the file is as it was if the result does not hold."""
    from config.platform import load_platform

    load_platform(file)
    trial = file.with_name(file.name + ".part")
    try:
        trial.write_text(file.read_text(encoding="utf-8") + _witness_tables(args), encoding="utf-8")
        load_platform(trial)
        trial.replace(file)
    finally:
        trial.unlink(missing_ok=True)


def _witness_tables(args: argparse.Namespace) -> str:
    import json

    # What JSON writes for a text, TOML reads as the same text.
    return "".join(f"\n[[witnesses]]\nvkey = {json.dumps(vkey)}\nurl = {json.dumps(url)}\nindependent = true\n"
                   for vkey, url in args.witness)


def _print_key(config: PlatformConfig) -> None:
    from verifier.platform.trust import load_trust

    print(load_trust(config).policy["register"])


def _token(config: PlatformConfig, args: argparse.Namespace) -> None:
    import asyncio
    import time

    from protocols.errors import ConfigError, Problem
    from protocols.terms import uscc
    from verifier.platform.enrolment import VALID_H_MAX, new_token
    from verifier.platform.store import Store

    if args.uscc is None or not uscc.is_valid(args.uscc):
        raise ConfigError(Problem.of("--uscc", "platform.bad_uscc", uscc=args.uscc or ""))
    if not 1 <= args.valid_h <= VALID_H_MAX:
        raise ConfigError(Problem.of("--valid-h", "platform.bad_hours", most=VALID_H_MAX))
    store = Store(config.data_dir)
    try:
        expires_s = int(time.time()) + args.valid_h * 3600
        print(asyncio.run(store.write(lambda connection: new_token(
            connection, enterprise=args.uscc, site=args.site, expires_s=expires_s))))
    finally:
        store.close()


def _policy(config: PlatformConfig, output: Path | None) -> None:
    from protocols.evidence import jcs
    from verifier.platform.trust import load_trust

    people = {"supervisors": sorted(config.supervisors), "auditors": sorted(config.auditors)}
    text = jcs.encode({**load_trust(config).policy, **{name: keys for name, keys in people.items() if keys}}
                      ).decode() + "\n"
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")


def _revoke(config: PlatformConfig, args: argparse.Namespace) -> None:
    import json

    from protocols.errors import ConfigError, Problem
    from verifier.platform.control import revoke

    if args.gateway is None or args.from_size is None or args.from_size < 0:
        raise ConfigError(Problem.of("tallystick platform revoke", "platform.revoke_what"))
    body = {"gateway": args.gateway, "gateway_key": None, "from_size": args.from_size}
    print(json.dumps(_ask_or_do(config, "/revoke", json.dumps(body).encode(),
                                lambda service: revoke(service, args.gateway, None, args.from_size)), sort_keys=True))


def _ask_or_do(config: PlatformConfig, path: str, body: Any, work: Callable[[Service], Awaitable[dict[str, Any]]]
               ) -> dict[str, Any]:
    """Ask the running platform; where none runs, do the work on its data folder. Raises VerificationError."""
    import asyncio
    import time

    from protocols.errors import EvidenceError, VerificationError
    from verifier.platform.control import ask
    from verifier.platform.refusal import RefusalError
    from verifier.platform.service import Service

    async def run() -> dict[str, Any]:
        try:
            service = Service(config, clock_s=lambda: int(time.time()))
        except EvidenceError as error:
            if error.problems[0].code != "platform.in_use":
                raise
            return await ask(config.data_dir, path, body)
        try:
            return await work(service)
        except RefusalError as error:
            raise VerificationError(error.problem) from error
        finally:
            service.close()
    return asyncio.run(run())


def _serve(config: PlatformConfig, say: Say) -> None:
    import time

    from verifier.platform import control, running
    from verifier.platform.service import Service
    from verifier.witness.serving import serve

    service = Service(config, clock_s=lambda: int(time.time()))
    try:
        serve(lambda: running.application(service, say), config.listening,
              {"service": "platform", "register": service.trust.policy["register"]},
              local=(lambda: control.application(service), control.socket_path(config.data_dir)))
    finally:
        service.close()
