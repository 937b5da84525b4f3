"""The report as a page: one file, one known script, no other resource; hostile names stay text; it says what the
JSON says."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
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
from tests.support.programs import need
from tests.support.source import ROOT
from verifier.audit.results import as_bytes
from verifier.conformance.world import USCC, private_part
from verifier.proof.verify import LIMIT_GIVEN, LIMIT_SELF_MADE, LIMITS
from verifier.report.html import render
from verifier.report.identity import result_sha256, verification_code
from verifier.report.wording import BASIS_ORDER, running_days

HOSTILE = "<script>alert('1')</script>\"&{{7*7}}"
VOID = {"meta", "br", "col", "input"}


class Page(HTMLParser):
    """Checks that elements nest, and gathers text and what could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.loading: list[str] = []
        self.leads: list[str] = []
        self.anchors: list[str] = []
        self.text = ""
        self.script = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loading += [f"{tag} {name}" for name, value in attrs if name in ("src", "action", "data", "srcset")
                         or name.startswith("on") or (name == "href" and not (value or "").startswith("#"))]
        self.leads += [value for name, value in attrs if name == "href" and value]
        self.anchors += [f"#{value}" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.script += data
        elif "style" not in self.open:
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
    assert not page.loading and not page.tags & {"link", "img", "iframe", "object", "form", "image", "use"}
    without = text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http:" not in without and "https:" not in text and "url(" not in text and "@import" not in text
    assert len(text) < 100_000


def test_the_page_allows_its_own_script_and_no_other(result: dict[str, Any]) -> None:
    text = render(result, Words("zh"))
    page = Page(text)
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + digest + "'" in text
    assert text.count("<script") == 1
    assert not re.search(r"fetch|XMLHttp|eval|Function\(|import|cookie|location|document\.write|=>|\b(let|const)\b|`",
                         page.script), "old browsers, and nothing that talks"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_digest_is_that_of_the_json_and_the_code_its_beginning(result: dict[str, Any], lang: str) -> None:
    """What docs say: `audit --json | sha256sum`, and base32 of it by hand."""
    printed = as_bytes(result) + "\n"
    digest = hashlib.sha256(printed.encode()).hexdigest()
    five = base64.b32encode(bytes.fromhex(digest))[:20].decode()
    code = f"{five[:4]}-{five[4:8]}-{five[8:12]}-{five[12:16]}-{five[16:]}"
    assert (result_sha256(result), verification_code(digest)) == (digest, code)
    text = Page(render(result, Words(lang))).text
    assert digest in text and code in text


def test_english_stands_beside_the_chinese_where_asked(result: dict[str, Any]) -> None:
    text = Page(render(result, Words("zh"), bilingual=True)).text
    both = [(zh, en) for code in ("audit.holds", "audit.holds_means", "report.covers.text", "printed.section.basis",
                                  "report.opinion.unit") for zh, en in [(Words("zh")(code), Words("en")(code))]]
    assert [pair for pair in both if not (pair[0] in text and pair[1] in text)] == []
    assert 'beside">' not in render(result, Words("zh"))
    assert 'beside">' not in render(result, Words("en"), bilingual=True), "English alone needs none beside it"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_section_that_a_reader_looks_for_is_there_in_order(result: dict[str, Any], lang: str) -> None:
    keys = re.findall(r'<h2 id="(\w+)"', render(result, Words(lang)))
    assert keys[:5] == ["verdict", "claim", "rules", "findings", "opinion"]
    page = Page(render(result, Words(lang)))
    assert page.leads == [f"#{key}" for key in keys] and set(page.leads) <= set(page.anchors)
    assert len(page.anchors) == len(set(page.anchors))
    later = ["figures", "splits", "not_counted", "counted", "basis", "limits", "check"]
    assert [key for key in keys if key in later] == later


def test_a_sum_that_is_not_the_total_is_said(result: dict[str, Any]) -> None:
    broken = json.loads(json.dumps(result))
    broken["count"]["figures"]["groups"]["class"][0]["devices"] += 1
    whole, text = Page(render(result, Words("en"))).text, Page(render(broken, Words("en"))).text
    assert whole.count("equals the 3 counted") == 4 and "differs from" not in whole
    assert text.count("equals the 3 counted") == 3 and "differs from the 3 counted" in text


def test_what_turns_or_hides_the_text_around_it_is_not_printed(result: dict[str, Any]) -> None:
    broken = json.loads(json.dumps(result))
    broken["count"]["devices"][0]["name"] = "press\u202eABC\u200bD\x07"
    text = render(broken, Words("zh"))
    assert "press□ABC□D□" in text and "\u202e" not in text and "\u200b" not in text


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
    room = ROOT / "verifier" / "report"
    sources = "".join((room / name).read_text(encoding="utf-8")
                      for name in ("audit_report.html", "content.py", "content_count.py", "content_machines.py",
                                   "content_rules.py", "layout.py", "wording.py"))
    needed = set(re.findall(r'(?:say|self\.t|_fact)\("([a-z0-9_.]+)"[,)]', sources))
    assert len(needed) > 60
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


def test_a_browser_runs_the_one_script_that_is_allowed(result: dict[str, Any], tmp_path: Path) -> None:
    """Chromium shows the search box only if the page's own policy lets the script run; and it throws nothing."""
    need("chromium")
    page = tmp_path / "report.html"
    probe = "<script>document.title='other scripts run too'</script>"
    page.write_text(render(result, Words("zh")).replace("</body>", probe + "</body>"), encoding="utf-8")
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=110, check=True)
    assert '<div id="search" style="display: block;">' in done.stdout
    assert "<title>other scripts" not in done.stdout
