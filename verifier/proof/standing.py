"""What still stands: after a key was stolen and revoked, and beside a gateway's clock that nobody need believe.

    key stolen 1 May, revoked 3 May: the log ends at the `from_size` of the revocation; windows below it keep their
    brackets. Those that were co-signed before the revocation itself was, nobody wrote because of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verifier.proof.bracket import SLACK_S
from verifier.proof.history import UNKNOWN, Windows
from verifier.proof.register import Revocation

STEP_MS = 1000
"""A smaller step is what a clock that is kept in time does anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a revocation leaves of a log, as far as the bundle shows it.

    cosigned_s: earliest independent co-signature of the revocation, None if there is none. windows: that stand;
    before: of these, co-signed before the revocation was; until_s: the last not-after of those, None without any.
    void_entries: of the log, from `from_size` on.
    """

    from_size: int
    cosigned_s: int | None
    windows: int
    before: int
    until_s: int | None
    void_entries: int

    def as_json(self) -> dict[str, Any]:
        """Return it as docs/schemas/verify.schema.json describes it."""
        return {"from_size": self.from_size, "cosigned_s": self.cosigned_s, "void_entries": self.void_entries,
                "windows": {"standing": self.windows, "cosigned_before": self.before}, "proven_until_s": self.until_s}


def standing(revocation: Revocation | None, windows: Windows, size: int) -> Standing | None:
    """Return what stands of a log of `size` entries, None if nothing was revoked. `windows` end at the revocation."""
    if revocation is None:
        return None
    at_s = revocation.cosigned_s
    before = [after for after in windows.not_after_s if after != UNKNOWN and at_s is not None and after <= at_s]
    return Standing(
        from_size=revocation.from_size, cosigned_s=at_s, windows=len(windows), before=len(before),
        until_s=max(before, default=None), void_entries=max(0, size - revocation.from_size))


@dataclass(slots=True)
class Clock:
    """The gateway's own clock, as it says itself, and as independent witnesses saw it.

    stepped: windows in which the wall clock was set by a second or more; step_max_ms, offset_max_ms: largest step, and
    largest distance of wall clock and window time, without sign. outside_max_s: how far a window's end lay outside its
    bracket, 0 if no farther than clocks may differ.
    """

    stepped: int = 0
    step_max_ms: int = 0
    offset_max_ms: int = 0
    outside_max_s: int = 0

    def take(self, window: Mapping[str, Any], not_before_s: int, not_after_s: int) -> None:
        """Look at one window."""
        step_ms, offset_ms = abs(window["clock"]["step_ms"]), abs(window["clock"]["offset_ms"])
        end_s = window["start_s"] + window["len_s"]
        self.stepped += step_ms >= STEP_MS
        if step_ms > self.step_max_ms:
            self.step_max_ms = step_ms
        if offset_ms > self.offset_max_ms:
            self.offset_max_ms = offset_ms
        if not_before_s != UNKNOWN and not_before_s - end_s > SLACK_S:
            self.outside_max_s = max(self.outside_max_s, not_before_s - end_s)
        if not_after_s != UNKNOWN and end_s - not_after_s > SLACK_S:
            self.outside_max_s = max(self.outside_max_s, end_s - not_after_s)

    def as_json(self) -> dict[str, Any]:
        """Return it as docs/schemas/verify.schema.json describes it."""
        return {"stepped_windows": self.stepped, "step_max_ms": self.step_max_ms, "offset_max_ms": self.offset_max_ms,
                "outside_max_s": self.outside_max_s}
