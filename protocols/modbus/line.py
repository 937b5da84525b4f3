"""What polling and commissioning need of a connection; `driver.Link` is it. No device library here."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from protocols.modbus.cycle import Cycle
from protocols.modbus.frames import Reply
from protocols.modbus.plan import Request


class Line(Protocol):
    """One connection with one request outstanding. Whoever asks does so inside `turn`."""

    @property
    def is_open(self) -> bool:
        """Whether the connection may be used: up, and nothing unexpected has arrived on it."""

    async def open(self) -> None:
        """Connect; for whoever has his turn. Raises DeviceError with the cause."""

    async def connect(self) -> None:
        """Connect while nobody has his turn. Raises DeviceError with the cause."""

    def close(self) -> None:
        """Close the connection; safe at any time."""

    def turn(self, unit: int) -> AbstractAsyncContextManager[None]:
        """Wait until it is this caller's turn to ask this unit, with all pauses kept; the line is his inside."""

    def ready_s(self, unit: int) -> float:
        """Return the moment (loop time) from which `turn` would not wait for this unit's own interval."""

    def is_swift(self, unit: int) -> bool:
        """Return whether `read_all` may be used for this unit."""

    async def read_all(self, cycle: Cycle, times: list[int]) -> None:
        """Ask what is left of a cycle; times: when each of `cycle.replies` arrived (UTC ns). Raises DeviceError.

        It may return early, after an exception reply or because somebody else wants his turn.
        """

    async def read(self, request: Request) -> tuple[Reply, int]:
        """Send one read of the plan. Return its reply and when it arrived (UTC ns). Raises DeviceError."""

    async def read_identification(self, unit: int, code: int, object_id: int) -> Reply:
        """Send function 43/14. Raises DeviceError."""

    async def read_server_id(self, unit: int) -> Reply:
        """Send function 17. Raises DeviceError."""
