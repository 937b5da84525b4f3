"""What is sealed, who has it, whose keys these are, and what an auditor waits for: as `status` tells it."""

from __future__ import annotations

from gateway.web.facts import Facts
from gateway.web.words import grouped, local_time
from protocols.terms.say import Say

MB = 2**20
Labelled = tuple[str, str, bool]
"""(label, text, whether it is a key or a digest)."""


def identity(facts: Facts, say: Say) -> list[Labelled]:
    """Return who this gateway is: what stands in its certificate, and the keys to compare."""
    certificate = facts.enrolment["certificate"]
    platform = facts.config.platform
    rows: list[Labelled] = [
        ("site", str(certificate["site"]), False), ("uscc", str(certificate["uscc"]), True),
        ("gateway", facts.gateway, True), ("gateway_key", grouped(facts.keys[-1][1]), True)]
    if len(facts.keys) > 1:
        rows.append(("gateway_key_from", str(facts.keys[-1][0]), False))
    rows.append(("recovery_key", grouped(str(certificate["recovery_key"])), True))
    if platform is not None and "platform" in facts.enrolment:
        rows += [("platform", platform.url, False), ("platform_key", grouped(facts.enrolment["platform"]), True),
                 ("register", str(facts.enrolment["register"]), True)]
    else:
        rows.append(("platform", say("web.evidence.alone"), False))
    rows += [("software", f"{facts.version}  {facts.software_sha256}", True),
             ("ledger", f"{facts.config.ledger_date}  {facts.config.ledger_sha256}", True)]
    return rows


def log_line(facts: Facts, say: Say) -> str:
    """Return how long the log is, and how much of it others have."""
    if facts.status is None:
        return ""
    log = facts.status["log"]
    if not facts.config.platform:
        return say("web.evidence.log_alone", size=log["size"])
    if log["submitted"] is None:  # it has not answered yet, or answers no more
        return say("commissioning.log_alone", size=log["size"], proven=log["proven"] or 0)
    return say("commissioning.log", size=log["size"], submitted=log["submitted"], proven=log["proven"] or 0)


def window_line(facts: Facts, say: Say) -> str:
    """Return what the last window received and counted, and how the clock stood."""
    if facts.status is None:
        return ""
    window = facts.status["window"]
    return say("web.evidence.window", start=local_time(window["start_s"]), len_s=facts.status["len_s"],
               received=window["received"], counted=window["counted"], offset_ms=window["offset_ms"])


def alarms(facts: Facts, say: Say) -> list[str]:
    """Return what somebody must act on: revocations, demands, draws to come, a disk over its budget."""
    if facts.status is None:
        return []
    lines = []
    said = facts.status["said"] or {"revoked_from": None, "demands": []}
    if said["revoked_from"] is not None:
        lines.append(say("statements.status_revoked", from_size=said["revoked_from"]))
    for demand in said["demands"]:
        if not demand["slots"] and not demand["hours"]:  # a draw is announced: nobody can be late
            if demand["deadline_s"] > facts.now_s:
                lines.append(say("web.evidence.announced", index=demand["index"],
                                 instant=local_time(demand["deadline_s"])))
            continue
        code = "web.evidence.demand" if demand["deadline_s"] > facts.now_s else "web.evidence.demand_over"
        lines.append(say(code, index=demand["index"], deadline=local_time(demand["deadline_s"]),
                         devices=len(demand["slots"]), hours=len(demand["hours"])))
    disk = facts.status["disk"]
    used = sum(disk["use"].values())
    if used > disk["budget"]:
        lines.append(say("commissioning.disk_over", used_mb=f"{used / MB:.1f}", budget_mb=disk["budget"] // MB))
    return lines


def disk_lines(facts: Facts, say: Say) -> tuple[str, str]:
    """Return what the state folder takes, and what is kept of raw data ("" if nothing is)."""
    if facts.status is None:
        return "", ""
    disk, keep = facts.status["disk"], facts.status["keep"]
    used = sum(disk["use"].values())
    line = say("web.evidence.disk_used", used_mb=f"{used / MB:.1f}", budget_mb=disk["budget"] // MB)
    if keep is None:
        return line, say("web.evidence.raw_off")
    return line, say("keep.status_full" if keep["full"] else "keep.status", files=keep["files"],
                     megabytes=f"{keep['bytes'] / MB:.1f}", budget_mb=facts.config.keep.budget_mb,
                     days=facts.config.keep.retain_days, kept=keep["windows_kept"], lost=keep["windows_not_kept"])


def probing_lines(facts: Facts, say: Say) -> list[str]:
    """Return what the last challenges and reads gave."""
    if facts.status is None:
        return []
    if facts.config.platform is None:
        return [say("web.evidence.no_probes")]
    probing = facts.status["probing"]
    lines = [say("web.evidence.challenge", server=str(server["server"])[:16],
                 connections=", ".join(server["connections"]), asked=local_time(server["asked_s"]),
                 answered=local_time(server["answered_s"]),
                 result=say(server["code"], **server["args"]) if server["code"] else "-")
             for server in probing["servers"]]
    if not lines:
        lines.append(say("probing.status_none", why=say(f"probing.why.{probing['why']}")))
    if probing["reads"]:
        last = probing["reads"]
        lines.append(say("probing.reads", answered=last["answered"], rows=last["rows"], seq=last["seq"],
                         start=local_time(last["start_s"])))
    return lines
