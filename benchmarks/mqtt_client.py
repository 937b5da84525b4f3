"""Processes under test of rows Q1 to Q3: `mqtt_client.py ours|fallback|paho KIND PORT SECONDS [--qos N] [--ca FILE]`.

KIND: json, 200 bytes of which five values are points, over 100 topics or as many as `--topics` says; metrics,
Sparkplug B with 100 metrics a message, always the same ones; mixed, Sparkplug B with other metrics in every message.
ours: the real driver, with a sink that keeps the newest values. fallback: the same without its own reading of the
stream. paho: its loop in a thread, json.loads or protobuf and a loop over what it gives, as the stock way is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Began, tell
from protocols import system

TOPICS, METRICS = 100, 100
MESSAGES, PAYLOADS = 6400, 256
"""Different ones, of JSON and of Sparkplug."""

POINTERS = ("values/temperature", "values/pressure", "values/speed", "values/torque", "ok")
TYPES = ("float64", "float64", "int32", "float64", "bool")
GROUP, NODE, DEVICE = "plant", "line", "cell"
WARM_UP = 20_000
FIRST_ALIAS = 1000


def document(number: int) -> bytes:
    """Return a message of 200 bytes, as a machine sends it, with its values changing."""
    body = json.dumps({
        "ts": 1763700000123 + number, "machine": f"press-{number % TOPICS:02}", "line": "L2",
        "values": {"temperature": round(71.25 + number % 40 / 8, 3), "pressure": round(4.875 + number % 9 / 16, 4),
                   "speed": 1400 + number % 97, "state": "running", "torque": round(12.5 + number % 7 / 4, 2)},
        "seq": number, "ok": number % 3 > 0})
    return (body[:-1] + ', "p": "' + "x" * (200 - len(body) - 8) + '"}').encode()


def sparkplug(seq: int, metrics: range | list[int], *, is_birth: bool) -> bytes:
    """Return a payload: metrics as every edge node sends them, alias, time, data type, value."""
    from protocols.mqtt.sparkplug_pb2 import Payload

    payload = Payload()
    payload.timestamp, payload.seq = 1763700000123 + seq, seq
    for number in metrics:
        metric = payload.metrics.add()
        if is_birth:
            metric.name = f"metric/{number}"
        metric.alias, metric.timestamp, metric.datatype = FIRST_ALIAS + number, 1763700000100 + seq, 10
        metric.double_value = 20.0 + number * 0.37 + seq
    return payload.SerializeToString()


def write(kind: str, path: Path, topics: int = TOPICS) -> int:
    """Write the messages of a kind for mqtt_server.c; return how many of them are births, to be sent once."""
    place = f"spBv1.0/{GROUP}/%s/{NODE}"
    messages = [(f"hall/{n % topics}", document(n)) for n in range(MESSAGES)]
    births = 0
    if kind != "json":
        births = 2
        messages = [(place % "NBIRTH", sparkplug(0, [], is_birth=True)),
                    (place % "DBIRTH" + f"/{DEVICE}", sparkplug(1, range(METRICS), is_birth=True))]
        for n in range(PAYLOADS):
            chosen = list(range(METRICS))
            if kind == "mixed":  # another order and other metrics each time, as many in all
                np.random.default_rng(n).shuffle(chosen)
                chosen = chosen[:METRICS - n % 50]
            messages.append((place % "DDATA" + f"/{DEVICE}", sparkplug((n + 2) % 256, chosen, is_birth=False)))
    with path.open("wb") as file:
        for topic, body in messages:
            file.write(struct.pack(">H", len(topic)) + topic.encode() + struct.pack(">I", len(body)) + body)
    return births


class Columns:
    """A sink that keeps the newest values, as a window does, and counts."""

    def __init__(self, points: int) -> None:
        self.value = np.zeros(points)
        self.samples_taken = 0
        self.lost = 0
        self.troubles: list[str] = []

    def samples(self, batch: Any) -> None:
        self.value[batch.point_index] = batch.value
        self.samples_taken += batch.value.size

    def answered(self, device_index: Any, received_ns: int) -> None:
        pass

    online = offline = answered

    def discarded(self, reason: str, count: int) -> None:
        self.lost += count
        if reason != "queue_full":
            self.troubles.append(reason)

    def event(self, code: str, where: str, **args: object) -> None:
        if code not in ("mqtt.queue_full", "mqtt.rebirth_asked"):
            self.troubles.append(f"{code} {where} {args}")


async def ours(kind: str, port: int, seconds: float, qos: int, ca: Path | None, topics: int, *, is_fast: bool) -> None:
    from protocols.mqtt import inbox
    from protocols.mqtt.driver import Driver
    from protocols.mqtt.link.driver import Link
    from protocols.mqtt.target import (
        MqttEndpoint,
        MqttPoint,
        Point,
        SparkplugPoint,
        parse_json_address,
        parse_sparkplug_address,
    )

    points: list[Point] = []
    if kind == "json":
        points += [MqttPoint(point_index=len(POINTERS) * topic + n, device_index=topic, type=TYPES[n],
                             address=parse_json_address(f"hall/{topic}#/{pointer}"))
                   for topic in range(topics) for n, pointer in enumerate(POINTERS)]
    else:
        points += [SparkplugPoint(point_index=n, device_index=0,
                                  address=parse_sparkplug_address(f"{GROUP}/{NODE}/{DEVICE}#metric/{n}"))
                   for n in range(METRICS)]
    Link.is_fast = is_fast
    inbox.GIVE_WAY_S = 5.0  # a busy machine is no reason to drop what the server sends without end
    sink = Columns(len(points))
    endpoint = MqttEndpoint(name="bench", protocol="mqtt" if kind == "json" else "sparkplug_b", qos=qos,
                            endpoint=f"{'mqtts' if ca else 'mqtt'}://127.0.0.1:{port}", ca_file=ca, rebirth="never",
                            keepalive_s=60)
    task = asyncio.create_task(Driver(endpoint, points, sink).run())
    each = len(POINTERS) if kind == "json" else METRICS
    while sink.samples_taken < WARM_UP * (each if kind == "json" else 10):
        await asyncio.sleep(0.05)
        assert not sink.troubles and not task.done(), sink.troubles[:3]
    before, lost, began = sink.samples_taken, sink.lost, Began.now()
    await asyncio.sleep(seconds)
    taken = sink.samples_taken - before
    tell(taken / each if kind == "json" else taken, began, lost=(sink.lost - lost) / max(taken, 1))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not sink.troubles, sink.troubles[:3]


def stock(kind: str, port: int, seconds: float, qos: int, ca: Path | None) -> None:
    import paho.mqtt.client as paho

    from protocols.mqtt.sparkplug_pb2 import Payload

    done = 0
    newest: dict[Any, Any] = {}

    def of_json(client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        nonlocal done
        body = json.loads(message.payload)
        values = body["values"]
        newest[message.topic] = (values["temperature"], values["pressure"], values["speed"], values["torque"],
                                 body["ok"])
        done += 1

    def of_metrics(client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        nonlocal done
        payload = Payload.FromString(message.payload)
        for metric in payload.metrics:
            newest[metric.alias] = (metric.timestamp, getattr(metric, metric.WhichOneof("value") or "double_value"))
        done += len(payload.metrics)

    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = of_json if kind == "json" else of_metrics
    client.on_connect = lambda *_: client.subscribe("#", qos)
    if ca is not None:
        client.tls_set(str(ca))
    client.connect("127.0.0.1", port)
    client.loop_start()
    waiting = threading.Event()
    while done < WARM_UP / 4:
        waiting.wait(0.05)
    before, began = done, Began.now()
    time.sleep(seconds)
    tell(done - before, began)
    client.loop_stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=("ours", "fallback", "paho"))
    parser.add_argument("kind", choices=("json", "metrics", "mixed"))
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--qos", type=int, default=0)
    parser.add_argument("--ca", type=Path, help="over TLS, trusting these certificates")
    parser.add_argument("--topics", type=int, default=TOPICS)
    args = parser.parse_args()
    system.frugal_memory()  # as `tallystick run` does, and the peer has it too
    if args.who == "paho":
        stock(args.kind, args.port, args.seconds, args.qos, args.ca)
    else:
        system.run(ours(args.kind, args.port, args.seconds, args.qos, args.ca, args.topics,
                        is_fast=args.who == "ours"))


if __name__ == "__main__":
    main()
