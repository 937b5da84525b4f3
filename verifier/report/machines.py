"""Machines that are reached several times, for a terminal: what joins which rows, who counts, and explanations."""

from __future__ import annotations

from protocols.terms.say import Say
from verifier.report.wording import Json, device_name

GROUPS_SHOWN = 20
MEMBERS_SHOWN = 10
"""So many are told one by one; a screen holds no more, and --json lists all."""


def duplicate_lines(result: Json, say: Say) -> list[str]:
    """Return the lines about groups, disputes first; nothing where there are none."""
    groups = sorted(result["duplicates"], key=lambda group: not group["dispute"])
    if not groups:
        return []
    lines = ["", say("duplicates.heading", count=len(groups))]
    for group in groups[:GROUPS_SHOWN]:
        lines += [f"  {line}" for line in _group(group, say)]
    if len(groups) > GROUPS_SHOWN:
        lines.append(f"  {say('duplicates.more', count=len(groups) - GROUPS_SHOWN)}")
    return lines


def _group(group: Json, say: Say) -> list[str]:
    between = "、" if say.lang == "zh" else ", "
    members = group["members"]
    lines = [say("duplicates.dispute" if group["dispute"] else "duplicates.group", devices=len(members),
                 counted=group["counted"], enterprise=group["enterprises"][0],
                 enterprises=between.join(group["enterprises"]))]
    first = True
    for member in members[:MEMBERS_SHOWN]:
        state = say("duplicates.counts_first" if first else "duplicates.counts_explained")
        if member["reason"] is not None:
            state = say(f"reason.{member['reason']}")
        else:
            first = False
        lines.append("  " + say("duplicates.member", name=device_name(member, say), enterprise=member["enterprise"],
                                state=state))
    if len(members) > MEMBERS_SHOWN:
        lines.append(f"  {say('duplicates.more', count=len(members) - MEMBERS_SHOWN)}")
    for joint in group["joints"][:MEMBERS_SHOWN]:
        named = [f"{members[i]['gateway'][:8]}:{members[i]['slot']}" for i in joint["members"][:MEMBERS_SHOWN]]
        named += ["…"] if len(joint["members"]) > MEMBERS_SHOWN else []
        lines.append("  " + say("duplicates.joined", members=between.join(named),
                                by=say(f"duplicates.by.{joint['how']}", scheme=joint["scheme"])))
    lines += ["  " + say("duplicates.explanation", **told) for told in group["explanations"][:MEMBERS_SHOWN]]
    return lines
