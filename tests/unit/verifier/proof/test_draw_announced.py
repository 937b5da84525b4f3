"""A draw that the register announces: an auditor's demand of nothing, co-signed by the instant that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from protocols.evidence.bundle import open_bundle
from protocols.evidence.policy import parse
from tallystick.words.lookup import Words
from tests.support.schemas import validate
from verifier.commands import as_json, as_text
from verifier.conformance import visits
from verifier.conformance.world import Gateway, World, public, small, two_devices, zipped
from verifier.proof.also import Also
from verifier.proof.verify import Verdict, verify


def judge(world: World, gateway: Gateway, file: Mapping[str, Any] | None, **policy: Any) -> Verdict:
    trusted = parse(world.policy_json(assessors=[public("assessor").hex()], **policy), where="policy")
    findings = () if file is None else (("findings.json", file),)
    verdict = verify(open_bundle(zipped(gateway.members())), trusted, also=Also(findings=findings))
    assert verdict.valid, verdict.findings
    validate(as_json(verdict, Words("en")), "verify.schema.json")
    return verdict


def state(verdict: Verdict) -> tuple[str, int | None, int | None]:
    (visit,) = verdict.summary.visits
    assert visit.seed == "first" and visit.lower_bound is not None, "the bound rests on the co-signature alone"
    return visit.announced.state, visit.announced.index, visit.announced.cosigned_s


def codes(verdict: Verdict) -> list[str]:
    return [f.code for f in verdict.findings if f.code.startswith("finding.announced") or f.code.startswith("demand.")]


def drawn_from(world: World, gateways: list[Gateway], announced_s: int) -> dict[str, Any]:
    policy = world.policy_json(assessors=[public("assessor").hex()])
    return visits.findings(visits.honest_draw([g.members() for g in gateways], policy, announced_s))


def test_a_draw_that_the_register_had_before_the_instant() -> None:
    world, gateway = small()
    announced_s = visits.seal_behind(gateway, announced=True)
    index = next(i for i, e in enumerate(world.entries) if b'"type":"demand"' in e)
    verdict = judge(world, gateway, drawn_from(world, [gateway], announced_s))
    assert state(verdict) == ("registered", index, announced_s - 1) and codes(verdict) == []
    told = verdict.summary.as_json()
    assert told["announcements"] == [{"index": index, "gateway": gateway.id, "instant_s": announced_s,
                                      "cosigned_s": announced_s - 1, "in_time": True}]
    assert told["demands"] == [] and told["openings"]["demanded"] == 0, "nothing is to be opened"
    lines = "\n".join(as_text(verdict, Words("en")))
    assert f"Draw announced for gateway {gateway.id[:8]}: by the first" in lines
    assert f"is announced in the register: entry {index}, co-signed" in lines
    assert "keep the letter" not in lines


def test_what_nobody_announced_in_the_register_is_said_to_be_in_the_letter() -> None:
    world, gateway = small()
    verdict = judge(world, gateway, drawn_from(world, [gateway], visits.seal_behind(gateway)))
    assert state(verdict) == ("none", None, None) and codes(verdict) == []
    assert "keep the letter" in "\n".join(as_text(verdict, Words("en")))
    assert "请保存公布的函件" in "\n".join(as_text(verdict, Words("zh")))


def _late(world: World, gateway: Gateway) -> int:
    announced_s = visits.seal_behind(gateway)
    visits.announce(gateway, announced_s)
    world.round(time_s=world.time_s + 5)
    return announced_s


def _without_independent_cosignature(world: World, gateway: Gateway) -> int:
    """In the register by then, but only the claimant's own witness says so."""
    announced_s = max(world.time_s + 1, gateway.now_s + 5) + 11
    visits.announce(gateway, announced_s)
    world.round(time_s=announced_s - 11, by=["vendor"], heads=False)
    world.rounds.pop()  # no quorum: nobody would be shown that checkpoint
    world.round(time_s=announced_s + 1)
    gateway.window()
    world.round(time_s=gateway.now_s + 5)
    return announced_s


@pytest.mark.parametrize("late", [_late, _without_independent_cosignature], ids=lambda f: f.__name__)
def test_an_announcement_after_the_instant_does_not_pass(late: Callable[[World, Gateway], int]) -> None:
    world, gateway = small()
    announced_s = late(world, gateway)
    verdict = judge(world, gateway, drawn_from(world, [gateway], announced_s))
    assert state(verdict)[0] == "late" and codes(verdict) == ["finding.announced_late"]
    (said,) = verdict.summary.as_json()["announcements"]
    assert not said["in_time"] and said["cosigned_s"] > announced_s
    lines = "\n".join(as_text(verdict, Words("en")))
    assert "NOT IN TIME" in lines and "too late" in lines and "is announced in the register" not in lines


def test_co_signed_in_the_very_second_is_in_time() -> None:
    world, gateway = small()
    fixed_s = max(world.time_s + 1, gateway.now_s + 5)
    visits.announce(gateway, fixed_s)
    world.round(time_s=fixed_s)
    gateway.window()
    world.round(time_s=gateway.now_s + 5)
    gateway.window()
    world.round(time_s=gateway.now_s + 5)
    assert state(judge(world, gateway, drawn_from(world, [gateway], fixed_s)))[0] == "registered"


def test_another_instant_and_another_signer_announce_nothing() -> None:
    world, gateway = small()
    fixed_s = max(world.time_s + 1, gateway.now_s + 5)
    visits.announce(gateway, fixed_s + 2)  # a second beside it
    visits.announce(gateway, fixed_s + 1, auditor="friend")
    assert visits.seal_behind(gateway) == fixed_s + 1
    file = drawn_from(world, [gateway], fixed_s + 1)
    verdict = judge(world, gateway, file)
    assert state(verdict)[0] == "none"
    assert [f.code for f in verdict.findings if f.where.startswith("register/")] == ["register.unknown_signer"]
    assert state(judge(world, gateway, file, auditors=[public("friend").hex()]))[0] == "registered"


def _two() -> tuple[World, list[Gateway]]:
    world = World()
    gateways = [world.gateway("one"), world.gateway("two")]
    world.round(time_s=gateways[0].now_s - 10)
    for gateway in gateways:
        gateway.begin()
        gateway.roster(*two_devices(gateway))
        gateway.window()
    return world, gateways


@pytest.mark.parametrize(("announced", "drawn", "expected"), [
    ((0, 1), (0, 1), "registered"), ((0, 1), (0,), "other_gateways"), ((0,), (0, 1), "other_gateways"),
    ((1,), (0,), "other_gateways"), ((0,), (0,), "registered"), ((), (0, 1), "none")])
def test_the_gateways_of_the_enterprise_are_announced_too(announced: tuple[int, ...], drawn: tuple[int, ...],
                                                          expected: str) -> None:
    """Which gateways are drawn from changes the seed: nobody may leave one out afterwards."""
    world, gateways = _two()
    fixed_s = gateways[0].now_s + 5
    for number in announced:
        visits.announce(gateways[number], fixed_s + 1)
    world.round(time_s=fixed_s)
    for _ in range(2):
        world.round(time_s=world.time_s + 10)
        for gateway in gateways:
            gateway.window()
    world.round(time_s=gateways[0].now_s + 5)
    file = drawn_from(world, [gateways[number] for number in drawn], fixed_s + 1)
    for number in drawn:
        verdict = judge(world, gateways[number], file)
        assert verdict.summary.visits[0].announced.state == expected
        assert codes(verdict) == (["finding.announced_others"] if expected == "other_gateways" else [])


def test_all_gateways_of_a_draw_must_be_announced_in_time() -> None:
    world, gateways = _two()
    fixed_s = gateways[0].now_s + 5
    visits.announce(gateways[0], fixed_s + 1)
    world.round(time_s=fixed_s)
    visits.announce(gateways[1], fixed_s + 1)
    for _ in range(2):
        world.round(time_s=world.time_s + 10)
        for gateway in gateways:
            gateway.window()
    world.round(time_s=gateways[0].now_s + 5)
    file = drawn_from(world, gateways, fixed_s + 1)
    for gateway in gateways:
        assert judge(world, gateway, file).summary.visits[0].announced.state == "late"
