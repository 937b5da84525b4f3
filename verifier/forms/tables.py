"""The monitoring table, with what is proven and what is declared beside each row, and the summary tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from config.classification import load_classification
from config.programme import Programme
from config.programme_forms import MonitoringRow
from config.programme_rules import Indicator
from protocols.terms.say import Say
from verifier.audit.claim import Claim, Value
from verifier.audit.divisions import Division, division
from verifier.audit.results import FiguresResult
from verifier.audit.values import OF_ALL, PROVEN
from verifier.forms.cover import Request, basis, cover
from verifier.forms.lists import CHOICES, EMPTY_ROWS
from verifier.report.xlsx import long_table
from verifier.report.xlsx_book import Book, Cell, Column, Sheet

PRINTED_WIDTHS = (13, 24, 7, 46)
NUMBER_COLUMN = "序号"
TYPE_COLUMN = "平台类型"
DEVICE_COUNT = "device_connected_count"


def proven_value(figures: FiguresResult | None, key: str, *, kinds: str, protocols: str) -> int | None:
    """Return what evidence proves of a metric; None if it says nothing of it."""
    if figures is None:
        return None
    if key in OF_ALL:
        return OF_ALL[key](figures)
    return PROVEN[key](figures.stages["counted"], kinds, protocols) if key in PROVEN else None


def proven_of(request: Request, key: str) -> int | None:
    """Return what the evidence of an export proves of a metric under the basis of its programme."""
    of = request.programme.basis
    return proven_value(request.counted.figures, key, kinds=of.kinds, protocols=of.protocols)


def write_monitoring(book: Book, request: Request, claim: Claim | None, say: Say) -> None:
    """Write the monitoring table as printed, with value and basis of every row, and each split that is proven."""
    table = request.wanted.table
    assert table is not None
    cover(book, request, say, [say("forms.monitoring.what"), say("forms.monitoring.declared"),
                               *([] if claim is None else [say("forms.monitoring.claim", sha256=claim.sha256)])])
    basis(book, request, say)
    columns = [Column(title=title, width=width) for title, width in zip(table.columns_zh, PRINTED_WIDTHS, strict=False)]
    columns += [Column(title=title, width=18) for title in table.columns_zh[len(PRINTED_WIDTHS):]]
    printed = len(columns)
    columns += [Column(title=say("forms.monitoring.proven"), kind="number", width=11, ours=True),
                Column(title=say("forms.monitoring.claimed"), kind="number", width=11, ours=True, entered=True),
                Column(title=say("forms.monitoring.basis"), width=30, ours=True)]
    sheet = book.sheet(table.name_zh)
    sheet.widths([column.width for column in columns])
    sheet.title(table.name_zh, columns=len(columns))
    sheet.head(columns, freeze=True, ours=say("forms.ours"), theirs=say("forms.theirs"))
    by_id = {item.id: item for item in request.programme.data.indicators}
    category = None
    splits = []
    for row in table.rows:
        indicator = by_id[row.indicator]
        first = row.category_zh if row.category_zh != category else ""
        category = row.category_zh
        told = [first, _name(row), row.unit, row.explanation_zh][:printed] + [""] * (printed - 4)
        sheet.record(columns, [*told, *_values(request, claim, indicator, say)])
        if indicator.by is not None and indicator.metrics == [DEVICE_COUNT]:
            splits.append((row, division(indicator.by, request.programme.data.divisions)))
    for row, by in splits:
        _split(book.sheet(say("forms.sheet.split", number=row.number), landscape=False), request, row, by, say)


def _name(row: MonitoringRow) -> str:
    return f"其中：{row.name_zh}" if row.part_of and not row.name_zh.startswith("其中") else row.name_zh


def _values(request: Request, claim: Claim | None, indicator: Indicator, say: Say) -> list[Cell]:
    """Return what is proven, what is declared, and on what the row rests."""
    key = indicator.metrics[0] if len(indicator.metrics) == 1 else None
    proven = proven_of(request, key) if key is not None else None
    if indicator.by is not None:
        claimed: Cell = None if claim is None or key is None else _sum(claim, key, indicator.by)
        proven = proven if key == DEVICE_COUNT else None
    else:
        claimed = shown(claim.metrics.get(key)) if claim is not None and key is not None else None
    kind = indicator.evidence.replace("+", "_plus")
    return [proven, claimed, say("forms.proven") if proven is not None else say(f"forms.class.{kind}")]


def _sum(claim: Claim, metric: str, by: str) -> Cell:
    split = claim.split(metric, by)
    return None if split is None else sum(split.parts.values())


def shown(value: Value | None) -> Cell:
    """Return a claimed value for a cell."""
    if isinstance(value, bool):
        return "是" if value else "否"
    return value


def _split(sheet: Sheet, request: Request, row: MonitoringRow, by: Division, say: Say) -> None:
    """Write every part of a split of the device count, zeros too. The sum is the total."""
    figures = request.counted.figures
    sheet.widths((40, 18, 16))
    sheet.title(_name(row), columns=3)
    columns = (Column(title=say("sheet.part")), Column(title=say("sheet.key")),
               Column(title=say("printed.devices"), kind="count"))
    sheet.head(columns, freeze=True)
    devices = {part.key: part.devices for part in figures.groups.get(by.by, ())} if figures is not None else {}
    listed = {item.key: item.name_zh for item in by.parts()}
    for key, name in [*listed.items(), *((key, key) for key in sorted(k for k in devices if k and k not in listed))]:
        sheet.record(columns, (name, key, devices.get(key, 0)))
    sheet.record(columns, (say("printed.no_class"), "", devices.get(None, 0)))
    sheet.record(columns, (say("printed.sum"), "", sum(devices.values())), strong=True)
    source = by.classification.name_zh if by.classification is not None else "GB/T 2260"
    sheet.line(say("forms.monitoring.division", source=source), columns=3)


def write_summary(book: Book, request: Request, say: Say) -> None:
    """Write a summary table as an empty form: printed head, printed columns, numbered rows."""
    report = request.wanted.report
    assert report is not None
    notes = [say("forms.template"), *([report.note_zh] if report.note_zh else [])]
    if report.filled_by == "recommender":
        notes.append(say("forms.recommender"))
    if report.header_zh:
        notes.append(say("forms.header", names="、".join(report.header_zh)))
    cover(book, request, say, notes)
    columns = [Column(title=title, entered=title != NUMBER_COLUMN, kind="count" if title == NUMBER_COLUMN else "text",
                      width=7 if title == NUMBER_COLUMN else max(12, 2.4 * len(title)),
                      choices=_choices(request.programme, title)) for title in report.columns_zh]
    rows: Iterator[Sequence[Cell]] = ([n if column.title == NUMBER_COLUMN else None for column in columns]
                                      for n in range(1, EMPTY_ROWS + 1))
    head = "　　".join(f"{name}：＿＿＿＿＿＿" for name in report.header_zh)
    long_table(book, report.name_zh, columns, rows, title=report.name_zh, above=head, below=report.note_zh)


def _choices(programme: Programme, title: str) -> tuple[str, ...]:
    if title == TYPE_COLUMN:
        return tuple(item.name_zh for item in programme.data.types)
    if title == "所属行业":
        return tuple(item.name_zh for item in load_classification("industry_jx_a").of_level(1))
    return CHOICES.get(title, ())
