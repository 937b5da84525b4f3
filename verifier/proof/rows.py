"""Step 8: the roster: rows, roots, slots and tags; and openings of single devices.

A slot is never reused and never lost, so columns of windows under different rosters may be joined bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import jcs, merkle, opening, roster
from protocols.evidence.bundle import Bundle
from protocols.evidence.reader import Reader
from protocols.evidence.shape import require
from verifier.proof.findings import NO_ENTRY, ROSTER, Findings


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """The public row of one device; field names as in the format, `equipment_class` is its `class`.

    tags: (scheme, tag) pairs: equal pairs of two slots mean one machine. server_via: roster.NOT_IN_ROSTER where the
    server that owns the key has no slot.
    """

    slot: int
    alive: bool
    replaces: int | None
    parent: int | None
    thing: str
    equipment_class: str | None
    industry: str | None
    uscc: str | None
    region: str | None
    deployment: str | None
    energy: bool | None
    kind: str | None
    tags: frozenset[tuple[str, str]]
    dup_tags: frozenset[tuple[str, str]]
    id_basis: str
    server_spki_sha256: str | None
    server_via: int | None
    private_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRow:
    """The public row of one point. `addr` and `base` are tags, raw; equal bases fold to one point."""

    slot: int
    device: int
    alive: bool
    protocol: str
    role: str
    type: str | None
    addr: bytes
    base: bytes


@dataclass(frozen=True, slots=True)
class Roster:
    """The rows in force after one roster entry, in slot order."""

    seq: int
    devices: tuple[DeviceRow, ...]
    points: tuple[PointRow, ...]


@dataclass(slots=True)
class _Table:
    """The current rows of one kind, and the leaf hash of each."""

    rows: list[Any] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)

    def root(self) -> bytes:
        return merkle.Tree(self.leaves).root()


@dataclass(slots=True)
class Rosters:
    """Every roster of the bundle, taken in log order; each holds its rows under the roots of its entry."""

    bundle: Bundle
    found: Findings
    _devices: _Table = field(default_factory=_Table)
    _points: _Table = field(default_factory=_Table)
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    _broken: bool = False
    _newest_asked: Roster | None = None
    _loaded: set[int] = field(default_factory=set)
    _changes: list[tuple[int, list[DeviceRow], list[PointRow]]] = field(default_factory=list)

    def take(self, value: Mapping[str, Any]) -> None:
        """Take over a roster entry. The first file of the bundle holds all rows, each later one the changed rows."""
        shipped = self.bundle.numbered["roster"]
        if self._broken or not shipped or value["seq"] < shipped[0]:
            return
        self._load(value)

    def current(self, seq: int) -> Roster | None:
        """Return the roster of the entry at `seq`, which is the last one taken; None if its rows do not hold."""
        if not self._changes or self._changes[-1][0] != seq:
            if not self._broken:
                self.found.fault(ROSTER, "roster.missing", f"roster/{seq}.jsonl", seq=seq)
                self._broken = True
            return None
        return None if self._broken else self._now()

    def at(self, seq: int) -> Roster:
        """Return the roster of an earlier entry. Raises KeyError if it was never taken."""
        if self._newest_asked is not None and self._newest_asked.seq == seq:
            return self._newest_asked
        devices: list[DeviceRow] = []
        points: list[PointRow] = []
        for at, changed_devices, changed_points in self._changes:
            _put(devices, changed_devices)
            _put(points, changed_points)
            if at == seq:
                self._newest_asked = Roster(seq, tuple(devices), tuple(points))
                return self._newest_asked
        raise KeyError(seq)

    def server_keys(self, seq: int) -> dict[int, tuple[str | None, int]]:
        """Return slot -> (digest of its server key, roster entry since when the row names it), as of entry `seq`."""
        result: dict[int, tuple[str | None, int]] = {}
        for at, changed, _ in self._changes:
            if at > seq:
                break
            for row in changed:
                if result.get(row.slot, (None, -1))[0] != row.server_spki_sha256 or row.slot not in result:
                    result[row.slot] = (row.server_spki_sha256, at)
        return result

    @property
    def first_seq(self) -> int | None:
        """The roster entry whose rows the bundle shows first; None if it shows none."""
        return self._changes[0][0] if self._changes else None

    def told_of(self, devices: Collection[int]) -> dict[int, list[tuple[int, DeviceRow | None, bool]]]:
        """Return device slot -> what each roster entry says of it, in order.

        That is (entry, its row where the entry tells one, whether the entry tells points of it). The first entry of
        the bundle tells every row in force then.
        """
        result: dict[int, list[tuple[int, DeviceRow | None, bool]]] = {slot: [] for slot in devices}
        for seq, changed, points in self._changes:
            rows = {row.slot: row for row in changed if row.slot in result}
            owners = {point.device for point in points if point.device in result}
            for slot in sorted(rows.keys() | owners):
                result[slot].append((seq, rows.get(slot), slot in owners))
        return result

    def sizes(self, seq: int) -> tuple[int, int]:
        """Return (device slots, point slots) of the roster at `seq`. Raises KeyError if it was never taken."""
        return self._sizes[seq]

    def last(self) -> Roster | None:
        """Return the roster taken last; None if there is none, or its rows do not hold."""
        return None if self._broken or not self._changes else self._now()

    def close(self, refused: Callable[[int], bool]) -> None:
        """Record files that belong to no roster entry of this log; `refused`: an earlier step refused this entry."""
        for seq in self.bundle.numbered["roster"]:
            if seq not in self._loaded and not self._broken and not refused(seq):
                self.found.fault(ROSTER, "roster.unexpected", f"roster/{seq}.jsonl", seq=seq)

    def _now(self) -> Roster:
        return Roster(self._changes[-1][0], tuple(self._devices.rows), tuple(self._points.rows))

    def _load(self, value: Mapping[str, Any]) -> None:
        seq = value["seq"]
        where = f"roster/{seq}.jsonl"
        if seq not in self.bundle.numbered["roster"]:
            self.found.fault(ROSTER, "roster.missing", where, seq=seq)
            self._broken = True
            return
        self._loaded.add(seq)
        # Whatever fails here leaves the tables unfit for the next changed rows: nothing of them is used then.
        try:
            devices, points = _parse(self.bundle.read(where), where=where)
        except VerificationError as error:
            self.found.refuse(ROSTER, error, seq=seq)
            self._broken = True
            return
        first = not self._changes
        new_devices = [device_row(raw) for raw, _ in devices]
        new_points = [_point(raw) for raw, _ in points]
        checks = [
            self.found.holds(ROSTER, seq, _check_slots, self._devices.rows, new_devices, value["devices"],
                             first=first, where=where),
            self.found.holds(ROSTER, seq, _check_slots, self._points.rows, new_points, value["points"],
                             first=first, where=where),
        ]
        if not all(checks):
            self._broken = True
            return
        before = list(self._devices.rows), list(self._points.rows)
        _put(self._devices.rows, new_devices)
        _put(self._points.rows, new_points)
        _put_leaves(self._devices.leaves, [(row.slot, leaf) for row, (_, leaf) in zip(new_devices, devices,
                                                                                     strict=True)])
        _put_leaves(self._points.leaves, [(row.slot, leaf) for row, (_, leaf) in zip(new_points, points, strict=True)])
        self._changes.append((seq, new_devices, new_points))
        self._sizes[seq] = (len(self._devices.rows), len(self._points.rows))
        for table, name in ((self._devices, "devices"), (self._points, "points")):
            if table.root().hex() != value[f"{name}_root"] and self.found.fault(
                    ROSTER, "roster.root", where, seq=seq, table=name):
                self._broken = True
        if not self._broken:
            _check_rows(self._devices.rows, self._points.rows, seq, where, self.found)
            _check_changes(*before, new_devices, new_points, seq, where, self.found)


def _put(rows: list[Any], changed: Iterable[Any]) -> None:
    for row in changed:
        rows[row.slot : row.slot + 1] = [row]


def _put_leaves(leaves: list[bytes], changed: Iterable[tuple[int, bytes]]) -> None:
    for slot, leaf in changed:
        leaves[slot : slot + 1] = [leaf]


_DEVICE_ROWS, _POINT_ROWS = Reader(roster.DEVICE_ROW), Reader(roster.POINT_ROW)
_Lines = list[tuple[dict[str, Any], bytes]]


def _parse(data: bytes, *, where: str) -> tuple[_Lines, _Lines]:
    """Return the (row, leaf hash) of devices and of points. Raises VerificationError at the first bad line."""
    if data and not data.endswith(b"\n"):
        raise VerificationError(Problem.of(where, "roster.lines"))
    devices: _Lines = []
    points: _Lines = []
    for line in data[:-1].split(b"\n") if data else ():
        row = _POINT_ROWS.take(line, bytes_max=roster.ROW_BYTES_MAX)
        if row is None:
            row = _DEVICE_ROWS.take(line, bytes_max=roster.ROW_BYTES_MAX)
        if row is None:
            row = jcs.decode(line, where=where, bytes_max=roster.ROW_BYTES_MAX)
            is_a_point = isinstance(row, dict) and "point" in row
            require(roster.POINT_ROW if is_a_point else roster.DEVICE_ROW, row, where=where)
        is_point = "point" in row
        if points and not is_point:
            raise VerificationError(Problem.of(where, "roster.lines"))
        for name in () if is_point else ("tags", "dup_tags"):
            if len({tag["scheme"] for tag in row[name]}) != len(row[name]):
                raise VerificationError(Problem.of(where, "roster.tags", slot=row["slot"]))
        (points if is_point else devices).append((row, merkle.leaf_hash(line)))
    return devices, points


def device_row(raw: Mapping[str, Any]) -> DeviceRow:
    """Return a row that has the shape of one."""
    return DeviceRow(
        slot=raw["slot"], alive=raw["state"] == "alive", replaces=raw["replaces"], parent=raw["parent"],
        thing=raw["thing"], equipment_class=raw["class"], industry=raw["industry"], uscc=raw["uscc"],
        region=raw["region"], deployment=raw["deployment"], energy=raw["energy"], kind=raw["kind"],
        tags=frozenset((t["scheme"], t["tag"]) for t in raw["tags"]),
        dup_tags=frozenset((t["scheme"], t["tag"]) for t in raw["dup_tags"]), id_basis=raw["id_basis"],
        server_spki_sha256=raw["server"]["spki_sha256"], server_via=raw["server"]["via"],
        private_sha256=raw["private_sha256"])


def _point(raw: Mapping[str, Any]) -> PointRow:
    return PointRow(
        slot=raw["point"], device=raw["device"], alive=raw["state"] == "alive", protocol=raw["protocol"],
        role=raw["role"], type=raw["type"], addr=bytes.fromhex(raw["addr"]), base=bytes.fromhex(raw["base"]))


def _check_slots(rows: Sequence[Any], changed: Sequence[Any], total: int, *, first: bool, where: str) -> None:
    """Changed rows ascend, differ from what they change, and leave no hole up to `total`."""
    slots = [row.slot for row in changed]
    if any(a >= b for a, b in pairwise(slots)):
        raise VerificationError(Problem.of(where, "roster.order"))
    added = [slot for slot in slots if slot >= len(rows)]
    if added != list(range(len(rows), total)):
        raise VerificationError(Problem.of(where, "roster.slots", found=len(rows) + len(added), expected=total))
    for row in changed:
        if not first and row.slot < len(rows) and rows[row.slot] == row:
            raise VerificationError(Problem.of(where, "roster.unchanged", slot=row.slot))


def _check_rows(devices: Sequence[DeviceRow], points: Sequence[PointRow], seq: int, where: str,
                found: Findings) -> None:
    """Rows agree with one another: parents, owners and servers exist, and no address stands twice."""
    circles = _in_circles(devices)
    for row in devices:
        broken = None
        if row.parent is not None and (row.parent >= len(devices) or row.slot in circles):
            broken = "roster.parent"
        elif row.replaces is not None and (row.replaces >= row.slot or devices[row.replaces].alive):
            broken = "roster.replaces"
        elif row.server_via is not None and row.server_via >= len(devices):
            broken = "roster.via"
        if broken:
            found.fault(ROSTER, broken, where, seq=seq, slot=row.slot)
    addresses: set[bytes] = set()
    for point in points:
        if point.device >= len(devices):
            found.fault(ROSTER, "roster.owner", where, seq=seq, point=point.slot)
        if point.alive and point.addr in addresses:
            found.fault(ROSTER, "roster.point_twice", where, seq=seq, point=point.slot)
        if point.alive:
            addresses.add(point.addr)


def _in_circles(devices: Sequence[DeviceRow]) -> set[int]:
    """Return the slots whose parents lead into a circle."""
    done: set[int] = set()
    bad: set[int] = set()
    for row in devices:
        if row.parent is None:
            continue
        path: dict[int, None] = {}
        at: int | None = row.slot
        while at is not None and at < len(devices) and at not in done and at not in path:
            path[at] = None
            at = devices[at].parent
        if at is not None and (at in path or at in bad):
            bad |= path.keys()
        done |= path.keys()
    return bad


def _check_changes(old_devices: Sequence[DeviceRow], old_points: Sequence[PointRow], devices: Sequence[DeviceRow],
                   points: Sequence[PointRow], seq: int, where: str, found: Findings) -> None:
    """A slot keeps its identity: kind never changes, tags are only added, what is gone stays gone and as it was."""
    for new in devices:
        if new.slot >= len(old_devices):
            continue
        old = old_devices[new.slot]
        if not old.alive or (not new.alive and replace(new, alive=True) != old):
            found.fault(ROSTER, "roster.tombstone", where, seq=seq, slot=new.slot)
        elif new.kind != old.kind or not new.tags >= old.tags or new.replaces != old.replaces:
            found.fault(ROSTER, "roster.identity", where, seq=seq, slot=new.slot)
    for point in points:
        if point.slot >= len(old_points):
            continue
        before = old_points[point.slot]
        if not before.alive or (not point.alive and replace(point, alive=True) != before):
            found.fault(ROSTER, "roster.tombstone", where, seq=seq, point=point.slot)
        elif (point.device, point.addr, point.base) != (before.device, before.addr, before.base):
            found.fault(ROSTER, "roster.identity", where, seq=seq, point=point.slot)


def read_openings(bundle: Bundle, gateway: str, rows: Roster | None, found: Findings) -> dict[int, Mapping[str, Any]]:
    """Return slot -> private part of every opened device that agrees with its row."""
    opened: dict[int, Mapping[str, Any]] = {}
    for slot in bundle.numbered["openings"]:
        where = f"openings/{slot}.json"
        private = found.get(ROSTER, NO_ENTRY, _opening, bundle, gateway, slot, rows, where=where)
        if private is not None:
            opened[slot] = private
    return opened


def _opening(bundle: Bundle, gateway: str, slot: int, rows: Roster | None, *, where: str) -> Mapping[str, Any]:
    value = jcs.decode(bundle.read(where), where=where, bytes_max=4 * roster.ROW_BYTES_MAX)
    require(roster.OPENING, value, where=where)
    if (value["gateway"], value["slot"]) != (gateway, slot) or rows is None or slot >= len(rows.devices):
        raise VerificationError(Problem.of(where, "opening.misplaced", slot=value["slot"]))
    row = rows.devices[slot]
    opening.verify(value, private_sha256=row.private_sha256, kind=row.kind, tags=row.tags, where=where)
    result: Mapping[str, Any] = value["private"]
    return result
