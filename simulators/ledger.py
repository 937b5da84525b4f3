"""What an engineer would have written about a plant, and what is true about it: CSV, TOML and plant.json. Pure.

The ledger (devices.csv, points.csv, connections.toml) is what the gateway is configured from; it lists the dead
device, the heartbeat and both entries of the machine that is reached twice like any other. plant.json holds the true
counts, computed from the layout; nobody but a person or a test reads it.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from simulators.layout import Device, Layout, ModbusPlace, Point, nameplates
from simulators.signals import CHANGE_HORIZON_S, Moves

DEVICE_COLUMNS = ("id", "name", "maker", "model", "serial", "asset", "class", "industry", "uscc", "region", "thing",
                  "deployment", "energy", "parent", "connection", "product_instance_uri", "vaa", "handle", "mac")
POINT_COLUMNS = ("device", "id", "address", "type", "role", "order", "scale", "offset")
NOT_COUNTED_REASONS = ("no_valid_data", "heartbeat_only", "duplicate_identity")
"""The reasons that a simulated plant can produce, in the order in which they are decided."""

COUNTED = "counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a running plant is reached; `modbus` has one entry per Modbus connection, in order.

    mqtt: the broker itself. brokers: connection -> the address of the broker by which a gateway should reach it, as
    what it is sent there is counted. rtu: the Modbus connections that carry RTU frames.
    """

    opc_ua: str
    opc_ua_certificate: str
    trust_dir: str
    modbus: Mapping[str, str]
    mqtt: str
    brokers: Mapping[str, str]
    broker: str
    rtu: tuple[str, ...] = ()


def devices_csv(layout: Layout) -> str:
    """Return the device ledger, with a header row."""
    return _csv(DEVICE_COLUMNS, ((
        device.id, device.name, device.maker.name, device.model, device.serial, device.asset, device.class_key,
        device.industry, layout.uscc, layout.region, "equipment", "private", "yes" if device.energy else "no", "",
        device.connection, device.product_instance_uri, "", "", "") for device in layout.devices))


def points_csv(layout: Layout) -> str:
    """Return the point ledger. OPC UA and Sparkplug tell their types themselves: the column stays empty there."""
    return _csv(POINT_COLUMNS, (_point_row(device, point) for device in layout.devices for point in device.points))


def _point_row(device: Device, point: Point) -> tuple[str, ...]:
    kind = "" if device.protocol in ("opc_ua", "sparkplug_b") else point.type
    scale = "" if point.scale == 1.0 else f"{point.scale:g}"
    return (device.id, point.id, point.address, kind, point.role, point.order, scale, "")


def _csv(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def connections_toml(layout: Layout, endpoints: Endpoints) -> str:
    """Return the [[connections]] tables of the gateway's TOML."""
    tables: list[dict[str, object]] = [{
        "name": "machines", "protocol": "opc_ua", "endpoint": endpoints.opc_ua, "security_policy": "Basic256Sha256",
        "security_mode": "SignAndEncrypt", "trust_dir": endpoints.trust_dir, "publishing_interval_ms": 500,
        "idle_read_s": 2.0, "timeout_s": 4.0}]
    tables.extend({
        "name": name, "protocol": "modbus_rtu_over_tcp" if name in endpoints.rtu else "modbus_tcp",
        "endpoint": endpoint, "poll_s": 1.0, "timeout_s": 0.5}
        for name, endpoint in endpoints.modbus.items())
    tables.append({"name": "edge", "protocol": "sparkplug_b", "endpoint": endpoints.brokers["edge"],
                   "rebirth": "auto"})
    tables.append({"name": "sensors", "protocol": "mqtt", "endpoint": endpoints.brokers["sensors"],
                   "qos": 1})
    used = {device.connection for device in layout.devices}
    return "\n".join(
        "[[connections]]\n" + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
                                      for key, value in table.items())
        for table in tables if table["name"] in used)


def endpoints_json(layout: Layout, endpoints: Endpoints) -> str:
    """Return every endpoint, the owner and the certificate paths."""
    return _json({
        **asdict(endpoints), "site": layout.site, "uscc": layout.uscc, "owner": layout.owner,
        "namespace_uri": layout.namespace_uri, "application_uri": layout.application_uri,
        "sparkplug_group": layout.group})


def expected(layout: Layout) -> dict[str, str]:
    """Return {device id: `counted` or the one reason why not}, in ledger order.

    Of several rows of one machine the first that would count stays, as the slot order of a gateway decides.
    """
    verdicts: dict[str, str] = {}
    seen: set[tuple[str, str, str]] = set()
    for device in layout.devices:
        nameplate = (device.maker.name, device.model, device.serial)
        if device.fate == "dead":
            verdicts[device.id] = "no_valid_data"
        elif not any(point.role in ("switch", "parameter") for point in device.points):
            verdicts[device.id] = "heartbeat_only"
        elif nameplate in seen:
            verdicts[device.id] = "duplicate_identity"
        else:
            verdicts[device.id] = COUNTED
            seen.add(nameplate)
    return verdicts


def plant_json(layout: Layout) -> str:
    """Return the true counts of a plant.

    `changing` of points is a pair: those certain to change within `change_horizon_s`, and those that may. A device's
    `changing` is given only where both are equal, else null.
    """
    verdicts = expected(layout)
    reasons = Counter(verdicts.values())
    counted = [device for device in layout.devices if verdicts[device.id] == COUNTED]
    protocols = list(dict.fromkeys(device.protocol for device in layout.devices))
    return _json({
        "format": "tallystick/plant/v1", "seed": layout.seed, "owner": layout.owner, "uscc": layout.uscc,
        "region": layout.region, "site": layout.site, "change_horizon_s": CHANGE_HORIZON_S,
        "devices": {
            "configured": len(layout.devices), "counted": reasons.pop(COUNTED, 0),
            "not_counted": {reason: reasons.get(reason, 0) for reason in NOT_COUNTED_REASONS},
            "kinds": len(nameplates(counted)),
            "by_protocol": {protocol: {
                "configured": sum(device.protocol == protocol for device in layout.devices),
                "counted": sum(device.protocol == protocol for device in counted)} for protocol in protocols}},
        "points": {**_points_truth(layout.devices), "by_protocol": {
            protocol: _points_truth([device for device in layout.devices if device.protocol == protocol])
            for protocol in protocols}},
        "each": [_device_truth(device, verdicts[device.id]) for device in layout.devices]})


def _points_truth(devices: Iterable[Device]) -> dict[str, object]:
    devices = list(devices)
    live = [point for device in devices if device.fate != "dead" for point in device.points]
    return {
        "configured": sum(len(device.points) for device in devices),
        "folded": len({(device.id, _base(device, point)) for device in devices for point in device.points}),
        "producing": len(live),
        "changing_at_least": sum(point.moves is Moves.ALWAYS for point in live),
        "changing_at_most": sum(point.moves is not Moves.NEVER for point in live)}


def _device_truth(device: Device, verdict: str) -> dict[str, object]:
    truth = _points_truth([device])
    least, most = truth["changing_at_least"], truth["changing_at_most"]
    return {"id": device.id, "expected": verdict, "protocol": device.protocol, "connection": device.connection,
            "points": truth["configured"], "producing": truth["producing"],
            "changing": least if least == most else None}


def _base(device: Device, point: Point) -> object:
    """Return what several points share when they are parts of one value: a register's bits, an array's elements."""
    if isinstance(point.place, ModbusPlace):
        return point.place.table, point.place.address
    return re.sub(r"(/\d+)+$", "", point.place) if device.protocol == "mqtt" else point.place


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
