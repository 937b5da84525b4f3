"""Every fault that a simulated plant can play, before the driver it is meant for: data goes on, and nothing is lost.

After each one: sent = handed over + discarded, to the last sample. What all protocols have in common is in
test_every_driver.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from simulators.kinds import SHOWN
from tests.compliance.driver_bench import Bench, be_impatient, collecting

IN_EVERY_LIFE = {"lose", "refuse", "restart", "slow", "truncate", "garbage", "flood", "clock"}
PLAYED = {
    "modbus_tcp": ("late", "twice", "cut", "other_unit", "other_transaction", "silent", "close", "busy", "dead"),
    "modbus_rtu_over_tcp": ("other_unit",),
    "opc_ua_subscription": ("bad_node", "dead", "stall"),
    "mqtt": ("unreadable", "retained", "twice", "reorder", "gap", "dead"),
    "sparkplug_b": ("unreadable", "retained", "twice", "reorder", "gap", "missing_birth", "historical", "death",
                    "dead")}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_impatient(monkeypatch)


def test_every_kind_is_played_before_a_driver() -> None:
    assert IN_EVERY_LIFE | {kind for kinds in PLAYED.values() for kind in kinds} == set(SHOWN)


@pytest.mark.parametrize("case", PLAYED)
async def test_every_fault_of(case: str, tmp_path: Path) -> None:
    async with Bench(case, tmp_path).running() as bench, collecting(bench.driver()):
        await bench.fresh("connect")
        for kind in PLAYED[case]:
            await play(bench, kind)
            await bench.fresh(kind)
            await bench.settled(kind)
        assert not bench.plant.writes


async def play(bench: Bench, kind: str) -> None:
    """Play one kind until it shows."""
    tally, plant = bench.tally, bench.plant
    device = bench.devices[0]
    mine = [(device.id, point.id) for point in device.points]
    match kind:
        case "dead":
            since = {key: tally.received[key] for key in tally.keys}
            await bench.play("dead", device=device.id, until=lambda: all(
                count > since[key] + 2 for key, count in tally.received.items() if key not in mine))
        case "bad_node":
            back = tally.codes.count("opcua.nodes_back")
            playing = asyncio.create_task(
                bench.play("bad_node", every=5, until=lambda: "opcua.bad_node" in tally.codes))
            await bench.play("restart")  # who is there keeps his item on a node that is gone; a new one is refused
            await playing
            await bench.until(lambda: tally.codes.count("opcua.nodes_back") > back, "the nodes are back")
        case "stall":
            await bench.play("stall", for_s=0.3)
        case "death":
            births = bench.sent.messages["NBIRTH"]
            await bench.play("death")
            await bench.until(lambda: bench.sent.messages["NBIRTH"] >= births + len(plant.nodes), "they are born again")
        case "missing_birth":
            discarded = tally.discards.total()
            await bench.play("missing_birth", until=lambda: tally.discards.total() > discarded)
        case "retained":
            await bench.play("retained", until=bench.newer())
            await bench.play("lose")
        case _ if bench.is_modbus:
            played = plant.modbus[bench.connection].line.played
            before = played.get(kind, 0)
            more = {"delay_s": 0.05} if kind == "late" else {}
            await bench.play(kind, every=3, until=lambda: played.get(kind, 0) >= before + 2, **more)
        case _:
            publishers = [node.mischief for node in plant.nodes]
            if bench.connection == "sensors":
                assert plant.sensors is not None
                publishers = [plant.sensors.mischief]
            await bench.play(kind, every=3, until=lambda: sum(one.played[kind] for one in publishers) >= 3)
