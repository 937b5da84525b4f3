"""Many equal objects as columns. A hundred thousand points take kilobytes each as objects, and some fifty bytes here.

    Packed([Point(...), ...])    a sequence like the tuple that it was made of; each object is made when it is asked for
    packed[20:145]               a view of the same columns, for a read that serves some of the points

A column is kept as what takes least: one value, a byte for each that points into a short list of values, machine
numbers, or compressed UTF-8. What fits none of it stays a tuple of objects.
"""

from __future__ import annotations

import dataclasses
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, islice, repeat
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
FEW = 4
"""Values are few where on average each is there so many times: then a list of them and places in it take less."""

BLOCK = 256
"""Texts in a block. One is read in some 70 us: who wants many asks from front to back."""

BLOCKS_AT_HAND = 32
"""Of all texts together: enough to go through the fields of a dataclass side by side."""

CODES_MAX = 1 << 16
INT32_MAX = 2**31 - 1


class Texts(Sequence[str]):
    """Texts in compressed blocks: places in a file and addresses of points are much alike, and are seldom asked for.

    An object for each would take 49 bytes and more. A block that was asked for lately is at hand (`_block`).
    """

    __slots__ = ("_blocks", "_count")

    def __init__(self, texts: Iterable[str]) -> None:
        blocks: list[bytes] = []
        count = 0
        source = iter(texts)
        while held := list(islice(source, BLOCK)):
            count += len(held)
            lengths = array("I", map(len, held))
            blocks.append(zlib.compress(lengths.tobytes() + "".join(held).encode("utf-8", "surrogatepass"), 1))
        self._blocks = tuple(blocks)
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        number, place = divmod(range(self._count)[index], BLOCK)
        return _block(self._blocks[number], min(BLOCK, self._count - number * BLOCK))[place]

    def __iter__(self) -> Iterator[str]:
        for number, block in enumerate(self._blocks):
            yield from _block(block, min(BLOCK, self._count - number * BLOCK))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            return self._count == other._count and self._blocks == other._blocks
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # compared by what it holds


@lru_cache(BLOCKS_AT_HAND)
def _block(packed: bytes, count: int) -> tuple[str, ...]:
    """Return the texts of a block: compressed, the length of each in characters, then all in UTF-8."""
    data = zlib.decompress(packed)
    lengths = array("I", data[:count * array("I").itemsize])
    text = data[len(lengths) * lengths.itemsize:].decode("utf-8", "surrogatepass")
    return tuple(text[end - length:end] for length, end in zip(lengths, accumulate(lengths), strict=True))


class Packed(Sequence[T], Generic[T]):
    """Frozen dataclasses of one class, as columns. Equal to any sequence of equal objects; one without end is none.

    An object is made by its constructor, so what it checks is checked again: keep that cheap.
    """

    __slots__ = ("_columns", "_kind", "_names", "_range")

    def __init__(self, items: Iterable[T]) -> None:
        """Take objects over. Raises: TypeError unless all are of one dataclass."""
        held = list(items)
        kinds = {type(item) for item in held}
        if len(kinds) > 1 or not all(map(dataclasses.is_dataclass, kinds)):
            raise TypeError(f"one dataclass is packed at a time, not {sorted(kind.__name__ for kind in kinds)}")
        self._kind: type[T] | None = next(iter(kinds), None)
        self._names = tuple(field.name for field in dataclasses.fields(self._kind)) if self._kind else ()  # type: ignore[arg-type]  # a dataclass
        self._columns = tuple(_column([getattr(item, name) for item in held]) for name in self._names)
        self._range = range(len(held))

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Packed[T]: ...
    def __getitem__(self, index: int | slice) -> T | Packed[T]:
        if isinstance(index, slice):
            view: Packed[T] = Packed.__new__(Packed)
            view._kind, view._names, view._columns = self._kind, self._names, self._columns
            view._range = self._range[index]
            return view
        at = self._range[index]
        assert self._kind is not None, "it holds one"
        return self._kind(**{name: column[at] for name, column in zip(self._names, self._columns, strict=True)})

    def __iter__(self) -> Iterator[T]:
        for i in range(len(self._range)):
            yield self[i]

    def column(self, name: str) -> Sequence[Any]:
        """Return one field of all objects, without making them. Raises: ValueError if they have no such field."""
        if not self._names:
            return ()
        column = self._columns[self._names.index(name)]
        return column if self._range == range(len(column)) else [column[i] for i in self._range]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # compared by what it holds

    def __repr__(self) -> str:
        return f"Packed({len(self)} {self._kind.__name__ if self._kind else 'objects'})"


class _Coded(Sequence[Any]):
    """Values out of a short list."""

    __slots__ = ("_codes", "_table")

    def __init__(self, codes: bytes | array[int], table: Sequence[Any]) -> None:
        self._codes = codes
        self._table = table

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, index: Any) -> Any:
        return self._table[self._codes[index]]

    def __iter__(self) -> Iterator[Any]:
        return map(self._table.__getitem__, self._codes)


class _Same(Sequence[Any]):
    """One value, again and again."""

    __slots__ = ("_count", "_value")

    def __init__(self, value: Any, count: int) -> None:
        self._value = value
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._value

    def __iter__(self) -> Iterator[Any]:
        return repeat(self._value, self._count)


class _Mixed(Sequence[Any]):
    """Dataclasses of several classes: which of them each is of, and its place among those."""

    __slots__ = ("_groups", "_kinds", "_places")

    def __init__(self, values: Sequence[Any]) -> None:
        groups: dict[type, list[Any]] = {}
        kinds, places = bytearray(), array("I")
        numbers: dict[type, int] = {}
        for value in values:
            group = groups.setdefault(type(value), [])
            kinds.append(numbers.setdefault(type(value), len(numbers)))
            places.append(len(group))
            group.append(value)
        self._kinds, self._places = bytes(kinds), places
        self._groups = [Packed(group) for group in groups.values()]

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, index: Any) -> Any:
        return self._groups[self._kinds[index]][self._places[index]]


def _column(values: list[Any]) -> Sequence[Any]:
    """Return a sequence of the same values, of the same types, that takes little."""
    kinds = {type(value) for value in values}
    if kinds and len(kinds) < 256 and all(map(dataclasses.is_dataclass, kinds)):
        return Packed(values) if len(kinds) == 1 else _Mixed(values)
    coded = _coded(values)
    if coded is not None:
        return coded
    if kinds == {str}:
        return Texts(values)
    if kinds == {float}:
        return array("d", values)
    if kinds == {int}:
        low, high = min(values), max(values)
        if low >= -INT32_MAX and high <= INT32_MAX:
            return array("i", values)
        if low >= -(2**63) and high < 2**63:
            return array("q", values)
    return tuple(values)


def _coded(values: list[Any]) -> Sequence[Any] | None:
    """Return a column of codes, None where the values are too many or no plain ones."""
    table: dict[tuple[type, Any], int] = {}
    codes = array("H")
    most = min(CODES_MAX, len(values) // FEW + 1)
    for value in values:
        kind = type(value)
        if kind is float:
            key = kind, value.hex()  # 0.0 and -0.0 are equal, and a NaN is not equal to itself
        elif kind in (str, int, bool, bytes) or value is None or value == ():
            key = kind, value
        else:
            return None
        code = table.setdefault(key, len(table))
        if code >= most:
            return None
        codes.append(code)
    firsts: list[Any] = [None] * len(table)
    for value, code in zip(reversed(values), reversed(codes), strict=True):
        firsts[code] = value
    if len(firsts) == 1:
        return _Same(firsts[0], len(values))
    return _Coded(bytes(codes.tolist()) if len(firsts) <= 256 else codes, firsts)
