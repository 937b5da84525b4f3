"""What `check` and `plan` say about the points of one server, from what was read or will be asked. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from protocols.errors import Problem
from protocols.opcua.codec import TYPE_NAMES, Items
from protocols.opcua.profiles import BATCH_UNKNOWN
from protocols.opcua.session import CLOCK_S, NO_SUCH_NODE, STATUS_CODE
from protocols.opcua.target import OpcUaEndpoint, OpcUaPoint
from protocols.terms.check import CheckResult

POINT_TYPE = {"Boolean": "bool", "SByte": "int8", "Byte": "uint8", "Int16": "int16", "UInt16": "uint16",
              "Int32": "int32", "UInt32": "uint32", "Int64": "int64", "UInt64": "uint64", "Float": "float32",
              "Double": "float64", "String": "string", "ByteString": "bytes", "DateTime": "datetime"}
"""Built-in type -> the roster's word for it. The others have none and are not compared."""



def plan_rows(endpoint: OpcUaEndpoint, point_count: int, device_count: int, publish_count: int) -> list[dict[str, str]]:
    """Return the requests that would be sent, as rows of request, count and detail."""
    end, size = endpoint, BATCH_UNKNOWN
    start = [
        {"request": "GetEndpoints", "count": "1 per connect" if end.is_secured else "0", "detail": end.url},
        {"request": "CreateSession, ActivateSession", "count": "1 per connect",
         "detail": f"{end.security_policy}/{end.security_mode}, {end.identity}"},
        {"request": "Read", "count": "2 per connect", "detail": "NamespaceArray, OperationLimits, BuildInfo"},
        {"request": "Read", "count": f"1 per {CLOCK_S:g} s", "detail": "ServerStatus/CurrentTime"},
    ]
    if end.reads == "polling":
        return [*start, {"request": "Read", "count": f"{-(-point_count // size)} per {end.poll_s:g} s",
                         "detail": f"{point_count} points of {device_count} devices, {size} per request unless the "
                                   "server allows more"}]
    return [
        *start,
        {"request": "CreateSubscription", "count": "1", "detail": f"{end.publishing_interval_ms} ms"},
        {"request": "CreateMonitoredItems", "count": str(-(-point_count // size)),
         "detail": f"{point_count} items of {device_count} devices, {size} per request unless the server allows more, "
                   f"queue {end.queue_size}"},
        {"request": "Publish", "count": f"{publish_count} outstanding", "detail": "one batch per response"},
        {"request": "Read", "count": f"<= {-(-device_count // size)} per {end.idle_read_s:g} s",
         "detail": "one point of each silent device"},
    ]


def type_word(type_id: int) -> str:
    """Return the roster's word for a built-in type, empty when it has none."""
    return POINT_TYPE.get(TYPE_NAMES[type_id], "") if type_id < len(TYPE_NAMES) else ""


def judge(points: Sequence[OpcUaPoint], row_of: Mapping[int, int], items: Items,
          status_name: Callable[[int], str]) -> list[CheckResult]:
    """Return one result per device, in order of device.

    Args:
        points: of the server. row_of: position of a point -> its row in `items`; absent when its namespace is unknown.
        items: what a Read of these points answered. status_name: name of a status code without flags.
    """
    devices: dict[int, list[int]] = {}
    for position, point in enumerate(points):
        devices.setdefault(point.device_index, []).append(position)
    results = []
    for device in sorted(devices):
        wrong = [found for position in devices[device]
                 if (found := _wrong(points[position], row_of.get(position), items, status_name)) is not None]
        count = len(devices[device])
        if wrong:
            code, args = wrong[0]
            results.append(CheckResult(device, False, code, Problem.of(
                "", code, **args, failed=len(wrong), points=count).args))
        else:
            results.append(CheckResult(device, True, "opcua.ok", (("points", str(count)),)))
    return results


def _wrong(point: OpcUaPoint, row: int | None, items: Items,
           status_name: Callable[[int], str]) -> tuple[str, dict[str, object]] | None:
    """Return code and arguments of what is wrong with one point that was read, None when nothing is."""
    args: dict[str, object] = {"address": point.address.canonical}
    if row is None:
        return "opcua.namespace_unknown", args | {"uri": point.address.namespace_uri}
    status = items.status[row] & STATUS_CODE
    if status >> 30 >= 2:
        unknown = status in NO_SUCH_NODE
        return "opcua.node_unknown" if unknown else "opcua.bad_status", args | {"status": status_name(status)}
    type_id = items.type_id[row]
    actual = type_word(type_id)
    if point.type and actual and point.type != actual:
        return "opcua.type_differs", args | {"declared": point.type, "actual": actual}
    return None
