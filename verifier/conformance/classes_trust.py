"""Classes 31 to 38: keys, algorithms and pseudonyms."""

# ruff: noqa: D103 - the name of a mode says what the cheat does
from __future__ import annotations

import json
import random
from typing import Any

from protocols.errors import TallystickError
from protocols.evidence import jcs, keys, note, signed
from protocols.evidence.encoding import to_base64
from protocols.evidence.keys import SMALL_ORDER_Y, P
from protocols.terms.basis import Basis
from protocols.terms.vocabulary import ROLES, THINGS
from verifier.conformance.classes import (
    Instance,
    alive,
    base,
    changed_note,
    cut,
    handed_in,
    kind,
    log_members,
    mode,
    origin,
    register_members,
    remarked,
    stranger_signs,
    with_register,
)
from verifier.conformance.classes_register import too_few, under, with_quorum
from verifier.conformance.draw import Draw
from verifier.conformance.world import (
    OTHER_USCC,
    REGISTER,
    Gateway,
    device_row,
    key_of,
    point_row,
    private_part,
    public,
)
from verifier.proof.figures import figures
from verifier.proof.verify import Verdict

EVERYTHING = Basis(key="everything", version="1", things=frozenset(THINGS), roles=frozenset(ROLES),
                   owner_required=False)

# --- 31 revoked, not yet valid, unknown; 32 foreign

kind(31, "note.unsigned", "checkpoint.old_key", "register.revoked", "signed.wrong_signer", "policy.gateway_unknown",
     "container.unknown_member", "note.bad_signature", "key.misplaced")
kind(32, "note.unsigned", "entry.gateway", "enrolment.differs", "register.not_enrolled", "opening.misplaced",
     "anchor.other", "signed.wrong_signer", "note.bad_signature", "register.no_head", "key.misplaced", "head.",
     "policy.gateway_unknown")


@mode(31)
def signed_by_an_unknown_key(rng: random.Random) -> Instance:
    draw = base(rng)
    text = note.parse(draw.gateway.checkpoint(), where="").text
    return handed_in(draw, draw.members | {"checkpoint": stranger_signs(draw, text, claims=rng.random() < 0.3)})


@mode(31)
def signed_by_the_key_before(rng: random.Random) -> Instance:
    draw = alive(rng)
    before = draw.gateway.key_name
    draw.gateway.rotate(f"after {rng.random()}")
    draw.keys.append((len(draw.gateway.entries), draw.gateway.key_name))
    draw.sealed()
    draw.close()
    return handed_in(draw, draw.members | {"checkpoint": draw.gateway.checkpoint(signer=before)})


@mode(31)
def signed_by_the_key_to_come(rng: random.Random) -> Instance:
    """The checkpoint of a log that has not yet changed its key, signed by the next one."""
    draw = alive(rng)
    draw.sealed()
    short = cut(draw, len(draw.gateway.entries))
    draw.gateway.rotate(f"next {rng.random()}")
    draw.keys.append((len(draw.gateway.entries), draw.gateway.key_name))
    return handed_in(draw.close(), log_members(short, signer=draw.gateway.key_name) | register_members(draw))


@mode(31)
def sealed_after_the_revocation(rng: random.Random) -> Instance:
    """Whatever a revoked key goes on to sign is void; what was before stands."""
    draw = alive(rng, mode=with_register(rng))
    gateway, world = draw.gateway, draw.world
    draw.sealed()
    from_size = len(gateway.entries)
    signer = rng.choice(["platform", f"recovery {gateway.name}"])
    world.add({"type": "revoke", "revocation": signed.sign("revocation", {
        "gateway": gateway.id, "gateway_key": public(gateway.key_name).hex(), "from_size": from_size},
        key_of(signer))}, gateway.uscc)
    for _ in range(rng.randint(1, 5)):
        draw.sealed()
    return handed_in(draw.close(), uncounted=remarked("register.revoked", lambda v: (
        v.evidence is not None and max(v.evidence.windows.seq, default=0) < from_size)))


@mode(31)
def a_certificate_of_an_unknown_platform(rng: random.Random) -> Instance:
    draw = alive(rng, mode=with_register(rng))
    draw.world.gateway(f"cheat {rng.random()}", signer=rng.choice(["thief", "register", draw.gateway.name]))
    draw.sealed()
    return handed_in(draw.close())


@mode(31)
def a_gateway_that_the_policy_does_not_know(rng: random.Random) -> Instance:
    draw = base(rng, mode="alone")
    other = note.VerifierKey(keys.gateway_origin(keys.gateway_id(public("other"))), note.ED25519, public("other"))
    return handed_in(draw, policy=json.dumps({"gateways": [str(other)]}).encode(), anchor=None)


@mode(31)
def a_policy_inside_the_bundle(rng: random.Random) -> Instance:
    draw = base(rng)
    name = rng.choice(["policy.json", "register/policy.json", "trust.json", "gateways.json"])
    return handed_in(draw, draw.members | {name: draw.policy})


@mode(31)
def a_key_that_revokes_itself(rng: random.Random) -> Instance:
    draw = alive(rng, mode=with_register(rng))
    gateway = draw.gateway
    draw.world.add({"type": "revoke", "revocation": signed.sign("revocation", {
        "gateway": gateway.id, "gateway_key": public(gateway.key_name).hex(),
        "from_size": rng.randrange(len(gateway.entries))}, key_of(rng.choice([gateway.key_name, "thief"])))},
        gateway.uscc)
    return handed_in(draw.close())


@mode(32)
def signed_by_the_sister(rng: random.Random) -> Instance:
    draw = alive(rng, mode=with_register(rng))
    sister = draw.world.gateway(f"sister {rng.random()}", uscc=rng.choice([draw.gateway.uscc, OTHER_USCC]))
    draw.close()
    return handed_in(draw, draw.members | {"checkpoint": draw.gateway.checkpoint(signer=sister.name)})


@mode(32)
def an_entry_of_the_sister(rng: random.Random) -> Instance:
    draw = alive(rng)
    sister = keys.gateway_id(public(f"sister {rng.random()}"))
    draw.sealed(gateway=sister)
    return handed_in(draw.close())


@mode(32)
def the_register_of_the_sister(rng: random.Random) -> Instance:
    """Her enrolment and her heads, under his log."""
    draw = alive(rng, mode=with_register(rng))
    sister = draw.world.gateway(f"sister {rng.random()}", uscc=OTHER_USCC)
    sister.begin()
    sister.roster([device_row(0)], [point_row(0, 0, sister.id)])
    draw.close()
    proofs = draw.world.proofs_for(sister)
    return handed_in(draw, log_members(draw.gateway) | proofs, anchor=None)


@mode(32)
def the_certificate_of_the_sister(rng: random.Random) -> Instance:
    """His log opens with the certificate of another gateway of another enterprise."""
    draw = alive(rng, mode=with_register(rng))
    sister = draw.world.gateway(f"sister {rng.random()}", uscc=OTHER_USCC)
    gateway = Gateway(draw.world, f"he {rng.random()}", draw.gateway.uscc, {})
    draw.world.gateways.append(gateway)
    draw.world.add({"type": "enrol", "certificate": gateway.certificate}, gateway.uscc)
    gateway.certificate = sister.certificate
    gateway.now_s = draw.gateway.now_s // 60 * 60
    gateway.begin()
    gateway.roster([device_row(0)], [point_row(0, 0, gateway.id)])
    gateway.window()
    draw.policy = draw.policy_json()
    draw.round()
    return Instance(members=gateway.members(), policy=draw.policy)


@mode(32)
def the_opening_of_the_sister(rng: random.Random) -> Instance:
    draw = base(rng, long=False)
    slot = rng.choice(sorted(draw.privates))
    sister = Gateway(draw.world, f"sister {rng.random()}", draw.gateway.uscc, {})
    return handed_in(draw, draw.members | {f"openings/{slot}.json": sister.opening(slot, draw.privates[slot])})


@mode(32)
def the_anchor_of_the_sister(rng: random.Random) -> Instance:
    draw = alive(rng)
    sister = draw.world.gateway(f"sister {rng.random()}", uscc=OTHER_USCC, enrol=draw.mode != "alone")
    sister.begin()
    draw.close()
    anchor = sister.checkpoint()
    if draw.mode != "alone" and rng.random() < 0.5:
        index = max(i for i, e in enumerate(draw.world.entries) if json.loads(e).get("gateway") == sister.id)
        anchor = draw.world.proof(index)
    return handed_in(draw, anchor=anchor)


@mode(32)
def a_rotation_signed_by_the_sister(rng: random.Random) -> Instance:
    draw = alive(rng)
    draw.gateway.rotate(f"after {rng.random()}", signer=f"sister {rng.random()}")
    draw.sealed()
    return handed_in(draw.close())


@mode(32)
def a_revocation_by_the_recovery_key_of_the_sister(rng: random.Random) -> Instance:
    draw = alive(rng, mode=with_register(rng))
    gateway = draw.gateway
    draw.world.add({"type": "revoke", "revocation": signed.sign("revocation", {
        "gateway": gateway.id, "gateway_key": public(gateway.key_name).hex(), "from_size": rng.randrange(99)},
        key_of(f"recovery sister {rng.random()}"))}, gateway.uscc)
    return handed_in(draw.close())


# --- 33 algorithms

kind(33, "note.unsigned", "note.bad_signature", "register.quorum", "signed.bad_signature", "vkey.malformed",
     "policy.line")


def _line_of_type(rng: random.Random, data: bytes, name: str, raw: bytes, types: list[int]) -> bytes:
    """Return a note in which the line of this key claims another algorithm."""
    def change(parsed: note.Note) -> tuple[str, list[note.Signature]]:
        kind_ = rng.choice(types)
        key = note.VerifierKey(name, kind_, raw)
        blob = rng.choice([b"", rng.randbytes(8)]) + rng.randbytes(rng.choice([64, 71, 72, 2420]))
        return parsed.text, [note.Signature(s.name, key.key_id, blob) if s.name == name else s
                             for s in parsed.signatures]
    return changed_note(data, change)


@mode(33)
def a_checkpoint_in_another_algorithm(rng: random.Random) -> Instance:
    draw = base(rng)
    raw = public(draw.gateway.key_name)
    return handed_in(draw, draw.members | {"checkpoint": _line_of_type(
        rng, draw.gateway.checkpoint(), origin(draw), raw, [0, 2, 4, 5, 6, 255, 1])})


@mode(33)
def the_log_cosigns_instead_of_signing(rng: random.Random) -> Instance:
    draw = base(rng)
    text = note.parse(draw.gateway.checkpoint(), where="").text
    line = note.cosign(text, key_of(draw.gateway.key_name), name=origin(draw), time_s=rng.randrange(2**33))
    if rng.random() < 0.5:
        known = note.VerifierKey(origin(draw), note.ED25519, public(draw.gateway.key_name))
        line = note.Signature(line.name, known.key_id, line.blob)
    return handed_in(draw, draw.members | {"checkpoint": note.format_note(text, [line])})


@mode(33)
def a_witness_signs_as_a_log(rng: random.Random) -> Instance:
    draw = with_quorum(rng)
    world = draw.world
    few = too_few(rng, draw)
    missing = [w for w in world.witnesses if w not in few]

    def change(parsed: note.Note) -> tuple[str, list[note.Signature]]:
        lines = list(parsed.signatures)
        for w in missing:
            line = note.sign(parsed.text, key_of(w), name=f"{w}.example")
            known = note.VerifierKey(line.name, note.COSIGNATURE_V1, public(w))
            lines.append(note.Signature(line.name, rng.choice([line.key_id, known.key_id]), line.blob))
        return parsed.text, lines

    return under(draw, rng, changed_note(world.cosigned(len(world.entries), time_s=world.time_s, by=few), change))


@mode(33)
def a_policy_key_of_another_algorithm(rng: random.Random) -> Instance:
    draw = base(rng, mode="witnessed")
    raw = json.loads(draw.policy)
    old = note.VerifierKey(REGISTER, note.ED25519, public("register"))
    new = note.VerifierKey(REGISTER, rng.choice([0, 2, 3, 5, 6, 7, 255]), public("register"))
    text = json.dumps(raw).replace(json.dumps(str(old))[1:-1], json.dumps(str(new))[1:-1])
    return handed_in(draw, policy=text.encode())


@mode(33)
def a_signature_made_for_another_kind_of_object(rng: random.Random) -> Instance:
    """The right key has signed the right fields, but as something else."""
    draw = alive(rng, mode=with_register(rng))
    gateway = draw.gateway
    honest_object = signed.sign("revocation", {"gateway": gateway.id, "gateway_key": public(gateway.key_name).hex(),
                                               "from_size": rng.randrange(99)}, key_of("platform"))
    body = {n: v for n, v in honest_object.items() if n != "sig"}
    name = rng.choice(["certificate", "demand", "rotation", "attestation", "finding"])
    message = f"tallystick/{name}/v1".encode() + b"\0" + jcs.encode(body)
    draw.world.add({"type": "revoke", "revocation": body | {
        "sig": to_base64(key_of("platform").sign(message))}}, gateway.uscc)
    return handed_in(draw.close())


# --- 35 weak keys

kind(35, "key.")


def _weak(rng: random.Random) -> bytes:
    """Return 32 bytes that are no Ed25519 key to trust: of small order, not canonical, or not on the curve."""
    sign = rng.randrange(2) << 255
    which = rng.randrange(3)
    if which == 0:
        return (rng.choice(sorted(SMALL_ORDER_Y)) | sign).to_bytes(32, "little")
    if which == 1:
        return (P + rng.randrange(19) | sign).to_bytes(32, "little")
    while True:
        raw = rng.randbytes(32)
        try:
            keys.check_public(raw, where="")
        except TallystickError:
            return raw


@mode(35)
def a_gateway_enrolled_with_a_weak_key(rng: random.Random) -> Instance:
    draw = alive(rng, mode=with_register(rng))
    draw.world.gateway(f"weak {rng.random()}", gateway_key=_weak(rng).hex())
    draw.sealed()
    return handed_in(draw.close())


@mode(35)
def a_recovery_key_that_is_weak(rng: random.Random) -> Instance:
    draw = alive(rng, mode=with_register(rng))
    draw.world.gateway(f"weak {rng.random()}", recovery_key=_weak(rng).hex())
    draw.sealed()
    return handed_in(draw.close())


@mode(35)
def a_rotation_to_a_weak_key(rng: random.Random) -> Instance:
    draw = alive(rng)
    gateway = draw.gateway
    seq = len(gateway.entries)
    gateway.add("key", rotation=signed.sign("rotation", {
        "gateway": gateway.id, "seq": seq, "root": gateway.tree.root().hex(), "new_key": _weak(rng).hex()},
        key_of(gateway.key_name)))
    draw.sealed()
    return handed_in(draw.close())


@mode(35)
def a_weak_key_in_the_policy(rng: random.Random) -> Instance:
    draw = base(rng, mode="witnessed")
    raw = json.loads(draw.policy)
    weak = _weak(rng)
    place = rng.choice(["register", "witness", "gateways"])
    if place == "witness":
        vkey = note.VerifierKey("weak.example", note.COSIGNATURE_V1, weak)
        raw["witnesses"] = raw["witnesses"].replace("\n", f"\nwitness weak {vkey}\n", 1)
    elif place == "gateways":
        raw["gateways"] = [str(note.VerifierKey(keys.gateway_origin(keys.gateway_id(weak)), note.ED25519, weak))]
    else:
        raw["register"] = str(note.VerifierKey(REGISTER, note.ED25519, weak))
    return handed_in(draw, policy=json.dumps(raw).encode())


@mode(35)
def a_platform_key_under_which_everything_is_signed(rng: random.Random) -> Instance:
    """Under a key of small order, a signature without any secret verifies: R neutral, s = 0."""
    draw = alive(rng, mode=with_register(rng))
    sister = draw.world.gateway(f"weak {rng.random()}", enrol=False)
    weak = (rng.choice(sorted(SMALL_ORDER_Y)) | rng.randrange(2) << 255).to_bytes(32, "little")
    forged = to_base64((1).to_bytes(32, "little") + bytes(32))
    draw.world.add({"type": "enrol", "certificate": sister.certificate | {"key": weak.hex(), "sig": forged}},
                   sister.uscc)
    draw.close()
    return handed_in(draw, policy=json.dumps(json.loads(draw.policy) | {"platform": weak.hex()}).encode())


# --- 38 the same pseudonym twice

kind(38, "roster.point_twice", "roster.tags", "duplicate_identity")


def _fresh(rng: random.Random, draw: Draw, count: int) -> list[dict[str, Any]]:
    first = len(draw.gateway.devices)
    return [device_row(first + i, private=private_part(f"{rng.random()}", maker="M", model="X",
                                                       serial=f"S-{rng.random()}")) for i in range(count)]


@mode(38)
def one_address_as_two_points(rng: random.Random) -> Instance:
    draw = alive(rng)
    gateway = draw.gateway
    devices = [*gateway.devices, *_fresh(rng, draw, 1)]
    at = len(gateway.points)
    address = f"9/holding/{rng.randrange(10**6)}/uint16"
    points = [*gateway.points, *(point_row(at + i, len(devices) - 1, gateway.id, address=address) for i in (0, 1))]
    gateway.roster(devices, points)
    draw.sealed()
    return handed_in(draw.close())


@mode(38)
def one_scheme_twice_in_a_row(rng: random.Random) -> Instance:
    draw = alive(rng)
    gateway = draw.gateway
    new = _fresh(rng, draw, 1)[0]
    gateway.roster([*gateway.devices, new | {"tags": new["tags"] + [
        {"scheme": "serial", "tag": rng.randbytes(32).hex()}]}], gateway.points)
    draw.sealed()
    return handed_in(draw.close())


@mode(38)
def one_machine_as_two_devices(rng: random.Random) -> Instance:
    """An honest plant may list a machine twice by mistake; whoever counts counts it once."""
    while True:  # whose windows are inside their brackets: else neither counts, and that shows nothing
        draw = alive(rng, mode="witnessed", skew=False)
        if draw.world.time_s <= draw.gateway.now_s:
            break
    gateway = draw.gateway
    draw.is_offline = False
    one, two = _fresh(rng, draw, 2)
    devices = [*gateway.devices, one, two | {"tags": one["tags"]}]
    at = len(gateway.points)
    points = [*gateway.points, point_row(at, one["slot"], gateway.id), point_row(at + 1, two["slot"], gateway.id)]
    gateway.roster(devices, points)
    draw.sealed()

    def look(verdict: Verdict) -> str | None:
        evidence = verdict.evidence
        if evidence is None or evidence.covered is None:
            return None
        told = {d.row.slot: d.reason for d in figures([evidence], evidence.covered[1], EVERYTHING).devices}
        twice = [told[one["slot"]], told[two["slot"]]]
        return "duplicate_identity" if "duplicate_identity" in twice and None in twice else None

    draw.close()
    draw.world.round(time_s=draw.world.time_s + 1)  # by every witness: what nobody has co-signed yet does not count
    draw.members = gateway.members()
    return handed_in(draw, uncounted=look)


