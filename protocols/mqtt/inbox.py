"""The bounded hand-over from the network thread to the event loop. What does not fit is counted, never forgotten."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from protocols.errors import Problem
from protocols.mqtt.frames import Messages

MESSAGES_MAX = 20_000
BYTES_MAX = 32 * 1024 * 1024
GIVE_WAY_S = 0.25
"""How long the network thread may wait for the event loop to take something."""

ITEM_BYTES = 300
"""What a message costs beside its bytes on the wire: topic, object, place in the queue."""


class Incoming(NamedTuple):
    """One message of a broker. payload: None if it was too large to be kept. received_ns: UTC, by this gateway.

    is_retained: it tells of another time: kept for whoever subscribes, or for us while we were away.
    """

    topic: str
    payload: bytes | None
    is_retained: bool
    received_ns: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Messages that arrived together. size: their bytes on the wire, at least."""

    received_ns: int
    messages: Messages
    size: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker answered every subscription; `refused` are the topics it keeps from us."""

    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostState:
    """Somebody said on our own STATE topic that we are offline."""


@dataclass(frozen=True, slots=True)
class Down:
    """The connection has ended, or never came about."""

    problem: Problem


Note = Subscribed | HostState | Down


@dataclass(slots=True)
class Dropped:
    """What one source lost to a full queue."""

    messages: int = 0
    samples: int = 0


Count = Callable[[bytes, bytes | None], tuple[str, int]]
"""Topic and payload of a message -> its source, one of a known and bounded set of names, and how many samples it is."""


class Inbox:
    """Thread-safe. `put`, `give_way` and `put_note` are for the network thread, the others for the event loop.

    wake: called by the network thread when there is something to take after there was nothing.
    """

    def __init__(self, wake: Callable[[], None], *, messages_max: int = MESSAGES_MAX, bytes_max: int = BYTES_MAX
                 ) -> None:
        self._wake = wake
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._taken = threading.Condition(self._lock)
        self._is_stuck = False
        self._is_waiting = False
        self._items: deque[Chunk | Note] = deque()
        self._messages = 0
        self._bytes = 0
        self._dropped: dict[str, Dropped] = {}

    def put(self, chunk: Chunk, count: Count) -> None:
        """Queue messages, and count under its source each for which there is no room.

        count: called only for what is dropped. Counting takes time, which slows the network thread down, and with it
        the broker: this is meant.
        """
        number = len(chunk.messages)
        cost = chunk.size + ITEM_BYTES * number
        with self._lock:
            was_empty = not self._items and not self._dropped
            fits = self._messages + number <= self._messages_max and self._bytes + cost <= self._bytes_max
            if fits:
                self._add(chunk)
        if not fits:
            was_empty = self._put_some(chunk, count)
        if was_empty:
            self._wake()

    def _put_some(self, chunk: Chunk, count: Count) -> bool:
        messages = chunk.messages
        sizes = [len(topic) + len(payload or b"") for topic, payload, _ in messages]
        with self._lock:
            taken, size = 0, 0
            while (taken < len(sizes) and self._messages + taken < self._messages_max
                   and self._bytes + size + sizes[taken] + (taken + 1) * ITEM_BYTES <= self._bytes_max):
                size += sizes[taken]
                taken += 1
            was_empty = not self._items and not self._dropped
            if taken:
                self._add(Chunk(chunk.received_ns, messages.part(0, taken), size))
        lost = [count(topic, payload) for topic, payload, _ in messages.part(taken, len(messages))]
        with self._lock:
            was_empty = was_empty or (not self._items and not self._dropped)  # all may have been taken meanwhile
            for source, samples in lost:
                dropped = self._dropped.setdefault(source, Dropped())
                dropped.messages += 1
                dropped.samples += samples
        return was_empty

    def _add(self, chunk: Chunk) -> None:
        self._items.append(chunk)
        self._messages += len(chunk.messages)
        self._bytes += chunk.size + ITEM_BYTES * len(chunk.messages)

    def give_way(self) -> None:
        """Wait a moment while the queue is more than half full and is being emptied.

        Both threads share one interpreter, and the one that reads would else leave the other too little of it. The
        network keeps what comes meanwhile. Where nobody takes anything there is no use in waiting.
        """
        with self._taken:
            if self._is_crowded() and not self._is_stuck:
                self._is_waiting = True
                self._is_stuck = not self._taken.wait(GIVE_WAY_S)
                self._is_waiting = False

    def _is_crowded(self) -> bool:
        return 2 * self._messages > self._messages_max or 2 * self._bytes > self._bytes_max

    def put_note(self, note: Note) -> None:
        """Queue a note; notes are few and are never dropped."""
        with self._lock:
            was_empty = not self._items and not self._dropped
            self._items.append(note)
        if was_empty:
            self._wake()

    def take(self) -> Chunk | Note | None:
        """Return the oldest item, None if there is none."""
        with self._lock:
            if not self._items:
                return None
            item = self._items.popleft()
            if isinstance(item, Chunk):
                self._messages -= len(item.messages)
                self._bytes -= item.size + ITEM_BYTES * len(item.messages)
                self._is_stuck = False
                if self._is_waiting and not self._is_crowded():
                    self._taken.notify()
            return item

    def take_dropped(self) -> dict[str, Dropped]:
        """Return what was dropped since the last call, by source."""
        with self._lock:
            dropped, self._dropped = self._dropped, {}
            return dropped

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take."""
        with self._lock:
            return not self._items and not self._dropped
