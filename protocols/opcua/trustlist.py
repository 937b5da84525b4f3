"""Trusted, issuer and rejected stores on disk, and the way from a server's certificate to one that is trusted.

`trust_dir/*.der` is trusted: a server's own certificate, or a certification authority's, and then all that it issued.
`trust_dir/issuers/*.der` only completes chains. `*.crl` in either folder are revocation lists. `trust_dir/rejected/`
holds what waits for a person. Source: OPC 10000-4 (1.05) 6.1.3, table of certificate checks; 10000-12, 7.8.2.

An authority without a revocation list in force vouches for nobody: the standard lets this check be turned off, we do
not. A certificate that a person approved by itself needs no list, but one that revokes it is heeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

ISSUERS = "issuers"
REJECTED = "rejected"
CERTIFICATE_SUFFIXES = (".der", ".cer", ".crt")
LIST_SUFFIX = ".crl"
CERTIFICATE_BYTES_MAX = 64 * 1024
LIST_BYTES_MAX = 4 * 2**20
FILES_MAX = 1000
CHAIN_MAX = 8
CA_KEY_BITS_MIN = 2048
WEAK_HASHES = ("sha1", "md5")


class NotTrustedError(Exception):
    """No way from the certificate to a trusted one. code: the last part of the code that tells a person."""

    def __init__(self, code: str, issuer: str = "") -> None:
        super().__init__(code)
        self.code, self.issuer = code, issuer


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """What the folders hold now. A file that is no certificate trusts nobody and stops nobody."""

    trusted: frozenset[bytes]
    authorities: tuple[x509.Certificate, ...]
    lists: tuple[x509.CertificateRevocationList, ...]


def parsed(der: bytes) -> x509.Certificate:
    """Parse a certificate, its key and its extensions. Raises ValueError for whatever the library calls it."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
        list(certificate.extensions)
    except (TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
            x509.UnsupportedGeneralNameType) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return certificate


def read_store(trust_dir: Path) -> Store:
    """Read trusted certificates, authorities and revocation lists. Blocks; small files."""
    trusted = frozenset(content for _, content in files_of(trust_dir, CERTIFICATE_SUFFIXES, CERTIFICATE_BYTES_MAX))
    extra = [content for _, content in files_of(trust_dir / ISSUERS, CERTIFICATE_SUFFIXES, CERTIFICATE_BYTES_MAX)]
    lists = []
    for folder in (trust_dir, trust_dir / ISSUERS):
        for _, content in files_of(folder, (LIST_SUFFIX,), LIST_BYTES_MAX):
            try:
                lists.append(x509.load_der_x509_crl(content))
            except ValueError:
                continue
    return Store(trusted=trusted, authorities=tuple(authorities_of([*sorted(trusted), *extra])), lists=tuple(lists))


def files_of(folder: Path, suffixes: tuple[str, ...], bytes_max: int) -> Iterator[tuple[Path, bytes]]:
    """Yield the files of a folder with these endings, in order of name, the first FILES_MAX; nothing if it is none."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir())[:FILES_MAX]:
        if path.suffix.lower() in suffixes and path.is_file() and path.stat().st_size <= bytes_max:
            yield path, path.read_bytes()


def authorities_of(contents: Iterable[bytes]) -> Iterator[x509.Certificate]:
    """Yield those that may issue certificates; what is no certificate is left out."""
    for content in contents:
        try:
            certificate = parsed(content)
        except ValueError:
            continue
        if may_issue(certificate):
            yield certificate


def may_issue(certificate: x509.Certificate) -> bool:
    """Return whether it says that it is an authority's, with a key that is long enough."""
    key = certificate.public_key()
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return constraints.ca and usage.key_cert_sign and isinstance(key, rsa.RSAPublicKey) \
        and key.key_size >= CA_KEY_BITS_MIN


def check_chain(leaf: bytes, sent: Iterable[bytes], store: Store, *, now: datetime) -> None:
    """Return if the certificate is trusted by itself or by one that issued it; raise NotTrustedError else.

    Args:
        leaf: DER, parsed without error before. sent: what else the server showed; it may complete the chain.
    """
    certificate = parsed(leaf)
    known = (*store.authorities, *authorities_of(sent))
    if leaf in store.trusted:
        for issuer in _issuers(certificate, known, depth=0, now=now):
            if _status(certificate, issuer, store, now) == "revoked":
                raise NotTrustedError("certificate_revoked", issuer.subject.rfc4514_string())
        return
    _walk(certificate, known, store, depth=0, now=now)


def _walk(certificate: x509.Certificate, known: tuple[x509.Certificate, ...], store: Store, *, depth: int,
          now: datetime) -> None:
    """Climb from a certificate to one that is trusted, by whichever issuer leads there."""
    worst = NotTrustedError("untrusted_certificate")
    for issuer in _issuers(certificate, known, depth=depth, now=now):
        try:
            if issuer.public_bytes(Encoding.DER) not in store.trusted:
                if depth + 1 >= CHAIN_MAX or issuer.subject == issuer.issuer:
                    continue
                _walk(issuer, known, store, depth=depth + 1, now=now)
            if (status := _status(certificate, issuer, store, now)) != "good":
                raise NotTrustedError("certificate_revoked" if status == "revoked" else "revocation_unknown",
                                      issuer.subject.rfc4514_string())
        except NotTrustedError as error:
            if error.code != "untrusted_certificate":
                worst = error
            continue
        return
    raise worst


def _issuers(certificate: x509.Certificate, known: tuple[x509.Certificate, ...], *, depth: int,
             now: datetime) -> Iterator[x509.Certificate]:
    """Yield the authorities that really signed it, are valid now, and may stand `depth` above the end."""
    for authority in known:
        if authority.subject != certificate.issuer or authority == certificate:
            continue
        if not authority.not_valid_before_utc <= now <= authority.not_valid_after_utc:
            continue
        allowed = authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        if allowed is not None and depth > allowed:
            continue
        algorithm = certificate.signature_hash_algorithm
        if algorithm is None or algorithm.name in WEAK_HASHES:
            continue
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        yield authority


def _status(certificate: x509.Certificate, issuer: x509.Certificate, store: Store, now: datetime) -> str:
    """Return good, revoked or unknown, from the issuer's lists; a list that is out of date still revokes."""
    found = "unknown"
    for revoked in store.lists:
        key = issuer.public_key()
        if revoked.issuer != issuer.subject or not isinstance(key, rsa.RSAPublicKey) \
                or not revoked.is_signature_valid(key):
            continue
        if revoked.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            return "revoked"
        if revoked.last_update_utc <= now and (revoked.next_update_utc is None or now <= revoked.next_update_utc):
            found = "good"
    return found

