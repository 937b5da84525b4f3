"""The report as a spreadsheet: it says what the JSON says, as numbers and texts, and hostile names stay texts."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook, load_workbook

from protocols.errors import ConfigError
from tallystick.__main__ import main
from tallystick.words.lookup import Words
from tests.support.plant_fixture import Plant, claim_text
from verifier.conformance.world import USCC
from verifier.report.identity import result_sha256, verification_code
from verifier.report.progress import CLEAR, Progress
from verifier.report.xlsx import long_table, write_report
from verifier.report.xlsx_book import CELL_CHARS_MAX, TOLD_ROWS, Book, Column, cell_text, lines_of

HOSTILE = ('=HYPERLINK("http://x","y")', "+1+1", "-2", "@SUM(A1)", "\t=1", "\r\n=1", "http://example.org", "{=1}",
           "00012", "x\u202etxt.exe\x07")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON of an audit of devices with hostile names, three that do not count, and the bytes that were printed."""
    folder = tmp_path_factory.mktemp("xlsx")
    plant = Plant(folder)
    for at, name in enumerate(HOSTILE):
        plant.device(points=2, model=f"M{at % 3}", opened=True, title=name,
                     **{"class": "machine_tools" if at % 2 else None, "region": f"3{at % 2}0100"})
    plant.device(role="heartbeat", opened=True, title="=1+1")
    plant.device(silent=True)
    plant.device(thing="infrastructure")
    bundle, policy, claim = plant.seal(), plant.policy(), folder / "claim.toml"
    claim.write_text(claim_text(plant.gateway.now_s, USCC, device_connected_count=12, point_count=20), encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        main(["audit", str(claim), "--programme", "jiangsu_2019", "--type", "enterprise", str(bundle), "--policy",
              str(policy), "--json"])
    return json.loads(printed.getvalue()), printed.getvalue()


@pytest.fixture(scope="module", params=["zh", "en"])
def report(request: pytest.FixtureRequest, audited: tuple[dict[str, Any], str],
           tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Words, Path]:
    path = tmp_path_factory.mktemp("book") / f"{request.param}.xlsx"
    write_report(path, audited[0], Words(request.param))
    return audited[0], Words(request.param), path


def _cells(book: Workbook) -> Iterator[Any]:
    for sheet in book.worksheets:
        for row in sheet.iter_rows():
            yield from row


def test_every_device_stands_in_one_of_the_two_lists(report: tuple[dict[str, Any], Words, Path]) -> None:
    result, say, path = report
    book = load_workbook(path)
    for name, counted in (("sheet.counted", True), ("sheet.not_counted", False)):
        rows = [row for row in book[say(name)].iter_rows(values_only=True) if isinstance(row[0], int)]
        told = [d for d in result["count"]["devices"] if (d["reason"] is None) == counted]
        assert [row[1] for row in rows] == [f"{d['gateway']}:{d['slot']}" for d in told]
        assert [row[0] for row in rows] == list(range(1, len(told) + 1))
        if not counted:
            assert [row[-1] for row in rows] == [say(f"reason.{d['reason']}") for d in told] and len(rows) == 3


def test_hostile_names_are_texts_and_no_formula_is_in_the_book(report: tuple[dict[str, Any], Words, Path]) -> None:
    _, _, path = report
    book = load_workbook(path)
    assert {cell.data_type for cell in _cells(book)} <= {"n", "s", "b", "inlineStr"}
    shown = {cell.value for cell in _cells(book) if cell.value is not None}
    assert {cell_text(name) for name in HOSTILE} <= shown
    looked_at = ("+1+1", "-2", "@SUM(A1)", "00012")
    quoted = {cell.value: cell.quotePrefix for cell in _cells(book) if cell.value in looked_at}
    assert quoted == {"+1+1": True, "-2": True, "@SUM(A1)": True, "00012": False}
    with zipfile.ZipFile(path) as file:
        sheets = [name for name in file.namelist() if name.startswith("xl/worksheets/")]
        assert sum(name.endswith(".xml") for name in sheets) >= 6
        for name in sheets:
            text = file.read(name).decode()
            assert "<f>" not in text and "<hyperlink" not in text and "relationships/hyperlink" not in text, name


def test_figures_are_numbers_and_splits_add_up(report: tuple[dict[str, Any], Words, Path]) -> None:
    result, say, path = report
    book = load_workbook(path)
    summary = {str(row[0]).split("\n")[0]: row for row in book[say("sheet.summary")].iter_rows(values_only=True)}
    figures = result["count"]["figures"]
    for name in ("configured", "connected", "producing", "changing", "counted"):
        assert summary[say(f"sheet.devices.{name}")][1] == figures["devices"][name]
    for metric in result["metrics"]:
        field, own = metric["field"], metric["zh" if say.lang == "zh" else "en"]
        row = summary[own if not field else field if say.lang == "zh" else f"{field}: {own}"]
        assert list(row[1:3]) == ["—" if metric[key] is None else metric[key] for key in ("claimed", "proven")]
    sums = [row[2] for row in book[say("sheet.splits")].iter_rows(values_only=True) if row[0] == say("printed.sum")]
    assert sums == [figures["devices"]["counted"]] * len(figures["splits"]) and len(sums) >= 7
    with zipfile.ZipFile(path) as file:
        assert sum(name.startswith("xl/charts/chart") for name in file.namelist()) == 2


def test_every_rule_finding_and_limit_is_told(report: tuple[dict[str, Any], Words, Path]) -> None:
    result, say, path = report
    book = load_workbook(path)
    assert {row[0] for row in book[say("sheet.rules")].iter_rows(min_row=3, values_only=True)} == {
        rule["id"] for rule in result["rules"]}
    codes = {row[3] for row in book[say("sheet.findings")].iter_rows(min_row=3, values_only=True)}
    assert codes >= {finding["code"] for finding in (*result["findings"], *result["count"]["findings"])}
    basis = "\n".join(str(cell.value) for row in book[say("sheet.basis")].iter_rows() for cell in row if cell.value)
    assert all(say(code) in basis for code in result["count"]["limits"])
    assert all(bundle["sha256"] in basis for bundle in result["count"]["bundles"])


def test_the_page_is_a4_with_its_head_and_its_number_on_every_page(report: tuple[dict[str, Any], Words, Path]) -> None:
    _, say, path = report
    for sheet in load_workbook(path).worksheets:
        assert sheet.page_setup.paperSize == 9 and sheet.page_setup.fitToHeight == 0
        footer = sheet.oddFooter.center.text
        assert "&P" in footer and "&N" in footer
    counted = load_workbook(path)[say("sheet.counted")]
    assert counted.print_title_rows == "$2:$2" and counted.freeze_panes == "A3" and counted.auto_filter.ref == "A2:L12"


def test_the_digest_and_its_code_are_those_of_the_printed_json(report: tuple[dict[str, Any], Words, Path],
                                                               audited: tuple[dict[str, Any], str]) -> None:
    _, say, path = report
    digest = hashlib.sha256(audited[1].encode()).hexdigest()
    assert result_sha256(audited[0]) == digest
    book = load_workbook(path)
    values = {cell.value for row in book[say("sheet.summary")].iter_rows() for cell in row}
    assert {digest, verification_code(digest)} <= values
    assert all(verification_code(digest) in sheet.oddFooter.center.text for sheet in book.worksheets)


def test_the_same_result_gives_the_same_bytes(audited: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    first, second = tmp_path / "a.xlsx", tmp_path / "b.xlsx"
    for path in (first, second):
        write_report(path, audited[0], Words("zh"))
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as file:
        at = datetime.fromtimestamp(audited[0]["claim"]["at_s"], UTC)
        assert f"{at.astimezone().year}" in file.read("docProps/core.xml").decode()


def test_a_book_that_cannot_be_written_is_a_problem_with_its_place_and_leaves_nothing(
        audited: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write_report(tmp_path / "missing" / "a.xlsx", audited[0], Words("zh"))
    assert [problem.code for problem in caught.value.problems] == ["forms.unwritten"]
    broken = dict(audited[0]) | {"rules": [{"id": "no rule"}]}
    with pytest.raises(KeyError):
        write_report(tmp_path / "a.xlsx", broken, Words("zh"))
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_is_too_long_for_a_sheet_goes_on_on_the_next(tmp_path: Path) -> None:
    columns = (Column(title="n", kind="count"), Column(title="t"))
    with Book(tmp_path / "a.xlsx", title="t", created=datetime(2026, 1, 1, tzinfo=UTC), footer="f") as book:
        long_table(book, "list", columns, ((n, f"t{n}") for n in range(25)), title="list", rows_max=10)
        long_table(book, "none", columns, (), title="none", rows_max=10)
    read = load_workbook(tmp_path / "a.xlsx")
    assert read.sheetnames == ["list", "list (2)", "list (3)", "none"]
    rows = [row for sheet in read.worksheets[:3] for row in sheet.iter_rows(min_row=3, values_only=True)]
    assert [row[0] for row in rows] == [*range(25)]


@pytest.mark.parametrize(("text", "expected"), [
    ("铸造机 1", "铸造机 1"), ("a\x00b", "a\\x00b"), ("a\nb", "a\nb"), ("\ud800", "\\ud800"), ("x" * 40_000,
     "x" * CELL_CHARS_MAX + "…")], ids=["plain", "control", "line", "surrogate", "long"])
def test_a_cell_holds_what_can_be_seen(text: str, expected: str) -> None:
    assert cell_text(text) == expected


def test_a_chinese_character_is_two_wide() -> None:
    assert [lines_of(text, 11) for text in ("", "a" * 10, "a" * 11, "中" * 5, "中" * 6, "a\nb")] == [1, 1, 2, 1, 2, 2]


@pytest.mark.parametrize("watched", [True, False], ids=["terminal", "nobody"])
def test_a_terminal_is_told_how_far_it_is_and_the_line_goes_away(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: bool) -> None:
    told = io.StringIO()
    monkeypatch.setattr(told, "isatty", lambda: watched)
    monkeypatch.setattr("sys.stderr", told)
    with Book(tmp_path / "a.xlsx", title="t", created=datetime(2026, 1, 1, tzinfo=UTC), footer="f",
              progress=Progress(Words("en"))) as book:
        long_table(book, "list", (Column(title="n", kind="count"),), ((n,) for n in range(2 * TOLD_ROWS)), title="list")
    assert (told.getvalue() == CLEAR + Words("en")("forms.progress.rows", rows=TOLD_ROWS) + CLEAR) == watched
    assert watched or not told.getvalue()
