"""A broker that does what a script says, byte by byte, on a thread of its own: also what no real broker would do.

Source: MQTT 3.1.1, chapters 2 and 3; MQTT 5 without properties: an empty list of them more.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator

CONNECT, PUBLISH, PUBACK, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 4, 8, 12, 14


def packet(kind: int, flags: int, body: bytes) -> bytes:
    length, rest = b"", len(body)
    while True:
        rest, low = divmod(rest, 128)
        length += bytes([low | (128 if rest else 0)])
        if not rest:
            return bytes([kind << 4 | flags]) + length + body


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack(">H", len(raw)) + raw


def publish(topic: str | bytes, payload: bytes, *, qos: int = 0, packet_id: int = 1, retain: bool = False) -> bytes:
    name = struct.pack(">H", len(topic)) + topic if isinstance(topic, bytes) else text(topic)
    return packet(PUBLISH, qos << 1 | retain, name + (struct.pack(">H", packet_id) if qos else b"") + payload)


class Peer:
    """One client's connection, as the script sees it."""

    def __init__(self, connection: socket.socket, seen: list[tuple[int, bytes]], heads: list[int]) -> None:
        self._connection = connection
        self._seen = seen
        self._heads = heads
        self._more = b""
        """What MQTT 5 has where MQTT 3.1.1 has nothing: properties, here always none."""

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def send_bare(self, data: bytes) -> None:
        """Send past TLS, where there is one."""
        os.write(self._connection.fileno(), data)

    def hang_up(self) -> None:
        """End the connection."""
        raise ConnectionError

    def read(self) -> tuple[int, bytes]:
        """Return type and body of the next packet; raises ConnectionError at the end."""
        first = self._exactly(1)[0]
        length = shift = 0
        while True:
            byte = self._exactly(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        body = self._exactly(length)
        self._heads.append(first)
        self._seen.append((first >> 4, body))
        return first >> 4, body

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._connection.recv(count - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def accept(self, *, connack: int = 0) -> None:
        """Take CONNECT and answer it, in the version that it asks for."""
        kind, body = self.read()
        assert kind == CONNECT
        self._more = b"\0" if body[6] == 5 else b""
        self.send(packet(2, 0, bytes([0, connack]) + self._more))

    def grant(self, refused: tuple[str, ...] = (), *, before: bytes = b"") -> list[str]:
        """Take SUBSCRIBE and answer it; return its topics. before: messages that come before the answer, as they may:
        who waits for the answer has them then (MQTT 3.1.1, 3.8.4)."""
        kind, body = self.read()
        while kind != SUBSCRIBE:
            kind, body = self.read()
        topics, rest = [], body[2 + len(self._more):]
        while rest:
            size = struct.unpack(">H", rest[:2])[0]
            topics.append(rest[2:2 + size].decode())
            rest = rest[3 + size:]
        granted = bytes(0x80 if name in refused else 1 for name in topics)
        self.send(before + packet(9, 0, body[:2] + self._more + granted))
        return topics

    def stay(self) -> None:
        """Answer pings until the client goes."""
        with contextlib.suppress(ConnectionError):
            while self.read()[0] != DISCONNECT:
                if self._seen[-1][0] == PINGREQ:
                    self.send(packet(13, 0, b""))


class ScriptedBroker:
    """Runs `script` for every connection. seen: every packet of every client; heads: its first bytes.

    connections: how many there were.
    """

    def __init__(self, script: Callable[[Peer], None], tls: ssl.SSLContext | None) -> None:
        self._script = script
        self._tls = tls
        self.seen: list[tuple[int, bytes]] = []
        self.heads: list[int] = []
        self.failures: list[BaseException] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with contextlib.ExitStack() as stack:
                try:
                    if self._tls is not None:
                        connection = self._tls.wrap_socket(connection, server_side=True)
                    self._open.append(stack.enter_context(connection))
                    self._script(Peer(connection, self.seen, self.heads))
                except (ConnectionError, OSError):
                    continue  # the client went, or the test is over
                except BaseException as error:  # an assertion of the script, which the test must see
                    self.failures.append(error)

    def published(self) -> list[str]:
        """Return the topics of everything clients published."""
        return [body[2:2 + struct.unpack(">H", body[:2])[0]].decode() for kind, body in self.seen if kind == PUBLISH]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() does not
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()
        assert not self.failures, self.failures


@contextlib.contextmanager
def broker(script: Callable[[Peer], None], tls: ssl.SSLContext | None = None) -> Iterator[ScriptedBroker]:
    running = ScriptedBroker(script, tls)
    try:
        yield running
    finally:
        running.close()
