"""HTTP to the platform: one request, one checked answer. Every failure is a DeviceError: the caller tries again."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from protocols import exchange, system
from protocols.errors import ConfigError, DeviceError, Problem, VerificationError
from protocols.evidence import jcs
from protocols.evidence.shape import Object, problems, require

CONNECT_S = 10.0
ANSWER_S = 60.0
"""A platform that hangs is given up after this long, and asked again later."""

PIECE_CHARS = 256 * 1024
"""The rows of a roster leave in pieces: of 100 000 points they are 30 MB, and whole they would be there four times."""


class Link(Protocol):
    """What the submitter needs of a platform. Every method may raise DeviceError."""

    async def size(self, gateway: str) -> dict[str, Any]:
        """Return a SIZE_ANSWER."""

    async def submit(self, gateway: str, body: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Return True and a SUBMIT_ANSWER, or False and a SIZE_ANSWER when the sizes or roots differ."""

    async def tail(self, gateway: str, first: int) -> dict[str, Any]:
        """Return a TAIL_ANSWER."""

    async def register(self, gateway: str) -> dict[str, Any]:
        """Return a REGISTER_ANSWER."""

    async def close(self) -> None:
        """End the session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the platform is. ca_file: PEM of the CA that signed its certificate, None for those of the system.

    proxy: URL of an HTTP proxy, None for none; the environment is never asked.
    """

    url: str
    ca_file: Path | None = None
    proxy: str | None = None
    answer_s: float = ANSWER_S


class HttpLink:
    """A session with the platform. It opens with the first request; close it on the same event loop."""

    def __init__(self, address: Address) -> None:
        """Raises: ConfigError `sealing.ca_file` when the CA file cannot be used."""
        self._address = address
        self._base = address.url.rstrip("/")
        self._tls: ssl.SSLContext | bool = True
        if address.ca_file is not None:
            try:
                self._tls = ssl.create_default_context(cafile=str(address.ca_file))
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(Problem.of("[platform] ca_file", "sealing.ca_file", file=address.ca_file,
                                             reason=error)) from error
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the session; the next request opens another."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def size(self, gateway: str) -> dict[str, Any]:
        """See Link."""
        _, answer = await self._ask("GET", f"/v1/gateways/{gateway}/size", exchange.SIZE_ANSWER)
        return answer

    async def submit(self, gateway: str, body: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
        """See Link."""
        answer = await self._ask("POST", f"/v1/gateways/{gateway}/entries", exchange.SUBMIT_ANSWER, body,
                                 conflict=exchange.SIZE_ANSWER)
        if body["rosters"]:
            await asyncio.to_thread(system.release_memory)  # 16 MB after a roster of 100 000 points
        return answer

    async def tail(self, gateway: str, first: int) -> dict[str, Any]:
        """See Link."""
        _, answer = await self._ask("GET", f"/v1/gateways/{gateway}/entries?first={first}", exchange.TAIL_ANSWER)
        return answer

    async def register(self, gateway: str) -> dict[str, Any]:
        """See Link."""
        _, answer = await self._ask("GET", f"/v1/gateways/{gateway}/register", exchange.REGISTER_ANSWER)
        return answer

    async def state(self, body: Mapping[str, Any]) -> int:
        """Submit a signed statement; return its place in the register. Raises DeviceError."""
        _, answer = await self._ask("POST", "/v1/statements", exchange.STATEMENT_ANSWER, body)
        return int(answer["index"])

    async def _ask(self, method: str, path: str, shape: Object, body: Mapping[str, Any] | None = None, *,
                   conflict: Object | None = None) -> tuple[bool, dict[str, Any]]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._address.answer_s, connect=CONNECT_S)
            self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        headers, data = {}, None
        if body is not None:
            length = await asyncio.to_thread(lambda: sum(map(len, pieces(body))))
            headers, data = {"Content-Type": "application/json", "Content-Length": str(length)}, _sent(body)
        where = self._base
        try:
            async with self._session.request(
                    method, self._base + path, data=data, ssl=self._tls, proxy=self._address.proxy,
                    headers=headers, allow_redirects=False) as response:
                status = response.status
                raw = await _read(response, where)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise DeviceError(Problem.of(where, "sealing.platform_unreachable", reason=reason[:200])) from error
        if status in (200, 201):
            return True, await asyncio.to_thread(_checked, raw, shape, where)
        if status == 409 and conflict is not None:
            return False, await asyncio.to_thread(_checked, raw, conflict, where)
        raise DeviceError(_refusal(raw, status, where))


def pieces(body: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the JSON of a request: of a SUBMIT_REQUEST the rows of rosters by parts, everything else at once."""
    if "rosters" not in body:
        yield jcs.encode(dict(body))
        return
    yield jcs.encode({**body, "rosters": []}).removesuffix(b"]}")  # the last of its names
    for number, roster in enumerate(body["rosters"]):
        yield b',{"rows":"' if number else b'{"rows":"'
        rows = roster["rows"]
        for at in range(0, len(rows), PIECE_CHARS):
            yield json.dumps(rows[at:at + PIECE_CHARS], ensure_ascii=False)[1:-1].encode()
        yield b'","seq":%d}' % roster["seq"]
    yield b"]}"


async def _sent(body: Mapping[str, Any]) -> AsyncIterator[bytes]:
    made = pieces(body)
    while (piece := await asyncio.to_thread(next, made, None)) is not None:
        yield piece


async def _read(response: aiohttp.ClientResponse, where: str) -> bytes:
    """Return the body, up to the limit. Raises DeviceError beyond it."""
    parts: list[bytes] = []
    length = 0
    async for part in response.content.iter_chunked(64 * 1024):
        length += len(part)
        if length > exchange.BODY_BYTES_MAX:
            raise DeviceError(Problem.of(where, "sealing.answer_too_large", limit=exchange.BODY_BYTES_MAX))
        parts.append(part)
    return b"".join(parts)


def _checked(raw: bytes, shape: Object, where: str) -> dict[str, Any]:
    try:
        value = jcs.parse(raw, where=where, bytes_max=exchange.BODY_BYTES_MAX)
        require(shape, value, where=where)
    except VerificationError as error:
        raise DeviceError(Problem.of(where, "sealing.answer_malformed", reason=str(error)[:200])) from error
    result: dict[str, Any] = value
    return result


def _refusal(raw: bytes, status: int, where: str) -> Problem:
    """Tell a refusal in the platform's words if it sent any, which are data and no instruction."""
    try:
        value = jcs.parse(raw, where=where, bytes_max=64 * 1024)
    except VerificationError:
        value = None
    if value is None or problems(exchange.REFUSAL, value, where=where):
        return Problem.of(where, "sealing.platform_status", status=status)
    return Problem.of(where, "sealing.platform_refused", status=status, refusal=value["code"], place=value["where"],
                      message=value["message"][:400])
