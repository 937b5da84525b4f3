"""Step 7: time. A window was sealed after the co-signature that it names and before the one that includes it.

The gateway's clock decides window, day and staleness, never a verdict on time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from protocols.errors import Problem, VerificationError
from protocols.evidence import entry, keys, note
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.encoding import from_base64
from protocols.evidence.policy import Policy
from verifier.proof.findings import NO_ENTRY, TIME, Findings, Runs
from verifier.proof.history import COUNTED, OUTSIDE, UNKNOWN
from verifier.proof.register import Head

SLACK_S = 120
"""Clocks of witnesses and gateway may differ by this before a window's end is outside its bracket."""

WIDE_S = 3600
"""A wider bracket is a remark here; `count` has the lateness of its own basis."""


class Bracket(NamedTuple):
    """When a window was sealed at the earliest and at the latest, UNKNOWN where nothing proves it."""

    not_before_s: int
    not_after_s: int
    state: int


@dataclass(slots=True)
class Brackets:
    """Gives every window its bracket.

    heads: heads of this log that hold. roots: size -> root of the register checkpoints that hold. cosigned:
    `note.digest` of co-signatures that step 3 checked already.
    delays_s: time from the end of a window to its not-after -> windows.
    """

    policy: Policy
    heads: Sequence[Head]
    roots: Mapping[int, bytes]
    found: Findings
    cosigned: Collection[bytes] = frozenset()
    delays_s: Counter[int] = field(default_factory=Counter)
    anchored: bool = field(init=False)
    _sizes: list[int] = field(init=False)
    _times_s: list[int] = field(init=False)
    _runs: Runs = field(init=False)
    _last_seen: tuple[Mapping[str, Any] | None, int] = (None, UNKNOWN)

    def __post_init__(self) -> None:
        known = sorted((head.size, head.cosigned_s) for head in self.heads if head.cosigned_s is not None)
        self.anchored = bool(known)
        self._sizes = [size for size, _ in known]
        # The earliest co-signature of this or any larger head: both include every entry below this size.
        self._times_s = [0] * len(known)
        earliest = None
        for i in range(len(known) - 1, -1, -1):
            earliest = known[i][1] if earliest is None else min(earliest, known[i][1])
            self._times_s[i] = earliest
        self._runs = Runs(TIME, self.found)

    def of(self, window: Mapping[str, Any]) -> Bracket | None:
        """Return the bracket of a window, None if its `seen` is at fault."""
        seq, end_s = window["seq"], window["start_s"] + window["len_s"]
        self._runs.next_window()
        seen, (known, known_s) = window["seen"], self._last_seen
        if known_s != UNKNOWN and seen == known:  # as in most windows
            before = known_s
        elif self.found.holds(TIME, seq, self._look_at_seen, seen, seq):
            before = self._last_seen[1] if seen is not None else UNKNOWN
        else:
            return None
        after = self.not_after(seq)

        state = COUNTED
        if is_outside(end_s, before, after):
            self._runs.remark("time.outside", seq)
            state = OUTSIDE
        if after != UNKNOWN:
            self.delays_s[after - end_s] += 1
        if self.anchored and after == UNKNOWN:
            self._runs.remark("time.open", seq)
        elif self.anchored and (before == UNKNOWN or after - before > WIDE_S):
            self._runs.remark("time.wide", seq, limit_s=WIDE_S)
        return Bracket(before, after, state)

    @property
    def delay_median_s(self) -> int | None:
        """Median of `delays_s`, None if there is none."""
        count, below = self.delays_s.total(), 0
        middle: list[int] = []
        for delay_s in sorted(self.delays_s):
            below += self.delays_s[delay_s]
            middle += [delay_s] * ((below > (count - 1) // 2) + (below > count // 2) - len(middle))
        return round(sum(middle) / 2) if middle else None

    def not_after(self, seq: int) -> int:
        """Return the earliest independent co-signature of a head that includes entry `seq`, UNKNOWN if none does."""
        place = bisect_right(self._sizes, seq)
        return self._times_s[place] if place < len(self._sizes) else UNKNOWN

    def seen_time(self, seen: Mapping[str, Any], *, where: str) -> int:
        """Return when the register checkpoint of `seen` was co-signed: nobody could know it before.

        UNKNOWN if the policy does not call its witness independent. Raises: VerificationError `seen.bad_signature` or
        `seen.split_view`.
        """
        last, last_s = self._last_seen
        if last is not None and seen == last:
            return last_s
        register = self.policy.register
        key = self.policy.quorum.witnesses.get(seen["witness"])
        if register is None or key is None or seen["witness"] not in self.policy.independent:
            return UNKNOWN
        root = bytes.fromhex(seen["root"])
        text = Checkpoint(register.name, seen["size"], root).text
        signature, time_s = from_base64(seen["signature"], where=where), int(seen["time_s"])
        if note.digest(key.public, signature, text, time_s) not in self.cosigned and not keys.signature_holds(
                key.public, signature, note.cosigned_message(text, time_s)):
            raise VerificationError(Problem.of(where, "seen.bad_signature", witness=seen["witness"]))
        # A smaller register is seldom seen again, so of other windows only the last one is compared.
        if self.roots.get(seen["size"], root) != root or (
                last is not None and last["size"] == seen["size"] and last["root"] != seen["root"]):
            raise VerificationError(Problem.of(where, "seen.split_view", size=seen["size"]))
        return time_s

    def close(self) -> None:
        """Record what is still open after the last window."""
        self._runs.close()
        if not self.anchored:
            self.found.remark(TIME, "time.unanchored", "bundle", seq=NO_ENTRY)

    def _look_at_seen(self, seen: Mapping[str, Any] | None, seq: int) -> None:
        """Remember the time of a register checkpoint that an independent witness co-signed before the sealing.

        Raises: VerificationError `seen.bad_signature` or `seen.split_view`.
        """
        if seen is None:
            return
        try:
            time_s = self.seen_time(seen, where=entry.name(seq))
        except VerificationError:
            self._last_seen = (None, UNKNOWN)
            raise
        if time_s == UNKNOWN:
            self._runs.remark("seen.unknown_witness", seq, witness=seen["witness"])
        self._last_seen = (seen, time_s)


def is_outside(end_s: int, not_before_s: int, not_after_s: int) -> bool:
    """Return whether the end of a window lies outside its bracket, with the slack that clocks have."""
    return (not_before_s != UNKNOWN and end_s < not_before_s - SLACK_S) or (
        not_after_s != UNKNOWN and end_s > not_after_s + SLACK_S)
