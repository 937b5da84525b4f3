"""How far a long command is, for a terminal: one line on stderr that is written over, and gone when it is done."""

from __future__ import annotations

import sys
import time

from protocols.terms.say import Say

PAUSE_S = 0.2
"""A terminal is told no more often than this."""

CLEAR = "\r\x1b[K"


class Progress:
    """Tells a terminal; says nothing where nobody watches."""

    def __init__(self, say: Say) -> None:
        self.say, self.watched = say, sys.stderr.isatty()
        self._next_s, self._shown = 0.0, False

    def rows(self, done: int) -> None:
        """Tell how many rows are written."""
        if self._due():
            self._show(self.say("forms.progress.rows", rows=f"{done:,}"))

    def windows(self, done: int, total: int) -> None:
        """Tell how many windows are read."""
        if self._due():
            self._show(self.say("forms.progress.windows", done=f"{done:,}", total=f"{total:,}"))

    def bundles(self, number: int, total: int) -> None:
        """Tell which bundle is verified now."""
        if self._due():
            self._show(self.say("audit.progress.bundles", number=number, total=total))

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            print(CLEAR, end="", file=sys.stderr, flush=True)
            self._shown = False

    def _due(self) -> bool:
        return self.watched and time.monotonic() >= self._next_s

    def _show(self, text: str) -> None:
        print(CLEAR + text, end="", file=sys.stderr, flush=True)
        self._shown, self._next_s = True, time.monotonic() + PAUSE_S
