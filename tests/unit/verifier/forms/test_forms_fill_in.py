"""The fill-in sheet: what is asked, in form order; filled in, it is the claim that a claim file would have been."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook

from config.programme import PROGRAMMES, load_programme
from config.spreadsheet import Cell, Row
from protocols.errors import ConfigError
from tallystick.__main__ import main
from tallystick.words.lookup import Words
from tests.support.domain import domain
from tests.support.plant_fixture import Plant
from verifier.audit.claim import field_name, load_claim
from verifier.audit.claim_cells import cell_named
from verifier.audit.claim_sheet import FILE, KEY, NAME, PART, PROVEN, REQUIRED, SHA256, VALUE, load_claim_sheet
from verifier.audit.divisions import division
from verifier.conformance.world import USCC
from verifier.forms.fill_in import asked_for, grouped_metrics, splits_for

SAY = Words("zh")
TYPES = [(key, item.key) for key in PROGRAMMES for item in load_programme(key).data.types]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    made = Plant(tmp_path_factory.mktemp("fill"))
    for at in range(6):
        made.device(points=2, **{"class": ("machine_tools", "power_equipment")[at % 2], "region": "360100"})
    made.seal()
    made.policy()
    return made


def _run(*arguments: str | Path) -> tuple[int, str, str]:
    told, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(printed):
        status = main(["--lang", "zh", *map(str, arguments)])
    return status, printed.getvalue(), told.getvalue()


def _form(plant: Plant, folder: Path, programme: str, kind: str) -> Path:
    out = folder / "form.xlsx"
    status, _, told = _run("export", plant.folder / "X.tally", "--list", "form", "--programme", programme, "--type",
                           kind, "--policy", plant.folder / "policy.json", "-o", out)
    assert status == 0, told
    return out


def _fill(path: Path, values: dict[str, Any], parts: dict[tuple[str, str], Any] | None = None) -> None:
    """Fill cells by key: of key -> value, or {column: value}; of (key, part) -> value."""
    book = load_workbook(path)
    left = set(values) | set(parts or {})
    for sheet in book.worksheets:
        for row in sheet.iter_rows():
            key, part = row[KEY].value, row[PART].value
            if key in values:
                told = values[key] if isinstance(values[key], dict) else {VALUE: values[key]}
                for column, value in told.items():
                    row[column].value = value
                left.discard(key)
            if parts and (key, part) in parts:
                row[VALUE].value = parts[key, part]
                left.discard((key, part))
    assert not left, left
    book.save(path)


@pytest.mark.parametrize(("programme", "kind"), TYPES, ids=lambda value: value)
def test_every_figure_that_a_type_needs_is_asked_for_once(plant: Plant, tmp_path: Path, programme: str,
                                                          kind: str) -> None:
    known = load_programme(programme)
    of = known.type_named(kind)
    asked = asked_for(known, of)
    keys = [one.metric for one in asked]
    assert len(set(keys)) == len(keys)
    fields = [item for item in known.data.fields if item.by is None and kind in (*item.required, *item.optional)]
    assert keys[:len(fields)] == [item.metric for item in fields]  # in form order
    assert [one.number for one in asked[:len(fields)]] == [field_name(f).split()[0] for f in fields]
    wanted = {key for rule in known.data.rules_of(kind) for key in rule.metric_keys()}
    assert wanted <= set(keys)
    book = load_workbook(_form(plant, tmp_path, programme, kind))
    rows = [row for sheet in book.worksheets for row in sheet.iter_rows(values_only=True) if row[0]]
    assert [row[0] for row in rows if str(row[0]).startswith("metrics.")] == [f"metrics.{key}" for key in keys]
    required = {row[0].removeprefix("metrics."): row[REQUIRED] for row in rows if str(row[0]).startswith("metrics.")}
    assert {key for key, word in required.items() if word == SAY("forms.fill.must")} == {
        item.metric for item in fields if kind in item.required}
    proven = {row[0]: row[PROVEN] for row in rows if str(row[0]).startswith("metrics.") and row[PROVEN] is not None}
    if "device_connected_count" in keys:
        assert proven["metrics.device_connected_count"] == 6
    assert all(known.metrics[key.removeprefix("metrics.")].evidence == "proven" for key in proven)
    for metric, by in splits_for(known, of):
        assert any(row[0] == f"splits.{metric}.{by}" for row in rows)
    divisions, grouped = grouped_metrics(known, of)
    head = [row for row in rows if row[0] == "groups"]
    assert [list(row[3:3 + len(grouped)]) for row in head] == ([grouped] if divisions else [])


def test_the_jiangxi_form_has_the_numbers_of_the_domain() -> None:
    told = domain("jiangxi_2024.yaml")["required_fields"]
    known = load_programme("jiangxi_2024")
    for kind, numbers in told["by_type"].items():
        required = [one for one in asked_for(known, known.type_named(kind)) if one.required]
        assert [one.number.strip("()（）") for one in required] == [str(number) for number in numbers]
        assert [one.metric for one in required] == [told["fields"][number]["metric"] for number in numbers]


FILLED = {"claim.enterprise.name": "示范压铸有限公司", "metrics.device_connected_count": 6,
          "metrics.point_count": "12 ", "metrics.industrial_app_count": "1,012",
          "metrics.service_contract_amount_cumulative": 12.5,
          "metrics.integrated_application_count": "１２", "metrics.migrated_software_count": 3.0}
PARTS = {("splits.device_connected_count.class", "machine_tools"): 3,
         ("splits.device_connected_count.class", "power_equipment"): "3",
         ("splits.device_connected_count.city", "nanchang"): 6}


def _claim_file(plant: Plant, folder: Path, sha256: str) -> Path:
    path = folder / "claim.toml"
    path.write_text(f"""
[claim]
programme = "jiangxi_2024"
type = "enterprise"
at = 2026-09-21T22:16:00+08:00
[claim.enterprise]
name = "示范压铸有限公司"
uscc = "{USCC}"
[metrics]
device_connected_count = 6
point_count = 12
industrial_app_count = 1012
service_contract_amount_cumulative = 12.5
integrated_application_count = 12
migrated_software_count = 3
[[splits]]
metric = "device_connected_count"
by = "class"
parts = {{ power_equipment = 3, machine_tools = 3 }}
[[splits]]
metric = "device_connected_count"
by = "city"
parts = {{ nanchang = 6 }}
[[documents]]
metric = "industrial_app_count"
file = "清单.pdf"
sha256 = "{sha256}"
""", encoding="utf-8")
    return path


def test_a_sheet_filled_in_is_the_claim_of_a_claim_file(plant: Plant, tmp_path: Path) -> None:
    """Also the audit's JSON is the same, but for the digest of the claim."""
    sheet = _form(plant, tmp_path, "jiangxi_2024", "enterprise")
    (tmp_path / "清单.pdf").write_bytes(b"apps")
    sha256 = hashlib.sha256(b"apps").hexdigest()
    shown = " ".join(sha256[at:at + 8] for at in range(0, 64, 8)).upper()
    _fill(sheet, FILLED | {"metrics.industrial_app_count": {VALUE: "1,012", FILE: "清单.pdf", SHA256: shown}}, PARTS)
    claim = _claim_file(plant, tmp_path, sha256)
    programme = load_programme("jiangxi_2024")
    read, file = load_claim_sheet(sheet, programme), load_claim(claim, programme)
    assert read.at_s == file.at_s == plant.gateway.now_s
    assert read.metrics == file.metrics and read.documents == file.documents and read.table == file.table
    assert {(one.metric, one.by): dict(one.parts) for one in read.splits} == {
        (one.metric, one.by): dict(one.parts) for one in file.splits}
    assert [one.state for one in read.documents] == ["matches"]
    assert read.sha256 == hashlib.sha256(sheet.read_bytes()).hexdigest()
    told = []
    for path in (sheet, claim):
        status, printed, error = _run("audit", path, plant.folder / "X.tally", "--programme", "jiangxi_2024", "--type",
                                      "enterprise", "--policy", plant.folder / "policy.json", "--json")
        assert status in (0, 1), error
        value = json.loads(printed)
        value["count"]["digests"]["claim"] = ""
        told.append((status, value))
    assert told[0][0] == told[1][0]
    assert {key: (told[0][1][key], value) for key, value in told[1][1].items() if told[0][1][key] != value} == {}


def test_groups_branch_and_yes_or_no_are_read(plant: Plant, tmp_path: Path) -> None:
    sheet = _form(plant, tmp_path, "jiangsu_2019", "comprehensive")
    programme = load_programme("jiangsu_2019")
    book = load_workbook(sheet)
    page = book[SAY("forms.fill.sheet.groups")]
    rows = [row for row in page.iter_rows() if row[KEY].value == "group"]
    head = next([cell.value for cell in row] for row in page.iter_rows() if row[KEY].value == "groups")
    parts = division("industry", programme.data.divisions).parts()
    for row, name in zip(rows, (parts[0].key, parts[1].name_zh), strict=False):
        row[PART].value, row[NAME].value = f"industry {SAY('forms.by.industry')}", name
        row[head.index("point_count")].value = 5
    book.save(sheet)
    _fill(sheet, {"claim.enterprise.name": "示范", "claim.branch": f"discrete {SAY('mode.discrete')}",
                  "metrics.graphical_development": "是"})
    claim = load_claim_sheet(sheet, programme)
    assert [(one.by, one.key, dict(one.metrics)) for one in claim.groups] == [
        ("industry", part.key, {"point_count": 5}) for part in parts[:2]]
    assert claim.metrics["graphical_development"] is True and claim.table.branch == "discrete"


def test_all_that_is_wrong_is_told_at_once_by_its_number_in_the_form(plant: Plant, tmp_path: Path) -> None:
    sheet = _form(plant, tmp_path, "jiangxi_2024", "comprehensive")
    _fill(sheet, {
        "claim.enterprise.name": "示范", "claim.enterprise.uscc": "91320000MA1XYRAB30", "claim.at": "2024-06-14T10:00",
        "metrics.device_connected_count": "很多", "metrics.protocol_count": -1, "metrics.point_count": 12.5,
        "metrics.solution_count": "=1+1", "metrics.covered_domain_count": True})
    status, _, told = _run("audit", sheet, plant.folder / "X.tally", "--programme", "jiangxi_2024", "--type",
                           "comprehensive", "--policy", plant.folder / "policy.json")
    assert status == 2 and "Traceback" not in told
    known = {item.metric: field_name(item) for item in load_programme("jiangxi_2024").data.fields if item.by is None}
    for metric in ("device_connected_count", "protocol_count", "point_count", "solution_count", "covered_domain_count",
                   "industrial_app_count", "mechanism_model_count", "served_area_count"):
        assert known[metric] in told, metric
    assert f"{SAY('forms.fill.sheet.metrics')}!E10: {SAY('sheet_claim.formula')}" in told
    assert told.count("!E10") == 1 and "[metrics]" not in told and "tallystick init" not in told
    with pytest.raises(ConfigError) as caught:
        load_claim_sheet(sheet, load_programme("jiangxi_2024"))
    assert {"audit.bad_uscc", "audit.no_zone", "sheet_claim.formula", "sheet_claim.field_missing"} <= {
        problem.code for problem in caught.value.problems}


def _cells(sheet: Path, programme: str) -> dict[str, str]:
    """Return cell -> code of all that is wrong with a sheet."""
    with pytest.raises(ConfigError) as caught:
        load_claim_sheet(sheet, load_programme(programme))
    told = {cell_named(problem): problem.code for problem in caught.value.problems}
    assert len(told) == len(caught.value.problems), "a cell is told once"
    for problem in caught.value.problems:
        hint = SAY.tell(problem.code, **dict(problem.args)).fix
        assert hint and "{" not in hint and "[[" not in hint and "TOML" not in hint, problem
    return told


def test_each_kind_of_mistake_is_named_by_its_cell(plant: Plant, tmp_path: Path) -> None:
    sheet = _form(plant, tmp_path, "jiangxi_2024", "comprehensive")
    figures, split = SAY("forms.fill.sheet.metrics"), SAY("forms.fill.sheet.split", number=1)
    _fill(sheet, {
        "claim.enterprise.name": " ", "metrics.device_connected_count": "很多", "metrics.point_count": 12.5,
        "metrics.protocol_count": -1, "metrics.industrial_app_count": {VALUE: 3, FILE: "清单.pdf"},
        "metrics.mechanism_model_count": {VALUE: 3, SHA256: "ab"},
        "metrics.served_area_count": {KEY: "metrics.served_area", VALUE: 3},
    }, {("splits.device_connected_count.class", "machine_tools"): "三"})
    told = _cells(sheet, "jiangxi_2024")
    assert {cell: code for cell, code in told.items() if code != "sheet_claim.field_missing"} == {
        f"{SAY('forms.fill.sheet.claim')}!E6": "sheet_claim.empty", f"{figures}!E3": "sheet_claim.not_whole",
        f"{figures}!E4": "sheet_claim.not_whole", f"{figures}!E8": "config.out_of_range",
        f"{figures}!J5": "sheet_claim.no_sha256", f"{figures}!J9": "sheet_claim.bad_sha256",
        f"{figures}!I9": "sheet_claim.empty", f"{figures}!A13": "sheet_claim.key",
        f"{split}!E11": "sheet_claim.not_number", "(11) 服务区域数": "sheet_claim.row_missing"}
    assert told[f"{figures}!E6"] == "sheet_claim.field_missing"


KEYS = ("splits", "splits.", "splits.device_connected_count", "splits.a.b.c", "splits.device_connected_count.class",
        "group", "groups", "documents", "explanations.x", "explanation.x", "explanation.a.b", "metrics", "metrics.x",
        "ledger.x", "ledger.date", "claim", "claim.x", "claim.at", "claim.enterprise.x", "claim.enterprise.uscc")
VALUES = (None, "x", 3, -1.5, True, "=1", "a, b", "")


def test_whatever_stands_in_a_sheet_is_told_and_nothing_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with keys that no sheet has, in any order, with anything in their cells."""
    programme, rng = load_programme("jiangsu_2019"), random.Random(4)
    for _ in range(100):
        rows = []
        for number in range(1, 12):
            told = [rng.choice(KEYS), *(rng.choice(VALUES) for _ in range(9))]
            rows.append(Row(number, [None if value is None else Cell(f"S!{chr(65 + at)}{number}", value)
                                     for at, value in enumerate(told)]))
        monkeypatch.setattr("verifier.audit.claim_sheet.read_sheets", lambda path, rows=rows: ({"S": rows}, "0" * 64))
        with pytest.raises(ConfigError) as caught:
            load_claim_sheet(Path("s.xlsx"), programme)
        for problem in caught.value.problems:
            assert problem.where.startswith("s.xlsx, "), problem
            assert SAY.tell(problem.code, **dict(problem.args)).text != problem.code


def test_what_the_programme_does_not_know_is_named_by_its_cell(plant: Plant, tmp_path: Path) -> None:
    sheet = _form(plant, tmp_path, "jiangxi_2024", "enterprise")
    _fill(sheet, {**FILLED, "metrics.industrial_app_count": {VALUE: 3, FILE: "../x.pdf", SHA256: "1" * 64}})
    book = load_workbook(sheet)
    rows = {(row[KEY].value, row[PART].value): row for page in book.worksheets for row in page.iter_rows()}
    row = rows["splits.device_connected_count.city", "nanchang"]
    row[PART].value, row[VALUE].value = "atlantis", 3
    row = rows["documents", None]
    row[PART].value, row[FILE].value, row[SHA256].value = "no_such_figure", "a.pdf", "2" * 64
    book.save(sheet)
    told = _cells(sheet, "jiangxi_2024")
    assert sorted(told.values()) == ["audit.claim_bad_file", "audit.claim_no_part", "sheet_claim.no_figure"]
    assert all("!" in cell for cell in told)


def test_mistakes_in_groups_are_named_by_their_cells(plant: Plant, tmp_path: Path) -> None:
    sheet, groups = _form(plant, tmp_path, "jiangsu_2019", "comprehensive"), SAY("forms.fill.sheet.groups")
    _fill(sheet, {"claim.enterprise.name": "示范", "claim.branch": "mixed", "metrics.graphical_development": "maybe"})
    book = load_workbook(sheet)
    rows = [row for row in book[groups].iter_rows() if row[KEY].value == "group"]
    for row, (by, name, value) in zip(rows, [
            (None, None, 5), ("industry", "机械", "x"), ("region", "南京", 3), ("industry", None, 3)], strict=False):
        row[PART].value, row[NAME].value, row[3].value = by, name, value
    book.save(sheet)
    first = rows[0][KEY].row
    assert {cell: code for cell, code in _cells(sheet, "jiangsu_2019").items()
            if code != "sheet_claim.field_missing"} == {
        f"{SAY('forms.fill.sheet.claim')}!E8": "config.not_one_of",
        f"{SAY('forms.fill.sheet.metrics')}!E30": "sheet_claim.not_yes_no",
        f"{groups}!B{first}": "sheet_claim.unnamed_group", f"{groups}!D{first + 1}": "sheet_claim.not_whole",
        f"{groups}!B{first + 2}": "sheet_claim.no_division", f"{groups}!C{first + 3}": "sheet_claim.empty"}


def test_a_field_left_empty_is_a_fault_with_its_cell(plant: Plant, tmp_path: Path) -> None:
    sheet = _form(plant, tmp_path, "jiangxi_2024", "enterprise")
    _fill(sheet, {"claim.enterprise.name": "示范", "metrics.device_connected_count": 6, "metrics.point_count": 12})
    status, printed, _ = _run("audit", sheet, plant.folder / "X.tally", "--programme", "jiangxi_2024", "--type",
                              "enterprise", "--policy", plant.folder / "policy.json", "--json")
    where = [f["where"] for f in json.loads(printed)["findings"] if f["code"] == "audit.field_missing"]
    assert status == 1 and where[0] == f"(3) 工业APP数, {SAY('forms.fill.sheet.metrics')}!E5"


def test_a_sheet_that_is_not_ours_and_one_that_is_no_sheet(plant: Plant, tmp_path: Path) -> None:
    from openpyxl import Workbook

    path = tmp_path / "other.xlsx"
    Workbook().save(path)
    with pytest.raises(ConfigError) as caught:
        load_claim_sheet(path, load_programme("jiangxi_2024"))
    assert [problem.code for problem in caught.value.problems] == ["sheet_claim.not_ours"]
    path.write_bytes(b"[claim]\n")
    status, _, told = _run("audit", path, plant.folder / "X.tally", "--programme", "jiangxi_2024", "--type",
                           "comprehensive", "--policy", plant.folder / "policy.json")
    assert status == 2 and SAY("cells.no_spreadsheet") in told


def test_dates_that_a_spreadsheet_made_are_read_as_the_sheet_says(plant: Plant, tmp_path: Path) -> None:
    from datetime import datetime

    sheet = _form(plant, tmp_path, "jiangxi_2024", "enterprise")
    _fill(sheet, FILLED | {"claim.at": datetime(2026, 9, 21, 22, 16)}, PARTS)
    assert load_claim_sheet(sheet, load_programme("jiangxi_2024")).at_s == plant.gateway.now_s


def test_only_what_is_to_be_filled_in_can_be_changed(plant: Plant, tmp_path: Path) -> None:
    book = load_workbook(_form(plant, tmp_path, "jiangxi_2024", "enterprise"))
    for sheet in book.worksheets[1:-1]:
        assert sheet.protection.sheet
        for row in sheet.iter_rows():
            assert row[KEY].protection.locked
            if row[KEY].value and str(row[KEY].value).startswith("metrics."):
                assert not row[VALUE].protection.locked and row[PROVEN].protection.locked


def test_an_exported_list_and_a_sheet_filled_in_go_into_an_audit_and_its_spreadsheet(tmp_path: Path) -> None:
    """Two rows of one machine, a list that claims both, a document, splits: each has its sheet, row by row."""
    made = Plant(tmp_path)
    for at in range(4):
        made.device(points=3, opened=True, serial="SN" if at < 2 else None,
                    **{"class": "machine_tools", "region": "360100"})
    made.seal()
    made.policy()
    sheet = _form(made, tmp_path, "jiangxi_2024", "enterprise")
    (tmp_path / "清单.pdf").write_bytes(b"apps")
    document = {VALUE: 10, FILE: "清单.pdf", SHA256: hashlib.sha256(b"apps").hexdigest()}
    _fill(sheet, {"claim.enterprise.name": "示范", "metrics.device_connected_count": 4, "metrics.point_count": 12,
                  "metrics.industrial_app_count": document, "metrics.service_contract_amount_cumulative": 1,
                  "metrics.integrated_application_count": 1, "metrics.migrated_software_count": 1},
          {("splits.device_connected_count.class", "machine_tools"): 4})
    listed, report = tmp_path / "devices.xlsx", tmp_path / "audit.xlsx"
    options = (made.folder / "X.tally", "--programme", "jiangxi_2024", "--policy", made.folder / "policy.json")
    assert _run("export", *options, "--list", "devices", "-o", listed)[0] == 0
    book = load_workbook(listed)
    page = book[SAY("forms.sheet.devices")]
    column = [cell.value for cell in page[3]].index("设备ID") + 1
    twin = f"{made.gateway.id}:1"
    page.cell(row=page.max_row + 1, column=column, value=twin)
    book.remove(book[SAY("forms.sheet.left_out")])
    book.save(listed)
    status, printed, error = _run("audit", sheet, *options, "--type", "enterprise", "--devices", listed, "--report",
                                  report, "--json")
    assert status == 1, error
    result = json.loads(printed)
    assert (result["claimed_list"]["matched"], len(result["claimed_list"]["only_in_list"])) == (3, 1)
    found = load_workbook(report)

    def rows(name: str) -> list[tuple[Any, ...]]:
        return list(found[SAY(name)].iter_rows(values_only=True))

    differs = rows("sheet.listed")[3]
    assert differs[1] == twin and SAY("reason.duplicate_identity") in differs[3]
    machines = rows("sheet.duplicates")[2:]
    assert [row[3] for row in machines] == [f"{made.gateway.id}:{slot}" for slot in (0, 1)]
    assert machines[0][6] == SAY("duplicates.counts_first") and machines[1][6] == SAY("reason.duplicate_identity")
    assert rows("sheet.documents")[2][2:] == ("清单.pdf", document[SHA256], SAY("told.document.matches"))
    split = [row for row in rows("sheet.claimed_splits") if row[0] == SAY("printed.sum")]
    assert split == [(SAY("printed.sum"), 4, 3, 1)]
    summary = {str(row[0]): row for row in rows("sheet.summary")}
    assert summary["(1) 接入设备数"][1:4] == (4, 3, 1)
    stages = {row[0]: row for row in rows("sheet.stages")}
    told = next(metric for metric in result["metrics"] if metric["key"] == "device_connected_count")
    assert stages[told["zh"]][1:6] == tuple(told["stages"][name] for name in (
        "configured", "connected", "producing", "changing", "counted"))
