"""Programs that were not written here: a user's machine may lack them, CI may not."""

from __future__ import annotations

import os
import shutil

import pytest


def need(*names: str) -> None:
    """Skip the test if one of these programs is missing; fail it where CI=true, so that nothing is skipped unseen."""
    missing = [name for name in names if shutil.which(name) is None]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def need_fonts() -> None:
    """Skip the test if a font of a PDF is missing; fail it where CI=true."""
    from protocols.errors import ConfigError
    from verifier.report.fonts import FONTS, find_fonts

    try:
        find_fonts(None)
    except ConfigError:
        reason = f"fonts not installed: {', '.join(font.file for font in FONTS.values())}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
