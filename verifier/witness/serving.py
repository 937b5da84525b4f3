"""Runs an aiohttp application until SIGTERM or Ctrl-C, and says on stdout, in one line of JSON, when it listens."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from config.listening import Listening
from protocols import system
from protocols.errors import ConfigError, Problem

log = logging.getLogger(__name__)

IDLE_TIMEOUT_S = 30.0
"""A connection without a request, or with half a head of one, is closed after this."""
SHUTDOWN_TIMEOUT_S = 5.0
HEAD_BYTES_MAX = 8190


def serve(make: Callable[[], web.Application], where: Listening, ready: Mapping[str, Any], *,
          local: tuple[Callable[[], web.Application], str] | None = None) -> None:
    """Listen and answer until told to end. `make` is called inside the loop; `ready` is printed with the URL.

    `local`: a second application, on a Unix socket that only this user may open.

    Raises: ConfigError when certificate or address cannot be used.
    """
    system.run(_serve(make, where, ready, local))


async def _serve(make: Callable[[], web.Application], where: Listening, ready: Mapping[str, Any],
                 local: tuple[Callable[[], web.Application], str] | None) -> None:
    stop = asyncio.Event()
    with system.stopping(stop.set):
        await _serve_until(stop, make, where, ready, local)


async def _serve_until(stop: asyncio.Event, make: Callable[[], web.Application], where: Listening,
                       ready: Mapping[str, Any], local: tuple[Callable[[], web.Application], str] | None) -> None:
    context = where.ssl_context()
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    runner = _runner(make())
    beside = _runner(local[0]()) if local else None
    await runner.setup()
    try:
        if beside is not None and local is not None:
            await beside.setup()
            await web.UnixSite(beside, local[1]).start()
            await asyncio.to_thread(Path(local[1]).chmod, 0o600)
        site = web.TCPSite(runner, where.host, where.port, ssl_context=context)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(Problem.of(f"{where.host}:{where.port}", "platform.config_bind",
                                         reason=error.strerror or error)) from error
        port = runner.addresses[0][1]
        print(json.dumps({"ready": True, "url": where.url(port), **ready}, ensure_ascii=False), flush=True)
        await stop.wait()
        log.info("asked to end")
    finally:
        if beside is not None:
            await beside.cleanup()
        await runner.cleanup()


def _is_ours(record: logging.LogRecord) -> bool:
    """Return whether a record is about us: that a stranger sent what is no HTTP is no error of this service."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError | ConnectionError)


def _runner(app: web.Application) -> web.AppRunner:
    return web.AppRunner(app, keepalive_timeout=IDLE_TIMEOUT_S, max_line_size=HEAD_BYTES_MAX,
                         max_field_size=HEAD_BYTES_MAX, access_log=None, handle_signals=False, auto_decompress=False,
                         shutdown_timeout=SHUTDOWN_TIMEOUT_S)
