"""When each server key is challenged, and within which limits. Pure; time and chance are arguments.

A server is asked at most every `every_s`; what fails is tried again ever more rarely, up to a day. Whatever happens,
one server has one challenge in flight, two of them are MIN_GAP_S apart, and no hour holds more than `max_per_hour`.
Several connections to one key are one server.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

HOUR_S = 3600.0
MIN_GAP_S = 4.0
RETRY_FIRST_S = 60.0
RETRY_MAX_S = 86_400.0
FIRST_SPREAD_S = 30.0
"""The first challenge after a start comes within this time, so that a hundred servers are not asked at once."""
JITTER = 0.1
IN_FLIGHT_MAX = 4
"""Challenges of the whole gateway at a time: each costs this machine two private-key operations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often one server key may be asked."""

    every_s: float
    max_per_hour: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server key. due_s: when it is asked next at the earliest. asked_s: the starts of the last hour, ascending."""

    due_s: float
    asked_s: tuple[float, ...] = ()
    failures: int = 0
    in_flight: bool = False

    def may_be_asked(self, now_s: float, pace: Pace) -> bool:
        """Return whether asking now keeps every limit."""
        return not self.in_flight and now_s >= max(self.due_s, self._free_s(pace))

    def _free_s(self, pace: Pace) -> float:
        """Return the time before which the limits of load forbid another challenge."""
        if not self.asked_s:
            return 0.0
        gap_s = self.asked_s[-1] + MIN_GAP_S
        if len(self.asked_s) < pace.max_per_hour:
            return gap_s
        return max(gap_s, self.asked_s[-pace.max_per_hour] + HOUR_S)

    def asked(self, now_s: float) -> Server:
        """Return the server with a challenge in flight."""
        return replace(self, asked_s=(*(at for at in self.asked_s if at > now_s - HOUR_S), now_s), in_flight=True)

    def answered(self, pace: Pace, chance: float) -> Server:
        """Return the server after a good answer. chance: uniform in [0, 1)."""
        return replace(self, in_flight=False, failures=0,
                       due_s=self.asked_s[-1] + pace.every_s * (1 + JITTER * chance))

    def failed(self, now_s: float, pace: Pace, chance: float) -> Server:
        """Return the server after no answer: the wait doubles each time, up to a day."""
        wait_s = min(RETRY_MAX_S, min(RETRY_FIRST_S, pace.every_s) * 2.0 ** min(self.failures, 32))
        return replace(self, in_flight=False, failures=self.failures + 1, due_s=now_s + wait_s * (1 + JITTER * chance))


class Schedule:
    """All server keys of a gateway, by the digest of their key."""

    def __init__(self, pace: Pace, remembered: Mapping[str, Server] | None = None) -> None:
        """`remembered`: servers of the run before, with their times on the clock of this one."""
        self._pace = pace
        self._servers: dict[str, Server] = {}
        self._remembered = dict(remembered or {})

    @property
    def servers(self) -> Mapping[str, Server]:
        """The servers that are known now."""
        return self._servers

    def know(self, keys: Collection[str], now_s: float, chance: float) -> None:
        """Take note of the keys that servers show now. A key that is shown no more is forgotten when it is free."""
        for key in keys:
            if key not in self._servers:
                known = self._remembered.pop(key) if key in self._remembered else None
                self._servers[key] = known or Server(due_s=now_s + min(FIRST_SPREAD_S, self._pace.every_s) * chance)
        for key in [k for k, server in self._servers.items() if k not in keys and not server.in_flight]:
            self._remembered[key] = self._servers.pop(key)

    def due(self, now_s: float) -> list[str]:
        """Return the keys to ask now, those that wait longest first; each of them is then in flight."""
        free = IN_FLIGHT_MAX - sum(server.in_flight for server in self._servers.values())
        ready = sorted((server.due_s, key) for key, server in self._servers.items()
                       if server.may_be_asked(now_s, self._pace))
        keys = [key for _, key in ready[:max(0, free)]]
        for key in keys:
            self._servers[key] = self._servers[key].asked(now_s)
        return keys

    def answered(self, key: str, chance: float) -> None:
        """The server signed."""
        self._servers[key] = self._servers[key].answered(self._pace, chance)

    def failed(self, key: str, now_s: float, chance: float) -> None:
        """The server did not."""
        self._servers[key] = self._servers[key].failed(now_s, self._pace, chance)
