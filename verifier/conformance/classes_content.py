"""Classes 1 to 8: the content of a bundle."""

# ruff: noqa: D103 - the name of a mode says what the cheat does
from __future__ import annotations

import json
import random
from typing import Any

from protocols.evidence import jcs, keys, note, proof, roster, signed, tiles
from protocols.evidence.encoding import from_base64, to_base64
from verifier.conformance.classes import (
    Instance,
    alive,
    base,
    changed_proof,
    decoded,
    flip_line,
    flipped,
    handed_in,
    kind,
    mode,
    origin,
    split,
    stranger_signs,
    swapped_log,
    tile_names,
    twin,
    with_register,
)
from verifier.conformance.draw import Draw
from verifier.conformance.world import OTHER_USCC, device_row, key_of, lines

JSON_CODES = ("json.", "shape.", "hex.malformed", "base64.malformed")

# --- 1 any payload bit

# A `key` entry that cannot be read leaves the checkpoint without a signer: `note.unsigned`.
kind(1, "entry.altered", "tile.entries", "merkle.inclusion", "roster.", "opening.", "note.unsigned", *JSON_CODES)


@mode(1)
def a_bit_of_an_entry_tile(rng: random.Random) -> Instance:
    draw = base(rng)
    name = rng.choice(tile_names(draw.members, "tile/entries/"))
    return handed_in(draw, draw.members | {name: flipped(rng, draw.members[name])})


@mode(1)
def a_bit_of_the_rows(rng: random.Random) -> Instance:
    draw = base(rng)
    name = rng.choice([n for n in tile_names(draw.members, "roster/") if draw.members[n]])
    return handed_in(draw, draw.members | {name: flipped(rng, draw.members[name])})


@mode(1)
def a_bit_of_a_register_entry(rng: random.Random) -> Instance:
    draw = base(rng, mode=with_register(rng))
    name = rng.choice(tile_names(draw.members, "register/"))
    extra = proof.parse(draw.members[name], where="").extra
    return handed_in(draw, draw.members | {name: changed_proof(draw.members[name], extra=flipped(rng, extra))})


@mode(1)
def a_bit_of_an_opening(rng: random.Random) -> Instance:
    draw = base(rng, long=False)
    slot = rng.choice(sorted(draw.privates))
    data = draw.gateway.opening(slot, draw.privates[slot])
    return handed_in(draw, draw.members | {f"openings/{slot}.json": flipped(rng, data)})


@mode(1)
def a_bit_of_a_single_entry(rng: random.Random) -> Instance:
    draw = base(rng, long=True)
    singles = tile_names(draw.members, "entry/")
    name = rng.choice(singles or tile_names(draw.members, "tile/entries/"))
    return handed_in(draw, draw.members | {name: flipped(rng, draw.members[name])})


# --- 2 any signature bit

kind(2, "note.bad_signature", "signed.bad_signature", "seen.bad_signature", "note.unsigned")


@mode(2)
def a_bit_of_the_checkpoint_signature(rng: random.Random) -> Instance:
    draw = base(rng)
    return handed_in(draw, draw.members | {"checkpoint": flip_line(rng, draw.members["checkpoint"], [origin(draw)])})


@mode(2)
def a_bit_of_a_register_signature(rng: random.Random) -> Instance:
    draw = base(rng, mode=with_register(rng))
    name = rng.choice(tile_names(draw.members, "register/"))
    checkpoint = proof.parse(draw.members[name], where="").checkpoint
    witnesses = draw.parsed_policy().quorum.witnesses.values()
    names = ["register.example", *(w.name for w in witnesses)]
    return handed_in(draw, draw.members | {
        name: changed_proof(draw.members[name], checkpoint=flip_line(rng, checkpoint, names))})


@mode(2)
def a_bit_of_a_seen(rng: random.Random) -> Instance:
    while True:
        draw = alive(rng, mode="witnessed")
        seen = draw.world.seen()
        if seen is not None:
            break
    signature = flipped(rng, from_base64(seen["signature"], where=""))
    draw.gateway.window(seen=seen | {"signature": to_base64(signature)})
    return handed_in(draw.close())


@mode(2)
def a_bit_of_a_certificate(rng: random.Random) -> Instance:
    draw = alive(rng, mode="witnessed")
    second = draw.world.gateway("with a broken certificate", enrol=False)
    sig = to_base64(flipped(rng, from_base64(second.certificate["sig"], where="")))
    draw.world.add({"type": "enrol", "certificate": second.certificate | {"sig": sig}}, second.uscc)
    draw.sealed()
    return handed_in(draw.close())


@mode(2)
def a_bit_of_a_rotation(rng: random.Random) -> Instance:
    draw = alive(rng)
    gateway = draw.gateway
    seq = len(gateway.entries)
    rotation = signed.sign("rotation", {"gateway": gateway.id, "seq": seq, "root": gateway.tree.root().hex(),
                                        "new_key": keys.public_bytes(key_of("next")).hex()}, key_of(gateway.key_name))
    sig = to_base64(flipped(rng, from_base64(rotation["sig"], where="")))
    gateway.add("key", rotation=rotation | {"sig": sig})
    gateway.key_name = "next"
    draw.sealed()
    return handed_in(draw.close())


@mode(2)
def a_bit_of_the_anchor(rng: random.Random) -> Instance:
    draw = base(rng)
    anchor = draw.gateway.checkpoint()
    return handed_in(draw, anchor=flip_line(rng, anchor, [origin(draw)]))


# --- 3 count changed and signed by a wrong key

kind(3, "note.unsigned", "note.bad_signature", "signed.wrong_signer")


def _more(rng: random.Random, draw: Draw) -> list[bytes]:
    """Return the entries with one window that shows more than was there."""
    values = decoded(draw)
    window = rng.choice([v for v in values if v["type"] == "window" and "start_s" in v])
    more = rng.randrange(1, 10_000)
    window["samples"] |= {"received": window["samples"]["received"] + more,
                          "counted": window["samples"]["counted"] + more}
    return [jcs.encode(v) if v is window else e for v, e in zip(values, draw.gateway.entries, strict=True)]


@mode(3)
def more_signed_by_a_thief(rng: random.Random) -> Instance:
    draw = base(rng)
    return swapped_log(draw, twin(draw, _more(rng, draw)), signer="thief")


@mode(3)
def more_signed_by_a_thief_under_the_name_of_the_key(rng: random.Random) -> Instance:
    draw = base(rng)
    new = twin(draw, _more(rng, draw))
    text = note.parse(new.checkpoint(), where="").text
    return swapped_log(draw, new, checkpoint=stranger_signs(draw, text, claims=True))


@mode(3)
def more_signed_by_another_gateway(rng: random.Random) -> Instance:
    draw = alive(rng, mode="witnessed")
    draw.world.gateway("accomplice")
    draw.close()
    return swapped_log(draw, twin(draw, _more(rng, draw)), signer="accomplice")


@mode(3)
def more_signed_by_the_platform(rng: random.Random) -> Instance:
    draw = base(rng)
    return swapped_log(draw, twin(draw, _more(rng, draw)), signer=rng.choice(["platform", "register", "bureau"]))


@mode(3)
def more_with_a_key_that_the_thief_gave_himself(rng: random.Random) -> Instance:
    draw = base(rng)
    new = twin(draw, _more(rng, draw))
    new.life = draw.gateway.life
    new.rotate("thief", signer="thief")
    return swapped_log(draw, new)


# --- 4, 5, 6 rows of the roster

kind(4, "roster.", "entry.altered", "opening.", "shape.", "head.differs")
kind(5, "roster.", "entry.altered", "head.differs")
kind(6, "roster.")


def _rows(rng: random.Random, draw: Draw) -> tuple[str, list[dict[str, Any]]]:
    names = [n for n in tile_names(draw.members, "roster/") if draw.members[n]]
    name = rng.choice(names)
    return name, [json.loads(line) for line in draw.members[name].splitlines()]


def _other(rng: random.Random, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with one field changed to another value that rows may have."""
    if "point" in row:
        changes: list[dict[str, Any]] = [{"role": "switch" if row["role"] != "switch" else "constant"},
                                         {"addr": rng.randbytes(32).hex()}, {"base": rng.randbytes(32).hex()},
                                         {"state": "gone" if row["state"] == "alive" else "alive"},
                                         {"protocol": "mqtt" if row["protocol"] != "mqtt" else "opc_ua"}]
    else:
        changes = [{"class": f"class_{rng.randrange(10**6)}"}, {"kind": rng.randbytes(32).hex()},
                   {"private_sha256": rng.randbytes(32).hex()}, {"uscc": OTHER_USCC},
                   {"energy": not row["energy"]}, {"state": "gone" if row["state"] == "alive" else "alive"},
                   {"tags": [] if row["tags"] else [{"scheme": "vaa", "tag": rng.randbytes(32).hex()}]},
                   {"thing": "equipment" if row["thing"] != "equipment" else "product"},
                   {"server": {"spki_sha256": rng.randbytes(32).hex(), "via": None}}]
    return row | rng.choice(changes)


@mode(4)
def a_row_altered(rng: random.Random) -> Instance:
    draw = base(rng)
    name, rows = _rows(rng, draw)
    at = rng.randrange(len(rows))
    rows[at] = _other(rng, rows[at])
    return handed_in(draw, draw.members | {name: lines(rows)})


def _reroot(draw: Draw, name: str, rows: list[dict[str, Any]]) -> list[bytes]:
    """Return the entries with the roots and numbers of a roster entry made to fit these rows of a first roster."""
    seq = int(name.removeprefix("roster/").removesuffix(".jsonl"))
    values = decoded(draw)
    devices, points = [r for r in rows if "slot" in r], [r for r in rows if "point" in r]
    values[seq] |= {"devices_root": roster.rows_root(devices), "points_root": roster.rows_root(points),
                    "devices": len(devices), "points": len(points)}
    return [jcs.encode(v) if i == seq else e for i, (v, e) in enumerate(zip(values, draw.gateway.entries,
                                                                           strict=True))]


def _first(draw: Draw) -> tuple[str, list[dict[str, Any]]]:
    name = min(tile_names(draw.members, "roster/"), key=lambda n: int(n[7:-6]))
    return name, [json.loads(line) for line in draw.members[name].splitlines()]


@mode(4)
def a_row_and_the_root_altered_by_an_outsider(rng: random.Random) -> Instance:
    draw = base(rng, long=False)
    name, rows = _first(draw)
    at = rng.randrange(len(rows))
    rows[at] = _other(rng, rows[at])
    entries = _reroot(draw, name, rows)
    tile = tile_names(draw.members, "tile/entries/")[0]
    return handed_in(draw, draw.members | {name: lines(rows), tile: tiles.join_entries(entries)})


@mode(4)
def a_row_and_the_root_altered_by_the_owner(rng: random.Random) -> Instance:
    draw = base(rng, long=False)
    name, rows = _first(draw)
    at = rng.randrange(len(rows))
    rows[at] = _other(rng, rows[at])
    made = swapped_log(draw, twin(draw, _reroot(draw, name, rows)))
    return handed_in(draw, {**made.members, name: lines(rows)}, anchor=made.anchor)


@mode(5)
def a_row_removed(rng: random.Random) -> Instance:
    draw = base(rng)
    name, rows = _rows(rng, draw)
    del rows[rng.randrange(len(rows))]
    return handed_in(draw, draw.members | {name: lines(rows)})


@mode(5)
def a_row_added(rng: random.Random) -> Instance:
    draw = base(rng)
    name, rows = _rows(rng, draw)
    slots = [r["slot"] for r in rows if "slot" in r]
    new = device_row(max(slots, default=-1) + 1, name=f"phantom {rng.random()}")
    return handed_in(draw, draw.members | {name: lines([*rows[:len(slots)], new, *rows[len(slots):]])})


@mode(5)
def a_row_added_with_its_root_by_the_owner(rng: random.Random) -> Instance:
    draw = base(rng, long=False)
    name, rows = _first(draw)
    slots = [r["slot"] for r in rows if "slot" in r]
    rows.insert(len(slots), device_row(len(slots), name=f"phantom {rng.random()}"))
    made = swapped_log(draw, twin(draw, _reroot(draw, name, rows)))
    return handed_in(draw, {**made.members, name: lines(rows)}, anchor=made.anchor)


def _several(rng: random.Random) -> tuple[Draw, str, list[dict[str, Any]]]:
    while True:
        draw = base(rng)
        name, rows = _rows(rng, draw)
        if len(rows) > 1:
            return draw, name, rows


@mode(6)
def rows_swapped(rng: random.Random) -> Instance:
    draw, name, rows = _several(rng)
    a, b = rng.sample(range(len(rows)), 2)
    rows[a], rows[b] = rows[b], rows[a]
    return handed_in(draw, draw.members | {name: lines(rows)})


@mode(6)
def a_slot_twice(rng: random.Random) -> Instance:
    draw = base(rng)
    name, rows = _rows(rng, draw)
    at = rng.randrange(len(rows))
    rows.insert(at, rows[at] if rng.random() < 0.5 else _other(rng, rows[at]))
    return handed_in(draw, draw.members | {name: lines(rows)})


@mode(6)
def a_slot_that_jumps_sealed_by_the_owner(rng: random.Random) -> Instance:
    """Slots are gapless: the owner seals a roster whose rows leave one out."""
    draw = alive(rng)
    gateway = draw.gateway
    new = device_row(len(gateway.devices) + rng.randint(1, 5), name=f"far {rng.random()}")
    online = [d["slot"] for d in gateway.devices if d["state"] == "alive"]
    gateway.roster([*gateway.devices, new], gateway.points)
    draw.sealed(connected=online)
    return handed_in(draw.close())


# --- 8 the same meaning in other bytes

kind(8, "json.", "base64.malformed", "hex.malformed", "shape.", "entry.altered", "checkpoint.malformed",
     "merkle.inclusion", "proof.malformed", "note.malformed", "note.bad_signature", "opening.", "tile.entries",
     "roster.lines", "roster.root", "note.unsigned")


def _spelled(rng: random.Random, data: bytes) -> bytes:
    """Return a JSON object with the same meaning in other bytes."""
    value = json.loads(data)
    first, text = next(iter(value)), data.decode()
    other = {
        "space": lambda: text.replace('":', '": ', 1 + rng.randrange(3)),
        "order": lambda: json.dumps(dict(reversed(value.items())), separators=(",", ":"), ensure_ascii=False),
        "escape": lambda: text.replace(f'"{first}"', f'"\\u{ord(first[0]):04x}{first[1:]}"', 1),
        "newline": lambda: text + "\n",
        "doubled": lambda: "{" + f'"{first}":{json.dumps(value[first])},' + text[1:],
        "float": lambda: next((text.replace(f'"{k}":{v}', f'"{k}":{v}.0', 1) for k, v in value.items()
                               if type(v) is int), text + " "),
        "bom": lambda: "\ufeff" + text,
    }
    return other[rng.choice(sorted(other))]().encode()


@mode(8)
def an_entry_spelled_otherwise_by_an_outsider(rng: random.Random) -> Instance:
    draw = base(rng)
    name = rng.choice(tile_names(draw.members, "tile/entries/"))
    entries = split(draw.members, name)
    at = rng.randrange(len(entries))
    entries[at] = _spelled(rng, entries[at])
    return handed_in(draw, draw.members | {name: tiles.join_entries(entries)})


@mode(8)
def an_entry_spelled_otherwise_by_the_owner(rng: random.Random) -> Instance:
    """Signed, in its place, under the right root: only its bytes are not canonical."""
    draw = alive(rng)
    gateway = draw.gateway
    draw.sealed()
    twice = twin(draw, [*gateway.entries[:-1], _spelled(rng, gateway.entries[-1])])
    gateway.entries, gateway.tree = twice.entries, twice.tree
    draw.sealed()
    return handed_in(draw.close())


@mode(8)
def a_row_spelled_otherwise(rng: random.Random) -> Instance:
    draw = base(rng)
    name = rng.choice([n for n in tile_names(draw.members, "roster/") if draw.members[n]])
    rows = draw.members[name].split(b"\n")
    at = rng.randrange(len(rows) - 1)
    rows[at] = _spelled(rng, rows[at])
    return handed_in(draw, draw.members | {name: b"\n".join(rows)})


@mode(8)
def an_opening_spelled_otherwise(rng: random.Random) -> Instance:
    draw = base(rng, long=False)
    slot = rng.choice(sorted(draw.privates))
    data = _spelled(rng, draw.gateway.opening(slot, draw.privates[slot]))
    return handed_in(draw, draw.members | {f"openings/{slot}.json": data})


@mode(8)
def a_checkpoint_spelled_otherwise(rng: random.Random) -> Instance:
    draw = base(rng)
    data = draw.members["checkpoint"]
    head, _, tail = data.partition(b"\n\n")
    name, size, root = head.split(b"\n")
    spelled = [data.replace(b"\n" + size + b"\n", b"\n0" + size + b"\n", 1), data.replace(root, root[:-1], 1),
               data.replace(root, root[:-2] + bytes([root[-2] + 1]) + root[-1:], 1), data.replace(b"\n", b"\r\n"),
               data.replace(size, b"+" + size, 1), head + b"\n\n\n" + tail, data + b"\n", data[:-1],
               b"\n".join([name, size, root, b"extension"]) + b"\n\n" + tail]
    return handed_in(draw, draw.members | {"checkpoint": rng.choice(spelled)})
