"""The gateway's configuration: one TOML file and the asset ledger, checked as a whole before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from config.ledger import Device, bad_uscc, read_ledger
from config.lines import located
from config.loader import Section, parse_toml, validate, without_faults
from config.points import Point, duplicates, overlaps, parsed
from config.template import told_once
from config.web import WebPage, WebTable, web_page
from protocols.errors import ConfigError, Problem
from protocols.modbus.target import TLS_FILES, ModbusEndpoint, UnitSettings
from protocols.mqtt.target import MqttEndpoint
from protocols.opcua.target import OpcUaEndpoint
from protocols.packed import Packed
from protocols.terms import uscc as codes

Endpoint = ModbusEndpoint | OpcUaEndpoint | MqttEndpoint

LOOPBACK = ("127.0.0.1", "localhost", "::1")
WINDOW_POINTS_LONG = 25_000
"""Above this many points the default window is 300 s instead of 60 s."""

COLUMN_BITS_MAX = 360_000
"""Devices + 3 x points of one gateway: the columns of one window must fit one entry (evidence format, section 2)."""

PROBLEMS_MAX = 1000
"""A file that is wrong in every line says so a thousand times, then how many more there are."""


class GatewayTable(Section):
    """[gateway]: whose gateway this is, and where its files are. With templates, points may be left out."""

    site: str = Field(min_length=1, max_length=200)
    uscc: str
    state_dir: str = "state"
    devices: str = "devices.csv"
    points: str = "points.csv"
    templates: str | None = None
    ledger_date: date


class WindowTable(Section):
    """[window]: how counts are cut. `len_s` absent means 60, or 300 above 25 000 points."""

    len_s: int | None = Field(default=None, ge=1, le=3600)
    grace_ms: int = Field(default=2000, ge=0, le=60_000)
    max_source_age_s: int = Field(default=3600, ge=1, le=10 * 365 * 86_400)
    usable: list[Literal["good", "uncertain"]] = Field(default=["good", "uncertain"], min_length=1, max_length=2)


class PlatformTable(Section):
    """[platform]: where evidence is submitted. The table is absent for a plant without a platform.

    register_poll_s: how often the register is asked for proofs of the newest entries while it has none.
    """

    url: str
    ca_file: str | None = None
    proxy: str | None = None
    timeout_s: float = Field(default=30.0, ge=1, le=600)
    register_poll_s: float = Field(default=10.0, ge=1, le=3600)


class LimitsTable(Section):
    """[limits]: what may grow. disk_budget_mb bounds the whole state folder; of it, entries are never deleted."""

    queued_samples: int = Field(default=2_000_000, ge=1000)
    disk_budget_mb: int = Field(default=2048, ge=16)


class ProbingTable(Section):
    """[probing]: challenges to OPC UA servers, and reads at instants that nobody could choose; gateway/probing.

    every_s: a server key is challenged at most so often; max_per_hour: tries included that failed. reads_per_window:
    Modbus and MQTT points read in a drawn window, 0 is none; reads_every_s: how often a window is drawn.
    """

    opcua: bool = True
    every_s: int = Field(default=3600, ge=5, le=86_400)
    max_per_hour: int = Field(default=6, ge=1, le=720)
    reads_per_window: int = Field(default=4, ge=0, le=100)
    reads_every_s: int = Field(default=3600, ge=1, le=86_400)


class IdentityTable(Section):
    """[identity]: what devices show of themselves (nameplates, certificates), held against the ledger.

    read: ask them; every_s: how often, besides once after each start and each change of their connection.
    """

    read: bool = True
    every_s: int = Field(default=86_400, ge=60, le=30 * 86_400)


class KeepTable(Section):
    """[keep]: raw data and transcripts that stay in the factory, for an auditor who asks for an hour later.

    raw: process values are kept on this disk; off unless it is asked for. retain_days: how long each hour is promised.
    budget_mb: how much promised hours may take; when it is used up, new ones are not kept. memory_mb: how much of the
    windows that are open may be held. transcripts_days: how long transcripts of reads are kept.
    """

    raw: bool = False
    retain_days: int = Field(default=30, ge=1, le=3660)
    budget_mb: int = Field(default=1024, ge=1)
    memory_mb: int = Field(default=256, ge=16, le=65_536)
    transcripts_days: int = Field(default=400, ge=1, le=3660)


class InfluxTable(Section):
    """[influx]: a copy of the telemetry for people, off unless this table is there. No count is read back from it."""

    url: str
    org: str = ""
    bucket: str
    token_file: str | None = None
    queue_samples: int = Field(default=100_000, ge=1000)
    batch_samples: int = Field(default=5_000, ge=1, le=50_000)
    timeout_s: float = Field(default=5.0, ge=0.1, le=60)


class OpcUaTable(Section):
    """[[connections]] with protocol = "opc_ua"."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    protocol: Literal["opc_ua"]
    endpoint: str
    security_policy: str = "Basic256Sha256"
    security_mode: str = "SignAndEncrypt"
    allow_insecure: bool = False
    trust_dir: str = "trust"
    username: str | None = None
    password_file: str | None = None
    publishing_interval_ms: int = 500
    idle_read_s: float | None = None
    timeout_s: float = 5.0
    queue_size: int = 10
    server_timestamps: bool = False
    server_device: str | None = None
    user_certificate_file: str | None = None
    user_key_file: str | None = None
    reads: str = "subscription"
    poll_s: float = 1.0
    profile: str = "auto"


class ModbusUnitsTable(Section):
    """[[connections.units]]: what differs for some units behind one Modbus connection."""

    ids: list[int] = Field(min_length=1, max_length=256)
    poll_s: float | None = None
    timeout_s: float | None = None
    max_registers: int | None = None
    max_bits: int | None = None
    max_gap: int | None = None
    pause_ms: int | None = None
    interval_ms: int | None = None
    in_flight: int | None = None


class ModbusTable(Section):
    """[[connections]] with a Modbus protocol."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    protocol: Literal["modbus_tcp", "modbus_tls", "modbus_rtu_over_tcp", "modbus_rtu"]
    endpoint: str
    poll_s: float = 1.0
    timeout_s: float = 1.0
    max_registers: int = 125
    max_bits: int = 2000
    max_gap: int = 8
    pause_ms: int = 0
    interval_ms: int = 0
    in_flight: int = 1
    baudrate: int = 9600
    parity: str = "E"
    stopbits: int = 1
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    units: list[ModbusUnitsTable] = Field(default=[], max_length=256)


class MqttTable(Section):
    """[[connections]] with protocol = "mqtt" or "sparkplug_b"."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    protocol: Literal["mqtt", "sparkplug_b"]
    endpoint: str
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    mqtt_version: Literal["3.1.1", "5"] = "3.1.1"
    client_id: str | None = None
    session_expiry_s: int = 0
    qos: int = 1
    topics: list[str] = Field(default=[], max_length=100)
    timestamp: str | None = None
    timestamp_format: Literal["s", "ms", "us", "ns", "iso"] = "ms"
    rebirth: Literal["auto", "never"] = "auto"
    primary_host_id: str | None = None
    reorder_s: float = 1.0
    silence_s: float | None = None
    timeout_s: float = 10.0
    keepalive_s: int = 20
    check_s: float = 10.0


Connection = Annotated[OpcUaTable | ModbusTable | MqttTable, Field(discriminator="protocol")]


class GatewayFile(Section):
    """The whole TOML file."""

    gateway: GatewayTable
    window: WindowTable = WindowTable()
    platform: PlatformTable | None = None
    limits: LimitsTable = LimitsTable()
    probing: ProbingTable = ProbingTable()
    identity: IdentityTable = IdentityTable()
    keep: KeepTable = KeepTable()
    influx: InfluxTable | None = None
    web: WebTable | None = None
    connections: list[Connection] = Field(min_length=1, max_length=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """All that the gateway needs to know, checked. Paths are absolute; `endpoints` by connection name."""

    file: Path
    devices_file: Path
    points_file: Path | None
    templates_file: Path | None
    site: str
    uscc: str
    state_dir: Path
    ledger_date: str
    ledger_sha256: str
    window: WindowTable
    len_s: int
    platform: PlatformTable | None
    platform_ca: Path | None
    limits: LimitsTable
    probing: ProbingTable
    identity: IdentityTable
    keep: KeepTable
    influx: InfluxTable | None
    web: WebPage | None
    endpoints: dict[str, Endpoint]
    protocols: dict[str, str]
    server_devices: dict[str, str]
    devices: tuple[Device, ...]
    points: Sequence[Point]


def load_gateway(path: Path) -> GatewayConfig:
    """Read and check everything. Raises ConfigError with every problem of the TOML file and of both CSV files."""
    tables, problems = parse_toml(path)
    if tables is None:
        raise ConfigError(problems)
    base = path.resolve().parent
    file = path.name
    raw, problems = validate(tables, GatewayFile, file)
    if raw is None:  # go on with what is right: one round of mending less
        raw = without_faults(tables, GatewayFile)
    if raw is None:
        problems += _ledger_problems_alone(tables, base)
        raise ConfigError(_limited(located(problems, path), file))
    problems += _table_problems(file, base, raw)
    names = [connection.name for connection in raw.connections]
    protocols = {connection.name: connection.protocol for connection in raw.connections}
    points_file, templates_file = _ledger_files(base, raw.gateway)
    ledger, found = read_ledger(base / raw.gateway.devices, points_file, frozenset(names), templates_file)
    problems += found
    device_protocol = {device.id: protocols[device.connection] for device in ledger.devices}
    points: list[Point] = []
    wrong: list[tuple[str, Problem]] = []
    for row in ledger.points:
        if row.device in device_protocol:
            point, found = parsed(row, device_protocol[row.device])
            wrong += [(row.template, problem) for problem in found]
            points += [point] if point else []
    wrong += overlaps(points)
    wrong += duplicates(points, {device.id: device.connection for device in ledger.devices})
    problems += told_once(wrong, Counter(row.template for row in ledger.points))
    if len(ledger.devices) + 3 * len(points) > COLUMN_BITS_MAX:
        problems.append(Problem.of(file, "config.too_many_bits", devices=len(ledger.devices), points=len(points),
                                   limit=COLUMN_BITS_MAX))
    len_s = raw.window.len_s or (300 if len(points) > WINDOW_POINTS_LONG else 60)
    endpoints: dict[str, Endpoint] = {}
    for index, connection in enumerate(raw.connections):
        where = f"{file}, connections[{index}]"
        try:
            endpoints[connection.name] = _endpoint(connection, where, base, base / raw.gateway.state_dir, len_s)
        except ConfigError as error:
            problems += error.problems
        problems += _taken_already(endpoints, connection.name, where)
        owner = connection.server_device if isinstance(connection, OpcUaTable) else None
        if owner is not None and owner not in device_protocol:
            problems.append(Problem.of(f"{where}.server_device", "ledger.unknown_device", value=owner, near="-"))
    page, found = web_page(raw.web, f"{file}, web") if raw.web else (None, [])
    problems += found
    if problems:
        raise ConfigError(_limited(located(problems, path), file))
    return GatewayConfig(
        file=path.resolve(), devices_file=base / raw.gateway.devices, points_file=points_file,
        templates_file=templates_file,
        site=raw.gateway.site, uscc=raw.gateway.uscc, state_dir=base / raw.gateway.state_dir,
        ledger_date=raw.gateway.ledger_date.isoformat(), ledger_sha256=ledger.sha256, window=raw.window, len_s=len_s,
        platform=raw.platform,
        platform_ca=base / raw.platform.ca_file if raw.platform and raw.platform.ca_file else None,
        limits=raw.limits, probing=raw.probing, identity=raw.identity, keep=raw.keep,
        influx=raw.influx, web=page, endpoints=endpoints,
        protocols=dict(protocols),
        server_devices={c.name: c.server_device for c in raw.connections
                        if isinstance(c, OpcUaTable) and c.server_device},
        devices=ledger.devices, points=Packed(points))


def _ledger_files(base: Path, table: GatewayTable) -> tuple[Path | None, Path | None]:
    """Return the files of points and of templates; templates alone will do where nobody named or wrote points.csv."""
    templates = None if table.templates is None else base / table.templates
    points = base / table.points
    if templates is not None and "points" not in table.model_fields_set and not points.exists():
        return None, templates
    return points, templates


def _limited(problems: list[Problem], file: str) -> list[Problem]:
    if len(problems) <= PROBLEMS_MAX:
        return problems
    return [*problems[:PROBLEMS_MAX], Problem.of(file, "config.more_problems", more=len(problems) - PROBLEMS_MAX)]


def _ledger_problems_alone(tables: dict[str, Any], base: Path) -> list[Problem]:
    """Check the ledger although the TOML file cannot be used, with what can be read of it."""
    written = tables.get("gateway")
    gateway = written if isinstance(written, dict) else {}
    files = {key: gateway.get(key, default)
             for key, default in (("devices", "devices.csv"), ("points", "points.csv"), ("templates", None))}
    listed = tables.get("connections")
    found = [table.get("name") if isinstance(table, dict) else None for table in listed] \
        if isinstance(listed, list) else [None]
    names = frozenset(name for name in found if isinstance(name, str))
    if not all(isinstance(name, str) for key, name in files.items() if key != "templates" or name is not None):
        return []
    table = GatewayTable.model_construct({key for key in files if key in gateway}, **files)
    points, templates = _ledger_files(base, table)
    problems = read_ledger(base / table.devices, points, names, templates)[1]
    # A connection whose name cannot be read is not the fault of the rows that refer to it.
    return [p for p in problems if p.code != "ledger.unknown_connection" or len(names) == len(found)]


def _table_problems(file: str, base: Path, raw: GatewayFile) -> Iterator[Problem]:
    """What is wrong in the TOML file beyond the types of its values."""
    if not raw.gateway.uscc:
        yield Problem.of(f"{file}, gateway.uscc", "config.uscc_empty")
    elif not codes.is_valid(raw.gateway.uscc):
        yield bad_uscc(f"{file}, gateway.uscc", raw.gateway.uscc)
    if raw.window.len_s is not None and 3600 % raw.window.len_s:
        yield Problem.of(f"{file}, window.len_s", "config.window_len", value=raw.window.len_s)
    if len(set(raw.window.usable)) < len(raw.window.usable):
        yield Problem.of(f"{file}, window.usable", "config.bad_value", value=raw.window.usable, reason="twice the same")
    if raw.keep.raw and raw.keep.budget_mb > raw.limits.disk_budget_mb:
        yield Problem.of(f"{file}, keep.budget_mb", "keep.budget", value=raw.keep.budget_mb,
                         limit=raw.limits.disk_budget_mb)
    yield from _url_problems(file, raw)
    names = [connection.name for connection in raw.connections]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield Problem.of(f"{file}, connections", "config.double_name", name=name)
    named = []
    if raw.platform:
        named.append(("platform", "ca_file", raw.platform.ca_file))
    if raw.influx:
        named.append(("influx", "token_file", raw.influx.token_file))
    for index, table in enumerate(raw.connections):
        if not isinstance(table, ModbusTable):
            named.append((f"connections[{index}]", "password_file", table.password_file))
        if isinstance(table, OpcUaTable):
            named += [(f"connections[{index}]", key, getattr(table, key))
                      for key in ("user_certificate_file", "user_key_file")]
        if isinstance(table, MqttTable):
            named += [(f"connections[{index}]", key, getattr(table, key)) for key in TLS_FILES]
        if isinstance(table, ModbusTable):
            named += [(f"connections[{index}]", key, getattr(table, key)) for key in TLS_FILES]
    for place, key, path in named:
        if path is not None and not _is_file(base, path):
            yield Problem.of(f"{file}, {place}.{key}", "config.named_file", value=path[:200])


def _is_file(base: Path, name: str) -> bool:
    try:
        return (base / name).is_file()
    except ValueError:  # a NUL in the name
        return False


def _url_problems(file: str, raw: GatewayFile) -> Iterator[Problem]:
    """Plain HTTP only to this machine: counts are no secret, but a proxy in between could hold them back unseen."""
    urls = []
    if raw.platform:
        urls += [("platform", "url", raw.platform.url), ("platform", "proxy", raw.platform.proxy)]
    if raw.influx:
        urls.append(("influx", "url", raw.influx.url))
    for table, key, url in urls:
        if url is None:
            continue
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, half an IPv6 address
            good = False
        if not good:
            yield Problem.of(f"{file}, {table}.{key}", "config.bad_url", value=url[:200])
        elif (table, key) == ("platform", "url") and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            yield Problem.of(f"{file}, {table}.{key}", "config.plain_http", value=url[:200])


def _endpoint(table: OpcUaTable | ModbusTable | MqttTable, where: str, base: Path, state: Path, len_s: int) -> Endpoint:
    def path(text: str | None) -> Path | None:
        return None if text is None else base / text

    if isinstance(table, OpcUaTable):
        endpoint = OpcUaEndpoint(
            name=table.name, url=table.endpoint, security_policy=table.security_policy,
            security_mode=table.security_mode, allow_insecure=table.allow_insecure, pki_dir=state / "pki",
            trust_dir=base / table.trust_dir, username=table.username, password_file=path(table.password_file),
            publishing_interval_ms=table.publishing_interval_ms,
            # A silent device must be asked within every window, whatever the phase: a third of it is soon enough.
            idle_read_s=table.idle_read_s or max(len_s / 3, 0.5), timeout_s=table.timeout_s,
            queue_size=table.queue_size, server_timestamps=table.server_timestamps,
            user_certificate_file=path(table.user_certificate_file),
            user_key_file=path(table.user_key_file), reads=table.reads, poll_s=table.poll_s, profile=table.profile,
            takeover_file=state / "opcua" / f"{table.name}.json")
        problems = endpoint.problems(where)
        if problems:
            raise ConfigError(problems)
        return endpoint
    if isinstance(table, ModbusTable):
        settings = table.model_dump(exclude={"units", *TLS_FILES})
        units = tuple(UnitSettings(**{**unit.model_dump(), "ids": tuple(unit.ids)}) for unit in table.units)
        files: dict[str, Any] = {key: path(getattr(table, key)) for key in TLS_FILES}
        return ModbusEndpoint(**settings, **files, units=units, where=where)
    return MqttEndpoint(
        name=table.name, protocol=table.protocol, endpoint=table.endpoint, username=table.username,
        password_file=path(table.password_file), ca_file=path(table.ca_file),
        certificate_file=path(table.certificate_file), key_file=path(table.key_file), mqtt_version=table.mqtt_version,
        client_id=table.client_id, session_expiry_s=table.session_expiry_s, qos=table.qos, topics=tuple(table.topics),
        timestamp=table.timestamp, timestamp_format=table.timestamp_format, rebirth=table.rebirth,
        primary_host_id=table.primary_host_id, reorder_s=table.reorder_s, silence_s=table.silence_s,
        timeout_s=table.timeout_s, keepalive_s=table.keepalive_s, check_s=table.check_s, where=where)


def _taken_already(endpoints: dict[str, Endpoint], name: str, where: str) -> Iterator[Problem]:
    """Two masters on one Modbus line disturb each other, and many devices take one connection only."""
    own = endpoints.get(name)
    if isinstance(own, ModbusEndpoint):
        for other in endpoints.values():
            if isinstance(other, ModbusEndpoint) and other.name != name \
                    and (other.host.lower(), other.port) == (own.host.lower(), own.port):
                yield Problem.of(f"{where}.endpoint", "modbus.double_endpoint", endpoint=own.endpoint, first=other.name)
