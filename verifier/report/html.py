"""The report of an audit, or of a count: one HTML file that needs no network and no other file, and that prints on A4.

A browser that runs no script shows all of it. One that does gets a search box over the rows; the page allows that one
script by its SHA-256 and nothing else, and the script reads and hides rows of the page it stands in.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from protocols.terms.say import Say
from verifier.report.content import report_document
from verifier.report.document import Bullets, Chart, Command, Fold, Form, Label, Line, Paragraph, Table, Verdict
from verifier.report.wording import Json

TEMPLATE = "audit_report.html"
SCRIPT = "audit_report.js.txt"
ROWS_MAX = 2_000
"""Devices printed one by one in each list: what an old machine's browser scrolls. The XLSX and the JSON list all."""

MM_PER_PT = 25.4 / 72
KINDS = {Bullets: "bullets", Chart: "chart", Command: "command", Fold: "fold", Form: "form", Paragraph: "paragraph",
         Table: "table", Verdict: "verdict"}
SHAPES = {Line: "line", Label: "label"}


def render(result: Json, say: Say, *, bilingual: bool = False) -> str:
    """Return the HTML of the result of an audit or a count. The same result gives the same bytes."""
    document = report_document(result, say, rows_max=ROWS_MAX, bilingual=bilingual)
    script = _script()
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _environment().get_template(TEMPLATE).render(
        document=document, say=say, script=Markup(script), script_sha256=allowed)


@cache
def _environment() -> Environment:
    environment = Environment(loader=PackageLoader("verifier.report", ""), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.globals["kind"] = lambda block: KINDS[type(block)]
    environment.globals["shape"] = lambda part: SHAPES.get(type(part), "box")
    environment.globals["mm"] = lambda size_pt: f"{size_pt * MM_PER_PT:.2f}"
    environment.filters["n"] = lambda value: f"{value:.2f}".rstrip("0").rstrip(".")
    return environment


@cache
def _script() -> str:
    return resources.files("verifier.report").joinpath(SCRIPT).read_text(encoding="utf-8")
