"""The disk budget: what the state folder takes, by kind, and what may go when it is full. Evidence never goes.

    1  raw segments whose promise has ended        always
    2  logs that a rollback replaced, but the last  when the budget is passed
    3  receipts: the oldest heads                   when the budget is passed
    4  transcripts of reads past their time         always

A promise that stands is never broken: when there is no room left, new windows are not kept, which is told and counted.
Room for raw data is what the budget leaves after the evidence that will be sealed until the newest promise has ended.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.sealing.disk import Disk
from gateway.sealing.journal import CURRENT, FIRST_LOG, Branch

if TYPE_CHECKING:
    from gateway.keeping.keeper import Keeper  # it brings pyarrow, which nobody needs who keeps no raw data

SUPERSEDED_KEPT = 1
"""Logs that were replaced and stay: the one before the log in force, which a restart may still need."""

WINDOW_BYTES = 1024
"""What a window entry takes beside its columns, which are base64 of a bit a slot: a sixth of a byte for each."""

KINDS = ("evidence", "superseded", "receipts", "raw", "transcripts", "other")
Use = Mapping[str, int]


def kind_of(path: str, log: str) -> str:
    """Return the kind of a file of the state folder, by its path in it. `log`: name of the log in force."""
    top, _, rest = path.partition("/")
    if top == "raw":
        return "raw"
    if top == "reads":
        return "transcripts"
    if top != "journal":
        return "other"
    folder = rest.partition("/")[0]
    if folder == "register":
        return "receipts"
    return "superseded" if folder.startswith("log-") and folder != log else "evidence"


def log_in_force(journal_dir: Path) -> str:
    """Return the name of the log in force, read beside a gateway that may run."""
    try:
        return str(json.loads((journal_dir / CURRENT).read_bytes())["log"])
    except (OSError, ValueError, KeyError, TypeError):
        return FIRST_LOG


def use_of(folder: Path, log: str) -> dict[str, int]:
    """Return what the files of a state folder take, by kind. A file that goes meanwhile counts nothing."""
    use = dict.fromkeys(KINDS, 0)
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                use[kind_of(path.relative_to(folder).as_posix(), log)] += path.lstat().st_size
    return use


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """In bytes and seconds. budget: the whole state folder. raw, receipts: what these may take of it."""

    budget_bytes: int
    raw_bytes: int
    receipts_bytes: int
    retain_s: int
    transcripts_s: int


class Retention:
    """Measures, deletes and says whether there is room. Blocks on the disk.

    measure: use by kind. journal: the folder of the log. thin: asks for receipts of at most so many bytes.
    expire_reads: deletes transcripts written before a wall time (s).
    """

    def __init__(self, limits: Limits, *, measure: Callable[[], Use], journal: Disk,
                 thin: Callable[[int], None] = lambda most: None,
                 expire_reads: Callable[[float], object] = lambda before_s: None) -> None:
        self.limits = limits
        self._measure = measure
        self._journal = journal
        self._thin = thin
        self._expire_reads = expire_reads
        self.use: Use = measure()
        self._per_s = 0.0
        self.keeper: Keeper | None = None

    def grows(self, devices: int, points: int, len_s: int) -> None:
        """Tell what is sealed: a window of so many slots every `len_s`, in its columns and about a kilobyte around."""
        self._per_s = (WINDOW_BYTES + -(-(devices + 3 * points) // 6)) / len_s

    def room(self, more: int) -> bool:
        """Return whether raw data may take so many bytes more."""
        raw = self.keeper.used_bytes if self.keeper is not None else self.use["raw"]
        others = sum(self.use.values()) - self.use["raw"]
        reserve = int(self._per_s * self.limits.retain_s)
        return raw + more <= self.limits.raw_bytes and others + reserve + raw + more <= self.limits.budget_bytes

    def sweep(self, branch: Branch, *, now_s: int, wall_s: float) -> int:
        """Delete what may go; return how many bytes went. Raises OSError.

        now_s: by which promises end: a clock that ran away ends none. wall_s: for transcripts, which promise nothing.
        """
        before = sum(self.use.values())
        if self.keeper is not None:
            self.keeper.expire(now_s)
        self._expire_reads(wall_s - self.limits.transcripts_s)
        self.use = self._measure()
        if self.over_bytes:
            self._drop_superseded(branch)
            self.use = self._measure()
        self._thin(min(self.limits.receipts_bytes, max(0, self.use["receipts"] - self.over_bytes))
                   if self.over_bytes else self.limits.receipts_bytes)
        return max(0, before - sum(self.use.values()))

    @property
    def over_bytes(self) -> int:
        """How far the state folder is beyond its budget."""
        return max(0, sum(self.use.values()) - self.limits.budget_bytes)

    def _drop_superseded(self, branch: Branch) -> None:
        current = int(branch.log.removeprefix("log-"))
        for name in self._journal.names(""):
            number = name.removeprefix("log-")
            if not (name.startswith("log-") and number.isdigit() and int(number) < current - SUPERSEDED_KEPT):
                continue
            for folder in ("entries", "roster"):
                for file in self._journal.names(f"{name}/{folder}"):
                    self._journal.remove(f"{name}/{folder}/{file}")
            self._journal.remove(f"{name}/checkpoint")
