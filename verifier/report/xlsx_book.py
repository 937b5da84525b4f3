"""Spreadsheets as this software writes them: text stays text, A4, heads that repeat on every page, fixed dates.

Rows are written once and in order and never held in memory (constant_memory of XlsxWriter), so a list of any length
costs the same. Nothing that comes from outside can become a formula, a link or a command.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Literal

import xlsxwriter  # type: ignore[import-untyped]  # it ships no types
from xlsxwriter.exceptions import XlsxFileError  # type: ignore[import-untyped]  # the same

from protocols.errors import ConfigError, Problem
from verifier.report.progress import Progress

Kind = Literal["text", "count", "number", "time", "day"]
Cell = str | int | float | bool | datetime | None

CELL_CHARS_MAX = 32_000
"""Excel holds 32 767 characters in a cell; what is longer is cut and ends in an ellipsis."""

ROWS_MAX = 1_000_000
"""Rows of a table on one sheet (Excel ends at 1 048 576); a longer table goes on on further sheets."""

CHOICES_CHARS_MAX = 255
"""A list of choices that is longer than this cannot be written into the cell's validation."""

FOOTER_CHARS_MAX = 200
TOLD_ROWS = 500
PAPER_A4 = 9
COLUMN_WIDTH, LINE_PT, ROW_PT_MAX = 8.43, 13.0, 400.0
SHEET_NAME_MAX = 31
TEXT_FONT, HEAD_FONT = "宋体", "黑体"
_FORMULA_SIGNS = "=+-@"
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
EPOCH = datetime(1980, 1, 1, tzinfo=UTC)


def cell_text(text: str) -> str:
    """Return `text` for a cell: control and steering characters become visible, what is too long is cut."""
    if not text.isprintable():
        text = "".join(c if c == "\n" or unicodedata.category(c) not in _UNSEEN
                       else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= CELL_CHARS_MAX else text[:CELL_CHARS_MAX] + "…"


def lines_of(text: str, width: float) -> int:
    """Return how many lines a text takes in a cell `width` characters wide; a Chinese character is two wide."""
    room = max(int(width) - 1, 2)
    if 2 * len(text) <= room and "\n" not in text:
        return 1
    # Three bytes of UTF-8 are a Chinese character: (3 + 1) / 2 = 2, and an ASCII character is (1 + 1) / 2 = 1.
    return sum(max(-(-((len(line.encode("utf-8", "replace")) + len(line)) // 2) // room), 1)
               for line in text.split("\n"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table. ours: no document asks for it. choices: what may be entered, empty if anything may."""

    title: str
    width: float = 14
    kind: Kind = "text"
    ours: bool = False
    choices: tuple[str, ...] = ()
    entered: bool = False


class Sheet:
    """One sheet, written from the top down. `row` is the next free row, 0-based."""

    def __init__(self, book: Book, name: str, *, landscape: bool) -> None:
        self.book, self.row = book, 0
        self.name = name[:SHEET_NAME_MAX]
        self._widths: list[float] = []
        self.raw = book.raw.add_worksheet(self.name)
        self.raw.set_paper(PAPER_A4)
        self.raw.set_landscape() if landscape else self.raw.set_portrait()
        self.raw.set_margins(left=0.5, right=0.5, top=0.6, bottom=0.7)
        self.raw.fit_to_pages(1, 0)
        self.raw.set_footer(book.footer)

    def pages(self, wide: int, repeated: int) -> None:
        """Print on `wide` pages beside each other; the first `repeated` columns stand on each of them."""
        self.raw.fit_to_pages(wide, 0)
        if repeated:
            self.raw.repeat_columns(0, repeated - 1)

    def widths(self, widths: Sequence[float]) -> None:
        """Set the widths of the columns, in characters."""
        self._widths = list(widths)
        for at, width in enumerate(widths):
            self.raw.set_column(at, at, width)

    def title(self, text: str, columns: int = 6) -> None:
        """Write the title of the sheet over `columns` columns."""
        self.raw.set_row(self.row, 28)
        self._across(text, columns, "title")

    def line(self, text: str, columns: int = 6, style: str = "note") -> None:
        """Write a sentence over `columns` columns, as high as it needs."""
        self._height([(text, sum(self._width(at) for at in range(columns)))])
        self._across(text, columns, style)

    def _width(self, column: int) -> float:
        return self._widths[column] if column < len(self._widths) else COLUMN_WIDTH

    def _height(self, cells: Iterable[tuple[str, float]]) -> None:
        """Make the row as high as the highest of its cells (text, width): not every program does this on loading."""
        self._lines(max((lines_of(text, width) for text, width in cells), default=1))

    def _lines(self, lines: int) -> None:
        if lines > 1:
            self.raw.set_row(self.row, min(LINE_PT * lines + 3, ROW_PT_MAX))

    def _across(self, text: str, columns: int, style: str) -> None:
        if columns > 1:
            self.raw.merge_range(self.row, 0, self.row, columns - 1, "", self.book.style(style))
        self._write(self.row, 0, text, style)
        self.row += 1

    def heading(self, text: str) -> None:
        """Write the heading of a section, after an empty row."""
        self.row += 1 if self.row else 0
        self._write(self.row, 0, text, "section")
        self.row += 1

    def skip(self) -> None:
        """Leave a row empty."""
        self.row += 1

    def pairs(self, pairs: Iterable[tuple[str, Cell]]) -> None:
        """Write (name, value) rows."""
        for name, value in pairs:
            self._write(self.row, 0, name, "name")
            self._write(self.row, 1, value, "count" if isinstance(value, int) else "value")
            self.row += 1

    def wide(self, name: str, value: str, columns: int = 6) -> None:
        """Write a name and a value that takes the rest of `columns` columns."""
        self._height([(name, self._width(0)), (value, sum(self._width(at) for at in range(1, columns)))])
        self._write(self.row, 0, name, "name")
        if columns > 2:
            self.raw.merge_range(self.row, 1, self.row, columns - 1, "", self.book.style("value"))
        self._write(self.row, 1, value, "value")
        self.row += 1

    def head(self, columns: Sequence[Column], *, freeze: bool = False, ours: str | None = None,
             theirs: str = "") -> None:
        """Write the head of a table; with `freeze` it stays on the screen and on every printed page.

        ours, theirs: a row above that tells the columns of the document from those that this software adds.
        """
        first = self.row
        if ours is not None:
            for at, column in enumerate(columns):
                said = (ours if column.ours else theirs) if not at or columns[at - 1].ours != column.ours else ""
                self._write(self.row, at, said, "group_ours" if column.ours else "group")
            self.row += 1
        self._height((column.title, self._width(at)) for at, column in enumerate(columns))
        for at, column in enumerate(columns):
            self._write(self.row, at, column.title, "head_ours" if column.ours else "head")
        if freeze:
            self.raw.freeze_panes(self.row + 1, 0)
            self.raw.repeat_rows(first, self.row)
        self.row += 1

    def record(self, columns: Sequence[Column], cells: Sequence[Cell], *, strong: bool = False) -> None:
        """Write one row of a table."""
        lines = 1
        for width, cell in zip(self._widths, cells, strict=False):
            if cell.__class__ is str and 2 * len(cell) >= width and (more := lines_of(cell, width)) > lines:
                lines = more
        self._lines(lines)
        for at, (column, cell) in enumerate(zip(columns, cells, strict=True)):
            style = "entered" if column.entered else f"{column.kind}_strong" if strong else column.kind
            self._write(self.row, at, cell, style)
        self.row += 1
        self.book.wrote_row()

    def entry(self, cells: Sequence[Cell], entered: Sequence[int], *, keys: bool = False) -> None:
        """Write one row of a form: a key that is cut short, then cells; those in `entered` may be filled in.

        keys: every cell is a key.
        """
        if not keys:
            self._height((cell, self._width(at)) for at, cell in enumerate(cells) if at and isinstance(cell, str))
        for at, cell in enumerate(cells):
            number = isinstance(cell, int | float)
            style = "entered" if at in entered else "key" if keys or not at else "count" if number else "text"
            self._write(self.row, at, cell, style)
        self.row += 1

    def protect(self) -> None:
        """Lock every cell that is not to be filled in; there is no password, it only keeps from mistakes."""
        self.raw.protect("", {"format_columns": True, "format_rows": True, "sort": False})

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, freeze: bool = False) -> int:
        """Write head and rows; return how many rows there were."""
        self.head(columns, freeze=freeze)
        first = self.row
        for cells in rows:
            self.record(columns, cells)
        return self.row - first

    def filter(self, head: int, columns: int) -> None:
        """Let the reader filter the table whose head is in row `head` and that ends in the row written last."""
        self.raw.autofilter(head, 0, max(self.row - 1, head), columns - 1)

    def bars(self, title: str, first: int, last: int, *, names: int, values: int, row: int,
             upright: bool = False) -> None:
        """Draw a bar chart of rows `first` to `last`: grey, so that it prints in black and white, with its values."""
        chart = self.book.raw.add_chart({"type": "column" if upright else "bar"})
        chart.add_series({
            "categories": [self.name, first, names, last, names], "values": [self.name, first, values, last, values],
            "fill": {"color": "#7F7F7F"}, "border": {"color": "#000000"}, "gap": 60,
            "data_labels": {"value": True, "font": {"size": 8}}})
        chart.set_title({"name": title, "name_font": {"name": HEAD_FONT, "size": 11}, "overlay": False})
        chart.set_legend({"none": True})
        plain = {"major_gridlines": {"visible": False}}
        chart.set_x_axis(plain | {"num_font": {"name": TEXT_FONT, "size": 8}, "num_format": "@"})
        chart.set_y_axis(plain | {"num_font": {"size": 8}, "min": 0, "num_format": "0"})
        chart.set_size({"width": 560, "height": 120 + 20 * min(last - first + 1, 20) if not upright else 300})
        self.raw.insert_chart(row, 0, chart)

    def choices(self, column: int, first: int, last: int, values: Sequence[str], *, place: str = "") -> None:
        """Offer `values` for the cells of a column, rows `first` to `last`. `place`: a range that holds them."""
        inside = len(",".join(values)) <= CHOICES_CHARS_MAX
        source: Any = list(values) if inside else f"={place}"
        if inside or place:
            self.raw.data_validation(first, column, last, column, {"validate": "list", "source": source})

    def numbers(self, column: int, first: int, last: int, *, whole: bool, message: str) -> None:
        """Refuse everything but numbers from 0 in these cells."""
        self.raw.data_validation(first, column, last, column, {
            "validate": "integer" if whole else "decimal", "criteria": ">=", "value": 0,
            "error_title": message[:32], "error_message": message[:255]})

    def _write(self, row: int, column: int, cell: Cell, style: str) -> None:
        if isinstance(cell, str) and cell:
            text = cell_text(cell)
            # The prefix keeps Excel from making a formula of it when somebody edits the cell.
            quoted = text[0] in _FORMULA_SIGNS or cell[0] in "\t\r\n"
            self.raw.write_string(row, column, text, self.book.style(style, quoted=quoted))
        elif cell is None or cell == "":
            self.raw.write_blank(row, column, None, self.book.style(style))
        elif isinstance(cell, bool):
            self.raw.write_boolean(row, column, cell, self.book.style(style))
        elif isinstance(cell, datetime):
            self.raw.write_datetime(row, column, cell.replace(tzinfo=None), self.book.style(style))
        else:
            self.raw.write_number(row, column, cell, self.book.style(style))


class Book:
    """A workbook at `path`. The same input gives the same bytes: `created` is a time of the evidence, never now.

    footer: said at the foot of every printed page beside "page n of m"; {page} and {pages} are filled by the printer.
    """

    def __init__(self, path: Path, *, title: str, created: datetime, footer: str, subject: str = "",
                 progress: Progress | None = None) -> None:
        self.progress, self.rows = progress, 0
        self.path, self._part = path, path.with_name(path.name + ".part")
        self._scratch = TemporaryDirectory(prefix="tallystick-", ignore_cleanup_errors=True)
        self.raw = xlsxwriter.Workbook(str(self._part), {
            "tmpdir": self._scratch.name, "constant_memory": True, "strings_to_formulas": False,
            "strings_to_urls": False, "strings_to_numbers": False, "default_date_format": "yyyy-mm-dd hh:mm:ss"})
        self.raw.set_properties({"title": title, "subject": subject, "author": "Tallystick 符契",
                                 "created": max(created, EPOCH).replace(tzinfo=None)})
        self.footer = "&C" + cell_text(footer)[:FOOTER_CHARS_MAX].replace("&", "&&").replace(
            "{page}", "&P").replace("{pages}", "&N")
        self._styles: dict[tuple[str, bool], Any] = {}

    def sheet(self, name: str, *, landscape: bool = True) -> Sheet:
        """Add a sheet."""
        return Sheet(self, name, landscape=landscape)

    def style(self, name: str, *, quoted: bool = False) -> Any:
        """Return a format by its name; each is made once."""
        found = self._styles.get((name, quoted))
        if found is None:
            found = self._styles[name, quoted] = self.raw.add_format(
                BASE | STYLES[name] | ({"quote_prefix": True} if quoted else {}))
        return found

    def wrote_row(self) -> None:
        """Count a row of a table, and tell who watches."""
        self.rows += 1
        if self.progress is not None and self.rows % TOLD_ROWS == 0:
            self.progress.rows(self.rows)

    def __enter__(self) -> Book:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        if self.progress is not None:
            self.progress.clear()
        if error is not None:  # an unfinished book is no book; its temporary files go with it
            for sheet in self.raw.worksheets():
                sheet._opt_close()
            self.raw.fileclosed = True
            self._scratch.cleanup()
            return
        try:
            self.raw.close()
            self._part.replace(self.path)
        except (OSError, XlsxFileError) as failed:
            self._part.unlink(missing_ok=True)
            told = failed.args[0] if failed.args and isinstance(failed.args[0], OSError) else failed
            reason = getattr(told, "strerror", None) or str(told) or type(told).__name__
            raise ConfigError(Problem.of(str(self.path), "forms.unwritten", reason=reason)) from failed
        finally:
            self._scratch.cleanup()  # the library leaves what it could not write out


BASE: dict[str, Any] = {"font_name": TEXT_FONT, "font_size": 10, "valign": "vcenter"}
_CELL = {"border": 1, "border_color": "#808080", "text_wrap": True}
_HEAD = _CELL | {"font_name": HEAD_FONT, "bold": True, "align": "center"}
_KINDS: dict[str, dict[str, Any]] = {
    "text": {"num_format": "@"},
    "count": {"num_format": "#,##0", "align": "right"},
    "number": {"num_format": "#,##0.##", "align": "right"},
    "time": {"num_format": "yyyy-mm-dd hh:mm:ss", "align": "center"},
    "day": {"num_format": "yyyy-mm-dd", "align": "center"},
}
STYLES: dict[str, dict[str, Any]] = {
    "title": {"font_name": HEAD_FONT, "font_size": 16, "bold": True, "align": "center"},
    "section": {"font_name": HEAD_FONT, "font_size": 12, "bold": True},
    "note": {"font_size": 9, "text_wrap": True, "italic": False},
    "strong": {"font_name": HEAD_FONT, "font_size": 12, "bold": True, "text_wrap": True},
    "name": _CELL | {"font_name": HEAD_FONT, "bg_color": "#F2F2F2"},
    "value": _CELL | {"align": "left", "num_format": "#,##0"},
    "head": _HEAD | {"bg_color": "#D9D9D9"},
    "head_ours": _HEAD | {"bg_color": "#F2F2F2", "italic": True},
    "group": {"font_size": 9, "bold": True, "bottom": 2},
    "group_ours": {"font_size": 9, "bold": True, "italic": True, "bottom": 4},
    "key": _CELL | {"font_size": 6, "font_color": "#808080", "text_wrap": False, "align": "fill"},
    "entered": _CELL | {"bg_color": "#FFFFE0", "locked": False, "num_format": "General"},
    **{name: _CELL | how for name, how in _KINDS.items()},
    **{f"{name}_strong": _CELL | how | {"bold": True, "top": 2} for name, how in _KINDS.items()},
}
