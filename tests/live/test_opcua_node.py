"""The OPC UA driver against node-opcua, a server that shares no line with asyncua."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.probing.certificate import probe_certificate, spki_of
from gateway.probing.driver import ask
from protocols.errors import VerificationError
from protocols.evidence import probe
from protocols.opcua.driver import OpcUaDriver
from protocols.opcua.pki import REJECTED, leaf_of, server_spki_sha256
from protocols.opcua.target import SECURITY_POLICIES, Nameplate, OpcUaPoint, parse_address
from protocols.samples import BAD, fingerprint
from tests.support.npm import installed
from tests.support.processes import GatewayProcess, covered_once, device, entries_of, export, point, write_gateway
from tests.support.warm import warm
from tests.unit.protocols.opcua.bench import (
    WAIT_S,
    Proxy,
    Recorder,
    be_patient,
    endpoint,
    free_port,
    running,
    until,
)
from tests.unit.protocols.opcua.victim import killed

pytestmark = pytest.mark.live

in_one_loop = pytest.mark.asyncio(loop_scope="module")
"""Most of a server's start is reading the standard's own nodes, four seconds of a processor: these share one."""

SOURCE = Path(__file__).with_name("node_opcua")
URI = "urn:tallystick:live:plant"
VARIABLES = 120
SECURED = {"security_policy": "Basic256Sha256", "security_mode": "SignAndEncrypt", "allow_insecure": False}
START_S = 60.0


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a driver leaves on the server is counted."""
    be_patient(monkeypatch)


@pytest.fixture(scope="module")
def program() -> Path:
    """Install node-opcua; a machine without network skips, CI fails."""
    return installed(SOURCE) / "server.mjs"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The servers' certificate store: making one takes a server of node-opcua several seconds."""
    return tmp_path_factory.mktemp("keys")


class NodeServer:
    """A running node-opcua server, told by lines."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port
        self.certificate = b""

    async def line(self, start: str) -> str:
        """Return the rest of the next line that starts so."""
        assert self.process.stdout is not None
        async with asyncio.timeout(START_S):
            while line := (await self.process.stdout.readline()).decode():
                if line.startswith(start):
                    return line.removeprefix(start).strip()
        raise AssertionError(f"the server ended before it said {start}")

    async def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        await self.process.stdin.drain()

    async def counts(self) -> tuple[int, int]:
        """Return how many sessions and subscriptions it has now."""
        await self.tell("sessions")
        sessions, subscriptions = (await self.line("sessions")).split()
        return int(sessions), int(subscriptions)


@asynccontextmanager
async def node_server(
        program: Path, pki: Path, *, port: int | None = None, change_ms: int = 0) -> AsyncIterator[NodeServer]:
    port = port or free_port()
    process = await asyncio.create_subprocess_exec(
        "node", program.name, str(port), str(pki), URI, str(VARIABLES), str(change_ms), cwd=program.parent,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)
    server = NodeServer(process, port)
    try:
        server.certificate = bytes.fromhex(json.loads(await server.line("ready"))["certificate"])
        yield server
    finally:
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(program: Path, keys: Path) -> AsyncIterator[NodeServer]:
    async with node_server(program, keys) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def server(shared: NodeServer) -> NodeServer:
    """The shared server without sessions, its variables good and at rest."""
    await shared.tell("change 0")
    await until_counts(shared, (0, 0))
    return shared


def settings(port: int, folder: Path, **changes: Any) -> Any:
    return endpoint(port, folder, url=f"opc.tcp://127.0.0.1:{port}/live", **changes)


def at(names: list[str], first: int = 100) -> list[OpcUaPoint]:
    return [OpcUaPoint(point_index=first + i, device_index=i // 10, address=parse_address(f"nsu={URI};s={name}"))
            for i, name in enumerate(names)]


V = [f"v{i}" for i in range(VARIABLES)]


@in_one_loop
async def test_trust_check_identify_and_collect_encrypted(server: NodeServer, tmp_path: Path) -> None:
    sink = Recorder()
    names = [*V, "text", "big", "still"]
    driver = OpcUaDriver(settings(server.port, tmp_path, idle_read_s=1.0, **SECURED), at([*names, "nowhere"]), sink)
    results = await driver.check()
    assert {r.code for r in results} == {"opcua.untrusted_certificate"}
    (kept,) = (tmp_path / "trusted" / REJECTED).iterdir()
    assert kept.read_bytes() == server.certificate[:len(kept.read_bytes())]
    kept.rename(tmp_path / "trusted" / "node.der")

    results = await driver.check()
    assert [r.code for r in results] == ["opcua.ok"] * 12 + ["opcua.node_unknown"], results
    plates = await driver.identify()
    assert plates[0] == Nameplate(device_index=0), "one nameplate above thirteen devices is nobody's"
    alone = OpcUaDriver(settings(server.port, tmp_path, **SECURED), at(["v0"]), sink)
    assert await alone.identify() == [
        Nameplate(device_index=0, manufacturer="Live Works", model="NX-1", serial_number="L-0042")]
    await until_counts(server, (0, 0))

    async with running(driver):
        await until(lambda: len(sink.points) == len(names))
        assert await server.counts() == (1, 1)
        await server.tell("set v0 12.25")
        await until(lambda: 12.25 in sink.values(100))
        await server.tell("bad v5")
        await until(lambda: BAD in sink.qualities(105))
        await until(lambda: len(sink.values(100 + VARIABLES + 2)) >= 3, "idle reads of a still value")
    assert sink.values(100 + VARIABLES)[0] == fingerprint("运行".encode())
    assert sink.values(100 + VARIABLES + 1)[0] == fingerprint(str(2**53 + 1).encode())
    assert set(sink.values(100 + VARIABLES + 2)) == {7.5}
    assert sink.codes() == ["opcua.bad_node"], "the limit of 30 items per request was kept: nothing else is told"
    assert driver.server_spki_sha256() == server_spki_sha256((tmp_path / "trusted" / "node.der").read_bytes())
    for policy in ("Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"):
        other = settings(server.port, tmp_path, **(SECURED | {"security_policy": policy}))
        result, = await OpcUaDriver(other, at(["v0"]), sink).check()
        assert result.ok, (policy, result)
    await until_counts(server, (0, 0))


@in_one_loop
async def test_it_signs_challenges_that_are_checked_without_it(server: NodeServer, tmp_path: Path) -> None:
    """An implementation that is not ours answers probes; what it signed is checked from what a log would hold."""
    gateway = hashlib.sha256(b"gateway").hexdigest()[:32]
    own = probe_certificate(tmp_path / "pki", gateway)
    public = hashlib.sha256(b"public key").digest()
    seen = {"size": 9, "root": "ab" * 32, "witness": "bureau", "time_s": 1_790_000_000, "signature": ""}
    policies = ("Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss")
    signed: list[tuple[str, int, bytes]] = []
    leaf = leaf_of(server.certificate)
    spki = spki_of(leaf)

    def challenge(start_s: int, *, size: int = 9, key: bytes = public) -> bytes:
        return probe.challenge(seen | {"size": size}, gateway_spki=key, start_s=start_s, server_spki=spki)

    for number, (policy, mode) in enumerate(product(policies, ("SignAndEncrypt", "Sign"))):
        at = settings(server.port, tmp_path, **(SECURED | {"security_policy": policy, "security_mode": mode}))
        start_s = 1_790_000_040 + 60 * number
        signed.append((policy, start_s, await ask(at, server_certificate=leaf, own=own, gateway=gateway,
                                                  c=challenge(start_s), deadline_s=WAIT_S)))
    await until_counts(server, (0, 0))  # a session that was never activated is closed all the same
    for policy, start_s, signature in signed:
        facts = {"policy_uri": SECURITY_POLICIES[policy], "server_spki": spki, "client_certificate": own.certificate,
                 "signature": signature, "where": "entry"}
        probe.verify_signature(c=challenge(start_s), **facts)
        for other in (challenge(start_s + 60), challenge(start_s, size=10), challenge(start_s, key=bytes(32))):
            with pytest.raises(VerificationError, match=r"probe\.signature"):
                probe.verify_signature(c=other, **facts)


@in_one_loop
async def test_it_is_walked_into_devices_and_points_and_polled(server: NodeServer, tmp_path: Path) -> None:
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "node.der").write_bytes(leaf_of(server.certificate))
    secured = settings(server.port, tmp_path, **SECURED)
    walk, machines = await OpcUaDriver(secured, [], Recorder()).discover()
    assert walk.is_whole
    machine = next(m for m in machines if m.name == "Machine")
    assert (machine.why, len(machine.points)) == ("nameplate", VARIABLES + 3)
    assert machine.plate == {"manufacturer": "Live Works", "model": "NX-1", "serial_number": "L-0042"}
    kinds = {walk.nodes[p].name: walk.nodes[p].data_type for p in machine.points}
    assert [kinds[name] for name in (*V[:5], "text", "big")] == [
        "float64", "float32", "int32", "uint16", "bool", "string", "uint64"]
    addresses = [walk.nodes[p].address for p in machine.points]
    points = [OpcUaPoint(point_index=i, device_index=0, address=parse_address(text))
              for i, text in enumerate(addresses)]
    sink = Recorder()
    polled = settings(server.port, tmp_path, reads="polling", poll_s=0.2, **SECURED)
    async with running(OpcUaDriver(polled, points, sink)):
        await until(lambda: len(sink.points) == len(points), "maxNodesPerRead of 20 was kept")
        await server.tell("set v0 12.25")
        await until(lambda: 12.25 in sink.values(addresses.index(f"nsu={URI};s=v0")))
        assert await server.counts() == (1, 0)
    assert sink.events == []
    await until_counts(server, (0, 0))


async def until_counts(server: NodeServer, wanted: tuple[int, int]) -> None:
    async with asyncio.timeout(WAIT_S):
        while await server.counts() != wanted:
            await asyncio.sleep(0.05)


@in_one_loop
async def test_every_change_arrives_also_over_a_line_that_is_cut(server: NodeServer, tmp_path: Path) -> None:
    sink = Recorder()
    # Sampled faster than it changes: two timers of one period may miss each other on a busy machine.
    await server.tell("change 200")
    async with Proxy(server.port).open() as proxy:
        async with running(OpcUaDriver(settings(proxy.port, tmp_path, queue_size=200, publishing_interval_ms=50),
                                       at(V), sink)):
            await until(lambda: len(sink.points) == VARIABLES)
            await until(lambda: len(sink.values(100)) > 8)
            proxy.refuses = True
            proxy.cut()
            await until(lambda: "opcua.unreachable" in sink.codes())
            proxy.refuses = False
            await until(lambda: "opcua.back" in sink.codes())
            seen = len(sink.values(100))
            await until(lambda: len(sink.values(100)) > seen + 8)
            assert await server.counts() == (1, 1)
        got = sink.values(100)[1:]
        # A message may come twice around a cut, sent and then republished: repeats change no count. None may be lost.
        once = list(dict.fromkeys(got))
        assert once == [got[0] + i for i in range(len(once))], "a tick of 200 ms is one sample, in order, none lost"
        assert len(got) - len(once) <= 1, "one message at the most is under way when a line is cut"
        assert sink.codes() == ["opcua.unreachable", "opcua.back"]
        assert not sink.lost


async def test_after_a_kill_data_flow_again_in_ten_seconds_in_one_session(
        program: Path, keys: Path, tmp_path: Path) -> None:
    sink, port = Recorder(), free_port()
    async with node_server(program, keys, port=port, change_ms=200) as first:
        async with running(OpcUaDriver(settings(port, tmp_path), at(V), sink)):
            await until(lambda: len(sink.points) == VARIABLES)
            first.process.kill()
            await until(lambda: sink.codes() == ["opcua.unreachable"])
            sink.batches.clear()
            async with node_server(program, keys, port=port, change_ms=200) as second:
                # Ten seconds, and a busy machine.
                await until(lambda: len(sink.points) == VARIABLES, deadline_s=50.0)
                assert await second.counts() == (1, 1)
                assert sink.codes() == ["opcua.unreachable", "opcua.changes_lost", "opcua.back"]


async def test_after_kill_9_of_a_collector_its_session_goes_on_and_else_its_subscription(
        program: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process, secured: all that the server queued arrives, from the last value that was told on."""
    async with node_server(program, keys, change_ms=200) as server:
        trust(server, tmp_path)
        wished: dict[str, Any] = {"url": f"opc.tcp://127.0.0.1:{server.port}/live", "queue_size": 200,
                                  "publishing_interval_ms": 50}
        for way, sessions, security in (("session", 1, SECURED), ("transfer", 2, {})):
            told = await killed(URI, V, port=server.port, folder=tmp_path, values=4, **wished, **security)
            assert await server.counts() == (1, 1), "it had no time to delete anything"
            if way == "transfer":
                monkeypatch.setattr(OpcUaDriver, "_activated_again", session_is_gone)
            sink = Recorder()
            after = endpoint(server.port, tmp_path, takeover_file=tmp_path / "left.json", **wished, **security)
            async with running(OpcUaDriver(after, at(V), sink)):
                # What was under way is asked for anew beside what goes on, and comes after it.
                await until(lambda sink=sink, told=told: whole(sink.values(100), told[-1]), f"{way}: all after {told}",
                            deadline_s=60.0)
                await until(lambda sink=sink: all(len(sink.values(100 + at)) > 8 for at in range(0, VARIABLES, 5)))
                assert await server.counts() == (sessions, 1), "where it moved, the old session ends by its time-out"
                assert sink.codes() == ["opcua.taken_over"]
            await until_counts(server, (sessions - 1, 0))


def whole(values: list[float], told: float) -> bool:
    """Return whether they begin where the other ended and none is lost: a tick of 200 ms is one sample."""
    got = sorted({*values})
    return len(got) > 8 and got[0] <= told + 1 and got == [got[0] + place for place in range(len(got))]


async def session_is_gone(*_args: object) -> tuple[None, str]:
    """Stand for a server that gives no session to another connection."""
    return None, "BadSessionIdInvalid"


@in_one_loop
async def test_kill_9_of_a_gateway_leaves_one_session_and_an_outage_on_record(
        server: NodeServer, tmp_path: Path) -> None:
    await server.tell("change 200")
    connection = (f'[[connections]]\nname = "node"\nprotocol = "opc_ua"\n'
                  f'endpoint = "opc.tcp://127.0.0.1:{server.port}/live"\npublishing_interval_ms = 100\n'
                  "queue_size = 1000\ntimeout_s = 20.0\n")
    files = write_gateway(tmp_path / "plant", devices=[device("m1", "node")], connections=connection,
                          points=[point("m1", name, f"nsu={URI};s={name}") for name in V[:5]])
    trust(server, files.config.parent, "trust")
    await asyncio.to_thread(warm().run, ["enrol", files.config, "--self"])
    loop = asyncio.get_running_loop()
    for round_ in range(2):
        gateway = await loop.run_in_executor(None, GatewayProcess, files)
        try:
            if round_:
                await asyncio.to_thread(
                    gateway.until, lambda s: "opcua.taken_over" in [e["code"] for e in s["events"]], "taken over")
            await asyncio.to_thread(gateway.windows, 1)
            await asyncio.to_thread(gateway.until, lambda s: s["devices"]["counted"] == 1, "the machine counts")
            assert await server.counts() == (1, 1), "one session, however often it was killed"
            if round_:
                assert await asyncio.to_thread(gateway.end) == 0
        finally:
            gateway.kill()
    await until_counts(server, (0, 0))
    entries = entries_of(await asyncio.to_thread(export, files, tmp_path / "x.tally"))
    covered_once(entries)


def trust(server: NodeServer, folder: Path, name: str = "trusted") -> None:
    """Approve the server's certificate."""
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "node.der").write_bytes(leaf_of(server.certificate))
