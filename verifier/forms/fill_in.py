"""The fill-in sheet: every figure that a programme asks of a platform type, in the order of its form, to be filled in.

Beside each figure stands what the evidence proves of it. `audit FILL-IN.xlsx` reads the sheet as the claim; where each
value stands is said in `verifier.audit.claim_sheet`, which reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from config.programme import PlatformType, Programme
from config.programme_forms import FormField
from protocols.terms.say import Say
from protocols.terms.vocabulary import DEPLOYMENTS
from verifier.audit.claim import LEDGER, field_name
from verifier.audit.claim_sheet import GROUP_FIRST, NAME, PART, SHA256, UNIT, VALUE
from verifier.audit.divisions import OTHER, OTHER_NAMES, division
from verifier.commands import local_time
from verifier.forms.cover import Request, basis, cover
from verifier.forms.tables import proven_of
from verifier.report.xlsx_book import Book, Cell, Column, Sheet

GROUP_ROWS = 40
FREE_ROWS = 20
"""Empty rows for groups, and for parts or documents that no list names."""

WIDTHS = (5, 12, 32, 12, 24, 8, 7, 12, 22, 26)
SPLIT_WIDTHS = (5, 27, 24, 8, 24, 8, 7, 12, 22, 23)
"""Codes of parts are words without a blank: they need the room that numbers of the form do not."""
HEADS = ("key", "number", "name", "unit", "value", "required_head", "class", "proven", "file", "sha256")
ENTERED = (VALUE, SHA256 - 1, SHA256)
WITH_DOCUMENTS = ("c", "c+")


@dataclass(frozen=True, slots=True)
class Asked:
    """A figure that is asked for: by a field of the form, else by a rule or an indicator."""

    metric: str
    number: str
    name: str
    unit: str
    required: bool | None
    evidence: str


def asked_for(programme: Programme, platform_type: PlatformType) -> list[Asked]:
    """Return the figures that a platform type fills in: in form order, then those of rules, then other indicators."""
    data, kind = programme.data, platform_type.key
    found: dict[str, Asked] = {}
    for item in data.fields:
        if item.by is None and (kind in item.required or kind in item.optional):
            found[item.metric] = Asked(item.metric, _number_of(item), item.name_zh, item.unit, kind in item.required,
                                       item.evidence)
    indicators = [item for item in data.indicators if not item.types or kind in item.types]
    classes = {metric: item.evidence for item in reversed(indicators) for metric in item.metrics}
    named = [key for rule in data.rules_of(kind) for key in sorted(rule.metric_keys())]
    named += [metric for item in indicators if item.by is None for metric in item.metrics]
    for key in named:
        metric = programme.metrics[key]
        own = classes.get(key, {"proven": "b", "operations": "a"}.get(metric.evidence, "c"))
        found.setdefault(key, Asked(key, "", metric.zh, metric.unit, None, own))
    return list(found.values())


def _number_of(item: FormField) -> str:
    return field_name(item).removesuffix(item.name_zh).strip()


def splits_for(programme: Programme, platform_type: PlatformType) -> list[tuple[str, str]]:
    """Return (metric, division) of every split that fields, rules or indicators of a platform type name."""
    data, kind = programme.data, platform_type.key
    named = [(item.metric, item.by) for item in data.fields if kind in item.required or kind in item.optional]
    named += [(term.metric, term.by) for rule in data.rules_of(kind) for check in rule.checks
              for term in (*check.left, *check.right) if term.metric is not None]
    named += [(item.metrics[0], item.by) for item in data.indicators
              if len(item.metrics) == 1 and (not item.types or kind in item.types)]
    return list(dict.fromkeys((metric, by) for metric, by in named if by is not None))


def grouped_metrics(programme: Programme, platform_type: PlatformType) -> tuple[list[str], list[str]]:
    """Return the divisions by which rules ask for figures of each group, and those figures."""
    rules = [rule for rule in programme.data.rules_of(platform_type.key) if rule.groups is not None]
    by = dict.fromkeys(name for rule in rules if rule.groups is not None for name in rule.groups.by)
    metrics = dict.fromkeys(test.metric for rule in rules for branch in rule.any for test in branch.all)
    return list(by), list(metrics)


def write_fill_in(book: Book, request: Request, say: Say) -> None:
    """Write the fill-in sheet of a programme and platform type."""
    platform_type = request.platform_type
    assert platform_type is not None
    asked = asked_for(request.programme, platform_type)
    cover(book, request, say, [say(f"forms.fill.{name}") for name in (
        "how", "at", "numbers", "documents", "hash", "required", "protected")])
    _enterprise(_sheet(book, say("forms.fill.sheet.claim"), request, say), request, platform_type, asked, say)
    _figures(_sheet(book, say("forms.fill.sheet.metrics"), request, say), request, asked, say)
    for number, (metric, by) in enumerate(splits_for(request.programme, platform_type), 1):
        name = say("forms.fill.sheet.split", number=number)
        _split(_sheet(book, name, request, say, SPLIT_WIDTHS), request, metric, by, say)
    divisions, metrics = grouped_metrics(request.programme, platform_type)
    if divisions:
        _groups(_sheet(book, say("forms.fill.sheet.groups"), request, say), request, divisions, metrics, say)
    _remarks(_sheet(book, say("forms.fill.sheet.remarks"), request, say), request, platform_type, asked, say)
    basis(book, request, say)


def _sheet(book: Book, name: str, request: Request, say: Say, widths: Sequence[int] = WIDTHS) -> Sheet:
    """Add a sheet on which only what is to be filled in can be changed; no password."""
    sheet = book.sheet(name)
    sheet.widths(widths)
    sheet.protect()
    sheet.title(f"{request.wanted.name_zh}：{name}" if say.lang == "zh" else name, columns=len(WIDTHS))
    return sheet


def _head(sheet: Sheet, say: Say, **named: str) -> list[Column]:
    """Write the head of a fill-in table; `named`: other titles than the usual ones."""
    columns = [Column(title=named.get(key, say(f"forms.fill.{key}")), entered=at in ENTERED, kind="text")
               for at, key in enumerate(HEADS)]
    sheet.head(columns, freeze=True)
    return columns


def _row(sheet: Sheet, columns: Sequence[Column], cells: dict[int, Cell], entered: Sequence[int] = (VALUE,)) -> int:
    """Write one row of a fill-in table; return which. The cells in `entered` may be filled in."""
    sheet.entry([cells.get(at) for at in range(len(columns))], entered)
    return sheet.row - 1


def _enterprise(sheet: Sheet, request: Request, platform_type: PlatformType, asked: Sequence[Asked],
                say: Say) -> None:
    columns = _head(sheet, say)
    head = request.programme.data.programme
    owners = sorted({bundle.summary["uscc"] for bundle in request.counted.bundles if bundle.summary["uscc"]})
    rows: list[tuple[str, str, Cell, bool]] = [
        ("claim.programme", say("forms.cover.programme"), head.key, False),
        ("claim.type", say("forms.cover.type"), f"{platform_type.key} {platform_type.name_zh}", False),
        ("claim.at", say("forms.fill.instant"), local_time(request.at_s), True),
        ("claim.enterprise.name", say("forms.fill.enterprise"), None, True),
        ("claim.enterprise.uscc", say("printed.uscc"), owners[0] if len(owners) == 1 else None, True)]
    rules = request.programme.data.rules_of(platform_type.key)
    modes = any(branch.mode for rule in rules for branch in rule.any)
    scopes = {test.scope for rule in rules for branch in rule.any for test in branch.all}
    if modes:
        rows.append(("claim.branch", say("forms.fill.branch"), None, True))
    rows += [(f"claim.{name}", say(f"forms.fill.{name}"), None, True) for name in ("industry", "region")
             if f"one_{name}" in scopes]
    if any(one.metric == LEDGER for one in asked):
        rows += [(f"ledger.{name}", say(f"forms.fill.ledger.{name}"), None, True)
                 for name in ("devices", "date", "file", "sha256")]
    for key, name, value, entered in rows:
        optional = key in ("claim.branch",) or key.startswith("ledger.")
        at = _row(sheet, columns, {0: key, NAME: name, VALUE: value, VALUE + 1: _required(not optional, say)},
                  (VALUE,) if entered else ())
        if key == "claim.branch":
            sheet.choices(VALUE, at, at, [f"{mode} {say(f'mode.{mode}')}" for mode in ("discrete", "process")])


def _required(required: bool | None, say: Say) -> str:
    return "" if required is None else say("forms.fill.must" if required else "forms.fill.may")


def _figures(sheet: Sheet, request: Request, asked: Sequence[Asked], say: Say) -> None:
    columns = _head(sheet, say)
    for one in asked:
        kind = request.programme.metrics[one.metric].kind
        documents = one.evidence in WITH_DOCUMENTS
        at = _row(sheet, columns, {
            0: f"metrics.{one.metric}", PART: one.number, NAME: one.name, UNIT: one.unit,
            VALUE + 1: _required(one.required, say), VALUE + 2: one.evidence, VALUE + 3: proven_of(request, one.metric),
        }, ENTERED if documents else (VALUE,))
        if kind == "yes_no":
            sheet.choices(VALUE, at, at, ("是", "否"))
        elif kind in ("count", "number"):
            sheet.numbers(VALUE, at, at, whole=kind == "count", message=say("forms.fill.number_wanted"))


def _parts(request: Request, by: str) -> list[tuple[str, str]]:
    """Return (key, name) of the parts that a division lists, `other` too; empty where its parts are free."""
    if by == "deployment":
        return [(key, key) for key in DEPLOYMENTS]
    listed = [(item.key, item.name_zh) for item in division(by, request.programme.data.divisions).parts()]
    return [*listed, (OTHER, "其他")] if listed and all(name not in OTHER_NAMES for _, name in listed) else listed


def _split(sheet: Sheet, request: Request, metric: str, by: str, say: Say) -> None:
    """Ask for a figure part by part, with what is proven of each where evidence divides it so."""
    told = request.programme.metrics[metric]
    sheet.line(say("forms.fill.split", name=told.zh if say.lang == "zh" else told.en, by=say(f"forms.by.{by}")),
               columns=len(WIDTHS))
    columns = _head(sheet, say, number=say("sheet.key"), name=say("forms.fill.part"))
    figures = request.counted.figures
    of = {"device_connected_count": "devices", "point_count": "points"}.get(metric)
    proven = {part.key: getattr(part, of) for part in figures.groups.get(by, ())} if figures and of else {}
    listed = _parts(request, by)
    key = f"splits.{metric}.{by}"
    first = sheet.row
    for part, name in listed:
        _row(sheet, columns, {0: key, PART: part, NAME: name, UNIT: told.unit,
                              VALUE + 3: proven.get(part, 0) if proven else None})
    for _ in range(0 if listed else FREE_ROWS):
        _row(sheet, columns, {0: key, UNIT: told.unit}, (NAME, VALUE))
    if told.kind in ("count", "number"):
        sheet.numbers(VALUE, first, sheet.row - 1, whole=told.kind == "count", message=say("forms.fill.number_wanted"))
    _row(sheet, columns, {0: f"explanation.{metric}.{by}", NAME: say("forms.fill.explanation")})


def _groups(sheet: Sheet, request: Request, by: Sequence[str], metrics: Sequence[str], say: Say) -> None:
    """Ask for the figures of each group, one group a row."""
    sheet.line(say("forms.fill.groups", by="、".join(f"{name} {say(f'forms.by.{name}')}" for name in by)),
               columns=len(WIDTHS))
    known = request.programme.metrics
    columns = [Column(title=say(f"forms.fill.{name}")) for name in ("key", "by", "group")]
    columns += [Column(title=f"{known[key].zh if say.lang == 'zh' else known[key].en}"
                             f"{f'（{known[key].unit}）' if known[key].unit else ''}") for key in metrics]
    sheet.entry(["groups", None, None, *metrics], (), keys=True)
    sheet.head(columns, freeze=True)
    first = sheet.row
    entered = range(1, GROUP_FIRST + len(metrics))
    for _ in range(GROUP_ROWS):
        sheet.entry(["group", *[None] * (len(columns) - 1)], entered)
    sheet.choices(PART, first, sheet.row - 1, [f"{name} {say(f'forms.by.{name}')}" for name in by])
    for at, key in enumerate(metrics):
        if known[key].kind in ("count", "number"):
            sheet.numbers(GROUP_FIRST + at, first, sheet.row - 1, whole=known[key].kind == "count",
                          message=say("forms.fill.number_wanted"))


def _remarks(sheet: Sheet, request: Request, platform_type: PlatformType, asked: Sequence[Asked], say: Say) -> None:
    """Ask for explanations of differences, and for further documents."""
    sheet.line(say("forms.fill.further"), columns=len(WIDTHS))
    columns = _head(sheet, say, number=say("forms.fill.metric"))
    for key, text in _explained(request, platform_type, say):
        _row(sheet, columns, {0: f"explanations.{key}", NAME: text})
    first = sheet.row
    names = [one.metric for one in asked if one.evidence in WITH_DOCUMENTS]
    for _ in range(FREE_ROWS if names else 0):
        _row(sheet, columns, {0: "documents", NAME: say("forms.fill.document")}, (PART, SHA256 - 1, SHA256))
    if names:
        sheet.choices(PART, first, sheet.row - 1, names)


def _explained(request: Request, platform_type: PlatformType, say: Say) -> Iterator[tuple[str, str]]:
    for rule in request.programme.data.rules_of(platform_type.key):
        if any(check.explained for check in rule.checks):
            yield rule.id, say("forms.fill.explain_rule", rule=rule.zh if say.lang == "zh" else rule.en)
