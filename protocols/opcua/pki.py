"""Our own certificate, made once and kept, and the servers' certificates that a person has trusted. No device library.

What lies in `trust_dir` as DER is trusted, and what an authority there issued (trustlist.py). An unknown certificate is
written to `trust_dir/rejected/`, where a person compares its fingerprint and approves it with `tallystick trust`.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocols import system
from protocols.errors import ConfigError, DeviceError, Problem
from protocols.opcua.trustlist import (
    CERTIFICATE_BYTES_MAX,
    CHAIN_MAX,
    REJECTED,
    NotTrustedError,
    check_chain,
    parsed,
    read_store,
)

OWN_CERTIFICATE = "own.der"
OWN_KEY = "own.key.pem"

KEY_BITS = 2048
"""What Basic256Sha256 and both AES policies accept everywhere; 4096 is refused by several controllers."""
VALID_DAYS = 3650
CLOCK_SLACK = timedelta(days=1)
_MAKING = threading.Lock()
"""The connections of a gateway begin at the same time, each in a thread, and share one certificate."""
REJECTED_MAX = 50
"""A server that shows a new certificate at every connect must not fill the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCertificate:
    """Our application instance certificate: DER, PEM of its key, and the URI that both name."""

    application_uri: str
    certificate: bytes
    key: bytes


def own_certificate(pki_dir: Path) -> OwnCertificate:
    """Load our certificate, or make it: the subject names the product and a random number, no person, no host.

    Raises: ConfigError (opcua.own_certificate) when the folder holds half a pair, or cannot be read or written.
    """
    certificate_path, key_path = pki_dir / OWN_CERTIFICATE, pki_dir / OWN_KEY
    try:
        with _MAKING:
            if not certificate_path.exists() and not key_path.exists():
                _make_own(certificate_path, key_path)
        certificate_der, key_pem = certificate_path.read_bytes(), key_path.read_bytes()
        certificate = x509.load_der_x509_certificate(certificate_der)
        key = serialization.load_pem_private_key(key_pem, password=None)
        if _public_der(certificate.public_key()) != _public_der(key.public_key()):
            raise ValueError("key and certificate do not belong together")
        uris = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise ValueError("the certificate must name exactly one application URI")
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(Problem.of(str(pki_dir), "opcua.own_certificate", why=error)) from error
    return OwnCertificate(application_uri=uris[0], certificate=certificate_der, key=key_pem)


def user_identity(certificate_file: Path, key_file: Path) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    """Load a user's certificate (DER or PEM) and its key (PEM). Raises OSError, ValueError, TypeError."""
    content = certificate_file.read_bytes()
    certificate = x509.load_pem_x509_certificate(content) if content.lstrip().startswith(b"-----BEGIN") \
        else x509.load_der_x509_certificate(content)
    key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey) or _public_der(certificate.public_key()) != _public_der(key.public_key()):
        raise ValueError("key and certificate do not belong together")
    return certificate, key


def _public_der(key: object) -> bytes:
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("not an RSA key")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _make_own(certificate_path: Path, key_path: Path) -> None:
    certificate_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    number = secrets.token_hex(8)
    uri = f"urn:tallystick:gateway:{number}"
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Tallystick gateway {number}")])
    now = datetime.now(UTC)
    public_key = key.public_key()
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK).not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, content_commitment=True, key_encipherment=True,
                                     data_encipherment=True, key_agreement=False, key_cert_sign=True, crl_sign=False,
                                     encipher_only=False, decipher_only=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256()))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                            serialization.NoEncryption())
    _write_new(key_path, pem, 0o600)
    _write_new(certificate_path, certificate.public_bytes(serialization.Encoding.DER), 0o644)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write whole or not at all: a half-written key must never be taken for one."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        system.write_private(temporary, content, mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def leaf_of(blob: bytes) -> bytes:
    """Return the first certificate of what may be a chain. Raises ValueError when it is none."""
    if len(blob) > CERTIFICATE_BYTES_MAX:
        raise ValueError("certificate too large")
    if len(blob) < 4 or blob[0] != 0x30 or blob[1] != 0x82:
        raise ValueError("not a certificate")
    leaf = blob[:4 + int.from_bytes(blob[2:4], "big")]
    parsed(leaf)
    return leaf


def chain_of(blob: bytes) -> list[bytes]:
    """Return the certificates of a chain, the server's own first. Raises ValueError when the first is none."""
    leaf = leaf_of(blob)
    found, at = [leaf], len(leaf)
    while len(found) < CHAIN_MAX and blob[at:at + 2] == b"\x30\x82":
        found.append(blob[at:at + 4 + int.from_bytes(blob[at + 2:at + 4], "big")])
        at += len(found[-1])
    return found


def check_server_certificate(blob: bytes, application_uri: str, trust_dir: Path, *, where: str, url: str,
                             now: datetime) -> bytes:
    """Return the DER of the server's certificate if a person trusts it or who issued it, else refuse.

    Raises: DeviceError opcua.bad_certificate, opcua.untrusted_certificate (kept in `rejected/`),
    opcua.certificate_revoked, opcua.revocation_unknown (its authority has no list in force here),
    opcua.certificate_expired, opcua.certificate_uri (it was issued for another application).
    """
    try:
        leaf, *sent = chain_of(blob)
        server_spki_sha256(leaf)
        certificate = parsed(leaf)
        uris = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except ValueError as error:
        raise DeviceError(Problem.of(where, "opcua.bad_certificate", endpoint=url, why=error)) from error
    fingerprint = hashlib.sha256(leaf).hexdigest()
    try:
        check_chain(leaf, sent, read_store(trust_dir), now=now)
    except NotTrustedError as error:
        if error.code != "untrusted_certificate":
            raise DeviceError(Problem.of(where, f"opcua.{error.code}", endpoint=url, fingerprint=fingerprint,
                                         issuer=error.issuer[:200], folder=trust_dir)) from error
        kept = _keep_rejected(trust_dir, leaf, fingerprint)
        raise DeviceError(Problem.of(where, "opcua.untrusted_certificate", endpoint=url, fingerprint=fingerprint,
                                     file=kept, folder=trust_dir)) from error
    if not certificate.not_valid_before_utc - CLOCK_SLACK <= now <= certificate.not_valid_after_utc:
        raise DeviceError(Problem.of(where, "opcua.certificate_expired", endpoint=url,
                                     start=certificate.not_valid_before_utc.date(),
                                     end=certificate.not_valid_after_utc.date()))
    if application_uri not in uris:
        raise DeviceError(Problem.of(where, "opcua.certificate_uri", endpoint=url, uri=application_uri,
                                     certificate=", ".join(uris)))
    return leaf


def application_uri(der: bytes) -> str:
    """Return the ApplicationUri in a certificate (OPC 10000-6, 6.2.2); empty if there is none that can be read."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")
    except (ValueError, x509.ExtensionNotFound):
        return ""


def server_spki_sha256(der: bytes) -> str:
    """Return the hex SHA-256 of the DER SubjectPublicKeyInfo. Raises ValueError unless it is an RSA certificate."""
    return hashlib.sha256(_public_der(parsed(der).public_key())).hexdigest()


def _keep_rejected(trust_dir: Path, leaf: bytes, fingerprint: str) -> str:
    """Keep an unknown certificate for a person to look at; return its path, or why it was not kept."""
    folder = trust_dir / REJECTED
    path = folder / f"{fingerprint[:40]}.der"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if sum(1 for _ in folder.iterdir()) >= REJECTED_MAX:
                return f"{folder} is full"
            _write_new(path, leaf, 0o644)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return str(path)
