"""How the page tells codes, times and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from protocols.terms.say import Say


@dataclass(frozen=True, slots=True)
class Told:
    """One code, told to a person."""

    text: str
    cause: str = ""
    fix: str = ""


def told(say: Say, code: str, args: Mapping[str, object]) -> Told:
    """Return sentence, usual cause and fix of a code, their places filled."""
    parts = say.explain(code) or {}
    return Told(say(code, **args), *(_filled(parts.get(part, ""), args) for part in ("cause", "fix")))


def _filled(sentence: str, args: Mapping[str, object]) -> str:
    for name, value in args.items():
        sentence = sentence.replace("{" + name + "}", str(value))
    return sentence


def local_time(time_s: int | None) -> str:
    """Return a time with its zone, as the command line shows it; a dash for none."""
    if time_s is None:
        return "—"
    try:
        return datetime.fromtimestamp(time_s).astimezone().isoformat(sep=" ")
    except (ValueError, OverflowError, OSError):  # a server's clock may say any time at all
        return f"@{time_s}"


def grouped(digits: str) -> str:
    """Return hex digits in groups of four, as two people compare them by telephone."""
    return " ".join(digits[at:at + 4] for at in range(0, len(digits), 4))
