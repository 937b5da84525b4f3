"""The agent joins clock, disk and drivers: its rules, with drivers by script and everything else real."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.gateway import GatewayConfig, InfluxTable, load_gateway
from gateway import agent as agent_module
from gateway import crew
from gateway.agent import EVENTS_KEPT, STOP_S, Agent
from gateway.counting.window import ClosedWindow, WindowClock, Windows
from gateway.intake import Intake
from gateway.sealing.disk import RealDisk
from gateway.sealing.journal import Journal
from protocols.errors import ConfigError
from protocols.samples import SampleBatch
from tallystick.words.lookup import Words
from tests.support.platform_process import tallystick
from tests.support.processes import device, modbus_connection, point, write_gateway
from tests.unit.gateway.patient import be_patient
from tests.unit.protocols.modbus.recording import until

POINTS = 3
Script = Callable[["Scripted"], Awaitable[None]]


class Scripted:
    """A driver that does what the test says. key: the digest of the server's key that it shows."""

    def __init__(self, script: Script, sink: Any = None, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.script, self.sink, self.clock_ns = script, sink, clock_ns
        self.key: str | None = None
        self.sent = 0
        self.cancelled_at: float | None = None

    async def run(self) -> None:
        await self.script(self)

    def server_spki_sha256(self) -> str | None:
        return self.key

    def send(self, *points: int) -> None:
        """Deliver one sample of each point now."""
        n = len(points)
        now_ns = self.clock_ns()
        self.sent += n
        self.sink.answered([0], now_ns)
        self.sink.samples(SampleBatch(
            point_index=np.array(points, dtype=np.int64), received_ns=np.full(n, now_ns, dtype=np.int64),
            source_ns=np.zeros(n, dtype=np.int64), value=np.full(n, float(self.sent)),
            quality=np.zeros(n, dtype=np.uint8)))


async def steady(driver: Scripted) -> None:
    """Send all points, twenty times a second."""
    while True:
        driver.send(*range(POINTS))
        await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def commissioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent")
    files = write_gateway(folder, devices=[device("a", "line"), device("b", "line")], grace_ms=100,
                          points=[point("a", f"p{i}", f"1/holding/{i}", "uint16") for i in range(POINTS - 1)] +
                                 [point("b", "p", "2/holding/0", "uint16")],
                          connections=modbus_connection("line", 1))
    tallystick("enrol", files.config, "--self")
    return folder


@pytest.fixture
def config(commissioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GatewayConfig:
    be_patient(monkeypatch)
    shutil.copytree(commissioned, tmp_path / "gateway")
    return load_gateway(tmp_path / "gateway" / "gateway.toml")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], Scripted]:
    """Put a scripted driver in the place of the one that the configuration asks for."""
    def put(script: Script) -> Scripted:
        driver = Scripted(script)

        def build(config: Any, roster: Any, sink: Any, clock_ns: Callable[[], int]) -> dict[str, Any]:
            driver.sink, driver.clock_ns = sink, clock_ns
            return {"line": driver}
        monkeypatch.setattr(agent_module, "build_drivers", build)
        return driver
    return put


def status_of(config: GatewayConfig) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((config.state_dir / "status.json").read_text(encoding="utf-8"))
    return body


def log_of(config: GatewayConfig) -> list[dict[str, Any]]:
    journal = Journal(RealDisk(config.state_dir / "journal"), writable=False)
    return [journal.entry(seq) for seq in range(journal.size)]


def windows_of(config: GatewayConfig) -> list[dict[str, Any]]:
    return [entry for entry in log_of(config) if entry["type"] == "window"]


def received(windows: Iterable[dict[str, Any]]) -> int:
    """Return how many samples these windows received."""
    return sum(entry["samples"]["received"] for entry in windows)


def sealed_windows(agent: Agent) -> list[dict[str, Any]]:
    """Return the windows that the log has now."""
    entries = (agent.journal.entry(seq) for seq in range(agent.journal.size))
    return [entry for entry in entries if entry["type"] == "window"]


def sealed(agent: Agent) -> int:
    """Return how many windows the log has now."""
    return len(sealed_windows(agent))


async def run_until(agent: Agent, condition: Callable[[], object]) -> float:
    """Run the agent until the condition holds, then cancel it; return how many seconds the stop took."""
    work = asyncio.create_task(agent.run())
    try:
        await until(lambda: work.done() or condition(), deadline_s=30)
        assert not work.done(), work.exception()
    finally:
        before = time.monotonic()
        work.cancel()
        await asyncio.wait([work])
    return time.monotonic() - before


async def test_what_drivers_deliver_is_counted_sealed_and_shown(
        config: GatewayConfig, scripted: Callable[[Script], Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    driver = scripted(steady)
    agent = Agent(config, Words("en"))
    released: list[int] = []  # windows that were sealed by then
    monkeypatch.setattr(agent_module.system, "release_memory", lambda: released.append(sealed(agent)))
    monkeypatch.setattr(agent_module, "RELEASE_S", 2)
    for module in (agent_module, crew):
        monkeypatch.setattr(module, "STOP_S", 60)  # of this a stop would take all if a driver or a task did not end
    stopped_s = await run_until(agent, lambda: 3 in released and received(sealed_windows(agent)) > 10 * POINTS)
    assert stopped_s < 30
    assert [number for number in released if number][:2] == [1, 3], "memory is given back now and then"
    status = status_of(config)
    window = status["window"]
    assert window["received"] == window["counted"] and window["received"] % POINTS == 0
    assert 10 * POINTS < received(windows_of(config)) <= driver.sent
    assert status["log"] == {"size": agent.journal.size, "submitted": None, "proven": None}
    assert status["devices"]["counted"] == 2 and status["devices"]["not_counted"] == []
    assert [entry["type"] for entry in log_of(config)][:3] == ["enrolment", "start", "roster"]

    again = Agent(config, Words("en"))
    await run_until(again, lambda: sealed(again) >= 4)
    assert [entry["reason"] for entry in log_of(config) if entry["type"] == "outage"] == ["off"]


async def all_are_on_record(config: GatewayConfig, driver: Scripted) -> None:
    """After a stop: what was delivered is in windows, or in the outage that the next start tells."""
    in_windows, sent = received(windows_of(config)), driver.sent
    again = Agent(config, Words("en"))
    before = sealed(again)
    await run_until(again, lambda: sealed(again) > before)
    outage, = (entry for entry in log_of(config) if entry["type"] == "outage")
    assert in_windows + outage["missing"]["samples"] == sent


async def test_what_comes_while_the_gateway_stops_is_on_record_with_the_window_that_the_stop_cuts(
        config: GatewayConfig, scripted: Callable[[Script], Scripted]) -> None:
    async def to_the_end(driver: Scripted) -> None:
        try:
            await steady(driver)
        finally:
            driver.send(0)

    driver = scripted(to_the_end)
    agent = Agent(config, Words("en"))
    await run_until(agent, lambda: sealed(agent) >= 1)
    await all_are_on_record(config, driver)


async def test_a_window_that_waits_for_the_disk_when_the_gateway_stops_is_sealed(
        config: GatewayConfig, scripted: Callable[[Script], Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    driver = scripted(steady)
    agent, free, held = Agent(config, Words("en")), threading.Event(), threading.Event()

    def then_busy() -> None:
        """The last that the disk's thread does for a window: what it has to do next is for the next one."""
        if sealed(agent) and not held.is_set():
            agent._disk.submit(free.wait, 60)
            held.set()

    monkeypatch.setattr(agent_module.system, "release_memory", then_busy)
    work = asyncio.create_task(agent.run())
    await until(held.is_set, deadline_s=30)
    before = sealed(agent)
    await until(lambda: agent._waiting is not None, deadline_s=30)
    work.cancel()
    await until(lambda: "tick" not in {task.get_name() for task in asyncio.all_tasks()}, deadline_s=30)
    assert sealed(agent) == before
    free.set()
    await asyncio.wait([work])
    assert len(windows_of(config)) > before
    await all_are_on_record(config, driver)


async def test_a_window_that_is_being_sealed_when_the_gateway_stops_is_in_its_status(
        config: GatewayConfig, scripted: Callable[[Script], Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(steady)
    agent, begun, free = Agent(config, Words("en")), threading.Event(), threading.Event()
    seal = agent.sealer.seal

    def slowly(item: ClosedWindow, seen: Mapping[str, Any] | None) -> bool:
        if sealed(agent):
            begun.set()
            free.wait(60)
        return seal(item, seen)

    monkeypatch.setattr(agent.sealer, "seal", slowly)
    work = asyncio.create_task(agent.run())
    await until(begun.is_set, deadline_s=30)
    work.cancel()
    await until(lambda: "tick" not in {task.get_name() for task in asyncio.all_tasks()}, deadline_s=30)
    free.set()
    await asyncio.wait([work])
    status = status_of(config)
    assert status["log"]["size"] == agent.journal.size
    assert status["window"]["start_s"] == windows_of(config)[-1]["start_s"]
    assert len(windows_of(config)) > 1 and status["devices"]["counted"] == 2


async def test_a_driver_that_breaks_ends_the_gateway_loudly_and_its_time_is_on_record_as_a_crash(
        config: GatewayConfig, scripted: Callable[[Script], Scripted]) -> None:
    async def broken(driver: Scripted) -> None:
        await until(lambda: sealed(agent) >= 1, deadline_s=30)
        raise ZeroDivisionError("a mistake of ours")

    scripted(broken)
    agent = Agent(config, Words("en"))
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(agent.run(), 60)
    scripted(steady)
    again = Agent(config, Words("en"))
    await run_until(again, lambda: sealed(again) >= 2)
    assert [entry["reason"] for entry in log_of(config) if entry["type"] == "outage"] == ["crash"]


async def test_a_driver_that_does_not_stop_holds_nobody_up(
        config: GatewayConfig, scripted: Callable[[Script], Scripted]) -> None:
    released = asyncio.Event()

    async def stubborn(driver: Scripted) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    scripted(stubborn)
    agent = Agent(config, Words("en"))
    stopped_s = await run_until(agent, lambda: agent.journal.size >= 4)
    released.set()
    assert STOP_S - 0.5 < stopped_s < 6 * STOP_S


async def test_a_disk_that_takes_its_time_holds_no_sample_up(
        config: GatewayConfig, scripted: Callable[[Script], Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    sent_meanwhile: list[int] = []

    async def quick(driver: Scripted) -> None:
        try:
            while True:
                driver.send(0)
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    driver = scripted(quick)
    agent = Agent(config, Words("en"))

    def slow(work: Callable[..., Any]) -> Callable[..., Any]:
        """Take longer than a window, and until twenty samples came meanwhile: none comes if the loop waits too."""
        def wait(*args: Any) -> Any:
            before = driver.sent
            if not ended.wait(1.2):
                end_s = time.monotonic() + 20
                while driver.sent < before + 20 and time.monotonic() < end_s and not ended.is_set():
                    time.sleep(0.01)
                if not ended.is_set():
                    sent_meanwhile.append(driver.sent - before)
            return work(*args)
        return wait

    monkeypatch.setattr(agent.sealer, "seal", slow(agent.sealer.seal))
    monkeypatch.setattr(agent_module, "write_json", slow(agent_module.write_json))
    await run_until(agent, lambda: sealed(agent) >= 2)
    assert len(sent_meanwhile) >= 2 and min(sent_meanwhile) >= 20, "the loop waited for the disk"
    first, second = windows_of(config)[:2]
    assert second["start_s"] == first["start_s"] + 1, "late sealing moves no window"
    assert first["samples"]["received"] > 10 and second["samples"]["received"] > 10


async def test_what_cannot_be_written_beside_the_log_is_written_later(
        config: GatewayConfig, scripted: Callable[[Script], Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    """Status and server keys are written again; the gateway does not end for them."""
    refused: list[str] = []
    write = agent_module.write_json

    def full(path: Path, body: Any, **more: Any) -> None:
        if len(refused) < 4:
            refused.append(path.name)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, body, **more)

    driver = scripted(steady)
    driver.key = "cd" * 32
    agent = Agent(config, Words("en"))
    monkeypatch.setattr(agent_module, "write_json", full)
    monkeypatch.setattr("gateway.commissioning.state.write_json", full)
    await run_until(agent, lambda: agent.state.status_file.exists() and sealed(agent) >= 4)
    assert {"status.json", "servers.json"} <= set(refused)
    assert agent.state.server_keys() == {"line": "cd" * 32}
    assert len(windows_of(config)) >= 4 and not [e for e in log_of(config) if e["type"] == "outage"]


async def test_a_server_that_shows_another_key_changes_the_rows_behind_it_once(
        config: GatewayConfig, scripted: Callable[[Script], Scripted]) -> None:
    driver = scripted(steady)
    agent = Agent(config, Words("en"))
    before = agent.roster.device_rows()

    def after_three() -> bool:
        if sealed(agent) == 1:
            driver.key = "ab" * 32
        return sealed(agent) >= 4

    await run_until(agent, after_three)
    assert agent.state.server_keys() == {"line": "ab" * 32}
    assert {row["server"]["spki_sha256"] for row in before} == {None}
    assert {row["server"]["spki_sha256"] for row in agent.roster.device_rows()} == {"ab" * 32}
    entries = [entry for entry in log_of(config) if entry["type"] in ("roster", "window")]
    assert [entry["type"] for entry in entries].count("roster") == 2
    second = [entry["type"] for entry in entries].index("roster", 1)
    assert entries[second + 1]["roster"] == entries[second]["seq"]
    again = Agent(config, Words("en"))
    assert again.roster.device_rows() == agent.roster.device_rows(), "the key is known before it is shown again"
    again.journal.close()


def test_a_gateway_that_is_not_enrolled_says_so_and_leaves_nothing(config: GatewayConfig) -> None:
    (config.state_dir / "enrolment.json").unlink()
    with pytest.raises(ConfigError) as caught:
        Agent(config, Words("en"))
    assert caught.value.problems[0].code == "agent.not_enrolled"
    assert not (config.state_dir / "journal").exists()


def test_a_gateway_that_certified_itself_is_told_before_it_asks_a_platform(config: GatewayConfig) -> None:
    with config.file.open("a", encoding="utf-8") as file:
        file.write('\n[platform]\nurl = "http://127.0.0.1:9"\n')
    with pytest.raises(ConfigError) as caught:
        Agent(load_gateway(config.file), Words("en"))
    assert caught.value.problems[0].code == "agent.self_with_platform"
    assert not (config.state_dir / "journal").exists()


def test_events_are_kept_for_the_page_and_forgotten_in_order(config: GatewayConfig) -> None:
    agent = Agent(config, Words("zh"))
    for number in range(EVENTS_KEPT + 5):
        agent.tell("sealing.platform_back", "platform", size=number)
    assert len(agent._events) == EVENTS_KEPT
    assert str(EVENTS_KEPT + 4) in agent._events[-1]["message"] and agent._events[-1]["message"].isascii()
    agent.journal.close()


def test_the_exporter_gets_each_batch_after_it_was_counted(config: GatewayConfig) -> None:
    agent = Agent(config, Words("en"))
    clock = WindowClock()
    windows = Windows(agent.windows.registry, agent.rule, clock)
    intake = Intake(windows, agent.tell)
    counted: list[int] = []
    driver = Scripted(steady, intake, clock.now_ns)
    driver.send(0)
    intake.flush()
    intake.export = lambda batch: counted.append(sum(planes.received for planes in windows._open.values()))
    driver.send(0, 1)
    intake.flush()
    driver.send(2)
    intake.flush()
    assert counted == [3, 4]
    agent.journal.close()


async def test_what_comes_while_windows_are_closed_is_counted_before_the_next_step(
        config: GatewayConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(config, Words("en"))
    driver = Scripted(steady, agent.intake, agent.clock.now_ns)
    counted: list[int] = []

    def due() -> Iterator[None]:
        for _ in range(2):
            asyncio.get_running_loop().call_soon(driver.send, 0)
            yield None
            counted.append(sum(planes.received for planes in agent.windows._open.values()))
        raise asyncio.CancelledError

    monkeypatch.setattr(agent.windows, "due", due)
    with pytest.raises(asyncio.CancelledError):
        await agent._tick()
    assert counted == [1, 2]
    agent.journal.close()


async def test_what_waits_at_the_end_is_exported_before_the_exporter_is_closed(
        config: GatewayConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    class Exporter:
        def __init__(self, *_: object) -> None: ...

        def start(self) -> None: ...

        def put(self, batch: SampleBatch) -> None:
            told.append(batch.value.size)

        def close(self) -> None:
            told.append("closed")

    monkeypatch.setattr("gateway.exporters.influx.InfluxExporter", Exporter)
    agent = Agent(dataclasses.replace(config, influx=InfluxTable(url="http://127.0.0.1:1", bucket="b")), Words("en"))
    async with contextlib.AsyncExitStack() as stack:
        agent._start_exporter(stack)
        Scripted(steady, agent.intake, agent.clock.now_ns).send(0)
        assert told == []
    assert told == [1, "closed"]
    agent.journal.close()
