"""A serial line that cannot be used: told once, tried again, and never the end of the gateway."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from protocols.modbus import schedule
from protocols.modbus.driver import Driver
from protocols.modbus.target import ModbusEndpoint
from tests.unit.protocols.modbus.recording import Recording, point, running, until

pty = pytest.importorskip("pty")


@pytest.mark.parametrize("line", ["not there", "takes no parity"])
async def test_a_line_that_cannot_be_opened_is_told_and_tried_again(
        line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "RECONNECT_FIRST_S", 0.01)
    monkeypatch.setattr(schedule, "RECONNECT_MAX_S", 0.02)
    ends = pty.openpty()
    try:
        device = str(tmp_path / "tty") if line == "not there" else os.ttyname(ends[1])
        sink = Recording()
        driver = Driver(ModbusEndpoint(name="line", protocol="modbus_rtu", endpoint=f"serial://{device}", parity="E"),
                        [point(0, "1/holding/0", "uint16")], sink)
        async with running(driver) as task:
            await until(lambda: "modbus.lost" in sink.codes())
            attempts = driver._poller._attempt
            await until(lambda: driver._poller._attempt > attempts + 1, what="further attempts")
            assert not task.done()
        assert sink.codes() == ["modbus.no_serial_line", "modbus.lost"]
    finally:
        for end in ends:
            os.close(end)
