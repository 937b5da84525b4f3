"""What a witness knows of one log, and the rule by which it co-signs. C2SP tlog-witness v1.

A witness keeps the newest checkpoint that it co-signed of each origin, and co-signs another only if a consistency
proof shows that the old tree is its beginning. It trusts nothing in a request but the log's signature.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols import system
from protocols.errors import EvidenceError, Problem, VerificationError
from protocols.evidence import checkpoint, merkle, note
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.encoding import from_base64
from protocols.evidence.keys import public_bytes

PROOF_LINES_MAX = 63
REQUEST_BYTES_MAX = note.NOTE_BYTES_MAX + 64 * 46 + 32
"""A checkpoint, 63 base64 lines and the line `old`."""


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed add-checkpoint body; nothing in it is verified."""

    old_size: int
    proof: tuple[bytes, ...]
    note: note.Note
    head: Checkpoint


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP status and body. `code` names why, for the log of the service."""

    status: int
    code: str
    body: bytes = b""

    @property
    def content_type(self) -> str:
        """Media type of the body; a size has one of its own."""
        return "text/x.tlog.size" if self.status == 409 else "text/plain"


def parse_request(body: bytes) -> Request:
    """Parse an add-checkpoint body. Raises VerificationError `witness.malformed`, or those of notes."""
    def refuse(reason: str) -> VerificationError:
        return VerificationError(Problem.of("add-checkpoint", "witness.malformed", reason=reason))

    if len(body) > REQUEST_BYTES_MAX:
        raise refuse("too long")
    head, found, rest = body.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise refuse("not ASCII before the checkpoint") from None
    size = lines[0].removeprefix("old ")
    if not found or not lines[0].startswith("old "):
        raise refuse("no old size")
    if not size.isdigit() or len(size) > 16 or str(int(size)) != size:
        raise refuse("the old size is no number")
    if len(lines) - 1 > PROOF_LINES_MAX:
        raise refuse(f"more than {PROOF_LINES_MAX} proof lines")
    proof = tuple(from_base64(line, where="add-checkpoint") for line in lines[1:])
    if any(len(item) != merkle.HASH_BYTES for item in proof):
        raise refuse("a proof line has not 32 bytes")
    signed = note.parse(rest, where="add-checkpoint")
    return Request(int(size), proof, signed, checkpoint.parse_text(signed.text, where="add-checkpoint"))


def judge(request: Request, log: note.VerifierKey | None, known: Checkpoint | None) -> Answer | None:
    """Return the refusal, None if the checkpoint is to be co-signed. The order of checks is that of the protocol.

    `log` is the key of the request's origin, None if it is not witnessed; `known` the newest co-signed head of it.
    """
    if log is None:
        return Answer(404, "witness.unknown_origin")
    try:
        note.require_signed(request.note, log, where="add-checkpoint")
    except VerificationError:
        return Answer(403, "witness.not_signed")
    if request.old_size > request.head.size:
        return Answer(400, "witness.old_too_large")
    known_size = known.size if known else 0
    if request.old_size != known_size:
        return Answer(409, "witness.other_size", f"{known_size}\n".encode())
    if known is None or known.size == 0:
        # The generic proof has no answer from size 0; here it must be empty, and an empty tree has one root only.
        if request.proof or (request.head.size == 0 and request.head.root != merkle.EMPTY_ROOT):
            return Answer(422, "witness.inconsistent")
        return None
    try:
        merkle.verify_consistency(old_size=known.size, new_size=request.head.size, proof=request.proof,
                                  old_root=known.root, new_root=request.head.root, where="add-checkpoint")
    except VerificationError:
        return Answer(422, "witness.inconsistent")
    return None


class Book:
    """The newest co-signed checkpoint of each origin, durable, held by one process at a time.

    Restoring an old copy of its folder would make the witness sign a second history; it cannot notice that itself.
    """

    def __init__(self, folder: Path, *, name: str, key: Ed25519PrivateKey,
                 logs: Mapping[str, note.VerifierKey]) -> None:
        """Take the lock and read what was co-signed.

        Raises: EvidenceError `witness.in_use`, or `witness.broken` when a stored checkpoint is not what was stored.
        """
        self._folder, self._name, self._key, self._logs = folder, name, key, logs
        self._public = note.VerifierKey(name, note.COSIGNATURE_V1, public_bytes(key))
        try:
            self._lock = system.lock(folder)
        except BlockingIOError as error:
            raise EvidenceError(Problem.of(str(folder), "witness.in_use")) from error
        self._turn = threading.Lock()
        self._notes: dict[str, bytes] = {}
        self._heads: dict[str, Checkpoint] = {}
        for origin, log in logs.items():
            path = self._path(origin)
            if path.exists():
                self._read(origin, log, path)

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._lock)

    def stored(self, origin_sha256: str) -> bytes | None:
        """Return the newest co-signed checkpoint of the origin with this hex digest."""
        return next((data for origin, data in self._notes.items() if _digest(origin) == origin_sha256), None)

    def add(self, request: Request, *, time_s: int) -> Answer:
        """Judge, and if it holds make the new state durable, then answer with the cosignature line.

        Compare and store are one step: of two requests at the same time the second is judged by what the first stored.
        """
        with self._turn:
            return self._add(request, time_s)

    def _add(self, request: Request, time_s: int) -> Answer:
        origin = request.head.origin
        log = self._logs.get(origin)
        refusal = judge(request, log, self._heads.get(origin))
        if refusal is not None or log is None:
            return refusal or Answer(404, "witness.unknown_origin")
        line = note.cosign(request.note.text, self._key, name=self._name, time_s=time_s)
        signed = [s for s in request.note.signatures if (s.name, s.key_id) == (log.name, log.key_id)]
        data = note.format_note(request.note.text, [*signed[:1], line])
        system.replace(self._path(origin), data)
        self._notes[origin], self._heads[origin] = data, request.head
        return Answer(200, "witness.cosigned", note.format_note("", [line])[1:])

    def _read(self, origin: str, log: note.VerifierKey, path: Path) -> None:
        data = path.read_bytes()
        try:
            signed = note.parse(data, where=str(path))
            head = checkpoint.parse_text(signed.text, where=str(path))
            note.require_signed(signed, log, where=str(path))
            if head.origin != origin or not note.cosignatures(signed, [self._public], where=str(path)):
                raise VerificationError(Problem.of(str(path), "note.unsigned", name=self._name))
        except VerificationError as error:
            raise EvidenceError(Problem.of(str(path), "witness.broken", reason=error)) from error
        self._notes[origin], self._heads[origin] = data, head

    def _path(self, origin: str) -> Path:
        return self._folder / f"{_digest(origin)}.checkpoint"


def _digest(origin: str) -> str:
    return hashlib.sha256(origin.encode()).hexdigest()
