"""Pages: nothing leaves them, a row that is higher than a page is torn, a heading never stands alone."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest

from tallystick.words.lookup import Words
from verifier.report.charts import Value, columns
from verifier.report.document import (
    Block,
    Bullets,
    Column,
    Command,
    Document,
    Fold,
    Form,
    Paragraph,
    Row,
    Section,
    Table,
    Text,
    Verdict,
)
from verifier.report.layout import BOTTOM, LEFT, PAGE_WIDTH, WIDTH, Area, Glyphs, Part, Stroke, lay_out
from verifier.report.typeset import MM_PER_PT, Typesetter

SQUARE: dict[int, float] = defaultdict(lambda: 1000.0, dict.fromkeys(range(0x20, 0x7F), 500.0))
TITLES = Column(title=Text("甲")), Column(title=Text("乙"), align="right")


class _Every(defaultdict[int, float]):
    """A font that has every character."""

    def get(self, key: int, default: object = None) -> float:  # type: ignore[override]  # the font's own answer
        return self[key]


def pages_of(*blocks: Block, second: tuple[Block, ...] = ()) -> list[list[Part]]:
    every = _Every(lambda: 1000.0, SQUARE)
    document = Document(lang="zh", title=Text("题"), source=Text("源"), subject="一家名字很长的有限责任公司" * 30,
                        code="AAAA-BBBB", sha256="0" * 64, dated_s=0, sections=(
                            Section(key="a", title=Text("节"), blocks=blocks),
                            *([Section(key="b", title=Text("次节"), blocks=second)] if second else [])))
    return lay_out(document, Typesetter("zh", {"song": every, "hei": every, "kai": every}), Words("zh"))


def texts(page: list[Part]) -> str:
    return "".join(part.text for part in page if isinstance(part, Glyphs))


def check_inside(pages: list[list[Part]]) -> None:
    for page in pages:
        for part in page:
            match part:
                case Glyphs():
                    wide = sum(SQUARE[ord(char)] for char in part.text) / 1000 * part.size_pt * MM_PER_PT
                    assert part.x >= LEFT - 1e-6 and part.x + wide <= PAGE_WIDTH - LEFT + 1e-6
                    assert 5 < part.y < 292
                case Area():
                    assert part.x >= LEFT - 1e-6 and part.x + part.width <= LEFT + WIDTH + 1e-6
                    assert part.y + part.height <= BOTTOM + 1e-6
                case Stroke():
                    assert min(part.x1, part.x2) >= LEFT - 1e-6 and max(part.x1, part.x2) <= LEFT + WIDTH + 1e-6


LONG = "一台压铸机，connected since 2024。" * 400
BLOCKS: dict[str, Block] = {
    "a row higher than a page": Table(columns=TITLES, rows=(Row(cells=((Text(LONG),), (Text("1"),))),)),
    "rows across": Table(columns=TITLES, rows=tuple(Row(cells=((Text(LONG[:300]),),), mark="rule") for _ in range(40))),
    "many rows": Table(columns=TITLES, rows=tuple(Row(cells=((Text(f"行{n}"),), (Text(str(n)),))) for n in range(300))),
    "a long paragraph": Paragraph((Text(LONG),)),
    "a long list": Bullets((Text(LONG), Text("x" * 2000))),
    "a verdict of two pages": Verdict(title=Text("否"), lines=(Text("见下"),), items=(Text(LONG),) * 2, holds=False),
    "a long command": Command("tallystick " + "x" * 9000),
    "a verdict": Verdict(title=Text("否"), lines=(Text(LONG[:400]),), items=(Text("因"),), holds=False),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_nothing_leaves_the_page(name: str) -> None:
    check_inside(pages_of(BLOCKS[name]))


def test_a_form_is_as_high_as_what_stands_in_it() -> None:
    """Two languages in a row that was made for one: each line lies within its own row."""
    form = Form(rows=tuple((Text(f"签名{n}", "signature"), Text("通过", "pass"), 6.0) for n in range(4)))
    for page in pages_of(form):
        rows = sorted({(part.y, part.y + part.height) for part in page if isinstance(part, Area)})
        assert all(above[1] <= below[0] + 1e-6 for above, below in itertools.pairwise(rows))
        for part in page:
            if isinstance(part, Glyphs) and part.text in ("signature", "pass"):
                assert any(top < part.y - 2 and part.y + 0.6 < bottom for top, bottom in rows)


def test_a_torn_row_loses_nothing() -> None:
    pages = pages_of(BLOCKS["a row higher than a page"])
    assert len(pages) > 2
    whole = "".join(texts(page) for page in pages)
    assert whole.count("压铸机") == 400 and whole.count("2024") == 400


def test_heads_stand_on_every_page_of_a_table_and_every_row_once() -> None:
    pages = pages_of(BLOCKS["many rows"])
    with_rows = [page for page in pages if "行" in texts(page)]
    assert len(with_rows) > 5 and all("甲" in texts(page) for page in with_rows)
    said = [part.text for page in pages for part in page if isinstance(part, Glyphs) and part.text.startswith("行")]
    assert said == [f"行{n}" for n in range(300)]


@pytest.mark.parametrize("rows", range(20, 60, 3))
@pytest.mark.parametrize("name", ["a form", "a chart", "a table", "a fold"])
def test_what_is_never_torn_stands_below_its_heading(rows: int, name: str) -> None:
    table = Table(columns=TITLES, rows=tuple(Row(cells=((Text("行"),), (Text("1"),))) for _ in range(rows)))
    below: dict[str, tuple[Block, str]] = {
        "a form": (Form(rows=((Text("签名"), Text(""), 30.0), (Text("日期"), Text(""), 30.0))), "签名日期"),
        "a chart": (columns(Text("图"), [Value("首日", 1, "11"), Value("末日", 9, "99")]), "图首日末日"),
        "a table": (Table(columns=TITLES, rows=(Row(cells=((Text("首行"),), (Text("1"),))),)), "甲首行"),
        "a fold": (Fold(title=Text("折"), blocks=(Table(columns=TITLES, rows=(
            Row(cells=((Text("首行", "the first row"),) * 3, (Text("1"),))),)),)), "折甲首行")}
    block, words = below[name]
    pages = pages_of(table, second=(block,))
    check_inside(pages)
    assert sum("次节" in texts(page) and set(words) <= set(texts(page)) for page in pages) == 1
    assert sum("次节" in texts(page) for page in pages) == 1
