"""Peers of row H1, servers of submitted evidence: `intake_server.py bare|commit|single FOLDER`.

bare: aiohttp reads the body and answers 204. commit: the body is inserted and committed before the answer, one request
a transaction (SQLite, WAL, FULL, in a thread). single: the real platform, with FOLDER/platform.toml, whose writer
commits every request on its own. All but the last print their port; the platform prints its URL as ever.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

BODY_BYTES_MAX = 64 * 1024 * 1024


def application(folder: Path, *, commits: bool) -> web.Application:
    """Return the peer's application."""
    thread = ThreadPoolExecutor(1)
    database = sqlite3.connect(folder / "bodies.sqlite", check_same_thread=False, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE IF NOT EXISTS bodies (id INTEGER PRIMARY KEY, at_s REAL, body BLOB)")

    def keep(body: bytes) -> None:
        database.execute("INSERT INTO bodies (at_s, body) VALUES (?, ?)", (time.time(), body))

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        if commits:
            await asyncio.get_running_loop().run_in_executor(thread, keep, body)
        return web.Response(status=204)

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/v1/gateways/{gateway}/entries", take)
    return app


async def serve(folder: Path, *, commits: bool) -> None:
    """Serve until the end."""
    runner = web.AppRunner(application(folder, commits=commits), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=512).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=("bare", "commit", "single"))
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.mode == "single":
        from tallystick.__main__ import main as tallystick
        from verifier.platform import store

        store.GROUP_JOBS_MAX = 1
        sys.exit(tallystick(["platform", str(args.folder / "platform.toml")]))
    asyncio.run(serve(args.folder, commits=args.mode == "commit"))


if __name__ == "__main__":
    main()
