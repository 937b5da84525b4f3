"""The stage of a demo is cleared however the run ends: also when signals come together, as at the end of a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.source import ROOT

RUN = """
import sys, time
from pathlib import Path
from tallystick.stage import Stage, ended_cleanly
from tallystick.words.lookup import Words
stage = Stage(Path(sys.argv[1]), Words("en"))
with ended_cleanly(stage):
    stage.start("sleeper", ["sleep", "120"])
    print(stage._running["sleeper"].pid, flush=True)
    time.sleep(120)
"""


def test_signals_that_come_together_leave_nothing_running(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path / "out")], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stderr is not None
        sleeper = int(run.stdout.readline())
        try:
            for number in (signal.SIGSTOP, signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
                run.send_signal(number)
            run.wait(60)
            with pytest.raises(ProcessLookupError):
                os.kill(sleeper, 0)
            assert "ignored due to race" not in run.stderr.read().decode()
        finally:
            run.kill()
            with suppress(ProcessLookupError):
                os.kill(sleeper, signal.SIGKILL)


EARLY = """
import signal, subprocess, sys
from pathlib import Path
from tallystick.stage import Stage, ended_cleanly
from tallystick.words.lookup import Words

class Interrupted(subprocess.Popen):
    def __init__(self, *line, **options):
        super().__init__(*line, **options)
        print(self.pid, flush=True)
        signal.raise_signal(signal.SIGTERM)

subprocess.Popen = Interrupted
stage = Stage(Path(sys.argv[1]), Words("en"))
Stage._line = lambda self, words: [str(word) for word in words]
with ended_cleanly(stage):
    (stage.start("sleeper", ["sleep", "120"]) if sys.argv[2] == "service" else stage.command("sleeper", "sleep", "120"))
    raise SystemExit("it went on")
"""


@pytest.mark.parametrize("kind", ["service", "command"])
def test_an_end_that_comes_while_a_process_starts_ends_that_too(tmp_path: Path, kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", EARLY, str(tmp_path / "out"), kind], cwd=ROOT, capture_output=True,
                          text=True, timeout=60, check=False)
    sleeper = int(done.stdout)
    try:
        with pytest.raises(ProcessLookupError):
            os.kill(sleeper, 0)
    finally:
        with suppress(ProcessLookupError):
            os.kill(sleeper, signal.SIGKILL)
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
