"""What tests leave behind: nothing. A run whose processes leave files among the temporary ones fails and names them.

Each process of a run (with xdist the one that was started, and each worker within it) has a folder of its own for
temporary files, TMPDIR, which its programs inherit; pytest's `tmp_path` is elsewhere and has its own rules.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.endings import end

OF_A_PROCESS = "t-"
"""How the name of a process's folder begins: short, for the paths of sockets are."""


class Leftovers:
    """A plugin of pytest, one in each process of a run."""

    def __init__(self) -> None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # where tmp_path stays
        self.folder = Path(tempfile.mkdtemp(prefix=OF_A_PROCESS))  # that of a worker is within that of who started it
        os.environ["TMPDIR"] = str(self.folder)
        tempfile.tempdir = None  # found anew
        self.first_seen: dict[str, str] = {}
        """Which test was over when a name was there for the first time."""
        self.left: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Remember what is new."""
        for path in self.folder.iterdir():
            self.first_seen.setdefault(path.name, item.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker remembers."""
        self.first_seen |= getattr(node, "workeroutput", {}).get("first_seen", {})

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End what is shared, then look; a worker leaves that to the process that started it."""
        end()
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["first_seen"] = self.first_seen
            return
        for path in sorted(self.folder.iterdir()):
            for left in sorted(path.iterdir()) if path.name.startswith(OF_A_PROCESS) else [path]:
                self.left.append(f"{left.name} since {self.first_seen.get(left.name, 'after the tests')}")
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name what was left, and the test that was running when it appeared."""
        if self.left:
            terminalreporter.section("left among the temporary files", red=True, bold=True)
            for line in self.left:
                terminalreporter.line(line)
