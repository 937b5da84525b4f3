"""What an OPC UA session must remember, without a socket, a task or a clock of its own: time is an argument.

Seconds here are monotonic (`loop.time()`); nanoseconds are the gateway's wall clock.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

BACKOFF_FIRST_S = 0.5
BACKOFF_UNREACHABLE_CAP_S = 7.0
"""Nothing listens: trying is cheap, and data shall flow within 10 s of the server's return."""
BACKOFF_REFUSED_CAP_S = 30.0
"""The server answers and refuses: do not press it."""

RETRY_FIRST_S = 5.0
RETRY_CAP_S = 300.0

NO_SUCH_NODE = {0x80330000: "BadNodeIdInvalid", 0x80340000: "BadNodeIdUnknown"}
STATUS_CODE = 0xFFFF0000
"""The low half of a status are flags."""

KEEP_ALIVE_S = 5.0
LIFETIME_KEEP_ALIVES = 12
"""The server forgets a subscription whose client is gone after a minute; an orphan slows it for all others."""
STALE_KEEP_ALIVES = 3

LATENCY_S = 0.25
"""A server that takes longer to answer has enough to do."""

CLOCK_S = 60.0
"""How often a server is asked for its time."""
CLOCK_OFF_S = 5.0
"""A server whose clock is further off is told: its source times cannot be compared with ours."""


def batches(positions: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Cut positions into runs of at most `size`, in order."""
    for start in range(0, len(positions), size):
        yield positions[start:start + size]


def reads_at_once(now: int, took_s: float, most: int) -> int:
    """Return how many Reads to send together next: one more while the server answers quickly, half when it does not."""
    return max(1, now // 2) if took_s > LATENCY_S else min(most, now + 1)


def keep_alive_counts(publishing_interval_ms: float) -> tuple[int, int]:
    """Return (max keep-alive count, lifetime count) for one keep-alive in KEEP_ALIVE_S and a lifetime of a minute."""
    keep_alive = max(1, round(KEEP_ALIVE_S * 1000 / publishing_interval_ms))
    return keep_alive, keep_alive * LIFETIME_KEEP_ALIVES


def stale_after_s(publishing_interval_ms: float, keep_alive_count: int, timeout_s: float) -> float:
    """Return how long a subscription may be silent before it is dead: three keep-alives and one time-out."""
    return publishing_interval_ms / 1000 * keep_alive_count * STALE_KEEP_ALIVES + timeout_s


def backoff_s(attempt: int, cap_s: float, rng: random.Random) -> float:
    """Return the pause before attempt number `attempt` (0 is the first retry): doubling, capped, jittered by half."""
    return min(cap_s, BACKOFF_FIRST_S * 2.0 ** min(attempt, 16)) * rng.uniform(0.5, 1.0)


class Sequence32:
    """The sequence numbers of one subscription: 1, 2, ... 2^32 - 1, 1. Tells which notifications were missed."""

    __slots__ = ("_is_known", "_next")

    MISSING_MAX = 1000
    """A longer gap means another subscription or a confused server, not lost messages."""

    def __init__(self) -> None:
        self._next = 1
        self._is_known = True

    def taken_over(self) -> None:
        """The numbers go on from before us: the next response tells where they are and what the server still has."""
        self._is_known = False

    def missing(self, number: int, *, is_keep_alive: bool, available: Sequence[int] = ()) -> list[int]:
        """Take the number of a response; return the numbers that should have come before it.

        A keep-alive carries the number of the next notification without using it up. Numbers from before (a repeat)
        leave the expectation as it is. available: what the server keeps until it is acknowledged; it counts only in
        the first response after `taken_over`, where it holds what was under way to whom we follow.
        """
        if not self._is_known:
            self._is_known = True
            self._next = number if is_keep_alive else _after(number)
            return [kept for kept in available if kept != number or is_keep_alive][-self.MISSING_MAX:]
        gap = (number - self._next) % (2**32 - 1)
        if gap > self.MISSING_MAX:
            if gap < 2**31:
                self._next = number if is_keep_alive else _after(number)
            return []
        missed, expected = [], self._next
        for _ in range(gap):
            missed.append(expected)
            expected = _after(expected)
        self._next = expected if is_keep_alive else _after(number)
        return missed

    @property
    def expected(self) -> int:
        """The number of the next notification."""
        return self._next

    def skip(self) -> None:
        """The expected notification arrived by another way, or its number could not be read."""
        self._next = _after(self._next)


def _after(number: int) -> int:
    return number % (2**32 - 1) + 1


IDLE_TOGETHER = 0.8
"""Share of its period after which a silent device is read with others."""


class IdleDevices:
    """Which devices were silent for `idle_read_s`, and which of their points to read next.

    A device has the points `points_of[d]`, positions in the driver's list. Points are taken in turn, so that one bad
    node does not hide a device that lives.
    """

    __slots__ = ("_heard_s", "_idle_read_s", "_points_of", "_turn")

    def __init__(self, points_of: Sequence[Sequence[int]], idle_read_s: float, now_s: float) -> None:
        self._points_of = points_of
        self._idle_read_s = idle_read_s
        self._heard_s = np.full(len(points_of), now_s, dtype=np.float64)
        self._turn = [0] * len(points_of)

    def heard(self, devices: NDArray[np.int64], now_s: float) -> None:
        """A notification or a read result of these devices (positions, repeats allowed) arrived."""
        self._heard_s[devices] = now_s

    def due(self, now_s: float, usable: Sequence[bool]) -> list[int]:
        """Return one point (position) of each idle device and start its next period. `usable`: by point.

        Those that become idle a little later come along, so that one request serves many.
        """
        chosen: list[int] = []
        if now_s < self.next_due_s():
            return chosen
        for device in np.flatnonzero(now_s - self._heard_s >= self._idle_read_s * IDLE_TOGETHER).tolist():
            points = self._points_of[device]
            for step in range(len(points)):
                point = points[(self._turn[device] + step) % len(points)]
                if usable[point]:
                    self._turn[device] = (self._turn[device] + step + 1) % len(points)
                    chosen.append(point)
                    break
            self._heard_s[device] = now_s
        return chosen

    def next_due_s(self) -> float:
        """Return when the next device becomes idle."""
        return float(self._heard_s.min() + self._idle_read_s) if self._heard_s.size else float("inf")


class Retries:
    """Points whose monitored item the server refused: each is tried again with doubling pauses, for ever."""

    __slots__ = ("_attempt", "_due_s", "_rng", "_why")

    def __init__(self, rng: random.Random) -> None:
        self._why: dict[int, str] = {}
        self._attempt: dict[int, int] = {}
        self._due_s: dict[int, float] = {}
        self._rng = rng

    def __len__(self) -> int:
        return len(self._why)

    def failed(self, point: int, why: str, now_s: float) -> bool:
        """Note a failure; True when a person has not been told this reason yet."""
        is_news = self._why.get(point) != why
        self._why[point] = why
        attempt = self._attempt.get(point, -1) + 1
        self._attempt[point] = attempt
        pause_s = min(RETRY_CAP_S, RETRY_FIRST_S * 2.0 ** min(attempt, 16))
        self._due_s[point] = now_s + pause_s * self._rng.uniform(0.5, 1.0)
        return is_news

    def mended(self, point: int) -> bool:
        """Note a success; True when the point had failed before."""
        self._attempt.pop(point, None)
        self._due_s.pop(point, None)
        return self._why.pop(point, None) is not None

    def due(self, now_s: float) -> list[int]:
        """Return the points to try now, in order."""
        return sorted(point for point, due_s in self._due_s.items() if due_s <= now_s)

    def waiting(self, now_s: float) -> set[int]:
        """Return the points that are not to be tried yet."""
        return {point for point, due_s in self._due_s.items() if due_s > now_s}

    def next_due_s(self) -> float:
        """Return when the next point is due."""
        return min(self._due_s.values(), default=float("inf"))
