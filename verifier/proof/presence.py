"""Devices that came shortly before T or went shortly after: newly bought, or rented for the count. Nobody can tell.

A device that counts at T is *new* if it was connected in no window of the seven days that end seven days before T, and
*gone* if it is connected in no window of the seven days that begin seven days after T. That needs evidence of those
days: where a bundle does not reach so far, the answer is "not computable", never zero.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from verifier.proof.figures import Evidence
from verifier.proof.history import COUNTED
from verifier.proof.recount import mask

DAY_S = 86_400
APART_S = 7 * DAY_S
"""How long before and after T a device should have been there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Devices that count at T and were not there before, or not afterwards, by (gateway, slot).

    None where it cannot be computed; short_before, short_after: the gateways whose evidence does not reach so far.
    """

    new: tuple[tuple[str, int], ...] | None
    gone: tuple[tuple[str, int], ...] | None
    short_before: tuple[str, ...]
    short_after: tuple[str, ...]


def presence(evidence: Sequence[Evidence], counted: Collection[tuple[str, int]], at_s: int) -> Presence:
    """Look for each counted device in the week that ends a week before `at_s`, and in the one that begins a week after.

    At least one whole day of such a week must be covered. A log that began later than a week before T is covered: what
    it counts is new.
    """
    new: list[tuple[str, int]] = []
    gone: list[tuple[str, int]] = []
    short_before, short_after = [], []
    for one in sorted(evidence, key=lambda e: e.gateway):
        slots = [slot for gateway, slot in counted if gateway == one.gateway]
        start_s, end_s = one.covered if one.covered is not None else (at_s, at_s)
        if one.from_enrolment or start_s <= at_s - APART_S - DAY_S:
            new += [(one.gateway, slot) for slot in _absent(one, slots, at_s - 2 * APART_S, at_s - APART_S)]
        else:
            short_before.append(one.gateway)
        if end_s >= at_s + APART_S + DAY_S:
            gone += [(one.gateway, slot) for slot in _absent(one, slots, at_s + APART_S, at_s + 2 * APART_S)]
        else:
            short_after.append(one.gateway)
    return Presence(new=None if short_before else tuple(sorted(new)), gone=None if short_after else tuple(sorted(gone)),
                    short_before=tuple(short_before), short_after=tuple(short_after))


def _absent(evidence: Evidence, slots: Iterable[int], from_s: int, to_s: int) -> list[int]:
    """Return the slots that are connected in no counted window that ends in (from, to]."""
    wanted = mask(slots)
    for i in range(len(evidence.windows)):
        if not wanted:
            break
        if from_s < evidence.windows.end_s[i] <= to_s and evidence.windows.state[i] == COUNTED:
            wanted &= ~evidence.columns(i).connected
    return [slot for slot in range(wanted.bit_length()) if wanted >> slot & 1]
