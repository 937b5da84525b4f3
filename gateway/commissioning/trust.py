"""`trust`: certificates of OPC UA servers and of authorities that a person has approved, and those that wait for one.

Folders are a mapping of trust folder -> names of the connections that use it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from config.gateway import GatewayConfig
from protocols.errors import ConfigError, Problem
from protocols.opcua.target import OpcUaEndpoint
from protocols.opcua.trustlist import (
    CERTIFICATE_BYTES_MAX,
    CERTIFICATE_SUFFIXES,
    ISSUERS,
    LIST_BYTES_MAX,
    LIST_SUFFIX,
    REJECTED,
    files_of,
    may_issue,
    parsed,
)

Folders = Mapping[Path, tuple[str, ...]]

FINGERPRINT_CHARS_MIN = 16
"""64 bits: enough that nobody makes a second certificate that begins alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate file. fingerprint: SHA-256 of its DER, 64 hex. connections: who uses its folder.

    state: refused, trusted, or issuer (completes chains, is not trusted itself). authority: it may issue certificates.
    """

    path: Path
    trust_dir: Path
    state: str
    authority: bool
    fingerprint: str
    subject: str
    uris: tuple[str, ...]
    start: str
    end: str
    connections: tuple[str, ...]


def folders_of(config: GatewayConfig) -> Folders:
    """Return the trust folders of a configuration."""
    folders: dict[Path, tuple[str, ...]] = {}
    for name, endpoint in config.endpoints.items():
        if isinstance(endpoint, OpcUaEndpoint):
            folders[endpoint.trust_dir] = (*folders.get(endpoint.trust_dir, ()), name)
    return folders


def certificates(folders: Folders) -> list[Certificate]:
    """Return every certificate in these folders, the refused ones first."""
    found = []
    for folder, names in folders.items():
        for state, place in (("refused", folder / REJECTED), ("trusted", folder), ("issuer", folder / ISSUERS)):
            found += [_certificate(path, der, folder, state, names)
                      for path, der in files_of(place, CERTIFICATE_SUFFIXES, CERTIFICATE_BYTES_MAX)]
    order = ("refused", "trusted", "issuer")
    return sorted(found, key=lambda c: (order.index(c.state), c.fingerprint))


def approve(folders: Folders, fingerprint: str, place: str) -> Certificate:
    """Move the refused certificate with this fingerprint (its beginning is enough) into the folder of the trusted.

    place: what the person named, for errors.
    Raises: ConfigError `commissioning.short_fingerprint`, `commissioning.unknown_fingerprint` when none or more than
    one fits, `commissioning.trusted_already`.
    """
    wanted = "".join(c for c in fingerprint.lower() if c not in " :-")
    if len(wanted) < FINGERPRINT_CHARS_MIN:
        raise ConfigError(Problem.of("trust", "commissioning.short_fingerprint", least=FINGERPRINT_CHARS_MIN))
    fitting = [c for c in certificates(folders) if c.fingerprint.startswith(wanted)]
    waiting = [c for c in fitting if c.state == "refused"]
    if not waiting:
        code = "commissioning.trusted_already" if fitting else "commissioning.unknown_fingerprint"
        raise ConfigError(Problem.of("trust", code, fingerprint=fingerprint[:100], config=place))
    if len({c.fingerprint for c in waiting}) > 1:
        raise ConfigError(Problem.of("trust", "commissioning.unknown_fingerprint", fingerprint=fingerprint[:100],
                                     config=place))
    for certificate in waiting:  # several when two connections have folders of their own
        certificate.path.replace(certificate.trust_dir / f"{certificate.fingerprint[:40]}.der")
    return waiting[0]


def add(folders: Folders, source: Path, *, is_issuer: bool) -> str:
    """Put a certificate, or an authority's revocation list, into each folder, as DER; return its SHA-256.

    A newer list of the same authority takes the place of the one that is there. Raises: OSError;
    ConfigError `opcua.trust_file` (neither certificate nor list), `opcua.old_list` (a newer one is there),
    `opcua.no_authority` (`is_issuer`, but it may not issue certificates).
    """
    with source.open("rb") as file:
        content = file.read(LIST_BYTES_MAX + 1)
    name, der = _storable(source, content, is_issuer=is_issuer)
    for folder in folders:
        home = folder / ISSUERS if is_issuer else folder
        for other in (folder, folder / ISSUERS):
            if name.endswith(LIST_SUFFIX) and (other / name).exists():
                _refuse_older(source, der, (other / name).read_bytes())
                home = other
        home.mkdir(parents=True, exist_ok=True)
        partial = home / f"{name}.{secrets.token_hex(4)}.part"
        partial.write_bytes(der)
        partial.replace(home / name)
    return hashlib.sha256(der).hexdigest()


def _storable(source: Path, content: bytes, *, is_issuer: bool) -> tuple[str, bytes]:
    """Return name in the store and DER of what was given as DER or PEM."""
    is_pem = content.lstrip().startswith(b"-----BEGIN")
    try:
        if len(content) > LIST_BYTES_MAX:
            raise ValueError("too large")
        if content.lstrip().startswith(b"-----BEGIN X509 CRL") or (not is_pem and _is_list(content)):
            revoked = x509.load_pem_x509_crl(content) if is_pem else x509.load_der_x509_crl(content)
            issuer = hashlib.sha256(revoked.issuer.public_bytes()).hexdigest()
            return f"{issuer[:40]}{LIST_SUFFIX}", revoked.public_bytes(Encoding.DER)
        der = x509.load_pem_x509_certificate(content).public_bytes(Encoding.DER) if is_pem else content
        certificate = parsed(der)
    except ValueError as error:
        raise ConfigError(Problem.of(str(source), "opcua.trust_file", why=error)) from error
    if is_issuer and not may_issue(certificate):
        raise ConfigError(Problem.of(str(source), "opcua.no_authority"))
    return f"{hashlib.sha256(der).hexdigest()[:40]}.der", der


def _is_list(der: bytes) -> bool:
    try:
        x509.load_der_x509_crl(der)
    except ValueError:
        return False
    return True


def _refuse_older(source: Path, der: bytes, held: bytes) -> None:
    """Raise when the list that is there is newer: an old one would make revoked certificates good again."""
    try:
        there = x509.load_der_x509_crl(held).last_update_utc
    except ValueError:
        return
    if (given := x509.load_der_x509_crl(der).last_update_utc) < there:
        raise ConfigError(Problem.of(str(source), "opcua.old_list", given=given.isoformat(), held=there.isoformat()))


def _certificate(path: Path, der: bytes, trust_dir: Path, state: str, connections: tuple[str, ...]) -> Certificate:
    """Read what a person compares; a file that is no certificate is shown as what it is, not left out."""
    subject, uris, start, end, authority = "?", [], "?", "?", False
    try:
        certificate = parsed(der)
        authority = may_issue(certificate)
        subject = certificate.subject.rfc4514_string()
        start, end = (str(at.date()) for at in (certificate.not_valid_before_utc, certificate.not_valid_after_utc))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        pass
    return Certificate(
        path=path, trust_dir=trust_dir, state=state, authority=authority, fingerprint=hashlib.sha256(der).hexdigest(),
        subject=subject, uris=tuple(uris), start=start, end=end, connections=connections)
