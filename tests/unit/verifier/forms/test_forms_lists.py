"""Lists, monitoring table and summaries: the printed columns in their order, cells from evidence, nothing made up."""

from __future__ import annotations

import contextlib
import io
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook
from openpyxl.workbook import Workbook

from config.programme import PROGRAMMES, load_programme
from tallystick.__main__ import main
from tallystick.words.lookup import Words
from tests.support.domain import domain
from tests.support.plant_fixture import Plant, claim_text
from verifier.conformance.world import USCC
from verifier.forms.catalogue import DEVICES, FILL_IN, PUBLISHED, tables_of
from verifier.forms.lists import EMPTY_ROWS, NOT_IN_EVIDENCE

SAY = Words("zh")
SM3, SHA256 = "证据摘要（SM3）", "证据摘要（SHA-256）"
"""The proposal names SM3; the evidence format has SHA-256, so that is what the column says."""


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """Twelve devices that count, of three classes and none, over two days; a heartbeat, a silent one, a cabinet."""
    made = Plant(tmp_path_factory.mktemp("forms"))
    classes = ("machine_tools", "power_equipment", None)
    for at in range(12):
        made.device(points=2, model=f"M-{at % 4}", opened=at != 5, title=f"=设备{at}", maker="示范机械",
                    serial=f"SN-{at}", protocol=("modbus_tcp", "opc_ua")[at % 2],
                    **{"class": classes[at % 3], "region": ("360100", "320100")[at % 2],
                       "deployment": ("public", "private", "dedicated")[at % 3]})
    made.point(0, role="switch")
    made.device(role="heartbeat", opened=True)
    made.device(silent=True, opened=True)
    made.device(thing="infrastructure")
    made.seal(3)
    made.policy()
    return made


def _export(plant: Plant, out: Path, name: str, programme: str, *more: str,
            bundles: tuple[str, ...] = ("X.tally",)) -> tuple[int, str]:
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        shown = [str(plant.folder / one) for one in bundles]
        status = main(["--lang", "zh", "export", *shown, "--list", name, "--programme", programme, "--policy",
                        str(plant.folder / "policy.json"), "-o", str(out), *more])
    return status, told.getvalue()


def _book(plant: Plant, folder: Path, name: str, programme: str, *more: str) -> Workbook:
    out = folder / f"{name}.xlsx"
    status, told = _export(plant, out, name, programme, *more)
    assert status == 0, told
    return load_workbook(out)


def _table(book: Workbook, name: str) -> tuple[list[str], list[str], list[tuple[Any, ...]]]:
    """Return the row that tells whose columns they are, the titles, and the rows below."""
    rows = list(book[name].iter_rows(min_row=2, values_only=True))
    return [str(cell or "") for cell in rows[0]], [str(cell or "") for cell in rows[1]], rows[2:]


LISTS = [(key, item.key) for key in PROGRAMMES for item in tables_of(load_programme(key))
         if item.kind == "list" and item.proof is not None and item.proof.producible != "attach"]


@pytest.mark.parametrize(("programme", "key"), LISTS, ids=lambda value: value)
def test_a_list_has_the_printed_columns_in_their_order(
        plant: Plant, tmp_path: Path, programme: str, key: str) -> None:
    told = {item["key"]: item for item in domain("deliverables.yaml").get(programme, {}).get("lists", [])}
    printed = (told.get(key) or {}).get("columns_zh") or []
    book = _book(plant, tmp_path, key, programme)
    whose, titles, _ = _table(book, book.sheetnames[2])
    assert titles[:len(printed)] == printed
    ours = titles[len(printed):]
    assert not set(ours) & set(printed) and len(set(titles)) == len(titles)
    assert [at for at, word in enumerate(whose) if word] == [0] * bool(printed) + [len(printed)] * bool(ours)
    assert whose[0] == SAY("forms.theirs") if printed else whose[0] == SAY("forms.ours")
    about = "\n".join(str(cell.value) for row in book[SAY("forms.sheet.cover")].iter_rows() for cell in row)
    if not printed:
        assert SAY("forms.no_columns" if key in told else "forms.no_list_asked") in about
    elif key != DEVICES:
        assert SAY(f"forms.{told[key]['producible']}") in about


def test_every_list_of_the_domain_is_offered_or_told_to_be_attached(plant: Plant, tmp_path: Path) -> None:
    for programme in PROGRAMMES:
        for item in domain("deliverables.yaml").get(programme, {}).get("lists", []):
            status, told = _export(plant, tmp_path / "a.xlsx", item["key"], programme)
            if item["producible"] == "attach":
                assert status == 2 and item["name_zh"] in told and SAY.tell("forms.attach").fix[:4] in told
            else:
                assert status == 0, told


def test_the_device_list_has_every_recommended_column() -> None:
    from verifier.forms.lists import device_columns

    wanted = domain("deliverables.yaml")["recommended_device_list_columns"]
    for programme in PROGRAMMES:
        proof = next(item.proof for item in tables_of(load_programme(programme)) if item.key == DEVICES)
        assert proof is not None
        titles = [column.title for column in device_columns(proof)]
        missing = {SHA256 if title == SM3 else title for group in wanted.values() for title in group} - set(titles)
        # Where the document's own first column holds class and number, the number is not repeated.
        assert missing <= ({"该类设备连接数量"} if "分类的设备连接数量" in titles else set())


def test_the_device_list_is_what_the_count_says(plant: Plant, tmp_path: Path) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(["count", str(plant.folder / "X.tally"), "--at", "last", "--programme", "jiangxi_2024", "--policy",
              str(plant.folder / "policy.json"), "--json"])
    count = json.loads(printed.getvalue())
    book = _book(plant, tmp_path, "devices", "jiangxi_2024")
    told = {f"{device['gateway']}:{device['slot']}": device["reason"] for device in count["devices"]}
    for sheet, counted in (("forms.sheet.devices", True), ("forms.sheet.left_out", False)):
        _, titles, rows = _table(book, SAY(sheet))
        by_id = {row[titles.index("设备ID")]: row for row in rows}
        assert set(by_id) == {key for key, reason in told.items() if (reason is None) == counted} and len(by_id) >= 3
        assert [row[titles.index("序号")] for row in rows] == list(range(1, len(rows) + 1))
        for key, row in by_id.items():
            reason = told[key]
            why = SAY("forms.counted" if reason is None else f"reason.{reason}")
            assert row[titles.index("计入/不计入及原因")] == why
    _, _, classes = _table(book, SAY("forms.sheet.classes"))
    assert classes[-1] == (SAY("printed.sum"), None, 12) and sum(row[2] for row in classes[:-1]) == 12


def test_the_cells_of_a_device(plant: Plant, tmp_path: Path) -> None:
    _, titles, rows = _table(_book(plant, tmp_path, "devices", "jiangxi_2024"), SAY("forms.sheet.devices"))
    by_slot = {int(row[titles.index("设备ID")].rpartition(":")[2]): dict(zip(titles, row, strict=True)) for row in rows}
    first, second, shut = by_slot[0], by_slot[1], by_slot[5]
    at = datetime(1970, 1, 1) + timedelta(seconds=plant.gateway.now_s + 8 * 3600)
    assert first["分类的设备连接数量"] == "机床：4" and second["分类的设备连接数量"] == "电力设备：4"
    assert by_slot[2]["分类的设备连接数量"] == f"{SAY('printed.no_class')}：4"
    assert (first["设备名称"], first["设备型号"], first["生产厂家"], first["出厂编号/资产编号"]) == (
        "=设备0", "M-0", "示范机械", "SN-0")
    assert (first["采集点数"], first["开关量点数"], first["运行参数点数"]) == (3, 1, 2)
    assert (first["通信协议"], second["通信协议"]) == ("Modbus TCP", "OPC UA")
    assert [by_slot[at]["部署方式（公有云/私有云/专有网）"] for at in range(3)] == ["公有云", "私有云", "专有网"]
    assert (first["企业注册地（附录D）"], first["统一社会信用代码"]) == ("南昌", USCC)
    assert first["首次接入时间"] == at - timedelta(minutes=2) and first["截止时间前最近有效数据时间"] == at
    assert first["当日是否运行"] == "是" and first[SHA256] == plant.devices[0]["private_sha256"]
    assert {first[title] for title in NOT_IN_EVIDENCE} == {None}
    assert {shut[title] for title in ("设备名称", "设备型号", "生产厂家", "出厂编号/资产编号")} == {None}
    assert rows[-1][titles.index("分类的设备连接数量")].startswith(SAY("printed.no_class"))


def test_an_empty_form_is_empty_and_offers_the_fixed_values(plant: Plant, tmp_path: Path) -> None:
    book = _book(plant, tmp_path, "killer-apps", "jiangxi_2024")
    sheet = book[book.sheetnames[2]]
    _, titles, rows = _table(book, sheet.title)
    assert len(rows) == EMPTY_ROWS and {cell for row in rows for cell in row} == {None}
    offered = {str(rule.sqref): rule.formula1 for rule in sheet.data_validations.dataValidation}
    column = "ABCDEFGHIJ"[titles.index("是否自研")]
    assert offered == {f"{column}4:{column}{EMPTY_ROWS + 3}": '"是,否"'}
    assert SAY("forms.state.template") in sheet["A1"].value


def test_a_partial_list_has_what_evidence_proves(plant: Plant, tmp_path: Path) -> None:
    _, titles, rows = _table(book := _book(plant, tmp_path, "enterprises", "jiangxi_2024"), book.sheetnames[2])
    assert [row[len(titles) - 3:] for row in rows] == [(USCC, 12, 25)] and set(rows[0][:len(titles) - 3]) == {None}
    _, _, rows = _table(book := _book(plant, tmp_path, "industries", "jiangxi_2024"), book.sheetnames[2])
    assert [row[1:] for row in rows] == [("机械", 12)]


def test_the_monitoring_table_has_its_26_rows_and_what_is_proven(plant: Plant, tmp_path: Path) -> None:
    claim = tmp_path / "claim.toml"
    claim.write_text(claim_text(plant.gateway.now_s, USCC, programme="jiangxi_2024", type="enterprise", branch=None,
                                industrial_model_count=77, device_manageable_count=None, model_monthly_call_avg=None),
                     encoding="utf-8")
    book = _book(plant, tmp_path, "monitoring", "jiangxi_2024", "--claim", str(claim))
    report = next(item for item in domain("deliverables.yaml")["jiangxi_2024"]["reports"]
                  if item["key"] == "monitoring_table")
    _, titles, rows = _table(book, report["name_zh"])
    assert titles[:4] == report["columns_zh"] and len(rows) == report["rows"] == 26
    official = [item for item in domain("indicators.yaml")["jiangxi_2024"]["items"] if item["id"].startswith("jx24.m")]
    assert [row[1].removeprefix("其中：") for row in rows] == [item["zh"] for item in official]
    assert [row[2] for row in rows] == [item["unit"] for item in official]
    proven = {row[1]: row[4] for row in rows if row[4] is not None}
    assert proven == {"平台工业设备连接数量": 12, "其中：分类统计工业设备数量": 12, "其中：按区域统计工业设备数量": 12}
    assert {row[1]: row[5] for row in rows if row[5] is not None} == {"工业模型数量": 77, "工业APP数量": 10}
    split = book[SAY("forms.sheet.split", number=7)]
    by_region = {row[0]: row[2] for row in split.iter_rows(min_row=3, values_only=True)}
    assert by_region["南昌"] == 6 and by_region["其他"] == 6 and by_region["九江"] == 0 and by_region["合计"] == 12


@pytest.mark.parametrize("programme", [key for key in PROGRAMMES if key != "jiangxi_guideline_2022"])
def test_summaries_have_the_printed_columns(plant: Plant, tmp_path: Path, programme: str) -> None:
    reports = [item for item in domain("deliverables.yaml")[programme]["reports"]
               if item.get("columns_zh") and item["key"] not in ("monitoring_table", *PUBLISHED)]
    assert reports
    for report in reports:
        book = _book(plant, tmp_path, report["key"], programme)
        rows = list(book[book.sheetnames[1]].iter_rows(values_only=True))
        head = next(at for at, row in enumerate(rows) if row[0] == "序号")
        assert list(rows[head]) == report["columns_zh"]
        assert [row[0] for row in rows[head + 1:head + 1 + EMPTY_ROWS]] == list(range(1, EMPTY_ROWS + 1))
        assert {cell for row in rows[head + 1:head + 1 + EMPTY_ROWS] for cell in row[1:]} == {None}
        for name in report.get("header_zh", []):
            assert name in rows[head - 1][0]
        if "note_zh" in report:
            assert rows[-1][0] == report["note_zh"]


def test_the_same_evidence_gives_the_same_bytes(plant: Plant, tmp_path: Path) -> None:
    for name in ("devices", "monitoring", "summary"):
        for out in ("a.xlsx", "b.xlsx"):
            assert _export(plant, tmp_path / out, name, "jiangxi_2024")[0] == 0
        assert (tmp_path / "a.xlsx").read_bytes() == (tmp_path / "b.xlsx").read_bytes()


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(plant: Plant, tmp_path: Path) -> None:
    cases: list[tuple[list[str], str]] = [
        (["--list", "device"], "devices"), (["--list", "form"], "comprehensive"),
        (["--list", "devices", "--claim", "x.toml"], "--claim"), (["--list", "devices", "--at", "1"], "")]
    for options, word in cases:
        status, told = _export(plant, out := tmp_path / "a.xlsx", "devices", "jiangxi_2024", *options)
        assert status == 2 and word in told and not out.exists() and "Traceback" not in told
    status, told = _export(plant, tmp_path / "a.csv", "devices", "jiangxi_2024")
    assert status == 2 and ".xlsx" in told
    status, told = _export(plant, tmp_path / "no" / "a.xlsx", "devices", "jiangxi_2024")
    assert status == 2 and "a.xlsx" in told
    plant.write("bad.tally", {"checkpoint": b"no checkpoint"})
    status, told = _export(plant, tmp_path / "a.xlsx", "devices", "jiangxi_2024", bundles=("bad.tally",))
    assert status == 2 and not (tmp_path / "a.xlsx").exists() and SAY.tell("forms.invalid").fix in told


def test_every_table_can_be_named_shortly() -> None:
    from verifier.forms.catalogue import ALIASES

    keys = {item.key for programme in PROGRAMMES for item in tables_of(load_programme(programme))}
    assert set(ALIASES.values()) <= keys and FILL_IN in keys


def test_gateways_with_other_windows_are_listed_each_at_its_own_last_one(tmp_path: Path) -> None:
    """One seals 300 s, the other began later and seals 60 s: T lies within a window of the first."""
    slow = Plant(tmp_path)
    quick = Plant(tmp_path, world=slow.world, name="paint shop")
    slow.gateway.now_s += 60  # windows are aligned to their length
    for made in (slow, quick):
        made.device(opened=True)
    slow.begin(len_s=300)
    slow.windows(1)
    quick.gateway.now_s = slow.gateway.now_s
    quick.begin()
    quick.windows(2)
    at_s = quick.gateway.now_s
    slow.windows(1)
    slow.cosign()
    slow.write("slow.tally"), quick.write("quick.tally")
    slow.policy()
    out = tmp_path / "devices.xlsx"
    status, told = _export(slow, out, "devices", "jiangxi_2024", "--at", str(at_s),
                           bundles=("slow.tally", "quick.tally"))
    assert status == 0, told
    _, titles, rows = _table(load_workbook(out), SAY("forms.sheet.devices"))
    name, time = titles.index("设备ID"), titles.index("截止时间前最近有效数据时间")
    last = {row[name].partition(":")[0]: row[time] for row in rows}
    ends = {slow.gateway.id: at_s - 120, quick.gateway.id: at_s}
    assert last == {key: datetime(1970, 1, 1) + timedelta(seconds=end + 8 * 3600) for key, end in ends.items()}
