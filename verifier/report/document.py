"""A report as parts that have no form yet: the same document becomes a page of HTML and a PDF.

Every text may carry a second one, the English beside the Chinese. What is told stands in `content.py`; how it looks
stands in `html.py` and `pdf.py`.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Style = Literal["body", "small", "strong", "mono"]
Align = Literal["left", "right"]
Mark = Literal["", "fault", "total", "rule"]
Fill = Literal["solid", "hatched", "open"]
SHOWN_INSTEAD = "\N{WHITE SQUARE}"
"""For characters that have no shape of their own and could turn or hide the text around them."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Text:
    """One text; `beside` is the same in English where that was asked for and differs."""

    main: str
    beside: str = ""
    style: Style = "body"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`share` of the width in relation to the other columns. A `head` column names its row."""

    title: Text
    share: float = 1.0
    align: Align = "left"
    head: bool = False


Cell = tuple[Text, ...]
"""The lines of a cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row. A single cell below several columns goes across all of them."""

    cells: tuple[Cell, ...]
    mark: Mark = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`headed`: the titles are printed, again on every page. `searched`: its rows are found by the search box."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    headed: bool = True
    searched: bool = False


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Lines, each on its own."""

    lines: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list."""

    items: tuple[Text, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict in its frame; one that fails has another frame, not another colour."""

    title: Text
    lines: tuple[Text, ...]
    items: tuple[Text, ...]
    holds: bool


@dataclass(frozen=True, slots=True)
class Command:
    """What a person types, as it stands."""

    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Lines that a person fills with a pen: (label, what stands there already, height in mm)."""

    rows: tuple[tuple[Text, Text, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A bar of a chart, in mm from the upper left corner of the drawing."""

    x: float
    y: float
    width: float
    height: float
    fill: Fill


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a chart, `weight` in mm."""

    x1: float
    y1: float
    x2: float
    y2: float
    weight: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A text of a chart: x is its left, middle or right, y its base line; upright: it reads from below upwards."""

    x: float
    y: float
    text: str
    size_pt: float = 8.0
    anchor: Literal["start", "middle", "end"] = "start"
    upright: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing of lines and texts alone; its width is that of the page's text."""

    title: Text
    width: float
    height: float
    parts: tuple[Box | Line | Label, ...]
    notes: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Parts below a line of their own; on a screen they open and close."""

    title: Text
    blocks: tuple[Block, ...]
    opened: bool = False


Block = Table | Paragraph | Bullets | Verdict | Command | Form | Chart | Fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """`key` is its anchor on a page; the same in every language."""

    key: str
    title: Text
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """All of a report. `code` and `sha256`: see `identity.py`. dated_s: the date in its metadata, which is T."""

    lang: str
    title: Text
    source: Text
    subject: str
    sections: tuple[Section, ...]
    code: str
    sha256: str
    dated_s: int


def shown(text: str) -> str:
    """Return `text` from outside as it may be printed: controls, also those that turn the direction, become a box."""
    if text.isprintable():
        return text
    return "".join(SHOWN_INSTEAD if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def beside(first: T, second: T) -> T:
    """Return `first` with each text of `second`, the same document in English, beside it where the two differ."""
    return _beside(first, second)  # type: ignore[no-any-return]  # the same shape goes in and out


def _beside(first: Any, second: Any) -> Any:
    if isinstance(first, Text):
        return first if first.main == second.main else dataclasses.replace(first, beside=second.main)
    if isinstance(first, tuple):
        return tuple(_beside(a, b) for a, b in zip(first, second, strict=True))
    if isinstance(first, Box | Line | Label | Command) or not dataclasses.is_dataclass(first):
        return first
    return dataclasses.replace(first, **{  # type: ignore[type-var]  # an instance, never a class
        f.name: _beside(getattr(first, f.name), getattr(second, f.name)) for f in dataclasses.fields(first)})
