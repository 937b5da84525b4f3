"""CPU seconds, and what they would be on the machine that the targets were set on.

Machines differ, and other programs on the same core slow a process down although it does nothing more. So every
repeat stands between two runs of a fixed piece of work in the same process, and its CPU time is scaled by them.
"""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from protocols.evidence import keys

REPEATS = 5
CHECKS = 500
CHECK_S = 106e-6
"""CPU time of one Ed25519 check (Python, cryptography) where the targets were set: 9.4 k a second."""

SCATTER_S = 1.04e-9
"""CPU time of one element of `table[at] = 1` (64 k random places in 100 kB) where the targets were set."""

_KEY = keys.generate()
_PUBLIC, _SIGNATURE = keys.public_bytes(_KEY), _KEY.sign(b"calibration")


def cpu_s(work: Callable[[], object]) -> float:
    """Return the CPU time, user and system, of this process for `work`."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def check_s() -> float:
    """Return the CPU time of one Ed25519 check, now."""
    def checks() -> None:
        for _ in range(CHECKS):
            assert keys.signature_holds(_PUBLIC, _SIGNATURE, b"calibration")
    return cpu_s(checks) / CHECKS


@dataclass(frozen=True, slots=True)
class Times:
    """One piece of work, repeated: CPU seconds as measured, and calibrated."""

    raw_s: tuple[float, ...]
    calibrated_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """Median of the calibrated times: what `met` is judged by."""
        return statistics.median(self.calibrated_s)


def repeat(work: Callable[[], float], repeats: int = REPEATS, *, one: Callable[[], float] = check_s,
           one_s: float = CHECK_S) -> Times:
    """Run `work`, which returns CPU seconds, between calibrations. The first run, which fills caches, is left out.

    one: the calibration; one_s: what it takes where the targets were set.
    """
    work()
    raw, calibrated, before = [], [], one()
    for _ in range(repeats):
        raw.append(work())
        after = one()
        calibrated.append(raw[-1] * one_s / ((before + after) / 2))
        before = after
    return Times(tuple(raw), tuple(calibrated))


def scatter_s() -> float:
    """Return the CPU time of one element of a scatter, now: numpy's share of what `check_s` is for signatures."""
    import numpy as np

    table, at = np.zeros(100_000, dtype=np.uint8), np.random.default_rng(1).integers(0, 100_000, 65_536)
    rounds = 40

    def scatter() -> None:
        for _ in range(rounds):
            table[at] = 1
    return cpu_s(scatter) / (rounds * at.size)


def repeat_scattered(work: Callable[[], float], repeats: int = REPEATS) -> Times:
    """Do the same as `repeat` for work that is numpy's: scaled by what a scatter takes."""
    return repeat(work, repeats, one=scatter_s, one_s=SCATTER_S)


def spread(values: tuple[float, ...], scale: float = 1.0, digits: int = 1) -> str:
    """Return "median (min to max)"."""
    low, middle, high = min(values) * scale, statistics.median(values) * scale, max(values) * scale
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def met(holds: bool) -> str:
    """Return the word for a target."""
    return "met" if holds else "MISSED"
