"""The simulated OPC UA server refuses and counts every request that would change it; reading counts nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asyncua import Client, Server
from asyncua import ua as _ua

from simulators.opcua_readonly import CHANGING, ReadOnlyServer
from tests.unit.protocols.opcua.bench import free_port

ua: Any = _ua


async def test_what_would_change_it_is_refused_and_counted() -> None:
    guarded = ReadOnlyServer()
    server = Server(iserver=guarded)
    await server.init()
    url = f"opc.tcp://127.0.0.1:{free_port()}/plant"
    server.set_endpoint(url)
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace("urn:a")
    node = await server.nodes.objects.add_variable(ua.NodeId("v", index), "v", 1.5)
    await node.set_writable()
    async with server, Client(url, timeout=60) as client:
        seen = client.get_node(node.nodeid)
        assert await seen.read_value() == 1.5
        assert guarded.refused == 0
        with pytest.raises(ua.UaStatusCodeError):
            await seen.write_value(2.5)
        with pytest.raises(ua.UaStatusCodeError):
            await client.nodes.server.call_method(ua.NodeId(ua.ObjectIds.Server_GetMonitoredItems), 1)
        assert guarded.refused == 2
        with pytest.raises(ua.UaStatusCodeError):  # asyncua itself refuses this one: only its administrators may
            await client.nodes.objects.add_folder(index, "mine")
        assert await seen.read_value() == 1.5
        await server.write_attribute_value(node.nodeid, ua.DataValue(ua.Variant(3.5)))
        await asyncio.wait_for(_reads(seen, 3.5), 60)
    assert guarded.refused == 2, "what the plant itself writes is none"
    assert {"write", "call"} <= set(CHANGING)
    ReadOnlyServer.refused_of_process -= 2  # these were meant; no other test may ask for any


async def _reads(node: Any, value: float) -> None:
    while await node.read_value() != value:
        await asyncio.sleep(0.02)
