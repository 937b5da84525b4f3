"""Checkpoints: the signed head of a log. C2SP tlog-checkpoint v1: origin, size, root, and no extension lines."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.errors import Problem, VerificationError
from protocols.evidence.encoding import from_base64, to_base64

SIZE_MAX = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Size and root of the log `origin`; `root` is 32 raw bytes."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The note text that is signed and co-signed."""
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"


def parse_text(text: str, *, where: str) -> Checkpoint:
    """Parse a checkpoint text that must be exactly what `Checkpoint.text` writes.

    Raises: VerificationError `checkpoint.malformed`.
    """
    lines = text.split("\n")
    if len(lines) == 4 and lines[0] and lines[1].isascii() and lines[1].isdigit() and len(lines[1]) <= 16:
        root = from_base64(lines[2], where=where)
        result = Checkpoint(lines[0], int(lines[1]), root)
        if len(root) == 32 and result.size <= SIZE_MAX and result.text == text:
            return result
    raise VerificationError(Problem.of(where, "checkpoint.malformed"))
