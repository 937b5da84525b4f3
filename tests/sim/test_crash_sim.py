"""Crashes, full disks and cut journals: what was sealed stays, what is missing is on the record as missing."""

from __future__ import annotations

import json
import random

import pytest

from gateway.sealing.journal import Journal
from protocols.errors import EvidenceError
from tests.sim.disk import CrashError, FaultyDisk
from tests.sim.oracle import check_checkpoint, check_log, slow_root
from tests.sim.rows import registry
from tests.sim.world import Gateway, Time, private_key

KEY = private_key(1)
PUBLIC = bytes.fromhex("4cb5abf6ad79fbf5abbccafcc269d85cd2651ed4b885b5869f241aedf0a5ba29")
REGISTRIES = (registry(2, 2), registry(3, 2), registry(3, 2, gone=frozenset({1})))


def whole_log(journal: Journal) -> list[bytes]:
    return journal.encoded(0, journal.size)


def verified(disk: FaultyDisk) -> dict:
    """Open the journal as a next start would, check everything the slow way, close it."""
    disk.fault = lambda step: None
    journal = Journal(disk)
    entries = whole_log(journal)
    found = check_log(entries) if entries else {"windows": {}, "covered": None, "outages": [], "kinds": []}
    if entries:
        assert journal.checkpoint is not None
        check_checkpoint(entries, journal.checkpoint, PUBLIC)
    journal.close()
    return found | {"entries": entries}


def crash_run(seed: int) -> int:
    """Run with crashes until ten of them happened; return how many did."""
    rng = random.Random(seed)
    disk = FaultyDisk(rng)
    time = Time(1_800_000_000 + rng.random() * 7)
    known: dict[int, int] = {}  # windows that the sealer said are sealed: they must never go
    log_before: list[bytes] = []
    crashes = 0
    roster = 0
    while crashes < 10:
        at = disk.steps + rng.randrange(1, 20)
        faults = {at + rng.randrange(1, 6): rng.choice(FaultyDisk.FAULTS[:3]), at: rng.choice(FaultyDisk.FAULTS)}
        disk.fault = faults.get
        gateway = None
        journals: list[Journal] = []
        try:
            roster = max(roster, rng.choice([0, 0, 0, 1, 2]))
            gateway = Gateway(disk, KEY, time, REGISTRIES[roster], rng,
                              before_begin=lambda sealer, journals=journals: journals.append(sealer.journal))
            for _ in range(7):
                gateway.run(5)
                if rng.random() < 0.15 and roster + 1 < len(REGISTRIES):
                    roster += 1
                    gateway.windows.adopt(REGISTRIES[roster])
            if rng.random() < 0.5:
                items, lost = gateway.windows.finish()
                for item in items:
                    gateway.take(item)
                gateway.sealer.stop(lost)
            gateway.journal.close()
        except CrashError:
            crashes += 1
        except OSError:  # at start: the process ends, the service manager starts it again
            crashes += 1
            disk.unlock()
        if gateway is not None:
            known |= gateway.taken
        found = verified(disk)
        for start_s, received in known.items():
            assert found["windows"][start_s]["samples"]["received"] == received
        for journal in journals:  # whatever was in memory may have left the machine: it must still be there
            assert slow_root(found["entries"][: journal.size]) == journal.tree.root(), seed
        common = min(len(log_before), len(found["entries"]))
        assert found["entries"][:common] == log_before[:common]
        log_before = found["entries"]
        time.pass_s(rng.random() * 20)
    final = Gateway(disk, KEY, time, REGISTRIES[roster], rng)
    final.run(12)
    final.journal.close()
    found = verified(disk)
    # Everything up to now is a window or an outage: check_log has seen no hole, this is its end.
    assert found["covered"] is not None and found["covered"] > time.wall_ns / 1e9 - 5 - 2
    return crashes


@pytest.mark.parametrize("chunk", range(10))
def test_after_any_crash_the_log_verifies_and_no_window_is_lost_or_doubled(chunk: int) -> None:
    crashes = sum(crash_run(seed) for seed in range(chunk * 10, chunk * 10 + 10))
    assert crashes >= 100


@pytest.mark.parametrize("fault", FaultyDisk.FAULTS)
def test_every_single_step_may_fail(fault: str) -> None:
    """One fault at each step of a short life, one life for each: none is skipped by chance."""
    rng = random.Random(fault)
    disk = FaultyDisk(rng)
    gateway = Gateway(disk, KEY, Time(), REGISTRIES[0], rng)
    gateway.run(22)
    steps = disk.steps
    assert steps > 15
    for at in range(1, steps + 1):
        rng = random.Random(f"{fault} {at}")
        disk, time = FaultyDisk(rng), Time()
        disk.fault = lambda step, at=at: fault if step == at else None
        taken: dict[int, int] = {}
        try:
            gateway = Gateway(disk, KEY, time, REGISTRIES[0], rng)
            taken = gateway.taken
            gateway.run(22)
        except (CrashError, OSError):
            disk.unlock()
        else:
            gateway.journal.close()
        found = verified(disk)
        assert taken.keys() <= found["windows"].keys()
        gateway = Gateway(disk, KEY, time, REGISTRIES[0], rng)
        gateway.run(12)
        gateway.journal.close()
        assert gateway.taken.keys() <= verified(disk)["windows"].keys()


def test_full_disk_while_sealing_becomes_an_outage_when_space_returns() -> None:
    rng = random.Random(3)
    disk, time = FaultyDisk(rng), Time()
    gateway = Gateway(disk, KEY, time, REGISTRIES[0], rng)
    gateway.run(12)
    size, before = gateway.journal.size, set(gateway.taken)
    disk.full = True
    gateway.run(20)
    assert gateway.journal.size == size and "sealing.disk_full" in gateway.events
    assert set(gateway.taken) == before
    disk.full = False
    gateway.run(10)
    gateway.journal.close()
    found = verified(disk)
    outage = found["outages"][-1]
    assert outage["reason"] == "disk_full"
    assert outage["missing"]["windows"] == (outage["end_s"] - outage["start_s"]) // 5 == 4
    assert outage["missing"]["samples"] is not None
    assert found["windows"].keys() >= set(gateway.taken) and set(gateway.taken) > before


def test_clean_stop_is_told_from_a_crash() -> None:
    rng = random.Random(4)
    disk, time = FaultyDisk(rng), Time()
    for stop in (True, False, True):
        gateway = Gateway(disk, KEY, time, REGISTRIES[0], rng)
        gateway.run(14)
        if stop:
            gateway.sealer.stop(7)
        gateway.journal.close()
    gateway = Gateway(disk, KEY, time, REGISTRIES[0], rng)
    gateway.journal.close()
    outages = verified(disk)["outages"]
    assert [(o["reason"], o["missing"]["samples"]) for o in outages] == [("off", 7), ("crash", None), ("off", 7)]


def small_life() -> tuple[FaultyDisk, set[int]]:
    rng = random.Random(5)
    disk = FaultyDisk(rng)
    gateway = Gateway(disk, KEY, Time(), REGISTRIES[0], rng)
    gateway.run(17)
    gateway.journal.close()
    return disk, set(gateway.taken)


def test_journal_cut_at_every_byte_is_refused_and_left_alone() -> None:
    """Every file that a checkpoint covers, cut at every length: a clear error, and not a byte changed."""
    disk, _ = small_life()
    for path in [p for p in disk.visible if not p.endswith("stopped")]:
        whole = disk.visible[path]
        for length in range(len(whole)):
            disk.visible[path] = whole[:length]
            before = dict(disk.visible)
            with pytest.raises(EvidenceError) as caught:
                gateway = Gateway(disk, KEY, Time(1_800_000_100), REGISTRIES[0], random.Random(0))
                gateway.journal.close()
            assert {p.code for p in caught.value.problems} <= {"journal.broken"}, path
            assert disk.visible == before
            disk.unlock()
        disk.visible[path] = whole


def test_journal_with_any_flipped_byte_is_refused() -> None:
    disk, _ = small_life()
    rng = random.Random(6)
    for path in [p for p in disk.visible if not p.endswith("stopped")]:
        whole = disk.visible[path]
        for at in range(0, len(whole), 7):
            bad = bytearray(whole)
            bad[at] ^= 1 << rng.randrange(8)
            disk.visible[path] = bytes(bad)
            with pytest.raises(EvidenceError):
                gateway = Gateway(disk, KEY, Time(1_800_000_100), REGISTRIES[0], random.Random(0))
                gateway.journal.close()
            disk.unlock()
        disk.visible[path] = whole


def test_a_tail_that_no_checkpoint_covers_is_cut_at_every_byte() -> None:
    """An append that was torn anywhere: the log is the one before, and the window is on the record as missing."""
    disk, taken = small_life()
    segment = "log-0/entries/000000000000"
    covered = disk.visible[segment]
    record = covered[-200:]
    for length in range(0, len(record), 3):
        disk.visible[segment] = disk.durable[segment] = covered + record[:length]
        found = verified(disk)
        assert set(found["windows"]) == taken
        assert disk.visible[segment] == covered


def test_lost_checkpoint_is_not_taken_for_a_new_gateway() -> None:
    disk, _ = small_life()
    del disk.visible["log-0/checkpoint"]
    before = dict(disk.visible)
    with pytest.raises(EvidenceError):
        Journal(disk)
    assert disk.visible == before


def test_second_process_is_kept_out() -> None:
    disk, _ = small_life()
    first = Journal(disk)
    with pytest.raises(EvidenceError) as caught:
        Journal(disk)
    assert caught.value.problems[0].code == "journal.locked"
    first.close()


def test_clock_steps_back_and_forth() -> None:
    """Short steps move nothing; a clock that stays away is followed, and the log says so."""
    rng = random.Random(8)
    disk, time = FaultyDisk(rng), Time()
    gateway = Gateway(disk, KEY, time, REGISTRIES[0], rng)
    gateway.run(13)
    for step in (3_000, -3_000, 40, -40, -100_000, 100_000):  # there and back before it is believed
        time.step_s(step)
        gateway.run(3)
    gateway.run(10)
    found_before = set(gateway.taken)
    assert found_before == set(range(min(found_before), max(found_before) + 1, 5))
    time.step_s(7_200)
    gateway.run(40)
    time.step_s(-7_200)
    gateway.run(40)
    gateway.journal.close()
    found = verified(disk)
    assert [o["reason"] for o in found["outages"]] == ["clock_forward", "clock_back"]
    steps = {json.loads(e)["clock"]["step_ms"] for e in found["entries"] if json.loads(e)["type"] == "window"}
    assert {3_000_000, -3_000_000} & steps and -100_000_000 in steps
    assert max(abs(s) for s in steps) == 100_000_000


def test_machine_that_slept_does_not_seal_what_it_did_not_see() -> None:
    rng = random.Random(9)
    disk, time = FaultyDisk(rng), Time()
    gateway = Gateway(disk, KEY, time, REGISTRIES[0], rng)
    gateway.windows.online([0], gateway.windows._clock.now_ns())
    gateway.run(13)
    time.pass_s(300)
    gateway.run(13)
    gateway.journal.close()
    outage, = verified(disk)["outages"]
    assert outage["reason"] == "off" and outage["missing"] == {"windows": 59, "samples": 0}
