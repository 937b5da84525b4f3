"""What a plant has really sent, counted where it leaves: the true numbers that a gateway's counts are held against.

A value counts once the last byte of its message was handed to the client's connection, see `wire`. Whatever a fault
destroys before that has not been sent; what arrives spoilt is counted as such.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

PointKey = tuple[str, str]
"""Device and point, as in the ledger."""

FORMAT = "tallystick/sent/v1"


@dataclass(slots=True)
class Sent:
    """One connection of the ledger. All clients of it together.

    points: how often each point was sent. others: values that the ledger does not have. unreadable: values that
    arrived in a message that nobody can read; one that does not even tell how many it held counts as one.
    doubtful: values handed over to a client that then hung up on something it had not read; not among the others.
    messages: by their kind, for people. faults: kind -> how often it was played. sessions: connections taken.
    """

    points: Counter[PointKey] = field(default_factory=Counter)
    others: int = 0
    unreadable: int = 0
    doubtful: int = 0
    messages: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    sessions: int = 0

    @property
    def samples(self) -> int:
        """What a gateway must have received: counted or discarded, nothing else."""
        return self.points.total() + self.others + self.unreadable

    def add(self, points: Iterable[PointKey], kind: str, *, others: int = 0) -> None:
        """Note a message with these points."""
        self.points.update(points)
        self.others += others
        self.messages[kind] += 1

    def take_back(self, points: Sequence[PointKey], kind: str) -> None:
        """Note that a message may not have been read."""
        self.points.subtract(points)
        self.doubtful += len(points)
        self.messages[kind] -= 1

    def spoilt(self, samples: int, kind: str) -> None:
        """Note a message that nobody can read."""
        self.unreadable += samples
        self.messages[kind] += 1

    def as_json(self) -> dict[str, object]:
        """Return it with the points below their devices."""
        points: dict[str, dict[str, int]] = {}
        for (device, point), count in self.points.items():
            points.setdefault(device, {})[point] = count
        return {"samples": self.samples, "sent": self.points.total(), "others": self.others,
                "unreadable": self.unreadable, "doubtful": self.doubtful, "sessions": self.sessions,
                "messages": dict(sorted(self.messages.items())),
                "faults": dict(sorted(self.faults.items())), "points": points}


def sent_json(connections: Mapping[str, Sent], writes: Mapping[str, int], now: Mapping[str, int], *, at_s: float
              ) -> str:
    """Return sent.json.

    at_s: seconds since the plant was ready. writes: requests to write that were refused. now: who is there, by name.
    """
    return json.dumps({
        "format": FORMAT, "at_s": round(at_s, 3), "samples": sum(sent.samples for sent in connections.values()),
        "writes_refused": dict(writes), "now": dict(now),
        "connections": {name: sent.as_json() for name, sent in connections.items()}}, ensure_ascii=False) + "\n"
