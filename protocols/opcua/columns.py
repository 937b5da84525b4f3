"""Decoded values as columns, and the batch that the sink takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocols.opcua.codec import Items
from protocols.samples import BAD, GOOD, UNCERTAIN, SampleBatch

EPOCH_TICKS = 116_444_736_000_000_000
"""1970-01-01 as 100 ns ticks since 1601-01-01."""
_TICKS_MAX = (2**63 - 1) // 100

_QUALITY = np.array([GOOD, UNCERTAIN, BAD, BAD], dtype=np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """`Items` as arrays, each of shape (n,). Row i of every array is one value, in the order of the message.

    handle: int64, the client handle of a notification, the row itself for a read. value: float64. status: uint32.
    ticks: int64, source time, server_ticks: server time, 0 where absent. type_id: uint8. texts: (row, text) of what
    is fingerprinted. undecodable: how many further values were announced and could not be read.
    """

    handle: NDArray[np.int64]
    value: NDArray[np.float64]
    status: NDArray[np.uint32]
    ticks: NDArray[np.int64]
    server_ticks: NDArray[np.int64]
    type_id: NDArray[np.uint8]
    texts: tuple[tuple[int, str], ...] = ()
    undecodable: int = 0

    def __len__(self) -> int:
        return self.value.size


def of(items: Items) -> Columns:
    """Turn lists into arrays."""
    return Columns(
        handle=np.array(items.handle, dtype=np.int64), value=np.array(items.value, dtype=np.float64),
        status=np.array(items.status, dtype=np.uint32), ticks=np.array(items.ticks, dtype=np.int64),
        server_ticks=np.array(items.server_ticks, dtype=np.int64),
        type_id=np.array(items.type_id, dtype=np.uint8), texts=tuple(items.texts), undecodable=items.undecodable)


def joined(parts: list[Columns], *, handles_of_reads: bool = False) -> Columns:
    """Put the columns of several messages behind each other. handles_of_reads: handles are rows, and go on."""
    if len(parts) == 1:
        return parts[0]
    texts: list[tuple[int, str]] = []
    rows = 0
    for part in parts:
        texts += [(rows + row, text) for row, text in part.texts]
        rows += len(part)
    if not parts:
        return of(Items())
    handle = np.arange(rows, dtype=np.int64) if handles_of_reads else np.concatenate([part.handle for part in parts])
    return Columns(
        handle=handle, value=np.concatenate([part.value for part in parts]),
        status=np.concatenate([part.status for part in parts]), ticks=np.concatenate([part.ticks for part in parts]),
        server_ticks=np.concatenate([part.server_ticks for part in parts]),
        type_id=np.concatenate([part.type_id for part in parts]), texts=tuple(texts),
        undecodable=sum(part.undecodable for part in parts))


def quality_of(status: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Map status codes to GOOD, UNCERTAIN or BAD by their severity, the two top bits. 11 is reserved and is bad."""
    quality: NDArray[np.uint8] = _QUALITY[status >> np.uint32(30)]
    return quality


def has_overflow(status: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Tell whose queue on the server overflowed: InfoType is DataValue (bit 10, not 11) and bit 7 is set."""
    overflow: NDArray[np.bool_] = (status & np.uint32(0x0C80)) == 0x0480
    return overflow


def time_ns_of(ticks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return UTC nanoseconds since 1970; 0 (absent) stays 0, and times no int64 can hold are moved to its ends.

    A device whose clock stands at 1970-01-01T00:00:00 has a source time, a bad one: it becomes 1 ns, not absent.
    """
    low, high = EPOCH_TICKS - _TICKS_MAX, EPOCH_TICKS + _TICKS_MAX
    if ticks.size and ticks.min() > EPOCH_TICKS and ticks.max() < high:  # as they all are where nothing is wrong
        return (ticks - EPOCH_TICKS) * 100
    ns = (np.clip(ticks, low, high) - EPOCH_TICKS) * 100
    ns[(ns == 0) & (ticks != 0)] = 1
    ns[ticks == 0] = 0
    return ns


def batch_of(columns: Columns, point_index: NDArray[np.int64], received_ns: int,
             ) -> tuple[SampleBatch, NDArray[np.int64]]:
    """Turn decoded values into samples.

    Args:
        columns: n values; `handle` is a position in `point_index`.
        point_index: shape (m,), the roster's slot of each handle; handles beyond it are left out.
        received_ns: when the response arrived here.
    Returns: the batch of k <= n samples, and the positions in `point_index` they belong to, shape (k,).
    """
    handle, ticks, value, status, texts, server = (
        columns.handle, columns.ticks, columns.value, columns.status, columns.texts, columns.server_ticks)
    if handle.size and handle.max() >= point_index.size:
        keep = handle < point_index.size
        moved = np.cumsum(keep) - 1
        texts = tuple((int(moved[row]), text) for row, text in texts if keep[row])
        handle, ticks, value, status, server = handle[keep], ticks[keep], value[keep], status[keep], server[keep]
    batch = SampleBatch(
        point_index=point_index[handle], received_ns=np.full(handle.size, received_ns, dtype=np.int64),
        source_ns=time_ns_of(ticks), value=value,
        quality=quality_of(status) if status.any() else np.zeros(handle.size, dtype=np.uint8), texts=texts,
        server_ns=time_ns_of(server) if server.any() else None)
    return batch, handle


def same(one: Columns, other: Columns) -> bool:
    """Whether two columns hold the same, bit for bit; any two NaN are the same."""
    return (one.texts, one.undecodable) == (other.texts, other.undecodable) and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name == "value")
        for name in ("handle", "value", "status", "ticks", "server_ticks", "type_id"))
