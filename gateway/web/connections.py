"""One row for each connection: what protects it, who answers behind it, and how far its server's clock is off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

from config.gateway import Endpoint
from gateway.web.facts import NS_PER_S, Facts
from gateway.web.index import Index
from protocols.modbus.target import ModbusEndpoint
from protocols.mqtt.target import MqttEndpoint
from protocols.opcua.target import OpcUaEndpoint

ROWS = 50
CLOCK_OFF_S = 5.0
"""A server whose clock is further off is marked, as the driver of OPC UA tells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How a connection is protected: a code of tallystick/words. is_secured: nobody in between can read or change."""

    code: str
    detail: str
    is_secured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRow:
    """devices = answering + silent. not_counted: None before the first window. heard_s: newest answer of any device.

    server: SPKI digest of the server, hex, None where it showed none. offset_s: its clock minus ours, None if unknown.
    """

    name: str
    protocol: str
    endpoint: str
    security: Security
    devices: int
    answering: int
    not_counted: int | None
    heard_s: int | None
    server: str | None
    offset_s: float | None

    @property
    def silent(self) -> int:
        """Devices that do not answer now."""
        return self.devices - self.answering

    @property
    def is_clock_off(self) -> bool:
        """Whether the server's clock is too far from ours."""
        return self.offset_s is not None and abs(self.offset_s) > CLOCK_OFF_S


def connection_rows(facts: Facts, index: Index) -> list[ConnectionRow]:
    """Return every connection, in the order of the file."""
    answering = facts.answering()
    not_counted = None
    if facts.figures is not None:
        not_counted = np.zeros(answering.size, dtype=np.bool_)
        not_counted[[slot for slot in facts.figures.reasons if slot < answering.size]] = True
    rows = []
    for name, slots in index.slots.items():
        endpoint = facts.config.endpoints[name]
        heard_s = int(facts.heard_ns[slots].max()) // NS_PER_S if slots.size else 0
        rows.append(ConnectionRow(
            name=name, protocol=facts.config.protocols[name], endpoint=address_of(endpoint),
            security=security_of(endpoint), devices=int(slots.size), answering=int(answering[slots].sum()),
            not_counted=None if not_counted is None else int(not_counted[slots].sum()), heard_s=heard_s or None,
            server=facts.servers.get(name), offset_s=facts.offsets.get(name)))
    return rows


def worst_first(rows: Sequence[ConnectionRow]) -> list[ConnectionRow]:
    """Return the rows with those first behind which somebody is silent or does not count."""
    return sorted(rows, key=lambda row: (row.silent == 0 and not row.is_clock_off, not row.not_counted))


def address_of(endpoint: Endpoint) -> str:
    """Return where the connection leads, without a name or password that somebody may have written into it."""
    url = endpoint.url if isinstance(endpoint, OpcUaEndpoint) else endpoint.endpoint
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else url


def security_of(endpoint: Endpoint) -> Security:
    """Return what protects a connection, by its configuration."""
    if isinstance(endpoint, OpcUaEndpoint):
        if endpoint.is_secured:
            return Security(code="web.security.opcua", is_secured=True,
                            detail=f"{endpoint.security_policy} {endpoint.security_mode}")
        return Security(code="web.security.allowed_none", detail="None", is_secured=False)
    scheme = address_of(endpoint).partition(":")[0]
    if isinstance(endpoint, ModbusEndpoint):
        if endpoint.protocol == "modbus_tls":
            return Security(code="web.security.mutual_tls", detail="TLS", is_secured=True)
        code = "web.security.serial" if scheme == "serial" else "web.security.protocol_none"
        return Security(code=code, detail="-", is_secured=False)
    assert isinstance(endpoint, MqttEndpoint)
    if scheme == "mqtts":
        return Security(code="web.security.tls", detail="TLS", is_secured=True)
    return Security(code="web.security.plain_mqtt", detail="-", is_secured=False)
