"""A sixth programme is one file: it is read by its path, and what is wrong in it is told by place, all at once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from config.programme import load_programme, metrics
from protocols.errors import ConfigError
from tests.support.source import ROOT

EXAMPLE = ROOT / "config" / "examples" / "programme.toml"


def changed(folder: Path, *changes: tuple[str, str]) -> Path:
    """The example with texts replaced."""
    text = EXAMPLE.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


def problems(file: Path) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_programme(file)
    return {item.where.removeprefix(f"{file}, "): item.code for item in caught.value.problems}


def test_a_programme_is_read_by_its_path(tmp_path: Path) -> None:
    file = changed(tmp_path)
    for name in (file, str(file)):
        programme = load_programme(name)
        assert (programme.data.programme.key, programme.basis.key) == ("example_2026", "example_2026")
        assert programme.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    rules = [rule.id for rule in programme.data.rules_of("platform")]
    assert rules == ["ex26.devices", "ex26.interfaces", "ex26.running"]
    assert [field.number for field in programme.data.required_fields("platform")] == ["(1)", "(2)"]


def test_its_own_metrics_stand_behind_the_known_ones(tmp_path: Path) -> None:
    programme = load_programme(changed(tmp_path))
    assert [*programme.metrics] == [*metrics(), "open_api_count"]
    assert "open_api_count" not in metrics()


def test_a_result_can_name_every_file_that_it_rests_on(tmp_path: Path) -> None:
    digests = load_programme(changed(tmp_path)).digests
    assert list(digests) == ["mine.toml", "programmes/metrics.toml", "classifications/equipment_jx_b.toml",
                             "classifications/industry_jx_a.toml"]
    for place, sha256 in digests.items():
        file = tmp_path / place if place == "mine.toml" else ROOT / "config" / place
        assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "classifications/region_jx_d.toml" in load_programme("jiangxi_2024").digests


def test_what_is_no_programme_is_refused_by_place(tmp_path: Path) -> None:
    file = changed(
        tmp_path, ('schema = "programme/3"', 'schema = "programme/9"'), ("value = 50", 'value = "fifty"'),
        ('op = ">="', 'op = "=>"'), ('name_en = "industrial internet platform"', 'name_eng = "platform"'),
        ('producible = "full"', 'producible = "half"'))
    assert problems(file) == {
        "schema": "config.not_one_of", "rule[0].any[0].all[0].value": "config.bad_value",
        "rule[0].any[1].all[0].op": "config.not_one_of", "type[0].name_en": "config.missing_key",
        "type[0].name_eng": "config.unknown_key_near", "form.lists[0].producible": "config.not_one_of"}


def test_what_refers_to_nothing_is_refused_by_place(tmp_path: Path) -> None:
    file = changed(
        tmp_path, ('types = ["platform"]', 'types = ["plattform"]'),
        ('metric = "point_count"', 'metric = "pointcount"'), ('evidence = "declared"', 'evidence = "proven"'),
        ('classification = "industry_jx_a"', 'classification = "isic"'),
        ('id = "ex26.running"', 'id = "ex26.devices"'), ('required = ["platform"] },\n]', 'required = ["shop"] },\n]'),
        ('metrics = ["open_api_count"], item', 'metrics = ["open_apis"], item'))
    assert problems(file) == {
        "rule[0].types": "programme.no_such_type", "rule[0]": "programme.no_such_metric",
        "metric[0].evidence": "programme.not_declared", "division[0]": "programme.no_such_classification",
        "rule": "programme.twice", "form.fields[1]": "programme.no_such_type",
        "catalogue.indicators[1].metrics": "programme.no_such_metric"}


def test_a_level_that_a_classification_lacks_is_refused(tmp_path: Path) -> None:
    assert problems(changed(tmp_path, ("level = 2", "level = 3"))) == {"division[0]": "programme.no_such_level"}


def test_a_metric_may_not_take_the_place_of_a_known_one(tmp_path: Path) -> None:
    file = changed(tmp_path, ('key = "open_api_count"', 'key = "point_count"'))
    assert problems(file)["metric"] == "programme.twice"


def test_a_misspelt_metric_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_programme(changed(tmp_path, ('metric = "point_count"', 'metric = "points_count"')))
    assert "point_count" in dict(caught.value.problems[0].args)["known"].split(", ")
