"""Charts as lines and texts in millimetres: one geometry for the page and for the paper.

No colour carries a meaning and every bar has its value in figures beside it: a copy in black and white loses nothing.
A bar that is hatched is a lower bound; one that is open is not proven, which is not zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verifier.report.document import Box, Chart, Fill, Label, Line, Text

WIDTH = 178.0
PLOT_HEIGHT = 38.0
BAR_HEIGHT = 4.2
BAR_STEP = 6.2
NAME_WIDTH = 62.0
VALUE_WIDTH = 24.0
DATE_HEIGHT = 12.0
VALUE_HEIGHT = 9.0
COLUMN_SHARE = 0.62
HATCH_STEP = 1.1
BARS_MAX = 24
"""More bars than a reader compares; the table below the chart has all of them."""

VALUE_PT = 7.0
NAME_PT = 8.5
CHAR_MM = 0.36
"""Width of a wide character in mm for each pt of its size, a little too much."""


@dataclass(frozen=True, slots=True)
class Value:
    """One bar. `figure` is what is printed beside it; amount None: not proven."""

    name: str
    amount: int | None
    figure: str
    fill: Fill = "solid"


def columns(title: Text, values: Sequence[Value], notes: tuple[Text, ...] = ()) -> Chart:
    """Return upright bars in their order, such as the days of a month: the value above each, its name below."""
    most = max((value.amount or 0 for value in values), default=0)
    step = WIDTH / max(len(values), 1)
    wide = min(step * COLUMN_SHARE, 9.0)
    base = VALUE_HEIGHT + PLOT_HEIGHT
    parts: list[Box | Line | Label] = [Line(x1=0, y1=base, x2=WIDTH, y2=base, weight=0.3)]
    for number, value in enumerate(values):
        middle = (number + 0.5) * step
        high = _scaled(value.amount, most, PLOT_HEIGHT)
        if value.amount is None:
            high = 3.0
        if high:
            parts += _bar(middle - wide / 2, base - high, wide, high, value.fill)
        flat = sum(1.0 if ord(char) > 0x7F else 0.6 for char in value.figure) * VALUE_PT * CHAR_MM < step
        parts.append(Label(x=middle if flat else middle + 0.9, y=base - high - 1.0, text=value.figure, size_pt=VALUE_PT,
                           anchor="middle" if flat else "start", upright=not flat))
        parts.append(Label(x=middle + 0.9, y=base + 1.5, text=value.name, size_pt=VALUE_PT, anchor="end", upright=True))
    return Chart(title=title, width=WIDTH, height=base + DATE_HEIGHT, parts=tuple(parts), notes=notes)


def bars(title: Text, values: Sequence[Value], notes: tuple[Text, ...] = ()) -> Chart:
    """Return lying bars, the first `BARS_MAX`: the name left, the value right of each."""
    shown = values[:BARS_MAX]
    most = max((value.amount or 0 for value in shown), default=0)
    height = max(len(shown), 1) * BAR_STEP
    parts: list[Box | Line | Label] = [Line(x1=NAME_WIDTH, y1=0, x2=NAME_WIDTH, y2=height, weight=0.3)]
    for number, value in enumerate(shown):
        top = number * BAR_STEP + (BAR_STEP - BAR_HEIGHT) / 2
        long = _scaled(value.amount, most, WIDTH - NAME_WIDTH - VALUE_WIDTH)
        parts.append(Label(x=NAME_WIDTH - 1.5, y=top + BAR_HEIGHT - 1.0, text=_fitting(value.name), size_pt=NAME_PT,
                           anchor="end"))
        if long:
            parts += _bar(NAME_WIDTH, top, long, BAR_HEIGHT, value.fill)
        parts.append(Label(x=NAME_WIDTH + long + 1.5, y=top + BAR_HEIGHT - 1.0, text=value.figure, size_pt=NAME_PT))
    return Chart(title=title, width=WIDTH, height=height, parts=tuple(parts), notes=notes)


def _scaled(amount: int | None, most: int, length: float) -> float:
    """Return the length of a bar: none for zero, and never so little that it cannot be seen."""
    if not amount or not most:
        return 0.0
    return round(max(amount / most * length, 0.4), 3)


def _bar(x: float, y: float, width: float, height: float, fill: Fill) -> list[Box | Line]:
    box = Box(x=round(x, 3), y=round(y, 3), width=round(width, 3), height=round(height, 3), fill=fill)
    return [box, *_hatch(box)] if fill == "hatched" else [box]


def _hatch(box: Box) -> list[Line]:
    """Return lines at 45 degrees within a box: x - y = offset, cut at its sides."""
    lines = []
    offset = -box.height + HATCH_STEP
    while offset < box.width:
        start_x, end_x = max(0.0, offset), min(box.width, offset + box.height)
        lines.append(Line(x1=round(box.x + start_x, 3), y1=round(box.y + start_x - offset, 3),
                          x2=round(box.x + end_x, 3), y2=round(box.y + end_x - offset, 3), weight=0.15))
        offset += HATCH_STEP
    return lines


def _fitting(name: str) -> str:
    """Return a name cut to the width that names have."""
    room = (NAME_WIDTH - 3) / (NAME_PT * CHAR_MM)
    for place, char in enumerate(name):
        room -= 1.0 if ord(char) > 0x2E7F else 0.6
        if room < 1 and place + 1 < len(name):
            return name[:place] + "…"
    return name
