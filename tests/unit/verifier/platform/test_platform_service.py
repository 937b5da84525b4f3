"""The service without HTTP: enrolment, intake, repeats, forks, the register's chains, restarts."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from config.platform import PlatformConfig, Witness, load_platform
from protocols.errors import EvidenceError, VerificationError
from protocols.evidence import jcs, keys, merkle, note, policy, proof, register, signed
from protocols.evidence.checkpoint import parse_text
from protocols.evidence.tiles import parse_path, tiles_of
from tests.support.scripted_gateway import OTHER_USCC, USCC, ScriptedGateway, bits, key_of
from verifier.platform import rounds as rounds_module
from verifier.platform.enrolment import new_token
from verifier.platform.importer import import_bundle
from verifier.platform.refusal import ConflictError, RefusalError
from verifier.platform.rounds import Rounds
from verifier.platform.service import FORKS_MAX, Service
from verifier.platform.store import SCHEMA_VERSION
from verifier.witness.state import Book, parse_request

NOW_S = 1_760_000_500


def write_config(folder: Path, **changes: str) -> PlatformConfig:
    folder.mkdir(exist_ok=True)
    for name in ("platform", "register"):
        if not (folder / "keys" / f"{name}-key.pem").exists():
            keys.save(key_of(name), folder / "keys" / f"{name}-key.pem")
    path = folder / "platform.toml"
    path.write_text('[platform]\norigin = "register.example/t"\nkeys_dir = "keys"\ndata_dir = "data"\n'
                    + "".join(f"{name} = {value}\n" for name, value in changes.items()))
    return load_platform(path)


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> int:
        return self.now_s


class World:
    """A service with its clock, and rounds that reach witnesses by a function call instead of a socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = write_config(folder)
        self.clock = Clock()
        self.open()

    def open(self) -> None:
        self.service = Service(self.config, clock_s=self.clock)
        self.rounds = Rounds(self.service.store, self.service.register, self.service.trust.quorum,
                             self.config.witnesses, interval_s=1, timeout_s=5, clock_s=self.clock)

    def restart(self) -> None:
        self.service.close()
        self.open()

    async def round(self) -> None:
        async with aiohttp.ClientSession() as session:
            await self.rounds.one(session)

    async def token(self, enterprise: str = USCC, site: str | None = None, expires_s: int = NOW_S + 3600) -> str:
        return await self.service.store.write(lambda connection: new_token(
            connection, enterprise=enterprise, site=site, expires_s=expires_s))

    async def enrolled(self, name: str = "one", **options: Any) -> ScriptedGateway:
        gateway = ScriptedGateway(name=name, **options)
        answer = await self.service.enrol(gateway.enrol_request(await self.token(gateway.enterprise)))
        gateway.begin(answer["certificate"])
        return gateway

    async def submit(self, gateway: ScriptedGateway) -> dict[str, Any]:
        answer = await self.service.submit(gateway.id, gateway.batch())
        gateway.sent = answer["size"]
        return answer


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.service.close()


async def refused(work: Awaitable[Any]) -> tuple[int, str]:
    with pytest.raises(RefusalError) as caught:
        await work
    return caught.value.status, caught.value.problem.code


def chain(proofs: list[str], vkey: note.VerifierKey) -> list[tuple[int, dict[str, Any]]]:
    """Verify proofs under the register key and return (index, entry)."""
    result = []
    for text in proofs:
        found = proof.parse(text.encode(), where="test")
        signed_note = note.parse(found.checkpoint, where="test")
        note.require_signed(signed_note, vkey, where="test")
        head = parse_text(signed_note.text, where="test")
        merkle.verify_inclusion(leaf=merkle.leaf_hash(found.extra), index=found.index, size=head.size,
                                proof=found.hashes, root=head.root, where="test")
        result.append((found.index, register.decode(found.extra, where="test")))
    return result


# Enrolment.

async def test_enrolment_gives_a_certificate_that_holds(world: World) -> None:
    gateway = ScriptedGateway()
    answer = await world.service.enrol(gateway.enrol_request(await world.token()))
    platform = keys.public_bytes(key_of("platform")).hex()
    signed.verify("certificate", answer["certificate"], signers=[platform], where="test")
    assert answer["platform"] == platform
    parsed = policy.parse(jcs.encode({n: answer[n] for n in ("register", "platform", "witnesses", "independent")}),
                          where="test")
    assert parsed.register == world.service.register.vkey


async def test_enrolment_may_be_repeated_also_after_a_crash_and_after_expiry(world: World) -> None:
    gateway = ScriptedGateway()
    request = gateway.enrol_request(await world.token())
    first = await world.service.enrol(request)
    world.restart()
    world.clock.now_s += 10 ** 6
    assert await world.service.enrol(request) == first
    assert world.service.register.size == 1


async def test_token_is_used_once(world: World) -> None:
    token = await world.token()
    await world.service.enrol(ScriptedGateway().enrol_request(token))
    assert await refused(world.service.enrol(ScriptedGateway(name="two").enrol_request(token))) == (
        409, "platform.token_used")
    assert await refused(world.service.enrol(ScriptedGateway().enrol_request(token, site="x"))) == (
        409, "platform.token_used")


async def test_only_the_digest_of_a_token_is_stored(world: World) -> None:
    token = await world.token()
    world.service.close()
    stored = b"".join(path.read_bytes() for path in (world.folder / "data").glob("index.sqlite*"))
    assert token.encode() not in stored
    assert hashlib.sha256(token.encode()).hexdigest().encode() in stored
    world.open()


ENROL_REFUSALS: dict[str, tuple[Callable[[ScriptedGateway, str], dict[str, Any]], tuple[int, str]]] = {
    "unknown token": (lambda g, t: g.enrol_request("guess"), (403, "platform.token_unknown")),
    "another enterprise": (lambda g, t: g.enrol_request(t, uscc=OTHER_USCC), (403, "platform.token_uscc")),
    "another site": (lambda g, t: g.enrol_request(t, site="Plant 9"), (403, "platform.token_site")),
    "check character": (lambda g, t: g.enrol_request(t, uscc=USCC[:17] + ("0" if USCC[17] != "0" else "1")),
                        (422, "platform.bad_uscc")),
    "no possession": (lambda g, t: {**g.enrol_request(t), "site": "Plant 1 "}, (403, "platform.no_possession")),
    "recovery key is the key": (lambda g, t: g.enrol_request(t, recovery_key=keys.public_bytes(g.key).hex()),
                                (422, "platform.same_keys")),
    "weak key": (lambda g, t: {**g.enrol_request(t), "gateway_key": "01" + "00" * 31}, (422, "key.small_order")),
    "weak recovery key": (lambda g, t: g.enrol_request(t, recovery_key="ff" * 32), (422, "key.not_canonical")),
    "unknown field": (lambda g, t: {**g.enrol_request(t), "admin": True}, (400, "shape.unknown_field")),
    "no object": (lambda g, t: [1], (400, "shape.bad_value")),  # type: ignore[dict-item,return-value]  # on purpose
    "supersedes nobody": (lambda g, t: g.enrol_request(t, supersedes="0" * 32), (409, "platform.supersedes_unknown")),
}


@pytest.mark.parametrize(("make", "expected"), ENROL_REFUSALS.values(), ids=ENROL_REFUSALS.keys())
async def test_enrolment_refused(world: World, make: Callable[[ScriptedGateway, str], Any],
                                 expected: tuple[int, str]) -> None:
    request = make(ScriptedGateway(), await world.token(site="Plant 1"))
    assert await refused(world.service.enrol(request)) == expected
    assert world.service.register.size == 0


async def test_expired_token(world: World) -> None:
    token = await world.token(expires_s=NOW_S)
    assert await refused(world.service.enrol(ScriptedGateway().enrol_request(token))) == (
        403, "platform.token_expired")


async def test_one_key_enrols_once(world: World) -> None:
    await world.enrolled()
    assert await refused(world.service.enrol(ScriptedGateway().enrol_request(await world.token()))) == (
        409, "platform.duplicate_key")


async def test_an_enterprise_has_one_k(world: World) -> None:
    await world.enrolled()
    other = ScriptedGateway(name="two", k=b"\1" * 32)
    assert await refused(world.service.enrol(other.enrol_request(await world.token()))) == (409, "platform.second_k")
    elsewhere = ScriptedGateway(name="three", k=b"\1" * 32, enterprise=OTHER_USCC)
    await world.service.enrol(elsewhere.enrol_request(await world.token(OTHER_USCC)))


async def test_a_gateway_is_superseded_once_and_by_its_own_enterprise(world: World) -> None:
    old = await world.enrolled()
    foreign = ScriptedGateway(name="foreign", enterprise=OTHER_USCC)
    assert await refused(world.service.enrol(foreign.enrol_request(
        await world.token(OTHER_USCC), supersedes=old.id))) == (409, "platform.supersedes_unknown")
    new = ScriptedGateway(name="new")
    answer = await world.service.enrol(new.enrol_request(await world.token(), supersedes=old.id))
    assert answer["certificate"]["supersedes"] == old.id
    third = ScriptedGateway(name="third")
    assert await refused(world.service.enrol(third.enrol_request(
        await world.token(), supersedes=old.id))) == (409, "platform.supersedes_again")


async def test_many_enrolments_at_once_all_enter_the_register(world: World) -> None:
    await asyncio.gather(*(world.enrolled(f"g{n}") for n in range(20)))
    assert world.service.register.size == 20
    world.restart()
    assert world.service.register.size == 20


# Intake.

async def test_batches_are_kept_over_restarts_and_become_tiles(world: World) -> None:
    gateway = await world.enrolled()
    for count in (1, 100, 200, 260, 3):
        for _ in range(count):
            gateway.window(producing=bits(0, 1))
        await world.submit(gateway)
        world.restart()
    gateway.rotate()
    gateway.window()
    await world.submit(gateway)
    size = await world.service.size(gateway.id)
    assert (size["size"], size["root"]) == (len(gateway.entries), gateway.tree.root().hex())
    for level in (None, 0, 1):
        for tile in tiles_of(level, len(gateway.entries)):
            data = await world.service.tile(gateway.id, tile)
            assert data is not None
            if level is not None:
                assert data == b"".join(gateway.tree.subtree(8 * level, tile.number * 256 + i)
                                        for i in range(tile.width))
    for path in ("tile/0/009", "tile/entries/000.p/9", "tile/5/000", "tile/0/002.p/255"):
        wanted = parse_path(path)
        assert wanted is not None
        assert await world.service.tile(gateway.id, wanted) is None, path
    entries: list[str] = []
    while len(entries) < len(gateway.entries):
        entries += (await world.service.tail(gateway.id, len(entries)))["entries"]
    assert [text.encode() for text in entries] == gateway.entries


async def test_a_repeat_is_answered_and_changes_nothing(world: World) -> None:
    gateway = await world.enrolled()
    request = gateway.batch()
    first = await world.service.submit(gateway.id, request)
    assert await world.service.submit(gateway.id, request) == first
    gateway.sent = first["size"]
    gateway.window()
    second = await world.submit(gateway)
    assert (await world.service.submit(gateway.id, request))["size"] == second["size"]


async def test_what_does_not_continue_is_a_conflict_with_the_size(world: World) -> None:
    gateway = await world.enrolled()
    await world.submit(gateway)
    held = await world.service.size(gateway.id)
    for _ in range(3):
        gateway.window()
    cases = {
        "gap": gateway.batch(first=5),
        "overlap": gateway.batch(first=1),
        "all again and more": gateway.batch(first=0),
        "another root": gateway.batch(checkpoint=gateway.checkpoint(root=b"\0" * 32)),
    }
    for name, request in cases.items():
        with pytest.raises(ConflictError) as caught:
            await world.service.submit(gateway.id, request)
        assert caught.value.answer == held, name
    assert await world.service.size(gateway.id) == held


async def test_a_changed_repeat_is_a_conflict(world: World) -> None:
    gateway = await world.enrolled()
    request = gateway.batch()
    await world.service.submit(gateway.id, request)
    request["entries"] = [*request["entries"][:-1], request["entries"][-1] + " "]
    with pytest.raises(ConflictError):
        await world.service.submit(gateway.id, request)


async def test_a_second_history_enters_the_register_as_fork_once(world: World) -> None:
    gateway = await world.enrolled()
    clone = clone_of(gateway)
    gateway.window(producing=bits(0))
    clone.window(producing=bits(1))
    await world.submit(gateway)
    for _ in range(3):
        with pytest.raises(ConflictError):
            await world.service.submit(clone.id, clone.batch())
    await world.round()
    entries = chain((await world.service.proofs(gateway.id))["proofs"], world.service.register.vkey)
    assert [entry["type"] for _, entry in entries] == ["enrol", "fork", "head"]
    texts = entries[1][1]["checkpoints"]
    roots = set()
    for text in texts:
        signed_note = note.parse(text.encode(), where="test")
        note.require_signed(signed_note, note.VerifierKey(gateway.origin, note.ED25519,
                                                          keys.public_bytes(gateway.key)), where="test")
        roots.add(parse_text(signed_note.text, where="test").root)
    assert roots == {gateway.tree.root(), clone.tree.root()}
    assert entries[2][1]["root"] == gateway.tree.root().hex(), "the first history stands"


def clone_of(gateway: ScriptedGateway) -> ScriptedGateway:
    clone = ScriptedGateway(name=gateway.name)
    for data in gateway.entries:
        clone.add_bytes(data)
    clone.life, clone.rows, clone.roster_seq = gateway.life, dict(gateway.rows), gateway.roster_seq
    clone.devices, clone.points = list(gateway.devices), list(gateway.points)
    return clone


async def test_forks_of_one_key_are_bounded(world: World) -> None:
    gateway = await world.enrolled()
    await world.submit(gateway)
    for n in range(FORKS_MAX + 5):
        request = gateway.batch(first=0, checkpoint=gateway.checkpoint(root=bytes([n]) * 32))
        with pytest.raises(ConflictError):
            await world.service.submit(gateway.id, request)
    assert world.service.register.size == 1 + FORKS_MAX


async def test_a_stranger_makes_no_fork(world: World) -> None:
    gateway = await world.enrolled()
    await world.submit(gateway)
    request = gateway.batch(first=0, checkpoint=gateway.checkpoint(root=b"\1" * 32, key=key_of("stranger")))
    assert await refused(world.service.submit(gateway.id, request)) == (403, "note.unsigned")
    assert world.service.register.size == 1


async def test_statuses_of_refusals(world: World) -> None:
    gateway = await world.enrolled()
    assert await refused(world.service.submit("0" * 32, gateway.batch())) == (404, "platform.unknown_gateway")
    assert await refused(world.service.submit(gateway.id, gateway.batch(
        checkpoint=gateway.checkpoint(key=key_of("stranger"))))) == (403, "note.unsigned")
    twice = gateway.batch()
    twice["rosters"] *= 2
    assert await refused(world.service.submit(gateway.id, twice)) == (400, "intake.roster_twice")
    assert await refused(world.service.submit(gateway.id, {**gateway.batch(), "extra": 1})) == (
        400, "shape.unknown_field")
    assert await refused(world.service.submit(gateway.id, gateway.batch(entries=["\ud800"]))) == (
        400, "json.unreadable")
    gateway.entries[1] = gateway.entries[1].replace(b'"len_s":60', b'"len_s":61')
    assert await refused(world.service.submit(gateway.id, gateway.batch())) == (422, "intake.len")
    assert await refused(world.service.tail(gateway.id, 1)) == (422, "platform.beyond")
    assert (await world.service.size(gateway.id))["size"] == 0


@pytest.mark.parametrize("alone", [False, True], ids=["with a roster", "alone"])
async def test_a_key_of_another_gateway_cannot_be_rotated_in(world: World, alone: bool) -> None:
    one, two = await world.enrolled(), await world.enrolled("two")
    if alone:
        await world.submit(one)
    one.rotate(new_key=keys.public_bytes(two.key).hex())
    one.key = two.key
    assert await refused(world.service.submit(one.id, one.batch())) == (422, "platform.duplicate_key")


async def test_a_revoked_log_ends(world: World) -> None:
    gateway = await world.enrolled()
    await world.submit(gateway)
    body = world.service.sign_revocation(gateway.id, keys.public_bytes(gateway.key).hex(), 4)
    assert await refused(world.service.revoke({**body, "from_size": 3})) == (403, "signed.bad_signature")
    stolen = signed.sign("revocation", {"gateway": gateway.id, "gateway_key": body["gateway_key"], "from_size": 4},
                         gateway.key)
    assert await refused(world.service.revoke(stolen)) == (403, "signed.wrong_signer")
    assert await refused(world.service.revoke(world.service.sign_revocation(gateway.id, "00" * 32, 4))) == (
        422, "platform.not_its_key")
    assert await refused(world.service.revoke(world.service.sign_revocation("0" * 32, "00" * 32, 4))) == (
        404, "platform.unknown_gateway")
    recovery = signed.sign("revocation", {"gateway": gateway.id, "gateway_key": body["gateway_key"], "from_size": 4},
                           gateway.recovery)
    assert await world.service.revoke(recovery) == 1
    gateway.window()
    await world.submit(gateway)
    gateway.window()
    assert await refused(world.service.submit(gateway.id, gateway.batch())) == (403, "platform.revoked")
    world.restart()
    assert await refused(world.service.submit(gateway.id, gateway.batch())) == (403, "platform.revoked")


async def test_gateways_do_not_wait_for_each_other_and_share_commits(world: World) -> None:
    gateways = [await world.enrolled(f"g{n}") for n in range(12)]

    async def work(gateway: ScriptedGateway) -> None:
        for _ in range(5):
            await world.submit(gateway)
            gateway.window()
    await asyncio.gather(*map(work, gateways))
    for gateway in gateways:
        await world.submit(gateway)
        assert (await world.service.size(gateway.id))["root"] == gateway.tree.root().hex()


async def test_the_same_batch_twice_at_the_same_time_is_stored_once(world: World) -> None:
    gateway = await world.enrolled()
    answers = await asyncio.gather(*(world.service.submit(gateway.id, gateway.batch()) for _ in range(6)))
    assert {answer["size"] for answer in answers} == {3}


async def test_a_full_disk_keeps_nothing_and_the_next_try_everything(world: World,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = await world.enrolled()
    for _ in range(300):
        gateway.window()

    def full(*_: object) -> None:
        raise OSError(28, "no space left on device")
    with monkeypatch.context() as patched:
        patched.setattr(world.service.store, "_write_tile", full)
        with pytest.raises(EvidenceError, match=r"platform\.storage"):
            await world.service.submit(gateway.id, gateway.batch())
    assert (await world.service.size(gateway.id))["size"] == 0
    await world.submit(gateway)
    assert (await world.service.size(gateway.id))["root"] == gateway.tree.root().hex()


async def test_a_changed_tile_is_noticed_at_the_next_load(world: World) -> None:
    gateway = await world.enrolled()
    for _ in range(300):
        gateway.window()
    await world.submit(gateway)
    tile = world.folder / "data" / "logs" / "g" / gateway.id / "tile" / "0" / "000"
    data = bytearray(tile.read_bytes())
    data[5] ^= 1
    tile.write_bytes(bytes(data))
    world.restart()
    gateway.window()
    with pytest.raises(EvidenceError, match=r"log\.broken"):
        await world.submit(gateway)


# The register.

async def test_last_leads_through_all_that_is_no_head(world: World) -> None:
    one = await world.enrolled()
    stranger = await world.enrolled("stranger", enterprise=OTHER_USCC)
    await world.submit(one)
    await world.submit(stranger)
    await world.round()
    two = await world.enrolled("two")
    one.window()
    await world.submit(one)
    await world.submit(two)
    await world.round()
    for gateway, expected in ((one, [0, 4]), (two, [0, 4]), (stranger, [1])):
        entries = chain((await world.service.proofs(gateway.id))["proofs"], world.service.register.vkey)
        indexes = [index for index, entry in entries if entry["type"] != "head"]
        assert indexes == expected
        assert [entry["last"] for _, entry in entries] == [-1, *indexes], "each names the one before, the head the last"
        assert entries[-1][1]["gateway"] == gateway.id
    head = chain((await world.service.proofs(one.id))["proofs"], world.service.register.vkey)[-1][1]
    assert (head["size"], head["root"]) == (len(one.entries), one.tree.root().hex())


async def test_only_the_newest_head_of_a_gateway_enters(world: World) -> None:
    gateway = await world.enrolled()
    for _ in range(5):
        gateway.window()
        await world.submit(gateway)
    await world.round()
    await world.round()
    assert world.service.register.size == 2


async def test_a_head_is_proven_under_the_earliest_checkpoint_that_has_it(world: World) -> None:
    one, two = await world.enrolled(), await world.enrolled("two")
    await world.submit(one)
    await world.round()
    first = (await world.service.submit(one.id, one.batch(first=0)))["proof"]
    for _ in range(3):
        two.window()
        await world.submit(two)
        await world.round()
    again = await world.service.submit(one.id, one.batch(first=0))
    assert again["proof"] == first
    assert parse_text(note.parse(again["register_checkpoint"].encode(), where="t").text, where="t").size == 6


async def test_the_register_goes_on_after_a_restart_and_refuses_another_key(world: World) -> None:
    gateways = [await world.enrolled(f"g{n}") for n in range(3)]
    for step in range(100):
        for gateway in gateways:
            gateway.window()
            await world.submit(gateway)
        await world.round()
        if step % 40 == 20:
            world.restart()
    assert world.service.register.size == 303
    world.restart()
    for gateway in gateways:
        entries = chain((await world.service.proofs(gateway.id))["proofs"], world.service.register.vkey)
        assert entries[-1][1]["size"] == len(gateway.entries)
    for level in (None, 0, 1):
        for tile in tiles_of(level, 303):
            assert await world.service.tile(None, tile) is not None
    world.service.close()
    (world.folder / "keys" / "register-key.pem").unlink()
    keys.save(key_of("another"), world.folder / "keys" / "register-key.pem")
    with pytest.raises(EvidenceError, match=r"platform\.register_key"):
        world.open()
    (world.folder / "keys" / "register-key.pem").unlink()
    keys.save(key_of("register"), world.folder / "keys" / "register-key.pem")
    world.open()


async def test_a_second_process_is_kept_out(world: World) -> None:
    with pytest.raises(EvidenceError, match=r"platform\.in_use"):
        Service(world.config, clock_s=world.clock)


async def test_a_database_of_a_newer_version_is_left_alone(world: World) -> None:
    world.service.close()
    with sqlite3.connect(world.folder / "data" / "index.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(EvidenceError, match=r"platform\.schema"):
        world.open()
    with sqlite3.connect(world.folder / "data" / "index.sqlite") as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.close()
    world.open()


# Witnesses, by a function call.

class Wire:
    """Stands for sockets: `post` reaches a book, or fails as the test says."""

    def __init__(self, books: dict[str, Book], clock: Clock) -> None:
        self.books, self.clock = books, clock
        self.dead: set[str] = set()
        self.asked: list[str] = []

    async def add_checkpoint(self, session: object, asked: Any, own: note.Note, head: Any) -> note.Signature:
        name = asked.witness.key.name
        self.asked.append(name)
        if name in self.dead:
            raise aiohttp.ClientConnectionError("nobody is there")
        for _ in range(4):
            body = rounds_module.request_body(self.tree, asked.known, head.size, own)
            answer = self.books[name].add(parse_request(body), time_s=self.clock())
            if answer.status == 200:
                return rounds_module._cosignature(answer.body, own, asked.witness.key, name)
            assert answer.status == 409, answer
            asked.known = int(answer.body)
        raise AssertionError("again and again")

    tree: merkle.Tree


@pytest.fixture
async def witnessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[World, Wire]]:
    world = World(tmp_path)
    logs = {"register.example/t": world.service.register.vkey}
    books = {name: Book(tmp_path / name, name=name, key=key_of(name), logs=logs) for name in ("w1", "w2")}
    world.service.close()
    wire = Wire(books, world.clock)
    vkeys = {name: note.VerifierKey(name, note.COSIGNATURE_V1, keys.public_bytes(key_of(name))) for name in books}
    witnesses = tuple(Witness(key=key, url="http://localhost", independent=True, ca_file=None)
                      for key in vkeys.values())
    object.__setattr__(world.config, "witnesses", witnesses)
    monkeypatch.setattr(Rounds, "_add_checkpoint", lambda self, *args: wire.add_checkpoint(*args))
    world.open()
    wire.tree = world.service.register.tree
    yield world, wire
    world.service.close()


async def test_cosigned_heads_fulfil_the_policy_and_their_time_stays(witnessed: tuple[World, Wire]) -> None:
    world, wire = witnessed
    gateway = await world.enrolled()
    assert (await world.submit(gateway))["proof"] is None
    await world.round()
    answer = await world.service.submit(gateway.id, gateway.batch(first=0))
    cosigned = note.parse(proof.parse(answer["proof"].encode(), where="t").checkpoint, where="t")
    quorum = world.service.trust.quorum
    found = note.cosignatures(cosigned, quorum.witnesses.values(), where="t")
    assert quorum.holds({c.public for c in found}) and {c.time_s for c in found} == {NOW_S}
    world.clock.now_s += 1000
    world.restart()
    wire.tree = world.service.register.tree
    await world.rounds.restore()
    await world.round()
    assert (await world.service.submit(gateway.id, gateway.batch(first=0)))["proof"] == answer["proof"]
    assert wire.asked.count("w1") == 1, "what is co-signed is not asked for again"


async def test_a_dead_witness_holds_back_the_quorum_but_not_intake(witnessed: tuple[World, Wire]) -> None:
    world, wire = witnessed
    wire.dead = {"w2"}
    gateway = await world.enrolled()
    for _ in range(3):
        gateway.window()
        assert (await world.submit(gateway))["proof"] is None
        await world.round()
    wire.dead = set()
    for asked in world.rounds._asked:
        asked.ask_again_at = 0
    await world.round()
    answer = await world.service.submit(gateway.id, gateway.batch(first=0))
    head = register.decode(proof.parse(answer["proof"].encode(), where="t").extra, where="t")
    assert head["size"] == len(gateway.entries)


async def test_what_another_quorum_cosigned_is_passed_over(witnessed: tuple[World, Wire]) -> None:
    world, wire = witnessed
    gateway = await world.enrolled()
    await world.submit(gateway)
    await world.round()
    world.service.close()
    object.__setattr__(world.config, "witnesses", world.config.witnesses[:1])
    world.open()
    wire.tree = world.service.register.tree
    assert (await world.service.proofs(gateway.id))["proofs"] == []
    await world.round()
    assert len((await world.service.proofs(gateway.id))["proofs"]) == 2


async def test_a_register_that_lost_entries_is_not_shown_to_a_witness_that_saw_them(world: World) -> None:
    await world.enrolled()
    key = note.VerifierKey("w1", note.COSIGNATURE_V1, keys.public_bytes(key_of("w1")))
    witness = Witness(key=key, url="http://127.0.0.1:9", independent=True, ca_file=None)
    rounds = Rounds(world.service.store, world.service.register, world.service.trust.quorum, (witness,),
                    interval_s=1, timeout_s=5, clock_s=world.clock)
    own = note.parse(world.service.register.checkpoint or b"", where="t")
    head = parse_text(own.text, where="t")
    rounds._asked[0].known = head.size + 5
    async with aiohttp.ClientSession() as session:
        with pytest.raises(EvidenceError, match=r"platform\.witness_ahead"):
            await rounds._add_checkpoint(session, rounds._asked[0], own, head)


# Import.

async def test_a_bundle_brings_what_is_missing(world: World, tmp_path: Path) -> None:
    gateway = await world.enrolled()
    await world.submit(gateway)
    for _ in range(700):
        gateway.window()
    bundle = gateway.write_bundle(tmp_path / "x.tally")
    result = await import_bundle(world.service, bundle)
    assert result == {"gateway": gateway.id, "before": 3, "size": 703}
    assert await import_bundle(world.service, bundle) == {"gateway": gateway.id, "before": 703, "size": 703}
    assert (await world.service.size(gateway.id))["root"] == gateway.tree.root().hex()
    gateway.sent = 703
    gateway.window()
    assert (await world.submit(gateway))["size"] == 704
    assert await import_bundle(world.service, bundle) == {"gateway": gateway.id, "before": 704, "size": 704}


async def test_a_bundle_that_begins_too_late_says_what_is_missing(world: World, tmp_path: Path) -> None:
    gateway = await world.enrolled()
    await world.submit(gateway)
    for _ in range(700):
        gateway.window()
    late = gateway.write_bundle(tmp_path / "x.tally", leave_out=lambda name: name == "tile/entries/000")
    with pytest.raises(VerificationError) as caught:
        await import_bundle(world.service, late)
    problem = caught.value.problems[0]
    assert (problem.code, dict(problem.args)) == ("platform.import_gap", {"first": "3", "last": "255"})
    assert (await world.service.size(gateway.id))["size"] == 3


async def test_a_bundle_of_another_history_or_gateway_is_refused(world: World, tmp_path: Path) -> None:
    gateway = await world.enrolled()
    clone = clone_of(gateway)
    gateway.window(producing=bits(0))
    await world.submit(gateway)
    clone.window(producing=bits(1))
    assert await refused(import_bundle(world.service, clone.write_bundle(tmp_path / "a.tally"))) == (
        409, "platform.import_differs")
    clone.window(producing=bits(1))
    assert await refused(import_bundle(world.service, clone.write_bundle(tmp_path / "b.tally"))) == (
        409, "platform.import_differs")
    stranger = ScriptedGateway(name="stranger")
    stranger.begin((await world.service.enrol(ScriptedGateway(name="x").enrol_request(
        await world.token())))["certificate"])
    assert await refused(import_bundle(world.service, stranger.write_bundle(tmp_path / "c.tally"))) == (
        404, "platform.unknown_gateway")


async def test_a_spoiled_bundle_changes_nothing(world: World, tmp_path: Path) -> None:
    gateway = await world.enrolled()
    gateway.window(producing=bits(0))
    gateway.entries[-1] = gateway.entries[-1].replace(b'"offset_ms":0', b'"offset_ms":1')
    with pytest.raises((ConflictError, RefusalError)):
        await import_bundle(world.service, gateway.write_bundle(tmp_path / "x.tally"))
    assert (await world.service.size(gateway.id))["size"] == 0
