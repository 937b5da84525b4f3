"""What an MQTT connection and its points are. Standard library only: the configuration uses it without any driver.

Sources: MQTT 3.1.1, section 4.7 (topics and wildcards); RFC 6901 (JSON pointer); Eclipse Sparkplug 3.0, section 4.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from protocols.errors import ConfigError, Problem
from protocols.mqtt.topics import TopicTemplate, parse_template

PROTOCOLS = ("mqtt", "sparkplug_b")
REBIRTH = ("auto", "never")
VERSIONS = ("3.1.1", "5")
TIMESTAMP_FORMATS = ("s", "ms", "us", "ns", "iso")
TOPICS_MAX = 100
"""Topic templates of one connection."""

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}

TOPIC_BYTES_MAX = 65_535
"""MQTT 3.1.1, section 4.7.3: a topic is a text of at most 65 535 bytes of UTF-8."""

METRIC_CHARS_MAX = 1_000
SPARKPLUG_NAMESPACE = "spBv1.0"

INTEGER_RANGE: dict[str, tuple[int, int]] = {
    "int8": (-2**7, 2**7 - 1), "uint8": (0, 2**8 - 1), "int16": (-2**15, 2**15 - 1), "uint16": (0, 2**16 - 1),
    "int32": (-2**31, 2**31 - 1), "uint32": (0, 2**32 - 1), "int64": (-2**63, 2**63 - 1), "uint64": (0, 2**64 - 1),
}

JSON_TYPES = ("bool", *INTEGER_RANGE, "float32", "float64", "string", "datetime")
"""Types a JSON value can have. Binary-coded decimals and bytes are no JSON."""

SPARKPLUG_TYPES = (*JSON_TYPES, "bytes")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BAD_ESCAPE = re.compile(r"~(?![01])")
_TRAILING_INDEXES = re.compile(r"(?:/[0-9]+)+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonAddress:
    """One value in the JSON documents of one topic. pointer: RFC 6901; empty is the whole payload."""

    topic: str
    pointer: str

    @property
    def canonical(self) -> str:
        """The frozen text that evidence hashes: TOPIC#/json/pointer."""
        return f"{self.topic}#{self.pointer}"

    @property
    def base(self) -> str:
        """The same without trailing indexes of arrays: the elements of one array have one base."""
        return f"{self.topic}#{_TRAILING_INDEXES.sub('', self.pointer)}"

    @property
    def tokens(self) -> tuple[str, ...]:
        """The steps of the pointer, unescaped."""
        return pointer_tokens(self.pointer)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparkplugAddress:
    """One metric of an edge node, or of a device below it. device: empty for a metric of the node itself."""

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
        """The same text: a metric is one variable."""
        return self.canonical


def pointer_tokens(pointer: str) -> tuple[str, ...]:
    """Return the steps of a JSON pointer, unescaped."""
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


def _is_pointer(text: str) -> bool:
    return text.startswith("/") and not _BAD_ESCAPE.search(text) and not _CONTROL.search(text) and _is_utf8(text)


def parse_json_address(text: str, *, where: str = "") -> JsonAddress:
    """Read `TOPIC#/pointer`, or `TOPIC#` for the whole payload. Raises ConfigError."""
    topic, hash_sign, pointer = text.partition("#")
    args = {"address": text[:200]}
    if not hash_sign or not topic:
        raise ConfigError(Problem.of(where, "mqtt.bad_json_address", **args))
    problems = [Problem.of(where, code, **args) for code in _topic_problems(topic)]
    if pointer and not pointer.startswith("/"):
        # `plant/#/a` and `plant/+/a` are subscriptions to many topics, a point is one value
        code = "mqtt.wildcard" if topic.endswith("/") else "mqtt.bad_pointer"
        problems.append(Problem.of(where, code, **args))
    elif topic.endswith("/") and pointer == "":
        problems.append(Problem.of(where, "mqtt.wildcard", **args))
    if _BAD_ESCAPE.search(pointer) or _CONTROL.search(pointer):
        problems.append(Problem.of(where, "mqtt.bad_pointer", **args))
    if problems:
        raise ConfigError(problems)
    return JsonAddress(topic=topic, pointer=pointer)


def parse_sparkplug_address(text: str, *, where: str = "") -> SparkplugAddress:
    """Read `GROUP/NODE/DEVICE#METRIC`, `GROUP/NODE/#METRIC` for a metric of the node. Raises ConfigError."""
    place, _, metric = text.partition("#")
    names = place.split("/")
    args = {"address": text[:200]}
    if len(names) != 3 or not names[0] or not names[1] or not metric:
        raise ConfigError(Problem.of(where, "mqtt.bad_sparkplug_address", **args))
    problems = [Problem.of(where, code, **args) for code in _topic_problems(place)]
    if _CONTROL.search(metric) or len(metric) > METRIC_CHARS_MAX:
        problems.append(Problem.of(where, "mqtt.bad_metric", max=METRIC_CHARS_MAX, **args))
    if names[0] == "STATE":
        problems.append(Problem.of(where, "mqtt.state_is_no_group", **args))
    if problems:
        raise ConfigError(problems)
    return SparkplugAddress(group=names[0], node=names[1], device=names[2], metric=metric)


def _topic_problems(topic: str) -> Iterator[str]:
    if "+" in topic or "#" in topic:
        yield "mqtt.wildcard"
    if _CONTROL.search(topic) or not _is_utf8(topic) or len(topic.encode("utf-8", "replace")) > TOPIC_BYTES_MAX:
        yield "mqtt.bad_topic"


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttPoint:
    """One value of a plain JSON topic, with the slots of the roster that it fills.

    type: one of JSON_TYPES. Raises: ConfigError for any other.
    """

    point_index: int
    device_index: int
    address: JsonAddress
    type: str
    where: str = ""

    def __post_init__(self) -> None:
        if self.type not in JSON_TYPES:
            raise ConfigError(Problem.of(self.where, "mqtt.bad_json_type", type=self.type or "-",
                                         address=self.address.canonical, types=", ".join(JSON_TYPES)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SparkplugPoint:
    """One metric, with the slots of the roster that it fills.

    type: what the owner expects, one of SPARKPLUG_TYPES, or empty. The birth certificate decides; a difference is told.
    """

    point_index: int
    device_index: int
    address: SparkplugAddress
    type: str = ""
    where: str = ""

    def __post_init__(self) -> None:
        if self.type and self.type not in SPARKPLUG_TYPES:
            raise ConfigError(Problem.of(self.where, "mqtt.bad_sparkplug_type", type=self.type,
                                         address=self.address.canonical, types=", ".join(SPARKPLUG_TYPES)))


Point = MqttPoint | SparkplugPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttEndpoint:
    """One broker as one protocol sees it.

    endpoint: `mqtt://HOST[:PORT]`, or `mqtts://` for TLS.
    password_file: its first line is the password; read at every connect, so that it can be changed while we run.
    ca_file: certificates that may have signed the broker's; None trusts those of the system.
    certificate_file, key_file: shown to a broker that asks who we are.
    mqtt_version: one of VERSIONS.
    client_id: None makes one up for every connection, so that no two gateways push each other off the broker.
    session_expiry_s: how long the broker keeps messages for us while we are away; they are delivered as not live.
    qos: of our subscriptions. topics: templates that take the place of one subscription for each topic.
    timestamp: JSON pointer to the time of a message, None if it carries none; timestamp_format: one of
        TIMESTAMP_FORMATS. keepalive_s: a broker that is silent for longer is lost.
    rebirth: whether edge nodes may be asked for their births; `never` sends nothing.
    primary_host_id: announce ourselves as this Sparkplug host; None sends nothing.
    reorder_s: how long a message that came early waits for those before it.
    silence_s: a node not heard for so long is taken as gone; None trusts its death certificate, as nodes report by
        exception.
    check_s: how long `check` waits for messages.
    Raises: ConfigError with every problem at once.
    """

    name: str
    protocol: str
    endpoint: str
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    mqtt_version: str = "3.1.1"
    client_id: str | None = None
    session_expiry_s: int = 0
    qos: int = 1
    topics: tuple[str, ...] = ()
    timestamp: str | None = None
    timestamp_format: str = "ms"
    rebirth: Literal["auto", "never"] = "auto"
    primary_host_id: str | None = None
    reorder_s: float = 1.0
    silence_s: float | None = None
    timeout_s: float = 10.0
    keepalive_s: int = 20
    check_s: float = 10.0
    where: str = ""

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ConfigError(problems)

    def _problems(self) -> Iterator[Problem]:
        at = self.where or self.name
        if self.protocol not in PROTOCOLS:
            yield Problem.of(at, "mqtt.bad_protocol", protocol=self.protocol, known=", ".join(PROTOCOLS))
        if not self._endpoint_is_good():
            yield Problem.of(at, "mqtt.bad_endpoint", endpoint=self.endpoint)
        elif self.ca_file is not None and not self.tls:
            yield Problem.of(at, "mqtt.ca_without_tls", endpoint=self.endpoint)
        if (self.certificate_file is None) != (self.key_file is None):
            yield Problem.of(at, "mqtt.half_certificate")
        elif self.certificate_file is not None and self._endpoint_is_good() and not self.tls:
            yield Problem.of(at, "mqtt.certificate_without_tls", endpoint=self.endpoint)
        if (self.username is None) != (self.password_file is None):
            yield Problem.of(at, "mqtt.half_credentials")
        if self.client_id is not None and not (0 < len(self.client_id.encode("utf-8", "replace")) <= TOPIC_BYTES_MAX
                                               and not _CONTROL.search(self.client_id) and _is_utf8(self.client_id)):
            yield Problem.of(at, "mqtt.bad_client_id", client_id=self.client_id[:100])
        if self.mqtt_version not in VERSIONS:
            yield Problem.of(at, "mqtt.bad_version", version=self.mqtt_version[:20], known=", ".join(VERSIONS))
        if self.session_expiry_s > 0:
            yield from self._session_problems(at)
        if self.protocol == "sparkplug_b":
            yield from (Problem.of(at, "mqtt.json_only", key=key) for key, value in (
                ("topics", self.topics), ("timestamp", self.timestamp)) if value)
        else:
            yield from self._topic_problems(at)
        if self.rebirth not in REBIRTH:
            yield Problem.of(at, "mqtt.bad_rebirth", rebirth=self.rebirth, known=", ".join(REBIRTH))
        if self.primary_host_id is not None:
            if self.protocol != "sparkplug_b":
                yield Problem.of(at, "mqtt.host_without_sparkplug")
            if not self.primary_host_id or "/" in self.primary_host_id or any(_topic_problems(self.primary_host_id)):
                yield Problem.of(at, "mqtt.bad_host_id", host_id=self.primary_host_id[:100])
        limits: tuple[tuple[str, float, float, float], ...] = (
            ("qos", self.qos, 0, 2), ("timeout_s", self.timeout_s, 0.1, 60), ("keepalive_s", self.keepalive_s, 1, 3600),
            ("check_s", self.check_s, 0.1, 3600), ("session_expiry_s", self.session_expiry_s, 0, 30 * 86_400),
            ("reorder_s", self.reorder_s, 0.05, 60),
            ("silence_s", 1.0 if self.silence_s is None else self.silence_s, 1, 30 * 86_400))
        for key, value, low, high in limits:
            if not low <= value <= high:  # also refuses NaN
                yield Problem.of(at, "mqtt.out_of_range", key=key, value=value, low=f"{low:g}", high=f"{high:g}")

    def _session_problems(self, at: str) -> Iterator[Problem]:
        """MQTT 3.1.1 does not tell what the broker kept from what is live; Sparkplug forbids kept sessions."""
        if self.protocol == "sparkplug_b":
            yield Problem.of(at, "mqtt.json_only", key="session_expiry_s")
        elif self.mqtt_version != "5":
            yield Problem.of(at, "mqtt.session_needs_5")
        if self.client_id is None:
            yield Problem.of(at, "mqtt.session_needs_client_id")
        if self.qos == 0:
            yield Problem.of(at, "mqtt.session_needs_qos")

    def _topic_problems(self, at: str) -> Iterator[Problem]:
        templates: list[TopicTemplate] = []
        if len(self.topics) > TOPICS_MAX:
            yield Problem.of(at, "mqtt.out_of_range", key="topics", value=len(self.topics), low="0", high=TOPICS_MAX)
            return
        for text in self.topics:
            try:
                template = parse_template(text, where=at)
            except ConfigError as error:
                yield from error.problems
                continue
            yield from (Problem.of(at, "mqtt.topics_overlap", topic=text[:200], other=other.text[:200])
                        for other in templates if template.overlaps(other))
            templates.append(template)
        if self.timestamp is not None and not _is_pointer(self.timestamp):
            yield Problem.of(at, "mqtt.bad_timestamp_pointer", pointer=self.timestamp[:200])
        if self.timestamp_format not in TIMESTAMP_FORMATS:
            yield Problem.of(at, "mqtt.bad_timestamp_format", format=self.timestamp_format[:20],
                             known=", ".join(TIMESTAMP_FORMATS))

    def _endpoint_is_good(self) -> bool:
        try:
            parts = urlsplit(self.endpoint)
            port = parts.port
        except ValueError:
            return False
        # A password in a URL would end up in logs and reports.
        return (parts.scheme in DEFAULT_PORTS and bool(parts.hostname) and port != 0 and parts.path in ("", "/")
                and "@" not in parts.netloc and not parts.query and not parts.fragment)

    @property
    def templates(self) -> tuple[TopicTemplate, ...]:
        """The topic templates, parsed."""
        return tuple(parse_template(text) for text in self.topics)

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.endpoint.startswith("mqtts:")

    @property
    def host(self) -> str:
        """Host name or address of the broker."""
        return urlsplit(self.endpoint).hostname or ""

    @property
    def port(self) -> int:
        """TCP port of the broker."""
        parts = urlsplit(self.endpoint)
        return parts.port or DEFAULT_PORTS[parts.scheme]
