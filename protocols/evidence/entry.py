"""Entries of a gateway's log: one JCS object each; its bytes are the leaf.

Every entry names its type, its gateway, its index (`seq`) and the last entry before it that tells the gateway's life
(`life`). Unknown types are passed over by old verifiers, an unknown field in a known type is a fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import column, jcs
from protocols.evidence.encoding import is_base64
from protocols.evidence.reader import TypedReader, grouped
from protocols.evidence.shape import Base64, Hex, Integer, ListOf, Nullable, Object, OneOf, Shape, Text, require
from protocols.evidence.signed import CERTIFICATE, GATEWAY, ROTATION, SEEN
from protocols.evidence.tiles import ENTRY_BYTES_MAX
from protocols.terms.vocabulary import CLOCK_SOURCES, DISCARD_REASONS, OUTAGE_REASONS, USABLE_QUALITIES

LIFE_TYPES = ("enrolment", "start", "roster", "outage", "key")
"""Types that `life` links; every other and unknown type is never a link."""

MILLISECONDS_MAX = 10**15

_HEADER: dict[str, Shape] = {"type": Text(64), "gateway": GATEWAY, "seq": Integer(), "life": Integer(-1)}


def _entry(kind: str, fields: Mapping[str, Shape]) -> Object:
    return Object({**_HEADER, "type": OneOf((kind,)), **fields})


ENROLMENT = _entry("enrolment", {"certificate": CERTIFICATE})

START = _entry("start", {
    "instance": Hex(16),
    "software": Object({"version": Text(64), "sha256": Hex(32)}),
    "rule": Object({
        "len_s": Integer(1, 3600), "grace_ms": Integer(0, 60_000), "max_source_age_s": Integer(0, 10 * 365 * 86_400),
        "usable": ListOf(OneOf(USABLE_QUALITIES), 2),
        "limits": Object({"devices": Integer(1), "points": Integer(1), "queued_samples": Integer(1)}),
    }),
    "local_size": Integer(), "platform_size": Nullable(Integer()), "resealed_from": Nullable(Integer()),
})

ROSTER = _entry("roster", {
    "devices_root": Hex(32), "points_root": Hex(32), "devices": Integer(0, column.BITS_MAX),
    "points": Integer(0, column.BITS_MAX),
    "ledger": Object({"sha256": Hex(32), "date": Text(10, "[0-9]{4}-[0-9]{2}-[0-9]{2}"), "rows": Integer()}),
})

DISCARDED = Object(dict.fromkeys(DISCARD_REASONS, Integer()))

WINDOW = _entry("window", {
    "start_s": Integer(), "len_s": Integer(1, 3600), "roster": Integer(), "seen": Nullable(SEEN),
    "clock": Object({"source": OneOf(CLOCK_SOURCES), "offset_ms": Integer(-MILLISECONDS_MAX, MILLISECONDS_MAX),
                     "step_ms": Integer(-MILLISECONDS_MAX, MILLISECONDS_MAX)}),
    "samples": Object({"received": Integer(), "counted": Integer(), "discarded": DISCARDED}),
    "columns": Object(dict.fromkeys(column.NAMES, Base64(most=column.BITS_MAX // 8))),
})

OUTAGE = _entry("outage", {
    "start_s": Integer(), "end_s": Integer(), "reason": OneOf(OUTAGE_REASONS),
    "missing": Object({"windows": Integer(), "samples": Nullable(Integer())}),
})

KEY = _entry("key", {"rotation": ROTATION})

PROBE = _entry("probe", {
    "start_s": Integer(), "seen": SEEN, "policy_uri": Text(), "server_spki": Base64(most=2048),
    "client_certificate": Base64(most=8192), "c": Hex(32), "signature": Base64(most=1024),
})

READS_MAX = 1000

READS = _entry("reads", {
    "start_s": Integer(), "roster": Integer(), "seen": SEEN, "rows": Integer(0, READS_MAX),
    "answered": Integer(0, READS_MAX), "root": Hex(32),
})
"""Reads at instants that nobody could choose. `root` is over the transcript that `protocols.evidence.reads` tells."""

KEEP_NAME = r"[a-z0-9][a-z0-9._-]{0,79}"

KEEP = _entry("keep", {
    "from_seq": Integer(), "to_seq": Integer(), "name": Text(80, KEEP_NAME), "sha256": Hex(32), "bytes": Integer(),
    "retain_until_s": Integer(),
})
"""A file that stays in the factory and belongs to the windows among entries [from_seq, to_seq], both included."""

SHAPES: Mapping[str, Object] = {
    "enrolment": ENROLMENT, "start": START, "roster": ROSTER, "window": WINDOW, "outage": OUTAGE, "key": KEY,
    "probe": PROBE, "reads": READS, "keep": KEEP,
}

_READER = TypedReader(SHAPES, _HEADER, bytes_max=ENTRY_BYTES_MAX)
_COLUMNS_AT = slice(15, 28, 4)
"""Where the columns of a window stand when it is cut at its quotes: `columns` is the second of its keys."""
_CUT_BYTES = 4096
"""Shorter entries are read whole: cutting would take longer than it saves."""


def name(seq: int) -> str:
    """Return how findings name an entry."""
    return f"entry/{seq}"


def encode(value: Mapping[str, Any]) -> bytes:
    """Return the bytes of an entry. Raises VerificationError if it is not as its type says, or too long."""
    where = name(value.get("seq", -1))
    require(SHAPES[value["type"]], value, where=where)
    data = jcs.encode(dict(value))
    if len(data) > ENTRY_BYTES_MAX:
        raise VerificationError(Problem.of(where, "json.too_large", size=len(data), limit=ENTRY_BYTES_MAX))
    return data


def decode(data: bytes, *, seq: int) -> dict[str, Any]:
    """Parse the bytes of the entry at index `seq`. An unknown type is returned with only its header checked.

    Raises: VerificationError of JSON, of the shape, or `entry.misplaced` when the entry names another index.
    """
    value = _take_window(data) or _READER.take(data)
    if value is None:
        value = _READER.decode_slowly(data, where=name(seq))
    if value["seq"] != seq:
        raise VerificationError(Problem.of(name(seq), "entry.misplaced", seq=value["seq"]))
    return value


def _take_window(data: bytes) -> dict[str, Any] | None:
    """Parse a window the fast way: nearly all entries are windows. None says that another way must look at it.

    Most bytes of a large window are columns: these are looked at apart, and what is left must be a window with four
    empty columns in the same places.
    """
    texts = None
    if len(data) > _CUT_BYTES:
        parts = data.split(b'"')
        texts = parts[_COLUMNS_AT]
        if len(data) > ENTRY_BYTES_MAX or len(texts) != 4 or max(map(len, texts)) > column.TEXT_MAX or \
                not all(map(is_base64, texts)):
            return None
        parts[_COLUMNS_AT] = [b""] * 4
        data = b'"'.join(parts)
    match = _window_fields().fullmatch(data.decode("latin-1"))
    if match is None:
        return None
    (offset_ms, source, step_ms, changing, connected, producing, sampled, gateway, len_s, life, roster, counted,
     discarded, received, seen, seq, start_s, kind) = match.groups()
    if texts is not None:
        changing, connected, producing, sampled = [text.decode("ascii") for text in texts]
    return {
        "type": kind, "gateway": gateway, "seq": int(seq), "life": int(life), "start_s": int(start_s),
        "len_s": int(len_s), "roster": int(roster), "seen": _repeated(seen),
        "clock": {"source": source, "offset_ms": int(offset_ms), "step_ms": int(step_ms)},
        "samples": {"received": int(received), "counted": int(counted), "discarded": _repeated(discarded)},
        "columns": {"connected": connected, "sampled": sampled, "producing": producing, "changing": changing}}


@lru_cache(maxsize=1)
def _window_fields() -> re.Pattern[str]:
    """Return the expression of a window with a group for each field, in the order of its sorted keys."""
    return re.compile(grouped(WINDOW, (DISCARDED,)))


@lru_cache(maxsize=32)
def _repeated(text: str) -> Any:
    """Return what a window names as seen, or what it discarded; neighbours say the same, and share it."""
    return json.loads(text)
