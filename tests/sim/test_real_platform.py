"""The submitter against the real platform and a real witness, over HTTP: cut, killed, set back, and exported."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import time as real_time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.sealing.disk import RealDisk
from gateway.sealing.export import export_bundle
from gateway.sealing.journal import Journal
from gateway.sealing.link import Address
from gateway.sealing.sealer import Sealer
from gateway.sealing.submitter import Submitter
from protocols import exchange
from protocols.evidence import keys, policy
from protocols.evidence.bundle import open_bundle
from protocols.evidence.roster import k_sha256
from tests.sim.oracle import check_log
from tests.sim.rows import USCC, K, registry
from tests.sim.world import Gateway, Time, private_key
from tests.support.platform_process import platform_file, set_up, start_platform, tallystick, token
from verifier.proof.verify import verify

KEY = private_key(1)
DEADLINE_S = 90.0


def enrol(url: str, one_time: str) -> dict[str, Any]:
    body = exchange.prove_possession({
        "token": one_time, "gateway_key": keys.public_bytes(KEY).hex(), "uscc": USCC, "site": "site",
        "k_sha256": k_sha256(K), "recovery_key": keys.public_bytes(private_key(9)).hex(), "supersedes": None}, KEY)
    request = urllib.request.Request(f"{url}/v1/enrol", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
        return dict(json.loads(response.read()))


class Site:
    """A gateway on a real disk whose clock the test moves, and its real line to the platform."""

    def __init__(self, folder: Path, answer: dict[str, Any], time: Time) -> None:
        self.folder, self.answer, self.time = folder, answer, time
        self.events: list[str] = []
        self.rng = random.Random(1)
        self.gateway: Gateway
        self.submitter: Submitter

    async def start(self, url: str) -> None:
        def before(sealer: Sealer) -> int | None:
            sealer.enrol(self.answer["certificate"])
            self.submitter = Submitter(
                Address(url=url, answer_s=DEADLINE_S), sealer, self.answer,
                lambda code, where, **a: self.events.append(code), monotonic_ns=lambda: self.time.monotonic_ns)
            return asyncio.run(self._compare())
        self.gateway = await asyncio.to_thread(
            Gateway, RealDisk(self.folder), KEY, self.time, registry(3, 2), self.rng, before_begin=before)

    async def _compare(self) -> int | None:
        try:
            return await self.submitter.compare(DEADLINE_S)
        finally:
            await self.submitter.close()

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.gateway.run(1, seen=self.submitter.seen)
            await self.submitter.work()

    async def until(self, done: Callable[[], bool]) -> None:
        deadline = real_time.monotonic() + DEADLINE_S
        while not done():
            assert real_time.monotonic() < deadline, (self.events, self.submitter.outbox)
            await self.submitter.work()
            await self.submitter.refresh()
            await asyncio.sleep(0.05)  # the register's round is the platform's own

    async def settle(self) -> None:
        size = self.gateway.journal.size
        await self.until(lambda: self.submitter.submitted == size == self.submitter.proven)

    async def stop(self) -> None:
        await self.submitter.close()
        self.gateway.journal.close()


async def test_submitter_and_the_real_platform(tmp_path: Path) -> None:
    witnesses = await asyncio.to_thread(set_up, tmp_path)
    platform = await asyncio.to_thread(start_platform, tmp_path)
    try:
        answer = enrol(platform.url, token(tmp_path, USCC))
        site = Site(tmp_path / "journal", answer, Time(real_time.time() - 900))
        await site.start(platform.url)
        await site.run(60)
        await site.settle()
        assert site.events == [] and site.submitter.seen is not None

        platform.kill()  # a power cut at the platform; the gateway goes on
        await site.run(40)
        assert site.events == ["sealing.platform_unreachable"]
        await site.stop()
        platform = await asyncio.to_thread(start_platform, tmp_path)
        await site.start(platform.url)
        await site.run(20)
        await site.settle()

        image = tmp_path / "image"
        shutil.copytree(site.folder, image)
        await site.run(40)
        await site.settle()
        ahead = site.gateway.journal.size
        await site.stop()
        shutil.rmtree(site.folder)
        shutil.copytree(image, site.folder)  # the disk is set back
        site.time.pass_s(20)
        await site.start(platform.url)
        assert "sealing.taken_over" in site.events
        assert site.gateway.journal.entry(ahead)["platform_size"] == ahead
        await site.run(40)
        await site.settle()
        found = check_log(site.gateway.journal.encoded(0, site.gateway.journal.size))
        assert [o["reason"] for o in found["outages"]] == ["crash", "rollback"]

        out = tmp_path / "x.tally"
        export_bundle(Journal(RealDisk(site.folder), writable=False), out=out)
        printed = tallystick("platform", "policy", platform_file(tmp_path)).stdout.encode()
        verdict = verify(open_bundle(out), policy.parse(printed, where="policy"), anchor=None)
        assert [f for f in verdict.findings if f.severity == "fault"] == []
        await site.stop()
    finally:
        for service in (platform, *witnesses):
            service.kill()
