"""The asset ledger: devices.csv and points.csv, as an engineer keeps them. Every problem of both files at once."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from config.classification import load_classification
from protocols.errors import Problem
from protocols.terms import uscc
from protocols.terms.vocabulary import DEPLOYMENTS, POINT_TYPES, ROLES, THINGS

CSV_BYTES_MAX = 64 * 1024 * 1024
DEVICES_MAX = 120_000
POINTS_MAX = 120_000
TEXT_MAX = 200
COLUMNS_MAX = 200
ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
NEAR_AMONG_MAX = 2000
"""Among more names than these none is suggested for a misspelt one: a file wrong in every line must not take hours."""

DEVICE_COLUMNS = ("id", "name", "maker", "model", "serial", "asset", "class", "industry", "uscc", "region", "thing",
                  "deployment", "energy", "parent", "connection")
DEVICE_COLUMNS_OPTIONAL = ("product_instance_uri", "vaa", "handle", "mac", "unit")
POINT_COLUMNS = ("device", "id", "address", "type", "role")
POINT_COLUMNS_OPTIONAL = ("order", "scale", "offset", "labels")

_ENERGY = {"yes": True, "no": False, "是": True, "否": False, "": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One row of devices.csv. Empty cells of coded columns are None; free text stays as it was written."""

    id: str
    name: str
    maker: str
    model: str
    serial: str
    asset: str
    equipment_class: str | None
    industry: str | None
    uscc: str | None
    region: str | None
    thing: str
    deployment: str | None
    energy: bool | None
    parent: str | None
    connection: str
    product_instance_uri: str = ""
    vaa: str = ""
    handle: str = ""
    mac: str = ""
    unit: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRow:
    """One row of points.csv; the address is still text, its protocol is known by the device's connection."""

    device: str
    id: str
    address: str
    type: str
    role: str
    order: str
    scale: float
    offset: float
    where: str
    labels: str = ""
    columns_of_modbus: tuple[str, ...] = ()
    """Which of order, scale, offset and labels are filled in."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Both files. `sha256` is over the bytes of devices.csv, a byte 0, and the bytes of points.csv."""

    devices: tuple[Device, ...]
    points: tuple[PointRow, ...]
    sha256: str


def read_ledger(devices_file: Path, points_file: Path, connections: frozenset[str]) -> tuple[Ledger, list[Problem]]:
    """Read both files. The problems are complete, the ledger then holds the rows that were good."""
    problems: list[Problem] = []
    digest = hashlib.sha256()
    devices: list[Device] = []
    known: set[str] = set()  # also of rows that are refused: their points are not to blame
    raw = _read(devices_file, problems)
    before = len(problems)
    digest.update((raw or b"") + b"\0")
    for where, row in _rows(devices_file.name, raw, DEVICE_COLUMNS, DEVICE_COLUMNS_OPTIONAL, DEVICES_MAX, problems):
        found = list(_device_problems(where, row, connections))
        problems += found
        known.add(row["id"])
        if not found:
            devices.append(_device(where, row))
    has_devices = bool(known) or (len(problems) == before and raw is not None)
    problems += _identity_problems(devices)
    raw = _read(points_file, problems)
    digest.update(raw or b"")
    points: list[PointRow] = []
    for where, row in _rows(points_file.name, raw, POINT_COLUMNS, POINT_COLUMNS_OPTIONAL, POINTS_MAX, problems):
        found = list(_point_problems(where, row, known if has_devices else {row["device"]}))
        problems += found
        if not found:
            points.append(PointRow(
                device=row["device"], id=row["id"], address=row["address"], type=row["type"], role=row["role"],
                order=row.get("order", "") or "ABCD", scale=float(row.get("scale", "") or 1),
                offset=float(row.get("offset", "") or 0), labels=row.get("labels", ""), where=where,
                columns_of_modbus=tuple(c for c in POINT_COLUMNS_OPTIONAL if row.get(c))))
    seen: dict[tuple[str, str], str] = {}
    for point in points:
        first = seen.setdefault((point.device, point.id), point.where)
        if first != point.where:
            problems.append(Problem.of(f"{point.where}, id", "ledger.double_id", id=point.id, first=first))
    return Ledger(tuple(devices), tuple(points), digest.hexdigest()), problems


def _read(path: Path, problems: list[Problem]) -> bytes | None:
    """Return the bytes of a file, None if it cannot be read."""
    try:
        if path.stat().st_size > CSV_BYTES_MAX:
            problems.append(Problem.of(path.name, "config.too_large", limit=CSV_BYTES_MAX))
            return None
        return path.read_bytes()
    except FileNotFoundError:
        problems.append(Problem.of(str(path), "config.no_file"))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        problems.append(Problem.of(str(path), "config.unreadable", reason=reason))
    return None


def _rows(name: str, raw: bytes | None, needed: tuple[str, ...], optional: tuple[str, ...], most: int,
          problems: list[Problem]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, row) of every row with the right number of cells; report the header and the others."""
    if raw is None:
        return
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = raw.decode("gb18030")  # what Excel writes on a Chinese PC
        except UnicodeDecodeError:
            problems.append(Problem.of(name, "ledger.encoding"))
            return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if not any(header) or len(header) > COLUMNS_MAX:
            problems.append(Problem.of(f"{name}, line 1", "ledger.no_header", columns=",".join(needed)))
            return
        missing = [column for column in needed if column not in header]
        problems.extend(Problem.of(f"{name}, line 1", "ledger.missing_column", column=column) for column in missing)
        for column in header:
            if column not in needed + optional:
                near = difflib.get_close_matches(column.lower()[:80], needed + optional, 1)
                problems.append(Problem.of(f"{name}, line 1", "ledger.unknown_column", column=column[:80],
                                           known=near[0] if near else ", ".join(optional)))
        if missing or len(set(header)) != len(header):
            if len(set(header)) != len(header):
                problems.append(Problem.of(f"{name}, line 1", "ledger.double_column"))
            return
        for count, cells in enumerate(reader):
            where = f"{name}, line {reader.line_num}"
            if count >= most:
                problems.append(Problem.of(where, "ledger.too_many", limit=most))
                return
            if not any(cells):
                continue
            if len(cells) != len(header):
                problems.append(Problem.of(where, "ledger.cells", found=len(cells), expected=len(header)))
                continue
            yield where, {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        problems.append(Problem.of(f"{name}, line {reader.line_num}", "ledger.csv", reason=error))


def _device_problems(where: str, row: Mapping[str, str], connections: frozenset[str]) -> Iterator[Problem]:
    def at(column: str) -> str:
        return f"{where}, {column}"

    if not ID.fullmatch(row["id"]):
        yield Problem.of(at("id"), "ledger.bad_id", id=row["id"])
    if row["parent"] and not ID.fullmatch(row["parent"]):
        yield Problem.of(at("parent"), "ledger.bad_id", id=row["parent"])
    for column, cell in row.items():
        if len(cell) > TEXT_MAX or any(ord(c) < 0x20 for c in cell):
            yield Problem.of(at(column), "ledger.bad_text", limit=TEXT_MAX)
    if row["class"]:
        classes = load_classification("equipment_jx_b").classes
        if row["class"] not in classes or classes[row["class"]].level == 1:
            near = difflib.get_close_matches(row["class"][:80], [k for k, c in classes.items() if c.level > 1], 1)
            yield Problem.of(at("class"), "ledger.bad_class", value=row["class"][:80], near=near[0] if near else "-")
    if row["industry"] and not re.fullmatch("[A-T]?[0-9]{2,4}", row["industry"]):
        yield Problem.of(at("industry"), "ledger.bad_industry", value=row["industry"])
    if row["region"] and not re.fullmatch("[0-9]{6}", row["region"]):
        yield Problem.of(at("region"), "ledger.bad_region", value=row["region"])
    if row["uscc"] and not uscc.is_valid(row["uscc"]):
        yield bad_uscc(at("uscc"), row["uscc"])
    if row["thing"] not in THINGS:
        yield Problem.of(at("thing"), "config.not_one_of", value=row["thing"], known=", ".join(THINGS))
    if row["deployment"] and row["deployment"] not in DEPLOYMENTS:
        yield Problem.of(at("deployment"), "config.not_one_of", value=row["deployment"], known=", ".join(DEPLOYMENTS))
    if row["energy"] not in _ENERGY:
        yield Problem.of(at("energy"), "config.not_one_of", value=row["energy"], known="yes, no")
    if row["connection"] not in connections:
        yield Problem.of(at("connection"), "ledger.unknown_connection", value=row["connection"],
                         known=", ".join(sorted(connections)) or "-")


def bad_uscc(where: str, code: str) -> Problem:
    """Say what is wrong with a 统一社会信用代码: its form, or only its last character."""
    if len(code) == 18 and all(c in uscc.ALPHABET for c in code):
        return Problem.of(where, "ledger.uscc_check", value=code, expected=uscc.check_character(code[:17]))
    return Problem.of(where, "ledger.uscc_form", value=code)


def _device(where: str, row: Mapping[str, str]) -> Device:
    return Device(
        id=row["id"], name=row["name"], maker=row["maker"], model=row["model"], serial=row["serial"],
        asset=row["asset"], equipment_class=row["class"] or None, industry=row["industry"] or None,
        uscc=row["uscc"] or None, region=row["region"] or None, thing=row["thing"],
        deployment=row["deployment"] or None, energy=_ENERGY[row["energy"]], parent=row["parent"] or None,
        connection=row["connection"], where=where,
        **{column: row.get(column, "") for column in DEVICE_COLUMNS_OPTIONAL})


def _identity_problems(devices: list[Device]) -> Iterator[Problem]:
    """Double ids, parents that do not exist, and chains of parents that end in themselves."""
    by_id: dict[str, Device] = {}
    for device in devices:
        first = by_id.setdefault(device.id, device)
        if first is not device:
            yield Problem.of(f"{device.where}, id", "ledger.double_id", id=device.id, first=first.where)
    done: set[str] = set()
    for device in by_id.values():
        if device.parent and device.parent not in by_id:
            yield Problem.of(f"{device.where}, parent", "ledger.unknown_parent", value=device.parent)
        path: dict[str, None] = {}  # every device is walked over once, however long the chains are
        at = device.id
        while at in by_id and at not in done and at not in path:
            path[at] = None
            at = by_id[at].parent or ""
        if at in path:
            circle = list(path)[list(path).index(at):]
            for name in circle:
                yield Problem.of(f"{by_id[name].where}, parent", "ledger.parent_circle", value=by_id[name].parent)
        done.update(path)


def _point_problems(where: str, row: Mapping[str, str], devices: set[str]) -> Iterator[Problem]:
    if row["device"] not in devices:
        near = difflib.get_close_matches(row["device"][:64], devices, 1) if len(devices) <= NEAR_AMONG_MAX else []
        yield Problem.of(f"{where}, device", "ledger.unknown_device", value=row["device"][:64] or "-",
                         near=near[0] if near else "-")
    if not ID.fullmatch(row["id"]):
        yield Problem.of(f"{where}, id", "ledger.bad_id", id=row["id"][:80])
    if row["type"] and row["type"] not in POINT_TYPES:
        yield Problem.of(f"{where}, type", "config.not_one_of", value=row["type"], known=", ".join(POINT_TYPES))
    if row["role"] not in ROLES:
        yield Problem.of(f"{where}, role", "config.not_one_of", value=row["role"], known=", ".join(ROLES))
    for column in ("scale", "offset"):
        if row.get(column) and not NUMBER.fullmatch(row[column]):
            yield Problem.of(f"{where}, {column}", "ledger.no_number", value=row[column][:40])
