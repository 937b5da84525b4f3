"""The register: the platform's own log, the one that witnesses co-sign.

It holds what is said about gateways (`enrol`, `head`, `revoke`, `fork`, ...). Every entry names in `last` the newest
earlier entry about the same enterprise that is no `head`, so that one co-signed head leads to all of them. The tree of
leaf hashes is held in memory: 64 bytes an entry.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.errors import EvidenceError, Problem
from protocols.evidence import checkpoint, keys, note, proof, register
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.merkle import Tree, leaf_hash
from protocols.evidence.tiles import WIDTH, Tile
from verifier.platform.edge import Edge
from verifier.platform.store import Store

log = logging.getLogger(__name__)

LOG = "register"
CHAIN_MAX = 10_000
HEADS_PER_ROUND_MAX = 10_000
ANSWERS_MAX = 10_000
"""Answers that are kept until more is co-signed, a few kB each."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is to be registered, without its `last`. `uscc` is the enterprise it is about."""

    uscc: str
    gateway: str
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """Entries that are in the writer's transaction; the register takes them over once that is committed."""

    first: int
    edge: Edge
    leaves: tuple[bytes, ...]
    checkpoint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosigned:
    """A register checkpoint that fulfils the quorum, with its cosignatures, and when it was stored."""

    size: int
    note: bytes
    time_s: int


class Register:
    """The register of this process. All that is appended goes through `change`, one at a time."""

    def __init__(self, store: Store, connection: sqlite3.Connection, *, origin: str, key: Ed25519PrivateKey,
                 policy_sha256: str) -> None:
        """Load the log. `policy_sha256`: digest of the quorum; what was co-signed under another one is passed over.

        Raises: EvidenceError `log.broken`, or `platform.register_key` when the key or the origin is another one.
        """
        self._store = store
        self._key = key
        self.policy_sha256 = policy_sha256
        self.vkey = note.VerifierKey(origin, note.ED25519, keys.public_bytes(key))
        self._turn = asyncio.Lock()
        self._answers: dict[str, tuple[str | None, str | None]] = {}
        self.tree = Tree()
        row = connection.execute("SELECT value FROM meta WHERE name = 'register_checkpoint'").fetchone()
        self.checkpoint: bytes | None = None if row is None else bytes(row["value"])
        head = Checkpoint(origin, 0, b"")
        if self.checkpoint is not None:
            signed = note.parse(self.checkpoint, where=LOG)
            head = checkpoint.parse_text(signed.text, where=LOG)
            if head.origin != origin or (origin, self.vkey.key_id) not in {(s.name, s.key_id)
                                                                          for s in signed.signatures}:
                raise EvidenceError(Problem.of(LOG, "platform.register_key", origin=head.origin, configured=origin))
        self.edge = store.edge(connection, LOG, head.size, head.root)
        for number in range(head.size // WIDTH):
            for leaf in store.hashes(LOG, Tile(0, number, WIDTH)):
                self.tree.append(leaf)
        for leaf in self.edge.levels[0]:
            self.tree.append(leaf)
        if head.size and self.tree.root() != head.root:
            raise EvidenceError(Problem.of(LOG, "log.broken", reason="the leaves do not give the checkpoint's root"))

    @property
    def size(self) -> int:
        """Number of entries that are durable."""
        return self.tree.size

    async def change(self, write: Callable[[sqlite3.Connection], tuple[Result, Appended | None]]) -> Result:
        """Run `write`, which may `append`, in the writer's transaction; return its result when all is durable.

        It goes on when the caller is cancelled: what is committed and not taken over would be in the way of every
        later entry; what it raises then goes into the log. Raises what `write` and `Store.write` raise.
        """
        change = asyncio.ensure_future(self._change(write))
        try:
            return await asyncio.shield(change)
        except asyncio.CancelledError:
            change.add_done_callback(_tell_log)
            raise

    async def _change(self, write: Callable[[sqlite3.Connection], tuple[Result, Appended | None]]) -> Result:
        async with self._turn:
            result, appended = await self._store.write(write)
            if appended is not None:
                self._take_over(appended)
            return result

    def append(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> Appended:
        """Add entries within the writer's transaction of a `change`. Raises VerificationError of shapes."""
        encoded = []
        for offset, item in enumerate(entries):
            row = connection.execute("SELECT max(idx) AS last FROM register WHERE uscc = ? AND type <> 'head'",
                                     (item.uscc,)).fetchone()
            last = -1 if row["last"] is None else row["last"]
            encoded.append(register.encode({**item.value, "last": last}))
            connection.execute("INSERT INTO register (idx, type, uscc, gateway, last) VALUES (?, ?, ?, ?, ?)",
                               (self.size + offset, item.value["type"], item.uscc, item.gateway, last))
            if item.value["type"] != "head":
                # What is said reaches a bundle through a head behind it: every gateway of the enterprise gets a new
                # one, those too that submit nothing any more.
                connection.execute("UPDATE gateways SET head_size = 0 WHERE uscc = ? AND size > 0", (item.uscc,))
        leaves = tuple(leaf_hash(data) for data in encoded)
        edge, full = self.edge.grow(leaves)
        self._store.append(connection, LOG, self.size, encoded, full)
        text = Checkpoint(self.vkey.name, edge.size, edge.root()).text
        signed = note.format_note(text, [note.sign(text, self._key, name=self.vkey.name)])
        connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('register_checkpoint', ?)", (signed,))
        return Appended(first=self.size, edge=edge, leaves=leaves, checkpoint=signed)

    def _take_over(self, appended: Appended) -> None:
        assert appended.first == self.size, "the register has one writer at a time"
        for leaf in appended.leaves:
            self.tree.append(leaf)
        self.edge, self.checkpoint = appended.edge, appended.checkpoint

    def new_heads(self, connection: sqlite3.Connection) -> list[Entry]:
        """Return the newest head of every gateway that grew, or was spoken about, since its last one.

        Within the writer's transaction.
        """
        rows = connection.execute(
            "SELECT id, uscc, size, root FROM gateways WHERE size > head_size ORDER BY received_s, id LIMIT ?",
            (HEADS_PER_ROUND_MAX,)).fetchall()
        connection.executemany("UPDATE gateways SET head_size = ? WHERE id = ?",
                               [(row["size"], row["id"]) for row in rows])
        return [Entry(uscc=row["uscc"], gateway=row["id"], value={
            "type": "head", "gateway": row["id"], "size": row["size"], "root": bytes(row["root"]).hex()})
            for row in rows]

    # What is co-signed.

    def store_cosigned(self, connection: sqlite3.Connection, size: int, signed: bytes, time_s: int) -> None:
        """Keep a checkpoint that fulfils the quorum; more cosignatures of the same one replace it, its time stays."""
        connection.execute(
            "INSERT INTO cosigned (size, policy, note, time_s) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (policy, size) DO UPDATE SET note = excluded.note",
            (size, self.policy_sha256, signed, time_s))

    def cosigned(self) -> None:
        """Take over that more is co-signed: what was answered so far is no longer the newest."""
        self._answers = {}

    async def newest_head(self, gateway: str) -> tuple[str | None, str | None]:
        """Return what a gateway is answered: the proof of its newest co-signed head, and the newest co-signed note."""
        answers = self._answers
        if gateway not in answers:
            proven, newest = await self._store.read(lambda connection: (
                self.head_proof(connection, gateway), self.newest_cosigned(connection)))
            # Into the answers of before the read: if more was co-signed meanwhile these are asked no more.
            if len(answers) >= ANSWERS_MAX:
                answers.clear()
            answers[gateway] = proven[0].decode() if proven else None, newest.note.decode() if newest else None
        return answers[gateway]

    def newest_cosigned(self, connection: sqlite3.Connection) -> Cosigned | None:
        """Return the largest co-signed checkpoint."""
        return self._cosigned(connection, "ORDER BY size DESC")

    def earliest_cosigned(self, connection: sqlite3.Connection, index: int) -> Cosigned | None:
        """Return the smallest co-signed checkpoint that includes the entry at `index`: it proves the earliest time."""
        return self._cosigned(connection, "AND size > ? ORDER BY size", index)

    def _cosigned(self, connection: sqlite3.Connection, condition: str, *args: object) -> Cosigned | None:
        row = connection.execute(f"SELECT size, note, time_s FROM cosigned WHERE policy = ? {condition} LIMIT 1",
                                 (self.policy_sha256, *args)).fetchone()
        return row and Cosigned(size=row["size"], note=bytes(row["note"]), time_s=row["time_s"])

    def head_proof(self, connection: sqlite3.Connection, gateway: str) -> tuple[bytes, int] | None:
        """Return the tlog-proof of the newest co-signed head of a gateway, and its `last`; None before the first."""
        newest = self.newest_cosigned(connection)
        if newest is None:
            return None
        row = connection.execute(
            "SELECT idx, last FROM register WHERE gateway = ? AND type = 'head' AND idx < ? ORDER BY idx DESC LIMIT 1",
            (gateway, newest.size)).fetchone()
        if row is None:
            return None
        under = self.earliest_cosigned(connection, row["idx"]) or newest
        return self._proof(connection, row["idx"], under), row["last"]

    def proofs(self, connection: sqlite3.Connection, gateway: str) -> list[bytes]:
        """Return the proofs of the whole `last` chain behind the newest co-signed head, that head as the last one.

        Without a co-signed head yet: the chain from the newest co-signed entry about the enterprise.
        Raises: EvidenceError `platform.chain_too_long`.
        """
        newest = self.newest_cosigned(connection)
        if newest is None:
            return []
        head = self.head_proof(connection, gateway)
        if head is not None:
            index = head[1]
        else:
            row = connection.execute(
                "SELECT max(idx) AS idx FROM register WHERE type <> 'head' AND idx < ?"
                " AND uscc = (SELECT uscc FROM gateways WHERE id = ?)", (newest.size, gateway)).fetchone()
            index = -1 if row["idx"] is None else row["idx"]
        chain: list[bytes] = []
        while index >= 0:
            if len(chain) == CHAIN_MAX:
                raise EvidenceError(Problem.of(LOG, "platform.chain_too_long", limit=CHAIN_MAX))
            row = connection.execute("SELECT last, type FROM register WHERE idx = ?", (index,)).fetchone()
            # Of an announcement it matters when it was there first, also to a gateway that was cut off meanwhile.
            under = self.earliest_cosigned(connection, index) if row["type"] == "demand" else None
            chain.append(self._proof(connection, index, under or newest))
            index = row["last"]
        return chain[::-1] + ([head[0]] if head else [])

    def _proof(self, connection: sqlite3.Connection, index: int, under: Cosigned) -> bytes:
        data = self._store.entries(connection, LOG, index, index + 1, self.size_of(connection))[0]
        hashes = tuple(self.tree.inclusion(index, under.size))
        return proof.LogProof(index, hashes, under.note, data).encode()

    def size_of(self, connection: sqlite3.Connection) -> int:
        """Return the size as this transaction sees it, which says what is in tiles and what in the tail."""
        row = connection.execute("SELECT max(idx) AS newest FROM register").fetchone()
        return 0 if row["newest"] is None else int(row["newest"]) + 1


def _tell_log(change: asyncio.Future[Any]) -> None:
    """Log in a line what a change raised whose caller is gone: asyncio would print a traceback."""
    if not change.cancelled() and (error := change.exception()) is not None:
        log.warning("a change that nobody waits for any more was not made: %s: %s", type(error).__name__, error)
