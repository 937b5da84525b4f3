"""A challenge to a server: over every policy against asyncua's own server, and what a hostile one can do."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UaClient
from asyncua.client.ua_session import UaSession
from asyncua.common.utils import ServiceError, wait_for
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from asyncua.server.internal_session import InternalSession
from asyncua.server.uaprocessor import UaProcessor
from cryptography import x509

from gateway.probing.certificate import (
    CERTIFICATE,
    KEY,
    VALID_DAYS,
    ProbeCertificate,
    probe_certificate,
    spki_of,
)
from gateway.probing.driver import CLOSE_S, PROBE_REQUESTS, ask
from protocols.errors import ConfigError, DeviceError, VerificationError
from protocols.evidence import probe
from protocols.opcua.guarded.driver import POLICY_CLASSES, within
from protocols.opcua.pki import own_certificate
from protocols.opcua.target import SECURITY_POLICIES
from tests.unit.protocols.opcua.bench import Proxy, endpoint, free_port, serving, until

together = pytest.mark.asyncio(loop_scope="module")
GATEWAY = hashlib.sha256(b"a gateway").hexdigest()[:32]
POLICIES = [("Basic256Sha256", "SignAndEncrypt"), ("Basic256Sha256", "Sign"),
            ("Aes128_Sha256_RsaOaep", "SignAndEncrypt"),
            ("Aes256_Sha256_RsaPss", "SignAndEncrypt")]


def challenge(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Any, bytes]]:
    folder = tmp_path_factory.mktemp("server")
    async with serving(free_port(), folder) as running:
        yield running, (folder / "server.der").read_bytes()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ProbeCertificate:
    return probe_certificate(tmp_path_factory.mktemp("gateway") / "pki", GATEWAY)


async def asked(port: int, certificate: bytes, own: ProbeCertificate, folder: Path, c: bytes, *,
                policy: str = "Basic256Sha256", mode: str = "SignAndEncrypt", deadline_s: float = 30.0) -> bytes:
    settings = endpoint(port, folder, security_policy=policy, security_mode=mode, allow_insecure=False, timeout_s=30.0)
    return await ask(settings, server_certificate=certificate, own=own, gateway=GATEWAY, c=c, deadline_s=deadline_s)


@contextmanager
def sessions() -> Iterator[list[str]]:
    """Tell what the server's sessions live through."""
    told: list[str] = []
    real = {name: getattr(InternalSession, name) for name in ("create_session", "activate_session", "close_session")}

    def watched(name: str) -> Any:
        async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            told.append(name)
            result = real[name](self, *args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        def call_now(self: Any, *args: Any, **kwargs: Any) -> Any:
            told.append(name)
            return real[name](self, *args, **kwargs)
        return call if inspect.iscoroutinefunction(real[name]) else call_now

    for name in real:
        setattr(InternalSession, name, watched(name))
    try:
        yield told
    finally:
        for name, method in real.items():
            setattr(InternalSession, name, method)


@contextmanager
def answering(change: Any) -> Iterator[None]:
    """Let `change` spoil every CreateSession answer of the server."""
    real = UaProcessor.send_response

    def spoilt(self: Any, handle: Any, header: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(response, ua.CreateSessionResponse):
            change(response.Parameters)
        return real(self, handle, header, response, *args, **kwargs)

    UaProcessor.send_response = spoilt  # type: ignore[method-assign]  # a server that lies
    try:
        yield
    finally:
        UaProcessor.send_response = real  # type: ignore[method-assign]  # as it was


@pytest.mark.parametrize(("policy", "mode"), POLICIES)
@together
async def test_a_server_signs_our_challenge_and_anyone_can_check_it(
        server: tuple[Any, bytes], own: ProbeCertificate, tmp_path: Path, policy: str, mode: str) -> None:
    running, certificate = server
    c = challenge(policy + mode)
    with sessions() as lived:
        signature = await asked(running.endpoint.port, certificate, own, tmp_path, c, policy=policy, mode=mode)
        await until(lambda: lived[-1] == "close_session" and not running.iserver._external_sessions)
    # Of the connection before, the server may notice the end only now: that is a second closing.
    assert lived.count("create_session") == 1 and "activate_session" not in lived and lived[-1] == "close_session"
    facts = {"policy_uri": SECURITY_POLICIES[policy], "server_spki": spki_of(certificate),
             "client_certificate": own.certificate, "signature": signature, "where": "entry"}
    probe.verify_signature(c=c, **facts)
    with pytest.raises(VerificationError, match=r"probe\.signature"):
        probe.verify_signature(c=challenge("another"), **facts)
    assert not running.iserver._external_sessions


@together
async def test_only_two_requests_can_leave(
        server: tuple[Any, bytes], own: ProbeCertificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    real = UaSession._send_request

    async def watched(self: UaSession, request: Any, *args: Any) -> Any:
        sent.append(type(request))
        return await real(self, request, *args)

    monkeypatch.setattr(UaSession, "_send_request", watched)
    await asked(server[0].endpoint.port, server[1], own, tmp_path, challenge("x"))
    assert sent == list(PROBE_REQUESTS) == [ua.CreateSessionRequest, ua.CloseSessionRequest]


@together
async def test_a_server_that_does_not_trust_the_probe_is_named_with_the_file_to_trust(
        server: tuple[Any, bytes], own: ProbeCertificate, tmp_path: Path) -> None:
    running, certificate = server

    async def distrust(_certificate: x509.Certificate, _application: Any) -> None:
        raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)

    running.set_certificate_validator(distrust)
    try:
        with pytest.raises(DeviceError) as caught:
            await asked(running.endpoint.port, certificate, own, tmp_path, challenge("x"))
    finally:
        running.set_certificate_validator(CertificateValidator(
            CertificateValidatorOptions.EXT_VALIDATION | CertificateValidatorOptions.PEER_CLIENT))
    problem, = caught.value.problems
    assert (problem.code, dict(problem.args)["file"]) == ("probing.refused", str(own.file))


@together
async def test_a_server_that_hangs_up_is_taken_for_one_that_does_not_trust(
        own: ProbeCertificate, server: tuple[Any, bytes], tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.transport.abort()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listening:
        with pytest.raises(DeviceError) as caught:
            await asked(listening.sockets[0].getsockname()[1], server[1], own, tmp_path, challenge("x"))
    assert caught.value.problems[0].code == "probing.refused"


@pytest.mark.parametrize("after", ["hello", "session"])
@together
async def test_a_server_that_hangs_costs_the_deadline_and_no_more(
        server: tuple[Any, bytes], own: ProbeCertificate, tmp_path: Path, after: str) -> None:
    async with Proxy(server[0].endpoint.port).open() as proxy:
        if after == "hello":
            proxy.swallows = True
        else:
            real = UaSession.create_session

            async def swallowed(self: UaSession, parameters: Any) -> Any:
                proxy.swallows = True
                return await real(self, parameters)
            UaSession.create_session = swallowed  # type: ignore[method-assign]  # the server goes silent here
        began = asyncio.get_running_loop().time()
        try:
            with pytest.raises(DeviceError) as caught:
                await asked(proxy.port, server[1], own, tmp_path, challenge("x"), deadline_s=0.5)
        finally:
            if after == "session":
                UaSession.create_session = real  # type: ignore[method-assign]  # as it was
        took_s = asyncio.get_running_loop().time() - began
    assert caught.value.problems[0].code == "probing.timeout"
    assert took_s < 20, "neither the library's timeouts nor the server's silence are waited for"


@together
async def test_nobody_there(own: ProbeCertificate, server: tuple[Any, bytes], tmp_path: Path) -> None:
    with socket.socket() as taken, pytest.raises(DeviceError) as caught:
        taken.bind(("127.0.0.1", 0))  # and does not listen: nobody else is given this port
        await asked(taken.getsockname()[1], server[1], own, tmp_path, challenge("x"))
    assert caught.value.problems[0].code == "probing.unreachable"


@pytest.mark.parametrize("shown", ["another", "none", "no certificate"])
@together
async def test_the_session_must_show_the_certificate_of_the_channel(
        server: tuple[Any, bytes], own: ProbeCertificate, tmp_path: Path, shown: str) -> None:
    other = {"another": own_certificate(tmp_path / "someone").certificate, "none": None, "no certificate": b"x" * 900}

    def show_another(result: Any) -> None:
        result.ServerCertificate = other[shown]

    with answering(show_another), pytest.raises(DeviceError) as caught:
        await asked(server[0].endpoint.port, server[1], own, tmp_path, challenge("x"))
    assert caught.value.problems[0].code == "probing.wrong_certificate"


@together
async def test_a_chain_behind_the_certificate_is_the_certificate(
        server: tuple[Any, bytes], own: ProbeCertificate, tmp_path: Path) -> None:
    issuer = own_certificate(tmp_path / "someone").certificate

    def show_chain(result: Any) -> None:
        result.ServerCertificate = server[1] + issuer

    with answering(show_chain):
        assert await asked(server[0].endpoint.port, server[1], own, tmp_path, challenge("x"))


@pytest.mark.parametrize("signature", [b"", b"\0" * 256, None, b"\1" * 100_000])
@together
async def test_a_signature_that_does_not_hold_is_no_answer(
        server: tuple[Any, bytes], own: ProbeCertificate, tmp_path: Path, signature: bytes | None) -> None:
    def spoil(result: Any) -> None:
        result.ServerSignature.Signature = signature

    with answering(spoil), pytest.raises(DeviceError) as caught:
        await asked(server[0].endpoint.port, server[1], own, tmp_path, challenge("x"))
    assert caught.value.problems[0].code == "probing.bad_signature"


@together
async def test_an_old_answer_does_not_serve_another_challenge(
        server: tuple[Any, bytes], own: ProbeCertificate, tmp_path: Path) -> None:
    old = await asked(server[0].endpoint.port, server[1], own, tmp_path, challenge("old"))

    def replay(result: Any) -> None:
        result.ServerSignature.Signature = old

    with answering(replay), pytest.raises(DeviceError) as caught:
        await asked(server[0].endpoint.port, server[1], own, tmp_path, challenge("new"))
    assert caught.value.problems[0].code == "probing.bad_signature"


@together
async def test_a_cancelled_probe_leaves_no_connection(
        server: tuple[Any, bytes], own: ProbeCertificate, tmp_path: Path) -> None:
    async with Proxy(server[0].endpoint.port).open() as proxy:
        proxy.swallows = True
        work = asyncio.create_task(asked(proxy.port, server[1], own, tmp_path, challenge("x"), deadline_s=30))
        await until(lambda: proxy.sent and proxy.sent[0])
        work.cancel()
        done, _ = await asyncio.wait([work], timeout=CLOSE_S + 9)
        assert done and work.cancelled()


async def test_an_answer_that_comes_as_the_time_runs_out_is_too_late_and_cancels_nobody() -> None:
    """On a machine that stood still both are there at once, and asyncua tells so by a CancelledError of its own."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    with pytest.raises(TimeoutError):
        async with within(0.02):
            loop.call_later(0.01, answer.set_result, b"")
            loop.call_soon(time.sleep, 0.1)
            await wait_for(answer, 60)
    task = asyncio.create_task(_waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _waits() -> None:
    async with within(60):
        await asyncio.get_running_loop().create_future()


# The certificate.


def number_of(own: ProbeCertificate) -> int:
    return own.key.private_numbers().d


def test_the_certificate_names_the_gateway_and_nothing_else(tmp_path: Path) -> None:
    own = probe_certificate(tmp_path / "pki", GATEWAY)
    assert probe.probe_certificate_holds(own.certificate, GATEWAY)
    parsed = x509.load_der_x509_certificate(own.certificate)
    assert parsed.subject.rfc4514_string() == f"CN=urn:tallystick:g:{GATEWAY}"
    assert parsed.public_key().key_size == 2048
    assert stat.S_IMODE((tmp_path / "pki" / KEY).stat().st_mode) == 0o600
    assert own.file == tmp_path / "pki" / CERTIFICATE and own.file.read_bytes() == own.certificate
    again = probe_certificate(tmp_path / "pki", GATEWAY)
    assert again.certificate == own.certificate and number_of(again) == number_of(own), "made once"


def test_it_is_made_anew_for_another_gateway_when_it_ran_out_and_when_half_of_it_is_gone(tmp_path: Path) -> None:
    first = probe_certificate(tmp_path / "pki", GATEWAY)
    other = probe_certificate(tmp_path / "pki", "ab" * 16)
    assert probe.probe_certificate_holds(other.certificate, "ab" * 16) and number_of(other) != number_of(first)
    later = datetime.now(UTC) + timedelta(days=VALID_DAYS + 2)
    renewed = probe_certificate(tmp_path / "pki", "ab" * 16, now=later)
    assert renewed.certificate != other.certificate
    (tmp_path / "pki" / CERTIFICATE).unlink()
    assert number_of(probe_certificate(tmp_path / "pki", "ab" * 16, now=later)) != number_of(renewed)


def test_one_that_was_made_when_the_clock_was_ahead_is_made_anew(tmp_path: Path) -> None:
    ahead = probe_certificate(tmp_path / "pki", GATEWAY, now=datetime.now(UTC) + timedelta(days=365))
    assert number_of(probe_certificate(tmp_path / "pki", GATEWAY)) != number_of(ahead)


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "pki").write_text("a file", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"probing\.certificate"):
        probe_certificate(tmp_path / "pki", GATEWAY)
    probe_certificate(tmp_path / "good", GATEWAY)
    (tmp_path / "good" / KEY).write_text("no key", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"probing\.certificate"):
        probe_certificate(tmp_path / "good", GATEWAY)


# What is relied on in asyncua.


def test_the_library_still_takes_our_nonce() -> None:
    """Read client.py and ua_client.py of a new asyncua before this is widened."""
    assert version("asyncua").startswith("2.1."), "read the changes of asyncua, then widen pyproject.toml and this"
    names = Client.create_session.__code__.co_names
    assert "create_nonce" in names, "Client.create_session draws the nonce itself: that is why it is not called"
    assert list(inspect.signature(UaClient.create_session).parameters) == ["self", "parameters"]
    assert UaClient.create_session.__code__.co_names == ("session", "create_session"), "parameters go on as they are"
    made = inspect.getsource(Client._set_security)
    assert "self.security_policy = policy(server_cert, cert, pk, mode" in made, "what is done here by hand"
    assert "self.uaclient.set_security(self.security_policy)" in made
    for policy in POLICY_CLASSES.values():
        assert list(inspect.signature(policy).parameters)[:4] == ["peer_cert", "host_cert", "host_privkey", "mode"]
    source = inspect.getsource(UaSession.create_session)
    assert "request.Parameters = parameters" in source and "ClientNonce" not in source
    fields = {"ClientDescription", "EndpointUrl", "SessionName", "ClientNonce", "ClientCertificate",
              "RequestedSessionTimeout", "MaxResponseMessageSize"}
    assert fields <= set(ua.CreateSessionParameters.__dataclass_fields__)
    assert {"ServerCertificate", "ServerSignature"} <= set(ua.CreateSessionResult.__dataclass_fields__)
