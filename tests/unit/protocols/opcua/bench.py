"""A sink that remembers, and a real asyncua server on loopback, for the tests of the OPC UA driver."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asyncua import Server, ua
from asyncua.crypto import cert_gen
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from cryptography.x509.oid import ExtendedKeyUsageOID
from numpy.typing import NDArray

from protocols.opcua.link import driver as link_module
from protocols.opcua.target import OpcUaEndpoint, OpcUaPoint, parse_address
from protocols.samples import PollBatch, SampleBatch
from tests.support.processes import free_port as free_port

SERVER_URI = "urn:test:server"
WAIT_S = 60.0
"""How long something may take on a busy machine before it is taken as not happening."""


class Recorder:
    """A Sink that keeps everything."""

    def __init__(self) -> None:
        self.batches: list[SampleBatch] = []
        self.answers: list[tuple[tuple[int, ...], int]] = []
        self.lost: Counter[str] = Counter()
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def samples(self, batch: SampleBatch | PollBatch) -> None:
        assert isinstance(batch, SampleBatch)
        self.batches.append(batch)

    def answered(self, device_index: Sequence[int] | NDArray[np.int64], received_ns: int) -> None:
        self.answers.append((tuple(int(d) for d in device_index), received_ns))

    def online(self, device_index: Sequence[int], received_ns: int) -> None:
        raise AssertionError("OPC UA has no births")

    def offline(self, device_index: Sequence[int], received_ns: int) -> None:
        raise AssertionError("OPC UA has no deaths")

    def discarded(self, reason: str, count: int) -> None:
        self.lost[reason] += count

    def event(self, code: str, where: str, **args: object) -> None:
        self.events.append((code, where, args))

    def values(self, point: int) -> list[float]:
        """Everything that arrived for a point, in order."""
        return [v for b in self.batches for p, v in zip(b.point_index.tolist(), b.value.tolist(), strict=True)
                if p == point]

    def qualities(self, point: int) -> list[int]:
        return [q for b in self.batches for p, q in zip(b.point_index.tolist(), b.quality.tolist(), strict=True)
                if p == point]

    @property
    def points(self) -> set[int]:
        return {p for b in self.batches for p in b.point_index.tolist()}

    @property
    def devices(self) -> set[int]:
        return {d for devices, _ in self.answers for d in devices}

    def codes(self) -> list[str]:
        return [code for code, _, _ in self.events]


async def until(condition: Callable[[], object], what: str = "", *, deadline_s: float = WAIT_S) -> None:
    """Poll until the condition holds; fail with `what` after the deadline."""
    end = asyncio.get_running_loop().time() + deadline_s
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"not within {deadline_s} s: {what or condition}"
        await asyncio.sleep(0.02)


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a driver take its time to close: what it did not get done in CLOSE_S stays on the server for a minute."""
    monkeypatch.setattr(link_module, "CLOSE_S", WAIT_S / 2)


class Plant:
    """A server with variables in one namespace; several plants may share a server, each with its own namespace."""

    def __init__(self, server: Any, port: int, uri: str, index: int) -> None:
        self.server, self.port, self.uri, self.index = server, port, uri, index
        self.nodes: dict[str, Any] = {}
        self._before: set[Any] = set()
        if server is not None:
            self._before = {*self._activated(), *self.subscriptions}

    async def add(self, names: Sequence[str]) -> None:
        """Add a double 0.0, 1.0, ... per name below Objects."""
        for position, name in enumerate(names):
            self.nodes[name] = await self.server.nodes.objects.add_variable(
                ua.NodeId(name, self.index), name, float(position))

    async def write(self, name: str, value: Any) -> None:
        await self.nodes[name].write_value(value)

    def points(self, names: Sequence[str], devices: Sequence[int] | None = None) -> list[OpcUaPoint]:
        """Return points 100, 101, ... on the named nodes; on device 0, 1, ... unless told."""
        return [OpcUaPoint(point_index=100 + position, device_index=devices[position] if devices else position,
                           address=parse_address(f"nsu={self.uri};s={name}"))
                for position, name in enumerate(names)]

    def _activated(self) -> list[Any]:
        return [s for s in self.server.iserver._external_sessions.values() if s.is_activated()]

    @property
    def sessions(self) -> list[Any]:
        """Sessions made since this plant was; tests that swallow the closing leave theirs to the server's time-out."""
        return [s for s in self._activated() if s not in self._before]

    @property
    def subscriptions(self) -> list[int]:
        return [s for s in self.server.iserver.subscription_service.subscriptions if s not in self._before]


@asynccontextmanager
async def serving(port: int, pki: Path | None = None) -> AsyncIterator[Any]:
    """Run a server without variables. `pki`: encrypted only, with a certificate made there. Takes some 2 s to start."""
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/test")
    await server.set_application_uri(SERVER_URI)
    if pki is None:
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    else:
        await secure(server, pki)
    async with server:
        yield server


async def plant_on(server: Any, uri: str, names: Sequence[str] = ("a", "b", "c")) -> Plant:
    made = Plant(server, server.endpoint.port, uri, await server.register_namespace(uri))
    await made.add(names)
    return made


async def secure(server: Any, pki: Path) -> None:
    pki.mkdir(parents=True, exist_ok=True)
    key, certificate = pki / "server.pem", pki / "server.der"
    if not certificate.exists():
        await cert_gen.setup_self_signed_certificate(
            key, certificate, SERVER_URI, "localhost",
            [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH], {"commonName": "test server"})
    server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
                                ua.SecurityPolicyType.Basic256Sha256_Sign,
                                ua.SecurityPolicyType.Aes128Sha256RsaOaep_SignAndEncrypt,
                                ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt])
    await server.load_certificate(str(certificate))
    await server.load_private_key(str(key))
    server.set_certificate_validator(CertificateValidator(
        CertificateValidatorOptions.EXT_VALIDATION | CertificateValidatorOptions.PEER_CLIENT))


def endpoint(port: int, folder: Path, **changes: Any) -> OpcUaEndpoint:
    settings: dict[str, Any] = {
        "name": "press_shop", "url": f"opc.tcp://127.0.0.1:{port}/test", "security_policy": "None",
        "security_mode": "None", "allow_insecure": True, "pki_dir": folder / "pki", "trust_dir": folder / "trusted",
        "publishing_interval_ms": 50, "timeout_s": 20.0, "idle_read_s": 30.0}
    return OpcUaEndpoint(**(settings | changes))


@asynccontextmanager
async def running(driver: Any, *, close_s: float = WAIT_S) -> AsyncIterator[asyncio.Task[None]]:
    """Run a driver; on leaving, cancel it and see that it closes within `close_s`."""
    task = asyncio.create_task(driver.run())
    try:
        yield task
    finally:
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=close_s)
        assert done, f"the driver did not close within {close_s:g} s"
        if not task.cancelled() and task.exception() is not None:
            raise AssertionError("the driver ended with an error") from task.exception()


class Proxy:
    """A TCP proxy before a server: cuts, swallows, and keeps what the client sent."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.swallows = False
        self.refuses = False
        self.sent: list[bytearray] = []
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        self.sent.append(bytearray())
        for source, sink, kept in ((reader, up_writer, self.sent[-1]), (up_reader, writer, None)):
            task = asyncio.create_task(self._pump(source, sink, kept))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept: bytearray | None) -> None:
        try:
            while data := await source.read(65536):
                if kept is not None:
                    kept += data
                if not self.swallows:
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        finally:
            sink.transport.abort()


def request_types(stream: bytes) -> set[int]:
    """Return the numeric type ids of all services in an unsecured client stream (one chunk per message)."""
    bodies = messages_of(stream)
    assert all(body[0] == 1 for body in bodies), "a four-byte node id"
    return {int.from_bytes(body[2:4], "little") for body in bodies}


def messages_of(stream: bytes) -> list[bytes]:
    """Return the bodies of all messages in an unsecured client stream (one chunk per message)."""
    found, at = [], 0
    while at + 8 <= len(stream):
        kind, size = stream[at:at + 3], int.from_bytes(stream[at + 4:at + 8], "little")
        if kind == b"MSG":
            assert stream[at + 3:at + 4] == b"F", "a request in several chunks"
            found.append(stream[at + 24:at + size])
        at += size
    return found
