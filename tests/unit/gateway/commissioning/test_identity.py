"""Who devices say they are: against the ledger, against each other, and into the roster. Facts by hand, no network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from config.gateway import GatewayConfig
from gateway.commissioning import identity, roster
from gateway.commissioning.identity import Facts, Finding, Server
from protocols import system
from protocols.evidence.roster import ROW_BYTES_MAX, keyed_tag
from tests.unit.gateway.commissioning.plants import LINE, device, plant, point

KEY = bytes(range(32))
OTHER = LINE.replace('"line"', '"other"').replace(":1", ":2")


def loaded(tmp_path: Path, devices: list[str]) -> GatewayConfig:
    ids = [row.split(",")[0] for row in devices]
    return plant(tmp_path, devices, [point(id_, n) for n, id_ in enumerate(ids)], tail=LINE + OTHER)


def seen(id_: str, connection: str = "line", serial: str = "", maker: str = "", model: str = "", **more: Any) -> Facts:
    plate = {"vendor_name": maker, "model_name": model, "serial_number": serial}
    plate |= {name: more.pop(name) for name in list(more) if name.startswith("object_")}
    return Facts(device=id_, connection=connection, plate={name: text for name, text in plate.items() if text}, **more)


def codes(found: list[Finding]) -> list[tuple[str, tuple[str, ...]]]:
    return [(finding.code, finding.devices) for finding in found]


@pytest.mark.parametrize(("facts", "code"), [
    (seen("a", maker="Acme"), "identity.maker_differs"),
    (seen("a", model="X-9"), "identity.model_differs"),
    (seen("a", serial="SN-2"), "identity.serial_differs"),
    (seen("a", object_128="SN-2"), "identity.serial_differs"),
    (seen("a", product_instance_uri="urn:other"), "identity.uri_differs"),
    (seen("a", maker="MAKER GmbH", model="m", serial="sn 1", product_instance_uri="URN:A"), None),
    (seen("a", maker="制造商", object_128="firmware 3"), None),
    (seen("a"), None),
], ids=["maker", "model", "serial", "private object", "uri", "the same in other letters", "not comparable", "nothing"])
def test_what_a_device_says_is_held_against_its_row(tmp_path: Path, facts: Facts, code: str | None) -> None:
    config = loaded(tmp_path, [device("a", serial="SN-1", product="urn:a")])
    assert codes(identity.findings(config, [facts])) == ([(code, ("a",))] if code else [])


def test_a_mac_address_that_is_another_is_told(tmp_path: Path) -> None:
    config = loaded(tmp_path, [device("a")])
    config = dataclasses.replace(config, devices=tuple(dataclasses.replace(d, mac="AA-BB-CC-00-11-22")
                                                       for d in config.devices))
    assert identity.findings(config, [seen("a", mac="aa:bb:cc:00:11:22", unit="1")]) == []
    assert codes(identity.findings(config, [seen("a", mac="aa:bb:cc:00:11:23", unit="1")])) == [
        ("identity.mac_differs", ("a",))]


ROWS = [device("a", serial="SN-10001"), device("b", serial="SN-10002", connection="other"), device("c", maker="Other")]


@pytest.mark.parametrize(("facts", "devices"), [
    ([seen("a", serial="SN-10001"), seen("b", "other", serial="SN-10002"), seen("c", serial="SN-10003")], None),
    ([seen("c", serial="SN-10001")], ("a", "c")),
    ([seen("b", "other", serial="SN-10002"), seen("c", object_200="sn 10002")], ("b", "c")),
    ([seen("a", object_130="V1.02.03"), seen("c", object_130="V1.02.03")], None),
    ([seen("a", serial="1"), seen("c", serial="1")], None),
    ([seen("a", product_instance_uri="urn:x"), seen("b", "other", product_instance_uri="URN:X")], ("a", "b")),
    ([seen("a", mac="00:11:22:33:44:55", unit="1"), seen("b", "other", mac="00:11:22:33:44:55", unit="1")], ("a", "b")),
    ([seen("a", mac="00:11:22:33:44:55", unit="1"), seen("b", "other", mac="00:11:22:33:44:55", unit="2")], None),
    ([seen("a", place="192.0.2.1:502/1"), seen("b", "other", place="192.0.2.1:502/1")], ("a", "b")),
    ([seen("a", place="192.0.2.1:502/1"), seen("c", place="192.0.2.1:502/1")], None),
    ([seen("a", edge_node="g/n/d"), seen("b", "other", edge_node="g/n/d")], ("a", "b")),
], ids=["different", "another's serial", "two protocols", "one firmware", "serials that are none", "uri",
        "mac and unit", "two units of one mac", "one place by two names", "two rows of one unit", "two brokers"])
def test_one_machine_under_several_names(tmp_path: Path, facts: list[Facts], devices: tuple[str, ...] | None) -> None:
    found = [f for f in identity.findings(loaded(tmp_path, ROWS), facts) if f.code == "identity.same_device"]
    assert codes(found) == ([("identity.same_device", devices)] if devices else [])


def test_two_rows_that_are_declared_one_are_told_without_asking_anybody(tmp_path: Path) -> None:
    config = loaded(tmp_path, [device("a", serial="S1"), device("b", serial="s-1", connection="other"),
                               device("c", asset="A 7"), device("d", asset="a7")])
    found = identity.findings(config, [])
    assert codes(found) == [("identity.same_device", ("a", "b")), ("identity.same_device", ("c", "d"))]
    assert [dict(f.args)["shared"] for f in found] == ["serial S1", "asset A 7"]


def test_machines_whose_controller_is_their_parent_are_no_finding(tmp_path: Path) -> None:
    rows = [device("plc"), device("a", parent="plc"), device("b", parent="plc")]
    facts = [seen(id_, product_instance_uri="urn:plc") for id_ in ("plc", "a", "b")]
    config = loaded(tmp_path, rows)
    assert identity.findings(config, facts) == [] and identity.findings(config, facts[1:]) == []
    config = loaded(tmp_path / "without", [row.replace(",plc,", ",,") for row in rows])
    assert codes(identity.findings(config, facts)) == [("identity.same_device", ("plc", "a", "b"))]


def test_a_server_that_is_reached_by_two_addresses(tmp_path: Path) -> None:
    server = Server(certificate_sha256="aa", application_uri="urn:s", key="bb")
    facts = [seen("a", server=server), seen("b", "other", server=server), seen("c", server=server)]
    found = identity.findings(loaded(tmp_path, ROWS), facts)
    assert codes(found) == [("identity.same_server", ("line", "other"))]
    assert dict(found[0].args) == {"connections": "line, other", "shared": "certificate aa"}
    assert identity.findings(loaded(tmp_path, ROWS), facts[::2]) == []


# Into the roster


def evolved(config: GatewayConfig, before: roster.Roster | None, facts: list[Facts]) -> roster.Roster:
    read = identity.confirmed(config, facts, identity.findings(config, facts))
    return roster.evolve(before, config, gateway="0" * 32, key=KEY, server_keys={}, read=read)


def bases(held: roster.Roster) -> list[str]:
    return [row["id_basis"] for row in held.device_rows()]


def tags(held: roster.Roster, slot: int = 0) -> dict[str, str]:
    return {tag["scheme"]: tag["tag"] for tag in held.device_rows()[slot]["tags"]}


def test_what_a_device_confirms_is_read_and_what_it_adds_is_a_tag(tmp_path: Path) -> None:
    config = loaded(tmp_path, [device("a", serial="SN-1"), device("b", serial="SN-2"), device("c"), device("d")])
    first = evolved(config, None, [])
    assert bases(first) == ["declared", "declared", "address", "address"]
    second = evolved(config, first, [
        seen("a", serial="sn1", maker="Maker"), seen("b", serial="SN-3"), seen("c", serial="SN-77", model="M"),
        seen("d", product_instance_uri="urn:d")])
    assert bases(second) == ["read", "declared", "read", "read"]
    assert tags(second) == tags(first), "the ledger's words stay"
    assert tags(second, 2) == {"serial": keyed_tag(KEY, "serial", "maker|m|sn77")}
    assert tags(second, 3) == {"product_instance_uri": keyed_tag(KEY, "product_instance_uri", "urnd")}
    assert len(second.devices) == 4 and [d.learnt for d in second.devices] == [[], [], ["serial"],
                                                                               ["product_instance_uri"]]
    roster.save(second, tmp_path / "roster.json")
    again = roster.load(tmp_path / "roster.json")
    assert again == second
    assert evolved(config, again, []).device_rows() == second.device_rows(), "what was read once stays"
    assert all(len(json.dumps(row)) < ROW_BYTES_MAX for row in second.device_rows())


def test_what_two_devices_show_or_contradict_is_nobodys(tmp_path: Path) -> None:
    config = loaded(tmp_path, [device("a"), device("b"), device("c", maker="Maker")])
    held = evolved(config, None, [seen("a", serial="SN-5555"), seen("b", serial="SN-5555"),
                                  seen("c", maker="Acme", serial="SN-9999")])
    assert bases(held) == ["address"] * 3


@pytest.mark.parametrize("shown", [
    {"serial": "SN-5555"}, {"product_instance_uri": "urn:plc"}, {"mac": "00:11:22:33:44:55", "unit": "7"},
], ids=["serial", "uri", "mac and unit"])
def test_what_machines_of_one_controller_show_alike_is_the_controllers_and_told_of_none(
        tmp_path: Path, shown: dict[str, str]) -> None:
    config = loaded(tmp_path, [device("plc"), device("a", parent="plc"), device("b", parent="plc")])
    facts = [seen("a", **shown), seen("b", **shown)]
    assert identity.findings(config, facts) == []
    assert bases(evolved(config, None, facts)) == ["address"] * 3
    assert bases(evolved(config, None, facts[:1])) == ["address", "read", "address"]


def test_mac_and_unit_are_learnt_together_or_not_at_all(tmp_path: Path) -> None:
    config = loaded(tmp_path, [device("a"), device("b")])
    held = evolved(config, None, [seen("a", mac="00:11:22:33:44:55", unit="7"), seen("b", mac="00:11:22:33:44:56")])
    assert bases(held) == ["read", "address"]
    assert tags(held) == {"mac_unit": keyed_tag(KEY, "mac_unit", "001122334455|7")}


def test_a_machine_with_a_learnt_identity_keeps_its_slot_when_its_row_is_renamed(tmp_path: Path) -> None:
    config = loaded(tmp_path, [device("a", serial="SN-1")])
    held = evolved(config, None, [seen("a", serial="SN-1", product_instance_uri="urn:a")])
    assert sorted(tags(held)) == ["product_instance_uri", "serial"]
    renamed = evolved(loaded(tmp_path, [device("a2", serial="SN-1")]), held, [])
    assert len(renamed.devices) == 1 and renamed.device_rows()[0]["tags"] == held.device_rows()[0]["tags"]


def test_a_ledger_that_says_otherwise_later_is_another_machine(tmp_path: Path) -> None:
    config = loaded(tmp_path, [device("a")])
    held = evolved(config, None, [seen("a", serial="SN-77")])
    later = evolved(loaded(tmp_path, [device("a", serial="SN-78")]), held, [])
    assert [row["state"] for row in later.device_rows()] == ["gone", "alive"]
    assert later.device_rows()[1]["replaces"] == 0 and later.devices[1].read == {}


# Neighbours


def test_mac_addresses_of_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "arp"
    monkeypatch.setattr(system, "NEIGHBOURS", table)
    assert system.neighbours() == {}
    table.write_text(
        "IP address       HW type     Flags       HW address            Mask     Device\n"
        "192.0.2.10       0x1         0x2         AA:bb:cc:00:11:22     *        eth0\n"
        "192.0.2.11       0x1         0x0         00:00:00:00:00:00     *        eth0\n"
        "cut\n", encoding="ascii")
    assert system.neighbours() == {"192.0.2.10": "aa:bb:cc:00:11:22"}
