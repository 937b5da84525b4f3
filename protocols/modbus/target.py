"""What a Modbus connection and its points are. Standard library only: the configuration uses it without any driver.

Source: MODBUS Application Protocol Specification V1.1b3, sections 4.3 (data model, addresses from 0), 4.4 and 6.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
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

PROTOCOL_SCHEMES = {"modbus_tcp": "tcp", "modbus_rtu_over_tcp": "tcp", "modbus_rtu": "serial"}
DEFAULT_PORT = 502
PARITIES = ("N", "E", "O")

_USER_FORM = re.compile(
    r"(?P<unit>[0-9]{1,5})/(?P<table>[a-z]+)/(?P<address>[0-9]{1,7})(?:\.(?P<bit>[0-9]{1,3})|:(?P<length>[0-9]{1,4}))?")


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
    where: str = ""

    def __post_init__(self) -> None:
        problems = []
        if self.order not in ORDERS:
            problems.append(Problem.of(self.where, "modbus.bad_order", order=self.order, orders=", ".join(ORDERS)))
        if not (math.isfinite(self.scale) and self.scale != 0 and math.isfinite(self.offset)):
            problems.append(Problem.of(self.where, "modbus.bad_scale", scale=self.scale, offset=self.offset))
        elif self.is_scaled and self.address.type in ("bool", *TEXT_TYPES):
            problems.append(Problem.of(self.where, "modbus.scale_unwanted", type=self.address.type))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusEndpoint:
    """One connection: one socket or serial line, shared by its units, with one request outstanding.

    endpoint: `tcp://HOST:PORT` for modbus_tcp and modbus_rtu_over_tcp, `serial:///dev/ttyS0` for modbus_rtu.
    timeout_s: for connecting, and for each reply. max_gap: addresses nobody asked for that one read may include.
    pause_ms: silence kept after each reply, for devices that need it.
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
    baudrate: int = 9600
    parity: str = "E"
    stopbits: int = 1
    where: str = ""

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ConfigError(problems)

    def _problems(self) -> Iterator[Problem]:
        at = self.where or self.name
        if self.protocol not in PROTOCOL_SCHEMES:
            yield Problem.of(at, "modbus.bad_protocol", protocol=self.protocol, known=", ".join(PROTOCOL_SCHEMES))
        elif not self._endpoint_is_good():
            example = "serial:///dev/ttyS0" if self.protocol == "modbus_rtu" else "tcp://192.0.2.10:502"
            yield Problem.of(at, "modbus.bad_endpoint", endpoint=self.endpoint, protocol=self.protocol, example=example)
        limits: tuple[tuple[str, float, float, float], ...] = (
            ("poll_s", self.poll_s, 0.01, 86_400), ("timeout_s", self.timeout_s, 0.01, 60),
            ("max_registers", self.max_registers, 1, REGISTERS_PER_READ_MAX),
            ("max_bits", self.max_bits, 1, BITS_PER_READ_MAX),
            ("max_gap", self.max_gap, 0, BITS_PER_READ_MAX), ("pause_ms", self.pause_ms, 0, 60_000),
            ("baudrate", self.baudrate, 300, 4_000_000), ("stopbits", self.stopbits, 1, 2))
        for key, value, low, high in limits:
            if not low <= value <= high:  # also refuses NaN
                yield Problem.of(at, "modbus.out_of_range", key=key, value=value, low=f"{low:g}", high=f"{high:g}")
        if self.parity not in PARITIES:
            yield Problem.of(at, "modbus.bad_parity", parity=self.parity)

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
        return self.protocol != "modbus_tcp"

    @property
    def host(self) -> str:
        """Host name or address; for a serial line the path of its device."""
        parts = urlsplit(self.endpoint)
        return parts.path if parts.scheme == "serial" else parts.hostname or ""

    @property
    def port(self) -> int:
        """TCP port; 0 for a serial line."""
        parts = urlsplit(self.endpoint)
        return 0 if parts.scheme == "serial" else parts.port or DEFAULT_PORT
