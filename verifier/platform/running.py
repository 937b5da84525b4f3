"""The platform as it runs: the web application with the rounds of the register beside it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from protocols.terms.say import Say
from verifier.platform import web as site
from verifier.platform.rounds import Rounds
from verifier.platform.service import Service


def application(service: Service, say: Say) -> web.Application:
    """Return the application; the rounds run from its start to its end."""
    async def rounds(_: web.Application) -> AsyncIterator[None]:
        config = service.config
        task = asyncio.create_task(Rounds(
            service.store, service.register, service.trust.quorum, config.witnesses,
            interval_s=config.register_interval_s, timeout_s=config.limits.witness_timeout_s,
            clock_s=service.clock_s).run())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    app = site.application(service, say)
    app.cleanup_ctx.append(rounds)
    return app
