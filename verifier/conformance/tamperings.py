"""What a cheat may try, with the keys that a cheat may hold; each with the one cause that must refuse it."""

# ruff: noqa: D103 - the name of a case says what the cheat does
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protocols.evidence import jcs, signed, tiles
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.keys import gateway_origin
from protocols.evidence.note import ED25519, Signature, VerifierKey, cosign, format_note
from protocols.evidence.note import parse as parse_note
from protocols.evidence.policy import Policy
from verifier.conformance.world import (
    OTHER_USCC,
    START_S,
    Gateway,
    World,
    key_of,
    public,
    small,
    two_devices,
)
from verifier.proof.also import NOTHING, Also


@dataclass
class Exhibit:
    """What is put before the verifier."""

    members: dict[str, bytes]
    policy: Policy
    anchor: bytes | None = None
    also: Also = NOTHING


Case = tuple[int, str, Callable[[], Exhibit]]
CASES: dict[str, Case] = {}


def case(step: int, code: str) -> Callable[[Callable[[], Exhibit]], Callable[[], Exhibit]]:
    """Register a tampering that `code`, a fault of `step` and nothing else, must refuse."""
    def add(build: Callable[[], Exhibit]) -> Callable[[], Exhibit]:
        CASES[build.__name__] = (step, code, build)
        return build
    return add


def opened(world: World | None = None) -> tuple[World, Gateway]:
    """A gateway that has begun, with its roster, and nothing sealed yet."""
    world = world or World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    return world, gateway


def closed(world: World, gateway: Gateway, **changes: bytes) -> Exhibit:
    """The head into the register, and the bundle."""
    world.round(time_s=gateway.now_s + 10)
    return Exhibit(gateway.members() | {n.replace("__", "/"): d for n, d in changes.items()}, world.policy())


def changed(**members: Callable[[bytes], bytes]) -> Exhibit:
    """The small bundle with members changed by functions; `tile` names the entry tile, `roster` the rows."""
    world, gateway = small()
    whole = gateway.members()
    for name, change in members.items():
        path = {"tile": "tile/entries/000.p/5", "hashes": "tile/0/000.p/5", "roster": "roster/2.jsonl",
                "enrol": "register/0.proof", "head": "register/1.proof"}.get(name, name)
        whole[path] = change(whole[path])
    return Exhibit(whole, world.policy())


def rewritten(data: bytes, change: Callable[[list[dict[str, Any]]], None]) -> bytes:
    """An entry tile with its entries changed."""
    entries = [json.loads(e) for e in tiles.split_entries(data, tiles.Tile(None, 0, 5), where="")]
    change(entries)
    return tiles.join_entries([jcs.encode(e) for e in entries])


# --- 2 policy


@case(2, "policy.gateway_unknown")
def a_gateway_that_nobody_vouches_for() -> Exhibit:
    world = World(witnesses=())
    gateway = world.gateway("stranger", enrol=False, signer="recovery stranger")
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    gateway.window()
    policy = Policy(register=None, platform=None, quorum=world.policy().quorum, independent=frozenset(), gateways={})
    return Exhibit({n: d for n, d in gateway.members().items() if not n.startswith("register/")}, policy)


@case(2, "policy.register_unknown")
def register_proofs_that_nothing_can_check() -> Exhibit:
    _, gateway = small()
    key = VerifierKey(gateway_origin(gateway.id), ED25519, public(gateway.name))
    policy = Policy(register=None, platform=public("platform").hex(), quorum=World(witnesses=()).policy().quorum,
                    independent=frozenset(), gateways={gateway.id: key})
    return Exhibit(gateway.members(), policy)


# --- 3 register


@case(3, "register.quorum")
def one_witness_too_few() -> Exhibit:
    world, gateway = small()
    size = len(world.entries)
    proof = world.proof(1, checkpoint=world.cosigned(size, time_s=world.time_s, by=["bureau"]), size=size)
    return Exhibit(gateway.members() | {"register/1.proof": proof}, world.policy())


@case(3, "register.quorum")
def one_witness_twice() -> Exhibit:
    world, gateway = small()
    size = len(world.entries)
    proof = world.proof(1, checkpoint=world.cosigned(size, time_s=world.time_s, by=["bureau", "bureau"]), size=size)
    return Exhibit(gateway.members() | {"register/1.proof": proof}, world.policy())


@case(3, "register.quorum")
def a_stranger_as_witness() -> Exhibit:
    world, gateway = small()
    size = len(world.entries)
    proof = world.proof(1, checkpoint=world.cosigned(size, time_s=world.time_s, by=["bureau", "friend"]), size=size)
    return Exhibit(gateway.members() | {"register/1.proof": proof}, world.policy())


@case(3, "register.quorum")
def the_register_key_as_its_own_witness() -> Exhibit:
    world, gateway = small()
    size = len(world.entries)
    checkpoint = world.cosigned(size, time_s=world.time_s, by=["bureau"])
    text = parse_note(checkpoint, where="").text
    checkpoint = format_note(text, [*parse_note(checkpoint, where="").signatures,
                                    cosign(text, key_of("register"), name="vendor.example", time_s=world.time_s)])
    return Exhibit(gateway.members() | {"register/1.proof": world.proof(1, checkpoint=checkpoint, size=size)},
                   world.policy())


@case(3, "note.bad_signature")
def a_cosignature_moved_from_another_checkpoint() -> Exhibit:
    world, gateway = small()
    size = len(world.entries)
    earlier = parse_note(world.rounds[0][1], where="").signatures
    text = Checkpoint("register.example", size, world.tree.root()).text
    own = parse_note(world.rounds[-1][1], where="").signatures
    checkpoint = format_note(text, [own[0], earlier[1], own[2]])
    return Exhibit(gateway.members() | {"register/1.proof": world.proof(1, checkpoint=checkpoint, size=size)},
                   world.policy())


@case(3, "note.unsigned")
def a_register_signed_by_another_key() -> Exhibit:
    world, gateway = small()
    size = len(world.entries)
    checkpoint = world.cosigned(size, time_s=world.time_s, signer="thief")
    return Exhibit(gateway.members() | {"register/1.proof": world.proof(1, checkpoint=checkpoint, size=size)},
                   world.policy())


@case(3, "register.origin")
def the_register_of_another_place() -> Exhibit:
    world, gateway = small()
    size = len(world.entries)
    checkpoint = world.cosigned(size, time_s=world.time_s, origin="register.other")
    return Exhibit(gateway.members() | {"register/1.proof": world.proof(1, checkpoint=checkpoint, size=size)},
                   world.policy())


@case(3, "register.split_view")
def a_register_with_two_faces() -> Exhibit:
    world, gateway = opened()
    gateway.window()
    world.round(time_s=gateway.now_s + 5)
    double = World()
    double.gateways = world.gateways
    double.add(json.loads(world.entries[0]))
    double.add(json.loads(world.entries[1]) | {"type": "head", "size": 1, "root": gateway.tree.root(1).hex()})
    double.round(time_s=gateway.now_s + 6, heads=False)
    members = gateway.members()
    # The enrolment is shown under the twin, the head under the register: both of size 2.
    return Exhibit(members | {"register/0.proof": double.proof(0)}, world.policy())


@case(3, "merkle.inclusion")
def a_proof_for_another_place() -> Exhibit:
    return changed(head=lambda data: data.replace(b"\nindex 1\n", b"\nindex 0\n"))


@case(3, "register.misplaced")
def a_proof_under_the_name_of_another() -> Exhibit:
    world, gateway = opened()
    gateway.window()
    world.round(time_s=gateway.now_s + 1)
    gateway.window()
    exhibit = closed(world, gateway)
    exhibit.members["register/7.proof"] = exhibit.members.pop("register/1.proof")
    return exhibit


@case(3, "merkle.inclusion")
def a_proof_of_another_tree() -> Exhibit:
    world, gateway = opened()
    gateway.window()
    world.round(time_s=gateway.now_s + 1)
    gateway.window()
    exhibit = closed(world, gateway)
    head = exhibit.members["register/1.proof"]
    newer = exhibit.members["register/2.proof"]
    exhibit.members["register/1.proof"] = head.partition(b"\n\n")[0] + b"\n\n" + newer.partition(b"\n\n")[2]
    return exhibit


@case(3, "signed.wrong_signer")
def a_certificate_that_the_platform_did_not_sign() -> Exhibit:
    world = World()
    honest = world.gateway("honest")
    world.gateway("cheat", signer="thief", uscc=honest.uscc)
    world.round(time_s=START_S - 10)
    honest.begin()
    honest.roster(*two_devices(honest))
    honest.window()
    return closed(world, honest)


@case(3, "register.not_enrolled")
def the_enrolment_left_out() -> Exhibit:
    world, gateway = small()
    members = gateway.members()
    del members["register/0.proof"]
    return Exhibit(members, world.policy())


@case(3, "register.enrolled_twice")
def one_gateway_enrolled_twice() -> Exhibit:
    world, gateway = opened()
    world.add({"type": "enrol", "certificate": gateway.certificate})
    gateway.window()
    return closed(world, gateway)


@case(3, "register.second_k")
def a_second_k_to_count_devices_twice() -> Exhibit:
    world, gateway = opened()
    world.gateway("second", k_sha256="ab" * 32)
    gateway.window()
    return closed(world, gateway)


@case(3, "register.no_head")
def no_head_at_all() -> Exhibit:
    world, gateway = small()
    members = gateway.members()
    del members["register/1.proof"]
    return Exhibit(members, world.policy())


@case(3, "register.chain_broken")
def a_second_gateway_hidden() -> Exhibit:
    world, gateway = opened()
    hidden = world.gateway("second")
    gateway.window()
    exhibit = closed(world, gateway)
    index = next(i for i, e in enumerate(world.entries) if json.loads(e).get("certificate") == hidden.certificate)
    del exhibit.members[f"register/{index}.proof"]
    return exhibit


@case(3, "register.last_false")
def a_register_that_skips_an_entry() -> Exhibit:
    world, gateway = opened()
    second = world.gateway("second")
    gateway.window()
    world.last[gateway.uscc] = 0  # the platform lies: the head links past the second enrolment
    exhibit = closed(world, gateway)
    index = next(i for i, e in enumerate(world.entries) if json.loads(e).get("certificate") == second.certificate)
    assert f"register/{index}.proof" in exhibit.members
    return exhibit


@case(3, "signed.wrong_signer")
def a_key_that_revokes_itself() -> Exhibit:
    world, gateway = opened()
    gateway.window()
    revocation = signed.sign("revocation", {"gateway": gateway.id, "gateway_key": public("gateway").hex(),
                                            "from_size": 2}, key_of("gateway"))
    world.add({"type": "revoke", "revocation": revocation})
    return closed(world, gateway)


@case(3, "signed.bad_signature")
def a_demand_changed_after_signing() -> Exhibit:
    world, gateway = opened()
    gateway.window()
    demand = signed.sign("demand", {"gateway": gateway.id, "slots": [0], "hours": [], "deadline_s": START_S},
                         key_of("auditor"))
    world.add({"type": "demand", "demand": demand | {"slots": [1]}})
    return closed(world, gateway)


# --- 4 checkpoint


@case(4, "note.unsigned")
def a_checkpoint_signed_by_another_key() -> Exhibit:
    world, gateway = small()
    return Exhibit(gateway.members() | {"checkpoint": gateway.checkpoint(signer="thief")}, world.policy())


@case(4, "note.bad_signature")
def a_checkpoint_with_another_root() -> Exhibit:
    world, gateway = small()
    other = parse_note(gateway.checkpoint(root=bytes(32)), where="").text
    return Exhibit(gateway.members() | {
        "checkpoint": format_note(other, parse_note(gateway.checkpoint(), where="").signatures)}, world.policy())


@case(4, "checkpoint.origin")
def a_checkpoint_of_something_else() -> Exhibit:
    world, gateway = small()
    return Exhibit(gateway.members() | {"checkpoint": world.cosigned(2, time_s=START_S)}, world.policy())


@case(4, "checkpoint.old_key")
def a_checkpoint_signed_by_the_key_before() -> Exhibit:
    world, gateway = opened()
    gateway.rotate("gateway 2")
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    return Exhibit(gateway.members() | {"checkpoint": gateway.checkpoint(signer="gateway")}, world.policy())


@case(4, "note.bad_signature")
def a_signature_line_that_claims_the_key() -> Exhibit:
    world, gateway = small()
    parsed = parse_note(gateway.checkpoint(), where="")
    line = parsed.signatures[0]
    forged = Signature(line.name, line.key_id, key_of("thief").sign(parsed.text.encode()))
    return Exhibit(gateway.members() | {"checkpoint": format_note(parsed.text, [forged])}, world.policy())


# --- 5 tiles and entries


@case(5, "entry.altered")
def a_count_changed_in_the_tile() -> Exhibit:
    def change(entries: list[dict[str, Any]]) -> None:
        entries[3]["samples"]["counted"] += 1
        entries[3]["samples"]["received"] += 1
    return changed(tile=lambda data: rewritten(data, change))


@case(5, "tile.entries")
def the_last_entry_cut_off_its_tile() -> Exhibit:
    return changed(tile=lambda data: data[:-1])


@case(5, "tile.root")
def a_leaf_hash_changed() -> Exhibit:
    return changed(hashes=lambda data: data[:32] + bytes(32) + data[64:])


@case(5, "tile.length")
def a_hash_tile_cut() -> Exhibit:
    return changed(hashes=lambda data: data[:-32])


@case(5, "tile.missing")
def a_hash_tile_left_out() -> Exhibit:
    world, gateway = small()
    members = gateway.members()
    del members["tile/0/000.p/5"]
    return Exhibit(members, world.policy())


@case(5, "tile.unexpected")
def an_older_hash_tile_beside_the_new_one() -> Exhibit:
    world, gateway = small()
    members = gateway.members()
    return Exhibit(members | {"tile/0/000.p/4": members["tile/0/000.p/5"][:128]}, world.policy())


@case(5, "tile.no_entries")
def the_entries_left_out() -> Exhibit:
    world, gateway = small()
    members = gateway.members()
    del members["tile/entries/000.p/5"]
    return Exhibit(members, world.policy())


@case(5, "entry.doubled")
def an_entry_beside_its_tile() -> Exhibit:
    world, gateway = small()
    return Exhibit(gateway.members() | {"entry/4": gateway.entries[4]}, world.policy())


@case(5, "entry.beyond")
def an_entry_beyond_the_log() -> Exhibit:
    world, gateway = small()
    return Exhibit(gateway.members() | {"entry/5": gateway.entries[4]}, world.policy())


@case(5, "head.truncated")
def the_tail_cut_off() -> Exhibit:
    world, gateway = opened()
    gateway.window()
    world.round(time_s=gateway.now_s + 1)
    shorter = gateway.members()
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    return Exhibit(shorter | {n: d for n, d in gateway.members().items() if n.startswith("register/")},
                   world.policy())


@case(5, "head.truncated")
def the_tail_cut_off_and_its_head_too() -> Exhibit:
    world, gateway = opened()
    gateway.window()
    world.round(time_s=gateway.now_s + 1)
    shorter = gateway.members()
    gateway.window()
    exhibit = closed(world, gateway)
    return Exhibit(shorter, world.policy(), anchor=exhibit.members["register/2.proof"])


@case(5, "head.differs")
def another_history_than_the_register_knows() -> Exhibit:
    world, gateway = small()
    _, twin = opened()
    twin.window()
    twin.window(producing=[1])
    return Exhibit(twin.members() | {n: d for n, d in gateway.members().items() if n.startswith("register/")},
                   world.policy())


@case(5, "head.differs")
def another_history_than_the_checker_kept() -> Exhibit:
    world, gateway = small()
    _, twin = opened()
    twin.window(producing=[1])
    twin.window()
    return Exhibit(gateway.members(), world.policy(), anchor=twin.checkpoint())


@case(5, "anchor.other")
def an_anchor_of_another_gateway() -> Exhibit:
    world, gateway = small()
    other = world.gateway("other", uscc=OTHER_USCC)
    other.begin()
    other.roster(*two_devices(other))
    other.window()
    world.round(time_s=other.now_s + 10)
    index = max(i for i, e in enumerate(world.entries) if json.loads(e).get("gateway") == other.id)
    return Exhibit(gateway.members(), world.policy(), anchor=world.proof(index))
