"""A package that is loaded on demand offers what it offers, and loads what is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from protocols.on_demand import split

INIT = """
'''What it is about.'''
from __future__ import annotations
import os.path
from .numbers_ import ONE, TWO as DEUX
from offering.numbers_ import THREE
from .inner.deep import DEEP
from . import plain
from .own import own
from .version import VERSION
from sys import maxsize
__version__ = VERSION
__all__ = ["ONE", "DEEP"]
"""


def told(folder: Path, code: str) -> list[str]:
    """Run `code` where the package `offering` stands, loaded on demand; what it prints, line by line."""
    package = folder / "offering"
    for name, text in {"__init__.py": INIT, "numbers_.py": "ONE, TWO, THREE = 1, 2, 3", "inner/__init__.py": "",
                       "inner/deep.py": "DEEP = 'deep'", "plain.py": "here = 5", "own.py": "def own(): return 'own'",
                       "version.py": "VERSION = '7'", "broken.py": "1 / 0"}.items():
        file = package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    begin = f"import sys\nsys.path[:0] = [{str(folder)!r}]\n" \
            "from protocols.on_demand import leave_out, load_on_demand\n" \
            "load_on_demand({'offering': None})\n" \
            "def loaded():\n    return sorted(n[9:] for n in sys.modules if n.startswith('offering.'))\n"
    done = subprocess.run([sys.executable, "-c", begin + textwrap.dedent(code)], capture_output=True, text=True,
                          cwd=Path(__file__).resolve().parents[3], timeout=60)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()[-1:]]


def test_what_is_asked_for_is_loaded_and_nothing_else(tmp_path: Path) -> None:
    assert told(tmp_path, """
        import offering
        print(loaded(), offering.__version__, offering.__doc__, offering.maxsize == sys.maxsize)
        from offering import DEUX, THREE
        print(DEUX, THREE, offering.DEUX, loaded())
        import offering.inner.deep
        print(offering.DEEP, offering.inner.deep.DEEP)
        print(offering.plain.here, offering.own(), offering.plain is sys.modules['offering.plain'])
        print(offering.__file__.endswith('__init__.py'), offering.__spec__.name, len(offering.__path__))
        """) == [
        "['own', 'version'] 7 What it is about. True", "2 3 2 ['numbers_', 'own', 'version']", "deep deep",
        "5 own True", "True offering 1"]


@pytest.mark.parametrize(("code", "last"), [
    ("import offering; offering.FOUR", "AttributeError: module 'offering' has no attribute 'FOUR'"),
    ("from offering import FOUR", "ImportError: cannot import name 'FOUR' from 'offering'"),
    ("import offering.none", "ModuleNotFoundError: No module named 'offering.none'"),
    ("import offering.broken", "ZeroDivisionError: division by zero")], ids=["attribute", "name", "module", "broken"])
def test_what_is_not_there_is_told_as_always(tmp_path: Path, code: str, last: str) -> None:
    assert told(tmp_path, code)[-1].startswith(last)


def test_some_names_alone_wait(tmp_path: Path) -> None:
    assert told(tmp_path, """
        sys.meta_path.pop(0)
        load_on_demand({'offering': ('DEEP', 'ONE')})
        import offering
        print(loaded(), offering.DEEP, offering.ONE)
        """) == ["['numbers_', 'own', 'plain', 'version'] deep 1"]


def test_what_is_left_out_is_not_there_and_what_is_loaded_stays(tmp_path: Path) -> None:
    assert told(tmp_path, """
        import offering.version
        leave_out(['offering.version', 'offering.plain'])
        from offering.version import VERSION
        try:
            import offering.plain
        except ImportError as error:
            print(VERSION, type(error).__name__, offering.ONE)
        """) == ["7 ModuleNotFoundError 1"]


def test_a_star_takes_what_is_named(tmp_path: Path) -> None:
    assert told(tmp_path, "from offering import *\nprint(ONE, DEEP)") == ["1 deep"]


def test_a_loaded_package_stays_as_it_is(tmp_path: Path) -> None:
    assert told(tmp_path, """
        from importlib.machinery import PathFinder
        finder, = [f for f in sys.meta_path if type(f).__module__ == 'protocols.on_demand']
        sys.meta_path.remove(finder)
        import offering
        load_on_demand({'offering': None})
        import offering
        print(loaded(), offering.THREE)
        """) == ["['inner', 'inner.deep', 'numbers_', 'own', 'plain', 'version'] 3"]


@pytest.mark.parametrize("statement", [
    "from .a import *", "from .a import a", "from .a.b import a", "from .a import X\nY = X", "import pack.a",
    "from packs.a import X", "from ..a import X", "if True:\n    from .a import X",
    "try:\n    from .a import X\nexcept ImportError:\n    X = None"], ids=repr)
def test_what_cannot_wait_is_done_at_once(statement: str) -> None:
    package = "pack.age" if ".." in statement else "pack"
    code, offers = split(ast.parse(statement), package, "f")
    assert offers == {} and code.co_code == compile(statement, "f", "exec").co_code
