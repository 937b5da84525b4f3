"""Classes 40 and 41, and what classes 29, 33 and 35 have to do with probes: step 10."""

# ruff: noqa: D103 - the name of a mode says what the cheat does
from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from protocols.evidence import jcs, keys, note
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.encoding import from_base64, to_base64
from verifier.conformance import servers
from verifier.conformance.classes import Instance, Uncounted, alive, flipped, handed_in, kind, mode
from verifier.conformance.draw import DAY_S, SERVERS, Draw
from verifier.conformance.servers import AES128, AES256, BASIC
from verifier.conformance.world import REGISTER, device_row, key_of, point_row, private_part, public
from verifier.proof.verify import Verdict

NOT_GRANTED = "level not granted"
"""No finding: the level is computed, and what was claimed is not in the figure."""

kind(29, "probe.", "reads.", "seen.split_view")
kind(33, "probe.signature")
kind(35, "probe.weak_key")
kind(40, "probe.", "reads.", "seen.split_view")
kind(41, "signed.bad_signature", "signed.wrong_signer", "chain.", "register.unknown_signer", NOT_GRANTED)


def _behind(rng: random.Random, *, devices: int = 1, name: str | None = None) -> tuple[Draw, str, list[int]]:
    """Return a gateway with new devices behind one server, a fresh `seen`, the server's name and the slots."""
    while True:
        draw = alive(rng, mode="witnessed", skew=False, servers=False)
        if draw.world.independent:
            break
    gateway, world = draw.gateway, draw.world
    draw.is_offline = False
    name = name or rng.choice(SERVERS)
    first = len(gateway.devices)
    rows = []
    for i in range(devices):
        private = private_part(f"{rng.random()}", maker="M", model="X", serial=f"S-{rng.random()}")
        draw.privates[first + i] = private
        rows.append(device_row(first + i, private=private, server=servers.server(name, via=first if i else None)))
    points = [point_row(len(gateway.points) + i, first + i, gateway.id, protocol="opc_ua") for i in range(devices)]
    gateway.roster([*gateway.devices, *rows], [*gateway.points, *points])
    draw.skew_s = min(0, gateway.now_s - world.time_s)
    world.round(time_s=max(world.time_s + 1, draw.true_s + 1))
    draw.sealed()
    return draw, name, list(range(first, first + devices))


def _then(draw: Draw) -> Instance:
    draw.sealed()
    return handed_in(draw.close())


@mode(40, 29)
def an_answer_shown_again_under_a_newer_nonce(rng: random.Random) -> Instance:
    draw, name, _ = _behind(rng)
    old = servers.probe_fields(draw.gateway, name, rng.choice([BASIC, AES128, AES256]))
    draw.world.round(time_s=max(draw.world.time_s + 1, draw.true_s + rng.randrange(1, 50)))
    draw.gateway.add("probe", **old | {"seen": draw.world.seen()})
    return _then(draw)


@mode(40)
def an_answer_of_another_window(rng: random.Random) -> Instance:
    draw, name, _ = _behind(rng)
    gateway = draw.gateway
    away = gateway.len_s * rng.choice([-1, 1, -rng.randint(3, 500), rng.randint(3, 500)])
    if rng.random() < 0.5:  # c is of the other window, the entry says this one
        servers.seal_probe(gateway, name, challenged={"start_s": max(0, gateway.now_s + away)})
    else:  # the entry says the other window too: too far from where it stands
        servers.seal_probe(gateway, name, start_s=max(0, gateway.now_s + gateway.len_s * rng.choice([-900, 900])
                                                      - gateway.len_s * rng.randrange(99)))
    return _then(draw)


@mode(40, 29)
def an_answer_that_another_gateway_got(rng: random.Random) -> Instance:
    draw, name, _ = _behind(rng)
    other = f"other gateway {rng.randrange(10**6)}"
    lies: dict[str, Any] = {"challenged": {"gateway_spki": keys.spki(public(other))}}
    if rng.random() < 0.5:  # with her certificate too, so that answer and certificate fit each other
        lies["certificate"] = servers.client_certificate(keys.gateway_id(public(other)))
    servers.seal_probe(draw.gateway, name, rng.choice([BASIC, AES256]), **lies)
    return _then(draw)


@mode(40)
def an_answer_of_another_server(rng: random.Random) -> Instance:
    draw, name, _ = _behind(rng)
    other = rng.choice([n for n in SERVERS if n != name])
    lies: dict[str, Any] = rng.choice([{"signer": other}, {"challenged": {"server_spki": servers.spki(other)}}])
    servers.seal_probe(draw.gateway, name, rng.choice([BASIC, AES128, AES256]), **lies)
    return _then(draw)


@mode(40)
def an_answer_with_a_bit_turned(rng: random.Random) -> Instance:
    draw, name, _ = _behind(rng)
    fields = servers.probe_fields(draw.gateway, name, rng.choice([BASIC, AES256]))
    what = rng.choice(["signature", "c"])
    if what == "c":
        fields["c"] = flipped(rng, bytes.fromhex(fields["c"])).hex()
    else:
        fields[what] = to_base64(flipped(rng, from_base64(fields[what], where="")))
    draw.gateway.add("probe", **fields)
    return _then(draw)


@mode(40, 29)
def reads_drawn_from_a_nonce_that_nobody_signed(rng: random.Random) -> Instance:
    draw, _, _ = _behind(rng)
    seen = draw.world.seen()
    assert seen is not None
    later = {"time_s": seen["time_s"] + rng.randint(1, 99)}
    servers.seal_reads(draw.gateway, count=rng.randrange(9), seen=seen | later)
    return _then(draw)


@mode(40)
def a_transcript_that_is_another_one(rng: random.Random) -> Instance:
    draw, _, _ = _behind(rng)
    gateway = draw.gateway
    gateway.roster(gateway.devices, [*gateway.points, point_row(len(gateway.points), gateway.devices[-1]["slot"],
                                                                gateway.id)])
    _, transcript = servers.seal_reads(gateway, count=rng.randint(2, 9))
    rows = [dict(row) for row in transcript["rows"]]
    at = rng.randrange(len(rows))
    rows[at] |= rng.choice([{"value": str(rng.random())}, {"at_ms": rows[at]["at_ms"] ^ 1},
                            {"answered_ms": rows[at]["answered_ms"] + rng.randint(1, 99)}])
    if rng.random() < 0.2:
        del rows[at]
    draw.sealed()
    return handed_in(draw.close(), also={"reads.json": jcs.encode(transcript | {"rows": rows})})


@mode(40, 29)
def a_probe_whose_nonce_is_of_another_register(rng: random.Random) -> Instance:
    draw, name, _ = _behind(rng)
    seen = draw.world.seen()
    assert seen is not None
    root = rng.randbytes(32)
    text = Checkpoint(rng.choice([REGISTER, f"register{rng.randrange(999)}.example"]), seen["size"], root).text
    signature = key_of(seen["witness"]).sign(note.cosigned_message(text, seen["time_s"]))
    servers.seal_probe(draw.gateway, name, seen=seen | {"root": root.hex(), "signature": to_base64(signature)})
    return _then(draw)


@mode(33)
def an_answer_in_another_algorithm(rng: random.Random) -> Instance:
    """The policy decides how the answer is checked: PKCS#1 v1.5 under a PSS policy, and the other way round."""
    draw, name, _ = _behind(rng)
    one, other = rng.choice([(BASIC, AES256), (AES256, BASIC), (AES128, AES256), (AES256, AES128)])
    draw.gateway.add("probe", **servers.probe_fields(draw.gateway, name, one) | {"policy_uri": other})
    return _then(draw)


@mode(35)
def a_server_key_too_short(rng: random.Random) -> Instance:
    draw, name, _ = _behind(rng)
    servers.seal_probe(draw.gateway, name, rng.choice([BASIC, AES128]), bits=1024)
    return _then(draw)


# --- 41 a level claimed without its proof


def _at_most(level: int, slots: list[int], code: str = NOT_GRANTED, *, devices: int = 0) -> Uncounted:
    """Return a check that at most `devices` (by default none) are above `level`."""
    def look(verdict: Verdict) -> str | None:
        known = verdict.summary.levels
        if known is None or not slots:
            return None
        above = sum(count for at, count in known.devices.items() if at > level)
        said = code == NOT_GRANTED or any(f.code == code for f in verdict.findings)
        return code if above <= devices and said else None
    return look


@mode(41)
def attested_by_a_stranger(rng: random.Random) -> Instance:
    draw, name, slots = _behind(rng)
    servers.seal_probe(draw.gateway, name)
    servers.attest(draw.world, draw.gateway, slots[0], name, signer=rng.choice(["thief", "platform", "auditor"]))
    draw.sealed()
    return handed_in(draw.close(), uncounted=_at_most(1, slots, "register.unknown_signer"))


@mode(41)
def an_attestation_changed_after_signing(rng: random.Random) -> Instance:
    draw, name, slots = _behind(rng, devices=2)
    world, gateway = draw.world, draw.gateway
    servers.seal_probe(gateway, name)
    last = dict(world.last)
    entries, tree = list(world.entries), world.tree
    index = servers.attest(world, gateway, slots[0], name)
    signature = json.loads(world.entries[index])["attestation"]["sig"]
    world.entries, world.last = entries, last
    world.tree = type(tree)(tree.leaf(i) for i in range(len(entries)))
    servers.attest(world, gateway, slots[1], name, sig=signature)
    return _then(draw)


@mode(41)
def attested_for_other_tags_or_another_key(rng: random.Random) -> Instance:
    draw, name, slots = _behind(rng)
    servers.seal_probe(draw.gateway, name)
    other = rng.choice([n for n in SERVERS if n != name])
    if rng.random() < 0.5:
        servers.attest(draw.world, draw.gateway, slots[0], other)
    else:
        servers.attest(draw.world, draw.gateway, slots[0], name, tags=[
            {"scheme": "serial", "tag": rng.randbytes(32).hex()}])
    draw.sealed()
    return handed_in(draw.close(), uncounted=_at_most(1, slots))


@mode(41)
def attested_but_never_probed(rng: random.Random) -> Instance:
    draw, name, slots = _behind(rng)
    servers.attest(draw.world, draw.gateway, slots[0], name)
    draw.sealed()
    return handed_in(draw.close(), uncounted=_at_most(0, slots))


@mode(41)
def probed_long_ago(rng: random.Random) -> Instance:
    """An answer of the day before yesterday says nothing of today."""
    draw, name, slots = _behind(rng)
    gateway = draw.gateway
    servers.seal_probe(gateway, name)
    servers.attest(draw.world, gateway, slots[0], name)
    draw.sealed()
    gateway.outage(gateway.now_s + rng.randint(2, 9) * DAY_S, "off")
    draw.sealed()
    return handed_in(draw.close(), uncounted=_at_most(0, slots))


@mode(41)
def two_machines_attested_behind_one_key(rng: random.Random) -> Instance:
    draw, name, slots = _behind(rng, devices=rng.randint(2, 4))
    servers.seal_probe(draw.gateway, name)
    for slot in slots:
        servers.attest(draw.world, draw.gateway, slot, name)
    draw.sealed()
    return handed_in(draw.close(), uncounted=_at_most(1, slots, devices=1))


def _chained(rng: random.Random, lie: Callable[[Draw, str, int], dict[str, Any]], look: bool) -> Instance:
    draw, name, slots = _behind(rng)
    servers.seal_probe(draw.gateway, name)
    draw.sealed()
    chain = jcs.encode(lie(draw, name, slots[0]))
    draw.close()
    members = draw.gateway.members() | {
        f"openings/{slots[0]}.json": draw.gateway.opening(slots[0], draw.privates[slots[0]])}
    return handed_in(draw, members, also={"chain.json": chain}, uncounted=_at_most(1, slots) if look else None)


@mode(41)
def a_chain_that_is_not_signed_or_of_another_server(rng: random.Random) -> Instance:
    def lie(draw: Draw, name: str, slot: int) -> dict[str, Any]:
        serial = draw.privates[slot]["serial"]
        if rng.random() < 0.5:
            other = rng.choice([n for n in SERVERS if n != name])
            return servers.chain(draw.gateway, other, serial=serial,
                                 spki_sha256=servers.server(name)["spki_sha256"])
        return servers.chain(draw.gateway, name, serial=serial, through=rng.choice([("line",), ("line", "hall")]),
                             leaf={"signer": key_of(f"friend {rng.random()}")})
    return _chained(rng, lie, look=False)


@mode(41)
def a_chain_of_another_maker_or_machine(rng: random.Random) -> Instance:
    def lie(draw: Draw, name: str, slot: int) -> dict[str, Any]:
        if rng.random() < 0.5:
            return servers.chain(draw.gateway, name, serial=draw.privates[slot]["serial"],
                                 maker=f"garage {rng.randrange(10**6)}")
        return servers.chain(draw.gateway, name, serial=f"S-{rng.random()}")
    return _chained(rng, lie, look=True)
