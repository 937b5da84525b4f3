"""Batches of many gateways written with two statements, whatever their number.

A connection to SQLite gives Python's lock away for every row that it steps through, and with the event loop at work
each time it waits to get it back. So the plain batches of a group, a window or two each, go into statements of many
rows; whatever else a batch has (tiles that are full, rosters, keys) is written by itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

ROWS_MAX = 64
"""Rows of a statement. There is one statement for each number of rows; a connection keeps them prepared."""
STATEMENTS_MAX = 2 * ROWS_MAX + 64

UPDATE = """
UPDATE gateways SET size = v.column3, root = v.column4, checkpoint = v.column5, state = v.column6,
    window_seq = v.column7, received_s = v.column8
FROM (VALUES {rows}) AS v
WHERE gateways.id = v.column1 AND gateways.size = v.column2
    AND (gateways.revoked_from IS NULL OR gateways.revoked_from >= v.column3)
"""
TAIL = "INSERT INTO tail (log, seq, data, note) VALUES {rows}"
UPDATE_FROM = (3, 33)
"""The version of SQLite that learnt UPDATE FROM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A batch that is only entries. `alone` writes it by itself, and says what is wrong where it cannot be written."""

    gateway: str
    first: int
    size: int
    root: bytes
    checkpoint: bytes
    state: str
    window_seq: int | None
    received_s: int
    entries: Sequence[bytes]
    alone: Callable[[sqlite3.Connection], None]

    def __call__(self, connection: sqlite3.Connection) -> None:
        """Write this batch by itself."""
        self.alone(connection)


def write_together(connection: sqlite3.Connection, batches: Sequence[Plain]) -> bool:
    """Write all of these batches within a transaction; False: none is written, one of them has to be told why."""
    if sqlite3.sqlite_version_info < UPDATE_FROM or len({batch.gateway for batch in batches}) < len(batches):
        return False
    connection.execute("SAVEPOINT together")
    try:
        whole = _run(connection, UPDATE, [
            (b.gateway, b.first, b.size, b.root, b.checkpoint, b.state, b.window_seq, b.received_s) for b in batches])
        if whole == len(batches):
            _run(connection, TAIL, [row for b in batches
                                    for row in tail_rows(f"g/{b.gateway}", b.first, b.entries, b.checkpoint)])
            return True
        connection.execute("ROLLBACK TO together")
        return False
    except Exception:  # whatever it is, the batch that it is about will raise it by itself
        connection.execute("ROLLBACK TO together")
        return False
    finally:
        connection.execute("RELEASE together")


def tail_rows(log: str, first: int, entries: Sequence[bytes], head: bytes | None
              ) -> list[tuple[str, int, bytes, bytes | None]]:
    """Return the rows of entries from `first` on; the last one carries the checkpoint."""
    last = len(entries) - 1
    return [(log, first + i, data, head if i == last else None) for i, data in enumerate(entries)]


def _run(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> int:
    """Run a statement of many rows for all of `rows`; return how many rows it changed."""
    changed = 0
    for at in range(0, len(rows), ROWS_MAX):
        part = rows[at : at + ROWS_MAX]
        changed += connection.execute(_filled(statement, len(part), len(part[0])),
                                      [value for row in part for value in row]).rowcount
    return changed


@cache
def _filled(statement: str, rows: int, width: int) -> str:
    one = f"({','.join('?' * width)})"
    return statement.format(rows=",".join([one] * rows))
