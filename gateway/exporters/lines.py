"""Samples as InfluxDB line protocol, a whole batch at once: columns in, bytes out, no Python object for a sample.

    tallystick,device=DEVICE,point=POINT quality=0i,value=1.5 1793000000000000000
    `------ made once for each point --'`-- once for all --'

Source: InfluxDB line protocol (escaping of tags and of text, `i` for integers, times in ns). Arrow writes the shortest
digits that give the same float64 again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from protocols.samples import SampleBatch

MEASUREMENT = "tallystick"
_TAG = str.maketrans({",": r"\,", " ": r"\ ", "=": r"\=", "\n": " "})
_TEXT = str.maketrans({'"': r"\"", "\\": r"\\", "\n": " "})
_QUALITIES = pa.array([f" quality={quality}i" for quality in range(256)])
_BEFORE_VALUE = pa.array([f" quality={quality}i,value=" for quality in range(256)])


class Lines:
    """How the points of one roster are called."""

    def __init__(self, series: Sequence[tuple[str, str]]) -> None:
        """Make the beginning of each line. series: (device id, point id) by point slot."""
        self.series = series
        self._heads = pa.array((f"{MEASUREMENT},device={device.translate(_TAG)},point={name.translate(_TAG)}"
                                for device, name in series), pa.string())

    def of(self, batch: SampleBatch) -> bytes:
        """Return one line a sample, each with its line feed; a point that has no name is left out.

        NaN and infinities have no form in the line protocol: such a sample keeps its quality only.
        """
        point, time_ns, value, quality = batch.point_index, batch.received_ns, batch.value, batch.quality
        rows = np.arange(point.size)
        if point.size and (point.min() < 0 or point.max() >= len(self.series)):
            rows = np.flatnonzero((point >= 0) & (point < len(self.series)))
        times = pa.array(time_ns[rows]).cast(pa.string())
        heads, kinds = self._heads.take(pa.array(point[rows])), pa.array(quality[rows])
        numbers, finite = pa.array(value[rows]).cast(pa.string()), np.isfinite(value[rows])
        if not batch.texts and finite.all():
            return _payload(pc.binary_join_element_wise(
                heads, _BEFORE_VALUE.take(kinds), numbers, " ", times, "\n", ""))
        written = {row: f',text="{text.translate(_TEXT)}"' for row, text in batch.texts}
        texts = pa.array([written.get(row) for row in rows.tolist()], pa.string())
        values = pc.if_else(pa.array(finite), pc.binary_join_element_wise(",value=", numbers, ""), "")
        return _payload(pc.binary_join_element_wise(
            heads, _QUALITIES.take(kinds), pc.coalesce(texts, values), " ", times, "\n", ""))


def _payload(lines: pa.Array) -> bytes:
    """Return all strings of an array joined: they lie one behind the other in memory."""
    _, offsets, data = lines.buffers()
    if data is None or not len(lines):
        return b""
    ends = np.frombuffer(offsets, dtype=np.int32)
    begin, end = int(ends[lines.offset]), int(ends[lines.offset + len(lines)])
    return bytes(memoryview(data)[begin:end])
