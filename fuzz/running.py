"""Runs targets, each in a process of its own, and says what came of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
TARGETS = tuple(sorted(file.stem.removeprefix("fuzz_") for file in HERE.glob("fuzz_*.py")))

INPUT_S = 20
INPUT_BYTES_MAX = {"checkpoint": 256, "columns": 1024, "modbus": 512, "sparkplug": 1024, "tiles": 1024,
                   "verify": 10_000, "zip": 10_000}
INPUT_BYTES_OTHERS = 4096
MEMORY_MB = 3072
SAID_MAX = 2000
START_S = 120.0
"""Beyond its time a run may take this long to import, to read the corpus and to end."""

MEMORY = Path("/dev/shm")  # noqa: S108  # a folder of our own is made in it: files on disk would take most of the time

_EXECUTED = re.compile(r"stat::number_of_executed_units: (\d+)")
_BEAT = re.compile(r"^#(\d+)\s", re.MULTILINE)
_WRITTEN = re.compile(r"Test unit written to (\S+)")


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one target. inputs: how many were tried. find: the input that broke it, and what was said then."""

    target: str
    inputs: int
    took_s: float
    find: bytes | None = None
    said: str = ""

    def __str__(self) -> str:
        row = f"{self.target:12}{self.inputs:>12,} inputs{self.took_s:9.1f} s{self.inputs / self.took_s:>10,.0f} /s"
        return row if not self.said else f"{row}\n{self.said}"


def run(target: str, *, seconds: int, inputs: int = -1, kept: Path | None = None, module: str = "") -> Run:
    """Fuzz one target until its time is over or so many inputs were tried. kept: a folder for inputs that reach more.

    module: of the target, if it is not one of this folder.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        scratch = Path(folder)
        corpus = kept or scratch / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", module or f"fuzz.fuzz_{target}", str(corpus), str(CORPUS / target),
                   f"-max_total_time={seconds}", f"-runs={inputs}",
                   f"-max_len={INPUT_BYTES_MAX.get(target, INPUT_BYTES_OTHERS)}",
                   f"-timeout={INPUT_S}", f"-rss_limit_mb={MEMORY_MB}", "-print_final_stats=1",
                   f"-artifact_prefix={scratch}/"]
        started = time.monotonic()
        try:
            done = subprocess.run(command, cwd=HERE.parent, env=os.environ | {"TMPDIR": folder}, capture_output=True,
                                  timeout=seconds + START_S, check=False)
        except subprocess.TimeoutExpired as late:  # a machine with much else to do; what was tried counts all the same
            log = (late.stderr or b"").decode("utf-8", "replace")
            beats, find = _BEAT.findall(log), _found(log)
            said = "it had not begun when its time was over" if not beats else ""
            return Run(target, int(beats[-1]) if beats else 0, time.monotonic() - started, find,
                       said if find is None else log[-SAID_MAX:].strip())
        took_s = time.monotonic() - started
        raised, log = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        executed = _EXECUTED.search(log)
        tried = int(executed[1]) if executed else 0
        if done.returncode == 0:
            return Run(target, tried, took_s)
        return Run(target, tried, took_s, _found(log), f"{raised[-SAID_MAX:]}\n{log[-SAID_MAX:]}".strip() or "it ended")


def _found(log: str) -> bytes | None:
    """Return the input that broke a target, if its log names one."""
    written = _WRITTEN.search(log)
    return Path(written[1]).read_bytes() if written else None


def run_all(targets: Iterable[str], *, seconds: int, inputs: int = -1, jobs: int = 1, kept: Path | None = None
            ) -> Iterator[Run]:
    """Fuzz targets, `jobs` at a time, and yield each as it is done."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda name: run(name, seconds=seconds, inputs=inputs, kept=kept / name if kept else None),
                            targets)
