"""The report: one file, no script, no other resource; hostile names stay text; it says what the JSON says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from config.programme import PARAMETERS, metrics
from protocols.terms.basis import NOT_COUNTED_REASONS
from protocols.terms.vocabulary import DEPLOYMENTS, ROLES, THINGS
from tallystick.__main__ import main
from tallystick.words.lookup import Words
from tests.support.plant_fixture import Plant, claim_text
from tests.support.source import ROOT
from verifier.conformance.world import USCC, private_part
from verifier.proof.verify import LIMIT_GIVEN, LIMIT_SELF_MADE, LIMITS
from verifier.report.html import render
from verifier.report.wording import BASIS_ORDER, running_days

HOSTILE = "<script>alert('1')</script>\"&{{7*7}}"
VOID = {"meta", "br", "col"}


class Page(HTMLParser):
    """Checks that elements nest, and gathers text and what could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.loading: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loading += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "action", "data", "srcset")
                         or name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + "\n"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A claim that holds: 3 devices with 3000 points, one device that only beats and has a hostile name."""
    folder = tmp_path_factory.mktemp("report")
    plant = Plant(folder)
    for model in ("A", "B", "B"):
        plant.device(points=1000, model=model, **{"class": "machine_tools"})
    slot = plant.device(role="heartbeat", opened=True)
    plant.private[slot] = private_part(HOSTILE, maker="Maker", model=HOSTILE, serial="S")
    plant.devices[slot] |= {"private_sha256": _digest(plant.private[slot]), "kind": _kind(plant.private[slot]),
                            "tags": _tags(plant.private[slot])}
    bundle, policy, claim = plant.seal(), plant.policy(), folder / "claim.toml"
    claim.write_text(claim_text(plant.gateway.now_s, USCC, device_connected_count=3, point_count=2999),
                     encoding="utf-8")
    return _audit(folder, claim, bundle, policy)


def _audit(folder: Path, claim: Path, bundle: Path, policy: Path) -> dict[str, Any]:
    import contextlib
    import io

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        main(["audit", str(claim), "--programme", "jiangsu_2019", "--type", "enterprise", str(bundle), "--policy",
              str(policy), "--json", "--report", str(folder / "out.html")])
    value: dict[str, Any] = json.loads(printed.getvalue())
    assert (folder / "out.html").read_text(encoding="utf-8") == render(value, Words("en"))
    return value


def _digest(private: dict[str, Any]) -> str:
    from protocols.evidence import roster

    return roster.private_sha256(private)


def _kind(private: dict[str, Any]) -> str | None:
    from protocols.evidence import roster

    return roster.kind(private["maker"], private["model"])


def _tags(private: dict[str, Any]) -> list[dict[str, str]]:
    from protocols.evidence import roster
    from verifier.conformance.world import K

    return [{"scheme": s, "tag": roster.keyed_tag(K, s, v)} for s, v in sorted(roster.tag_values(private).items())]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_report_needs_nothing_else(result: dict[str, Any], lang: str) -> None:
    text = render(result, Words(lang))
    page = Page(text)
    assert not page.loading and not page.tags & {"script", "link", "img", "iframe", "object", "svg", "form"}
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text
    assert len(text) < 100_000


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_hostile_names_stay_text(result: dict[str, Any], lang: str) -> None:
    text = render(result, Words(lang))
    assert HOSTILE in Page(text).text
    assert "<script>alert" not in text and "49" not in re.findall(r"alert.{0,40}", text)[0]


@pytest.mark.parametrize(("lang", "words"), [
    ("en", ["The claim holds", "2 of 3 rules rest on declarations", "Trust: independent", "not place",
            "a heartbeat only", "not fixed: default", "cannot prove", "declared only", "Appendix B level 2"]),
    ("zh", ["申报成立", "3 条规则中有 2 条仅凭申报单位自述达到", "信任：独立", "不证明所在位置", "仅心跳",
            "未规定：采用本软件默认值", "无法证明", "仅申报", "附录B二级分类", "机床", "统计截止"])])
def test_a_report_says_all_that_matters(result: dict[str, Any], lang: str, words: list[str]) -> None:
    text = Page(render(result, Words(lang))).text
    assert [word for word in words if word not in text] == []
    digests = result["count"]["digests"]
    for shown in ("3,000", "2,999", "示范压铸有限公司", USCC, "+08:00", result["count"]["bundles"][0]["sha256"],
                  digests["policy"], digests["basis"], digests["claim"], "苏工信融合〔2019〕605号",
                  "js19.enterprise.device_access"):
        assert shown in text, shown
    say = Words(lang)
    for code in (*result["count"]["limits"], *(f"basis.{name}" for name in PARAMETERS)):
        assert say(code) in text, code
    for finding in (*result["findings"], *result["count"]["findings"]):
        assert finding["code"] in text
    assert not re.search(r"\{\w+\}", text.replace("{{7*7}}", "")), "a place that nothing filled"


def test_the_same_result_gives_the_same_bytes(result: dict[str, Any]) -> None:
    again = json.loads(json.dumps(result, sort_keys=True))
    assert render(again, Words("zh")) == render(result, Words("zh"))


def test_a_claim_that_fails_looks_different(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.device()
    plant.seal()
    bundle = plant.write(change={"checkpoint": plant.gateway.checkpoint(signer="thief")})
    claim = tmp_path / "claim.toml"
    claim.write_text(claim_text(plant.gateway.now_s, USCC, device_connected_count=100), encoding="utf-8")
    failed = _audit(tmp_path, claim, bundle, plant.policy())
    for lang, words in (("en", ["The claim does not hold", "does not verify", "nothing is proven"]),
                        ("zh", ["申报不成立", "未通过核验", "不能证明任何内容"])):
        text = render(failed, Words(lang))
        assert 'class="verdict fails"' in text
        assert all(word in Page(text).text for word in words), lang
        assert failed["count"]["bundles"][0]["findings"][0]["code"] in text


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_code_that_a_report_can_need_has_a_sentence(lang: str) -> None:
    """Codes that are put together at run time, and those of the template."""
    template = (ROOT / "verifier" / "report" / "audit_report.html").read_text(encoding="utf-8")
    needed = set(re.findall(r'say\("([a-z0-9_.]+)"[,)]', template))
    assert len(needed) > 40
    needed |= {f"reason.{reason}" for reason in NOT_COUNTED_REASONS}
    needed |= {f"value.{value}" for value in (*ROLES, *THINGS, *DEPLOYMENTS, "child", "parent", "once", "by_model",
                                              "by_class", "family", "variant")}
    needed |= {f"status.{status}" for status in ("met", "declared", "not_met")}
    needed |= {f"printed.evidence.{item.evidence}" for item in metrics().values()}
    needed |= {f"basis.{name}" for name in PARAMETERS} | {"mode.discrete", "mode.process"}
    needed |= {*LIMITS, LIMIT_GIVEN, LIMIT_SELF_MADE}
    from tallystick.words.lookup import read_language

    assert needed <= read_language(lang).keys()


def test_the_order_of_parameters_forgets_none() -> None:
    assert sorted(BASIS_ORDER) == sorted(PARAMETERS)


def test_days_of_which_nothing_is_proven_are_told_together() -> None:
    def day(number: int, devices: int | None, whole: bool = True) -> dict[str, Any]:
        return {"date": f"2026-10-{number:02}", "devices": devices, "whole": whole}

    days = [day(1, None), day(2, None), day(3, None), day(4, 7, False), day(5, 0), day(6, None), day(7, 1200)]
    assert running_days(days, Words("en")) == [
        ("2026-10-01 – 2026-10-03", "not proven"), ("2026-10-04", "at least 7, the day is not covered as a whole"),
        ("2026-10-05", "0"), ("2026-10-06", "not proven"), ("2026-10-07", "1,200")]
