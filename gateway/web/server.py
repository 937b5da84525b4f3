"""The local page over HTTP: reads only, on its own terms. Whatever happens here, counting goes on.

Facts are taken on the loop thread, which costs microseconds; text is made of them in one thread of the page's own,
one page after the other. Requests that wait, and connections, are limited.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.http import HttpProcessingError

from config.gateway import GatewayConfig
from config.web import WebPage
from gateway.probing.checking import plan as planned
from gateway.web import pages
from gateway.web.facts import Facts
from gateway.web.index import Index, make_index
from gateway.web.live import Live
from gateway.web.metrics import CONTENT_TYPE, metrics
from gateway.web.pages import Asked
from gateway.web.words import Told, told
from protocols.errors import TallystickError
from protocols.terms.say import Say

log = logging.getLogger(__name__)

RETRY_S = 60.0
CONNECTIONS_MAX = 64
"""A browser takes six. A port that anybody on this machine may open must not use up the files of the process."""

WAITING_MAX = 32
IDLE_TIMEOUT_S = 30.0
"""A connection without a request, or with half a head of one, is closed after this."""
SHUTDOWN_TIMEOUT_S = 0.5
HEAD_BYTES_MAX = 8190
BODY_BYTES_MAX = 1024

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
                               "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Server": "tallystick",
}
STATIC = {"/style.css": ("style.css", "text/css"), "/page.js": ("page.js", "text/javascript"),
          "/icon.svg": ("icon.svg", "image/svg+xml")}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Result = TypeVar("Result")


class Page:
    """The local page of one gateway. `run` listens until it is cancelled, and never raises anything else."""

    def __init__(self, where: WebPage, say: Say, facts: Callable[[], Facts], live: Live,
                 tell: Callable[..., None]) -> None:
        """`facts`: takes the present; called on the loop thread. `tell`: events for people, as of the agent."""
        self._where = where
        self._voices = {lang: say.speaking(lang) for lang in ("zh", "en")}
        self._facts = facts
        self._live = live
        self._tell = tell
        self._pool = ThreadPoolExecutor(1, "page")
        self._waiting = 0
        self._index: Index | None = None
        self._plan: tuple[GatewayConfig, Sequence[Mapping[str, Any]], TallystickError | None] | None = None

    async def run(self) -> None:
        """Listen. An address that cannot be had is told once, and tried again for ever."""
        logging.getLogger("aiohttp.server").addFilter(_is_ours)
        runner = web.AppRunner(self.application(), keepalive_timeout=IDLE_TIMEOUT_S, max_line_size=HEAD_BYTES_MAX,
                               max_field_size=HEAD_BYTES_MAX, access_log=None, handle_signals=False,
                               auto_decompress=False, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
        server: asyncio.Server | None = None
        try:
            await runner.setup()
            server = await self._listening(runner)
            self._tell("web.listening", "web", url=self._where.url)
            await asyncio.Event().wait()
        except Exception:  # a page is no reason to stop counting
            log.exception("the local page ended")
        finally:
            if server is not None:
                server.close()
            await runner.cleanup()
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _listening(self, runner: web.AppRunner) -> asyncio.Server:
        handlers = runner.server
        assert handlers is not None, "setup made it"

        def accepted() -> asyncio.BaseProtocol:
            return handlers() if len(handlers.connections) < CONNECTIONS_MAX else _Refused()

        was_told = False
        while True:
            try:
                return await asyncio.get_running_loop().create_server(accepted, self._where.host, self._where.port)
            except OSError as error:
                if not was_told:
                    self._tell("web.not_listening", "web", address=f"{self._where.host}:{self._where.port}",
                               reason=os.strerror(error.errno) if error.errno else error)
                was_told = True
                await asyncio.sleep(RETRY_S)

    def application(self) -> web.Application:
        """Return the application, for a server or a test."""
        app = web.Application(middlewares=[self._answers], client_max_size=BODY_BYTES_MAX)
        for path, renderer in (("/", pages.overview), ("/devices", pages.devices), ("/connections", pages.connections),
                               ("/evidence", pages.evidence), ("/record", pages.commissioning_record)):
            app.router.add_get(path, self._page(renderer))
        app.router.add_get("/devices/{id:[A-Za-z0-9_.-]{1,64}}", self._device)
        app.router.add_get("/plan", self._planned)
        for path in STATIC:
            app.router.add_get(path, self._static)
        app.router.add_get("/live", self._alive)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        return app

    @web.middleware
    async def _answers(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse names that are not ours, turn every error into a page, and set the headers."""
        try:
            name = host_of(request.host)
            response: web.StreamResponse
            if not self._is_ours(name):
                response = self._refusal(request, 421, "web.other_host", host=name[:80])
            else:
                response = await handler(request)
        except web.HTTPException as error:
            response = self._refusal(request, 405 if error.status == 405 else 404,
                                     "web.no_method" if error.status == 405 else "web.no_page")
            response.headers.update({name: value for name, value in error.headers.items() if name == "Allow"})
        except _BusyError:
            response = self._refusal(request, 503, "web.busy")
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("%s %s", request.method, request.path)
            response = self._refusal(request, 500, "web.unexpected")
        response.headers.update(HEADERS)
        return response

    def _is_ours(self, name: str) -> bool:
        """Return whether a browser may call us so: a name that somebody else's DNS gives to this address may not.

        An IP address cannot be bound to another one, so any will do; a tunnel may have brought the request here.
        """
        if name == "localhost" or name in self._where.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _asked(self, request: web.Request) -> Asked:
        lang = "en" if request.query.get("lang") == "en" else "zh"
        return Asked(path=request.path, query=dict(request.query), say=self._voices[lang])

    def _refusal(self, request: web.Request, status: int, code: str, **args: object) -> web.Response:
        asked = self._asked(request)
        return _html(pages.error(status, told(asked.say, code, args), asked), status)

    async def _in_thread(self, work: Callable[..., Result], *args: Any) -> Result:
        if self._waiting >= WAITING_MAX:
            raise _BusyError
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)
        finally:
            self._waiting -= 1

    async def _indexed(self, facts: Facts) -> Index:
        """Return the index of the roster in force, made anew when another one is."""
        index = self._index
        if index is None or index.roster is not facts.roster or index.config is not facts.config:
            index = self._index = await self._in_thread(make_index, facts.config, facts.roster)
        return index

    def _page(self, renderer: pages.Renderer) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            facts = self._facts()
            index = await self._indexed(facts)
            return _html(await self._in_thread(renderer, facts, index, self._asked(request)))

        return handle

    async def _device(self, request: web.Request) -> web.Response:
        facts = self._facts()
        index = await self._indexed(facts)
        line = index.by_id.get(request.match_info["id"])
        if line is None:
            raise web.HTTPNotFound
        cells = self._live.cells(line.points)
        return _html(await self._in_thread(pages.device, facts, index, self._asked(request), line, cells))

    async def _planned(self, request: web.Request) -> web.Response:
        facts, asked = self._facts(), self._asked(request)
        if self._plan is None or self._plan[0] is not facts.config:
            self._plan = await self._in_thread(_plan_of, facts.config)
        _, rows, error = self._plan
        problem = None
        if error is not None:
            first = error.problems[0]
            text = told(asked.say, first.code, {"where": first.where, **dict(first.args)})
            problem = Told(f"{first.where}: {text.text}", text.cause, text.fix)
        return _html(await self._in_thread(pages.plan, facts, asked, rows, problem))

    async def _static(self, request: web.Request) -> web.Response:
        name, kind = STATIC[request.path]
        return web.Response(text=_file(name), content_type=kind, charset="utf-8")

    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def _ready(self, _: web.Request) -> web.Response:
        ready = pages.is_ready(self._facts())
        return web.Response(text="ready\n" if ready else "no window was sealed in time\n", status=200 if ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        facts = self._facts()
        index = await self._indexed(facts)
        text = await self._in_thread(lambda: metrics(facts, index, is_ready=pages.is_ready(facts)))
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


class _BusyError(Exception):
    """More requests wait than one thread answers soon."""


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it at once."""
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def host_of(header: str) -> str:
    """Return the host of a Host header in lower case, without port, brackets and a final dot."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")


def _plan_of(config: GatewayConfig) -> tuple[GatewayConfig, Sequence[Mapping[str, Any]], TallystickError | None]:
    try:
        return config, planned(config), None
    except TallystickError as error:
        return config, [], error


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")


@cache
def _file(name: str) -> str:
    return files("gateway.web").joinpath("static", name).read_text(encoding="utf-8")


def _is_ours(record: logging.LogRecord) -> bool:
    """Return whether a record is about us: that a stranger sent what is no HTTP is no error of this gateway."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError | ConnectionError)
