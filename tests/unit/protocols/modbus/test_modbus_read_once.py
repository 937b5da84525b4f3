"""One point on demand, between two requests of the poll: its value, its limits, and that nothing else changes."""

from __future__ import annotations

import asyncio
import struct
import time

import pytest

from protocols.errors import DeviceError
from protocols.modbus import schedule
from protocols.modbus.driver import Driver, Link
from protocols.samples import Reading
from tests.unit.protocols.modbus.recording import Recording, endpoint, point, running, silent, steady, until
from tests.unit.protocols.modbus.test_modbus_driver import NUMBERS, device, serving, silence, words

POINTS = [point(0, "1/holding/0", "float32"), point(1, "1/holding/2", "int32"), point(2, "1/holding/10:4", "string"),
          point(3, "1/coil/0"), point(4, "1/holding/4.15"), point(5, "2/holding/0", "float32", device=1, scale=10.0),
          point(6, "1/holding/14", "uint64"), point(7, "1/holding/18", "bcd16")]
REGISTERS = [*NUMBERS, *words(struct.pack(">Q", 2**53 + 1)), 0xFFFF]


async def test_every_kind_of_value_is_read_and_none_is_delivered() -> None:
    steady()
    sink = Recording()
    async with serving(device(1, REGISTERS), device(2, REGISTERS)) as port:
        driver = Driver(endpoint(port, poll_s=0.5), POINTS, sink)
        assert driver.readable == frozenset(range(8))
        async with running(driver):
            await until(lambda: len(sink.values) >= 6)
            before = {slot: len(values) for slot, values in sink.values.items()}
            began_ns = time.time_ns()
            found = {slot: await driver.read_once(slot) for slot in sorted(driver.readable)}
            assert all(len(sink.values[slot]) - count <= 2 for slot, count in before.items()), "by the poll alone"
    values = {slot: reading.value for slot, reading in found.items() if reading is not None}
    assert values == {0: 21.5, 1: -7.0, 2: "PUMP 7", 3: 1.0, 4: 1.0, 5: 215.0, 6: str(2**53 + 1), 7: None}
    for reading in found.values():
        assert reading is not None and reading.answered_ns is not None
        assert began_ns <= reading.asked_ns <= reading.answered_ns <= time.time_ns()


async def test_an_address_that_the_device_refuses_is_asked_and_not_answered() -> None:
    sink = Recording()
    async with serving(device(1, NUMBERS)) as port:
        driver = Driver(endpoint(port), [point(0, "1/holding/0", "float32"), point(1, "1/holding/900", "uint16")], sink)
        async with running(driver):
            await until(lambda: sink.values.get(0))
            reading = await driver.read_once(1)
    assert isinstance(reading, Reading) and (reading.answered_ns, reading.value) == (None, None)


async def test_nobody_is_asked_while_the_line_is_down_or_before_the_driver_runs() -> None:
    sink = Recording()
    async with serving(device(1, NUMBERS)) as port:
        driver = Driver(endpoint(port), [point(0, "1/holding/0", "float32")], sink)
        assert await driver.read_once(0) is None
        async with running(driver):
            await until(lambda: sink.values.get(0))
            assert await driver.read_once(0) is not None
            with pytest.raises(KeyError):
                await driver.read_once(7)
        assert await driver.read_once(0) is None


async def test_a_silent_unit_is_not_asked_so_that_it_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "SILENT_FIRST_S", 30.0)
    sink = Recording()
    async with serving(device(1, NUMBERS), device(2, NUMBERS), trace_packet=silence(2)) as port:
        driver = Driver(endpoint(port, units=silent(2)), [
            point(0, "1/holding/0", "float32"), point(1, "2/holding/0", "float32", device=1)], sink)
        async with running(driver):
            await until(lambda: "modbus.unit_silent" in sink.codes())
            with monkeypatch.context() as asked:
                asked.setattr(driver._link, "lock", None)  # whoever asks takes it
                assert await driver.read_once(1) is None
            await until(lambda: len(sink.values.get(0, [])) > 3)


async def test_one_request_is_in_flight_and_the_pauses_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    sink, flights, ends, starts = Recording(), [0], [0.0], []
    real = Link.read

    async def watched(self: Link, request: object) -> object:
        flights[0] += 1
        assert flights[0] == 1, "two requests at a time"
        starts.append(time.monotonic() - ends[-1])
        try:
            return await real(self, request)  # type: ignore[arg-type]  # as it came
        finally:
            flights[0] -= 1
            ends.append(time.monotonic())

    monkeypatch.setattr(Link, "read", watched)
    async with serving(device(1, NUMBERS), device(2, NUMBERS)) as port:
        driver = Driver(endpoint(port, poll_s=0.05, pause_ms=20), POINTS[:6], sink)
        async with running(driver):
            await until(lambda: len(sink.values) >= 5)
            await asyncio.gather(*(driver.read_once(slot) for slot in range(6) for _ in range(5)))
    assert len(starts) > 30
    assert all(gap >= 0.015 for gap in starts[1:]), "the device wants its silence after each reply"


async def test_a_read_that_nobody_answers_spoils_no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Recording()
    real, cut = Link.read, [False]

    async def sometimes(self: Link, request: object) -> object:
        if cut[0]:
            cut[0] = False
            self.close()
            raise DeviceError([])
        return await real(self, request)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(Link, "read", sometimes)
    async with serving(device(1, NUMBERS)) as port:
        driver = Driver(endpoint(port, poll_s=0.3), [point(0, "1/holding/0", "float32")], sink)
        async with running(driver):
            await until(lambda: sink.values.get(0))
            cut[0] = True
            reading = await driver.read_once(0)
            assert reading is not None and reading.answered_ns is None
            count = len(sink.values[0])
            await until(lambda: len(sink.values[0]) > count + 1)
    assert set(sink.values[0]) == {21.5} and sink.codes() in ([], ["modbus.lost"], ["modbus.closed", "modbus.lost"])
