"""One Sparkplug B metric: its value by its data type, and its quality. Pure.

Numbers, switches, texts and times are values. Byte strings, files, arrays and data sets are compared, not read: what
counts is whether they changed. Arrays and data sets that are not what their type says are no values.

Source: Eclipse Sparkplug Specification 3.0.0, sections 6.4.11 to 6.4.16 (data types, data sets, property `Quality`).
"""

from __future__ import annotations

from protocols.mqtt.columns import Decoded, of_bytes, of_integer, of_text
from protocols.mqtt.sparkplug_pb2 import Payload
from protocols.samples import BAD, GOOD, NOT_LIVE, UNCERTAIN

INTEGER_BITS = {1: 8, 2: 16, 3: 32, 4: 64}
UNSIGNED_BITS = {5: 8, 6: 16, 7: 32, 8: 64, 13: 64}
"""13 is DateTime, in milliseconds."""
FLOAT, DOUBLE, BOOLEAN, STRING, TEXT, UUID, BYTES, FILE = 9, 10, 11, 12, 14, 15, 17, 18
DATA_SET, TEMPLATE = 16, 19
ARRAY_BYTES = {22: 1, 23: 2, 24: 4, 25: 8, 26: 1, 27: 2, 28: 4, 29: 8, 30: 4, 31: 8, 34: 8}
"""Arrays travel packed into bytes: data type -> bytes of one element."""
BOOLEAN_ARRAY, STRING_ARRAY = 32, 33

POINT_TYPE = {1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "uint8", 6: "uint16", 7: "uint32", 8: "uint64",
              9: "float32", 10: "float64", 11: "bool", 12: "string", 13: "datetime", 14: "string", 15: "string",
              16: "bytes", 17: "bytes", 18: "bytes", **dict.fromkeys(range(22, 35), "bytes")}
"""Data type of a birth -> the name that points use for it."""

QUALITY_STALE = 500
"""Property `Quality`: 192 good, 0 bad, 500 stale, that is the last value of something no longer connected."""



def decode(metric: Payload.Metric, datatype: int) -> Decoded:
    """Return the value of a metric that is not null. Raises ValueError if it has none of this type."""
    kind = metric.WhichOneof("value")
    if kind in ("int_value", "long_value"):
        number = metric.int_value if kind == "int_value" else metric.long_value
        if datatype in INTEGER_BITS:
            return of_integer(signed(number, INTEGER_BITS[datatype]))
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
    elif kind == "bytes_value":
        if datatype in (BYTES, FILE) or is_array(metric.bytes_value, datatype):
            return of_bytes(metric.bytes_value)
    elif kind == "dataset_value" and datatype == DATA_SET:
        return of_data_set(metric.dataset_value)
    raise ValueError(f"data type {datatype} cannot be in {kind}")


def is_array(packed: bytes, datatype: int) -> bool:
    """Whether these bytes can be an array of this type. Numbers are packed, texts end with a zero byte each."""
    if datatype in ARRAY_BYTES:
        return len(packed) % ARRAY_BYTES[datatype] == 0
    if datatype == BOOLEAN_ARRAY:  # how many, in four bytes, and then one bit each
        return len(packed) >= 4 and len(packed) == 4 + (int.from_bytes(packed[:4], "little") + 7) // 8
    return datatype == STRING_ARRAY and (not packed or packed.endswith(b"\0"))


def of_data_set(data_set: Payload.DataSet) -> Decoded:
    """Return a table by its fingerprint. Raises ValueError if its rows and columns do not fit each other."""
    columns = data_set.num_of_columns
    if not columns == len(data_set.columns) == len(data_set.types) \
            or any(len(row.elements) != columns for row in data_set.rows):
        raise ValueError("rows and columns of the data set do not fit")
    whole = of_bytes(data_set.SerializeToString(deterministic=True))
    return Decoded(whole.number, f"{columns} x {len(data_set.rows)}")


def signed(number: int, bits: int) -> int:
    """Read two's complement. Edge nodes send a small negative number cut to its type, or widened to 32 or 64 bits."""
    for width in (width for width in (bits, 32, 64) if width >= bits):
        if number >> width == 0 and number >= (1 << width) - (1 << (bits - 1)):
            return number - (1 << width)
    if number >= 1 << (bits - 1):
        raise ValueError(f"{number} does not fit {bits} bits")
    return number


def quality_of(metric: Payload.Metric) -> int:
    """Return what the property `Quality` says, or GOOD; or-ed with NOT_LIVE if the metric is historical."""
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
