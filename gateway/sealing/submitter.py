"""Carries out what the outbox decides: entries to the platform, receipts back. Counting never waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from gateway.sealing import outbox as box
from gateway.sealing.link import Address, HttpLink, Link
from gateway.sealing.outbox import Outbox
from gateway.sealing.receipts import RECEIPTS_BYTES_MAX, Receipts, Trust
from gateway.sealing.sealer import Event, Sealer
from gateway.sealing.tail import verify_tail
from protocols import exchange
from protocols.errors import DeviceError, EvidenceError, Problem, VerificationError
from protocols.evidence import checkpoint as checkpoint_format
from protocols.evidence import keys, note

NS_PER_S = 1_000_000_000
COMPARE_WAIT_S = 5.0
REVOKED = "platform.revoked"
"""How a platform refuses entries behind a revocation."""


class Submitter:
    """Brings the journal of one gateway to its platform, in order and exactly once, and keeps the receipts."""

    def __init__(self, address: Address, sealer: Sealer, enrolment: Mapping[str, Any], event: Event, *,
                 link: Link | None = None, monotonic_ns: Callable[[], int] = time.monotonic_ns,
                 wall_ns: Callable[[], int] = time.time_ns, rng: random.Random | None = None,
                 receipts_bytes_max: int = RECEIPTS_BYTES_MAX,
                 register_poll_s: float = box.REGISTER_POLL_S) -> None:
        """`enrolment`: the ENROL_ANSWER that is kept from enrolling. `link`: instead of HTTP, for tests.

        Raises: ConfigError `sealing.ca_file`; VerificationError when the enrolment cannot be read.
        """
        self._link: Link = link or HttpLink(address)
        self._sealer = sealer
        self._journal = sealer.journal
        self._gateway = keys.gateway_id(bytes.fromhex(enrolment["certificate"]["gateway_key"]))
        self._receipts = Receipts(sealer.journal, self._gateway, Trust.of(enrolment), event,
                                  bytes_max=receipts_bytes_max)
        self.outbox = Outbox(local=sealer.journal.size, proven=self._receipts.proven, poll_s=register_poll_s)
        self._event = event
        self._monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        self._rng = rng or random.Random()
        self._wake = asyncio.Event()
        self._lost = False

    @property
    def seen(self) -> Mapping[str, Any] | None:
        """The newest independently co-signed register checkpoint: what the next window carries."""
        return self._receipts.seen

    @property
    def submitted(self) -> int | None:
        """Entries that the platform has made durable, None before the first answer of this run."""
        return self.outbox.remote

    @property
    def proven(self) -> int:
        """Entries that a co-signed head covers, with proofs that are kept here."""
        return self._receipts.proven

    def said(self) -> dict[str, Any]:
        """Return what others said about this gateway in the register, for status.json: demands, and a revocation."""
        return {"revoked_from": self._receipts.revoked_from, "demands": [
            {"index": demand.index, "key": demand.key, "slots": list(demand.slots), "hours": list(demand.hours),
             "deadline_s": demand.deadline_s} for demand in self._receipts.demands]}

    def limit_receipts(self, bytes_max: int) -> None:
        """Let receipts take no more than this; the oldest heads go with the next one that comes."""
        self._receipts.bytes_max = bytes_max

    def grew(self) -> None:
        """Tell that the journal grew. Call it on the event loop."""
        self._wake.set()

    async def close(self) -> None:
        """End the session with the platform."""
        await self._link.close()

    async def run(self) -> None:
        """Submit for ever. Raises: EvidenceError `sealing.platform_ahead` or `sealing.fork`: sealing must stop."""
        try:
            while True:
                self._wake.clear()
                await self.work()
                due = self.outbox.due_ns
                wait_s = None if due is None else max(0.0, (due - self._monotonic_ns()) / NS_PER_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait_s)
        finally:
            await self.close()

    async def work(self) -> None:
        """Do everything that can be done now: no waiting but for the platform's answers. Raises: as `run`."""
        effects = self._step(box.Grew(self._journal.size)) or self._step(box.Tick())
        while effects:
            following: tuple[box.Effect, ...] = ()
            for effect in effects:
                if isinstance(effect, box.Halt):
                    if effect.why == "fork":
                        await self._show_fork(effect.size)
                    code = "sealing.platform_ahead" if effect.why == "ahead" else "sealing.fork"
                    raise EvidenceError(Problem.of("platform", code, ours=self._journal.size, theirs=effect.size))
                following += await self._try(effect)
            effects = following

    async def compare(self, wait_s: float = COMPARE_WAIT_S) -> int | None:
        """Ask the platform for its size before `Sealer.begin`; where it is ahead, take its copy of our log over.

        wait_s: for the answer; a platform that cannot be reached is no reason not to start. One that is known to be
        ahead is: what would be sealed now would be a second history, so taking over is not cut short.

        Returns: the platform's size for the `start` entry, None if it cannot be reached.
        Raises: EvidenceError `sealing.fork`, `sealing.tail_refused` or `sealing.platform_ahead`; OSError.
        """
        asked = await self.ask_size(wait_s)
        if asked is None:
            return None
        size, agrees = asked
        if not agrees:
            try:
                await self._take_over(size)
            except DeviceError as error:
                raise EvidenceError(Problem.of("platform", "sealing.platform_ahead", ours=self._journal.size,
                                               theirs=size)) from error
        self.outbox = Outbox(local=self._journal.size, proven=self._receipts.proven, remote=size, reached=size,
                             poll_s=self.outbox.poll_s)
        return size

    async def ask_size(self, wait_s: float = COMPARE_WAIT_S) -> tuple[int, bool] | None:
        """Return the platform's size, and whether what it holds is the beginning of our log: False if it is ahead.

        None if it cannot be reached. Raises: EvidenceError `sealing.fork` when it holds another history.
        """
        try:
            async with asyncio.timeout(wait_s):
                answer = await self._link.size(self._gateway)
            size, agrees = int(answer["size"]), self._agrees(answer)
        except (DeviceError, TimeoutError) as error:
            self._tell_lost(error)
            return None
        if agrees is False:
            await self._show_fork(size)
            raise EvidenceError(Problem.of("platform", "sealing.fork", ours=self._journal.size, theirs=size))
        return size, agrees is True

    async def refresh(self) -> bool:
        """Fetch the newest proofs once, before a bundle is written; False if the platform cannot be reached."""
        await self._try(box.AskRegister())
        return not self._lost

    # Inside

    def _step(self, event: box.Event) -> tuple[box.Effect, ...]:
        self.outbox, effects = self.outbox.step(event, now_ns=self._monotonic_ns())
        return effects

    async def _try(self, effect: box.Effect) -> tuple[box.Effect, ...]:
        """Carry an effect out; return what follows."""
        try:
            event = await self._do(effect)
        except (DeviceError, OSError) as error:  # OSError: the disk did not take a receipt; ask for it again
            self._tell_lost(error)
            if isinstance(error, DeviceError) and dict(error.problems[0].args).get("refusal") == REVOKED:
                await self._learn()
            return self._step(box.Failed(self._rng.random()))
        following = self._step(event)
        if self._lost and not self.outbox.tries:  # an answer that makes no progress is not its coming back
            self._lost = False
            self._event("sealing.platform_back", "platform", size=self._journal.size)
        return following

    async def _learn(self) -> None:
        """Fetch who revoked this log: what refuses its entries is no word of the platform's alone."""
        if self._receipts.revoked_from is not None:
            return
        with contextlib.suppress(DeviceError, OSError):
            answer = await self._link.register(self._gateway)
            await self._keep(answer["proofs"], answer["register_checkpoint"])

    async def _do(self, effect: box.Effect) -> box.Event:
        match effect:
            case box.AskSize():
                answer = await self._link.size(self._gateway)
                return box.Answered(answer["size"], self._agrees(answer))
            case box.Submit(first):
                body = await asyncio.to_thread(self._batch, first)
                stored, answer = await self._link.submit(self._gateway, body)
                if stored and answer["size"] > first:
                    await self._keep([] if answer["proof"] is None else [answer["proof"]],
                                     answer["register_checkpoint"])
                    return box.Answered(answer["size"], True if answer["size"] <= self._journal.size else None)
                agrees = True if stored else self._agrees(answer)
                if agrees and answer["size"] == first:  # it knows no more than before: asking at once would not help
                    raise DeviceError(Problem.of("platform", "sealing.no_progress", size=first))
                return box.Answered(answer["size"], agrees)
            case box.AskRegister():
                answer = await self._link.register(self._gateway)
                await self._keep(answer["proofs"], answer["register_checkpoint"])
                return box.Proven(self._receipts.proven)
            case box.Halt():
                raise AssertionError("a halt is no request")

    async def _keep(self, proofs: list[str], register_checkpoint: str | None) -> None:
        await asyncio.to_thread(
            self._receipts.take, [p.encode() for p in proofs],
            None if register_checkpoint is None else register_checkpoint.encode(), now_s=self._wall_ns() // NS_PER_S)

    def _batch(self, first: int) -> dict[str, Any]:
        """Return a SUBMIT_REQUEST from `first` on. A roster may pass the target alone, never together with more."""
        entries: list[str] = []
        rosters: list[dict[str, Any]] = []
        length = 0
        size = min(self._journal.size, first + exchange.SUBMIT_ENTRIES_MAX)
        for seq in range(first, size):
            data = self._journal.encoded(seq, seq + 1)[0]
            rows = self._journal.roster_rows(seq) if b'"type":"roster"' in data and \
                self._journal.entry(seq)["type"] == "roster" else None
            length += len(data) + len(rows or b"")
            if entries and length > exchange.SUBMIT_BYTES_TARGET:
                break
            entries.append(data.decode())
            if rows is not None:
                rosters.append({"seq": seq, "rows": rows.decode()})
        checkpoint = self._sealer.checkpoint_at(first + len(entries))
        return {"first": first, "entries": entries, "checkpoint": checkpoint.decode(), "rosters": rosters}

    async def _show_fork(self, size: int) -> None:
        """Show the platform our checkpoint of the size of its own: both, signed by one key, enter the register.

        It takes nothing of it over. Whether it can be shown changes nothing here: sealing stops.
        """
        try:
            body = {"first": size - 1, "entries": [self._journal.encoded(size - 1, size)[0].decode()],
                    "checkpoint": self._sealer.checkpoint_at(size).decode(), "rosters": []}
            async with asyncio.timeout(COMPARE_WAIT_S):
                await self._link.submit(self._gateway, body)
        except (DeviceError, TimeoutError) as error:
            self._tell_lost(error)

    def _agrees(self, answer: Mapping[str, Any]) -> bool | None:
        """Return whether a SIZE_ANSWER's root is ours; None if the platform is ahead.

        Raises: DeviceError `sealing.unsigned_head` if it claims a history that none of our keys has signed.
        """
        size, root = answer["size"], bytes.fromhex(answer["root"])
        if size <= self._journal.size and root == self._journal.tree.root(size):
            return True
        head = self._signed_head(answer["checkpoint"])
        if head is None or (head.size, head.root) != (size, root):
            raise DeviceError(Problem.of("platform", "sealing.unsigned_head", size=size))
        return None if size > self._journal.size else False

    def _signed_head(self, data: str | None) -> checkpoint_format.Checkpoint | None:
        origin = keys.gateway_origin(self._gateway)
        for public in self._sealer.public_keys:
            try:
                signed = note.parse((data or "").encode(), where="platform")
                note.require_signed(signed, note.VerifierKey(origin, note.ED25519, public), where="platform")
                return checkpoint_format.parse_text(signed.text, where="platform")
            except VerificationError:
                continue
        return None

    async def _take_over(self, size: int) -> None:
        """Fetch the tail of our own log, verify it, and continue the journal behind it."""
        for first in dict.fromkeys((self._journal.size, 0)):
            encoded: list[bytes] = []
            rows: dict[int, bytes] = {}
            checkpoint = ""
            while first + len(encoded) < size or not checkpoint:
                at = first + len(encoded)
                answer = await self._link.tail(self._gateway, at)
                if answer["first"] != at or not answer["entries"]:
                    raise DeviceError(Problem.of("platform", "sealing.no_progress", size=at))
                encoded += [text.encode() for text in answer["entries"]]
                rows |= {item["seq"]: item["rows"].encode() for item in answer["rosters"]}
                checkpoint = answer["checkpoint"]
            tail = await asyncio.to_thread(verify_tail, self._journal, self._gateway, first=first, encoded=encoded,
                                           rows=rows, checkpoint=checkpoint.encode())
            if tail is not None:
                break
        assert tail is not None  # from 0 on it is taken or refused
        await asyncio.to_thread(self._journal.take_over, tail.common, tail.encoded, tail.rosters, tail.checkpoint)
        await asyncio.to_thread(self._sealer.reload)
        self._event("sealing.taken_over", "platform", common=tail.common, size=self._journal.size)

    def _tell_lost(self, error: DeviceError | OSError) -> None:  # TimeoutError is an OSError
        """Tell once that the platform does not answer as it should, until it does again."""
        if self._lost:
            return
        self._lost = True
        if isinstance(error, DeviceError):
            problem = error.problems[0]
            self._event(problem.code, problem.where, **dict(problem.args))
        elif isinstance(error, TimeoutError):
            self._event("sealing.platform_unreachable", "platform", reason="no answer in time")
        else:
            self._event("sealing.receipt_not_kept", "receipts", reason=error.strerror or error)
