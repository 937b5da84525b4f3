"""Bytes in, verdict out: the numbered steps, joined. What fails a step is not used by later ones.

    1 container         protocols.evidence.bundle, before this is called
    2 policy            here: who is trusted for this gateway
    3 register          register.py
    4 checkpoint, key   log.py
    5 tiles, entries    log.py
    6 life of the log   history.py
    7 time              bracket.py
    8 rosters           rows.py
    9 recount           recount.py; figures at an instant: figures.py
   10 probes, levels    probes.py, transcripts.py, chains.py, visits.py; levels at an instant: levels.py

No network, no clock, no file but the members of the bundle: the same bytes give the same verdict.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from protocols.errors import VerificationError
from protocols.evidence.bundle import README, Bundle
from protocols.evidence.equivocation import Contradiction
from protocols.evidence.policy import Policy
from protocols.terms.basis import Basis
from verifier.proof import chains, transcripts
from verifier.proof import log as logs
from verifier.proof import register as registers
from verifier.proof.also import NOTHING, Also
from verifier.proof.announced import NOTHING_ANNOUNCED, Announcements
from verifier.proof.bracket import Brackets
from verifier.proof.equivocation import Lies, convict
from verifier.proof.figures import Evidence
from verifier.proof.findings import ALL_STEPS, CONTAINER, LOG, NO_ENTRY, POLICY, REGISTER, Finding, Findings
from verifier.proof.history import COUNTED, OVERLAPPED, Birth, History, Windows
from verifier.proof.kept import NOTHING_KEPT, Answer, Kept, KeptTotals, RecountFile, answers
from verifier.proof.kept import read_openings as openings_beside
from verifier.proof.levels import At, LevelTotals, Possession, levels, look_at, totals
from verifier.proof.probes import Probes
from verifier.proof.recount import Recount
from verifier.proof.rows import Rosters, read_openings
from verifier.proof.standing import Clock, Standing, standing
from verifier.proof.transcripts import NO_READS, ReadTotals
from verifier.proof.visits import Shown, Visit
from verifier.proof.visits import read as read_visits

LIMITS = (
    "limit.before_cosignature", "limit.declared", "limit.false_last", "limit.false_life", "limit.gateway_word",
    "limit.rollback",
)
"""What no evidence of this format can prove; printed with every verdict."""

LIMIT_GIVEN = "limit.given"
LIMIT_SELF_MADE = "limit.self_made"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the verdict rests on and how far it reaches.

    trust: `independent` when the newest head of this gateway carries an independent co-signature, else `given`.
    time: `anchored` when windows are bracketed by independent co-signatures. covered: [from, to) in seconds, UTC.
    windows: in `covered`; windows_uncounted: of these, overlapped or with untrusted time. coverage_permille: windows
    of all that should be there. delay_s: median and largest time from a window's end to its not-after.
    family: gateways of this enterprise in the register, this one among them; None without a register.
    supersedes: the gateway whose successor this one is enrolled as. standing: what a revocation leaves.
    clock: the gateway's own, which decides no verdict.
    levels: of the devices alive at the end of the newest window, None where nothing is proven of them. probes: valid,
    unanchored, unsupported, invalid. reads: committed and opened. visits: closed ones of assessors of the policy.
    demanded, opened: slots that auditors demanded, and how many of these are opened. demands: what became of each.
    announcements: draws that auditors announced.
    kept: raw data that was promised, and what was brought of it. limits: codes.
    """

    trust: str = "given"
    time: str = "unanchored"
    gateway: str | None = None
    uscc: str | None = None
    site: str | None = None
    size: int | None = None
    covered: tuple[int, int] | None = None
    windows: int = 0
    windows_uncounted: int = 0
    outages: int = 0
    missing_windows: int = 0
    coverage_permille: int | None = None
    delay_median_s: int | None = None
    delay_max_s: int | None = None
    devices: int | None = None
    points: int | None = None
    family: tuple[registers.Kin, ...] | None = None
    supersedes: str | None = None
    standing: Standing | None = None
    clock: Clock = field(default_factory=Clock)
    levels: LevelTotals | None = None
    probes: tuple[int, int, int, int] = (0, 0, 0, 0)
    reads: ReadTotals = NO_READS
    visits: tuple[Visit, ...] = ()
    demanded: int = 0
    opened: int = 0
    demands: tuple[Answer, ...] = ()
    announcements: Announcements = NOTHING_ANNOUNCED
    kept: KeptTotals = NOTHING_KEPT
    limits: tuple[str, ...] = (*LIMITS, LIMIT_GIVEN)

    def as_json(self) -> dict[str, Any]:
        """Return the summary as docs/schemas/verify.schema.json describes it."""
        return {
            "trust": self.trust, "time": self.time, "gateway": self.gateway, "uscc": self.uscc, "site": self.site,
            "size": self.size, "covered": None if self.covered is None else list(self.covered),
            "windows": {"shown": self.windows, "not_counted": self.windows_uncounted},
            "outages": {"shown": self.outages, "missing_windows": self.missing_windows},
            "coverage_permille": self.coverage_permille,
            "delay_s": {"median": self.delay_median_s, "max": self.delay_max_s},
            "roster": {"devices": self.devices, "points": self.points},
            "gateways": self._gateways(), "levels": self._levels(),
            "revocation": None if self.standing is None else self.standing.as_json(), "clock": self.clock.as_json(),
            "openings": {"demanded": self.demanded, "answered": self.opened},
            "demands": [answer.as_json() for answer in self.demands],
            "announcements": [said.as_json() for said in self.announcements.said], "kept": self.kept.as_json(),
            "limits": list(self.limits),
        }

    @property
    def enrolled(self) -> int | None:
        """Gateways of this enterprise in the register, None without one."""
        return None if self.family is None else len(self.family)

    def _gateways(self) -> dict[str, Any]:
        others = [{"gateway": kin.gateway, "site": kin.site, "supersedes": kin.supersedes,
                   "superseded_by": list(kin.superseded_by), "revoked_from": kin.revoked_from}
                  for kin in self.family or () if kin.gateway != self.gateway]
        return {"enrolled": self.enrolled, "shown": 1, "supersedes": self.supersedes, "others": others}

    def _levels(self) -> dict[str, Any]:
        known = None if self.levels is None else self.levels.as_json()
        names = ("valid", "unanchored", "unsupported", "invalid")
        return {"at_the_end": known, "probes": dict(zip(names, self.probes, strict=True)),
                "reads": self.reads.as_json(), "visits": [visit.as_json() for visit in self.visits]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`valid` if no finding is a fault. `evidence` is what a valid bundle proves, None for an invalid one.

    equivocations: portable proofs of the contradictions that were found, each a file.
    """

    valid: bool
    findings: tuple[Finding, ...]
    summary: Summary
    evidence: Evidence | None
    equivocations: tuple[bytes, ...] = ()


def refused(error: VerificationError) -> Verdict:
    """Return the verdict on a bundle whose container was refused (step 1)."""
    found = Findings()
    found.refuse(CONTAINER, error)
    return _verdict(found, Summary(), None)


def judge_alone(also: Also, policy: Policy) -> Verdict:
    """Judge one proof of equivocation without a bundle: it convicts a log that the policy trusts.

    Raises: VerificationError if the file proves nothing about such a log: then there is nothing to judge.
    """
    found = Findings()
    (name, value), = also.equivocations
    convict(name, value, policy, found)
    return _verdict(found, Summary(), None)


def with_register_lie(verdict: Verdict, policy: Policy, why: Contradiction) -> Verdict:
    """Return the verdict on a bundle whose register contradicts that of another bundle: it proves nothing."""
    found = Findings()
    found.fault(REGISTER, "register.equivocation", "register", first=why.first, last=why.end - 1,
                register=policy.register.name if policy.register else "-")
    findings = sorted((*verdict.findings, *found.sorted()), key=lambda f: (f.step, f.seq, f.code, f.where, f.args))
    return replace(verdict, valid=False, findings=tuple(findings), evidence=None)


def verify(bundle: Bundle, policy: Policy, *, anchor: bytes | None = None, also: Also = NOTHING,
           recount: RecountFile | None = None, steps: Collection[int] = ALL_STEPS) -> Verdict:
    """Judge an opened bundle under the checker's own policy.

    Args:
        anchor: what the checker kept and the claimant does not hold: a tlog-proof of a head of this gateway, or a
            signed checkpoint of the gateway.
        also: what else the checker holds, sorted: proofs of equivocation, openings, transcripts, kept files.
        recount: reads kept files (verifier.raw.recount); without it only their digests are compared.
        steps: the steps whose faults count. Only tests leave one out, to show that each is needed.
    Every fault is found in one run, as far as later steps do not need what an earlier one refused.
    """
    found = Findings(steps)
    readme = found.get(CONTAINER, NO_ENTRY, bundle.read, "README.txt")
    if readme is not None and readme != README.encode():
        found.remark(CONTAINER, "container.readme_differs", "README.txt")
    claim = logs.read_claim(bundle, found)
    if claim is None:
        return _verdict(found, Summary(), None)

    lies = Lies(also, policy, found)
    lies.look_at_register(bundle)
    register = None
    if policy.register is not None:
        if bundle.numbered["register"] or claim.gateway not in policy.gateways:
            register = registers.read(bundle, policy, claim.gateway, found)
    elif bundle.numbered["register"]:
        found.fault(POLICY, "policy.register_unknown", "register")
    birth = _birth(bundle, claim, policy, register, found)
    signers = None if birth is None else logs.verify_signature(bundle, claim, birth.first_key, found)
    if birth is None or signers is None:
        return _verdict(found, Summary(), None, lies)
    log = logs.read_tiles(bundle, claim, found)
    if log is None:
        return _verdict(found, Summary(), None, lies)
    if anchor is not None:
        logs.check_anchor(log, anchor, policy, signers, found)
    heads = logs.check_heads(log, register.heads, found) if register else ()
    if register:
        logs.check_forks(log, register.forks, signers, found)
    lies.look_at_log(log, signers, heads, [texts for _, texts in register.forks] if register else (),
                     register.ends_at if register else None)
    lies.close()

    history = History(log, birth, signers, register.ends_at if register else None, found)
    brackets = Brackets(policy, heads, register.roots if register else {}, found,
                        register.cosigned if register else frozenset())
    rosters = Rosters(bundle, found)
    probes = Probes(history, brackets, rosters, found)
    clock = Clock()
    kept = Kept(log, rosters, found, recount)
    windows = _walk(history, brackets, rosters, probes, kept, clock, found)
    last = rosters.last()
    beside = openings_beside(also.openings, log, last, found)
    opened = {**beside, **read_openings(bundle, log.gateway, last, found)}
    kept_totals = kept.check(also.files)
    demands = answers(register.demands, register.newest_s, opened=opened, answered=kept.answered, windows=windows,
                      found=found) if register else ()
    reads = transcripts.check(also.transcripts, probes.reads, log.gateway, rosters, found)
    announcements = register.announcements if register else NOTHING_ANNOUNCED
    possession = Possession(
        gateway=log.gateway, anchored=brackets.anchored, rosters=rosters, probes=tuple(probes.valid),
        attests=register.attests if register else (), opened=opened,
        chains=chains.read(also.chains, policy.maker_cas, log.gateway, found),
        visits=read_visits(also.findings, policy.assessors,
                           Shown(log=log, brackets=brackets, windows=windows, announcements=announcements), found))
    look_at(possession, last, found)

    covered = windows.covered()
    shown = [o for o in history.outages if covered is not None and covered[0] < o.end_s <= covered[1]]
    newest = register.heads[-1] if register and register.heads else None
    independent = newest is not None and newest.cosigned_s is not None
    limits = LIMITS if independent else (*LIMITS, LIMIT_GIVEN)
    missing = sum(o.windows for o in shown)
    standing_windows = sum(state != OVERLAPPED for state in windows.state)
    certificate = register.certificate if register else history.certificate
    summary = Summary(
        trust="independent" if independent else "given", time="anchored" if brackets.anchored else "unanchored",
        gateway=log.gateway, uscc=certificate["uscc"] if certificate else None,
        site=certificate["site"] if certificate else None, size=log.checkpoint.size, covered=covered,
        windows=len(windows), windows_uncounted=sum(state != COUNTED for state in windows.state),
        outages=len(shown), missing_windows=missing,
        coverage_permille=1000 * standing_windows // (standing_windows + missing) if windows else None,
        delay_median_s=brackets.delay_median_s,
        delay_max_s=max(brackets.delays_s, default=None),
        devices=None if last is None else sum(row.alive for row in last.devices),
        points=None if last is None else sum(row.alive for row in last.points),
        family=register.gateways if register else None,
        supersedes=certificate["supersedes"] if certificate else None,
        standing=standing(register.revocation if register else None, windows, log.checkpoint.size), clock=clock,
        levels=None if last is None or found.faults() else _levels_at_end(possession, windows),
        probes=(len(probes.valid), probes.unanchored, probes.unsupported, probes.invalid), reads=reads,
        visits=possession.visits,
        demanded=len(register.demanded) if register else 0,
        opened=len(register.demanded & opened.keys()) if register else 0, demands=demands, kept=kept_totals,
        announcements=announcements,
        limits=tuple(sorted((*limits, LIMIT_SELF_MADE) if _self_made(certificate) else limits)))
    evidence = None
    if not found.faults() and certificate is not None:
        evidence = Evidence(
            gateway=log.gateway, uscc=certificate["uscc"], site=certificate["site"],
            enrol_index=register.enrol_index if register else None, anchored=brackets.anchored,
            covered=covered, from_enrolment=log.first == 0, windows=windows, outages=tuple(history.outages),
            rosters=rosters, opened=opened, possession=possession, log=log,
            announcements=announcements)
    return _verdict(found, summary, evidence, lies)


def _verdict(found: Findings, summary: Summary, evidence: Evidence | None, lies: Lies | None = None) -> Verdict:
    valid = not found.faults()
    return Verdict(valid=valid, findings=found.sorted(), summary=summary, evidence=evidence if valid else None,
                   equivocations=tuple(lies.portable) if lies else ())


def _birth(bundle: Bundle, claim: logs.Claim, policy: Policy, register: registers.Register | None,
           found: Findings) -> Birth | None:
    """Step 2: say who is trusted for this gateway: a key that the policy lists, or what the register proves."""
    listed = policy.gateways.get(claim.gateway)
    if listed is not None:
        platform = frozenset() if policy.platform is None else frozenset({policy.platform})
        return Birth(register.certificate if register else None, listed.public, platform)
    if register is not None:
        return Birth(register.certificate, bytes.fromhex(register.certificate["gateway_key"]))
    if policy.register is not None and bundle.numbered["register"]:
        return None  # step 3 has said why
    found.fault(POLICY, "policy.gateway_unknown", "checkpoint", gateway=claim.gateway)
    return None


def _self_made(certificate: Mapping[str, Any] | None) -> bool:
    """Return whether nobody but the owner of the gateway says whose it is: its own recovery key signed."""
    return certificate is None or certificate["key"] == certificate["recovery_key"]


def _levels_at_end(possession: Possession, windows: Windows) -> LevelTotals | None:
    """Return the levels of all devices alive at the end of the newest window, under the default basis."""
    if not windows:
        return None
    rows = possession.rosters.at(windows.roster[-1])
    alive = frozenset(row.slot for row in rows.devices if row.alive)
    at = [At(possession=possession, roster=rows, at_s=windows.end_s[-1], counted=alive)]
    basis = Basis(key="default", version="1")
    found = levels(at, freshness_s=basis.freshness_s, lateness_s=basis.lateness_s, period_s=basis.observation_s)
    return totals(at, found, [alive])


def _walk(history: History, brackets: Brackets, rosters: Rosters, probes: Probes, kept: Kept, clock: Clock,
          found: Findings) -> Windows:
    """Steps 6 to 10, one entry at a time. Returns the windows that hold."""
    windows = Windows()
    recount: Recount | None = None
    current: int | None = None
    for value in history.walk():
        if value["type"] == "roster":
            rosters.take(value)
        probes.take(value)
        if value["type"] != "window":
            kept.take(value)
            continue
        if value["roster"] != current:
            current = value["roster"]
            rows = rosters.current(value["roster"])
            recount = None if rows is None else Recount(rows, found)
        bracket = brackets.of(value)
        if recount is None or not recount.holds(value) or bracket is None:
            continue
        history.take_back(value["start_s"])
        taken = windows.take_back(value["start_s"])
        if taken:
            probes.take_back(value["start_s"], history.outages[-1].seq if history.outages else value["seq"])
            found.remark(LOG, "window.overlapped", f"entry/{taken[-1]}", seq=taken[-1], last=taken[0],
                         windows=len(taken))
        clock.take(value, bracket.not_before_s, bracket.not_after_s)
        windows.add(value, not_before_s=bracket.not_before_s, not_after_s=bracket.not_after_s, state=bracket.state)
    brackets.close()
    probes.close(windows)
    # Rosters behind a revocation are void, and so are their files.
    rosters.close(lambda seq: history.end <= seq < history.log.checkpoint.size or (
        history.log.ships(seq) and history.log.entry(seq) is None))
    return windows
