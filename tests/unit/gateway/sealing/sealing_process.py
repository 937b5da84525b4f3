"""Seals windows on a real disk as fast as it can, until somebody kills it. Prints the start of each sealed window.

Usage: python sealing_process.py FOLDER
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from gateway.sealing.disk import RealDisk
from tests.sim.rows import registry
from tests.sim.world import Gateway, Time, private_key


def main(folder: Path) -> None:
    disk = RealDisk(folder)
    clock = folder / "time"
    time = Time(float(clock.read_text()) if clock.exists() else 1_800_000_000)
    gateway = Gateway(disk, private_key(1), time, registry(3, 2), random.Random(), len_s=5)
    known = 0
    while True:
        gateway.run(5)
        for start_s in list(gateway.taken)[known:]:
            print(start_s, flush=True)
        known = len(gateway.taken)
        partial = folder / "time.part"
        partial.write_text(str(time.wall_ns / 1e9))
        partial.replace(clock)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
