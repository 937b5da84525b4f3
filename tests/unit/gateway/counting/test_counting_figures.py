"""The figures of the local page: one reason for each device that is not counted."""

from __future__ import annotations

import pytest

from gateway.counting.figures import STAGES, Recent
from gateway.counting.kernel import Columns
from gateway.counting.registry import Registry
from gateway.counting.rows import PointRows
from protocols.errors import EvidenceError
from protocols.terms.basis import Basis
from tests.sim.rows import LEDGER, device_row, point_row, registry

BASIS = Basis(key="test", version="1")


def plant() -> Registry:
    """0 counts; 1 is the machine of 0 again; 2 is dead; 3 has a heartbeat only; 4 is the line of 0; 5 is gone;
    6 is infrastructure; 7 has no owner."""
    rows = [device_row(0, parent=4), device_row(1, serial="serial 0"), device_row(2), device_row(3),
            device_row(4), device_row(5, state="gone"), device_row(6, thing="infrastructure"),
            device_row(7, uscc=None)]
    points = [point_row(p, p, role="heartbeat" if p == 3 else "parameter") for p in range(8)]
    return Registry.of(rows, points, LEDGER)


def test_every_device_has_one_reason() -> None:
    recent = Recent()
    producing = 0b1111_1011
    recent.add_columns(1_000, Columns(producing, producing, producing, 1))
    found = recent.figures(plant(), BASIS)
    assert found.reasons == {1: "duplicate_identity", 2: "no_valid_data", 3: "heartbeat_only", 4: "parent_or_child",
                             6: "not_industrial_device", 7: "owner_unknown"}
    assert (found.configured, found.counted) == (7, 1)
    assert found.configured == found.counted + sum(found.not_counted.values())
    assert found.devices == {"configured": 7, "connected": 6, "producing": 5, "changing": 1}
    assert found.points == {"configured": 7, "sampled": 6, "producing": 6, "changing": 1}
    stages = ["changing", "producing", "configured", "connected", "producing", "configured", "producing", "producing"]
    assert [STAGES[stage] for stage in found.stage] == stages, "3 has a heartbeat only, 5 is gone"


def test_parent_basis_keeps_the_line() -> None:
    recent = Recent()
    recent.add_columns(1_000, Columns(0, 0, 0b1_0001, 0))
    parents = Basis(key="test", version="1", parents="parent")
    assert recent.figures(plant(), parents).reasons[0] == "parent_or_child"
    assert 4 not in recent.figures(plant(), parents).reasons


def test_a_duplicate_steps_in_when_the_first_does_not_count() -> None:
    recent = Recent()
    recent.add_columns(1_000, Columns(0, 0, 0b10, 0))
    assert recent.figures(plant(), BASIS).counted == 1


def test_freshness_is_half_open() -> None:
    recent = Recent()
    recent.add_columns(100, Columns(1, 1, 1, 1))
    recent.add_columns(160, Columns(0, 0, 0, 0))
    basis = Basis(key="test", version="1", freshness_s=60)
    fresh = registry(1, 1)
    assert recent.figures(fresh, basis, at_s=159).counted == 1
    assert recent.figures(fresh, basis, at_s=160).counted == 0 == recent.figures(fresh, basis).counted
    assert recent.figures(fresh, basis, at_s=99).counted == 0
    recent.add_columns(220, Columns(1, 1, 1, 1))
    assert recent.figures(fresh, basis, at_s=220).devices["connected"] == 1
    assert recent.figures(fresh, basis, at_s=280).devices["connected"] == 0


@pytest.mark.parametrize("is_same", [True, False])
def test_what_was_made_of_the_same_point_rows_is_taken_over(is_same: bool) -> None:
    first = plant()
    points = first.point_rows if is_same else PointRows([*first.point_rows, point_row(8, 0)])
    rows = [*first.device_rows[:3], {**first.device_rows[3], "state": "gone"}, *first.device_rows[4:]]
    found, made = Registry.of(rows, points, LEDGER, before=first), Registry.of(rows, [*points], LEDGER)
    assert found.roots == made.roots and found.device_rows == made.device_rows and found.point_rows == made.point_rows
    for name in ("owner", "role", "device_alive", "point_alive"):
        assert getattr(found, name).tolist() == getattr(made, name).tolist(), name
    assert (found.owner is first.owner) is is_same


def test_rows_that_are_no_roster_are_refused_all_at_once() -> None:
    rows = [device_row(0), device_row(5), device_row(2, parent=9)]
    with pytest.raises(EvidenceError) as caught:
        Registry.of(rows, [], LEDGER)
    assert {p.code for p in caught.value.problems} == {"counting.slot_gap"}
    with pytest.raises(EvidenceError) as caught:
        Registry.of([device_row(0, parent=9)], [point_row(0, 4), point_row(1, 3)], LEDGER)
    assert [p.code for p in caught.value.problems] == ["counting.no_such_slot"] * 3
    with pytest.raises(EvidenceError) as caught:
        Registry.of([], [{}] * 130_000, LEDGER)
    assert caught.value.problems[0].code == "counting.too_many_slots"
