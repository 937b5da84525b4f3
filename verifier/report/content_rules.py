"""The sections of a report on what was claimed and on every rule: figures by their number in the form, comparisons,
groups, checks, and each reading of what a document leaves open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from protocols.terms.say import Say
from verifier.commands import level_lines
from verifier.report.document import Block, Cell, Column, Fold, Paragraph, Row, Section, Table, Text
from verifier.report.document import shown as printable
from verifier.report.wording import ABSENT, Json, division_part, named, number

MARKS = {"met": "●", "declared": "◐", "consistent": "◎", "not_judged": "－", "not_met": "○"}
"""They differ in black and white too, and the words stand beside them."""

LEGEND = ("met", "declared", "not_met")
"""Always explained; the others where they occur."""

OPERATORS = {">=": "≥", "<=": "≤", "==": "="}
GROUPS_MAX = 40
"""Groups printed of one rule."""

STAGES = ("configured", "connected", "producing", "changing", "counted")
LEVELS = ("1", "2", "3", "4")


class Rules:
    """The claim and the rules of one result."""

    def __init__(self, result: Json, say: Say) -> None:
        self.result, self.say = result, say
        self.names = {metric["key"]: named(metric, say) for metric in result["metrics"]}

    def t(self, code: str, /, **args: object) -> Text:
        """Return a sentence."""
        return Text(self.say(code, **args))

    def claim(self) -> Section:
        """Return claimed beside proven, by stage and level, and the claimed splits."""
        columns = (Column(title=self.t("printed.metric"), share=9), *(
            Column(title=self.t(f"printed.{name}"), share=3, align="right")
            for name in ("claimed", "proven", "difference")), Column(title=self.t("printed.evidence"), share=6))
        rows = tuple(self._metric(metric) for metric in self.result["metrics"]
                     if metric["claimed"] is not None or metric["proven"] is not None or metric["required"])
        levels = tuple(Text(line, style="small") for line in level_lines(self.result["count"]["levels"], self.say))
        return Section(key="claim", title=self.t("printed.section.claim"), blocks=(
            Table(columns=columns, rows=rows), *self._stages(), Paragraph(levels),
            *self._splits(), *self._ledgers()))

    def _metric(self, metric: Json) -> Row:
        say, claimed, proven = self.say, metric["claimed"], metric["proven"]
        both = metric["evidence"] == "proven" and _is_figure(claimed) and _is_figure(proven)
        unit = f"（{metric['unit']}）" if metric["unit"] and say.lang == "zh" else ""
        field, own = printable(metric["field"] or ""), named(metric, say)
        name: Cell = (Text((field or own) + unit if say.lang == "zh" else f"{field}: {own}" if field else own),)
        if claimed is None and metric["required"]:
            name += (Text(say("report.missing_field"), style="small"),)
        name += tuple(Text(say("told.document", file=printable(document["file"]), sha256=document["sha256"],
                               state=say(f"told.document.{document['state']}")), style="small")
                      for document in metric["documents"])
        evidence = say(f"printed.evidence.{metric['evidence']}")
        if metric["evidence_class"]:
            evidence = say("report.evidence_class", evidence=evidence, name=metric["evidence_class"])
        difference = ABSENT if not both else f"{claimed - proven:+,}" if claimed != proven else "0"
        return Row(mark="fault" if both and claimed > proven else "", cells=(
            name, self._value(claimed), self._value(proven), (Text(difference),),
            (Text(evidence),)))

    def _value(self, value: object) -> Cell:
        return (Text(printable(value) if isinstance(value, str) else number(value, self.say)),)

    def _stages(self) -> list[Block]:
        """Return the proven figures by stage, and as lower bounds by level."""
        told = [metric for metric in self.result["metrics"] if metric["stages"] and metric["levels"]]
        if not told:
            return []
        columns = (Column(title=self.t("printed.metric"), share=5, head=True), *(
            Column(title=Text(self.say(f"stage.{stage}"), style="small"), share=2.6, align="right")
            for stage in STAGES), *(
            Column(title=Text(self.say("report.level_up", level=level), style="small"), share=1.6, align="right")
            for level in LEVELS))
        rows = [Row(cells=((Text(self.names[metric["key"]]),), *(self._value(metric["stages"].get(s)) for s in STAGES),
                           *(self._value(metric["levels"].get(level)) for level in LEVELS))) for metric in told]
        return [Paragraph((Text(self.say("told.stages"), style="small"),)), Table(columns=columns, rows=tuple(rows))]

    def _splits(self) -> Iterator[Block]:
        for split in self.result["splits"]:
            title = self.say("told.split", name=self.names.get(split["metric"], split["metric"]),
                             by=self.say(f"division.{split['by']}"), claimed=number(split["claimed"], self.say),
                             proven=number(split["proven"], self.say))
            columns = (Column(title=self.t(f"division.{split['by']}"), share=4), *(
                Column(title=self.t(f"printed.{name}"), share=1, align="right") for name in ("claimed", "proven")))
            rows = [Row(cells=((Text(printable(division_part(part["part"], self.say))),),
                               self._value(part["claimed"]), self._value(part["proven"]))) for part in split["parts"]]
            rows.append(Row(cells=((self.t("printed.sum"),), self._value(split["claimed"]),
                                   self._value(split["proven"])), mark="total"))
            blocks: list[Block] = [Table(columns=columns, rows=tuple(rows))]
            if split["explanation"]:
                blocks.append(Paragraph((self.t("told.explained", text=printable(split["explanation"])),)))
            yield Fold(title=Text(title), blocks=tuple(blocks))

    def _ledgers(self) -> list[Block]:
        if self.result["claim"]["ledger"] is None:
            return []
        return [Paragraph(tuple(self.t("told.ledger", **ledger) for ledger in self.result["count"]["ledgers"]))]

    def rules(self) -> Section:
        """Return every rule with all that its verdict rests on."""
        programme, rules, say = self.result["programme"], self.result["rules"], self.say
        columns = (Column(title=self.t("report.comparison"), share=7),
                   Column(title=self.t("printed.threshold"), share=3, align="right"),
                   Column(title=self.t("printed.claimed"), share=2, align="right"),
                   Column(title=self.t("printed.proven"), share=2, align="right"),
                   Column(title=self.t("printed.verdict"), share=3))
        notes = [Text(named(programme["status"], say), style="small")]
        notes += [Text(f"{say('count.pair', name=say('printed.cutoff'), value=named(c, say))} [{c['cite']}]",
                       style="small") for c in programme["cutoffs"]]
        here = {status for rule in rules for status in _statuses(rule)} | set(LEGEND)
        legend = "　".join(self._status(status) for status in MARKS if status in here)
        rows = tuple(row for rule in rules for row in self._rule(rule))
        blocks: tuple[Block, ...] = (Paragraph((Text(legend, style="small"),)), Table(columns=columns, rows=rows))
        return Section(key="rules", title=self.t("printed.section.rules"), blocks=(
            *(blocks if rules else (Paragraph((self.t("told.no_rules"),)),)), Paragraph(tuple(notes))))

    def _rule(self, rule: Json) -> Iterator[Row]:
        say = self.say
        head = [Text(say("report.rule_head", status=self._status(rule["status"]), kind=say(f"kind.{rule['kind']}"),
                         text=named(rule, say)), style="strong"),
                Text(f"{rule['cite']}　{rule['id']}", style="small")]
        if rule["interpretation"]:
            head.append(Text(say("told.interpretation"), style="small"))
        yield Row(cells=(tuple(head),), mark="rule")
        yield from self._branches(rule["branches"])
        if rule["groups"] is not None:
            yield from self._groups(rule["groups"])
        for check in rule["checks"]:
            yield from self._check(check)
        for city, value in rule["quota"].items():
            yield _across(say("told.quota", value=value, name=say("told.quota_default") if city == "default" else city))
        for item in rule["ambiguities"]:
            yield Row(cells=(tuple(self.open(item)),))

    def _branches(self, branches: Iterable[Json]) -> Iterator[Row]:
        for branch in branches:
            words = [self.say(f"mode.{branch['mode']}")] if branch["mode"] else []
            if branch["part"] is not None:
                words.append(self.say("told.of_part", part=printable(division_part(branch["part"], self.say))))
            for test in branch["comparisons"]:
                yield self._comparison(test, " · ".join([*words, self.names[test["metric"]]]))

    def _comparison(self, test: Json, name: str) -> Row:
        threshold = f"{OPERATORS.get(test['op'], test['op'])} {number(test['threshold'], self.say)}"
        limit: Cell = (Text(threshold), *((Text(test["wording"], style="small"),) if test["wording"] else ()))
        first: Cell = (Text(name),)
        claimed, proven = test["claimed"], test["proven"]
        if test["share"] is not None:
            first += (Text(self._share(test), style="small"),)
            claimed, proven = (None, test["value"]) if test["rests_on"] == "evidence" else (test["value"], None)
        return Row(cells=(first, limit, self._value(claimed), self._value(proven),
                          (Text(self._status(test["status"])),)))

    def _share(self, test: Json) -> str:
        """Return what was divided by what."""
        share = test["share"]
        top, bottom = (self.names.get(share[side], share[side]) for side in ("numerator", "denominator"))
        value = ABSENT if test["value"] is None else str(test["value"])
        return (f"{top} / {bottom} = {number(share['numerator_value'], self.say)} / "
                f"{number(share['denominator_value'], self.say)} = {value}")

    def _groups(self, groups: Json) -> Iterator[Row]:
        say = self.say
        by = " / ".join(say(f"division.{name}") for name in groups["by"])
        if groups["at_least"] is None:
            yield _across(say("told.groups_all", by=by, passing=groups["passing"], groups=len(groups["groups"])))
        else:
            yield _across(say("told.groups_least", by=by, least=groups["at_least"], passing=groups["passing"]))
        for group in groups["groups"][:GROUPS_MAX]:
            yield _across(say("count.pair", name=printable(division_part(group["part"], say)),
                              value=self._status(group["status"])))
            yield from self._branches(group["branches"])
        if len(groups["groups"]) > GROUPS_MAX:
            yield _across(say("report.more_groups", count=len(groups["groups"]) - GROUPS_MAX))

    def _check(self, check: Json) -> Iterator[Row]:
        sides = [self._keys(check[side]) for side in ("left", "right")]
        told = [f"{sides[0]} {OPERATORS.get(check['op'], check['op'])} {sides[1]}"]
        if check["explanation"]:
            told.append(self.say("told.explained", text=printable(check["explanation"])))
        yield Row(cells=(tuple(Text(line) for line in told), (Text(""),), self._sides(check["claimed"]),
                         self._sides(check["proven"]), (Text(self._status(check["status"])),)))

    def _keys(self, side: str) -> str:
        """Return one side of a check with metrics and divisions as people name them."""
        split = re.sub(r"(\w+) by (\w+)", lambda found: self.say(
            "told.by", name=found[1], by=self.say(f"division.{found[2]}")), side, flags=re.ASCII)
        return re.sub(r"[a-z][a-z0-9_]+", lambda found: self.names.get(found[0], found[0]), split, flags=re.ASCII)

    def _sides(self, sums: list[Any] | None) -> Cell:
        return (Text(ABSENT if sums is None else " / ".join(number(one, self.say) for one in sums)),)

    def open(self, item: Json) -> Iterator[Text]:
        """Yield what a document leaves open, and what comes of each reading."""
        cite = f" [{item['cite']}]" if item["cite"] else ""
        yield Text(f"※ {named(item, self.say)}{cite}", style="small")
        for reading in item["readings"]:
            words = [] if reading["status"] is None else [self._status(reading["status"])]
            words += [f"{self.names.get(key, key)} {number(value, self.say)}"
                      for key, value in reading["figures"].items()]
            if reading["passing"] is not None:
                words.append(self.say("told.passing", passing=reading["passing"]))
            words += [self._share(test) for branch in reading["branches"] for test in branch["comparisons"]
                      if test["share"] is not None]
            yield Text("　" + self.say("told.reading_line", key=reading["key"], text=named(reading, self.say),
                                       result="; ".join(words)), style="small")

    def left_open(self) -> list[Section]:
        """Return what the programme leaves open as a whole, with every reading; nothing where it leaves nothing."""
        told = [Paragraph(tuple(self.open(item))) for item in self.result["ambiguities"]]
        notes = tuple(Text(named(note, self.say) + (f" [{note['cite']}]" if note["cite"] else ""), style="small")
                      for note in self.result["programme"]["notes"])
        told += [Paragraph((self.t("told.notes"), *notes))] if notes else []
        return [Section(key="open", title=self.t("printed.section.open"), blocks=tuple(told))] if told else []

    def _status(self, status: str) -> str:
        return f"{MARKS[status]} {self.say('status.' + status)}"


def _across(text: str) -> Row:
    return Row(cells=((Text(text, style="small"),),))


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _statuses(rule: Json) -> Iterator[str]:
    """Yield every status that stands in a rule."""
    yield rule["status"]
    groups = rule["groups"]["groups"] if rule["groups"] else []
    branches = [*rule["branches"], *(branch for group in groups for branch in group["branches"])]
    for branch in branches:
        yield from (test["status"] for test in branch["comparisons"])
    yield from (check["status"] for check in rule["checks"])
