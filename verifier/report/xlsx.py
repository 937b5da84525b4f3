"""The report of an audit as a spreadsheet: every device and every figure as cells that can be sorted and summed.

It is made of the published JSON and nothing else, so it can say nothing that the JSON does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from config.classification import load_classification
from protocols.terms.say import Say
from verifier.commands import SHOWN_ZONE, level_lines, local_time
from verifier.report import wording, xlsx_claim
from verifier.report.identity import result_sha256, verification_code
from verifier.report.progress import Progress
from verifier.report.wording import Json
from verifier.report.xlsx_book import ROWS_MAX, Book, Cell, Column, Sheet

TABLES = ("class", "class_level_1", "industry", "city", "deployment", "thing")
"""Splits in the order in which the forms ask for them; what else the result holds follows."""

CHARTED = ("class", "city")
BARS_MAX = 40
"""Bars in one chart; the table beside it has all parts."""

DEVICE_COLUMNS = (("number", 6), ("id", 20), ("name", 20), ("maker", 14), ("model", 14), ("class", 16), ("thing", 9),
                  ("connected", 7), ("producing", 8), ("changing", 7), ("level", 7))
DEVICE_COUNTS = ("number", "level")
"""Columns and their widths, in characters."""

OLDEST_S, NEWEST_S = 0, 253_402_214_400
"""Times that a cell can show; what lies outside is written as a number."""


def write_report(path: Path, result: Json, say: Say) -> None:
    """Write the workbook of an audit result (docs/schemas/audit.schema.json). The same result gives the same bytes.

    Raises: ConfigError `forms.unwritten`.
    """
    counted = result["count"]
    at_s = result["claim"]["at_s"]
    digest = result_sha256(result)
    footer = say("sheet.footer", digest=digest[:16], code=verification_code(digest), page="{page}", pages="{pages}")
    with Book(path, title=say("printed.title"), created=when(at_s) or datetime.fromtimestamp(0, UTC),
              footer=footer, subject=str(result["programme"]["title_zh"]), progress=Progress(say)) as book:
        _summary(book.sheet(say("sheet.summary")), result, digest, say)
        xlsx_claim.sheets(book, result, say)
        if counted["figures"] is not None:
            _splits(book.sheet(say("sheet.splits"), landscape=False), counted, say)
            if counted["figures"]["daily_running"] is not None:
                _daily(book.sheet(say("sheet.daily"), landscape=False), counted["figures"]["daily_running"], say)
            devices = counted["devices"]
            _devices(book, say("sheet.not_counted"), [d for d in devices if d["reason"] is not None], say, reasons=True)
            _devices(book, say("sheet.counted"), [d for d in devices if d["reason"] is None], say, reasons=False)
        if any(bundle["findings"] for bundle in counted["bundles"]) or result["findings"] or counted["findings"]:
            _findings(book.sheet(say("sheet.findings")), result, say)
        basis = book.sheet(say("sheet.basis"))
        basis_sheet(basis, counted, say)
        if result["programme"]["notes"]:
            basis.heading(say("told.notes"))
            for note in result["programme"]["notes"]:
                basis.line(wording.named(note, say) + (f" [{note['cite']}]" if note["cite"] else ""), columns=3)


def when(time_s: int | None) -> datetime | None:
    """Return a POSIX time for a cell, in the zone that is shown to people; None for none and what no cell can show."""
    if time_s is None or not OLDEST_S <= time_s <= NEWEST_S:
        return None
    return datetime.fromtimestamp(time_s, UTC).astimezone(SHOWN_ZONE)


def _summary(sheet: Sheet, result: Json, digest: str, say: Say) -> None:
    sheet.widths((36, 14, 14, 12, 10, 30))
    counted, claim, programme = result["count"], result["claim"], result["programme"]
    verdict = "holds" if result["verdict"] == "holds" else "does_not_hold"
    sheet.title(say("printed.title"))
    sheet.line(say(f"audit.{verdict}"), style="strong")
    sheet.line(say(f"audit.{verdict}_means"))
    resting = sum(rule["status"] == "declared" for rule in result["rules"])
    if resting:
        sheet.line(say("audit.resting", count=resting, rules=len(result["rules"])))
    sheet.skip()
    rows = [("programme", f"{programme['title_zh']} {programme['doc_no']}".strip()),
            ("type", programme["type_zh"] if say.lang == "zh" else programme["type_en"]),
            ("enterprise", claim["enterprise"]), ("uscc", claim["uscc"]), ("at", local_time(claim["at_s"]))]
    for name, value in rows:
        sheet.wide(say(f"printed.{name}"), value)
    if counted["at"] is not None:
        sheet.wide("", say("printed.counted_at", at=local_time(counted["at"]["counted_s"]),
                                since=local_time(counted["at"]["from_s"])))
    for cutoff in programme["cutoffs"]:
        sheet.wide(say("printed.cutoff"), wording.named(cutoff, say))
    sheet.heading(say("printed.section.claim"))
    columns = (Column(title=say("printed.metric")), Column(title=say("printed.claimed"), kind="number"),
               Column(title=say("printed.proven"), kind="number"),
               Column(title=say("printed.difference"), kind="number"), Column(title=say("sheet.unit")),
               Column(title=say("printed.evidence")))
    sheet.table(columns, (_metric(metric, say) for metric in result["metrics"]))
    figures = counted["figures"]
    sheet.heading(say("printed.section.figures"))
    if figures is None:
        sheet.line(say("printed.no_figures"))
    else:
        sheet.line(say("printed.conservation", configured=figures["devices"]["configured"],
                       counted=figures["devices"]["counted"], not_counted=sum(figures["not_counted"].values())))
        stages = [(say(f"sheet.devices.{name}"), figures["devices"][name])
                  for name in ("configured", "connected", "producing", "changing", "counted")]
        stages += [(say(f"sheet.points.{name}"), figures["points"][name])
                   for name in ("configured", "sampled", "producing", "changing", "counted", "folded", "value")]
        sheet.pairs(stages)
        for line in (*level_lines(counted["levels"], say), *wording.sealed_lines(figures["sealed"], say)):
            sheet.line(line)
    sheet.heading(say("sheet.reasons"))
    reasons = figures["not_counted"] if figures is not None else {}
    sheet.pairs((say(f"reason.{name}"), number) for name, number in reasons.items())
    if not any(reasons.values()):
        sheet.line(say("printed.all_counted") if figures is not None else say("printed.no_figures"))
    sheet.skip()
    sheet.wide(say("sheet.code"), verification_code(digest))
    sheet.wide(say("sheet.digest"), digest)
    sheet.line(say("sheet.check"))


def _metric(metric: Json, say: Say) -> list[Cell]:
    """Return a figure by its number in the form: claimed, proven, and what it can be proven by at all."""
    claimed, proven = metric["claimed"], metric["proven"]
    both = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (claimed, proven))
    name = metric["field"] if metric["field"] and say.lang == "zh" else wording.named(metric, say)
    if metric["field"] and say.lang != "zh":
        name = f"{metric['field']}: {name}"
    if claimed is None and metric["required"]:
        name += "\n" + say("report.missing_field")
    evidence = say(f"printed.evidence.{metric['evidence']}")
    if metric["evidence_class"]:
        evidence = say("report.evidence_class", evidence=evidence, name=metric["evidence_class"])
    # What is only declared is never shown as proven.
    told = [wording.ABSENT if value is None else xlsx_claim.cell(value, say) for value in (claimed, proven)]
    difference = claimed - proven if both and metric["evidence"] == "proven" else None
    return [name, *told, difference, metric["unit"], evidence]


def _splits(sheet: Sheet, counted: Json, say: Say) -> None:
    """Every split with its sum, which is the total: devices that do not state the key are a part of their own."""
    sheet.widths((42, 24, 14))
    sheet.title(say("sheet.splits"), columns=3)
    total, splits = counted["figures"]["devices"]["counted"], counted["figures"]["splits"]
    sheet.line(say("sheet.splits_total", total=total), columns=3)
    columns = (Column(title=say("sheet.part")), Column(title=say("sheet.key")),
               Column(title=say("printed.devices"), kind="count"))
    charted = []
    for name in (*TABLES, *(n for n in splits if n not in TABLES)):
        parts = splits.get(name, [])
        sheet.heading(say(f"sheet.split.{name}"))
        first = sheet.row + 1
        sheet.table(columns, ((part_name(name, part, say), part["key"] or "", part["devices"]) for part in parts))
        sheet.record(columns, (say("printed.sum"), "", sum(part["devices"] for part in parts)), strong=True)
        if name in CHARTED and parts:
            charted.append((name, first, first + min(len(parts), BARS_MAX) - 1))
    for at, (name, first, last) in enumerate(charted):
        sheet.bars(say(f"sheet.split.{name}"), first, last, names=0, values=2, row=sheet.row + 1 + at * 24)


def part_name(split: str, part: Json, say: Say) -> str:
    """Return what a part of a split is called."""
    if part["key"] is None:
        return say("printed.no_class")
    if part["name_zh"]:
        return wording.named(part, say)
    return say(f"value.{part['key']}") if split in ("deployment", "thing") else str(part["key"])


def _daily(sheet: Sheet, days: Sequence[Json], say: Say) -> None:
    sheet.widths((16, 16, 30))
    sheet.title(say("printed.days"), columns=3)
    columns = (Column(title=say("sheet.date")), Column(title=say("printed.devices"), kind="count"),
               Column(title=say("sheet.remark")))
    first = sheet.row + 1
    sheet.table(columns, ((day["date"], day["devices"], _day_remark(day, say)) for day in days), freeze=True)
    if days:
        sheet.bars(say("printed.days"), first, sheet.row - 1, names=0, values=1, row=sheet.row + 1, upright=True)


def _day_remark(day: Json, say: Say) -> str:
    if day["devices"] is None:
        return say("count.not_proven")
    return "" if day["whole"] else say("count.in_part", devices=day["devices"])


def _devices(book: Book, name: str, devices: Sequence[Json], say: Say, *, reasons: bool) -> None:
    shown = (*DEVICE_COLUMNS, ("reason" if reasons else "remark", 24))
    columns = [Column(title=say(f"sheet.device.{key}"), kind="count" if key in DEVICE_COUNTS else "text", width=width)
               for key, width in shown]
    rows = ([at, f"{d['gateway']}:{d['slot']}", d["name"] or say("printed.unnamed"), d["maker"], d["model"],
             class_name(d["equipment_class"], say), say(f"value.{d['thing']}"),
             *(say("basis.yes" if d[stage] else "basis.no") for stage in ("connected", "producing", "changing")),
             d["level"], say(f"reason.{d['reason']}") if reasons else _remarks(d, say)]
            for at, d in enumerate(devices, 1))
    long_table(book, name, columns, rows, title=f"{name}（{len(devices)}）")


def class_name(key: str | None, say: Say) -> str:
    """Return the official name of a class of Appendix B in Chinese, else its key; empty where none is stated."""
    known = load_classification("equipment_jx_b").classes.get(key or "")
    return known.name_zh if known is not None and say.lang == "zh" else key or ""


def _remarks(device: Json, say: Say) -> str:
    return ("；" if say.lang == "zh" else "; ").join(say(f"remark.{name}") for name in device["remarks"])


def long_table(book: Book, name: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, title: str,
               ours: str | None = None, theirs: str = "", pages_wide: int = 1, repeated: int = 0,
               above: str = "", below: str = "", rows_max: int = ROWS_MAX) -> None:
    """Write a table of any length: what one sheet cannot hold goes on on the next, with the same head.

    ours, theirs: see Sheet.head. pages_wide: pages beside each other in print, each with the first `repeated` columns.
    above, below: a line before the head, and one after the last row.
    """
    source = iter(rows)
    row, number = next(source, None), 1
    while row is not None or number == 1:
        sheet = book.sheet(name if number == 1 else f"{name} ({number})")
        sheet.pages(pages_wide, repeated)
        sheet.widths([column.width for column in columns])
        sheet.title(title, columns=repeated or len(columns))
        if above:
            sheet.line(above, columns=len(columns))
        sheet.head(columns, freeze=True, ours=ours, theirs=theirs)
        head, left = sheet.row - 1, rows_max
        while row is not None and left:
            sheet.record(columns, row)
            row, left = next(source, None), left - 1
        sheet.filter(head, len(columns))
        for at, column in enumerate(columns):
            if column.choices and sheet.row > head + 1:
                sheet.choices(at, head + 1, sheet.row - 1, column.choices)
        if below and row is None:
            sheet.line(below, columns=len(columns))
        number += 1


def _findings(sheet: Sheet, result: Json, say: Say) -> None:
    columns = [Column(title=say(f"sheet.finding.{key}"), width=width) for key, width in (
        ("severity", 10), ("where", 30), ("text", 84), ("code", 28))]
    sheet.widths([column.width for column in columns])
    sheet.title(say("printed.section.findings"), columns=len(columns))
    sheet.head(columns, freeze=True)
    told = [(f, f["where"]) for f in (*result["findings"], *result["count"]["findings"])]
    told += [(f, f"{bundle['sha256'][:12]} {f['where']}") for bundle in result["count"]["bundles"]
             for f in bundle["findings"]]
    for finding, where in told:
        sheet.record(columns, [say(f"severity.{finding['severity']}"), where, wording.finding(finding, say),
                               finding["code"]])


def basis_sheet(sheet: Sheet, counted: Json, say: Say) -> None:
    """Write what every figure rests on: basis, evidence and its verdict, files, what is left open, limits."""
    sheet.widths((38, 34, 62))
    basis = counted["basis"]
    sheet.title(say("printed.section.basis"), columns=3)
    sheet.line(say("count.basis", key=basis["key"], version=basis["version"]), columns=3)
    if counted["at"] is not None:
        sheet.line(say("sheet.at", at=local_time(counted["at"]["counted_s"]),
                       since=local_time(counted["at"]["from_s"])), columns=3)
    sheet.table([Column(title=say(f"printed.{name}")) for name in ("parameter", "value", "source")],
                wording.basis_rows(basis, say))
    sheet.heading(say("printed.evidence"))
    for bundle in counted["bundles"]:
        summary = bundle["summary"]
        told = [(say("printed.digest.bundle"), bundle["sha256"]),
                (say("printed.verdict"), say("sheet.valid" if bundle["verdict"] == "valid" else "sheet.invalid"))]
        if bundle["verdict"] == "valid":
            told += [(say("printed.site"), f"{summary['site'] or '-'}, {summary['gateway']}"),
                     (say("printed.uscc"), summary["uscc"] or "-"),
                     (say("printed.covered"), wording.interval(bundle, say)),
                     (say("printed.trust"), say(f"verify.trust.{summary['trust']}")),
                     ("", say(f"verify.time.{summary['time']}"))]
            told += [("", line) for line in wording.bundle_lines(bundle, say)]
        for name, value in told:
            sheet.wide(name, value, columns=3)
    for enterprise in counted["enterprises"]:
        for line in wording.enterprise_lines(enterprise, say):
            sheet.wide("", line, columns=3)
    sheet.heading(say("printed.digests"))
    for name, value in counted["digests"].items():
        if isinstance(value, str):
            sheet.wide(say(f"printed.digest.{name}"), value, columns=3)
    if counted["ambiguities"]:
        sheet.heading(say("printed.section.open"))
        for item in counted["ambiguities"]:
            sheet.line(wording.named(item, say) + (f" [{item['cite']}]" if item["cite"] else ""), columns=3)
    sheet.heading(say("printed.section.limits"))
    for code in counted["limits"]:
        sheet.line(f"· {say(code)}", columns=3)
