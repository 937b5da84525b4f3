"""The wire between a server of the plant and whoever reads it: a TCP proxy that can be cut, slowed down and recorded.

Faults are played on bytes, whatever the protocol. The server tells which of its bytes complete a message (`promise`);
the message is counted as sent when the wire has handed those bytes over, and not before.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from simulators.pcap import Capture, Stream
from simulators.sent import PointKey, Sent

NOISE = b"\xff" * 16
"""What means nothing in any of the protocols: no packet, no chunk and no frame begins so."""

NOISE_PAUSE_S = 0.1
"""So that what was said before is read by itself: a client may throw away all that it reads together with noise."""

FAREWELL_S = 1.0
"""A client that does not hang up when the other side has is hung up on."""

TAKEN_S, TAKEN_PAUSE_S = 60.0, 0.1
"""While nobody listens at an address, the system may give its port to somebody who wants any."""

HELD_BYTES_MAX = 64 * 2**20
"""A stalled or slow connection for which more than this waits is ended, as if its sender had lost patience."""

ESTABLISHED = 1
"""What the kernel (TCP_INFO) calls a connection that neither side has ended."""

Letter = tuple[int, Sequence[PointKey], str]
"""Where in the stream a message ends, the points in it, and its kind."""

Tap = Callable[[bytes], None]
"""Is given every byte of one connection that was handed to its client, in order."""


class _End(asyncio.Protocol):
    """One of the two sides of a passage."""

    def __init__(self, passage: _Passage, *, is_client: bool) -> None:
        self.passage = passage
        self.is_client = is_client
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.passage.made(self)

    def data_received(self, data: bytes) -> None:
        self.passage.arrived(data, by_client=self.is_client)

    def connection_lost(self, exc: Exception | None) -> None:
        self.passage.lost(self, was_reset=isinstance(exc, ConnectionError))

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()


class _Passage:
    """One client and its connection to the server behind the wire."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.client = _End(self, is_client=True)
        self.server = _End(self, is_client=False)
        self.client.other, self.server.other = self.server, self.client
        self.promised = 0
        self.delivered = 0
        self.promises: deque[Letter] = deque()
        self._unanswered: list[Letter] = []  # counted since the client spoke last
        self._held: deque[tuple[bytes, bool]] = deque()
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stream: Stream | None = None
        self._tap = wire.make_tap() if wire.make_tap is not None else None
        self._client_tap = wire.make_client_tap() if wire.make_client_tap is not None else None
        self._is_deaf = False  # noise was heard: nothing that follows can be read
        self._server_ended = False
        self._is_ended = False
        self._connecting: asyncio.Task[None] | None = None

    def made(self, end: _End) -> None:
        assert end.transport is not None
        if end.is_client:
            self.wire.passages.add(self)
            self.wire.sent.sessions += 1
            if self.wire.capture is not None:
                info = end.transport.get_extra_info
                self._stream = Stream(self.wire.capture, info("peername")[:2], info("sockname")[:2])
            self._connecting = asyncio.get_running_loop().create_task(self._reach())
        else:
            self.wire.by_port[end.transport.get_extra_info("sockname")[1]] = self
            self.pass_on()

    async def _reach(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, *self.wire.target)
        except OSError:
            self.end()

    def arrived(self, data: bytes, *, by_client: bool) -> None:
        if self._is_ended:
            return
        if by_client:
            self._unanswered.clear()
            if self._client_tap is not None:
                self._client_tap(data)
            if self._stream is not None:
                self._stream.data(data, by_client=True)
        self._held.append((data, by_client))
        self._held_bytes += len(data)
        if self._held_bytes > HELD_BYTES_MAX:
            self.end()
            return
        if self.wire.delay_s:
            loop = asyncio.get_running_loop()
            loop.call_later(self.wire.delay_s, self._due)
        else:
            self.pass_on()

    def _due(self) -> None:
        """The oldest chunk has waited; later ones have timers of their own."""
        if not self.wire.is_stalled and self._held and self.server.transport is not None:
            self._pass_one()
            self._end_if_empty()

    def pass_on(self) -> None:
        """Hand over what is held, unless the wire is stalled or its other end is not there yet."""
        while self._held and not self.wire.is_stalled and self.server.transport is not None:
            self._pass_one()
        self._end_if_empty()

    def _pass_one(self) -> None:
        data, by_client = self._held.popleft()
        self._held_bytes -= len(data)
        end = self.server if by_client else self.client
        if end.transport is None or end.transport.is_closing():
            return
        if by_client:
            end.transport.write(data)
            return
        if self._is_deaf:
            return
        if self.wire.truncates:
            self.wire.truncates -= 1
            data = data[:len(data) // 2]
            self._deliver(data)
            self.end()
            return
        self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        transport = self.client.transport
        assert transport is not None
        if _has_hung_up(transport):
            self.end()
            return
        transport.write(data)
        self.delivered += len(data)
        if self._stream is not None:
            self._stream.data(data, by_client=False)
        if self._tap is not None:
            self._tap(data)
        while self.promises and self.promises[0][0] <= self.delivered:
            letter = self.promises.popleft()
            self.wire.sent.add(*letter[1:])
            self._unanswered.append(letter)

    def noise(self) -> None:
        """Let the client hear what means nothing; what the server says after it cannot be understood any more."""
        if not self._is_deaf:
            self._is_deaf = True
            asyncio.get_running_loop().call_later(NOISE_PAUSE_S, self._say_noise)

    def _say_noise(self) -> None:
        transport = self.client.transport
        if transport is not None and not transport.is_closing() and not self._is_ended:
            transport.write(NOISE)
            if self._stream is not None:
                self._stream.data(NOISE, by_client=False)

    def lost(self, end: _End, *, was_reset: bool) -> None:
        if end is self.client:
            if was_reset:  # it hung up on something that it had not read
                for _, points, kind in self._unanswered:
                    self.wire.sent.take_back(points, kind)
            self._unanswered.clear()
            self.end()
        else:  # what it had said is passed on first
            self._server_ended = True
            if not self.wire.delay_s:
                self.pass_on()
            self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self._server_ended and not any(not by_client for _, by_client in self._held):
            self.end()

    def end(self) -> None:
        """Close both sides; what was handed over arrives."""
        if self._is_ended:
            return
        self._is_ended = True
        self._held.clear()
        self._held_bytes = 0
        self.wire.passages.discard(self)
        if self.server.transport is not None:
            self.wire.by_port.pop(self.server.transport.get_extra_info("sockname", ("", 0))[1], None)
            self.server.transport.close()
        elif self._connecting is not None:
            self._connecting.cancel()
        client = self.client.transport
        if client is not None and not client.is_closing():
            # closed at once, what the client still says would come back as a reset, and might destroy our last words
            client.resume_reading()
            client.write_eof()
            self.wire.farewell(client)
        if self._stream is not None:
            self._stream.close()


class Wire:
    """One address that clients know. Everything on the event loop.

    sent: where what passes is counted. make_tap: makes what looks at the bytes of one connection, for a server that
    makes no promises. capture: records both directions as the client sees them.
    """

    def __init__(self, sent: Sent, *, make_tap: Callable[[], Tap] | None = None,
                 capture: Capture | None = None) -> None:
        self.sent = sent
        self.make_tap = make_tap
        self.make_client_tap: Callable[[], Tap] | None = None
        """The same for what the clients say."""
        self.capture = capture
        self.target: tuple[str, int] = ("", 0)
        self.port = 0
        self.is_stalled = False
        self.delay_s = 0.0
        self.truncates = 0
        self.passages: set[_Passage] = set()
        self.by_port: dict[int, _Passage] = {}
        self._host = ""
        self._server: asyncio.Server | None = None
        self._leaving: set[asyncio.Transport] = set()

    async def open(self, host: str, port: int, target: tuple[str, int]) -> None:
        """Listen for clients of `target`. Port 0 takes a free one. Raises OSError."""
        self._host, self.port, self.target = host, port, target
        await self._listen()

    async def welcome(self) -> None:
        """Take connections again. A port that somebody else was given meanwhile is waited for. Raises OSError."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + TAKEN_S
        while self._server is None:
            try:
                await self._listen()
            except OSError as error:
                if error.errno != errno.EADDRINUSE or loop.time() > end_s:
                    raise
                await asyncio.sleep(TAKEN_PAUSE_S)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Passage(self).client, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def shut(self) -> None:
        """Take no connections; those that are go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def refuse(self) -> None:
        """Take no connections, and end those that are."""
        self.shut()
        self.lose()

    def lose(self) -> None:
        """End every connection; what was handed over arrives."""
        for passage in list(self.passages):
            passage.end()

    def noise(self) -> None:
        """Say what means nothing on every connection."""
        for passage in list(self.passages):
            passage.noise()

    def stall(self, stalled: bool) -> None:
        """Let nothing pass in either direction, or again."""
        self.is_stalled = stalled
        if not stalled:
            for passage in list(self.passages):
                passage.pass_on()

    def promise(self, peer: Any, size: int, points: Sequence[PointKey], kind: str) -> None:
        """Note `size` bytes that the server writes to `peer`, its name of a connection, and what they complete.

        Every byte that a server with promises writes must be noted, before the event loop turns.
        """
        passage = self.by_port.get(peer[1]) if peer else None
        if passage is not None:
            passage.promised += size
            passage.promises.append((passage.promised, points, kind))
        elif not self.target[0]:
            self.sent.add(points, kind)  # nobody stands between: the server is on its own, as in some tests

    def farewell(self, client: asyncio.Transport) -> None:
        """Close a client's connection when it has heard that it ended, or soon."""
        self._leaving = {one for one in self._leaving if not one.is_closing()} | {client}
        asyncio.get_running_loop().call_later(FAREWELL_S, client.close)

    def close(self) -> None:
        """End it."""
        self.refuse()
        for client in self._leaving:
            client.close()


def _has_hung_up(transport: asyncio.Transport) -> bool:
    """Return whether the other side has ended the connection, although we have not heard of it yet. Linux tells."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return False
    info: bytes = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, option, 1)
    return info[0] != ESTABLISHED
