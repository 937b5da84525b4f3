"""The list of devices, filtered and cut into pages on the gateway's side; and one device with its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.points import of_devices
from gateway.counting.figures import STAGES
from gateway.web.facts import NS_PER_S, Facts
from gateway.web.index import Index, Line
from gateway.web.live import Cell
from protocols.samples import NOT_LIVE
from protocols.terms.basis import NOT_COUNTED_REASONS

ROWS = 50
POINT_ROWS = 100
QUERY_CHARS_MAX = 100
PAGE_DIGITS_MAX = 6
STATES = ("all", "not_counted", "counted", "silent")
QUALITIES = ("good", "uncertain", "bad")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a list is asked for; everything that is not understood means: no restriction."""

    state: str = "all"
    reason: str = ""
    connection: str = ""
    text: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str], index: Index) -> Filter:
        """Read the query of a URL."""
        state, reason, name = query.get("state", ""), query.get("reason", ""), query.get("connection", "")
        return cls(state=state if state in STATES else "all", reason=reason if reason in NOT_COUNTED_REASONS else "",
                   connection=name if name in index.slots else "",
                   text=query.get("q", "")[:QUERY_CHARS_MAX].strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """One device as the list shows it. state: answering, silent or never. heard_s: last answer since the start.

    reason: why it does not count; None if it does. is_known: whether that was decided already. stage: of STAGES.
    """

    id: str
    name: str
    kind: str
    connection: str
    state: str
    heard_s: int | None
    is_known: bool
    reason: str | None
    stage: str
    points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Paged:
    """Some rows of many. page: from 1. counts: state -> devices, whatever the page and the state that is asked for."""

    rows: Sequence[Any]
    total: int
    page: int
    pages: int


def page_number(query: Mapping[str, str]) -> int:
    """Return the page that a URL asks for, from 1."""
    text = query.get("page", "")
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) <= PAGE_DIGITS_MAX else 1


def cut(rows: Sequence[Any], page: int, size: int) -> Paged:
    """Return one page; a page behind the last one is the last one."""
    pages = max(1, -(-len(rows) // size))
    page = min(page, pages)
    return Paged(rows=rows[(page - 1) * size:page * size], total=len(rows), page=page, pages=pages)


def device_page(facts: Facts, index: Index, wanted: Filter, page: int) -> Paged:
    """Return one page of the devices that a filter lets through, in the order of devices.csv."""
    answering = facts.answering()
    figures = facts.figures
    reasons = figures.reasons if figures is not None else {}
    text = wanted.text.casefold()

    def passes(line: Line) -> bool:
        slot = line.slot
        is_known = figures is not None and slot < figures.stage.size
        if wanted.connection and line.device.connection != wanted.connection:
            return False
        if wanted.reason and reasons.get(slot) != wanted.reason:
            return False
        if wanted.state == "silent" and answering[slot]:
            return False
        if wanted.state in ("counted", "not_counted") and (
                not is_known or (slot in reasons) == (wanted.state == "counted")):
            return False
        return not text or text in line.needle

    found = cut([line for line in index.lines if passes(line)], page, ROWS)
    return Paged(rows=[device_row(line, facts, bool(answering[line.slot])) for line in found.rows], total=found.total,
                 page=found.page, pages=found.pages)


def device_row(line: Line, facts: Facts, is_answering: bool) -> DeviceRow:
    """Return the row of one device."""
    slot, device, figures = line.slot, line.device, facts.figures
    heard_s = int(facts.heard_ns[slot]) // NS_PER_S
    known = figures is not None and slot < figures.stage.size
    return DeviceRow(
        id=device.id, name=device.name, kind=" ".join(part for part in (device.maker, device.model) if part),
        connection=device.connection, state="answering" if is_answering else "silent" if heard_s else "never",
        heard_s=heard_s or None, is_known=known, reason=figures.reasons.get(slot) if figures is not None else None,
        stage=STAGES[int(figures.stage[slot])] if figures is not None and known else STAGES[0],
        points=len(line.points))


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRowNow:
    """One point as its device's page shows it. stage: configured, sampled, producing or changing in the freshness.

    value: as people read it; None where there is none. quality: good, uncertain, bad or not_live.
    """

    id: str
    address: str
    role: str
    type: str
    value: str | None
    quality: str | None
    received_s: int | None
    source_ns: int
    server_ns: int
    stage: str


def point_rows(line: Line, cells: Sequence[Cell | None], facts: Facts, slots: Sequence[int]) -> list[PointRowNow]:
    """Return the rows of these points of a device; `cells` in the order of `slots`."""
    columns = facts.figures.columns if facts.figures is not None else None
    labels = {point.address.canonical: dict(point.labels)
              for point in of_devices(facts.config.points, (line.device.id,)) if point.labels}
    rows = []
    for slot, cell in zip(slots, cells, strict=True):
        point = facts.roster.points[slot]
        stage = "configured"
        if columns is not None:
            for name in ("sampled", "producing", "changing"):
                stage = name if getattr(columns, name) >> slot & 1 else stage
        quality = None if cell is None else "not_live" if cell.quality & NOT_LIVE else \
            QUALITIES[min(cell.quality, len(QUALITIES) - 1)]
        rows.append(PointRowNow(
            id=point.id, address=point.address, role=point.row["role"], type=point.row["type"] or "", stage=stage,
            value=None if cell is None else _value(cell, point.row["type"], labels.get(point.address, {})),
            quality=quality, received_s=None if cell is None else cell.received_ns // NS_PER_S,
            source_ns=0 if cell is None else cell.source_ns,
            server_ns=0 if cell is None else cell.server_ns))
    return rows


def _value(cell: Cell, type_: str | None, labels: Mapping[int, str]) -> str | None:
    if cell.text is not None:
        return cell.text
    if cell.value is None or type_ in ("string", "bytes"):  # a fingerprint means nothing to people
        return None
    if type_ == "bool" and cell.value in (0.0, 1.0):
        return "true" if cell.value else "false"
    number = int(cell.value) if cell.value.is_integer() and abs(cell.value) < 2**53 else None
    text = str(number) if number is not None and type_ not in ("float32", "float64") else _float(cell.value, type_)
    return f"{text} {labels[number]}" if number is not None and number in labels else text


def _float(value: float, type_: str | None) -> str:
    # A float32 has seven digits that mean something; more of them would be noise of the conversion.
    return f"{value:.7g}" if type_ == "float32" else repr(value)
