"""What the next entry must know of those before it: a fold over the log that needs only a few of its entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from protocols.evidence import keys
from protocols.evidence.entry import LIFE_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The state of a log after its last entry.

    gateway: its id, "" before the enrolment. key: the public key (64 hex) that signs larger checkpoints. keys: every
    (seq, key) from which on a key signs. life: seq of the last entry that tells the gateway's life, -1 if none.
    covered_s: end of the last window or outage, None before the first. outage: seq of the last outage, -1 if none.
    len_s: of the last start. roster: seq of the last roster. Both None before the first.
    """

    gateway: str = ""
    uscc: str = ""
    key: str = ""
    keys: tuple[tuple[int, str], ...] = ()
    life: int = -1
    covered_s: int | None = None
    outage: int = -1
    len_s: int | None = None
    roster: int | None = None

    def after(self, value: Mapping[str, Any]) -> History:
        """Return the history with one more entry, given as its object."""
        seq, kind = value["seq"], value["type"]
        result = replace(self, life=seq) if kind in LIFE_TYPES else self
        if kind == "enrolment":
            key = value["certificate"]["gateway_key"]
            return replace(result, gateway=value["gateway"], uscc=value["certificate"]["uscc"], key=key,
                           keys=((0, key),))
        if kind == "key":
            key = value["rotation"]["new_key"]
            return replace(result, key=key, keys=(*self.keys, (seq, key)))
        if kind == "start":
            return replace(result, len_s=value["rule"]["len_s"])
        if kind == "roster":
            return replace(result, roster=seq)
        if kind == "outage":
            return replace(result, covered_s=value["end_s"], outage=seq)
        if kind == "window":
            return replace(result, covered_s=value["start_s"] + value["len_s"])
        return result

    def key_at(self, size: int) -> str:
        """Return the public key (64 hex) that signs a checkpoint of `size`: a rotation at r rules from r + 1 on."""
        return next(key for seq, key in reversed(self.keys) if size > seq)

    @property
    def origin(self) -> str:
        """Origin of this gateway's log."""
        return keys.gateway_origin(self.gateway)


def read_history(size: int, entry: Callable[[int], Mapping[str, Any]]) -> History:
    """Fold a log of `size` entries: the chain of `life` and the last window or outage are all that it takes."""
    if size == 0:
        return History()
    last = entry(size - 1)
    chain = []
    at = last["seq"] if last["type"] in LIFE_TYPES else last["life"]
    while at >= 0:
        chain.append(entry(at))
        at = chain[-1]["life"]
    result = History()
    for value in reversed(chain):
        result = result.after(value)
    for seq in range(size - 1, -1, -1):
        value = entry(seq)
        if value["type"] in ("window", "outage"):
            covered = value["end_s"] if value["type"] == "outage" else value["start_s"] + value["len_s"]
            return replace(result, covered_s=covered)
    return result
