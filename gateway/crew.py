"""The drivers of a running gateway, one for each connection: some may be exchanged while the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import NoReturn

from gateway.commissioning.connect import Driver

STOP_S = 3.0


class Crew:
    """Runs drivers. A driver never returns; what one of them raises ends `watch`.

    drivers: connection name -> the driver that runs for it. One object for life, so that others may hold on to it.
    """

    def __init__(self) -> None:
        self.drivers: dict[str, Driver] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def start(self, drivers: Mapping[str, Driver]) -> None:
        """Let drivers run, of connections that have none."""
        for name, driver in drivers.items():
            self.drivers[name] = driver
            self._tasks[name] = asyncio.create_task(driver.run(), name=name)
        self._changed.set()

    async def stop(self, names: Collection[str]) -> None:
        """End the drivers of these connections, and wait for them a while; the others notice nothing."""
        ending = [self._tasks.pop(name) for name in names if name in self._tasks]
        for name in names:
            self.drivers.pop(name, None)
        self._changed.set()
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending, timeout=STOP_S)

    async def watch(self) -> NoReturn:
        """Wait until a driver ends that nobody stopped. Raises: what it raised; RuntimeError if it raised nothing."""
        while True:
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait([changed, *self._tasks.values()], return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            for name, task in self._tasks.items():
                if task.done():
                    if not task.cancelled():
                        task.result()
                    # Its devices would not be counted any more, and nobody would know why.
                    raise RuntimeError(f"the driver of {name} ended, and nobody had asked it to")
