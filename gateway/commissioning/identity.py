"""Who devices say they are: what they and their servers show, held against the ledger and against each other.

Reads only. A contradiction is a finding for a person and stops nothing: a ledger is more often wrong than a plant is
forged. What a device shows of its own, and nothing contradicts, goes into the roster (`confirmed`).
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from config.gateway import GatewayConfig
from config.ledger import Device
from config.points import of_devices
from gateway.commissioning.connect import Driver
from protocols import system
from protocols.errors import Problem
from protocols.evidence.roster import normalise, tag_values
from protocols.modbus.target import ModbusAddress, ModbusEndpoint
from protocols.mqtt.target import SparkplugAddress
from protocols.opcua.target import OpcUaEndpoint
from protocols.terms.nameplate import agree, contradictions

SERIAL_CHARS_MIN = 5
"""A shorter serial number, such as 1, is nobody's alone."""

DIFFERS = {"maker": "identity.maker_differs", "model": "identity.model_differs", "serial": "identity.serial_differs",
           "product_instance_uri": "identity.uri_differs", "mac": "identity.mac_differs"}
TEXT_CHARS_MAX = 200
NAMED_MAX = 8
"""So many devices of one finding are named; the rest is a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What the server of a connection shows; empty where it shows nothing. key: digest of its public key."""

    certificate_sha256: str = ""
    application_uri: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was seen of one device; empty where there is nothing to see.

    plate: `vendor_name`, `product_code`, `model_name`, `serial_number`, `object_N` and so on, as the device says them.
    mac: of the interface at its address. unit: its Modbus unit, if it has only one. place: where a Modbus unit is
    reached, ADDRESS:PORT/UNIT. edge_node: GROUP/NODE/DEVICE of Sparkplug.
    """

    device: str
    connection: str
    plate: Mapping[str, str] = field(default_factory=dict)
    product_instance_uri: str = ""
    mac: str = ""
    unit: str = ""
    place: str = ""
    edge_node: str = ""
    server: Server = Server()

    def shown(self) -> dict[str, str]:
        """Return everything that is known, by name."""
        facts = {**self.plate, "product_instance_uri": self.product_instance_uri, "mac": self.mac, "unit": self.unit,
                 "place": self.place, "edge_node": self.edge_node,
                 "server_certificate_sha256": self.server.certificate_sha256,
                 "server_application_uri": self.server.application_uri, "server_key_sha256": self.server.key}
        return {name: text for name, text in sorted(facts.items()) if text}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not fit. devices: local ids; for servers the names of their connections."""

    code: str
    devices: tuple[str, ...]
    args: tuple[tuple[str, str], ...]


# Gathering


async def gather(config: GatewayConfig, name: str, driver: Driver, slots: Mapping[str, int]) -> list[Facts]:
    """Read what the devices of a connection show, on the connection that is there, else on one of its own.

    slots: local id -> device slot. Raises: DeviceError if there is no connection.
    """
    endpoint = config.endpoints[name]
    mine = dict.fromkeys(device.id for device in config.devices if device.connection == name)
    if isinstance(endpoint, OpcUaEndpoint):
        return await _opcua(endpoint, name, driver, {slots[id_]: id_ for id_ in mine})
    if isinstance(endpoint, ModbusEndpoint):
        return await _modbus(config, endpoint, name, driver, {slots[id_]: id_ for id_ in mine})
    nodes = _one_each((p.device, f"{p.address.group}/{p.address.node}/{p.address.device}")
                      for p in of_devices(config.points, mine) if isinstance(p.address, SparkplugAddress))
    return [Facts(device=id_, connection=name, edge_node=nodes[id_]) for id_ in mine if nodes.get(id_)]


async def _opcua(endpoint: OpcUaEndpoint, name: str, driver: Any, ids: Mapping[int, str]) -> list[Facts]:
    plates = await driver.identify()
    certificate = driver.server_certificate()
    server = Server()
    if certificate is not None:
        from protocols.opcua.pki import application_uri  # a library that only OPC UA needs

        server = Server(certificate_sha256=hashlib.sha256(certificate).hexdigest(),
                        application_uri=_text(application_uri(certificate)), key=driver.server_spki_sha256() or "")
    mac = await _mac(urlsplit(endpoint.url).hostname or "")
    return [Facts(
        device=ids[plate.device_index], connection=name, server=server, mac=mac,
        plate=_texts({"vendor_name": plate.manufacturer, "model_name": plate.model,
                      "serial_number": plate.serial_number}),
        product_instance_uri=_text(plate.product_instance_uri)) for plate in plates if plate.device_index in ids]


async def _modbus(config: GatewayConfig, endpoint: ModbusEndpoint, name: str, driver: Any,
                  ids: Mapping[int, str]) -> list[Facts]:
    plates = await driver.identities()
    units = _one_each((p.device, str(p.address.unit)) for p in of_devices(config.points, {*ids.values()})
                      if isinstance(p.address, ModbusAddress))
    is_serial = endpoint.protocol == "modbus_rtu"
    address = "" if is_serial else await _address(endpoint.host)
    mac = system.neighbours().get(address, "")
    server = Server(key=driver.server_spki_sha256() or "")
    found = []
    for slot, id_ in ids.items():
        unit = units.get(id_, "")
        place = f"{address}:{endpoint.port}/{unit}" if address and unit else ""
        found.append(Facts(device=id_, connection=name, plate=_texts(plates.get(slot, {})), mac=mac, unit=unit,
                           place=place, server=server))
    return found


def _one_each(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return device -> its text, for devices that have only one."""
    found: dict[str, set[str]] = {}
    for device, text in pairs:
        found.setdefault(device, set()).add(text)
    return {device: next(iter(texts)) for device, texts in found.items() if len(texts) == 1}


async def _mac(host: str) -> str:
    return system.neighbours().get(await _address(host), "")


async def _address(host: str) -> str:
    """Return the address that a name stands for now; empty if it stands for none."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ""
    return str(found[0][4][0]) if found else ""


def _text(said: str) -> str:
    return "".join(c for c in said if c.isprintable()).strip()[:TEXT_CHARS_MAX]


def _texts(plate: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, said in plate.items() if (text := _text(said))}


# Judging. Pure.


def findings(config: GatewayConfig, facts: Sequence[Facts]) -> list[Finding]:
    """Return what devices contradict of the ledger, and which of them seem to be one; in the order of the ledger."""
    by_device = {seen.device: seen for seen in facts}
    found = [finding for device in config.devices if device.id in by_device
             for finding in _differences(device, by_device[device.id])]
    return [*found, *_same_devices(config.devices, by_device), *_same_servers(facts)]


def _differences(device: Device, seen: Facts) -> Iterator[Finding]:
    differing = [(c.fact, c.device, c.ledger) for c in contradictions(
        seen.plate, maker=device.maker, model=device.model, serial=device.serial)]
    differing += [(fact, said, ledger) for fact, said, ledger in (
        ("product_instance_uri", seen.product_instance_uri, device.product_instance_uri),
        ("mac", seen.mac, device.mac)) if said and ledger and normalise(said) != normalise(ledger)]
    for fact, said, ledger in differing:
        yield Finding(DIFFERS[fact], (device.id,), Problem.of(
            "", "", device=device.id, shown=said, ledger=ledger).args)


def _same_devices(devices: Sequence[Device], facts: Mapping[str, Facts]) -> Iterator[Finding]:
    """Yield groups of devices that show, or are declared with, one identity: several names of one machine."""
    serials = _serials(devices, facts.values())
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for device in devices:
        for key, text in _keys(device, facts.get(device.id), serials).items():
            groups.setdefault(key, {})[device.id] = text
    by_id = {device.id: device for device in devices}
    told: dict[tuple[str, ...], list[str]] = {}
    for (fact, _), members in groups.items():
        group = tuple(members)
        if len(group) > 1 and not _is_family([by_id[id_] for id_ in group]) and (
                fact not in ("place", "edge_node") or len({by_id[id_].connection for id_ in group}) > 1):
            told.setdefault(group, []).append(f"{fact} {members[group[0]]}")
    for group, shared in told.items():
        yield Finding("identity.same_device", group, Problem.of(
            "", "", devices=_named(group), shared="; ".join(dict.fromkeys(shared))).args)


def _keys(device: Device, seen: Facts | None, serials: frozenset[str]) -> dict[tuple[str, str], str]:
    """Return (fact, comparable text) -> the text as people know it, of everything that is one machine's alone."""
    written = {"serial": device.serial, "asset": device.asset, "vaa": device.vaa, "handle": device.handle,
               "product_instance_uri": device.product_instance_uri, "mac_unit": f"{device.mac} {device.unit}"}
    keys = {(scheme, value): written[scheme] for scheme, value in tag_values(_declared(device)).items()}
    texts = [device.serial]
    if seen is not None:
        texts += [text for name, text in seen.plate.items() if name == "serial_number" or name.startswith("object_")]
        if seen.product_instance_uri:
            keys["product_instance_uri", normalise(seen.product_instance_uri)] = seen.product_instance_uri
        if seen.mac and seen.unit:
            keys["mac_unit", f"{normalise(seen.mac)}|{normalise(seen.unit)}"] = f"{seen.mac} {seen.unit}"
        keys |= {(fact, text): text for fact, text in (("place", seen.place), ("edge_node", seen.edge_node)) if text}
    return keys | {("serial", normalise(text)): text for text in texts if normalise(text) in serials}


def _serials(devices: Sequence[Device], facts: Iterable[Facts]) -> frozenset[str]:
    """Return the serial numbers, normalised, that may be compared between devices: stated as such, and not too short.

    A private object of Modbus is taken for one only if it equals one of these.
    """
    stated = [device.serial for device in devices] + [seen.plate.get("serial_number", "") for seen in facts]
    return frozenset(text for text in map(normalise, stated)
                     if len(text) >= SERIAL_CHARS_MIN and any(c.isdigit() for c in text) and text.strip("0"))


def _is_family(group: Sequence[Device]) -> bool:
    """Return whether the ledger says already why several rows show one identity: their controller is their parent."""
    ids = {device.id for device in group}
    heads = [device for device in group if device.parent not in ids]
    if len(heads) == 1 and all(device.parent == heads[0].id for device in group if device is not heads[0]):
        return True
    return len({device.parent for device in group}) == 1 and group[0].parent is not None


def _same_servers(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Yield connections that reach one server by several addresses."""
    groups: dict[tuple[str, str], dict[str, None]] = {}
    for seen in facts:
        for fact, text in (("certificate", seen.server.certificate_sha256), ("key", seen.server.key),
                           ("application_uri", seen.server.application_uri)):
            if text:
                groups.setdefault((fact, text), {})[seen.connection] = None
    told: dict[tuple[str, ...], str] = {}
    for (fact, text), members in groups.items():
        if len(members) > 1:
            told.setdefault(tuple(members), f"{fact} {text}")
    for group, shared in told.items():
        yield Finding("identity.same_server", group, Problem.of("", "", connections=_named(group), shared=shared).args)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED_MAX]) + (f", ... ({len(names)})" if len(names) > NAMED_MAX else "")


def _declared(device: Device) -> dict[str, Any]:
    return {"maker": device.maker, "model": device.model, "serial": device.serial, "asset": device.asset,
            "identifiers": {"product_instance_uri": device.product_instance_uri, "vaa": device.vaa,
                            "handle": device.handle, "mac": device.mac, "unit": device.unit}}


def confirmed(config: GatewayConfig, facts: Sequence[Facts], found: Sequence[Finding]) -> dict[str, dict[str, str]]:
    """Return device -> identifiers that it shows itself: those of the ledger that it confirms, and those it adds.

    What two devices show is nobody's own, and a device that contradicts its row in anything adds nothing to it.
    """
    doubtful = {id_ for finding in found if finding.code != "identity.same_server" for id_ in finding.devices}
    shared = _shared(facts)
    devices = {device.id: device for device in config.devices}
    result: dict[str, dict[str, str]] = {}
    for seen in facts:
        device = devices.get(seen.device)
        if device is None or device.id in doubtful:
            continue
        own = dict(_own(device, seen, shared))
        if own:
            result[device.id] = own
    return result


def _own(device: Device, seen: Facts, shared: frozenset[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield (identifier, text) as the roster is to have it: the ledger's words where the ledger has any."""
    stated = seen.plate.get("serial_number", "")
    texts = [stated] if stated else [text for name, text in seen.plate.items() if name.startswith("object_")]
    if device.serial:
        if (stated and agree(stated, device.serial)) or normalise(device.serial) in map(normalise, texts):
            yield "serial", device.serial
    elif stated and device.maker and device.model and ("serial", normalise(stated)) not in shared:
        yield "serial", stated
    uri = seen.product_instance_uri
    if uri and ("product_instance_uri", normalise(uri)) not in shared:
        yield "product_instance_uri", device.product_instance_uri or uri
    if seen.mac and seen.unit and ("mac_unit", f"{seen.mac}|{seen.unit}") not in shared:
        if device.mac and normalise(device.unit) == normalise(seen.unit):
            yield "mac", device.mac
        elif not device.mac and not device.unit:
            yield "mac", seen.mac
            yield "unit", seen.unit


def _shared(facts: Sequence[Facts]) -> frozenset[tuple[str, str]]:
    """Return (fact, text) that more than one device shows."""
    once: set[tuple[str, str]] = set()
    twice: set[tuple[str, str]] = set()
    for seen in facts:
        shown = {("serial", normalise(seen.plate.get("serial_number", ""))),
                 ("product_instance_uri", normalise(seen.product_instance_uri)),
                 ("mac_unit", f"{seen.mac}|{seen.unit}")}
        twice |= once & shown
        once |= shown
    return frozenset(twice)
