"""What a cheat may try, with the keys that a cheat may hold; each with the one cause that must refuse it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protocols.evidence import column, jcs, signed, tiles
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.keys import gateway_origin
from protocols.evidence.note import ED25519, Signature, VerifierKey, cosign, format_note
from protocols.evidence.note import parse as parse_note
from protocols.evidence.policy import Policy
from tests.support.evidence_fixture import (
    OTHER_USCC,
    START_S,
    Gateway,
    World,
    bits,
    device_row,
    key_of,
    lines,
    point_row,
    private_part,
    public,
    small,
    two_devices,
)


@dataclass
class Exhibit:
    """What is put before the verifier."""

    members: dict[str, bytes]
    policy: Policy
    anchor: bytes | None = None


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
    world, gateway = small()
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
    twin_world, twin = opened()
    twin.window()
    twin.window(producing=[1])
    return Exhibit(twin.members() | {n: d for n, d in gateway.members().items() if n.startswith("register/")},
                   world.policy())


@case(5, "head.differs")
def another_history_than_the_checker_kept() -> Exhibit:
    world, gateway = small()
    twin_world, twin = opened()
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


# --- 6 the life of the log


def sealed(change: Callable[[Gateway], None], *, window_before: bool = True) -> Exhibit:
    """A gateway that seals something wrong, with its own key."""
    world, gateway = opened()
    if window_before:
        gateway.window()
    change(gateway)
    return closed(world, gateway)


@case(6, "window.gap")
def a_window_left_out() -> Exhibit:
    return sealed(lambda g: g.window(start_s=g.now_s + 60))  # type: ignore[func-returns-value]


@case(6, "window.overlap")
def a_window_sealed_twice() -> Exhibit:
    return sealed(lambda g: g.window(start_s=g.now_s - 60))  # type: ignore[func-returns-value]


@case(6, "window.alignment")
def a_window_that_begins_off_the_grid() -> Exhibit:
    return sealed(lambda g: g.window(start_s=g.now_s + 7), window_before=False)  # type: ignore[func-returns-value]


@case(6, "window.length")
def a_window_of_another_length() -> Exhibit:
    return sealed(lambda g: g.window(len_s=20), window_before=False)  # type: ignore[func-returns-value]


@case(6, "window.roster")
def a_window_under_a_roster_of_the_past() -> Exhibit:
    def change(gateway: Gateway) -> None:
        devices, points = two_devices(gateway)
        gateway.roster([*devices, device_row(2)], points)
        empty = column.pack(bits([0]), 2)
        gateway.window(roster=2, columns={"connected": empty, "sampled": empty, "producing": empty, "changing": empty})
    return sealed(change)


@case(6, "start.window_length")
def windows_that_do_not_divide_the_hour() -> Exhibit:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin(len_s=7)
    gateway.roster(*two_devices(gateway))
    gateway.now_s = START_S // 7 * 7
    gateway.window()
    return closed(world, gateway)


@case(6, "outage.start")
def an_outage_that_begins_later() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.outage(gateway.now_s + 120, start_s=gateway.now_s + 60, missing={"windows": 1, "samples": None})
        gateway.window()
    return sealed(change)


@case(6, "outage.missing")
def an_outage_made_smaller() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.outage(gateway.now_s + 600, missing={"windows": 1, "samples": 0})
        gateway.window()
    return sealed(change)


@case(6, "outage.order")
def an_outage_that_runs_backwards() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.outage(gateway.now_s - 60, "crash")
        gateway.window()
    return sealed(change)


@case(6, "life.false")
def a_life_that_skips_an_outage() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.outage(gateway.now_s + 60)
        gateway.life = 2
        gateway.window()
    return sealed(change)


@case(6, "enrolment.differs")
def another_certificate_in_the_log() -> Exhibit:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.certificate = signed.sign("certificate", {
        n: v for n, v in gateway.certificate.items() if n not in ("key", "sig")} | {"site": "elsewhere"},
        key_of("platform"))
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    gateway.window()
    return closed(world, gateway)


@case(6, "start.missing")
def a_log_without_a_start() -> Exhibit:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.add("enrolment", certificate=gateway.certificate)
    gateway.roster(*two_devices(gateway))
    gateway.start()
    gateway.window()
    return closed(world, gateway)


@case(6, "enrolment.misplaced")
def enrolled_again_in_the_middle() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.add("enrolment", certificate=gateway.certificate)
        gateway.window()
    return sealed(change)


@case(6, "entry.gateway")
def an_entry_of_another_gateway() -> Exhibit:
    return sealed(lambda g: g.window(gateway="ab" * 16))  # type: ignore[func-returns-value]


@case(6, "entry.misplaced")
def an_entry_that_names_another_place() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.window(seq=7)
        gateway.window()
    return sealed(change)


@case(6, "shape.unknown_field")
def a_field_that_the_format_does_not_have() -> Exhibit:
    return sealed(lambda g: g.add("window", True, **json.loads(g.entries[-1]) | {  # type: ignore[func-returns-value]
        "seq": 4, "start_s": g.now_s, "note": "hidden"}))


@case(6, "json.not_canonical")
def the_same_meaning_in_other_bytes() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.window()
        data = gateway.entries.pop()
        gateway.tree = type(gateway.tree)()
        whole, gateway.entries = [*gateway.entries, data.replace(b'":', b'": ', 1)], []
        for one in whole:
            gateway.put(one)
        gateway.window()
    return sealed(change)


@case(6, "key.misplaced")
def a_key_change_taken_from_another_place() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.rotate("gateway 2", seq=3)
        gateway.window()
    return sealed(change)


# --- 7 time


def seen_as(**changes: Any) -> Exhibit:
    """A window whose `seen` was changed by the gateway."""
    def change(gateway: Gateway) -> None:
        gateway.window(seen=(gateway.world.seen() or {}) | changes)
    return sealed(change)


@case(7, "seen.bad_signature")
def an_earliest_time_made_earlier() -> Exhibit:
    return seen_as(time_s=START_S - 3600)


@case(7, "seen.bad_signature")
def a_seen_of_another_size() -> Exhibit:
    return seen_as(size=77)


@case(7, "seen.split_view")
def a_window_that_saw_another_register() -> Exhibit:
    other = World()
    other.gateway("foreign", uscc=OTHER_USCC)
    other.round(time_s=START_S - 5)
    return sealed(lambda g: g.window(seen=other.seen()))  # type: ignore[func-returns-value]


# --- 8 rosters


@case(8, "roster.root")
def a_class_changed_in_a_row() -> Exhibit:
    return changed(roster=lambda data: data.replace(b"machine_tool", b"machine_toad", 1))


@case(8, "roster.slots")
def a_row_removed() -> Exhibit:
    return changed(roster=lambda data: b"\n".join(data.split(b"\n")[1:]))


@case(8, "roster.slots")
def a_row_added() -> Exhibit:
    return changed(roster=lambda data: b"\n".join([*data.split(b"\n")[:2], lines([device_row(2)]).rstrip(b"\n"),
                                                   *data.split(b"\n")[2:]]))


@case(8, "roster.order")
def a_row_doubled() -> Exhibit:
    return changed(roster=lambda data: b"\n".join([data.split(b"\n")[0], *data.split(b"\n")]))


@case(8, "roster.order")
def two_rows_swapped() -> Exhibit:
    return changed(roster=lambda data: b"\n".join(data.split(b"\n")[i] for i in (1, 0, 2, 3, 4)))


@case(8, "roster.lines")
def the_last_newline_cut() -> Exhibit:
    return changed(roster=lambda data: data[:-1])


@case(8, "roster.missing")
def the_rows_left_out() -> Exhibit:
    world, gateway = small()
    members = gateway.members()
    del members["roster/2.jsonl"]
    return Exhibit(members, world.policy())


@case(8, "roster.unexpected")
def rows_of_a_roster_that_is_not_there() -> Exhibit:
    world, gateway = small()
    members = gateway.members()
    return Exhibit(members | {"roster/3.jsonl": members["roster/2.jsonl"]}, world.policy())


def under(devices: list[dict[str, Any]], points: list[dict[str, Any]] | None = None, **window: Any) -> Exhibit:
    """A gateway that seals a roster which contradicts itself, and then a window."""
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin()
    gateway.roster(devices, points if points is not None else [point_row(0, 0, gateway.id)])
    gateway.window(**window)
    return closed(world, gateway)


def rows_then(change: Callable[[list[dict[str, Any]], list[dict[str, Any]]], None]) -> Exhibit:
    """A second roster with rows changed."""
    def second(gateway: Gateway) -> None:
        devices, points = two_devices(gateway)
        change(devices, points)
        gateway.roster(devices, points)
        gateway.window()
    return sealed(second)


@case(8, "roster.parent")
def a_device_below_itself() -> Exhibit:
    return under([device_row(0, parent=1), device_row(1, parent=0)])


@case(8, "roster.replaces")
def a_device_that_replaces_a_live_one() -> Exhibit:
    return under([device_row(0), device_row(1, replaces=0)])


@case(8, "roster.via")
def a_server_without_a_slot() -> Exhibit:
    return under([device_row(0, server={"spki_sha256": None, "via": 9}), device_row(1)])


@case(8, "roster.tags")
def one_scheme_twice_in_a_row() -> Exhibit:
    tags = device_row(0)["tags"] + device_row(1)["tags"]
    return under([device_row(0, tags=tags)])


@case(8, "roster.point_twice")
def one_register_as_two_points() -> Exhibit:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin()
    gateway.roster([device_row(0)], [point_row(0, 0, gateway.id, address="1/holding/0/uint16"),
                                     point_row(1, 0, gateway.id, address="1/holding/0/uint16")])
    gateway.window()
    return closed(world, gateway)


@case(8, "roster.owner")
def a_point_without_a_device() -> Exhibit:
    world = World()
    gateway = world.gateway()
    return under([device_row(0)], [point_row(0, 0, gateway.id), point_row(1, 5, gateway.id)],
                 sampled=[0], connected=[0])


@case(8, "roster.identity")
def another_machine_in_the_same_slot() -> Exhibit:
    return rows_then(lambda devices, _: devices[0].update(  # type: ignore[func-returns-value]
        device_row(0, private=private_part("new", maker="Maker", model="M-2", serial="S-9"))))


@case(8, "roster.identity")
def another_register_in_the_same_point() -> Exhibit:
    return rows_then(lambda _, points: points[0].update(addr="cd" * 32))  # type: ignore[func-returns-value]


@case(8, "roster.tombstone")
def a_device_that_changes_as_it_goes() -> Exhibit:
    return rows_then(lambda devices, points: (  # type: ignore[func-returns-value]
        devices[1].update(state="gone", **{"class": "robot"}), points[1].update(state="gone")))


@case(8, "roster.tombstone")
def a_device_that_comes_back() -> Exhibit:
    def twice(gateway: Gateway) -> None:
        devices, points = two_devices(gateway)
        gateway.roster([devices[0], devices[1] | {"state": "gone"}], [points[0], points[1] | {"state": "gone"}])
        gateway.window()
        gateway.roster(devices, points)
        gateway.window()
    return sealed(twice)


@case(8, "roster.unchanged")
def rows_repeated_that_did_not_change() -> Exhibit:
    def second(gateway: Gateway) -> None:
        devices, points = two_devices(gateway)
        gateway.roster([*devices, device_row(2)], points)
        gateway.rows[gateway.roster_seq] = lines([devices[0], device_row(2)])
        gateway.window()
    return sealed(second)


def opening_of(change: Callable[[dict[str, Any]], object], *, slot: int = 0) -> Exhibit:
    """An opening that was changed."""
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin()
    private = private_part("press", maker="Maker", model="M-1", serial="S-0", asset="A-7")
    gateway.roster([device_row(0, private=private), device_row(1)], two_devices(gateway)[1])
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    value = json.loads(gateway.opening(0, private))
    change(value)
    return Exhibit(gateway.members() | {f"openings/{slot}.json": jcs.encode(value)}, world.policy())


@case(8, "opening.private")
def an_opening_with_another_name() -> Exhibit:
    return opening_of(lambda value: value["private"].update(name="lathe"))


@case(8, "opening.tags")
def an_opening_without_a_tag() -> Exhibit:
    return opening_of(lambda value: value["tags"].pop())


@case(8, "opening.tags")
def an_opening_with_another_blinding() -> Exhibit:
    return opening_of(lambda value: value["tags"][0].update(r="00" * 32))


@case(8, "opening.misplaced")
def an_opening_of_another_slot() -> Exhibit:
    return opening_of(lambda value: None, slot=1)


# --- 9 recount


@case(9, "column.nesting")
def changing_without_producing() -> Exhibit:
    return sealed(lambda g: g.window(producing=[0], changing=[0, 1]))  # type: ignore[func-returns-value]


@case(9, "column.nesting")
def producing_without_samples() -> Exhibit:
    return sealed(lambda g: g.window(sampled=[0], producing=[0, 1]))  # type: ignore[func-returns-value]


@case(9, "column.unconnected")
def producing_without_a_connection() -> Exhibit:
    return sealed(lambda g: g.window(connected=[0]))  # type: ignore[func-returns-value]


@case(9, "column.length")
def a_column_of_another_length() -> Exhibit:
    def change(gateway: Gateway) -> None:
        value = json.loads(gateway.entries[-1])["columns"]
        gateway.window(columns=value | {"connected": column.pack(3, 9)})
    return sealed(change)


@case(9, "column.spare_bits")
def a_bit_behind_the_last_slot() -> Exhibit:
    def change(gateway: Gateway) -> None:
        value = json.loads(gateway.entries[-1])["columns"]
        gateway.window(columns=value | {"connected": column.pack(7, 8)})
    return sealed(change)


@case(9, "column.tombstone")
def a_bit_for_a_device_that_is_gone() -> Exhibit:
    def change(gateway: Gateway) -> None:
        devices, points = two_devices(gateway)
        gateway.roster([devices[0], devices[1] | {"state": "gone"}], [points[0], points[1] | {"state": "gone"}])
        gateway.window(connected=[0, 1], sampled=[0])
    return sealed(change)


@case(9, "samples.conservation")
def samples_that_do_not_add_up() -> Exhibit:
    def change(gateway: Gateway) -> None:
        value = json.loads(gateway.entries[-1])["samples"]
        gateway.window(samples=value | {"received": value["received"] + 1})
    return sealed(change)


@case(9, "samples.columns")
def more_points_than_samples() -> Exhibit:
    def change(gateway: Gateway) -> None:
        value = json.loads(gateway.entries[-1])["samples"]
        gateway.window(samples=value | {"received": value["received"] - value["counted"] + 1, "counted": 1})
    return sealed(change)
