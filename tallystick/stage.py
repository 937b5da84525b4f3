"""A stage for whole runs on this machine: processes of ours with their logs, a platform and an independent witness.

Everything that happens on it is a command that a person could type; the files are those that a person would write.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from protocols.terms.say import Say

STEP_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
ENDINGS = [signal.SIGINT, signal.SIGTERM]
if sys.platform != "win32":
    ENDINGS.append(signal.SIGHUP)
WITNESS = "witness.demo.example"
REGISTER = "register.demo.example/tallystick"
MARK = "of-this-demo"
"""A file among the logs: what stands beside it may be emptied by the next run, however this one ended."""


class StageError(Exception):
    """A step did not do what it must; the text says which, in the language of the run."""


class Stage:
    """One run below one folder: `work` holds what the processes own, `logs` what they print. Both begin empty."""

    def __init__(self, out: Path, say: Say) -> None:
        self.out = out
        self.say = say
        self.work = out / "work"
        self.logs = out / "logs"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._started = time.monotonic()
        empty(self.work)
        empty(self.logs)
        (self.logs / MARK).touch()

    @property
    def seconds(self) -> float:
        """How long the run has taken so far."""
        return time.monotonic() - self._started

    def services(self) -> None:
        """Start a witness and a platform whose register it co-signs, and write the policy of an auditor."""
        witness, self.platform = self.work / "witness.toml", self.work / "platform" / "platform.toml"
        ports = free_port(), free_port()
        self.platform_url = f"http://127.0.0.1:{ports[1]}"

        def write_witness(logs: str) -> None:
            witness.write_text(f'logs = [{logs}]\n[witness]\nname = "{WITNESS}"\nstate_dir = "witness"\n'
                               f'[listen]\nhost = "127.0.0.1"\nport = {ports[0]}\n')

        write_witness("")
        vkey = self.command("witness-key", "witness", "key", witness).strip()
        register = self.command("platform-init", "platform", "init", self.platform.parent, "--origin", REGISTER,
                                "--listen", f"127.0.0.1:{ports[1]}",
                                "--witness", vkey, f"http://127.0.0.1:{ports[0]}").strip()
        # A real register asks its witnesses every ten seconds; the demo's windows are twelve times shorter.
        text = self.platform.read_text(encoding="utf-8")
        self.platform.write_text(text.replace("register_interval_s = 10.0", "register_interval_s = 1.0"),
                                 encoding="utf-8")
        write_witness(f'"{register}"')
        self.tallystick("witness", "witness", witness)
        self.start_platform()
        self.ready("witness", lambda: listens(ports[0]))
        self.command("policy", "platform", "policy", self.platform, "-o", self.out / "policy.json")

    def start_platform(self) -> None:
        """Start the platform, again after it was stopped."""
        self.tallystick("platform", "platform", self.platform)
        self.ready("platform", lambda: listens(int(self.platform_url.rpartition(":")[2])))

    def tell(self, code: str, **args: object) -> None:
        """Print one line of progress."""
        print(f"[{self.seconds:5.1f} s] {self.say(code, **args)}", flush=True)

    def command(self, name: str, *words: str | Path, may_fail: bool = False) -> str:
        """Run a command of ours to its end and return what it printed."""
        with (self.logs / f"{name}.log").open("wb") as errors:
            process: subprocess.Popen[bytes] | None = None
            try:
                with _undivided():
                    process = subprocess.Popen(self._line(words), stdout=subprocess.PIPE, stderr=errors,
                                               stdin=subprocess.DEVNULL)
                printed, _ = process.communicate(timeout=STEP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise StageError(self.say("demo.step.slow", name=f"tallystick {name}",
                                          seconds=f"{STEP_TIMEOUT_S:.0f}")) from None
            finally:
                if process is not None and process.returncode is None:
                    process.kill()
                    process.communicate()
        text = printed.decode()
        (self.logs / f"{name}.out").write_text(text, encoding="utf-8")
        if process.returncode not in ((0, 1) if may_fail else (0,)):
            said = (self.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip()
            raise StageError(self.say("demo.step.failed", name=f"tallystick {name}", said=said or "-"))
        return text

    def tallystick(self, name: str, *words: str | Path) -> None:
        """Start a service of ours."""
        self.start(name, self._line(words))

    def start(self, name: str, line: list[str]) -> None:
        """Start a process whose output goes to the logs. A session of its own: Ctrl-C reaches it through us only."""
        with (self.logs / f"{name}.out").open("ab") as out, (self.logs / f"{name}.log").open("ab") as errors:
            try:
                with _undivided():
                    self._running[name] = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
                                                           start_new_session=True)
            except FileNotFoundError:
                raise StageError(self.say("demo.step.not_installed", program=line[0])) from None

    def ready(self, name: str, look: Callable[[], bool]) -> None:
        """Wait until `look` is true, as long as the process lives."""
        wait_for(self.say, name, look, lambda: self._running[name].poll() is None)

    def stop(self, name: str) -> None:
        """End one process, by its id."""
        process = self._running.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """End everything that is left, the newest first, all in the time of one."""
        for process in reversed(self._running.values()):
            process.terminate()
        for name in reversed(list(self._running)):
            self.stop(name)

    def _line(self, words: tuple[str | Path, ...]) -> list[str]:
        return [sys.executable, "-m", "tallystick", "--lang", self.say.lang, *map(str, words)]


@contextmanager
def ended_cleanly(stage: Stage) -> Iterator[None]:
    """End every process of a stage after the block, however it is left.

    The end of a terminal, of a service manager or of `timeout` is as clean as Ctrl-C.
    """
    for number in ENDINGS:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        _be_patient()  # who is impatient must not cut the clearing up
        stage.stop_all()


@contextmanager
def _undivided() -> Iterator[None]:
    """Hear of an ending only after the block: between the start of a process and the note of it nobody would end it."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _interrupt(*_: object) -> None:
    _be_patient()  # at once: two that come together must not end the clearing up of the first
    raise KeyboardInterrupt


def _be_patient() -> None:
    """Hear no more endings. Not SIG_IGN: Python writes a traceback for what is ignored after it came."""
    for number in ENDINGS:
        signal.signal(number, lambda *_: None)


def empty(folder: Path) -> None:
    """Make a folder, empty: what an earlier run left in it goes."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def indented(text: str) -> str:
    """Return what a command printed, set off from what a run says of itself."""
    return "\n".join(f"          {line}" for line in text.splitlines())


def free_port() -> int:
    """Return a port of loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether somebody listens on a port of loopback."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
        return True
    return False


def wait_for(say: Say, name: str, look: Callable[[], bool], alive: Callable[[], bool] = lambda: True) -> None:
    """Wait until `look` is true. Raises StageError when it takes too long, or when whoever is asked has ended."""
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while not look():
        if not alive():
            raise StageError(say("demo.step.ended", name=name))
        if time.monotonic() > deadline:
            raise StageError(say("demo.step.slow", name=name, seconds=f"{STEP_TIMEOUT_S:.0f}"))
        time.sleep(0.1)
