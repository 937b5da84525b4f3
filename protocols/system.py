"""What differs between operating systems, in one place. Debian is the home; elsewhere the same calls do what there is.

| here | elsewhere (Windows) |
| --- | --- |
| signals through the event loop | `signal.signal`, and a loop that looks up twice a second |
| `flock` | `msvcrt.locking` of one byte |
| a folder is synced like a file | nothing: names are journalled by NTFS |
| modes 0600 and 0700 | the access list that the folder inherits |
| SIGHUP reads the configuration anew | `tallystick reload` alone does |
| MAC addresses of neighbours | none are seen |
| sd_notify | nobody to tell |
| uvloop, where it is installed | asyncio's own loop |
| mallopt, malloc_trim (glibc) | nothing: what was freed stays with the process |
| CLOCK_BOOTTIME, which runs on while the machine sleeps | a clock that never steps |
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_BINARY = getattr(os, "O_BINARY", 0)
"""Without it Windows writes a line feed as two bytes."""
_LOOK_UP_S = 0.5
LOOP_VARIABLE = "TALLYSTICK_LOOP"
T = TypeVar("T")
NEIGHBOURS = Path("/proc/net/arp")
"""proc(5): a header, then address, hardware type, flags, MAC address, mask, device."""
ARP_COMPLETE = "0x2"
NEIGHBOURS_MAX = 100_000
_NOTIFY_TIMEOUT_S = 1.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
MMAP_BYTES = 256 * 1024
"""From this size on memory is the system's own again as soon as it is freed. Columns of a batch are smaller."""
TRIM_BYTES = 2048 * 1024
"""So much that is free at the end of the heap stays: what one batch leaves the next one needs, and pages that are
taken and given back for each batch of messages cost a quarter of the CPU time of reading them."""
ARROW_POOL = "ARROW_DEFAULT_MEMORY_POOL"
"""Read by Arrow's library itself, so that what it does beside Python's calls is meant too."""
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
"""numpy's library starts a thread for each core when it is imported; nothing here multiplies matrices."""
PARTIAL = ".part"
"""Ends the name of a file that is not whole yet."""


@contextlib.contextmanager
def stopping(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` in the running loop at the first SIGTERM or SIGINT; those that follow change nothing.

    After the block they are ignored, until the process ends, which it is about to do: a signal that meets a loop
    between its last turn and its end would be printed as an error.
    """
    import asyncio  # here: it takes longer than all that a short command does

    loop = asyncio.get_running_loop()
    told = False

    def once() -> None:
        nonlocal told
        if not told:
            told = True
            act()

    with _hearing((signal.SIGTERM, signal.SIGINT), loop, once):
        yield


@contextlib.contextmanager
def _hearing(numbers: Sequence[int], loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` in the loop at each of some signals; after the block they are ignored.

    Not by the loop's own handlers: to take these away means to be killed by what comes that moment.
    """
    ticker: asyncio.TimerHandle | None = None

    def look_up() -> None:
        """Give Python a turn to notice a signal that did not end the waiting for sockets."""
        nonlocal ticker
        ticker = loop.call_later(_LOOK_UP_S, look_up)

    for number in numbers:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(act))
    look_up()
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        if ticker is not None:
            ticker.cancel()


@contextlib.contextmanager
def hanging_up(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` in the running loop at each SIGHUP, the usual word for reading a configuration anew.

    Not in a terminal, where it says that the window was closed, nor under nohup, nor where there is no such signal.
    """
    if sys.platform == "win32":
        yield
    else:
        in_terminal = sys.stdin is not None and sys.stdin.isatty()
        if in_terminal or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            yield
            return
        import asyncio

        with _hearing((signal.SIGHUP,), asyncio.get_running_loop(), act):
            yield


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that reads from many connections, as `asyncio.run` does; on uvloop, if the extra `fast` is there.

    It moves the same bytes with less work. TALLYSTICK_LOOP=asyncio leaves it out.
    """
    import asyncio

    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if os.environ.get(LOOP_VARIABLE) != "asyncio":
        with contextlib.suppress(ImportError):
            import uvloop  # no wheel for Windows, nor for every small machine

            factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def boottime_ns() -> int:
    """Return a clock that never steps and, on Linux, runs on while the machine sleeps. No known start."""
    if sys.platform == "linux":
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    else:
        return time.monotonic_ns()


def frugal_memory() -> None:
    """Have memory that was freed given back sooner (mallopt(3)); call it before threads and Arrow are started.

    By itself glibc keeps a heap for each thread, and raises the size from which memory is taken from the system, and
    given back to it, with the largest piece that was ever freed. Arrow keeps what was freed in a pool of its own.
    """
    os.environ.setdefault(ARROW_POOL, "system")
    os.environ.setdefault(BLAS_THREADS, "1")
    mallopt = _of_libc("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES)


def release_memory() -> None:
    """Give back to the system what was freed: glibc keeps much of it (malloc_trim(3)). Elsewhere nothing happens.

    It takes milliseconds and does not hold the interpreter; who wants memory of the C library meanwhile waits for it.
    """
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_libc(name: str) -> Callable[..., int] | None:
    """Return a function of glibc; None elsewhere, and with musl, which has none of these."""
    if sys.platform != "linux":
        return None
    else:
        try:
            import ctypes

            library = ctypes.CDLL(None)
        except (ImportError, OSError):  # a Python that was built without libffi, or as one static file
            return None
        found: Callable[..., int] | None = getattr(library, name, None)
        return found


def hung_up(descriptor: int) -> bool:
    """Return whether nobody reads any more what is written here; where that cannot be asked, False."""
    if sys.platform == "win32":
        return False
    else:
        poll = select.poll()
        poll.register(descriptor, 0)  # error and hang-up are reported without being asked for
        return bool(poll.poll(0))


def tell_service_manager(message: str) -> None:
    """Tell systemd (sd_notify(3)), where there is one; nobody else listens to the socket."""
    import socket

    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(_NOTIFY_TIMEOUT_S)
        try:
            channel.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:  # a manager that is gone is no reason to stop counting
            return


def neighbours() -> dict[str, str]:
    """Return IPv4 address -> MAC address of the machines on this machine's own networks that it spoke with lately.

    Linux only; elsewhere nothing. Behind a router its machines cannot be seen.
    """
    try:
        lines = NEIGHBOURS.read_text("ascii", "replace").splitlines()[1:NEIGHBOURS_MAX]
    except OSError:
        return {}
    rows = [line.split() for line in lines]
    return {row[0]: row[3].lower() for row in rows
            if len(row) >= 6 and row[2] == ARP_COMPLETE and row[3] != "00:00:00:00:00:00"}


def lock(folder: Path) -> int:
    """Make a folder this process's own until the descriptor that is returned is closed.

    Raises: BlockingIOError when another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = open_file(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        _lock_file(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise BlockingIOError(*error.args) from error
    return descriptor


def _lock_file(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def open_file(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file of bytes, its owner's only by default; the descriptor is not inherited. Raises OSError."""
    return os.open(path, flags | _BINARY, mode)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable. Raises OSError."""
    folder = path.is_dir()
    if folder and sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY if folder or sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private(path: Path, content: bytes | Iterable[bytes], mode: int = 0o600) -> None:
    """Write a new file, by default one that only its owner can read. Raises FileExistsError rather than overwrite.

    content: its bytes, whole or in pieces.
    """
    descriptor = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines((content,) if isinstance(content, bytes) else content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes | Iterable[bytes], mode: int = 0o600) -> None:
    """Put `content` at `path`, durable when this returns; a crash leaves the old or the new. Raises OSError."""
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    write_private(partial, content, mode)
    partial.replace(path)
    sync(path.parent)
