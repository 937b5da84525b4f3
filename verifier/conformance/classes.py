"""Tampering: the 43 classes, what an instance of one is, and how it is judged.

A class has modes: ways to do it, each a function of a seeded `random.Random` that takes an honest gateway and returns
what a cheat would hand in. `causes` lists every code that may name what was done: a fault with another code, or
none at all, is not a detection.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from protocols.errors import TallystickError, VerificationError
from protocols.evidence import entry, jcs, keys, note, policy, proof, tiles
from protocols.evidence.bundle import open_bundle
from protocols.evidence.jcs import parse as parse_json
from verifier.conformance.draw import Draw, honest, lived
from verifier.conformance.world import Gateway, key_of, public, zipped
from verifier.proof import also
from verifier.proof.verify import Verdict, refused, verify

CLASSES = 43

NO_OBJECT: Mapping[int, str] = {
    7: "no envelope: an entry's type is inside the bytes that the tree binds, a signed object's in what is signed",
    15: "no digest of the entry before: the tree binds the order; `life`, which links entries, is in classes 9 and 14",
}
"""Classes that lost what they would change, and why."""

PARTLY: Mapping[int, str] = {
    6: "no object: sorted pseudonyms; rows stand in slot order, and that and the slots are tested",
    38: "no object: tags of devices need not differ; equal ones are one machine, counted once. Points are refused",
    31: "no object: a policy inside the bundle; it is a member that no bundle has, and is tested here",
}
"""Classes of which a part has no object."""

PENDING: Mapping[int, str] = {
    30: "time-stamp tokens", 34: "SM2 and SM3", 36: "a TPM", 37: "a TPM", 43: "SM2 and SM3",
}
"""Classes that need what does not exist yet."""

NAMES: Mapping[int, str] = {
    1: "payload bit", 2: "signature bit", 3: "count changed, wrong key", 4: "roster row altered",
    5: "roster row added or removed", 6: "roster order or uniqueness", 7: "payload type swapped",
    8: "same meaning, other bytes", 9: "entry deleted", 10: "tail truncated", 11: "entries reordered",
    12: "entry duplicated", 13: "entry inserted", 14: "gap", 15: "previous digest", 16: "tile altered",
    17: "entries altered", 18: "index or size forged", 19: "proof too short, long or foreign", 20: "wrong origin",
    21: "root altered", 22: "rollback", 23: "fork", 24: "witness lines", 25: "cosignature moved",
    26: "log key as witness", 27: "back-dated", 28: "future-dated", 29: "nonce", 30: "time-stamp token",
    31: "revoked or unknown key", 32: "foreign key", 33: "algorithm", 34: "SM2 user id", 35: "weak key",
    36: "TPM quote", 37: "NV counter", 38: "pseudonym twice", 39: "tag in two enterprises", 40: "probe replayed",
    41: "level without proof", 42: "sample answers", 43: "two trees",
}

Uncounted = Callable[[Verdict], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """What is put before the verifier.

    uncounted: for a tampering that is no fault, because honest gateways look like it: returns the code that says so
    if what was gained does not count, None if it does. also: file name -> bytes.
    """

    members: Mapping[str, bytes]
    policy: bytes
    anchor: bytes | None = None
    also: Mapping[str, bytes] = field(default_factory=dict)
    uncounted: Uncounted | None = None
    mode: str = ""

    def data(self) -> bytes:
        """Return the bytes of the bundle."""
        return zipped(self.members)

    def key(self) -> tuple[object, ...]:
        """Return what two instances must differ in."""
        return self.data(), self.policy, self.anchor, tuple(sorted(self.also.items()))


@dataclass(frozen=True, slots=True)
class Judgement:
    """faults: codes; refused_before: the policy or a file beside the bundle was refused; uncounted: see Instance."""

    faults: frozenset[str]
    refused_before: frozenset[str] = frozenset()
    uncounted: str | None = None

    @property
    def codes(self) -> frozenset[str]:
        """Every code that refuses the instance."""
        return self.faults | self.refused_before | ({self.uncounted} if self.uncounted else frozenset())


@contextmanager
def beside(files: Mapping[str, bytes]) -> Iterator[also.Also]:
    """Give files as `--also` sorts them, for as long as they are needed. Raises ConfigError."""
    if not files:
        yield also.NOTHING
        return
    with TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in files]
        for path, data in zip(paths, files.values(), strict=True):
            path.write_bytes(data)
        yield also.sort(paths)


def judge_verdict(instance: Instance) -> Verdict:
    """Verify an instance. Raises TallystickError if policy, zip or files beside it are refused before."""
    trusted = policy.parse(instance.policy, where="policy")
    with beside(instance.also) as files:
        return verify(open_bundle(instance.data()), trusted, anchor=instance.anchor, also=files)


def judge(instance: Instance) -> Judgement:
    """Verify an instance and say what refused it."""
    try:
        open_bundle(instance.data())
    except VerificationError as error:
        verdict = refused(error)
    else:
        try:
            verdict = judge_verdict(instance)
        except TallystickError as error:
            return Judgement(frozenset(), frozenset(p.code for p in error.problems))
    faults = frozenset(f.code for f in verdict.findings if f.severity == "fault")
    if verdict.valid == bool(faults):
        raise AssertionError(f"a verdict that contradicts its findings: {sorted(faults)}")
    uncounted = instance.uncounted(verdict) if instance.uncounted is not None and verdict.valid else None
    return Judgement(faults, uncounted=uncounted)


Mode = Callable[[random.Random], Instance]


@dataclass(slots=True)
class Kind:
    """One class: its modes, and the codes that may refuse it (a code that ends in a dot means all that start so)."""

    number: int
    causes: tuple[str, ...]
    modes: list[tuple[str, Mode]] = field(default_factory=list)

    def names(self, code: str) -> bool:
        """Return whether a code is a cause of this class."""
        return any(code.startswith(cause) if cause.endswith(".") else code == cause for cause in self.causes)


KINDS: dict[int, Kind] = {}


def kind(number: int, *causes: str) -> Kind:
    """Open a class, or add causes to it."""
    known = KINDS.setdefault(number, Kind(number, ()))
    known.causes = tuple(dict.fromkeys((*known.causes, *causes)))
    return known


def mode(*numbers: int) -> Callable[[Mode], Mode]:
    """Add a way to do a class."""
    def add(build: Mode) -> Mode:
        for number in numbers:
            KINDS[number].modes.append((build.__name__, build))
        return build
    return add


def make(number: int, seed: str) -> Instance:
    """Return the instance of a class that the seed draws; the modes take turns."""
    modes = KINDS[number].modes
    name, build = modes[int(seed.rsplit("/", 1)[1]) % len(modes)]
    rng = random.Random(f"tamper {seed}")
    built = build(rng)
    return Instance(members=built.members, policy=built.policy, anchor=built.anchor, also=built.also,
                    uncounted=built.uncounted, mode=name)


# --- what the modes are made of


def base(rng: random.Random, **fixed: Any) -> Draw:
    """Return an honest bundle of a gateway whose log is its own to the end (no revocation)."""
    return honest(rng.getrandbits(64), **{"revoke": False, "long": rng.random() < 0.02} | fixed)


def alive(rng: random.Random, **fixed: Any) -> Draw:
    """Return an honest gateway that is not closed yet: what it seals next may be a lie."""
    return lived(rng.getrandbits(64), **{"revoke": False, "long": False} | fixed)


def with_register(rng: random.Random) -> str:
    """Return a mode of plant that has a register."""
    return rng.choice(["witnessed", "witnessed", "witnessed", "unwitnessed"])


def handed_in(draw: Draw, members: Mapping[str, bytes] | None = None, **changes: Any) -> Instance:
    """Return an instance under the draw's own policy and anchor."""
    return Instance(**{"members": draw.members if members is None else members, "policy": draw.policy,
                       "anchor": draw.anchor} | changes)


def flipped(rng: random.Random, data: bytes, *, first: int = 0) -> bytes:
    """Return the bytes with one bit flipped, at or after byte `first`."""
    at = rng.randrange(first, len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:]


def twin(draw: Draw, entries: Sequence[bytes], *, rows: Mapping[int, bytes] | None = None) -> Gateway:
    """Return a gateway of the same name and key with other entries, for its members; the world is the same."""
    old = draw.gateway
    new = Gateway(old.world, old.name, old.uscc, old.lies)
    new.certificate, new.key_name, new.now_s, new.len_s = old.certificate, old.key_name, old.now_s, old.len_s
    new.devices, new.points, new.roster_seq, new.life = old.devices, old.points, old.roster_seq, old.life
    new.rows = dict(old.rows if rows is None else rows)
    for data in entries:
        new.put(data)
    return new


def cut(draw: Draw, size: int) -> Gateway:
    """Return the gateway as it was at this size."""
    new = twin(draw, draw.gateway.entries[:size], rows={s: r for s, r in draw.gateway.rows.items() if s < size})
    new.key_name = draw.key_at(size)
    return new


def log_members(gateway: Gateway, *, checkpoint: bytes | None = None, signer: str | None = None) -> dict[str, bytes]:
    """Return the members of a log without those of the register."""
    members = {n: d for n, d in gateway.members().items() if not n.startswith("register/")}
    return members | {"checkpoint": checkpoint or gateway.checkpoint(signer=signer)}


def register_members(draw: Draw) -> dict[str, bytes]:
    """Return the register members of the honest bundle."""
    return {n: d for n, d in draw.members.items() if n.startswith("register/")}


def swapped_log(draw: Draw, gateway: Gateway, **options: Any) -> Instance:
    """Return the bundle of another log under the register of the honest one.

    A plant without a platform has no register: its checker kept the honest checkpoint.
    """
    members = register_members(draw) | log_members(gateway, **options)
    anchor = draw.anchor
    if draw.mode == "alone":
        anchor = draw.gateway.checkpoint()
    return handed_in(draw, members, anchor=anchor)


def unsigned_log(draw: Draw, gateway: Gateway) -> Instance:
    """Return the bundle of another log under the checkpoint that the honest gateway signed: its key is not held."""
    return swapped_log(draw, gateway, checkpoint=draw.gateway.checkpoint())


def decoded(draw: Draw) -> list[dict[str, Any]]:
    """Return the entries of the log as objects."""
    return [parse_json(data, where="", bytes_max=1 << 20) for data in draw.gateway.entries]


def renumbered(draw: Draw, order: Iterable[int], changes: Mapping[int, Mapping[str, Any]] | None = None) -> Gateway:
    """Return a log with the entries of `order` (old seqs), re-told so that seq, life and roster fit the new places."""
    old, order = decoded(draw), list(order)
    place: dict[int, int] = {}
    for new, seq in enumerate(order):
        place.setdefault(seq, new)
    entries, life = [], -1
    for new, seq in enumerate(order):
        value = {**old[seq], **(changes or {}).get(new, {}), "seq": new, "life": life}
        if value["type"] in ("window", "reads") and value["roster"] in place:
            value["roster"] = max((p for p in (i for i, s in enumerate(order[:new]) if old[s]["type"] == "roster")),
                                  default=place[value["roster"]])
        if value["type"] in entry.LIFE_TYPES:
            life = new
        entries.append(jcs.encode(value))
    rows = {place[s]: r for s, r in draw.gateway.rows.items() if s in place}
    return twin(draw, entries, rows=rows)


def tile_names(members: Mapping[str, bytes], prefix: str) -> list[str]:
    """Return the names that start so, sorted."""
    return sorted(n for n in members if n.startswith(prefix))


def split(members: Mapping[str, bytes], name: str) -> list[bytes]:
    """Return the entries of an entry tile."""
    tile = tiles.parse_path(name)
    assert tile is not None
    return tiles.split_entries(members[name], tile, where=name)


def changed_note(data: bytes, change: Callable[[note.Note], tuple[str, Sequence[note.Signature]]]) -> bytes:
    """Return a note with text and lines changed."""
    return note.format_note(*change(note.parse(data, where="")))


def changed_proof(data: bytes, **changes: Any) -> bytes:
    """Return a tlog-proof with fields changed."""
    parsed = proof.parse(data, where="")
    fields: dict[str, Any] = {"index": parsed.index, "hashes": parsed.hashes, "checkpoint": parsed.checkpoint,
                              "extra": parsed.extra}
    return proof.LogProof(**fields | changes).encode()


def flip_line(rng: random.Random, data: bytes, names: Sequence[str]) -> bytes:
    """Return a note with one bit of the signature (not its key id) of one of `names` flipped."""
    def change(parsed: note.Note) -> tuple[str, list[note.Signature]]:
        which = rng.choice([i for i, s in enumerate(parsed.signatures) if s.name in names])
        line = parsed.signatures[which]
        lines = list(parsed.signatures)
        lines[which] = note.Signature(line.name, line.key_id, flipped(rng, line.blob))
        return parsed.text, lines
    return changed_note(data, change)


def origin(draw: Draw) -> str:
    """Return the origin of the gateway's log."""
    return keys.gateway_origin(draw.gateway.id)


def stranger_signs(draw: Draw, text: str, *, claims: bool) -> bytes:
    """Return a note signed by a thief; `claims`: under the name and key id of the gateway's key."""
    line = note.sign(text, key_of("thief"), name=origin(draw))
    if claims:
        known = note.VerifierKey(origin(draw), note.ED25519, public(draw.gateway.key_name))
        line = note.Signature(line.name, known.key_id, line.blob)
    return note.format_note(text, [line])


def remarked(code: str, holds: Callable[[Verdict], bool] = lambda _: True) -> Uncounted:
    """Return an `uncounted` that wants this remark and `holds`."""
    def look(code: str, verdict: Verdict) -> str | None:
        said = any(f.code == code for f in verdict.findings)
        return code if said and holds(verdict) else None
    return partial(look, code)
