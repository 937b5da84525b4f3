"""Reading over TLS: many records are one chunk, and what stands before its end is received."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from protocols.mqtt.driver import Driver
from protocols.mqtt.target import Point
from tests.support.tls import signed, written
from tests.unit.protocols.mqtt.mqtt_recording import Recording, document, eventually, json_endpoint, json_point, running
from tests.unit.protocols.mqtt.scripted_broker import PUBACK, Peer, broker, publish

POINTS: list[Point] = [json_point(0, "a#/x")]
MESSAGES = 3_000
ENDS: dict[str, tuple[Callable[[Peer], None], str]] = {
    "stays": (lambda peer: peer.stay(), ""),
    "hangs-up": (Peer.hang_up, "mqtt.connection_lost"),
    "breaks-tls": (lambda peer: peer.send_bare(b"no record of TLS"), "mqtt.tls_failed")}


@pytest.mark.parametrize(("end", "code"), ENDS.values(), ids=list(ENDS))
async def test_all_that_comes_before_the_end_is_received(
        end: Callable[[Peer], None], code: str, tmp_path: Path) -> None:
    certificate, key = written(tmp_path, "broker", signed("broker"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    whole = b"".join(publish("a", document(x=n, more="x" * 150), qos=1, packet_id=n + 1) for n in range(MESSAGES))

    def script(peer: Peer) -> None:
        peer.accept()
        peer.grant()
        peer.send(whole)
        while peer.read() != (PUBACK, struct.pack(">H", MESSAGES)):
            pass
        end(peer)
        peer.stay()

    sink = Recording()
    with broker(script, context) as server:
        endpoint = json_endpoint(endpoint=f"mqtts://127.0.0.1:{server.port}", ca_file=certificate, qos=1)
        async with running(Driver(endpoint, POINTS, sink)):
            await eventually(lambda: len(sink.values(0)) >= MESSAGES and (not code or code in sink.codes()))
            await eventually(lambda: (PUBACK, struct.pack(">H", MESSAGES)) in server.seen)
    assert sink.values(0)[:MESSAGES] == list(range(MESSAGES)) and sink.discards == {}
    assert max(batch.value.size for batch in sink.batches) > 100, "more than a record of 16 KiB holds"
    assert [body for kind, body in server.seen if kind == PUBACK][:MESSAGES] == [
        struct.pack(">H", n + 1) for n in range(MESSAGES)]
