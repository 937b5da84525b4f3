"""Two histories of one register or one gateway: found by comparing, convicted by one file, by whoever has it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from protocols.errors import VerificationError
from protocols.evidence import equivocation, note
from protocols.evidence.bundle import open_bundle, write_bundle
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.policy import Policy
from tallystick.__main__ import main
from tests.support.schemas import validate
from verifier.conformance.world import OTHER_USCC, REGISTER, START_S, USCC, Gateway, World, key_of, two_devices, zipped
from verifier.proof.also import Also, OtherFile, sort
from verifier.proof.verify import Verdict, judge_alone, verify


def judged(gateway: Gateway, also: Also, policy: Policy | None = None) -> Verdict:
    return verify(open_bundle(zipped(gateway.members())), policy or gateway.world.policy(), also=also)


def codes(verdict: Verdict, severity: str = "fault") -> list[str]:
    return [f.code for f in verdict.findings if f.severity == severity]


def plant(world: World, *, windows: int = 3, producing: list[int] | None = None, name: str = "gateway",
          rounds: bool = True, **certificate: Any) -> Gateway:
    gateway = world.gateway(name, **certificate)
    world.round(time_s=START_S - 10)
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    for _ in range(windows):
        gateway.window(producing=producing)
    if rounds:
        world.round(time_s=gateway.now_s + 10)
    return gateway


def file_of(value: bytes) -> Also:
    return Also(equivocations=(("eq.json", json.loads(value)),))


def bundle_of(gateway: Gateway, path: Path) -> Also:
    write_bundle(path, gateway.members())
    return sort([path])


def two_registers() -> tuple[Gateway, Gateway]:
    """One platform, one key, two registers: an enterprise in each, and the same number of entries in both."""
    one = plant(World())
    two = plant(World(), name="other", uscc=OTHER_USCC)
    return one, two


def test_two_registers_of_one_size_are_found_and_convicted(tmp_path: Path) -> None:
    one, two = two_registers()
    verdict = judged(one, bundle_of(two, tmp_path / "b.tally"))
    assert codes(verdict) == ["register.equivocation"]
    assert verdict.evidence is None
    alone = judge_alone(file_of(verdict.equivocations[0]), one.world.policy())
    assert codes(alone) == ["register.equivocation"] and not alone.valid
    # The same file against a bundle that shows nothing wrong by itself.
    assert codes(judged(one, Also())) == []
    assert codes(judged(one, file_of(verdict.equivocations[0]))) == ["register.equivocation"]
    assert codes(judged(two, file_of(verdict.equivocations[0]))) == ["register.equivocation"]


def test_two_registers_of_different_sizes_are_found_too(tmp_path: Path) -> None:
    one, two = two_registers()
    for _ in range(5):
        two.window()
        two.world.round(time_s=two.now_s + 10)
    two_only = two.members()
    for name in [n for n in two_only if n.startswith("register/")]:  # no size of one is a size of the other
        index = int(name.split("/")[1].split(".")[0])
        two_only[name] = two.world.proof(index, checkpoint=two.world.rounds[-1][1], size=two.world.rounds[-1][0])
    sizes = {size for size, _ in one.world.rounds}
    assert two.world.rounds[-1][0] not in sizes
    write_bundle(tmp_path / "b.tally", two_only)
    verdict = judged(one, sort([tmp_path / "b.tally"]))
    assert codes(verdict) == ["register.equivocation"]
    alone = judge_alone(file_of(verdict.equivocations[0]), one.world.policy())
    assert codes(alone) == ["register.equivocation"]


def test_a_bundle_that_mixes_two_registers_is_found_when_it_is_compared(tmp_path: Path) -> None:
    one, two = two_registers()
    two.window()
    two.world.round(time_s=two.now_s + 10)
    two.world.round(time_s=two.now_s + 20)
    size, checkpoint = two.world.rounds[-1]
    index = size - 1
    mixed = one.members() | {f"register/{index}.proof": two.world.proof(index, size=size, checkpoint=checkpoint)}
    assert size not in {known for known, _ in one.world.rounds}
    verdict = verify(open_bundle(zipped(mixed)), one.world.policy(), also=bundle_of(one, tmp_path / "b.tally"))
    assert "register.equivocation" in codes(verdict)
    assert codes(judge_alone(file_of(verdict.equivocations[0]), one.world.policy())) == ["register.equivocation"]


def test_one_register_contradicts_itself_nowhere(tmp_path: Path) -> None:
    world = World()
    one, two = (world.gateway(name, uscc=uscc) for name, uscc in (("one", USCC), ("other", OTHER_USCC)))
    world.round(time_s=START_S - 10)
    for gateway in (one, two):
        gateway.begin()
        gateway.roster(*two_devices(gateway))
    for _ in range(4):
        one.window()
        two.window()
        world.round(time_s=two.now_s + 10)
    for a, b in ((one, two), (two, one)):
        verdict = judged(a, bundle_of(b, tmp_path / "b.tally"))
        assert verdict.valid and codes(verdict, "remark") == ["also.consistent"]
        assert dict(verdict.findings[0].args)["compared"] == str(len([n for n in b.members() if "register/" in n]))
        assert verdict.equivocations == ()


@pytest.mark.parametrize("seed", range(12))
def test_honest_bundles_never_contradict_each_other(seed: int, tmp_path: Path) -> None:
    """Drawn lives under one register: two gateways, bundles of several ages, kept heads and checkpoints."""
    rng = random.Random(seed)
    world = World(witnesses=("bureau", "vendor", "city")[: rng.randint(0, 3)])
    gateways = [world.gateway(name, uscc=rng.choice((USCC, OTHER_USCC))) for name in ("one", "two")]
    world.round(time_s=START_S - 10)
    files: list[Path] = []
    for gateway in gateways:
        gateway.begin()
        gateway.roster(*two_devices(gateway))
    for step in range(rng.randint(5, 40)):
        for gateway in rng.sample(gateways, rng.randint(1, 2)):
            if rng.random() < 0.1:
                gateway.start()
                gateway.outage(gateway.now_s + 60 * rng.randint(1, 5))
            if rng.random() < 0.05:
                gateway.rotate(f"{gateway.name} {step}")
            gateway.window()
        if rng.random() < 0.5:
            world.round(time_s=max(g.now_s for g in gateways) + 10)
        if rng.random() < 0.2:
            files.append(tmp_path / f"{len(files)}")
            files[-1].write_bytes(rng.choice(gateways).checkpoint())
        if rng.random() < 0.2 and world.rounds[-1][0] > 2:
            files.append(tmp_path / f"{len(files)}")
            files[-1].write_bytes(world.proof(rng.randrange(world.rounds[-1][0])))
        if rng.random() < 0.1:
            files.append(tmp_path / f"{len(files)}")
            write_bundle(files[-1], rng.choice(gateways).members())
    world.round(time_s=max(g.now_s for g in gateways) + 10)
    for gateway in gateways:
        verdict = judged(gateway, sort(files))
        assert codes(verdict) == [] and verdict.equivocations == ()
        told = {f.where: f.code for f in verdict.findings if f.where.startswith("also/")}
        assert set(told.values()) <= {"also.consistent", "also.unrelated", "also.newer", "also.not_proven"}
        # A checkpoint that no witness has seen yet is the only thing that proves nothing.
        assert all(f.code != "also.not_proven" or dict(f.args)["reason"] == "equivocation.unwitnessed"
                   for f in verdict.findings)


def test_a_kept_register_checkpoint_convicts() -> None:
    one, two = two_registers()
    _, kept = two.world.rounds[-1]
    verdict = judged(one, Also(heads=(("kept", kept),)))
    assert codes(verdict) == ["register.equivocation"]
    assert codes(judge_alone(file_of(verdict.equivocations[0]), one.world.policy())) == ["register.equivocation"]
    assert codes(judged(one, Also(heads=(("kept", one.world.rounds[-1][1]),))), "remark") == ["also.consistent"]


def test_what_no_witness_saw_convicts_nobody() -> None:
    """Neither does a text that the register did not sign, nor one whose witness line fails."""
    one, two = two_registers()
    size = two.world.rounds[-1][0]
    honest = one.world.rounds[-1][1].decode()
    root = two.world.tree.root(size)
    unseen = one.world.cosigned(size, time_s=START_S, root=root, by=())
    foreign = one.world.cosigned(size, time_s=START_S, root=root, signer="thief")
    moved = unseen + one.world.rounds[-1][1].split(b"\n\n")[1].split(b"\n", 1)[1]
    unknown = one.world.cosigned(size, time_s=START_S, root=root, by=("stranger",))
    for lie, reason in ((unseen, "equivocation.unwitnessed"), (foreign, "note.unsigned"),
                        (moved, "note.bad_signature"), (unknown, "equivocation.unwitnessed")):
        value = equivocation.encode(honest, lie.decode())
        verdict = judged(one, file_of(value))
        assert verdict.valid, reason
        assert [(f.code, dict(f.args)) for f in verdict.findings] == [("also.not_proven", {"reason": reason})]
        with pytest.raises(VerificationError) as caught:
            judge_alone(file_of(value), one.world.policy())
        assert caught.value.problems[0].code == reason
    # One witness is enough, and it need not be an independent one.
    seen = one.world.cosigned(size, time_s=START_S, root=root, by=("vendor",))
    assert codes(judged(one, file_of(equivocation.encode(honest, seen.decode())))) == ["register.equivocation"]


def test_without_witnesses_the_registers_own_signature_convicts() -> None:
    one = plant(World(witnesses=()))
    two = plant(World(witnesses=()), name="other", uscc=OTHER_USCC)
    value = equivocation.encode(one.world.rounds[-1][1].decode(), two.world.rounds[-1][1].decode())
    assert codes(judged(one, file_of(value))) == ["register.equivocation"]


def test_two_states_of_one_history_prove_nothing() -> None:
    one = plant(World())
    one.window()
    one.world.round(time_s=one.now_s + 10)
    texts = [checkpoint.decode() for _, checkpoint in one.world.rounds]
    value = equivocation.encode(texts[-1], texts[-2])
    verdict = judged(one, file_of(value))
    assert verdict.valid and codes(verdict, "remark") == ["also.not_proven"]
    broken = json.loads(value) | {"a": "nothing"}
    assert codes(judged(one, Also(equivocations=(("eq.json", broken),))), "remark") == ["also.not_proven"]


def test_another_register_is_no_matter_of_this_bundle() -> None:
    one = plant(World())
    text = Checkpoint("other.example", 3, bytes(32)).text
    texts = [note.format_note(text.replace("3", str(i)), [note.sign(text, key_of("x"), name="other.example")]).decode()
             for i in (3, 4)]
    assert codes(judged(one, file_of(equivocation.encode(*texts))), "remark") == ["also.unrelated"]


# A gateway with two histories.

def twins(*, rounds: bool, common: int = 3, own: int = 2, other: int = 2) -> tuple[Gateway, Gateway]:
    """One key, two histories that part after `common` windows; the second is in no register."""
    first, second = (plant(World(), windows=common) for _ in "ab")
    for gateway, producing, count in ((first, [0], own), (second, [1], other)):
        for _ in range(count):
            gateway.window(producing=producing)
    if rounds:
        first.world.round(time_s=first.now_s + 10)
    return first, second


@pytest.mark.parametrize("own,other", [(2, 2), (2, 5), (5, 2)])
def test_two_histories_that_nobody_decided(tmp_path: Path, own: int, other: int) -> None:
    first, second = twins(rounds=False, own=own, other=other)
    verdict = judged(first, bundle_of(second, tmp_path / "b.tally"))
    assert codes(verdict) == ["log.equivocation"]
    value = json.loads(verdict.equivocations[0])
    a, b = (equivocation.read(value[side].encode(), where=side) for side in "ab")
    assert equivocation.contradiction(a, b) is not None
    assert codes(judged(first, file_of(verdict.equivocations[0]))) == ["log.equivocation"]
    assert codes(judged(second, file_of(verdict.equivocations[0]))) == ["log.equivocation"]


@pytest.mark.parametrize("own,other", [(2, 2), (5, 2)])
def test_the_history_that_was_cosigned_stands(tmp_path: Path, own: int, other: int) -> None:
    first, second = twins(rounds=True, own=own, other=other)
    verdict = judged(first, bundle_of(second, tmp_path / "b.tally"))
    assert verdict.valid and codes(verdict, "remark") == ["log.equivocation_settled"]
    # The other one does not: the co-signed head is an anchor that the enterprise does not hold.
    index = max(i for i, data in enumerate(first.world.entries) if json.loads(data)["type"] == "head")
    against = verify(open_bundle(zipped(second.members())), second.world.policy(), anchor=first.world.proof(index))
    assert set(codes(against)) & {"head.differs", "head.truncated"}


def test_a_fork_on_record_stands_by_it_and_makes_a_file() -> None:
    first, second = twins(rounds=False)
    pair = [first.checkpoint().decode(), second.checkpoint().decode()]
    first.world.add({"type": "fork", "gateway": first.id, "checkpoints": pair})
    first.world.round(time_s=first.now_s + 10, heads=False)
    verdict = judged(first, Also(equivocations=(("eq.json", json.loads(equivocation.encode(*pair))),)))
    assert verdict.valid
    assert "log.equivocation_settled" in codes(verdict, "remark") and "register.fork" in codes(verdict, "remark")
    assert verdict.equivocations[0] == equivocation.encode(*pair)


def test_a_signature_of_an_old_key_convicts_nobody() -> None:
    """Whoever stole a key that was replaced cannot speak for the time after."""
    gateway = plant(World())
    gateway.window()
    gateway.rotate("gateway 2")
    gateway.window()
    size = len(gateway.entries)
    lie = gateway.checkpoint(root=bytes(32), signer="gateway")
    value = equivocation.encode(gateway.checkpoint().decode(), lie.decode())
    verdict = judged(gateway, file_of(value))
    assert [(f.code, dict(f.args)) for f in verdict.findings if f.step == 1] == [
        ("also.not_proven", {"reason": "checkpoint.old_key"})]
    now = gateway.checkpoint(root=bytes(32))
    value = equivocation.encode(gateway.checkpoint().decode(), now.decode())
    assert codes(judged(gateway, file_of(value))) == ["log.equivocation"]
    # Of the time before the change the old key could speak.
    before = [gateway.checkpoint(size=size - 2, signer="gateway", root=root).decode() for root in (None, bytes(32))]
    assert codes(judged(gateway, file_of(equivocation.encode(*before)))) == ["log.equivocation"]


def test_what_lies_behind_a_revocation_does_not_count_and_is_not_contested() -> None:
    gateway = plant(World())
    ends = len(gateway.entries)
    from protocols.evidence import signed
    revocation = signed.sign("revocation", {
        "gateway": gateway.id, "gateway_key": key_of("gateway").public_key().public_bytes_raw().hex(),
        "from_size": ends}, key_of("recovery gateway"))
    gateway.window()
    gateway.world.add({"type": "revoke", "revocation": revocation})
    gateway.world.round(time_s=gateway.now_s + 10)
    larger = gateway.checkpoint(root=bytes(32))
    value = equivocation.encode(gateway.checkpoint().decode(), larger.decode())
    verdict = judged(gateway, file_of(value))
    assert verdict.valid and "log.equivocation_settled" in codes(verdict, "remark")


def test_a_plant_without_a_platform_is_convicted_by_its_listed_key() -> None:
    world = World()
    gateway = world.gateway("lone", enrol=False, signer="recovery lone")
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    gateway.window()
    text = Checkpoint(f"tallystick/g/{gateway.id}", 4, bytes(32)).text
    first_key = bytes.fromhex(gateway.certificate["gateway_key"])
    vkey = str(note.VerifierKey(f"tallystick/g/{gateway.id}", note.ED25519, first_key))
    policy = world.policy(gateways=[vkey])
    lie = note.format_note(text, [note.sign(text, key_of("lone"), name=f"tallystick/g/{gateway.id}")])
    value = equivocation.encode(gateway.checkpoint().decode(), lie.decode())
    assert codes(judge_alone(file_of(value), policy)) == ["log.equivocation"]
    members = {n: d for n, d in gateway.members().items() if not n.startswith("register/")}
    verdict = verify(open_bundle(zipped(members)), policy, also=file_of(value))
    assert codes(verdict) == ["log.equivocation"]


def test_a_larger_state_that_cannot_be_compared_is_said() -> None:
    gateway = plant(World())
    bundle = open_bundle(zipped(gateway.members()))
    for _ in range(3):
        gateway.window()
    later = gateway.checkpoint()
    verdict = verify(bundle, gateway.world.policy(), also=Also(heads=(("later", later),)))
    told = [(f.code, dict(f.args)) for f in verdict.findings]
    assert told == [("also.newer", {"known": "9", "size": "6"})]


def test_a_kept_head_is_held_against_the_log() -> None:
    """A tlog-proof of a head, from one consistent register, beside a log that is another."""
    gateway = plant(World())
    world = gateway.world
    index = max(i for i, data in enumerate(world.entries) if json.loads(data)["type"] == "head")
    assert codes(judged(gateway, Also(heads=(("kept", world.proof(index)),))), "remark") == ["also.consistent"]
    other = plant(World(), producing=[1])
    world.add({"type": "head", "gateway": gateway.id, "size": 4, "root": other.tree.root(4).hex()})
    world.round(time_s=gateway.now_s + 20, heads=False)
    lone = len(world.entries) - 1
    honest = {n: d for n, d in gateway.members().items() if n != f"register/{lone}.proof"}
    verdict = verify(open_bundle(zipped(honest)), world.policy(), also=Also(heads=(("kept", world.proof(lone)),)))
    assert codes(verdict) == ["head.differs"] and verdict.findings[0].where == "also/kept"
    for _ in range(3):
        gateway.window()
    world.round(time_s=gateway.now_s + 30)
    newest = world.proof(len(world.entries) - 1)
    verdict = verify(open_bundle(zipped(honest)), world.policy(), also=Also(heads=(("kept", newest),)))
    assert [(f.code, dict(f.args)) for f in verdict.findings] == [("also.newer", {"known": "9", "size": "6"})]


def test_a_bundle_that_vanished_is_no_evidence() -> None:
    gateway = plant(World())
    also = Also(bundles=(OtherFile("gone.tally", "00", 0, Path("gone.tally")),))
    assert codes(judged(gateway, also), "remark") == ["also.unrelated"]


# The commands.

@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, list[str]]:
    one, two = two_registers()
    write_bundle(tmp_path / "a.tally", one.members())
    write_bundle(tmp_path / "b.tally", two.members())
    (tmp_path / "policy.json").write_bytes(one.world.policy_json())
    return tmp_path, ["--policy", str(tmp_path / "policy.json"), "--lang", "en"]


def test_made_and_verified_on_the_command_line(files: tuple[Path, list[str]],
                                               capsys: pytest.CaptureFixture[str]) -> None:
    folder, policy = files
    out = folder / "eq.json"
    status = main(["verify", str(folder / "a.tally"), *policy, "--also", str(folder / "b.tally"),
                   "--equivocation", str(out)])
    told = capsys.readouterr()
    assert status == 1 and "register.equivocation" in told.out and str(out) in told.err
    assert main(["verify", str(out), *policy]) == 1
    told = capsys.readouterr()
    assert told.out.startswith("PROVEN") and REGISTER in told.out and "also/eq.json" in told.out
    assert main(["verify", str(out), *policy, "--json"]) == 1
    value = json.loads(capsys.readouterr().out)
    validate(value, "verify.schema.json")
    assert value["verdict"] == "invalid" and [f["code"] for f in value["findings"]] == ["register.equivocation"]
    assert main(["verify", str(folder / "a.tally"), *policy, "--also", str(out)]) == 1


def test_a_file_that_convicts_nobody_is_bad_usage(files: tuple[Path, list[str]],
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    folder, policy = files
    world = plant(World()).world
    text = world.rounds[-1][1].decode()
    (folder / "eq.json").write_bytes(equivocation.encode(text, text))
    assert main(["verify", str(folder / "eq.json"), *policy]) == 2
    assert "fit into one history" in capsys.readouterr().err


def test_nothing_is_written_without_a_contradiction(files: tuple[Path, list[str]],
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    folder, policy = files
    out = folder / "eq.json"
    assert main(["verify", str(folder / "a.tally"), *policy, "--also", str(folder / "a.tally"),
                 "--equivocation", str(out)]) == 0
    assert not out.exists() and "not written" in capsys.readouterr().err
