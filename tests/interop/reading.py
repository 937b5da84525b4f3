"""Builds and runs the reader of another hand, and spoils logs for it; `make interop` runs all of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.interop import logs

SOURCE = Path(__file__).with_name("reader.go")
LIBRARIES = Path("/usr/share/gocode")
"""Where Debian's package golang-golang-x-mod-dev puts Go's notes and trees."""

BUILD_S = 300.0
READ_S = 120.0

SPOILT = {
    "a hash": "tile/0/000", "the last hash tile": "tile/0/273.p/112", "a tile above": "tile/1/000",
    "an entry": "tile/entries/100", "the checkpoint": "checkpoint", "an earlier checkpoint": "earlier/65536"}
"""Where a bit of the large log is flipped."""

SPOILT_AT = 60
FIRST_TILE = 270


def missing() -> str | None:
    """Return what is not installed, None if all is there."""
    if shutil.which("go") is None:
        return "go"
    return None if (LIBRARIES / "src/golang.org/x/mod/sumdb/tlog").is_dir() else "golang-golang-x-mod-dev"


def built(folder: Path) -> Path:
    """Compile the reader: any Go from 1.19 on, no network, no modules."""
    program = folder / "reader"
    plain = {"GO111MODULE": "off", "GOPATH": str(LIBRARIES), "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOPROXY": "off"}
    done = subprocess.run(["go", "build", "-o", str(program), str(SOURCE)], env=os.environ | plain, text=True,
                          capture_output=True, timeout=BUILD_S, check=False)
    assert done.returncode == 0, done.stderr
    return program


def read(program: Path, log: logs.Log) -> tuple[int, str]:
    """Return exit status and output of the reader."""
    command = [str(program), "-vkey", log.vkey, *(f"-cosigned={vkey}" for vkey in log.witnesses), str(log.folder),
               *map(str, log.earlier)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=READ_S, check=False)
    return done.returncode, done.stdout + done.stderr


def read_spoilt(program: Path, log: logs.Log, name: str) -> tuple[int, str]:
    """Flip one bit in a file, read, and put it right again."""
    file = log.folder / name
    whole = file.read_bytes()
    file.write_bytes(whole[:SPOILT_AT] + bytes([whole[SPOILT_AT] ^ 1]) + whole[SPOILT_AT + 1:])
    try:
        return read(program, log)
    finally:
        file.write_bytes(whole)


def main() -> int:
    """Read every kind of log, then refuse each that was spoilt."""
    lacking = missing()
    if lacking is not None:
        print(f"missing: {lacking}. Run once: sudo apt-get install golang golang-golang-x-mod-dev", file=sys.stderr)
        return 2
    statuses = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(subprocess.run(["go", "version"], text=True, capture_output=True, check=True).stdout.strip(), flush=True)
        program = built(folder)
        large = logs.large(folder / "large")
        bundle = logs.as_a_bundle(folder / "bundle", large, first=FIRST_TILE)
        for log in (large, bundle, *logs.real(folder / "real")):
            status, said = read(program, log)
            print(f"\n{log.title}\n{said}", end="", flush=True)
            statuses.append(status == 0)
        print(f"\n{large.title}, one bit flipped in")
        for what, name in SPOILT.items():
            status, said = read_spoilt(program, large, name)
            refusal = said.splitlines()[-1].strip()
            print(f"  {what + ':':24}{refusal}", flush=True)
            statuses.append(status == 1 and refusal.startswith("REFUSED"))
    print(f"\n{sum(statuses)} of {len(statuses)} as expected")
    return 0 if all(statuses) else 1


if __name__ == "__main__":
    sys.exit(main())
