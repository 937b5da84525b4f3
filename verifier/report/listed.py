"""A list of claimed devices against the evidence, for a terminal: each device on which they differ, and its history."""

from __future__ import annotations

from protocols.terms.say import Say
from verifier.commands import local_time
from verifier.report.wording import Json, device_name

DEVICES_SHOWN = 50
ENTRIES_SHOWN = 5
"""So many are told one by one; a screen holds no more, and --json lists all."""


def listed_lines(told: Json | None, say: Say) -> list[str]:
    """Return the lines about a list; nothing where none was given."""
    if told is None:
        return []
    only, more = told["only_in_list"], told["only_in_evidence"]
    lines = ["", say("list.heading", rows=told["rows"], matched=told["matched"], only=len(only), more=len(more))]
    for code, items in (("only", only), ("more", more)):
        if not items:
            continue
        lines += ["", say(f"list.{code}", count=len(items))]
        for item in items[:DEVICES_SHOWN]:
            lines += [f"  {line}" for line in _item(item, say)]
        if len(items) > DEVICES_SHOWN:
            lines.append(f"  {say('count.more', count=len(items) - DEVICES_SHOWN)}")
    return lines


def _item(item: Json, say: Say) -> list[str]:
    state = listed_state(item, say)
    name = item["id"] if item["gateway"] is None else device_name(item, say)
    if item["gateway"] is None and item["name"]:
        name = f"{item['id']} {item['name']}"
    if item["row"] is None:
        return [say("count.pair", name=name, value=state), *history_lines(item, say)]
    return [say("list.row", row=item["row"], name=name, state=state), *history_lines(item, say)]


def listed_state(item: Json, say: Say) -> str:
    """Return why list and evidence differ on a device, and when it was last seen."""
    state = say(f"reason.{item['reason']}") if item["state"] == "not_counted" else say(f"list.{item['state']}")
    if item["instead"] is not None:
        gateway, _, slot = item["instead"].partition(":")
        state = say("list.instead", state=state, device=f"{gateway[:8]}:{slot}")
    if item["row"] is None or item["state"] not in ("not_counted", "gone"):
        return state
    if item["seen_s"] is None:
        return say("list.never", state=state)
    return say("list.seen", state=state, seen=local_time(item["seen_s"]))


def history_lines(item: Json, say: Say) -> list[str]:
    """Return the last roster entries that touched a device: what changed, and between which co-signatures.

    That it stood in the first roster of the bundle says nothing, and is left out.
    """
    lines = []
    for told in [one for one in item["history"] if one["what"] != "listed"][-ENTRIES_SHOWN:]:
        what = {"added": say("list.added"), "gone": say("list.removed")}.get(told["what"]) or say(
            "list.changed", fields=("、" if say.lang == "zh" else ", ").join(
                say(f"list.field.{name}") for name in told["fields"]))
        if told["from_s"] is None:
            lines.append("  " + say("list.entry_unused", seq=told["seq"], date=told["ledger_date"] or "-", what=what))
            continue
        times = {name: say("count.sealed_open") if told[key] is None else local_time(told[key])
                 for name, key in (("after", "after_s"), ("before", "before_s"))}
        lines.append("  " + say("list.entry", seq=told["seq"], date=told["ledger_date"] or "-", what=what,
                                start=local_time(told["from_s"]), **times))
    return lines
