"""A statement of 50 000 devices, counted and audited on one core; its spreadsheet and its report.

Five gateways, each with the 10 000 devices and 40 000 points that one may hold, a day of windows of five minutes. Each
command is a process of its own, from the start of Python to the last byte: CPU seconds (user and system), wall clock
and peak memory. Bundles are made once, which takes longer than all of it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.calibration import CHECK_S, check_s, met

GATEWAYS, DEVICES, POINTS, WINDOWS, LEN_S = 5, 10_000, 40_000, 288, 300
START_S = 1_718_208_000
"""2024-06-13 00:00 in China, a multiple of the length of a window."""

AT = "2024-06-14T00:00:00+08:00"
CLASSES = ("metal_cutting_machine_tool", "foundry_machinery", "welding_robot", "gas_compressor", "packaging_machinery",
           "casting_equipment", "power_transformation_equipment", "measuring_gauge", "pollution_control_equipment",
           "electronic_industry_production_equipment", "stereoscopic_warehouse_equipment", None)
INDUSTRIES = ("3670", "3985", "3311", "2641", "1711")
REGIONS = ("360100", "360700", "360800", "440300", "320100")
COUNT_S, COUNT_MB, XLSX_S = 10, 500, 30


Arguments = tuple[str | Path, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One command: CPU seconds as measured and calibrated, wall clock, peak of memory."""

    cpu_s: float
    calibrated_s: float
    wall_s: float
    peak_mb: float

    def told(self) -> str:
        return (f"{self.calibrated_s:.1f} s CPU calibrated, {self.cpu_s:.1f} s as measured, {self.wall_s:.1f} s wall "
                f"clock, peak {self.peak_mb:.0f} MB")


def build(folder: Path) -> list[Path]:
    """Write the bundles of five gateways of five enterprises under one register, and the policy."""
    from protocols.evidence import column
    from protocols.evidence.bundle import write_bundle
    from protocols.terms.uscc import check_character
    from protocols.terms.vocabulary import DISCARD_REASONS
    from verifier.conformance.world import World, device_row, point_row, private_part

    world = World(time_s=START_S - 60)
    plants = []
    for number in range(GATEWAYS):
        first = f"91360700MA1XYR{number}E9"
        plants.append(world.gateway(f"plant {number}", uscc=first + check_character(first)))
    world.round(time_s=START_S - 30, heads=False)
    roles = ("parameter",) * 6 + ("switch", "derived")
    for number, gateway in enumerate(plants):
        gateway.now_s, gateway.len_s = START_S, LEN_S
        gateway.begin()
        devices = [device_row(
            slot, private=private_part(f"{number}-{slot}", maker=f"Maker {slot % 40}", model=f"M-{slot % 40}",
                                       serial=f"{number}-{slot - 1 if slot % 100 == 99 else slot}"),
            uscc=gateway.uscc, industry=INDUSTRIES[slot % 5], region=REGIONS[number],
            thing="infrastructure" if slot % 97 == 0 else "equipment") | {"class": CLASSES[slot % len(CLASSES)]}
            for slot in range(DEVICES)]
        points = [point_row(slot, slot % DEVICES, gateway.id, address=str(slot), base=str(slot),
                            role=roles[slot // 5 % len(roles)],
                            protocol=("modbus_tcp", "opc_ua", "mqtt")[slot % DEVICES % 3])
                  for slot in range(POINTS)]
        gateway.roster(devices, points)
    quiet = {slot for slot in range(POINTS) if slot % DEVICES % 113 == 0}
    every, some = (1 << POINTS) - 1, sum(1 << slot for slot in range(POINTS) if slot not in quiet)
    columns = {"connected": column.pack((1 << DEVICES) - 1, DEVICES), "sampled": column.pack(every, POINTS),
               "producing": column.pack(some, POINTS)}
    samples = {"received": 60 * POINTS, "counted": 59 * POINTS,
               "discarded": dict.fromkeys(DISCARD_REASONS, 0) | {"bad_quality": POINTS}}
    for window in range(WINDOWS):
        seen = world.seen()
        for number, gateway in enumerate(plants):
            changing = some & ~(1 << (window * 131 + number) % POINTS)
            gateway.add("window", start_s=gateway.now_s, len_s=LEN_S, roster=gateway.roster_seq, seen=seen,
                        clock={"source": "ntp", "offset_ms": 3, "step_ms": 0}, samples=samples,
                        columns=columns | {"changing": column.pack(changing, POINTS)})
            gateway.now_s += LEN_S
        if window % 6 == 5:
            world.round(time_s=plants[0].now_s + 5)
    paths = []
    for number, gateway in enumerate(plants):
        paths.append(folder / f"{number}.tally")
        write_bundle(paths[-1], gateway.members())
    (folder / "policy.json").write_bytes(world.policy_json())
    return paths


def run(*arguments: str | Path, codes: tuple[int, ...] = (0, 1)) -> Run:
    """Run one command in a process of its own, on one core where the system can say so."""
    before = check_s()
    started = time.monotonic()
    command = [sys.executable, "-m", "tallystick", *map(str, arguments)]
    pid = os.posix_spawn(command[0], command, os.environ | {"PYTHONPATH": str(ROOT)}, file_actions=[
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
    _, status, used = os.wait4(pid, 0)
    wall_s = time.monotonic() - started
    assert os.waitstatus_to_exitcode(status) in codes, f"{command} ended with {os.waitstatus_to_exitcode(status)}"
    cpu_s = used.ru_utime + used.ru_stime
    return Run(cpu_s, cpu_s * CHECK_S / ((before + check_s()) / 2), wall_s, used.ru_maxrss / 1024)


CLAIM = f"""[claim]
programme = "jiangxi_guideline_2022"
type = "comprehensive"
at = {AT}
branch = "discrete"
[claim.enterprise]
name = "示范平台有限公司"
uscc = "91320000MA1XYRAB3E"
[metrics]
device_connected_count = 50000
device_kind_count = 40
staff_count = 12
"""


def main() -> None:
    """Count and audit three times each, the median is told; every document once."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(name)
        paths = sorted(folder.glob("?.tally")) or build(folder)
        (folder / "claim.toml").write_text(CLAIM, encoding="utf-8")
        size_mb = sum(path.stat().st_size for path in paths) / 1e6
        print(f"{GATEWAYS} gateways, {GATEWAYS * DEVICES} devices, {GATEWAYS * POINTS} points, {GATEWAYS * WINDOWS} "
              f"windows; bundles {size_mb:.1f} MB", flush=True)
        trust = ("--policy", folder / "policy.json")
        count: Arguments = ("count", *paths, *trust, "--at", AT)
        audit: Arguments = ("audit", folder / "claim.toml", *paths, *trust, "--programme", "jiangxi_guideline_2022",
                            "--type", "comprehensive")
        for title, arguments in (("count", count), ("audit, JSON with every device", (*audit, "--json"))):
            middle = sorted((run(*arguments) for _ in range(3)), key=lambda one: one.calibrated_s)[1]
            print(f"{title}: {middle.told()}: {met(middle.calibrated_s < COUNT_S)} (< {COUNT_S} s), "
                  f"{met(middle.peak_mb < COUNT_MB)} (< {COUNT_MB} MB)", flush=True)
        devices: Arguments = ("export", *paths, *trust, "--list", "devices", "--programme", "jiangxi_2024", "--at", AT,
                              "-o")
        documents: tuple[tuple[str, Arguments, int | None], ...] = (
                ("list of all devices, XLSX", (*devices, folder / "devices.xlsx"), XLSX_S),
                ("audit report with all devices, XLSX", (*audit, "--report", folder / "report.xlsx"), XLSX_S),
                ("audit report, HTML", (*audit, "--report", folder / "report.html"), None),
                ("audit report, PDF", (*audit, "--report", folder / "report.pdf"), None))
        for title, arguments, limit_s in documents:
            one = run(*arguments)
            target = "" if limit_s is None else f": {met(one.calibrated_s < limit_s)} (< {limit_s} s)"
            size_kb = Path(arguments[-1]).stat().st_size / 1000
            print(f"{title}: {one.told()}, {size_kb:.0f} kB{target}", flush=True)


if __name__ == "__main__":
    main()
