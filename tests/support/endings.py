"""What tests of one process share until its end, and how it ends."""

from __future__ import annotations

from collections.abc import Callable

_ENDINGS: list[Callable[[], object]] = []


def at_the_end(ending: Callable[[], object]) -> None:
    """Have this called when the last test of this process is over; a worker ends before `atexit` has its turn."""
    _ENDINGS.append(ending)


def end() -> None:
    """Call them; who came last goes first."""
    while _ENDINGS:
        _ENDINGS.pop()()
