"""What differs between operating systems: signals at the end of a process, locks, durable files."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from protocols import system

WAITING = """
import asyncio, sys
from protocols import system
async def main():
    told = asyncio.Event()
    with system.stopping(told.set):
        print("ready", flush=True)
        await told.wait()
    return 7
sys.exit(asyncio.run(main()))
"""

ON_UVLOOP = WAITING.replace("asyncio.run", "system.run")


@pytest.mark.parametrize("script", [WAITING, ON_UVLOOP], ids=["asyncio", "uvloop"])
def test_signals_that_rain_on_a_process_end_it_once_and_quietly(script: str) -> None:
    """A stop that is repeated reaches a closing loop too; what it prints there looked like a crash in the log."""
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", script], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        over = threading.Event()

        def rain(process: subprocess.Popen[str] = process, over: threading.Event = over) -> None:
            while not over.is_set() and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                over.wait(0.0005)  # a rain, not a wall: the process must get turns between the drops

        hammer = threading.Thread(target=rain)
        hammer.start()
        try:
            _, errors = process.communicate(timeout=90)
        finally:
            over.set()
            hammer.join()
            process.kill()
        assert (process.returncode, errors) == (7, "")


def test_what_is_called_at_a_signal_is_called_once() -> None:
    called: list[int] = []

    async def main() -> None:
        told = asyncio.Event()

        def act() -> None:
            called.append(1)
            told.set()

        with system.stopping(act):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.wait_for(told.wait(), 10)
            await asyncio.sleep(0)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        asyncio.run(main())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert called == [1]


def test_a_folder_is_locked_once(tmp_path: Path) -> None:
    held = system.lock(tmp_path / "state")
    with pytest.raises(BlockingIOError):
        system.lock(tmp_path / "state")
    os.close(held)
    os.close(system.lock(tmp_path / "state"))
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "lock").stat().st_mode) == 0o600


def test_a_private_file_is_new_whole_and_its_owners(tmp_path: Path) -> None:
    system.write_private(tmp_path / "key", b"a\nb\r\n")
    assert (tmp_path / "key").read_bytes() == b"a\nb\r\n"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        system.write_private(tmp_path / "key", b"other")
    assert (tmp_path / "key").read_bytes() == b"a\nb\r\n"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    for content in (b"old", b"new\n"):
        system.replace(tmp_path / "state.json", content)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("state.json", b"new\n")]


def test_the_service_manager_is_told_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    system.tell_service_manager("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        system.tell_service_manager("READY=1")
        assert manager.recv(100) == b"READY=1"
    (tmp_path / "n").unlink()
    system.tell_service_manager("STOPPING=1")  # a manager that is gone stops nobody


@pytest.mark.parametrize(("loop", "module"), [("asyncio", "asyncio"), ("", "uvloop")])
def test_a_gateway_runs_on_uvloop_unless_it_is_told_not_to(
    loop: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module == "uvloop" and sys.platform == "win32":
        pytest.skip("there is no uvloop for Windows")
    monkeypatch.setenv(system.LOOP_VARIABLE, loop)

    async def which() -> str:
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    assert system.run(which()) == module


def test_without_uvloop_it_runs_on_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.delenv(system.LOOP_VARIABLE, raising=False)

    async def seven() -> int:
        return 7

    assert system.run(seven()) == 7


HUNG_UP = """
import asyncio, os, signal, sys
from protocols import system
async def main():
    heard = asyncio.Event()
    with system.hanging_up(heard.set):
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(heard.wait(), 0.3 if "ignored" in sys.argv else 20)
    return 7
sys.exit(asyncio.run(main()))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
@pytest.mark.parametrize(("prepared", "status"), [
    ([], 7), (["sh", "-c", 'trap "" HUP; exec "$@"', "sh"], 1)], ids=["heard", "ignored under nohup"])
def test_a_hang_up_is_heard_unless_it_is_ignored(prepared: list[str], status: int) -> None:
    done = subprocess.run([*prepared, sys.executable, "-c", HUNG_UP, *(["ignored"] if prepared else [])],
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert done.returncode == status


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
def test_in_a_terminal_a_hang_up_still_ends_the_process() -> None:
    master, terminal = os.openpty()
    try:
        done = subprocess.run([sys.executable, "-c", HUNG_UP], stdin=terminal, capture_output=True, timeout=60,
                              check=False)
    finally:
        os.close(master)
        os.close(terminal)
    assert done.returncode == -signal.SIGHUP


@pytest.mark.parametrize("platform", ["linux", "win32"])
@pytest.mark.parametrize("names", [["mallopt", "malloc_trim"], []], ids=["glibc", "musl"])
def test_memory_is_given_back_where_that_can_be_asked_for(
        platform: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    library = SimpleNamespace(**{name: lambda *numbers: asked.append(numbers) for name in names})
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "environ", environ := {system.BLAS_THREADS: "2"})
    system.frugal_memory()
    assert environ == {"ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "2"}, "what is set stays"
    system.release_memory()
    wanted = [(-8, 1), (-3, system.MMAP_BYTES), (-1, system.TRIM_BYTES), (0,)]
    assert asked == (wanted if names and platform == "linux" else [])


def test_a_python_without_ctypes_keeps_what_was_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "ctypes", None)
    monkeypatch.setattr(os, "environ", {})
    system.frugal_memory()
    system.release_memory()
