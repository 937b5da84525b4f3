"""What every driver produces and the counting window takes in: columns, never one object per sample.

A batch comes from one driver, not from one device. `point_index` and `device_index` are the slots of the roster in
force: position in the gateway's registry arrays, and bit position in the sealed columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

GOOD = 0
UNCERTAIN = 1
BAD = 2
NOT_LIVE = 0x80
"""Flag or-ed onto a quality: retained or historical by its protocol. Never counted as live."""

NO_SOURCE_TIME = 0
"""`source_ns` of a sample whose protocol carries no time of its own."""


def fingerprint(value: bytes) -> float:
    """Return a stand-in for a value that no float64 can hold: an integer below 2^52 taken from its SHA-256.

    Strings, byte strings and integers beyond 2^53 are only ever compared with their predecessor, so equality is
    all that is needed; two different values collide once in 2^52.
    """
    return float(int.from_bytes(hashlib.sha256(value).digest()[:8], "big") >> 12)


_COLUMNS = tuple((name, np.dtype(kind)) for name, kind in (
    ("point_index", np.int64), ("received_ns", np.int64), ("source_ns", np.int64), ("value", np.float64),
    ("quality", np.uint8)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # eq=False: arrays have no single truth
class SampleBatch:
    """Samples of one driver. Row i of every column is one sample. The batch owns its arrays.

    All columns have shape (n,):
        point_index: point slot, 0 <= index < points of the registry.
        received_ns: UTC nanoseconds, stamped by this gateway, never by the device.
        source_ns: UTC nanoseconds of the device, as it tells; NO_SOURCE_TIME where the protocol has none.
        value: exact for booleans and integers up to 2^53; `fingerprint` for the rows listed in `texts`.
        quality: GOOD, UNCERTAIN or BAD, possibly or-ed with NOT_LIVE.
    texts: side table of (row, value as text) for strings, bytes and larger integers, for people, not for counting.
    server_ns: int64, shape (n,): UTC nanoseconds of the server between device and gateway, 0 where it told none; None
        where it told none at all (OPC UA: `server_timestamps` asks for it). For people, not for counting.
    """

    point_index: NDArray[np.int64]
    received_ns: NDArray[np.int64]
    source_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint8]
    texts: tuple[tuple[int, str], ...] = ()
    server_ns: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        shape = (self.point_index.size,)
        if self.server_ns is not None and self.server_ns.shape != shape:
            raise ValueError(f"SampleBatch.server_ns must be of shape {shape}, got {self.server_ns.shape}")
        for name, dtype in _COLUMNS:
            column = getattr(self, name)
            if column.shape != shape or column.dtype != dtype:
                raise ValueError(f"SampleBatch.{name} must be {dtype} of shape {shape}, "
                                 f"got {column.dtype} {column.shape}")
            column.setflags(write=False)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Points that one request reads together, in the order of the reply. Made once per plan, shared by its polls."""

    point_index: NDArray[np.int64]
    device_index: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PollBatch:
    """One reading of one block: every point of the block was received at once, but for the rows in `missing`.

    Modbus has no source time, so a poll carries none. value: shape (n,), n = points of the block; rows in
    `missing` (positions in the block, int64) hold no value and are not samples.
    """

    block: Block
    received_ns: int
    value: NDArray[np.float64]
    missing: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.value.shape != self.block.point_index.shape:
            raise ValueError(f"PollBatch.value has shape {self.value.shape}, block {self.block.point_index.shape}")
        self.value.flags.writeable = False

    def samples(self) -> SampleBatch:
        """Return the same poll as plain samples, quality GOOD."""
        keep = np.ones(self.value.size, dtype=bool)
        keep[self.missing] = False
        n = int(keep.sum())
        return SampleBatch(
            point_index=self.block.point_index[keep], received_ns=np.full(n, self.received_ns, dtype=np.int64),
            source_ns=np.zeros(n, dtype=np.int64), value=self.value[keep], quality=np.zeros(n, dtype=np.uint8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One point, read once on demand and not delivered to any sink. Times are UTC ns of the gateway.

    answered_ns, value: None without an answer, and where the answer holds no value. A text stands for itself.
    """

    asked_ns: int
    answered_ns: int | None = None
    value: float | str | None = None


class Sink(Protocol):
    """Where a driver delivers. Every method returns at once: counting never makes a driver wait, nor fails it."""

    def samples(self, batch: SampleBatch | PollBatch) -> None:
        """Take samples over; the sink may keep the arrays."""

    def answered(self, device_index: Sequence[int] | NDArray[np.int64], received_ns: int) -> None:
        """The protocol answered for these devices at this time: a valid response, whatever its values were worth."""

    def online(self, device_index: Sequence[int], received_ns: int) -> None:
        """A birth: these devices are connected from now until `offline`, also while they are silent."""

    def offline(self, device_index: Sequence[int], received_ns: int) -> None:
        """A death, or the loss of the session that carried these devices."""

    def discarded(self, reason: str, count: int) -> None:
        """`count` samples were received and could not be delivered; `reason` is one of terms.DISCARD_REASONS."""

    def event(self, code: str, where: str, **args: object) -> None:
        """Something a person should read (lost, back, refused); `code` names a sentence in tallystick/words."""
