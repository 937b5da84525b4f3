"""What drivers deliver to. One sample alone costs nearly what a thousand cost together: small batches are joined first.

    drivers -> Intake: small batches wait for the next tick, a tenth of a second at most -> windows, exporter, page

Nothing depends on the wait: each sample brings the time it was received, counting knows no order, and `flush` comes
before any window can close.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby

import numpy as np
from numpy.typing import NDArray

from gateway.counting.window import Windows
from gateway.web.live import Live
from protocols.samples import GOOD, NO_SOURCE_TIME, PollBatch, SampleBatch

ALONE_SAMPLES = 2_000
"""A batch from this size on is counted at once: by far the most of its cost is in its samples."""

HELD_SAMPLES_MAX = 8_000
HELD_BATCHES_MAX = 1_000

Batch = SampleBatch | PollBatch


class Intake:
    """Counts first, then hands a copy to the exporter and the page. All calls come from the loop thread."""

    def __init__(self, windows: Windows, tell: Callable[..., None]) -> None:
        self.windows = windows
        self.export: Callable[[Batch], None] | None = None
        self.tap: Callable[[Batch], None] | None = None  # set while a drawn read waits for a message
        self.live: Live | None = None  # of the local page
        self._tell = tell
        self._held: list[Batch] = []
        self._held_samples = 0

    def samples(self, batch: Batch) -> None:
        """Take a batch over. It is counted at the next `flush` at the latest."""
        if self.tap is not None:
            self.tap(batch)
        size = batch.value.size
        if size >= ALONE_SAMPLES:
            self.flush()
            self._count(batch)
            return
        self._held.append(batch)
        self._held_samples += size
        if self._held_samples >= HELD_SAMPLES_MAX or len(self._held) >= HELD_BATCHES_MAX:
            self.flush()

    def flush(self) -> None:
        """Count what waits. To be called before `Windows.tick` and `Windows.finish`."""
        if self._held:
            held, self._held, self._held_samples = self._held, [], 0
            self._count(held[0] if len(held) == 1 else joined(held))

    def _count(self, batch: Batch) -> None:
        self.windows.samples(batch)
        if self.export is not None:
            self.export(batch)
        if self.live is not None:
            self.live.samples(batch)

    def answered(self, device_index: Sequence[int] | NDArray[np.int64], received_ns: int) -> None:
        """The protocol answered for these devices."""
        self.windows.answered(device_index, received_ns)
        if self.live is not None:
            self.live.answered(device_index, received_ns)

    def online(self, device_index: Sequence[int], received_ns: int) -> None:
        """A birth."""
        self.windows.online(device_index, received_ns)
        if self.live is not None:
            self.live.online(device_index, received_ns)

    def offline(self, device_index: Sequence[int], received_ns: int) -> None:
        """A death."""
        self.windows.offline(device_index, received_ns)
        if self.live is not None:
            self.live.offline(device_index, received_ns)

    def discarded(self, reason: str, count: int) -> None:
        """Samples that a driver received and could not deliver."""
        self.windows.discarded(reason, count)

    def event(self, code: str, where: str, **args: object) -> None:
        """Something a person should read."""
        self._tell(code, where, **args)


def joined(batches: Sequence[Batch]) -> SampleBatch:
    """Return the samples of some batches, in their order, as one batch."""
    parts: list[SampleBatch] = []
    for is_poll, run in groupby(batches, lambda batch: isinstance(batch, PollBatch)):
        if is_poll:
            parts.append(_of_polls([batch for batch in run if isinstance(batch, PollBatch)]))
        else:
            parts += [batch for batch in run if isinstance(batch, SampleBatch)]
    return parts[0] if len(parts) == 1 else _of_samples(parts)


def _of_polls(polls: Sequence[PollBatch]) -> SampleBatch:
    sizes = [poll.value.size for poll in polls]
    point = np.concatenate([poll.block.point_index for poll in polls])
    value = np.concatenate([poll.value for poll in polls])
    received = np.repeat(np.array([poll.received_ns for poll in polls], dtype=np.int64), sizes)
    starts = accumulate(sizes, initial=0)
    missing = [poll.missing + start for poll, start in zip(polls, starts, strict=False) if poll.missing.size]
    if missing:
        keep = np.ones(point.size, dtype=np.bool_)
        keep[np.concatenate(missing)] = False
        point, value, received = point[keep], value[keep], received[keep]
    return SampleBatch(point_index=point, received_ns=received, value=value,
                       source_ns=np.full(point.size, NO_SOURCE_TIME, dtype=np.int64),
                       quality=np.full(point.size, GOOD, dtype=np.uint8))


def _of_samples(parts: Sequence[SampleBatch]) -> SampleBatch:
    starts = accumulate((part.value.size for part in parts), initial=0)
    texts = tuple((start + row, text) for part, start in zip(parts, starts, strict=False) for row, text in part.texts)
    server_ns = None
    if any(part.server_ns is not None for part in parts):
        server_ns = np.concatenate([np.zeros(part.value.size, dtype=np.int64) if part.server_ns is None
                                    else part.server_ns for part in parts])
    return SampleBatch(
        point_index=np.concatenate([part.point_index for part in parts]),
        received_ns=np.concatenate([part.received_ns for part in parts]),
        source_ns=np.concatenate([part.source_ns for part in parts]),
        value=np.concatenate([part.value for part in parts]),
        quality=np.concatenate([part.quality for part in parts]), texts=texts, server_ns=server_ns)
