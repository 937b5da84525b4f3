"""The stream cut into messages: any bytes in any pieces, properties, QoS 2, and what is too long or no MQTT at all."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import _packet  # the same packets, read by another hand
from paho.mqtt.enums import MQTTProtocolVersion

from protocols.mqtt import frames
from protocols.mqtt.frames import KEPT, PAYLOAD_MAX, RETAINED, Arrived, Batch, FrameError, Frames, Messages, Packet
from tests.unit.protocols.mqtt.scripted_broker import packet, publish

OURS = 300
IDENTIFIED = b"\x0b\xac\x02"  # subscription identifier 300
PROPERTIES = b"\x01\x01" + b"\x02\0\0\0\x09" + b"\x03\0\x01t" + b"\x08\0\0" + b"\x09\0\x02ab" + b"\x26\0\x01k\0\x01v"


def v5(topic: bytes, payload: bytes, properties: bytes = b"", *, qos: int = 0, packet_id: int = 1,
       retain: bool = False) -> bytes:
    length = packet(0, 0, properties)[1:]  # with its length before it, as properties have it
    return publish(topic, length + payload, qos=qos, packet_id=packet_id, retain=retain)


def cut(data: bytes, *, into: Frames | None = None) -> tuple[list[Arrived], bytes, list[Packet]]:
    messages: list[Arrived] = []
    acks, packets = b"", []
    for part in (into or Frames()).cut(data):
        if isinstance(part, Batch):
            messages += part.messages
            acks += part.acks
        else:
            packets.append(part)
    return messages, acks, packets


def test_messages_and_their_acknowledgements() -> None:
    stream = (publish("a", b"0") + publish("b", b"1", qos=1, packet_id=7, retain=True)
              + publish("c", b"", qos=2, packet_id=8) + publish("c", b"again", qos=2, packet_id=8)
              + packet(6, 2, b"\0\x08") + publish("c", b"anew", qos=2, packet_id=8))
    messages, acks, packets = cut(stream)
    assert messages == [(b"a", b"0", 0), (b"b", b"1", RETAINED), (b"c", b"", 0), (b"c", b"anew", 0)]
    assert acks == b"\x40\x02\0\x07" + 3 * b"\x50\x02\0\x08"
    assert packets == [Packet(0x62, b"\0\x08")]


def test_everything_else_keeps_its_place() -> None:
    suback = packet(9, 0, b"\0\x01\x01")
    parts = list(Frames().cut(publish("a", b"0", retain=True) + suback + publish("a", b"1") + packet(13, 0, b"")))
    assert [list(part.messages) if isinstance(part, Batch) else part.head for part in parts] == [
        [(b"a", b"0", RETAINED)], 0x90, [(b"a", b"1", 0)], 0xD0]
    assert parts[0] == Batch(Messages.of([(b"a", b"0", RETAINED)]), b"", len(publish("a", b"0")))


def test_properties_and_what_was_kept_for_us() -> None:
    stream = (v5(b"a", b"0") + v5(b"a", b"1", PROPERTIES) + v5(b"a", b"2", PROPERTIES + IDENTIFIED)
              + v5(b"a", b"3", b"\x0b\x07" + IDENTIFIED, qos=1) + v5(b"a", b"4", b"\x0b\x07", retain=True))
    plain = [(b"a", str(n).encode(), RETAINED if n == 4 else 0) for n in range(5)]
    assert cut(stream, into=Frames(is_v5=True))[0] == plain
    kept = cut(stream, into=Frames(is_v5=True, subscription_id=OURS))[0]
    assert [marks for _, _, marks in kept] == [KEPT, KEPT, 0, 0, KEPT | RETAINED]


@pytest.mark.parametrize("properties", [b"\x0b", b"\x0b\xff\xff\xff\xff\x01", b"\x63\0", b"\x01", b"\x08\0\x09ab",
                                        b"\x26\0\x01k"], ids=["cut", "endless", "unknown", "byte", "text", "pair"])
def test_properties_that_are_none(properties: bytes) -> None:
    arrived: list[Arrived] = []
    reader = Frames(is_v5=True, subscription_id=OURS)
    with pytest.raises(FrameError):
        for part in reader.cut(v5(b"a", b"0", IDENTIFIED) + v5(b"a", b"1", properties)):
            assert isinstance(part, Batch)
            arrived += part.messages
    assert arrived == [(b"a", b"0", 0)], "what came before the error was received"


@pytest.mark.parametrize("wrong", [
    b"\x30\xff\xff\xff\xff\x01", b"\x30\x01\0", b"\x30\x03\0\x05a", b"\x32\x04\0\x01a\0", b"\x36\x06\0\x01a\0\x01x",
    b"\x30\x02\0\0", b"\x20" + b"\xff\xff\xff\x7f", b"\x30\x05\0\0abc", b"\x30\x05\0\x09abc", b"\x32\x05\0\x02abc"],
    ids=["length", "no topic", "short topic", "no id", "qos 3", "empty topic", "large connack", "empty topic, payload",
         "short topic, payload", "half an id"])
def test_what_is_no_mqtt(wrong: bytes) -> None:
    parts = Frames().cut(publish("a", b"0") + wrong)
    assert next(parts) == Batch(Messages.of([(b"a", b"0", 0)]), b"", len(publish("a", b"0")))
    with pytest.raises(FrameError):
        next(parts)


def test_a_long_message_is_dropped_while_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "BODY_MAX", 1_000)
    stream = (publish("long", b"x" * 5_000, qos=1, packet_id=5) + publish("longer", b"x" * 9_000, qos=2, packet_id=6)
              + publish("a", b"1"))
    for piece in (1, 7, 400, 6_000, len(stream)):
        reader, messages, acks = Frames(), [], b""
        for at in range(0, len(stream), piece):
            more, ack, _ = cut(stream[at:at + piece], into=reader)
            messages += more
            acks += ack
            assert len(reader._rest) <= 1_000
        whole = piece > 5_000  # what was here in one piece needed no dropping
        assert [(topic, body is None or whole) for topic, body, _ in messages[:2]] == [(b"long", True),
                                                                                       (b"longer", True)]
        assert messages[2:] == [(b"a", b"1", 0)] and acks == b"\x40\x02\0\x05\x50\x02\0\x06"


def test_a_payload_that_is_too_large_is_none() -> None:
    messages, _, _ = cut(publish("a", b"x" * (PAYLOAD_MAX + 1)) + publish("a", b"x" * PAYLOAD_MAX))
    assert [None if body is None else len(body) for _, body, _ in messages] == [None, PAYLOAD_MAX]


def streams() -> st.SearchStrategy[list[bytes]]:
    message = st.builds(
        lambda topic, body, qos, number, retain: publish(topic, body, qos=qos, packet_id=number, retain=retain),
        st.binary(min_size=1, max_size=300), st.binary(max_size=200), st.integers(0, 2), st.integers(1, 5),
        st.booleans())
    other = st.sampled_from([packet(13, 0, b""), packet(6, 2, b"\0\x01"), packet(9, 0, b"\0\x01\x01")])
    return st.lists(st.one_of(message, other), max_size=12)


@settings(max_examples=150, deadline=None)
@given(sent=streams(), pieces=st.lists(st.integers(1, 400), min_size=1, max_size=9))
def test_pieces_change_nothing_and_paho_reads_the_same(sent: list[bytes], pieces: list[int]) -> None:
    stream = b"".join(sent)
    reader, messages, acks, at, turn = Frames(), [], b"", 0, 0
    while at < len(stream):
        piece = stream[at:at + pieces[turn % len(pieces)]]
        at, turn = at + len(piece), turn + 1
        more, ack, _ = cut(piece, into=reader)
        messages += more
        acks += ack
    assert (messages, acks) == cut(stream)[:2]
    expected, open_ids = [], set()
    for one in sent:
        body = one[_packet_start(one):]
        if one[0] == 0x62:
            open_ids.discard(struct.unpack(">H", body)[0])
        if one[0] >> 4 != 3:
            continue
        read = _packet.decode_publish(one[0], body, MQTTProtocolVersion.MQTTv311)
        if read.qos == 2 and read.mid in open_ids:
            continue
        if read.qos == 2:
            open_ids.add(read.mid)
        expected.append((read.topic, read.payload, RETAINED if read.retain else 0))
    assert [(bytes(topic), bytes(body), marks) for topic, body, marks in expected] == messages


def _packet_start(one: bytes) -> int:
    return 2 + next(i for i, byte in enumerate(one[1:5]) if byte < 128)


@settings(max_examples=300, deadline=None)
@given(stream=st.binary(max_size=400), is_v5=st.booleans(), own=st.sampled_from([None, OURS]))
def test_any_bytes_are_cut_or_refused(stream: bytes, is_v5: bool, own: int | None) -> None:
    reader = Frames(is_v5=is_v5, subscription_id=own)
    try:
        for part in reader.cut(stream):
            assert not isinstance(part, Batch) or part.size <= len(stream)
    except FrameError:
        return


def test_beginnings_that_never_come_again_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "PLACES_MAX", 10)
    reader = Frames()
    sent = [(b"t" * (1 + n % 7), b"x" * n, 0) for n in range(300)]
    assert cut(b"".join(publish(topic, payload) for topic, payload, _ in sent), into=reader)[0] == sent
    assert 0 < len(reader._places) <= 10
