"""The lists that a programme asks for as proof: the printed columns in their order, then columns of ours, told apart.

full: every printed column from evidence. partial: as far as evidence goes, the rest to be filled in. template: an
empty form. What evidence does not hold stays empty; nothing is made up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from config.classification import load_classification
from config.programme_forms import ProofList
from protocols.terms.say import Say
from verifier.audit.divisions import division, place
from verifier.forms.catalogue import DEVICES
from verifier.forms.cover import Request, basis, cover, time_of
from verifier.forms.devices import DeviceLine
from verifier.report.xlsx import long_table
from verifier.report.xlsx_book import Book, Cell, Column, Kind

EMPTY_ROWS = 25
"""Rows of an empty form; more may be added."""

OWN_COLUMNS: dict[str, tuple[str, ...]] = {
    "industrial_model_list": ("模型名称", "模型描述"),
    "industrial_app_list": ("APP名称", "功能描述", "聚焦行业、场景", "开发者", "联系人"),
    "served_enterprise_list": ("企业名称", "服务金额", "联系人"),
    "solution_list": ("解决方案名称", "聚焦行业、领域", "解决的痛点难点问题"),
}
"""Columns that we propose where a document prints none: those that another programme prints for the same list."""

CHOICES: dict[str, tuple[str, ...]] = {"是否自研": ("是", "否"), "是否省先进制造业集群": ("是", "否")}
"""Printed columns that allow fixed values only."""

PROTOCOLS = {
    "opc_ua": "OPC UA", "modbus_tcp": "Modbus TCP", "modbus_rtu": "Modbus RTU",
    "modbus_rtu_over_tcp": "Modbus RTU over TCP", "modbus_tls": "Modbus/TLS", "mqtt": "MQTT",
    "sparkplug_b": "MQTT Sparkplug B",
}
YES, NO = "是", "否"
DEPLOYMENTS = {"public": "公有云", "private": "私有云", "dedicated": "专有网"}
DEPLOYMENT_COLUMN = "部署方式（公有云/私有云/专有网）"
Get = Callable[["Told"], Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A device and what its list says of it beside its own line."""

    line: DeviceLine
    number: int
    class_1: str
    class_2: str
    of_class: int
    place: str
    industry: str
    say: Say


@dataclass(frozen=True, slots=True)
class Shown:
    """A column of the device list and how it is read. get None: evidence does not hold it, it stays empty."""

    title: str
    width: float
    kind: Kind
    get: Get | None


def _ids(told: Told) -> str:
    ids = told.line.private.get("identifiers") or {}
    return "；".join(ids[name] for name in ("vaa", "handle") if ids.get(name))


def _serial(told: Told) -> str:
    return " / ".join(told.line.private[name] for name in ("serial", "asset") if told.line.private.get(name))


def _class(told: Told) -> str:
    return f"{told.class_1}/{told.class_2}" if told.class_2 else ""


def _reason(told: Told) -> str:
    reason = told.line.told.reason
    return told.say("forms.counted") if reason is None else told.say(f"reason.{reason}")


def _time(at_s: int | None) -> Cell:
    return None if at_s is None else time_of(at_s)


BY_TITLE: dict[str, Shown] = {shown.title: shown for shown in (
    Shown("分类的设备连接数量", 18, "text", lambda t: f"{t.class_2 or t.say('printed.no_class')}：{t.of_class}"),
    Shown("设备名称", 18, "text", lambda t: t.line.private.get("name")),
    Shown("设备ID", 22, "text", lambda t: t.line.id),
    Shown("序号", 6, "count", lambda t: t.number),  # in its own list it counts from 1
    Shown("设备分类（附录B一级/二级）", 16, "text", _class),
    Shown("该类设备连接数量", 9, "count", lambda t: t.of_class),
    Shown("IP", 13, "text", None),
    Shown("所属企业", 16, "text", None),
    Shown("统一社会信用代码", 21, "text", lambda t: t.line.row.uscc),
    Shown("企业注册地（附录D）", 12, "text", lambda t: t.place),
    Shown("所属行业（附录A二级）", 12, "text", lambda t: t.industry),
    Shown("设备型号", 13, "text", lambda t: t.line.private.get("model")),
    Shown("生产厂家", 13, "text", lambda t: t.line.private.get("maker")),
    Shown("出厂编号/资产编号", 16, "text", _serial),
    Shown("标识解析编码（如有）", 16, "text", _ids),
    Shown("通信协议", 12, "text", lambda t: "、".join(PROTOCOLS.get(p, p) for p in sorted(t.line.points.protocols))),
    Shown("采集点数", 8, "count", lambda t: t.line.points.total),
    Shown("开关量点数", 8, "count", lambda t: t.line.points.switches),
    Shown("运行参数点数", 8, "count", lambda t: t.line.points.parameters),
    Shown(DEPLOYMENT_COLUMN, 10, "text", lambda t: DEPLOYMENTS.get(t.line.row.deployment or "")),
    Shown("是否可管理", 8, "text", None),
    Shown("首次接入时间", 19, "time", lambda t: _time(t.line.first_s)),
    Shown("截止时间前最近有效数据时间", 19, "time", lambda t: _time(t.line.last_s)),
    Shown("当日是否运行", 8, "text", lambda t: YES if t.line.ran_on_day else NO),
    Shown("计入/不计入及原因", 18, "text", _reason),
    Shown("证据编号", 16, "text", lambda t: f"roster/{t.line.entry}.jsonl:{t.line.told.slot}"),
    Shown("证据摘要（SHA-256）", 36, "text", lambda t: t.line.row.private_sha256),
)}
"""Every column of a device list that we know how to read, by its title."""

ALWAYS_OURS = tuple(title for title in BY_TITLE if title != "分类的设备连接数量")
NOT_IN_EVIDENCE = tuple(title for title, shown in BY_TITLE.items() if shown.get is None)


def device_columns(proof: ProofList) -> list[Column]:
    """Return the printed columns in their order, then ours; a title that is printed is not repeated."""
    printed = list(proof.columns_zh)
    own = [title for title in ALWAYS_OURS if title not in printed and not (
        title == "该类设备连接数量" and "分类的设备连接数量" in printed)]
    return [_column(title, ours=ours) for titles, ours in ((printed, False), (own, True)) for title in titles]


def _column(title: str, *, ours: bool) -> Column:
    shown = BY_TITLE.get(title)
    return Column(title=title, width=shown.width if shown else 18, kind=shown.kind if shown else "text", ours=ours,
                  entered=shown is None or shown.get is None)


def _number(told: Told) -> Cell:
    return told.number


def _read(title: str) -> Get:
    """Return how the cells of a column are read; one that evidence does not hold, or that we do not know, is empty."""
    if title == "序号":
        return _number
    shown = BY_TITLE.get(title)
    return shown.get if shown is not None and shown.get is not None else lambda told: None


def write_devices(book: Book, request: Request, lines: Iterable[DeviceLine], say: Say) -> None:
    """Write a device list: those that count, sorted by class; those that do not and why; and the classes' sums."""
    proof = request.wanted.proof
    assert proof is not None
    columns = device_columns(proof)
    reads = [_read(column.title) for column in columns]
    known = list(_told(request, lines, say))
    notes = [say("forms.devices.what"), say("forms.devices.id"), say("forms.devices.times"),
             say("forms.devices.empty", columns="、".join(NOT_IN_EVIDENCE))]
    unopened = sum(not told.line.private for told in known)
    if unopened:
        notes.append(say("forms.devices.unopened", devices=unopened))
    if not proof.columns_zh:
        notes.append(say("forms.no_columns" if not request.wanted.ours else "forms.no_list_asked"))
    cover(book, request, say, notes)
    basis(book, request, say)
    for name, counted in (("forms.sheet.devices", True), ("forms.sheet.left_out", False)):
        chosen = [told for told in known if told.line.counted == counted]
        rows = ([at if get is _number else get(told) for get in reads] for at, told in enumerate(chosen, 1))
        title = say("forms.list_title", name=request.wanted.name_zh if counted else say(name), count=len(chosen))
        long_table(book, say(name), columns, rows, title=title, ours=say("forms.ours"), pages_wide=2, repeated=3,
                   theirs=say("forms.theirs") if proof.columns_zh else "")
    _classes(book, request, known, say)


def _told(request: Request, lines: Iterable[DeviceLine], say: Say) -> Iterator[Told]:
    """Yield the devices by class, then gateway and slot; a class that is not known comes last."""
    equipment = load_classification("equipment_jx_b")
    divisions = request.programme.data.divisions
    by_city, by_industry = division("city", divisions), division("industry", divisions)
    order = {key: at for at, key in enumerate(equipment.classes)}
    known = []
    for line in lines:
        found = equipment.reporting_class(line.row.equipment_class)
        known.append((order[found.key] if found else len(order), line.told.gateway, line.told.slot, found, line))
    known.sort(key=lambda one: one[:3])
    sums = Counter(found.key if found else None for *_, found, line in known if line.counted)
    names: dict[tuple[str | None, str | None], tuple[str, str]] = {}
    for number, (_, _, _, found, line) in enumerate(known, 1):
        codes = line.row.region, line.row.industry
        if codes not in names:
            names[codes] = (by_city.name_zh(by_city.of_device(codes[0])) or place(codes[0], "city") or "",
                            by_industry.name_zh(by_industry.of_device(codes[1])) or codes[1] or "")
        yield Told(
            line=line, number=number, class_1=equipment.classes[found.parent or ""].name_zh if found else "",
            class_2=found.name_zh if found else "", of_class=sums[found.key if found else None],
            place=names[codes][0], industry=names[codes][1], say=say)


def _classes(book: Book, request: Request, known: Sequence[Told], say: Say) -> None:
    """Write every class of Appendix B at level 2 with its counted devices, zeros too; the sum is the total."""
    sheet = book.sheet(say("forms.sheet.classes"), landscape=False)
    sheet.widths((26, 40, 14))
    equipment = load_classification("equipment_jx_b")
    counted = Counter(told.class_2 for told in known if told.line.counted)
    sheet.title(say("sheet.split.class"), columns=3)
    columns = (Column(title=say("forms.class_1")), Column(title=say("forms.class_2")),
               Column(title=say("printed.devices"), kind="count"))
    sheet.head(columns, freeze=True)
    for item in equipment.of_level(2):
        sheet.record(columns, (equipment.classes[item.parent or ""].name_zh, item.name_zh, counted[item.name_zh]))
    sheet.record(columns, (say("printed.no_class"), "", counted[""]))
    sheet.record(columns, (say("printed.sum"), "", sum(counted.values())), strong=True)


def write_list(book: Book, request: Request, lines: Iterable[DeviceLine], say: Say) -> None:
    """Write any list but the device list: with what evidence proves of it where it is partial, else an empty form."""
    proof = request.wanted.proof
    assert proof is not None
    if proof.key == DEVICES:
        write_devices(book, request, lines, say)
        return
    printed = [Column(title=title, width=20, entered=True, choices=CHOICES.get(title, ()))
               for title in proof.columns_zh]
    own = [Column(title=title, width=20, ours=True, entered=True) for title in OWN_COLUMNS.get(proof.key, ())]
    proven, rows = _proven(request, lines, say) if proof.producible == "partial" else ([], [])
    kind = "partial" if proven else "template"  # what we cannot fill is an empty form, whatever the data say
    columns = [*printed, *([] if printed else own), *proven]
    blank = len(columns) - len(proven)
    notes = [say(f"forms.{kind}")]
    notes += [] if proof.columns_zh else [say("forms.no_columns")]
    notes += [say("forms.open")] if proof.open else []
    notes += [say("forms.min_rows", rows=proof.min_rows)] if proof.min_rows else []
    notes += [say("forms.personal_data")] if proof.personal_data else []
    if proof.note is not None:
        notes.append(proof.note.zh if say.lang == "zh" else proof.note.en)
    cover(book, request, say, notes)
    basis(book, request, say)
    filled: list[Sequence[Cell]] = [[*[None] * blank, *row] for row in rows]
    spare = max(EMPTY_ROWS, proof.min_rows)
    filled += [[None] * len(columns)] * (spare if kind == "template" else 0)
    state = say(f"forms.state.{kind}")
    long_table(book, request.wanted.name_zh, columns, filled, title=f"{request.wanted.name_zh}{state}",
               ours=say("forms.ours"), theirs=say("forms.theirs") if printed else "")


def _proven(request: Request, lines: Iterable[DeviceLine], say: Say) -> tuple[list[Column], list[list[Cell]]]:
    """Return our columns and rows of what evidence proves: by enterprise, or by industry."""
    counted = [line for line in lines if line.counted]
    if request.wanted.key == "served_enterprise_list":
        owners: Counter[str] = Counter()
        points: Counter[str] = Counter()
        for line in counted:
            owners[line.row.uscc or "-"] += 1
            points[line.row.uscc or "-"] += line.points.total
        columns = [Column(title="统一社会信用代码", width=22, ours=True),
                   Column(title=say("forms.enterprise_devices"), kind="count", width=16, ours=True),
                   Column(title=say("forms.enterprise_points"), kind="count", width=16, ours=True)]
        return columns, [[uscc, owners[uscc], points[uscc]] for uscc in sorted(owners)]
    if request.wanted.key != "covered_industry_list":
        return [], []
    by = division("industry", request.programme.data.divisions)
    industries = Counter(by.of_device(line.row.industry) for line in counted)
    columns = [Column(title=say("forms.industry"), width=24, ours=True),
               Column(title=say("forms.enterprise_devices"), kind="count", width=16, ours=True)]
    return columns, [[by.name_zh(key) or key, industries[key]] for key in sorted(k for k in industries if k)]
