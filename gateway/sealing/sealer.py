"""Closed windows into signed entries, in an order that leaves no window out and takes none in twice.

After any start: `start`, then an `outage` from the end of what is covered to the first window, then `roster` if it
changed; all three are sealed together. A window that the disk did not take is lost, and the next one that it takes
carries the outage before it. Methods block on the disk: call them in a thread, one at a time.
"""

from __future__ import annotations

import errno
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.counting.registry import Registry
from gateway.counting.rows import PointRows, Row
from gateway.counting.rule import Rule
from gateway.counting.window import ClosedWindow, Gap
from gateway.sealing import rosters
from gateway.sealing.history import History
from gateway.sealing.journal import STOPPED, Journal
from protocols.errors import EvidenceError, Problem
from protocols.evidence import column, keys, note
from protocols.evidence import signed as signed_format
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.entry import MILLISECONDS_MAX

Event = Callable[..., None]
"""event(code, where, **args): something a person should read."""

DEVICES_MAX = 120_000
POINTS_MAX = 120_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """What runs: version, and digest (64 hex) of what was installed."""

    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _Missing:
    """Time or a window that will be on the record as missing. samples: received for it; None if nobody knows."""

    reason: str
    samples: int | None


class Sealer:
    """Writes this gateway's log. `keyring`: its private keys, old ones too, so that any size can be signed again."""

    def __init__(self, journal: Journal, keyring: Sequence[Ed25519PrivateKey], event: Event, *,
                 clock_source: Callable[[], str] = lambda: "system") -> None:
        """Take over a journal. Raises: EvidenceError `sealing.no_key` if no key of the ring is the one in force."""
        self.journal = journal
        self._ring = {keys.public_bytes(key).hex(): key for key in keyring}
        self._event = event
        self._clock_source = clock_source
        self._missing: list[_Missing] = []
        self._tried = 0  # how many of them the append that failed last would have put on the record
        self._beginning = False
        self._devices: Sequence[Row] = ()
        self._points = PointRows()
        self._roots: tuple[str, str] | None = None
        self._roster_seq: int | None = None
        self.reload()

    @property
    def gateway(self) -> str:
        """Id of this gateway, "" before it is enrolled."""
        return self.journal.history.gateway

    @property
    def public_keys(self) -> list[bytes]:
        """Raw public halves of the key ring."""
        return [bytes.fromhex(public) for public in self._ring]

    def roster_rows(self) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        """Return device and point rows of the last sealed roster, in slot order: what a newer one has to continue."""
        return tuple(self._devices), tuple(self._points)

    def reload(self) -> None:
        """Read roster and keys anew: at start and after `Journal.take_over`."""
        if self.journal.size:
            self._key(self.journal.size)
        self._roster_seq = self.journal.history.roster
        if self._roster_seq is None:
            self._devices, self._points, self._roots = (), PointRows(), None
            return
        entry = self.journal.entry(self._roster_seq)
        self._devices, self._points = rosters.at(self.journal, self._roster_seq)
        self._roots = entry["devices_root"], entry["points_root"]

    def enrol(self, certificate: Mapping[str, Any]) -> None:
        """Seal the enrolment, the first entry. The same certificate again changes nothing.

        Raises: EvidenceError `sealing.enrolled_already` or `sealing.no_key`; OSError.
        """
        self.journal.settle()
        if self.journal.size:
            if self.journal.entry(0)["certificate"] != certificate:
                raise EvidenceError(Problem.of(self.journal.where, "sealing.enrolled_already", gateway=self.gateway))
            return
        public = certificate["gateway_key"]
        if public not in self._ring:
            raise EvidenceError(Problem.of(self.journal.where, "sealing.no_key", key=public))
        gateway = keys.gateway_id(bytes.fromhex(public))
        entry = {"type": "enrolment", "gateway": gateway, "seq": 0, "life": -1, "certificate": dict(certificate)}
        origin = keys.gateway_origin(gateway)
        self.journal.append([entry], lambda size, root: _note(origin, size, root, self._ring[public]))

    def begin(self, *, software: Software, rule: Rule, registry: Registry, opens_s: int,
              platform_size: int | None) -> None:
        """Seal `start`, `outage` and `roster` of a process that starts. `opens_s`: start of its first window.

        After `Journal.take_over` the windows of the replaced branch are sealed again here, with their start and
        `seen`. Raises: EvidenceError when not enrolled or when the roster does not continue the last one; OSError,
        and then `begin` may be called again.
        """
        if self._settle() and self._beginning:
            return
        if not self.journal.size:
            raise EvidenceError(Problem.of(self.journal.where, "sealing.not_enrolled"))
        branch = self.journal.branch
        resuming = branch.before is not None and self.journal.size == branch.taken
        draft = self._draft()
        draft.add("start", {
            "instance": secrets.token_hex(16), "software": {"version": software.version, "sha256": software.sha256},
            "rule": rule.entry(devices_max=DEVICES_MAX, points_max=POINTS_MAX),
            "local_size": self.journal.size, "platform_size": platform_size,
            "resealed_from": branch.common if resuming else None})
        if resuming:
            self._reseal(draft)
        if draft.covered_s is not None and draft.covered_s != opens_s:
            clean, samples = self._stopped()
            reason = "rollback" if resuming else "off" if clean else "crash"
            draft.outage(opens_s, "clock_back" if opens_s < draft.covered_s else reason, samples)
        self._beginning = True
        self._write(draft, registry)
        self._beginning = False

    def seal(self, closed: ClosedWindow, seen: Mapping[str, Any] | None) -> bool:
        """Seal a window; False if the disk did not take it, which is told by an event and sealed as an outage later.

        Raises: EvidenceError when the journal is broken or the window cannot follow what is sealed.
        """
        try:
            self._settle()
            draft = self._draft()
            covered_s = draft.covered_s
            if covered_s is not None and closed.start_s != covered_s:
                reasons = [missing.reason for missing in self._missing]
                if closed.start_s < covered_s and "clock_back" not in reasons:
                    raise EvidenceError(Problem.of(self.journal.where, "sealing.overlap", start=closed.start_s,
                                                   covered=covered_s))
                reason = "clock_back" if "clock_back" in reasons else reasons[0] if reasons else "crash"
                samples = [missing.samples for missing in self._missing]
                known = [n for n in samples if n is not None]
                draft.outage(closed.start_s, reason, sum(known) if samples and len(known) == len(samples) else None)
            self._tried = len(self._missing)
            self._write(draft, closed.registry, closed, seen)
        except OSError as error:
            self._missing.append(_Missing("disk_full", closed.received))
            self._event("sealing.disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "sealing.disk_error",
                        self.journal.where, start=closed.start_s, reason=error.strerror or error)
            return False
        self._missing.clear()
        return True

    def gap(self, gap: Gap) -> None:
        """Remember time that no window covers: the next window is sealed behind an outage that names it."""
        self._missing.append(_Missing(gap.reason, gap.samples))

    def next_seq(self) -> int:
        """Return the seq that the next entry will have. Raises: OSError while it is not known."""
        self._settle()
        return self.journal.size

    def record(self, kind: str, fields: Mapping[str, Any]) -> int:
        """Seal one entry that is no link of the gateway's life, such as a `probe`; return its seq.

        Raises: OSError when the disk does not take it, as far as is known: tried again, it is sealed once.
        """
        if self._settle():
            last = self.journal.entry(self.journal.size - 1)
            if {name: value for name, value in last.items() if name not in _HEADER} == dict(fields):
                return self.journal.size - 1
        draft = self._draft()
        self._tried = -1
        seq = draft.add(kind, fields)
        self.journal.append(draft.entries, self.sign)
        return seq

    def rotate(self, new_key: Ed25519PrivateKey) -> None:
        """Seal a change of key. The caller has made `new_key` durable before: larger checkpoints need it.

        Word of a clean stop stays: the process that begins next finds it behind the change. Raises: OSError.
        """
        self._settle()
        clean, samples = self._stopped()
        public = keys.public_bytes(new_key).hex()
        size = self.journal.size
        rotation = signed_format.sign(
            "rotation", {"gateway": self.gateway, "seq": size, "root": self.journal.tree.root().hex(),
                         "new_key": public}, self._key(size))
        self._ring[public] = new_key
        draft = self._draft()
        draft.add("key", {"rotation": rotation})
        self._tried = -1
        self.journal.append(draft.entries, lambda n, root: _note(self.journal.history.origin, n, root, new_key))
        if clean:
            self.stop(samples)

    def stop(self, samples: int | None = None) -> None:
        """Leave word of a clean stop: the outage that follows is `off`, not `crash`.

        samples: how many were received for the window that the stop cuts, None if nobody knows. Raises: OSError.
        """
        self._settle()
        mark = {"size": self.journal.size, "samples": samples}
        self.journal.disk.replace(STOPPED, json.dumps(mark).encode())

    def checkpoint_at(self, size: int) -> bytes:
        """Return a signed checkpoint of the first `size` entries, all of them sealed."""
        if not 0 < size <= self.journal.size:
            raise ValueError(f"size {size} of a log of {self.journal.size}")
        return self.sign(size, self.journal.tree.root(size))

    def sign(self, size: int, root: bytes) -> bytes:
        """Sign a checkpoint with the key that is in force at this size."""
        return _note(self.journal.history.origin, size, root, self._key(size))

    # Inside

    def _draft(self) -> _Draft:
        return _Draft(self.journal.history, self.journal.size)

    def _write(self, draft: _Draft, registry: Registry, closed: ClosedWindow | None = None,
               seen: Mapping[str, Any] | None = None) -> None:
        """Seal a draft, with the roster of `registry` if it is not the sealed one, and the window if there is one."""
        rows: dict[int, bytes] = {}
        if registry.roots != self._roots:
            rosters.require_extends(self._devices, self._points, registry.device_rows, registry.point_rows)
            devices = rosters.changed(self._devices, registry.device_rows)
            rows[draft.roster(registry)] = rosters.to_lines(
                devices, registry.point_rows, registry.point_rows.differing(self._points))
        if closed is not None:
            draft.window(closed, seen, self._clock_source())
        self.journal.append(draft.entries, self.sign, rows)
        self._devices, self._points, self._roots = registry.device_rows, registry.point_rows, registry.roots
        self._roster_seq = self.journal.history.roster

    def _settle(self) -> bool:
        """Return whether the append that failed last had taken effect after all."""
        if not self.journal.settle():
            return False
        # Its window is sealed, and before it the outage that names everything which was missing when it was tried.
        del self._missing[: self._tried + 1]
        if self.journal.history.roster != self._roster_seq:
            self.reload()
        return True

    def _key(self, size: int) -> Ed25519PrivateKey:
        public = self.journal.history.key_at(size)
        if public not in self._ring:
            raise EvidenceError(Problem.of(self.journal.where, "sealing.no_key", key=public))
        return self._ring[public]

    def _stopped(self) -> tuple[bool, int | None]:
        """Return whether the last process stopped cleanly, and the samples that were lost with the cut window."""
        try:
            mark = json.loads(self.journal.disk.read(STOPPED) or b"{}")
        except ValueError:
            return False, None
        if not isinstance(mark, dict) or mark.get("size") != self.journal.size:
            return False, None
        samples = mark.get("samples")
        return True, samples if isinstance(samples, int) and samples >= 0 else None

    def _reseal(self, draft: _Draft) -> None:
        """Seal the windows of the replaced branch again, as far as their roster is the one in force."""
        dropped = 0
        for value, roots in self.journal.replaced_windows():
            if roots != self._roots or draft.history.roster is None:
                dropped += 1
                continue
            covered_s = draft.covered_s
            if covered_s is not None and value["start_s"] != covered_s:
                draft.outage(value["start_s"], "rollback" if value["start_s"] > covered_s else "clone", None)
            draft.add("window", {name: item for name, item in value.items() if name not in _HEADER}
                      | {"roster": draft.history.roster})
        if dropped:
            self._event("sealing.not_resealed", self.journal.where, windows=dropped)


_HEADER = ("type", "gateway", "seq", "life")


class _Draft:
    """Entries that are about to be sealed together, each knowing those before it."""

    def __init__(self, history: History, size: int) -> None:
        self.history = history
        self.entries: list[dict[str, Any]] = []
        self._size = size

    @property
    def covered_s(self) -> int | None:
        """End of the last window or outage."""
        return self.history.covered_s

    def add(self, kind: str, fields: Mapping[str, Any]) -> int:
        """Add an entry; return its seq."""
        seq = self._size + len(self.entries)
        value = {"type": kind, "gateway": self.history.gateway, "seq": seq, "life": self.history.life, **fields}
        self.entries.append(value)
        self.history = self.history.after(value)
        return seq

    def outage(self, end_s: int, reason: str, samples: int | None) -> None:
        """Add an outage from the end of what is covered to `end_s`; a step back leaves no window missing."""
        assert self.history.covered_s is not None and self.history.len_s is not None
        start_s = self.history.covered_s
        windows = max(0, -((start_s - end_s) // self.history.len_s))
        self.add("outage", {"start_s": start_s, "end_s": end_s, "reason": reason,
                            "missing": {"windows": windows, "samples": samples}})

    def roster(self, registry: Registry) -> int:
        """Add a roster; return its seq."""
        return self.add("roster", {
            "devices_root": registry.devices_root, "points_root": registry.points_root, "devices": registry.devices,
            "points": registry.points, "ledger": {"sha256": registry.ledger.sha256, "date": registry.ledger.date,
                                                  "rows": registry.ledger.rows}})

    def window(self, closed: ClosedWindow, seen: Mapping[str, Any] | None, clock_source: str) -> None:
        """Add a window."""
        points = closed.registry.points
        columns = closed.columns
        self.add("window", {
            "start_s": closed.start_s, "len_s": closed.len_s, "roster": self.history.roster,
            "seen": None if seen is None else dict(seen),
            "clock": {"source": clock_source, "offset_ms": _clip(closed.offset_ms), "step_ms": _clip(closed.step_ms)},
            "samples": {"received": closed.received, "counted": closed.counted, "discarded": dict(closed.discarded)},
            "columns": {"connected": column.pack(columns.connected, closed.registry.devices),
                        "sampled": column.pack(columns.sampled, points),
                        "producing": column.pack(columns.producing, points),
                        "changing": column.pack(columns.changing, points)}})


def _clip(milliseconds: int) -> int:
    return max(-MILLISECONDS_MAX, min(MILLISECONDS_MAX, milliseconds))


def _note(origin: str, size: int, root: bytes, key: Ed25519PrivateKey) -> bytes:
    text = Checkpoint(origin, size, root).text
    return note.format_note(text, [note.sign(text, key, name=origin)])
