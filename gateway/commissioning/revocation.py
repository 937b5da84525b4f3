"""`revoke`: the holder of the recovery key ends the log of a gateway whose key was lost or stolen.

What the signed statement needs is taken from the state folder of this gateway, from what a restore kept of the one
that it replaced, or from the platform. A certificate names its own recovery key, so that a wrong key is told here.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from config.gateway import GatewayConfig
from gateway.commissioning.export import open_journal
from gateway.commissioning.initialise import SUPERSEDED
from gateway.commissioning.state import State
from gateway.sealing.link import Address, HttpLink
from protocols.errors import ConfigError, EvidenceError, Problem, VerificationError
from protocols.evidence import keys, proof, register, signed
from protocols.evidence.statement import Statement, domain
from protocols.terms.say import Say


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be revoked, as far as the user has said it. gateway_key: 64 hex."""

    gateway: str
    gateway_key: str | None = None
    from_size: int | None = None


def certificate_kept(state: State, gateway: str) -> Mapping[str, Any] | None:
    """Return the certificate of a gateway that is this one, or that this one superseded; None if it is neither."""
    for folder in (state, State(state.dir / SUPERSEDED / gateway)):
        enrolment = folder.enrolment()
        if enrolment is not None and _id(enrolment["certificate"]) == gateway:
            return dict(enrolment["certificate"])
    return None


def from_journal(state: State, wanted: Wanted) -> Wanted:
    """Fill in what the log of this very gateway says: its size now, and the key that signs its last valid entry."""
    journal = open_journal(state)
    if not journal.size or journal.history.gateway != wanted.gateway:
        return wanted
    from_size = journal.size if wanted.from_size is None else wanted.from_size
    key = wanted.gateway_key or journal.history.key_at(min(max(from_size, 1), journal.size))
    return Wanted(gateway=wanted.gateway, gateway_key=key, from_size=from_size)


async def from_platform(link: HttpLink, wanted: Wanted) -> tuple[Wanted, Mapping[str, Any] | None]:
    """Fill in what the platform knows: how many entries it holds, and the gateway's first key, with its certificate.

    Raises: DeviceError.
    """
    certificate = None
    for text in (await link.register(wanted.gateway))["proofs"]:
        try:
            value = register.decode(proof.parse(text.encode(), where="register").extra, where="register")
        except VerificationError:
            continue
        if value["type"] == "enrol" and _id(value["certificate"]) == wanted.gateway:  # whose key gives that id
            certificate = value["certificate"]
    from_size = wanted.from_size
    if from_size is None:
        from_size = int((await link.size(wanted.gateway))["size"])
    key = wanted.gateway_key or (certificate["gateway_key"] if certificate is not None else None)
    return Wanted(gateway=wanted.gateway, gateway_key=key, from_size=from_size), certificate


def sign(wanted: Wanted, certificate: Mapping[str, Any] | None, key: Ed25519PrivateKey) -> Statement:
    """Sign what is complete. Raises ConfigError for what is missing, or when the certificate names another key."""
    missing = [Problem.of(option, "statements.revoke_missing")
               for option, value in (("--gateway-key", wanted.gateway_key), ("--from-size", wanted.from_size))
               if value is None]
    if missing:
        raise ConfigError(missing)
    if certificate is not None and certificate["recovery_key"] != keys.public_bytes(key).hex():
        raise ConfigError(Problem.of("--recovery-key", "statements.other_recovery_key", gateway=wanted.gateway))
    return Statement("revocation", signed.sign("revocation", {
        "gateway": wanted.gateway, "gateway_key": wanted.gateway_key, "from_size": wanted.from_size}, key))


def check_wanted(wanted: Wanted) -> None:
    """Raise ConfigError for everything that is not as it must be."""
    problems = []
    if not re.fullmatch("[0-9a-f]{32}", wanted.gateway):
        problems.append(Problem.of("--gateway", "statements.bad_hex", value=wanted.gateway[:80], digits=32))
    if wanted.gateway_key is not None and not re.fullmatch("[0-9a-f]{64}", wanted.gateway_key):
        problems.append(Problem.of("--gateway-key", "statements.bad_hex", value=wanted.gateway_key[:80], digits=64))
    if wanted.from_size is not None and wanted.from_size < 0:
        problems.append(Problem.of("--from-size", "statements.bad_size"))
    if problems:
        raise ConfigError(problems)


def _id(certificate: Mapping[str, Any]) -> str:
    return keys.gateway_id(bytes.fromhex(certificate["gateway_key"]))


async def revoke(args: argparse.Namespace, config: GatewayConfig | None, say: Say, note: Callable[[str], None]) -> int:
    """Do what the command asks. `note` prints for people; the path of the signed file goes to standard output."""
    state = None if config is None else State(config.state_dir)
    if args.gateway is None and state is None:
        raise ConfigError(Problem.of("CONFIG, --gateway", "statements.revoke_whom"))
    wanted = Wanted(gateway=args.gateway if args.gateway is not None or state is None else state.gateway_id(),
                    gateway_key=args.gateway_key, from_size=args.from_size)
    check_wanted(wanted)
    if args.output.exists():
        raise ConfigError(Problem.of(str(args.output), "statements.exists"))
    key = _recovery_key(args.recovery_key, state)
    certificate = None if state is None else certificate_kept(state, wanted.gateway)
    if state is not None and state.journal_dir.is_dir():
        wanted = from_journal(state, wanted)
    if wanted.gateway_key is None and certificate is not None:
        wanted = replace(wanted, gateway_key=certificate["gateway_key"])
    address = _address(args, config)
    if address is None:
        if args.submit:
            raise ConfigError(Problem.of("--platform", "statements.no_address"))
        return _write(sign(wanted, certificate, key), args.output, say, note)
    link = HttpLink(address)
    try:
        if wanted.gateway_key is None or wanted.from_size is None:
            wanted, known = await from_platform(link, wanted)
            certificate = certificate or known
        statement = sign(wanted, certificate, key)
        status = _write(statement, args.output, say, note)
        if args.submit:
            note(say("statements.submitted", index=await link.state(
                {"type": domain("revocation"), "statement": dict(statement.value)})))
        return status
    finally:
        await link.close()


def _recovery_key(file: Path | None, state: State | None) -> Ed25519PrivateKey:
    if file is None and state is None:
        raise ConfigError(Problem.of("--recovery-key", "statements.revoke_missing"))
    if file is None:
        assert state is not None
        return state.recovery_key()
    try:
        return keys.load(file)
    except EvidenceError as error:
        raise ConfigError(error.problems) from error


def _address(args: argparse.Namespace, config: GatewayConfig | None) -> Address | None:
    """Return where the platform is: what is typed wins over the configuration."""
    if args.platform is not None:
        if not args.platform.startswith(("https://", "http://")):
            raise ConfigError(Problem.of("--platform", "statements.bad_url", url=args.platform[:200]))
        return Address(url=args.platform, ca_file=args.ca_file)
    if config is None or config.platform is None:
        return None
    return Address(url=config.platform.url, ca_file=config.platform_ca, proxy=config.platform.proxy,
                   answer_s=config.platform.timeout_s)


def _write(statement: Statement, path: Path, say: Say, note: Callable[[str], None]) -> int:
    data = statement.encode()
    with path.open("xb") as file:
        file.write(data)
    note(say("statements.revocation_made", gateway=statement.gateway, from_size=statement.value["from_size"]))
    print(path)
    return 0
