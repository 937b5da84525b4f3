"""Honest logs give no fault, whatever happened to the gateway; random tamperings of them are refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protocols.errors import VerificationError
from protocols.evidence import keys, note, signed
from protocols.evidence.bundle import open_bundle
from protocols.evidence.note import DASH
from protocols.evidence.policy import Policy
from protocols.evidence.policy import parse as parse_policy
from verifier.conformance.world import (
    OTHER_USCC,
    START_S,
    Gateway,
    World,
    device_row,
    key_of,
    point_row,
    private_part,
    public,
    small,
    two_devices,
    zipped,
)
from verifier.proof.history import OVERLAPPED
from verifier.proof.verify import Verdict, verify


def judged(world: World, gateway: Gateway, *, anchor: bytes | None = None, policy: Policy | None = None,
           first_tile: int = 0, end_tile: int | None = None) -> Verdict:
    members = gateway.members(first_tile=first_tile, end_tile=end_tile)
    return verify(open_bundle(zipped(members)), policy or world.policy(), anchor=anchor)


def codes(verdict: Verdict, severity: str = "fault") -> list[str]:
    return [f.code for f in verdict.findings if f.severity == severity]


def begun() -> tuple[World, Gateway]:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    gateway.window()
    return world, gateway


def test_small() -> None:
    verdict = judged(*small())
    assert verdict.valid and not verdict.findings
    s = verdict.summary
    assert (s.trust, s.time, s.windows, s.devices, s.points, s.enrolled, s.coverage_permille) == (
        "independent", "anchored", 2, 2, 2, 1, 1000)
    assert s.covered == (START_S, START_S + 120)
    assert (s.delay_median_s, s.delay_max_s) == (40, 70)


def test_a_crash_is_an_outage_and_costs_coverage() -> None:
    world, gateway = begun()
    gateway.start()
    gateway.outage(gateway.now_s + 180)
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    verdict = judged(world, gateway)
    assert verdict.valid
    assert (verdict.summary.outages, verdict.summary.missing_windows, verdict.summary.coverage_permille) == (1, 3, 400)


def test_two_crashes_before_the_next_window() -> None:
    world, gateway = begun()
    window_end = gateway.now_s
    gateway.start()
    gateway.outage(gateway.now_s + 60)
    gateway.start()
    gateway.outage(gateway.now_s + 60, start_s=window_end, missing={"windows": 2, "samples": None})
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    assert codes(judged(world, gateway)) == []


@pytest.mark.parametrize("reason", ["clock_back", "clone"])
def test_a_clock_set_back_takes_windows_back(reason: str) -> None:
    world, gateway = begun()
    for _ in range(3):
        gateway.window()
    gateway.outage(gateway.now_s - 120, reason)
    gateway.window()
    world.round(time_s=gateway.now_s + 200)
    verdict = judged(world, gateway)
    assert verdict.valid and codes(verdict, "remark") == ["window.overlapped"]
    assert verdict.evidence is not None
    assert [s == OVERLAPPED for s in verdict.evidence.windows.state] == [False, False, True, True, False]
    assert verdict.summary.windows_uncounted == 2
    assert verdict.summary.covered == (START_S, START_S + 180)


def test_a_longer_window_after_a_new_start() -> None:
    world, gateway = begun()
    gateway.start(len_s=300)
    end_s = -(-gateway.now_s // 300) * 300
    gateway.outage(end_s, "rule_change")
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    assert codes(judged(world, gateway)) == []


def test_keys_rotate_twice_and_an_old_checkpoint_still_anchors() -> None:
    world, gateway = begun()
    old = gateway.checkpoint()
    gateway.rotate("gateway 2")
    gateway.window()
    gateway.rotate("gateway 3")
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    assert codes(judged(world, gateway, anchor=old)) == []
    assert codes(judged(world, gateway, anchor=world.proof(len(world.entries) - 1))) == []


def test_a_revoked_key_ends_the_log_and_the_windows_before_stand() -> None:
    world, gateway = begun()
    gateway.window()
    world.round(time_s=gateway.now_s + 5)
    gateway.add("window", True, nonsense=1)  # the thief goes on, and seals what no format knows
    revocation = signed.sign("revocation", {"gateway": gateway.id, "gateway_key": public("gateway").hex(),
                                            "from_size": 5}, key_of("recovery gateway"))
    world.add({"type": "revoke", "revocation": revocation})
    world.round(time_s=gateway.now_s + 30)
    verdict = judged(world, gateway)
    assert verdict.valid and codes(verdict, "remark") == ["register.revoked"]
    assert verdict.summary.windows == 2


def test_a_second_gateway_is_told() -> None:
    world, gateway = begun()
    world.gateway("second")
    world.gateway("of another enterprise", uscc=OTHER_USCC)
    world.round(time_s=gateway.now_s + 10)
    verdict = judged(world, gateway)
    assert verdict.valid and verdict.summary.enrolled == 2


def test_demands_are_answered_by_openings() -> None:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin()
    private = private_part("press", maker="Maker", model="M-1", serial="S-0", handle="88.1/2")
    gateway.roster([device_row(0, private=private), device_row(1)], two_devices(gateway)[1])
    gateway.window()
    demand = {"gateway": gateway.id, "slots": [0, 1], "hours": [], "deadline_s": gateway.now_s}
    world.add({"type": "demand", "demand": signed.sign("demand", demand, key_of("auditor"))})
    world.add({"type": "demand", "demand": signed.sign("demand", demand, key_of("passer-by"))})
    world.round(time_s=gateway.now_s + 10)
    members = gateway.members() | {"openings/0.json": gateway.opening(0, private)}
    verdict = verify(open_bundle(zipped(members)), world.policy())
    assert verdict.valid and codes(verdict, "remark") == ["demand.unanswered", "register.unknown_signer"]
    assert (verdict.summary.demanded, verdict.summary.opened) == (2, 1)
    assert verdict.evidence is not None and verdict.evidence.opened[0]["name"] == "press"


def plant_without_platform() -> tuple[Gateway, Policy]:
    world = World(witnesses=())
    gateway = world.gateway("alone", enrol=False, signer="recovery alone")
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    gateway.window()
    key = note.VerifierKey(keys.gateway_origin(gateway.id), note.ED25519, public("alone"))
    return gateway, parse_policy(json.dumps({"gateways": [str(key)]}).encode(), where="policy")


def test_a_plant_without_a_platform() -> None:
    gateway, policy = plant_without_platform()
    kept = gateway.checkpoint()
    gateway.window()
    verdict = judged(gateway.world, gateway, policy=policy, anchor=kept)
    assert verdict.valid and codes(verdict, "remark") == ["time.unanchored"]
    assert (verdict.summary.trust, verdict.summary.time, verdict.summary.enrolled) == ("given", "unanchored", None)
    assert {"limit.given", "limit.self_made"} <= set(verdict.summary.limits)


def test_a_register_without_witnesses_is_given_trust() -> None:
    world = World(witnesses=())
    world.round()
    gateway = world.gateway()
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    verdict = judged(world, gateway)
    assert verdict.valid and verdict.summary.trust == "given"
    assert codes(verdict, "remark") == ["time.unanchored"]


def test_a_witness_that_is_not_independent_gives_no_time() -> None:
    world, gateway = begun()
    gateway.window(seen=world.seen(witness="vendor"))
    world.round(time_s=gateway.now_s + 10)
    verdict = judged(world, gateway)
    assert verdict.valid and codes(verdict, "remark") == ["seen.unknown_witness", "time.wide"]


@pytest.mark.parametrize(("shift_s", "code"), [(-7200, "time.outside"), (+86_400, "time.outside")])
def test_a_clock_that_is_wrong_changes_no_verdict_but_counts_nothing(shift_s: int, code: str) -> None:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.now_s += shift_s
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    for _ in range(3):
        gateway.window()
    world.round(time_s=START_S + 200)
    verdict = judged(world, gateway)
    assert verdict.valid and codes(verdict, "remark") == [code]
    assert dict(verdict.findings[0].args) == {"last": "5", "windows": "3"}
    assert verdict.summary.windows_uncounted == 3


def test_windows_that_nobody_has_co_signed_yet_are_late() -> None:
    world, gateway = begun()
    world.round(time_s=gateway.now_s + 10)
    gateway.window()
    verdict = judged(world, gateway)
    assert verdict.valid and codes(verdict, "remark") == ["time.open"]


def test_unknown_types_are_remarks_and_still_in_their_place() -> None:
    world, gateway = begun()
    gateway.add("tpm", quote="abc")
    world.add({"type": "advice"})
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    members = gateway.members()
    index = next(i for i, e in enumerate(world.entries) if json.loads(e)["type"] == "advice")
    members[f"register/{index}.proof"] = world.proof(index)
    verdict = verify(open_bundle(zipped(members)), world.policy())
    assert verdict.valid and codes(verdict, "remark") == ["register.unknown_type", "entry.unknown_type"]


def test_a_fork_in_the_register_is_told() -> None:
    world, gateway = begun()
    _, twin = begun()
    twin.window(producing=[1])
    gateway.window()
    world.add({"type": "fork", "gateway": gateway.id,
               "checkpoints": [gateway.checkpoint().decode(), twin.checkpoint().decode()]})
    world.add({"type": "fork", "gateway": gateway.id,
               "checkpoints": [gateway.checkpoint().decode(), twin.checkpoint(signer="thief").decode()]})
    world.round(time_s=gateway.now_s + 10)
    verdict = judged(world, gateway)
    assert verdict.valid and codes(verdict, "remark") == ["register.fork", "register.fork_unproven"]


def long_log() -> tuple[World, Gateway]:
    """900 entries: four tiles, with outages, a key change and roster changes in each."""
    world, gateway = begun()
    devices, points = two_devices(gateway)
    for i in range(1, 900):
        if i % 211 == 0:
            gateway.start()
            gateway.outage(gateway.now_s + 120)
        elif i % 223 == 0:
            slot = len(devices)
            devices = [*devices, device_row(slot)]
            points = [*points, point_row(slot, slot, gateway.id)]
            gateway.roster(devices, points)
        elif i == 400:
            gateway.rotate("gateway 2")
        elif i % 60 == 0:
            world.round(time_s=gateway.now_s + 3)
        gateway.window()
    world.round(time_s=gateway.now_s + 10)
    return world, gateway


def test_every_interval_of_a_long_log() -> None:
    world, gateway = long_log()
    policy = world.policy()
    count = -(-len(gateway.entries) // 256)
    for first in range(count):
        for end in range(first + 1, count + 1):
            verdict = judged(world, gateway, policy=policy, first_tile=first, end_tile=end)
            assert codes(verdict) == [], (first, end)
            assert verdict.evidence is not None and verdict.evidence.from_enrolment == (first == 0)


def test_an_interval_without_its_life_is_refused() -> None:
    world, gateway = long_log()
    whole = gateway.members(first_tile=1, end_tile=2)
    singles = [name for name in whole if name.startswith("entry/")]
    assert len(singles) > 6
    for name in singles:
        members = {n: d for n, d in whole.items() if n != name}
        verdict = verify(open_bundle(zipped(members)), world.policy())
        assert set(codes(verdict)) & {"life.broken", "note.unsigned"}, name


EVENTS = st.lists(st.sampled_from(["window"] * 6 + ["quiet", "crash", "back", "grow", "retire", "rename", "rotate",
                                                    "round", "restart"]), min_size=1, max_size=40)


def live(events: list[str]) -> tuple[World, Gateway]:
    """Let these things happen to a gateway."""
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin()
    devices, points = two_devices(gateway)
    gateway.roster(devices, points)
    for number, event in enumerate(events):
        match event:
            case "quiet":
                gateway.window(connected=[], sampled=[])
            case "crash":
                gateway.start()
                gateway.outage(gateway.now_s + 60 * (1 + number % 3))
                gateway.window()
            case "back":
                gateway.window()
                gateway.outage(gateway.now_s - 60, "clock_back")
                gateway.window()
            case "grow":
                slot = len(devices)
                devices = [*devices, device_row(slot, parent=0)]
                points = [*points, point_row(len(points), slot, gateway.id)]
                gateway.roster(devices, points)
            case "retire" if len(devices) > 2 and devices[-1]["state"] == "alive":
                devices = [*devices[:-1], devices[-1] | {"state": "gone"}]
                points = [*points[:-1], points[-1] | {"state": "gone"}]
                gateway.roster(devices, points)
            case "rename":
                devices = [devices[0] | {"private_sha256": f"{number:064x}"}, *devices[1:]]
                gateway.roster(devices, points)
            case "rotate":
                gateway.rotate(f"key {number}")
            case "round":
                world.round(time_s=max(world.time_s + 1, gateway.now_s + 5))
            case "restart":
                gateway.start()
            case _:
                gateway.window()
    world.round(time_s=max(world.time_s + 1, gateway.now_s + 10))
    return world, gateway


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=EVENTS)
def test_whatever_happens_to_an_honest_gateway_it_verifies(events: list[str]) -> None:
    world, gateway = live(events)
    assert codes(judged(world, gateway)) == []


def _flip(rng: random.Random, data: bytearray) -> bytearray:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _cut(rng: random.Random, data: bytearray) -> bytearray:
    return data[: rng.randrange(len(data))]


def _drop(rng: random.Random, data: bytearray) -> bytearray:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 40) :]


def _double(rng: random.Random, data: bytearray) -> bytearray:
    at = rng.randrange(len(data))
    return data[: at + 20] + data[at:]


def _swap(rng: random.Random, data: bytearray) -> bytearray:
    rows = bytes(data).split(b"\n")
    a, b = rng.randrange(len(rows)), rng.randrange(len(rows))
    rows[a], rows[b] = rows[b], rows[a]
    return bytearray(b"\n".join(rows))


def unordered(data: bytes) -> list[bytes]:
    """Signature lines have no order: C2SP signed-note. Everything else has."""
    rows = data.split(b"\n")
    signatures = iter(sorted(row for row in rows if row.startswith(DASH.encode())))
    return [next(signatures) if row.startswith(DASH.encode()) else row for row in rows]


CHANGES: list[Callable[[random.Random, bytearray], bytearray]] = [_flip, _cut, _drop, _double, _swap]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(events=["window"], seed=298)  # two witnesses change places
@given(events=EVENTS, seed=st.integers(0, 2**32))
def test_random_tamperings_of_honest_logs_are_refused(events: list[str], seed: int) -> None:
    rng = random.Random(seed)
    world, gateway = live(events)
    members = gateway.members()
    name = rng.choice(sorted(members))
    changed = bytes(rng.choice(CHANGES)(rng, bytearray(members[name])))
    try:
        verdict = verify(open_bundle(zipped(members | {name: changed})), world.policy())
    except VerificationError as error:
        raise AssertionError("only the container raises, and it is whole") from error
    assert verdict.valid == (unordered(changed) == unordered(members[name]))
