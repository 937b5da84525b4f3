"""Four families of errors, one for each reaction. Every error says where, what and how to fix it.

ConfigError         do not start; the user mends a file
DeviceError         retry; log once when lost and once when back
EvidenceError       stop sealing, keep the journal
VerificationError   the claim is refused
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in something a user gave us.

    `where` is a file and a place in it; `code` names a sentence in `tallystick/words` and `args` fill it,
    so that the same problem can be told in Chinese and in English.
    """

    where: str
    code: str
    args: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(where: str, code: str, /, **args: object) -> Problem:
        """Build a problem; every argument is kept as text, sorted by name."""
        return Problem(where, code, tuple(sorted((k, str(v)) for k, v in args.items())))


class TallystickError(Exception):
    """Base of the four families; carries one or more problems."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("; ".join(f"{p.where}: {p.code} {dict(p.args)}" for p in self.problems))


class ConfigError(TallystickError):
    """Configuration or a file from the user is wrong: do not start."""


class DeviceError(TallystickError):
    """A device, server or broker did not do what was asked: retry with back-off."""


class EvidenceError(TallystickError):
    """Our own evidence is not as we left it: stop sealing, keep the journal."""


class VerificationError(TallystickError):
    """What was presented does not verify: refuse it."""
