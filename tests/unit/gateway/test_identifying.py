"""Devices are asked who they are while the gateway runs: when, how often, and what is told. Drivers by script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.gateway import load_gateway
from gateway import identifying
from gateway.commissioning.state import State
from gateway.identifying import FIRST_S, RETRY_FIRST_S, TOLD_MAX, Identifying
from gateway.standing import Standing
from protocols.errors import DeviceError, Problem
from tests.unit.gateway.commissioning.plants import LINE, device, point, write


class Shows:
    """A Modbus driver whose devices show `plates`, by slot; None: nobody answers."""

    def __init__(self, plates: dict[int, dict[str, str]] | None) -> None:
        self.plates = plates
        self.asked = 0

    async def identities(self) -> dict[int, dict[str, str]]:
        self.asked += 1
        if self.plates is None:
            raise DeviceError(Problem.of("line", "modbus.closed"))
        return self.plates

    def server_spki_sha256(self) -> None:
        return None


class Bench:
    """An `Identifying` over a real roster, with a clock that a test sets."""

    def __init__(self, folder: Path, devices: list[str]) -> None:
        ids = [row.split(",")[0] for row in devices]
        config = load_gateway(write(folder, devices, [point(id_, n) for n, id_ in enumerate(ids)], tail=LINE))
        state = State(config.state_dir)
        state.create_keys()
        self.now_s = 0.0
        self.drivers: dict[str, Any] = {}
        self.adopted: list[Any] = []
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        self.standing = Standing(config, state, self.on_disk)
        self.work = Identifying(self.standing, self.drivers, self.adopt, self.tell, every_s=1000,
                                clock_s=lambda: self.now_s)

    async def on_disk(self, work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    def adopt(self, registry: Any) -> int:
        self.adopted.append(registry)
        return 0

    def tell(self, code: str, where: str, **args: Any) -> None:
        self.told.append((code, where, args))

    async def at(self, now_s: float) -> None:
        self.now_s = now_s
        await self.work.look()

    def bases(self) -> list[str]:
        return [row["id_basis"] for row in self.standing.roster.device_rows()]


async def test_a_connection_is_asked_once_it_is_up_and_then_seldom(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [device("a", serial="SN-1")])
    driver = bench.drivers["line"] = Shows({0: {"vendor_name": "Maker", "object_128": "SN-1"}})
    await bench.at(0)
    assert driver.asked == 0 and bench.bases() == ["declared"]
    await bench.at(FIRST_S)
    assert (driver.asked, len(bench.adopted), bench.bases(), bench.told) == (1, 1, ["read"], [])
    assert bench.adopted[0].device_rows[0]["id_basis"] == "read"
    await bench.at(FIRST_S + 999)
    assert driver.asked == 1
    await bench.at(FIRST_S + 1000)
    assert (driver.asked, len(bench.adopted)) == (2, 1), "nothing new: no roster"
    report = bench.work.report()
    assert (report["devices"], report["findings"], report["more"]) == (1, [], 0) and report["asked_s"]


async def test_a_line_that_is_down_is_asked_again_after_growing_pauses(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [device("a")])
    driver = bench.drivers["line"] = Shows(None)
    await bench.at(0)
    for now_s, asked in ((FIRST_S, 1), (FIRST_S + RETRY_FIRST_S - 1, 1), (FIRST_S + RETRY_FIRST_S, 2),
                         (FIRST_S + 3 * RETRY_FIRST_S - 1, 2), (FIRST_S + 3 * RETRY_FIRST_S, 3)):
        await bench.at(now_s)
        assert driver.asked == asked, now_s
    assert bench.work.report()["asked_s"] is None


async def test_a_contradiction_is_told_once_and_stays_in_the_report_until_it_is_gone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [device("a"), device("b")])
    driver = bench.drivers["line"] = Shows({0: {"vendor_name": "Acme"}, 1: {}})
    await bench.at(0)
    await bench.at(FIRST_S)
    await bench.at(FIRST_S + 1000)
    args = {"device": "a", "shown": "Acme", "ledger": "Maker"}
    assert bench.told == [("identity.maker_differs", "devices.csv", args)]
    assert [(f["code"], f["devices"]) for f in bench.work.report()["findings"]] == [("identity.maker_differs", ["a"])]
    driver.plates = {0: {"vendor_name": "Maker"}, 1: {}}
    await bench.at(FIRST_S + 2000)
    assert bench.work.report()["findings"] == [] and len(bench.told) == 1


async def test_a_driver_that_was_exchanged_is_asked_anew_and_one_that_went_is_forgotten(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [device("a")])
    bench.drivers["line"] = Shows({0: {"vendor_name": "Acme"}})
    await bench.at(0)
    await bench.at(FIRST_S)
    driver = bench.drivers["line"] = Shows({0: {"vendor_name": "Maker"}})
    await bench.at(10)
    await bench.at(10 + FIRST_S)
    assert driver.asked == 1 and bench.work.report()["findings"] == []
    del bench.drivers["line"]
    await bench.at(20)
    assert bench.work.report()["devices"] == 0


async def test_what_an_exchanged_driver_saw_is_held_against_nobody_any_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [device("a")])
    bench.drivers["line"] = Shows({0: {"vendor_name": "Acme"}})
    bench.drivers["other"] = Shows(None)
    await bench.at(0)
    await bench.at(FIRST_S)
    assert len(bench.work.report()["findings"]) == 1
    bench.drivers["line"] = Shows(None)  # another machine, which is not there yet
    del bench.drivers["other"]  # so what is known is judged again
    await bench.at(10)
    assert (bench.work.report()["findings"], bench.work.report()["devices"]) == ([], 0)


async def test_what_is_seen_while_a_driver_is_exchanged_is_not_taken(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [device("a")])

    class Slow(Shows):
        async def identities(self) -> dict[int, dict[str, str]]:
            bench.drivers["line"] = Shows(None)
            return {0: {"vendor_name": "Acme"}}

    bench.drivers["line"] = Slow(None)
    await bench.at(0)
    await bench.at(FIRST_S)
    assert bench.told == [] and bench.work.report()["devices"] == 0


async def test_many_contradictions_do_not_flood_the_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identifying, "LISTED_MAX", 20)
    bench = Bench(tmp_path, [device(f"d{n}") for n in range(30)])
    bench.drivers["line"] = Shows({n: {"vendor_name": "Acme"} for n in range(30)})
    await bench.at(0)
    await bench.at(FIRST_S)
    assert len(bench.told) == TOLD_MAX + 1
    assert bench.told[-1][0] == "identity.more" and bench.told[-1][2] == {"more": 30 - TOLD_MAX}
    assert (len(bench.work.report()["findings"]), bench.work.report()["more"]) == (20, 10)


@pytest.mark.parametrize("broken", [RuntimeError("a library"), KeyError("slot"), OSError("gone")])
async def test_whatever_a_device_answers_counting_goes_on(tmp_path: Path, broken: Exception) -> None:
    bench = Bench(tmp_path, [device("a")])

    class Breaks(Shows):
        async def identities(self) -> dict[int, dict[str, str]]:
            raise broken

    bench.drivers["line"] = Breaks(None)
    await bench.at(0)
    await bench.at(FIRST_S)
    assert bench.told == [] and bench.adopted == []
