from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import ConfigError
from protocols.opcua.target import NAMESPACE_0, OpcUaAddress, OpcUaEndpoint, parse_address


@pytest.mark.parametrize(("text", "canonical", "base"), [
    ("nsu=urn:a;s=Press.Speed", "nsu=urn:a;s=Press.Speed#Value", "nsu=urn:a;s=Press.Speed#Value"),
    ("nsu=urn:a;i=42", "nsu=urn:a;i=42#Value", "nsu=urn:a;i=42#Value"),
    ("i=2258", f"nsu={NAMESPACE_0};i=2258#Value", f"nsu={NAMESPACE_0};i=2258#Value"),
    ("nsu=urn:a;g=09087E75-8E5E-499B-954F-F2A9603DB28A", "nsu=urn:a;g=09087e75-8e5e-499b-954f-f2a9603db28a#Value",
     "nsu=urn:a;g=09087e75-8e5e-499b-954f-f2a9603db28a#Value"),
    ("nsu=urn:a;b=M/RbKBsRVkePCePcx24oRA==", "nsu=urn:a;b=M/RbKBsRVkePCePcx24oRA==#Value",
     "nsu=urn:a;b=M/RbKBsRVkePCePcx24oRA==#Value"),
    ("nsu=urn:a;s=Zones#Value[03]", "nsu=urn:a;s=Zones#Value[3]", "nsu=urn:a;s=Zones#Value"),
    ("nsu=urn:a;s=Zones#Value[1:4,2]", "nsu=urn:a;s=Zones#Value[1:4,2]", "nsu=urn:a;s=Zones#Value"),
    ("nsu=http://x/%3Ba%25;s=1;2=3", "nsu=http://x/%3Ba%25;s=1;2=3#Value", "nsu=http://x/%3Ba%25;s=1;2=3#Value"),
    ("nsu=urn:a;s=温度#Value", "nsu=urn:a;s=温度#Value", "nsu=urn:a;s=温度#Value"),
    ("nsu=urn:a;s=#Value#Value", "nsu=urn:a;s=#Value#Value", "nsu=urn:a;s=#Value#Value"),
])
def test_address_has_one_canonical_text(text: str, canonical: str, base: str) -> None:
    address = parse_address(text)
    assert (address.canonical, address.base) == (canonical, base)
    assert parse_address(canonical) == address


@pytest.mark.parametrize("text", [
    "", "Press", "s=Press", "nsu=;s=a", "nsu=urn:a", "nsu=urn:a;", "nsu=urn:a;s=", "nsu=urn:a;x=1", "nsu=urn:a;i=-1",
    "nsu=urn:a;i=01", "nsu=urn:a;i=4294967296", "nsu=urn:a;i=٣", "nsu=urn:a;g=0", "nsu=urn:a;b=***", "nsu=urn:a;s=a\nb",
    "nsu=urn:a;s=Zones#Value[4:4]", "nsu=urn:a;s=Zones#Value[9:2]", "nsu=urn:a;s=" + "a" * 5000, "i=", "i=1 ",
])
def test_what_is_no_address_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address(text, "points.csv:7")
    (problem,) = refused.value.problems
    assert (problem.where, problem.code) == ("points.csv:7", "opcua.bad_address")


@pytest.mark.parametrize("text", ["ns=2;s=Press", "ns=0;i=85", "svr=1;nsu=urn:a;i=1"])
def test_an_index_is_no_name(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address(text)
    assert refused.value.problems[0].code == "opcua.namespace_index"


_printable = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=30)


@given(uri=_printable, identifier=_printable, index_range=st.sampled_from(["", "0", "1:2", "3,4:5"]))
def test_any_string_node_survives_its_text(uri: str, identifier: str, index_range: str) -> None:
    address = OpcUaAddress(namespace_uri=uri, id_type="s", identifier=identifier, index_range=index_range)
    assert parse_address(address.canonical) == address


GOOD = OpcUaEndpoint(name="hall", url="opc.tcp://plc:4840/x", pki_dir=Path("pki"), trust_dir=Path("trusted"))


def test_default_endpoint_is_secured_and_sound() -> None:
    assert GOOD.is_secured
    assert GOOD.problems("gateway.toml") == ()


@pytest.mark.parametrize(("change", "codes"), [
    ({"url": "http://plc:4840"}, ["opcua.bad_endpoint"]),
    ({"url": "opc.tcp://plc"}, ["opcua.bad_endpoint"]),
    ({"url": "opc.tcp://plc:99999"}, ["opcua.bad_endpoint"]),
    ({"url": "opc.tcp://me:secret@plc:4840"}, ["opcua.bad_endpoint"]),
    ({"security_policy": "Basic128Rsa15"}, ["opcua.bad_policy"]),
    ({"security_mode": "Encrypt"}, ["opcua.bad_mode"]),
    ({"security_mode": "None"}, ["opcua.policy_and_mode"]),
    ({"security_policy": "None", "security_mode": "None"}, ["opcua.insecure"]),
    ({"security_policy": "None", "security_mode": "None", "allow_insecure": True}, []),
    ({"username": "me"}, ["opcua.half_login"]),
    ({"user_certificate_file": Path("u.der")}, ["opcua.half_identity"]),
    ({"user_certificate_file": Path("u.der"), "user_key_file": Path("u.pem"), "username": "a",
      "password_file": Path("p")}, ["opcua.two_identities"]),
    ({"user_certificate_file": Path("u.der"), "user_key_file": Path("u.pem"), "security_mode": "None",
      "security_policy": "None", "allow_insecure": True}, ["opcua.identity_unsecured"]),
    ({"reads": "sometimes", "profile": "s7", "poll_s": 0.0},
     ["opcua.bad_reads", "opcua.bad_profile", "opcua.out_of_range"]),
    ({"queue_size": 0, "timeout_s": 0.0}, ["opcua.out_of_range", "opcua.out_of_range"]),
    ({"timeout_s": float("nan")}, ["opcua.out_of_range"]),
    ({"url": "", "security_mode": "x", "publishing_interval_ms": 1},
     ["opcua.bad_endpoint", "opcua.bad_mode", "opcua.out_of_range"]),
])
def test_all_problems_of_an_endpoint_at_once(change: dict[str, Any], codes: list[str]) -> None:
    assert [p.code for p in dataclasses.replace(GOOD, **change).problems("gateway.toml")] == codes
