"""Frames of the two Modbus specifications, and everything that must not be taken for a reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.modbus.frames import READ_FUNCTIONS, Mismatch, Reply, crc16, expect, is_read_only, match
from protocols.modbus.identity import nameplate, parse_page, printable

# MODBUS Application Protocol V1.1b3, the examples of 6.1, 6.2, 6.3, 6.4: request PDU, reply PDU.
SPEC_EXAMPLES = [
    ("01 00 13 00 13", "01 03 CD 6B 05", "CD 6B 05"),
    ("02 00 C4 00 16", "02 03 AC DB 35", "AC DB 35"),
    ("03 00 6B 00 03", "03 06 02 2B 00 00 00 64", "02 2B 00 00 00 64"),
    ("04 00 08 00 01", "04 02 00 0A", "00 0A"),
]
# The example of 6.21: "Company identification", "Product code XX", "V2.11".
IDENTIFICATION_REQUEST = bytes.fromhex("2B 0E 01 00")
IDENTIFICATION = bytes.fromhex("2B 0E 01 01 00 00 03 00 16") + b"Company identification" + b"\x01\x0fProduct code XX" \
    + b"\x02\x05V2.11"


def mbap(pdu: bytes, tid: int = 7, unit: int = 17, protocol: int = 0) -> bytes:
    return (tid.to_bytes(2, "big") + protocol.to_bytes(2, "big") + (len(pdu) + 1).to_bytes(2, "big") + bytes([unit])
            + pdu)


def rtu(pdu: bytes, unit: int = 17) -> bytes:
    body = bytes([unit]) + pdu
    return body + crc16(body).to_bytes(2, "little")


def wrap(pdu: bytes, is_rtu: bool) -> bytes:
    return rtu(pdu) if is_rtu else mbap(pdu)


def test_crc_of_published_frames() -> None:
    # CRC catalogue check value for CRC-16/MODBUS, and the worked example 02 07 -> 41 12 of the serial line guide.
    assert crc16(b"123456789") == 0x4B37
    assert rtu(b"\x07", unit=2) == bytes.fromhex("02 07 41 12")


@pytest.mark.parametrize("is_rtu", [False, True])
@pytest.mark.parametrize(("request_", "reply", "body"), SPEC_EXAMPLES)
def test_examples_of_the_specification(request_: str, reply: str, body: str, is_rtu: bool) -> None:
    expected = expect(wrap(bytes.fromhex(request_), is_rtu), is_rtu=is_rtu)
    whole = wrap(bytes.fromhex(reply), is_rtu)
    assert match(expected, whole) == Reply(bytes.fromhex(body))
    for cut in range(len(whole)):
        assert match(expected, whole[:cut]) is None, f"{cut} of {len(whole)} bytes are not a reply yet"
    assert match(expected, whole + b"\0") == Mismatch("surplus")


@pytest.mark.parametrize("is_rtu", [False, True])
def test_identification_example_of_the_specification(is_rtu: bool) -> None:
    expected = expect(wrap(IDENTIFICATION_REQUEST, is_rtu), is_rtu=is_rtu)
    whole = wrap(IDENTIFICATION, is_rtu)
    found = match(expected, whole)
    assert isinstance(found, Reply)
    page = parse_page(found.body)
    assert page.next_object is None
    assert nameplate(page.objects) == {
        "vendor_name": "Company identification", "product_code": "Product code XX", "major_minor_revision": "V2.11"}
    for cut in range(len(whole)):
        assert match(expected, whole[:cut]) is None


@pytest.mark.parametrize("is_rtu", [False, True])
def test_an_exception_is_a_reply(is_rtu: bool) -> None:
    expected = expect(wrap(bytes.fromhex("03 00 6B 00 03"), is_rtu), is_rtu=is_rtu)
    assert match(expected, wrap(b"\x83\x02", is_rtu)) == Reply(b"", exception=2)
    assert match(expected, wrap(b"\x84\x02", is_rtu)) == Mismatch("function")
    # There is no exception 0; taken for one it would pass for an answer without a body.
    assert match(expected, wrap(b"\x83\x00", is_rtu)) == Mismatch("exception")


GOOD = bytes.fromhex("03 06 02 2B 00 00 00 64")


@pytest.mark.parametrize(("frame", "reason"), [
    (mbap(GOOD, tid=6), "transaction"),
    (mbap(GOOD, tid=0), "transaction"),
    (mbap(GOOD, protocol=1), "protocol"),
    (mbap(GOOD, unit=18), "unit"),
    (mbap(GOOD, unit=0), "unit"),
    (mbap(b"\x04" + GOOD[1:]), "function"),
    (mbap(b"\x03\x04" + GOOD[2:6]), "byte_count"),
    (mbap(b"\x03\x06" + GOOD[2:6]), "byte_count"),
    (mbap(GOOD + b"\0\0"), "byte_count"),
    (mbap(b"\x83\x02\x00"), "length"),
    (mbap(b"\x83"), "length"),
    (bytes.fromhex("0007 0000 0001 11"), "length"),
    (bytes.fromhex("0007 0000 FFFF 11"), "length"),
])
def test_what_differs_is_no_reply_over_tcp(frame: bytes, reason: str) -> None:
    expected = expect(mbap(bytes.fromhex("03 00 6B 00 03")), is_rtu=False)
    assert match(expected, frame) == Mismatch(reason)


@pytest.mark.parametrize(("frame", "reason"), [
    (rtu(GOOD, unit=18), "unit"),
    (rtu(b"\x04" + GOOD[1:]), "function"),
    (rtu(b"\x03\x04" + GOOD[2:6]), "byte_count"),
    (rtu(GOOD)[:-1] + b"\0", "checksum"),
    (b"\x11\x03\x06" + b"\xff" * 8, "checksum"),
])
def test_what_differs_is_no_reply_over_rtu(frame: bytes, reason: str) -> None:
    expected = expect(rtu(bytes.fromhex("03 00 6B 00 03")), is_rtu=True)
    assert match(expected, frame) == Mismatch(reason)


@given(data=st.binary(max_size=300), is_rtu=st.booleans(), pdu=st.sampled_from(
    [bytes.fromhex("03006B0003"), bytes.fromhex("0100130013"), IDENTIFICATION_REQUEST, b"\x11"]))
def test_hostile_bytes_never_raise(data: bytes, is_rtu: bool, pdu: bytes) -> None:
    expected = expect(wrap(pdu, is_rtu), is_rtu=is_rtu)
    for bytes_ in (data, wrap(data, is_rtu) if 0 < len(data) < 250 else data, wrap(pdu[:1] + data, is_rtu)):
        found = match(expected, bytes_)
        assert found is None or isinstance(found, Mismatch | Reply)
        if isinstance(found, Reply) and pdu[0] == 43 and not found.exception:
            nameplate(parse_page(found.body).objects)


@given(st.integers(0, 255), st.integers(0, len(GOOD) + 6))
def test_no_single_changed_byte_of_a_header_passes(value: int, at: int) -> None:
    whole = bytearray(mbap(GOOD))
    if at > 8 or whole[at] == value:
        return  # behind the header is the value itself, which TCP's checksum guards
    whole[at] = value
    expected = expect(mbap(bytes.fromhex("03 00 6B 00 03")), is_rtu=False)
    assert not isinstance(match(expected, bytes(whole)), Reply)


def test_only_reading_functions_are_read_only() -> None:
    allowed = {f for f in range(256) if is_read_only(bytes([f, 14, 1, 0]))}
    assert allowed == READ_FUNCTIONS == {1, 2, 3, 4, 17, 43}
    assert not is_read_only(bytes([43, 13, 1, 0]))  # CANopen general reference may write
    assert not is_read_only(b"\x2b")
    assert not is_read_only(b"")


def test_texts_of_a_device_are_fit_for_a_terminal() -> None:
    assert printable("西门子\x1b[2J\r\n".encode()) == "西门子[2J"
    assert printable("汇川".encode("gb18030")) == "汇川"
    assert printable(b"\xff\xfe\x00") == "ÿþ"
