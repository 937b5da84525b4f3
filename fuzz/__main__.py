"""`python -m fuzz [TARGET...]`, the long way: `make fuzz FUZZ_S=300`."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from fuzz.running import TARGETS, run_all


def main() -> int:
    """Run targets one after the other, print a line for each, and keep what broke them. Exit status 1 on a find."""
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("target", nargs="*", help=f"all by default: {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument("--inputs", type=int, default=-1, help="end a target after so many inputs")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--keep", type=Path, help="a folder for inputs that reach new lines")
    parser.add_argument("--finds", type=Path, default=Path("fuzz-finds"), help="where to put what breaks a target")
    options = parser.parse_args()
    unknown = sorted(set(options.target) - set(TARGETS))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}")
    status = 0
    for one in run_all(options.target or TARGETS, seconds=options.seconds, inputs=options.inputs, jobs=options.jobs,
                       kept=options.keep):
        print(one, flush=True)
        if one.said:
            status = 1
        if one.find is not None:
            file = options.finds / one.target / hashlib.sha256(one.find).hexdigest()[:16]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(one.find)
            print(f"kept: {file}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
