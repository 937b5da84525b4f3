"""Figures at an instant: every reason, late evidence, duplicates over gateways; and a slow recount that agrees."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from protocols.errors import VerificationError
from protocols.evidence.bundle import open_bundle
from protocols.terms.basis import Basis
from verifier.conformance.world import (
    START_S,
    Gateway,
    World,
    device_row,
    point_row,
    private_part,
    two_devices,
    zipped,
)
from verifier.proof.figures import Evidence, Figures, figures
from verifier.proof.verify import verify

BASIS = Basis(key="test", version="1")


def evidence_of(world: World, gateway: Gateway, **interval: int) -> Evidence:
    verdict = verify(open_bundle(zipped(gateway.members(**interval))), world.policy())
    assert verdict.evidence is not None, verdict.findings
    return verdict.evidence


def plant(devices: Sequence[dict[str, Any]] | None = None, points: Sequence[dict[str, Any]] | None = None,
          *, name: str = "gateway", world: World | None = None) -> tuple[World, Gateway]:
    world = world or World()
    gateway = world.gateway(name)
    world.round(time_s=START_S - 10)
    gateway.begin()
    rows = two_devices(gateway)
    gateway.roster(rows[0] if devices is None else devices,
                   [point_row(i, i, gateway.id) for i in range(len(devices))] if points is None and devices is not None
                   else rows[1] if points is None else points)
    return world, gateway


def at_end(world: World, gateway: Gateway, basis: Basis = BASIS) -> Figures:
    world.round(time_s=gateway.now_s + 10)
    return figures([evidence_of(world, gateway)], gateway.now_s, basis)


def reasons(result: Figures) -> list[str | None]:
    return [d.reason for d in result.devices]


def machine(slot: int, **private: str) -> dict[str, Any]:
    return device_row(slot, private=private_part(f"machine {slot}", **private))


def test_each_reason_of_a_device_alone() -> None:
    rows = [device_row(0), device_row(1), device_row(2, thing="infrastructure"), device_row(3, uscc=None),
            device_row(4, industry="1311"), device_row(5, region="110000"), device_row(6, deployment="public"),
            device_row(7, energy=False), device_row(8)]
    world, gateway = plant(rows, [])
    points = [point_row(i, i, gateway.id, role="heartbeat" if i == 8 else "parameter") for i in range(9)]
    gateway.roster(rows, points)
    gateway.window(sampled=[0, *range(2, 9)])
    basis = Basis(key="test", version="1", energy_required=True, industries=frozenset({"34"}),
                  regions=frozenset({"3201"}), deployments=frozenset({"private"}))
    result = at_end(world, gateway, basis)
    assert reasons(result) == [
        None, "no_valid_data", "not_industrial_device", "owner_unknown", "out_of_scope", "out_of_scope",
        "cloud_kind_mismatch", "not_industrial_device", "heartbeat_only"]
    assert result.configured == result.counted + sum(result.reasons.values()) == 9
    assert result.stage("connected") == 9 and result.stage("producing") == result.stage("changing") == 7


def test_one_machine_reached_twice_counts_once_also_through_a_third_identifier() -> None:
    rows = [machine(0, maker="M", model="x", serial="1"), machine(1, maker="M", model="x", serial="1", asset="A"),
            machine(2, asset="A"), machine(3, maker="M", model="x", serial="2")]
    world, gateway = plant(rows)
    gateway.window()
    result = at_end(world, gateway)
    assert reasons(result) == [None, "duplicate_identity", "duplicate_identity", None]
    assert result.points.counted == 2 and result.points.producing == 4


def test_of_two_equal_devices_the_one_that_still_counts_stays() -> None:
    rows = [machine(0, asset="A"), machine(1, asset="A")]
    world, gateway = plant(rows)
    gateway.window(sampled=[1])
    assert reasons(at_end(world, gateway)) == ["no_valid_data", None]


def test_one_machine_behind_two_gateways_counts_where_it_was_enrolled_first() -> None:
    world = World()
    rows = [machine(0, asset="A")]
    _, first = plant(rows, name="first", world=world)
    _, second = plant(rows, name="second", world=world)
    first.window()
    second.window()
    world.round(time_s=first.now_s + 10)
    both = [evidence_of(world, second), evidence_of(world, first)]
    result = figures(both, first.now_s, BASIS)
    assert [(d.gateway, d.reason) for d in result.devices] == [(first.id, None), (second.id, "duplicate_identity")]
    with pytest.raises(VerificationError, match=r"figures\.same_gateway"):
        figures([both[0], both[0]], first.now_s, BASIS)


@pytest.mark.parametrize(("parents", "expected"), [
    ("child", ["parent_or_child", "parent_or_child", None, None]),
    ("parent", [None, "parent_or_child", "parent_or_child", "parent_or_child"])])
def test_a_line_and_its_machines_never_both_count(parents: Any, expected: list[str | None]) -> None:
    rows = [device_row(0, thing="line"), device_row(1, parent=0), device_row(2, parent=1), device_row(3, parent=0)]
    world, gateway = plant(rows)
    gateway.window()
    basis = Basis(key="test", version="1", things=frozenset({"line", "equipment"}), parents=parents)
    assert reasons(at_end(world, gateway, basis)) == expected


def test_a_silent_line_takes_nothing_from_its_machines() -> None:
    world, gateway = plant([device_row(0, thing="line"), device_row(1, parent=0)])
    gateway.window(sampled=[1])
    basis = Basis(key="test", version="1", things=frozenset({"line", "equipment"}), parents="parent")
    assert reasons(at_end(world, gateway, basis)) == ["no_valid_data", None]


def test_points_fold_by_base_and_derived_points_do_not_count() -> None:
    world, gateway = plant([device_row(0)], [])
    points = [point_row(i, 0, gateway.id, address=f"1/holding/7/bool/{i}", base="1/holding/7", type="bool",
                        role="switch") for i in range(16)]
    points += [point_row(16, 0, gateway.id), point_row(17, 0, gateway.id, role="derived")]
    gateway.roster([device_row(0)], points)
    gateway.window()
    result = at_end(world, gateway).points
    assert (result.configured, result.producing, result.counted, result.folded) == (18, 18, 17, 2)


def test_splits_kinds_and_protocols() -> None:
    rows = [machine(0, maker="M", model="x", serial="1"), machine(1, maker="M", model="x", serial="2"),
            machine(2, asset="A") | {"class": None}]
    world, gateway = plant(rows, [])
    protocols = ["modbus_tcp", "modbus_rtu", "opc_ua"]
    points = [point_row(i, i, gateway.id, protocol=p) for i, p in enumerate(protocols)]
    gateway.roster(rows, points)
    gateway.window()
    result = at_end(world, gateway)
    assert (result.kinds_by_model, result.kinds_by_class) == (1, 1)
    assert result.by_class == {"machine_tool": 2, None: 1} and result.by_region == {"320100": 3}
    assert result.protocols == ("modbus", "opc_ua")
    variant = Basis(key="t", version="1", protocols="variant")
    assert at_end(world, gateway, variant).protocols == tuple(sorted(protocols))
    assert [d.remarks for d in result.devices] == [(), (), ("class_missing", "model_missing")]


def test_freshness_is_half_open() -> None:
    world, gateway = plant()
    gateway.window()
    for _ in range(5):
        gateway.window(sampled=[1])
    world.round(time_s=gateway.now_s + 10)
    evidence = evidence_of(world, gateway)
    for freshness_s, counted in ((300, 1), (301, 2), (360, 2)):
        basis = Basis(key="test", version="1", freshness_s=freshness_s)
        assert figures([evidence], gateway.now_s, basis).counted == counted


def test_an_instant_inside_a_window_is_rounded_down() -> None:
    world, gateway = plant()
    gateway.window(sampled=[0])
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    evidence = evidence_of(world, gateway)
    result = figures([evidence], gateway.now_s - 1, BASIS)
    assert (result.counted_at_s, result.at_s, result.counted) == (gateway.now_s - 60, gateway.now_s - 1, 1)
    assert figures([evidence], gateway.now_s, BASIS).counted == 2


def test_what_is_not_covered_is_not_proven() -> None:
    world, gateway = plant()
    for _ in range(600):
        gateway.window()
    world.round(time_s=gateway.now_s + 10)
    part = evidence_of(world, gateway, first_tile=1)
    assert part.covered is not None
    start_s, end_s = part.covered
    hour = Basis(key="test", version="1", freshness_s=3600, lateness_s=86_400)
    assert figures([part], start_s + 3600, hour).counted == 2
    for at_s in (start_s + 3599, end_s + 1):
        with pytest.raises(VerificationError, match=r"figures\.not_covered"):
            figures([part], at_s, hour)
    whole = evidence_of(world, gateway)
    assert figures([whole], START_S + 60, hour).counted == 2  # before the log's first entry is no gap
    with pytest.raises(VerificationError, match=r"figures\.no_window"):
        figures([whole], START_S - 60, hour)


def test_an_outage_is_told_beside_the_figure() -> None:
    world, gateway = plant()
    gateway.window()
    gateway.start()
    gateway.outage(gateway.now_s + 120)
    gateway.window(sampled=[0])
    result = at_end(world, gateway)
    assert (result.counted, result.windows, result.missing_windows) == (2, 2, 2)


def test_an_instant_inside_an_outage_says_how_much_of_it_is_missing() -> None:
    world, gateway = plant([device_row(0)])
    gateway.window()
    start_s = gateway.now_s
    gateway.outage(start_s + 600, "off")
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    evidence = evidence_of(world, gateway)
    assert figures([evidence], start_s + 180, BASIS).missing_windows == 3
    assert figures([evidence], start_s + 170, BASIS).missing_windows == 2
    short = Basis(key="test", version="1", freshness_s=120)
    assert figures([evidence], start_s + 600, short).missing_windows == 2
    assert figures([evidence], gateway.now_s, BASIS).missing_windows == 10


def test_a_device_that_is_gone_at_t_is_not_there() -> None:
    world, gateway = plant()
    gateway.window()
    devices, points = two_devices(gateway)
    gateway.roster([devices[0], devices[1] | {"state": "gone"}], [points[0], points[1] | {"state": "gone"}])
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    evidence = evidence_of(world, gateway)
    assert figures([evidence], gateway.now_s, BASIS).configured == 1
    assert figures([evidence], gateway.now_s - 60, BASIS).configured == 2


def test_late_evidence_is_a_figure_of_its_own() -> None:
    world, gateway = plant()
    gateway.window(sampled=[0])
    world.round(time_s=gateway.now_s + 10)
    gateway.window()
    world.round(time_s=gateway.now_s + 3700)
    result = figures([evidence_of(world, gateway)], gateway.now_s, BASIS)
    assert (result.counted, result.late_devices, result.late_windows) == (1, 1, 1)
    assert reasons(result) == [None, "clock_untrusted"]
    patient = Basis(key="test", version="1", lateness_s=3700)
    assert figures([evidence_of(world, gateway)], gateway.now_s, patient).counted == 2


def test_a_window_outside_its_bracket_counts_nothing() -> None:
    world, gateway = plant()
    gateway.now_s -= 7200
    gateway.window()
    result = figures([evidence_of_round(world, gateway)], gateway.now_s, BASIS)
    assert reasons(result) == ["clock_untrusted"] * 2 and result.untrusted_windows == 1


def evidence_of_round(world: World, gateway: Gateway) -> Evidence:
    world.round(time_s=START_S + 100)
    return evidence_of(world, gateway)


def test_windows_taken_back_do_not_count() -> None:
    world, gateway = plant()
    gateway.window(sampled=[0])
    gateway.window()
    gateway.outage(gateway.now_s - 60, "clock_back")
    gateway.window(sampled=[0])
    result = at_end(world, gateway)
    assert (result.counted, result.windows) == (1, 2)


def slow(seals: list[tuple[int, set[int], set[int]]], owner: list[int], roles: list[str], at_s: int,
         freshness_s: int) -> tuple[set[int], set[int]]:
    """Return (devices producing, points producing) at T, one window and one point at a time."""
    devices, points = set(), set()
    for end_s, producing, _ in seals:
        if at_s - freshness_s < end_s <= at_s:
            for point in producing:
                points.add(point)
                if roles[point] in ("switch", "parameter"):
                    devices.add(owner[point])
    return devices, points


@pytest.mark.parametrize("seed", range(25))
def test_figures_equal_a_slow_recount(seed: int) -> None:
    rng = random.Random(seed)
    n_devices, n_points = rng.randint(1, 9), rng.randint(1, 30)
    owner = [rng.randrange(n_devices) for _ in range(n_points)]
    roles = [rng.choice(["switch", "parameter", "heartbeat", "derived"]) for _ in range(n_points)]
    world, gateway = plant([device_row(i) for i in range(n_devices)], [])
    gateway.roster([device_row(i) for i in range(n_devices)],
                   [point_row(i, owner[i], gateway.id, role=roles[i]) for i in range(n_points)])
    seals: list[tuple[int, set[int], set[int]]] = []
    for _ in range(rng.randint(1, 20)):
        producing = {p for p in range(n_points) if rng.random() < 0.15}
        changing = {p for p in producing if rng.random() < 0.5}
        gateway.window(sampled=producing, changing=changing)
        seals.append((gateway.now_s, producing, changing))
        if rng.random() < 0.2:
            gateway.outage(gateway.now_s + 60 * rng.randint(1, 3))
            gateway.window(sampled=[])
    world.round(time_s=gateway.now_s + 10)
    evidence = evidence_of(world, gateway)
    for _ in range(4):
        at_s = rng.choice([end_s for end_s, _, _ in seals])
        freshness_s = 60 * rng.randint(1, 20)
        result = figures([evidence], at_s, Basis(key="t", version="1", freshness_s=freshness_s))
        devices, points = slow(seals, owner, roles, at_s, freshness_s)
        assert {d.row.slot for d in result.devices if d.reason is None} == devices
        assert result.points.producing == len(points)
        assert result.configured == result.counted + sum(result.reasons.values())
        assert result.stage("changing") <= result.stage("producing") <= result.stage("connected") <= result.configured


def test_busy_share_counts_windows() -> None:
    world, gateway = plant()
    for i in range(8):
        gateway.window(sampled=[0, 1] if i % 4 == 0 else [0])
    assert at_end(world, gateway).producing_permille == (1000 + 250) // 2
