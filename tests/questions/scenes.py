"""Plants and what became of them, with fixed keys and times, so that docs/questions.md can show what commands print.

Each scene writes its files into a folder; the registers, witnesses and gateways of `verifier.conformance.world` made
them. Times are those of plant X in June 2024, and of a theft in May.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from protocols.evidence import keys, signed
from protocols.evidence.bundle import write_bundle
from protocols.evidence.roster import NOT_IN_ROSTER
from tests.support import golden as golden_case
from tests.support.plant_fixture import Plant
from verifier.conformance import servers, visits
from verifier.conformance.world import Gateway, World, key_of, public

MACHINES = (("加工中心", "沈阳机床", "VMC850", "metal_cutting_machine_tool"),
            ("压铸机", "力劲", "DCC400", "foundry_machinery"), ("空压机", "阿特拉斯", "GA37", "gas_compressor"),
            ("冲床", "扬力", "JH21-160", "forging_pressing_machinery"))
HEARTBEAT, DEAD, TWICE = 21, 30, 38
"""Slots of plant X that do not count: only a heartbeat, silent, and the machine of slot 2 reached a second time."""

FIVE_MINUTES_S = 300


def at(text: str) -> int:
    """Return POSIX seconds of a time in China."""
    return int(datetime.fromisoformat(f"{text}+08:00").timestamp())


def run_to(plant: Plant, end_s: int, *, cosign: bool = True) -> None:
    """Seal windows up to `end_s`; every ten minutes the register takes the head and is co-signed."""
    while plant.gateway.now_s < end_s:
        plant.windows(1)
        if cosign and plant.gateway.now_s % 600 == 0:
            plant.cosign(delay_s=30)


def opened_at(folder: Path, name: str, start: str, world: World | None = None) -> Plant:
    """Return a plant whose gateway enrols at `start` and seals windows of five minutes."""
    plant = Plant(folder, world=world or World(time_s=at(start) - 60), name=name)
    plant.gateway.now_s, plant.gateway.len_s = at(start), FIVE_MINUTES_S
    return plant


def plant_x(folder: Path) -> None:
    """Questions 1, 4, 16, 19 and 20: 40 devices, 37 of them counted on 14 June 2024 at 10:00."""
    plant = opened_at(folder, "plant X", "2024-06-13T08:00")
    for slot in range(40):
        title, maker, model, kind = MACHINES[slot % len(MACHINES)]
        number = slot // len(MACHINES) + 1
        plant.device(points=2, opened=True, role="heartbeat" if slot == HEARTBEAT else "parameter",
                     silent=slot == DEAD, title=f"{number}号{title}", maker=maker, model=model,
                     serial="X-002" if slot == TWICE else f"X-{slot:03d}", **{"class": kind})
    plant.begin()
    run_to(plant, at("2024-06-14T10:30"))
    plant.write("plant-x.tally")
    plant.policy()
    (folder / "anchor.proof").write_bytes(plant.world.proof(max(
        int(name.split("/")[1].split(".")[0]) for name in plant.world.proofs_for(plant.gateway))))
    _edited(plant)
    _rebuilt(plant)
    _back_dated(folder)


def _edited(plant: Plant) -> None:
    """One window of yesterday changed in the file."""
    members = plant.gateway.members()
    path = next(name for name in members if name.startswith("tile/entries/000"))
    members[path] = members[path].replace(b'"counted":', b'"counted":9', 1) if b'"counted":0' in members[path] else \
        members[path].replace(b'"offset_ms":3', b'"offset_ms":4', 1)
    write_bundle(plant.folder / "edited.tally", members)


def _rebuilt(plant: Plant) -> None:
    """Yesterday written anew, signed with the gateway's own key: the dead machine runs. The register is not his."""
    forged = _forged(plant, "2024-06-13T08:00")
    while len(forged.entries) < len(plant.gateway.entries):
        forged.window()
    _write_forged(plant, forged, "rebuilt.tally")


def _forged(plant: Plant, start: str) -> Gateway:
    """Return another history of the same gateway, begun at the same time with the same key."""
    forged = Gateway(plant.world, plant.name, plant.gateway.uscc, {})
    forged.now_s, forged.len_s = at(start), FIVE_MINUTES_S
    forged.begin()
    forged.roster(plant.devices, plant.points)
    return forged


def _write_forged(plant: Plant, forged: Gateway, name: str) -> None:
    """Write a bundle of the forged history beside the proofs of the true one."""
    proofs = {name: data for name, data in plant.gateway.members().items() if name.startswith("register/")}
    write_bundle(plant.folder / name, forged.members() | proofs)


def _back_dated(folder: Path) -> None:
    """A gateway set up on 20 June that claims the windows of 14 June."""
    plant = opened_at(folder, "late comer", "2024-06-20T09:00")
    for _ in range(40):
        plant.device()
    plant.begin()
    plant.gateway.now_s = at("2024-06-14T09:00")
    plant.windows(12)
    plant.world.round(time_s=at("2024-06-20T09:05"))
    plant.write("back-dated.tally")
    (folder / "late-comer.json").write_bytes(plant.world.policy_json())


def uplink_cut(folder: Path) -> None:
    """Question 15: the uplink is cut for three days; another gateway is switched off for the same time."""
    for name, seals in (("cut", True), ("off", False)):
        plant = opened_at(folder, f"uplink {name}", "2024-06-09T08:00")
        for _ in range(4):
            plant.device(points=2)
        plant.begin()
        run_to(plant, at("2024-06-10T12:00"))
        if seals:
            run_to(plant, at("2024-06-13T12:00"), cosign=False)
        else:
            plant.gateway.outage(at("2024-06-13T12:00"), "off")
            plant.gateway.start()
        plant.cosign(delay_s=30)
        run_to(plant, at("2024-06-13T14:00"))
        plant.write(f"{name}.tally")
        (folder / f"{name}.json").write_bytes(plant.world.policy_json())
        if not seals:
            _filled(plant)


def _filled(plant: Plant) -> None:
    """The outage replaced by windows that nobody collected, signed with the gateway's own key."""
    forged = _forged(plant, "2024-06-09T08:00")
    while forged.now_s < at("2024-06-13T14:00"):
        forged.window()
    _write_forged(plant, forged, "filled.tally")


def stolen_key(folder: Path) -> None:
    """Question 17: the key is copied on 1 May at 09:00; on 3 May the enterprise revokes from that size."""
    plant = opened_at(folder, "stolen", "2024-04-29T08:00")
    for _ in range(4):
        plant.device(points=2)
    plant.begin()
    run_to(plant, at("2024-05-01T09:00"))
    size = len(plant.gateway.entries)
    run_to(plant, at("2024-05-03T09:00"))  # who sealed these, the gateway or the thief, nobody can tell
    revocation = signed.sign("revocation", {
        "gateway": plant.gateway.id, "gateway_key": public(plant.name).hex(), "from_size": size},
        key_of(f"recovery {plant.name}"))
    plant.world.add({"type": "revoke", "revocation": revocation}, plant.gateway.uscc)
    plant.world.round(time_s=at("2024-05-03T09:10"))
    plant.write("stolen.tally")
    plant.policy()


def golden(folder: Path) -> None:
    """Questions 2, 3 and 5 to 14: 1012 devices claimed, 987 proven."""
    shutil.copytree(golden_case.folder(), folder, dirs_exist_ok=True)


def simulator(folder: Path) -> None:
    """Question 18: 200 machines behind one server that came two days before T, and went the day after it."""
    plant = opened_at(folder, "plant V", "2024-06-12T08:00")
    plant.gateway.len_s = 3600
    behind = servers.server("plant V", via=NOT_IN_ROSTER)
    for slot in range(200):
        title, maker, model, kind = MACHINES[slot % len(MACHINES)]
        plant.device(server=behind, protocol="opc_ua", opened=True, title=f"{slot + 1}号{title}", maker=maker,
                     model=model, serial=f"V-{slot:03d}", **{"class": kind})
    plant.begin()
    while plant.gateway.now_s < at("2024-06-24T12:00"):
        if plant.gateway.now_s in (at("2024-06-12T14:00"), at("2024-06-13T14:00")):
            servers.seal_probe(plant.gateway, "plant V")
        there: dict[str, tuple[int, ...]] = {} if plant.gateway.now_s < at("2024-06-15T18:00") else {
            "connected": (), "sampled": (), "producing": ()}
        plant.gateway.window(**there)
        plant.cosign(delay_s=30)
    plant.write("plant-v.tally")
    policy = plant.world.policy_json(assessors=[public("assessor").hex()])
    (folder / "policy.json").write_bytes(policy)
    keys.save(key_of("assessor"), folder / "assessor.pem")
    drawn = visits.honest_draw([plant.gateway.members()], policy, at("2024-06-14T10:00"))
    write_visit(folder / "visit.csv", drawn, lambda place, _: ("不符", "此处没有这台设备"))


def golden_visited(folder: Path) -> None:
    """Question 21: an assessor drew from the 987 and went there. One machine has no nameplate."""
    golden(folder)
    done = golden_case.server().run([
        "sample", *(folder / name for name in golden_case.BUNDLES), "--policy", folder / "policy.json", "--announced",
        golden_case.T, "--at-least", "90", "--programme", "jiangxi_2024", "-o", folder / "draw.json"])
    assert done.returncode == 0, done.stderr
    drawn = json.loads((folder / "draw.json").read_bytes())["draw"]
    (folder / "draw.json").unlink()
    unnamed = {(site.gateway.id, slot) for site in golden_case.case().sites
               for slot, machine in enumerate(site.machines) if not machine.maker}
    write_visit(folder / "visit.csv", drawn, lambda place, device: ("无法核实", "无铭牌") if (
        device["gateway"], device["slot"]) in unnamed else ("相符", ""))


def write_visit(path: Path, drawn: Mapping[str, Any],
                told: Callable[[int, Mapping[str, Any]], tuple[str, str]]) -> None:
    """Write what an assessor filled in. told: place in the draw and its device -> result and note."""
    began = datetime.fromtimestamp(drawn["cosignature"]["time_s"], UTC) + timedelta(hours=5)
    lines = ["gateway,slot,result,at,note"]
    for place, device in enumerate(drawn["devices"]):
        when = began + timedelta(minutes=4 * place)
        lines.append(",".join((device["gateway"][:8], str(device["slot"]), told(place, device)[0], when.isoformat(),
                               told(place, device)[1])))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


SCENES: dict[str, Callable[[Path], None]] = {
    scene.__name__.replace("_", "-"): scene
    for scene in (plant_x, uplink_cut, stolen_key, simulator, golden, golden_visited)}
