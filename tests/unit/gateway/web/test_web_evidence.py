"""What the page says of evidence when there is a platform: proofs, demands, revocation, a full disk, probes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from config.gateway import PlatformTable
from gateway.web import pages
from gateway.web.evidence import alarms
from gateway.web.facts import Facts
from gateway.web.index import make_index
from gateway.web.pages import Asked
from gateway.web.words import local_time
from tallystick.words.lookup import LANGUAGES, Words
from tests.support.web_plant import WebPlant
from tests.unit.gateway.commissioning.plants import device, point

KEY = "ab" * 32


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebPlant]:
    plant = WebPlant(tmp_path_factory.mktemp("plant"), [device("a", serial="S1")], [point("a", 0)])
    plant.window(producing=["a"])
    yield plant
    plant.close()


def with_platform(plant: WebPlant, **status: Any) -> Facts:
    """The present of the same gateway, had it a platform."""
    facts = plant.facts()
    assert facts.status is not None
    return replace(
        facts, config=replace(facts.config, platform=PlatformTable(url="https://platform.example")),
        enrolment={**facts.enrolment, "platform": KEY, "register": "register.example+1234+key"},
        seen={"size": 77, "time_s": facts.now_s - 30, "index": 3},
        status={**facts.status, "log": {"size": 90, "submitted": 89, "proven": 80}, **status})


def page(facts: Facts, lang: str, renderer: pages.Renderer = pages.evidence) -> str:
    text = renderer(facts, make_index(facts.config, facts.roster), Asked(path="/", query={}, say=Words(lang)))
    assert not re.search(r"\{[a-z_]+\}|\bweb\.[a-z]", text), "a place or a code was left"
    return text


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_others_have_is_told_with_the_keys_to_compare(plant: WebPlant, lang: str) -> None:
    text = page(with_platform(plant), lang)
    for part in ("90", "89", "80", "77", " ".join(["abab"] * 16), "https://platform.example", "register.example"):
        assert part in text, part


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_platform_that_answers_no_more_is_told_with_what_it_has_proven(plant: WebPlant, lang: str) -> None:
    facts = with_platform(plant, log={"size": 90, "submitted": None, "proven": 80})
    assert Words(lang)("commissioning.log_alone", size=90, proven=80) in page(facts, lang)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_somebody_must_act_on_stands_first_on_both_pages(plant: WebPlant, lang: str) -> None:
    facts = with_platform(
        plant, said={"revoked_from": 60, "demands": [
            {"index": 5, "key": KEY, "slots": [0], "hours": [1, 2], "deadline_s": plant.facts().now_s + 3_600},
            {"index": 6, "key": KEY, "slots": [0], "hours": [], "deadline_s": 10**18}]},
        disk={"budget": 2**20, "use": {"evidence": 3 * 2**20}})
    for renderer in (pages.evidence, pages.overview):
        text = page(facts, lang, renderer)
        assert "60" in text and "3.0 MB" in text
        assert "@1000000000000000000" in text, "a deadline that no calendar has"
    assert Words(lang)("statements.status_revoked", from_size=60) in page(facts, lang)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_an_announced_draw_is_no_demand_and_never_overdue(plant: WebPlant, lang: str) -> None:
    now_s = plant.facts().now_s
    demands = [{"index": index, "key": KEY, "slots": [], "hours": [], "deadline_s": now_s + ahead_s}
               for index, ahead_s in ((5, 3_600), (6, -3_600))]
    told = alarms(with_platform(plant, said={"revoked_from": None, "demands": demands}), Words(lang))
    assert told == [Words(lang)("web.evidence.announced", index=5, instant=local_time(now_s + 3_600))]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_probes_and_kept_data_are_told_as_status_tells_them(plant: WebPlant, lang: str) -> None:
    facts = with_platform(
        plant, keep={"full": False, "files": 3, "bytes": 2**21, "windows_kept": 8, "windows_not_kept": 1},
        probing={"why": None, "reads": {"start_s": 60, "seq": 41, "rows": 4, "answered": 3}, "servers": [
            {"server": KEY, "connections": ["line"], "asked_s": 60, "answered_s": None, "code": "probing.ok",
             "args": {}}]})
    text = page(facts, lang)
    for part in (KEY[:16], "41", "2.0 MB", Words(lang)("probing.ok")):
        assert part in text, part
    for why in ("off", "no_nonce", "no_server", "soon"):
        page(with_platform(plant, probing={"why": why, "reads": None, "servers": []}), lang)


def test_before_the_first_window_there_is_a_page_too(plant: WebPlant) -> None:
    facts = replace(plant.facts(), status=None, figures=None)
    for renderer in (pages.overview, pages.devices, pages.connections, pages.evidence, pages.commissioning_record):
        assert page(facts, "zh", renderer)
    assert "第一个窗口" in page(facts, "zh", pages.overview)


def test_a_rotated_key_is_told_with_its_entry(plant: WebPlant) -> None:
    facts = replace(plant.facts(), keys=((0, "00" * 32), (12, KEY)))
    text = page(facts, "en")
    assert " ".join(["abab"] * 16) in text and "signs from entry" in text
