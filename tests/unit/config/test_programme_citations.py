"""Every citation resolves: the annex and item that it names are the headings above the passage in the document."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from config.programme import PROGRAMMES, load_programme
from tests.support.domain import BESIDE, domain

LEVELS = {
    "annex": re.compile(r"附件 ?(\d)[:：]?$"), "part": re.compile(r"([一二三四五六七八九十]+)、"),
    "section": re.compile(r"\(([一二三四五六七八九十]+|\d)\)"), "words": re.compile(r"(备注|说明|填报说明)(?:[:：]|$)"),
    "item": re.compile(r"(\d+)[.、．](?!\d)"), "figure": re.compile(r"(\d\.\d)(?!\d)"),
}
"""Headings of the documents, from the highest level down, brackets made alike."""

TITLES = {"江苏省重点工业互联网平台申报书": "1", "安徽省工业互联网平台建设指南": "1"}
"""Annexes that begin with their title: no line of the text has their number."""

PLACE = re.compile(
    r"(?:附件(?P<annex>\d) ?|通知正文 ?)?(?P<words>备注|填报说明|说明)? ?(?P<part>[一二三四五六七八九十]+)?"
    r"(?:\((?P<section>[一二三四五六七八九十]+|\d)\))?(?:(?P<figure>\d\.\d)|(?P<item>\d))?")


def documents() -> Path:
    return Path(os.environ.get("TALLYSTICK_DOMAIN", BESIDE)) / "documents"


def headings(name: str) -> list[dict[str, str]]:
    """The headings above each line, by level; a heading ends what stood below the one before."""
    file = documents() / name
    if not file.is_file():
        domain(f"{name}.yaml")  # the same skip, or failure in CI, as for all data of the domain
    current: dict[str, str] = {}
    above, order = [], list(LEVELS)
    for line in file.read_text(encoding="utf-8").split("\n"):
        text = re.sub(r"^[\s\u3000□-]+", "", line).replace("（", "(").replace("）", ")").strip()
        if text in TITLES:
            current = {"annex": TITLES[text]}
        for depth, (level, heading) in enumerate(LEVELS.items()):
            if found := heading.match(text):
                current = {name: value for name, value in current.items() if order.index(name) < depth}
                current[level] = found[1]
        above.append(dict(current))
    return above


def places(cite: str) -> list[dict[str, str]]:
    """What each place of a citation names, by level."""
    found = []
    for place in re.split("[、；]", cite.split("，", 1)[1]):
        text = place.replace("（", "(").replace("）", ")")
        match = PLACE.match(text)
        assert match is not None
        named = {level: value for level, value in match.groupdict().items() if value is not None}
        if named or not text.startswith("附录"):
            found.append(named)
    return found


def lines(source: Any) -> list[int]:
    return [int(n) for n in source] if isinstance(source, list) else [int(source)]


def unresolved(cite: str, source: Any, above: list[dict[str, str]]) -> list[int]:
    """The lines of the passage that stand under none of the cited places."""
    return [line for line in lines(source)
            if not any(place.items() <= above[line - 1].items() for place in places(cite))]


@pytest.mark.parametrize("key", PROGRAMMES)
def test_every_rule_stands_where_it_is_cited(key: str) -> None:
    told = domain(f"{key}.yaml")
    above = headings(told["programme"]["seed_file"])
    cites = {rule.id: rule.cite for rule in load_programme(key).data.rules}
    wrong = {rule["id"]: (cites[rule["id"]], left) for rule in told["rules"]
             if (left := unresolved(cites[rule["id"]], rule["source"], above))}
    assert not wrong


@pytest.mark.parametrize("key", PROGRAMMES)
def test_every_indicator_stands_where_it_is_cited(key: str) -> None:
    above = headings(domain(f"{key}.yaml")["programme"]["seed_file"])
    cites = {item.id: item.cite for item in load_programme(key).data.indicators}
    wrong = {item["id"]: (cites[item["id"]], left, [above[n - 1] for n in left])
             for item in domain("indicators.yaml")[key]["items"]
             if (left := unresolved(cites[item["id"]], item["src"], above))}
    assert not wrong


def test_a_wrong_citation_does_not_resolve() -> None:
    told = domain("jiangsu_2019.yaml")
    above = headings(told["programme"]["seed_file"])
    source = next(rule["source"] for rule in told["rules"] if rule["id"] == "js19.enterprise.device_access")
    cited = {place: not unresolved(f"苏工信融合〔2019〕605号，{place}", source, above) for place in (
        "附件3 三（二）", "附件3 三（一）", "附件2 三（二）", "附件3 三（二）1", "附件3 二（二）")}
    assert cited == {"附件3 三（二）": True, "附件3 三（一）": False, "附件2 三（二）": False, "附件3 三（二）1": False,
                     "附件3 二（二）": False}
