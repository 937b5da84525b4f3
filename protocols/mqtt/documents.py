"""Plain JSON payloads: one document in, the values at its pointers out. Pure.

Sources: RFC 8259 (JSON), RFC 6901 (JSON pointer).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import DeviceError, Problem
from protocols.mqtt import shapes
from protocols.mqtt.columns import Columns, Decoded, of_integer, of_text
from protocols.mqtt.target import INTEGER_RANGE, MqttPoint, pointer_tokens
from protocols.samples import GOOD, NO_SOURCE_TIME, NOT_LIVE

MAX_PAYLOAD_BYTES = 256 * 1024
DEPTH_MAX = 32
"""Objects and arrays within each other. The parser's own limit depends on what called it; this one does not."""

UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1, "iso": 0}
TIME_NS_MAX = 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

HITS_FORGIVE = 100
"""How often a shape must have been met for another one to be learnt at once."""

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the time of a message stands in it. unit_ns: of a number; 0 for a text as in RFC 3339."""

    tokens: tuple[str, ...]
    unit_ns: int

    @classmethod
    def of(cls, pointer: str | None, format_: str) -> Clock | None:
        """Return the clock of an endpoint, None if its messages have no time."""
        return None if pointer is None else cls(pointer_tokens(pointer), UNIT_NS[format_])

    def read(self, value: object) -> int:
        """Return UTC nanoseconds of the value at `tokens`. Raises ValueError if it is no such time."""
        if self.unit_ns and isinstance(value, int | float) and not isinstance(value, bool):
            if not 0 < value * self.unit_ns <= TIME_NS_MAX:  # also refuses NaN
                raise ValueError(value)
            # a float of seconds has the microseconds that it was written with, and no more
            return value * self.unit_ns if isinstance(value, int) else round(value * self.unit_ns / 1000) * 1000
        if not self.unit_ns and isinstance(value, str):
            moment = datetime.fromisoformat(value)
            since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH
            time_ns = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
            if 0 < time_ns <= TIME_NS_MAX:
                return time_ns
        raise ValueError(value)

    def read_all(self, values: list[Any]) -> NDArray[np.int64]:
        """Return UTC nanoseconds of numbers; shape (n,). Raises as `read` does, if one of them is no such time."""
        try:
            times = np.array(values)
        except OverflowError as error:
            raise ValueError("a number of hundreds of digits") from error
        if times.dtype != np.int64 or not self.unit_ns:  # floats are rounded each in its own way
            return np.array([self.read(value) for value in values], dtype=np.int64)
        if times.size and not (times.min() > 0 and times.max() <= TIME_NS_MAX // self.unit_ns):
            raise ValueError("before 1970, or beyond 2262")
        return times * self.unit_ns


@dataclass(frozen=True, slots=True)
class _Reader:
    """One point with its pointer taken apart. is_raw: a text that is the whole payload need not be JSON."""

    point_index: int
    device_index: int
    tokens: tuple[str, ...]
    type: str
    is_raw: bool


@dataclass(frozen=True, slots=True)
class DocumentTally:
    """What became of one document. devices: those of which at least one pointer was found in it, in order.

    A pointer that leads nowhere is no sample: nothing was received for it.
    """

    delivered: int
    undecodable: int
    devices: tuple[int, ...]


class Topic:
    """The points of one topic, ready to read documents."""

    is_fast = True
    """False reads every document the slow way."""

    def __init__(self, name: str, points: Iterable[MqttPoint], clock: Clock | None = None) -> None:
        self.name = name
        self.clock = clock
        self.readers = tuple(_Reader(p.point_index, p.device_index, p.address.tokens, p.type,
                                     p.type == "string" and p.address.pointer == "") for p in points)
        self.devices = tuple(sorted({r.device_index for r in self.readers}))
        times = [] if clock is None else [(clock.tokens, shapes.TIME if clock.unit_ns else "iso")]
        self._wanted = shapes.steps_of(*zip(*times, *((r.tokens, r.type) for r in self.readers), strict=True))
        self.key = name.encode()
        self.points = np.array([r.point_index for r in self.readers], dtype=np.int64)
        self.points_bytes = self.points.tobytes()
        self._whole = DocumentTally(len(self.readers), 0, self.devices)
        self.shape: shapes.Shape | None = None
        self.hits = 0
        self._misses = 0
        self._needs_json = clock is not None or any(not r.is_raw for r in self.readers)

    def add(self, payload: bytes, received_ns: int, *, is_retained: bool, columns: Columns) -> DocumentTally:
        """Add the values of one message to `columns`; a retained one is marked as not live.

        Raises: DeviceError if the payload is too large, no JSON, or lacks its time; then nothing was added, and every
            point of this topic counts as one sample lost.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise DeviceError(Problem.of(self.name, "mqtt.payload_too_large", max=MAX_PAYLOAD_BYTES))
        if self.shape is not None and self._is_read(self.shape, payload, received_ns, is_retained, columns):
            return self._whole
        document = self._parse(payload) if self._needs_json else None
        source_ns = NO_SOURCE_TIME if self.clock is None else self._time(self.clock, document)
        quality = GOOD | NOT_LIVE if is_retained else GOOD
        before, undecodable = len(columns), 0
        found_devices: set[int] = set()
        for reader in self.readers:
            found = _raw_text(payload) if reader.is_raw else resolve(document, reader.tokens)
            if found is _ABSENT:
                continue
            found_devices.add(reader.device_index)
            try:
                value = decode(found, reader.type)
            except ValueError:
                undecodable += 1
            else:
                columns.add(reader.point_index, received_ns, source_ns, value, quality)
        self._learn(document)
        return DocumentTally(len(columns) - before, undecodable, tuple(sorted(found_devices)))

    def _is_read(self, shape: shapes.Shape, payload: bytes, received_ns: int, is_retained: bool, columns: Columns
                 ) -> bool:
        """Add the values of a document that looks like those before; return False for any other."""
        values = shape.read(payload)
        if values is None:
            return False
        sources = None
        if self.clock is not None:
            try:
                sources = [self.clock.read(values[0])]
            except (ValueError, OverflowError):
                return False
            values = values[1:]
        self.hits += 1
        columns.add_rows([self.points], list(values), received_ns, sources,
                         GOOD | NOT_LIVE if is_retained else GOOD)
        return True

    def _learn(self, document: Any) -> None:
        """Look at documents that had to be read the slow way: the second, the fourth, the eighth, and so on.

        Learning costs as much as some hundred documents, so a topic that changes its shape all the time gets few.
        """
        if self._wanted is None or not self.is_fast:
            return
        self._misses = 1 if self.hits >= HITS_FORGIVE else self._misses + 1
        self.hits = 0
        if self._misses >= 2 and self._misses & (self._misses - 1) == 0:
            self.shape = shapes.learn(document, self._wanted) or self.shape

    def _time(self, clock: Clock, document: Any) -> int:
        try:
            return clock.read(resolve(document, clock.tokens))
        except (ValueError, OverflowError) as error:
            raise DeviceError(Problem.of(self.name, "mqtt.no_timestamp")) from error

    def _parse(self, payload: bytes) -> Any:
        if is_too_deep(payload):
            raise DeviceError(Problem.of(self.name, "mqtt.too_deep", max=DEPTH_MAX))
        try:
            return json.loads(payload.decode("utf-8-sig"), object_pairs_hook=_object)
        except _DuplicateKeyError as error:
            raise DeviceError(Problem.of(self.name, "mqtt.duplicate_key", key=error.args[0])) from error
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or a number of thousands of digits
            raise DeviceError(Problem.of(self.name, "mqtt.not_json")) from error


class _DuplicateKeyError(ValueError):
    """An object has one name twice: readers would disagree on which of the two values was measured."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = sorted(name for name, _ in pairs)
        twice = next(one for one, other in itertools.pairwise(names) if one == other)
        raise _DuplicateKeyError(twice[:100].encode("utf-8", "backslashreplace").decode("utf-8"))
    return result


def _raw_text(payload: bytes) -> str | bytes:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError:
        return payload  # which is not a text, and is refused as one


def is_too_deep(payload: bytes) -> bool:
    """Whether the brackets of a JSON text nest deeper than DEPTH_MAX. What is no JSON may be either."""
    if payload.count(b"[") + payload.count(b"{") <= DEPTH_MAX:
        return False
    # Escaped backslashes go first, then escaped quotes: what is left of quotes opens or closes a text.
    text = np.frombuffer(payload.replace(b"\\\\", b"").replace(b'\\"', b""), dtype=np.uint8)
    outside = np.cumsum(text == ord('"')) % 2 == 0
    opening = ((text == ord("[")) | (text == ord("{"))) & outside
    closing = ((text == ord("]")) | (text == ord("}"))) & outside
    return bool(np.max(np.cumsum(opening.astype(np.int64) - closing.astype(np.int64)), initial=0) > DEPTH_MAX)


def resolve(document: Any, tokens: Sequence[str]) -> Any:
    """Follow a pointer. Returns `_ABSENT` where it leads nowhere."""
    here = document
    for token in tokens:
        if isinstance(here, dict):
            here = here.get(token, _ABSENT)
            if here is _ABSENT:
                return _ABSENT
        elif isinstance(here, list) and _is_index(token) and int(token) < len(here):
            here = here[int(token)]
        else:
            return _ABSENT
    return here


def _is_index(token: str) -> bool:
    """RFC 6901, section 4: digits without leading zeros. The length keeps int() out of trouble."""
    return token.isascii() and token.isdigit() and len(token) < 10 and (token[0] != "0" or len(token) == 1)


def decode(value: object, type_: str) -> Decoded | None:
    """Return a JSON value as one of JSON_TYPES; None for null, and for the NaN and infinities that JSON lacks.

    Raises: ValueError if the value is not of this type. A number written as a text is a text.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if type_ == "bool":
        if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
            return Decoded(float(value))
    elif type_ in INTEGER_RANGE:
        low, high = INTEGER_RANGE[type_]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return of_integer(value)
    elif type_ in ("float32", "float64"):
        if isinstance(value, int | float) and not isinstance(value, bool):
            # An integer that no float64 holds is rounded: the owner asked for a float.
            with contextlib.suppress(OverflowError):
                return Decoded(float(value))
    elif type_ == "string":
        if isinstance(value, str):
            return of_text(value)
    elif type_ == "datetime" and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return Decoded(float(round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)))
    raise ValueError(f"not a {type_}")
