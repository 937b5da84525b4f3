"""Counted and not counted, with reasons, for the local page: the fast form of what the verifier computes plainly.

It reads the same table, `protocols.terms.basis`, and a test compares both. It is never sealed: evidence carries
facts, and whoever counts brings a basis.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.counting.kernel import Columns
from gateway.counting.registry import Registry
from gateway.counting.window import ClosedWindow
from protocols.terms.basis import NOT_COUNTED_REASONS, Basis, DeviceFacts, reason_alone
from protocols.terms.vocabulary import ROLES

FRESHNESS_S_MAX = 7 * 86_400
"""Older windows are forgotten here; evidence keeps them."""

STAGES = ("configured", "connected", "producing", "changing")

Mask = NDArray[np.bool_]


class Recent:
    """The columns of the windows of the last days, in order of their arrival. Packed: 4 bits a point and window."""

    def __init__(self) -> None:
        self._windows: deque[tuple[int, Columns]] = deque()

    def add(self, window: ClosedWindow) -> None:
        """Add a window that was sealed."""
        self.add_columns(window.start_s + window.len_s, window.columns)

    def add_columns(self, end_s: int, columns: Columns) -> None:
        """Add the columns of a window that ends at `end_s`, read from the journal after a start."""
        self._windows.append((end_s, columns))
        while self._windows[0][0] <= end_s - FRESHNESS_S_MAX:
            self._windows.popleft()

    @property
    def last_end_s(self) -> int | None:
        """End of the window that was added last."""
        return self._windows[-1][0] if self._windows else None

    def figures(self, registry: Registry, basis: Basis | None = None, at_s: int | None = None) -> LocalFigures:
        """Return the figures at `at_s` (the end of the last window) under a basis (the default one)."""
        at_s = at_s if at_s is not None else self.last_end_s or 0
        return figures(registry, self, at_s, basis or Basis(key="local", version="1"))

    def union(self, at_s: int, freshness_s: int) -> Columns:
        """Return the OR of the windows with at_s - freshness_s < end <= at_s."""
        connected = sampled = producing = changing = 0
        for end_s, columns in self._windows:
            if at_s - freshness_s < end_s <= at_s:
                connected |= columns.connected
                sampled |= columns.sampled
                producing |= columns.producing
                changing |= columns.changing
        return Columns(connected, sampled, producing, changing)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFigures:
    """What this gateway would claim at `at_s` under one basis.

    configured = counted + the sum of not_counted, which names every reason that occurs. reasons: device slot -> why
    it is not counted; tombstones are left out. devices, points: stage -> number. stage: shape (devices,), what each
    device reached, as an index into STAGES. columns: the windows that were counted, as one.
    """

    at_s: int
    configured: int
    counted: int
    not_counted: Mapping[str, int]
    reasons: Mapping[int, str]
    devices: Mapping[str, int]
    points: Mapping[str, int]
    stage: NDArray[np.uint8] = field(compare=False, repr=False)
    columns: Columns = field(compare=False, repr=False)


def figures(registry: Registry, recent: Recent, at_s: int, basis: Basis) -> LocalFigures:
    """Count the devices of `registry` by the windows that end in (at_s - basis.freshness_s, at_s]."""
    columns = recent.union(at_s, basis.freshness_s)
    sampled, producing, changing = (
        _mask(bits, registry.points) & registry.point_alive
        for bits in (columns.sampled, columns.producing, columns.changing))
    connected = _mask(columns.connected, registry.devices) & registry.device_alive
    reasons = _reasons(registry, producing, basis)
    in_roles = np.isin(registry.role, [ROLES.index(role) for role in basis.roles])
    stage = np.zeros(registry.devices, dtype=np.uint8)
    for number, reached in enumerate((connected, _fold(registry, producing & in_roles),
                                      _fold(registry, changing & in_roles)), start=1):
        stage[reached & registry.device_alive] = number
    not_counted = {reason: n for reason in NOT_COUNTED_REASONS
                   if (n := sum(found == reason for found in reasons.values()))}
    return LocalFigures(
        at_s=at_s, configured=len(reasons), counted=sum(reason is None for reason in reasons.values()),
        not_counted=not_counted, reasons={slot: reason for slot, reason in reasons.items() if reason is not None},
        devices={"configured": int(registry.device_alive.sum()), "connected": int(connected.sum()),
                 "producing": int(_fold(registry, producing & in_roles).sum()),
                 "changing": int(_fold(registry, changing & in_roles).sum())},
        points={"configured": int(registry.point_alive.sum()), "sampled": int(sampled.sum()),
                "producing": int(producing.sum()), "changing": int(changing.sum())},
        stage=stage, columns=columns)


def _reasons(registry: Registry, producing: Mask, basis: Basis) -> dict[int, str | None]:
    by_role = {role: _fold(registry, producing & (registry.role == code)) for code, role in enumerate(ROLES)}
    result: dict[int, str | None] = {}
    for slot in np.flatnonzero(registry.device_alive).tolist():
        row = registry.device_rows[slot]
        facts = DeviceFacts(
            thing=row["thing"], energy=row["energy"], uscc=row["uscc"], industry=row["industry"], region=row["region"],
            deployment=row["deployment"],
            producing_roles=frozenset(role for role, devices in by_role.items() if devices[slot]))
        result[slot] = reason_alone(facts, basis)
    machine = _machines(registry)
    for slot in _relatives(registry, machine, {s for s, reason in result.items() if reason is None}, basis):
        result[slot] = "parent_or_child"
    stays: set[int] = set()
    for slot, reason in result.items():
        if reason is None and machine[slot] in stays:
            result[slot] = "duplicate_identity"
        elif reason is None:
            stays.add(machine[slot])
    return result


def _machines(registry: Registry) -> list[int]:
    """Return for each device slot the lowest that is the same machine, over any chain of equal tags."""
    leader = list(range(registry.devices))

    def find(slot: int) -> int:
        while leader[slot] != slot:
            leader[slot] = leader[leader[slot]]
            slot = leader[slot]
        return slot

    first: dict[tuple[str, str, str], int] = {}
    for slot in np.flatnonzero(registry.device_alive).tolist():
        row = registry.device_rows[slot]
        for kind in ("tags", "dup_tags"):
            for tag in row[kind]:
                a, b = find(slot), find(first.setdefault((kind, tag["scheme"], tag["tag"]), slot))
                leader[max(a, b)] = min(a, b)
    return [find(slot) for slot in range(registry.devices)]


def _relatives(registry: Registry, machine: list[int], counting: set[int], basis: Basis) -> set[int]:
    """Return who of `counting` must step back so that no machine counts together with one above it.

    Equal rows may tell a circle, A above B and B above A: such rows are related only as they stand.
    """
    edges = [(slot, row["parent"]) for slot, row in enumerate(registry.device_rows) if row["parent"] is not None]
    circling = _circling([(machine[low], machine[high]) for low, high in edges])
    node = [slot if leader in circling else leader for slot, leader in enumerate(machine)]
    ways: dict[int, list[int]] = {}
    for low, high in edges:
        a, b = (low, high) if basis.parents == "child" else (high, low)
        ways.setdefault(node[a], []).append(node[b])
    reached: set[int] = set()
    waiting = [node[slot] for slot in counting]
    while waiting:
        for other in ways.get(waiting.pop(), ()):
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return {slot for slot in counting if node[slot] in reached}


def _circling(edges: list[tuple[int, int]]) -> set[int]:
    """Return the nodes on circles, or between two: what is left when ends are taken away, above and below."""
    for this, that in ((0, 1), (1, 0)):
        leaving: Counter[int] = Counter(edge[this] for edge in edges)
        coming: dict[int, list[int]] = {}
        for edge in edges:
            coming.setdefault(edge[that], []).append(edge[this])
        gone: set[int] = set()
        waiting = [node for node in coming if not leaving[node]]
        while waiting:
            node = waiting.pop()
            gone.add(node)
            for other in coming.get(node, ()):
                leaving[other] -= 1
                if not leaving[other]:
                    waiting.append(other)
        edges = [edge for edge in edges if not gone.intersection(edge)]
    return {node for edge in edges for node in edge}


def _mask(bits: int, slots: int) -> Mask:
    data = np.frombuffer(bits.to_bytes(max(1, -(-max(slots, bits.bit_length()) // 8)), "little"), dtype=np.uint8)
    return np.unpackbits(data, bitorder="little")[:slots].astype(np.bool_)


def _fold(registry: Registry, points: Mask) -> Mask:
    devices = np.zeros(registry.devices, dtype=np.bool_)
    devices[registry.owner[points]] = True
    return devices
