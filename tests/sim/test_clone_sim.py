"""Design, "Durability" and "Order after any start": the clauses about restored images and clones, one by one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.sealing.export import export_bundle
from gateway.sealing.journal import Journal
from protocols.errors import DeviceError, EvidenceError, Problem
from protocols.evidence import signed
from protocols.evidence.bundle import open_bundle
from protocols.evidence.policy import parse
from tests.sim.oracle import check_log
from tests.sim.platform import POLICY
from tests.sim.rows import registry
from tests.sim.test_network_sim import World
from tests.sim.world import NS, Time, private_key
from verifier.proof.verify import Verdict, verify


def image_of(world: World) -> tuple[dict[str, bytes], dict[str, bytes]]:
    return copy.deepcopy((world.disk.visible, world.disk.durable))


def put_back(world: World, image: tuple[dict[str, bytes], dict[str, bytes]]) -> None:
    world.disk.visible, world.disk.durable = copy.deepcopy(image)


def clone_of(world: World, seed: int) -> World:
    """A second machine with a copy of the disk, at the same platform; its clock shows the same time and goes alone."""
    clone = World(seed)
    clone.time = Time(world.time.wall_ns / NS)
    clone.platform, clone.loop = world.platform, world.loop
    put_back(clone, image_of(world))
    return clone


def entries(world: World) -> list[dict[str, Any]]:
    return [json.loads(data) for data in world.log()]


def judged(world: World, tmp_path: Path) -> Verdict:
    """Judge a bundle of everything, with the newest proofs."""
    world.loop.run_until_complete(world.submitter.refresh())
    export_bundle(Journal(world.disk, writable=False), out=tmp_path / "x.tally")
    return verify(open_bundle(tmp_path / "x.tally"), parse(POLICY, where="policy"))


def codes(verdict: Verdict) -> set[str]:
    return {finding.code for finding in verdict.findings}


@pytest.mark.parametrize("changed", [False, True])
def test_order_after_any_start_is_start_outage_roster(changed: bool) -> None:
    """After an ordinary start, and after one that took the platform's tail over; with the roster changed or not."""
    world = World(1)
    world.start()
    world.run(20)
    image = image_of(world)
    world.run(20)
    size = world.gateway.journal.size
    world.stop()
    world.time.pass_s(30)
    import tests.sim.test_network_sim as network
    rows = registry(3, 2) if changed else network.ROSTER
    monkey = pytest.MonkeyPatch()
    monkey.setattr(network, "ROSTER", rows)
    try:
        world.start()
        assert [e["type"] for e in entries(world)[size:]] == ["start", "outage"] + ["roster"] * changed
        outage = entries(world)[size + 1]
        assert outage["end_s"] == world.gateway.windows.opens_s and outage["start_s"] < outage["end_s"]
        world.stop()
        put_back(world, image)
        world.time.pass_s(30)
        world.start()
        assert [e["type"] for e in entries(world)[size:]][:2] == ["start", "outage"]
        assert ("roster" in [e["type"] for e in entries(world)[size:]]) == changed
        assert entries(world)[size]["resealed_from"] is not None
        world.run(12)
        world.settled()
    finally:
        monkey.undo()


def test_windows_of_a_dead_branch_keep_their_start_and_what_they_had_seen() -> None:
    world = World(2)
    world.start()
    world.run(40)
    image = image_of(world)
    world.run(100)
    world.stop()
    put_back(world, image)
    world.time.pass_s(50)
    world.start(compare=False)
    seen = world.submitter.seen
    world.run(30, online=False)
    dead = {e["start_s"]: e for e in entries(world) if e["type"] == "window" and e["start_s"] in world.gateway.taken}
    world.stop()
    world.start()
    again = {e["start_s"]: e for e in entries(world) if e["type"] == "window" and e["start_s"] in dead}
    assert dead and again.keys() == dead.keys()
    for start_s, window in again.items():
        for name in ("len_s", "seen", "clock", "samples", "columns"):
            assert window[name] == dead[start_s][name], name
    assert seen is None or {json.dumps(w["seen"]) for w in again.values()} == {json.dumps(seen)}
    world.run(12)
    world.settled()


def test_a_clone_that_runs_beside_its_original_is_on_record(tmp_path: Path) -> None:
    """Two machines, one key. Each stops when the other is ahead; when it starts again it continues behind it, and the
    windows that both sealed stand twice, of which the later ones count."""
    world = World(3)
    world.start()
    world.run(40)
    world.stop()
    clone = clone_of(world, 30)
    world.start()
    world.run(60)
    clone.start(compare=False)  # it was switched on while its line was down, so it could not know
    clone.run(30, online=False)
    with pytest.raises(EvidenceError) as caught:
        clone.run(1)
    assert caught.value.problems[0].code == "sealing.platform_ahead"
    clone.stop()
    sealed = dict(clone.gateway.taken)
    clone.time.pass_s(40)
    clone.start()
    assert "sealing.taken_over" in clone.events
    clone.run(20)
    # Now the original is behind.
    with pytest.raises(EvidenceError) as caught:
        world.run(5, online=False)
        world.run(1)
    assert caught.value.problems[0].code == "sealing.platform_ahead"
    world.stop()
    reasons = [e["reason"] for e in entries(clone) if e["type"] == "outage"]
    assert "clone" in reasons, reasons
    twice = [e["start_s"] for e in entries(clone) if e["type"] == "window"]
    assert len(twice) > len(set(twice)) and sealed.keys() <= set(twice)
    clone.platform.fault = 0
    for _ in range(20):
        clone.time.pass_s(10)
        clone.platform.round()
        clone.loop.run_until_complete(clone.submitter.work())
    verdict = judged(clone, tmp_path)
    assert verdict.valid, [f for f in verdict.findings if f.severity == "fault"]
    assert {"start.resealed", "window.overlapped"} <= codes(verdict)
    counted = [s for s, state in zip(verdict.evidence.windows.start_s, verdict.evidence.windows.state, strict=True)
               if state == 0] if verdict.evidence else []
    assert len(counted) == len(set(counted)) > 0, "no window counts twice"
    check_log(clone.log())
    world.loop.close()


def test_the_same_size_with_another_root_stops_both_sides_and_nothing_is_overwritten(tmp_path: Path) -> None:
    world = World(4)
    world.start()
    world.run(40)
    world.stop()
    clone = clone_of(world, 40)
    world.start()
    world.run(20)
    clone.start(compare=False)
    while clone.gateway.journal.size < world.gateway.journal.size:
        clone.run(1, online=False)
    assert clone.gateway.journal.size == world.gateway.journal.size
    before = list(clone.log())
    shown: list[tuple[int, str]] = []
    take = world.platform._submit

    def submitted(body: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        shown.append((body["first"] + len(body["entries"]), body["checkpoint"]))
        return take(body)
    world.platform._submit = submitted  # type: ignore[method-assign] # to see what the clone shows
    with pytest.raises(EvidenceError) as caught:
        clone.loop.run_until_complete(clone.submitter.work())
    assert caught.value.problems[0].code == "sealing.fork"
    assert clone.log() == before and world.platform.entries == world.log()
    size = len(world.platform.entries)
    assert shown == [(size, clone.gateway.sealer.checkpoint_at(size).decode())], "both checkpoints can be registered"
    clone.stop()
    with pytest.raises(EvidenceError):  # and at every start: it seals nothing more
        clone.start()
    clone.disk.unlock()
    assert Journal(clone.disk, writable=False).encoded(0, len(before)) == before
    world.platform.round()
    world.loop.run_until_complete(world.submitter.work())
    verdict = judged(world, tmp_path)
    assert verdict.valid, "the history that came first stands"
    # The other one does not: the register's heads are not heads of it.
    export_bundle(Journal(world.disk, writable=False), out=tmp_path / "first.tally")
    proofs = {path: data for path, data in world.disk.visible.items() if path.startswith("register/")}
    clone.disk.visible = {p: d for p, d in clone.disk.visible.items() if not p.startswith("register/")} | proofs
    export_bundle(Journal(clone.disk, writable=False), out=tmp_path / "second.tally")
    second = verify(open_bundle(tmp_path / "second.tally"), parse(POLICY, where="policy"))
    assert not second.valid and "head.differs" in codes(second)
    world.loop.close()


def test_a_gateway_whose_entries_are_refused_as_revoked_looks_for_the_revocation_itself() -> None:
    """The platform's word is not enough: the signed revocation is fetched, and stays with the receipts."""
    world = World(6)
    world.start()
    world.run(40)
    size = world.platform.tree.size
    asked = []

    def refuse(body: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        asked.append(body["first"])
        raise DeviceError(Problem.of("sim", "sealing.platform_refused", status=403, refusal="platform.revoked",
                                     place="", message=""))
    world.platform._submit = refuse  # type: ignore[method-assign] # the rest is answered as ever
    world.run(30)
    assert asked and world.submitter.said()["revoked_from"] is None, "nobody has signed it"
    world.platform.say({"type": "revoke", "revocation": signed.sign("revocation", {
        "gateway": world.platform.gateway, "gateway_key": world.platform.public.hex(), "from_size": size},
        private_key(99))})
    world.run(60)
    assert world.submitter.said()["revoked_from"] == size
    assert world.events.count("statements.own_key_revoked") == 1
    taken = len(world.gateway.taken)
    world.run(10)
    assert len(world.gateway.taken) > taken, "it seals on: whoever reads the log decides"
    world.loop.close()


def test_a_plant_without_a_platform_compares_nothing_and_says_so() -> None:
    world = World(5)
    world.start(compare=False)
    starts = [e for e in entries(world) if e["type"] == "start"]
    assert [e["platform_size"] for e in starts] == [None] and starts[0]["local_size"] == 1
    world.loop.close()
