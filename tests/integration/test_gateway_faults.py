"""A gateway process among things that fail: its own end, its platform, its telemetry server, its neighbours."""

from __future__ import annotations

import asyncio
import json
import math
import random
import resource
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.sealing.link import ANSWER_S
from tests.support.platform_process import Running, platform_file, set_up, start_platform, tallystick, token
from tests.support.processes import (
    USCC,
    GatewayFiles,
    GatewayProcess,
    covered_once,
    device,
    entries_of,
    export,
    free_port,
    modbus_connection,
    modbus_device,
    own_policy,
    point,
    running_gateway,
    stood_still,
    until,
    verdict,
    write_gateway,
)
from tests.unit.protocols.opcua.bench import serving

GRACE_MS = 300
KILLS = 3


def small_gateway(folder: Path, port: int, *, more: str = "") -> GatewayFiles:
    """Two machines behind one Modbus device, windows of a second."""
    return write_gateway(
        folder, devices=[device("a", "line"), device("b", "line")],
        points=[point("a", "x", "1/holding/0", "uint16"), point("b", "on", "2/coil/0", "bool", "switch")],
        connections=modbus_connection("line", port), more=more, grace_ms=GRACE_MS)


def counts(gateway: GatewayProcess, devices: int) -> None:
    gateway.until(lambda status: status["devices"]["counted"] == devices, f"{devices} devices count")


# Its own end.

def test_kill_9_while_it_seals(tmp_path: Path) -> None:
    """Kills in the tenth of a second in which a window is sealed; then a clean stop, and one more start."""
    rng = random.Random(11)
    with modbus_device() as line:
        files = small_gateway(tmp_path / "gateway", line.port)
        tallystick("enrol", files.config, "--self")
        sizes = [0]
        for _ in range(KILLS):
            (files.state / "status.json").unlink(missing_ok=True)
            with running_gateway(files) as gateway:
                gateway.until(lambda status: status["log"]["size"] > sizes[-1], "a window is sealed")
                now = time.time()
                time.sleep(1 - now % 1 + GRACE_MS / 1000 + rng.uniform(0, 0.15))
                gateway.kill()
                status = gateway.status()
                assert status is not None and status["log"]["size"] > sizes[-1], "what is told as sealed grows"
                sizes.append(status["log"]["size"])
        for _ in range(2):
            (files.state / "status.json").unlink(missing_ok=True)
            with running_gateway(files) as gateway:
                counts(gateway, 2)
                assert gateway.end() == 0
            assert "Traceback" not in gateway.said()
        bundle = export(files, tmp_path / "x.tally")
    assert verdict(bundle, own_policy(files, tmp_path))["verdict"] == "valid"
    entries = entries_of(bundle)
    assert [e["reason"] for e in covered_once(entries)] == ["crash"] * KILLS + ["off"]
    assert len([e for e in entries if e["type"] == "start"]) == KILLS + 2
    told = [e["seq"] for e in entries if e["type"] == "window"]
    assert all(any(seq == size - 1 for seq in told) for size in sizes[1:]), "what was told sealed is in the log"


# Its disk.

def test_a_full_disk_stops_neither_counting_nor_the_process_and_is_on_record(tmp_path: Path) -> None:
    """No file may grow for some windows, whatever writes it: the log, the status, the log of messages."""
    with modbus_device() as line:
        files = small_gateway(tmp_path / "gateway", line.port)
        tallystick("enrol", files.config, "--self")
        with running_gateway(files) as gateway:
            counts(gateway, 2)
            whole = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (1, whole[1]))
            limited_s, asked = time.time(), line.requests
            # Seen at work in four more seconds, it has come by the ends of some windows, and none could be written.
            until(lambda: line.requests > asked + 10 and len([s for s in line.asked_s if s > limited_s]) >= 4,
                  "devices are read on")
            assert gateway.process.poll() is None, gateway.said()
            last = gateway.status()
            assert last is not None
            assert last["window"]["start_s"] + 1 + GRACE_MS / 1000 <= limited_s, "nothing could be written since"
            resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, whole)
            gateway.until(lambda status: {"sealing.disk_error", "sealing.disk_full"} & {
                event["code"] for event in status["events"]}, "the full disk is told")
            gateway.windows(2)
            assert gateway.end() == 0
        bundle = export(files, tmp_path / "x.tally")
    assert verdict(bundle, own_policy(files, tmp_path))["verdict"] == "valid"
    outage, = covered_once(entries_of(bundle))
    # It has the reason of the first window that is missing, which may be one that the gateway was held up in.
    assert outage["reason"] == "disk_full" or stood_still(outage["start_s"], outage["start_s"] + 1), outage
    assert outage["missing"]["windows"] >= 2
    assert outage["missing"]["samples"] >= 2 * 2, "what was received for them is told"


# Its platform.

class Line(ThreadingHTTPServer):
    """An HTTP line to a platform that misbehaves as `mode` says; remembers every request with the mode of its time.

    pass; refuse: sizes are answered, submissions get 500; cut: requests take effect, of the answer half arrives;
    hang: nothing is ever answered.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        self.mode = "pass"
        self.seen: list[tuple[str, str]] = []
        self.released = threading.Event()
        line = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                line.seen.append((line.mode, f"{self.command} {self.path.rpartition('/')[2]}"))
                mode = line.mode
                if mode == "hang":
                    line.released.wait()
                    return
                status, answer = (500, b"<html>") if mode == "refuse" and self.command == "POST" else \
                    line.ask(target, self.command, self.path, body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer[: len(answer) // 2] if mode == "cut" else answer)
                self.close_connection = mode == "cut"

            do_POST = do_GET  # noqa: N815  # the name that http.server looks for

            def log_message(self, format: str, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def requests(self, mode: str, what: str = "") -> list[str]:
        """Return what was asked for in a mode."""
        return [request for at, request in self.seen if at == mode and what in request]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up waiting is what some tests are about."""

    @staticmethod
    def ask(target: str, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        parts = urlsplit(target)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, HTTPException):
            return 502, b""
        finally:
            connection.close()


@contextmanager
def line_to(target: str) -> Iterator[Line]:
    line = Line(target)
    thread = threading.Thread(target=line.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield line
    finally:
        line.released.set()
        line.shutdown()
        line.server_close()


@contextmanager
def services(folder: Path) -> Iterator[list[Running]]:
    """A witness and a platform; the platform is the last of the list, and a test may put another in its place."""
    running = set_up(folder)
    try:
        running.append(start_platform(folder))
        yield running
    finally:
        for service in running:
            service.kill()


def fetch(url: str, path: str) -> Any:
    with urllib.request.urlopen(url + path, timeout=10) as answer:
        return json.loads(answer.read())


def held_by(url: str, gateway: str) -> list[dict[str, Any]]:
    """Return every entry that a platform has of a gateway."""
    entries: list[dict[str, Any]] = []
    while len(entries) < fetch(url, f"/v1/gateways/{gateway}/size")["size"]:
        entries += map(json.loads, fetch(url, f"/v1/gateways/{gateway}/entries?first={len(entries)}")["entries"])
    return entries


def is_sent(status: dict[str, Any]) -> bool:
    """The platform has all but the newest windows."""
    return bool((status["log"]["submitted"] or 0) >= max(4, status["log"]["size"] - 2))


def is_lost(codes: list[str]) -> bool:
    """The newest event tells of a platform that does not answer as it should."""
    return codes[-1:] not in ([], ["sealing.platform_back"])


def test_a_platform_that_refuses_cuts_and_hangs_delays_everything_and_loses_nothing(tmp_path: Path) -> None:
    with modbus_device() as modbus, services(tmp_path) as running, line_to(running[-1].url) as line:
        files = small_gateway(tmp_path / "gateway", modbus.port,
                              more=f'[platform]\nurl = "{line.url}"\ntimeout_s = 1\n')
        tallystick("enrol", files.config, "--token", token(tmp_path, USCC))
        with running_gateway(files) as gateway:
            gateway.until(lambda status: (status["log"]["submitted"] or 0) > 2, "the first windows are submitted")
            first = gateway.status()
            line.mode, began_s = "refuse", time.monotonic()
            until(lambda: line.requests("refuse", "POST entries"), "a submission is refused")
            gateway.windows(1)
            gateway.until(lambda _: is_lost(gateway.codes()), "that is told")
            lost = gateway.codes()
            gateway.windows(3)
            tries, refused_s = len(line.requests("refuse", "POST entries")), time.monotonic() - began_s
            for mode in ("cut", "hang"):
                line.mode = mode
                gateway.windows(2)
            during, still_lost = gateway.status(), gateway.codes()
            line.mode = "pass"
            line.released.set()
            gateway.until(lambda status: is_sent(status) and not is_lost(gateway.codes()),
                          "all is submitted, and that it can be is told")
            codes = gateway.codes()
            assert gateway.end() == 0
        assert first is not None and during is not None
        assert during["log"]["size"] >= first["log"]["size"] + 8, "windows were sealed in all that time"
        # Waits of at least half a second, one, two, ... before the second try, the third, ...
        assert tries <= 1 + math.log2(2 * refused_s + 1), "the waits grow although the size is answered in between"
        # A second that it had to wait for this machine may have lost the platform before and after, and given it back.
        assert lost == still_lost, "told once in all that time"
        assert all(code.startswith("sealing.platform_") for code in codes), codes
        assert [code == "sealing.platform_back" for code in codes] == ([False, True] * len(codes))[: len(codes)], codes
        assert len(codes) > len(lost)
        bundle = export(files, tmp_path / "x.tally")
        mine = entries_of(bundle)
        theirs = held_by(running[-1].url, files.id)
        assert theirs == mine[: len(theirs)] and len(theirs) >= during["log"]["size"], "each exactly once, in order"
        assert covered_once(mine) == []
        tallystick("platform", "policy", platform_file(tmp_path), "-o", tmp_path / "policy.json")
        assert verdict(bundle, tmp_path / "policy.json")["summary"]["trust"] == "independent"


def test_it_can_be_stopped_while_it_waits_for_a_platform_that_hangs(tmp_path: Path) -> None:
    with deaf_server() as (port, taken), services(tmp_path) as running:
        files = small_gateway(tmp_path / "gateway", 1, more=f'[platform]\nurl = "{running[-1].url}"\n')
        tallystick("enrol", files.config, "--token", token(tmp_path, USCC))
        files.edit(running[-1].url, f"http://127.0.0.1:{port}")
        with running_gateway(files) as gateway:
            until(lambda: taken, "the platform is asked for its size")
            before = time.monotonic()
            assert gateway.end() == 0
            assert time.monotonic() - before < ANSWER_S / 2, "the stop does not wait for the answer"
        assert "Traceback" not in gateway.said() and "Unclosed" not in gateway.said(), gateway.said()


# Its replacement, and evidence that travels on foot.

def test_another_pc_takes_over_and_its_evidence_comes_by_usb(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("correct horse battery\n")
    secret = ("--passphrase-file", tmp_path / "words")
    with modbus_device() as modbus, services(tmp_path) as running:
        platform = running[-1]
        old = small_gateway(tmp_path / "old", modbus.port,
                            more=f'[platform]\nurl = "{platform.url}"\nregister_poll_s = 1.0\n')
        tallystick("enrol", old.config, "--token", token(tmp_path, USCC))
        tallystick("backup", old.config, "-o", tmp_path / "safe.backup", *secret)
        with running_gateway(old) as gateway:
            gateway.until(is_sent, "all is submitted")
            gateway.kill()  # the PC is gone

        made = tallystick("init", tmp_path / "new", "--restore", tmp_path / "safe.backup", *secret)
        assert f"--supersedes {old.id}" in made.stderr
        new = GatewayFiles(tmp_path / "new" / "gateway.toml")
        tallystick("enrol", new.config, "--token", token(tmp_path, USCC), "--supersedes", old.id)
        assert new.id != old.id
        with running_gateway(new) as gateway:
            counts(gateway, 2)
            gateway.until(lambda status: is_sent(status) and status["log"]["proven"], "all is submitted, and proven")
            sent = fetch(platform.url, f"/v1/gateways/{new.id}/size")["size"]
            platform.kill()  # the line to the platform is cut for good
            gateway.windows(3)
            assert gateway.end() == 0
        bundle = export(new, tmp_path / "usb.tally")
        done = tallystick("import", bundle, "--platform", platform_file(tmp_path))
        answer = json.loads(done.stdout)
        assert (answer["gateway"], answer["size"]) == (new.id, len(entries_of(bundle)))
        assert sent <= answer["before"] < answer["size"], "the platform lacked the tail"
        again = json.loads(tallystick("import", bundle, "--platform", platform_file(tmp_path)).stdout)
        assert again["before"] == again["size"] == answer["size"], "a stick may be put in twice"

        running[-1] = start_platform(tmp_path)
        assert held_by(running[-1].url, new.id) == entries_of(bundle)
        new.edit(platform.url, running[-1].url)
        with running_gateway(new) as gateway:
            gateway.until(is_sent, "it goes on behind what came on foot")
            assert gateway.end() == 0
        bundle = export(new, tmp_path / "new.tally")
        tallystick("platform", "policy", platform_file(tmp_path), "-o", tmp_path / "policy.json")
        found = verdict(bundle, tmp_path / "policy.json")
    assert (found["verdict"], found["summary"]["trust"]) == ("valid", "independent"), found
    assert found["summary"]["gateways"]["enrolled"] == 2, "the register lists both"
    entries = entries_of(bundle)
    assert entries[0]["certificate"]["supersedes"] == old.id
    assert [outage["reason"] for outage in covered_once(entries)] == ["off"]


# Its telemetry server and its neighbours.

@contextmanager
def deaf_server() -> Iterator[tuple[int, list[socket.socket]]]:
    """A server that takes every connection and never says a word."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def take() -> None:
            with suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])
        threading.Thread(target=take, daemon=True).start()
        try:
            yield listener.getsockname()[1], taken
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in taken:
                connection.close()


def unreachable(closed: Sequence[int], silent: int) -> str:
    """Return connections to ports where nobody listens, and where somebody does who says nothing: that must run out."""
    return (f'[[connections]]\nname = "no-ua"\nprotocol = "opc_ua"\nendpoint = "opc.tcp://127.0.0.1:{closed[0]}/x"\n'
            f'[[connections]]\nname = "no-mqtt"\nprotocol = "mqtt"\nendpoint = "mqtt://127.0.0.1:{closed[1]}"\n'
            f'[[connections]]\nname = "no-edge"\nprotocol = "sparkplug_b"\nendpoint = "mqtt://127.0.0.1:{silent}"\n'
            + modbus_connection("no-line", closed[2]) + modbus_connection("mute-line", silent, timeout_s=0.5))


async def test_a_hanging_telemetry_server_and_bad_neighbours_cost_the_others_nothing(tmp_path: Path) -> None:
    """Nobody listens, somebody listens and says nothing, a certificate nobody trusts, a unit that is not there."""
    opcua = free_port()
    with ExitStack() as stack:
        modbus = stack.enter_context(modbus_device())
        modbus.silent_units.add(99)
        deaf, taken = stack.enter_context(deaf_server())
        files = write_gateway(
            tmp_path / "gateway", grace_ms=GRACE_MS,
            devices=[device("a", "line"), device("b", "line"), device("absent", "line"), device("stranger", "ua"),
                     device("c", "no-ua"), device("d", "no-mqtt"), device("e", "no-edge"), device("f", "no-line"),
                     device("g", "mute-line")],
            points=[point("a", "x", "1/holding/0", "uint16"), point("b", "x", "2/input/0", "uint16"),
                    point("absent", "x", "99/holding/0", "uint16"), point("stranger", "x", "nsu=urn:x;s=x"),
                    point("c", "x", "nsu=urn:x;s=x"), point("d", "x", "hall/d#/x", "float64"),
                    point("e", "x", "g/n/e#x"), point("f", "x", "1/holding/0", "uint16"),
                    point("g", "x", "1/holding/0", "uint16")],
            connections=modbus_connection("line", modbus.port) + "[[connections.units]]\nids = [99]\ntimeout_s = 0.5\n"
            + unreachable([free_port() for _ in range(3)], deaf) +
            f'[[connections]]\nname = "ua"\nprotocol = "opc_ua"\nendpoint = "opc.tcp://127.0.0.1:{opcua}/test"\n',
            more=f'[influx]\nurl = "http://127.0.0.1:{deaf}"\nbucket = "b"\nqueue_samples = 1000\ntimeout_s = 60\n')
        tallystick("enrol", files.config, "--self")
        (tmp_path / "pki").mkdir()
        async with serving(opcua, tmp_path / "pki"):
            statuses = await asyncio.to_thread(collect_beside_bad_neighbours, files)
        assert taken, "the telemetry server was called, and never answered"
    assert len(statuses) <= 3 * WHOLE, [status["window"] for status in statuses]
    for status in statuses:
        window = status["window"]
        assert status["written_s"] - window["start_s"] <= 30, "nobody's timeout of 60 s is waited for"
        assert window["received"] == window["counted"] + sum(window["discarded"].values()), window
        assert status["devices"]["counted"] == 2
        assert {row["id"]: row["reason"] for row in status["devices"]["not_counted"]} == dict.fromkeys(
            ("absent", "stranger", "c", "d", "e", "f", "g"), "no_valid_data")
    assert covered_once(entries_of(export(files, tmp_path / "x.tally"))) == []


WHOLE = 4
TOLD = {"opcua.untrusted_certificate", "opcua.unreachable", "modbus.lost"}


def collect_beside_bad_neighbours(files: GatewayFiles) -> list[dict[str, Any]]:
    """Return the status of windows until some have samples of both who answer, and all others are told of.

    A machine with much else to do may have its device late in a window, but not in most of them. The stop must not wait
    for anybody who hangs.
    """
    statuses: list[dict[str, Any]] = []
    with running_gateway(files) as gateway:
        counts(gateway, 2)
        gateway.windows(2)
        while sum(status["window"]["counted"] >= 2 for status in statuses) < WHOLE:
            gateway.windows(1)
            status = gateway.status()
            assert status is not None
            statuses.append(status)
        gateway.until(lambda _: set(gateway.codes()) >= TOLD, f"all of {sorted(TOLD)} are told")
        before = time.monotonic()
        assert gateway.end() == 0
        assert time.monotonic() - before < ANSWER_S / 2, "the stop is bounded in time"
        assert "Traceback" not in gateway.said(), gateway.said()
    return statuses
