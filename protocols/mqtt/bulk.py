"""The documents of a chunk, read together: those of one shape in one call, their values column by column. Pure.

Whatever cannot be read so is read document by document, and finds the same. The order of what a topic says is kept;
messages of different topics that came at one time have no order that anybody could rely on.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from protocols.mqtt.columns import Columns
from protocols.mqtt.documents import MAX_PAYLOAD_BYTES, Topic
from protocols.mqtt.frames import Messages
from protocols.mqtt.shapes import REFUSED, Shape
from protocols.samples import GOOD, NO_SOURCE_TIME

TOGETHER_MIN = 16
"""Fewer documents than these are read sooner one by one: a dozen calls of numpy take as long."""

_devices_of = operator.attrgetter("devices")

Otherwise = Callable[[bytes, bytes | None, int], Sequence[int]]
"""Takes one message that is not a live document of a learnt shape; returns the devices that it is from."""


class _Run(NamedTuple):
    """Documents of one shape, in the order they came."""

    topics: list[Topic]
    payloads: list[bytes]


def add_messages(messages: Messages, topics: Mapping[bytes, Topic], received_ns: int, columns: Columns,
                 otherwise: Otherwise) -> set[int]:
    """Add the values of messages that came at one time; return the devices that they are from.

    otherwise: takes every message that is not a live document of a shape that its topic has learnt, before any that
    came after it.
    """
    devices: set[int] = set()
    found = list(map(topics.get, messages.topics))
    heard = set(found)
    shapes = {None if topic is None else topic.shape for topic in heard}
    if len(shapes) == 1 and None not in shapes and not messages.marks and all(messages.payloads):
        # As below, and so it is nearly always where machines are alike.
        run = _Run(cast(list[Topic], found), cast(list[bytes], messages.payloads))
        _settle(cast(Shape, shapes.pop()), run, cast(set[Topic], heard), received_ns, columns, otherwise, devices)
        return devices
    runs: dict[Shape, _Run] = {}
    shape = None
    for topic, (name, payload, marks) in zip(found, messages, strict=True):
        if topic is not None and not marks and payload is not None and topic.shape is not None:
            if topic.shape is not shape:
                shape = topic.shape
                run = runs.setdefault(shape, _Run([], []))
            run.topics.append(topic)
            run.payloads.append(payload)
            continue
        for learnt, before in runs.items():
            _settle(learnt, before, set(before.topics), received_ns, columns, otherwise, devices)
        runs.clear()
        shape = None
        devices.update(otherwise(name, payload, marks))
    for learnt, before in runs.items():
        _settle(learnt, before, set(before.topics), received_ns, columns, otherwise, devices)
    return devices


def _settle(shape: Shape, run: _Run, heard: set[Topic], received_ns: int, columns: Columns, otherwise: Otherwise,
            devices: set[int]) -> None:
    """Add the values of a run, of which `heard` are the topics."""
    if len(run.topics) < TOGETHER_MIN or not _is_together(shape, run, received_ns, columns):
        heard = _one_by_one(shape, run, received_ns, columns, otherwise, devices)
    devices.update(*map(_devices_of, heard))
    for topic in heard:
        topic.hits += 1


def _is_together(shape: Shape, run: _Run, received_ns: int, columns: Columns) -> bool:
    """Add the values of all these documents; return False, and add nothing, if one of them is not as it should be."""
    topics = run.topics
    documents = shape.read_all(run.payloads, MAX_PAYLOAD_BYTES)
    if documents is None:
        return False
    count = len(documents)
    points = np.frombuffer(b"".join([topic.points_bytes for topic in topics]), dtype=np.int64)
    each = points.size // count
    clock = topics[0].clock  # of the endpoint, and so of all
    source_ns = np.full(count, NO_SOURCE_TIME, dtype=np.int64)
    if clock is not None and shape.time_of is not None:
        try:
            source_ns = clock.read_all(list(map(shape.time_of, documents)))
        except (ValueError, OverflowError):
            return False
    values = np.frombuffer(struct.pack(f"={points.size}d", *shape.rows(documents)), dtype=np.float64)
    columns.add_table(points, np.repeat(source_ns, each), values, received_ns)
    return True


def _one_by_one(shape: Shape, run: _Run, received_ns: int, columns: Columns, otherwise: Otherwise, devices: set[int]
                ) -> set[Topic]:
    """Add the values of these documents, and hand on the others; return the topics of the former."""
    heard: set[Topic] = set()
    points: list[NDArray[np.int64]] = []
    values: list[float] = []
    sources: list[int] = []

    def add() -> None:
        if points:
            columns.add_rows(points.copy(), values, received_ns, sources or None, GOOD)
            points.clear()
            values.clear()
            sources.clear()

    quotes, decode, get = shape.quotes, shape.decoder.decode, shape.get
    for topic, payload in zip(run.topics, run.payloads, strict=True):
        if payload.count(b'"') == quotes and len(payload) <= MAX_PAYLOAD_BYTES:
            # As in Topic.add and Shape.read, without their calls.
            try:
                found = get(decode(payload))
                if topic.clock is not None:
                    sources.append(topic.clock.read(found[0]))
                    found = found[1:]
            except (*REFUSED, OverflowError):
                pass
            else:
                points.append(topic.points)
                values += found
                heard.add(topic)
                continue
        add()
        devices.update(otherwise(topic.key, payload, 0))
    add()
    return heard
