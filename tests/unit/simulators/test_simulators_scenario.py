"""Scenarios: every kind is shown, everything wrong is told at once, and each fault does what the page says."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from protocols.errors import ConfigError
from simulators.kinds import SHOWN
from simulators.layout import CONNECTION_OF, draw_layout
from simulators.mqtt_faults import UNREADABLE, Delivered, Mischief, PublishReader, is_rebirth_request
from simulators.scenario import FaultTable, check_scenario, connections_of, load_scenario
from simulators.sent import Sent
from simulators.settings import load_plant
from simulators.sparkplug_pb2 import Payload
from tallystick.words.lookup import Words
from tests.support.source import ROOT

LAYOUT = draw_layout(1)
PAGE = (ROOT / "docs" / "simulators.md").read_text(encoding="utf-8")


def problems(*faults: dict[str, object], own_broker: bool = True) -> list[tuple[str, str]]:
    """Return place and code of everything that is wrong with these faults."""
    try:
        check_scenario([FaultTable.model_validate(fault) for fault in faults], LAYOUT, "x.toml", own_broker=own_broker)
    except ConfigError as error:
        return [(problem.where.removeprefix("x.toml, "), problem.code) for problem in error.problems]
    return []


def test_the_page_shows_every_kind_and_its_examples_can_be_played() -> None:
    tables = [FaultTable.model_validate(table) for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
              for table in tomllib.loads(block).get("faults", [])]
    check_scenario(tables, LAYOUT, "the page", own_broker=True)
    listed = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert {table.kind for table in tables} | listed == set(SHOWN)


def test_the_example_can_be_played_in_the_example(tmp_path: Path) -> None:
    examples = ROOT / "config" / "examples"
    plant = load_plant(examples / "plant.toml", scenario=examples / "scenario.toml")
    assert [fault.kind for fault in plant.faults] == ["restart", "late", "dead", "reorder", "lose"]
    assert load_scenario(examples / "scenario.toml") == plant.faults


def test_everything_wrong_is_told_at_once_with_its_place() -> None:
    assert problems(
        {"kind": "late", "connection": "nowhere"}, {"kind": "dead"}, {"kind": "dead", "device": "nobody"},
        {"kind": "historical", "connection": "machines", "times": 3}, {"kind": "lose", "for_s": 1.0},
        {"kind": "stall", "repeat_s": 5.0}, {"kind": "slow", "for_s": 5.0, "repeat_s": 5.0, "every": 2},
        {"kind": "dead", "device": "env-01", "connection": "edge"}, {"kind": "restart", "repeat_s": 1.0},
    ) == [("faults[0].connection", "simulators.no_connection"), ("faults[1].device", "simulators.device_missing"),
          ("faults[2].device", "simulators.no_device"), ("faults[3].kind", "simulators.wrong_place"),
          ("faults[3].times", "simulators.unused_key"), ("faults[4].for_s", "simulators.instant"),
          ("faults[5].repeat_s", "simulators.never_ends"), ("faults[6].every", "simulators.unused_key"),
          ("faults[6].repeat_s", "simulators.never_ends"), ("faults[7].device", "simulators.device_elsewhere")]


def test_a_broker_of_somebody_else_is_not_restarted() -> None:
    assert problems({"kind": "restart", "connection": "edge"}) == []
    assert problems({"kind": "restart", "connection": "edge"}, own_broker=False) == [
        ("faults[0].kind", "simulators.not_our_broker")]


def test_a_file_that_is_no_scenario_is_told_by_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[[faults]]\nkind = "explode"\n[[faults]]\nkind = "lose"\nat = 3\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_scenario(file)
    assert sorted((p.where.removeprefix(f"{file}, "), p.code) for p in caught.value.problems) == [
        ("faults[0].kind", "config.not_one_of"), ("faults[1].at", "config.unknown_key_near")]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_kind_is_told_in_words(lang: str) -> None:
    say = Words(lang)
    told = {kind: say(f"simulators.kind.{kind}") for kind in SHOWN}
    assert len(set(told.values())) == len(told)
    assert not [text for text in told.values() if "simulators.kind" in text]


@pytest.mark.parametrize("kind", SHOWN)
def test_where_a_kind_is_played(kind: str) -> None:
    places = dict(connections_of(FaultTable.model_validate({"kind": kind}), LAYOUT))
    assert set(places.values()) == set(SHOWN[kind].protocols)
    for connection, protocol in places.items():
        assert connection in CONNECTION_OF[protocol]
    one = next(device for device in LAYOUT.devices if device.protocol in SHOWN[kind].protocols)
    assert list(dict(connections_of(FaultTable.model_validate({"kind": kind, "device": one.id}), LAYOUT))) == [
        one.connection]


def published(mischief: Mischief, count: int) -> list[str]:
    """Return the topics, or what else is odd, of `count` messages that were to be published."""
    return [f"{topic}{'' if body == b'x' else '?'}{'!' if retain else ''}" for number in range(1, count + 1)
            for topic, body, retain in mischief.messages(str(number), b"x", retain=False)]


@pytest.mark.parametrize(("kind", "expected"), [
    ("twice", "1 2 3 3 4"), ("gap", "1 2 4"), ("retained", "1 2 3! 4"), ("unreadable", "1 2 3? 4"),
    ("reorder", "1 2 4 3")])
def test_what_is_published_in_place_of_each_third_message(kind: str, expected: str) -> None:
    mischief = Mischief()
    assert published(mischief, 4) == ["1", "2", "3", "4"]
    mischief.on[kind] = 3
    assert published(mischief, 4) == expected.split()
    assert mischief.played == Counter({kind: 1})


def packet(topic: str, payload: bytes, *, qos: int = 0) -> bytes:
    """Return a PUBLISH as MQTT 3.1.1, section 3.3, draws it."""
    body = len(topic.encode()).to_bytes(2, "big") + topic.encode() + (b"\0\7" if qos else b"") + payload
    size = b""
    left = len(body)
    while left >= 0x80:
        size += bytes([left % 0x80 | 0x80])
        left //= 0x80
    return bytes([0x30 | qos << 1]) + size + bytes([left]) + body


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_packets_are_cut_from_a_stream_in_any_pieces(step: int) -> None:
    found: list[tuple[str, bytes]] = []
    stream = (b"\x20\x02\0\0" + packet("a", b"1") + b"\x90\x03\0\1\1" + packet("b/ü", b"2" * 300, qos=1) + b"\xd0\0"
              + packet("c", b"3" * 20_000))
    reader = PublishReader(lambda topic, payload: found.append((topic, payload)))
    for start in range(0, len(stream), step):
        reader.feed(stream[start:start + step])
    assert found == [("a", b"1"), ("b/ü", b"2" * 300), ("c", b"3" * 20_000)]


def test_what_a_subscriber_was_handed_is_counted_by_point() -> None:
    sent = {"edge": Sent(), "sensors": Sent()}
    edge, sensors = LAYOUT.of("edge"), LAYOUT.of("sensors")
    node, point = edge[0].place.split("/")[0], edge[0].points[0]
    delivered = Delivered("g", edge, sensors, {(node, 7): (edge[0].id, point.id)}, sent)
    payload = Payload()
    for name, alias in ((str(point.place), 0), ("", 7), ("", 99), ("bdSeq", 0), ("Node Control/Rebirth", 0), ("x", 0)):
        metric = payload.metrics.add()
        metric.name, metric.alias = name, alias
    delivered.take(f"spBv1.0/g/DDATA/{edge[0].place}", payload.SerializeToString())
    delivered.take(f"spBv1.0/g/DDATA/{edge[0].place}", UNREADABLE)
    delivered.take(f"spBv1.0/g/NDEATH/{node}", payload.SerializeToString())
    assert (sent["edge"].points, sent["edge"].others, sent["edge"].unreadable) == (
        Counter({(edge[0].id, point.id): 2}), 2, 1)
    delivered.take("spBv1.0/g/x", b"")
    delivered.take(sensors[0].place, b"[" * 100_000)
    delivered.take(sensors[0].place, b'{"values": 3, "status": [1]}')
    assert (sent["sensors"].points.total(), sent["sensors"].unreadable) == (0, len(sensors[0].points))


def test_what_a_client_publishes_is_a_rebirth_request_or_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Delivered, "writes_of_process", Delivered.writes_of_process)
    delivered = Delivered("g", [], [], {}, {"edge": Sent(), "sensors": Sent()})
    asks, more = Payload(), Payload()
    for payload, names in ((asks, ["Node Control/Rebirth"]), (more, ["Node Control/Rebirth", "setpoint"])):
        for name in names:
            metric = payload.metrics.add()
            metric.name, metric.boolean_value = name, True
    assert is_rebirth_request("spBv1.0/g/NCMD/n", asks.SerializeToString())
    delivered.heard("spBv1.0/g/NCMD/n", asks.SerializeToString())
    delivered.heard("spBv1.0/STATE/h", b"{}")
    assert delivered.writes == 0
    for topic, body in (("spBv1.0/g/NCMD/n", more.SerializeToString()), ("spBv1.0/g/DCMD/n/d", UNREADABLE),
                        ("plant/setpoint", b"1")):
        delivered.heard(topic, body)
    assert delivered.writes == 3


def test_a_message_that_nobody_could_read_is_taken_back() -> None:
    sent = Sent()
    sent.add([("d", "p"), ("d", "q")], "answers")
    sent.take_back([("d", "p"), ("d", "q")], "answers")
    assert (sent.samples, sent.doubtful) == (0, 2)
