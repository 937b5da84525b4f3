"""Faults of the simulated Modbus lines, seen on the wire by a client of a few lines, and by the gateway's driver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest

from protocols.errors import ConfigError
from protocols.modbus import schedule
from protocols.modbus.driver import Driver
from protocols.modbus.target import ModbusPoint, parse_address
from simulators.layout import draw_layout
from simulators.modbus_faults import GARBAGE, SHOWN, Fault, Kind, of_connection
from simulators.modbus_server import ASKED_MAX, ModbusPlant
from simulators.plant import Plant
from simulators.settings import ModbusFaultTable, load_plant
from simulators.signals import Machine
from tests.unit.protocols.modbus.recording import Recording, endpoint, running

LAYOUT = draw_layout(1)
LINE = "utilities-a"
ANSWER_S = 30.0
GOOD_SIZE = 9
"""Of the answer to a read of a register that is not there."""


class Shop:
    """One simulated Modbus line and its machines, without the rest of a plant."""

    def __init__(self, *faults: dict[str, object]) -> None:
        tables = [ModbusFaultTable(**fault).fault() for fault in faults]  # type: ignore[arg-type] # by name
        self.devices = LAYOUT.of(LINE)
        self.running = {d.machine: Machine(d.signals, d.rhythm, f"signals/{d.machine}") for d in self.devices}
        self.machines = {name: machine.values for name, machine in self.running.items()}
        self.server = ModbusPlant(self.devices, of_connection(tables, LINE))

    async def step(self) -> None:
        for name, machine in self.running.items():
            self.machines[name] = machine.step(1.0)
        await self.server.update(self.machines)


@asynccontextmanager
async def shop_with(*faults: dict[str, object]) -> AsyncIterator[Shop]:
    shop = Shop(*faults)
    await shop.server.start("127.0.0.1", 0, shop.machines)
    try:
        yield shop
    finally:
        await shop.server.stop()


def some_unit(shop: Shop) -> int:
    return next(d.unit for d in shop.devices if d.fate != "dead")


async def ask(shop: Shop, unit: int, size: int = GOOD_SIZE, wait_s: float = 0.0,
              function: int = 3) -> tuple[bytes, bool]:
    """Send one read; return the next `size` bytes, all that comes within `wait_s` behind them, and whether that is all.

    It is all when the server hung up.
    """
    host, port = shop.server.endpoint.removeprefix("tcp://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(bytes.fromhex("0007 0000 0006") + bytes([unit, function, 0, 0, 0, 1]))
    got = b""
    try:
        async with asyncio.timeout(ANSWER_S):
            while len(got) < size and (piece := await reader.read(1000)):
                got += piece
        async with asyncio.timeout(wait_s):
            while piece := await reader.read(1000):
                got += piece
            return got, True
    except TimeoutError:
        return got, False
    finally:
        writer.close()


@pytest.mark.parametrize("kind", sorted(SHOWN))
async def test_each_fault_on_the_wire(kind: str) -> None:
    async with shop_with({"kind": kind, "every": 2, "delay_s": 0.15, "connection": LINE}) as shop:
        unit = some_unit(shop)
        good, _ = await ask(shop, unit)
        assert good[:3] == b"\0\7\0" and good[6] == unit, "the first request is answered well"
        wanted = {"late": good, "twice": good + good, "cut": good[:len(good) // 2], "silent": b"", "close": b"",
                  "garbage": GARBAGE, "busy": good[:4] + b"\0\3" + bytes([unit, 0x83, 6])}
        bad, is_over = await ask(shop, unit, len(wanted.get(kind, good)), ANSWER_S if kind == "close" else 0.3)
        again, _ = await ask(shop, unit)
        assert shop.server.line.played == {kind: 1}
    assert len(again) == len(good)
    if kind in ("other_unit", "other_transaction"):
        assert len(bad) == len(good) and bad[7:9] == good[7:9]
        assert (bad[6] != unit, bad[:2] != b"\0\7") == (kind == "other_unit", kind == "other_transaction")
    else:
        assert bad[:4] == wanted[kind][:4] and len(bad) == len(wanted[kind])
    assert is_over == (kind == "close")


async def exchange(shop: Shop, data: bytes, size: int) -> bytes:
    """Send bytes, some in a second piece; return the next `size` bytes, or what comes before the server hangs up."""
    host, port = shop.server.endpoint.removeprefix("tcp://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data[:-5])
        await writer.drain()
        writer.write(data[-5:])
        async with asyncio.timeout(10):
            return await reader.readexactly(size)
    except asyncio.IncompleteReadError as error:
        return error.partial
    except ConnectionError:  # it hung up before it had read the second piece
        return b""
    finally:
        writer.close()


async def test_several_requests_at_once_are_answered_in_their_order() -> None:
    async with shop_with() as shop:
        unit = some_unit(shop)
        size = len((await ask(shop, unit))[0])
        read = bytes.fromhex("0000 0006") + bytes([unit, 3, 0, 0, 0, 1])
        asked = [tid.to_bytes(2, "big") for tid in range(1, 21)]
        found = await exchange(shop, b"".join(tid + read for tid in asked), len(asked) * size)
        assert [found[at:at + 2] for at in range(0, len(found), size)] == asked
        assert 1 < shop.server.waited_most <= 20
        too_many = b"".join(tid.to_bytes(2, "big") + read for tid in range(1, 2 * ASKED_MAX))
        assert len(await exchange(shop, too_many, len(too_many))) < len(too_many), "hung up on"


async def test_a_late_answer_is_late() -> None:
    async with shop_with({"kind": "late", "delay_s": 0.3}) as shop:
        unit = some_unit(shop)
        assert await ask(shop, unit, 0, 0.15) == (b"", False)
        assert len((await ask(shop, unit))[0]) >= 9


def test_a_fault_has_its_time_its_unit_and_its_turn() -> None:
    fault = Fault(kind="silent", unit=3, every=2, after_s=10.0, for_s=5.0)
    line = of_connection([fault, Fault(kind="busy", connection="utilities-b")], LINE)
    assert line.fault(4, 11.0) is None
    assert [line.fault(3, at_s) is not None for at_s in (9.0, 10.0, 11.0, 12.0, 14.9, 15.0)] == [
        False, False, True, False, True, False]
    assert line.played == {"silent": 2}
    assert fault.met == {}, "each line counts for itself"
    other = of_connection([fault, Fault(kind="busy", connection="utilities-b")], "utilities-b")
    assert other.fault(4, 0.0) is not None


async def test_the_driver_gets_the_truth_from_a_line_with_every_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "SILENT_FIRST_S", 0.05)
    monkeypatch.setattr(schedule, "RECONNECT_FIRST_S", 0.01)
    monkeypatch.setattr(schedule, "RECONNECT_MAX_S", 0.05)
    faults = [{"kind": kind, "every": 13 + at, "delay_s": 0.3} for at, kind in enumerate(sorted(SHOWN))]
    async with shop_with(*faults) as shop:
        points = [(d, p) for d in shop.devices for p in d.points if d.fate != "dead"]
        aimed = [ModbusPoint(point_index=slot, device_index=d.unit, order=p.order or "ABCD", scale=p.scale,
                             address=parse_address(p.address, p.type)) for slot, (d, p) in enumerate(points)]
        seen: dict[int, set[float]] = {slot: set() for slot in range(len(points))}
        sink, line = Recording(), shop.server.line

        def note() -> None:
            for slot, (d, p) in enumerate(points):
                seen[slot].add(float(shop.machines[d.machine][p.signal]))

        note()
        async with running(Driver(endpoint(0, endpoint=shop.server.endpoint, timeout_s=0.1), aimed, sink)):
            async with asyncio.timeout(200):
                while min(line.played.get(kind, 0) for kind in SHOWN) < 2 or len(sink.values) < len(points):
                    await shop.step()
                    note()
                    await asyncio.sleep(0.02)
        assert shop.server.writes == 0
    for slot, values in sink.values.items():
        near = points[slot][1].scale
        strange = [v for v in values if not any(abs(v - true) <= near + abs(true) * 1e-4 for true in seen[slot])]
        assert not strange, (points[slot], strange[:3], sorted(seen[slot])[:10])


def test_a_plant_file_aims_faults_at_one_line_or_at_both(tmp_path: Path) -> None:
    text = '[[modbus.faults]]\nkind = "late"\n[[modbus.faults]]\nkind = "cut"\nconnection = "utilities-b"\nunit = 2\n'
    (tmp_path / "plant.toml").write_text(text, encoding="utf-8")
    plant = Plant(load_plant(tmp_path / "plant.toml"), tmp_path)
    assert {name: [f.kind for f in server.line.faults] for name, server in plant.modbus.items()} == {
        "utilities-a": ["late"], "utilities-b": ["late", "cut"]}
    assert set(SHOWN) == set(get_args(Kind))


@pytest.mark.parametrize("line", ['kind = "slow"', 'kind = "late"\nunit = 300', 'kind = "late"\nevery = 0',
                                  'kind = "late"\nconnection = "machines"', 'kind = "late"\nonce = true'])
def test_a_fault_that_does_not_exist_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "plant.toml").write_text(f"[[modbus.faults]]\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_plant(tmp_path / "plant.toml")
    assert caught.value.problems[0].where.startswith(str(tmp_path)) or "modbus.faults" in caught.value.problems[0].where


async def test_a_write_is_refused_and_counted_also_by_a_unit_with_faults() -> None:
    async with shop_with({"kind": "silent"}, {"kind": "busy"}) as shop:
        unit = some_unit(shop)
        for function in (5, 6):
            got, _ = await ask(shop, unit, 9, function=function)
            assert got[7:] == bytes([0x80 | function, 1])
        assert shop.server.writes == 2
        ModbusPlant.writes_of_process -= 2  # these two were meant; tests/conftest.py lets no other pass
