"""What was received, window by window, until the window is closed: arrays are kept as they came, nothing is copied.

All calls come from the loop thread. What a window holds beyond a part is packed in the worker thread meanwhile, so
that memory holds little more than the compressed form; past the limit the window is given up, which is counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.counting.window import Before
from protocols.samples import PollBatch, SampleBatch

PART_BYTES = 16 * 1024 * 1024
ROW_BYTES = 33
"""Of one sample: three int64, float64, uint8."""

BATCH_BYTES = 1024
"""What the objects around the arrays of one batch take."""

Batch = SampleBatch | PollBatch
Piece = tuple[Batch, NDArray[np.bool_] | None]
"""A batch, and which of its rows belong to the window; all of them if None."""

Packer = Callable[[int, list[Piece]], bytes]
Submit = Callable[..., "Future[bytes]"]


@dataclass(frozen=True, slots=True)
class Event:
    """Births or deaths that came in one call. index: the window that they fall in."""

    kind: str
    devices: NDArray[np.int64]
    received_ns: int
    index: int


@dataclass(slots=True, eq=False)
class Chunk:
    """What one window received. follows: it continues the chunk that was closed before. released: it was given up.

    answers: device -> [number, first time, last time] of its answers. parts: what is packed already or just now.
    samples: rows of all its pieces and parts. loose, held: bytes that wait to be packed, and all that it keeps.
    """

    start_s: int
    len_s: int
    before: Before | None = None
    follows: bool = False
    pieces: list[Piece] = field(default_factory=list)
    parts: list[Future[bytes]] = field(default_factory=list)
    answers: dict[int, list[int]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    discarded: dict[str, int] = field(default_factory=dict)
    samples: int = 0
    loose: int = 0
    held: int = 0
    released: bool = False


class Spool:
    """Implements gateway.counting.window.RawSink. `submit(pack, start_s, pieces)` runs in the worker thread."""

    def __init__(self, *, len_s: int, bytes_max: int, pack: Packer, submit: Submit) -> None:
        self._len_s = len_s
        self._bytes_max = bytes_max
        self._pack = pack
        self._submit = submit
        self._chunks: dict[int, Chunk] = {}
        self._before: Before | None = None
        self._follows = False
        self._events: list[Event] = []
        self._lock = threading.Lock()
        self._held = 0
        self._whole_from = 0
        self.paused = False
        """While set nothing is collected: there is no room for it on the disk."""

    @property
    def held_bytes(self) -> int:
        """What is in memory, packed or not."""
        return self._held

    def batch(self, batch: Batch, index: int | NDArray[np.int64]) -> None:
        """See RawSink."""
        if self.paused:
            return
        if not isinstance(index, np.ndarray):
            self._add(index, (batch, None), _rows(batch))
            return
        for one in np.unique(index).tolist():
            rows = index == one
            self._add(one, (batch, rows), int(np.count_nonzero(rows)))

    def answered(self, index: int, devices: NDArray[np.int64], received_ns: int) -> None:
        """See RawSink."""
        if self.paused:
            return
        answers = self._chunk(index).answers
        for device in devices.tolist():
            known = answers.get(device)
            if known is None:
                answers[device] = [1, received_ns, received_ns]
            else:
                known[0] += 1
                known[1] = min(known[1], received_ns)
                known[2] = max(known[2], received_ns)

    def event(self, kind: str, devices: NDArray[np.int64], received_ns: int, index: int) -> None:
        """See RawSink."""
        if not self.paused and devices.size:
            self._events.append(Event(kind, devices, received_ns, index))

    def discarded(self, index: int, reason: str, count: int) -> None:
        """See RawSink."""
        if not self.paused:
            discarded = self._chunk(index).discarded
            discarded[reason] = discarded.get(reason, 0) + count

    def opened(self, before: Before, *, follows: bool) -> None:
        """See RawSink."""
        self._before, self._follows = before, follows and self._follows
        self._events = []

    def dropped(self) -> None:
        """See RawSink."""
        for chunk in self._chunks.values():
            self.release(chunk)
        self._chunks = {}

    def closed(self, index: int) -> Chunk | None:
        """See RawSink. None for a window that was not collected in full."""
        chunk = self._chunk(index)
        del self._chunks[index]
        chunk.before, chunk.follows, chunk.events = self._before, self._follows, self._events
        self._follows = not chunk.released and not self.paused and index >= self._whole_from
        if not self._follows:
            self.release(chunk)
            return None
        if chunk.pieces:
            self._close_part(chunk)
        return chunk

    def pause(self) -> None:
        """Let go of everything and collect nothing."""
        self.paused = True
        self.dropped()

    def resume(self, index: int) -> None:
        """Collect again; windows before `index` have missed something and are not whole."""
        self.paused = False
        self._whole_from = index

    def release(self, chunk: Chunk) -> None:
        """Give back the memory of a chunk that is written, or that nobody wants."""
        with self._lock:
            self._held -= chunk.held
            chunk.held = 0
            chunk.released = True
        chunk.pieces, chunk.parts, chunk.loose = [], [], 0

    def _chunk(self, index: int) -> Chunk:
        chunk = self._chunks.get(index)
        if chunk is None:
            chunk = self._chunks[index] = Chunk(index * self._len_s, self._len_s)
        return chunk

    def _add(self, index: int, piece: Piece, rows: int) -> None:
        chunk = self._chunk(index)
        if chunk.released:
            return
        size = rows * ROW_BYTES + BATCH_BYTES + _texts_bytes(piece[0])
        if self._held + size > self._bytes_max:
            self.release(chunk)
            return
        with self._lock:
            self._held += size
            chunk.held += size
        chunk.loose += size
        chunk.samples += rows
        chunk.pieces.append(piece)
        if chunk.loose >= PART_BYTES:
            self._close_part(chunk)

    def _close_part(self, chunk: Chunk) -> None:
        pieces, size = chunk.pieces, chunk.loose
        chunk.pieces, chunk.loose = [], 0
        future = self._submit(self._pack, chunk.start_s, pieces)
        chunk.parts.append(future)
        future.add_done_callback(lambda done: self._packed(chunk, size, done))

    def _packed(self, chunk: Chunk, size: int, done: Future[bytes]) -> None:
        """Count the packed form instead of the loose one. Called in the worker thread."""
        if done.cancelled() or done.exception() is not None:
            return  # told by whoever asks for the result; the memory is given back with the chunk
        with self._lock:
            if not chunk.released:
                self._held += len(done.result()) - size
                chunk.held += len(done.result()) - size


def _rows(batch: Batch) -> int:
    return batch.value.size - batch.missing.size if isinstance(batch, PollBatch) else batch.point_index.size


def _texts_bytes(batch: Batch) -> int:
    return 0 if isinstance(batch, PollBatch) else sum(100 + 4 * len(text) for _, text in batch.texts)
