"""One gateway process before servers that were not written here, from the ledger to an auditor's count."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.live import test_modbus_libmodbus as libmodbus
from tests.live import test_opcua_node as node
from tests.live.test_simulators_mosquitto import Mosquitto
from tests.support.npm import installed
from tests.support.platform_process import tallystick
from tests.support.processes import (
    GatewayFiles,
    covered_once,
    device,
    entries_of,
    export,
    modbus_connection,
    own_policy,
    point,
    running_gateway,
    verdict,
    write_gateway,
)
from tests.support.programs import need

pytestmark = pytest.mark.live

program = node.program  # fixtures: node-opcua and the libmodbus server are installed as for the tests of the drivers
server_program = libmodbus.server_program

UNIT = libmodbus.UNIT
TOPIC = "hall/air"
SPARKPLUG = ("plant", "edge-7", "kiln")
EDGE = Path(__file__).with_name("sparkplug_edge")
SILENT = {"ghost-ua", "ghost-mb", "ghost-js", "ghost-sp", "locked"}
"""One device of each server that the ledger has and the server has not; one behind a broker that lets nobody in."""

DEVICES = [
    device("press", "ua"), device("gauge", "ua"), device("ghost-ua", "ua"), device("pump", "mb"),
    device("valve", "mb"), device("ghost-mb", "mb"), device("air", "js"), device("ghost-js", "js"),
    device("kiln", "sp"), device("edge", "sp"), device("ghost-sp", "sp"), device("locked", "closed")]
POINTS = [
    *(point("press", f"v{i}", f"nsu={node.URI};s=v{i}") for i in range(node.VARIABLES)),
    point("gauge", "level", f"nsu={node.URI};s=still"),  # it never changes: only its reads show that it lives
    point("gauge", "state", f"nsu={node.URI};s=text", "string"),
    point("ghost-ua", "x", f"nsu={node.URI};s=nowhere"),
    point("pump", "flow", f"{UNIT}/holding/100", "float32"), point("pump", "name", f"{UNIT}/holding/110:4", "string"),
    point("pump", "requests", f"{UNIT}/holding/120", "uint16"),
    point("valve", "open", f"{UNIT}/coil/102", "bool", "switch"), point("valve", "at", f"{UNIT}/input/299", "uint16"),
    point("ghost-mb", "x", f"{UNIT}/holding/5000", "uint16"),
    point("air", "t", f"{TOPIC}#/sensors/0/t", "float64"), point("air", "on", f"{TOPIC}#/on", "bool", "switch"),
    point("ghost-js", "t", "hall/nobody#/t", "float64"),
    *(point("kiln", name[:4], f"{'/'.join(SPARKPLUG)}#{name}") for name in ("temperature", "cycles", "door/open")),
    point("edge", "load", f"{'/'.join(SPARKPLUG[:2])}/#load"),
    point("ghost-sp", "x", f"{'/'.join(SPARKPLUG[:2])}/nobody#x"),
    point("locked", "x", "hall/locked#/x", "float64")]


@asynccontextmanager
async def publishing(port: int) -> AsyncIterator[None]:
    """Run mosquitto_pub, which publishes each line that it is given, five times a second."""
    child = await asyncio.create_subprocess_exec(
        "mosquitto_pub", "-p", str(port), "-t", TOPIC, "-q", "1", "-l", stdin=asyncio.subprocess.PIPE)
    assert child.stdin is not None
    pipe = child.stdin

    async def feed() -> None:
        tick = 0
        while True:
            tick += 1
            pipe.write(json.dumps({"sensors": [{"t": 20 + tick % 7 / 10}], "on": tick % 5 > 1}).encode() + b"\n")
            await pipe.drain()
            await asyncio.sleep(0.2)

    feeding = asyncio.create_task(feed())
    try:
        yield
    finally:
        feeding.cancel()
        pipe.close()
        await asyncio.wait_for(child.wait(), 60)


@asynccontextmanager
async def edge_node(folder: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a Sparkplug edge node on sparkplug-client, another hand's, with one device below it."""
    async with libmodbus.process("node", str(folder / "edge.mjs"), str(port), *SPARKPLUG, counts_writes=False) as child:
        assert await libmodbus.line_of(child) == "born"
        yield child


def connections(opcua: int, modbus: int, mqtt: int, closed: int) -> str:
    return (f'[[connections]]\nname = "ua"\nprotocol = "opc_ua"\nendpoint = "opc.tcp://127.0.0.1:{opcua}/live"\n'
            f"publishing_interval_ms = 250\ntimeout_s = 20.0\n{modbus_connection('mb', modbus, timeout_s=20.0)}"
            + "".join(f'[[connections]]\nname = "{name}"\nprotocol = "{protocol}"\n'
                      f'endpoint = "mqtt://127.0.0.1:{port}"\n' for name, protocol, port in
                      (("js", "mqtt", mqtt), ("sp", "sparkplug_b", mqtt), ("closed", "mqtt", closed))))


def checked(files: GatewayFiles) -> dict[str, tuple[bool, str]]:
    """Return what `check --json` says of each device."""
    done = tallystick("check", files.config, "--json", check=False)
    assert done.returncode == 1, done.stderr
    return {row["device"]: (row["ok"], row["code"]) for row in json.loads(done.stdout)["devices"]}


def trust_the_server(files: GatewayFiles, certificate: bytes) -> None:
    """Approve the one certificate that `check` refused, as an engineer does who has compared the fingerprint."""
    listed = tallystick("trust", files.config).stdout
    fingerprint = next(line.split()[-1] for line in listed.splitlines() if "SHA-256" in line)
    kept = next((files.config.parent / "trust").rglob("*.der")).read_bytes()
    assert certificate.startswith(kept), "what the server sent, its chain or the first of it"
    tallystick("trust", files.config, fingerprint)


async def test_every_device_of_foreign_servers_counts_and_no_other(
        program: Path, server_program: Path, tmp_path: Path) -> None:
    need("mosquitto", "mosquitto_pub")
    edge = await asyncio.to_thread(installed, EDGE)
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
    brokers = [Mosquitto(tmp_path / name) for name in ("open", "closed")]
    brokers[1].config.write_text(brokers[1].config.read_text().replace("anonymous true", "anonymous false"))
    ports = [broker.port for broker in brokers]
    try:
        for broker in brokers:
            await broker.start()
        async with node.node_server(program, tmp_path / "node", change_ms=200) as server, \
                libmodbus.process(str(server_program), "tcp") as child, publishing(ports[0]), \
                edge_node(edge, ports[0]) as edge_process:
            modbus_port = int((await libmodbus.line_of(child)).split()[1])
            files = write_gateway(tmp_path / "gateway", devices=DEVICES, points=POINTS, len_s=2, grace_ms=500,
                                  connections=connections(server.port, modbus_port, *ports))
            await asyncio.to_thread(commission_and_collect, files, server.certificate)
            assert await libmodbus.line_of(edge_process) == "rebirth", "who joins late asks for the birth"
    finally:
        for broker in brokers:
            await broker.stop()
    judge(files, tmp_path)


def commission_and_collect(files: GatewayFiles, certificate: bytes) -> None:
    first = checked(files)
    assert {name: first[name] for name in ("press", "gauge", "ghost-ua")} == dict.fromkeys(
        ("press", "gauge", "ghost-ua"), (False, "opcua.untrusted_certificate"))
    trust_the_server(files, certificate)
    tallystick("enrol", files.config, "--self")
    with running_gateway(files) as gateway:
        gateway.until(lambda status: status["devices"]["counted"] == len(DEVICES) - len(SILENT), "all that live count")
        second = checked(files)  # beside the running gateway: no server here minds a second client
        gateway.windows(2)
        status = gateway.status()
        codes = gateway.codes()
        assert gateway.end() == 0
    assert second["locked"] == (False, "mqtt.bad_credentials") and "mqtt.bad_credentials" in codes
    assert {name for name, (ok, _) in second.items() if not ok} == SILENT, second
    assert not [code for code in codes if code.startswith("mqtt.node_")], "packed or not, every number is in its turn"
    assert status is not None
    window = status["window"]
    assert window["received"] == window["counted"] + sum(window["discarded"].values())
    assert window["discarded"]["undecodable"] == 0, "births that `check` asked for cost the gateway nothing"


def judge(files: GatewayFiles, folder: Path) -> None:
    """What an auditor finds who has the bundle and this gateway's key."""
    bundle, policy = export(files, folder / "x.tally"), own_policy(files, folder)
    found = verdict(bundle, policy)
    assert (found["verdict"], found["summary"]["trust"]) == ("valid", "given"), found
    counted = json.loads(tallystick("count", bundle, "--at", "last", "--policy", policy, "--json").stdout)
    reasons = {DEVICES[row["slot"]]["id"]: row["reason"] for row in counted["devices"]}
    assert reasons == {row["id"]: "no_valid_data" if row["id"] in SILENT else None for row in DEVICES}
    assert counted["figures"]["devices"]["configured"] == len(DEVICES)
    assert counted["figures"]["devices"]["counted"] == len(DEVICES) - len(SILENT)
    assert counted["figures"]["points"]["producing"] == len(POINTS) - len(SILENT)
    moving = {DEVICES[row["slot"]]["id"] for row in counted["devices"] if row["changing"]}
    assert {"press", "pump", "air", "kiln"} <= moving and "gauge" not in moving and "valve" not in moving
    assert covered_once(entries_of(bundle)) == []
    with zipfile.ZipFile(bundle) as archive:
        whole = b"".join(archive.read(name) for name in archive.namelist())
    for private in ("SN-press", "VMC-850", "示例机床厂", "machine press", TOPIC, "v117", "PUMP 7"):
        assert private.encode() not in whole, f"{private} left the factory"
