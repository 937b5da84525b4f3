"""Where a JSON message of rows Q1 and Q2 spends its time once it has been received: `python -m benchmarks.mqtt_stages`.

Not a row. The stages run one after the other in one thread, on prepared bytes and without a network. Of every chunk the
shortest of many runs counts, so that neighbours on the machine matter little: these are floors, not what a run takes.
"""

from __future__ import annotations

import argparse
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.mqtt_client import MESSAGES, POINTERS, TOPICS, TYPES, WARM_UP, Columns, document
from protocols.mqtt import bulk
from protocols.mqtt.columns import Columns as Growing
from protocols.mqtt.documents import MAX_PAYLOAD_BYTES
from protocols.mqtt.frames import Batch, Frames, Messages
from protocols.mqtt.inbox import Chunk
from protocols.mqtt.link.driver import CHUNK_BYTES, CHUNK_MAX
from protocols.mqtt.router import Router
from protocols.mqtt.target import MqttEndpoint, MqttPoint, parse_json_address

REPEATS = 150


def publish(topic: str, payload: bytes, qos: int, packet_id: int) -> bytes:
    """Return a message of more than 127 bytes as it is on the wire."""
    body = len(topic).to_bytes(2, "big") + topic.encode() + (packet_id.to_bytes(2, "big") if qos else b"") + payload
    return bytes([0x30 | qos << 1, len(body) & 127 | 128, len(body) >> 7]) + body


def shortest(run: Callable[[Any], object], chunks: Sequence[Any], messages: int) -> float:
    """Return microseconds a message: of each chunk its shortest run."""
    best = [float("inf")] * len(chunks)
    for _ in range(REPEATS):
        for number, chunk in enumerate(chunks):
            began = time.perf_counter_ns()
            run(chunk)
            best[number] = min(best[number], time.perf_counter_ns() - began)
    return sum(best) / messages / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qos", type=int, choices=(0, 1), default=0)
    parser.add_argument("--topics", type=int, default=TOPICS)
    args = parser.parse_args()
    stream = b"".join(publish(f"hall/{n % args.topics}", document(n), args.qos, n + 1) for n in range(MESSAGES))
    raw = [stream[at:at + CHUNK_BYTES] for at in range(0, len(stream), CHUNK_BYTES)]
    sink = Columns(len(POINTERS) * args.topics)
    router = Router(
        MqttEndpoint(name="stages", protocol="mqtt", endpoint="mqtt://127.0.0.1:1"),
        [MqttPoint(point_index=len(POINTERS) * topic + n, device_index=topic, type=TYPES[n],
                   address=parse_json_address(f"hall/{topic}#/{pointer}"))
         for topic in range(args.topics) for n, pointer in enumerate(POINTERS)], sink)
    frames = Frames()
    parts: list[Messages] = [cut.messages.part(at, at + CHUNK_MAX) for chunk in raw for cut in frames.cut(chunk)
                             if isinstance(cut, Batch) for at in range(0, len(cut.messages), CHUNK_MAX)]

    def take(part: Messages) -> None:
        router.receive_chunk(Chunk(5, part, 1), 7)
        router.flush()

    while sink.samples_taken < WARM_UP * len(POINTERS):
        for part in parts:
            take(part)
    topics = router._by_bytes  # the stages are taken apart here, and nowhere else
    payloads: list[list[Any]] = [part.payloads for part in parts]
    shape = topics[b"hall/0"].shape
    assert shape is not None
    documents = [shape.read_all(each, MAX_PAYLOAD_BYTES) or [] for each in payloads]
    again = Frames()
    stages: list[tuple[str, Callable[[Any], object], Sequence[Any]]] = [
        ("cut the stream into topics and payloads", lambda chunk: list(again.cut(chunk)), raw),
        ("take them, to the sink", take, parts),
        ("  of it: into columns", lambda part: bulk.add_messages(part, topics, 5, Growing(), lambda *_: ()), parts),
        ("    of it: documents with their checks", lambda each: shape.read_all(each, MAX_PAYLOAD_BYTES), payloads),
        ("      of it: msgspec alone", shape.decoder.decode_lines, [b"\n".join(each) for each in payloads]),
        ("    of it: values from documents",
         lambda each: struct.pack(f"={len(each) * len(POINTERS)}d", *shape.rows(each)), documents)]
    for name, run, chunks in stages:
        print(f"{shortest(run, chunks, MESSAGES):6.3f} us a message  {name}", flush=True)


if __name__ == "__main__":
    main()
