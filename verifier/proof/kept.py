"""Step 9, what stays in the factory: `keep` entries and the files they promise, openings, and demands of auditors.

A file that somebody brings is known by its SHA-256 alone. Whether it gives the windows of the log once more is found
by whoever can read it (verifier/raw, handed in): nothing here reads a format that needs a library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocols.errors import VerificationError
from protocols.evidence import entry, opening, roster
from protocols.evidence.raw import HOUR_S
from protocols.evidence.shape import require
from protocols.terms.vocabulary import DISCARD_REASONS
from verifier.proof.also import OPENING, OtherFile
from verifier.proof.also import where as also_where
from verifier.proof.findings import RECOUNT, REGISTER, ROSTER, Findings
from verifier.proof.history import OVERLAPPED, Windows
from verifier.proof.log import Log
from verifier.proof.recount import Unpacker
from verifier.proof.register import Demand
from verifier.proof.rows import Roster, Rosters

RANGE_MAX = 100_000
"""Entries that one `keep` entry may span: an hour of one-second windows, and all that may stand between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under what a window is counted: the sealing rule, and the roster in force.

    owner: device slot of each point slot. points: point slots that are alive. devices: the same, bit i is slot i.
    """

    len_s: int
    usable: tuple[str, ...]
    max_source_age_s: int
    owner: Sequence[int]
    points: Sequence[int]
    devices: int


@dataclass(slots=True, kw_only=True)
class Counted:
    """What a window must say. The four columns as integers: bit i is slot i."""

    start_s: int
    connected: int = 0
    sampled: int = 0
    producing: int = 0
    changing: int = 0
    received: int = 0
    counted: int = 0
    discarded: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DISCARD_REASONS, 0))


TermsOf = Callable[[int], Terms | None]
RecountFile = Callable[[Path, int, TermsOf, str], Iterator[Counted]]
"""recount(path, size, terms_of, where): see verifier/raw/recount.py. May raise VerificationError and ImportError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTotals:
    """Raw data of a bundle. entries, bytes: as `keep` entries promise. opened: files that were brought and match one.

    recounted: windows of this bundle that came out of such files bit for bit.
    """

    entries: int = 0
    bytes: int = 0
    opened: int = 0
    recounted: int = 0

    def as_json(self) -> dict[str, int]:
        """Return the totals as docs/schemas/verify.schema.json describes them."""
        return {name: getattr(self, name) for name in self.__slots__}


NOTHING_KEPT = KeptTotals()

ANSWERED, OPEN, UNANSWERED = "answered", "open", "unanswered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a demand. state: `answered`, `open` until its deadline, else `unanswered`.

    slots, hours: what it asks for and nobody brought.
    """

    demand: Demand
    state: str
    slots: tuple[int, ...]
    hours: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the answer as docs/schemas/verify.schema.json describes it."""
        return {"index": self.demand.index, "deadline_s": self.demand.deadline_s, "state": self.state,
                "slots": {"demanded": len(self.demand.slots), "missing": list(self.slots)},
                "hours": {"demanded": len(self.demand.hours), "missing": list(self.hours)}}


@dataclass(slots=True)
class Kept:
    """Takes the entries of the walk, then the files that were brought. `answered`: seqs of windows that came out."""

    log: Log
    rosters: Rosters
    found: Findings
    recount: RecountFile | None = None
    answered: set[int] = field(default_factory=set)
    _entries: list[Mapping[str, Any]] = field(default_factory=list)
    _rosters: dict[int, Roster] = field(default_factory=dict)
    _unpacker: Unpacker = field(default_factory=Unpacker)

    def take(self, value: Mapping[str, Any]) -> None:
        """Take an entry. A `keep` that names windows which are not sealed before it promises nothing of them."""
        if value["type"] != "keep":
            return
        if not value["from_seq"] <= value["to_seq"] < value["seq"] or \
                value["to_seq"] - value["from_seq"] >= RANGE_MAX:
            self.found.remark(RECOUNT, "kept.range", entry.name(value["seq"]), seq=value["seq"],
                              first=value["from_seq"], last=value["to_seq"])
            return
        self._entries.append(value)

    def check(self, files: Sequence[OtherFile]) -> KeptTotals:
        """Hold every file against the entries that promise it."""
        by_digest = {value["sha256"]: value for value in self._entries}
        opened: set[str] = set()
        recounted = 0
        for file in files:
            where, value = also_where(file.name), by_digest.get(file.sha256)
            if value is None or value["bytes"] != file.size:
                self.found.remark(RECOUNT, "kept.unknown", where, sha256=file.sha256)
                continue
            self.found.remark(RECOUNT, "kept.matches", where, seq=value["seq"], name=value["name"],
                              entry=value["seq"])
            if file.sha256 not in opened:
                opened.add(file.sha256)
                recounted += self._recount(file, value, where)
        return KeptTotals(entries=len(self._entries), bytes=sum(value["bytes"] for value in self._entries),
                          opened=len(opened), recounted=recounted)

    def _recount(self, file: OtherFile, value: Mapping[str, Any], where: str) -> int:
        """Compare the windows of a file with those of the log; return how many are equal."""
        seq = value["seq"]
        shown = self._windows(value)
        if not shown:
            self.found.remark(RECOUNT, "kept.not_shown", where, seq=seq)
            return 0
        equal = 0
        left = dict(shown)
        try:
            if self.recount is None or file.path is None:
                raise ImportError
            for counted in self.recount(file.path, file.size, lambda start_s: self._terms(shown.get(start_s)), where):
                window = left.pop(counted.start_s)
                if self._equal(counted, window, where):
                    equal += 1
                    self.answered.add(window["seq"])
        except ImportError:
            self.found.remark(RECOUNT, "kept.no_reader", where, seq=seq)
            # The digest says that it is the file which was promised; what is in it nobody looked at.
            self.answered |= {window["seq"] for window in shown.values()}
            return 0
        except VerificationError as error:
            _remark(self.found, RECOUNT, error)
        if left:
            self.found.remark(RECOUNT, "kept.not_reproduced", where, seq=seq, windows=len(left),
                              first=min(left), shown=len(shown))
        return equal

    def _equal(self, counted: Counted, window: Mapping[str, Any], where: str) -> bool:
        seq = window["seq"]
        devices, points = self.rosters.sizes(window["roster"])
        told, samples = self._unpacker.columns(window, devices, points), window["samples"]
        pairs = [(name, getattr(told, name), getattr(counted, name)) for name in
                 ("connected", "sampled", "producing", "changing")]
        pairs += [(name, samples[name], getattr(counted, name)) for name in ("received", "counted")]
        pairs += [(name, number, counted.discarded[name]) for name, number in samples["discarded"].items()]
        differing = [name for name, told_, again in pairs if told_ != again]
        for name in differing:
            self.found.fault(RECOUNT, "kept.differs", entry.name(seq), seq=seq, column=name, file=where)
        return not differing

    def _windows(self, value: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
        """Return start -> window of the shipped windows that an entry names; a start that stands twice is left out."""
        result: dict[int, Mapping[str, Any]] = {}
        twice: set[int] = set()
        for seq in range(value["from_seq"], value["to_seq"] + 1):
            window = self._decoded(seq)
            if window is not None and window["type"] == "window":
                twice |= {window["start_s"]} & result.keys()
                result[window["start_s"]] = window
        return {start_s: window for start_s, window in result.items() if start_s not in twice}

    def _decoded(self, seq: int) -> Mapping[str, Any] | None:
        data = self.log.entry(seq) if self.log.ships(seq) else None
        try:
            return None if data is None else entry.decode(data, seq=seq)
        except VerificationError:
            return None  # step 6 has said so

    def _terms(self, window: Mapping[str, Any] | None) -> Terms | None:
        """Return under what a window was counted; None if it is not shown, or what it rests on does not hold."""
        if window is None:
            return None
        rule = self._rule(window)
        try:
            if window["roster"] not in self._rosters:
                self._rosters = {window["roster"]: self.rosters.at(window["roster"])}
            self._unpacker.columns(window, *self.rosters.sizes(window["roster"]))
        except (KeyError, VerificationError):
            return None
        rows = self._rosters[window["roster"]]
        if rule is None or any(not 0 <= point.device < len(rows.devices) for point in rows.points):
            return None
        alive = [row.alive for row in rows.devices]
        return Terms(
            len_s=window["len_s"], usable=tuple(rule["usable"]), max_source_age_s=rule["max_source_age_s"],
            owner=[point.device for point in rows.points],
            points=[point.slot for point in rows.points if point.alive and alive[point.device]],
            devices=sum(1 << slot for slot, is_alive in enumerate(alive) if is_alive))

    def _rule(self, window: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the sealing rule of the last start before a window, found along the chain of life."""
        at = window["life"]
        while at >= 0:
            value = self._decoded(at)
            if value is None or value["life"] >= at:
                return None
            if value["type"] == "start":
                rule: Mapping[str, Any] = value["rule"]
                return rule
            at = value["life"]
        return None


def read_openings(openings: Sequence[tuple[str, Mapping[str, Any]]], log: Log, rows: Roster | None,
                  found: Findings) -> dict[int, Mapping[str, Any]]:
    """Return slot -> private part of the devices of this log that openings beside the bundle show.

    One that does not hold says nothing about the bundle: a remark.
    """
    shown: dict[int, Mapping[str, Any]] = {}
    for name, value in openings:
        where = also_where(name)
        try:
            if value.get("type") == OPENING:
                require(opening.FILE, value, where=where)
                bare = value["opening"]
            else:
                require(roster.OPENING, value, where=where)
                bare = value
            slot = bare["slot"]
            if bare["gateway"] != log.gateway:
                found.remark(ROSTER, "opening.unrelated", where, gateway=bare["gateway"])
                continue
            if value is not bare and _below_its_root(value, log, where):
                if rows is None or slot >= len(rows.devices) or rows.devices[slot].private_sha256 != \
                        value["row"]["private_sha256"]:
                    found.remark(ROSTER, "opening.older", where, slot=slot, roster=value["roster"])
            elif rows is None or slot >= len(rows.devices):
                found.remark(ROSTER, "opening.misplaced", where, slot=slot)
                continue
            else:
                row = rows.devices[slot]
                opening.verify(bare, private_sha256=row.private_sha256, kind=row.kind, tags=row.tags, where=where)
            found.remark(ROSTER, "opening.holds", where, slot=slot)
            shown[slot] = bare["private"]
        except VerificationError as error:
            _remark(found, ROSTER, error)
    return shown


def _below_its_root(value: Mapping[str, Any], log: Log, where: str) -> bool:
    """Check a file against the roster entry that it names; False if the bundle does not hold that entry.

    Raises: VerificationError if it is not below its root.
    """
    data = log.entry(value["roster"]) if log.ships(value["roster"]) else None
    if data is None:
        return False
    named = entry.decode(data, seq=value["roster"])
    if named["type"] != "roster":
        return False
    opening.verify_row(value, root=bytes.fromhex(named["devices_root"]), size=named["devices"], where=where)
    return True


def answers(demands: Sequence[Demand], newest_s: int | None, *, opened: Mapping[int, object], answered: set[int],
            windows: Windows, found: Findings) -> tuple[Answer, ...]:
    """Say which demands are answered by what was brought: devices that are opened, hours that came out of raw data.

    A deadline has passed when an independent co-signature of this bundle is later: no clock of ours decides. Silence
    makes no history invalid; it is printed.
    """
    by_hour: dict[int, list[int]] = {}
    for seq, start_s, state in zip(windows.seq, windows.start_s, windows.state, strict=True):
        if state != OVERLAPPED:
            by_hour.setdefault(start_s - start_s % HOUR_S, []).append(seq)
    result = []
    for demand in demands:
        slots = tuple(sorted(slot for slot in set(demand.slots) if slot not in opened))
        hours = tuple(sorted(hour for hour in set(demand.hours) if not by_hour.get(hour) or any(
            seq not in answered for seq in by_hour[hour])))
        passed = newest_s is not None and newest_s > demand.deadline_s
        reached = ANSWERED if not slots and not hours else UNANSWERED if passed else OPEN
        result.append(Answer(demand=demand, state=reached, slots=slots, hours=hours))
        if reached != ANSWERED:
            found.remark(REGISTER, "demand.unanswered" if passed else "demand.open",
                         f"register/{demand.index}.proof", slots=_list(slots), hours=_list(hours),
                         deadline_s=demand.deadline_s)
    return tuple(result)


LISTED = 10
"""Numbers told in one line; --json has all."""


def _remark(found: Findings, step: int, error: VerificationError) -> None:
    """Tell what is wrong with something that was brought along: it says nothing about the bundle."""
    for problem in error.problems:
        args: dict[str, Any] = {name: value for name, value in problem.args if name != "seq"}
        found.remark(step, problem.code, problem.where, **args)


def _list(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:LISTED]))
    return f"{shown} ... ({len(numbers)})" if len(numbers) > LISTED else shown or "-"

