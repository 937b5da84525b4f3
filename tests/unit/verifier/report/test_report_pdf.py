"""The report on paper, read by programs that were not written here: fonts, code on every page, heads, size, bytes."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from protocols.errors import ConfigError
from tallystick.__main__ import main
from tallystick.words.lookup import Words
from tests.support.plant_fixture import Plant, claim_text
from tests.support.programs import need, need_fonts
from verifier.conformance.world import USCC
from verifier.report.fonts import FONTS, VARIABLE, find_fonts
from verifier.report.identity import result_sha256, verification_code
from verifier.report.pdf import ROWS_MAX, render_pdf

SIZE_MAX = 300_000
RARE = "犇喆堃镕龦㐀𨭎"
"""Names of people and places in rosters. The first fonts lack some of these; one of the three has each."""

LACKING = "𠮷𪚥"
"""No font of the three has these."""

DEVICES = 260


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A claim that fails: 260 devices that count and 12 that only beat; a month of days in which something is open."""
    folder = tmp_path_factory.mktemp("pdf")
    plant = Plant(folder)
    for number in range(DEVICES):
        name = RARE if number == 0 else LACKING if number == 1 else "压铸"
        plant.device(opened=number < 3, title=f"{name} {number} 号",
                     **{"class": "machine_tools" if number % 3 else None})
    for _ in range(12):
        plant.device(role="heartbeat")
    bundle, policy, claim = plant.seal(), plant.policy(), folder / "claim.toml"
    claim.write_text(claim_text(plant.gateway.now_s, USCC, device_connected_count=DEVICES + 12), encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(["audit", str(claim), "--programme", "jiangsu_2019", "--type", "enterprise", str(bundle), "--policy",
              str(policy), "--json"])
    value: dict[str, Any] = json.loads(printed.getvalue())
    value["count"]["figures"]["daily_running"] = [
        {"date": f"2026-08-{day:02}", "devices": None if day < 5 else day % 7 * 40, "whole": day != 9}
        for day in range(1, 32)]
    return value


@pytest.fixture(scope="module")
def pdf(result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_fonts()
    path = tmp_path_factory.mktemp("printed") / "report.pdf"
    path.write_bytes(render_pdf(result, Words("zh"), bilingual=True))
    return path


def read(program: str, *arguments: object) -> str:
    need(program)
    done = subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, timeout=60)
    assert not done.stderr, done.stderr
    return done.stdout.decode()


def pages(pdf: Path) -> list[str]:
    return read("pdftotext", "-layout", pdf, "-").split("\f")[:-1]


def test_every_font_is_embedded_and_cut_down(pdf: Path) -> None:
    rows = [line.split() for line in read("pdffonts", pdf).splitlines()[2:]]
    assert sorted(row[0].split("+")[1] for row in rows) == ["ARPLUKaiCNBook", "ARPLUMingCNLight", "WenQuanYiZenHei"]
    assert all(row[-5:-2] == ["yes", "yes", "yes"] for row in rows), rows  # embedded, subset, readable as Unicode


def test_nothing_is_a_bitmap(pdf: Path) -> None:
    assert read("pdfimages", "-list", pdf).splitlines()[2:] == []


def test_it_is_small(pdf: Path) -> None:
    assert pdf.stat().st_size < SIZE_MAX


def test_every_page_has_its_number_the_code_and_the_digest(pdf: Path, result: dict[str, Any]) -> None:
    sha256, told = result_sha256(result), pages(pdf)
    assert len(told) > 8
    for number, page in enumerate(told, 1):
        foot = "\n".join(page.rstrip().splitlines()[-3:])
        assert f"第 {number} 页 / 共 {len(told)} 页" in foot
        assert verification_code(sha256) in foot and sha256 in foot


def test_page_one_has_the_verdict_and_what_it_covers(pdf: Path) -> None:
    first = pages(pdf)[0]
    for code in ("audit.does_not_hold", "report.covers", "report.covers_not"):
        assert Words("zh")(code) in first and Words("en")(code) in first


def test_heads_of_tables_stand_again_on_the_next_page(pdf: Path) -> None:
    say = Words("zh")
    listed = [page for page in pages(pdf) if page.count(say("levels.word")) > 8]
    assert len(listed) > 3
    assert all(say("printed.slot") in page and say("levels.heading") in page for page in listed)


def test_of_many_devices_the_first_are_printed_and_how_many_there_are(pdf: Path) -> None:
    text = "\n".join(pages(pdf))
    assert Words("zh")("report.truncated", shown=ROWS_MAX, count=DEVICES) in text
    slots = re.findall(r"^ *[0-9a-f]{8} +(\d+) ", text, re.MULTILINE)
    assert sorted(map(int, slots)) == [*range(ROWS_MAX), *range(DEVICES, DEVICES + 12)]


def test_the_auditor_has_room_to_sign(pdf: Path) -> None:
    page = next(page for page in pages(pdf) if Words("zh")("report.opinion.auditor") in page)
    for code in ("report.opinion.choices", "report.opinion.unit", "report.opinion.date"):
        assert re.sub(r"\s+", "", Words("zh")(code)) in re.sub(r"\s+", "", page)


def test_the_outline_leads_to_every_section(pdf: Path) -> None:
    told = read("pdftohtml", "-xml", "-i", "-stdout", pdf)
    titles = re.findall(r'<item page="\d+">([^<]+)</item>', told)
    say = Words("zh")
    for code in ("report.section.verdict", "printed.section.rules", "report.section.opinion", "printed.section.figures",
                 "printed.section.not_counted", "printed.section.basis", "printed.section.check"):
        assert say(code) in titles


def test_its_metadata_hold_the_code_and_no_clock(pdf: Path, result: dict[str, Any]) -> None:
    told = dict(re.findall(r"^([A-Za-z ]+): +(.+)$", read("pdfinfo", "-isodates", pdf), re.MULTILINE))
    assert told["Title"] == Words("zh")("printed.title") and result["claim"]["enterprise"] in told["Subject"]
    assert verification_code(result_sha256(result)) in told["Keywords"]
    assert datetime.fromisoformat(told["CreationDate"]).timestamp() == result["claim"]["at_s"]
    assert "ModDate" not in told and told["Page size"].endswith("(A4)")


def test_the_same_result_gives_the_same_bytes(result: dict[str, Any]) -> None:
    need_fonts()
    again = json.loads(json.dumps(result, sort_keys=True))
    assert render_pdf(result, Words("en")) == render_pdf(again, Words("en"))


def test_rare_characters_are_printed_and_what_no_font_has_is_said(pdf: Path) -> None:
    text = "\n".join(pages(pdf))
    assert RARE in text
    assert not set(LACKING) & set(text)
    assert "□□ 1 号" in text and f"：{' '.join(f'U+{ord(c):04X}' for c in LACKING)}" in text
    assert Words("zh")("report.fonts")[:20] in text


def test_without_its_fonts_a_pdf_is_refused_before_the_work(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for options in ([], ["--fonts", str(tmp_path / "none")]):
        status = main(["--lang", "en", "audit", "no-claim.toml", "--programme", "jiangsu_2019", "--type", "enterprise",
                       "no.tally", "--report", str(tmp_path / "out.pdf"), *options])
        told = capsys.readouterr().err
        assert status == 2 and all(font.file in told for font in FONTS.values())
        assert "apt-get install fonts-arphic-uming fonts-arphic-ukai fonts-wqy-zenhei" in told and "--fonts" in told
    assert not (tmp_path / "out.pdf").exists()


def test_another_font_or_a_damaged_one_is_refused(result: dict[str, Any], tmp_path: Path) -> None:
    need_fonts()
    files = find_fonts(None)
    for face, path in files.items():
        shutil.copy(path if face != "song" else files["kai"], tmp_path / FONTS[face].file)
    with pytest.raises(ConfigError, match=r"bad_font.*ARPLUKai"):
        render_pdf(result, Words("zh"), fonts=tmp_path)
    (tmp_path / "uming.ttc").write_bytes(b"ttcf" + bytes(100))
    with pytest.raises(ConfigError, match=r"uming\.ttc.*bad_font"):
        render_pdf(result, Words("zh"), fonts=tmp_path)
