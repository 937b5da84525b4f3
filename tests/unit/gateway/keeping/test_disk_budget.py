"""The state folder stays within its budget: a year on a simulated disk, in bytes. Promises stand until they end."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from gateway.keeping.keeper import FILE, PROMISE
from gateway.keeping.retention import Limits, Retention, kind_of, use_of
from gateway.sealing.disk import RealDisk
from gateway.sealing.journal import Branch
from tests.sim.disk import FaultyDisk
from tests.sim.world import START_S, Time
from tests.unit.gateway.keeping.test_keeper import HOUR_S, Below, Plant

DAY_S = 86_400
KB = 1024


class Season:
    """Files as large as the season has it, so that the budget is met and passed in turn. Counts what it was given."""

    def __init__(self) -> None:
        self.bytes = 3 * KB

    def write(self, frames: Iterable[bytes]) -> bytes:
        assert sum(len(frame) for frame in frames) > 0
        return random.Random(1).randbytes(self.bytes)


def test_a_year_within_the_budget_and_no_promise_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight hours a day; at night the machine sleeps."""
    monkeypatch.setattr("gateway.keeping.keeper.segment.pack_rest", lambda chunk, samples, *, state: bytes(300))
    disk, time, season = FaultyDisk(random.Random(1)), Time(START_S), Season()
    limits = Limits(budget_bytes=3_300 * KB, raw_bytes=1500 * KB, receipts_bytes=100 * KB, retain_s=14 * DAY_S,
                    transcripts_s=30 * DAY_S)
    reads: dict[int, int] = {}
    plant = Plant(disk, time, len_s=HOUR_S, limits=limits, retain_s=limits.retain_s, write=season.write, sampled=1)
    plant.retention._expire_reads = lambda before_s: [
        disk.remove(f"reads/{written}.json") for written in list(reads) if written < before_s and reads.pop(written)]
    promised: dict[str, int] = {}
    full_days, empty_days, largest, most_raw = 0, 0, 0, 0
    for day in range(365):
        season.bytes = (9 if day // 60 % 2 == 0 else 27) * KB  # 14 days of it: 1008 kB, then 3024 kB
        written = int(time.wall_ns // 10**9)
        disk.replace(f"reads/{written}.json", bytes(2 * KB))
        reads[written] = 2 * KB
        plant.run(8 * HOUR_S, step_s=HOUR_S)
        time.pass_s(16 * HOUR_S)
        for kept in plant.keeper.promises.values():
            promised.setdefault(kept.name, kept.retain_until_s)
        now_s = plant.windows.opens_s
        plant.retention.sweep(plant.log.branch, now_s=now_s, wall_s=time.wall_ns / 1e9)
        plant.retention.grows(3, 6, HOUR_S)
        if plant.spool.paused != plant.keeper.full:  # what gateway.keeping.keeping decides on the loop
            plant.spool.pause()
        elif plant.spool.paused and plant.retention.room(2 * 28 * KB):
            plant.keeper.full = False
            plant.spool.resume(now_s // HOUR_S + 1)
        use = plant.use()
        assert sum(use.values()) <= limits.budget_bytes, (day, use)
        assert use["raw"] <= limits.raw_bytes, (day, use)
        assert use["transcripts"] <= 31 * 2 * KB
        for name, until_s in promised.items():
            there = disk.size(f"raw/{name}") > 0
            assert there or until_s < now_s, f"{name} was promised until {until_s}, it is {now_s}"
            assert not there or until_s >= now_s - DAY_S, f"{name} has ended and is still there"
        full_days += plant.keeper.full
        empty_days += not plant.keeper.promises
        largest, most_raw = max(largest, sum(use.values())), max(most_raw, use["raw"])
    windows = len(plant.entries("window"))
    assert windows > 365 * 7
    assert 60 < full_days < 300 and empty_days == 0, full_days
    assert plant.events.count("keep.full") >= 2
    assert plant.keeper.lost_windows > 7 * 30
    assert plant.keeper.lost_windows + plant.keeper.kept_windows == windows
    assert most_raw > limits.raw_bytes * 3 // 4 and largest > limits.budget_bytes * 7 // 8, "the limits were not near"


def test_evidence_that_will_come_has_its_room_before_raw_data(tmp_path: Path) -> None:
    use = {"evidence": 400 * KB, "superseded": 0, "receipts": 0, "raw": 0, "transcripts": 0, "other": 0}
    retention = Retention(
        Limits(budget_bytes=1000 * KB, raw_bytes=900 * KB, receipts_bytes=KB, retain_s=10 * DAY_S, transcripts_s=1),
        measure=lambda: use, journal=RealDisk(tmp_path))
    assert retention.room(599 * KB)
    retention.grows(devices=0, points=0, len_s=HOUR_S)  # a kilobyte an hour for ten days: 240 kB must stay free
    assert retention.room(359 * KB) and not retention.room(361 * KB)
    retention.grows(devices=6 * 1024, points=2 * 1024, len_s=HOUR_S)
    assert not retention.room(1)


def test_what_goes_goes_in_order_and_evidence_stays(tmp_path: Path) -> None:
    files = {"journal/log-0/entries/0": 50, "journal/log-0/checkpoint": 1, "journal/log-1/entries/0": 50,
             "journal/log-2/entries/0": 50, "journal/log-2/checkpoint": 1, "journal/current": 1,
             "journal/register/1.proof": 40, "roster.json": 5, "reads/1.json": 9}
    for name, size in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    use = use_of(tmp_path, "log-2")
    assert use == {"evidence": 52, "superseded": 101, "receipts": 40, "raw": 0, "transcripts": 9, "other": 5}
    asked: list[int] = []
    branch = Branch("log-2", "log-1", 5, 9)

    def sweep(budget: int) -> Retention:
        retention = Retention(
            Limits(budget_bytes=budget, raw_bytes=1, receipts_bytes=1000, retain_s=1, transcripts_s=100),
            measure=lambda: use_of(tmp_path, "log-2"), journal=RealDisk(tmp_path / "journal"), thin=asked.append,
            expire_reads=lambda before_s: (tmp_path / "reads/1.json").unlink(missing_ok=before_s < 900))
        retention.sweep(branch, now_s=1000, wall_s=1000)
        return retention

    sweep(10_000)
    assert asked == [1000] and (tmp_path / "journal/log-0/entries/0").exists()
    assert not (tmp_path / "reads/1.json").exists()
    (tmp_path / "reads/1.json").write_bytes(b"")
    assert sweep(140).over_bytes == 7  # 52 + 50 of the log before + 40 + 5
    assert asked[1:] == [33] and not (tmp_path / "journal/log-0/entries/0").exists()
    assert (tmp_path / "journal/log-1/entries/0").exists() and (tmp_path / "journal/log-2/entries/0").exists()


def test_kinds_of_files() -> None:
    assert [kind_of(path, "log-1") for path in (
        "raw/a.parquet", "raw/open/a.journal", "reads/3.json", "journal/register/1.proof", "journal/log-0/checkpoint",
        "journal/log-1/checkpoint", "journal/stopped", "keys/gateway.pem")] == [
        "raw", "raw", "transcripts", "receipts", "superseded", "evidence", "evidence", "other"]


def test_a_promise_that_ended_takes_its_file_along_and_nothing_else() -> None:
    plant = Plant(FaultyDisk(random.Random(2)), Time(START_S))
    plant.run(5 * HOUR_S + 60)
    names = sorted(plant.keeper.promises)
    until = [plant.keeper.promises[name].retain_until_s for name in names]
    assert len(names) == 5
    assert plant.keeper.expire(until[1]) > 0  # its own last second is still promised
    disk = Below(plant.disk, "raw")
    assert [n for n in disk.names("") if n.endswith(FILE)] == names[1:]
    assert [n for n in disk.names("") if n.endswith(PROMISE)] == [n.replace(FILE, PROMISE) for n in names[1:]]
    assert plant.keeper.expire(until[1]) == 0
