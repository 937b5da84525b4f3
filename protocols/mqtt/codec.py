"""Sparkplug B payloads: bytes in, columns out, and the one request that we write. Pure.

Compressed payloads are no part of the standard, but of its first implementations, and so of many plants: an envelope
whose `uuid` says so and whose `body` is the payload itself, zlib or gzip.

Source: Eclipse Sparkplug Specification 3.0.0, chapter 6; the envelope: "Sparkplug B Payload Compression" in the
documentation of Cirrus Link. Units: timestamps of the wire are milliseconds of UTC.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from protocols.errors import DeviceError, Problem
from protocols.mqtt.columns import Columns, Decoded, of_bytes, of_integer, of_text
from protocols.mqtt.sparkplug_pb2 import Payload
from protocols.samples import BAD, GOOD, NOT_LIVE, UNCERTAIN

MAX_PAYLOAD_BYTES = 1024 * 1024
"""Larger payloads are not looked into, packed or unpacked. A birth of 10 000 metrics with names of 60 characters stays
below."""

METRICS_MAX = 20_000
TIMESTAMP_MS_MAX = (2**63 - 1) // 1_000_000
"""Beyond this a time does not fit int64 nanoseconds (the year 2262)."""

NS_PER_MS = 1_000_000
BD_SEQ = "bdSeq"
REBIRTH = "Node Control/Rebirth"
COMPRESSED = "SPBV1.0_COMPRESSED"
ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
"""Both begin with a mark of their own, so that the metric `algorithm` of the envelope need not be believed."""

_OWN_PREFIXES = ("Node Control/", "Device Control/")

INTEGER_BITS = {1: 8, 2: 16, 3: 32, 4: 64}
UNSIGNED_BITS = {5: 8, 6: 16, 7: 32, 8: 64, 13: 64}
"""13 is DateTime, in milliseconds."""
FLOAT, DOUBLE, BOOLEAN, STRING, TEXT, UUID, BYTES, FILE = 9, 10, 11, 12, 14, 15, 17, 18
ARRAYS = range(22, 35)
"""Arrays travel packed into bytes; like every value no float64 can hold they are compared, not read."""

POINT_TYPE = {1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "uint8", 6: "uint16", 7: "uint32", 8: "uint64",
              9: "float32", 10: "float64", 11: "bool", 12: "string", 13: "datetime", 14: "string", 15: "string",
              17: "bytes", 18: "bytes"}
"""Data type of a birth -> the name that points use for it."""

QUALITY_STALE = 500
"""Property `Quality`: 192 good, 0 bad, 500 stale, that is the last value of something no longer connected."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One payload, parsed. names: of the metrics, one each, empty if absent.

    seq: None if absent, else as sent. bd_seq: of a birth or death of a node, None if absent.

    samples: metrics that are values, that is without the protocol's own (bdSeq, node and device control).
    """

    metrics: tuple[Payload.Metric, ...]
    names: tuple[str, ...]
    sent_ms: int
    seq: int | None
    bd_seq: int | None
    samples: int


@dataclass(frozen=True, slots=True)
class Binding:
    """What a birth said about one metric. point_index: None if the roster has no such point.

    is_own: it belongs to the protocol and is no sample.
    """

    name: str
    datatype: int
    point_index: int | None
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class AliasTable:
    """Metrics of one birth certificate, by alias and by name."""

    by_alias: Mapping[int, Binding]
    by_name: Mapping[str, Binding]


@dataclass(frozen=True, slots=True)
class Tally:
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
    samples = sum(not name or not is_own(name) for name in names)
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
    for metric, name in zip(frame.metrics, frame.names, strict=True):
        index = points.get(name)
        binding = Binding(name, metric.datatype, index, index is None and is_own(name))
        by_name[name] = binding
        if metric.HasField("alias"):
            by_alias[metric.alias] = binding
    return AliasTable(by_alias, by_name)


def add_metrics(
    frame: Frame, table: AliasTable, points: Mapping[str, int], received_ns: int, columns: Columns
) -> Tally:
    """Add the samples of a birth or of data to `columns`.

    table: of the birth in force. points: as in `alias_table`. received_ns: when the message arrived here.
    """
    before = len(columns)
    unknown = undecodable = strangers = 0
    for metric, name in zip(frame.metrics, frame.names, strict=True):
        # A birth carries both, name and alias; data carries one of them.
        if name:
            binding = table.by_name.get(name) or Binding(name, 0, points.get(name), is_own(name))
        elif metric.HasField("alias") and metric.alias in table.by_alias:
            binding = table.by_alias[metric.alias]
        else:
            undecodable += 1
            strangers += 1
            continue
        if binding.point_index is None:
            unknown += not binding.is_own
            continue
        sent_ms = metric.timestamp or frame.sent_ms
        try:
            value = None if metric.is_null else decode(metric, metric.datatype or binding.datatype)
        except ValueError:
            undecodable += 1
            continue
        if sent_ms > TIMESTAMP_MS_MAX:
            undecodable += 1
            continue
        columns.add(binding.point_index, received_ns, sent_ms * NS_PER_MS, value, _quality(metric))
    return Tally(len(columns) - before, unknown, undecodable, strangers)


def decode(metric: Payload.Metric, datatype: int) -> Decoded:
    """Return the value of a metric that is not null. Raises ValueError if it has none of this type."""
    kind = metric.WhichOneof("value")
    if kind in ("int_value", "long_value"):
        number = metric.int_value if kind == "int_value" else metric.long_value
        if datatype in INTEGER_BITS:
            return of_integer(_signed(number, INTEGER_BITS[datatype]))
        if datatype in UNSIGNED_BITS and number >> UNSIGNED_BITS[datatype] == 0:
            return of_integer(number)
    elif kind in ("float_value", "double_value"):
        if datatype in (FLOAT, DOUBLE):
            return Decoded(metric.float_value if kind == "float_value" else metric.double_value)
    elif kind == "boolean_value" and datatype == BOOLEAN:
        return Decoded(float(metric.boolean_value))
    elif kind == "string_value" and datatype in (STRING, TEXT, UUID):
        # Edge nodes of an older code page send texts that are no UTF-8; protobuf hands those over as bytes.
        text: str | bytes = metric.string_value
        return of_text(text) if isinstance(text, str) else of_bytes(text)
    elif kind == "bytes_value" and (datatype in (BYTES, FILE) or datatype in ARRAYS):
        return of_bytes(metric.bytes_value)
    raise ValueError(f"data type {datatype} cannot be in {kind}")


def _name(metric: Payload.Metric) -> str:
    """Return the name. protobuf hands over bytes where it is no UTF-8; such a name is none of the roster."""
    name: str | bytes = metric.name
    return name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")


def _signed(number: int, bits: int) -> int:
    """Read two's complement. Edge nodes send a small negative number cut to its type, or widened to 32 or 64 bits."""
    for width in (width for width in (bits, 32, 64) if width >= bits):
        if number >> width == 0 and number >= (1 << width) - (1 << (bits - 1)):
            return number - (1 << width)
    if number >= 1 << (bits - 1):
        raise ValueError(f"{number} does not fit {bits} bits")
    return number


def _quality(metric: Payload.Metric) -> int:
    if not metric.HasField("properties"):
        return GOOD | NOT_LIVE if metric.is_historical else GOOD
    quality = GOOD
    for key, value in zip(metric.properties.keys, metric.properties.values, strict=False):  # cut lists are possible
        if key == "Quality" and not value.is_null:
            code = value.int_value if value.WhichOneof("value") == "int_value" else value.long_value
            quality = _of_code(code)
    return quality | NOT_LIVE if metric.is_historical else quality


def _of_code(code: int) -> int:
    """Return the quality of a code: its upper two bits of eight, as in OPC DA, from which 0 and 192 are taken."""
    if code >= QUALITY_STALE:
        return BAD
    return {0xC0: GOOD, 0x40: UNCERTAIN}.get(code & 0xC0, BAD)


def rebirth_request(now_ms: int) -> bytes:
    """Return the payload of the NCMD that asks an edge node for its births: the only command we know."""
    message = Payload(timestamp=now_ms)
    metric = message.metrics.add()
    metric.name, metric.timestamp, metric.datatype, metric.boolean_value = REBIRTH, now_ms, BOOLEAN, True
    return message.SerializeToString()
