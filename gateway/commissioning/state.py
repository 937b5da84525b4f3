"""The state folder of a gateway: its keys, its enrolment, and where everything else that it remembers lies.

    keys/gateway.pem      signs the log; made on this machine, never leaves it
    keys/gateway-<n>.pem  the keys of later rotations, n from 2 on; the log says which signs from when
    keys/recovery.pem     named in the certificate: revokes the gateway key, and enrols a plant without a platform
    keys/enterprise.key   K, 64 hex: the enterprise's secret that blinds the tags. Whoever has it can test guesses
    enrolment.json        the platform's answer, or {"certificate": ...} of a plant without a platform
    roster.json           slots with their local ids and private parts (gateway/commissioning/roster.py)
    servers.json          connection name -> SPKI digest (hex) of the server that proved its key there
    probes.json           when each server key was challenged last, for the run after this (gateway/probing)
    reads/                transcripts of reads, with process values; opened only by hand (gateway/probing)
    status.json           written by the running agent, read by `status`
    journal/              the log itself (gateway/sealing/journal.py)
    raw/                  raw data that is promised (gateway/keeping)
    pki/                  the OPC UA client certificates: own.der collects, prober.der probes
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from protocols import system
from protocols.errors import ConfigError, EvidenceError, Problem, VerificationError
from protocols.evidence import keys
from protocols.evidence.shape import Hex, Object, require
from protocols.evidence.signed import CERTIFICATE
from protocols.exchange import ENROL_ANSWER

K_BYTES = 32
STATE_BYTES_MAX = 8 * 1024 * 1024
SELF_ENROLMENT = Object({"certificate": CERTIFICATE})
"""enrolment.json of a plant without a platform: a certificate signed by its own recovery key."""

ENROLMENT_SHAPES = {True: SELF_ENROLMENT, False: ENROL_ANSWER}
"""By whether the certificate is all there is."""


@dataclass(frozen=True, slots=True)
class State:
    """One state folder. Nothing is read before it is asked for, so that a folder may be named before it exists."""

    dir: Path

    @property
    def keys_dir(self) -> Path:
        """Folder of the three secrets, mode 0700."""
        return self.dir / "keys"

    @property
    def gateway_key_file(self) -> Path:
        """PEM of the key that signs the log."""
        return self.keys_dir / "gateway.pem"

    @property
    def recovery_key_file(self) -> Path:
        """PEM of the key that revokes."""
        return self.keys_dir / "recovery.pem"

    @property
    def enterprise_key_file(self) -> Path:
        """K in hex."""
        return self.keys_dir / "enterprise.key"

    @property
    def enrolment_file(self) -> Path:
        """What `enrol` was answered."""
        return self.dir / "enrolment.json"

    @property
    def roster_file(self) -> Path:
        """Slots with their private parts."""
        return self.dir / "roster.json"

    @property
    def servers_file(self) -> Path:
        """Server keys by connection."""
        return self.dir / "servers.json"

    @property
    def probes_file(self) -> Path:
        """When each server key was challenged last."""
        return self.dir / "probes.json"

    @property
    def reads_dir(self) -> Path:
        """Transcripts of reads."""
        return self.dir / "reads"

    @property
    def status_file(self) -> Path:
        """What the running agent says of itself."""
        return self.dir / "status.json"

    @property
    def journal_dir(self) -> Path:
        """The log."""
        return self.dir / "journal"

    @property
    def raw_dir(self) -> Path:
        """Raw segments and their promises (gateway/keeping/keeper.py); only with `[keep] raw = true`."""
        return self.dir / "raw"

    @property
    def pki_dir(self) -> Path:
        """Our OPC UA certificates and their keys."""
        return self.dir / "pki"

    def has_keys(self) -> bool:
        """Return whether `init` has made the three secrets."""
        return all(path.exists() for path in self._secrets())

    def create_keys(self, k: bytes | None = None, recovery: Ed25519PrivateKey | None = None) -> None:
        """Make the three secrets, mode 0600.

        Args:
            k: 32 bytes, when this enterprise has a K already (another gateway, a backup); None makes one.
            recovery: the recovery key of a backup; None makes one.
        Raises: ConfigError `commissioning.keys_exist` rather than overwrite any of them.
        """
        if k is not None and len(k) != K_BYTES:
            raise ValueError(f"K has {K_BYTES} bytes, not {len(k)}")
        there = [path for path in self._secrets() if path.exists()]
        if there:
            raise ConfigError([Problem.of(str(path), "commissioning.keys_exist") for path in there])
        self.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.keys_dir.mkdir(exist_ok=True, mode=0o700)
        system.write_private(self.enterprise_key_file, (k or secrets.token_bytes(K_BYTES)).hex().encode() + b"\n")
        keys.save(recovery or keys.generate(), self.recovery_key_file)
        keys.save(keys.generate(), self.gateway_key_file)  # last: a folder with this key is complete

    def gateway_key(self) -> Ed25519PrivateKey:
        """Return the key that signs the log. Raises ConfigError `commissioning.no_keys`, EvidenceError."""
        return self._key(self.gateway_key_file)

    def gateway_keys(self) -> list[Ed25519PrivateKey]:
        """Return every key that signed the log, the first one first, and one that a rotation has made but not sealed.

        Raises: ConfigError `commissioning.no_keys`, EvidenceError `key.unreadable`.
        """
        return [self.gateway_key(), *(keys.load(path) for _, path in self._later_keys())]

    def next_gateway_key(self, used: Collection[str]) -> Ed25519PrivateKey:
        """Return the newest key if it is not among those `used` (64 hex), else a new one; durable when this returns.

        So a rotation that was cut before it was sealed goes on with the key that it had made.
        """
        last = self.gateway_keys()[-1]
        if keys.public_bytes(last).hex() not in used:
            return last
        number = max((number for number, _ in self._later_keys()), default=1) + 1
        new = keys.generate()
        system.replace(self.keys_dir / f"gateway-{number}.pem",
                       new.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return new

    def _later_keys(self) -> list[tuple[int, Path]]:
        """Return (number, file) of the keys of rotations, ascending."""
        found = ((re.fullmatch(r"gateway-([0-9]{1,9})\.pem", path.name), path)
                 for path in self.keys_dir.glob("gateway-*"))
        return sorted((int(match[1]), path) for match, path in found if match)

    def recovery_key(self) -> Ed25519PrivateKey:
        """Return the recovery key. Raises ConfigError `commissioning.no_keys`, EvidenceError `key.unreadable`."""
        return self._key(self.recovery_key_file)

    def enterprise_key(self) -> bytes:
        """Return K, 32 bytes. Raises ConfigError `commissioning.no_keys`, EvidenceError `key.unreadable`."""
        try:
            return read_k(self.enterprise_key_file)
        except FileNotFoundError as error:
            raise self._no_keys() from error

    def gateway_id(self) -> str:
        """Return the id, 32 hex: of the first key ever. The enrolment remembers it when the key has been changed."""
        enrolment = self.enrolment()
        if enrolment is not None:
            return keys.gateway_id(bytes.fromhex(enrolment["certificate"]["gateway_key"]))
        return keys.gateway_id(keys.public_bytes(self.gateway_key()))

    def enrolment(self) -> dict[str, Any] | None:
        """Return the enrolment, None before `enrol`. Raises EvidenceError `commissioning.state_broken`."""
        body = self._read_json(self.enrolment_file)
        if body is None:
            return None
        alone = isinstance(body, dict) and set(body) == {"certificate"}
        self._require(ENROLMENT_SHAPES[alone], body, self.enrolment_file)
        return dict(body)

    def save_enrolment(self, answer: Mapping[str, Any]) -> None:
        """Keep the answer of the platform, whole or not at all."""
        write_json(self.enrolment_file, answer)

    def server_keys(self) -> dict[str, str]:
        """Return connection name -> SPKI digest (hex); empty before the first secured connection."""
        body = self._read_json(self.servers_file)
        if body is None:
            return {}
        names = body if isinstance(body, dict) else {}
        self._require(Object(dict.fromkeys(names, Hex(32))), body, self.servers_file)
        return dict(body)

    def probes(self) -> object:
        """Return what was remembered of challenges; None if there is nothing, or nothing that can be read."""
        try:
            return self._read_json(self.probes_file)
        except EvidenceError:  # no evidence, and made anew with the next challenge
            return None

    def save_server_keys(self, digests: Mapping[str, str]) -> None:
        """Keep the server keys, whole or not at all."""
        write_json(self.servers_file, dict(sorted(digests.items())))

    def _secrets(self) -> tuple[Path, ...]:
        return (self.enterprise_key_file, self.recovery_key_file, self.gateway_key_file)

    def _no_keys(self) -> ConfigError:
        return ConfigError(Problem.of(str(self.keys_dir), "commissioning.no_keys"))

    def _key(self, path: Path) -> Ed25519PrivateKey:
        if not path.exists():
            raise self._no_keys()
        return keys.load(path)

    def _read_json(self, path: Path) -> Any:
        """Return what a file of ours holds, None if there is none."""
        try:
            if path.stat().st_size > STATE_BYTES_MAX:
                raise ValueError(f"larger than {STATE_BYTES_MAX} bytes")
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise EvidenceError(Problem.of(str(path), "commissioning.state_broken", reason=error)) from error

    def _require(self, shape: Object, body: object, path: Path) -> None:
        try:
            require(shape, body, where=path.name)
        except VerificationError as error:
            raise EvidenceError(Problem.of(str(path), "commissioning.state_broken", reason=error)) from error


def read_k(path: Path) -> bytes:
    """Read a file of K: 64 hex digits. Raises FileNotFoundError, EvidenceError `key.unreadable`."""
    try:
        raw = bytes.fromhex(path.read_bytes()[:4096].decode("ascii").strip())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise EvidenceError(Problem.of(str(path), "key.unreadable", reason=error)) from error
    if len(raw) != K_BYTES:
        raise EvidenceError(Problem.of(str(path), "key.unreadable", reason=f"{len(raw)} bytes instead of {K_BYTES}"))
    return raw


def write_json(path: Path, body: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Write a file of the state folder whole or not at all, mode 0600, durable before this returns.

    indent: for people; None for large files, which are then written ten times as fast.
    """
    system.replace(path, json.dumps(body, ensure_ascii=False, indent=indent, sort_keys=True).encode() + b"\n")
