"""Commands in processes that have their libraries already: each is forked from a server that imported them once.

    warm = Warm()
    warm.run(["verify", bundle])      # as subprocess.run answers
    warm.start(["run", config], ...)  # as subprocess.Popen does
    warm.program(folder)              # a program `tallystick` that a script can call

Most of what a short command takes is importing. The server runs none itself: a command begins with a fresh copy of
what was imported, with the arguments, environment, folder and files of its caller, in a process of its own. What a
start from nothing does (what is imported when, a pipe that closes, a terminal) is asked of `python -m tallystick` by
tests/unit/tallystick/test_command_line.py, and the demo starts everything that way.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

from tests.support.endings import at_the_end

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("config.programme", "gateway.agent", "gateway.commands", "protocols.modbus.driver",
           "verifier.audit.commands", "verifier.audit.counting", "verifier.audit.verdict", "verifier.commands",
           "verifier.platform.service", "verifier.report.audit_text", "verifier.report.text")
"""What most commands need. A command imports whatever else it needs, as ever."""

REQUEST_BYTES_MAX = 150_000
COMMAND_S = 110.0
BEAT = struct.Struct("<d")
BEAT_S = 0.1
"""A pipe holds the beats of 13 minutes: nobody has to read them while the command runs."""

CLIENT = """#!{python} -SEs
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
line.connect({path!r})
request = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(line, [json.dumps(request).encode()], [0, 1, 2])
line.recv(20)
os._exit(int(line.recv(20) or b"70"))
"""


class Process:
    """A command that was started: what tests use of subprocess.Popen. Standard input is empty.

    beats: a pipe into which it writes the time (BEAT), whatever else it does, as long as it is not held up itself.
    """

    def __init__(self, path: Path, arguments: Sequence[str], out: int | None, err: int,
                 beats: int | None = None) -> None:
        self.arguments = arguments
        self.returncode: int | None = None
        self._lock = threading.Lock()  # a test may kill in one thread while it waits in another
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.connect(str(path))
        request = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
        with Path(os.devnull).open("r+b") as nothing:
            files = [nothing.fileno(), nothing.fileno() if out is None else out, err]
            files += [] if beats is None else [beats]
            socket.send_fds(self._line, [json.dumps(request).encode()], files)
        said, (self._process,), _, _ = socket.recv_fds(self._line, 20, 1)
        self.pid = int(said)

    def poll(self) -> int | None:
        """Return its exit status if it ended."""
        with self._lock:
            if self.returncode is None and _readable(self._process, 0):
                said = self._line.recv(20)  # who is killed says nothing
                self.returncode = int(said) if said else -signal.SIGKILL
                self._line.close()
                os.close(self._process)
        return self.returncode

    def wait(self, timeout_s: float = COMMAND_S) -> int:
        """Return its exit status when it has ended. Raises subprocess.TimeoutExpired."""
        if self.returncode is None and not _readable(self._process, timeout_s):
            raise subprocess.TimeoutExpired(list(self.arguments), timeout_s)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        with self._lock:
            if self.returncode is None:
                with suppress(ProcessLookupError):  # it ended, and nobody has asked yet
                    signal.pidfd_send_signal(self._process, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send_signal(signal.SIGKILL)


def _readable(file: int, timeout_s: float) -> bool:
    """Wait until a process has ended; poll, for there may be more open files than select takes."""
    waiting = select.poll()
    waiting.register(file, select.POLLIN)
    return bool(waiting.poll(timeout_s * 1000))


class Warm:
    """A server of commands. prepare: `module:function` and its arguments, called before the first command is run."""

    def __init__(self, *prepare: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="warm-"))
        self._path = self._folder / "socket"
        self._server = subprocess.Popen([sys.executable, "-m", "tests.support.warm", str(self._path), *prepare],
                                        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        at_the_end(self._close)
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n", "the server of commands did not start"

    def _close(self) -> None:
        self._server.kill()
        self._server.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, arguments: Sequence[str | Path], *, out: int | None, err: int, beats: int | None = None) -> Process:
        """Start a command that writes to these files; out: None throws it away. beats: see Process."""
        return Process(self._path, [str(word) for word in arguments], out, err, beats)

    def run(self, arguments: Sequence[str | Path], *, timeout_s: float = COMMAND_S
            ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = self.start(arguments, out=out.fileno(), err=err.fileno())
            try:
                status = process.wait(timeout_s)
            finally:
                process.kill()
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(process.arguments, status, *texts)

    def program(self, folder: Path) -> None:
        """Write a program `tallystick` into a folder; it hands its arguments and files to this server."""
        path = folder / "tallystick"
        path.write_text(CLIENT.format(python=sys.executable, path=str(self._path)), encoding="utf-8")
        path.chmod(0o755)


@cache
def warm() -> Warm:
    """Return the server that the tests of this process share."""
    return Warm()


def main() -> None:
    """Serve commands as long as the process that started this one lives."""
    path, *prepare = sys.argv[1:]
    for name in MODULES:
        import_module(name)
    if prepare:
        name, _, function = prepare[0].partition(":")
        getattr(import_module(name), function)(*prepare[1:])
    assert threading.active_count() == 1, "a server with threads must not fork"
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for who has ended
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(64)
        listener.settimeout(1)
        print("ready", flush=True)
        while os.getppid() == parent:
            try:
                line, _ = listener.accept()
            except TimeoutError:
                continue
            with line:
                _take(line, listener)


def _take(line: socket.socket, listener: socket.socket) -> None:
    """Fork a command for a caller."""
    line.settimeout(COMMAND_S)
    data, files, _, _ = socket.recv_fds(line, REQUEST_BYTES_MAX, 4)
    if os.fork():
        for file in files:
            os.close(file)
        return
    status = 70
    try:
        listener.close()
        line.settimeout(None)
        # A handle that is made here: by the time its caller could make one, this process may be over, and its id given.
        handle = os.pidfd_open(os.getpid())
        socket.send_fds(line, [str(os.getpid()).encode()], [handle])
        os.close(handle)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, file in enumerate(files[:3]):
            os.dup2(file, number)
            os.close(file)
        _standard_streams()
        if files[3:]:
            threading.Thread(target=_beat, args=(files[3],), daemon=True).start()
        request = json.loads(data)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        status = _status(request["arguments"])
        line.send(str(status).encode())
    finally:
        os._exit(status)


def _beat(pipe: int) -> None:
    """Show that this process gets to run, whatever its other threads wait for. A full pipe or none ends it."""
    os.set_blocking(pipe, False)
    with suppress(OSError):
        while True:
            os.write(pipe, BEAT.pack(time.time()))
            time.sleep(BEAT_S)


def _standard_streams() -> None:
    """Open the three streams anew: those of the server know what kind of files it was started with."""
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # numbers, no paths
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115


def _status(arguments: list[str]) -> int:
    """Run `python -m tallystick` with these arguments; return its exit status."""
    sys.argv = ["tallystick", *arguments]
    status = 0
    try:
        runpy.run_module("tallystick", run_name="__main__", alter_sys=True)
    except SystemExit as done:
        status = done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


if __name__ == "__main__":
    main()
