"""A `.tally` file from the journal: what an offline verifier needs for an interval, and nothing that it need not have.

It opens no device and no network, and may run beside the gateway on a journal that is opened to read only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.sealing import rosters
from gateway.sealing.journal import Journal
from gateway.sealing.receipts import FOLDER
from protocols.errors import EvidenceError, Problem
from protocols.evidence import bundle, proof, register, tiles
from protocols.evidence.entry import name as entry_name
from protocols.evidence.tiles import WIDTH, Tile

BEFORE_S = 86_400
"""Windows of the day before are shipped too, so that figures at the first instant can be computed."""

SCAN_ENTRIES = 4 * WIDTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What a bundle holds: windows with first_s < end <= end_s, the size of its log, heads and how far they prove."""

    windows: int
    first_s: int
    end_s: int
    size: int
    heads: int
    proven: int


def export_bundle(journal: Journal, *, out: Path, first_s: int | None = None, end_s: int | None = None,
                  openings: Mapping[int, bytes] | None = None) -> Exported:
    """Write the bundle of the windows that end in (first_s - 24 h, end_s]; None means from or to the end of the log.

    openings: slot -> JCS bytes of an opening, for devices that are shown on purpose.

    Raises: EvidenceError `sealing.nothing_to_export` when no window ends in the interval, `sealing.chain_missing`
    when the register's entries about this enterprise were never fetched; OSError.
    """
    found = windows_ending(journal, None if first_s is None else first_s - BEFORE_S, end_s)
    if not found:
        raise EvidenceError(Problem.of(journal.where, "sealing.nothing_to_export", size=journal.size))
    seqs = [seq for seq, _ in found]
    size = journal.size
    low, high = min(seqs) // WIDTH, max(seqs) // WIDTH
    proofs, proven = _proofs(journal, journal.history.gateway, min(seqs), max(seqs))
    out.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_bundle(out, _members(journal, size, low, high, proofs, openings or {}))
    ends = [end for _, end in found]
    return Exported(windows=len(found), first_s=min(ends), end_s=max(ends), size=size,
                    heads=sum(kind == "head" for kind, _ in proofs.values()), proven=proven)


def windows_ending(journal: Journal, after_s: int | None, end_s: int | None) -> list[tuple[int, int]]:
    """Return (seq, end) of the windows that end in (after_s, end_s], newest first."""
    turned = max((seq for seq in _life(journal) if journal.entry(seq).get("reason") in ("clock_back", "clone")),
                 default=-1)
    found: list[tuple[int, int]] = []
    high = journal.size
    while high > 0:
        low = max(0, high - SCAN_ENTRIES)
        for seq, data in zip(range(high - 1, low - 1, -1), reversed(journal.encoded(low, high)), strict=True):
            value = json.loads(data)  # its hash was compared with the sealed one: it is what we wrote
            if value["type"] != "window":
                continue
            end = value["start_s"] + value["len_s"]
            if after_s is not None and end <= after_s:
                if seq > turned:  # before it the windows are in the order of time
                    return found
                continue
            if end_s is None or end <= end_s:
                found.append((seq, end))
        high = low
    return found


def _life(journal: Journal) -> list[int]:
    """Return the seqs along the chain of life, from the last entry back to the enrolment."""
    chain = []
    value: dict[str, Any] = journal.entry(journal.size - 1)
    at = journal.size - 1 if value["type"] != "window" else value["life"]
    while at >= 0:
        chain.append(at)
        at = journal.entry(at)["life"]
    return chain


def _members(journal: Journal, size: int, low: int, high: int, proofs: Mapping[int, tuple[str, bytes]],
             openings: Mapping[int, bytes]) -> Iterator[tuple[str, bytes]]:
    assert journal.checkpoint is not None
    yield "checkpoint", journal.checkpoint
    for tile in tiles.tiles_of(0, size):
        yield tile.path, tiles.hash_tile(journal.tree, tile)
    end = min((high + 1) * WIDTH, size)
    for number in range(low, high + 1):
        first = number * WIDTH
        entries = journal.encoded(first, min(first + WIDTH, size))
        yield Tile(None, number, len(entries)).path, tiles.join_entries(entries)
    for seq in sorted({size - 1, _ends_at(journal.history.gateway, proofs, size) - 1, *_life(journal)}):
        if not low * WIDTH <= seq < end:
            yield entry_name(seq), journal.encoded(seq, seq + 1)[0]
    yield from _roster_members(journal, low * WIDTH, end)
    for index, (_, data) in sorted(proofs.items()):
        yield f"register/{index}.proof", data
    for slot, data in sorted(openings.items()):
        yield f"openings/{slot}.json", data


def _ends_at(gateway: str, proofs: Mapping[int, tuple[str, bytes]], size: int) -> int:
    """Return the number of entries that count: a log ends at its revocation, where the walk along `life` begins."""
    ends = [size]
    for kind, data in proofs.values():
        if kind == "revoke":
            value = register.decode(proof.parse(data, where=FOLDER).extra, where=FOLDER)["revocation"]
            if value["gateway"] == gateway and value["from_size"] > 0:
                ends.append(value["from_size"])
    return min(ends)


def _roster_members(journal: Journal, low: int, end: int) -> Iterator[tuple[str, bytes]]:
    """All rows in force at the first shipped window, then the changed rows of every later roster."""
    first = next(value["roster"] for value in (journal.entry(seq) for seq in range(low, end))
                 if value["type"] == "window")
    yield f"roster/{first}.jsonl", rosters.to_lines(*rosters.at(journal, first))
    for seq in sorted(_life(journal)):
        if seq > first and journal.entry(seq)["type"] == "roster":
            yield f"roster/{seq}.jsonl", journal.roster_rows(seq)


def _proofs(journal: Journal, gateway: str, low: int, high: int) -> tuple[dict[int, tuple[str, bytes]], int]:
    """Return index -> (type, proof) of the heads from the first that covers `low` to the first that covers `high`.

    With them the chain of everything the register says about this enterprise; and the size that they prove.
    """
    kept: dict[int, tuple[dict[str, Any], bytes]] = {}
    for file in journal.disk.names(FOLDER):
        data = journal.disk.read(f"{FOLDER}/{file}")
        if data is None:
            continue  # replaced by a newer head meanwhile
        parsed = proof.parse(data, where=f"{FOLDER}/{file}")
        kept[parsed.index] = register.decode(parsed.extra, where=f"{FOLDER}/{file}"), data
    values = {index: value for index, (value, _) in kept.items()}
    heads = sorted(index for index, value in values.items()
                   if value["type"] == "head" and value["gateway"] == gateway and value["size"] <= journal.size)
    if not heads:
        return {}, 0
    # The newest head of all leads to everything that was said meanwhile, such as a revocation of this log.
    newest = next((index for index in reversed(heads) if _chain(values, index)[1] is None), None)
    if newest is None:
        raise EvidenceError(Problem.of(journal.where, "sealing.chain_missing", index=_chain(values, heads[-1])[1]))
    chosen = [newest, *_chain(values, newest)[0]]
    for index in heads[:heads.index(newest) + 1]:
        size = values[index]["size"]
        if size > low:
            chosen.append(index)
        if size > high:
            break
    return {index: (values[index]["type"], kept[index][1]) for index in chosen}, values[newest]["size"]


def _chain(kept: Mapping[int, Mapping[str, Any]], head: int) -> tuple[list[int], int | None]:
    """Return the indexes along `last` from a head, and the first that is not kept, None if none is missing."""
    chain: list[int] = []
    at = kept[head]["last"]
    while at >= 0:
        if at not in kept:
            return chain, at
        chain.append(at)
        at = kept[at]["last"]
    return chain, None
