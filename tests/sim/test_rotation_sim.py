"""Rotation cut anywhere: the key in force is always one that is kept, and the log goes on under it."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.sealing.journal import Journal
from gateway.sealing.sealer import Sealer
from protocols.evidence import keys, note, signed
from tests.sim.disk import CrashError, FaultyDisk
from tests.sim.oracle import check_checkpoint, check_log, slow_root
from tests.sim.rows import registry
from tests.sim.world import Gateway, Time, private_key

KEY = private_key(1)
ROSTER = registry(2, 2)


@dataclass
class Machine:
    """One PC: its disk, its clock, and its key files, which are durable as soon as they are in `ring`."""

    rng: random.Random
    ring: list[Ed25519PrivateKey] = field(default_factory=lambda: [KEY])

    def __post_init__(self) -> None:
        self.disk, self.time = FaultyDisk(self.rng), Time()
        self.taken: dict[int, int] = {}

    def run(self, seconds: int, *, stop: bool = False) -> None:
        """Start, seal for some time, and stop, cleanly or not."""
        first, *later = self.ring
        gateway = Gateway(self.disk, first, self.time, ROSTER, self.rng, old_keys=tuple(later))
        try:
            gateway.run(seconds)
            if stop:
                gateway.sealer.stop(3)
        finally:
            self.taken |= gateway.taken
        gateway.journal.close()

    def rotate(self) -> str:
        """Do what gateway/commissioning/rotation.py does; the ring stands for its key files."""
        journal = Journal(self.disk)
        sealer = Sealer(journal, self.ring, lambda code, where, **args: None)
        if keys.public_bytes(self.ring[-1]).hex() in {key for _, key in journal.history.keys}:
            self.ring.append(private_key(100 + len(self.ring)))
        sealer.rotate(self.ring[-1])
        in_force = journal.history.key
        journal.close()
        return in_force

    def checked(self) -> tuple[list[bytes], list[str]]:
        """Read the log as a next start would, the slow way; return its entries, and the keys that it names in order."""
        self.disk.fault = lambda step: None
        self.disk.unlock()
        journal = Journal(self.disk)
        entries = journal.encoded(0, journal.size)
        check_log(entries)
        named = [keys.public_bytes(KEY).hex()]
        for seq, data in enumerate(entries):
            value = json.loads(data)
            if value["type"] == "key":
                signed.verify("rotation", value["rotation"], signers={named[-1]}, where="t")
                assert value["rotation"]["root"] == slow_root(entries[:seq]).hex() and value["rotation"]["seq"] == seq
                named.append(value["rotation"]["new_key"])
        assert journal.checkpoint is not None
        check_checkpoint(entries, journal.checkpoint, bytes.fromhex(named[-1]))
        kept = {keys.public_bytes(key).hex() for key in self.ring}
        assert set(named) <= kept, "a key in force is not kept"
        journal.close()
        return entries, named


def steps_of_a_rotation() -> tuple[int, int]:
    machine = Machine(random.Random(0))
    machine.run(17, stop=True)
    before = machine.disk.steps
    machine.rotate()
    return before, machine.disk.steps


@pytest.mark.parametrize("fault", FaultyDisk.FAULTS)
def test_a_rotation_may_fail_at_every_step(fault: str) -> None:
    before, after = steps_of_a_rotation()
    assert after - before >= 4
    sealed = 0
    for at in range(before + 1, after + 1):
        machine = Machine(random.Random(f"{fault} {at}"))
        machine.run(17, stop=True)
        machine.disk.fault = lambda step, at=at: fault if step == at else None
        with pytest.raises((CrashError, OSError)):
            machine.rotate()
        entries, named = machine.checked()
        sealed += len(named) == 2
        assert len(machine.ring) <= 2
        machine.run(12)
        if len(named) == 1:  # the next attempt uses the key that was made
            machine.rotate()
            assert len(machine.ring) == 2
        machine.run(12)
        later, named = machine.checked()
        assert later[: len(entries)] == entries and len(named) == 2
        assert machine.taken.keys() <= check_log(later)["windows"].keys()
    assert sealed or fault == "crash_before", "some cut comes behind the effect"


def test_a_clean_stop_is_still_one_behind_a_rotation() -> None:
    machine = Machine(random.Random(1))
    machine.run(17, stop=True)
    machine.rotate()
    machine.time.pass_s(30)
    machine.run(12)
    machine.rotate()  # after a crash
    machine.time.pass_s(30)
    machine.run(12)
    entries, named = machine.checked()
    assert len(named) == 3 and len(set(named)) == 3
    assert [o["reason"] for o in check_log(entries)["outages"]] == ["off", "crash"]


@pytest.mark.parametrize("seed", range(30))
def test_lives_with_rotations_and_crashes(seed: int) -> None:
    machine = Machine(random.Random(seed))
    rng = machine.rng
    machine.run(12)
    before: list[bytes] = []
    for _ in range(12):
        at = machine.disk.steps + rng.randrange(1, 40)
        fault = rng.choice([*FaultyDisk.FAULTS[:3], *FaultyDisk.FAULTS])
        machine.disk.fault = lambda step, at=at, fault=fault: fault if step == at else None
        try:
            if rng.random() < 0.5:
                machine.rotate()
            machine.run(rng.randrange(5, 30), stop=rng.random() < 0.5)
        except (CrashError, OSError):
            pass
        entries, _ = machine.checked()
        assert entries[: len(before)] == before
        before = entries
        machine.time.pass_s(rng.random() * 20)
    machine.run(12)
    entries, named = machine.checked()
    assert machine.taken.keys() <= check_log(entries)["windows"].keys()
    assert len(set(named)) == len(named)


def test_older_checkpoints_are_signed_by_the_keys_of_their_time() -> None:
    """What a platform lacks from before a rotation is submitted under the old key, so old keys stay in the ring."""
    machine = Machine(random.Random(2))
    for _ in range(3):
        machine.run(12)
        machine.rotate()
    entries, named = machine.checked()
    journal = Journal(machine.disk)
    sealer = Sealer(journal, machine.ring, lambda code, where, **args: None)
    history = journal.history.keys
    assert [key for _, key in history] == named
    for size in range(1, len(entries) + 1):
        public = bytes.fromhex(next(key for seq, key in reversed(history) if size > seq or seq == 0))
        vkey = note.VerifierKey(journal.history.origin, note.ED25519, public)
        note.require_signed(note.parse(sealer.checkpoint_at(size), where="t"), vkey, where="t")
