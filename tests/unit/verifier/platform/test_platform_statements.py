"""Statements of others: who may say what, what it must fit, once in the register however often it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from config.platform import PlatformConfig, load_platform
from protocols.errors import ConfigError, VerificationError
from protocols.evidence import checkpoint, jcs, keys, note, policy, proof, register, signed, statement
from protocols.evidence.bundle import open_bundle
from protocols.evidence.encoding import to_base64
from protocols.evidence.statement import STATEMENT_BYTES_MAX, Statement
from tests.support.scripted_gateway import OTHER_USCC, ScriptedGateway, device_row, key_of
from tests.unit.verifier.platform.test_platform_service import NOW_S, World, chain, clone_of, refused, write_config
from verifier.platform import statements
from verifier.platform.refusal import ConflictError
from verifier.proof.verify import Verdict, verify

HOUR_S = NOW_S - NOW_S % 3600 - 3600
SPKI = "5a" * 32


def public(name: str) -> str:
    return keys.public_bytes(key_of(name)).hex()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.service.close()
    file = made.config.file
    file.write_text(f'{file.read_text()}[statements]\nsupervisors = ["{public("bureau")}"]\n'
                    f'auditors = ["{public("auditor")}"]\n')
    made.config = reload(file)
    made.open()
    yield made
    made.service.close()


def reload(file: Path) -> PlatformConfig:
    return load_platform(file)


async def with_server_key(world: World, name: str = "one") -> ScriptedGateway:
    """A gateway whose device 0 owns a server key; both devices are in the register's last head."""
    gateway = await world.enrolled(name)
    gateway.roster([device_row(0, server={"spki_sha256": SPKI, "via": None})], [])
    gateway.window()
    await world.submit(gateway)
    return gateway


def attestation(gateway: ScriptedGateway, /, *, signer: str = "bureau", **changes: Any) -> Statement:
    row = gateway.devices[0]
    return Statement("attestation", signed.sign("attestation", {
        "gateway": gateway.id, "slot": 0, "kind": row["kind"], "tags": row["tags"], "server_spki_sha256": SPKI}
        | changes, key_of(signer)))


def demand(gateway: ScriptedGateway, *, signer: str = "auditor", **changes: Any) -> Statement:
    return Statement("demand", signed.sign("demand", {
        "gateway": gateway.id, "slots": [0, 1], "hours": [HOUR_S], "deadline_s": NOW_S + 86_400, **changes},
        key_of(signer)))


def revocation(gateway: ScriptedGateway, from_size: int, *, signer: str | None = None, **changes: Any) -> Statement:
    return Statement("revocation", signed.sign("revocation", {
        "gateway": gateway.id, "gateway_key": keys.public_bytes(gateway.first_key).hex(), "from_size": from_size,
        **changes}, gateway.recovery if signer is None else key_of(signer)))


async def entries(world: World, gateway: ScriptedGateway) -> list[tuple[int, dict[str, Any]]]:
    await world.round()
    return chain((await world.service.proofs(gateway.id))["proofs"], world.service.register.vkey)


# What is taken in.

async def test_every_kind_enters_the_chain_of_the_enterprise_once(world: World) -> None:
    gateway = await with_server_key(world)
    said = [attestation(gateway), demand(gateway), revocation(gateway, 5)]
    for number, item in enumerate(said, start=1):
        first = await world.service.state(item)
        assert (first.index, first.fresh) == (number, True)
        again = await world.service.state(item)
        assert (again.index, again.fresh) == (number, False)
    world.restart()
    for number, item in enumerate(said, start=1):
        assert (await world.service.state(item)).index == number
    found = await entries(world, gateway)
    assert [value["type"] for _, value in found] == ["enrol", "attest", "demand", "revoke", "head"]
    assert [value["last"] for _, value in found] == [-1, 0, 1, 2, 3]
    assert found[2][1]["demand"] == said[1].value


async def test_an_announced_draw_is_proven_by_the_earliest_co_signature(world: World, tmp_path: Path) -> None:
    """Also to a gateway that fetches its proofs after the instant: what matters is when the register had it."""
    gateway = await with_server_key(world)
    said = demand(gateway, slots=[], hours=[])
    index = (await world.service.state(said)).index
    await world.round()
    size = world.service.register.size
    for _ in range(2):
        gateway.window()
        await world.submit(gateway)
        await world.round()
    proofs = (await world.service.proofs(gateway.id))["proofs"]
    under = {parsed.index: checkpoint.parse_text(note.parse(parsed.checkpoint, where="t").text, where="t").size
             for parsed in (proof.parse(text.encode(), where="t") for text in proofs)}
    assert under[index] == size < under[0]
    verdict = judged(world, gateway, proofs, tmp_path)
    assert verdict.valid and verdict.summary.demands == (), verdict.findings
    assert [(a.index, a.instant_s) for a in verdict.summary.announcements.said] == [(index, said.value["deadline_s"])]


async def test_the_same_statement_many_times_at_once_enters_once(world: World) -> None:
    gateway = await with_server_key(world)
    said = demand(gateway)
    stated = await asyncio.gather(*(world.service.state(said) for _ in range(12)))
    assert {item.index for item in stated} == {1} and sum(item.fresh for item in stated) == 1


async def test_a_repeat_is_answered_also_after_the_deadline_and_under_another_roster(world: World) -> None:
    gateway = await with_server_key(world)
    said = demand(gateway), attestation(gateway)
    indexes = [(await world.service.state(item)).index for item in said]
    world.clock.now_s += 10**7
    gateway.roster([{**gateway.devices[0], "state": "gone"}], [{**p, "state": "gone"} for p in gateway.points[:2]])
    gateway.window()
    await world.submit(gateway)
    assert [(await world.service.state(item)).index for item in said] == indexes


async def test_the_platforms_own_revocation_and_that_of_the_recovery_key(world: World) -> None:
    gateway = await with_server_key(world)
    own = Statement("revocation", world.service.sign_revocation(gateway.id, keys.public_bytes(gateway.key).hex(), 5))
    await world.service.state(own)
    assert await refused(world.service.state(revocation(gateway, 5))) == (409, "statements.revoked_already")
    assert await refused(world.service.state(revocation(gateway, 9))) == (409, "statements.revoked_already")
    assert (await world.service.state(revocation(gateway, 4))).fresh
    assert [value["revocation"]["from_size"] for _, value in await entries(world, gateway)
            if value["type"] == "revoke"] == [5, 4]


# What is refused.

CASES: dict[str, tuple[Callable[[ScriptedGateway], Statement], int, str]] = {
    "attest by an auditor": (lambda g: attestation(g, signer="auditor"), 403, "statements.not_listed"),
    "attest by the gateway": (lambda g: attestation(g, signer="gateway one"), 403, "statements.not_listed"),
    "attest of no slot": (lambda g: attestation(g, slot=2), 422, "statements.no_slot"),
    "attest of another kind": (lambda g: attestation(g, kind="00" * 32), 422, "statements.row_differs"),
    "attest of a tag too many": (lambda g: attestation(g, tags=[*g.devices[0]["tags"], g.devices[1]["tags"][0]]), 422,
                                 "statements.row_differs"),
    "attest of no tag": (lambda g: attestation(g, tags=[]), 422, "statements.row_differs"),
    "attest of another server key": (lambda g: attestation(g, server_spki_sha256="11" * 32), 422,
                                     "statements.row_differs"),
    "attest of a device without a server key": (
        lambda g: attestation(g, slot=1, tags=g.devices[1]["tags"], kind=g.devices[1]["kind"]), 422,
        "statements.row_differs"),
    "attest of an unknown gateway": (lambda g: attestation(g, gateway="0" * 32), 404, "platform.unknown_gateway"),
    "demand by a supervisor": (lambda g: demand(g, signer="bureau"), 403, "statements.not_listed"),
    "demand by the platform": (lambda g: demand(g, signer="platform"), 403, "statements.not_listed"),
    "announcement that is late": (lambda g: demand(g, slots=[], hours=[], deadline_s=NOW_S), 422,
                                  "statements.deadline_past"),
    "demand of a slot twice": (lambda g: demand(g, slots=[1, 1]), 422, "statements.not_ascending"),
    "demand of hours backwards": (lambda g: demand(g, hours=[HOUR_S, HOUR_S - 3600]), 422, "statements.not_ascending"),
    "demand of no slot": (lambda g: demand(g, slots=[0, 2]), 422, "statements.no_slot"),
    "demand of half an hour": (lambda g: demand(g, hours=[HOUR_S + 1800]), 422, "statements.no_hour"),
    "demand of an hour to come": (lambda g: demand(g, hours=[HOUR_S + 7200]), 422, "statements.no_hour"),
    "demand that is late": (lambda g: demand(g, deadline_s=NOW_S), 422, "statements.deadline_past"),
    "revocation by the gateway key": (lambda g: revocation(g, 4, signer="gateway one"), 403, "signed.wrong_signer"),
    "revocation by a supervisor": (lambda g: revocation(g, 4, signer="bureau"), 403, "signed.wrong_signer"),
    "revocation by another recovery key": (lambda g: revocation(g, 4, signer="recovery two"), 403,
                                           "signed.wrong_signer"),
    "revocation of a strange key": (lambda g: revocation(g, 4, gateway_key=public("x")), 422, "platform.not_its_key"),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_statement_that_does_not_fit_is_refused_and_changes_nothing(world: World, case: str) -> None:
    make, status, code = CASES[case]
    gateway = await with_server_key(world)
    size = world.service.register.size
    assert await refused(world.service.state(make(gateway))) == (status, code)
    assert world.service.register.size == size
    gateway.window()
    await world.submit(gateway)  # its log goes on


@pytest.mark.parametrize("make", [attestation, demand, lambda g: revocation(g, 4)])
async def test_a_changed_statement_is_refused(world: World, make: Callable[[ScriptedGateway], Statement]) -> None:
    gateway = await with_server_key(world)
    said = make(gateway)
    field = {"attestation": "slot", "demand": "deadline_s", "revocation": "from_size"}[said.kind]
    changed = Statement(said.kind, {**said.value, field: said.value[field] + 1})
    assert await refused(world.service.state(changed)) == (403, "signed.bad_signature")


async def test_a_statement_of_one_kind_is_none_of_another(world: World) -> None:
    """The name of the kind is signed: no signature over one can be shown as one over the other."""
    gateway = await with_server_key(world)
    fields = {name: item for name, item in demand(gateway).value.items() if name not in ("key", "sig")}
    body = {**fields, "key": public("auditor")}
    forged = {**body, "sig": to_base64(key_of("auditor").sign(signed._message("revocation", body)))}
    assert await refused(world.service.state(Statement("demand", forged))) == (403, "signed.bad_signature")


async def test_statements_of_one_enterprise_are_bounded_and_those_of_another_go_on(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "STATEMENTS_MAX", 3)
    monkeypatch.setattr(statements, "REVOCATIONS_MAX", 2)
    gateway, other = await with_server_key(world), await world.enrolled("two", enterprise=OTHER_USCC)
    await world.submit(other)
    for n in range(3):
        await world.service.state(demand(gateway, deadline_s=NOW_S + 10 + n))
    assert await refused(world.service.state(demand(gateway))) == (409, "statements.too_many")
    await world.service.state(demand(other, slots=[0]))
    for n in (5, 4):
        await world.service.state(revocation(gateway, n))
    assert await refused(world.service.state(revocation(gateway, 3))) == (409, "statements.too_many")


async def test_a_statement_that_no_entry_can_hold_is_refused(world: World) -> None:
    gateway = await with_server_key(world)
    hours = list(range(HOUR_S - 3600 * 9_999, HOUR_S + 1, 3600))
    said = demand(gateway, hours=hours)
    assert await refused(world.service.state(said)) == (422, "json.too_large")
    with pytest.raises(VerificationError, match="too_large"):
        said.encode()
    assert len(demand(gateway, hours=hours[:4_000]).encode()) <= STATEMENT_BYTES_MAX


async def test_a_revocation_stops_the_batch_that_is_being_checked(world: World, monkeypatch: pytest.MonkeyPatch
                                                                  ) -> None:
    """The check of a batch takes time; what is revoked meanwhile is not stored behind the answer."""
    gateway = await with_server_key(world)
    held = len(gateway.entries)
    gateway.window()
    keep = world.service._keep

    async def revoke_first(*what: Any) -> None:
        await world.service.state(revocation(gateway, held))
        await keep(*what)
    monkeypatch.setattr(world.service, "_keep", revoke_first)
    assert await refused(world.service.submit(gateway.id, gateway.batch())) == (403, "platform.revoked")
    assert (await world.service.size(gateway.id))["size"] == held


# The file.

def test_a_file_of_a_statement_is_read_strictly() -> None:
    gateway = ScriptedGateway()
    said = demand(gateway)
    assert statement.parse(said.encode(), where="t") == said
    for data in (b"{}", b"[]", b"null", said.encode()[:-1], said.encode().replace(b"/v1", b"/v2"),
                 said.encode().replace(b"demand", b"revocation"), said.encode().replace(b'"slots"', b'"slot"'),
                 said.encode()[:-1] + b',"more":1}', said.encode()[:-1] + b',"type":"tallystick/demand/v1"}',
                 b" " * (STATEMENT_BYTES_MAX + 1)):
        with pytest.raises(VerificationError):
            statement.parse(data, where="t")


def test_half_a_character_is_refused_before_anything_is_hashed() -> None:
    gateway = ScriptedGateway()
    gateway.devices = [device_row(0)]
    data = attestation(gateway).encode().replace(b'"scheme":"serial"', b'"scheme":"\\ud800"')
    assert b"ud800" in data
    with pytest.raises(VerificationError, match="unreadable"):
        statement.parse(data, where="t")


def test_keys_of_the_configuration_are_checked_all_at_once(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    config.file.write_text(f'{config.file.read_text()}[statements]\nsupervisors = ["x", "{"0" * 64}"]\n'
                           f'auditors = ["{public("auditor").upper()}"]\n')
    with pytest.raises(ConfigError) as caught:
        reload(config.file)
    assert [p.code for p in caught.value.problems] == ["statements.config_key", "key.small_order",
                                                       "statements.config_key"]


# What a bundle shows of it.

def judged(world: World, gateway: ScriptedGateway, proofs: list[str], tmp_path: Path) -> Verdict:
    parsed = policy.parse(jcs.encode({**world.service.trust.policy, "auditors": [public("auditor")],
                                                "supervisors": [public("bureau")]}), where="policy")
    return verify(open_bundle(gateway.write_bundle(tmp_path / "x.tally", proofs=proofs)), parsed)


def codes(verdict: Verdict, severity: str) -> set[str]:
    return {finding.code for finding in verdict.findings if finding.severity == severity}


async def test_an_enrolment_anew_cannot_shed_the_history(world: World, tmp_path: Path) -> None:
    """Revoked, enrolled anew with `supersedes`: each bundle of either gateway tells of both."""
    old = await with_server_key(world)
    await world.service.state(revocation(old, len(old.entries)))
    old.window()
    assert await refused(world.service.submit(old.id, old.batch())) == (403, "platform.revoked")
    new = ScriptedGateway(name="new")
    answer = await world.service.enrol(new.enrol_request(await world.token(), supersedes=old.id))
    new.begin(answer["certificate"])
    new.window()
    await world.submit(new)
    await world.round()
    proofs = (await world.service.proofs(new.id))["proofs"]
    verdict = judged(world, new, proofs, tmp_path)
    assert verdict.valid, verdict.findings
    assert verdict.summary.as_json()["gateways"]["enrolled"] == 2
    assert verdict.summary.family is not None
    kin = {k.gateway: k for k in verdict.summary.family}
    assert kin[old.id].superseded_by == (new.id,) and kin[old.id].revoked_from == 5
    for dropped in proofs[:-1]:  # the old enrolment, the revocation, the own one: none can be left out
        assert not judged(world, new, [p for p in proofs if p is not dropped], tmp_path).valid


async def test_forks_of_a_clone_leave_the_first_history_valid_and_the_second_not(world: World, tmp_path: Path) -> None:
    gateway = await with_server_key(world)
    clone = clone_of(gateway)
    clone.next_s = gateway.next_s
    gateway.window(producing=0b1)
    clone.window(producing=0b11)
    await world.submit(gateway)
    with pytest.raises(ConflictError):
        await world.service.submit(clone.id, clone.batch(first=6))
    await world.round()
    proofs = (await world.service.proofs(gateway.id))["proofs"]
    assert [register.decode(proof.parse(t.encode(), where="t").extra, where="t")["type"] for t in proofs] == [
        "enrol", "fork", "head"]
    first, second = (judged(world, one, proofs, tmp_path) for one in (gateway, clone))
    assert first.valid and "register.fork" in codes(first, "remark")
    assert not second.valid and "head.differs" in codes(second, "fault")
