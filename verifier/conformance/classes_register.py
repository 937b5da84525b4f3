"""Classes 20 to 29: heads, witnesses, time and nonces."""

# ruff: noqa: D103 - the name of a mode says what the cheat does
from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from protocols.evidence import jcs, merkle, note, proof
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.encoding import to_base64
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
    swapped_log,
    tile_names,
    with_register,
)
from verifier.conformance.draw import DAY_S, HOUR_S, Draw, lived
from verifier.conformance.world import (
    REGISTER,
    Gateway,
    World,
    key_of,
    public,
)
from verifier.proof.also import EQUIVOCATION
from verifier.proof.history import COUNTED, UNKNOWN
from verifier.proof.verify import Verdict

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


def with_quorum(rng: random.Random) -> Draw:
    while True:
        draw = base(rng, mode="witnessed")
        if draw.parsed_policy().quorum.needed is not None:
            return draw


def too_few(rng: random.Random, draw: Draw) -> list[str]:
    """Return witnesses who do not fulfil the quorum."""
    holds = draw.parsed_policy().quorum.holds
    while True:
        some = [w for w in draw.world.witnesses if rng.random() < 0.5]
        if not holds({public(w) for w in some}):
            return some


def under(draw: Draw, rng: random.Random, checkpoint: bytes) -> Instance:
    name = rng.choice(tile_names(draw.members, "register/"))
    index = proof.parse(draw.members[name], where="").index
    return handed_in(draw, draw.members | {name: draw.world.proof(index, checkpoint=checkpoint,
                                                                  size=len(draw.world.entries))})


@mode(24)
def too_few_witnesses(rng: random.Random) -> Instance:
    draw = with_quorum(rng)
    return under(draw, rng, draw.world.cosigned(len(draw.world.entries), time_s=draw.world.time_s,
                                                 by=too_few(rng, draw)))


@mode(24)
def witnesses_twice_and_strangers(rng: random.Random) -> Instance:
    draw = with_quorum(rng)
    few = too_few(rng, draw)
    by = [*few, *rng.choices(few, k=3)] if few and rng.random() < 0.5 else [
        *few, *(f"friend {rng.randrange(1000)}" for _ in range(3))]
    rng.shuffle(by)
    # A name with a space is no name of a note: strangers have names of their own.
    by = [w.replace(" ", "-") for w in by]
    return under(draw, rng, draw.world.cosigned(len(draw.world.entries), time_s=draw.world.time_s, by=by))


@mode(24)
def a_stranger_under_the_name_of_a_witness(rng: random.Random) -> Instance:
    draw = with_quorum(rng)
    world = draw.world
    few = too_few(rng, draw)
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

    return under(draw, rng, changed_note(world.cosigned(size, time_s=world.time_s, by=few), change))


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

    return under(draw, rng, changed_note(world.cosigned(size, time_s=world.time_s), change))


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

    return under(draw, rng, changed_note(world.cosigned(size, time_s=world.time_s), change))


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
    draw = with_quorum(rng)
    world = draw.world
    few = too_few(rng, draw)
    missing = [w for w in world.witnesses if w not in few]

    def change(parsed: note.Note) -> tuple[str, list[note.Signature]]:
        lines = [note.cosign(parsed.text, key_of("register"), name=rng.choice([f"{w}.example", REGISTER]),
                             time_s=world.time_s) for w in missing]
        return parsed.text, [*parsed.signatures, *lines]

    return under(draw, rng, changed_note(world.cosigned(len(world.entries), time_s=world.time_s, by=few), change))


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

kind(27, "window.overlap", "seen.bad_signature", "time.outside", "time.wide", "time.open", "time.unanchored",
     "outage.order")
kind(28, "window.gap", "time.outside", "time.open", "time.unanchored", "outage.missing")


def _not_counted(first: int, code: str) -> Callable[[Verdict], str | None]:
    """Return a check that no window from seq `first` on counts in its own time: outside, or late beyond L.

    Where the quorum holds without an independent witness, there may be no bracket: then the verifier has to say so.
    """
    def look(verdict: Verdict) -> str | None:
        evidence, told = verdict.evidence, {f.code for f in verdict.findings}
        if "time.unanchored" in told:
            return "time.unanchored"
        if evidence is None or code not in told:
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
