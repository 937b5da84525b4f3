"""Classes 9 to 19: entries, tiles and proofs."""

# ruff: noqa: D103 - the name of a mode says what the cheat does
from __future__ import annotations

import json
import random
from typing import Any

from protocols.evidence import column, jcs, note, proof, tiles
from verifier.conformance.classes import (
    Instance,
    alive,
    base,
    changed_note,
    changed_proof,
    cut,
    flipped,
    handed_in,
    kind,
    log_members,
    mode,
    register_members,
    renumbered,
    split,
    swapped_log,
    tile_names,
    twin,
    unsigned_log,
    with_register,
)
from verifier.conformance.draw import Draw
from verifier.conformance.world import key_of

# --- 9, 11, 12, 13 entries deleted, reordered, duplicated, inserted

_MOVED = ("tile.", "entry.", "head.", "life.", "window.", "outage.")
kind(9, *_MOVED, "enrolment.missing", "enrolment.misplaced", "note.unsigned")
kind(11, *_MOVED, "enrolment.misplaced", "enrolment.missing", "note.unsigned")
kind(12, *_MOVED, "enrolment.misplaced", "enrolment.missing", "note.unsigned")
kind(13, *_MOVED, "enrolment.misplaced", "enrolment.missing", "note.unsigned")


def _moved(rng: random.Random, draw: Draw, what: int) -> list[int]:
    """Return an order of the old seqs with one entry deleted, exchanged, doubled, or told again elsewhere."""
    size = len(draw.gateway.entries)
    order = list(range(size))
    at = rng.randrange(1, size - 1)
    if what == 9:
        del order[at]
    elif what == 11:
        other = rng.choice([i for i in range(size) if i != at])
        order[at], order[other] = order[other], order[at]
    elif what == 12:
        order.insert(at, at)
    else:
        order.insert(rng.randrange(1, at + 1), at)
    return order


def _in_the_tile(rng: random.Random, what: int) -> Instance:
    draw = base(rng)
    order = _moved(rng, draw, what)
    members = dict(draw.members)
    entries = [draw.gateway.entries[i] for i in order]
    for name in tile_names(members, "tile/entries/"):
        tile = tiles.parse_path(name)
        assert tile is not None
        start = tile.number * tiles.WIDTH
        members[name] = tiles.join_entries(entries[start: start + tile.width])
    if members == draw.members:  # outside the tiles that are shipped
        return _in_the_tile(rng, what)
    return handed_in(draw, members)


def _in_the_tree(rng: random.Random, what: int) -> Instance:
    """Tiles and tree are rebuilt to fit, the signed checkpoint is the old one."""
    draw = base(rng)
    entries = [draw.gateway.entries[i] for i in _moved(rng, draw, what)]
    return unsigned_log(draw, twin(draw, entries))


def _signed(rng: random.Random, what: int) -> Instance:
    """The owner signs the new tree; the entries still name their old places."""
    draw = base(rng)
    entries = [draw.gateway.entries[i] for i in _moved(rng, draw, what)]
    return swapped_log(draw, twin(draw, entries))


def _retold(rng: random.Random, what: int) -> Instance:
    """The owner tells the whole history anew, with new places and links, and signs it. The register knows the old."""
    while True:
        draw = base(rng, long=False)
        new = renumbered(draw, _moved(rng, draw, what))
        if new.entries != draw.gateway.entries:
            return swapped_log(draw, new)


@mode(9)
def deleted_in_the_tile(rng: random.Random) -> Instance:
    return _in_the_tile(rng, 9)


@mode(9)
def deleted_in_the_tree(rng: random.Random) -> Instance:
    return _in_the_tree(rng, 9)


@mode(9)
def deleted_and_signed(rng: random.Random) -> Instance:
    return _signed(rng, 9)


@mode(9)
def deleted_and_retold(rng: random.Random) -> Instance:
    return _retold(rng, 9)


@mode(11)
def reordered_in_the_tile(rng: random.Random) -> Instance:
    return _in_the_tile(rng, 11)


@mode(11)
def reordered_in_the_tree(rng: random.Random) -> Instance:
    return _in_the_tree(rng, 11)


@mode(11)
def reordered_and_signed(rng: random.Random) -> Instance:
    return _signed(rng, 11)


@mode(11)
def reordered_and_retold(rng: random.Random) -> Instance:
    return _retold(rng, 11)


@mode(12)
def duplicated_in_the_tile(rng: random.Random) -> Instance:
    return _in_the_tile(rng, 12)


@mode(12)
def duplicated_in_the_tree(rng: random.Random) -> Instance:
    return _in_the_tree(rng, 12)


@mode(12)
def duplicated_and_signed(rng: random.Random) -> Instance:
    return _signed(rng, 12)


@mode(12)
def duplicated_and_retold(rng: random.Random) -> Instance:
    return _retold(rng, 12)


@mode(12)
def duplicated_beside_its_tile(rng: random.Random) -> Instance:
    draw = base(rng, long=False)
    seq = rng.randrange(len(draw.gateway.entries))
    return handed_in(draw, draw.members | {f"entry/{seq}": draw.gateway.entries[seq]})


@mode(13)
def inserted_in_the_tile(rng: random.Random) -> Instance:
    return _in_the_tile(rng, 13)


@mode(13)
def inserted_in_the_tree(rng: random.Random) -> Instance:
    return _in_the_tree(rng, 13)


@mode(13)
def inserted_and_signed(rng: random.Random) -> Instance:
    return _signed(rng, 13)


@mode(13)
def inserted_and_retold(rng: random.Random) -> Instance:
    return _retold(rng, 13)


@mode(13)
def inserted_beyond_the_log(rng: random.Random) -> Instance:
    draw = base(rng)
    size = len(draw.gateway.entries)
    return handed_in(draw, draw.members | {f"entry/{size + rng.randrange(9)}": draw.gateway.entries[-1]})


# --- 10 the tail truncated below what is anchored

kind(10, "head.truncated", "note.unsigned")  # the anchor of a later key, which the shorter log does not have


@mode(10)
def the_tail_cut_off_below_a_head(rng: random.Random) -> Instance:
    draw = base(rng, mode=with_register(rng))
    return handed_in(draw, register_members(draw) | log_members(_shorter(rng, draw)))


@mode(10)
def the_tail_cut_off_below_the_anchor(rng: random.Random) -> Instance:
    """Heads of what is cut off are left out too: only what the checker kept can tell."""
    draw = base(rng)
    short = _shorter(rng, draw)
    members = log_members(short)
    for name, data in register_members(draw).items():
        value = json.loads(proof.parse(data, where="").extra)
        if value["type"] != "head" or value["gateway"] != draw.gateway.id or value["size"] <= len(short.entries):
            members[name] = data
    anchor = draw.gateway.checkpoint()
    if draw.mode != "alone" and rng.random() < 0.5:
        anchor = draw.world.proof(draw.heads()[-1])
    return handed_in(draw, members, anchor=anchor)


def _shorter(rng: random.Random, draw: Draw) -> Any:
    first = min(draw.gateway.rows) + 1
    return cut(draw, rng.randrange(first, len(draw.gateway.entries)))


# --- 14 a gap in seq or in time

kind(14, "entry.misplaced", "window.gap", "window.overlap", "outage.start", "outage.missing", "life.broken",
     "life.false", "tile.gap", "outage.order", "note.unsigned")


@mode(14)
def a_gap_in_time_sealed_by_the_owner(rng: random.Random) -> Instance:
    draw = alive(rng)
    draw.sealed()
    draw.sealed(start_s=draw.gateway.now_s + rng.randint(1, 9) * draw.gateway.len_s)
    return handed_in(draw.close())


@mode(14)
def a_gap_in_seq_sealed_by_the_owner(rng: random.Random) -> Instance:
    draw = alive(rng)
    draw.sealed(seq=len(draw.gateway.entries) + rng.randint(1, 9))
    draw.sealed()
    return handed_in(draw.close())


@mode(14)
def an_outage_smaller_than_the_hole(rng: random.Random) -> Instance:
    draw = alive(rng)
    gateway = draw.gateway
    draw.sealed()
    hole = rng.randint(2, 50)
    changes: dict[str, Any] = rng.choice([
        {"missing": {"windows": hole - 1, "samples": None}},
        {"start_s": gateway.now_s + gateway.len_s, "missing": {"windows": hole - 1, "samples": None}}])
    gateway.outage(gateway.now_s + hole * gateway.len_s, rng.choice(["crash", "off"]), **changes)
    draw.sealed()
    return handed_in(draw.close())


@mode(14)
def an_outage_that_life_passes_over(rng: random.Random) -> Instance:
    draw = alive(rng)
    gateway = draw.gateway
    before = gateway.life
    draw.sealed()
    gateway.outage(gateway.now_s + rng.randint(1, 50) * gateway.len_s)
    gateway.life = before
    draw.sealed()
    return handed_in(draw.close())


@mode(14)
def an_entry_of_the_life_left_out(rng: random.Random) -> Instance:
    while True:
        draw = base(rng, long=True)
        singles = [n for n in tile_names(draw.members, "entry/") if json.loads(draw.members[n])["type"] != "key"]
        if singles:
            gone = rng.choice(singles)
            return handed_in(draw, {n: d for n, d in draw.members.items() if n != gone})


# --- 16 hash tiles altered, 17 entries altered

kind(16, "tile.", "container.corrupt")
kind(17, "entry.altered", "tile.entries", "tile.no_entries", "tile.gap", "tile.unexpected", "life.broken",
     "note.unsigned")


@mode(16)
def a_bit_of_a_hash_tile(rng: random.Random) -> Instance:
    draw = base(rng)
    name = rng.choice(tile_names(draw.members, "tile/0/"))
    return handed_in(draw, draw.members | {name: flipped(rng, draw.members[name])})


@mode(16)
def a_hash_tile_altered(rng: random.Random) -> Instance:
    draw = base(rng)
    members = dict(draw.members)
    name = rng.choice(tile_names(members, "tile/0/"))
    data = members[name]
    at = 32 * rng.randrange(len(data) // 32)
    hashes = [data[i: i + 32] for i in range(0, len(data), 32)]
    swapped = list(hashes)
    i, j = rng.sample(range(len(hashes)), 2)
    swapped[i], swapped[j] = swapped[j], swapped[i]
    members[name] = rng.choice([
        data[:at] + rng.randbytes(32) + data[at + 32:], data[:-rng.randint(1, 64)], data + rng.randbytes(32),
        data[:at] + data[at + 32:], b"".join(swapped)])
    return handed_in(draw, members)


@mode(16)
def a_hash_tile_of_another_size(rng: random.Random) -> Instance:
    draw = base(rng, long=False)
    members = dict(draw.members)
    name = tile_names(members, "tile/0/")[-1]
    width = rng.randrange(1, len(members[name]) // 32)
    other = f"{name.partition('.p')[0]}.p/{width}"
    members[other] = members[name][:32 * width]
    if rng.random() < 0.5:
        del members[name]
    return handed_in(draw, members)


@mode(17)
def an_entry_altered(rng: random.Random) -> Instance:
    draw = base(rng)
    name = rng.choice(tile_names(draw.members, "tile/entries/"))
    entries = split(draw.members, name)
    at = rng.choice([i for i, e in enumerate(entries) if b'"type":"window"' in e and b"start_s" in e])
    value = json.loads(entries[at])
    more = rng.randrange(1, 10**6)
    change: list[dict[str, Any]] = [
        {"samples": value["samples"] | {"counted": value["samples"]["counted"] + more,
                                        "received": value["samples"]["received"] + more}},
        {"start_s": value["start_s"] + value["len_s"] * rng.choice([-more, more])},
        {"seen": None if value["seen"] else value["seen"], "clock": value["clock"] | {"offset_ms": more}},
        {"columns": dict.fromkeys(column.NAMES, "")}]
    entries[at] = jcs.encode(value | rng.choice(change))
    if entries[at] == split(draw.members, name)[at]:
        return an_entry_altered(rng)
    return handed_in(draw, draw.members | {name: tiles.join_entries(entries)})


@mode(17)
def an_entry_tile_cut_or_longer(rng: random.Random) -> Instance:
    draw = base(rng)
    name = rng.choice(tile_names(draw.members, "tile/entries/"))
    data = draw.members[name]
    entries = split(draw.members, name)
    return handed_in(draw, draw.members | {name: rng.choice([
        data[:-rng.randint(1, 200)], data + rng.randbytes(rng.randint(1, 50)), tiles.join_entries(entries[:-1]),
        tiles.join_entries([*entries, entries[-1]]), tiles.join_entries([*entries, b"{}"])])})


@mode(17)
def an_entry_of_another_gateway_in_its_place(rng: random.Random) -> Instance:
    draw = base(rng, long=False)
    other = base(rng, long=False)
    name = rng.choice(tile_names(draw.members, "tile/entries/"))
    entries = split(draw.members, name)
    entries[rng.randrange(len(entries))] = rng.choice(other.gateway.entries)
    return handed_in(draw, draw.members | {name: tiles.join_entries(entries)})


# --- 18 index or size forged

kind(18, "merkle.inclusion", "register.misplaced", "proof.malformed", "note.bad_signature", "entry.misplaced",
     "head.differs", "head.truncated", "tile.", "checkpoint.malformed", "seen.bad_signature", "register.last_false",
     "note.unsigned")


@mode(18)
def an_index_forged(rng: random.Random) -> Instance:
    draw = base(rng, mode=with_register(rng))
    name = rng.choice(tile_names(draw.members, "register/"))
    index = proof.parse(draw.members[name], where="").index
    other = rng.choice([i for i in range(len(draw.world.entries) + 5) if i != index])
    members = dict(draw.members)
    data = changed_proof(members.pop(name), index=other)
    return handed_in(draw, members | {f"register/{other}.proof" if rng.random() < 0.7 else name: data})


@mode(18)
def a_proof_under_another_index(rng: random.Random) -> Instance:
    draw = base(rng, mode=with_register(rng))
    members = dict(draw.members)
    data = members.pop(rng.choice(tile_names(members, "register/")))
    return handed_in(draw, members | {f"register/{len(draw.world.entries) + rng.randrange(99)}.proof": data})


@mode(18)
def leaf_4_of_5_shown_as_leaf_1_of_2(rng: random.Random) -> Instance:
    """The last leaf of a tree of odd size has the proof of the last leaf of a smaller tree, and the same root."""
    draw = base(rng, mode=with_register(rng))
    world = draw.world
    while True:
        size = rng.choice([3, 5, 9, 17])
        while len(world.entries) < size:
            world.add({"type": "advice"})
        tree = world.tree
        checkpoint = world.cosigned(size, time_s=world.time_s + 1)
        last = size - 1
        hashes = tuple(tree.inclusion(last, size))
        forged = 1
        if len(hashes) == 1 and forged != last:
            data = proof.LogProof(forged, hashes, checkpoint, world.entries[last]).encode()
            return handed_in(draw, draw.members | {f"register/{forged}.proof": data})


@mode(18)
def the_size_of_the_checkpoint_forged(rng: random.Random) -> Instance:
    draw = base(rng)
    size = len(draw.gateway.entries)
    other = max(1, size + rng.choice([-1, 1, rng.randint(2, 300)]))

    def change(parsed: note.Note) -> tuple[str, list[note.Signature]]:
        name, _, root = parsed.text.splitlines()
        text = f"{name}\n{other}\n{root}\n"
        line = note.sign(text, key_of(draw.gateway.key_name), name=name)
        return text, [line] if by_owner else list(parsed.signatures)

    by_owner = rng.random() < 0.5
    return handed_in(draw, draw.members | {"checkpoint": changed_note(draw.members["checkpoint"], change)})


@mode(18)
def the_size_of_a_head_forged_by_the_platform(rng: random.Random) -> Instance:
    draw = alive(rng, mode="witnessed")
    gateway = draw.gateway
    size = len(gateway.entries)
    other = max(1, size + rng.choice([-2, -1, 1, 2]))
    draw.world.add({"type": "head", "gateway": gateway.id, "size": other,
                    "root": (gateway.tree.root() if other != size else gateway.tree.root(1)).hex()}, gateway.uscc)
    return handed_in(draw.close(thin=False))


@mode(18)
def the_size_of_a_seen_forged(rng: random.Random) -> Instance:
    draw = alive(rng, mode="witnessed", skew=False)
    seen = draw.world.seen()
    if seen is None:
        return the_size_of_a_seen_forged(rng)
    draw.gateway.window(seen=seen | {"size": seen["size"] + rng.randint(1, 9)})
    return handed_in(draw.close())


# --- 19 a proof too short, too long, or for another tree

kind(19, "merkle.inclusion", "proof.malformed", "base64.malformed")


@mode(19)
def hashes_of_a_proof_changed(rng: random.Random) -> Instance:
    while True:
        draw = base(rng, mode=with_register(rng))
        name = rng.choice(tile_names(draw.members, "register/"))
        hashes = list(proof.parse(draw.members[name], where="").hashes)
        if hashes:
            break
    at = rng.randrange(len(hashes))
    other = rng.choice([
        hashes[:at] + hashes[at + 1:], [*hashes, rng.randbytes(32)], [*hashes[:at], hashes[at], *hashes[at:]],
        [*hashes[:at], flipped(rng, hashes[at]), *hashes[at + 1:]], [*hashes, *(rng.randbytes(32) for _ in range(70))],
        [*hashes[:at], rng.randbytes(31), *hashes[at + 1:]]])
    return handed_in(draw, draw.members | {name: changed_proof(draw.members[name], hashes=tuple(other))})


@mode(19)
def a_proof_of_another_tree(rng: random.Random) -> Instance:
    """The checkpoint of another round above hashes that belong to this one."""
    while True:
        draw = base(rng, mode="witnessed")
        name = rng.choice(tile_names(draw.members, "register/"))
        parsed = proof.parse(draw.members[name], where="")
        sizes = {s: c for s, c in draw.world.rounds if s > parsed.index
                 and tuple(draw.world.tree.inclusion(parsed.index, s)) != parsed.hashes}
        if sizes:
            size = rng.choice(sorted(sizes))
            return handed_in(draw, draw.members | {name: changed_proof(draw.members[name], checkpoint=sizes[size])})


@mode(19)
def the_proof_of_another_entry(rng: random.Random) -> Instance:
    while True:
        draw = base(rng, mode=with_register(rng))
        names = tile_names(draw.members, "register/")
        if len(names) < 2:
            continue
        one, two = rng.sample(names, 2)
        a, b = (proof.parse(draw.members[n], where="") for n in (one, two))
        if a.extra != b.extra and a.hashes != b.hashes:
            return handed_in(draw, draw.members | {one: changed_proof(draw.members[one], hashes=b.hashes)})


