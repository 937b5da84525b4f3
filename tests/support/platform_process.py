"""Platform and witness as processes of their own, started by the commands that a user types."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.warm import warm

START_S = 60.0
END_S = 60.0
"""Only what hangs is waited for so long. On a machine with much else to do a step of 20 ms may take seconds."""


def tallystick(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    done = warm().run(arguments)
    assert not check or done.returncode == 0, done.stderr
    return done


class Running:
    """A service. `ready` is the line of JSON that it printed when it listened."""

    def __init__(self, log: Path, *arguments: str | Path) -> None:
        self.log = log
        reading, writing = os.pipe()
        self._out = os.fdopen(reading, "rb")
        with log.open("ab") as errors, os.fdopen(writing, "wb") as out:
            self.process = warm().start(arguments, out=out.fileno(), err=errors.fileno())
        try:
            self.ready: dict[str, Any] = json.loads(self._first_line())
        except BaseException:
            self.kill()
            raise
        self.url: str = self.ready["url"]

    def _first_line(self) -> bytes:
        deadline = time.monotonic() + START_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            while not selector.select(max(deadline - time.monotonic(), 0)):
                assert time.monotonic() < deadline, f"not ready: {self.log.read_text()}"
        line = self._out.readline()
        assert line, f"it ended: {self.log.read_text()}"
        return line

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(END_S)
        self._out.close()

    def end(self) -> int:
        """Ask it to end and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(END_S)
        finally:
            self.kill()


@contextmanager
def running(log: Path, *arguments: str | Path) -> Iterator[Running]:
    """Run a service for the length of a block."""
    service = Running(log, *arguments)
    try:
        yield service
    finally:
        service.kill()


def set_up(folder: Path, *, witnesses: int = 1, interval_s: float = 0.2) -> list[Running]:
    """Write configurations and keys, start the witnesses, and tell the platform of them. Its file: platform_file()."""
    vkey = tallystick("platform", "init", folder / "platform", "--listen", "127.0.0.1:0",
                      "--origin", "register.example/test").stdout.strip()
    started = []
    try:
        for number in range(witnesses):
            name = f"w{number}.example"
            witness = tallystick("witness", "init", folder / name, "--name", name, "--listen", "127.0.0.1:0",
                                 "--log", vkey).stdout.strip()
            started.append(Running(folder / f"{name}.log", "witness", folder / name / "witness.toml"))
            tallystick("platform", "add-witness", platform_file(folder), "--witness", witness, started[-1].url)
    except BaseException:
        for service in started:
            service.kill()
        raise
    file = platform_file(folder)
    file.write_text(file.read_text().replace("register_interval_s = 10.0", f"register_interval_s = {interval_s}")
                    .replace("requests_per_s = 20.0", "requests_per_s = 10000.0")
                    .replace("requests_burst = 200", "requests_burst = 100000"))
    return started


def platform_file(folder: Path) -> Path:
    """Return the platform's configuration below `folder`."""
    return folder / "platform" / "platform.toml"


def start_platform(folder: Path) -> Running:
    """Start the platform of `set_up`."""
    return Running(folder / "platform.log", "platform", platform_file(folder))


def token(folder: Path, uscc: str, *more: str) -> str:
    """Return a new enrolment token."""
    return tallystick("platform", "token", platform_file(folder), "--uscc", uscc, *more).stdout.strip()


def alive(pid: int) -> bool:
    """Return whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
