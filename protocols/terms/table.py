"""Tables for a terminal: a Chinese character takes two columns there, and nothing in a cell may steer the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

CELL_CHARS_MAX = 60


def render(header: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "  ", numbers: bool = False
           ) -> list[str]:
    """Return lines: a header, then the rows, columns two spaces apart. The last column is neither padded nor cut.

    numbers: cells stand at the right of their columns.
    """
    shown = [[_cell(cell, cut=place < len(header) - 1) for place, cell in enumerate(row)] for row in (header, *rows)]
    widths = [max(width(row[column]) for row in shown) for column in range(len(header))]
    padded = ([(cell, " " * (w - width(cell))) for cell, w in zip(row, widths, strict=True)] for row in shown)
    return [(indent + "  ".join(space + cell if numbers else cell + space for cell, space in row)).rstrip()
            for row in padded]


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cell(text: str, *, cut: bool) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text[: CELL_CHARS_MAX - 1] + "…" if cut and len(text) > CELL_CHARS_MAX else text
