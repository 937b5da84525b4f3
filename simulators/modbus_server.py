"""The plant's Modbus TCP servers: pymodbus's own, many units behind one address, each with its own identity.

A server stands for a gateway in front of a serial line. A dead unit never answers, not even with an exception; a unit
that does not exist is answered by the gateway (exception 0x0B). Write requests are refused and counted: nobody has
any business writing here. Faults that a plant file asks for (simulators/modbus_faults.py) are played on the replies.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pymodbus import FramerType
from pymodbus.constants import ExcCodes
from pymodbus.framer import FramerSocket
from pymodbus.pdu import ExceptionResponse, ModbusPDU
from pymodbus.pdu.device import ModbusDeviceIdentification
from pymodbus.pdu.mei_message import ReadDeviceInformationResponse
from pymodbus.server import ModbusTcpServer
from pymodbus.server.requesthandler import ServerRequestHandler
from pymodbus.simulator import DataType, SimData, SimDevice

from simulators import modbus_faults
from simulators.layout import WIDTH, Device, ModbusPlace, Point
from simulators.sent import PointKey, Sent
from simulators.signals import Value
from simulators.wire import Wire

WRITE_CODES = frozenset((5, 6, 15, 16, 21, 22, 23))
READ_CODE = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
TABLES = ("coil", "discrete", "holding", "input")
"""In the order in which SimDevice takes its four blocks."""

SERIAL_OBJECT = 0x80
OBJECTS = (0, 1, 2, 3, 4, 5, 6, SERIAL_OBJECT)
"""FC 43/14 has no standard object for a serial number; makers use the private ones from 0x80."""

ANSWERS_MAX = 100_000
ASKED_MAX = 64
"""Requests of one connection that may wait; a client that sends more is hung up on."""

Run = tuple[str, int, tuple[tuple[Point, int], ...]]
"""Table, first address, and (point, offset) of the points in one stretch of addresses without holes."""


class ModbusPlant:
    """One Modbus TCP server with its units. `writes` counts the write requests that it refused.

    writes_of_process: the same for every server of this process, those that are gone included; the tests compare it.
    waited_most: how many requests of one connection waited at once.
    """

    writes_of_process: ClassVar[int] = 0

    def __init__(self, devices: Iterable[Device], line: modbus_faults.Line | None = None, *,
                 wire: Wire | None = None, is_rtu: bool = False) -> None:
        """wire: stands between and counts what is answered. is_rtu: RTU frames over TCP, as serial gateways pass on."""
        self.devices = tuple(devices)
        self.line = line or modbus_faults.Line([])
        self.has_wire = wire is not None
        self.wire = wire or Wire(Sent())
        self.port = 0
        self.sent = self.wire.sent
        self.is_rtu = is_rtu
        self.writes = 0
        self.waited_most = 0
        self.began_s = time.monotonic()
        self.endpoint = ""
        self._server: ModbusTcpServer | None = None
        self._runs = {device.unit: register_runs(device) for device in self.devices}
        self._identities = {device.unit: identity(device) for device in self.devices}
        self._sizes = {(device.unit, table, first): size for device in self.devices
                       for table, first, size in stretches(device)}
        self.silent = {device.unit for device in self.devices if device.fate == "dead"}
        self._answers: dict[tuple[int, int, int, int], tuple[PointKey, ...]] = {}

    async def start(self, host: str, port: int, machines: Mapping[str, list[Value]]) -> None:
        """Listen, with the present values in place. Port 0 takes a free one. Raises OSError.

        With a wire, the port is the wire's, and the server behind it takes any.
        """
        await self._listen(host, 0 if self.has_wire else port, machines)
        if self.has_wire:
            await self.wire.open(host, port, (host, self.port))
            self.endpoint = f"tcp://{host}:{self.wire.port}"

    async def restart(self, away_s: float, machines: Mapping[str, list[Value]]) -> None:
        """End every connection and come back after a while at the same address, with nothing remembered."""
        self.wire.shut()
        await self._end()
        await asyncio.sleep(away_s)
        await self._listen(self.wire.target[0], 0, machines)
        self.wire.target = (self.wire.target[0], self.port)
        self.endpoint = f"tcp://{self.wire.target[0]}:{self.wire.port}"
        await self.wire.welcome()

    async def _listen(self, host: str, port: int, machines: Mapping[str, list[Value]]) -> None:
        # one identity serves the whole process; its texts are placeholders that `_own_identity` replaces
        common = ModbusDeviceIdentification(info=dict.fromkeys(OBJECTS, "-"))  # type: ignore[no-untyped-call]  # pymodbus leaves it untyped
        server = _Server([self._sim_device(device) for device in self.devices],
                         framer=FramerType.RTU if self.is_rtu else FramerType.SOCKET,
                         identity=common, address=(host, port), trace_pdu=self._own_identity)
        server.plant = self
        try:
            await server.serve_forever(background=True)
        except RuntimeError as error:
            raise OSError(f"{host}:{port}: {error}") from error
        self._server = server
        listener: Any = server.transport  # asyncio's Server, under the library's narrower name
        self.port = listener.sockets[0].getsockname()[1]
        self.endpoint = f"tcp://{host}:{self.port}"
        await self.update(machines)

    async def update(self, machines: Mapping[str, list[Value]]) -> None:
        """Write the present values of every unit into its tables."""
        if self._server is None:
            return
        for device in self.devices:
            values = machines[device.machine]
            for table, first, members in self._runs[device.unit]:
                image: list[int] | list[bool]
                if table in ("coil", "discrete"):
                    image = [False] * self._sizes[device.unit, table, first]
                    for point, offset in members:
                        image[offset] = bool(values[point.signal])
                else:
                    image = [0] * self._sizes[device.unit, table, first]
                    for point, offset in members:
                        _put(image, offset, point, values[point.signal])
                await self._server.async_setValues(device.unit, READ_CODE[table], first, image)

    async def stop(self) -> None:
        """Close the listener and every connection."""
        self.wire.shut()
        await self._end()
        self.wire.close()

    async def _end(self) -> None:
        if self._server is not None:
            await self._server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus leaves it untyped
            self._server = None

    def points_of(self, unit: int, function: int, address: int, count: int) -> tuple[PointKey, ...]:
        """Return the points that an answer to this read holds, whole."""
        key = (unit, function, address, count)
        found = self._answers.get(key)
        if found is None:
            if len(self._answers) > ANSWERS_MAX:
                self._answers.clear()
            found = self._answers[key] = tuple(
                (device.id, point.id) for device in self.devices if device.unit == unit for point in device.points
                if READ_CODE[_place(point).table] == function and _place(point).address >= address
                and _place(point).address + (1 if _place(point).bit is not None else WIDTH[point.type])
                <= address + count)
        return found

    def note_write(self) -> None:
        """Count a write request; it is refused, or its unit is dead."""
        self.writes += 1
        ModbusPlant.writes_of_process += 1

    def _own_identity(self, sending: bool, pdu: ModbusPDU) -> ModbusPDU:
        """Give an identity reply the texts of the unit that it is for; objects that the unit lacks fall away."""
        if sending and isinstance(pdu, ReadDeviceInformationResponse):
            own = self._identities.get(pdu.dev_id, {})
            pdu.information = {key: own[key] for key in pdu.information if key in own}
        return pdu

    def _sim_device(self, device: Device) -> SimDevice:
        blocks: dict[str, list[SimData]] = {table: [] for table in TABLES}
        for table, first, size in stretches(device):
            if table in ("coil", "discrete"):
                blocks[table].append(SimData(first, values=[False] * size, datatype=DataType.BITS))
            else:
                blocks[table].append(SimData(first, values=[0] * size, datatype=DataType.REGISTERS))
        for table in TABLES:  # the library wants something in every table; what nobody uses reads as zero
            if not blocks[table]:
                empty = [False] if table in ("coil", "discrete") else [0]
                kind = DataType.BITS if table in ("coil", "discrete") else DataType.REGISTERS
                blocks[table].append(SimData(0, values=empty, datatype=kind))
        return SimDevice(device.unit, (blocks["coil"], blocks["discrete"], blocks["holding"], blocks["input"]))


class _Handler(ServerRequestHandler):
    """One connection: decides which unit answers at all, then lets the library answer.

    Requests that come while one is answered wait for their turn; the library would forget them.
    """

    fault: modbus_faults.Fault | None = None
    answers: tuple[PointKey, ...] = ()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)  # type: ignore[no-untyped-call]  # pymodbus leaves it untyped
        self.max_buffer_size = FramerSocket.MAX_SIZE * ASKED_MAX
        self._unread = b""
        self._asked: deque[ModbusPDU] = deque()
        self._answering: asyncio.Task[None] | None = None

    def callback_data(self, data: bytes, addr: tuple[Any, ...] | None = None) -> int:
        """Take every whole request, and keep the begin of the next.

        The library takes one for each piece that arrives, and forgets what is behind it when it answers.
        """
        answering = self.last_pdu
        self._unread += data
        while self._unread:
            size = super().callback_data(self._unread, addr)
            self._unread = self._unread[size:]
            if not size:
                break
            if self.last_pdu is not None:
                self._asked.append(self.last_pdu)
        self.last_pdu = answering
        plant: ModbusPlant = self.server.plant
        plant.waited_most = max(plant.waited_most, len(self._asked))
        if len(self._asked) > ASKED_MAX:
            self.close()
        if len(self._unread) > FramerSocket.MAX_SIZE:  # no request is so long
            self._unread = b""
        return len(data)

    def handle_later(self) -> None:
        """Answer what was asked, in its order."""
        if self._answering is None or self._answering.done():
            self._answering = self.loop.create_task(self._answer_all())

    async def _answer_all(self) -> None:
        while self._asked and self.transport:
            self.last_pdu = self._asked.popleft()
            await self.handle_request()
        self.last_pdu = None

    async def handle_request(self) -> None:
        plant: ModbusPlant = self.server.plant
        pdu = self.last_pdu
        self.answers = ()
        if pdu is None or pdu.dev_id in plant.silent:
            if pdu is not None and pdu.function_code in WRITE_CODES:
                plant.note_write()
            return
        self.fault = plant.line.fault(pdu.dev_id, time.monotonic() - plant.began_s)
        if self.fault is not None and self.fault.kind in ("silent", "close") and pdu.function_code not in WRITE_CODES:
            if self.fault.kind == "close":
                self.close()
            return
        refused = None
        if pdu.dev_id not in plant._identities:
            refused = ExcCodes.GATEWAY_NO_RESPONSE
        elif pdu.function_code in WRITE_CODES:
            plant.note_write()
            refused = ExcCodes.ILLEGAL_FUNCTION
        elif self.fault is not None and self.fault.kind == "busy":
            refused = ExcCodes.DEVICE_BUSY
        if refused is None:
            if pdu.function_code in READ_CODE.values():
                self.answers = plant.points_of(pdu.dev_id, pdu.function_code, pdu.address, pdu.count)
            await super().handle_request()  # type: ignore[no-untyped-call]  # pymodbus leaves it untyped
            return
        reply = ExceptionResponse(pdu.function_code, refused, device_id=pdu.dev_id, transaction=pdu.transaction_id)
        self.server_send(reply, self.last_addr)  # type: ignore[no-untyped-call]  # pymodbus leaves it untyped

    def send(self, data: bytes, addr: tuple[Any, ...] | None = None) -> None:
        """Send a reply, with the fault that its request met."""
        is_rtu = self.server.plant.is_rtu
        points = () if data[1 if is_rtu else 7] & 0x80 else self.answers  # an exception holds no values
        if self.fault is None:
            self._send_now(data, addr, points, "answers")
        elif self.fault.kind == "late":
            self.loop.call_later(self.fault.delay_s, self._send_now, data, addr, points, "late answers")
        else:
            self._send_now(modbus_faults.spoilt(self.fault, data, is_rtu=is_rtu), addr, (), f"{self.fault.kind}")

    def _send_now(self, data: bytes, addr: tuple[Any, ...] | None, points: tuple[PointKey, ...], kind: str) -> None:
        if not self.transport:  # who asked may have hung up
            return
        super().send(data, addr)
        self.server.plant.wire.promise(self.transport.get_extra_info("peername"), len(data), points, kind)


class _Server(ModbusTcpServer):
    """The library's server with our handler for each connection."""

    plant: ModbusPlant

    def callback_new_connection(self) -> ServerRequestHandler:
        return _Handler(self, self.trace_packet, self.trace_pdu, self.trace_connect)


def identity(device: Device) -> dict[int, str]:
    """Return the FC 43/14 objects of a unit. The standard asks for ASCII, so the maker appears under its brand."""
    return {0: device.maker.brand, 1: device.model, 2: f"V{len(device.points)}.{device.unit}", 4: device.id,
            5: device.model, SERIAL_OBJECT: device.serial}


def stretches(device: Device) -> list[tuple[str, int, int]]:
    """Return (table, first address, size) of the addresses that a unit serves.

    A unit with holes refuses the addresses between its values (exception 2); the others serve them as zero.
    """
    used: dict[str, set[int]] = {}
    for point in device.points:
        place = _place(point)
        width = 1 if place.bit is not None else WIDTH[point.type]
        used.setdefault(place.table, set()).update(range(place.address, place.address + width))
    found: list[tuple[str, int, int]] = []
    for table, addresses in used.items():
        # the library serves coils and discrete inputs in whole words of 16, so only registers can have holes
        if device.holes and table in ("holding", "input"):
            runs: list[list[int]] = []
            for address in sorted(addresses):
                if runs and address == runs[-1][-1] + 1:
                    runs[-1].append(address)
                else:
                    runs.append([address])
            found.extend((table, run[0], len(run)) for run in runs)
        else:
            found.append((table, min(addresses), max(addresses) - min(addresses) + 1))
    return found


def register_runs(device: Device) -> list[Run]:
    """Return the stretches of a unit with the points in each: what one update writes."""
    runs: list[Run] = []
    for table, first, size in stretches(device):
        members = tuple((point, _place(point).address - first) for point in device.points
                        if _place(point).table == table and first <= _place(point).address < first + size)
        runs.append((table, first, members))
    return runs


def _place(point: Point) -> ModbusPlace:
    assert isinstance(point.place, ModbusPlace)
    return point.place


def _put(image: list[int], offset: int, point: Point, value: Value) -> None:
    """Write a value into a register image, in the order and number format of its point."""
    place = _place(point)
    if place.bit is not None:
        image[offset] |= int(bool(value)) << place.bit
        return
    assert not isinstance(value, str)
    raw = float(value) if point.type == "float32" else round(value / point.scale)
    data = struct.pack({"float32": ">f", "uint32": ">I", "int32": ">i", "uint16": ">H", "int16": ">h"}[point.type], raw)
    words = [data[i:i + 2] for i in range(0, len(data), 2)]
    if point.order in ("CDAB", "DCBA"):
        words.reverse()
    little = point.order in ("BADC", "DCBA")
    for i, word in enumerate(words):
        image[offset + i] = int.from_bytes(word, "little" if little else "big")
