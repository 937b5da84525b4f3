"""Lines of Chinese and Latin: nothing is lost, none is too wide, no sign stands where it must not."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.programs import need_fonts
from verifier.report.document import Text
from verifier.report.fonts import find_fonts
from verifier.report.typeset import MM_PER_PT, NEVER_FIRST, NEVER_LAST, Look, Typesetter, may_break

SQUARE: dict[int, float] = {**dict.fromkeys(range(0x20, 0x7F), 500.0), **dict.fromkeys(range(0x3000, 0xFFEF), 1000.0),
                            **dict.fromkeys(range(0x2018, 0x201E), 1000.0), 0x25A1: 1000.0}
LOOK = Look("song", 10.0)


def setter(**faces: Any) -> Typesetter:
    return Typesetter("zh", defaultdict(dict, {"song": SQUARE, "hei": SQUARE, "kai": SQUARE} | faces))


def said(lines: list[Any]) -> list[str]:
    return ["".join(run.text for run in line.runs) for line in lines]


@given(text=st.text(st.sampled_from("数据采集点，。（）“”abc-12 ,.%"), max_size=80), chars=st.integers(3, 30))
@example("（（（（（（（（", 3)
def test_lines_hold_all_and_none_is_too_wide(text: str, chars: int) -> None:
    width = chars * LOOK.size_pt * MM_PER_PT
    lines = list(setter().broken(text, LOOK, width))
    assert "".join(said(lines)).replace(" ", "") == text.replace(" ", "")
    for line in lines:
        visible = "".join(said([line])).rstrip()
        assert line.width - (len("".join(said([line]))) - len(visible)) * 500 / 1000 * 10 * MM_PER_PT <= width + 1e-6


def test_lines_end_where_they_may() -> None:
    ten = 10 * LOOK.size_pt * MM_PER_PT + 0.01
    assert said(list(setter().broken("一二三四五六七八九十，甲乙", LOOK, ten))) == ["一二三四五六七八九", "十，甲乙"]
    assert said(list(setter().broken("一二三四五六七八九（十）", LOOK, ten))) == ["一二三四五六七八九", "（十）"]
    assert said(list(setter().broken("设备 connected devices", LOOK, ten))) == ["设备 connected ", "devices"]
    assert said(list(setter().broken("a" * 25, LOOK, ten))) == ["a" * 20, "a" * 5]


@pytest.mark.parametrize("sign", sorted(NEVER_FIRST))
def test_no_line_begins_with(sign: str) -> None:
    assert not may_break("数", sign)


@pytest.mark.parametrize("sign", sorted(NEVER_LAST))
def test_no_line_ends_with(sign: str) -> None:
    assert not may_break(sign, "数")


def test_a_character_is_taken_from_the_font_that_has_it() -> None:
    line = setter(song={ord("a"): 500.0}, hei={ord("数"): 1000.0, ord("b"): 600.0}).line("a数ba", LOOK)
    assert [(run.face, run.text) for run in line.runs] == [("song", "a"), ("hei", "数b"), ("song", "a")]
    assert line.runs[2].x == pytest.approx((500 + 1000 + 600) / 1000 * 10 * MM_PER_PT)


def test_a_character_that_no_font_has_becomes_a_box_and_is_named() -> None:
    type_ = setter()
    assert said([type_.line("名𠮷", LOOK), type_.line("𠮷\u00b2", LOOK)]) == ["名□", "□□"]
    assert list(type_.missing) == ["𠮷", "\u00b2"]


def test_english_stands_below_the_chinese_and_smaller() -> None:
    lines = setter().lines(Text("申报成立", "The claim holds"), 100.0)
    assert said(lines) == ["申报成立", "The claim holds"] and lines[1].look.size_pt < lines[0].look.size_pt


def test_signs_stand_lower_left_as_the_mainland_writes_them() -> None:
    """UMing and UKai centre 。 and 、 as Taiwan does, Zen Hei centres ，: each is taken where it stands right."""
    for face in ("song", "hei", "kai"):
        line = setter().line("数。据、点，值：", Look(face, 10.0))  # type: ignore[arg-type]  # one of the three
        taken = {char: run.face for run in line.runs for char in run.text}
        assert (taken["。"], taken["、"], taken["，"], taken["："]) == ("hei", "hei", "song", "song")
        assert taken["数"] == face


def test_the_installed_fonts_are_those_that_this_was_written_for() -> None:
    need_fonts()
    from fontTools.ttLib import TTFont

    files = find_fonts(None)
    for face, signs in (("hei", "。、"), ("song", "，：；")):
        font = TTFont(files[face], fontNumber=0)
        for sign in signs:
            glyph = font["glyf"][font.getBestCmap()[ord(sign)]]
            assert glyph.xMax < font["head"].unitsPerEm * 0.4, sign
