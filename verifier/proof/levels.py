"""Step 10, second half: what is known of a device beyond the gateway's word, at an instant.

    0  the gateway's word
    1  its server key answered a probe within the freshness of the basis: the same server key since a date
    2  1, and a supervisor of the policy attested that this key, this slot and these tags belong together
    3  1, and an opened chain leads from the key to a maker of the policy and names this device's serial or
       ProductInstanceUri
    4  2 or 3, and an assessor of the policy found the device on site, in the observation period before or after T

Levels are computed, never taken from anybody's word. A key proves possession, not place: of the devices behind one
key at most one is above 1. Chosen is one that counts before one that does not, the owner of the key before others,
an earlier attestation, an earlier gateway of the register, a lower slot, in this order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocols.evidence.jcs import INTEGER_MAX
from protocols.evidence.roster import normalise, private_sha256
from verifier.proof.chains import Chain
from verifier.proof.findings import PROBES, Findings
from verifier.proof.history import COUNTED, UNKNOWN
from verifier.proof.probes import Probe
from verifier.proof.register import Attest
from verifier.proof.rows import DeviceRow, Roster, Rosters
from verifier.proof.visits import Visit, is_found

WORD, CONTINUITY, ATTESTED, MADE, VISITED = COMPUTED = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Possession:
    """What is proven of the servers of one gateway.

    anchored: heads carry independent co-signatures, so a probe needs one after it, as a window does.
    opened: slot -> private part of opened devices. visits: what assessors found on site.
    """

    gateway: str
    anchored: bool
    rosters: Rosters
    probes: tuple[Probe, ...] = ()
    attests: tuple[Attest, ...] = ()
    chains: tuple[Chain, ...] = ()
    opened: Mapping[int, Mapping[str, Any]]
    visits: tuple[Visit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """One gateway at an instant: its rows, T = at_s, and which of its slots count."""

    possession: Possession
    roster: Roster
    at_s: int
    counted: frozenset[int]


@dataclass(frozen=True, slots=True)
class Level:
    """The level of one device. since_s: its server key is the same since then (start of that probe's window)."""

    level: int = WORD
    since_s: int | None = None


NO_LEVEL = Level()


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelTotals:
    """Devices by level. behind, servers: so many devices of level 1 and above are behind so many server keys."""

    devices: Mapping[int, int]
    behind: int
    servers: int

    def as_json(self) -> dict[str, Any]:
        """Return the totals as the published schemas describe them."""
        return {"devices": {str(level): self.devices.get(level, 0) for level in COMPUTED},
                "behind_servers": self.behind, "servers": self.servers}


def levels(gateways: Sequence[At], *, freshness_s: int, lateness_s: int,
           period_s: int) -> list[dict[int, Level]]:
    """Return slot -> level of every device alive in the rosters, one mapping for each gateway, in their order.

    A probe counts at T as a window does: its window ends in (T - freshness, T], its time is trusted, and it was
    sealed by T + lateness. Beyond that its `seen` is not older than the freshness: an answer may be held back for
    as long as nobody can see it. A visit counts if it was within period_s before or after T.
    """
    result: list[dict[int, Level]] = []
    candidates: dict[str, list[tuple[tuple[bool, bool, int, int, int], int]]] = {}
    for number, at in enumerate(gateways):
        fresh = _fresh(at, freshness_s, lateness_s)
        since = _since(at, fresh)
        mine = {row.slot: Level(CONTINUITY, since[row.slot]) if row.slot in since else NO_LEVEL
                for row in at.roster.devices if row.alive}
        for row in at.roster.devices:
            key = row.server_spki_sha256
            if row.slot not in since or key is None:
                continue
            attest = min((a.index for a in at.possession.attests if _fits(a, row)), default=None)
            made = _made(at.possession, row, fresh[key])
            if attest is not None or made:
                order = (row.slot not in at.counted, row.server_via is not None,
                         INTEGER_MAX if attest is None else attest, number, row.slot)
                candidates.setdefault(key, []).append((order, MADE if made else ATTESTED))
        result.append(mine)
    for found in candidates.values():
        (*_, number, slot), level = min(found)
        at = gateways[number]
        if is_found(at.possession.visits, slot, at.at_s, period_s):
            level = VISITED
        result[number][slot] = Level(level, result[number][slot].since_s)
    return result


def totals(gateways: Sequence[At], found: Sequence[Mapping[int, Level]], slots: Sequence[Iterable[int]]) -> LevelTotals:
    """Add up the levels of some slots of each gateway."""
    devices: Counter[int] = Counter()
    servers: set[str | None] = set()
    behind = 0
    for at, mine, chosen in zip(gateways, found, slots, strict=True):
        for slot in chosen:
            level = mine.get(slot, NO_LEVEL).level
            devices[level] += 1
            if level >= CONTINUITY:
                behind += 1
                servers.add(at.roster.devices[slot].server_spki_sha256)
    return LevelTotals(devices={level: devices[level] for level in COMPUTED}, behind=behind, servers=len(servers))


def look_at(possession: Possession, rows: Roster | None, found: Findings) -> None:
    """Say which attestations and chains lift nobody under the newest rows, and why not to expect it."""
    devices = () if rows is None else rows.devices
    for attest in possession.attests:
        if not attest.tags:
            found.remark(PROBES, "attest.no_tags", f"register/{attest.index}.proof", slot=attest.slot)
        elif attest.slot >= len(devices) or not _fits(attest, devices[attest.slot]):
            found.remark(PROBES, "attest.differs", f"register/{attest.index}.proof", slot=attest.slot)
    for chain in possession.chains:
        if not any(_names(chain, possession, row) for row in devices if row.alive):
            found.remark(PROBES, "chain.identity", f"also/{chain.name}", spki_sha256=chain.spki_sha256)


def _fresh(at: At, freshness_s: int, lateness_s: int) -> dict[str, list[Probe]]:
    """Return server key -> the probes that count at T."""
    fresh: dict[str, list[Probe]] = {}
    for probe in at.possession.probes:
        from_s, after_s = at.at_s - freshness_s, probe.not_after_s
        if probe.state != COUNTED or not from_s < probe.end_s <= at.at_s or probe.not_before_s <= from_s:
            continue
        if at.possession.anchored and (after_s == UNKNOWN or after_s > at.at_s + lateness_s):
            continue
        fresh.setdefault(probe.spki_sha256, []).append(probe)
    return fresh


def _since(at: At, fresh: Mapping[str, Sequence[Probe]]) -> dict[int, int]:
    """Return slot -> since when its server key is the same, of every alive device whose key has a fresh probe.

    That is the window of the first answer since the row names this key without a break; if it came into the row
    after the last answer, the window of the last answer.
    """
    if not fresh:
        return {}
    answers: dict[str, list[tuple[int, int]]] = {key: [] for key in fresh}
    for probe in at.possession.probes:
        if probe.spki_sha256 in answers and probe.state == COUNTED and probe.end_s <= at.at_s:
            answers[probe.spki_sha256].append((probe.seq, probe.start_s))
    since = {}
    for slot, (key, named) in at.possession.rosters.server_keys(at.roster.seq).items():
        if key is not None and key in fresh and at.roster.devices[slot].alive:
            starts = [start_s for seq, start_s in answers[key] if seq > named]
            since[slot] = min(starts) if starts else max(probe.start_s for probe in fresh[key])
    return since


def _fits(attest: Attest, row: DeviceRow) -> bool:
    """Return whether an attestation vouches for a row: slot, key, kind, and every tag that it names is in the row.

    One without a tag names no machine and vouches for none.
    """
    return (row.alive and row.slot == attest.slot and row.server_spki_sha256 == attest.spki_sha256
            and row.kind == attest.kind and bool(attest.tags) and attest.tags <= row.tags)


def _made(possession: Possession, row: DeviceRow, fresh: Iterable[Probe]) -> bool:
    """Return whether a chain names this opened device and was valid when its key answered."""
    chains = [chain for chain in possession.chains
              if chain.spki_sha256 == row.server_spki_sha256 and _names(chain, possession, row)]
    return any(chain.from_s <= probe.not_before_s and max(probe.not_before_s, probe.not_after_s) <= chain.to_s
               for chain in chains for probe in fresh)


def _names(chain: Chain, possession: Possession, row: DeviceRow) -> bool:
    private = possession.opened.get(row.slot)
    if private is None or row.server_spki_sha256 != chain.spki_sha256 or private_sha256(private) != row.private_sha256:
        return False
    return (normalise(private["serial"]) in chain.serials
            or normalise(private["identifiers"]["product_instance_uri"]) in chain.uris)
