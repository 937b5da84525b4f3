"""`trust`: server certificates of OPC UA that a person has approved, and those that were refused and wait for one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from config.gateway import GatewayConfig
from protocols.errors import ConfigError, Problem
from protocols.opcua.pki import CERTIFICATE_BYTES_MAX, REJECTED, TRUSTED_MAX, parsed
from protocols.opcua.target import OpcUaEndpoint

FINGERPRINT_CHARS_MIN = 16
"""64 bits: enough that nobody makes a second certificate that begins alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate file. fingerprint: SHA-256 of its DER, 64 hex. connections: who uses its folder."""

    path: Path
    trust_dir: Path
    trusted: bool
    fingerprint: str
    subject: str
    uris: tuple[str, ...]
    start: str
    end: str
    connections: tuple[str, ...]


def certificates(config: GatewayConfig) -> list[Certificate]:
    """Return every certificate in the trust folders of this configuration, the refused ones first."""
    folders: dict[Path, list[str]] = {}
    for name, endpoint in config.endpoints.items():
        if isinstance(endpoint, OpcUaEndpoint):
            folders.setdefault(endpoint.trust_dir, []).append(name)
    found = []
    for folder, names in folders.items():
        for trusted, place in ((False, folder / REJECTED), (True, folder)):
            found += [_certificate(path, der, folder, trusted, tuple(names)) for path, der in _files(place)]
    return sorted(found, key=lambda c: (c.trusted, c.fingerprint))


def approve(config: GatewayConfig, fingerprint: str) -> Certificate:
    """Move the refused certificate with this fingerprint (its beginning is enough) into the folder of the trusted.

    Raises: ConfigError `commissioning.short_fingerprint`, `commissioning.unknown_fingerprint` when none or more than
    one fits, `commissioning.trusted_already`.
    """
    wanted = "".join(c for c in fingerprint.lower() if c not in " :-")
    if len(wanted) < FINGERPRINT_CHARS_MIN:
        raise ConfigError(Problem.of("trust", "commissioning.short_fingerprint", least=FINGERPRINT_CHARS_MIN))
    fitting = [c for c in certificates(config) if c.fingerprint.startswith(wanted)]
    waiting = [c for c in fitting if not c.trusted]
    if not waiting:
        code = "commissioning.trusted_already" if fitting else "commissioning.unknown_fingerprint"
        raise ConfigError(Problem.of("trust", code, fingerprint=fingerprint[:100], config=config.file.name))
    if len({c.fingerprint for c in waiting}) > 1:
        raise ConfigError(Problem.of("trust", "commissioning.unknown_fingerprint", fingerprint=fingerprint[:100],
                                     config=config.file.name))
    for certificate in waiting:  # several when two connections have folders of their own
        certificate.path.replace(certificate.trust_dir / f"{certificate.fingerprint[:40]}.der")
    return waiting[0]


def _files(folder: Path) -> Iterator[tuple[Path, bytes]]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir())[:TRUSTED_MAX]:
        if path.suffix.lower() in (".der", ".cer", ".crt") and path.is_file() \
                and path.stat().st_size <= CERTIFICATE_BYTES_MAX:
            yield path, path.read_bytes()


def _certificate(path: Path, der: bytes, trust_dir: Path, trusted: bool, connections: tuple[str, ...]) -> Certificate:
    """Read what a person compares; a file that is no certificate is shown as what it is, not left out."""
    subject, uris, start, end = "?", [], "?", "?"
    try:
        certificate = parsed(der)
        subject = certificate.subject.rfc4514_string()
        start, end = (str(at.date()) for at in (certificate.not_valid_before_utc, certificate.not_valid_after_utc))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        pass
    return Certificate(path=path, trust_dir=trust_dir, trusted=trusted, fingerprint=hashlib.sha256(der).hexdigest(),
                       subject=subject, uris=tuple(uris), start=start, end=end, connections=connections)
