"""Classes 20 to 38: heads, witnesses, time, keys and pseudonyms."""

# ruff: noqa: D103 - the name of a mode says what the cheat does
from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from protocols.errors import TallystickError
from protocols.evidence import jcs, keys, merkle, note, proof, signed
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.encoding import to_base64
from protocols.evidence.keys import SMALL_ORDER_Y, P
from protocols.terms.basis import Basis
from protocols.terms.vocabulary import ROLES, THINGS
from verifier.conformance.classes import (
    Instance,
    alive,
    base,
    changed_note,
    changed_proof,
    cut,
    handed_in,
    kind,
    log_members,
    mode,
    origin,
    register_members,
    remarked,
    stranger_signs,
    swapped_log,
    tile_names,
    with_register,
)
from verifier.conformance.draw import DAY_S, HOUR_S, Draw, lived
from verifier.conformance.world import (
    OTHER_USCC,
    REGISTER,
    Gateway,
    World,
    device_row,
    key_of,
    point_row,
    private_part,
    public,
)
from verifier.proof.also import EQUIVOCATION
from verifier.proof.figures import figures
from verifier.proof.history import COUNTED, UNKNOWN
from verifier.proof.verify import Verdict

EVERYTHING = Basis(key="everything", version="1", things=frozenset(THINGS), roles=frozenset(ROLES),
                   owner_required=False)

# --- 20 wrong origin, 21 root altered

kind(20, "checkpoint.origin", "register.origin", "note.", "policy.gateway_unknown", "register.not_enrolled",
     "anchor.other", "enrolment.differs", "checkpoint.malformed")
kind(21, "note.bad_signature", "tile.root", "merkle.inclusion", "register.quorum", "head.differs",
     "seen.bad_signature", "seen.split_view", "register.split_view")


@mode(20)
def a_checkpoint_of_another_origin(rng: random.Random) -> Instance:
    draw = base(rng)
    gateway = draw.gateway
    other = rng.choice([f"tallystick/g/{rng.randbytes(16).hex()}", f"tallystick/g/{gateway.id.upper()}",
                        f"tallystick/g/{gateway.id}/", f"tallystick/G/{gateway.id}", "register.example",
                        f"tallystick/g/{gateway.id[:31]}", f"example/g/{rng.random()}"])
    text = Checkpoint(other, len(gateway.entries), gateway.tree.root()).text
    line = note.sign(text, key_of(gateway.key_name), name=rng.choice([other, origin(draw)]))
    return handed_in(draw, draw.members | {"checkpoint": note.format_note(text, [line])})


@mode(20)
def a_register_of_another_origin(rng: random.Random) -> Instance:
    draw = base(rng, mode=with_register(rng))
    world = draw.world
    name = rng.choice(tile_names(draw.members, "register/"))
    index = proof.parse(draw.members[name], where="").index
    size = len(world.entries)
    other = rng.choice([f"register{rng.randrange(1000)}.example", "Register.example", origin(draw)])
    checkpoint = world.cosigned(size, time_s=world.time_s, origin=other)
    return handed_in(draw, draw.members | {name: world.proof(index, checkpoint=checkpoint, size=size)})


@mode(21)
def the_root_altered(rng: random.Random) -> Instance:
    draw = base(rng)
    root = rng.randbytes(32)

    def change(parsed: note.Note) -> tuple[str, list[note.Signature]]:
        text = Checkpoint(origin(draw), len(draw.gateway.entries), root).text
        return text, list(parsed.signatures)

    checkpoint = rng.choice([changed_note(draw.members["checkpoint"], change), draw.gateway.checkpoint(root=root)])
    return handed_in(draw, draw.members | {"checkpoint": checkpoint})


@mode(21)
def the_root_of_a_register_checkpoint_altered(rng: random.Random) -> Instance:
    """By an outsider, by the register alone, or by the register with all its witnesses."""
    draw = base(rng, mode="witnessed")
    world = draw.world
    name = rng.choice(tile_names(draw.members, "register/"))
    parsed = proof.parse(draw.members[name], where="")
    size = len(world.entries)
    forged = world.cosigned(size, time_s=world.time_s, root=rng.randbytes(32))
    if rng.random() < 0.5:
        honest_lines = note.parse(parsed.checkpoint, where="").signatures
        forged = changed_note(forged, lambda n: (n.text, honest_lines))
    return handed_in(draw, draw.members | {name: changed_proof(draw.members[name], checkpoint=forged)})


@mode(21)
def the_root_of_a_head_altered_by_the_platform(rng: random.Random) -> Instance:
    draw = alive(rng, mode=with_register(rng))
    draw.world.add({"type": "head", "gateway": draw.gateway.id, "size": len(draw.gateway.entries),
                    "root": rng.randbytes(32).hex()}, draw.gateway.uscc)
    return handed_in(draw.close(thin=False))


# --- 22 rollback to an older checkpoint

kind(22, "head.truncated", "tile.missing", "tile.unexpected", "tile.entries", "tile.no_entries", "note.unsigned")


@mode(22)
def an_older_checkpoint_with_the_newer_tiles(rng: random.Random) -> Instance:
    draw = base(rng)
    old = cut(draw, rng.randrange(min(draw.gateway.rows) + 1, len(draw.gateway.entries)))
    return handed_in(draw, draw.members | {"checkpoint": old.checkpoint()})


@mode(22)
def an_older_state_under_the_newer_register(rng: random.Random) -> Instance:
    draw = base(rng)
    old = cut(draw, rng.randrange(min(draw.gateway.rows) + 1, len(draw.gateway.entries)))
    return swapped_log(draw, old)


# --- 23 fork

kind(23, "head.differs", "register.split_view", "seen.split_view", "head.truncated", "register.equivocation",
     "log.equivocation")


def _branch(rng: random.Random, draw: Draw) -> Gateway:
    """Return another history under the same key: it parts from the honest one before its end."""
    gateway = draw.gateway
    first = max(min(gateway.rows) + 1, draw.keys[-1][0])
    size = rng.randrange(first, len(gateway.entries))
    new = cut(draw, size)
    last = [json.loads(e) for e in gateway.entries[:size]]
    new.life = next((v["seq"] for v in reversed(last)
                     if v["type"] in ("enrolment", "start", "roster", "outage", "key")), -1)
    new.roster_seq = max(new.rows)
    starts = [v for v in last if v["type"] == "start"]
    new.len_s = starts[-1]["rule"]["len_s"]
    ends = [v["start_s"] + v["len_s"] if v["type"] == "window" else v["end_s"] for v in last
            if v["type"] in ("window", "outage")]
    new.now_s = ends[-1] if ends else gateway.now_s // new.len_s * new.len_s
    rows: dict[str, dict[int, dict[str, Any]]] = {"slot": {}, "point": {}}
    for seq in sorted(new.rows):
        for line in new.rows[seq].splitlines():
            row = json.loads(line)
            rows["point" if "point" in row else "slot"][row.get("point", row.get("slot"))] = row
    new.devices, new.points = list(rows["slot"].values()), list(rows["point"].values())
    new.add("start", **{n: v for n, v in starts[-1].items() if n not in ("type", "gateway", "seq", "life", "instance")},
            instance=rng.randbytes(16).hex())
    while len(new.entries) < len(gateway.entries) + rng.choice([0, 0, 3]):
        new.window(seen=None)
    return new


@mode(23)
def another_branch_than_the_register_knows(rng: random.Random) -> Instance:
    draw = base(rng, long=False)
    return swapped_log(draw, _branch(rng, draw))


@mode(23)
def another_branch_than_the_checker_kept(rng: random.Random) -> Instance:
    """The register has never seen a head of the honest branch: only the checker has."""
    draw = lived(rng.getrandbits(64), revoke=False, long=False)
    draw.policy = draw.policy_json()
    kept, other = draw.gateway.checkpoint(), _branch(rng, draw)
    world, gateway = draw.world, draw.gateway
    heads = [i for i, e in enumerate(world.entries) if (v := json.loads(e))["type"] == "head"
             and v["gateway"] == gateway.id]
    if heads or draw.mode == "alone":
        members = log_members(other)
        if draw.mode != "alone":
            draw.close(thin=False)
            members |= register_members(draw)
        return handed_in(draw, members, anchor=kept)
    gateway.entries, gateway.tree = other.entries, other.tree
    gateway.rows, gateway.life = other.rows, other.life
    return handed_in(draw.close(), anchor=kept)


@mode(23)
def a_register_with_two_faces(rng: random.Random) -> Instance:
    """Two register checkpoints of one size, both signed and co-signed, with different roots."""
    draw = base(rng, mode=with_register(rng))
    world = draw.world
    members = dict(draw.members)
    heads = [f"register/{i}.proof" for i in draw.heads() if f"register/{i}.proof" in members]
    name = heads[-1]
    size = world.rounds[-1][0]
    double = World(witnesses=world.witnesses, independent=world.independent, quorum=world.quorum, groups=world.groups)
    double.gateways = world.gateways
    for data in world.entries[:size - 1]:
        double.entries.append(data)
    for data in double.entries:
        double.tree.append(merkle.leaf_hash(data))
    double.add({"type": "advice", "n": rng.randrange(10**9)})
    checkpoint = double.cosigned(size, time_s=world.time_s + 1)
    other = rng.choice([n for n in tile_names(members, "register/") if n != name])
    index = proof.parse(members[other], where="").index
    members[name] = world.proof(proof.parse(members[name], where="").index, checkpoint=world.cosigned(
        size, time_s=world.time_s), size=size)
    if index == size - 1:
        return a_register_with_two_faces(rng)
    members[other] = double.proof(index, checkpoint=checkpoint, size=size)
    return handed_in(draw, members)


@mode(23)
def a_window_that_saw_another_register(rng: random.Random) -> Instance:
    while True:
        draw = alive(rng, mode="witnessed", skew=False)
        world = draw.world
        if world.newest is not None:
            break
    size, time_s, by = world.newest
    witness = next(w for w in by if w in world.independent)
    root = rng.randbytes(32)
    text = Checkpoint(REGISTER, size, root).text
    seen = {"size": size, "root": root.hex(), "witness": witness, "time_s": time_s,
            "signature": to_base64(key_of(witness).sign(note.cosigned_message(text, time_s)))}
    draw.is_offline = False
    draw.gateway.window(seen=world.seen())
    draw.gateway.window(seen=seen)
    return handed_in(draw.close())


def _proof_of(one: bytes, two: bytes) -> dict[str, bytes]:
    return {"equivocation.json": jcs.encode({"type": EQUIVOCATION, "a": one.decode(), "b": two.decode()})}


@mode(23)
def two_faces_of_the_register_in_one_file(rng: random.Random) -> Instance:
    """The bundle is whole; somebody else was shown another register of the same size."""
    draw = base(rng, mode=with_register(rng))
    world = draw.world
    size = world.rounds[-1][0]
    other = world.cosigned(size, time_s=world.time_s + rng.randrange(99), root=rng.randbytes(32))
    pair = [world.rounds[-1][1], other]
    rng.shuffle(pair)
    return handed_in(draw, also=_proof_of(*pair) if rng.random() < 0.7 else {"shown-to-somebody-else": other})


@mode(23)
def two_histories_of_a_gateway_in_one_file(rng: random.Random) -> Instance:
    """Without a register no history was first: a gateway that signed two proves neither."""
    draw = base(rng, mode="alone")
    gateway = draw.gateway
    first = draw.keys[-1][0]
    size = rng.randrange(max(first, 3), len(gateway.entries) + 1)
    pair = [gateway.checkpoint(size=size), gateway.checkpoint(size=size, root=rng.randbytes(32))]
    return handed_in(draw, also=_proof_of(*pair) if rng.random() < 0.7 else {"kept": pair[1]})


# --- 24 witness lines, 25 cosignatures moved, 26 the log as its own witness

kind(24, "register.quorum", "note.bad_signature", "policy.duplicate_key")
kind(25, "note.bad_signature", "seen.bad_signature", "register.quorum")
kind(26, "register.quorum", "policy.duplicate_key", "note.bad_signature")


def _with_quorum(rng: random.Random) -> Draw:
    while True:
        draw = base(rng, mode="witnessed")
        if draw.parsed_policy().quorum.needed is not None:
            return draw


def _too_few(rng: random.Random, draw: Draw) -> list[str]:
    """Return witnesses who do not fulfil the quorum."""
    holds = draw.parsed_policy().quorum.holds
    while True:
        some = [w for w in draw.world.witnesses if rng.random() < 0.5]
        if not holds({public(w) for w in some}):
            return some


def _under(draw: Draw, rng: random.Random, checkpoint: bytes) -> Instance:
    name = rng.choice(tile_names(draw.members, "register/"))
    index = proof.parse(draw.members[name], where="").index
    return handed_in(draw, draw.members | {name: draw.world.proof(index, checkpoint=checkpoint,
                                                                  size=len(draw.world.entries))})


@mode(24)
def too_few_witnesses(rng: random.Random) -> Instance:
    draw = _with_quorum(rng)
    return _under(draw, rng, draw.world.cosigned(len(draw.world.entries), time_s=draw.world.time_s,
                                                 by=_too_few(rng, draw)))


@mode(24)
def witnesses_twice_and_strangers(rng: random.Random) -> Instance:
    draw = _with_quorum(rng)
    few = _too_few(rng, draw)
    by = [*few, *rng.choices(few, k=3)] if few and rng.random() < 0.5 else [
        *few, *(f"friend {rng.randrange(1000)}" for _ in range(3))]
    rng.shuffle(by)
    # A name with a space is no name of a note: strangers have names of their own.
    by = [w.replace(" ", "-") for w in by]
    return _under(draw, rng, draw.world.cosigned(len(draw.world.entries), time_s=draw.world.time_s, by=by))


@mode(24)
def a_stranger_under_the_name_of_a_witness(rng: random.Random) -> Instance:
    draw = _with_quorum(rng)
    world = draw.world
    few = _too_few(rng, draw)
    missing = [w for w in world.witnesses if w not in few]
    size = len(world.entries)
    claims = rng.random() < 0.5

    def change(parsed: note.Note) -> tuple[str, list[note.Signature]]:
        lines = list(parsed.signatures)
        for w in missing:
            line = note.cosign(parsed.text, key_of(f"false {w}"), name=f"{w}.example", time_s=world.time_s)
            key = note.VerifierKey(line.name, note.COSIGNATURE_V1, public(w))
            lines.append(note.Signature(line.name, key.key_id if claims else line.key_id, line.blob))
        return parsed.text, lines

    return _under(draw, rng, changed_note(world.cosigned(size, time_s=world.time_s, by=few), change))


@mode(24)
def one_key_under_two_names_in_the_policy(rng: random.Random) -> Instance:
    """The checker's own policy would count one witness twice: it is refused before the bundle is looked at."""
    draw = base(rng, mode="witnessed")
    raw = json.loads(draw.policy)
    witness = rng.choice(list(draw.world.witnesses))
    name = f"twin{rng.randrange(100)}"
    vkey = note.VerifierKey(f"{name}.example", note.COSIGNATURE_V1, public(witness))
    rows = raw["witnesses"].split("\n")
    rows.insert(1 + rng.randrange(len(draw.world.witnesses) + 1), f"witness {name} {vkey}")
    return handed_in(draw, policy=json.dumps(raw | {"witnesses": "\n".join(rows)}).encode())


@mode(25)
def cosignatures_of_another_checkpoint(rng: random.Random) -> Instance:
    draw = base(rng, mode="witnessed")
    world = draw.world
    size = len(world.entries)
    other = world.cosigned(size, time_s=world.time_s, root=rng.randbytes(32)) if rng.random() < 0.5 else \
        world.cosigned(max(1, size - 1), time_s=world.time_s + rng.randrange(9))
    moved = note.parse(other, where="").signatures[1:]
    if size == 1:
        moved = note.parse(world.cosigned(1, time_s=world.time_s, root=rng.randbytes(32)), where="").signatures[1:]

    def change(parsed: note.Note) -> tuple[str, list[note.Signature]]:
        keep = list(parsed.signatures)
        which = rng.randrange(len(moved))
        keep[1 + which] = moved[which]
        return parsed.text, keep

    return _under(draw, rng, changed_note(world.cosigned(size, time_s=world.time_s), change))


@mode(25)
def a_cosignature_with_another_time(rng: random.Random) -> Instance:
    draw = base(rng, mode="witnessed")
    world = draw.world
    size = len(world.entries)

    def change(parsed: note.Note) -> tuple[str, list[note.Signature]]:
        keep = list(parsed.signatures)
        which = rng.randrange(1, len(keep))
        line = keep[which]
        time_s = int.from_bytes(line.blob[:8], "big") - rng.randrange(1, 10 * DAY_S)
        keep[which] = note.Signature(line.name, line.key_id, time_s.to_bytes(8, "big") + line.blob[8:])
        return parsed.text, keep

    return _under(draw, rng, changed_note(world.cosigned(size, time_s=world.time_s), change))


@mode(25)
def the_cosignature_of_a_seen_moved(rng: random.Random) -> Instance:
    while True:
        draw = alive(rng, mode="witnessed", skew=False)
        seen = draw.world.seen()
        if seen is not None:
            break
    other = rng.choice([{"size": seen["size"] + rng.randint(1, 99)}, {"root": rng.randbytes(32).hex()}])
    draw.gateway.window(seen=seen | other)
    return handed_in(draw.close())


@mode(26)
def the_register_signs_as_a_witness(rng: random.Random) -> Instance:
    draw = _with_quorum(rng)
    world = draw.world
    few = _too_few(rng, draw)
    missing = [w for w in world.witnesses if w not in few]

    def change(parsed: note.Note) -> tuple[str, list[note.Signature]]:
        lines = [note.cosign(parsed.text, key_of("register"), name=rng.choice([f"{w}.example", REGISTER]),
                             time_s=world.time_s) for w in missing]
        return parsed.text, [*parsed.signatures, *lines]

    return _under(draw, rng, changed_note(world.cosigned(len(world.entries), time_s=world.time_s, by=few), change))


@mode(26)
def the_register_as_a_witness_of_the_policy(rng: random.Random) -> Instance:
    draw = base(rng, mode="witnessed")
    raw = json.loads(draw.policy)
    name = rng.choice(["register", f"notary{rng.randrange(1000)}"])
    vkey = note.VerifierKey(f"{name}.example", note.COSIGNATURE_V1, public("register"))
    rows = raw["witnesses"].split("\n")
    rows.insert(rng.randrange(2), f"witness {name} {vkey}")
    return handed_in(draw, policy=json.dumps(raw | {"witnesses": "\n".join(rows)}).encode())


# --- 27 back-dated, 28 future-dated

kind(27, "window.overlap", "seen.bad_signature", "time.outside", "time.wide", "time.open", "outage.order")
kind(28, "window.gap", "time.outside", "time.open", "outage.missing")


def _not_counted(first: int, code: str) -> Callable[[Verdict], str | None]:
    """Return a check that no window from seq `first` on counts in its own time: outside, or late beyond L."""
    def look(verdict: Verdict) -> str | None:
        evidence = verdict.evidence
        if evidence is None or not any(f.code == code for f in verdict.findings):
            return None
        windows = evidence.windows
        for i, seq in enumerate(windows.seq):
            late = windows.not_after_s[i] == UNKNOWN or windows.not_after_s[i] > windows.end_s[i] + HOUR_S
            if seq >= first and windows.state[i] == COUNTED and not late:
                return None
        return code
    return look


def _anchored(rng: random.Random) -> Draw:
    """Return a gateway with a right clock whose newest `seen` is fresh."""
    while True:
        draw = alive(rng, mode="witnessed", skew=False)
        if draw.world.independent:
            draw.is_offline = False
            # A cheat has fallen back behind the true time before: `true_s` follows the witnesses.
            draw.skew_s = min(0, draw.gateway.now_s - draw.world.time_s)
            draw.world.round(time_s=max(draw.world.time_s + 1, draw.true_s + 1))
            draw.sealed()
            return draw


@mode(27)
def a_window_dated_before_its_neighbours(rng: random.Random) -> Instance:
    draw = alive(rng)
    draw.sealed()
    draw.sealed(start_s=max(0, draw.gateway.now_s - rng.randint(1, 2000) * draw.gateway.len_s))
    return handed_in(draw.close())


@mode(27)
def a_seen_made_earlier(rng: random.Random) -> Instance:
    draw = _anchored(rng)
    seen = draw.world.seen()
    assert seen is not None
    draw.gateway.window(seen=seen | {"time_s": seen["time_s"] - rng.randint(1, 400) * HOUR_S})
    return handed_in(draw.close())


@mode(27)
def windows_of_last_week_sealed_today(rng: random.Random) -> Instance:
    """The owner puts his clock back and says so: what he then seals is not counted."""
    draw = _anchored(rng)
    gateway, true_s = draw.gateway, draw.true_s
    back = rng.randint(1, 30) * DAY_S
    gateway.outage(max(0, (gateway.now_s - back) // HOUR_S * HOUR_S), "clock_back")
    first = len(gateway.entries)
    for _ in range(rng.randint(1, 5)):
        draw.sealed()
    draw.skew_s = gateway.now_s - true_s
    return handed_in(draw.close(), uncounted=_not_counted(first, "time.outside"))


@mode(27)
def windows_of_last_week_without_a_seen(rng: random.Random) -> Instance:
    """Without `seen` nothing says that they were sealed later; the co-signature does: late evidence."""
    draw = _anchored(rng)
    gateway, true_s = draw.gateway, draw.true_s
    gateway.outage(max(0, (gateway.now_s - rng.randint(1, 30) * DAY_S) // HOUR_S * HOUR_S), "clock_back")
    first = len(gateway.entries)
    for _ in range(rng.randint(1, 5)):
        gateway.window(seen=None)
    draw.skew_s = gateway.now_s - true_s
    looks = [_not_counted(first, code) for code in ("time.wide", "time.outside", "time.open")]
    return handed_in(draw.close(), uncounted=lambda v: next((code for look in looks if (code := look(v))), None))


@mode(28)
def a_window_dated_after_a_gap(rng: random.Random) -> Instance:
    draw = alive(rng)
    draw.sealed()
    draw.sealed(start_s=draw.gateway.now_s + rng.randint(1, 2000) * draw.gateway.len_s)
    return handed_in(draw.close())


@mode(28)
def windows_of_next_week_sealed_today(rng: random.Random) -> Instance:
    draw = _anchored(rng)
    gateway, true_s = draw.gateway, draw.true_s
    gateway.outage((gateway.now_s + rng.randint(1, 30) * DAY_S) // HOUR_S * HOUR_S, "clock_forward")
    first = len(gateway.entries)
    for _ in range(rng.randint(1, 5)):
        draw.sealed()
    draw.skew_s = gateway.now_s - true_s
    return handed_in(draw.close(), uncounted=_not_counted(first, "time.outside"))


@mode(28)
def windows_of_next_week_before_any_co_signature(rng: random.Random) -> Instance:
    """Nobody has co-signed them yet: they are late evidence until somebody does."""
    draw = _anchored(rng)
    gateway, true_s = draw.gateway, draw.true_s
    draw.world.round(time_s=max(draw.world.time_s + 1, true_s + 1))
    size = len(gateway.entries)
    gateway.outage((gateway.now_s + rng.randint(1, 30) * DAY_S) // HOUR_S * HOUR_S, "clock_forward")
    for _ in range(rng.randint(1, 5)):
        draw.sealed()
    draw.policy = draw.policy_json()
    return Instance(members=gateway.members(), policy=draw.policy, uncounted=_not_counted(size, "time.open"))


# --- 29 nonces

kind(29, "seen.bad_signature", "shape.")


def _seen_draw(rng: random.Random) -> tuple[Draw, dict[str, Any]]:
    draw = _anchored(rng)
    seen = draw.world.seen()
    assert seen is not None
    return draw, seen


@mode(29)
def a_nonce_that_nobody_signed(rng: random.Random) -> Instance:
    draw, seen = _seen_draw(rng)
    draw.gateway.window(seen=seen | rng.choice([
        {"signature": to_base64(rng.randbytes(64))}, {"root": rng.randbytes(32).hex()},
        {"size": seen["size"] + rng.randint(1, 10**6)}, {"time_s": seen["time_s"] + rng.randint(1, 10**6)}]))
    return handed_in(draw.close())


@mode(29)
def a_nonce_signed_by_somebody_else(rng: random.Random) -> Instance:
    draw, seen = _seen_draw(rng)
    text = Checkpoint(REGISTER, seen["size"], bytes.fromhex(seen["root"])).text
    forger = rng.choice(["thief", "register", "platform", draw.gateway.key_name])
    signature = key_of(forger).sign(note.cosigned_message(text, seen["time_s"] + (late := rng.randrange(100))))
    draw.gateway.window(seen=seen | {"time_s": seen["time_s"] + late, "signature": to_base64(signature)})
    return handed_in(draw.close())


@mode(29)
def the_nonce_of_another_register(rng: random.Random) -> Instance:
    draw, seen = _seen_draw(rng)
    origin_of = f"register{rng.randrange(10**6)}.example"
    text = Checkpoint(origin_of, seen["size"], bytes.fromhex(seen["root"])).text
    signature = key_of(seen["witness"]).sign(note.cosigned_message(text, seen["time_s"]))
    draw.gateway.window(seen=seen | {"signature": to_base64(signature)})
    return handed_in(draw.close())


@mode(29)
def a_nonce_missing_where_one_must_be(rng: random.Random) -> Instance:
    """A window may do without; what follows from a nonce may not."""
    draw, _ = _seen_draw(rng)
    gateway = draw.gateway
    gateway.add("reads", True, start_s=gateway.now_s, roster=gateway.roster_seq, seen=None, rows=rng.randrange(9),
                answered=0, root=rng.randbytes(32).hex())
    draw.sealed()
    return handed_in(draw.close())


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
    draw = _with_quorum(rng)
    world = draw.world
    few = _too_few(rng, draw)
    missing = [w for w in world.witnesses if w not in few]

    def change(parsed: note.Note) -> tuple[str, list[note.Signature]]:
        lines = list(parsed.signatures)
        for w in missing:
            line = note.sign(parsed.text, key_of(w), name=f"{w}.example")
            known = note.VerifierKey(line.name, note.COSIGNATURE_V1, public(w))
            lines.append(note.Signature(line.name, rng.choice([line.key_id, known.key_id]), line.blob))
        return parsed.text, lines

    return _under(draw, rng, changed_note(world.cosigned(len(world.entries), time_s=world.time_s, by=few), change))


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


