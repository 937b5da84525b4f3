"""Row H1: evidence taken in by the real platform, durable before the answer, beside servers that do less.

Requests of 4 KB: one window of a gateway with 100 devices and 5000 points, its checkpoint signed. 32 gateways, each
over a connection of its own, send the next window when the last one was answered. CPU of the server's process, threads
and all; all servers run on the same event loop.

Four figures. The first two are of the platform as it is: it checks shape, order, columns, hashes and the signature of
each window; the peers look at nothing. So they say what checking costs besides being durable, and no server that
checks a signature can reach the targets: bare aiohttp with one signature check and nothing else, which is measured
beside them, stands in the notes with the best figure that is possible. The targets come from a prototype that did not
check either (aiohttp, one table, group commit). What they mean, how much being durable costs, is the other two: the
same requests through the platform's own store and writer behind bare aiohttp, unchecked.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.harness import (
    HERE,
    PYTHON,
    READY_S,
    REPEATS,
    Command,
    Reading,
    Row,
    cores,
    cpu_of,
    on_core,
    ratio,
    told,
    versions,
)
from gateway.sealing.link import pieces
from protocols.evidence.keys import public_bytes
from tests.support.scripted_gateway import USCC, ScriptedGateway, bits

GATEWAYS, DEVICES, POINTS_EACH = 32, 100, 50
WINDOWS = 20
"""Requests of each gateway in a repeat."""
SERVER = HERE / "intake_server.py"
TOKEN_VALID_S = 3600


@dataclass(slots=True)
class Load:
    """What one gateway sends: ready requests, in order."""

    path: str
    waiting: list[bytes] = field(default_factory=list)

    def add(self, body: Any) -> int:
        """Add a request; return the bytes of its body."""
        data = b"".join(pieces(body))
        self.waiting.append(f"POST {self.path} HTTP/1.1\r\nHost: platform\r\nContent-Type: application/json\r\n"
                            f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return len(data)


class Sender(asyncio.Protocol):
    """One connection: sends a request when the one before it is answered. Ends at the first refusal."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests = iter(requests)
        self._heard = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def itself(self) -> Sender:
        """Return the sender: what makes the protocol of its connection."""
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            self.done.set_result(None)
        else:
            self._transport.write(request)  # type: ignore[attr-defined]  # a TCP transport can be written to

    def data_received(self, data: bytes) -> None:
        self._heard += data
        head, gap, body = self._heard.partition(b"\r\n\r\n")
        if not gap:
            return
        fields = head.lower()
        length = int(fields.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        self._heard = b""
        if not head.startswith(b"HTTP/1.1 20"):
            self.done.set_exception(RuntimeError(f"refused: {head[:40]!r} {body[:400]!r}"))
            self._transport.close()
            return
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or RuntimeError("the server closed the connection"))


async def send(port: int, batches: Sequence[Sequence[bytes]]) -> None:
    """Send the requests of all gateways at once."""
    loop = asyncio.get_running_loop()
    senders = [Sender(requests) for requests in batches]
    for sender in senders:
        await loop.create_connection(partial(Sender.itself, sender), "127.0.0.1", port)
    await asyncio.gather(*(sender.done for sender in senders))


def run(work: Any) -> None:
    """Run the side that sends, on uvloop where there is one: it shall not be the limit."""
    if importlib.util.find_spec("uvloop"):
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)


async def enrolled(file: Path) -> list[ScriptedGateway]:
    """Enrol the gateways at the platform of a configuration that does not run yet; return them, with a first roster."""
    from config.platform import load_platform
    from verifier.platform.enrolment import new_token
    from verifier.platform.service import Service

    service = Service(load_platform(file), clock_s=lambda: int(time.time()))
    gateways = []
    try:
        for number in range(GATEWAYS):
            gateway = ScriptedGateway(name=f"bench {number}")
            token = await service.store.write(lambda connection: new_token(
                connection, enterprise=USCC, site=None, expires_s=int(time.time()) + TOKEN_VALID_S))
            answer = await service.enrol(gateway.enrol_request(token))
            gateway.begin(answer["certificate"], devices=DEVICES, points_each=POINTS_EACH)
            gateways.append(gateway)
    finally:
        service.close()
    return gateways


def prepared(folder: Path) -> tuple[list[Load], int]:
    """Make a platform with gateways below `folder`, and all that they will send; return the bytes of a request too.

    The first request of a gateway has its enrolment, start and roster.
    """
    subprocess.run([PYTHON, "-m", "tallystick", "platform", "init", folder, "--listen", "127.0.0.1:0"], cwd=ROOT,
                   check=True, stdout=subprocess.DEVNULL)
    file = folder / "platform.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("requests_per_s = 20.0", "requests_per_s = 100000.0")
                    .replace("requests_burst = 200", "requests_burst = 1000000"), encoding="utf-8")
    loads, size, keys = [], 0, dict[str, str]()
    every = bits(*range(DEVICES * POINTS_EACH))
    for gateway in asyncio.run(enrolled(file)):
        keys[gateway.id] = public_bytes(gateway.key).hex()
        load = Load(f"/v1/gateways/{gateway.id}/entries")
        load.add(gateway.batch())
        for number in range((REPEATS + 1) * WINDOWS):
            first = len(gateway.entries)
            gateway.window(producing=every & ~bits(number % 97), changing=every // 3 & ~bits(number % 97))
            size = load.add(gateway.batch(first, rosters=[]))
        loads.append(load)
    (folder / "keys.json").write_text(json.dumps(keys), encoding="utf-8")
    return loads, size


@contextlib.contextmanager
def listening(command: Command, *, core: int | None = None) -> Iterator[tuple[int, int]]:
    """Run a server, on the core of processes under test unless told; give its process id and its port."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors,
                                   text=True, preexec_fn=on_core(cores()[1] if core is None else core))
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if not line:
                errors.seek(0)
                raise RuntimeError(f"the server ended: {errors.read()[-2000:]}")
            yield process.pid, int(line if line.isdigit() else json.loads(line)["url"].rpartition(":")[2])
        finally:
            process.terminate()
            try:
                process.wait(READY_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()  # type: ignore[union-attr]  # it is a pipe


def measured(folder: Path) -> tuple[dict[str, list[Reading]], int]:
    """Run all servers, each in its turn in every repeat."""
    loads, size = prepared(folder / "platform")
    shutil.copytree(folder / "platform", folder / "single")
    shutil.copytree(folder / "platform", folder / "stored")
    (folder / "bodies").mkdir()
    commands: dict[str, Command] = {
        "platform": [PYTHON, "-m", "tallystick", "platform", folder / "platform" / "platform.toml"],
        "bare aiohttp": [PYTHON, SERVER, "bare", folder / "bodies"],
        "aiohttp, one signature checked": [PYTHON, SERVER, "signed", folder / "platform"],
        "the platform's store, unchecked": [PYTHON, SERVER, "stored", folder / "stored"],
        "aiohttp, commit per request": [PYTHON, SERVER, "commit", folder / "bodies"],
        "platform, commit per request": [PYTHON, SERVER, "single", folder / "single"]}
    found: dict[str, list[Reading]] = {name: [] for name in commands}
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(listening(command)) for name, command in commands.items()}
        at = 0
        for repeat in range(-1, REPEATS):  # the first one warms up, and has the rosters
            end = at + WINDOWS + (repeat < 0)
            for name, (pid, port) in servers.items():
                batches = [load.waiting[at:end] for load in loads]
                before_s, began_s = cpu_of(pid), time.perf_counter()
                run(send(port, batches))
                if repeat >= 0:
                    found[name].append(Reading(items=sum(map(len, batches)), cpu_s=cpu_of(pid) - before_s,
                                               wall_s=time.perf_counter() - began_s))
            at = end
    return found, size


def rows(wanted: Collection[str]) -> Iterator[Row]:
    """Measure."""
    with tempfile.TemporaryDirectory() as name:
        runs, size = measured(Path(name))
    notes = {name: f"{told(readings, unit='us a request')}, "
                   f"{sum(r.items for r in readings) / sum(r.wall_s for r in readings):.0f} requests/s"
             for name, readings in runs.items()}
    ours, stored, bare = runs["platform"], runs["the platform's store, unchecked"], runs["bare aiohttp"]
    signed, commit = runs["aiohttp, one signature checked"], runs["aiohttp, commit per request"]
    best = ratio(bare, signed, target=0.5, peer="")
    notes["the first figure of a server that only checks a signature"] = f"{best.value:.2f} x"
    alone = "the store alone, nothing checked"
    loops = ("uvloop",) if importlib.util.find_spec("uvloop") else ()
    yield Row(id="H1", versions=versions("aiohttp", "cryptography", *loops), measures=(
        ratio(bare, ours, target=0.5, peer="bare aiohttp, body read and dropped"),
        ratio(commit, ours, target=4, peer="aiohttp, a commit per request, unchecked"),
        ratio(bare, stored, target=0.5, peer=f"bare aiohttp; {alone}"),
        ratio(commit, stored, target=4, peer=f"aiohttp, a commit per request; {alone}")),
        notes={"bytes of a request": str(size), **notes})


if __name__ == "__main__":
    for row in rows(("H1",)):
        print(row)
