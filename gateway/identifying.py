"""Asks devices who they are while the gateway runs: gently, on the connections that are there, and seldom.

What they show is held against the ledger; contradictions are told once, and stand in the status as long as they last.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.commissioning import identity
from gateway.commissioning.connect import Driver
from gateway.commissioning.identity import Facts, Finding
from gateway.counting.registry import Registry
from gateway.standing import Standing

log = logging.getLogger(__name__)

FIRST_S = 5.0
"""A connection is given so long to come up before its devices are asked."""

LOOK_S = 1.0
RETRY_FIRST_S, RETRY_CAP_S = 30.0, 3600.0
TOLD_MAX = 10
"""New findings of one round that are told one by one; the status has them all."""

LISTED_MAX = 1000

@dataclass(slots=True)
class _Turn:
    """When a connection is asked next, for this driver of it."""

    driver: Driver
    due_s: float
    retry_s: float = RETRY_FIRST_S


class Identifying:
    """Facts of the devices behind all connections. `drivers`: by connection, as they are now."""

    def __init__(self, standing: Standing, drivers: Mapping[str, Driver], adopt: Callable[[Registry], int],
                 tell: Callable[..., None], *, every_s: float,
                 clock_s: Callable[[], float] = time.monotonic) -> None:
        self._standing = standing
        self._drivers = drivers
        self._adopt = adopt
        self._tell = tell
        self._every_s = every_s
        self._clock_s = clock_s
        self._turns: dict[str, _Turn] = {}
        self._facts: dict[str, list[Facts]] = {}
        self._findings: list[Finding] = []
        self._shown = 0
        self._asked_s: int | None = None

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Ask the connections whose turn it is, all at once, and take in what they show."""
        now_s = self._clock_s()
        for name, driver in self._drivers.items():
            if name not in self._turns or self._turns[name].driver is not driver:
                self._turns[name] = _Turn(driver, now_s + FIRST_S)
                self._facts.pop(name, None)  # the same names may stand for other machines now
        gone = self._turns.keys() - self._drivers.keys()
        for name in gone:
            del self._turns[name]
            self._facts.pop(name, None)
        due = [name for name, turn in self._turns.items() if turn.due_s <= now_s]
        if not due and not gone:
            return
        answered = await asyncio.gather(*map(self._ask, due))
        if any(answered) or gone:
            await self._judge()

    async def _ask(self, name: str) -> bool:
        """Return whether the devices of a connection could be asked."""
        turn, standing = self._turns[name], self._standing
        try:
            slots = standing.roster.device_slots()
            facts = await identity.gather(standing.config, name, turn.driver, slots)
        except Exception as error:  # who a device is must never end what counts it; it is asked again
            log.debug("%s was not asked who it is: %s: %s", name, type(error).__name__, error)
            turn.due_s = self._clock_s() + turn.retry_s
            turn.retry_s = min(RETRY_CAP_S, turn.retry_s * 2)
            return False
        if self._drivers.get(name) is not turn.driver:  # it was exchanged meanwhile
            return False
        self._facts[name] = facts
        turn.due_s = self._clock_s() + self._every_s
        turn.retry_s = RETRY_FIRST_S
        return True

    async def _judge(self) -> None:
        facts = [seen for listed in self._facts.values() for seen in listed]
        config = self._standing.config
        found = await asyncio.to_thread(identity.findings, config, facts)
        read = await asyncio.to_thread(identity.confirmed, config, facts, found)
        self._shown = sum(bool(seen.shown()) for seen in facts)
        self._asked_s = int(time.time())
        self._say_news(found)
        self._findings = found
        await self._standing.learn(read, self._adopt)

    def _say_news(self, found: list[Finding]) -> None:
        known = set(self._findings)
        news = [finding for finding in found if finding not in known]
        for finding in news[:TOLD_MAX]:
            self._tell(finding.code, self._standing.config.devices_file.name, **dict(finding.args))
        if len(news) > TOLD_MAX:
            self._tell("identity.more", self._standing.config.file.name, more=len(news) - TOLD_MAX)

    def report(self) -> dict[str, Any]:
        """Return what `status` shows. findings: with the devices they are about; more: how many are not listed."""
        return {"asked_s": self._asked_s, "devices": self._shown,
                "findings": [{"code": finding.code, "devices": list(finding.devices), "args": dict(finding.args)}
                             for finding in self._findings[:LISTED_MAX]],
                "more": max(0, len(self._findings) - LISTED_MAX)}
