"""Our decoder against asyncua's encoder, and against bytes written by hand where asyncua departs from the standard."""

from __future__ import annotations

import struct
import uuid
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import extensionobject_to_binary, struct_from_binary, struct_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.opcua import codec, columns
from protocols.samples import BAD, GOOD, NO_SOURCE_TIME, UNCERTAIN, fingerprint

VT = ua.VariantType
TIME = datetime(2026, 9, 1, 8, 0, 0, 123456, tzinfo=UTC)


def data_value(variant: ua.Variant | None, status: int | None = None, source: datetime | None = None,
               server: datetime | None = None) -> ua.DataValue:
    return ua.DataValue(Value=variant, StatusCode=None if status is None else ua.StatusCode(status),
                        SourceTimestamp=source, ServerTimestamp=server)


def publish(values: list[ua.DataValue], *, handles: list[int] | None = None, number: int = 7) -> bytes:
    response = ua.PublishResponse()
    response.ResponseHeader.StringTable = ["one", "two"]
    result = response.Parameters
    result.SubscriptionId = 5
    result.AvailableSequenceNumbers = [6, 7]
    result.NotificationMessage.SequenceNumber = number
    if values:
        change = ua.DataChangeNotification()
        change.MonitoredItems = [
            ua.MonitoredItemNotification(ClientHandle=handles[i] if handles else i, Value=value)
            for i, value in enumerate(values)]
        result.NotificationMessage.NotificationData = [change]
    return struct_to_binary(response)


def read(values: list[ua.DataValue]) -> bytes:
    response = ua.ReadResponse()
    response.Results = values
    return struct_to_binary(response)


SCALARS: dict[Any, Any] = {
    VT.Boolean: st.booleans(), VT.SByte: st.integers(-128, 127), VT.Byte: st.integers(0, 255),
    VT.Int16: st.integers(-2**15, 2**15 - 1), VT.UInt16: st.integers(0, 2**16 - 1),
    VT.Int32: st.integers(-2**31, 2**31 - 1), VT.UInt32: st.integers(0, 2**32 - 1),
    VT.Int64: st.integers(-2**63, 2**63 - 1), VT.UInt64: st.integers(0, 2**64 - 1),
    VT.Float: st.floats(width=32), VT.Double: st.floats(),
    VT.String: st.text(st.characters(codec="utf-8"), max_size=20), VT.ByteString: st.binary(max_size=20),
    VT.Guid: st.uuids(), VT.DateTime: st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)),
    VT.StatusCode: st.integers(0, 2**32 - 1).map(ua.StatusCode),
    VT.NodeId: st.builds(ua.NodeId, st.integers(0, 2**31) | st.text("abc") | st.uuids(), st.integers(1, 9)),
    VT.QualifiedName: st.builds(ua.QualifiedName, st.text("abc"), st.integers(0, 9)),
    VT.LocalizedText: st.builds(ua.LocalizedText, st.text("abc", min_size=1), st.sampled_from([None, "zh", "en"])),
}


@st.composite
def variants(draw: st.DrawFn) -> ua.Variant:
    kind = draw(st.sampled_from(list(SCALARS)))
    if draw(st.booleans()):
        return ua.Variant(draw(SCALARS[kind]), kind)
    return ua.Variant(draw(st.lists(SCALARS[kind], max_size=4)), kind, is_array=True)


def expected(variant: ua.Variant) -> float | None:
    """What a float64 holds exactly, None where a fingerprint stands for the value."""
    value = variant.Value
    if variant.is_array:
        if len(value) != 1:
            return None
        value = value[0]
    if isinstance(value, ua.StatusCode):
        return float(value.value)
    if isinstance(value, bool | int | float):
        return float(value) if abs(value) <= 2**53 or isinstance(value, float) else None
    return None


@settings(max_examples=300)
@given(rows=st.lists(st.tuples(variants(), st.sampled_from([None, 0, 0x40000000, 0x80340000]),
                               st.sampled_from([None, TIME]), st.sampled_from([None, TIME])), min_size=1, max_size=6))
def test_decodes_what_asyncua_encodes(rows: list[tuple[Any, Any, Any, Any]]) -> None:
    values = [data_value(*row) for row in rows]
    for items in (codec.decode_publish(publish(values)).items, codec.decode_read(read(values))):
        assert items.undecodable == 0
        assert items.handle == list(range(len(rows)))
        texts = dict(items.texts)
        for i, (variant, status, source, _server) in enumerate(rows):
            wanted = expected(variant)
            if wanted is None:
                assert i in texts
                assert 0 <= items.value[i] < 2**52
            else:
                assert i not in texts
                assert items.value[i] == wanted or (np.isnan(wanted) and np.isnan(items.value[i]))
            assert items.status[i] == (status or 0)
            assert (items.ticks[i] != 0) == (source is not None)
            assert items.type_id[i] == variant.VariantType.value


def test_agrees_with_asyncuas_own_decoder_on_a_large_notification() -> None:
    values = [data_value(ua.Variant(float(i), VT.Double), 0, TIME, TIME) for i in range(2000)]
    body = publish(values)
    theirs = struct_from_binary(ua.PublishResponse, Buffer(body)).Parameters
    ours = codec.decode_publish(body)
    assert (ours.subscription_id, ours.sequence_number) == (theirs.SubscriptionId, 7)
    (change,) = theirs.NotificationMessage.NotificationData
    assert ours.items.value == [item.Value.Value.Value for item in change.MonitoredItems]
    assert ours.items.handle == [item.ClientHandle for item in change.MonitoredItems]
    ns = columns.time_ns_of(np.array(ours.items.ticks))
    assert set(ns.tolist()) == {int(TIME.timestamp()) * 10**9 + 123_456_000}


def test_republish_has_the_same_message() -> None:
    response = ua.RepublishResponse()
    response.NotificationMessage.SequenceNumber = 9
    change = ua.DataChangeNotification()
    change.MonitoredItems = [ua.MonitoredItemNotification(ClientHandle=3, Value=ua.DataValue(ua.Variant(1.5)))]
    response.NotificationMessage.NotificationData = [change]
    decoded = codec.decode_republish(struct_to_binary(response), 5)
    assert (decoded.subscription_id, decoded.sequence_number, decoded.items.value) == (5, 9, [1.5])


def test_keep_alive_and_status_change() -> None:
    assert codec.decode_publish(publish([])).is_keep_alive
    response = ua.PublishResponse()
    response.Parameters.NotificationMessage.NotificationData = [
        ua.StatusChangeNotification(Status=ua.StatusCode(ua.StatusCodes.BadTimeout))]
    decoded = codec.decode_publish(struct_to_binary(response))
    assert (decoded.closed_status, decoded.is_keep_alive) == (ua.StatusCodes.BadTimeout, False)


def test_encoding_ids_are_those_of_asyncua() -> None:
    for name, number in (
        ("ReadResponse", codec.READ_RESPONSE), ("PublishResponse", codec.PUBLISH_RESPONSE),
        ("RepublishResponse", codec.REPUBLISH_RESPONSE), ("DataChangeNotification", codec.DATA_CHANGE_NOTIFICATION),
        ("StatusChangeNotification", codec.STATUS_CHANGE_NOTIFICATION),
    ):
        assert getattr(ua.ObjectIds, f"{name}_Encoding_DefaultBinary") == number
    assert [kind.name for kind in VT] == list(codec.TYPE_NAMES)


def hand_made(item: bytes, count: int = 1) -> bytes:
    """A PublishResponse around the encoded items, written by hand from OPC 10000-6."""
    change = struct.pack("<i", count) + item + struct.pack("<i", -1)
    header = bytes([1, 0]) + struct.pack("<Hqii", 829, 0, 0, 0) + b"\0" + struct.pack("<i", 0) + b"\0\0\0"
    return (header + struct.pack("<IiB", 5, -1, 0) + struct.pack("<Iq", 1, 0) + struct.pack("<i", 1)
            + bytes([1, 0]) + struct.pack("<H", 811) + b"\1" + struct.pack("<i", len(change)) + change
            + struct.pack("<ii", -1, -1))


def test_source_picoseconds_come_before_the_server_time() -> None:
    """OPC 10000-6 5.2.2.17 and open62541; asyncua reads both times first and gets year 1601 for the second."""
    source, server = columns.EPOCH_TICKS + 10, columns.EPOCH_TICKS + 20
    first = struct.pack("<IBBdqHqH", 0, 0x3D, 11, 2.5, source, 7, server, 8)
    second = struct.pack("<IBBd", 1, 0x01, 11, 3.5)
    items = codec.decode_publish(hand_made(first + second, 2)).items
    assert (items.value, items.ticks, items.undecodable) == ([2.5, 3.5], [source, 0], 0)


def test_one_unreadable_value_costs_itself_and_what_follows_not_what_came_before() -> None:
    good = struct.pack("<IBBd", 4, 0x01, 11, 2.5)
    bad = struct.pack("<IBB", 5, 0x01, 0x3F)
    decoded = codec.decode_publish(hand_made(good + bad + good, 3))
    assert (decoded.items.handle, decoded.items.undecodable, decoded.sequence_number) == ([4], 2, 1)


@pytest.mark.parametrize(("value", "kind"), [
    (b"\x96" + struct.pack("<i", 2**31 - 1), "array of extension objects that cannot fit"),
    (b"\x8b" + struct.pack("<i", 2**31 - 1), "array of doubles that cannot fit"),
    (b"\x0c" + struct.pack("<i", 2**31 - 1), "string that cannot fit"),
    (b"\x18" * 5000, "variants in variants"),
    (b"\x19" + b"\x40" * 5000, "diagnostics in diagnostics"),
    (b"\x17" + b"\x01\x17" * 5000, "data values in data values"),
    (b"\x16\x06", "node id of no form"),
    (b"\x0b\0\0\0", "cut double"),
    (b"", "nothing"),
])
def test_hostile_values_are_refused_quickly(value: bytes, kind: str) -> None:
    items = codec.decode_publish(hand_made(struct.pack("<IB", 0, 0x01) + value)).items
    assert (items.value, items.undecodable) == ([], 1), kind


def test_array_of_nothing_takes_no_memory() -> None:
    item = struct.pack("<IBBi", 0, 0x01, 0x80, 2**31 - 1)
    assert codec.decode_publish(hand_made(item)).items.texts == [(0, f"Null[{2**31 - 1}]")]


def test_matrix_with_dimensions_and_unknown_structure_are_stepped_over() -> None:
    matrix = struct.pack("<IBBi4i", 0, 0x01, 0xC6, 4, 1, 2, 3, 4) + struct.pack("<iii", 2, 2, 2)
    body = b"\1\2\3"
    unknown = struct.pack("<IBB", 1, 0x01, 22) + bytes([1, 9]) + struct.pack("<HBi", 77, 1, len(body)) + body
    last = struct.pack("<IBBh", 2, 0x01, 4, -5)
    items = codec.decode_publish(hand_made(matrix + unknown + last, 3)).items
    assert items.texts == [(0, "Int32[4]"), (1, "ExtensionObject")]
    assert items.value[2] == -5.0


@given(st.binary(max_size=200))
def test_noise_is_undecodable_and_nothing_else(noise: bytes) -> None:
    for decode in (codec.decode_publish, codec.decode_read):
        with pytest.raises(codec.UndecodableError):
            decode(noise)


@settings(max_examples=200)
@given(st.data())
def test_any_damaged_response_is_decoded_or_undecodable(data: st.DataObject) -> None:
    values = [data_value(ua.Variant(["a", "bc"], VT.String), 0, TIME), data_value(ua.Variant(2.0, VT.Double), 0, TIME),
              data_value(ua.Variant(ua.Variant(3, VT.Int32), VT.Variant), 0)]
    body = bytearray(publish(values))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = codec.decode_publish(bytes(body[:data.draw(st.integers(0, len(body)))]))
    except codec.UndecodableError:
        return
    n = len(decoded.items.value)
    assert all(len(column) == n for column in (decoded.items.handle, decoded.items.status, decoded.items.ticks))
    columns.batch_of(columns.of(decoded.items), np.arange(3, dtype=np.int64), 1)


@pytest.mark.parametrize(("status", "quality"), [
    (0, GOOD), (0x00000480, GOOD), (0x40000000, UNCERTAIN), (0x40AB0000, UNCERTAIN), (0x80000000, BAD),
    (0x80340000, BAD), (0xC0000000, BAD)])
def test_quality_is_the_severity(status: int, quality: int) -> None:
    assert columns.quality_of(np.array([status], dtype=np.uint32)).tolist() == [quality]


@pytest.mark.parametrize(("status", "overflow"), [
    (0x00000480, True), (0x40000480, True), (0x00000080, False), (0x00000400, False), (0x00000C80, False), (0, False)])
def test_overflow_needs_the_info_type_of_a_data_value(status: int, overflow: bool) -> None:
    assert columns.has_overflow(np.array([status], dtype=np.uint32)).tolist() == [overflow]


def test_source_times_at_the_ends_of_the_calendar() -> None:
    ticks = [0, columns.EPOCH_TICKS, columns.EPOCH_TICKS + 1, 1, 2**63 - 1, -2**63]
    ns = columns.time_ns_of(np.array(ticks, dtype=np.int64)).tolist()
    assert ns[:3] == [NO_SOURCE_TIME, 1, 100]
    assert ns[3] < -9 * 10**18
    assert ns[4] > 9 * 10**18
    assert ns[5] < -9 * 10**18


def test_equal_values_have_equal_fingerprints_and_null_is_no_value() -> None:
    ident = uuid.UUID(int=7)
    variants_ = [ua.Variant("on", VT.String), ua.Variant("on", VT.String), ua.Variant("off", VT.String),
                 ua.Variant(ident, VT.Guid), ua.Variant(2**53 + 1, VT.UInt64), ua.Variant(None, VT.Null),
                 ua.Variant(b"\1", VT.ByteString), ua.Variant(TIME, VT.DateTime)]
    items = codec.decode_read(read([data_value(v) for v in variants_]))
    assert items.value[0] == items.value[1] == fingerprint(b"on") != items.value[2]
    assert items.value[6] == fingerprint(b"\1")
    assert np.isnan(items.value[5])
    assert dict(items.texts) == {0: "on", 1: "on", 2: "off", 3: str(ident), 4: str(2**53 + 1), 6: "01",
                                 7: TIME.isoformat()}


def test_long_texts_are_cut_and_their_fingerprints_are_not() -> None:
    a, b = "x" * 10**6 + "a", "x" * 10**6 + "b"
    items = codec.decode_read(read([data_value(ua.Variant(t, VT.String)) for t in (a, b)]))
    assert items.value[0] != items.value[1]
    assert {len(text) for _, text in items.texts} == {codec.TEXT_CHARS_MAX}


def test_handles_outside_the_roster_are_left_out_with_their_texts() -> None:
    values = [data_value(ua.Variant(t, VT.String), 0) for t in "abc"]
    decoded = codec.decode_publish(publish(values, handles=[1, 9, 0]))
    batch, positions = columns.batch_of(columns.of(decoded.items), np.array([70, 71], dtype=np.int64), 5)
    assert positions.tolist() == [1, 0]
    assert batch.point_index.tolist() == [71, 70]
    assert batch.texts == ((0, "a"), (1, "c"))
    assert batch.received_ns.tolist() == [5, 5]


def test_extension_object_of_asyncua_is_stepped_over() -> None:
    argument = ua.Argument(Name="speed")
    encoded = extensionobject_to_binary(argument)
    item = struct.pack("<IBB", 0, 0x01, 22) + encoded
    items = codec.decode_publish(hand_made(item + struct.pack("<IBBd", 1, 0x01, 11, 1.0), 2)).items
    assert items.value[1] == 1.0
