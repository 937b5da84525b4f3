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
