"""Row E2: how fast a bundle is verified, all steps, on one core. --year: 525 600 windows of one minute.

The time for one window is taken off that for many, measured side by side, so that the rows of the roster do not count
as windows; there are so many windows that the rows' noise does not either. Signatures do count: of the register, of its
witnesses, and of what the windows name as seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.calibration import CHECK_S, cpu_s, met, repeat, spread
from benchmarks.harness import PYTHON, Measure, Row, last_line, memory_mb, versions
from benchmarks.harness import measure as figure
from benchmarks.plant import Case, Plant

SMALL = Case(name="the same, a head every 10 windows", devices=40, points=1_000, windows=5_000)
LARGE = Case(name="10 000 devices, 100 000 points", devices=10_000, points=100_000, windows=3_000, len_s=300,
             head_every=2, seen_every=2)
CASES = (
    (replace(SMALL, name="40 devices, 1000 points, the log alone (no platform)", platform=False), 20_000),
    (SMALL, None),
    (replace(SMALL, name="the same, two witnesses", witnesses=("bureau", "vendor")), None),
    (replace(SMALL, name="the same, every window names a new checkpoint", seen_every=1, windows=2_000), None),
    (LARGE, 1_500),
    (replace(LARGE, name="the same, another 1 % of the devices away in every window", away=0.01, windows=600), None),
)
YEAR = replace(SMALL, name="a year of minutes, 40 devices, 1000 points", windows=525_600)
YEAR_S, YEAR_MB = 45, 200


def rows(wanted: Collection[str]) -> Iterator[Row]:
    """Measure E2: the two rates, and the year of minute windows, which takes some minutes to build."""
    measures: list[Measure] = []
    for case, target in (CASES[0], CASES[4], (YEAR, None)):
        with tempfile.TemporaryDirectory() as folder:
            Plant(case).bundle(Path(folder))
            found = last_line([PYTHON, __file__, folder, str(case.windows), str(target or 0), "--row"])
        if target is None:
            measures += [figure(found["calibrated_s"], unit="s for a year", target=YEAR_S, at_least=False),
                         figure([found["peak_mb"]], unit="MB for a year", target=YEAR_MB, at_least=False)]
        else:
            measures.append(figure([1 / s for s in found["calibrated_s"]], unit=f"windows/s of {case.points} points",
                                   target=target))
    yield Row(id="E2", measures=tuple(measures), versions=versions("cryptography", "rfc8785"))


def measure(folder: Path, windows: int, target: int | None, *, as_json: bool = False) -> str:
    """Verify the two bundles of `folder`. Return what was measured, as text or as JSON."""
    from protocols.evidence.bundle import open_bundle
    from protocols.evidence.policy import parse
    from verifier.proof.verify import verify

    policy = parse((folder / "policy.json").read_bytes(), where="policy")

    def one(count: int) -> float:
        def work() -> None:
            verdict = verify(open_bundle(folder / f"{count}.tally"), policy)
            assert verdict.valid and verdict.summary.windows == count and verdict.summary.windows_uncounted == 0
        return cpu_s(work)

    if windows == YEAR.windows:
        times = repeat(lambda: one(windows), repeats=1)
        _, peak_mb = memory_mb()
        if as_json:
            return json.dumps({"calibrated_s": times.calibrated_s, "peak_mb": peak_mb})
        return (f"{times.median_s:.1f} s calibrated, {times.raw_s[0]:.1f} s as measured: "
                f"{met(times.median_s < YEAR_S)} (< {YEAR_S} s); peak {peak_mb:.0f} MB: "
                f"{met(peak_mb < YEAR_MB)} (< {YEAR_MB} MB)")
    times = repeat(lambda: (one(windows) - one(1)) / (windows - 1))
    _, peak_mb = memory_mb()
    if as_json:
        return json.dumps({"calibrated_s": times.calibrated_s, "peak_mb": peak_mb})
    rates = tuple(1 / s for s in times.calibrated_s)
    verdict = "" if target is None else f": {met(1 / times.median_s >= target)} (>= {target})"
    return (f"{spread(rates, digits=0)} windows/s calibrated{verdict}; "
            f"{spread(tuple(1 / s for s in times.raw_s), digits=0)} as measured; "
            f"{times.median_s / CHECK_S:.2f} Ed25519 checks a window; peak {peak_mb:.0f} MB; "
            f"bundle {(folder / f'{windows}.tally').stat().st_size / 1e6:.1f} MB")


def main() -> None:
    """Measure every case in a process of its own, so that the peak of memory is that of verifying."""
    if len(sys.argv) > 3:
        print(measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) or None, as_json="--row" in sys.argv))
        return
    for case, target in ((YEAR, None),) if sys.argv[1:] == ["--year"] else CASES:
        with tempfile.TemporaryDirectory() as folder:
            Plant(case).bundle(Path(folder))
            print(f"{case.name}: ", end="", flush=True)
            subprocess.run([sys.executable, __file__, folder, str(case.windows), str(target or 0)], check=True)


if __name__ == "__main__":
    main()
