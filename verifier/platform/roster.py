"""The roster in force of one gateway, as intake needs it: grown row by row, checked against the sealed roots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import column, jcs, roster
from protocols.evidence.merkle import Tree, leaf_hash
from protocols.evidence.shape import require

MEMO_MAX = 8
PARENTS_MAX = 256
"""Devices above one another; machine, line, workshop and site are four."""


@dataclass(frozen=True, slots=True)
class Roster:
    """Slots by index. Rows of points are kept as leaf hashes only; `devices` holds the parsed public rows.

    `alive_devices`, `alive_points`: bit i is slot i. `owners`, `roles` and `addresses` (addr tag, base tag) are
    those of points.
    """

    devices: tuple[Mapping[str, Any], ...] = ()
    device_leaves: tuple[bytes, ...] = ()
    point_leaves: tuple[bytes, ...] = ()
    owners: tuple[int, ...] = ()
    roles: tuple[str, ...] = ()
    addresses: tuple[bytes, ...] = ()
    alive_devices: int = 0
    alive_points: int = 0
    _memo: dict[int, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def slots(self) -> int:
        """Number of slots of both kinds: what this roster weighs in memory."""
        return len(self.device_leaves) + len(self.point_leaves)

    def points_of(self, devices: int) -> int:
        """Return the bitmap of the points that belong to any of the devices in the bitmap `devices`."""
        if not devices:
            return 0
        if devices in self._memo:  # the same few devices are silent in window after window
            return self._memo[devices]
        wanted = bytearray((len(self.owners) + 7) // 8)
        chosen = devices.to_bytes((len(self.devices) + 7) // 8, "little")
        for point, owner in enumerate(self.owners):
            if chosen[owner >> 3] >> (owner & 7) & 1:
                wanted[point >> 3] |= 1 << (point & 7)
        if len(self._memo) >= MEMO_MAX:
            self._memo.clear()
        self._memo[devices] = int.from_bytes(wanted, "little")
        return self._memo[devices]

    def check_roots(self, entry: Mapping[str, Any], *, where: str) -> None:
        """Raise VerificationError unless this roster is what the `roster` entry seals."""
        for name, leaves in (("devices", self.device_leaves), ("points", self.point_leaves)):
            if entry[name] != len(leaves):
                raise VerificationError(Problem.of(where, "intake.roster_count", name=name, sealed=entry[name],
                                                   rows=len(leaves)))
            if Tree(leaves).root().hex() != entry[f"{name}_root"]:
                raise VerificationError(Problem.of(where, "intake.roster_root", name=name))
        if len(self.device_leaves) + 3 * len(self.point_leaves) > column.BITS_MAX:
            raise VerificationError(Problem.of(where, "intake.roster_too_large", limit=column.BITS_MAX))


def apply_rows(before: Roster, rows: str, *, where: str) -> tuple[Roster, str]:
    """Return the roster after the changed and new `rows` (JSON lines; all rows of a first roster), and those lines
    of `rows` that do change it: a bundle that begins late holds all rows of its first roster.

    Devices come first, then points, each by ascending slot. A slot is never left out, reused or given another
    identity; a tombstone stays one and keeps its row. Raises: VerificationError of JSON, shapes, or `intake.row_*`.
    """
    growing = _Growing(before, where)
    changing = []
    for line, value, leaf in _lines(rows, where):
        if isinstance(value, dict) and "point" in value:
            changed = growing.point(value, leaf)
        else:
            changed = growing.device(value, leaf)
        if changed:
            changing.append(line + "\n")
    return growing.finish(), "".join(changing)


def _lines(rows: str, where: str) -> Iterable[tuple[str, Any, bytes]]:
    if rows and not rows.endswith("\n"):
        raise VerificationError(Problem.of(where, "intake.row_cut"))
    for number, line in enumerate(rows.split("\n")[:-1], start=1):
        data = line.encode("utf-8", "surrogatepass")
        value = jcs.decode(data, where=f"{where} line {number}", bytes_max=roster.ROW_BYTES_MAX)
        yield line, value, leaf_hash(data)


class _Growing:
    """A roster being changed; nothing of it is seen before `finish`."""

    def __init__(self, before: Roster, where: str) -> None:
        self.where = where
        self.devices = list(before.devices)
        self.device_leaves = list(before.device_leaves)
        self.point_leaves = list(before.point_leaves)
        self.owners, self.roles, self.addresses = list(before.owners), list(before.roles), list(before.addresses)
        self.alive_points = bytearray(before.alive_points.to_bytes(len(self.owners) // 8 + 1, "little"))
        self.last_device = self.last_point = -1

    def device(self, row: Any, leaf: bytes) -> bool:
        """Take a row; return whether it changes anything."""
        at = f"{self.where} device {row.get('slot') if isinstance(row, dict) else '?'}"
        require(roster.DEVICE_ROW, row, where=at)
        slot = row["slot"]
        if self.last_point >= 0 or slot <= self.last_device or slot > len(self.devices):
            raise VerificationError(Problem.of(at, "intake.row_order"))
        self.last_device = slot
        if slot == len(self.devices):
            self.devices.append(row)
            self.device_leaves.append(leaf)
            return True
        if self.device_leaves[slot] == leaf:
            return False
        if not _same_device(self.devices[slot], row):
            raise VerificationError(Problem.of(at, "intake.row_identity"))
        self.devices[slot], self.device_leaves[slot] = row, leaf
        return True

    def point(self, row: Mapping[str, Any], leaf: bytes) -> bool:
        """Take a row; return whether it changes anything."""
        at = f"{self.where} point {row.get('point')}"
        require(roster.POINT_ROW, row, where=at)
        slot, address = row["point"], bytes.fromhex(row["addr"] + row["base"])
        if slot <= self.last_point or slot > len(self.owners) or row["device"] >= len(self.devices):
            raise VerificationError(Problem.of(at, "intake.row_order"))
        self.last_point = slot
        byte, bit = slot >> 3, 1 << (slot & 7)
        if slot == len(self.owners):
            self.owners.append(row["device"])
            self.roles.append(row["role"])
            self.addresses.append(address)
            self.point_leaves.append(leaf)
            if byte == len(self.alive_points):
                self.alive_points.append(0)
        elif self.point_leaves[slot] == leaf:
            return False
        else:
            # A slot keeps its device and address; one that is given up keeps its whole row; one that is gone stays so.
            was = leaf_hash(jcs.encode({**row, "state": "alive"}))
            kept = row["state"] == "alive" or was == self.point_leaves[slot]
            same = (self.owners[slot], self.addresses[slot]) == (row["device"], address)
            if not (kept and same and self.alive_points[byte] & bit):
                raise VerificationError(Problem.of(at, "intake.row_identity"))
            self.roles[slot], self.point_leaves[slot] = row["role"], leaf
        if row["state"] == "alive":
            self.alive_points[byte] |= bit
        else:
            self.alive_points[byte] &= ~bit
        return True

    def finish(self) -> Roster:
        """Return the result when rows agree with one another. Raises VerificationError `intake.row_*`."""
        for slot, row in enumerate(self.devices):
            if not self._targets_hold(row) or self._leads_to_itself(slot):
                raise VerificationError(Problem.of(f"{self.where} device {slot}", "intake.row_target"))
        seen: set[bytes] = set()
        for point, address in enumerate(self.addresses):
            if self.alive_points[point >> 3] >> (point & 7) & 1:
                if address[:32] in seen:
                    raise VerificationError(Problem.of(f"{self.where} point {point}", "intake.row_twice"))
                seen.add(address[:32])
        alive = bytearray(len(self.devices) // 8 + 1)
        for slot, row in enumerate(self.devices):
            if row["state"] == "alive":
                alive[slot >> 3] |= 1 << (slot & 7)
        return Roster(
            tuple(self.devices), tuple(self.device_leaves), tuple(self.point_leaves), tuple(self.owners),
            tuple(self.roles), tuple(self.addresses), int.from_bytes(alive, "little"),
            int.from_bytes(self.alive_points, "little"))

    def _targets_hold(self, row: Mapping[str, Any]) -> bool:
        """Parent and server are slots of this roster; what is replaced came before and is gone."""
        count, replaces = len(self.devices), row["replaces"]
        return all(target is None or target < count for target in (row["parent"], row["server"]["via"])) and (
            replaces is None or (replaces < row["slot"] and self.devices[replaces]["state"] == "gone"))

    def _leads_to_itself(self, slot: int) -> bool:
        """Return whether the parents of a slot run into a circle; or are deeper than any plant."""
        at, steps = self.devices[slot]["parent"], 0
        while at is not None and at < len(self.devices):
            steps += 1
            if at == slot or steps > PARENTS_MAX:
                return True
            at = self.devices[at]["parent"]
        return False


def _same_device(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether a row may follow another in its slot: the kind stays, tags are only added, the dead stay dead."""
    if old["state"] == "gone" or new["state"] == "gone":
        return old["state"] == "alive" and {**old, "state": "gone"} == new
    return (old["kind"], old["replaces"]) == (new["kind"], new["replaces"]) and _holds(old["tags"], new["tags"])


def _holds(old: Sequence[Mapping[str, str]], new: Sequence[Mapping[str, str]]) -> bool:
    return all(tag in new for tag in old)
