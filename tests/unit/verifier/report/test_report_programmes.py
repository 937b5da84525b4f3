"""The report of every programme and platform type: every rule, every reading, every sentence is there."""

from __future__ import annotations

import contextlib
import io
import json
from collections import defaultdict
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import pytest

from config.programme import PROGRAMMES, load_programme
from tallystick.__main__ import main
from tallystick.words.lookup import Words
from tests.support.plant_fixture import Plant
from verifier.conformance.world import USCC
from verifier.report.content import report_document
from verifier.report.document import Chart, Document, Fold, Table
from verifier.report.html import render
from verifier.report.layout import lay_out
from verifier.report.typeset import Typesetter

TYPES = [(key, item.key) for key in PROGRAMMES for item in load_programme(key).data.types]
SPLIT = """
[[splits]]
metric = "device_connected_count"
by = "class"
parts = { machine_tools = 5 }
"""


class Strict(Words):
    """Words that refuse a code without a sentence."""

    def __call__(self, code: str, /, **args: object) -> str:
        assert self.explain(code) is not None, code
        return super().__call__(code, **args)

    def english(self, code: str, /, **args: object) -> str:
        assert self.explain(code) is not None, code
        return super().english(code, **args)


class _Every(defaultdict[int, float]):
    def get(self, key: int, default: object = None) -> float:  # type: ignore[override]  # a font with every character
        return self[key]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """Five devices that count, in Ganzhou, one of them twice; one that only beats."""
    plant = Plant(tmp_path_factory.mktemp("programmes"))
    for number in range(5):
        fields: dict[str, Any] = {"class": "machine_tools", "region": "360700", "industry": "3120"}
        plant.device(points=2, opened=number < 2, serial=f"S{number}", **fields)
    plant.device(serial="S0", opened=True, protocol="opc_ua", region="360700")
    plant.device(role="heartbeat", region="360700", opened=True)
    plant.seal()
    plant.policy()
    return plant


def audited(plant: Plant, programme: str, kind: str, *options: str, **metrics: Any) -> dict[str, Any]:
    data = load_programme(programme).data
    wanted = {field.metric: 1 for field in data.required_fields(kind) if field.by is None}
    wanted |= {"device_connected_count": 5} | metrics
    path: Path = plant.folder / f"{programme}-{kind}.toml"
    path.write_text("\n".join([
        "[claim]", f'programme = "{programme}"', f'type = "{kind}"',
        f"at = {datetime.fromtimestamp(plant.gateway.now_s, UTC).isoformat()}", "[claim.enterprise]",
        'name = "示范压铸有限公司"', f'uscc = "{USCC}"', "[metrics]",
        *(f"{key} = {json.dumps(value)}" for key, value in wanted.items()), SPLIT]), encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(["audit", str(path), "--programme", programme, "--type", kind, str(plant.folder / "X.tally"), "--policy",
              str(plant.folder / "policy.json"), "--json", *options])
    value: dict[str, Any] = json.loads(printed.getvalue())
    return value


@pytest.mark.parametrize(("programme", "kind"), TYPES, ids=[f"{p}-{k}" for p, k in TYPES])
def test_every_rule_and_every_reading_is_told(plant: Plant, programme: str, kind: str) -> None:
    result = audited(plant, programme, kind)
    for lang, bilingual in (("zh", False), ("en", False), ("zh", True)):
        text = render(result, Strict(lang), bilingual=bilingual)
        languages = ("zh", "en") if bilingual else (lang,)
        for rule in result["rules"]:
            assert all(escape(rule[name]) in text for name in languages) and escape(rule["cite"]) in text
        for item in (*result["ambiguities"], *(item for rule in result["rules"] for item in rule["ambiguities"])):
            for told in (item, *item["readings"]):
                assert all(escape(told[name]) in text for name in languages), told
        type_ = Typesetter(lang, defaultdict(lambda: _Every(lambda: 800.0)))
        document = report_document(result, Strict(lang), rows_max=10, bilingual=bilingual)
        assert len(lay_out(document, type_, Strict(lang))) > 4 and not type_.missing


def test_what_is_declared_never_stands_under_proven(plant: Plant) -> None:
    """The column of what is proven holds the proven figures and nothing else."""
    result = audited(plant, "jiangxi_2024", "industry", industrial_app_count=77_777)
    document = report_document(result, Words("zh"), rows_max=10)
    proven = {str(Words("zh")("printed.proven"))}
    for table in tables(document):
        columns = [number for number, column in enumerate(table.columns) if column.title.main in proven]
        told = [text.main for row in table.rows if len(row.cells) > 1 for n in columns for text in row.cells[n]]
        assert "77,777" not in told
    assert "77,777" in render(result, Words("zh"))


def test_the_same_machine_twice_is_told_with_what_joins_it(plant: Plant) -> None:
    result = audited(plant, "jiangxi_2024", "industry")
    group = result["count"]["duplicates"][0]
    text = render(result, Strict("zh"))
    assert Words("zh")("duplicates.group", devices=2, counted=1, enterprise=USCC, enterprises=USCC) in text
    assert group["joints"] and Words("zh")("duplicates.counts_first") in text


def test_a_list_of_claimed_devices_is_compared_device_by_device(plant: Plant) -> None:
    listed = plant.folder / "devices.csv"
    rows = [f"{plant.gateway.id}:{slot},某机{slot}" for slot in range(7)] + [f"{plant.gateway.id}:99,没有的机器"]
    listed.write_text("\n".join(["id,name", *rows]) + "\n", encoding="utf-8")
    result = audited(plant, "jiangxi_2024", "industry", "--devices", str(listed))
    only = result["claimed_list"]["only_in_list"]
    assert [item["state"] for item in only] == ["not_counted", "not_counted", "unknown"]
    text = render(result, Strict("zh"))
    assert Words("zh")("list.heading", rows=8, matched=5, only=3, more=0) in text
    assert "没有的机器" in text or f"{plant.gateway.id}:99" in text


def test_charts_are_drawn_of_classes_and_places(plant: Plant) -> None:
    document = report_document(audited(plant, "jiangxi_2024", "industry"), Words("zh"), rows_max=10)
    drawn = [block.title.main for section in document.sections for block in section.blocks if isinstance(block, Chart)]
    assert [Words("zh")("printed.class"), Words("zh")("printed.city")] == drawn[-2:]


def tables(document: Document) -> list[Table]:
    found: list[Table] = []
    blocks = [block for section in document.sections for block in section.blocks]
    while blocks:
        block = blocks.pop()
        if isinstance(block, Table):
            found.append(block)
        elif isinstance(block, Fold):
            blocks += block.blocks
    return found
