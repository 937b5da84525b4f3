"""Three readers of the same rows and columns: the gateway's fast figures, the auditor's plain ones, the page's.

They share the table of reasons, and page and auditor the knowledge of which rows are one machine. Rosters, windows and
bases are drawn; every device gets one reason.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.counting.figures import Recent
from gateway.counting.kernel import Columns
from gateway.counting.registry import Ledger, Registry
from protocols.evidence import column, policy
from protocols.evidence.bundle import open_bundle
from protocols.terms.basis import Basis
from protocols.terms.vocabulary import ROLES, THINGS
from tests.support.plant_fixture import Plant
from verifier.platform import figures as page
from verifier.platform.roster import Roster, apply_rows
from verifier.proof.figures import figures as plain
from verifier.proof.verify import verify

SERIALS = st.sampled_from(["A", "B", "C", ""])  # few, so that machines are reached twice; "" gives no tag


@st.composite
def devices(draw: st.DrawFn) -> list[dict[str, object]]:
    count = draw(st.integers(1, 9))
    return [{
        "roles": draw(st.lists(st.sampled_from(ROLES), max_size=3)), "serial": draw(SERIALS),
        "thing": draw(st.sampled_from(THINGS)), "energy": draw(st.sampled_from([True, False, None])),
        "uscc": draw(st.sampled_from(["91350100M000100Y43", None])),
        "state": draw(st.sampled_from(["alive"] * 5 + ["gone"])),
        "parent": draw(st.none() | st.integers(0, slot - 1)) if slot else None} for slot in range(count)]


BASES = st.builds(
    Basis, key=st.just("drawn"), version=st.just("1"), energy_required=st.booleans(), owner_required=st.booleans(),
    parents=st.sampled_from(["child", "parent"]),
    roles=st.sampled_from([frozenset({"switch", "parameter"}), frozenset({"switch"}), frozenset(ROLES)]),
    things=st.sampled_from([frozenset({"equipment", "product", "terminal"}), frozenset(THINGS)]))


def machine(serial: str, parent: int | None = None) -> dict[str, object]:
    return {"roles": ["switch"], "serial": serial, "thing": "equipment", "energy": True, "uscc": None, "state": "alive",
            "parent": parent}


# The second row of a line stands above its machine too; and two rows that are each above the other's double.
@settings(max_examples=60)
@example(drawn=[machine("A"), machine("B", 0), machine("A")], basis=Basis(key="drawn", version="1"), windows=[{1, 2}])
@example(drawn=[machine("A"), machine("B", 0), machine("B"), machine("A", 2)], basis=Basis(key="drawn", version="1"),
         windows=[{0, 1, 2, 3}])
@given(drawn=devices(), basis=BASES, windows=st.lists(st.sets(st.integers(0, 26)), min_size=1, max_size=3))
def test_three_readers_give_every_device_the_same_reason(
        drawn: list[dict[str, object]], basis: Basis, windows: list[set[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plant = Plant(Path(folder))
        for spec in drawn:
            gone = spec["state"] == "gone"
            slot = plant.device(points=0, serial=str(spec["serial"]), **{
                name: spec[name] for name in ("thing", "energy", "uscc", "state", "parent")})  # type: ignore[arg-type]
            for role in spec["roles"]:  # type: ignore[attr-defined]
                plant.point(slot, role=role, state="gone" if gone else "alive")
        alive = {row["point"] for row in plant.points if row["state"] == "alive"}
        plant.begin()
        recent = Recent()
        end_s = connected = bits = 0
        for chosen in windows:
            producing = chosen & alive
            plant.windows(producing=producing)
            end_s = plant.gateway.now_s
            bits = sum(1 << point for point in producing)
            connected = sum(1 << slot for slot in {plant.points[point]["device"] for point in producing})
            recent.add_columns(end_s, Columns(connected, bits, bits, 0))
        plant.cosign()
        verdict = verify(open_bundle(plant.write().read_bytes()),
                         policy.parse(plant.world.policy_json(), where="policy"))
        assert verdict.valid and verdict.evidence is not None, verdict.findings

        theirs = plain([verdict.evidence], end_s, basis)
        registry = Registry.of(plant.devices, plant.points, Ledger(sha256="0" * 64, date="2026-01-01", rows=1))
        ours = recent.figures(registry, basis, end_s)
        expected = {device.row.slot: device.reason for device in theirs.devices}
        assert {slot: ours.reasons.get(slot) for slot in expected} == expected
        assert (ours.configured, ours.counted) == (theirs.configured, theirs.counted)

        if len(windows) == 1:  # the page shows one window
            rows = plant.gateway.members()[f"roster/{plant.gateway.roster_seq}.jsonl"].decode()
            roster, _ = apply_rows(Roster(), rows, where="rows")
            columns = {"connected": column.pack(connected, len(plant.devices)),
                       "producing": column.pack(bits, len(plant.points))}
            value = {"start_s": end_s - 60, "len_s": 60, "columns": columns}
            shown = page.figures(roster, value, basis)
            assert (shown.configured, shown.counted) == (theirs.configured, theirs.counted)
            assert sum(shown.reasons.values()) == shown.configured - shown.counted
