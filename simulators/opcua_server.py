"""The plant's OPC UA server: asyncua's own, with the machines and their nameplates below one folder.

One endpoint, two ways in: Basic256Sha256 SignAndEncrypt, and None. Nameplates follow the Identification of
OPC 40001-1 (Machinery): Manufacturer, Model, SerialNumber, ProductInstanceUri.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterable, Mapping
from typing import Any, cast

from asyncua import ua
from asyncua.common.node import Node
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes

from simulators.certificates import ServerFiles
from simulators.layout import Device, Layout, Point
from simulators.opcua_counted import CountedServer
from simulators.sent import PointKey, Sent
from simulators.signals import Value
from simulators.wire import Wire

VARIANT_OF = {"bool": ua.VariantType.Boolean, "int32": ua.VariantType.Int32, "float64": ua.VariantType.Double,
              "string": ua.VariantType.String}
BAD_NO_COMMUNICATION = cast(ua.UInt32, StatusCodes.BadNoCommunication)
BAD_DEVICE_FAILURE = cast(ua.UInt32, StatusCodes.BadDeviceFailure)


class OpcUaPlant:
    """The OPC UA side of one plant. Values are written when they change, as a controller's server reports them."""

    def __init__(self, layout: Layout, devices: Iterable[Device], files: ServerFiles, wire: Wire | None = None) -> None:
        """wire: stands between and counts what is sent."""
        self.layout = layout
        self.devices = tuple(devices)
        self.files = files
        self.endpoint = ""
        self.wire = wire or Wire(Sent())
        self.sent = self.wire.sent
        self.clock_s = 0.0
        """How far the clock of the machines is ahead; their source times say so, and so does the server's own."""
        self.failed: set[str] = set()
        """Machines whose values are Bad."""
        self._server = CountedServer(self._left)
        self._nodes: list[tuple[Device, int, ua.NodeId, ua.VariantType]] = []
        self._point_of: dict[ua.NodeId, PointKey] = {}
        self._gone: set[ua.NodeId] = set()
        self._last: dict[ua.NodeId, tuple[Value, bool]] = {}

    @property
    def writes(self) -> int:
        """Requests to write, call or change that were refused."""
        return self._server.guarded.refused

    @property
    def sessions(self) -> int:
        """Sessions from outside that the server has now."""
        return len(self._server.iserver._external_sessions)

    @property
    def subscriptions(self) -> frozenset[int]:
        """Subscriptions that the server has now, by id."""
        return frozenset(self._server.iserver.subscription_service.subscriptions)

    def _left(self, peer: Any, size: int, nodes: Iterable[ua.NodeId], kind: str) -> None:
        """Have a response counted once its bytes have passed the wire."""
        points = [self._point_of[node] for node in nodes if node in self._point_of]
        self.wire.promise(peer, size, points, kind)

    async def start(self, host: str, port: int, machines: Mapping[str, list[Value]]) -> None:
        """Build the address space with the present values and listen. Port 0 takes a free one. Raises OSError."""
        server = self._server
        await server.init()
        await server.set_application_uri(self.layout.application_uri)
        server.set_server_name(f"{self.layout.site} machines")
        server.set_endpoint(f"opc.tcp://{host}:0/machines")
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
                                    ua.SecurityPolicyType.NoSecurity])
        await server.load_certificate(self.files.certificate)
        await server.load_private_key(self.files.key)
        index = await server.register_namespace(self.layout.namespace_uri)
        folder = await server.nodes.objects.add_folder(_node_id("Machines", index), _name("Machines", index))
        for device in self.devices:
            await self._add_machine(folder, index, device, machines[device.machine])
        await self.update(machines)
        await server.start()
        await self.wire.open(host, port, (host, server.port))
        self.endpoint = f"opc.tcp://{host}:{self.wire.port}/machines"

    async def restart(self, away_s: float) -> None:
        """End every connection and session, and come back after a while at the same address, knowing nobody."""
        self.wire.shut()
        await self._server.forget()
        await asyncio.sleep(away_s)
        await self._server.come_back()
        self.wire.target = (self.wire.target[0], self._server.port)
        await self.wire.welcome()

    async def remove(self, keys: Iterable[PointKey]) -> None:
        """Take the nodes of these points away, as a changed controller program does."""
        for node_id, *_ in self._of(keys):
            self._gone.add(node_id)
            self._last.pop(node_id, None)
            space = self._server.iserver.aspace
            # asyncua would tell the items of this node, and forget to wait for that
            for handle in list(space[node_id].attributes[AttributeIds.Value].datachange_callbacks):
                space.delete_datachange_callback(handle)
            await self._server.delete_nodes([self._server.get_node(node_id)])

    async def bring_back(self, keys: Iterable[PointKey], machines: Mapping[str, list[Value]]) -> None:
        """Make the nodes of these points again."""
        for node_id, kind, device, point in self._of(keys):
            folder = self._server.get_node(_node_id(f"{device.place}.Monitoring", node_id.NamespaceIndex))
            await folder.add_variable(node_id, _name(point.id, node_id.NamespaceIndex),
                                      _typed(machines[device.machine][point.signal], kind), kind)
            self._gone.discard(node_id)

    def _of(self, keys: Iterable[PointKey]) -> list[tuple[ua.NodeId, ua.VariantType, Device, Point]]:
        wanted = set(keys)
        points = {(device.id, point.id): (device, point) for device in self.devices for point in device.points}
        return [(node_id, VARIANT_OF[points[key][1].type], *points[key])
                for node_id, key in self._point_of.items() if key in wanted and points[key][0].fate != "dead"]

    async def _add_machine(self, folder: Node, index: int, device: Device, values: list[Value]) -> None:
        machine = await folder.add_object(_node_id(device.place, index), _name(device.name, index))
        plate = await machine.add_object(_node_id(f"{device.place}.Identification", index),
                                         _name("Identification", index))
        texts = {"Manufacturer": ua.LocalizedText(device.maker.name, "zh-CN"),
                 "Model": ua.LocalizedText(device.model, "zh-CN"), "SerialNumber": device.serial,
                 "ProductInstanceUri": device.product_instance_uri}
        for name, value in texts.items():
            await plate.add_property(_node_id(f"{device.place}.Identification.{name}", index),
                                     _name(name, index), value)
        monitoring = await machine.add_folder(_node_id(f"{device.place}.Monitoring", index),
                                              _name("Monitoring", index))
        for point in device.points:
            node_id = _node_id(str(point.place), index)
            kind = VARIANT_OF[point.type]
            self._point_of[node_id] = (device.id, point.id)
            await monitoring.add_variable(node_id, _name(point.id, index),
                                          _typed(values[point.signal], kind), kind)
            if device.fate == "dead":  # the controller behind the server is off: its variables say so for ever
                await self._server.write_attribute_value(node_id, ua.DataValue(
                    ua.Variant(None, ua.VariantType.Null), ua.StatusCode(BAD_NO_COMMUNICATION)))
            else:
                self._nodes.append((device, point.signal, node_id, kind))

    async def update(self, machines: Mapping[str, list[Value]]) -> None:
        """Write the values that changed; `machines` maps a machine to the values of its signals."""
        now = cast(ua.DateTime, datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.clock_s))
        for device, signal, node_id, kind in list(self._nodes):
            if node_id in self._gone:
                continue
            value = (machines[device.machine][signal], device.id in self.failed)
            if self._last.get(node_id) != value:
                self._last[node_id] = value
                status = ua.StatusCode(BAD_DEVICE_FAILURE) if value[1] else ua.StatusCode()
                await self._server.write_attribute_value(node_id, ua.DataValue(
                    ua.Variant(_typed(value[0], kind), kind), status, SourceTimestamp=now, ServerTimestamp=now))

    async def stop(self) -> None:
        """Close every session and stop listening."""
        if self.endpoint:
            self.wire.shut()
            await self._server.stop()
            self.wire.close()


def _typed(value: Value, kind: ua.VariantType) -> Value:
    return float(value) if kind is ua.VariantType.Double else value


def _node_id(text: str, index: int) -> ua.NodeId:
    return ua.NodeId(cast(ua.String, text), cast(ua.Int16, index))


def _name(text: str, index: int) -> ua.QualifiedName:
    return ua.QualifiedName(text, index)
