"""The golden case, sealed once for each process: `folder()` has its files, `case()` what they were made from."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from verifier.conformance import golden, golden_plants

BUNDLES = golden_plants.FILES
T = "2024-06-14T10:00+08:00"


@cache
def case() -> golden.Golden:
    """Return the sealed case."""
    return golden.seal()


@cache
def folder() -> Path:
    """Return the folder with the bundles, the policy, the lists and the claims. Nobody may write into it."""
    path = Path(tempfile.mkdtemp(prefix="golden-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    case().write(path)
    return path
