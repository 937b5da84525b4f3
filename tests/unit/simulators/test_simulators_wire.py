"""The wire before a simulated server: what it lets through, what it destroys, and that only what arrived is counted."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from simulators.pcap import Capture
from simulators.sent import Sent
from simulators.wire import NOISE, Wire

KEY = ("device", "point")


class Echo:
    """A server that answers each line with the same line, and promises it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
            self.wire.promise(writer.get_extra_info("peername"), len(line), [KEY], "lines")
        writer.close()


@asynccontextmanager
async def echo(capture: Capture | None = None) -> AsyncIterator[Wire]:
    wire = Wire(Sent(), capture=capture)
    server = await asyncio.start_server(Echo(wire).serve, "127.0.0.1", 0)
    await wire.open("127.0.0.1", 0, server.sockets[0].getsockname()[:2])
    try:
        yield wire
    finally:
        wire.close()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def client(wire: Wire) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes = b"hello\n") -> bytes:
    writer.write(line)
    async with asyncio.timeout(10):
        return await reader.readline()


async def test_what_arrives_is_counted_once() -> None:
    async with echo() as wire, client(wire) as (reader, writer):
        for number in range(1, 4):
            assert await ask(reader, writer) == b"hello\n"
            assert wire.sent.samples == number
        assert (wire.sent.sessions, wire.sent.messages) == (1, {"lines": 3})


async def test_a_stalled_wire_holds_and_then_lets_everything_pass() -> None:
    async with echo() as wire, client(wire) as (reader, writer):
        assert await ask(reader, writer) == b"hello\n"
        wire.stall(True)
        writer.write(b"held\n")
        await asyncio.sleep(0.05)
        assert wire.sent.samples == 1
        wire.stall(False)
        assert await ask(reader, writer, b"next\n") == b"held\n"
        async with asyncio.timeout(10):
            assert await reader.readline() == b"next\n"
        assert wire.sent.samples == 3


async def test_a_stalled_wire_does_not_hold_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulators.wire.HELD_BYTES_MAX", 100_000)
    async with echo() as wire, client(wire) as (reader, writer), client(wire) as other:
        assert await ask(reader, writer) == await ask(*other) == b"hello\n"
        for _ in range(3):  # what has passed counts no more
            assert len(await ask(*other, b"x" * 50_000 + b"\n")) == 50_001
        wire.stall(True)
        writer.write(b"x" * 100_000 + b"\n")
        other[1].write(b"held\n")
        async with asyncio.timeout(10):
            assert await reader.read() == b"", "nothing of it, and the end"
        assert wire.sent.samples == 5
        wire.stall(False)
        async with asyncio.timeout(10):
            assert await other[0].readline() == b"held\n"


async def test_a_slow_wire_keeps_the_order() -> None:
    async with echo() as wire, client(wire) as (reader, writer):
        wire.delay_s = 0.02
        for number in range(5):
            writer.write(b"%d\n" % number)
            await asyncio.sleep(0.005)
        async with asyncio.timeout(10):
            assert [await reader.readline() for _ in range(5)] == [b"%d\n" % number for number in range(5)]


async def test_half_a_message_is_not_counted() -> None:
    async with echo() as wire, client(wire) as (reader, writer):
        wire.truncates = 1
        assert await ask(reader, writer) == b"hel"
        assert wire.sent.samples == 0
        assert not wire.passages


async def test_behind_noise_nothing_is_heard() -> None:
    async with echo() as wire, client(wire) as (reader, writer):
        assert await ask(reader, writer) == b"hello\n"
        wire.noise()
        writer.write(b"lost\n")
        async with asyncio.timeout(10):
            assert await reader.readexactly(len(NOISE)) == NOISE
        wire.lose()
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        assert wire.sent.samples == 1


async def test_it_refuses_and_welcomes_again_at_the_same_address() -> None:
    async with echo() as wire:
        async with client(wire) as (reader, writer):
            assert await ask(reader, writer) == b"hello\n"
            wire.refuse()
            async with asyncio.timeout(10):
                assert await reader.read() == b""
        try:
            await asyncio.open_connection("127.0.0.1", wire.port)
            raise AssertionError("it should refuse")
        except ConnectionRefusedError:
            pass
        await wire.welcome()
        async with client(wire) as (reader, writer):
            assert await ask(reader, writer) == b"hello\n"


async def test_a_port_that_somebody_else_was_given_meanwhile_is_waited_for() -> None:
    async with echo() as wire:
        wire.refuse()
        with socket.create_server(("127.0.0.1", wire.port)):
            welcoming = asyncio.create_task(wire.welcome())
            await asyncio.sleep(0.05)
            assert not welcoming.done()
        async with asyncio.timeout(10):
            await welcoming
        async with client(wire) as (reader, writer):
            assert await ask(reader, writer) == b"hello\n"


async def test_who_hangs_up_on_what_he_has_not_read_may_not_have_read_it() -> None:
    async with echo() as wire:
        loop = asyncio.get_running_loop()
        with socket.socket() as deaf:
            deaf.setblocking(False)
            await loop.sock_connect(deaf, ("127.0.0.1", wire.port))
            await loop.sock_sendall(deaf, b"hello\n")
            async with asyncio.timeout(10):
                while not wire.sent.samples:
                    await asyncio.sleep(0.005)
        async with asyncio.timeout(10):
            while not wire.sent.doubtful:
                await asyncio.sleep(0.005)
        assert (wire.sent.samples, wire.sent.doubtful) == (0, 1)


async def test_a_capture_holds_both_directions_in_order(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "x.pcap")
    async with echo(capture) as wire:
        async with client(wire) as (reader, writer):
            await ask(reader, writer, b"one\n")
            await ask(reader, writer, b"two\n")
        async with asyncio.timeout(10):
            while wire.passages:
                await asyncio.sleep(0.005)
        port = wire.port
    capture.close()
    data = (tmp_path / "x.pcap").read_bytes()
    assert struct.unpack("<IHHiIII", data[:24]) == (0xA1B2C3D4, 2, 4, 0, 0, 262_144, 101)
    said: dict[bool, bytes] = {True: b"", False: b""}
    at, packets = 24, 0
    while at < len(data):
        _, _, size, _ = struct.unpack("<IIII", data[at:at + 16])
        packet = data[at + 16:at + 16 + size]
        assert int.from_bytes(packet[2:4], "big") == size
        assert sum(struct.unpack(">10H", packet[:20])) % 0xFFFF == 0, "the checksum of the header"
        by_client = int.from_bytes(packet[22:24], "big") == port
        seq = int.from_bytes(packet[24:28], "big")
        if size > 40:
            assert seq == 1 + len(said[by_client])
        said[by_client] += packet[40:]
        at, packets = at + 16 + size, packets + 1
    assert said == {True: b"one\ntwo\n", False: b"one\ntwo\n"}
    assert packets == 3 + 4 + 3


async def test_a_disk_that_is_full_ends_the_capture_and_nothing_else(
        tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: bytes = b"") -> int:
            raise OSError(28, "No space left on device")

        close = write

    capture = Capture(tmp_path / "x.pcap")
    capture.close()
    monkeypatch.setattr(capture, "_file", Full())
    async with echo(capture) as wire, client(wire) as (reader, writer):
        assert await ask(reader, writer) == b"hello\n"
        assert wire.sent.samples == 1
    capture.close()
    assert caplog.text.count("the packet capture ends early") == 1
