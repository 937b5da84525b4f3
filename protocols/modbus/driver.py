"""Polls the units of one Modbus connection through pymodbus, and only reads.

pymodbus connects, numbers and frames the requests. Every byte in both directions passes `Link._packet`, pymodbus's
own hook: it lets nothing out that is not a read, and it keeps what comes in from pymodbus's parser. Replies are matched
here, strictly (`frames.match`); after a timeout or anything unexpected the connection is closed and opened again.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from protocols.errors import ConfigError, DeviceError, Problem
from protocols.modbus import frames, identity
from protocols.modbus.codec import BlockCodec
from protocols.modbus.plan import (
    GATEWAY_EXCEPTIONS,
    ILLEGAL_FUNCTION,
    ReadPlan,
    Request,
    describe,
    make_requests,
)
from protocols.modbus.schedule import SILENT_MAX_S, UnitState, reconnect_s
from protocols.modbus.target import ModbusEndpoint, ModbusPoint
from protocols.samples import GOOD, NO_SOURCE_TIME, Block, PollBatch, Reading, SampleBatch, Sink
from protocols.terms.check import CheckResult

# pymodbus logs whole frames, hence process values; what a person must know is told through `Sink.event`.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)

MISMATCH_EVENT_S = 60.0
"""At most one event about mismatched replies of one unit in this time."""

CHECK_PIECES_MAX = 256
"""Reads that `check` spends on one device beyond its plan, bisecting what it refuses."""

CHECK_NAMED_MAX = 5
IDENTITY_PAGES_MAX = 16


class Link:
    """One connection. One request is outstanding at a time; whoever uses it holds `lock`."""

    def __init__(self, endpoint: ModbusEndpoint, clock_ns: Callable[[], int]) -> None:
        self.lock = asyncio.Lock()
        self._endpoint = endpoint
        self._clock_ns = clock_ns
        self._client: AsyncModbusTcpClient | AsyncModbusSerialClient | None = None
        self._waiting: asyncio.Future[tuple[frames.Reply, int]] | None = None
        self._expected: frames.Expected | None = None
        self._spoilt = False

    @property
    def is_open(self) -> bool:
        """Whether the connection may be used: up, and nothing unexpected has arrived on it."""
        return self._client is not None and self._client.connected and not self._spoilt

    async def open(self) -> None:
        """Connect. Raises DeviceError with the cause."""
        self.close()
        self._spoilt = False
        client = self._client = self._make_client()
        try:
            is_up = await client.connect()
        except BaseException:
            self.close()
            raise
        if not is_up:
            self.close()
            raise DeviceError(await self._why_not())

    def close(self) -> None:
        """Close the connection; safe at any time."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def read(self, request: Request) -> tuple[frames.Reply, int]:
        """Send one read of the plan. Return its reply and the time it arrived; see `_exchange`."""
        client = self._up()
        call = {1: client.read_coils, 2: client.read_discrete_inputs,
                3: client.read_holding_registers, 4: client.read_input_registers}[request.function]
        return await self._exchange(request.unit, call(
            request.address, count=request.count, device_id=request.unit, no_response_expected=True))

    async def read_identification(self, unit: int, code: int, object_id: int) -> frames.Reply:
        """Send function 43/14; see `_exchange`."""
        reply, _ = await self._exchange(unit, self._up().read_device_information(
            read_code=code, object_id=object_id, device_id=unit, no_response_expected=True))
        return reply

    async def read_server_id(self, unit: int) -> frames.Reply:
        """Send function 17; see `_exchange`."""
        reply, _ = await self._exchange(
            unit, self._up().report_device_id(device_id=unit, no_response_expected=True))
        return reply

    def _up(self) -> AsyncModbusTcpClient | AsyncModbusSerialClient:
        if self._client is None or not self._client.connected:
            raise DeviceError(self._problem("modbus.closed"))
        return self._client

    async def _exchange(self, unit: int, send: Awaitable[ModbusPDU]) -> tuple[frames.Reply, int]:
        """Send and wait. Raises DeviceError (no reply, not this reply, connection gone), the connection then closed."""
        waiting: asyncio.Future[tuple[frames.Reply, int]] = asyncio.get_running_loop().create_future()
        self._waiting = waiting
        try:
            async with asyncio.timeout(self._endpoint.timeout_s):
                await send
                return await waiting
        except TimeoutError:
            self.close()
            raise DeviceError(self._problem("modbus.timeout", unit=unit, timeout_s=self._endpoint.timeout_s)) from None
        except ModbusException as error:
            self.close()
            raise DeviceError(self._problem("modbus.closed")) from error
        except BaseException:  # a mismatch, a lost connection or a cancellation: the reply may still be on its way
            self.close()
            raise
        finally:
            self._waiting = self._expected = None

    def _packet(self, sending: bool, data: bytes) -> bytes:
        """Pass every frame sent, and every byte received since, through our own hands."""
        if sending:
            if not frames.is_read_only(frames.pdu_of(data, is_rtu=self._endpoint.is_rtu)):
                raise DeviceError(self._problem("modbus.write_refused"))
            self._expected = frames.expect(data, is_rtu=self._endpoint.is_rtu)
            return data
        if self._waiting is None or self._waiting.done() or self._expected is None:
            self._spoilt = True  # nobody asked: a doubled or late answer; whatever follows it cannot be trusted
            return b""
        found = frames.match(self._expected, data)
        if isinstance(found, frames.Mismatch):
            self._waiting.set_exception(DeviceError(
                self._problem("modbus.mismatch", unit=self._expected.unit, field=found.reason)))
        elif found is not None:
            self._waiting.set_result((found, self._clock_ns()))
        return b""

    def _connected(self, is_up: bool) -> None:
        if not is_up and self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(DeviceError(self._problem("modbus.closed")))

    def _make_client(self) -> AsyncModbusTcpClient | AsyncModbusSerialClient:
        """Make a client of its own for every connection, so that no state of the last one is left.

        retries and reconnect_delay are 0: a repeated request could meet the late answer to the first one, and
        pymodbus's own reconnecting waits up to 300 s.
        """
        at = self._endpoint
        if at.protocol == "modbus_rtu":
            return AsyncModbusSerialClient(
                at.host, framer=FramerType.RTU, baudrate=at.baudrate, parity=at.parity, stopbits=at.stopbits,
                timeout=at.timeout_s, retries=0, reconnect_delay=0, trace_packet=self._packet,
                trace_connect=self._connected)
        return AsyncModbusTcpClient(
            at.host, port=at.port, framer=FramerType.RTU if at.is_rtu else FramerType.SOCKET, timeout=at.timeout_s,
            retries=0, reconnect_delay=0, trace_packet=self._packet, trace_connect=self._connected)

    async def _why_not(self) -> Problem:
        """Find the cause of a failed connect, which pymodbus keeps to itself, by trying once more."""
        at = self._endpoint
        if at.protocol == "modbus_rtu":
            return self._problem("modbus.no_serial_line", device=at.host)
        try:
            async with asyncio.timeout(at.timeout_s):
                _, writer = await asyncio.open_connection(at.host, at.port)
            writer.close()
        except TimeoutError:
            return self._problem("modbus.connect_timeout", endpoint=at.endpoint, timeout_s=at.timeout_s)
        except ConnectionRefusedError:
            return self._problem("modbus.refused", endpoint=at.endpoint)
        except socket.gaierror:
            return self._problem("modbus.unknown_host", host=at.host)
        except (OSError, ValueError) as error:
            return self._problem("modbus.unreachable", endpoint=at.endpoint, error=error)
        return self._problem("modbus.connect_timeout", endpoint=at.endpoint, timeout_s=at.timeout_s)

    def _problem(self, code: str, **args: object) -> Problem:
        return Problem.of(self._endpoint.name, code, **args)


@dataclass(slots=True)
class _Unit:
    """One unit while it is polled. troubled: reads whose last answer was an exception, told once each."""

    unit: int
    plan: ReadPlan
    state: UnitState
    troubled: set[Request] = field(default_factory=set)
    mismatch_told_s: float = float("-inf")
    has_overrun: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Compiled:
    """How the reply to one read is decoded and delivered. block: None if it holds strings only."""

    codec: BlockCodec
    block: Block | None


class Driver:
    """All units behind one endpoint. Polls one after the other over one connection until cancelled."""

    def __init__(self, endpoint: ModbusEndpoint, points: Sequence[ModbusPoint], sink: Sink,
                 clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Plan the reads; nothing is sent. Raises ConfigError with every point that cannot be read."""
        if endpoint.protocol == "modbus_rtu" and importlib.util.find_spec("serial") is None:
            raise ConfigError(Problem.of(endpoint.where or endpoint.name, "modbus.needs_pyserial"))
        self._endpoint = endpoint
        self._sink = sink
        self._requests = make_requests(points, endpoint)
        self._points = {point.point_index: point for point in points}
        self._units: list[_Unit] = []
        self._link = Link(endpoint, clock_ns)
        self._clock_ns = clock_ns
        self._compiled: dict[Request, _Compiled] = {}
        self._attempt = 0  # connections opened since the last valid reply
        self._is_lost = False
        self._is_running = False

    def plan(self) -> list[dict[str, str]]:
        """Return the reads that would be sent, one row of text each. No network."""
        return describe(self._requests, self._endpoint)

    async def run(self) -> None:
        """Poll until cancelled. Device and network trouble never ends it: it is told as events and tried again."""
        now_s = asyncio.get_running_loop().time()
        units = [_Unit(unit, ReadPlan(list(requests)), UnitState(now_s)) for unit, requests in self._by_unit()]
        self._units = units
        self._is_running = True
        try:
            if not units:
                await asyncio.get_running_loop().create_future()
            while True:
                unit = min(units, key=lambda u: u.state.due_s)
                await asyncio.sleep(max(0.0, unit.state.due_s - self._now_s()))
                if not self._link.is_open:
                    await self._connect(units)
                await self._poll(unit)
        finally:
            self._is_running = False
            self._link.close()

    @property
    def readable(self) -> frozenset[int]:
        """Slots of the points that `read_once` reads."""
        return frozenset(self._points)

    async def read_once(self, point_index: int) -> Reading | None:
        """Read one point now, between two requests of the poll and with its pauses. Nothing goes to the sink.

        Returns: None if it was not asked: the line is down, or its unit is silent and would cost everybody a timeout.
        A reading without a value if there was no answer, or one without a value. Raises: KeyError for a strange point.
        """
        point = self._points[point_index]
        if any(unit.unit == point.address.unit and unit.state.is_silent for unit in self._units):
            return None
        request, = make_requests([point], self._endpoint)
        pause_s = self._endpoint.pause_ms / 1000
        async with self._link.lock:
            await asyncio.sleep(pause_s)
            if not self._is_running or not self._link.is_open:
                return None
            asked_ns = self._clock_ns()
            try:
                reply, answered_ns = await self._link.read(request)
            except DeviceError:  # the poll meets the same trouble and tells it
                return Reading(asked_ns=asked_ns)
            await asyncio.sleep(pause_s)
        if reply.exception:
            return Reading(asked_ns=asked_ns)
        decoded = BlockCodec(request.points, request.address).decode(reply.body)
        value: float | str | None = None
        if decoded.texts:
            value = decoded.texts[0].text
        elif not decoded.missing.size:
            value = float(decoded.value[0])
        return Reading(asked_ns=asked_ns, answered_ns=answered_ns, value=value)

    def _by_unit(self) -> Iterator[tuple[int, list[Request]]]:
        for unit in sorted({r.unit for r in self._requests}):
            yield unit, [r for r in self._requests if r.unit == unit]

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    async def _connect(self, units: Sequence[_Unit]) -> None:
        while True:
            wait_s = reconnect_s(self._attempt, chance=random.random())
            await asyncio.sleep(wait_s)
            self._attempt += 1
            try:
                async with self._link.lock:
                    await self._link.open()
            except DeviceError as error:
                if not self._is_lost:
                    self._is_lost = True
                    self._tell(error.problems[0])
                    self._event("modbus.lost", endpoint=self._endpoint.endpoint)
                continue
            now_s = self._now_s()
            for unit in units:  # what was due while the line was down is not late
                if wait_s and unit.state.due_s < now_s:
                    unit.state = UnitState(now_s, unit.state.failures)
            return

    async def _poll(self, unit: _Unit) -> None:
        """Send the reads of one unit that are due; the first one without a reply ends the poll of this unit."""
        self._watch_pace(unit)
        requests = unit.plan.due(self._now_s())
        for request in requests[:1] if unit.state.is_silent else requests:
            try:
                async with self._link.lock:
                    if not self._link.is_open:
                        await self._link.open()
                    reply, received_ns = await self._link.read(request)
            except DeviceError as error:
                return self._failed(unit, error.problems[0])
            if reply.exception in GATEWAY_EXCEPTIONS:
                return self._failed(unit, Problem.of(self._endpoint.name, "modbus.gateway_exception",
                                                     unit=unit.unit, exception=reply.exception))
            self._answered(unit, request, reply, received_ns)
            if self._endpoint.pause_ms:
                await asyncio.sleep(self._endpoint.pause_ms / 1000)
        unit.state = unit.state.answered(now_s=self._now_s(), poll_s=self._endpoint.poll_s)
        return None

    def _answered(self, unit: _Unit, request: Request, reply: frames.Reply, received_ns: int) -> None:
        self._attempt = 0
        if self._is_lost:
            self._is_lost = False
            self._event("modbus.back", endpoint=self._endpoint.endpoint)
        if unit.state.is_silent:
            unit.state = UnitState(unit.state.due_s)
            self._event("modbus.unit_back", unit=unit.unit)
        self._sink.answered([request.device_index], received_ns)
        if reply.exception:
            self._excepted(unit, request, reply.exception)
            return
        unit.troubled.discard(request)
        if unit.plan.answered(request):
            self._compiled.clear()
            self._event("modbus.points_back", unit=unit.unit, points=len(request.points))
        self._deliver(request, reply.body, received_ns)

    def _excepted(self, unit: _Unit, request: Request, exception: int) -> None:
        given_up = unit.plan.refused(request, exception, self._now_s())
        if given_up:
            self._event("modbus.points_refused", unit=unit.unit, exception=exception, points=len(given_up),
                        first=given_up[0].address.canonical)
        elif request in unit.plan.active and request not in unit.troubled:
            unit.troubled.add(request)
            self._event("modbus.exception", unit=unit.unit, exception=exception, table=request.table,
                        address=request.address, count=request.count)

    def _deliver(self, request: Request, body: bytes, received_ns: int) -> None:
        compiled = self._compiled.get(request)
        if compiled is None:
            codec = BlockCodec(request.points, request.address)
            block = Block(codec.numeric, request.device_index) if codec.numeric.size else None
            compiled = self._compiled[request] = _Compiled(codec, block)
        decoded = compiled.codec.decode(body)
        if compiled.block is not None:
            self._sink.samples(PollBatch(
                block=compiled.block, received_ns=received_ns, value=decoded.value, missing=decoded.missing))
        if decoded.texts:
            n = len(decoded.texts)
            self._sink.samples(SampleBatch(
                point_index=np.array([t.point_index for t in decoded.texts], dtype=np.int64),
                received_ns=np.full(n, received_ns, dtype=np.int64),
                source_ns=np.full(n, NO_SOURCE_TIME, dtype=np.int64),
                value=np.array([t.value for t in decoded.texts], dtype=np.float64),
                quality=np.full(n, GOOD, dtype=np.uint8),
                texts=tuple((row, t.text) for row, t in enumerate(decoded.texts))))
        if decoded.undecodable:
            self._sink.discarded("undecodable", decoded.undecodable)

    def _failed(self, unit: _Unit, problem: Problem) -> None:
        was_silent, now_s = unit.state.is_silent, self._now_s()
        unit.state = unit.state.failed(
            now_s=now_s, poll_s=self._endpoint.poll_s, chance=random.random())
        if problem.code == "modbus.mismatch":
            if now_s - unit.mismatch_told_s >= MISMATCH_EVENT_S:
                unit.mismatch_told_s = now_s
                self._tell(problem)
        elif unit.state.is_silent and not was_silent:
            self._tell(problem)
        if unit.state.is_silent and not was_silent:
            self._event("modbus.unit_silent", unit=unit.unit, failures=unit.state.failures, rare_s=f"{SILENT_MAX_S:g}")

    def _watch_pace(self, unit: _Unit) -> None:
        """Tell once when a unit is polled much later than asked for, and forget it when it is in time again."""
        late_s = self._now_s() - unit.state.due_s
        if late_s > 2 * self._endpoint.poll_s + self._endpoint.timeout_s:
            if not unit.has_overrun:
                unit.has_overrun = True
                self._event("modbus.overrun", unit=unit.unit, late_s=f"{late_s:.1f}", poll_s=self._endpoint.poll_s)
        elif late_s < self._endpoint.poll_s:
            unit.has_overrun = False

    def _event(self, code: str, **args: object) -> None:
        self._sink.event(code, self._endpoint.name, **args)

    def _tell(self, problem: Problem) -> None:
        self._sink.event(problem.code, problem.where, **dict(problem.args))

    async def check(self) -> list[CheckResult]:
        """Connect, read every point of every device once, and name each device. Not while `run` runs.

        Returns: one result for each device, in the order of device_index. A device passes if all its points could be
        read; else the first cause is told. Nothing is delivered to the sink.
        """
        results: dict[int, CheckResult] = {}
        silent: dict[int, Problem] = {}
        link = Link(self._endpoint, self._clock_ns)
        try:
            for device in sorted({r.device_index for r in self._requests}):
                mine = [r for r in self._requests if r.device_index == device]
                results[device] = await self._check_device(link, device, mine, silent)
        finally:
            link.close()
        return [results[device] for device in sorted(results)]

    async def _check_device(
        self, link: Link, device: int, requests: list[Request], silent: dict[int, Problem]
    ) -> CheckResult:
        """silent: units that failed already; they are not asked again for their other devices."""
        plans = {unit: ReadPlan([r for r in requests if r.unit == unit]) for unit in {r.unit for r in requests}}
        asked: set[Request] = set()
        refused_with = 0
        try:
            for unit, plan in plans.items():
                if unit in silent:
                    raise DeviceError(silent[unit])
                while todo := [r for r in plan.active if r not in asked]:
                    if len(asked) >= len(requests) + CHECK_PIECES_MAX:
                        break
                    asked.add(todo[0])
                    exception = await self._check_read(link, todo[0])
                    if exception:
                        refused_with = exception
                        plan.refused(todo[0], exception, 0.0)
                        if todo[0] in plan.active:
                            return self._result(device, "modbus.exception", unit=unit, exception=exception,
                                                table=todo[0].table, address=todo[0].address, count=todo[0].count)
        except DeviceError as error:
            problem = error.problems[0]
            if problem.code in ("modbus.timeout", "modbus.mismatch", "modbus.gateway_exception"):
                silent.update({unit: problem for unit in plans if ("unit", str(unit)) in problem.args})
            return CheckResult(device, False, problem.code, problem.args)
        lost = [p for plan in plans.values() for p in plan.given_up]
        lost += [p for plan in plans.values() for r in plan.active if r not in asked for p in r.points]
        if lost:
            named = ", ".join(p.address.canonical for p in lost[:CHECK_NAMED_MAX])
            return self._result(device, "modbus.check_refused", points=len(lost), exception=refused_with,
                                named=named + (", ..." if len(lost) > CHECK_NAMED_MAX else ""))
        name = await self._check_identity(link, min(plans))
        return self._result(device, "modbus.check_ok", ok=True, reads=len(asked), identity=name or "-",
                            points=sum(len(r.points) for r in requests))

    def _result(self, device: int, code: str, ok: bool = False, **args: object) -> CheckResult:
        return CheckResult(device, ok, code, Problem.of("", code, **args).args)

    async def _check_read(self, link: Link, request: Request) -> int:
        """Return 0 or the exception code. Raises DeviceError."""
        if not link.is_open:
            await link.open()
        reply, _ = await link.read(request)
        if reply.exception in GATEWAY_EXCEPTIONS:
            raise DeviceError(Problem.of(self._endpoint.name, "modbus.gateway_exception",
                                         unit=request.unit, exception=reply.exception))
        return reply.exception

    async def _check_identity(self, link: Link, unit: int) -> str:
        try:
            found = await self._identify(link, unit)
        except DeviceError:
            return ""  # many devices do not answer what they do not know; that is no fault
        return " ".join(found[name] for name in ("vendor_name", "product_code", "model_name", "server_id")
                        if name in found)

    async def identify(self, unit: int) -> dict[str, str]:
        """Read the nameplate of a unit: function 43/14, else function 17. Read-only.

        Returns: texts by `identity.NAMES`, `object_N` for private objects, `server_id` from function 17; empty if the
        device has neither. Works while `run` runs, on the same connection.
        Raises: DeviceError if there is no connection or no reply.
        """
        async with self._link.lock:
            if self._link.is_open:
                return await self._identify(self._link, unit)
            if self._is_running:
                raise DeviceError(Problem.of(self._endpoint.name, "modbus.closed"))
        link = Link(self._endpoint, self._clock_ns)
        try:
            return await self._identify(link, unit)
        finally:
            link.close()

    async def _identify(self, link: Link, unit: int) -> dict[str, str]:
        found: dict[int, bytes] = {}
        for code in (2, 1):  # regular, which holds basic; some devices know basic only and refuse the rest
            object_id, exception = 0, 0
            for _ in range(IDENTITY_PAGES_MAX):
                if not link.is_open:
                    await link.open()
                reply = await link.read_identification(unit, code, object_id)
                exception = reply.exception
                if exception:
                    break
                page = identity.parse_page(reply.body)
                found |= page.objects
                if page.next_object is None or page.next_object <= object_id:  # a device may not send us in circles
                    break
                object_id = page.next_object
            if found or exception == ILLEGAL_FUNCTION:
                break
        if found:
            return identity.nameplate(found)
        if not link.is_open:
            await link.open()
        server_id = identity.printable((await link.read_server_id(unit)).body)
        return {"server_id": server_id} if server_id else {}
