"""Parts of libraries that are loaded when somebody asks for them, or not at all, instead of at the first import.

Importing anything of influxdb-client loads 521 modules, of which a gateway uses ten: memory for nothing, on a small PC
(docs/decisions/gateway-memory.md). Of the `__init__` of such a package the statements `from .module import name` wait
until one of their names is looked up (PEP 562); the rest of it is executed as it stands.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

Offers = dict[str, tuple[str, str]]
"""Name -> the module that has it, and its name there."""


def load_on_demand(packages: Mapping[str, Collection[str] | None]) -> None:
    """From now on, load on demand what these packages offer: all of it (None), or some names.

    One that is loaded already stays as it is. For names that are only collected in an `__init__`: where the modules of
    a package count on the order in which it loads them, it breaks. `from package import *` finds what is in `__all__`.
    """
    sys.meta_path.insert(0, _Finder(packages))


def leave_out(modules: Iterable[str]) -> None:
    """From now on, these modules are as if they were not installed: parts of a library that it does without."""
    for name in modules:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: nothing to be found (import system, 5.3.1)


class _Finder(MetaPathFinder):
    """Finds some packages where Python finds them, and has them loaded on demand."""

    def __init__(self, packages: Mapping[str, Collection[str] | None]) -> None:
        self._packages = packages

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        """Return None for all other modules: Python goes on looking."""
        if fullname not in self._packages:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Deferring(spec.loader, self._packages[fullname])
        return spec


class _Deferring(Loader):
    """Executes an `__init__` without what it only offers, and answers for that when it is asked."""

    def __init__(self, source: SourceFileLoader, only: Collection[str] | None) -> None:
        self._source = source
        self._only = only

    def exec_module(self, module: ModuleType) -> None:
        """Make the module. Raises what its own code raises."""
        package, file = module.__name__, self._source.path
        rest, offers = split(ast.parse(self._source.get_data(file), file), package, file, self._only)

        def look_up(name: str) -> object:
            if name not in offers:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            place, there = offers[name]
            value = importlib.import_module(f"{package}.{there}") if place == package else \
                getattr(importlib.import_module(place), there)
            setattr(module, name, value)
            return value

        vars(module)["__getattr__"] = look_up
        exec(rest, vars(module))  # noqa: S102  # what Python would have executed


def split(tree: ast.Module, package: str, file: str,
          only: Collection[str] | None = None) -> tuple[CodeType, Offers]:
    """Return the code of an `__init__` without the imports that can wait, and what these offer.

    only: names that may wait, None for all.
    """
    within = {id(node): place for node in tree.body if (place := _place(node, package)) is not None}
    used = {part.id for node in tree.body for part in ast.walk(node) if isinstance(part, ast.Name)}
    offers: Offers = {}
    rest: list[ast.stmt] = []
    for node in tree.body:
        place = within.get(id(node))
        if place is None or not isinstance(node, ast.ImportFrom):
            rest.append(node)
            continue
        names = {alias.asname or alias.name: alias.name for alias in node.names}
        # The import of a submodule sets its name in the package: who offers something of that name does so at once.
        first = place.removeprefix(package).lstrip(".").partition(".")[0]
        if "*" in names or first in names or used & names.keys() or (only is not None and names.keys() - only):
            rest.append(node)
        else:
            offers |= {name: (place, there) for name, there in names.items()}
    tree.body = rest
    return compile(tree, file, "exec"), offers


def _place(node: ast.stmt, package: str) -> str | None:
    """Return the module inside the package that a statement imports from, None if it is no such statement."""
    if not isinstance(node, ast.ImportFrom):
        return None
    place = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else \
        node.module or ""
    return place if f"{place}.".startswith(f"{package}.") else None
