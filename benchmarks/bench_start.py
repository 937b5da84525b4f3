"""How long a user waits for the command itself: fresh processes, median and worst of N, beside an empty interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 20
CASES = {"empty interpreter": ["-c", "pass"], "tallystick --version": ["-m", "tallystick", "--version"],
         "tallystick --help": ["-m", "tallystick", "--help"], "tallystick explain": ["-m", "tallystick", "explain"]}


def measure_ms(arguments: list[str]) -> list[float]:
    """Return the wall time of each run, sorted; the first, which fills the disk cache, is left out."""
    times_ms = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times_ms.append((time.perf_counter() - started) * 1000)
    return sorted(times_ms[1:])


if __name__ == "__main__":
    for name, arguments in CASES.items():
        times_ms = measure_ms(arguments)
        print(f"{name:22} median {statistics.median(times_ms):6.1f} ms   worst {times_ms[-1]:6.1f} ms")
