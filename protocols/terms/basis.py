"""The counting basis, and the one table that says whether a device counts. Standard library only.

Facts are sealed by the gateway; the basis is a judgement of whoever counts. Gateway and verifier gather facts each in
their own way and both read them through `reason_alone`; duplicates need all devices and are decided by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

NOT_COUNTED_REASONS = (
    "no_valid_data", "heartbeat_only", "duplicate_identity", "parent_or_child", "not_industrial_device",
    "virtual_or_simulated", "after_cutoff", "disconnected_before_cutoff", "owner_unknown", "out_of_scope",
    "evidence_invalid", "clock_untrusted", "cloud_kind_mismatch", "claim_withdrawn",
)
"""Why a device is not counted, in the order of precedence (programme data, metrics: not_counted_reasons)."""

REMARKS = ("class_missing", "model_missing")
"""Such a device counts in the total and is missing in the split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The parameters under which a figure is counted. What a programme does not fix is listed in `unspecified`.

    freshness_s: a device is connected at T if it produced in a window that ends in (T - freshness, T].
    lateness_s: a window counts at T only if it is proven to be sealed by T + lateness; else it is late evidence.
    roles: a device is producing when one of its points in these roles is.
    things, industries, regions, deployments: what is counted; None means no restriction.
    parents: `child` counts the children of a counted line or gateway, `parent` the parent, never both.
    kinds: how device kinds are told apart. protocols: Modbus TCP and RTU as one `family` or as two `variant`s.
    fold_points: points of one base address count once.
    """

    key: str
    version: str
    freshness_s: int = 86_400
    lateness_s: int = 3_600
    observation_s: int = 30 * 86_400
    day_boundary: str = "Asia/Shanghai"
    roles: frozenset[str] = frozenset({"switch", "parameter"})
    point_roles: frozenset[str] = frozenset({"switch", "parameter"})
    things: frozenset[str] = frozenset({"equipment", "product", "terminal"})
    energy_required: bool = False
    owner_required: bool = True
    industries: frozenset[str] | None = None
    regions: frozenset[str] | None = None
    deployments: frozenset[str] | None = None
    parents: Literal["child", "parent"] = "child"
    duplicates: Literal["once"] = "once"
    kinds: Literal["by_model", "by_class"] = "by_model"
    protocols: Literal["family", "variant"] = "family"
    fold_points: bool = True
    unspecified: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    def protocol_name(self, protocol: str) -> str:
        """Return the name under which this basis counts a protocol."""
        return family(protocol) if self.protocols == "family" else protocol


def family(protocol: str) -> str:
    """Return the family of a protocol: the variants of Modbus are one."""
    return "modbus" if protocol.startswith("modbus_") else protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What rows and columns say of one device that is alive in the roster at T.

    producing_roles: roles of its points that produced in a window that counts at T.
    untrusted_roles: roles of its points that produced only in windows whose time is not trusted.
    """

    thing: str
    energy: bool | None
    uscc: str | None
    industry: str | None
    region: str | None
    deployment: str | None
    producing_roles: frozenset[str]
    untrusted_roles: frozenset[str] = frozenset()


def reason_alone(facts: DeviceFacts, basis: Basis) -> str | None:
    """Return why this device, looked at alone, does not count; None if it does.

    The first reason in the order of NOT_COUNTED_REASONS wins. `duplicate_identity` and `parent_or_child` need the
    other devices and are not decided here.
    """
    found: list[str] = []
    if not facts.producing_roles & basis.roles:
        if facts.untrusted_roles & basis.roles:
            found.append("clock_untrusted")
        elif facts.producing_roles or facts.untrusted_roles:
            found.append("heartbeat_only")
        else:
            found.append("no_valid_data")
    if facts.thing not in basis.things or (basis.energy_required and facts.energy is not True):
        found.append("not_industrial_device")
    if basis.owner_required and facts.uscc is None:
        found.append("owner_unknown")
    if _outside(facts.industry, basis.industries) or _outside(facts.region, basis.regions):
        found.append("out_of_scope")
    if basis.deployments is not None and facts.deployment not in basis.deployments:
        found.append("cloud_kind_mismatch")
    return min(found, key=NOT_COUNTED_REASONS.index, default=None)


def _outside(code: str | None, allowed: frozenset[str] | None) -> bool:
    """Codes are hierarchical: an allowed code admits every code that begins with it."""
    return allowed is not None and not any((code or "").startswith(prefix) for prefix in allowed)
