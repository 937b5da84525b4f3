"""Who has which machines in the golden case, and what is true of them. Nothing is sealed here."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from protocols.terms.uscc import check_character

CASTING, MACHINING, ELECTRONICS = "ganzhou casting", "ganzhou machining", "ganzhou electronics"
"""The three sites: two of the first enterprise, one of the second, which is registered in Shenzhen."""

FILES = ("casting.tally", "machining.tally", "electronics.tally")
CLAIMED, PROVEN, POINTS_CLAIMED = 1012, 987, 5003


def uscc(first17: str) -> str:
    """Return a credit code with its check character."""
    return first17 + check_character(first17)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enterprise:
    """One enterprise. region: where it is registered (GB/T 2260)."""

    name: str
    uscc: str
    region: str

    @property
    def k(self) -> bytes:
        """Its secret, from which tags are made."""
        return hashlib.sha256(f"K of {self.uscc}".encode()).digest()


MAKER = Enterprise(name="赣州示范压铸有限公司", uscc=uscc("91360700MA1XYRAC1"), region="360700")
SHENZHEN = Enterprise(name="深圳示范电子有限公司", uscc=uscc("91440300MA1XYRAC2"), region="440300")
LESSOR = Enterprise(name="吉安示范设备租赁有限公司", uscc=uscc("91360800MA1XYRAC3"), region="360800")
"""Forty machines of the machining shop are leased: they belong to the region of the lessor."""

OPERATORS = {CASTING: MAKER, MACHINING: MAKER, ELECTRONICS: SHENZHEN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """An asset ledger, of which the evidence holds the digest, the date and the number of rows."""

    file: str
    date: str
    rows: int
    prefix: str


LEDGERS = {MAKER.uscc: Ledger(file="ledger-casting.csv", date="2024-04-30", rows=640, prefix="GZ"),
           SHENZHEN.uscc: Ledger(file="ledger-electronics.csv", date="2024-05-06", rows=1100, prefix="SZ")}

Points = tuple[tuple[str, str, bool], ...]
"""(role, what it does, whether it shares its base with the point before). It is `changing`, `still` or `dead`."""

REAL = ("parameter", "changing", False)
SHARED = ("parameter", "changing", True)
DERIVED, CONSTANT = ("derived", "changing", False), ("constant", "still", False)
DEAD = ("parameter", "dead", False)
HEARTBEAT = ("heartbeat", "changing", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One claimed device. fate: `runs`, `dead`, `stale`, `heartbeat`, `silent` (since 11 June), `late` (only after an
    uplink was cut). change: with which roster it came, changed or went. reason: why it does not count, as the case
    means it; `retired` and `after` are no reasons of a count, for they are not in the roster at T.
    """

    number: int
    name: str
    maker: str
    model: str
    serial: str
    asset: str
    equipment_class: str | None
    industry: str
    owner: str | None
    claimed_owner: str
    region: str
    deployment: str
    energy: bool | None
    thing: str
    protocol: str
    points: Points
    parent: int | None = None
    fate: str = "runs"
    change: str | None = None
    server: str | None = None
    probed: bool = False
    attested: bool = False
    reason: str | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Machines of one model that run and count."""

    count: int
    title: str
    maker: str
    model: str
    equipment_class: str | None
    protocol: str
    points: Points
    owner: Enterprise | None = None
    energy: bool | None = True
    thing: str = "equipment"
    deployment: str | None = None
    change: str | None = None


def _points(real: int, *more: tuple[str, str, bool]) -> Points:
    return (REAL,) * real + more


FOUR, SIX = _points(4), _points(6)
COUNTED = {
    CASTING: (
        Batch(count=150, title="压铸机", maker="力劲", model="DCC800", equipment_class="foundry_machinery",
              protocol="opc_ua", points=FOUR),
        Batch(count=60, title="熔炼炉", maker="史杰克", model="MH-II", equipment_class="casting_equipment",
              protocol="modbus_tcp", points=FOUR),
        Batch(count=50, title="空压机", maker="阿特拉斯", model="GA37", equipment_class="gas_compressor",
              protocol="modbus_rtu", points=FOUR),
        Batch(count=30, title="变压器", maker="特变电工", model="SCB13",
              equipment_class="power_transformation_equipment",
              protocol="modbus_tcp", points=_points(3, DERIVED), energy=False),
        Batch(count=10, title="成品检测终端", maker="海克斯康", model="GLOBAL-S", equipment_class="measuring_gauge",
              protocol="mqtt", points=FOUR, thing="terminal"),
    ),
    MACHINING: (
        Batch(count=120, title="加工中心", maker="沈阳机床", model="VMC850",
              equipment_class="metal_cutting_machine_tool",
              protocol="opc_ua", points=FOUR),
        Batch(count=6, title="未分类加工中心", maker="沈阳机床", model="VMC850", equipment_class=None,
              protocol="opc_ua", points=_points(4, CONSTANT)),
        Batch(count=40, title="租赁码垛机器人", maker="埃斯顿", model="ER220", equipment_class="palletizing_robot",
              protocol="modbus_tcp", points=_points(3, DEAD), owner=LESSOR),
        Batch(count=50, title="立体仓库堆垛机", maker="昆船", model="KC-SRM",
              equipment_class="stereoscopic_warehouse_equipment",
              protocol="sparkplug_b", points=FOUR, deployment="dedicated"),
        Batch(count=4, title="无铭牌加工中心", maker="", model="", equipment_class="metal_cutting_machine_tool",
              protocol="modbus_tcp", points=FOUR),
    ),
    ELECTRONICS: (
        Batch(count=280, title="贴片机", maker="松下", model="NPM-D3",
              equipment_class="electronic_industry_production_equipment", protocol="opc_ua", points=SIX),
        Batch(count=100, title="包装机", maker="新美星", model="XMX-P2", equipment_class="packaging_machinery",
              protocol="mqtt", points=_points(5, CONSTANT)),
        Batch(count=47, title="废气处理设备", maker="盛剑", model="SJ-VOC",
              equipment_class="pollution_control_equipment",
              protocol="modbus_tcp", points=_points(5, SHARED, DERIVED)),
        Batch(count=20, title="新装贴片机", maker="松下", model="NPM-D3",
              equipment_class="electronic_industry_production_equipment", protocol="opc_ua", points=SIX,
              change="joined"),
        Batch(count=20, title="在网产品", maker="松下", model="NPM-D3",
              equipment_class="electronic_industry_production_equipment", protocol="mqtt", points=SIX, thing="product",
              energy=None),
    ),
}
"""Site -> what counts under the basis of Jiangxi 2024: 987 machines, 11 models, 10 classes of Appendix B at level 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """A claimed device that does not count. like: the batch it looks like; twin: (site, batch, number) it doubles."""

    why: str
    title: str
    reason: str | None
    like: int = 0
    fate: str = "runs"
    thing: str = "equipment"
    change: str | None = None
    protocol: str | None = None
    twin: tuple[str, int, int] | None = None
    children: int = 0
    server: str | None = None
    points: Points = field(default=(REAL, REAL, REAL))


DISPUTED_SERVER = "casting press 1"
NOT_COUNTED = {
    CASTING: (
        Odd(why="never answered", title="未通电压铸机1号", reason="no_valid_data", fate="dead",
            protocol="modbus_rtu_over_tcp"),
        Odd(why="never answered", title="未通电压铸机2号", reason="no_valid_data", fate="dead"),
        Odd(why="stale: its own clock is older than the rule allows", title="时钟停走的压铸机", reason="no_valid_data",
            fate="stale"),
        Odd(why="only a heartbeat", title="仅心跳空压机1号", reason="heartbeat_only", like=2, fate="heartbeat",
            points=(HEARTBEAT, HEARTBEAT, HEARTBEAT)),
        Odd(why="only a heartbeat", title="仅心跳空压机2号", reason="heartbeat_only", like=2, fate="heartbeat",
            points=(HEARTBEAT, HEARTBEAT, HEARTBEAT)),
        Odd(why="reached a second time by another protocol", title="压铸机（另一协议）", reason="duplicate_identity",
            protocol="modbus_tcp", twin=(CASTING, 0, 7)),
        Odd(why="a cell whose machines count", title="压铸岛", reason="parent_or_child", children=2),
        Odd(why="no industrial device", title="车间网关", reason="not_industrial_device", thing="infrastructure"),
        Odd(why="retired before T", title="退役压铸机", reason=None, change="retired"),
    ),
    MACHINING: (
        Odd(why="reached by two gateways", title="压铸机（装配网关接入）1号", reason="duplicate_identity",
            protocol="modbus_tcp", twin=(CASTING, 0, 11)),
        Odd(why="reached by two gateways", title="压铸机（装配网关接入）2号", reason="duplicate_identity",
            protocol="modbus_tcp", twin=(CASTING, 0, 12)),
        Odd(why="a line, and its machines count", title="装配线", reason="not_industrial_device", thing="line",
            children=3),
        Odd(why="owner missing", title="权属不明加工中心1号", reason="owner_unknown", change="owner"),
        Odd(why="owner missing", title="权属不明加工中心2号", reason="owner_unknown", change="owner"),
        Odd(why="disconnected before T", title="停机加工中心", reason="no_valid_data", fate="silent"),
        Odd(why="added after T", title="新购加工中心", reason=None, change="after"),
    ),
    ELECTRONICS: (
        Odd(why="never answered", title="未通电贴片机", reason="no_valid_data", fate="dead"),
        Odd(why="stale: its own clock is older than the rule allows", title="时钟停走的贴片机", reason="no_valid_data",
            fate="stale"),
        Odd(why="only a heartbeat", title="仅心跳包装机", reason="heartbeat_only", like=1, fate="heartbeat",
            points=(HEARTBEAT, HEARTBEAT, HEARTBEAT)),
        Odd(why="late evidence", title="当日凌晨接入的贴片机1号", reason="clock_untrusted", fate="late"),
        Odd(why="late evidence", title="当日凌晨接入的贴片机2号", reason="clock_untrusted", fate="late"),
        Odd(why="another enterprise claims the same machine", title="两家企业同报的设备", reason="duplicate_identity",
            server=DISPUTED_SERVER),
        Odd(why="no industrial device", title="车间摄像头", reason="not_industrial_device", thing="infrastructure"),
        Odd(why="a cell whose machines count", title="贴片单元", reason="parent_or_child", children=2),
        Odd(why="reached a second time by another protocol", title="贴片机（另一协议）", reason="duplicate_identity",
            protocol="mqtt", twin=(ELECTRONICS, 0, 5), points=(REAL, REAL)),
    ),
}

SERVERS = {(CASTING, 0, number): f"casting press {number}" for number in range(1, 4)}
"""(site, batch, number) -> the server key that a machine owns and answers probes with."""

ATTESTED = (CASTING, 0, 2)
INDUSTRY = {CASTING: "3670", MACHINING: "3670", ELECTRONICS: "3985"}
DEPLOYMENT = {CASTING: "private", MACHINING: "private", ELECTRONICS: "public"}


def serial_of(site: str, batch: int, number: int) -> str:
    """Return the serial number of a machine of a batch."""
    return f"{OPERATORS[site].uscc[8:17]}-{site.split()[1][:3].upper()}-{batch}-{number:04d}"


@cache
def machines(site: str) -> tuple[Machine, ...]:
    """Return the machines of a site in slot order: those that count, those that do not, those that came later."""
    result = list(_counted(site))
    base = len(result)
    odd = [*NOT_COUNTED[site]]
    # What joins later has to stand at the end: slots are never left out.
    last = [one for one in odd if one.change == "after"]
    first = [one for one in odd if one.change != "after"]
    joined = [machine for machine in result if machine.change == "joined"]
    result = [machine for machine in result if machine.change != "joined"]
    for number, one in enumerate(first):
        result.append(_odd(site, one, number))
        for _ in range(one.children):
            place = next(i for i, machine in enumerate(result)
                         if machine.fate == "runs" and machine.reason is None and machine.parent is None
                         and machine.thing == "equipment" and machine.number >= 20 and machine.change is None)
            result[place] = _with_parent(result[place], len(result) - 1)
    result += joined
    result += [_odd(site, one, len(first) + number) for number, one in enumerate(last)]
    assert len(result) == base + len(odd)
    return tuple(result)


def _with_parent(machine: Machine, parent: int) -> Machine:
    return replace(machine, parent=parent)


def _counted(site: str) -> Iterator[Machine]:
    for place, batch in enumerate(COUNTED[site]):
        owner = batch.owner or OPERATORS[site]
        for number in range(1, batch.count + 1):
            key = (site, place, number)
            yield Machine(
                number=number, name=f"{number}号{batch.title}", maker=batch.maker, model=batch.model,
                serial=serial_of(*key), asset="", equipment_class=batch.equipment_class, industry=INDUSTRY[site],
                owner=owner.uscc, claimed_owner=owner.name, region=owner.region,
                deployment=batch.deployment or DEPLOYMENT[site], energy=batch.energy, thing=batch.thing,
                protocol=batch.protocol, points=batch.points, change=batch.change, server=SERVERS.get(key),
                probed=key in SERVERS, attested=key == ATTESTED)


def _odd(site: str, one: Odd, number: int) -> Machine:
    batch, owner = COUNTED[site][one.like], OPERATORS[site]
    if one.twin is not None:
        batch = COUNTED[one.twin[0]][one.twin[1]]
    return Machine(
        number=number, name=one.title, maker=batch.maker, model=batch.model,
        serial=serial_of(*one.twin) if one.twin else f"{owner.uscc[8:17]}-X-{number:04d}", asset="",
        equipment_class=batch.equipment_class, industry=INDUSTRY[site],
        owner=None if one.change == "owner" else owner.uscc, claimed_owner=owner.name, region=owner.region,
        deployment=DEPLOYMENT[site], energy=True, thing=one.thing, protocol=one.protocol or batch.protocol,
        points=one.points, fate=one.fate, change=one.change, server=one.server, reason=one.reason, why=one.why)


def truth() -> dict[str, Any]:
    """Return what is true of the case, from the tables above alone: no evidence is read."""
    every = [(site, machine) for site in OPERATORS for machine in machines(site)]
    counted = [machine for _, machine in every if machine.why is None]
    at_t = [machine for _, machine in every if machine.change not in ("retired", "after")]
    return {
        "claimed": len(every), "configured": len(at_t), "counted": len(counted),
        "not_counted": dict(sorted(Counter(m.reason for m in at_t if m.reason).items())),
        "models": len({(m.maker, m.model) for m in counted if m.maker and m.model}),
        "points_configured": sum(len(m.points) for m in at_t),
        "points_counted": sum(points_that_count(m) for m in counted),
        "differ": [{"site": site, "name": m.name, "reason": m.reason, "why": m.why} for site, m in every
                   if m.why is not None]}


def points_that_count(machine: Machine) -> int:
    """Return the points of a counted machine that are measured, alive and not a double of another."""
    return sum(role == "parameter" and doing != "dead" and not shared for role, doing, shared in machine.points)


def ledger_csv(owner: str) -> bytes:
    """Return the asset ledger of an enterprise: what it owns, connected or not."""
    ledger = LEDGERS[owner]
    return as_csv([{"asset": f"{ledger.prefix}-{number:05d}", "kind": "工业设备"} for number in range(ledger.rows)])


def ledger_sha256(owner: str) -> str:
    """Return the digest of an asset ledger."""
    return hashlib.sha256(ledger_csv(owner)).hexdigest()


def as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows as CSV with a byte order mark, as spreadsheets want it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return b"\xef\xbb\xbf" + text.getvalue().encode()
