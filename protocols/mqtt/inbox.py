"""The bounded hand-over from the network thread to the event loop. What does not fit is counted, never forgotten."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from protocols.errors import Problem

MESSAGES_MAX = 20_000
BYTES_MAX = 32 * 1024 * 1024
ITEM_BYTES = 300
"""What a message costs beside its payload: topic, object, place in the queue."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message of a broker. payload: None if it was too large to be kept. received_ns: UTC, by this gateway."""

    topic: str
    payload: bytes | None
    is_retained: bool
    received_ns: int


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


class Inbox:
    """Thread-safe. `put` and `put_note` are for the network thread, `take` and `take_dropped` for the event loop.

    wake: called by the network thread when there is something to take after there was nothing.
    """

    def __init__(self, wake: Callable[[], None], *, messages_max: int = MESSAGES_MAX, bytes_max: int = BYTES_MAX
                 ) -> None:
        self._wake = wake
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._items: deque[Incoming | Note] = deque()
        self._messages = 0
        self._bytes = 0
        self._dropped: dict[str, Dropped] = {}

    def put(self, item: Incoming, source: str, count: Callable[[], int]) -> None:
        """Queue a message, or count it under its source (one of a known, bounded set of names) if there is no room.

        count: tells how many samples the message holds; called only if it is dropped. Counting takes time, which
        slows the network thread down, and with it the broker: this is meant.
        """
        size = ITEM_BYTES + len(item.payload or b"")
        with self._lock:
            fits = self._messages < self._messages_max and self._bytes + size <= self._bytes_max
            if fits:
                was_empty = not self._items and not self._dropped
                self._items.append(item)
                self._messages += 1
                self._bytes += size
        if not fits:
            samples = count()
            with self._lock:
                was_empty = not self._items and not self._dropped
                dropped = self._dropped.setdefault(source, Dropped())
                dropped.messages += 1
                dropped.samples += samples
        if was_empty:
            self._wake()

    def put_note(self, note: Note) -> None:
        """Queue a note; notes are few and are never dropped."""
        with self._lock:
            was_empty = not self._items and not self._dropped
            self._items.append(note)
        if was_empty:
            self._wake()

    def take(self, count_max: int) -> list[Incoming | Note]:
        """Return the oldest items, in the order they came."""
        with self._lock:
            taken = [self._items.popleft() for _ in range(min(count_max, len(self._items)))]
            for item in taken:
                if isinstance(item, Incoming):
                    self._messages -= 1
                    self._bytes -= ITEM_BYTES + len(item.payload or b"")
            return taken

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
