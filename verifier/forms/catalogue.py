"""What a programme asks for that is a table, by the names that `export --list` takes."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from config.programme import Programme
from config.programme_forms import MonitoringTable, ProofList, Report
from protocols.errors import ConfigError, Problem

DEVICES = "industrial_device_list"
FILL_IN = "fill_in"
ALIASES = {
    "devices": DEVICES, "models": "industrial_model_list", "apps": "industrial_app_list",
    "enterprises": "served_enterprise_list", "developers": "developer_registration_list",
    "killer-apps": "killer_app_list", "industries": "covered_industry_list", "domains": "covered_domain_list",
    "solutions": "solution_list", "parks": "served_park_list", "monitoring": "monitoring_table",
    "summary": "recommendation_summary", "form": FILL_IN,
}
"""Short names. The keys themselves are accepted too."""

PUBLISHED = ("platform_list_2023",)
"""Tables that an authority publishes, filled: nobody fills them in for it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One table. Exactly one of proof, report and table is there; all are None for the fill-in sheet."""

    key: str
    kind: Literal["list", "summary", "monitoring", "fill_in"]
    name_zh: str
    cite: str
    proof: ProofList | None = None
    report: Report | None = None
    table: MonitoringTable | None = None
    ours: bool = False
    """No document asks for it: the program offers it all the same."""


def tables_of(programme: Programme) -> list[Wanted]:
    """Return every table of a programme in the order of its data; a device list and the fill-in sheet always."""
    data = programme.data
    found = [Wanted(item.key, "list", item.name_zh, item.cite, proof=item) for item in data.lists]
    if all(item.key != DEVICES for item in found):
        own = ProofList(key=DEVICES, name_zh="工业设备清单", open=True, producible="full", cite="")
        found.insert(0, Wanted(DEVICES, "list", own.name_zh, "", proof=own, ours=True))
    if data.monitoring is not None:
        table = data.monitoring
        found.append(Wanted(table.key, "monitoring", table.name_zh, table.cite, table=table))
    found += [Wanted(item.key, "summary", item.name_zh, item.cite, report=item) for item in data.reports
              if item.columns_zh and item.key not in (*PUBLISHED, data.monitoring.key if data.monitoring else "")]
    return [*found, Wanted(FILL_IN, "fill_in", "申报指标填报表", "", ours=True)]


def find(programme: Programme, name: str) -> Wanted:
    """Return the table that a name means.

    Raises: ConfigError `forms.no_list` with the names that exist and the nearest one, `forms.attach` for a document
        that the applicant attaches and that is no table.
    """
    known = {item.key: item for item in tables_of(programme)}
    wanted = known.get(ALIASES.get(name, name))
    if wanted is None:
        short = {key: alias for alias, key in ALIASES.items()}
        names = [short.get(key, key) for key, item in known.items() if not _attached(item)]
        near = difflib.get_close_matches(name, names, 1)
        raise ConfigError(Problem.of("--list", "forms.no_list", name=name, programme=programme.data.programme.key,
                                     near=near[0] if near else names[0], known=", ".join(names)))
    if _attached(wanted) and wanted.proof is not None:
        raise ConfigError(Problem.of("--list", "forms.attach", name=wanted.name_zh, cite=wanted.cite or "-",
                                     what="、".join(wanted.proof.columns_zh) or wanted.name_zh))
    return wanted


def _attached(wanted: Wanted) -> bool:
    return wanted.proof is not None and wanted.proof.producible == "attach"
