"""Samples as InfluxDB line protocol, a whole batch at once: columns in, bytes out, no Python object for a sample.

    tallystick,device=DEVICE,point=POINT quality=0i,value=1.5 1793000000000000000
    `------ made once for each point --'`-- once for all --'

Source: InfluxDB line protocol (escaping of tags and of text, `i` for integers, times in ns). Arrow writes the shortest
digits that give the same float64 again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from protocols.samples import SampleBatch

MEASUREMENT = "tallystick"
_TAG = str.maketrans({",": r"\,", " ": r"\ ", "=": r"\=", "\n": " "})
_TEXT = str.maketrans({'"': r"\"", "\\": r"\\", "\n": " "})
_QUALITIES = pa.array([f" quality={quality}i" for quality in range(256)])
_FOUR_DIGITS = np.frombuffer("".join(f"{number:04}" for number in range(10_000)).encode(), dtype=np.uint32)
FIRST_OF_19_DIGITS = 10**18
ENDING_BYTES = 21
BLOCK = 4096
_BEFORE_VALUE = pa.array([f" quality={quality}i,value=" for quality in range(256)])


class Lines:
    """How the points of one roster are called."""

    def __init__(self, series: Sequence[tuple[str, str]]) -> None:
        """Make the beginning of each line. series: (device id, point id) by point slot."""
        self.series = series
        heads = (f"{MEASUREMENT},device={device.translate(_TAG)},point={name.translate(_TAG)}"
                 for device, name in series)
        blocks = []  # not all at once: 100 000 texts would be objects for a moment, and leave their memory in pieces
        while block := list(islice(heads, BLOCK)):
            blocks.append(pa.array(block, pa.string()))
        self._heads = pa.concat_arrays(blocks) if blocks else pa.array([], pa.string())

    def of(self, batch: SampleBatch) -> bytes:
        """Return one line a sample, each with its line feed; a point that has no name is left out.

        NaN and infinities have no form in the line protocol: such a sample keeps its quality only.
        """
        point, time_ns, value, quality = batch.point_index, batch.received_ns, batch.value, batch.quality
        if not point.size:
            return b""
        rows = None
        if point.min() < 0 or point.max() >= len(self.series):
            rows = np.flatnonzero((point >= 0) & (point < len(self.series)))
            point, time_ns, value, quality = point[rows], time_ns[rows], value[rows], quality[rows]
        heads, finite = self._heads.take(pa.array(point)), np.isfinite(value)
        numbers = pa.array(value).cast(pa.string())
        if not batch.texts and finite.all():
            before = _BEFORE_VALUE.take(pa.array(quality)) if quality.any() else _BEFORE_VALUE[0]
            return _payload(pc.binary_join_element_wise(heads, before, numbers, _endings(time_ns), ""))
        written = {row: f',text="{text.translate(_TEXT)}"' for row, text in batch.texts}
        texts = pa.array([written.get(row) for row in (range(point.size) if rows is None else rows.tolist())],
                         pa.string())
        values = pc.if_else(pa.array(finite), pc.binary_join_element_wise(",value=", numbers, ""), "")
        return _payload(pc.binary_join_element_wise(
            heads, _QUALITIES.take(pa.array(quality)), pc.coalesce(texts, values), _endings(time_ns), ""))


def _endings(time_ns: NDArray[np.int64]) -> pa.Array:
    """Return the end of each line, ` TIME` and a line feed: times of 19 digits four at a time, by a table.

         0   1..3   4..7   8..11  12..15  16..19   20     of 21 bytes
        ` `  181    8000   0000   1234    5678    line feed
    """
    if not time_ns.size or time_ns.min() < FIRST_OF_19_DIGITS:  # a clock that stands before 2001
        return pc.binary_join_element_wise(" ", pa.array(time_ns).cast(pa.string()), "\n", "")
    digits = np.empty((time_ns.size, 5), dtype=np.uint32)
    rest = time_ns
    for column in range(4, 0, -1):
        above = rest // 10_000
        digits[:, column] = _FOUR_DIGITS.take(rest - above * 10_000)
        rest = above
    digits[:, 0] = _FOUR_DIGITS.take(rest)
    ends = np.empty((time_ns.size, ENDING_BYTES), dtype=np.uint8)
    ends[:, :20] = digits.view(np.uint8)
    ends[:, 0], ends[:, 20] = ord(" "), ord("\n")
    places = np.arange(0, ENDING_BYTES * time_ns.size + 1, ENDING_BYTES, dtype=np.int32)
    return pa.StringArray.from_buffers(time_ns.size, pa.py_buffer(places), pa.py_buffer(ends))


def _payload(lines: pa.Array) -> bytes:
    """Return all strings of an array joined: they lie one behind the other in memory."""
    _, offsets, data = lines.buffers()
    if data is None or not len(lines):
        return b""
    ends = np.frombuffer(offsets, dtype=np.int32)
    begin, end = int(ends[lines.offset]), int(ends[lines.offset + len(lines)])
    return bytes(memoryview(data)[begin:end])
