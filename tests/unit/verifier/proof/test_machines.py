"""Which rows are one machine: joined by tags, owned keys and opened serials; parents as machines; explanations."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from verifier.conformance.world import private_part
from verifier.proof.machines import Device, Holder, Machines
from verifier.proof.rows import DeviceRow

Parents = Literal["child", "parent"]


def row(slot: int, *tags: str, key: str | None = None, parent: int | None = None, alive: bool = True) -> DeviceRow:
    return DeviceRow(
        slot=slot, alive=alive, replaces=None, parent=parent, thing="equipment", equipment_class=None, industry=None,
        uscc=None, region=None, deployment=None, energy=None, kind=None, tags=frozenset(("serial", t) for t in tags),
        dup_tags=frozenset({("spki-sha256", key)} if key else ()), id_basis="read", server_spki_sha256=None,
        server_via=None, private_sha256="")


def holder(name: str, *rows: DeviceRow, enterprise: str = "one",
           opened: Mapping[int, Mapping[str, Any]] | None = None) -> Holder:
    return Holder(name, enterprise, rows, opened or {})


def settled(holders: Sequence[Holder], *, parents: Parents = "child", explained: Sequence[Sequence[Device]] = (),
            silent: Sequence[Device] = ()) -> list[str | None]:
    """Return the reasons of every row alive, those in `silent` having one of their own."""
    machines = Machines(holders, explained)
    devices = [(h.gateway, r.slot) for h in holders for r in h.devices if r.alive]
    reasons: list[str | None] = ["no_valid_data" if device in silent else None for device in devices]
    machines.settle(reasons, parents)
    return reasons


DUP, KIN = "duplicate_identity", "parent_or_child"


def test_rows_are_joined_by_tags_by_owned_keys_and_by_opened_serials() -> None:
    serial = private_part("press", maker="M", model="x", serial="7")
    holders = [holder("a", row(0, "t"), row(1, key="k"), row(2), row(3, "u")),
               holder("b", row(0, "t", key="k"), row(1), enterprise="two"),
               holder("c", row(0), row(1), enterprise="three", opened={1: serial}),
               holder("d", row(0), row(1), enterprise="four", opened={0: serial | {"name": "another name"}})]
    first, second = Machines(holders).groups
    assert first.members == (("a", 0), ("a", 1), ("b", 0)) and first.enterprises == ("one", "two")
    assert [(j.how, j.scheme, j.members) for j in first.joints] == [
        ("key", "spki-sha256", (("a", 1), ("b", 0))), ("tag", "serial", (("a", 0), ("b", 0)))]
    assert second.members == (("c", 1), ("d", 0))
    assert [(j.how, j.scheme) for j in second.joints] == [("opened", "serial")]
    assert settled(holders) == [None, DUP, None, None, DUP, None, None, None, DUP, None]


def test_what_the_tags_say_is_not_said_again_by_openings() -> None:
    serial = private_part("press", maker="M", model="x", serial="7")
    three = [holder(n, row(0, "t"), opened={0: serial}) for n in "abc"]
    assert [(j.how, len(j.members)) for j in Machines(three).groups[0].joints] == [("tag", 3)]
    mixed = [holder("a", row(0, "t"), opened={0: serial}), holder("b", row(0, "t")),
             holder("c", row(0), opened={0: serial}, enterprise="two")]
    (group,) = Machines(mixed).groups
    assert [(j.how, j.members) for j in group.joints] == [
        ("opened", (("a", 0), ("c", 0))), ("tag", (("a", 0), ("b", 0)))]
    assert len(group.members) == 3


def test_an_asset_number_that_was_opened_joins_no_two_enterprises() -> None:
    holders = [holder("a", row(0), opened={0: private_part("x", asset="A-1")}),
               holder("b", row(0), enterprise="two", opened={0: private_part("y", asset="A-1")})]
    assert Machines(holders).groups == ()


def test_what_is_gone_joins_nobody() -> None:
    holders = [holder("a", row(0, "t", alive=False), row(1, "t")), holder("b", row(0, "t", alive=False))]
    assert Machines(holders).groups == ()
    assert settled(holders) == [None]


def test_the_first_that_can_count_stays() -> None:
    holders = [holder("a", row(0, "t")), holder("b", row(0, "t"), row(1, "t"))]
    assert settled(holders, silent=[("a", 0)]) == ["no_valid_data", None, DUP]


def test_an_explanation_must_name_all_that_count() -> None:
    holders = [holder("a", row(0, "t")), holder("b", row(0, "t"), row(1, "t")), holder("c", row(0, "t"))]
    a, b0, b1, c = ("a", 0), ("b", 0), ("b", 1), ("c", 0)
    assert settled(holders, explained=[(a, b0)]) == [None, None, DUP, DUP]
    assert settled(holders, explained=[(a, b0), (b0, c)]) == [None, None, DUP, DUP], "nobody says that a is not c"
    assert settled(holders, explained=[(a, b0), (a, b0, c)]) == [None, None, DUP, None]
    assert settled(holders, explained=[(b0, b1)]) == [None, DUP, DUP, DUP]
    assert settled(holders, explained=[(b0, b1)], silent=[a]) == ["no_valid_data", None, None, DUP]
    assert settled(holders, explained=[(("nobody", 0), a)]) == [None, DUP, DUP, DUP]


@pytest.mark.parametrize("parents,expected", [
    ("child", [KIN, None, None, KIN]), ("parent", [None, KIN, KIN, DUP])])
def test_a_line_listed_alone_elsewhere_still_stands_above_its_machines(parents: Parents,
                                                                       expected: list[str | None]) -> None:
    line = [row(0, "line"), row(1, "m1", parent=0), row(2, "m2", parent=0)]
    assert settled([holder("a", *line), holder("b", row(0, "line"))], parents=parents) == expected


@pytest.mark.parametrize("parents,expected", [
    ("child", [KIN, None, None, DUP]), ("parent", [None, KIN, KIN, KIN])])
def test_a_machine_listed_alone_elsewhere_still_stands_below_its_line(parents: Parents,
                                                                      expected: list[str | None]) -> None:
    line = [row(0, "line"), row(1, "m1", parent=0), row(2, "m2", parent=0)]
    assert settled([holder("a", *line), holder("b", row(0, "m1"))], parents=parents) == expected


def test_relation_goes_through_what_does_not_count_and_through_tombstones() -> None:
    rows = [row(0), row(1, parent=0, alive=False), row(2, parent=1), row(3, parent=2)]
    assert settled([holder("a", *rows)], silent=[("a", 2)]) == [KIN, "no_valid_data", None]
    assert settled([holder("a", *rows)], silent=[("a", 3)]) == [KIN, None, "no_valid_data"]
    assert settled([holder("a", *rows)], silent=[("a", 0)], parents="parent") == ["no_valid_data", None, KIN]


@pytest.mark.parametrize("parents", ["child", "parent"])
def test_two_gateways_that_tell_a_circle_do_not_make_the_machines_vanish(parents: Parents) -> None:
    """One lists L above M, the other M above L: each gateway alone excludes one row, and each machine counts once."""
    holders = [holder("a", row(0, "L"), row(1, "M", parent=0)), holder("b", row(0, "M"), row(1, "L", parent=0))]
    assert settled(holders, parents=parents).count(None) == 2
    own = [holder("a", row(0, "L"), row(1, "L", parent=0))]
    assert settled(own, parents=parents).count(None) == 1


def test_an_explained_line_is_not_the_line_elsewhere() -> None:
    holders = [holder("a", row(0, "line"), row(1, "m", parent=0)), holder("b", row(0, "line"))]
    assert settled(holders) == [KIN, None, KIN]
    assert settled(holders, explained=[[("a", 0), ("b", 0)]]) == [KIN, None, None]


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("parents", ["child", "parent"])
def test_as_a_slow_reading_of_the_rule_has_it(seed: int, parents: Parents) -> None:
    """Oracle: classes by repeated merging, relations by walking, on rosters that tell no circle."""
    rng = random.Random(seed)
    # A line's number is below its machines' on every gateway, so no circle can be told.
    names = [f"m{i}" for i in range(8)]
    holders = []
    for gateway in "abc":
        chosen = sorted(rng.sample(range(8), rng.randrange(1, 7)))
        rows = []
        for slot, i in enumerate(chosen):
            above = rng.choice([None, *range(slot)]) if slot else None
            rows.append(row(slot, names[i], parent=above))
        holders.append(holder(gateway, *rows))
    devices = {(h.gateway, r.slot): r for h in holders for r in h.devices}
    name = {device: next(iter(r.tags))[1] for device, r in devices.items()}
    silent = rng.sample(sorted(devices), len(devices) // 4)
    ups: dict[str, set[str]] = {n: set() for n in names}
    for (gateway, _), r in devices.items():
        if r.parent is not None:
            ups[next(iter(r.tags))[1]].add(name[gateway, r.parent])
    for _ in names:
        for above in ups.values():
            above |= {higher for n in set(above) for higher in ups[n]}
    counting = {name[d] for d in devices if d not in silent}
    expected: list[str | None] = []
    taken: set[str] = set()
    for d in devices:
        kin = {n for n in counting if (name[d] in ups[n] if parents == "child" else n in ups[name[d]])}
        reason = "no_valid_data" if d in silent else KIN if kin else DUP if name[d] in taken else None
        expected.append(reason)
        if reason is None:
            taken.add(name[d])
    assert settled(holders, parents=parents, silent=silent) == expected


def test_fifty_thousand_rows_in_a_chain_are_walked_once() -> None:
    """Counted, not timed: each relation is looked up at most twice, however deep the chain."""
    looked = 0

    class Counting(dict[int, list[int]]):
        def get(self, key: int, default: Any = None) -> Any:
            nonlocal looked
            looked += 1
            return super().get(key, default)

    size = 25_000
    chain = [row(i, f"t{i}", parent=i - 1 if i else None) for i in range(size)]
    machines = Machines([holder("a", *chain), holder("b", *[row(i, f"t{i}") for i in range(size)])])
    assert len(machines.groups) == size and len(machines.alive) == 2 * size
    machines._up = Counting(machines._up)
    reasons: list[str | None] = [None] * (2 * size)
    machines.settle(reasons, "child")
    assert reasons.count(None) == 1 and looked <= 2 * size
