"""What tests across processes stand on: which outages a loaded machine makes, and a port that stays one's own."""

from __future__ import annotations

import os
import signal
import socket
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from tests.support.platform_process import tallystick
from tests.support.processes import covered_once, free_port, keep_port
from tests.support.warm import BEAT, BEAT_S, warm


def log_of(*words: str) -> list[dict[str, Any]]:
    """Return entries: `start`, `window`, or `reason/samples` of an outage, each of a second."""
    entries: list[dict[str, Any]] = []
    at = 100
    for word in words:
        if word == "start":
            entries.append({"type": "start"})
            continue
        if word == "window":
            entries.append({"type": "window", "start_s": at, "len_s": 1})
        else:
            reason, _, samples = word.partition("/")
            entries.append({"type": "outage", "start_s": at, "end_s": at + 1, "reason": reason,
                            "missing": {"windows": 1, "samples": None if samples == "?" else int(samples)}})
        at += 1
    return entries


@pytest.mark.parametrize(("words", "left"), [
    (["start", "window", "off/0", "window"], ["off"]),  # nobody was held up: it waited for something
    (["start", "window", "disk_full/4", "window"], ["disk_full"]),
    (["start", "window", "start", "crash/?", "off/0", "window"], ["crash"]),  # its first window was over too soon
    (["start", "window", "start", "off/0", "window"], ["off"]),
    (["start", "window", "start", "crash/?", "window", "off/0", "window"], ["crash", "off"]),
    (["start", "window", "start", "crash/?", "off/2", "window"], ["crash", "off"]),
    (["start", "window", "start", "window", "start", "off/0", "window"], ["off"]),
])
def test_outages_that_a_slow_start_makes_are_left_out_and_no_other(words: list[str], left: list[str]) -> None:
    assert [outage["reason"] for outage in covered_once(log_of(*words))] == left


@pytest.mark.parametrize(("still", "left"), [
    ([(100.9, 102.4)], []), ([(100.9, 101.4)], ["off"]), ([(102.0, 109.0)], ["off"]), ([(101.0, 101.3)] * 2, [])])
def test_outages_of_a_gateway_that_was_held_up_are_left_out(
        still: list[tuple[float, float]], left: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_STILL", still)
    assert [outage["reason"] for outage in covered_once(log_of("start", "window", "off/0", "window"))] == left


def test_a_gap_is_none_of_these() -> None:
    with pytest.raises(AssertionError, match="101 is followed by 102"):
        covered_once([e for number, e in enumerate(log_of("start", "window", "window", "window")) if number != 2])


def test_beats_go_on_while_a_command_waits_and_stop_while_it_is_held_up(tmp_path: Path) -> None:
    tallystick("witness", "init", tmp_path / "w", "--name", "w.example", "--listen", "127.0.0.1:0")
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as pipe, (tmp_path / "log").open("wb") as log:
        with os.fdopen(writing, "wb"):
            process = warm().start(["witness", tmp_path / "w" / "witness.toml"], out=None, err=log.fileno(),
                                   beats=writing)
        beats: list[float] = []

        def heard(more: int) -> None:
            wanted = len(beats) + more
            while len(beats) < wanted:
                beats.extend(BEAT.unpack(pipe.read(BEAT.size)))
        try:
            heard(5)
            process.send_signal(signal.SIGSTOP)
            stopped_s = time.time()
            time.sleep(6 * BEAT_S)
            goes_on_s = time.time()
            process.send_signal(signal.SIGCONT)
            heard(8)
        finally:
            process.kill()
            process.wait(20)
    gaps = [(a, b) for a, b in pairwise(beats) if b >= goes_on_s]
    assert gaps[0][0] <= stopped_s + BEAT_S and gaps[0][1] - gaps[0][0] >= 5 * BEAT_S


def test_a_port_that_is_kept_refuses_until_somebody_listens_there_and_after() -> None:
    port = free_port()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=20)
        with socket.create_server(("127.0.0.1", port)) as server:
            socket.create_connection(("127.0.0.1", port), timeout=20).close()
            server.accept()[0].close()
    assert keep_port(port) == port != free_port()
