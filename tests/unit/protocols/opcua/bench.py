"""A sink that remembers, and a real asyncua server on loopback, for the tests of the OPC UA driver."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from asyncua import Server, ua
from asyncua.crypto import cert_gen
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from cryptography.x509.oid import ExtendedKeyUsageOID
from numpy.typing import NDArray

from protocols.opcua.target import OpcUaEndpoint, OpcUaPoint, parse_address
from protocols.samples import PollBatch, SampleBatch

URI = "urn:test:plant"
SERVER_URI = "urn:test:server"


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


async def until(condition: Callable[[], object], what: str = "", *, deadline_s: float = 15.0) -> None:
    """Poll until the condition holds; fail with `what` after the deadline."""
    end = asyncio.get_running_loop().time() + deadline_s
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"not within {deadline_s} s: {what or condition}"
        await asyncio.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def plant(port: int, *, names: Sequence[str] = ("a", "b", "c"), pki: Path | None = None,
                trusted_clients: Path | None = None, shift_namespaces: int = 0) -> AsyncIterator[Any]:
    """Run a server with one double per name below Objects. `pki`: encrypted only, with a certificate made there.

    Yields the server; `server.nodes_by_name[name]` is each variable. `shift_namespaces` registers others first.
    """
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/test")
    await server.set_application_uri(SERVER_URI)
    if pki is None:
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    else:
        await secure(server, pki)
    for number in range(shift_namespaces):
        await server.register_namespace(f"urn:test:other:{number}")
    index = await server.register_namespace(URI)
    server.nodes_by_name = {
        name: await server.nodes.objects.add_variable(ua.NodeId(name, index), name, float(position))
        for position, name in enumerate(names)}
    async with server:
        yield server


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
        "publishing_interval_ms": 50, "timeout_s": 3.0, "idle_read_s": 30.0}
    return OpcUaEndpoint(**(settings | changes))


def points(names: Sequence[str], devices: Sequence[int] | None = None) -> list[OpcUaPoint]:
    return [OpcUaPoint(point_index=100 + position, device_index=devices[position] if devices else position,
                       address=parse_address(f"nsu={URI};s={name}"))
            for position, name in enumerate(names)]


@asynccontextmanager
async def running(driver: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run a driver; on leaving, cancel it and see that it closes within 2 s."""
    task = asyncio.create_task(driver.run())
    try:
        yield task
    finally:
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=2.0)
        assert done, "the driver did not close within 2 s"
        if not task.cancelled() and task.exception() is not None:
            raise AssertionError("the driver ended with an error") from task.exception()
