"""Reads at instants that a nonce decides, for protocols whose devices hold no key (protocols/evidence/reads.py).

In a drawn window each drawn Modbus point is read at its millisecond, over the connection of the poll and within its
limits; of a drawn MQTT point the first live sample from its millisecond on is taken. The values go into a transcript
that stays in the factory. They are not delivered to counting: a point counts by its poll or its messages alone.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gateway.counting.registry import Registry
from protocols.evidence import reads
from protocols.samples import BAD, NOT_LIVE, PollBatch, Reading, SampleBatch

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
LATE_NS_MAX = NS_PER_S
"""A window whose start was missed by more is not drawn: its first instants have passed."""

ROUNDS_MAX = 3
EXACT_MAX = 2**53
TEXT_CHARS_MAX = 256
PASSIVE = ("mqtt", "sparkplug_b")
"""Nobody asks for these: their messages come when they come."""


Tap = Callable[[Callable[[SampleBatch | PollBatch], None] | None], None]
"""tap(look): have every batch shown to `look` from now on; to nobody with None."""


class Reader(Protocol):
    """What a driver can do whose points are read on demand."""

    @property
    def readable(self) -> frozenset[int]:
        """Slots of its points."""

    async def read_once(self, point_index: int) -> Reading | None:
        """Read one point now; None if it could not be asked."""


@dataclass(slots=True)
class _Row:
    point: int
    at_ms: int
    blind: str
    passive: bool
    asked_ms: int | None = None
    answered_ms: int | None = None
    value: str | None = None

    def entry(self, i: int) -> dict[str, Any]:
        return {"i": i, "point": self.point, "at_ms": self.at_ms, "asked_ms": self.asked_ms,
                "answered_ms": self.answered_ms, "value": self.value, "blind": self.blind}


class Round:
    """What is read in one drawn window, and what came back. Times are ns of window time; it has no clock."""

    def __init__(self, *, gateway: str, seen: Mapping[str, Any], start_s: int, len_s: int, registry: Registry,
                 count: int, blind: Callable[[], str] = lambda: secrets.token_hex(16)) -> None:
        self.seen = dict(seen)
        self.start_s = start_s
        self.registry = registry
        self._start_ns = start_s * NS_PER_S
        self._end_ns = (start_s + len_s) * NS_PER_S
        drawn = reads.schedule(seen, gateway=gateway, start_s=start_s, len_s=len_s, points=eligible(registry),
                               count=count)
        self._rows = [_Row(point, at_ms, blind(), registry.point_rows.facts(point)[0] in PASSIVE)
                      for point, at_ms in drawn]

    @property
    def active(self) -> list[tuple[int, int, int]]:
        """Return (i, point slot, instant in ns) of the rows that are asked for."""
        return [(i, row.point, self._start_ns + row.at_ms * NS_PER_MS)
                for i, row in enumerate(self._rows) if not row.passive]

    @property
    def waits(self) -> bool:
        """Whether samples that arrive are still looked for."""
        return any(row.passive and row.answered_ms is None for row in self._rows)

    @property
    def answered(self) -> int:
        """Rows with an answer."""
        return sum(row.answered_ms is not None for row in self._rows)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the transcript as they stand now."""
        return [row.entry(i) for i, row in enumerate(self._rows)]

    def read(self, i: int, reading: Reading) -> None:
        """Take the answer to an active row; one from behind the window is none."""
        row = self._rows[i]
        if reading.asked_ns >= self._end_ns:
            return
        row.asked_ms = self._ms(reading.asked_ns)
        if reading.value is not None and reading.answered_ns is not None and reading.answered_ns < self._end_ns:
            row.answered_ms, row.value = self._ms(reading.answered_ns), text_of(reading.value)

    def samples(self, batch: SampleBatch | PollBatch) -> None:
        """Take from a batch what a passive row waits for: live, not bad, received from its instant on."""
        if isinstance(batch, PollBatch):
            return
        waiting: dict[int, list[_Row]] = {}
        for row in self._rows:
            if row.passive and row.answered_ms is None:
                waiting.setdefault(row.point, []).append(row)
        live = ((batch.quality & NOT_LIVE) == 0) & (batch.quality != BAD) & (batch.received_ns < self._end_ns)
        hits = np.flatnonzero(live & np.isin(batch.point_index, list(waiting)))
        texts = dict(batch.texts) if hits.size else {}
        for position in hits[np.argsort(batch.received_ns[hits], kind="stable")].tolist():
            received_ns = int(batch.received_ns[position])
            for row in waiting[int(batch.point_index[position])]:
                if row.answered_ms is None and received_ns >= self._start_ns + row.at_ms * NS_PER_MS:
                    row.answered_ms = self._ms(received_ns)
                    row.value = text_of(texts.get(position, float(batch.value[position])))

    def _ms(self, at_ns: int) -> int:
        return (at_ns - self._start_ns) // NS_PER_MS


def eligible(registry: Registry) -> list[int]:
    """Return the slots that may be drawn, ascending: alive, and of a protocol without keys."""
    rows = registry.point_rows
    return [slot for slot, (alive, protocol) in enumerate(zip(rows.alive().tolist(), rows.protocols(), strict=True))
            if alive and protocol in reads.PROTOCOLS]


def text_of(value: float | str) -> str:
    """Return a value as the transcript holds it: text as it is, an integer in digits, any other number by repr."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()[:TEXT_CHARS_MAX]
    return str(int(value)) if value.is_integer() and abs(value) <= EXACT_MAX else repr(value)


class Reads:
    """Draws windows, carries their reads out, and hands a round over when its window has been sealed."""

    def __init__(self, *, gateway: str, len_s: int, per_window: int, every_s: int, now_ns: Callable[[], int],
                 seen: Callable[[], Mapping[str, Any] | None], registry_at: Callable[[int], Registry],
                 readers: Sequence[Reader], tap: Tap) -> None:
        """Prepare; nothing is read.

        Args:
            now_ns: window time. registry_at: of the window that starts then. tap: have every batch shown to a function,
            or to nobody.
        """
        self._gateway = gateway
        self._len_s = len_s
        self._per_window = per_window
        self._every_s = every_s
        self._now_ns = now_ns
        self._seen = seen
        self._registry_at = registry_at
        self._readers: Sequence[Reader] = readers
        self._tap = tap
        self._drawn_s: int | None = None
        self._rounds: list[Round] = []  # the open window's, and those whose window waits to be sealed
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, readers: Sequence[Reader]) -> None:
        """From now on these are asked: drivers may be exchanged while the gateway runs."""
        self._readers = readers

    async def run(self) -> None:
        """Draw and read until cancelled."""
        if not self._per_window:
            await asyncio.get_running_loop().create_future()
        try:
            while True:
                now_ns = self._now_ns()
                start_s = (now_ns // NS_PER_S // self._len_s + 1) * self._len_s
                await self._sleep_until(start_s * NS_PER_S)
                if 0 <= self._now_ns() - start_s * NS_PER_S <= LATE_NS_MAX:
                    self.open(start_s)
        finally:
            self._tap(None)
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def is_due(self, start_s: int) -> bool:
        """Return whether this window is drawn: the first in each interval of UTC, and the first after a start."""
        return self._drawn_s is None or start_s // self._every_s != self._drawn_s // self._every_s

    def open(self, start_s: int) -> None:
        """Begin the round of a window that opens now, if it is drawn and there is a nonce."""
        seen = self._seen()
        if seen is None or not self.is_due(start_s):
            return
        self._drawn_s = start_s
        drawn = Round(gateway=self._gateway, seen=seen, start_s=start_s, len_s=self._len_s,
                      registry=self._registry_at(start_s), count=self._per_window)
        self._rounds = [*self._rounds[1 - ROUNDS_MAX:], drawn]
        self._set_tap()
        readers = [(reader, reader.readable) for reader in self._readers]  # asked once: it may be long to make
        for i, point, at_ns in drawn.active:
            reader = next((reader for reader, readable in readers if point in readable), None)
            if reader is not None:
                task = asyncio.create_task(self._read(drawn, i, point, at_ns, reader), name=f"read {point}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def take(self, start_s: int, registry: Registry) -> Round | None:
        """Return the round of the window that was just sealed with this roster; one that was passed over is let go."""
        found = [r for r in self._rounds if r.start_s == start_s and r.registry.roots == registry.roots and r.rows]
        self._rounds = [r for r in self._rounds if r.start_s > start_s]
        self._set_tap()
        return found[0] if found else None

    async def _read(self, drawn: Round, i: int, point: int, at_ns: int, reader: Reader) -> None:
        await self._sleep_until(at_ns)
        reading = await reader.read_once(point)
        if reading is not None and drawn in self._rounds:
            drawn.read(i, reading)

    def _sample(self, batch: SampleBatch | PollBatch) -> None:
        for drawn in self._rounds:
            if drawn.waits:
                drawn.samples(batch)
        self._set_tap()

    def _set_tap(self) -> None:
        self._tap(self._sample if any(drawn.waits for drawn in self._rounds) else None)

    async def _sleep_until(self, at_ns: int) -> None:
        left_ns = at_ns - self._now_ns()
        while left_ns > 0:  # the loop's clock may wake us a moment early
            await asyncio.sleep(left_ns / NS_PER_S)
            left_ns = at_ns - self._now_ns()
