"""How fast a bundle is verified, steps 1 to 9, on one core: CPU seconds of this process, the least of some repeats.

The time for one window is taken off that for many, so that rows of the roster do not count as windows. Beside it
stands how many Ed25519 checks the same process makes in that time: machines differ, that ratio less.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the builder of small worlds is part of the tests, which are not installed

REPEATS = 3
CALIBRATION_CHECKS = 2000
CASES = {"40 devices, 1 000 points, 1440 windows": (40, 1_000, 1_440),
         "2 000 devices, 20 000 points, 500 windows": (2_000, 20_000, 500)}


def build(folder: Path, devices: int, points: int, windows: int) -> None:
    """Write a policy and two bundles, of 1 and of `windows` windows: a register with two witnesses, a co-signature
    every ten windows.
    """
    from protocols.evidence import column
    from protocols.evidence.bundle import write_bundle
    from verifier.conformance.world import World, device_row, point_row

    draw = random.Random(1)
    world = World()
    gateway = world.gateway()
    world.round()
    gateway.begin()
    gateway.roster([device_row(slot) for slot in range(devices)],
                   [point_row(slot, slot % devices, gateway.id) for slot in range(points)])
    everything = (1 << points) - 1
    for number in range(windows):
        producing = everything & ~(draw.getrandbits(points) & draw.getrandbits(points) & draw.getrandbits(points))
        changing = producing & draw.getrandbits(points)
        gateway.window(columns={
            "connected": column.pack((1 << devices) - 1, devices), "sampled": column.pack(everything, points),
            "producing": column.pack(producing, points), "changing": column.pack(changing, points)})
        if number % 10 == 0 or number == windows - 1:
            world.round(time_s=gateway.now_s + 5)
        if number in (0, windows - 1):
            write_bundle(folder / f"{number + 1}.tally", gateway.members())
    (folder / "policy.json").write_bytes(world.policy_json())


def cpu_s(work: Callable[[], object]) -> list[float]:
    """Return the CPU time of each repeat, sorted."""
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return sorted(times)


def measure(folder: Path, windows: int) -> str:
    """Verify the bundle of `folder`, and calibrate with signatures."""
    from protocols.evidence import keys
    from protocols.evidence.bundle import open_bundle
    from protocols.evidence.policy import parse
    from verifier.proof.verify import verify

    policy = parse((folder / "policy.json").read_bytes(), where="policy")

    def one(count: int) -> None:
        verdict = verify(open_bundle(folder / f"{count}.tally"), policy)
        assert verdict.valid and verdict.summary.windows == count

    rows, whole = cpu_s(lambda: one(1)), cpu_s(lambda: one(windows))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    key = keys.generate()
    public, signature = keys.public_bytes(key), key.sign(b"calibration")
    checks = cpu_s(lambda: [keys.signature_holds(public, signature, b"calibration") for _ in range(CALIBRATION_CHECKS)])
    check_s = checks[0] / CALIBRATION_CHECKS
    window_s = (whole[0] - rows[0]) / (windows - 1)
    return (f"{1 / window_s:7.0f} windows/s, {window_s / check_s:.1f} Ed25519 checks a window; rows {rows[0]:.2f} s; "
            f"whole {whole[0]:.2f} to {whole[-1]:.2f} s; peak {peak_mb:.0f} MB; "
            f"bundle {(folder / f'{windows}.tally').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    if len(sys.argv) == 3:  # in a process of its own, so that the peak of memory is that of verifying
        print(measure(Path(sys.argv[1]), int(sys.argv[2])))
    else:
        for name, (devices, points, windows) in CASES.items():
            with tempfile.TemporaryDirectory() as folder:
                build(Path(folder), devices, points, windows)
                print(f"{name}: ", end="", flush=True)
                subprocess.run([sys.executable, __file__, folder, str(windows)], check=True)
