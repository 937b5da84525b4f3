"""A gateway as a process of its own, devices for it to read, and what its log says, for tests across processes.

    files = write_gateway(tmp_path, devices=[...], points=[...], connections="...")
    tallystick("enrol", files.config, "--self")
    with running_gateway(files) as gateway:
        gateway.until(lambda s: s["devices"]["counted"] == 1, "the device counts")
"""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import socketserver
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from protocols.evidence import keys, note, tiles
from tests.support.endings import at_the_end
from tests.support.platform_process import END_S, START_S, tallystick
from tests.support.warm import BEAT, BEAT_S, warm

USCC = "91320594MAEXAMPLEB"
POLL_S = 0.05
DEVICE_COLUMNS = ("id", "name", "maker", "model", "serial", "asset", "class", "industry", "uscc", "region", "thing",
                  "deployment", "energy", "parent", "connection")
POINT_COLUMNS = ("device", "id", "address", "type", "role", "order", "scale", "offset")


_STILL: list[tuple[float, float]] = []
"""When a gateway that ran here was held up as a whole: from, until."""


def free_port() -> int:
    """Return a port of loopback that is nobody else's while the tests of this process run: see `keep_port`."""
    return keep_port(0)


def keep_port(port: int) -> int:
    """Have a port, 0 for any, kept by a socket that does not listen: who connects is refused, and no other program is
    given it. Whoever binds it by its number with SO_REUSEADDR, as servers do, may listen there."""
    kept = socket.socket()
    at_the_end(kept.close)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", port))
    return int(kept.getsockname()[1])


def until(condition: Callable[[], object], what: str, *, deadline_s: float = START_S) -> None:
    """Poll until the condition holds; fail with `what` after the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:.0f} s: {what}"
        time.sleep(POLL_S)


@dataclass(frozen=True)
class GatewayFiles:
    """Where a gateway's files are. state: its state folder."""

    config: Path

    @property
    def state(self) -> Path:
        return self.config.parent / "state"

    @property
    def log(self) -> Path:
        return self.config.parent / "gateway.log"

    @property
    def id(self) -> str:
        """Return the gateway's id, as its certificate has it."""
        return keys.gateway_id(self._public)

    @property
    def vkey(self) -> str:
        """Return what a policy lists for a plant without a platform."""
        return str(note.VerifierKey(keys.gateway_origin(self.id), note.ED25519, self._public))

    @property
    def _public(self) -> bytes:
        body = json.loads((self.state / "enrolment.json").read_text(encoding="utf-8"))
        return bytes.fromhex(body["certificate"]["gateway_key"])

    def edit(self, old: str, new: str) -> None:
        """Replace text in the configuration."""
        text = self.config.read_text(encoding="utf-8")
        assert old in text
        self.config.write_text(text.replace(old, new), encoding="utf-8")


def device(id_: str, connection: str, **changes: str) -> dict[str, str]:
    """Return a ledger row of a machine of its own."""
    return {"id": id_, "name": f"machine {id_}", "maker": "示例机床厂", "model": "VMC-850", "serial": f"SN-{id_}",
            "asset": f"A-{id_}", "class": "machine_tools", "industry": "3421", "uscc": USCC, "region": "320594",
            "thing": "equipment", "deployment": "public", "energy": "yes", "connection": connection} | changes


def point(device_id: str, id_: str, address: str, type_: str = "", role: str = "parameter") -> dict[str, str]:
    """Return a ledger row of a point."""
    return {"device": device_id, "id": id_, "address": address, "type": type_, "role": role}


def write_gateway(folder: Path, *, devices: Sequence[Mapping[str, str]], points: Sequence[Mapping[str, str]],
                  connections: str, more: str = "", len_s: int = 1, grace_ms: int = 300) -> GatewayFiles:
    """Write the three files of a gateway and make its keys; `more`: further tables, as [platform]."""
    folder.mkdir(parents=True, exist_ok=True)
    tallystick("init", folder, "--uscc", USCC)
    for name, columns, rows in (("devices", DEVICE_COLUMNS, devices), ("points", POINT_COLUMNS, points)):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
    config = folder / "gateway.toml"
    config.write_text(
        f'[gateway]\nsite = "test"\nuscc = "{USCC}"\nledger_date = 2026-11-01\n'
        f"[window]\nlen_s = {len_s}\ngrace_ms = {grace_ms}\n{more}\n{connections}", encoding="utf-8")
    return GatewayFiles(config)


def modbus_connection(name: str, port: int, *, poll_s: float = 0.2, timeout_s: float = 10.0) -> str:
    """Return a [[connections]] table. A device here answers at once, or as soon as its machine lets it."""
    return (f'[[connections]]\nname = "{name}"\nprotocol = "modbus_tcp"\nendpoint = "tcp://127.0.0.1:{port}"\n'
            f"poll_s = {poll_s}\ntimeout_s = {timeout_s}\n")


class GatewayProcess:
    """A running gateway. Its standard error goes to a log beside its configuration."""

    def __init__(self, files: GatewayFiles) -> None:
        self.files = files
        self._from = files.log.stat().st_size if files.log.exists() else 0
        beats, writing = os.pipe()
        os.set_blocking(beats, False)  # whoever else may hold its other end: all is there that is read
        self._beats = os.fdopen(beats, "rb", buffering=0)
        with files.log.open("ab") as errors, os.fdopen(writing, "wb"):
            self.process = warm().start(["run", files.config], out=None, err=errors.fileno(), beats=writing)

    def said(self) -> str:
        """Return what this process wrote to standard error."""
        return self.files.log.read_bytes()[self._from:].decode(errors="replace")  # it may be in the middle of a letter

    def status(self) -> dict[str, Any] | None:
        """Return status.json if this process wrote one already."""
        try:
            body: dict[str, Any] = json.loads((self.files.state / "status.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return body

    def codes(self) -> list[str]:
        """Return the codes of the events so far."""
        return [event["code"] for event in (self.status() or {"events": []})["events"]]

    def until(self, look: Callable[[dict[str, Any]], object], what: str, *, deadline_s: float = START_S) -> None:
        """Wait until the status is as wanted, as long as the process lives."""
        def there() -> bool:
            assert self.process.poll() is None, f"the gateway ended: {self.said()}"
            status = self.status()
            return status is not None and bool(look(status))
        until(there, f"{what}; {self.said()[-2000:]}", deadline_s=deadline_s)

    def windows(self, more: int) -> None:
        """Wait until `more` further windows are sealed."""
        size = (self.status() or {"log": {"size": 0}})["log"]["size"]
        self.until(lambda status: status["log"]["size"] >= size + more, f"{more} more windows")

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(END_S)
        if not self._beats.closed:
            with self._beats:
                at = [second for second, in BEAT.iter_unpack(self._beats.read() or b"")]
            _STILL.extend((a, b) for a, b in pairwise(at) if b - a > 3 * BEAT_S)

    def end(self) -> int:
        """Ask it to end; return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(END_S)
        finally:
            self.kill()


@contextmanager
def running_gateway(files: GatewayFiles) -> Iterator[GatewayProcess]:
    """Run a gateway for the length of a block."""
    gateway = GatewayProcess(files)
    try:
        yield gateway
    finally:
        gateway.kill()


def export(files: GatewayFiles, out: Path) -> Path:
    """Write a bundle of everything."""
    tallystick("bundle", files.config, "-o", out)
    return out


def entries_of(bundle: Path) -> list[dict[str, Any]]:
    """Return every entry of a bundle, in order, read from its tiles."""
    found: dict[int, dict[str, Any]] = {}
    with zipfile.ZipFile(bundle) as archive:
        for name in archive.namelist():
            tile = tiles.parse_path(name)
            if tile is not None and tile.level is None:
                for index, data in enumerate(tiles.split_entries(archive.read(name), tile, where=name)):
                    found[tile.number * tiles.WIDTH + index] = json.loads(data)
    assert sorted(found) == list(range(len(found))), "an entry is missing"
    return [found[seq] for seq in sorted(found)]


def own_policy(files: GatewayFiles, folder: Path) -> Path:
    """Write the policy of a checker who knows this gateway's key from elsewhere."""
    path = folder / "policy.json"
    path.write_text(json.dumps({"gateways": [files.vkey]}), encoding="utf-8")
    return path


def verdict(bundle: Path, policy: Path) -> dict[str, Any]:
    """Return what `verify --json` says; its exit status must agree with it."""
    done = tallystick("verify", bundle, "--policy", policy, "--json", check=False)
    body: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if body["verdict"] == "valid" else 1), done.stderr
    return body


def covered_once(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Check that windows and outages follow each other without gap or overlap; return the outages.

    Left out are those of a machine with much else to do: a gateway that began, and whose first window was over before
    it could look at it; and one that was held up as a whole. One that waits for somebody else is not held up so.
    """
    spans = [(e["start_s"], e["end_s"] if e["type"] == "outage" else e["start_s"] + e["len_s"])
             for e in entries if e["type"] in ("window", "outage")]
    for (_, end), (start, _) in pairwise(spans):
        assert start == end, f"{end} is followed by {start}"
    starts = [e["start_s"] for e in entries if e["type"] == "window"]
    assert len(starts) == len(set(starts)), "a window is there twice"
    outages: list[dict[str, Any]] = []
    begins = False  # since the last window
    for at, e in enumerate(entries):
        begins = e["type"] == "start" or (begins and e["type"] != "window")
        if e["type"] != "outage":
            continue
        idle = e["reason"] == "off" and e["missing"]["samples"] == 0
        follows = begins and any(before["type"] == "outage" for before in entries[_start_before(entries, at):at])
        if not (idle and (follows if begins else stood_still(e["start_s"], e["end_s"]))):
            outages.append(dict(e))
    return outages


def _start_before(entries: Sequence[Mapping[str, Any]], at: int) -> int:
    return next(number for number in range(at, -1, -1) if entries[number]["type"] == "start")


def stood_still(start_s: float, end_s: float) -> bool:
    """Return whether a gateway that ran here got nowhere for most of that time, with any of its threads."""
    return sum(max(0.0, min(b, end_s) - max(a, start_s)) for a, b in _STILL) > (end_s - start_s) / 2


class ModbusDevice:
    """A Modbus TCP device in a thread: every register is a number that rises with every request, for any unit.

    silent_units: units behind it that never answer. asked_s: the seconds in which it was asked for something.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.asked_s: set[int] = set()
        self.connections = 0
        self.silent_units: set[int] = set()
        device = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                device.connections += 1
                while (head := _exactly(self.request, 7)) and (pdu := _exactly(self.request, head[5] - 1)):
                    device.requests += 1
                    device.asked_s.add(int(time.time()))
                    if head[6] in device.silent_units:
                        continue
                    if pdu[0] <= 4:
                        count = struct.unpack(">H", pdu[3:5])[0]
                        if pdu[0] in (3, 4):
                            body = bytes([2 * count]) + struct.pack(">H", device.requests % 60_000) * count
                        else:
                            body = bytes([-(-count // 8)]) + bytes([255 * (device.requests % 2)]) * -(-count // 8)
                        answer = bytes([pdu[0]]) + body
                    else:  # such as asking for its identification, whose request is shorter
                        answer = bytes([pdu[0] | 0x80, 1])
                    self.request.sendall(head[:4] + struct.pack(">H", len(answer) + 1) + head[6:7] + answer)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _exactly(connection: socket.socket, size: int) -> bytes:
    """Return `size` bytes, or nothing when the other side is gone."""
    data = b""
    while len(data) < size:
        try:
            more = connection.recv(size - len(data))
        except OSError:
            return b""
        if not more:
            return b""
        data += more
    return data


@contextmanager
def modbus_device() -> Iterator[ModbusDevice]:
    """Run a Modbus device for the length of a block."""
    device = ModbusDevice()
    try:
        yield device
    finally:
        device.close()


def processes_that_name(text: str) -> list[str]:
    """Return the command lines of all processes that name `text`, but ours."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended while we looked
            continue
        if text in line:
            found.append(f"{entry.parent.name}: {line}")
    return found
