"""Why a device does not count, beyond the one reason of the figures: what this process saw of it, and what to do.

Nothing is decided here: the reason comes from the figures, and each sentence says what was observed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.web.facts import NS_PER_S, Facts
from gateway.web.index import Index, Line
from gateway.web.live import Cell
from protocols.samples import GOOD, NOT_LIVE, UNCERTAIN
from protocols.terms.basis import Basis

NAMED_MAX = 5
ROLES = Basis(key="local", version="1").roles
"""Roles of the basis under which the gateway counts for its own page."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One observation: a code of tallystick/words with its arguments."""

    code: str
    args: dict[str, Any]


def causes(line: Line, cells: Sequence[Cell | None], facts: Facts, index: Index) -> list[Cause]:
    """Return what explains the state of this device, the most telling first. `cells`: of its points, in their order."""
    figures = facts.figures
    if figures is None or line.slot >= figures.stage.size:
        code = "web.why.no_window" if figures is None else "web.why.too_new"
        return [Cause(code, {"time_s": facts.opens_s + facts.config.len_s})]
    reason = figures.reasons.get(line.slot)
    if reason is None:
        return list(_counted(line, facts))
    if reason in ("no_valid_data", "heartbeat_only"):
        return list(_without_data(line, cells, facts, index))
    return list(_by_the_ledger(line, reason, facts, index))


def _counted(line: Line, facts: Facts) -> Iterator[Cause]:
    if not facts.answering()[line.slot]:
        heard_ns = int(facts.heard_ns[line.slot])
        yield Cause("web.why.counted_silent" if heard_ns else "web.why.counted_before", {
            "time_s": heard_ns // NS_PER_S if heard_ns else facts.begun_s})


def _without_data(line: Line, cells: Sequence[Cell | None], facts: Facts, index: Index) -> Iterator[Cause]:
    heard_ns, answering, behind = int(facts.heard_ns[line.slot]), facts.answering(), index.slots[line.device.connection]
    # Whether its neighbours answer tells a device that is off from a line that is cut.
    where = {"connection": line.device.connection, "others": behind.size - 1,
             "answering": int(answering[behind].sum()) - int(answering[line.slot])}
    if not line.points:
        yield Cause("web.why.no_points", {"device": line.device.id})
        return
    if not heard_ns and not any(cells):
        yield Cause("web.why.never_answered", {**where, "time_s": facts.begun_s})
        return
    if not answering[line.slot]:
        yield Cause("web.why.silent", {**where, "time_s": heard_ns // NS_PER_S})
    rows = [facts.roster.points.rows[slot] for slot in line.points]
    if not any(row["role"] in ROLES for row in rows):
        yield Cause("web.why.roles", {"listed": ", ".join(sorted({row["role"] for row in rows}))})
        return
    wanted = [cell for row, cell in zip(rows, cells, strict=True) if row["role"] in ROLES]
    there = [cell for cell in wanted if cell is not None]
    if not there:
        yield Cause("web.why.no_values", {"count": len(wanted)})
        return
    usable = {"good": GOOD, "uncertain": UNCERTAIN}
    qualities = {usable[name] for name in facts.config.window.usable}
    live = [cell for cell in there if not cell.quality & NOT_LIVE]
    good = [cell for cell in live if cell.quality in qualities]
    oldest_ns = facts.config.window.max_source_age_s * NS_PER_S
    fresh = [cell for cell in good if not cell.source_ns or cell.received_ns - cell.source_ns <= oldest_ns]
    if not live:
        yield Cause("web.why.not_live", {"count": len(there)})
    elif not good:
        yield Cause("web.why.bad_quality", {"count": len(live)})
    elif not fresh:
        age_s = min(cell.received_ns - cell.source_ns for cell in good) // NS_PER_S
        yield Cause("web.why.stale", {"age_s": age_s, "limit_s": facts.config.window.max_source_age_s})
    elif any(cell.received_ns >= facts.opens_s * NS_PER_S for cell in fresh):
        yield Cause("web.why.next_window", {"time_s": facts.opens_s + facts.config.len_s})


def _by_the_ledger(line: Line, reason: str, facts: Facts, index: Index) -> Iterator[Cause]:
    device = line.device
    if reason == "duplicate_identity":
        tags = {(tag["scheme"], tag["tag"]) for tag in facts.roster.devices[line.slot].row["tags"]}
        same = [(other.device.id, scheme) for other in index.lines if other is not line
                for scheme, tag in ((t["scheme"], t["tag"]) for t in facts.roster.devices[other.slot].row["tags"])
                if (scheme, tag) in tags]
        yield Cause("web.why.same_machine", {"others": _few([id_ for id_, _ in same]),
                                             "schemes": ", ".join(sorted({scheme for _, scheme in same})) or "-"})
    elif reason == "parent_or_child":
        below = [other.device.id for other in index.lines if other.device.parent == device.id]
        yield Cause("web.why.relatives", {"others": _few(below or [device.parent or "-"])})
    elif reason == "not_industrial_device":
        yield Cause("web.why.thing", {"thing": device.thing})
    elif reason == "owner_unknown":
        yield Cause("web.why.owner", {"device": device.id})


def _few(ids: list[str]) -> str:
    unique = list(dict.fromkeys(ids))
    return ", ".join(unique[:NAMED_MAX]) + (f" … ({len(unique)})" if len(unique) > NAMED_MAX else "") or "-"
