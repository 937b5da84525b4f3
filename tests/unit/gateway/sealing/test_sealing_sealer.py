"""The sealer on a disk that works: enrolment, rosters, rotation, what it refuses."""

from __future__ import annotations

import random

import pytest

from gateway.counting.kernel import Columns
from gateway.counting.registry import Registry
from gateway.counting.window import ClosedWindow, Gap
from gateway.sealing.journal import Journal
from gateway.sealing.sealer import Sealer
from protocols.errors import EvidenceError
from protocols.evidence import note, signed
from protocols.terms.vocabulary import DISCARD_REASONS
from tests.sim.disk import FaultyDisk
from tests.sim.oracle import check_checkpoint, check_log
from tests.sim.rows import LEDGER, device_row, point_row, registry
from tests.sim.world import Gateway, Time, certificate, private_key

KEY, NEW_KEY = private_key(1), private_key(2)
ROSTER = registry(2, 2)


def fresh() -> tuple[FaultyDisk, Gateway]:
    rng = random.Random(0)
    disk = FaultyDisk(rng)
    return disk, Gateway(disk, KEY, Time(), ROSTER, rng)


def window(start_s: int, roster: Registry = ROSTER) -> ClosedWindow:
    return ClosedWindow(start_s=start_s, len_s=5, registry=roster, columns=Columns(1, 3, 1, 0), received=4, counted=4,
                        discarded=dict.fromkeys(DISCARD_REASONS, 0))


def log(journal: Journal) -> dict:
    return check_log(journal.encoded(0, journal.size))


def test_enrolling_twice_with_one_certificate_changes_nothing() -> None:
    _, gateway = fresh()
    size = gateway.journal.size
    gateway.sealer.enrol(certificate(KEY, private_key(77)))
    assert gateway.journal.size == size
    with pytest.raises(EvidenceError) as caught:
        gateway.sealer.enrol(certificate(NEW_KEY, private_key(77)))
    assert caught.value.problems[0].code == "sealing.enrolled_already"


def test_another_key_is_refused() -> None:
    _, gateway = fresh()
    with pytest.raises(EvidenceError) as caught:
        Sealer(gateway.journal, [NEW_KEY], print)
    assert caught.value.problems[0].code == "sealing.no_key"


def test_first_entries_stand_in_their_order() -> None:
    _, gateway = fresh()
    gateway.run(17)
    assert log(gateway.journal)["kinds"] == ["enrolment", "start", "roster", "window", "window", "window"]
    assert gateway.journal.entry(3)["seen"] is None


def test_columns_and_counts_are_sealed_as_counted() -> None:
    _, gateway = fresh()
    gateway.sealer.seal(window(gateway.windows.opens_s), None)
    entry = gateway.journal.entry(3)
    assert entry["columns"] == {"connected": "AQ==", "sampled": "Aw==", "producing": "AQ==", "changing": "AA=="}
    assert entry["samples"]["received"] == 4 and entry["roster"] == 2


def test_roster_grows_between_windows_with_changed_rows_only() -> None:
    disk, gateway = fresh()
    at = gateway.windows.opens_s
    larger = Registry.of([*ROSTER.device_rows, device_row(2)], [*ROSTER.point_rows, point_row(4, 2)], LEDGER)
    gateway.sealer.seal(window(at), None)
    gateway.sealer.seal(window(at + 5, larger), None)
    found = log(gateway.journal)
    assert found["kinds"][2:] == ["roster", "window", "roster", "window"]
    assert gateway.journal.roster_rows(4).count(b"\n") == 2
    gateway.journal.close()
    again = Sealer(Journal(disk), [KEY], print)
    assert again.roster_rows() == (tuple(larger.device_rows), tuple(larger.point_rows))


def test_roster_that_rewrites_a_slot_is_refused() -> None:
    _, gateway = fresh()
    rows = list(ROSTER.device_rows)
    points = list(ROSTER.point_rows)
    for devices, new_points, code in (
            (rows[:1], points[:2], "sealing.roster_shrinks"),
            ([rows[0], rows[1] | {"kind": None}], points, "sealing.roster_rewritten"),
            ([rows[0], rows[1] | {"tags": []}], points, "sealing.roster_rewritten"),
            (rows, [*points[:3], points[3] | {"addr": "0" * 64}], "sealing.roster_rewritten")):
        changed = Registry.of(devices, new_points, LEDGER)
        with pytest.raises(EvidenceError) as caught:
            gateway.sealer.seal(window(gateway.windows.opens_s, changed), None)
        assert caught.value.problems[0].code == code
    gone = Registry.of([rows[0], rows[1] | {"state": "gone"}], points, LEDGER)
    assert gateway.sealer.seal(window(gateway.windows.opens_s, gone), None)
    with pytest.raises(EvidenceError):  # nobody comes back from a tombstone
        gateway.sealer.seal(window(gateway.windows.opens_s + 5), None)


def test_a_window_that_would_overlap_is_refused() -> None:
    _, gateway = fresh()
    at = gateway.windows.opens_s
    gateway.sealer.seal(window(at), None)
    with pytest.raises(EvidenceError) as caught:
        gateway.sealer.seal(window(at), None)
    assert caught.value.problems[0].code == "sealing.overlap"
    gateway.sealer.gap(Gap(end_s=at - 50, reason="clock_back", samples=3))
    assert gateway.sealer.seal(window(at - 50), None)
    outage = gateway.journal.entry(gateway.journal.size - 2)
    assert (outage["reason"], outage["start_s"], outage["end_s"]) == ("clock_back", at + 5, at - 50)
    assert outage["missing"] == {"windows": 0, "samples": 3}


def test_an_append_that_failed_and_took_effect_is_neither_lost_nor_counted_as_missing() -> None:
    disk, gateway = fresh()
    at = gateway.windows.opens_s
    size = gateway.journal.size
    last = disk.steps + 3  # append, sync, and the checkpoint, which is renamed and then reported as failed
    disk.fault = {last: "error_torn"}.get
    assert not gateway.sealer.seal(window(at), None)
    assert gateway.journal.size == size  # nobody may see it before it is durable
    disk.fault = {disk.steps + 2: "error_before"}.get  # its checkpoint is made durable now; the next append fails
    assert not gateway.sealer.seal(window(at + 5), None)
    assert gateway.journal.size == size + 1
    assert gateway.sealer.seal(window(at + 10), None)
    found = log(gateway.journal)
    assert sorted(found["windows"]) == [at, at + 10]
    assert [o["missing"] for o in found["outages"]] == [{"windows": 1, "samples": 4}]


def test_rotation_changes_who_signs_from_the_next_size_on() -> None:
    disk, gateway = fresh()
    gateway.run(7)
    gateway.sealer.rotate(NEW_KEY)
    rotated = gateway.journal.size
    gateway.run(10)
    journal = gateway.journal
    entry = journal.entry(rotated - 1)
    signed.verify("rotation", entry["rotation"], signers={journal.entry(0)["certificate"]["gateway_key"]}, where="t")
    assert entry["rotation"]["root"] == journal.tree.root(rotated - 1).hex()
    new_public = bytes.fromhex(entry["rotation"]["new_key"])
    entries = journal.encoded(0, journal.size)
    assert journal.checkpoint is not None
    check_checkpoint(entries, journal.checkpoint, new_public)
    check_checkpoint(entries[:rotated], gateway.sealer.checkpoint_at(rotated), new_public)
    old = note.parse(gateway.sealer.checkpoint_at(rotated - 1), where="t")
    first = bytes.fromhex(journal.entry(0)["certificate"]["gateway_key"])
    note.require_signed(old, note.VerifierKey(journal.history.origin, note.ED25519, first), where="t")
    journal.close()
    with pytest.raises(EvidenceError):
        Sealer(Journal(disk), [KEY], print)
    disk.unlock()
    Sealer(Journal(disk), [NEW_KEY], print)  # a restart needs the new key only


def test_many_entries_cross_segments_and_read_back() -> None:
    disk, gateway = fresh()
    at = gateway.windows.opens_s
    for number in range(300):
        gateway.sealer.seal(window(at + 5 * number), None)
    entries = gateway.journal.encoded(0, gateway.journal.size)
    assert gateway.journal.encoded(250, 262) == entries[250:262] and len(entries) == 303
    gateway.journal.close()
    again = Journal(disk)
    assert again.encoded(0, again.size) == entries
    assert again.history == gateway.journal.history
    with pytest.raises(ValueError, match="303"):
        again.encoded(0, 304)


def test_reading_beside_a_running_gateway_needs_no_lock_and_writes_nothing() -> None:
    disk, gateway = fresh()
    gateway.run(12)
    before = dict(disk.visible)
    reader = Journal(disk, writable=False)
    assert reader.size == gateway.journal.size and disk.visible == before
    with pytest.raises(ValueError, match="read only"):
        reader.settle()
    reader.close()
    with pytest.raises(EvidenceError):
        Journal(disk)  # the gateway still holds it
