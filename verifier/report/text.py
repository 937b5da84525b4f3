"""Results for a terminal: the verdict first, then what it rests on, the figures, and what does not count and why."""

from __future__ import annotations

from protocols.terms.say import Say
from verifier.commands import level_lines, local_time
from verifier.report.difference import difference_lines
from verifier.report.machines import duplicate_lines
from verifier.report.wording import (
    Json,
    basis_rows,
    bundle_lines,
    device_level,
    device_name,
    division_part,
    enterprise_lines,
    finding,
    interval,
    named,
    number,
    percent,
    presence_lines,
    protocols,
    running_days,
    sealed_lines,
)

DEVICES_SHOWN = 50
"""Devices told one by one; a screen holds no more, and --json lists all."""


def count_lines(result: Json, say: Say, *, every_device: bool = False, splits: bool = False) -> list[str]:
    """Return the lines of `tallystick count`; every_device: the counted ones too; splits: their parts too."""
    lines = [say("count.valid" if result["verdict"] == "valid" else "count.invalid"), ""]
    lines += sections_of_bundles(result, say)
    if result["figures"] is not None:
        lines += ["", say("count.at", at=local_time(result["at"]["counted_s"])), *_figures(result, say),
                  *(_counted(result, say) if every_device else ()), *(group_lines(result, say) if splits else ()),
                  *_not_counted(result, say),
                  *duplicate_lines(result, say), *_basis(result, say)]
    return [*lines, *finding_lines(result["findings"], say), *_open(result, say), *_limits(result, say)]


def compare_lines(result: Json, say: Say) -> list[str]:
    """Return the lines of `tallystick count --compare`."""
    first, second = result["first"], result["second"]
    found = first["findings"] + [f for f in second["findings"] if f not in first["findings"]]
    return [say("count.valid" if first["verdict"] == "valid" else "count.invalid"), "",
            *sections_of_bundles(first, say), *difference_lines(result, say), *finding_lines(found, say),
            *_open(first, say), *_open(second, say), *_limits(first, say)]


def count_sections(counted: Json, say: Say) -> list[str]:
    """Return the figures of a count that an audit tells again: figures, not counted, machines, basis."""
    return [say("count.at", at=local_time(counted["at"]["counted_s"])), *_figures(counted, say),
            *_not_counted(counted, say), *duplicate_lines(counted, say), *_basis(counted, say)]


def sections_of_bundles(result: Json, say: Say) -> list[str]:
    """Return what each bundle rests on, and which gateways of its enterprise are not shown."""
    lines = []
    for bundle in result["bundles"]:
        summary = bundle["summary"]
        if bundle["verdict"] == "invalid":
            faults = [f for f in bundle["findings"] if f["severity"] == "fault"]
            lines.append(say("count.bundle_invalid", sha256=bundle["sha256"][:12], faults=len(faults)))
            lines += [f"  {f['where']}: {finding(f, say)} [{f['code']}]" for f in faults[:DEVICES_SHOWN]]
            continue
        lines.append(say("verify.gateway", gateway=summary["gateway"], site=summary["site"] or "-",
                         uscc=summary["uscc"] or "-", size=summary["size"]))
        lines += [f"  {say('verify.trust.' + summary['trust'])}", f"  {say('verify.time.' + summary['time'])}",
                  "  " + say("count.pair", name=say("printed.covered"), value=interval(bundle, say)),
                  *(f"  {line}" for line in bundle_lines(bundle, say))]
    for enterprise in result["enterprises"]:
        lines += enterprise_lines(enterprise, say)
    return lines


def _figures(result: Json, say: Say) -> list[str]:
    figures = result["figures"]
    lines = [say("count.devices", **figures["devices"]), say("count.stages", **figures["devices"]),
             say("count.points", **figures["points"]), say("count.kinds", **figures["kinds"]),
             say("count.protocols", at=protocols(figures["protocols"]["at"], say),
                 observed=protocols(figures["protocols"]["observed"], say)),
             say("count.enterprises", enterprises=figures["enterprises"]), say("count.windows", **figures["windows"]),
             *sealed_lines(figures["sealed"], say),
             say("count.late_devices", devices=figures["late_devices"])]
    if figures["producing_permille"] is not None:
        lines.append(say("count.share", percent=percent(figures["producing_permille"])))
    lines += presence_lines(figures["presence"], say)
    if figures["daily_running"] is not None:
        lines.append(say("count.daily"))
        lines += [f"  {days}  {devices}" for days, devices in running_days(figures["daily_running"], say)]
    return [*lines, *level_lines(result["levels"], say), say("count.declared")]


def group_lines(result: Json, say: Say) -> list[str]:
    """Return the counted devices by part of every division, with the sum, which is the total."""
    figures = result["figures"]
    lines: list[str] = []
    for by in ("class", "class_level_1", "industry", "city", "deployment", "enterprise", "kind"):
        groups = figures["groups"][by]
        lines += ["", say("told.parts", by=say(f"division.{by}"), parts=len(groups))]
        lines += ["  " + say("count.pair", name=division_part({"by": by, **group}, say), value=say(
            "told.part_figures", devices=number(group["devices"], say), points=number(group["points"], say),
            kinds=number(group["kinds_by_model"], say), enterprises=number(group["enterprises"], say)))
            for group in groups[:DEVICES_SHOWN]]
        if len(groups) > DEVICES_SHOWN:
            lines.append("  " + say("count.more", count=len(groups) - DEVICES_SHOWN))
        lines.append("  " + say("told.parts_sum", total=number(figures["devices"]["counted"], say), devices=number(
            sum(group["devices"] for group in groups), say)))
    return lines


def _counted(result: Json, say: Say) -> list[str]:
    counted = [device for device in result["devices"] if device["reason"] is None]
    return ["", say("count.counted", count=len(counted)), *(
        "  " + say("count.pair", name=device_name(d, say), value=device_level(d, say)) for d in counted)]


def _not_counted(result: Json, say: Say) -> list[str]:
    left_out = [device for device in result["devices"] if device["reason"] is not None]
    if not left_out:
        return []
    lines = ["", say("count.not_counted", count=len(left_out))]
    lines += ["  " + say("count.pair", name=device_name(d, say), value=say(f"reason.{d['reason']}"))
              for d in left_out[:DEVICES_SHOWN]]
    if len(left_out) > DEVICES_SHOWN:
        lines.append(f"  {say('count.more', count=len(left_out) - DEVICES_SHOWN)}")
    return lines


def _basis(result: Json, say: Say) -> list[str]:
    basis = result["basis"]
    return ["", say("count.basis", key=basis["key"], version=basis["version"]),
            *(f"  {say('count.pair', name=name, value=value)}  [{source}]"
              for name, value, source in basis_rows(basis, say))]


def finding_lines(findings: list[Json], say: Say) -> list[str]:
    """Return every finding in a line of its own."""
    if not findings:
        return []
    return ["", say("count.findings", count=len(findings)),
            *(f"  {say('count.pair', name=say('severity.' + f['severity']), value=finding(f, say))} [{f['code']}]"
              for f in findings)]


def _open(result: Json, say: Say) -> list[str]:
    told = [f"  - {named(a, say)}" + (f" [{a['cite']}]" if a["cite"] else "") for a in result["ambiguities"]]
    return ["", say("count.ambiguities"), *told] if told else []


def _limits(result: Json, say: Say) -> list[str]:
    return ["", say("count.limits"), *(f"  - {say(code)}" for code in result["limits"])]
