"""HTTP to a platform that fails in every way over a real loopback socket: always a DeviceError, never a hang."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.sealing.link import PIECE_CHARS, Address, HttpLink, pieces
from protocols import exchange, system
from protocols.errors import ConfigError, DeviceError
from protocols.evidence import jcs

GATEWAY = "0" * 32
SIZE = json.dumps({"size": 0, "root": "0" * 64, "checkpoint": None}).encode()
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS context with a certificate of a CA of its own, and the file of that CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plant CA")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
              .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
              .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
              .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
              .sign(key, hashes.SHA256()))
    pem, secret = folder / "ca.pem", folder / "key.pem"
    pem.write_bytes(signed.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    return context, pem


@asynccontextmanager
async def platform(answer: Answer, *, answer_s: float = 60.0, tls: ssl.SSLContext | None = None,
                   ca_file: Path | None = None) -> AsyncIterator[HttpLink]:
    """A server that reads one request and then does what `answer` says."""
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    scheme = "http" if tls is None else "https"
    link = HttpLink(Address(url=f"{scheme}://127.0.0.1:{port}/", answer_s=answer_s, ca_file=ca_file))
    try:
        yield link
    finally:
        await link.close()
        server.close()


def fixed(status: str, body: bytes, *, length: int | None = None, extra: str = "") -> Answer:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n{extra}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
    return answer


async def code_of(answer: Answer, *, answer_s: float = 60.0) -> str:
    async with platform(answer, answer_s=answer_s) as link:
        with pytest.raises(DeviceError) as caught:
            await asyncio.wait_for(link.size(GATEWAY), 50)
    return caught.value.problems[0].code


async def test_good_answer_is_taken() -> None:
    async with platform(fixed("200 OK", SIZE)) as link:
        assert (await link.size(GATEWAY))["size"] == 0


@pytest.mark.parametrize(("status", "body", "code"), [
    ("500 Internal Server Error", b"<html>", "sealing.platform_status"),
    ("503 Busy", b"", "sealing.platform_status"),
    ("302 Found", b"", "sealing.platform_status"),
    ("403 Forbidden", json.dumps({"code": "platform.revoked", "args": [], "where": "x", "message": "m"}).encode(),
     "sealing.platform_refused"),
    ("409 Conflict", SIZE, "sealing.platform_status"),  # nobody asked a question that 409 answers
    ("200 OK", b"not json", "sealing.answer_malformed"),
    ("200 OK", b'{"size":1}', "sealing.answer_malformed"),
    ("200 OK", b'{"size":1,"size":2}', "sealing.answer_malformed"),
    ("200 OK", b"[" * 100_000, "sealing.answer_malformed"),
])
async def test_bad_answers(status: str, body: bytes, code: str) -> None:
    extra = "Location: http://127.0.0.1:1/elsewhere\r\n" if status.startswith("302") else ""
    assert await code_of(fixed(status, body, extra=extra)) == code


@pytest.mark.parametrize("rosters", [
    [], [""], ["{}\n"], ["row \"\\\\n\\u2028 行 \U0001F600\x01\n" * 40_000, "another\n"],
], ids=["no roster", "an empty one", "a short one", "two, one in pieces"])
async def test_a_request_arrives_as_canonical_json_with_its_length(
        rosters: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[int] = []
    monkeypatch.setattr(system, "release_memory", lambda: released.append(1))
    body = {"first": 7, "entries": ["a", "b"], "checkpoint": "c\n",
            "rosters": [{"seq": 7 + n, "rows": rows} for n, rows in enumerate(rosters)]}
    assert (len("".join(rosters)) > PIECE_CHARS) == (len(rosters) == 2)
    arrived: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(await reader.readexactly(len(jcs.encode(body))))
        await fixed("200 OK", json.dumps({"size": 9, "proof": None, "register_checkpoint": None}).encode())(
            reader, writer)
        arrived.append(await reader.read())

    async with platform(answer) as link:
        assert await link.submit(GATEWAY, body) == (True, {"size": 9, "proof": None, "register_checkpoint": None})
    assert arrived[0] == jcs.encode(body) == b"".join(pieces(body))
    assert len(released) == bool(rosters)


async def test_a_large_roster_is_never_there_twice() -> None:
    rows = '{"point":1}\n' * 1_000_000
    body = {"first": 0, "entries": [], "checkpoint": "", "rosters": [{"seq": 0, "rows": rows}]}
    length = sum(map(len, pieces(body)))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = length
        while left:
            left -= len(await reader.read(1 << 16))
        writer.close()

    async with platform(answer, answer_s=60.0) as link:
        tracemalloc.start()
        try:
            with pytest.raises(DeviceError):
                await link.submit(GATEWAY, body)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert most < len(rows) / 2


async def test_connection_closed_in_the_middle_of_the_body() -> None:
    assert await code_of(fixed("200 OK", SIZE[:10], length=len(SIZE))) == "sealing.platform_unreachable"


async def test_connection_closed_before_an_answer() -> None:
    async def nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
    assert await code_of(nothing) == "sealing.platform_unreachable"


async def test_platform_that_hangs_is_given_up() -> None:
    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()  # until the other side gives up
    assert await code_of(hang, answer_s=0.2) == "sealing.platform_unreachable"


async def test_platform_that_answers_drop_by_drop_is_given_up() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not reader.at_eof():
            writer.write(b" ")
            await writer.drain()
            try:
                await asyncio.wait_for(reader.read(1), 0.02)
            except TimeoutError:
                continue
    assert await code_of(drip, answer_s=0.3) == "sealing.platform_unreachable"


async def test_answer_beyond_the_limit_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_BYTES_MAX", 100_000)
    assert await code_of(fixed("200 OK", b" " * 300_000)) == "sealing.answer_too_large"


async def test_nobody_listens() -> None:
    async with platform(fixed("200 OK", SIZE)) as link:
        pass
    with pytest.raises(DeviceError):
        await HttpLink(Address(url="http://127.0.0.1:1")).size(GATEWAY)
    await link.close()


async def test_conflict_is_an_answer_to_a_submission() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await fixed("409 Conflict", SIZE)(reader, writer)
    async with platform(answer) as link:
        stored, told = await link.submit(GATEWAY, {"first": 0, "entries": [], "checkpoint": "", "rosters": []})
    assert not stored and told["size"] == 0


async def test_https_under_a_ca_of_the_plant(tmp_path: Path) -> None:
    tls, ca_file = certificate(tmp_path)
    async with platform(fixed("200 OK", SIZE), tls=tls, ca_file=ca_file) as link:
        assert (await link.size(GATEWAY))["size"] == 0
    async with platform(fixed("200 OK", SIZE), tls=tls) as link:  # the system does not know this CA
        with pytest.raises(DeviceError) as caught:
            await link.size(GATEWAY)
    assert caught.value.problems[0].code == "sealing.platform_unreachable"


async def test_proxy_is_asked_for_the_whole_url() -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        await fixed("200 OK", SIZE)(reader, writer)
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link = HttpLink(Address(url="http://platform.invalid", proxy=f"http://127.0.0.1:{port}"))
    assert (await link.size(GATEWAY))["size"] == 0
    assert asked == [f"GET http://platform.invalid/v1/gateways/{GATEWAY}/size HTTP/1.1".encode()]
    await link.close()
    server.close()


def test_ca_file_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    bad = tmp_path / "ca.pem"
    bad.write_text("no certificate")
    for file in (bad, tmp_path / "missing.pem"):
        with pytest.raises(ConfigError) as caught:
            HttpLink(Address(url="https://127.0.0.1", ca_file=file))
        assert caught.value.problems[0].code == "sealing.ca_file"
