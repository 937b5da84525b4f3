"""What of paho-mqtt is used beyond its public interface: it is still there, and both ways of reading find the same."""

from __future__ import annotations

import inspect
import struct
from collections import Counter

import paho.mqtt.client as paho
import pytest
from paho.mqtt import _packet
from paho.mqtt.enums import CallbackAPIVersion

from protocols.mqtt.driver import Driver
from protocols.mqtt.link.driver import Client, Link
from protocols.mqtt.target import Point
from tests.unit.protocols.mqtt.mqtt_recording import Recording, document, eventually, json_endpoint, json_point, running
from tests.unit.protocols.mqtt.scripted_broker import PUBACK, Peer, broker, packet, publish

POINTS: list[Point] = [json_point(0, "a#/x"), json_point(1, "b#/x")]
PUBREC, PUBREL, PUBCOMP = 5, 6, 7


def test_what_is_used_of_paho_is_as_it_was() -> None:
    """Fails when a new paho-mqtt has changed inside: read the new source, then change `Client`, then this."""
    signatures = {
        "_sock_recv": ["bufsize"], "_sock_send": ["buf"], "want_write": [], "_packet_handle": [],
        "_loop_rc_handle": ["rc"], "_packet_queue": ["command", "packet", "mid", "qos", "info"],
        "loop_read": ["max_packets"]}
    for name, wanted in signatures.items():
        assert list(inspect.signature(getattr(paho.Client, name)).parameters)[1:] == wanted, name
    fresh = paho.Client(CallbackAPIVersion.VERSION2)
    assert set(fresh._in_packet) == {"command", "have_remaining", "remaining_count", "remaining_mult",
                                     "remaining_length", "packet", "to_process", "pos"}
    assert fresh._sock is None and isinstance(fresh._last_bytes_received, float)
    assert fresh._msgtime_mutex.acquire(blocking=False)
    handled = inspect.getsource(paho.Client._packet_handle)
    assert "self._in_packet['command'] & 0xF0" in handled and "self._in_packet" in inspect.getsource(
        paho.Client._handle_suback)
    assert callable(_packet.decode_publish)
    client = Client(CallbackAPIVersion.VERSION2)
    client._packet_queue(paho.PUBACK, b"ack", 0, 0)
    assert list(client._out_packet) == [{"command": paho.PUBACK, "mid": 0, "qos": 0, "pos": 0, "to_process": 3,
                                         "packet": b"ack", "info": None}]
    assert set(vars(Client)) & set(dir(paho.Client)) <= {
        "__module__", "__doc__", "__annotations__", "loop_read"}, "nothing else of paho is replaced"


def stream(more: bytes, other: bytes) -> bytes:
    """Every QoS, sent again, retained, too large, of a topic that is no UTF-8, and between them what paho answers.

    more: before each payload; other: before some, instead.
    """
    parts = []
    for number in range(40):
        qos = number % 3
        parts.append(publish("ab"[number % 2], (other if number % 5 == 0 else more) + document(x=number), qos=qos,
                             packet_id=number + 1, retain=number % 7 == 0))
        if qos == 2:
            parts.append(packet(PUBREL, 2, struct.pack(">H", number + 1)))
        if number == 20:
            parts += [packet(13, 0, b""), publish(b"\xff", more + b"1"),
                      publish("a", more + b"x" * (1024 * 1024 + 1)),
                      publish("b", more + b"x" * 3_000_000, qos=1, packet_id=99)]
    return b"".join(parts)


@pytest.mark.parametrize(("version", "more", "other"), [("3.1.1", b"", b""), ("5", b"\0", b"\x02\x01\x01")],
                         ids=["3.1.1", "5"])
@pytest.mark.parametrize("size", [7, 1_000, 10**9], ids=["crumbs", "pieces", "whole"])
async def test_both_ways_of_reading_find_and_answer_the_same(
        size: int, version: str, more: bytes, other: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = stream(more, other)
    if size == 7:  # the long messages would take long
        sent = sent[:sent.index(publish("a", more + b"x" * (1024 * 1024 + 1))[:20])]
    heard = []
    for is_fast in (True, False):
        monkeypatch.setattr(Link, "is_fast", is_fast)

        def script(peer: Peer) -> None:
            peer.accept()
            peer.grant()
            for at in range(0, len(sent), size):
                peer.send(sent[at:at + size])
            peer.send(publish("b", more + document(x=-1), qos=1, packet_id=999))
            peer.stay()

        sink = Recording()
        with broker(script) as server:
            async with running(Driver(json_endpoint(server.port, qos=2, mqtt_version=version), POINTS, sink)):
                await eventually(lambda sink=sink: sink.values(1)[-1:] == [-1.0])
                await eventually(lambda server=server: (PUBACK, struct.pack(">H", 999)) in server.seen)
        answers = Counter((kind, body) for kind, body in server.seen if kind in (PUBACK, PUBREC, PUBCOMP))
        # With QoS 2 paho hands a message over when it is released, and we when it comes: others may stand between.
        heard.append((sorted(sink.rows), sink.discards, answers, set(sink.codes())))
    assert heard[0] == heard[1]
    assert len(heard[0][0]) > 20


@pytest.mark.parametrize("blocked", [False, True], ids=["half", "nothing"])
def test_what_another_thread_queues_does_not_cut_acknowledgements(
        blocked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network takes some of them or nothing, and just then somebody publishes."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_socket_register_write = lambda *_: None
    acks, other, sent, calls = b"@\2\0\1@\2\0\2", b"another packet", bytearray(), 0

    def send(data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            client._packet_queue(paho.PINGREQ, other, 0, 0)
            if blocked:
                raise BlockingIOError
        sent.extend(data[:3])
        return len(data[:3])

    monkeypatch.setattr(client, "_sock_send", send)
    assert client._acknowledge(acks) == 0
    while client.want_write():
        client._packet_write()
    assert bytes(sent) == acks + other
