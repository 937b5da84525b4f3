"""Step 10, first half: probes and reads that nobody could prepare, one entry at a time.

A probe holds when its `seen` was co-signed by an independent witness, its challenge is made of that `seen`, of the
gateway's key in force, of its window and of the server's key, and the server's key signed it. What it proves is
possession: a server with this key answered this gateway after that co-signature. It does not say where the server is.

Place: `start_s` is the window in which the server was asked. Questions overlap the sealing of windows, so it may be
up to two windows before or one behind the place where the entry stands: between the windows and outages around it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import entry, keys, probe
from protocols.evidence.encoding import from_base64
from verifier.proof.bracket import Brackets, is_outside
from verifier.proof.findings import PROBES, Findings
from verifier.proof.history import COUNTED, OUTSIDE, OVERLAPPED, UNKNOWN, History, Windows
from verifier.proof.rows import Rosters

WINDOWS_BEFORE, WINDOWS_BEHIND = 2, 1
"""How far `start_s` may lie from the windows around the entry: an answer may take a while, sealing too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A probe that holds: the server key whose SPKI has this SHA-256 answered in the window [start_s, end_s).

    not_before_s: co-signature that the server cannot have answered before. not_after_s: co-signature that includes
    the entry, UNKNOWN if none does. state: of verifier.proof.history, as for windows.
    """

    seq: int
    start_s: int
    end_s: int
    spki_sha256: str
    not_before_s: int
    not_after_s: int
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """A `reads` entry that holds; `value` is the entry, len_s the length of its window. See transcripts.py."""

    seq: int
    len_s: int
    value: Mapping[str, Any]


@dataclass(slots=True)
class _Waiting:
    """An entry whose place is judged at the next window: `around` are the edges of windows and outages near it."""

    kind: str
    seq: int
    start_s: int
    len_s: int
    around: list[int]


@dataclass(slots=True)
class Probes:
    """Takes the `probe` and `reads` entries of a walk, with the windows and outages between them.

    valid: probes that hold. unanchored: their `seen` is of a witness whom the policy does not call independent, so
    they may be old. unsupported: of a security policy whose signatures this version cannot check. invalid: refused.
    """

    history: History
    brackets: Brackets
    rosters: Rosters
    found: Findings
    valid: list[Probe] = field(default_factory=list)
    reads: list[Reads] = field(default_factory=list)
    unanchored: int = 0
    unsupported: int = 0
    invalid: int = 0
    _waiting: list[_Waiting] = field(default_factory=list)
    _remarks: dict[tuple[str, tuple[tuple[str, str], ...]], list[int]] = field(default_factory=dict)
    _certificates: dict[str, bool] = field(default_factory=dict)
    _servers: list[frozenset[str]] = field(default_factory=list)

    def take(self, value: Mapping[str, Any]) -> None:
        """Take one entry of the walk; of types that do not concern probes nothing is kept."""
        match value["type"]:
            case "window":  # as nearly always
                if self._waiting:
                    self._arrive(value["start_s"])
            case "probe":
                self._place(value)
                self._probe(value)
            case "reads":
                self._place(value)
                self._reads(value)
            case "outage":
                for waiting in self._waiting:
                    waiting.around += [value["start_s"], value["end_s"]]
            case "roster":
                known = self.rosters.last()
                rows = () if known is None else known.devices
                # A roster is in force from the next window on, so answers to the one before may still come.
                self._servers = [*self._servers[-1:], frozenset(
                    row.server_spki_sha256 for row in rows if row.alive and row.server_spki_sha256 is not None)]

    def take_back(self, start_s: int, before: int) -> None:
        """A window at `start_s` takes the place of later ones below entry `before`: so it does with their probes."""
        for i in range(len(self.valid) - 1, -1, -1):
            one = self.valid[i]
            if one.seq < before and one.end_s > start_s:
                self.valid[i] = replace(one, state=OVERLAPPED)

    def close(self, windows: Windows) -> None:
        """Judge what needs the whole interval, and record the remarks: one for all probes of a kind."""
        rosters: dict[int, set[int]] = {one.value["start_s"]: set() for one in self.reads}
        for i, start_s in enumerate(windows.start_s if rosters else ()):
            if start_s in rosters:  # two windows may start then, if the clock was set back between them
                rosters[start_s].add(windows.roster[i])
        for one in self.reads:
            in_force = rosters[one.value["start_s"]]
            if in_force and one.value["roster"] not in in_force:
                self.found.fault(PROBES, "reads.roster", entry.name(one.seq), seq=one.seq, roster=one.value["roster"],
                                 expected=max(in_force))
        for (code, args), (first, count) in self._remarks.items():
            self.found.remark(PROBES, code, entry.name(first), seq=first, count=count, **dict(args))

    # Inside

    def _probe(self, value: Mapping[str, Any]) -> None:
        seq, where = value["seq"], entry.name(value["seq"])
        server = from_base64(value["server_spki"], where=where)
        certificate = from_base64(value["client_certificate"], where=where)
        # Each is looked at, whatever the others say: all faults in one run.
        before_s, held = self._seen(value, "probe")
        for check in (self._challenge, self._certificate):
            held &= self.found.holds(PROBES, seq, check, value, certificate, server, where=where)
        signed = True
        try:
            probe.verify_signature(
                policy_uri=value["policy_uri"], server_spki=server, client_certificate=certificate,
                c=bytes.fromhex(value["c"]), signature=from_base64(value["signature"], where=where), where=where)
        except VerificationError as error:
            signed = error.problems[0].code != "probe.unsupported"
            if signed:
                held &= not self.found.refuse(PROBES, error, seq=seq)
            else:
                self._remark("probe.unsupported", seq, policy_uri=value["policy_uri"])
        if not held:
            self.invalid += 1
            return
        spki_sha256 = probe.spki_sha256(server)
        if self._servers and not any(spki_sha256 in known for known in self._servers):
            self._remark("probe.unknown_server", seq, spki_sha256=spki_sha256)
        if not signed:
            self.unsupported += 1
        elif before_s == UNKNOWN:
            self.unanchored += 1
        else:
            end_s, after_s = value["start_s"] + (self.history.len_s or 0), self.brackets.not_after(seq)
            self.valid.append(Probe(
                seq=seq, start_s=value["start_s"], end_s=end_s, spki_sha256=spki_sha256, not_before_s=before_s,
                not_after_s=after_s, state=OUTSIDE if is_outside(end_s, before_s, after_s) else COUNTED))

    def _challenge(self, value: Mapping[str, Any], certificate: bytes, server: bytes, *, where: str) -> None:
        """The challenge is of this gateway, this window, this server and this `seen`: not old, not borrowed."""
        key = self.history.key
        if key is None:
            return  # step 6 has said what is wrong with a key change before
        c = probe.challenge(value["seen"], gateway_spki=keys.spki(key), start_s=value["start_s"], server_spki=server)
        if c.hex() != value["c"]:
            raise VerificationError(Problem.of(where, "probe.challenge"))

    def _certificate(self, value: Mapping[str, Any], certificate: bytes, server: bytes, *, where: str) -> None:
        digest = hashlib.sha256(certificate).hexdigest()
        if digest not in self._certificates:
            self._certificates[digest] = probe.probe_certificate_holds(certificate, value["gateway"])
        if not self._certificates[digest]:
            raise VerificationError(Problem.of(where, "probe.certificate"))

    def _reads(self, value: Mapping[str, Any]) -> None:
        seq, where = value["seq"], entry.name(value["seq"])
        _, held = self._seen(value, "reads")
        if value["answered"] > value["rows"]:
            held &= not self.found.fault(PROBES, "reads.answered", where, seq=seq, answered=value["answered"],
                                         expected=value["rows"])
        if held and self.history.len_s is not None:
            self.reads.append(Reads(seq=seq, len_s=self.history.len_s, value=value))

    def _seen(self, value: Mapping[str, Any], kind: str) -> tuple[int, bool]:
        """Return the time of `seen`, UNKNOWN without an independent witness of the policy, and whether it holds."""
        seq, where, witness = value["seq"], entry.name(value["seq"]), value["seen"]["witness"]
        try:
            time_s = self.brackets.seen_time(value["seen"], where=where)
        except VerificationError as error:
            if any(problem.code == "seen.bad_signature" for problem in error.problems):
                error = VerificationError(Problem.of(where, f"{kind}.seen", witness=witness))
            return UNKNOWN, not self.found.refuse(PROBES, error, seq=seq)
        if time_s == UNKNOWN:
            self._remark(f"{kind}.seen_unknown", seq, witness=witness)
        return time_s, True

    def _place(self, value: Mapping[str, Any]) -> None:
        edge_s, len_s = self.history.edge_s, self.history.len_s
        if len_s is None:
            return  # step 6 has said that the first start is missing
        if value["start_s"] % len_s:
            self.found.fault(PROBES, f"{value['type']}.window", entry.name(value["seq"]), seq=value["seq"],
                             start_s=value["start_s"])
            return
        self._waiting.append(_Waiting(value["type"], value["seq"], value["start_s"], len_s,
                                      [] if edge_s is None else [edge_s]))

    def _arrive(self, start_s: int) -> None:
        """The next window after some entries has come: now it is known where they stand."""
        for waiting in self._waiting:
            around = [*waiting.around, start_s]
            earliest = min(around) - WINDOWS_BEFORE * waiting.len_s
            if not earliest <= waiting.start_s <= max(around) + WINDOWS_BEHIND * waiting.len_s:
                self.found.fault(PROBES, f"{waiting.kind}.window", entry.name(waiting.seq), seq=waiting.seq,
                                 start_s=waiting.start_s)
        self._waiting.clear()

    def _remark(self, code: str, seq: int, **args: object) -> None:
        key = (code, tuple(sorted((name, str(value)) for name, value in args.items())))
        self._remarks.setdefault(key, [seq, 0])[1] += 1
