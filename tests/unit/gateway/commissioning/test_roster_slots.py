"""Slots are for ever: what a ledger's changes do to roster rows, and what they may never do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.gateway import GatewayConfig, load_gateway
from gateway.commissioning import roster as slots
from gateway.commissioning.point_slots import Names, PointSlots
from gateway.commissioning.roster import Roster
from gateway.sealing.rosters import require_extends
from protocols.errors import ConfigError, EvidenceError
from protocols.evidence import roster as format_
from protocols.evidence.shape import require
from tests.unit.gateway.commissioning.plants import device, plant, point, write

K = bytes(range(32))
GATEWAY = "ab" * 16
SPKI = "cd" * 32


def evolve(before: Roster | None, config: GatewayConfig, server_keys: dict[str, str] | None = None) -> Roster:
    after = slots.evolve(before, config, gateway=GATEWAY, key=K, server_keys=server_keys or {})
    check(before, after)
    for keys in (server_keys or {}, {"line": "ef" * 32}):  # the same ledger again: its points need not be placed anew
        again, short = (slots.evolve(after, config, gateway=GATEWAY, key=K, server_keys=keys, points_stand=stand)
                        for stand in (False, True))
        assert again == short and short.points is after.points
    return after


def check(before: Roster | None, after: Roster) -> None:
    """What holds of every roster, and of every step from one to the next, whatever the ledger says."""
    devices, points = after.device_rows(), after.point_rows()
    for number, row in enumerate(devices):
        require(format_.DEVICE_ROW, row, where="row")
        require(format_.PRIVATE, after.devices[number].private, where="private")
        assert row["slot"] == number
        assert row["private_sha256"] == format_.private_sha256(after.devices[number].private)
        assert {t["scheme"]: t["tag"] for t in row["tags"]} == {
            scheme: format_.keyed_tag(K, scheme, value)
            for scheme, value in format_.tag_values(after.devices[number].private).items()} or row["state"] == "gone"
        assert row["replaces"] is None or devices[row["replaces"]]["state"] == "gone"
    for number, row in enumerate(points):
        require(format_.POINT_ROW, row, where="row")
        assert row["point"] == number
        assert row["state"] == "gone" or devices[row["device"]]["state"] == "alive"
    alive = [row["addr"] for row in points if row["state"] == "alive"]
    assert len(alive) == len(set(alive))
    if before is not None:
        require_extends(before.device_rows(), before.point_rows(), devices, points)
        for old, new in zip([*before.device_rows(), *before.point_rows()],
                            [*devices[:len(before.devices)], *points[:len(before.points)]], strict=True):
            if new["state"] == "gone":  # a tombstone keeps its row
                assert {**new, "state": ""} == {**old, "state": ""}


def states(held: Roster) -> list[str]:
    return [f"{d.id}:{d.row['state']}" for d in held.devices]


def test_a_rename_keeps_the_slot_and_changes_only_the_private_part(tmp_path: Path) -> None:
    first = evolve(None, plant(tmp_path, [device("a", name="old", serial="S1")], [point("a", 0)]))
    second = evolve(first, plant(tmp_path, [device("a", name="new", serial="S1")], [point("a", 0)]))
    one, two = first.devices[0].row, second.devices[0].row
    assert {k for k in one if one[k] != two[k]} == {"private_sha256"}
    assert second.devices[0].private["blind"] == first.devices[0].private["blind"]
    assert second.point_rows() == first.point_rows()


def test_points_that_stand_are_placed_anew_where_a_device_moved(tmp_path: Path) -> None:
    config = plant(tmp_path, [device("a")], [point("a", 0)])
    first = evolve(None, config)
    ways = [slots.evolve(held, config, gateway=GATEWAY, key=K, server_keys={}, points_stand=True,
                         read={"a": {"serial": serial}})
            for held, serial in ((first, "S1"), (evolve(None, plant(tmp_path, [device("a", serial="S0")],
                                                                    [point("a", 0)])), "S1"))]
    assert ways[0].points is first.points and ways[0].devices[0].private["serial"] == "S1"
    # its ledger lost the serial: another machine, and so another point
    assert [row["state"] for row in ways[1].point_rows()] == ["gone", "alive"]
    assert [row["device"] for row in ways[1].point_rows()] == [0, 1]


@pytest.mark.parametrize("other", [
    device("a", serial="S2"), device("a", serial="S1", maker="Other"), device("a", serial="S1", model="N"),
    device("a", serial=""), device("a", serial="S1", maker=""),
], ids=["serial", "maker", "model", "no serial", "no maker"])
def test_another_identity_is_a_tombstone_and_a_new_slot(tmp_path: Path, other: str) -> None:
    first = evolve(None, plant(tmp_path, [device("a", serial="S1")], [point("a", 0)]))
    second = evolve(first, plant(tmp_path, [other], [point("a", 0)]))
    assert states(second) == ["a:gone", "a:alive"]
    assert second.devices[1].row["replaces"] == 0
    assert [(p.row["device"], p.row["state"]) for p in second.points] == [(0, "gone"), (1, "alive")]
    assert second.devices[1].private["blind"] != first.devices[0].private["blind"]


def test_spelling_that_normalises_alike_is_the_same_machine(tmp_path: Path) -> None:
    first = evolve(None, plant(tmp_path, [device("a", serial="SN-001", maker="Müller")]))
    second = evolve(first, plant(tmp_path, [device("a", serial="sn 001", maker="MÜLLER".lower())]))
    assert states(second) == ["a:alive"]


def test_an_identifier_learnt_later_keeps_the_slot_and_adds_a_tag(tmp_path: Path) -> None:
    first = evolve(None, plant(tmp_path, [device("a")], [point("a", 0)]))
    assert first.devices[0].row["id_basis"] == "address" and first.devices[0].row["tags"] == []
    second = evolve(first, plant(tmp_path, [device("a", serial="S1")], [point("a", 0)]))
    third = evolve(second, plant(tmp_path, [device("a", serial="S1", product="urn:x:1")], [point("a", 0)]))
    assert states(third) == ["a:alive"]
    assert [t["scheme"] for t in third.devices[0].row["tags"]] == ["product_instance_uri", "serial"]
    assert third.point_rows() == first.point_rows()


def test_what_goes_leaves_a_tombstone_and_what_comes_back_is_new(tmp_path: Path) -> None:
    both = [device("a", serial="S1"), device("b", serial="S2")]
    points = [point("a", 0), point("b", 1)]
    first = evolve(None, plant(tmp_path, both, points))
    second = evolve(first, plant(tmp_path, both[:1], points[:1]))
    third = evolve(second, plant(tmp_path, both, points))
    assert states(second) == ["a:alive", "b:gone"]
    assert states(third) == ["a:alive", "b:gone", "b:alive"]
    assert third.device_slots() == {"a": 0, "b": 2}
    assert third.point_slots() == {(0, "1/holding/0/uint16"): 0, (2, "1/holding/1/uint16"): 2}


def test_a_changed_local_id_keeps_the_slot_if_the_identifiers_are_the_same(tmp_path: Path) -> None:
    first = evolve(None, plant(tmp_path, [device("a", serial="S1"), device("x")], [point("a", 0)]))
    second = evolve(first, plant(tmp_path, [device("b", serial="S1"), device("y")], [point("b", 0)]))
    assert states(second) == ["b:alive", "x:gone", "y:alive"]  # x had no identifier: nobody can tell
    assert second.point_rows() == first.point_rows()


def test_a_changed_local_id_is_not_guessed(tmp_path: Path) -> None:
    twins = [device("a", serial="S1"), device("b", serial="S1")]
    first = evolve(None, plant(tmp_path, twins))
    second = evolve(first, plant(tmp_path, [device("c", serial="S1"), device("d", serial="S1")]))
    assert states(second) == ["a:gone", "b:gone", "c:alive", "d:alive"]


@pytest.mark.parametrize("changed", [point("a", 0, role="switch"), point("a", 0, type="int16")], ids=["role", "type"])
def test_another_role_or_type_is_another_point(tmp_path: Path, changed: str) -> None:
    first = evolve(None, plant(tmp_path, [device("a")], [point("a", 0)]))
    second = evolve(first, plant(tmp_path, [device("a")], [changed]))
    assert [p.row["state"] for p in second.points] == ["gone", "alive"]


def test_a_renamed_point_keeps_its_slot(tmp_path: Path) -> None:
    first = evolve(None, plant(tmp_path, [device("a")], [point("a", 0)]))
    second = evolve(first, plant(tmp_path, [device("a")], [point("a", 0, id="speed")]))
    assert second.point_rows() == first.point_rows() and second.points[0].id == "speed"


def test_parents_and_servers_are_told_by_slot(tmp_path: Path) -> None:
    line = plant(tmp_path, [device("child", parent="top"), device("top")])
    held = evolve(None, line, {"line": SPKI})
    assert held.devices[0].row["parent"] == 1
    assert [d.row["server"] for d in held.devices] == [{"spki_sha256": SPKI, "via": format_.NOT_IN_ROSTER}] * 2
    alone = evolve(None, plant(tmp_path, [device("a")]), {"line": SPKI})
    assert alone.devices[0].row["server"] == {"spki_sha256": SPKI, "via": None}
    assert alone.devices[0].row["dup_tags"] == [{"scheme": "spki-sha256", "tag": SPKI}]


def test_the_same_ledger_changes_nothing(tmp_path: Path) -> None:
    config = plant(tmp_path, [device("a", serial="S1"), device("b", parent="a")], [point("a", 0), point("b", 1)])
    first = evolve(None, config)
    second = evolve(first, config)
    assert (second.device_rows(), second.point_rows()) == (first.device_rows(), first.point_rows())


def test_evolving_leaves_the_roster_in_force_as_it_is(tmp_path: Path) -> None:
    first = evolve(None, plant(tmp_path, [device("a", serial="S1"), device("b")], [point("a", 0), point("b", 3)]))
    before = json.dumps([first.device_rows(), list(first.point_rows()), [d.private for d in first.devices]])
    evolve(first, plant(tmp_path, [device("a", name="x", serial="S2")], [point("a", 2)]))
    assert json.dumps([first.device_rows(), list(first.point_rows()), [d.private for d in first.devices]]) == before


def test_tombstones_count_against_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "COLUMN_BITS_MAX", 6)
    held = evolve(None, plant(tmp_path, [device("a", serial="S1")], [point("a", 0)]))
    with pytest.raises(ConfigError) as caught:
        evolve(held, plant(tmp_path, [device("a", serial="S2")], [point("a", 0)]))
    assert caught.value.problems[0].code == "config.too_many_bits"


def test_save_and_load_give_the_same_roster_readable_by_its_owner_only(tmp_path: Path) -> None:
    held = evolve(None, plant(tmp_path, [device("a", serial="S1", name="冲压机")], [point("a", 0)]))
    slots.save(held, tmp_path / "roster.json")
    assert slots.load(tmp_path / "roster.json") == held
    assert (tmp_path / "roster.json").stat().st_mode & 0o777 == 0o600
    assert slots.load(tmp_path / "none.json") is None


def test_the_file_is_one_object_and_may_be_laid_out_otherwise(tmp_path: Path) -> None:
    """Earlier versions wrote it in one line, and who repairs it by hand may lay it out as he likes."""
    held = evolve(None, plant(tmp_path, [device("a", serial="S1")], [point("a", 0), point("a", 1)]))
    file = tmp_path / "roster.json"
    slots.save(held, file)
    body = json.loads(file.read_text(encoding="utf-8"))
    assert set(body) == {"format", "devices", "points"}
    for indent in (None, 2):
        file.write_text(json.dumps(body, indent=indent, sort_keys=True), encoding="utf-8")
        assert slots.load(file) == held
    nobody = Roster(devices=[], points=PointSlots.read(()))
    slots.save(nobody, file)
    assert slots.load(file) == nobody and json.loads(file.read_text(encoding="utf-8"))["points"] == []


def test_a_file_that_is_cut_is_broken_wherever_it_was_cut(tmp_path: Path) -> None:
    file = tmp_path / "roster.json"
    slots.save(evolve(None, plant(tmp_path, [device("a"), device("b")], [point("a", 0), point("b", 1)])), file)
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    for end in range(len(lines) - 1):
        file.write_text("".join(lines[:end]), encoding="utf-8")
        with pytest.raises(EvidenceError):
            slots.load(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "devices": 3, "points": []}',
                                  '{"format": 1, "devices": [{}], "points": []}', "nan"])
def test_a_broken_file_is_told_and_not_replaced(tmp_path: Path, text: str) -> None:
    file = tmp_path / "roster.json"
    file.write_text(text)
    with pytest.raises(EvidenceError) as caught:
        slots.load(file)
    assert caught.value.problems[0].code == "roster.state_broken"
    assert file.read_text() == text


def test_another_gateway_gets_other_address_tags_and_nothing_else(tmp_path: Path) -> None:
    held = evolve(None, plant(tmp_path, [device("a", serial="S1")], [point("a", 0), point("a", 1, type="bool")]))
    there = slots.moved(held, gateway="12" * 16, key=K)
    assert there.device_rows() == held.device_rows()
    for old, new, text in zip(held.points, there.points, ("1/holding/0/uint16", "1/holding/1/bool"), strict=True):
        assert {k for k in old.row if old.row[k] != new.row[k]} == {"addr", "base"}
        assert (new.row["addr"], new.row["base"]) == format_.point_tags(K, "12" * 16, 0, text, text.rpartition("/")[0])


def test_names_of_points_are_those_of_their_devices_and_their_own(tmp_path: Path) -> None:
    held = evolve(None, plant(tmp_path, [device("a"), device("b")], [point("b", 0, id="x"), point("a", 1, id="y")]))
    names = Names([d.id for d in held.devices], held.points)
    assert list(names) == names[:] == [("b", "x"), ("a", "y")] and names[-1] == ("a", "y") and len(names) == 2
    with pytest.raises(IndexError):
        names[2]


# Any ledger after any ledger.

NAMES = st.sampled_from(["a", "b", "c", "d"])
SERIALS = st.sampled_from(["", "S1", "S2"])
MAKERS = st.sampled_from(["", "Maker", "Other"])
LEDGER = st.dictionaries(NAMES, st.tuples(SERIALS, MAKERS, st.sets(st.integers(0, 3), max_size=3), st.booleans()),
                         max_size=4)


def configured(folder: Path, ledger: dict[str, Any]) -> GatewayConfig:
    devices, points, numbers = [], [], set()
    for id_, (serial, maker, registers, is_switch) in sorted(ledger.items()):
        devices.append(device(id_, serial=serial, maker=maker, parent="a" if id_ != "a" and "a" in ledger else ""))
        for number in sorted(registers - numbers):  # one variable of one server is one point
            numbers.add(number)
            points.append(point(id_, number, role="switch" if is_switch else "parameter"))
    return load_gateway(write(folder, devices, points))


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ledgers=st.lists(LEDGER, min_size=1, max_size=6))
def test_no_history_of_ledgers_ever_reuses_a_slot(tmp_path: Path, ledgers: list[dict[str, Any]]) -> None:
    held: Roster | None = None
    for ledger in ledgers:
        config = configured(tmp_path, ledger)
        held = evolve(held, config)  # `check` holds for every step
        assert held.device_slots().keys() == ledger.keys()
        alive = held.point_slots()
        assert {(held.device_slots()[p.device], p.address.canonical) for p in config.points} == alive.keys()
        slots.save(held, tmp_path / "roster.json")
        held = slots.load(tmp_path / "roster.json")
