"""Values from registers: hand-computed vectors, and a round trip against struct for every type and order."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.modbus.codec import EXACT_MAX, BlockCodec, Decoded
from protocols.modbus.plan import Request
from protocols.modbus.target import BIT_TABLES, ORDERS, ModbusPoint, parse_address
from protocols.samples import fingerprint

STRUCT = {"int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q", "uint64": ">Q",
          "float32": ">f", "float64": ">d"}


def point(text: str, type_: str = "", index: int = 0, **more: object) -> ModbusPoint:
    address = parse_address(text, type_)
    return ModbusPoint(point_index=index, device_index=0, address=address, **more)  # type: ignore[arg-type] # by name


def codec_of(points: list[ModbusPoint], count: int, start: int = 0) -> BlockCodec:
    address = points[0].address
    return BlockCodec([Request(unit=1, table=address.table, address=start, count=count, device_index=0,
                               points=tuple(points))])


def decode(points: list[ModbusPoint], body: bytes, start: int = 0) -> Decoded:
    is_bits = points[0].address.table in BIT_TABLES
    return codec_of(points, len(body) * 8 if is_bits else len(body) // 2, start).decode(body)


# 123456.789 as IEEE 754 single is 0x47F12065; the other bytes were written down by hand from it.
@pytest.mark.parametrize(("order", "wire"), [
    ("ABCD", "47 F1 20 65"), ("CDAB", "20 65 47 F1"), ("BADC", "F1 47 65 20"), ("DCBA", "65 20 F1 47")])
def test_the_four_orders_of_a_float32(order: str, wire: str) -> None:
    assert decode([point("1/holding/0", "float32", order=order)], bytes.fromhex(wire)).value.tolist() == [
        123456.7890625]


# 0x0123456789ABCDEF = 81985529216486895, beyond 2^53; scaled by 1 it would be rounded, so compare as text.
@pytest.mark.parametrize(("order", "wire"), [
    ("ABCD", "0123 4567 89AB CDEF"), ("CDAB", "CDEF 89AB 4567 0123"),
    ("BADC", "2301 6745 AB89 EFCD"), ("DCBA", "EFCD AB89 6745 2301")])
def test_the_four_orders_of_an_int64_beyond_two_to_the_53(order: str, wire: str) -> None:
    found = decode([point("1/holding/0", "int64", 9, order=order)], bytes.fromhex(wire))
    assert found.missing.tolist() == [0]
    assert [(t.point_index, t.text) for t in found.texts] == [(9, "81985529216486895")]
    assert found.texts[0].value == fingerprint(b"81985529216486895") < 2**52
    assert found.undecodable == 0


@pytest.mark.parametrize(("type_", "order", "wire", "value"), [
    ("int16", "ABCD", "FFFE", -2), ("int16", "BADC", "FEFF", -2), ("int16", "CDAB", "FFFE", -2),
    ("uint16", "ABCD", "FFFE", 65534), ("uint8", "ABCD", "12FE", 254), ("int8", "ABCD", "12FE", -2),
    ("uint8", "BADC", "12FE", 18), ("bool", "ABCD", "0000", 0), ("bool", "ABCD", "0100", 1),
    ("bcd16", "ABCD", "1234", 1234), ("bcd16", "BADC", "3412", 1234), ("bcd32", "ABCD", "1234 5678", 12345678),
    ("bcd32", "CDAB", "5678 1234", 12345678), ("int32", "CDAB", "0000 8000", -(2**31)),
    ("uint32", "ABCD", "FFFF FFFF", 2**32 - 1), ("int64", "ABCD", "FFE0 0000 0000 0000", -(2**53)),
    ("uint64", "ABCD", "0020 0000 0000 0000", 2**53),
])
def test_hand_computed_values(type_: str, order: str, wire: str, value: float) -> None:
    found = decode([point("1/holding/0", type_, order=order)], bytes.fromhex(wire))
    assert found.value.tolist() == [float(value)]
    assert found.missing.size == 0


def test_just_beyond_two_to_the_53_is_text() -> None:
    points = [point("1/holding/0", "int64", 0), point("1/holding/4", "uint64", 1), point("1/holding/8", "int64", 2)]
    body = struct.pack(">qQq", -EXACT_MAX - 1, EXACT_MAX + 1, -(2**63))
    found = decode(points, body)
    assert found.missing.tolist() == [0, 1, 2]
    assert {t.point_index: t.text for t in found.texts} == {
        0: "-9007199254740993", 1: "9007199254740993", 2: "-9223372036854775808"}


def test_a_scaled_large_integer_is_the_float_the_user_asked_for() -> None:
    found = decode([point("1/holding/0", "uint64", scale=0.001)], struct.pack(">Q", 2**60))
    assert found.value.tolist() == [2**60 * 0.001]
    assert found.texts == ()


def test_all_sixteen_bits_of_a_register() -> None:
    points = [point(f"1/holding/3.{bit}", index=bit) for bit in range(16)]
    assert decode(points, bytes.fromhex("8005"), start=3).value.tolist() == [1, 0, 1] + [0] * 12 + [1]
    swapped = [point(f"1/holding/3.{bit}", index=bit, order="BADC") for bit in range(16)]
    assert decode(swapped, bytes.fromhex("0580"), start=3).value.tolist() == [1, 0, 1] + [0] * 12 + [1]


def test_coils_of_the_specification() -> None:
    # 6.1: coils 27-20 are CD, that is 1100 1101; 19 = 0x13 is the first address of the read.
    points = [point(f"1/coil/{19 + i}", index=i) for i in range(19)]
    found = decode(points, bytes.fromhex("CD6B05"), start=19)
    assert found.value.tolist() == [1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1]


def test_a_digit_above_nine_is_no_bcd() -> None:
    points = [point("1/holding/0", "bcd16", 0), point("1/holding/1", "bcd16", 1), point("1/holding/2", "bcd32", 2)]
    found = decode(points, bytes.fromhex("12A4 0042 0000 00F0"))
    assert found.missing.tolist() == [0, 2]
    assert found.value[1] == 42
    assert found.undecodable == 2


@pytest.mark.parametrize(("raw", "text"), [
    (b"PUMP-7\0\0\xde\xad", "PUMP-7"), (b"PUMP-7    ", "PUMP-7"), ("水泵七".encode(), "水泵七"),
    ("水泵".encode("gb18030"), "水泵"), (b"\xff\xff", "ÿÿ"), (b"\0\0", "")])
def test_strings(raw: bytes, text: str) -> None:
    raw += b"\0" * (-len(raw) % 2)
    points = [point(f"1/holding/0:{len(raw) // 2}", "string", 4)]
    found = decode(points, raw)
    assert [(t.point_index, t.text) for t in found.texts] == [(4, text)]
    assert found.value.size == 0
    swapped = bytes(b for pair in zip(raw[1::2], raw[::2], strict=True) for b in pair)
    assert decode([point(f"1/holding/0:{len(raw) // 2}", "string", 4, order="BADC")], swapped).texts == found.texts


def test_garbage_behind_the_end_of_a_string_is_no_change() -> None:
    codec = codec_of([point("1/holding/0:4", "string")], 4)
    raws = (b"AB\0\x01\x02\x03\x04\x05", b"AB\0xxxxx", b"AC\0xxxxx")
    one, two, other = (codec.decode(raw).texts[0].value for raw in raws)
    assert one == two != other


def test_bytes_count_every_byte() -> None:
    found = decode([point("1/holding/0:2", "bytes")], b"\0\xff\0\x01")
    assert found.texts[0].text == "00ff0001"
    assert found.texts[0].value == fingerprint(b"\0\xff\0\x01")


def test_scale_and_offset_touch_only_their_points() -> None:
    points = [point("1/holding/0", "int16", 0, scale=0.1, offset=-40.0), point("1/holding/1", "int16", 1)]
    assert decode(points, struct.pack(">hh", 655, 655)).value.tolist() == [655 * 0.1 - 40.0, 655.0]


def test_nan_and_infinity_are_values() -> None:
    points = [point("1/holding/0", "float32", 0), point("1/holding/2", "float64", 1)]
    found = decode(points, struct.pack(">fd", math.nan, -math.inf))
    assert math.isnan(found.value[0])
    assert found.value[1] == -math.inf
    assert found.missing.size == 0


def test_a_mixed_block_keeps_every_point_in_its_place() -> None:
    points = [point("1/holding/10", "float32", 50, order="CDAB"), point("1/holding/12", "uint16", 51),
              point("1/holding/12.3", "", 52), point("1/holding/13:2", "string", 53),
              point("1/holding/20", "int64", 54), point("1/holding/24", "bcd16", 55)]
    body = bytearray(2 * 15)
    body[0:4] = struct.pack(">f", 1.5)[2:] + struct.pack(">f", 1.5)[:2]
    body[4:6] = struct.pack(">H", 0x0108)
    body[6:10] = b"OK\0\0"
    body[20:28] = struct.pack(">q", -5)
    body[28:30] = b"\x99\x99"
    codec = codec_of(points, 15, 10)
    found = codec.decode(bytes(body))
    assert dict(zip(codec.numeric.tolist(), found.value.tolist(), strict=True)) == {
        50: 1.5, 51: 264.0, 52: 1.0, 54: -5.0, 55: 9999.0}
    assert [(t.point_index, t.text) for t in found.texts] == [(53, "OK")]


@st.composite
def values(draw: st.DrawFn) -> tuple[str, str, object]:
    type_ = draw(st.sampled_from(sorted(STRUCT)))
    if type_.startswith("float"):
        value: object = draw(st.floats(width=32 if type_ == "float32" else 64))
    else:
        bits = int(type_.lstrip("uint"))
        low = 0 if type_[0] == "u" else -(2 ** (bits - 1))
        value = draw(st.integers(low, low + 2**bits - 1))
    return type_, draw(st.sampled_from(ORDERS)), value


def to_wire(type_: str, order: str, value: object) -> bytes:
    """Another way to the same bytes than the codec's: lists of words, turned around."""
    big = struct.pack(STRUCT[type_], value)
    words = [big[i:i + 2] for i in range(0, len(big), 2)]
    if order in ("CDAB", "DCBA"):
        words = words[::-1]
    if order in ("BADC", "DCBA"):
        words = [w[::-1] for w in words]
    return b"".join(words)


@given(st.lists(values(), min_size=1, max_size=30), st.integers(0, 65_000), st.randoms(use_true_random=False))
def test_round_trip_of_any_block_in_any_order_of_points(
    held: list[tuple[str, str, object]], start: int, rng: object
) -> None:
    at, points, body = start, [], b""
    for index, (type_, order, value) in enumerate(held):
        points.append(point(f"1/input/{at}", type_, index, order=order))
        body += to_wire(type_, order, value)
        at += points[-1].address.size
    rng.shuffle(points)  # type: ignore[attr-defined] # hypothesis' Random
    codec = codec_of(points, len(body) // 2, start)
    found = codec.decode(body)
    texts = {t.point_index: t.text for t in found.texts}
    for position, index in enumerate(codec.numeric.tolist()):
        value = held[index][2]
        assert isinstance(value, int | float)
        if isinstance(value, int) and abs(value) > 2**53:
            assert position in found.missing
            assert texts.pop(index) == str(value)
        else:
            assert position not in found.missing
            assert struct.pack(">d", found.value[position]) == struct.pack(">d", float(value)) or math.isnan(value)
            assert math.isnan(value) == math.isnan(found.value[position])
    assert not texts
    assert np.array_equal(found.missing, np.unique(found.missing))


@pytest.mark.parametrize(("type_", "data", "scale"), [
    ("float32", "7fa00000", 1.0), ("float64", "7ff4000000000000", 2.0)])
def test_a_signalling_nan_is_one_more_nan_and_no_warning(type_: str, data: str, scale: float) -> None:
    assert np.isnan(decode([point("1/holding/0", type_, scale=scale)], bytes.fromhex(data)).value).all()
