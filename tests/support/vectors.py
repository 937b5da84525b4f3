"""Where the published test vectors are: `TALLYSTICK_VECTORS`, else `shared/vectors` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "vectors"


def vectors(folder: str, pattern: str, count: int) -> list[Path]:
    """Return the files of a folder. All absent: a skip, in CI a failure. Some but not all: always a failure."""
    root = Path(os.environ.get("TALLYSTICK_VECTORS", BESIDE))
    if not root.is_dir():
        if os.environ.get("CI") == "true":
            raise AssertionError(f"no published vectors at {root}: CI must have them")
        pytest.skip(f"no published vectors at {root}; set TALLYSTICK_VECTORS", allow_module_level=True)
    found = sorted(root.joinpath(folder).glob(pattern))
    assert len(found) == count, f"{len(found)} of {count} vectors in {folder}: a missing file must not pass"
    return found
