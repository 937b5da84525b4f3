"""Programs of npm that tests talk to: installed once per lock file, outside the tree."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.programs import need

INSTALL_S = 350.0


def installed(source: Path) -> Path:
    """Install the package of a folder with its locked libraries and return where; its *.mjs are copied there.

    A machine without network skips the test, CI=true fails it.
    """
    need("node", "npm")
    lock = (source / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tallystick"
    folder = cache / f"{source.name}-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=cache))
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(source / name, made / name)
        done = subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=made, text=True,
                              capture_output=True, timeout=INSTALL_S)
        if done.returncode != 0:
            shutil.rmtree(made)
            reason = f"npm ci failed: {done.stderr[-300:]}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        try:
            made.rename(folder)
        except OSError:  # another run was quicker
            shutil.rmtree(made)
    for script in source.glob("*.mjs"):  # in one step: another worker's node may read it just now
        beside = folder / f"{script.name}.{os.getpid()}"
        shutil.copy(script, beside)
        beside.replace(folder / script.name)
    return folder
