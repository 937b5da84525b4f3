"""One cycle of reads over an open connection: the next request leaves as soon as a reply is there, without a task.

    transport --- Tap --- pymodbus          no burst: every byte is pymodbus's, and `Link._packet` judges it
                   `----- Burst             a burst: every byte is its own

pymodbus connects, keeps TLS, and closes; it is told of everything but the bytes of a burst. Public asyncio only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from protocols.errors import DeviceError, Problem
from protocols.modbus import frames
from protocols.modbus.cycle import Cycle

BUFFER_BYTES = 32 * 1024
"""What one look at a socket brings in at most."""


class Burst:
    """Asks the reads of a cycle one after the other, `in_flight` at once, until all are answered or something differs.

    times: when each confirmed reply arrived, UTC ns. ended: done when nothing is outstanding any more; fails with
    DeviceError. It ends early after an exception reply, and after `stop`.
    """

    def __init__(self, cycle: Cycle, times: list[int], write: Callable[[bytes], object], *, in_flight: int,
                 timeout_s: float, clock_ns: Callable[[], int], problem: Callable[..., Problem]) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._cycle = cycle
        self._times = times
        self._write = write
        self._in_flight = in_flight
        self._timeout_s = timeout_s
        self._clock_ns = clock_ns
        self._problem = problem
        self._is_stopping = False
        self._progress_s = self._loop.time()
        write(cycle.next_frames(in_flight))

    @property
    def due_s(self) -> float:
        """When the oldest request that is outstanding will have waited too long, by the loop's clock."""
        return self._progress_s + self._timeout_s

    def stop(self) -> None:
        """Send no more; end as soon as nothing is outstanding."""
        self._is_stopping = True

    def fail(self, error: DeviceError) -> None:
        """End now."""
        if not self.ended.done():
            self.ended.set_exception(error)

    def close(self) -> None:
        """Let go of an error that nobody waits for."""
        if self.ended.done() and not self.ended.cancelled():
            self.ended.exception()

    def received(self, data: bytes) -> None:
        """Take bytes that arrived, and send what comes next."""
        cycle = self._cycle
        if self.ended.done():  # cancelled just now; the connection is about to be closed
            return
        wrong = cycle.received(data)
        fresh = cycle.confirmed - len(self._times)
        if fresh:
            self._times += [self._clock_ns()] * fresh
            self._progress_s = self._loop.time()
        if wrong is not None:
            self._mismatch(wrong)
        elif self._is_stopping or cycle.has_exception:
            self._is_stopping = True
            if not cycle.outstanding:
                self.ended.set_result(None)
        else:
            more = cycle.next_frames(self._in_flight)
            if more:
                self._write(more)
            elif cycle.is_done:
                self.ended.set_result(None)

    def _mismatch(self, wrong: frames.Mismatch) -> None:
        unit = self._cycle.requests[0].unit
        self.ended.set_exception(DeviceError(self._problem("modbus.mismatch", unit=unit, field=wrong.reason)))

    def expire(self) -> None:
        """End now: nothing came in time."""
        unit = self._cycle.requests[0].unit
        self.fail(DeviceError(self._problem("modbus.timeout", unit=unit, timeout_s=self._timeout_s)))


class _Tapped(asyncio.BaseProtocol):
    """Between a transport and the protocol that opened it. burst: who gets the bytes; None: the protocol.

    One timer watches over all bursts: to start and cancel one for each costs more than to parse its replies.
    """

    def __init__(self, below: Any) -> None:
        self.burst: Burst | None = None
        self._below = below
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._looks_s = 0.0

    def begin(self, burst: Burst) -> None:
        """Give it the bytes, and see that it ends."""
        self.burst = burst
        if self._timer is None or burst.due_s < self._looks_s:
            self._look_at(burst.due_s)

    def _look_at(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_s = due_s
        self._timer = self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.burst is None:
            return
        if self.burst.due_s > self._loop.time():
            self._look_at(self.burst.due_s)
        else:
            self.burst.expire()

    def _pass_on(self, data: bytes) -> None:
        if self.burst is None:
            self._below.data_received(data)
        else:
            self.burst.received(data)

    def eof_received(self) -> bool | None:
        """See asyncio.Protocol."""
        return bool(self._below.eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._timer is not None:
            self._timer.cancel()
        self._below.connection_lost(exc)


class Tap(_Tapped, asyncio.Protocol):
    """For loops that have the bytes at hand, as uvloop has."""

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._pass_on(data)


class BufferedTap(_Tapped, asyncio.BufferedProtocol):
    """The same into a buffer of its own: asyncio's own loop makes 256 kB anew for each reply otherwise."""

    def __init__(self, below: Any) -> None:
        super().__init__(below)
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio.BufferedProtocol."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        self._pass_on(bytes(self._buffer[:nbytes]))


def tapped(transport: Any, below: Any) -> Tap | BufferedTap:
    """Put a tap between a transport and its protocol. uvloop is fast with plain bytes, asyncio with a buffer."""
    is_own_loop = type(asyncio.get_running_loop()).__module__.startswith("asyncio")
    tap = BufferedTap(below) if is_own_loop else Tap(below)
    transport.set_protocol(tap)
    return tap
