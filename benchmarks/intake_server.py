"""Peers of row H1, servers of submitted evidence: `intake_server.py bare|signed|commit|stored|single FOLDER`.

bare: aiohttp reads the body and answers 204. signed: it checks the signature of the checkpoint in the body and looks at
nothing else; the least that a server of evidence has to do. commit: the body is inserted and committed before the
answer, one request a transaction (SQLite, WAL, FULL, in a thread). stored: the body goes through the platform's own
store, durable before the answer and unchecked; FOLDER is that of a platform with enrolled gateways. single: the real
platform, with FOLDER/platform.toml, whose writer commits every request on its own.

All but the last print their port; the platform prints its URL as ever. All run on the event loop that the platform
takes, uvloop where it is installed: the ratio shall say what the platform does, not what a loop does.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from protocols import system

BODY_BYTES_MAX = 64 * 1024 * 1024

Take = Callable[[str, bytes], Awaitable[None]]
"""What a peer does with the body that a gateway sent."""


def dropping() -> Take:
    """Do nothing."""
    async def take(gateway: str, body: bytes) -> None:
        pass
    return take


def checking(folder: Path) -> Take:
    """Check the signature under the key in `keys.json`, in the event loop."""
    from protocols.evidence import keys, note

    public = {gateway: note.VerifierKey(keys.gateway_origin(gateway), note.ED25519, bytes.fromhex(key))
              for gateway, key in json.loads((folder / "keys.json").read_text()).items()}

    async def take(gateway: str, body: bytes) -> None:
        signed = note.parse(json.loads(body)["checkpoint"].encode(), where="checkpoint")
        note.require_signed(signed, public[gateway], where="checkpoint")
    return take


def committing(folder: Path) -> Take:
    """Insert and commit, in a thread."""
    thread = ThreadPoolExecutor(1)
    database = sqlite3.connect(folder / "bodies.sqlite", check_same_thread=False, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE IF NOT EXISTS bodies (id INTEGER PRIMARY KEY, at_s REAL, body BLOB)")

    def keep(body: bytes) -> None:
        database.execute("INSERT INTO bodies (at_s, body) VALUES (?, ?)", (time.time(), body))

    async def take(gateway: str, body: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(thread, keep, body)
    return take


def storing(folder: Path) -> Take:
    """Write what the platform writes of a window, the body in place of the entry, with its store and its groups."""
    from config.platform import load_platform
    from verifier.platform.store import Store
    from verifier.platform.together import Plain

    store = Store(load_platform(folder / "platform.toml").data_dir)
    sizes: dict[str, int] = {}

    def wrong(_: sqlite3.Connection) -> None:
        raise RuntimeError("the store holds another size")

    async def take(gateway: str, body: bytes) -> None:
        size = sizes.get(gateway, 0)
        await store.write(Plain(
            gateway=gateway, first=size, size=size + 1, root=hashlib.sha256(body).digest(), checkpoint=body[-260:],
            state="", window_seq=size, received_s=int(time.time()), entries=(body,), alone=wrong))
        sizes[gateway] = size + 1
    return take


async def serve(take: Take) -> None:
    """Serve until the end."""
    async def handler(request: web.Request) -> web.Response:
        await take(request.match_info["gateway"], await request.read())
        return web.Response(status=204)

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/v1/gateways/{gateway}/entries", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=512).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=("bare", "signed", "commit", "stored", "single"))
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.mode == "single":
        from tallystick.__main__ import main as tallystick
        from verifier.platform import store

        store.GROUP_JOBS_MAX = 1
        sys.exit(tallystick(["platform", str(args.folder / "platform.toml")]))
    takes: dict[str, Callable[[], Take]] = {
        "bare": dropping, "signed": lambda: checking(args.folder), "commit": lambda: committing(args.folder),
        "stored": lambda: storing(args.folder)}
    system.run(serve(takes[args.mode]()))


if __name__ == "__main__":
    main()
