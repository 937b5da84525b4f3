"""A gateway by script: it writes an honest log from `protocols.evidence` alone, and lets a test spoil any part of it.

No code of `gateway` is in it, so that platform and witness are tested against the format and not against a friend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols import exchange
from protocols.evidence import column, entry, jcs, keys, note, proof, roster, signed
from protocols.evidence.bundle import write_bundle
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.encoding import to_base64
from protocols.evidence.merkle import Tree, leaf_hash
from protocols.evidence.tiles import hash_tile, join_entries, tiles_of
from protocols.terms import uscc
from protocols.terms.vocabulary import DISCARD_REASONS

USCC = "91320000MA1TALLY0"
USCC = USCC + uscc.check_character(USCC)
OTHER_USCC = "91110000MA00000000"[:17] + uscc.check_character("91110000MA0000000")
START_S = 1_760_000_040
K = bytes(range(32))


def key_of(seed: str) -> Ed25519PrivateKey:
    """Return a private key that is the same in every run."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())


def device_row(slot: int, **changes: Any) -> dict[str, Any]:
    """Return a public row of one machine; `changes` replace fields."""
    private = {"blind": f"{slot:032x}", "name": f"machine {slot}", "maker": "Maker", "model": f"M{slot % 3}",
               "serial": f"S{slot}", "asset": "",
               "identifiers": {"product_instance_uri": "", "vaa": "", "handle": "", "mac": "", "unit": ""}}
    tags = [{"scheme": scheme, "tag": roster.keyed_tag(K, scheme, value)}
            for scheme, value in roster.tag_values(private).items()]
    return {"slot": slot, "state": "alive", "replaces": None, "parent": None, "thing": "equipment", "class": None,
            "industry": "3421", "uscc": USCC, "region": "320100", "deployment": None, "energy": None,
            "kind": roster.kind("Maker", private["model"]), "tags": tags, "dup_tags": [], "id_basis": "declared",
            "server": {"spki_sha256": None, "via": None}, "private_sha256": roster.private_sha256(private), **changes}


def point_row(point: int, device: int, gateway: str, **changes: Any) -> dict[str, Any]:
    """Return a public row of one point."""
    addr, base = roster.point_tags(K, gateway, device, f"1/holding/{point}/uint16", f"1/holding/{point}")
    return {"point": point, "device": device, "state": "alive", "protocol": "modbus_tcp", "role": "parameter",
            "type": "uint16", "addr": addr, "base": base, **changes}


@dataclass
class ScriptedGateway:
    """One gateway. `entries` is its log; `sent` how much of it the platform has, as this gateway knows."""

    name: str = "one"
    enterprise: str = USCC
    site: str = "Plant 1"
    k: bytes = K
    len_s: int = 60
    entries: list[bytes] = field(default_factory=list)
    sent: int = 0
    life: int = -1
    rows: dict[int, str] = field(default_factory=dict)
    devices: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    roster_seq: int = -1
    next_s: int = START_S

    def __post_init__(self) -> None:
        self.key = key_of(f"gateway {self.name}")
        self.first_key = self.key
        self.recovery = key_of(f"recovery {self.name}")
        self.id = keys.gateway_id(keys.public_bytes(self.key))
        self.origin = keys.gateway_origin(self.id)
        self.tree = Tree()

    # Enrolment.

    def enrol_request(self, token: str, **changes: Any) -> dict[str, Any]:
        """Return a signed ENROL_REQUEST; `changes` are made before it is signed."""
        return exchange.prove_possession({
            "token": token, "gateway_key": keys.public_bytes(self.first_key).hex(), "uscc": self.enterprise,
            "site": self.site, "k_sha256": roster.k_sha256(self.k), "recovery_key":
            keys.public_bytes(self.recovery).hex(), "supersedes": None, **changes}, self.first_key)

    # The log.

    def add(self, kind: str, **fields: Any) -> int:
        """Append an entry and return its seq; `fields` may replace header fields too."""
        seq = len(self.entries)
        value = {"type": kind, "gateway": self.id, "seq": seq, "life": self.life, **fields}
        return self.add_bytes(entry.encode(value) if kind in entry.SHAPES else jcs.encode(value), kind)

    def add_bytes(self, data: bytes, kind: str = "") -> int:
        """Append raw bytes."""
        seq = len(self.entries)
        self.entries.append(data)
        self.tree.append(leaf_hash(data))
        if kind in entry.LIFE_TYPES:
            self.life = seq
        return seq

    def begin(self, certificate: Mapping[str, Any], devices: int = 2, points_each: int = 2) -> None:
        """Write enrolment, start and the first roster."""
        self.add("enrolment", certificate=dict(certificate))
        self.start()
        self.roster([device_row(i) for i in range(devices)],
                    [point_row(i, i // points_each, self.id) for i in range(devices * points_each)])

    def start(self, **rule: Any) -> int:
        """Write a `start`."""
        return self.add(
            "start", instance="ab" * 16, software={"version": "0.1.0", "sha256": "cd" * 32},
            rule={"len_s": self.len_s, "grace_ms": 2000, "max_source_age_s": 3600, "usable": ["good", "uncertain"],
                  "limits": {"devices": 1000, "points": 10_000, "queued_samples": 100_000}, **rule},
            local_size=len(self.entries), platform_size=None, resealed_from=None)

    def roster(self, devices: Sequence[dict[str, Any]], points: Sequence[dict[str, Any]], **fields: Any) -> int:
        """Write a roster with changed and new rows."""
        for row in devices:
            self.devices[row["slot"]:row["slot"] + 1] = [row]
        for row in points:
            self.points[row["point"]:row["point"] + 1] = [row]
        seq = self.add("roster", **{
            "devices_root": roster.rows_root(self.devices), "points_root": roster.rows_root(self.points),
            "devices": len(self.devices), "points": len(self.points),
            "ledger": {"sha256": "ef" * 32, "date": "2026-11-01", "rows": len(self.devices)}, **fields})
        self.rows[seq] = "".join(jcs.encode(row).decode() + "\n" for row in (*devices, *points))
        self.roster_seq = seq
        return seq

    def window(self, *, producing: int | None = None, connected: int | None = None, changing: int = 0,
               sampled: int | None = None, **fields: Any) -> int:
        """Write the next window; by default every alive point produces."""
        alive_points = sum(1 << r["point"] for r in self.points if r["state"] == "alive")
        alive = sum(1 << r["slot"] for r in self.devices if r["state"] == "alive")
        producing = alive_points if producing is None else producing
        values = {"connected": alive if connected is None else connected,
                  "sampled": producing if sampled is None else sampled, "producing": producing, "changing": changing}
        count = 10 * producing.bit_count()
        value = {
            "start_s": self.next_s, "len_s": self.len_s, "roster": self.roster_seq, "seen": None,
            "clock": {"source": "ntp", "offset_ms": 0, "step_ms": 0},
            "samples": {"received": count, "counted": count, "discarded": dict.fromkeys(DISCARD_REASONS, 0)},
            "columns": {name: column.pack(bits, len(self.devices if name == "connected" else self.points))
                        for name, bits in values.items()}, **fields}
        self.next_s = value["start_s"] + value["len_s"]
        return self.add("window", **value)

    def outage(self, windows: int, reason: str = "crash", **fields: Any) -> int:
        """Write an outage of some windows from the end of the last one on."""
        value = {"start_s": self.next_s, "end_s": self.next_s + windows * self.len_s, "reason": reason,
                 "missing": {"windows": max(windows, 0), "samples": None}, **fields}
        self.next_s = value["end_s"]
        return self.add("outage", **value)

    def rotate(self, **changes: Any) -> int:
        """Write a `key` entry and sign with the new key from then on."""
        new = key_of(f"rotated {self.name} {len(self.entries)}")
        seq = len(self.entries)
        rotation = signed.sign("rotation", {
            "gateway": self.id, "seq": seq, "root": self.tree.root().hex(), "new_key": keys.public_bytes(new).hex(),
            **changes}, self.key)
        self.add("key", rotation=rotation)
        self.key = new
        return seq

    # What goes out.

    def checkpoint(self, size: int | None = None, *, root: bytes | None = None, key: Ed25519PrivateKey | None = None,
                   origin: str | None = None) -> str:
        """Return a signed checkpoint of the first `size` entries, or of another `root`."""
        size = len(self.entries) if size is None else size
        text = Checkpoint(origin or self.origin, size, root or self.tree.root(size)).text
        return note.format_note(text, [note.sign(text, key or self.key, name=origin or self.origin)]).decode()

    def batch(self, first: int | None = None, **changes: Any) -> dict[str, Any]:
        """Return the SUBMIT_REQUEST of everything from `first` (by default: what was not sent) on."""
        first = self.sent if first is None else first
        return {"first": first, "entries": [data.decode() for data in self.entries[first:]],
                "checkpoint": self.checkpoint(),
                "rosters": [{"seq": seq, "rows": rows} for seq, rows in self.rows.items() if seq >= first], **changes}

    def write_bundle(self, target: Path, *, proofs: Sequence[str] = (),
                     leave_out: Callable[[str], bool] = lambda name: False) -> Path:
        """Write a bundle of the whole log with register `proofs`; `leave_out` drops members."""
        size = len(self.entries)
        members = {"checkpoint": self.checkpoint().encode()}
        for tile in tiles_of(0, size):
            members[tile.path] = hash_tile(self.tree, tile)
        for tile in tiles_of(None, size):
            members[tile.path] = join_entries(self.entries[tile.number * 256 : tile.number * 256 + tile.width])
        members |= {f"roster/{seq}.jsonl": rows.encode() for seq, rows in self.rows.items()}
        members |= {f"register/{proof.parse(text.encode(), where='register').index}.proof": text.encode()
                    for text in proofs}
        write_bundle(target, {name: data for name, data in sorted(members.items()) if not leave_out(name)})
        return target


def change(data: bytes, /, **fields: Any) -> bytes:
    """Return an entry with top-level fields replaced, canonical again; nothing checks its shape."""
    return jcs.encode({**jcs.parse(data, where="test", bytes_max=65_535), **fields})


def bits(*slots: int) -> int:
    """Return the bitmap of some slots."""
    return sum(1 << slot for slot in slots)


def packed(bitmap: int, count: int) -> str:
    """Return base64 of a bitmap, whatever it holds."""
    return to_base64(bitmap.to_bytes((count + 7) // 8, "little"))
