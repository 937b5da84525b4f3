"""The life of a gateway: who else is enrolled, what a stolen key leaves standing, and what a wrong clock cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocols.evidence import signed
from protocols.evidence.bundle import open_bundle, write_bundle
from protocols.terms.basis import Basis
from tallystick.__main__ import main
from tallystick.words.lookup import Words
from tests.support.schemas import validate
from verifier.commands import as_json, as_text
from verifier.conformance.world import OTHER_USCC, START_S, Gateway, World, key_of, public, two_devices, zipped
from verifier.proof.figures import figures
from verifier.proof.history import OUTSIDE, OVERLAPPED
from verifier.proof.verify import Verdict, verify

DAY_S = 86_400
YEAR_S = 365 * DAY_S
BASIS = Basis(key="test", version="1")


def judged(gateway: Gateway) -> Verdict:
    return verify(open_bundle(zipped(gateway.members())), gateway.world.policy())


def codes(verdict: Verdict, severity: str = "remark") -> list[str]:
    return [f.code for f in verdict.findings if f.severity == severity]


def begun(world: World | None = None, name: str = "gateway", shift_s: int = 0, **certificate: object) -> Gateway:
    world = world or World()
    gateway = world.gateway(name, **certificate)
    world.round(time_s=gateway.now_s - 10)
    gateway.now_s += shift_s
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    return gateway


def revoke(gateway: Gateway, from_size: int, *, signer: str | None = None) -> int:
    revocation = signed.sign("revocation", {
        "gateway": gateway.id, "gateway_key": public(gateway.key_name).hex(), "from_size": from_size},
        key_of(signer or f"recovery {gateway.name}"))
    return gateway.world.add({"type": "revoke", "revocation": revocation}, gateway.uscc)


def told(verdict: Verdict, lang: str = "en") -> str:
    say = Words(lang)
    validate(as_json(verdict, say), "verify.schema.json")
    return "\n".join(as_text(verdict, say))


# Question 17: key stolen on 1 May, revoked on 3 May.

MAY_1 = 1_777_593_600  # 2026-05-01 08:00 +08:00


def stolen(*, late_head: bool = False) -> tuple[Gateway, Verdict, dict[str, int]]:
    """Hourly rounds. The thief has the key from hour 4 on, seals two windows of his own, and is revoked in hour 52."""
    world = World(time_s=MAY_1 - 60)
    gateway = world.gateway("press shop")
    gateway.len_s, gateway.now_s = 3600, MAY_1
    world.round(time_s=MAY_1 - 10)
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    for _ in range(4):
        gateway.window()
        if not late_head:
            world.round(time_s=gateway.now_s + 20)
    size = len(gateway.entries)
    for _ in range(2):
        gateway.window(producing=[0])
    world.round(time_s=gateway.now_s + 20, heads=not late_head)
    revoke(gateway, size)
    revoked_s = MAY_1 + 52 * 3600
    world.round(time_s=revoked_s, heads=False)
    gateway.world.round(time_s=revoked_s + 3600)
    return gateway, judged(gateway), {"size": size, "revoked_s": revoked_s}


def test_which_statements_stand() -> None:
    _, verdict, known = stolen()
    assert verdict.valid and codes(verdict) == ["register.revoked", "time.wide"]  # an hourly round is more than an hour
    ends = verdict.summary.standing
    assert ends is not None
    assert (ends.from_size, ends.windows, ends.void_entries) == (known["size"], 4, 2)
    assert (ends.cosigned_s, ends.before, ends.until_s) == (known["revoked_s"], 4, MAY_1 + 4 * 3600 + 20)
    # Windows before keep their brackets, to the second.
    assert verdict.evidence is not None
    windows = verdict.evidence.windows
    assert list(windows.not_after_s) == [MAY_1 + n * 3600 + 20 for n in (1, 2, 3, 4)]
    assert list(windows.not_before_s) == [MAY_1 - 10] + [MAY_1 + n * 3600 + 20 for n in (1, 2, 3)]
    text = told(verdict)
    assert f"Revoked from entry {known['size']} on: 4 windows before that stand" in text
    assert "2 entries behind it are void" in text
    assert "co-signed at 2026-05-03 12:00:00+08:00: 4 of these" in text and "2026-05-01 12:00:20+08:00" in text
    # What the thief sealed is nowhere in the figures.
    result = figures([verdict.evidence], MAY_1 + 4 * 3600, BASIS)
    assert (result.windows, result.counted) == (4, 2)


def test_what_was_only_cosigned_after_the_revocation_is_told_apart() -> None:
    """The windows stand, but whoever had the key could have written them until the revocation."""
    _, verdict, _ = stolen(late_head=True)
    assert verdict.valid
    ends = verdict.summary.standing
    assert ends is not None and (ends.windows, ends.before, ends.until_s) == (4, 0, None)
    assert "0 of these windows were co-signed before that, the last at -" in told(verdict)
    assert "吊销于" in told(verdict, "zh")


def test_a_revocation_that_nobody_independent_saw_has_no_time() -> None:
    world = World(witnesses=("vendor",), independent=())
    gateway = begun(world)
    gateway.window()
    revoke(gateway, len(gateway.entries))
    world.round(time_s=gateway.now_s + 10)
    verdict = judged(gateway)
    assert verdict.valid and verdict.summary.standing is not None
    assert (verdict.summary.standing.cosigned_s, verdict.summary.standing.before) == (None, 0)
    assert "No independent witness has co-signed the revocation" in told(verdict)


def test_a_stolen_key_cannot_revoke_and_the_smallest_size_counts() -> None:
    gateway = begun()
    for _ in range(3):
        gateway.window()
    revoke(gateway, 4, signer="gateway")
    gateway.world.round(time_s=gateway.now_s + 10)
    assert codes(judged(gateway), "fault") == ["signed.wrong_signer"]

    gateway = begun()
    for _ in range(3):
        gateway.window()
    for size in (5, 4, 6):
        revoke(gateway, size, signer="platform" if size == 4 else None)
    gateway.world.round(time_s=gateway.now_s + 10)
    verdict = judged(gateway)
    assert verdict.valid and verdict.summary.standing is not None
    assert (verdict.summary.standing.from_size, verdict.summary.windows) == (4, 1)


# k gateways exist, j shown.

def enterprise() -> tuple[World, dict[str, Gateway]]:
    """Four gateways: one in use, one revoked, its successor, and one that was superseded without a revocation."""
    world = World()
    found = {name: world.gateway(name) for name in ("north", "stolen", "old")}
    found["next"] = world.gateway("next", supersedes=found["stolen"].id)
    found["new"] = world.gateway("new", supersedes=found["old"].id)
    world.gateway("stranger", uscc=OTHER_USCC)
    world.round(time_s=START_S - 10)
    for gateway in found.values():
        gateway.begin()
        gateway.roster(*two_devices(gateway))
        gateway.window()
    world.round(time_s=START_S + 70)
    revoke(found["stolen"], 3)
    world.round(time_s=START_S + 80)
    return world, found


def test_every_gateway_that_is_not_shown_is_named_with_its_state() -> None:
    _, found = enterprise()
    verdict = judged(found["next"])
    assert verdict.valid
    told_json = verdict.summary.as_json()["gateways"]
    assert (told_json["enrolled"], told_json["shown"], told_json["supersedes"]) == (5, 1, found["stolen"].id)
    assert {g["gateway"]: (g["site"], g["supersedes"], g["superseded_by"], g["revoked_from"])
            for g in told_json["others"]} == {
        found["north"].id: ("north", None, [], None), found["stolen"].id: ("stolen", None, [found["next"].id], 3),
        found["old"].id: ("old", None, [found["new"].id], None), found["new"].id: ("new", found["old"].id, [], None)}
    text = told(verdict)
    assert "Gateways of this enterprise: 5 enrolled, 1 shown here" in text
    assert f"{found['stolen'].id} at stolen (superseded by {found['next'].id}; revoked from entry 3 on)" in text
    assert f"{found['old'].id} at old (superseded by {found['new'].id})" in text
    assert f"{found['north'].id} at north (enrolled)" in text
    assert f"successor of {found['stolen'].id}" in text
    assert "stranger" not in text and "stranger" not in json.dumps(told_json)


def test_enrolling_anew_sheds_no_history() -> None:
    """Neither by leaving out `supersedes`, nor by leaving the old entries out of the bundle."""
    world = World()
    old = begun(world, "old")
    old.window(producing=[])
    fresh = begun(world, "fresh")
    fresh.window()
    world.round(time_s=START_S + 70)
    verdict = judged(fresh)
    assert [g["gateway"] for g in verdict.summary.as_json()["gateways"]["others"]] == [old.id]
    enrolled = {json.loads(data)["certificate"]["gateway_key"]: i for i, data in enumerate(world.entries)
                if json.loads(data)["type"] == "enrol"}
    members = fresh.members()
    del members[f"register/{enrolled[public('old').hex()]}.proof"]
    verdict = verify(open_bundle(zipped(members)), world.policy())
    assert codes(verdict, "fault") == ["register.chain_broken"]


def test_a_predecessor_that_the_register_does_not_know_is_told() -> None:
    gateway = begun(supersedes="ab" * 16)
    gateway.window()
    gateway.world.round(time_s=gateway.now_s + 10)
    verdict = judged(gateway)
    assert verdict.valid and codes(verdict) == ["register.supersedes_unknown"]


# Time.

@pytest.mark.parametrize("shift_s", [-YEAR_S - 17, YEAR_S + 17])
def test_a_clock_off_by_a_year_changes_no_verdict_and_is_reported(shift_s: int) -> None:
    shift_s -= shift_s % 60
    gateway = begun(shift_s=shift_s)
    for _ in range(3):
        gateway.window()
        gateway.world.round(time_s=gateway.now_s - shift_s + 5)
    verdict = judged(gateway)
    assert verdict.valid and codes(verdict) == ["time.outside"]
    assert verdict.evidence is not None and set(verdict.evidence.windows.state) == {OUTSIDE}
    # Not-before and not-after come from the witnesses: they are what they are.
    assert list(verdict.evidence.windows.not_after_s) == [START_S + 65, START_S + 125, START_S + 185]
    assert abs(verdict.summary.clock.outside_max_s - abs(shift_s)) < 300
    assert "decides no verdict" in told(verdict) and "时钟" in told(verdict, "zh")
    result = figures([verdict.evidence], gateway.now_s, BASIS)
    assert (result.counted, result.untrusted_windows, result.windows) == (0, 3, 3)
    assert {d.reason for d in result.devices} == {"clock_untrusted"}


def test_a_clock_that_jumps_a_year_and_back_costs_what_it_missed_and_nothing_else() -> None:
    gateway = begun()
    gateway.window()
    gateway.outage(gateway.now_s + YEAR_S, "clock_forward")
    for _ in range(5):
        gateway.window(clock={"source": "system", "offset_ms": 0, "step_ms": 0})
    gateway.outage(START_S + 360, "clock_back")
    for _ in range(4):
        gateway.window(clock={"source": "ntp", "offset_ms": -40, "step_ms": -YEAR_S * 1000})
    gateway.world.round(time_s=gateway.now_s + 10)
    verdict = judged(gateway)
    assert verdict.valid and "window.overlapped" in codes(verdict)
    assert verdict.evidence is not None
    states = list(verdict.evidence.windows.state)
    assert [s == OVERLAPPED for s in states] == [False] + 5 * [True] + 4 * [False]
    assert verdict.summary.covered == (START_S, START_S + 600)
    # Five of ten minutes are covered: what was missed while the clock was away is missing.
    assert verdict.summary.coverage_permille == 500
    assert verdict.summary.clock.stepped == 4 and verdict.summary.clock.step_max_ms == YEAR_S * 1000
    result = figures([verdict.evidence], START_S + 600, BASIS)
    assert (result.windows, result.missing_windows, result.counted) == (5, 5, 2)


def test_three_days_offline() -> None:
    """design: brackets of the time are wide, the figure at T counts what was co-signed within L, the rest is late."""
    len_s = 300
    gateway = World().gateway()
    world = gateway.world
    gateway.len_s, gateway.now_s = len_s, START_S - START_S % len_s + len_s
    begin_s = gateway.now_s
    world.round(time_s=begin_s - 10)
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    for _ in range(12):  # an hour on line: device 1 does not produce
        gateway.window(producing=[0])
        world.round(time_s=gateway.now_s + 10)
    cut_s = gateway.now_s
    offline = 3 * DAY_S // len_s
    for _ in range(offline):  # three days without the platform: `seen` stays what it was, device 1 produces
        gateway.window(connected=[0, 1])
    back_s = gateway.now_s
    world.round(time_s=back_s + 10)
    for _ in range(2):
        gateway.window()
        world.round(time_s=gateway.now_s + 10)
    verdict = judged(gateway)
    assert verdict.valid and codes(verdict) == ["time.wide"]
    wide = dict(verdict.findings[0].args)
    # The bracket of each is [cut, back]: no window is lost, none is a gap, and what is wide is exactly those.
    assert wide["windows"] == str(offline) and wide["limit_s"] == "3600"
    assert verdict.summary.coverage_permille == 1000 and verdict.summary.outages == 0
    assert verdict.evidence is not None
    windows = verdict.evidence.windows
    inside = [i for i, end_s in enumerate(windows.end_s) if cut_s < end_s <= back_s]
    assert {windows.not_before_s[i] for i in inside} == {cut_s + 10}
    assert {windows.not_after_s[i] for i in inside} == {back_s + 10}
    assert verdict.summary.delay_max_s == 3 * DAY_S - len_s + 10

    lateness_s = BASIS.lateness_s
    # T in the middle: nothing of the outage was co-signed in time. Device 0 counts by what was before, 1 is late.
    middle = figures([verdict.evidence], cut_s + 6 * 3600, BASIS)
    assert (middle.counted, middle.late_devices) == (1, 1)
    assert middle.late_windows == 6 * 3600 // len_s
    # The last T at which a window of the outage counts: its not-after is at most T + L.
    edge_s = back_s + 10 - lateness_s
    edge_s += -edge_s % len_s
    counts = figures([verdict.evidence], edge_s, BASIS)
    assert (counts.counted, counts.late_devices, counts.late_windows) == (2, 0, 0)
    before = figures([verdict.evidence], edge_s - len_s, BASIS)
    assert (before.counted, before.late_devices) == (0, 2)
    assert before.late_windows == before.windows == DAY_S // len_s
    # A basis that waits longer counts them: lateness is a judgement, not a fact.
    patient = Basis(key="test", version="1", lateness_s=4 * DAY_S)
    assert figures([verdict.evidence], cut_s + 6 * 3600, patient).counted == 2


def test_a_bundle_made_while_off_line_is_open_and_late() -> None:
    gateway = begun()
    gateway.window(producing=[0])
    gateway.world.round(time_s=gateway.now_s + 10)
    for _ in range(3):
        gateway.window()
    verdict = judged(gateway)
    assert verdict.valid and codes(verdict) == ["time.open"]
    assert dict(verdict.findings[0].args)["windows"] == "3"
    assert verdict.evidence is not None
    result = figures([verdict.evidence], gateway.now_s, BASIS)
    assert (result.counted, result.late_devices, result.late_windows) == (1, 1, 3)


@pytest.mark.parametrize("slip_s,outside", [(120, False), (121, True)])
def test_clocks_may_differ_by_two_minutes(slip_s: int, outside: bool) -> None:
    gateway = begun()
    gateway.window()
    gateway.world.round(time_s=gateway.now_s - slip_s)
    assert ("time.outside" in codes(judged(gateway))) is outside
    later = World(time_s=START_S)
    other = later.gateway()
    later.round(time_s=START_S + 60 + slip_s)
    other.begin()
    other.roster(*two_devices(other))
    other.window()
    later.round(time_s=START_S + 300)
    assert ("time.outside" in codes(judged(other))) is outside


def test_a_clock_that_is_set_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gateway = begun()
    gateway.window(clock={"source": "system", "offset_ms": 999, "step_ms": 999})
    gateway.window(clock={"source": "system", "offset_ms": -2500, "step_ms": -2500})
    gateway.world.round(time_s=gateway.now_s + 10)
    write_bundle(tmp_path / "x.tally", gateway.members())
    (tmp_path / "p.json").write_bytes(gateway.world.policy_json())
    assert main(["verify", str(tmp_path / "x.tally"), "--policy", str(tmp_path / "p.json"), "--lang", "en"]) == 0
    assert "was set in 1 windows, by up to 2500 ms" in capsys.readouterr().out
