"""What every exported workbook begins with: what it is, for which programme, at which instant, and what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from config.programme import PlatformType, Programme
from protocols.terms.say import Say
from verifier.audit.results import CountResult, as_json
from verifier.commands import SHOWN_ZONE, local_time
from verifier.forms.catalogue import Wanted
from verifier.report.xlsx import basis_sheet
from verifier.report.xlsx_book import Book


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One export. told: the published JSON of `counted`."""

    programme: Programme
    platform_type: PlatformType | None
    wanted: Wanted
    counted: CountResult
    told: dict[str, Any]

    @staticmethod
    def of(programme: Programme, platform_type: PlatformType | None, wanted: Wanted, counted: CountResult) -> Request:
        """Return the request with the JSON of its count."""
        return Request(programme=programme, platform_type=platform_type, wanted=wanted, counted=counted,
                       told=as_json(counted))

    @property
    def at_s(self) -> int:
        """The instant that was counted."""
        return self.counted.at.counted_s if self.counted.at is not None else 0

    @property
    def asked_s(self) -> int:
        """The instant that was asked for: gateways with other windows round it down each in its own way."""
        return self.counted.at.asked_s if self.counted.at is not None else 0


def time_of(at_s: int) -> datetime:
    """Return an instant as a time with the zone in which it is shown."""
    return datetime.fromtimestamp(at_s, SHOWN_ZONE)


def cover(book: Book, request: Request, say: Say, notes: Sequence[str]) -> None:
    """Write the title sheet. notes: what a reader must know of this table, one sentence each."""
    sheet = book.sheet(say("forms.sheet.cover"), landscape=False)
    sheet.widths((24, 16, 16, 16, 18))
    wanted, counted, head = request.wanted, request.counted, request.programme.data.programme
    sheet.title(wanted.name_zh, columns=5)
    rows = [("programme", f"{head.title_zh} {head.doc_no}".strip()), ("authority", head.authority_zh),
            ("source", wanted.cite or say("forms.no_source")),
            ("type", "" if request.platform_type is None else request.platform_type.name_zh
             if say.lang == "zh" else request.platform_type.name_en),
            ("applicant", ""), ("at", local_time(request.at_s)),
            ("uscc", ", ".join(sorted({b.summary["uscc"] or "-" for b in counted.bundles}))),
            ("verdict", say(f"sheet.{counted.verdict}"))]
    for name, value in rows:
        if value or name == "applicant":
            sheet.wide(say(f"forms.cover.{name}"), value, columns=5)
    for bundle in counted.bundles:
        sheet.wide(say("printed.digest.bundle"), bundle.sha256, columns=5)
    sheet.wide(say("printed.digest.policy"), counted.digests.policy, columns=5)
    sheet.wide(say("printed.digest.basis"), request.programme.sha256, columns=5)
    sheet.heading(say("forms.notes"))
    for note in notes:
        sheet.line(f"· {note}", columns=5)


def basis(book: Book, request: Request, say: Say) -> None:
    """Write the sheet with the counting basis, the bundles' verification, and what evidence cannot prove."""
    basis_sheet(book.sheet(say("sheet.basis"), landscape=False), request.told, say)


def footer(request: Request, say: Say) -> str:
    """Return the foot of every printed page: which evidence, which page."""
    return say("forms.footer", name=request.wanted.name_zh, digest=request.counted.bundles[0].sha256[:16],
               page="{page}", pages="{pages}")
