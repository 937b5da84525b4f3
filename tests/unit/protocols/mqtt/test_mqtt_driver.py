"""The driver against a broker that follows a script: what it sends, and how it takes everything that can go wrong."""

from __future__ import annotations

import ast
import asyncio
import json
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocols.errors import ConfigError
from protocols.mqtt import driver as driver_module
from protocols.mqtt.driver import Driver
from protocols.mqtt.link.driver import PACKET_MAX, Link
from protocols.mqtt.target import Point
from protocols.samples import GOOD, NOT_LIVE
from protocols.terms.vocabulary import DISCARD_REASONS
from tests.support.processes import free_port
from tests.support.source import ROOT, imports, source_files, tree
from tests.unit.protocols.mqtt.mqtt_recording import (
    WAIT_S,
    Recording,
    document,
    eventually,
    json_endpoint,
    json_point,
    metric_point,
    pace,
    payload,
    running,
    sparkplug_endpoint,
)
from tests.unit.protocols.mqtt.scripted_broker import (
    CONNECT,
    DISCONNECT,
    PUBACK,
    PUBLISH,
    SUBSCRIBE,
    Peer,
    broker,
    publish,
    text,
)

JSON: list[Point] = [json_point(0, "a#/x"), json_point(1, "b#/x")]
NODE: list[Point] = [metric_point(0, "G/N/#Uptime", device=0), metric_point(1, "G/N/D#Temp", device=1)]
NCMD = "spBv1.0/G/NCMD/N"
UPTIME, TEMP = ("Uptime", 8, 5), ("Temp", 3, 20)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "BACKOFF_FIRST_S", 0.02)


def births(seq: int = 0, bd: int = 1) -> bytes:
    return (publish("spBv1.0/G/NBIRTH/N", payload(seq, UPTIME, bd_seq=bd))
            + publish("spBv1.0/G/DBIRTH/N/D", payload(seq + 1, TEMP)))


async def test_json_from_the_wire_to_the_sink() -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        assert peer.grant() == ["a", "b"]
        peer.send(publish("a", document(x=1), retain=True) + publish("a", document(x=2), qos=1, packet_id=9))
        assert peer.read() == (PUBACK, struct.pack(">H", 9))
        peer.send(publish(b"\xff", b"1") + publish("b", b"x" * (1024 * 1024 + 1)) + publish("b", document(x=3)))
        peer.stay()

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(json_endpoint(server.port), JSON, sink)):
            await eventually(lambda: sink.values(1) and sum(sink.discards.values()) == 2)
        await eventually(lambda: server.seen[-1][0] == DISCONNECT)
    assert sink.rows == [(0, 1.0, GOOD | NOT_LIVE), (0, 2.0, GOOD), (1, 3.0, GOOD)]
    assert set(sink.answers) == {0, 1}
    assert sink.discards == {"unknown_point": 1, "undecodable": 1}
    assert server.published() == []
    assert sink.codes() == ["mqtt.payload_too_large"]


async def test_what_connect_says(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\nsecond line\n", encoding="utf-8")
    endpoint = {"client_id": "line-7", "username": "gate", "password_file": tmp_path / "password", "keepalive_s": 33}
    with broker(lambda peer: peer.accept()) as server:
        async with running(Driver(json_endpoint(server.port, **endpoint), JSON, Recording())):
            await eventually(lambda: server.seen)
    kind, body = server.seen[0]
    assert kind == CONNECT
    flags = 0b1100_0010  # user name, password, clean session; no will
    assert body == text("MQTT") + bytes([4, flags]) + struct.pack(">H", 33) + text("line-7") + text("gate") + text(
        "hunter2")


async def test_what_connect_says_in_mqtt_5() -> None:
    """Clean, without a session and bounded, for a Sparkplug host; a kept session where it was asked for."""
    kept = {"client_id": "line-7", "session_expiry_s": 600}
    for endpoint, points, flags, expiry in (
            (sparkplug_endpoint(mqtt_version="5"), NODE, 2, b""), (json_endpoint(mqtt_version="5"), JSON, 2, b""),
            (json_endpoint(mqtt_version="5", **kept), JSON, 0, b"\x11" + struct.pack(">I", 600))):
        with broker(lambda peer: peer.accept()) as server:
            async with running(Driver(replace(endpoint, endpoint=f"mqtt://127.0.0.1:{server.port}"), points,
                                      Recording())):
                await eventually(lambda server=server: server.seen)
        kind, body = server.seen[0]
        properties = body[11:11 + body[10]]
        assert (kind, body[:8]) == (CONNECT, text("MQTT") + bytes([5, flags]))
        limit = b"\x27" + struct.pack(">I", PACKET_MAX)
        assert properties in (expiry + limit, limit + expiry)


async def test_made_up_client_ids_differ() -> None:
    with broker(lambda peer: peer.accept()) as server:
        async with running(Driver(json_endpoint(server.port), JSON, Recording())):
            await eventually(lambda: server.connections >= 3)
    ids = [body[12:] for kind, body in server.seen if kind == CONNECT]
    assert len(set(ids)) == len(ids) and all(name.startswith(b"tallystick-") for name in ids)


@pytest.mark.parametrize(("connack", "code"), [
    (4, "mqtt.bad_credentials"), (5, "mqtt.bad_credentials"), (2, "mqtt.refused"), (3, "mqtt.refused"),
    (1, "mqtt.connection_lost")])
async def test_a_refusal_is_told_once_and_tried_again(connack: int, code: str) -> None:
    sink = Recording()
    with broker(lambda peer: peer.accept(connack=connack)) as server:
        async with running(Driver(json_endpoint(server.port), JSON, sink)):
            await eventually(lambda: server.connections >= 3)
    assert sink.codes() == [code]


async def test_lost_once_and_back_once() -> None:
    lives = iter(range(100))

    def script(peer: Peer) -> None:
        life = next(lives)
        if life in (1, 2, 3):
            return  # closed before CONNACK
        peer.accept()
        peer.grant()
        peer.send(publish("a", document(x=life)))
        if life:
            peer.stay()

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(json_endpoint(server.port), JSON, sink)):
            await eventually(lambda: sink.values(0) == [0.0, 4.0])
    assert sink.codes() == ["mqtt.connection_lost", "mqtt.back"]


@pytest.mark.parametrize("garbage", [
    b"\x20\x00", b"\xff" * 20, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x30\x02\x00\x09", b"\x30\x00", b"\x90\x01\x00",
    b"\x20\x02\x00", b"\x00\x00", b"\x62\x02\x00\x01", b"\x30\xff\xff\xff\xff\x01"], ids=lambda raw: raw[:4].hex())
@pytest.mark.parametrize("when", ["at once", "connected", "subscribed"])
async def test_garbage_ends_one_connection_and_no_more(garbage: bytes, when: str) -> None:
    lives = iter(range(100))

    def script(peer: Peer) -> None:
        life = next(lives)
        if when != "at once" or life:
            peer.accept()
        if when == "subscribed" or life:
            peer.grant()
        if life:
            peer.send(publish("a", document(x=1)))
            peer.stay()
        peer.send(garbage)

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(json_endpoint(server.port), JSON, sink)) as task:
            await eventually(lambda: sink.values(0))
            assert not task.done()
    assert len([c for c in sink.codes() if c != "mqtt.back"]) <= 1


async def test_a_broker_that_never_answers_is_left() -> None:
    def script(peer: Peer) -> None:
        peer.stay()

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(json_endpoint(server.port, timeout_s=0.3), JSON, sink)):
            await eventually(lambda: server.connections >= 2)
    assert sink.events == [("mqtt.no_answer", "hall", {"timeout_s": "0.3"})]


async def test_a_broker_that_never_grants_is_left() -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.stay()

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(json_endpoint(server.port, timeout_s=0.3), JSON, sink)):
            await eventually(lambda: server.connections >= 2)
    assert sink.codes() == ["mqtt.no_answer"]


async def test_a_silent_connection_is_lost_after_its_keepalive() -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.grant()
        while True:
            peer.read()  # pings, unanswered

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(json_endpoint(server.port, keepalive_s=1), JSON, sink)):
            await eventually(lambda: server.connections >= 2)
    assert sink.codes()[0] == "mqtt.connection_lost"


async def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts, made = [], driver_module.Link

    def counted(*args: Any, **more: Any) -> Link:
        attempts.append(made(*args, **more))
        return attempts[-1]

    monkeypatch.setattr(driver_module, "Link", counted)
    sink = Recording()
    async with running(Driver(json_endpoint(free_port()), JSON, sink)):
        await eventually(lambda: sink.events and len(attempts) > 4)
    assert sink.codes() == ["mqtt.not_listening"], "told once"


async def test_an_unknown_host_and_missing_files(tmp_path: Path) -> None:
    for more, code in (({"endpoint": "mqtt://no-such-host.invalid"}, "mqtt.unknown_host"),
                       ({"username": "u", "password_file": tmp_path / "none"}, "mqtt.no_password_file"),
                       ({"endpoint": "mqtts://127.0.0.1:1", "ca_file": tmp_path / "none"}, "mqtt.bad_ca_file")):
        sink = Recording()
        async with running(Driver(json_endpoint(**more), JSON, sink)):
            await eventually(lambda sink=sink: sink.events)
        assert sink.codes() == [code]
        assert str(tmp_path) not in str(sink.events)


async def test_a_port_without_tls() -> None:
    with broker(lambda peer: peer.send(b"no tls here, sorry")) as server:
        sink = Recording()
        async with running(Driver(json_endpoint(endpoint=f"mqtts://127.0.0.1:{server.port}"), JSON, sink)):
            await eventually(lambda: sink.events)
    assert sink.codes() == ["mqtt.tls_failed"]


async def test_back_off_grows_to_its_cap_and_jitters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "BACKOFF_FIRST_S", 0.5)
    waits: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(wait_s: float) -> None:
        if wait_s:
            waits.append(wait_s)
        await real_sleep(0)

    monkeypatch.setattr(driver_module.asyncio, "sleep", sleep)
    async with running(Driver(json_endpoint(free_port()), JSON, Recording())):
        deadline = time.monotonic() + WAIT_S
        while len(waits) < 30:
            assert time.monotonic() < deadline
            await real_sleep(0.01)
    assert all(0.25 * 2**i <= wait <= min(30.0, 0.5 * 2**i) for i, wait in enumerate(waits[:6]))
    assert all(15.0 <= wait <= 30.0 for wait in waits[8:]) and len(set(waits[8:])) > 10


async def test_refused_topics_are_told_once_and_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "RESUBSCRIBE_S", 0.05)
    asked: list[list[str]] = []

    def script(peer: Peer) -> None:
        peer.accept()
        asked.extend(map(peer.grant, (("b",), ("b",), ())))
        peer.send(publish("a", document(x=1)) + publish("b", document(x=2)))
        peer.stay()

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(json_endpoint(server.port), JSON, sink)):
            await eventually(lambda: sink.values(1))
            await eventually(lambda: len(sink.events) == 2)
    assert asked == [["a", "b"], ["b"], ["b"]]
    assert sink.events == [("mqtt.subscription_refused", "hall", {"count": "1", "named": "b"}),
                           ("mqtt.subscription_granted", "hall", {"count": "1", "named": "b"})]


async def test_many_topics_are_asked_for_in_parts() -> None:
    points: list[Point] = [json_point(i, f"t/{i}#/x") for i in range(250)]
    granted: list[list[str]] = []

    def script(peer: Peer) -> None:
        peer.accept()
        granted.extend(peer.grant(("t/249",)) for _ in range(3))
        peer.stay()

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(json_endpoint(server.port), points, sink)):
            await eventually(lambda: sink.events)
    assert [len(part) for part in granted] == [100, 100, 50]
    assert sink.events == [("mqtt.subscription_refused", "hall", {"count": "1", "named": "t/249"})]


# What is sent


async def test_a_node_is_asked_for_its_births_and_lives_and_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    pace(monkeypatch, grace_s=0.2)

    def script(peer: Peer) -> None:
        peer.accept()
        peer.grant()
        while True:
            kind, body = peer.read()
            if kind == PUBLISH:
                assert body == text(NCMD) + body[2 + len(NCMD):] and b"Node Control/Rebirth" in body
                peer.send(births() + publish("spBv1.0/G/DDATA/N/D", payload(2, ("Temp", 3, 21)))
                          + publish("spBv1.0/G/NDEATH/N", payload(None, bd_seq=1)))

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(sparkplug_endpoint(server.port), NODE, sink)):
            await eventually(lambda: len(sink.calls) == 3 and len(sink.values(1)) == 2)
    assert sink.calls == [("online", (0,)), ("online", (1,)), ("offline", (0, 1))]
    assert sink.values(1) == [20.0, 21.0] and sink.values(0) == [5.0]
    assert server.published() == [NCMD]
    assert {head for head in server.heads if head >> 4 == PUBLISH} == {0x30}, "QoS 0, not retained"
    assert sink.events == [("mqtt.rebirth_asked", "G/N", {})]


async def test_a_lost_broker_takes_its_devices_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    pace(monkeypatch, grace_s=100.0)  # births come unasked, as fast as the machine lets them
    lives = iter(range(100))

    def script(peer: Peer) -> None:
        peer.accept()
        peer.grant()
        peer.send(births())
        if next(lives):
            peer.stay()

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(sparkplug_endpoint(server.port), NODE, sink)):
            await eventually(lambda: sink.calls.count(("online", (1,))) == 2)
        assert sink.calls == [*[("online", (0,)), ("online", (1,)), ("offline", (0, 1))] * 2]
    assert sink.codes() == ["mqtt.connection_lost", "mqtt.back"] and server.published() == []


async def test_never_publishes_nothing() -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.grant()
        # data nobody was born for, an alias nobody knows, a gap
        peer.send(publish("spBv1.0/G/DDATA/N/D", payload(7, TEMP)) + births()
                  + publish("spBv1.0/G/DDATA/N/D", payload(2, ("", 0, 1), ("", 0, 1), aliases=True, names=False))
                  + publish("spBv1.0/G/DDATA/N/D", payload(9, TEMP)))
        peer.stay()

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(sparkplug_endpoint(server.port, rebirth="never"), NODE, sink)):
            await eventually(lambda: "mqtt.node_gap" in sink.codes())
    assert server.published() == []
    assert sink.calls == [("online", (0,)), ("online", (1,)), ("offline", (0, 1))]


STATE = "spBv1.0/STATE/scada"


def states(seen: list[tuple[int, bytes]]) -> list[bool]:
    bodies = [body for kind, body in seen if kind == PUBLISH and STATE.encode() in body]
    return [json.loads(body[body.index(b"{"):])["online"] for body in bodies]


async def test_a_host_announces_itself_and_says_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "STATE_PAUSE_S", 0.05)

    def script(peer: Peer) -> None:
        peer.accept()
        assert peer.grant()[-1] == STATE
        assert peer.read()[0] == PUBLISH
        peer.send(publish(STATE, b'{"online":true,"timestamp":1}'))
        peer.send(publish(STATE, b'{"online":false,"timestamp":1}') * 100)
        peer.stay()

    sink = Recording()
    with broker(script) as server:
        endpoint = sparkplug_endpoint(server.port, primary_host_id="scada", rebirth="never")
        async with running(Driver(endpoint, NODE, sink)):
            await eventually(lambda: len(states(server.seen)) >= 2)
        await eventually(lambda: server.seen[-1][0] == DISCONNECT)
    said = states(server.seen)
    assert said[-1] is False and all(said[:-1]) and 2 <= len(said[:-1]) <= 4
    assert set(server.published()) == {STATE}
    _, connect = server.seen[0]
    flags = connect[7]
    assert flags & 0b0011_1100 == 0b0010_1100  # a will, retained, QoS 1
    will = connect[connect.index(text(STATE)) + len(text(STATE)) + 2:]
    assert "mqtt.state_published" in sink.codes()
    bodies = [body[body.index(b"{"):] for kind, body in server.seen if kind == PUBLISH]
    birth, *_, death = [json.loads(body) for body in bodies]
    assert [set(body) for body in (birth, death, json.loads(will))] == [{"online", "timestamp"}] * 3
    assert json.loads(will) == {"online": False, "timestamp": birth["timestamp"]}, "a birth has the time of its will"
    assert all(json.loads(body) == birth for body in bodies[:-1]), "what is said again is the same"
    assert death["timestamp"] > birth["timestamp"], "a death has the time at which it is said"
    order = [kind for kind, _ in server.seen]
    assert order[:3] == [CONNECT, SUBSCRIBE, PUBLISH] and order[-2:] == [PUBLISH, DISCONNECT]
    assert {head for head in server.heads if head >> 4 == PUBLISH} == {0x33}, "QoS 1 and retained"


def test_nothing_is_sent_from_any_other_place() -> None:
    """The contract behind "nothing is ever written": one call publishes, one sets a will; both are in `Link`."""
    files = {file: file.relative_to(ROOT).as_posix() for file in source_files()}
    found = [(relative, ast.unparse(node)) for file, relative in files.items() if relative.startswith("protocols/mqtt")
             for node in ast.walk(tree(file)) if isinstance(node, ast.Attribute)
             and node.attr in ("publish", "will_set", "_send_publish", "single", "multiple")]
    assert sorted(found) == [("protocols/mqtt/link/driver.py", "client.will_set"),
                             ("protocols/mqtt/link/driver.py", "self._client.publish")]
    importers = {relative for file, relative in files.items()
                 if not relative.startswith("simulators")  # those are the devices
                 and "paho" in file.read_text(encoding="utf-8")  # parsing all files would take long
                 and any(module.split(".")[0] == "paho" for _, module in imports(file))}
    assert importers == {"protocols/mqtt/link/driver.py"}


def test_plan_lists_every_request_and_everything_that_may_be_sent() -> None:
    endpoint = sparkplug_endpoint(primary_host_id="scada")
    rows = Driver(endpoint, NODE, Recording()).plan()
    assert [(r["request"], r["topic"]) for r in rows] == [
        *[("subscribe", f"spBv1.0/G/{kind}/N{below}") for kind, below in (
            ("NBIRTH", ""), ("NDATA", ""), ("NDEATH", ""), ("DBIRTH", "/+"), ("DDATA", "/+"), ("DDEATH", "/+"))],
        ("publish", NCMD), ("subscribe", STATE), ("publish", STATE), ("will", STATE)]
    quiet = Driver(sparkplug_endpoint(rebirth="never"), NODE, Recording()).plan()
    assert {r["request"] for r in quiet} == {"subscribe"}
    rows = Driver(json_endpoint(), JSON, Recording()).plan()
    assert rows[0] == {"connection": "hall", "endpoint": "mqtt://127.0.0.1:1883", "request": "subscribe", "topic": "a",
                       "qos": "1", "points": "1"}
    assert {r["request"] for r in rows} == {"subscribe"}


def test_points_of_another_protocol_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Driver(json_endpoint(), [*JSON, *NODE], Recording())
    assert [p.code for p in caught.value.problems] == ["mqtt.wrong_protocol"] * 2


# Queue, load, ending


async def test_a_full_queue_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "queue_messages_max", 100)
    sent, go, again = 5_000, threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.accept()
        peer.grant()
        assert go.wait(WAIT_S)
        for number in range(sent):
            peer.send(publish("a", document(x=number)))
        peer.send(publish("b", document(x=1), qos=1, packet_id=77))
        peer.read()  # PUBACK: all of it is on the other side
        go.clear()
        assert again.wait(WAIT_S)
        peer.send(publish("b", document(x=2)))
        peer.stay()

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(json_endpoint(server.port), JSON, sink)):
            await eventually(lambda: len(server.seen) >= 2)
            go.set()
            while go.is_set():
                time.sleep(0.01)  # the event loop does nothing, as if it were busy
            await eventually(lambda: len(sink.rows) + sink.discards["queue_full"] == sent + 1)
            again.set()
            await eventually(lambda: sink.values(1)[-1:] == [2.0])
    lost = sink.discards["queue_full"]
    assert lost > 0 and len(sink.rows) + lost == sent + 2
    assert sink.values(0) == sorted(sink.values(0))
    assert ("mqtt.queue_full", "a") in [(code, where) for code, where, _ in sink.events]
    assert set(sink.discards) <= set(DISCARD_REASONS)


async def test_sparkplug_that_a_full_queue_lost_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "queue_messages_max", 3)
    pace(monkeypatch, grace_s=0.2)
    go = threading.Event()

    def script(peer: Peer) -> None:
        peer.accept()
        peer.grant(before=births())  # who is born already is not asked
        assert go.wait(WAIT_S)
        for seq in range(2, 12):
            peer.send(publish("spBv1.0/G/DDATA/N/D", payload(seq, TEMP)))
        peer.send(publish("spBv1.0/G/NDEATH/N", payload(None, bd_seq=1), qos=1))
        while peer.read()[0] != PUBACK:
            pass
        go.clear()
        while True:
            if peer.read()[0] == PUBLISH:
                peer.send(births())

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(sparkplug_endpoint(server.port), NODE, sink)):
            await eventually(lambda: len(sink.calls) == 2)
            go.set()
            while go.is_set():
                time.sleep(0.01)
            await eventually(lambda: sink.calls.count(("online", (1,))) == 2)
    # the death itself was lost; that something was lost is enough
    assert sink.calls[:3] == [("online", (0,)), ("online", (1,)), ("offline", (0, 1))]
    assert sink.discards["queue_full"] + len(sink.values(1)) - 2 == 10
    assert server.published() == [NCMD]


async def test_many_messages_are_few_batches() -> None:
    sent = 2_000

    def script(peer: Peer) -> None:
        peer.accept()
        peer.grant()
        peer.send(b"".join(publish("a", document(x=number)) for number in range(sent)))
        peer.stay()

    sink = Recording()
    with broker(script) as server:
        async with running(Driver(json_endpoint(server.port), JSON, sink)):
            await eventually(lambda: len(sink.rows) == sent)
    assert sink.values(0) == [float(number) for number in range(sent)]
    assert len(sink.batches) < sent / 2
    received = [t for batch in sink.batches for t in batch.received_ns.tolist()]
    assert received == sorted(received)


async def test_what_had_arrived_at_the_end_is_counted() -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.grant()
        peer.send(b"".join(publish("a", document(x=number)) for number in range(1_500)))
        peer.send(publish("b", document(x=1), qos=1))
        peer.stay()

    sink = Recording()
    with broker(script) as server:
        task = asyncio.create_task(Driver(json_endpoint(server.port), JSON, sink).run())
        await eventually(lambda: len(server.seen) >= 2)
        deadline = time.monotonic() + WAIT_S
        while not any(kind == PUBACK for kind, _ in server.seen):
            assert time.monotonic() < deadline
            time.sleep(0.01)  # the network thread takes everything while the event loop does nothing
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(sink.rows) == 1_501


async def test_threads_end_with_their_connections() -> None:
    before = {t.name for t in threading.enumerate()}
    with broker(lambda peer: peer.accept()) as server:
        async with running(Driver(json_endpoint(server.port), JSON, Recording())):
            await eventually(lambda: server.connections >= 5)
            # One more while it ends, which it may do a moment after it said so.
            await eventually(lambda: sum(t.name == "mqtt-hall" for t in threading.enumerate()) <= 1)
    await eventually(lambda: "mqtt-hall" not in {t.name for t in threading.enumerate()} - before)
