"""The certificate of the simulated OPC UA server: made by the plant itself, trusted by the ledger's trust_dir."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS = 3650
KEY_BITS = 2048


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Paths of a server's own certificate (DER) and key (PEM, 0600), and the folder in which clients trust it."""

    certificate: Path
    key: Path
    trust_dir: Path


def make_server_files(folder: Path, *, name: str, application_uri: str) -> ServerFiles:
    """Make key and self-signed certificate below `folder`, and put the certificate into `folder/trust`.

    An existing pair of the same application is kept: a plant that starts again is the same server.
    """
    files = ServerFiles(folder / "own" / "server.der", folder / "own" / "server.pem", folder / "trust")
    files.certificate.parent.mkdir(parents=True, exist_ok=True)
    files.trust_dir.mkdir(parents=True, exist_ok=True)
    if not (files.key.exists() and files.certificate.exists() and _is_of(files.certificate, application_uri)):
        _make_pair(files, name, application_uri)
    (files.trust_dir / "server.der").write_bytes(files.certificate.read_bytes())
    return files


def _is_of(certificate: Path, application_uri: str) -> bool:
    try:
        names = x509.load_der_x509_certificate(certificate.read_bytes()).extensions.get_extension_for_class(
            x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    return application_uri in names.get_values_for_type(x509.UniformResourceIdentifier)


def _make_pair(files: ServerFiles, name: str, application_uri: str) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name),
                         x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated plant")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([
            x509.UniformResourceIdentifier(application_uri), x509.DNSName("localhost"),
            x509.DNSName(socket.gethostname()), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(
            digital_signature=True, content_commitment=True, key_encipherment=True, data_encipherment=True,
            key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False),
            critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                       critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256()))
    handle = os.open(files.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                     serialization.NoEncryption()))
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.DER))
