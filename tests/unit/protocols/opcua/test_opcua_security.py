"""The driver against a server with certificates: no trust without a person, no fallback, no clear password."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.client import ua_client
from asyncua.common.connection import TransportLimits
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from asyncua.server.user_managers import UserManager
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from protocols.errors import ConfigError, DeviceError
from protocols.opcua import bulk
from protocols.opcua.driver import OpcUaDriver
from protocols.opcua.guarded.driver import GuardedClient
from protocols.opcua.pki import REJECTED, own_certificate, server_spki_sha256
from protocols.samples import fingerprint
from tests.unit.protocols.opcua.bench import (
    Plant,
    Proxy,
    Recorder,
    endpoint,
    free_port,
    plant_on,
    request_types,
    running,
    serving,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
_numbers = itertools.count()
SECURED = {"security_policy": "Basic256Sha256", "security_mode": "SignAndEncrypt", "allow_insecure": False}


class OneUser(UserManager):
    def get_user(self, iserver: Any, username: str | None = None, password: str | None = None,
                 certificate: Any = None) -> User | None:
        if username is None or (username, password) == ("reader", "Grüße 42"):
            return User(role=UserRole.User)
        return None


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Any, Path]]:
    folder = tmp_path_factory.mktemp("server")
    async with serving(free_port(), folder) as server:
        server.iserver.set_user_manager(OneUser())
        yield server, folder / "server.der"


@pytest_asyncio.fixture(loop_scope="module")
async def plant(secured: tuple[Any, Path]) -> Plant:
    return await plant_on(secured[0], f"urn:test:secured:{next(_numbers)}")


def trust(certificate: Path, folder: Path) -> None:
    (folder / "trusted").mkdir()
    shutil.copy(certificate, folder / "trusted" / "server.der")


@pytest.mark.parametrize(("policy", "mode"), [
    ("Basic256Sha256", "SignAndEncrypt"), ("Basic256Sha256", "Sign"), ("Aes128_Sha256_RsaOaep", "SignAndEncrypt"),
    ("Aes256_Sha256_RsaPss", "SignAndEncrypt")])
async def test_collects_over_every_policy(
        plant: Plant, secured: tuple[Any, Path], tmp_path: Path, policy: str, mode: str) -> None:
    trust(secured[1], tmp_path)
    sink = Recorder()
    settings = endpoint(plant.port, tmp_path, security_policy=policy, security_mode=mode, allow_insecure=False)
    driver = OpcUaDriver(settings, plant.points(["a", "b"]), sink)
    assert driver.server_spki_sha256() is None, "not before a connection"
    async with running(driver):
        await until(lambda: sink.points == {100, 101})
        await plant.write("a", 8.5)
        await until(lambda: 8.5 in sink.values(100))
        (channel,) = plant.sessions
        assert channel.is_activated()
    assert driver.server_spki_sha256() == server_spki_sha256(secured[1].read_bytes())
    assert plant.subscriptions == []
    assert sink.events == []


async def test_an_unknown_server_is_refused_until_a_person_trusts_it(
        plant: Plant, secured: tuple[Any, Path], tmp_path: Path) -> None:
    sink = Recorder()
    settings = endpoint(plant.port, tmp_path, **SECURED)
    driver = OpcUaDriver(settings, plant.points(["a"]), sink)
    result, = await driver.check()
    assert (result.ok, result.code) == (False, "opcua.untrusted_certificate")
    (kept,) = (tmp_path / "trusted" / REJECTED).iterdir()
    assert dict(result.args)["file"] == str(kept)
    assert kept.read_bytes() == secured[1].read_bytes()
    async with running(driver):
        await until(lambda: sink.codes() == ["opcua.untrusted_certificate"])
        assert plant.sessions == []
        kept.rename(tmp_path / "trusted" / "server.der")
        await until(lambda: sink.values(100))
        assert sink.codes()[-1] == "opcua.back"


async def test_another_servers_certificate_does_not_help(
        plant: Plant, secured: tuple[Any, Path], tmp_path: Path) -> None:
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "wrong.der").write_bytes(own_certificate(tmp_path / "someone").certificate)
    result, = await OpcUaDriver(endpoint(plant.port, tmp_path, **SECURED), plant.points(["a"]), Recorder()).check()
    assert result.code == "opcua.untrusted_certificate"


async def test_no_fallback_to_what_the_server_would_rather_have(tmp_path: Path) -> None:
    async with serving(free_port()) as server, Proxy(server.endpoint.port).open() as proxy:
        plain = await plant_on(server, "urn:plain")
        driver = OpcUaDriver(endpoint(proxy.port, tmp_path, **SECURED), plain.points(["a"]), Recorder())
        result, = await driver.check()
        seen = set().union(*(request_types(bytes(stream)) for stream in proxy.sent))
    assert result.code == "opcua.policy_not_offered"
    assert dict(result.args)["offered"] == "None/None_"
    assert seen == {ua.ObjectIds.GetEndpointsRequest_Encoding_DefaultBinary}, "no session over an unsecured channel"


async def test_the_session_must_show_the_certificate_of_the_channel(
        plant: Plant, secured: tuple[Any, Path], tmp_path: Path) -> None:
    der = secured[1].read_bytes()
    other = own_certificate(tmp_path / "someone").certificate
    validate = OpcUaDriver(endpoint(1, tmp_path, **SECURED), [], Recorder())._validator(der)
    await validate(x509.load_der_x509_certificate(der), None)
    with pytest.raises(ServiceError):
        await validate(x509.load_der_x509_certificate(other), None)


async def test_a_validator_is_always_set(
        plant: Plant, secured: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust(secured[1], tmp_path)
    seen = []
    real = GuardedClient.create_session

    async def watched(self: GuardedClient) -> Any:
        seen.append(self.certificate_validator)
        return await real(self)

    monkeypatch.setattr(GuardedClient, "create_session", watched)
    result, = await OpcUaDriver(endpoint(plant.port, tmp_path, **SECURED), plant.points(["a"]), Recorder()).check()
    assert result.ok
    assert len(seen) == 1
    assert all(validator is not None for validator in seen)


async def test_a_server_that_distrusts_us_is_named_with_our_certificate(
        plant: Plant, secured: tuple[Any, Path], tmp_path: Path) -> None:
    trust(secured[1], tmp_path)
    server = secured[0]

    async def distrust(_certificate: x509.Certificate, _application: Any) -> None:
        raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)

    server.set_certificate_validator(distrust)
    try:
        result, = await OpcUaDriver(endpoint(plant.port, tmp_path, **SECURED), plant.points(["a"]), Recorder()).check()
    finally:
        server.set_certificate_validator(CertificateValidator(
            CertificateValidatorOptions.EXT_VALIDATION | CertificateValidatorOptions.PEER_CLIENT))
    assert result.code == "opcua.channel_refused", result
    assert dict(result.args)["file"] == str(tmp_path / "pki" / "own.der")


@pytest.mark.parametrize(("password", "code"), [("Grüße 42\n", "opcua.ok"), ("wrong", "opcua.login_refused")])
async def test_login_with_a_password_file(
        plant: Plant, secured: tuple[Any, Path], tmp_path: Path, password: str, code: str) -> None:
    trust(secured[1], tmp_path)
    (tmp_path / "password").write_text(password, encoding="utf-8")
    settings = endpoint(plant.port, tmp_path, username="reader", password_file=tmp_path / "password", **SECURED)
    result, = await OpcUaDriver(settings, plant.points(["a"]), Recorder()).check()
    assert result.code == code
    assert password.strip() not in str(result)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of a user."""
    folder = tmp_path_factory.mktemp("user")
    own_certificate(folder)
    return folder / "own.der", folder / "own.key.pem"


async def test_a_certificate_is_the_users_identity(
        plant: Plant, secured: tuple[Any, Path], tmp_path: Path, account: tuple[Path, Path],
        monkeypatch: pytest.MonkeyPatch) -> None:
    trust(secured[1], tmp_path)
    shown: list[Any] = []

    def get_user(_self: OneUser, _server: Any, username: str | None = None, password: str | None = None,
                 certificate: Any = None) -> User | None:
        shown.append(certificate)
        return User(role=UserRole.User) if certificate is not None else None

    monkeypatch.setattr(OneUser, "get_user", get_user)
    sink = Recorder()
    async with Proxy(plant.port).open() as proxy:
        settings = endpoint(proxy.port, tmp_path, user_certificate_file=account[0], user_key_file=account[1], **SECURED)
        async with running(OpcUaDriver(settings, plant.points(["a"]), sink)):
            await until(lambda: sink.values(100))
            proxy.cut()
            await plant.write("a", 4.75)
            await until(lambda: 4.75 in sink.values(100), "taken up again with the same identity")
    assert len(shown) >= 2
    ders = {c if isinstance(c, bytes) else c.public_bytes(serialization.Encoding.DER) for c in shown}
    assert ders == {account[0].read_bytes()}, "whose signature over the server's nonce was good"


async def test_identity_files_that_do_not_fit_are_named(
        plant: Plant, secured: tuple[Any, Path], tmp_path: Path, account: tuple[Path, Path]) -> None:
    trust(secured[1], tmp_path)
    other = tmp_path / "someone"
    own_certificate(other)
    settings = endpoint(plant.port, tmp_path, user_certificate_file=account[0], user_key_file=other / "own.key.pem",
                        **SECURED)
    result, = await OpcUaDriver(settings, plant.points(["a"]), Recorder()).check()
    assert result.code == "opcua.identity_files"


async def test_a_missing_password_file_is_named(plant: Plant, secured: tuple[Any, Path], tmp_path: Path) -> None:
    trust(secured[1], tmp_path)
    settings = endpoint(plant.port, tmp_path, username="reader", password_file=tmp_path / "none", **SECURED)
    result, = await OpcUaDriver(settings, plant.points(["a"]), Recorder()).check()
    assert result.code == "opcua.password_file"


@pytest.mark.parametrize(("mode", "policy", "is_refused"), [
    ("Sign", "http://opcfoundation.org/UA/SecurityPolicy#None", True),
    ("Sign", "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256", False),
    ("SignAndEncrypt", "http://opcfoundation.org/UA/SecurityPolicy#None", False)])
async def test_a_password_is_never_sent_in_clear(tmp_path: Path, mode: str, policy: str, is_refused: bool) -> None:
    settings = endpoint(1, tmp_path, username="reader", password_file=tmp_path / "p",
                        **(SECURED | {"security_mode": mode}))
    client = GuardedClient(settings)
    client._policy_ids = [ua.UserTokenPolicy(TokenType=ua.UserTokenType.UserName, SecurityPolicyUri=policy)]
    driver = OpcUaDriver(settings, [], Recorder())
    if not is_refused:
        driver._refuse_clear_password(client)
        return
    with pytest.raises(DeviceError) as refused:
        driver._refuse_clear_password(client)
    assert refused.value.problems[0].code == "opcua.password_in_clear"


async def test_unsecured_needs_a_word(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        OpcUaDriver(endpoint(1, tmp_path, allow_insecure=False), [], Recorder())
    assert refused.value.problems[0].code == "opcua.insecure"


async def test_a_cut_encrypted_line_is_taken_up_again(
        plant: Plant, secured: tuple[Any, Path], tmp_path: Path) -> None:
    trust(secured[1], tmp_path)
    sink = Recorder()
    async with Proxy(plant.port).open() as proxy:
        async with running(OpcUaDriver(endpoint(proxy.port, tmp_path, **SECURED), plant.points(["a"]), sink)):
            await until(lambda: sink.values(100))
            (before,) = plant.subscriptions
            proxy.cut()
            await plant.write("a", 4.25)
            await until(lambda: 4.25 in sink.values(100))
            assert plant.subscriptions == [before]
            assert len(plant.sessions) == 1


async def test_the_channel_is_renewed_before_it_ends(
        plant: Plant, secured: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust(secured[1], tmp_path)
    renewed = []
    real = GuardedClient.open_secure_channel

    async def watched(self: GuardedClient, renew: bool = False) -> None:
        """The server grants a minute, and the driver is told of less: a token that is over is not taken any more."""
        if renew:
            self.secure_channel_timeout = 60_000
        renewed.append(renew)
        await real(self, renew)
        assert self.secure_channel_timeout == 60_000
        self.secure_channel_timeout = 800

    monkeypatch.setattr(GuardedClient, "open_secure_channel", watched)
    monkeypatch.setattr("protocols.opcua.guarded.driver.CHANNEL_LIFETIME_S", 60.0)
    sink = Recorder()
    # Idle reads between two renewals: asyncua's server takes the new token into use with the first request that has it.
    settings = endpoint(plant.port, tmp_path, idle_read_s=0.1, **SECURED)
    async with running(OpcUaDriver(settings, plant.points(["a"]), sink)):
        await until(lambda: renewed.count(True) >= 3)
        await plant.write("a", 9.75)
        await until(lambda: 9.75 in sink.values(100))
    assert sink.events == []


CHUNK_MIN = 8192
"""OPC 10000-6 7.1.2.3: no buffer is smaller."""


async def test_a_message_of_several_encrypted_chunks_becomes_columns_of_several_types(
        plant: Plant, secured: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By subscription and by polling; strings stand between the numbers."""
    monkeypatch.setattr(ua_client, "TransportLimits", lambda *_: TransportLimits(CHUNK_MIN, CHUNK_MIN, 0, 0))
    trust(secured[1], tmp_path)
    names, kinds = [f"v{i}" for i in range(600)], (float, int, bool, str)
    for place, name in enumerate(names):
        await plant.server.nodes.objects.add_variable(ua.NodeId(name, plant.index), name, kinds[place % 4](place))
    wanted = [fingerprint(str(place).encode()) if place % 4 == 3 else float(kinds[place % 4](place))
              for place in range(600)]
    sizes: list[int] = []
    real = bulk.Decoder._values
    monkeypatch.setattr(bulk.Decoder, "_values", lambda self, body, *more: (
        sizes.append(len(body)), real(self, body, *more))[1])
    for reads in ("subscription", "polling"):
        sink = Recorder()
        settings = endpoint(plant.port, tmp_path, reads=reads, **SECURED)
        async with running(OpcUaDriver(settings, plant.points(names), sink)):
            await until(lambda sink=sink: len(sink.points) == 600)
        found = {point: value for batch in sink.batches
                 for point, value in zip(batch.point_index.tolist(), batch.value.tolist(), strict=True)}
        assert [found[100 + place] for place in range(600)] == wanted
    assert max(sizes) > CHUNK_MIN, "more than a chunk holds"
