"""The plant publishes to Mosquitto, a broker that was not written here, and comes back after it was away."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from simulators.plant import Plant
from simulators.settings import PlantFile, check_plant
from simulators.sparkplug_pb2 import Payload
from tests.support.processes import free_port
from tests.support.programs import need

pytestmark = pytest.mark.live

WAIT_S = 60


Heard = Callable[[], Awaitable[tuple[str, bytes]]]
"""Waits for the next message: its topic and its payload."""


class Mosquitto:
    """One broker on a fixed loopback port, so that it can go and come back."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.config = folder / "mosquitto.conf"
        self.config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n", encoding="utf-8")
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            "mosquitto", "-c", str(self.config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    async def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            await self.process.wait()
            self.process = None

    async def hear(self, topic: str, count: int) -> list[tuple[str, bytes]]:
        """Return `count` messages of a topic, as mosquitto_sub prints them."""
        process = await asyncio.create_subprocess_exec(
            "mosquitto_sub", "-p", str(self.port), "-t", topic, "-C", str(count), "-W", str(WAIT_S), "-F", "%t %x",
            stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        lines = [line.split(" ") for line in out.decode().splitlines()]
        assert len(lines) == count, out
        return [(name, bytes.fromhex(body)) for name, body in lines]

    @asynccontextmanager
    async def listening(self, *topics: str) -> AsyncIterator[Heard]:
        """Let one mosquitto_sub listen to all of these topics, asked for together; give what waits for a message."""
        process = await asyncio.create_subprocess_exec(
            "mosquitto_sub", "-p", str(self.port), *(word for topic in topics for word in ("-t", topic)), "-F", "%t %x",
            stdout=asyncio.subprocess.PIPE)

        async def heard() -> tuple[str, bytes]:
            assert process.stdout is not None
            name, body = (await process.stdout.readline()).decode().split()
            return name, bytes.fromhex(body)

        try:
            yield heard
        finally:
            process.kill()
            await process.wait()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    need("mosquitto", "mosquitto_sub")
    running = Mosquitto(tmp_path)
    await running.start()
    yield running
    await running.stop()


def parsed(body: bytes) -> Payload:
    payload = Payload()
    payload.ParseFromString(body)
    return payload


async def test_births_data_json_and_a_new_session_after_the_broker_was_away(broker: Mosquitto, tmp_path: Path) -> None:
    settings = check_plant(PlantFile(), "test", broker=f"mqtt://127.0.0.1:{broker.port}")
    plant = Plant(settings, tmp_path / "plant")
    try:
        await plant.start()
        data = await broker.hear("spBv1.0/+/DDATA/#", 20)
        assert all(parsed(body).metrics for _, body in data)
        for topic, body in await broker.hear(f"{plant.layout.site}/sensors/+", 4):
            assert topic in {device.place for device in plant.layout.of("sensors")}
            assert {"ts", "values"} <= set(json.loads(body))
        births = await _births(plant, broker)
        await broker.stop()
        await broker.start()
        again = await _births(plant, broker)
        assert again == {topic: (bd_seq + 1) % 256 for topic, bd_seq in births.items()}  # a session, a number
    finally:
        await plant.stop()


async def _births(plant: Plant, broker: Mosquitto) -> dict[str, int]:
    """Return {topic: bdSeq}. Whoever subscribed too late asks for the births again."""
    births: dict[str, int] = {}
    async with broker.listening("spBv1.0/+/NBIRTH/+") as heard, asyncio.timeout(WAIT_S):
        while len(births) < len(plant.nodes):
            try:
                topic, body = await asyncio.wait_for(heard(), 0.5)
            except TimeoutError:
                for node in plant.nodes:
                    node._birth()
            else:
                births[topic] = parsed(body).metrics[0].long_value
    return births


async def test_the_will_is_published_when_a_node_is_cut_off(broker: Mosquitto, tmp_path: Path) -> None:
    settings = check_plant(PlantFile(), "test", broker=f"mqtt://127.0.0.1:{broker.port}")
    plant = Plant(settings, tmp_path / "plant")
    try:
        await plant.start()
        async with broker.listening("spBv1.0/+/NDEATH/edge-1", "spBv1.0/+/DDATA/edge-1/#") as heard, \
                asyncio.timeout(WAIT_S):
            for _ in range(5):
                assert "DDATA" in (await heard())[0]  # so both subscriptions stand
            publisher = plant.nodes[0]._publisher
            assert publisher is not None
            bd_seq = plant.nodes[0]._bd_seq
            sock = publisher.client.socket()
            assert sock is not None
            sock.shutdown(socket.SHUT_RDWR)
            topic, body = await heard()
            while "NDEATH" not in topic:
                topic, body = await heard()
        assert parsed(body).metrics[0].long_value == bd_seq
    finally:
        await plant.stop()
