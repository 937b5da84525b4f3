"""Keeping raw data beside the counting: the spool on the loop, the keeper in a thread of its own, entries by the agent.

Nothing here can hold a window open: the loop only passes references on. What is not kept is told and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from gateway.counting.window import ClosedWindow, Gap, Windows
from gateway.keeping import segment
from gateway.keeping.keeper import Event, Keeper, Kept, find_promise
from gateway.keeping.retention import Retention
from gateway.keeping.spool import Chunk, Spool
from gateway.sealing.disk import Disk
from gateway.sealing.journal import Journal
from gateway.sealing.sealer import Sealer

log = logging.getLogger(__name__)
MAX_ROOM_HOURS = 2
"""Room for so many files of the largest size makes a gateway keep again after its budget was used up."""

Result = TypeVar("Result")
Record = Callable[[Kept], Awaitable[int]]


def seal_promise(sealer: Sealer, kept: Kept) -> int:
    """Seal the `keep` entry of a file, once, however often it is tried; return its seq. Raises OSError."""
    seq = find_promise(sealer.journal, kept)
    return sealer.record("keep", kept.fields()) if seq is None else seq


class Keeping:
    """What an agent with `[keep] raw = true` has beside it. Methods are called on the loop.

    record: seals one `keep` entry and returns its seq, in the order of all that is sealed; `seal_promise` does it.
    """

    def __init__(self, disk: Disk, windows: Windows, retention: Retention, *, memory_bytes: int, record: Record,
                 event: Event, now_ns: Callable[[], int]) -> None:
        self._windows = windows
        self._record = record
        self._event = event
        self._now_ns = now_ns
        self._retention = retention
        self._pool = ThreadPoolExecutor(1, "keep")
        self.keeper = Keeper(disk, retain_s=retention.limits.retain_s, room=retention.room, event=event)
        retention.keeper = self.keeper
        self.spool = Spool(len_s=windows.rule.len_s, bytes_max=memory_bytes, pack=segment.pack_samples,
                           submit=self._pool.submit)
        self._queue: asyncio.Queue[tuple[Chunk | None, int | None]] = asyncio.Queue()
        self._working: asyncio.Task[None] | None = None
        self._unsealed: list[Kept] = []
        windows.keep(self.spool)

    async def begin(self, log_: Journal) -> None:
        """Finish what the last process left, and promise what is not promised. Call it after `Sealer.begin`."""
        try:
            self._unsealed += await self._in_thread(self.keeper.recover, log_)
        except OSError as error:
            self._event("keep.disk", "raw", reason=error.strerror or error)
        await self._seal()

    def sealed(self, item: ClosedWindow | Gap, seq: int | None) -> None:
        """Take over what a window received, sealed at `seq`; None if it was not sealed."""
        raw = item.raw if isinstance(item, ClosedWindow) else None
        self._queue.put_nowait((raw if isinstance(raw, Chunk) else None, seq))

    async def run(self) -> None:
        """Write what is sealed, for ever."""
        while True:
            chunk, seq = await self._queue.get()
            # Cancelled, this stops waiting; what has been begun goes on, and `finish` waits for it.
            self._working = asyncio.create_task(self._next(chunk, seq))
            await asyncio.shield(self._working)

    async def finish(self) -> None:
        """Write what is left and end the segment: at a clean stop, before word of it is left."""
        if self._working is not None:
            await self._working
        while not self._queue.empty():
            await self._next(*self._queue.get_nowait())
        self._unsealed += await self._in_thread(self.keeper.finish)
        await self._seal()

    def close(self) -> None:
        """Let the thread go; what it is writing now is finished at the next start."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def report(self) -> dict[str, Any]:
        """Return what `status` shows."""
        keeper = self.keeper
        return {"files": len(keeper.promises), "bytes": keeper.used_bytes, "windows_kept": keeper.kept_windows,
                "windows_not_kept": keeper.lost_windows, "full": keeper.full, "held_bytes": self.spool.held_bytes}

    async def _next(self, chunk: Chunk | None, seq: int | None) -> None:
        try:
            self._unsealed += await self._in_thread(self.keeper.take, chunk, seq)
        except Exception as error:  # packing failed: raw data is worth less than counting
            log.exception("a window was not kept")
            self.keeper.lost_windows += 1
            self._event("keep.failed", "raw", reason=f"{type(error).__name__}: {error}")
        finally:
            if chunk is not None:
                self.spool.release(chunk)
        await self._seal()
        self._pause_or_resume()

    async def _seal(self) -> None:
        """Promise finished files in the log. One that the disk does not take is tried again after the next window."""
        while self._unsealed:
            kept = self._unsealed[0]
            try:
                seq = await self._record(kept)
                del self._unsealed[0]
                await self._in_thread(self.keeper.recorded, kept, seq)
            except OSError as error:
                self._event("keep.disk", f"raw/{kept.name}", reason=error.strerror or error)
                return

    def _pause_or_resume(self) -> None:
        keeper = self.keeper
        if keeper.full and not self.spool.paused:
            self.spool.pause()
        elif self.spool.paused and self._retention.room(MAX_ROOM_HOURS * max(keeper.largest, keeper.refused)):
            keeper.full = False
            self._event("keep.room", "raw")
            self.spool.resume(self._now_ns() // (self._windows.rule.len_s * 10**9) + 1)

    async def _in_thread(self, work: Callable[..., Result], *args: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args))

