"""The plant's OPC UA server: asyncua's own, with the machines and their nameplates below one folder.

One endpoint, two ways in: Basic256Sha256 SignAndEncrypt, and None. Nameplates follow the Identification of
OPC 40001-1 (Machinery): Manufacturer, Model, SerialNumber, ProductInstanceUri.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import cast

from asyncua import ua
from asyncua.common.node import Node
from asyncua.server.server import Server
from asyncua.ua.status_codes import StatusCodes

from simulators.certificates import ServerFiles
from simulators.layout import Device, Layout
from simulators.opcua_readonly import ReadOnlyServer
from simulators.signals import Value

VARIANT_OF = {"bool": ua.VariantType.Boolean, "int32": ua.VariantType.Int32, "float64": ua.VariantType.Double,
              "string": ua.VariantType.String}
BAD_NO_COMMUNICATION = cast(ua.UInt32, StatusCodes.BadNoCommunication)


class OpcUaPlant:
    """The OPC UA side of one plant. Values are written when they change, as a controller's server reports them."""

    def __init__(self, layout: Layout, devices: Iterable[Device], files: ServerFiles) -> None:
        self.layout = layout
        self.devices = tuple(devices)
        self.files = files
        self.endpoint = ""
        self._guarded = ReadOnlyServer()
        self._server = Server(iserver=self._guarded)
        self._nodes: list[tuple[Device, int, ua.NodeId, ua.VariantType]] = []
        self._last: dict[ua.NodeId, Value] = {}

    @property
    def writes(self) -> int:
        """Requests to write, call or change that were refused."""
        return self._guarded.refused

    async def start(self, host: str, port: int, machines: Mapping[str, list[Value]]) -> None:
        """Build the address space with the present values and listen. Port 0 takes a free one. Raises OSError."""
        server = self._server
        await server.init()
        await server.set_application_uri(self.layout.application_uri)
        server.set_server_name(f"{self.layout.site} machines")
        server.set_endpoint(f"opc.tcp://{host}:{port}/machines")
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
        assert server.bserver is not None  # set by start; with port 0 it knows the drawn port
        self.endpoint = f"opc.tcp://{host}:{server.bserver.port}/machines"

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
            await monitoring.add_variable(node_id, _name(point.id, index),
                                          _typed(values[point.signal], kind), kind)
            if device.fate == "dead":  # the controller behind the server is off: its variables say so for ever
                await self._server.write_attribute_value(node_id, ua.DataValue(
                    ua.Variant(None, ua.VariantType.Null), ua.StatusCode(BAD_NO_COMMUNICATION)))
            else:
                self._nodes.append((device, point.signal, node_id, kind))

    async def update(self, machines: Mapping[str, list[Value]]) -> None:
        """Write the values that changed; `machines` maps a machine to the values of its signals."""
        now = cast(ua.DateTime, datetime.datetime.now(datetime.UTC))
        for device, signal, node_id, kind in self._nodes:
            value = machines[device.machine][signal]
            if self._last.get(node_id) != value:
                self._last[node_id] = value
                await self._server.write_attribute_value(node_id, ua.DataValue(
                    ua.Variant(_typed(value, kind), kind), SourceTimestamp=now, ServerTimestamp=now))

    async def stop(self) -> None:
        """Close every session and stop listening."""
        if self.endpoint:
            await self._server.stop()


def _typed(value: Value, kind: ua.VariantType) -> Value:
    return float(value) if kind is ua.VariantType.Double else value


def _node_id(text: str, index: int) -> ua.NodeId:
    return ua.NodeId(cast(ua.String, text), cast(ua.Int16, index))


def _name(text: str, index: int) -> ua.QualifiedName:
    return ua.QualifiedName(text, index)
