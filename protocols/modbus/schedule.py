"""When each unit is polled next, and how long to wait before connecting again. Pure; time and chance are arguments.

A unit that does not answer costs a timeout each time it is asked. So it is asked ever more rarely, and the units that
share its line keep their rate.
"""

from __future__ import annotations

from dataclasses import dataclass

DEMOTE_AFTER = 3
"""Requests in a row without an answer after which a unit is silent: asked rarely, with one read. A line that loses one
frame in ten does this once in a thousand requests."""

SILENT_FIRST_S = 2.0
SILENT_MAX_S = 30.0
RECONNECT_FIRST_S = 0.5
RECONNECT_MAX_S = 30.0


@dataclass(frozen=True, slots=True)
class UnitState:
    """One unit as its poller sees it. due_s: when it is polled next, on the loop's monotonic clock."""

    due_s: float
    failures: int = 0

    @property
    def is_silent(self) -> bool:
        """Whether it is demoted: polled rarely, with one read only."""
        return self.failures >= DEMOTE_AFTER

    def answered(self, *, now_s: float, poll_s: float) -> UnitState:
        """Return the state after a whole poll. Due times keep their grid; a missed poll is not made up for."""
        due_s = self.due_s + poll_s
        return UnitState(due_s if due_s > now_s else now_s)

    def failed(self, *, now_s: float, poll_s: float, chance: float) -> UnitState:
        """Return the state after a poll without a reply. chance: uniform in [0, 1)."""
        failures = self.failures + 1
        if failures < DEMOTE_AFTER:
            return UnitState(max(now_s, self.due_s + poll_s), failures)
        wait_s = backoff_s(failures - DEMOTE_AFTER, first_s=SILENT_FIRST_S, cap_s=SILENT_MAX_S, chance=chance)
        return UnitState(now_s + max(wait_s, poll_s), failures)


class Pace:
    """When the line and each unit may be spoken to again: pauses after replies, least intervals between requests."""

    def __init__(self) -> None:
        self._line_s = float("-inf")
        self._unit_s: dict[int, float] = {}

    def unit_ready_s(self, unit: int) -> float:
        """Return the earliest moment of the next request to this unit, as far as the unit itself is concerned."""
        return self._unit_s.get(unit, float("-inf"))

    def line_ready_s(self) -> float:
        """Return the earliest moment of the next request to anybody."""
        return self._line_s

    def started(self, unit: int, *, now_s: float, interval_ms: int) -> None:
        """A request to this unit is sent."""
        if interval_ms:
            self._unit_s[unit] = now_s + interval_ms / 1000

    def ended(self, *, now_s: float, pause_ms: int) -> None:
        """The reply is there, or was waited for in vain."""
        self._line_s = now_s + pause_ms / 1000


def backoff_s(attempt: int, *, first_s: float, cap_s: float, chance: float) -> float:
    """Return first_s doubled `attempt` times, at most cap_s, less up to a quarter: so that many do not come at once."""
    return min(cap_s, first_s * 2.0 ** min(attempt, 32)) * (1.0 - 0.25 * chance)


def reconnect_s(attempt: int, *, chance: float) -> float:
    """Return the wait before connecting for the `attempt`-th time without a valid reply since; the first is at once."""
    if attempt <= 0:
        return 0.0
    return backoff_s(attempt - 1, first_s=RECONNECT_FIRST_S, cap_s=RECONNECT_MAX_S, chance=chance)
