"""What a Modbus connection and its points are. Standard library only: the configuration uses it without any driver.

Source: MODBUS Application Protocol Specification V1.1b3, sections 4.3 (data model, addresses from 0), 4.4 and 6.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from protocols.errors import ConfigError, Problem

Table = Literal["coil", "discrete", "input", "holding"]

TABLES: tuple[Table, ...] = ("coil", "discrete", "input", "holding")
BIT_TABLES = ("coil", "discrete")
READ_FUNCTION: dict[str, int] = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}

ADDRESS_MAX = 0xFFFF
UNIT_MAX = 255
RTU_UNIT_MAX = 247
"""Serial line, section 2.2: 1..247 are devices, 0 is broadcast, which nobody answers, the rest is reserved."""

REGISTERS_PER_READ_MAX = 125
BITS_PER_READ_MAX = 2000
TEXT_LENGTH_MAX = REGISTERS_PER_READ_MAX

REGISTERS_OF: dict[str, int] = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 1, "uint16": 1, "bcd16": 1,
    "int32": 2, "uint32": 2, "float32": 2, "bcd32": 2,
    "int64": 4, "uint64": 4, "float64": 4,
}
"""Registers of every type with a fixed length. `datetime` is absent: Modbus has no date of its own."""

TEXT_TYPES = ("string", "bytes")
ORDERS = ("ABCD", "CDAB", "BADC", "DCBA")

PROTOCOL_SCHEMES = {"modbus_tcp": "tcp", "modbus_tls": "tls", "modbus_rtu_over_tcp": "tcp", "modbus_rtu": "serial"}
PROTOCOL_EXAMPLES = {"modbus_rtu": "serial:///dev/ttyS0", "modbus_tls": "tls://192.0.2.10:802"}
DEFAULT_PORT = 502
TLS_PORT = 802
"""MODBUS/TCP Security V2.1: mbap/TLS/TCP has a port of its own."""

PARITIES = ("N", "E", "O")
TLS_FILES = ("ca_file", "certificate_file", "key_file")

_USER_FORM = re.compile(
    r"(?P<unit>[0-9]{1,5})/(?P<table>[a-z]+)/(?P<address>[0-9]{1,7})(?:\.(?P<bit>[0-9]{1,3})|:(?P<length>[0-9]{1,4}))?")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusAddress:
    """One addressable variable of one unit. `address` is the protocol address: counted from 0, never 40001.

    bit: 0 is the least significant bit of a register; None everywhere but for a bit of a register.
    length: registers of a string or of bytes; None for every other type. It is no part of the identity.
    """

    unit: int
    table: Table
    address: int
    type: str
    bit: int | None = None
    length: int | None = None

    @property
    def size(self) -> int:
        """Addresses this variable takes up: bits in a table of bits, registers in a table of registers."""
        if self.length is not None:
            return self.length
        return 1 if self.table in BIT_TABLES else REGISTERS_OF[self.type]

    @property
    def end(self) -> int:
        """First address behind this variable."""
        return self.address + self.size

    @property
    def base(self) -> str:
        """The register or bit, without type and bit: sixteen bits of one register have one base."""
        return f"{self.unit}/{self.table}/{self.address}"

    @property
    def canonical(self) -> str:
        """The frozen text that evidence hashes: UNIT/TABLE/ADDRESS/TYPE, with /BIT for a bit of a register."""
        return f"{self.base}/{self.type}" + ("" if self.bit is None else f"/{self.bit}")


def parse_address(text: str, type: str = "", *, where: str = "") -> ModbusAddress:
    """Read `UNIT/TABLE/ADDRESS`, `UNIT/TABLE/ADDRESS.BIT` or, for string and bytes, `UNIT/TABLE/ADDRESS:REGISTERS`.

    Args:
        text: the user's form; addresses in decimal from 0.
        type: one of POINT_TYPES. May be empty for coils, discrete inputs and bits, which are bool.
        where: file and place, for the message.
    Raises: ConfigError with every problem of this address at once.
    """
    match = _USER_FORM.fullmatch(text)
    if match is None:
        code = "modbus.traditional_address" if re.fullmatch(r"[0134][0-9]{4,5}", text) else "modbus.bad_address"
        raise ConfigError(Problem.of(where, code, address=text[:100]))
    unit, table, address = int(match["unit"]), match["table"], int(match["address"])
    bit = None if match["bit"] is None else int(match["bit"])
    length = None if match["length"] is None else int(match["length"])
    if not type and (table in BIT_TABLES or bit is not None):
        type = "bool"
    problems = [Problem.of(where, code, address=text, **args)
                for code, args in _address_problems(unit, table, address, type, bit, length)]
    if problems:
        raise ConfigError(problems)
    known = next(name for name in TABLES if name == table)
    return ModbusAddress(unit=unit, table=known, address=address, type=type, bit=bit, length=length)


def _address_problems(
    unit: int, table: str, address: int, type_: str, bit: int | None, length: int | None
) -> Iterator[tuple[str, dict[str, object]]]:
    if unit > UNIT_MAX:
        yield "modbus.bad_unit", {"unit": unit}
    if table not in TABLES:
        yield "modbus.bad_table", {"table": table}
        return
    if not type_:
        yield "modbus.type_missing", {}
        return
    if type_ not in REGISTERS_OF and type_ not in TEXT_TYPES:
        yield "modbus.bad_type", {"type": type_}
        return
    if table in BIT_TABLES:
        if type_ != "bool":
            yield "modbus.bits_are_bool", {"table": table, "type": type_}
        if bit is not None:
            yield "modbus.bit_of_bit", {"table": table}
        if length is not None:
            yield "modbus.length_unwanted", {"type": type_}
        size = 1
    else:
        if bit is not None and type_ != "bool":
            yield "modbus.bit_is_bool", {"type": type_}
        if bit is not None and bit > 15:
            yield "modbus.bad_bit", {"bit": bit}
        if type_ in TEXT_TYPES:
            if length is None:
                yield "modbus.length_missing", {"type": type_}
            elif not 1 <= length <= TEXT_LENGTH_MAX:
                yield "modbus.bad_length", {"length": length, "max": TEXT_LENGTH_MAX}
            size = length or 1
        else:
            if length is not None:
                yield "modbus.length_unwanted", {"type": type_}
            size = REGISTERS_OF[type_]
    if address + size - 1 > ADDRESS_MAX:
        yield "modbus.address_too_high", {"type": type_, "size": size, "highest": ADDRESS_MAX + 1 - size}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusPoint:
    """One point to read: where it is, how its bytes lie, and which slots of the roster it fills.

    order: the user's four letters; A is the most significant byte of a 32-bit value. Types of 16 bits use the byte
    order within a word only, types of 64 bits continue the pattern (CDAB: words reversed, DCBA: all reversed).
    The delivered value is raw * scale + offset.
    """

    point_index: int
    device_index: int
    address: ModbusAddress
    order: str = "ABCD"
    scale: float = 1.0
    offset: float = 0.0
    labels: tuple[tuple[int, str], ...] = ()
    where: str = ""

    def __post_init__(self) -> None:
        problems = []
        if self.order not in ORDERS:
            problems.append(Problem.of(self.where, "modbus.bad_order", order=self.order, orders=", ".join(ORDERS)))
        if not (math.isfinite(self.scale) and self.scale != 0 and math.isfinite(self.offset)):
            problems.append(Problem.of(self.where, "modbus.bad_scale", scale=self.scale, offset=self.offset))
        elif self.is_scaled and self.address.type in ("bool", *TEXT_TYPES):
            problems.append(Problem.of(self.where, "modbus.scale_unwanted", type=self.address.type))
        if self.labels and (self.is_scaled or self.is_text or self.address.type.startswith("float")):
            problems.append(Problem.of(self.where, "modbus.labels_unwanted", type=self.address.type))
        if problems:
            raise ConfigError(problems)

    @property
    def is_scaled(self) -> bool:
        """Whether scale or offset change the raw value."""
        return self.scale != 1.0 or self.offset != 0.0

    @property
    def is_text(self) -> bool:
        """Whether the value never fits a float64 and travels as a fingerprint with its text."""
        return self.address.type in TEXT_TYPES


def parse_labels(text: str, *, where: str = "") -> tuple[tuple[int, str], ...]:
    """Read the labels of an enumeration, `0=stopped;1=running;2=fault`; an empty text has none.

    Raises: ConfigError if a part has no number or no label, or if a number comes twice.
    """
    labels: dict[int, str] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        number, _, label = (piece.strip() for piece in part.partition("="))
        if not _WHOLE_NUMBER.fullmatch(number) or not label or int(number) in labels:
            raise ConfigError(Problem.of(where, "modbus.bad_labels", part=part[:40]))
        labels[int(number)] = label
    return tuple(labels.items())


IN_FLIGHT_MAX = 16
"""MODBUS Messaging on TCP/IP, 4.4.1.3: a server says how many transactions it takes at once, 1 to 16 as a rule."""

LIMITS: dict[str, tuple[float, float]] = {
    "poll_s": (0.01, 86_400), "timeout_s": (0.01, 60), "max_registers": (1, REGISTERS_PER_READ_MAX),
    "max_bits": (1, BITS_PER_READ_MAX), "max_gap": (0, BITS_PER_READ_MAX), "pause_ms": (0, 60_000),
    "interval_ms": (0, 60_000), "in_flight": (1, IN_FLIGHT_MAX), "baudrate": (300, 4_000_000), "stopbits": (1, 2)}
"""Least and greatest value of every number of a connection or of its units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitLimits:
    """How one unit is asked. interval_ms: least time between two requests to it, counted from their starts.

    in_flight: requests that may be outstanding at once. The others are as in `ModbusEndpoint`.
    """

    poll_s: float
    timeout_s: float
    max_registers: int
    max_bits: int
    max_gap: int
    pause_ms: int
    interval_ms: int
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSettings:
    """What differs for some units of a connection; None is what the connection says."""

    ids: tuple[int, ...]
    poll_s: float | None = None
    timeout_s: float | None = None
    max_registers: int | None = None
    max_bits: int | None = None
    max_gap: int | None = None
    pause_ms: int | None = None
    interval_ms: int | None = None
    in_flight: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusEndpoint:
    """One connection: one socket or serial line, shared by its units, with one request outstanding as a rule.

    endpoint: `tcp://HOST:PORT` for modbus_tcp and modbus_rtu_over_tcp, `tls://HOST:PORT` for modbus_tls,
    `serial:///dev/ttyS0` for modbus_rtu.
    timeout_s: for connecting, and for each reply. max_gap: addresses nobody asked for that one read may include.
    pause_ms: silence kept on the line after each reply. interval_ms: see UnitLimits. in_flight: more than 1 for devices
    that are known to take more requests before they have answered, in order; neither over RTU nor with pauses.
    units: exceptions for single units; `of` resolves them.
    ca_file, certificate_file, key_file (PEM): modbus_tls only, and all needed there: whom this gateway believes, and
    who it says it is. server_name: the name in the server's certificate where it is not the host of the endpoint.
    Raises: ConfigError with every problem at once.
    """

    name: str
    protocol: str
    endpoint: str
    poll_s: float = 1.0
    timeout_s: float = 1.0
    max_registers: int = REGISTERS_PER_READ_MAX
    max_bits: int = BITS_PER_READ_MAX
    max_gap: int = 8
    pause_ms: int = 0
    interval_ms: int = 0
    in_flight: int = 1
    units: tuple[UnitSettings, ...] = ()
    baudrate: int = 9600
    parity: str = "E"
    stopbits: int = 1
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None
    where: str = ""

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ConfigError(problems)

    def of(self, unit: int) -> UnitLimits:
        """Return how this unit is asked."""
        own = next((settings for settings in self.units if unit in settings.ids), None)
        return UnitLimits(**{field.name: _first(getattr(own, field.name, None), getattr(self, field.name))
                             for field in fields(UnitLimits)})

    def _problems(self) -> Iterator[Problem]:
        at = self.where or self.name
        if self.protocol not in PROTOCOL_SCHEMES:
            yield Problem.of(at, "modbus.bad_protocol", protocol=self.protocol, known=", ".join(PROTOCOL_SCHEMES))
        elif not self._endpoint_is_good():
            yield Problem.of(at, "modbus.bad_endpoint", endpoint=self.endpoint, protocol=self.protocol,
                             example=PROTOCOL_EXAMPLES.get(self.protocol, "tcp://192.0.2.10:502"))
        yield from _out_of_range(self, at)
        if self.parity not in PARITIES:
            yield Problem.of(at, "modbus.bad_parity", parity=self.parity)
        yield from self._unit_problems(at)
        for settings in (None, *self.units):
            in_flight, pause_ms, interval_ms = (
                _first(getattr(settings, key, None), getattr(self, key))
                for key in ("in_flight", "pause_ms", "interval_ms"))
            if in_flight > 1 and (self.is_rtu or pause_ms or interval_ms):
                yield Problem.of(at, "modbus.in_flight_alone", in_flight=in_flight)
                break
        for key in TLS_FILES:
            if self.protocol == "modbus_tls" and getattr(self, key) is None:
                yield Problem.of(f"{at}.{key}", "modbus.tls_file_missing", key=key)
        for key in (*TLS_FILES, "server_name"):
            if self.protocol != "modbus_tls" and getattr(self, key) is not None:
                yield Problem.of(f"{at}.{key}", "modbus.tls_only", key=key, protocol=self.protocol)

    def _unit_problems(self, at: str) -> Iterator[Problem]:
        first: dict[int, int] = {}
        for index, settings in enumerate(self.units):
            here = f"{at}.units[{index}]"
            yield from _out_of_range(settings, here)
            if not settings.ids:
                yield Problem.of(here, "modbus.no_ids")
            for unit in settings.ids:
                if not 0 <= unit <= UNIT_MAX:
                    yield Problem.of(f"{here}.ids", "modbus.bad_unit", unit=unit, address="ids")
                elif first.setdefault(unit, index) != index:
                    yield Problem.of(f"{here}.ids", "modbus.double_unit", unit=unit, first=f"units[{first[unit]}]")

    def _endpoint_is_good(self) -> bool:
        try:
            parts = urlsplit(self.endpoint)
            port = parts.port
        except ValueError:
            return False
        if parts.scheme != PROTOCOL_SCHEMES[self.protocol] or parts.query or parts.fragment or parts.username:
            return False
        if parts.scheme == "serial":
            return not parts.netloc and len(parts.path) > 1
        return bool(parts.hostname) and parts.path in ("", "/") and port != 0

    @property
    def is_rtu(self) -> bool:
        """Whether frames are RTU frames: a checksum, but no transaction id."""
        return self.protocol in ("modbus_rtu", "modbus_rtu_over_tcp")

    @property
    def host(self) -> str:
        """Host name or address; for a serial line the path of its device, on Windows the name of its port."""
        parts = urlsplit(self.endpoint)
        if parts.scheme == "serial":
            return parts.path[1:] if re.fullmatch(r"/COM[0-9]+", parts.path) else parts.path
        return parts.hostname or ""

    @property
    def port(self) -> int:
        """TCP port; 0 for a serial line."""
        parts = urlsplit(self.endpoint)
        if parts.scheme == "serial":
            return 0
        return parts.port or (TLS_PORT if self.protocol == "modbus_tls" else DEFAULT_PORT)


def _first(own: Any, common: Any) -> Any:
    return common if own is None else own


def _out_of_range(settings: ModbusEndpoint | UnitSettings, at: str) -> Iterator[Problem]:
    for key, (low, high) in LIMITS.items():
        value = getattr(settings, key, None)
        if value is not None and not low <= value <= high:  # also refuses NaN
            yield Problem.of(at, "modbus.out_of_range", key=key, value=value, low=f"{low:g}", high=f"{high:g}")
