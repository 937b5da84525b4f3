"""What the verifier found: one finding per fault, each with the numbered step that found it.

A fault makes the bundle invalid. A remark is printed and changes no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

from protocols.errors import VerificationError

CONTAINER, POLICY, REGISTER, CHECKPOINT, TILES, LOG, TIME, ROSTER, RECOUNT, PROBES = range(1, 11)
"""The numbered steps."""

ALL_STEPS = frozenset(range(1, 11))
FINDINGS_MAX = 1_000
"""Findings kept for each severity; a hostile bundle has as many faults as it has entries."""

NO_ENTRY = -1
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault or remark. `where` is a member of the bundle or an entry of the log, never a path of a disk.

    `code` and `args` name a sentence of tallystick/words. `seq` is the log entry it is about, NO_ENTRY if none.
    """

    severity: Literal["fault", "remark"]
    step: int
    seq: int
    code: str
    where: str
    args: tuple[tuple[str, str], ...] = ()


class Findings:
    """Collects findings. A step that is left out records nothing, and what it looks at passes as if it held.

    Only tests leave a step out, to show that each is needed.
    """

    def __init__(self, steps: Collection[int] = ALL_STEPS) -> None:
        self._steps = steps
        self._found: dict[Finding, None] = {}  # a set that keeps its order
        self._kept = {"fault": 0, "remark": 0}

    def fault(self, step: int, code: str, where: str, *, seq: int = NO_ENTRY, **args: object) -> bool:
        """Record a fault. Returns whether it counts: the caller then does not use what is at fault."""
        return self._record("fault", step, code, where, seq, args)

    def remark(self, step: int, code: str, where: str, *, seq: int = NO_ENTRY, **args: object) -> None:
        """Record a remark."""
        self._record("remark", step, code, where, seq, args)

    def refuse(self, step: int, error: VerificationError, *, seq: int = NO_ENTRY) -> bool:
        """Record every problem of `error` as a fault. What the container refuses belongs to step 1."""
        counted = False
        for problem in error.problems:
            at = CONTAINER if problem.code.startswith("container.") else step
            counted |= self._record("fault", at, problem.code, problem.where, seq, dict(problem.args))
        return counted

    def holds(self, step: int, about: int, check: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Run a check that raises VerificationError; return whether what it checked may be used. `about`: log entry."""
        try:
            check(*args, **kwargs)
        except VerificationError as error:
            return not self.refuse(step, error, seq=about)
        return True

    def get(self, step: int, about: int, read: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Return what `read` returns; None, with its problems recorded, if it raises VerificationError."""
        try:
            return read(*args, **kwargs)
        except VerificationError as error:
            self.refuse(step, error, seq=about)
            return None

    def faults(self, *steps: int) -> bool:
        """Return whether there is a fault, of one of `steps` if any is given."""
        return any(f.severity == "fault" and (not steps or f.step in steps) for f in self._found)

    def sorted(self) -> tuple[Finding, ...]:
        """Return all findings by (step, seq, code, where): the same bundle gives the same list."""
        return tuple(sorted(self._found, key=lambda f: (f.step, f.seq, f.code, f.where, f.args)))

    def _record(self, severity: Literal["fault", "remark"], step: int, code: str, where: str, seq: int,
                args: dict[str, object]) -> bool:
        if step not in self._steps:
            return False
        finding = Finding(severity=severity, step=step, seq=seq, code=code, where=where,
                          args=tuple(sorted((name, str(value)) for name, value in args.items())))
        if finding in self._found:
            return True
        if self._kept[severity] < FINDINGS_MAX:
            self._found[finding] = None
        elif self._kept[severity] == FINDINGS_MAX:
            self._found[Finding(severity=severity, step=step, seq=seq, code="findings.cut", where="bundle",
                                args=(("limit", str(FINDINGS_MAX)),))] = None
        self._kept[severity] += 1
        return True


class Runs:
    """Remarks that hold for many windows: one finding for each unbroken run, not one for each window."""

    def __init__(self, step: int, found: Findings) -> None:
        self._step, self._found = step, found
        self._open: dict[tuple[str, tuple[tuple[str, str], ...]], list[int]] = {}
        self._windows = 0

    def next_window(self) -> None:
        """Begin the next window: a run that the last one did not continue has ended."""
        self._windows += 1
        if not self._open:
            return
        for key in [key for key, (_, _, _, at) in self._open.items() if at < self._windows - 1]:
            self._close(key)

    def remark(self, code: str, seq: int, **args: object) -> None:
        """Say that `code` holds for the window at `seq`, the current one."""
        key = (code, tuple(sorted((name, str(value)) for name, value in args.items())))
        run = self._open.setdefault(key, [seq, seq, 0, 0])
        run[1:] = [seq, run[2] + 1, self._windows]

    def close(self) -> None:
        """Record the runs that are still open."""
        for key in list(self._open):
            self._close(key)

    def _close(self, key: tuple[str, tuple[tuple[str, str], ...]]) -> None:
        code, args = key
        first, last, count, _ = self._open.pop(key)
        self._found.remark(self._step, code, f"entry/{first}", seq=first, last=last, windows=count, **dict(args))
