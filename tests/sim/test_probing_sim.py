"""Crashes around what is sealed behind windows: each `reads` entry in the log has the transcript it commits to."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from gateway.counting.window import ClosedWindow, Gap
from protocols.evidence.encoding import to_base64
from protocols.evidence.reads import root
from tests.sim.disk import CrashError, FaultyDisk
from tests.sim.rows import registry
from tests.sim.test_crash_sim import KEY, verified
from tests.sim.world import Gateway, Time

SEEN = {"size": 9, "root": "ab" * 32, "witness": "bureau", "time_s": 1_790_000_000, "signature": to_base64(bytes(64))}
ROSTER = registry(2, 2)


class Reading(Gateway):
    """A gateway that seals reads behind some windows, in the order in which gateway/probing/probing.py does it.

    transcripts: seq -> rows, as the files of the state folder: written before the entry, replaced when written again.
    """

    transcripts: dict[int, list[dict[str, Any]]]

    def take(self, item: ClosedWindow | Gap, seen: dict[str, Any] | None = None) -> None:
        before = len(self.taken)
        super().take(item, seen)
        if isinstance(item, Gap) or len(self.taken) == before or self.rng.random() < 0.3:
            return
        rows = [{"i": 0, "point": 0, "at_ms": self.rng.randrange(5000), "asked_ms": None, "answered_ms": None,
                 "value": None, "blind": self.rng.randbytes(16).hex()}]
        try:
            self.transcripts[self.sealer.next_seq()] = rows
            self.sealer.record("reads", {"start_s": item.start_s, "roster": self.journal.history.roster, "seen": SEEN,
                                         "rows": 1, "answered": 0, "root": root(rows)})
        except OSError:
            self.events.append("not sealed")


def check(found: dict[str, Any], transcripts: dict[int, list[dict[str, Any]]]) -> int:
    """Every `reads` entry stands behind its window, with that window's roster, and its transcript opens it."""
    newest: dict[str, Any] = {}
    sealed = 0
    for data in found["entries"]:
        value = json.loads(data)
        if value["type"] == "window":
            newest = value
        if value["type"] == "reads":
            sealed += 1
            assert (value["start_s"], value["roster"]) == (newest["start_s"], newest["roster"])
            assert root(transcripts[value["seq"]]) == value["root"], value["seq"]
    return sealed


@pytest.mark.parametrize("fault", FaultyDisk.FAULTS)
def test_whatever_step_fails_a_sealed_entry_has_its_transcript(fault: str) -> None:
    def life(seed: object, at: int) -> tuple[FaultyDisk, int]:
        rng = random.Random(str(seed))
        disk, time = FaultyDisk(rng), Time()
        transcripts: dict[int, list[dict[str, Any]]] = {}
        Reading.transcripts = transcripts
        disk.fault = lambda step: fault if step == at else None
        try:
            gateway = Reading(disk, KEY, time, ROSTER, rng)
            gateway.run(30)
        except (CrashError, OSError):
            disk.unlock()
        else:
            gateway.journal.close()
        check(verified(disk), transcripts)
        gateway = Reading(disk, KEY, time, ROSTER, rng)
        gateway.run(30)
        gateway.journal.close()
        return disk, check(verified(disk), transcripts)

    disk, sealed = life("without a fault", 0)
    steps = disk.steps
    assert sealed >= 4 and steps > 30
    assert sum(life(at, at)[1] for at in range(1, steps // 2)) > steps
