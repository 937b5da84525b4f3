"""100 000 Modbus requests against a server that answers late, twice, cut or for others: no value may be misplaced.

    python benchmarks/modbus_hostile.py                        # 85 000 over TCP, 15 000 over RTU frames; some minutes
    python benchmarks/modbus_hostile.py --requests 1000 --seed 7

Every reply carries the number of the request it answers, so that an answer to another request is seen even if it was
asked for the same registers. Ends with status 1 if a single value is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from protocols.modbus import schedule
from tests.unit.protocols.modbus.hostile import Hostile, attack

RTU_SHARE = 0.15
"""Over RTU each trick costs a timeout of silence, so fewer of them fit into a minute."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    schedule.SILENT_FIRST_S, schedule.SILENT_MAX_S = 0.002, 0.004
    schedule.RECONNECT_FIRST_S, schedule.RECONNECT_MAX_S = 0.0005, 0.002
    total = wrong = 0
    for protocol, share, good in (("modbus_tcp", 1 - RTU_SHARE, 400), ("modbus_rtu_over_tcp", RTU_SHARE, 400)):
        hostile = Hostile(args.seed, is_rtu=protocol != "modbus_tcp", timeout_s=0.02, good_weight=good)
        began_s = time.monotonic()
        found = asyncio.run(attack(protocol, hostile, requests=round(args.requests * share), units=(1, 2, 3, 4),
                                   poll_s=0.01, deadline_s=3600))
        tricks = hostile.number - hostile.played["good"]
        print(f"{protocol}: {hostile.number} requests, {tricks} of them tricked, {found.checked} values, "
              f"{len(found.wrong)} wrong, {len(found.loop_errors)} errors of the loop, "
              f"{time.monotonic() - began_s:.0f} s", flush=True)
        print("  " + ", ".join(f"{trick} {count}" for trick, count in sorted(hostile.played.items())), flush=True)
        for problem in (*found.wrong, *found.loop_errors):
            print(f"  {problem}", flush=True)
        total += hostile.number
        wrong += len(found.wrong) + len(found.loop_errors)
    print(f"{total} requests, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
