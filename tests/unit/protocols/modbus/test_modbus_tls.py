"""Modbus over TLS: certificates on both sides, and nothing is ever sent without."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import types
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pymodbus.server import ModbusTlsServer

from protocols.errors import ConfigError
from protocols.modbus import tls
from protocols.modbus.driver import Driver, Link
from protocols.modbus.target import ModbusEndpoint
from tests.unit.protocols.modbus import authority
from tests.unit.protocols.modbus.authority import Authority, Pair
from tests.unit.protocols.modbus.recording import Recording, closed_port, endpoint, point, running, until
from tests.unit.protocols.modbus.test_modbus_driver import NUMBERS, device

POINTS = [point(0, "1/holding/0", "float32"), point(1, "2/holding/2", "int32", device=1)]


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    server = ModbusTlsServer([device(1, NUMBERS), device(2, NUMBERS)], address=("127.0.0.1", 0), sslctx=context)
    await server.serve_forever(background=True)
    try:
        yield server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined] # an asyncio.Server
    finally:
        await server.shutdown()


def secured(port: int, ca: Authority, own: Pair, **more: object) -> ModbusEndpoint:
    settings = {"protocol": "modbus_tls", "endpoint": f"tls://127.0.0.1:{port}", "ca_file": ca.file,
                "certificate_file": own.certificate, "key_file": own.key}
    return endpoint(port, **(settings | more))


async def code_of(driver: Driver) -> tuple[str, dict[str, str]]:
    result = (await driver.check())[0]
    return result.code, dict(result.args)


async def test_values_arrive_and_both_certificates_are_told(ca: Authority) -> None:
    own = ca.pair("gateway", role=authority.role("Operator"))
    server = ca.pair("plc", host="127.0.0.1")
    certificate = x509.load_pem_x509_certificate(server.certificate.read_bytes())
    spki = hashlib.sha256(certificate.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    sink = Recording()
    async with serving(ca.server_context(server)) as port:
        driver = Driver(secured(port, ca, own), POINTS, sink)
        assert driver.server_spki_sha256() is None, "nobody has answered yet"
        async with running(driver):
            await until(lambda: all(len(sink.values.get(slot, [])) > 3 for slot in (0, 1)))
            assert driver.server_spki_sha256() == spki
        results = await driver.check()
    assert {slot: set(values) for slot, values in sink.values.items()} == {0: {21.5}, 1: {-7.0}}
    assert sink.events == []
    assert [(r.ok, r.code) for r in results] == [(True, "modbus.check_ok_tls")] * 2
    told = dict(results[0].args)
    assert (told["role"], told["version"]) == ("Operator", "TLSv1.3")
    assert told["server_sha256"] == hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


async def test_the_name_in_the_certificate_decides(ca: Authority) -> None:
    own = ca.pair("gateway")
    async with serving(ca.server_context(ca.pair("plc-7"))) as port:
        code, args = await code_of(Driver(secured(port, ca, own), POINTS, Recording()))
        assert code == "modbus.tls_untrusted" and "127.0.0.1" in args["reason"], args
        code, _ = await code_of(Driver(secured(port, ca, own, server_name="plc-8"), POINTS, Recording()))
        assert code == "modbus.tls_untrusted"
        code, args = await code_of(Driver(secured(port, ca, own, server_name="plc-7"), POINTS, Recording()))
        assert (code, args["role"]) == ("modbus.check_ok_tls", "-")


async def test_a_strangers_certificate_and_one_that_has_run_out_are_refused(ca: Authority, tmp_path: Path) -> None:
    own, stranger = ca.pair("gateway"), Authority(tmp_path / "other")
    for server in (stranger.pair("s", host="127.0.0.1"), ca.pair("old", host="127.0.0.1", age=40)):
        context = ca.server_context(server)
        sink = Recording()
        async with serving(context) as port:
            driver = Driver(secured(port, ca, own), POINTS, sink)
            assert (await code_of(driver))[0] == "modbus.tls_untrusted"
            async with running(driver):
                await until(lambda: "modbus.lost" in sink.codes())  # noqa: B023  # awaited within the turn
            assert driver.server_spki_sha256() is None
        assert sink.codes() == ["modbus.tls_untrusted", "modbus.lost"]
        assert sink.batches == [] and sink.replies == {}


@pytest.mark.parametrize(("version", "code"), [
    (ssl.TLSVersion.TLSv1_2, "modbus.tls_failed"), (ssl.TLSVersion.TLSv1_3, "modbus.tls_unwelcome")],
    ids=["1.2", "1.3"])
async def test_a_server_that_does_not_know_us_is_told_apart(
    ca: Authority, tmp_path: Path, version: ssl.TLSVersion, code: str
) -> None:
    """1.2 refuses within the handshake; 1.3 lets the client believe that it is in, and closes then."""
    context = ca.server_context(ca.pair("plc", host="127.0.0.1"))
    context.maximum_version = version
    async with serving(context) as port:
        at = secured(port, ca, Authority(tmp_path / "other").pair("gateway"))
        assert (await code_of(Driver(at, POINTS, Recording())))[0] == code
        assert (await code_of(Driver(secured(port, ca, ca.pair("known")), POINTS, Recording())))[0] \
            == "modbus.check_ok_tls"


@pytest.mark.parametrize("answers", [b"", b"\0\1\0\0\0\5\1\1\2\0\0"], ids=["silent", "modbus"])
async def test_there_is_no_fallback_to_plain(ca: Authority, answers: bytes) -> None:
    """A plain server sees nothing but the beginning of TLS handshakes, however often it is tried."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(1000))
        writer.write(answers)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        at = secured(server.sockets[0].getsockname()[1], ca, ca.pair("gateway"))
        sink = Recording()
        driver = Driver(at, POINTS, sink)
        assert (await code_of(driver))[0] in ("modbus.tls_failed", "modbus.connect_timeout")
        async with running(driver):
            await until(lambda: len(seen) >= 5)
    assert all(data[:2] == b"\x16\x03" for data in seen if data)
    assert sink.batches == []


async def test_nothing_listens(ca: Authority) -> None:
    with closed_port() as port:
        driver = Driver(secured(port, ca, ca.pair("gateway")), POINTS, Recording())
        assert (await code_of(driver))[0] == "modbus.refused"


@pytest.mark.parametrize("spoil", ["ca_file", "certificate_file", "key_file", "encrypted", "other key", "absent"])
def test_files_that_cannot_be_used_are_named(ca: Authority, tmp_path: Path, spoil: str) -> None:
    own = ca.pair("gateway", password=b"secret" if spoil == "encrypted" else None)
    files = {"ca_file": ca.file, "certificate_file": own.certificate, "key_file": own.key}
    if spoil in files:
        files[spoil] = tmp_path / "garbage.pem"
        files[spoil].write_text("no certificate")
    elif spoil == "other key":
        files["key_file"] = ca.pair("other").key
    elif spoil == "absent":
        files["ca_file"] = tmp_path / "nowhere.pem"
    with pytest.raises(ConfigError) as caught:
        Driver(endpoint(1, protocol="modbus_tls", endpoint="tls://h", **files), [], Recording())
    problem = caught.value.problems[0]
    assert problem.code == "modbus.tls_file"
    assert problem.where.startswith("line.") and ("ca_file" in problem.where) == (spoil in ("ca_file", "absent"))
    assert dict(problem.args)["reason"]


async def test_a_certificate_that_is_being_replaced_ends_nothing(
    ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.modbus.schedule.RECONNECT_FIRST_S", 0.02)
    own = ca.pair("gateway")
    good = own.certificate.read_bytes()
    context = ca.server_context(ca.pair("plc", host="127.0.0.1"))
    sink = Recording()
    async with serving(context) as port:
        driver = Driver(secured(port, ca, own), POINTS, sink)
        own.certificate.write_bytes(b"half a file")
        async with running(driver):
            await until(lambda: "modbus.lost" in sink.codes())
            own.certificate.write_bytes(good)
            await until(lambda: len(sink.values) == 2)
    assert sink.codes() == ["modbus.tls_file", "modbus.lost", "modbus.back"]


@pytest.mark.parametrize(("raw", "text"), [
    (authority.role("Operator"), "Operator"), (authority.role("值班员"), "值班员"), (b"\x0c\x00", ""), (b"", ""),
    (b"\x13\x08Operator", ""), (b"\x0c\x09Operator", ""), (b"\x0c\x04a\x1b[m", "a[m"),
    (b"\x0c\x02\xff\xff", "\ufffd" * 2)], ids=repr)
def test_the_role_is_read_and_made_safe_for_a_terminal(ca: Authority, raw: bytes, text: str) -> None:
    assert tls.role(ca.pair("gateway", role=raw).certificate.read_bytes()) == text


def test_no_role(ca: Authority) -> None:
    assert tls.role(ca.pair("gateway").certificate.read_bytes()) == ""
    assert tls.role(b"nothing") == ""


def test_the_port_of_modbus_over_tls() -> None:
    assert tls.ROLE_OID == authority.ROLE
    at = ModbusEndpoint(name="line", protocol="modbus_tls", endpoint="tls://plc", ca_file=Path("a"),
                        certificate_file=Path("b"), key_file=Path("c"))
    assert (at.port, at.is_rtu) == (802, False)


@pytest.mark.parametrize("transport", ["gone", "no handshake", "no certificate"])
async def test_a_server_that_hangs_up_just_after_the_handshake(
    ca: Authority, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """The alert of a server that does not want us may arrive before we have looked at its certificate."""
    class Object:
        def getpeercert(self, binary_form: bool) -> bytes | None:
            if transport == "no handshake":
                raise ValueError("handshake not done yet")
            return None

    class Transport:
        def get_extra_info(self, name: str) -> Object:
            assert name == "ssl_object"
            return Object()

    real = Link._look_at_server

    def late(self: Link, client: object) -> None:
        context = types.SimpleNamespace(transport=None if transport == "gone" else Transport())
        real(self, types.SimpleNamespace(ctx=context))  # type: ignore[arg-type] # as far as it is looked at

    monkeypatch.setattr(Link, "_look_at_server", late)
    async with serving(ca.server_context(ca.pair("plc", host="127.0.0.1"))) as port:
        driver = Driver(secured(port, ca, ca.pair("gateway")), POINTS, Recording())
        assert (await code_of(driver))[0] == "modbus.tls_unwelcome"
        assert driver.server_spki_sha256() is None


async def test_a_self_signed_certificate_can_be_pinned(ca: Authority, tmp_path: Path) -> None:
    """What a device makes for itself is its own signer: its certificate goes into ca_file."""
    pinned, other = (authority.self_signed(tmp_path, name, "127.0.0.1") for name in ("device", "another"))
    context = ca.server_context(pinned)
    async with serving(context) as port:
        own = ca.pair("gateway")
        at = secured(port, ca, own, ca_file=pinned.certificate)
        assert (await code_of(Driver(at, POINTS, Recording())))[0] == "modbus.check_ok_tls"
        at = secured(port, ca, own, ca_file=other.certificate)
        assert (await code_of(Driver(at, POINTS, Recording())))[0] == "modbus.tls_untrusted"
