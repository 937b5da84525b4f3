"""Results of a count made of numbers alone, for tests of rules: no evidence stands behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from config.programme import Programme
from verifier.audit.groups import GROUPED
from verifier.audit.results import (
    DECLARED,
    CountResult,
    Day,
    Digests,
    FiguresResult,
    Instant,
    Kinds,
    LevelsResult,
    PartFigures,
    PresenceResult,
    Protocols,
    Totals,
    Windows,
    basis_json,
)

STAGES = ("configured", "connected", "producing", "changing", "counted")


def totals(**values: int) -> dict[str, int]:
    """Return every figure of a part, zero where it is not given."""
    return {field.name: 0 for field in fields(Totals)} | values


def made_count(programme: Programme, *, daily: int | None = None,
               groups: Mapping[str, Mapping[Any, Mapping[str, int]]] | None = None, **values: int) -> CountResult:
    """Return a valid count with these totals. groups: division -> part -> totals of that part."""
    whole = totals(**values)
    parts = {by: tuple(PartFigures(key=key, name_zh=None, **totals(**part))
                       for key, part in (groups or {}).get(by, {}).items()) for by in GROUPED}
    devices = dict.fromkeys(("configured", *STAGES), whole["devices"])
    figures = FiguresResult(
        anchored=True, devices=devices, not_counted={},
        points=dict.fromkeys(("value", "configured", "sampled", "producing", "changing", "counted", "folded"),
                             whole["points"]),
        windows=Windows(read=1, untrusted=0, late=0, missing=0), late_devices=0, sealed=None,
        kinds=Kinds(by_model=whole["kinds_by_model"], by_class=whole["kinds_by_class"], value=whole["kinds_by_model"]),
        protocols=Protocols(at=(), observed=(), by_family=whole["protocols_by_family"],
                            by_variant=whole["protocols_by_variant"], value=whole["protocols_by_family"]),
        enterprises=whole["enterprises"], splits={}, stages={name: Totals(**whole) for name in STAGES},
        levels={"0": Totals(**whole)}, groups=parts,
        daily_running=None if daily is None else (Day(date="2024-06-13", devices=daily, whole=True),),
        producing_permille=1000, presence=PresenceResult(new=0, gone=0, short_before=(), short_after=()),
        declared=DECLARED)
    return CountResult(
        verdict="valid", at=Instant(asked_s=0, counted_s=0, from_s=0), basis=basis_json(programme.basis), bundles=(),
        enterprises=(), figures=figures, devices=(), duplicates=(), ledgers=(), findings=(), ambiguities=(),
        levels=LevelsResult(devices={"0": whole["devices"]}, behind_servers=0, servers=0), limits=(),
        digests=Digests(policy="0" * 64, basis=None, claim=None))


def claim_fields(programme: str, type: str, uscc: str, metrics: Mapping[str, Any] | None = None,
                 at: str = "2024-06-14T10:00:00+08:00", **tables: Any) -> dict[str, Any]:
    """Return the tables of a claim; `tables` adds groups, splits, ledger and so on; `scope` goes into [claim]."""
    from datetime import datetime

    head = {"programme": programme, "type": type, "at": datetime.fromisoformat(at),
            "enterprise": {"name": "示范平台有限公司", "uscc": uscc}} | tables.pop("scope", {})
    return {"claim": head, "metrics": dict(metrics or {}), **tables}
