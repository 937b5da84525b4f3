"""Counted and not counted, with reasons, for the local page: the fast form of what the verifier computes plainly.

It reads the same table, `protocols.terms.basis`, and a test compares both. It is never sealed: evidence carries
facts, and whoever counts brings a basis.
"""

from __future__ import annotations

from collections import deque
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
    for slot in _relatives(registry, {s for s, reason in result.items() if reason is None}, basis):
        result[slot] = "parent_or_child"
    for slot in _duplicates(registry, {s for s, reason in result.items() if reason is None}):
        result[slot] = "duplicate_identity"
    return result


def _relatives(registry: Registry, counting: set[int], basis: Basis) -> set[int]:
    """Return who must step back so that nobody counts together with an ancestor."""
    dropped: set[int] = set()
    for slot in counting:
        seen = {slot}
        above = registry.device_rows[slot]["parent"]
        while above is not None and above not in seen:
            seen.add(above)
            if above in counting:
                dropped.add(above if basis.parents == "child" else slot)
            above = registry.device_rows[above]["parent"]
    return dropped


def _duplicates(registry: Registry, counting: set[int]) -> set[int]:
    """Return those of `counting` that share an identity, over any chain of equal tags, with a lower slot of it."""
    leader = list(range(registry.devices))

    def find(slot: int) -> int:
        while leader[slot] != slot:
            leader[slot] = leader[leader[slot]]
            slot = leader[slot]
        return slot

    first: dict[tuple[str, str], int] = {}
    for slot in np.flatnonzero(registry.device_alive).tolist():
        for tag in registry.device_rows[slot]["tags"]:
            other = first.setdefault((tag["scheme"], tag["tag"]), slot)
            a, b = find(slot), find(other)
            leader[max(a, b)] = min(a, b)
    stays: set[int] = set()
    dropped: set[int] = set()
    for slot in sorted(counting):
        if find(slot) in stays:
            dropped.add(slot)
        stays.add(find(slot))
    return dropped


def _mask(bits: int, slots: int) -> Mask:
    data = np.frombuffer(bits.to_bytes(max(1, -(-max(slots, bits.bit_length()) // 8)), "little"), dtype=np.uint8)
    return np.unpackbits(data, bitorder="little")[:slots].astype(np.bool_)


def _fold(registry: Registry, points: Mask) -> Mask:
    devices = np.zeros(registry.devices, dtype=np.bool_)
    devices[registry.owner[points]] = True
    return devices
