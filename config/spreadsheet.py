"""Cells of a spreadsheet from outside. Everything is bounded before it is parsed, and no formula is evaluated.

A spreadsheet is a zip of XML, so it is looked at as such first: size, members, uncompressed sizes, no document type,
no macros. Only then does a library read it, row by row.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from protocols.errors import ConfigError, Problem

FILE_BYTES_MAX = 32 * 1024 * 1024
OPENED_BYTES_MAX = 256 * 1024 * 1024
MEMBERS_MAX = 300
SHEETS_MAX = 60
TAGS_MAX = 250_000
"""Of the members that are read as a whole, together; Excel has at most 65 490 formats."""

WHOLE = ("[Content_Types].xml", "_rels/", "docProps/", "xl/_rels/", "xl/styles.xml", "xl/theme/", "xl/workbook.xml")
"""How their names begin: the library makes an object of each of their elements, before it reads a cell."""

ROWS_MAX = 100_000
COLUMNS_MAX = 60
SHEET_ROWS_MAX = 1 << 20
EMPTY_ROWS_MAX = 1 << 21
ZEROS_MAX = 20
NEEDED = ("[Content_Types].xml", "xl/workbook.xml")
MACROS = "vbaProject.bin"
CHUNK_BYTES = 1 << 16
OVERLAP_BYTES = 16
REFUSED_XML = (b"<!DOCTYPE", b"<!ENTITY", b"\x00")
"""No spreadsheet program writes a document type; entities could grow without bound. NUL: UTF-16, where both hide."""

Value = str | int | float | bool | date | datetime | None


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that holds something. place: as people name it, `SHEET!E5`. zeros: digits that its format fills up to."""

    place: str
    value: Value
    formula: bool = False
    zeros: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A row by its number on the sheet, from 1; cells by column from 0, None where a cell is empty."""

    number: int
    cells: Sequence[Cell | None]

    def cell(self, column: int) -> Cell | None:
        """Return a cell, None beyond the last."""
        return self.cells[column] if column < len(self.cells) else None

    def value(self, column: int) -> Value:
        """Return the value of a cell, None if it is empty or holds a formula."""
        found = self.cell(column)
        return None if found is None or found.formula else found.value


def read_sheets(path: Path, *, rows_max: int = ROWS_MAX) -> tuple[dict[str, list[Row]], str]:
    """Return sheet name -> its rows that hold something, and the SHA-256 of the file.

    Raises: ConfigError `cells.*` if the file cannot be read, breaks a limit, or is no spreadsheet.
    """
    needs("openpyxl", where=str(path))
    data = _bytes(path)
    return sheets_of(data, where=str(path), rows_max=rows_max), hashlib.sha256(data).hexdigest()


def sheets_of(data: bytes, *, where: str, rows_max: int = ROWS_MAX,
              choose: Callable[[Sequence[str]], Collection[str]] = lambda names: names) -> dict[str, list[Row]]:
    """Return sheet name -> its rows that hold something, of a file that was read already.

    where: its name. choose: which of its sheets are read.
    Raises: ConfigError `cells.*` if it breaks a limit, or is no spreadsheet.
    """
    needs("openpyxl", where=where)
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(Problem.of(where, "cells.too_large", what="bytes", limit=FILE_BYTES_MAX))
    _bound(data, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's remarks on styles and extensions say nothing of values
            return dict(_sheets(data, where, rows_max, choose))
    except ConfigError:
        raise
    except UNREADABLE as error:
        raise ConfigError(Problem.of(where, "cells.unreadable", reason=type(error).__name__)) from error


UNREADABLE = (AssertionError, AttributeError, EOFError, KeyError, IndexError, OSError, OverflowError,
              RuntimeError, SyntaxError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)
"""What the library raises on files that are no spreadsheets; none of it says anything to a user. An error of its XML
parser is a SyntaxError."""


def needs(library: str, *, where: str) -> None:
    """Raise ConfigError `cells.no_library` where a library of the extra `documents` is not installed."""
    if importlib.util.find_spec(library) is None:
        raise ConfigError(Problem.of(where, "cells.no_library", library=library))


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(Problem.of(str(path), "verify.file", reason=reason)) from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(Problem.of(str(path), "cells.too_large", what="bytes", limit=FILE_BYTES_MAX))
    return data


def _bound(data: bytes, where: str) -> None:
    """Raise ConfigError unless the zip keeps the limits, which is read and not believed."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = file.infolist()
            if len(members) > MEMBERS_MAX:
                raise ConfigError(Problem.of(where, "cells.too_large", what="members", limit=MEMBERS_MAX))
            names = [member.filename for member in members]
            if not set(NEEDED) <= set(names) or len(set(names)) < len(names):
                raise ConfigError(Problem.of(where, "cells.no_spreadsheet"))
            if any(name.endswith(MACROS) for name in names):
                raise ConfigError(Problem.of(where, "cells.macros"))
            left, tags_left = OPENED_BYTES_MAX, TAGS_MAX
            for member in members:
                left, tags = _bound_member(file, member, left, where)
                tags_left -= tags if member.filename.startswith(WHOLE) else 0
                if tags_left < 0:
                    raise ConfigError(Problem.of(where, "cells.too_large", what="styles", limit=TAGS_MAX))
    except UNREADABLE as error:
        raise ConfigError(Problem.of(where, "cells.no_spreadsheet")) from error


def _bound_member(file: zipfile.ZipFile, member: zipfile.ZipInfo, left: int, where: str) -> tuple[int, int]:
    """Return how many bytes the other members may still have, and how many tags of XML this one has."""
    is_xml = member.filename.endswith((".xml", ".rels", ".vml"))
    before, tags = b"", 0
    with file.open(member) as opened:
        while chunk := opened.read(CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise ConfigError(Problem.of(where, "cells.too_large", what="bytes", limit=OPENED_BYTES_MAX))
            if is_xml and any(sign in before + chunk for sign in REFUSED_XML):
                raise ConfigError(Problem.of(where, "cells.refused_xml", member=member.filename))
            before = chunk[-OVERLAP_BYTES:]
            tags += chunk.count(b"<") if is_xml else 0
    return left, tags


def _sheets(data: bytes, where: str, rows_max: int,
            choose: Callable[[Sequence[str]], Collection[str]]) -> Iterator[tuple[str, list[Row]]]:
    from openpyxl import load_workbook
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet

    book = load_workbook(io.BytesIO(data), read_only=True, data_only=False, keep_links=False)
    if len(book.sheetnames) > SHEETS_MAX:
        raise ConfigError(Problem.of(where, "cells.too_large", what="sheets", limit=SHEETS_MAX))
    chosen = choose([sheet.title for sheet in book.worksheets])
    left, empty_left = rows_max, EMPTY_ROWS_MAX
    for sheet in book.worksheets:
        if sheet.title not in chosen:
            continue
        rows: list[Row] = []
        empty: object = None
        if isinstance(sheet, ReadOnlyWorksheet):
            sheet.reset_dimensions()  # what the file says of its size is not believed
        for at, cells in enumerate(sheet.iter_rows(max_row=SHEET_ROWS_MAX + 1, max_col=COLUMNS_MAX), 1):
            # Formatted and never filled, down to the last row of a sheet; the library gives one row for all in a gap.
            if cells is empty or all(cell.value is None for cell in cells):
                empty, empty_left = cells, empty_left - 1
            else:
                rows.append(Row(at, [None if cell.value is None else Cell(
                    f"{sheet.title}!{cell.coordinate}", _value(cell.value), cell.data_type == "f", _zeros(cell))
                    for cell in cells]))
            if len(rows) > left or empty_left < 0 or at > SHEET_ROWS_MAX:
                raise ConfigError(Problem.of(where, "cells.too_large", what="rows", limit=rows_max))
        left -= len(rows)
        yield sheet.title, rows


def _zeros(cell: Any) -> int:
    """Return how many digits the format of a cell fills up with zeros: `0000` shows 42 as 0042."""
    if not isinstance(cell.value, int) or isinstance(cell.value, bool):
        return 0
    shown = cell.number_format
    return len(shown) if shown.strip("0") == "" and len(shown) <= ZEROS_MAX else 0


def _value(value: object) -> Value:
    return value if isinstance(value, str | int | float | bool | date | datetime) else str(value)
