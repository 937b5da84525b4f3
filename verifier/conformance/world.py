"""Small real logs, registers and bundles, made with nothing but `protocols.evidence`. Keys are fixed by their names.

    world = World()                       # platform, register and two witnesses; policy knows them all
    plant = world.gateway("press shop")   # enrolled in the register
    plant.begin(); plant.roster(...); plant.window(...)
    world.round()                         # heads into the register, co-signed
    members = plant.members()             # what a bundle holds, README left out

Every step can be told to lie, so that tests can build what a cheat with the right keys could build.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.evidence import column, entry, jcs, keys, merkle, note, proof, register, roster, signed, tiles
from protocols.evidence.bundle import README
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.encoding import to_base64
from protocols.evidence.policy import Policy, parse
from protocols.terms.uscc import check_character
from protocols.terms.vocabulary import DISCARD_REASONS

START_S = 1_790_000_040  # a multiple of 60
USCC = "91320000MA1XYRAB3" + check_character("91320000MA1XYRAB3")
OTHER_USCC = "91320000MA1XYRAB4" + check_character("91320000MA1XYRAB4")
REGISTER = "register.example"
K = hashlib.sha256(b"K of the enterprise").digest()


@lru_cache(maxsize=256)
def key_of(name: str) -> Ed25519PrivateKey:
    """Return the private key of this name, always the same."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"fixture " + name.encode()).digest())


@lru_cache(maxsize=256)
def public(name: str) -> bytes:
    """Return the raw public key of this name."""
    return keys.public_bytes(key_of(name))


def private_part(name: str, **fields: str) -> dict[str, Any]:
    """Return the private part of a device row."""
    ids = {n: fields.pop(n, "") for n in ("product_instance_uri", "vaa", "handle", "mac", "unit")}
    return {"blind": hashlib.sha256(name.encode()).hexdigest()[:32], "name": name, "maker": "", "model": "",
            "serial": "", "asset": "", **fields, "identifiers": ids}


def device_row(slot: int, name: str | None = None, *, private: Mapping[str, Any] | None = None, k: bytes = K,
               **fields: Any) -> dict[str, Any]:
    """Return the public row of a device; its tags come from its private part, keyed with its enterprise's K."""
    private = private or private_part(name or f"device {slot}", maker="Maker", model="M-1", serial=f"S-{slot}")
    tags = [{"scheme": s, "tag": roster.keyed_tag(k, s, v)} for s, v in sorted(roster.tag_values(private).items())]
    return {"slot": slot, "state": "alive", "replaces": None, "parent": None, "thing": "equipment",
            "class": "machine_tool", "industry": "3421", "uscc": USCC, "region": "320100", "deployment": "private",
            "energy": True, "kind": roster.kind(private["maker"], private["model"]), "tags": tags, "dup_tags": [],
            "id_basis": "read", "server": {"spki_sha256": None, "via": None},
            "private_sha256": roster.private_sha256(private)} | fields


def point_row(point: int, device: int, gateway: str, *, address: str | None = None, base: str | None = None,
              k: bytes = K, **fields: Any) -> dict[str, Any]:
    """Return the public row of a point."""
    address = address or f"{device + 1}/holding/{point}/uint16"
    addr, base_tag = roster.point_tags(k, gateway, device, address, base or address.rsplit("/", 1)[0])
    return {"point": point, "device": device, "state": "alive", "protocol": "modbus_tcp", "role": "parameter",
            "type": "uint16", "addr": addr, "base": base_tag} | fields


@dataclass
class World:
    """Platform, register and witnesses. `bureau` is independent, `vendor` is not; the quorum is all of them.

    groups: tlog-policy lines instead of the one group; `quorum` then names one of them. late_s: how many seconds after
    a round's time a witness co-signs.
    """

    witnesses: Sequence[str] = ("bureau", "vendor")
    independent: Sequence[str] = ("bureau",)
    quorum: str | None = None
    groups: Sequence[str] = ()
    late_s: Mapping[str, int] = field(default_factory=dict)
    entries: list[bytes] = field(default_factory=list)
    tree: merkle.Tree = field(default_factory=merkle.Tree)
    last: dict[str, int] = field(default_factory=dict)
    time_s: int = START_S - 60
    rounds: list[tuple[int, bytes]] = field(default_factory=list)
    """(size, co-signed checkpoint), one for each round."""
    gateways: list[Gateway] = field(default_factory=list)
    newest: tuple[int, int, tuple[str, ...]] | None = None
    """(size, time_s, witnesses) of the newest round that an independent witness co-signed."""

    def policy_json(self, **changes: Any) -> bytes:
        """Return a policy file that knows everybody."""
        names = " ".join(self.witnesses)
        lines = [f"log {self.vkey()}"]
        lines += [f"witness {w} {note.VerifierKey(f'{w}.example', note.COSIGNATURE_V1, public(w))}"
                  for w in self.witnesses]
        lines += [*(self.groups or [f"group everyone all {names}"]), f"quorum {self.quorum or 'everyone'}"] \
            if self.witnesses else ["quorum none"]
        return json.dumps({
            "register": self.vkey(), "platform": public("platform").hex(), "witnesses": "\n".join(lines),
            "independent": [w for w in self.independent if w in self.witnesses],
            "supervisors": [public("supervisor").hex()], "auditors": [public("auditor").hex()]} | changes).encode()

    def policy(self, **changes: Any) -> Policy:
        """Return the parsed policy."""
        return parse(self.policy_json(**changes), where="policy")

    def vkey(self) -> str:
        """Return the register's verifier key."""
        return str(note.VerifierKey(REGISTER, note.ED25519, public("register")))

    def gateway(self, name: str = "gateway", *, uscc: str = USCC, enrol: bool = True, k: bytes = K,
                **certificate: Any) -> Gateway:
        """Return a new gateway, enrolled unless told otherwise. k: the secret of its enterprise."""
        gateway = Gateway(self, name, uscc, certificate, k=k)
        self.gateways.append(gateway)
        if enrol:
            self.add({"type": "enrol", "certificate": gateway.certificate}, uscc)
        return gateway

    def add(self, value: Mapping[str, Any], uscc: str = USCC, *, last: int | None = None) -> int:
        """Append a register entry; `last` is set unless a lie is given. Returns its index."""
        index = len(self.entries)
        whole: dict[str, Any] = {"last": self.last.get(uscc, -1) if last is None else last, **value}
        data = register.encode(whole) if value["type"] in register.SHAPES else jcs.encode(whole)
        self.entries.append(data)
        self.tree.append(merkle.leaf_hash(data))
        if value["type"] != "head":
            self.last[uscc] = index
        return index

    def round(self, *, time_s: int | None = None, heads: bool = True, by: Sequence[str] | None = None) -> None:
        """Put every gateway's head into the register and have the register co-signed at `time_s`, by all witnesses."""
        for gateway in self.gateways if heads else ():
            if gateway.entries:
                self.add({"type": "head", "gateway": gateway.id, "size": len(gateway.entries),
                          "root": gateway.tree.root().hex()}, gateway.uscc)
        self.time_s = self.time_s + 10 if time_s is None else time_s
        size, by = len(self.entries), tuple(self.witnesses if by is None else by)
        self.rounds.append((size, self.cosigned(size, time_s=self.time_s, by=by)))
        if set(by) & set(self.independent):
            self.newest = (size, self.time_s, by)

    def cosigned(self, size: int, *, time_s: int, root: bytes | None = None, by: Sequence[str] | None = None,
                 signer: str = "register", origin: str = REGISTER) -> bytes:
        """Return a register checkpoint with cosignatures."""
        text = Checkpoint(origin, size, root or self.tree.root(size)).text
        lines = [note.sign(text, key_of(signer), name=origin)]
        lines += [note.cosign(text, key_of(w), name=f"{w}.example", time_s=time_s + self.late_s.get(w, 0))
                  for w in (self.witnesses if by is None else by)]
        return note.format_note(text, lines)

    def seen(self, *, witness: str | None = None) -> dict[str, Any] | None:
        """Return the `seen` of a window sealed now: what an independent witness co-signed last."""
        if self.newest is None:
            return None
        size, time_s, by = self.newest
        witness = witness or next(w for w in by if w in self.independent)
        time_s += self.late_s.get(witness, 0)
        text = Checkpoint(REGISTER, size, self.tree.root(size)).text
        signature = key_of(witness).sign(note.cosigned_message(text, time_s))
        return {"size": size, "root": self.tree.root(size).hex(), "witness": witness, "time_s": time_s,
                "signature": to_base64(signature)}

    def proof(self, index: int, *, checkpoint: bytes | None = None, size: int | None = None) -> bytes:
        """Return the tlog-proof of a register entry under the earliest co-signed checkpoint that includes it."""
        if checkpoint is None:
            size, checkpoint = next((s, c) for s, c in self.rounds if s > index)
        assert size is not None
        return proof.LogProof(index, tuple(self.tree.inclusion(index, size)), checkpoint,
                              self.entries[index]).encode()

    def revoked_from(self, gateway: Gateway) -> int | None:
        """Return the smallest `from_size` of the gateway's revocations in the register, None if there is none."""
        return min((value["revocation"]["from_size"] for value in map(json.loads, self.entries)
                    if value["type"] == "revoke" and value["revocation"]["gateway"] == gateway.id), default=None)

    def proofs_for(self, gateway: Gateway) -> dict[str, bytes]:
        """Return register members: all heads of the gateway, and every entry that is no head about its enterprise."""
        covered = self.rounds[-1][0] if self.rounds else 0
        result = {}
        for index, data in enumerate(self.entries[:covered]):
            value = json.loads(data)
            about = register.gateway_of(value)
            family = {g.id for g in self.gateways if g.uscc == gateway.uscc}
            if value["type"] == "head" and about != gateway.id:
                continue
            if value["type"] == "enrol" and value["certificate"]["uscc"] != gateway.uscc:
                continue
            if about is not None and about not in family:
                continue
            result[f"register/{index}.proof"] = self.proof(index)
        return result


@dataclass
class Gateway:
    """One gateway and its log. `window` takes sets of slots; `entries` may be rewritten before `seal`."""

    world: World
    name: str
    uscc: str
    lies: Mapping[str, Any]
    k: bytes = field(default=K, kw_only=True)
    entries: list[bytes] = field(default_factory=list)
    tree: merkle.Tree = field(default_factory=merkle.Tree)
    life: int = -1
    rows: dict[int, bytes] = field(default_factory=dict)
    devices: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    roster_seq: int = -1
    now_s: int = START_S
    len_s: int = 60
    key_name: str = ""

    def __post_init__(self) -> None:
        self.key_name = self.name
        self.id = keys.gateway_id(public(self.name))
        fields = {"gateway_key": public(self.name).hex(), "uscc": self.uscc, "site": self.name,
                  "token_sha256": hashlib.sha256(b"token").hexdigest(), "k_sha256": roster.k_sha256(self.k),
                  "recovery_key": public(f"recovery {self.name}").hex(), "supersedes": None}
        signer = str(self.lies.get("signer", "platform"))
        changes = {n: v for n, v in self.lies.items() if n != "signer"}
        self.certificate = signed.sign("certificate", fields | changes, key_of(signer))

    def add(self, kind: str, _raw: bool = False, /, **fields: Any) -> int:
        """Append an entry; seq and life are set unless given. `_raw`: whatever it is, without a look at its shape."""
        seq = len(self.entries)
        value = {"type": kind, "gateway": self.id, "seq": seq, "life": self.life} | fields
        self.put(jcs.encode(value) if _raw or kind not in entry.SHAPES else entry.encode(value))
        if kind in entry.LIFE_TYPES:
            self.life = seq
        return seq

    def put(self, data: bytes) -> None:
        """Append the bytes of an entry."""
        self.entries.append(data)
        self.tree.append(merkle.leaf_hash(data))

    def begin(self, **start: Any) -> None:
        """Enrolment and first start."""
        self.add("enrolment", certificate=self.certificate)
        self.start(**start)

    def start(self, **changes: Any) -> None:
        """A process start."""
        self.len_s = changes.pop("len_s", self.len_s)
        size = len(self.entries)
        self.add("start", **{
            "instance": hashlib.sha256(f"{self.name} {size}".encode()).hexdigest()[:32],
            "software": {"version": "0.1.0", "sha256": hashlib.sha256(b"software").hexdigest()},
            "rule": {"len_s": self.len_s, "grace_ms": 2000, "max_source_age_s": 3600, "usable": ["good", "uncertain"],
                     "limits": {"devices": 10_000, "points": 100_000, "queued_samples": 1_000_000}},
            "local_size": size, "platform_size": size, "resealed_from": None} | changes)

    def roster(self, devices: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]], **changes: Any) -> None:
        """Put a roster in force. Its file holds the rows that changed."""
        known = {jcs.encode(row) for row in (*self.devices, *self.points)}
        changed = [dict(row) for row in (*devices, *points) if jcs.encode(dict(row)) not in known]
        self.devices, self.points = [dict(d) for d in devices], [dict(p) for p in points]
        self.roster_seq = self.add("roster", **{
            "devices_root": roster.rows_root(self.devices), "points_root": roster.rows_root(self.points),
            "devices": len(self.devices), "points": len(self.points),
            "ledger": {"sha256": hashlib.sha256(b"ledger").hexdigest(), "date": "2026-09-01", "rows": 2}} | changes)
        self.rows[self.roster_seq] = lines(changed)

    def window(self, *, connected: Iterable[int] | None = None, sampled: Iterable[int] | None = None,
               producing: Iterable[int] | None = None, changing: Iterable[int] | None = None,
               **changes: Any) -> int:
        """Seal the next window; by default every alive device is connected and every point changes."""
        online = [d["slot"] for d in self.devices if d["state"] == "alive"] if connected is None else connected
        sampled = [p["point"] for p in self.points if p["state"] == "alive"
                   and p["device"] < len(self.devices) and self.devices[p["device"]]["state"] == "alive"
                   ] if sampled is None else list(sampled)
        producing = sampled if producing is None else list(producing)
        changing = producing if changing is None else list(changing)
        start_s = changes.pop("start_s", self.now_s)
        counted = 10 * len(producing)
        late = len(sampled)
        value = {
            "start_s": start_s, "len_s": self.len_s, "roster": self.roster_seq, "seen": self.world.seen(),
            "clock": {"source": "ntp", "offset_ms": 3, "step_ms": 0},
            "samples": {"received": counted + late, "counted": counted,
                        "discarded": dict.fromkeys(DISCARD_REASONS, 0) | {"bad_quality": late}},
            "columns": {"connected": _packed(tuple(online), len(self.devices)),
                        "sampled": _packed(tuple(sampled), len(self.points)),
                        "producing": _packed(tuple(producing), len(self.points)),
                        "changing": _packed(tuple(changing), len(self.points))}} | changes
        seq = self.add("window", **value)
        self.now_s = start_s + value["len_s"]
        return seq

    def outage(self, end_s: int, reason: str = "crash", **changes: Any) -> None:
        """Put a hole from now to `end_s` on record."""
        missing = max(0, -(-(end_s - self.now_s) // self.len_s))
        self.add("outage", **{"start_s": self.now_s, "end_s": end_s, "reason": reason,
                              "missing": {"windows": missing, "samples": None}} | changes)
        self.now_s = end_s

    def keep(self, data: bytes, first: int, last: int, **changes: Any) -> int:
        """Promise a file for the windows among entries [first, last]; return the seq of the promise."""
        return self.add("keep", **{
            "from_seq": first, "to_seq": last, "name": f"raw-{first}.parquet", "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(), "retain_until_s": self.now_s + 90 * 86_400} | changes)

    def rotate(self, new_name: str, *, signer: str | None = None, **changes: Any) -> None:
        """Change the key of this gateway."""
        seq = len(self.entries)
        rotation = signed.sign("rotation", {
            "gateway": self.id, "seq": seq, "root": self.tree.root().hex(), "new_key": public(new_name).hex()}
            | changes, key_of(signer or self.key_name))
        self.add("key", rotation=rotation)
        self.key_name = new_name

    def checkpoint(self, *, size: int | None = None, signer: str | None = None, root: bytes | None = None) -> bytes:
        """Return the signed checkpoint."""
        size = len(self.entries) if size is None else size
        origin = keys.gateway_origin(self.id)
        text = Checkpoint(origin, size, root or self.tree.root(size)).text
        return note.format_note(text, [note.sign(text, key_of(signer or self.key_name), name=origin)])

    def life_chain(self) -> list[int]:
        """Return the seqs along `life` from the last entry back, the last entry first; so too from a revocation."""
        chain: dict[int, None] = {}
        for end in (len(self.entries), self.world.revoked_from(self)):
            at = -1 if end is None else min(end, len(self.entries)) - 1
            while at >= 0:
                chain[at] = None
                at = min(json.loads(self.entries[at])["life"], at - 1)  # a test may have shuffled them
        return list(chain)

    def members(self, *, first_tile: int = 0, end_tile: int | None = None) -> dict[str, bytes]:
        """Return the members of a bundle over entry tiles [first_tile, end_tile), README left out."""
        size = len(self.entries)
        result = {"checkpoint": self.checkpoint()}
        for tile in tiles.tiles_of(0, size):
            result[tile.path] = tiles.hash_tile(self.tree, tile)
        shipped = tiles.tiles_of(None, size)[first_tile:end_tile]
        inside = set()
        for tile in shipped:
            at = tile.number * tiles.WIDTH
            result[tile.path] = tiles.join_entries(self.entries[at : at + tile.width])
            inside |= set(range(at, at + tile.width))
        for seq in self.life_chain():
            if seq not in inside:
                result[entry.name(seq)] = self.entries[seq]
        result |= self._rosters(min(inside))
        result |= self.world.proofs_for(self)
        return result

    def _rosters(self, first: int) -> dict[str, bytes]:
        """Return roster files: all rows of the roster in force at the first window, then the changed rows."""
        in_force = next((json.loads(e)["roster"] for e in self.entries[first:]
                         if json.loads(e)["type"] == "window"), self.roster_seq)
        whole: dict[tuple[str, int], dict[str, Any]] = {}
        result = {}
        for seq, data in sorted(self.rows.items()):
            for line in data.splitlines():
                row = json.loads(line)
                whole[("point", row["point"]) if "point" in row else ("device", row["slot"])] = row
            if seq == in_force:
                result[f"roster/{seq}.jsonl"] = lines([whole[k] for k in sorted(whole)])
            elif seq > in_force:
                result[f"roster/{seq}.jsonl"] = data
        return result

    def opening(self, slot: int, private: Mapping[str, Any]) -> bytes:
        """Return the opening of a device."""
        tags = [{"scheme": s, "value": v, "r": roster.blinding(self.k, s, v).hex()}
                for s, v in sorted(roster.tag_values(private).items())]
        return jcs.encode({"gateway": self.id, "slot": slot, "private": dict(private), "tags": tags})


@lru_cache(maxsize=256)
def _packed(slots: tuple[int, ...], size: int) -> str:
    """Return the column of some slots; most windows of a plant look like the one before."""
    return column.pack(bits(slots), size)


def bits(slots: Iterable[int]) -> int:
    """Return the bitmap of some slots."""
    chosen = set(slots)
    data = bytearray(max(chosen, default=0) // 8 + 1)
    for slot in chosen:
        data[slot >> 3] |= 1 << (slot & 7)
    return int.from_bytes(data, "little")


def lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return rows as a roster file."""
    return b"".join(jcs.encode(dict(row)) + b"\n" for row in rows)


def zipped(members: Mapping[str, bytes], *, compress: bool = False) -> bytes:
    """Return the bytes of a bundle with these members and the README."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, data in {"README.txt": README.encode(), **members}.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # the same bytes on every system
            archive.writestr(info, data, zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)
    return buffer.getvalue()


def two_devices(gateway: Gateway) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of two devices with one point each."""
    return [device_row(0), device_row(1)], [point_row(0, 0, gateway.id), point_row(1, 1, gateway.id)]


def small(world: World | None = None) -> tuple[World, Gateway]:
    """Two devices, two windows, a register with two witnesses: below 10 kB."""
    world = world or World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    gateway.window()
    gateway.window(producing=[0])
    world.round(time_s=gateway.now_s + 10)
    return world, gateway
