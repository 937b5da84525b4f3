"""The source as data: which files a room has, and which codes it hands to people."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("tallystick", "gateway", "verifier", "simulators", "config", "protocols")

CODE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
CODE_POSITION = {
    "of": 1, "fault": 1, "remark": 1, "CheckResult": 2,
    "event": 0, "_event": 0, "say": 0, "words": 0, "tell": 0, "english": 0, "explain": 0,
}
"""Name of what is called -> position of the code among its arguments."""
FILLED_BY_CALLEE = {"of": {"where"}, "fault": {"where"}, "remark": {"where"}, "event": {"where"}, "_event": {"where"}}


@dataclass(frozen=True, slots=True)
class Use:
    """One place in the source that hands a code to people. `args` is None where they are not written out there."""

    file: str
    line: int
    code: str
    args: frozenset[str] | None


@cache
def source_files() -> tuple[Path, ...]:
    """Return every Python file of the rooms, without what a compiler wrote."""
    return tuple(sorted(
        file for room in ROOMS for file in (ROOT / room).rglob("*.py") if not file.name.endswith("_pb2.py")))


@cache
def tree(file: Path) -> ast.Module:
    """Return the parsed file."""
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def uses(file: Path) -> Iterator[Use]:
    """Yield each code that a call of CODE_POSITION is given as a literal."""
    for call in ast.walk(tree(file)):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        position = CODE_POSITION.get(name)
        if position is None or position >= len(call.args) or any(isinstance(a, ast.Starred) for a in call.args):
            continue
        written = None
        if name not in ("CheckResult", "explain") and all(keyword.arg for keyword in call.keywords):
            written = frozenset({str(k.arg) for k in call.keywords} | FILLED_BY_CALLEE.get(name, set()))
        for code in _literals(call.args[position]):
            if CODE.fullmatch(code):
                yield Use(file.relative_to(ROOT).as_posix(), call.lineno, code, written)


def strings(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, value) of every string literal that is shaped like a code, wherever it stands."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
            yield node.lineno, node.value


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import of a file, also inside functions; and of import_module("...")."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are written in full here"
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node.lineno, module) for argument in node.args[:1] for module in _literals(argument))


def _literals(node: ast.expr) -> Iterator[str]:
    """Yield the strings that an argument can be: a literal, or both branches of `a if x else b`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _literals(node.body)
        yield from _literals(node.orelse)
