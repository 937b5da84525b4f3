"""Servers with keys, what they sign, and the makers who certify them: for `probe`, `reads`, attestations and chains.

    seal_probe(gateway, "press")                          # honest; every field can be told to lie
    seq, transcript = seal_reads(gateway, count=4)
    attest(world, gateway, slot=0, server="press")
    chain(gateway, "press", maker="maker", serial="S-0")  # what --also takes

Keys are fixed by their names and every signature is the same at every run, so bundles are the same bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from protocols.evidence import keys, probe, reads, signed
from protocols.evidence.encoding import to_base64
from verifier.conformance.world import Gateway, World, key_of, public
from verifier.proof.also import CHAIN

BASIC, AES128, AES256 = probe.PKCS1_POLICIES[0], probe.PKCS1_POLICIES[1], probe.PSS_POLICIES[0]
NOT_BEFORE, NOT_AFTER = datetime(2026, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)
_EXPONENT = 65537
_ROUNDS = 40
_SMALL_PRIMES = [n for n in range(3, 2000, 2) if all(n % d for d in range(3, math.isqrt(n) + 1, 2))]


@lru_cache(maxsize=64)
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return the RSA key of this name, always the same. Anybody can compute it: for evidence that proves nothing."""
    stream = _numbers(f"rsa {name} {bits}", bits // 2)
    p = next(n for n in stream if _is_prime(n))
    q = next(n for n in stream if _is_prime(n) and n != p)
    d = pow(_EXPONENT, -1, math.lcm(p - 1, q - 1))
    return rsa.RSAPrivateNumbers(
        p=p, q=q, d=d, dmp1=d % (p - 1), dmq1=d % (q - 1), iqmp=pow(q, -1, p),
        public_numbers=rsa.RSAPublicNumbers(_EXPONENT, p * q)).private_key(unsafe_skip_rsa_key_validation=True)


def _numbers(seed: str, bits: int) -> Iterator[int]:
    """Yield odd numbers of exactly so many bits, the two highest set, so that a product of two has twice as many."""
    count = 0
    while True:
        data = b"".join(hashlib.sha256(f"{seed} {count} {i}".encode()).digest() for i in range(-(-bits // 256)))
        yield int.from_bytes(data, "big") >> (len(data) * 8 - bits) | 3 << (bits - 2) | 1
        count += 1


def _is_prime(n: int) -> bool:
    if any(n % prime == 0 for prime in _SMALL_PRIMES) or (n - 1) % _EXPONENT == 0:
        return False
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, *_SMALL_PRIMES[: _ROUNDS // 8]):
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def spki(name: str, bits: int = 2048) -> bytes:
    """Return the DER SPKI of the server of this name."""
    return rsa_key(name, bits).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def server(name: str, *, via: int | None = None) -> dict[str, Any]:
    """Return the `server` field of the row of a device behind this server."""
    return {"spki_sha256": probe.spki_sha256(spki(name)), "via": via}


@lru_cache(maxsize=64)
def client_certificate(gateway: str) -> bytes:
    """Return the certificate with which a gateway (32 hex) probes; all gateways here share one key, fixed as well."""
    return probe.make_certificate(gateway, rsa_key("client"), not_before=NOT_BEFORE, not_after=NOT_AFTER, serial=1)


def answer(name: str, message: bytes, policy_uri: str = BASIC, *, bits: int = 2048) -> bytes:
    """Return what the server signs: RSASSA-PKCS1-v1_5, or RSASSA-PSS with a salt that follows from the message."""
    key = rsa_key(name, bits)
    if policy_uri not in probe.PSS_POLICIES:
        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    # RFC 8017, 9.1.1, with a fixed salt; the library draws one.
    size = key.key_size
    length, salt = -(-(size - 1) // 8), hashlib.sha256(b"salt" + message).digest()
    digest = hashlib.sha256(bytes(8) + hashlib.sha256(message).digest() + salt).digest()
    block = bytes(length - len(salt) - len(digest) - 2) + b"\x01" + salt
    masked = bytearray(a ^ b for a, b in zip(block, _mgf1(digest, len(block)), strict=True))
    masked[0] &= 0xFF >> (8 * length - (size - 1))
    numbers = key.private_numbers()
    m = int.from_bytes(bytes(masked) + digest + b"\xbc", "big")
    return pow(m, numbers.d, numbers.public_numbers.n).to_bytes(size // 8, "big")


def _mgf1(seed: bytes, length: int) -> bytes:
    blocks = -(-length // 32)
    return b"".join(hashlib.sha256(seed + i.to_bytes(4, "big")).digest() for i in range(blocks))[:length]


def probe_fields(gateway: Gateway, name: str = "press", policy_uri: str = BASIC, **lies: Any) -> dict[str, Any]:
    """Return the fields of an honest `probe` sealed now, with lies: of fields, or of what the answer is made of.

    Besides fields: `challenged` (changes of what c is made of: seen, gateway_spki, start_s, server_spki), `signer` (the
    server that signs), `message` (what it signs), `bits`.
    """
    bits = lies.pop("bits", 2048)
    key, start_s = spki(name, bits), lies.pop("start_s", gateway.now_s)
    seen = lies.pop("seen", gateway.world.seen())
    if seen is None:
        raise ValueError("no probe without a co-signed register checkpoint")
    made_of: dict[str, Any] = {"seen": seen, "gateway_spki": keys.spki(public(gateway.key_name)), "start_s": start_s,
                               "server_spki": key} | lies.pop("challenged", {})
    c = probe.challenge(made_of.pop("seen"), **made_of)
    certificate = lies.pop("certificate", client_certificate(gateway.id))
    signature = answer(lies.pop("signer", name), lies.pop("message", certificate + c), policy_uri, bits=bits)
    return {"start_s": start_s, "seen": seen, "policy_uri": policy_uri, "server_spki": to_base64(key),
            "client_certificate": to_base64(certificate), "c": c.hex(), "signature": to_base64(signature)} | lies


def seal_probe(gateway: Gateway, name: str = "press", policy_uri: str = BASIC, **lies: Any) -> int:
    """Seal a probe of a server; return its seq. See `probe_fields`."""
    return gateway.add("probe", **probe_fields(gateway, name, policy_uri, **lies))


def seal_reads(gateway: Gateway, *, count: int = 4, silent: Sequence[int] = (),
               told: Sequence[Mapping[str, Any]] | None = None, **lies: Any) -> tuple[int, dict[str, Any]]:
    """Seal the reads of the current window; return (seq, transcript). `silent`: reads (i) that nobody answered.

    told: the rows of another transcript than the honest one, whose points are drawn from those without keys.
    """
    seen, start_s = gateway.world.seen(), gateway.now_s
    if seen is None:
        raise ValueError("no reads without a co-signed register checkpoint")
    points = [p["point"] for p in gateway.points if p["state"] == "alive" and p["protocol"] in reads.PROTOCOLS]
    due = reads.schedule(seen, gateway=gateway.id, start_s=start_s, len_s=gateway.len_s, points=points, count=count)
    rows = [dict(row) for row in told] if told is not None else [
        {"i": i, "point": point, "at_ms": at_ms, "asked_ms": at_ms + 2,
         "answered_ms": None if i in silent else at_ms + 9, "value": None if i in silent else str(20 + i),
         "blind": hashlib.sha256(f"blind {gateway.id} {start_s} {i}".encode()).hexdigest()[:32]}
        for i, (point, at_ms) in enumerate(due)]
    answered = sum(row["answered_ms"] is not None for row in rows)
    seq = gateway.add("reads", **{"start_s": start_s, "roster": gateway.roster_seq, "seen": seen, "rows": len(rows),
                                  "answered": answered, "root": reads.root(rows)} | lies)
    return seq, {"type": reads.TYPE, "gateway": gateway.id, "seq": seq, "rows": rows}


def attest(world: World, gateway: Gateway, slot: int, server_name: str = "press", /, *, signer: str = "supervisor",
           **lies: Any) -> int:
    """Put an attestation into the register: this server key belongs to this slot, with all its tags."""
    row = gateway.devices[slot]
    fields = {"gateway": gateway.id, "slot": slot, "kind": row["kind"], "tags": row["tags"],
              "server_spki_sha256": probe.spki_sha256(spki(server_name))}
    signature = lies.pop("sig", None)
    statement = signed.sign("attestation", fields | lies, key_of(signer))
    return world.add({"type": "attest", "attestation": statement | ({} if signature is None else {"sig": signature})},
                     gateway.uscc)


def maker_ca(name: str = "maker", **changes: Any) -> bytes:
    """Return the DER of a maker's CA certificate."""
    return certificate_of(name, name, key_of(f"ca {name}").public_key(), ca=True, **changes)


def chain(gateway: Gateway, /, name: str = "press", *, maker: str = "maker", serial: str | None = None,
          uri: str | None = None, through: Sequence[str] = (), leaf: Mapping[str, Any] | None = None,
          **lies: Any) -> dict[str, Any]:
    """Return the opened chain of a server. `through`: CAs between maker and leaf, the maker's side first.

    leaf: changes of the leaf certificate (`_certificate`); lies: of fields of the file.
    """
    path = [maker, *through]
    certificates = [certificate_of(child, parent, key_of(f"ca {child}").public_key(), ca=True)
                    for parent, child in pairwise(path)]
    certificates.append(certificate_of(f"server {name}", path[-1], rsa_key(name).public_key(), **{
        "serial": serial, "uri": uri} | dict(leaf or {})))
    return {"type": CHAIN, "gateway": gateway.id, "spki_sha256": probe.spki_sha256(spki(name)),
            "certificates": [to_base64(der) for der in certificates[::-1]]} | lies


def certificate_of(subject: str, issuer: str, key: Any, *, ca: bool = False, serial: str | None = None,
                   uri: str | None = None, not_before: datetime = NOT_BEFORE, not_after: datetime = NOT_AFTER,
                   signer: Ed25519PrivateKey | rsa.RSAPrivateKey | None = None, path_length: int | None = None,
                   key_cert_sign: bool | None = None, critical: x509.ExtensionType | None = None) -> bytes:
    """Return a certificate that the CA `issuer` signed."""
    names = [x509.NameAttribute(NameOID.COMMON_NAME, subject)]
    if serial is not None:
        names.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))
    usage = x509.KeyUsage(digital_signature=not ca, content_commitment=False, key_encipherment=False,
                          data_encipherment=False, key_agreement=False, crl_sign=ca,
                          key_cert_sign=ca if key_cert_sign is None else key_cert_sign,
                          encipher_only=False, decipher_only=False)
    builder = x509.CertificateBuilder(
        subject_name=x509.Name(names), issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]),
        public_key=key, serial_number=7, not_valid_before=not_before, not_valid_after=not_after)
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    builder = builder.add_extension(usage, critical=True)
    if uri is not None:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
    if critical is not None:
        builder = builder.add_extension(critical, critical=True)
    signer = signer or key_of(f"ca {issuer}")
    return builder.sign(signer, hashes.SHA256() if isinstance(signer, rsa.RSAPrivateKey) else None).public_bytes(
        Encoding.DER)
