"""An honest bundle around what is fuzzed: in memory, and what never changes in it is parsed once.

The container has a target of its own (`zip`), and so have notes, proofs, rows and entries of the register. A target
that verifies a whole bundle for each input spent most of its time on these.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from protocols.errors import Problem, VerificationError
from protocols.evidence import note, proof, register
from protocols.evidence.bundle import README, Bundle
from verifier.proof import rows

REMEMBERED = 1_000


class Held(Bundle):
    """A bundle of these members; README.txt is added. It says what one that was opened from its zip would say."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self._members = {"README.txt": README.encode(), **members}
        self._sort(self._members)

    def read(self, name: str) -> bytes:
        """Return the bytes of a member. Raises VerificationError `container.corrupt`."""
        if name not in self._members:
            raise VerificationError(Problem.of(name, "container.corrupt", reason="no such member"))
        return self._members[name]

    def close(self) -> None:
        """There is no file."""


def remember() -> None:
    """Parse what is honest once. These functions depend on their arguments alone; a refusal is not remembered."""
    for module, name in ((note, "parse"), (proof, "parse"), (register, "decode"), (rows, "_parse")):
        setattr(module, name, lru_cache(maxsize=REMEMBERED)(getattr(module, name)))
