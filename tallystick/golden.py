"""`tallystick demo --golden`: the golden case from the wire to the audit. Starts processes, nothing else.

Two enterprises and three sites: simulated plants (simulators/golden), a gateway and a ledger for each, a platform with
an independent witness. 1012 devices are claimed; 25 of them do not count, each for a reason that stands in TRICKS or
in the truth file of its plant. The claim is audited, and the audit must name just these, with these reasons.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from importlib import resources
from pathlib import Path
from typing import Any

from protocols.terms.say import Say
from tallystick.stage import Stage, StageError, ended_cleanly, indented

CLAIMED, PROVEN = 1012, 987
WINDOW_S = 5
PROGRAMME, TYPE = "jiangxi_2024", "comprehensive"
CASTING, MACHINING, ELECTRONICS, PRESS = "casting", "machining", "electronics", "press"
SITES = (CASTING, MACHINING, ELECTRONICS)
PLANTS = (*SITES, PRESS)
PRODUCTS = ("casting.tally", "machining.tally", "electronics.tally", "policy.json", "claim.toml", "devices.csv",
            "truth.json", "audit.json", "report.html")
COUNTED = "counted"
ZONE = timezone(timedelta(hours=8))

Row = dict[str, str]
Truth = dict[str, tuple[str, str | None]]
"""Device id -> (state, reason), as the audit's list of claimed devices tells them: ("counted", None) if it counts."""


@dataclass(slots=True)
class Ledger:
    """What the engineers of a site wrote: devices, points and connections; and what is true of each device."""

    name: str
    folder: Path
    ends: dict[str, Any]
    devices: list[Row]
    points: list[Row]
    connections: str
    truth: Truth
    taken: set[str] = field(default_factory=set)

    @classmethod
    def of_plant(cls, name: str, folder: Path) -> Ledger:
        """Read what a running plant has written."""
        body = json.loads((folder / "plant.json").read_text(encoding="utf-8"))
        return cls(name=name, folder=folder, ends=json.loads((folder / "endpoints.json").read_text(encoding="utf-8")),
                   devices=_read(folder / "devices.csv"), points=_read(folder / "points.csv"),
                   connections=(folder / "connections.toml").read_text(encoding="utf-8"),
                   truth={one["id"]: (COUNTED, None) if one["expected"] == COUNTED else
                          ("not_counted", one["expected"]) for one in body["each"]})

    def row(self, id_: str) -> Row:
        """Return the row of a device."""
        return next(row for row in self.devices if row["id"] == id_)

    def of_device(self, id_: str) -> list[Row]:
        """Return the points of a device."""
        return [row for row in self.points if row["device"] == id_]

    def pick(self, connection: str, number: int) -> list[str]:
        """Return machines of a connection that count, each its own and with no part in another story yet."""
        serials = [row["serial"] for row in self.devices]
        found = [row["id"] for row in self.devices
                 if row["connection"].startswith(connection) and self.truth[row["id"]] == (COUNTED, None)
                 and row["id"] not in self.taken and serials.count(row["serial"]) == 1][:number]
        self.taken.update(found)
        return found

    def says(self, id_: str, reason: str | None, *, state: str = "not_counted", **fields: str) -> None:
        """Write fields of a device's row; `reason` is why it does not count."""
        self.row(id_).update(fields)
        self.taken.add(id_)
        self.truth[id_] = (state, reason)

    def reach(self, other: Ledger, id_: str, new_id: str, connection: str, *, name: str) -> None:
        """List a machine of another plant, reached over a connection of one's own."""
        self.devices.append(other.row(id_) | {"id": new_id, "connection": connection, "name": name,
                                              "uscc": self.devices[0]["uscc"], "region": self.devices[0]["region"]})
        self.points += [row | {"device": new_id} for row in other.of_device(id_)]
        self.truth[new_id] = (COUNTED, None)

    def write(self, folder: Path, *, without: Iterable[str] = ()) -> None:
        """Write devices.csv and points.csv of a gateway, some devices left out."""
        left = set(without)
        _write(folder / "devices.csv", [row for row in self.devices if row["id"] not in left])
        _write(folder / "points.csv", [row for row in self.points if row["device"] not in left])


@dataclass(slots=True)
class Site:
    """One gateway. after: listed on the claim, and in the roster only after T. gone: out of it before T."""

    ledger: Ledger
    config: Path
    after: list[str]
    gone: list[str]
    gateway: str = ""

    @property
    def name(self) -> str:
        """Name of the site."""
        return self.ledger.name

    def status(self) -> dict[str, Any]:
        """Return what the gateway last told of itself, nothing before it did."""
        with suppress(OSError, ValueError):
            body: dict[str, Any] = json.loads((self.config.parent / "state" / "status.json").read_text("utf-8"))
            return body
        return {}

    def alone(self) -> int:
        """Return how many devices the gateway should count, which cannot know what others reach."""
        return sum(1 for id_, (state, reason) in self.ledger.truth.items() if id_ not in self.after and (
            state in (COUNTED, "gone") or (reason == "duplicate_identity" and id_ in self.ledger.taken)))

    def claimed(self) -> Iterator[tuple[str, str, str]]:
        """Yield (device as GATEWAY:SLOT, id, name) of every claimed device: slots follow the ledger's order."""
        first = [row for row in self.ledger.devices if row["id"] not in self.after]
        later = [row for row in self.ledger.devices if row["id"] in self.after]
        for slot, row in enumerate([*first, *later]):
            yield f"{self.gateway}:{slot}", row["id"], row["name"]


def play(casting: Ledger, machining: Ledger, electronics: Ledger, press: Ledger) -> tuple[list[str], list[str]]:
    """Write into the ledgers what makes 25 of 1012 claimed devices no devices that count, beside what the plants do.

    Returns: the device that is retired before T, and the one that comes after it.
    """
    own = next(iter(press.truth))
    for one, name in ((casting, "自带服务器的设备"), (electronics, "两家企业同报的设备")):
        one.connections += "\n" + press.connections.replace('name = "machines"', 'name = "press"')
        one.reach(press, own, "press-x", "press", name=name)
    electronics.says("press-x", "duplicate_identity")

    # One enterprise runs the first two sites; each shop numbers its assets for itself.
    for row in machining.devices:
        row.update(uscc=casting.ends["uscc"], region=casting.devices[0]["region"], asset=f"J{row['asset']}")
    line = casting.ends["modbus"]["utilities-a"]
    machining.connections += ('\n[[connections]]\nname = "casting-line"\nprotocol = "modbus_tcp"\n'
                              f'endpoint = "{line}"\npoll_s = 1.0\ntimeout_s = 0.5\n')
    for number, id_ in enumerate(casting.pick("utilities-a", 2), start=1):
        machining.reach(casting, id_, f"twin-{number}", "casting-line", name=f"装配网关接入的设备{number}号")
        machining.says(f"twin-{number}", "duplicate_identity")

    for one, camera in ((casting, "车间网关"), (electronics, "车间摄像头")):
        id_, = one.pick("utilities-b", 1)
        one.says(id_, "not_industrial_device", thing="infrastructure", name=camera)
        cell, *inside = one.pick("machines", 3)
        one.says(cell, "parent_or_child", name="生产单元")
        for child in inside:
            one.row(child)["parent"] = cell
    head, *inside = machining.pick("machines", 4)
    machining.says(head, "not_industrial_device", thing="line", name="装配线")
    for child in inside:
        machining.row(child)["parent"] = head
    for id_ in machining.pick("sensors", 2):
        machining.says(id_, "owner_unknown", uscc="", name=f"权属不明的{machining.row(id_)['name']}")
    for one, id_ in ((machining, "crane-01"), (electronics, "pack-01")):  # as the faults of their plants say
        one.says(id_, "no_valid_data", name=f"时钟停走的{one.row(id_)['name']}")
    gone, after = casting.pick("utilities-b", 1), machining.pick("utilities-b", 1)
    casting.says(gone[0], None, state="gone", name="退役设备")
    machining.says(after[0], None, state="later", name="新购设备")
    return gone, after


class Golden(Stage):
    """One run below one folder."""

    def __init__(self, out: Path, say: Say) -> None:
        super().__init__(out, say)
        for old in PRODUCTS:
            (out / old).unlink(missing_ok=True)

    def run(self) -> int:
        """All steps in order. 0 when the audit names just the devices that do not count, each with its reason."""
        self.tell("golden.plants")
        ledgers = self._plants()
        self.tell("golden.services")
        self.services()
        gone, after = play(*ledgers)
        sites = [Site(ledger, self.work / ledger.name / "gateway.toml", after if ledger.name == MACHINING else [],
                      gone if ledger.name == CASTING else []) for ledger in ledgers[:3]]
        self._write_truth(sites)
        self.tell("golden.gateways")
        for site in sites:
            self._commission(site, sites[0])
        at_s = self._collect(sites)
        self.tell("golden.audit", at=_shown(at_s))
        audit = self._audit(sites, at_s)
        wrong = self._compare(sites, audit)
        for line in wrong:
            self.tell("golden.differs", what=line)
        if not wrong:
            self.tell("golden.agrees", claimed=CLAIMED, proven=PROVEN, differ=CLAIMED - PROVEN)
        self.tell("golden.done", seconds=round(self.seconds), out=self.out)
        return 1 if wrong else 0

    def _plants(self) -> list[Ledger]:
        """Start the four plants; return their ledgers."""
        for name in PLANTS:
            file = self.work / f"{name}.toml"
            file.write_bytes(resources.files("simulators.golden").joinpath(f"{name}.toml").read_bytes())
            self.tallystick(name, "simulate", file, "--out", self.work / f"plant-{name}")
        for name in PLANTS:
            self.ready(name, (self.work / f"plant-{name}" / "endpoints.json").exists)
        return [Ledger.of_plant(name, self.work / f"plant-{name}") for name in PLANTS]

    def _write_truth(self, sites: Sequence[Site]) -> None:
        """Write down what is true, before any gateway has counted."""
        every = [(site, row) for site in sites for row in site.ledger.devices]
        differ = [{"site": site.name, "id": row["id"], "name": row["name"], "state": state, "reason": reason}
                  for site, row in every for state, reason in (site.ledger.truth[row["id"]],) if state != COUNTED]
        (self.out / "truth.json").write_text(json.dumps(
            {"claimed": len(every), "counted": len(every) - len(differ), "differ": differ},
            ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def _commission(self, site: Site, first: Site) -> None:
        """Give a gateway its keys, its ledger and a place in the register, and start it."""
        ledger, folder = site.ledger, site.config.parent
        uscc = ledger.devices[0]["uscc"]
        options: list[str | Path] = []
        if site.name == MACHINING:  # one enterprise, one K: else a machine that both reach would count twice
            options = ["--k-file", first.config.parent / "state" / "keys" / "enterprise.key"]
        self.command(f"init-{site.name}", "init", folder, *options)
        ledger.write(folder, without=site.after)
        connections = ledger.connections.replace("poll_s = 1.0", "poll_s = 2.0")
        site.config.write_text(
            f'[gateway]\nsite = "{site.name}"\nuscc = "{uscc}"\nledger_date = 2026-11-01\n'
            f'[window]\nlen_s = {WINDOW_S}\ngrace_ms = 1000\n'
            f'[platform]\nurl = "{self.platform_url}"\nregister_poll_s = 1.0\n{connections}', encoding="utf-8")
        token = self.command(f"token-{site.name}", "platform", "token", self.platform, "--uscc", uscc,
                             "--site", site.name).strip()
        self.command(f"enrol-{site.name}", "enrol", site.config, "--token", token)
        self.tallystick(f"gateway-{site.name}", "run", site.config)

    def _collect(self, sites: Sequence[Site]) -> int:
        """Let windows pass, change two ledgers around T, and wait until all is co-signed. Returns T."""
        casting, machining, _ = sites
        for site in sites:
            self._until(site, lambda status, wanted: int(status["devices"]["counted"]) >= wanted, site.alone())
            site.gateway = site.status()["gateway"]
            self.tell("golden.counts", site=site.name, counted=site.status()["devices"]["counted"],
                      configured=site.status()["devices"]["configured"])
        casting.ledger.write(casting.config.parent, without=casting.gone)
        self._reload(casting, len(casting.ledger.devices) - len(casting.gone))
        at_s = max(_end_s(site.status()) for site in sites)
        for site in sites:
            self._until(site, lambda status, wanted: _end_s(status) >= wanted, at_s)
        machining.ledger.write(machining.config.parent)
        self._reload(machining, len(machining.ledger.devices))
        for site in sites:
            self._until(site, lambda status, wanted: (status["log"]["proven"] or 0) >= wanted,
                        int(site.status()["log"]["size"]))
        for site in sites:
            self.stop(f"gateway-{site.name}")
        return at_s

    def _reload(self, site: Site, configured: int) -> None:
        """Have a gateway take its new ledger over, and wait until a window is sealed under it."""
        self.tell("golden.reload", site=site.name, configured=configured)
        self.command(f"reload-{site.name}", "reload", site.config)
        self._until(site, lambda status, wanted: status["devices"]["configured"] == wanted, configured)

    def _until(self, site: Site, look: Callable[[dict[str, Any], int], bool], wanted: int) -> None:
        """Wait until the status of a gateway is as wanted."""
        try:
            self.ready(f"gateway-{site.name}", lambda: bool(status := site.status()) and look(status, wanted))
        except StageError as error:
            told = site.status().get("devices", {})
            raise StageError(self.say("golden.not_there", reason=error, counted=told.get("counted", "?"),
                                      configured=told.get("configured", "?"), wanted=site.alone())) from None

    def _audit(self, sites: Sequence[Site], at_s: int) -> dict[str, Any]:
        """Export the evidence, claim everything and have the claim audited."""
        bundles = [self.out / f"{site.name}.tally" for site in sites]
        for site, bundle in zip(sites, bundles, strict=True):
            self.command(f"bundle-{site.name}", "bundle", site.config, "--open", "all", "-o", bundle)
        claim, listed = self.out / "claim.toml", self.out / "devices.csv"
        owner = sites[0].ledger
        claim.write_text(
            f'[claim]\nprogramme = "{PROGRAMME}"\ntype = "{TYPE}"\nat = {_shown(at_s)}\nbranch = "discrete"\n'
            f'[claim.enterprise]\nname = "{owner.ends["owner"]}"\nuscc = "{owner.ends["uscc"]}"\n'
            f"[metrics]\ndevice_connected_count = {CLAIMED}\n", encoding="utf-8")
        _write(listed, [{"设备ID": device, "设备名称": name} for site in sites for device, _, name in site.claimed()])
        text = self.command("audit", "audit", claim, "--programme", PROGRAMME, "--type", TYPE, *bundles, "--policy",
                            self.out / "policy.json", "--devices", listed, "--json", "--report",
                            self.out / "report.html", may_fail=True)
        (self.out / "audit.json").write_text(text, encoding="utf-8")
        result: dict[str, Any] = json.loads(text)
        print(indented("\n".join(f"{one['id']} {one['name']}: {one['state']} {one['reason'] or ''}".rstrip()
                                 for one in result["claimed_list"]["only_in_list"])))
        return result

    def _compare(self, sites: Sequence[Site], audit: Mapping[str, Any]) -> list[str]:
        """Return every difference between the audit and the truth."""
        names = {device: (site, id_) for site in sites for device, id_, _ in site.claimed()}
        return differences({device: site.ledger.truth[id_] for device, (site, id_) in names.items()}, audit)


def differences(true: Mapping[str, tuple[str, str | None]], audit: Mapping[str, Any]) -> list[str]:
    """Return what of `audit --json` is not what is true, as text; empty when all agree.

    Args:
        true: device as GATEWAY:SLOT -> (state, reason), ("counted", None) if it counts.
    """
    told, metrics = audit["claimed_list"], {item["key"]: item for item in audit["metrics"]}
    connected = metrics["device_connected_count"]
    found = {one["id"]: (one["state"], one["reason"]) for one in told["only_in_list"]}
    expected = {device: what for device, what in true.items() if what[0] != COUNTED}
    wrong = [f"{device}: {found.get(device, COUNTED)} / {expected.get(device, COUNTED)}"
             for device in sorted(found.keys() | expected.keys()) if found.get(device) != expected.get(device)]
    counted = sum(state == COUNTED for state, _ in true.values())
    pairs = {"verdict": (audit["verdict"], "does_not_hold"), "claimed": (connected["claimed"], len(true)),
             "proven": (connected["proven"], counted), "matched": (told["matched"], counted),
             "the case": ((len(true), counted), (CLAIMED, PROVEN)), "only in evidence": (told["only_in_evidence"], [])}
    return wrong + [f"{name}: {ours} / {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]


def golden_command(out: Path, say: Say) -> int:
    """Run it below a folder. 0 when the audit and the truth agree, else 1."""
    golden = Golden(out, say)
    with ended_cleanly(golden):
        try:
            return golden.run()
        except StageError as error:
            print(say("demo.failed", reason=error, logs=golden.logs), file=sys.stderr)
            return 1


def _end_s(status: Mapping[str, Any]) -> int:
    return int(status["window"]["start_s"]) + WINDOW_S


def _shown(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, ZONE).isoformat()


def _read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
