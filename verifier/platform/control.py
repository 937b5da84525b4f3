"""What the operator's commands ask of a running platform, on a Unix socket in its data folder.

Whoever may open that folder may already do all of this; there is no other authentication.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import IO, Any

import aiohttp
from aiohttp import web

from protocols.errors import Problem, TallystickError, VerificationError
from verifier.platform.importer import import_bundle
from verifier.platform.refusal import RefusalError
from verifier.platform.service import Service

log = logging.getLogger(__name__)

IMPORT_BYTES_MAX = 1024**3
SOCKET = "control.sock"
SOCKET_PATH_MAX = 100
"""Longer names do not fit the address of a Unix socket; then it is reached through the folder's descriptor."""


def socket_path(folder: Path) -> str:
    """Return a path of the socket that fits its address."""
    path = str(folder / SOCKET)
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        return path
    return f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}/{SOCKET}"


def application(service: Service) -> web.Application:
    """Return the application on the socket: POST /import (a bundle), POST /revoke (gateway, key, from_size)."""
    async def importing(request: web.Request) -> dict[str, Any]:
        if (request.content_length or 0) > IMPORT_BYTES_MAX:
            raise RefusalError.of(413, "import", "platform.too_large", limit=IMPORT_BYTES_MAX)
        def part() -> IO[bytes]:
            return tempfile.NamedTemporaryFile(prefix="import-", suffix=".part", dir=service.config.data_dir)

        file = await asyncio.to_thread(part)
        try:
            received = 0
            async for chunk in request.content.iter_chunked(1 << 20):
                received += len(chunk)
                if received > IMPORT_BYTES_MAX:
                    raise RefusalError.of(413, "import", "platform.too_large", limit=IMPORT_BYTES_MAX)
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(file.flush)
            return await import_bundle(service, Path(file.name))
        finally:
            await asyncio.to_thread(file.close)  # which removes it

    async def revoking(request: web.Request) -> dict[str, Any]:
        body = await request.json()
        return await revoke(service, body["gateway"], body["gateway_key"], body["from_size"])

    app = web.Application(client_max_size=IMPORT_BYTES_MAX)
    app.router.add_post("/import", _answering(importing))
    app.router.add_post("/revoke", _answering(revoking))
    return app


async def revoke(service: Service, gateway: str, gateway_key: str | None, from_size: int) -> dict[str, Any]:
    """Revoke a key of a gateway (its newest by default) from an entry on, signed by the platform key."""
    key = gateway_key or await service.newest_key(gateway)
    index = await service.revoke(service.sign_revocation(gateway, key, from_size))
    return {"gateway": gateway, "gateway_key": key, "from_size": from_size, "index": index}


def _answering(work: Callable[[web.Request], Awaitable[dict[str, Any]]]
               ) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(request: web.Request) -> web.Response:
        try:
            return web.json_response(await work(request))
        except RefusalError as error:
            return _problems([error.problem], error.status)
        except TallystickError as error:
            return _problems(error.problems, 422)
    return handler


def _problems(problems: Sequence[Problem], status: int) -> web.Response:
    return web.json_response({"problems": [[p.where, p.code, [list(pair) for pair in p.args]] for p in problems]},
                             status=status)


async def ask(folder: Path, path: str, body: Any) -> dict[str, Any]:
    """Ask the platform that runs on `folder`. Raises VerificationError with the problems that it answers."""
    async with contextlib.AsyncExitStack() as stack:
        connector = aiohttp.UnixConnector(socket_path(folder))
        session = await stack.enter_async_context(aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None, connect=10)))
        response = await stack.enter_async_context(session.post(f"http://platform{path}", data=body))
        answer: dict[str, Any] = await response.json()
        if "problems" in answer:
            raise VerificationError([Problem(where, code, tuple((n, v) for n, v in args))
                                     for where, code, args in answer["problems"]])
        return answer
