"""`check`: each device passes or fails with its cause, and nothing reaches the sink."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from protocols.mqtt.driver import Driver
from protocols.mqtt.target import Point
from protocols.terms.check import CheckResult
from tests.support.processes import free_port
from tests.unit.protocols.mqtt.mqtt_recording import (
    Recording,
    document,
    json_endpoint,
    json_point,
    metric_point,
    pace,
    payload,
    sparkplug_endpoint,
)
from tests.unit.protocols.mqtt.scripted_broker import PUBLISH, Peer, ScriptedBroker, broker, publish

JSON: list[Point] = [json_point(0, "a#/x"), json_point(1, "a#/y", device=0), json_point(2, "b#/x", device=1)]
NODE: list[Point] = [metric_point(0, "G/N/D#Temp", device=0), metric_point(1, "G/N/D#Run", device=0),
                     metric_point(2, "G/N/E#Temp", device=1)]
TEMP, RUN = ("Temp", 3, 20), ("Run", 11, True)


async def judged(script: Callable[[Peer], None], points: list[Point], **more: object
                 ) -> tuple[list[tuple[int, bool, str]], list[CheckResult], ScriptedBroker]:
    sink = Recording()
    with broker(script) as server:
        make = json_endpoint if points is JSON else sparkplug_endpoint
        results = await Driver(make(server.port, **{"check_s": 0.3, **more}), points, sink).check()
    assert not (sink.rows or sink.calls or sink.events or sink.discards or sink.answers)
    return [(r.device_index, r.ok, r.code) for r in results], results, server


def answering(*messages: bytes, refused: tuple[str, ...] = ()) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.grant(refused, before=b"".join(messages))  # `check_s` begins when they are there
        peer.stay()
    return script


async def test_all_heard_ends_the_wait() -> None:
    start = time.monotonic()
    judgement, results, _ = await judged(
        answering(publish("a", document(y=1)), publish("b", document(x=1))), JSON, check_s=600)
    assert judgement == [(0, True, "mqtt.check_ok"), (1, True, "mqtt.check_ok")]
    assert results[0].args == (("points", "2"), ("seen", "1"))
    assert time.monotonic() - start < 100


@pytest.mark.parametrize(("message", "code"), [
    (b"", "mqtt.check_no_message"),
    (publish("b", document(x=1), retain=True), "mqtt.check_only_retained"),
    (publish("b", document(z=1)), "mqtt.check_no_value"),
    (publish("b", b"{"), "mqtt.not_json"),
    (publish("b", document(x="hot")), "mqtt.wrong_type"),
])
async def test_why_a_json_device_is_not_heard(message: bytes, code: str) -> None:
    judgement, _, _ = await judged(answering(publish("a", document(x=1)), message), JSON)
    assert judgement == [(0, True, "mqtt.check_ok"), (1, False, code)]


async def test_refused_subscriptions_fail_their_devices_only() -> None:
    judgement, results, _ = await judged(answering(publish("a", document(x=1)), refused=("b",)), JSON, check_s=60)
    assert judgement == [(0, True, "mqtt.check_ok"), (1, False, "mqtt.subscription_refused")]
    assert dict(results[1].args) == {"count": "1", "named": "b"}


@pytest.mark.parametrize(("connack", "code"), [(5, "mqtt.bad_credentials"), (3, "mqtt.refused")])
async def test_a_refused_connection_fails_all(connack: int, code: str) -> None:
    judgement, _, server = await judged(lambda peer: peer.accept(connack=connack), JSON)
    assert judgement == [(0, False, code), (1, False, code)]
    assert server.connections == 1


async def test_nobody_listens_or_answers() -> None:
    results = await Driver(json_endpoint(free_port()), JSON, Recording()).check()
    assert {r.code for r in results} == {"mqtt.not_listening"}
    judgement, _, _ = await judged(lambda peer: peer.stay(), JSON, timeout_s=0.2)
    assert {code for _, _, code in judgement} == {"mqtt.no_answer"}


async def test_sparkplug_devices_are_asked_for_their_births(monkeypatch: pytest.MonkeyPatch) -> None:
    pace(monkeypatch, grace_s=0.2)

    def script(peer: Peer) -> None:
        peer.accept()
        peer.grant()
        while True:
            if peer.read()[0] == PUBLISH:
                peer.send(publish("spBv1.0/G/NBIRTH/N", payload(0, bd_seq=1))
                          + publish("spBv1.0/G/DBIRTH/N/D", payload(1, TEMP, RUN))
                          + publish("spBv1.0/G/DBIRTH/N/E", payload(2, TEMP)))

    judgement, results, server = await judged(script, NODE, check_s=60, primary_host_id="scada")
    assert judgement == [(0, True, "mqtt.check_ok"), (1, True, "mqtt.check_ok")]
    assert results[0].args == (("points", "2"), ("seen", "2"))
    # STATE would make edge nodes connect and disconnect
    assert server.published() == ["spBv1.0/G/NCMD/N"]


async def test_why_a_sparkplug_device_fails() -> None:
    births = publish("spBv1.0/G/NBIRTH/N", payload(0, bd_seq=1)) + publish("spBv1.0/G/DBIRTH/N/D", payload(1, TEMP))
    judgement, results, _ = await judged(answering(births), NODE)
    assert judgement == [(0, False, "mqtt.check_metrics_missing"), (1, False, "mqtt.check_no_birth")]
    assert dict(results[0].args) == {"count": "1", "named": "G/N/D#Run"}
    data = publish("spBv1.0/G/DDATA/N/E", payload(5, TEMP))
    judgement, _, server = await judged(answering(data), NODE, rebirth="never", reorder_s=0.05)
    assert judgement == [(0, False, "mqtt.node_before_birth"), (1, False, "mqtt.node_before_birth")]
    assert server.published() == []
