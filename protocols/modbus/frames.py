"""Decides whether bytes that arrived are the reply to the request that was sent. Pure; no sockets, no clock.

A reply is taken only if transaction id, protocol id, length, unit, function and byte count (RTU: unit, function, byte
count and checksum) are what the request asked for. Everything else is a mismatch: the connection is then closed, so
that a late or doubled answer can never be taken for the answer to a later request.

Source: MODBUS Application Protocol V1.1b3, section 6; MODBUS Messaging on TCP/IP V1.0b, 3.1.3; Serial Line V1.02, 2.5.
"""

from __future__ import annotations

from dataclasses import dataclass

READ_FUNCTIONS = frozenset({1, 2, 3, 4, 17, 43})
"""The only functions that may ever leave this gateway. Each of them reads; none changes anything in a device."""

READ_DEVICE_IDENTIFICATION = 14
"""MEI type of function 43 that reads nameplates; its sibling 13 (CANopen) may write and is refused."""

MBAP_SIZE = 7
PDU_MAX = 253
OBJECTS_START = 7
"""Offset of the first object in a function 43 PDU: function, MEI, code, conformity, more, next, count, objects."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the reply to one request must look like.

    transaction: None for RTU, which has none. byte_count: None where the device decides (functions 17 and 43).
    """

    transaction: int | None
    unit: int
    function: int
    byte_count: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that matches. body: the PDU behind function and byte count (behind the function where there is none).

    exception: 0, or the exception code that the device answered with; body is then empty.
    """

    body: bytes
    exception: int = 0


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something arrived that is not the reply. reason: the field that differs."""

    reason: str


def is_read_only(pdu: bytes) -> bool:
    """Return whether this request PDU can do nothing but read."""
    if not pdu or pdu[0] not in READ_FUNCTIONS:
        return False
    return pdu[0] != 43 or (len(pdu) >= 2 and pdu[1] == READ_DEVICE_IDENTIFICATION)


def pdu_of(request: bytes, *, is_rtu: bool) -> bytes:
    """Return the PDU (function and data) inside a whole request frame."""
    return request[1:-2] if is_rtu else request[MBAP_SIZE:]


def expect(request: bytes, *, is_rtu: bool) -> Expected:
    """Return what the reply to this request must look like, read from the very bytes that are sent."""
    pdu = pdu_of(request, is_rtu=is_rtu)
    count = int.from_bytes(pdu[3:5], "big")
    byte_count = {1: (count + 7) // 8, 2: (count + 7) // 8, 3: 2 * count, 4: 2 * count}.get(pdu[0])
    transaction = None if is_rtu else int.from_bytes(request[:2], "big")
    return Expected(transaction, request[0] if is_rtu else request[6], pdu[0], byte_count)


def match(expected: Expected, data: bytes) -> Reply | Mismatch | None:
    """Compare all bytes received since the request with what it expects. Return None while more bytes are needed.

    A field that is wrong is told as soon as it is there, whatever is still missing behind it. Bytes behind a reply make
    it a mismatch, too: over TCP, which has no checksum of its own, a cut frame and the begin of the next look like one.
    """
    return _match_mbap(expected, data) if expected.transaction is not None else _match_rtu(expected, data)


def _match_mbap(expected: Expected, data: bytes) -> Reply | Mismatch | None:
    if len(data) >= 2 and int.from_bytes(data[:2], "big") != expected.transaction:
        return Mismatch("transaction")
    if len(data) >= 4 and data[2:4] != b"\0\0":
        return Mismatch("protocol")
    if len(data) < MBAP_SIZE:
        return None
    length = int.from_bytes(data[4:6], "big") - 1  # the length field counts the unit as well
    if data[6] != expected.unit:
        return Mismatch("unit")
    if not 2 <= length <= PDU_MAX:
        return Mismatch("length")
    pdu = data[MBAP_SIZE:MBAP_SIZE + length]
    wanted = _pdu_length(expected, pdu)
    if isinstance(wanted, Mismatch):
        return wanted
    if wanted is not None and wanted != length:
        return Mismatch("byte_count" if pdu[0] < 0x80 else "length")
    if len(pdu) < length:
        return None
    if wanted is None:  # the frame is complete, and its own fields still ask for more
        return Mismatch("byte_count")
    return _reply(expected, pdu) if len(data) == MBAP_SIZE + length else Mismatch("surplus")


def _match_rtu(expected: Expected, data: bytes) -> Reply | Mismatch | None:
    if data and data[0] != expected.unit:
        return Mismatch("unit")
    length = _pdu_length(expected, data[1:1 + PDU_MAX])
    if isinstance(length, Mismatch):
        return length
    if length is not None and length > PDU_MAX:
        return Mismatch("length")
    if length is None:
        return Mismatch("length") if len(data) > PDU_MAX else None
    end = 1 + length + 2
    if len(data) < end:
        return None
    if crc16(data[:end - 2]) != int.from_bytes(data[end - 2:end], "little"):
        return Mismatch("checksum")
    return _reply(expected, data[1:end - 2]) if len(data) == end else Mismatch("surplus")


def _pdu_length(expected: Expected, pdu: bytes) -> int | Mismatch | None:
    """Return the length that the fields of this (perhaps incomplete) PDU ask for; None while they are missing."""
    if not pdu:
        return None
    if pdu[0] == expected.function | 0x80:
        return Mismatch("exception") if pdu[1:2] == b"\0" else 2  # their codes begin at 1
    if pdu[0] != expected.function:
        return Mismatch("function")
    if expected.function == 43:
        return _identification_length(pdu)
    if len(pdu) < 2:
        return None
    if expected.byte_count is not None and pdu[1] != expected.byte_count:
        return Mismatch("byte_count")
    return 2 + pdu[1]


def _identification_length(pdu: bytes) -> int | Mismatch | None:
    if len(pdu) >= 2 and pdu[1] != READ_DEVICE_IDENTIFICATION:
        return Mismatch("function")
    if len(pdu) < OBJECTS_START:
        return None
    at = OBJECTS_START
    for _ in range(pdu[OBJECTS_START - 1]):
        if len(pdu) < at + 2:
            return None
        at += 2 + pdu[at + 1]
    return at


def _reply(expected: Expected, pdu: bytes) -> Reply:
    if pdu[0] & 0x80:
        return Reply(b"", exception=pdu[1])
    return Reply(pdu[1:] if expected.function == 43 else pdu[2:])


def _crc16_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
        table.append(value)
    return tuple(table)


_CRC16 = _crc16_table()


def crc16(data: bytes) -> int:
    """Return the checksum of an RTU frame (CRC-16/MODBUS); it is sent low byte first."""
    crc = 0xFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC16[(crc ^ byte) & 0xFF]
    return crc
