"""The certificate with which a gateway probes: made once, kept in the state folder, naming the gateway, nothing else.

It is not the one with which the gateway collects: a probe's certificate is shown to every auditor, so it must hold
neither a random number that links nor a name of a host. Servers must trust it like any other client's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from protocols import system
from protocols.errors import ConfigError, Problem
from protocols.evidence import probe

CERTIFICATE = "prober.der"
KEY = "prober.key.pem"
KEY_BITS = 2048
"""What all three policies accept everywhere; 4096 is refused by several controllers."""
VALID_DAYS = 3650
CLOCK_SLACK = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCertificate:
    """DER, its key, and where the DER lies: the file that a server's trust list needs.

    The key is loaded once: to load an RSA key costs some 40 ms, which a challenge on the event loop must not.
    """

    certificate: bytes
    key: rsa.RSAPrivateKey
    file: Path


def probe_certificate(pki_dir: Path, gateway: str, *, now: datetime | None = None) -> ProbeCertificate:
    """Load the certificate, or make it. One of another gateway, after a restore, or one that is not valid now is made
    anew: a clock that was a year ahead when it was made must not keep every server from taking it.

    Blocks for some 0.1 s. Raises: ConfigError `probing.certificate` when the folder cannot be used.
    """
    now = now or datetime.now(UTC)
    certificate_file, key_file = pki_dir / CERTIFICATE, pki_dir / KEY
    try:
        held = _load(certificate_file, key_file, gateway, now)
        if held is None:
            _make(certificate_file, key_file, gateway, now)
            held = _load(certificate_file, key_file, gateway, now)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(Problem.of(str(pki_dir), "probing.certificate", reason=error)) from error
    if held is None:
        raise ConfigError(Problem.of(str(pki_dir), "probing.certificate", reason="the clock is not believable"))
    return held


@lru_cache(maxsize=1024)
def spki_of(certificate: bytes) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a DER certificate. Raises ValueError."""
    return x509.load_der_x509_certificate(certificate).public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _load(certificate_file: Path, key_file: Path, gateway: str, now: datetime) -> ProbeCertificate | None:
    """Return the pair, None when there is none that can be used for this gateway now."""
    try:
        certificate, key = certificate_file.read_bytes(), key_file.read_bytes()
    except FileNotFoundError:
        return None
    if not probe.probe_certificate_holds(certificate, gateway):
        return None
    parsed = x509.load_der_x509_certificate(certificate)
    private = serialization.load_pem_private_key(key, password=None)
    if not isinstance(private, rsa.RSAPrivateKey) or private.public_key() != parsed.public_key():
        return None
    if not parsed.not_valid_before_utc <= now < parsed.not_valid_after_utc:
        return None
    return ProbeCertificate(certificate=certificate, key=private, file=certificate_file)


def _make(certificate_file: Path, key_file: Path, gateway: str, now: datetime) -> None:
    certificate_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    der = probe.make_certificate(gateway, key, not_before=now - CLOCK_SLACK,
                                 not_after=now + timedelta(days=VALID_DAYS), serial=x509.random_serial_number())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                            serialization.NoEncryption())
    # Key first: what a crash in between leaves is no pair, and is made anew.
    for file, content in ((key_file, pem), (certificate_file, der)):
        system.replace(file, content)
