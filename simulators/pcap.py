"""Writes what passed a wire as a packet capture that any analyser reads, without raw sockets.

The bytes are those of the connections; the IP and TCP headers around them are made up here (no link layer, IPv4,
sequence numbers in order, no acknowledgements lost). Source: draft-ietf-opsawg-pcap, LINKTYPE_RAW.
"""

from __future__ import annotations

import logging
import struct
import time
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

MAGIC_MICROSECONDS = 0xA1B2C3D4
LINKTYPE_RAW = 101
SEGMENT_BYTES = 32_768
CAPTURE_BYTES_MAX = 2**30
"""A capture that is full ends, and so does one whose disk is full; the plant goes on, and its log says so once."""

SYN, FIN, PUSH, ACK = 2, 1, 8, 16
Address = tuple[str, int]


class Capture:
    """One file for all wires of a plant."""

    def __init__(self, path: Path) -> None:
        """Begin the file. Raises OSError."""
        self._file: BinaryIO | None = path.open("wb")
        self._size = self._file.write(struct.pack("<IHHiIII", MAGIC_MICROSECONDS, 2, 4, 0, 0, 262_144, LINKTYPE_RAW))
        self.is_full = False

    def packet(self, source: Address, target: Address, flags: int, seq: int, ack: int, data: bytes = b"") -> None:
        """Write one packet."""
        if self._file is None or self.is_full:
            return
        total = 40 + len(data)
        if self._size + total + 16 > CAPTURE_BYTES_MAX:
            self._end(f"it holds {CAPTURE_BYTES_MAX} bytes")
            return
        now_us = time.time_ns() // 1000
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, total, 0, 0x4000, 64, 6, 0, _octets(source[0]), _octets(target[0]))
        ip = ip[:10] + _checksum(ip).to_bytes(2, "big") + ip[12:]
        tcp = struct.pack(">HHIIBBHHH", source[1], target[1], seq % 2**32, ack % 2**32, 5 << 4, flags, 65_535, 0, 0)
        head = struct.pack("<IIII", now_us // 1_000_000, now_us % 1_000_000, total, total)
        try:
            self._file.write(head + ip + tcp + data)
        except OSError as error:
            self._end(error)
        self._size += 16 + total

    def close(self) -> None:
        """End the file."""
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()  # what is buffered is written now
        except OSError as error:
            self._end(error)

    def _end(self, why: object) -> None:
        if not self.is_full:
            log.warning("the packet capture ends early: %s", why)
        self.is_full = True


class Stream:
    """One TCP connection in a capture."""

    def __init__(self, capture: Capture, client: Address, server: Address) -> None:
        """Begin with the three packets of a new connection."""
        self._capture = capture
        self._ends = (client, server)
        self._seq = [1, 1]
        capture.packet(client, server, SYN, 0, 0)
        capture.packet(server, client, SYN | ACK, 0, 1)
        capture.packet(client, server, ACK, 1, 1)

    def data(self, data: bytes, *, by_client: bool) -> None:
        """Write bytes that one side sent."""
        me, other = (0, 1) if by_client else (1, 0)
        for start in range(0, len(data), SEGMENT_BYTES):
            part = data[start:start + SEGMENT_BYTES]
            self._capture.packet(self._ends[me], self._ends[other], PUSH | ACK, self._seq[me], self._seq[other], part)
            self._seq[me] += len(part)

    def close(self) -> None:
        """Write that both sides have ended it."""
        client, server = self._ends
        self._capture.packet(client, server, FIN | ACK, self._seq[0], self._seq[1])
        self._capture.packet(server, client, FIN | ACK, self._seq[1], self._seq[0] + 1)
        self._capture.packet(client, server, ACK, self._seq[0] + 1, self._seq[1] + 1)


def _octets(host: str) -> bytes:
    """Return an IPv4 address; anything else stands as 127.0.0.1, as only the bytes inside matter."""
    parts = host.split(".")
    if len(parts) == 4 and all(part.isdigit() and int(part) < 256 for part in parts):
        return bytes(int(part) for part in parts)
    return bytes((127, 0, 0, 1))


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
