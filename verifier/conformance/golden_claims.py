"""What the applicants of the golden case claim: for every programme and platform type, as filed and as it is proven.

What evidence can prove is claimed from the tables of the case. Of what is declared, each claim says exactly what the
rules of its type ask for, so that the figures of devices and points alone decide.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from config.classification import load_classification
from config.programme import PROGRAMMES, Programme, load_programme
from config.programme_rules import Comparison, Rule
from verifier.conformance import golden_plants as plants
from verifier.conformance.golden_plants import CASTING, ELECTRONICS, INDUSTRY, MACHINING, Enterprise, Machine

PLATFORM = Enterprise(name="赣州示范工业互联网平台有限公司", uscc=plants.uscc("91360700MA1XYRAC4"), region="360700")
AT = "2024-06-14T10:00:00+08:00"
PROTOCOLS_FILED = 7
DAILY_FILED = 480
DOMAINS = ("研发设计", "供应链", "生产制造")
LITTLE = 3
"""What is declared where a form asks for a figure and no rule for a number."""

ALWAYS = {"device_connected_count", "device_daily_running_count"}
BRANCH = "discrete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filed:
    """One claim: the file, which bundles it is held against, and what it says of all devices."""

    programme: str
    type: str
    honest: bool
    sites: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"claims/{self.programme}-{self.type}{'-proven' if self.honest else ''}.toml"


def claims() -> Iterator[Filed]:
    """Yield two claims for each platform type of each programme: as filed, and what is proven."""
    for key in PROGRAMMES:
        programme = load_programme(key)
        for kind in programme.data.types:
            own = kind.devices_of == "applicant"
            sites = (CASTING, MACHINING) if own else (CASTING, MACHINING, ELECTRONICS)
            for honest in (False, True):
                yield Filed(programme=key, type=kind.key, honest=honest, sites=sites,
                            text=_text(programme, kind.key, plants.MAKER if own else PLATFORM, sites, honest=honest))


def counted(programme: Programme, sites: tuple[str, ...]) -> list[Machine]:
    """Return the machines that count under the basis of a programme, by the tables of the case."""
    basis = programme.basis
    return [machine for site in sites for machine in plants.machines(site)
            if machine.why is None and machine.thing in basis.things
            and (machine.energy is True or not basis.energy_required)]


def proven(programme: Programme, sites: tuple[str, ...]) -> dict[str, int]:
    """Return the figures that the evidence proves, by metric, from the tables of the case."""
    running = counted(programme, sites)
    daily = [m for m in running if m.deployment == "public"]
    result = {
        "device_connected_count": len(running), "point_count": sum(map(plants.points_that_count, running)),
        "device_kind_count": len({(m.maker, m.model) for m in running if m.model}),
        "protocol_count": len({m.protocol.partition("_")[0] for m in running}),
        "enterprise_connected_count": len({m.owner for m in running}),
        "covered_industry_count": len({m.industry for m in running})}
    if programme.data.daily_running is not None:
        # Among machines in the public cloud the disputed one is nobody's double: its twin is not in that cloud.
        result["device_daily_running_count"] = len(daily) + 1
    return result


def filed(programme: Programme, sites: tuple[str, ...]) -> dict[str, int]:
    """Return the figures as they are filed: every device and every point of the list, and all seven protocols."""
    every = [machine for site in sites for machine in plants.machines(site)]
    at_t = [machine for machine in every if machine.change not in ("retired", "after")]
    result = proven(programme, sites) | {
        "device_connected_count": len(every), "point_count": sum(len(machine.points) for machine in at_t),
        "device_kind_count": len({(m.maker, m.model) for m in every if m.model}),
        "protocol_count": PROTOCOLS_FILED}
    return result | ({"device_daily_running_count": DAILY_FILED} if programme.data.daily_running else {})


def _text(programme: Programme, kind: str, who: Enterprise, sites: tuple[str, ...], *, honest: bool) -> str:
    figures = (proven if honest else filed)(programme, sites)
    wanted = {field.metric for field in programme.data.required_fields(kind) if field.by is None}
    rules = [rule for rule in programme.data.rules_of(kind) if rule.kind in ("threshold", "form")]
    asked = wanted | {key for rule in rules for key in rule.metric_keys()} | ALWAYS
    whole: dict[str, Any] = {key: figures.get(key, LITTLE) for key in programme.metrics
                             if key in wanted or (key in figures and key in asked)}
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for rule in rules:
        for test in rule.any[0].all if rule.any else ():
            if test.numerator is not None:
                whole[test.numerator] = figures.get(test.numerator) or round(
                    test.value * plants.LEDGERS[plants.MAKER.uscc].rows)
            elif programme.metrics[test.metric].evidence != "proven":
                for group in _groups(rule):
                    into = whole if group is None else groups.setdefault(group, {})
                    into[test.metric] = _enough(test, into.get(test.metric))
    lines = ["[claim]", f'programme = "{programme.basis.key}"', f'type = "{kind}"', f"at = {AT}",
             f'branch = "{BRANCH}"', "[claim.enterprise]", f"name = {_quoted(who.name)}", f'uscc = "{who.uscc}"', "",
             "[metrics]", *_pairs(whole)]
    if who is plants.MAKER:
        lines += ["", *_ledger()]
    for (by, name), values in groups.items():
        lines += ["", "[[groups]]", f"{by} = {_quoted(name)}", "[groups.metrics]", *_pairs(values)]
    if programme.basis.key == "jiangxi_2024":
        lines += _splits(programme, sites, figures["device_connected_count"])
    return "\n".join(lines) + "\n"


def _groups(rule: Rule) -> list[tuple[str, str] | None]:
    """Return the groups of which something is declared: as many as the rule asks for."""
    if rule.groups is None:
        return [None]
    names = {"industry": [*sorted(set(INDUSTRY.values())), "3120"], "domain": list(DOMAINS), "park": ["赣州高新区"]}
    return [(by, name) for by in rule.groups.by
            for name in (rule.groups.members or names[by])[:rule.groups.at_least or len(rule.groups.members) or 2]]


def _enough(test: Comparison, known: Any) -> Any:
    """Return the least value that passes, and passes what was asked of the same metric before."""
    if isinstance(test.value, bool):
        return test.value
    value = test.value + (1 if test.op == ">" else 0)
    return value if known is None else min(known, value) if test.op == "<=" else max(known, value)


def _ledger() -> list[str]:
    ledger = plants.LEDGERS[plants.MAKER.uscc]
    return ["[ledger]", f"devices = {ledger.rows}", f"date = {ledger.date}",
            f'sha256 = "{plants.ledger_sha256(plants.MAKER.uscc)}"', f'file = "{ledger.file}"']


CITIES = {"360700": "赣州", "360800": "吉安", "440300": "其他"}
"""Appendix D: where the owner is registered; whatever lies outside the province is 其他."""


def _splits(programme: Programme, sites: tuple[str, ...], total: int) -> list[str]:
    """Return the splits by equipment class, `other` for machines that state none, and by city.

    What is claimed beyond the proven machines is said to be machine tools in Ganzhou.
    """
    equipment = load_classification("equipment_jx_b")
    classes, cities = Counter[str](), Counter[str]()
    for machine in counted(programme, sites):
        known = equipment.reporting_class(machine.equipment_class)
        classes[known.name_zh if known else "other"] += 1
        cities[CITIES[machine.region]] += 1
    more = total - cities.total()
    classes[equipment.classes["machine_tools"].name_zh] += more
    cities[CITIES["360700"]] += more
    lines = []
    for by, parts in (("class", classes), ("city", cities)):
        lines += ["", "[[splits]]", 'metric = "device_connected_count"', f'by = "{by}"', "[splits.parts]",
                  *(f"{_quoted(name)} = {value}" for name, value in parts.items())]
    return lines


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]
