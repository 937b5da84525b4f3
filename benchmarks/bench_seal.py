"""Row E1: CPU time to seal a window of 10 000 devices and 100 000 points: entry, hash, signature, on a real disk.

Beside it stands closing the window, where samples become columns (row K3). Every point has a sample, one of eight is
of bad quality, half of the values change: columns that nothing can guess.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import numpy as np

from benchmarks.calibration import Times, cpu_s, met, repeat, spread
from benchmarks.harness import PYTHON, Row, last_line, measure, versions
from gateway.counting.window import ClosedWindow
from gateway.sealing.disk import RealDisk
from protocols.evidence.jcs import encode
from protocols.samples import SampleBatch
from tests.sim.rows import registry
from tests.sim.world import Gateway, Time, private_key
from verifier.conformance.world import World

CASES = ((40, 25, None), (10_000, 10, 0.050))
WINDOWS_EACH = 5
LEN_S = 60


class Plant:
    """A gateway on a real disk whose windows are filled and closed one by one."""

    def __init__(self, folder: Path, devices: int, points_each: int) -> None:
        self._draw = np.random.default_rng(1)
        self._roster = registry(devices, points_each)
        self._time = Time()
        self.gateway = Gateway(RealDisk(folder), private_key(1), self._time, self._roster, random.Random(1),
                               len_s=LEN_S)
        world = World()
        world.gateway()
        world.round()
        self._seen = world.seen()
        self.close_s: list[float] = []

    def fill(self) -> None:
        """Give every point a sample in the middle of the open window."""
        self._time.pass_s(LEN_S / 2)
        n, windows = self._roster.points, self.gateway.windows
        now_ns = windows._clock.now_ns()
        windows.samples(SampleBatch(
            point_index=np.arange(n, dtype=np.int64), received_ns=np.full(n, now_ns, dtype=np.int64),
            source_ns=np.zeros(n, dtype=np.int64), value=self._draw.integers(0, 2, n).astype(np.float64),
            quality=np.where(self._draw.integers(0, 8, n) == 0, 0x80, 0).astype(np.uint8)))
        windows.answered(np.arange(self._roster.devices, dtype=np.int64), now_ns)
        self._time.pass_s(LEN_S / 2)

    def seal(self) -> float:
        """Close and seal some windows; return the CPU seconds of sealing one."""
        sealed_s = 0.0
        for _ in range(WINDOWS_EACH):
            self.fill()
            closed: list[ClosedWindow] = []

            def close(into: list[ClosedWindow] = closed) -> None:
                into += [item for item in self.gateway.windows.tick() if isinstance(item, ClosedWindow)]

            self.close_s.append(cpu_s(close))
            def seal(these: list[ClosedWindow] = closed) -> None:
                for item in these:
                    self.gateway.take(item, self._seen)

            sealed_s += cpu_s(seal)
        return sealed_s / WINDOWS_EACH


def rows(wanted: Collection[str]) -> Iterator[Row]:
    """Measure E1 in a process of its own."""
    found = last_line([PYTHON, __file__, "--row"])
    yield Row(id="E1", measures=(measure(found["calibrated_ms"], unit="ms CPU", target=50, at_least=False),),
              versions=versions("numpy", "cryptography"),
              notes={"as measured": spread(tuple(found["raw_ms"]), digits=1) + " ms"})


def case(devices: int, points_each: int) -> tuple[Plant, Times, int]:
    """Seal windows of one plant; return it, the times, and the size of an entry."""
    with tempfile.TemporaryDirectory() as folder:
        plant = Plant(Path(folder), devices, points_each)
        times = repeat(plant.seal)
        journal = plant.gateway.journal
        last = journal.entry(journal.size - 1)
        assert last["type"] == "window" and not plant.gateway.events
        assert last["samples"]["counted"] > 0.8 * devices * points_each
        return plant, times, len(encode(last))


def main() -> None:
    """Print a line for each case; with --row, the times of the row as JSON."""
    if sys.argv[1:] == ["--row"]:
        _, times, _ = case(*CASES[1][:2])
        print(json.dumps({"calibrated_ms": [s * 1000 for s in times.calibrated_s],
                          "raw_ms": [s * 1000 for s in times.raw_s]}))
        return
    for devices, points_each, target_s in CASES:
        plant, times, size = case(devices, points_each)
        verdict = "" if target_s is None else f": {met(times.median_s <= target_s)} (<= {1000 * target_s:.0f} ms)"
        print(f"{devices} devices, {devices * points_each} points: seal {spread(times.calibrated_s, 1000, 2)} ms "
              f"calibrated{verdict}; {spread(times.raw_s, 1000, 2)} ms as measured; "
              f"close {1000 * statistics.median(plant.close_s):.2f} ms; entry {size} bytes")


if __name__ == "__main__":
    main()
