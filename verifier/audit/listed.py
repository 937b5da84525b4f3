"""A list of claimed devices against those that count: which differ, why, and who changed what when.

The list is a CSV or a spreadsheet with a column of device names as this software prints them (`GATEWAY:SLOT`), or with
gateway and slot apart. Where a bundle opens its devices, a name or a serial that only one of them has will do too.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from protocols.errors import ConfigError, Problem
from protocols.evidence import entry
from protocols.evidence.roster import normalise
from protocols.terms.basis import Basis
from protocols.terms.say import Say
from verifier.audit.counting import Judged
from verifier.audit.duplicates import Names, Unnamed
from verifier.audit.results import CountResult, DeviceResult, Finding, noted
from verifier.audit.results_audit import AuditResult
from verifier.audit.results_machines import ClaimedListResult, EntryResult, ListedResult
from verifier.proof.figures import Evidence
from verifier.proof.history import OVERLAPPED, UNKNOWN
from verifier.proof.machines import Device
from verifier.proof.recount import mask, slots
from verifier.proof.rows import DeviceRow

BYTES_MAX = 32 * 1024 * 1024
ROWS_MAX = 200_000
HEAD_ROWS = 30
"""The row of column names stands among the first so many: a spreadsheet has titles above it."""
SCAN_MAX = 20_000
"""So many windows are looked through for a device's last one; a fortnight of minutes."""
PROBLEMS_MAX = 100

ID, GATEWAY, SLOT, NAME, SERIAL = "id", "gateway", "slot", "name", "serial"
COLUMNS: Mapping[str, str] = {
    "设备id": ID, "设备编号": ID, "id": ID, "device": ID, "device_id": ID, "网关": GATEWAY, "gateway": GATEWAY,
    "槽位": SLOT, "slot": SLOT, "设备名称": NAME, "name": NAME, "出厂编号": SERIAL, "序列号": SERIAL, "serial": SERIAL}
"""How columns may be called; case and blanks do not matter."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a list, by its number in the file."""

    row: int
    id: str
    name: str = ""
    serial: str = ""


@dataclass(frozen=True, slots=True)
class ClaimedList:
    """A list as it was read. `sha256` is of the file."""

    sha256: str
    lines: tuple[Line, ...]


def claimed_list(path: Path) -> ClaimedList:
    """Read a list of claimed devices. Raises ConfigError with every problem of the file."""
    if path.suffix.lower() == ".xlsx":
        from config.spreadsheet import read_sheets  # loads a library that a CSV does not need

        sheets, sha256 = read_sheets(path)
        tables = [[(row.number, ["" if cell is None else str(cell.value).strip() for cell in row.cells])
                   for row in rows] for rows in sheets.values()]
    else:
        data = _bytes(path)
        sha256 = hashlib.sha256(data).hexdigest()
        tables = [list(_csv(data, path))]
    for table in tables:
        for at, (_, cells) in enumerate(table[:HEAD_ROWS]):
            columns = {known: i for i, cell in enumerate(cells)
                       if (known := COLUMNS.get(cell.casefold().replace(" ", "")))}
            if ID in columns or {GATEWAY, SLOT} <= columns.keys():
                return ClaimedList(sha256, _lines(table[at + 1:], columns, path))
    raise ConfigError(Problem.of(str(path), "list.no_column"))


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(Problem.of(str(path), "verify.file", reason=reason)) from error
    if len(data) > BYTES_MAX:
        raise ConfigError(Problem.of(str(path), "config.too_large", limit=BYTES_MAX))
    return data


def _csv(data: bytes, path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        for at, cells in enumerate(reader, 1):
            if at > ROWS_MAX:
                raise ConfigError(Problem.of(str(path), "list.too_long", limit=ROWS_MAX))
            yield at, [cell.strip() for cell in cells]
    except UnicodeDecodeError as error:
        raise ConfigError(Problem.of(str(path), "config.not_utf8")) from error
    except csv.Error as error:
        raise ConfigError(Problem.of(str(path), "config.unreadable", reason=error)) from error


def _lines(table: Iterable[tuple[int, list[str]]], columns: Mapping[str, int], path: Path) -> tuple[Line, ...]:
    """Return the rows. One without a device is a note below the table, unless it tells a name or a serial."""
    lines, problems = [], []
    for at, cells in table:
        told = {name: cells[i] if i < len(cells) else "" for name, i in columns.items()}
        name, serial = told.get(NAME, ""), told.get(SERIAL, "")
        id_ = told.get(ID, "")
        if not id_ and told.get(GATEWAY) and told.get(SLOT):
            id_ = f"{told[GATEWAY]}:{told[SLOT]}"
        if id_:
            lines.append(Line(at, id_, name, serial))
        elif name or serial:
            problems.append(Problem.of(f"{path}, {at}", "list.no_id", name=name or serial))
    if problems:
        raise ConfigError(problems[:PROBLEMS_MAX])
    return tuple(lines)


def with_list(found: AuditResult, listed: ClaimedList, judged: Sequence[Judged], basis: Basis, say: Say) -> AuditResult:
    """Return an audit with a list held against what counts; as it is where a bundle is invalid and nothing counts."""
    if found.count.figures is None:
        return found
    told = against(listed, found.count, [j.verdict.evidence for j in judged if j.verdict.evidence is not None], basis)
    return replace(found, claimed_list=told, findings=(*found.findings, *list_findings(told, say)))


def against(listed: ClaimedList, counted: CountResult, evidence: Sequence[Evidence], basis: Basis) -> ClaimedListResult:
    """Hold a list against what counts. `counted`: a count of valid bundles, of this evidence under this basis."""
    assert counted.at is not None
    told = {(d.gateway, d.slot): d for d in counted.devices}
    look = _Lookup(evidence)
    seen: set[Device] = set()
    matched = 0
    only: list[tuple[Line, Device | None, str]] = []
    for line in listed.lines:
        device, state = look.find(line)
        if device is not None and device in seen:
            state = "twice"
        elif device is not None:
            seen.add(device)
            found = told.get(device)
            if found is not None and found.reason is None:
                matched += 1
                continue
            state = "not_counted" if found is not None else look.absent(device, counted.at.counted_s)
        only.append((line, device, state))
    missing = [d for d in counted.devices if d.reason is None and (d.gateway, d.slot) not in seen]
    at = [device for _, device, _ in only if device is not None] + [(d.gateway, d.slot) for d in missing]
    instead = {(m.gateway, m.slot): next((f"{c.gateway}:{c.slot}" for c in group.members if c.reason is None), None)
               for group in counted.duplicates for m in group.members if m.reason == "duplicate_identity"}
    histories = _histories(evidence, at)
    last = _last_seen(evidence, [device for _, device, state in only if device and state != "twice"],
                      counted.at.counted_s, basis)
    return ClaimedListResult(
        sha256=listed.sha256, rows=len(listed.lines), matched=matched,
        only_in_list=tuple(replace(
            _listed(line, device, state, told, histories, last),
            instead=instead.get(device) if device and state == "not_counted" else None)
            for line, device, state in only),
        only_in_evidence=tuple(_unlisted(d, histories) for d in missing))


State = Literal["not_counted", "gone", "later", "unknown", "several", "not_shown", "twice", "not_listed"]


def _listed(line: Line, device: Device | None, state: Any, told: Mapping[Device, DeviceResult],
            histories: Mapping[Device, tuple[EntryResult, ...]], last: Mapping[Device, int]) -> ListedResult:
    found = told.get(device) if device else None
    gateway, slot = device or (None, None)
    return ListedResult(
        row=line.row, id=line.id, gateway=gateway, slot=slot, name=(found.name if found else None) or line.name or None,
        state=state, reason=found.reason if found else None, instead=None, seen_s=last.get(device) if device else None,
        history=histories.get(device, ()) if device and state != "twice" else ())


def _unlisted(device: DeviceResult, histories: Mapping[Device, tuple[EntryResult, ...]]) -> ListedResult:
    return ListedResult(
        row=None, id=f"{device.gateway}:{device.slot}", gateway=device.gateway, slot=device.slot, name=device.name,
        state="not_listed", reason=None, instead=None, seen_s=None, history=histories[device.gateway, device.slot])


class _Lookup:
    """Finds the device that a row means."""

    def __init__(self, evidence: Sequence[Evidence]) -> None:
        self._names = Names(evidence)
        self._of = {one.gateway: one for one in evidence}
        self._called: dict[str, set[Device]] = {}
        for one in evidence:
            for slot, private in one.opened.items():
                for text in {normalise(private["name"]), normalise(private["serial"])} - {""}:
                    self._called.setdefault(text, set()).add((one.gateway, slot))

    def find(self, line: Line) -> tuple[Device | None, str]:
        """Return the device and "", or None and the state that says why."""
        device = self._names.device(line.id)
        if not isinstance(device, Unnamed):
            return device, ""
        if device.code != "duplicates.no_name":
            return None, {"duplicates.no_gateway": "not_shown", "duplicates.two_gateways": "several"}.get(
                device.code, "unknown")
        called = self._called.get(normalise(line.id), set())
        if len(called) == 1:
            return next(iter(called)), ""
        return None, "several" if called else "unknown"

    def absent(self, device: Device, at_s: int) -> str:
        """Return why a slot that exists is not alive at T."""
        one = self._of[device[0]]
        windows = one.windows
        before = [i for i in range(len(windows)) if windows.state[i] != OVERLAPPED and windows.end_s[i] <= at_s]
        return "gone" if before and device[1] < one.rosters.sizes(windows.roster[before[-1]])[0] else "later"


def _histories(evidence: Sequence[Evidence], devices: Iterable[Device]) -> dict[Device, tuple[EntryResult, ...]]:
    wanted: dict[str, set[int]] = {}
    for gateway, slot in devices:
        wanted.setdefault(gateway, set()).add(slot)
    result = {}
    for one in evidence:
        begins = one.rosters.first_seq
        first = {seq: i for i, seq in reversed(list(enumerate(one.windows.roster)))}
        for slot, told in one.rosters.told_of(wanted.get(one.gateway, ())).items():
            before: DeviceRow | None = None
            entries = []
            for seq, row, points in told:
                told_now = _entry(one, seq, before, row, points, first.get(seq))
                entries.append(replace(told_now, what="added") if told_now.what == "listed" and seq != begins
                               else told_now)
                before = row or before
            result[one.gateway, slot] = tuple(entries)
    return result


def _entry(one: Evidence, seq: int, before: DeviceRow | None, row: DeviceRow | None, points: bool,
           window: int | None) -> EntryResult:
    changed = [] if before is None or row is None else [
        _FIELDS.get(f.name, f.name) for f in fields(row) if getattr(row, f.name) != getattr(before, f.name)]
    what: Literal["listed", "added", "changed", "gone"] = "changed"
    if before is None:
        what = "listed"
    if row is not None and not row.alive:
        what = "gone"
    data = one.log.entry(seq)
    ledger = entry.decode(data, seq=seq)["ledger"] if data is not None else {"sha256": "", "date": ""}
    windows = one.windows

    def known(at_s: int) -> int | None:
        return None if at_s == UNKNOWN else at_s

    return EntryResult(
        seq=seq, what=what, ledger_sha256=ledger["sha256"], ledger_date=ledger["date"],
        fields=tuple(dict.fromkeys([*changed, *(["points"] if points and before is not None else [])])
                     ) if what == "changed" else (),
        from_s=None if window is None else windows.start_s[window],
        after_s=None if window is None else known(windows.not_before_s[window]),
        before_s=None if window is None else known(windows.not_after_s[window]))


_FIELDS = {"equipment_class": "class", "server_spki_sha256": "server", "server_via": "server", "alive": "state",
           "private_sha256": "private"}
"""Names of the format where a row's field is called otherwise here."""


def _last_seen(evidence: Sequence[Evidence], devices: Iterable[Device], at_s: int, basis: Basis) -> dict[Device, int]:
    """Return the end of the last window until T in which each device produced, by points in the roles of the basis."""
    wanted: dict[str, set[int]] = {}
    for gateway, slot in devices:
        wanted.setdefault(gateway, set()).add(slot)
    result: dict[Device, int] = {}
    for one in evidence:
        last = one.rosters.last()
        left = wanted.get(one.gateway, set())
        if last is None or not left:
            continue
        owner = {p.slot: p.device for p in last.points if p.role in basis.roles and p.device in left}
        looking, scanned = mask(owner), 0
        for i in reversed(range(len(one.windows))):
            if one.windows.end_s[i] > at_s or one.windows.state[i] == OVERLAPPED:
                continue
            scanned += 1
            if not looking or scanned > SCAN_MAX:
                break
            hit = one.columns(i).producing & looking
            if hit:
                found = {owner[slot] for slot in slots(hit)}
                result |= {(one.gateway, slot): one.windows.end_s[i] for slot in found}
                looking &= ~mask(point for point, device in owner.items() if device in found)
    return result


def list_findings(told: ClaimedListResult, say: Say) -> list[Finding]:
    """Say in how many devices list and evidence differ. The claim's figures are judged by themselves."""
    result = []
    if told.only_in_list:
        result.append(noted("remark", "list.only_in_list", "devices", say, rows=told.rows, matched=told.matched,
                            devices=len(told.only_in_list)))
    if told.only_in_evidence:
        result.append(noted("remark", "list.only_in_evidence", "devices", say, devices=len(told.only_in_evidence)))
    return result
