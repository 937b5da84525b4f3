"""Sheets of the audit workbook on the claim: figures by stage and level, every rule, what is left open, documents,
machines that several rows stand for, and a claimed list against the evidence. Nothing is left out for its length."""

from __future__ import annotations

import re
from collections.abc import Iterator

from protocols.terms.say import Say
from verifier.report.listed import history_lines, listed_state
from verifier.report.wording import Json, division_part, named, number
from verifier.report.xlsx_book import Book, Cell, Column, Sheet

STAGES = ("configured", "connected", "producing", "changing", "counted")
LEVELS = ("1", "2", "3", "4")
RULE_COLUMNS = (("id", 16), ("kind", 9), ("text", 36), ("cite", 20), ("of_rule", 9), ("part", 12), ("branch", 8),
                ("metric", 20), ("op", 5), ("threshold", 10), ("claimed", 10), ("proven", 10), ("value", 10),
                ("status", 9))
RULE_FIGURES = ("threshold", "claimed", "proven", "value")
RULE_HEAD = 5
"""Columns that say of which rule a row is."""


def cell(value: object, say: Say) -> Cell:
    """Return a figure as a number, and only what is none as text."""
    if isinstance(value, bool):
        return say("basis.yes" if value else "basis.no")
    return value if isinstance(value, int | float | str) else None


def sheets(book: Book, result: Json, say: Say) -> None:
    """Write the sheets that have something to say."""
    names = {item["key"]: named(item, say) for item in result["metrics"]}
    _rules(book.sheet(say("sheet.rules")), result, names, say)
    open_points = [(rule["id"], item) for rule in result["rules"] for item in rule["ambiguities"]]
    open_points += [("", item) for item in result["ambiguities"]]
    if open_points or result["programme"]["notes"]:
        _open(book.sheet(say("sheet.open")), open_points, result["programme"]["notes"], names, say)
    staged = [metric for metric in result["metrics"] if metric["stages"] and metric["levels"]]
    if staged:
        _stages(book.sheet(say("sheet.stages")), staged, say)
    if result["splits"]:
        _splits(book.sheet(say("sheet.claimed_splits"), landscape=False), result["splits"], names, say)
    documents = [(metric, document) for metric in result["metrics"] for document in metric["documents"]]
    if documents:
        _documents(book.sheet(say("sheet.documents")), documents, say)
    if result["count"]["duplicates"]:
        _duplicates(book.sheet(say("sheet.duplicates")), result["count"]["duplicates"], say)
    if result["claimed_list"] is not None:
        _listed(book.sheet(say("sheet.listed")), result["claimed_list"], say)


def _begin(sheet: Sheet, title: str, columns: list[Column]) -> None:
    sheet.widths([column.width for column in columns])
    sheet.title(title, columns=len(columns))
    sheet.head(columns, freeze=True)


def _rules(sheet: Sheet, result: Json, names: dict[str, str], say: Say) -> None:
    columns = [Column(title=say(f"sheet.rule.{name}"), kind="number" if name in RULE_FIGURES else "text", width=width)
               for name, width in RULE_COLUMNS]
    _begin(sheet, say("printed.section.rules"), columns)
    for rule in result["rules"]:
        head = [rule["id"], say(f"kind.{rule['kind']}"), _rule_text(rule, say), rule["cite"],
                say(f"status.{rule['status']}")]
        empty = True
        for cells in _comparisons(rule, names, say):
            sheet.record(columns, [*head, *cells])
            empty = False
        if empty:
            sheet.record(columns, [*head, *[None] * (len(columns) - RULE_HEAD)])


def _rule_text(rule: Json, say: Say) -> str:
    told = named(rule, say)
    if rule["interpretation"]:
        told += f"（{say('told.interpretation')}）" if say.lang == "zh" else f" ({say('told.interpretation')})"
    return told


def _comparisons(rule: Json, names: dict[str, str], say: Say) -> Iterator[list[Cell]]:
    """Yield what follows the head of a rule: its branches, the branches of each group, its checks, its quota."""
    yield from _branches(rule["branches"], "", names, say)
    groups = rule["groups"]
    if groups is not None:
        passing: list[Cell] = ["", "", say("sheet.rule.groups"), " >=",
                               len(groups["groups"]) if groups["at_least"] is None else groups["at_least"],
                               None, None, groups["passing"], say(f"status.{rule['status']}")]
        yield passing
        for group in groups["groups"]:
            yield from _branches(group["branches"], division_part(group["part"], say), names, say)
    for check in rule["checks"]:
        sides = [_keys(check[side], names, say) for side in ("left", "right")]
        yield ["", "", f"{sides[0]} {check['op']} {sides[1]}", f" {check['op']}", None, *(
            None if sums is None else " / ".join(number(one, say) for one in sums)
            for sums in (check["claimed"], check["proven"])), check["explanation"], say(f"status.{check['status']}")]
    for city, value in rule["quota"].items():
        yield [say("told.quota_default") if city == "default" else city, "", "", "", value, None, None, None, ""]


def _branches(branches: list[Json], part: str, names: dict[str, str], say: Say) -> Iterator[list[Cell]]:
    for branch in branches:
        mode = say(f"mode.{branch['mode']}") if branch["mode"] else ""
        of = part or (division_part(branch["part"], say) if branch["part"] is not None else "")
        for test in branch["comparisons"]:
            metric = names.get(test["metric"], test["metric"])
            if test["share"] is not None:
                metric += "\n" + _share(test["share"], names, say)
            yield [of, mode, metric, f" {test['op']}", cell(test["threshold"], say), cell(test["claimed"], say),
                   cell(test["proven"], say), cell(test["value"], say), say(f"status.{test['status']}")]


def _share(share: Json, names: dict[str, str], say: Say) -> str:
    sides = [f"{names.get(share[side], share[side])} {number(share[f'{side}_value'], say)}"
             for side in ("numerator", "denominator")]
    return " / ".join(sides)


def _keys(side: str, names: dict[str, str], say: Say) -> str:
    """Return one side of a check with metrics and divisions as people name them."""
    split = re.sub(r"(\w+) by (\w+)", lambda found: say(
        "told.by", name=found[1], by=say(f"division.{found[2]}")), side, flags=re.ASCII)
    return re.sub(r"[a-z][a-z0-9_]+", lambda found: names.get(found[0], found[0]), split, flags=re.ASCII)


def _open(sheet: Sheet, items: list[tuple[str, Json]], notes: list[Json], names: dict[str, str], say: Say) -> None:
    """Write what the document leaves open and what comes of each reading; then notes on the document itself."""
    columns = [Column(title=say(f"sheet.open.{name}"), width=width) for name, width in (
        ("rule", 18), ("text", 46), ("cite", 20), ("reading", 6), ("reads", 30), ("result", 34))]
    _begin(sheet, say("sheet.open"), columns)
    for rule, item in items:
        told: list[Cell] = [rule, named(item, say), item["cite"]]
        for reading in item["readings"]:
            words = [] if reading["status"] is None else [say(f"status.{reading['status']}")]
            words += [f"{names.get(key, key)} {number(value, say)}" for key, value in reading["figures"].items()]
            words += [] if reading["passing"] is None else [say("told.passing", passing=reading["passing"])]
            words += [_share(test["share"], names, say) for branch in reading["branches"]
                      for test in branch["comparisons"] if test["share"] is not None]
            sheet.record(columns, [*told, reading["key"], named(reading, say), "; ".join(words)])
        if not item["readings"]:
            sheet.record(columns, [*told, None, None, None])
    for note in notes:
        sheet.record(columns, ["", named(note, say), note["cite"], None, None, None])


def _stages(sheet: Sheet, metrics: list[Json], say: Say) -> None:
    columns = [Column(title=say("printed.metric"), width=30)]
    columns += [Column(title=say(f"stage.{name}"), kind="count", width=11) for name in STAGES]
    columns += [Column(title=say("report.level_up", level=level), kind="count", width=9) for level in LEVELS]
    _begin(sheet, say("sheet.stages"), columns)
    for metric in metrics:
        sheet.record(columns, [named(metric, say), *(metric["stages"].get(name) for name in STAGES),
                               *(metric["levels"].get(level) for level in LEVELS)])
    sheet.line(say("told.stages"), columns=len(columns))


def _splits(sheet: Sheet, splits: list[Json], names: dict[str, str], say: Say) -> None:
    columns = [Column(title=say("sheet.part"), width=40), *(
        Column(title=say(f"printed.{name}"), kind="number", width=14) for name in ("claimed", "proven", "difference"))]
    sheet.widths([column.width for column in columns])
    sheet.title(say("sheet.claimed_splits"), columns=len(columns))
    for split in splits:
        sheet.heading(say("told.by", name=names.get(split["metric"], split["metric"]),
                          by=say(f"division.{split['by']}")))
        sheet.head(columns)
        for part in split["parts"]:
            sheet.record(columns, [division_part(part["part"], say), part["claimed"], part["proven"],
                                   _difference(part)])
        sheet.record(columns, [say("printed.sum"), split["claimed"], split["proven"], _difference(split)], strong=True)
        if split["explanation"]:
            sheet.line(say("told.explained", text=split["explanation"]), columns=len(columns))


def _difference(told: Json) -> Cell:
    return None if told["claimed"] is None or told["proven"] is None else told["claimed"] - told["proven"]


def _documents(sheet: Sheet, documents: list[tuple[Json, Json]], say: Say) -> None:
    columns = [Column(title=say(f"sheet.document.{name}"), width=width) for name, width in (
        ("metric", 32), ("class", 8), ("file", 34), ("sha256", 44), ("state", 12))]
    _begin(sheet, say("sheet.documents"), columns)
    for metric, document in documents:
        sheet.record(columns, [metric["field"] or named(metric, say), metric["evidence_class"], document["file"],
                               document["sha256"], say(f"told.document.{document['state']}")])


def _duplicates(sheet: Sheet, groups: list[Json], say: Say) -> None:
    """Write every row of every machine that several rows stand for: which counts, why the others do not."""
    columns = [Column(title=say(f"sheet.group.{name}"), kind="count" if name == "number" else "text", width=width)
               for name, width in (("number", 6), ("dispute", 10), ("joined", 26), ("id", 20), ("name", 20),
                                   ("enterprise", 21), ("state", 26), ("explained", 28))]
    _begin(sheet, say("sheet.duplicates"), columns)
    for at, group in enumerate(groups, 1):
        first = True
        for place, member in enumerate(group["members"]):
            state = say("duplicates.counts_first" if first else "duplicates.counts_explained")
            if member["reason"] is not None:
                state = say(f"reason.{member['reason']}")
            else:
                first = False
            by = [say(f"duplicates.by.{joint['how']}", scheme=joint["scheme"]) for joint in group["joints"]
                  if place in joint["members"]]
            why = [say("duplicates.explanation", **group["explanations"][i]) for i in member["explanations"]]
            sheet.record(columns, [
                at, say("basis.yes" if group["dispute"] else "basis.no"), "; ".join(dict.fromkeys(by)),
                f"{member['gateway']}:{member['slot']}", member["name"] or say("printed.unnamed"),
                member["enterprise"], state, "; ".join(why)])


def _listed(sheet: Sheet, told: Json, say: Say) -> None:
    columns = [Column(title=say(f"sheet.listed.{name}"), kind="count" if name == "row" else "text", width=width)
               for name, width in (("row", 7), ("id", 24), ("name", 22), ("state", 34), ("history", 70))]
    sheet.widths([column.width for column in columns])
    only, more = told["only_in_list"], told["only_in_evidence"]
    sheet.title(say("sheet.listed"), columns=len(columns))
    sheet.line(say("list.heading", rows=told["rows"], matched=told["matched"], only=len(only), more=len(more)),
               columns=len(columns))
    sheet.head(columns, freeze=True)
    for item in (*only, *more):
        name = item["id"] if item["gateway"] is None else f"{item['gateway']}:{item['slot']}"
        sheet.record(columns, [item["row"], name, item["name"], listed_state(item, say),
                               "\n".join(line.strip() for line in history_lines(item, say))])
