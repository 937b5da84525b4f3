"""Our way from bytes to values against pymodbus's own, over generated polls of every table, type and framing.

Requests are parsed, replies are made, and their values are taken out by pymodbus: its server framers, its response
PDUs, its client framers, its `convert_from_registers`. In between the bytes are cut into pieces at random, over TLS by
a real connection. What pymodbus has no type for (BCD, single bits, bytes, orders within a word) is put together from
the registers it decodes.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from pymodbus.client.mixin import ModbusClientMixin
from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerRTU, FramerSocket, FramerTLS
from pymodbus.framer.base import FramerBase
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU
from pymodbus.pdu import bit_message as bits
from pymodbus.pdu import register_message as registers
from pymodbus.pdu.mei_message import ReadDeviceInformationRequest, ReadDeviceInformationResponse
from pymodbus.pdu.other_message import ReportDeviceIdRequest, ReportDeviceIdResponse

from protocols.errors import Problem
from protocols.modbus import frames, identity, poll, target
from protocols.modbus.burst import Burst
from protocols.modbus.cycle import Cycle
from protocols.modbus.plan import Request, make_requests
from protocols.modbus.poll import Poller
from protocols.modbus.target import BIT_TABLES, ORDERS, REGISTERS_OF, ModbusPoint
from protocols.samples import fingerprint
from tests.unit.protocols.modbus.authority import Authority, role
from tests.unit.protocols.modbus.recording import Recording, endpoint, point

MESSAGES = int(os.environ.get("TALLYSTICK_MESSAGES", "3000"))
SEEDS = 3
"""`TALLYSTICK_MESSAGES=100000` is the whole check, some four minutes. Each seed is its share of the replies of each
framing: a failure names the seed."""

FRAMERS: dict[str, type[FramerBase]] = {"mbap": FramerSocket, "tls": FramerTLS, "rtu": FramerRTU}
ASKED = {1: bits.ReadCoilsRequest, 2: bits.ReadDiscreteInputsRequest, 3: registers.ReadHoldingRegistersRequest,
         4: registers.ReadInputRegistersRequest}
ANSWER = {1: bits.ReadCoilsResponse, 2: bits.ReadDiscreteInputsResponse, 3: registers.ReadHoldingRegistersResponse,
          4: registers.ReadInputRegistersResponse}
KINDS = {name.lower(): kind for name, kind in ModbusClientMixin.DATATYPE.__members__.items()}
TRANSIENT = (4, 5, 6)
REFUSALS = (1, 2, 3)
"""Exceptions that change the plan: it goes on with smaller reads, or without the points."""

Value = tuple[float, str | None]
"""What a point delivers: a number, or the stand-in of a text, and the text."""


# What pymodbus says a point is.

def stock(at: ModbusPoint, pdu: ModbusPDU, start: int) -> Value | None:
    """Return the value of a point out of a decoded reply to a read from `start`; None for bytes that are no value."""
    address, offset = at.address, at.address.address - start
    if address.table in BIT_TABLES:
        return float(pdu.bits[offset]), None
    held = list(pdu.registers[offset:offset + address.size])
    if at.order in ("BADC", "DCBA"):
        held = [word >> 8 | (word & 0xFF) << 8 for word in held]
    raw = b"".join(word.to_bytes(2, "big") for word in held)
    if address.type == "bytes":
        return fingerprint(raw), raw.hex()
    if address.type == "string":
        return _text(held, raw)
    word_order = "little" if at.order in ("CDAB", "DCBA") else "big"
    if address.bit is not None:
        return float(held[0] >> address.bit & 1), None
    number: int | float
    if address.type == "bool":
        number = int(held[0] != 0)
    elif address.type in ("int8", "uint8"):
        number = raw[1] - 256 if address.type == "int8" and raw[1] > 127 else raw[1]
    elif address.type.startswith("bcd"):
        digits = "".join(f"{word:04x}" for word in (held[::-1] if word_order == "little" else held))
        if not digits.isdecimal():
            return None
        number = int(digits)
    else:
        found = ModbusClientMixin.convert_from_registers(held, KINDS[address.type], word_order=word_order)
        assert isinstance(found, int | float)
        number = found
    if at.is_scaled:
        return float(number) * at.scale + at.offset, None
    if isinstance(number, int) and abs(number) > 2**53:
        return fingerprint(str(number).encode()), str(number)
    return float(number), None


def _text(held: Sequence[int], raw: bytes) -> Value:
    kept = raw.split(b"\0", 1)[0].rstrip(b" ")
    for encoding in ("utf-8", "gb18030", "latin-1"):
        with suppress(UnicodeDecodeError):
            text = kept.decode(encoding)
            break
    with suppress(UnicodeDecodeError):  # pymodbus knows no other encoding, and ends a string at the last NUL
        whole = ModbusClientMixin.convert_from_registers(held, KINDS["string"])
        assert isinstance(whole, str)
        assert whole.split("\0", 1)[0].rstrip(" ") == text
    return fingerprint(kept), text


# What is asked and answered.

def layout(rng: random.Random) -> list[ModbusPoint]:
    """Return the points of one unit, some of them over each other, in some tables."""
    made: list[ModbusPoint] = []
    unit, types = rng.randrange(1, 248), [*REGISTERS_OF, "string", "bytes"]
    for table in rng.sample(target.TABLES, rng.randrange(1, 5)):
        at = rng.choice((0, rng.randrange(65_000)))
        for _ in range(rng.randrange(1, 14)):
            slot, more = len(made), {"order": rng.choice(ORDERS)}
            if table in BIT_TABLES:
                made.append(point(slot, f"{unit}/{table}/{at}"))
                at += rng.choice((0, 1, 1, 1, 5, 9, 40))
                continue
            kind = rng.choice(types)
            where = f"{unit}/{table}/{at}"
            if kind in ("string", "bytes"):
                made.append(point(slot, f"{where}:{rng.randrange(1, 8)}", kind, **more))
            elif kind == "bool" and rng.random() < 0.7:
                made.append(point(slot, f"{where}.{rng.randrange(16)}", **more))
            else:
                if kind != "bool" and rng.random() < 0.2:
                    more |= {"scale": rng.choice((0.1, -3.0, 1e300)), "offset": rng.choice((0.0, 40.5))}
                made.append(point(slot, where, kind, **more))
            at += rng.choice((0, 1, made[-1].address.size, made[-1].address.size, 12))
    return made


def words(rng: random.Random, count: int) -> list[int]:
    """Return registers as devices hold them: any bits, decimal digits, texts, floats that are no number."""
    held: list[int] = []
    while len(held) < count:
        raw = rng.choice((
            rng.randbytes(8), bytes(2), rng.randbytes(2),
            struct.pack(">f", rng.choice((1.5, float("inf"), float("nan")))),
            bytes(rng.randrange(10) << 4 | rng.randrange(10) for _ in range(4)), b"AB  ", b"P1\0\xff", "泵 ".encode(),
            "水泵".encode("gb18030"), struct.pack(">q", rng.choice((2**53, 2**53 + 1, -2**53 - 1, -1))),
            bytes.fromhex("7fa00000")))
        held += struct.unpack(f">{len(raw) // 2}H", raw[:len(raw) // 2 * 2])
    return held[:count]


class Device:
    """The other end, all pymodbus's: parses a request, answers it, and says which values that answer holds.

    expected: point slot -> its values in the order of the replies. refusals: how many exceptions it may still answer
    that change the plan.
    """

    def __init__(self, rng: random.Random, framing: str) -> None:
        self.expected: dict[int, list[Value]] = {}
        self.undecodable = 0
        self.replies = 0
        self.refusals = rng.choice((0, 0, 3))
        self._rng = rng
        self._framing = framing
        self._server = (FramerRTU if framing == "rtu" else FramerSocket)(DecodePDU(True))
        self._client = FRAMERS[framing](DecodePDU(False))

    def answer(self, frame: bytes, request: Request) -> bytes:
        """Return the reply to a frame that our side made of `request`, or pymodbus itself."""
        used, asked = self._server.handleFrame(frame, 0, 0)
        assert asked is not None and used == len(frame)
        assert (asked.function_code, asked.dev_id) == (request.function, request.unit)
        assert (asked.address, asked.count) == (request.address, request.count)
        made: ModbusPDU
        if self._rng.random() < 0.04:
            codes = TRANSIENT + (REFUSALS if self.refusals else ())
            made = ExceptionResponse(asked.function_code, self._rng.choice(codes))
            self.refusals -= made.exception_code in REFUSALS
        elif request.table in BIT_TABLES:
            made = ANSWER[request.function](bits=[self._rng.random() < 0.5 for _ in range(asked.count)])
        else:
            made = ANSWER[request.function](registers=words(self._rng, asked.count))
        made.dev_id, made.transaction_id = asked.dev_id, asked.transaction_id
        reply = self._server.buildFrame(made)
        self._expect(reply, request, asked)
        return reply

    def _expect(self, reply: bytes, request: Request, asked: ModbusPDU) -> None:
        used, pdu = self._client.handleFrame(reply, asked.dev_id, asked.transaction_id)
        assert pdu is not None and used == len(reply)
        self.replies += 1
        if pdu.isError():
            return
        for at in request.points:
            value = stock(at, pdu, request.address)
            if value is None:
                self.undecodable += 1
            else:
                self.expected.setdefault(at.point_index, []).append(value)


class Tunnel:
    """A TLS connection in memory: what the server writes comes out for the client, whatever the pieces in between."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        ours = authority.pair("gateway", role=role("reader"))
        self._coming, self._going, incoming = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(authority.file))
        context.load_cert_chain(ours.certificate, ours.key)
        self._client = context.wrap_bio(self._coming, incoming, server_hostname="plc")
        self._server = authority.server_context(authority.pair("plc")).wrap_bio(incoming, self._going, server_side=True)
        for side in (self._client, self._server, self._client, self._server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
            self._coming.write(self._going.read())

    def encrypted(self, data: bytes) -> bytes:
        """Return a record, of the server."""
        self._server.write(data)
        return self._going.read()

    def decrypted(self, data: bytes) -> Iterator[bytes]:
        """Return what these bytes complete, at the client."""
        self._coming.write(data)
        with suppress(ssl.SSLWantReadError):
            while True:
                yield self._client.read(4096)


class Pipe:
    """Bytes of the device on their way to us: in pieces of any size, in TLS records that know nothing of frames."""

    def __init__(self, rng: random.Random, tunnel: Tunnel | None) -> None:
        self._rng = rng
        self._tunnel = tunnel
        self._waiting = b""

    def send(self, data: bytes) -> None:
        """Send."""
        while data:
            cut = len(data) if self._rng.random() < 0.5 else self._rng.randint(1, len(data))
            self._waiting += data[:cut] if self._tunnel is None else self._tunnel.encrypted(data[:cut])
            data = data[cut:]

    def pieces(self) -> Iterator[bytes]:
        """Return what was sent, also while this goes on."""
        while self._waiting:
            cut = len(self._waiting) if self._rng.random() < 0.4 else self._rng.randint(1, len(self._waiting))
            piece, self._waiting = self._waiting[:cut], self._waiting[cut:]
            if self._tunnel is None:
                yield piece
            else:
                yield from self._tunnel.decrypted(piece)


class Played:
    """A `line.Line` to a device of one framing. Over TCP and TLS whole polls go out, as from `driver.Link`."""

    is_open = True

    def __init__(self, rng: random.Random, framing: str, pipe: Pipe, device: Device, wanted: int) -> None:
        self.ended = asyncio.Event()
        self._rng = rng
        self._framing = framing
        self._pipe = pipe
        self._device = device
        self._wanted = wanted
        self._in_flight = rng.choice((1, 1, 8))
        self._next_tid = rng.randrange(1, 0xFFFF)
        self._single = {"rtu": FramerRTU}.get(framing, FramerSocket)(DecodePDU(False))

    @asynccontextmanager
    async def turn(self, unit: int) -> AsyncIterator[None]:
        if self._device.replies >= self._wanted:
            self.ended.set()
            await asyncio.get_running_loop().create_future()
        yield

    def close(self) -> None:
        self.is_open = False

    def ready_s(self, unit: int) -> float:
        return 0.0

    def is_swift(self, unit: int) -> bool:
        return self._framing != "rtu"

    async def read_all(self, cycle: Cycle, times: list[int]) -> None:
        if not cycle.is_numbered:
            self._next_tid = cycle.number(self._next_tid)
        asked = len(times)

        def write(data: bytes) -> None:
            nonlocal asked
            for at in range(0, len(data), 12):
                self._pipe.send(self._device.answer(data[at:at + 12], cycle.requests[asked]))
                asked += 1

        burst = Burst(cycle, times, write, in_flight=self._in_flight, timeout_s=60, problem=_problem,
                      clock_ns=lambda: 10**9 + self._device.replies)
        for piece in self._pipe.pieces():
            burst.received(piece)
            if self._rng.random() < 0.1:
                await asyncio.sleep(0)  # a moment in which the poll so far may be delivered
        await burst.ended

    async def read(self, request: Request) -> tuple[frames.Reply, int]:
        """Ask one read, as `Link.read` has pymodbus do it, in RTU frames or, after refusals, in MBAP ones."""
        asked = ASKED[request.function](address=request.address, count=request.count, dev_id=request.unit)
        asked.transaction_id = self._next_tid
        frame = self._single.buildFrame(asked)
        self._pipe.send(self._device.answer(frame, request))
        found = exchanged(frame, self._pipe, is_rtu=self._framing == "rtu")
        assert isinstance(found, frames.Reply)
        return found, 10**9 + self._device.replies


def exchanged(frame: bytes, pipe: Pipe, *, is_rtu: bool) -> frames.Reply | frames.Mismatch | None:
    """Return what `frames.match` finds in the pieces of a reply: nothing before the last one is there."""
    expected, held, found = frames.expect(frame, is_rtu=is_rtu), b"", None
    for piece in pipe.pieces():
        assert found is None
        held += piece
        found = frames.match(expected, held)
    return found


def _problem(code: str, **args: object) -> Problem:
    return Problem.of("line", code, **args)


async def polled(rng: random.Random, framing: str, tunnel: Tunnel | None, wanted: int) -> int:
    """Poll one layout some times, by the real poller, and compare. Return how many replies there were."""
    at = endpoint(502, poll_s=0.0, max_gap=rng.choice((0, 8, 30)), max_registers=rng.choice((125, 125, 12)))
    points, sink, device = layout(rng), Recording(), Device(rng, framing)
    line = Played(rng, framing, Pipe(rng, tunnel), device, wanted)
    poller = Poller(at, make_requests(points, at), line, sink, lambda: 0)  # type: ignore[arg-type] # what it needs
    running = asyncio.create_task(poller.run())
    ended = asyncio.create_task(line.ended.wait())
    await asyncio.wait((running, ended), timeout=60, return_when=asyncio.FIRST_COMPLETED)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert ended.done()
    found = {slot: sink.values[slot] for slot in sink.values}
    for slot, expected in device.expected.items():
        texts = [text for _, text in expected if text is not None]
        assert sink.texts.get(slot, []) == texts, points[slot]
        assert _bits(found.pop(slot)) == _bits([value for value, _ in expected]), points[slot]
    assert not found, "values of points that no reply held"
    assert sink.discards.get("undecodable", 0) == device.undecodable
    return device.replies


def _bits(values: Sequence[float]) -> list[bytes]:
    """Floats as their bytes, but NaN as one."""
    return [struct.pack(">d", value) if value == value else b"NaN" for value in values]


@pytest.fixture(scope="module")
def tunnel(tmp_path_factory: pytest.TempPathFactory) -> Tunnel:
    return Tunnel(tmp_path_factory.mktemp("tunnel"))


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("framing", sorted(FRAMERS))
async def test_polls_say_what_pymodbus_says(framing: str, seed: int, tunnel: Tunnel,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each layout some polls: in one piece, in several, with exceptions, and with what is left after refusals."""
    monkeypatch.setitem(target.LIMITS, "poll_s", (0.0, 86_400.0))
    monkeypatch.setattr(poll, "TAKE_S", 0.0)
    rng, done = random.Random(f"{framing} {seed}"), 0
    while done < MESSAGES / (SEEDS * len(FRAMERS)):
        done += await polled(rng, framing, tunnel if framing == "tls" else None, rng.randrange(20, 120))


@pytest.mark.parametrize("framing", ["mbap", "rtu"])
def test_nameplates_say_what_pymodbus_says(framing: str) -> None:
    """Functions 43/14 and 17: objects of any bytes, pages, exceptions."""
    rng = random.Random(framing)
    framer, is_rtu = FRAMERS[framing](DecodePDU(False)), framing == "rtu"
    for _ in range(MESSAGES // 20):
        unit, is_plate = rng.randrange(1, 248), rng.random() < 0.7
        asked: ModbusPDU = ReadDeviceInformationRequest(read_code=rng.choice((1, 2, 3)), object_id=0) if is_plate \
            else ReportDeviceIdRequest()
        made: ModbusPDU = ReportDeviceIdResponse(identifier=rng.randbytes(rng.randrange(1, 100)))
        if is_plate:
            held = {number: rng.randbytes(rng.randrange(90)) for number in sorted(rng.sample(range(256), 4))}
            made = ReadDeviceInformationResponse(read_code=rng.choice((1, 2, 3)), information=held)
        if rng.random() < 0.1:
            made = ExceptionResponse(asked.function_code, rng.choice((1, 2, 4)))
        for pdu in (asked, made):
            pdu.dev_id, pdu.transaction_id = unit, 1 + rng.randrange(0xFFFF) if pdu is asked else asked.transaction_id
        reply, pipe = framer.buildFrame(made), Pipe(rng, None)
        pipe.send(reply)
        found = exchanged(framer.buildFrame(asked), pipe, is_rtu=is_rtu)
        _, stocks = framer.handleFrame(reply, unit, asked.transaction_id)
        assert isinstance(found, frames.Reply)
        if isinstance(stocks, ExceptionResponse):
            assert found == frames.Reply(b"", exception=stocks.exception_code)
        elif isinstance(stocks, ReadDeviceInformationResponse):
            page = identity.parse_page(found.body)
            assert page.objects == stocks.information
            assert page.conformity == stocks.conformity
            assert page.next_object == (stocks.next_object_id if stocks.more_follows else None)
        else:
            assert isinstance(stocks, ReportDeviceIdResponse)
            assert found.body == stocks.identifier + (b"\xff" if stocks.status else b"\0")


@pytest.mark.parametrize("framing", ["mbap", "rtu"])
def test_what_is_taken_of_damaged_replies_is_what_pymodbus_takes(framing: str) -> None:
    """We refuse more, and never read another value out of the same bytes."""
    rng = random.Random(framing)
    taken = refused = 0
    for _ in range(MESSAGES // 5):
        table = rng.choice(target.TABLES)
        request = Request(unit=rng.randrange(1, 248), table=table, address=rng.randrange(60_000),
                          count=rng.randrange(1, 20), device_index=0, points=())
        asked = ASKED[request.function](address=request.address, count=request.count, dev_id=request.unit)
        asked.transaction_id = rng.randrange(1, 0x10000)
        device, stock_framer = Device(rng, framing), FRAMERS[framing](DecodePDU(False))
        frame = stock_framer.buildFrame(asked)
        reply = bytearray(device.answer(frame, request))
        for _ in range(rng.choice((1, 1, 2))):
            reply[rng.randrange(len(reply))] = rng.choice((0, 1, 0x80, 0xFF, rng.randrange(256)))
        if rng.random() < 0.2:
            reply += rng.randbytes(rng.randrange(1, 4))
        found = frames.match(frames.expect(frame, is_rtu=framing == "rtu"), bytes(reply))
        if not isinstance(found, frames.Reply):
            refused += 1
            continue
        taken += 1
        with suppress(ModbusException):
            _, pdu = stock_framer.handleFrame(bytes(reply), request.unit, asked.transaction_id)
            assert pdu is not None
            if pdu.isError():
                assert found.exception == pdu.exception_code  # type: ignore[attr-defined] # of an exception reply
            elif table in BIT_TABLES:
                assert [bool(byte >> bit & 1) for byte in found.body for bit in range(8)] == list(pdu.bits)
            else:
                assert found.body == b"".join(word.to_bytes(2, "big") for word in pdu.registers)
    assert refused
    assert taken or framing == "rtu"
