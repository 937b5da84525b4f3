"""Where the fonts of a PDF are. They belong to the computer and not to this package: Debian has each as a package."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from protocols.errors import ConfigError, Problem
from verifier.report.typeset import Face

VARIABLE = "TALLYSTICK_FONTS"
FOLDERS = ("/usr/share/fonts/truetype/arphic", "/usr/share/fonts/truetype/wqy", "/usr/share/fonts/arphic",
           "/usr/share/fonts/wqy-zenhei", "/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts",
           "~/.fonts")


@dataclass(frozen=True, slots=True)
class Font:
    """A font file: its name, and how the name of the font in it begins. The first font of a collection is used."""

    file: str
    name: str


FONTS: Mapping[Face, Font] = {
    "song": Font("uming.ttc", "ARPLUMingCN"),
    "hei": Font("wqy-zenhei.ttc", "WenQuanYiZenHei"),
    "kai": Font("ukai.ttc", "ARPLUKaiCN"),
}
"""For 宋, 黑 and 楷 of the layout rules, which are not free. The report names the substitution."""


def check_library() -> None:
    """Raise ConfigError where the extra `documents` is not installed."""
    if importlib.util.find_spec("fpdf") is None:
        raise ConfigError(Problem.of("--report", "report.no_library", library="fpdf2"))


def find_fonts(folder: Path | None) -> dict[Face, Path]:
    """Return the file of each font: of `folder`, else of the folder that TALLYSTICK_FONTS names, else of the system.

    Raises: ConfigError naming every font that is missing.
    """
    named = folder or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    folders = [named] if named is not None else [Path(place).expanduser() for place in FOLDERS]
    found: dict[Face, Path] = {}
    problems = []
    for face, font in FONTS.items():
        path = next((place / font.file for place in folders if (place / font.file).is_file()), None)
        if path is None:
            problems.append(Problem.of("--report", "report.no_fonts", font=font.file,
                                       folders=", ".join(str(place) for place in folders)))
        else:
            found[face] = path
    if problems:
        raise ConfigError(problems)
    return found
