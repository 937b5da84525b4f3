"""What a running gateway counts: configuration and roster in force, and how a newer one takes their place.

A roster is durable before it is sealed, so that a crash in between never gives a sealed slot to another device. Every
change is made in the disk's thread, as one of 100 000 points takes seconds, and one after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from config.gateway import GatewayConfig
from gateway.commissioning import roster as slots
from gateway.commissioning.connect import Driver, aims, build_drivers
from gateway.commissioning.state import State
from gateway.counting.registry import Ledger, Registry
from gateway.reload import Changes, changes
from protocols import system
from protocols.samples import Sink

log = logging.getLogger(__name__)

OnDisk = Callable[..., Awaitable[Any]]
"""Runs what blocks on the disk in the one thread for it, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A configuration that was taken over. drivers: the new ones. devices: slots whose connection ends.

    at_s: the roster is in force from this window on; the drivers are to be exchanged then.
    """

    changes: Changes
    drivers: dict[str, Driver]
    devices: list[int]
    is_new_roster: bool
    at_s: int = 0


class Standing:
    """Configuration, roster and server keys in force."""

    def __init__(self, config: GatewayConfig, state: State, on_disk: OnDisk) -> None:
        """Build the roster of the ledger on the slots that exist, and keep it. Raises ConfigError, EvidenceError."""
        self.config = config
        self.server_keys = state.server_keys()
        self._state = state
        self._on_disk = on_disk
        self._changing = asyncio.Lock()
        self.roster = self._evolved(slots.load(state.roster_file), config, self.server_keys)
        slots.save(self.roster, state.roster_file)
        self._registry: Registry | None = None

    def registry(self) -> Registry:
        """Return the roster as arrays."""
        ledger = Ledger(sha256=self.config.ledger_sha256, date=self.config.ledger_date,
                        rows=len(self.config.devices))
        self._registry = Registry.of(self.roster.device_rows(), self.roster.point_rows(), ledger,
                                     before=self._registry)
        return self._registry

    async def follow_server_keys(self, drivers: Mapping[str, Driver], adopt: Callable[[Registry], int]) -> None:
        """A server that showed another key changes the rows of the devices behind it, from the next window on.

        A disk that does not take it is no reason to stop counting: it is tried again after the next window.
        """
        shown = dict(self.server_keys)
        for name, driver in drivers.items():
            digest = getattr(driver, "server_spki_sha256", lambda: None)()
            if digest is not None:
                shown[name] = digest
        if shown == self.server_keys:
            return
        async with self._changing:
            try:
                registry = await self._on_disk(self._with_server_keys, shown)
            except OSError as error:
                log.warning("not written: %s", error)
                return
            adopt(registry)
            await self._on_disk(system.release_memory)

    async def learn(self, read: Mapping[str, Mapping[str, str]], adopt: Callable[[Registry], int]) -> None:
        """Put identifiers that devices have shown into the roster, from the next window on. `read`: see `evolve`."""
        async with self._changing:
            try:
                registry = await self._on_disk(self._with_identifiers, read)
            except OSError as error:
                log.warning("not written: %s", error)
                return
            if registry is not None:
                adopt(registry)
            await self._on_disk(system.release_memory)

    async def exchange(self, config: GatewayConfig, sink: Sink, clock_ns: Callable[[], int],
                       adopt: Callable[[Registry], int]) -> Exchange:
        """Take over another configuration: whole, or not at all.

        Raises: ConfigError when it does not fit this gateway, OSError when the disk does not take it.
        """
        async with self._changing:
            found, registry = await self._on_disk(self._exchanged, config, sink, clock_ns)
            at_s = adopt(registry)
            await self._on_disk(system.release_memory)
            return Exchange(changes=found.changes, drivers=found.drivers, devices=found.devices,
                            is_new_roster=found.is_new_roster, at_s=at_s)

    # In the disk's thread

    def _with_server_keys(self, shown: dict[str, str]) -> Registry:
        self._state.save_server_keys(shown)
        held = self._evolved(self.roster, self.config, shown, points_stand=True)
        slots.save(held, self._state.roster_file)
        self.roster, self.server_keys = held, shown
        return self.registry()

    def _with_identifiers(self, read: Mapping[str, Mapping[str, str]]) -> Registry | None:
        """Return the roster with them, None if its rows stay as they are."""
        held = self._evolved(self.roster, self.config, self.server_keys, read, points_stand=True)
        if held.device_rows() == self.roster.device_rows():
            return None
        slots.save(held, self._state.roster_file)
        self.roster = held
        return self.registry()

    def _exchanged(self, config: GatewayConfig, sink: Sink, clock_ns: Callable[[], int]) -> tuple[Exchange, Registry]:
        held = self._evolved(self.roster, config, self.server_keys)
        before, after = aims(self.config, self.roster), aims(config, held)
        found = changes(self.config, before, config, after)
        drivers = build_drivers(config, held, sink, clock_ns, only=found.start)
        devices = sorted({device for name in found.stop for _, device, _ in before[name]})
        is_new = (held.device_rows(), held.point_rows()) != (self.roster.device_rows(), self.roster.point_rows())
        slots.save(held, self._state.roster_file)
        self.roster, self.config = held, config
        return Exchange(changes=found, drivers=drivers, devices=devices, is_new_roster=is_new), self.registry()

    def _evolved(self, before: slots.Roster | None, config: GatewayConfig, server_keys: Mapping[str, str],
                 read: Mapping[str, Mapping[str, str]] = slots.NOTHING_READ, *,
                 points_stand: bool = False) -> slots.Roster:
        state = self._state
        return slots.evolve(before, config, gateway=state.gateway_id(), key=state.enterprise_key(),
                            server_keys=server_keys, read=read, points_stand=points_stand)
