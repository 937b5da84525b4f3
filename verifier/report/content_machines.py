"""Sections of a report: devices that were claimed and do not count, and machines that are reached several times."""

from __future__ import annotations

from collections.abc import Iterator

from protocols.terms.say import Say
from verifier.report.document import Block, Column, Fold, Paragraph, Row, Section, Table, Text
from verifier.report.document import shown as printable
from verifier.report.listed import history_lines, listed_state
from verifier.report.wording import ABSENT, Json

GROUPS_MAX = 60
MEMBERS_MAX = 20
"""So many are printed one by one; the XLSX and the JSON list all."""


def list_section(result: Json, say: Say, rows_max: int) -> list[Section]:
    """Return where a list of claimed devices and the evidence differ, device by device; nothing without a list."""
    told = result["claimed_list"]
    if told is None:
        return []
    only, more = told["only_in_list"], told["only_in_evidence"]
    blocks: list[Block] = [Paragraph((Text(say(
        "list.heading", rows=told["rows"], matched=told["matched"], only=len(only), more=len(more))),))]
    columns = (Column(title=Text(say("report.list_row")), share=3.2, align="right"),
               Column(title=Text(say("printed.gateway")), share=4),
               Column(title=Text(say("printed.slot")), share=3, align="right"),
               Column(title=Text(say("printed.device")), share=9),
               Column(title=Text(say("report.list_why")), share=20))
    for code, items in (("only", only), ("more", more)):
        if not items:
            continue
        rows = tuple(_listed(item, say) for item in items[:rows_max])
        inner: list[Block] = [Table(columns=columns, rows=rows, searched=True)]
        if len(items) > rows_max:
            inner.append(Paragraph((Text(say("report.truncated", shown=rows_max, count=len(items))),)))
        blocks.append(Fold(title=Text(say(f"list.{code}", count=len(items))), blocks=tuple(inner), opened=True))
    return [Section(key="list", title=Text(say("report.section.list")), blocks=tuple(blocks))]


def _listed(item: Json, say: Say) -> Row:
    name = tuple(Text(printable(text)) for text in (item["name"], item["id"]) if text)
    if item["name"] and item["id"] == f"{item['gateway']}:{item['slot']}":  # said by the columns beside it
        name = name[:1]
    return Row(cells=(
        (Text(ABSENT if item["row"] is None else str(item["row"])),),
        (Text((item["gateway"] or ABSENT)[:8], style="mono"),),
        (Text(ABSENT if item["slot"] is None else str(item["slot"])),), name,
        (Text(listed_state(item, say)), *(Text(line.strip(), style="small") for line in history_lines(item, say)))))


def machines_section(count: Json, say: Say) -> list[Section]:
    """Return the section about groups, disputes first; nothing where there are none."""
    groups = sorted(count["duplicates"], key=lambda group: not group["dispute"])
    if not groups:
        return []
    columns = (Column(title=Text(say("printed.gateway")), share=5),
               Column(title=Text(say("printed.slot")), share=3, align="right"),
               Column(title=Text(say("printed.device")), share=10),
               Column(title=Text(say("report.enterprise")), share=10),
               Column(title=Text(say("printed.verdict")), share=14))
    rows = tuple(row for group in groups[:GROUPS_MAX] for row in _group(group, say))
    blocks: list[Block] = [Table(columns=columns, rows=rows, searched=True)]
    if len(groups) > GROUPS_MAX:
        blocks.append(Paragraph((Text(say("report.more_groups", count=len(groups) - GROUPS_MAX)),)))
    return [Section(key="duplicates", title=Text(say("duplicates.heading", count=len(groups))), blocks=tuple(blocks))]


def _group(group: Json, say: Say) -> Iterator[Row]:
    between = "、" if say.lang == "zh" else ", "
    members = group["members"]
    head = [Text(say("duplicates.dispute" if group["dispute"] else "duplicates.group", devices=len(members),
                     counted=group["counted"], enterprise=group["enterprises"][0],
                     enterprises=between.join(group["enterprises"])), style="strong")]
    for joint in group["joints"][:MEMBERS_MAX]:
        named = [f"{members[i]['gateway'][:8]}:{members[i]['slot']}" for i in joint["members"][:MEMBERS_MAX]]
        named += ["…"] if len(joint["members"]) > MEMBERS_MAX else []
        head.append(Text(say("duplicates.joined", members=between.join(named),
                             by=say(f"duplicates.by.{joint['how']}", scheme=joint["scheme"])), style="small"))
    head += [Text(say("duplicates.explanation", **{name: printable(str(text)) for name, text in told.items()}),
                  style="small") for told in group["explanations"][:MEMBERS_MAX]]
    yield Row(cells=(tuple(head),), mark="rule")
    first = True
    for member in members[:MEMBERS_MAX]:
        state = say("duplicates.counts_first" if first else "duplicates.counts_explained")
        if member["reason"] is not None:
            state = say(f"reason.{member['reason']}")
        else:
            first = False
        name = printable(member["name"]) if member["name"] else say("printed.unnamed")
        yield Row(cells=((Text(member["gateway"][:8], style="mono"),), (Text(str(member["slot"])),), (Text(name),),
                         (Text(member["enterprise"], style="mono"),), (Text(state),)))
    if len(members) > MEMBERS_MAX:
        yield Row(cells=((Text(say("report.more_devices", count=len(members) - MEMBERS_MAX), style="small"),),))
