"""How inner rooms speak to people: they hand over a code and arguments, `tallystick/words` holds the sentences."""

from __future__ import annotations

from typing import Protocol


class Say(Protocol):
    """Turns a code and its arguments into a sentence in the language of this run."""

    @property
    def lang(self) -> str:
        """`en` or `zh`."""

    def __call__(self, code: str, /, **args: object) -> str:
        """Return the sentence; an unknown code gives the code and its arguments, never an error."""

    def english(self, code: str, /, **args: object) -> str:
        """Return the English sentence, whatever the language of this run (JSON output, logs)."""

    def explain(self, code: str, /) -> dict[str, str] | None:
        """Return {text, cause, fix} of a code in this language, missing parts left out; None if unknown."""

    def speaking(self, lang: str) -> Say:
        """Return the same in another language, `en` or `zh`: a page speaks to whoever opens it."""
