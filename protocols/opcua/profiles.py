"""How much to ask of a server at once: what it states, and what kinds of servers are known to bear. Pure.

Small controllers refuse, or stall on, more than they say; a Siemens S7-1500 counts its limit of 1000 over all requests
that are outstanding, so requests that create items follow one another. Figures: collectors in the field, named in
docs/opcua.md.
"""

from __future__ import annotations

from dataclasses import dataclass

BATCH_UNKNOWN = 50
"""Operations per request where the server states no limit: small controllers refuse more without saying why."""
BATCH_MAX = 1000
"""Operations per request, however many the server would take: one request must not stall a controller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A kind of server. batch: operations per request. items_max: monitored items in all; None when not known.

    marks: words of its BuildInfo, lower case. is_ceiling: larger limits that it states are not believed.
    reads_at_once: Reads of polling that may be outstanding together, as long as they are answered quickly.
    """

    name: str
    batch: int = BATCH_UNKNOWN
    items_max: int | None = None
    marks: tuple[str, ...] = ()
    is_ceiling: bool = False
    reads_at_once: int = 1

    def batch_of(self, stated: int | None) -> int:
        """Return how many operations to put into one request. stated: the server's limit, None or 0 when unknown."""
        if not stated:
            return self.batch
        return min(stated, self.batch if self.is_ceiling else BATCH_MAX)

    def items_of(self, *stated: int | None) -> int | None:
        """Return how many items one subscription may have. stated: the server's own limits, None or 0 when unknown."""
        return min((limit for limit in (self.items_max, *stated) if limit), default=None)


UNKNOWN = Profile(name="unknown")
PROFILES = {profile.name: profile for profile in (
    UNKNOWN,
    Profile(name="s7_1200", batch=100, items_max=1000, marks=("s7-1200", "s7_1200", "s71200"), is_ceiling=True),
    Profile(name="s7_1500", batch=500, items_max=10_000, marks=("s7-1500", "s7_1500", "s71500"), is_ceiling=True),
    Profile(name="kepware", batch=1000, marks=("kepware", "kepserver", "thingworx kepware"), reads_at_once=4),
    Profile(name="ignition", batch=100, marks=("ignition", "inductive automation"), is_ceiling=True,
            reads_at_once=4),
)}
AUTO = "auto"


def recognise(*build_info: str) -> Profile:
    """Return the profile whose marks stand in the server's BuildInfo; UNKNOWN when none does."""
    text = " ".join(build_info).lower()
    for profile in PROFILES.values():
        if any(mark in text for mark in profile.marks):
            return profile
    return UNKNOWN
