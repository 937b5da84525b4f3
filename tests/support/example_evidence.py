"""The worked example of docs/evidence-format.md: `python -m tests.support.example_evidence` writes it anew.

Two devices, three points, two windows, a plant without a platform. Every key and secret is SHA-256 of a phrase that
stands in the page, so the same files come out each time, and nobody may take them for real ones.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocols.evidence import bundle, column, entry, jcs, keys, merkle, note, roster, signed, tiles
from protocols.evidence.checkpoint import Checkpoint
from protocols.terms.vocabulary import DISCARD_REASONS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples" / "evidence"
BUNDLE = "example.tally"

START_S = 1_793_577_600  # 2026-11-02 08:00 in China
LEN_S = 60
ROSTER_SEQ = 2
KEPT_SIZE = 4
"""The checker kept the checkpoint of this size: the anchor."""

USCC = "91320594MAEXAMPLEB"
SITE = "example plant"

DEVICES_CSV = """\
id,name,maker,model,serial,asset,class,industry,uscc,region,thing,deployment,energy,parent,connection
cnc-01,1号加工中心,示例机床厂,VMC-850,SN 2024-0001,,metal_cutting_machine_tool,3421,91320594MAEXAMPLEB,320594,\
equipment,private,yes,,line1
compressor-01,1号空压机,示例压缩机厂,GA-37,,A-2001,gas_compressor,3442,91320594MAEXAMPLEB,320594,\
equipment,private,yes,,utilities
"""
POINTS_CSV = """\
device,id,address,type,role
cnc-01,spindle_on,nsu=urn:example:line1;s=cnc01.spindle.on,bool,switch
cnc-01,axis_z,nsu=urn:example:line1;s=cnc01.axes#Value[2],float64,parameter
compressor-01,pressure,1/holding/100,uint16,parameter
"""
ADDRESSES = (  # (protocol, device, type, role, canonical address, its base)
    ("opc_ua", 0, "bool", "switch", "nsu=urn:example:line1;s=cnc01.spindle.on#Value",
     "nsu=urn:example:line1;s=cnc01.spindle.on#Value"),
    ("opc_ua", 0, "float64", "parameter", "nsu=urn:example:line1;s=cnc01.axes#Value[2]",
     "nsu=urn:example:line1;s=cnc01.axes#Value"),
    ("modbus_tcp", 1, "uint16", "parameter", "1/holding/100/uint16", "1/holding/100"))


def secret(what: str) -> bytes:
    """Return the 32 bytes that the page calls the example's `what`."""
    return hashlib.sha256(f"tallystick example {what}".encode()).digest()


def private_key(what: str) -> Ed25519PrivateKey:
    """Return the example's private key of this name."""
    return Ed25519PrivateKey.from_private_bytes(secret(what))


GATEWAY_KEY, RECOVERY_KEY, K = private_key("gateway key"), private_key("recovery key"), secret("K")
GATEWAY = keys.gateway_id(keys.public_bytes(GATEWAY_KEY))


def private_part(name: str, maker: str, model: str, serial: str, asset: str) -> dict[str, Any]:
    """Return the private part of a device row; its blind is fixed like the keys."""
    return {"blind": secret(f"blind {name}")[:16].hex(), "name": name, "maker": maker, "model": model,
            "serial": serial, "asset": asset,
            "identifiers": {"product_instance_uri": "", "vaa": "", "handle": "", "mac": "", "unit": ""}}


PRIVATE = (private_part("1号加工中心", "示例机床厂", "VMC-850", "SN 2024-0001", ""),
           private_part("1号空压机", "示例压缩机厂", "GA-37", "", "A-2001"))


def device_row(slot: int, equipment_class: str, industry: str, id_basis: str) -> dict[str, Any]:
    """Return a public device row."""
    private = PRIVATE[slot]
    return {"slot": slot, "state": "alive", "replaces": None, "parent": None, "thing": "equipment",
            "class": equipment_class, "industry": industry, "uscc": USCC, "region": "320594",
            "deployment": "private", "energy": True, "kind": roster.kind(private["maker"], private["model"]),
            "tags": [{"scheme": s, "tag": roster.keyed_tag(K, s, v)} for s, v in roster.tag_values(private).items()],
            "dup_tags": [], "id_basis": id_basis, "server": {"spki_sha256": None, "via": None},
            "private_sha256": roster.private_sha256(private)}


def point_row(point: int) -> dict[str, Any]:
    """Return a public point row."""
    protocol, device, type_, role, address, base = ADDRESSES[point]
    addr, base_tag = roster.point_tags(K, GATEWAY, device, address, base)
    return {"point": point, "device": device, "state": "alive", "protocol": protocol, "role": role, "type": type_,
            "addr": addr, "base": base_tag}


def window(start_s: int, connected: int, sampled: int, producing: int, changing: int, *, counted: int,
           bad_quality: int) -> dict[str, Any]:
    """Return a window; bit i of a column is slot i."""
    return {"type": "window", "start_s": start_s, "len_s": LEN_S, "roster": ROSTER_SEQ, "seen": None,
            "clock": {"source": "ntp", "offset_ms": 3, "step_ms": 0},
            "samples": {"received": counted + bad_quality, "counted": counted,
                        "discarded": dict.fromkeys(DISCARD_REASONS, 0) | {"bad_quality": bad_quality}},
            "columns": {"connected": column.pack(connected, 2), "sampled": column.pack(sampled, 3),
                        "producing": column.pack(producing, 3), "changing": column.pack(changing, 3)}}


def entries(devices: list[dict[str, Any]], points: list[dict[str, Any]]) -> list[bytes]:
    """Return the five entries of the log."""
    certificate = signed.sign("certificate", {
        "gateway_key": keys.public_bytes(GATEWAY_KEY).hex(), "uscc": USCC, "site": SITE,
        "token_sha256": hashlib.sha256(b"").hexdigest(), "k_sha256": roster.k_sha256(K),
        "recovery_key": keys.public_bytes(RECOVERY_KEY).hex(), "supersedes": None}, RECOVERY_KEY)
    values: list[dict[str, Any]] = [
        {"type": "enrolment", "life": -1, "certificate": certificate},
        {"type": "start", "life": 0, "instance": secret("instance")[:16].hex(),
         "software": {"version": "0.1.0", "sha256": secret("software").hex()},
         "rule": {"len_s": LEN_S, "grace_ms": 2000, "max_source_age_s": 3600, "usable": ["good", "uncertain"],
                  "limits": {"devices": 10_000, "points": 100_000, "queued_samples": 1_000_000}},
         "local_size": 1, "platform_size": None, "resealed_from": None},
        {"type": "roster", "life": 1, "devices_root": roster.rows_root(devices),
         "points_root": roster.rows_root(points), "devices": len(devices), "points": len(points),
         "ledger": {"sha256": hashlib.sha256(DEVICES_CSV.encode() + b"\0" + POINTS_CSV.encode()).hexdigest(),
                    "date": "2026-11-01", "rows": len(devices)}},
        # All is well: three points, a sample a second each; the spindle runs without a stop.
        {"life": 2} | window(START_S, 0b11, 0b111, 0b111, 0b110, counted=180, bad_quality=0),
        # The compressor does not answer, and the spindle's switch reports only bad values.
        {"life": 2} | window(START_S + LEN_S, 0b01, 0b011, 0b010, 0b010, counted=60, bad_quality=60),
    ]
    return [entry.encode({"gateway": GATEWAY, "seq": seq} | value) for seq, value in enumerate(values)]


def checkpoint(tree: merkle.Tree, size: int) -> bytes:
    """Return the gateway's signed checkpoint of this size."""
    text = Checkpoint(keys.gateway_origin(GATEWAY), size, tree.root(size)).text
    return note.format_note(text, [note.sign(text, GATEWAY_KEY, name=keys.gateway_origin(GATEWAY))])


def opening(slot: int) -> bytes:
    """Return the opening of a device."""
    private = PRIVATE[slot]
    shown = [{"scheme": s, "value": v, "r": roster.blinding(K, s, v).hex()}
             for s, v in roster.tag_values(private).items()]
    return jcs.encode({"gateway": GATEWAY, "slot": slot, "private": private, "tags": shown})


def members() -> dict[str, bytes]:
    """Return the members of the bundle, README.txt left out, and with them nothing that a checker must bring along."""
    devices = [device_row(0, "metal_cutting_machine_tool", "3421", "read"),
               device_row(1, "gas_compressor", "3442", "declared")]
    points = [point_row(point) for point in range(len(ADDRESSES))]
    log = entries(devices, points)
    tree = merkle.Tree(merkle.leaf_hash(data) for data in log)
    [hash_tile], [entry_tile] = tiles.tiles_of(0, len(log)), tiles.tiles_of(None, len(log))
    return {"checkpoint": checkpoint(tree, len(log)), hash_tile.path: tiles.hash_tile(tree, hash_tile),
            entry_tile.path: tiles.join_entries(log),
            f"roster/{ROSTER_SEQ}.jsonl": b"".join(jcs.encode(row) + b"\n" for row in devices + points),
            "openings/0.json": opening(0)}


def files() -> dict[str, bytes]:
    """Return path -> content of everything in the folder but the bundle."""
    inside = members()
    log = tiles.split_entries(inside["tile/entries/000.p/5"], tiles.Tile(None, 0, 5), where="example")
    tree = merkle.Tree(merkle.leaf_hash(data) for data in log)
    vkey = note.VerifierKey(keys.gateway_origin(GATEWAY), note.ED25519, keys.public_bytes(GATEWAY_KEY))
    return {
        **inside, "README.txt": bundle.README.encode(),
        **{entry.name(seq): data for seq, data in enumerate(log)},
        "anchor": checkpoint(tree, KEPT_SIZE),
        "policy.json": json.dumps({"gateways": [str(vkey)]}, indent=1).encode() + b"\n",
        "gateway.pem": _pem(GATEWAY_KEY), "recovery.pem": _pem(RECOVERY_KEY),
        "devices.csv": DEVICES_CSV.encode(), "points.csv": POINTS_CSV.encode()}


def write(folder: Path) -> None:
    """Write the whole example below `folder`. A bundle that holds the same members already stays as it is."""
    for name, data in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with tempfile.TemporaryDirectory() as aside:
        fresh = Path(aside) / BUNDLE
        bundle.write_bundle(fresh, members())
        # Another zlib packs the same bytes differently; that is no change of the example.
        if not (folder / BUNDLE).exists() or contents(folder / BUNDLE) != contents(fresh):
            (folder / BUNDLE).write_bytes(fresh.read_bytes())


def contents(path: Path) -> Mapping[str, tuple[Any, ...]]:
    """Return name -> all that a zip says of a member and the member itself, in order; but for how it was packed."""
    with zipfile.ZipFile(path) as archive:
        return {info.filename: (number, info.date_time, info.compress_type, info.external_attr, info.extra,
                                archive.read(info)) for number, info in enumerate(archive.infolist())}


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
