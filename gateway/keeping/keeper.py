"""Sealed windows into files that are promised in the log. Blocks on the disk: one worker thread, one call at a time.

    open/NAME.journal   windows of the segment that is not finished: a head and frames each, appended and synced
    NAME.parquet        a finished segment: at the end of the hour, at a gap, at a clean stop
    NAME.json           its promise: what the `keep` entry says, and the seq of that entry

The order of durable steps: journal of each window · file · `keep` entry · promise · the journal goes. A crash loses the
windows that were not appended yet; everything else is finished at the next start.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.keeping import segment
from gateway.keeping.spool import Chunk
from gateway.sealing.disk import Disk
from gateway.sealing.journal import Journal
from protocols.errors import VerificationError
from protocols.evidence.raw import BYTES_MAX, HOUR_S

OPEN = "open"
JOURNAL = ".journal"
FILE = ".parquet"
PROMISE = ".json"
SEGMENT_BYTES_MAX = BYTES_MAX // 2
"""A segment whose journal is longer ends before its hour: making the file holds it in memory."""

PROMISE_BYTES = 512
"""What a promise takes beside its file, and more."""

PROMISE_BYTES_MAX = 4096
NOT_IN_LOG = -1
_HEAD = struct.Struct(">II")  # length, CRC-32
Event = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A finished file: the fields of its `keep` entry."""

    from_seq: int
    to_seq: int
    name: str
    sha256: str
    bytes: int
    retain_until_s: int

    def fields(self) -> dict[str, Any]:
        """Return what `Sealer.record("keep", ...)` takes."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Head:
    """What stands before the frames of a window in a journal."""

    seq: int
    start_s: int
    len_s: int
    frames: int


@dataclass(slots=True)
class _Segment:
    stem: str
    start_s: int
    end_s: int
    bytes: int = 0
    windows: int = 0
    failed: bool = False


class Keeper:
    """The raw segments of one gateway.

    room(more): whether the disk budget takes so many bytes more. write: frames in order -> the file.
    """

    def __init__(self, disk: Disk, *, retain_s: int, room: Callable[[int], bool], event: Event,
                 write: Callable[[Iterator[bytes]], bytes] = segment.write_segment) -> None:
        self.disk = disk
        self._retain_s = retain_s
        self._room = room
        self._event = event
        self._write = write
        self._open: _Segment | None = None
        self.promises: dict[str, Kept] = {}
        self.full = False
        self.kept_windows = 0
        self.lost_windows = 0
        self.largest = 0
        """Bytes of the largest file of this run."""
        self.refused = 0
        """Bytes of the window that there was no room for."""
        for name in disk.names(""):
            if name.endswith(PROMISE):
                kept = self._read_promise(name)
                if kept is not None:
                    self.promises[kept.name] = kept

    @property
    def used_bytes(self) -> int:
        """What finished files and the open segment take on the disk."""
        return sum(kept.bytes + PROMISE_BYTES for kept in list(self.promises.values())) + (
            self._open.bytes if self._open else 0)

    def take(self, chunk: Chunk | None, seq: int | None) -> list[Kept]:
        """Add a window that was sealed at `seq`; return the segments that this finished.

        None for a window that was not collected in full, or not sealed: the segment ends before it. What the disk does
        not take is told, counted, and no reason to stop.
        """
        done: list[Kept] = []
        if chunk is None or seq is None:
            self.lost_windows += 1
            return self.finish()
        if not self._continues(chunk):
            done = self.finish()
            if self._open is not None:  # the disk did not take its end: it is tried again with the next window
                self.lost_windows += 1
                return done
        return done + self._append(chunk, seq)

    def finish(self) -> list[Kept]:
        """End the open segment, if there is one; return it when its file is durable. The caller records it."""
        open_ = self._open
        if open_ is None:
            return []
        journal = f"{OPEN}/{open_.stem}{JOURNAL}"
        try:
            if not open_.windows:
                self.disk.remove(journal)
                self._open = None
                return []
            kept = self._make(open_.stem, open_.bytes)
            if kept is None:
                self.kept_windows -= open_.windows
                self.lost_windows += open_.windows
                self.disk.remove(journal)
                self._open = None
                return []
        except OSError as error:
            open_.failed = True
            self._event("keep.disk", f"raw/{open_.stem}", reason=error.strerror or error)
            return []
        self._open = None
        self.promises[kept.name] = kept
        return [kept]

    def recorded(self, kept: Kept, seq: int) -> None:
        """Remember the promise that was sealed at `seq`, NOT_IN_LOG if none can be. Raises OSError."""
        stem = kept.name.removesuffix(FILE)
        self.promises[kept.name] = kept
        self.disk.replace(f"{stem}{PROMISE}", json.dumps(kept.fields() | {"seq": seq}).encode())
        self.disk.remove(f"{OPEN}/{stem}{JOURNAL}")

    def expire(self, now_s: int) -> int:
        """Delete the files whose promise has ended by `now_s`; return their bytes. Never another. Raises OSError."""
        freed = 0
        for kept in [k for k in list(self.promises.values()) if k.retain_until_s < now_s]:
            self.disk.remove(kept.name)
            self.disk.remove(kept.name.removesuffix(FILE) + PROMISE)  # last: a file without it would be promised anew
            del self.promises[kept.name]
            freed += kept.bytes
        return freed

    def recover(self, log: Journal) -> list[Kept]:
        """Finish what a crash left; return the files that the log in force does not promise yet. Raises OSError."""
        found: list[Kept] = []
        for name in self.disk.names(OPEN):
            stem = name.removesuffix(JOURNAL)
            if not self.disk.size(stem + FILE) and self._has_windows(stem):
                self._make(stem, self.disk.size(f"{OPEN}/{name}"))
            if not self.disk.size(stem + FILE) or self.disk.size(stem + PROMISE):
                self.disk.remove(f"{OPEN}/{name}")
        for name in self.disk.names(""):
            if name.endswith(PROMISE) and not self.disk.size(name.removesuffix(PROMISE) + FILE):
                self.disk.remove(name)
            elif name.endswith(FILE) and not self._stands(log, name):
                kept = self._adopt(log, name)
                if kept is not None:
                    self.promises[kept.name] = kept
                    found.append(kept)
        return found

    # Inside

    def _continues(self, chunk: Chunk) -> bool:
        open_ = self._open
        return open_ is not None and chunk.follows and not open_.failed and chunk.start_s == open_.end_s and \
            chunk.start_s // HOUR_S == open_.start_s // HOUR_S and open_.bytes < SEGMENT_BYTES_MAX

    def _append(self, chunk: Chunk, seq: int) -> list[Kept]:
        open_ = self._open or _Segment(self._stem(chunk.start_s, seq), chunk.start_s, chunk.start_s)
        frames = [part.result() for part in chunk.parts]
        frames.append(segment.pack_rest(chunk, chunk.samples, state=self._open is None))
        head = json.dumps({"seq": seq, "start_s": chunk.start_s, "len_s": chunk.len_s, "frames": len(frames)}).encode()
        data = b"".join(_HEAD.pack(len(part), zlib.crc32(part)) + part for part in (head, *frames))
        # The file comes beside the journal before the journal goes.
        if not self._room(open_.bytes + 2 * len(data)):
            self._tell_full(len(data))
            self.lost_windows += 1
            return self.finish()
        self.full = False
        path = f"{OPEN}/{open_.stem}{JOURNAL}"
        self._open = open_
        try:
            self.disk.append(path, data)
            self.disk.sync(path)
        except OSError as error:
            self._event("keep.disk", f"raw/{open_.stem}", reason=error.strerror or error)
            self.lost_windows += 1
            return self.finish()
        open_.bytes += len(data)
        open_.windows += 1
        open_.end_s = chunk.start_s + chunk.len_s
        self.kept_windows += 1
        return self.finish() if open_.end_s % HOUR_S == 0 else []

    def _tell_full(self, size: int) -> None:
        if not self.full:
            self._event("keep.full", "raw", size=size)
        self.full = True
        self.refused = size

    def _stem(self, start_s: int, seq: int) -> str:
        stem = f"raw-{datetime.fromtimestamp(start_s, UTC):%Y%m%dt%H}-{seq}"
        tried, number = stem, 1
        while self.disk.size(tried + FILE) or self.disk.size(f"{OPEN}/{tried}{JOURNAL}"):
            number += 1
            tried = f"{stem}-{number}"
        return tried

    def _make(self, stem: str, whole: int) -> Kept | None:
        """Write the file of a journal's first `whole` bytes; None if there is no room for it. Raises OSError."""
        path = f"{OPEN}/{stem}{JOURNAL}"
        heads: list[_Head] = []

        def frames() -> Iterator[bytes]:
            for head, parts in self._records(path, whole):
                heads.append(head)
                yield from parts

        data = self._write(frames())
        if not self._room(len(data) + PROMISE_BYTES):
            self._tell_full(len(data))
            return None
        self.disk.replace(stem + FILE, data)
        self.largest = max(self.largest, len(data))
        return self._kept(stem + FILE, data, heads[0].seq, heads[-1].seq, heads[-1].start_s + heads[-1].len_s)

    def _kept(self, name: str, data: bytes, from_seq: int, to_seq: int, end_s: int) -> Kept:
        return Kept(from_seq=from_seq, to_seq=to_seq, name=name, sha256=hashlib.sha256(data).hexdigest(),
                    bytes=len(data), retain_until_s=end_s + self._retain_s)

    def _records(self, path: str, whole: int) -> Iterator[tuple[_Head, list[bytes]]]:
        """Yield each whole window of a journal; stop at the first that is not."""
        at = 0

        def part() -> bytes | None:
            nonlocal at
            raw = self.disk.read(path, at, _HEAD.size) or b""
            if len(raw) < _HEAD.size:
                return None
            length, crc = _HEAD.unpack(raw)
            data = self.disk.read(path, at + _HEAD.size, length) if at + _HEAD.size + length <= whole else None
            if data is None or len(data) != length or zlib.crc32(data) != crc:
                return None
            at += _HEAD.size + length
            return data

        while (data := part()) is not None:
            try:
                head = _Head(**json.loads(data))
            except (ValueError, TypeError):  # zeros that a power cut left have a CRC that fits
                return
            frames = [part() for _ in range(head.frames)]
            if None in frames:
                return
            yield head, [frame for frame in frames if frame is not None]

    def _has_windows(self, stem: str) -> bool:
        path = f"{OPEN}/{stem}{JOURNAL}"
        return next(self._records(path, self.disk.size(path)), None) is not None

    def _read_promise(self, name: str) -> Kept | None:
        try:
            body = json.loads(self.disk.read(name, 0, PROMISE_BYTES_MAX) or b"")
            body.pop("seq")
            kept = Kept(**body)
        except (ValueError, TypeError, KeyError, AttributeError):
            self._event("keep.promise_unreadable", f"raw/{name}")
            return None
        return kept if self.disk.size(kept.name) else None

    def _stands(self, log: Journal, name: str) -> bool:
        """Return whether the log in force promises a file: a rollback may have taken the entry away."""
        try:
            body = json.loads(self.disk.read(name.removesuffix(FILE) + PROMISE, 0, PROMISE_BYTES_MAX) or b"{}")
            seq = body["seq"]
            return seq == NOT_IN_LOG or (0 <= seq < log.size and log.entry(seq).get("name") == name)
        except (ValueError, KeyError, TypeError):
            return False

    def _adopt(self, log: Journal, name: str) -> Kept | None:
        """Return a file as it must be promised; None if the log promises it already, or has none of its windows."""
        data = self.disk.read(name) or b""
        try:
            starts_s = segment.windows_of(data)
        except VerificationError as error:
            self._event("keep.unreadable", f"raw/{name}", reason=error.problems[0].code)
            return None
        place = _locate(log, starts_s, name)
        if place is None:
            self._event("keep.no_windows", f"raw/{name}")
            end_s = starts_s[-1] + HOUR_S
            self.recorded(self._kept(name, data, 0, 0, end_s), NOT_IN_LOG)
            return None
        from_seq, to_seq, end_s = place
        kept = self._kept(name, data, from_seq, to_seq, end_s)
        promised = find_promise(log, kept)
        if promised is not None:
            value = log.entry(promised)
            self.recorded(Kept(**{field: value[field] for field in kept.fields()}), promised)
            return None
        return kept


def find_promise(log: Journal, kept: Kept) -> int | None:
    """Return the seq of the entry that promises a file, None if there is none yet."""
    for seq in range(kept.to_seq + 1, log.size):
        value = log.entry(seq)
        if value["type"] == "keep" and value["name"] == kept.name:
            return seq
    return None


def _locate(log: Journal, starts_s: list[int], name: str) -> tuple[int, int, int] | None:
    """Return (seq of the first window, of the last, end) of a file's windows in a log; None if they are not there."""
    hint = int(name.removesuffix(FILE).split("-")[2])
    nearest = [hint] if hint < log.size else []
    for first in (*nearest, *range(log.size - 1, -1, -1)):
        if _is_window(log.entry(first), starts_s[0]):
            seq = first
            for start_s in starts_s[1:]:
                seq = next((s for s in range(seq + 1, log.size) if log.entry(s)["type"] == "window"), -1)
                if seq < 0 or not _is_window(log.entry(seq), start_s):
                    return None
            return first, seq, starts_s[-1] + int(log.entry(seq)["len_s"])
    return None


def _is_window(value: Mapping[str, Any], start_s: int) -> bool:
    return value["type"] == "window" and bool(value["start_s"] == start_s)
