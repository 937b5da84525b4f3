"""A document onto pages of A4: pure geometry in millimetres, drawn by `pdf.py` once the number of pages is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from protocols.terms.say import Say
from verifier.report.document import (
    Block,
    Box,
    Bullets,
    Chart,
    Command,
    Document,
    Fold,
    Form,
    Label,
    Line,
    Paragraph,
    Row,
    Section,
    Table,
    Text,
    Verdict,
)
from verifier.report.typeset import MM_PER_PT, Face, Look, TextLine, Typesetter

PAGE_WIDTH, PAGE_HEIGHT = 210.0, 297.0
LEFT = 16.0
WIDTH = PAGE_WIDTH - 2 * LEFT
TOP = 20.0
BOTTOM = 276.0
"""Where the text ends; below it stand page number, code and digest."""

PAD_X, PAD_Y = 1.6, 0.9
TITLE = Look("hei", 17.0)
HEADING = Look("hei", 12.5)
CAPTION = Look("kai", 11.0)
VERDICT = Look("hei", 16.0)
EDGE = Look("song", 8.0)
HEAD_GREY, RULE_GREY, NAME_GREY = 0.91, 0.95, 0.97
FORM_NAME, FORM_PAD = 42.0, 1.6
GRID, STRONG = 0.1, 0.35
KEPT = 16.0
"""Room below a heading without which it moves to the next page."""

BASE = 0.82
"""Base line of a text below the top of its line, in sizes of its font, with the leading shared."""


@dataclass(frozen=True, slots=True)
class Glyphs:
    """A text at its base line."""

    x: float
    y: float
    face: Face
    size_pt: float
    text: str
    upright: bool = False


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line."""

    x1: float
    y1: float
    x2: float
    y2: float
    weight: float


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle: `grey` from 0 (black) to 1, None: not filled; weight 0: no border."""

    x: float
    y: float
    width: float
    height: float
    grey: float | None
    weight: float
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Bookmark:
    """An entry of the outline."""

    title: str
    y: float
    level: int = 0


Part = Glyphs | Stroke | Area | Bookmark


@dataclass(slots=True)
class Pages:
    """Pages as they fill: `y` is where the next part begins."""

    type: Typesetter
    pages: list[list[Part]] = field(default_factory=lambda: [[]])
    y: float = TOP

    def put(self, part: Part) -> None:
        """Add a part to the current page."""
        self.pages[-1].append(part)

    def turn(self) -> None:
        """Begin a page."""
        self.pages.append([])
        self.y = TOP

    def need(self, height: float) -> bool:
        """Begin a page unless `height` fits below; return whether one was begun."""
        if self.y + height <= BOTTOM or self.y == TOP:
            return False
        self.turn()
        return True

    def text(self, line: TextLine, x: float, y: float) -> None:
        """Put a line whose top is `y`."""
        size = line.look.size_pt
        base = y + (line.look.height - size * MM_PER_PT) / 2 + size * MM_PER_PT * BASE
        for run in line.runs:
            self.put(Glyphs(x + run.x, base, run.face, size, run.text))

    def lines(self, lines: Sequence[TextLine], x: float = LEFT) -> None:
        """Put lines one below the other, over pages where needed."""
        for line in lines:
            self.need(line.look.height)
            self.text(line, x, self.y)
            self.y += line.look.height


def lay_out(document: Document, type_: Typesetter, say: Say) -> list[list[Part]]:
    """Return the parts of each page, with page number, code and digest on all of them."""
    pages = Pages(type_)
    pages.lines(type_.lines(document.title, WIDTH, look=TITLE))
    pages.lines(type_.lines(document.source, WIDTH))
    for section in document.sections:
        _section(pages, section)
    _section(pages, _print_section(type_, say))
    total = len(pages.pages)
    return [[*_edges(document, type_, say, number, total), *parts] for number, parts in enumerate(pages.pages, 1)]


def _print_section(type_: Typesetter, say: Say) -> Section:
    """Return what is to be said of the print itself. Characters that no font has are known when all else is set."""
    lines = [Text(say("report.fonts"))]
    if type_.missing:
        lines.append(Text(say("report.missing", chars=" ".join(f"U+{ord(char):04X}" for char in type_.missing))))
    return Section(key="print", title=Text(say("report.section.fonts")), blocks=(Paragraph(tuple(lines)),))


def _edges(document: Document, type_: Typesetter, say: Say, number: int, total: int) -> list[Part]:
    edges = Pages(type_)
    title = next(type_.broken(f"{document.title.main}　{document.subject}", EDGE, WIDTH))  # a long name is cut here
    edges.text(title, LEFT, 10.0)
    edges.put(Stroke(LEFT, 15.0, LEFT + WIDTH, 15.0, STRONG / 2))
    edges.put(Stroke(LEFT, BOTTOM + 3.0, LEFT + WIDTH, BOTTOM + 3.0, STRONG / 2))
    page = type_.line(say("report.page", number=number, total=total), EDGE)
    edges.text(page, LEFT + WIDTH - page.width, BOTTOM + 4.0)
    edges.text(type_.line(say("count.pair", name=say("report.code"), value=document.code), EDGE), LEFT, BOTTOM + 4.0)
    edges.text(type_.line(f"SHA-256 {document.sha256}", EDGE), LEFT, BOTTOM + 8.2)
    return edges.pages[0]


def _section(pages: Pages, section: Section) -> None:
    lines = pages.type.lines(section.title, WIDTH, look=HEADING)
    high = sum(line.look.height for line in lines)
    pages.need(5.0 + high + _room(pages, section.blocks[0]))
    if pages.y > TOP:
        pages.y += 4.0
    pages.put(Bookmark(section.title.main, pages.y))
    pages.lines(lines)
    pages.put(Stroke(LEFT, pages.y + 0.6, LEFT + WIDTH, pages.y + 0.6, STRONG))
    pages.y += 2.4
    for block in section.blocks:
        _block(pages, block)


def _room(pages: Pages, block: Block) -> float:
    """Return how much must stand below a heading: all of what is never torn, head and first row of a table."""
    match block:
        case Chart():
            return block.height + 20.0
        case Form():
            return sum(height for height, _, _ in _filled(pages, block)) + 12.0
        case Fold(blocks=(first, *_)):
            return CAPTION.height * 2 + _room(pages, first)
        case Table(rows=(_, *_)):
            widths = _widths(block)
            first_row = _laid(pages, block, block.rows[0], widths).height
            return KEPT / 2 + (_head(pages, block, widths).height if block.headed else 0.0) + min(first_row, 60.0)
    return KEPT


def _block(pages: Pages, block: Block) -> None:
    match block:
        case Table():
            _table(pages, block)
        case Paragraph():
            for text in block.lines:
                pages.lines(pages.type.lines(text, WIDTH))
            pages.y += 1.4
        case Bullets():
            for item in block.items:
                lines = pages.type.lines(item, WIDTH - 5.0)
                pages.need(lines[0].look.height)
                pages.text(pages.type.line("·", lines[0].look), LEFT + 1.2, pages.y)
                pages.lines(lines, LEFT + 5.0)
            pages.y += 1.4
        case Verdict():
            _verdict(pages, block)
        case Command():
            _framed(pages, pages.type.lines(Text(block.line, style="mono"), WIDTH - 6.0))
        case Form():
            _form(pages, block)
        case Chart():
            _chart(pages, block)
        case Fold():
            lines = pages.type.lines(block.title, WIDTH, look=CAPTION)
            pages.need(sum(line.look.height for line in lines) + _room(pages, block.blocks[0]))
            pages.y += 1.2
            pages.put(Bookmark(block.title.main, pages.y, 1))
            pages.lines(lines)
            for inner in block.blocks:
                _block(pages, inner)


def _verdict(pages: Pages, block: Verdict) -> None:
    inner = WIDTH - 10.0
    lines = pages.type.lines(block.title, inner, look=VERDICT)
    for text in block.lines:
        lines += pages.type.lines(text, inner)
    for item in block.items:
        lines += pages.type.lines(Text("· " + item.main, item.beside), inner)
    _framed(pages, lines, pad=3.0, weight=0.8, double=not block.holds)


def _framed(pages: Pages, lines: Sequence[TextLine], *, pad: float = 1.6, weight: float = GRID,
            double: bool = False) -> None:
    """Put lines into a frame, or into one on each page that they need. double: with a second frame inside the first."""
    high = sum(line.look.height for line in lines) + 2 * pad
    pages.need(min(high, BOTTOM - TOP))
    taken, y = 0, pages.y + pad
    while taken < len(lines) and y + lines[taken].look.height + pad <= BOTTOM:
        pages.text(lines[taken], LEFT + pad + 1.4, y)
        y += lines[taken].look.height
        taken += 1
    pages.put(Area(LEFT, pages.y, WIDTH, y + pad - pages.y, None, weight))
    if double:  # it differs in black and white too
        pages.put(Area(LEFT + 1.2, pages.y + 1.2, WIDTH - 2.4, y + pad - pages.y - 2.4, None, STRONG))
    pages.y = y + pad + 2.4
    if taken < len(lines):
        pages.turn()
        _framed(pages, lines[taken:], pad=pad, weight=weight, double=double)


def _form(pages: Pages, form: Form) -> None:
    """Lay a form; it is never torn: a signature belongs to the opinion that stands above it."""
    rows = _filled(pages, form)
    pages.need(sum(height for height, _, _ in rows) + 6.0)
    for height, label, given in rows:
        pages.put(Area(LEFT, pages.y, FORM_NAME, height, NAME_GREY, GRID))
        pages.put(Area(LEFT + FORM_NAME, pages.y, WIDTH - FORM_NAME, height, None, GRID))
        for lines, x in ((label, LEFT), (given, LEFT + FORM_NAME)):
            y = pages.y + FORM_PAD
            for line in lines:
                pages.text(line, x + PAD_X, y)
                y += line.look.height
        pages.y += height
    pages.y += 2.0


def _filled(pages: Pages, form: Form) -> list[tuple[float, list[TextLine], list[TextLine]]]:
    """Return (height, lines of the label, lines of what stands there) of each row, high enough for both."""
    rows = []
    for label, given, height in form.rows:
        names = pages.type.lines(label, FORM_NAME - 2 * PAD_X, strong=True)
        lines = pages.type.lines(given, WIDTH - FORM_NAME - 2 * PAD_X)
        least = max(sum(line.look.height for line in part) for part in (names, lines)) + 2 * FORM_PAD
        rows.append((max(height, least), names, lines))
    return rows


def _chart(pages: Pages, chart: Chart) -> None:
    """Lay a chart with its title, whole."""
    lines = pages.type.lines(chart.title, WIDTH, look=CAPTION)
    pages.need(sum(line.look.height for line in lines) + chart.height + 6.0)
    pages.y += 1.2
    pages.lines(lines)
    top = pages.y + 1.0
    for part in chart.parts:
        match part:
            case Box():
                pages.put(Area(LEFT + part.x, top + part.y, part.width, part.height,
                               0.27 if part.fill == "solid" else None, 0.2, dashed=part.fill == "open"))
            case Line():
                pages.put(Stroke(LEFT + part.x1, top + part.y1, LEFT + part.x2, top + part.y2, part.weight))
            case Label():
                _label(pages, part, top)
    pages.y = top + chart.height + 1.6
    for note in chart.notes:
        pages.lines(pages.type.lines(note, WIDTH))
    pages.y += 1.6


def _label(pages: Pages, label: Label, top: float) -> None:
    line = pages.type.line(label.text, Look("hei", label.size_pt))
    back = {"start": 0.0, "middle": line.width / 2, "end": line.width}[label.anchor]
    for run in line.runs:
        along = run.x - back
        x, y = (label.x, label.y - along) if label.upright else (label.x + along, label.y)
        pages.put(Glyphs(LEFT + x, top + y, run.face, label.size_pt, run.text, label.upright))


@dataclass(frozen=True, slots=True)
class _Laid:
    """A row with its lines. `across`: one cell over all columns."""

    cells: tuple[tuple[TextLine, ...], ...]
    across: bool
    grey: float | None

    @property
    def height(self) -> float:
        return max(sum(line.look.height for line in cell) for cell in self.cells) + 2 * PAD_Y


def _table(pages: Pages, table: Table) -> None:
    widths = _widths(table)
    head = _head(pages, table, widths)
    rows = [_laid(pages, table, row, widths) for row in table.rows]
    if table.headed:
        pages.need(head.height + (rows[0].height if rows else 0.0))
        _row(pages, table, head, widths)
    for number, row in enumerate(rows):
        following = rows[number + 1].height if row.across and number + 1 < len(rows) else 0.0
        if pages.need(min(row.height + following, BOTTOM - TOP - head.height)) and table.headed:
            _row(pages, table, head, widths)
        _torn(pages, table, row, head, widths)
    pages.y += 2.4


def _widths(table: Table) -> list[float]:
    share = sum(column.share for column in table.columns)
    return [WIDTH * column.share / share for column in table.columns]


def _head(pages: Pages, table: Table, widths: Sequence[float]) -> _Laid:
    return _laid(pages, table, Row(cells=tuple((column.title,) for column in table.columns)), widths, head=True)


def _torn(pages: Pages, table: Table, row: _Laid, head: _Laid, widths: Sequence[float]) -> None:
    """Put a row; one that is higher than a page is torn between lines."""
    while pages.y + row.height > BOTTOM:
        room = BOTTOM - pages.y - 2 * PAD_Y
        here, rest = [], []
        for cell in row.cells:
            used, taken = 0.0, 0
            while taken < len(cell) and used + cell[taken].look.height <= room:
                used += cell[taken].look.height
                taken += 1
            here.append(cell[:taken])
            rest.append(cell[taken:])
        _row(pages, table, _Laid(tuple(here), row.across, row.grey), widths)
        row = _Laid(tuple(rest), row.across, row.grey)
        pages.turn()
        if table.headed:
            _row(pages, table, head, widths)
    _row(pages, table, row, widths)


def _laid(pages: Pages, table: Table, row: Row, widths: Sequence[float], *, head: bool = False) -> _Laid:
    across = len(row.cells) == 1 and len(table.columns) > 1
    cells = []
    for number, cell in enumerate(row.cells):
        strong = head or row.mark in ("fault", "total") or table.columns[number].head
        width = (WIDTH if across else widths[number]) - 2 * PAD_X
        lines: list[TextLine] = []
        for text in cell:
            lines += pages.type.lines(text, width, strong=strong and text.style != "mono")
        cells.append(tuple(lines))
    grey = HEAD_GREY if head else RULE_GREY if row.mark in ("rule", "fault") else None
    return _Laid(tuple(cells), across, grey)


def _row(pages: Pages, table: Table, row: _Laid, widths: Sequence[float]) -> None:
    x, high = LEFT, row.height
    for number, cell in enumerate(row.cells):
        column = table.columns[number]
        width = WIDTH if row.across else widths[number]
        grey = NAME_GREY if row.grey is None and column.head and not row.across else row.grey
        pages.put(Area(x, pages.y, width, high, grey, GRID))
        y = pages.y + PAD_Y
        for line in cell:
            right = column.align == "right" and not row.across
            pages.text(line, x + width - PAD_X - line.width if right else x + PAD_X, y)
            y += line.look.height
        x += width
    pages.y += high
