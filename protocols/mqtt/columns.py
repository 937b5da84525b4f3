"""Collects decoded values until one SampleBatch is made of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from protocols.samples import BAD, NOT_LIVE, SampleBatch, fingerprint

EXACT_INTEGER_MAX = 2**53
"""Integers up to here, and down to its negative, are exact in a float64."""

TEXT_CHARS_MAX = 200
"""Characters of a text that are kept for people; the fingerprint is always that of the whole value."""


class Decoded(NamedTuple):
    """One value: `number` counts; `text` is for people, where the number is a fingerprint."""

    number: float
    text: str | None = None


def of_integer(value: int) -> Decoded:
    """Return an integer, by fingerprint of its decimal digits where no float64 holds it."""
    if -EXACT_INTEGER_MAX <= value <= EXACT_INTEGER_MAX:
        return Decoded(float(value))
    digits = str(value)
    return Decoded(fingerprint(digits.encode("ascii")), digits)


def of_text(value: str) -> Decoded:
    """Return a text by the fingerprint of its UTF-8."""
    # JSON can spell half a surrogate pair, which has no UTF-8; it must still have a fingerprint of its own.
    whole = value.encode("utf-8", "surrogatepass")
    return Decoded(fingerprint(whole), value[:TEXT_CHARS_MAX].encode("utf-8", "backslashreplace").decode("utf-8"))


def of_bytes(value: bytes) -> Decoded:
    """Return bytes by their fingerprint."""
    return Decoded(fingerprint(value), value[:TEXT_CHARS_MAX // 2].hex())


class Columns:
    """Growing columns; `take` turns them into a batch and starts again."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._point_index: list[int] = []
        self._received_ns: list[int] = []
        self._source_ns: list[int] = []
        self._value: list[float] = []
        self._quality: list[int] = []
        self._texts: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._value)

    def add(self, point_index: int, received_ns: int, source_ns: int, value: Decoded | None, quality: int) -> None:
        """Add one sample. value: None for a sample that says it has none; it is BAD, live or not."""
        if value is None:
            value, quality = _NOTHING, (quality & NOT_LIVE) | BAD
        elif value.text is not None:
            self._texts.append((len(self._value), value.text))
        self._point_index.append(point_index)
        self._received_ns.append(received_ns)
        self._source_ns.append(source_ns)
        self._value.append(value.number)
        self._quality.append(quality)

    def take(self) -> SampleBatch | None:
        """Return what was added since the last call, in the order it was added; None if there was nothing."""
        if not self._value:
            return None
        batch = SampleBatch(
            point_index=np.array(self._point_index, dtype=np.int64),
            received_ns=np.array(self._received_ns, dtype=np.int64),
            source_ns=np.array(self._source_ns, dtype=np.int64), value=np.array(self._value, dtype=np.float64),
            quality=np.array(self._quality, dtype=np.uint8), texts=tuple(self._texts))
        self._clear()
        return batch


_NOTHING = Decoded(float("nan"))
