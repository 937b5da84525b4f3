"""What every target shares: which modules are watched, what may come out, and how libFuzzer is started.

A target is a module `fuzz_<name>` with one function, `check(data)`. It hands the bytes to parsers of ours and returns
when they were read or refused in the declared way; anything else that comes out of it is a find. The same function is
called by tests/fuzz with the corpus, where nothing is watched and atheris need not be installed.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

ROOMS = ("protocols", "config", "verifier", "gateway")
"""What may be watched. Libraries are not: it is our code that must stand."""

_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def watched(*modules: str) -> AbstractContextManager[object]:
    """Import these modules, by the beginnings of their names, so that the fuzzer sees which of their lines are run."""
    assert all(name.partition(".")[0] in ROOMS for name in modules)
    if not Path(sys.argv[0]).name.startswith("fuzz_"):
        return nullcontext()
    import atheris  # type: ignore[import-untyped]  # it ships none

    entered: AbstractContextManager[object] = atheris.instrument_imports(include=list(modules))
    return entered


def scratch() -> Path:
    """Return a folder for files that a parser wants to open. libFuzzer leaves without goodbye: see `fuzz.running`."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-")
    _FOLDERS.append(folder)
    return Path(folder.name)


def clear() -> None:
    """Remove the folders of this process: nobody calls a target any more."""
    while _FOLDERS:
        _FOLDERS.pop().cleanup()


@contextmanager
def only(*families: type[Exception]) -> Iterator[None]:
    """Let these errors pass: they are how the parsers within refuse."""
    try:
        yield
    except families:
        return


def start(check: Callable[[bytes], None], mutate: Callable[[bytes, random.Random], bytes] | None = None) -> None:
    """Fuzz with the arguments of the command line (those of libFuzzer).

    mutate: makes a new input of an old one, where changed bytes alone would never get far; used half of the time.
    """
    import atheris

    _remember_signatures()

    def mutator(data: bytes, size_max: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if mutate is None or chance.random() < 0.5:
            return bytes(atheris.Mutate(data, size_max))
        return mutate(data, chance)[:size_max]

    more = {} if mutate is None else {"custom_mutator": mutator}
    atheris.Setup(sys.argv, check, **more)
    atheris.Fuzz()


def _remember_signatures() -> None:
    """Check each signature once: what is honest around an input is the same for all, and would take half of the time.

    Both functions depend on nothing but their arguments; a refusal is not remembered.
    """
    from protocols.evidence import keys

    keys.check_public = lru_cache(maxsize=10_000)(keys.check_public)
    keys.signature_holds = lru_cache(maxsize=10_000)(keys.signature_holds)
