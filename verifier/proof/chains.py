"""Step 10: opened certificate chains: from a server's key to a maker whom the policy knows. No network, no revocation.

A chain comes by --also. Its signatures and the key at its leaf are facts: if they do not hold, the file is forged, a
fault. Whether it leads to a maker of this policy, and is built as chains must be, decides a level, not a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from protocols.errors import Problem, VerificationError
from protocols.evidence import probe
from protocols.evidence.encoding import from_base64
from protocols.evidence.roster import normalise
from protocols.evidence.shape import require
from verifier.proof.also import where as also_where
from verifier.proof.findings import NO_ENTRY, POLICY, PROBES, Findings

HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_CRITICAL = (ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE,
             ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
"""Extensions that are looked at or restrict nothing here; any other that is critical makes a chain unusable."""
T = TypeVar("T", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain that leads to a maker of the policy. serials, uris: what its leaf names, normalised as tags are.

    Every certificate below the maker's CA is valid in [from_s, to_s], POSIX seconds.
    """

    name: str
    spki_sha256: str
    serials: frozenset[str]
    uris: frozenset[str]
    from_s: int
    to_s: int


def read(chains: Sequence[tuple[str, Mapping[str, Any]]], maker_cas: Sequence[str], gateway: str,
         found: Findings) -> tuple[Chain, ...]:
    """Check every chain that is about `gateway`; return those that lead to a maker. `maker_cas`: base64 DER."""
    if not chains:
        return ()
    anchors = []
    for text in maker_cas:
        try:
            anchors.append(probe.parse_certificate(from_base64(text, where="policy")))
        except (ValueError, VerificationError):
            found.remark(POLICY, "policy.maker_ca", "policy")
    result = []
    for name, value in chains:
        where = also_where(name)
        certificates = found.get(PROBES, NO_ENTRY, read_certificates, value, where=where)
        if certificates is None:
            continue
        if value["gateway"] != gateway:
            found.remark(PROBES, "chain.unrelated", where, gateway=value["gateway"])
            continue
        try:
            result.append(_trusted(name, value["spki_sha256"], certificates, anchors, where=where))
        except VerificationError as error:
            for problem in error.problems:
                args: dict[str, Any] = dict(problem.args)
                found.remark(PROBES, problem.code, where, **args)
    return tuple(result)


def read_certificates(value: Mapping[str, Any], *, where: str) -> list[x509.Certificate]:
    """Return the certificates of a chain file, each signed by the next, the first with the key that the file names.

    Raises: VerificationError of the shape, `chain.malformed`, `chain.leaf` or `chain.signature`.
    """
    require(probe.CHAIN, value, where=where)
    try:
        certificates = [probe.parse_certificate(from_base64(text, where=where)) for text in value["certificates"]]
        spki = certificates[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, IndexError) as error:
        raise VerificationError(Problem.of(where, "chain.malformed", reason=str(error)[:120])) from error
    if probe.spki_sha256(spki) != value["spki_sha256"]:
        raise VerificationError(Problem.of(where, "chain.leaf", spki_sha256=value["spki_sha256"]))
    for place, (child, parent) in enumerate(pairwise(certificates)):
        if not _issued(child, parent):
            raise VerificationError(Problem.of(where, "chain.signature", place=place))
    return certificates


def _issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(parent)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _trusted(name: str, spki_sha256: str, certificates: list[x509.Certificate], anchors: Sequence[x509.Certificate], *,
             where: str) -> Chain:
    """Return what a chain proves. Raises VerificationError `chain.untrusted`, `chain.weak` or `chain.constraint`."""
    anchor = next((a for a in anchors if a == certificates[-1]), None)
    below = certificates[:-1] if anchor is not None else certificates
    anchor = anchor or next((a for a in anchors if _issued(certificates[-1], a)), None)
    if anchor is None or not below:
        raise VerificationError(Problem.of(where, "chain.untrusted"))
    issuers = [*below[1:], anchor]
    for place, certificate in enumerate(below):
        if not _is_strong(certificate) or not _is_strong_key(issuers[place]):
            raise VerificationError(Problem.of(where, "chain.weak", place=place))
        unknown = [e for e in certificate.extensions if e.critical and e.oid not in _CRITICAL]
        if unknown or not _may_issue(issuers[place], below=place):
            raise VerificationError(Problem.of(where, "chain.constraint", place=place))
    usage = _extension(below[0], x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise VerificationError(Problem.of(where, "chain.constraint", place=0))
    names = _extension(below[0], x509.SubjectAlternativeName)
    uris = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
    serials = [str(a.value) for a in below[0].subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
    return Chain(
        name=name, spki_sha256=spki_sha256, serials=frozenset(map(normalise, serials)) - {""},
        uris=frozenset(map(normalise, uris)) - {""}, from_s=max(_posix(c.not_valid_before_utc) for c in below),
        to_s=min(_posix(c.not_valid_after_utc) for c in below))


def _is_strong(certificate: x509.Certificate) -> bool:
    """Return whether key and signature of a certificate are of a kind and size that is accepted."""
    try:
        hashed = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return False
    return _is_strong_key(certificate) and (hashed is None or isinstance(hashed, HASHES))  # None: Ed25519


def _is_strong_key(certificate: x509.Certificate) -> bool:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return probe.RSA_BITS_MIN <= key.key_size <= probe.RSA_BITS_MAX
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, CURVES)
    return isinstance(key, ed25519.Ed25519PublicKey)


def _may_issue(issuer: x509.Certificate, *, below: int) -> bool:
    """Return whether a certificate is a CA, may sign certificates, and may stand above `below` other CAs."""
    constraints, usage = _extension(issuer, x509.BasicConstraints), _extension(issuer, x509.KeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
        return False
    return constraints.path_length is None or below <= constraints.path_length


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _posix(time: datetime) -> int:
    return int(time.timestamp())
