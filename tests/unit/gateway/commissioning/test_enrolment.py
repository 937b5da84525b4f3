"""Enrolling at a platform that answers, lies, hangs, breaks off or stands behind its own CA and a proxy."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from config.gateway import GatewayConfig
from gateway.commissioning import enrol
from gateway.commissioning.state import State
from protocols.errors import ConfigError, DeviceError, TallystickError, VerificationError
from protocols.evidence import keys, note, signed
from protocols.evidence.shape import require
from protocols.exchange import ENROL_REQUEST, possession_holds
from tallystick.__main__ import main
from tests.support.platform_process import platform_file, set_up, start_platform, tallystick, token
from tests.unit.gateway.commissioning.plants import LINE, USCC, device, plant, point, write

TOKEN = "a-token-of-the-operator"
WAIT_S = 30.0
Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


class Platform:
    """A platform in this process: certifies what it is asked, unless a test says otherwise."""

    def __init__(self) -> None:
        self.key = keys.generate()
        self.register = keys.generate()
        self.requests: list[dict[str, Any]] = []
        self.answers: list[Answer] = []
        """Taken one by one before the honest answer."""

    async def enrol(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        require(ENROL_REQUEST, body, where="request")
        assert possession_holds(body)
        self.requests.append(body)
        return await (self.answers.pop(0) if self.answers else self.honest)(request, body)

    def answer(self, body: dict[str, Any], **changes: Any) -> dict[str, Any]:
        fields = {name: value for name, value in body.items() if name not in ("token", "proof")}
        certificate = signed.sign("certificate", {
            **fields, "token_sha256": hashlib.sha256(body["token"].encode()).hexdigest(), **changes}, self.key)
        register = note.VerifierKey("register.example/test", note.ED25519, keys.public_bytes(self.register))
        return {"certificate": certificate, "platform": keys.public_bytes(self.key).hex(), "register": str(register),
                "witnesses": f"log {register}\nquorum none\n", "independent": []}

    async def honest(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(self.answer(body), status=201)


@asynccontextmanager
async def serving(platform: Platform, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_post("/v1/enrol", platform.enrol)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def configured(folder: Path, url: str, **more: str) -> tuple[GatewayConfig, State]:
    head = f'[platform]\nurl = "{url}"\ntimeout_s = {WAIT_S}\n' + "".join(f'{k} = "{v}"\n' for k, v in more.items())
    config = plant(folder, [device("a")], head=head)
    state = State(config.state_dir)
    if not state.has_keys():
        state.create_keys()
    return config, state


async def attempt(config: GatewayConfig, state: State, supersedes: str | None = None) -> dict[str, Any]:
    return await enrol.enrol(config, state, TOKEN, supersedes, retry_s=0.01)


async def test_an_answer_is_checked_and_kept(tmp_path: Path) -> None:
    platform = Platform()
    async with serving(platform) as port:
        config, state = configured(tmp_path, f"http://127.0.0.1:{port}")
        answer = await attempt(config, state, "ab" * 16)
    assert state.enrolment() == answer
    assert state.enrolment_file.stat().st_mode & 0o777 == 0o600
    [request] = platform.requests
    assert (request["uscc"], request["site"], request["supersedes"]) == (USCC, "S", "ab" * 16)
    assert request["gateway_key"] == keys.public_bytes(state.gateway_key()).hex()
    assert enrol.existing(config, state, None) == answer


async def hangs(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Never answer. The time that the other side waits has passed at once, and the next attempt has all of it anew."""
    loop = asyncio.get_running_loop()
    real = loop.time
    loop.time = lambda: real() + WAIT_S  # type: ignore[method-assign]  # the loop of this test alone
    await loop.create_future()
    return web.Response()


async def broken_off(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Close in the middle of the body."""
    response = web.StreamResponse(status=201, headers={"Content-Length": "5000"})
    await response.prepare(request)
    await response.write(b'{"certificate": ')
    assert request.transport is not None
    request.transport.abort()
    return response


PASSING: dict[str, Answer] = {
    "500": lambda request, body: asyncio.sleep(0, web.Response(status=500, text="oops")),
    "503 with words": lambda request, body: asyncio.sleep(0, web.json_response(
        {"code": "platform.busy", "args": [], "where": "x", "message": "busy"}, status=503)),
    "broken off": broken_off,
    "hanging": hangs,
}


@pytest.mark.parametrize("trouble", PASSING)
async def test_what_passes_by_itself_is_tried_again(tmp_path: Path, trouble: str) -> None:
    platform = Platform()
    platform.answers = [PASSING[trouble]]
    async with serving(platform) as port:
        config, state = configured(tmp_path, f"http://127.0.0.1:{port}")
        assert await attempt(config, state) == state.enrolment()
    assert len(platform.requests) == 2 and platform.requests[0] == platform.requests[1]  # idempotent: the very same


@pytest.mark.parametrize("trouble", ["500", "broken off"])
async def test_what_does_not_pass_is_told_after_a_few_attempts(tmp_path: Path, trouble: str) -> None:
    platform = Platform()
    platform.answers = [PASSING[trouble]] * 10
    async with serving(platform) as port:
        config, state = configured(tmp_path, f"http://127.0.0.1:{port}")
        with pytest.raises(DeviceError):
            await attempt(config, state)
    assert len(platform.requests) == enrol.ATTEMPTS and state.enrolment() is None


def refusal(status: int, code: str, *args: str) -> Answer:
    return lambda request, body: asyncio.sleep(0, web.json_response(
        {"code": code, "args": list(args), "where": "token", "message": "said in English"}, status=status))


async def test_a_refusal_is_told_with_the_platforms_reason(tmp_path: Path) -> None:
    platform = Platform()
    platform.answers = [refusal(403, "platform.token_site", "site=S", "expected=T=1")]
    async with serving(platform) as port:
        config, state = configured(tmp_path, f"http://127.0.0.1:{port}")
        with pytest.raises(ConfigError) as caught:
            await attempt(config, state)
    assert [p.code for p in caught.value.problems] == ["commissioning.refused", "platform.token_site"]
    assert dict(caught.value.problems[1].args) == {"site": "S", "expected": "T=1"}
    assert len(platform.requests) == 1 and state.enrolment() is None


def other(status: int, text: str = "", **headers: str) -> Answer:
    return lambda request, body: asyncio.sleep(0, web.Response(status=status, text=text, headers=headers))


@pytest.mark.parametrize("answer", [
    other(200, "<html>please log in</html>"), other(201, "[]"), other(201, "{" * 5000), other(404, "nothing here"),
    other(302, Location="https://elsewhere.example/"), other(201, "x" * (enrol.ANSWER_BYTES_MAX + 1)),
    other(400, '{"code": 5}'),
], ids=["login page", "list", "nested", "404", "redirect", "too long", "odd refusal"])
async def test_what_is_no_platform_is_told(tmp_path: Path, answer: Answer) -> None:
    platform = Platform()
    platform.answers = [answer] * 10
    async with serving(platform) as port:
        config, state = configured(tmp_path, f"http://127.0.0.1:{port}")
        with pytest.raises(DeviceError) as caught:
            await attempt(config, state)
    assert caught.value.problems[0].code == "commissioning.platform_answer"
    assert state.enrolment() is None


def lie(platform: Platform, change: Callable[[dict[str, Any]], None] | None = None, **certified: Any) -> Answer:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        result = platform.answer(body, **certified)
        if change is not None:
            change(result)
        return web.json_response(result, status=201)
    return answer


LIES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], None] | None, str]] = {
    "another key": ({"gateway_key": keys.public_bytes(keys.generate()).hex()}, None, "commissioning.other_certificate"),
    "another enterprise": ({"uscc": "91110000600037341L"}, None, "commissioning.other_certificate"),
    "another K": ({"k_sha256": "00" * 32}, None, "commissioning.other_certificate"),
    "another recovery key": ({"recovery_key": "00" * 32}, None, "commissioning.other_certificate"),
    "another site": ({"site": "T"}, None, "commissioning.other_certificate"),
    "another token": ({"token_sha256": "00" * 32}, None, "commissioning.other_certificate"),
    "supersedes somebody": ({"supersedes": "00" * 16}, None, "commissioning.other_certificate"),
    "another signer": ({}, lambda a: a.update(platform="00" * 32), "signed.wrong_signer"),
    "changed after signing": ({}, lambda a: a["certificate"].update(site="T"), "signed.bad_signature"),
    "a register that is none": ({}, lambda a: a.update(register="x"), "vkey.malformed"),
    "witnesses that are none": ({}, lambda a: a.update(witnesses="quorum"), "policy.line"),
    "something more": ({}, lambda a: a.update(more=1), "shape.unknown_field"),
}


@pytest.mark.parametrize("case", LIES)
async def test_an_answer_that_certifies_something_else_is_not_kept(tmp_path: Path, case: str) -> None:
    certified, change, code = LIES[case]
    platform = Platform()
    platform.answers = [lie(platform, change, **certified)]
    async with serving(platform) as port:
        config, state = configured(tmp_path, f"http://127.0.0.1:{port}")
        with pytest.raises(VerificationError) as caught:
            await attempt(config, state)
    assert code in {p.code for p in caught.value.problems}
    assert state.enrolment() is None


# TLS and proxy

def made_ca(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return the PEM of a CA and a server context with a certificate of it for 127.0.0.1."""
    now = datetime.datetime.now(datetime.UTC)

    def built(subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey,
              extension: x509.ExtensionType) -> x509.Certificate:
        return (x509.CertificateBuilder()
                .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
                .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
                .public_key(key.public_key()).serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
                .add_extension(extension, critical=False).sign(signer, hashes.SHA256()))

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = built("Test CA", ca_key, "Test CA", ca_key, x509.BasicConstraints(ca=True, path_length=0))
    leaf = built("platform", key, "Test CA", ca_key, x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]))
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "leaf.pem").write_bytes(leaf.public_bytes(pem) + key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf.pem")
    return folder / "ca.pem", context


async def test_a_platform_with_its_own_ca(tmp_path: Path) -> None:
    ca, tls = made_ca(tmp_path)
    platform = Platform()
    async with serving(platform, tls) as port:
        url = f"https://127.0.0.1:{port}"
        config, state = configured(tmp_path, url)
        with pytest.raises(DeviceError) as caught:
            await attempt(config, state)
        assert caught.value.problems[0].code == "commissioning.platform_certificate"
        assert platform.requests == []
        config, state = configured(tmp_path, url, ca_file=ca.name)
        assert await attempt(config, state) == state.enrolment()
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigError) as bad:
        await attempt(config, state)
    assert bad.value.problems[0].code == "commissioning.bad_ca"


async def test_a_proxy_is_used_and_the_environment_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(await reader.readline())
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        config, state = configured(tmp_path, "http://127.0.0.1:9", proxy=f"http://127.0.0.1:{port}")
        with pytest.raises(DeviceError):
            await attempt(config, state)
    assert lines[0].startswith(b"POST http://127.0.0.1:9/v1/enrol ")


async def test_nobody_there(tmp_path: Path) -> None:
    config, state = configured(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(DeviceError) as caught:
        await attempt(config, state)
    assert caught.value.problems[0].code == "commissioning.platform_unreachable"


# What cannot be asked at all

def code_of(error: TallystickError) -> str:
    return error.problems[0].code


async def test_token_and_id_are_checked_before_anything_is_sent(tmp_path: Path) -> None:
    config, state = configured(tmp_path, "http://127.0.0.1:1")
    for bad in ("", "a b\n", "令牌", "x" * 129):
        with pytest.raises(ConfigError) as caught:
            await enrol.enrol(config, state, bad, None)
        assert code_of(caught.value) == "commissioning.bad_token"
    with pytest.raises(ConfigError) as caught:
        await enrol.enrol(config, state, TOKEN, "AB" * 16)
    assert code_of(caught.value) == "commissioning.bad_gateway_id"


def test_with_and_without_a_platform(tmp_path: Path) -> None:
    config, state = configured(tmp_path / "with", "http://127.0.0.1:1")
    with pytest.raises(ConfigError) as caught:
        enrol.enrol_alone(config, state, None)
    assert code_of(caught.value) == "commissioning.self_with_platform"
    alone = plant(tmp_path / "alone", [device("a")])
    with pytest.raises(ConfigError) as caught:
        asyncio.run(enrol.enrol(alone, state, TOKEN, None))
    assert code_of(caught.value) == "commissioning.no_platform"


def test_a_plant_without_a_platform_certifies_itself_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, [device("a")], [point("a", 0)])
    assert main(["enrol", str(file), "--self"]) == 2  # no keys yet
    state = State(tmp_path / "state")
    state.create_keys()
    assert main(["enrol", str(file), "--self"]) == 0
    first = state.enrolment_file.read_bytes()
    assert capsys.readouterr().out.strip() == state.gateway_id()
    answer = state.enrolment()
    assert answer is not None
    signed.verify("certificate", answer["certificate"], where="test",
                  signers={keys.public_bytes(state.recovery_key()).hex()})
    assert main(["enrol", str(file), "--self"]) == 0
    assert state.enrolment_file.read_bytes() == first
    assert "Enrolled already" in capsys.readouterr().err
    write(tmp_path, [device("a")], [point("a", 0)], site="Another")
    assert main(["enrol", str(file), "--self"]) == 2
    assert "another site: S, now Another" in capsys.readouterr().err
    assert state.enrolment_file.read_bytes() == first


# The platform of this house, as a process of its own.

def test_the_platforms_own_answers_and_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    services = set_up(tmp_path, witnesses=0)
    try:
        services.append(start_platform(tmp_path))
        url = services[-1].url

        def made(name: str, *options: str) -> Path:
            folder = tmp_path / name
            assert main(["init", str(folder), "--site", name, "--uscc", USCC, *options]) == 0
            write(folder, [device("a")], [point("a", 0)], head=f'[platform]\nurl = "{url}"\n', tail=LINE, site=name)
            return folder / "gateway.toml"

        one = made("one")
        first = token(tmp_path, USCC)
        assert main(["enrol", str(one), "--token", first]) == 0
        kept = (tmp_path / "one/state/enrolment.json").read_text()
        assert json.loads(kept)["platform"] in capsys.readouterr().err.replace(" ", "")
        (tmp_path / "one/state/enrolment.json").unlink()  # the PC lost power before it was written
        assert main(["enrol", str(one), "--token", first]) == 0
        assert (tmp_path / "one/state/enrolment.json").read_text() == kept

        two = made("two", "--k-file", str(tmp_path / "one/state/keys/enterprise.key"))
        for bad, said in ((first, "令牌"), ("unknown", "令牌"), (token(tmp_path, USCC, "--site", "three"), "three")):
            capsys.readouterr()
            assert main(["enrol", str(two), "--token", bad, "--lang", "zh"]) == 2
            told = capsys.readouterr().err
            assert "平台拒绝" in told and said in told and "{" not in told, told
        old = State(tmp_path / "one/state").gateway_id()
        assert main(["enrol", str(two), "--token", token(tmp_path, USCC), "--supersedes", old]) == 0

        three = made("three")  # with a K of its own
        capsys.readouterr()
        assert main(["enrol", str(three), "--token", token(tmp_path, USCC)]) == 2
        assert "K" in capsys.readouterr().err
        assert tallystick("platform", "policy", platform_file(tmp_path)).stdout
    finally:
        for service in services:
            service.kill()
