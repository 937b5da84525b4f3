"""A server that answers late, twice, cut, for others: no value may ever land at the wrong point or the wrong moment.

Each reply begins with the running number of the request it answers. So a late answer to an equal request is seen, too.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from protocols.modbus import schedule
from protocols.modbus.driver import Driver, Link
from protocols.modbus.frames import Reply, crc16
from protocols.modbus.plan import make_requests
from protocols.samples import SampleBatch
from tests.unit.protocols.modbus.recording import Recording, endpoint, point, running, until

TIMEOUT_S = 0.06
BLOCKS = (0, 1000, 2000)
BLOCK_REGISTERS = 12
GOOD_WEIGHT = 60
TCP_TRICKS = {"late": 3, "twice": 6, "twice_later": 6, "cut": 2, "cut_then_whole": 3, "wrong_unit": 5,
              "wrong_transaction": 5, "old_transaction": 5, "zero_transaction": 5, "wrong_function": 5,
              "wrong_byte_count": 5, "longer": 5, "wrong_protocol": 3, "garbage": 5, "flood": 3, "close": 3,
              "in_pieces": 5, "other_block": 5, "unasked": 4}
RTU_TRICKS = {"late": 3, "cut": 2, "wrong_unit": 5, "wrong_function": 5, "wrong_byte_count": 5, "wrong_checksum": 5,
              "garbage": 5, "close": 3, "in_pieces": 5, "unasked": 4}


def content(unit: int, address: int) -> int:
    """What register `address` of `unit` holds, always."""
    return (unit * 7919 + address * 31 + 1) & 0xFFFF


class Hostile:
    """A Modbus server with a will of its own, of one seed. latest: number, unit and address of the last request."""

    def __init__(self, seed: int, *, is_rtu: bool) -> None:
        self.rng = random.Random(seed)
        self.is_rtu = is_rtu
        self.tricks = {"good": GOOD_WEIGHT} | (RTU_TRICKS if is_rtu else TCP_TRICKS)
        self.number = 0
        self.latest = (0, 0, 0)
        self.played: Counter[str] = Counter()
        self.functions: set[int] = set()
        self.last_transaction = 0

    def frame(self, transaction: int, unit: int, pdu: bytes) -> bytes:
        if self.is_rtu:
            body = bytes([unit]) + pdu
            return body + crc16(body).to_bytes(2, "little")
        return transaction.to_bytes(2, "big") + b"\0\0" + (len(pdu) + 1).to_bytes(2, "big") + bytes([unit]) + pdu

    def reply_pdu(self, unit: int, address: int, count: int, number: int) -> bytes:
        held = [number >> 16 & 0xFFFF, number & 0xFFFF, *(content(unit, address + i) for i in range(2, count))]
        return bytes([3, 2 * count]) + b"".join(value.to_bytes(2, "big") for value in held)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                raw = await reader.readexactly(8 if self.is_rtu else 12)
                transaction = int.from_bytes(raw[:2], "big")
                unit, pdu = (raw[0], raw[1:6]) if self.is_rtu else (raw[6], raw[7:12])
                self.functions.add(pdu[0])
                self.number += 1
                address, count = int.from_bytes(pdu[1:3], "big"), int.from_bytes(pdu[3:5], "big")
                self.latest = (self.number, unit, address)
                trick = self.rng.choices(list(self.tricks), list(self.tricks.values()))[0]
                self.played[trick] += 1
                await self.play(trick, writer, transaction, unit, address, count)
                self.last_transaction = transaction
        writer.close()

    async def play(
        self, trick: str, writer: asyncio.StreamWriter, transaction: int, unit: int, address: int, count: int
    ) -> None:
        pdu = self.reply_pdu(unit, address, count, self.number)
        good = self.frame(transaction, unit, pdu)
        other = (unit % 4) + 1
        if trick == "late":
            await asyncio.sleep(1.5 * TIMEOUT_S)
        elif trick == "cut":
            good = good[:self.rng.randrange(1, len(good))]
        elif trick == "cut_then_whole":
            good = good[:self.rng.randrange(1, len(good))] + good
        elif trick == "twice":
            good += good
        elif trick == "wrong_unit":
            good = self.frame(transaction, other, self.reply_pdu(other, address, count, self.number))
        elif trick == "wrong_transaction":
            good = self.frame(transaction ^ self.rng.randrange(1, 0x10000), unit, pdu)
        elif trick == "old_transaction":
            good = self.frame(self.last_transaction or transaction + 1, unit, pdu)
        elif trick == "zero_transaction":
            good = self.frame(0, unit, pdu)
        elif trick == "wrong_function":
            good = self.frame(transaction, unit, b"\x04" + pdu[1:])
        elif trick == "wrong_byte_count":
            good = self.frame(transaction, unit, self.reply_pdu(unit, address, count - 2, self.number))
        elif trick == "longer":
            good = self.frame(transaction, unit, pdu + b"\0\0")
        elif trick == "wrong_protocol":
            good = good[:2] + b"\0\1" + good[4:]
        elif trick == "wrong_checksum":
            at = self.rng.randrange(3, len(good))  # one bit of the values or of the checksum, as noise on a line does
            good = good[:at] + bytes([good[at] ^ 1 << self.rng.randrange(8)]) + good[at + 1:]
        elif trick == "garbage":
            good = self.rng.randbytes(self.rng.randrange(1, 300))
        elif trick == "flood":
            good = self.rng.randbytes(100_000)
        elif trick == "other_block":
            good = self.frame(transaction + 1, unit, self.reply_pdu(unit, BLOCKS[0], count, self.number)) + good
        if trick == "close":
            writer.close()
            raise ConnectionResetError
        if trick == "in_pieces":
            for at in range(0, len(good), 5):
                writer.write(good[at:at + 5])
                await writer.drain()
                await asyncio.sleep(0)
            return
        writer.write(good)
        await writer.drain()
        if trick in ("twice_later", "unasked"):
            await asyncio.sleep(self.rng.uniform(0, 0.01))
            writer.write(good if trick == "twice_later" else b"\x07\x03")
            await writer.drain()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


# One unit alone over RTU: there a late answer to an equal request can be told from nothing but its time.
@pytest.mark.parametrize(("protocol", "seed", "requests", "units"), [
    ("modbus_tcp", 1, 1100, (1, 2, 3, 4)), ("modbus_tcp", 2, 400, (1,)),
    ("modbus_rtu_over_tcp", 3, 600, (1, 2, 3, 4)), ("modbus_rtu_over_tcp", 4, 400, (1,))])
async def test_no_value_is_ever_misattributed(
    protocol: str, seed: int, requests: int, units: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SILENT_FIRST_S", 0.005), ("SILENT_MAX_S", 0.01), ("RECONNECT_FIRST_S", 0.001),
                        ("RECONNECT_MAX_S", 0.005)):
        monkeypatch.setattr(schedule, name, value)
    points, meant = [], {}  # meant: point slot -> (unit, block, register)
    for unit in units:
        for block in BLOCKS:
            for register in (0, *range(2, BLOCK_REGISTERS)):
                meant[len(points)] = (unit, block, register)
                points.append(point(len(points), f"{unit}/holding/{block + register}",
                                    "uint32" if register == 0 else "uint16", device=unit))
    hostile, sink, checked, wrong = Hostile(seed, is_rtu=protocol != "modbus_tcp"), Recording(), [0], []

    def compare(rows: SampleBatch) -> None:
        number, asked_unit, asked_block = hostile.latest
        for slot, value in zip(rows.point_index.tolist(), rows.value.tolist(), strict=True):
            unit, block, register = meant[slot]
            expected = number if register == 0 else content(unit, block + register)
            checked[0] += 1
            if value != expected or (unit, block) != (asked_unit, asked_block):
                wrong.append((hostile.latest, meant[slot], value, expected))

    sink.on_samples = compare
    loop_errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: loop_errors.append(context))
    async with hostile.serving() as port:
        at = endpoint(port, protocol=protocol, poll_s=0.01, timeout_s=TIMEOUT_S, max_gap=0)
        driver = Driver(at, points, sink)
        assert len(driver.plan()) == len(units) * len(BLOCKS)
        async with running(driver):
            await until(lambda: hostile.number >= requests, deadline_s=60, what=f"{requests} requests")
    assert wrong == []
    assert loop_errors == []
    assert hostile.functions == {3}
    assert min(hostile.played[trick] for trick in hostile.tricks) >= 2, hostile.played
    assert len(sink.batches) >= 0.5 * hostile.played["good"], "the good replies do arrive"
    assert len(sink.batches) <= requests + 100
    assert checked[0] >= 5 * requests / 2
    assert set(sink.replies) == set(units)


@pytest.mark.parametrize("protocol", ["modbus_tcp", "modbus_rtu_over_tcp"])
async def test_bytes_nobody_asked_for_end_the_connection(protocol: str) -> None:
    hostile, later = Hostile(0, is_rtu=protocol != "modbus_tcp"), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = await reader.readexactly(8 if hostile.is_rtu else 12)
        good = hostile.frame(int.from_bytes(raw[:2], "big"), 1, b"\x01\x01\x01")
        writer.write(good)
        await later.wait()
        writer.write(good)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        link = Link(endpoint(server.sockets[0].getsockname()[1], protocol=protocol), lambda: 7)
        await link.open()
        [request] = make_requests([point(0, "1/coil/0")], endpoint(1))
        assert await link.read(request) == (Reply(b"\x01"), 7)
        assert link.is_open
        later.set()
        await until(lambda: not link.is_open)
        link.close()


async def test_a_peer_that_accepts_and_closes_is_not_hammered() -> None:
    """pymodbus#1794: no busy loop. Waits 0, then 0.4 to 0.5 s, then twice that."""
    accepted = [0]

    async def slam(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted[0] += 1
        writer.close()

    server = await asyncio.start_server(slam, "127.0.0.1", 0)
    async with server:
        sink = Recording()
        port = server.sockets[0].getsockname()[1]
        async with running(Driver(endpoint(port), [point(0, "1/coil/0")], sink)):
            await until(lambda: accepted[0] >= 2)
            await asyncio.sleep(0.3)
    assert 2 <= accepted[0] <= 3
    assert sink.batches == []


async def test_identification_that_runs_in_circles_ends() -> None:
    """Each page says that more follows at the same object; and objects may be many and long."""
    asked = [0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                raw = await reader.readexactly(11)
                asked[0] += 1
                pdu = bytes([0x2B, 14, raw[9], 0x82, 0xFF, raw[10], 1, 0, 3]) + b"ABC"
                writer.write(raw[:4] + (len(pdu) + 1).to_bytes(2, "big") + raw[6:7] + pdu)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await Driver(endpoint(port), [], Recording()).identify(1) == {"vendor_name": "ABC"}
    assert asked[0] == 1
