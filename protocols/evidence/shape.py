"""What fields an object has and what each may hold: closed objects, named limits, every problem at once.

One description serves three readers: the checker below, the JSON Schemas in `docs/schemas`, and whoever reads the
format. An unknown field is a problem: a field that nobody checks is a place to hide something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import encoding
from protocols.evidence.jcs import INTEGER_MAX

Report = Callable[[str, str, str], None]
"""Called as report(code, place, expected)."""


class Shape:
    """One kind of value. `expected` is its description in a message."""

    expected = ""

    def look(self, value: Any, place: str, report: Report) -> None:
        """Report everything that is wrong with `value`."""
        raise AssertionError("abstract")  # every shape below has its own

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of this shape."""
        raise AssertionError("abstract")


@dataclass(frozen=True, slots=True)
class Integer(Shape):
    """An integer between two limits, both allowed; booleans are none."""

    low: int = 0
    high: int = INTEGER_MAX

    def look(self, value: Any, place: str, report: Report) -> None:
        if type(value) is not int or not self.low <= value <= self.high:
            report("shape.bad_value", place, f"an integer from {self.low} to {self.high}")

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Boolean(Shape):
    """true or false."""

    def look(self, value: Any, place: str, report: Report) -> None:
        if type(value) is not bool:
            report("shape.bad_value", place, "true or false")

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Text(Shape):
    """Text of at most `most` characters; with a pattern, the whole text matches it."""

    most: int = 200
    pattern: str | None = None

    def look(self, value: Any, place: str, report: Report) -> None:
        if type(value) is not str or len(value) > self.most:
            report("shape.bad_value", place, f"text of at most {self.most} characters")
        elif self.pattern is not None and not re.fullmatch(self.pattern, value):
            report("shape.bad_value", place, f"text like {self.pattern}")

    def schema(self) -> dict[str, Any]:
        pattern = {} if self.pattern is None else {"pattern": f"^(?:{self.pattern})$"}
        return {"type": "string", "maxLength": self.most} | pattern


@dataclass(frozen=True, slots=True)
class Hex(Shape):
    """Lowercase hex of exactly `length` bytes."""

    length: int

    def look(self, value: Any, place: str, report: Report) -> None:
        if type(value) is not str or len(value) != 2 * self.length or not re.fullmatch("[0-9a-f]*", value):
            report("shape.bad_value", place, f"{2 * self.length} lowercase hex digits")

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^[0-9a-f]{{{2 * self.length}}}$"}


@dataclass(frozen=True, slots=True)
class Base64(Shape):
    """Base64 that re-encodes to itself: of exactly `length` bytes, or of at most `most`."""

    length: int | None = None
    most: int = 16_384

    def look(self, value: Any, place: str, report: Report) -> None:
        wanted = f"base64 of {self.length} bytes" if self.length is not None else f"base64 of at most {self.most} bytes"
        if type(value) is not str or len(value) > 4 * (self.most // 3 + 1):
            report("shape.bad_value", place, wanted)
            return
        try:
            data = encoding.from_base64(value, where="")
        except VerificationError:
            report("shape.bad_value", place, wanted)
            return
        if len(data) != self.length if self.length is not None else len(data) > self.most:
            report("shape.bad_value", place, wanted)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "contentEncoding": "base64",
                "pattern": "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"}


@dataclass(frozen=True, slots=True)
class OneOf(Shape):
    """One text of a closed list."""

    values: tuple[str, ...]

    def look(self, value: Any, place: str, report: Report) -> None:
        if type(value) is not str or value not in self.values:
            report("shape.bad_value", place, "one of " + ", ".join(self.values))

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}


@dataclass(frozen=True, slots=True)
class Nullable(Shape):
    """null, or what `shape` allows."""

    shape: Shape

    def look(self, value: Any, place: str, report: Report) -> None:
        if value is not None:
            self.shape.look(value, place, report)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "null"}, self.shape.schema()]}


@dataclass(frozen=True, slots=True)
class ListOf(Shape):
    """A list of at most `most` items of one shape."""

    shape: Shape
    most: int

    def look(self, value: Any, place: str, report: Report) -> None:
        if type(value) is not list or len(value) > self.most:
            report("shape.bad_value", place, f"a list of at most {self.most}")
            return
        for index, item in enumerate(value):
            self.shape.look(item, f"{place}[{index}]", report)

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "maxItems": self.most, "items": self.shape.schema()}


@dataclass(frozen=True, slots=True)
class Object(Shape):
    """A closed object: every field is there, and no other."""

    fields: Mapping[str, Shape]

    def look(self, value: Any, place: str, report: Report) -> None:
        if type(value) is not dict:
            report("shape.bad_value", place, "an object")
            return
        prefix = f"{place}." if place else ""
        for name in value.keys() - self.fields.keys():
            report("shape.unknown_field", prefix + name[:64], "")
        for name, shape in self.fields.items():
            if name not in value:
                report("shape.missing_field", prefix + name, "")
            else:
                shape.look(value[name], prefix + name, report)

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": False, "required": sorted(self.fields),
                "properties": {name: shape.schema() for name, shape in self.fields.items()}}


def problems(shape: Shape, value: Any, *, where: str) -> list[Problem]:
    """Return everything that is wrong with `value`: codes `shape.bad_value`, `.missing_field`, `.unknown_field`."""
    found: list[Problem] = []

    def report(code: str, place: str, expected: str) -> None:
        found.append(Problem.of(where, code, place=place, **({"expected": expected} if expected else {})))

    shape.look(value, "", report)
    return found


def require(shape: Shape, value: Any, *, where: str) -> None:
    """Raise VerificationError with every problem of `value`."""
    found = problems(shape, value, where=where)
    if found:
        raise VerificationError(found)
