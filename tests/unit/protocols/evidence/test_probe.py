"""Signatures of servers are checked as OPC UA says, and a probe certificate names the gateway and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from asyncua.crypto import uacrypto as _uacrypto
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import VerificationError
from protocols.evidence import keys, probe
from protocols.evidence.probe import certificate_name, make_certificate, probe_certificate_holds, verify_signature
from verifier.conformance.servers import AES128, AES256, BASIC, answer, client_certificate, rsa_key, spki
from verifier.conformance.world import public

uacrypto: Any = _uacrypto  # untyped: the oracle, a library that is not ours
GATEWAY = keys.gateway_id(public("gateway"))
C = bytes(range(32))
FROM, TO = datetime(2026, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)


def presented() -> bytes:
    """Return what the gateway probes with; the keys are made when they are wanted, for that takes a while."""
    return client_certificate(GATEWAY)


def check(signature: bytes, **changes: Any) -> None:
    verify_signature(**{"policy_uri": BASIC, "server_spki": spki("press"), "client_certificate": presented(), "c": C,
                        "signature": signature, "where": "entry/7"} | changes)


@pytest.mark.parametrize("policy_uri", [BASIC, AES128, AES256])
def test_what_another_library_signs_verifies(policy_uri: str) -> None:
    sign = uacrypto.sign_pss_sha256 if policy_uri == AES256 else uacrypto.sign_sha256
    check(sign(rsa_key("press"), presented() + C), policy_uri=policy_uri)
    check(answer("press", presented() + C, policy_uri), policy_uri=policy_uri)


@pytest.mark.parametrize("policy_uri", [BASIC, AES256])
def test_what_our_servers_sign_another_library_verifies(policy_uri: str) -> None:
    verify = uacrypto.verify_pss_sha256 if policy_uri == AES256 else uacrypto.verify_sha256
    certificate = x509.load_der_x509_certificate(make_certificate(
        GATEWAY, rsa_key("press"), not_before=FROM, not_after=TO, serial=1))
    verify(certificate, b"message", answer("press", b"message", policy_uri))


@pytest.mark.parametrize(("changes", "code"), [
    ({"c": bytes(32)}, "probe.signature"),
    ({"client_certificate": lambda: client_certificate("ab" * 16)}, "probe.signature"),
    ({"server_spki": lambda: spki("lathe")}, "probe.signature"),
    ({"policy_uri": AES256}, "probe.signature"),
    ({"policy_uri": BASIC[:-1]}, "probe.unsupported"),
    ({"policy_uri": "http://opcfoundation.org/UA/SecurityPolicy#Basic128Rsa15"}, "probe.unsupported"),
    ({"policy_uri": "http://opcfoundation.org/UA/SecurityPolicy#None"}, "probe.unsupported"),
    ({"server_spki": b""}, "probe.key"),
    ({"server_spki": lambda: spki("press") + b"\0"}, "probe.key"),
    ({"server_spki": b"\x30" * 4096}, "probe.key"),
    ({"server_spki": keys.spki(public("server"))}, "probe.key"),
    ({"server_spki": lambda: spki("press", 1024)}, "probe.weak_key"),
    ({"signature": b""}, "probe.signature"),
    ({"signature": bytes(256)}, "probe.signature"),
])
def test_what_does_not_fit_is_refused_with_its_cause(changes: dict[str, Any], code: str) -> None:
    made = {name: value() if callable(value) else value for name, value in changes.items()}
    with pytest.raises(VerificationError) as refused:
        check(**{"signature": answer("press", presented() + C)} | made)
    assert [problem.code for problem in refused.value.problems] == [code]


@pytest.mark.parametrize("make", [
    lambda: ec.generate_private_key(ec.SECP256R1()).public_key(),
    lambda: rsa.RSAPublicNumbers(2**65 + 1, rsa_key("press").public_key().public_numbers().n).public_key()],
    ids=["of another kind", "exponent"])
def test_keys_that_make_no_sense_or_cost_too_much_are_refused(make: Callable[[], Any]) -> None:
    der = make().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(VerificationError, match=r"probe\.key"):
        check(bytes(256), server_spki=der)


@pytest.mark.parametrize("algorithm", [
    "300b06092a864886f70d010101", "300b06092a864886f70d01010a", "300d06092a864886f70d01010a3000"])
def test_one_key_has_one_encoding(algorithm: str) -> None:
    """The library reads others too: parameters left out, or the name of RSASSA-PSS. They would be other servers."""
    plain, other = bytes.fromhex("300d06092a864886f70d0101010500"), bytes.fromhex(algorithm)
    body = spki("press")[4:].replace(plain, other)
    second = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    key = load_der_public_key(second)
    assert isinstance(key, rsa.RSAPublicKey) and key.public_numbers() == rsa_key("press").public_key().public_numbers()
    with pytest.raises(VerificationError, match=r"probe\.key"):
        check(answer("press", presented() + C), server_spki=second)


@given(st.binary(max_size=600), st.binary(max_size=300))
def test_random_keys_and_signatures_never_raise_anything_else(key: bytes, signature: bytes) -> None:
    with pytest.raises(VerificationError):
        check(signature, server_spki=key)
    with pytest.raises(VerificationError):
        check(signature)
    assert not probe_certificate_holds(key, GATEWAY)


def test_the_challenge_names_all_that_it_is_made_of() -> None:
    seen = {"size": 7, "root": "00" * 32, "witness": "bureau", "time_s": 1, "signature": "AA=="}
    made_of: dict[str, Any] = {"gateway_spki": b"g", "start_s": 60, "server_spki": b"s"}
    first = probe.challenge(seen, **made_of)
    others = [probe.challenge(seen | {"time_s": 2}, **made_of),
              *(probe.challenge(seen, **made_of | change)
                for change in ({"gateway_spki": b"h"}, {"start_s": 120}, {"server_spki": b"t"}))]
    assert len({first, *others}) == 5 and len(first) == 32


def test_a_probe_certificate_names_the_gateway_and_nothing_else() -> None:
    certificate = x509.load_der_x509_certificate(presented())
    assert [(a.oid, a.value) for a in certificate.subject] == [(NameOID.COMMON_NAME, certificate_name(GATEWAY))]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [f"urn:tallystick:g:{GATEWAY}"]
    assert probe_certificate_holds(presented(), GATEWAY)
    assert not probe_certificate_holds(presented(), "ab" * 16)


CHANGED: dict[str, dict[str, Any]] = {
    "a second name": {"subject": [(NameOID.COMMON_NAME, certificate_name(GATEWAY)),
                                  (NameOID.ORGANIZATION_NAME, "Example GmbH")]},
    "another name": {"subject": [(NameOID.COMMON_NAME, "gateway of hall 3")]},
    "no name": {"subject": []},
    "an issuer that says more": {"issuer": [(NameOID.COMMON_NAME, "PC-4711")]},
    "a host": {"names": [x509.UniformResourceIdentifier(certificate_name(GATEWAY)), x509.DNSName("pc-4711")]},
    "another uri": {"names": [x509.UniformResourceIdentifier("urn:pc-4711:tallystick")]},
    "the name as a host": {"names": [x509.DNSName(certificate_name(GATEWAY))]},
    "no alternative name": {"names": []},
    "another extension": {"extra": x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x04\x02pc")},
    "an issuer's name in an extension": {"extra": x509.AuthorityKeyIdentifier(
        None, [x509.DNSName("pc-4711")], 1)},
    "a short key": {"bits": 1024},
    "a signature of another key": {"signer": "lathe"},
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_certificate_that_says_more_or_less_is_refused(name: str) -> None:
    lies = CHANGED[name]
    key = rsa_key("client", lies.get("bits", 2048))
    own = [(NameOID.COMMON_NAME, certificate_name(GATEWAY))]
    subject, issuer = (x509.Name([x509.NameAttribute(oid, value) for oid, value in part])
                       for part in (lies.get("subject", own), lies.get("issuer", lies.get("subject", own))))
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), 1, FROM, TO)
    names = lies.get("names", [x509.UniformResourceIdentifier(certificate_name(GATEWAY))])
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if "extra" in lies:
        builder = builder.add_extension(lies["extra"], critical=False)
    signer = rsa_key(lies["signer"]) if "signer" in lies else key
    der = builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)
    assert not probe_certificate_holds(der, GATEWAY)
    plain = x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(*own[0])]), x509.Name([x509.NameAttribute(*own[0])]),
        rsa_key("client").public_key(), 1, FROM, TO).add_extension(
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier(certificate_name(GATEWAY))]), critical=False)
    assert probe_certificate_holds(plain.sign(rsa_key("client"), hashes.SHA256()).public_bytes(Encoding.DER), GATEWAY)


def test_a_certificate_cut_or_altered_anywhere_is_refused() -> None:
    whole = presented()
    for i in range(0, len(whole), 3):
        altered = whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :]
        assert not probe_certificate_holds(altered, GATEWAY), i
        assert not probe_certificate_holds(whole[:i], GATEWAY)
