"""`tallystick sign`: keys, what is shown before an attestation is signed, files that the platform takes, usage."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from protocols.evidence import keys, signed, statement
from protocols.evidence.bundle import write_bundle
from tallystick.__main__ import main
from verifier.conformance.world import World, device_row, key_of, point_row, private_part

SPKI = "5a" * 32
GATEWAY = "0123456789abcdef" * 2
DEMAND = ["--gateway", GATEWAY, "--slots", "3,7-9,7", "--hours", "2026-11-02T10:00,2026-11-01T23:00:00Z",
          "--deadline", "2026-12-01"]


@pytest.fixture(autouse=True)
def no_installed_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TALLYSTICK_POLICY", raising=False)
    monkeypatch.setattr("verifier.commands.POLICY_PLACES", (str(tmp_path / "installed.json"),))
    for name in ("LANG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def key(capsys: pytest.CaptureFixture[str]) -> str:
    """Make k.pem in the current folder; return its public half."""
    assert main(["sign", "key", "-o", "k.pem"]) == 0
    return capsys.readouterr().out.strip()


@pytest.fixture
def bundle() -> Path:
    """x.tally and policy.json: slot 0 owns a server key, slot 1 is behind it, 2 has none, 3 no tags, 4 is gone."""
    world = World()
    gateway = world.gateway()
    private = [private_part(f"machine {n}", maker="Maker", model="M", serial=f"S{n}") for n in range(5)]
    devices = [device_row(n, private=part) for n, part in enumerate(private)]
    devices[0]["server"] = {"spki_sha256": SPKI, "via": None}
    devices[1]["server"] = {"spki_sha256": SPKI, "via": 0}
    devices[3] |= {"server": {"spki_sha256": SPKI, "via": 0}, "tags": []}
    devices[4]["state"] = "gone"
    world.round()
    gateway.begin()
    gateway.roster(devices, [point_row(n, n, gateway.id) for n in range(4)])
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    write_bundle(Path("x.tally"), gateway.members() | {"openings/1.json": gateway.opening(1, private[1])})
    Path("policy.json").write_bytes(world.policy_json())
    return Path("x.tally")


def test_a_key_is_private_and_its_public_half_is_printed(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert Path("k.pem").stat().st_mode & 0o777 == 0o600
    assert keys.public_bytes(keys.load(Path("k.pem"))).hex() == key
    assert main(["sign", "key", "-o", "k.pem"]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert keys.public_bytes(keys.load(Path("k.pem"))).hex() == key


def test_a_key_under_a_passphrase(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pass").write_text("four words in a safe\n")
    assert main(["sign", "key", "-o", "k.pem", "--passphrase-file", "pass"]) == 0
    assert b"ENCRYPTED" in Path("k.pem").read_bytes()
    assert main(["sign", "demand", *DEMAND, "--key", "k.pem", "-o", "d.json"]) == 2
    assert main(["sign", "demand", *DEMAND, "--key", "k.pem", "-o", "d.json", "--passphrase-file", "pass"]) == 0
    Path("pass").write_text("\n")
    assert main(["sign", "demand", *DEMAND, "--key", "k.pem", "-o", "e.json", "--passphrase-file", "pass"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_demand_is_signed_as_it_was_typed(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", "demand", *DEMAND, "--key", "k.pem", "-o", "d.json"]) == 0
    said = statement.parse(Path("d.json").read_bytes(), where="t")
    signed.verify("demand", dict(said.value), signers=[key], where="t")
    assert said.value["slots"] == [3, 7, 8, 9] and said.gateway == GATEWAY
    assert said.value["hours"] == [1_793_574_000, 1_793_584_800]  # 23:00 UTC is before 10:00 in China of the next day
    assert said.value["deadline_s"] == 1_796_054_400
    assert capsys.readouterr().out == "d.json\n"


def test_an_announcement_demands_nothing(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", "demand", "--gateway", GATEWAY, "--announce", "2026-11-20T09:00", "--key", "k.pem",
                 "-o", "a.json"]) == 0
    said = statement.parse(Path("a.json").read_bytes(), where="a")
    assert said.kind == "demand" and {n: said.value[n] for n in ("gateway", "slots", "hours", "deadline_s")} == {
        "gateway": GATEWAY, "slots": [], "hours": [], "deadline_s": 1_795_136_400}
    assert "first independent co-signature after 2026-11-20 09:00:00+08:00" in capsys.readouterr().err


def test_a_revocation_is_signed_by_the_key_that_is_given(key: str) -> None:
    assert main(["sign", "revoke", "--gateway", GATEWAY, "--gateway-key", "ab" * 32, "--from-size", "7", "--key",
                 "k.pem", "-o", "r.json"]) == 0
    said = statement.parse(Path("r.json").read_bytes(), where="t")
    signed.verify("revocation", dict(said.value), signers=[key], where="t")
    assert (said.value["from_size"], said.value["gateway_key"]) == (7, "ab" * 32)


ATTEST = ["sign", "attest", "--bundle", "x.tally", "--policy", "policy.json", "--key", "k.pem", "-o", "a.json"]


def test_an_attestation_says_what_the_verified_row_says(key: str, bundle: Path, capsys: pytest.CaptureFixture[str]
                                                        ) -> None:
    assert main([*ATTEST, "--slot", "1", "--yes"]) == 0
    said = statement.parse(Path("a.json").read_bytes(), where="t")
    signed.verify("attestation", dict(said.value), signers=[key], where="t")
    row = next(json.loads(line) for line in _rows(bundle) if json.loads(line).get("slot") == 1)
    assert sorted(map(str, said.value["tags"])) == sorted(map(str, row["tags"])) and row["tags"]
    assert (said.value["kind"], said.value["server_spki_sha256"]) == (row["kind"], SPKI)
    shown = capsys.readouterr().err
    for part in (SPKI, "Maker", "S1", "belongs to the server at slot 0", row["tags"][0]["tag"]):
        assert part in shown, part


def test_a_device_that_is_not_open_is_said_to_be_so(key: str, bundle: Path, capsys: pytest.CaptureFixture[str]
                                                    ) -> None:
    assert main([*ATTEST, "--slot", "0", "--yes"]) == 0
    shown = capsys.readouterr().err
    assert "compare them with an opening" in shown and "Maker" not in shown


def _rows(bundle: Path) -> list[bytes]:
    import zipfile
    with zipfile.ZipFile(bundle) as archive:
        return archive.read(next(n for n in archive.namelist() if n.startswith("roster/"))).splitlines()


@pytest.mark.parametrize(("slot", "said"), [("2", "no server key"), ("3", "no identity tag"), ("4", "no living device"),
                                            ("5", "no living device"), ("-1", "no living device")])
def test_what_cannot_be_attested(key: str, bundle: Path, capsys: pytest.CaptureFixture[str], slot: str, said: str
                                 ) -> None:
    assert main([*ATTEST, "--slot", slot, "--yes"]) == 2
    assert said in capsys.readouterr().err and not Path("a.json").exists()


def test_nothing_is_signed_from_a_bundle_that_does_not_verify(key: str, bundle: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    other = World()
    Path("policy.json").write_bytes(other.policy_json().replace(keys.public_bytes(key_of("platform")).hex().encode(),
                                                                key.encode()))
    assert main([*ATTEST, "--slot", "0", "--yes"]) == 2
    assert "does not verify" in capsys.readouterr().err and not Path("a.json").exists()
    assert main([*ATTEST[:4], *ATTEST[6:], "--slot", "0", "--yes"]) == 2  # no policy at all


def test_without_a_person_nothing_is_signed(key: str, bundle: Path, capsys: pytest.CaptureFixture[str],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*ATTEST, "--slot", "0"]) == 2
    assert "--yes" in capsys.readouterr().err
    for answer, status in (("no\n", 2), ("", 2), ("yes\n", 0)):
        monkeypatch.setattr("sys.stdin", _Terminal(answer))
        assert main([*ATTEST, "--slot", "0"]) == status
        assert Path("a.json").exists() == (status == 0)


class _Terminal:
    def __init__(self, answer: str) -> None:
        self.answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.answer


@pytest.mark.parametrize(("arguments", "said"), [
    (["key"], ["--output"]),
    (["demand", "-o", "d"], ["--gateway", "--deadline", "--key", "neither a slot nor an hour"]),
    (["demand", *DEMAND, "--announce", "2026-11-20T09:00", "--key", "k.pem", "-o", "d"],
     ["--slots: does not go", "--hours: does not go", "--deadline: does not go"]),
    (["demand", "--gateway", GATEWAY, "--announce", "soon", "--key", "k.pem", "-o", "d"], ["soon is no time"]),
    (["revoke", "--announce", "2026-11-20T09:00", "-o", "d"], ["--announce"]),
    (["submit"], ["FILE", "--platform"]),
    (["key", "-o", "k2", "--slot", "3", "--platform", "x"], ["--slot", "--platform"]),
    (["demand", *DEMAND[:-1], "tomorrow", "--key", "k.pem", "-o", "d"], ["tomorrow is no time"]),
    (["demand", *DEMAND, "--hours", "2026-11-02T10:30", "--key", "k.pem", "-o", "d"], ["full hours"]),
    (["demand", *DEMAND, "--slots", "9-3", "--key", "k.pem", "-o", "d"], ["9-3"]),
    (["demand", *DEMAND, "--slots", "0-999999", "--key", "k.pem", "-o", "d"], ["at most"]),
    (["demand", *DEMAND, "--gateway", "ABC", "--key", "k.pem", "-o", "d"], ["32 lowercase hex"]),
    (["demand", *DEMAND, "--key", "none.pem", "-o", "d"], ["none.pem"]),
    (["revoke", "--gateway", GATEWAY, "--gateway-key", "ab" * 32, "--from-size", "-1", "--key", "k.pem", "-o", "d"],
     ["0 or more"]),
])
def test_wrong_usage_names_everything_at_once(key: str, capsys: pytest.CaptureFixture[str], arguments: list[str],
                                              said: list[str]) -> None:
    assert main(["sign", *arguments]) == 2
    told = capsys.readouterr().err
    assert all(part in told for part in said), told
    assert "Traceback" not in told and not Path("d").exists()


# submit

@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[bytes]]]:
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.path.encode() + b" " + self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/base/", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


REFUSED = {"code": "statements.deadline_past", "args": ["deadline_s=5"], "where": "deadline_s", "message": "over"}


@pytest.mark.parametrize(("status", "body", "exit_status", "said"), [
    (201, b'{"index": 41}', 0, "in the register, at 41"),
    (200, b'{"index": 41}', 0, "already, at 41"),
    (422, json.dumps(REFUSED).encode(), 1, "the deadline 5 is over already"),
    (500, json.dumps(REFUSED | {"code": "platform.storage", "args": ["reason=full"]}).encode(), 1, "full"),
    (200, b"<html>", 1, "no platform"),
    (201, b'{"index": 1.5}', 1, "no platform"),
    (404, b"nothing", 1, "no platform"),
    (302, b"", 1, "no platform"),
])
def test_answers_of_a_platform(key: str, capsys: pytest.CaptureFixture[str], status: int, body: bytes,
                               exit_status: int, said: str) -> None:
    assert main(["sign", "demand", *DEMAND, "--key", "k.pem", "-o", "d.json"]) == 0
    capsys.readouterr()
    with answering(status, body) as (url, got):
        assert main(["sign", "submit", "d.json", "--platform", url]) == exit_status
    out, err = capsys.readouterr()
    assert said in err and "Traceback" not in err
    assert out == ("41\n" if exit_status == 0 else "")
    assert got == [b"/base/v1/statements " + Path("d.json").read_bytes()]


@pytest.mark.parametrize(("url", "status"), [("http://127.0.0.1:1", 1), ("file:///etc/passwd", 2), ("ftp://x", 2),
                                             ("http://127.0.0.1:99999", 2), ("platform", 2)])
def test_nobody_there(key: str, capsys: pytest.CaptureFixture[str], url: str, status: int) -> None:
    assert main(["sign", "demand", *DEMAND, "--key", "k.pem", "-o", "d.json"]) == 0
    assert main(["sign", "submit", "d.json", "--platform", url]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_no_statement_is_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    for data in (b"", b"{}", b'{"type": "tallystick/demand/v1"}', b"x" * 100_000):
        Path("d.json").write_bytes(data)
        with answering(201, b'{"index": 1}') as (url, got):
            assert main(["sign", "submit", "d.json", "--platform", url]) == 2
        assert got == [] and "Traceback" not in capsys.readouterr().err
