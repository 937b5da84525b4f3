"""Levels as a person and a program read them: verify, count, audit and the report say the same, in both languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocols.evidence import jcs
from protocols.evidence.encoding import from_base64, to_base64
from tallystick.__main__ import main
from tests.support.plant_fixture import Plant, claim_text
from tests.support.schemas import validate
from verifier.conformance import servers
from verifier.conformance.world import USCC

LEVELS = {"devices": {"0": 2, "1": 1, "2": 1, "3": 0, "4": 0}, "behind_servers": 2, "servers": 1}


class Case:
    """Five devices, one of them silent: two count behind the press, one of these is attested."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plant = Plant(folder)
        self.plant.device(server=servers.server("press"), protocol="opc_ua", opened=True)
        self.plant.device(server=servers.server("press", via=0), protocol="opc_ua")
        self.plant.device(server=servers.server("lathe"), protocol="opc_ua")
        self.plant.device()
        self.plant.device(server=servers.server("press", via=0), protocol="opc_ua", silent=True)
        self.plant.begin()
        servers.seal_probe(self.plant.gateway)
        _, transcript = servers.seal_reads(self.plant.gateway)
        servers.attest(self.plant.world, self.plant.gateway, 0)
        self.plant.windows(2)
        self.plant.cosign()
        self.bundle = self.plant.write()
        self.policy = self.plant.policy()
        self.transcript = folder / "reads.json"
        self.transcript.write_bytes(jcs.encode(transcript))

    def json(self, capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> dict[str, Any]:
        assert main([*map(str, words), "--policy", str(self.policy), "--json"]) == code
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        validate(result, f"{words[0]}.schema.json")
        return result

    def text(self, capsys: pytest.CaptureFixture[str], lang: str, *words: str | Path, code: int = 0) -> str:
        assert main([*map(str, words), "--policy", str(self.policy), "--lang", lang]) == code
        return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_verify_says_levels_probes_and_reads(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    told = case.json(capsys, "verify", case.bundle)["summary"]["levels"]
    assert told["at_the_end"] == {
        "devices": {"0": 2, "1": 2, "2": 1, "3": 0, "4": 0}, "behind_servers": 3, "servers": 1}
    assert told["probes"] == {"valid": 1, "unanchored": 0, "unsupported": 0, "invalid": 0}
    assert (told["reads"]["rows"], told["reads"]["opened"]) == (4, 0)
    opened = case.json(capsys, "verify", case.bundle, "--also", case.transcript)["summary"]["levels"]["reads"]
    assert opened == {"entries": 1, "rows": 4, "answered": 4, "opened": 1, "opened_rows": 4, "opened_answered": 4,
                      "late": 0}
    assert "4 reads as drawn, 4 answered, 0 asked late" in case.text(
        capsys, "en", "verify", case.bundle, "--also", case.transcript)
    english = case.text(capsys, "en", "verify", case.bundle)
    for words in ("2 devices at 0 (the gateway's word), 2 at 1", "3 devices behind 1 server keys",
                  "possession, not place", "assessor's signed finding", "Probes: 1 hold",
                  "4 reads at drawn instants committed in 1 entries, 4 answered; 0 transcripts opened"):
        assert words in english, words
    chinese = case.text(capsys, "zh", "verify", case.bundle)
    for words in ("0 级（网关陈述）2 台", "3 台设备位于 1 个服务器密钥之后", "不证明所在位置", "4 级需要评估方"):
        assert words in chinese, words


def test_count_gives_figures_for_each_level_and_each_device(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    result = case.json(capsys, "count", case.bundle, "--at", "last")
    assert result["levels"] == LEVELS
    assert sum(LEVELS["devices"].values()) == result["figures"]["devices"]["counted"]  # type: ignore[attr-defined] # a plain dict of both kinds
    since_s, key = case.plant.gateway.now_s - 120, servers.server("press")["spki_sha256"]
    assert [(d["level"], d["server_since_s"], d["server_spki_sha256"], d["server_via"])
            for d in result["devices"]] == [
        (2, since_s, key, None), (1, since_s, key, 0), (0, None, None, None), (0, None, None, None),
        (1, since_s, key, 0)]
    english = case.text(capsys, "en", "count", case.bundle, "--at", "last", "--devices")
    for words in ("2 devices at 0", "1 at 1 (same server key since a date), 1 at 2", "2 devices behind 1 server keys",
                  f"level 2, same server key {key[:8]} since", f"level 1, through server {key[:8]}",
                  "level 0, the gateway's word"):
        assert words in english, words
    assert "2 台设备位于 1 个服务器密钥之后" in case.text(capsys, "zh", "count", case.bundle, "--at", "last")


def test_the_audit_and_its_report_show_levels(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    claim, report = case.folder / "claim.toml", case.folder / "report.html"
    claim.write_text(claim_text(case.plant.gateway.now_s, USCC))
    words = ("audit", claim, case.bundle, "--programme", "jiangsu_2019", "--type", "enterprise")
    result = case.json(capsys, *words, code=1)
    assert result["count"]["levels"]["devices"]["2"] == 1
    for lang, shown in (("en", ("2 devices behind 1 server keys", "level 2, same server key", "through server")),
                        ("zh", ("2 台设备位于 1 个服务器密钥之后", "2 级，服务器密钥", "经由服务器"))):
        text = case.text(capsys, lang, *words, "--report", report, code=1)
        page = report.read_text(encoding="utf-8")
        assert shown[0] in text
        assert [word for word in shown if word not in page] == []


def test_a_chain_lifts_a_device_to_level_3_on_the_command_line(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    chain = case.folder / "chain.json"
    chain.write_bytes(jcs.encode(servers.chain(case.plant.gateway, serial="press shop 0")))
    case.policy.write_bytes(case.plant.world.policy_json(maker_cas=[to_base64(servers.maker_ca())]))
    result = case.json(capsys, "count", case.bundle, "--at", "last", "--also", chain)
    assert result["levels"]["devices"] == {"0": 2, "1": 1, "2": 0, "3": 1, "4": 0}
    case.policy.write_bytes(case.plant.world.policy_json())
    result = case.json(capsys, "count", case.bundle, "--at", "last", "--also", chain)
    assert result["levels"] == LEVELS
    assert "chain.untrusted" in [f["code"] for f in result["bundles"][0]["findings"]]


def test_a_forged_transcript_is_refused_with_the_file_named(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    forged = json.loads(case.transcript.read_bytes())
    forged["rows"][0]["value"] = "99"
    case.transcript.write_bytes(jcs.encode(forged))
    result = case.json(capsys, "verify", case.bundle, "--also", case.transcript, code=1)
    assert [(f["step"], f["code"], f["where"]) for f in result["findings"]] == [(10, "reads.root", "also/reads.json")]
    assert result["summary"]["levels"]["at_the_end"] is None
    assert "Assurance levels" not in case.text(capsys, "en", "verify", case.bundle, "--also", case.transcript, code=1)


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def test_the_chain_command_makes_what_raises_a_device(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """The server's certificate as DER, two CAs in one PEM file."""
    told = servers.chain(case.plant.gateway, serial="press shop 0", through=("works", "line"))
    ders = [from_base64(text, where="") for text in told["certificates"]]
    (case.folder / "press.der").write_bytes(ders[0])
    (case.folder / "ca.pem").write_bytes(pem(ders[1]) + pem(ders[2]))
    made = case.folder / "chain.json"
    assert main(["chain", str(case.folder / "press.der"), str(case.folder / "ca.pem"), "--gateway",
                 case.plant.gateway.id, "-o", str(made)]) == 0
    assert told["spki_sha256"] in capsys.readouterr().out
    assert json.loads(made.read_bytes()) == told
    validate(told, "chain.schema.json")
    case.policy.write_bytes(case.plant.world.policy_json(maker_cas=[to_base64(servers.maker_ca())]))
    result = case.json(capsys, "count", case.bundle, "--at", "last", "--also", made)
    assert result["levels"]["devices"]["3"] == 1


def test_the_chain_command_refuses_all_that_is_wrong_at_once(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    told = servers.chain(case.plant.gateway, through=("line",))
    ders = [from_base64(text, where="") for text in told["certificates"]]
    names = []
    for name, data in (("leaf.der", ders[0]), ("line.der", ders[1]), ("no.der", b"no certificate"),
                       ("large.der", bytes(300_000))):
        (case.folder / name).write_bytes(data)
        names.append(str(case.folder / name))
    out = case.folder / "chain.json"
    assert main(["chain", *names, str(case.folder / "absent.der"), "--gateway", "press", "-o", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    for words in ("no.der", "large.der", "absent.der", "--gateway"):
        assert words in said.err, words
    gateway = case.plant.gateway.id
    assert main(["chain", names[1], names[0], "--gateway", gateway, "-o", str(out)]) == 2
    assert "certificate 0 is not signed by the one after it" in capsys.readouterr().err
    assert main(["chain", *names[:1] * 9, "--gateway", gateway, "-o", str(out)]) == 2
    assert not out.exists()


def test_what_a_supervisor_signs_on_the_command_line_raises_a_device(case: Case,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    key, signed = case.folder / "bureau.pem", case.folder / "attest.json"
    assert main(["sign", "key", "-o", str(key)]) == 0
    public = capsys.readouterr().out.strip()
    assert main(["sign", "attest", "--bundle", str(case.bundle), "--slot", "2", "--policy", str(case.policy), "--key",
                 str(key), "--yes", "-o", str(signed)]) == 0
    capsys.readouterr()
    gateway = case.plant.gateway
    case.plant.world.add({"type": "attest", "attestation": json.loads(signed.read_bytes())["statement"]})
    servers.seal_probe(gateway, "lathe")
    case.plant.windows(1)
    case.plant.cosign()
    bundle = case.plant.write("later.tally")
    case.policy.write_bytes(case.plant.world.policy_json(supervisors=[public]))
    result = case.json(capsys, "count", bundle, "--at", "last")
    assert [d["level"] for d in result["devices"]] == [1, 1, 2, 0, 1]  # the other supervisor is not known any more
    assert [f["code"] for f in result["bundles"][0]["findings"]] == ["register.unknown_signer"]
