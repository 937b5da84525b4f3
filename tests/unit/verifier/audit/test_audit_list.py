"""`tallystick audit --devices`: on which devices a claimed list and the evidence differ, and who changed what when."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from protocols.errors import ConfigError
from tallystick.__main__ import main
from tests.support.plant_fixture import Plant, claim_text
from tests.support.schemas import validate
from verifier.audit.listed import claimed_list
from verifier.conformance.world import START_S, USCC, device_row, point_row

HOURS_S = START_S - START_S % 3600


class Shop:
    """Devices 0, 1, 2 and 5 count. 3 has been silent since the second window, 4 was removed after the second."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys, self.plant = folder, capsys, Plant(folder)
        plant = self.plant
        for i in range(5):
            plant.device(opened=i < 4, title=f"{i}号冲床", serial=f"SN-{i}")
        plant.gateway.now_s = HOURS_S
        plant.begin(len_s=3600)
        plant.windows(2)
        plant.cosign()
        gateway = plant.gateway
        later = device_row(5, "5号冲床")
        plant.devices = [*plant.devices[:2], plant.devices[2] | {"region": "330100"}, plant.devices[3],
                         plant.devices[4] | {"state": "gone"}, later]
        plant.points = [*plant.points[:4], plant.points[4] | {"state": "gone"}, point_row(5, 5, gateway.id)]
        gateway.roster(plant.devices, plant.points,
                       ledger={"sha256": hashlib.sha256(b"new").hexdigest(), "date": "2026-09-15", "rows": 5})
        plant.windows(25, producing=[0, 1, 2, 5])
        plant.cosign()
        self.bundle = plant.write()
        self.claim = folder / "claim.toml"
        self.claim.write_text(claim_text(gateway.now_s, USCC), encoding="utf-8")

    def name(self, slot: int) -> str:
        return f"{self.plant.gateway.id[:8]}:{slot}"

    def audit(self, path: Path, *, lang: str = "") -> Any:
        words = ["audit", str(self.claim), str(self.bundle), "--programme", "jiangsu_2019", "--type", "enterprise",
                 "--policy", str(self.plant.policy()), "--devices", str(path)]
        code = main([*words, *(["--lang", lang] if lang else ["--json"])])
        said = self.capsys.readouterr()
        if lang or code == 2:
            return said.out + said.err
        result = json.loads(said.out)
        validate(result, "audit.schema.json")
        return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shop")


def test_each_difference_is_named_with_its_reason_and_its_history(
        folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(folder, capsys)
    path = folder / "list.csv"
    rows = ["设备名称,设备ID", f"一号,{shop.name(0)}", "二号,SN-1", f"三号,{shop.name(3)}", f"四号,{shop.name(4)}",
            f"一号又一次,{shop.name(0)}", "虚构,SN-77", "别处,ffffffff:1", "没有,", ",,"]
    path.write_text("\n".join(rows[:8]) + "\n", encoding="utf-8-sig")
    result = shop.audit(path)
    told = result["claimed_list"]
    assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (told["rows"], told["matched"]) == (7, 2)
    assert [(d["row"], d["slot"], d["state"], d["reason"]) for d in told["only_in_list"]] == [
        (4, 3, "not_counted", "no_valid_data"), (5, 4, "gone", None), (6, 0, "twice", None),
        (7, None, "unknown", None), (8, None, "not_shown", None)]
    assert [(d["slot"], d["state"]) for d in told["only_in_evidence"]] == [(2, "not_listed"), (5, "not_listed")]
    gone = told["only_in_list"][1]
    assert gone["seen_s"] == HOURS_S + 7200
    start_s = HOURS_S + 7200
    assert [(e["what"], e["fields"], e["ledger_date"], e["from_s"]) for e in gone["history"]] == [
        ("listed", [], "2026-09-01", HOURS_S), ("gone", [], "2026-09-15", start_s)]
    assert gone["history"][1]["after_s"] == HOURS_S + 7210 and gone["history"][1]["before_s"] > start_s
    changed, new = told["only_in_evidence"]
    assert [(e["what"], e["fields"]) for e in changed["history"]] == [("listed", []), ("changed", ["region"])]
    assert [(e["what"], e["ledger_date"]) for e in new["history"]] == [("added", "2026-09-15")]
    assert {d["instead"] for d in told["only_in_list"]} == {None}
    codes = {f["code"]: (f["severity"], f["args"]) for f in result["findings"]}
    assert codes["list.only_in_list"] == ("remark", {"devices": "5", "matched": "2", "rows": "7"})
    assert codes["list.only_in_evidence"] == ("remark", {"devices": "2"})
    text = shop.audit(path, lang="zh")
    assert "申报设备清单：共 7 行，计入 2 台，不计入 5 台；另有 2 台计入而未列入清单" in text
    assert "第 4 行：3号冲床（网关" in text and "T 时已不在名册中；最后有数据的时间 2026-09-22 00:00:00+08:00" in text
    assert "台账日期 2026-09-15：从名册中移除，自 2026-09-22 00:00:00+08:00 起生效" in text
    assert "changed: region, in force from" in shop.audit(path, lang="en")


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("text,code", [
    ("name,serial\na,b\n", "list.no_column"), ("", "list.no_column"), (b"\xff\xfe", "config.not_utf8"),
    ("设备ID,设备名称\na:1,x\n,y\n,z\n", "list.no_id"), ('id\n"a', "config.unreadable")],
    ids=["no column", "empty", "not text", "no id", "quotes"])
def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path, text: str | bytes, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        claimed_list(write(tmp_path / "list.csv", text))
    problems = caught.value.problems
    assert {p.code for p in problems} == {code} and len(problems) == (2 if code == "list.no_id" else 1)


def test_columns_may_be_called_otherwise_and_nothing_in_them_is_passed_over(tmp_path: Path) -> None:
    one = claimed_list(write(tmp_path / "a.csv", "工业设备列表\n\n设备 ID,设备名称\nabcdef01:3,压机\n,\n注：共一台\n"))
    two = claimed_list(write(tmp_path / "b.csv", "slot,gateway,serial\n3,abcdef01,S\n"))
    assert [(line.row, line.id, line.name) for line in one.lines] == [(4, "abcdef01:3", "压机"), (6, "注：共一台", "")]
    assert [(line.id, line.serial) for line in two.lines] == [("abcdef01:3", "S")]


def test_a_spreadsheet_is_read_like_a_csv(tmp_path: Path) -> None:
    book = Workbook()
    book.create_sheet("说明").append(["标题"])
    sheet = book.create_sheet("设备")
    for cells in (["工业设备列表"], ["序号", "设备名称", "设备ID"], [1, "压机", "abcdef01:3"], [None, None, None]):
        sheet.append(cells)
    book.save(tmp_path / "list.xlsx")
    assert [(line.id, line.name) for line in claimed_list(tmp_path / "list.xlsx").lines] == [("abcdef01:3", "压机")]


def test_of_a_machine_reached_twice_it_is_said_which_device_counts(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = Plant(tmp_path)
    plant.device(serial="one", opened=True)
    plant.device(serial="one")
    bundle = plant.seal()
    claim = tmp_path / "claim.toml"
    claim.write_text(claim_text(plant.gateway.now_s, USCC), encoding="utf-8")
    gateway = plant.gateway.id
    listed = write(tmp_path / "list.csv", f"id\n{gateway}:0\n{gateway}:1\n")
    words = ["audit", str(claim), str(bundle), "--programme", "jiangsu_2019", "--type", "enterprise", "--policy",
             str(plant.policy()), "--devices", str(listed)]
    main([*words, "--json"])
    (only,) = json.loads(capsys.readouterr().out)["claimed_list"]["only_in_list"]
    assert (only["slot"], only["reason"], only["instead"]) == (1, "duplicate_identity", f"{gateway}:0")
    main([*words, "--lang", "en"])
    assert f"the same machine as another counted device: {gateway[:8]}:0 counts instead" in capsys.readouterr().out
