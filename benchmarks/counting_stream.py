"""The stream of row K1, the same for everybody: 100 000 points, 10 % late, 2 % repeated, 3 % bad.

Batches of 64 k samples, as drivers hand them over: polls of neighbouring points, each at its own moment. Times are ns
of arrival; a late sample is up to three seconds older than its neighbours, but its window is still open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NS = 1_000_000_000
START_S = 1_800_000_000
SECONDS, GRACE_S = 40, 5
POINTS, EACH = 100_000, 10
BATCH = 65_536
LATE, REPEATED, BAD = 0.10, 0.02, 0.03
LATE_MAX_S = 3


NAMES = ("point", "at_ns", "source_ns", "value", "quality")


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """One batch; all of shape (n,). quality: 0 good, 2 bad. source_ns: 0, for a protocol without a time of its own."""

    point: NDArray[np.int64]
    at_ns: NDArray[np.int64]
    source_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint8]


def batches(seed: int = 1, *, points: int = POINTS, seconds: int = SECONDS) -> Iterator[Columns]:
    """Yield the samples of every point once a second."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 4, points).astype(np.float64)
    buffer: list[Columns] = []
    size = 0
    for second in range(seconds):
        order = (rng.permutation(points // EACH)[:, None] * EACH + np.arange(EACH)).ravel()
        at = START_S * NS + second * NS + np.arange(points, dtype=np.int64) // EACH * (NS * EACH // points)
        moved = rng.random(points) < 0.05
        level[moved] += 1
        value = level[order]
        late = rng.random(points) < LATE
        earlier = at[late] - rng.integers(1, LATE_MAX_S * NS, int(late.sum()))
        at[late] = np.where(earlier < START_S * NS, at[late], earlier)
        quality = np.where(rng.random(points) < BAD, 2, 0).astype(np.uint8)
        again = np.flatnonzero(rng.random(points) < REPEATED)
        rows = np.concatenate([np.arange(points), again])
        buffer.append(Columns(order[rows].astype(np.int64), at[rows], np.zeros(rows.size, dtype=np.int64), value[rows],
                              quality[rows]))
        size += rows.size
        if size >= BATCH:
            joined = Columns(*(np.concatenate([getattr(one, name) for one in buffer]) for name in NAMES))
            whole = size // BATCH * BATCH
            for begin in range(0, whole, BATCH):
                yield Columns(*(getattr(joined, name)[begin:begin + BATCH].copy() for name in NAMES))
            buffer = [Columns(*(getattr(joined, name)[whole:] for name in NAMES))]
            size -= whole
    if size:
        yield Columns(*(np.concatenate([getattr(one, name) for one in buffer]) for name in NAMES))
