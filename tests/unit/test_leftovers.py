"""A run of tests that leaves a temporary file behind fails, names it, and removes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.source import ROOT

CONFTEST = """
from tests.support.leftovers import Leftovers

def pytest_configure(config):
    config.pluginmanager.register(Leftovers())
"""
TESTS = """
import os, shutil, tempfile
from pathlib import Path
from tests.support.endings import at_the_end

def test_tidy(tmp_path):
    at_the_end(Path(tempfile.mkdtemp(prefix="shared-")).rmdir)
    with tempfile.NamedTemporaryFile():
        pass

def test_careless():
    if {careless}:
        Path(os.environ["TMPDIR"], "forgotten").mkdir()
        Path(os.environ["TMPDIR"], "forgotten", "file").touch()
"""


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("careless", [False, True], ids=["tidy", "careless"])
def test_what_is_left_fails_the_run(workers: int, careless: bool, tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "temporary").mkdir()
    (tmp_path / "suite" / "conftest.py").write_text(CONFTEST)
    (tmp_path / "suite" / "test_some.py").write_text(TESTS.format(careless=careless))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider", "-q",
         "-n", str(workers)],
        cwd=tmp_path / "suite", capture_output=True, text=True, timeout=100, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")})
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == int(careless)
    assert ("forgotten since test_some.py::test_careless" in done.stdout) is careless
    assert [path.name for path in (tmp_path / "temporary").iterdir() if not path.name.startswith("pytest-of-")] == []
