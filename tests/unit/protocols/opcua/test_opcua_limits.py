"""What servers bear: profiles, limits of items, polling, one bad node among a thousand, and their clocks."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua as _ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary

from protocols.opcua import session
from protocols.opcua.driver import OpcUaDriver
from protocols.opcua.guarded.driver import GuardedSession
from protocols.opcua.link.driver import Link
from protocols.opcua.profiles import PROFILES, UNKNOWN, recognise
from protocols.opcua.target import OpcUaPoint, parse_address
from protocols.samples import BAD
from tests.unit.protocols.opcua.bench import Plant, Recorder, endpoint, free_port, plant_on, running, serving, until

ua: Any = _ua
pytestmark = pytest.mark.asyncio(loop_scope="module")
_numbers = itertools.count()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[Any]:
    async with serving(free_port()) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def plant(server: Any) -> Plant:
    return await plant_on(server, f"urn:test:limits:{next(_numbers)}")


@pytest.mark.parametrize(("info", "name"), [
    (("Siemens AG", "SIMATIC S7-1500", "https://www.siemens.com/s7-1500"), "s7_1500"),
    (("Siemens AG", "S7-1200", ""), "s7_1200"), (("Kepware", "KEPServerEX", ""), "kepware"),
    (("Inductive Automation", "Ignition OPC UA Server", ""), "ignition"), (("", "", ""), "unknown")])
async def test_a_server_is_known_by_its_build_info(info: tuple[str, ...], name: str) -> None:
    assert recognise(*info).name == name


@pytest.mark.parametrize(("profile", "stated", "batch"), [
    ("unknown", None, 50), ("unknown", 0, 50), ("unknown", 30, 30), ("unknown", 10**9, 1000), ("s7_1200", None, 100),
    ("s7_1200", 1000, 100), ("s7_1200", 20, 20), ("s7_1500", 1000, 500), ("kepware", None, 1000),
    ("ignition", 1000, 100)])
async def test_batches_are_small_unless_the_server_says_more(profile: str, stated: int | None, batch: int) -> None:
    assert PROFILES[profile].batch_of(stated) == batch


async def test_the_least_limit_of_items_holds() -> None:
    assert UNKNOWN.items_of(None, 0) is None
    assert PROFILES["s7_1200"].items_of(None, 0) == 1000
    assert PROFILES["s7_1200"].items_of(5000, 300) == 300


async def test_ten_times_the_limit_and_never_too_many(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile of 10 per request and 40 items, 400 points, and a server that refuses what is more."""
    small = UNKNOWN.__class__(name="unknown", batch=10, items_max=40, is_ceiling=True)
    monkeypatch.setitem(PROFILES, "unknown", small)
    names, outstanding, sizes = [f"v{i}" for i in range(400)], 0, []
    real = GuardedSession.create_monitored_items

    async def watched(self: GuardedSession, parameters: Any) -> Any:
        nonlocal outstanding
        outstanding += 1
        sizes.append(len(parameters.ItemsToCreate))
        assert outstanding == 1, "requests that create items follow one another"
        try:
            return await real(self, parameters)
        finally:
            outstanding -= 1

    monkeypatch.setattr(GuardedSession, "create_monitored_items", watched)
    await plant.add(names)
    sink = Recorder()
    settings = endpoint(plant.port, tmp_path, profile="unknown", poll_s=0.2)
    async with running(OpcUaDriver(settings, plant.points(names), sink)):
        await until(lambda: len(sink.points) == 400)
        await plant.write("v399", 9000.5)
        await until(lambda: 9000.5 in sink.values(499))
    assert sizes == [10] * 4
    assert [(code, args["limit"], args["count"]) for code, _, args in sink.events] == [
        ("opcua.items_over_limit", 40, 360)], "told once, and no BadTooManyOperations"


async def test_items_that_the_server_refuses_for_their_number_are_polled(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = GuardedSession.create_monitored_items

    async def full(self: GuardedSession, parameters: Any) -> Any:
        wanted, parameters.ItemsToCreate = parameters.ItemsToCreate, parameters.ItemsToCreate[:1]
        refused = ua.MonitoredItemCreateResult(StatusCode=ua.StatusCode(ua.StatusCodes.BadTooManyMonitoredItems))
        return [*await real(self, parameters), *[refused] * (len(wanted) - 1)]

    monkeypatch.setattr(GuardedSession, "create_monitored_items", full)
    sink = Recorder()
    async with running(OpcUaDriver(endpoint(plant.port, tmp_path, poll_s=0.1), plant.points(["a", "b", "c"]), sink)):
        await until(lambda: len(sink.values(102)) > 2)
    assert len(sink.values(100)) == 1
    assert sink.codes() == ["opcua.items_over_limit"]


async def test_polling_has_no_subscription_and_names_what_is_not_there(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "RETRY_FIRST_S", 0.3)
    sink = Recorder()
    wanted = [*plant.points(["a", "b", "later"]),
              OpcUaPoint(point_index=900, device_index=9, address=parse_address("nsu=urn:nobody;i=1"))]
    driver = OpcUaDriver(endpoint(plant.port, tmp_path, reads="polling", poll_s=0.1), wanted, sink)
    assert any(row["detail"].startswith("4 points") for row in driver.plan())
    async with running(driver):
        await until(lambda: len(sink.values(101)) > 3)
        assert (len(plant.sessions), plant.subscriptions) == (1, [])
        await until(lambda: set(sink.codes()) == {"opcua.bad_node", "opcua.namespace_unknown"})
        assert set(sink.qualities(102)) == {BAD}
        await until(lambda: len(sink.values(102)) < len(sink.values(101)), "not asked in every round")
        await plant.add(["later"])
        await until(lambda: sink.qualities(102)[-1:] != [BAD])
        await until(lambda: "opcua.nodes_back" in sink.codes())
        for gone in plant.sessions:
            await gone.close_session(True)
        seen = len(sink.values(100))
        await until(lambda: len(sink.values(100)) > seen)
    assert 2 not in sink.devices or sink.qualities(102)[-1:] != [BAD]
    assert plant.sessions == []


async def test_one_bad_node_of_a_thousand_stops_no_other(plant: Plant, tmp_path: Path) -> None:
    names = [f"v{i}" for i in range(999)]
    await plant.add(names)
    wanted = plant.points([*names[:500], "bad", *names[500:]])
    sink = Recorder()
    async with running(OpcUaDriver(endpoint(plant.port, tmp_path), wanted, sink)):
        await until(lambda: len(sink.points) == 999)
        await until(lambda: sink.events)
        await plant.write("v998", 5.5)
        await until(lambda: 5.5 in sink.values(100 + 999))
    (code, _, args), = sink.events
    assert (code, args["address"]) == ("opcua.bad_node", f"nsu={plant.uri};s=bad#Value")


async def test_a_clock_that_is_off_is_told_and_when_it_is_right_again(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CLOCK_S", 0.05)
    real, shift = Link.server_time, timedelta(seconds=-7)

    async def shifted(self: Link) -> datetime | None:
        told = await real(self)
        return None if told is None else told + shift

    monkeypatch.setattr(Link, "server_time", shifted)
    sink = Recorder()
    driver = OpcUaDriver(endpoint(plant.port, tmp_path), plant.points(["a"]), sink)
    async with running(driver):
        await until(lambda: sink.codes() == ["opcua.clock_off"])
        assert -30 < float(sink.events[0][2]["offset_s"]) < -5, "seconds; a machine that stood still adds some"
        shift = timedelta()
        await until(lambda: sink.codes() == ["opcua.clock_off", "opcua.clock_right"])
        await until(lambda: abs(driver.clock_offset_s() or 9.0) < 5)


async def test_the_time_is_the_servers_own(plant: Plant, tmp_path: Path) -> None:
    link = await OpcUaDriver(endpoint(plant.port, tmp_path), plant.points(["a"]), Recorder())._open()
    try:
        told = await link.server_time()
    finally:
        await link.close()
    assert told is not None and abs(told - datetime.fromtimestamp(time.time(), UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("reads", ["subscription", "polling"])
async def test_the_times_of_source_server_and_receipt_are_kept_apart(
        plant: Plant, tmp_path: Path, reads: str) -> None:
    source = datetime(2026, 1, 2, tzinfo=UTC)
    await plant.nodes["a"].write_value(ua.DataValue(ua.Variant(5.0, ua.VariantType.Double), SourceTimestamp=source))
    sink, before_ns = Recorder(), time.time_ns()
    asked = endpoint(plant.port, tmp_path, reads=reads, poll_s=0.1, server_timestamps=True)
    async with running(OpcUaDriver(asked, plant.points(["a"]), sink, clock_ns=lambda: 7)):
        await until(lambda: sink.batches)
    first = sink.batches[0]
    assert first.source_ns.tolist() == [int(source.timestamp()) * 10**9]
    assert first.received_ns.tolist() == [7]
    assert first.server_ns is not None
    assert before_ns - 60 * 10**9 < first.server_ns[0] <= time.time_ns(), "this server tells when it answers"


@pytest.mark.parametrize(("wanted", "asked"), [(True, "Both"), (False, "Source")])
async def test_the_time_of_the_server_is_asked_for_where_that_is_wanted(
        plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool, asked: str) -> None:
    """asyncua's server tells it unasked, so the requests are looked at."""
    seen: list[str] = []
    monitor = GuardedSession.create_monitored_items

    async def watched(self: GuardedSession, parameters: Any) -> Any:
        seen.append(parameters.TimestampsToReturn.name)
        return await monitor(self, parameters)

    monkeypatch.setattr(GuardedSession, "create_monitored_items", watched)
    sink = Recorder()
    driver = OpcUaDriver(endpoint(plant.port, tmp_path, server_timestamps=wanted), plant.points(["a"]), sink)
    async with running(driver):
        await until(lambda: sink.batches)
        link = await driver._open()
        try:
            await link.learn()
            _, request, _ = link.prepare([plant.points(["a"])[0].address]).parts[0]
        finally:
            await link.close()
    assert seen == [asked]
    assert struct_from_binary(ua.ReadParameters, Buffer(request)).TimestampsToReturn.name == asked
