"""Level 4 and the bound of a sample: what an assessor signed on site raises, and what refuses or weakens it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from protocols.evidence import sample, signed
from protocols.evidence.bundle import open_bundle
from protocols.evidence.encoding import to_base64
from protocols.evidence.policy import parse
from protocols.terms.basis import Basis
from verifier.conformance import servers, visits
from verifier.conformance.world import Gateway, World, device_row, key_of, point_row, private_part, public, zipped
from verifier.proof.also import Also
from verifier.proof.figures import figures
from verifier.proof.verify import Verdict, verify
from verifier.proof.visits import is_found

PERIOD_S = 30 * 86_400
BASIS = Basis(key="test", version="1")
SERIALS = [private_part(f"device {n}", maker="Maker", model="M-1", serial=f"S-{n}") for n in range(4)]


class Plant:
    """Slot 0 attested behind the press, slot 1 by a chain behind the lathe, slot 2 a key alone, slot 3 without one."""

    def __init__(self) -> None:
        self.world = World()
        self.gateway = self.world.gateway()
        self.world.round(time_s=self.gateway.now_s - 10)
        self.gateway.begin()
        names = ["press", "lathe", "mill", None]
        self.gateway.roster(
            [device_row(n, private=SERIALS[n], server=servers.server(name) if name else {"spki_sha256": None,
                                                                                         "via": None})
             for n, name in enumerate(names)],
            [point_row(n, n, self.gateway.id, protocol="opc_ua" if name else "modbus_tcp")
             for n, name in enumerate(names)])
        for name in ("press", "lathe", "mill"):
            servers.seal_probe(self.gateway, name)
        servers.attest(self.world, self.gateway, 0)
        self.gateway.window()
        self.announced_s = visits.seal_behind(self.gateway)
        self.members = {**self.gateway.members(), "openings/1.json": self.gateway.opening(1, SERIALS[1])}
        self.policy = self.world.policy_json(assessors=[public("assessor").hex(), public("second").hex()],
                                             maker_cas=[to_base64(servers.maker_ca())])
        self.drawn = visits.honest_draw([self.members], self.policy, self.announced_s)
        self.places = {d["slot"]: place for place, d in enumerate(self.drawn["devices"])}

    def judge(self, *files: Mapping[str, Any], members: Mapping[str, bytes] | None = None,
              policy: bytes | None = None) -> Verdict:
        named = tuple((f"{number}.json", file) for number, file in enumerate(files))
        chain = servers.chain(self.gateway, "lathe", serial="S-1")
        return verify(open_bundle(zipped(members or self.members)), parse(policy or self.policy, where="policy"),
                      also=Also(findings=named, chains=(("chain", chain),)))


@pytest.fixture(scope="module")
def plant() -> Plant:
    return Plant()


def codes(verdict: Verdict, severity: str = "remark") -> list[str]:
    return [f.code for f in verdict.findings if f.severity == severity and f.where.startswith("also/")]


def levels(verdict: Verdict, at_s: int | None = None, basis: Basis = BASIS) -> list[int]:
    evidence = verdict.evidence
    assert evidence is not None and evidence.covered is not None
    return [d.level.level for d in figures([evidence], evidence.covered[1] if at_s is None else at_s, basis).devices]


def told(verdict: Verdict) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = verdict.summary.as_json()["levels"]["visits"]
    return found


def test_a_match_raises_levels_2_and_3_to_4_and_no_other(plant: Plant) -> None:
    assert levels(plant.judge()) == [2, 3, 1, 0]
    verdict = plant.judge(visits.findings(plant.drawn))
    assert (verdict.valid, codes(verdict), levels(verdict)) == (True, [], [4, 4, 1, 0])
    assert verdict.summary.as_json()["levels"]["at_the_end"]["devices"] == {"0": 1, "1": 1, "2": 0, "3": 0, "4": 2}
    (one,) = told(verdict)
    assert one["here"] == {"drawn": 4, "match": 4, "mismatch": 0, "unverified": 0, "missing": 0}
    assert (one["seed"], one["lower_bound"], one["assessor"]) == ("first", 4, public("assessor").hex())


@pytest.mark.parametrize(("result", "code"), [
    ("mismatch", "finding.mismatch"), ("unverified", "finding.unverified"), (None, "finding.unanswered")])
def test_what_is_no_match_raises_nobody_and_is_a_failure(plant: Plant, result: str | None, code: str) -> None:
    verdict = plant.judge(visits.findings(plant.drawn, {plant.places[0]: result}))
    assert (verdict.valid, codes(verdict), levels(verdict)) == (True, [code], [2, 4, 1, 0])
    assert dict(next(f.args for f in verdict.findings if f.code == code)) == {"count": "1", "slots": "0"}
    (one,) = told(verdict)
    assert [s["failures"] for s in one["strata"]] == [1] and one["lower_bound"] == 3


def test_a_mismatch_of_anybody_undoes_a_match(plant: Plant) -> None:
    other = visits.findings(plant.drawn, {plant.places[0]: "mismatch"}, assessor="second")
    match = visits.findings(plant.drawn)
    for files in ((match, other), (other, match)):
        verdict = plant.judge(*files)
        assert levels(verdict) == [2, 4, 1, 0] and len(told(verdict)) == 2
    unsure = visits.findings(plant.drawn, {plant.places[0]: "unverified"}, assessor="second")
    assert levels(plant.judge(match, unsure)) == [4, 4, 1, 0]


@pytest.mark.parametrize(("shorter_s", "level"), [(0, 4), (1, 2)])
def test_a_visit_counts_in_the_observation_period_of_the_basis(plant: Plant, shorter_s: int, level: int) -> None:
    file = visits.findings(plant.drawn)
    when_s = next(a["at_s"] for a in file["answers"] if a["slot"] == 0)
    at_s = plant.announced_s // 60 * 60
    basis = Basis(key="test", version="1", observation_s=when_s - at_s - shorter_s)
    assert levels(plant.judge(file), at_s, basis)[0] == level


@pytest.mark.parametrize(("away_s", "found"), [
    (PERIOD_S, True), (PERIOD_S + 1, False), (-PERIOD_S, True), (-PERIOD_S - 1, False)])
def test_the_period_lies_before_and_after(plant: Plant, away_s: int, found: bool) -> None:
    file = visits.findings(plant.drawn)
    when_s = next(a["at_s"] for a in file["answers"] if a["slot"] == 0)
    evidence = plant.judge(file).evidence
    assert evidence is not None
    assert is_found(evidence.possession.visits, 0, when_s + away_s, PERIOD_S) is found


def test_a_stranger_proves_nothing(plant: Plant) -> None:
    verdict = plant.judge(visits.findings(plant.drawn, assessor="stranger"))
    assert (verdict.valid, codes(verdict), levels(verdict), told(verdict)) == (
        True, ["finding.unknown_signer"], [2, 3, 1, 0], [])
    nobody = plant.judge(visits.findings(plant.drawn), policy=plant.world.policy_json())
    assert codes(nobody) == ["chain.untrusted", "finding.unknown_signer"]


def test_an_open_visit_proves_nothing(plant: Plant) -> None:
    verdict = plant.judge(visits.as_object(visits.visit(plant.drawn)))
    assert (verdict.valid, codes(verdict), levels(verdict), told(verdict)) == (
        True, ["finding.open"], [2, 3, 1, 0], [])


# --- forged


def resigned(file: dict[str, Any], who: str = "assessor", *, close: bool = True) -> dict[str, Any]:
    """Sign everything anew, so that only what was changed is wrong."""
    key = key_of(who)

    def sign(kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
        return signed.sign(kind, {n: v for n, v in value.items() if n not in ("key", "sig")}, key)

    file["draw"] = sign("draw", file["draw"])
    file["answers"] = [sign("answer", answer) for answer in file["answers"]]
    if close:
        file["finding"] |= {"answers": len(file["answers"]),
                            "answers_sha256": sample.answers_sha256(file["answers"])}
    file["finding"] = sign("finding", file["finding"])
    return file


def redrawn(file: dict[str, Any]) -> dict[str, Any]:
    """Name the changed draw everywhere, then sign."""
    digest = sample.draw_sha256(file["draw"])
    for value in (*file["answers"], file["finding"]):
        value["draw_sha256"] = digest
    return resigned(file)


def _drop(file: dict[str, Any]) -> dict[str, Any]:
    del file["answers"][1]
    return file


def _change(file: dict[str, Any]) -> dict[str, Any]:
    file["answers"][1]["result"] = "match"
    return file


def _drop_and_close(file: dict[str, Any]) -> dict[str, Any]:
    """The claimant cannot close: only the count is changed, the signature is the old one."""
    del file["answers"][1]
    file["finding"]["answers"] -= 1
    return file


def _other_signer(file: dict[str, Any]) -> dict[str, Any]:
    body = {n: v for n, v in file["answers"][1].items() if n not in ("key", "sig")}
    file["answers"][1] = signed.sign("answer", {**body, "result": "match"}, key_of("second"))
    return file


def _not_drawn(file: dict[str, Any]) -> dict[str, Any]:
    file["answers"][1]["slot"] = 77
    return resigned(file)


def _swap(file: dict[str, Any]) -> dict[str, Any]:
    file["answers"][:2] = file["answers"][1::-1]
    return resigned(file)


def _twice(file: dict[str, Any]) -> dict[str, Any]:
    file["answers"].insert(1, dict(file["answers"][0]))
    return resigned(file)


def _early(file: dict[str, Any]) -> dict[str, Any]:
    file["answers"][0]["at_s"] = file["draw"]["cosignature"]["time_s"] - 1
    return resigned(file)


def _late(file: dict[str, Any]) -> dict[str, Any]:
    file["finding"]["closed_s"] = file["answers"][-1]["at_s"] - 1
    return resigned(file)


def _other_draw(file: dict[str, Any]) -> dict[str, Any]:
    file["answers"][0]["draw_sha256"] = "cd" * 32
    return resigned(file)


def _other_finding(file: dict[str, Any]) -> dict[str, Any]:
    file["finding"]["draw_sha256"] = "cd" * 32
    return resigned(file)


def _seed(file: dict[str, Any]) -> dict[str, Any]:
    file["draw"]["seed"] = "ee" * 32
    return redrawn(file)


def _order(file: dict[str, Any]) -> dict[str, Any]:
    file["draw"]["devices"][:2] = file["draw"]["devices"][1::-1]
    return redrawn(file)


def _strata(file: dict[str, Any]) -> dict[str, Any]:
    file["draw"]["strata"][0]["drawn"] = 3
    return redrawn(file)


def _gateways(file: dict[str, Any]) -> dict[str, Any]:
    file["draw"]["devices"][0]["gateway"] = "ab" * 16
    return redrawn(file)


def _roster(file: dict[str, Any]) -> dict[str, Any]:
    draw = file["draw"]
    draw["gateways"][0]["devices_root"] = "12" * 32
    seed = sample.seed(draw["cosignature"], draw["gateways"])
    draw["seed"] = seed.hex()
    draw["devices"].sort(key=lambda d: sample.rank(seed, d["gateway"], d["slot"]))
    file["answers"].sort(key=lambda a: sample.rank(seed, a["gateway"], a["slot"]))
    return redrawn(file)


def _roster_entry(file: dict[str, Any]) -> dict[str, Any]:
    file["draw"]["gateways"][0]["roster"] = 1
    return redrawn(file)


def _cosignature(file: dict[str, Any]) -> dict[str, Any]:
    file["draw"]["cosignature"]["time_s"] += 1
    seed = sample.seed(file["draw"]["cosignature"], file["draw"]["gateways"])
    file["draw"]["seed"] = seed.hex()
    file["draw"]["devices"].sort(key=lambda d: sample.rank(seed, d["gateway"], d["slot"]))
    file["answers"].sort(key=lambda a: sample.rank(seed, a["gateway"], a["slot"]))
    return redrawn(file)


def _signature(file: dict[str, Any]) -> dict[str, Any]:
    file["draw"]["sig"] = file["finding"]["sig"]
    return file


def _half_a_character(file: dict[str, Any]) -> dict[str, Any]:
    file["answers"][0]["note"] = "\ud800"
    return file


def _field(file: dict[str, Any]) -> dict[str, Any]:
    file["answers"][0]["value"] = 1
    return file


@pytest.mark.parametrize(("spoil", "code"), [
    (_drop, "finding.answers"), (_change, "signed.bad_signature"), (_drop_and_close, "signed.bad_signature"),
    (_other_signer, "signed.wrong_signer"), (_not_drawn, "finding.not_drawn"), (_swap, "finding.order"),
    (_twice, "finding.order"), (_early, "finding.time"), (_late, "finding.time"), (_other_draw, "finding.other_draw"),
    (_other_finding, "finding.other_draw"), (_seed, "draw.seed"), (_order, "draw.order"), (_strata, "draw.strata"),
    (_gateways, "draw.gateways"), (_roster, "finding.roster"), (_roster_entry, "finding.roster"),
    (_cosignature, "seen.bad_signature"), (_signature, "signed.bad_signature"), (_field, "shape.unknown_field"),
    (_half_a_character, "json.unreadable"),
], ids=lambda value: value.__name__ if callable(value) else value)
def test_what_no_assessor_signed_so_is_refused(plant: Plant, spoil: Callable[[dict[str, Any]], dict[str, Any]],
                                               code: str) -> None:
    honest = visits.findings(plant.drawn, {1: "mismatch"})
    verdict = plant.judge(spoil(copy.deepcopy(honest)))
    assert codes(verdict, "fault") == [code] and not verdict.valid and told(verdict) == []


def test_the_helpers_of_these_tests_change_nothing_by_themselves(plant: Plant) -> None:
    honest = visits.findings(plant.drawn, {1: "mismatch"})
    assert redrawn(copy.deepcopy(honest)) == honest


# --- a sample that could be chosen


def chosen(plant: Plant, cosignature: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The draw of a claimant who picks his co-signature."""
    drawn = copy.deepcopy(plant.drawn) | changes
    drawn["cosignature"] = dict(cosignature)
    seed = sample.seed(cosignature, drawn["gateways"])
    drawn["seed"] = seed.hex()
    drawn["devices"].sort(key=lambda d: sample.rank(seed, d["gateway"], d["slot"]))
    return drawn


def weakened(plant: Plant, drawn: Mapping[str, Any], code: str, **judge: Any) -> None:
    verdict = plant.judge(visits.findings(drawn), **judge)
    assert verdict.valid, verdict.findings
    assert code in codes(verdict) and told(verdict)[0]["lower_bound"] is None
    assert told(verdict)[0]["seed"] == code.partition(".")[2]


def test_a_later_co_signature_is_not_the_first(plant: Plant) -> None:
    seen = plant.world.seen()
    assert seen is not None
    weakened(plant, chosen(plant, seen), "finding.not_first")


def test_a_co_signature_before_the_announced_instant_was_known(plant: Plant) -> None:
    weakened(plant, chosen(plant, plant.drawn["cosignature"],
                           announced_s=plant.drawn["cosignature"]["time_s"]), "finding.unwitnessed")


def test_a_witness_that_is_not_independent_here(plant: Plant) -> None:
    policy = plant.world.policy_json(assessors=[public("assessor").hex()], independent=["vendor"])
    verdict = plant.judge(visits.findings(plant.drawn), policy=policy)
    assert verdict.valid and "finding.unwitnessed" in codes(verdict)


def test_a_roster_that_was_not_fixed(plant: Plant) -> None:
    early = chosen(plant, plant.drawn["cosignature"], announced_s=plant.gateway.now_s - 100_000)
    weakened(plant, early, "finding.roster_late")


def test_a_bundle_from_before_the_draw_does_not_show_it() -> None:
    plant = Plant()
    later = plant.gateway
    before = later.members()
    later.roster([*later.devices, device_row(4)], [*later.points, point_row(4, 4, later.id)])
    later.window()
    announced_s = visits.seal_behind(later)
    drawn = visits.honest_draw([later.members()], plant.policy, announced_s)
    file = visits.findings(drawn)
    shown = plant.judge(file, members=later.members())
    assert told(shown)[0]["seed"] == "first" and told(shown)[0]["here"]["drawn"] == 5
    old = plant.judge(file, members=before)
    assert old.valid and codes(old) == ["chain.identity", "finding.not_shown"]


# --- several gateways


def two() -> tuple[World, list[Gateway], bytes, int]:
    world = World()
    gateways = [world.gateway("one"), world.gateway("two")]
    world.round(time_s=gateways[0].now_s - 10)
    for gateway in gateways:
        gateway.begin()
        rows = [device_row(n, private=private_part(f"{gateway.name} {n}", maker="M", model="X",
                                                   serial=f"{gateway.name} {n}")) for n in range(3)]
        gateway.roster(rows, [point_row(n, n, gateway.id) for n in range(3)])
        gateway.window()
    world.round(time_s=gateways[0].now_s + 5)
    announced_s = world.time_s + 1
    for _ in range(2):  # the second gateway hears of each round first
        world.round(time_s=world.time_s + 20)
        gateways[1].window()
        world.round(time_s=world.time_s + 20)
        gateways[0].window()
    world.round(time_s=gateways[0].now_s + 5)
    return world, gateways, world.policy_json(assessors=[public("assessor").hex()]), announced_s


def test_one_draw_for_several_gateways() -> None:
    _, gateways, policy, announced_s = two()
    members = [gateway.members() for gateway in gateways]
    drawn = visits.honest_draw(members, policy, announced_s)
    assert drawn == visits.honest_draw(members[::-1], policy, announced_s)
    file = visits.findings(drawn, {0: "mismatch"})
    trusted = parse(policy, where="policy")
    seeds, here = {}, []
    for gateway, one in zip(gateways, members, strict=True):
        verdict = verify(open_bundle(zipped(one)), trusted, also=Also(findings=(("f", file),)))
        assert verdict.valid, verdict.findings
        (visit,) = told(verdict)
        seeds[gateway.name] = visit["seed"]
        here.append(visit["here"]["drawn"])
        assert [(s["drawn"], s["failures"]) for s in visit["strata"]] == [(6, 1)]
    assert seeds == {"one": "not_shown", "two": "first"} and here == [3, 3]


def test_findings_about_another_gateway_are_unrelated(plant: Plant) -> None:
    _, gateways, policy, announced_s = two()
    file = visits.findings(visits.honest_draw([gateways[0].members()], policy, announced_s))
    verdict = plant.judge(file)
    assert verdict.valid and codes(verdict) == ["also.unrelated"] and told(verdict) == []
