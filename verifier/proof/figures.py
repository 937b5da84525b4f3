"""Step 9, second half: figures at an instant, from rows, columns and a counting basis.

Facts are sealed by the gateway; everything here is a judgement that another basis decides anew. A day without
evidence is not proven, never zero.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import entry
from protocols.terms.basis import Basis, DeviceFacts, reason_alone
from protocols.terms.vocabulary import PROTOCOLS, ROLES
from verifier.proof.announced import NOTHING_ANNOUNCED, Announcements
from verifier.proof.history import OUTSIDE, OVERLAPPED, UNKNOWN, Outage, Windows
from verifier.proof.levels import NO_LEVEL, At, Level, LevelTotals, Possession, levels, totals
from verifier.proof.log import Log
from verifier.proof.machines import Device, Group, Holder, Machines
from verifier.proof.recount import NOTHING, Columns, Unpacker, mask
from verifier.proof.rows import DeviceRow, Roster, Rosters
from verifier.proof.spread import bits_of, set_bits, subsets, times_set


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a valid bundle proves. Columns are read again from the bundle, under the same verified tree, when needed.

    enrol_index: place in the register, None for a plant without a platform. anchored: windows have an independent
    not-after. covered: [from, to) in seconds; from_enrolment: nothing of this log lies before it.
    opened: slot -> private part of the devices that the bundle opens. possession: what is proven of their servers.
    announcements: draws that auditors announced in the register.
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
    announcements: Announcements = NOTHING_ANNOUNCED
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
    from_s: int
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
    _facts: dict[bool, _Facts] = field(default_factory=dict)

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
            self._facts[late] = _facts(self.gathered, late=late)
        facts = self._facts[late]
        alone = [reason_alone(one, basis) for one in facts.different]
        reasons = [alone[number] for number in facts.of_device]
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
        gathered, reasons = self.gathered, self.reasons(basis)
        pointed = self._pointed(basis, reasons)
        points = sum((one.totals for one in pointed), Counter[str]())
        shares = [1000 * times // (g.windows - g.untrusted) for g, one in zip(gathered, pointed, strict=True)
                  for times in one.busiest if times]
        devices, by_level = self._told(basis, reasons, pointed)
        counted = [d for d in devices if d.reason is None]
        protocols = {basis.protocol_name(name) for names in {d.protocols for d in counted} for name in names}
        return Figures(
            at_s=self.at_s, counted_at_s=self.counted_at_s, from_s=self.counted_at_s - basis.freshness_s,
            anchored=all(g.evidence.anchored for g in gathered), devices=tuple(devices), levels=by_level,
            points=PointTotals(**points), windows=sum(g.windows for g in gathered),
            untrusted_windows=sum(g.untrusted for g in gathered), late_windows=sum(g.late for g in gathered),
            missing_windows=self.windows()[2],
            late_devices=self.reasons(basis, late=True).count(None) - len(counted), sealed=_sealed(gathered),
            kinds_by_model=len({d.row.kind for d in counted} - {None}),
            kinds_by_class=len({d.row.equipment_class for d in counted} - {None}),
            protocols=tuple(sorted(protocols)), producing_permille=round(median(shares)) if shares else None,
            by_thing=_split(counted, lambda row: row.thing),
            by_class=_split(counted, lambda row: row.equipment_class),
            by_industry=_split(counted, lambda row: row.industry),
            by_region=_split(counted, lambda row: row.region),
            by_deployment=_split(counted, lambda row: row.deployment), groups=self.machines.groups)

    def again(self, at_s: int, basis: Basis) -> Standing:
        """Read the windows for another T, or under another freshness. Raises as `standing` does.

        Where the rosters in force are the same, who is whose double need not be found out anew.
        """
        gathered = [_gather(g.evidence, at_s, basis) for g in self.gathered]
        same = all(a.roster.seq == b.roster.seq for a, b in zip(gathered, self.gathered, strict=True))
        return Standing(at_s, gathered, self.machines if same else _machines(gathered, self.machines.explained))

    def protocols(self, basis: Basis) -> frozenset[str]:
        """Return the protocols, by their own names, of the devices that count."""
        used = {bits for one in self._pointed(basis, self.reasons(basis)) for bits in one.protocols}
        return frozenset[str]().union(*(_PROTOCOLS_OF[bits] for bits in used))

    def windows(self) -> tuple[int, int, int]:
        """Return how many windows were read, how many of them count, and how many are missing on record."""
        read = sum(g.windows for g in self.gathered)
        return read, read - sum(g.untrusted + g.late for g in self.gathered), sum(
            _missing(o, g.from_s, g.counted_at_s) for g in self.gathered for o in g.evidence.outages)

    def _pointed(self, basis: Basis, reasons: Iterable[str | None]) -> list[_Pointed]:
        """Return what the points of the devices that count add up to, for each gateway."""
        counts = [bytearray(len(g.roster.devices)) for g in self.gathered]
        of = {id(g): one for g, one in zip(self.gathered, counts, strict=True)}
        for (g, row), reason in zip(self.rows, reasons, strict=True):
            of[id(g)][row.slot] = reason is None
        return [_points(g, one, basis) for g, one in zip(self.gathered, counts, strict=True)]

    def _told(self, basis: Basis, reasons: Sequence[str | None],
              pointed: Sequence[_Pointed]) -> tuple[list[DeviceFigure], LevelTotals]:
        """Return every device with its level and all that counts of it, and the levels of those that count."""
        chosen: dict[int, list[int]] = {id(g): [] for g in self.gathered}
        for (g, row), reason in zip(self.rows, reasons, strict=True):
            if reason is None:
                chosen[id(g)].append(row.slot)
        at = [At(possession=g.evidence.possession, roster=g.roster, at_s=g.counted_at_s,
                 counted=frozenset(chosen[id(g)])) for g in self.gathered]
        found = levels(at, freshness_s=basis.freshness_s, lateness_s=basis.lateness_s, period_s=basis.observation_s)
        told, left = [], iter(reasons)
        roles = bits_of(ROLES, basis.roles)
        for g, one, level in zip(self.gathered, pointed, found, strict=True):
            did, connected = _did(g, g.now), set_bits(g.now.connected, len(g.roster.devices))
            for row in g.roster.devices:
                if row.alive:
                    slot = row.slot
                    told.append(DeviceFigure(
                        gateway=g.evidence.gateway, row=row, connected=bool(connected[slot]),
                        producing=bool(did.producing[slot] & roles), changing=bool(did.changing[slot] & roles),
                        reason=next(left), level=level[slot], points=one.points[slot],
                        protocols=_PROTOCOLS_OF[one.protocols[slot]]))
        return told, totals(at, found, [chosen[id(g)] for g in self.gathered])


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
    return Standing(at_s, gathered, _machines(gathered, explained))


def _machines(gathered: Sequence[_Gathered], explained: Sequence[Collection[Device]]) -> Machines:
    return Machines([Holder(g.evidence.gateway, g.evidence.uscc, g.roster.devices, g.evidence.opened)
                     for g in gathered], explained)


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

    result = _Gathered(evidence, evidence.rosters.at(windows.roster[before[-1]]), from_s, inside)
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


_ROLE_BIT = {name: 1 << i for i, name in enumerate(ROLES)}
_PROTOCOL_BIT = {name: 1 << i for i, name in enumerate(PROTOCOLS)}
_ROLES_OF, _PROTOCOLS_OF = subsets(ROLES), subsets(PROTOCOLS)


@dataclass(frozen=True, slots=True)
class _Did:
    """Roles of the points of each device, by what they did: one byte a device slot, one bit a role."""

    producing: bytearray
    changing: bytearray
    untrusted: bytearray


@dataclass(frozen=True, slots=True)
class _Facts:
    """Facts of every device alive, as numbers of different ones: many devices are alike."""

    different: Sequence[DeviceFacts]
    of_device: Sequence[int]


def _facts(gathered: Sequence[_Gathered], *, late: bool) -> _Facts:
    """Return the facts of each device alive, in the order of gateways and slots."""
    numbers: dict[tuple[Any, ...], int] = {}
    of_device = []
    for g in gathered:
        did = _did(g, g.with_late if late else g.now)
        for row in g.roster.devices:
            if row.alive:
                key = (row.thing, row.energy, row.uscc, row.industry, row.region, row.deployment,
                       did.producing[row.slot], did.untrusted[row.slot])
                of_device.append(numbers.setdefault(key, len(numbers)))
    return _Facts([DeviceFacts(
        thing=thing, energy=energy, uscc=uscc, industry=industry, region=region, deployment=deployment,
        producing_roles=_ROLES_OF[producing], untrusted_roles=_ROLES_OF[untrusted])
        for thing, energy, uscc, industry, region, deployment, producing, untrusted in numbers], of_device)


def _did(g: _Gathered, bits: Columns) -> _Did:
    """Return the roles of each device. Late windows that do not count now are as little trusted as those outside."""
    devices, slots = len(g.roster.devices), len(g.roster.points)
    producing, changing = set_bits(bits.producing, slots), set_bits(bits.changing, slots)
    untrusted = set_bits(g.untrusted_producing | g.with_late.producing, slots)
    did = _Did(bytearray(devices), bytearray(devices), bytearray(devices))
    for point in g.roster.points:
        if not point.alive:
            continue
        role = _ROLE_BIT[point.role]
        if producing[point.slot]:
            did.producing[point.device] |= role
        elif untrusted[point.slot]:
            did.untrusted[point.device] |= role
        if changing[point.slot]:
            did.changing[point.device] |= role
    return did


@dataclass(frozen=True, slots=True)
class _Pointed:
    """What the points that count add up to: of a gateway, and of each device slot.

    busiest: windows in which the busiest point produced. protocols: one bit each of PROTOCOLS.
    """

    totals: Counter[str]
    points: array[int]
    busiest: array[int]
    protocols: bytearray


def _points(g: _Gathered, counts: bytearray, basis: Basis) -> _Pointed:
    """Add up the points of one gateway. counts: one byte a device slot, 1 where the device counts.

    A base address that several devices share belongs to the first of them, so that the devices add up to the total.
    """
    bits, devices, slots = g.now, len(g.roster.devices), len(g.roster.points)
    alive = mask(p.slot for p in g.roster.points if p.alive)
    totals = Counter({name: (getattr(bits, name) & alive).bit_count() for name in ("sampled", "producing", "changing")})
    totals["configured"] = alive.bit_count()
    result = _Pointed(totals, array("Q", bytes(8 * devices)), array("Q", bytes(8 * devices)), bytearray(devices))
    producing, times = set_bits(bits.producing & alive, slots), times_set(g.planes, slots)
    bases: set[bytes] = set()
    for point in g.roster.points:
        at, device = point.slot, point.device
        if not producing[at] or not counts[device]:
            continue
        if point.role in basis.roles:
            result.protocols[device] |= _PROTOCOL_BIT[point.protocol]
            if times[at] > result.busiest[device]:
                result.busiest[device] = times[at]
        if point.role in basis.point_roles:
            totals["counted"] += 1
            if not basis.fold_points or point.base not in bases:
                result.points[device] += 1
            bases.add(point.base)
    totals["folded"] = len(bases)
    return result


def _split(devices: Iterable[DeviceFigure], key: Callable[[DeviceRow], str | None]) -> dict[str | None, int]:
    counts = Counter(key(device.row) for device in devices)
    return {name: counts[name] for name in sorted(counts, key=lambda n: (n is None, n or ""))}
