"""Canonical objects of one shape, read in one step where that is safe.

What a regular expression made from the shape matches whole is canonical JSON of that shape: keys in order, once each
and no other, integers without a fraction and within 2^53-1, base64 that re-encodes. Then parsing, writing again and
looking at every field would find nothing, and only the values are left to take out. Whatever does not match is read
the slow way, which says what is wrong. So the fast way decides no refusal, and hostile bytes gain nothing from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from protocols.evidence import jcs
from protocols.evidence.shape import Object, Shape, require

_take_out = json.JSONDecoder().raw_decode


class Reader:
    """Reads one shape. The expression is compiled when the first object is read."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._canonical: re.Pattern[bytes] | None = None

    def matches(self, data: bytes) -> bool:
        """Return whether `data` is surely canonical and of this shape. False says nothing."""
        if self._canonical is None:
            self._canonical = re.compile(self.shape.canonical().encode())
        return self._canonical.fullmatch(data) is not None

    def decode(self, data: bytes, *, where: str, bytes_max: int) -> Any:
        """Parse an object of this shape. Raises VerificationError `json.*` or `shape.*`, at `where`."""
        value = self.take(data, bytes_max=bytes_max)
        return self.decode_slowly(data, where=where, bytes_max=bytes_max) if value is None else value

    def take(self, data: bytes, *, bytes_max: int) -> Any:
        """Parse an object the fast way. None says nothing but that the slow way must look at it."""
        if len(data) > bytes_max or not self.matches(data):
            return None
        return _take_out(data.decode("ascii"))[0]

    def decode_slowly(self, data: bytes, *, where: str, bytes_max: int) -> Any:
        """Parse, write again, compare, and look at every field: what `decode` does with all that does not match."""
        value = jcs.decode(data, where=where, bytes_max=bytes_max)
        require(self.shape, value, where=where)
        return value


def grouped(shape: Shape, whole_ones: Collection[Shape] = ()) -> str:
    """Return the expression of a shape with a group for each value that is no closed object, in sorted order of keys.

    A group of text, base64 or hex holds what stands between the quotes; the shapes inside must have no list.
    whole_ones: objects in it that are one group each.
    """
    if isinstance(shape, Object) and not any(shape is one for one in whole_ones):
        members = (f"{json.dumps(name)}:{grouped(one, whole_ones)}" for name, one in sorted(shape.fields.items()))
        return rf"\{{{','.join(members)}\}}"
    whole = shape.canonical()
    if whole.startswith('"'):
        return f'"({whole[1:-1]})"'
    return f"({whole})"


_TYPE = b'"type":"'


class TypedReader:
    """Reads objects of several types by their field `type`; of an unknown type only the `header` is checked."""

    def __init__(self, shapes: Mapping[str, Object], header: Mapping[str, Shape], *, bytes_max: int) -> None:
        """`header`: the fields that every type has, `type` among them."""
        self._readers = {kind: Reader(shape) for kind, shape in shapes.items()}
        self._by_bytes = {kind.encode(): reader for kind, reader in self._readers.items()}
        self._header = Object(header)
        self._bytes_max = bytes_max

    def decode(self, data: bytes, *, where: str) -> dict[str, Any]:
        """Parse one object. Raises VerificationError of JSON or of the shape."""
        value = self.take(data)
        return self.decode_slowly(data, where=where) if value is None else value

    def take(self, data: bytes) -> dict[str, Any] | None:
        """Parse one object the fast way. None says nothing but that the slow way must look at it."""
        # Where `type` is the last key its value ends the object. It only chooses what is tried.
        reader = self._by_bytes.get(data[data.rfind(_TYPE) + len(_TYPE) : -2])
        taken: dict[str, Any] | None = None if reader is None else reader.take(data, bytes_max=self._bytes_max)
        return taken

    def decode_slowly(self, data: bytes, *, where: str) -> dict[str, Any]:
        """Parse one object without any expression."""
        value = jcs.decode(data, where=where, bytes_max=self._bytes_max)
        kind = value.get("type") if isinstance(value, dict) else None
        reader = self._readers.get(kind) if isinstance(kind, str) else None
        if reader is not None:
            require(reader.shape, value, where=where)
        else:
            known = {n: value[n] for n in self._header.fields if n in value} if isinstance(value, dict) else value
            require(self._header, known, where=where)
        result: dict[str, Any] = value
        return result
