"""`check`, `trust` and `plan` against a simulated plant, and against servers that refuse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.gateway import load_gateway
from gateway.commissioning.check import DeviceCheck, check_devices
from gateway.commissioning.state import State
from gateway.commissioning.trust import approve, certificates, folders_of
from gateway.commissioning_commands import _identity_lines, _probe_lines
from gateway.probing.checking import PlantCheck, check_plant, plan
from protocols.errors import ConfigError, DeviceError, Problem
from simulators.plant import Plant
from simulators.settings import PlantFile
from tallystick.__main__ import main
from tallystick.words.lookup import Words
from tests.unit.gateway.commissioning.plants import USCC, device, plant, point, write

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def simulated(tmp_path: Path) -> AsyncIterator[Path]:
    """A running plant of 40 devices and the configuration of its gateway; returns gateway.toml."""
    running = Plant(PlantFile(), tmp_path / "plant")
    await running.start()
    try:
        folder = tmp_path / "plant"
        connections = (folder / "connections.toml").read_text(encoding="utf-8")
        connections = connections.replace('protocol = "mqtt"', 'protocol = "mqtt"\ncheck_s = 40.0\ntimeout_s = 30.0')
        connections = connections.replace('protocol = "sparkplug_b"',
                                          'protocol = "sparkplug_b"\ncheck_s = 40.0\ntimeout_s = 30.0')
        # Who answers shares this process: on a loaded machine seconds pass between a request and its turn. Of the unit
        # that never answers none are waited for.
        assert "timeout_s = 0.5" in connections and "timeout_s = 4.0" in connections
        connections = connections.replace("timeout_s = 4.0", "timeout_s = 30.0")
        silent_units = f"[[connections.units]]\nids = {sorted(dead_units(folder))}\ntimeout_s = 0.5\n"
        connections = connections.replace("timeout_s = 0.5\n", f"timeout_s = 30.0\n{silent_units}")
        (folder / "gateway.toml").write_text(
            f'[gateway]\nsite = "S"\nuscc = "{USCC}"\nledger_date = 2026-11-01\n\n{connections}', encoding="utf-8")
        yield folder / "gateway.toml"
    finally:
        await running.stop()


def silent(connection: str, passed: int, devices: int) -> None:
    """No progress is shown."""


def dead_of(folder: Path) -> set[str]:
    truth = json.loads((folder / "plant.json").read_text(encoding="utf-8"))
    return {d["id"] for d in truth["each"] if d["expected"] == "no_valid_data"}


def dead_units(folder: Path) -> set[int]:
    """Return the units of dead devices behind Modbus gateways."""
    rows = (row.split(",") for row in (folder / "points.csv").read_text(encoding="utf-8").splitlines()[1:])
    return {int(row[2].split("/")[0]) for row in rows if row[0] in dead_of(folder)}


async def test_every_device_but_the_dead_one_passes_once_the_certificate_is_trusted(simulated: Path) -> None:
    trusted = simulated.parent / "pki" / "trust"
    shutil.rmtree(trusted)
    config = load_gateway(simulated)
    told: list[tuple[str, int, int]] = []
    checks = await check_devices(config, lambda *progress: told.append(progress))
    assert [c.device for c in checks] == [d.id for d in config.devices]
    dead = dead_of(simulated.parent)
    assert len(dead) == 1
    failed = {c.device: c for c in checks if not c.ok}
    behind = {d.id for d in config.devices if d.connection == "machines"}
    assert failed.keys() == dead | behind
    assert {failed[id_].code for id_ in behind} == {"opcua.untrusted_certificate"}
    assert sorted(told) == sorted(
        (name, sum(c.ok for c in checks if c.connection == name), sum(c.connection == name for c in checks))
        for name in config.protocols)

    waiting = certificates(folders_of(config))
    assert [(c.state, c.connections) for c in waiting] == [("refused", ("machines",))]
    fingerprint = dict(failed[min(behind)].args)["fingerprint"]
    assert waiting[0].fingerprint == fingerprint and waiting[0].uris and waiting[0].end > waiting[0].start
    with pytest.raises(ConfigError) as short:
        approve(folders_of(config), fingerprint[:15], config.file.name)
    assert short.value.problems[0].code == "commissioning.short_fingerprint"
    with pytest.raises(ConfigError) as unknown:
        approve(folders_of(config), "0" * 64, config.file.name)
    assert unknown.value.problems[0].code == "commissioning.unknown_fingerprint"
    spoken = " ".join(fingerprint[at:at + 4] for at in range(0, 32, 4)).upper()  # half of it, as read from a display
    assert approve(folders_of(config), spoken, config.file.name).fingerprint == fingerprint
    assert [(c.state, c.path.parent) for c in certificates(folders_of(config))] == [("trusted", trusted)]
    with pytest.raises(ConfigError) as again:
        approve(folders_of(config), fingerprint, config.file.name)
    assert again.value.problems[0].code == "commissioning.trusted_already"

    checks = await check_devices(config, silent)
    assert {c.device for c in checks if not c.ok} == dead


def _check_identity(simulated: Path, found: PlantCheck) -> None:
    """The plant has one machine that is reached by two protocols; its ledger is right in everything else."""
    truth = json.loads((simulated.parent / "plant.json").read_text(encoding="utf-8"))
    twice, = (d["id"] for d in truth["each"] if d["expected"] == "duplicate_identity")
    finding, = found.findings
    assert (finding.code, found.unasked) == ("identity.same_device", []) and twice in finding.devices
    shown = {seen.connection: seen.shown() for seen in found.facts}
    assert {"serial_number", "vendor_name", "product_instance_uri", "server_application_uri",
            "server_certificate_sha256", "server_key_sha256"} <= shown["machines"].keys()
    assert {"vendor_name", "model_name", "place", "unit"} <= shown["utilities-a"].keys()
    assert shown["edge"].keys() == {"edge_node"} and "sensors" not in shown
    told = "\n".join(_identity_lines(found, Words("zh")))
    assert twice in told and "铭牌" in told


async def test_a_server_that_lets_us_in_is_challenged_once_and_its_answer_decides_nothing(
        simulated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    toml = simulated.read_text(encoding="utf-8")
    config = load_gateway(simulated)
    found = await check_plant(config, silent)
    assert found.probes == [], "without a platform nothing is ever challenged"
    _check_identity(simulated, found)

    first = "[[connections]]"
    simulated.write_text(toml.replace(first, f'[platform]\nurl = "http://127.0.0.1:9"\n\n{first}', 1), encoding="utf-8")
    config = load_gateway(simulated)
    probe, = (await check_plant(config, silent)).probes
    assert (probe.connection, probe.ok, probe.code) == ("machines", False, "probing.no_keys_yet")

    State(config.state_dir).create_keys()
    probe, = (await check_plant(config, silent)).probes
    assert (probe.ok, probe.code) == (True, "probing.ok")
    assert (config.state_dir / "pki" / "prober.der").exists()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise DeviceError(Problem.of("machines", "probing.refused", endpoint="opc.tcp://x", status="S", file="F"))

    monkeypatch.setattr("gateway.probing.driver.ask", refuse)
    found = await check_plant(config, silent)
    assert [(p.ok, p.code) for p in found.probes] == [(False, "probing.refused")]
    assert {c.device for c in found.devices if not c.ok} == dead_of(simulated.parent)
    lines = "\n".join(_probe_lines(config, found.probes, Words("en")))
    assert "put F into the trust list" in lines and "prober.der" in lines and "FAIL" in lines
    simulated.write_text(toml.replace("[[connections]]", '[platform]\nurl = "http://127.0.0.1:9"\n[probing]\n'
                                      "opcua = false\n\n[[connections]]", 1), encoding="utf-8")
    assert (await check_plant(load_gateway(simulated), silent)).probes == []


def test_every_outcome_of_a_check_has_a_sentence(tmp_path: Path) -> None:
    config = plant(tmp_path, [device("a"), device("lonely")], [point("a", 0)])
    checks = asyncio.run(check_devices(config, silent))
    assert [(c.device, c.ok) for c in checks] == [("a", False), ("lonely", False)]
    assert checks[1].code == "commissioning.no_points"
    for lang in ("en", "zh"):
        for check in checks:
            told = Words(lang).tell(check.code, **dict(check.args))
            assert "{" not in told.text + told.fix, told


async def served(handler: Handler) -> tuple[asyncio.Server, int]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def check_of(folder: Path, connection: str, row: str) -> DeviceCheck:
    [found] = await check_devices(plant(folder, [device("a")], [row], tail=connection), silent)
    return found


def modbus(port: int) -> str:
    return f'[[connections]]\nname = "line"\nprotocol = "modbus_tcp"\nendpoint = "tcp://127.0.0.1:{port}"\n' \
           "timeout_s = 30.0\n"


async def modbus_gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A Modbus gateway behind which only unit 1 exists: all others get exception 0x0B."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readexactly(7)
            body = await reader.readexactly(int.from_bytes(head[4:6], "big") - 1)
            count = int.from_bytes(body[3:5], "big")
            reply = bytes([body[0], 2 * count]) + bytes(2 * count) if head[6] == 1 and body[0] == 3 \
                else bytes([body[0] | 0x80, 1 if head[6] == 1 else 0x0B])
            writer.write(head[:4] + (len(reply) + 1).to_bytes(2, "big") + head[6:7] + reply)
    writer.close()


async def test_a_wrong_unit_id_is_told_apart_from_a_right_one(tmp_path: Path) -> None:
    server, port = await served(modbus_gateway)
    async with server:
        right = await check_of(tmp_path, modbus(port), "a,p,1/holding/0,uint16,parameter,,,")
        wrong = await check_of(tmp_path, modbus(port), "a,p,7/holding/0,uint16,parameter,,,")
    assert right.ok, right
    assert (wrong.ok, wrong.code) == (False, "modbus.gateway_exception")
    assert dict(wrong.args)["unit"] == "7"


async def broker_that_knows_nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """CONNACK 5, not authorised (MQTT 3.1.1, section 3.2.2.3)."""
    await reader.read(4096)
    writer.write(b"\x20\x02\x00\x05")
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    writer.close()


async def broker_that_lets_nobody_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accepts the connection and refuses every subscription (SUBACK 0x80, section 3.9.3)."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while head := await reader.readexactly(2):
            body = await reader.readexactly(head[1])  # all packets of this test are shorter than 128 bytes
            if head[0] >> 4 == 1:
                writer.write(b"\x20\x02\x00\x00")
            elif head[0] >> 4 == 8:
                writer.write(b"\x90\x03" + body[:2] + b"\x80")
            elif head[0] >> 4 == 12:
                writer.write(b"\xd0\x00")
            elif head[0] >> 4 == 14:
                break
    writer.close()


@pytest.mark.parametrize(("broker", "code"), [
    (broker_that_knows_nobody, "mqtt.bad_credentials"), (broker_that_lets_nobody_read, "mqtt.subscription_refused")])
async def test_a_broker_without_permission(tmp_path: Path, broker: Handler, code: str) -> None:
    server, port = await served(broker)
    (tmp_path / "password").write_text("wrong\n")
    connection = (f'[[connections]]\nname = "line"\nprotocol = "mqtt"\nendpoint = "mqtt://127.0.0.1:{port}"\n'
                  'username = "u"\npassword_file = "password"\ncheck_s = 30.0\ntimeout_s = 15.0\n')
    async with server:
        found = await check_of(tmp_path, connection, "a,p,plant/a#/x,float64,parameter,,,")
    assert (found.ok, found.code) == (False, code)
    assert "fix" in (Words("zh").explain(found.code) or {})


@pytest.mark.parametrize(("connection", "row"), [
    (modbus(1), "a,p,1/holding/0,uint16,parameter,,,"),
    ('[[connections]]\nname = "line"\nprotocol = "opc_ua"\nendpoint = "opc.tcp://127.0.0.1:1"\ntimeout_s = 30.0\n',
     "a,p,nsu=urn:x;s=a,,parameter,,,"),
    ('[[connections]]\nname = "line"\nprotocol = "mqtt"\nendpoint = "mqtt://127.0.0.1:1"\ncheck_s = 30.0\n',
     "a,p,plant/a#/x,float64,parameter,,,"),
    ('[[connections]]\nname = "line"\nprotocol = "sparkplug_b"\nendpoint = "mqtt://127.0.0.1:1"\ncheck_s = 30.0\n',
     "a,p,g/n/d#m,,parameter,,,"),
], ids=["modbus", "opc_ua", "mqtt", "sparkplug_b"])
async def test_an_unreachable_endpoint(tmp_path: Path, connection: str, row: str) -> None:
    found = await check_of(tmp_path, connection, row)
    assert not found.ok and found.code.partition(".")[0] in ("modbus", "opcua", "mqtt")
    for lang in ("en", "zh"):
        told = Words(lang).tell(found.code, **dict(found.args))
        assert told.fix and "{" not in told.text


async def test_a_library_that_fails_stops_no_other_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from protocols.modbus.driver import Driver

    async def fails(self: Driver) -> list[Any]:
        if self._endpoint.name == "line":
            raise LookupError("never seen before")
        return []

    monkeypatch.setattr(Driver, "check", fails)
    two = modbus(1) + modbus(2).replace('"line"', '"other"')
    config = plant(tmp_path, [device("a"), device("b", connection="other")], [point("a", 0), point("b", 1)], tail=two)
    checks = await check_devices(config, silent)
    assert checks[0].code == "commissioning.check_failed" and dict(checks[0].args)["kind"] == "LookupError"
    assert checks[1].code == "commissioning.no_points"


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else is given."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def test_the_command_prints_a_table_causes_and_json(tmp_path: Path, dead_port: int,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, [device("press-1", uscc=""), device("b")],
                 [point("press-1", 0), point("b", 1)], tail=modbus(dead_port))
    assert main(["check", str(file)]) == 1
    shown = capsys.readouterr()
    assert "press-1" in shown.out and "FAIL" in shown.out and "0/2 devices pass" in shown.out
    assert "fix: " in shown.out and "1 device(s) have no owner" in shown.out
    assert "line: 0/2" in shown.err
    assert main(["check", str(file), "--lang", "zh"]) == 1
    shown = capsys.readouterr()
    assert "未通过" in shown.out and "处理办法" in shown.out
    assert main(["check", str(file), "--json", "--lang", "zh"]) == 1
    body = json.loads(capsys.readouterr().out)
    assert body["ok"] is False and [d["device"] for d in body["devices"]] == ["press-1", "b"]
    assert all(d["message"].isascii() for d in body["devices"])
    assert not (tmp_path / "state" / "roster.json").exists()


def test_plan_lists_what_may_be_sent_and_opens_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("plan must not open a socket")

    sparkplug = ('[[connections]]\nname = "edge"\nprotocol = "sparkplug_b"\nendpoint = "mqtt://127.0.0.1:1"\n'
                 'rebirth = "auto"\nprimary_host_id = "host"\n')
    file = write(tmp_path, [device("a"), device("b", connection="edge")],
                 [point("a", 0), "b,m,g/n/d#m,,parameter,,,"], tail=modbus(1) + sparkplug)
    monkeypatch.setattr(socket, "socket", forbidden)
    connections = plan(load_gateway(file))
    monkeypatch.undo()
    assert [c["connection"] for c in connections] == ["line", "edge"]
    assert connections[0]["requests"][0]["device"] == "a" and connections[0]["sends"] == []
    assert {row["topic"] for row in connections[1]["sends"]} == {"spBv1.0/g/NCMD/n", "spBv1.0/STATE/host"}
    assert main(["plan", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "Messages that may be sent" in shown and "spBv1.0/g/NCMD/n" in shown
    assert main(["plan", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == connections
    assert all(c["probes"] == [] for c in connections) and "No platform is configured" in shown
    file = write(tmp_path / "asked", [device("a"), device("b", connection="edge"), device("c", connection="plc")],
                 [point("a", 0), "b,m,g/n/d#m,,parameter,,,", "c,m,nsu=urn:x;s=m,,parameter,,,"],
                 tail='[platform]\nurl = "https://x"\n[probing]\nreads_per_window = 3\n' + modbus(1) + sparkplug +
                      '[[connections]]\nname = "plc"\nprotocol = "opc_ua"\nendpoint = "opc.tcp://127.0.0.1:1"\n')
    asked = {c["connection"]: c["probes"][0] for c in plan(load_gateway(file))}
    assert asked["line"]["count"].startswith("<= 3 per 3600 s") and asked["edge"]["request"] == "none"
    assert asked["plc"]["request"] == "CreateSession, CloseSession" and "<= 6 an hour" in asked["plc"]["count"]
    assert main(["plan", str(file)]) == 0
    assert "Asked besides" in capsys.readouterr().out
    quiet = write(tmp_path / "quiet", [device("a")], [point("a", 0)])
    assert main(["plan", str(quiet)]) == 0
    assert "Nothing is ever sent" in capsys.readouterr().out
