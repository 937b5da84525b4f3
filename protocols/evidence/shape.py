"""What fields an object has and what each may hold: closed objects, named limits, every problem at once.

One description serves four readers: the checker below, the regular expressions of `protocols.evidence.reader`, the
JSON Schemas in `docs/schemas`, and whoever reads the format. An unknown field is a problem: a field that nobody
checks is a place to hide something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import encoding
from protocols.evidence.jcs import INTEGER_MAX

LIST_ITEMS_FAST = 64
"""Longer lists match no regular expression: the checker looks at them one by one."""

_PLAIN = r"[ !#-\[\]-~]"
"""What stands in JSON text as it is: printable ASCII but the quote and the backslash."""
_SIXTY_FOUR = "[A-Za-z0-9+/]"
_NEVER = "(?!)"
_TAME = re.compile(r"(?:\[(?:[A-Za-z0-9]-[A-Za-z0-9]|[A-Za-z0-9_.-])+\]|[A-Za-z0-9-]|[?+*]|\{[0-9,]+\}|\(\?:|[|)])*")
"""Patterns of a text that surely never match a quote: else one could reach beyond the end of its text."""

Report = Callable[[str, str, str], None]
"""Called as report(code, place, expected)."""


class Shape:
    """One kind of value. `expected` is its description in a message."""

    expected = ""

    def look(self, value: Any, place: str, report: Report) -> None:
        """Report everything that is wrong with `value`."""
        raise AssertionError("abstract")  # every shape below has its own

    def canonical(self) -> str:
        """Return a regular expression of canonical JSON: what it matches whole has this shape, `look` finds nothing.

        It need not match everything that has the shape. It takes time linear in what it looks at.
        """
        raise AssertionError("abstract")

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of this shape."""
        raise AssertionError("abstract")


SMALL = 10**6
"""Limits below this are written out to the last digit: an hour, 3600 s, is a usual length of a window."""


def _of_as_many_digits(high: str) -> list[str]:
    """Return expressions of the numbers of as many digits as `high`, up to it."""
    forms = [high]
    for at, digit in enumerate(high):
        least = 1 if at == 0 else 0
        if int(digit) > least:
            forms.append(f"{high[:at]}[{least}-{int(digit) - 1}][0-9]{{{len(high) - at - 1}}}")
    return forms


@dataclass(frozen=True, slots=True)
class Integer(Shape):
    """An integer between two limits, both allowed; booleans are none."""

    low: int = 0
    high: int = INTEGER_MAX

    def look(self, value: Any, place: str, report: Report) -> None:
        if type(value) is not int or not self.low <= value <= self.high:
            report("shape.bad_value", place, f"an integer from {self.low} to {self.high}")

    def canonical(self) -> str:
        low, high = max(self.low, -INTEGER_MAX), min(self.high, INTEGER_MAX)
        forms = ["0"] if low <= 0 <= high else []
        digits = len(str(high + 1)) - 1  # every number of so many digits is within the limit
        if low <= 1 <= high and digits:
            forms.append(f"[1-9][0-9]{{0,{digits - 1}}}")
        if low <= 1 <= high < SMALL:
            forms += _of_as_many_digits(str(high))
        digits = len(str(1 - low)) - 1
        if low < 0 <= high:
            forms.append(f"-[1-9][0-9]{{0,{digits - 1}}}" if digits else f"-[1-{-low}]")
        return f"(?:{'|'.join(forms)})" if forms else _NEVER

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Boolean(Shape):
    """true or false."""

    def look(self, value: Any, place: str, report: Report) -> None:
        if type(value) is not bool:
            report("shape.bad_value", place, "true or false")

    def canonical(self) -> str:
        return "(?:true|false)"

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

    def canonical(self) -> str:
        if self.pattern is None:
            return f'"{_PLAIN}{{0,{self.most}}}"'
        if not _TAME.fullmatch(self.pattern):
            return _NEVER
        return f'"(?={_PLAIN}{{0,{self.most}}}")(?:{self.pattern})"'

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

    def canonical(self) -> str:
        return f'"[0-9a-f]{{{2 * self.length}}}"'

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

    def canonical(self) -> str:
        # The last group has spare bits, which are zero: so the text re-encodes to itself.
        one, two = f"{_SIXTY_FOUR}[AQgw]==", f"{_SIXTY_FOUR}{{2}}[AEIMQUYcgkosw048]="
        if self.length is not None:
            whole, rest = divmod(self.length, 3)
            return f'"{_SIXTY_FOUR}{{{4 * whole}}}{("", one, two)[rest]}"'
        if self.most < 3:
            return _NEVER
        # Groups of four, many at a time. Possessive: a run that is too long by one is not tried in other ways.
        long = max(0, 4 * (self.most // 3) - 1024) // 1024
        short = 15 if self.most >= 768 else 0
        return (f'"(?:{_SIXTY_FOUR}{{1024}}){{0,{long}}}+(?:{_SIXTY_FOUR}{{64}}){{0,{short}}}+'
                f'(?:{_SIXTY_FOUR}{{4}}){{0,{min(15, self.most // 3 - 1)}}}+(?:{one}|{two})?"')

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

    def canonical(self) -> str:
        if not all(re.fullmatch(f"{_PLAIN}*", value) for value in self.values):
            return _NEVER
        return f'"(?:{"|".join(map(re.escape, self.values))})"'

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}


@dataclass(frozen=True, slots=True)
class Nullable(Shape):
    """null, or what `shape` allows."""

    shape: Shape

    def look(self, value: Any, place: str, report: Report) -> None:
        if value is not None:
            self.shape.look(value, place, report)

    def canonical(self) -> str:
        return f"(?:null|{self.shape.canonical()})"

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

    def canonical(self) -> str:
        if not self.most:
            return r"\[\]"
        item = self.shape.canonical()
        return rf"\[(?:{item}(?:,{item}){{0,{min(self.most, LIST_ITEMS_FAST) - 1}}})?\]"

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

    def canonical(self) -> str:
        if not all(re.fullmatch(f"{_PLAIN}*", name) for name in self.fields):
            return _NEVER
        members = (f'"{re.escape(name)}":{shape.canonical()}' for name, shape in sorted(self.fields.items()))
        return rf"\{{{','.join(members)}\}}"

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
