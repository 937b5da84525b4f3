"""`run`, `status` and `bundle` as a user types them, with a verdict by the other half; and what they say when wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.commissioning import enrol
from gateway.commissioning.export import instant
from gateway.commissioning.state import State, write_json
from gateway.commissioning.status import STALE_SLACK_S, read_status
from protocols.errors import ConfigError, EvidenceError
from protocols.terms.basis import NOT_COUNTED_REASONS
from tallystick.__main__ import main
from tallystick.words.lookup import LANGUAGES, Words
from tests.support.processes import free_port
from tests.unit.gateway.commissioning.plants import device, point, write


@pytest.fixture
def machines() -> Iterator[int]:
    """A Modbus server whose registers count its requests; returns its port."""
    loop = asyncio.new_event_loop()
    started: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for number in range(65_536):
                head = await reader.readexactly(7)
                body = await reader.readexactly(int.from_bytes(head[4:6], "big") - 1)
                assert body[0] == 3, "a gateway reads"
                count = int.from_bytes(body[3:5], "big")
                reply = bytes([3, 2 * count]) + number.to_bytes(2, "big") * count
                writer.write(head[:4] + (len(reply) + 1).to_bytes(2, "big") + head[6:7] + reply)
        writer.close()

    async def life() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        started.append(server.sockets[0].getsockname()[1])
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve_forever()

    task = loop.create_task(life())
    thread = threading.Thread(target=lambda: loop.run_until_complete(task))
    thread.start()
    until(lambda: started, "the server listens")
    yield started[0]
    loop.call_soon_threadsafe(task.cancel)
    thread.join(60)
    loop.close()


def until(condition: Callable[[], object], what: str, deadline_s: float = 90.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)


def read_page(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return str(answer.read().decode())


def written(state: State) -> int:
    """Entries of the log as status.json tells them."""
    return int(json.loads(state.status_file.read_text())["log"]["size"]) if state.status_file.exists() else 0


def test_from_an_empty_folder_to_a_verdict(tmp_path: Path, machines: int, capsys: pytest.CaptureFixture[str]) -> None:
    line = f'[[connections]]\nname = "line"\nprotocol = "modbus_tcp"\nendpoint = "tcp://127.0.0.1:{machines}"\n' \
           "poll_s = 0.2\ntimeout_s = 20.0\n"
    file = write(tmp_path, [device("a", name="冲压机", serial="S1"), device("b", name="beat", serial="S2")],
                 [point("a", 0), "b,beat,2/holding/0,uint16,heartbeat,,,"],
                 head=f'\n[window]\nlen_s = 1\ngrace_ms = 200\n[web]\nlisten = "127.0.0.1:{(port := free_port())}"\n',
                 tail=line)
    state = State(tmp_path / "state")
    state.create_keys()
    assert main(["status", str(file)]) == 1
    assert main(["enrol", str(file), "--self"]) == 0

    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(90)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "tallystick", "run", str(file)], stderr=log, stdout=log,
                                   env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")})
    try:
        assert manager.recv(100) == b"READY=1"
        until(lambda: written(state) >= 7, (tmp_path / "log").read_text())
        capsys.readouterr()
        assert main(["status", str(file)]) == 0
        assert "1/2 counted, 1 not" in capsys.readouterr().out
        pages = {path: read_page(port, path)
                 for path in ("/", "/devices/a", "/devices/b", "/ready", "/record", "/plan")}
        assert "<strong>1</strong> / 2" in pages["/"] and state.gateway_id() in pages["/record"]
        assert re.search(r'class="value"><bdi>\d+</bdi>', pages["/devices/a"]), "a last value"
        assert "heartbeat" in pages["/devices/b"] and "只有心跳" in pages["/devices/b"] and "holding" in pages["/plan"]
        assert main(["bundle", str(file), "-o", str(tmp_path / "beside.tally")]) == 0  # beside the running gateway
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
        assert manager.recv(100) == b"STOPPING=1"
    finally:
        process.kill()
        process.wait()
        manager.close()
    assert "Traceback" not in (tmp_path / "log").read_text()

    capsys.readouterr()
    assert main(["status", str(file), "--lang", "zh"]) == 1  # fresh, but stopped
    shown = capsys.readouterr().out
    assert "没有运行" in shown and "计入 1/2 台" in shown and "只有心跳" in shown and "beat" in shown
    assert main(["status", str(file), "--json"]) == 1
    body = json.loads(capsys.readouterr().out)
    assert body["running"] is False and body["devices"]["counted"] == 1

    assert main(["bundle", str(file), "--open", "0", "-o", str(tmp_path / "open.tally")]) == 0
    certificate = (state.enrolment() or {})["certificate"]
    (tmp_path / "policy.json").write_text(json.dumps({"gateways": [enrol.verifier_key(certificate["gateway_key"])]}))
    for name in ("beside", "open"):
        capsys.readouterr()
        assert main(["verify", str(tmp_path / f"{name}.tally"), "--policy", str(tmp_path / "policy.json"),
                     "--json"]) == 0
        verdict = json.loads(capsys.readouterr().out)
        assert verdict["verdict"] == "valid" and verdict["summary"]["windows"]["shown"] >= 3
    assert "冲压机".encode() not in (tmp_path / "beside.tally").read_bytes()

    for wrong in (["--open", "7"], ["--open", "x"], ["--from", "yesterday"], ["--from", "2027", "--to", "2026"],
                  ["--from", "2026-11-02", "--to", "2026-11-01"]):
        assert main(["bundle", str(file), *wrong, "-o", str(tmp_path / "no.tally")]) == 2
    assert main(["bundle", str(file), "--to", "2001-01-01", "-o", str(tmp_path / "no.tally")]) == 1
    assert not (tmp_path / "no.tally").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_run_refuses_a_gateway_that_is_not_enrolled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, [device("a")], [point("a", 0)])
    State(tmp_path / "state").create_keys()
    assert main(["run", str(file)]) == 2
    assert "tallystick enrol gateway.toml" in capsys.readouterr().err


def test_bundle_before_the_first_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, [device("a")], [point("a", 0)])
    assert main(["bundle", str(file), "-o", str(tmp_path / "x.tally")]) == 2
    assert "no log yet" in capsys.readouterr().err


# status

def status_body(written_s: int, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"gateway": "ab" * 16, "site": "S", "uscc": "U", "written_s": written_s, "len_s": 60,
            "window": {"start_s": 60, "received": 5, "counted": 4, "discarded": {"late": 1, "stale": 0},
                       "offset_ms": 0, "step_ms": 0},
            "devices": {"configured": 2, "counted": 1, "not_counted": [
                {"id": "b", "slot": 1, "reason": "no_valid_data", "name": "n"}]},
            "log": {"size": 9, "submitted": 8, "proven": 7},
            "events": [{"time_s": 1, "code": "modbus.lost", "where": "line", "message": "lost"}]} | (changes or {})


@pytest.mark.parametrize(("age_s", "running"), [
    (0, True), (2 * 60 + STALE_SLACK_S, True), (2 * 60 + STALE_SLACK_S + 1, False), (-STALE_SLACK_S - 1, False)])
def test_an_old_file_is_of_a_gateway_that_does_not_run(tmp_path: Path, age_s: int, running: bool) -> None:
    state = State(tmp_path)
    write_json(state.status_file, status_body(1_000_000))
    status = read_status(state, now_s=1_000_000 + age_s)
    assert status is not None and status.running is running


def test_status_tells_what_is_lost_and_what_is_proven(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, [device("a")], [point("a", 0)])
    state = State(tmp_path / "state")
    state.dir.mkdir()
    write_json(state.status_file, status_body(int(time.time())))
    assert main(["status", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "late 1" in shown and "stale" not in shown
    assert "9 entries, 8 at the platform, 7 proven" in shown and "line: lost" in shown
    assert "of 2048 MB" in shown
    write(tmp_path, [device("a")], [point("a", 0)], head="[limits]\ndisk_budget_mb = 16\n")
    (state.dir / "journal").mkdir()
    with (state.dir / "journal" / "x").open("wb") as file_:
        file_.truncate(17 * 2**20)
    assert main(["status", str(file)]) == 0
    assert "more than the 16 MB" in capsys.readouterr().out


@pytest.mark.parametrize(("log", "told"), [
    ({"size": 9, "submitted": None, "proven": 7}, "9 entries, 7 proven by a co-signed head; the platform does not"),
    ({"size": 9, "submitted": None, "proven": 0}, "9 entries, 0 proven by a co-signed head; the platform does not"),
    ({"size": 9, "submitted": None, "proven": None}, "9 entries. Without a platform")],
    ids=["lost", "never there", "none"])
def test_status_tells_whether_there_is_a_platform_that_answers(log: dict[str, Any], told: str, tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, [device("a")], [point("a", 0)])
    (tmp_path / "state").mkdir()
    write_json(State(tmp_path / "state").status_file, status_body(int(time.time()), {"log": log}))
    assert main(["status", str(file)]) == 0
    assert told in capsys.readouterr().out


def test_status_tells_what_others_said_in_the_register(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, [device("a")], [point("a", 0)])
    state = State(tmp_path / "state")
    state.dir.mkdir()
    now_s = int(time.time())
    demands = [{"index": 7, "key": "ab" * 32, "slots": [3, 5], "hours": [], "deadline_s": now_s + 86_400},
               {"index": 9, "key": "ab" * 32, "slots": list(range(50)), "hours": [3600], "deadline_s": now_s - 1},
               {"index": 11, "key": "ab" * 32, "slots": [], "hours": [7200], "deadline_s": 2**53 - 1},
               {"index": 13, "key": "ab" * 32, "slots": [], "hours": [], "deadline_s": now_s + 86_400}]
    write_json(state.status_file, status_body(now_s, {"said": {"revoked_from": None, "demands": demands}}))
    assert main(["status", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second, third, fourth = (next(line for line in lines if f"register {index}:" in line)
                                    for index in (7, 9, 11, 13))
    assert "a draw is announced" in fourth
    assert "devices 3, 5; hours -;" in first and first.endswith(": open")
    assert "18, 19, ... (50);" in second and second.endswith("the deadline is over")
    assert f"{2**53 - 1} s: open" in third and "REVOKED" not in "".join(lines)
    write_json(state.status_file, status_body(now_s, {"said": {"revoked_from": 6, "demands": []}}))
    assert main(["status", str(file)]) == 0
    assert "REVOKED: its log ends at entry 6" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [
    {"devices": {"configured": 3, "counted": 1, "not_counted": []}}, {"devices": None}, {"written_s": "x"}, {"log": {}},
    {"devices": {"configured": 1, "counted": 0, "not_counted": [{"id": "a", "name": "n", "reason": "bad luck"}]}},
])
def test_a_broken_status_is_told(tmp_path: Path, changes: dict[str, Any]) -> None:
    state = State(tmp_path)
    write_json(state.status_file, status_body(1, changes))
    with pytest.raises(EvidenceError) as caught:
        read_status(state, now_s=1)
    assert caught.value.problems[0].code == "commissioning.state_broken"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_sentence_that_is_put_together_exists(lang: str) -> None:
    """Codes with a part that comes from data: no other test finds them."""
    words = Words(lang)
    for code in (*(f"commissioning.reason.{reason}" for reason in NOT_COUNTED_REASONS),
                 *(f"commissioning.column.{name}" for name in ("device", "connection", "result", "detail", "name",
                                                               "reason")),
                 "commissioning.cause", "commissioning.fix"):
        assert words.explain(code) is not None, code


# Times and tables

@pytest.mark.parametrize(("text", "at_s"), [
    ("2026-11-01", 1793462400), ("2026-11-01T00:00:00+08:00", 1793462400), ("2026-10-31T16:00:00Z", 1793462400)])
def test_a_time_without_a_zone_is_chinese_time(text: str, at_s: int) -> None:
    assert instant(text, "--from") == at_s


@pytest.mark.parametrize("text", ["", "now", "1793462400", "2026-13-01", "2026-11-01T25:00", "0001-01-01T00:00+14:00x"])
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        instant(text, "--from")
    assert caught.value.problems[0].code == "commissioning.bad_time"
