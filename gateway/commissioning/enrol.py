"""Enrolment: the platform certifies our key, or, in a plant without a platform, our own recovery key does.

Asking again is safe: the platform answers one token and one request with one certificate, and an enrolment that is
kept already is only shown. Whom this gateway believes from now on (register, platform key, witnesses) is in the
answer; so it is taken over HTTPS only, and the fingerprint of the platform key is shown to be compared.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp

from config.gateway import GatewayConfig, PlatformTable
from gateway.commissioning.state import State
from protocols import exchange
from protocols.errors import ConfigError, DeviceError, Problem, VerificationError
from protocols.evidence import jcs, keys, note, policy, roster, signed
from protocols.evidence.shape import require

ANSWER_BYTES_MAX = 1024 * 1024
ATTEMPTS = 3
RETRY_S = 1.0
NO_TOKEN = ""
"""What the certificate of a plant without a platform names instead of a token."""

CODE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


async def enrol(config: GatewayConfig, state: State, token: str, supersedes: str | None,
                retry_s: float = RETRY_S) -> dict[str, Any]:
    """Ask the platform for a certificate, check it, keep the answer and return it.

    Raises: ConfigError when nothing can be asked, or when the platform refuses: `commissioning.refused` and why;
    DeviceError when it cannot be reached; VerificationError when the answer does not certify what was asked.
    """
    if config.platform is None:
        raise ConfigError(Problem.of(config.file.name, "commissioning.no_platform"))
    if not token.isascii() or not token.isprintable() or not 0 < len(token) <= 128:
        raise ConfigError(Problem.of("--token", "commissioning.bad_token"))
    fields = _certified(config, state, supersedes)
    request = exchange.prove_possession({"token": token, **fields}, state.gateway_key())
    answer = await _ask(config, config.platform, request, retry_s)
    check_answer(answer, fields, token, where=config.platform.url)
    state.save_enrolment(answer)
    return answer


def enrol_alone(config: GatewayConfig, state: State, supersedes: str | None) -> dict[str, Any]:
    """Certify the gateway key with the recovery key, for a plant without a platform; keep and return {certificate}.

    Raises: ConfigError `commissioning.self_with_platform` when the configuration names a platform.
    """
    if config.platform is not None:
        raise ConfigError(Problem.of(config.file.name, "commissioning.self_with_platform", url=config.platform.url))
    certificate = signed.sign("certificate", {
        **_certified(config, state, supersedes), "token_sha256": _digest(NO_TOKEN)}, state.recovery_key())
    answer = {"certificate": certificate}
    state.save_enrolment(answer)
    return answer


def existing(config: GatewayConfig, state: State, supersedes: str | None) -> dict[str, Any] | None:
    """Return the enrolment that is kept, None if there is none.

    Raises: ConfigError `commissioning.enrolled_otherwise` for each thing it certifies that is not so any more: a
    gateway enrols once, and what a certificate names cannot be changed.
    """
    answer = state.enrolment()
    if answer is None:
        return None
    certificate = answer["certificate"]
    asked = _certified(config, state, supersedes)
    if supersedes is None:
        del asked["supersedes"]  # enrolling again need not repeat it
    del asked["gateway_key"]  # a later key follows in the log
    problems = [Problem.of(str(state.enrolment_file), "commissioning.enrolled_otherwise", name=name,
                           certified=certificate[name], asked=value)
                for name, value in asked.items() if certificate[name] != value]
    if problems:
        raise ConfigError(problems)
    return answer


def check_answer(answer: Mapping[str, Any], fields: Mapping[str, Any], token: str, *, where: str) -> None:
    """Check that an ENROL_ANSWER certifies exactly what was asked for, and that its parts can be used.

    Raises: VerificationError.
    """
    require(exchange.ENROL_ANSWER, answer, where=where)
    signed.verify("certificate", answer["certificate"], signers={answer["platform"]}, where=where)
    wanted = {**fields, "token_sha256": _digest(token)}
    problems = [Problem.of(where, "commissioning.other_certificate", name=name)
                for name, value in wanted.items() if answer["certificate"][name] != value]
    if problems:
        raise VerificationError(problems)
    note.parse_verifier_key(answer["register"], where=where)
    policy.parse_quorum(answer["witnesses"], where=where)


def verifier_key(public_hex: str) -> str:
    """Return the line for `gateways` in a checker's policy: the first key of a gateway that no platform vouches for."""
    public = bytes.fromhex(public_hex)
    return str(note.VerifierKey(keys.gateway_origin(keys.gateway_id(public)), note.ED25519, public))


def fingerprint(public_hex: str) -> str:
    """Return a key in groups of four, as two people compare it by telephone."""
    return " ".join(public_hex[at:at + 4] for at in range(0, len(public_hex), 4))


def _certified(config: GatewayConfig, state: State, supersedes: str | None) -> dict[str, Any]:
    if supersedes is not None and not re.fullmatch("[0-9a-f]{32}", supersedes):
        raise ConfigError(Problem.of("--supersedes", "commissioning.bad_gateway_id", value=supersedes[:80]))
    return {
        "gateway_key": keys.public_bytes(state.gateway_key()).hex(), "uscc": config.uscc, "site": config.site,
        "k_sha256": roster.k_sha256(state.enterprise_key()),
        "recovery_key": keys.public_bytes(state.recovery_key()).hex(), "supersedes": supersedes}


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def _ask(config: GatewayConfig, platform: PlatformTable, request: dict[str, Any],
               retry_s: float) -> dict[str, Any]:
    """POST the request; what may pass by itself (no connection, 5xx) is tried ATTEMPTS times."""
    url = f"{platform.url.rstrip('/')}/v1/enrol"
    timeout = aiohttp.ClientTimeout(total=platform.timeout_s)
    async with aiohttp.ClientSession(timeout=timeout, connector=_connector(config)) as session:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                # No redirect is followed: the token must not end up elsewhere.
                async with session.post(url, json=request, proxy=platform.proxy, allow_redirects=False) as response:
                    body = await _limited(response, url)
                if response.status < 500 or attempt == ATTEMPTS:
                    return _answer(response.status, body, url)
            except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
                problem = _unreachable(error, url)
                if attempt == ATTEMPTS or problem.code == "commissioning.platform_certificate":
                    raise DeviceError(problem) from error
            await asyncio.sleep(retry_s * attempt)
    raise AssertionError("the last attempt answers or raises")


def _connector(config: GatewayConfig) -> aiohttp.TCPConnector:
    """Return a connector that trusts the platform's own CA if one is configured, else those of the system."""
    if config.platform_ca is None:
        return aiohttp.TCPConnector()
    try:
        return aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(config.platform_ca)))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(Problem.of(str(config.platform_ca), "commissioning.bad_ca", reason=error)) from error


def _unreachable(error: Exception, url: str) -> Problem:
    """Return what an error of the connection means to a person."""
    reason = str(error)[:300] or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return Problem.of(url, "commissioning.platform_certificate", reason=reason)
    if isinstance(error, TimeoutError):
        return Problem.of(url, "commissioning.platform_silent")
    return Problem.of(url, "commissioning.platform_unreachable", reason=reason)


async def _limited(response: aiohttp.ClientResponse, url: str) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise DeviceError(Problem.of(url, "commissioning.platform_answer", status=response.status))
    return bytes(body)


def _answer(status: int, body: bytes, url: str) -> dict[str, Any]:
    """Return the answer, or raise what a refusal says: that it is one, then the platform's reason in our own words."""
    try:
        value = jcs.parse(body, where=url, bytes_max=ANSWER_BYTES_MAX)
        if status in (200, 201) and isinstance(value, dict):
            return value
        require(exchange.REFUSAL, value, where=url)
    except VerificationError as error:
        raise DeviceError(Problem.of(url, "commissioning.platform_answer", status=status)) from error
    args = tuple(sorted((name, text) for name, _, text in (arg.partition("=") for arg in value["args"])))
    problems = [Problem.of(url, "commissioning.refused", status=status, message=value["message"])]
    if CODE.fullmatch(value["code"]):
        problems.append(Problem(value["where"], value["code"], args))
    raise ConfigError(problems) if status < 500 else DeviceError(problems)
