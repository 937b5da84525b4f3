"""Sparkplug payloads: bytes made by hand, so that neither our schema nor a library writes what it then reads."""

from __future__ import annotations

import gzip
import math
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DeviceError
from protocols.mqtt import codec
from protocols.mqtt.births import AliasTable
from protocols.mqtt.codec import Tally
from protocols.mqtt.columns import Columns
from protocols.samples import BAD, GOOD, NOT_LIVE, UNCERTAIN, SampleBatch, fingerprint
from tests.support.source import ROOT

EMPTY = AliasTable({}, {})


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def number(field: int, value: int) -> bytes:
    """A varint field."""
    return varint(field << 3) + varint(value % 2**64)


def block(field: int, body: bytes) -> bytes:
    """A length-delimited field."""
    return varint(field << 3 | 2) + varint(len(body)) + body


def metric(*fields: bytes) -> bytes:
    return block(2, b"".join(fields))


def read(body: bytes, points: dict[str, int], table: AliasTable | None = None) -> tuple[SampleBatch | None, Tally]:
    frame = codec.parse(body, where="t")
    columns = Columns()
    tally = codec.add_metrics(frame, codec.alias_table(frame, points) if table is None else table, points, 7, columns)
    assert tally.delivered + tally.unknown_point + tally.undecodable == frame.samples
    return columns.take(), tally


def one(*fields: bytes) -> tuple[float, int, str | None] | None:
    """Value, quality and text of one metric named M; None if it could not be decoded."""
    batch, tally = read(metric(block(1, b"M"), *fields), {"M": 3})
    if batch is None:
        assert tally == Tally(0, 0, 1, 0)
        return None
    assert batch.point_index.tolist() == [3] and batch.received_ns.tolist() == [7]
    return float(batch.value[0]), int(batch.quality[0]), batch.texts[0][1] if batch.texts else None


def test_a_whole_birth_byte_by_byte() -> None:
    # timestamp 1 700 000 000 000, metric {name "T", alias 5, timestamp ...001, datatype 10, double 36.6}, seq 0
    body = bytes.fromhex("08 80 d0 95 ff bc 31"
                         "12 17 0a 01 54 10 05 18 81 d0 95 ff bc 31 20 0a 69 cd cc cc cc cc 4c 42 40"
                         "18 00")
    frame = codec.parse(body, where="spBv1.0/G/NBIRTH/N")
    assert (frame.sent_ms, frame.seq, frame.bd_seq, frame.samples) == (1_700_000_000_000, 0, None, 1)
    table = codec.alias_table(frame, {"T": 42})
    assert table.by_alias[5] == table.by_name["T"] == codec.Binding("T", 10, 42)
    batch, tally = read(body, {"T": 42})
    assert batch is not None and tally == Tally(1, 0, 0, 0)
    assert (batch.point_index.tolist(), batch.value.tolist()) == ([42], [36.6])
    assert batch.source_ns.tolist() == [1_700_000_000_001_000_000]


@pytest.mark.parametrize(("datatype", "field", "raw", "value"), [
    (1, 10, 0xFF, -1), (1, 10, 0xFFFFFFFF, -1), (1, 10, 0x80, -128), (1, 10, 127, 127), (1, 10, 128 + 1, -127),
    (1, 10, 300, None), (1, 10, 0xFFFFFF00, None), (1, 11, 2**64 - 5, -5),
    (2, 10, 0xFFFF, -1), (2, 10, 0x7FFF, 32767), (2, 10, 0x10000, None),
    (3, 10, 0xFFFFFFFE, -2), (3, 10, 2**31 - 1, 2**31 - 1), (3, 11, 2**32, None),
    (4, 11, 2**64 - 9, -9), (4, 10, 7, 7), (4, 11, 2**53, 2**53),
    (5, 10, 255, 255), (5, 10, 256, None), (6, 10, 65535, 65535), (6, 10, 65536, None),
    (7, 10, 2**32 - 1, 2**32 - 1), (8, 11, 2**53, 2**53), (13, 11, 1_700_000_000_000, 1_700_000_000_000),
    (0, 10, 1, None), (9, 10, 1, None), (11, 10, 1, None), (12, 10, 1, None), (99, 10, 1, None), (16, 10, 1, None),
])
def test_integers(datatype: int, field: int, raw: int, value: int | None) -> None:
    got = one(number(4, datatype), number(field, raw))
    assert got == (None if value is None else (float(value), GOOD, None))


@given(st.sampled_from([(1, 8), (2, 16), (3, 32), (4, 64)]), st.data())
def test_every_signed_integer_both_ways_of_writing_it(kind: tuple[int, int], data: st.DataObject) -> None:
    datatype, bits = kind
    value = data.draw(st.integers(-2**(bits - 1), 2**(bits - 1) - 1))
    expected = fingerprint(str(value).encode()) if abs(value) > 2**53 else float(value)
    for width in {bits, 32, 64} - ({32} if bits == 64 else set()):
        got = one(number(4, datatype), number(11, value % 2**width))
        assert got is not None and got[:2] == (expected, GOOD)


def test_what_no_float_holds_travels_by_fingerprint() -> None:
    large = 2**63 + 1
    assert one(number(4, 8), number(11, large)) == (fingerprint(str(large).encode()), GOOD, str(large))
    assert one(number(4, 12), block(15, "热".encode())) == (fingerprint("热".encode()), GOOD, "热")
    assert one(number(4, 17), block(16, b"\x00\xff")) == (fingerprint(b"\x00\xff"), GOOD, "00ff")
    assert one(number(4, 22), block(16, b"\x01\x02")) == (fingerprint(b"\x01\x02"), GOOD, "0102")
    long = one(number(4, 12), block(15, b"x" * 5000))
    assert long is not None and long[0] == fingerprint(b"x" * 5000) and len(long[2] or "") == 200


def test_floats_and_switches() -> None:
    assert one(number(4, 9), b"\x65\x00\x00\xc0\x3f") == (1.5, GOOD, None)
    assert one(number(4, 11), number(14, 1)) == (1.0, GOOD, None)
    assert one(number(4, 11), number(14, 0)) == (0.0, GOOD, None)
    got = one(number(4, 10), b"\x69" + bytes.fromhex("000000000000f87f"))
    assert got is not None and math.isnan(got[0]) and got[1] == GOOD  # a value like any other to whoever sent it


def test_null_is_bad_and_historical_is_not_live() -> None:
    got = one(number(4, 10), number(7, 1))
    assert got is not None and math.isnan(got[0]) and got[1] == BAD
    assert one(number(4, 3), number(5, 1), number(10, 4)) == (4.0, GOOD | NOT_LIVE, None)
    got = one(number(4, 3), number(5, 1), number(7, 1))
    assert got is not None and got[1] == BAD | NOT_LIVE
    assert one(number(4, 3)) is None  # neither null nor a value


@pytest.mark.parametrize(("code", "quality"), [
    (192, GOOD), (0xC4, GOOD), (0, BAD), (500, BAD), (64, UNCERTAIN), (4, BAD), (2**32 - 1, BAD)])
def test_quality_property(code: int, quality: int) -> None:
    # PropertySet: keys = 1, values = 2; PropertyValue: type = 1, int_value = 3
    for field in (3, 4):
        properties = block(9, block(1, b"Unit") + block(1, b"Quality")
                           + block(2, number(1, 12)) + block(2, number(1, 3) + number(field, code)))
        assert one(number(4, 3), properties, number(10, 4)) == (4.0, quality, None)


def test_aliases_names_and_strangers() -> None:
    birth = codec.parse(metric(block(1, b"A"), number(2, 0), number(4, 3), number(10, 1))
                        + metric(block(1, b"B"), number(2, 9), number(4, 11), number(14, 1))
                        + metric(block(1, b"Other"), number(2, 10), number(4, 3), number(10, 1)), where="t")
    table = codec.alias_table(birth, {"A": 1, "B": 2, "C": 3})
    data = (metric(number(2, 0), number(10, 8))                        # alias 0 is an alias; data type from the birth
            + metric(block(1, b"B"), number(14, 0))                    # by name
            + metric(number(2, 10), number(10, 1))                     # known, not in the roster
            + metric(number(2, 77), number(10, 1))                     # no birth explains it
            + metric(number(10, 1))                                    # neither name nor alias
            + metric(block(1, b"C"), number(4, 3), number(10, 6))      # in the roster, not in the birth, complete
            + metric(block(1, b"C"), number(10, 6))                    # the same without its type
            + metric(block(1, b"X"), number(4, 3), number(10, 6)))
    batch, tally = read(data, {"A": 1, "B": 2, "C": 3}, table)
    assert batch is not None
    assert list(zip(batch.point_index.tolist(), batch.value.tolist(), strict=True)) == [(1, 8.0), (2, 0.0), (3, 6.0)]
    assert tally == Tally(delivered=3, unknown_point=2, undecodable=3, strangers=2)


def test_the_protocols_own_metrics_are_no_samples() -> None:
    body = (metric(block(1, b"bdSeq"), number(4, 8), number(11, 17))
            + metric(block(1, b"Node Control/Rebirth"), number(4, 11), number(14, 0))
            + metric(block(1, b"Device Control/Start"), number(4, 11), number(14, 0)))
    frame = codec.parse(body, where="t")
    assert (frame.samples, frame.bd_seq, frame.seq) == (0, 17, None)
    assert read(body, {}) == (None, Tally(0, 0, 0, 0))
    assert codec.parse(metric(block(1, b"bdSeq"), number(10, 3)), where="t").bd_seq == 3  # some write a short one


def test_time_of_a_metric_and_of_its_payload() -> None:
    value = number(4, 3) + number(10, 1)
    for extra, expected in ((number(3, 5), 5_000_000), (b"", 9_000_000)):
        batch, _ = read(number(1, 9) + metric(block(1, b"M"), extra, value), {"M": 0})
        assert batch is not None and batch.source_ns.tolist() == [expected]
    batch, _ = read(metric(block(1, b"M"), value), {"M": 0})
    assert batch is not None and batch.source_ns.tolist() == [0]
    assert one(number(3, 2**64 - 1), value) is None  # a time that no int64 holds
    assert one(number(3, codec.TIMESTAMP_MS_MAX), value) == (1.0, GOOD, None)


def test_texts_of_another_code_page_cost_nobody_anything() -> None:
    gbk = "温度".encode("gbk")
    body = (metric(block(1, gbk), number(4, 3), number(10, 1)) + metric(block(1, b"T"), number(4, 12), block(15, gbk))
            + metric(block(1, b"N"), number(4, 3), block(9, block(1, gbk) + block(2, number(3, 0))), number(10, 2)))
    batch, tally = read(body, {"T": 0, "N": 1})
    assert batch is not None and tally == Tally(2, 1, 0, 0)
    assert batch.value.tolist() == [fingerprint(gbk), 2.0] and batch.texts == ((0, gbk.hex()),)
    assert batch.quality.tolist() == [GOOD, GOOD]


@pytest.mark.parametrize(("body", "code"), [
    (b"\x12\xff", "mqtt.not_sparkplug"),
    (b"{\"json\": 1}", "mqtt.not_sparkplug"),
    (metric(b"") * (codec.METRICS_MAX + 1), "mqtt.too_many_metrics"),
    (b"\x00" * (codec.MAX_PAYLOAD_BYTES + 1), "mqtt.payload_too_large"),
])
def test_hostile_payloads(body: bytes, code: str) -> None:
    with pytest.raises(DeviceError) as caught:
        codec.parse(body, where="some/topic")
    assert [(p.where, p.code) for p in caught.value.problems] == [("some/topic", code)]


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        read(body, {"": 0, "M": 1})
    except DeviceError:
        return


@given(st.data())
def test_any_damage_to_a_payload_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(number(1, 5) + metric(block(1, b"M"), number(2, 1), number(4, 12), block(15, b"text")) + metric(
        block(1, b"M"), number(4, 3), number(10, 77), block(9, block(1, b"Quality") + block(2, number(3, 192)))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(whole), {"M": 1})
    except DeviceError:
        return


def test_rebirth_request_byte_by_byte() -> None:
    assert codec.rebirth_request(1) == (
        number(1, 1) + metric(block(1, b"Node Control/Rebirth"), number(3, 1), number(4, 11), number(14, 1)))


INNER = number(1, 5) + metric(block(1, b"M"), number(4, 3), number(10, 4)) + number(3, 9)
UUID = block(4, b"SPBV1.0_COMPRESSED")


@pytest.mark.parametrize("envelope", [
    UUID + block(5, zlib.compress(INNER)),
    # as the documentation of the envelope wants it: number and time once more, and the name of the algorithm
    number(1, 5) + number(3, 9) + UUID + metric(block(1, b"algorithm"), number(4, 12), block(15, b"GZIP"))
    + block(5, gzip.compress(INNER, mtime=0)),
    number(1, 5) + number(3, 9) + UUID + block(5, zlib.compress(metric(block(1, b"M"), number(4, 3), number(10, 4)))),
])
def test_a_compressed_payload_is_the_payload_in_it(envelope: bytes) -> None:
    frame = codec.parse(envelope, where="t")
    assert (frame.sent_ms, frame.seq, frame.names, frame.samples) == (5, 9, ("M",), 1)
    batch, tally = read(envelope, {"M": 3})
    assert batch is not None and batch.value.tolist() == [4.0] and tally == Tally(1, 0, 0, 0)


@pytest.mark.parametrize(("body", "code"), [
    (b"", "mqtt.not_compressed"), (b"\x00" * 9, "mqtt.not_compressed"),
    (zlib.compress(INNER)[:-3], "mqtt.not_compressed"), (zlib.compress(INNER) + b"!", "mqtt.not_compressed"),
    (zlib.compress(UUID + block(5, zlib.compress(INNER))), "mqtt.not_compressed"),  # an envelope in an envelope
    (zlib.compress(b"\xff" * 20), "mqtt.not_sparkplug"),
    (zlib.compress(b"\x00" * (codec.MAX_PAYLOAD_BYTES + 1)), "mqtt.payload_too_large"),
])
def test_an_envelope_that_cannot_be_unpacked_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(DeviceError) as refused:
        codec.parse(UUID + block(5, body), where="t")
    assert [problem.code for problem in refused.value.problems] == [code]


def test_the_generated_module_is_what_the_schema_says(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}",
                    "protocols/mqtt/sparkplug.proto"], cwd=ROOT, check=True, capture_output=True, timeout=60)

    def described(folder: Path) -> str:  # the rest of the file names versions of the generator
        text = (folder / "protocols" / "mqtt" / "sparkplug_pb2.py").read_text(encoding="utf-8")
        return next(line for line in text.splitlines() if line.startswith("DESCRIPTOR = "))

    assert described(tmp_path) == described(ROOT)


# Arrays, data sets, templates: bytes as in sections 6.4.13, 6.4.14 and 6.4.17 of the specification

ARRAYS = [
    (22, "ef7b"), (23, "d08a3075"), (24, "fffffffffaafcb12"), (25, "ce0672ac189cbac4c4ba9c18ac7206ce"), (26, "17fa"),
    (27, "1e0088cc"), (28, "3400000049fb55c4"), (29, "3400000000000000d99e02d1b27637e4"), (30, "3f9d70a442b2ae98"),
    (31, "4028b55b6805a2d7408ff74c6f1c178e"), (32, "0c00000034d0"), (33, "4142430068656c6c6f00"),
    (34, "c7d0907524010000b8bab89781010000")]
"""Data type and the example of the specification (its DateTimeArray lacks the two bytes that make the times whole)."""


@pytest.mark.parametrize(("datatype", "packed"), ARRAYS, ids=[str(datatype) for datatype, _ in ARRAYS])
def test_arrays_of_every_type(datatype: int, packed: str) -> None:
    body = bytes.fromhex(packed)
    assert one(number(4, datatype), block(16, body)) == (fingerprint(body), GOOD, packed)
    empty = b"\0\0\0\0" if datatype == 32 else b""
    assert one(number(4, datatype), block(16, empty)) == (fingerprint(empty), GOOD, empty.hex())
    null = one(number(4, datatype), number(7, 1))
    assert null is not None and null[1] == BAD
    if datatype not in (22, 26):  # whose elements are single bytes
        assert one(number(4, datatype), block(16, body[:-1])) is None, "an array that is cut is no value"


def data_set(columns: int, names: int, types: int, *rows: int) -> bytes:
    cells = {n: block(1, number(1, 7)) * n for n in rows}
    return (number(1, columns) + b"".join(block(2, b"c") for _ in range(names)) + number(3, 3) * types
            + b"".join(block(4, cells[n]) for n in rows))


def test_data_sets_are_compared_as_a_whole() -> None:
    whole = data_set(2, 2, 2, 2, 2)
    got = one(number(4, 16), block(17, whole))
    assert got == (fingerprint(whole), GOOD, "2 x 2")
    for wrong in (data_set(3, 2, 2, 2), data_set(2, 1, 2, 2), data_set(2, 2, 1, 2), data_set(2, 2, 2, 2, 3)):
        assert one(number(4, 16), block(17, wrong)) is None
    assert one(number(4, 3), block(17, whole)) is None, "a data set that calls itself a number"


def template(*members: bytes, definition: bool = False) -> bytes:
    named = b"" if definition else block(4, b"Motor")
    return block(18, b"".join(members) + named + number(5, int(definition)))


def test_members_of_a_template_are_metrics() -> None:
    speed, run = metric(block(1, b"speed"), number(4, 3), number(10, 8)), metric(block(1, b"run"), number(4, 11))
    inner = metric(block(1, b"drive"), number(4, 19), template(metric(block(1, b"amps"), number(4, 10),
                                                                      b"\x69" + b"\0" * 6 + b"\xf0\x3f")))
    birth = (metric(block(1, b"Motor"), number(4, 19), template(speed, run, definition=True))
             + metric(block(1, b"M1"), number(2, 5), number(4, 19), template(speed, inner)))
    points = {"M1/speed": 1, "M1/drive/amps": 2, "Motor/speed": 3}
    frame = codec.parse(birth, where="t")
    assert frame.samples == 2, "a definition has no values"
    table = codec.alias_table(frame, points)
    batch, tally = read(birth, points, table)
    assert batch is not None and batch.point_index.tolist() == [1, 2] and batch.value.tolist() == [8.0, 1.0]
    assert tally == Tally(2, 0, 0, 0)
    data = (metric(number(2, 5), number(3, 9), number(5, 1), template(metric(block(1, b"speed"), number(10, 9))))
            + metric(number(2, 6), template(metric(block(1, b"speed"), number(10, 9)) * 2)))
    batch, tally = read(data, points, table)
    assert batch is not None and batch.value.tolist() == [9.0] and batch.source_ns.tolist() == [9_000_000]
    assert batch.quality.tolist() == [GOOD | NOT_LIVE], "an old instance has old members"
    assert tally == Tally(1, 0, 2, 2), "members of an instance that no birth explained"


def test_templates_within_templates_have_an_end() -> None:
    body = metric(block(1, b"x"), number(10, 1))
    for _ in range(300):
        body = metric(block(1, b"t"), template(body))
    with pytest.raises(DeviceError, match=r"mqtt\.not_sparkplug"):
        codec.parse(body, where="t")


def test_a_long_name_does_not_stand_in_memory_for_each_member() -> None:
    members = [metric(block(1, b"%d" % n), number(4, 3), number(10, 1)) for n in range(50)]
    long = metric(block(1, b"x" * 100_000), number(4, 19), template(*members))
    own = metric(block(1, b"T"), number(4, 19), template(*members))
    frame = codec.parse(long + own, where="t")
    table = codec.alias_table(frame, {"T/7": 1})
    assert sum(map(len, table.by_name)) < 60_000
    batch, tally = read(long + own, {"T/7": 1}, table)
    assert batch is not None and batch.point_index.tolist() == [1]
    assert tally == Tally(1, 99, 0, 0)


def test_members_count_against_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "METRICS_MAX", 10)
    member = metric(block(1, b"x"), number(4, 3), number(10, 1))
    codec.parse(metric(block(1, b"T"), template(*[member] * 10)), where="t")
    with pytest.raises(DeviceError, match=r"mqtt\.too_many_metrics"):
        codec.parse(metric(block(1, b"T"), template(*[member] * 6)) * 2, where="t")


def test_a_switch_of_the_protocol_that_is_sent_by_alias_is_counted_as_nobodys() -> None:
    table = codec.alias_table(codec.parse(metric(block(1, codec.REBIRTH.encode()), number(2, 4), number(4, 11)),
                                          where="t"), {})
    assert read(metric(number(2, 4), number(14, 1)), {}, table) == (None, Tally(0, 1, 0, 0))
