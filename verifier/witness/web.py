"""The HTTP side of a witness: two paths, limited bodies, one origin at a time."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable

from aiohttp import web

from protocols.errors import VerificationError
from verifier.witness.state import REQUEST_BYTES_MAX, Answer, Book, parse_request

log = logging.getLogger(__name__)

BODY_TIMEOUT_S = 20.0


def application(book: Book, *, prefix: str = "", clock_s: Callable[[], int] = lambda: int(time.time())
                ) -> web.Application:
    """Return the service. `clock_s`: POSIX time for cosignatures."""
    async def add_checkpoint(request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _body(request)
        except TimeoutError:
            return web.Response(status=408)
        try:
            parsed = parse_request(body)
        except VerificationError as error:
            return _respond(Answer(400, error.problems[0].code))
        answer = await asyncio.to_thread(book.add, parsed, time_s=clock_s())
        log.log(logging.DEBUG if answer.status == 200 else logging.WARNING, "%s %d: %s %d",
                parsed.head.origin, parsed.head.size, answer.code, answer.status)
        return _respond(answer)

    async def stored(request: web.Request) -> web.Response:
        digest = request.match_info["digest"]
        data = book.stored(digest) if re.fullmatch("[0-9a-f]{64}", digest) else None
        return web.Response(body=data, content_type="text/plain") if data else web.Response(status=404)

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application(client_max_size=REQUEST_BYTES_MAX)
    app.router.add_post(f"{prefix}/add-checkpoint", add_checkpoint)
    app.router.add_get(f"{prefix}/healthz", healthy)
    app.router.add_get(prefix + "/{digest}/checkpoint", stored)
    return app


async def _body(request: web.Request) -> bytes:
    """Read the body up to the limit; one byte more makes it malformed."""
    data = bytearray()
    async for chunk in request.content.iter_chunked(16_384):
        data += chunk
        if len(data) > REQUEST_BYTES_MAX:
            break
    return bytes(data)


def _respond(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body or f"{answer.code}\n".encode(),
                        headers={"Content-Type": answer.content_type})
