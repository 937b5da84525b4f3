"""Collects decoded values until one SampleBatch is made of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocols.samples import BAD, NOT_LIVE, SampleBatch, fingerprint

EXACT_INTEGER_MAX = 2**53
"""Integers up to here, and down to its negative, are exact in a float64."""

TEXT_CHARS_MAX = 200
"""Characters of a text that are kept for people; the fingerprint is always that of the whole value."""


Part = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.uint8]]
"""Arrays of some neighbours: point, received, source, value, quality; shape (n,) each."""


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
    """Growing columns; `take` turns them into a batch and starts again.

    Samples come one by one (`add`), as the values of many documents (`add_rows`), or as the metrics of one payload
    (`add_block`). Order is kept.
    """

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._size = 0
        self._texts: list[tuple[int, str]] = []
        self._clear_samples()
        self._clear_rows()
        self._blocks: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
        self._block_runs: list[tuple[int, int]] = []  # of each block: how many, received_ns

    def _clear_samples(self) -> None:
        self._point_index: list[int] = []
        self._received_ns: list[int] = []
        self._source_ns: list[int] = []
        self._value: list[float] = []
        self._quality: list[int] = []

    def _clear_rows(self) -> None:
        self._row_points: list[NDArray[np.int64]] = []
        self._row_values: list[float] = []
        self._row_sources: list[int] = []
        self._row_runs: list[tuple[int, int, int]] = []  # of neighbours: how many values, received_ns, quality

    def __len__(self) -> int:
        return self._size

    def add(self, point_index: int, received_ns: int, source_ns: int, value: Decoded | None, quality: int) -> None:
        """Add one sample. value: None for a sample that says it has none; it is BAD, live or not."""
        if self._row_points or self._blocks:
            self._end_rows()
            self._end_blocks()
        if value is None:
            value, quality = _NOTHING, (quality & NOT_LIVE) | BAD
        elif value.text is not None:
            self._texts.append((self._size, value.text))
        self._size += 1
        self._point_index.append(point_index)
        self._received_ns.append(received_ns)
        self._source_ns.append(source_ns)
        self._value.append(value.number)
        self._quality.append(quality)

    def add_rows(self, points: list[NDArray[np.int64]], values: list[float], received_ns: int,
                 source_ns: list[int] | None, quality: int) -> None:
        """Add the samples of documents that came at one time. points: of each document, not changed afterwards.

        values: of all of them, one after the other. source_ns: of each document, None where they have no time.
        """
        self._end_samples()
        self._end_blocks()
        if bool(self._row_sources) != (source_ns is not None):
            self._end_rows()
        before = len(self._row_values)
        self._row_points += points
        self._row_values += values
        if source_ns is not None:
            self._row_sources += source_ns
        self._row_runs.append((len(self._row_values) - before, received_ns, quality))
        self._size += len(self._row_values) - before

    def add_block(self, points: NDArray[np.int64], source_ns: NDArray[np.int64], values: NDArray[np.float64],
                  received_ns: int) -> None:
        """Add samples of quality GOOD with times of their own. Shapes (n,); the arrays are not changed afterwards."""
        self._end_samples()
        self._end_rows()
        self._blocks.append((points, source_ns, values))
        self._block_runs.append((points.size, received_ns))
        self._size += points.size

    def add_table(self, points: NDArray[np.int64], source_ns: NDArray[np.int64], values: NDArray[np.float64],
                  received_ns: int) -> None:
        """Add many samples of quality GOOD, that came at one time. Shapes (n,); the arrays are the batch's from now on.
        """
        self._end_samples()
        self._end_rows()
        self._end_blocks()
        count = points.size
        self._parts.append((points, np.full(count, received_ns, dtype=np.int64), source_ns, values,
                            np.zeros(count, dtype=np.uint8)))
        self._size += count

    def _end_samples(self) -> None:
        if self._value:
            self._parts.append((
                np.array(self._point_index, dtype=np.int64), np.array(self._received_ns, dtype=np.int64),
                np.array(self._source_ns, dtype=np.int64), np.array(self._value, dtype=np.float64),
                np.array(self._quality, dtype=np.uint8)))
            self._clear_samples()

    def _end_rows(self) -> None:
        if not self._row_points:
            return
        # One array each for all documents: numpy lets go of the interpreter in every call, and other threads want it.
        runs = np.array(self._row_runs, dtype=np.int64)
        point_index = np.concatenate(self._row_points)
        sources = np.zeros(point_index.size, dtype=np.int64) if not self._row_sources else np.repeat(
            np.array(self._row_sources, dtype=np.int64), [each.size for each in self._row_points])
        self._parts.append((point_index, np.repeat(runs[:, 1], runs[:, 0]), sources,
                            np.array(self._row_values, dtype=np.float64),
                            np.repeat(runs[:, 2].astype(np.uint8), runs[:, 0])))
        self._clear_rows()

    def _end_blocks(self) -> None:
        if not self._blocks:
            return
        points, sources, values = (np.concatenate(columns) for columns in zip(*self._blocks, strict=True))
        runs = np.array(self._block_runs, dtype=np.int64)
        self._parts.append((points, np.repeat(runs[:, 1], runs[:, 0]), sources, values,
                            np.zeros(points.size, dtype=np.uint8)))
        self._blocks, self._block_runs = [], []

    def take(self) -> SampleBatch | None:
        """Return what was added since the last call, in the order it was added; None if there was nothing."""
        self._end_samples()
        self._end_rows()
        self._end_blocks()
        if not self._parts:
            return None
        columns = [np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)
                   for parts in zip(*self._parts, strict=True)]
        texts = tuple(self._texts)
        self._parts, self._size, self._texts = [], 0, []
        point_index, received_ns, source_ns, value, quality = columns
        return SampleBatch(point_index=point_index, received_ns=received_ns, source_ns=source_ns, value=value,
                           quality=quality, texts=texts)


_NOTHING = Decoded(float("nan"))
