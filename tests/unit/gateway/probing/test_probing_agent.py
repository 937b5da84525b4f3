"""A whole gateway that challenges a real OPC UA server and reads a real Modbus server: what its log says afterwards."""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from config.gateway import GatewayConfig, load_gateway
from gateway.agent import Agent
from gateway.probing.driver import ask
from gateway.sealing.disk import RealDisk
from gateway.sealing.journal import Journal
from protocols.evidence import keys, probe, reads
from protocols.evidence.encoding import from_base64, to_base64
from tallystick.words.lookup import Words
from tests.support.platform_process import tallystick
from tests.support.processes import device, modbus_connection, point, write_gateway
from tests.unit.gateway.patient import be_patient
from tests.unit.protocols.modbus.recording import until
from tests.unit.protocols.modbus.test_modbus_driver import NUMBERS
from tests.unit.protocols.modbus.test_modbus_driver import device as modbus_device
from tests.unit.protocols.modbus.test_modbus_driver import serving as modbus_serving
from tests.unit.protocols.opcua.bench import free_port, plant_on, serving

together = pytest.mark.asyncio(loop_scope="module")
SEEN = {"size": 9, "root": "ab" * 32, "witness": "bureau", "time_s": 1_790_000_000, "signature": to_base64(bytes(64))}
URI = "urn:test:probed"
PROBING = "[probing]\nevery_s = 5\nmax_per_hour = 720\nreads_per_window = 5\nreads_every_s = 1\n"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Any, Path, int]]:
    folder = tmp_path_factory.mktemp("plant")
    async with serving(free_port(), folder / "server") as server, modbus_serving(modbus_device(1, NUMBERS)) as port:
        await plant_on(server, URI, ["a", "b"])
        yield server, folder, port


@pytest.fixture(scope="module")
def commissioned(plant: tuple[Any, Path, int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    server, folder, port = plant
    opcua = "".join(
        f'[[connections]]\nname = "{name}"\nprotocol = "opc_ua"\nidle_read_s = 0.3\npublishing_interval_ms = 50\n'
        "timeout_s = 20.0\n"
        f'endpoint = "opc.tcp://127.0.0.1:{server.endpoint.port}/test"\n' for name in ("plc", "same"))
    files = write_gateway(
        tmp_path_factory.mktemp("gateway"), devices=[device("m", "line"), device("p", "plc"), device("q", "same")],
        points=[point("m", "f", "1/holding/0", "float32"), point("m", "i", "1/holding/2", "int32"),
                point("p", "a", f"nsu={URI};s=a"), point("q", "b", f"nsu={URI};s=b")],
        connections=modbus_connection("line", port, timeout_s=10.0) + opcua, more=PROBING)
    tallystick("enrol", files.config, "--self")
    (files.config.parent / "trust").mkdir()
    shutil.copy(folder / "server" / "server.der", files.config.parent / "trust" / "server.der")
    return files.config.parent


@pytest.fixture
def config(commissioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GatewayConfig:
    be_patient(monkeypatch)
    shutil.copytree(commissioned, tmp_path / "gateway")
    monkeypatch.setattr("gateway.probing.schedule.FIRST_SPREAD_S", 0.5)
    monkeypatch.setattr("gateway.probing.schedule.MIN_GAP_S", 1.0)
    # Of a window of a second a challenge may take no more: on a loaded machine it would be asked ever more rarely.
    monkeypatch.setattr("gateway.probing.driver.ask", lambda *a, **more: ask(*a, **(more | {"deadline_s": 20.0})))
    return load_gateway(tmp_path / "gateway" / "gateway.toml")


@pytest.fixture
def with_nonce(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Agent], Agent]]:
    """Let a gateway without a platform believe that it knows a co-signed checkpoint."""
    def give(agent: Agent) -> Agent:
        agent.probing._seen = lambda: SEEN
        return agent
    yield give


async def run_until(agent: Agent, condition: Callable[[], object]) -> None:
    work = asyncio.create_task(agent.run())
    try:
        await until(lambda: work.done() or condition(), deadline_s=60)
        assert not work.done(), work.exception()
    finally:
        work.cancel()
        await asyncio.wait([work])


def count(agent: Agent, kind: str) -> int:
    return sum(agent.journal.entry(seq)["type"] == kind for seq in range(agent.journal.size))


def log_of(config: GatewayConfig) -> list[dict[str, Any]]:
    journal = Journal(RealDisk(config.state_dir / "journal"), writable=False)
    return [journal.entry(seq) for seq in range(journal.size)]


@together
async def test_probes_and_reads_stand_behind_the_window_they_were_asked_in(
        config: GatewayConfig, with_nonce: Callable[[Agent], Agent]) -> None:
    agent = with_nonce(Agent(config, Words("en")))
    await run_until(agent, lambda: count(agent, "probe") >= 2 and count(agent, "reads") >= 3)
    entries = log_of(config)
    window: dict[str, Any] = {}
    shown: set[str] = set()
    for value in entries:
        match value["type"]:
            case "window":
                window = value
            case "probe":
                assert value["start_s"] == window["start_s"] and value["seen"] == SEEN
                spki, own = (from_base64(value[name], where="") for name in ("server_spki", "client_certificate"))
                public = bytes.fromhex(entries[0]["certificate"]["gateway_key"])
                c = probe.challenge(SEEN, gateway_spki=keys.spki(public), start_s=value["start_s"], server_spki=spki)
                assert value["c"] == c.hex() and probe.probe_certificate_holds(own, value["gateway"])
                probe.verify_signature(policy_uri=value["policy_uri"], server_spki=spki, client_certificate=own, c=c,
                                       signature=from_base64(value["signature"], where=""), where="")
                shown.add(probe.spki_sha256(spki))
            case "reads":
                assert (value["start_s"], value["roster"]) == (window["start_s"], window["roster"])
                body = json.loads((config.state_dir / "reads" / f"{value['seq']}.json").read_bytes())
                assert reads.root(body["rows"]) == value["root"] and len(body["rows"]) == value["rows"] == 5
                due = reads.schedule(SEEN, gateway=value["gateway"], start_s=value["start_s"], len_s=1, points=[0, 1],
                                     count=5)
                assert [(row["point"], row["at_ms"]) for row in body["rows"]] == due, "Modbus points alone are drawn"
                assert all(reads.times_hold(row) for row in body["rows"])
                assert sum(row["answered_ms"] is not None for row in body["rows"]) == value["answered"]
                assert {row["value"] for row in body["rows"]} <= {"21.5", "-7", None}
    assert len(shown) == 1 and shown == {row["server"]["spki_sha256"] for row in agent.roster.device_rows()} - {None}
    answered = [value["answered"] for value in entries if value["type"] == "reads"]
    assert sum(answered) >= 0.3 * 5 * len(answered), "what is due in the last moments of a window may come too late"
    status = json.loads((config.state_dir / "status.json").read_bytes())["probing"]
    server, = status["servers"]
    assert server["connections"] == ["plc", "same"] and server["code"] == "probing.ok", "one key, two connections"
    assert status["reads"]["rows"] == 5 and status["why"] is None
    times = json.loads((config.state_dir / "probes.json").read_bytes())["servers"].popitem()[1]["asked_s"]
    assert all(later - at >= 4 for at, later in pairwise(times))

    again = with_nonce(Agent(config, Words("en")))
    before, began_s = count(again, "probe"), time.monotonic()
    await run_until(again, lambda: count(again, "window") >= count(agent, "window") + 2)
    assert again.probing.report()["servers"], "what was known of servers survives a restart"
    assert count(again, "probe") - before <= 1 + (time.monotonic() - began_s) // 5, "one every five seconds"


@together
async def test_without_a_platform_nothing_is_asked(config: GatewayConfig) -> None:
    agent = Agent(config, Words("en"))
    await run_until(agent, lambda: count(agent, "window") >= 3)
    kinds = {value["type"] for value in log_of(config)}
    assert kinds == {"enrolment", "start", "roster", "window"}
    assert json.loads((config.state_dir / "status.json").read_bytes())["probing"] == {
        "why": "no_nonce", "servers": [], "reads": None}
    assert not (config.state_dir / "reads").exists() and not (config.state_dir / "pki" / "prober.der").exists()


@together
async def test_a_disk_that_takes_no_answer_costs_that_answer_only(
        config: GatewayConfig, with_nonce: Callable[[Agent], Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    agent = with_nonce(Agent(config, Words("en")))
    real, failed = agent.sealer.record, []

    def full(kind: str, fields: Any) -> int:
        if len(failed) < 3:
            failed.append(kind)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(kind, fields)

    monkeypatch.setattr(agent.sealer, "record", full)
    await run_until(agent, lambda: len(failed) == 3 and count(agent, "reads") >= 2)
    assert "probing.not_sealed" in {event["code"] for event in agent._events}
    entries = log_of(config)
    assert all(entry["seq"] == seq for seq, entry in enumerate(entries))
    for value in entries:
        if value["type"] == "reads":
            body = json.loads((config.state_dir / "reads" / f"{value['seq']}.json").read_bytes())
            assert reads.root(body["rows"]) == value["root"], "a transcript written for nothing was replaced"


@together
async def test_a_server_that_hangs_in_probes_holds_no_window_up(
        config: GatewayConfig, with_nonce: Callable[[Agent], Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    async def hang(*_: Any, **__: Any) -> bytes:
        asked.append(time.monotonic())
        await asyncio.get_running_loop().create_future()
        return b""

    monkeypatch.setattr("gateway.probing.driver.ask", hang)
    agent = with_nonce(Agent(config, Words("en")))
    await run_until(agent, lambda: asked and count(agent, "window") >= 6)
    assert len(asked) == 1, "one in flight"
    entries = [value for value in log_of(config) if value["type"] in ("window", "outage", "probe")]
    assert [value["type"] for value in entries] == ["window"] * len(entries)
