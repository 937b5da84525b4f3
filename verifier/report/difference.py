"""The difference between two counting bases, for a terminal: sums first, then the parameters, then the devices."""

from __future__ import annotations

from protocols.terms.say import Say
from verifier.commands import local_time
from verifier.report.wording import Json, device_name, number, parameter, protocols

DEVICES_SHOWN = 50
"""Devices told one by one in each direction; a screen holds no more, and --json lists all."""


def difference_lines(result: Json, say: Say) -> list[str]:
    """Return the lines of `count --compare` behind those about the bundles."""
    first, second, told = result["first"], result["second"], result["difference"]
    if told is None:
        return ["", say("compare.invalid")]
    keys = {"first": first["basis"]["key"], "second": second["basis"]["key"]}
    lines = ["", say("compare.heading", at=local_time(first["at"]["counted_s"]), **keys),
             say("compare.devices", **_numbers(told["devices"], say)),
             say("compare.points", **_numbers(told["points"], say)), ""]
    figures = first["figures"], second["figures"]
    for code, of in (("points_value", "points"), ("kinds", "kinds")):
        lines.append(say(f"compare.{code}", first=number(figures[0][of]["value"], say),
                         second=number(figures[1][of]["value"], say)))
    lines.append(say("compare.protocols", first=protocols(figures[0]["protocols"]["at"], say),
                     second=protocols(figures[1]["protocols"]["at"], say)))
    return [*lines, *_steps(told["steps"], say), *_changes(told["changes"], keys, say)]


def _numbers(between: Json, say: Say) -> dict[str, str]:
    return {name: number(value, say) for name, value in between.items()}


def _steps(steps: list[Json], say: Say) -> list[str]:
    if not steps:
        return ["", say("compare.same")]
    lines = ["", say("compare.steps", count=len(steps)), say("compare.rule")]
    for step in steps:
        name = step["parameter"]
        lines.append("  " + say("compare.step", name=say(f"basis.{name}"), first=parameter(name, step["first"], say),
                                second=parameter(name, step["second"], say)))
        moved = any(step[f"{what}_{way}"] for what in ("devices", "points") for way in ("entered", "left"))
        sums = {n: number(v, say) for n, v in step.items() if n not in ("parameter", "first", "second")}
        lines.append("    " + say("compare.step_does" if moved else "compare.step_nothing", **sums))
    return lines


def _changes(changes: list[Json], keys: dict[str, str], say: Say) -> list[str]:
    lines = []
    for code, enters, other in (("enter", True, "first"), ("leave", False, "second")):
        some = [change for change in changes if change["enters"] is enters]
        if not some:
            continue
        lines += ["", say(f"compare.{code}", count=len(some), **keys)]
        lines += ["  " + say("compare.change", name=device_name(change, say), how=_how(change, say), key=keys[other],
                             reason=say(f"reason.{change[f'reason_{other}']}")) for change in some[:DEVICES_SHOWN]]
        if len(some) > DEVICES_SHOWN:
            lines.append(f"  {say('count.more', count=len(some) - DEVICES_SHOWN)}")
    return lines


def _how(change: Json, say: Say) -> str:
    name = say(f"basis.{change['parameter']}")
    if not change["together"]:
        return say("compare.by", parameter=name)
    others = ("、" if say.lang == "zh" else ", ").join(
        f"“{say(f'basis.{n}')}”" if say.lang == "zh" else f"`{say(f'basis.{n}')}`" for n in change["together"])
    return say("compare.by_together", parameter=name, others=others)
