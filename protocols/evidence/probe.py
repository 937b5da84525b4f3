"""Probes: what a server must sign so that an old or a borrowed answer cannot be shown, and how the answer is checked.

OPC UA: the challenge is the ClientNonce of CreateSession, and the ServerSignature of the answer is over our client
certificate and that nonce. Whoever holds certificate, challenge and signature checks it without the server.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocols.errors import Problem, VerificationError
from protocols.evidence import jcs
from protocols.evidence.shape import Base64, Hex, ListOf, Object, OneOf
from protocols.evidence.signed import GATEWAY

_POLICY = "http://opcfoundation.org/UA/SecurityPolicy#"
PKCS1_POLICIES = (f"{_POLICY}Basic256Sha256", f"{_POLICY}Aes128_Sha256_RsaOaep")
"""Signatures are RSASSA-PKCS1-v1_5 with SHA-256 (OPC 10000-7)."""
PSS_POLICIES = (f"{_POLICY}Aes256_Sha256_RsaPss",)
"""Signatures are RSASSA-PSS with SHA-256, MGF1 with SHA-256, salt of 32 bytes."""
POLICIES = PKCS1_POLICIES + PSS_POLICIES
SALT_BYTES = 32

RSA_BITS_MIN, RSA_BITS_MAX = 2048, 8192
EXPONENT_BITS_MAX = 64
"""A key with a public exponent as long as its modulus would make every check thousands of times slower."""
SPKI_BYTES_MAX = 2048
CERTIFICATE_BYTES_MAX = 8192

CHAIN_MAX = 8
CHAIN = Object({
    "type": OneOf(("tallystick/chain/v1",)), "gateway": GATEWAY, "spki_sha256": Hex(32),
    "certificates": ListOf(Base64(most=CERTIFICATE_BYTES_MAX), CHAIN_MAX)})
"""The file that opens the chain of a server key: DER, the server's own certificate first, each signed by the next one.
The certificate of the maker's CA may be left out: the checker's policy has it."""

_EXTENSIONS = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName,
               x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
"""What a probe certificate may say beside names: nothing that could hold the name of a host or a person."""


def nonce(seen: Mapping[str, Any]) -> bytes:
    """Return SHA-256 of the JCS of `seen`: nobody knew it before that register checkpoint was co-signed."""
    return hashlib.sha256(jcs.encode(dict(seen))).digest()


def challenge(seen: Mapping[str, Any], *, gateway_spki: bytes, start_s: int, server_spki: bytes) -> bytes:
    """Return the 32 bytes that are the ClientNonce of CreateSession. Both SPKI are DER."""
    return hashlib.sha256(
        b"tallystick/probe/v1\0" + nonce(seen) + hashlib.sha256(gateway_spki).digest() + start_s.to_bytes(8, "big")
        + hashlib.sha256(server_spki).digest()).digest()


def certificate_name(gateway: str) -> str:
    """Return what a probe certificate names, as common name and as ApplicationUri: the id of the gateway."""
    return f"urn:tallystick:g:{gateway}"


def make_certificate(gateway: str, key: rsa.RSAPrivateKey, *, not_before: datetime, not_after: datetime,
                     serial: int) -> bytes:
    """Return the DER of the self-signed client certificate with which `gateway` (32 hex) probes.

    Fields: version 3, SHA-256 with RSA; subject = issuer = one common name; subject alternative name = one URI; both
    are `certificate_name(gateway)`. No host, no person, no product. Key usage and basic constraints as OPC 10000-6
    asks of an application instance certificate.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, certificate_name(gateway))])
    usage = x509.KeyUsage(digital_signature=True, content_commitment=True, key_encipherment=True,
                          data_encipherment=True, key_agreement=False, key_cert_sign=True, crl_sign=False,
                          encipher_only=False, decipher_only=False)
    builder = x509.CertificateBuilder(
        issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=serial,
        not_valid_before=not_before, not_valid_after=not_after)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier(certificate_name(gateway))]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def probe_certificate_holds(der: bytes, gateway: str) -> bool:
    """Return whether `der` is a client certificate as `make_certificate` makes it: it names `gateway`, nothing else.

    Self-signed with RSA of RSA_BITS_MIN to RSA_BITS_MAX; one common name, the issuer the same; one URI; extensions
    from a closed list. So a certificate of another gateway is none, and no host name leaks into the evidence.
    """
    if len(der) > CERTIFICATE_BYTES_MAX:
        return False
    try:
        certificate = parse_certificate(der)
        key, extensions = certificate.public_key(), certificate.extensions
        names = [(a.oid, a.value) for a in certificate.subject]
        uris = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        if (not isinstance(key, rsa.RSAPublicKey) or not _sizes_hold(key)
                or names != [(NameOID.COMMON_NAME, certificate_name(gateway))]
                or certificate.issuer != certificate.subject
                or uris != [x509.UniformResourceIdentifier(certificate_name(gateway))]
                or not all(isinstance(e.value, _EXTENSIONS) for e in extensions)
                or any(e.value.authority_cert_issuer for e in extensions
                       if isinstance(e.value, x509.AuthorityKeyIdentifier))):
            return False
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, x509.ExtensionNotFound, UnsupportedAlgorithm, InvalidSignature):
        return False
    return True


def parse_certificate(der: bytes) -> x509.Certificate:
    """Parse a certificate from outside so far that nothing raises later, and nothing is merely warned of.

    Raises: ValueError for whatever the library finds wrong: it has many names for it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            certificate = x509.load_der_x509_certificate(der)
            _ = certificate.public_key(), certificate.subject, certificate.issuer, list(certificate.extensions)
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.serial_number
    except (ValueError, TypeError, Warning, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
            x509.UnsupportedGeneralNameType) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return certificate


def spki_sha256(spki: bytes) -> str:
    """Return how rows and attestations name a server key: lowercase hex SHA-256 of its DER SPKI."""
    return hashlib.sha256(spki).hexdigest()


def server_key(spki: bytes, *, where: str) -> rsa.RSAPublicKey:
    """Parse the DER SubjectPublicKeyInfo of a server.

    It must be what this key encodes to: one key under two encodings would be two servers.
    Raises: VerificationError `probe.key` (no such key), `probe.weak_key` (shorter than RSA_BITS_MIN).
    """
    key = None if len(spki) > SPKI_BYTES_MAX else _rsa_key(spki)
    if key is not None and key.key_size < RSA_BITS_MIN:
        raise VerificationError(Problem.of(where, "probe.weak_key", bits=key.key_size, least=RSA_BITS_MIN))
    if key is None or not _sizes_hold(key) or key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        raise VerificationError(Problem.of(where, "probe.key"))
    return key


@lru_cache(maxsize=256)
def _rsa_key(spki: bytes) -> rsa.RSAPublicKey | None:
    """Return the RSA key; None if it is no key or another one. A server is probed again and again."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, rsa.RSAPublicKey) else None


def verify_signature(*, policy_uri: str, server_spki: bytes, client_certificate: bytes, c: bytes, signature: bytes,
                     where: str) -> None:
    """Check the ServerSignature of CreateSession over `client_certificate` (DER) followed by the ClientNonce `c`.

    The algorithm comes from the security policy and the key, never from the answer.
    Raises: VerificationError `probe.unsupported` for a policy that is not in POLICIES: it proves nothing and refutes
        nothing; `probe.key`, `probe.weak_key`; `probe.signature`.
    """
    if policy_uri not in POLICIES:
        raise VerificationError(Problem.of(where, "probe.unsupported", policy_uri=policy_uri))
    key = server_key(server_spki, where=where)
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    if policy_uri in PSS_POLICIES:
        scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=SALT_BYTES)
    try:
        key.verify(signature, client_certificate + c, scheme, hashes.SHA256())
    except InvalidSignature as error:
        raise VerificationError(Problem.of(where, "probe.signature")) from error


def _sizes_hold(key: rsa.RSAPublicKey) -> bool:
    return (RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX
            and key.public_numbers().e.bit_length() <= EXPONENT_BITS_MAX)
