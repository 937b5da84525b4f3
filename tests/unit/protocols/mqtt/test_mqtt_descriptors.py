"""A broker that is not there, or hangs up at once, for days: nothing of an attempt stays open."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from pathlib import Path

import pytest

from protocols.mqtt import driver as mqtt
from protocols.mqtt.driver import Driver
from protocols.mqtt.link.driver import Link
from protocols.mqtt.target import MqttEndpoint, MqttPoint, parse_json_address
from tests.support.processes import free_port
from tests.unit.protocols.mqtt.mqtt_recording import Recording, eventually, running

OPEN = Path("/proc/self/fd")


@pytest.mark.skipif(not OPEN.is_dir(), reason="the kernel does not list open files here")
@pytest.mark.parametrize("broker", ["absent", "hangs up", "resets"])
async def test_attempts_leave_nothing_open(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the help of the cyclic collector: nobody knows when it comes."""
    monkeypatch.setattr(mqtt, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(mqtt, "BACKOFF_CAP_S", 0.01)
    attempts = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if broker == "resets":  # what was sent is thrown away, and the next read is an error
            await reader.read(1)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if broker == "absent":
        server.close()
        await server.wait_closed()
        port = free_port()
    made = Link

    def counted(*args: object, **more: object) -> object:
        nonlocal attempts
        attempts += 1
        return made(*args, **more)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(mqtt, "Link", counted)
    driver = Driver(MqttEndpoint(name="x", protocol="mqtt", endpoint=f"mqtt://127.0.0.1:{port}"),
                    [MqttPoint(point_index=0, device_index=0, address=parse_json_address("a#"), type="float64")],
                    Recording())
    gc.collect()
    gc.disable()
    try:
        async with running(driver):
            await eventually(lambda: attempts > 3)
            before = len(list(OPEN.iterdir()))
            await eventually(lambda: attempts > 23)
            assert len(list(OPEN.iterdir())) < before + 10, "twenty attempts with two sockets each"
    finally:
        gc.enable()
        server.close()
