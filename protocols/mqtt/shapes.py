"""JSON documents that look like the one before: read into numbers in one call, by a type made for their shape. Pure.

A machine sends the same document again and again with other numbers in it. `learn` makes a msgspec type of one that
was read the slow way: every object with exactly its keys, every text, number and switch where it was. msgspec refuses
whatever differs from that, and what it refuses is read the slow way; so both ways always find the same.

One thing msgspec does not see is a key that stands twice, of which programs read the first or the last. As every key
and every text of the type has to be there, and each brings two quotation marks, a document with no more marks than
these has no key twice.

Source: RFC 8259; msgspec, "Structs" and "Constraints".
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

from protocols.mqtt.columns import EXACT_INTEGER_MAX
from protocols.mqtt.target import INTEGER_RANGE

KEYS_MAX = 500
"""Keys, texts and elements of one document; larger ones are read the slow way."""

SHAPES_MAX = 1_000
"""Shapes that are kept. Equal machines share one."""

QUOTE, OPENING, CLOSING = b'"{}'

REFUSED = (msgspec.MsgspecError, ValueError)
"""What the decoder raises; ValueError for a text that is no UTF-8."""

FLOATS = ("float32", "float64")
TIME = "time"
"""Where the time of the document stands; any number."""

Wanted = Mapping[tuple[str, ...], str]
"""Steps of a JSON pointer -> type of the point, or TIME."""


@dataclass(frozen=True, slots=True, eq=False)  # eq=False: a shape is looked up by what it is, not by what it holds
class Shape:
    """How documents look. quotes: quotation marks in one; decoder: refuses any other document.

    get: the wanted values of a document, in the order of `wanted`. time_of: the one of type TIME.
    rows: the others, those of one document after those of the other.
    """

    quotes: int
    decoder: msgspec.json.Decoder[Any]
    get: Callable[[Any], tuple[float, ...]]
    time_of: Callable[[Any], float] | None
    rows: Callable[[list[Any]], list[float]]

    def read(self, payload: bytes) -> tuple[float, ...] | None:
        """Return the wanted values, None for a document of another shape."""
        if payload.count(b'"') != self.quotes:
            return None
        try:
            return self.get(self.decoder.decode(payload))
        except REFUSED:
            return None

    def read_all(self, payloads: Sequence[bytes], bytes_max: int) -> list[Any] | None:
        """Return many documents for `time_of` and `rows`; None if one has another shape, or cannot be read so.

        They are read as lines. No text holds a line feed, and no value one between `}` and `{`: so documents that begin
        and end with these, as many as there are lines, are one a line. And where each has at least `quotes` quotation
        marks, and all have as many as that on average, none has more.
        """
        sizes = np.fromiter(map(len, payloads), np.int64, len(payloads))
        if sizes.min() < 2 or sizes.max() > bytes_max:
            return None
        text = b"\n".join(payloads)
        marks = np.frombuffer(text, dtype=np.uint8)
        ends = np.cumsum(sizes + 1) - 1
        whole = (marks[0] == OPENING and (marks[ends[:-1] + 1] == OPENING).all() and (marks[ends - 1] == CLOSING).all()
                 and np.count_nonzero(marks == QUOTE) == self.quotes * len(payloads))
        if not whole:
            return None
        try:
            documents = self.decoder.decode_lines(text)
        except REFUSED:
            return None
        return documents if len(documents) == len(payloads) else None


_shapes: dict[object, Shape | None] = {}


def learn(document: Any, wanted: Wanted) -> Shape | None:
    """Return the shape of a document that was read the slow way; None if it has values that have to be read so.

    wanted: not empty. A pointer into an array, a text, null or a value of another type makes it None.
    """
    signature = (_signature(document), tuple(wanted.items()))
    if signature not in _shapes:
        if len(_shapes) >= SHAPES_MAX:
            _shapes.clear()
        _shapes[signature] = _made(document, wanted)
    return _shapes[signature]


def _signature(value: Any) -> object:
    if isinstance(value, dict):
        return dict, tuple((key, _signature(below)) for key, below in value.items())
    if isinstance(value, list):
        return list, tuple(map(_signature, value))
    return type(value)


class _UnfitError(Exception):
    """A document without a shape that can be read in one call."""


class _Maker:
    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.quotes = 0
        self._things = 0
        self.paths: dict[tuple[str, ...], str] = {}

    def type_of(self, value: Any, steps: tuple[str, ...], path: str | None) -> Any:
        """Return the type of a value. path: how it is reached from the top; None: below an array."""
        self._things += 1
        if self._things > KEYS_MAX:
            raise _UnfitError
        wanted = self._wanted.get(steps) if path is not None else None
        if isinstance(value, dict) and wanted is None:
            return self._object(value, steps, path)
        if isinstance(value, list) and wanted is None:
            if any(other[:len(steps)] == steps for other in self._wanted):
                raise _UnfitError  # a pointer leads into this array
            return tuple[tuple(self.type_of(below, (), None) for below in value)] if value else tuple[()]  # type: ignore[misc]  # a type made at run time
        if isinstance(value, str) and wanted is None:
            self.quotes += 2
            return str
        if wanted is not None and path is not None:
            self.paths[steps] = path
        return _number(value, wanted)

    def _object(self, value: dict[str, Any], steps: tuple[str, ...], path: str | None) -> Any:
        names, types = {}, []
        for number, (key, below) in enumerate(value.items()):
            name = f"f{number}"
            names[name] = key
            self.quotes += 2
            here = None if path is None else f"{path}.{name}" if path else name
            types.append((name, self.type_of(below, (*steps, key), here)))
        return msgspec.defstruct("Shape", types, rename=names, forbid_unknown_fields=True, gc=False)


def _number(value: Any, wanted: str | None) -> Any:
    """Return the type of a value that brings no quotation marks."""
    if isinstance(value, bool):
        if wanted in (None, "bool"):
            return bool
    elif isinstance(value, int | float):
        if wanted is None or wanted in FLOATS:
            return float
        if wanted == TIME:
            return int | float
        if wanted in INTEGER_RANGE:
            low, high = INTEGER_RANGE[wanted]
            return Annotated[int, msgspec.Meta(ge=max(low, -EXACT_INTEGER_MAX), le=min(high, EXACT_INTEGER_MAX))]
    elif value is None and wanted is None:
        return None
    raise _UnfitError


def _made(document: Any, wanted: Wanted) -> Shape | None:
    maker = _Maker(wanted)
    try:
        if not isinstance(document, dict):
            raise _UnfitError
        made = maker.type_of(document, (), "")
    except (_UnfitError, ValueError):  # also a key that msgspec does not take, as one with a quotation mark
        return None
    if set(maker.paths) != set(wanted):
        return None  # a pointer leads nowhere in this document
    paths = [maker.paths[steps] for steps in wanted]
    get: Callable[[Any], Any] = operator.attrgetter(*paths)
    if len(paths) == 1:
        one = get

        def get(document: Any) -> Any:
            return (one(document),)

    time = next((maker.paths[steps] for steps, kind in wanted.items() if kind == TIME), None)
    return Shape(maker.quotes, msgspec.json.Decoder(made), get, None if time is None else operator.attrgetter(time),
                 _rows_of([path for path in paths if path != time]))


def _rows_of(paths: list[str]) -> Callable[[list[Any]], list[float]]:
    """Compile what reads these attributes of many documents.

    As text, like the standard library's `namedtuple`: an attribute that stands in the code is reached three times
    faster than one that is called for by its name. `paths` are names that were made above, never those of a document.
    """
    local, code = {"": "document"}, []
    for path in paths:
        above = ""
        for step in path.split(".")[:-1]:
            here = f"{above}.{step}".lstrip(".")
            if here not in local:
                local[here] = f"at{len(local)}"
                code.append(f"        {local[here]} = {local[above]}.{step}")
            above = here
    values = "".join(f"{local[path.rpartition('.')[0]]}.{path.rpartition('.')[2]}, " for path in paths)
    lines = ["def rows(documents):", "    values = []", "    for document in documents:", *code,
             f"        values += ({values})", "    return values"]
    made: dict[str, Callable[[list[Any]], list[float]]] = {}
    exec("\n".join(lines), {}, made)  # noqa: S102  # nothing of it comes from outside
    return made["rows"]


def steps_of(pointers: Sequence[tuple[str, ...]], types: Sequence[str]) -> dict[tuple[str, ...], str] | None:
    """Return what a topic wants of its documents; None if some of it has to be read the slow way."""
    if any(kind not in FLOATS and kind not in INTEGER_RANGE and kind not in ("bool", TIME) for kind in types):
        return None
    wanted = dict(zip(pointers, types, strict=True))
    return wanted if len(wanted) == len(pointers) and () not in wanted else None
