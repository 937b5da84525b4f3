"""A server that answers late, twice, cut, for others, and a run of the driver against it that checks every value.

Each reply begins with the running number of the request it answers. So a late answer to an equal request is seen, too.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate

from protocols.modbus.driver import Driver
from protocols.modbus.frames import crc16
from protocols.modbus.target import ModbusPoint
from protocols.samples import SampleBatch
from tests.unit.protocols.modbus.recording import Recording, endpoint, point, running, until

BLOCK = 1000
BLOCKS = (0, BLOCK, 2 * BLOCK)
BLOCK_REGISTERS = 12
LATE = 1.3
"""Timeouts after which a late answer comes, of the two for which an RTU line is listened to. What comes after these
cannot be told from the right answer: the rest is room for a loaded machine."""
TCP_TRICKS = {"late": 3, "twice": 6, "twice_later": 6, "cut": 2, "cut_then_whole": 3, "wrong_unit": 5,
              "wrong_transaction": 5, "old_transaction": 5, "zero_transaction": 5, "wrong_function": 5,
              "wrong_byte_count": 5, "longer": 5, "wrong_protocol": 3, "garbage": 5, "flood": 3, "close": 3,
              "in_pieces": 5, "other_block": 5, "unasked": 4}
RTU_TRICKS = {"late": 3, "late_to_next": 3, "twice": 5, "cut": 2, "wrong_unit": 5, "wrong_function": 5,
              "wrong_byte_count": 5, "wrong_checksum": 5, "garbage": 5, "close": 3, "in_pieces": 5, "unasked": 4}


def content(unit: int, address: int) -> int:
    """What register `address` of `unit` holds, always."""
    return (unit * 7919 + address * 31 + 1) & 0xFFFF


class Hostile:
    """A Modbus server with a will of its own, of one seed.

    asked: unit and block of each request, by its number. current: number of the last request on the newest connection;
    what a connection that the driver has left still holds is read later, and answered to nobody.
    """

    def __init__(self, seed: int, *, is_rtu: bool, timeout_s: float = 0.06, good_weight: int = 60) -> None:
        self.rng = random.Random(seed)
        self.details = random.Random(f"{seed} details")  # so that which tricks come does not depend on what is asked
        self.is_rtu = is_rtu
        self.timeout_s = timeout_s
        tricks = {"good": good_weight} | (RTU_TRICKS if is_rtu else TCP_TRICKS)
        self.tricks = list(tricks)
        self.weights = list(accumulate(tricks.values()))
        self.newest: asyncio.StreamWriter | None = None
        self.number = 0
        self.asked = [(0, 0)]
        self.current = 0
        self.played: Counter[str] = Counter()
        self.functions: set[int] = set()
        self.last_transaction = 0
        self.late: set[asyncio.Task[None]] = set()
        self.serving_now: set[asyncio.Task[None]] = set()

    def frame(self, transaction: int, unit: int, pdu: bytes) -> bytes:
        if self.is_rtu:
            body = bytes([unit]) + pdu
            return body + crc16(body).to_bytes(2, "little")
        return transaction.to_bytes(2, "big") + b"\0\0" + (len(pdu) + 1).to_bytes(2, "big") + bytes([unit]) + pdu

    def reply_pdu(self, unit: int, address: int, count: int, number: int) -> bytes:
        of_number = {0: number >> 16 & 0xFFFF, 1: number & 0xFFFF}  # the first two registers of each block
        held = [of_number.get(at % BLOCK, content(unit, at)) for at in range(address, address + count)]
        return bytes([3, 2 * count]) + b"".join(value.to_bytes(2, "big") for value in held)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.newest = writer
        own = asyncio.current_task()
        assert own is not None
        self.serving_now.add(own)
        own.add_done_callback(self.serving_now.discard)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                raw = await reader.readexactly(8 if self.is_rtu else 12)
                transaction = int.from_bytes(raw[:2], "big")
                unit, pdu = (raw[0], raw[1:6]) if self.is_rtu else (raw[6], raw[7:12])
                self.functions.add(pdu[0])
                self.number += 1
                address, count = int.from_bytes(pdu[1:3], "big"), int.from_bytes(pdu[3:5], "big")
                self.asked.append((unit, address // BLOCK * BLOCK))
                if writer is self.newest:
                    self.current = self.number
                trick = self.rng.choices(self.tricks, cum_weights=self.weights)[0]
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
            await asyncio.sleep(LATE * self.timeout_s)
        elif trick == "late_to_next":  # a serial gateway hands it to whoever is connected by then
            task = asyncio.create_task(self.hand_over(good))
            self.late.add(task)
            task.add_done_callback(self.late.discard)
            return
        elif trick == "cut":
            good = good[:self.details.randrange(1, len(good))]
        elif trick == "cut_then_whole":
            good = good[:self.details.randrange(1, len(good))] + good
        elif trick == "twice":
            good += good
        elif trick == "wrong_unit":
            good = self.frame(transaction, other, self.reply_pdu(other, address, count, self.number))
        elif trick == "wrong_transaction":
            good = self.frame(transaction ^ self.details.randrange(1, 0x10000), unit, pdu)
        elif trick == "old_transaction":
            good = self.frame(self.last_transaction or transaction + 1, unit, pdu)
        elif trick == "zero_transaction":
            good = self.frame(0, unit, pdu)
        elif trick == "wrong_function":
            good = self.frame(transaction, unit, b"\x04" + pdu[1:])
        elif trick == "wrong_byte_count":
            other_count = count + self.details.choice((-1, 1))
            good = self.frame(transaction, unit, self.reply_pdu(unit, address, other_count, self.number))
        elif trick == "longer":
            good = self.frame(transaction, unit, pdu + b"\0\0")
        elif trick == "wrong_protocol":
            good = good[:2] + b"\0\1" + good[4:]
        elif trick == "wrong_checksum":
            at = self.details.randrange(3, len(good))  # one bit of the values or of the checksum, as noise does
            good = good[:at] + bytes([good[at] ^ 1 << self.details.randrange(8)]) + good[at + 1:]
        elif trick == "garbage":
            good = self.details.randbytes(self.details.randrange(1, 300))
        elif trick == "flood":
            good = self.details.randbytes(100_000)
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
            await asyncio.sleep(self.details.uniform(0, 0.01))
            writer.write(good if trick == "twice_later" else b"\x07\x03")
            await writer.drain()
            await asyncio.sleep(0.002)  # so that it is seen alone, not in front of the next answer

    async def hand_over(self, frame: bytes) -> None:
        await asyncio.sleep(LATE * self.timeout_s)
        if self.newest is not None and not self.newest.is_closing():
            self.newest.write(frame)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await asyncio.wait_for(asyncio.gather(*self.late, *self.serving_now), 60)


@dataclass(frozen=True)
class Outcome:
    """What one attack gave. wrong: every value that was not what the request was answered with."""

    hostile: Hostile
    sink: Recording
    checked: int
    wrong: list[object]
    loop_errors: list[object]


async def attack(protocol: str, hostile: Hostile, *, requests: int, units: tuple[int, ...], poll_s: float = 0.01,
                 deadline_s: float = 90, in_flight: int = 1) -> Outcome:
    """Run the driver against `hostile` until it was asked `requests` times. The caller shortens schedule's waits.

    The driver's clock is the number of the last request that the server had from it when a reply arrived. So with one
    request in flight, the time of a sample is the number of the request that its reply must answer; with more of them,
    it is the number of one that is at most so many behind.
    """
    points: list[ModbusPoint] = []
    meant: dict[int, tuple[int, int, int]] = {}  # meant: point slot -> (unit, block, register)
    for unit in units:
        for block in BLOCKS:
            for register in (0, *range(2, BLOCK_REGISTERS)):
                meant[len(points)] = (unit, block, register)
                points.append(point(len(points), f"{unit}/holding/{block + register}",
                                    "uint32" if register == 0 else "uint16", device=unit))
    sink, checked = Recording(), [0]
    answered: set[int] = set()
    wrong: list[object] = []

    def compare(rows: SampleBatch) -> None:
        numbers: dict[tuple[int, int, int], int] = {}  # (time, unit, block) -> number that came with it
        for slot, at, value in zip(rows.point_index.tolist(), rows.received_ns.tolist(), rows.value.tolist(),
                                   strict=True):
            unit, block, register = meant[slot]
            if register == 0:
                numbers[at, unit, block] = int(value)
                expected = at if in_flight == 1 else next(
                    (n for n in range(at, max(0, at - in_flight), -1) if n == value and n not in answered), at)
                answered.add(int(value))
            else:
                expected = content(unit, block + register)
            checked[0] += 1
            if value != expected:
                wrong.append((at, meant[slot], value, expected))
        wrong.extend((at, unit, block, number) for (at, unit, block), number in numbers.items()
                     if hostile.asked[min(number, hostile.number)] != (unit, block))

    sink.on_samples = compare
    loop_errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: loop_errors.append(context))
    async with hostile.serving() as port:
        at = endpoint(port, protocol=protocol, poll_s=poll_s, timeout_s=hostile.timeout_s, max_gap=0,
                      in_flight=in_flight)
        driver = Driver(at, points, sink, clock_ns=lambda: hostile.current)
        assert len(driver.plan()) == len(units) * len(BLOCKS)
        async with running(driver):
            await until(lambda: hostile.number >= requests, deadline_s=deadline_s, what=f"{requests} requests")
    return Outcome(hostile, sink, checked[0], wrong, loop_errors)
