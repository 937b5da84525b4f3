"""Sealed windows into promised files: whatever the disk does, no promise without its file, and no window twice."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from gateway.counting.rule import Rule
from gateway.counting.window import ClosedWindow, Gap
from gateway.keeping.keeper import FILE, JOURNAL, OPEN, PROMISE_BYTES, Keeper, Kept
from gateway.keeping.keeping import seal_promise
from gateway.keeping.retention import Limits, Retention, kind_of
from gateway.keeping.spool import Chunk
from gateway.sealing.journal import Journal
from gateway.sealing.sealer import Sealer
from tests.sim.disk import CrashError, FaultyDisk
from tests.sim.rows import registry
from tests.sim.world import SOFTWARE, START_S, Time, batch, certificate, private_key
from tests.unit.gateway.keeping.raw_windows import assert_equal, recounted, spooled

ROSTER = registry(3, 2)
HOUR_S = 3600


class Below:
    """A folder of a disk as a disk."""

    def __init__(self, disk: FaultyDisk, folder: str) -> None:
        self._disk, self._folder = disk, folder

    def names(self, folder: str) -> list[str]:
        return self._disk.names(f"{self._folder}/{folder}".rstrip("/"))

    def lock(self) -> None:
        pass

    def unlock(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._disk, name)
        return lambda path, *args: method(f"{self._folder}/{path}", *args)


class Plant:
    """One gateway that keeps raw data, on a simulated disk. What the agent does, in order and at once."""

    def __init__(self, disk: FaultyDisk, time: Time, *, len_s: int = 600, retain_s: int = 86_400,
                 limits: Limits | None = None, write: Any = None, seed: int = 1, sampled: int = 3) -> None:
        self.disk, self.time, self.rng, self.sampled = disk, time, random.Random(seed), sampled
        self.rule = Rule(len_s=len_s, grace_ms=1000)
        self.events: list[str] = []
        self.log = Journal(Below(disk, "journal"))
        tell = lambda code, where, **args: self.events.append(code)  # noqa: E731  # one line is all it is
        self.sealer = Sealer(self.log, [private_key(5)], tell)
        self.sealer.enrol(certificate(private_key(5), private_key(77)))
        self.windows, self.spool = spooled(ROSTER, self.rule, time)
        self.sealer.begin(software=SOFTWARE, rule=self.rule, registry=ROSTER, opens_s=self.windows.opens_s,
                          platform_size=None)
        self.retention = Retention(
            limits or Limits(budget_bytes=10**9, raw_bytes=10**9, receipts_bytes=10**9, retain_s=retain_s,
                             transcripts_s=retain_s), measure=self.use, journal=Below(disk, "journal"))
        more = {} if write is None else {"write": write}
        self.keeper = Keeper(Below(disk, "raw"), retain_s=retain_s, room=self.retention.room, event=tell, **more)
        self.retention.keeper = self.keeper
        self.waiting: list[Kept] = self.keeper.recover(self.log)
        self.sealed: dict[int, ClosedWindow] = {}
        self.record()

    def use(self) -> dict[str, int]:
        use = dict.fromkeys(("evidence", "superseded", "receipts", "raw", "transcripts", "other"), 0)
        for path, data in self.disk.visible.items():
            use[kind_of(path, self.log.branch.log)] += len(data)
        return use

    def record(self) -> None:
        while self.waiting:
            kept = self.waiting[0]
            seq = seal_promise(self.sealer, kept)
            del self.waiting[0]
            self.keeper.recorded(kept, seq)

    def run(self, seconds: int, step_s: int = 60) -> None:
        for _ in range(0, seconds, step_s):
            self.time.pass_s(step_s)
            now_ns = self.windows._clock.now_ns()
            if not self.spool.paused:
                self.windows.samples(batch(self.rng, ROSTER, now_ns, self.rng.randrange(self.sampled + 1)))
                self.windows.answered([self.rng.randrange(3)], now_ns)
            for item in self.windows.tick():
                self.take(item)

    def take(self, item: ClosedWindow | Gap) -> None:
        if isinstance(item, Gap):
            self.sealer.gap(item)
            return
        seq = self.log.size - 1 if self.sealer.seal(item, None) else None
        if seq is not None:
            assert self.log.entry(seq)["start_s"] == item.start_s
            self.sealed[item.start_s] = item
        chunk = item.raw
        assert chunk is None or isinstance(chunk, Chunk)
        self.waiting += self.keeper.take(chunk, seq)
        if chunk is not None:
            self.spool.release(chunk)
        try:
            self.record()
        except OSError:
            self.events.append("test.not_recorded")

    def entries(self, kind: str) -> list[dict[str, Any]]:
        return [value for value in map(self.log.entry, range(self.log.size)) if value["type"] == kind]


def check_promises(plant: Plant, windows: dict[int, ClosedWindow], folder: Path) -> set[int]:
    """Every `keep` entry has its file, which gives its windows once more; return the windows that are kept."""
    kept: set[int] = set()
    for entry in plant.entries("keep"):
        data = plant.keeper.disk.read(entry["name"])
        assert data is not None and len(data) == entry["bytes"]
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        inside = [value["start_s"] for value in map(plant.log.entry, range(entry["from_seq"], entry["to_seq"] + 1))
                  if value["type"] == "window"]
        assert not kept & set(inside)
        kept |= set(inside)
        run = [windows[start_s] for start_s in inside]
        assert_equal(run, recounted(run, data, plant.rule, folder))
        assert {start_s // HOUR_S for start_s in inside} == {inside[0] // HOUR_S}
        assert entry["retain_until_s"] == inside[-1] + plant.rule.len_s + 86_400
    return kept


def test_every_hour_is_a_file_and_a_promise(tmp_path: Path) -> None:
    plant = Plant(FaultyDisk(random.Random(1)), Time(START_S))
    plant.run(3 * HOUR_S + 60)
    assert len(plant.entries("keep")) == 3  # START_S is the start of an hour
    plant.run(2 * 600)
    for kept in plant.keeper.finish():
        plant.keeper.recorded(kept, plant.sealer.record("keep", kept.fields()))
    kept = check_promises(plant, plant.sealed, tmp_path)
    assert kept == set(plant.sealed)
    assert plant.keeper.disk.names(OPEN) == [] and plant.keeper.lost_windows == 0
    assert plant.keeper.used_bytes == sum(e["bytes"] + PROMISE_BYTES for e in plant.entries("keep"))
    name = plant.entries("keep")[0]["name"]
    assert name.startswith("raw-20270115t08-") and name.endswith(FILE)


@pytest.mark.parametrize("seed", range(30))
def test_crashes_and_refusals_lose_little_and_promise_nothing_false(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    disk, time = FaultyDisk(rng), Time(START_S)
    windows: dict[int, ClosedWindow] = {}
    crashes = 0
    for _ in range(6):
        plant = None
        disk.fault = lambda step: rng.choice(FaultyDisk.FAULTS) if rng.random() < 0.02 else None
        try:
            plant = Plant(disk, time, seed=rng.randrange(1000))
            plant.run(rng.randrange(2, 10) * 600)
        except CrashError:
            crashes += 1
        except OSError:
            pass
        disk.fault = lambda step: None
        disk.unlock()
        windows |= plant.sealed if plant is not None else {}
        time.pass_s(rng.randrange(1, 1500))
    last = Plant(disk, time)
    last.run(HOUR_S)
    windows |= last.sealed
    kept = check_promises(last, windows, tmp_path)
    assert set(last.sealed) - kept <= {max(last.sealed)} | {s for s in last.sealed if s // HOUR_S == max(
        last.sealed) // HOUR_S}
    assert kept


def test_a_crash_loses_what_was_not_appended_and_nothing_else(tmp_path: Path) -> None:
    disk, time = FaultyDisk(random.Random(3)), Time(START_S)
    plant = Plant(disk, time)
    plant.run(4 * 600 + 120)
    before = dict(plant.sealed)
    assert len(before) == 4 and plant.entries("keep") == [] and len(plant.keeper.disk.names(OPEN)) == 1
    disk._power_cut()
    time.pass_s(30)
    again = Plant(disk, time)
    assert check_promises(again, before, tmp_path) == set(before)
    assert again.keeper.disk.names(OPEN) == []


def test_a_torn_tail_of_the_journal_is_left_out(tmp_path: Path) -> None:
    disk, time = FaultyDisk(random.Random(3)), Time(START_S)
    plant = Plant(disk, time)
    plant.run(4 * 600 + 120)
    path = next(p for p in disk.visible if p.endswith(JOURNAL))
    for cut in (9, 2000):
        left = FaultyDisk(random.Random(4))
        left.visible = dict(disk.visible)
        left.visible[path] = disk.visible[path][:-cut] + bytes(40)
        left.durable = dict(left.visible)
        again = Plant(left, Time(time.wall_ns / 1e9 + 60))
        kept = check_promises(again, plant.sealed, tmp_path)
        assert kept == set(sorted(plant.sealed)[:len(kept)]) and 0 < len(kept) < 4
