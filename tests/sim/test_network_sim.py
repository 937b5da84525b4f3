"""A platform that drops, repeats, delays and refuses: every sealed leaf arrives exactly once, in order."""

from __future__ import annotations

import asyncio
import copy
import random
from pathlib import Path

import pytest

from gateway.sealing.export import export_bundle
from gateway.sealing.journal import Journal
from gateway.sealing.link import Address
from gateway.sealing.sealer import Sealer
from gateway.sealing.submitter import Submitter
from protocols.errors import DeviceError, EvidenceError, Problem
from protocols.evidence.bundle import open_bundle
from protocols.evidence.policy import parse
from tests.sim.disk import CrashError, FaultyDisk
from tests.sim.oracle import check_checkpoint, check_log
from tests.sim.platform import POLICY, Platform, enrolment
from tests.sim.rows import registry
from tests.sim.world import Gateway, Time, private_key
from verifier.proof.verify import verify

KEY = private_key(1)
ROSTER = registry(2, 2)


class World:
    """One gateway, one platform, one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.time = Time()
        self.disk = FaultyDisk(self.rng)
        self.platform = Platform(self.time, self.rng, KEY)
        self.events: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.gateway: Gateway
        self.submitter: Submitter

    def start(self, *, compare: bool = True) -> None:
        def before_begin(sealer: Sealer) -> int | None:
            sealer.enrol(self.platform.certificate)
            self.submitter = Submitter(
                Address(url=""), sealer, enrolment(KEY), lambda code, where, **args: self.events.append(code),
                link=self.platform, monotonic_ns=lambda: self.time.monotonic_ns, wall_ns=lambda: self.time.wall_ns,
                rng=self.rng)
            self.compared = self.loop.run_until_complete(self.submitter.compare()) if compare else None
            return self.compared
        self.gateway = Gateway(self.disk, KEY, self.time, ROSTER, self.rng, before_begin=before_begin)

    def run(self, seconds: int, *, online: bool = True) -> None:
        for second in range(seconds):
            self.gateway.run(1, seen=self.submitter.seen)
            if online:
                self.loop.run_until_complete(self.submitter.work())
            if second % 7 == 0:
                self.platform.round()

    def stop(self) -> None:
        self.gateway.journal.close()

    def log(self) -> list[bytes]:
        return self.gateway.journal.encoded(0, self.gateway.journal.size)

    def settled(self) -> dict:
        """Let the network recover; then both sides hold the same, checked the slow way."""
        self.platform.fault = 0.0
        for _ in range(60):
            self.time.pass_s(10)
            self.platform.round()
            self.loop.run_until_complete(self.submitter.work())
        assert self.platform.entries == self.log()
        assert self.submitter.submitted == self.submitter.proven == self.gateway.journal.size
        public = bytes.fromhex("4cb5abf6ad79fbf5abbccafcc269d85cd2651ed4b885b5869f241aedf0a5ba29")
        check_checkpoint(self.platform.entries, self.platform.checkpoint.encode(), public)
        found = check_log(self.platform.entries)
        self.loop.close()
        return found


@pytest.mark.parametrize("seed", range(40))
def test_every_sealed_leaf_arrives_exactly_once(seed: int) -> None:
    world = World(seed)
    world.start()
    world.platform.fault = 0.5
    world.run(120)
    world.run(40, online=False)  # the line is down
    world.run(60)
    assert "sealing.platform_back" in world.events
    found = world.settled()
    assert set(world.gateway.taken) == set(found["windows"])


@pytest.mark.parametrize("seed", range(20))
def test_crashes_and_a_bad_network_together(seed: int) -> None:
    world = World(1000 + seed)
    taken: set[int] = set()
    for _ in range(6):
        world.platform.fault = 0.4
        at = world.disk.steps + world.rng.randrange(30, 90)
        world.disk.fault = lambda step, at=at: "crash_torn" if step == at else None
        try:
            world.start()
            world.run(80)
            world.stop()
        except CrashError:
            pass
        taken |= set(world.gateway.taken) if hasattr(world, "gateway") else set()
        world.disk.fault = lambda step: None
        world.time.pass_s(3)
    world.platform.fault = 0.0
    world.start()
    world.run(12)
    found = world.settled()
    assert taken <= set(found["windows"])


def test_restored_image_resumes_behind_its_own_tail() -> None:
    """The disk is set back, the platform has more: its copy is verified, taken over, and the log goes on behind."""
    world = World(1)
    world.start()
    world.run(40)
    image = copy.deepcopy((world.disk.visible, world.disk.durable))
    common = world.gateway.journal.size
    world.run(40)
    ahead = world.gateway.journal.size
    world.stop()
    world.disk.visible, world.disk.durable = image
    world.time.pass_s(30)
    world.start()
    assert world.compared == ahead and "sealing.taken_over" in world.events
    start = world.gateway.journal.entry(ahead)
    assert (start["resealed_from"], start["local_size"], start["platform_size"]) == (common, ahead, ahead)
    world.run(20)
    found = world.settled()
    assert [o["reason"] for o in found["outages"]] == ["rollback"]


def test_image_that_ran_on_its_own_seals_its_windows_again() -> None:
    world = World(2)
    world.start()
    world.run(40)
    image = copy.deepcopy((world.disk.visible, world.disk.durable))
    common = world.gateway.journal.size
    world.run(100)
    world.stop()
    world.disk.visible, world.disk.durable = image
    world.time.pass_s(50)
    world.start(compare=False)
    world.run(30, online=False)
    with pytest.raises(EvidenceError) as caught:
        world.run(1)
    dead = dict(world.gateway.taken)
    assert dead
    assert caught.value.problems[0].code == "sealing.platform_ahead"
    world.stop()
    world.start()
    assert world.compared is not None
    assert world.gateway.journal.entry(world.compared)["resealed_from"] == common
    assert world.gateway.journal.size == world.compared + 2 + len(dead) + 1  # start, two outages, each window once
    world.run(20)
    found = world.settled()
    assert dead.keys() <= found["windows"].keys()
    assert {s: found["windows"][s]["samples"]["received"] for s in dead} == dead
    assert "rollback" in [o["reason"] for o in found["outages"]]
    assert "log-0/checkpoint" in world.disk.visible  # the dead branch stays on the disk


def test_two_histories_under_one_key_stop_the_gateway() -> None:
    world = World(3)
    world.start()
    world.run(30)
    image = copy.deepcopy((world.disk.visible, world.disk.durable))
    world.run(20)
    world.stop()
    world.disk.visible, world.disk.durable = image
    world.start(compare=False)
    world.run(90, online=False)
    with pytest.raises(EvidenceError) as caught:
        world.run(1)
    assert caught.value.problems[0].code == "sealing.fork"
    world.stop()
    with pytest.raises(EvidenceError) as caught:
        world.start()
    assert caught.value.problems[0].code == "sealing.fork"


def test_new_disk_under_the_old_key_fetches_the_log() -> None:
    world = World(4)
    world.start()
    world.run(60)
    before = world.log()
    world.stop()
    world.disk.visible, world.disk.durable = {}, {}
    world.time.pass_s(20)
    world.start()
    assert world.log()[: len(before)] == before
    world.run(12)
    world.settled()


def test_platform_that_lies_about_being_ahead_is_not_believed() -> None:
    world = World(5)
    world.start()
    world.run(30)
    world.stop()
    truth = world.platform._size
    world.platform._size = lambda: truth() | {"size": 10_000}
    world.start()
    assert world.compared is None and "sealing.unsigned_head" in world.events
    world.run(30)
    world.platform._size = truth
    world.settled()


def test_platform_that_does_not_answer_stops_nothing() -> None:
    world = World(6)
    world.platform.fault = 1.0
    world.platform.rng = random.Random(0)
    world.start()
    world.run(60)
    assert len(world.gateway.taken) >= 10
    assert world.platform.requests < 25  # back-off, not a hammer
    world.settled()


def test_bundle_of_a_simulated_life_verifies(tmp_path: Path) -> None:
    """The other half agrees: what this half sealed and the platform proved is valid for an offline verifier."""
    world = World(7)
    world.start()
    world.run(100)
    world.stop()
    world.time.pass_s(12)
    world.start()
    world.run(700)
    middle = world.time.wall_ns // 10**9 - 200
    world.settled()
    reader = Journal(world.disk, writable=False)  # beside the gateway that holds the lock
    policy = parse(POLICY, where="policy")
    for first_s, end_s in ((None, None), (middle, None), (None, middle), (middle - 100, middle)):
        out = tmp_path / "x.tally"
        done = export_bundle(reader, out=out, first_s=first_s, end_s=end_s)
        verdict = verify(open_bundle(out), policy, anchor=None)
        faults = [f for f in verdict.findings if f.severity == "fault"]
        assert faults == [], faults
        assert verdict.summary.trust == "independent"
        assert done.heads >= 1 and done.windows > 10


def test_bundle_of_a_revoked_gateway_proves_what_was_before(tmp_path: Path) -> None:
    """Of the days before, and of all: entries behind the revocation are void, and make no bundle invalid."""
    world = World(7)
    world.start()
    world.run(100, online=False)
    early = world.time.wall_ns // 10**9
    while len(world.log()) < 300:  # more than one tile, so that the bundle of the first day leaves one out
        world.run(100, online=False)  # so the head that proves the first day comes after the revocation
    ends_at = len(world.log()) - 5
    world.platform.revoke(ends_at)
    world.run(20)
    world.settled()
    reader = Journal(world.disk, writable=False)
    for end_s in (early, None):
        out = tmp_path / "x.tally"
        export_bundle(reader, out=out, end_s=end_s)
        verdict = verify(open_bundle(out), parse(POLICY, where="policy"))
        assert [f.code for f in verdict.findings if f.severity == "fault"] == []


def test_a_platform_that_only_tells_its_size_is_lost_once_asked_ever_less_and_back_once() -> None:
    world = World(7)
    world.start()
    world.run(20)
    take, refused = world.platform._submit, []

    def refuse(body: dict) -> tuple[bool, dict]:
        refused.append(world.time.monotonic_ns)
        raise DeviceError(Problem.of("sim", "sealing.platform_status", status=500))

    world.platform._submit = refuse  # type: ignore[method-assign] # the size is answered as ever
    world.run(600)
    assert len(refused) <= 15, "the waits double: about ten tries in ten minutes, and nowhere near one a second"
    assert world.events == ["sealing.platform_status"]
    world.platform._submit = take  # type: ignore[method-assign]
    world.settled()
    assert world.events == ["sealing.platform_status", "sealing.platform_back"]
