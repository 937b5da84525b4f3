"""Forms, lists and reports of a programme as data: numbered fields, printed columns, the monitoring table, layout."""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import Field

from config.loader import Section
from config.programme_rules import Cited, Division, Evidence, Sentence


class FormField(Section):
    """A figure that the form asks for. `number` is its number in the form; where one number or row of the form has
    several boxes, their order follows a dash.

    required: platform types that the document tells to fill it in; a claim without it does not hold. optional: types
    that the form asks without that; other types leave it empty.
    by: the division in which the figure is asked for.
    """

    number: str
    name_zh: str
    name_en: str
    metric: str
    by: Division | None = None
    unit: str
    evidence: Evidence
    cite: str
    required: list[str] = Field(default_factory=list)
    optional: list[str] = Field(default_factory=list)
    note: Sentence | None = None


class MonitoringRow(Section):
    """One row of a monitoring table: category, indicator, unit and explanation as the table is laid out.

    part_of: the row is a part (其中) of the one before it that is not.
    """

    number: int = Field(ge=1)
    category_zh: str
    name_zh: str
    unit: str
    explanation_zh: str
    indicator: str
    part_of: bool = False


class MonitoringTable(Section):
    """A monitoring table with the heads of its columns as printed."""

    key: str
    name_zh: str
    columns_zh: list[str] = Field(min_length=1)
    cite: str
    rows: list[MonitoringRow] = Field(min_length=1)


class ProofList(Section):
    """A list that the programme asks for as proof.

    columns_zh: as printed, none where the document prints none. open: the printed columns end with 等.
    producible: full from evidence; partial, some columns from evidence; template, an empty form; attach, a document.
    """

    key: str
    number: str = ""
    name_zh: str
    columns_zh: list[str] = Field(default_factory=list)
    open: bool = False
    min_rows: int = 0
    producible: Literal["full", "partial", "template", "attach"]
    personal_data: bool = False
    cite: str
    note: Sentence | None = None


class Attachment(Section):
    """A document that is attached to the application. `producible`: evidence and report of this program fit here."""

    number: str
    name_zh: str
    required: bool
    producible: bool = False
    cite: str


class Style(Section):
    """Layout rules: `size` is the Chinese size name as printed, `size_pt` the same in points."""

    part: Literal["body", "heading_1", "heading_2"]
    font_zh: str
    size_zh: str
    size_pt: float
    line_spacing_zh: str = ""


class Report(Section):
    """A document of the programme: its parts in order, or the columns of a summary table."""

    key: str
    name_zh: str
    annex: str = ""
    cite: str
    parts_zh: list[str] = Field(default_factory=list)
    header_zh: list[str] = Field(default_factory=list)
    columns_zh: list[str] = Field(default_factory=list)
    note_zh: str = ""
    attachments_zh: list[str] = Field(default_factory=list)
    filled_by: Literal["applicant", "recommender"] = "applicant"
    paper: str = ""
    duplex: bool = False
    glued: bool = False
    toc_levels: int | None = None
    styles: list[Style] = Field(default_factory=list)


class Submission(Cited):
    """Limits of what is handed in. Absent: the document does not say. deadline: the last day, Beijing time.
    demonstration: proof must be shown live when asked for."""

    format: str = ""
    files: int | None = None
    megabytes_max: int | None = None
    paper_copies: int | None = None
    summary_copies: int | None = None
    electronic: bool = False
    deadline: date | None = None
    demonstration: bool = False
    signed_scan: bool = False


class Track(Section):
    """A way to file. `review`: by how many levels it is reviewed, 0 for none."""

    key: str
    name_zh: str
    annex: str
    review: int = Field(ge=0)
    cite: str


class Names(Section):
    """Official names of things that belong together, like kinds of proof, in the order of the document."""

    key: str
    names_zh: list[str] = Field(min_length=1)
    cite: str
    open: bool = False


class Form(Section):
    """[form]: what the programme's form asks for, and what comes with it."""

    fields: list[FormField] = Field(default_factory=list)
    lists: list[ProofList] = Field(default_factory=list)
    attachments: list[Attachment] = Field(default_factory=list)
    names: list[Names] = Field(default_factory=list)
