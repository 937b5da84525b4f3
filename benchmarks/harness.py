"""Side by side: our path and a named peer in the same run, CPU seconds per item, the server on the other core.

A benchmark offers `rows(wanted)`, a generator of `Row`; `benchmarks/run.py` knows which rows it can measure. In short:

    with serving([compiled("modbus_server.c")]) as port:
        runs = side_by_side({"ours": [PYTHON, "benchmarks/modbus_client.py", "ours", str(port)],
                             "libmodbus": [compiled("modbus_client.c", "-lmodbus"), str(port)]})
    yield Row(id="M1", measures=(ratio(runs["libmodbus"], runs["ours"], target=1.5, peer="libmodbus"),), ...)

The process under test is a child. It does something to warm up, then takes its own `getrusage` around the work, and
prints {"items": N, "cpu_s": S, "wall_s": S} as its last line; in Python `tell(items, began)` does that.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
BUILD = HERE / ".build"
RESULTS = HERE / "results" / "latest.json"
PYTHON = sys.executable
REPEATS = 5
CHILD_S_MAX = 300
"""No single run of a child takes longer."""

READY_S = 20.0

Command = Sequence[str | Path]


class CannotMeasureError(Exception):
    """A row that this machine cannot measure; the text says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one run of a process under test told: items, CPU seconds (user and system), wall clock.

    other: whatever else it told.
    """

    items: float
    cpu_s: float
    wall_s: float
    other: Mapping[str, float] = field(default_factory=dict)

    @property
    def per_item_s(self) -> float:
        """CPU seconds for one item."""
        return self.cpu_s / self.items


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure with a target: median, smallest and largest of the repeats. at_least: the target is a lower bound."""

    value: float
    min: float
    max: float
    unit: str
    target: float
    peer: str
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the median is good enough."""
        return self.value >= self.target if self.at_least else self.value <= self.target

    def entry(self) -> dict[str, Any]:
        """Return the figure as it stands in `latest.json`."""
        return {"value": _short(self.value), "min": _short(self.min), "max": _short(self.max), "unit": self.unit,
                "target": f"{'>=' if self.at_least else '<='} {self.target:g}", "met": self.met, "peer": self.peer}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table of targets. The first measure is the row's own figure, the row is met if all of them are.

    why: set where nothing could be measured. notes: figures without a target, by name, as text.
    """

    id: str
    measures: tuple[Measure, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    def entry(self) -> dict[str, Any]:
        """Return the row as it stands in `latest.json`; figures beyond the first are in `also`."""
        if not self.measures:
            first: dict[str, Any] = dict.fromkeys(("value", "min", "max", "unit", "target", "met", "peer"))
        else:
            first = self.measures[0].entry()
            first["met"] = all(measure.met for measure in self.measures)
        return {"id": self.id, **first, "also": [measure.entry() for measure in self.measures[1:]],
                "versions": dict(self.versions), "notes": dict(self.notes), "why": self.why}


def measure(values: Sequence[float], *, unit: str, target: float, peer: str = "", at_least: bool = True) -> Measure:
    """Return the figure of some repeats."""
    return Measure(value=statistics.median(values), min=min(values), max=max(values), unit=unit, target=target,
                   peer=peer, at_least=at_least)


def ratio(theirs: Sequence[Reading], ours: Sequence[Reading], *, target: float, peer: str) -> Measure:
    """Return how many times more CPU the peer took for an item, repeat by repeat: 2 says that ours takes half."""
    return measure([a.per_item_s / b.per_item_s for a, b in zip(theirs, ours, strict=True)], unit="x", target=target,
                   peer=peer)


def told(readings: Sequence[Reading], *, unit: str, scale: float = 1e6) -> str:
    """Return "median (min to max) unit" of CPU seconds for one item, times `scale`: 1e6 for microseconds an item."""
    values = [reading.per_item_s * scale for reading in readings]
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g}) {unit}"


def cores() -> tuple[int, int]:
    """Return the core of servers and the core of the process under test; the same where there is only one."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    return usable[0], usable[min(1, len(usable) - 1)]


def on_core(core: int) -> Callable[[], None]:
    """Return what a child calls before it begins."""
    def pin() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {core})
    return pin


def run(command: Command, *, env: Mapping[str, str] | None = None) -> Reading:
    """Run a process under test on its core; return what its last line tells."""
    values = last_line(command, env=env)
    return Reading(items=values.pop("items"), cpu_s=values.pop("cpu_s"), wall_s=values.pop("wall_s"), other=values)


def last_line(command: Command, *, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a process on the core of processes under test; return the JSON object of its last line."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=CHILD_S_MAX,
                          preexec_fn=on_core(cores()[1]), env=_environment(env), cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{_name(command)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    values: dict[str, Any] = json.loads(lines[-1])
    return values


def side_by_side(commands: Mapping[str, Command], *, repeats: int = REPEATS,
                 env: Mapping[str, str] | None = None) -> dict[str, list[Reading]]:
    """Run all commands in turn, `repeats` times, so that a busy neighbour meets all of them alike."""
    found: dict[str, list[Reading]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            found[name].append(run(command, env=env))
    return found


@contextlib.contextmanager
def serving(command: Command, *, env: Mapping[str, str] | None = None, core: int | None = None,
            port: int = 0) -> Iterator[int]:
    """Run a server on its own core until the end of the `with`. It prints its port as its first line.

    port: where a server listens that prints none, and is asked until it does.
    """
    process = subprocess.Popen([str(part) for part in command], text=True,
                               stdout=subprocess.DEVNULL if port else subprocess.PIPE,
                               preexec_fn=on_core(cores()[0] if core is None else core), env=_environment(env),
                               cwd=ROOT)
    try:
        if port:
            _await_listening(process, port, _name(command))
            yield port
            return
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line.isdigit():
            raise RuntimeError(f"{_name(command)} told no port but {line!r}")
        yield int(line)
    finally:
        process.terminate()
        try:
            process.wait(READY_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _await_listening(process: subprocess.Popen[str], port: int, name: str) -> None:
    end_s = time.monotonic() + READY_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        if process.poll() is not None or time.monotonic() > end_s:
            raise RuntimeError(f"{name} does not listen on {port}")
        time.sleep(0.05)


def free_port() -> int:
    """Return a port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compiled(source: str, *flags: str) -> Path:
    """Compile a C file of this folder with -O2, if it is newer than its program. flags: `-lmodbus`, `-I/usr/include/x`.

    Raises CannotMeasureError.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise CannotMeasureError("no C compiler: install gcc")
    path, program = HERE / source, BUILD / Path(source).stem
    if not program.exists() or program.stat().st_mtime < path.stat().st_mtime:
        BUILD.mkdir(exist_ok=True)
        done = subprocess.run([compiler, "-O2", "-Wall", "-o", program, path, *flags], capture_output=True,
                              text=True)
        if done.returncode:
            raise CannotMeasureError(f"{source} does not compile (is {' '.join(flags) or 'libc6-dev'} installed?): "
                                f"{done.stderr.strip().splitlines()[0]}")
    return program


def environment(name: str) -> Path:
    """Return the Python of an environment with the peers of `requirements/NAME.txt`, made when it is first needed.

    Peers that the product does not need are never in its own environment. Raises CannotMeasureError.
    """
    wanted = HERE / "requirements" / f"{name}.txt"
    home = BUILD / f"venv-{name}"
    python, stamp = home / "bin" / "python", home / ".installed"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted.read_text(encoding="utf-8"):
        venv.create(home, clear=True, with_pip=True)
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted],
                              capture_output=True, text=True)
        if done.returncode:
            raise CannotMeasureError(f"the peers of {wanted.name} cannot be installed: {done.stderr.strip()[-300:]}")
        stamp.write_text(wanted.read_text(encoding="utf-8"), encoding="utf-8")
    return python


def versions(*packages: str, python: Path | None = None) -> dict[str, str]:
    """Return the installed versions of some Python packages, here or in another environment."""
    if python is None:
        return {name: metadata.version(name) for name in packages}
    code = "import json, sys; from importlib.metadata import version; " \
           "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def library_version(package: str) -> str:
    """Return the version of a Debian package, or "?"."""
    if shutil.which("dpkg-query") is None:
        return "?"
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
    return done.stdout or "?"


def cpu_of(pid: int) -> float:
    """Return the CPU seconds, user and system, of another process and all its threads (Linux).

    By its clock, see clock_getcpuclockid(3): /proc tells hundredths of a second only.
    """
    return time.clock_gettime(~pid << 3 | 2)


def memory_mb(pid: int | None = None) -> tuple[float, float]:
    """Return the memory of a process, this one by default, in MB: now, and the most so far (Linux).

    `ru_maxrss` is of no use in a child: it begins with what its parent had when it forked.
    """
    text = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="ascii", errors="replace")
    values = dict(line.split(":", 1) for line in text.splitlines())
    return int(values["VmRSS"].split()[0]) / 1024, int(values["VmHWM"].split()[0]) / 1024


@dataclass(frozen=True, slots=True)
class Began:
    """Where a process under test began to count."""

    cpu_s: float
    wall_s: float

    @classmethod
    def now(cls) -> Began:
        """Begin."""
        return cls(_cpu_s(), time.perf_counter())


def tell(items: float, began: Began, **other: float) -> None:
    """Print what a process under test did since `began`, as its last line."""
    print(json.dumps({"items": items, "cpu_s": _cpu_s() - began.cpu_s, "wall_s": time.perf_counter() - began.wall_s,
                      **other}), flush=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _name(command: Command) -> str:
    return " ".join(Path(part).name for part in map(str, command[:3]))


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)} | dict(more or {})
