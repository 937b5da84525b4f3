"""Modbus over TLS: whom this gateway believes, and who it says it is. Standard library and cryptography only.

Source: MODBUS/TCP Security Protocol Specification V2.1: TLS 1.2 or later, certificates on both sides, port 802, and
the role of a client in an extension of its certificate. Servers decide by that role; here it is only shown.
"""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocols.errors import ConfigError, Problem
from protocols.modbus.target import TLS_FILES, ModbusEndpoint

ROLE_OID = x509.ObjectIdentifier("1.3.6.1.4.1.50316.802.1")
ROLE_CHARS_MAX = 64
UTF8_STRING = 0x0C
FILE_BYTES_MAX = 1024 * 1024


class _Context(ssl.SSLContext):
    """A client context that expects `name` in the server's certificate instead of the host that was connected to."""

    name: str | None = None

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool = False,
                 server_hostname: str | bytes | None = None, session: ssl.SSLSession | None = None) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.name or server_hostname, session)


def make_context(endpoint: ModbusEndpoint) -> tuple[ssl.SSLContext, str]:
    """Return a context that verifies the server and shows our certificate, and the role in that certificate.

    Reads the three files of the endpoint anew, so that a renewed certificate is used from the next connection on.
    Raises: ConfigError `modbus.tls_file` with the file that cannot be used, and why.
    """
    assert endpoint.ca_file and endpoint.certificate_file and endpoint.key_file
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.name = endpoint.server_name
    problems = []
    held: dict[str, bytes] = {}
    for key in TLS_FILES:
        path = getattr(endpoint, key)
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                raise ValueError(f"larger than {FILE_BYTES_MAX} bytes")
            held[key] = path.read_bytes()
        except (OSError, ValueError) as error:
            problems.append(_problem(endpoint, key, getattr(error, "strerror", None) or error))
    if problems:
        raise ConfigError(problems)
    try:
        context.load_verify_locations(cafile=endpoint.ca_file)
    except (ssl.SSLError, OSError) as error:
        problems.append(_problem(endpoint, "ca_file", _reason(error)))
    try:
        # An empty password: a key that needs one is refused, and nobody is asked on a terminal.
        context.load_cert_chain(endpoint.certificate_file, endpoint.key_file, password="")
    except (ssl.SSLError, OSError) as error:
        problems.append(_problem(endpoint, "certificate_file, key_file", _reason(error)))
    if problems:
        raise ConfigError(problems)
    return context, role(held["certificate_file"])


def _problem(endpoint: ModbusEndpoint, key: str, reason: object) -> Problem:
    path = getattr(endpoint, key.split(",")[0])
    return Problem.of(f"{endpoint.where or endpoint.name}.{key}", "modbus.tls_file", file=path, reason=reason)


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error) or type(error).__name__


def role(pem: bytes) -> str:
    """Return the role in a client certificate (PEM); empty if it has none, or none that can be read."""
    try:
        found = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_oid(ROLE_OID).value
    except (ValueError, x509.ExtensionNotFound):
        return ""
    raw = getattr(found, "value", b"")
    if len(raw) < 2 or raw[0] != UTF8_STRING or raw[1] != len(raw) - 2 or raw[1] > 127:
        return ""
    text = raw[2:].decode("utf-8", "replace")
    return "".join(c for c in text if c.isprintable())[:ROLE_CHARS_MAX]


def describe(ssl_object: Any, der: bytes, *, role: str) -> dict[str, str]:
    """Return what a person compares about a connection that is up; `der` is the certificate that the server showed."""
    cipher = ssl_object.cipher()
    return {"version": ssl_object.version() or "?", "cipher": cipher[0] if cipher else "?",
            "server_sha256": hashlib.sha256(der).hexdigest(), "role": role or "-"}


def spki_sha256(der: bytes) -> str:
    """Return the SHA-256 of the public key of a certificate (its SubjectPublicKeyInfo), as 64 hex characters."""
    key = x509.load_der_x509_certificate(der).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
