"""`open`: what leaves the factory on purpose: single devices, hours of raw data, transcripts of reads. Never K.

It reads beside a gateway that may run, and writes nothing before everything that was asked for is found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.gateway import GatewayConfig
from gateway.commissioning import export
from gateway.commissioning import roster as slots
from gateway.commissioning.state import State
from gateway.sealing import rosters
from gateway.sealing.export import windows_ending
from gateway.sealing.journal import Journal
from gateway.sealing.receipts import FOLDER
from protocols import system
from protocols.errors import ConfigError, Problem
from protocols.evidence import jcs, merkle, opening, proof, register
from protocols.evidence.raw import HOUR_S

PROMISE_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Item:
    """One file that leaves. code, args: the sentence that says what is in it."""

    name: str
    content: Callable[[], bytes]
    code: str
    args: tuple[tuple[str, object], ...] = ()


@dataclass(slots=True, kw_only=True)
class Wanted:
    """What somebody asks for. hours: start of each (s). reads: seqs of `reads` entries."""

    slots: set[int] = field(default_factory=set)
    hours: set[int] = field(default_factory=set)
    reads: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Found:
    """What leaves, and what was asked for and is not here."""

    items: tuple[Item, ...]
    missing: tuple[Problem, ...]


def device_slots(config: GatewayConfig, ids: Iterable[str], numbers: Iterable[int], *, everything: bool) -> set[int]:
    """Return the slots of devices named by id, by slot, or all that are alive. Raises ConfigError for unknown ids."""
    held = slots.load(State(config.state_dir).roster_file)
    alive = held.device_slots() if held else {}
    unknown = [name for name in ids if name not in alive]
    if unknown:
        raise ConfigError([Problem.of("--device", "open.no_device", device=name[:80]) for name in unknown])
    return {alive[name] for name in ids} | set(numbers) | (set(alive.values()) if everything else set())


def demanded(state: State) -> Wanted:
    """Return what the register demands of this gateway, as far as it was fetched. Raises ConfigError without a log."""
    journal, wanted = export.open_journal(state), Wanted()
    for name in journal.disk.names(FOLDER):
        data = journal.disk.read(f"{FOLDER}/{name}")
        value = None if data is None else register.decode(proof.parse(data, where=name).extra, where=name)
        if value is not None and value["type"] == "demand" and value["demand"]["gateway"] == journal.history.gateway:
            wanted.slots |= set(value["demand"]["slots"])
            wanted.hours |= set(value["demand"]["hours"])
    return wanted


def find(config: GatewayConfig, wanted: Wanted) -> Found:
    """Return what leaves. Raises ConfigError without a log, EvidenceError of the state folder."""
    state = State(config.state_dir)
    journal = export.open_journal(state)
    items: list[Item] = []
    missing: list[Problem] = []
    for part in (_devices(state, journal, sorted(wanted.slots)), _hours(state, journal, sorted(wanted.hours)),
                 _reads(state, sorted(wanted.reads))):
        items += part.items
        missing += part.missing
    return Found(tuple(items), tuple(missing))


def write(found: Found, folder: Path) -> list[Path]:
    """Write the files, mode 0600, none of them over another. Raises ConfigError `commissioning.exists`, OSError."""
    paths = [folder / item.name for item in found.items]
    there = [path for path in paths if path.exists()]
    if there:
        raise ConfigError([Problem.of(str(path), "commissioning.exists") for path in there])
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path, item in zip(paths, found.items, strict=True):
        system.write_private(path, item.content())
    return paths


def _devices(state: State, journal: Journal, wanted: list[int]) -> Found:
    seq = journal.history.roster
    if not wanted or seq is None:
        return Found((), tuple(Problem.of(f"slot {slot}", "open.no_roster") for slot in wanted))
    rows, _ = rosters.at(journal, seq)
    tree = merkle.Tree(merkle.leaf_hash(jcs.encode(dict(row))) for row in rows)
    shown = export.openings(state, journal, wanted)
    held = slots.load(state.roster_file)
    gateway = journal.history.gateway
    items = []
    for slot, bare in sorted(shown.items()):
        body = jcs.encode(opening.build(json.loads(bare), rows[slot], roster_seq=seq, tree=tree))
        device = held.devices[slot].id if held else str(slot)
        items.append(Item(f"opening-{gateway[:8]}-{slot}.json", _bytes(body), "open.leaves_device",
                          (("device", device), ("slot", slot))))
    return Found(tuple(items), tuple(Problem.of(f"slot {slot}", "open.not_sealed", slot=slot)
                                     for slot in wanted if slot not in shown))


def _hours(state: State, journal: Journal, wanted: list[int]) -> Found:
    """Return the files of whole hours. One of which only a part was kept is given, and told as missing too."""
    items: dict[str, Item] = {}
    missing = []
    promises = list(_promises(state)) if wanted else []
    for hour_s in wanted:
        needed = _windows(journal, hour_s)
        held: set[int] = set()
        for promise in promises:
            inside = needed & set(range(promise["from_seq"], promise["to_seq"] + 1))
            if inside and (state.raw_dir / promise["name"]).is_file():
                held |= inside
                name = promise["name"]
                items[name] = Item(name, (state.raw_dir / name).read_bytes, "open.leaves_raw", (
                    ("hour", export.shown_time(hour_s)), ("megabytes", f"{promise['bytes'] / 2**20:.1f}")))
        if not needed or needed - held:
            missing.append(Problem.of(f"hour {export.shown_time(hour_s)}", "open.no_hour", windows=len(needed),
                                      kept=len(held)))
    return Found(tuple(items.values()), tuple(missing))


def _windows(journal: Journal, hour_s: int) -> set[int]:
    """Return the seqs of the windows that begin in an hour."""
    return {seq for seq, _ in windows_ending(journal, hour_s, hour_s + HOUR_S)}


def _promises(state: State) -> Iterable[Mapping[str, Any]]:
    for path in sorted(state.raw_dir.glob("*.json")) if state.raw_dir.is_dir() else ():
        try:
            with path.open("rb") as file:
                body = json.loads(file.read(PROMISE_BYTES_MAX))
            if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", body["name"]) and body["seq"] >= 0:
                yield body
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the running gateway tells of it


def _reads(state: State, wanted: list[int]) -> Found:
    found = [(seq, state.reads_dir / f"{seq}.json") for seq in wanted]
    return Found(
        tuple(Item(f"reads-{seq}.json", path.read_bytes, "open.leaves_reads", (("entry", seq),))
              for seq, path in found if path.is_file()),
        tuple(Problem.of(f"reads {seq}", "open.no_reads", entry=seq) for seq, path in found if not path.is_file()))


def _bytes(data: bytes) -> Callable[[], bytes]:
    return lambda: data
