"""Sparkplug B payloads: bytes in, columns out, and the one request that we write. Pure.

Compressed payloads are no part of the standard, but of its first implementations, and so of many plants: an envelope
whose `uuid` says so and whose `body` is the payload itself, zlib or gzip.

Source: Eclipse Sparkplug Specification 3.0.0, chapter 6; the envelope: "Sparkplug B Payload Compression" in the
documentation of Cirrus Link. Members of templates are metrics like others, `INSTANCE/MEMBER`. Units: timestamps of the
wire are milliseconds of UTC.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from protocols.errors import DeviceError, Problem
from protocols.mqtt.births import AliasTable, Binding
from protocols.mqtt.columns import Columns
from protocols.mqtt.layouts import METRICS_MAX
from protocols.mqtt.sparkplug_pb2 import Payload
from protocols.mqtt.target import METRIC_CHARS_MAX
from protocols.mqtt.values import BOOLEAN, TEMPLATE, decode, quality_of
from protocols.samples import NOT_LIVE

MAX_PAYLOAD_BYTES = 1024 * 1024
"""Larger payloads are not looked into, packed or unpacked. A birth of 10 000 metrics with names of 60 characters stays
below."""

TIMESTAMP_MS_MAX = (2**63 - 1) // 1_000_000
"""Beyond this a time does not fit int64 nanoseconds (the year 2262)."""

NS_PER_MS = 1_000_000
BD_SEQ = "bdSeq"
REBIRTH = "Node Control/Rebirth"
COMPRESSED = "SPBV1.0_COMPRESSED"
ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
"""Both begin with a mark of their own, so that the metric `algorithm` of the envelope need not be believed."""

_OWN_PREFIXES = ("Node Control/", "Device Control/")

class Frame(NamedTuple):
    """One payload, parsed. names: of the metrics, one each, empty if absent.

    seq: None if absent, else as sent. bd_seq: of a birth or death of a node, None if absent.

    samples: metrics and members of templates that are values, without the protocol's own (bdSeq, control switches).
    """

    metrics: tuple[Payload.Metric, ...]
    names: tuple[str, ...]
    sent_ms: int
    seq: int | None
    bd_seq: int | None
    samples: int


class Tally(NamedTuple):
    """What became of the samples of one frame: delivered + unknown_point + undecodable = all of them.

    strangers: how many of the undecodable named an alias that no birth explained.
    """

    delivered: int
    unknown_point: int
    undecodable: int
    strangers: int


def parse(payload: bytes, *, where: str) -> Frame:
    """Parse one payload. where: its topic, for the message.

    Raises: DeviceError if it is too large, has too many metrics, or is no Sparkplug B payload.
    """
    message = _message(payload, where)
    if message.uuid == COMPRESSED:
        message = _unpacked(message, where)
    if len(message.metrics) > METRICS_MAX:
        raise DeviceError(Problem.of(where, "mqtt.too_many_metrics", count=len(message.metrics), max=METRICS_MAX))
    metrics = tuple(message.metrics)
    names = tuple(map(_name, metrics))
    bd_seq = None
    for metric, name in zip(metrics, names, strict=True):
        if name == BD_SEQ:
            bd_seq = metric.int_value if metric.WhichOneof("value") == "int_value" else metric.long_value
    # Most metrics of data have an alias and no name.
    samples = sum(map(samples_of, metrics, names))
    if samples > METRICS_MAX:
        raise DeviceError(Problem.of(where, "mqtt.too_many_metrics", count=samples, max=METRICS_MAX))
    return Frame(metrics=metrics, names=names, sent_ms=message.timestamp, bd_seq=bd_seq, samples=samples,
                 seq=message.seq if message.HasField("seq") else None)


def _message(payload: bytes, where: str) -> Payload:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise DeviceError(Problem.of(where, "mqtt.payload_too_large", max=MAX_PAYLOAD_BYTES))
    message = Payload()
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise DeviceError(Problem.of(where, "mqtt.not_sparkplug")) from error
    return message


def _unpacked(envelope: Payload, where: str) -> Payload:
    """Return the payload in an envelope. What only the envelope says holds too; not all repeat it."""
    unpacking = zlib.decompressobj(ZLIB_OR_GZIP)
    try:
        body = unpacking.decompress(envelope.body, MAX_PAYLOAD_BYTES + 1)
    except zlib.error as error:
        raise DeviceError(Problem.of(where, "mqtt.not_compressed")) from error
    if len(body) <= MAX_PAYLOAD_BYTES and (not unpacking.eof or unpacking.unused_data):
        raise DeviceError(Problem.of(where, "mqtt.not_compressed"))
    message = _message(body, where)
    if message.uuid == COMPRESSED:
        raise DeviceError(Problem.of(where, "mqtt.not_compressed"))
    if not message.HasField("seq") and envelope.HasField("seq"):
        message.seq = envelope.seq
    if not message.timestamp:
        message.timestamp = envelope.timestamp
    return message


def is_own(name: str) -> bool:
    """Whether a metric belongs to the protocol: its death counter and its switches for commands."""
    return name == BD_SEQ or name.startswith(_OWN_PREFIXES)


def alias_table(frame: Frame, points: Mapping[str, int]) -> AliasTable:
    """Read a birth certificate. points: metric name -> point slot, for this node or device."""
    by_alias: dict[int, Binding] = {}
    by_name: dict[str, Binding] = {}

    def read(metrics: Iterable[Payload.Metric], names: Iterable[str], above: str) -> None:
        for metric, name in zip(metrics, names, strict=True):
            whole = _inside(above, name)
            if metric.HasField("template_value"):
                if metric.HasField("alias"):
                    by_alias[metric.alias] = Binding(whole, TEMPLATE, None)
                if not metric.template_value.is_definition:
                    members = metric.template_value.metrics
                    read(members, map(_name, members), whole + "/")
                continue
            index = points.get(whole)
            binding = Binding(whole, metric.datatype, index, index is None and is_own(whole))
            by_name[whole] = binding
            if metric.HasField("alias"):
                by_alias[metric.alias] = binding

    read(frame.metrics, frame.names, "")
    return AliasTable(by_alias, by_name)


def add_metrics(
    frame: Frame, table: AliasTable, points: Mapping[str, int], received_ns: int, columns: Columns
) -> Tally:
    """Add the samples of a birth or of data to `columns`.

    table: of the birth in force. points: as in `alias_table`. received_ns: when the message arrived here.
    """
    before = len(columns)
    unknown = undecodable = strangers = 0

    def add(metrics: Iterable[Payload.Metric], names: Iterable[str], above: str, sent_ms: int, marks: int) -> None:
        nonlocal unknown, undecodable, strangers
        for metric, name in zip(metrics, names, strict=True):
            # A birth carries both, name and alias; data carries one of them.
            if name:
                whole = _inside(above, name)
                binding = table.by_name.get(whole) or Binding(whole, 0, points.get(whole), is_own(whole))
            elif metric.HasField("alias") and metric.alias in table.by_alias:
                binding = table.by_alias[metric.alias]
            else:
                lost = samples_of(metric, name)
                undecodable += lost
                strangers += lost
                continue
            at_ms = metric.timestamp or sent_ms
            if metric.HasField("template_value"):
                if not metric.template_value.is_definition:
                    members = metric.template_value.metrics
                    below = marks | (NOT_LIVE if metric.is_historical else 0)
                    add(members, map(_name, members), binding.name + "/", at_ms, below)
                continue
            if binding.point_index is None:
                unknown += not (binding.is_own and name)
                continue
            try:
                value = None if metric.is_null else decode(metric, metric.datatype or binding.datatype)
            except ValueError:
                undecodable += 1
                continue
            if at_ms > TIMESTAMP_MS_MAX:
                undecodable += 1
                continue
            columns.add(binding.point_index, received_ns, at_ms * NS_PER_MS, value, quality_of(metric) | marks)

    add(frame.metrics, frame.names, "", frame.sent_ms, 0)
    return Tally(len(columns) - before, unknown, undecodable, strangers)


def samples_of(metric: Payload.Metric, name: str) -> int:
    """Return how many samples a metric is: its members if it is a template's instance, none if it is the protocol's."""
    if not metric.HasField("template_value"):
        return 0 if name and is_own(name) else 1
    if metric.template_value.is_definition:
        return 0
    return sum(samples_of(member, "") for member in metric.template_value.metrics)


def _name(metric: Payload.Metric) -> str:
    """Return the name. protobuf hands over bytes where it is no UTF-8; such a name is none of the roster."""
    name: str | bytes = metric.name
    return name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")


def _inside(above: str, name: str) -> str:
    """Return the whole name of a metric. No point has one that is longer than the limit: where it was cut, nothing is.

    Else a long name of a template would stand once more in memory for each of its thousands of members.
    """
    return (above + name)[:METRIC_CHARS_MAX + 1]


def rebirth_request(now_ms: int) -> bytes:
    """Return the payload of the NCMD that asks an edge node for its births: the only command we know."""
    message = Payload(timestamp=now_ms)
    metric = message.metrics.add()
    metric.name, metric.timestamp, metric.datatype, metric.boolean_value = REBIRTH, now_ms, BOOLEAN, True
    return message.SerializeToString()
