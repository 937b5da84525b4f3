"""A table as people keep it, CSV or XLSX: rows by the names of their columns. Every problem of a file at once.

Excel and WPS write CSV as UTF-8 with a byte order mark, as GB 18030, or as UTF-16 with tabs; with the separator of the
computer's region; with a line `sep=;` before the header; with empty rows at the end, and without the last cells of a
row when they are empty. All of it is read, none of it is a mistake.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from config.spreadsheet import Cell, sheets_of
from protocols.errors import ConfigError, Problem

BYTES_MAX = 64 * 1024 * 1024
COLUMNS_MAX = 200
SEPARATORS = ",;\t"
HEAD_CHARS = 1 << 16
"""So much of the first line is looked at to find the separator."""

DIGITS_MAX = 15
"""Excel keeps so many digits of a number; a longer one, such as a code of 18 digits, is not what was typed."""

ROUNDED = re.compile(r"[0-9][.,][0-9]+E\+[0-9]{2}")
"""How Excel shows a number that it could not keep, and how it then stands in a CSV."""

BROKEN = ("#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!")
WORKBOOKS = (b"PK\x03\x04", bytes.fromhex("d0cf11e0a1b11ae1"))
"""How a zip begins, as .xlsx is, and an .xls, which is told to be none."""

FREE = re.compile(r"\{[a-z_][a-z0-9_]{0,63}\}")
"""A column of the user's own, for the places of a template that bear its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a table may hold.

    sheets: the names its sheet may have in a workbook. is_free: takes columns `{name}`. chinese: headings that may
    stand for a column.
    """

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    rows_max: int
    sheets: tuple[str, ...]
    is_free: bool = False
    chinese: Mapping[str, str] = field(default_factory=dict)

    def column(self, heading: str) -> str:
        """Return the column that a heading stands for; what is unknown stays as it is."""
        return self.chinese.get(heading, heading)

    def knows(self, heading: str) -> bool:
        """Return whether something may stand in the header."""
        column = self.column(heading)
        return column in self.needed or column in self.optional or (self.is_free and bool(FREE.fullmatch(column)))


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table. where: file and number. bad: position of a cell -> code of what is wrong with it."""

    where: str
    cells: list[str]
    bad: Mapping[int, str] = field(default_factory=dict)


def read_bytes(path: Path, problems: list[Problem]) -> bytes | None:
    """Return the bytes of a file, None if it cannot be read."""
    try:
        if path.stat().st_size > BYTES_MAX:
            problems.append(Problem.of(path.name, "config.too_large", limit=BYTES_MAX))
            return None
        return path.read_bytes()
    except FileNotFoundError:
        problems.append(Problem.of(str(path), "config.no_file"))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        problems.append(Problem.of(str(path), "config.unreadable", reason=reason))
    return None


def read_rows(path: Path, raw: bytes | None, shape: Shape, problems: list[Problem],
              columns: list[str] | None = None) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, row) of every row with the right number of cells; report the header and the others.

    raw: what `read_bytes` gave. columns: takes the header, when it is good.
    """
    if raw is None:
        return
    is_workbook = path.suffix.lower() == ".xlsx" or raw.startswith(WORKBOOKS)  # whatever its name says
    lines = (_sheet_lines if is_workbook else _csv_lines)(path, raw, shape, problems)
    head = next(lines, None)
    if head is None:
        return
    header = [shape.column(cell) for cell in head.cells]
    while header and not header[-1]:  # cells that were formatted and never filled
        header.pop()
    if not header or len(header) > COLUMNS_MAX:
        problems.append(Problem.of(head.where, "ledger.no_header", columns=",".join(shape.needed)))
        return
    if not _header_is_good(head.where, header, shape, problems):
        return
    if columns is not None:
        columns.extend(header)
    count = 0
    for line in lines:
        if not any(line.cells) and not line.bad:
            continue
        count += 1
        if count > shape.rows_max:
            problems.append(Problem.of(line.where, "ledger.too_many", limit=shape.rows_max))
            return
        cells = line.cells
        left_out = header[len(cells):]
        if any(cells[len(header):]) or any(column in shape.needed for column in left_out):
            problems.append(Problem.of(line.where, "ledger.cells", found=len(cells), expected=len(header)))
            continue
        bad = [Problem.of(f"{line.where}, {header[at]}", code, value=cells[at][:40]) for at, code in line.bad.items()
               if at < len(header)]
        problems.extend(bad)
        if not bad:
            yield line.where, dict(zip(header, cells + [""] * len(left_out), strict=False))


def _header_is_good(where: str, header: list[str], shape: Shape, problems: list[Problem]) -> bool:
    known = shape.needed + shape.optional
    missing = [column for column in shape.needed if column not in header]
    problems.extend(Problem.of(where, "ledger.missing_column", column=column) for column in missing)
    for column in header:
        if not shape.knows(column):
            near = difflib.get_close_matches(column.lower()[:80], (*known, *shape.chinese), 1)
            problems.append(Problem.of(where, "ledger.unknown_column", column=column[:80],
                                       known=near[0] if near else ", ".join(shape.optional)))
    is_double = len(set(header)) != len(header)
    if is_double:
        problems.append(Problem.of(where, "ledger.double_column"))
    return not missing and not is_double


def _csv_lines(path: Path, raw: bytes, shape: Shape, problems: list[Problem]) -> Iterator[Line]:
    name = path.name
    text = _decoded(raw)
    if text is None:
        problems.append(Problem.of(name, "ledger.encoding"))
        return
    source = io.StringIO(text, newline="")
    before, separator = 0, ""
    hint = re.match(r"sep=(.)\r?\n", text[:16])
    if hint:
        source.readline()
        before, separator = 1, hint[1]
    reader = csv.reader(source, strict=True, delimiter=separator or _separator(text[:HEAD_CHARS], shape))
    try:
        for cells in reader:
            bad = {at: "ledger.formula" for at, cell in enumerate(cells) if cell[:1] == "#" and cell in BROKEN}
            yield Line(f"{name}, line {before + reader.line_num}", [cell.strip() for cell in cells], bad)
        if reader.line_num == 0:  # an empty file
            yield Line(f"{name}, line 1", [])
    except csv.Error as error:
        problems.append(Problem.of(f"{name}, line {before + reader.line_num}", "ledger.csv", reason=error))


def _decoded(raw: bytes) -> str | None:
    # "Unicode text" of Excel has a mark of its own; GB 18030 is its CSV on a Chinese PC.
    is_utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if is_utf16 else ("utf-8-sig", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


def _separator(head: str, shape: Shape) -> str:
    """Return the separator under which the first line names the most columns; a comma if none does."""
    line = head.split("\n", 1)[0]
    return max(SEPARATORS, key=lambda sign: sum(shape.knows(cell.strip(' \r"')) for cell in line.split(sign)))


def _sheet_lines(path: Path, raw: bytes, shape: Shape, problems: list[Problem]) -> Iterator[Line]:
    titles: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        titles.extend(names)
        named = [name for name in names if name.strip().lower() in shape.sheets]
        return named[:1] or (list(names) if len(names) == 1 else [])

    try:
        sheets = sheets_of(raw, where=path.name, rows_max=shape.rows_max + 1, choose=choose)
    except ConfigError as error:
        problems.extend(error.problems)
        return
    if not sheets:
        problems.append(Problem.of(path.name, "ledger.no_sheet", sheets=", ".join(titles)[:200],
                                   known=", ".join(shape.sheets)))
        return
    (title, rows), = sheets.items()
    if not rows:
        yield Line(f"{path.name}, {title}, row 1", [])
    for row in rows:
        cells, bad = [], {}
        for at, cell in enumerate(row.cells):
            text, code = _text(cell)
            cells.append(text)
            if code:
                bad[at] = code
        yield Line(f"{path.name}, {title}, row {row.number}", cells, bad)


def _text(cell: Cell | None) -> tuple[str, str]:
    """Return what a cell shows, and the code of what is wrong with it; an empty code if nothing is."""
    if cell is None:
        return "", ""
    value = cell.value
    if cell.formula or value in BROKEN:
        return str(value), "ledger.formula"
    if isinstance(value, bool):
        return "yes" if value else "no", ""
    if isinstance(value, date):  # no column of a ledger holds a date: Excel made one of a text such as 3-1
        return value.isoformat(), "ledger.date_cell"
    if isinstance(value, int | float):
        if abs(value) >= 10**DIGITS_MAX:
            return str(value), "ledger.rounded"
        whole = isinstance(value, int) or value.is_integer()
        return str(int(value)).zfill(cell.zeros) if whole else repr(value), ""
    return ("" if value is None else str(value).strip()), ""
