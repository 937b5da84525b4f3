"""Chains of certificates from a small authority made here, against the stores on disk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from gateway.commissioning.trust import add, approve, certificates
from protocols.errors import ConfigError, DeviceError
from protocols.opcua import pki, trustlist

NOW = datetime(2026, 9, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DER = serialization.Encoding.DER
KEYS = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(4)]


@dataclass
class Party:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(DER)


def issue(name: str, key: int, issuer: Party | None = None, *, ca: bool = False, days: int = 30, serial: int = 7,
          path_length: int | None = None) -> Party:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (x509.CertificateBuilder().subject_name(subject)
               .issuer_name(issuer.certificate.subject if issuer else subject).public_key(KEYS[key].public_key())
               .serial_number(serial).not_valid_before(NOW - DAY)
               .not_valid_after(NOW - DAY + days * DAY - timedelta(seconds=1))
               .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
               .add_extension(x509.KeyUsage(
                   digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
                   key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False),
                   critical=True)
               .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:plc")]), critical=False))
    return Party(builder.sign(issuer.key if issuer else KEYS[key], hashes.SHA256()), KEYS[key])


def revocations(by: Party, *serials: int, start: datetime = NOW - DAY, days: int = 10,
                key: rsa.RSAPrivateKey | None = None) -> bytes:
    builder = (x509.CertificateRevocationListBuilder().issuer_name(by.certificate.subject).last_update(start)
               .next_update(start + days * DAY))
    for serial in serials:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start).build())
    return builder.sign(key or by.key, hashes.SHA256()).public_bytes(DER)


ROOT = issue("Plant root", 0, ca=True)
MIDDLE = issue("Plant line 1", 1, ROOT, ca=True)
PLC = issue("PLC", 2, MIDDLE)
PLC_OF_ROOT = issue("PLC", 2, ROOT)


def put(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def verdict(folder: Path, *blob: Party) -> str:
    try:
        leaf = pki.check_server_certificate(b"".join(p.der for p in blob), "urn:plc", folder, where="hall",
                                            url="opc.tcp://plc:4840", now=NOW)
    except DeviceError as error:
        return error.problems[0].code
    assert leaf == blob[0].der
    return "trusted"


def test_an_authority_with_a_list_in_force_vouches_for_what_it_issued(tmp_path: Path) -> None:
    assert verdict(tmp_path, PLC_OF_ROOT) == "opcua.untrusted_certificate"
    put(tmp_path, "root.der", ROOT.der)
    assert verdict(tmp_path, PLC_OF_ROOT) == "opcua.revocation_unknown"
    put(tmp_path, "issuers/root.crl", revocations(ROOT, 99))
    assert verdict(tmp_path, PLC_OF_ROOT) == "trusted"
    put(tmp_path, "issuers/root.crl", revocations(ROOT, 7))
    assert verdict(tmp_path, PLC_OF_ROOT) == "opcua.certificate_revoked"


@pytest.mark.parametrize("content", [
    pytest.param(revocations(ROOT, start=NOW - 30 * DAY), id="out of date"),
    pytest.param(revocations(ROOT, start=NOW + DAY), id="of tomorrow"),
    pytest.param(revocations(ROOT, key=KEYS[3]), id="signed by another"),
    pytest.param(revocations(MIDDLE), id="of another authority"),
    pytest.param(b"no list", id="no list")])
def test_a_list_that_does_not_hold_says_nothing(content: bytes, tmp_path: Path) -> None:
    put(tmp_path, "root.der", ROOT.der)
    put(tmp_path, "root.crl", content)
    assert verdict(tmp_path, PLC_OF_ROOT) == "opcua.revocation_unknown"


@pytest.mark.parametrize("place", ["issuers", "sent"])
def test_a_chain_is_completed_from_the_issuers_or_by_the_server(place: str, tmp_path: Path) -> None:
    put(tmp_path, "root.der", ROOT.der)
    put(tmp_path, "root.crl", revocations(ROOT))
    put(tmp_path, "middle.crl", revocations(MIDDLE))
    assert verdict(tmp_path, PLC) == "opcua.untrusted_certificate", "nobody knows who issued it"
    if place == "issuers":
        put(tmp_path, "issuers/middle.der", MIDDLE.der)
        assert verdict(tmp_path, PLC) == "trusted"
    else:
        assert verdict(tmp_path, PLC, MIDDLE) == "trusted"
    put(tmp_path, "root.crl", revocations(ROOT, 7))
    assert verdict(tmp_path, PLC, MIDDLE) == "opcua.certificate_revoked", "the authority between was revoked"


def test_an_issuer_alone_is_not_trusted(tmp_path: Path) -> None:
    put(tmp_path, "issuers/root.der", ROOT.der)
    put(tmp_path, "root.crl", revocations(ROOT))
    assert verdict(tmp_path, PLC_OF_ROOT) == "opcua.untrusted_certificate"
    assert verdict(tmp_path, PLC_OF_ROOT, ROOT) == "opcua.untrusted_certificate"


@pytest.mark.parametrize("authority", [
    pytest.param(issue("Plant root", 0), id="not an authority"),
    pytest.param(issue("Plant root", 3, ca=True), id="another key of the same name"),
    pytest.param(issue("Plant root", 0, ca=True, days=1), id="expired"),
])
def test_who_did_not_or_may_not_issue_it_does_not_help(authority: Party, tmp_path: Path) -> None:
    put(tmp_path, "root.der", authority.der)
    put(tmp_path, "root.crl", revocations(authority))
    assert verdict(tmp_path, PLC_OF_ROOT) == "opcua.untrusted_certificate"


def test_a_path_longer_than_the_authority_allows(tmp_path: Path) -> None:
    short = issue("Plant root", 0, ca=True, path_length=0)
    put(tmp_path, "root.der", short.der)
    for party, name in ((short, "root"), (MIDDLE, "middle")):
        put(tmp_path, f"{name}.crl", revocations(party))
    assert verdict(tmp_path, PLC_OF_ROOT) == "trusted"
    assert verdict(tmp_path, PLC, MIDDLE) == "opcua.untrusted_certificate"


def test_what_a_person_approved_needs_no_list_but_heeds_one(tmp_path: Path) -> None:
    put(tmp_path, "plc.der", PLC_OF_ROOT.der)
    assert verdict(tmp_path, PLC_OF_ROOT) == "trusted"
    put(tmp_path, "issuers/root.der", ROOT.der)
    put(tmp_path, "issuers/root.crl", revocations(ROOT, 7))
    assert verdict(tmp_path, PLC_OF_ROOT) == "opcua.certificate_revoked"


def test_the_command_puts_files_in_and_approves(tmp_path: Path) -> None:
    folder, source = tmp_path / "trust", tmp_path / "given"
    folders = {folder: ("hall",)}
    assert verdict(folder, PLC) == "opcua.untrusted_certificate"
    assert verdict(folder, PLC_OF_ROOT) == "opcua.untrusted_certificate"
    assert {c.state for c in certificates(folders)} == {"refused"}
    source.write_bytes(MIDDLE.certificate.public_bytes(serialization.Encoding.PEM))
    add(folders, source, is_issuer=True)
    source.write_bytes(ROOT.der)
    add(folders, source, is_issuer=False)
    for party in (ROOT, MIDDLE):
        source.write_bytes(revocations(party))
        add(folders, source, is_issuer=False)
    assert verdict(folder, PLC) == "trusted"
    states = [(c.state, c.authority) for c in certificates(folders)]
    assert states == [("refused", False)] * 2 + [("trusted", True), ("issuer", True)]
    source.write_bytes(revocations(ROOT, start=NOW - 3 * DAY))
    with pytest.raises(ConfigError, match=r"opcua\.old_list"):
        add(folders, source, is_issuer=False)
    source.write_bytes(PLC.der)
    with pytest.raises(ConfigError, match=r"opcua\.no_authority"):
        add(folders, source, is_issuer=True)
    source.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"opcua\.trust_file"):
        add(folders, source, is_issuer=False)
    approved = approve(folders, certificates(folders)[0].fingerprint, "trust")
    assert approved.path.parent.name == trustlist.REJECTED
    assert not approved.path.exists()
    assert [c.state for c in certificates(folders)].count("refused") == 1
