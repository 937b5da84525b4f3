"""Platform, witnesses and a scripted gateway over real sockets: co-signed proofs, power cuts, hostile requests."""

from __future__ import annotations

import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from protocols import exchange
from protocols.evidence import merkle, note, policy, proof, register
from protocols.evidence.checkpoint import parse_text
from protocols.evidence.shape import problems
from tests.support.platform_process import (
    Running,
    platform_file,
    running,
    set_up,
    start_platform,
    tallystick,
    token,
)
from tests.support.processes import keep_port
from tests.support.scripted_gateway import USCC, ScriptedGateway, bits, device_row, key_of, point_row

DEADLINE_S = 60.0


def call(url: str, method: str, path: str, body: Any = None, *, context: ssl.SSLContext | None = None
         ) -> tuple[int, Any]:
    """Make one request; a JSON answer is parsed."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = HTTPConnection(parts.hostname, parts.port, timeout=DEADLINE_S) if context is None else \
        HTTPSConnection(parts.hostname, parts.port, timeout=DEADLINE_S, context=context)
    try:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, body=data)
        response = connection.getresponse()
        answer = response.read()
        kind = response.getheader("Content-Type") or ""
        return response.status, json.loads(answer) if kind.startswith("application/json") else answer
    finally:
        connection.close()


def enrol(url: str, folder: Path, name: str = "one") -> ScriptedGateway:
    gateway = ScriptedGateway(name=name)
    status, answer = call(url, "POST", "/v1/enrol", gateway.enrol_request(token(folder, USCC)))
    assert status == 201, answer
    assert problems(exchange.ENROL_ANSWER, answer, where="t") == []
    gateway.begin(answer["certificate"])
    return gateway


def submit(url: str, gateway: ScriptedGateway) -> dict[str, Any]:
    status, answer = call(url, "POST", f"/v1/gateways/{gateway.id}/entries", gateway.batch())
    assert status == 200, answer
    assert problems(exchange.SUBMIT_ANSWER, answer, where="t") == []
    gateway.sent = answer["size"]
    return dict(answer)


def wait_for_head(url: str, gateway: ScriptedGateway, size: int) -> dict[str, Any]:
    """Ask until the newest co-signed head has `size`; return REGISTER_ANSWER."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        status, answer = call(url, "GET", f"/v1/gateways/{gateway.id}/register")
        assert status == 200, answer
        assert problems(exchange.REGISTER_ANSWER, answer, where="t") == []
        if answer["proofs"]:
            entry = register.decode(proof.parse(answer["proofs"][-1].encode(), where="t").extra, where="t")
            if entry["type"] == "head" and entry["size"] >= size:
                return dict(answer)
        assert time.monotonic() < deadline, "the head was not co-signed"
        time.sleep(0.05)


def verify_under(checker: policy.Policy, text: str) -> dict[str, Any]:
    """Verify one register proof as an auditor does, and return its entry."""
    found = proof.parse(text.encode(), where="t")
    signed = note.parse(found.checkpoint, where="t")
    assert checker.register is not None
    note.require_signed(signed, checker.register, where="t")
    cosigned = note.cosignatures(signed, checker.quorum.witnesses.values(), where="t")
    assert checker.quorum.holds({c.public for c in cosigned})
    head = parse_text(signed.text, where="t")
    merkle.verify_inclusion(leaf=merkle.leaf_hash(found.extra), index=found.index, size=head.size,
                            proof=found.hashes, root=head.root, where="t")
    return register.decode(found.extra, where="t")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Running]]:
    """One platform with two witnesses for the tests that do not break it."""
    folder = tmp_path_factory.mktemp("place")
    witnesses = set_up(folder, witnesses=2)
    platform = start_platform(folder)
    yield folder, platform
    statuses = [service.end() for service in (platform, *witnesses)]
    assert statuses == [0, 0, 0], (folder / "platform.log").read_text()
    log = (folder / "platform.log").read_text()
    assert "Traceback" not in log and "ERROR" not in log, log


def test_enrol_submit_and_verify_under_the_printed_policy(place: tuple[Path, Running]) -> None:
    folder, platform = place
    gateway = enrol(platform.url, folder)
    for _ in range(3):
        gateway.window(producing=bits(0, 1), connected=bits(0, 1))
        submit(platform.url, gateway)
    answer = wait_for_head(platform.url, gateway, len(gateway.entries))
    checker = policy.parse(tallystick("platform", "policy", platform_file(folder)).stdout.encode(), where="policy")
    assert len(checker.quorum.witnesses) == 2 and len(checker.independent) == 2
    entries = [verify_under(checker, text) for text in answer["proofs"]]
    assert entries[0]["type"] == "enrol" and entries[-1]["root"] == gateway.tree.root().hex()
    again = submit(platform.url, gateway) if gateway.window(producing=0) else {}
    assert verify_under(checker, again["proof"])["gateway"] == gateway.id


def test_a_bundle_with_the_platforms_proofs_is_valid_offline(place: tuple[Path, Running], tmp_path: Path) -> None:
    """The proofs that the platform hands out satisfy the verifier, which was written apart from it."""
    folder, platform = place
    gateway = enrol(platform.url, folder, "offline")
    for _ in range(4):
        gateway.window(producing=bits(0, 1), connected=bits(0, 1))
    gateway.outage(2)
    gateway.roster([device_row(1, state="gone"), device_row(2, replaces=1)],
                   [point_row(2, 1, gateway.id, state="gone"), point_row(3, 1, gateway.id, state="gone"),
                    point_row(4, 2, gateway.id)])
    gateway.window(producing=bits(0, 4))
    gateway.rotate()
    gateway.window()
    submit(platform.url, gateway)
    answer = wait_for_head(platform.url, gateway, len(gateway.entries))
    tallystick("platform", "policy", platform_file(folder), "-o", tmp_path / "policy.json")
    bundle = gateway.write_bundle(tmp_path / "x.tally", proofs=answer["proofs"])
    done = tallystick("verify", bundle, "--policy", tmp_path / "policy.json", "--json", check=False)
    verdict = json.loads(done.stdout)
    assert (done.returncode, verdict["verdict"], verdict["summary"]["trust"]) == (0, "valid", "independent"), verdict


def test_mirror_serves_the_same_log(place: tuple[Path, Running]) -> None:
    folder, platform = place
    gateway = enrol(platform.url, folder, "mirror")
    for _ in range(300):
        gateway.window()
    submit(platform.url, gateway)
    base = f"/g/{gateway.id}"
    status, signed = call(platform.url, "GET", f"{base}/checkpoint")
    assert (status, signed.decode()) == (200, gateway.checkpoint())
    for level in ("0", "1"):
        for path in ("000", "001", f"001.p/{303 - 256}", "000.p/1", "002"):
            status, _ = call(platform.url, "GET", f"{base}/tile/{level}/{path}")
            there = (level, path) in {("0", "000"), ("0", f"001.p/{303 - 256}"), ("1", "000.p/1")}
            assert (status == 200) == there, (level, path, status)
    for path in ("tile/0/../../checkpoint", "tile/0/%2e%2e", "tile/00/000", "tile/0/0", "tile/entries/001.p/999"):
        assert call(platform.url, "GET", f"{base}/{path}")[0] == 404
    assert call(platform.url, "GET", "/register/checkpoint")[0] == 200
    status, tail = call(platform.url, "GET", f"/v1/gateways/{gateway.id}/entries?first=290")
    assert problems(exchange.TAIL_ANSWER, tail, where="t") == []
    assert [e.encode() for e in tail["entries"]] == gateway.entries[290:]
    status, size = call(platform.url, "GET", f"/v1/gateways/{gateway.id}/size")
    assert problems(exchange.SIZE_ANSWER, size, where="t") == [] and size["root"] == gateway.tree.root().hex()


def test_conflict_and_refusal_bodies_are_as_told(place: tuple[Path, Running]) -> None:
    folder, platform = place
    gateway = enrol(platform.url, folder, "bodies")
    submit(platform.url, gateway)
    gateway.window()
    status, answer = call(platform.url, "POST", f"/v1/gateways/{gateway.id}/entries", gateway.batch(first=1))
    assert status == 409 and problems(exchange.SIZE_ANSWER, answer, where="t") == [] and answer["size"] == 3
    status, answer = call(platform.url, "POST", f"/v1/gateways/{gateway.id}/entries",
                          gateway.batch(checkpoint=gateway.checkpoint(key=key_of("stranger"))))
    assert status == 403 and problems(exchange.REFUSAL, answer, where="t") == []
    assert answer["code"] == "note.unsigned"
    status, answer = call(platform.url, "POST", "/v1/enrol", ScriptedGateway(name="x").enrol_request("guess"))
    assert (status, answer["code"]) == (403, "platform.token_unknown")
    assert "token" in answer["message"]


HOSTILE: dict[str, tuple[bytes, int]] = {
    "no JSON": (b"hello", 400),
    "not UTF-8": (b"\xff\xfe{}", 400),
    "empty": (b"", 400),
    "nested": (b"[" * 200_000, 400),
    "nested and closed": (b"[" * 50_000 + b"]" * 50_000, 400),
    "many objects": (b"[" + b"{}," * 2_000_000 + b"{}]", 400),
    "many strings": (b"[" + b'"",' * 100_000 + b'""]', 400),
    "an open string": (b'{"first": "' + b"x" * 100_000, 400),
    "a fraction": (b'{"first": 0.5}', 400),
    "a huge number": (b'{"first": ' + b"9" * 5000 + b"}", 400),
    "doubled key": (b'{"first": 0, "first": 1}', 400),
    "NaN": (b'{"first": NaN}', 400),
    "no object": (b"[]", 400),
    "null": (b"null", 400),
    "wrong types": (b'{"first": "0", "entries": 5, "checkpoint": null, "rosters": {}}', 400),
    "negative": (b'{"first": -1, "entries": [], "checkpoint": "", "rosters": []}', 400),
    "empty checkpoint": (b'{"first": 0, "entries": [], "checkpoint": "", "rosters": []}', 422),
    "lone surrogate": (b'{"first": 0, "entries": ["\\ud800"], "checkpoint": "", "rosters": []}', 400),
    "surrogate rows": (b'{"first": 0, "entries": [], "checkpoint": "", "rosters": [{"seq": 0, "rows": "\\udfff"}]}',
                       400),
    "entry of nothing": (b'{"first": 0, "entries": [""], "checkpoint": "x", "rosters": []}', 422),
    "deep key": (b'{"first": 0, "entries": [], "checkpoint": "", "rosters": [], "' + b"k" * 10_000 + b'": 1}', 400),
}


@pytest.mark.parametrize(("body", "expected"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_body_is_refused(place: tuple[Path, Running], body: bytes, expected: int) -> None:
    folder, platform = place
    gateway = ScriptedGateway(name="hostile")
    if call(platform.url, "GET", f"/v1/gateways/{gateway.id}/size")[0] == 404:
        gateway = enrol(platform.url, folder, "hostile")
    for path in (f"/v1/gateways/{gateway.id}/entries", "/v1/enrol"):
        status, answer = call(platform.url, "POST", path, body)
        assert problems(exchange.REFUSAL, answer, where="t") == [], answer
        assert status in ((expected,) if "entries" in path else (400, 413)), answer
    assert call(platform.url, "GET", "/healthz") == (200, {"ok": True})


def raw(url: str, data: bytes, *, then_close: bool = False) -> bytes:
    """Send bytes as they are and return what comes back, until there is a head, the end, or silence."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=DEADLINE_S) as connection:
        connection.sendall(data)
        if then_close:
            return b""
        answer = b""
        while b"\r\n\r\n" not in answer:
            try:
                more = connection.recv(65_536)
            except TimeoutError:
                break
            if not more:
                break
            answer += more
        return answer


def test_hostile_http_is_refused(place: tuple[Path, Running]) -> None:
    _, platform = place
    head = b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\n"
    cases = {
        b" 413 ": head + b"Content-Length: 99999999999\r\n\r\n",
        b" 400 ": head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    }
    for expected, data in cases.items():
        assert expected in raw(platform.url, data).split(b"\r\n")[0], data
    compressed = raw(platform.url, head + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
    assert b" 400 " in compressed.split(b"\r\n")[0]
    for data in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                 b"GET " + b"/" * 20_000 + b" HTTP/1.1\r\n\r\n", head + b"Content-Length: -5\r\n\r\n",
                 head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde"):
        first = raw(platform.url, data).split(b"\r\n")[0]
        assert b" 500 " not in first and b" 200 " not in first, (data, first)
    for _ in range(20):
        raw(platform.url, head + b"Content-Length: 1000\r\n\r\n{", then_close=True)
    for method, path, expected_status in (("GET", "/v1/enrol", 405), ("POST", "/", 405), ("GET", "/nothing", 404),
                                          ("GET", "/v1/gateways/zz/size", 404), ("DELETE", "/healthz", 405),
                                          ("GET", f"/v1/gateways/{'0' * 32}/size", 404)):
        status, answer = call(platform.url, method, path)
        assert status == expected_status and problems(exchange.REFUSAL, answer, where="t") == []
    assert call(platform.url, "GET", "/healthz")[0] == 200


def test_page_in_both_languages_has_no_outside_resource(place: tuple[Path, Running]) -> None:
    folder, platform = place
    gateway = ScriptedGateway(name="page", site="<script>alert(1)</script>")
    status, answer = call(platform.url, "POST", "/v1/enrol", gateway.enrol_request(token(folder, USCC)))
    assert status == 201
    gateway.begin(answer["certificate"])
    gateway.window(producing=bits(0, 1), connected=bits(0, 1))
    submit(platform.url, gateway)
    for query, word in (("", "计入设备"), ("?lang=en", "Devices counted"), ("?lang=%3Cx", "计入设备")):
        status, text = call(platform.url, "GET", f"/{query}")
        page = text.decode()
        assert status == 200 and word in page and "<script" not in page and "&lt;script&gt;" in page
        assert "http://" not in page and "https://" not in page and "+08:00" in page
    parts = urlsplit(platform.url)
    connection = HTTPConnection(parts.hostname or "", parts.port)
    connection.request("GET", "/")
    policy_header = connection.getresponse().getheader("Content-Security-Policy") or ""
    connection.close()
    assert "default-src 'none'" in policy_header and "unsafe" not in policy_header


def test_witness_over_http(place: tuple[Path, Running], tmp_path: Path) -> None:
    """Status codes and media types on the wire; the rule itself is a table of its own."""
    tallystick("witness", "init", tmp_path / "w", "--name", "w", "--listen", "127.0.0.1:0")
    with running(tmp_path / "w.log", "witness", tmp_path / "w" / "witness.toml") as witness:
        assert call(witness.url, "POST", "/add-checkpoint", b"old x\n\n")[0] == 400
        assert call(witness.url, "POST", "/add-checkpoint", b"x" * 200_000)[0] == 400
        _, platform = place
        signed = call(platform.url, "GET", "/register/checkpoint")[1]
        assert call(witness.url, "POST", "/add-checkpoint", b"old 0\n\n" + signed)[0] == 404
        assert call(witness.url, "GET", f"/{'0' * 64}/checkpoint")[0] == 404
        assert call(witness.url, "GET", "/healthz")[0] == 200
        assert tallystick("witness", tmp_path / "w" / "witness.toml", check=False).returncode == 1, "one at a time"
        assert witness.end() == 0


def test_nothing_acknowledged_is_lost_by_a_power_cut(tmp_path: Path) -> None:
    """Kill the platform in the middle of requests, again and again; the witness keeps co-signing one register."""
    rng = random.Random(7)
    witnesses = set_up(tmp_path, interval_s=0.1)
    platform = start_platform(tmp_path)
    try:
        gateway = enrol(platform.url, tmp_path)
        for _ in range(4):
            killer = threading.Timer(rng.uniform(0.05, 0.5), platform.process.kill)
            killer.start()
            try:
                while True:
                    for _ in range(rng.randrange(1, 60)):
                        gateway.window(producing=bits(0, 1))
                    submit(platform.url, gateway)
            except (OSError, HTTPException):
                pass  # the cut, at any byte of an answer
            killer.join()
            platform.kill()
            acknowledged = gateway.sent
            platform = start_platform(tmp_path)
            status, held = call(platform.url, "GET", f"/v1/gateways/{gateway.id}/size")
            assert status == 200 and held["size"] >= acknowledged, "an acknowledged batch was lost"
            assert held["root"] == gateway.tree.root(held["size"]).hex()
            gateway.sent = held["size"]
            if gateway.sent < len(gateway.entries):
                submit(platform.url, gateway)
        answer = wait_for_head(platform.url, gateway, len(gateway.entries))
        checker = policy.parse(tallystick("platform", "policy", platform_file(tmp_path)).stdout.encode(), where="p")
        assert [verify_under(checker, text)["type"] for text in answer["proofs"]] == ["enrol", "head"]
        assert platform.end() == 0
    finally:
        for service in (platform, *witnesses):
            service.kill()


def test_a_dead_witness_does_not_stop_intake_and_is_asked_again(tmp_path: Path) -> None:
    witnesses = set_up(tmp_path)
    platform = start_platform(tmp_path)
    try:
        gateway = enrol(platform.url, tmp_path)
        witnesses[0].kill()
        port = keep_port(int(witnesses[0].url.rpartition(":")[2]))  # nobody else may be given it meanwhile
        gateway.window()
        assert submit(platform.url, gateway)["size"] == 4
        file = tmp_path / "w0.example" / "witness.toml"
        file.write_text(file.read_text().replace("port = 0", f"port = {port}"))
        witnesses.append(Running(tmp_path / "again.log", "witness", file))
        wait_for_head(platform.url, gateway, 4)
    finally:
        for service in (platform, *witnesses):
            service.kill()


def test_import_and_revoke_reach_a_running_platform_and_a_stopped_one(tmp_path: Path) -> None:
    set_up(tmp_path, witnesses=0)
    file = platform_file(tmp_path)
    platform = start_platform(tmp_path)
    try:
        gateway = enrol(platform.url, tmp_path)
        gateway.window()
        bundle = gateway.write_bundle(tmp_path / "a.tally")
        done = tallystick("import", bundle, "--platform", file)
        assert json.loads(done.stdout) == {"gateway": gateway.id, "before": 0, "size": 4}
        (tmp_path / "cut.tally").write_bytes(bundle.read_bytes()[:500])
        broken = tallystick("import", tmp_path / "cut.tally", "--platform", file, check=False)
        assert broken.returncode == 1 and "Traceback" not in broken.stderr and "error" in broken.stderr
        assert platform.end() == 0
        gateway.window()
        done = tallystick("import", gateway.write_bundle(tmp_path / "b.tally"), "--platform", file)
        assert json.loads(done.stdout)["size"] == 5
        done = tallystick("platform", "revoke", file, "--gateway", gateway.id, "--from-size", "5")
        assert json.loads(done.stdout)["index"] == 2
        gateway.window()
        done = tallystick("import", gateway.write_bundle(tmp_path / "c.tally"), "--platform", file, check=False)
        assert done.returncode == 1 and "revoked" in done.stderr
        assert not list((tmp_path / "platform" / "platform-data").glob("import-*"))
    finally:
        platform.kill()


def _certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "platform")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True).sign(key, hashes.SHA256()))
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def test_https_with_an_own_certificate_authority(tmp_path: Path) -> None:
    set_up(tmp_path, witnesses=0)
    file = platform_file(tmp_path)
    _certificate(file.parent)
    file.write_text(file.read_text().replace('# cert_file = "platform.crt"', 'cert_file = "tls.crt"')
                    .replace('# key_file = "platform.tls.key"', 'key_file = "tls.key"'))
    with running(tmp_path / "p.log", "platform", file) as platform:
        assert platform.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(file.parent / "tls.crt"))
        assert call(platform.url, "GET", "/healthz", context=context) == (200, {"ok": True})
        with pytest.raises(ssl.SSLCertVerificationError):
            call(platform.url, "GET", "/healthz", context=ssl.create_default_context())


def test_a_slow_client_is_let_go_and_a_greedy_one_slowed(tmp_path: Path) -> None:
    set_up(tmp_path, witnesses=0)
    file = platform_file(tmp_path)
    file.write_text(file.read_text().replace("body_timeout_s = 120.0", "body_timeout_s = 1.0")
                    .replace("requests_per_s = 10000.0", "requests_per_s = 0.1")
                    .replace("requests_burst = 100000", "requests_burst = 30"))
    with running(tmp_path / "p.log", "platform", file) as platform:
        slow = raw(platform.url, b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert b" 400 " in slow.split(b"\r\n")[0]
        statuses = {call(platform.url, "GET", "/healthz")[0] for _ in range(60)}
        assert statuses == {200, 429}


def test_commands_tell_every_problem_of_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "platform.toml"
    file.write_text('[platform]\norigin = "a b"\ncolour = 1\n[listen]\nport = 99999\n[[witnesses]]\nurl = 5\n')
    done = tallystick("platform", file, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for place_ in ("platform.origin", "platform.colour", "listen.port", "witnesses[0].vkey", "witnesses[0].url"):
        assert place_ in done.stderr, place_
    file.write_text('[platform]\norigin = "a"\nquorum = "3"\n[listen]\nhost = "0.0.0.0"\n'
                    '[[witnesses]]\nvkey = "x+1+y"\nurl = "http://far.example"\n')
    done = tallystick("--lang", "zh", "platform", file, check=False)
    assert done.returncode == 2 and done.stderr.count("错误") == 4, done.stderr
    done = tallystick("platform", "token", file, "--uscc", "1", check=False)
    assert done.returncode == 2
    done = tallystick("platform", "init", tmp_path, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr, "nothing is overwritten"
