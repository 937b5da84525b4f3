"""docs/sampling.md: every command of its walk-through is run on a made plant, and prints what the page says."""

from __future__ import annotations

import json
from pathlib import Path

from protocols.evidence import keys
from protocols.evidence.policy import parse
from tests.questions.scenes import at, opened_at, write_visit
from tests.support.page import check
from tests.support.plant_fixture import Plant
from tests.support.source import ROOT
from verifier.conformance import servers, visits
from verifier.conformance.world import key_of, public

PAGE = ROOT / "docs" / "sampling.md"
ANNOUNCED = "2026-11-20T09:00"
ATTESTED = ("press", "lathe", "mill")
GONE, LOCKED = 3, 11
"""Places in the draw."""


def plant_of(folder: Path) -> Plant:
    """200 devices, three of them with attested server keys; windows of five minutes until three hours after T."""
    plant = opened_at(folder, "plant S", "2026-11-19T20:00")
    nothing = {"spki_sha256": None, "via": None}
    for slot in range(200):
        name = ATTESTED[slot] if slot < len(ATTESTED) else None
        plant.device(server=servers.server(name) if name else nothing, protocol="opc_ua" if name else "modbus_tcp",
                     opened=slot < 20, title=f"{slot + 1}号设备", serial=f"S-{slot:03d}")
    plant.begin()
    for slot, name in enumerate(ATTESTED):
        servers.attest(plant.world, plant.gateway, slot, name)
    visits.announce(plant.gateway, at(ANNOUNCED))
    while plant.gateway.now_s < at("2026-11-20T12:00"):
        if plant.gateway.now_s % 3600 == 0 and plant.world.seen() is not None:
            for name in ATTESTED:
                servers.seal_probe(plant.gateway, name)
        plant.windows(1)
        if plant.gateway.now_s % 600 == 0:
            plant.cosign(delay_s=30)
    plant.write("plant.tally")
    (folder / "policy.json").write_bytes(plant.world.policy_json(assessors=[public("assessor").hex()]))
    for name in ("assessor", "auditor"):
        keys.save(key_of(name), folder / f"{name}.pem")
    return plant


def visited(folder: Path, plant: Plant) -> None:
    """Write what the assessor filled in, for the draw that the page draws."""
    policy = (folder / "policy.json").read_bytes()
    assert parse(policy, where="policy").assessors
    drawn = visits.honest_draw([plant.gateway.members()], policy, at(ANNOUNCED), at_least_permille=900,
                               strata_by="protocol", label=lambda device: ",".join(
                                   "modbus" if p.startswith("modbus") else p for p in device.protocols))
    write_visit(folder / "visit.csv", drawn, lambda place, _: {
        GONE: ("不符", "位置空置"), LOCKED: ("无法核实", "车间上锁")}.get(place, ("相符", "")))


def test_the_walk_through_prints_what_the_page_says(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    plant = plant_of(folder)
    visited(folder, plant)
    check(PAGE, "<!-- walk-through -->", "<!-- end -->", folder=folder, programs=tmp_path / "programs",
          allowed=("head", "grep", "sed", "cat"))
    posted = json.loads((folder / "announcement.json").read_bytes())["statement"]
    registered = [e["demand"] for e in map(json.loads, plant.world.entries) if e["type"] == "demand"]
    assert registered == [posted], "the page posts what the register has"
    findings = json.loads((folder / "findings.json").read_bytes())
    assert {a["result"] for a in findings["answers"]} == {"match", "mismatch", "unverified"}
