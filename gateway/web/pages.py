"""The pages as HTML: facts in, text out. No network, no clock; whatever comes from a device or a file is escaped here.

Every function runs in the page's own thread. The sentences are those of `status`, `plan` and `explain`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.commissioning.status import STALE_SLACK_S, STALE_WINDOWS
from gateway.web import record
from gateway.web.connections import ROWS as CONNECTION_ROWS
from gateway.web.connections import address_of, connection_rows, worst_first
from gateway.web.devices import POINT_ROWS, STATES, Filter, cut, device_page, device_row, page_number, point_rows
from gateway.web.evidence import alarms, disk_lines, identity, log_line, probing_lines, window_line
from gateway.web.facts import Facts
from gateway.web.index import Index, Line
from gateway.web.live import Cell
from gateway.web.why import causes
from gateway.web.words import Told, local_time, told
from protocols.terms.basis import NOT_COUNTED_REASONS
from protocols.terms.say import Say

REFRESH_S = 2.0
NAV = (("overview", "/"), ("devices", "/devices"), ("connections", "/connections"), ("plan", "/plan"),
       ("evidence", "/evidence"), ("record", "/record"))
OVERVIEW_CONNECTIONS = 12
OVERVIEW_EVENTS = 10
CONTRADICTIONS_MAX = 20
PLAN_ROWS = 100
PLAN_KINDS = {"requests": "web.plan_requests", "sends": "commissioning.plan_sends", "probes": "probing.plan"}

_STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request: its path, its query, and the language of whoever asks."""

    path: str
    query: Mapping[str, str]
    say: Say


def is_ready(facts: Facts) -> bool:
    """Return whether windows are sealed: the rule by which `status` says that a gateway runs.

    Before its first window a gateway that has just begun is ready as long as that window may take.
    """
    sealed_s = facts.begun_s if facts.status is None else int(facts.status["written_s"])
    return abs(facts.now_s - max(sealed_s, facts.begun_s)) <= STALE_WINDOWS * facts.config.len_s + STALE_SLACK_S


def overview(facts: Facts, index: Index, asked: Asked) -> str:
    """What counts, what answers now, and what is wrong."""
    answering = facts.answering()
    slots = [line.slot for line in index.lines]
    heard = facts.heard_ns[slots] > 0
    now = {"answering": int(answering[slots].sum()), "silent": int((heard & ~answering[slots]).sum()),
           "never": int((~heard & ~answering[slots]).sum())}
    rows = worst_first(connection_rows(facts, index))
    return _render("overview", facts, asked, now=now, connections=rows[:OVERVIEW_CONNECTIONS],
                   more_connections=len(rows) if len(rows) > OVERVIEW_CONNECTIONS else 0,
                   events=_events(facts.events, asked.say)[:OVERVIEW_EVENTS], alarms=alarms(facts, asked.say),
                   contradictions=_contradictions(facts.contradictions[:CONTRADICTIONS_MAX], index, asked.say),
                   more_contradictions=max(0, len(facts.contradictions) - CONTRADICTIONS_MAX),
                   log_line=log_line(facts, asked.say))


def devices(facts: Facts, index: Index, asked: Asked) -> str:
    """The list, filtered and cut."""
    wanted = Filter.of(asked.query, index)
    query = {name: value for name, value in (("state", wanted.state if wanted.state != "all" else ""),
                                             ("reason", wanted.reason), ("connection", wanted.connection),
                                             ("q", wanted.text)) if value}
    return _render("devices", facts, asked, wanted=wanted, query=query, states=STATES, names=list(index.slots),
                   reasons=_reasons(facts, wanted.reason),
                   found=device_page(facts, index, wanted, page_number(asked.query)))


def device(facts: Facts, index: Index, asked: Asked, line: Line, cells: Sequence[Cell | None]) -> str:
    """One device: why it does or does not count, and the last value of each point. `cells`: of all its points."""
    found = cut(line.points, page_number(asked.query), POINT_ROWS)
    first = (found.page - 1) * POINT_ROWS
    row = device_row(line, facts, bool(facts.answering()[line.slot]))
    rows = point_rows(line, cells[first:first + POINT_ROWS], facts, found.rows)
    name = line.device.connection
    own = [event for event in facts.events
           if str(event["where"]) == name or line.device.id in (str(event["where"]), *event["args"].values())]
    connection = next(row for row in connection_rows(facts, index) if row.name == name)
    return _render("device", facts, asked, row=row, device=line.device, slot=line.slot, connection=connection,
                   causes=[told(asked.say, cause.code, _shown_times(cause.args))
                           for cause in causes(line, cells, facts, index)],
                   found=type(found)(rows=rows, total=found.total, page=found.page, pages=found.pages),
                   events=_events(own, asked.say), page="devices",
                   contradictions=_contradictions([one for one in facts.contradictions
                                                   if line.device.id in one["devices"]], index, asked.say))


def connections(facts: Facts, index: Index, asked: Asked) -> str:
    """Every connection."""
    rows = worst_first(connection_rows(facts, index))
    return _render("connections", facts, asked, found=cut(rows, page_number(asked.query), CONNECTION_ROWS))


def plan(facts: Facts, asked: Asked, planned: Sequence[Mapping[str, Any]], problem: Told | None) -> str:
    """What is sent on one connection. `planned`: as `tallystick plan` has it; `problem`: why there is none."""
    names = [connection["connection"] for connection in planned]
    if problem is not None or not planned:
        return _render("plan", facts, asked, is_live=False, problem=problem.text if problem else asked.say("web.none"))
    wanted = asked.query.get("connection", "")
    chosen = planned[names.index(wanted) if wanted in names else 0]
    tables = []
    for kind, title in PLAN_KINDS.items():
        rows = chosen[kind]
        if rows:
            columns = list(dict.fromkeys(name for row in rows for name in row))
            tables.append((asked.say(title),
                           {"columns": columns, "paged": cut(rows, page_number(asked.query), PLAN_ROWS)}))
    return _render("plan", facts, asked, is_live=False, problem=None, plan=chosen, tables=tables, names=names,
                   heading=lambda column: asked.say(f"web.plan.{column}") if asked.say.explain(f"web.plan.{column}")
                   else column,
                   endpoint=address_of(facts.config.endpoints[chosen["connection"]]))


def evidence(facts: Facts, index: Index, asked: Asked) -> str:
    """What is sealed, who has it, and whose keys these are."""
    say = asked.say
    status = facts.status
    discarded = [] if status is None else [(reason, n) for reason, n in status["window"]["discarded"].items() if n]
    disk_line, keep_line = disk_lines(facts, say)
    return _render("evidence", facts, asked, identity=identity(facts, say), alarms=alarms(facts, say),
                   log_line=log_line(facts, say), window_line=window_line(facts, say), discarded=discarded,
                   disk_line=disk_line, keep_line=keep_line, probing=probing_lines(facts, say),
                   disk_used=0 if status is None else sum(status["disk"]["use"].values()))


def commissioning_record(facts: Facts, index: Index, asked: Asked) -> str:
    """One sheet of A4."""
    rows = worst_first(connection_rows(facts, index))
    shown = rows[:record.CONNECTIONS_MAX]
    problems = record.problem_rows(facts, index)
    most = record.LINES_MAX - len(shown)
    return _render("record", facts, asked, is_live=False, pairs=record.pairs(facts, asked.say),
                   connections=shown, more_connections=len(rows) - len(shown), problems=problems[:most],
                   more_problems=max(0, len(problems) - most))


def error(status: int, text: Told, asked: Asked) -> str:
    """A page that says what is wrong with a request."""
    return _rendered("error", status=status, text=text.text, fix=text.fix, **_language(asked))


def _render(name: str, facts: Facts, asked: Asked, *, page: str = "", is_live: bool = True, **more: Any) -> str:
    language = _language(asked)
    other = dict(asked.query)
    other.pop("lang", None)
    if asked.say.lang == "zh":
        other["lang"] = "en"
    return _rendered(
        name, facts=facts, page=page or name, nav=NAV, refresh_s=REFRESH_S if is_live else 0, is_ready=is_ready(facts),
        ago=lambda time_s: _ago(facts.now_s - time_s, asked.say),
        other_link=asked.path + (f"?{urlencode(other)}" if other else ""), **language, **more)


def _language(asked: Asked) -> dict[str, Any]:
    say = asked.say
    english = say.speaking("en")

    def link(path: str, **query: object) -> str:
        if say.lang == "en":
            query["lang"] = "en"
        return path + (f"?{urlencode(query)}" if query else "")

    return {"say": say, "lang": say.lang, "link": link,
            "t": lambda name, **args: say(f"web.{name}", **args),
            "en": lambda name, **args: english(f"web.{name}", **args)}


def _reasons(facts: Facts, chosen: str) -> list[str]:
    there = set() if facts.figures is None else set(facts.figures.not_counted)
    return [reason for reason in NOT_COUNTED_REASONS if reason in there or reason == chosen]


def _events(events: Sequence[Mapping[str, Any]], say: Say) -> list[dict[str, Any]]:
    """Newest first, each told in the language of the page."""
    return [{**event, "told": told(say, event["code"], {"where": event["where"], **event["args"]})}
            for event in reversed(events)]


def _contradictions(found: Sequence[Mapping[str, Any]], index: Index, say: Say) -> list[tuple[str, bool, Told]]:
    """Return (device or connection, whether it is a device, what is said of it)."""
    return [(name, name in index.by_id, told(say, one["code"], one["args"]))
            for one in found for name in [str(one["devices"][0])]]


def _shown_times(args: Mapping[str, Any]) -> dict[str, Any]:
    return {"time" if name == "time_s" else name: local_time(value) if name == "time_s" else value
            for name, value in args.items()}


def _ago(age_s: int, say: Say) -> str:
    for size_s, code in ((86_400, "web.ago_days"), (3_600, "web.ago_hours"), (60, "web.ago_minutes")):
        if age_s >= 2 * size_s:
            return say(code, count=age_s // size_s)
    return say("web.ago_seconds", count=max(age_s, 0))


def _harmless(value: object) -> object:
    """Make what a template prints harmless: nothing may reorder a line or hide in it. Markup is escaped already."""
    if type(value) is not str or value.isprintable():
        return value
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in _STEERING else c for c in value)


@cache
def _environment() -> Environment:
    environment = Environment(loader=PackageLoader("gateway.web", "templates"), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=StrictUndefined, finalize=_harmless)
    environment.filters["when"] = local_time
    return environment


def _rendered(name: str, **values: Any) -> str:
    return _environment().get_template(f"{name}.html").render(**values)


Renderer = Callable[[Facts, Index, Asked], str]
