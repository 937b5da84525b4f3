"""Step 10, on site: what an assessor of the policy found at the places of devices that were drawn.

A file of findings comes by --also: the draw, an answer for each device, and the statement that closes them, all signed
by one assessor. Who signed decides what it proves: the file of a stranger proves nothing, a remark. What an assessor
of the policy cannot have signed so is forged, a fault: answers left out or added behind his back, answers of another
draw or for devices that were not drawn. A drawn device without an answer counts as a failure.

Whether the sample could have been chosen is said beside it; a level does not depend on that, the bound does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import entry, jcs, sample, signed
from protocols.evidence.signed import MATCH, MISMATCH, UNVERIFIED
from verifier.proof.also import where as also_where
from verifier.proof.announced import LATE, NOTHING_ANNOUNCED, OTHERS, Announced, Announcements
from verifier.proof.bound import Seen, alpha_of, together
from verifier.proof.bracket import Brackets
from verifier.proof.findings import NO_ENTRY, PROBES, Findings
from verifier.proof.history import UNKNOWN, Windows
from verifier.proof.log import Log

FIRST, NOT_FIRST, NOT_SHOWN, UNWITNESSED, ROSTER_LATE = SEEDS = (
    "first", "not_first", "not_shown", "unwitnessed", "roster_late")
"""What the bundle shows of the value that drew the sample; with any but the first it could have been chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One closed visit. draw: as signed, with its digest. seed: one of SEEDS.

    announced: how the register announces the draw.
    results: slot -> (result, when) of the answers for this gateway; drawn: its slots in the draw. failures: of each
    stratum of the whole draw, a missing answer among them.
    """

    name: str
    draw: Mapping[str, Any]
    draw_sha256: str
    assessor: str
    closed_s: int
    seed: str
    announced: Announced
    drawn: frozenset[int]
    results: Mapping[int, tuple[str, int]]
    failures: tuple[int, ...]

    @property
    def lower_bound(self) -> int | None:
        """Devices of the draw's population that exist at least; None where the sample may have been chosen."""
        if self.seed != FIRST:
            return None
        return together([Seen(s["population"], s["drawn"], failures)
                         for s, failures in zip(self.draw["strata"], self.failures, strict=True)],
                        alpha_of(self.draw["confidence_permille"]))

    def as_json(self) -> dict[str, Any]:
        """Return it as docs/schemas/verify.schema.json describes it."""
        told = Counter(result for result, _ in self.results.values())
        strata = [{"name": s["name"], "population": s["population"], "drawn": s["drawn"], "failures": failures}
                  for s, failures in zip(self.draw["strata"], self.failures, strict=True)]
        return {"draw_sha256": self.draw_sha256, "assessor": self.assessor, "announced_s": self.draw["announced_s"],
                "at_s": self.draw["at_s"], "closed_s": self.closed_s, "seed": self.seed,
                "announcement": self.announced.as_json(),
                "confidence_permille": self.draw["confidence_permille"], "strata": strata,
                "lower_bound": self.lower_bound,
                "here": {"drawn": len(self.drawn), MATCH: told[MATCH], MISMATCH: told[MISMATCH],
                         UNVERIFIED: told[UNVERIFIED], "missing": len(self.drawn) - len(self.results)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the bundle shows, for holding draws against it."""

    log: Log
    brackets: Brackets
    windows: Windows
    announcements: Announcements = NOTHING_ANNOUNCED


def read(files: Sequence[tuple[str, Mapping[str, Any]]], assessors: frozenset[str], shown: Shown,
         found: Findings) -> tuple[Visit, ...]:
    """Check every file of findings; return the closed visits of assessors of the policy to this gateway."""
    visits = []
    for name, value in files:
        where = also_where(name)
        if not found.holds(PROBES, NO_ENTRY, sample.check_shape, sample.FINDINGS_FILE, value, where=where):
            continue
        if all(g["gateway"] != shown.log.gateway for g in value["draw"]["gateways"]):
            found.remark(PROBES, "also.unrelated", where)
        elif value["draw"]["key"] not in assessors:
            found.remark(PROBES, "finding.unknown_signer", where, key=value["draw"]["key"])
        elif found.holds(PROBES, NO_ENTRY, _check, value, where=where):
            if value["finding"] is None:
                found.remark(PROBES, "finding.open", where, answers=len(value["answers"]))
                continue
            seed = found.get(PROBES, NO_ENTRY, _seed, value["draw"], shown, where=where)
            if seed is not None:
                visits.append(_visit(name, value, seed, shown))
                _tell(visits[-1], where, found)
    return tuple(visits)


def _check(value: Mapping[str, Any], *, where: str) -> None:
    """Check a file by itself: one assessor, one draw, one answer at most for each device, all of them closed.

    Raises: VerificationError of the signatures, `draw.*` or `finding.*`.
    """
    draw, answers, finding = value["draw"], value["answers"], value["finding"]
    assessor = {draw["key"]}
    signed.verify("draw", draw, signers=assessor, where=where)
    sample.check_draw(draw, where=where)
    digest = sample.draw_sha256(draw)
    drawn = {(d["gateway"], d["slot"]): place for place, d in enumerate(draw["devices"])}
    places = []
    for answer in answers:
        signed.verify("answer", answer, signers=assessor, where=where)
        device = answer["gateway"], answer["slot"]
        if answer["draw_sha256"] != digest:
            raise VerificationError(Problem.of(where, "finding.other_draw", slot=answer["slot"]))
        if device not in drawn:
            raise VerificationError(Problem.of(where, "finding.not_drawn", gateway=device[0], slot=device[1]))
        if answer["at_s"] < draw["cosignature"]["time_s"]:
            raise VerificationError(Problem.of(where, "finding.time", slot=answer["slot"]))
        places.append(drawn[device])
    if places != sorted(set(places)):
        raise VerificationError(Problem.of(where, "finding.order"))
    if finding is None:
        return
    signed.verify("finding", finding, signers=assessor, where=where)
    if finding["draw_sha256"] != digest:
        raise VerificationError(Problem.of(where, "finding.other_draw", slot="-"))
    if (finding["answers"], finding["answers_sha256"]) != (len(answers), sample.answers_sha256(answers)):
        raise VerificationError(Problem.of(where, "finding.answers", found=len(answers), expected=finding["answers"]))
    if any(answer["at_s"] > finding["closed_s"] for answer in answers):
        raise VerificationError(Problem.of(where, "finding.time", slot="-"))


def first_seen(log: Log, windows: Windows, after_s: int) -> Mapping[str, Any] | None:
    """Return the `seen` of the first window, in log order, that an independent witness co-signed later than `after_s`.

    None if there is none, or if windows that the bundle does not hold may have one: it begins behind `after_s`. A
    window cannot be left out of a log, a proof of the register can.
    """
    if not windows or (log.first > 0 and windows.end_s[0] > after_s):
        return None
    i = next((i for i, before_s in enumerate(windows.not_before_s) if before_s > after_s), None)
    data = None if i is None else log.entry(windows.seq[i])
    if i is None or data is None:
        return None
    seen: Mapping[str, Any] = entry.decode(data, seq=windows.seq[i])["seen"]
    return seen


def order(seen: Mapping[str, Any]) -> tuple[int, bytes]:
    """Return what decides which co-signature is the first, of those that several logs show."""
    return seen["time_s"], jcs.encode(dict(seen))


def _seed(draw: Mapping[str, Any], shown: Shown, *, where: str) -> str:
    """Hold a draw against the bundle; return what it shows of its seed.

    Raises: VerificationError `finding.roster`, if the log has other devices than those that were drawn from;
        `seen.bad_signature` or `seen.split_view`.
    """
    mine = next(g for g in draw["gateways"] if g["gateway"] == shown.log.gateway)
    data = shown.log.entry(mine["roster"])
    if mine["roster"] >= shown.log.checkpoint.size or data is None:
        return NOT_SHOWN  # a bundle from before the draw, or an entry that was refused already
    value = entry.decode(data, seq=mine["roster"])
    if value["type"] != "roster" or value["devices_root"] != mine["devices_root"] or any(
            d["slot"] >= value["devices"] for d in draw["devices"] if d["gateway"] == shown.log.gateway):
        raise VerificationError(Problem.of(where, "finding.roster", seq=mine["roster"]))
    used = draw["cosignature"]
    time_s = shown.brackets.seen_time(used, where=where)
    if time_s == UNKNOWN or time_s <= draw["announced_s"]:
        return UNWITNESSED
    fixed_s = shown.brackets.not_after(mine["roster"])
    if fixed_s == UNKNOWN or fixed_s > draw["announced_s"]:
        return ROSTER_LATE
    first = first_seen(shown.log, shown.windows, draw["announced_s"])
    if first is None:
        return NOT_SHOWN
    if first == used:
        return FIRST
    alone = len(draw["gateways"]) == 1
    return NOT_FIRST if alone or order(first) < order(used) else NOT_SHOWN


def _visit(name: str, value: Mapping[str, Any], seed: str, shown: Shown) -> Visit:
    draw, gateway = value["draw"], shown.log.gateway
    results = {(a["gateway"], a["slot"]): (a["result"], a["at_s"]) for a in value["answers"]}
    failures = Counter(d["stratum"] for d in draw["devices"]
                       if results.get((d["gateway"], d["slot"]), ("", 0))[0] != MATCH)
    return Visit(
        name=name, draw=draw, draw_sha256=sample.draw_sha256(draw), assessor=draw["key"],
        closed_s=value["finding"]["closed_s"], seed=seed,
        announced=shown.announcements.of({g["gateway"] for g in draw["gateways"]}, draw["announced_s"]),
        drawn=frozenset(d["slot"] for d in draw["devices"] if d["gateway"] == gateway),
        results={slot: told for (at, slot), told in results.items() if at == gateway},
        failures=tuple(failures[i] for i in range(len(draw["strata"]))))


def _tell(visit: Visit, where: str, found: Findings) -> None:
    """Say what was not found, and what speaks against the sample."""
    for code, result in (("finding.mismatch", MISMATCH), ("finding.unverified", UNVERIFIED)):
        slots = sorted(slot for slot, (told, _) in visit.results.items() if told == result)
        if slots:
            found.remark(PROBES, code, where, count=len(slots), slots=_listed(slots))
    missing = sorted(visit.drawn - visit.results.keys())
    if missing:
        found.remark(PROBES, "finding.unanswered", where, count=len(missing), slots=_listed(missing))
    if visit.seed != FIRST:
        found.remark(PROBES, _SEED_CODES[visit.seed], where)
    if visit.announced.state in _ANNOUNCED_CODES:
        found.remark(PROBES, _ANNOUNCED_CODES[visit.announced.state], where, index=visit.announced.index)


_SEED_CODES = {NOT_FIRST: "finding.not_first", NOT_SHOWN: "finding.not_shown", UNWITNESSED: "finding.unwitnessed",
               ROSTER_LATE: "finding.roster_late"}
_ANNOUNCED_CODES = {LATE: "finding.announced_late", OTHERS: "finding.announced_others"}
SLOTS_SHOWN = 20


def _listed(slots: Sequence[int]) -> str:
    more = ", ..." if len(slots) > SLOTS_SHOWN else ""
    return ", ".join(map(str, slots[:SLOTS_SHOWN])) + more


def is_found(visits: Sequence[Visit], slot: int, at_s: int, period_s: int) -> bool:
    """Return whether an assessor found this device in the period before or after T, and nobody missed it then."""
    results = [visit.results[slot] for visit in visits if slot in visit.results]
    told = {result for result, when_s in results if abs(when_s - at_s) <= period_s}
    return MATCH in told and MISMATCH not in told
