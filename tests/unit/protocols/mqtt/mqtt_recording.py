"""What the MQTT tests share: a sink that keeps everything, payloads in short, and waiting for a condition."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.mqtt import session
from protocols.mqtt.driver import Driver
from protocols.mqtt.sparkplug_pb2 import Payload
from protocols.mqtt.target import MqttEndpoint, MqttPoint, SparkplugPoint, parse_json_address, parse_sparkplug_address
from protocols.samples import PollBatch, SampleBatch

WAIT_S = 60.0
"""How long something may take on a busy machine before it is taken as not happening."""

END_S = 10.0
"""A driver ends within two seconds, and a busy machine takes some more."""


class Recording:
    """A Sink. rows: (point slot, value, quality) in the order of delivery; calls: everything else, in order."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, int]] = []
        self.batches: list[SampleBatch] = []
        self.texts: list[str] = []
        self.answers: Counter[int] = Counter()
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.discards: Counter[str] = Counter()
        self.events: list[tuple[str, str, dict[str, str]]] = []

    def samples(self, batch: SampleBatch | PollBatch) -> None:
        assert isinstance(batch, SampleBatch)
        self.batches.append(batch)
        self.rows += zip(batch.point_index.tolist(), batch.value.tolist(), batch.quality.tolist(), strict=True)
        self.texts += [text for _, text in batch.texts]

    def answered(self, device_index: Sequence[int] | NDArray[np.int64], received_ns: int) -> None:
        self.answers.update(int(device) for device in device_index)

    def online(self, device_index: Sequence[int], received_ns: int) -> None:
        self.calls.append(("online", tuple(device_index)))

    def offline(self, device_index: Sequence[int], received_ns: int) -> None:
        self.calls.append(("offline", tuple(device_index)))

    def discarded(self, reason: str, count: int) -> None:
        assert count > 0
        self.discards[reason] += count

    def event(self, code: str, where: str, **args: object) -> None:
        self.events.append((code, where, {key: str(value) for key, value in args.items()}))

    def codes(self) -> list[str]:
        return [code for code, _, _ in self.events]

    def values(self, point: int) -> list[float]:
        return [value for index, value, _ in self.rows if index == point]


def json_point(index: int, address: str, type_: str = "float64", device: int | None = None) -> MqttPoint:
    return MqttPoint(point_index=index, device_index=index if device is None else device,
                     address=parse_json_address(address), type=type_)


def metric_point(index: int, address: str, device: int, type_: str = "") -> SparkplugPoint:
    return SparkplugPoint(point_index=index, device_index=device, address=parse_sparkplug_address(address), type=type_)


def json_endpoint(port: int = 1883, **more: object) -> MqttEndpoint:
    return MqttEndpoint(**{"name": "hall", "protocol": "mqtt", "endpoint": f"mqtt://127.0.0.1:{port}",
                           "timeout_s": 30.0, **more})  # type: ignore[arg-type]  # keywords of a test


def sparkplug_endpoint(port: int = 1883, **more: object) -> MqttEndpoint:
    return json_endpoint(port, **{"protocol": "sparkplug_b", **more})


def payload(seq: int | None, *metrics: tuple[str, int, float | str | bytes | bool | None], sent_ms: int = 1_000,
            bd_seq: int | None = None, aliases: bool = False, names: bool = True) -> bytes:
    """Metrics are (name, data type, value); aliases number them from 1; without names only the alias is sent."""
    message = Payload()
    message.timestamp = sent_ms
    if seq is not None:
        message.seq = seq
    if bd_seq is not None:
        own = message.metrics.add()
        own.name, own.datatype, own.long_value = "bdSeq", 8, bd_seq
    for alias, (name, datatype, value) in enumerate(metrics, start=1):
        metric = message.metrics.add()
        if names:
            metric.name = name
            metric.datatype = datatype
        if aliases:
            metric.alias = alias
        metric.timestamp = sent_ms
        if value is None:
            metric.is_null = True
        elif isinstance(value, bool):
            metric.boolean_value = value
        elif isinstance(value, str):
            metric.string_value = value
        elif isinstance(value, bytes):
            metric.bytes_value = value
        elif datatype == 9:
            metric.float_value = value
        elif datatype == 10:
            metric.double_value = value
        elif datatype in (4, 8, 13):
            metric.long_value = int(value) % 2**64
        else:
            metric.int_value = int(value) % 2**32
    return message.SerializeToString()


def document(**values: object) -> bytes:
    return json.dumps(values).encode()


async def eventually(condition: Callable[[], object], wait_s: float = WAIT_S) -> None:
    """Wait until the condition holds; fail with it after `wait_s`."""
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(driver: Driver) -> AsyncIterator[asyncio.Task[None]]:
    """Run the driver for the length of the block, then cancel it: it does not take long."""
    task = asyncio.create_task(driver.run())
    try:
        yield task
    finally:
        task.cancel()
        start = time.monotonic()
        with suppress(asyncio.CancelledError):
            await task
        assert time.monotonic() - start < END_S


def pace(monkeypatch: pytest.MonkeyPatch, *, grace_s: float) -> None:
    """Have edge nodes asked so long after we came, and a second time only when a busy machine has answered long ago."""
    monkeypatch.setattr(session, "CONNECT_GRACE_NS", round(grace_s * 1e9))
    monkeypatch.setattr(session, "ASK_PAUSE_MIN_NS", 100 * 10**9)
    defaults: Any = session.NodeSession.__init__
    monkeypatch.setitem(defaults.__kwdefaults__, "ask_pause_ns", 100 * 10**9)
