"""The prober with servers by script and clocks by hand: what is asked, what is sealed where, and what is remembered."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.probing.certificate import ProbeCertificate, probe_certificate
from gateway.probing.prober import Prober, Target
from gateway.probing.schedule import FIRST_SPREAD_S, MIN_GAP_S, Pace
from protocols.errors import DeviceError, Problem
from protocols.evidence import entry, keys, probe
from protocols.evidence.encoding import from_base64, to_base64
from protocols.evidence.shape import problems
from protocols.opcua.pki import OwnCertificate, own_certificate
from protocols.opcua.target import OpcUaEndpoint

LEN_S = 60
START_S = 1_790_000_040
KEY = keys.generate()
PUBLIC = keys.public_bytes(KEY)
GATEWAY = keys.gateway_id(PUBLIC)
SEEN = {"size": 9, "root": "ab" * 32, "witness": "bureau", "time_s": START_S - 5, "signature": to_base64(bytes(64))}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProbeCertificate, list[OwnCertificate]]:
    folder = tmp_path_factory.mktemp("pki")
    return probe_certificate(folder / "gateway", GATEWAY), [own_certificate(folder / name) for name in ("a", "b")]


class Bench:
    """One prober. `answer` decides what a server does with a challenge; time goes on only by `pass_time`."""

    def __init__(self, own: ProbeCertificate, servers: list[tuple[str, OwnCertificate]], *,
                 remembered: object = None, pace: Pace | None = None, at_s: float = 1000.0) -> None:
        self.now_s = at_s
        self.wall_s = float(START_S) + at_s - 1000.0
        self.seen: Mapping[str, Any] | None = SEEN
        self.servers = servers
        self.asked: list[tuple[str, bytes, float]] = []
        self.events: list[tuple[str, str]] = []
        self.kept: list[Any] = []
        self.answer: Callable[[OpcUaEndpoint], Any] = lambda endpoint: None
        self.unanswered = 0
        self.prober = Prober(
            gateway=GATEWAY, signer=lambda: PUBLIC, certificate=lambda: own,
            pace=pace or Pace(every_s=600, max_per_hour=6),
            len_s=LEN_S, targets=lambda: [Target(endpoint=endpoint(name), certificate=server.certificate)
                                          for name, server in self.servers],
            seen=lambda: self.seen, start_s=lambda: int(self.wall_s) // LEN_S * LEN_S,
            tell=lambda code, where, **args: self.events.append((code, where)), ask=self.ask, keep=self.keep,
            remembered=remembered, monotonic_s=lambda: self.now_s, wall_s=lambda: self.wall_s, rng=random.Random(1))

    async def keep(self, body: Mapping[str, Any]) -> None:
        self.kept.append(json.loads(json.dumps(body)))

    async def ask(self, end: OpcUaEndpoint, *, server_certificate: bytes, own: ProbeCertificate, gateway: str, c: bytes,
                  deadline_s: float) -> bytes:
        self.asked.append((end.name, c, self.now_s))
        found = self.answer(end)
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, asyncio.Future):
            self.unanswered += 1
            try:
                await found
            finally:
                self.unanswered -= 1
        server = next(s for _, s in self.servers if s.certificate == server_certificate)
        signature: bytes = loaded(server.key).sign(own.certificate + c, padding.PKCS1v15(), hashes.SHA256())
        return signature

    async def pass_time(self, seconds: float, tick_s: float = 1.0) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += tick_s
            self.wall_s += tick_s
            self.prober.step()
            await self.settle()

    async def settle(self) -> None:
        """Wait until every challenge has ended or waits for an answer; one looks at the certificate in a thread."""
        if not self.prober._tasks:
            return
        for _ in range(20):
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            while sum(not task.done() for task in self.prober._tasks) > self.unanswered:
                await asyncio.sleep(0.001)

    def codes(self) -> list[str]:
        return [code for code, _ in self.events]


@lru_cache
def loaded(pem: bytes) -> Any:
    return load_pem_private_key(pem, None)


def endpoint(name: str) -> OpcUaEndpoint:
    return OpcUaEndpoint(name=name, url=f"opc.tcp://{name}:4840", pki_dir=Path("pki"), trust_dir=Path("trust"))


def refused() -> DeviceError:
    return DeviceError(Problem.of("a", "probing.refused", endpoint="x", status="Bad", file="prober.der"))


Pki = tuple[ProbeCertificate, list[OwnCertificate]]


async def test_what_is_sealed_is_a_probe_entry_that_anyone_can_check(pki: Pki) -> None:
    own, (server, _) = pki
    bench = Bench(own, [("a", server)])
    await bench.pass_time(FIRST_SPREAD_S + 2)
    assert len(bench.asked) == 1
    start_s = START_S // LEN_S * LEN_S
    fields, = bench.prober.take(start_s)
    assert bench.prober.take(start_s) == [], "once"
    value = {"type": "probe", "gateway": GATEWAY, "seq": 7, "life": 1, **fields}
    assert problems(entry.PROBE, value, where="") == []
    spki = from_base64(value["server_spki"], where="")
    assert hashlib.sha256(spki).hexdigest() == bench.prober.report()["servers"][0]["server"]
    c = probe.challenge(SEEN, gateway_spki=keys.spki(PUBLIC), start_s=start_s, server_spki=spki)
    assert value["c"] == c.hex() == bench.asked[0][1].hex()
    probe.verify_signature(policy_uri=value["policy_uri"], server_spki=spki, client_certificate=own.certificate, c=c,
                           signature=from_base64(value["signature"], where=""), where="")
    report = bench.prober.report()
    assert report["why"] is None and report["servers"][0]["code"] == "probing.ok"
    assert report["servers"][0]["answered_s"] == report["servers"][0]["asked_s"]


async def test_nothing_is_asked_without_a_nonce(pki: Pki) -> None:
    bench = Bench(pki[0], [("a", pki[1][0])])
    bench.seen = None
    await bench.pass_time(5000, tick_s=10)
    assert bench.asked == [] and bench.prober.report() == {"why": "no_nonce", "servers": []}
    bench.servers, bench.seen = [], SEEN
    await bench.pass_time(50)
    assert bench.asked == [] and bench.prober.report()["why"] == "no_server"


async def test_two_connections_to_one_key_are_one_server_and_take_turns(pki: Pki) -> None:
    a, b = pki[1]
    bench = Bench(pki[0], [("first", a), ("second", a), ("other", b)])
    await bench.pass_time(6 * 700, tick_s=5)
    same = [at for name, _, at in bench.asked if name != "other"]
    assert 5 <= len(same) <= 7 and all(later - at >= 600 for at, later in pairwise(same))
    assert {name for name, _, _ in bench.asked} == {"first", "second", "other"}
    assert sorted(server["connections"] for server in bench.prober.report()["servers"]) == [
        ["first", "second"], ["other"]]


async def test_a_week_of_sessions_at_the_servers_keeps_the_limit(pki: Pki) -> None:
    """Two server keys behind three connections; one server fails half of the time. CreateSession is counted there."""
    a, b = pki[1]
    bench = Bench(pki[0], [("first", a), ("second", a), ("other", b)], pace=Pace(every_s=3600, max_per_hour=3))
    chance = random.Random(5)
    bench.answer = lambda end: refused() if end.name == "other" and chance.random() < 0.5 else None
    await bench.pass_time(7 * 86_400, tick_s=60)
    for names in (("first", "second"), ("other",)):
        times = [at for name, _, at in bench.asked if name in names]
        assert all(later - at >= MIN_GAP_S for at, later in pairwise(times))
        assert max(sum(at <= other < at + 3600 for other in times) for at in times) <= 3
        assert len(times) <= 7 * 24 * (1 if len(names) == 2 else 3)
        assert len(times) >= 7 * 24 / 1.2, "and they are asked"
    assert len(bench.prober._answers) <= 2 * 7 * 24


async def test_an_answer_belongs_behind_its_window_only(pki: Pki) -> None:
    bench = Bench(pki[0], [("a", pki[1][0])])
    waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    bench.answer = lambda end: waiting
    await bench.pass_time(FIRST_SPREAD_S + 2)
    asked_in = int(bench.wall_s) // LEN_S * LEN_S
    await bench.pass_time(LEN_S)
    assert len(bench.asked) == 1, "one in flight"
    waiting.set_result(None)
    await bench.settle()
    assert bench.prober.take(asked_in - LEN_S) == [], "its window is not sealed yet"
    assert len(bench.prober.take(asked_in)) == 1

    bench = Bench(pki[0], [("a", pki[1][0])])
    await bench.pass_time(FIRST_SPREAD_S + 2)
    assert bench.prober.take(asked_in + LEN_S) == [] and bench.codes() == ["probing.late"]
    assert bench.prober.take(asked_in) == []


async def test_an_answer_whose_window_never_comes_is_let_go(pki: Pki) -> None:
    bench = Bench(pki[0], [("a", pki[1][0])])
    await bench.pass_time(FIRST_SPREAD_S + 2)
    bench.prober.take(0)
    assert bench.codes() == []
    await bench.pass_time(3 * LEN_S + 60)
    assert bench.prober.take(0) == [] and bench.codes() == ["probing.late"]


async def test_a_refusal_is_told_once_and_so_is_its_end(pki: Pki) -> None:
    bench = Bench(pki[0], [("a", pki[1][0])])
    bench.answer = lambda end: refused()
    await bench.pass_time(4000, tick_s=5)
    times = [at for _, _, at in bench.asked]
    gaps = [later - at for at, later in pairwise(times)]
    assert bench.codes() == ["probing.refused"] and len(times) >= 5
    assert all(later >= 1.7 * gap for gap, later in pairwise(gaps)), "ever more rarely"
    assert bench.prober.take(START_S) == [], "a failure is no entry"
    report, = bench.prober.report()["servers"]
    assert (report["code"], report["answered_s"]) == ("probing.refused", None)
    bench.answer = lambda end: DeviceError(Problem.of("a", "probing.timeout", endpoint="x", deadline_s=10))
    await bench.pass_time(8000, tick_s=5)
    bench.answer = lambda end: None
    await bench.pass_time(20_000, tick_s=5)
    assert bench.codes()[:3] == ["probing.refused", "probing.timeout", "probing.back"]
    assert bench.prober.report()["servers"][0]["code"] == "probing.ok"


async def test_a_refusal_that_outlives_a_restart_is_told_again_once(pki: Pki) -> None:
    own, (server, _) = pki
    bench = Bench(own, [("a", server)])
    bench.answer = lambda end: refused()
    await bench.pass_time(100)
    again = Bench(own, [("a", server)], remembered=bench.kept[-1], at_s=bench.now_s)
    assert again.prober.report()["servers"][0]["code"] == "probing.refused", "known before it is asked again"
    again.answer = lambda end: refused()
    await again.pass_time(2000, tick_s=5)
    assert again.codes() == ["probing.refused"] and len(again.asked) >= 2


async def test_what_a_library_does_wrong_is_one_failed_challenge(pki: Pki) -> None:
    bench = Bench(pki[0], [("a", pki[1][0])])
    bench.answer = lambda end: LookupError("never seen before")
    await bench.pass_time(FIRST_SPREAD_S + 2)
    assert bench.codes() == ["probing.failed"]


async def test_a_gateway_that_restarts_asks_no_more_often(pki: Pki) -> None:
    own, (server, _) = pki
    kept: Any = None
    times: list[float] = []
    at_s = 1000.0
    for _ in range(40):  # it is started every minute
        bench = Bench(own, [("a", server)], remembered=kept, at_s=at_s)
        await bench.pass_time(60, tick_s=5)
        kept = bench.kept[-1] if bench.kept else kept
        times += [at for _, _, at in bench.asked]
        at_s = bench.now_s
    assert 3 <= len(times) <= 4
    assert all(later - at >= 590 for at, later in pairwise(times))


async def test_a_gateway_that_dies_while_it_asks_backs_off_too(pki: Pki) -> None:
    own, (server, _) = pki
    kept: Any = None
    times: list[float] = []
    at_s = 1000.0
    for _ in range(60):
        bench = Bench(own, [("a", server)], remembered=kept, at_s=at_s)
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bench.answer = lambda end, never=never: never  # type: ignore[misc]  # bound now
        await bench.pass_time(60, tick_s=10)
        kept = bench.kept[-1] if bench.kept else kept
        times += [at for _, _, at in bench.asked]
        at_s = bench.now_s
        for task in bench.prober._tasks:
            task.cancel()
        await bench.settle()
    gaps = [later - at for at, later in pairwise(times)]
    assert len(gaps) >= 4 and all(later >= 1.5 * gap for gap, later in pairwise(gaps)), gaps


@pytest.mark.parametrize("remembered", [
    None, [], "x", {"format": 2}, {"format": 1}, {"format": 1, "servers": {"k": {}}},
    {"format": 1, "servers": {"k": {"asked_s": ["x"], "due_s": 0, "failures": 0, "answered_s": None}}},
    {"format": 1, "servers": []}, {"format": 1, "servers": {"k": {"asked_s": [1e400], "due_s": 1e400}}}])
async def test_memory_that_cannot_be_read_is_no_memory(pki: Pki, remembered: object) -> None:
    bench = Bench(pki[0], [("a", pki[1][0])], remembered=remembered)
    assert bench.prober.report()["why"] == "soon"
    await bench.pass_time(FIRST_SPREAD_S + 2)
    assert len(bench.asked) == 1


async def test_memory_from_the_future_makes_nobody_wait_for_years(pki: Pki) -> None:
    own, (server, _) = pki
    bench = Bench(own, [("a", server)])
    await bench.pass_time(FIRST_SPREAD_S + 2)
    body = bench.kept[-1]
    for value in body["servers"].values():
        value["asked_s"] = [at + 10**9 for at in value["asked_s"]]
        value["due_s"] += 10**9
    again = Bench(own, [("a", server)], remembered=body)
    await again.pass_time(600, tick_s=60)
    assert again.asked == []
    await again.pass_time(100_000, tick_s=60)
    assert again.asked


async def test_a_cancelled_prober_leaves_no_task(pki: Pki) -> None:
    bench = Bench(pki[0], [("a", pki[1][0])], pace=Pace(every_s=5, max_per_hour=720))
    bench.answer = lambda end: asyncio.get_running_loop().create_future()
    bench.now_s += FIRST_SPREAD_S
    work = asyncio.create_task(bench.prober.run())
    bench.prober.step()
    bench.now_s += FIRST_SPREAD_S
    bench.prober.step()
    await bench.settle()
    assert bench.asked
    work.cancel()
    await asyncio.wait([work], timeout=20)
    assert work.cancelled() and not [t for t in bench.prober._tasks if not t.done()]
