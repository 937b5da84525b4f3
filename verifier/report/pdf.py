"""The report of an audit or a count as PDF for A4: text and lines alone, fonts embedded and cut down to what is used.

The same result and the same fonts give the same bytes: its date is the instant T, and no clock is read.
"""

from __future__ import annotations

import io
import logging
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocols.errors import ConfigError, Problem
from protocols.terms.say import Say
from verifier.commands import SHOWN_ZONE
from verifier.report.content import report_document
from verifier.report.document import Document
from verifier.report.fonts import FONTS, check_library, find_fonts
from verifier.report.layout import Area, Bookmark, Glyphs, Part, Stroke, lay_out
from verifier.report.typeset import Face, Typesetter
from verifier.report.wording import Json

if TYPE_CHECKING:
    from fpdf import FPDF

ROWS_MAX = 200
"""Devices printed one by one in each list; how many more there are is said, and the XLSX and the JSON list all."""

MAKER = "Tallystick 符契"
YEAR_MAX = 9999


def render_pdf(result: Json, say: Say, *, bilingual: bool = False, fonts: Path | None = None) -> bytes:
    """Return the PDF of the result of an audit or a count. The same result and fonts give the same bytes.

    Raises: ConfigError if a font, or the library of the extra `documents`, is missing.
    """
    check_library()
    paper = _paper(find_fonts(fonts))
    widths: dict[Face, Any] = {}
    for face in FONTS:
        font: Any = paper.fonts[face]
        widths[face] = {point: font.cw[point] for point in font.cmap}
    document = report_document(result, say, rows_max=ROWS_MAX, bilingual=bilingual)
    pages = lay_out(document, Typesetter(say.lang, widths), say)
    _describe(paper, document)
    for parts in pages:
        paper.add_page()
        for part in parts:
            _draw(paper, part)
    written = io.BytesIO()
    paper.output(written)
    return written.getvalue()


def _paper(files: dict[Face, Path]) -> FPDF:
    """Return an empty document with the fonts in it."""
    from fpdf import FPDF

    # What it would say: bitmaps of the fonts are left out. They are of no use here, and a reader need not know.
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    paper = FPDF(orientation="portrait", unit="mm", format="A4")
    paper.set_auto_page_break(False)
    paper.set_margin(0)
    for face, path in files.items():
        try:
            paper.add_font(face, fname=path)
        except Exception as error:  # fontTools raises what its parsers stumble over: any kind
            raise ConfigError(Problem.of(str(path), "report.bad_font", font=FONTS[face].file,
                                         reason=type(error).__name__)) from error
        if not paper.fonts[face].name.startswith(FONTS[face].name):
            raise ConfigError(Problem.of(str(path), "report.bad_font", font=FONTS[face].file,
                                         reason=paper.fonts[face].name))
    return paper


def _describe(paper: FPDF, document: Document) -> None:
    paper.set_title(document.title.main)
    paper.set_subject(f"{document.source.main} {document.subject}")
    paper.set_author(MAKER)
    paper.set_creator(MAKER)
    paper.set_producer(MAKER)
    paper.set_keywords(f"{document.code} {document.sha256}")
    paper.set_lang("zh-CN" if document.lang == "zh" else "en")
    paper.set_creation_date(_date(document.dated_s))


def _date(time_s: int) -> datetime:
    """Return T with the zone in which it is shown; far beyond the calendar, the end of the calendar."""
    try:
        return datetime.fromtimestamp(time_s, UTC).astimezone(SHOWN_ZONE)
    except (ValueError, OverflowError, OSError):
        return datetime(YEAR_MAX, 12, 31, tzinfo=UTC)


def _draw(paper: FPDF, part: Part) -> None:
    match part:
        case Glyphs():
            paper.set_font(part.face, size=part.size_pt)
            with paper.rotation(90, part.x, part.y) if part.upright else nullcontext():
                paper.text(part.x, part.y, part.text)
        case Stroke():
            paper.set_line_width(part.weight)
            paper.line(part.x1, part.y1, part.x2, part.y2)
        case Area():
            _area(paper, part)
        case Bookmark():
            paper.set_y(part.y)
            paper.start_section(part.title, level=part.level)


def _area(paper: FPDF, area: Area) -> None:
    if area.grey is not None:
        paper.set_fill_color(round(area.grey * 255))
    paper.set_line_width(area.weight)
    if area.dashed:
        paper.set_dash_pattern(dash=0.8, gap=0.6)
    style = ("D" if area.weight else "") + ("F" if area.grey is not None else "")
    paper.rect(area.x, area.y, area.width, area.height, style=style)
    if area.dashed:
        paper.set_dash_pattern()
