"""What the journal asks of a disk, and the real one. Small, so that a test can stand in for it and fail at every step.

Paths are relative, with `/`. Every method may raise OSError; what had happened by then is unknown to the caller.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from protocols import system
from protocols.errors import EvidenceError, Problem

_PARTIAL = ".part"


class Disk(Protocol):
    """Files below one folder that belong to one process."""

    def lock(self) -> None:
        """Keep other processes out until `unlock`. Raises EvidenceError `journal.locked`."""

    def unlock(self) -> None:
        """Let others in again."""

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes | None:
        """Return bytes from `offset`, all by default; None if there is no such file."""

    def append(self, path: str, data: bytes) -> None:
        """Add to the end of a file, which is made if it is not there. Not durable before `sync`."""

    def sync(self, path: str) -> None:
        """Make a file and its name in its folder durable."""

    def replace(self, path: str, data: bytes) -> None:
        """Put `data` at `path`, whole or not at all, and durable when this returns."""

    def truncate(self, path: str, size: int) -> None:
        """Cut a file to `size` bytes, durable when this returns."""

    def remove(self, path: str) -> None:
        """Remove a file, if it is there; durable when this returns."""

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none if there is no such folder. Half-written files are left out."""

    def size(self, path: str) -> int:
        """Return the bytes of a file, 0 if there is none."""


class RealDisk:
    """A folder of the file system. Folders are made when needed, mode 0700: evidence is the plant's own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock: int | None = None

    def lock(self) -> None:
        """See Disk."""
        try:
            self._lock = system.lock(self._root)
        except BlockingIOError as error:
            raise EvidenceError(Problem.of(str(self._root), "journal.locked")) from error

    def unlock(self) -> None:
        """See Disk."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes | None:
        """See Disk."""
        try:
            with (self._root / path).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError:
            return None

    def append(self, path: str, data: bytes) -> None:
        """See Disk."""
        self._write(self._file(path), data, os.O_APPEND)

    def sync(self, path: str) -> None:
        """See Disk."""
        file = self._root / path
        system.sync(file)
        system.sync(file.parent)

    def replace(self, path: str, data: bytes) -> None:
        """See Disk."""
        file = self._file(path)
        partial = file.with_name(file.name + _PARTIAL)
        self._write(partial, data, os.O_TRUNC)
        system.sync(partial)
        partial.replace(file)
        system.sync(file.parent)

    def truncate(self, path: str, size: int) -> None:
        """See Disk."""
        os.truncate(self._root / path, size)
        system.sync(self._root / path)

    def remove(self, path: str) -> None:
        """See Disk."""
        file = self._root / path
        if file.exists():
            file.unlink()
            system.sync(file.parent)

    def names(self, folder: str) -> list[str]:
        """See Disk."""
        try:
            return sorted(p.name for p in (self._root / folder).iterdir() if not p.name.endswith(_PARTIAL))
        except FileNotFoundError:
            return []

    def size(self, path: str) -> int:
        """See Disk."""
        try:
            return (self._root / path).stat().st_size
        except FileNotFoundError:
            return 0

    def _file(self, path: str) -> Path:
        """Return the file, its folders made and durable."""
        file = self._root / path
        missing = []
        folder = file.parent
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
            system.sync(folder.parent)
        return file

    @staticmethod
    def _write(file: Path, data: bytes, flag: int) -> None:
        handle = system.open_file(file, os.O_WRONLY | os.O_CREAT | flag)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view):]
        finally:
            os.close(handle)
