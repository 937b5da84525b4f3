"""What a dry connection to one device found: the answer of a driver's `check()`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Pass or fail of one device, with its cause: `code` and `args` name a sentence in `tallystick/words`."""

    device_index: int
    ok: bool
    code: str
    args: tuple[tuple[str, str], ...] = ()
