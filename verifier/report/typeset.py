"""Text into lines: which font has a character, how wide it is, and where a line of Chinese and Latin may end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from verifier.report.document import SHOWN_INSTEAD, Style, Text

Face = Literal["song", "hei", "kai"]
MM_PER_PT = 25.4 / 72
LEADING = 1.42
"""Height of a line in sizes of its font."""

BESIDE_SIZE = 0.84
SIZES_PT: Mapping[Style, float] = {"body": 10.0, "small": 8.5, "strong": 10.0, "mono": 8.5}
OTHERS: Mapping[Face, tuple[Face, ...]] = {
    "song": ("song", "hei", "kai"), "hei": ("hei", "song", "kai"), "kai": ("kai", "song", "hei")}
"""Which fonts are asked for a character, in this order."""

SIGNS: Mapping[str, Face] = {"。": "hei", "、": "hei", "，": "song", "；": "song", "：": "song"}
"""Signs whose place in the square is that of GB/T 15834, lower left, in one of the fonts only; it is asked first."""

WIDE_FROM = 0x2E80
"""From here on a character stands for itself, and a line may end beside it."""

NEVER_FIRST = frozenset("，。、；：！？）》〉」』】〕］｝％…·”’,.;:!?)]}%°")
NEVER_LAST = frozenset("（《〈「『【〔［｛“‘([{")
BREAK_AFTER = frozenset(" -/_,;|")


@dataclass(frozen=True, slots=True)
class Look:
    """Font and size of a text."""

    face: Face
    size_pt: float

    @property
    def height(self) -> float:
        """Height of a line in mm."""
        return self.size_pt * MM_PER_PT * LEADING


@dataclass(frozen=True, slots=True)
class Run:
    """A part of a line in one font; x in mm from the start of the line."""

    x: float
    face: Face
    text: str


@dataclass(frozen=True, slots=True)
class TextLine:
    """One line, ready to be drawn."""

    runs: tuple[Run, ...]
    width: float
    look: Look


@dataclass(slots=True)
class Typesetter:
    """Breaks texts under the widths of the fonts. `widths`: face -> code point -> width in thousandths of the size.

    missing: the characters that no font has, in the order in which they were met.
    """

    lang: str
    widths: Mapping[Face, Mapping[int, float]]
    missing: dict[str, None] = field(default_factory=dict)
    _known: dict[tuple[Face, str], tuple[Face, str, float]] = field(default_factory=dict)

    def look(self, style: Style, *, strong: bool = False) -> Look:
        """Return font and size of a style. English is set in the font whose Latin letters were drawn for reading."""
        latin = self.lang != "zh" and style != "mono"
        return Look("hei" if strong or latin or style == "strong" else "song", SIZES_PT[style])

    def lines(self, text: Text, width: float, *, strong: bool = False, look: Look | None = None) -> list[TextLine]:
        """Return the lines of a text and of the English beside it."""
        chosen = look or self.look(text.style, strong=strong)
        told = list(self.broken(text.main, chosen, width))
        if text.beside:
            told += self.broken(text.beside, Look("hei", chosen.size_pt * BESIDE_SIZE), width)
        return told

    def broken(self, text: str, look: Look, width: float) -> Iterator[TextLine]:
        """Yield the lines of one text, none wider than `width` unless a single character is."""
        scale = look.size_pt * MM_PER_PT / 1000
        glyphs = [self.glyph(look.face, char) for char in text]
        start = 0
        while start < len(text):
            x, place, may_end = 0.0, start, start
            while place < len(text):
                wide = glyphs[place][2] * scale
                if place > start and may_break(text[place - 1], text[place]):
                    may_end = place
                if x + wide > width and place > start and text[place] != " ":
                    place = may_end if may_end > start else place
                    break
                x += wide
                place += 1
            yield self._line(glyphs[start:place], look)
            while place < len(text) and text[place] == " ":
                place += 1
            start = place
        if not text:
            yield TextLine((), 0.0, look)

    def line(self, text: str, look: Look) -> TextLine:
        """Return a text as a single line, however wide."""
        return self._line([self.glyph(look.face, char) for char in text], look)

    def glyph(self, face: Face, char: str) -> tuple[Face, str, float]:
        """Return (font, character, width) of what is printed for a character: a box where no font has it."""
        known = self._known.get((face, char))
        if known is None:
            known = self._found(face, char) or self._instead(face, char)
            self._known[face, char] = known
        return known

    def _found(self, face: Face, char: str) -> tuple[Face, str, float] | None:
        for other in (SIGNS.get(char, face), *OTHERS[face]):
            width = self.widths[other].get(ord(char))
            if width is not None:
                return other, char, width
        return None

    def _instead(self, face: Face, char: str) -> tuple[Face, str, float]:
        self.missing[char] = None
        found = self._found(face, SHOWN_INSTEAD)
        assert found is not None, "each of the three fonts has U+25A1"
        return found

    def _line(self, glyphs: list[tuple[Face, str, float]], look: Look) -> TextLine:
        scale = look.size_pt * MM_PER_PT / 1000
        runs: list[Run] = []
        x, begun, chars = 0.0, 0.0, ""
        face: Face | None = None
        for other, char, wide in glyphs:
            if other != face:
                if face is not None:
                    runs.append(Run(begun, face, chars))
                face, begun, chars = other, x, ""
            chars += char
            x += wide * scale
        if face is not None:
            runs.append(Run(begun, face, chars))
        return TextLine(tuple(runs), x, look)


def may_break(before: str, after: str) -> bool:
    """Return whether a line may end between two characters (GB/T 15834 for the signs that must not stand there)."""
    if after in NEVER_FIRST or before in NEVER_LAST or after == " ":
        return False
    return before in BREAK_AFTER or ord(before) >= WIDE_FROM or ord(after) >= WIDE_FROM
