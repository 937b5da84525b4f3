"""How large the log of a day is: entry tiles and hash tiles as they are stored and mirrored, before compression.

Columns are drawn at random, which no compression shortens by much; `deflated` is what a bundle makes of them.
"""

from __future__ import annotations

import sys
import zlib
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.calibration import met
from benchmarks.plant import Case, Plant, day_bytes, hash_tiles_bytes, window_bytes
from protocols.evidence import tiles

DAY_S = 86_400
MB = 1e6
CASES = (
    (Case(name="40 devices, 1000 points", devices=40, points=1_000, windows=1, len_s=60), 3),
    (Case(name="500 devices, 10 000 points", devices=500, points=10_000, windows=1, len_s=60), None),
    (Case(name="1500 devices, 25 000 points", devices=1_500, points=25_000, windows=1, len_s=60), None),
    (Case(name="10 000 devices, 100 000 points", devices=10_000, points=100_000, windows=1, len_s=300), 20),
)


def main() -> None:
    """Print a table: one real day each, beside what the formula says."""
    print(f"{'plant':32}{'window':>8}{'entry':>9}{'entries':>9}{'hashes':>9}{'a day':>9}{'formula':>9}{'deflated':>10}"
          "  limit")
    for case, limit_mb in CASES:
        windows = DAY_S // case.len_s
        plant = Plant(replace(case, windows=windows))
        for number in range(windows):
            plant.window(number)
        entries = plant.gateway.entries
        whole = [tiles.join_entries(entries[i : i + tiles.WIDTH]) for i in range(0, len(entries), tiles.WIDTH)]
        data, hashes = sum(map(len, whole)), hash_tiles_bytes(len(entries))
        verdict = "" if limit_mb is None else f"{limit_mb} MB: {met(data + hashes <= limit_mb * MB)}"
        print(f"{case.name:32}{case.len_s:6} s{window_bytes(case.devices, case.points):7} B{data / MB:6.2f} MB"
              f"{hashes / MB:6.2f} MB{(data + hashes) / MB:6.2f} MB"
              f"{day_bytes(case.devices, case.points, case.len_s) / MB:6.2f} MB"
              f"{sum(len(zlib.compress(tile)) for tile in whole) / MB:7.2f} MB  {verdict}")


if __name__ == "__main__":
    main()
