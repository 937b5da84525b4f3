"""Commands of commissioning: from an empty folder to a gateway that may run, and whom it trusts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.console import config_argument, load, note, print_json
from protocols.terms.say import Say

if TYPE_CHECKING:
    from config.gateway import GatewayConfig
    from gateway.commissioning.check import DeviceCheck
    from gateway.commissioning.initialise import Initialised
    from gateway.commissioning.trust import Certificate
    from gateway.probing.checking import PlantCheck, ProbeCheck

SECRET_BYTES_MAX = 4096


# init, backup: the state folder comes into being, and can come back.


def init_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick init`."""
    parser.add_argument("dir", metavar="DIR", type=Path, help=say("commissioning.help.dir"))
    parser.add_argument("--site", metavar="NAME", help=say("commissioning.help.site"))
    parser.add_argument("--uscc", metavar="CODE", help=say("commissioning.help.uscc"))
    parser.add_argument("--k-file", metavar="FILE", type=Path, help=say("commissioning.help.k_file"))
    parser.add_argument("--restore", metavar="BACKUP", type=Path, help=say("commissioning.help.restore"))
    parser.add_argument("--passphrase-file", metavar="FILE", type=Path, help=say("commissioning.help.passphrase_file"))


def init_command(args: argparse.Namespace, say: Say) -> int:
    """Write a commented configuration and keys, or what a backup holds; say what to do next."""
    from gateway.commissioning import backup, initialise

    if args.restore is not None:
        _refuse_with_restore(args)
        made = initialise.restore(args.dir, backup.load(args.restore, _passphrase(args.passphrase_file, say)))
    else:
        made = _initialised(args)
    note(say("commissioning.made", config=made.config, state=made.state.dir, gateway=made.state.gateway_id()))
    config = made.config
    steps = [say("commissioning.next_edit", config=config), say("commissioning.next_check", config=config)]
    if made.superseded is not None:
        steps = [say("commissioning.next_check", config=config),
                 say("commissioning.next_supersede", config=config, old=made.superseded)]
    else:
        steps.append(say("commissioning.next_enrol", config=config))
    steps += [say("commissioning.next_backup", config=config), say("commissioning.next_run", config=config)]
    for number, step in enumerate(steps, start=1):
        note(f"  {number}. {step}")
    print(made.config)
    return 0


def _refuse_with_restore(args: argparse.Namespace) -> None:
    from protocols.errors import ConfigError, Problem

    given = [name for name in ("site", "uscc", "k_file") if getattr(args, name) is not None]
    if given:
        raise ConfigError([Problem.of(f"--{name.replace('_', '-')}", "commissioning.not_with_restore")
                           for name in given])


def _initialised(args: argparse.Namespace) -> Initialised:
    from datetime import date

    from config.ledger import bad_uscc
    from gateway.commissioning import initialise
    from gateway.commissioning.state import read_k
    from protocols.errors import ConfigError, Problem
    from protocols.terms.uscc import is_valid

    if args.uscc is not None and not is_valid(args.uscc):
        raise ConfigError(bad_uscc("--uscc", args.uscc))
    if args.site is not None and not (0 < len(args.site) <= 200 and args.site.isprintable()):
        raise ConfigError(Problem.of("--site", "ledger.bad_text", limit=200))
    k = None if args.k_file is None else read_k(args.k_file)
    return initialise.initialise(args.dir, site=args.site, uscc=args.uscc, k=k, today=date.today())


def backup_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick backup`."""
    config_argument(parser, say)
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, required=True, help=say("commissioning.help.out"))
    parser.add_argument("--passphrase-file", metavar="FILE", type=Path, help=say("commissioning.help.passphrase_file"))


def backup_command(args: argparse.Namespace, say: Say) -> int:
    """Write what must survive the PC into one encrypted file."""
    from gateway.commissioning import backup
    from gateway.commissioning.state import State
    from protocols.errors import ConfigError, Problem

    config = load(args)
    content = backup.collect(config, State(config.state_dir))
    if args.out.exists():
        raise ConfigError(Problem.of(str(args.out), "commissioning.exists"))
    backup.save(content, args.out, _passphrase(args.passphrase_file, say, is_new=True))
    note(say("commissioning.backed_up", file=args.out, gateway=content.gateway))
    print(args.out)
    return 0


def _passphrase(file: Path | None, say: Say, *, is_new: bool = False) -> str:
    """Return the first line of the file, else what is typed; a new one is typed twice. Raises ConfigError."""
    import getpass

    from gateway.commissioning.backup import check_passphrase
    from protocols.errors import ConfigError, Problem

    if file is not None:
        with file.open("rb") as source:
            text = source.read(SECRET_BYTES_MAX).decode("utf-8", "surrogateescape")
        passphrase = text.splitlines()[0] if text else ""
    else:
        if not sys.stdin.isatty():
            raise ConfigError(Problem.of("passphrase", "commissioning.no_terminal"))
        passphrase = getpass.getpass(say("commissioning.ask_passphrase"))
    if is_new:
        check_passphrase(passphrase)
        if file is None and getpass.getpass(say("commissioning.ask_again")) != passphrase:
            raise ConfigError(Problem.of("passphrase", "commissioning.passphrases_differ"))
    return passphrase


# enrol


def enrol_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick enrol`."""
    config_argument(parser, say)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--token", metavar="T", help=say("commissioning.help.token"))
    way.add_argument("--self", dest="alone", action="store_true", help=say("commissioning.help.self"))
    parser.add_argument("--supersedes", metavar="ID", help=say("commissioning.help.supersedes"))


def enrol_command(args: argparse.Namespace, say: Say) -> int:
    """Get the certificate, check it, keep it. Enrolled already: show it, and ask nobody."""
    import asyncio

    from gateway.commissioning import enrol
    from gateway.commissioning.state import State

    config = load(args)
    state = State(config.state_dir)
    answer = enrol.existing(config, state, args.supersedes)
    told = "commissioning.enrolled_already" if answer is not None else "commissioning.enrolled"
    if answer is None and args.alone:
        answer = enrol.enrol_alone(config, state, args.supersedes)
    elif answer is None:
        answer = asyncio.run(enrol.enrol(config, state, args.token, args.supersedes))
    certificate = answer["certificate"]
    note(say(told, gateway=state.gateway_id(), site=certificate["site"], uscc=certificate["uscc"]))
    if "platform" in answer:
        note(say("commissioning.platform_key", key=enrol.fingerprint(answer["platform"])))
    else:
        note(say("commissioning.enrolled_alone", vkey=enrol.verifier_key(certificate["gateway_key"])))
    note(say("commissioning.next_backup", config=args.config))
    print(state.gateway_id())
    return 0


# check, plan


def check_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick check`."""
    config_argument(parser, say, has_json=True)


def check_command(args: argparse.Namespace, say: Say) -> int:
    """Load the configuration and dry-connect every device. 0 all pass, 1 some do not, 2 the configuration is wrong."""
    import asyncio
    import logging

    from gateway.probing.checking import check_plant

    config = load(args)
    for noisy in ("asyncua", "pymodbus", "paho"):  # what they would log is told once, as the cause of a device
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    note(say("commissioning.checking", devices=len(config.devices), connections=len(config.endpoints)))

    def progress(connection: str, passed: int, devices: int) -> None:
        note(say("commissioning.checked", connection=connection, passed=passed, devices=devices))

    found = asyncio.run(check_plant(config, progress))
    checks = found.devices
    if args.json:
        print_json({"ok": all(check.ok for check in checks), "devices": [
            {"device": c.device, "connection": c.connection, "ok": c.ok, "code": c.code, "args": dict(c.args),
             "message": say.english(c.code, **dict(c.args))} for c in checks], "probes": [
            {"connection": p.connection, "ok": p.ok, "code": p.code, "args": dict(p.args),
             "message": say.english(p.code, **dict(p.args))} for p in found.probes],
            "identity": _identity_body(found, say)})
    else:
        print("\n".join(_check_lines(config, checks, say) + _probe_lines(config, found.probes, say)
                        + _identity_lines(found, say)))
    return 0 if all(check.ok for check in checks) else 1


def _identity_body(found: PlantCheck, say: Say) -> dict[str, Any]:
    return {"devices": [{"device": seen.device, "connection": seen.connection, "facts": seen.shown()}
                        for seen in found.facts if seen.shown()], "unasked": found.unasked,
            "findings": [{"code": f.code, "devices": list(f.devices), "args": dict(f.args),
                          "message": say.english(f.code, **dict(f.args))} for f in found.findings]}


def _identity_lines(found: PlantCheck, say: Say) -> list[str]:
    """What devices showed of themselves, and what does not fit the ledger. It decides nothing."""
    lines = ["", say("identity.check", shown=sum(bool(seen.plate) for seen in found.facts), asked=len(found.facts))]
    if found.unasked:
        lines.append(say("identity.unasked", connections=", ".join(found.unasked)))
    lines += [f"  {say(finding.code, **dict(finding.args))}" for finding in found.findings]
    for code in dict.fromkeys(finding.code for finding in found.findings):
        parts = say.explain(code) or {}
        lines += [f"  {code}, {say(f'commissioning.{part}')}: {parts[part]}"
                  for part in ("cause", "fix") if part in parts]
    return lines


def _check_lines(config: GatewayConfig, checks: list[DeviceCheck], say: Say) -> list[str]:
    from protocols.terms.table import render

    header = [say(f"commissioning.column.{name}") for name in ("device", "connection", "result", "detail")]
    lines = render(header, [
        [c.device, c.connection, say("commissioning.ok" if c.ok else "commissioning.fail"),
         say(c.code, **dict(c.args))] for c in checks])
    failed = [c for c in checks if not c.ok]
    lines += ["", say("commissioning.check_passed", passed=len(checks) - len(failed), devices=len(checks))]
    for code, first in {c.code: c for c in reversed(failed)}.items():
        count = sum(c.code == code for c in failed)
        parts = say.explain(code) or {}
        lines += ["", say("commissioning.check_group", code=code, count=count)]
        lines += [f"  {say(f'commissioning.{part}')}: {_filled(parts[part], dict(first.args))}"
                  for part in ("cause", "fix") if part in parts]
    unowned = sum(device.uscc is None for device in config.devices)
    if unowned:
        lines += ["", say("commissioning.unowned", devices=unowned)]
    return lines


def _probe_lines(config: GatewayConfig, probes: list[ProbeCheck], say: Say) -> list[str]:
    """What the servers of OPC UA said to a challenge, and the certificate that they must trust for it."""
    from gateway.commissioning.state import State
    from gateway.probing.certificate import CERTIFICATE
    from protocols.terms.table import render

    if not probes:
        return []
    nobody_asked = ("probing.unsecured", "probing.no_keys_yet")
    rows = [[p.connection, "-" if p.code in nobody_asked else say("commissioning.ok" if p.ok else "commissioning.fail"),
             say(p.code, **dict(p.args))] for p in probes]
    lines = ["", say("probing.check"), *render(
        [say(f"commissioning.column.{name}") for name in ("connection", "result", "detail")], rows)]
    for code, first in {p.code: p for p in reversed(probes) if not p.ok}.items():
        parts = say.explain(code) or {}
        lines += [f"  {say(f'commissioning.{part}')}: {_filled(parts[part], dict(first.args))}"
                  for part in ("cause", "fix") if part in parts]
    if any(p.code not in nobody_asked for p in probes):
        lines.append(say("probing.check_file", file=State(config.state_dir).pki_dir / CERTIFICATE))
    return lines


def _filled(sentence: str, args: dict[str, str]) -> str:
    """Fill the places of a cause or fix with the arguments of its problem; what nothing fills stays as it is."""
    for name, value in args.items():
        sentence = sentence.replace("{" + name + "}", value if value.isprintable() else ascii(value))
    return sentence


def plan_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick plan`."""
    config_argument(parser, say, has_json=True)


def plan_command(args: argparse.Namespace, say: Say) -> int:
    """Print every request that would be sent, and every message that may be. No network."""
    from gateway.probing.checking import plan

    config = load(args)
    connections = plan(config)
    if args.json:
        print_json(connections)
        return 0
    for connection in connections:
        print(say("commissioning.plan_connection", name=connection["connection"], protocol=connection["protocol"],
                  endpoint=connection["endpoint"]))
        print("\n".join(_plan_table(connection["requests"]) or [f"  {say('commissioning.plan_nothing')}"]))
        if connection["sends"]:
            print(f"  {say('commissioning.plan_sends')}")
            print("\n".join(_plan_table(connection["sends"])))
        if connection["probes"]:
            print(f"  {say('probing.plan')}")
            print("\n".join(_plan_table(connection["probes"])))
        print()
    if config.platform is None:
        print(say("probing.plan_no_platform"))
    if not any(connection["sends"] for connection in connections):
        print(say("commissioning.plan_silent"))
    return 0


def _plan_table(rows: list[dict[str, str]]) -> list[str]:
    from protocols.terms.table import render

    columns = list(dict.fromkeys(name for row in rows for name in row))
    return render(columns, [[row.get(name, "") for name in columns] for row in rows]) if rows else []


# trust


def trust_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick trust`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = say("opcua.trust_example")
    parser.add_argument("config", metavar="CONFIG", type=Path, help=say("opcua.help.trust_config"))
    parser.add_argument("fingerprint", metavar="FINGERPRINT", nargs="?", help=say("commissioning.help.fingerprint"))
    parser.add_argument("--list", action="store_true", help=say("commissioning.help.list"))
    parser.add_argument("--add", metavar="FILE", type=Path, help=say("opcua.help.trust_add"))
    parser.add_argument("--issuer", action="store_true", help=say("opcua.help.trust_issuer"))


def trust_command(args: argparse.Namespace, say: Say) -> int:
    """Approve one refused certificate, put in a file, or list what was refused and what is trusted."""
    from gateway.commissioning.trust import add, approve, certificates, folders_of
    from protocols.errors import ConfigError, Problem

    if (args.issuer and args.add is None) or (args.add is not None and args.fingerprint is not None):
        raise ConfigError(Problem.of("trust", "opcua.trust_options"))
    folders = {args.config: (args.config.name,)} if args.config.is_dir() else folders_of(load(args))
    if args.add is not None:
        fingerprint = add(folders, args.add, is_issuer=args.issuer)
        note(say("opcua.trust_added", folders=", ".join(map(str, folders))))
        print(fingerprint)
        return 0
    if args.fingerprint is not None:
        approved = approve(folders, args.fingerprint, args.config.name)
        note(say("commissioning.trusted", connections=", ".join(approved.connections)))
        print(approved.fingerprint)
        return 0
    found = [c for c in certificates(folders) if args.list or c.state == "refused"]
    if not found:
        note(say("commissioning.none_listed" if args.list else "commissioning.none_refused"))
    for certificate in found:
        print("\n".join(_certificate_lines(certificate, say)))
    if any(c.state == "refused" for c in found):
        note(say("commissioning.how_to_trust", config=args.config))
    return 0


def _certificate_lines(certificate: Certificate, say: Say) -> list[str]:
    sentences = {"refused": "commissioning.is_refused", "trusted": "commissioning.is_trusted",
                 "issuer": "opcua.is_issuer"}
    state = say(sentences[certificate.state], connections=", ".join(certificate.connections))
    if certificate.authority and certificate.state != "issuer":
        state += " " + say("opcua.is_authority")
    return [state, f"  SHA-256  {certificate.fingerprint}",
            "  " + say("commissioning.certificate", subject=certificate.subject, start=certificate.start,
                       end=certificate.end, uris=", ".join(certificate.uris) or "-"), ""]
