"""Where the programme data of the domain are: `TALLYSTICK_DOMAIN`, else `shared/domain` beside the checkout."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "domain"


@functools.cache
def domain(name: str) -> dict[str, Any]:
    """Return one YAML file, read once: not to be changed. Absent: a skip, in CI a failure."""
    path = Path(os.environ.get("TALLYSTICK_DOMAIN", BESIDE)) / name
    if not path.is_file():
        reason = f"no programme data at {path}; set TALLYSTICK_DOMAIN"
        if os.environ.get("CI") == "true":
            raise AssertionError(reason)
        pytest.skip(reason)
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value
