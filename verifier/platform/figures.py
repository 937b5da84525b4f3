"""The figures on the platform's page: one window under the default basis. Nobody audited them, and the page says so.

They use the one table of reasons, `protocols.terms.basis`. What a programme recognises is counted by `verifier/proof`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocols.evidence import column
from protocols.terms.basis import Basis, DeviceFacts, reason_alone
from verifier.platform.roster import Roster
from verifier.proof.machines import Holder, Machines
from verifier.proof.rows import device_row

DEFAULT_BASIS = Basis(key="default", version="1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One window: configured = counted + the sum of `reasons`. `points` are producing, of those alive."""

    start_s: int
    end_s: int
    configured: int
    connected: int
    counted: int
    reasons: Mapping[str, int]
    points: int
    points_producing: int


def figures(roster: Roster, window: Mapping[str, Any], basis: Basis = DEFAULT_BASIS) -> Figures:
    """Return what one accepted window says under a basis."""
    bits = {name: column.unpack(window["columns"][name], len(roster.devices if name == "connected" else roster.owners),
                                where="window", name=name) for name in ("connected", "producing")}
    roles: dict[int, set[str]] = {}
    for point in _slots(bits["producing"]):
        roles.setdefault(roster.owners[point], set()).add(roster.roles[point])
    reasons: dict[int, str | None] = {}
    for slot in _slots(roster.alive_devices):
        row = roster.devices[slot]
        reasons[slot] = reason_alone(DeviceFacts(
            thing=row["thing"], energy=row["energy"], uscc=row["uscc"], industry=row["industry"],
            region=row["region"], deployment=row["deployment"],
            producing_roles=frozenset(roles.get(slot, ()))), basis)
    machines = Machines([Holder("", "", [device_row(row) for row in roster.devices], {})])
    told = [reasons[slot] for slot in machines.alive]
    machines.settle(told, basis.parents)
    found = Counter(reason for reason in told if reason is not None)
    return Figures(
        start_s=window["start_s"], end_s=window["start_s"] + window["len_s"], configured=len(reasons),
        connected=bits["connected"].bit_count(), counted=len(reasons) - found.total(),
        reasons=dict(sorted(found.items())), points=roster.alive_points.bit_count(),
        points_producing=bits["producing"].bit_count())


def _slots(bits: int) -> list[int]:
    """Return the set bits, ascending, in time linear in the number of bits."""
    data = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
    return [8 * index + bit for index, byte in enumerate(data) if byte for bit in range(8) if byte >> bit & 1]
