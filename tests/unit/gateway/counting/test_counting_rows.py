"""Rows of points as columns are the rows again; what is no row is refused and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.counting.rows import PointRows
from protocols.evidence import jcs
from protocols.evidence.roster import POINT_ROW, rows_root
from protocols.evidence.shape import problems
from protocols.terms.vocabulary import POINT_TYPES, PROTOCOLS, ROLES, STATES

TAGS = st.binary(min_size=32, max_size=32).map(bytes.hex)
FACTS = st.fixed_dictionaries({
    "device": st.integers(0, 120_000), "state": st.sampled_from(STATES), "protocol": st.sampled_from(PROTOCOLS),
    "role": st.sampled_from(ROLES), "type": st.none() | st.sampled_from(POINT_TYPES), "addr": TAGS, "base": TAGS})


def numbered(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"point": slot, **row} for slot, row in enumerate(facts)]


@given(st.lists(FACTS, max_size=20).map(numbered))
def test_rows_are_the_same_again(rows: list[dict[str, Any]]) -> None:
    held = PointRows(rows)
    assert list(held) == rows and held == rows and held == held.copy() and held[3:9] == rows[3:9]
    assert not any(problems(POINT_ROW, row, where="row") for row in held)
    assert [held.encoded(slot) for slot in range(len(rows))] == [jcs.encode(row) for row in rows]
    assert held.root() == rows_root(rows)
    assert held.devices().tolist() == [row["device"] for row in rows]
    assert held.alive().tolist() == [row["state"] == "alive" for row in rows]
    assert [ROLES[code] for code in held.roles()] == [row["role"] for row in rows]
    assert held.protocols() == [row["protocol"] for row in rows]
    assert [held.facts(slot) for slot in range(len(rows))] == [(r["protocol"], r["role"], r["type"]) for r in rows]


@given(st.lists(FACTS, min_size=1, max_size=5).map(numbered), st.data())
def test_a_copy_is_changed_by_itself(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    held = PointRows(rows)
    other = held.copy()
    slot = data.draw(st.integers(0, len(rows) - 1))
    new = {"point": slot, **data.draw(FACTS)}
    other.put(slot, new)
    assert list(other) == [*rows[:slot], new, *rows[slot + 1:]]
    assert other.differing(held) == ([slot] if new != rows[slot] else [])
    assert other.differing(PointRows(rows[:slot])) == list(range(slot, len(rows)))
    assert held.differing(held) == held.rewriting(held) == []
    old = rows[slot]
    is_another = any(old[name] != new[name] for name in ("device", "protocol", "addr", "base"))
    revived = old["state"] == "gone" and new["state"] == "alive"
    assert other.rewriting(held) == ([slot] if is_another or revived else [])
    assert other.rewriting(PointRows(rows[:slot])) == PointRows(rows[:slot]).rewriting(other) == []
    other.end(slot)
    assert other[slot] == {**new, "state": "gone"} and list(held) == rows


ROW = {"point": 1, "device": 0, "state": "alive", "protocol": "mqtt", "role": "switch", "type": None,
       "addr": "ab" * 32, "base": "cd" * 32}


@pytest.mark.parametrize(("change", "rewrites"), [
    ({"device": 1}, True), ({"protocol": "opc_ua"}, True), ({"addr": "ab" * 31 + "ac"}, True),
    ({"base": "cc" + "cd" * 31}, True), ({"role": "parameter"}, False), ({"type": "bool"}, False),
    ({"state": "gone"}, False), ({}, False)], ids=str)
def test_each_field_alone_makes_another_row(change: dict[str, Any], rewrites: bool) -> None:
    before = PointRows({**ROW, "point": slot} for slot in range(4))
    after = before.copy()
    after.put(2, {**ROW, "point": 2, **change})
    assert after.differing(before) == before.differing(after) == ([2] if change else [])
    assert after.rewriting(before) == ([2] if rewrites else [])
    assert before.rewriting(after) == ([2] if rewrites or "state" in change else []), "nobody comes back either"


@pytest.mark.parametrize("wrong", [
    {"point": 3}, {"point": -1}, {"point": True}, {"device": -1}, {"device": 2**32}, {"device": 0.0}, {"device": None},
    {"state": "off"}, {"role": None}, {"protocol": ["mqtt"]}, {"type": ""}, {"addr": "AB" * 32}, {"addr": "ab" * 31},
    {"addr": 5}, {"base": "zz" * 32}, {"base": " " + "cd" * 32}, {"more": 1}], ids=str)
def test_what_is_no_row_is_refused(wrong: dict[str, Any]) -> None:
    held = PointRows([{**ROW, "point": 0}, ROW])
    for slot in (1, 2):
        with pytest.raises(ValueError):
            held.put(slot, {**ROW, "point": slot, **wrong})
    with pytest.raises(ValueError):
        held.append({name: value for name, value in ROW.items() if name != next(iter(wrong))})
    assert list(held) == [{**ROW, "point": 0}, ROW]
