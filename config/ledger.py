"""The asset ledger: devices, points and templates, as an engineer keeps them. Every problem of all files at once."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from config import template
from config.classification import load_classification
from config.table import ROUNDED, Shape, read_bytes, read_rows
from config.template import TemplateRow
from protocols.errors import Problem
from protocols.terms import uscc
from protocols.terms.vocabulary import DEPLOYMENTS, POINT_TYPES, ROLES, THINGS

DEVICES_MAX = 120_000
POINTS_MAX = 120_000
TEMPLATE_ROWS_MAX = 10_000
TEXT_MAX = 200
ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
NEAR_AMONG_MAX = 2000
NEAR_PROBLEMS_MAX = 100
"""Among more names, or behind more problems, none is suggested for a misspelt one: a file wrong in every line must not
take hours."""

DEVICE_COLUMNS = ("id", "name", "maker", "model", "serial", "asset", "class", "industry", "uscc", "region", "thing",
                  "deployment", "energy", "parent", "connection")
DEVICE_COLUMNS_OPTIONAL = ("product_instance_uri", "vaa", "handle", "mac", "unit", "template")
POINT_COLUMNS = ("device", "id", "address", "type", "role")
POINT_COLUMNS_OPTIONAL = ("order", "scale", "offset", "labels")
IDENTIFIERS = ("serial", "asset", "vaa", "handle")
DEVICE_HEADINGS = {
    "设备编号": "id", "设备ID": "id", "设备名称": "name", "生产厂家": "maker", "制造商": "maker", "型号": "model",
    "规格型号": "model", "序列号": "serial", "出厂编号": "serial", "资产编号": "asset", "设备类别": "class",
    "行业代码": "industry", "统一社会信用代码": "uscc", "行政区划代码": "region", "对象类型": "thing",
    "部署方式": "deployment", "是否消耗能源": "energy", "上级设备": "parent", "连接": "connection",
    "产品实例URI": "product_instance_uri", "VAA标识": "vaa", "Handle标识": "handle", "MAC地址": "mac", "单元号": "unit",
    "点位模板": "template"}
POINT_HEADINGS = {
    "地址": "address", "数据类型": "type", "用途": "role", "字节序": "order", "系数": "scale", "偏移": "offset",
    "枚举含义": "labels", "点位编号": "id"}
"""Chinese headings, beside the names of the columns themselves; the page on configuration lists them."""

DEVICE_TABLE = Shape(needed=DEVICE_COLUMNS, optional=DEVICE_COLUMNS_OPTIONAL, rows_max=DEVICES_MAX, is_free=True,
                     chinese=DEVICE_HEADINGS, sheets=("devices", "设备", "设备表", "设备台账"))
POINT_TABLE = Shape(needed=POINT_COLUMNS, optional=POINT_COLUMNS_OPTIONAL, rows_max=POINTS_MAX,
                    chinese=POINT_HEADINGS | {"设备编号": "device", "设备ID": "device"},
                    sheets=("points", "点位", "点表", "采集点", "采集点表"))
TEMPLATE_TABLE = Shape(needed=("template", *POINT_COLUMNS[1:]), optional=POINT_COLUMNS_OPTIONAL,
                       rows_max=TEMPLATE_ROWS_MAX, chinese=POINT_HEADINGS | {"点位模板": "template"},
                       sheets=("templates", "模板", "点位模板"))

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
    template: str = ""
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
    template: str = ""
    """The row of templates.csv that it was made of, as a place; empty for a row of points.csv."""

    columns_of_modbus: tuple[str, ...] = ()
    """Which of order, scale, offset and labels are filled in."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What was read. `sha256` is over the bytes of the device file, a byte 0, and the bytes of the point file, empty
    if there is none; where templates are used, another byte 0 and the bytes of their file follow.
    """

    devices: tuple[Device, ...]
    points: tuple[PointRow, ...]
    sha256: str


def read_ledger(devices_file: Path, points_file: Path | None, connections: frozenset[str],
                templates_file: Path | None = None) -> tuple[Ledger, list[Problem]]:
    """Read the files. The problems are complete, the ledger then holds the rows that were good."""
    problems: list[Problem] = []
    raw = read_bytes(devices_file, problems)
    raw_templates = None if templates_file is None else read_bytes(templates_file, problems)
    before = len(problems)
    columns: list[str] = []
    rows = read_rows(devices_file, raw, DEVICE_TABLE, problems, columns)
    first_row = list(islice(rows, 1))  # the header is read with it
    templates: dict[str, list[TemplateRow]] = {}
    names: set[str] = set()
    if templates_file is not None:
        templates, names = _templates(templates_file, raw_templates, columns or DEVICE_COLUMNS, problems)
    devices: list[Device] = []
    made: list[PointRow] = []
    known: set[str] = set()  # also of rows that are refused: their points are not to blame
    for place, row in chain(first_row, rows):
        where = _tagged(place, row["id"])
        found = list(_device_problems(where, row, connections))
        of_template = templates.get(row.get("template", ""), [])
        found += template.problems(of_template, row, where)
        if row.get("template") and row["template"] not in names:
            found.append(Problem.of(f"{where}, template", "ledger.unknown_template", value=row["template"][:64],
                                    near=_near(row["template"], names, problems)))
        problems += found
        known.add(row["id"])
        if not found:
            devices.append(_device(where, row))
            made += _made(of_template, row)
    has_devices = bool(known) or (len(problems) == before and raw is not None)
    problems += _identity_problems(devices)
    raw_points = b"" if points_file is None else read_bytes(points_file, problems)
    points: list[PointRow] = []
    ids = {device.id: device.id for device in devices}
    for place, row in read_rows(points_file, raw_points, POINT_TABLE, problems) if points_file is not None else ():
        where = _tagged(place, row["device"], row["id"])
        found = list(_point_problems(where, row, known if has_devices else {row["device"]}, problems))
        problems += found
        if not found:
            # The id of the device's own row: one text of each in memory, and none that lies between what is let go.
            points.append(_point(row, ids.get(row["device"], row["device"]), row["address"], where))
    points += made
    if len(points) > POINTS_MAX:
        problems.append(Problem.of(devices_file.name, "ledger.too_many", limit=POINTS_MAX))
    seen: dict[tuple[str, str], str] = {}
    for point in points:
        first = seen.setdefault((point.device, point.id), point.where)
        if first != point.where:
            problems.append(Problem.of(f"{point.where}, id", "ledger.double_id", id=point.id, first=first))
    digest = hashlib.sha256((raw or b"") + b"\0" + (raw_points or b""))
    if templates_file is not None:
        digest.update(b"\0" + (raw_templates or b""))
    return Ledger(tuple(devices), tuple(points), digest.hexdigest()), problems


def _tagged(place: str, *ids: str) -> str:
    """Return a place with the id of what stands there, `points.csv, line 5 (press-1/rpm)`; a bad id is left out."""
    return f"{place} ({'/'.join(ids)})" if all(map(ID.fullmatch, ids)) else place


def _templates(path: Path, raw: bytes | None, columns: Sequence[str],
               problems: list[Problem]) -> tuple[dict[str, list[TemplateRow]], set[str]]:
    """Return the rows of each template, and the names of all, also of those without a row that is good."""
    templates: dict[str, list[TemplateRow]] = {}
    names: set[str] = set()
    seen: dict[tuple[str, str], str] = {}
    for place, row in read_rows(path, raw, TEMPLATE_TABLE, problems):
        name = row["template"]
        where = _tagged(place, name, row["id"])
        names.add(name)
        found = [] if ID.fullmatch(name) else [Problem.of(f"{where}, template", "ledger.bad_id", id=name[:80])]
        first = seen.setdefault((name, row["id"]), where)
        if first != where:
            found.append(Problem.of(f"{where}, id", "ledger.double_id", id=row["id"], first=first))
        parsed, wrong = template.parse(name, row, where, columns, place=place)
        found += [*_row_problems(where, row), *wrong]
        problems += found
        if parsed is not None and not found:
            templates.setdefault(name, []).append(parsed)
    return templates, names


def _made(rows: list[TemplateRow], device: Mapping[str, str]) -> Iterator[PointRow]:
    """Yield the points of a device that names a template."""
    for row in rows:
        where = _tagged(row.place, device["id"], row.row["id"])
        yield _point(row.row, device["id"], row.address(device), where, row.place)


def _point(row: Mapping[str, str], device: str, address: str, where: str, template: str = "") -> PointRow:
    return PointRow(
        device=device, id=row["id"], address=address, type=row["type"], role=row["role"],
        order=row.get("order", "") or "ABCD", scale=float(row.get("scale", "") or 1),
        offset=float(row.get("offset", "") or 0), labels=row.get("labels", ""), where=where, template=template,
        columns_of_modbus=tuple(c for c in POINT_COLUMNS_OPTIONAL if row.get(c)))


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
    for column in IDENTIFIERS:
        if ROUNDED.fullmatch(row.get(column, "")):
            yield Problem.of(at(column), "ledger.rounded", value=row[column])
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


def _near(name: str, names: set[str], before: list[Problem]) -> str:
    """Return the name that a misspelt one may stand for, `-` if none is like it. before: problems that came first."""
    if len(names) > NEAR_AMONG_MAX or len(before) > NEAR_PROBLEMS_MAX:
        return "-"
    return next(iter(difflib.get_close_matches(name[:64], names, 1)), "-")


def _point_problems(where: str, row: Mapping[str, str], devices: set[str], before: list[Problem]) -> Iterator[Problem]:
    if row["device"] not in devices:
        yield Problem.of(f"{where}, device", "ledger.unknown_device", value=row["device"][:64] or "-",
                         near=_near(row["device"], devices, before))
    yield from _row_problems(where, row)


def _row_problems(where: str, row: Mapping[str, str]) -> Iterator[Problem]:
    """What is wrong with a point whatever its device is."""
    if not ID.fullmatch(row["id"]):
        yield Problem.of(f"{where}, id", "ledger.bad_id", id=row["id"][:80])
    if row["type"] and row["type"] not in POINT_TYPES:
        yield Problem.of(f"{where}, type", "config.not_one_of", value=row["type"], known=", ".join(POINT_TYPES))
    if row["role"] not in ROLES:
        yield Problem.of(f"{where}, role", "config.not_one_of", value=row["role"], known=", ".join(ROLES))
    for column in ("scale", "offset"):
        if row.get(column) and not NUMBER.fullmatch(row[column]):
            yield Problem.of(f"{where}, {column}", "ledger.no_number", value=row[column][:40])
