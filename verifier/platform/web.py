"""The HTTP side of the platform: routes, limits before parsing, and every refusal as a REFUSAL body."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

from protocols import exchange
from protocols.errors import EvidenceError, TallystickError, VerificationError
from protocols.evidence import jcs, statement
from protocols.evidence.statement import STATEMENT_BYTES_MAX
from protocols.evidence.tiles import WIDTH, parse_path
from protocols.terms.say import Say
from verifier.platform import batch, page
from verifier.platform.refusal import ConflictError, RefusalError
from verifier.platform.service import Service, unpack

log = logging.getLogger(__name__)

ENROL_BYTES_MAX = 16 * 1024
BODIES_IN_FLIGHT_BYTES_MAX = 256 * 1024 * 1024
STRINGS_MAX = 4 * exchange.SUBMIT_ENTRIES_MAX + 64
STRUCTURE_BYTES_MAX = 64 * STRINGS_MAX
"""Of a body, what is not inside strings: 64 MB of `{},{},{}` would become gigabytes of objects."""
AT_ONCE_BYTES_MAX = 2 * STRINGS_MAX
"""So short a body cannot have too many parts: it is parsed in the event loop, sooner than a thread is told to."""
ADDRESSES_MAX = 10_000

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
                               "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_JSON = {"Content-Type": "application/json; charset=utf-8"}
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_GATEWAY = "{gateway:[0-9a-f]{32}}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(service: Service, say: Say) -> web.Application:
    """Return the application. `say`: for the English messages of refusals."""
    routes = _Routes(service)

    @web.middleware
    async def answers(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn every error into a body that says what and where; nothing of ours is told about an unexpected one."""
        try:
            routes.within_rate(request.remote or "")
            response = await handler(request)
        except ConflictError as error:
            response = web.json_response(error.answer, status=409)
        except RefusalError as error:
            response = _refusal(say, error)
        except web.HTTPException as error:
            code = "platform.no_method" if error.status == 405 else "platform.no_page"
            response = _refusal(say, RefusalError.of(405 if error.status == 405 else 404, request.path[:200], code))
        except EvidenceError as error:
            log.error("%s %s: %s", request.method, request.path, error)
            response = _refusal(say, RefusalError.because(500, error))
        except TallystickError as error:
            response = _refusal(say, RefusalError.because(422, error))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("%s %s", request.method, request.path)
            response = _refusal(say, RefusalError.of(500, request.path[:200], "platform.unexpected"))
        response.headers.update(SECURITY_HEADERS)
        return response

    app = web.Application(middlewares=[answers], client_max_size=exchange.BODY_BYTES_MAX)
    app.router.add_post("/v1/enrol", routes.enrol)
    app.router.add_post(f"/v1/gateways/{_GATEWAY}/entries", routes.submit)  # first: nearly all requests are these
    app.router.add_get(f"/v1/gateways/{_GATEWAY}/entries", routes.tail)
    app.router.add_get(f"/v1/gateways/{_GATEWAY}/size", routes.size)
    app.router.add_get(f"/v1/gateways/{_GATEWAY}/register", routes.proofs)
    app.router.add_post("/v1/statements", routes.state)
    for prefix in (f"/g/{_GATEWAY}", "/register"):
        app.router.add_get(f"{prefix}/checkpoint", routes.checkpoint)
        app.router.add_get(prefix + "/{tile:tile/.{1,100}}", routes.tile)
    app.router.add_get("/", routes.page)
    app.router.add_get("/style.css", routes.style)
    app.router.add_get("/healthz", routes.healthy)
    return app


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._limits = service.config.limits
        self._in_flight = 0
        self._allowance: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def within_rate(self, address: str) -> None:
        """Take one request from the allowance of an address. Raises RefusalError 429."""
        now = asyncio.get_running_loop().time()
        left, at = self._allowance.pop(address, (float(self._limits.requests_burst), now))
        left = min(left + (now - at) * self._limits.requests_per_s, self._limits.requests_burst)
        self._allowance[address] = (max(left - 1, 0), now)
        if len(self._allowance) > ADDRESSES_MAX:
            self._allowance.popitem(last=False)
        if left < 1:
            raise RefusalError.of(429, "request", "platform.too_many", per_s=self._limits.requests_per_s)

    async def enrol(self, request: web.Request) -> web.Response:
        async with self._json(request, ENROL_BYTES_MAX) as body:
            return web.json_response(await self._service.enrol(body), status=201)

    async def state(self, request: web.Request) -> web.Response:
        async with self._json(request, STATEMENT_BYTES_MAX) as body:
            try:
                said = statement.of(body, where="statement")
            except VerificationError as error:
                raise RefusalError.because(400, error) from error
            stated = await self._service.state(said)
            return web.json_response({"index": stated.index}, status=201 if stated.fresh else 200)

    async def size(self, request: web.Request) -> web.Response:
        return web.json_response(await self._service.size(request.match_info["gateway"]))

    async def submit(self, request: web.Request) -> web.Response:
        gateway = request.match_info["gateway"]
        await self._service.require_known(gateway)  # an unknown gateway is refused before its body is read
        length = self._admit(request, exchange.BODY_BYTES_MAX)
        try:
            data = await self._body(request, length)
            read = _batch(data) if length <= AT_ONCE_BYTES_MAX else await asyncio.to_thread(_batch, data)
            answer = await self._service.take(gateway, *read)
            return web.Response(body=batch.answer(**answer), headers=_JSON)
        finally:
            self._in_flight -= length

    async def tail(self, request: web.Request) -> web.Response:
        first = request.query.get("first", "")
        if not (first.isascii() and first.isdigit() and len(first) <= 16):
            raise RefusalError.of(400, "first", "platform.no_number", value=first[:40])
        return web.json_response(await self._service.tail(request.match_info["gateway"], int(first)))

    async def proofs(self, request: web.Request) -> web.Response:
        return web.json_response(await self._service.proofs(request.match_info["gateway"]))

    async def checkpoint(self, request: web.Request) -> web.Response:
        data = await self._service.checkpoint(request.match_info.get("gateway"))
        if data is None:
            raise RefusalError.of(404, request.path, "platform.no_page")
        return web.Response(body=data, headers={"Content-Type": "text/plain; charset=utf-8",
                                                "Cache-Control": "no-cache"})

    async def tile(self, request: web.Request) -> web.Response:
        tile = parse_path(request.match_info["tile"])
        data = await self._service.tile(request.match_info.get("gateway"), tile) if tile else None
        if tile is None or data is None:
            raise RefusalError.of(404, request.path[:200], "platform.no_page")
        cache = "public, max-age=31536000, immutable" if tile.width == WIDTH else "no-cache"
        return web.Response(body=data, headers={"Content-Type": "application/octet-stream", "Cache-Control": cache})

    async def page(self, request: web.Request) -> web.Response:
        lang = "en" if request.query.get("lang") == "en" else "zh"
        text = page.render(await self._service.gateways(), name=self._service.config.name, lang=lang,
                           register_size=self._service.register.size, now_s=self._service.clock_s())
        return web.Response(text=text, content_type="text/html", charset="utf-8", headers={"Cache-Control": "no-cache"})

    async def style(self, _: web.Request) -> web.Response:
        return web.Response(text=page.style(), content_type="text/css", charset="utf-8")

    async def healthy(self, _: web.Request) -> web.Response:
        await self._service.store.read(lambda connection: connection.execute("SELECT 1 FROM meta LIMIT 1").fetchone())
        return web.json_response({"ok": True})

    @contextlib.asynccontextmanager
    async def _json(self, request: web.Request, limit: int) -> AsyncIterator[Any]:
        """Read a JSON body within `limit`, all limits before parsing. Raises RefusalError 400, 413 or 429."""
        length = self._admit(request, limit)
        try:
            data = await self._body(request, length)
            yield _parse(data) if length <= AT_ONCE_BYTES_MAX else await asyncio.to_thread(_parse, data)
        finally:
            self._in_flight -= length

    def _admit(self, request: web.Request, limit: int) -> int:
        """Return the length of a body within `limit`, which then counts as in flight. Raises RefusalError."""
        length = request.content_length
        if length is None or request.headers.get("Content-Encoding", "identity") != "identity":
            raise RefusalError.of(400, "request", "platform.no_length")
        if length > limit:
            raise RefusalError.of(413, "request", "platform.too_large", limit=limit)
        if self._in_flight + length > BODIES_IN_FLIGHT_BYTES_MAX:
            raise RefusalError.of(429, "request", "platform.busy")
        self._in_flight += length
        return length

    async def _body(self, request: web.Request, length: int) -> bytes:
        """Return a body of `length`. Raises RefusalError 400 if it does not come in time."""
        try:
            if request.content.is_eof():  # it came with its head, as a window does
                data = request.content.read_nowait()
                if len(data) != length:
                    raise asyncio.IncompleteReadError(data, length)
                return data
            async with asyncio.timeout(self._limits.body_timeout_s):
                return await request.content.readexactly(length)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError, web.PayloadAccessError) as error:
            raise RefusalError.of(400, "request", "platform.cut", expected=length) from error


def _parse(data: bytes) -> Any:
    if len(data) > AT_ONCE_BYTES_MAX:
        _limit_parts(data)
    try:
        return jcs.parse(data, where="request", bytes_max=exchange.BODY_BYTES_MAX)
    except VerificationError as error:
        raise RefusalError.because(400, error) from error


def _batch(data: bytes) -> batch.Batch:
    """Read the body of a batch. Raises RefusalError 400."""
    return (batch.take(data) if len(data) <= AT_ONCE_BYTES_MAX else None) or unpack(_parse(data))


def _limit_parts(data: bytes) -> None:
    """Raise RefusalError 400 if a body would become too many objects."""
    strings = inside = 0
    for match in _STRING.finditer(data):
        strings += 1
        inside += match.end() - match.start()
        if strings > STRINGS_MAX:
            break
    if strings > STRINGS_MAX or len(data) - inside > STRUCTURE_BYTES_MAX:
        raise RefusalError.of(400, "request", "platform.too_many_parts")


def _refusal(say: Say, error: RefusalError) -> web.Response:
    problem = error.problem
    headers = {"Retry-After": "5"} if error.status == 429 else {}
    return web.json_response({
        "code": problem.code, "args": [f"{name}={value}"[:400] for name, value in problem.args[:16]],
        "where": problem.where[:400],
        "message": say.english(problem.code, **{"where": problem.where, **dict(problem.args)})[:2000],
    }, status=error.status, headers=headers)
