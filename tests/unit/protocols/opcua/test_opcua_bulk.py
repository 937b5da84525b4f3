"""The fast decoder against the plain one and against asyncua's, over generated messages of every kind."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, variant_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.opcua import bulk, codec, columns
from protocols.opcua.bulk import FEW, KNOWN_TEXTS_MAX, Decoder
from protocols.samples import fingerprint
from tests.unit.protocols.opcua.test_opcua_codec import SCALARS, data_value, publish, read, variants

VT = ua.VariantType
MESSAGES = int(os.environ.get("TALLYSTICK_MESSAGES", "3000"))
CHUNKS = 10
"""`TALLYSTICK_MESSAGES=100000` is the whole check, some two minutes. Each chunk is its share of the messages from one
seed: a failure names the seed and the message."""

TYPES = "?bBhHiIqQfd"
TIME = datetime(2026, 9, 1, 8, 0, 0, 123456, tzinfo=UTC)


def number(rng: random.Random, code: str) -> bytes:
    """Any bits of this type, so also NaN, infinities and integers beyond 2^53."""
    return rng.randbytes(struct.calcsize("<" + code))


def text(rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        return struct.pack("<i", rng.choice((-1, 0, -5)))
    raw = rng.choice(("on", "off", "运行", "x" * rng.randrange(300))).encode()
    return struct.pack("<i", len(raw)) + raw


ODD = [bytes(variant_to_binary(made)) for made in (
    ua.Variant([1.0, 2.0], VT.Double), ua.Variant([3], VT.Int16, is_array=True), ua.Variant(None, VT.Null),
    ua.Variant(TIME, VT.DateTime), ua.Variant(b"\1", VT.ByteString),
    ua.Variant(ua.LocalizedText("a"), VT.LocalizedText), ua.Variant(ua.NodeId(7, 2), VT.NodeId),
    ua.Variant(ua.QualifiedName("n", 1), VT.QualifiedName))]


def value(rng: random.Random, kind: str) -> bytes:
    """An encoded Variant."""
    if kind == "s":
        return b"\x0c" + text(rng)
    if kind == "o":
        return rng.choice(ODD)
    if kind == "c":
        return b"\x13" + rng.randbytes(4)
    return bytes([TYPES.index(kind) + 1]) + number(rng, kind)


def one(rng: random.Random, mask: int, kind: str) -> bytes:
    """A DataValue with the fields of `mask`, in the order of OPC 10000-6 5.2.2.17."""
    made = bytes([mask]) + (value(rng, kind) if mask & 0x01 else b"")
    for bit, size in ((0x02, 4), (0x04, 8), (0x10, 2), (0x08, 8), (0x20, 2)):
        if mask & bit:
            made += rng.randbytes(size) if rng.random() < 0.3 else bytes(size)
    return made


def message(rng: random.Random) -> tuple[list[tuple[int, str]], int]:
    """Choose (mask, kind) of each value, and how it goes on: as a run, mixed, or mixed with what is rare."""
    kinds = rng.choice(("d", rng.choice(TYPES), "dfi?H", "dsi", "dfi?Hs", TYPES + "sco"))
    masks = rng.choice(((0x05,), (rng.randrange(64),), (0x05, 0x07), (0x0D, 0x3D, 0x02), tuple(range(64))))
    return [(rng.choice(masks), rng.choice(kinds)) for _ in range(rng.randrange(FEW + 1, 24))], rng.randrange(10)


def read_body(values: list[bytes]) -> bytes:
    header = bytes([1, 0]) + struct.pack("<Hqii", codec.READ_RESPONSE, 0, 0, 0) + b"\0" + struct.pack("<i", 0)
    return header + b"\0\0\0" + struct.pack("<i", len(values)) + b"".join(values) + struct.pack("<i", -1)


def publish_body(values: list[bytes], handles: list[int]) -> bytes:
    items = b"".join(struct.pack("<I", handle) + made for handle, made in zip(handles, values, strict=True))
    change = struct.pack("<i", len(values)) + items + struct.pack("<i", -1)
    header = bytes([1, 0]) + struct.pack("<Hqii", codec.PUBLISH_RESPONSE, 0, 0, 0) + b"\0" + struct.pack("<i", 0)
    return (header + b"\0\0\0" + struct.pack("<IiB", 5, -1, 0) + struct.pack("<Iqi", 1, 0, 1) + bytes([1, 0])
            + struct.pack("<HBi", codec.DATA_CHANGE_NOTIFICATION, 1, len(change)) + change + struct.pack("<ii", -1, -1))


def agrees(decoder: Decoder, body: bytes, is_read: bool) -> bool:
    """Whether both say the same of these bytes, also that they cannot be read."""
    def outcome(decode: Callable[[], Any]) -> Any:
        try:
            return decode()
        except codec.UndecodableError:
            return "undecodable"

    if is_read:
        found, wanted = outcome(lambda: decoder.read(body)), outcome(lambda: columns.of(codec.decode_read(body)))
    else:
        found = outcome(lambda: decoder.publish(body)[1])
        wanted = outcome(lambda: columns.of(codec.decode_publish(body).items))
    return found == wanted if isinstance(wanted, str) else columns.same(found, wanted)


@pytest.mark.parametrize("seed", range(CHUNKS))
def test_the_fast_way_says_what_the_plain_one_says(seed: int) -> None:
    """Messages come as servers send them: some times in the same layout, then in another; some are damaged."""
    rng = random.Random(seed)
    done, decoder = 0, Decoder()
    while done < MESSAGES // CHUNKS:
        layout, again = message(rng)
        is_read = rng.random() < 0.5
        handles = [rng.randrange(2**32) for _ in layout]
        for _ in range(again + 1):
            values = [one(rng, mask, kind) for mask, kind in layout]
            body = read_body(values) if is_read else publish_body(values, handles)
            if rng.random() < 0.1:
                damaged = bytearray(body)
                damaged[rng.randrange(len(body))] = rng.randrange(256)
                body = bytes(damaged[:rng.randrange(len(body)) if rng.random() < 0.5 else None])
            assert agrees(decoder, body, is_read), f"message {done} of seed {seed}: {body.hex()}"
            done += 1


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(variants(), st.sampled_from([None, 0, 0x40000000, 0x80340000]),
                               st.sampled_from([None, TIME]), st.sampled_from([None, TIME])),
                     min_size=FEW + 1, max_size=20))
def test_what_asyncua_encodes_comes_out_the_same(rows: list[tuple[Any, Any, Any, Any]]) -> None:
    values, decoder = [data_value(*row) for row in rows], Decoder()
    for _ in range(2):  # the second time by what was learnt from the first
        assert agrees(decoder, publish(values), False)
        assert agrees(decoder, read(values), True)


@pytest.mark.parametrize("kind", [kind for kind in SCALARS if kind.value in bulk.NUMBERS], ids=lambda kind: kind.name)
def test_numbers_are_those_of_asyncuas_own_decoder(kind: Any) -> None:
    @settings(max_examples=20)
    @given(st.lists(SCALARS[kind], min_size=FEW + 1, max_size=30))
    def check(numbers: list[Any]) -> None:
        body = publish([data_value(ua.Variant(number, kind), 0, TIME) for number in numbers])
        (change,) = struct_from_binary(ua.PublishResponse, Buffer(body)).Parameters.NotificationMessage.NotificationData
        theirs = [item.Value.Value.Value for item in change.MonitoredItems]
        theirs = [float(number.value if isinstance(number, ua.StatusCode) else number)
                  if isinstance(number, float | ua.StatusCode) or abs(number) <= 2**53
                  else fingerprint(str(number).encode()) for number in theirs]
        _, ours = Decoder().publish(body)
        assert np.array_equal(ours.value, np.array(theirs), equal_nan=True)
        assert ours.handle.tolist() == [item.ClientHandle for item in change.MonitoredItems]

    check()


def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which of the ways to decode were gone."""
    gone: list[str] = []
    for name in ("_walk", "_of_run"):
        real = getattr(bulk, name)
        monkeypatch.setattr(bulk, name, lambda *args, name=name, real=real: (gone.append(name), real(*args))[1])
    return gone


def test_a_layout_is_learnt_once_and_learnt_anew_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    gone, decoder, rng = ways(monkeypatch), Decoder(), random.Random(1)
    mixed = [(0x05, kind) for kind in "dfi?H" * 10]

    def told(layout: list[tuple[int, str]]) -> columns.Columns:
        body = publish_body([one(rng, mask, kind) for mask, kind in layout], list(range(len(layout))))
        assert agrees(Decoder(), body, False)
        gone.clear()
        return decoder.publish(body)[1]

    told(mixed)
    assert gone == ["_walk"]
    told(mixed)
    assert gone == [], "the template fits"
    told(mixed[1:])
    assert gone == ["_walk"]
    told([(0x05, "d")] * 50)
    assert gone == ["_of_run"]
    told(mixed[1:])
    assert gone == [], "a run between leaves the template"


def test_strings_of_other_lengths_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    gone, decoder = ways(monkeypatch), Decoder()

    def told(*texts: str | None) -> columns.Columns:
        values = [data_value(ua.Variant(made, VT.String), 0, TIME) for made in texts]
        values += [data_value(ua.Variant(float(place), VT.Double), 0, TIME) for place in range(10)]
        body = read(values)
        gone.clear()
        found = decoder.read(body)
        assert columns.same(found, columns.of(codec.decode_read(body)))
        return found

    assert told("ab", "运行", None, "").texts == ((0, "ab"), (1, "运行"), (3, ""))
    assert told("cd", "停止", None, "").texts == ((0, "cd"), (1, "停止"), (3, ""))
    assert gone == [], "other texts of the same lengths"
    assert told("abc", None, "x" * 100, "").texts == ((0, "abc"), (2, "x" * 100), (3, ""))
    assert gone == [], "of other lengths"
    assert told("", "a", "b", "c", "d").texts == ((0, ""), (1, "a"), (2, "b"), (3, "c"), (4, "d"))
    assert gone == ["_walk"]


def test_remembered_texts_are_bounded() -> None:
    decoder = Decoder()
    for start in range(0, 3 * KNOWN_TEXTS_MAX, 1000):
        decoder.read(read([data_value(ua.Variant(f"text {start + place}", VT.String)) for place in range(1000)]))
    assert len(decoder._known) <= KNOWN_TEXTS_MAX
    decoder.read(read([data_value(ua.Variant("y" * 10_000, VT.String))] * 20))
    assert b"y" * 10_000 not in decoder._known


def test_several_notifications_in_one_message_are_behind_each_other() -> None:
    parts = [columns.of(codec.Items(handle=[1], value=[2.0], status=[0], ticks=[3], type_id=[11])),
             columns.of(codec.Items(handle=[4], value=[5.0], status=[6], ticks=[7], type_id=[12], texts=[(0, "t")],
                                    undecodable=2))]
    whole = columns.joined(parts)
    assert (whole.handle.tolist(), whole.value.tolist(), whole.texts, whole.undecodable) == ([1, 4], [2.0, 5.0],
                                                                                          ((1, "t"),), 2)
    assert columns.joined(parts, handles_of_reads=True).handle.tolist() == [0, 1]
    assert len(columns.joined([])) == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_responses_of_one_list_are_one_answer(seed: int) -> None:
    """Runs of one layout become one array; where one is anything else, all are read for themselves."""
    rng = random.Random(seed)
    sizes = [rng.randrange(1, 40) for _ in range(5)]
    kinds = ["d" if seed < 2 else rng.choice("dis") for _ in range(5)]
    bodies = [read_body([one(rng, 0x05, kind) for _ in range(size)]) for size, kind in zip(sizes, kinds, strict=True)]
    wanted = columns.joined([columns.of(codec.decode_read(body)) for body in bodies], handles_of_reads=True)
    found = bulk.read_all([(size, Decoder(), body) for size, body in zip(sizes, bodies, strict=True)])
    assert columns.same(found, wanted)
    with pytest.raises(codec.UndecodableError, match="asked"):
        bulk.read_all([(sizes[0] + 1, Decoder(), bodies[0])])


@pytest.mark.parametrize("kinds", ["ddd", "did"])
def test_value_by_value_a_round_of_reads_is_the_same(kinds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    bodies = [read_body([one(rng, 0x05, kind) for _ in range(30)]) for kind in kinds]
    swift = bulk.read_all([(30, Decoder(), body) for body in bodies])
    monkeypatch.setattr(Decoder, "is_fast", False)
    assert columns.same(swift, bulk.read_all([(30, Decoder(), body) for body in bodies]))
    with pytest.raises(codec.UndecodableError, match="asked"):
        bulk.read_all([(31, Decoder(), body) for body in bodies])


@pytest.mark.parametrize("is_fast", [True, False])
def test_of_a_round_none_may_be_cut_or_hold_more_than_was_asked(is_fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "is_fast", is_fast)
    rng = random.Random(6)
    bodies = [read_body([one(rng, 0x05, "d") for _ in range(30)]) for _ in range(3)]
    with pytest.raises(codec.UndecodableError, match="29 values asked"):
        bulk.read_all([(30, Decoder(), bodies[0]), (29, Decoder(), bodies[1])])
    for cut in (0, 1, 2):
        found = bulk.read_all([(30, Decoder(), body[:-6] if at == cut else body) for at, body in enumerate(bodies)])
        assert np.flatnonzero(found.status).tolist() == [30 * cut + 29]
        assert len(found) == 90


def test_a_row_that_cannot_be_read_has_a_place_and_no_good_value() -> None:
    values = [one(random.Random(1), 0x05, "d") for _ in range(20)]
    values[15] = b"\x01\x3f" + bytes(20)
    found = bulk.read_all([(20, Decoder(), read_body(values)), (20, Decoder(), read_body(values[:15] + values[:5]))])
    assert found.handle.tolist() == list(range(40))
    assert found.undecodable == 0
    assert found.status.tolist() == [0] * 15 + [bulk.BAD_DECODING_ERROR] * 5 + [0] * 20
    assert np.isnan(found.value[15:20]).all()
    assert len(bulk.read_all([])) == 0
