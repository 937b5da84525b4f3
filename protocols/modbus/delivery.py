"""Turns replies into batches for a sink: one reply alone as a poll, all replies of a cycle together as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.modbus.codec import BlockCodec, Decoded
from protocols.modbus.plan import Request
from protocols.modbus.target import ModbusPoint
from protocols.samples import GOOD, NO_SOURCE_TIME, Block, PollBatch, SampleBatch, Sink

INTEGERS_64 = ("int64", "uint64")
"""Types of numbers that a float64 may not hold."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """How the data of some replies, joined, are decoded and delivered; what every batch of it shares.

    block: for a single reply; None if it holds strings only. reply_of: point slot -> number of its reply, of the points
    whose values may be texts.
    replies: shape (n,), number of the reply that each numeric point comes from. source, quality: shape (n,).
    starts: where the data of each reply begins.
    labelled: position in the column, slot, and known numbers of each point with labels.
    """

    codec: BlockCodec
    block: Block | None
    reply_of: Mapping[int, int]
    replies: NDArray[np.int64]
    source: NDArray[np.int64]
    quality: NDArray[np.uint8]
    starts: tuple[int, ...]
    labelled: tuple[tuple[int, int, frozenset[float]], ...]


class Delivery:
    """Everything that one line reads goes through here to `sink`."""

    def __init__(self, points: Mapping[int, ModbusPoint], sink: Sink, name: str) -> None:
        self._points = points
        self._sink = sink
        self._name = name
        self._plans: dict[Request, _Plan] = {}
        self._cycles: dict[int, tuple[Sequence[Request], _Plan]] = {}  # by unit
        self._unlabelled: set[int] = set()

    def forget(self) -> None:
        """Let go of how replies are decoded: the plan has changed."""
        self._plans.clear()
        self._cycles.clear()

    def one(self, request: Request, data: bytes, received_ns: int) -> None:
        """Deliver a good reply."""
        plan = self._plans.get(request)
        if plan is None:
            plan = self._plans[request] = _plan([request])
        decoded = plan.codec.decode(data)
        if plan.block is not None:
            self._look_at_labels(plan, decoded)
            self._sink.samples(PollBatch(block=plan.block, received_ns=received_ns, value=decoded.value,
                                         missing=decoded.missing))
        self._rest(plan, decoded, (received_ns,))

    def all(self, requests: Sequence[Request], data: Sequence[bytes], times: Sequence[int], begin: int = 0) -> None:
        """Deliver good replies to reads of a cycle of one unit, each sample with the time of its own reply.

        data: of some reads in a row, all of them as a rule. begin: number of the first of them. times: of the replies
        to all reads, as far as there are any.
        """
        unit = requests[0].unit
        made = self._cycles.get(unit)
        if made is None or made[0] is not requests:
            made = self._cycles[unit] = (requests, _plan(requests))
        plan = made[1]
        whole = b"".join(data)
        if len(data) == len(requests):
            decoded = plan.codec.decode(whole)
        else:
            decoded, times = _piece(plan, whole, range(begin, begin + len(data))), [*times, *[0] * len(requests)]
        if decoded.missing.size < decoded.value.size:
            self._look_at_labels(plan, decoded)
            received = np.array(times, dtype=np.int64)[plan.replies]
            point, source, value, quality = plan.codec.numeric, plan.source, decoded.value, plan.quality
            if decoded.missing.size:
                keep = np.ones(value.size, dtype=np.bool_)
                keep[decoded.missing] = False
                point, received, source, value, quality = (
                    point[keep], received[keep], source[keep], value[keep], quality[keep])
            self._sink.samples(SampleBatch(point_index=point, received_ns=received, source_ns=source, value=value,
                                           quality=quality))
        self._rest(plan, decoded, times)

    def _rest(self, plan: _Plan, decoded: Decoded, times: Sequence[int]) -> None:
        """Deliver what is no number, and count what is no value."""
        if decoded.texts:
            n = len(decoded.texts)
            self._sink.samples(SampleBatch(
                point_index=np.array([t.point_index for t in decoded.texts], dtype=np.int64),
                received_ns=np.array([times[plan.reply_of[t.point_index]] for t in decoded.texts], dtype=np.int64),
                source_ns=np.full(n, NO_SOURCE_TIME, dtype=np.int64),
                value=np.array([t.value for t in decoded.texts], dtype=np.float64),
                quality=np.full(n, GOOD, dtype=np.uint8),
                texts=tuple((row, t.text) for row, t in enumerate(decoded.texts))))
        if decoded.undecodable:
            self._sink.discarded("undecodable", decoded.undecodable)

    def _look_at_labels(self, plan: _Plan, decoded: Decoded) -> None:
        """Tell once of each point whose number its labels do not know."""
        missing = {*decoded.missing.tolist()} if plan.labelled else ()
        for position, slot, known in plan.labelled:
            if slot not in self._unlabelled and decoded.value[position] not in known and position not in missing:
                self._unlabelled.add(slot)
                self._sink.event("modbus.label_unknown", self._name, address=self._points[slot].address.canonical)


def _piece(plan: _Plan, data: bytes, replies: range) -> Decoded:
    """Decode some replies of a cycle: those before and behind them are zeros, and hold nothing."""
    ahead = bytes(plan.starts[replies.start])
    decoded = plan.codec.decode((ahead + data).ljust(plan.codec.size, b"\0"))
    missing = (plan.replies < replies.start) | (plan.replies >= replies.stop)
    missing[decoded.missing] = True
    return Decoded(decoded.value, np.flatnonzero(missing),
                   tuple(text for text in decoded.texts if plan.reply_of[text.point_index] in replies),
                   decoded.undecodable)


@lru_cache(maxsize=1024)
def _alike(size: int, value: int, kind: type[np.generic]) -> NDArray[Any]:
    """Return a column of one value: most reads are as long as many others, and share it."""
    column = np.full(size, value, dtype=kind)
    column.flags.writeable = False
    return column


def _plan(requests: Sequence[Request]) -> _Plan:
    plain = [replace(request, points=tuple(request.points)) for request in requests]  # each point is made once
    codec = BlockCodec(plain)
    numbered = [(number, point) for number, request in enumerate(plain) for point in request.points]
    numeric = [(number, point) for number, point in numbered if not point.is_text]
    n = len(numeric)
    return _Plan(
        codec, Block(codec.numeric, requests[0].device_index) if n else None,
        {point.point_index: number for number, point in numbered if point.is_text or point.address.type in INTEGERS_64},
        np.array([number for number, _ in numeric], dtype=np.int64) if len(plain) > 1 else _alike(n, 0, np.int64),
        _alike(n, NO_SOURCE_TIME, np.int64), _alike(n, GOOD, np.uint8),
        tuple(accumulate((request.data_size for request in requests), initial=0)),
        tuple((position, point.point_index, frozenset(float(number) for number, _ in point.labels))
              for position, (_, point) in enumerate(numeric) if point.labels))
