"""Walking a server: first one of dictionaries, then asyncua's, then the command with its two files."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua as _ua

from config.ledger import read_ledger
from gateway.commissioning.discover import device_ids, discover_command, tables
from protocols.errors import ConfigError, DeviceError
from protocols.opcua import discovery
from protocols.opcua.discovery import Found, Machine, Reference, Walk, suggest, walk
from protocols.opcua.driver import OpcUaDriver
from protocols.opcua.link import driver as link_module
from protocols.opcua.target import parse_address
from tallystick.words.lookup import Words
from tests.unit.protocols.opcua.bench import Plant, Recorder, endpoint, free_port, plant_on, serving

ua: Any = _ua
URI = "urn:found"


class Clock:
    """Time that only browsing and sleeping take."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, pause_s: float) -> None:
        self.now_s += pause_s
        self.slept_s += pause_s


class Tree:
    """A server of dictionaries: node -> names below it. `~` marks a property, `.` a variable."""

    def __init__(self, below: dict[str, list[str]], clock: Clock, node_s: float = 0.001) -> None:
        self.below, self.clock, self.node_s = below, clock, node_s
        self.sizes: list[int] = []

    async def browse(self, nodes: Sequence[Hashable]) -> list[list[Reference]]:
        self.sizes.append(len(nodes))
        self.clock.now_s += self.node_s * len(nodes)
        return [[Reference(key=name, address=address(name), name=name.lstrip("~."), is_variable=name[0] in "~.",
                           is_property=name[0] == "~") for name in self.below.get(str(node), [])] for node in nodes]

    async def walked(self, **changes: Any) -> Walk:
        return await walk("root", self.browse, clock=self.clock, sleep=self.clock.sleep,
                          **({"batch": 50} | changes))


def address(name: str) -> str:
    known = {"Machines": discovery.MACHINES, "DeviceSet": discovery.DEVICE_SET,
             "Server": "nsu=http://opcfoundation.org/UA/;i=2253"}
    return known.get(name, f"nsu={URI};s={name}")


async def test_ten_thousand_nodes_with_circles_are_walked_once_within_the_load() -> None:
    below = {"root": [f"m{i}" for i in range(200)]} | {
        f"m{i}": [*(f".m{i}v{k}" for k in range(49)), f"m{(i + 1) % 200}", "Server"] for i in range(200)}
    clock = Clock()
    tree = Tree(below, clock)
    found = await tree.walked()
    assert len(found.nodes) == len({n.key for n in found.nodes}) == 10_000
    assert found.is_whole
    assert found.requests == len(tree.sizes) < 300
    assert tree.sizes[:2] == [1, 20] and max(tree.sizes) == 50
    assert found.asked_s == pytest.approx(clock.now_s - clock.slept_s)
    assert found.asked_s / clock.now_s < discovery.LOAD + 0.01, "it has the other half of the time for others"
    assert all(n.name != "Server" for n in found.nodes)


async def test_a_slow_server_is_asked_for_less_at_once() -> None:
    tree = Tree({"root": [f"n{i}" for i in range(400)]}, Clock(), node_s=0.02)
    found = await tree.walked()
    assert len(found.nodes) == 400
    assert max(tree.sizes) * 0.02 <= 2 * discovery.LATENCY_S, tree.sizes
    assert tree.sizes[1] == discovery.FIRST_NODES * 2 and tree.sizes[2] == discovery.FIRST_NODES


async def test_too_many_and_too_deep_are_told() -> None:
    wide = await Tree({"root": [f"n{i}" for i in range(100)]}, Clock()).walked(nodes_max=10)
    assert (len(wide.nodes), wide.is_whole) == (10, False)
    deep = await Tree({("root" if i == 0 else f"d{i}"): [f"d{i + 1}"] for i in range(60)}, Clock()).walked()
    assert (len(deep.nodes), deep.is_whole) == (discovery.DEPTH_MAX, False)


def names(found: Walk, machines: Sequence[Machine]) -> list[tuple[str, str, str, list[str]]]:
    return [(m.name, m.why, machines[m.parent].name if m.parent >= 0 else "",
             [found.nodes[p].name for p in m.points]) for m in machines]


async def test_machines_device_sets_nameplates_and_places() -> None:
    found = await Tree({
        "root": ["Machines", "DeviceSet", "line", "loose", ".top", "Server"],
        "Machines": ["press"], "press": ["Identification", "axes", ".running"],
        "Identification": ["~SerialNumber", "~Manufacturer", ".DeviceClass"], "axes": [".x", "spindle"],
        "spindle": ["~ProductInstanceUri", ".rpm", "~EURange"], ".rpm": [".rpm_raw"],
        "DeviceSet": ["meter"], "meter": [".kwh"],
        "line": ["robot"], "robot": [".SerialNumber", ".torque"],
        "loose": ["folder"], "folder": [".pressure"]}, Clock()).walked()
    assert sorted(names(found, suggest(found.nodes))) == sorted([
        ("press", "machines", "", ["running", "x"]), ("spindle", "nameplate", "press", ["rpm", "rpm_raw"]),
        ("meter", "device_set", "", ["kwh"]), ("robot", "nameplate", "", ["torque"]),
        ("loose", "position", "", ["pressure"]), ("server", "position", "", ["top"])])


def test_names_of_a_hostile_server_become_a_ledger_that_loads(tmp_path: Path) -> None:
    bad = ["=1+1", "", "冲压机", "a" * 300, "x\n\"y\",z", "same", "same", "SAME", "..", "b;s=#Value"]
    nodes, machines = [], []
    for number, name in enumerate(bad):
        nodes.append(Found(key=number, address=f"nsu=urn:a;i={number}", name=name, parent=-1, depth=0,
                           is_variable=False, is_property=False))
        nodes += [Found(key=(number, k), address=parse_address(f"nsu=urn:a;s={number} {k} {name!a}").node,
                        name=name, parent=2 * number + number * 1, depth=1, is_variable=True, is_property=False,
                        data_type="bool" if k else "") for k in range(2)]
        machines.append(Machine(node=3 * number, name=name, why="position", parent=number - 1,
                                plate={"manufacturer": name}, points=[3 * number + 1, 3 * number + 2]))
    texts = tables(nodes, machines, connection="line")
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode("utf-8-sig"))
    ledger, problems = read_ledger(tmp_path / "devices.csv", tmp_path / "points.csv", frozenset(["line"]))
    assert problems == []
    assert len(ledger.devices) == len(bad) == len({i.lower() for i in device_ids(machines)})
    assert ledger.devices[0].name == "'=1+1" and ledger.devices[2].name == "冲压机"
    assert [p.role for p in ledger.points[:2]] == ["parameter", "switch"]
    assert all(parse_address(p.address).canonical for p in ledger.points)


async def machine_on(plant: Plant) -> None:
    """A machine with nameplate and 30 variables in a folder, that asyncua's server pages when asked to."""
    press = await plant.server.nodes.objects.add_object(ua.NodeId("press", plant.index), "press 1")
    identification = await press.add_object(ua.NodeId("id", plant.index), "Identification")
    await identification.add_property(ua.NodeId("sn", plant.index), "SerialNumber", "=S-7")
    await identification.add_property(ua.NodeId("mk", plant.index), "Manufacturer", ua.LocalizedText("Works"))
    values = await press.add_folder(ua.NodeId("values", plant.index), "values")
    for number in range(30):
        await values.add_variable(ua.NodeId(f"v{number}", plant.index), f"v{number}", number % 2 == 0)


class Pager:
    """A session whose folder is listed a node a page: `pages` of them, or without end."""

    def __init__(self, pages: int | None) -> None:
        self.pages, self.asked, self.released = pages, 1, 0

    def _page(self) -> Any:
        node = ua.ReferenceDescription(NodeId=ua.ExpandedNodeId(self.asked, 1), BrowseName=ua.QualifiedName("v", 1),
                                       NodeClass=ua.NodeClass.Variable)
        return ua.BrowseResult(ContinuationPoint=None if self.asked == self.pages else b"more", References=[node])

    async def browse(self, parameters: Any) -> list[Any]:
        return [self._page() for _ in parameters.NodesToBrowse]

    async def browse_next(self, parameters: Any) -> list[Any]:
        if parameters.ReleaseContinuationPoints:
            self.released += 1
            if self.pages is None:
                raise ua.UaStatusCodeError(ua.StatusCodes.BadServiceUnsupported)
            return []
        self.asked += 1
        return [self._page()]


@pytest.mark.parametrize(("pages", "found", "endless"), [(1, 1, 0), (20, 20, 0), (21, 20, 1), (None, 20, 1)])
async def test_a_node_with_pages_without_end_is_left_and_named(
        pages: int | None, found: int, endless: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "PAGES_MAX", 20)
    pager = Pager(pages)
    client: Any = type("Client", (), {"our_session": pager})()
    link = link_module.Link(client=client, server_certificate=None, namespaces={URI: 1})
    folder = ua.NodeId(ua.ObjectIds.ObjectsFolder)
    (listed,) = await link.references([folder])
    assert [reference.address for reference in listed] == [f"nsu={URI};i={number}" for number in range(1, found + 1)]
    assert link.endless == [folder] * endless
    assert pager.released == endless, "the server may forget the rest"


async def test_a_real_server_gives_a_ledger_and_keeps_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(link_module, "REFERENCES_MAX", 7)
    async with serving(free_port()) as server:
        plant = await plant_on(server, URI)
        await machine_on(plant)
        found, machines = await OpcUaDriver(endpoint(plant.port, tmp_path), [], Recorder()).discover()
        assert found.is_whole
        assert sorted((m.name, m.why, len(m.points)) for m in machines) == [
            ("press 1", "nameplate", 30), ("server", "position", 3)]
        press = next(m for m in machines if m.name == "press 1")
        press_address = found.nodes[press.node].address
        assert press.plate == {"serial_number": "=S-7", "manufacturer": "Works"}
        assert plant.sessions == []

        args = argparse.Namespace(
            protocol="opcua", endpoint=f"opc.tcp://127.0.0.1:{plant.port}/test", out=tmp_path / "found", dir=tmp_path,
            connection="line", security_policy="", security_mode="", insecure=True, username=None, password_file=None,
            max_nodes=1000)
        assert await asyncio.to_thread(discover_command, args, Words("en")) == 0
        shown = capsys.readouterr().out
        assert "press-1" in shown and "has a nameplate" in shown and "33 points" in shown
        ledger, problems = read_ledger(args.out / "devices.csv", args.out / "points.csv", frozenset(["line"]))
        assert problems == []
        assert {(d.id, d.maker, d.serial) for d in ledger.devices} == {("press-1", "Works", ""), ("server", "", "")}, \
            "a serial number that a spreadsheet would compute is left to a person"
        assert {p.type for p in ledger.points if p.device == "press-1"} == {"bool"}
        with pytest.raises(ConfigError, match=r"commissioning\.exists"):
            await asyncio.to_thread(discover_command, args, Words("en"))

        real, args.out = link_module.Link.references, None

        async def endless(self: link_module.Link, nodes: Sequence[Any]) -> list[list[Reference]]:
            self.endless += nodes
            return await real(self, nodes)

        monkeypatch.setattr(link_module.Link, "references", endless)
        assert await asyncio.to_thread(discover_command, args, Words("en")) == 0
        assert f"{press_address} is listed in more than" in capsys.readouterr().err

        monkeypatch.setattr(discovery, "LOAD", 1e-9)
        task = asyncio.create_task(OpcUaDriver(endpoint(plant.port, tmp_path), [], Recorder()).discover())
        while not plant.sessions:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task], timeout=60)
        assert task.cancelled()
        assert plant.sessions == []


async def test_who_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"opcua\.unreachable"):
        await OpcUaDriver(endpoint(free_port(), tmp_path), [], Recorder()).discover()
