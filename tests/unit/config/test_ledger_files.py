"""The ledger as spreadsheets write it, and templates: what must load does, what is wrong is told by row and cell."""

from __future__ import annotations

import hashlib
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from config import ledger
from config.gateway import GatewayConfig, load_gateway
from protocols.errors import ConfigError
from tests.support.source import ROOT

DOCUMENT = ROOT / "docs" / "configuration.md"

TOML = """[gateway]
site = "S"
uscc = "91320594MAEXAMPLEB"
ledger_date = 2026-11-01
{more}
[[connections]]
name = "line"
protocol = "modbus_tcp"
endpoint = "tcp://192.0.2.1:502"

[[connections]]
name = "broker"
protocol = "mqtt"
endpoint = "mqtt://192.0.2.1:1883"
"""
DEVICES = ["id", "name", "maker", "model", "serial", "asset", "class", "industry", "uscc", "region", "thing",
           "deployment", "energy", "parent", "connection"]
POINTS = ["device", "id", "address", "type", "role", "order", "scale", "offset"]
TEMPLATES = ["template", "id", "address", "type", "role"]


def device(id_: str, connection: str = "line", **more: str) -> dict[str, str]:
    return {"id": id_, "name": "冲压机", "thing": "equipment", "energy": "是", "connection": connection, **more}


def text(columns: list[str], rows: list[dict[str, str]], sign: str = ",") -> str:
    header = [*columns, *sorted({name for row in rows for name in row} - set(columns))]
    return "\r\n".join([sign.join(header), *(sign.join(row.get(name, "") for name in header) for row in rows)]) + "\r\n"


def folder(tmp_path: Path, devices: str | bytes, points: str | bytes | None = None, templates: str | None = None,
           more: str = "") -> Path:
    def write(name: str, content: str | bytes | None) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)

    write("devices.csv", devices)
    write("points.csv", points)
    write("templates.csv", templates)
    more += 'templates = "templates.csv"\n' if templates is not None else ""
    write("gateway.toml", TOML.replace("{more}", more))
    return tmp_path / "gateway.toml"


def problems(file: Path) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        load_gateway(file)
    return [(problem.where, problem.code) for problem in caught.value.problems]


def addresses(config: GatewayConfig) -> dict[str, list[str]]:
    return {device.id: [p.address.canonical for p in config.points if p.device == device.id]
            for device in config.devices}


ROWS = [device("d1", name="一号"), device("d2", serial="SN-1")]
POINT_ROWS = [{"device": "d1", "id": "p", "address": "1/holding/0", "type": "uint16", "role": "parameter"},
              {"device": "d2", "id": "p", "address": "2/holding/0", "type": "uint16", "role": "parameter",
               "scale": "0.1"}]


@pytest.mark.parametrize("sign", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_a_csv_as_a_spreadsheet_program_writes_it(tmp_path: Path, encoding: str, sign: str) -> None:
    name = "冲压机" if sign == "\t" else f"冲压机{sign}一号"
    rows = [ROWS[0] | {"name": f'"{name}"'}, ROWS[1]]
    file = folder(tmp_path, text(DEVICES, rows, sign).encode(encoding), text(POINTS, POINT_ROWS, sign).encode(encoding))
    config = load_gateway(file)
    assert [d.name for d in config.devices] == [name, "冲压机"]
    assert [p.scale for p in config.points] == [1.0, 0.1]


@pytest.mark.parametrize("change", [
    lambda csv: csv + ",,,\r\n" * 40 + " , \r\n\r\n",
    lambda csv: csv.replace("role,order,scale,offset", "role,order,scale,offset,,").replace("\r\n", ",,\r\n"),
    lambda csv: csv.replace("parameter,,,\r\n", "parameter\r\n"),
    lambda csv: "sep=,\r\n" + csv,
    lambda csv: csv.replace("\r\n", "\n"),
    lambda csv: csv.replace("\r\n", "\r"),
    lambda csv: csv.replace("d1,p", " d1 ,　p"),
], ids=["empty rows", "empty columns", "last cells left out", "sep=", "LF", "CR", "blanks"])
def test_what_does_no_harm(tmp_path: Path, change: Any) -> None:
    csv = text(POINTS, POINT_ROWS)
    assert change(csv) != csv
    config = load_gateway(folder(tmp_path, text(DEVICES, ROWS), change(csv)))
    assert [(p.device, p.id, p.scale) for p in config.points] == [("d1", "p", 1.0), ("d2", "p", 0.1)]


def test_what_a_spreadsheet_spoilt_in_a_csv_is_told_by_cell(tmp_path: Path) -> None:
    rows = [device("d1", serial="9.13206E+17"), device("d2", asset="#REF!"), device("d3", thing="")]
    csv = "sep=,\r\n" + text(DEVICES, rows)
    assert problems(folder(tmp_path, csv, text(POINTS, []))) == [
        ("devices.csv, line 3 (d1), serial", "ledger.rounded"), ("devices.csv, line 4, asset", "ledger.formula"),
        ("devices.csv, line 5 (d3), thing", "config.not_one_of")]


# XLSX


def workbook(path: Path, sheets: dict[str, list[list[object]]]) -> Workbook:
    book = Workbook()
    book.remove(book.worksheets[0])
    for title, rows in sheets.items():
        page = book.create_sheet(title)
        for row in rows:
            page.append(row)
    book.save(path)
    return book


def cells(columns: list[str], rows: list[dict[str, str]]) -> list[list[object]]:
    table: list[list[object]] = [list(columns)]
    table += [[row.get(name) or None for name in columns] for row in rows]
    return table


ONE_BOOK = 'devices = "台账.xlsx"\npoints = "台账.xlsx"\n'


def one_book(tmp_path: Path, sheets: dict[str, list[list[object]]]) -> Path:
    workbook(tmp_path / "台账.xlsx", sheets)
    (tmp_path / "gateway.toml").write_text(TOML.replace("{more}", ONE_BOOK), encoding="utf-8")
    return tmp_path / "gateway.toml"


def test_one_workbook_gives_what_two_csv_give(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    wanted = load_gateway(folder(tmp_path / "csv", text(DEVICES, ROWS), text(POINTS, POINT_ROWS)))
    file = one_book(tmp_path, {"说明": [["how to fill this in"]], "设备": cells(DEVICES, ROWS),
                               "Points ": cells(POINTS, POINT_ROWS)})
    config = load_gateway(file)

    def plain(found: GatewayConfig) -> list[object]:
        return [(d.id, d.name, d.serial, d.energy, d.connection) for d in found.devices] + [
            (p.device, p.id, p.address, p.type, p.scale) for p in found.points]

    assert plain(config) == plain(wanted)
    book = (tmp_path / "台账.xlsx").read_bytes()
    assert config.ledger_sha256 == hashlib.sha256(book + b"\0" + book).hexdigest()


def test_numbers_of_a_workbook_are_the_text_that_they_show(tmp_path: Path) -> None:
    header: list[object] = [*DEVICES, "unit"]
    row: list[object] = ["d1", None, "M", "X", 20240001.0, 42, None, 610, None, 320594, "equipment", None, True, None,
                         "line", 7]
    file = one_book(tmp_path, {"devices": [header, row], "points": [
        list(POINTS), ["d1", "p", "1/holding/0", "uint16", "parameter", None, 0.1, -40]]})
    book = workbook(tmp_path / "台账.xlsx", {"devices": [header, row], "points": [
        list(POINTS), ["d1", "p", "1/holding/0", "uint16", "parameter", None, 0.1, -40]]})
    book["devices"]["H2"].number_format = "0000"
    book.save(tmp_path / "台账.xlsx")
    config = load_gateway(file)
    d, p = config.devices[0], config.points[0]
    assert (d.serial, d.asset, d.industry, d.region) == ("20240001", "42", "0610", "320594")
    assert (d.energy, d.unit) == (True, "7")
    assert (p.scale, p.offset) == (0.1, -40.0)


def test_what_is_wrong_in_a_workbook_is_told_by_cell_all_at_once(tmp_path: Path) -> None:
    def row(id_: object, **more: object) -> list[object]:
        return [{"id": id_, "thing": "equipment", "connection": "line", **more}.get(name) for name in DEVICES]

    file = one_book(tmp_path, {
        "devices": [list(DEVICES), row("=A1"), row("d2", model=date(2026, 3, 1)), [],
                    row("d3", uscc=913205941234567890), row("d 4", connection="lime")],
        "points": [list(POINTS[:-1]), ["d3", "p", "1/holding/0", "uint16", "parametre"]]})
    assert problems(file) == [
        ("台账.xlsx, devices, row 2, id", "ledger.formula"), ("台账.xlsx, devices, row 3, model", "ledger.date_cell"),
        ("台账.xlsx, devices, row 5, uscc", "ledger.rounded"), ("台账.xlsx, devices, row 6, id", "ledger.bad_id"),
        ("台账.xlsx, devices, row 6, connection", "ledger.unknown_connection"),
        ("台账.xlsx, points, row 2 (d3/p), device", "ledger.unknown_device"),
        ("台账.xlsx, points, row 2 (d3/p), role", "config.not_one_of")]


@pytest.mark.parametrize(("content", "code"), [
    (b"no zip", "cells.no_spreadsheet"), (None, "ledger.no_sheet"), (b"", "cells.no_spreadsheet"),
], ids=["no zip", "no sheet of that name", "empty"])
def test_a_workbook_that_cannot_be_used(tmp_path: Path, content: bytes | None, code: str) -> None:
    file = one_book(tmp_path, {"a": [["x"]], "b": [["x"]]})
    if content is not None:
        (tmp_path / "台账.xlsx").write_bytes(content)
    assert problems(file) == [("台账.xlsx", code)] * 2


def test_a_workbook_is_one_whatever_its_name_says(tmp_path: Path) -> None:
    workbook(tmp_path / "devices.csv", {"a": cells(DEVICES, ROWS)})
    (tmp_path / "points.csv").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(4096))  # an .xls
    (tmp_path / "gateway.toml").write_text(TOML.replace("{more}", ""), encoding="utf-8")
    assert problems(tmp_path / "gateway.toml") == [("points.csv", "cells.no_spreadsheet")]


# Templates


PRESS = [{"template": "press", "id": "pressure", "address": "{unit}/holding/100", "type": "float32",
          "role": "parameter"},
         {"template": "press", "id": "running", "address": "{unit}/coil/{first+3}", "role": "switch"},
         {"template": "meter", "id": "power", "address": "plant/{{x}}/{id}#/power", "type": "float64",
          "role": "parameter"}]


def test_equal_machines_get_the_points_of_their_template(tmp_path: Path) -> None:
    rows = [device("d1", unit="17", template="press", **{"{first}": "2000"}),
            device("d2", unit="18", template="press", **{"{first}": "0"}),
            device("m1", "broker", template="meter"), device("d3")]
    own = [{"device": "d2", "id": "own", "address": "18/holding/7", "type": "uint16", "role": "parameter"}]
    config = load_gateway(folder(tmp_path, text(DEVICES, rows), text(POINTS, own), text(TEMPLATES, PRESS)))
    assert addresses(config) == {
        "d1": ["17/holding/100/float32", "17/coil/2003/bool"],
        "d2": ["18/holding/7/uint16", "18/holding/100/float32", "18/coil/3/bool"],
        "m1": ["plant/{x}/m1#/power"], "d3": []}
    digest = hashlib.sha256(b"\0".join((tmp_path / name).read_bytes()
                                       for name in ("devices.csv", "points.csv", "templates.csv")))
    assert config.ledger_sha256 == digest.hexdigest()


def test_templates_alone_will_do_unless_points_are_named(tmp_path: Path) -> None:
    rows = [device("m1", "broker", template="meter")]
    file = folder(tmp_path, text(DEVICES, rows), None, text(TEMPLATES, PRESS[2:]))
    config = load_gateway(file)
    assert len(config.points) == 1 and config.points_file is None
    assert config.ledger_sha256 == hashlib.sha256(
        (tmp_path / "devices.csv").read_bytes() + b"\0\0" + (tmp_path / "templates.csv").read_bytes()).hexdigest()
    named = folder(tmp_path, text(DEVICES, rows), None, text(TEMPLATES, PRESS[2:]), 'points = "points.csv"\n')
    assert [code for _, code in problems(named)] == ["config.no_file"]


def test_without_templates_the_digest_is_what_it_was(tmp_path: Path) -> None:
    config = load_gateway(folder(tmp_path, text(DEVICES, [device("d1")]), text(POINTS, [])))
    assert config.ledger_sha256 == hashlib.sha256(
        (tmp_path / "devices.csv").read_bytes() + b"\0" + (tmp_path / "points.csv").read_bytes()).hexdigest()


def test_what_is_wrong_with_a_template_is_told_once_at_its_row(tmp_path: Path) -> None:
    templates = [
        {"template": "press", "id": "a", "address": "{unit}/holdin/1", "type": "uint16", "role": "parameter"},
        {"template": "press", "id": "b", "address": "{unti}/holding/1", "type": "uint16", "role": "parameter"},
        {"template": "press", "id": "c", "address": "{unit/holding/1", "type": "uint61", "role": "parameter"},
        {"template": "press", "id": "d", "address": "1/holding/9", "type": "uint16", "role": "parameter"},
        {"template": "press", "id": "d", "address": "{unit}/holding/3", "type": "uint16", "role": "parameter"},
    ]
    rows = [device(f"d{n}", unit=str(n), template="press") for n in range(1, 6)]
    file = folder(tmp_path, text(DEVICES, rows), text(POINTS, []), text(TEMPLATES, templates))
    assert problems(file) == [
        ("templates.csv, line 3 (press/b), address", "ledger.template_place"),
        ("templates.csv, line 4 (press/c), type", "config.not_one_of"),
        ("templates.csv, line 4 (press/c), address", "ledger.template_brace"),
        ("templates.csv, line 6 (press/d), id", "ledger.double_id"),
        ("templates.csv, line 2 (d1/a), address", "modbus.bad_table"),
        ("templates.csv, line 5 (d2/d), address", "ledger.double_address")]


def test_what_is_wrong_with_some_machines_is_told_for_each(tmp_path: Path) -> None:
    rows = [device("d1", unit="1", template="press", **{"{first}": "65530"}),
            device("d2", unit="300", template="press", **{"{first}": "1"}),
            device("d3", unit="", template="press", **{"{first}": "x"}),
            device("d4", unit="4", template="pres", **{"{first}": "1"}),
            device("d5", unit="5", template="press", **{"{first}": "65533"})]
    found = problems(folder(tmp_path, text(DEVICES, rows), text(POINTS, []), text(TEMPLATES, PRESS[:2])))
    assert [where for where, _ in found] == [
        "devices.csv, line 4 (d3), unit", "devices.csv, line 4 (d3), {first}", "devices.csv, line 5 (d4), template",
        "templates.csv, line 2 (d2/pressure), address", "templates.csv, line 3 (d2/running), address",
        "templates.csv, line 3 (d5/running), address"]
    assert [code for _, code in found[:3]] == ["ledger.template_empty", "ledger.template_number",
                                               "ledger.unknown_template"]


def test_a_place_below_nought_is_the_fault_of_the_cell(tmp_path: Path) -> None:
    templates = [{**PRESS[0], "address": "{unit}/holding/{first-2}"}]
    rows = [device("d1", unit="1", template="press", **{"{first}": "2"}),
            device("d2", unit="2", template="press", **{"{first}": "1"})]
    assert problems(folder(tmp_path, text(DEVICES, rows), text(POINTS, []), text(TEMPLATES, templates))) == [
        ("devices.csv, line 3 (d2), {first}", "ledger.template_number")]


def test_of_very_many_misspelt_templates_only_the_first_get_a_suggestion(tmp_path: Path) -> None:
    rows = [device(f"d{n}", unit="1", template="pres") for n in range(200)]
    with pytest.raises(ConfigError) as caught:
        load_gateway(folder(tmp_path, text(DEVICES, rows), text(POINTS, []), text(TEMPLATES, PRESS[:2])))
    near = [dict(p.args)["near"] for p in caught.value.problems if p.code == "ledger.unknown_template"]
    assert len(near) == 200 and near[0] == "press" and near[-1] == "-"


CSV_HEADS = re.findall(r"```csv\n(设备编号.*)\n```", DOCUMENT.read_text(encoding="utf-8"))


def test_the_page_shows_every_column_in_chinese() -> None:
    devices, points = (head.split(",") for head in CSV_HEADS)
    assert [ledger.DEVICE_TABLE.column(name) for name in devices] == [
        *ledger.DEVICE_COLUMNS, *ledger.DEVICE_COLUMNS_OPTIONAL]
    assert [ledger.POINT_TABLE.column(name) for name in points] == [
        *ledger.POINT_COLUMNS, *ledger.POINT_COLUMNS_OPTIONAL]
    page = DOCUMENT.read_text(encoding="utf-8")
    assert [name for shape in (ledger.DEVICE_TABLE, ledger.POINT_TABLE, ledger.TEMPLATE_TABLE)
            for name in shape.chinese if name not in page] == []


@pytest.mark.parametrize("sign", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
def test_chinese_headings_read_as_the_columns_do(sign: str, encoding: str, tmp_path: Path) -> None:
    def renamed(content: str, chinese: dict[str, str]) -> bytes:
        head, rest = content.split("\r\n", 1)
        names = {column: name for name, column in chinese.items()}
        return (sign.join(names[column] for column in head.split(sign)) + "\r\n" + rest).encode(encoding)

    devices = text(DEVICES, [device("press", maker="一厂", serial="S1", unit="3", template="press")], sign)
    points = text(POINTS, [{"device": "press", "id": "t", "address": "1/holding/0", "type": "uint16",
                            "role": "parameter", "scale": "0.5"}], sign)
    templates = text(TEMPLATES, [{"template": "press", "id": "p", "address": "{unit}/holding/7", "type": "uint16",
                                  "role": "parameter"}])
    plain, chinese = tmp_path / "plain", tmp_path / "chinese"
    for place in (plain, chinese):
        place.mkdir()
    first = load_gateway(folder(plain, devices.encode(encoding), points.encode(encoding), templates))
    second = load_gateway(folder(
        chinese, renamed(devices, dict(ledger.DEVICE_TABLE.chinese)), renamed(points, dict(ledger.POINT_TABLE.chinese)),
        templates.replace("template,", "点位模板,", 1).replace("address", "地址", 1)))
    assert first.devices == second.devices and list(first.points) == list(second.points)
    assert [point.id for point in second.points] == ["t", "p"] and second.devices[0].maker == "一厂"


def test_a_column_named_twice_in_two_languages_is_told(tmp_path: Path) -> None:
    content = text(DEVICES, [device("press")]).replace("maker", "设备名称", 1)
    assert set(problems(folder(tmp_path, content, text(POINTS, [])))) == {
        ("devices.csv, line 1", "ledger.missing_column"), ("devices.csv, line 1", "ledger.double_column")}


def test_a_misspelt_column_is_told_although_columns_in_braces_are_free(tmp_path: Path) -> None:
    rows = [device("d1", **{"{first}": "1", "frist": "1"})]
    assert problems(folder(tmp_path, text(DEVICES, rows), text(POINTS, []))) == [
        ("devices.csv, line 1", "ledger.unknown_column")]


def test_a_thousand_machines_of_one_template(tmp_path: Path) -> None:
    templates = [{"template": "press", "id": f"p{k}", "address": f"{{unit}}/holding/{{first+{2 * k}}}",
                  "type": "float32", "role": "parameter"} for k in range(10)]
    rows = [device(f"d{n}", unit=str(n % 240 + 1), template="press", **{"{first}": str(n // 240 * 100)})
            for n in range(1000)]
    config = load_gateway(folder(tmp_path, text(DEVICES, rows), None, text(TEMPLATES, templates)))
    assert len(config.points) == 10_000
    assert config.points[-1].address.canonical == "40/holding/418/float32"
