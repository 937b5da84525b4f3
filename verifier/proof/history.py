"""Step 6: the life of the gateway: place of every entry, the chain of `life`, windows contiguous or an outage.

`life` leads from the last entry back to the enrolment over every entry that tells the gateway's life, so a bundle
for one day cannot hide an outage or a key change of another.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import column, entry, keys, signed
from protocols.evidence.entry import LIFE_TYPES
from verifier.proof.findings import CHECKPOINT, LOG, Findings
from verifier.proof.log import Log, Signers

OVERLAP_REASONS = ("clock_back", "clone")
"""Outages after which a window may start earlier; earlier windows that end after that start are not counted."""

HOUR_S = 3600
Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Birth:
    """What the enrolment at seq 0 must say: this certificate, or, for a gateway that the policy lists, this key.

    signers: who may sign the certificate of a listed gateway, beside its recovery key.
    """

    certificate: Entry | None
    first_key: bytes
    signers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Outage:
    """A hole on the record. `windows` is how many windows are missing."""

    seq: int
    start_s: int
    end_s: int
    reason: str
    windows: int


COUNTED, OVERLAPPED, OUTSIDE = 0, 1, 2
UNKNOWN = -1


@dataclass(slots=True)
class Windows:
    """Every window of the interval that holds, in log order: one number a column, about 50 bytes a window.

    state: COUNTED, OVERLAPPED (a later window took its place) or OUTSIDE (its time is not trusted).
    not_before_s, not_after_s: independent co-signatures around it, UNKNOWN if there is none.
    """

    seq: array[int] = field(default_factory=lambda: array("i"))  # below 256 for each tile that a bundle may hold
    start_s: array[int] = field(default_factory=lambda: array("q"))
    end_s: array[int] = field(default_factory=lambda: array("q"))
    roster: array[int] = field(default_factory=lambda: array("i"))
    not_before_s: array[int] = field(default_factory=lambda: array("q"))
    not_after_s: array[int] = field(default_factory=lambda: array("q"))
    state: bytearray = field(default_factory=bytearray)
    _live: array[int] = field(default_factory=lambda: array("i"))
    """Places of the windows that no later one took back: they lie in the order of time."""

    def __len__(self) -> int:
        return len(self.seq)

    def add(self, window: Entry, *, not_before_s: int, not_after_s: int, state: int) -> None:
        """Append one window."""
        self.seq.append(window["seq"])
        self.start_s.append(window["start_s"])
        self.end_s.append(window["start_s"] + window["len_s"])
        self.roster.append(window["roster"])
        self.not_before_s.append(not_before_s)
        self.not_after_s.append(not_after_s)
        self.state.append(state)
        self._live.append(len(self.seq) - 1)

    def covered(self) -> tuple[int, int] | None:
        """Return (start, end) in seconds of the time that the windows cover, together with the outages between."""
        if not self:
            return None
        return min(s for s, state in zip(self.start_s, self.state, strict=True) if state != OVERLAPPED), self.end_s[-1]

    def take_back(self, start_s: int) -> list[int]:
        """Mark windows that end after `start_s` as overlapped; return their seqs, newest first."""
        taken = []
        while self._live and self.end_s[self._live[-1]] > start_s:
            i = self._live.pop()
            self.state[i] = OVERLAPPED
            taken.append(self.seq[i])
        return taken


@dataclass(slots=True)
class History:
    """Walks the entries in order. What it yields is in its place and tells one consistent life.

    Nothing is said about a stretch of entries that the bundle does not hold; the life chain bridges it.
    """

    log: Log
    birth: Birth
    signers: Signers
    ends_at: int | None
    found: Findings
    outages: list[Outage] = field(default_factory=list)
    certificate: Entry | None = None
    _lasting: list[int] = field(default_factory=list)
    """Places in `outages` of those that end after they begin: one behind the other in time."""
    _key: bytes | None = None
    _len_s: int | None = None
    _roster: int | None = None
    _broken: bool = False
    _last_seq: int = -1
    _life: int | None = -1
    _window_end_s: int | None = None
    _edge_s: int | None = None

    @property
    def end(self) -> int:
        """Number of entries that count: the log ends at a revocation."""
        size = self.log.checkpoint.size
        return size if self.ends_at is None else min(size, self.ends_at)

    @property
    def key(self) -> bytes | None:
        """The gateway's raw key in force at the entry that was yielded last; None if it is not proven."""
        return self._key

    @property
    def len_s(self) -> int | None:
        """Length of windows at that entry; None before the first `start`."""
        return self._len_s

    @property
    def edge_s(self) -> int | None:
        """Where the next window must start; None where no window or outage stands before it without a hole."""
        return self._edge_s

    def walk(self) -> Iterator[Entry]:
        """Yield the entries that later steps read, in order, those of the life chain outside the tiles too:
        `roster`, `window`, `outage`, `probe`, `reads` and `keep`.
        """
        self._key = self.birth.first_key
        chain = self._chain()
        for value in chain:
            if value["seq"] < self.log.first and self._step(value):
                yield value
        for seq, data in self.log.stream(self.end):
            try:
                value = entry.decode(data, seq=seq)
            except VerificationError as error:
                self.found.refuse(LOG, error, seq=seq)
                continue
            if self._step(value):
                yield value
        for value in chain:
            if value["seq"] >= self.log.end and self._step(value):
                yield value
        known = self._key is not None and not self._broken
        if known and self.end == self.log.checkpoint.size and self._key != self.signers.signer:
            self.found.fault(CHECKPOINT, "checkpoint.old_key", "checkpoint")

    def _chain(self) -> list[Entry]:
        """Return the entries of the life chain from the last entry back, oldest first, as far as they hold."""
        chain: list[Entry] = []
        self._broken = True  # until the walk has reached the first entry
        at, above = self.end - 1, self.end
        while at >= 0:
            data = self.log.entry(at)
            if data is None:
                if not self.log.ships(at):  # else step 5 has said what is wrong there
                    self.found.fault(LOG, "life.broken", entry.name(at), seq=at, after=above)
                break
            value = self.found.get(LOG, at, entry.decode, data, seq=at)
            if value is None:
                break
            if value["life"] >= at or (above < self.end and value["type"] not in LIFE_TYPES):
                self.found.fault(LOG, "life.false", entry.name(at), seq=at, life=value["life"])
                break
            if value["type"] in LIFE_TYPES:
                chain.append(value)
            at, above = value["life"], at
        else:
            self._broken = False
        return chain[::-1]

    def _step(self, value: Entry) -> bool:
        """Check the place of one entry and what it says; return whether later steps read it."""
        seq, kind = value["seq"], value["type"]
        if kind == "window" and 0 < self._last_seq == seq - 1 and (
                value["life"] == self._life and value["gateway"] == self.log.gateway):
            self._last_seq = seq  # as nearly always: none of the checks of its place below would say anything
            return self._window(value)
        where = entry.name(seq)
        if self._last_seq == -1 and seq != 0 and not self._broken:
            self.found.fault(LOG, "enrolment.missing", "entry/0", seq=0)
        if self._last_seq == 0 and (seq, kind) != (1, "start"):
            self.found.fault(LOG, "start.missing", "entry/1", seq=1)
        if seq != self._last_seq + 1:  # a stretch that is not shipped, or an entry that did not hold
            self._window_end_s = self._edge_s = None
            if self._broken or self.log.first < seq < self.log.end:
                self._life = None
        self._last_seq = seq
        if value["gateway"] != self.log.gateway:
            self.found.fault(LOG, "entry.gateway", where, seq=seq, gateway=value["gateway"])
        if self._life is not None and value["life"] != self._life:
            self.found.fault(LOG, "life.false", where, seq=seq, life=value["life"])
        self._life = seq if kind in LIFE_TYPES else value["life"]
        if (seq == 0) != (kind == "enrolment"):
            self.found.fault(LOG, "enrolment.misplaced", where, seq=seq)

        match kind:
            case "window":
                return self._window(value)
            case "enrolment":
                if self.found.holds(LOG, seq, self._enrolment, value["certificate"], where=where):
                    self.certificate = value["certificate"]
            case "start":
                self._start(value, where)
            case "key":
                held = self._key is not None and self.found.holds(LOG, seq, self._rotation, value, where=where)
                self._key = bytes.fromhex(value["rotation"]["new_key"]) if held else None
            case "roster":
                self._roster = seq
                bits = value["devices"] + 3 * value["points"]
                if bits > column.BITS_MAX:
                    self.found.fault(LOG, "roster.too_large", where, seq=seq, bits=bits, limit=column.BITS_MAX)
                return True
            case "outage":
                self._outage(value, where)
                return True
            case "probe" | "reads" | "keep":
                return True
            case _:
                self.found.remark(LOG, "entry.unknown_type", where, seq=seq, type=kind)
        return False

    def take_back(self, start_s: int) -> None:
        """Shorten the outages that reach beyond `start_s`, where the next window begins: a clock was set back."""
        while self._lasting:
            i = self._lasting[-1]
            outage = self.outages[i]
            if outage.end_s <= start_s:
                break
            end_s = max(start_s, outage.start_s)
            windows = outage.windows * (end_s - outage.start_s) // (outage.end_s - outage.start_s)
            self.outages[i] = replace(outage, end_s=end_s, windows=windows)
            if end_s > outage.start_s:
                break
            self._lasting.pop()

    def _enrolment(self, certificate: Entry, *, where: str) -> None:
        if self.birth.certificate is not None:
            if certificate != self.birth.certificate:
                raise VerificationError(Problem.of(where, "enrolment.differs"))
            return
        if certificate["gateway_key"] != self.birth.first_key.hex():
            raise VerificationError(Problem.of(where, "enrolment.differs"))
        signed.verify("certificate", certificate, where=where,
                      signers=self.birth.signers | {certificate["recovery_key"]})

    def _start(self, value: Entry, where: str) -> None:
        self._len_s = value["rule"]["len_s"]
        if HOUR_S % value["rule"]["len_s"]:
            self.found.fault(LOG, "start.window_length", where, seq=value["seq"], len_s=value["rule"]["len_s"])
        if value["resealed_from"] is not None:
            self.found.remark(LOG, "start.resealed", where, seq=value["seq"], size=value["resealed_from"])

    def _rotation(self, value: Entry, *, where: str) -> None:
        """Check a key change: signed by the key before it, over this place and the root of all entries below."""
        rotation, seq = value["rotation"], value["seq"]
        signed.verify("rotation", rotation, signers={(self._key or b"").hex()}, where=where)
        keys.check_public(bytes.fromhex(rotation["new_key"]), where=where)
        if (rotation["gateway"], rotation["seq"], rotation["root"]) != (
                self.log.gateway, seq, self.log.tree.root(seq).hex()):
            raise VerificationError(Problem.of(where, "key.misplaced"))

    def _outage(self, value: Entry, where: str) -> None:
        seq, start_s, end_s = value["seq"], value["start_s"], value["end_s"]
        if self._window_end_s is not None and start_s not in (self._window_end_s, self._edge_s):
            self.found.fault(LOG, "outage.start", where, seq=seq, start_s=start_s, expected_s=self._window_end_s)
        if end_s < start_s and value["reason"] not in OVERLAP_REASONS:
            self.found.fault(LOG, "outage.order", where, seq=seq, start_s=start_s, end_s=end_s)
        if self._len_s is not None:
            missing = max(0, -(-(end_s - start_s) // self._len_s))
            if value["missing"]["windows"] != missing:
                self.found.fault(LOG, "outage.missing", where, seq=seq, windows=value["missing"]["windows"],
                                 expected=missing)
        self._edge_s = end_s
        if end_s > start_s:
            self._lasting.append(len(self.outages))
        self.outages.append(Outage(seq, start_s, end_s, value["reason"], value["missing"]["windows"]))

    def _window(self, value: Entry) -> bool:
        """Return whether the window is where and as long as it must be."""
        seq, start_s, len_s = value["seq"], value["start_s"], value["len_s"]
        edge_s = self._edge_s
        self._window_end_s = self._edge_s = start_s + len_s
        if len_s == self._len_s and value["roster"] == self._roster and start_s == edge_s and not start_s % len_s:
            return True
        where, refused = entry.name(seq), False
        if len_s != self._len_s:
            refused |= self.found.fault(LOG, "window.length", where, seq=seq, len_s=len_s, expected_s=self._len_s)
        if start_s % len_s:
            refused |= self.found.fault(LOG, "window.alignment", where, seq=seq, start_s=start_s, len_s=len_s)
        if value["roster"] != self._roster:
            refused |= self.found.fault(LOG, "window.roster", where, seq=seq, roster=value["roster"])
        if edge_s is not None and start_s != edge_s:
            code = "window.gap" if start_s > edge_s else "window.overlap"
            refused |= self.found.fault(LOG, code, where, seq=seq, start_s=start_s, expected_s=edge_s)
        return not refused
