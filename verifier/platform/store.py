"""What is durable: one SQLite database, and beside it the full tiles of every log as files.

The order of durable steps. Entries go into the table `tail`, with checkpoint, rosters and state, in one transaction:
that commit is the moment from which a batch is kept, and the only one an answer waits for. When 256 entries of a log
are together, their tile is written as a file and synced before the transaction that drops them from `tail` commits; a
crash in between leaves a file that no checkpoint covers yet, and it is written again. So a partial tile is never a
file, and nothing has to be mended at start.

Writes gather while one thread writes those before them, and share a commit (WAL, synchronous=FULL): what waits for the
disk is the group, not each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from protocols import system
from protocols.errors import EvidenceError, Problem
from protocols.evidence import checkpoint, note, tiles
from protocols.evidence.merkle import leaf_hash
from protocols.evidence.tiles import WIDTH, Tile
from verifier.platform.edge import Edge, subtree_root
from verifier.platform.together import STATEMENTS_MAX, Plain, tail_rows, write_together

log = logging.getLogger(__name__)

GROUP_JOBS_MAX = 500
READERS = 4
TILE_MODE = 0o644
"""Tiles are public: any web server may hand them out."""
BUSY_TIMEOUT_S = 30.0
SCHEMA_VERSION = 2

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE tokens (sha256 TEXT PRIMARY KEY, uscc TEXT NOT NULL, site TEXT, expires_s INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE gateways (
    id TEXT PRIMARY KEY, uscc TEXT NOT NULL, site TEXT NOT NULL, certificate TEXT NOT NULL,
    token_sha256 TEXT NOT NULL UNIQUE, k_sha256 TEXT NOT NULL, supersedes TEXT UNIQUE, enrol_index INTEGER NOT NULL,
    enrolled_s INTEGER NOT NULL, size INTEGER NOT NULL DEFAULT 0, root BLOB, checkpoint BLOB, state TEXT,
    figures TEXT, received_s INTEGER, head_size INTEGER NOT NULL DEFAULT 0, revoked_from INTEGER,
    window_seq INTEGER, figures_seq INTEGER);
CREATE INDEX gateways_uscc ON gateways (uscc);
CREATE TABLE keys (public BLOB PRIMARY KEY, gateway TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tail (log TEXT NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL, note BLOB, PRIMARY KEY (log, seq));
CREATE TABLE checkpoints (gateway TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL,
    PRIMARY KEY (gateway, size)) WITHOUT ROWID;
CREATE TABLE rosters (gateway TEXT NOT NULL, seq INTEGER NOT NULL, rows BLOB NOT NULL, PRIMARY KEY (gateway, seq));
CREATE TABLE register (idx INTEGER PRIMARY KEY, type TEXT NOT NULL, uscc TEXT, gateway TEXT, last INTEGER NOT NULL);
CREATE INDEX register_chain ON register (uscc, idx) WHERE type <> 'head';
CREATE INDEX register_heads ON register (gateway, idx) WHERE type = 'head';
CREATE TABLE cosigned (size INTEGER NOT NULL, policy TEXT NOT NULL, note BLOB NOT NULL, time_s INTEGER NOT NULL,
    PRIMARY KEY (policy, size)) WITHOUT ROWID;
"""

STEPS: Mapping[int, str] = {
    # Before version 2 figures were made of each window as it came; 0 stands for the entry that they were made of.
    1: """
ALTER TABLE gateways ADD COLUMN window_seq INTEGER;
ALTER TABLE gateways ADD COLUMN figures_seq INTEGER;
UPDATE gateways SET window_seq = 0, figures_seq = 0 WHERE figures IS NOT NULL;
ALTER TABLE tail ADD COLUMN note BLOB;
""",
}
"""What leads from one version of the schema to the next."""

Result = TypeVar("Result")


@dataclass(slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]


Outcome = tuple[_Job, Any, BaseException | None]


class Store:
    """The database and the tile files of one platform. Made for one process: see `lock`."""

    def __init__(self, folder: Path) -> None:
        """Open or create. Raises EvidenceError `platform.schema` for a database of a newer version."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        connection = self.connect()
        try:
            _migrate(connection, folder)
        finally:
            connection.close()
        self._groups: queue.SimpleQueue[Sequence[_Job] | None] = queue.SimpleQueue()
        self._waiting: list[_Job] = []
        self._writing = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="platform-read")
        self._writer = threading.Thread(target=self._write_loop, name="platform-write", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Finish what waits, then close."""
        if self._waiting:
            self._groups.put(self._waiting)
        self._groups.put(None)
        self._writer.join()
        self._readers.shutdown()
        for connection in self._opened:
            connection.close()

    async def write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `work` in the writer's transaction and return its result when it is durable.

        Whatever `work` raises undoes its own changes only. Raises: EvidenceError `platform.storage` when the commit
        fails: then nothing of the group is kept.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, loop.create_future())
        self._waiting.append(job)
        if not self._writing:
            self._writing = True
            loop.call_soon(self._hand_over)
        result: Result = await job.done
        return result

    def _hand_over(self) -> None:
        """Give the writer what has gathered. While it writes, the next group gathers."""
        group, self._waiting = self._waiting[:GROUP_JOBS_MAX], self._waiting[GROUP_JOBS_MAX:]
        self._groups.put(group)

    async def read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `work` in a thread, within one read transaction."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def _read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self.connect()
            self._opened.append(connection)
        connection.execute("BEGIN")
        try:
            return work(connection)
        finally:
            connection.execute("ROLLBACK")

    def connect(self) -> sqlite3.Connection:
        """Open a connection of one's own; any thread may use it, one at a time."""
        connection = sqlite3.connect(self.folder / "index.sqlite", timeout=BUSY_TIMEOUT_S, isolation_level=None,
                                     check_same_thread=False, cached_statements=STATEMENTS_MAX)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA temp_store=MEMORY")  # what undoes a statement of many rows: no file is made for it
        return connection

    def _write_loop(self) -> None:
        connection = self.connect()
        try:
            while (group := self._groups.get()) is not None:
                self._commit(connection, group)
        finally:
            connection.close()

    def _commit(self, connection: sqlite3.Connection, group: Sequence[_Job]) -> None:
        """Run the jobs of one group, commit, and only then tell anybody."""
        outcomes: list[Outcome] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            plain = [job.work for job in group if isinstance(job.work, Plain)]
            done = bool(plain) and write_together(connection, plain)
            for job in group:
                if done and isinstance(job.work, Plain):
                    outcomes.append((job, None, None))
                else:
                    outcomes.append(_alone(connection, job))
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            log.exception("the database did not take %d jobs", len(group))
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            failure = EvidenceError(Problem.of(str(self.folder), "platform.storage", reason=error))
            outcomes = [(job, None, failure) for job in group]
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            group[0].done.get_loop().call_soon_threadsafe(self._tell, outcomes)

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        """Tell those who wait, in their loop, and hand over the next group."""
        for job, result, problem in outcomes:
            if job.done.done():  # cancelled
                continue
            if isinstance(problem, sqlite3.Error | OSError):
                problem = EvidenceError(Problem.of(str(self.folder), "platform.storage", reason=problem))
            if problem is None:
                job.done.set_result(result)
            else:
                job.done.set_exception(problem)
        if self._waiting:
            self._hand_over()
        else:
            self._writing = False

    # Logs: `register`, and `g/<id>` for each gateway.

    def append(self, connection: sqlite3.Connection, name: str, size: int, entries: Sequence[bytes],
               full: Sequence[tuple[Tile, bytes]], head: bytes | None = None) -> None:
        """Add `entries` behind the first `size` of a log, with the hash tiles that became `full`.

        `head`: the checkpoint of a gateway's log that ends with these entries. It stays beside the last of them until
        the tile is full, and goes into the table `checkpoints` together with those of the other entries.
        """
        connection.executemany("INSERT INTO tail (log, seq, data, note) VALUES (?, ?, ?, ?)",
                               tail_rows(name, size, entries, head))
        for number in range(size // WIDTH, (size + len(entries)) // WIDTH):
            first = number * WIDTH
            rows = connection.execute("SELECT seq, data, note FROM tail WHERE log = ? AND seq >= ? AND seq < ?"
                                      " ORDER BY seq", (name, first, first + WIDTH)).fetchall()
            connection.executemany("INSERT INTO checkpoints (gateway, size, root, note) VALUES (?, ?, ?, ?)", [
                (name.removeprefix("g/"), row["seq"] + 1, root_of(row["note"]), row["note"])
                for row in rows if row["note"] is not None])
            self._write_tile(name, Tile(None, number, WIDTH), tiles.join_entries([row["data"] for row in rows]))
            connection.execute("DELETE FROM tail WHERE log = ? AND seq >= ? AND seq < ?", (name, first, first + WIDTH))
        for tile, data in full:
            self._write_tile(name, tile, data)

    def checkpoint(self, connection: sqlite3.Connection, gateway: str, size: int) -> tuple[bytes, bytes] | None:
        """Return root and note of the checkpoint of a gateway that was stored at `size`, None if there is none."""
        row = connection.execute("SELECT root, note FROM checkpoints WHERE gateway = ? AND size = ?",
                                 (gateway, size)).fetchone()
        if row is not None:
            return bytes(row["root"]), bytes(row["note"])
        row = connection.execute("SELECT note FROM tail WHERE log = ? AND seq = ? AND note IS NOT NULL",
                                 (f"g/{gateway}", size - 1)).fetchone()
        return row and (root_of(row["note"]), bytes(row["note"]))

    def entries(self, connection: sqlite3.Connection, name: str, first: int, end: int, size: int) -> list[bytes]:
        """Return entries [first, end) of a log of `size`. Raises EvidenceError `log.broken`."""
        result: list[bytes] = []
        edge = size - size % WIDTH
        for number in range(first // WIDTH, -(-min(end, edge) // WIDTH)):
            whole = tiles.split_entries(self._tile(name, Tile(None, number, WIDTH)), Tile(None, number, WIDTH),
                                        where=name)
            result += whole[max(first - number * WIDTH, 0) : end - number * WIDTH]
        rows = connection.execute("SELECT data FROM tail WHERE log = ? AND seq >= ? AND seq < ? ORDER BY seq",
                                  (name, max(first, edge), end)).fetchall()
        result += [row["data"] for row in rows]
        if len(result) != end - first:
            raise EvidenceError(Problem.of(name, "log.broken", reason=f"entries {first} to {end} are not all there"))
        return result

    def edge(self, connection: sqlite3.Connection, name: str, size: int, root: bytes | None) -> Edge:
        """Rebuild the edge of a log from its tail and tiles. Raises EvidenceError `log.broken` if `root` differs."""
        levels: list[tuple[bytes, ...]] = []
        level = 0
        while level == 0 or size >> (8 * level):
            count = size >> (8 * level)
            first = count - count % WIDTH
            if level == 0:
                levels.append(tuple(leaf_hash(e) for e in self.entries(connection, name, first, count, size)))
            else:
                levels.append(tuple(subtree_root(self.hashes(name, Tile(level - 1, n, WIDTH)))
                                    for n in range(first, count)))
            level += 1
        edge = Edge.of(size, levels)
        if size and edge.root() != root:
            raise EvidenceError(Problem.of(name, "log.broken", reason="the tiles do not give the checkpoint's root"))
        return edge

    def hashes(self, name: str, tile: Tile) -> list[bytes]:
        """Return the hashes of a full hash tile. Raises EvidenceError `log.broken`."""
        data = self._tile(name, tile)
        if len(data) != 32 * WIDTH:
            raise EvidenceError(Problem.of(name, "log.broken", reason=f"{tile.path} is cut"))
        return tiles.split_hashes(data, tile, where=name)

    def tile_file(self, name: str, tile: Tile) -> Path:
        """Return where a full tile lies."""
        return self.folder / "logs" / name / tile.path

    def _tile(self, name: str, tile: Tile) -> bytes:
        try:
            return self.tile_file(name, tile).read_bytes()
        except OSError as error:
            raise EvidenceError(Problem.of(name, "log.broken", reason=f"{tile.path}: {error.strerror}")) from error

    def _write_tile(self, name: str, tile: Tile, data: bytes) -> None:
        path = self.tile_file(name, tile)
        fresh = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        system.replace(path, data, TILE_MODE)
        for folder in fresh:
            system.sync(folder.parent)


def root_of(signed: bytes) -> bytes:
    """Return the root of a checkpoint that was read before it was stored."""
    return checkpoint.parse_text(note.parse(signed, where="store").text, where="store").root


def _alone(connection: sqlite3.Connection, job: _Job) -> Outcome:
    """Run one job; what it raises undoes its own changes."""
    connection.execute("SAVEPOINT job")
    try:
        return job, job.work(connection), None
    except BaseException as error:
        connection.execute("ROLLBACK TO job")
        return job, None, error
    finally:
        connection.execute("RELEASE job")


def lock(folder: Path) -> int:
    """Take the lock on a data folder and return its descriptor. Raises EvidenceError `platform.in_use`."""
    try:
        return system.lock(folder)
    except BlockingIOError as error:
        raise EvidenceError(Problem.of(str(folder), "platform.in_use")) from error


def _migrate(connection: sqlite3.Connection, folder: Path) -> None:
    with _transaction(connection):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise EvidenceError(Problem.of(str(folder), "platform.schema", version=version, known=SCHEMA_VERSION))
        steps = [SCHEMA] if version < 1 else [STEPS[step] for step in range(version, SCHEMA_VERSION)]
        for statement in filter(str.strip, ";".join(steps).split(";")):
            connection.execute(statement)
        if steps:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
