"""tlog-proof files: one entry of a log with all that proves it. C2SP tlog-proof.

    c2sp.org/tlog-proof@v1
    extra <base64>            the entry itself, in our register proofs
    index <n>
    <hash>...                 inclusion proof, base64, leaf sibling first

    <checkpoint with its signatures>
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from dataclasses import dataclass

from protocols.errors import Problem, VerificationError
from protocols.evidence import note
from protocols.evidence.checkpoint import SIZE_MAX
from protocols.evidence.encoding import from_base64, to_base64
from protocols.evidence.merkle import HASH_BYTES, PROOF_HASHES_MAX

HEADER = "c2sp.org/tlog-proof@v1"
PROOF_BYTES_MAX = 192 * 1024
_HASH = re.compile("[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
"""32 bytes in base64 that re-encodes to itself: the last letter has two spare bits."""


@dataclass(frozen=True, slots=True)
class LogProof:
    """A parsed proof; nothing in it is verified. `extra` is the entry, `checkpoint` the signed note, verbatim."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        lines = [HEADER, f"extra {to_base64(self.extra)}", f"index {self.index}", *map(to_base64, self.hashes)]
        return ("\n".join(lines) + "\n\n").encode() + self.checkpoint


def parse(data: bytes, *, where: str) -> LogProof:
    """Parse a proof file that carries its entry as `extra`. Raises VerificationError `proof.malformed`."""
    def refuse(reason: str) -> VerificationError:
        return VerificationError(Problem.of(where, "proof.malformed", reason=reason))

    if len(data) > PROOF_BYTES_MAX:
        raise refuse("longer than 192 KiB")
    head, found, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise refuse("not ASCII") from None
    if not found or len(lines) < 3 or lines[0] != HEADER:
        raise refuse("the header is missing")
    if not lines[1].startswith("extra ") or not lines[2].startswith("index "):
        raise refuse("extra or index is missing")
    index = lines[2].removeprefix("index ")
    if not (index.isdigit() and len(index) <= 16 and str(int(index)) == index and int(index) <= SIZE_MAX):
        raise refuse("the index is no number")
    if len(lines) - 3 > PROOF_HASHES_MAX:
        raise refuse(f"more than {PROOF_HASHES_MAX} hashes")
    if all(map(_HASH.fullmatch, lines[3:])):
        hashes = tuple(map(a2b_base64, lines[3:]))
    else:  # which of them is wrong, and how
        hashes = tuple(from_base64(line, where=where) for line in lines[3:])
    if any(len(h) != HASH_BYTES for h in hashes):
        raise refuse("a hash has not 32 bytes")
    if len(checkpoint) > note.NOTE_BYTES_MAX:
        raise refuse("the checkpoint is too long")
    return LogProof(int(index), hashes, checkpoint, from_base64(lines[1].removeprefix("extra "), where=where))
