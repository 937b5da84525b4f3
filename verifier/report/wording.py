"""How published results are told to people, in the language of the run. Works on the JSON alone, never on evidence."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from config.programme import metrics
from protocols.terms.say import Say
from verifier.commands import hidden_lines, kept_lines, local_time, summary_lines, visit_lines

Json = Mapping[str, Any]
ABSENT = "—"

BASIS_ORDER = (
    "freshness_s", "lateness_s", "observation_s", "day_boundary", "roles", "point_roles", "things", "energy_required",
    "owner_required", "industries", "regions", "deployments", "parents", "duplicates", "kinds", "protocols",
    "fold_points",
)
"""Parameters of a basis in the order in which a reader asks for them."""


def basis_rows(basis: Json, say: Say) -> list[tuple[str, str, str]]:
    """Return (parameter, value, where it comes from) of every parameter."""
    rows = []
    for name in BASIS_ORDER:
        if name in basis["unspecified"]:
            source = say("basis.unspecified")
        else:
            source = basis["sources"].get(name) or say("basis.own")
        rows.append((say(f"basis.{name}"), parameter(name, basis[name], say), source))
    return rows


def parameter(name: str, value: Any, say: Say) -> str:
    """Return the value of a parameter of a basis as people read it; None is no restriction."""
    if value is None:
        return say("basis.any")
    if isinstance(value, bool):
        return say("basis.yes" if value else "basis.no")
    if name.endswith("_s"):
        return say("basis.seconds", value=value, hours=f"{value / 3600:g}")
    values = value if isinstance(value, list) else [value]
    plain = name in ("industries", "regions", "day_boundary")
    return _joined([str(item) if plain else say(f"value.{item}") for item in values], say)


def _joined(items: list[str], say: Say) -> str:
    return ("、" if say.lang == "zh" else ", ").join(items) if items else say("count.none")


def protocols(names: list[str] | None, say: Say) -> str:
    """Return the names of protocols; None where they are not proven."""
    return say("count.not_proven") if names is None else _joined(list(names), say)


def running_days(days: list[Json], say: Say) -> list[tuple[str, str]]:
    """Return (day or days, devices that ran); days in a row of which nothing is proven are told together."""
    rows: list[tuple[str, str]] = []
    for proven, group in itertools.groupby(days, key=lambda day: day["devices"] is not None):
        run = list(group)
        if not proven:
            dates = dict.fromkeys((run[0]["date"], run[-1]["date"]))
            rows.append((" – ".join(dates), say("count.not_proven")))
            continue
        for day in run:
            devices = number(day["devices"], say)
            rows.append((day["date"], devices if day["whole"] else say("count.in_part", devices=devices)))
    return rows


def device_name(device: Json, say: Say) -> str:
    """Return what a device is called: its name where it is opened, else its slot."""
    gateway = device["gateway"][:8]
    if device["name"]:
        return say("count.device_named", name=device["name"], gateway=gateway, slot=device["slot"])
    return say("count.device", gateway=gateway, slot=device["slot"])


def device_level(device: Json, say: Say) -> str:
    """Return the level of a device, and of which server key it speaks."""
    if not device["level"]:
        return say("levels.word")
    return say("levels.device" if device["server_via"] is None else "levels.through", level=device["level"],
               server=device["server_spki_sha256"][:8], since=local_time(device["server_since_s"]))


def sealed_lines(sealed: Json | None, say: Say) -> list[str]:
    """Return which co-signatures the windows that count lie between; nothing where no witness proves anything."""
    if sealed is None or (sealed["newest_after_s"] is None and sealed["newest_before_s"] is None):
        return []
    times = {name: say("count.sealed_open") if at_s is None else local_time(at_s) for name, at_s in sealed.items()}
    return [say("count.sealed_newest", end=times["newest_end_s"], after=times["newest_after_s"],
                before=times["newest_before_s"]),
            say("count.sealed_all", after=times["first_after_s"], before=times["last_before_s"])]


def named(item: Json, say: Say) -> str:
    """Return the sentence or name of `item` in the language of this run."""
    texts = (item.get("zh") or item.get("name_zh"), item.get("en") or item.get("name_en"))
    return str((texts[0] or texts[1]) if say.lang == "zh" else (texts[1] or texts[0]))


def number(value: Any, say: Say) -> str:
    """Return a figure as it is shown: thousands apart, a dash where there is none."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return say("basis.yes" if value else "basis.no")
    return f"{value:,}"


def percent(permille: int | None) -> str:
    """Return tenths of a percent, a dash where there is none."""
    return ABSENT if permille is None else f"{permille // 10}.{permille % 10}"


def division_part(part: Json, say: Say) -> str:
    """Return a part of a division by its official name, else by its key."""
    if part["key"] in (None, "other"):
        return str(part["name_zh"] or say("told.other"))
    if part["by"] == "deployment":
        return say(f"value.{part['key']}")
    if part["by"] == "kind":  # a model is known by a digest, and by its name where a device of it is opened
        return str(part["name_zh"] or part["key"][:12])
    name, key = part["name_zh"], part["key"]
    return str(key) if name is None else str(name) if say.lang == "zh" or name == key else f"{name} ({key})"


def finding(item: Json, say: Say) -> str:
    """Return the sentence of a finding; keys of metrics and modes in it are named as people name them."""
    args = dict(item["args"])
    known = metrics()
    for name in ("metric", "metrics"):
        keys = [known.get(key) for key in args.get(name, "").split(", ")]
        args |= {name: _joined([item.zh if say.lang == "zh" else item.en for item in keys if item], say)} \
            if all(keys) else {}
    if args.get("claimed") in ("discrete", "process"):
        args["claimed"] = say(f"mode.{args['claimed']}")
    return say(item["code"], **args)


def interval(bundle: Json, say: Say) -> str:
    """Return the covered interval of a bundle."""
    covered = bundle["summary"]["covered"]
    if covered is None:
        return say("verify.covers_nothing")
    return f"{local_time(covered[0])} – {local_time(covered[1])}"


def bundle_lines(bundle: Json, say: Say) -> list[str]:
    """Return what a valid bundle rests on beside its trust: coverage, outages, delays, clock, revocation, openings."""
    told = bundle["summary"]
    lines = []
    if told["covered"] is not None:
        lines.append(say("verify.windows", windows=told["windows"]["shown"], outages=told["outages"]["shown"],
                         missing=told["outages"]["missing_windows"], percent=percent(told["coverage_permille"]),
                         uncounted=told["windows"]["not_counted"]))
    lines += summary_lines(told, say)
    if told["openings"]["demanded"]:
        lines.append(say("verify.openings", **told["openings"]))
    lines += kept_lines(told, say)
    lines += visit_lines(told["levels"]["visits"], say)
    if "limit.self_made" in told["limits"]:
        lines.append(say("printed.self_made"))
    return lines


def enterprise_lines(enterprise: Json, say: Say) -> list[str]:
    """Return how many gateways exist for an enterprise, how many are shown, and each that is not."""
    lines = [] if enterprise["enrolled"] is None else [
        say("count.enterprise", uscc=enterprise["uscc"], enrolled=enterprise["enrolled"], shown=enterprise["shown"])]
    return lines + hidden_lines(enterprise["others"], say)


def presence_lines(told: Json, say: Say) -> list[str]:
    """Return how many counted devices came or went around T, or why that cannot be computed."""
    return [say(f"count.{name}", devices=told[name]) if told[name] is not None else
            say(f"count.{name}_unknown", gateways=", ".join(g[:8] for g in told[short]))
            for name, short in (("new", "short_before"), ("gone", "short_after"))]
