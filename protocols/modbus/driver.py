"""One Modbus connection through pymodbus, and the driver that reads over it. Nothing here writes to a device.

pymodbus connects, numbers and frames the requests. Every byte in both directions passes `Link._packet`, pymodbus's
own hook: it lets nothing out that is not a read, and it keeps what comes in from pymodbus's parser. Replies are matched
here, strictly (`frames.match`); after a timeout or anything unexpected the connection is closed and opened again.
Over TCP and TLS the reads of a whole poll pass by its framer and parser, on the same connection (`burst`, `cycle`).
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient, AsyncModbusTlsClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from protocols.errors import ConfigError, DeviceError, Problem
from protocols.modbus import commission, frames, tls
from protocols.modbus.burst import BufferedTap, Burst, Tap, tapped
from protocols.modbus.cycle import Cycle
from protocols.modbus.plan import Request, describe, make_requests
from protocols.modbus.poll import Poller
from protocols.modbus.schedule import Pace
from protocols.modbus.target import UNIT_MAX, ModbusEndpoint, ModbusPoint, UnitLimits
from protocols.samples import Reading, Sink
from protocols.terms.check import CheckResult

# pymodbus logs whole frames, hence process values; what a person must know is told through `Sink.event`.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)

DRAIN_MAX = 4
"""After a reply that did not come, an RTU line is listened to for a timeout of silence, at most so many times."""

SWIFT = frozenset({"modbus_tcp", "modbus_tls"})
"""Protocols whose polls go as bursts. RTU frames have no transaction id, and a serial line is never short of CPU."""

Client = AsyncModbusTcpClient | AsyncModbusSerialClient
T = TypeVar("T")


class _Turn:
    """One turn at the line, for `async with`.

    Nobody holds the line while he waits for the interval of a unit: the others are asked meanwhile.
    """

    __slots__ = ("_limits", "_link", "_lock", "_now_s", "_pace", "_unit")

    def __init__(self, link: Link, pace: Pace, unit: int, limits: UnitLimits) -> None:
        self._link = link
        self._lock = link.lock
        self._pace = pace
        self._unit = unit
        self._limits = limits
        self._now_s = asyncio.get_running_loop().time

    async def __aenter__(self) -> None:
        while True:
            wait_s = self._pace.unit_ready_s(self._unit) - self._now_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self._link.make_way()
            await self._lock.acquire()
            if self._pace.unit_ready_s(self._unit) <= self._now_s():
                break
            self._lock.release()  # somebody else asked this unit in between
        try:
            wait_s = self._pace.line_ready_s() - self._now_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
        except BaseException:
            self._lock.release()
            raise
        self._pace.started(self._unit, now_s=self._now_s(), interval_ms=self._limits.interval_ms)

    async def __aexit__(self, *_: object) -> None:
        self._pace.ended(now_s=self._now_s(), pause_ms=self._limits.pause_ms)
        self._lock.release()


class Link:
    """One connection. One request is outstanding at a time; whoever uses it holds `lock`."""

    def __init__(self, endpoint: ModbusEndpoint, clock_ns: Callable[[], int]) -> None:
        self.lock = asyncio.Lock()
        self.session: dict[str, str] = {}  # of the last TLS connection, see `tls.describe`; empty without TLS
        self.server_key: str | None = None  # SPKI digest of the server that was last verified
        self._endpoint = endpoint
        known: dict[UnitLimits, UnitLimits] = {}  # most units are asked alike
        self._limits = {unit: known.setdefault(limits, limits)
                        for unit, limits in ((unit, endpoint.of(unit)) for unit in range(UNIT_MAX + 1))}
        self._pace = Pace()
        self._clock_ns = clock_ns
        self._client: Client | None = None
        self._tap: Tap | BufferedTap | None = None
        self._waiting: asyncio.Future[tuple[frames.Reply, int]] | None = None
        self._expected: frames.Expected | None = None
        self._spoilt = False
        self._role = ""  # in the certificate that was last shown
        self._is_owed = False  # a reply may still be on its way
        self._has_answered = False  # since this connection was opened

    @property
    def is_open(self) -> bool:
        """Whether the connection may be used: up, and nothing unexpected has arrived on it."""
        return self._client is not None and self._client.connected and not self._spoilt

    def turn(self, unit: int) -> _Turn:
        """Wait until this unit may be asked, then hold the line: pauses and intervals are kept, whoever asks."""
        return _Turn(self, self._pace, unit, self._limits[unit])

    def make_way(self) -> None:
        """Let a burst that is under way end early: somebody else wants his turn, which he gets next."""
        if self._tap is not None and self._tap.burst is not None:
            self._tap.burst.stop()

    def is_swift(self, unit: int) -> bool:
        """Return whether the reads of a poll may go as a burst: nobody asked for pauses between them."""
        limits = self._limits[unit]
        return self._endpoint.protocol in SWIFT and not limits.pause_ms and not limits.interval_ms

    def ready_s(self, unit: int) -> float:
        """Return the moment (loop time) from which `turn` would not wait for this unit's own interval."""
        return self._pace.unit_ready_s(unit)

    async def connect(self) -> None:
        """Connect while nobody has his turn. Raises DeviceError with the cause."""
        async with self.lock:
            await self.open()

    async def open(self) -> None:
        """Connect, and wait until no late answer can come any more. Raises DeviceError with the cause."""
        self.close()
        client = self._client = await self._make_client()
        self._has_answered = False
        try:
            task = asyncio.current_task()
            cancelled = task.cancelling() if task is not None else 0
            is_up = await self._is_up(client)
            if task is not None and task.cancelling() > cancelled:
                # wait_for of Python 3.11, in pymodbus's connect, swallows a cancellation that meets the connection.
                raise asyncio.CancelledError
            if is_up and self._endpoint.is_rtu and self._is_owed:
                await self._drain()
        except BaseException:
            self.close()
            raise
        if not is_up:
            self.close()
            raise DeviceError(await self._why_not())
        if client.ctx.transport is not None and client.ctx.transport.is_closing():
            # pymodbus takes up again what was lost before its connect returned, and never hears of it any more.
            self.close()
            raise self._gone()
        self._is_owed = self._spoilt = False
        if self._endpoint.protocol == "modbus_tls":
            self._look_at_server(client)
        if self._endpoint.protocol in SWIFT and client.ctx.transport is not None:
            self._tap = tapped(client.ctx.transport, client.ctx)

    async def _is_up(self, client: Client) -> bool:
        """Connect; return whether it worked. `_why_not` finds out why it did not."""
        try:
            return bool(await client.connect())
        except ValueError:  # a name that nobody can look up
            return False
        except Exception:
            # A serial line that does not take its settings raises termios.error, which is no OSError.
            if self._endpoint.protocol != "modbus_rtu":
                raise
            return False

    async def _drain(self) -> None:
        """Listen until the line was silent for a timeout.

        An RTU frame does not say which request it answers, and a gateway hands what comes late from its serial line to
        whoever is connected then: a new connection alone does not end it.
        """
        for _ in range(DRAIN_MAX):
            self._spoilt = False
            await asyncio.sleep(self._endpoint.timeout_s)
            if not self._spoilt:
                return
        raise DeviceError(self._problem("modbus.babble", timeout_s=self._endpoint.timeout_s))

    def close(self) -> None:
        """Close the connection; safe at any time."""
        if self._client is not None:
            self._client.close()
            self._client = self._tap = None

    async def read_all(self, cycle: Cycle, times: list[int]) -> None:
        """Ask the reads of a cycle that are left. times: grows with `cycle.replies`, the time each of them arrived.

        Returns when all are answered, after an exception reply, or when somebody else wants his turn; call it again
        for the rest. Raises: DeviceError (no reply, not this reply, connection gone), the connection then closed.
        """
        client, tap, unit = self._up(), self._tap, cycle.requests[0].unit
        if tap is None:
            raise DeviceError(self._problem("modbus.closed"))
        if not cycle.is_numbered:  # one row of numbers with pymodbus's own requests: none comes twice within a cycle
            client.ctx.next_tid = cycle.number(client.ctx.getNextTID())
        limits = self._limits[unit]
        transport: Any = client.ctx.transport
        burst = Burst(cycle, times, transport.write, in_flight=limits.in_flight, timeout_s=limits.timeout_s,
                      clock_ns=self._clock_ns, problem=self._problem)
        tap.begin(burst)
        try:
            await burst.ended
        except BaseException:  # a timeout, a mismatch, a lost connection or a cancellation: a reply may be on its way
            self.close()
            raise
        finally:
            tap.burst = None
            burst.close()
            self._has_answered |= bool(times)

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

    def _up(self) -> Client:
        if self._client is None or not self._client.connected:
            raise DeviceError(self._problem("modbus.closed"))
        return self._client

    async def _exchange(self, unit: int, send: Awaitable[ModbusPDU]) -> tuple[frames.Reply, int]:
        """Send and wait. Raises DeviceError (no reply, not this reply, connection gone), the connection then closed."""
        waiting: asyncio.Future[tuple[frames.Reply, int]] = asyncio.get_running_loop().create_future()
        self._waiting = waiting
        self._is_owed = True
        timeout_s = self._limits[unit].timeout_s
        try:
            try:
                async with asyncio.timeout(timeout_s):
                    await send
                    found = await waiting
            except TimeoutError:
                if not waiting.done() or waiting.cancelled():
                    raise
                found = waiting.result()  # it had come while this process stood still
            self._is_owed, self._has_answered = False, True
            return found
        except TimeoutError:
            self.close()
            raise DeviceError(self._problem("modbus.timeout", unit=unit, timeout_s=timeout_s)) from None
        except ModbusException as error:
            self.close()
            raise DeviceError(self._problem("modbus.closed")) from error
        except BaseException:  # a mismatch, a lost connection or a cancellation: the reply may still be on its way
            self.close()
            raise
        finally:
            self._waiting = self._expected = None
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # a loss while sending is told by `send` already

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
        if is_up:
            return
        gone = self._gone()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(gone)
        if self._tap is not None and self._tap.burst is not None:
            self._tap.burst.fail(gone)

    def _gone(self) -> DeviceError:
        """Return the loss of the connection. TLS 1.3: a server refuses our certificate or role after the handshake."""
        is_unwelcome = self._endpoint.protocol == "modbus_tls" and not self._has_answered
        return DeviceError(self._problem("modbus.tls_unwelcome" if is_unwelcome else "modbus.closed"))

    async def _make_client(self) -> Client:
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
        if at.protocol == "modbus_tls":
            return AsyncModbusTlsClient(
                at.host, port=at.port, sslctx=await self._context(), timeout=at.timeout_s, retries=0,
                reconnect_delay=0, trace_packet=self._packet, trace_connect=self._connected)
        return AsyncModbusTcpClient(
            at.host, port=at.port, framer=FramerType.RTU if at.is_rtu else FramerType.SOCKET, timeout=at.timeout_s,
            retries=0, reconnect_delay=0, trace_packet=self._packet, trace_connect=self._connected)

    async def _context(self) -> ssl.SSLContext:
        try:
            context, self._role = await asyncio.to_thread(tls.make_context, self._endpoint)
            return context
        except ConfigError as error:  # a certificate that is being replaced must not end the gateway
            raise DeviceError(error.problems[0]) from error

    def _look_at_server(self, client: Client) -> None:
        """Note who answered. Raises DeviceError if the server has ended the connection already."""
        transport = client.ctx.transport
        ssl_object = transport.get_extra_info("ssl_object") if transport is not None else None
        try:
            der = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
        except ValueError:  # a fatal alert that arrived just now takes the handshake back
            der = None
        if not der:
            self.close()
            raise DeviceError(self._problem("modbus.tls_unwelcome"))
        self.session = tls.describe(ssl_object, der, role=self._role)
        self.server_key = tls.spki_sha256(der)

    async def _why_not(self) -> Problem:
        """Find the cause of a failed connect, which pymodbus keeps to itself, by trying once more."""
        at = self._endpoint
        if at.protocol == "modbus_rtu":
            return self._problem("modbus.no_serial_line", device=at.host)
        try:
            context = await self._context() if at.protocol == "modbus_tls" else None
            async with asyncio.timeout(at.timeout_s):
                _, writer = await asyncio.open_connection(at.host, at.port, ssl=context)
            writer.close()
        except TimeoutError:
            return self._problem("modbus.connect_timeout", endpoint=at.endpoint, timeout_s=at.timeout_s)
        except ConnectionRefusedError:
            return self._problem("modbus.refused", endpoint=at.endpoint)
        except ssl.SSLCertVerificationError as error:
            return self._problem("modbus.tls_untrusted", endpoint=at.endpoint, reason=error.verify_message)
        except (ssl.SSLError, ConnectionResetError) as error:
            if at.protocol != "modbus_tls":
                return self._problem("modbus.unreachable", endpoint=at.endpoint, error=error)
            reason = getattr(error, "reason", None) or error
            return self._problem("modbus.tls_failed", endpoint=at.endpoint, reason=reason)
        except socket.gaierror:
            return self._problem("modbus.unknown_host", host=at.host)
        except (OSError, ValueError) as error:
            return self._problem("modbus.unreachable", endpoint=at.endpoint, error=error)
        return self._problem("modbus.connect_timeout", endpoint=at.endpoint, timeout_s=at.timeout_s)

    def _problem(self, code: str, **args: object) -> Problem:
        return Problem.of(self._endpoint.name, code, **args)


class Driver:
    """All units behind one endpoint. Polls one after the other over one connection until cancelled."""

    def __init__(self, endpoint: ModbusEndpoint, points: Sequence[ModbusPoint], sink: Sink,
                 clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Plan the reads; nothing is sent. Raises ConfigError with every point or file that cannot be used."""
        if endpoint.protocol == "modbus_rtu" and importlib.util.find_spec("serial") is None:
            raise ConfigError(Problem.of(endpoint.where or endpoint.name, "modbus.needs_pyserial"))
        if endpoint.protocol == "modbus_tls":
            tls.make_context(endpoint)
        self._endpoint = endpoint
        self._requests = make_requests(points, endpoint)
        self._clock_ns = clock_ns
        self._link = Link(endpoint, clock_ns)
        self._poller = Poller(endpoint, self._requests, self._link, sink, clock_ns)

    def plan(self) -> list[dict[str, str]]:
        """Return the reads that would be sent, one row of text each. No network."""
        return describe(self._requests, self._endpoint)

    async def run(self) -> None:
        """Poll until cancelled. Device and network trouble never ends it: it is told as events and tried again."""
        await self._poller.run()

    @property
    def readable(self) -> frozenset[int]:
        """Slots of the points that `read_once` reads."""
        return self._poller.readable

    async def read_once(self, point_index: int) -> Reading | None:
        """Read one point now, between two requests of the poll and with its pauses. Nothing goes to the sink.

        Returns: None if it was not asked: the line is down, or its unit is silent and would cost everybody a timeout.
        A reading without a value if there was no answer, or one without a value. Raises: KeyError for a strange point.
        """
        return await self._poller.read_once(point_index)

    async def check(self) -> list[CheckResult]:
        """Connect, read every point of every device once, and name each device. Not while `run` runs.

        Returns: one result for each device, in the order of device_index. A device passes if all its points could be
        read; else the first cause is told. Nothing is delivered to the sink.
        """
        link = Link(self._endpoint, self._clock_ns)
        try:
            results = await commission.check_devices(link, self._endpoint.name, self._requests)
        finally:
            link.close()
        self._link.session, self._link.server_key = link.session, link.server_key
        return [commission.with_session(result, link.session) for result in results]

    def server_spki_sha256(self) -> str | None:
        """Return the digest of the server's public key once a TLS connection has verified it; None without TLS."""
        return self._link.server_key

    async def identify(self, unit: int) -> dict[str, str]:
        """Read the nameplate of a unit: function 43/14, else function 17. Read-only.

        Returns: texts by `identity.NAMES`, `object_N` for private objects, `server_id` from function 17; empty if the
        device has neither. Works while `run` runs, on the same connection.
        Raises: DeviceError if there is no connection or no reply.
        """
        return await self._with_line(lambda line: commission.identify(line, unit))

    async def identities(self) -> dict[int, dict[str, str]]:
        """Read the nameplate of every device that answers; see `identify`.

        Returns: device slot -> nameplate of its unit (the first, if it has several); an empty one if it shows none. A
        device that does not answer is absent. Raises: DeviceError if there is no connection.
        """
        return await self._with_line(lambda line: commission.identify_devices(line, self._requests))

    async def _with_line(self, ask: Callable[[Link], Awaitable[T]]) -> T:
        if self._link.is_open:
            return await ask(self._link)
        if self._poller.is_running:
            raise DeviceError(Problem.of(self._endpoint.name, "modbus.closed"))
        link = Link(self._endpoint, self._clock_ns)
        try:
            return await ask(link)
        finally:
            link.close()
