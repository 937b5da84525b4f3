"""Configuration of a witness: a TOML file into checked values. A third party runs this, so it is short."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from config.listening import Listening, ListenTable, listening
from config.loader import Section, read_toml
from protocols.errors import ConfigError, Problem, VerificationError
from protocols.evidence import note

LOGS_MAX = 1000
NAME_PATTERN = r"^[^\s+]{1,100}$"
"""A key name of a signed note: no space, no plus sign."""


class WitnessTable(Section):
    """[witness]: who witnesses, and where it keeps its key and what it has seen."""

    name: str = Field(pattern=NAME_PATTERN)
    state_dir: str = "witness-state"
    prefix: str = Field(default="", pattern=r"^(/[A-Za-z0-9._-]+)*$")


class WitnessFile(Section):
    """The whole TOML file. `logs` are the vkeys of the registers to witness."""

    witness: WitnessTable
    listen: ListenTable = ListenTable()
    logs: list[str] = Field(default=[], max_length=LOGS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessConfig:
    """Checked; paths are absolute. `logs` by origin."""

    file: Path
    name: str
    state_dir: Path
    prefix: str
    listening: Listening
    logs: dict[str, note.VerifierKey]

    @property
    def key_file(self) -> Path:
        """The witness's private key, made once."""
        return self.state_dir / "witness-key.pem"


def load_witness(path: Path) -> WitnessConfig:
    """Read and check the file. Raises ConfigError with every problem."""
    raw, problems = read_toml(path, WitnessFile)
    if raw is None:
        raise ConfigError(problems)
    base = path.resolve().parent
    where, problems = listening(raw.listen, base, f"{path}, listen")
    logs: dict[str, note.VerifierKey] = {}
    for index, line in enumerate(raw.logs):
        at = f"{path}, logs[{index}]"
        try:
            key = note.parse_verifier_key(line.strip(), where=at)
        except VerificationError as error:
            problems += error.problems
            continue
        if key.kind != note.ED25519:
            problems.append(Problem.of(at, "platform.config_not_log_key", vkey=line[:80]))
        elif key.name in logs:
            problems.append(Problem.of(at, "platform.config_double_name", name=key.name))
        logs[key.name] = key
    if problems or where is None:
        raise ConfigError(problems)
    return WitnessConfig(file=path.resolve(), name=raw.witness.name, state_dir=base / raw.witness.state_dir,
                         prefix=raw.witness.prefix, listening=where, logs=logs)
