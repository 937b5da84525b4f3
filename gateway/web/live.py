"""Last values and last answers: one cell for each slot, held in memory for the page and nowhere else.

Fed from the loop thread beside the counting. A batch costs a few scatters; nothing grows but with the roster, and texts
are bounded twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from protocols.samples import GOOD, NOT_LIVE, PollBatch, SampleBatch

TEXT_CHARS_MAX = 200
TEXTS_MAX = 20_000
"""Points whose last text is held; the oldest goes first. 20 000 texts of 200 characters are some 10 MB."""

Devices = Sequence[int] | NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What a point last delivered. Times are UTC ns of the gateway; source_ns, server_ns 0 where the protocol has none.

    text: of a value that is no number, cut to TEXT_CHARS_MAX. value: None for such a one, and where none are kept.
    """

    received_ns: int
    source_ns: int
    quality: int
    value: float | None
    text: str | None
    server_ns: int = 0


class Live:
    """The present of one gateway. `samples`, `answered`, `online`, `offline` as in `protocols.samples.Sink`."""

    def __init__(self, devices: int, owner: NDArray[np.int64], *, values: bool = True) -> None:
        """`owner`: device of each point. `values`: whether last values are kept; times and qualities always are."""
        points = owner.size
        self._keeps = values
        self._owner = owner
        self._texts: dict[int, tuple[int, str]] = {}
        self.heard_ns = np.zeros(devices, dtype=np.int64)
        """Shape (devices,): when each device last answered or sent something live, 0 for not since the start."""
        self.is_online = np.zeros(devices, dtype=np.bool_)
        """Shape (devices,): born and not dead (Sparkplug): connected, also while silent."""
        self._received_ns = np.zeros(points, dtype=np.int64)
        self._source_ns = np.zeros(points, dtype=np.int64)
        self._server_ns = np.zeros(points, dtype=np.int64)
        self._tells_server_times = False
        self._value = np.zeros(points if values else 0, dtype=np.float64)
        self._quality = np.zeros(points, dtype=np.uint8)

    @property
    def points(self) -> int:
        """How many points there is room for."""
        return self._owner.size

    def grow(self, devices: int, owner: NDArray[np.int64]) -> None:
        """Make room for a roster with more slots; slots never go, and a point never changes its device."""
        points = owner.size
        if points > self.points:
            self._owner = owner
        self.heard_ns = _grown(self.heard_ns, devices)
        self.is_online = _grown(self.is_online, devices)
        self._received_ns, self._source_ns = _grown(self._received_ns, points), _grown(self._source_ns, points)
        self._server_ns = _grown(self._server_ns, points)
        self._value = _grown(self._value, points if self._keeps else 0)
        self._quality = _grown(self._quality, points)

    def samples(self, batch: SampleBatch | PollBatch) -> None:
        """Take the last sample of each point of a batch; of a point that repeats, the last row."""
        if isinstance(batch, PollBatch):
            slots, value = batch.block.point_index, batch.value
            if batch.missing.size:
                slots, value = np.delete(slots, batch.missing), np.delete(value, batch.missing)
            if not slots.size or int(slots.max()) >= self._received_ns.size:
                return  # the driver of a newer roster: `grow` follows
            self._received_ns[slots] = batch.received_ns
            self._source_ns[slots] = 0
            if self._tells_server_times:
                self._server_ns[slots] = 0
            self._quality[slots] = GOOD
            if self._keeps:
                self._value[slots] = value
            return
        slots = batch.point_index
        if not slots.size:
            return
        if int(slots.max()) >= self._received_ns.size or int(slots.min()) < 0:  # counted as unknown_point by the kernel
            known: NDArray[np.intp] | slice = np.flatnonzero((slots >= 0) & (slots < self._received_ns.size))
        else:
            known = slice(None)
        slots = slots[known]
        self._received_ns[slots] = batch.received_ns[known]
        self._source_ns[slots] = batch.source_ns[known]
        if batch.server_ns is not None:
            self._server_ns[slots], self._tells_server_times = batch.server_ns[known], True
        elif self._tells_server_times:
            self._server_ns[slots] = 0
        self._quality[slots] = batch.quality[known]
        live = batch.quality[known] < NOT_LIVE  # what a broker retained says nothing of the device now
        self.heard_ns[self._owner[slots[live]]] = batch.received_ns[known][live]
        if self._keeps:
            self._value[slots] = batch.value[known]
            for row, text in batch.texts:
                self._keep_text(int(batch.point_index[row]), int(batch.received_ns[row]), text)

    def _keep_text(self, slot: int, received_ns: int, text: str) -> None:
        if not 0 <= slot < self._received_ns.size:
            return
        self._texts.pop(slot, None)
        self._texts[slot] = (received_ns, text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + "…")
        if len(self._texts) > TEXTS_MAX:
            del self._texts[next(iter(self._texts))]

    def answered(self, device_index: Devices, received_ns: int) -> None:
        """The protocol answered for these devices."""
        devices = self._known(device_index)
        self.heard_ns[devices] = np.maximum(self.heard_ns[devices], received_ns)

    def online(self, device_index: Devices, received_ns: int) -> None:
        """A birth."""
        self.is_online[self._known(device_index)] = True
        self.answered(device_index, received_ns)

    def offline(self, device_index: Devices, received_ns: int) -> None:
        """A death."""
        self.is_online[self._known(device_index)] = False

    def cells(self, slots: Sequence[int]) -> list[Cell | None]:
        """Return what these points last delivered, None for nothing since the start."""
        found: list[Cell | None] = []
        for slot in slots:
            received_ns = int(self._received_ns[slot]) if slot < self._received_ns.size else 0
            if not received_ns:
                found.append(None)
                continue
            at_ns, text = self._texts.get(slot, (0, None))
            is_text = text is not None and at_ns == received_ns
            found.append(Cell(
                received_ns=received_ns, source_ns=int(self._source_ns[slot]),
                server_ns=int(self._server_ns[slot]), quality=int(self._quality[slot]),
                value=float(self._value[slot]) if self._keeps and not is_text else None,
                text=text if is_text else None))
        return found

    def _known(self, device_index: Devices) -> NDArray[np.int64]:
        devices = np.asarray(device_index, dtype=np.int64)
        return devices[(devices >= 0) & (devices < self.heard_ns.size)]


def _grown(array: NDArray[Scalar], size: int) -> NDArray[Scalar]:
    return array if size <= array.size else np.concatenate([array, np.zeros(size - array.size, dtype=array.dtype)])
