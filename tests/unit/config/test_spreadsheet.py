"""Spreadsheets from outside: every limit is held before anything is parsed, and whatever comes is told, not raised."""

from __future__ import annotations

import hashlib
import random
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from openpyxl import Workbook

from config import spreadsheet
from config.spreadsheet import read_sheets, sheets_of
from protocols.errors import ConfigError

SHEET = "xl/worksheets/sheet1.xml"


@pytest.fixture
def honest(tmp_path: Path) -> Path:
    book = Workbook()
    page = book.active
    assert page is not None
    page.title = "一"
    page.append(["a", 1, 2.5, True, None, "=1+1"])
    page["A5"] = "later"
    book.create_sheet("二")
    path = tmp_path / "a.xlsx"
    book.save(path)
    return path


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def _write(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def _codes(path: Path, **limits: int) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_sheets(path, **limits)
    return [problem.code for problem in caught.value.problems]


def test_cells_with_their_places_and_formulas_as_such(honest: Path) -> None:
    sheets, sha256 = read_sheets(honest)
    assert list(sheets) == ["一", "二"] and sheets["二"] == []
    assert sha256 == hashlib.sha256(honest.read_bytes()).hexdigest()
    first, second = sheets["一"]
    assert [first.value(at) for at in range(7)] == ["a", 1, 2.5, True, None, None, None]
    cell = first.cell(5)
    assert cell is not None and cell.formula and cell.place == "一!F1"
    assert second.value(0) == "later" and (first.number, second.number) == (1, 5)


@pytest.mark.parametrize("declaration", [
    b'<!DOCTYPE x [<!ENTITY a "aaaa">]>', b"<!DOCTYPE x>", '<?xml version="1.0"?>'.encode("utf-16")],
    ids=["entity", "doctype", "utf-16"])
@pytest.mark.parametrize("where", [0, (1 << 16) - 4], ids=["start", "across chunks"])
def test_document_types_are_refused_unparsed(honest: Path, declaration: bytes, where: int) -> None:
    members = _members(honest)
    members[SHEET] = b" " * where + declaration + members[SHEET]
    assert _codes(_write(honest, members)) == ["cells.refused_xml"]


def test_macros_are_refused(honest: Path) -> None:
    assert _codes(_write(honest, _members(honest) | {"xl/vbaProject.bin": b"x"})) == ["cells.macros"]


def test_a_bomb_is_refused_by_what_comes_out_of_it(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheet, "OPENED_BYTES_MAX", 4 << 20)
    members = _members(honest) | {"xl/media/image1.png": bytes(5 << 20)}
    assert _codes(_write(honest, members)) == ["cells.too_large"] and honest.stat().st_size < 1 << 16


def test_styles_without_end_are_refused_before_an_object_is_made_of_each(
        honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheet, "TAGS_MAX", 1_000)
    read_sheets(honest)
    members = _members(honest)
    styles = members["xl/styles.xml"].replace(b"</cellXfs>", b"<xf/>" * 1_000 + b"</cellXfs>")
    assert styles != members["xl/styles.xml"]
    assert _codes(_write(honest, members | {"xl/styles.xml": styles})) == ["cells.too_large"]


def test_a_zip_that_lies_about_its_sizes(honest: Path) -> None:
    data = bytearray(_write(honest, _members(honest) | {"x.png": bytes(1 << 16)}).read_bytes())
    real = (1 << 16).to_bytes(4, "little")
    while (at := data.find(real)) >= 0:
        data[at:at + 4] = (5).to_bytes(4, "little")
    honest.write_bytes(data)
    assert _codes(honest) in (["cells.no_spreadsheet"], ["cells.unreadable"])


def test_more_than_fits_is_refused_and_not_cut(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _codes(honest, rows_max=1) == ["cells.too_large"]
    for name, limit in (("FILE_BYTES_MAX", 100), ("MEMBERS_MAX", 3), ("SHEETS_MAX", 1)):
        with monkeypatch.context() as context:
            context.setattr(spreadsheet, name, limit)
            assert _codes(honest) == ["cells.too_large"], name


def test_a_row_far_away_ends_at_the_limit(honest: Path) -> None:
    members = _members(honest)
    members[SHEET] = members[SHEET].replace(b'r="5"', b'r="1048577"').replace(b'r="A5"', b'r="A1048577"')
    assert _codes(_write(honest, members)) == ["cells.too_large"]


def test_rows_that_are_only_formatted_do_not_count(honest: Path) -> None:
    """A column that was formatted as a whole reaches to the last row of the sheet."""
    members = _members(honest)
    members[SHEET] = members[SHEET].replace(b"</sheetData>", b"".join(
        b'<row r="%d"><c r="A%d"/></row>' % (row, row) for row in (6, 1000, 1_048_576)) + b"</sheetData>")
    sheets, _ = read_sheets(_write(honest, members), rows_max=2)
    assert [row.number for row in sheets["一"]] == [1, 5]


def test_only_the_sheet_that_is_wanted_is_read(honest: Path) -> None:
    asked: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        asked.extend(names)
        return ["一"]

    assert list(sheets_of(honest.read_bytes(), where="a.xlsx", choose=choose)) == ["一"] and asked == ["一", "二"]


def test_a_number_shows_the_zeros_of_its_format(tmp_path: Path) -> None:
    book = Workbook()
    page = book.active
    assert page is not None
    page.append([42, 42])
    page["A1"].number_format = "00000"
    book.save(tmp_path / "a.xlsx")
    cells = read_sheets(tmp_path / "a.xlsx")[0]["Sheet"][0].cells
    assert [cell.zeros for cell in cells if cell is not None] == [5, 0]


@pytest.mark.parametrize("member", ["[Content_Types].xml", "xl/workbook.xml"])
def test_a_zip_without_its_parts_is_no_spreadsheet(honest: Path, member: str) -> None:
    members = _members(honest)
    del members[member]
    assert _codes(_write(honest, members)) == ["cells.no_spreadsheet"]


def test_a_part_that_stands_twice_is_refused(honest: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(honest, "a") as file:
        file.writestr(SHEET, b"<worksheet/>")
    assert _codes(honest) == ["cells.no_spreadsheet"]


def test_no_file_and_no_zip(tmp_path: Path) -> None:
    assert _codes(tmp_path / "none.xlsx") == ["verify.file"]
    for data in (b"", b"PK\x03\x04", b"text", bytes(1000)):
        (tmp_path / "a.xlsx").write_bytes(data)
        assert _codes(tmp_path / "a.xlsx") == ["cells.no_spreadsheet"]


@pytest.mark.parametrize("seed", range(80))
def test_whatever_stands_in_the_parts_is_told_and_not_raised(honest: Path, seed: int) -> None:
    """Bytes of one part are changed, dropped or doubled; it is read, or refused with a code of ours."""
    draw = random.Random(seed)
    members = _members(honest)
    name = draw.choice(sorted(members))
    data = bytearray(members[name])
    for _ in range(draw.choice((1, 1, 3, 20))):
        at = draw.randrange(len(data))
        kind = draw.randrange(4)
        if kind == 0:
            data[at] = draw.randrange(1, 128)
        elif kind == 1:
            del data[at:at + draw.randrange(1, 40)]
        elif kind == 2:
            data[at:at] = data[at:at + draw.randrange(1, 40)]
        else:
            data[at:at] = str(draw.choice((-1, 0, 10**9, "x", 1e308))).encode()
        data = data or bytearray(b" ")
    try:
        read_sheets(_write(honest, members | {name: bytes(data)}), rows_max=2000)
    except ConfigError as error:
        assert {problem.code.partition(".")[0] for problem in error.problems} == {"cells"}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_stands_in_the_zip_is_told_and_not_raised(honest: Path, seed: int) -> None:
    draw = random.Random(1000 + seed)
    data = bytearray(honest.read_bytes())
    for _ in range(draw.choice((1, 4))):
        data[draw.randrange(len(data))] = draw.randrange(256)
    if draw.random() < 0.3:
        del data[draw.randrange(len(data)):]
    honest.write_bytes(data)
    try:
        read_sheets(honest, rows_max=2000)
    except ConfigError as error:
        assert {problem.code.partition(".")[0] for problem in error.problems} == {"cells"}


def test_a_missing_library_is_told_before_anything_is_read(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _codes(honest) == ["cells.no_library"]
