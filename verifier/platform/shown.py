"""The figures on the platform's page, made when somebody looks at it: intake has no use for them.

The column `figures` of the database is the cache: what was made last for each gateway, with the entry that it was made
of in `figures_seq`. The newest window is `window_seq`; where the two differ, a look at the page has the figures made,
by one thread of its own, so that neither intake nor the readers of the store wait for it. A page waits for them for a
while, then shows what there is: every row names the window that it tells of.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from time import monotonic
from typing import Any

from protocols.errors import TallystickError
from protocols.evidence import entry
from verifier.platform.figures import figures
from verifier.platform.roster import Roster
from verifier.platform.states import States, grown, roster_rows
from verifier.platform.store import Store

log = logging.getLogger(__name__)

WAIT_S = 3.0
"""How long a page waits for figures that are being made."""
TOGETHER, TOGETHER_S = 32, 1.0
"""Figures are written for so many gateways at once, or for those of so many seconds."""

Made = tuple[str | None, int, str]
"""Figures as JSON (None: they could not be made), the entry that they are of, and the gateway."""


class Shown:
    """Keeps the figures of a store as new as they are asked for."""

    def __init__(self, store: Store, states: States) -> None:
        self._store, self._states = store, states
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="platform-figures")
        self._making: asyncio.Task[bool] | None = None

    def close(self) -> None:
        """Make no more."""
        if self._making is not None and not self._making.get_loop().is_closed():
            self._making.cancel()
        self._thread.shutdown(cancel_futures=True)

    async def refresh(self) -> None:
        """Have the figures of all newest windows made. Returns when they are stored, or after WAIT_S."""
        try:
            async with asyncio.timeout(WAIT_S):
                while due := await self._store.read(_due):
                    if self._making is None or self._making.done():
                        self._making = asyncio.create_task(self._make(due))
                    await asyncio.wait({self._making})
                    if self._making.cancelled() or not self._making.result():
                        return
        except TimeoutError:
            log.info("figures are still being made: the page shows older ones")

    async def _make(self, due: Sequence[tuple[str, int]]) -> bool:
        """Make and store the figures of some gateways, also when no page waits any more; return whether it was done."""
        try:
            made: list[Made] = []
            began = monotonic()
            for gateway, seq in due:
                made.append((await self._one(gateway, seq), seq, gateway))
                if len(made) == TOGETHER or monotonic() - began > TOGETHER_S:
                    await self._write(made)
                    made, began = [], monotonic()
            await self._write(made)
            return True
        except TallystickError as error:
            log.error("the figures of the page were not stored: %s", error)
        except Exception:  # the page can do without
            log.exception("the figures of the page could not be made")
        return False

    async def _write(self, made: Sequence[Made]) -> None:
        await self._store.write(lambda connection: connection.executemany(
            "UPDATE gateways SET figures = coalesce(?, figures), figures_seq = ? WHERE id = ?", made))

    async def _one(self, gateway: str, seq: int) -> str | None:
        """Return the figures of one window as JSON. What is broken is told, once, and spoils nobody else's figures."""
        held = self._states.peek(gateway)

        def read(connection: sqlite3.Connection) -> tuple[dict[str, Any], Roster, list[tuple[int, bytes]]]:
            size = connection.execute("SELECT size FROM gateways WHERE id = ?", (gateway,)).fetchone()["size"]
            data = self._store.entries(connection, f"g/{gateway}", seq, seq + 1, size)[0]
            window = entry.decode(data, seq=seq)
            if held is not None and held.roster_seq == window["roster"]:
                return window, held.roster, []
            rows = roster_rows(connection, gateway)
            return window, Roster(), [(number, data) for number, data in rows if number <= window["roster"]]
        try:
            window, roster, rows = await self._store.read(read)
            return await asyncio.get_running_loop().run_in_executor(self._thread, _figures, window, roster, rows)
        except (TallystickError, zlib.error, UnicodeDecodeError) as error:
            log.error("no figures for %s: %s", gateway, error)
            return None


def _figures(window: Mapping[str, Any], roster: Roster, rows: Iterable[tuple[int, bytes]]) -> str:
    """Return what a window says under the roster that was in force, grown from `rows` where that is not at hand."""
    for seq, data in rows:
        roster = grown(roster, seq, data)
    return json.dumps(asdict(figures(roster, window)))


def _due(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    """Return gateways, each with its newest window, whose figures are not of that window."""
    return [(row["id"], row["window_seq"]) for row in connection.execute(
        "SELECT id, window_seq FROM gateways WHERE window_seq IS NOT figures_seq ORDER BY enrol_index LIMIT 10000")]
