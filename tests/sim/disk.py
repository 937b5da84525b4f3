"""A disk in memory that fails on demand: before an effect, after it, in the middle of it, or with the whole machine.

What was not synced when the machine stops is lost, kept in part, or replaced by zeros, as the seed has it.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

from protocols.errors import EvidenceError, Problem


class CrashError(Exception):
    """The machine stopped. Not an OSError: nothing in the gateway may catch it."""


class FaultyDisk:
    """Implements gateway.sealing.disk.Disk. `fault(step)` says what happens at each change: see FAULTS."""

    FAULTS = ("crash_before", "crash_after", "crash_torn", "error_before", "error_after", "error_torn")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.visible: dict[str, bytes] = {}  # what reads give
        self.durable: dict[str, bytes] = {}  # what a crash is sure to leave
        self._undone: dict[str, bytes | None] = {}  # what a crash may show instead: a rename or cut never made durable
        self.steps = 0
        self.fault: Callable[[int], str | None] = lambda step: None
        self.full = False
        self._locked = False

    def lock(self) -> None:
        if self._locked:
            raise EvidenceError(Problem.of("disk", "journal.locked"))
        self._locked = True

    def unlock(self) -> None:
        self._locked = False

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes | None:
        data = self.visible.get(path)
        if data is None:
            return None
        return data[offset:] if length < 0 else data[offset : offset + length]

    def names(self, folder: str) -> list[str]:
        return sorted({p.removeprefix(folder + "/").split("/")[0] for p in self.visible if p.startswith(folder + "/")})

    def size(self, path: str) -> int:
        return len(self.visible.get(path, b""))

    def append(self, path: str, data: bytes) -> None:
        def torn() -> None:
            self.visible[path] = self.visible.get(path, b"") + data[: self._rng.randrange(len(data) + 1)]

        def whole() -> None:
            self.visible[path] = self.visible.get(path, b"") + data
        self._change(whole, torn)

    def sync(self, path: str) -> None:
        def whole() -> None:
            self.durable[path] = self.visible[path]
            self._undone.pop(path, None)
        self._change(whole, lambda: None)

    def replace(self, path: str, data: bytes) -> None:
        before = self.visible.get(path)

        def renamed() -> None:  # the folder is not synced yet: a crash may show either
            self.visible[path] = data
            self._undone.setdefault(path, before)

        def whole() -> None:
            self.visible[path] = self.durable[path] = data
            self._undone.pop(path, None)
        self._change(whole, renamed)

    def truncate(self, path: str, size: int) -> None:
        before = self.visible.get(path)

        def cut() -> None:
            self.visible[path] = self.visible[path][:size]
            self._undone.setdefault(path, before)

        def whole() -> None:
            self.visible[path] = self.durable[path] = self.visible[path][:size]
            self._undone.pop(path, None)
        self._change(whole, cut, needs_space=False)

    def remove(self, path: str) -> None:
        def whole() -> None:
            self.visible.pop(path, None)
            self.durable.pop(path, None)
            self._undone.pop(path, None)
        if path in self.visible:
            self._change(whole, lambda: None, needs_space=False)

    def _change(self, whole: Callable[[], None], torn: Callable[[], None], *, needs_space: bool = True) -> None:
        self.steps += 1
        fault = self.fault(self.steps)
        if fault is None and self.full and needs_space:
            fault = "error_torn" if self._rng.random() < 0.5 else "error_before"
        if fault is None:
            whole()
            return
        kind, when = fault.split("_")
        if when == "torn":
            torn()
        elif when == "after":
            whole()
        if kind == "crash":
            self._power_cut()
            raise CrashError
        raise OSError(errno.ENOSPC if needs_space else errno.EIO, "No space left on device")

    def _power_cut(self) -> None:
        """Leave what a disk might show after the power was cut."""
        after: dict[str, bytes] = {}
        for path in self.visible.keys() | self.durable.keys():
            kept = self.durable.get(path)
            seen = self.visible.get(path, b"")
            if path in self._undone:
                choice = self._rng.choice([self._undone[path], seen])
                if choice is not None:
                    after[path] = choice
                continue
            if kept is None and (not seen or self._rng.random() < 0.5):
                continue  # the name itself was never durable
            kept = kept or b""
            rest = seen[len(kept):] if seen.startswith(kept) else b""
            cut = self._rng.randrange(len(rest) + 1)
            zeros = b"\0" * self._rng.randrange(len(rest) - cut + 1) if self._rng.random() < 0.3 else b""
            after[path] = kept + rest[:cut] + zeros
        self.visible = dict(after)
        self.durable = dict(after)
        self._undone = {}
        self._locked = False
