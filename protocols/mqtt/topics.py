"""Topic templates: one subscription for the topics of many equal machines. Standard library only.

`plant/{line}/{device}/+` is subscribed to as `plant/+/+/+`. The level `{device}` is the name by which messages tell
which machine they are from: a name that no point of the ledger has is a stranger's.

Source: MQTT 3.1.1, section 4.7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocols.errors import ConfigError, Problem

DEVICE = "device"
_NAMED = re.compile(r"\{([a-z][a-z0-9_]*)\}\Z")


@dataclass(frozen=True, slots=True)
class TopicTemplate:
    """levels: of the template, a name in braces for what differs, + for what does not matter, # at the end."""

    text: str
    levels: tuple[str, ...]

    @property
    def filter(self) -> str:
        """The same as a subscription."""
        return "/".join("+" if level.startswith("{") else level for level in self.levels)

    def device_of(self, topic: str) -> str | None:
        """Return the device's name in a topic of this template, None for any other topic."""
        parts = topic.split("/")
        wanted = self.levels
        if wanted[-1] == "#":
            wanted = wanted[:-1]
            if len(parts) < len(wanted):
                return None
        elif len(parts) != len(wanted):
            return None
        device = None
        for level, part in zip(wanted, parts, strict=False):
            if level == "{device}":
                device = part
            elif level != "+" and level[0:1] != "{" and level != part:
                return None
        return device

    def overlaps(self, other: TopicTemplate) -> bool:
        """Whether a topic can be of both: a broker would then deliver its messages twice."""
        mine, theirs = self.filter.split("/"), other.filter.split("/")
        for a, b in zip(mine, theirs, strict=False):
            if "#" in (a, b):
                return True
            if a != b and "+" not in (a, b):
                return False
        longer = max(mine, theirs, key=len)
        return len(mine) == len(theirs) or longer[min(len(mine), len(theirs))] == "#"


def parse_template(text: str, *, where: str = "") -> TopicTemplate:
    """Read `plant/{line}/{device}/+`. Raises ConfigError: no {device}, a name twice, or no topic at all."""
    levels = tuple(text.split("/"))
    names = [named[1] for level in levels if (named := _NAMED.match(level))]
    wild = all(level in ("+", "#") or _NAMED.match(level) or not set(level) & set("+#{}") for level in levels)
    printable = text.isprintable() and 0 < len(text.encode("utf-8", "replace")) <= 1_000
    if not wild or not printable or "#" in levels[:-1] or names.count(DEVICE) != 1 or len(set(names)) != len(names) \
            or levels[0] in ("#", "") or text.startswith("$"):
        raise ConfigError(Problem.of(where, "mqtt.bad_topic_template", topic=text[:200]))
    return TopicTemplate(text, levels)
