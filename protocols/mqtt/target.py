"""What an MQTT connection and its points are. Standard library only: the configuration uses it without any driver.

Source: MQTT 3.1.1, 4.7 (topic names); RFC 6901 (JSON pointer); Sparkplug 3.0, 4.1 (group, edge node, device ids).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from protocols.errors import ConfigError, Problem

TOPIC_BYTES_MAX = 65_535
ADDRESS_CHARS_MAX = 2_048
PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonAddress:
    """One value inside JSON payloads of one topic. `pointer` is RFC 6901; empty means the whole payload."""

    topic: str
    pointer: str

    @property
    def canonical(self) -> str:
        """The frozen text that evidence hashes."""
        return f"{self.topic}#{self.pointer}"

    @property
    def base(self) -> str:
        """Without the trailing all-digit segments: elements of one array have one base."""
        return f"{self.topic}#" + re.sub(r"(?:/[0-9]+)+\Z", "", self.pointer)

    @property
    def segments(self) -> tuple[str, ...]:
        """The pointer's reference tokens, unescaped."""
        return tuple(part.replace("~1", "/").replace("~0", "~") for part in self.pointer.split("/")[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class SparkplugAddress:
    """One metric of one Sparkplug device; `device` is empty for a metric of the edge node itself."""

    group: str
    node: str
    device: str
    metric: str

    @property
    def canonical(self) -> str:
        """The frozen text that evidence hashes: GROUP/NODE/DEVICE#METRIC."""
        return f"{self.group}/{self.node}/{self.device}#{self.metric}"

    @property
    def base(self) -> str:
        """A metric has no parts: the same as `canonical`."""
        return self.canonical


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonPoint:
    """One point read from JSON payloads."""

    point_index: int
    device_index: int
    address: JsonAddress
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparkplugPoint:
    """One point read from Sparkplug payloads."""

    point_index: int
    device_index: int
    address: SparkplugAddress
    type: str = ""


MqttPoint = JsonPoint | SparkplugPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttEndpoint:
    """One broker and how to speak with it. Names and meanings as in `[[connections]]` of gateway.toml.

    endpoint: `mqtt://HOST:PORT` or `mqtts://HOST:PORT`. password_file is read at each connect.
    rebirth: whether an edge node that lost its order is asked for a new birth. primary_host_id: publish STATE.
    Raises: ConfigError with every problem at once.
    """

    name: str
    protocol: Literal["mqtt", "sparkplug_b"]
    endpoint: str
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    client_id: str | None = None
    qos: int = 1
    rebirth: Literal["auto", "never"] = "auto"
    primary_host_id: str | None = None
    timeout_s: float = 5.0
    where: str = ""

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ConfigError(problems)

    def _problems(self) -> Iterator[Problem]:
        at = self.where or self.name
        try:
            parts = urlsplit(self.endpoint)
            good = parts.scheme in PORTS and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc \
                and parts.path in ("", "/")
        except ValueError:
            good = False
        if not good:
            yield Problem.of(at, "mqtt.bad_endpoint", endpoint=self.endpoint)
        if self.qos not in (0, 1, 2):
            yield Problem.of(at, "mqtt.bad_qos", qos=self.qos)
        if (self.username is None) != (self.password_file is None):
            yield Problem.of(at, "mqtt.half_login")
        if self.protocol == "mqtt" and self.primary_host_id is not None:
            yield Problem.of(at, "mqtt.host_id_unused")
        if self.primary_host_id is not None and not _is_level(self.primary_host_id):
            yield Problem.of(at, "mqtt.bad_host_id", host_id=self.primary_host_id)
        if not 0.1 <= self.timeout_s <= 60:
            yield Problem.of(at, "mqtt.out_of_range", key="timeout_s", value=self.timeout_s, low=0.1, high=60)

    @property
    def host(self) -> str:
        """Host name or address of the broker."""
        return urlsplit(self.endpoint).hostname or ""

    @property
    def port(self) -> int:
        """TCP port, 1883 or with TLS 8883 by default."""
        parts = urlsplit(self.endpoint)
        return parts.port or PORTS[parts.scheme]

    @property
    def is_secured(self) -> bool:
        """Whether the connection is TLS."""
        return urlsplit(self.endpoint).scheme == "mqtts"


def parse_json_address(text: str, *, where: str = "") -> JsonAddress:
    """Read `TOPIC#/json/pointer`. Raises ConfigError `mqtt.bad_address`, `mqtt.wildcard` or `mqtt.bad_pointer`."""
    topic, found, pointer = text.partition("#")
    if not found or not topic or not _is_clean(text) or len(topic.encode()) > TOPIC_BYTES_MAX:
        raise ConfigError(Problem.of(where, "mqtt.bad_address", address=text[:200]))
    if "+" in topic or pointer.startswith("#"):
        raise ConfigError(Problem.of(where, "mqtt.wildcard", address=text[:200]))
    if pointer and not re.fullmatch(r"(?:/(?:[^~/]|~[01])*)+", pointer):
        raise ConfigError(Problem.of(where, "mqtt.bad_pointer", pointer=pointer[:200]))
    return JsonAddress(topic=topic, pointer=pointer)


def parse_sparkplug_address(text: str, *, where: str = "") -> SparkplugAddress:
    """Read `GROUP/NODE/DEVICE#METRIC`, DEVICE empty for node metrics. Raises ConfigError `mqtt.bad_sparkplug`."""
    path, found, metric = text.partition("#")
    parts = path.split("/")
    if not found or not metric or len(parts) != 3 or not _is_clean(text) or not _is_level(parts[0]) \
            or not _is_level(parts[1]) or (parts[2] and not _is_level(parts[2])):
        raise ConfigError(Problem.of(where, "mqtt.bad_sparkplug", address=text[:200]))
    return SparkplugAddress(group=parts[0], node=parts[1], device=parts[2], metric=metric)


def _is_clean(text: str) -> bool:
    return len(text) <= ADDRESS_CHARS_MAX and not any(ord(c) < 0x20 or 0xD800 <= ord(c) <= 0xDFFF for c in text)


def _is_level(text: str) -> bool:
    return bool(text) and not set(text) & set("+#/") and _is_clean(text)
