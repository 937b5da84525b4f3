"""The real disk, and a real process that is killed while it seals."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.sealing.disk import RealDisk
from gateway.sealing.journal import Journal
from protocols.errors import EvidenceError
from tests.sim.oracle import check_checkpoint, check_log
from tests.unit.gateway.sealing import sealing_process

PUBLIC = bytes.fromhex("4cb5abf6ad79fbf5abbccafcc269d85cd2651ed4b885b5869f241aedf0a5ba29")
ROOT = Path(__file__).parents[4]


def test_files_are_whole_private_and_in_order(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "state")
    assert disk.read("a/b") is None and disk.names("a") == [] and disk.size("a/b") == 0
    disk.append("a/b", b"one")
    disk.append("a/b", b"two")
    disk.sync("a/b")
    disk.replace("a/c", b"three")
    assert disk.read("a/b") == b"onetwo" and disk.read("a/b", 2, 2) == b"et" and disk.names("a") == ["b", "c"]
    disk.truncate("a/b", 3)
    disk.remove("a/c")
    disk.remove("a/c")
    assert disk.read("a/b") == b"one" and disk.names("a") == ["b"]
    assert stat.S_IMODE((tmp_path / "state/a/b").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state/a").stat().st_mode) == 0o700


def test_half_written_replacement_is_not_seen(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.replace("c", b"whole")
    (tmp_path / "c.part").write_bytes(b"ha")
    assert disk.names("") == ["c"]
    assert disk.read("c") == b"whole"


def test_lock_keeps_a_second_process_out(tmp_path: Path) -> None:
    first, second = RealDisk(tmp_path), RealDisk(tmp_path)
    first.lock()
    with pytest.raises(EvidenceError) as caught:
        second.lock()
    assert caught.value.problems[0].code == "journal.locked"
    first.unlock()
    second.lock()
    second.unlock()


def test_full_file_system_is_an_oserror(tmp_path: Path) -> None:
    """What the kernel refuses reaches the caller, and nothing half-written takes the place of what was there."""
    disk = RealDisk(tmp_path)
    disk.replace("checkpoint", b"old")
    script = ("import resource, signal, sys; from pathlib import Path; from gateway.sealing.disk import RealDisk\n"
              "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
              "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
              "disk = RealDisk(Path(sys.argv[1]))\n"
              "try: disk.replace('checkpoint', b'x' * 5000)\n"
              "except OSError as error: print(error.errno)")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().isdigit(), done.stderr
    assert disk.read("checkpoint") == b"old"


def test_kill_9_while_sealing_loses_and_doubles_nothing(tmp_path: Path) -> None:
    told: set[int] = set()
    rng = random.Random(11)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, sealing_process.__file__, str(tmp_path)], cwd=ROOT, text=True,
                                   stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert process.stdout is not None
        for _ in range(rng.randrange(3, 40)):
            line = process.stdout.readline()
            assert line, "the process ended by itself"
            told.add(int(line))
        process.send_signal(signal.SIGKILL)
        told |= {int(line) for line in process.stdout.read().split("\n")[:-1] if line}
        process.wait()
    journal = Journal(RealDisk(tmp_path))
    entries = journal.encoded(0, journal.size)
    assert journal.checkpoint is not None
    check_checkpoint(entries, journal.checkpoint, PUBLIC)
    found = check_log(entries)
    assert told <= found["windows"].keys()
    assert {o["reason"] for o in found["outages"]} <= {"crash", "clock_back"}
    journal.close()
