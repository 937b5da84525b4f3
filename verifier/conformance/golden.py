"""The golden case: two enterprises, three gateways, 1012 devices claimed on 14 June 2024, 987 proven, 25 told apart.

    python -m verifier.conformance.golden DIR

writes three bundles, the policy, ledgers, the list of claimed devices, a claim for every programme and platform type,
and `truth.json`, which says what is true. Evidence is sealed as a gateway seals it and co-signed as a register is; keys
and times are fixed, so the bytes are the same at every run. What is made here is not measured: no machine stands
behind it, which is why every assurance level above 0 has a key of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from protocols.evidence import keys
from protocols.evidence.bundle import write_bundle
from verifier.conformance import golden_plants as plants
from verifier.conformance.golden_claims import claims
from verifier.conformance.golden_plants import CASTING, ELECTRONICS, MACHINING, Machine
from verifier.conformance.servers import attest, seal_probe, server
from verifier.conformance.world import Gateway, World, device_row, key_of, point_row, private_part, public

HOUR_S, DAY_S = 3600, 86_400


def at(text: str) -> int:
    """Return POSIX seconds of a time in China."""
    return int(datetime.fromisoformat(f"{text}+08:00").timestamp())


T_S = at("2024-06-14T10:00")
FROM_S, TO_S = at("2024-05-14T08:00"), at("2024-06-14T12:00")
"""First and last instant of the evidence."""

STILL_SUNDAY = "2024-06-09"
"""No machine ran, and every gateway did: zero, proven."""

SUNDAYS = ("2024-05-19", "2024-05-26", "2024-06-02", STILL_SUNDAY)
CUT = {MACHINING: ((at("2024-05-27T12:00"), at("2024-05-30T12:00")),),
       ELECTRONICS: ((at("2024-06-14T05:30"), at("2024-06-14T11:30")),)}
"""Site -> when its uplink was cut: windows were sealed, and no head of them reached the register."""

OFF = {ELECTRONICS: (at("2024-06-04T02:00"), at("2024-06-04T06:00"))}
"""Site -> when the gateway was switched off."""

SILENT_FROM_S, LATE_FROM_S = at("2024-06-11T18:00"), at("2024-06-14T06:00")
ROSTERS = {"joined": at("2024-05-20T10:00"), "owner": at("2024-06-12T16:00"), "retired": at("2024-06-13T17:00"),
           "after": at("2024-06-14T11:00")}
"""When a roster came into force: machines added, two owners taken out, a machine retired, a machine added after T."""

PROBES_S = tuple(at(f"2024-06-{day:02d}T14:00") for day in (3, 10, 13))
"""When the gateway of the casting shop asks three servers for a signature."""


@dataclass(slots=True)
class Site:
    """One gateway with its machines: `machines[slot]`. points[slot]: (device, role, what it does)."""

    name: str
    world: World
    machines: list[Machine] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    doing: list[str] = field(default_factory=list)
    private: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[str, Any] | None = None
    in_force: set[str] = field(default_factory=set)
    columns: dict[tuple[int, str, bool, bool], dict[str, list[int]]] = field(default_factory=dict)
    gateway: Gateway = field(init=False)

    def __post_init__(self) -> None:
        owner = plants.OPERATORS[self.name]
        self.gateway = self.world.gateway(self.name, uscc=owner.uscc, k=owner.k)
        self.gateway.now_s, self.gateway.len_s = FROM_S, HOUR_S
        for machine in plants.machines(self.name):
            self._add(machine)

    def _add(self, machine: Machine) -> None:
        slot, k = len(self.machines), self.gateway.k
        private = private_part(machine.name, maker=machine.maker, model=machine.model, serial=machine.serial,
                               asset=machine.asset)
        fields: dict[str, Any] = {
            "class": machine.equipment_class, "industry": machine.industry, "uscc": machine.owner,
            "region": machine.region, "deployment": machine.deployment, "energy": machine.energy,
            "thing": machine.thing, "parent": machine.parent}
        if machine.server is not None:
            fields["server"] = server(machine.server)
            fields["dup_tags"] = [{"scheme": "spki-sha256", "tag": fields["server"]["spki_sha256"]}]
        self.machines.append(machine)
        self.private.append(private)
        self.devices.append(device_row(slot, private=private, k=k, **fields))
        for role, doing, shared in machine.points:
            number = len(self.points)
            address = f"{slot}/{number}"
            self.points.append(point_row(
                number, slot, self.gateway.id, k=k, protocol=machine.protocol, role=role, type="float32",
                address=address, base=f"{slot}/{number - 1}" if shared else address))
            self.doing.append(doing)

    def rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the rows of devices and points under the changes that are in force."""
        devices, points = [dict(row) for row in self.devices], [dict(row) for row in self.points]
        until = len(devices)
        for machine, row in zip(self.machines, devices, strict=True):
            if machine.change in ("joined", "after") and machine.change not in self.in_force:
                until = min(until, row["slot"])
            if machine.change == "owner" and "owner" not in self.in_force:
                row["uscc"] = plants.OPERATORS[self.name].uscc
            if machine.change == "retired" and "retired" in self.in_force:
                row["state"] = "gone"
                points = [p | {"state": "gone"} if p["device"] == row["slot"] else p for p in points]
        return devices[:until], [p for p in points if p["device"] < until]

    def begin(self) -> None:
        """Enrol, start, put the first roster in force."""
        self.gateway.begin()
        self._roster()
        self.seen = self.world.seen()

    def _roster(self) -> None:
        ledger = plants.LEDGERS[plants.OPERATORS[self.name].uscc]
        devices, points = self.rows()
        self.gateway.roster(devices, points, ledger={
            "sha256": plants.ledger_sha256(plants.OPERATORS[self.name].uscc), "date": ledger.date, "rows": ledger.rows})

    def step(self) -> None:
        """Seal the window that begins now, with what comes before it: roster, outage, probe."""
        now_s, gateway = self.gateway.now_s, self.gateway
        for name, from_s in ROSTERS.items():
            if from_s == now_s and any(machine.change == name for machine in self.machines):
                self.in_force.add(name)
                self._roster()
        off = OFF.get(self.name)
        if off is not None and off[0] <= now_s < off[1]:
            if now_s == off[0]:
                gateway.outage(off[1], "off")
                gateway.start()
            return
        if now_s in PROBES_S:
            for name in sorted({machine.server for machine in self.machines if machine.probed and machine.server}):
                seal_probe(gateway, name, seen=self.seen)
        gateway.window(seen=self.seen, **self._columns())

    def _columns(self) -> dict[str, list[int]]:
        """Return which devices and points do what in the window that begins now; most are like one before."""
        now_s, gateway = self.gateway.now_s, self.gateway
        day = (datetime(1970, 1, 1) + timedelta(seconds=now_s + 8 * HOUR_S)).date().isoformat()
        key = (gateway.roster_seq, day if day in SUNDAYS else "", now_s >= SILENT_FROM_S, now_s >= LATE_FROM_S)
        if key in self.columns:
            return self.columns[key]
        alive = [slot for slot, row in enumerate(gateway.devices) if row["state"] == "alive"]
        online = [slot for slot in alive if runs(self.machines[slot], now_s, day)
                  or self.machines[slot].fate in ("stale", "heartbeat")]
        there = set(online)
        live = [point for point, row in enumerate(gateway.points) if row["device"] in there]
        fresh = [point for point in live if self.doing[point] != "dead"
                 and self.machines[gateway.points[point]["device"]].fate != "stale"]
        self.columns[key] = {"connected": online, "sampled": live, "producing": fresh,
                             "changing": [point for point in fresh if self.doing[point] == "changing"]}
        return self.columns[key]


def runs(machine: Machine, start_s: int, day: str) -> bool:
    """Return whether a machine delivers data in the hour that begins at `start_s`, on this day in China."""
    if machine.fate in ("dead", "stale") or day == STILL_SUNDAY:
        return False
    if machine.fate == "silent" and start_s >= SILENT_FROM_S:
        return False
    if machine.fate == "late" and start_s < LATE_FROM_S:
        return False
    return day not in SUNDAYS or machine.number % 3 == 0  # every third machine works on Sundays


def cut(site: str, time_s: int) -> bool:
    """Return whether the uplink of a site is cut."""
    return any(start <= time_s < end for start, end in CUT.get(site, ()))


@dataclass(slots=True)
class Golden:
    """The whole case, sealed."""

    world: World
    sites: tuple[Site, ...]

    def claimed(self) -> list[dict[str, Any]]:
        """Return one row for each of the 1012 claimed devices, by gateway and slot."""
        return [{"设备ID": f"{site.gateway.id}:{slot}", "设备名称": machine.name, "生产厂商": machine.maker,
                 "型号": machine.model, "出厂编号": machine.serial, "设备所属企业": machine.claimed_owner,
                 "接入网关": site.name}
                for site in self.sites for slot, machine in enumerate(site.machines)]

    def members(self, site: Site) -> dict[str, bytes]:
        """Return the members of the bundle of one site; every device is opened for the auditor."""
        newest = len(site.gateway.devices)
        return site.gateway.members() | {
            f"openings/{slot}.json": site.gateway.opening(slot, site.private[slot]) for slot in range(newest)}

    def write(self, folder: Path) -> None:
        """Write the bundles, the policy, the lists, and the key of an assessor who may visit."""
        folder.mkdir(parents=True, exist_ok=True)
        for site, name in zip(self.sites, plants.FILES, strict=True):
            write_bundle(folder / name, self.members(site))
        (folder / "policy.json").write_bytes(self.world.policy_json(assessors=[public("assessor").hex()]))
        (folder / "assessor.pem").unlink(missing_ok=True)
        keys.save(key_of("assessor"), folder / "assessor.pem")
        (folder / "devices.csv").write_bytes(plants.as_csv(self.claimed()))
        for uscc, ledger in plants.LEDGERS.items():
            (folder / ledger.file).write_bytes(plants.ledger_csv(uscc))
            (folder / "claims").mkdir(exist_ok=True)
            (folder / "claims" / ledger.file).write_bytes(plants.ledger_csv(uscc))
        for claim in claims():
            (folder / claim.name).write_text(claim.text, encoding="utf-8")
        (folder / "truth.json").write_text(json.dumps(plants.truth(), ensure_ascii=False, indent=2, sort_keys=True)
                                           + "\n", encoding="utf-8")


def seal(progress: Callable[[str], None] = lambda _: None) -> Golden:
    """Seal a month: every hour each gateway closes a window, and the register takes the heads that reach it."""
    world = World(time_s=FROM_S - 120)
    sites = tuple(Site(name, world) for name in (CASTING, MACHINING, ELECTRONICS))
    world.round(time_s=FROM_S - 60, heads=False)
    for site in sites:
        site.begin()
    for now_s in range(FROM_S, TO_S, HOUR_S):
        for site in sites:
            if site.gateway.now_s == now_s or OFF.get(site.name, (0, 0))[0] == now_s:
                site.step()
        if now_s == ROSTERS["joined"]:
            pressing = sites[0]
            slot = next(i for i, machine in enumerate(pressing.machines) if machine.attested)
            attest(world, pressing.gateway, slot, str(pressing.machines[slot].server))
        for site in sites:
            end_s = now_s + HOUR_S
            if site.gateway.entries and not cut(site.name, end_s):
                world.add({"type": "head", "gateway": site.gateway.id, "size": len(site.gateway.entries),
                           "root": site.gateway.tree.root().hex()}, site.gateway.uscc)
        world.round(time_s=now_s + HOUR_S + 30, heads=False)
        for site in sites:
            if not cut(site.name, now_s + HOUR_S):
                site.seen = world.seen()
        if (now_s + 9 * HOUR_S) % DAY_S == 0:  # midnight in China
            progress((datetime(1970, 1, 1) + timedelta(seconds=now_s + 8 * HOUR_S)).date().isoformat())
    return Golden(world, sites)


def main() -> int:
    """Write the golden case to the folder that is named."""
    if len(sys.argv) != 2:
        print("usage: python -m verifier.conformance.golden DIR", file=sys.stderr)
        return 2
    seal(lambda day: print(f"sealed {day}", file=sys.stderr)).write(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
