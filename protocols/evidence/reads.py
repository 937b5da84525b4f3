"""Reads at instants that a nonce decides: for protocols whose devices hold no key.

Modbus and MQTT devices cannot sign a challenge. A gateway can still show that it asked for values which nobody could
have recorded beforehand: which point, and at which millisecond of the window, follows from the nonce of `seen`, that
was unknown before a witness co-signed it. The entry commits to the transcript; the transcript stays in the factory
and is opened on demand. An emulator passes: such devices stay at level 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from protocols.evidence import jcs
from protocols.evidence.column import BITS_MAX
from protocols.evidence.entry import READS_MAX
from protocols.evidence.merkle import root_of
from protocols.evidence.probe import nonce
from protocols.evidence.shape import Hex, Integer, ListOf, Nullable, Object, OneOf, Text
from protocols.evidence.signed import GATEWAY

TYPE = "tallystick/transcript/v1"
MS_MAX = 2 * 3600 * 1000

TOLERANCE_MS = 1000
"""A read is asked, or a message taken, no earlier than this before it was due: clocks and timers are not exact. What is
asked later than this after it was due is told: the instant was not the drawn one."""

PROTOCOLS = ("modbus_tcp", "modbus_rtu_over_tcp", "modbus_rtu", "mqtt", "sparkplug_b")
"""Points of these are read so, as far as they are alive in the roster that the entry names."""

ROW = Object({
    "i": Integer(0, READS_MAX - 1), "point": Integer(0, BITS_MAX), "at_ms": Integer(0, MS_MAX),
    "asked_ms": Nullable(Integer(0, MS_MAX)), "answered_ms": Nullable(Integer(0, MS_MAX)),
    "value": Nullable(Text(256)), "blind": Hex(16)})
"""One read. at_ms: when it was due, from the start of the window; asked_ms, answered_ms: when it was asked for and
answered, null if never. An MQTT point is not asked: its first live message from at_ms on answers. value: as the
protocol gave it, null without an answer; it is in the factory only until the transcript is opened."""

TRANSCRIPT = Object({
    "type": OneOf((TYPE,)), "gateway": GATEWAY, "seq": Integer(), "rows": ListOf(ROW, READS_MAX)})
"""The file that opens the `reads` entry at `seq`."""


def schedule(seen: Mapping[str, Any], *, gateway: str, start_s: int, len_s: int, points: Sequence[int],
             count: int) -> list[tuple[int, int]]:
    """Return (point slot, at_ms) of each read, in the order of `i`; empty without points.

    Args:
        points: slots that may be read, ascending. start_s, len_s: the window in which they are read.
    For each i: h = SHA-256("tallystick/reads/v1" 0 nonce, gateway id as 16 raw bytes, start_s u64be, i u32be); the
    point is at place h[0:8] mod the number of points, at_ms is h[8:16] mod the window's length in ms (big-endian).
    """
    if not points:
        return []
    stem = b"tallystick/reads/v1\0" + nonce(seen) + bytes.fromhex(gateway) + start_s.to_bytes(8, "big")
    result = []
    for i in range(count):
        drawn = hashlib.sha256(stem + i.to_bytes(4, "big")).digest()
        result.append((points[int.from_bytes(drawn[:8], "big") % len(points)],
                       int.from_bytes(drawn[8:16], "big") % (1000 * len_s)))
    return result


def times_hold(row: Mapping[str, Any]) -> bool:
    """Return whether the times of one read can be: due, then asked, then answered; a value comes with its answer.

    `asked_ms` is null for a read that was never asked, and for messages that come by themselves.
    """
    due_ms, asked_ms, answered_ms = row["at_ms"] - TOLERANCE_MS, row["asked_ms"], row["answered_ms"]
    if (answered_ms is None) != (row["value"] is None):
        return False
    return (asked_ms is None or asked_ms >= due_ms) and (
        answered_ms is None or answered_ms >= (due_ms if asked_ms is None else asked_ms))


def is_late(row: Mapping[str, Any]) -> bool:
    """Return whether a read was asked more than TOLERANCE_MS after it was due."""
    return row["asked_ms"] is not None and row["asked_ms"] > row["at_ms"] + TOLERANCE_MS


def root(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return what a `reads` entry commits to: the RFC 6962 root over the JCS of the rows, lowercase hex."""
    return root_of(jcs.encode(dict(row)) for row in rows).hex()
