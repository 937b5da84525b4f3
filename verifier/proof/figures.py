"""Step 9, second half: figures at an instant, from rows, columns and a counting basis.

Facts are sealed by the gateway; everything here is a judgement that another basis decides anew. A day without
evidence is not proven, never zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import entry
from protocols.terms.basis import Basis, DeviceFacts, reason_alone
from verifier.proof.history import OUTSIDE, OVERLAPPED, UNKNOWN, Outage, Windows
from verifier.proof.levels import NO_LEVEL, At, Level, LevelTotals, Possession, levels, totals
from verifier.proof.log import Log
from verifier.proof.machines import Device, Group, Holder, Machines
from verifier.proof.recount import NOTHING, Columns, Unpacker, mask
from verifier.proof.rows import DeviceRow, Roster, Rosters


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a valid bundle proves. Columns are read again from the bundle, under the same verified tree, when needed.

    enrol_index: place in the register, None for a plant without a platform. anchored: windows have an independent
    not-after. covered: [from, to) in seconds; from_enrolment: nothing of this log lies before it.
    opened: slot -> private part of the devices that the bundle opens. possession: what is proven of their servers.
    """

    gateway: str
    uscc: str
    site: str
    enrol_index: int | None
    anchored: bool
    covered: tuple[int, int] | None
    from_enrolment: bool
    windows: Windows
    outages: tuple[Outage, ...]
    rosters: Rosters
    opened: Mapping[int, Mapping[str, Any]]
    possession: Possession
    log: Log
    unpacker: Unpacker = field(default_factory=Unpacker, repr=False, compare=False)

    def columns(self, index: int) -> Columns:
        """Return the columns of window `index` of `windows`. Raises VerificationError if the bundle has changed."""
        seq = self.windows.seq[index]
        data = self.log.entry(seq)
        if data is None:
            raise VerificationError(Problem.of(entry.name(seq), "entry.altered"))
        window = entry.decode(data, seq=seq)
        devices, points = self.rosters.sizes(window["roster"])
        return self.unpacker.columns(window, devices, points)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFigure:
    """One device alive at T. `reason` is why it does not count, None if it does; `remarks` of terms.REMARKS.

    connected, producing, changing: in at least one window that counts at T; the last two by points in the roles of
    the basis. level: of verifier.proof.levels, and since when its server key is the same. points, protocols: of a
    device that counts: its points that count, folded if the basis folds, and the protocols, as rows name them, of its
    points in the roles of the basis that produced.
    """

    gateway: str
    row: DeviceRow
    connected: bool
    producing: bool
    changing: bool
    reason: str | None
    level: Level = NO_LEVEL
    points: int = 0
    protocols: frozenset[str] = frozenset()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is missing for the splits although the device counts."""
        return tuple(name for name, value in (("class_missing", self.row.equipment_class),
                                              ("model_missing", self.row.kind)) if value is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PointTotals:
    """Points of the devices alive at T: all of them by stage, and those that count, before and after folding.

    counted: producing points in the basis's point roles of counted devices. folded: distinct bases among them.
    """

    configured: int = 0
    sampled: int = 0
    producing: int = 0
    changing: int = 0
    counted: int = 0
    folded: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Between which independent co-signatures the windows that count were sealed; s, UNKNOWN where nothing proves it.

    newest_end_s: end of the newest of them, by the gateway's clock; newest_after_s, newest_before_s: its bracket.
    first_after_s: the earliest not-before of all of them; last_before_s: the latest not-after.
    """

    newest_end_s: int
    newest_after_s: int
    newest_before_s: int
    first_after_s: int
    last_before_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one or more gateways at T under one basis.

    at_s: T as asked; counted_at_s: T after rounding down to the end of a window (the earliest, of several gateways).
    levels: of the devices that count. windows: read; untrusted, late: of these. missing_windows: on record as outages
    in the same time.
    late_devices: how many more count once late evidence is taken too. The splits map a key of the row (None: not
    stated) to counted devices. producing_permille: median, over counted devices, of the share of windows in which its
    busiest point produced. groups: rows that are one machine, counted or not.
    """

    at_s: int
    counted_at_s: int
    from_s: int
    anchored: bool
    devices: tuple[DeviceFigure, ...]
    levels: LevelTotals
    points: PointTotals
    windows: int
    untrusted_windows: int
    late_windows: int
    missing_windows: int
    late_devices: int
    sealed: Sealed | None
    kinds_by_model: int
    kinds_by_class: int
    protocols: tuple[str, ...]
    by_thing: Mapping[str | None, int]
    by_class: Mapping[str | None, int]
    by_industry: Mapping[str | None, int]
    by_region: Mapping[str | None, int]
    by_deployment: Mapping[str | None, int]
    producing_permille: int | None
    groups: tuple[Group, ...] = ()

    @property
    def configured(self) -> int:
        """Devices alive in the roster at T."""
        return len(self.devices)

    @property
    def counted(self) -> int:
        """Devices that count at T."""
        return sum(d.reason is None for d in self.devices)

    @property
    def reasons(self) -> dict[str, int]:
        """Reason -> devices that do not count for it. configured = counted + the sum of these."""
        return dict(sorted(Counter(d.reason for d in self.devices if d.reason is not None).items()))

    def stage(self, name: str) -> int:
        """Return the devices of a stage: `connected`, `producing` or `changing`."""
        return sum(getattr(d, name) for d in self.devices)


@dataclass(slots=True)
class _Gathered:
    """What the windows of one gateway say up to T. Unions of columns; `times` counts windows by point, in planes."""

    evidence: Evidence
    roster: Roster
    counted_at_s: int
    now: Columns = NOTHING
    with_late: Columns = NOTHING
    untrusted_producing: int = 0
    windows: int = 0
    untrusted: int = 0
    late: int = 0
    planes: list[int] = field(default_factory=list)
    used: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Standing:
    """What the windows say of every device alive at T: judged under any basis of the same freshness and lateness."""

    at_s: int
    gathered: Sequence[_Gathered]
    machines: Machines
    rows: list[tuple[_Gathered, DeviceRow]] = field(init=False)
    _facts: dict[bool, list[DeviceFacts]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = [(g, row) for g in self.gathered for row in g.roster.devices if row.alive]

    @property
    def counted_at_s(self) -> int:
        """T after rounding down to the end of a window."""
        return min(g.counted_at_s for g in self.gathered)

    @property
    def devices(self) -> list[Device]:
        """(gateway, slot) of every device alive at T, in the order of everything that is told of them."""
        return [(g.evidence.gateway, row.slot) for g, row in self.rows]

    def reasons(self, basis: Basis, *, late: bool = False) -> list[str | None]:
        """Give every device its one reason, or none: alone, then parents and children, then duplicates."""
        late = late and any(g.late for g in self.gathered)
        if late not in self._facts:
            self._facts[late] = [facts for g in self.gathered for facts in _facts(g, g.with_late if late else g.now)]
        alone: dict[DeviceFacts, str | None] = {}
        reasons = []
        for facts in self._facts[late]:
            if facts not in alone:
                alone[facts] = reason_alone(facts, basis)
            reasons.append(alone[facts])
        self.machines.settle(reasons, basis.parents)
        return reasons

    def counted_points(self, basis: Basis, counted: Collection[Device]) -> list[int]:
        """Return, for each gateway, the slots of the points that count as a bitmap."""
        result = []
        for g in self.gathered:
            slots = {slot for gateway, slot in counted if gateway == g.evidence.gateway}
            wanted = mask(p.slot for p in g.roster.points
                          if p.alive and p.role in basis.point_roles and p.device in slots)
            result.append(wanted & g.now.producing)
        return result

    def figures(self, basis: Basis) -> Figures:
        """Return all figures under a basis of the freshness and lateness with which the windows were read."""
        gathered = self.gathered
        devices, by_level = _levels(gathered, self._told(basis), basis)
        counted = {(d.gateway, d.row.slot): d for d in devices if d.reason is None}
        with_late = self.reasons(basis, late=True).count(None)
        points, of_device, shares = _points(gathered, counted.keys(), basis)
        devices = [replace(d, points=did.points, protocols=frozenset(did.protocols))
                   if (did := of_device.get((d.gateway, d.row.slot))) else d for d in devices]
        protocols = {basis.protocol_name(name) for did in of_device.values() for name in did.protocols}
        return Figures(
            at_s=self.at_s, counted_at_s=self.counted_at_s, from_s=self.counted_at_s - basis.freshness_s,
            anchored=all(g.evidence.anchored for g in gathered), devices=tuple(devices), levels=by_level,
            points=points, windows=sum(g.windows for g in gathered),
            untrusted_windows=sum(g.untrusted for g in gathered), late_windows=sum(g.late for g in gathered),
            missing_windows=sum(_missing(o, g.counted_at_s - basis.freshness_s, g.counted_at_s)
                                for g in gathered for o in g.evidence.outages),
            late_devices=with_late - len(counted), sealed=_sealed(gathered),
            kinds_by_model=len({d.row.kind for d in counted.values()} - {None}),
            kinds_by_class=len({d.row.equipment_class for d in counted.values()} - {None}),
            protocols=tuple(sorted(protocols)), producing_permille=round(median(shares)) if shares else None,
            by_thing=_split(counted.values(), lambda row: row.thing),
            by_class=_split(counted.values(), lambda row: row.equipment_class),
            by_industry=_split(counted.values(), lambda row: row.industry),
            by_region=_split(counted.values(), lambda row: row.region),
            by_deployment=_split(counted.values(), lambda row: row.deployment), groups=self.machines.groups)

    def _told(self, basis: Basis) -> list[DeviceFigure]:
        reasons = iter(self.reasons(basis))
        told = []
        for g in self.gathered:
            roles = _roles(g, g.now)
            connected = _set_bits(g.now.connected, len(g.roster.devices))
            for row in g.roster.devices:
                if row.alive:
                    did = roles.get(row.slot, _NOTHING_DONE)
                    told.append(DeviceFigure(
                        gateway=g.evidence.gateway, row=row, connected=bool(connected[row.slot]),
                        producing=bool(did.producing & basis.roles), changing=bool(did.changing & basis.roles),
                        reason=next(reasons)))
        return told


def standing(evidence: Sequence[Evidence], at_s: int, basis: Basis,
             explained: Sequence[Collection[Device]] = ()) -> Standing:
    """Read the windows that count at T = `at_s` (POSIX seconds) under the freshness and lateness of `basis`.

    Args:
        evidence: of one or more gateways, each once, all from valid bundles.
        explained: sets of devices that whoever counts takes for different machines although something joins them.
    Raises: VerificationError `figures.same_gateway`, `figures.not_covered` (T or its freshness window is not in the
        bundle) or `figures.no_window` (the log has no window before T): the figure is not proven.
    """
    names = [e.gateway for e in evidence]
    if len(set(names)) != len(names):
        raise VerificationError(Problem.of("figures", "figures.same_gateway"))
    # The register's order decides which of two equal devices stays.
    ordered = sorted(evidence, key=lambda e: (e.enrol_index is None, e.enrol_index or 0, e.gateway))
    gathered = [_gather(e, at_s, basis) for e in ordered]
    return Standing(at_s, gathered, Machines(
        [Holder(g.evidence.gateway, g.evidence.uscc, g.roster.devices, g.evidence.opened) for g in gathered],
        explained))


def figures(evidence: Sequence[Evidence], at_s: int, basis: Basis,
            explained: Sequence[Collection[Device]] = ()) -> Figures:
    """Count the devices and points that are connected at T under `basis`. Arguments and errors: see `standing`."""
    return standing(evidence, at_s, basis, explained).figures(basis)


def _missing(outage: Outage, from_s: int, to_s: int) -> int:
    """Return how many windows of an outage end in (from, to]; they are of one length."""
    inside_s = min(outage.end_s, to_s) - max(outage.start_s, from_s)
    return outage.windows * inside_s // (outage.end_s - outage.start_s) if inside_s > 0 else 0


def _gather(evidence: Evidence, at_s: int, basis: Basis) -> _Gathered:
    """Join the windows of one gateway that end in (T - freshness, T]."""
    windows, where = evidence.windows, f"gateway {evidence.gateway}"
    if evidence.covered is None or at_s > evidence.covered[1]:
        raise VerificationError(Problem.of(where, "figures.not_covered", at_s=at_s, covered=evidence.covered))
    valid = [i for i in range(len(windows)) if windows.state[i] != OVERLAPPED]
    inside = next((windows.start_s[i] for i in valid if windows.start_s[i] < at_s < windows.end_s[i]), at_s)
    before = [i for i in valid if windows.end_s[i] <= inside]
    if not before:
        raise VerificationError(Problem.of(where, "figures.no_window", at_s=at_s))
    from_s = inside - basis.freshness_s
    if not evidence.from_enrolment and from_s < evidence.covered[0]:
        raise VerificationError(Problem.of(where, "figures.not_covered", at_s=at_s, covered=evidence.covered))

    result = _Gathered(evidence, evidence.rosters.at(windows.roster[before[-1]]), inside)
    for i in before:
        if windows.end_s[i] <= from_s:
            continue
        bits = evidence.columns(i)
        result.windows += 1
        if windows.state[i] == OUTSIDE:
            result.untrusted += 1
            result.untrusted_producing |= bits.producing
            continue
        _add(result.planes, bits.producing)
        result.with_late = _union(result.with_late, bits)
        after_s = windows.not_after_s[i]
        if evidence.anchored and (after_s == UNKNOWN or after_s > inside + basis.lateness_s):
            result.late += 1
        else:
            result.now = _union(result.now, bits)
            result.used.append(i)
    return result


def _sealed(gathered: Sequence[_Gathered]) -> Sealed | None:
    """Join the brackets of the windows that count; one that is open on a side leaves that side open."""
    used = [(g.evidence.windows, i) for g in gathered for i in g.used]
    if not used:
        return None
    newest, at = max(used, key=lambda one: one[0].end_s[one[1]])
    ends = [windows.not_after_s[i] for windows, i in used]
    return Sealed(
        newest_end_s=newest.end_s[at], newest_after_s=newest.not_before_s[at], newest_before_s=newest.not_after_s[at],
        first_after_s=min(windows.not_before_s[i] for windows, i in used),
        last_before_s=UNKNOWN if UNKNOWN in ends else max(ends))


def _union(a: Columns, b: Columns) -> Columns:
    return Columns(connected=a.connected | b.connected, sampled=a.sampled | b.sampled,
                   producing=a.producing | b.producing, changing=a.changing | b.changing)


def _add(planes: list[int], bits: int) -> None:
    """Add one to the counter of every set bit; plane k holds bit k of all counters."""
    for k in range(len(planes)):
        planes[k], bits = planes[k] ^ bits, planes[k] & bits
    if bits:
        planes.append(bits)


def _set_bits(bits: int, slots: int) -> bytes:
    """Return one byte a slot, 1 where the bit is set: big shifts in a loop would be quadratic."""
    data = bits.to_bytes((max(slots, bits.bit_length()) + 7) // 8, "little")
    return bytes(data[slot >> 3] >> (slot & 7) & 1 for slot in range(slots))


@dataclass(slots=True)
class _Roles:
    """Roles of the points of one device, by what they did."""

    producing: set[str] = field(default_factory=set)
    changing: set[str] = field(default_factory=set)
    untrusted: set[str] = field(default_factory=set)


def _levels(gathered: Sequence[_Gathered], devices: Sequence[DeviceFigure],
            basis: Basis) -> tuple[list[DeviceFigure], LevelTotals]:
    """Return the devices with their levels, and the levels of those that count."""
    counted: dict[str, list[int]] = {g.evidence.gateway: [] for g in gathered}
    for device in devices:
        if device.reason is None:
            counted[device.gateway].append(device.row.slot)
    chosen = [counted[g.evidence.gateway] for g in gathered]
    at = [At(possession=g.evidence.possession, roster=g.roster, at_s=g.counted_at_s, counted=frozenset(slots))
          for g, slots in zip(gathered, chosen, strict=True)]
    found = levels(at, freshness_s=basis.freshness_s, lateness_s=basis.lateness_s, period_s=basis.observation_s)
    of = {g.evidence.gateway: one for g, one in zip(gathered, found, strict=True)}
    raised = [replace(d, level=of[d.gateway][d.row.slot]) if of[d.gateway][d.row.slot].level else d for d in devices]
    return raised, totals(at, found, chosen)


_NOTHING_DONE = _Roles()


def _facts(g: _Gathered, bits: Columns) -> Iterable[DeviceFacts]:
    """Yield the facts of each device alive, in slot order."""
    roles = _roles(g, bits)
    for row in g.roster.devices:
        if row.alive:
            did = roles.get(row.slot, _NOTHING_DONE)
            yield DeviceFacts(
                thing=row.thing, energy=row.energy, uscc=row.uscc, industry=row.industry, region=row.region,
                deployment=row.deployment, producing_roles=frozenset(did.producing),
                untrusted_roles=frozenset(did.untrusted))


def _roles(g: _Gathered, bits: Columns) -> dict[int, _Roles]:
    """Return device slot -> roles. Late windows that do not count now are as little trusted as those outside."""
    slots = len(g.roster.points)
    producing, changing = _set_bits(bits.producing, slots), _set_bits(bits.changing, slots)
    untrusted = _set_bits(g.untrusted_producing | g.with_late.producing, slots)
    roles: dict[int, _Roles] = {}
    for point in g.roster.points:
        if not point.alive:
            continue
        did = roles.setdefault(point.device, _Roles())
        if producing[point.slot]:
            did.producing.add(point.role)
        elif untrusted[point.slot]:
            did.untrusted.add(point.role)
        if changing[point.slot]:
            did.changing.add(point.role)
    return roles


@dataclass(slots=True)
class _Pointed:
    """What the points of one device that counts add up to."""

    points: int = 0
    protocols: set[str] = field(default_factory=set)
    busiest: int = 0


def _points(gathered: Sequence[_Gathered], counted: Iterable[tuple[str, int]],
            basis: Basis) -> tuple[PointTotals, dict[tuple[str, int], _Pointed], list[int]]:
    """Return totals of points, what each counted device has, and the share of windows (permille) of each of them.

    A base address that several devices share belongs to the first of them, so that the devices add up to the total.
    """
    of_device = {key: _Pointed() for key in counted}
    totals: Counter[str] = Counter()
    bases: set[tuple[str, bytes]] = set()
    for g in gathered:
        bits = g.now
        alive = mask(p.slot for p in g.roster.points if p.alive)
        totals["configured"] += alive.bit_count()
        for name in ("sampled", "producing", "changing"):
            totals[name] += (getattr(bits, name) & alive).bit_count()
        producing = _set_bits(bits.producing & alive, len(g.roster.points))
        planes = [_set_bits(plane, len(g.roster.points)) for plane in g.planes]
        for point in g.roster.points:
            did = of_device.get((g.evidence.gateway, point.device)) if producing[point.slot] else None
            if did is None:
                continue
            if point.role in basis.roles:
                did.busiest = max(did.busiest, sum(plane[point.slot] << k for k, plane in enumerate(planes)))
                did.protocols.add(point.protocol)
            if point.role in basis.point_roles:
                folded = (g.evidence.gateway, point.base) in bases
                bases.add((g.evidence.gateway, point.base))
                totals["counted"] += 1
                did.points += not (folded and basis.fold_points)
    trusted = {g.evidence.gateway: g.windows - g.untrusted for g in gathered}
    shares = [1000 * did.busiest // trusted[gateway] for (gateway, _), did in of_device.items()
              if did.protocols and trusted[gateway]]
    return PointTotals(**totals, folded=len(bases)), of_device, shares


def _split(devices: Iterable[DeviceFigure], key: Callable[[DeviceRow], str | None]) -> dict[str | None, int]:
    counts = Counter(key(device.row) for device in devices)
    return {name: counts[name] for name in sorted(counts, key=lambda n: (n is None, n or ""))}
