"""Addresses and endpoints: the frozen texts, and every wrong one refused with its code."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import ConfigError
from protocols.mqtt.target import (
    MqttEndpoint,
    MqttPoint,
    SparkplugPoint,
    parse_json_address,
    parse_sparkplug_address,
)


@pytest.mark.parametrize(("text", "tokens", "base"), [
    ("plant/press1#/motor/current", ("motor", "current"), "plant/press1#/motor/current"),
    ("plant/press1#", (), "plant/press1#"),
    ("plant/press1#/values/0/1", ("values", "0", "1"), "plant/press1#/values"),
    ("plant/press1#/0/a/7", ("0", "a", "7"), "plant/press1#/0/a"),
    ("plant/press1#/7", ("7",), "plant/press1#"),
    ("t#/a~1b/c~0d", ("a/b", "c~d"), "t#/a~1b/c~0d"),
    ("t#/~01", ("~1",), "t#/~01"),
    ("车间/冲床#/温度", ("温度",), "车间/冲床#/温度"),
    ("t#/", ("",), "t#/"),
    ("t#/a#b", ("a#b",), "t#/a#b"),
])
def test_json_address(text: str, tokens: tuple[str, ...], base: str) -> None:
    address = parse_json_address(text)
    assert (address.canonical, address.tokens, address.base) == (text, tokens, base)


@pytest.mark.parametrize(("text", "codes"), [
    ("plant/press1", ["mqtt.bad_json_address"]),
    ("#/a", ["mqtt.bad_json_address"]),
    ("", ["mqtt.bad_json_address"]),
    ("plant/+/a#/x", ["mqtt.wildcard"]),
    ("plant/#", ["mqtt.wildcard"]),
    ("plant#x", ["mqtt.bad_pointer"]),
    ("plant#/~2", ["mqtt.bad_pointer"]),
    ("plant#/a~", ["mqtt.bad_pointer"]),
    ("pl\x00ant#/a", ["mqtt.bad_topic"]),
    ("pl\ud800ant#/a", ["mqtt.bad_topic"]),
    ("x" * 65_536 + "#/a", ["mqtt.bad_topic"]),
    ("a/+\n#/~9", ["mqtt.wildcard", "mqtt.bad_topic", "mqtt.bad_pointer"]),
])
def test_bad_json_address(text: str, codes: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_json_address(text, where="points.csv, line 3, address")
    assert [p.code for p in caught.value.problems] == codes
    assert {p.where for p in caught.value.problems} == {"points.csv, line 3, address"}


@pytest.mark.parametrize("text", ["G/N/D#Temp", "G/N/#Node Info/Uptime", "集团/节点/设备#温度#1", "G/N/D#a/b/c"])
def test_sparkplug_address_is_its_own_canonical_text(text: str) -> None:
    address = parse_sparkplug_address(text)
    assert address.canonical == address.base == text


@pytest.mark.parametrize(("text", "code"), [
    ("G/N#Temp", "mqtt.bad_sparkplug_address"),
    ("G/N/D/E#Temp", "mqtt.bad_sparkplug_address"),
    ("/N/D#Temp", "mqtt.bad_sparkplug_address"),
    ("G//D#Temp", "mqtt.bad_sparkplug_address"),
    ("G/N/D#", "mqtt.bad_sparkplug_address"),
    ("G/N/D", "mqtt.bad_sparkplug_address"),
    ("G/+/D#Temp", "mqtt.wildcard"),
    ("G/N/D#Te\x07mp", "mqtt.bad_metric"),
    ("G/N/D#" + "x" * 1001, "mqtt.bad_metric"),
    ("STATE/N/D#Temp", "mqtt.state_is_no_group"),
])
def test_bad_sparkplug_address(text: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_sparkplug_address(text)
    assert [p.code for p in caught.value.problems] == [code]


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_json_address, parse_sparkplug_address):
        try:
            address = parse(text)
        except ConfigError as error:
            assert error.problems
        else:
            assert parse(address.canonical) == address
            assert address.canonical == text and address.canonical.startswith(address.base)


def test_points_refuse_types_they_cannot_have() -> None:
    for type_ in ("", "bytes", "bcd16", "float16"):
        with pytest.raises(ConfigError, match=r"mqtt\.bad_json_type"):
            MqttPoint(point_index=0, device_index=0, address=parse_json_address("t#/a"), type=type_)
    at = parse_sparkplug_address("G/N/D#M")
    SparkplugPoint(point_index=0, device_index=0, address=at)
    with pytest.raises(ConfigError, match=r"mqtt\.bad_sparkplug_type"):
        SparkplugPoint(point_index=0, device_index=0, address=at, type="bcd32")


def test_endpoint_parts() -> None:
    plain = MqttEndpoint(name="a", protocol="mqtt", endpoint="mqtt://broker.example")
    assert (plain.host, plain.port, plain.tls) == ("broker.example", 1883, False)
    secure = MqttEndpoint(name="a", protocol="sparkplug_b", endpoint="mqtts://[::1]", ca_file=Path("ca.pem"))
    assert (secure.host, secure.port, secure.tls) == ("::1", 8883, True)
    assert MqttEndpoint(name="a", protocol="mqtt", endpoint="mqtt://h:7").port == 7


@pytest.mark.parametrize("endpoint", [
    "broker", "tcp://h", "mqtt://", "mqtt://h:0", "mqtt://h:70000", "mqtt://u:p@h", "mqtt://h/topic", "mqtt://h?x=1",
    "mqtt://[", ""])
def test_bad_endpoint(endpoint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MqttEndpoint(name="a", protocol="mqtt", endpoint=endpoint, where="gateway.toml, connections[0]")
    assert [(p.where, p.code) for p in caught.value.problems] == [
        ("gateway.toml, connections[0]", "mqtt.bad_endpoint")]


def test_all_problems_of_an_endpoint_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        MqttEndpoint(name="a", protocol="amqp", endpoint="mqtt://h", ca_file=Path("x"), username="u", client_id="",
                     rebirth="often", primary_host_id="a/b", qos=3, timeout_s=float("nan"),  # type: ignore[arg-type]  # wrong on purpose
                     keepalive_s=0, check_s=-1, silence_s=0.5)
    assert [p.code for p in caught.value.problems] == [
        "mqtt.bad_protocol", "mqtt.ca_without_tls", "mqtt.half_credentials", "mqtt.bad_client_id", "mqtt.bad_rebirth",
        "mqtt.host_without_sparkplug", "mqtt.bad_host_id", *["mqtt.out_of_range"] * 5]


@pytest.mark.parametrize(("more", "codes"), [
    ({"key_file": Path("k")}, ["mqtt.half_certificate"]),
    ({"certificate_file": Path("c"), "key_file": Path("k")}, ["mqtt.certificate_without_tls"]),
    ({"mqtt_version": "4"}, ["mqtt.bad_version"]),
    ({"session_expiry_s": 60, "qos": 0}, ["mqtt.session_needs_5", "mqtt.session_needs_client_id",
                                          "mqtt.session_needs_qos"]),
    ({"session_expiry_s": -1}, ["mqtt.out_of_range"]),
    ({"protocol": "sparkplug_b", "session_expiry_s": 60, "client_id": "a", "mqtt_version": "5", "timestamp": "/t",
      "topics": ("a/{device}",)}, ["mqtt.json_only"] * 3),
    ({"topics": ("a/{device}", "b", "{line}/{device}")}, ["mqtt.bad_topic_template", "mqtt.topics_overlap"]),
    ({"topics": tuple(f"{n}/{{device}}" for n in range(101))}, ["mqtt.out_of_range"]),
    ({"timestamp": "ts", "timestamp_format": "min"}, ["mqtt.bad_timestamp_pointer", "mqtt.bad_timestamp_format"]),
    ({"protocol": "sparkplug_b", "reorder_s": 61.0}, ["mqtt.out_of_range"])],
    ids=["half", "plain", "version", "session", "negative", "sparkplug", "topics", "many topics", "times", "reorder"])
def test_what_does_not_go_together(more: dict[str, object], codes: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        MqttEndpoint(**{"name": "a", "protocol": "mqtt", "endpoint": "mqtt://h", **more})  # type: ignore[arg-type]  # keywords
    assert [p.code for p in caught.value.problems] == codes


def test_what_goes_together() -> None:
    endpoint = MqttEndpoint(name="a", protocol="mqtt", endpoint="mqtts://h", mqtt_version="5", client_id="a", qos=2,
                            session_expiry_s=3600, certificate_file=Path("c"), key_file=Path("k"),
                            topics=("plant/{line}/{device}/+",), timestamp="/ts", timestamp_format="iso")
    assert [template.filter for template in endpoint.templates] == ["plant/+/+/+"]
