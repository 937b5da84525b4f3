"""The sealing rule: the parameters that are baked into every window and told in the `start` entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protocols.errors import ConfigError, Problem
from protocols.terms.vocabulary import USABLE_QUALITIES

LEN_S_MAX = 3_600
GRACE_MS_MAX = 60_000
SOURCE_AGE_S_MAX = 10 * 365 * 86_400
QUEUED_SAMPLES_MAX = 1_000_000
"""Samples that may wait between drivers and the window; what is beyond is counted as `queue_full`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How samples become windows.

    len_s divides an hour. grace_ms: how long a window stays open after its end. A sample whose source time is more
    than max_source_age_s before its arrival is stale. usable: the qualities that count.
    """

    len_s: int = 60
    grace_ms: int = 2_000
    max_source_age_s: int = 3_600
    usable: tuple[str, ...] = USABLE_QUALITIES
    queued_samples: int = QUEUED_SAMPLES_MAX

    def __post_init__(self) -> None:
        """Raise ConfigError with everything that is out of its limits."""
        found = []
        if not 1 <= self.len_s <= LEN_S_MAX or LEN_S_MAX % self.len_s:
            found.append(Problem.of("[window] len_s", "counting.window_length", value=self.len_s))
        for name, value, most in (("grace_ms", self.grace_ms, GRACE_MS_MAX),
                                  ("max_source_age_s", self.max_source_age_s, SOURCE_AGE_S_MAX)):
            if not 0 <= value <= most:
                found.append(Problem.of(f"[window] {name}", "counting.out_of_range", value=value, limit=most))
        if not self.usable or set(self.usable) - set(USABLE_QUALITIES) or len(set(self.usable)) != len(self.usable):
            found.append(Problem.of("[window] usable", "counting.usable", known=", ".join(USABLE_QUALITIES)))
        if found:
            raise ConfigError(found)

    def entry(self, *, devices_max: int, points_max: int) -> dict[str, Any]:
        """Return the `rule` of a `start` entry."""
        return {
            "len_s": self.len_s, "grace_ms": self.grace_ms, "max_source_age_s": self.max_source_age_s,
            "usable": list(self.usable),
            "limits": {"devices": devices_max, "points": points_max, "queued_samples": self.queued_samples},
        }
