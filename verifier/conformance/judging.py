"""Judge another verifier: run it on every folder of the corpus and compare exit status, verdict and causes.

Only the command line and the JSON of `verify` are asked of it: exit 0 valid, 1 invalid, 2 nothing to judge, and with
0 and 1 an object with `verdict` and `findings` [{severity, code, ...}]. Its codes may be its own.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocols.errors import ConfigError, Problem, VerificationError
from protocols.evidence import jcs
from protocols.evidence.shape import Integer, Nullable, Object, OneOf, Text, require
from verifier.conformance.corpus import ALSO, ANCHOR, BUNDLE, EXITS, EXPECTED, POLICY

EXPECTED_SHAPE = Object({"code": Nullable(Text(80)), "exit": Integer(0, 2), "step": Nullable(Integer(1, 10)),
                         "verdict": OneOf(tuple(EXITS))})
EXPECTED_BYTES_MAX = 4096
OUTPUT_BYTES_MAX = 64 * 1024 * 1024
TOLD_MAX = 160


@dataclass(frozen=True, slots=True)
class Folder:
    """One case on disk."""

    path: Path
    verdict: str
    exit: int
    code: str | None

    def arguments(self) -> list[str]:
        """Return what follows the command of the verifier."""
        result = ["verify", str(self.path / BUNDLE), "--policy", str(self.path / POLICY)]
        if (self.path / ANCHOR).is_file():
            result += ["--anchor", str(self.path / ANCHOR)]
        also = self.path / ALSO
        for file in sorted(also.iterdir()) if also.is_dir() else ():
            result += ["--also", str(file)]
        return [*result, "--json"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verifier said. exit None: it did not end in time or could not be run, `told` says why."""

    exit: int | None
    output: bytes
    told: str = ""


Run = Callable[[list[str]], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One case judged. problem: "" or a code of words; code_found: None where no code is expected or none was given."""

    folder: Folder
    exit: int | None
    verdict: str | None
    problem: str = ""
    told: str = ""
    code_found: bool | None = None

    @property
    def ok(self) -> bool:
        """Whether the verifier did what it must."""
        return not self.problem


def load(corpus: Path) -> list[Folder]:
    """Return the cases of a corpus by name. Raises ConfigError if it has none, or one that cannot be read."""
    problems: list[Problem] = []
    folders = []
    try:
        places = sorted(place for place in corpus.iterdir() if (place / EXPECTED).exists())
    except OSError as error:
        raise ConfigError(Problem.of(str(corpus), "conformance.no_corpus")) from error
    for place in places:
        try:
            with (place / EXPECTED).open("rb") as file:
                value = jcs.parse(file.read(EXPECTED_BYTES_MAX + 1).rstrip(b"\n"), where=place.name,
                                  bytes_max=EXPECTED_BYTES_MAX)
            require(EXPECTED_SHAPE, value, where=place.name)
            folders.append(Folder(place.absolute(), value["verdict"], value["exit"], value["code"]))
        except VerificationError as error:
            problems += error.problems
        except OSError as error:
            problems.append(Problem.of(str(place), "conformance.file", reason=error.strerror or type(error).__name__))
    if problems:
        raise ConfigError(problems)
    if not folders:
        raise ConfigError(Problem.of(str(corpus), "conformance.no_corpus"))
    return folders


def by_process(command: Sequence[str], *, timeout_s: float) -> Run:
    """Return what runs `command` with arguments in a process of its own."""
    def run(arguments: list[str]) -> Answer:
        try:
            done = subprocess.run([*command, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                                  timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return Answer(None, b"", f"> {timeout_s:g} s")
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return Answer(done.returncode, done.stdout, told[-1][:TOLD_MAX] if told else "")
    return run


def judge_folder(folder: Folder, run: Run, *, strict: bool) -> Outcome:
    """Run the verifier on one case. strict: the expected code must be among the faults."""
    answer = run(folder.arguments())

    def outcome(problem: str = "", *, verdict: str | None = None, told: str = "",
                found: bool | None = None) -> Outcome:
        return Outcome(folder=folder, exit=answer.exit, verdict=verdict, problem=problem, told=told or answer.told,
                       code_found=found)

    if answer.exit is None:
        return outcome("conformance.timeout")
    if answer.exit not in EXITS.values():
        return outcome("conformance.crashed")
    if answer.exit == EXITS["unusable"]:
        return outcome("" if folder.exit == answer.exit else "conformance.exit", verdict="unusable")
    try:
        verdict, codes = _read(answer.output)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return outcome("conformance.json", told=str(error)[:TOLD_MAX])
    found = None if folder.code is None else folder.code in codes
    if answer.exit != folder.exit:
        return outcome("conformance.exit", verdict=verdict, found=found)
    if verdict != folder.verdict:
        return outcome("conformance.verdict", verdict=verdict, found=found)
    if strict and found is False:
        return outcome("conformance.code", verdict=verdict, found=found, told=", ".join(sorted(codes))[:TOLD_MAX])
    return outcome(verdict=verdict, found=found)


def _read(output: bytes) -> tuple[str, set[str]]:
    """Return (verdict, codes of faults) of a verifier's JSON. Raises ValueError, KeyError, TypeError."""
    if len(output) > OUTPUT_BYTES_MAX:
        raise ValueError(f"more than {OUTPUT_BYTES_MAX} bytes")
    value = json.loads(output)
    return str(value["verdict"]), {str(f["code"]) for f in value["findings"] if f["severity"] == "fault"}


def judge(folders: Sequence[Folder], run: Run, *, strict: bool, jobs: int) -> Iterator[Outcome]:
    """Yield the outcome of every case in their order, `jobs` at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda folder: judge_folder(folder, run, strict=strict), folders)


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what --json prints: docs/schemas/conformance.schema.json."""
    return {
        "cases": [{"name": o.folder.path.name, "expected": {"verdict": o.folder.verdict, "exit": o.folder.exit,
                                                             "code": o.folder.code},
                   "exit": o.exit, "verdict": o.verdict, "ok": o.ok, "code_found": o.code_found,
                   "problem": o.problem or None} for o in outcomes],
        "corpus_sha256": digest([o.folder for o in outcomes]),
        "as_expected": sum(o.ok for o in outcomes), "not_as_expected": sum(not o.ok for o in outcomes)}


def digest(folders: Sequence[Folder]) -> str:
    """Return the SHA-256 over the names and bytes of all files of the cases: says which corpus it was."""
    whole = hashlib.sha256()
    for folder in folders:
        for file in sorted(p for p in folder.path.rglob("*") if p.is_file()):
            whole.update(f"{folder.path.name}/{file.relative_to(folder.path).as_posix()}\0".encode())
            whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()
