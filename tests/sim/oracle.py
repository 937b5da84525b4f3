"""Reads a log the slow way and says what is wrong with it. Shares nothing with gateway/sealing but the format."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def slow_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, by its recursive definition."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + slow_root(leaves[:split]) + slow_root(leaves[split:])).digest()


def check_checkpoint(entries: list[bytes], checkpoint: bytes, public: bytes) -> None:
    """Size, root and signature of a checkpoint over exactly these entries."""
    text, _, signatures = checkpoint.decode().rpartition("\n\n")
    origin, size, root = text.split("\n")
    first = json.loads(entries[0])["certificate"]["gateway_key"]
    assert origin == "tallystick/g/" + hashlib.sha256(bytes.fromhex(first)).hexdigest()[:32]
    assert int(size) == len(entries)
    assert base64.b64decode(root) == slow_root(entries)
    line = signatures.strip().split(" ")
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(line[2])[4:], (text + "\n").encode())


def check_log(entries: list[bytes]) -> dict[str, Any]:
    """Check seq, life, order, windows and outages; return {windows: {start: entry}, outages, covered}."""
    life, len_s, roster = -1, 0, -1
    covered: int | None = None
    windows: dict[int, dict[str, Any]] = {}
    outages = []
    rosters: dict[int, dict[str, Any]] = {}
    kinds = []
    for seq, data in enumerate(entries):
        entry = json.loads(data)
        kind = entry["type"]
        assert (entry["seq"], entry["life"]) == (seq, life), entry
        assert (kind == "enrolment") == (seq == 0) and (kind == "start" or seq != 1)
        if kind == "start":
            len_s = entry["rule"]["len_s"]
            assert entry["local_size"] == seq
        elif kind == "outage":
            assert entry["start_s"] == covered, (entry, covered)
            back = entry["reason"] in ("clock_back", "clone")
            assert entry["end_s"] > covered or back, entry
            assert entry["missing"]["windows"] == max(0, -((covered - entry["end_s"]) // len_s))
            covered = entry["end_s"]
            outages.append(entry)
        elif kind == "roster":
            roster = seq
            rosters[seq] = entry
        elif kind == "window":
            assert entry["roster"] == roster and entry["len_s"] == len_s
            assert entry["start_s"] % len_s == 0
            assert covered is None or entry["start_s"] == covered, (entry["start_s"], covered)
            covered = entry["start_s"] + len_s
            assert entry["samples"]["received"] == entry["samples"]["counted"] + \
                sum(entry["samples"]["discarded"].values())
            windows.setdefault(entry["start_s"], entry)
            assert windows[entry["start_s"]] is entry or any(o["reason"] in ("clock_back", "clone") for o in outages)
        if kind in ("enrolment", "start", "roster", "outage", "key"):
            life = seq
        kinds.append(kind)
    return {"windows": windows, "outages": outages, "covered": covered, "kinds": kinds, "rosters": rosters}
