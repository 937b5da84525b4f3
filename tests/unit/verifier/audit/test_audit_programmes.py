"""`tallystick audit` for all five programmes and every platform type, from sealed bundles to text and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from config.programme import PROGRAMMES, load_programme
from tallystick.__main__ import main
from tests.support.plant_fixture import Plant
from tests.support.schemas import validate
from verifier.audit import values
from verifier.conformance.world import USCC

TYPES = [(key, item.key) for key in PROGRAMMES for item in load_programme(key).data.types]
PROVEN = {"device_connected_count": 4, "point_count": 7, "enterprise_connected_count": 1, "protocol_count": 1,
          "covered_industry_count": 1, "served_area_count": 1}


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """Four devices that count and two that do not, in Ganzhou."""
    plant = Plant(tmp_path_factory.mktemp("programmes"))
    for serial in range(4):
        fields: dict[str, Any] = {"class": "machine_tools", "region": "360700", "industry": "3120"}
        plant.device(points=1 + (serial > 0), opened=serial == 0, **fields)
    plant.device(role="heartbeat", region="360700", opened=True)
    plant.device(silent=True, region="360700")
    plant.seal()
    plant.policy()
    return plant


def claim(plant: Plant, programme: str, kind: str, *, splits: str = "", **metrics: Any) -> Path:
    """Write a claim with every required field: what is proven, and 1 of everything that is declared."""
    from datetime import UTC, datetime

    data = load_programme(programme).data
    wanted = {field.metric: PROVEN.get(field.metric, 1) for field in data.required_fields(kind) if field.by is None}
    wanted |= {"device_connected_count": 4} | metrics
    lines = ["[claim]", f'programme = "{programme}"', f'type = "{kind}"',
             f"at = {datetime.fromtimestamp(plant.gateway.now_s, UTC).isoformat()}",
             "[claim.enterprise]", 'name = "示范压铸有限公司"', f'uscc = "{USCC}"', "[metrics]",
             *(f"{key} = {json.dumps(value)}" for key, value in wanted.items() if value is not None), splits]
    path = plant.folder / f"{programme}-{kind}.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run(plant: Plant, path: Path, programme: str, kind: str, *options: str, lang: str = "en") -> int:
    return main(["--lang", lang, "audit", str(path), "--programme", programme, "--type", kind,
                 str(plant.folder / "X.tally"), "--policy", str(plant.folder / "policy.json"), *options])


@pytest.mark.parametrize(("programme", "kind"), TYPES, ids=[f"{p}-{k}" for p, k in TYPES])
def test_every_type_is_audited(plant: Plant, capsys: pytest.CaptureFixture[str], programme: str, kind: str) -> None:
    """Four devices reach no threshold: a type that has one fails, the others hold by their figures."""
    path = claim(plant, programme, kind)
    data = load_programme(programme).data
    demanding = any(rule.kind == "threshold" for rule in data.rules_of(kind))
    code = run(plant, path, programme, kind, "--json")
    result = json.loads(capsys.readouterr().out)
    validate(result, "audit.schema.json")
    assert (code, result["verdict"]) == ((1, "does_not_hold") if demanding else (0, "holds"))
    assert [rule["id"] for rule in result["rules"]] == [rule.id for rule in data.rules_of(kind)]
    devices = next(item for item in result["metrics"] if item["key"] == "device_connected_count")
    assert (devices["claimed"], devices["proven"]) == (4, 4)
    assert devices["stages"] == {"configured": 6, "connected": 6, "producing": 4, "changing": 4, "counted": 4}
    assert result["programme"]["digests"].keys() >= {f"programmes/{programme}.toml", "programmes/metrics.toml"}
    for lang in ("zh", "en"):
        assert run(plant, path, programme, kind, lang=lang) == code
        told = capsys.readouterr().out
        screen = told.split("逐条规则：" if lang == "zh" else "Rule by rule:")[0]
        assert ("签名有效" if lang == "zh" else "signatures valid") in screen
        assert all((rule.zh if lang == "zh" else rule.en) in screen and rule.cite in screen
                   for rule in data.rules_of(kind))
        # A sentence without its words shows its code: no such thing may be printed.
        assert not [line for line in told.splitlines() if "told." in line or "kind." in line or "division." in line]


def test_the_first_screen_is_short_and_in_the_order_of_an_official(
        plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    path = claim(plant, "jiangxi_2024", "industry", device_connected_count=5, protocol_count=None)
    assert run(plant, path, "jiangxi_2024", "industry", lang="zh") == 1
    told = capsys.readouterr().out
    screen = told.split("\n逐条规则：")[0].splitlines()
    assert screen[0] == "申报不成立" and len(screen) <= 45
    order = ["签名有效：1 个证据包均通过核验", "  信任：独立。策略认可的独立见证方已联署最新状态。",
             "(1) 接入设备数：申报 5，证明 4，多报 1", "(6) 兼容协议数量：申报 —，证明 1，必填而未填", "错误（2 条）："]
    assert [line for line in screen if line in order] == order
    assert "  必填项 (6) 兼容协议数量 没有填写 [audit.field_missing]" in screen
    assert "  工业设备连接数量：申报 5，证据证明 4，多报 1 [audit.overclaim]" in screen
    rest = told.split("\n逐条规则：")[1]
    assert "press shop 4" in rest and "仅心跳" in rest, "the difference leads down to devices and reasons"


def test_a_claim_file_may_split_and_group(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    tables = """
[[splits]]
metric = "device_connected_count"
by = "city"
parts = { "赣州" = 4 }
[[splits]]
metric = "device_connected_count"
by = "class"
parts = { "机床" = 3 }
[[groups]]
industry = "黑色金属"
metrics = { device_connected_count = 4, point_count = 7 }
"""
    path = claim(plant, "jiangxi_2024", "industry", splits=tables)
    assert run(plant, path, "jiangxi_2024", "industry") == 1
    told = capsys.readouterr().out
    assert "sums" not in told and "connected industrial devices (by class (Appendix B level 2)) == " in told
    assert "3 / 4 claimed, 4 / 4 proven: [-] not met" in told and "4 / 4 claimed, 4 / 4 proven: [=] consistent" in told
    assert "rule jx24.consistency.device_class_sum: the claimed figures contradict one another" in told


def test_the_command_line_and_the_claim_name_one_programme(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    path = claim(plant, "jiangxi_2024", "industry")
    assert run(plant, path, "anhui_2023", "industry") == 2
    assert "jiangxi_2024" in capsys.readouterr().err


def test_every_problem_of_a_claim_is_printed_by_its_number(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    path = claim(plant, "jiangxi_2024", "industry", protocol_count=-3, solution_count=None)
    assert run(plant, path, "jiangxi_2024", "industry", lang="zh") == 2
    said = capsys.readouterr()
    assert said.out == "" and "(6) 兼容协议数量, metrics.protocol_count" in said.err
    assert "必填项 (8) 解决方案数 没有填写" in said.err


def test_every_proven_metric_is_read_from_the_figures() -> None:
    for key in PROGRAMMES:
        proven = {item.key for item in load_programme(key).metrics.values() if item.evidence == "proven"}
        assert proven == values.PROVEN.keys() | values.OF_ALL.keys()


def test_a_claim_without_any_figure_does_not_hold(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    """This type has no threshold and no field that must be filled in: an empty form would pass everything."""
    path = claim(plant, "anhui_2023", "regional", device_connected_count=None)
    assert run(plant, path, "anhui_2023", "regional", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [f["code"] for f in found["findings"] if f["severity"] == "fault"] == ["audit.nothing_claimed"]
    assert run(plant, claim(plant, "anhui_2023", "regional"), "anhui_2023", "regional", "--json") == 0
