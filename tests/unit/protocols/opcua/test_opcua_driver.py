"""The driver against asyncua's own server, unsecured. Security: test_opcua_security.py."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import itertools
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UASocketProtocol
from asyncua.client.ua_session import UaSession
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary

from protocols.errors import DeviceError
from protocols.opcua import codec, columns, session
from protocols.opcua import driver as driver_module
from protocols.opcua.collector import PUBLISH_OUTSTANDING
from protocols.opcua.driver import OpcUaDriver
from protocols.opcua.guarded import driver as guarded_module
from protocols.opcua.guarded.driver import READ_ONLY_REQUESTS
from protocols.opcua.link import driver as link_module
from protocols.opcua.profiles import PROFILES
from protocols.opcua.target import Nameplate, OpcUaPoint, parse_address
from protocols.samples import BAD, GOOD
from tests.unit.protocols.opcua.bench import (
    Plant,
    Proxy,
    Recorder,
    endpoint,
    free_port,
    messages_of,
    plant_on,
    request_types,
    running,
    serving,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
CLOSE_S = link_module.CLOSE_S
"""As the product has it: the tests of this folder are given more."""
_numbers = itertools.count()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[Any]:
    async with serving(free_port()) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def plant(server: Any) -> Plant:
    """Variables a, b, c with the values 0, 1, 2 in a namespace of this test's own."""
    return await plant_on(server, f"urn:test:plant:{next(_numbers)}")


def anywhere(names: list[str], devices: list[int] | None = None) -> list[OpcUaPoint]:
    """Points for drivers that reach no server."""
    return Plant(None, 0, "urn:nowhere", 0).points(names, devices)


async def test_initial_values_and_changes_arrive_in_order_with_source_times(plant: Plant, tmp_path: Path) -> None:
    sink = Recorder()
    driver = OpcUaDriver(endpoint(plant.port, tmp_path), plant.points(["a", "b", "c"], [7, 7, 9]), sink)
    async with running(driver):
        await until(lambda: sink.points == {100, 101, 102})
        for value in (5.0, 6.0, 7.0):
            await plant.write("b", value)
        await until(lambda: sink.values(101)[-3:] == [5.0, 6.0, 7.0])
    assert sink.values(100) == [0.0]
    assert sink.devices == {7, 9}
    last = sink.batches[-1]
    assert 0 <= last.received_ns[0] - last.source_ns[-1] < 60 * 10**9, "one clock, and one unit"
    assert sink.events == []
    assert plant.subscriptions == [], "deleted on leaving"
    assert plant.sessions == []
    assert driver.server_spki_sha256() is None


async def test_five_thousand_changes_arrive_all_and_one_response_is_one_batch(plant: Plant, tmp_path: Path) -> None:
    sink = Recorder()
    names = [f"v{i}" for i in range(500)]
    await plant.add(names)
    async with running(OpcUaDriver(endpoint(plant.port, tmp_path), plant.points(names), sink)):
        await until(lambda: len(sink.points) == 500)
        before = len(sink.batches)
        for value in range(10):
            for name in names:
                await plant.write(name, 1000.0 + value)
        await until(lambda: sum(b.value.size for b in sink.batches[before:]) >= 5000)
    for i in range(500):
        assert [v for v in sink.values(100 + i) if v >= 1000.0] == [1000.0 + value for value in range(10)]
    assert len(sink.batches) - before < 500, "samples come in batches, not one by one"
    assert not sink.lost


async def test_a_bad_node_is_named_and_the_others_go_on_and_it_comes_back(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "RETRY_FIRST_S", 0.3)
    sink = Recorder()
    names = [f"v{i}" for i in range(120)]
    await plant.add(names)
    wanted = [*plant.points([*names, "later"]),
              OpcUaPoint(point_index=900, device_index=900, address=parse_address("nsu=urn:nobody;i=1"))]
    async with running(OpcUaDriver(endpoint(plant.port, tmp_path), wanted, sink)):
        await until(lambda: len(sink.points) == 120)
        await until(lambda: len(sink.events) == 2)
        told = {code: args for code, _, args in sink.events}
        assert told["opcua.bad_node"]["status"] == "BadNodeIdUnknown"
        assert told["opcua.bad_node"]["address"] == f"nsu={plant.uri};s=later#Value"
        assert told["opcua.namespace_unknown"]["uri"] == "urn:nobody"
        await plant.add(["later"])
        await until(lambda: sink.values(220) == [0.0])
        await until(lambda: "opcua.nodes_back" in sink.codes())
        index = len(await plant.server.get_namespace_array())  # the node first: a try between the two would find none
        await plant.server.nodes.objects.add_variable(ua.NodeId(1, index), "x", 8.0)
        assert await plant.server.register_namespace("urn:nobody") == index
        await until(lambda: sink.values(900) == [8.0])
        await until(lambda: sink.codes().count("opcua.nodes_back") == 2)
    assert len(sink.events) == 4, "each told once, whatever the number of tries"


RESTARTS = int(os.environ.get("TALLYSTICK_RESTARTS", "2"))
"""`TALLYSTICK_RESTARTS=20` is the whole check, some two minutes; every round asserts the same."""


async def test_after_a_restart_with_moved_namespaces_data_flow_in_ten_seconds_in_one_session(tmp_path: Path) -> None:
    port, sink = free_port(), Recorder()
    driver = OpcUaDriver(endpoint(port, tmp_path), anywhere(["a", "b"]), sink)
    async with running(driver):
        for round_ in range(RESTARTS):
            sink.batches.clear()
            async with serving(port) as server:
                for other in range(round_):
                    await server.register_namespace(f"urn:test:other:{other}")
                restarted = await plant_on(server, "urn:nowhere", ["a", "b"])
                await until(lambda: sink.points == {100, 101}, deadline_s=50.0)  # ten seconds, and a busy machine
                await restarted.write("b", 50.0 + round_)
                await until(lambda value=50.0 + round_: value in sink.values(101))
                assert (len(restarted.sessions), len(restarted.subscriptions)) == (1, 1)
                assert sink.codes()[-1] in ("opcua.back", "opcua.nodes_back")
        await until(lambda: sink.codes()[-1] == "opcua.unreachable")
    codes = [code for code in sink.codes() if code in ("opcua.back", "opcua.unreachable")]
    assert codes == ["opcua.unreachable", "opcua.back"] * RESTARTS + ["opcua.unreachable"], "each loss is told once"
    gaps = [args for code, _, args in sink.events if code == "opcua.changes_lost"]
    assert len(gaps) == RESTARTS - 1, "before the first connection there was nothing to lose"
    assert all(args["since"] <= args["until"] and args["why"] == "opcua.unreachable" for args in gaps)


async def test_a_cut_line_loses_nothing_that_the_server_kept(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "STEADY_S", 0.0)
    monkeypatch.setattr(session, "KEEP_ALIVE_S", 30.0)  # no keep-alive tells what was lost: it must be asked for
    sink = Recorder()
    async with Proxy(plant.port).open() as proxy:
        async with running(OpcUaDriver(endpoint(proxy.port, tmp_path), plant.points(["a", "b", "c"]), sink)):
            await until(lambda: len(sink.points) == 3)
            (before,) = plant.subscriptions
            for round_ in range(3):
                proxy.refuses = True
                proxy.cut()
                for value in range(5):
                    await plant.write("a", 10.0 * round_ + value + 100)
                await until(lambda: sink.codes()[-1:] == ["opcua.unreachable"])
                proxy.refuses = False
                await until(lambda value=10.0 * round_ + 104: value in sink.values(100))
                await until(lambda: sink.codes()[-1:] == ["opcua.back"])
            (after,) = plant.subscriptions
            assert before == after, "the session was taken up again, not made anew"
            assert len(plant.sessions) == 1
    got = [v for v in sink.values(100) if v >= 100]
    assert sorted(set(got)) == [10.0 * round_ + value + 100 for round_ in range(3) for value in range(5)]
    assert not {"opcua.gap", "opcua.changes_lost"} & {*sink.codes()}


def silent_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a subscription be dead after a second of silence, and the time-out of a request be as long as it is."""
    after_s = session.stale_after_s
    monkeypatch.setattr(session, "KEEP_ALIVE_S", 0.2)
    monkeypatch.setattr(session, "stale_after_s", lambda interval_ms, count, _: after_s(interval_ms, count, 0.5))


async def test_a_line_that_swallows_everything_is_noticed_and_leaving_takes_two_seconds(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent_soon(monkeypatch)
    monkeypatch.setattr(link_module, "CLOSE_S", CLOSE_S)  # far below the time-out of the requests that say goodbye
    sink = Recorder()
    async with Proxy(plant.port).open() as proxy:
        async with running(OpcUaDriver(endpoint(proxy.port, tmp_path), plant.points(["a"]), sink), close_s=10.0):
            await until(lambda: sink.values(100))
            proxy.swallows = True
            await until(lambda: "opcua.timeout" in sink.codes())
            proxy.swallows = False
            await until(lambda: "opcua.back" in sink.codes())
            proxy.swallows = True


async def test_silent_devices_are_read_in_one_request_and_bad_ones_are_not_answered(
        plant: Plant, tmp_path: Path) -> None:
    sink = Recorder()
    await plant.write("c", ua.DataValue(ua.Variant(1.0), StatusCode=ua.StatusCode(ua.StatusCodes.BadSensorFailure)))
    settings = endpoint(plant.port, tmp_path, idle_read_s=0.3)
    async with running(OpcUaDriver(settings, plant.points(["a", "b", "c"], [0, 1, 2]), sink)):
        await until(lambda: all(len(sink.values(point)) >= 4 for point in (100, 101, 102)))
    assert sink.devices == {0, 1}
    assert set(sink.qualities(102)) == {BAD}
    assert set(sink.qualities(100)) == {GOOD}
    assert any({100, 101} <= set(b.point_index.tolist()) for b in sink.batches[3:]), "two devices in one request"


async def test_nothing_but_reading_requests_leaves(plant: Plant, tmp_path: Path) -> None:
    """Seen on the wire, over a whole life: check, identify, collecting, idle reads, resuming, closing."""
    sink = Recorder()
    async with Proxy(plant.port).open() as proxy:
        driver = OpcUaDriver(endpoint(proxy.port, tmp_path, idle_read_s=0.2), plant.points(["a", "b", "nowhere"]), sink)
        await driver.check()
        await driver.identify()
        async with running(driver):
            await until(lambda: len(sink.values(100)) > 2)
            proxy.cut()
            await until(lambda: "opcua.back" in sink.codes())
            seen_before = len(sink.values(100))
            await until(lambda: len(sink.values(100)) > seen_before)
        streams = [request_types(bytes(stream)) for stream in proxy.sent]
    assert len(streams) == 4
    seen = set().union(*streams)
    allowed = {getattr(ua.ObjectIds, f"{kind.__name__}_Encoding_DefaultBinary") for kind in READ_ONLY_REQUESTS}
    assert seen <= allowed
    assert {ua.ObjectIds.PublishRequest_Encoding_DefaultBinary, ua.ObjectIds.ReadRequest_Encoding_DefaultBinary,
            ua.ObjectIds.DeleteSubscriptionsRequest_Encoding_DefaultBinary,
            ua.ObjectIds.CloseSessionRequest_Encoding_DefaultBinary} <= seen
    assert not any(word in kind.__name__ for kind in READ_ONLY_REQUESTS
                   for word in ("Write", "Call", "Add", "Update", "Set", "Modify"))


async def test_a_writing_request_is_refused_before_the_socket(plant: Plant, tmp_path: Path) -> None:
    """By every way into asyncua: node, client, transport, shortcuts; asyncua once made these with another session."""
    link = await OpcUaDriver(endpoint(plant.port, tmp_path), plant.points(["a"]), Recorder())._open()
    try:
        node = link.client.get_node(plant.nodes["a"].nodeid)
        with pytest.raises(AssertionError, match="WriteRequest"):
            await node.write_value(1.0)
        with pytest.raises(AssertionError, match="WriteRequest"):
            await link.client.write_values([node], [1.0])
        with pytest.raises(AssertionError, match="WriteRequest"):
            await link.client.uaclient.write_attributes([node.nodeid], [ua.DataValue(ua.Variant(1.0))])
        with pytest.raises(AssertionError, match="CallRequest"):
            await link.client.uaclient.call([ua.CallMethodRequest()])
        with pytest.raises(AssertionError, match="CallRequest"):
            await link.client.nodes.server.call_method(ua.NodeId(ua.ObjectIds.Server_GetMonitoredItems), 1)
    finally:
        await link.close()
    assert await plant.nodes["a"].read_value() == 0.0


async def test_batches_shrink_where_the_server_takes_fewer(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, sizes = Recorder(), []
    real = UaSession.create_monitored_items

    async def limited(self: UaSession, parameters: Any) -> Any:
        sizes.append(len(parameters.ItemsToCreate))
        if sizes[-1] > 7:
            raise ua.UaStatusCodeError(ua.StatusCodes.BadTooManyOperations)
        return await real(self, parameters)

    monkeypatch.setattr(guarded_module.GuardedSession, "create_monitored_items", limited)
    names = [f"v{i}" for i in range(100)]
    await plant.add(names)
    async with running(OpcUaDriver(endpoint(plant.port, tmp_path), plant.points(names), sink)):
        await until(lambda: len(sink.points) == 100)
    assert sizes[:5] == [100, 50, 25, 12, 6]
    assert sizes[5:] == [6] * 15 + [4]
    assert sink.events == []


async def test_stated_limits_are_honoured(plant: Plant, tmp_path: Path) -> None:
    ids = ua.ObjectIds
    items = plant.server.get_node(ua.NodeId(ids.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall))
    reads = plant.server.get_node(ua.NodeId(ids.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead))
    before = [await node.read_value() for node in (items, reads)]
    link = None
    try:
        await items.write_value(ua.Variant(200, ua.VariantType.UInt32))
        await reads.write_value(ua.Variant(2, ua.VariantType.UInt32))
        link = await OpcUaDriver(endpoint(plant.port, tmp_path), plant.points(["a", "b", "c"]), Recorder())._open()
        await link.learn()
        assert (link.item_batch, link.read_batch) == (200, 2)
        read = await link.read([p.address for p in plant.points(["c", "b", "a"])])
        assert read.value == [2.0, 1.0, 0.0]
        assert read.handle == [0, 1, 2]
    finally:
        if link is not None:
            await link.close()
        for node, value in zip((items, reads), before, strict=True):
            await node.write_value(ua.Variant(value, ua.VariantType.UInt32))


async def test_prepared_reads_are_what_asyncua_would_send_and_share_a_wait(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LATENCY_S", 60.0)  # this machine may be slow, and the server with it
    names = [f"v{i}" for i in range(30)]
    await plant.add(names)
    async with Proxy(plant.port).open() as proxy:
        link = await OpcUaDriver(endpoint(proxy.port, tmp_path), plant.points(names), Recorder())._open()
        try:
            await link.learn()
            link.profile, link.read_batch = PROFILES["kepware"], 4
            prepared = link.prepare([point.address for point in plant.points(names)])
            assert [count for count, _, _ in prepared.parts] == [4] * 7 + [2]
            for _ in range(3):
                found = await link.poll(prepared)
                assert (found.value.tolist(), found.handle.tolist()) == ([float(i) for i in range(30)], [*range(30)])
            assert link.reads_at_once == 4
            at = len(proxy.sent[-1])
            await link.poll(prepared)
            asked = messages_of(bytes(proxy.sent[-1][at:]))
            parameters = [struct_from_binary(ua.ReadRequest, Buffer(body)) for body in asked]
            assert [len(request.Parameters.NodesToRead) for request in parameters] == [4] * 7 + [2]
            handles = [request.RequestHeader.RequestHandle for request in parameters]
            assert handles == [handles[0] + place for place in range(8)]
            assert all(abs((datetime.now(UTC) - request.RequestHeader.Timestamp.replace(tzinfo=UTC)).total_seconds())
                       < 60 for request in parameters)
            link.client.uaclient.protocol.timeout = 0.2
            proxy.swallows = True
            with pytest.raises(TimeoutError):
                await link.poll(prepared)
        finally:
            proxy.swallows = False
            await link.close()


async def test_one_element_of_an_array_is_a_point(plant: Plant, tmp_path: Path) -> None:
    sink = Recorder()
    zones = await plant.server.nodes.objects.add_variable(ua.NodeId("zones", plant.index), "zones", [1.0, 2.0, 3.0])
    wanted = [OpcUaPoint(point_index=slot, device_index=0, address=parse_address(f"nsu={plant.uri};s=zones{suffix}"))
              for slot, suffix in ((1, "#Value[1]"), (2, "#Value"))]
    driver = OpcUaDriver(endpoint(plant.port, tmp_path), wanted, sink)
    async with running(driver):
        await until(lambda: sink.points == {1, 2})
        await zones.write_value([1.0, 7.0, 3.0])
        await until(lambda: len(sink.values(2)) == 2)
    assert sink.values(2)[0] != sink.values(2)[1], "a changed array is a changed value"
    assert sink.batches[0].texts, "a whole array has a text"


async def test_check_names_the_cause_for_each_device(plant: Plant, tmp_path: Path) -> None:
    await plant.write("b", ua.DataValue(ua.Variant(1.0), StatusCode=ua.StatusCode(ua.StatusCodes.BadOutOfService)))
    c = plant.points(["c"])[0].address
    wanted = [*plant.points(["a", "a", "b", "zz"], [5, 5, 2, 9]),
              OpcUaPoint(point_index=1, device_index=3, address=parse_address("nsu=urn:not:there;i=1")),
              OpcUaPoint(point_index=2, device_index=4, address=c, type="int32"),
              OpcUaPoint(point_index=3, device_index=6, address=c, type="float64")]
    results = await OpcUaDriver(endpoint(plant.port, tmp_path), wanted, Recorder()).check()
    assert plant.sessions == []
    assert [(r.device_index, r.ok, r.code) for r in results] == [
        (2, False, "opcua.bad_status"), (3, False, "opcua.namespace_unknown"), (4, False, "opcua.type_differs"),
        (5, True, "opcua.ok"), (6, True, "opcua.ok"), (9, False, "opcua.node_unknown")]
    assert dict(results[0].args)["status"] == "BadOutOfService"
    assert dict(results[2].args)["actual"] == "float64"


async def test_check_of_an_unreachable_and_of_a_mute_server(tmp_path: Path) -> None:
    result, = await OpcUaDriver(endpoint(free_port(), tmp_path), anywhere(["a"]), Recorder()).check()
    assert (result.ok, result.code) == (False, "opcua.unreachable")
    mute = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    async with mute:
        port = mute.sockets[0].getsockname()[1]
        result, = await OpcUaDriver(endpoint(port, tmp_path, timeout_s=0.3), anywhere(["a"]), Recorder()).check()
        assert (result.ok, result.code) == (False, "opcua.timeout")


async def test_a_server_that_hangs_up_at_once_is_not_waited_for(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What asyncua says to a connection that is gone by then is never answered."""
    connect = Client.connect_socket

    async def too_late(self: Client) -> None:
        await connect(self)
        await until(lambda: self.uaclient.protocol is None or self.uaclient.protocol.is_closed)

    monkeypatch.setattr(Client, "connect_socket", too_late)
    hasty = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    async with hasty:
        port = hasty.sockets[0].getsockname()[1]
        result, = await OpcUaDriver(endpoint(port, tmp_path), anywhere(["a"]), Recorder()).check()
    assert (result.ok, result.code) == (False, "opcua.unreachable")


async def test_a_server_that_announces_gigabytes_is_hung_up_on(tmp_path: Path) -> None:
    fed = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal fed
        writer.write(b"ACKF" + (2**31).to_bytes(4, "little"))
        try:
            while fed < 2**30:
                writer.write(bytes(65536))
                await writer.drain()
                fed += 65536
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result, = await OpcUaDriver(endpoint(port, tmp_path, timeout_s=10.0), anywhere(["a"]), Recorder()).check()
    assert result.code == "opcua.unreachable", "hung up at the first header, not taken in until a time-out"
    assert fed < 16 * 2**20


@pytest.mark.parametrize("answer", [
    b"ERRF\x10\0\0\0\0\0\x0f\x80\xff\xff\xff\xff", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"MSGF\x08\0\0\0", b"\0" * 64])
async def test_what_is_no_opc_ua_server_is_a_named_failure(answer: bytes, tmp_path: Path) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result, = await OpcUaDriver(endpoint(port, tmp_path, timeout_s=0.5), anywhere(["a"]), Recorder()).check()
    assert not result.ok
    assert result.code in ("opcua.unreachable", "opcua.timeout", "opcua.refused", "opcua.protocol_error"), result


async def test_identify_reads_only_the_devices_own_nameplate(plant: Plant, tmp_path: Path) -> None:
    index = plant.index
    line = await plant.server.nodes.objects.add_object(ua.NodeId("line", index), "Line")
    await line.add_property(index, "Manufacturer", "The line's maker")
    for name in ("m1", "m2", "m3"):
        machine = await line.add_object(ua.NodeId(name, index), name)
        folder = await machine.add_folder(index, "Sensors")
        await folder.add_variable(ua.NodeId(f"{name}.x", index), "x", 1.0)
        if name == "m1":
            await machine.add_property(index, "Manufacturer", ua.LocalizedText("沈阳机床"))
            await machine.add_property(index, "Model", "VMC850\n")
        if name == "m2":
            ident = await machine.add_object(index, "Identification")
            await ident.add_property(index, "SerialNumber", "S-2")
            await ident.add_property(index, "ProductInstanceUri", "urn:x:S-2")
    wanted = plant.points(["m1.x", "m2.x", "m3.x", "nowhere"], [1, 2, 3, 4])
    plates = await OpcUaDriver(endpoint(plant.port, tmp_path), wanted, Recorder()).identify()
    assert plates == [
        Nameplate(device_index=1, manufacturer="沈阳机床", model="VMC850"),
        Nameplate(device_index=2, serial_number="S-2", product_instance_uri="urn:x:S-2"),
        Nameplate(device_index=3), Nameplate(device_index=4)]
    with pytest.raises(DeviceError) as lost:
        await OpcUaDriver(endpoint(free_port(), tmp_path), wanted, Recorder()).identify()
    assert lost.value.problems[0].code == "opcua.unreachable"


async def test_plan_needs_no_network(tmp_path: Path) -> None:
    names = [f"v{i}" for i in range(1000)]
    rows = OpcUaDriver(endpoint(1, tmp_path), anywhere(names, [i // 10 for i in range(1000)]), Recorder()).plan()
    assert {row["request"]: row["count"] for row in rows}["CreateMonitoredItems"] == "20"
    assert rows[-1]["count"] == "<= 2 per 30 s"
    assert all(set(row) == {"request", "count", "detail"} for row in rows)


async def test_everything_received_is_delivered_or_discarded(tmp_path: Path) -> None:
    sink = Recorder()
    driver = OpcUaDriver(endpoint(1, tmp_path), anywhere(["a", "b"], [4, 4]), sink)
    subscription = driver._collector.subscribed(1, interval_ms=50, keep_alive_count=10)
    items = codec.Items(undecodable=3)
    for handle, status in ((0, 0), (1, 0x480), (1, 0x480), (7, 0)):
        items.add(handle, 1.0, status, 0, 11, None)
    driver._collector.deliver(subscription, columns.of(items), 99)
    assert dict(sink.lost) == {"undecodable": 3, "unknown_point": 1}
    assert sum(b.value.size for b in sink.batches) == 3
    assert sink.answers == [((4,), 99)]
    assert sink.codes() == ["opcua.undecodable", "opcua.overflow"], "each point's overflow is told once"


async def test_missed_notifications_are_fetched_and_lost_ones_told(plant: Plant, tmp_path: Path) -> None:
    sink = Recorder()
    driver = OpcUaDriver(endpoint(plant.port, tmp_path), plant.points(["a", "b", "c"]), sink)
    link = await driver._open()

    async def next_notification() -> codec.Publish:
        while True:
            publish = codec.decode_publish(await link.client.our_session.exchange(ua.PublishRequest(), timeout_s=30))
            if not publish.is_keep_alive:
                return publish

    try:
        await link.learn()
        await link.subscribe(driver._endpoint, driver._collector)
        await driver._collector.monitor(link, [0, 1, 2])
        assert (await next_notification()).sequence_number == 1
        await plant.write("a", 9.0)
        await driver._collector.take(link, await next_notification(), 1)  # the first was lost on its way
        assert sorted(v for b in sink.batches for v in b.value.tolist()) == [0.0, 1.0, 2.0, 9.0]
        assert sorted(link.subscription.acks) == [1, 2]
        await driver._collector.take(link, codec.Publish(
            subscription_id=link.subscription.id, sequence_number=6, is_keep_alive=True, items=codec.Items(),
            closed_status=None), 2)
        assert sink.events == [("opcua.gap", "press_shop", {"count": 3, "first": 3, "last": 5})]
        with pytest.raises(DeviceError) as closed:
            await driver._collector.take(link, codec.Publish(
                subscription_id=link.subscription.id, sequence_number=6, is_keep_alive=False, items=codec.Items(),
                closed_status=ua.StatusCodes.BadTimeout), 3)
        assert closed.value.problems[0].code == "opcua.subscription_closed"
    finally:
        await link.close()


async def test_a_session_that_the_server_closed_is_made_anew(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent_soon(monkeypatch)
    sink = Recorder()
    async with running(OpcUaDriver(endpoint(plant.port, tmp_path), plant.points(["a"]), sink)):
        await until(lambda: sink.values(100))
        for closed in plant.sessions:
            await closed.close_session(True)
        await until(lambda: "opcua.back" in sink.codes())
        await plant.write("a", 77.0)
        await until(lambda: 77.0 in sink.values(100))
        assert len(plant.sessions) == 1


async def test_asyncua_is_the_one_that_was_read() -> None:
    """Names and behaviour of asyncua that driver.py builds on; a new version must be read again first."""
    assert version("asyncua").startswith("2.1."), version("asyncua")
    assert "ensure_publish_loop" in UaSession.create_subscription.__code__.co_names, "what we override"
    services = [name for name, member in vars(UaSession).items()
                if inspect.iscoroutinefunction(member) and "_send_request" in member.__code__.co_names]
    assert {"read", "write", "call", "browse", "publish", "create_session", "activate_session", "add_nodes",
            "history_update", "create_monitored_items"} <= set(services), "every service passes _send_request"
    assert {"_server_nonce", "_policy_ids"} <= {*Client.activate_session.__code__.co_names,
                                                *Client.server_policy.__code__.co_names}, "what a takeover sets"
    assert {"struct_to_binary", "revolve_security_token", "_connection", "message_to_binary",
            "_request_id", "_callbackmap", "transport"} <= {*UASocketProtocol._send_request.__code__.co_names,
                                                            *UASocketProtocol._send_request.__code__.co_varnames}
    assert {"_request_handle", "authentication_token"} <= {*UASocketProtocol._setup_request_header.__code__.co_names}
    assert [field.name for field in dataclasses.fields(ua.RequestHeader)] == [
        "AuthenticationToken", "Timestamp", "RequestHandle", "ReturnDiagnostics", "AuditEntryId", "TimeoutHint",
        "AdditionalHeader"], "time and handle stand behind the token"
    assert "check_answer" in UASocketProtocol.send_request.__code__.co_names, "what read_again does in its place"
    assert "_process_received_data" in UASocketProtocol.data_received.__code__.co_names


async def test_asyncuas_own_publish_loop_does_not_run(plant: Plant, tmp_path: Path) -> None:
    sink = Recorder()
    async with running(OpcUaDriver(endpoint(plant.port, tmp_path), plant.points(["a"]), sink)):
        await until(lambda: sink.values(100))
        names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
        assert not any(name.startswith("UaSession._publish_loop") for name in names)
        assert sum(name == "Collector._publish" for name in names) == PUBLISH_OUTSTANDING
