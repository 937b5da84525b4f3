"""The platform without HTTP: enrolment, intake, what is read back, and the register, joined over one store.

For each gateway one batch at a time is checked; what holds is committed by the store's writer, and only then answered.
Checking takes a thread when it may take long: a window or two are checked sooner than a thread is told to.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from config.platform import PlatformConfig
from protocols import exchange
from protocols.errors import EvidenceError, Problem, VerificationError
from protocols.evidence import jcs, note, signed
from protocols.evidence.merkle import EMPTY_ROOT, Tree, leaf_hash
from protocols.evidence.shape import require
from protocols.evidence.signed import REVOCATION
from protocols.evidence.statement import Statement
from protocols.evidence.tiles import WIDTH, Tile, join_entries
from verifier.platform import enrolment, intake, statements, states
from verifier.platform.intake import Accepted, LogState, RootDiffersError
from verifier.platform.refusal import ConflictError, RefusalError
from verifier.platform.register import Appended, Entry, Register
from verifier.platform.shown import Shown
from verifier.platform.statements import Stated
from verifier.platform.states import States
from verifier.platform.store import Store, lock
from verifier.platform.together import Plain
from verifier.platform.trust import load_trust

CHECKERS = 2
AT_ONCE_ENTRIES_MAX = 4
AT_ONCE_BYTES_MAX = 16 * 1024
AT_ONCE_SLOTS_MAX = 10_000
"""Batches up to these limits, without rosters, are checked in the event loop: that takes three milliseconds at most."""
FORKS_MAX = 16
"""Forks of one gateway that enter the register; more of the same key prove nothing more."""


class Service:
    """One platform on its data folder. Build it inside the event loop; `close` it at the end."""

    def __init__(self, config: PlatformConfig, *, clock_s: Callable[[], int]) -> None:
        """Take the lock, open the store, load the register. Raises EvidenceError, ConfigError."""
        self.config = config
        self.clock_s = clock_s
        self.trust = load_trust(config)
        self._lock = lock(config.data_dir)
        try:
            self.store = Store(config.data_dir)
        except BaseException:
            os.close(self._lock)
            raise
        try:
            connection = self.store.connect()
            self.register = Register(
                self.store, connection, origin=config.origin, key=self.trust.register_key,
                policy_sha256=hashlib.sha256(self.trust.policy["witnesses"].encode()).hexdigest())
            connection.close()
        except BaseException:
            self.close()
            raise
        self._checkers = ThreadPoolExecutor(CHECKERS, thread_name_prefix="platform-check")
        self._states = States()
        self._given_up: set[str] = set()
        self._ends: dict[str, int] = {}  # of gateways that went on after they were revoked: where their logs end
        self._shown = Shown(self.store, self._states)
        self._turns: dict[str, asyncio.Lock] = {}

    def close(self) -> None:
        """Finish what waits and give the lock back."""
        if hasattr(self, "_checkers"):
            self._shown.close()
            self._checkers.shutdown()
        self.store.close()
        os.close(self._lock)

    # Enrolment.

    async def enrol(self, request: Any) -> dict[str, Any]:
        """Return ENROL_ANSWER when the certificate is durable in the register. Raises RefusalError."""
        await asyncio.to_thread(enrolment.check_request, request)
        certificate = await self.register.change(lambda connection: enrolment.enrol(
            connection, self.register, request, key=self.trust.platform_key, now_s=self.clock_s()))
        return {"certificate": certificate, **self.trust.policy}

    # Intake.

    async def submit(self, gateway: str, request: Any) -> dict[str, Any]:
        """Check and store a SUBMIT_REQUEST, durable when this returns its SUBMIT_ANSWER.

        Raises: RefusalError 400, 403, 404 or 422; ConflictError when the logs differ.
        """
        return await self.take(gateway, *await self._check(unpack, request))

    async def take(self, gateway: str, first: int, entries: Sequence[bytes], checkpoint: bytes,
                   rosters: Mapping[int, str]) -> dict[str, Any]:
        """Take in a batch whose form was checked; the limit on entries is the caller's. Like `submit`."""
        await self.require_known(gateway)
        async with self._turn(gateway):
            state = self._states.get(gateway) or await self._state(gateway)
            try:
                if first == state.size and entries:
                    small = len(entries) <= AT_ONCE_ENTRIES_MAX and not rosters and (
                        state.roster.slots <= AT_ONCE_SLOTS_MAX) and sum(map(len, entries)) <= AT_ONCE_BYTES_MAX
                    accepted = intake.accept(state, first, entries, checkpoint, rosters) if small else (
                        await self._check(intake.accept, state, first, entries, checkpoint, rosters))
                    await self._keep(state, accepted)
                    size = accepted.head.size
                else:
                    await self._repeated(state, first, entries, checkpoint)
                    size = state.size
            except RootDiffersError as error:
                raise ConflictError(await self.size(gateway)) from error
            except VerificationError as error:
                status = 403 if error.problems[0].code in ("note.unsigned", "note.bad_signature") else 422
                raise RefusalError.because(status, error) from error
        proof, newest = await self.register.newest_head(gateway)
        return {"size": size, "proof": proof, "register_checkpoint": newest}

    async def require_known(self, gateway: str) -> None:
        """Raise RefusalError 404 unless this gateway was enrolled."""
        if gateway not in self._states:
            await self._row(gateway)

    def _turn(self, gateway: str) -> asyncio.Lock:
        """Return what one holds to change a gateway's state, or to wait until it is decided."""
        turn = self._turns.get(gateway)
        if turn is None:
            turn = self._turns[gateway] = asyncio.Lock()
        return turn

    async def _check(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._checkers, work, *args)

    async def _keep(self, before: LogState, accepted: Accepted) -> None:
        """Store an accepted batch: then its state is in memory, before that the one before, in between none."""
        ends = self._ends.get(before.gateway)
        if ends is not None and accepted.head.size > ends:  # the writer said so once, and no revocation is taken back
            raise _revoked(before.gateway, ends)
        self._states.drop(before.gateway)
        state, head, received_s = accepted.state, accepted.head, self.clock_s()

        def alone(connection: sqlite3.Connection) -> None:
            self._store(connection, accepted, received_s)
        plain = not (accepted.tiles or accepted.rosters or accepted.new_keys)
        try:
            await self.store.write(alone if not plain else Plain(
                gateway=state.gateway, first=accepted.first, size=head.size, root=head.root,
                checkpoint=accepted.checkpoint, state=states.dump(state), window_seq=state.window_seq,
                received_s=received_s, entries=accepted.entries, alone=alone))
        except RefusalError as error:
            self._states.put(before)
            if error.problem.code == "platform.revoked":
                self._ends[before.gateway] = int(dict(error.problem.args)["from_size"])
            raise
        except asyncio.CancelledError:  # it is written all the same, at a moment that nobody waits for
            self._given_up.add(before.gateway)
            raise
        self._states.put(accepted.state)

    def _store(self, connection: sqlite3.Connection, accepted: Accepted, received_s: int) -> None:
        """Write an accepted batch within the writer's transaction."""
        state, head = accepted.state, accepted.head
        changed = connection.execute(
            "UPDATE gateways SET size = ?, root = ?, checkpoint = ?, state = ?, window_seq = ?, received_s = ?"
            " WHERE id = ? AND size = ? AND (revoked_from IS NULL OR revoked_from >= ?)",
            (head.size, head.root, accepted.checkpoint, states.dump(state), state.window_seq, received_s,
             state.gateway, accepted.first, head.size)).rowcount
        if changed != 1:
            row = connection.execute("SELECT revoked_from FROM gateways WHERE id = ?", (state.gateway,)).fetchone()
            if row["revoked_from"] is not None and head.size > row["revoked_from"]:
                # Also when the revocation was answered while this batch was being checked.
                raise _revoked(state.gateway, row["revoked_from"])
            raise EvidenceError(Problem.of(state.gateway, "log.broken", reason="the stored size changed meanwhile"))
        for public in accepted.new_keys:
            if connection.execute("SELECT 1 FROM keys WHERE public = ?", (public,)).fetchone():
                raise RefusalError.of(422, state.gateway, "platform.duplicate_key")
            connection.execute("INSERT INTO keys (public, gateway) VALUES (?, ?)", (public, state.gateway))
        self.store.append(connection, f"g/{state.gateway}", accepted.first, accepted.entries, accepted.tiles,
                          accepted.checkpoint)
        if accepted.rosters:
            connection.executemany("INSERT INTO rosters (gateway, seq, rows) VALUES (?, ?, ?)",
                                   [(state.gateway, seq, zlib.compress(rows.encode(), 1))
                                    for seq, rows in accepted.rosters.items()])

    async def _repeated(self, state: LogState, first: int, entries: Sequence[bytes], checkpoint: bytes) -> None:
        """Let a batch pass that is stored already, byte for byte; register a fork; else the logs differ.

        Raises: VerificationError if the checkpoint is not the gateway's, ConflictError.
        """
        head, signed_note = intake.read_checkpoint(checkpoint, state)
        conflict = ConflictError(await self.size(state.gateway))
        if not 0 < head.size <= state.size:
            raise conflict
        note.require_signed(signed_note, state.key_at(head.size), where="checkpoint")

        def stored(connection: sqlite3.Connection) -> tuple[bytes, bytes, list[bytes]] | None:
            held = self.store.checkpoint(connection, state.gateway, head.size)
            inside = first + len(entries) == head.size
            return held and (*held, self.store.entries(
                connection, f"g/{state.gateway}", first, head.size, state.size) if inside else [])
        found = await self.store.read(stored)
        if found is None:
            raise conflict
        root, kept, same = found
        if root != head.root:
            await self._fork(state, kept, checkpoint, head.size)
            raise conflict
        if first + len(entries) != head.size or same != list(entries):
            raise conflict

    async def _fork(self, state: LogState, kept: bytes, other: bytes, size: int) -> None:
        """Put two checkpoints of one size with different roots into the register, once."""
        own = [self._bare(data, state.key_at(size)) for data in (kept, other)]
        name = f"fork/{state.gateway}/{hashlib.sha256(note.parse(own[1].encode(), where='').text.encode()).hexdigest()}"

        def write(connection: sqlite3.Connection) -> tuple[None, Appended | None]:
            count = connection.execute("SELECT count(*) AS n FROM register WHERE type = 'fork' AND gateway = ?",
                                       (state.gateway,)).fetchone()["n"]
            if count >= FORKS_MAX or connection.execute("SELECT 1 FROM meta WHERE name = ?", (name,)).fetchone():
                return None, None
            connection.execute("INSERT INTO meta (name, value) VALUES (?, '')", (name,))
            return None, self.register.append(connection, [Entry(
                uscc=state.certificate["uscc"], gateway=state.gateway,
                value={"type": "fork", "gateway": state.gateway, "checkpoints": own})])
        await self.register.change(write)

    @staticmethod
    def _bare(data: bytes, key: note.VerifierKey) -> str:
        """Return a checkpoint with the gateway's signature only: others would make it as long as one likes."""
        signed_note = note.parse(data, where="checkpoint")
        line = next(s for s in signed_note.signatures if (s.name, s.key_id) == (key.name, key.key_id))
        return note.format_note(signed_note.text, [line]).decode()

    async def _state(self, gateway: str) -> LogState:
        """Return the state of a gateway. The caller holds its turn."""
        state = self._states.get(gateway)
        if state is None:
            if gateway in self._given_up:
                await self.store.write(lambda _: None)  # durable behind what was given up
                self._given_up.discard(gateway)
            state = await self.store.read(lambda connection: states.load(self.store, connection, gateway))
            self._states.put(state)
        return state

    # Reading back.

    async def size(self, gateway: str) -> dict[str, Any]:
        """Return SIZE_ANSWER. Raises RefusalError 404."""
        row = await self._row(gateway)
        return {"size": row["size"], "root": (row["root"] or EMPTY_ROOT).hex(),
                "checkpoint": row["checkpoint"] and row["checkpoint"].decode()}

    async def root_at(self, gateway: str, size: int) -> bytes:
        """Return the root of the first `size` entries, from the stored tiles. Raises RefusalError 404, ValueError."""
        await self._row(gateway)

        def load(connection: sqlite3.Connection) -> bytes:
            name, whole = f"g/{gateway}", _size(connection, gateway)
            tree = Tree(leaf for number in range(whole // WIDTH)
                        for leaf in self.store.hashes(name, Tile(0, number, WIDTH)))
            for data in self.store.entries(connection, name, tree.size, whole, whole):
                tree.append(leaf_hash(data))
            return tree.root(size)
        return await self.store.read(load)

    async def tail(self, gateway: str, first: int) -> dict[str, Any]:
        """Return TAIL_ANSWER: entries from `first` on, as many as the limits allow. Raises RefusalError 404, 422."""
        row = await self._row(gateway)
        size = row["size"]
        if not 0 <= first <= size:
            raise RefusalError.of(422, "first", "platform.beyond", first=first, size=size)
        end = min(first + exchange.SUBMIT_ENTRIES_MAX, size)

        def load(connection: sqlite3.Connection) -> tuple[list[bytes], list[dict[str, Any]]]:
            entries: list[bytes] = []
            total = 0
            for data in self.store.entries(connection, f"g/{gateway}", first, end, _size(connection, gateway)):
                if entries and total + len(data) > exchange.SUBMIT_BYTES_TARGET:
                    break
                total += len(data)
                entries.append(data)
            rows = connection.execute("SELECT seq, rows FROM rosters WHERE gateway = ? AND seq >= ? AND seq < ?"
                                      " ORDER BY seq", (gateway, first, first + len(entries)))
            return entries, [{"seq": r["seq"], "rows": zlib.decompress(r["rows"]).decode()} for r in rows]
        entries, rosters = await self.store.read(load)
        return {"first": first, "entries": [data.decode() for data in entries],
                "checkpoint": (row["checkpoint"] or b"").decode(), "rosters": rosters}

    async def proofs(self, gateway: str) -> dict[str, Any]:
        """Return REGISTER_ANSWER. Raises RefusalError 404."""
        await self._row(gateway)
        proofs, newest = await self.store.read(lambda connection: (
            self.register.proofs(connection, gateway), self.register.newest_cosigned(connection)))
        return {"proofs": [data.decode() for data in proofs],
                "register_checkpoint": newest.note.decode() if newest else None}

    async def checkpoint(self, gateway: str | None) -> bytes | None:
        """Return the newest checkpoint of a gateway's log, or of the register (None), co-signed where it is."""
        if gateway is not None:
            row = await self._row(gateway)
            return row["checkpoint"] and bytes(row["checkpoint"])
        newest = await self.store.read(self.register.newest_cosigned)
        return newest.note if newest and newest.size == self.register.size else self.register.checkpoint

    async def tile(self, gateway: str | None, tile: Tile) -> bytes | None:
        """Return the bytes of a tile that the newest checkpoint covers, None if there is none."""
        name = "register" if gateway is None else f"g/{gateway}"

        def load(connection: sqlite3.Connection) -> bytes | None:
            size = self.register.size_of(connection) if gateway is None else _size(connection, gateway)
            count = size >> (8 * (tile.level or 0))
            if tile.number < count // WIDTH:
                return self.store.tile_file(name, tile).read_bytes() if tile.width == WIDTH else None
            if tile.number != count // WIDTH or not tile.width <= count % WIDTH:
                return None
            first = tile.number * WIDTH
            if tile.level is None:
                return join_entries(self.store.entries(connection, name, first, first + tile.width, size))
            row = connection.execute("SELECT root FROM gateways WHERE id = ?", (gateway,)).fetchone()
            edge = self.register.edge if gateway is None else self.store.edge(connection, name, size, row["root"])
            return edge.partial(tile.level, tile.width)
        return await self.store.read(load)

    async def gateways(self) -> list[dict[str, Any]]:
        """Return what the page shows, one row a gateway, in the order of enrolment."""
        await self._shown.refresh()

        def load(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            return [{**dict(row), "figures": json.loads(row["figures"]) if row["figures"] else None}
                    for row in connection.execute(PAGE_QUERY, (self.register.policy_sha256,))]
        return await self.store.read(load)

    async def _row(self, gateway: str) -> sqlite3.Row:
        row: sqlite3.Row | None = await self.store.read(lambda connection: connection.execute(
            "SELECT id, size, root, checkpoint FROM gateways WHERE id = ?", (gateway,)).fetchone())
        if row is None:
            raise RefusalError.of(404, gateway, "platform.unknown_gateway", gateway=gateway)
        return row

    # Statements of others.

    async def newest_key(self, gateway: str) -> str:
        """Return the key that signs now, 64 hex. Raises RefusalError 404."""
        await self._row(gateway)
        async with self._turn(gateway):
            state = await self._state(gateway)
        return state.key_history[-1][1].hex()

    async def revoke(self, revocation: dict[str, Any]) -> int:
        """Put a signed revocation into the register and return its index. Raises RefusalError."""
        try:
            require(REVOCATION, revocation, where="revocation")
        except VerificationError as error:
            raise RefusalError.because(400, error) from error
        return (await self.state(Statement("revocation", revocation))).index

    async def state(self, statement: Statement) -> Stated:
        """Put a statement whose shape was checked into the register; durable when this returns.

        Raises: RefusalError 403 (signature), 404 (gateway), 409 (says nothing new, or too many) or 422.
        """
        gateway = statement.gateway
        certificate = jcs.decode((await self.store.read(lambda connection: _certificate(connection, gateway))).encode(),
                                 where="store", bytes_max=65_535)
        signers = {"revocation": {self.trust.policy["platform"], certificate["recovery_key"]},
                   "attestation": self.config.supervisors, "demand": self.config.auditors}[statement.kind]
        await self._check(lambda: statements.check_signature(statement, signers=signers))
        known = await self.store.read(lambda connection: statements.found(connection, statement))
        if known is not None:  # also when its deadline is over meanwhile, or the row is another one
            return Stated(index=known, fresh=False)
        if statement.kind != "revocation":
            async with self._turn(gateway):
                held = await self._state(gateway)
            if statement.kind == "attestation":
                statements.check_attestation(statement.value, held.roster)
            else:
                statements.check_demand(statement.value, held.roster, now_s=self.clock_s())
        stated = await self.register.change(lambda connection: statements.enter(
            connection, self.register, statement, certificate["uscc"]))
        self._ends.pop(gateway, None)  # it may end earlier now
        return stated

    def sign_revocation(self, gateway: str, gateway_key: str, from_size: int) -> dict[str, Any]:
        """Return a revocation signed by the platform key."""
        return signed.sign("revocation", {"gateway": gateway, "gateway_key": gateway_key, "from_size": from_size},
                           self.trust.platform_key)


PAGE_QUERY = """
SELECT id, uscc, site, enrolled_s, size, window_seq, figures, received_s, revoked_from, supersedes,
  (SELECT min(c.time_s) FROM cosigned c WHERE c.policy = ?1 AND c.size >
    (SELECT max(r.idx) FROM register r WHERE r.gateway = g.id AND r.type = 'head' AND r.idx <
      (SELECT max(n.size) FROM cosigned n WHERE n.policy = ?1))) AS cosigned_s
FROM gateways g ORDER BY enrol_index LIMIT 10000
"""


def _revoked(gateway: str, from_size: int) -> RefusalError:
    return RefusalError.of(403, gateway, "platform.revoked", from_size=from_size)


def _size(connection: sqlite3.Connection, gateway: str) -> int:
    return int(connection.execute("SELECT size FROM gateways WHERE id = ?", (gateway,)).fetchone()["size"])


def _certificate(connection: sqlite3.Connection, gateway: str) -> str:
    row = connection.execute("SELECT certificate FROM gateways WHERE id = ?", (gateway,)).fetchone()
    if row is None:
        raise RefusalError.of(404, gateway, "platform.unknown_gateway", gateway=gateway)
    return str(row["certificate"])


def unpack(request: Any) -> tuple[int, list[bytes], bytes, dict[int, str]]:
    """Check the form of a SUBMIT_REQUEST. Raises RefusalError 400."""
    try:
        exchange.SUBMIT_REQUEST.look(request, "", _refuse)
        entries = [text.encode() for text in request["entries"]]
        rosters = {item["seq"]: item["rows"] for item in request["rosters"]}
        if len(rosters) != len(request["rosters"]):
            raise RefusalError.of(400, "rosters", "intake.roster_twice")
        for rows in rosters.values():
            rows.encode()
        return request["first"], entries, request["checkpoint"].encode(), rosters
    except UnicodeEncodeError as error:
        raise RefusalError.of(400, "request", "json.unreadable", reason=error.reason) from error


def _refuse(code: str, place: str, expected: str) -> None:
    raise RefusalError.of(400, "request", code, place=place, **({"expected": expected} if expected else {}))
