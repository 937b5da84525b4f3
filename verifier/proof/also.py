"""`--also FILE`: what a checker holds beside the bundle, sorted by what each file is.

    JSON with a "type"           proof of equivocation, opening, transcript of reads, chain of a server's certificate,
                                 findings of an assessor
    JSON without one             a bare opening of a device (gateway, slot, private, tags)
    a note, or a tlog-proof      a checkpoint, or a proof with its checkpoint, that somebody kept
    a zip that is a bundle       another bundle, whose checkpoints are compared with those of this one
    anything else                a kept file, known by its SHA-256 alone

Nothing is verified here: a file is only read, within limits, and named. What it proves is said by the step that it
concerns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocols.errors import ConfigError, Problem, VerificationError
from protocols.evidence import checkpoint, jcs, note, proof
from protocols.evidence.bundle import open_bundle
from protocols.evidence.sample import FINDINGS_TYPE

EQUIVOCATION = "tallystick/equivocation/v1"
OPENING = "tallystick/opening/v1"
TRANSCRIPT = "tallystick/transcript/v1"
CHAIN = "tallystick/chain/v1"
BARE_OPENING = frozenset({"gateway", "slot", "private", "tags"})

FILES_MAX = 10_000
JSON_BYTES_MAX = 8 * 1024 * 1024
FILE_BYTES_MAX = 16 * 1024**3
_READ_BYTES = 1024 * 1024
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file that is known by its bytes. `path` is None where only its digest was given."""

    name: str
    sha256: str
    size: int
    path: Path | None


@dataclass(frozen=True, slots=True)
class Also:
    """What was brought along: (file name, parsed object) or (file name, bytes), in the order it was given.

    Each `name` stands once, so that a finding about it has one meaning; it is no path.
    """

    equivocations: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    openings: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    transcripts: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    chains: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    findings: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    files: tuple[OtherFile, ...] = ()
    heads: tuple[tuple[str, bytes], ...] = ()
    """Signed checkpoints and tlog-proof files, verbatim."""
    bundles: tuple[OtherFile, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every file, by the name that findings give it."""
        pairs = (*self.equivocations, *self.openings, *self.transcripts, *self.chains, *self.findings, *self.heads)
        return (*(name for name, _ in pairs), *(file.name for file in (*self.files, *self.bundles)))


NOTHING = Also()


def where(name: str) -> str:
    """Return how a finding names a file of `--also`."""
    return f"also/{name}"


def sort(files: Sequence[Path]) -> Also:
    """Read and sort files. Raises ConfigError that names every file which cannot be used."""
    problems: list[Problem] = []
    if len(files) > FILES_MAX:
        raise ConfigError(Problem.of("--also", "also.too_many", count=len(files), limit=FILES_MAX))
    sorted_: dict[str, list[Any]] = {name: [] for name in Also.__dataclass_fields__}
    taken: set[str] = set()
    for path in files:
        name, number = path.name, 1
        while name in taken:
            number += 1
            name = f"{path.name} ({number})"
        taken.add(name)
        try:
            kind, item = _look(name, path)
            sorted_[kind].append(item)
        except VerificationError as error:
            problems += [Problem(str(path), problem.code, problem.args) for problem in error.problems]
        except OSError as error:
            problems.append(Problem.of(str(path), "also.file", reason=error.strerror or type(error).__name__))
    if problems:
        raise ConfigError(problems)
    return Also(**{kind: tuple(items) for kind, items in sorted_.items()})


def _look(name: str, path: Path) -> tuple[str, Any]:
    """Return (field of Also, item). Raises VerificationError or OSError if the file cannot be used."""
    with path.open("rb") as file:
        start = file.read(note.NOTE_BYTES_MAX + 1)
        if start.startswith(b"{"):
            data = start + file.read(JSON_BYTES_MAX + 1 - len(start))
            return _json(name, jcs.parse(data, where=name, bytes_max=JSON_BYTES_MAX))
        if start.startswith(proof.HEADER.encode()):
            data = start + file.read(proof.PROOF_BYTES_MAX + 1 - len(start))
            proof.parse(data, where=name)
            return "heads", (name, data)
        if _is_checkpoint(start):
            return "heads", (name, start)
        digest, size = hashlib.sha256(start), len(start)
        while part := file.read(_READ_BYTES):
            digest.update(part)
            size += len(part)
            if size > FILE_BYTES_MAX:
                raise VerificationError(Problem.of(name, "also.too_large", limit=FILE_BYTES_MAX))
    other = OtherFile(name, digest.hexdigest(), size, path)
    return ("bundles" if start.startswith(_ZIP) and _is_bundle(path) else "files"), other


def _json(name: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, dict):
        if value.keys() == BARE_OPENING:
            return "openings", (name, value)
        kinds = {EQUIVOCATION: "equivocations", OPENING: "openings", TRANSCRIPT: "transcripts", CHAIN: "chains",
                 FINDINGS_TYPE: "findings"}
        kind = value.get("type")
        if isinstance(kind, str) and kind in kinds:
            return kinds[kind], (name, value)
    raise VerificationError(Problem.of(name, "also.unknown_type"))


def _is_checkpoint(data: bytes) -> bool:
    try:
        checkpoint.parse_text(note.parse(data, where="").text, where="")
    except VerificationError:
        return False
    return True


def _is_bundle(path: Path) -> bool:
    """Return whether a zip has the members of a bundle. One that has, and breaks a rule, is refused by name."""
    try:
        open_bundle(path).close()
    except VerificationError as error:
        if any(p.code in ("container.unreadable", "container.missing_member") for p in error.problems):
            return False
        raise
    return True
