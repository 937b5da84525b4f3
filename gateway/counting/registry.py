"""The roster in force, as arrays in slot order: what a sample's index means to the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.counting.rows import PointRows, Row
from protocols.errors import EvidenceError, Problem
from protocols.evidence.column import BITS_MAX
from protocols.evidence.roster import DEVICE_ROW, POINT_ROW, rows_root
from protocols.evidence.shape import problems

ROW_PROBLEMS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The asset ledger that the roster was made from: digest of its file, its date (YYYY-MM-DD), its rows."""

    sha256: str
    date: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # eq=False: arrays have no single truth
class Registry:
    """Public rows of one roster and the arrays made of them. Rows are in slot order, gapless from 0.

    devices_root, points_root: RFC 6962 roots over the rows, as the `roster` entry carries them.
    owner: shape (points,), device slot of each point. role: shape (points,), index into ROLES.
    device_alive: shape (devices,). point_alive: shape (points,), False too where the device is gone.
    """

    device_rows: tuple[Row, ...]
    point_rows: PointRows
    ledger: Ledger
    devices_root: str
    points_root: str
    owner: NDArray[np.int64]
    role: NDArray[np.int8]
    device_alive: NDArray[np.bool_]
    point_alive: NDArray[np.bool_]

    @classmethod
    def of(cls, device_rows: Sequence[Row], point_rows: Sequence[Row], ledger: Ledger, *,
           bits_max: int = BITS_MAX, before: Registry | None = None) -> Registry:
        """Build the arrays.

        bits_max: most of devices + 3 x points; what one entry can seal, unless it is for counting only. before: one
        that may be of the very same point rows: what was made of them is taken over.

        Raises: EvidenceError: too many, rows of a wrong shape, slots with gaps, owners that are not there.
        """
        found = _problems(device_rows, point_rows, bits_max)
        if found:
            raise EvidenceError(found[:ROW_PROBLEMS_MAX])
        rows = point_rows if isinstance(point_rows, PointRows) else PointRows(point_rows)
        known = before if before is not None and before.point_rows is rows else None
        owner, role = (rows.devices(), rows.roles()) if known is None else (known.owner, known.role)
        device_alive = np.array([row["state"] == "alive" for row in device_rows], dtype=np.bool_)
        point_alive = rows.alive()
        point_alive &= device_alive[owner]
        for array in (owner, role, device_alive, point_alive):
            array.flags.writeable = False
        return cls(
            device_rows=tuple(device_rows), point_rows=rows, ledger=ledger,
            devices_root=rows_root(device_rows), points_root=rows.root() if known is None else known.points_root,
            owner=owner, role=role, device_alive=device_alive, point_alive=point_alive)

    @property
    def devices(self) -> int:
        """Number of device slots, tombstones included."""
        return len(self.device_rows)

    @property
    def points(self) -> int:
        """Number of point slots, tombstones included."""
        return len(self.point_rows)

    @property
    def roots(self) -> tuple[str, str]:
        """What tells one roster from another."""
        return self.devices_root, self.points_root


def _problems(device_rows: Sequence[Row], point_rows: Sequence[Row], bits_max: int) -> list[Problem]:
    bits = len(device_rows) + 3 * len(point_rows)
    if bits > bits_max:
        return [Problem.of("roster", "counting.too_many_slots", devices=len(device_rows), points=len(point_rows),
                           limit=bits_max)]
    found: list[Problem] = []
    for kind, shape, slot, rows in (("device", DEVICE_ROW, "slot", device_rows),
                                    ("point", POINT_ROW, "point", point_rows)):
        if isinstance(rows, PointRows):  # it holds nothing else than rows, each in its slot
            continue
        for index, row in enumerate(rows):
            found += problems(shape, row, where=f"roster {kind} {index}")
            if not found and row[slot] != index:
                found.append(Problem.of(f"roster {kind} {index}", "counting.slot_gap", slot=row[slot]))
    if found:
        return found
    for row in device_rows:
        for name in ("parent", "replaces"):
            if row[name] is not None and (row[name] >= len(device_rows) or row[name] == row["slot"]):
                found.append(Problem.of(f"roster device {row['slot']}", "counting.no_such_slot", field=name,
                                        slot=row[name]))
    owners = point_rows.devices().tolist() if isinstance(point_rows, PointRows) else \
        [row["device"] for row in point_rows]
    found += [Problem.of(f"roster point {slot}", "counting.no_such_slot", field="device", slot=owner)
              for slot, owner in enumerate(owners) if owner >= len(device_rows)]
    return found
