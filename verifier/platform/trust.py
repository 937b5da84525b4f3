"""The platform's two keys, and the policy that names them and the witnesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from config.platform import PlatformConfig
from protocols.errors import ConfigError, VerificationError
from protocols.evidence import keys, note
from protocols.evidence.policy import Quorum, parse_quorum


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """`policy`: the policy file that a checker may start from; whom to trust stays the checker's decision."""

    platform_key: Ed25519PrivateKey
    register_key: Ed25519PrivateKey
    quorum: Quorum
    policy: dict[str, Any]


def load_trust(config: PlatformConfig) -> Trust:
    """Load the keys and join them with the configured witnesses.

    Raises: EvidenceError `key.unreadable`; ConfigError when keys and witnesses make no policy.
    """
    platform_key = keys.load(config.platform_key_file)
    register_key = keys.load(config.register_key_file)
    register = note.VerifierKey(config.origin, note.ED25519, keys.public_bytes(register_key))
    text = config.policy_text(register)
    try:
        quorum = parse_quorum(text, where=str(config.file))
    except VerificationError as error:
        raise ConfigError(error.problems) from error
    return Trust(platform_key=platform_key, register_key=register_key, quorum=quorum, policy={
        "register": str(register), "platform": keys.public_bytes(platform_key).hex(), "witnesses": text,
        "independent": config.independent})
