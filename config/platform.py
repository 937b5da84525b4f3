"""Configuration of the platform: a TOML file into checked values, and the policy that follows from it."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field

from config.listening import LOOPBACK, Listening, ListenTable, listening
from config.loader import Section, read_toml
from protocols.errors import ConfigError, Problem, VerificationError
from protocols.evidence import keys, note

WITNESSES_MAX = 50
GROUP = "co-signers"
"""Name of the group in the policy text; no witness may have it."""


class PlatformTable(Section):
    """[platform]: names, folders, and how often the register grows."""

    name: str = Field(default="Tallystick", max_length=100)
    origin: str = Field(pattern=r"^[^\s+]{1,200}$")
    data_dir: str = "platform-data"
    keys_dir: str = "platform-keys"
    register_interval_s: float = Field(default=10.0, ge=0.1, le=3600)
    quorum: str = Field(default="all", pattern=r"^(all|any|none|[1-9][0-9]?)$")


class WitnessTable(Section):
    """[[witnesses]]: one that co-signs the register. `independent` is what the operator states; checkers decide."""

    vkey: str
    url: str
    independent: bool = True
    ca_file: str | None = None


class LimitsTable(Section):
    """[limits]: what one client may ask for. Bodies have the fixed limit of the exchange format."""

    requests_per_s: float = Field(default=20.0, ge=0.1, le=100_000)
    requests_burst: int = Field(default=200, ge=1, le=1_000_000)
    body_timeout_s: float = Field(default=120.0, ge=1, le=3600)
    witness_timeout_s: float = Field(default=10.0, ge=0.1, le=300)


class StatementsTable(Section):
    """[statements]: whose statements enter the register, as keys (64 hex). Checkers decide for themselves."""

    supervisors: list[str] = Field(default=[], max_length=1000)
    auditors: list[str] = Field(default=[], max_length=1000)


class PlatformFile(Section):
    """The whole TOML file."""

    platform: PlatformTable
    listen: ListenTable = ListenTable()
    limits: LimitsTable = LimitsTable()
    statements: StatementsTable = StatementsTable()
    witnesses: list[WitnessTable] = Field(default=[], max_length=WITNESSES_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A witness that is asked. `url` ends without a slash; its name is that of its key."""

    key: note.VerifierKey
    url: str
    independent: bool
    ca_file: Path | None

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the context that trusts `ca_file` only; None means the system's trust."""
        return None if self.ca_file is None else ssl.create_default_context(cafile=str(self.ca_file))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformConfig:
    """Checked; paths are absolute."""

    file: Path
    name: str
    origin: str
    data_dir: Path
    keys_dir: Path
    register_interval_s: float
    threshold: str
    listening: Listening
    limits: LimitsTable
    witnesses: tuple[Witness, ...]
    supervisors: frozenset[str] = frozenset()
    auditors: frozenset[str] = frozenset()

    @property
    def platform_key_file(self) -> Path:
        """Signs certificates and revocations."""
        return self.keys_dir / "platform-key.pem"

    @property
    def register_key_file(self) -> Path:
        """Signs the register's checkpoints."""
        return self.keys_dir / "register-key.pem"

    @property
    def independent(self) -> list[str]:
        """Names of the witnesses that the operator calls independent."""
        return [w.key.name for w in self.witnesses if w.independent]

    def policy_text(self, register: note.VerifierKey) -> str:
        """Return the tlog-policy: the register, its witnesses, and the quorum."""
        lines = [f"log {register}", *(f"witness {w.key.name} {w.key}" for w in self.witnesses)]
        if self.threshold == "none" or not self.witnesses:
            return "\n".join([*lines, "quorum none", ""])
        names = " ".join(w.key.name for w in self.witnesses)
        return "\n".join([*lines, f"group {GROUP} {self.threshold} {names}", f"quorum {GROUP}", ""])


def load_platform(path: Path) -> PlatformConfig:
    """Read and check the file. Raises ConfigError with every problem."""
    raw, problems = read_toml(path, PlatformFile)
    if raw is None:
        raise ConfigError(problems)
    base = path.resolve().parent
    where, problems = listening(raw.listen, base, f"{path}, listen")
    witnesses = []
    for index, table in enumerate(raw.witnesses):
        witness, found = _witness(table, base, f"{path}, witnesses[{index}]")
        problems += found
        witnesses += [witness] if witness else []
    names = [w.key.name for w in witnesses]
    publics = [w.key.public for w in witnesses]
    problems += [Problem.of(f"{path}, witnesses", "platform.config_double_name", name=name)
                 for name in sorted({n for n in names if names.count(n) > 1 or n == GROUP})]
    problems += [Problem.of(f"{path}, witnesses", "policy.duplicate_key", name=name)
                 for name, public in zip(names, publics, strict=True) if publics.count(public) > 1]
    supervisors, found = _keys(raw.statements.supervisors, f"{path}, statements.supervisors")
    auditors, more = _keys(raw.statements.auditors, f"{path}, statements.auditors")
    problems += found + more
    quorum = raw.platform.quorum
    if quorum.isdigit() and int(quorum) > len(raw.witnesses):
        problems.append(Problem.of(f"{path}, platform.quorum", "platform.config_quorum", quorum=quorum,
                                   witnesses=len(raw.witnesses)))
    if problems or where is None:
        raise ConfigError(problems)
    return PlatformConfig(
        file=path.resolve(), name=raw.platform.name, origin=raw.platform.origin,
        data_dir=base / raw.platform.data_dir, keys_dir=base / raw.platform.keys_dir,
        register_interval_s=raw.platform.register_interval_s, threshold=quorum, listening=where, limits=raw.limits,
        witnesses=tuple(witnesses), supervisors=supervisors, auditors=auditors)


def _keys(texts: list[str], where: str) -> tuple[frozenset[str], list[Problem]]:
    """Return public keys in hex, as `tallystick sign key` prints them."""
    problems: list[Problem] = []
    for index, text in enumerate(texts):
        at = f"{where}[{index}]"
        if not re.fullmatch("[0-9a-f]{64}", text):
            problems.append(Problem.of(at, "statements.config_key", value=text[:80]))
            continue
        try:
            keys.check_public(bytes.fromhex(text), where=at)
        except VerificationError as error:
            problems += error.problems
    return frozenset(texts), problems


def _witness(table: WitnessTable, base: Path, where: str) -> tuple[Witness | None, list[Problem]]:
    problems = []
    key = None
    try:
        key = note.parse_verifier_key(table.vkey.strip(), where=f"{where}.vkey")
        if key.kind != note.COSIGNATURE_V1:
            problems.append(Problem.of(f"{where}.vkey", "platform.config_not_witness_key", vkey=table.vkey[:80]))
    except VerificationError as error:
        problems += error.problems
    parts = urlsplit(table.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        problems.append(Problem.of(f"{where}.url", "platform.config_url", url=table.url[:200]))
    elif parts.scheme == "http" and parts.hostname not in LOOPBACK:
        problems.append(Problem.of(f"{where}.url", "platform.config_plain_witness", url=table.url[:200]))
    if problems or key is None:
        return None, problems
    return Witness(key=key, url=table.url.rstrip("/"), independent=table.independent,
                   ca_file=base / table.ca_file if table.ca_file else None), []
