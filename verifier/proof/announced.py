"""Draws that the register announces: a demand of an auditor that names no slot and no hour, and whose deadline is the
instant after which the first independent co-signature draws the sample.

It counts if a proof in the bundle shows it below an independent co-signature not later than that instant: then it was
said before anybody could know the sample. One that entered the register later announces nothing.

The seed also depends on which gateways are drawn from. Of one enterprise these must be just those that were announced
for the instant: else somebody could try with and without one of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

REGISTERED, LATE, OTHERS, NOT = STATES = ("registered", "late", "other_gateways", "none")
"""What a bundle shows of the announcement of a draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """An auditor of the policy announced that a sample of this gateway is drawn after `instant_s`.

    index: its place in the register. cosigned_s: earliest independent co-signature of the register checkpoint in its
    proof, None if none.
    """

    index: int
    gateway: str
    instant_s: int
    cosigned_s: int | None

    @property
    def in_time(self) -> bool:
        """Whether it is proven to be in the register before the instant had passed."""
        return self.cosigned_s is not None and self.cosigned_s <= self.instant_s

    def as_json(self) -> dict[str, Any]:
        """Return it as docs/schemas/verify.schema.json describes it."""
        return {"index": self.index, "gateway": self.gateway, "instant_s": self.instant_s,
                "cosigned_s": self.cosigned_s, "in_time": self.in_time}


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """How a draw was announced. state: one of STATES. index, cosigned_s: of the announcement that decides."""

    state: str
    index: int | None = None
    cosigned_s: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as docs/schemas/verify.schema.json describes it."""
        return {"state": self.state, "index": self.index, "cosigned_s": self.cosigned_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcements:
    """The draws that auditors announced, in register order, from any of `family`: the gateways of one enterprise."""

    said: tuple[Announcement, ...] = ()
    family: frozenset[str] = frozenset()

    def instants_of(self, gateway: str) -> set[int]:
        """Return the instants that were announced in time for draws from this gateway."""
        return {said.instant_s for said in self.said if said.gateway == gateway and said.in_time}

    def of(self, drawn: Collection[str], instant_s: int) -> Announced:
        """Return how a draw at `instant_s` was announced. drawn: its gateways, also of other enterprises."""
        best: dict[str, Announcement] = {}
        for said in sorted((a for a in self.said if a.instant_s == instant_s), key=_when):
            best.setdefault(said.gateway, said)
        if not best:
            return Announced(state=NOT)
        needed = self.family & set(drawn)
        in_time = {gateway for gateway, said in best.items() if said.in_time}
        if not needed or in_time - needed or needed - best.keys():
            return Announced(state=OTHERS)
        last = max((best[gateway] for gateway in needed), key=_when)  # each must have been said in time
        return Announced(state=REGISTERED if last.in_time else LATE, index=last.index, cosigned_s=last.cosigned_s)


NOTHING_ANNOUNCED = Announcements()


def _when(said: Announcement) -> tuple[bool, int, int]:
    return said.cosigned_s is None, said.cosigned_s or 0, said.index
