"""Programme data: complete, cited, and in agreement with the domain data they were made from."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from config.programme import (
    PARAMETERS,
    PROGRAMMES,
    BasisFile,
    ProgrammeFile,
    load_basis,
    load_programme,
    metrics,
)
from protocols.errors import ConfigError
from protocols.terms.basis import Basis
from tests.support.domain import domain
from tests.support.source import ROOT

FOLDER = ROOT / "config" / "programmes"


def test_the_folder_holds_the_five_programmes_and_the_metrics() -> None:
    assert sorted(file.stem for file in FOLDER.glob("*.toml")) == sorted([*PROGRAMMES, "metrics"])


@pytest.mark.parametrize("key", PROGRAMMES)
def test_a_programme_is_whole(key: str) -> None:
    programme = load_programme(key)
    assert programme.data.programme.key == programme.basis.key == key
    assert len(programme.sha256) == 64
    fixed = set(PARAMETERS) - set(programme.basis.unspecified)
    assert fixed == set(programme.basis.sources), "a value without its source"
    default = Basis(key="", version="")
    for name in programme.basis.unspecified:
        assert getattr(programme.basis, name) == getattr(default, name), name


@pytest.mark.parametrize("key", PROGRAMMES)
def test_a_programme_agrees_with_the_domain(key: str) -> None:
    told = domain(f"{key}.yaml")
    data = load_programme(key).data
    assert [item.key for item in data.types] == told["programme"]["platform_types"]
    issued = told["programme"]["issued"]
    assert data.programme.issued == issued
    assert data.programme.doc_no == told["programme"].get("doc_no", "")
    # The domain's texts carry stray blanks of the scanned original.
    assert data.programme.title_zh.replace(" ", "") in told["programme"]["title_zh"].replace(" ", "")


def test_every_metric_of_the_domain_is_known() -> None:
    told = {item["key"] for item in domain("metrics.yaml")["metrics"]}
    assert told <= metrics().keys()


def test_metrics_that_evidence_proves_are_of_class_a_or_b() -> None:
    indicators = domain("indicators.yaml")
    declared = {item["metric"] for programme in indicators.values() if isinstance(programme, dict)
                for item in programme.get("items", []) if item.get("class") in ("c", "c+")}
    proven = {key for key, item in metrics().items() if item.evidence != "declared"}
    both = {item["metric"] for programme in indicators.values() if isinstance(programme, dict)
            for item in programme.get("items", []) if str(item.get("class", ""))[:1] in ("a", "b")}
    assert len(declared) > 20, "the indicators were not read: nothing would be compared"
    assert not proven & (declared - both)


def test_an_unknown_programme_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        load_programme("jiangsu_2018")
    problem = caught.value.problems[0]
    assert problem.code == "programme.unknown" and dict(problem.args)["near"] == "jiangsu_2019"


def test_an_unknown_type_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError) as caught:
        load_programme("sichuan_2022").type_named("enterprise")
    assert dict(caught.value.problems[0].args)["known"] == "comprehensive"


@pytest.mark.parametrize("change", [
    {"unspecified": []}, {"sources": {}}, {"freshness_s": 60}, {"unspecified": ["roles"]},
    {"sources": {"parents": "nowhere"}},
])
def test_a_basis_that_is_not_said_to_be_fixed_or_open_is_refused(change: dict[str, Any]) -> None:
    raw = tomllib.loads((FOLDER / "jiangsu_2019.toml").read_text(encoding="utf-8"))
    ProgrammeFile.model_validate(raw)
    raw["basis"] |= change
    with pytest.raises(ValidationError):
        ProgrammeFile.model_validate(raw)


@pytest.mark.parametrize(("path", "value"), [
    (("rule", 0, "any", 0, "all", 0, "op"), "!="), (("rule", 0, "any"), []), (("schema",), "programme/2"),
])
def test_a_rule_that_refers_to_nothing_is_refused(path: tuple[Any, ...], value: Any) -> None:
    raw: Any = tomllib.loads((FOLDER / "jiangsu_2019.toml").read_text(encoding="utf-8"))
    inner = raw
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(ValidationError):
        ProgrammeFile.model_validate(raw)


def test_an_own_basis_keeps_what_it_sets_and_names_what_it_leaves(tmp_path: Path) -> None:
    file = tmp_path / "basis.toml"
    file.write_text('schema = "basis/1"\nkey = "mine"\n[basis]\nfreshness_s = 60\ndeployments = ["private"]\n'
                    'regions = "any"\n')
    basis, sha256 = load_basis(file)
    assert (basis.key, basis.freshness_s, basis.deployments, basis.regions) == ("mine", 60, {"private"}, None)
    assert set(PARAMETERS) - set(basis.unspecified) == {"freshness_s", "deployments", "regions"}
    assert len(sha256) == 64


def test_a_wrong_basis_gets_all_its_problems_at_once(tmp_path: Path) -> None:
    file = tmp_path / "basis.toml"
    file.write_text('schema = "basis/1"\nkey = "mine"\n[basis]\nfreshness_s = 0\nfreshnes_s = 5\nkinds = "colour"\n'
                    'roles = []\nday_boundary = "Mars"\n')
    with pytest.raises(ConfigError) as caught:
        load_basis(file)
    assert {p.code for p in caught.value.problems} == {
        "config.out_of_range", "config.unknown_key_near", "config.not_one_of"}
    assert len(caught.value.problems) == 5


def test_every_parameter_can_be_set_by_a_file() -> None:
    assert set(PARAMETERS) <= set(BasisFile.model_fields["basis"].annotation.model_fields)  # type: ignore[union-attr]


def table_of_bases() -> list[str]:
    """The rows of docs/counting-bases.md as the data have them."""
    def cell(value: Any) -> str:
        if value is None:
            return "any"
        if isinstance(value, frozenset):
            return ", ".join(sorted(value))
        return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)

    default, bases = Basis(key="", version=""), [load_programme(key).basis for key in PROGRAMMES]
    return ["| " + " | ".join([f"`{name}`", cell(getattr(default, name)), *(
        "" if name in basis.unspecified else cell(getattr(basis, name)) for basis in bases)]) + " |"
        for name in PARAMETERS]


def test_the_page_of_bases_is_current() -> None:
    page = (ROOT / "docs" / "counting-bases.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(['parameter', 'default', *PROGRAMMES])} |" in page
    assert "\n".join(table_of_bases()) in page
