"""Charts: lengths are true, nothing leaves the drawing, hatches stay in their bars, and not proven is not zero."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.report.charts import BARS_MAX, NAME_WIDTH, PLOT_HEIGHT, WIDTH, Value, bars, columns
from verifier.report.document import Box, Chart, Label, Line, Text

TITLE = Text("t")


def boxes(chart: Chart) -> list[Box]:
    return [part for part in chart.parts if isinstance(part, Box)]


def test_lengths_are_in_proportion() -> None:
    low, high = boxes(bars(TITLE, [Value("a", 25, "25"), Value("b", 100, "100")]))
    assert high.width == pytest.approx(4 * low.width) and low.x == high.x == NAME_WIDTH
    low, high = boxes(columns(TITLE, [Value("a", 25, "25"), Value("b", 100, "100")]))
    assert high.height == PLOT_HEIGHT == pytest.approx(4 * low.height)
    assert low.y + low.height == pytest.approx(high.y + high.height)


def test_zero_has_no_bar_and_what_is_not_proven_has_an_open_one() -> None:
    chart = columns(TITLE, [Value("1", 0, "0"), Value("2", None, "?", "open"), Value("3", 7, "≥7", "hatched")])
    assert [box.fill for box in boxes(chart)] == ["open", "hatched"]
    assert {"0", "?", "≥7"} <= {part.text for part in chart.parts if isinstance(part, Label)}


def test_of_many_bars_the_first_are_drawn() -> None:
    assert len(boxes(bars(TITLE, [Value(str(n), 1 + n, str(n)) for n in range(BARS_MAX + 9)]))) == BARS_MAX


@pytest.mark.parametrize("draw", [bars, columns])
@given(amounts=st.lists(st.none() | st.integers(0, 10**6), max_size=31))
def test_nothing_leaves_the_drawing(draw: type, amounts: list[int | None]) -> None:
    chart = draw(TITLE, [Value(f"name {n}", amount, "?" if amount is None else f"{amount:,}", "hatched")
                         for n, amount in enumerate(amounts)])
    inside = boxes(chart)
    for box in inside:
        assert min(box.x, box.y) >= 0 and box.x + box.width <= WIDTH and box.y + box.height <= chart.height
    hatches = [part for part in chart.parts if isinstance(part, Line)][1:]
    for line in hatches:
        assert any(box.x - 0.01 <= min(line.x1, line.x2) and max(line.x1, line.x2) <= box.x + box.width + 0.01
                   and box.y - 0.01 <= min(line.y1, line.y2) and max(line.y1, line.y2) <= box.y + box.height + 0.01
                   for box in inside)
        assert line.x2 - line.x1 == pytest.approx(line.y2 - line.y1, abs=0.01)


@pytest.mark.parametrize("figure", ["468", "≥468", "12,345", "≥12,345"])
def test_values_of_a_month_do_not_touch_each_other(figure: str) -> None:
    """A figure that is wider than its column stands upright."""
    chart = columns(TITLE, [Value(str(n), 468, figure) for n in range(31)])
    step = WIDTH / 31
    wide = sum(1.0 if ord(char) > 0x7F else 0.56 for char in figure) * 7.0 * 25.4 / 72
    for label in chart.parts:
        if isinstance(label, Label) and label.text == figure:
            assert label.upright or wide < step
