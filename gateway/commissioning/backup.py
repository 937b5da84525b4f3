"""What must survive the PC: recovery key, K, enrolment, slots and configuration, in one file under a passphrase.

The file is one JSON object {format, salt, nonce, ciphertext}, bytes in base64. The passphrase goes through scrypt
(N 2^17, r 8, p 1: 128 MB and about half a second for each guess) into a key of AES-256-GCM; `format` is authenticated
with the text. Inside: JSON as `Backup` lists it. The gateway key is not in it: a replaced PC is a new gateway, which
enrols with `--supersedes`, so that no key ever signs on two machines.

Sources: RFC 7914 (scrypt), NIST SP 800-38D (GCM).
"""

from __future__ import annotations

import base64
import json
import secrets
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from config.gateway import GatewayConfig
from gateway.commissioning.state import ENROLMENT_SHAPES, K_BYTES, State
from protocols import system
from protocols.errors import ConfigError, Problem, VerificationError
from protocols.evidence.shape import Hex, Nullable, Object, Text, require
from protocols.evidence.signed import GATEWAY

FORMAT = "tallystick/backup/v1"
BACKUP_BYTES_MAX = 512 * 1024 * 1024
PASSPHRASE_CHARS_MIN = 12
"""Short enough to write down and keep in a safe; scrypt makes each guess expensive."""

SCRYPT_N = 2**17
SALT_BYTES, NONCE_BYTES, KEY_BYTES = 16, 12, 32
FILES = ("gateway.toml", "devices.csv", "points.csv")

NEEDED = FILES[:2]
TEMPLATES = "templates.csv"


def content(names: Collection[str]) -> Object:
    """Return the shape of a backup with these files of the configuration, their bytes in base64."""
    held = [*NEEDED, *(name for name in (FILES[2], TEMPLATES) if name in names)]
    return Object({
        "gateway": GATEWAY, "recovery_key": Text(4096), "k": Hex(K_BYTES), "toml_name": Text(255),
        "enrolment": Nullable(Text(BACKUP_BYTES_MAX)), "roster": Nullable(Text(BACKUP_BYTES_MAX)),
        "files": Object({name: Text(BACKUP_BYTES_MAX) for name in held})})


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What a backup holds. gateway: the id it is of. enrolment, roster: the texts of their files.

    files: the bytes of the files of the configuration, by the names of FILES and TEMPLATES; one that is not in use is
    left out. toml_name: the name of the TOML file.
    """

    gateway: str
    recovery_key: str = field(repr=False)
    k: bytes = field(repr=False)
    enrolment: str | None
    roster: str | None
    files: dict[str, bytes]
    toml_name: str = "gateway.toml"


def collect(config: GatewayConfig, state: State) -> Backup:
    """Read what is to be kept. Raises ConfigError `commissioning.no_keys`, EvidenceError."""
    pem = state.recovery_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    state.enrolment()  # a broken file is told now, not when the PC is gone
    sources = {FILES[0]: config.file, FILES[1]: config.devices_file, FILES[2]: config.points_file,
               TEMPLATES: config.templates_file}
    return Backup(
        gateway=state.gateway_id(), recovery_key=pem, k=state.enterprise_key(), enrolment=_text(state.enrolment_file),
        roster=_text(state.roster_file), toml_name=config.file.name,
        files={name: path.read_bytes() for name, path in sources.items() if path is not None})


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def save(backup: Backup, path: Path, passphrase: str) -> None:
    """Write the file, mode 0600. Raises FileExistsError rather than overwrite, ConfigError for a short passphrase."""
    check_passphrase(passphrase)
    body = {"gateway": backup.gateway, "recovery_key": backup.recovery_key, "k": backup.k.hex(),
            "toml_name": backup.toml_name, "enrolment": backup.enrolment, "roster": backup.roster,
            "files": {name: _base64(raw) for name, raw in backup.files.items()}}
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    sealed = AESGCM(_key(passphrase, salt)).encrypt(nonce, json.dumps(body).encode(), FORMAT.encode())
    envelope = {"format": FORMAT, "salt": _base64(salt), "nonce": _base64(nonce), "ciphertext": _base64(sealed)}
    system.write_private(path, json.dumps(envelope, indent=1).encode() + b"\n")


def load(path: Path, passphrase: str) -> Backup:
    """Open a backup.

    Raises: ConfigError `commissioning.wrong_passphrase` when passphrase or content is not what it was (which of the
    two cannot be told), `commissioning.no_backup` when the file is something else.
    """
    salt, nonce, sealed = _envelope(path)
    try:
        plain = AESGCM(_key(passphrase, salt)).decrypt(nonce, sealed, FORMAT.encode())
    except InvalidTag as error:
        raise ConfigError(Problem.of(str(path), "commissioning.wrong_passphrase")) from error
    try:
        body = json.loads(plain)
        require(content(body["files"]), body, where=path.name)
        load_pem_private_key(body["recovery_key"].encode(), None)
        if body["enrolment"] is not None:
            enrolment = json.loads(body["enrolment"])
            require(ENROLMENT_SHAPES[set(enrolment) == {"certificate"}], enrolment, where=path.name)
        files = {name: base64.b64decode(text, validate=True) for name, text in body["files"].items()}
    except (ValueError, KeyError, TypeError, RecursionError, VerificationError) as error:
        raise ConfigError(Problem.of(str(path), "commissioning.no_backup", reason=error)) from error
    return Backup(gateway=body["gateway"], recovery_key=body["recovery_key"], k=bytes.fromhex(body["k"]),
                  enrolment=body["enrolment"], roster=body["roster"], files=files,
                  toml_name=Path(body["toml_name"]).name or FILES[0])


def check_passphrase(passphrase: str) -> None:
    """Refuse what could be guessed in an afternoon. Raises ConfigError `commissioning.short_passphrase`."""
    if len(passphrase) < PASSPHRASE_CHARS_MIN:
        raise ConfigError(Problem.of("passphrase", "commissioning.short_passphrase", least=PASSPHRASE_CHARS_MIN))


def _envelope(path: Path) -> tuple[bytes, bytes, bytes]:
    def no_backup(reason: object) -> ConfigError:
        return ConfigError(Problem.of(str(path), "commissioning.no_backup", reason=reason))

    if path.stat().st_size > BACKUP_BYTES_MAX:
        raise ConfigError(Problem.of(str(path), "config.too_large", limit=BACKUP_BYTES_MAX))
    try:
        body: Any = json.loads(path.read_bytes())
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise no_backup(f"format {FORMAT} expected")
        salt, nonce, sealed = (base64.b64decode(body[name], validate=True) for name in ("salt", "nonce", "ciphertext"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise no_backup(error) from error
    if len(salt) != SALT_BYTES or len(nonce) != NONCE_BYTES:
        raise no_backup("salt or nonce")
    return salt, nonce, sealed


def _key(passphrase: str, salt: bytes) -> bytes:
    # The same characters, typed on another system, may be other code points: NFC makes them one.
    typed = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogateescape")
    return Scrypt(salt=salt, length=KEY_BYTES, n=SCRYPT_N, r=8, p=1).derive(typed)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
