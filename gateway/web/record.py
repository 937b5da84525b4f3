"""The commissioning record: one sheet of A4 that an engineer prints, signs and files."""

from __future__ import annotations

from gateway.web.devices import DeviceRow, device_row
from gateway.web.evidence import Labelled, log_line
from gateway.web.facts import Facts
from gateway.web.index import Index
from gateway.web.words import grouped
from protocols.terms.say import Say

CONNECTIONS_MAX = 6
LINES_MAX = 10
"""Connections, and connections and problems together, that fit the sheet; the rest is a number, and the page has it."""


def pairs(facts: Facts, say: Say) -> list[Labelled]:
    """Return the head of the sheet: label, text, whether it is a key or a digest."""
    certificate = facts.enrolment["certificate"]
    rule, offset_ms = facts.config.window, None if facts.status is None else facts.status["window"]["offset_ms"]
    platform = facts.config.platform
    return [
        ("site", str(certificate["site"]), False),
        ("uscc", str(certificate["uscc"]), False),
        ("gateway", facts.gateway, True),
        ("gateway_key", grouped(facts.keys[-1][1]), True),
        ("recovery_key", grouped(str(certificate["recovery_key"])), True),
        ("platform", say("web.evidence.alone") if platform is None else platform.url, False),
        ("software", f"{facts.version}  {facts.software_sha256}", True),
        ("ledger", f"{facts.config.ledger_date}  {facts.config.ledger_sha256}", True),
        ("rule", say("web.record.rule_told", len_s=facts.config.len_s, grace_ms=rule.grace_ms,
                     usable=", ".join(rule.usable)), False),
        ("own_clock", say("web.record.clock_ntp" if facts.clock_source == "ntp" else "web.record.clock_system",
                          offset_ms="—" if offset_ms is None else f"{offset_ms:+d}"), False),
        ("identity", say("web.record.contradictions", count=len(facts.contradictions)) if facts.contradictions
         else say("web.record.no_contradiction"), False),
        ("log", log_line(facts, say) or "—", False)]


def problem_rows(facts: Facts, index: Index) -> list[DeviceRow]:
    """Return every device that does not count, in the order of devices.csv."""
    if facts.figures is None:
        return []
    answering = facts.answering()
    return [device_row(line, facts, bool(answering[line.slot])) for line in index.lines
            if line.slot in facts.figures.reasons]
