"""Rounds of the register: new heads enter, a checkpoint is signed, witnesses are asked to co-sign it.

A witness that is slow, gone or refuses never holds up intake, and holds up a round only until its time is over.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from config.platform import Witness
from protocols.errors import EvidenceError, Problem, TallystickError, VerificationError
from protocols.evidence import checkpoint, note
from protocols.evidence.encoding import to_base64
from protocols.evidence.merkle import Tree
from protocols.evidence.policy import Quorum
from verifier.platform.register import Register
from verifier.platform.store import Store

log = logging.getLogger(__name__)

ANSWER_BYTES_MAX = 64 * 1024
ATTEMPTS_MAX = 4
"""How often a witness is asked again because it knows another size than we thought."""
PAUSE_S_MAX = 60.0


@dataclass(slots=True)
class _Asked:
    """What we know of one witness. `known`: the size that it last co-signed, 0 until it tells."""

    witness: Witness
    known: int = 0
    failures: int = 0
    ask_again_at: float = 0.0
    line: note.Signature | None = None
    line_size: int = 0
    context: ssl.SSLContext | None = None


class Rounds:
    """Keeps the register growing and co-signed, for ever."""

    def __init__(self, store: Store, register: Register, quorum: Quorum, witnesses: tuple[Witness, ...], *,
                 interval_s: float, timeout_s: float, clock_s: Callable[[], int],
                 wait: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._store, self._register, self._quorum = store, register, quorum
        self._asked = [_Asked(witness) for witness in witnesses]
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._clock_s, self._wait = clock_s, wait
        self._stored_lines = -1
        self._stored_size = 0

    async def run(self) -> None:
        """One round after another until cancelled. An error is logged and the next round tries again."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                                         auto_decompress=False) as session:
            await self.restore()
            while True:
                try:
                    await self.one(session)
                except TallystickError as error:
                    log.error("a register round failed: %s", error)
                except Exception:  # whatever it was, the register must go on growing
                    log.exception("a register round failed")
                await self._wait(self._interval_s)

    async def restore(self) -> None:
        """Take up the cosignatures of the newest stored checkpoint: asked again, a witness would give a later time."""
        stored = await self._store.read(self._register.newest_cosigned)
        if stored is None:
            return
        signed = note.parse(stored.note, where="register")
        for asked in self._asked:
            key = asked.witness.key
            if note.cosignatures(signed, [key], where="register"):
                asked.line = next(s for s in signed.signatures if (s.name, s.key_id) == (key.name, key.key_id))
                asked.known = asked.line_size = stored.size
        self._stored_size = stored.size
        self._stored_lines = sum(asked.line is not None for asked in self._asked)

    async def one(self, session: aiohttp.ClientSession) -> None:
        """Enter new heads, then collect what is missing on the newest checkpoint."""
        await self._register.change(lambda connection: (None, (
            self._register.append(connection, heads) if (heads := self._register.new_heads(connection)) else None)))
        signed = self._register.checkpoint
        if signed is None:
            return
        own = note.parse(signed, where="register")
        head = checkpoint.parse_text(own.text, where="register")
        now = asyncio.get_running_loop().time()
        due = [asked for asked in self._asked if asked.line_size != head.size and asked.ask_again_at <= now]
        await self._store_if_enough(own, head.size)
        for done in asyncio.as_completed([self._ask(session, asked, own, head) for asked in due]):
            await done
            await self._store_if_enough(own, head.size)

    async def _store_if_enough(self, own: note.Note, size: int) -> None:
        """Store the checkpoint with the cosignatures that it has, as soon as and as often as that is more."""
        signers = [a for a in self._asked if a.line_size == size and a.line is not None]
        if not self._quorum.holds({a.witness.key.public for a in signers}):
            return
        if (self._stored_size, self._stored_lines) == (size, len(signers)):
            return
        data = note.format_note(own.text, [*own.signatures, *(a.line for a in signers if a.line)])
        time_s = self._clock_s()
        await self._store.write(lambda connection: self._register.store_cosigned(connection, size, data, time_s))
        self._register.cosigned()
        self._stored_size, self._stored_lines = size, len(signers)

    async def _ask(self, session: aiohttp.ClientSession, asked: _Asked, own: note.Note, head: checkpoint.Checkpoint
                   ) -> None:
        """Ask one witness. Whatever goes wrong is logged, once when it begins and once when it is over."""
        try:
            async with asyncio.timeout(self._timeout_s):
                asked.line = await self._add_checkpoint(session, asked, own, head)
        except (TallystickError, aiohttp.ClientError, TimeoutError, OSError) as error:
            asked.failures += 1
            pause_s = min(self._interval_s * 2 ** min(asked.failures - 1, 10), PAUSE_S_MAX)
            asked.ask_again_at = asyncio.get_running_loop().time() + pause_s
            if asked.failures == 1:
                log.warning("witness %s does not co-sign: %s", asked.witness.key.name,
                            str(error) or type(error).__name__)
            return
        if asked.failures:
            log.info("witness %s co-signs again", asked.witness.key.name)
        asked.failures, asked.known, asked.line_size = 0, head.size, head.size

    async def _add_checkpoint(self, session: aiohttp.ClientSession, asked: _Asked, own: note.Note,
                              head: checkpoint.Checkpoint) -> note.Signature:
        where = f"witness {asked.witness.key.name}"
        for _ in range(ATTEMPTS_MAX):
            if asked.known > head.size:
                raise EvidenceError(Problem.of(where, "platform.witness_ahead", size=asked.known, ours=head.size))
            body = request_body(self._register.tree, asked.known, head.size, own)
            asked.context = asked.context or asked.witness.ssl_context()
            async with session.post(f"{asked.witness.url}/add-checkpoint", data=body, allow_redirects=False,
                                    ssl=True if asked.context is None else asked.context) as response:
                answer = await response.content.read(ANSWER_BYTES_MAX)
                if response.status == 200:
                    return _cosignature(answer, own, asked.witness.key, where)
                if response.status != 409:
                    raise EvidenceError(Problem.of(where, "platform.witness_refused", status=response.status,
                                                   answer=answer[:100].decode("utf-8", "replace").strip()))
            asked.known = _size(answer, where)
        raise EvidenceError(Problem.of(where, "platform.witness_refused", status=409, answer="again and again"))


def request_body(tree: Tree, old_size: int, size: int, own: note.Note) -> bytes:
    """Return the body of add-checkpoint: what the witness knows, how the tree grew since, and the checkpoint."""
    proof = tree.consistency(old_size, size) if 0 < old_size < size else []
    lines = "".join(f"{to_base64(item)}\n" for item in proof)
    return f"old {old_size}\n{lines}\n".encode() + note.format_note(own.text, own.signatures)


def _cosignature(answer: bytes, own: note.Note, key: note.VerifierKey, where: str) -> note.Signature:
    """Return the line of this witness; lines of keys that we do not know are ignored, as the protocol asks."""
    answered = note.parse(own.text.encode() + b"\n" + answer, where=where)
    if not note.cosignatures(answered, [key], where=where):
        raise VerificationError(Problem.of(where, "note.unsigned", name=key.name))
    return next(s for s in answered.signatures if (s.name, s.key_id) == (key.name, key.key_id))


def _size(answer: bytes, where: str) -> int:
    text = answer.decode("ascii", "replace").removesuffix("\n")
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise EvidenceError(Problem.of(where, "platform.witness_refused", status=409, answer="no size"))
    return int(text)
