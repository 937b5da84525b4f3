"""The driver and Mosquitto, a broker that was not written here, with mosquitto_pub as the devices."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from protocols.mqtt import driver as driver_module
from protocols.mqtt.check import Observer
from protocols.mqtt.driver import Driver
from protocols.mqtt.link import driver as link_module
from protocols.mqtt.target import Point
from protocols.samples import GOOD, NOT_LIVE
from tests.support.processes import free_port
from tests.support.programs import need
from tests.support.tls import signed, written
from tests.unit.protocols.mqtt.mqtt_recording import (
    END_S,
    WAIT_S,
    Recording,
    document,
    eventually,
    json_endpoint,
    json_point,
    metric_point,
    payload,
    running,
    sparkplug_endpoint,
)

pytestmark = pytest.mark.live

DYNAMIC_SECURITY = [file for at in ("", "*/") for file in Path("/usr/lib").glob(f"{at}mosquitto_dynamic_security.so")]
JSON: list[Point] = [json_point(0, "hall/a#/x"), json_point(1, "hall/b#/x")]
NODE: list[Point] = [metric_point(0, "G/N/#Uptime", device=0), metric_point(1, "G/N/D#Temp", device=1)]
UPTIME, TEMP = ("Uptime", 8, 5), ("Temp", 3, 20)


class Mosquitto:
    """One broker on a fixed loopback port, so that it can be killed and come back."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *lines: str) -> None:
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join([
            f"listener {self.port} 127.0.0.1", *(lines or ["allow_anonymous true"]), "persistence false", "user root",
            ""]), encoding="utf-8")
        self._process = await asyncio.create_subprocess_exec(
            "mosquitto", "-c", str(config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
        deadline = time.monotonic() + WAIT_S
        while True:
            assert self._process.returncode is None, "mosquitto did not start"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def publish(self, topic: str, body: bytes, *more: str) -> None:
        process = await asyncio.create_subprocess_exec(
            "mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.port), "-t", topic, "-s", *more,
            stdin=asyncio.subprocess.PIPE)
        await process.communicate(body)
        assert process.returncode == 0

    async def listen(self, *more: str) -> asyncio.subprocess.Process:
        """Start mosquitto_sub on everything but $SYS; returns once it hears."""
        process = await asyncio.create_subprocess_exec(
            "mosquitto_sub", "-h", "127.0.0.1", "-p", str(self.port), "-t", "#", "-F", "%t %x", *more,
            stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        while True:
            await self.publish("are/you/there", b"1")
            try:
                line = await asyncio.wait_for(process.stdout.readline(), 0.5)
            except TimeoutError:
                continue
            assert line.startswith(b"are/you/there")
            return process


@pytest.fixture
async def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mosquitto]:
    need("mosquitto", "mosquitto_pub", "mosquitto_sub")
    monkeypatch.setattr(driver_module, "BACKOFF_FIRST_S", 0.05)
    running_broker = Mosquitto(tmp_path)
    yield running_broker
    await running_broker.kill()


async def test_json_live_and_retained(broker: Mosquitto) -> None:
    await broker.start()
    await broker.publish("hall/a", document(x=1), "-r", "-q", "1")
    sink = Recording()
    async with running(Driver(json_endpoint(broker.port), JSON, sink)):
        await eventually(lambda: sink.values(0))
        for qos in ("0", "1", "2"):
            await broker.publish("hall/b", document(x=int(qos)), "-q", qos)
        await broker.publish("hall/a", document(x=7), "-r")
        await broker.publish("hall/a", b"\x00" * 2_000_000)
        await eventually(lambda: len(sink.rows) == 5 and sink.discards["undecodable"] == 1)
    assert [row for row in sink.rows if row[0] == 0] == [(0, 1.0, GOOD | NOT_LIVE), (0, 7.0, GOOD)]
    assert sorted(sink.values(1)) == [0.0, 1.0, 2.0]
    assert set(sink.answers) == {0, 1}


async def test_a_killed_broker_comes_back(broker: Mosquitto) -> None:
    await broker.start()
    nodes, documents = Recording(), Recording()
    births = {"spBv1.0/G/NBIRTH/N": payload(0, UPTIME, bd_seq=1), "spBv1.0/G/DBIRTH/N/D": payload(1, TEMP)}
    async with running(Driver(sparkplug_endpoint(broker.port, rebirth="never"), NODE, nodes)), running(
            Driver(json_endpoint(broker.port), JSON, documents)):
        for life in (1, 2):
            await eventually(lambda life=life: documents.codes().count("mqtt.back") == life - 1)
            await eventually(lambda life=life: nodes.codes().count("mqtt.back") == life - 1)
            deadline = time.monotonic() + WAIT_S
            while documents.values(0)[-1:] != [float(life)] or nodes.calls[-1:] != [("online", (1,))]:
                assert time.monotonic() < deadline  # subscriptions may follow the connection by a moment
                await broker.publish("hall/a", document(x=life))
                for topic, body in births.items():
                    await broker.publish(topic, body)
                await asyncio.sleep(0.05)
            if life == 1:
                await broker.kill()
                await eventually(lambda: nodes.calls[-1] == ("offline", (0, 1)))
                await asyncio.sleep(0.3)  # some attempts in vain
                await broker.start()
    lost = {"mqtt.connection_lost", "mqtt.not_listening"}
    for sink in (nodes, documents):
        codes = [code for code in sink.codes() if not code.startswith("mqtt.node_")]
        assert codes[-1] == "mqtt.back" and set(codes[:-1]) <= lost and len(codes) in (2, 3), codes


async def test_a_wrong_password(broker: Mosquitto, tmp_path: Path) -> None:
    need("mosquitto_passwd")
    (tmp_path / "users").touch()
    process = await asyncio.create_subprocess_exec("mosquitto_passwd", "-b", str(tmp_path / "users"), "gate", "right")
    assert await process.wait() == 0
    await broker.start("allow_anonymous false", f"password_file {tmp_path / 'users'}")
    for word, code in (("wrong", "mqtt.bad_credentials"), ("right", "mqtt.check_no_message")):
        (tmp_path / "word").write_text(word + "\n", encoding="utf-8")
        endpoint = json_endpoint(broker.port, username="gate", password_file=tmp_path / "word", check_s=0.3)
        assert {r.code for r in await Driver(endpoint, JSON, Recording()).check()} == {code}


async def test_a_broker_that_refuses_the_subscription(broker: Mosquitto) -> None:
    """Mosquitto's dynamic security plugin answers SUBACK 0x80; its default lets nobody subscribe to anything."""
    if not DYNAMIC_SECURITY:
        need("mosquitto_dynamic_security.so")
    (broker.folder / "dynsec.json").write_text(json.dumps({
        "defaultACLAccess": {"publishClientSend": True, "publishClientReceive": True, "subscribe": False,
                             "unsubscribe": True},
        "anonymousGroup": "all", "groups": [{"groupname": "all", "roles": [{"rolename": "half"}]}],
        "roles": [{"rolename": "half", "acls": [
            {"acltype": "subscribeLiteral", "topic": "hall/a", "priority": 0, "allow": True}]}]}), encoding="utf-8")
    await broker.start("allow_anonymous true", f"plugin {DYNAMIC_SECURITY[0]}",
                       f"plugin_opt_config_file {broker.folder / 'dynsec.json'}")
    sink = Recording()
    async with running(Driver(json_endpoint(broker.port), JSON, sink)):
        await eventually(lambda: sink.events)
        await broker.publish("hall/b", document(x=1))
        await broker.publish("hall/a", document(x=2))
        await eventually(lambda: sink.values(0))
    assert sink.events == [("mqtt.subscription_refused", "hall", {"count": "1", "named": "hall/b"})]
    assert sink.rows == [(0, 2.0, GOOD)]
    results = await Driver(json_endpoint(broker.port, check_s=0.3), JSON, Recording()).check()
    assert [r.code for r in results] == ["mqtt.check_no_message", "mqtt.subscription_refused"]


async def test_a_broker_that_keeps_topics_silently(
        broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mosquitto's ACL file grants every subscription and then forwards nothing: only silence tells."""
    (tmp_path / "acl").write_text("topic read hall/a\ntopic write hall/#\n", encoding="utf-8")
    await broker.start("allow_anonymous true", f"acl_file {tmp_path / 'acl'}")
    observers: list[Observer] = []

    class Watched(Observer):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            observers.append(self)

    monkeypatch.setattr(driver_module, "Observer", Watched)
    check = asyncio.create_task(Driver(json_endpoint(broker.port, check_s=60), JSON, Recording()).check())
    await eventually(lambda: observers and observers[0].subscribed.is_set())
    await broker.publish("hall/b", document(x=1))
    await broker.publish("hall/a", document(x=1))
    await eventually(lambda: observers[0]._passes(0))
    observers[0].complete.set()  # what came before it would have been heard: no need to wait until `check_s` is over
    assert [r.code for r in await check] == ["mqtt.check_ok", "mqtt.check_no_message"]


async def test_everything_published_is_what_plan_says(broker: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "CLOSE_S", END_S)  # its goodbye is heard before the end, however busy the machine
    await broker.start()
    listener = await broker.listen()
    endpoint = sparkplug_endpoint(broker.port, primary_host_id="scada")
    sink = Recording()
    try:
        async with running(Driver(endpoint, NODE, sink)):
            await eventually(lambda: "mqtt.rebirth_asked" in sink.codes())
            await broker.publish("spBv1.0/G/NBIRTH/N", payload(0, UPTIME, bd_seq=1))
            await broker.publish("spBv1.0/G/DBIRTH/N/D", payload(1, TEMP))
            await broker.publish("spBv1.0/G/DDATA/N/D", payload(2, ("Temp", 3, 21)))
            await eventually(lambda: sink.values(1) == [20.0, 21.0])
        await broker.publish("the/end", b"1")
        assert listener.stdout is not None
        heard: list[tuple[str, bytes]] = []
        while not heard or heard[-1][0] != "the/end":
            topic, _, body = (await asyncio.wait_for(
                listener.stdout.readline(), WAIT_S)).decode().strip().partition(" ")
            heard.append((topic, bytes.fromhex(body)))
    finally:
        listener.kill()
        await listener.wait()
    ours = [(topic, body) for topic, body in heard
            if topic != "the/end" and topic.split("/")[2] not in ("NBIRTH", "DBIRTH", "DDATA", "there")]
    planned = {row["topic"] for row in Driver(endpoint, NODE, Recording()).plan() if row["request"] != "subscribe"}
    assert {topic for topic, _ in ours} == planned == {"spBv1.0/G/NCMD/N", "spBv1.0/STATE/scada"}
    states = [json.loads(body)["online"] for topic, body in ours if "STATE" in topic]
    assert states[0] is True and states[-1] is False and not any(states[states.index(False):])


async def test_the_will_speaks_for_a_gateway_that_fell_silent(broker: Mosquitto) -> None:
    await broker.start()
    listener = await broker.listen()
    try:
        program = (
            "import asyncio, sys\n"
            "from protocols.mqtt.driver import Driver\n"
            "from tests.unit.protocols.mqtt.mqtt_recording import Recording, metric_point, sparkplug_endpoint\n"
            "endpoint = sparkplug_endpoint(int(sys.argv[1]), primary_host_id='scada', rebirth='never')\n"
            "asyncio.run(Driver(endpoint, [metric_point(0, 'G/N/D#T', device=0)], Recording()).run())\n")
        gateway = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(broker.port))
        assert b'"online": true' in await state(listener)
        gateway.kill()
        await gateway.wait()
        assert b'"online": false' in await state(listener)
    finally:
        listener.kill()
        await listener.wait()


async def state(listener: asyncio.subprocess.Process) -> bytes:
    assert listener.stdout is not None
    while True:
        topic, _, body = (await asyncio.wait_for(listener.stdout.readline(), WAIT_S)).decode().strip().partition(" ")
        if topic == "spBv1.0/STATE/scada":
            return bytes.fromhex(body)


async def test_an_encrypted_broker_and_one_that_is_somebody_else(broker: Mosquitto, tmp_path: Path) -> None:
    own, key = written(tmp_path, "broker", signed("plant broker"))
    other, _ = written(tmp_path, "other", signed("somebody else"))
    await broker.start("allow_anonymous true", f"certfile {own}", f"keyfile {key}")
    secure = f"mqtts://127.0.0.1:{broker.port}"
    sink = Recording()
    async with running(Driver(json_endpoint(endpoint=secure, ca_file=own), JSON, sink)):
        deadline = time.monotonic() + WAIT_S
        while not sink.values(0):
            assert time.monotonic() < deadline
            await broker.publish("hall/a", document(x=1), "--cafile", str(own))
    assert sink.codes() == []
    for endpoint, code in ((json_endpoint(endpoint=secure, ca_file=other), "mqtt.bad_certificate"),
                           (json_endpoint(endpoint=secure), "mqtt.bad_certificate"),
                           (json_endpoint(broker.port, timeout_s=1.0), "mqtt.connection_lost")):
        results = await Driver(endpoint, JSON, Recording()).check()
        assert {r.code for r in results} <= {code, "mqtt.no_answer"} and not any(r.ok for r in results)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_a_broker_that_asks_who_we_are(broker: Mosquitto, tmp_path: Path, version: str) -> None:
    """Mutual TLS: our certificate is our name, and nobody without one is let in."""
    plant = signed("plant CA")
    ca, _ = written(tmp_path, "ca", plant)
    server, server_key = written(tmp_path, "broker", signed("plant broker", plant))
    own = dict(zip(("certificate_file", "key_file"), written(tmp_path, "gateway", signed("gateway-7", plant)),
                   strict=True))
    other = dict(zip(("certificate_file", "key_file"), written(tmp_path, "other", signed("gateway-7")), strict=True))
    (tmp_path / "acl").write_text("user gateway-7\ntopic readwrite hall/#\n", encoding="utf-8")
    await broker.start("allow_anonymous false", f"certfile {server}", f"keyfile {server_key}", f"cafile {ca}",
                       "require_certificate true", "use_identity_as_username true", f"acl_file {tmp_path / 'acl'}")
    secure = {"endpoint": f"mqtts://127.0.0.1:{broker.port}", "ca_file": ca, "mqtt_version": version}
    sink = Recording()
    tls = ("--cafile", str(ca), "--cert", str(own["certificate_file"]), "--key", str(own["key_file"]))
    async with running(Driver(json_endpoint(**secure, **own, qos=2), JSON, sink)):
        deadline = time.monotonic() + WAIT_S
        while not sink.values(0):
            assert time.monotonic() < deadline
            await broker.publish("hall/a", document(x=1), "-q", "2", *tls)
    assert sink.codes() == [] and {row[2] for row in sink.rows} == {GOOD}
    for wrong in ({}, other):
        results = await Driver(json_endpoint(**secure, **wrong), JSON, Recording()).check()
        assert {r.code for r in results} == {"mqtt.certificate_refused"}, wrong


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_every_quality_of_service_delivers_once(broker: Mosquitto, version: str) -> None:
    await broker.start()
    sink, sent = Recording(), 300
    async with running(Driver(json_endpoint(broker.port, qos=2, mqtt_version=version), JSON, sink)):
        while not sink.values(1):
            await broker.publish("hall/b", document(x=0))
        for qos in ("0", "1", "2"):
            lines = b"".join(document(x=number) + b"\n" for number in range(sent))
            process = await asyncio.create_subprocess_exec(
                "mosquitto_pub", "-p", str(broker.port), "-t", "hall/a", "-l", "-q", qos, stdin=asyncio.subprocess.PIPE)
            await process.communicate(lines)
            await eventually(lambda qos=qos: len(sink.values(0)) == sent * (int(qos) + 1))
    assert sink.values(0) == [float(number) for number in range(sent)] * 3
    assert {row[2] for row in sink.rows} == {GOOD} and sink.codes() == [] and not sink.discards


async def test_what_the_broker_kept_while_we_were_away_is_not_live(broker: Mosquitto) -> None:
    await broker.start()
    endpoint = json_endpoint(broker.port, mqtt_version="5", client_id="gateway-7", session_expiry_s=600)
    async with running(Driver(endpoint, JSON, sink := Recording())):
        deadline = time.monotonic() + WAIT_S
        while not sink.values(0):
            assert time.monotonic() < deadline
            await broker.publish("hall/a", document(x=0), "-q", "1")
        await broker.publish("hall/a", document(x=-1), "-q", "1")
        await eventually(lambda: sink.values(0)[-1:] == [-1.0])  # nothing is under way that would be kept for us
    results = await Driver(json_endpoint(broker.port, mqtt_version="5", client_id="gateway-7", session_expiry_s=600,
                                         check_s=0.2), JSON, Recording()).check()
    assert {r.code for r in results} == {"mqtt.check_no_message"}, "a check takes no session away"
    for number in range(1, 6):
        await broker.publish("hall/a", document(x=number), "-q", "1")
    async with running(Driver(endpoint, JSON, sink := Recording())):
        await eventually(lambda: len(sink.values(0)) == 5)
        deadline = time.monotonic() + WAIT_S
        while not sink.values(1):
            assert time.monotonic() < deadline
            await broker.publish("hall/b", document(x=7), "-q", "1")
    assert [row for row in sink.rows if row[0] == 0] == [(0, float(n), GOOD | NOT_LIVE) for n in range(1, 6)]
    assert {row[2] for row in sink.rows if row[0] == 1} == {GOOD} and set(sink.answers) == {1}


async def test_one_subscription_for_a_template(broker: Mosquitto) -> None:
    await broker.start()
    points: list[Point] = [json_point(n, f"plant/l{n % 2}/m{n}/state#/x") for n in range(50)]
    sink = Recording()
    async with running(Driver(json_endpoint(broker.port, topics=("plant/{line}/{device}/+",)), points, sink)):
        deadline = time.monotonic() + WAIT_S
        while len(set(sink.answers)) < 2 or "mqtt.stranger" not in sink.codes():
            assert time.monotonic() < deadline
            for topic in ("plant/l0/m4/state", "plant/l1/m49/state", "plant/l1/newcomer/state"):
                await broker.publish(topic, document(x=1))
    assert set(sink.answers) == {4, 49} and set(sink.discards) == {"unknown_point"}
