"""Which points each connection collects, whatever the order of the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.commissioning import connect
from gateway.commissioning import roster as slots
from tests.unit.gateway.commissioning.plants import LINE, device, plant, point


@pytest.mark.parametrize("at_once", [1, 4, 6, connect.POINTS_AT_ONCE])
def test_points_that_stand_among_those_of_others_are_found_in_their_order(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(connect, "POINTS_AT_ONCE", at_once)
    lines = ("line", "idle", "two", "three")
    config = plant(
        tmp_path, [device("a"), device("b", connection="two"), device("c"), device("d", connection="three")],
        [point(id_, number + 5 * (id_ == "c")) for number in (2, 0, 1) for id_ in "dbca" if (id_, number) != ("c", 0)],
        tail="\n".join(LINE.replace('"line"', f'"{name}"').replace(":1\"", f":{port}\"")
                       for port, name in enumerate(lines, 1)))
    held = slots.evolve(None, config, gateway="ab" * 16, key=bytes(32), server_keys={})
    found = connect.aims(config, held)
    assert list(found) == list(lines)
    told = {name: [f"{p.device}{p.address.canonical[10]}" for _, _, p in aims] for name, aims in found.items()}
    assert told == {"line": ["c7", "a2", "a0", "c6", "a1"], "idle": [], "two": ["b2", "b0", "b1"],
                    "three": ["d2", "d0", "d1"]}
    for slot, owner, aimed in (aim for aims in found.values() for aim in aims):
        assert (held.points[slot].address, held.points[slot].row["device"]) == (aimed.address.canonical, owner)
        assert held.devices[owner].id == aimed.device
