"""Ed25519 keys: which public keys are accepted, and the ids made of them.

OpenSSL verifies under keys of small order and under encodings that are not canonical, where one signature fits many
messages (C2SP/CCTV lists 914 such cases), so every key is looked at before it is trusted.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from protocols.errors import EvidenceError, Problem, VerificationError

P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P
# y coordinates of the eight points of small order; the sign bit does not matter.
SMALL_ORDER_Y = frozenset({
    0, 1, P - 1,
    int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
    int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
})


def check_public(raw: bytes, *, where: str) -> bytes:
    """Return `raw` (32 bytes) if it is a canonical point on the curve that is not of small order.

    Raises: VerificationError `key.length`, `key.not_canonical`, `key.small_order` or `key.not_on_curve`.
    """
    if len(raw) != 32:
        raise VerificationError(Problem.of(where, "key.length", length=len(raw)))
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= P:
        raise VerificationError(Problem.of(where, "key.not_canonical"))
    if y in SMALL_ORDER_Y:
        raise VerificationError(Problem.of(where, "key.small_order"))
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if pow(x2, (P - 1) // 2, P) != 1:  # Euler: x2 has no square root, so no point has this y
        raise VerificationError(Problem.of(where, "key.not_on_curve"))
    return raw


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Return the raw 32 bytes of the public half."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def spki(raw: bytes) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a raw Ed25519 public key."""
    return Ed25519PublicKey.from_public_bytes(raw).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@lru_cache(maxsize=64)
def _loaded(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def signature_holds(raw: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether `signature` over `message` verifies under the raw key. The key was checked before."""
    try:
        _loaded(raw).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def gateway_id(first_public: bytes) -> str:
    """Return the id of the gateway whose first public key this is: 32 hex of its SHA-256."""
    return hashlib.sha256(first_public).hexdigest()[:32]


def gateway_origin(gateway: str) -> str:
    """Return the origin of a gateway's log; rotation never changes it."""
    return f"tallystick/g/{gateway}"


def generate() -> Ed25519PrivateKey:
    """Return a new private key."""
    return Ed25519PrivateKey.generate()


def save(key: Ed25519PrivateKey, path: Path, *, password: bytes | None = None) -> None:
    """Write a private key as PEM, mode 0600. Raises FileExistsError rather than overwrite a key."""
    protection = BestAvailableEncryption(password) if password else NoEncryption()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))


def load(path: Path, *, password: bytes | None = None) -> Ed25519PrivateKey:
    """Read a PEM private key. Raises EvidenceError `key.unreadable`."""
    try:
        key = load_pem_private_key(path.read_bytes(), password)
    except (OSError, ValueError, TypeError) as error:
        raise EvidenceError(Problem.of(str(path), "key.unreadable", reason=error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise EvidenceError(Problem.of(str(path), "key.unreadable", reason="not an Ed25519 key"))
    return key
