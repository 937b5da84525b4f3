"""Counts the slow way, in plain Python, sharing nothing with gateway/counting: the rules of the counting page, told
once more. A sample is a tuple (point, received_ns, source_ns, value, quality)."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

Sample = tuple[int, int, int, float, int]
REASONS = ("bad_quality", "late", "not_live", "queue_full", "stale", "undecodable", "unknown_point")


@dataclass
class Counted:
    connected: set[int] = field(default_factory=set)
    sampled: set[int] = field(default_factory=set)
    producing: set[int] = field(default_factory=set)
    changing: set[int] = field(default_factory=set)
    received: int = 0
    counted: int = 0
    discarded: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))


def pattern(value: float) -> int:
    if math.isnan(value):
        value = math.nan
    return struct.unpack("<q", struct.pack("<d", 0.0 if value == 0 else value))[0]


def recount(samples: Sequence[Sample], starts_ns: Sequence[int], len_ns: int, *, alive: Sequence[bool],
            owner: Sequence[int], usable: Sequence[str], max_age_ns: int) -> list[Counted]:
    """Count samples, all of them received inside one of the windows, which follow each other."""
    last: dict[int, int] = {}
    result = []
    for start in starts_ns:
        window = Counted()
        good: dict[int, list[tuple[int, int, int]]] = {}
        for point, received, source, value, quality in samples:
            if not start <= received < start + len_ns:
                continue
            window.received += 1
            if not 0 <= point < len(alive) or not alive[point]:
                window.discarded["unknown_point"] += 1
                continue
            if quality >= 128:
                window.discarded["not_live"] += 1
                continue
            window.sampled.add(point)
            if {0: "good", 1: "uncertain"}.get(quality) not in usable:
                window.discarded["bad_quality"] += 1
            elif source != 0 and received - source > max_age_ns:
                window.discarded["stale"] += 1
            else:
                window.counted += 1
                good.setdefault(point, []).append((received, source, pattern(value)))
        for point, values in good.items():
            window.producing.add(point)
            window.connected.add(owner[point])
            for _, _, bits in sorted(values):
                if point in last and bits != last[point]:
                    window.changing.add(point)
                last[point] = bits
        result.append(window)
    return result


def bits_of(slots: set[int]) -> int:
    return sum(1 << slot for slot in slots)
