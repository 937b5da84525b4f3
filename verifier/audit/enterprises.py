"""Of each enterprise: how many gateways exist, how many are shown, and which are not. No history can be left at home.

What a bundle says of other gateways stands in its own register proofs; several bundles are joined, and the one whose
register is newest knows most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from protocols.terms.say import Say
from verifier.audit.results import EnterpriseResult, Finding, HiddenGateway, noted


def enterprises(summaries: Sequence[Mapping[str, Any]]) -> tuple[EnterpriseResult, ...]:
    """Return one result for each enterprise. `summaries`: of verify's --json, also of invalid bundles."""
    result = []
    for uscc in sorted({s["uscc"] for s in summaries if s["uscc"] is not None}):
        ours = [s for s in summaries if s["uscc"] == uscc]
        shown = {s["gateway"] for s in ours}
        known = [s["gateways"]["enrolled"] for s in ours if s["gateways"]["enrolled"] is not None]
        hidden: dict[str, HiddenGateway] = {}
        # The register that lists more gateways is the newer one: entries are only added.
        for summary in sorted(ours, key=lambda s: s["gateways"]["enrolled"] or 0, reverse=True):
            for other in summary["gateways"]["others"]:
                if other["gateway"] not in shown:
                    hidden[other["gateway"]] = _joined(hidden.get(other["gateway"]), other)
        result.append(EnterpriseResult(
            uscc=uscc, enrolled=max(known, default=None), shown=len(shown), others=tuple(hidden.values()),
            predecessors_hidden=tuple(sorted(
                {s["gateways"]["supersedes"] for s in ours if s["gateways"]["supersedes"] is not None} - shown))))
    return tuple(result)


def _joined(known: HiddenGateway | None, other: Mapping[str, Any]) -> HiddenGateway:
    by = set(other["superseded_by"]) | set(known.superseded_by if known else ())
    ends = [size for size in (other["revoked_from"], known.revoked_from if known else None) if size is not None]
    return HiddenGateway(gateway=other["gateway"], site=other["site"], supersedes=other["supersedes"],
                         superseded_by=tuple(sorted(by)), revoked_from=min(ends, default=None))


def enterprise_findings(told: Sequence[EnterpriseResult], say: Say) -> list[Finding]:
    """Say what is not shown; a predecessor that is not shown is said by name."""
    result = []
    for one in told:
        if one.enrolled is not None and one.enrolled > one.shown:
            result.append(noted("remark", "count.gateways_hidden", "bundle", say, uscc=one.uscc,
                                enrolled=one.enrolled, shown=one.shown))
        result += [noted("remark", "count.predecessor_hidden", "bundle", say, uscc=one.uscc, gateway=gateway)
                   for gateway in one.predecessors_hidden]
    return result
