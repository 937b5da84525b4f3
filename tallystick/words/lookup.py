"""Codes into sentences. The sentences stand in `en/ROOM.toml` and `zh/ROOM.toml`, one table per code.

    ["modbus.bad_address"]
    text = "{address} is not a Modbus address"
    cause = "..."     # optional: what usually causes it
    fix = "..."       # optional: how to mend it

Placeholders are plain names. What fills them often comes from outside (a server's name, a file's content), so it is
made harmless for a terminal before it is printed.
"""

from __future__ import annotations

import logging
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from types import MappingProxyType

LANGUAGES = ("en", "zh")
PARTS = ("text", "cause", "fix")
ARGUMENT_CHARS_MAX = 2000
"""A longer argument is cut: a sentence that fills the screen hides its own end."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One code, told to a person: what is the matter, what usually causes it, how to mend it."""

    text: str
    cause: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """The sentences of one language. Implements `protocols.terms.say.Say`."""

    lang: str
    tables: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=lambda: MappingProxyType({}))
    """Language -> code -> part -> sentence. Empty means: the files of this package, read when first needed."""

    def __call__(self, code: str, /, **args: object) -> str:
        """Return the sentence; an unknown code gives the code and its arguments, never an error."""
        return self.tell(code, **args).text

    def english(self, code: str, /, **args: object) -> str:
        """Return the English sentence, whatever the language of this run."""
        return _told(code, self._parts("en", code), args).text

    def tell(self, code: str, /, **args: object) -> Told:
        """Return sentence, cause and fix with their places filled; in English where this language lacks the code."""
        return _told(code, self._parts(self.lang, code) or self._parts("en", code), args)

    def explain(self, code: str, /) -> dict[str, str] | None:
        """Return {text, cause, fix} with their places unfilled, missing parts left out; None if the code is unknown."""
        parts = self._parts(self.lang, code) or self._parts("en", code)
        return {name: parts[name] for name in PARTS if name in parts} if parts else None

    def speaking(self, lang: str) -> Words:
        """Return the same sentences in another language."""
        return replace(self, lang=lang)

    def codes(self) -> list[str]:
        """Return every code that has a sentence, sorted."""
        return sorted(self._table(self.lang).keys() | self._table("en").keys())

    def _table(self, lang: str) -> Mapping[str, Mapping[str, str]]:
        return self.tables.get(lang, {}) if self.tables else read_language(lang)

    def _parts(self, lang: str, code: str) -> Mapping[str, str] | None:
        return self._table(lang).get(code)


@cache
def read_language(lang: str) -> Mapping[str, Mapping[str, str]]:
    """Return code -> part -> sentence of one language, from every file of its folder.

    A file that cannot be read is logged and left out: somebody is about to be told what went wrong, and must be.
    """
    table: dict[str, Mapping[str, str]] = {}
    folder = files("tallystick.words") / lang
    for file in sorted(folder.iterdir(), key=lambda f: f.name) if folder.is_dir() else ():
        if not file.name.endswith(".toml"):
            continue
        try:
            table.update(tomllib.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            log.warning("the sentences of %s/%s are not available: %s", lang, file.name, error)
    return MappingProxyType(table)


def language(chosen: str | None, environ: Mapping[str, str]) -> str:
    """Return `zh` or `en`: what was chosen, else what the locale says; unset, C and everything else are English.

    Of the three variables the first that is set decides, as POSIX has it.
    """
    if chosen in LANGUAGES:
        return chosen
    locale = next((environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environ.get(name)), "")
    return "zh" if locale.lower().startswith("zh") else "en"


def printable(text: str) -> str:
    """Return `text` without anything that could steer a terminal or reorder a line: such characters as \\xNN, \\uNNNN.

    Control characters carry terminal commands; format characters (category Cf) include the bidirectional overrides.
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _STEERING else c for c in text)


_STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")


class _Places(dict[str, str]):
    """Fills the places of a sentence; one that nothing fills stays as it is written."""

    def __missing__(self, name: str) -> str:
        return "{" + name + "}"


def _told(code: str, parts: Mapping[str, str] | None, args: Mapping[str, object]) -> Told:
    shown = _Places({name: _argument(value) for name, value in args.items()})
    if parts is None:
        listed = ", ".join(f"{name}={value}" for name, value in sorted(shown.items()))
        return Told(text=f"{printable(code)} ({listed})" if listed else printable(code))
    return Told(**{name: parts.get(name, "").format_map(shown) for name in PARTS})


def _argument(value: object) -> str:
    text = printable(str(value))
    return text if len(text) <= ARGUMENT_CHARS_MAX else text[:ARGUMENT_CHARS_MAX] + "…"
