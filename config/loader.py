"""Reads a TOML file into a frozen pydantic model: every problem at once, each with file, key and a way to mend it."""

from __future__ import annotations

import copy
import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from protocols.errors import ConfigError, Problem

TOML_BYTES_MAX = 4 * 1024 * 1024
DEPTH_MAX = 32


class Section(BaseModel):
    """Base of every configuration table: frozen, unknown keys refused, nothing guessed from another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_EXPECTED = {"string": "text", "int": "integer", "int_from_float": "integer", "float": "number",
             "bool": "true / false", "list": "[...]", "dict": "[table]", "model": "[table]", "date": "YYYY-MM-DD"}
_BOUNDS = {"ge": ">=", "le": "<=", "gt": ">", "lt": "<", "min_length": "length >=", "max_length": "length <="}

Model = TypeVar("Model", bound=BaseModel)


def load_toml(path: Path, model: type[Model]) -> Model:
    """Read `path` into `model`. Raises ConfigError with every problem of the file."""
    value, problems = read_toml(path, model)
    if value is None:
        raise ConfigError(problems)
    return value


def read_toml(path: Path, model: type[Model]) -> tuple[Model | None, list[Problem]]:
    """Return the model, or None and the problems, for a caller that gathers problems of several files."""
    raw, problems = parse_toml(path)
    return (None, problems) if raw is None else validate(raw, model, str(path))


def parse_toml(path: Path) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Return the tables of a file as they stand there, or None and the one problem that kept them from being read."""
    try:
        if path.stat().st_size > TOML_BYTES_MAX:
            return None, [Problem.of(str(path), "config.too_large", limit=TOML_BYTES_MAX)]
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        _require_shallow(raw)
    except FileNotFoundError:
        return None, [Problem.of(str(path), "config.no_file")]
    except UnicodeDecodeError:
        return None, [Problem.of(str(path), "config.not_utf8")]
    except tomllib.TOMLDecodeError as error:
        return None, [Problem.of(str(path), "config.bad_toml", reason=error)]
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return None, [Problem.of(str(path), "config.unreadable", reason=reason or type(error).__name__)]
    return raw, []


def _require_shallow(raw: object) -> None:
    """Raise RecursionError for tables within tables without end: what follows walks them by recursion."""
    level = [raw]
    for _ in range(DEPTH_MAX):
        level = [inner for outer in level if isinstance(outer, dict | list)
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]
    if level:
        raise RecursionError(f"more than {DEPTH_MAX} tables within tables")


def validate(raw: dict[str, Any], model: type[Model], where: str) -> tuple[Model | None, list[Problem]]:
    """Return the model of tables that were parsed, or None and every problem of them. `where`: name of the file."""
    try:
        return model.model_validate(raw), []
    except ValidationError as error:
        # Of a value that may be of several types each says so for itself: the last, which takes most, is enough.
        told: dict[object, Problem] = {}
        for at, item in enumerate(error.errors(include_url=False)):
            problem = _problem(where, item, model, raw)
            told[problem.where if problem.code == "config.wrong_type" else at] = problem
        return None, list(told.values())


def without_faults(raw: dict[str, Any], model: type[Model]) -> Model | None:
    """Return the model of the tables without what is wrong in them, None if something is wrong that must be there.

    For going on to look for more problems; never to be used as a configuration.
    """
    tables = copy.deepcopy(raw)
    try:
        model.model_validate(tables)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            *above, last = _place(item["loc"], raw)
            holder: Any = tables
            for step in above:
                holder = holder[step]
            if isinstance(holder, dict):
                holder.pop(last, None)
    try:
        return model.model_validate(tables)
    except ValidationError:
        return None


def _problem(file: str, item: Any, model: type[BaseModel], raw: object) -> Problem:
    """Translate one pydantic error; its message stays the reason where we have no better sentence."""
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in _place(item["loc"], raw)).lstrip(".")
    where = f"{file}, {place}" if place else file
    match item["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(str(item["loc"][-1]), sorted(_names(model)), 1)
            return Problem.of(where, "config.unknown_key_near", near=close[0]) if close else \
                Problem.of(where, "config.unknown_key")
        case "missing":
            return Problem.of(where, "config.missing_key")
        case "string_type" | "int_type" | "float_type" | "bool_type" | "list_type" | "dict_type" | "model_type" \
                | "date_type" | "int_from_float":
            return Problem.of(where, "config.wrong_type", value=repr(item.get("input"))[:80],
                              expected=_EXPECTED[item["type"].removesuffix("_type")])
        case "greater_than_equal" | "less_than_equal" | "greater_than" | "less_than" | "string_too_short" \
                | "string_too_long" | "too_short" | "too_long":
            (name, bound), *_ = [(n, v) for n, v in item["ctx"].items() if n in _BOUNDS]
            return Problem.of(where, "config.out_of_range", value=repr(item.get("input"))[:80],
                              bound=f"{_BOUNDS[name]} {bound}")
        case "literal_error":
            return Problem.of(where, "config.not_one_of", value=repr(item.get("input"))[:80],
                              known=item["ctx"]["expected"])
        case "union_tag_invalid" | "union_tag_not_found":
            where += f".{item['ctx']['discriminator'].strip(chr(39))}"
            if item["type"] == "union_tag_not_found":
                return Problem.of(where, "config.missing_key")
            return Problem.of(where, "config.not_one_of", value=repr(item["ctx"]["tag"])[:80],
                              known=item["ctx"]["expected_tags"])
        case _:
            reason = str(item["msg"]).removeprefix("Value error, ")
            return Problem.of(where, "config.bad_value", value=repr(item.get("input"))[:80], reason=reason)


def _place(loc: tuple[int | str, ...], raw: object) -> list[int | str]:
    """Return the way to a value as it stands in the file: pydantic adds the tag of a union, which no file has."""
    place: list[int | str] = []
    for position, step in enumerate(loc):
        if position and not isinstance(raw, list | dict):
            break
        held = range(len(raw)) if isinstance(raw, list) else raw if isinstance(raw, dict) else ()
        if step in held:
            raw = cast(Any, raw)[step]
        elif position < len(loc) - 1:
            continue
        place.append(step)
    return place


def _names(model: type[BaseModel], seen: frozenset[type] = frozenset()) -> set[str]:
    """Return every key that some table of the model knows, to guess what a misspelt one meant."""
    names: set[str] = set()
    pending: list[Any] = [field.annotation for field in model.model_fields.values()]
    names.update(field.alias or name for name, field in model.model_fields.items())
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if kind not in seen:
                names |= _names(kind, seen | {model, kind})
        else:
            pending.extend(getattr(kind, "__args__", ()))
    return names
