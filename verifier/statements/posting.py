"""A statement to a platform: one request of the standard library, so that an auditor needs nothing else installed."""

from __future__ import annotations

import re
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from protocols import exchange
from protocols.errors import ConfigError, DeviceError, Problem, VerificationError
from protocols.evidence import jcs
from protocols.evidence.shape import problems, require

TIMEOUT_S = 30.0
ANSWER_BYTES_MAX = 64 * 1024
CODE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


def post(platform: str, data: bytes, *, ca_file: Path | None = None) -> tuple[int, bool]:
    """Send the bytes of a statement; return its place in the register, and whether it was not there before.

    ca_file: PEM of the CA that signed the platform's certificate, None for those of the system. No redirect is
    followed, and the environment is not asked for a proxy.

    Raises: ConfigError for an address that is none, DeviceError when nobody answers as a platform does,
    VerificationError `statements.refused` with the platform's reason.
    """
    parts = urlsplit(platform)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.query or parts.fragment:
        raise ConfigError(Problem.of("--platform", "statements.bad_url", url=platform[:200]))
    connection: HTTPConnection
    if parts.scheme == "https":
        connection = HTTPSConnection(parts.hostname, port, timeout=TIMEOUT_S, context=_context(ca_file))
    else:
        connection = HTTPConnection(parts.hostname, port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", f"{parts.path.rstrip('/')}/v1/statements", body=data,
                           headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        status, body = response.status, response.read(ANSWER_BYTES_MAX + 1)
    except (OSError, HTTPException) as error:  # TimeoutError and ssl.SSLError are OSErrors
        raise DeviceError(Problem.of(platform, "statements.unreachable",
                                     reason=str(error)[:200] or type(error).__name__)) from error
    finally:
        connection.close()
    return _answer(status, body, platform)


def _answer(status: int, body: bytes, where: str) -> tuple[int, bool]:
    try:
        value = jcs.parse(body, where=where, bytes_max=ANSWER_BYTES_MAX)
        if status in (200, 201):
            require(exchange.STATEMENT_ANSWER, value, where=where)
            return int(value["index"]), status == 201
    except VerificationError as error:
        raise DeviceError(Problem.of(where, "statements.no_platform", status=status)) from error
    if problems(exchange.REFUSAL, value, where=where):
        raise DeviceError(Problem.of(where, "statements.no_platform", status=status))
    args = tuple(sorted((name, text) for name, _, text in (arg.partition("=") for arg in value["args"])))
    told = [Problem.of(where, "statements.refused", status=status, message=value["message"])]
    if CODE.fullmatch(value["code"]):
        told.append(Problem(value["where"], value["code"], args))
    raise VerificationError(told) if status < 500 else DeviceError(told)


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(Problem.of("--ca-file", "statements.bad_ca", file=ca_file, reason=error)) from error
