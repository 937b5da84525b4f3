"""Which rows are one machine, over gateways and enterprises, and which of them may count then.

Rows are joined by equal device tags, by equal keys of servers that they own (`dup_tags`), and by equal serials of
devices that are opened. A machine counts once. Nothing is removed in silence: every group is told, and whoever counts
may accept an explanation that some of its devices are different machines; these then count beside one another.

A line and its machines, a gateway and its children are related as machines, not as rows: a line that one gateway
lists with its machines and another one alone still stands above them.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from protocols.evidence.roster import tag_values
from verifier.proof.rows import DeviceRow

TAG, KEY, OPENED = "tag", "key", "opened"
"""How rows are joined: by a tag that only a holder of K can make, by a server key, by an identity that was opened."""

OPENED_SCHEME = "serial"
"""The identity that is compared between openings: maker, model and serial. Asset numbers are each enterprise's own."""

Device = tuple[str, int]
"""(gateway, slot)."""


@dataclass(frozen=True, slots=True)
class Holder:
    """One gateway with the rows in force. `enterprise`: its credit code; `opened`: slot -> private part."""

    gateway: str
    enterprise: str
    devices: Sequence[DeviceRow]
    opened: Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Joint:
    """One identity that several rows share. how: TAG, KEY or OPENED; members: in the order of gateways and slots."""

    how: str
    scheme: str
    members: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are one machine, in the order of gateways and slots. `enterprises` has several in a dispute."""

    members: tuple[Device, ...]
    enterprises: tuple[str, ...]
    joints: tuple[Joint, ...]


@dataclass(slots=True)
class Machines:
    """The rows of all gateways, in the order that decides which of equal ones stays: of the register, then slots.

    explained: each a set of devices that are said to be different machines. Rows are numbered through all gateways;
    `alive` are the numbers of those that live, and everything that goes in or out has one place for each of them.
    """

    holders: Sequence[Holder]
    explained: Sequence[Collection[Device]] = ()
    alive: list[int] = field(init=False)
    groups: tuple[Group, ...] = field(init=False)
    _leader: array[int] = field(init=False)
    _reasons_given: dict[int, frozenset[int]] = field(init=False)
    _node: array[int] = field(init=False)
    _up: dict[int, list[int]] = field(init=False)
    _down: dict[int, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        first, starts = 0, {}
        for holder in self.holders:
            starts[holder.gateway] = first
            first += len(holder.devices)
        self.alive = [starts[h.gateway] + row.slot for h in self.holders for row in h.devices if row.alive]
        self._leader = array("q", range(first))
        given: dict[int, set[int]] = {}
        for number, devices in enumerate(self.explained):
            for gateway, slot in devices:
                if gateway in starts:
                    given.setdefault(starts[gateway] + slot, set()).add(number)
        self._reasons_given = {at: frozenset(numbers) for at, numbers in given.items()}
        self.groups = self._join(starts)
        self._relate(starts)

    def settle(self, reasons: list[str | None], parents: Literal["child", "parent"]) -> None:
        """Give a reason to rows that count alone but not beside their relatives, or not beside an equal row."""
        counting = {self._node[at] for at, reason in zip(self.alive, reasons, strict=True) if reason is None}
        excluded = _reached(counting, self._up if parents == "child" else self._down)
        taken: dict[int, frozenset[int]] = {}
        for i, at in enumerate(self.alive):
            if reasons[i] is not None:
                continue
            if self._node[at] in excluded:
                reasons[i] = "parent_or_child"
                continue
            leader, given = self._leader[at], self._reasons_given.get(at, frozenset())
            if leader not in taken:
                taken[leader] = given
            elif taken[leader] & given:  # one explanation names this row and every row of the machine that counts
                taken[leader] &= given
            else:
                reasons[i] = "duplicate_identity"

    def _join(self, starts: Mapping[str, int]) -> tuple[Group, ...]:
        """Join the rows and return the groups of several rows."""
        leader = self._leader

        def find(i: int) -> int:
            while leader[i] != i:
                leader[i] = leader[leader[i]]
                i = leader[i]
            return i

        shared: dict[tuple[str, str, str], list[int]] = {}
        for holder in self.holders:
            start = starts[holder.gateway]
            for row in holder.devices:
                for identity in _identities(row, holder.opened.get(row.slot)) if row.alive else ():
                    shared.setdefault(identity, []).append(start + row.slot)
        shared = {identity: rows for identity, rows in shared.items() if len(rows) > 1}
        for rows in shared.values():
            for row_at in rows[1:]:
                a, b = find(rows[0]), find(row_at)
                leader[max(a, b)] = min(a, b)
        for at in range(len(leader)):
            leader[at] = find(at)
        return self._groups(shared, starts)

    def _groups(self, shared: Mapping[tuple[str, str, str], list[int]], starts: Mapping[str, int]) -> tuple[Group, ...]:
        holder_of = array("q")
        for number, holder in enumerate(self.holders):
            holder_of.extend([number] * len(holder.devices))

        def device(at: int) -> Device:
            holder = self.holders[holder_of[at]]
            return holder.gateway, at - starts[holder.gateway]

        members: dict[int, set[int]] = {}
        joints: dict[int, list[tuple[tuple[str, str, str], list[int]]]] = {}
        tagged = {rows[0]: rows for (how, scheme, _), rows in shared.items() if (how, scheme) == (TAG, OPENED_SCHEME)}
        for identity, rows in shared.items():
            if identity[0] == OPENED and tagged.get(rows[0]) == rows:
                continue  # the tags say it already
            members.setdefault(self._leader[rows[0]], set()).update(rows)
            joints.setdefault(self._leader[rows[0]], []).append((identity, rows))
        return tuple(Group(
            members=tuple(map(device, sorted(members[leader]))),
            enterprises=tuple(sorted({self.holders[holder_of[at]].enterprise for at in members[leader]})),
            joints=tuple(Joint(how, scheme, tuple(map(device, rows)))
                         for (how, scheme, _), rows in sorted(joints[leader])))
            for leader in sorted(members))

    def _relate(self, starts: Mapping[str, int]) -> None:
        """Number the machines that stand above and below one another.

        Joined rows can tell a circle, one gateway this way round and one the other: such machines are related only
        as each gateway lists its own rows, where circles are refused.
        """
        own: dict[int, int] = {}
        self._node = array("q", self._leader)
        for at, leader in enumerate(self._leader):
            self._node[at] = at if at in self._reasons_given else own.setdefault(leader, at)
        edges = [(starts[h.gateway] + row.slot, starts[h.gateway] + row.parent)
                 for h in self.holders for row in h.devices if row.parent is not None]
        circles = _circles([(self._node[low], self._node[high]) for low, high in edges])
        for at in range(len(self._node)) if circles else ():
            if self._node[at] in circles:
                self._node[at] = at
        self._up, self._down = {}, {}
        for low, high in edges:
            self._up.setdefault(self._node[low], []).append(self._node[high])
            self._down.setdefault(self._node[high], []).append(self._node[low])


def _identities(row: DeviceRow, private: Mapping[str, Any] | None) -> Iterator[tuple[str, str, str]]:
    """Yield (how, scheme, value) of everything by which a row may be joined to another."""
    yield from ((TAG, scheme, tag) for scheme, tag in sorted(row.tags))
    yield from ((KEY, scheme, tag) for scheme, tag in sorted(row.dup_tags))
    if private is not None:
        value = tag_values(private).get(OPENED_SCHEME)
        if value is not None:
            yield OPENED, OPENED_SCHEME, value


def _reached(start: Iterable[int], ways: Mapping[int, list[int]]) -> set[int]:
    """Return every node that one step or more lead to."""
    reached: set[int] = set()
    waiting = list(start)
    while waiting:
        for node in ways.get(waiting.pop(), ()):
            if node not in reached:
                reached.add(node)
                waiting.append(node)
    return reached


def _circles(edges: Sequence[tuple[int, int]]) -> set[int]:
    """Return the nodes that lie on circles, or between two of them."""
    up: dict[int, list[int]] = {}
    down: dict[int, list[int]] = {}
    for low, high in edges:
        up.setdefault(low, []).append(high)
        down.setdefault(high, []).append(low)
    return _peeled(_peeled(up.keys() | down.keys(), up, down), down, up)


def _peeled(nodes: Collection[int], ways: Mapping[int, list[int]], back: Mapping[int, list[int]]) -> set[int]:
    """Return `nodes` without those that no way from the others leads to, again and again."""
    left = set(nodes)
    waits = {node: sum(other in left for other in back.get(node, ())) for node in left}
    free = [node for node, count in waits.items() if not count]
    while free:
        node = free.pop()
        left.discard(node)
        for other in ways.get(node, ()):
            if other in left:
                waits[other] -= 1
                if not waits[other]:
                    free.append(other)
    return left
