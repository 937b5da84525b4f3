"""An audit for a terminal: on one screen the verdict and what it rests on, then every rule, figure and device."""

from __future__ import annotations

import re

from protocols.terms.say import Say
from verifier.commands import local_time
from verifier.report.identity import result_sha256, verification_code
from verifier.report.listed import listed_lines
from verifier.report.text import count_sections, finding_lines, group_lines, sections_of_bundles
from verifier.report.wording import ABSENT, Json, division_part, finding, named, number

MARKS = {"met": "[+]", "declared": "[~]", "consistent": "[=]", "not_judged": "[ ]", "not_met": "[-]"}
FAULTS_SHOWN = 20
"""Faults told on the first screen; all of them stand among the findings."""

GROUPS_SHOWN = 40
INDENT = "    "


def audit_lines(result: Json, say: Say) -> list[str]:
    """Return the lines of `tallystick audit`."""
    counted, sha256 = result["count"], result_sha256(result)
    lines = [*_first_screen(result, say), "", *_rule_details(result, say), *_stages(result, say),
             *_splits(result, say), *_documents(result, say), *listed_lines(result["claimed_list"], say), "",
             *sections_of_bundles(counted, say)]
    if counted["figures"] is not None:
        lines += [*group_lines(counted, say), "", *count_sections(counted, say)]
    return [*lines, *finding_lines([*result["findings"], *counted["findings"]], say), *_open(result, say),
            *_limits(counted, say), "", say("report.printed", code=verification_code(sha256), sha256=sha256)]


def _first_screen(result: Json, say: Say) -> list[str]:
    """What an official reads first: verdict, signatures, figures, rules, faults."""
    counted, rules, programme, claim = result["count"], result["rules"], result["programme"], result["claim"]
    holds = result["verdict"] == "holds"
    lines = [say("audit.holds" if holds else "audit.does_not_hold"),
             say("audit.holds_means" if holds else "audit.does_not_hold_means")]
    resting = sum(rule["status"] == "declared" for rule in rules)
    if resting:
        lines.append(say("audit.resting", count=resting, rules=len(rules)))
    shown = sum(rule["status"] == "not_judged" for rule in rules)
    if shown:
        lines.append(say("told.unjudged", count=shown, rules=len(rules)))
    invalid = sum(bundle["verdict"] == "invalid" for bundle in counted["bundles"])
    lines += ["", say("told.under", programme=programme["title_zh"], authority=programme["authority_zh"],
                      type=named({"zh": programme["type_zh"], "en": programme["type_en"]}, say),
                      enterprise=claim["enterprise"], uscc=claim["uscc"], at=local_time(claim["at_s"])),
              say("told.status", text=named(programme["status"], say)),
              say("told.unsound", invalid=invalid) if invalid else say("told.sound", bundles=len(counted["bundles"])),
              *_soundness(counted, say), ""]
    lines += [_figure(item, say) for item in result["metrics"]
              if item["claimed"] is not None or item["proven"] is not None or item["required"]]
    lines += ["", say("told.rules", rules=len(rules)) if rules else say("told.no_rules")]
    lines += [say("audit.rule", status=_status(rule["status"], say), text=named(rule, say), cite=rule["cite"])
              for rule in rules]
    faults = [f for f in (*result["findings"], *counted["findings"]) if f["severity"] == "fault"]
    if faults:
        lines += ["", say("told.first_faults", count=len(faults))]
        lines += [f"  {finding(f, say)} [{f['code']}]" for f in faults[:FAULTS_SHOWN]]
        if len(faults) > FAULTS_SHOWN:
            lines.append(f"  {say('count.more', count=len(faults) - FAULTS_SHOWN)}")
    return lines


def _soundness(counted: Json, say: Say) -> list[str]:
    """What valid covers and what it does not, and on whose word trust and time rest, the weakest bundle included."""
    valid = [bundle["summary"] for bundle in counted["bundles"] if bundle["verdict"] == "valid"]
    words = dict.fromkeys(say(f"verify.{kind}.{summary[kind]}") for summary in valid for kind in ("trust", "time"))
    return [say("told.sound_means"), *(f"  {word}" for word in words)] if valid else []


def _figure(item: Json, say: Say) -> str:
    """One figure: by its number in the form, claimed beside proven; what is declared is never called proven."""
    name = item["field"] or named(item, say)
    if item["claimed"] is None:
        rest = say("told.missing") if item["required"] else ""
    elif item["evidence"] == "proven" and item["proven"] is not None and item["claimed"] != item["proven"]:
        more = item["claimed"] - item["proven"]
        rest = say("told.more", more=number(more, say)) if more > 0 else say("told.less", less=number(-more, say))
    else:
        rest = ""
    if item["evidence"] == "declared" and item["evidence_class"] is None:
        return say("told.figure_other", name=name, claimed=number(item["claimed"], say), rest=rest)
    if item["evidence"] == "declared":
        return say("told.figure_declared", name=name, claimed=number(item["claimed"], say), rest=rest,
                   class_=item["evidence_class"])
    return say("told.figure", name=name, claimed=number(item["claimed"], say), proven=number(item["proven"], say),
               rest=rest)


def _rule_details(result: Json, say: Say) -> list[str]:
    """Every rule with its comparisons, groups, checks, and both readings of what is left open."""
    names = {item["key"]: named(item, say) for item in result["metrics"]}
    lines = [say("told.detail")] if result["rules"] else []
    for rule in result["rules"]:
        lines += ["", "  " + say("told.rule_head", id=rule["id"], kind=say(f"kind.{rule['kind']}"),
                                 status=_status(rule["status"], say)),
                  INDENT + say("count.pair", name=rule["cite"], value=named(rule, say))]
        if rule["interpretation"]:
            lines.append(INDENT + say("told.interpretation"))
        lines += [INDENT + line for line in _branches(rule["branches"], names, say)]
        lines += [INDENT + line for line in _groups(rule["groups"], names, say)]
        for check in rule["checks"]:
            lines.append(INDENT + say(
                "told.check", left=_keys(check["left"], names, say), op=check["op"],
                right=_keys(check["right"], names, say), claimed=_sides(check["claimed"], say),
                proven=_sides(check["proven"], say), status=_status(check["status"], say)))
            if check["explanation"]:
                lines.append(INDENT + say("told.explained", text=check["explanation"]))
        for city, value in rule["quota"].items():
            lines.append(INDENT + say("told.quota", value=value,
                                      name=say("told.quota_default") if city == "default" else city))
        for item in rule["ambiguities"]:
            lines += [INDENT + line for line in _ambiguity(item, names, say)]
    return lines


def _branches(branches: list[Json], names: dict[str, str], say: Say) -> list[str]:
    lines = []
    for branch in branches:
        words = [say(f"mode.{branch['mode']}")] if branch["mode"] else []
        if branch["part"] is not None:
            words.append(say("told.of_part", part=division_part(branch["part"], say)))
        lines += ["  ".join([*words, _comparison(test, names, say)]) for test in branch["comparisons"]]
    return lines


def _sides(sums: list[int] | None, say: Say) -> str:
    return ABSENT if sums is None else " / ".join(number(one, say) for one in sums)


def _comparison(test: Json, names: dict[str, str], say: Say) -> str:
    share, told = test["share"], {"op": test["op"], "status": _status(test["status"], say)}
    if share is not None:
        return say("told.share", name=names[test["metric"]], top=names[share["numerator"]], value=_plain(test["value"]),
                   bottom=names[share["denominator"]], above=number(share["numerator_value"], say),
                   below=number(share["denominator_value"], say), threshold=test["threshold"], **told)
    threshold = number(test["threshold"], say)
    if test["wording"]:
        threshold = say("told.wording", threshold=threshold, wording=test["wording"])
    return say("audit.comparison", name=names[test["metric"]], threshold=threshold,
               claimed=number(test["claimed"], say), proven=number(test["proven"], say), **told)


def _plain(value: object) -> str:
    return ABSENT if value is None else str(value)


def _groups(groups: Json | None, names: dict[str, str], say: Say) -> list[str]:
    if groups is None:
        return []
    by = " / ".join(say(f"division.{name}") for name in groups["by"])
    if groups["at_least"] is None:
        lines = [say("told.groups_all", by=by, passing=groups["passing"], groups=len(groups["groups"]))]
    else:
        lines = [say("told.groups_least", by=by, least=groups["at_least"], passing=groups["passing"])]
    for group in groups["groups"][:GROUPS_SHOWN]:
        lines.append("  " + say("count.pair", name=division_part(group["part"], say),
                                value=_status(group["status"], say)))
        lines += [f"    {line}" for line in _branches(group["branches"], names, say)]
    if len(groups["groups"]) > GROUPS_SHOWN:
        lines.append("  " + say("count.more", count=len(groups["groups"]) - GROUPS_SHOWN))
    return lines


def _ambiguity(item: Json, names: dict[str, str], say: Say) -> list[str]:
    lines = [say("told.open", text=named(item, say)) + (f" [{item['cite']}]" if item["cite"] else "")]
    for reading in item["readings"]:
        words = [] if reading["status"] is None else [_status(reading["status"], say)]
        words += [f"{names.get(key, key)} {number(value, say)}" for key, value in reading["figures"].items()]
        if reading["passing"] is not None:
            words.append(say("told.passing", passing=reading["passing"]))
        lines.append("  " + say("told.reading_line", key=reading["key"], text=named(reading, say),
                                result="; ".join(words)))
        lines += [f"    {line}" for line in _branches(
            [{**branch, "comparisons": [test for test in branch["comparisons"] if branch["part"] or test["share"]]}
             for branch in reading["branches"]], names, say)]
    return lines


def _stages(result: Json, say: Say) -> list[str]:
    """The proven figures by stage and by level."""
    told = [item for item in result["metrics"] if item["stages"] and item["levels"]]
    lines = ["", say("told.stages")] if told else []
    for item in told:
        stages = [f"{say('stage.' + name)} {number(value, say)}" for name, value in item["stages"].items()]
        levels = [f"{say('told.level', level=level)} {number(value, say)}" for level, value in item["levels"].items()]
        joint = "，" if say.lang == "zh" else ", "
        lines.append("  " + say("told.stage", name=named(item, say), stages=joint.join(stages),
                                levels=joint.join(levels)))
    return lines


def _splits(result: Json, say: Say) -> list[str]:
    names = {item["key"]: named(item, say) for item in result["metrics"]}
    lines = ["", say("told.splits")] if result["splits"] else []
    for split in result["splits"]:
        lines.append("  " + say("told.split", name=names.get(split["metric"], split["metric"]),
                                by=say(f"division.{split['by']}"), claimed=number(split["claimed"], say),
                                proven=number(split["proven"], say)))
        lines += [INDENT + say("told.part", part=division_part(part["part"], say), claimed=number(part["claimed"], say),
                               proven=number(part["proven"], say)) for part in split["parts"]]
        if split["explanation"]:
            lines.append(INDENT + say("told.explained", text=split["explanation"]))
    return lines


def _documents(result: Json, say: Say) -> list[str]:
    documents = [document for item in result["metrics"] for document in item["documents"]]
    lines = [say("told.document", file=document["file"], sha256=document["sha256"],
                 state=say(f"told.document.{document['state']}")) for document in documents]
    if result["claim"]["ledger"] is not None:
        lines += [say("told.ledger", **ledger) for ledger in result["count"]["ledgers"]]
    return ["", *lines] if lines else []


def _status(status: str, say: Say) -> str:
    return f"{MARKS[status]} {say('status.' + status)}"


def _keys(side: str, names: dict[str, str], say: Say) -> str:
    """Return one side of a check with metrics and divisions as people name them."""
    split = re.sub(r"(\w+) by (\w+)", lambda found: say(
        "told.by", name=found[1], by=say(f"division.{found[2]}")), side, flags=re.ASCII)
    return re.sub(r"[a-z][a-z0-9_]+", lambda found: names.get(found[0], found[0]), split, flags=re.ASCII)


def _open(result: Json, say: Say) -> list[str]:
    names = {item["key"]: named(item, say) for item in result["metrics"]}
    told = [f"  - {line}" if at == 0 else f"  {line}" for item in result["ambiguities"]
            for at, line in enumerate(_ambiguity(item, names, say))]
    notes = [f"  - {named(note, say)}" + (f" [{note['cite']}]" if note["cite"] else "")
             for note in result["programme"]["notes"]]
    return [*(["", say("count.ambiguities"), *told] if told else []),
            *(["", say("told.notes"), *notes] if notes else [])]


def _limits(result: Json, say: Say) -> list[str]:
    return ["", say("count.limits"), *(f"  - {say(code)}" for code in result["limits"])]
