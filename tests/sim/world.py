"""A gateway without devices, network or real time: one seed, a clock that only the test moves, a disk that fails."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.counting.registry import Registry
from gateway.counting.rule import Rule
from gateway.counting.window import ClosedWindow, Gap, WindowClock, Windows
from gateway.sealing.disk import Disk
from gateway.sealing.journal import Journal
from gateway.sealing.sealer import Sealer, Software
from protocols.evidence import keys, signed
from protocols.samples import SampleBatch
from tests.sim.rows import USCC

NS = 1_000_000_000
SOFTWARE = Software(version="0.1.0", sha256="ab" * 32)
START_S = 1_800_000_000


class Time:
    """Wall and monotonic clock; `pass_s` moves both, `step_s` the wall clock alone."""

    def __init__(self, start_s: float = START_S) -> None:
        self.wall_ns = int(start_s * NS)
        self.monotonic_ns = 5_000 * NS

    def pass_s(self, seconds: float) -> None:
        self.wall_ns += int(seconds * NS)
        self.monotonic_ns += int(seconds * NS)

    def step_s(self, seconds: float) -> None:
        self.wall_ns += int(seconds * NS)

    def clock(self) -> WindowClock:
        return WindowClock(lambda: self.wall_ns, lambda: self.monotonic_ns)


def private_key(seed: int) -> Ed25519PrivateKey:
    """A key that is the same in every run."""
    return Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))


def certificate(key: Ed25519PrivateKey, platform: Ed25519PrivateKey) -> dict[str, Any]:
    """An enrolment certificate of this gateway key, signed by the platform key."""
    return signed.sign("certificate", {
        "gateway_key": keys.public_bytes(key).hex(), "uscc": USCC, "site": "site", "token_sha256": "11" * 32,
        "k_sha256": "22" * 32, "recovery_key": keys.public_bytes(private_key(99)).hex(), "supersedes": None}, platform)


def batch(rng: random.Random, registry: Registry, received_ns: int, n: int) -> SampleBatch:
    """Samples of every sort, some of points that are not there."""
    return SampleBatch(
        point_index=np.array([rng.randrange(-1, registry.points + 1) for _ in range(n)], dtype=np.int64),
        received_ns=np.full(n, received_ns, dtype=np.int64), source_ns=np.zeros(n, dtype=np.int64),
        value=np.array([rng.choice([0.0, 1.0, 2.0]) for _ in range(n)]),
        quality=np.array([rng.choice([0, 0, 0, 1, 2, 0x80]) for _ in range(n)], dtype=np.uint8))


class Gateway:
    """The agent's loop in small: windows and sealer joined, time moved from outside.

    taken: start_s -> samples received, of every window that the sealer said is sealed.
    """

    def __init__(self, disk: Disk, key: Ed25519PrivateKey, time: Time, registry: Registry, rng: random.Random, *,
                 len_s: int = 5, old_keys: tuple[Ed25519PrivateKey, ...] = (),
                 before_begin: Callable[[Sealer], int | None] = lambda sealer: None) -> None:
        self.events: list[str] = []
        self.time, self.rng = time, rng
        self.taken: dict[int, int] = {}
        self.journal = Journal(disk)
        self.sealer = Sealer(self.journal, [key, *old_keys], lambda code, where, **args: self.events.append(code))
        platform_size = before_begin(self.sealer)
        if not self.journal.size:
            self.sealer.enrol(certificate(key, private_key(77)))
        rule = Rule(len_s=len_s, grace_ms=1000)
        self.windows = Windows(registry, rule, time.clock())
        self.sealer.begin(software=SOFTWARE, rule=rule, registry=registry, opens_s=self.windows.opens_s,
                          platform_size=platform_size)

    def run(self, seconds: int, *, seen: dict[str, Any] | None = None) -> None:
        for _ in range(seconds):
            self.time.pass_s(1)
            now_ns = self.windows._clock.now_ns()
            self.windows.samples(batch(self.rng, self.windows.registry, now_ns, self.rng.randrange(4)))
            for item in self.windows.tick():
                self.take(item, seen)

    def take(self, item: ClosedWindow | Gap, seen: dict[str, Any] | None = None) -> None:
        if isinstance(item, Gap):
            self.sealer.gap(item)
        elif self.sealer.seal(item, seen):
            self.taken[item.start_s] = item.received
