from __future__ import annotations

import hashlib
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from protocols.errors import ConfigError, DeviceError
from protocols.opcua import pki
from tests.support.programs import need

NOW = datetime(2026, 9, 1, tzinfo=UTC)
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_KEY_OID = bytes.fromhex("06092a864886f70d010101")
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(uri: str | None = "urn:plc", *, start: datetime = NOW - timedelta(days=1), days: int = 30,
                key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = RSA_KEY) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PLC " + "x" * 60)])
    builder = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
               .serial_number(x509.random_serial_number()).not_valid_before(start)
               .not_valid_after(start + timedelta(days=days)))
    if uri is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def judged(blob: bytes, folder: Path, uri: str = "urn:plc") -> bytes:
    return pki.check_server_certificate(blob, uri, folder, where="hall", url="opc.tcp://plc:4840", now=NOW)


def refused(blob: bytes, folder: Path, uri: str = "urn:plc") -> tuple[str, dict[str, str]]:
    with pytest.raises(DeviceError) as error:
        judged(blob, folder, uri)
    (problem,) = error.value.problems
    assert problem.where == "hall"
    return problem.code, dict(problem.args)


def test_our_certificate_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = pki.own_certificate(tmp_path / "pki")
    assert pki.own_certificate(tmp_path / "pki") == first
    assert pki.own_certificate(tmp_path / "other").application_uri != first.application_uri
    assert stat.S_IMODE((tmp_path / "pki" / pki.OWN_KEY).stat().st_mode) == 0o600
    assert sorted(p.name for p in (tmp_path / "pki").iterdir()) == [pki.OWN_CERTIFICATE, pki.OWN_KEY]
    made = x509.load_der_x509_certificate(first.certificate)
    assert [a.oid for a in made.subject] == [NameOID.COMMON_NAME]
    assert made.subject.rfc4514_string().startswith("CN=Tallystick gateway ")
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(first.application_uri)], "no host, no person"


def test_connections_that_begin_at_once_share_one_certificate(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(pki.own_certificate, [tmp_path / "pki"] * 6))
    assert all(one == found[0] for one in found)
    assert sorted(path.name for path in (tmp_path / "pki").iterdir()) == [pki.OWN_CERTIFICATE, pki.OWN_KEY]


@pytest.mark.parametrize("damage", ["no key", "no certificate", "other key", "noise"])
def test_half_a_pair_stops_the_start_and_overwrites_nothing(tmp_path: Path, damage: str) -> None:
    pki.own_certificate(tmp_path)
    path = tmp_path / (pki.OWN_CERTIFICATE if damage in ("no certificate", "noise") else pki.OWN_KEY)
    if damage == "other key":
        path.write_bytes(RSA_KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                               serialization.NoEncryption()))
    elif damage == "noise":
        path.write_bytes(b"noise")
    else:
        path.unlink()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ConfigError) as error:
        pki.own_certificate(tmp_path)
    assert error.value.problems[0].code == "opcua.own_certificate"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_an_unknown_certificate_is_kept_for_a_person_and_trusted_when_moved(tmp_path: Path) -> None:
    blob = certificate()
    code, args = refused(blob, tmp_path)
    assert code == "opcua.untrusted_certificate"
    assert args["fingerprint"] == hashlib.sha256(blob).hexdigest()
    assert Path(args["file"]).read_bytes() == blob
    refused(blob, tmp_path)
    assert len(list((tmp_path / pki.REJECTED).iterdir())) == 1
    Path(args["file"]).rename(tmp_path / "press.der")
    assert judged(blob, tmp_path) == blob
    assert judged(blob + certificate("urn:issuer"), tmp_path) == blob, "a chain: its first"
    assert refused(certificate(), tmp_path)[0] == "opcua.untrusted_certificate", "same key and names, another one"


@pytest.mark.parametrize(("blob", "uri", "code"), [
    (certificate(days=1, start=NOW - timedelta(days=9)), "urn:plc", "opcua.certificate_expired"),
    (certificate(start=NOW + timedelta(days=3)), "urn:plc", "opcua.certificate_expired"),
    (certificate(), "urn:other", "opcua.certificate_uri"),
    (certificate(None), "urn:plc", "opcua.certificate_uri"),
])
def test_trust_does_not_cover_everything(blob: bytes, uri: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "plc.der").write_bytes(blob)
    assert refused(blob, tmp_path, uri)[0] == code


@pytest.mark.parametrize("blob", [
    b"", b"0", b"noise" * 100, certificate()[:-1], certificate(key=EC_KEY), b"\x30\x82\xff\xff" + bytes(70_000),
    certificate().replace(RSA_KEY_OID, RSA_KEY_OID[:-1] + b"\x63"),  # a kind of key that nobody knows
    certificate().replace(bytes.fromhex("0603551d11"), bytes.fromhex("0603551d13"))])  # names that are constraints
def test_what_is_no_usable_certificate_is_refused_and_not_kept(blob: bytes, tmp_path: Path) -> None:
    assert refused(blob, tmp_path)[0] == "opcua.bad_certificate"
    assert not (tmp_path / pki.REJECTED).exists()


def test_rejected_ones_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pki, "REJECTED_MAX", 3)
    for _ in range(5):
        refused(certificate(), tmp_path)
    assert len(list((tmp_path / pki.REJECTED).iterdir())) == 3


def test_files_that_are_no_certificates_trust_nobody(tmp_path: Path) -> None:
    blob = certificate()
    (tmp_path / "note.txt").write_bytes(blob)
    (tmp_path / "empty.der").write_bytes(b"")
    (tmp_path / "folder.der").mkdir()
    assert refused(blob, tmp_path)[0] == "opcua.untrusted_certificate"


def test_key_digest_is_the_one_openssl_computes(tmp_path: Path) -> None:
    need("openssl")
    (tmp_path / "plc.der").write_bytes(blob := certificate())
    pem = subprocess.run(["openssl", "x509", "-inform", "DER", "-in", tmp_path / "plc.der", "-pubkey", "-noout"],
                         check=True, capture_output=True).stdout
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=pem, check=True,
                         capture_output=True).stdout
    assert pki.server_spki_sha256(blob) == hashlib.sha256(der).hexdigest()
